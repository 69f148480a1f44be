"""Where the values of an image are."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Place = tuple[int, int, int, int]
"""x0, y0, x1, y1 of a box, in pixels."""


def boxes_of_values(values: NDArray[Any]) -> dict[int, Place]:
    """The smallest box around each value of an image.

    Of runs of equal values along the rows, so that whole images are gone through once, however many
    values there are.

    Args:
        values: (h, w), whole numbers, contiguous; h and w at least 1.

    Returns:
        x0, y0, x1, y1 of each value that occurs, by value, in ascending order.

    Examples:
        >>> boxes_of_values(np.array([[7, 7, 2], [7, 2, 2]]))
        {2: (1, 0, 3, 2), 7: (0, 0, 2, 2)}
    """
    height, width = values.shape
    begins = np.empty((height, width), np.bool_)
    begins[:, 0] = True
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    found = values.reshape(-1)[starts]
    order = np.argsort(found, kind="stable")  # of one value they stay in the order of the rows
    found = found[order]
    groups = np.flatnonzero(np.append(True, found[1:] != found[:-1]))
    rows, left = np.divmod(starts, width)
    right = np.append(starts[1:], values.size) - rows * width
    rows = rows[order]
    boxes = (
        np.minimum.reduceat(left[order], groups),
        rows[groups],
        np.maximum.reduceat(right[order], groups),
        rows[np.append(groups[1:], len(rows)) - 1] + 1,
    )
    corners = zip(*(side.tolist() for side in boxes), strict=True)
    return dict(zip(found[groups].tolist(), corners, strict=True))


def masks_of_values(
    values: NDArray[Any],
) -> Iterator[tuple[int, NDArray[np.bool_], tuple[int, int]]]:
    """The pixels of each value of an image, in ascending order.

    Args:
        values: As `boxes_of_values` takes them.

    Yields:
        The value; (h, w) bool, no larger than it needs to be; and (x, y) of its first pixel.

    Examples:
        >>> list(masks_of_values(np.array([[7, 2, 2]])))
        [(2, array([[ True,  True]]), (1, 0)), (7, array([[ True]]), (0, 0))]
    """
    for value, (x0, y0, x1, y1) in boxes_of_values(values).items():
        yield value, values[y0:y1, x0:x1] == value, (x0, y0)
