"""Large images in a pass over the pool: tile after tile, pooled to regions of the whole image.

A signal does not know: it asks for sums of maps over units, and each of its calls is added up over
the tiles. When a row of regions is done, it is asked again, and gets the sums of the whole image.
Features are blended as logits are: a tile's are weighted by what it counts at each pixel.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Evidence, Units, Upsampling
from segal.candidates.regions import Box, Grid
from segal.functional.coverage import remaining_pixels
from segal.functional.overlapping import Span
from segal.functional.pooling import interpolation_matrix, interval_weights, pool_grid
from segal.signals import Meter, Signal
from segal.tasks.tiles import Piece, TiledImage

Measured = dict[str, NDArray[np.float64]]


class Measure(Protocol):
    """Measures signals over units, and sees to it that they are finite."""

    def __call__(
        self,
        evidence: Evidence | None,
        units: Units,
        meters: Mapping[Signal, Meter],
        names: Sequence[str],
    ) -> Measured:
        """Each signal by its column: (1, units) or (1, units, d)."""
        ...


def measure_tiled(
    image: TiledImage,
    grids: Mapping[str, Grid],
    labelled: Sequence[Box],
    meters: Mapping[Signal, Meter],
    measure: Measure,
) -> Iterator[tuple[str | None, NDArray[np.int32], Measured]]:
    """Measures regions of a whole image.

    Args:
        image: It.
        grids: By name.
        labelled: Boxes that are labelled already.
        meters: The signals, all of which can be measured in pieces.
        measure: Asks them for their values.

    Yields:
        The name of a grid, boxes (n, 4) and their values by column, grid by grid in the order
        of their rows; at last under None each of the labelled boxes.
    """
    kept = {signal: meter for signal, meter in meters.items() if signal.of_labelled}
    waiting = {name: list(_bands(image, grid)) for name, grid in grids.items()}
    boxes = [_band(image, Grid(((y0, y1),), ((x0, x1),))) for x0, y0, x1, y1 in labelled]
    evidence: Evidence | None = None
    for row, pieces in image.pieces():
        for piece in pieces:
            evidence = piece.evidence
            for band in chain(*waiting.values()):
                band.add(piece, meters)
            for band in boxes:
                band.add(piece, kept)
        assert evidence is not None  # the first tile is always looked at
        for name, bands in waiting.items():
            while bands and bands[0].bottom <= row.own:
                band = bands.pop(0)
                yield name, band.grid.boxes(), band.values(evidence, meters, measure, image.name)
    assert evidence is not None
    for band in boxes:
        yield None, band.grid.boxes(), band.values(evidence, kept, measure, image.name)


def _bands(image: TiledImage, grid: Grid) -> Iterator["_Band"]:
    return (_band(image, Grid((row,), grid.columns)) for row in grid.rows)


def _band(image: TiledImage, grid: Grid) -> "_Band":
    return _Band(grid, np.asarray(image.excluded, np.int64).reshape(-1, 4))


def _shown(
    piece: Piece, element_map: Tensor, grid: Grid, without: float
) -> tuple[slice, Tensor, Sequence[tuple[int, int]]] | None:
    """What a piece's own pixels show of a row of regions: its columns, the map, their intervals.

    Args:
        piece: The piece.
        element_map: Of it.
        grid: The row of regions.
        without: What stands where there is no data.
    """
    found = _own(piece, grid)
    if found is None:
        return None
    columns, rows, intervals = found
    shown = element_map[..., rows, :]
    if piece.mask is not None:
        shown = shown.masked_fill(~piece.mask[rows, : shown.shape[3]], without)
    return columns, shown, intervals


def _of_pixels(piece: Piece, element_map: Tensor, grid: Grid) -> tuple[slice, Tensor] | None:
    """Columns of a row of regions that its own pixels meet, and sums (n, D) over these."""
    found = _shown(piece, element_map, grid, 0.0)
    if found is None:
        return None
    columns, shown, intervals = found
    ones = torch.ones(1, shown.shape[2], dtype=torch.float64, device=shown.device)
    across = interval_weights(intervals, shown.shape[3], None, True).to(shown.device)
    return columns, pool_grid(shown, ones, across)[0]


def _largest(piece: Piece, element_map: Tensor, grid: Grid) -> tuple[slice, Tensor] | None:
    """The same, of largest values."""
    found = _shown(piece, element_map, grid, -torch.inf)
    if found is None:
        return None
    columns, shown, intervals = found
    parts = [shown[..., a:b].amax((-1, -2)) for a, b in intervals]
    return columns, torch.stack(parts, 1)[0].double()


def _of_cells(
    piece: Piece, low: Tensor, upsampling: Upsampling, grid: Grid
) -> tuple[slice, Tensor] | None:
    """The same of a map of the tile's cells, spread over its pixels and weighted."""
    rows = _clipped(grid.rows[0], piece.row.first, piece.row.last)
    columns, intervals = _meeting(grid, piece.column.first, piece.column.last)
    if rows is None or not intervals:
        return None
    axes = zip((piece.row, piece.column), low.shape[2:], upsampling.size, strict=True)
    down, over = (_weighted_spread(*axis, upsampling.align_corners).to(low.device) for axis in axes)
    across = torch.stack([over[a:b].sum(0) for a, b in intervals])
    sums = pool_grid(low, down[slice(*rows)].sum(0, keepdim=True), across)[0]
    if piece.mask is not None:
        for i, (a, b) in enumerate(intervals):
            own = piece.mask[slice(*rows), a:b]
            if not own.all():
                weights = down[slice(*rows)].T @ own.double() @ over[a:b]
                y, x = (_span(weights.any(axis)) for axis in (1, 0))
                sums[i] = (low[0, :, y, x].double() * weights[y, x]).sum((1, 2))
    return columns, sums


