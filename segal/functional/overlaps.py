"""How well boxes found in two looks at an image agree."""

import torch
from torch import Tensor
from torchvision.ops import box_iou


def best_overlaps(boxes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Of each box the largest intersection over union with any of the others.

    Args:
        boxes: (N, 4) x0, y0, x1, y1, floating; x0 <= x1 and y0 <= y1.
        others: (M, 4) likewise.

    Returns:
        (N,) float64 in [0, 1], 0 where there is no other, or where both are without area; and (N,)
        int64, which of the others that is, the first among equals, 0 where there is none.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [5.0, 5.0, 6.0, 6.0]])
        >>> best_overlaps(boxes, torch.tensor([[9.0, 9.0, 9.5, 9.5], [0.0, 0.0, 2.0, 1.0]]))
        (tensor([0.5000, 0.0000], dtype=torch.float64), tensor([1, 0]))
    """
    if not len(others):
        nothing = torch.zeros(len(boxes), dtype=torch.float64, device=boxes.device)
        return nothing, nothing.long()
    found: Tensor = box_iou(boxes.double(), others.double()).nan_to_num_(0.0)
    # `max` leaves open which of equals it names; `argmax` of NumPy, and of torch today, the first.
    index = (found == found.amax(1, keepdim=True)).int().argmax(1)
    return found.amax(1), index


def weighted_stability(overlaps: Tensor, certainty: Tensor) -> Tensor:
    """How little boxes move when the image is disturbed (Kao et al., ACCV 2018, section 3.2).

    `sum_j p_j (1 / L) sum_l IoU_lj / sum_j p_j`: a box's stability is its mean best overlap, and an
    image's the mean of its boxes', weighted by their certainty.

    Args:
        overlaps: (L, N), of N boxes with what is found at each of L levels of noise.
        certainty: (N,) at least 0, each box's highest class probability; where all are 0 boxes
            count alike.

    Returns:
        A float64 scalar in [0, 1]; 1, nothing moved, without a box.

    Example:
        >>> weighted_stability(torch.tensor([[1.0, 0.5], [0.8, 0.1]]), torch.tensor([0.9, 0.3]))
        tensor(0.7500, dtype=torch.float64)
    """
    weights, stable = certainty.double(), overlaps.double().mean(0)
    if not len(weights):
        return torch.ones((), dtype=torch.float64, device=overlaps.device)
    if not (weights > 0).any():
        weights = torch.ones_like(weights)
    return (weights * stable).sum() / weights.sum()


def distance_to_base(
    overlap: Tensor, certainty: Tensor, other: Tensor, divergence: Tensor, base: float
) -> Tensor:
    """How far the consistency of a box with its counterpart is from a base point (CALD).

    `|IoU + (1 / 2) (s + s') (1 - JS) - base|`; a consistency is in [0, 2], and neither a full one
    nor none teaches the network most.

    Args:
        overlap: (...) intersection over union with the counterpart.
        certainty: (...) s, the box's highest class probability.
        other: (...) s', the counterpart's.
        divergence: (...) the Jensen-Shannon divergence of their distributions over classes.
        base: The base point.

    Returns:
        (...) float64, at least 0.

    Example:
        >>> half = torch.tensor(0.5)
        >>> distance_to_base(half, half, torch.tensor(0.7), torch.tensor(0.0), 1.3)
        tensor(0.2000, dtype=torch.float64)
    """
    of_classes = (certainty.double() + other.double()) / 2 * (1 - divergence.double())
    return (overlap.double() + of_classes - base).abs()
