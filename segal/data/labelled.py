"""What a labelled data set is, whatever its labels are."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.pool import ImagePool, Progress


@dataclass(frozen=True, eq=False)
class LabelCounts:
    """What labels hold.

    Attributes:
        pixels: (C,) int64, elements of each class.
        void: Elements without one.
        values: (256,) int64, elements of each value of label files; zeros where there are none.
        empty: Indices of images, with those boxes in which all is void.
        counted: What labels have, where that is not the elements of images.
        without: What those without a class are called.
    """

    pixels: NDArray[np.int64]
    void: int
    values: NDArray[np.int64]
    empty: Mapping[int, Sequence[Box]]
    counted: str | None = None
    without: str = "void"


class NamedClasses(Protocol):
    """The classes of a data set."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each of the C classes."""
        ...

    @property
    def palette(self) -> NDArray[np.uint8]:
        """(C, 3) RGB."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how labels are read."""
        ...


class LabelledDataset(ABC):
    """Images with labels. What scores the pool is given `pool`, which knows nothing of the labels.

    Attributes:
        pool: The images.
        classes: The classes.
    """

    pool: ImagePool
    classes: NamedClasses

    def __len__(self) -> int:
        return len(self.pool)

    @abstractmethod
    def read_label(self, index: int) -> Any:
        """The label of an image: a class for each of its elements, of `pool.size(index)`.

        Returns:
            uint8 or another integer dtype, see `segal.functional.labels.has_class`; of a task
            whose labels are no arrays, what it trains on.

        Raises:
            SegalError: If it cannot be read, or is wrong.
        """

    def read_window(self, index: int, box: Box) -> NDArray[Any]:
        """A window of the label of an image of which every element has a class.

        Args:
            index: Of the image.
            box: Half-open (x0, y0, x1, y1), within it.

        Returns:
            (h, w), as of `read_label`.

        Raises:
            SegalError: As `read_label` does.
        """
        x0, y0, x1, y1 = box
        whole: NDArray[Any] = self.read_label(index)
        return whole[y0:y1, x0:x1]

    def has_label(self, index: int) -> bool:
        """Whether there is a label of an image to read, whatever it says."""
        del index
        return True

    @abstractmethod
    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """Reads labels, all by default, and raises all mistakes at once.

        Args:
            indices: Images whose labels are read.
            progress: Called with (labels done, all labels) after each.
            within: Boxes by image index; only these images are read, and counted within these. A
                label that is not there counts as void.

        Raises:
            SegalError: As `read_label` does.
        """

    @abstractmethod
    def digest(self, indices: Iterable[int] | None = None) -> str:
        """A fingerprint of labels, all by default, and of the classes.

        Args:
            indices: Images whose labels count; no other label is read.

        Returns:
            A sha256 in hexadecimal digits.

        Raises:
            SegalError: If a label cannot be read.
        """

    def with_pool(self, pool: ImagePool) -> Self:
        """The same labels, of the same images as another pool has them."""
        return replace(self, pool=pool)  # type: ignore[type-var]

    @abstractmethod
    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """A fingerprint of each label, all by default, by the path of its image.

        Args:
            indices: Images whose labels count; no other label is read.

        Returns:
            sha256 in hexadecimal digits.

        Raises:
            SegalError: If a label cannot be read.
        """

    @abstractmethod
    def subset(self, indices: Iterable[int]) -> Self:
        """The data set of some of the images, in the order given."""

    def notes(self) -> list[str]:
        """What a user should know of the labels, though nothing is wrong with them."""
        return []

    def refuse_values(self, split: str, counts: LabelCounts) -> None:  # noqa: B027
        """Raises a SegalError for labels that can be read, and mean something else than they seem.

        Args:
            split: Its name.
            counts: Of all its labels.
        """


@dataclass(frozen=True, eq=False)
class PartlyLabelled(LabelledDataset):
    """The images and classes of a data set of which not all labels are looked at.

    Attributes:
        dataset: It, with all its labels.
    """

    dataset: LabelledDataset

    @property
    def pool(self) -> ImagePool:  # type: ignore[override]
        """The images."""
        return self.dataset.pool

    @property
    def classes(self) -> NamedClasses:  # type: ignore[override]
        """The classes."""
        return self.dataset.classes

    def with_pool(self, pool: ImagePool) -> Self:
        """As `LabelledDataset.with_pool`."""
        return replace(self, dataset=self.dataset.with_pool(pool))

    def has_label(self, index: int) -> bool:
        """As `LabelledDataset.has_label`."""
        return self.dataset.has_label(index)

    def notes(self) -> list[str]:
        """As `LabelledDataset.notes`."""
        return self.dataset.notes()

    def refuse_values(self, split: str, counts: LabelCounts) -> None:
        """As `LabelledDataset.refuse_values`."""
        self.dataset.refuse_values(split, counts)
