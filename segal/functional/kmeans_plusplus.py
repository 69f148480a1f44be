"""k-means++ seeding: rows drawn in proportion to their squared distance to the nearest centre.

Draws follow the exact distribution, though all distances are updated only once in a while: a row is
proposed in proportion to a weight that is at least its last known squared distance, which can only
have fallen, and kept with the probability that the present one is of it (rejection sampling).

Weights are whole numbers, the squared distances times a power of two, rounded up. Their sums are
exact, in whatever order they are taken, so that a uniform number means the same row however the
rows are divided over processes; the rounding is made up for by rejection. Each process proposes
those of the next draws that fall to its rows, one gather brings them together, and every process
keeps and refuses alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segal.functional.distances import Embedding, Rows, lower, rows_of
from segal.functional.exchange import ALONE, Exchange
from segal.functional.points import Points
from segal.functional.shares import gathered, spread

_PENDING = 64
"""Picks made between two updates of all the distances."""

_PATIENCE = 32
"""Draws refused in a row after which the distances are updated early."""

_AHEAD = 128
"""Draws that are looked at in one go, at most."""

_COARSE = 2.0**-8
"""Weights may be so much smaller than they could be before they are taken anew."""

_BITS = 52
"""Of the sum of all weights, or a little more: a uniform number in float64 has 53."""


def k_means_plusplus(
    x: Embedding,
    k: int,
    generator: torch.Generator,
    centers: Embedding | None = None,
    first: Literal["max_norm"] | int = "max_norm",
    exchange: Exchange = ALONE,
) -> Tensor:
    """Draw `k` different rows by D-squared sampling (Arthur & Vassilvitskii 2007).

    Draws follow the exact distribution. When every row left coincides with a centre, the lowest
    rows that are left follow in order.

    Args:
        x: (n, d) floating-point tensor on any device, or NumPy array, which may be memory-mapped
            (read in pieces; memory beyond `x` is O(n) and the centres); or `OuterProducts`.
        k: how many rows to draw, 1 to n.
        generator: decides the draws; the same state gives the same rows.
        centers: (m, d) points that are centres already, of the kind of `x`. With them every
            row is drawn. None (or m = 0): `first` is the first.
        first: the first row when there are no centres: "max_norm", the row of largest norm (the
            lowest of equals), or a row's position.
        exchange: processes that draw together, as in `k_center_greedy`, each with a generator in
            the same state. Draws are those of one process.

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
    rows = rows_of(x, exchange)
    if not 1 <= k <= rows.total:
        raise ValueError(f"k out of range: expected 1 to {rows.total} (the rows of x), got {k}")
    given = rows.centres(centers)
    squares, raw_squares = rows.squares()
    weights = _Weights(rows, squares)
    picks: list[int] = []
    if len(given):
        weights.lower_to(given)
    else:
        where = torch.tensor([_first_row(first, rows, raw_squares)], device=rows.device)
        weights.lower_to(rows.shared(where, squares)[0])
        picks.append(int(where))
    weights.renew(picks)
    stream, refused = _Stream(generator), 0
    while len(picks) < k and weights.total > 0:
        for proposal in weights.propose(stream, 2 * (k - len(picks))):
            if weights.keeps(proposal):
                picks.append(proposal.row)
                refused = 0
            else:
                refused += 1
            if len(picks) == k or weights.pending == _PENDING or refused == _PATIENCE:
                break
        if weights.pending == _PENDING or refused == _PATIENCE:
            weights.renew(picks)
            refused = 0
    stream.stop()
    free = torch.ones(rows.total, dtype=torch.bool, device=rows.device)
    free[picks] = False
    picks += free.nonzero()[: k - len(picks), 0].tolist()
    return torch.tensor(picks, dtype=torch.int64, device=rows.device)


def _first_row(first: Literal["max_norm"] | int, rows: Rows, raw_squares: Tensor) -> int:
    if first == "max_norm":
        return rows.furthest(raw_squares)
    if not isinstance(first, int) or not 0 <= first < rows.total:
        raise ValueError(
            f"first: expected 'max_norm' or a row from 0 to {rows.total - 1}, got {first!r}"
        )
    return first


