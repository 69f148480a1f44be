"""Pools of images that are classified: files, arrays, tables of features."""

import hashlib
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from segal.data.image_file import Reading
from segal.data.pool import open_pool as open_file_pool
from segal.errors import SegalError
from segal.jobs.copies import copies_notes
from segal.runs.ledger import Ledger
from segal.tasks.classification import arrays
from segal.tasks.classification.pools import ArrayPool, open_rows
from segal.tasks.classification.unlabelled import open_pool
from segal.tasks.splitting import refuse_shared


def pictures(count=5, shape=(8, 6, 3), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def features(count=7, width=4, dtype=np.float16, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(dtype)


def message(call, *args, **options):
    with pytest.raises(SegalError) as caught:
        call(*args, **options)
    return str(caught.value)


def write(path, value=0, size=(20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], (value, 1, 2)).save(path)
    return path


def test_files_are_one_element_whatever_their_pixels(tmp_path):
    for i in range(3):
        write(tmp_path / f"c/{i}.png", i, (20 + i, 30))
    pool, plain = open_pool(tmp_path), open_file_pool(tmp_path)
    assert [pool.size(i) for i in range(3)] == [(1, 1)] * 3
    assert [pool.shape(i) for i in range(3)] == [plain.size(i) for i in range(3)]
    assert [plain.shape(i) for i in range(3)] == [(20, 30), (21, 30), (22, 30)]
    assert (pool.paths, pool.infos, pool.stats) == (plain.paths, plain.infos, plain.stats)
    np.testing.assert_array_equal(pool.read(2), plain.read(2))
    several = replace(pool, elements=(4, 1)).subset([2, 0])
    assert several.size(0) == (4, 1) and several.shape(0) == (22, 30)
    write(tmp_path / "c/0.png", 0, (25, 30))
    assert "has changed" in message(pool.read, 0)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("layout", ["last", "first", "grey", "one"])
def test_arrays_of_pictures(tmp_path, save, layout):
    stored = pictures() if layout in ("last", "first") else pictures(shape=(8, 6, 1))
    saved = {"last": stored, "first": stored.transpose(0, 3, 1, 2), "grey": stored[..., 0]}
    save(tmp_path / "a.npz", x_train=saved.get(layout, stored), y_train=np.arange(5))
    pool = open_pool(tmp_path / "a.npz:x_train", workers=2)
    assert list(pool.paths) == [f"x_train/{i:06d}" for i in range(5)]
    assert pool.shape(0) == (8, 6) and pool.size(0) == (1, 1)
    assert isinstance(pool, ArrayPool) and not pool.holds_features
    for i in range(5):
        np.testing.assert_array_equal(pool.read(i), np.broadcast_to(stored[i], (8, 6, 3)))
        assert pool.infos[i].digest == hashlib.sha256(stored[i].tobytes()).hexdigest()
    part = pool.subset([3, 1])
    assert list(part.paths) == ["x_train/000003", "x_train/000001"]
    assert list(part.infos) == [pool.infos[3], pool.infos[1]] and len(part.stats) == 2
    np.testing.assert_array_equal(part.subset([1]).read(0), pool.read(1))
    assert open_pool(tmp_path / "a.npz").paths == pool.paths  # the only array of pictures


def test_stored_arrays_are_mapped_and_compressed_ones_are_bounded(tmp_path, monkeypatch):
    stored = pictures()
    np.savez(tmp_path / "a.npz", x=stored)
    np.savez_compressed(tmp_path / "b.npz", x=stored)
    assert isinstance(arrays.open_array(tmp_path / "a.npz", "x"), np.memmap)
    np.testing.assert_array_equal(arrays.open_array(tmp_path / "a.npz", "x"), stored)
    monkeypatch.setattr(arrays, "MAX_COMPRESSED", 100)
    assert "compressed" in message(arrays.open_array, tmp_path / "b.npz", "x")


def test_bands_of_arrays(tmp_path):
    stored = pictures(shape=(8, 6, 4))
    np.save(tmp_path / "a.npy", stored)
    np.testing.assert_array_equal(open_pool(tmp_path / "a.npy").read(1), stored[1, ..., :3])
    chosen = open_pool(tmp_path / "a.npy", reading=Reading(bands=(4, 1)))
    np.testing.assert_array_equal(chosen.read(1), stored[1][..., [3, 0]])
    assert chosen.infos[0].channels == 2
    everything = open_pool(tmp_path / "a.npy", reading=Reading(bands="all"))
    assert everything.infos[0].channels == everything.read(0).shape[2] == 4
    text = message(open_pool, tmp_path / "a.npy", reading=Reading(bands=(5,)))
    assert "there is no band 5" in text


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_features(tmp_path, dtype, order):
    stored = np.asarray(features(dtype=np.float32), dtype, order=order)
    np.save(tmp_path / "clip.npy", stored)
    pool = open_pool(tmp_path / "clip.npy")
    assert pool.root == tmp_path and pool.paths[6] == "clip/000006"
    assert pool.holds_features and pool.size(0) == pool.shape(0) == (1, 1)
    assert pool.infos[0].channels == 4 and pool.reading.channels is None
    for i in range(7):
        row = pool.read(i)
        assert row.dtype == np.float32 and row.shape == (1, 1, 4)
        np.testing.assert_array_equal(row[0, 0], stored[i].astype(np.float32))
        assert pool.infos[i].digest == hashlib.sha256(stored[i].tobytes()).hexdigest()


def test_blocks_and_workers_change_nothing(tmp_path, monkeypatch):
    np.save(tmp_path / "a.npy", features(33))
    whole, seen = open_pool(tmp_path / "a.npy"), []
    monkeypatch.setattr("segal.tasks.classification.pools._BLOCK_BYTES", 40)
    parts = open_pool(tmp_path / "a.npy", workers=3, progress=lambda *x: seen.append(x))
    assert list(whole.infos) == list(parts.infos)
    assert seen == [(min(5 * i, 33), 33) for i in range(1, 8)]
    some = open_rows(tmp_path / "a.npy", rows=np.array([3, 4, 20, 32]))
    assert list(some.infos) == [whole.infos[i] for i in (3, 4, 20, 32)]


def test_a_large_table_takes_little_memory(tmp_path):
    count = 60_000
    np.save(tmp_path / "a.npy", features(count, 2))
    tracemalloc.start()
    pool = open_pool(tmp_path / "a.npy")
    part = pool.subset(range(count))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(part) == count
    # A path, an info and a digest as objects would be 500 bytes a row.
    assert peak < 100 * count


def test_what_was_inspected_is_not_read_again(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", x=pictures())
    pool = open_pool(tmp_path / "a.npz")
    with Ledger.open(tmp_path / "run", "select", {}) as ledger:
        ledger.record_images(pool)
        known = ledger.known_images()
    monkeypatch.setattr(hashlib, "sha256", None)
    again = open_pool(tmp_path / "a.npz", known=known)
    assert list(again.infos) == list(pool.infos)
    assert (again.infos[0].height, again.infos[0].width) == (8, 6)
    monkeypatch.undo()
    np.savez(tmp_path / "a.npz", x=pictures(seed=1), more=1)
    assert open_pool(tmp_path / "a.npz", known=known).infos[0] != pool.infos[0]


def test_copies_are_found_and_shared_pictures_refused(tmp_path):
    stored = pictures(6)
    stored[4] = stored[1]
    np.save(tmp_path / "a.npy", stored)
    np.save(tmp_path / "b.npy", np.concatenate([pictures(2, seed=9), stored[4:5]]))
    one, two = open_pool(tmp_path / "a.npy"), open_pool(tmp_path / "b.npy")
    assert "1 image of 6 repeat others byte by byte (a/000004)" in copies_notes(one)[0]
    text = message(refuse_shared, {"train": one, "test": two})
    assert "the same pictures are in train and in test" in text
    assert "got: 1: a/000001 and b/000002" in text
    refuse_shared({"train": one, "test": two.subset([0, 1])})


def test_features_that_are_not_finite(tmp_path):
    stored = features(9, dtype=np.float64)
    stored[2, 1], stored[7, 0] = np.nan, 1e300
    np.save(tmp_path / "a.npy", stored)
    text = message(open_pool, tmp_path / "a.npy")
    assert "NaN or infinity in 2 of 9 rows: 2, 7" in text and "--skip-unreadable" in text
    pool = open_pool(tmp_path / "a.npy", skip_unreadable=True)
    assert pool.rows.tolist() == [0, 1, 3, 4, 5, 6, 8]
    assert pool.paths[2] == "a/000003" and len(pool.skipped) == 2
    np.testing.assert_array_equal(pool.read(2)[0, 0], stored[3].astype(np.float32))
    np.save(tmp_path / "a.npy", np.full((2, 3), np.inf))
    assert "2 of 2" in message(open_pool, tmp_path / "a.npy", skip_unreadable=True)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), ".astype(np.uint8)"),
        (np.zeros((3, 8, 8, 3), np.int64), "pictures of another dtype"),
        (np.zeros((3, 3072), np.uint8), "reshape rows of pixels"),
        (np.zeros((3, 10), np.int64), ".astype(np.float32)"),
        (np.zeros((3, 9, 8, 7), np.uint8), "more than 4 channels"),
        (np.zeros(3, np.float32), "neither pictures nor features"),
        (np.zeros((0, 8, 8, 3), np.uint8), "an array without values"),
        (np.zeros((3, 0), np.float32), "an array without values"),
        (np.array(1.0), "neither pictures nor features"),
        (np.array([["a", "b"]]), "neither pictures nor features"),
    ],
)
def test_arrays_of_wrong_shape_or_dtype(tmp_path, array, said):
    np.save(tmp_path / "a.npy", array)
    text = message(open_pool, tmp_path / "a.npy")
    assert said in text or array.ndim == 0
    assert f"got: {array.shape} of {array.dtype}" in text
    assert "expected: pictures (N, H, W, 3)" in text


