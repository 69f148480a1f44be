"""What a task is: it turns a forward pass into evidence, and says what can be bought."""

from collections.abc import Collection
from typing import Protocol

from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.candidates.regions import RegionSize
from segal.models.segmentation import SegmentationModel


class Task(Protocol):
    """What a network is asked."""

    def units(self, height: int, width: int, region: RegionSize) -> Units:
        """What can be bought of an image of that size."""
        ...

    def evidence(
        self, model: SegmentationModel, images: Tensor, catch: Collection[str] = ()
    ) -> Evidence:
        """The forward pass of a batch of normalised images (B, 3, H, W)."""
        ...

    def training_loss(self, model: SegmentationModel, images: Tensor, labels: Tensor) -> Tensor:
        """The loss of a batch, normalised by its labelled elements."""
        ...
