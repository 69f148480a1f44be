"""What the pictures of a selection are drawn from, whatever they show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.pool import ImagePool
from segal.models.wrapped import Model
from segal.signals import Value
from segal.system.machine import Precision

CAPTIONS = {
    "entropy": "entropy (nats)",
    "least_confidence": "1 - p1",
    "margin": "1 - (p1 - p2)",
    "bvsb": "p2 / p1",
}
"""What uncertainties are, with their units, by their names."""


@dataclass(frozen=True)
class PictureWords:
    """How a report speaks of the pictures of picks.

    Attributes:
        shown: What they show, in a sentence.
        instead: What stands for one where it cannot be seen; `{image}` is its name, `{arm}` that of
            what picked, `{round}` the round after which.
    """

    shown: str
    instead: str


@dataclass(frozen=True)
class Drawn:
    """What the pictures of a selection are drawn from.

    Attributes:
        pool: The images.
        model: The network; None for pictures without an uncertainty.
        value: The uncertainty to show.
        bought: Boxes that were bought before, by image.
        precision: Of the network's forward pass.
        label: Gives what is known of an image by its path, as `LabelledDataset.read_label` does;
            None where nothing is.
        excluded: What is never annotated, by image.
    """

    pool: ImagePool
    model: Model | None
    value: Value
    bought: Mapping[str, Sequence[Box]]
    precision: Precision
    label: Callable[[str], NDArray[Any]] | None = None
    excluded: Mapping[str, Sequence[Box]] = field(default_factory=dict)

    @property
    def caption(self) -> str:
        """What is shown, with its unit."""
        return CAPTIONS.get(self.value.name, self.value.name)
