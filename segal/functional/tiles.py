"""Regions cut into tiles, and the adjoint of bilinear upsampling on each tile.

The gradient of a sum of losses over some pixels, by the logits at the head's own resolution, is the
adjoint of the upsampling applied to the residual there (the losses' gradient by the upsampled
logits). Each pixel depends on few cells, so regions are cut into tiles of at most `TILE` pixels a
side, and what a tile pulls back lies on a small window of cells: the tile and a ring of one cell.
Windows of neighbours overlap, and their gradients add up: a region's gradient is the sum of its
tiles', whatever the region's size, and regions of several sizes share the tiles where they nest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.functional.coverage import mask_boxes
from segal.functional.pooling import interpolation_matrix

TILE = 64
"""Longest side of a tile, in pixels: 19 classes of it in float32 (304 KiB) stay in the cache."""


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles that boxes are made of: every box is the union of some, which do not overlap.

    Attributes:
        count: Number of boxes.
        tiles: (m, 4) half-open tiles (x0, y0, x1, y1), each once, by y0, y1, x0, x1.
        box: (k,) with `part`: tile `part[i]` is in box `box[i]`.
        part: (k,).
        pixels: (count,) float64, pixels of each box; at least 1.
    """

    count: int
    tiles: NDArray[np.int64]
    box: Tensor
    part: Tensor
    pixels: Tensor

    @property
    def key(self) -> bytes:
        """Equal for equal tiles."""
        return self.tiles.tobytes()

    def add(self, sums: Tensor, values: Tensor, part: slice) -> None:
        """Adds what was measured of some tiles to the boxes that they are in.

        Args:
            sums: (count, ...), changed in place.
            values: (tiles of the part, ...).
            part: Which tiles.
        """
        box, tile = self.box.to(sums.device), self.part.to(sums.device)
        here = (tile >= part.start) & (tile < part.stop)
        sums.index_add_(0, box[here], values[tile[here] - part.start].to(sums))

    def sum(self, values: Tensor) -> Tensor:
        """Sums of what was measured of tiles over the boxes.

        Args:
            values: (B, m, ...) of the tiles.

        Returns:
            (B, count, ...) float64.
        """
        box, part = self.box.to(values.device), self.part.to(values.device)
        sums = values.new_zeros((len(values), self.count, *values.shape[2:]), dtype=torch.float64)
        return sums.index_add_(1, box, values.index_select(1, part).double())


def tile_boxes(
    boxes: NDArray[np.integer], excluded: Sequence[tuple[int, int, int, int]] = ()
) -> Tiling:
    """Cuts boxes into tiles of at most `TILE` pixels a side, as equal as can be.

    Args:
        boxes: (n, 4) half-open (x0, y0, x1, y1); they may overlap.
        excluded: Boxes that no tile shows a pixel of. A box of which nothing is left has no tile,
            and counts as one pixel.

    Raises:
        ValueError: If a box is empty.
    """
    wide = np.ascontiguousarray(boxes, np.int64).reshape(-1, 4)
    if (wide[:, :2] >= wide[:, 2:]).any() or (wide < 0).any():
        raise ValueError("boxes: expected 0 <= x0 < x1 and 0 <= y0 < y1")
    return _tile_boxes(wide.tobytes(), tuple(excluded))


@lru_cache(maxsize=64)
def _tile_boxes(raw: bytes, excluded: tuple[tuple[int, int, int, int], ...]) -> Tiling:
    boxes = np.frombuffer(raw, np.int64).reshape(-1, 4)
    parts = [(row, part) for row, box in enumerate(boxes) for part in _rest(box, excluded)]
    pixels = np.zeros(len(boxes))
    for row, (left, top, right, bottom) in parts:
        pixels[row] += (right - left) * (bottom - top)
    tiles = [
        (y0, y1, x0, x1, row)
        for row, (left, top, right, bottom) in parts
        for y0, y1 in _cut(top, bottom)
        for x0, x1 in _cut(left, right)
    ]
    listed = np.array(tiles, np.int64).reshape(-1, 5)
    unique, part = np.unique(listed[:, :4], axis=0, return_inverse=True)
    return Tiling(
        count=len(boxes),
        tiles=np.ascontiguousarray(unique[:, [2, 0, 3, 1]]),
        box=torch.from_numpy(listed[:, 4].copy()),
        part=torch.from_numpy(part.reshape(-1)),
        pixels=torch.from_numpy(pixels.clip(1)),
    )


def _rest(
    box: NDArray[np.int64], excluded: tuple[tuple[int, int, int, int], ...]
) -> list[tuple[int, int, int, int]]:
    """What is left of a box, in boxes."""
    left, top, right, bottom = box.tolist()
    meeting = [e for e in excluded if e[0] < right and left < e[2] and e[1] < bottom and top < e[3]]
    if not meeting:
        return [(left, top, right, bottom)]
    shown = np.ones((bottom - top, right - left), np.bool_)
    for x0, y0, x1, y1 in meeting:
        shown[max(y0 - top, 0) : y1 - top, max(x0 - left, 0) : x1 - left] = False
    boxes = mask_boxes(shown)
    return [(x0 + left, y0 + top, x1 + left, y1 + top) for x0, y0, x1, y1 in boxes]


