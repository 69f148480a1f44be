"""Distances to the nearest of many points, exact and at the speed of products of matrices."""

from collections.abc import Iterator

import torch
from torch import Tensor

_CENTRES, _OTHERS = 256, 8192
"""Points whose distances are looked at together."""

_ROUNDING = 2.0**-36
"""Share of squared norms that squared distances by products are wrong by, at most."""

_FINITE = torch.finfo(torch.float64).max


def lower_nearest(nearest: Tensor, centres: Tensor, others: Tensor, left_out: Tensor) -> float:
    """Lowers squared distances to the nearest of some points, in place.

    Products find the few points that may be the nearest, and differences say how far these are:
    products lose the digits of small distances.

    Args:
        nearest: (m,) float64, squared; infinity where there is none yet.
        centres: (m, d) float64.
        others: (n, d) float64.
        left_out: (m, n) bool, the pairs that do not count.

    Returns:
        The largest squared distance of all pairs, to about ten digits of squared norms.

    Examples:
        >>> nearest = torch.full((1,), torch.inf, dtype=torch.float64)
        >>> others = torch.tensor([[0.0], [2.0], [5.0]]).double()
        >>> lower_nearest(nearest, others[:1], others, torch.tensor([[True, False, False]]))
        25.0
        >>> nearest
        tensor([4.], dtype=torch.float64)
    """
    long, wide = centres.square().sum(1), others.square().sum(1)
    squared = torch.addmm(wide[None], centres, others.T, alpha=-2.0).add_(long[:, None])
    largest = float(squared.max())
    squared.masked_fill_(left_out, torch.inf)
    rounding = _ROUNDING * (long + wide.max())
    bound = torch.minimum(nearest, squared.amin(1)).add_(rounding).clamp_(max=_FINITE)
    for pairs in torch.split((squared <= bound[:, None]).nonzero(), _CENTRES):
        centre, other = pairs.T
        exact = (centres[centre] - others[other]).square().sum(1)
        nearest.scatter_reduce_(0, centre, exact, "amin")
    return largest


def smallest_distance(points: Tensor) -> float:
    """The smallest distance above 0 between two points.

    Args:
        points: (n, d) floating.

    Returns:
        The distance; infinity where there is none.

    Examples:
        >>> smallest_distance(torch.tensor([[0.0], [0.0], [3.0], [5.0]]))
        2.0
    """
    points = torch.unique(points + 0.0, dim=0)  # -0 is 0
    nearest = torch.full((len(points),), torch.inf, dtype=torch.float64)
    for some, others in pieces(len(points), len(points)):
        own = torch.arange(some.start, some.stop)[:, None] == torch.arange(
            others.start, others.stop
        )
        lower_nearest(nearest[some], points[some].double(), points[others].double(), own)
    return float(nearest.min().sqrt()) if len(points) else torch.inf


def pieces(centres: int, others: int) -> Iterator[tuple[slice, slice]]:
    """Pairs of runs of some centres and of some other points, that fit into memory.

    Examples:
        >>> list(pieces(2, 9000))
        [(slice(0, 2, None), slice(0, 8192, None)), (slice(0, 2, None), slice(8192, 9000, None))]
    """
    for start in range(0, centres, _CENTRES):
        for first in range(0, others, _OTHERS):
            yield (
                slice(start, min(start + _CENTRES, centres)),
                slice(first, min(first + _OTHERS, others)),
            )
