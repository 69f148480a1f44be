"""A pool whose images are read at a fraction of their size, for networks that see no more."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.candidates.kept import INPUT, Images, Kept
from segal.data.image_file import Reading, open_image, orientation_of, read_bytes
from segal.data.images import decode_colours, read_image
from segal.data.pool import ImagePool
from segal.data.stand_in import StandInPool
from segal.data.transforms import by_fours, stack_images
from segal.errors import SegalError

__all__ = ["ReducedPool", "read_reduced"]

_FLAGS = {
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}
_JPEG = b"\xff\xd8\xff"


class ReducedPool(StandInPool):
    """A pool of which batches hold a pixel for a block of pixels.

    Coordinates, sizes and single images stay those of the images.

    Args:
        images: The pool as it is.
        factor: By (height, width) of an image, 1, 2, 4 or 8: the side of its blocks; with 1 it is
            read as it is.
    """

    def __init__(self, images: ImagePool, factor: Callable[[int, int], int]) -> None:
        super().__init__(images)
        self.__dict__["factor"] = factor

    factor: Callable[[int, int], int]

    @property
    def layers(self) -> str:
        """Before the network's first layer."""
        return INPUT

    def _of(self, images: ImagePool) -> Self:
        return type(self)(images, self.factor)

    def batch(self, indices: Sequence[int]) -> Images:
        """Images of one size: as of the images, or what `read_reduced` reads, (B, h, w, channels).

        Raises:
            SegalError: As `read` does.
        """
        size = self.shape(indices[0])
        factor = self.factor(*size)
        if factor == 1:
            return self.images.batch(indices)
        files = self.files or self.paths
        read = [
            read_reduced(self.root / files[index], self.reading, factor, size) for index in indices
        ]
        return Kept(INPUT, (stack_images(read),), size)


def read_reduced(path: Path, reading: Reading, factor: int, size: tuple[int, int]) -> NDArray[Any]:
    """Reads an image that has been inspected, one pixel for each block of pixels.

    A JPEG is decoded at that size, which takes a fraction of the time: libjpeg leaves out the
    higher frequencies, which comes close to the mean of a block. Of all others it is the mean. The
    blocks start in the top left corner of the image as it is shown; those at the right and at the
    bottom may be of fewer pixels.

    Args:
        path: The file.
        reading: As `read_image` takes it.
        factor: Side of the blocks: 2, 4 or 8.
        size: (H, W) of the image, after EXIF orientation.

    Returns:
        (ceil(H / factor), ceil(W / factor), channels), of the dtype that `read_image` gives.

    Raises:
        SegalError: If the file cannot be decoded, or is of another size.
    """
    data = read_bytes(path)
    wanted = tuple(math.ceil(side / factor) for side in size)
    if (
        reading.bands is None
        and data.startswith(_JPEG)
        and _starts_at_top_left(path, data, factor, size)
    ):
        pixels = decode_colours(path, data, _FLAGS[factor])
        found = pixels.shape[:2]
    else:
        whole = read_image(path, reading)
        found = tuple(math.ceil(side / factor) for side in whole.shape[:2])
        pixels = _block_means(whole, factor)
    if found != wanted:
        raise SegalError(
            f"{path}: the image has changed since it was inspected",
            expected=f"{size[0]} x {size[1]} (height x width)",
            got=f"{found[0]} x {found[1]} blocks of {factor} x {factor} pixels",
            remedy="leave the files alone during a run, then run the command again",
        )
    return pixels


def _starts_at_top_left(path: Path, data: bytes, factor: int, size: tuple[int, int]) -> bool:
    """Whether the blocks of a decoder, which turns an image afterwards, are those of the image."""
    if not any(side % factor for side in size):
        return True
    # Turned or mirrored, its blocks of fewer pixels may come first.
    return orientation_of(open_image(path, data)) in {1, 5}


def _block_means(image: NDArray[Any], factor: int) -> NDArray[Any]:
    height, width = image.shape[:2]
    below, right = -height % factor, -width % factor

    def reduce(part: NDArray[Any]) -> NDArray[Any]:
        part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
        sides = ((width + right) // factor, (height + below) // factor)
        return np.asarray(cv2.resize(part, sides, interpolation=cv2.INTER_AREA))

    return by_fours(image, reduce)
