"""What the layouts of data sets on disk have in common: classes, and where a split's files are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

IGNORE_INDEX = 255

# The hues of Okabe and Ito (Color Universal Design, 2008), which colour-blind readers can tell
# apart; without black.
_HUES = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that a network learns, and how the values in label files map to them.

    Attributes:
        names: Name of each of the C classes.
        palette: (C, 3) uint8, RGB.
        lookup: (256,) uint8: the class of each value in a label file, or 255 where it is ignored.
        legal: (256,) bool: the values that may occur in a label file.
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]
    lookup: NDArray[np.uint8]
    legal: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.names)

    def illegal(self, values: NDArray[np.uint8]) -> dict[int, int]:
        """The values of a label file, (H, W) uint8, that may not occur, each with its count."""
        if not cv2.LUT(values, (~self.legal).astype(np.uint8)).any():
            return {}
        counts = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts * ~self.legal)}

    def map(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class of each pixel, 0 to C - 1, or 255 where it is ignored: (H, W) uint8."""
        return np.asarray(cv2.LUT(values, self.lookup))


@dataclass(frozen=True)
class Source:
    """Where the files of one split are.

    Attributes:
        images: The folder that the pool's paths are relative to.
        paths: The split's images below it, or None for all.
        label_of: Path of the label of an image, given the image's path below `images`.
        classes: The classes.
    """

    images: Path
    paths: tuple[str, ...] | None
    label_of: Callable[[str], Path]
    classes: Classes


class LayoutModule(Protocol):
    """What the module of a layout offers."""

    LAYOUT: str

    def found(self, root: Path) -> bool:
        """Whether a folder looks like this layout."""
        ...

    def splits(self, root: Path) -> list[str]:
        """The splits that there are, sorted."""
        ...

    def source(self, root: Path, split: str, ignore_index: int | None = None) -> Source:
        """Where a split is; SegalError where it is not as it should be."""
        ...


def make_classes(
    indexed: Sequence[tuple[int, str]],
    ignored: Sequence[int] = (IGNORE_INDEX,),
    palette: NDArray[np.uint8] | None = None,
) -> Classes:
    """Classes of which the values in label files are known.

    Args:
        indexed: (value, name) of each class, in the order in which the network has them.
        ignored: Other values that may occur.
        palette: (C, 3) uint8; `distinct_colours` by default.
    """
    lookup = np.full(256, IGNORE_INDEX, np.uint8)
    legal = np.zeros(256, np.bool_)
    values = [value for value, _ in indexed]
    lookup[values] = np.arange(len(values), dtype=np.uint8)
    legal[[*values, *ignored]] = True
    colours = distinct_colours(len(values)) if palette is None else palette
    return Classes(tuple(name for _, name in indexed), colours, lookup, legal)


def distinct_colours(count: int) -> NDArray[np.uint8]:
    """A fixed palette: seven hues that colour-blind readers can tell apart, then paler and darker.

    Args:
        count: Number of colours, 255 at most; the first ones are the same whatever the count.

    Returns:
        (count, 3) uint8, RGB; no colour occurs twice, none is black.
    """
    colours = []
    for index in range(count):
        hue, turn = index % len(_HUES), index // len(_HUES)
        target = 255 if turn % 2 else 0
        amount = 0.5 * ((turn + 1) // 2 * 0.618 % 1) + 0.25 * (turn > 0)
        colours.append([round(c + (target - c) * amount) for c in _HUES[hue]])
    return np.array(colours, np.uint8).reshape(-1, 3)
