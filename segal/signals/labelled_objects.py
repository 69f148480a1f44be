"""What objects are labelled already."""

from dataclasses import dataclass
from typing import ClassVar

from segal.signals.base import Need
from segal.signals.detector import AsksForBoxes


@dataclass(frozen=True)
class LabelledObjects(AsksForBoxes):
    """How many objects of each class are labelled in a candidate: an embedding of C columns.

    Of labels nothing is read but what was bought; elsewhere all counts are 0. Crowds and difficult
    objects, which are not trained on, do not count.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need("labelled", True)})
    of_labelled: ClassVar[bool] = True

    @property
    def column(self) -> str:
        """Column name."""
        return "labelled_objects"
