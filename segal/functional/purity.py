"""How large balls around points can be before they hold points of more than one label."""

import math

import torch
from torch import Tensor

_CHUNK = 256
_INSIDE = 1 - 2.0**-40
"""A ball that reaches to a point of another label is not pure: this much less is."""


def pure_radius(points: Tensor, labels: Tensor, purity: float, sample: Tensor) -> float:
    """The largest radius at which a share of at least `purity` of the balls have one label alone.

    Args:
        points: (n, d) floating.
        labels: (n,) integers.
        purity: Above 0, at most 1.
        sample: (m,) positions of the balls' centres; a ball holds every point within its radius.

    Returns:
        The radius. Where too many centres coincide with a point of another label, the smallest
        distance above 0 to one; where there is but one label, the largest distance there is.

    Examples:
        >>> points = torch.tensor([[0.0], [1.0], [4.0], [6.0]])
        >>> radius = pure_radius(points, torch.tensor([0, 0, 1, 1]), 0.5, torch.arange(4))
        >>> round(radius, 6)
        4.0
    """
    mode = "donot_use_mm_for_euclid_dist"  # products lose the digits of small distances
    reach = torch.empty(len(sample), dtype=torch.float64)
    largest = 0.0
    for start in range(0, len(sample), _CHUNK):
        part = sample[start : start + _CHUNK]
        distance = torch.cdist(points[part].double(), points.double(), compute_mode=mode)
        largest = max(largest, float(distance.max()))
        distance.masked_fill_(labels[part, None] == labels, torch.inf)
        reach[start : start + _CHUNK] = distance.amin(1)
    reach = reach.sort().values
    radius = float(reach[len(reach) - math.ceil(purity * len(reach))])
    if radius == 0:
        above = reach[reach > 0]
        radius = float(above[0]) if len(above) else math.inf
    return radius * _INSIDE if radius < math.inf else max(largest, 1e-12)
