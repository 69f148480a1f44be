"""Multiple instance active learning (MIAL, Yuan et al., CVPR 2021): discrepancy, MIL score, losses.

An image is a bag of N instances, the anchors of a detector, of which two class heads f1 and f2 and
a head of multiple instance learning (MIL) say something each, of C classes. The paper's equations
use one symbol for a head's score and for the probability made of it; here equation 3, 7 and 10 take
probabilities, as their values and the threshold of equation 10 ask for, and equation 5 takes scores
(logits) as the softmax of multiple instance learning does. The public code (github.com/yuantn/MI-
AOD) differs from the paper in equation 5 and 6: `level_mil_score` and `bag_score` with levels.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Reduction = Literal["top_k", "max", "mean"]


def discrepancy(first: Tensor, second: Tensor, *, squared: bool = False) -> Tensor:
    """How far two heads disagree about each instance: the mean over classes of |p1 - p2| (eq. 3).

    Args:
        first: (..., N, C) probabilities of the one head, in [0, 1].
        second: Likewise of the other.
        squared: The mean of (p1 - p2)^2, by which the public code selects.

    Returns:
        (..., N), in [0, 1].

    Raises:
        ValueError: If shapes differ.

    Examples:
        >>> import torch
        >>> discrepancy(torch.tensor([[0.5, 0.25]]), torch.tensor([[0.25, 0.25]]))
        tensor([0.1250])
    """
    _check_same(first, second)
    difference = first - second
    return (difference.square() if squared else difference.abs()).mean(-1)


def weighted_discrepancy(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Discrepancy with a weight for every instance and class: mean over classes (eq. 7).

    No gradient reaches the weights.

    Args:
        first: (..., N, C) probabilities of the one head, in [0, 1].
        second: Likewise of the other.
        weights: (..., N, C), not negative; in the paper the MIL score.

    Returns:
        (..., N); its sum over instances is the paper's loss, but for the mean over classes.

    Raises:
        ValueError: If shapes differ.

    Examples:
        >>> import torch
        >>> first, second = torch.tensor([[0.5, 0.25]]), torch.tensor([[0.25, 0.0]])
        >>> weighted_discrepancy(first, second, torch.tensor([[1.0, 0.0]]))
        tensor([0.1250])
    """
    _check_same(first, second)
    _check_same(first, weights)
    return (weights.detach() * (first - second)).abs().mean(-1)


def mil_score(mil: Tensor, scores: Tensor) -> Tensor:
    """The MIL score of the paper (eq. 5): softmax over classes times softmax over instances.

    Args:
        mil: (..., N, C) outputs of the MIL head.
        scores: (..., N, C) means of both class heads' scores (logits).

    Returns:
        (..., N, C) in (0, 1); of each class the sum over instances is in (0, 1).

    Raises:
        ValueError: If shapes differ.

    Examples:
        >>> import torch
        >>> mil_score(torch.zeros(2, 2), torch.zeros(2, 2))
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]])
    """
    _check_same(mil, scores)
    return mil.softmax(-1) * scores.softmax(-2)


def level_mil_score(mil: Tensor, probabilities: Tensor, levels: Sequence[int]) -> Tensor:
    """The MIL score of the public code: within each level of the pyramid, over the likeliest class.

    The second factor is the softmax, over the instances of a level, of an instance's largest
    probability: one number for all classes. The scores of a level sum to one over instances and
    classes together. No gradient reaches the probabilities.

    Args:
        mil: (..., N, C) outputs of the MIL head.
        probabilities: (..., N, C), the sigmoids of the mean of both class heads' logits.
        levels: How many of the N are of each level, in order.

    Returns:
        (..., N, C) in (0, 1).

    Raises:
        ValueError: If shapes differ, or the levels have not N instances.

    Examples:
        >>> import torch
        >>> level_mil_score(torch.zeros(3, 2), torch.ones(3, 2), [2, 1])
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500],
                [0.5000, 0.5000]])
    """
    _check_same(mil, probabilities)
    _check_levels(mil, levels)
    largest = probabilities.detach().amax(-1, keepdim=True)
    parts = [level.softmax(-2) for level in torch.split(largest, list(levels), -2)]
    return mil.softmax(-1) * torch.cat(parts, -2)


def bag_score(score: Tensor, levels: Sequence[int] | None = None) -> Tensor:
    """An image's score of each class: the sum of its instances' MIL scores.

    The public code sums within each level and takes the largest of the levels. Since its MIL scores
    of a level sum to one over classes too, the bag scores of one level do, and of L levels they
    sum to at most L. So an image of n classes has a least loss above zero where n > L: the sum of
    the n terms `-log(bag)` is at least `n log(n / L)`, which is 1.39 for two classes and 3.30 for
    three of one level. The paper's score has no such floor: each class has a softmax of its own.

    Args:
        score: (..., N, C) MIL scores.
        levels: How many of the N are of each level, in order; None: of one level.

    Returns:
        (..., C) in (0, 1), but for rounding.

    Raises:
        ValueError: If the levels have not N instances.

    Examples:
        >>> import torch
        >>> scores = torch.tensor([[0.25, 0.125], [0.25, 0.125], [0.0, 0.5]])
        >>> bag_score(scores), bag_score(scores, [2, 1])
        (tensor([0.5000, 0.7500]), tensor([0.5000, 0.5000]))
    """
    if levels is None:
        return score.sum(-2)
    _check_levels(score, levels)
    sums = [level.sum(-2) for level in torch.split(score, list(levels), -2)]
    return torch.stack(sums).amax(0)


