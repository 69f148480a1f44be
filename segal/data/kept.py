"""A pool whose images are read as what the frozen part of a network left of them."""

import hashlib
import json
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np
from torch import Tensor

from segal.candidates.kept import Kept
from segal.data.feature_store import FeatureStore
from segal.data.image_file import Reading
from segal.data.pool import ImagePool
from segal.data.stand_in import StandInPool
from segal.data.transforms import stack_images


class FrozenPart(Protocol):
    """The part of a network before a cut."""

    @property
    def layers(self) -> str:
        """Name of the cut."""
        ...

    @property
    def digest(self) -> str:
        """Of all that its output depends on, beside the image."""
        ...

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """What it makes of images (B, H, W, channels), as read; float32 on the CPU."""
        ...


class KeptPool(StandInPool):
    """A pool of which batches are what a frozen part made of the images.

    What the store does not hold is made when it is read, image by image, so that no number depends
    on a batch, and is put into the store.

    Args:
        images: The pool as it is; single images are read from it.
        part: The frozen part.
        store: Where its outputs are kept.
    """

    def __init__(self, images: ImagePool, part: FrozenPart, store: FeatureStore) -> None:
        super().__init__(images)
        self.__dict__.update(part=part, store=store)

    part: FrozenPart
    store: FeatureStore

    @property
    def layers(self) -> str:
        """The cut."""
        return self.part.layers

    def _of(self, images: ImagePool) -> Self:
        return type(self)(images, self.part, self.store)

    def batch(self, indices: Sequence[int]) -> Kept:
        """What the frozen part made of images of one size."""
        return Kept.stack([self.kept(index) for index in indices])

    def kept(self, index: int, *, flipped: bool = False) -> Kept:
        """What the frozen part made of one image, or of its mirror image.

        Args:
            index: Of the image.
            flipped: Whether it is mirrored, left to right, before anything else.
        """
        image = stored_as(
            self.infos[index].digest, self.shape(index), self.reading, flipped=flipped
        )
        maps = self.store.get(self.part.digest, image)
        if maps is None:
            pixels = self.images.read(index)
            if flipped:
                pixels = np.ascontiguousarray(pixels[:, ::-1])
            maps = self.store.put(self.part.digest, image, self.part(stack_images([pixels])))
        return Kept(self.part.layers, tuple(maps), self.shape(index))


def stored_as(image: str, shape: tuple[int, int], reading: Reading, *, flipped: bool) -> str:
    """What an image is called in a store: by its file, and what is taken of it.

    Args:
        image: Digest of its file.
        shape: (height, width) as it is read.
        reading: How it is read.
        flipped: Whether it is mirrored.
    """
    read = [reading.value_range, reading.bands, reading.page, flipped]
    return hashlib.sha256(json.dumps([image, shape, read]).encode()).hexdigest()
