"""Exact greedy maximisation of a kernel's coverage, lazily, in blocks, with bounded memory.

The coverage of a set S is the weighted mean over all rows j of the largest k(x_j, s), s in S. A
greedy loop adds the row i of the largest gain, the mean of w_j max(0, k(x_i, x_j) - m_j), where
m_j is what covers row j so far (MaxHerding, Bae et al., ECCV 2024; with a ball for a kernel it is
ProbCover, Yehuda et al., NeurIPS 2022; with uncertainties for weights UHerding, ICLR 2025). The
textbook loop takes n^2 kernels for every pick. Two things here keep its picks at less:

* *Lazy gains.* Gains only fall (coverage is submodular), so that a gain known from before is a
  bound on today's, and a row whose bound is below the best known gain is left alone (Minoux 1978).
* *Gains are lowered, not taken anew.* A pick changes m_j at the rows that it covers better than
  all before: few, and ever fewer. What a gain has lost since it was last looked at is a sum over
  those rows alone. They are kept in a log of at most n entries; a row that was last looked at
  before the log begins is taken anew over all n.

All is computed in float64, whatever the dtype of the embedding. Lowered gains carry the rounding
of every step, so rows that these errors could put in another order are taken anew before one of
them is picked.

Rows may be divided over processes. A gain is then the sum of what each process's rows contribute;
every process knows all gains and looks at the same candidates. A pick changes the sums over all
rows, so that, unlike distances in k-center, no block of picks can be made from what one gather
tells: there are two for each wave of candidates, and one for each pick.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from segal.functional.copies import copies_among
from segal.functional.distances import Embedding, Rows, rows_of
from segal.functional.exchange import ALONE, Exchange
from segal.functional.points import Points
from segal.functional.shares import gathered

Kernel = Literal["gaussian", "ball"]

_WAVE = 64
"""Bounds that are brought up to date first; then twice as many, until the best is certain."""

_TILE = 256
"""Rows whose kernels with a chunk of others are held at a time."""

_TIE = 1e-12
"""Gains that differ by less than this share are equal: it is what summation leaves open."""

_ROUNDING = 2.0**-47
"""Of what kernels sum to, about the largest error: of products, sums, and what is taken off."""

_NOTHING = 2.0**-50
"""A gain of less than this share of all weights is none."""


class HerdingOrder(NamedTuple):
    """A greedy order.

    Attributes:
        picks: (k,) int64 row positions in pick order.
        gain: (k,) float64, by how much each pick raised the coverage; 0 once nothing does.
        coverage: (k,) float64, the coverage after each pick, that of the centres included.
    """

    picks: Tensor
    gain: Tensor
    coverage: Tensor


def herding_order(
    x: Embedding,
    k: int,
    *,
    kernel: Kernel = "gaussian",
    radius: float = 1.0,
    weights: Tensor | None = None,
    centers: Embedding | None = None,
    exchange: Exchange = ALONE,
) -> HerdingOrder:
    """Pick `k` rows, each the one that raises the kernel's coverage most (exact; lowest on ties).

    Args:
        x: (n, d) embedding, as in `k_center_greedy`: it may be memory-mapped. Memory beyond it is
            O(n) and the centres, never n x n.
        k: how many rows to pick, 1 to n.
        kernel: `gaussian`, exp(-|x - y|^2 / radius^2), or `ball`, 1 where |x - y| <= radius.
        radius: above 0, in the units of `x`.
        weights: (n,) what each row counts as something to be covered, at least 0; None for 1 each.
        centers: (m, d) points that are picked already, of the kind of `x`, or None.
        exchange: processes that pick together, as in `k_center_greedy`: `x` and `weights` are this
            one's part.

    Returns:
        Picks, gains and coverages; the latter two are means over the n rows. Gains that differ by
        a share of 1e-12 are equal. Once no row gains anything, the lowest that are left follow.

    Raises:
        ValueError: `x` or `centers` is not a finite floating-point matrix, their widths differ,
            `k`, `radius` or a weight is out of range.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0], [0.1], [0.2], [5.0], [9.0]])
        >>> herding_order(x, 3).picks
        tensor([1, 3, 4])
    """
    rows = rows_of(x, exchange)
    if not 1 <= k <= rows.total:
        raise ValueError(f"k out of range: expected 1 to {rows.total} (the rows of x), got {k}")
    if not 0 < radius < math.inf:
        raise ValueError(f"radius out of range: expected above 0, got {radius}")
    gains = _Gains(rows, _checked(weights, rows), kernel, radius)
    gains.cover(rows.centres(centers))
    covered = gains.coverage()
    picks: list[int] = []
    found: list[float] = []
    while len(picks) < k and (best := gains.best()) is not None:
        row, gain = best
        gains.pick(row)
        picks.append(row)
        found.append(gain)
    left = torch.ones(rows.total, dtype=torch.bool, device=rows.device)
    left[picks] = False
    picks += left.nonzero()[: k - len(picks), 0].tolist()
    found += [0.0] * (k - len(found))
    raised = torch.tensor(found, dtype=torch.float64, device=rows.device) / rows.total
    where = torch.tensor(picks, dtype=torch.int64, device=rows.device)
    return HerdingOrder(where, raised, raised.cumsum(0) + covered)


def _checked(weights: Tensor | None, rows: Rows) -> Tensor:
    if weights is None:
        return torch.ones(rows.count, dtype=torch.float64, device=rows.device)
    weights = weights.to(rows.device, torch.float64)
    if weights.shape != (rows.count,):
        raise ValueError(f"weights: expected ({rows.count},), got {tuple(weights.shape)}")
    if not bool((weights >= 0).all() & (weights < math.inf).all()):
        raise ValueError("weights: expected finite numbers of at least 0")
    return weights


class _Gains:
    """Upper bounds on every row's gain, times n, and what covers this process's rows.

    Attributes:
        bounds: (total,) the gains as of pick `seen`; -1 for a row that is picked, or equal to a
            lower one: it gains nothing once that is picked, and no more before.
        own: (total,) what this process's rows contribute to them.
        largest: (count,) what covers each of this process's rows.
    """

    def __init__(self, rows: Rows, weights: Tensor, kernel: Kernel, radius: float) -> None:
        self.rows, self.weights = rows, weights
        self._kernel, self._square = kernel, radius * radius
        self.squares, raw = rows.squares()
        self.largest = torch.zeros_like(self.squares)
        self.bounds = self.squares.new_full((rows.total,), math.inf)
        self.own = torch.zeros_like(self.bounds)
        self.bounds[copies_among(rows, raw).rows] = -1.0
        self._seen = torch.full_like(self.bounds, -1, dtype=torch.int64)
        self._lowered = torch.zeros_like(self._seen, dtype=torch.bool)
        self._log = _Log(rows.count)
        whole, totals, furthest = gathered(
            rows.exchange,
            (weights == weights.round()).all(),
            weights.sum(),
            torch.cat([self.squares, self.squares.new_zeros(1)]).amax(),
        )
        total = float(totals.sum())
        self._nothing = _NOTHING * total
        # Sums of small whole numbers are exact; else kernels are as wrong as distances are.
        self._counts = kernel == "ball" and bool(whole.all())
        steep = 0.0 if kernel == "ball" else float(furthest.max()) / self._square
        self._slack = 0.0 if self._counts else _ROUNDING * (2 + steep) * total

    def cover(self, points: Points) -> None:
        """Accounts for centres, before any pick."""
        for start in range(0, len(points), self.rows.chunk):
            part = points[start : start + self.rows.chunk]
            squares = part.squares()
            for chunk in self.rows.parts():
                own = self._take(chunk)
                near = self._kernels(own.points, own.squares, part, squares)
                torch.maximum(self.largest[chunk], near.amax(1), out=self.largest[chunk])

    def coverage(self) -> float:
        """The weighted mean of what covers every row."""
        (every,) = gathered(self.rows.exchange, self.weights @ self.largest)
        return float(every.sum()) / self.rows.total

    def best(self) -> tuple[int, float] | None:
        """The row of the largest gain, the lowest among equals, and its gain; None at no gain."""
        wave = _WAVE
        while True:
            stale = self._seen < self._log.now
            known = self.bounds.masked_fill(stale, -1.0).max()
            ids = (stale & (self.bounds >= (known - self._slack).clamp(min=0))).nonzero()[:, 0]
            if not len(ids):
                break
            if len(ids) > wave:
                ids = ids[self.bounds[ids].topk(wave, sorted=False).indices].sort().values
            self._refresh(ids)
            wave *= 2
        if float(known) <= self._nothing:
            return None
        ids = (self.bounds >= known - self._slack).nonzero()[:, 0]
        if len(ids) > 1:
            again = ids[self._lowered[ids]]
            self._seen[again] = -1
            self._refresh(again)
        gains = self.bounds[ids]
        highest = float(gains.max())
        row = int(ids[gains >= highest * (1 - _TIE)][0])
        return (row, float(self.bounds[row])) if highest > self._nothing else None

    def pick(self, row: int) -> None:
        """Accounts for a pick."""
        picked = self._shared(torch.tensor([row], device=self.rows.device))
        # All in one place: small pieces that outlive a part's rows would leave holes of their size.
        near = torch.empty_like(self.largest)
        for part in self.rows.parts():
            near[part] = self._between(picked, self._take(part))[0]
        ids = ((near > self.largest) & (self.weights > 0)).nonzero()[:, 0]
        values = near[ids]
        self._log.add(ids, self.largest[ids], values)
        self.largest[ids] = values
        self.bounds[row] = -1.0

    def _refresh(self, ids: Tensor) -> None:
        """Brings the gains of rows up to date."""
        ids = ids[self._seen[ids].argsort(stable=True)]
        for part in torch.split(ids, _TILE) if len(ids) else ():
            taken = self._shared(part)
            # Each process has a log of its own; those it does not reach back to come first.
            anew = int((self._log.since(self._seen[part]) > self._log.room).sum())
            before = self.own[part]
            first, rest = taken.some(slice(anew)), taken.some(slice(anew, None))
            self.own[part] = torch.cat([self._evaluate(first), self._lower(rest)])
            lowered = self._lowered[part]
            lowered[:anew] = False
            if not self._counts:
                lowered[anew:] |= self.own[part][anew:] != before[anew:]
            shares, flags = gathered(self.rows.exchange, self.own[part], lowered)
            self.bounds[part] = shares.sum(0)
            self._lowered[part] = flags.any(0)
            self._seen[part] = self._log.now

    def _evaluate(self, taken: _Taken) -> Tensor:
        """What gains have of this process's rows, taken anew over all of them."""
        total = torch.zeros_like(taken.squares)
        for chunk in self.rows.parts() if len(total) else ():
            gained = self._between(taken, self._take(chunk))
            gained.sub_(self.largest[chunk]).clamp_(min=0)
            total += gained @ self.weights[chunk]
        return total

    def _lower(self, taken: _Taken) -> Tensor:
        """The same, of which is taken off what picks since have taken."""
        lost = torch.zeros_like(taken.squares)
        seen = self._seen[taken.ids].tolist()
        begins = [i for i, one in enumerate(seen) if i == 0 or one != seen[i - 1]]
        levels = [seen[begin] for begin in begins]
        stops, ends = [*levels, self._log.now][1:], [*begins, len(seen)][1:]
        for start, stop, end in zip(levels, stops, ends, strict=True):
            for entry in self._log.read(start, stop, self.rows.chunk):
                near = self._between(taken.some(slice(end)), self._take(entry.rows))
                # What lies between the old and the new cover is gained no more.
                near.clamp_(entry.old, entry.new).sub_(entry.old)
                lost[:end] += near @ self.weights[entry.rows]
        return (self.own[taken.ids] - lost).clamp_(min=0)

    def _shared(self, ids: Tensor) -> _Taken:
        """Rows of whichever process."""
        return _Taken(ids, *self.rows.shared(ids, self.squares))

    def _take(self, where: slice | Tensor) -> _Taken:
        """Rows of this process, by their positions in it."""
        if isinstance(where, slice):
            ids = torch.arange(where.start, where.stop, device=self.rows.device)
        else:
            ids = where
        return _Taken(ids + self.rows.first, self.rows.read(where), self.squares[where])

    def _between(self, ones: _Taken, others: _Taken) -> Tensor:
        """(m, k) float64 kernels between rows; exactly 1 of a row and itself."""
        near = self._kernels(ones.points, ones.squares, others.points, others.squares)
        return near.masked_fill_(ones.ids[:, None] == others.ids, 1.0)

    def _kernels(
        self, points: Points, squares: Tensor, others: Points, other_squares: Tensor
    ) -> Tensor:
        """(m, k) float64 kernels between points."""
        closeness = points.products(others, other_squares * -0.5)
        negative = closeness.mul_(2).sub_(squares[:, None]).clamp_(max=0)
        if self._kernel == "ball":
            return (negative >= -self._square).double()
        return negative.div_(self._square).exp_()


