"""Large images for pictures: read and looked at tile by tile, and kept at a reduced size only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.evidence import Evidence
from segal.candidates.kept import Images
from segal.pictures.overlays import shown_bands
from segal.system.machine import autocast
from segal.tasks.drawing import Drawn
from segal.tasks.tiles import Layout, TiledImage

_SIDE = 2048
"""Longest side that is kept, in pixels."""
_STRIP = 1024
_EXCLUDED = 128


class _Reduced:
    """Means of a map over squares of pixels, added up piece by piece."""

    def __init__(self, size: tuple[int, int], factor: int, channels: int) -> None:
        self._size, self._factor = size, factor
        shape = (-(-size[0] // factor), -(-size[1] // factor), channels)
        self._sums = np.zeros(shape)

    def add(self, top: int, left: int, piece: NDArray[Any]) -> None:
        """Adds a piece (h, w, channels) at its place in the image."""
        rows, columns = (
            self._starts(at, side) for at, side in zip((top, left), piece.shape[:2], strict=True)
        )
        down = np.add.reduceat(piece, rows, axis=0, dtype=np.float64)
        sums = np.add.reduceat(down, columns, axis=1)
        y, x = top // self._factor, left // self._factor
        self._sums[y : y + sums.shape[0], x : x + sums.shape[1]] += sums

    def means(self) -> NDArray[np.float32]:
        """(h, w, channels); squares at the edges are of fewer pixels."""
        tall, wide = (
            np.minimum(self._factor, side - np.arange(0, side, self._factor)) for side in self._size
        )
        means: NDArray[np.float64] = self._sums / (tall[:, None, None] * wide[:, None])
        return means.astype(np.float32)

    def _starts(self, at: int, length: int) -> NDArray[np.int64]:
        """Where squares begin in a piece of an axis."""
        first = -at % self._factor
        starts = np.arange(first, length, self._factor)
        return starts if first == 0 else np.concatenate([[0], starts])


def load_reduced(drawn: Drawn, image: int) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """A large image and its uncertainty map at a reduced size; what is excluded is grey, and 0.

    Args:
        drawn: What pictures are drawn from.
        image: Position in the pool.

    Returns:
        (h, w, 3) uint8, and (h, w) float32 or None, at most 2,048 pixels on a side.
    """
    size = drawn.pool.shape(image)
    factor = -(-max(size) // _SIDE)
    excluded = tuple(drawn.excluded.get(drawn.pool.paths[image], ()))
    pixels = _pixels(drawn, image, factor)
    shown = shown_bands(pixels, stretched=drawn.pool.reading.bands is not None).copy()
    for box in excluded:
        x0, y0, x1, y1 = (round(edge / factor) for edge in box)
        shown[y0:y1, x0:x1] = _EXCLUDED
    if drawn.model is None:
        return shown, None
    values = _Reduced(size, factor, 1)
    model = drawn.model

    def run(images: Images, names: Sequence[str]) -> Evidence:
        assert isinstance(images, torch.Tensor)
        with autocast(model.device, drawn.precision):
            evidence: Evidence = model(model.normalise(images.to(model.device)))
        evidence.images = tuple(names)
        return evidence

    layout = Layout.of(size, drawn.pool.reading.large, model.spec)
    tiled = TiledImage(drawn.pool.pixels(), image, layout, run, excluded=excluded)
    for row, pieces in tiled.pieces():
        for piece in pieces:
            uncertain = drawn.value.element_map(piece.evidence)[0].float()
            if piece.mask is not None:
                own = piece.mask[: uncertain.shape[0], : uncertain.shape[1]]
                uncertain = uncertain.masked_fill(~own, 0.0)
            found = uncertain.cpu().numpy()[..., None]
            values.add(row.first, piece.column.first, found)
    return shown, values.means()[..., 0]


def _pixels(drawn: Drawn, image: int, factor: int) -> NDArray[np.float32]:
    """(h, w, channels) of the image at a reduced size, in [0, 1]."""
    height, width = drawn.pool.shape(image)
    pool, reduced = drawn.pool.pixels(), None
    for top in range(0, height, _STRIP):
        for left in range(0, width, _STRIP):
            box = left, top, min(left + _STRIP, width), min(top + _STRIP, height)
            piece = pool.window(image, box)
            scale = 255 if piece.dtype == np.uint8 else 1
            reduced = reduced or _Reduced((height, width), factor, piece.shape[2])
            reduced.add(top, left, piece.astype(np.float32) / scale)
    assert reduced is not None
    return reduced.means()
