"""What the layouts of classification data have in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segal.tasks.classes import ClassNames
from segal.tasks.classification.pools import WholeImagePool


@dataclass(frozen=True, eq=False)
class Source:
    """Where the images of a split are, with their labels.

    Attributes:
        images: What the pool's paths are relative to.
        paths: Of all images, as the pool has them.
        labels: (n,) or (n, C) int32, by image; UNKNOWN where there is none.
        classes: The classes.
        open: Opens the images at some positions, given as (m,) int64 in rising order; takes the
            keywords of `segal.tasks.classification.pools.open_files`.
        other: Images of kinds that are not read.
    """

    images: Path
    paths: Sequence[str]
    labels: NDArray[np.int32]
    classes: ClassNames
    open: Callable[..., WholeImagePool]
    other: tuple[str, ...] = ()


class LayoutModule(Protocol):
    """What the module of a layout offers."""

    LAYOUT: str

    def found(self, root: Path) -> bool:
        """Whether a folder or a file looks like this layout."""
        ...

    def splits(self, root: Path) -> list[str]:
        """The splits that there are, sorted; none where the images are not split."""
        ...

    def several(self, root: Path) -> bool:
        """Whether labels are written in a column for each class, several an image."""
        ...

    def source(self, root: Path, split: str | None, multilabel: bool) -> Source:
        """A split, or all images where they are not split."""
        ...
