"""The oracle: in a simulation it knows all labels, and reveals them where regions are bought.

Where people label what is bought, it knows what they gave back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.labelled import LabelCounts, LabelledDataset, PartlyLabelled
from segal.data.pool import Progress
from segal.functional.labels import keep_regions, region_digest
from segal.runs.run_folder import fingerprint
from segal.tasks import Task

Boxes = Mapping[str, Sequence[Box]]


@dataclass(frozen=True, eq=False)
class RevealedDataset(PartlyLabelled):
    """A data set whose labels are ignored outside of what is bought.

    Attributes:
        dataset: It, with all its labels.
        bought: Boxes by image index.
    """

    bought: Mapping[int, Sequence[Box]]

    def read_label(self, index: int) -> NDArray[Any]:
        """Reads the label of an image as an annotator has delivered it so far.

        Returns:
            Classes 0 to C - 1 within the bought boxes, and none elsewhere.

        Raises:
            SegalError: As `LabelledDataset.read_label` does.
        """
        label = self.dataset.read_label(index)
        return keep_regions(label, self.bought.get(index, ()))  # type: ignore[no-any-return]

    def read_window(self, index: int, box: Box) -> NDArray[Any]:
        """As `LabelledDataset.read_window`, as far as it is bought."""
        x0, y0, x1, y1 = box
        near = [b for b in self.bought.get(index, ()) if b[0] < x1 and x0 < b[2]]
        near = [b for b in near if b[1] < y1 and y0 < b[3]]
        parts = [(max(a - x0, 0), max(b - y0, 0), c - x0, d - y0) for a, b, c, d in near]
        return keep_regions(self.dataset.read_window(index, box), parts)  # type: ignore[no-any-return]

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """As `LabelledDataset.check`, of what is bought where nothing else is said."""
        return self.dataset.check(indices, progress, self.bought if within is None else within)

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """As `LabelledDataset.digest`, of what is bought: what labels say elsewhere is nothing."""
        return fingerprint([self.classes.names, list(self.digests(indices).items())])

    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """As `LabelledDataset.digests`, of what is bought."""
        found = {}
        for i in range(len(self)) if indices is None else indices:
            label, boxes = self.dataset.read_label(i), self.bought.get(i, ())
            found[self.pool.paths[i]] = fingerprint(
                [[list(map(int, box)), region_digest(label, box)] for box in boxes]
            )
        return found

    def subset(self, indices: Iterable[int]) -> "RevealedDataset":
        """As `LabelledDataset.subset`; no more of any image is revealed than before."""
        chosen = list(indices)
        bought = {new: self.bought[old] for new, old in enumerate(chosen) if old in self.bought}
        return RevealedDataset(self.dataset.subset(chosen), bought)


class Oracle:
    """Stands for the annotators; nothing else sees the labels of the pool.

    Args:
        dataset: The pool with all its labels, or with those that people gave back so far.
        task: Says what labels take to make.
        answered: Where people label: the boxes that they gave back, by image; None in a simulation.
    """

    def __init__(self, dataset: LabelledDataset, task: Task, answered: Boxes | None = None) -> None:
        self._dataset, self.task, self._answered = dataset, task, answered
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

    def digests(self, image: str, boxes: Iterable[Box]) -> list[str]:
        """What the label of an image says of boxes, as fingerprints, in order.

        Raises:
            SegalError: As `LabelledDataset.read_label` does.
        """
        label = self._dataset.read_label(self._positions[image])
        return [region_digest(label, box) for box in boxes]

    @property
    def asks_people(self) -> bool:
        """Whether labels come of people, later than they are asked for."""
        return self._answered is not None

    def waits_for(self, bought: Boxes) -> int:
        """Of how many of the boxes that are bought people have not given a label back."""
        if self._answered is None:
            return 0
        there = {image: set(boxes) for image, boxes in self._answered.items()}
        return sum(box not in there.get(image, ()) for image in bought for box in bought[image])

    @property
    def class_names(self) -> list[str]:
        """Of the labels."""
        return list(self._dataset.classes.names)

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
