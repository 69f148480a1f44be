"""The oracle of a simulation: it knows all labels, and reveals them where regions are bought."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.labelled import LabelCounts, LabelledDataset, NamedClasses
from segal.data.pool import ImagePool, Progress
from segal.functional.labels import keep_regions
from segal.tasks import Task

Boxes = Mapping[str, Sequence[Box]]


@dataclass(frozen=True, eq=False)
class RevealedDataset(LabelledDataset):
    """A data set whose labels are ignored outside of what is bought.

    Attributes:
        dataset: It, with all its labels.
        bought: Boxes by image index.
    """

    dataset: LabelledDataset
    bought: Mapping[int, Sequence[Box]]

    @property
    def pool(self) -> ImagePool:  # type: ignore[override]
        """The images."""
        return self.dataset.pool

    @property
    def classes(self) -> NamedClasses:  # type: ignore[override]
        """The classes."""
        return self.dataset.classes

    def read_label(self, index: int) -> NDArray[Any]:
        """Reads the label of an image as an annotator has delivered it so far.

        Returns:
            Classes 0 to C - 1 within the bought boxes, and none elsewhere.

        Raises:
            SegalError: As `LabelledDataset.read_label` does.
        """
        label = self.dataset.read_label(index)
        return keep_regions(label, self.bought.get(index, ()))  # type: ignore[no-any-return]

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """As `LabelledDataset.check`, of what is bought where nothing else is said."""
        return self.dataset.check(indices, progress, self.bought if within is None else within)

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """As `LabelledDataset.digest`."""
        return self.dataset.digest(indices)

    def with_pool(self, pool: ImagePool) -> "RevealedDataset":
        """As `LabelledDataset.with_pool`."""
        return replace(self, dataset=self.dataset.with_pool(pool))

    def subset(self, indices: Iterable[int]) -> "RevealedDataset":
        """As `LabelledDataset.subset`; no more of any image is revealed than before."""
        chosen = list(indices)
        bought = {new: self.bought[old] for new, old in enumerate(chosen) if old in self.bought}
        return RevealedDataset(self.dataset.subset(chosen), bought)


class Oracle:
    """Stands for the annotators; nothing else sees the labels of the pool.

    Args:
        dataset: The pool with all its labels.
        task: Says what labels take to make.
    """

    def __init__(self, dataset: LabelledDataset, task: Task) -> None:
        self._dataset, self.task = dataset, task
        self._positions = {path: i for i, path in enumerate(dataset.pool.paths)}

    def reveal(self, bought: Boxes) -> RevealedDataset:
        """The data set as far as it is bought."""
        return RevealedDataset(self._dataset, self.by_index(bought))

    def by_index(self, bought: Boxes) -> dict[int, list[Box]]:
        """The same boxes by image index."""
        return {self._positions[path]: list(bought[path]) for path in sorted(bought)}

    def digest(self, bought: Boxes) -> str:
        """Of the label files of images of which something is bought; no other is read.

        Raises:
            SegalError: If one cannot be read, such as when it vanished since the run began.
        """
        return self._dataset.digest(sorted(self._positions[path] for path in bought))

    def label(self, image: str, boxes: Sequence[Box]) -> NDArray[Any]:
        """The label of an image, as far as boxes of it are bought.

        Raises:
            SegalError: As `LabelledDataset.read_label` does.
        """
        label = self._dataset.read_label(self._positions[image])
        return keep_regions(label, boxes)  # type: ignore[no-any-return]

    def clicks(self, image: str, boxes: Sequence[Box], before: Sequence[Box]) -> list[int]:
        """Clicks that boxes of an image take (see `Task.clicks`), in order.

        Args:
            image: Its path.
            boxes: What is bought.
            before: What was bought of it before, and costs no click again.
        """
        label = self._dataset.read_label(self._positions[image])
        return self.task.clicks(label, boxes, before)
