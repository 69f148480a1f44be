"""How many objects a candidate is expected to hold."""

from dataclasses import dataclass

from segal.signals.detector import AsksForBoxes


@dataclass(frozen=True)
class ExpectedObjects(AsksForBoxes):
    """What a candidate is expected to cost in boxes: the sum of the scores of its boxes.

    As far as a box's score is the probability that it is an object, and each object is found once,
    the sum is the expected number of objects.
    """

    @property
    def column(self) -> str:
        """Column name."""
        return "expected_objects"
