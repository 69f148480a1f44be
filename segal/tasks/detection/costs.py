"""What annotators are paid for: the boxes that they draw."""

from collections.abc import Sequence

from segal.candidates.regions import Box
from segal.tasks.detection.objects import Objects


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
