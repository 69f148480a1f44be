"""Images that are too large for one pass: tile after tile, pooled to regions of the whole image.

Neighbouring tiles overlap. Where one passes into the next their logits are blended, and so are
features, by linear weights that sum to one (see `segal.functional.overlapping`). Of the image there
are never more than a few tiles in memory, and of its logits a tile and the strips that the next
tiles are blended with.

A signal does not know: it asks for sums of maps over units, and each of its calls is added up over
the tiles. When a row of regions is done, it is asked again, and gets the sums of the whole image.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import takewhile
from math import gcd
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Evidence, Units, Upsampling
from segal.candidates.kept import Images
from segal.candidates.regions import Box, Grid
from segal.data.image_file import Large
from segal.data.pool import ImagePool
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_images
from segal.functional.coverage import remaining_pixels
from segal.functional.overlapping import Span, overlapping
from segal.functional.pooling import interpolation_matrix, interval_weights, pool_grid
from segal.models.spec import ModelSpec
from segal.models.wrapped import Model
from segal.signals import Meter, Signal

Measured = dict[str, NDArray[np.float64]]
_SEES_ALL = (
    *("AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "GroupNorm", "InstanceNorm2d"),
    *("MultiheadAttention", "SqueezeExcitation", "SqueezeExcite"),
)


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


@dataclass(frozen=True)
class Layout:
    """The tiles of an image.

    Attributes:
        rows: Along the height.
        columns: Along the width.
    """

    rows: Sequence[Span]
    columns: Sequence[Span]

    @classmethod
    def of(cls, size: tuple[int, int], large: Large, spec: ModelSpec) -> "Layout":
        """The tiles of an image of (height, width), as a network is shown them.

        Tiles begin where a cell of the network's grid on the whole image does: their sides are
        rounded up to multiples of its stride.
        """
        step = _multiple(spec.stride, spec.input_scale)
        tile, overlap = (-(-side // step) * step for side in (large.tile, large.overlap))
        tile = max(tile, 2 * overlap)
        rows, columns = (overlapping(side, tile, overlap, step) for side in size)
        return cls(rows, columns)

    @property
    def shapes(self) -> set[tuple[int, int]]:
        """(height, width) of the tiles."""
        tall, wide = ({s.stop - s.start for s in spans} for spans in (self.rows, self.columns))
        return {(height, width) for height in tall for width in wide}


def _multiple(stride: int, scale: float) -> int:
    """Pixels of an image that are a whole number of a network's strides at its scale."""
    ratio = Fraction(scale).limit_denominator(16)
    if abs(float(ratio) - scale) > 1e-9:
        return stride  # the network's grid is not met; tiles differ by less than a cell
    return ratio.denominator * stride // gcd(ratio.numerator, stride)


def tiling_note(count: int, large: Large, model: Model) -> str:
    """What a user should know of a pass over large images."""
    kinds = {type(module).__name__ for module in model.network.modules()}
    note = (
        f"{count} images of more than {large.above:g} megapixels are looked at in tiles of "
        f"{large.tile} pixels that overlap by {large.overlap}: where the network looks further "
        f"than {large.overlap // 4} pixels, values near the seams differ from those of a pass over "
        "the whole."
    )
    everywhere = sorted(kinds & set(_SEES_ALL))
    if everywhere:
        note += (
            f" This network looks at all that it is shown ({', '.join(everywhere)}): its values "
            "differ everywhere, by what lies beyond a tile."
        )
    return note


