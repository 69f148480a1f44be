"""Labels of images that EXIF turns, and labels whose names are of another Unicode form."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segal.data.datasets import open_dataset
from segal.data.image_file import Reading
from segal.errors import SegalError
from segal.jobs.validate import validate_path


def data_set(root: Path, name: str, label: str, size: tuple[int, int], orientation: int) -> Path:
    """An image that is turned, and a label of (height, width) that is not."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for folder in ("images", "labels"):
        (root / folder / "train").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 24)).save(root / "images" / "train" / name, exif=exif)
    Image.fromarray(np.zeros(size, np.uint8)).save(root / "labels" / "train" / label)
    (root / "classes.txt").write_text("road\nsky\n")
    return root


def message(call: object, *args: object) -> str:
    with pytest.raises(SegalError) as caught:
        call(*args)  # type: ignore[operator]
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_a_label_that_is_not_turned_is_said_to_be_one(tmp_path: Path, suffix: str) -> None:
    root = data_set(tmp_path, f"a.{suffix}", "a.png", (24, 40), 6)
    text = message(open_dataset(root, "train").check)
    for words in ("before it is turned", "expected: 40 x 24", "got: 24 x 40", "orientation 6"):
        assert words in text
    assert "nearest neighbour" not in text
    Image.fromarray(np.zeros((40, 24), np.uint8)).save(root / "labels" / "train" / "a.png")
    open_dataset(root, "train").check()


def test_of_a_page_that_is_chosen_too(tmp_path: Path) -> None:
    root = data_set(tmp_path, "a.tif", "a.png", (24, 40), 6)
    with tifffile.TiffWriter(root / "images" / "train" / "a.tif") as file:
        for _ in range(2):
            pixels, tag = np.zeros((24, 40, 3), np.uint8), (0x0112, 3, 1, 6, True)
            file.write(pixels, photometric="rgb", metadata=None, extratags=[tag])
    text = message(open_dataset(root, "train", reading=Reading(page=1)).check)
    assert "before it is turned" in text


def test_another_wrong_size_is_not_taken_for_it(tmp_path: Path) -> None:
    upright = data_set(tmp_path / "a", "a.jpg", "a.png", (40, 24), 1)
    other = data_set(tmp_path / "b", "a.jpg", "a.png", (20, 40), 6)
    for root in (upright, other):
        text = message(open_dataset(root, "train").check)
        assert "turned" not in text
        assert "nearest neighbour" in text


def test_validate_counts_turned_images(tmp_path: Path) -> None:
    root = data_set(tmp_path, "a.jpg", "a.png", (24, 40), 3)
    data_set(tmp_path, "b.jpg", "b.png", (40, 24), 8)
    lines = "\n".join(validate_path(root, {}, 1))
    assert "2 images are turned or mirrored by EXIF" in lines
    assert "1 images are turned or mirrored by their EXIF orientation so that" in lines
    assert "a.jpg" in lines
    alone = "\n".join(validate_path(root / "images" / "train", {}, 1))
    assert "2 images are turned or mirrored by EXIF" in alone
    assert "labels" not in alone


def test_a_label_of_another_unicode_form(tmp_path: Path) -> None:
    root = data_set(tmp_path, "caf\u00e9.jpg", "cafe\u0301.png", (24, 40), 1)
    text = message(open_dataset, root, "train")
    assert "no label" in text
    assert "Unicode form only" in text
    assert r"'caf\xe9.png' and 'cafe\u0301.png'" in text
