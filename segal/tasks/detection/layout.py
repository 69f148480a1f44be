"""What the layouts of detection data have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segal.data.changes import listed
from segal.errors import SegalError
from segal.registry import nearest
from segal.tasks.classes import ClassNames

SPLIT_FOLDERS = ("test", "train", "val", "valid", "validation")


@dataclass(frozen=True)
class Finding:
    """What is not as a user may think it, in labels that can be used.

    Attributes:
        kind: What it is one of, such as `boxes without area`.
        fate: What is done about it, such as `left out`.
        path: The image, as the pool has it; None where there is none.
        text: Where, and which.
    """

    kind: str
    fate: str
    path: str | None
    text: str


def told(place: str, findings: Sequence[Finding]) -> list[str]:
    """A note for each kind of finding: how many, and the first of them."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        kinds.setdefault((finding.kind, finding.fate), []).append(finding.text)
    return [
        f"{place}: {kind}, {fate}: {len(texts)} ({listed(texts)})"
        for (kind, fate), texts in kinds.items()
    ]


Row = tuple[Sequence[float], int, bool]
"""A box: x0, y0, x1, y1, its class, and whether it is a crowd."""


@dataclass(frozen=True, eq=False)
class Written:
    """The boxes of an image as they are written.

    Attributes:
        boxes: (n, 4) float64, x0, y0, x1, y1.
        classes: (n,) int64.
        crowd: (n,) bool.
        size: (height, width) of the image that the label says; None where it says none.
        relative: Whether boxes are shares of the image's sides, not pixels.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    size: tuple[int, int] | None = None
    relative: bool = False

    @classmethod
    def of(
        cls,
        rows: Sequence[Row],
        size: tuple[int, int] | None = None,
        *,
        relative: bool = False,
    ) -> "Written":
        """Of the rows of a file."""
        return cls(
            np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4),
            np.array([number for _, number, _ in rows], np.int64),
            np.array([crowd for _, _, crowd in rows], np.bool_),
            size,
            relative,
        )


@dataclass
class Labels:
    """What was read of the labels of some images.

    Attributes:
        written: By the image's path; without those that have no label.
        findings: What a user should know of them.
        errors: What is wrong with them.
    """

    written: dict[str, Written] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    errors: list[SegalError] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Source:
    """Where the images of a split are, with their labels.

    Attributes:
        images: What the pool's paths are relative to.
        paths: Of all images, as the pool has them, bytewise sorted.
        classes: The classes.
        read: Gives the labels of some images by their paths.
        findings: What a user should know of the split, whichever images are read.
        unlabelled_are_negative: Whether an image without a label is known to show no object.
    """

    images: Path
    paths: Sequence[str]
    classes: ClassNames
    read: Callable[[Sequence[str]], Labels]
    findings: tuple[Finding, ...] = ()
    unlabelled_are_negative: bool = False


class LayoutModule(Protocol):
    """What the module of a layout offers."""

    LAYOUT: str

    def found(self, root: Path) -> bool:
        """Whether a folder or a file looks like this layout."""
        ...

    def splits(self, root: Path) -> list[str]:
        """The splits that there are, sorted; none where the images are not split."""
        ...

    def source(self, root: Path, split: str | None) -> Source:
        """A split, or all images where they are not split."""
        ...


def in_order(paths: Sequence[str]) -> list[str]:
    """Paths as a pool orders them, whatever the order of a list."""
    return sorted(paths, key=lambda path: path.encode(errors="surrogateescape"))


def number_of(text: str) -> float:
    """A number as it is written; NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return float("nan")


def unknown_class(place: str, name: str, names: Sequence[str]) -> SegalError:
    """The error for a class that the data set does not have."""
    close = nearest(name, list(names))
    return SegalError(
        f"{place}: a class that is not listed",
        expected=", ".join(names[:20]) + (", ..." if len(names) > 20 else ""),
        got=repr(name[:100]),
        remedy=(f"write {close}, or " if close else "") + "add it to the list of classes",
    )
