"""Exact k-center-greedy (farthest-first) selection, in blocks, with lazily kept distances.

The textbook loop (Gonzalez 1985; CoreSet, Sener & Savarese 2018) updates the distance of every row
after every pick. Here every row keeps an upper bound on its distance to the nearest centre.
Distances only fall, so a bound never has to be raised, and a row whose bound is below the current
cover radius can be left alone. Two things follow, and both keep the picks those of the loop:

* *Blocks.* Rows whose distance is exact and not below a bar are a block; every row outside is below
  it. Inside, picks are made with the block's own distances for as long as the best row is not
  below the bar.
* *Lazy bounds.* A row outside is compared with the newer centres only when the falling bar reaches
  its bound, newest centres first, and only until it is below the bar again (Minoux 1978 keeps a
  greedy's gains in this way). The triangle inequality through the data's middle, |x| + min |c|,
  bounds it without reading the row at all; where norms differ widely that leaves most rows unread.

All that decides is computed in float64, whatever the dtype of the embedding; float32 products,
raised by their largest rounding error, only rule rows out.

Rows may be divided over processes. Each finds the farthest of its own and offers them with the best
of what it leaves out; one gather makes a block of all offers, from which every process picks alike.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.functional.copies import copies_among
from segal.functional.distances import (
    Embedding,
    Rows,
    lower,
    rows_of,
    squared_distances,
)
from segal.functional.exchange import ALONE, Exchange
from segal.functional.points import Points
from segal.functional.shares import gathered, padded

_SMALLEST_BLOCK, _LARGEST_BLOCK = 64, 512
_BLOCK_SHARE = 32
"""A block has this many times fewer rows than there are, within those two: the distances within
blocks, and of centres to rows about the bar, are then few beside n x k at any n."""

_BLOCK_NUMBERS = 2**19
"""Of wide rows a block has no more numbers than this: its own distances are dear."""

_SLICE = 32
"""Centres of the first, newest slice that a row is compared with; further slices double ..."""

_LONGEST_SLICE = 256
"""... up to this ..."""

_DISTANCES = 2**17
"""... or, of few rows, to so many distances."""

_WAVE = 16
"""Rows looked at in one go, in blocks."""

_TOGETHER = 64
"""Rows whose distances to all others of a block are taken in one go, when one of them is picked."""

_ENOUGH = 16
"""A block may have this many times fewer rows than asked for ..."""

_EARLY = 4
"""... or than there are centres: early on one pick changes most distances."""

_SLACK = 1e-9
"""By how much a triangle bound is raised so that rounding cannot put it below the distance."""


class KCenterOrder(NamedTuple):
    """A farthest-first order.

    Attributes:
        picks: (k,) int64 row positions in pick order.
        distance: (k,) float64, each pick's distance to the nearest centre when it was picked;
            `inf` for a first pick made without any centre.
        radius: (k,) float64, the cover radius after each pick: the largest distance of any row to
            its nearest centre. `radius[i] == distance[i + 1]`.
    """

    picks: Tensor
    distance: Tensor
    radius: Tensor


def k_center_greedy(
    x: Embedding,
    k: int,
    centers: Embedding | None = None,
    block: int | None = None,
    exchange: Exchange = ALONE,
) -> tuple[Tensor, Tensor]:
    """Pick `k` rows, each the farthest from all centres so far (exact; lowest row on ties).

    Args:
        x: (n, d) floating-point tensor on any device, or NumPy array, which may be memory-mapped
            (read in pieces; memory beyond `x` is O(n) and the centres); or `OuterProducts`.
        k: how many rows to pick, 1 to n.
        centers: (m, d) points that are centres already, of the kind of `x`. None (or m = 0):
            the row of largest norm is the first pick.
        block: rows in a block; None for a number that suits n. It changes the time taken, never
            the picks.
        exchange: processes that pick together: `x` is this one's part of the rows, any number of
            them. The parts in order of rank are the rows of which n, k and positions are told;
            everything else is the same on all. Picks are those of one process.

    Returns:
        `(picks, radius)`: (k,) int64 row positions in pick order, and (k,) float64 cover radius
        after each pick, in the units of `x`. No row is picked twice, even if rows are equal.

    Raises:
        ValueError: `x` or `centers` is not a finite floating-point matrix, their widths differ,
            or `k` or `block` is out of range.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
        >>> k_center_greedy(x, 2, torch.tensor([[0.0]]))
        (tensor([3, 2]), tensor([4., 1.], dtype=torch.float64))
    """
    order = k_center_order(x, k, centers, block, exchange)
    return order.picks, order.radius


def k_center_order(
    x: Embedding,
    k: int,
    centers: Embedding | None = None,
    block: int | None = None,
    exchange: Exchange = ALONE,
) -> KCenterOrder:
    """As `k_center_greedy`, with every pick's distance at the time it was picked.

    Args:
        x: (n, d) embedding, as in `k_center_greedy`.
        k: how many rows to pick, 1 to n.
        centers: (m, d) points that are centres already, or None.
        block: rows in a block, or None.
        exchange: processes that pick together, as in `k_center_greedy`.

    Returns:
        The picks, their distances at pick and the cover radii.

    Raises:
        ValueError: as in `k_center_greedy`.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0], [1.0], [5.0], [9.0]])
        >>> k_center_order(x, 2, torch.tensor([[0.0]])).distance
        tensor([9., 4.], dtype=torch.float64)
    """
    rows = rows_of(x, exchange)
    if not 1 <= k <= rows.total:
        raise ValueError(f"k out of range: expected 1 to {rows.total} (the rows of x), got {k}")
    if block is None:
        share = max(rows.total // _BLOCK_SHARE, _SMALLEST_BLOCK)
        fitting = max(_BLOCK_NUMBERS // max(rows.width, 1), _SMALLEST_BLOCK)
        block = min(share, _LARGEST_BLOCK, fitting)
    if block < 1:
        raise ValueError(f"block out of range: expected at least 1, got {block}")
    cover = _Cover(rows, rows.centres(centers, more=k), k)
    picks: list[int] = []
    squared: list[float] = []
    if cover.centres == 0:
        picks.append(cover.pick_largest())
        squared.append(math.inf)
    # One step more than picks: its distance is the cover radius that the last pick leaves.
    while len(squared) <= k and len(picks) < cover.different:
        _pick_block(cover, -(-block // exchange.count), k, picks, squared)
    picks += cover.copies.rows[: k - len(picks)].tolist()
    squared += [0.0] * (k + 1 - len(squared))
    distance = torch.tensor(squared, dtype=torch.float64).clamp_min_(0).sqrt_().to(rows.device)
    return KCenterOrder(
        torch.tensor(picks, dtype=torch.int64, device=rows.device), distance[:-1], distance[1:]
    )


def _pick_block(cover: _Cover, size: int, k: int, picks: list[int], squared: list[float]) -> None:
    """Pick from one block while its best row is certain; stop after the step that follows pick k.

    A row is certain to be the next pick if, ordered by (distance falling, row rising), it comes
    before the best row outside the block, since distances outside can only fall.
    """
    block = cover.block(size, picks)
    current, rows = block.squared.cpu().numpy(), block.ids.tolist()
    between: dict[int, NDArray[np.float64]] = {}
    chosen: list[int] = []
    while True:
        best = int(current.argmax())  # the first of equals, and ids rise: the lowest row
        value, row = float(current[best]), rows[best]
        if value < block.bar or (value == block.bar and row > block.outside):
            break
        squared.append(value)
        if len(picks) == k:
            break
        picks.append(row)
        chosen.append(best)
        if best not in between:
            farthest = np.argsort(-current, kind="stable")[:_TOGETHER]
            some = torch.from_numpy(farthest).to(block.ids.device)
            apart = squared_distances(block.points, block.squares, some, cover.rows.chunk)
            between.update(zip(farthest.tolist(), apart.cpu().numpy(), strict=True))
        current[best] = -1.0
        np.minimum(current, between[best], out=current)
    cover.add_centres(block.points[chosen], block.squares[chosen])
    cover.update(block.ids, torch.from_numpy(current))


class _Block(NamedTuple):
    """Rows that picks are made from, in rising order.

    Attributes:
        ids: (m,) their positions in the whole.
        squared: (m,) their squared distances to the nearest centre.
        squares: (m,) their squared norms about the middle.
        points: the rows, in float64.
        bar: no row outside is farther.
        outside: of those that are as far, the lowest.
    """

    ids: Tensor
    squared: Tensor
    squares: Tensor
    points: Points
    bar: float
    outside: int


class _Cover:
    """Upper bounds on the squared distance to the nearest centre, of every row of this process.

    Attributes:
        squared: (count,) the bounds; -1 for a picked row.
        seen: (count,) how many centres, oldest first, a row's bound accounts for exactly. The bound
            is the distance itself where `seen == centres`.
        squares: (count,) squared norms about the middle.
        centres: how many centres there are.
        copies: Rows of the whole that are equal to a lower one; `different` are the others.
    """

    def __init__(self, rows: Rows, points: Points, k: int) -> None:
        self.rows = rows
        self.squares, self._raw_squares = rows.squares()
        self._norms = self.squares.sqrt()
        self.squared = torch.full_like(self.squares, math.inf)
        self.seen = torch.zeros(rows.count, dtype=torch.int64, device=rows.device)
        self._seen_roughly = torch.zeros_like(self.seen)
        self.centres = len(points) - k
        self._points = points  # with room for the picks
        self._point_squares = self.squares.new_empty(len(points))
        self._point_squares[: self.centres] = points[: self.centres].double().squares()
        self._tightened = 0
        self._rough = rows.in_range and _float32_is_sound(rows)
        # Rounding may put a copy above what it is a copy of: it is out until nothing else is left.
        self.copies = copies_among(rows, self._raw_squares)
        self.different = rows.total - len(self.copies.rows)
        self._leave_out(self.copies.rows)

    def pick_largest(self) -> int:
        """Make the row of largest norm the first centre."""
        row = self.copies.lowest(self.rows.furthest(self._raw_squares))
        where = torch.tensor([row], device=self.rows.device)
        self.add_centres(*self.rows.shared(where, self.squares))
        self._leave_out(where)
        return row

    def _leave_out(self, ids: Tensor) -> None:
        self.squared[ids[self.rows.owned(ids)] - self.rows.first] = -1.0

    def update(self, ids: Tensor, squared: Tensor) -> None:
        """Set what is known of some rows, now that all centres are accounted for."""
        own = self.rows.owned(ids)
        where = ids[own] - self.rows.first
        self.squared[where] = squared.to(ids.device)[own]
        self.seen[where] = self.centres

    def block(self, size: int, picks: list[int]) -> _Block:
        """The farthest rows of all processes: so many of each, less those that are no candidates.

        Raises:
            ValueError: If the processes did not pick alike so far.
        """
        ids, bar = self._frontier(size)
        outside = self.rows.total
        if len(ids) > size:
            order = torch.sort(self.squared[ids], descending=True, stable=True).indices
            bar = float(self.squared[ids[order[size]]])
            outside = self.rows.first + int(ids[order[size]])
            ids = ids[order[:size]].sort().values
        points = self.rows.read(ids).tensors()
        room = self._points.tensors()
        bars, counts, *columns = gathered(
            self.rows.exchange,
            torch.tensor(bar, dtype=torch.float64),
            torch.tensor([len(ids), outside, len(picks), picks[-1] if picks else -1]),
            padded(ids + self.rows.first, size),
            padded(self.squared[ids], size),
            padded(self.squares[ids], size),
            *(padded(x.to(y.dtype), size) for x, y in zip(points, room, strict=True)),
        )
        if bool((counts[:, 2:] != counts[0, 2:]).any()):
            raise ValueError("the processes differ: expected the same picks on all of them")
        bar = float(bars.max())
        outside = int(counts[bars == bar, 1].min())
        offered = torch.arange(size) < counts[:, :1]
        found, squared, squares, *tensors = (x[offered.to(x.device)] for x in columns)
        may = (squared > bar) | ((squared == bar) & (found <= outside))
        shown = self._points.made_of([x[may] for x in tensors]).double()
        return _Block(found[may], squared[may], squares[may], shown, bar, outside)

    def add_centres(self, points: Points, squares: Tensor) -> None:
        new = slice(self.centres, self.centres + len(points))
        self._points.put(new, points)
        self._point_squares[new] = squares
        self.centres = new.stop

    def _frontier(self, size: int) -> tuple[Tensor, float]:
        """All own rows at or above some bar, exact and in rising order, and the bar.

        Every other row is below the bar. There are about `size` rows, or all that are left.
        """
        self._tighten()
        wave = _WAVE * size
        enough = min(size // _ENOUGH, self.centres // (_EARLY * self.rows.exchange.count))
        while self.rows.count:
            looked_at = min(wave, self.rows.count)
            bar = max(_nth_largest(self.squared, looked_at), 0.0)
            ids = (self.squared >= bar).nonzero()[:, 0]
            stale = self._stale(ids)
            if len(stale) == 0:
                return ids, bar
            if self._rough:
                self._lower_roughly(stale, bar)
                ids = ids[self.squared[ids] >= bar]
                if len(ids) > size:  # no more is needed, and exactness is dear
                    bar = _nth_largest(self.squared[ids], size)
                stale = self._stale(ids[self.squared[ids] >= bar])
            self._make_exact(stale, bar)
            ids = ids[self.squared[ids] >= bar]
            if len(ids) >= max(1, enough):
                return ids, bar
            wave *= 2
        return torch.empty(0, dtype=torch.int64, device=self.rows.device), 0.0

    def _stale(self, ids: Tensor) -> Tensor:
        return ids[self.seen[ids] < self.centres]

    def _tighten(self) -> None:
        """Bound every row by the triangle inequality through the middle: |x| + min |c|."""
        added = self._point_squares[self._tightened : self.centres]
        if len(added):
            bound = (self._norms + added.min().sqrt()).square_().mul_(1 + _SLACK)
            torch.minimum(self.squared, bound, out=self.squared)
            self._tightened = self.centres

    def _lower_roughly(self, ids: Tensor, bar: float) -> None:
        """Lower the bounds of `ids` by products in float32 until below the bar or out of centres.

        A product of d terms errs by less than (d + 3) 2^-24 |x| |c|, its inputs' rounding
        included, so the squared distance by less than (d + 3) 2^-23 (|x|^2 + |c|^2), which is
        added. The constant is for underflow.
        """
        share = (self.rows.width + 8) * 2.0**-23
        stop, size = self.centres, _SLICE
        while len(ids):
            start = max(0, stop - size)
            squares = self._point_squares[start:stop]
            points, offsets = self._points[start:stop].float(), (squares * -0.5).float()
            own = self.squares[ids]
            # One place for all: small pieces between large ones would break up the memory.
            closest = torch.empty_like(own, dtype=torch.float32)
            chunks = (torch.split(x, self.rows.chunk) for x in (ids, closest))
            for part, found in zip(*chunks, strict=True):
                products = self.rows.read_float32(part).products(points, offsets)
                torch.amax(products, 1, out=found)
            error = (own + squares.max()) * share + 2.0**-100
            self.squared[ids] = torch.minimum(self.squared[ids], own - 2 * closest + error)
            ids = self._unfinished(ids, bar, start, self._seen_roughly)
            stop, size = start, _next_slice(size, len(ids))

    def _make_exact(self, ids: Tensor, bar: float) -> None:
        """Lower the bounds of `ids` until each is below the bar or exact."""
        stop, size = self.centres, _LONGEST_SLICE
        while len(ids):
            start = max(0, stop - size)
            points, squares = self._points[start:stop].double(), self._point_squares[start:stop]
            for part in torch.split(ids, self.rows.chunk):
                self.squared[part] = lower(
                    self.squared[part], self.rows.read(part), self.squares[part], points, squares
                )
            ids = self._unfinished(ids, bar, start, self.seen)
            stop, size = start, _next_slice(size, len(ids))

    def _unfinished(self, ids: Tensor, bar: float, start: int, seen: Tensor) -> Tensor:
        """Note which rows are now compared with all centres; the others not below the bar.

        Centres from `start` on have been done; the oldest `seen` had been.
        """
        complete = seen[ids] >= start
        seen[ids[complete]] = self.centres
        return ids[~complete & (self.squared[ids] >= bar)]


def _next_slice(size: int, rows: int) -> int:
    return min(2 * size, max(_LONGEST_SLICE, _DISTANCES // max(rows, 1)))


def _nth_largest(values: Tensor, n: int) -> float:
    if values.device.type == "cpu":  # several times faster than topk there
        at = len(values) - n
        return float(np.partition(values.numpy(), at)[at])
    return float(values.topk(n, sorted=False).values.min())


def _float32_is_sound(rows: Rows) -> bool:
    """Whether float32 products are worth it (not on a GPU), and not cut shorter.

    Settings of PyTorch may round the factors to bfloat16 or TF32; a product of the same shape
    shows it.
    """
    if rows.device.type != "cpu":
        return False
    fine = torch.full((rows.chunk, rows.width), 1 + 2.0**-20)
    product = torch.mm(fine, torch.eye(rows.width, _SLICE))
    return bool((product == fine[:, :1]).all(0).sum() == min(rows.width, _SLICE))
