"""k-means++ seeding: rows drawn in proportion to their squared distance to the nearest centre."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from segal.functional.distances import Embedding, Rows, lower, rows_of
from segal.functional.points import Points

_PENDING = 64
"""Picks made between two updates of all the distances."""

_PATIENCE = 32
"""Draws refused in a row after which the distances are updated early."""


def k_means_plusplus(
    x: Embedding,
    k: int,
    generator: torch.Generator,
    centers: Embedding | None = None,
    first: Literal["max_norm"] | int = "max_norm",
) -> Tensor:
    """Draw `k` different rows by D-squared sampling (Arthur & Vassilvitskii 2007).

    Draws follow the exact distribution, though all distances are updated only once in a while:
    a row is drawn in proportion to its last known squared distance, which can only have fallen,
    and kept with the probability that the present one is of it (rejection sampling). When every
    row left coincides with a centre, the lowest rows that are left follow in order.

    Args:
        x: (n, d) floating-point tensor on any device, or NumPy array, which may be memory-mapped
            (read in pieces; memory beyond `x` is O(n) and the centres); or `OuterProducts`.
        k: how many rows to draw, 1 to n.
        generator: decides the draws; the same state gives the same rows.
        centers: (m, d) points that are centres already, of the kind of `x`. With them every
            row is drawn. None (or m = 0): `first` is the first.
        first: the first row when there are no centres: "max_norm", the row of largest norm (the
            lowest of equals), or a row's position.

    Returns:
        (k,) int64 row positions in the order drawn, none twice.

    Raises:
        ValueError: `x` or `centers` is not a finite floating-point matrix, their widths differ,
            or `k` or `first` is out of range.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0], [0.0], [0.0], [7.0]])
        >>> k_means_plusplus(x, 2, torch.Generator().manual_seed(0)).tolist()
        [3, 2]
    """
    rows = rows_of(x)
    if not 1 <= k <= rows.count:
        raise ValueError(f"k out of range: expected 1 to {rows.count} (the rows of x), got {k}")
    given = rows.centres(centers)
    squares, raw_squares = rows.squares()
    weights = _Weights(rows, squares)
    picks: list[int] = []
    if len(given):
        for start in range(0, len(given), _PENDING):
            weights.update(given[start : start + _PENDING])
    else:
        picks.append(_first_row(first, raw_squares))
        weights.pick(picks[0])
        weights.update_pending()
    while len(picks) < k:
        row = weights.draw(generator)
        picks.append(row)
        weights.pick(row)
    return torch.tensor(picks, dtype=torch.int64, device=rows.device)


def _first_row(first: Literal["max_norm"] | int, raw_squares: Tensor) -> int:
    if first == "max_norm":
        return int(raw_squares.argmax())
    if not isinstance(first, int) or not 0 <= first < len(raw_squares):
        raise ValueError(
            f"first: expected 'max_norm' or a row from 0 to {len(raw_squares) - 1}, got {first!r}"
        )
    return first


class _Weights:
    """Squared distances to the nearest centre as of the last update, and the picks since."""

    def __init__(self, rows: Rows, squares: Tensor) -> None:
        self._rows, self._squares = rows, squares
        self._squared = torch.full_like(squares, torch.inf)
        self._cumulative = self._squared
        self._free = torch.ones_like(squares, dtype=torch.bool)
        self._pending: list[int] = []

    def pick(self, row: int) -> None:
        self._free[row] = False
        self._pending.append(row)
        if len(self._pending) == _PENDING:
            self.update_pending()

    def update_pending(self) -> None:
        self.update(self._points(self._pending))
        self._pending = []

    def update(self, centres: Points) -> None:
        """Account for centres (taken from the middle) and forget the weight of picked rows."""
        centre_squares = centres.squares()
        for part in self._rows.parts():
            points = self._rows.read(part)
            self._squared[part] = lower(
                self._squared[part], points, self._squares[part], centres, centre_squares
            )
        self._squared.clamp_min_(0).mul_(self._free)
        self._cumulative = self._squared.cumsum(0)

    def draw(self, generator: torch.Generator) -> int:
        """One free row, in proportion to its present squared distance."""
        for _ in range(_PATIENCE):
            if (row := self._try_draw(generator)) is not None:
                return row
        if self._pending:
            self.update_pending()
        while float(self._cumulative[-1]) > 0:
            if (row := self._try_draw(generator)) is not None:
                return row
        return int(self._free.to(torch.uint8).argmax())

    def _try_draw(self, generator: torch.Generator) -> int | None:
        where, keep = torch.rand(
            2, generator=generator, dtype=torch.float64, device=generator.device
        ).tolist()
        target = self._cumulative.new_tensor(where) * self._cumulative[-1]
        row = int(torch.searchsorted(self._cumulative, target, right=True))
        if row >= self._rows.count or not bool(self._free[row]):
            return None
        return row if keep * float(self._squared[row]) < self._present(row) else None

    def _present(self, row: int) -> float:
        if not self._pending:
            return float(self._squared[row])
        centres = self._points(self._pending)
        part = slice(row, row + 1)
        return float(
            lower(
                self._squared[part],
                self._points([row]),
                self._squares[part],
                centres,
                centres.squares(),
            )
        )

    def _points(self, rows: list[int]) -> Points:
        return self._rows.read(torch.tensor(rows, device=self._rows.device))
