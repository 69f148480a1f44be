"""Crops of labelled and of unlabelled pixels, in pairs of one size.

They are drawn as boxes of elements, as candidates are, and cut from pixels.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.regions import Box, Interval, RegionSize
from segal.data.image_sets import ImageSet
from segal.data.pool import one_of
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_images
from segal.errors import SegalError
from segal.models.vaal import SIDE

Crop = tuple[int, Box]
"""Index of an image in its set's pool, and a box of it."""


def shrink(crop: Tensor) -> Tensor:
    """(channels, SIDE, SIDE) means by area of a (channels, h, w) crop, of any h and w."""
    return F.adaptive_avg_pool2d(crop, SIDE)


def in_pixels(box: Box, elements: tuple[int, int], pixels: tuple[int, int]) -> Box:
    """The pixels that a box of elements shows, those at its edge included.

    Args:
        box: (x0, y0, x1, y1), in elements.
        elements: (height, width) of the image in elements.
        pixels: (height, width) of it in pixels.

    Returns:
        (x0, y0, x1, y1) in pixels; the same where every pixel is an element.
    """
    x0, y0, x1, y1 = box
    (rows, columns), (height, width) = elements, pixels
    left, top = x0 * width // columns, y0 * height // rows
    return left, top, -(-x1 * width // columns), -(-y1 * height // rows)


def draw_pairs(
    labelled: ImageSet,
    pool: ImageSet,
    regions: Sequence[RegionSize],
    count: int,
    generator: torch.Generator,
) -> list[tuple[Crop, Crop]]:
    """Draws crops of what is labelled and, of the same sizes, of what is not.

    A box of a set is drawn in proportion to its pixels, a place in it uniformly among all where
    the crop overlaps nothing that is left out. Where a size fits nowhere, both sides are halved.

    Args:
        labelled: What is labelled.
        pool: What is not.
        regions: Sizes of candidates; one is drawn for each pair, and a random cell of its grid.
        count: Pairs.
        generator: The only source of randomness.

    Returns:
        Pairs of a labelled crop and one of the pool.

    Raises:
        SegalError: If a set has no pixel.
    """
    sources = _Source.of(labelled, "labelled"), _Source.of(pool, "unlabelled")
    return [_draw_pair(*sources, regions, generator) for _ in range(count)]


def _draw_pair(
    labelled: "_Source", pool: "_Source", regions: Sequence[RegionSize], generator: torch.Generator
) -> tuple[Crop, Crop]:
    ours, others = labelled.draw(generator), pool.draw(generator)
    region = regions[_below(len(regions), generator)]
    grid = region.grid(*labelled.images.pool.size(ours[0]))
    height, width = (_length(axis, generator) for axis in (grid.rows, grid.columns))
    for _, (x0, y0, x1, y1) in (ours, others):
        height, width = min(height, y1 - y0), min(width, x1 - x0)
    while True:  # a single pixel always finds a place
        mine = labelled.place(ours, height, width, generator)
        theirs = pool.place(others, height, width, generator)
        if mine is not None and theirs is not None:
            return (ours[0], mine), (others[0], theirs)
        height, width = max(1, height // 2), max(1, width // 2)


def _length(intervals: Sequence[Interval], generator: torch.Generator) -> int:
    start, stop = intervals[_below(len(intervals), generator)]
    return stop - start


@dataclass(frozen=True)
class _Source:
    """Boxes of a set that hold a pixel of it, and the running total of their pixels."""

    images: ImageSet
    boxes: list[Crop]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, images: ImageSet, shown: str) -> "_Source":
        boxes: list[Crop] = []
        pixels: list[int] = []
        for image in images.indices():
            height, width = images.pool.size(image)
            whole = [(0, 0, width, height)]
            inside = whole if images.inside is None else images.inside[image]
            mask = images.mask(image) if images.outside.get(image) else None
            for x0, y0, x1, y1 in inside:
                area = (x1 - x0) * (y1 - y0) if mask is None else int(mask[y0:y1, x0:x1].sum())
                if area:
                    boxes.append((image, (x0, y0, x1, y1)))
                    pixels.append(area)
        if not boxes:
            unit = images.pool.unit
            one = one_of(unit)
            article = "an" if one[0] in "aeiou" else "a"
            raise SegalError(
                f"vaal: no {one} is {shown}",
                expected=f"labelled and unlabelled {unit}, to learn how they differ",
                got=f"{len(images.pool)} images, none with {article} {one} that is {shown}",
                remedy="choose another strategy, or check what --labelled names",
            )
        return cls(images, boxes, np.cumsum(pixels))

    def draw(self, generator: torch.Generator) -> Crop:
        pixel = _below(int(self.ends[-1]), generator)
        return self.boxes[int(np.searchsorted(self.ends, pixel, side="right"))]

    def place(self, crop: Crop, height: int, width: int, generator: torch.Generator) -> Box | None:
        image, box = crop
        return place(box, self.images.outside.get(image, ()), height, width, generator)


def place(
    box: Box, avoid: Sequence[Box], height: int, width: int, generator: torch.Generator
) -> Box | None:
    """Draws a place for a rectangle, uniformly among all inside a box that overlap nothing.

    Args:
        box: (x0, y0, x1, y1), at least as large as the rectangle.
        avoid: Boxes that it must not overlap.
        height: Of the rectangle.
        width: Of the rectangle.
        generator: The only source of randomness.

    Returns:
        The rectangle as (x0, y0, x1, y1); None where there is no such place.
    """
    left, top, right, bottom = box
    if not any(x0 < right and left < x1 and y0 < bottom and top < y1 for x0, y0, x1, y1 in avoid):
        x = left + _below(right - left - width + 1, generator)
        y = top + _below(bottom - top - height + 1, generator)
        return x, y, x + width, y + height
    free = np.ones((bottom - top - height + 1, right - left - width + 1), np.bool_)
    for x0, y0, x1, y1 in avoid:
        rows = slice(max(y0 - height + 1 - top, 0), max(y1 - top, 0))
        free[rows, max(x0 - width + 1 - left, 0) : max(x1 - left, 0)] = False
    ends = np.cumsum(free.sum(1))
    if not ends[-1]:
        return None
    chosen = _below(int(ends[-1]), generator)
    row = int(np.searchsorted(ends, chosen, side="right"))
    column = int(np.flatnonzero(free[row])[chosen - ends[row]])  # counted from the row's end
    return left + column, top + row, left + column + width, top + row + height


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def cut(
    images: ImageSet, crops: Sequence[Crop], workers: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Reads each image once, in candidate order, and cuts its crops.

    Args:
        images: Where they are.
        crops: Images and boxes, n of them.
        workers: Threads that read ahead.

    Yields:
        Positions in `crops`, and (m, channels, SIDE, SIDE) uint8.

    Raises:
        SegalError: If an image cannot be read.
    """
    by_image: Mapping[int, list[int]] = defaultdict(list)
    for position, (image, _) in enumerate(crops):
        by_image[image].append(position)

    def read(image: int) -> tuple[list[int], Tensor]:
        pixels = stack_images([images.pool.read(image)])[0].permute(2, 0, 1)
        scale = 1.0 if pixels.dtype == torch.uint8 else 255.0
        shrunk = []
        for position in by_image[image]:
            size = (pixels.shape[1], pixels.shape[2])
            x0, y0, x1, y1 = in_pixels(crops[position][1], images.pool.size(image), size)
            shrunk.append(shrink(pixels[:, y0:y1, x0:x1].float() * scale))
        return by_image[image], torch.stack(shrunk).round_().to(torch.uint8)

    yield from prefetch(read, sorted(by_image), workers)
