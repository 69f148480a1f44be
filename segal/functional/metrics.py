"""Metrics of a whole data set: from one confusion matrix, or from ranked scores.

Per-image averages are another quantity: add the matrices of the images first, then take the ratio.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Confusion = NDArray[np.int64]
Floats = NDArray[np.float64]

# Numbers held at once by an array of `average_precision`: 8 MB of float64.
_CHUNK = 1 << 20


def confusion_matrix(
    prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = 255
) -> Tensor:
    """Counts pairs of true and predicted class.

    Args:
        prediction: Predicted classes, any integer dtype and shape; what it holds where the target
            is `ignore_index` does not matter.
        target: True classes, of the same shape and on the same device.
        num_classes: Number of classes C, at least 1.
        ignore_index: Elements with this target are left out.

    Returns:
        (C, C) int64 on the inputs' device; entry (i, j) counts elements of class i predicted as j.

    Raises:
        ValueError: For shapes that differ, or a class outside [0, C) that is not left out.

    Examples:
        >>> import torch
        >>> predicted, target = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 255])
        >>> confusion_matrix(predicted, target, num_classes=2)
        tensor([[1, 1],
                [0, 1]])
    """
    if prediction.shape != target.shape:
        raise ValueError(f"shapes differ: {tuple(prediction.shape)} and {tuple(target.shape)}")
    counted = target != ignore_index
    truth, predicted = (torch.where(counted, x, 0).flatten() for x in (target, prediction))
    for name, classes in (("target", truth), ("prediction", predicted)):
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise ValueError(f"{name} holds a class outside 0 to {num_classes - 1}")
    pairs = truth.int() * num_classes + predicted.int()
    pairs = torch.where(counted.flatten(), pairs, num_classes**2)
    counts = torch.bincount(pairs, minlength=num_classes**2 + 1)
    return counts[:-1].reshape(num_classes, num_classes)


def largest_answer(predicted: NDArray[np.int64]) -> tuple[int, float]:
    """The class that is predicted most.

    Args:
        predicted: (C,) how many elements are predicted as each class.

    Returns:
        The class, the lowest of equal ones, and its share of all elements in [0, 1]; NaN of none.
    """
    most, total = int(predicted.argmax()), int(predicted.sum())
    return most, float(predicted[most]) / total if total else math.nan


def iou(confusion: Confusion) -> NDArray[np.float64]:
    """Intersection over union (Jaccard index) of each class.

    Args:
        confusion: (C, C) counts, rows are the truth.

    Returns:
        (C,) float64 in [0, 1]; NaN for an absent class, one that is neither in the truth nor
        predicted.

    Examples:
        >>> import numpy as np
        >>> iou(np.array([[1, 1], [0, 1]])).tolist()
        [0.5, 0.5]
    """
    intersection = np.diagonal(confusion).astype(np.float64)
    union = confusion.sum(0) + confusion.sum(1) - intersection
    scores = np.full(len(union), np.nan)
    np.divide(intersection, union, out=scores, where=union > 0)
    return scores


def mean_iou(confusion: Confusion) -> float:
    """Mean of `iou` over the classes that are not absent; NaN if all are.

    Examples:
        >>> import numpy as np
        >>> mean_iou(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))  # the last class is absent
        0.5
    """
    scores = iou(confusion)
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if present.size else float("nan")


def pixel_accuracy(confusion: Confusion) -> float:
    """Share of the counted elements that are predicted right; NaN if none was counted.

    Examples:
        >>> import numpy as np
        >>> pixel_accuracy(np.array([[6, 1], [1, 2]]))
        0.8
    """
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else float("nan")


def overlaps(confusions: NDArray[np.integer]) -> NDArray[np.int64]:
    """What mIoU needs of confusion matrices; it adds up over images, as they do.

    Args:
        confusions: (..., C, C) counts, rows are the truth.

    Returns:
        (..., 2C) int64: the intersection of each class, then the union of each.
    """
    counts = confusions.astype(np.int64, copy=False)
    intersection = np.diagonal(counts, axis1=-2, axis2=-1)
    union = counts.sum(-1) + counts.sum(-2) - intersection
    return np.concatenate([intersection, union], -1)


def mean_iou_of_overlaps(sums: Floats) -> Floats:
    """Mean of the IoU over the classes that are not absent; NaN if all are.

    Args:
        sums: (..., 2C), as `overlaps` gives them, added over images.

    Returns:
        (...) float64 in [0, 1].
    """
    classes = sums.shape[-1] // 2
    intersection, union = sums[..., :classes], sums[..., classes:]
    scores = np.zeros_like(union, dtype=np.float64)
    np.divide(intersection, union, out=scores, where=union > 0)
    return share(np.stack([scores.sum(-1), (union > 0).sum(-1)], -1))


def share(sums: Floats) -> Floats:
    """A part over the whole; NaN of nothing.

    Args:
        sums: (..., 2), the part and the whole, both added over images.

    Returns:
        (...) float64.
    """
    part, whole = sums[..., 0], sums[..., 1]
    found: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return found


def recall(confusion: Confusion) -> Floats:
    """Share of each class's elements that are predicted right.

    Args:
        confusion: (C, C) counts, rows are the truth.

    Returns:
        (C,) float64 in [0, 1]; NaN for a class that is not in the truth.

    Examples:
        >>> import numpy as np
        >>> recall(np.array([[1, 1, 0], [0, 4, 0], [0, 0, 0]])).tolist()
        [0.5, 1.0, nan]
    """
    return share(np.stack([np.diagonal(confusion), confusion.sum(1)], -1).astype(np.float64))


def balanced_accuracy(confusion: Confusion) -> float:
    """Mean of `recall` over the classes that are in the truth; NaN if none is.

    Examples:
        >>> import numpy as np
        >>> balanced_accuracy(np.array([[1, 1, 0], [0, 4, 0], [0, 0, 0]]))
        0.75
    """
    scores = recall(confusion)
    present = scores[~np.isnan(scores)]
    return float(present.mean()) if present.size else float("nan")


def average_precision(labels: ArrayLike, scores: ArrayLike) -> Floats:
    """Area under the precision-recall curve as a sum of steps, without interpolation.

    The sum over ranks of (recall gained) x (precision there); equal scores are one rank. For each
    class of a data set give both arrays transposed, (C, N).

    Args:
        labels: (R, N) integers: 1 for yes, 0 for no, -1 for what is not known and left out.
        scores: (R, N) floats, the higher the surer of yes; infinite ones are ranked, too.

    Returns:
        (R,) float64 in [0, 1]; NaN for a row without a yes.

    Raises:
        ValueError: If the shapes differ or are not as above, a label is another, or a score is NaN.

    Examples:
        >>> average_precision([[1, 0, 1, 0], [0, 0, 0, 0]], [[4.0, 3.0, 2.0, 1.0]] * 2).round(3)
        array([0.833,   nan])
    """
    truth, ranked = np.asarray(labels), np.asarray(scores)
    if truth.ndim != 2 or truth.shape != ranked.shape:
        raise ValueError(f"expected two arrays (R, N), got {truth.shape} and {ranked.shape}")
    if not np.isin(truth, (-1, 0, 1)).all():
        raise ValueError("labels: expected 1, 0 and -1 only")
    if np.isnan(ranked).any():
        raise ValueError("scores: expected numbers, got NaN")
    count, length = truth.shape
    rows = max(1, _CHUNK // max(length, 1))
    found = np.full(count, np.nan)
    for start in range(0, count, rows):
        chunk = slice(start, start + rows)
        found[chunk] = _average_precision(truth[chunk], ranked[chunk])
    return found


def _average_precision(labels: NDArray[np.integer], scores: NDArray[np.floating]) -> Floats:
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked, truth = (np.take_along_axis(a, order, 1) for a in (scores, labels))
    length = truth.shape[1]
    right, seen = (truth == 1).cumsum(1), (truth >= 0).cumsum(1)
    # Equal scores share the precision at the last of them.
    last = np.broadcast_to(np.arange(length), truth.shape).copy()
    last[:, :-1][ranked[:, :-1] == ranked[:, 1:]] = length
    last = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    right_there, seen_there = (np.take_along_axis(a, last, 1) for a in (right, seen))
    precision = right_there / np.maximum(seen_there, 1)
    gained = (truth == 1).sum(1)
    return share(np.stack([(precision * (truth == 1)).sum(1), gained], -1))
