"""Tiles that overlap along an axis, and how each passes into the next.

A network sees less around a tile's edge than it would see in the whole. So a quarter of an overlap
at either side is not used, and over the half in between the weight of a tile falls linearly while
the next one's rises: the weights of all tiles sum to one everywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Span:
    """A tile along one axis.

    Attributes:
        start: Where it begins.
        stop: Where it ends.
        first: From where on it is used.
        own: From where on the next one is used, too.
        last: Up to where it is used.
        rise: Length, from `first`, over which its weight rises; 0 where there is none before it.
    """

    start: int
    stop: int
    first: int
    own: int
    last: int
    rise: int

    def weights(self) -> NDArray[np.float64]:
        """(last - first,) weight of the tile at each place where it is used."""
        weights = np.ones(self.last - self.first)
        if self.rise:
            weights[: self.rise] = (np.arange(self.rise) + 0.5) / self.rise
        fall = self.last - self.own
        if fall:
            weights[-fall:] = 1 - (np.arange(fall) + 0.5) / fall
        return weights


def overlapping(length: int, tile: int, overlap: int, multiple: int = 1) -> list[Span]:
    """Tiles that cover an axis, in order.

    All are of the same length but for the last, which is no further than `multiple` from it, and
    which overlaps the one before as far as it must. An axis of at most one tile is one tile.

    Args:
        length: Of the axis.
        tile: Of a tile; a multiple of `multiple`.
        overlap: Of neighbours, at least; likewise, and at most half a tile.
        multiple: Tiles begin at multiples of it.

    Raises:
        ValueError: If the lengths are none of these.

    Examples:
        >>> spans = overlapping(20, tile=8, overlap=4)
        >>> [(span.start, span.stop) for span in spans]
        [(0, 8), (4, 12), (8, 16), (12, 20)]
        >>> spans[1].first, spans[1].own, spans[1].last
        (5, 9, 11)
        >>> spans[1].weights().tolist()
        [0.25, 0.75, 1.0, 1.0, 0.75, 0.25]
    """
    if multiple < 1 or tile % multiple or overlap % multiple or not 0 <= 2 * overlap <= tile:
        raise ValueError(
            f"tiles of {tile} that overlap by {overlap}: expected multiples of {multiple}, and an "
            "overlap of at most half a tile"
        )
    if length <= tile:
        return [Span(0, length, 0, length, length, 0)]
    starts = list(range(0, length - tile, tile - overlap))
    starts.append(-(-(length - tile) // multiple) * multiple)
    ends = [min(start + tile, length) for start in starts]
    fades = [_fade(end, start, overlap) for end, start in zip(ends, starts[1:], strict=False)]
    return _spans(starts, ends, fades)


def _fade(end: int, start: int, overlap: int) -> tuple[int, int]:
    """Where a tile that ends passes into one that starts: amid what they share."""
    width = overlap // 2
    first = (start + end - width) // 2
    return first, first + width


def _spans(
    starts: Sequence[int], ends: Sequence[int], fades: Sequence[tuple[int, int]]
) -> list[Span]:
    spans = []
    for i, (start, stop) in enumerate(zip(starts, ends, strict=True)):
        before = fades[i - 1] if i else (0, 0)
        after = fades[i] if i < len(fades) else (stop, stop)
        spans.append(Span(start, stop, before[0], after[0], after[1], before[1] - before[0]))
    return spans
