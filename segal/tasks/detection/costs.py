"""What boxes cost an annotator, and what a metric is worth by them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.tasks.detection.objects import Objects

CLICKS = 3
"""Of a box: two corners and a class."""

PER_BOXES = 10_000
"""Boxes that a metric is told by."""


def bought(objects: Objects, regions: Sequence[Box], before: Sequence[Box]) -> list[int]:
    """Boxes that an annotator draws to label regions of an image, in order.

    A box belongs to the first region that holds its centre. Crowds and difficult objects are drawn
    as all others are.

    Args:
        objects: Of the image, all of them.
        regions: What is bought.
        before: What was bought of it before, and costs nothing again.

    Returns:
        A number for each region; they add up to the boxes in their union that were not bought.
    """
    left = ~objects.inside(before)
    counts = []
    for region in regions:
        held = left & objects.inside([region])
        counts.append(int(held.sum()))
        left &= ~held
    return counts


def box_clicks(objects: Objects, regions: Sequence[Box], before: Sequence[Box]) -> list[int]:
    """Clicks to label regions of an image, in order.

    Two on opposite corners and one on a class for each box; where a region holds no box that was
    not bought, one that says so.

    Args:
        objects: As `bought` takes them, and so are the rest.
        regions: What is bought.
        before: What was bought before.
    """
    return [max(1, CLICKS * boxes) for boxes in bought(objects, regions, before)]


def cumulative(boxes: Sequence[int]) -> NDArray[np.int64]:
    """(R,) boxes that were bought by the end of each of R rounds."""
    return np.cumsum(np.asarray(boxes, np.int64))


def per_boxes(metric: Sequence[float], boxes: Sequence[int]) -> NDArray[np.float64]:
    """What a metric is worth by the boxes that it took: 10,000 · mAP / boxes.

    Args:
        metric: (R,) in [0, 1], such as mAP.
        boxes: (R,) ground-truth boxes that were bought by then, in all.

    Returns:
        (R,) float64; NaN where no box was bought.
    """
    values, counts = np.asarray(metric, np.float64), np.asarray(boxes, np.float64)
    worth: NDArray[np.float64] = np.divide(
        PER_BOXES * values, counts, out=np.full(values.shape, np.nan), where=counts > 0
    )
    return worth
