"""Segmentation metrics, all from one confusion matrix of a whole data set.

Per-image averages are another quantity: add the matrices of the images first, then take the ratio.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Confusion = NDArray[np.int64]


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
    truth, predicted = target[counted].long(), prediction[counted].long()
    for name, classes in (("target", truth), ("prediction", predicted)):
        if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
            raise ValueError(f"{name} holds a class outside 0 to {num_classes - 1}")
    pairs = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes)


def largest_answer(confusion: Confusion) -> tuple[int, float]:
    """The class that is predicted most.

    Args:
        confusion: (C, C) counts, rows are the truth.

    Returns:
        The class, the lowest of equal ones, and its share of all pixels in [0, 1]; NaN of none.
    """
    predicted = np.asarray(confusion, np.int64).sum(0)
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
