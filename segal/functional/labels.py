"""Which elements of a label have a class, in files' arrays and in torch.

What is asked of labels of every kind is a function that dispatches on their type; a task whose
labels are no arrays registers its own.
"""

import hashlib
from collections.abc import Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORE_INDEX = 255
"""Of elements without a class, in arrays of uint8; in other integers it is any negative number."""

VOID = -100
"""The same in tensors of int64, as torch's losses have it."""

_MAP = 1024
"""Elements from which on a pass over each class takes less time than one over all at once."""


def has_class(label: Any) -> Any:
    """Which elements have a class.

    Args:
        label: An array or tensor of classes: uint8 with `IGNORE_INDEX`, or other integers with
            negative numbers for elements without one.

    Returns:
        A mask of its shape.

    Examples:
        >>> has_class(np.array([0, 255], np.uint8)), has_class(torch.tensor([0, -100]))
        (array([ True, False]), tensor([ True, False]))
    """
    if label.dtype in {np.dtype(np.uint8), torch.uint8}:
        return label != IGNORE_INDEX
    return label >= 0


def void_of(label: NDArray[Any]) -> int:
    """What stands for no class in an array of that dtype: `IGNORE_INDEX`, or -1."""
    return IGNORE_INDEX if label.dtype == np.uint8 else -1


@singledispatch
def keep_regions(label: Any, regions: Sequence[tuple[int, int, int, int]]) -> Any:
    """A copy of a label in which nothing is known outside the regions.

    Args:
        label: (H, W), as `has_class` takes it.
        regions: Boxes (x0, y0, x1, y1) in elements; they may overlap.
    """
    kept = np.full_like(label, void_of(label))
    for x0, y0, x1, y1 in regions:
        kept[y0:y1, x0:x1] = label[y0:y1, x0:x1]
    return kept


@singledispatch
def drop_regions(label: Any, regions: Sequence[tuple[int, int, int, int]]) -> Any:
    """A copy of a label in which nothing is known inside the regions; see `keep_regions`."""
    kept = label.copy()
    for x0, y0, x1, y1 in regions:
        kept[y0:y1, x0:x1] = void_of(label)
    return kept


@singledispatch
def region_digest(label: Any, region: tuple[int, int, int, int]) -> str:
    """A fingerprint of what a label says of a region, whatever it says elsewhere.

    Args:
        label: (H, W), as `has_class` takes it.
        region: A box (x0, y0, x1, y1) in elements.

    Returns:
        A sha256 in hexadecimal digits.

    Examples:
        >>> a, b = np.zeros((2, 2), np.uint8), np.array([[0, 1], [0, 1]], np.uint8)
        >>> [region_digest(a, box) == region_digest(b, box) for box in [(0, 0, 1, 2), (0, 0, 2, 2)]]
        [True, False]
    """
    x0, y0, x1, y1 = region
    part = np.ascontiguousarray(label[y0:y1, x0:x1])
    digest = hashlib.sha256(f"{part.shape} {part.dtype.str}".encode())
    digest.update(part.tobytes())
    return digest.hexdigest()


@singledispatch
def count_labelled(label: Any) -> int:
    """How many elements of a label are known.

    Args:
        label: As `has_class` takes it.
    """
    return int(has_class(label).sum())


def class_indices(label: Tensor) -> Tensor:
    """Classes as torch's losses take them.

    Args:
        label: As `has_class` takes it.

    Returns:
        int64, `VOID` for elements without a class.
    """
    return torch.where(has_class(label), label.long(), VOID)


def predicted_classes(logits: Tensor, dim: int) -> Tensor:
    """The class of the largest logit, the first of equals.

    On maps torch's own `argmax` over classes takes 20 to 40 times as long.

    Args:
        logits: (..., C, ...) of any floating dtype, without NaN.
        dim: That of the classes.

    Returns:
        (..., ...) int64.

    Examples:
        >>> predicted_classes(torch.tensor([[0.0, 2.0, 2.0]]), 1)
        tensor([1])
    """
    largest = logits.amax(dim)
    if largest.numel() < _MAP:
        return logits.argmax(dim)
    count = logits.shape[dim]
    classes = torch.zeros_like(largest, dtype=torch.uint8 if count <= 256 else torch.int32)
    for number in reversed(range(count)):
        classes.masked_fill_(logits.select(dim, number) == largest, number)
    return classes.long()
