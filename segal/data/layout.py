"""What the layouts of data sets on disk have in common: classes, and where a split's files are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX
from segal.system.files import is_there

MAX_CLASSES = 255
"""Classes are 0 to 254 in labels of 8 bits, of which 255 is void."""

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


@dataclass(frozen=True)
class LabelOptions:
    """What a user says of how labels are to be read.

    Attributes:
        ignore_index: A value of the files that no class stands for, beside 255; None for no other.
        reduce_zero_label: 0 stands for no class, and names without a value count from 1.
        suffix: What follows an image's name in its label's, such as `_mask`; the extension may be
            left out. None for what the layout has.
    """

    ignore_index: int | None = None
    reduce_zero_label: bool = False
    suffix: str | None = None

    @property
    def ignored(self) -> set[int]:
        """The values that the user says are void."""
        given = set() if self.ignore_index is None else {self.ignore_index}
        return given | ({0} if self.reduce_zero_label else set())


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that a network learns, and how the values in label files map to them.

    Attributes:
        names: Name of each of the C classes.
        palette: (C, 3) uint8, RGB.
        lookup: (256,) uint8: the class of each value in a label file, or 255 where it is ignored.
        legal: (256,) bool: the values that may occur in a label file.
        colours: (L, 3) uint8, RGB: the colour that stands for each of the values 0 to L - 1 where
            label files hold colours; None where they hold the values themselves.
        void_is_assumed: Whether 255 is void although nobody said so.
        notes: What a user should know of how label files are read.
    """

    names: tuple[str, ...]
    palette: NDArray[np.uint8]
    lookup: NDArray[np.uint8]
    legal: NDArray[np.bool_]
    colours: NDArray[np.uint8] | None = None
    void_is_assumed: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _values_of_colours(self) -> NDArray[np.uint8]:
        """The value of each of the 2**24 colours; 255 for one that is not listed."""
        assert self.colours is not None
        table = np.full(1 << 24, IGNORE_INDEX, np.uint8)
        table[packed(self.colours)] = np.arange(len(self.colours), dtype=np.uint8)
        return table

    def decode(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The value of each pixel of a label of colours.

        Args:
            pixels: (H, W, 3) uint8, RGB.

        Returns:
            (H, W) uint8; 255, which is then not legal, where the colour is not listed.
        """
        return self._values_of_colours[packed(pixels)]

    def illegal(self, values: NDArray[np.uint8]) -> dict[int, int]:
        """The values of a label file, (H, W) uint8, that may not occur, each with its count."""
        if not cv2.LUT(values, (~self.legal).astype(np.uint8)).any():
            return {}
        counts = np.bincount(values.ravel(), minlength=256)
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts * ~self.legal)}

    def map(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The class of each pixel, 0 to C - 1, or 255 where it is ignored: (H, W) uint8."""
        return np.asarray(cv2.LUT(values, self.lookup))

    def counts(self, values: NDArray[np.int64]) -> NDArray[np.int64]:
        """Pixels of each class, (C,), given the pixels of each value, (256,)."""
        per_class = np.zeros(256, np.int64)
        np.add.at(per_class, self.lookup, values)
        return per_class[: len(self)]


def value_counts(values: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each value, (256,), of a uint8 array; several times faster than bincount."""
    flat, counts = values.ravel(), np.zeros(256, np.int64)
    step = 1 << 24  # float32 counts no further exactly
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        counts += cv2.calcHist([part], [0], None, [256], [0, 256])[:, 0].astype(np.int64)
    return counts


def packed(colours: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours (..., 3), RGB, as numbers from 0 to 2**24 - 1."""
    red, green, blue = (colours[..., i].astype(np.int32) for i in range(3))
    return red << 16 | green << 8 | blue


@dataclass(frozen=True)
class Source:
    """Where the files of one split are.

    Attributes:
        images: The folder that the pool's paths are relative to.
        paths: The split's images below it, or None for all; of a list, also those that are missing.
        label_of: Path of the label of an image, given the image's path below `images`.
        classes: The classes.
        other: Where `paths` are given, the split's images of kinds that are not read.
    """

    images: Path
    paths: tuple[str, ...] | None
    label_of: Callable[[str], Path]
    classes: Classes
    other: tuple[str, ...] = ()


class LayoutModule(Protocol):
    """What the module of a layout offers."""

    LAYOUT: str

    def found(self, root: Path) -> bool:
        """Whether a folder looks like this layout."""
        ...

    def splits(self, root: Path) -> list[str]:
        """The splits that there are, sorted."""
        ...

    def source(self, root: Path, split: str, options: LabelOptions) -> Source:
        """Where a split is; SegalError where it is not as it should be."""
        ...


def make_classes(
    indexed: Sequence[tuple[int, str]],
    ignored: Iterable[int] = (IGNORE_INDEX,),
    palette: NDArray[np.uint8] | None = None,
    *,
    notes: tuple[str, ...] = (),
) -> Classes:
    """Classes of which the values in label files are known.

    Args:
        indexed: (value, name) of each class, in the order in which the network has them.
        ignored: Other values that may occur.
        palette: (C, 3) uint8; `distinct_colours` by default.
        notes: As in `Classes`.
    """
    lookup = np.full(256, IGNORE_INDEX, np.uint8)
    legal = np.zeros(256, np.bool_)
    values = [value for value, _ in indexed]
    lookup[values] = np.arange(len(values), dtype=np.uint8)
    legal[[*values, *ignored]] = True
    colours = distinct_colours(len(values)) if palette is None else palette
    return Classes(tuple(name for _, name in indexed), colours, lookup, legal, notes=notes)


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


def known_layout(text: str, names: Iterable[str]) -> str:
    """The name of a layout, or auto.

    Args:
        text: It.
        names: Those that there are, beside `auto`.

    Raises:
        SegalError: For any other text.
    """
    there = ("auto", *names)
    if text not in there:
        raise SegalError(
            "layout: not valid",
            expected=f"one of {', '.join(there)}",
            got=repr(text),
            remedy="leave it out to tell by what is there",
        )
    return text


def indented(text: str) -> str:
    """A picture of a layout, as messages show it."""
    return "      " + text.replace("\n", "\n      ")


def no_single_layout(
    root: Path, found: Sequence[str], drawings: Mapping[str, str], what: str
) -> SegalError:
    """The error for a folder that has no layout that is known, or more than one.

    Args:
        root: The folder.
        found: Names of the layouts that it has.
        drawings: Those to show, by name.
        what: What is looked for.
    """
    shown = "\n".join(f"    {name}:\n{indented(drawing)}" for name, drawing in drawings.items())
    if found:
        return SegalError(
            f"{root}: this folder has more than one layout",
            expected=f"one of\n{shown}",
            got=" and ".join(found),
            remedy=f"choose it with layout: {found[0]} (or {found[1]})",
        )
    entries = sorted(p.name for p in root.glob("*"))[:10] if root.is_dir() else []
    return SegalError(
        f"{root}: no {what} of a known layout",
        expected=f"\n{shown}",
        got=", ".join(entries)
        or ("an empty folder" if root.is_dir() else "a file" if is_there(root) else "nothing"),
        remedy="check the path, or arrange the files as shown",
    )
