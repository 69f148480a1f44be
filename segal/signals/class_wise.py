"""UWE's embedding of a candidate in which several things are found: one part for each class."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from segal.errors import SegalError
from segal.models.wrapped import Model
from segal.signals.base import Meter, Need, Workbench

BY_CLASS = "class_wise"
"""What the names of its columns begin with."""


@dataclass(frozen=True)
class ClassWiseEmbedding:
    """For each class u^tau * f of the boxes that were found for it (UWE, eq. 9 and appendix A.2).

    An embedding of C * D columns, class by class; the part of a class without a box is zeros. It is
    measured where boxes are found, and nowhere else.

    Attributes:
        uncertainty: u of a box: a registered uncertainty, or `package.module:function`.
        tau: Power of u, at least 0; 0^0 is 1.
        reduce: `max`, the box of the largest u, the first of those that are equal; or `mean` of
            u^tau * f over the class's boxes.
    """

    uncertainty: str
    tau: float
    reduce: Literal["max", "mean"]
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = True

    @property
    def column(self) -> str:
        """As `class_wise-bvsb-1.0-max`."""
        return f"{BY_CLASS}-{self.uncertainty}-{self.tau!r}-{self.reduce}"

    def check(self, model: Model) -> None:
        """Raises a SegalError: only a task that finds boxes measures it, in its own way."""
        raise self._refusal(model)

    def prepare(self, bench: Workbench) -> Meter:
        """As `check`."""
        raise self._refusal(bench.model)

    def _refusal(self, model: Model) -> SegalError:
        return SegalError(
            f"strategy.class_wise: {self.reduce}, of a network that finds no boxes",
            expected="a detector, whose boxes have classes",
            got=model.spec.architecture,
            remedy="give strategy.class_wise=none, or leave it out",
        )