class _Taken(NamedTuple):
    """Some rows: which, as points, and their squared norms."""

    ids: Tensor
    points: Points
    squares: Tensor

    def some(self, where: slice) -> _Taken:
        return _Taken(self.ids[where], self.points[where], self.squares[where])


class _Entries(NamedTuple):
    """Rows that a pick covers better: what covered them before, and since."""

    rows: Tensor
    old: Tensor
    new: Tensor


class _Log:
    """What the latest picks changed: as many of them as have `room` entries together.

    Attributes:
        now: How many picks there are.
        room: How many entries are kept at most.
    """

    def __init__(self, room: int) -> None:
        self.now = 0
        self.room, self._start = room, 0
        self._entries: list[_Entries] = []
        self._totals = [0]  # entries before each pick

    def add(self, rows: Tensor, old: Tensor, new: Tensor) -> None:
        self._entries.append(_Entries(rows, old, new))
        self._totals.append(self._totals[-1] + len(rows))
        self.now += 1
        while self._totals[-1] - self._totals[self._start] > self.room:
            self._entries.pop(0)
            self._start += 1

    def since(self, seen: Tensor) -> Tensor:
        """How many entries there are since some picks; more than there is room for if unknown."""
        totals = torch.tensor(self._totals, device=seen.device)
        pending = self._totals[-1] - totals[seen.clamp(min=0)]
        return pending.masked_fill_(seen < 0, self.room + 1)

    def read(self, start: int, stop: int, chunk: int) -> list[_Entries]:
        """What picks from one to another changed, in parts of at most `chunk` entries."""
        found = self._entries[start - self._start : stop - self._start]
        joined = [torch.cat(parts) for parts in zip(*found, strict=True)]
        return [
            _Entries(*parts) for parts in zip(*(torch.split(x, chunk) for x in joined), strict=True)
        ]
