"""A pool whose batches hold something else than the pixels of its images."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import fields
from typing import Any, Self

from numpy.typing import NDArray

from segal.data.pool import ImagePool


class StandInPool(ImagePool, ABC):
    """A pool that stands in the place of another, and is as that in all but its batches.

    Args:
        images: The pool as it is; single images are read from it.
    """

    def __init__(self, images: ImagePool) -> None:
        for field in fields(ImagePool):  # a frozen dataclass is set so
            object.__setattr__(self, field.name, getattr(images, field.name))
        self.__dict__["images"] = images

    images: ImagePool

    @property
    @abstractmethod
    def layers(self) -> str:
        """Where in a network its batches go in."""

    @property
    def unit(self) -> str:
        """As of the images."""
        return self.images.unit

    def size(self, index: int) -> tuple[int, int]:
        """As of the images."""
        return self.images.size(index)

    def shape(self, index: int) -> tuple[int, int]:
        """As of the images."""
        return self.images.shape(index)

    def read(self, index: int) -> NDArray[Any]:
        """As of the images, in pixels."""
        return self.images.read(index)

    def subset(self, indices: Iterable[int]) -> Self:
        """As of the images."""
        return self._of(self.images.subset(indices))

    def pixels(self) -> ImagePool:
        """The images."""
        return self.images

    @abstractmethod
    def _of(self, images: ImagePool) -> Self:
        """The same of other images."""
