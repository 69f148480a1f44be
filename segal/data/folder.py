"""The plain layout: folders of images and labels with the same names, and a list of classes.

    images/<split>/NAME.jpg    any format that is read; folders below <split> may be used
    labels/<split>/NAME.png    one channel, a class value for each pixel; or .tif, .bmp
    classes.txt                a line for each class, as `segal.data.class_list` says

Where classes.txt lists colours, labels are pictures in these colours. Labels may be in
`annotations/` or `masks/` instead of `labels/`.

Without official splits (images directly in `images/`, labels in `labels/`), a hash of the path
puts each image into train, val or test, at 70, 15 and 15 %. An image keeps its split whatever
other images come or go. Frames of one video are spread over the splits this way; folders are
better for them.
"""

import hashlib
from pathlib import Path

from segal.data.class_list import read_classes
from segal.data.find import SUFFIXES, find_files
from segal.data.label_files import label_finder
from segal.data.layout import LabelOptions, Source
from segal.errors import SegalError

LAYOUT = """\
images/<split>/NAME.jpg
labels/<split>/NAME.png (or annotations/, or masks/)
classes.txt"""

_LABELS = ("labels", "annotations", "masks")
_SEEDED = ("train", "val", "test")
_SHARES = (0.70, 0.85)  # cumulative


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    if not (root / "images").is_dir() or _holds_text(root / "labels"):
        return False
    tables = any(root.glob("*.csv"))  # of images that have labels as wholes, unless there are both
    return (root / "labels").is_dir() or not tables


def _holds_text(labels: Path) -> bool:
    """Whether labels are lists of boxes, as YOLO has them, and no images."""
    return any(any(labels.glob(pattern)) for pattern in ("*.txt", "*/*.txt"))


def splits(root: Path) -> list[str]:
    """The splits that there are, sorted; train, val and test where they are made by hash."""
    folder = root / "images"
    if _is_flat(folder):
        return sorted(_SEEDED)
    return sorted(p.name for p in folder.glob("*/") if not p.name.startswith("."))


def source(root: Path, split: str, options: LabelOptions) -> Source:
    """Where a split is.

    Args:
        root: The data set.
        split: One of `splits`.
        options: How labels are read.

    Raises:
        SegalError: If `classes.txt` is missing or wrong, or a split by hash holds no image.
    """
    classes = read_classes(root / "classes.txt", options)
    labels = root / next((name for name in _LABELS if (root / name).is_dir()), _LABELS[0])
    if not _is_flat(root / "images"):
        finder = label_finder(labels / split, options.suffix)
        return Source(root / "images" / split, None, finder, classes)
    paths, other = (
        tuple(path for path in found if split_of(path) == split)
        for found in find_files(root / "images")
    )
    if not paths:
        raise SegalError(
            f"{root}: the split {split!r} holds no image",
            expected="enough images for 70 % train, 15 % val, 15 % test",
            got=f"images directly in {root / 'images'}, of which none falls to {split}",
            remedy=f"make the folders images/{split} and {labels.name}/{split} yourself",
        )
    return Source(root / "images", paths, label_finder(labels, options.suffix), classes, other)


def split_of(path: str) -> str:
    """The split of an image where there are no official ones.

    Args:
        path: Relative to `images/`, with forward slashes.

    Returns:
        train (70 %), val or test (15 % each), decided by SHA-256 of the path.
    """
    digest = hashlib.sha256(path.encode()).digest()
    position = int.from_bytes(digest[:8]) / 2**64
    return _SEEDED[sum(position >= share for share in _SHARES)]


def _is_flat(images: Path) -> bool:
    return any(
        p.name.lower().endswith(SUFFIXES) and not p.name.startswith(".")
        for p in images.glob("*")
        if not p.is_dir()
    )
