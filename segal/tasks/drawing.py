"""What the pictures of a selection are drawn from, whatever they show."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
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


@dataclass(frozen=True, eq=False)
class Look:
    """An image as people see it, and what the network makes of it.

    Attributes:
        image: (H, W, 3) RGB, uint8; None of what cannot be looked at, such as features.
        uncertainty: (H, W) floating map; None where there is no network, or no map.
        predicted: (H, W, 3) RGB, uint8, what the network predicts, drawn; None without.
        legend: Names and RGB colours of the classes that it shows.
        said: What the network says of the image as a whole, a line each.
    """

    image: NDArray[np.uint8] | None
    uncertainty: NDArray[np.float32] | None = None
    predicted: NDArray[np.uint8] | None = None
    legend: Sequence[tuple[str, tuple[int, int, int]]] = ()
    said: Sequence[str] = ()


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
