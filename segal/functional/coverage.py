"""Exact areas of boxes that other boxes leave uncovered."""

from collections.abc import Iterable
from itertools import chain

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MANY = 512
"""Boxes whose cells take 40 MiB at most."""


def remaining_pixels(boxes: ArrayLike, bought: ArrayLike) -> NDArray[np.int64]:
    """Area of each box outside the union of the bought boxes of the same image.

    The bought boxes' edges cut the plane into cells; the covered area left of and above a point is
    bilinear within a cell, so that a box takes four lookups, however many boxes are bought. Memory
    is that of the cells: (2 m)^2 at most, and no more than the image has pixels; of many that are
    bought the plane is divided first.

    Args:
        boxes: (n, 4) integers, half-open (x0, y0, x1, y1) in pixels.
        bought: (m, 4) integers, likewise; they may overlap one another; m = 0 will do.

    Returns:
        (n,) pixels.

    Raises:
        ValueError: If an array is not (n, 4) integers, or a box is empty or turned round.

    Examples:
        >>> remaining_pixels([[0, 0, 4, 4], [4, 0, 8, 4]], bought=[[2, 0, 6, 4]]).tolist()
        [8, 8]
    """
    return _remaining(_checked(boxes, "boxes"), _checked(bought, "bought"))


def _remaining(boxes: NDArray[np.int64], bought: NDArray[np.int64]) -> NDArray[np.int64]:
    area: NDArray[np.int64] = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    if not len(boxes) or not len(bought):
        return area
    if len(bought) > _MANY and len(boxes) > 1:  # each half of them meets some of the bought only
        corners = boxes[:, :2].astype(np.float64)
        side = corners[:, int(np.ptp(corners[:, 1]) >= np.ptp(corners[:, 0]))]
        order = np.argsort(side, kind="stable")
        for half in np.array_split(order, 2):
            low, high = boxes[half, :2].min(0), boxes[half, 2:].max(0)
            meeting = bought[((bought[:, :2] < high) & (bought[:, 2:] > low)).all(1)]
            clipped = np.concatenate(
                [np.maximum(meeting[:, :2], low), np.minimum(meeting[:, 2:], high)], 1
            )
            area[half] = _remaining(boxes[half], clipped)
        return area
    covered = _CoveredArea(bought)
    x0, y0, x1, y1 = boxes.T
    return area - (covered(x1, y1) - covered(x0, y1) - covered(x1, y0) + covered(x0, y0))


def mask_boxes(mask: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """Boxes that do not overlap and cover a mask: runs of pixels, joined with equal runs below.

    Args:
        mask: (H, W).

    Returns:
        Half-open (x0, y0, x1, y1), by their lower edge and then from the left.

    Examples:
        >>> mask_boxes(np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1]], bool))
        [(0, 0, 2, 2), (0, 2, 1, 3), (2, 2, 3, 3)]
    """
    found = row_boxes(mask, mask.shape[1])
    assert found is not None
    return found


def row_boxes(
    rows: Iterable[NDArray[np.bool_]], width: int, most: int | None = None
) -> list[tuple[int, int, int, int]] | None:
    """The same of a mask whose rows come one by one.

    Args:
        rows: (width,) each.
        width: Of the mask.
        most: Boxes at most.

    Returns:
        As `mask_boxes`; None where it would be more than `most`.

    Examples:
        >>> row_boxes(iter(np.array([[1, 0], [1, 0], [1, 1]], bool)), 2)
        [(0, 0, 1, 2), (0, 2, 2, 3)]
    """
    boxes: list[tuple[int, int, int, int]] = []
    open_since: dict[tuple[int, int], int] = {}
    edged = np.zeros(width + 2, np.int8)
    for y, row in enumerate(chain(rows, [np.zeros(width, np.bool_)])):
        edged[1:-1] = row
        edges = np.flatnonzero(np.diff(edged)).tolist()
        runs = dict.fromkeys(zip(edges[::2], edges[1::2], strict=True))
        ended = [run for run in open_since if run not in runs]
        boxes += [(x0, open_since.pop((x0, x1)), x1, y) for x0, x1 in sorted(ended)]
        for run in runs:
            open_since.setdefault(run, y)
        if most is not None and len(boxes) + len(open_since) > most:
            return None
    return boxes


class _CoveredArea:
    """Area of a union of boxes within the quadrant left of and above a point; exact in int64."""

    def __init__(self, boxes: NDArray[np.int64]) -> None:
        self.xs, self.ys = np.unique(boxes[:, [0, 2]]), np.unique(boxes[:, [1, 3]])
        left, right = np.searchsorted(self.xs, boxes[:, 0]), np.searchsorted(self.xs, boxes[:, 2])
        top, bottom = np.searchsorted(self.ys, boxes[:, 1]), np.searchsorted(self.ys, boxes[:, 3])
        steps = np.zeros((len(self.ys), len(self.xs)), np.int64)
        for rows, columns, step in (
            (top, left, 1),
            (top, right, -1),
            (bottom, left, -1),
            (bottom, right, 1),
        ):
            np.add.at(steps, (rows, columns), step)
        # The last row and column lie outside every box, so that looking up there adds nothing.
        self.cell = (steps.cumsum(0).cumsum(1) > 0).astype(np.int64)
        widths, heights = np.diff(self.xs), np.diff(self.ys)
        self.width = np.zeros_like(steps)  # covered in this row of cells, left of the cell
        self.width[:, 1:] = (self.cell[:, :-1] * widths).cumsum(1)
        self.height = np.zeros_like(steps)  # covered in this column of cells, above the cell
        self.height[1:] = (self.cell[:-1] * heights[:, None]).cumsum(0)
        self.corner = np.zeros_like(steps)
        self.corner[1:] = (self.width[:-1] * heights[:, None]).cumsum(0)

    def __call__(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
        x, y = np.clip(x, self.xs[0], self.xs[-1]), np.clip(y, self.ys[0], self.ys[-1])
        i = np.searchsorted(self.ys, y, side="right") - 1
        j = np.searchsorted(self.xs, x, side="right") - 1
        dx, dy = x - self.xs[j], y - self.ys[i]
        area: NDArray[np.int64] = (
            self.corner[i, j]
            + dy * self.width[i, j]
            + dx * self.height[i, j]
            + dx * dy * self.cell[i, j]
        )
        return area


def _checked(boxes: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(boxes)
    if array.size == 0:
        return np.zeros((0, 4), np.int64)
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected (n, 4) integers, got {array.shape} {array.dtype}")
    array = array.astype(np.int64)
    if (array[:, 2:] <= array[:, :2]).any():
        raise ValueError(f"{name}: expected x0 < x1 and y0 < y1")
    return array
