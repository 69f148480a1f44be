"""Squared Euclidean distances between the rows of a large embedding and centres, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class ReadRows(Protocol):
    """An (n, d) floating-point matrix of which rows are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""
        ...

    @property
    def ndim(self) -> int:
        """2."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """A floating one."""
        ...

    def __getitem__(self, rows: Any, /) -> npt.NDArray[np.floating]:
        """Rows of a slice, or of an array of positions."""
        ...


Embedding = Tensor | npt.NDArray[np.floating] | ReadRows
"""An (n, d) floating-point matrix; a NumPy array may be memory-mapped and is read in pieces."""

_CLOSE = 2.0**-8
"""Below this share of the squared norm a product has lost too many digits: use the difference."""

_PAIRS = 4096
"""Differences taken at a time."""


class Rows:
    """The embedding's rows, read in pieces as float64 and taken from the data's middle.

    The middle is a sample's mean rounded to a binary grid of two to four standard deviations: near
    enough to the mean to save the products' digits, zero (no rounding at all) unless the data are
    offset, and with so few digits of its own that integer-valued rows stay exact.
    """

    def __init__(self, x: Embedding) -> None:
        floating = x.is_floating_point() if isinstance(x, Tensor) else x.dtype.kind == "f"
        if x.ndim != 2 or not floating:
            raise ValueError(
                "x: expected a floating-point matrix (n, d), "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        self.count, self.width = int(x.shape[0]), int(x.shape[1])
        self.device = x.device if isinstance(x, Tensor) else torch.device("cpu")
        # Rows converted and multiplied at a time. On a processor they stay in its cache.
        self.chunk = 512 if self.device.type == "cpu" else 16384
        self._x = x.detach() if isinstance(x, Tensor) else x
        self.middle = self._middle()
        self.offset = bool((self.middle != 0).any())

    def _middle(self) -> Tensor:
        sample = self._read(slice(None, None, max(1, self.count // 1024)), torch.float64)
        mean = sample.mean(0)
        if not bool(torch.isfinite(mean).all()):  # nor are all values, or there are no rows
            return torch.zeros_like(mean)
        spread = sample.std(0, correction=0)
        grid = torch.exp2(spread.log2().floor() + 2)
        middle = torch.where(spread > 0, (mean / grid).round() * grid, sample[0])
        return torch.where(torch.isfinite(middle), middle, mean)

    def _read(self, index: slice | Tensor, dtype: torch.dtype) -> Tensor:
        if isinstance(self._x, Tensor):
            # index_select is several times faster than indexing.
            part = self._x[index] if isinstance(index, slice) else self._x.index_select(0, index)
            return part.to(dtype)
        where = index.numpy() if isinstance(index, Tensor) else index
        numpy_dtype = np.float32 if dtype == torch.float32 else np.float64
        return torch.from_numpy(np.array(self._x[where], dtype=numpy_dtype))

    def parts(self) -> Iterator[slice]:
        """All rows, a chunk at a time."""
        for start in range(0, self.count, self.chunk):
            yield slice(start, min(start + self.chunk, self.count))

    def span(self, part: slice) -> Tensor:
        """The rows of a part as they are; may be a view of the caller's, so not to be changed."""
        return self._read(part, torch.float64)

    def take(self, ids: Tensor) -> Tensor:
        """The rows `ids`, less the middle."""
        return self._read(ids, torch.float64).sub_(self.middle)

    def take_float32(self, ids: Tensor) -> Tensor:
        """The rows `ids`, less the middle, rounded once to float32."""
        return self.take(ids).float() if self.offset else self._read(ids, torch.float32)


def lower(
    current: Tensor, points: Tensor, squares: Tensor, centres: Tensor, centre_squares: Tensor
) -> Tensor:
    """The lower of `current` and each point's squared distance to the nearest of the centres.

    From |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2); where that cancels, from the difference itself.
    """
    closest = torch.addmm(centre_squares * -0.5, points, centres.T).amax(1)
    squared = squares - 2 * closest
    cancelled = (squared < squares * _CLOSE) & (squared < current)
    if bool(cancelled.any()):
        near = points[cancelled]
        nearest = torch.cdist(near, centres, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        squared[cancelled] = (near - centres[nearest]).square_().sum(1)
    return torch.minimum(current, squared)


def squared_distances(points: Tensor, squares: Tensor) -> Tensor:
    """Squared distances between all pairs of some points, (m, m); by difference where close."""
    squared = torch.addmm(squares * -0.5, points, points.T).mul_(-2).add_(squares[:, None])
    i, j = (squared < squares[:, None] * _CLOSE).nonzero(as_tuple=True)
    for one, other in zip(torch.split(i, _PAIRS), torch.split(j, _PAIRS), strict=True):
        squared[one, other] = (points[one] - points[other]).square_().sum(1)
    return squared


def squared_norms(rows: Rows) -> tuple[Tensor, Tensor]:
    """Squared norms about the middle and about the origin, each (n,) float64."""
    centred = torch.empty(rows.count, dtype=torch.float64, device=rows.device)
    raw = torch.empty_like(centred)
    for part in rows.parts():
        values = rows.span(part)
        torch.linalg.vecdot(values, values, out=raw[part])
        if rows.offset:
            values = values - rows.middle
            torch.linalg.vecdot(values, values, out=centred[part])
    bad = (~torch.isfinite(raw)).nonzero()
    if len(bad):
        raise ValueError(
            f"x: expected finite values (and squared norms), got {float(raw[bad[0, 0]])} "
            f"for the squared norm of row {int(bad[0, 0])}"
        )
    return (centred if rows.offset else raw), raw


def as_centres(centers: Tensor | None, rows: Rows) -> Tensor:
    """The given centres as an (m, d) float64 tensor on the embedding's device; m may be 0."""
    if centers is None:
        return torch.empty(0, rows.width, dtype=torch.float64, device=rows.device)
    if centers.ndim != 2 or centers.shape[1] != rows.width:
        raise ValueError(
            f"centers: expected shape (m, {rows.width}) as x has {rows.width} columns, "
            f"got {tuple(centers.shape)}"
        )
    centres = centers.detach().to(rows.device, torch.float64)
    if not bool(torch.isfinite(centres).all()):
        raise ValueError("centers: expected finite values, got NaN or infinity")
    return centres
