"""Divergences between predictions: of passes over one element, and of classes of two candidates."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

FLOOR = 2.0**-24
"""Probabilities below it count as it (the smallest positive float16), so that logs are finite."""

_CPU_CHUNK = 1 << 15  # elements at a time; with 19 classes in float32 2.4 MB
_ROWS = 512  # candidates at a time
_SLICE = 256  # centres at a time
_PAIRS = 4096  # differences at a time
_CLOSE = 2.0**-8  # below this share of the terms a difference of products is computed otherwise
_ROUNDING = 2.0**-40  # what products may be off by, as a share of the terms
_WAVE = 16  # candidates looked at in one go, in blocks
_ENOUGH, _EARLY = 16, 4  # a block may be this many times smaller than asked for, or than centres


@dataclass
class DisagreementSum:
    """Sums over passes for the entropy of their mean and their disagreement; T maps are not kept.

    The disagreement H(mean_t p_t) - mean_t H(p_t) is BALD's score (Houlsby et al. 2011), the
    mutual information of prediction and pass, and the Jensen-Shannon divergence of the passes.
    """

    _count: int = 0
    _probabilities: Tensor = field(default_factory=lambda: torch.empty(0))
    _entropy: Tensor = field(default_factory=lambda: torch.empty(0))

    def add(self, logits: Tensor) -> None:
        """Adds a pass: (C, ...) logits of any floating dtype, of the same shape each time."""
        dtype = torch.promote_types(logits.dtype, torch.float32)
        if self._count == 0:
            self._probabilities = torch.zeros_like(logits, dtype=dtype)
            self._entropy = torch.zeros_like(logits[0], dtype=dtype)
        if logits.shape != self._probabilities.shape:
            raise ValueError(
                f"logits: expected {tuple(self._probabilities.shape)} as in the first pass, "
                f"got {tuple(logits.shape)}"
            )
        self._count += 1
        flat, total = logits.reshape(len(logits), -1), self._probabilities.view(len(logits), -1)
        entropy = self._entropy.view(-1)
        n = flat.shape[1]
        step = n if logits.is_cuda else _CPU_CHUNK
        for part in (slice(start, start + step) for start in range(0, n, max(step, 1))):
            z = flat[:, part].to(dtype)
            shifted = (z - z.amax(0)).clamp_(min=torch.finfo(dtype).min)
            p = shifted.exp()
            mass = p.sum(0)
            p /= mass
            total[:, part] += p
            entropy[part] += mass.log_() - shifted.mul_(p).sum(0)

    def entropies(self) -> tuple[Tensor, Tensor]:
        """H(mean_t p_t) and H(mean_t p_t) - mean_t H(p_t), each (...), at least 0, in nats."""
        if self._count == 0:
            raise ValueError("expected at least one pass, got none")
        of_mean = -torch.xlogy(mean := self._probabilities / self._count, mean).sum(0)
        return of_mean.clamp_(min=0), (of_mean - self._entropy / self._count).clamp_(min=0)


def symmetric_kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p, q) + KL(q, p) = sum_k (p_k - q_k)(log p_k - log q_k), in nats.

    Args:
        p: (..., C) probabilities, floating; those below `FLOOR` are raised to it, and all are then
            divided by their sum.
        q: Likewise.

    Returns:
        (...) float64, at least 0.
    """
    p, q = _floored(p), _floored(q)
    return ((p - q) * (p.log() - q.log())).sum(-1)


def jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """KL(p, m) / 2 + KL(q, m) / 2 with m = (p + q) / 2, in nats.

    Args:
        p: (..., C) at least 0, floating, divided by its sum.
        q: Likewise; either broadcasts to the other.

    Returns:
        (...) float64, in [0, log 2].

    Example:
        >>> jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([[1.0, 0.0], [0.0, 3.0]]))
        tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    p, q = (x.double() / x.double().sum(-1, keepdim=True) for x in (p, q))
    apart = _entropy((p + q) / 2) - (_entropy(p) + _entropy(q)) / 2
    return apart.clamp_(0, math.log(2))


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


def _floored(p: Tensor) -> Tensor:
    p = p.double().clamp(min=FLOOR)
    return p / p.sum(-1, keepdim=True)


def class_profile(probabilities: Tensor, weights: Tensor, predicted: Tensor) -> Tensor:
    """Weighted mean of the softmax vectors of each predicted class, as in CDAL.

    Where the weights of a class's elements sum to 0, as entropies do where a network is certain,
    the mean is the plain one.

    Args:
        probabilities: (C, n).
        weights: (n,), at least 0; CDAL's are entropies.
        predicted: (n,) int64 classes.

    Returns:
        (C, C) float64: row c is class c's mean, zeros if no element is of it.
    """
    classes, n = probabilities.shape
    uncertain = torch.bincount(predicted[weights > 0], minlength=classes) > 0
    weights = torch.where(uncertain[predicted], weights.double(), 1.0)
    sums = torch.zeros(classes, classes, dtype=torch.float64, device=probabilities.device)
    mass = sums.new_zeros(classes)
    for part in (slice(i, i + _CPU_CHUNK) for i in range(0, n, _CPU_CHUNK)):
        p = probabilities[:, part].double()
        by_class = torch.zeros_like(p).scatter_(0, predicted[None, part], weights[None, part])
        sums += by_class @ p.T
        mass += by_class.sum(1)
    return sums / torch.where(mass > 0, mass, 1)[:, None]


def class_profile_distances(profiles: Tensor, others: Tensor) -> Tensor:
    """Distances between candidates by their class profiles, after CDAL.

    The mean of the symmetric KL divergence between two candidates' means of a class, over the
    classes that are present in either. A class that one of them lacks counts with the divergence
    of the other's mean from the uniform distribution.

    Args:
        profiles: (n, C, C) as of `class_profile`; a row without a positive entry is an absent
            class. Probabilities are raised to `FLOOR` as in `symmetric_kl`.
        others: (m, C, C) likewise.

    Returns:
        (n, m) float64, at least 0, in nats; 0 between candidates without any class.

    Raises:
        ValueError: If the shapes do not fit, or a value is not finite.
    """
    return _between(_prepared(_checked(profiles)), _prepared(_checked(others)))


def class_profile_k_center(
    profiles: Tensor, k: int, centers: Tensor | None = None, block: int = 256
) -> tuple[Tensor, Tensor]:
    """k-center-greedy on `class_profile_distances`, exact; lowest row first among equals (CDAL).

    As in `segal.functional.k_center`, rows are picked in blocks for as long as the best row of the
    block is certain, and a row's distance is brought up to date only when it may be needed; nothing
    here rests on the triangle inequality, which this distance lacks. What decides is float64. Rows
    that are exact duplicates of each other may be picked in either order.

    Args:
        profiles: (n, C, C), any floating dtype; memory beyond it is O(n) and the centres.
        k: How many rows to pick, 1 to n.
        centers: (m, C, C) centres from the start. None or m = 0: the first pick is the row
            that is farthest from a candidate without any class.
        block: Rows in a block; it changes the time taken, never the picks.

    Returns:
        (k,) int64 rows in pick order, and (k,) float64 distance of each pick to the nearest centre
        when it was picked; of a first pick without centres, that from a candidate without classes.

    Raises:
        ValueError: If the shapes do not fit, a value is not finite, or `k` is out of range.
    """
    profiles = _checked(profiles)
    if not 1 <= k <= len(profiles):
        raise ValueError(f"k: expected 1 to {len(profiles)} (the candidates), got {k}")
    cover = _Cover(profiles, profiles[:0] if centers is None else _checked(centers))
    picks: list[int] = []
    distance: list[float] = []
    if len(cover.centres.own) == 0:
        cover.pick_first(picks, distance)
    while len(picks) < k:
        cover.pick_block(k, block, picks, distance)
    return torch.tensor(picks), torch.tensor(distance, dtype=torch.float64)


def _checked(profiles: Tensor) -> Tensor:
    if profiles.ndim != 3 or profiles.shape[1] != profiles.shape[2]:
        raise ValueError(f"profiles: expected (n, C, C), got {tuple(profiles.shape)}")
    if not all(bool(torch.isfinite(part).all()) for part in torch.split(profiles, _ROWS)):
        raise ValueError("profiles: expected finite values, got NaN or infinity")
    return profiles


class _Prepared(NamedTuple):
    """Profiles, so that sums of divergences are products: absent classes are zeros.

    Attributes:
        p: (n, C * C), less the uniform probability.
        log: (n, C * C), logs less that of the uniform probability.
        own: (n,) sums of p * log, the sum of divergences from the uniform distribution.
        present: (n, C), 1 for a class that is present.
    """

    p: Tensor
    log: Tensor
    own: Tensor
    present: Tensor

    def rows(self, index: Tensor | slice) -> "_Prepared":
        return _Prepared(*(part[index] for part in self))


def _prepared(profiles: Tensor) -> _Prepared:
    classes = profiles.shape[-1]
    present = (profiles > 0).any(-1)
    p = torch.where(present[..., None], _floored(profiles), 1 / classes)
    log = torch.where(present[..., None], p.log() + math.log(classes), 0.0).flatten(1)
    p = torch.where(present[..., None], p - 1 / classes, 0.0).flatten(1)
    return _Prepared(p, log, torch.linalg.vecdot(p, log), present.double())


def _between(one: _Prepared, other: _Prepared, current: Tensor | None = None) -> Tensor:
    """Distances (n, m).

    From sum (p - q)(log p - log q) as four products; where they cancel, from the differences
    themselves. With `current` (n,), what is neither below it nor its row's minimum may be rounded.
    """
    terms = one.own[:, None] + other.own
    divergence = terms - torch.cat((one.p, one.log), 1) @ torch.cat((other.log, other.p), 1).T
    present, also = one.present.sum(1), other.present.sum(1)
    union = (present[:, None] + also - one.present @ other.present.T).clamp_(min=1)
    wanted = divergence < terms * _CLOSE
    if current is not None:
        error = terms * _ROUNDING
        highest = ((divergence + error) / union).amin(1).minimum(current)
        wanted &= (divergence - error) / union <= highest[:, None]
    i, j = wanted.nonzero(as_tuple=True)
    for rows, columns in zip(torch.split(i, _PAIRS), torch.split(j, _PAIRS), strict=True):
        apart = one.p[rows] - other.p[columns]
        divergence[rows, columns] = (apart * (one.log[rows] - other.log[columns])).sum(1)
    return divergence.clamp_(min=0).div_(union)


class _Cover:
    """Upper bounds on every row's distance to its nearest centre.

    Attributes:
        profiles: (n, C, C).
        centres: Those so far, in order.
        bound: (n,) float64; -1 for a picked row. It is the distance where all centres were seen.
        seen: (n,) how many centres, oldest first, a row's bound accounts for.
    """

    def __init__(self, profiles: Tensor, centers: Tensor) -> None:
        self.profiles = profiles
        self.centres = _prepared(centers)
        self.bound = torch.full((len(profiles),), math.inf, dtype=torch.float64)
        self.seen = torch.zeros(len(profiles), dtype=torch.int64)

    def pick_first(self, picks: list[int], distance: list[float]) -> None:
        """Picks the row that is farthest from a candidate without any class."""
        nothing = _prepared(torch.zeros_like(self.profiles[:1]))
        parts = torch.split(self.profiles, _ROWS)
        away = torch.cat([_between(_prepared(part), nothing)[:, 0] for part in parts])
        row = int(away.argmax())
        picks.append(row)
        distance.append(float(away[row]))
        self._add(_prepared(self.profiles[row : row + 1]))
        self.bound[row] = -1.0

    def pick_block(self, k: int, block: int, picks: list[int], distance: list[float]) -> None:
        """Picks from one block for as long as its best row comes before any row outside."""
        ids, bar = self._frontier(block)
        outside = len(self.profiles)
        if len(ids) > block:
            order = self.bound[ids].sort(descending=True, stable=True).indices
            outside = int(ids[order[block]])
            bar = float(self.bound[outside])
            ids = ids[order[:block]].sort().values
        rows = _prepared(self.profiles[ids])
        between = _between(rows, rows).numpy()
        current, names = self.bound[ids].numpy(), ids.tolist()
        chosen: list[int] = []
        while len(picks) < k:
            best = int(current.argmax())  # the first of equals, and ids rise: the lowest row
            value = float(current[best])
            if value < bar or (value == bar and names[best] > outside):
                break
            picks.append(names[best])
            distance.append(value)
            chosen.append(best)
            np.minimum(current, between[best], out=current, where=current >= 0)
            current[best] = -1.0
        self._add(rows.rows(torch.tensor(chosen)))
        self.bound[ids] = torch.from_numpy(current)
        self.seen[ids] = len(self.centres.own)

    def _add(self, rows: _Prepared) -> None:
        together = zip(self.centres, rows, strict=True)
        self.centres = _Prepared(*(torch.cat(pair) for pair in together))

    def _frontier(self, block: int) -> tuple[Tensor, float]:
        """Rows at or above some bar, exact and in rising order, and the bar; all others are below.

        There are about `block` rows, or all that are left.
        """
        wave = _WAVE * block
        centres = len(self.centres.own)
        while True:
            size = min(wave, len(self.bound))
            bar = float(self.bound.topk(size, sorted=False).values.min().clamp_min(0))
            ids = (self.bound >= bar).nonzero()[:, 0]
            stale = ids[(self.seen[ids] < centres) & (self.bound[ids] > 0)]
            if len(stale) == 0:
                return ids, bar
            self._refresh(stale, bar)
            ids = ids[self.bound[ids] >= bar]
            if len(ids) >= max(1, min(block // _ENOUGH, centres // _EARLY)):
                return ids, bar
            wave *= 2

    def _refresh(self, ids: Tensor, bar: float) -> None:
        """Lowers bounds, newest centres first, until each is below the bar or exact."""
        stop = len(self.centres.own)
        while len(ids):
            start = max(0, stop - _SLICE)
            centres = self.centres.rows(slice(start, stop))
            for part in torch.split(ids, _ROWS):
                current = self.bound[part]
                near = _between(_prepared(self.profiles[part]), centres, current).amin(1)
                self.bound[part] = torch.minimum(current, near)
            complete = self.seen[ids] >= start
            self.seen[ids[complete]] = len(self.centres.own)
            ids = ids[~complete & (self.bound[ids] >= bar)]
            stop = start
