from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segal.data import cityscapes
from segal.data.class_list import read_classes
from segal.data.datasets import IGNORE_INDEX, LabelledDataset, open_dataset, splits
from segal.data.folder import split_of
from segal.data.layout import LabelOptions, distinct_colours
from segal.errors import SegalError, SegalErrors

SIZE = (18, 24)


def label(seed: int, values: int = 3, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, values, size, dtype=np.uint8)


def write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_folder(root: Path, classes: str = "sky\nroad\ncar\n", values: int = 3) -> Path:
    for split, count in (("train", 3), ("val", 1)):
        for i in range(count):
            write(root / "images" / split / "d" / f"{i}.jpg", np.zeros((*SIZE, 3), np.uint8))
            write(root / "labels" / split / "d" / f"{i}.png", label(i, values))
    (root / "classes.txt").write_text(classes)
    return root


def make_cityscapes(root: Path) -> Path:
    for i in range(2):
        stem = f"train/ulm/ulm_{i:06d}_000019"
        write(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", np.zeros((*SIZE, 3), np.uint8))
        write(root / "gtFine" / f"{stem}_gtFine_labelIds.png", label(i, 34))
        write(root / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", label(i, 19))
    return root


def message(root: Path, split: str = "train", **options: object) -> str:
    with pytest.raises(SegalError) as caught:
        open_dataset(root, split, **options)  # type: ignore[arg-type]
    return str(caught.value)


def test_folder_layout(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path), "train")
    assert splits(tmp_path) == ["train", "val"]
    assert data.pool.root == tmp_path / "images" / "train"
    assert data.pool.paths == ("d/0.jpg", "d/1.jpg", "d/2.jpg")
    assert len(data) == 3
    assert data.classes.names == ("sky", "road", "car")
    for i in range(3):
        got = data.read_label(i)
        assert got.dtype == np.uint8
        assert np.array_equal(got, label(i))
    part = data.subset([2, 0])
    assert part.pool.paths == ("d/2.jpg", "d/0.jpg")
    assert np.array_equal(part.read_label(0), label(2))
    seen: list[tuple[int, int]] = []
    data.check(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_pool_knows_no_labels(tmp_path: Path) -> None:
    pool = open_dataset(make_folder(tmp_path), "train").pool
    assert str(tmp_path / "labels") not in repr(pool)
    assert str(tmp_path / "images") in repr(pool)


def test_an_ignored_class_is_dropped_and_the_rest_reindexed(tmp_path: Path) -> None:
    root = make_folder(tmp_path, "0 sky\n1 void\n2 road\n3 car\n", values=4)
    write(root / "labels" / "train" / "d" / "0.png", np.where(label(0) == 2, 255, label(0) % 2))
    data = open_dataset(root, "train", ignore_index=1)
    assert data.classes.names == ("sky", "road", "car")
    assert len(data.classes.palette) == 3
    table = np.array([0, 255, 1, 2], np.uint8)
    assert np.array_equal(data.read_label(1), table[label(1, 4)])
    assert np.array_equal(data.read_label(0), np.where(label(0) == 0, 0, IGNORE_INDEX))


def test_an_ignored_value_without_a_line_is_legal(tmp_path: Path) -> None:
    root = make_folder(tmp_path, values=4)
    with pytest.raises(SegalError, match="outside the classes"):
        open_dataset(root, "train").check()
    data = open_dataset(root, "train", ignore_index=3)
    expected = label(0, 4)
    assert np.array_equal(data.read_label(0), np.where(expected == 3, IGNORE_INDEX, expected))


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("sky\ntraffic light\n\n# more\ncar", ("sky", "traffic light", "car"), [0, 1, 2]),
        ("\ufeff0 sky\r\n1 traffic light\r\n7 car\r\n", ("sky", "traffic light", "car"), [0, 1, 7]),
        ("7: car\n0: sky\n255: void\n", ("sky", "car"), [0, 7]),
        ("0 sky 1 2 3\n1 car, 40,50,60\n", ("sky", "car"), [0, 1]),
    ],
)
def test_forms_of_classes_txt(
    tmp_path: Path, text: str, names: tuple[str, ...], values: list[int]
) -> None:
    (tmp_path / "classes.txt").write_text(text, encoding="utf-8")
    classes = read_classes(tmp_path / "classes.txt", LabelOptions())
    assert classes.names == names
    assert np.flatnonzero(classes.legal).tolist() == [*values, 255]
    assert classes.lookup[values].tolist() == list(range(len(names)))
    assert set(np.delete(classes.lookup, values).tolist()) == {255}
    if "40" in text:
        assert classes.palette.tolist() == [[1, 2, 3], [40, 50, 60]]
    else:
        assert np.array_equal(classes.palette, distinct_colours(len(names)))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "no class is left"),
        ("sky\n1 road\n", "some lines give a value"),
        ("sky\nroad\nsky\n", "'sky' occurs twice"),
        ("1 sky\n1 road\n", "1 occurs twice"),
        ("256 sky\n", "too large"),
        ("0 sky 1 2 300\n", "too large"),
        ("1 sky\n", "no class is left"),
    ],
)
def test_wrong_classes_txt(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(SegalError, match=found):
        read_classes(tmp_path / "classes.txt", LabelOptions(ignore_index=1))


def test_classes_txt_missing_or_binary(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    (root / "classes.txt").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in message(root)
    (root / "classes.txt").unlink()
    assert "classes.txt" in message(root)
    assert "ignore index" in message(make_folder(tmp_path), ignore_index=300)


def test_a_seeded_split_is_stable(tmp_path: Path) -> None:
    paths = [f"frame_{i:05d}.jpg" for i in range(4000)]
    shares = np.array([[split_of(p) == s for s in ("train", "val", "test")] for p in paths])
    assert np.abs(shares.mean(0) - (0.7, 0.15, 0.15)).max() < 0.02
    # A change of these would silently mix what was trained on with what is reported.
    got = [split_of(f"{i}.png") for i in range(8)]
    assert got == ["train", "train", "train", "val", "train", "test", "train", "train"]

    for i in range(8):
        write(tmp_path / "images" / f"{i}.png", np.zeros((*SIZE, 3), np.uint8))
        write(tmp_path / "labels" / f"{i}.png", label(i))
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert splits(tmp_path) == ["test", "train", "val"]
    for split in ("train", "val", "test"):
        data = open_dataset(tmp_path, split)
        assert data.pool.paths == tuple(f"{i}.png" for i in range(8) if got[i] == split)
        index = int(data.pool.paths[0].removesuffix(".png"))
        assert np.array_equal(data.read_label(0), label(index))
    (tmp_path / "images" / "3.png").unlink()
    assert "holds no image" in message(tmp_path, "val")


def test_cityscapes_layout(tmp_path: Path) -> None:
    data = open_dataset(make_cityscapes(tmp_path), "train")
    assert splits(tmp_path) == ["train"]
    assert data.pool.root == tmp_path / "leftImg8bit" / "train"
    assert data.pool.paths[0] == "ulm/ulm_000000_000019_leftImg8bit.png"
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    expected = np.array([ids.index(v) if v in ids else 255 for v in range(256)])
    assert np.array_equal(data.read_label(1), expected[label(1, 34)])
    assert np.flatnonzero(data.classes.legal).tolist() == [*range(34), 255]


def test_cityscapes_classes() -> None:
    classes = cityscapes.classes()
    assert len(classes) == 19
    assert classes.names[0] == "road"
    assert classes.names[18] == "bicycle"
    assert classes.palette[classes.names.index("sky")].tolist() == [70, 130, 180]
    assert len({tuple(colour) for colour in classes.palette.tolist()}) == 19


def test_cityscapes_mistakes(tmp_path: Path) -> None:
    root = make_cityscapes(tmp_path)
    assert "cannot be chosen" in message(root, ignore_index=11)
    write(root / "leftImg8bit" / "train" / "ulm" / "odd.png", np.zeros((*SIZE, 3), np.uint8))
    assert "_leftImg8bit.png" in message(root)


def test_unknown_layouts_show_both(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    text = message(tmp_path)
    assert all(word in text for word in ("leftImg8bit", "gtFine", "classes.txt", "pictures"))
    assert "nothing" in message(tmp_path / "missing")
    make_folder(tmp_path)
    make_cityscapes(tmp_path)
    assert "more than one layout" in message(tmp_path)
    assert len(open_dataset(tmp_path, "train", layout="cityscapes")) == 2
    assert len(open_dataset(tmp_path, "train", layout="folder")) == 3
    assert "no split 'test'" in message(tmp_path, "test", layout="folder")
    assert "one of train, val" in message(tmp_path, "../train", layout="folder")


def test_missing_labels_are_named_together(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    for i in (0, 2):
        (root / "labels" / "train" / "d" / f"{i}.png").unlink()
    text = message(root)
    assert "d/0.jpg" in text
    assert "d/2.jpg" in text
    assert "d/1.jpg" not in text
    assert str(root / "labels" / "train" / "d" / "2.png") in text


def test_a_label_outside_the_root_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "root")
    write(tmp_path / "secret.png", label(0))
    (root / "labels" / "train" / "d" / "1.png").unlink()
    (root / "labels" / "train" / "d" / "1.png").symlink_to(tmp_path / "secret.png")
    assert "leads out of" in message(root)


@pytest.mark.parametrize("link", ["images/train", "images"])
def test_images_outside_the_root_are_refused(tmp_path: Path, link: str) -> None:
    root = make_folder(tmp_path / "root")
    (root / link).rename(tmp_path / "elsewhere")
    (root / link).symlink_to(tmp_path / "elsewhere")
    text = message(root)
    assert f"{root / 'images' / 'train'}: this leads out of the folder" in text
    assert f"expected: files inside {root}\n" in text
    # A link that stays inside is followed.
    (root / link).unlink()
    (tmp_path / "elsewhere").rename(root / "store")
    (root / link).symlink_to(root / "store")
    assert len(open_dataset(root, "train")) == 3


def test_images_of_a_split_by_hash_outside_the_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for i in range(8):
        write(tmp_path / "elsewhere" / f"{i}.png", np.zeros((*SIZE, 3), np.uint8))
        write(root / "labels" / f"{i}.png", label(i))
    (root / "classes.txt").write_text("sky\nroad\ncar\n")
    (root / "images").symlink_to(tmp_path / "elsewhere")
    assert f"{root / 'images'}: this leads out of the folder" in message(root)


def spoil(data: LabelledDataset) -> None:
    write(data.label_paths[0], label(0, size=(18, 25)))
    wrong = label(1)
    wrong[0, :5], wrong[1, :2] = 77, 9
    write(data.label_paths[1], wrong)


def test_wrong_labels_name_both_files_and_the_values(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path), "train")
    spoil(data)
    with pytest.raises(SegalError) as size:
        data.read_label(0)
    for word in ("d/0.jpg", "d/0.png", "18 x 24", "18 x 25"):
        assert word in str(size.value)
    with pytest.raises(SegalError) as values:
        data.read_label(1)
    for word in ("d/1.jpg", "d/1.png", "9 (2 pixels), 77 (5 pixels)", "0-2, 255"):
        assert word in str(values.value)


def test_check_raises_all_mistakes_at_once(tmp_path: Path) -> None:
    data = open_dataset(make_folder(tmp_path), "train")
    data.check()
    spoil(data)
    with pytest.raises(SegalErrors) as caught:
        data.check()
    assert len(caught.value.errors) == 2
    data.check([2])


def test_digest_is_of_the_chosen_labels_and_the_classes(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "a")
    data = open_dataset(root, "train")
    every, some = data.digest(), data.digest([0, 2])
    assert len({every, some, data.digest([2]), open_dataset(root, "val").digest()}) == 4
    assert open_dataset(make_folder(tmp_path / "b"), "train").digest() == every
    write(data.label_paths[1], label(9))
    assert data.digest() != every
    assert data.digest([0, 2]) == some
    data.label_paths[1].unlink()
    assert data.digest([0, 2]) == some
    with pytest.raises(SegalError, match="cannot be read"):
        data.digest()
    for classes in ("sky\nroad\nbus\n", "1 sky\n0 road\n2 car\n", "2 car\n1 road\n"):
        (root / "classes.txt").write_text(classes)
        write(data.label_paths[1], label(1))
        assert open_dataset(root, "train").digest() != every


def test_unreadable_images_can_be_skipped(tmp_path: Path) -> None:
    root = make_folder(tmp_path)
    (root / "images" / "train" / "d" / "1.jpg").write_bytes(b"")
    assert "1.jpg" in message(root)
    data = open_dataset(root, "train", skip_unreadable=True)
    assert data.pool.paths == ("d/0.jpg", "d/2.jpg")
    assert np.array_equal(data.read_label(1), label(2))


def test_distinct_colours() -> None:
    colours = distinct_colours(255)
    assert colours.shape == (255, 3)
    assert len(np.unique(colours, axis=0)) == 255
    assert np.array_equal(distinct_colours(7), colours[:7])
    assert colours.sum(1, dtype=int).min() > 0
