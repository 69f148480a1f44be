"""Finds the label file of an image, whatever image format it has."""

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from segal.errors import SegalError
from segal.system.files import is_there

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
"""Formats that keep every value; JPEG does not."""


def label_finder(folder: Path, suffix: str | None = None) -> Callable[[str], Path]:
    """What finds the label of an image.

    Args:
        folder: Of the labels, laid out as the folder of images is.
        suffix: What follows the image's name in its label's, such as `_mask` or `_L.png`.

    Returns:
        A function from an image's path, relative to the folder of images, to its label's. Where
        there is `.png`, that is it; else the one file of `LABEL_SUFFIXES` in any case, and where
        there is none, the path that it should have. It raises a SegalError if there are several.
    """
    listed: dict[Path, dict[str, list[Path]]] = {}
    ending = suffix or ""
    whole = ending.lower().endswith(LABEL_SUFFIXES)

    def find(path: str) -> Path:
        image = PurePosixPath(path)
        stem = folder / image.parent / (image.name.rpartition(".")[0] + ending)
        plain = stem if whole else stem.with_name(stem.name + ".png")
        if whole or is_there(plain):
            return plain
        if stem.parent not in listed:
            listed[stem.parent] = _labels_of(stem.parent)
        found = listed[stem.parent].get(stem.name, [])
        if len(found) > 1:
            raise SegalError(
                f"{folder}: more than one label for {path}",
                expected=f"one of {plain.name} and the like",
                got=" and ".join(sorted(file.name for file in found)),
                remedy="remove or rename all but one",
            )
        return found[0] if found else plain

    return find


def _labels_of(folder: Path) -> dict[str, list[Path]]:
    """The label files of a folder by their names without the extension."""
    found: dict[str, list[Path]] = {}
    if is_there(folder) and folder.is_dir():
        for file in folder.iterdir():
            if file.name.lower().endswith(LABEL_SUFFIXES):
                found.setdefault(file.name.rpartition(".")[0], []).append(file)
    return found