@dataclass(frozen=True, eq=False)
class LargeImage:
    """A large image to be measured.

    Attributes:
        pool: Where it is.
        index: Which.
        layout: Its tiles.
        run: Runs the network on images (B, h, w, channels) under the names of their files.
        batch_size: Tiles at a time.
        workers: Threads that read ahead.
        excluded: What is never annotated of it, as boxes that do not overlap.
    """

    pool: ImagePool
    index: int
    layout: Layout
    run: Callable[[Images, Sequence[str]], Evidence]
    batch_size: int = 1
    workers: int = 0
    excluded: Sequence[Box] = ()

    @property
    def name(self) -> str:
        """Its path in the pool."""
        return self.pool.paths[self.index]

    def measure(
        self,
        grids: Mapping[str, Grid],
        labelled: Sequence[Box],
        meters: Mapping[Signal, Meter],
        measure: Measure,
    ) -> Iterator[tuple[str | None, NDArray[np.int32], Measured]]:
        """Measures regions of the whole image.

        Args:
            grids: By name.
            labelled: Boxes that are labelled already.
            meters: The signals, all of which can be measured in pieces.
            measure: Asks them for their values.

        Yields:
            The name of a grid, boxes (n, 4) and their values by column, grid by grid in the order
            of their rows; at last under None each of the labelled boxes.
        """
        kept = {signal: meter for signal, meter in meters.items() if signal.of_labelled}
        waiting = {name: list(self._bands(grid)) for name, grid in grids.items()}
        boxes = [self._band(Grid(((y0, y1),), ((x0, x1),))) for x0, y0, x1, y1 in labelled]
        evidence: Evidence | None = None
        for row, pieces in self._pieces():
            for piece in pieces:
                evidence = piece.evidence
                for bands in waiting.values():
                    for band in takewhile(lambda band: band.top < row.last, bands):
                        band.add(piece, meters)
                for band in boxes:
                    band.add(piece, kept)
            assert evidence is not None  # the first tile is always looked at
            for name, bands in waiting.items():
                while bands and bands[0].bottom <= row.own:
                    band = bands.pop(0)
                    yield name, band.grid.boxes(), band.values(evidence, meters, measure, self.name)
        assert evidence is not None
        for band in boxes:
            yield None, band.grid.boxes(), band.values(evidence, kept, measure, self.name)

    def _bands(self, grid: Grid) -> Iterator["_Band"]:
        return (self._band(Grid((row,), grid.columns)) for row in grid.rows)

    def _band(self, grid: Grid) -> "_Band":
        return _Band(grid, np.asarray(self.excluded, np.int64).reshape(-1, 4))

    def _pieces(self) -> Iterator[tuple[Span, Iterator["_Piece"]]]:
        """The pieces of the image, by rows of tiles."""
        above = _Above(self.pool.size(self.index)[1])
        for row in self.layout.rows:
            yield row, self._row(row, above)

    def _row(self, row: Span, above: "_Above") -> Iterator["_Piece"]:
        tiles = []
        for column in self.layout.columns:
            shown = self._shown(row, column)
            if shown is None or shown.any() or (row.start, column.start) == (0, 0):
                tiles.append((column, shown))
        groups: list[list[tuple[Span, NDArray[np.bool_] | None]]] = []
        for tile in tiles:
            width = tile[0].stop - tile[0].start
            alike = groups and groups[-1][0][0].stop - groups[-1][0][0].start == width
            if not alike or len(groups[-1]) == self.batch_size:
                groups.append([])
            groups[-1].append(tile)

        def read(group: list[tuple[Span, NDArray[np.bool_] | None]]) -> Images:
            boxes = [(c.start, row.start, c.stop, row.stop) for c, _ in group]
            return stack_images([self.pool.window(self.index, box) for box in boxes])

        beside = _Beside()
        images = prefetch(read, groups, self.workers)
        for group, batch in zip(groups, images, strict=True):
            evidence = self.run(batch, [self.name] * len(group))
            for i, (column, shown) in enumerate(group):
                one = evidence.of([i])
                logits = beside.blended(one.logits, row, column)
                block = Evidence(
                    above.blended(logits, row, column),
                    one.features,
                    one.upsampling,
                    images=(self.name,),
                )
                yield _Piece(block, row, column, shown)

    def _shown(self, row: Span, column: Span) -> NDArray[np.bool_] | None:
        """Where a tile, as far as it is used, can be annotated; None: everywhere."""
        if not self.excluded:
            return None
        top, left = row.first, column.first
        x0, y0, x1, y1 = np.asarray(self.excluded).T
        meeting = (x0 < column.last) & (left < x1) & (y0 < row.last) & (top < y1)
        if not meeting.any():
            return None
        shown = np.ones((row.last - top, column.last - left), np.bool_)
        for a, b, c, d in np.asarray(self.excluded)[meeting].tolist():
            shown[max(b - top, 0) : d - top, max(a - left, 0) : c - left] = False
        return shown


class _Beside:
    """Blends the logits of tiles from the left to the right."""

    def __init__(self) -> None:
        self._held: Tensor | None = None
        self._at = 0

    def blended(self, logits: Tensor, row: Span, column: Span) -> Tensor:
        """(1, C, used rows, own columns) of a tile's logits, weighted along both axes."""
        rows = slice(row.first - row.start, row.last - row.start)
        columns = slice(column.first - column.start, column.last - column.start)
        used = logits[..., rows, columns].to(torch.promote_types(logits.dtype, torch.float32))
        down, across = (torch.from_numpy(span.weights()).to(used) for span in (row, column))
        weighted = used * down[:, None] * across
        if self._held is not None and column.rise and self._at == column.first:
            weighted[..., : column.rise] += self._held
        own = column.own - column.first
        self._held, self._at = weighted[..., own:].clone(), column.own
        return weighted[..., :own]


