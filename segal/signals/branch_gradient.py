"""The gradient of a candidate by the last layers of several branches of a detector."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from segal.signals.detector import AsksForBoxes

Branches = Literal["cls", "cls+reg", "cls+reg+rpn"]
"""Of a detector: its classes, its boxes, and its region proposals, where it has these."""


@dataclass(frozen=True)
class BranchGradient(AsksForBoxes):
    """Gradients by the weights of the last layers of branches, one after another (UWE, A.3).

    What is labelled already is measured, too.

    Attributes:
        branches: Which.
    """

    branches: Branches = "cls+reg"
    of_labelled: ClassVar[bool] = True

    @property
    def column(self) -> str:
        """As `gradient-cls-reg`."""
        return f"gradient-{self.branches.replace('+', '-')}"
