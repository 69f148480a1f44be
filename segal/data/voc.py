"""The layout of PASCAL VOC, and its 21 classes; other data sets of this layout bring their own.

    JPEGImages/NAME.jpg
    SegmentationClass/NAME.png             0 to 20, and 255, which is void
    ImageSets/Segmentation/<split>.txt     a name on each line

Classes are those of `classes.txt` where there is one, or else of `labelmap.txt` as CVAT and
datumaro write it (`NAME:RED,GREEN,BLUE::`), which makes the labels pictures of these colours.

Source: Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.data.class_list import read_classes
from segal.data.label_files import label_finder
from segal.data.layout import Classes, LabelOptions, Source, make_classes
from segal.data.split_list import listed_images
from segal.functional.labels import IGNORE_INDEX

LAYOUT = """\
JPEGImages/NAME.jpg
SegmentationClass/NAME.png
ImageSets/Segmentation/<split>.txt"""
NAMES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)

_LISTS = Path("ImageSets", "Segmentation")


def found(root: Path) -> bool:
    """Whether a folder looks like this layout."""
    return (root / "JPEGImages").is_dir() and (root / "SegmentationClass").is_dir()


def splits(root: Path) -> list[str]:
    """The splits that there are lists of, sorted."""
    return sorted(file.stem for file in (root / _LISTS).glob("*.txt"))


def source(root: Path, split: str, options: LabelOptions) -> Source:
    """Where a split is.

    Raises:
        SegalError: If the list of the split or of the classes cannot be read.
    """
    images = root / "JPEGImages"
    return Source(
        images,
        listed_images(root / _LISTS / f"{split}.txt", images),
        label_finder(root / "SegmentationClass", options.suffix),
        _classes(root, options),
    )


def _classes(root: Path, options: LabelOptions) -> Classes:
    for name in ("classes.txt", "labelmap.txt"):
        if (root / name).is_file():
            return read_classes(root / name, options)
    ignored = options.ignored | {IGNORE_INDEX}
    kept = [(i, name) for i, name in enumerate(NAMES) if i not in ignored]
    return make_classes(kept, ignored, palette(256)[[i for i, _ in kept]])


def palette(count: int) -> NDArray[np.uint8]:
    """The colours of VOC's label files, (count, 3) uint8, RGB: the bits of a value, spread."""
    values, colours = np.arange(count), np.zeros((count, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((values >> (3 * bit + channel) & 1) << (7 - bit)).astype(
                np.uint8
            )
    return colours
