"""What a task is given by configurations, and what it says of a data set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.image_file import Reading
from segal.data.images import ImageInfo
from segal.errors import SegalError, raise_all
from segal.system.machine import Precision


class PredictionOptions(TypedDict, total=False):
    """How `Task.predictions` runs; see there."""

    device: torch.device | str
    batch_size: int
    workers: int
    precision: Precision
    progress: Callable[[int, int], None] | None


class SplitSource(Protocol):
    """What a configuration says of a labelled data set; a task refuses what it has no use for."""

    @property
    def root(self) -> Path:
        """Its folder or file."""
        ...

    @property
    def layout(self) -> str:
        """How it is laid out, or `auto`."""
        ...

    @property
    def ignore_index(self) -> int | None:
        """A value of label files that stands for no class."""
        ...

    @property
    def reduce_zero_label(self) -> bool:
        """Whether 0 in label files stands for no class, and names without a value count from 1."""
        ...

    @property
    def label_suffix(self) -> str | None:
        """What follows an image's name in its label's."""
        ...

    @property
    def validation_share(self) -> float:
        """Of the split train that is cut off as val where there is none; 0 for none."""
        ...

    @property
    def reading(self) -> Reading:
        """How images are read."""
        ...


@dataclass(frozen=True)
class Outline:
    """What a network must fit of a data set.

    Attributes:
        class_names: The classes.
        channels: Of tables of features, how many there are; None of images.
    """

    class_names: tuple[str, ...]
    channels: int | None = None


@dataclass(frozen=True)
class InputShape:
    """What a network is given for an image.

    Attributes:
        height: Of the image, in pixels.
        width: Likewise.
        features: How many stand for the image; None where it is a picture.
    """

    height: int
    width: int
    features: int | None = None


class OpenOptions(TypedDict, total=False):
    """How images are looked at when they are opened.

    Attributes:
        workers: Threads that inspect images.
        known: Earlier inspections, by path.
        progress: Called with (images done, all images).
        skip_unreadable: Leave out what cannot be read.
    """

    workers: int
    known: Mapping[str, tuple[int, int, ImageInfo]] | None
    progress: Callable[[int, int], None] | None
    skip_unreadable: bool


class PoolOptions(OpenOptions, total=False):
    """How images without labels are opened.

    Attributes:
        follow_links: Whether links may lead out of the folder.
    """

    follow_links: bool


class Transform(Protocol):
    """Makes a training sample of an image and its label."""

    def __call__(
        self,
        image: NDArray[Any],
        label: Any,
        region: Box,
        generator: np.random.Generator,
    ) -> tuple[NDArray[Any], Any]:
        """See `segal.data.transforms.TrainingTransform`."""
        ...


class Augmentation(Protocol):
    """What a training says of its samples."""

    @property
    def augment(self) -> Literal["usual", "crop", "resized_crop", "none"]:
        """How samples differ from images."""
        ...

    @property
    def crop(self) -> str:
        """A region size."""
        ...

    @property
    def scale(self) -> tuple[float, float]:
        """Smallest and largest factor that an image is resized by."""
        ...

    @property
    def flip(self) -> float:
        """Probability of a horizontal flip."""
        ...

    @property
    def colour_jitter(self) -> float:
        """Strength, from 0 to 1."""
        ...


def refuse_label_files(source: SplitSource, where: str) -> None:
    """Raises a SegalError for what only label files have.

    Args:
        source: What a configuration says.
        where: What the task has instead, in words.
    """
    said = {
        "ignore_index": source.ignore_index is not None,
        "reduce_zero_label": source.reduce_zero_label,
        "label_suffix": source.label_suffix is not None,
    }
    raise_all(
        [
            SegalError(
                f"{key}: of files that give every pixel a label",
                expected=f"nothing here, {where}",
                got=str(getattr(source, key)),
                remedy="leave it out",
            )
            for key, given in said.items()
            if given
        ]
    )