def test_hostile_and_damaged_arrays(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}], object))
    assert "Python objects" in message(open_pool, tmp_path / "object.npy")
    np.save(tmp_path / "cut.npy", features(100))
    whole = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    assert "799 bytes for an array of 800" in message(open_pool, tmp_path / "cut.npy")
    (tmp_path / "cut.npy").write_bytes(whole[:20])
    assert "cannot be read" in message(open_pool, tmp_path / "cut.npy")
    huge = whole.replace(b"(100, 4)", b"(10**9,)").replace(b"(100, 4)", b"")
    (tmp_path / "huge.npy").write_bytes(huge)
    assert "cannot be read" in message(open_pool, tmp_path / "huge.npy")
    (tmp_path / "no.npz").write_bytes(b"PK no archive")
    assert "cannot be read" in message(open_pool, tmp_path / "no.npz")
    with zipfile.ZipFile(tmp_path / "lie.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", whole.replace(b"(100, 4)", b"(999, 4)"))
    assert "800 bytes for an array of 7992" in message(open_pool, tmp_path / "lie.npz:x")
    np.savez_compressed(tmp_path / "bad.npz", x=pictures(50))
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    data[600:700] = bytes(100)
    (tmp_path / "bad.npz").write_bytes(data)
    assert "cannot be read" in message(open_pool, tmp_path / "bad.npz:x")


