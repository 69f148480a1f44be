"""What it takes to build a network again and to feed it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

Channels = tuple[float, ...]
"""A number for each channel of a network's input."""

_OPTIONAL = {"insert_dropout", "options"}  # left out of the dict where there are none
DEFAULT_TASK = "segmentation"
"""Of checkpoints and configurations that do not say theirs."""


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build a network again and to feed it.

    Attributes:
        architecture: A name of segmentation_models_pytorch, `torchvision:NAME`, `hf:MODEL_TYPE`, or
            an import path `package.module:name` of a function that takes `num_classes` and returns
            a network.
        encoder: Encoder name; empty for all but segmentation_models_pytorch.
        class_names: One name per class, in the order of the logits.
        mean: Of each of the input's channels (R, G, B), on the scale 0 to 1.
        std: Likewise.
        stride: The sides of the network's input must be multiples of it.
        input_scale: The network sees the image at this scale; coordinates stay the image's.
        insert_dropout: Share of the channels that are dropped before the last layer in training
            and in passes for MC-dropout; 0 inserts no dropout.
        options: What the network's constructor takes beside these, as plain values.
        task: What the network is asked, as `segal.tasks.TASKS` names it.
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
    task: str = DEFAULT_TASK

    @property
    def title(self) -> str:
        """Its names, for messages."""
        return f"{self.architecture} with {self.encoder}" if self.encoder else self.architecture

    @property
    def input_line(self) -> str:
        """What it expects of its input, for people: channels are (value - mean) / std."""
        mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
        scale = "" if self.input_scale == 1 else f", at scale {self.input_scale:g}"
        return (
            f"{self.title}: normalised with mean {mean} and std {std} (of 0 to 1), "
            f"sides padded to multiples of {self.stride}{scale}"
        )

    @property
    def channels(self) -> int:
        """Number of the input's channels."""
        return len(self.mean)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the network's input for an image's: scaled, and padded."""
        scaled = (round(side * self.input_scale) for side in (height, width))
        down, right = (max(1, -(-side // self.stride)) * self.stride for side in scaled)
        return down, right

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; without dropout and options where there are none."""
        said = {k: v for k, v in asdict(self).items() if k not in _OPTIONAL or v}
        if self.task == DEFAULT_TASK:
            del said["task"]
        return said
