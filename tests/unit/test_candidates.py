"""The candidate table: what is written is read, row by row."""

import numpy as np
import pytest

from segal.candidates.table import CandidateTable, TableWriter, box_pixels
from segal.errors import SegalError


def write(folder, images=3, dtype="float32"):
    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 4, 3], [4, 0, 6, 3]], np.int32)
    measured = []
    with TableWriter(folder, [f"{i}.png" for i in range(images)], 2 * images, dtype) as writer:
        for image in range(images):
            rows = {"entropy": rng.random(2), "mean_feature": rng.random((2, 5))}
            writer.append([image], boxes, {name: column[None] for name, column in rows.items()})
            measured.append(rows)
    return measured


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_reads_what_was_written(tmp_path, dtype):
    measured = write(tmp_path / "table", dtype=dtype)
    table = CandidateTable.open(tmp_path / "table")
    assert table.image.tolist() == [0, 0, 1, 1, 2, 2]
    assert table.pixels.tolist() == [12, 6] * 3
    np.testing.assert_array_equal(
        table.values["entropy"], np.concatenate([m["entropy"] for m in measured])
    )
    expected = np.concatenate([m["mean_feature"] for m in measured]).astype(dtype)
    np.testing.assert_array_equal(table.embeddings["mean_feature"], expected)
    assert isinstance(table.embeddings["mean_feature"], np.memmap)
    assert np.load(tmp_path / "table" / "box.npy", allow_pickle=False).shape == (6, 4)


def test_views_of_views_show_the_right_rows_at_their_price(tmp_path):
    write(tmp_path / "table")
    table = CandidateTable.open(tmp_path / "table")
    view = table.view(np.array([1, 3, 4]), np.array([5, 6, 7])).view(
        np.array([0, 2]), np.array([1, 2])
    )
    assert len(view) == 2
    assert view.pixels.tolist() == [1, 2]
    assert view.image.tolist() == [0, 2]
    np.testing.assert_array_equal(
        view.embedding("mean_feature"), table.embedding("mean_feature")[[1, 4]]
    )
    view.embedding("mean_feature")[:] = 0  # a copy: the file stays as it is
    assert (table.embedding("mean_feature") != 0).all()


def test_too_many_or_too_few_rows_are_an_error(tmp_path):
    box = np.array([[0, 0, 4, 3]], np.int32)
    with (
        pytest.raises(ValueError, match="fewer rows"),
        TableWriter(tmp_path / "short", ["0.png"], 2) as writer,
    ):
        writer.append([0], box, {})
    with (
        pytest.raises(ValueError, match="more rows"),
        TableWriter(tmp_path / "long", ["0.png"], 1) as writer,
    ):
        writer.append([0], box, {})
        writer.append([0], box, {})


def test_what_half_precision_cannot_hold_is_refused(tmp_path):
    with (
        pytest.raises(SegalError, match=r"0\.png: mean_feature does not fit into float16"),
        TableWriter(tmp_path / "table", ["0.png"], 1, "float16") as writer,
    ):
        box = np.array([[0, 0, 4, 3]], np.int32)
        writer.append([0], box, {"mean_feature": np.array([[[7e4]]])})


@pytest.mark.parametrize("spoil", ["missing", "truncated", "pickle", "index"])
def test_a_damaged_table_is_one_clear_error(tmp_path, spoil):
    folder = tmp_path / "table"
    write(folder)
    column = folder / "value-entropy.npy"
    if spoil == "missing":
        column.unlink()
    elif spoil == "truncated":
        column.write_bytes(column.read_bytes()[:-8])
    elif spoil == "pickle":
        np.save(column, np.array([{}, {}], dtype=object), allow_pickle=True)
    else:
        (folder / "table.json").write_text("{")
    with pytest.raises(SegalError, match="not a candidate table"):
        CandidateTable.open(folder)


def test_areas_do_not_overflow():
    assert box_pixels(np.array([[0, 0, 10**5, 10**5]], np.int32)).tolist() == [10**10]


def test_rows_are_scaled_where_they_are_read(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((40, 6)).astype(np.float16)
    box = np.tile(np.array([[0, 0, 4, 4]], np.int32), (40, 1))
    with TableWriter(tmp_path / "table", ["a.png"], 40, "float16") as writer:
        writer.append([0], box, {"f": rows.astype(np.float64)[None]})
    shown = np.arange(1, 40, 3)
    view = CandidateTable.open(tmp_path / "table").view(shown, np.ones(len(shown), np.int64))
    scale = rng.random(len(shown)).astype(np.float32)
    stored = view.stored("f").scaled(scale)
    expected = view.embedding("f") * scale[:, None]
    assert stored.dtype == expected.dtype == np.float32
    assert stored.shape == expected.shape
    np.testing.assert_array_equal(stored[2:7], expected[2:7])
    np.testing.assert_array_equal(stored[np.array([5, 0])], expected[[5, 0]])


def test_images_that_share_boxes_go_in_together(tmp_path):
    rng = np.random.default_rng(0)
    box = np.array([[0, 0, 4, 3], [4, 0, 6, 3]], np.int32)
    values, embeddings = rng.random((3, 2)), rng.random((3, 2, 5))
    names = ["0.png", "1.png", "2.png"]
    with TableWriter(tmp_path / "one", names, 6) as writer:
        for image in range(3):
            own = {"e": values[image : image + 1], "f": embeddings[image : image + 1]}
            writer.append([image], box, own)
    with TableWriter(tmp_path / "all", names, 6) as writer:
        writer.append([0, 1, 2], box, {"e": values, "f": embeddings})
    files = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "all").iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "all" / file).read_bytes()


def test_of_images_together_the_one_that_does_not_fit_is_named(tmp_path):
    box, rows = np.array([[0, 0, 4, 3]], np.int32), np.array([[[1.0]], [[7e4]]])
    with (
        pytest.raises(SegalError, match=r"1\.png: f does not fit into float16"),
        TableWriter(tmp_path / "table", ["0.png", "1.png"], 2, "float16") as writer,
    ):
        writer.append([0, 1], box, {"f": rows})
