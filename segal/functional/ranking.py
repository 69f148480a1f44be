"""Ranking candidates by a score: stable order by (score, candidate id)."""

from typing import Literal

import torch
from torch import Tensor

from segal.functional.exchange import ALONE, Exchange
from segal.functional.shares import joined

Direction = Literal["higher", "lower"]


def rank(scores: Tensor, direction: Direction) -> Tensor:
    """Positions in the order in which they are picked; equal scores keep their order.

    Args:
        scores: (n,) real scores; infinities are ranked, NaN is refused.
        direction: which end is picked first.

    Returns:
        (n,) int64 positions.

    Raises:
        ValueError: `scores` is not a vector, is complex or holds NaN, or the direction is unknown.

    Examples:
        >>> import torch
        >>> rank(torch.tensor([0.1, 0.7, 0.7, 0.3]), "higher")
        tensor([1, 2, 3, 0])
    """
    if direction not in ("higher", "lower"):
        raise ValueError(f"direction: expected 'higher' or 'lower', got {direction!r}")
    if scores.ndim != 1 or scores.is_complex():
        raise ValueError(
            f"scores: expected a real vector, got {scores.dtype} of shape {tuple(scores.shape)}"
        )
    bad = torch.isnan(scores).nonzero()
    if len(bad):
        raise ValueError(
            f"scores: expected no NaN, got {len(bad)}, the first at position {int(bad[0, 0])}"
        )
    return torch.sort(scores, descending=direction == "higher", stable=True).indices


def top_k(scores: Tensor, k: int, direction: Direction, exchange: Exchange = ALONE) -> Tensor:
    """The first `k` positions of `rank`.

    Args:
        scores: (n,) real scores without NaN.
        k: how many, 0 to n.
        direction: which end is picked first.
        exchange: processes that rank together: `scores` are this one's part. The parts in order of
            rank are the scores of which n, k and positions are told.

    Returns:
        (k,) int64 positions.

    Raises:
        ValueError: `k` is out of range, or as in `rank`.

    Examples:
        >>> import torch
        >>> top_k(torch.tensor([0.1, 0.7, 0.7, 0.3]), 2, "lower")
        tensor([0, 3])
    """
    order = rank(scores, direction)
    counts = exchange.gather(torch.tensor([len(order)]))[:, 0]
    total, first = int(counts.sum()), int(counts[: exchange.rank].sum())
    if not 0 <= k <= total:
        raise ValueError(f"k out of range: expected 0 to {total} (the scores), got {k}")
    best = order[:k]
    # Equal scores rise by rank and, of one process, by position: their order is kept.
    offered, positions = joined(exchange, scores[best], best + first)
    return positions[rank(offered, direction)[:k]]
