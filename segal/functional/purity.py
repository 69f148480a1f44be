"""How large balls around points can be before they hold points of more than one label."""

import math

import torch
from torch import Tensor

from segal.functional.nearest import lower_nearest, pieces

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
    reach = torch.full((len(sample),), torch.inf, dtype=torch.float64)
    largest = 0.0
    for some, others in pieces(len(sample), len(points)):
        same = labels[sample[some], None] == labels[others]
        part = points[sample[some]].double(), points[others].double()
        largest = max(largest, lower_nearest(reach[some], *part, same))
    reach = reach.sqrt_()
    reach = reach.sort().values
    radius = float(reach[len(reach) - math.ceil(purity * len(reach))])
    if radius == 0:
        above = reach[reach > 0]
        radius = float(above[0]) if len(above) else math.inf
    return radius * _INSIDE if radius < math.inf else max(math.sqrt(largest), 1e-12)
