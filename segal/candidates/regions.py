"""Regions: which rectangles of an image can be bought, and pooling over them.

Coordinates are pixels of the original image after EXIF orientation, x right, y down; boxes are
half-open (x0, y0, x1, y1).
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Units, Upsampling
from segal.errors import SegalError
from segal.functional.pooling import interval_weights, pool_boxes, pool_grid

Box = tuple[int, int, int, int]
Interval = tuple[int, int]


@dataclass(frozen=True)
class RegionSize:
    """Size of a region; None on both sides is the whole image.

    Attributes:
        height: In pixels of the original image, or None.
        width: Likewise.
    """

    height: int | None = None
    width: int | None = None

    @classmethod
    def parse(cls, text: str) -> "RegionSize":
        """Reads `512` (square), `256x512` (height x width) or `image`.

        Raises:
            SegalError: For anything else, or a side below 1.
        """
        text = str(text).strip()
        if text == "image":
            return cls()
        match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
        height, width = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if height < 1 or width < 1:
            raise SegalError(
                "region: not a region size",
                expected="a side in pixels such as 512, HEIGHTxWIDTH such as 256x512, or image",
                got=repr(text),
                remedy="give for example --region 512",
            )
        return cls(height, width)

    def __str__(self) -> str:
        if self.height is None:
            return "image"
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    def grid(self, height: int, width: int) -> "Grid":
        """The grid of this size over an image of (height, width) pixels."""
        return Grid(
            _partition(height, self.height or height), _partition(width, self.width or width)
        )


def _partition(length: int, step: int) -> tuple[Interval, ...]:
    """Intervals of `step` from 0 that partition [0, length); the last is clipped."""
    return tuple((start, min(start + step, length)) for start in range(0, length, step))


@lru_cache(maxsize=256)
def _weights(
    intervals: tuple[Interval, ...], cells: int, pixels: int | None, align_corners: bool
) -> Tensor:
    return interval_weights(intervals, cells, pixels, align_corners)


def _axis_weights(
    rows: tuple[Interval, ...],
    columns: tuple[Interval, ...],
    element_map: Tensor,
    upsampling: Upsampling | None,
) -> tuple[Tensor, Tensor]:
    height, width = element_map.shape[-2:]
    if upsampling is None:
        return _weights(rows, height, None, True), _weights(columns, width, None, True)
    padded_height, padded_width = upsampling.size
    corners = upsampling.align_corners
    return (
        _weights(rows, height, padded_height, corners),
        _weights(columns, width, padded_width, corners),
    )


@dataclass(frozen=True)
class Grid:
    """A grid anchored at the origin that partitions an image; regions in row-major order.

    Attributes:
        rows: Intervals (y0, y1) from the top.
        columns: Intervals (x0, x1) from the left.
    """

    rows: tuple[Interval, ...]
    columns: tuple[Interval, ...]
    excluded: ClassVar[tuple[Box, ...]] = ()

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def boxes(self) -> NDArray[np.int32]:
        """(n, 4) boxes (x0, y0, x1, y1)."""
        boxes = [(x0, y0, x1, y1) for y0, y1 in self.rows for x0, x1 in self.columns]
        return np.array(boxes, np.int32)

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums (B, n, D) and pixel counts (n,), both float64; see `evidence.Units`."""
        weights = _axis_weights(self.rows, self.columns, element_map, upsampling)
        heights = torch.tensor([y1 - y0 for y0, y1 in self.rows], dtype=torch.float64)
        widths = torch.tensor([x1 - x0 for x0, x1 in self.columns], dtype=torch.float64)
        counts = torch.outer(heights, widths).flatten().to(element_map.device)
        return pool_grid(element_map, *weights), counts

    def pool_max(self, element_map: Tensor) -> Tensor:
        """Largest value in each region: (B, n, D)."""
        bands = torch.stack([element_map[..., x0:x1].amax(-1) for x0, x1 in self.columns], -1)
        cells = torch.stack([bands[..., y0:y1, :].amax(-2) for y0, y1 in self.rows], -2)
        return cells.flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Boxes:
    """Any boxes of one image, such as regions that were labelled on an earlier grid.

    Attributes:
        listed: Half-open boxes (x0, y0, x1, y1), in pixels.
    """

    listed: tuple[Box, ...]
    excluded: ClassVar[tuple[Box, ...]] = ()
    _rows: tuple[Interval, ...] = field(init=False, repr=False)
    _columns: tuple[Interval, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", tuple((y0, y1) for _, y0, _, y1 in self.listed))
        object.__setattr__(self, "_columns", tuple((x0, x1) for x0, _, x1, _ in self.listed))

    def __len__(self) -> int:
        return len(self.listed)

    def boxes(self) -> NDArray[np.int32]:
        """(n, 4) boxes (x0, y0, x1, y1)."""
        return np.array(self.listed, np.int32).reshape(-1, 4)

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums (B, n, D) and pixel counts (n,), both float64; see `evidence.Units`."""
        weights = _axis_weights(self._rows, self._columns, element_map, upsampling)
        counts = [float((x1 - x0) * (y1 - y0)) for x0, y0, x1, y1 in self.listed]
        return pool_boxes(element_map, *weights), torch.tensor(
            counts, dtype=torch.float64, device=element_map.device
        )

    def pool_max(self, element_map: Tensor) -> Tensor:
        """Largest value in each box: (B, n, D)."""
        values = [element_map[..., y0:y1, x0:x1].amax((-1, -2)) for x0, y0, x1, y1 in self.listed]
        return torch.stack(values, 1)


def split(units: Units, most: int) -> list[Units]:
    """Units in parts of at most so many."""
    if len(units) <= most:
        return [units]
    boxes: list[Box] = [(x0, y0, x1, y1) for x0, y0, x1, y1 in units.boxes().tolist()]
    parts = [Boxes(tuple(boxes[i : i + most])) for i in range(0, len(boxes), most)]
    return [Rest(part, units.excluded) if units.excluded else part for part in parts]


@dataclass(frozen=True)
class Rest:
    """What is left of units where some of the image is never annotated.

    Sums over what is excluded, in closed form too, are taken from the sums over whole units. A unit
    of which nothing is left sums to 0, as of one element, so that its mean is 0 as well.

    Attributes:
        units: Whole.
        excluded: Boxes that do not overlap.
    """

    units: Units
    excluded: tuple[Box, ...]
    _parts: Boxes = field(init=False, repr=False)
    _owners: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        owners, parts = [], []
        boxes = self.units.boxes().astype(np.int64)
        for a, b, c, d in self.excluded:
            x0, y0 = np.maximum(boxes[:, 0], a), np.maximum(boxes[:, 1], b)
            x1, y1 = np.minimum(boxes[:, 2], c), np.minimum(boxes[:, 3], d)
            meeting = np.flatnonzero((x0 < x1) & (y0 < y1))
            owners += meeting.tolist()
            parts += np.stack([x0, y0, x1, y1], 1)[meeting].tolist()
        object.__setattr__(self, "_owners", tuple(owners))
        object.__setattr__(self, "_parts", Boxes(tuple((x, y, z, w) for x, y, z, w in parts)))

    def __len__(self) -> int:
        return len(self.units)

    def boxes(self) -> NDArray[np.int32]:
        """(n, 4) boxes of the whole units."""
        return self.units.boxes()

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums (B, n, D) and pixel counts (n,), both float64; see `evidence.Units`."""
        sums, counts = self.units.pool(element_map, upsampling)
        if self._owners:
            less, fewer = self._parts.pool(element_map, upsampling)
            owners = torch.tensor(self._owners, device=sums.device)
            sums = sums.index_add(1, owners, less.to(sums), alpha=-1)
            counts = counts.index_add(0, owners, fewer.to(counts), alpha=-1)
        nothing = counts == 0
        return sums.masked_fill(nothing[:, None], 0.0), counts.masked_fill(nothing, 1.0)

    def pool_max(self, element_map: Tensor) -> Tensor:
        """Largest value in what is left of each unit; 0 where that is nothing: (B, n, D)."""
        shown = element_map.clone()
        for x0, y0, x1, y1 in self.excluded:
            shown[..., y0:y1, x0:x1] = -torch.inf
        largest = self.units.pool_max(shown)
        return largest.masked_fill(largest == -torch.inf, 0.0)
