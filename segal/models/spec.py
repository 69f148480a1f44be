"""What it takes to build a network again and to feed it."""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar

from segal.errors import SegalError
from segal.registry import Registry

T = TypeVar("T")

Channels = tuple[float, ...]
"""A number for each channel of a network's input."""

DEFAULT_TASK = "segmentation"
"""Of checkpoints and configurations that do not say theirs: there was no other task once."""

Answered = Literal["pixels", "images", "objects"]

_OPTIONAL = {"insert_dropout", "options", "framing", "input_channels"}


@dataclass(frozen=True)
class Answers:
    """What the networks of a task answer.

    Attributes:
        of: What has an answer: `pixels`, with logits (B, C, h, w); `images`, with (B, C); or
            `objects`, in boxes of which each image has its own number.
        each: Whether each of the C classes is a question of its own, answered yes or no; else an
            answer is one of them.
    """

    of: Answered
    each: bool = False


ANSWERS: Registry[Answers] = Registry("task")
"""What every task's networks answer; tasks register their own."""


def registered(registry: Registry[T], task: str) -> T:
    """What a task has registered.

    Raises:
        SegalError: If there is no such task.
    """
    importlib.import_module("segal.tasks")  # which register theirs
    if task not in registry:  # a file's metadata must not name what is imported
        raise SegalError(
            f"unknown task {task!r}",
            expected=f"one of {', '.join(registry)}",
            got=repr(task)[:100],
            remedy="choose one of these, or a checkpoint of another version of segal",
        )
    return registry.get(task)


def answers_of(task: str) -> Answers:
    """What the networks of a task answer.

    Raises:
        SegalError: If there is no such task.
    """
    return registered(ANSWERS, task)


@dataclass(frozen=True)
class Framing:
    """How an image of any size becomes the square that a network of whole images takes.

    The image is resized, with antialiasing, and the middle of it is cut out: the evaluation
    transform of torchvision and of timm.

    Attributes:
        side: Of the square, in pixels.
        resized: What the image's shorter side is resized to before the cut; at least `side`.
        bicubic: Whether it is resized by cubic interpolation; else it is bilinear.
        squash: Whether both sides are resized to `resized`, whatever the image's shape.
    """

    side: int
    resized: int
    bicubic: bool = False
    squash: bool = False

    def at(self, side: int) -> "Framing":
        """The same share of an image at another side."""
        return replace(self, side=side, resized=max(side, side * self.resized // self.side))

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image is resized to: the longer side is rounded down."""
        if self.squash:
            return self.resized, self.resized
        short = min(height, width)
        return self.resized * height // short, self.resized * width // short


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build a network again and to feed it.

    Attributes:
        architecture: A name of segmentation_models_pytorch, `torchvision:NAME`, `hf:MODEL_TYPE`,
            `timm:NAME`, `linear`, or an import path `package.module:name` of a function that takes
            `num_classes` and returns a network.
        encoder: Encoder name; empty for all but segmentation_models_pytorch and `linear`.
        class_names: One name per class, in the order of the logits.
        mean: Of each of the input's channels (R, G, B), on the scale 0 to 1.
        std: Likewise.
        stride: The sides of the network's input must be multiples of it.
        input_scale: The network sees the image at this scale; coordinates stay the image's.
        insert_dropout: Share of the channels that are dropped before the last layer in training
            and in passes for MC-dropout; 0 inserts no dropout.
        options: What the network's constructor takes beside these, as plain values.
        task: What the network is asked, as `segal.tasks.TASKS` names it.
        framing: How a network of whole images is given them; None: as they are.
        input_channels: Number of the input's channels, where `mean` and `std` are one number for
            all of them; None: as many as these have numbers.
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
    framing: Framing | None = None
    input_channels: int | None = None

    @property
    def answers(self) -> Answers:
        """What it answers."""
        return answers_of(self.task)

    @property
    def title(self) -> str:
        """Its names, for messages."""
        return f"{self.architecture} with {self.encoder}" if self.encoder else self.architecture

    @property
    def input_line(self) -> str:
        """What it expects of its input, for people: channels are (value - mean) / std."""
        mean, std = (", ".join(f"{x:.4g}" for x in values) for values in (self.mean, self.std))
        normalised = f"{self.title}: normalised with mean {mean} and std {std} (of 0 to 1), "
        if self.answers.of == "images":
            if self.framing is None:
                return f"{normalised}images as they are"
            shape = "both sides" if self.framing.squash else "shorter side"
            return (
                f"{normalised}{shape} resized to {self.framing.resized}, "
                f"{self.framing.side} x {self.framing.side} pixels cut from the middle"
            )
        scale = "" if self.input_scale == 1 else f", at scale {self.input_scale:g}"
        return f"{normalised}sides padded to multiples of {self.stride}{scale}"

    @property
    def channels(self) -> int:
        """Number of the input's channels."""
        return self.input_channels or len(self.mean)

    @property
    def logit_dims(self) -> int:
        """Dimensions of the network's logits: (B, C, h, w), or (B, C) of whole images."""
        return 4 if self.answers.of == "pixels" else 2

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)

    @property
    def element_classes(self) -> int:
        """Number of classes of an element: two, no and yes, where each class is a question."""
        return 2 if self.answers.each else self.num_classes

    def input_size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) of the network's input for an image's: scaled and padded, or framed."""
        if self.framing is not None:
            return self.framing.side, self.framing.side
        scaled = (round(side * self.input_scale) for side in (height, width))
        down, right = (max(1, -(-side // self.stride)) * self.stride for side in scaled)
        return down, right

    def reduction(self, height: int, width: int, gap: float = 1.0) -> int:
        """By how much an image may be smaller, each way, and still be larger than the input.

        Args:
            height: Of the image.
            width: Likewise.
            gap: How many times as large as what the network sees it has to be at least.

        Returns:
            1, 2, 4 or 8, as JPEG files can be decoded.
        """
        scale = self.input_scale if self.answers.of == "pixels" else 1.0
        if self.framing is not None:
            down, right = self.framing.resized_size(height, width)
            scale = max(down / height, right / width)
        return max(factor for factor in (1, 2, 4, 8) if factor * scale * gap <= 1 or factor == 1)

    def as_dict(self) -> dict[str, object]:
        """As plain values, for JSON; without what is optional where there is none."""
        values = {k: v for k, v in asdict(self).items() if k not in _OPTIONAL or v}
        return {k: v for k, v in values.items() if k != "task" or v != DEFAULT_TASK}
