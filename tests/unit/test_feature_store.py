"""The store of what frozen layers give: what is found, what is not, and what it does when full."""

import errno
import os
import threading
import time

import pytest
import torch

from segal.data import feature_store
from segal.data.feature_store import FeatureStore, check_store, held_bytes
from segal.errors import SegalError

PART, OTHER = "a" * 64, "b" * 64


def key(number):
    """Keys are told apart by their first digits, as digests are."""
    return f"{number:02x}" * 32


def maps(seed=0, size=50):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(1, 3, 4, size, generator=generator),
        torch.randn(1, 7, generator=generator),
    ]


def files(store):
    return sorted(store.folder.glob("*/*.safetensors"))


def same(found, expected):
    return found is not None and all(map(torch.equal, found, expected))


def test_gives_back_the_bytes_that_were_put(tmp_path):
    store = FeatureStore(tmp_path / "store", 10**7)
    assert store.get(PART, key(1)) is None
    assert same(store.put(PART, key(1), maps(1)), maps(1))
    store.put(PART, key(2), maps(2))
    again = FeatureStore(tmp_path / "store", 10**7)
    assert same(again.get(PART, key(1)), maps(1))
    assert same(again.get(PART, key(2)), maps(2))
    assert check_store(tmp_path / "store").files == 2


def test_of_other_weights_or_another_image_nothing_is_found(tmp_path):
    store = FeatureStore(tmp_path / "store", 10**7)
    store.put(PART, key(1), maps(1))
    assert store.get(OTHER, key(1)) is None
    assert store.get(PART, key(2)) is None
    assert FeatureStore(tmp_path / "store", 10**7, "float16").get(PART, key(1)) is None
    # Not even where somebody renames a file: it says itself what it is of.
    path = files(store)[0]
    path.rename(path.with_name(f"{key(2)[:40]}.safetensors"))
    with pytest.raises(SegalError, match="not as they were written") as caught:
        check_store(store.folder)
    assert "another image" in caught.value.got
    assert store.get(PART, key(2)) is None
    assert "another image" in store.notes[0]
    store.put(PART, key(2), maps(2))
    assert same(store.get(PART, key(2)), maps(2))


def test_in_half_precision_all_see_the_rounded_numbers(tmp_path):
    store = FeatureStore(tmp_path / "store", 10**7, "float16")
    rounded = [one.half().float() for one in maps(1)]
    assert same(store.put(PART, key(1), maps(1)), rounded)
    assert same(store.get(PART, key(1)), rounded)
    with pytest.raises(SegalError, match="float16 does not hold"):
        store.put(PART, key(2), [torch.tensor([[1e5]])])


