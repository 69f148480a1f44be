"""A large image, looked at tile by tile: neighbours overlap, and are blended where they do.

Where one tile passes into the next their logits are blended by linear weights that sum to one (see
`segal.functional.overlapping`). There are never more than a few tiles in memory, and of the logits
a tile and the strips that the next tiles are blended with.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import gcd

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Evidence
from segal.candidates.kept import Images
from segal.candidates.regions import Box
from segal.data.image_file import Large
from segal.data.pool import ImagePool
from segal.data.prefetch import prefetch
from segal.data.transforms import stack_images
from segal.functional.overlapping import Span, overlapping
from segal.models.spec import ModelSpec
from segal.models.wrapped import Model

_SEES_ALL = (
    *("AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "GroupNorm", "InstanceNorm2d"),
    *("MultiheadAttention", "SqueezeExcitation", "SqueezeExcite"),
)


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
    is_are = "is" if count == 1 else "are"
    counted = "1 image" if count == 1 else f"{count} images"
    kinds = {type(module).__name__ for module in model.network.modules()}
    note = (
        f"{counted} of more than {large.above:g} megapixels {is_are} looked at in tiles of "
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
class TiledImage:
    """A large image that a network looks at tile by tile.

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

    def pieces(self) -> Iterator[tuple[Span, Iterator["Piece"]]]:
        """The pieces of the image, by rows of tiles."""
        above = _Above(self.pool.size(self.index)[1])
        for row in self.layout.rows:
            yield row, self._row(row, above)

    def _row(self, row: Span, above: "_Above") -> Iterator["Piece"]:
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
                yield Piece(block, row, column, shown)

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


@dataclass(frozen=True, eq=False)
class Piece:
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
