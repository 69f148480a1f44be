"""Signals that are pooled maps of the forward pass: uncertainties and features."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import AfterValidator
from torch import Tensor

from segal.candidates.evidence import Evidence, Reduction, Units
from segal.candidates.table import MEAN_FEATURE
from segal.errors import SegalError
from segal.functional import uncertainty
from segal.functional.uncertainty import UncertaintyFunction
from segal.models.wrapped import FEATURES, Model
from segal.registry import Registry
from segal.signals.base import OfFeatures, Piecewise, PlainSignal, Pooled

UNCERTAINTIES: Registry[UncertaintyFunction] = Registry("uncertainty")
UNCERTAINTIES.register("entropy")(uncertainty.entropy)
UNCERTAINTIES.register("least_confidence")(uncertainty.least_confidence)
UNCERTAINTIES.register("margin")(uncertainty.margin)
UNCERTAINTIES.register("bvsb")(uncertainty.bvsb)


def _known(name: str) -> str:
    try:
        UNCERTAINTIES.get(name)
    except SegalError as error:
        raise ValueError(f"{error.expected}|{error.remedy}") from error
    return name


UncertaintyName = Annotated[str, AfterValidator(_known)]
"""A name that `UNCERTAINTIES` knows, checked where a configuration is."""


@dataclass(frozen=True)
class Value(PlainSignal, Pooled, Piecewise):
    """An uncertainty, pooled over each candidate.

    Attributes:
        name: A registered uncertainty, or `package.module:function` of logits (B, C, ...) to
            (B, ...).
        reduction: How a candidate's elements become one number (mean by default).
    """

    name: str
    reduction: Reduction = "mean"

    @property
    def column(self) -> str:
        """Column name."""
        return self.name if self.reduction == "mean" else f"{self.name}-{self.reduction}"

    @property
    def in_pieces(self) -> bool:
        """Not a function of a user's own, which may look at neighbours."""
        return ":" not in self.name

    def element_map(self, evidence: Evidence) -> Tensor:
        """The uncertainty of every element, (B, H, W), computed once per batch."""
        function = UNCERTAINTIES.get(self.name)
        if ":" in self.name:  # a user's own may look at neighbours
            return evidence.once(self.name, lambda: function(evidence.logits))
        return evidence.once(self.name, lambda: evidence.map_pixels(function))

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        elements = self.element_map(evidence)[:, None]
        if self.reduction == "max":
            return units.pool_max(elements)[..., 0].double()
        sums, counts = units.pool(evidence.once((self.name, "float64"), elements.double))
        return sums[..., 0] if self.reduction == "sum" else sums[..., 0] / counts


@dataclass(frozen=True)
class MeanFeature(PlainSignal, Pooled, Piecewise, OfFeatures):
    """Mean over each candidate's pixels of the upsampled input of the last layer (UWE, eq. 7)."""

    catch: ClassVar[tuple[str, ...]] = (FEATURES,)

    @property
    def column(self) -> str:
        """Column name."""
        return MEAN_FEATURE

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network gives no features."""
        model.check_features()

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, D) float64."""
        sums, counts = units.pool(evidence.caught, evidence.upsampling)
        return sums / counts[:, None]
