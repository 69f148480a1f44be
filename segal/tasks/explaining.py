"""What becomes of explained images: a score of every element, and pictures of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segal.data.labelled import NamedClasses
from segal.data.pool import ImagePool


@dataclass(frozen=True)
class Explaining:
    """What pictures of an explanation are drawn from.

    Attributes:
        pool: The images.
        classes: That the network tells apart.
        score: Name of the score.
        caption: What the score is called.
        scratch: An empty folder for what does not fit in memory; it goes afterwards.
    """

    pool: ImagePool
    classes: NamedClasses
    score: str
    caption: str
    scratch: Path


@dataclass(frozen=True)
class ScoredImage:
    """An image whose elements have scores.

    Attributes:
        index: Of the image in the pool.
        stem: Of file names that are about it; no other image has it.
        logits: (C, H, W) of its elements.
        entropy: (H, W) float32, in nats.
        scores: (H, W) float32, finite; above 0 where the network's own prediction would hurt.
    """

    index: int
    stem: str
    logits: Tensor
    entropy: NDArray[np.float32]
    scores: NDArray[np.float32]

    @property
    def mean(self) -> float:
        """Of the scores."""
        return float(self.scores.mean(dtype=np.float64))

    @property
    def hurting(self) -> float:
        """Share of the elements whose score is above 0."""
        return float((self.scores > 0).mean())

    @property
    def mean_entropy(self) -> float:
        """Of the elements, in nats."""
        return float(self.entropy.mean(dtype=np.float64))


@dataclass(frozen=True)
class Pictures:
    """What was drawn.

    Attributes:
        files: Name of the picture that shows each image, in the order in which they were added;
            None where none does.
        scales: Ends of the colour scales, by what they are of.
    """

    files: Sequence[str | None]
    scales: Mapping[str, float]


class Explainer(ABC):
    """Draws explained images, when the last of them was measured: they share colour scales.

    Args:
        explaining: What is explained.
    """

    def __init__(self, explaining: Explaining) -> None:
        self.explaining = explaining

    @abstractmethod
    def add(self, image: ScoredImage) -> None:
        """Takes an image; what is kept of it in memory is small."""

    @abstractmethod
    def draw(self, folder: Path, progress: Callable[[int, int], None]) -> Pictures:
        """Draws all images that were added, at least one.

        Args:
            folder: Takes the files; it is there, and empty.
            progress: Called with (done, all).
        """