@lru_cache(maxsize=4096)
def _cut(start: int, stop: int) -> list[tuple[int, int]]:
    """An interval in pieces of at most `TILE`, equal but for the last."""
    pieces = -(-(stop - start) // TILE)
    step = -(-(stop - start) // pieces)
    return [(a, min(a + step, stop)) for a in range(start, stop, step)]


class Axis(NamedTuple):
    """One side of the tiles' windows.

    Attributes:
        starts: By tile, the first cell of its window.
        length: Cells of a window, the same for all.
        weights: By interval (start, stop) of pixels, (stop - start, length) float64 shares of the
            window's cells in its pixels.
    """

    starts: list[int]
    length: int
    weights: dict[tuple[int, int], Tensor]


class Run(NamedTuple):
    """Tiles of one size that lie side by side.

    Attributes:
        first: Position of the first one in the tiling.
        tiles: How many.
        rows: (y0, y1) of them all.
        columns: (x0, x1), from the first one's left to the last one's right.
    """

    first: int
    tiles: int
    rows: tuple[int, int]
    columns: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Windows:
    """The windows of cells that a tiling's tiles depend on.

    Attributes:
        tiling: The tiles.
        rows: Their windows' rows.
        columns: Their windows' columns.
    """

    tiling: Tiling
    rows: Axis
    columns: Axis
    _runs: dict[int, list[Run]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.tiling.tiles)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of a window, in cells."""
        return self.rows.length, self.columns.length

    def runs(self, most: int) -> list[Run]:
        """The tiles in order, as runs of at most so many pixels (but one tile at least)."""
        if most not in self._runs:
            self._runs[most] = list(_runs(self.tiling.tiles, most))
        return self._runs[most]

    def pull_back(self, residual: Tensor, run: Run) -> Tensor:
        """The adjoint of the upsampling, of each tile's residual on its own.

        Args:
            residual: (C, y1 - y0, x1 - x0), of the run's pixels.
            run: The tiles.

        Returns:
            (tiles, C, cells of a window), in the residual's dtype.
        """
        down = self.rows.weights[run.rows].to(residual)
        x0, x1 = run.columns
        step = (x1 - x0) // run.tiles
        across = torch.stack([self.columns.weights[x, x + step] for x in range(x0, x1, step)]).to(
            residual
        )
        low = torch.matmul(down.T, residual)  # rows first: the long side stays contiguous
        narrow = low.reshape(-1, run.tiles, step).transpose(0, 1) @ across
        return narrow.reshape(run.tiles, len(residual), -1)

    def sums(self, element_map: Tensor, run: Run) -> Tensor:
        """(tiles,) float64 sums of a (y1 - y0, x1 - x0) map over a run's tiles."""
        return element_map.sum(0, dtype=torch.float64).view(run.tiles, -1).sum(1)

    def cut(self, x: Tensor, first: int, last: int) -> Tensor:
        """What some tiles' windows show of a map.

        Args:
            x: (D, h, w).
            first: Position of the first tile.
            last: One beyond the last.

        Returns:
            (last - first, D, cells of a window).
        """
        height, width = self.shape
        starts = zip(self.rows.starts[first:last], self.columns.starts[first:last], strict=True)
        shown = [x[:, top : top + height, left : left + width] for top, left in starts]
        return torch.stack(shown).flatten(2)

    def add(self, x: Tensor, values: Tensor, tile: int) -> None:
        """Adds what is on a tile's window to a map, in place.

        Args:
            x: (D, h, w), the map.
            values: (D, cells of a window).
            tile: Position of the tile.
        """
        height, width = self.shape
        top, left = self.rows.starts[tile], self.columns.starts[tile]
        x[:, top : top + height, left : left + width] += values.view(-1, height, width)


@lru_cache(maxsize=64)
def windows(
    tiling: Tiling, cells: tuple[int, int], pixels: tuple[int, int], align_corners: bool
) -> Windows:
    """The windows of cells that tiles depend on.

    Args:
        tiling: The tiles; all within the pixels.
        cells: (h, w) of the map that is upsampled.
        pixels: (H, W) that it is upsampled to.
        align_corners: As in `interpolation_matrix`.

    Raises:
        ValueError: If a tile leaves the image.
    """
    x0, y0, x1, y1 = tiling.tiles.T
    if len(tiling.tiles) and (y1.max() > pixels[0] or x1.max() > pixels[1]):
        raise ValueError(f"boxes: expected them within {pixels} pixels (height, width)")
    rows = tuple(zip(y0.tolist(), y1.tolist(), strict=True))
    columns = tuple(zip(x0.tolist(), x1.tolist(), strict=True))
    return Windows(
        tiling,
        _axis(rows, cells[0], pixels[0], align_corners),
        _axis(columns, cells[1], pixels[1], align_corners),
    )


@lru_cache(maxsize=64)
def _axis(
    intervals: tuple[tuple[int, int], ...], cells: int, pixels: int, align_corners: bool
) -> Axis:
    matrix = interpolation_matrix(cells, pixels, align_corners)
    used = {}
    for start, stop in set(intervals):
        columns = matrix[start:stop].any(0).nonzero()
        used[start, stop] = int(columns[0]), int(columns[-1]) + 1
    length = max((last - first for first, last in used.values()), default=1)
    # A window at the far edge is moved back into the map; the cells that it gains weigh nothing.
    first_cell = {key: min(first, cells - length) for key, (first, _) in used.items()}
    weights = {
        (start, stop): matrix[start:stop, first : first + length].contiguous()
        for (start, stop), first in first_cell.items()
    }
    return Axis([first_cell[interval] for interval in intervals], length, weights)


def _runs(tiles: NDArray[np.int64], most: int) -> Iterator[Run]:
    first = 0
    while first < len(tiles):
        x0, y0, x1, y1 = tiles[first].tolist()
        last, right, width = first + 1, x1, x1 - x0
        longest = max(1, most // ((y1 - y0) * width))
        while last < min(len(tiles), first + longest) and tiles[last].tolist() == [
            right,
            y0,
            right + width,
            y1,
        ]:
            last, right = last + 1, right + width
        yield Run(first, last - first, (y0, y1), (x0, right))
        first = last