def test_what_is_used_least_lately_goes_first(tmp_path):
    store = FeatureStore(tmp_path / "store", 10**7)
    store.put(PART, key(0), maps(0))
    size = files(store)[0].stat().st_size
    store = FeatureStore(tmp_path / "store", 4 * size + size // 2)
    for number in range(1, 4):
        store.put(PART, key(number), maps(number))
    for age, number in enumerate((2, 0, 3, 1)):  # in the order of their use
        path = store.folder / f"{PART[:32]}-float32" / f"{key(number)[:40]}.safetensors"
        os.utime(path, (10**9 + age, 10**9 + age))
    assert same(store.get(PART, key(2)), maps(2))  # used now
    store.put(PART, key(4), maps(4))
    left = [number for number in range(5) if store.get(PART, key(number)) is not None]
    assert left == [1, 2, 3, 4]
    for number in range(5, 30):
        store.put(PART, key(number), maps(number))
        assert sum(path.stat().st_size for path in files(store)) <= store.limit


def test_what_a_store_holds_is_told_without_opening_it(tmp_path):
    assert held_bytes(tmp_path / "store") == 0
    assert not (tmp_path / "store").exists()
    store = FeatureStore(tmp_path / "store", 10**7)
    store.put(PART, key(1), maps(1))
    assert held_bytes(tmp_path / "store") == store.contents().bytes > 0


def test_an_image_larger_than_the_store(tmp_path, capsys):
    store = FeatureStore(tmp_path / "store", 100)
    assert same(store.put(PART, key(1), maps(1)), maps(1))
    store.put(PART, key(2), maps(2))
    assert not files(store)
    assert len(store.notes) == 1
    assert "its limit is 100 bytes" in store.notes[0]


def test_a_full_disk_is_told_of_once_and_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    store = FeatureStore(tmp_path / "store", 10**7)
    store.put(PART, key(1), maps(1))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(feature_store, "sync", full)
    for number in (2, 3):
        assert same(store.put(PART, key(number), maps(number)), maps(number))
    assert capsys.readouterr().err.count("No space left on device") == 1
    assert [path.name for path in (store.folder / f"{PART[:32]}-float32").iterdir()] == [
        f"{key(1)[:40]}.safetensors"
    ]
    assert same(store.get(PART, key(1)), maps(1))


def test_a_store_that_cannot_be_written_is_read(tmp_path, monkeypatch, capsys):
    """As another user's, or one on a disk that is mounted to be read."""
    FeatureStore(tmp_path / "store", 10**7).put(PART, key(1), maps(1))

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(feature_store.os, "utime", refused)
    monkeypatch.setattr(FeatureStore, "_locked", refused)
    store = FeatureStore(tmp_path / "store", 10**7)
    assert same(store.get(PART, key(1)), maps(1))
    assert same(store.put(PART, key(2), maps(2)), maps(2))
    assert "takes nothing more (Read-only file system)" in capsys.readouterr().err
    with pytest.raises(SegalError) as caught:
        FeatureStore(tmp_path / "new", 10**7)
    assert str(caught.value.problem).startswith("store.folder: ")
    assert "leave the store out" in caught.value.remedy


def test_a_damaged_file_is_made_again(tmp_path):
    store = FeatureStore(tmp_path / "store", 10**7)
    store.put(PART, key(1), maps(1))
    path = files(store)[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SegalError, match="1 files of the store"):
        check_store(store.folder)
    assert store.get(PART, key(1)) is None
    store.put(PART, key(1), maps(1))
    assert same(store.get(PART, key(1)), maps(1))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(SegalError) as caught:
        check_store(store.folder)
    assert "its numbers have changed" in caught.value.got


def test_many_may_fill_it_at_once(tmp_path):
    """Each with a store of its own on the folder, as processes have; locks are of open files."""
    size = 20_000
    failed = []

    def work(seed):
        store = FeatureStore(tmp_path / "store", size)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(seed)).tolist()
        for number in order:
            found = store.get(PART, key(number)) or store.put(PART, key(number), maps(number))
            if not same(found, maps(number)):
                failed.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert 0 < check_store(tmp_path / "store").bytes <= size


def test_what_a_killed_process_began_goes_in_the_end(tmp_path):
    store = FeatureStore(tmp_path / "store", 10**7)
    store.put(PART, key(1), maps(1))
    begun = files(store)[0].with_name(".left.tmp")
    begun.write_bytes(b"x")
    assert store.contents().files == 1
    assert begun.exists()  # its writer may be at work
    os.utime(begun, (time.time() - 10**5,) * 2)
    store.contents()
    assert not begun.exists()


@pytest.mark.parametrize("content", [b"{}", b"no json", b'{"segal": "feature store"}'])
def test_another_folder_is_no_store(tmp_path, content):
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(SegalError, match="is not a store") as caught:
        FeatureStore(tmp_path, 10**7)
    assert "file.txt" in caught.value.got
    (tmp_path / "segal-store.json").write_bytes(content)
    with pytest.raises(SegalError, match="is not a store"):
        FeatureStore(tmp_path, 10**7)


def test_forgets_an_image_whatever_it_went_through(tmp_path):
    store = FeatureStore(tmp_path / "store", 10**7)
    half = FeatureStore(tmp_path / "store", 10**7, "float16")
    for one, part in ((store, PART), (store, OTHER), (half, PART)):
        one.put(part, key(1), maps(1))
        one.put(part, key(2), maps(2))
    assert store.forget([key(1), key(3)]) == 3
    assert store.get(PART, key(1)) is None and half.get(PART, key(1)) is None
    assert same(store.get(PART, key(2)), maps(2)) and check_store(store.folder).files == 3
