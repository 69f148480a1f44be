"""The oracle of a simulation: it knows all labels, and reveals them where regions are bought."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.datasets import LabelledDataset
from segal.data.transforms import keep_regions
from segal.functional.clicks import polygon_clicks

Boxes = Mapping[str, Sequence[Box]]


@dataclass(frozen=True, eq=False)
class RevealedDataset(LabelledDataset):
    """A data set whose labels are ignored outside of what is bought.

    Attributes:
        bought: Boxes by image index.
    """

    bought: Mapping[int, Sequence[Box]]

    def read_label(self, index: int) -> NDArray[np.uint8]:
        """Reads the label of an image as an annotator has delivered it so far.

        Returns:
            (H, W) uint8: classes 0 to C - 1 within the bought boxes, or 255.

        Raises:
            SegalError: As `LabelledDataset.read_label` does.
        """
        return keep_regions(super().read_label(index), self.bought.get(index, ()))

    def subset(self, indices: Iterable[int]) -> "RevealedDataset":
        """As `LabelledDataset.subset`; no more of any image is revealed than before."""
        chosen = list(indices)
        bought = {new: self.bought[old] for new, old in enumerate(chosen) if old in self.bought}
        part = super().subset(chosen)
        return RevealedDataset(part.pool, part.label_paths, part.classes, bought)


class Oracle:
    """Stands for the annotators; nothing else sees the labels of the pool.

    Args:
        dataset: The pool with all its labels.
    """

    def __init__(self, dataset: LabelledDataset) -> None:
        self._dataset = dataset
        self._positions = {path: i for i, path in enumerate(dataset.pool.paths)}

    def reveal(self, bought: Boxes) -> RevealedDataset:
        """The data set as far as it is bought."""
        d = self._dataset
        return RevealedDataset(d.pool, d.label_paths, d.classes, self.by_index(bought))

    def by_index(self, bought: Boxes) -> dict[int, list[Box]]:
        """The same boxes by image index."""
        return {self._positions[path]: list(bought[path]) for path in sorted(bought)}

    def digest(self, bought: Boxes) -> str:
        """Of the label files of images of which something is bought; no other is read.

        Raises:
            SegalError: If one cannot be read, such as when it vanished since the run began.
        """
        return self._dataset.digest(sorted(self._positions[path] for path in bought))

    def clicks(self, image: str, boxes: Sequence[Box], before: Sequence[Box]) -> list[int]:
        """Polygon clicks that boxes of an image take (see `polygon_clicks`), in order.

        Args:
            image: Its path.
            boxes: What is bought.
            before: What was bought of it before, and costs no click again.
        """
        label = self._dataset.read_label(self._positions[image])
        clicks: list[int] = polygon_clicks(label, boxes, before).tolist()
        return clicks