def _own(piece: Piece, grid: Grid) -> tuple[slice, slice, list[tuple[int, int]]] | None:
    rows = _clipped(grid.rows[0], piece.row.first, piece.row.own)
    columns, intervals = _meeting(grid, piece.column.first, piece.column.own)
    return None if rows is None or not intervals else (columns, slice(*rows), intervals)


@lru_cache(maxsize=64)
def _weighted_spread(span: Span, cells: int, pixels: int, align_corners: bool) -> Tensor:
    """(used, cells) float64 shares of cells in a tile's pixels, times the pixels' weights."""
    matrix = interpolation_matrix(cells, pixels, align_corners)
    used = matrix[span.first - span.start : span.last - span.start]
    return used * torch.from_numpy(span.weights())[:, None]


def _span(used: Tensor) -> slice:
    places = used.nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _clipped(interval: tuple[int, int], first: int, last: int) -> tuple[int, int] | None:
    """What an interval has of another, counted from its beginning."""
    start, stop = max(interval[0], first) - first, min(interval[1], last) - first
    return (start, stop) if start < stop else None


def _meeting(grid: Grid, first: int, last: int) -> tuple[slice, list[tuple[int, int]]]:
    """Which columns of a grid meet an interval, and what of it they are."""
    low = bisect_right([end for _, end in grid.columns], first)
    high = bisect_left([start for start, _ in grid.columns], last)
    found = (_clipped(column, first, last) for column in grid.columns[low:high])
    return slice(low, high), [interval for interval in found if interval is not None]


@dataclass(eq=False)
class _Band:
    """A row of regions, and what is added up of it.

    Attributes:
        grid: Of one row.
        excluded: (m, 4) boxes that are never annotated.
    """

    grid: Grid
    excluded: NDArray[np.int64]
    _calls: dict[Signal, list[Tensor]] = field(default_factory=dict)

    @property
    def top(self) -> int:
        """Its first row of pixels."""
        return self.grid.rows[0][0]

    @property
    def bottom(self) -> int:
        """Where it ends."""
        return self.grid.rows[0][1]

    def add(self, piece: Piece, meters: Mapping[Signal, Meter]) -> None:
        """Adds what a piece has of the regions, if any."""
        left, right = self.grid.columns[0][0], self.grid.columns[-1][1]
        if self.top >= piece.row.last or self.bottom <= piece.row.first:
            return
        if left >= piece.column.last or right <= piece.column.first:
            return
        for signal, meter in meters.items():
            meter.measure(piece.evidence, _Adding(self, piece, self._calls.setdefault(signal, [])))

    def values(
        self, evidence: Evidence, meters: Mapping[Signal, Meter], measure: Measure, name: str
    ) -> Measured:
        """What the signals make of the sums."""
        found: Measured = {}
        for signal, meter in meters.items():
            added = _Added(self, self._calls.get(signal, []))
            found |= measure(evidence, added, {signal: meter}, [name])
        return found

    @cached_property
    def counts(self) -> Tensor:
        """(n,) float64 pixels of each region that can be annotated; 1 where there is none."""
        excluded = self.excluded
        near = (excluded[:, 1] < self.bottom) & (self.top < excluded[:, 3])
        pixels = remaining_pixels(self.grid.boxes().astype(np.int64), excluded[near])
        return torch.from_numpy(pixels.astype(np.float64)).clamp(min=1)


class _Regions:
    """Units as signals see them: a row of regions of the whole image."""

    excluded: ClassVar[tuple[Box, ...]] = ()

    def __init__(self, band: _Band, calls: list[Tensor]) -> None:
        self._band, self._calls, self._next = band, calls, 0

    def __len__(self) -> int:
        return len(self._band.grid)

    def boxes(self) -> NDArray[np.int32]:
        """(n, 4)."""
        return self._band.grid.boxes()

    def _call(self, like: Tensor, start: float) -> Tensor:
        """What is added up of the call that comes next: (n, D) float64."""
        self._next += 1
        if self._next > len(self._calls):
            shape = len(self), like.shape[1]
            self._calls.append(torch.full(shape, start, dtype=torch.float64, device=like.device))
        return self._calls[self._next - 1]


class _Adding(_Regions):
    """Adds up what a signal asks for of a piece."""

    def __init__(self, band: _Band, piece: Piece, calls: list[Tensor]) -> None:
        super().__init__(band, calls)
        self._piece = piece

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Units.pool`; the sums are of the pieces so far."""
        total = self._call(element_map, 0.0)
        grid = self._band.grid
        if upsampling is None:
            found = _of_pixels(self._piece, element_map, grid)
        else:
            found = _of_cells(self._piece, element_map, upsampling, grid)
        if found is not None:
            total[found[0]] += found[1]
        return total[None], self._band.counts.to(total.device)

    def pool_max(self, element_map: Tensor) -> Tensor:
        """See `Units.pool_max`; likewise."""
        total = self._call(element_map, -torch.inf)
        found = _largest(self._piece, element_map, self._band.grid)
        if found is not None:
            total[found[0]] = torch.maximum(total[found[0]], found[1])
        return total[None]


class _Added(_Regions):
    """Gives a signal the sums of the whole image, in the order of its calls."""

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Units.pool`."""
        total = self._call(element_map, 0.0)
        return total[None], self._band.counts.to(total.device)

    def pool_max(self, element_map: Tensor) -> Tensor:
        """See `Units.pool_max`."""
        total = self._call(element_map, -torch.inf)[None]
        return total.masked_fill(total == -torch.inf, 0.0)