def mil_loss(
    bag: Tensor, present: Tensor, *, reduction: Literal["sum", "mean"] = "sum", margin: float = 1e-7
) -> Tensor:
    """How well bag scores tell which classes an image shows: binary cross-entropy (eq. 6).

    Args:
        bag: (..., C) bag scores.
        present: (..., C), 1 or true for a class that the image shows, else 0.
        reduction: Over classes: the sum, as in the paper, or the mean, as in the public code.
        margin: Scores are kept so far from 0 and 1; 1e-5 in the public code, by default as far as
            float32 tells a score from 1.

    Returns:
        (...), not negative.

    Raises:
        ValueError: If shapes differ.

    Examples:
        >>> import torch
        >>> mil_loss(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
        tensor(1.3863)
    """
    _check_same(bag, present)
    inside = bag.clamp(margin, 1 - margin)
    # Not `F.binary_cross_entropy`, which refuses to run in half precision.
    losses = -torch.where(present > 0, inside, 1 - inside).log()
    return losses.sum(-1) if reduction == "sum" else losses.mean(-1)


def pseudo_labels(first: Tensor, second: Tensor, threshold: float = 0.5) -> Tensor:
    """Classes that an image seems to show: those of which an instance is likely enough (eq. 10).

    Args:
        first: (..., N, C) probabilities of the one head, in [0, 1]; N is at least 1.
        second: Likewise of the other.
        threshold: What the mean of both must exceed.

    Returns:
        (..., C) bool.

    Raises:
        ValueError: If shapes differ.

    Examples:
        >>> import torch
        >>> pseudo_labels(torch.tensor([[0.9, 0.5]]), torch.tensor([[0.2, 0.5]]))
        tensor([ True, False])
    """
    _check_same(first, second)
    return ((first + second) / 2).amax(-2) > threshold


def image_discrepancy(values: Tensor, reduction: Reduction = "top_k", k: int = 10_000) -> Tensor:
    """An image's discrepancy (section 3.4): the mean of its k largest.

    Args:
        values: (..., N) discrepancies of instances.
        reduction: `top_k`; `max`, which is that of k = 1; `mean`, of k = N.
        k: At least 1; a larger one than N takes all.

    Returns:
        (...); 0 where N is 0.

    Raises:
        ValueError: If k is less than 1.

    Examples:
        >>> import torch
        >>> image_discrepancy(torch.tensor([0.5, 0.0, 0.25]), k=2)
        tensor(0.3750)
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    count = values.shape[-1]
    if not count:
        return values.sum(-1)
    largest = {"top_k": min(k, count), "max": 1, "mean": count}[reduction]
    return values.topk(largest).values.mean(-1)


def anchor_heat(
    values: Tensor,
    shapes: Sequence[tuple[int, int]],
    anchors: Sequence[int],
    covers: tuple[int, int],
    size: tuple[int, int],
) -> Tensor:
    """Spreads what anchors have over the image that they lie in (as in figure 6).

    A cell of a level has the largest value of its anchors, and a pixel the largest of the levels,
    each interpolated bilinearly between its cells.

    Args:
        values: (N,) of all anchors: level by level, row by row, cell by cell.
        shapes: (height, width) of each level in cells.
        anchors: How many a cell of each level has.
        covers: (height, width) that the levels cover in pixels of the image: at least its size.
        size: (H, W) of the image.

    Returns:
        (H, W) float32.

    Raises:
        ValueError: If there are not N anchors.

    Examples:
        >>> import torch
        >>> values = torch.tensor([0.5, 1.0, 0.0, 0.25])
        >>> anchor_heat(values, [(1, 2)], [2], (1, 4), (1, 4))
        tensor([[1.0000, 0.8125, 0.4375, 0.2500]])
    """
    counts = [h * w * n for (h, w), n in zip(shapes, anchors, strict=True)]
    _check_levels(values[:, None], counts)
    heat = values.new_full(size, float("-inf"), dtype=torch.float32)
    for level, shape in zip(torch.split(values.float(), counts), shapes, strict=True):
        cells = level.reshape(*shape, -1).amax(-1)
        spread = F.interpolate(cells[None, None], covers, mode="bilinear", align_corners=False)
        heat = torch.maximum(heat, spread[0, 0, : size[0], : size[1]])
    return heat


def _check_same(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise ValueError(
            f"expected the shape of each other, got {tuple(first.shape)} and {tuple(second.shape)}"
        )


def _check_levels(values: Tensor, levels: Sequence[int]) -> None:
    if sum(levels) != values.shape[-2]:
        raise ValueError(f"levels: expected {values.shape[-2]} instances in all, got {sum(levels)}")