class _Stream:
    """Pairs of uniform numbers, looked at ahead of their use."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._begin = generator.get_state()
        self._ahead: list[list[float]] = []
        self._used = 0

    def ahead(self, count: int) -> list[list[float]]:
        """The next pairs, not used yet."""
        while len(self._ahead) < count:
            self._ahead.append(self._draw())
        return self._ahead[:count]

    def use(self) -> None:
        """Goes past the next pair."""
        self._ahead.pop(0)
        self._used += 1

    def stop(self) -> None:
        """Leaves the generator as if no more had been drawn than was used."""
        self._generator.set_state(self._begin)
        for _ in range(self._used):
            self._draw()

    def _draw(self) -> list[float]:
        generator = self._generator
        pair: list[float] = torch.rand(
            2, generator=generator, dtype=torch.float64, device=generator.device
        ).tolist()
        return pair


class _Proposal(NamedTuple):
    """A row that may be drawn.

    Attributes:
        row: Its position in the whole.
        weight: By which it was proposed.
        squared: (1,) its squared distance as of the last renewal.
        square: (1,) its squared norm.
        point: It, alone.
        keep: A uniform number.
    """

    row: int
    weight: float
    squared: Tensor
    square: Tensor
    point: Points
    keep: float


class _Weights:
    """Squared distances of this process's rows to the nearest centre, and the picks since.

    Attributes:
        total: The sum of the weights of all processes' rows.
        pending: How many picks the weights do not account for yet.
    """

    def __init__(self, rows: Rows, squares: Tensor) -> None:
        self._rows, self._squares = rows, squares
        self._squared = torch.full_like(squares, torch.inf)
        nothing = rows.read(torch.empty(0, dtype=torch.int64, device=rows.device))
        room = [one.new_empty(_PENDING, *one.shape[1:]) for one in nothing.tensors()]
        self._points, self._point_squares = nothing.made_of(room), squares.new_empty(_PENDING)
        self._pending: list[int] = []
        self._scale = 1.0
        self.total = 0

    @property
    def pending(self) -> int:
        return len(self._pending)

    def lower_to(self, centres: Points) -> None:
        """Accounts for centres (taken from the middle)."""
        for start in range(0, len(centres), _PENDING):
            some = centres[start : start + _PENDING]
            centre_squares = some.squares()
            for part in self._rows.parts():
                points = self._rows.read(part)
                self._squared[part] = lower(
                    self._squared[part], points, self._squares[part], some, centre_squares
                )

    def renew(self, picks: list[int]) -> None:
        """Accounts for all picks so far; they have no weight."""
        self.lower_to(self._points[: self.pending])
        self._pending = []
        ids = torch.tensor(picks, dtype=torch.int64, device=self._rows.device)
        self._squared.clamp_min_(0)
        self._squared[ids[self._rows.owned(ids)] - self._rows.first] = 0
        while True:
            whole = (self._squared * self._scale).ceil_().long()
            totals, largest = gathered(self._rows.exchange, whole.sum(), _largest(self._squared))
            fitting = _scale(float(largest.max()), self._rows.total)
            if fitting * _COARSE <= self._scale <= fitting:
                break
            self._scale = fitting
        self._cumulative, self._ends = whole.cumsum(0), totals.cumsum(0)
        self.total = int(self._ends[-1])

    def propose(self, stream: _Stream, most: int) -> Iterator[_Proposal]:
        """What the next draws would be, one after the other; no more than so many."""
        exchange, device = self._rows.exchange, self._rows.device
        pairs = stream.ahead(min(_AHEAD, most))
        where = torch.tensor(pairs, dtype=torch.float64, device=device)[:, 0]
        targets = (where * self.total).long().clamp_(max=self.total - 1)
        owner = torch.searchsorted(self._ends, targets, right=True)
        own = owner == exchange.rank
        before = self._ends[exchange.rank] - self._cumulative[-1:].sum()
        row = torch.searchsorted(self._cumulative, targets[own] - before, right=True)
        weight = self._cumulative[row] - self._cumulative[row - 1].masked_fill(row == 0, 0)
        offered = row + self._rows.first, weight, self._squared[row], self._squares[row]
        own_points = self._rows.read(row)
        columns = (*offered, *own_points.tensors())
        every = gathered(exchange, *(spread(column, own) for column in columns))
        of_owner = owner, torch.arange(len(pairs), device=device)
        ids, weights, squared, squares, *tensors = (column[of_owner] for column in every)
        points = own_points.made_of(tensors)
        for i, (_, keep) in enumerate(pairs):
            one = slice(i, i + 1)
            stream.use()
            yield _Proposal(
                int(ids[i]), float(weights[i]), squared[one], squares[one], points[one], keep
            )

    def keeps(self, proposal: _Proposal) -> bool:
        """Whether a proposal is drawn; it is a pick then."""
        present, held = proposal.squared, slice(self.pending)
        if self._pending:
            centres, squares = self._points[held], self._point_squares[held]
            present = lower(present, proposal.point, proposal.square, centres, squares)
        if proposal.row in self._pending:
            return False
        if proposal.keep * proposal.weight >= float(present) * self._scale:
            return False
        new = slice(self.pending, self.pending + 1)
        self._points.put(new, proposal.point)
        self._point_squares[new] = proposal.square
        self._pending.append(proposal.row)
        return True


def _scale(largest: float, count: int) -> float:
    """The power of two by which so many numbers are multiplied to be weights."""
    return 2.0 ** min(_BITS - math.frexp(largest)[1] - math.frexp(count)[1], 1000)


def _largest(values: Tensor) -> Tensor:
    """The largest of some values of at least 0; 0 for none."""
    return torch.cat([values, values.new_zeros(1)]).amax()