def test_sources_that_are_no_pool(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pictures(), x_test=pictures(3), y=np.arange(3))
    text = message(open_pool, tmp_path / "a.npz")
    assert "expected: a.npz:ARRAY, of x_train, x_test" in text
    assert "cannot be read" in message(open_pool, tmp_path / "a.npz:x_val")
    (tmp_path / "a.md").write_text("x")
    assert "a .md file" in message(open_pool, tmp_path / "a.md")
    assert "no such folder" in message(open_pool, tmp_path / "missing")


def test_a_table_of_paths_is_a_pool(tmp_path):
    for name in ("b/1.png", "a/2.png", "a/3.png"):
        write(tmp_path / name)
    (tmp_path / "all.csv").write_text("path,split\nb/1.png,train\na/2.png,train\na/3.png,test\n")
    assert open_pool(tmp_path / "all.csv").paths == ("a/2.png", "a/3.png", "b/1.png")
    part = open_pool(tmp_path / "all.csv:train")
    assert part.root == tmp_path and part.paths == ("a/2.png", "b/1.png")
    assert "of test, train" in message(open_pool, tmp_path / "all.csv:val")
    (tmp_path / "bare.csv").write_text("b/1.png\na/3.png\n")
    assert open_pool(tmp_path / "bare.csv").paths == ("a/3.png", "b/1.png")


def test_one_unreadable_image_among_many(tmp_path):
    for i in range(40):
        write(tmp_path / f"{i:02d}.png", i)
    (tmp_path / "17.png").write_bytes((tmp_path / "17.png").read_bytes()[:40])
    text = message(open_pool, tmp_path)
    assert "1 of 40 images" in text and "17.png" in text and "--skip-unreadable" in text
    pool = open_pool(tmp_path, skip_unreadable=True)
    assert len(pool) == 39 and pool.size(38) == (1, 1) and "17.png" in pool.skipped[0]
