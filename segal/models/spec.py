"""What it takes to build a network again and to feed it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Channels = tuple[float, ...]
"""A number for each channel of a network's input."""

_OPTIONAL = {"insert_dropout", "options"}


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build a network again and to feed it.

    Attributes:
        architecture: A name of segmentation_models_pytorch, or an import path `package.module:name`
            of a function that takes `num_classes` and returns a network.
        encoder: Encoder name; empty for an import path.
        class_names: One name per class, in the order of the logits.
        mean: Of each of the input's channels (R, G, B), on the scale 0 to 1.
        std: Likewise.
        stride: The sides of the network's input must be multiples of it.
        input_scale: The network sees the image at this scale; coordinates stay the image's.
        insert_dropout: Share of the channels that are dropped before the last layer in training
            and in passes for MC-dropout; 0 inserts no dropout.
        options: What the network's constructor takes beside these, as plain values.
    """

    architecture: str
    encoder: str
    class_names: tuple[str, ...]
    mean: Channels
    std: Channels
    stride: int
    input_scale: float = 1.0
    insert_dropout: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """Number of the input's channels."""
        return len(self.mean)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; without dropout and options where there are none."""
        return {k: v for k, v in asdict(self).items() if k not in _OPTIONAL or v}