class _Above:
    """Blends rows of tiles from the top to the bottom."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._held: Tensor | None = None

    def blended(self, weighted: Tensor, row: Span, column: Span) -> Tensor:
        """(1, C, own rows, own columns) of what is blended along the width."""
        columns = slice(column.first, column.own)
        own = row.own - row.first
        if row.rise and self._held is not None:
            weighted[..., : row.rise, :] += self._held[..., columns]
        below = weighted[..., own:, :]
        if below.shape[2]:
            if self._held is None:
                shape = (*below.shape[:3], self._width)
                self._held = below.new_zeros(shape)
            self._held[..., columns] = below
        return weighted[..., :own, :]


@dataclass(frozen=True, eq=False)
class _Piece:
    """What a tile adds to the image.

    Attributes:
        evidence: Logits are blended, of the tile's own pixels; features are those of the tile.
        row: The tile along the height.
        column: Along the width.
        shown: Where it can be annotated, of the pixels that are used; None: everywhere.
    """

    evidence: Evidence
    row: Span
    column: Span
    shown: NDArray[np.bool_] | None

    @cached_property
    def mask(self) -> Tensor | None:
        """`shown` on the network's device."""
        if self.shown is None or self.shown.all():
            return None
        return torch.from_numpy(self.shown).to(self.evidence.logits.device)

    def of_pixels(self, element_map: Tensor, grid: Grid) -> tuple[slice, Tensor] | None:
        """Columns of a row of regions that its own pixels meet, and sums (n, D) over these."""
        found = self._own(grid)
        if found is None:
            return None
        columns, rows, intervals = found
        shown = element_map[..., rows, :]
        if self.mask is not None:
            shown = shown.masked_fill(~self.mask[rows, : shown.shape[3]], 0.0)
        ones = torch.ones(1, shown.shape[2], dtype=torch.float64, device=shown.device)
        across = interval_weights(intervals, shown.shape[3], None, True).to(shown.device)
        return columns, pool_grid(shown, ones, across)[0]

    def largest(self, element_map: Tensor, grid: Grid) -> tuple[slice, Tensor] | None:
        """The same, of largest values."""
        found = self._own(grid)
        if found is None:
            return None
        columns, rows, intervals = found
        shown = element_map[..., rows, :]
        if self.mask is not None:
            shown = shown.masked_fill(~self.mask[rows, : shown.shape[3]], -torch.inf)
        parts = [shown[..., a:b].amax((-1, -2)) for a, b in intervals]
        return columns, torch.stack(parts, 1)[0].double()

    def of_cells(
        self, low: Tensor, upsampling: Upsampling, grid: Grid
    ) -> tuple[slice, Tensor] | None:
        """The same of a map of the tile's cells, spread over its pixels and weighted."""
        rows = _clipped(grid.rows[0], self.row.first, self.row.last)
        columns, intervals = _meeting(grid, self.column.first, self.column.last)
        if rows is None or not intervals:
            return None
        down = _weighted_spread(self.row, low.shape[2], upsampling.size[0], upsampling.align_corners)
        over = _weighted_spread(self.column, low.shape[3], upsampling.size[1], upsampling.align_corners)
        down, over = down.to(low.device), over.to(low.device)
        across = torch.stack([over[a:b].sum(0) for a, b in intervals])
        sums = pool_grid(low, down[slice(*rows)].sum(0, keepdim=True), across)[0]
        if self.mask is not None:
            for i, (a, b) in enumerate(intervals):
                own = self.mask[slice(*rows), a:b]
                if not own.all():
                    weights = down[slice(*rows)].T @ own.double() @ over[a:b]
                    y, x = (_span(weights.any(axis)) for axis in (1, 0))
                    sums[i] = (low[0, :, y, x].double() * weights[y, x]).sum((1, 2))
        return columns, sums

    def _own(self, grid: Grid) -> tuple[slice, slice, list[tuple[int, int]]] | None:
        rows = _clipped(grid.rows[0], self.row.first, self.row.own)
        columns, intervals = _meeting(grid, self.column.first, self.column.own)
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

    def add(self, piece: _Piece, meters: Mapping[Signal, Meter]) -> None:
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

    def __init__(self, band: _Band, piece: _Piece, calls: list[Tensor]) -> None:
        super().__init__(band, calls)
        self._piece = piece

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """See `Units.pool`; the sums are of the pieces so far."""
        total = self._call(element_map, 0.0)
        grid = self._band.grid
        if upsampling is None:
            found = self._piece.of_pixels(element_map, grid)
        else:
            found = self._piece.of_cells(element_map, upsampling, grid)
        if found is not None:
            total[found[0]] += found[1]
        return total[None], self._band.counts.to(total.device)

    def pool_max(self, element_map: Tensor) -> Tensor:
        """See `Units.pool_max`; likewise."""
        total = self._call(element_map, -torch.inf)
        found = self._piece.largest(element_map, self._band.grid)
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
