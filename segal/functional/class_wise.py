"""One embedding for each group of things, such as the boxes of one class in one image."""

from typing import Literal

import torch
from torch import Tensor


def class_wise(
    weights: Tensor,
    uncertainty: Tensor,
    features: Tensor,
    groups: Tensor,
    count: int,
    reduce: Literal["max", "mean"],
) -> Tensor:
    """One embedding for each group of boxes.

    Args:
        weights: (n,) of each box.
        uncertainty: (n,) by which `max` chooses; NaN is chosen before all else.
        features: (n, D).
        groups: (n,) int64 group of each box.
        count: How many groups there are.
        reduce: `max` or `mean`.

    Returns:
        (count, D) float32: weight * feature of the box of largest uncertainty, the first among
        equals, or the mean over the boxes; zeros for a group without one.

    Examples:
        >>> import torch
        >>> u, f = torch.tensor([0.2, 0.8, 0.5]), torch.tensor([[10.0], [20.0], [30.0]])
        >>> groups = torch.tensor([0, 0, 2])
        >>> class_wise(u, u, f, groups, 3, "max")
        tensor([[16.],
                [ 0.],
                [15.]])
        >>> class_wise(u, u, f, groups, 3, "mean")
        tensor([[ 9.],
                [ 0.],
                [15.]])
    """
    embedding = torch.zeros(count, features.shape[1], device=features.device)
    if reduce == "max":
        order = uncertainty.argsort(descending=True, stable=True)
        order = order[groups[order].argsort(stable=True)]
        ordered = groups[order]
        first = torch.ones_like(ordered, dtype=torch.bool)
        first[1:] = ordered[1:] != ordered[:-1]
        chosen = order[first]
        embedding[groups[chosen]] = (weights[chosen, None] * features[chosen]).float()
        return embedding
    for group in sorted(set(groups.tolist())):
        own = groups == group
        embedding[group] = (weights[own, None].double() * features[own]).mean(0).float()
    return embedding
