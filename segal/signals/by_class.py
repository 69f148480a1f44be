"""Signals that are pooled class by class: an embedding of C columns, one for each class."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.functional.labels import predicted_classes
from segal.models.wrapped import Model
from segal.signals.base import Piecewise, PlainSignal
from segal.signals.labels import softmax
from segal.signals.values import UNCERTAINTIES, Value


@dataclass(frozen=True)
class MeanSoftmax(PlainSignal, Piecewise):
    """The mean probability of each class over each candidate's elements.

    Attributes:
        temperature: T of softmax(z / T), above 0.
    """

    temperature: float = 1.0

    @property
    def column(self) -> str:
        """As `mean_softmax-0.1`."""
        return f"mean_softmax-{self.temperature!r}"

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C) float64."""
        if self.temperature == 1:
            return _mean(torch.split(softmax(evidence), 1, 1), units)
        logits = evidence.logits
        sharp = logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature
        return _mean(torch.split(sharp.softmax(1), 1, 1), units)


@dataclass(frozen=True)
class ValueByClass(PlainSignal, Piecewise):
    """An uncertainty pooled by the class that is predicted: the mean of u(x) [y(x) = c].

    Over the classes it sums to the mean uncertainty.

    Attributes:
        name: A registered uncertainty.
        temperature: T of the logits z / T that it is taken of, above 0.
    """

    name: str
    temperature: float = 1.0

    @property
    def column(self) -> str:
        """As `by_class-bvsb-1.0`."""
        return f"by_class-{self.name}-{self.temperature!r}"

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C) float64."""
        values = Tempered(self.name, self.temperature).element_map(evidence)[:, None]
        predicted = _predicted(evidence)
        classes = range(evidence.logits.shape[1])
        return _mean((values * (predicted == c) for c in classes), units)


@dataclass(frozen=True)
class WeightedByClass(PlainSignal, Piecewise):
    """An uncertainty weighted by the probability of each class: the mean of p_c(x) u(x).

    Over the classes it sums to the mean uncertainty.

    Attributes:
        name: A registered uncertainty.
    """

    name: str

    @property
    def column(self) -> str:
        """As `weighted_by_class-entropy`."""
        return f"weighted_by_class-{self.name}"

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C) float64."""
        values = Value(self.name).element_map(evidence)[:, None]
        return _mean((values * p for p in torch.split(softmax(evidence), 1, 1)), units)


@dataclass(frozen=True)
class PredictedShares(PlainSignal, Piecewise):
    """The share of each candidate's pixels that each class is predicted on.

    Attributes:
        borders: Of these pixels those alone that have a neighbour (left, right, above or below) of
            another class.
        background: A class that the network must know; None where it does not matter.
    """

    borders: bool = False
    background: int | None = None
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """`predicted_shares`, or `predicted_borders`."""
        return "predicted_borders" if self.borders else "predicted_shares"

    @property
    def in_pieces(self) -> bool:
        """Not borders, which neighbours make."""
        return not self.borders

    def check(self, model: Model) -> None:
        """Raises a SegalError if what has a class is no pixel, or there is no such class."""
        if model.spec.answers.of != "pixels":
            raise SegalError(
                "strategy.foreground: pixels have no class",
                expected="a network that classifies pixels",
                got=f"a network for {model.spec.task}",
                remedy="leave strategy.foreground out",
            )
        if self.background is not None and self.background >= model.spec.num_classes:
            raise SegalError(
                f"strategy.background: no class {self.background}",
                expected=f"a class from 0 to {model.spec.num_classes - 1}",
                got=str(self.background),
                remedy="give the number of a class, or leave it out for the most frequent one",
            )

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C) float64."""
        predicted = _predicted(evidence)
        shown = _borders(predicted) if self.borders else torch.ones_like(predicted)
        classes = range(evidence.logits.shape[1])
        return _mean(((predicted == c) * shown for c in classes), units)


@dataclass(frozen=True)
class Tempered(PlainSignal, Piecewise):
    """An uncertainty of logits that are divided by a temperature, pooled over each candidate.

    Attributes:
        name: A registered uncertainty, or `package.module:function`.
        temperature: T, above 0.
    """

    name: str
    temperature: float

    @property
    def column(self) -> str:
        """As `bvsb-temperature-2.0`."""
        return f"{self.name}-temperature-{self.temperature!r}"

    @property
    def in_pieces(self) -> bool:
        """As of `Value`."""
        return ":" not in self.name

    def element_map(self, evidence: Evidence) -> Tensor:
        """The uncertainty of every element, (B, H, W), computed once per batch."""
        if self.temperature == 1:
            return Value(self.name).element_map(evidence)
        function = UNCERTAINTIES.get(self.name)

        def tempered(logits: Tensor) -> Tensor:
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return function(wide / self.temperature)

        if ":" in self.name:  # a user's own may look at neighbours
            return evidence.once(self, lambda: tempered(evidence.logits))
        return evidence.once(self, lambda: evidence.map_pixels(tempered))

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        return _mean([self.element_map(evidence)[:, None]], units)[..., 0]


def _mean(maps: Iterable[Tensor], units: Units) -> Tensor:
    """(B, units, C) float64 means over the units of C maps (B, 1, H, W), which come one by one."""
    pooled = [units.pool(one.double()) for one in maps]
    return torch.cat([sums / counts[:, None] for sums, counts in pooled], -1)


def _predicted(evidence: Evidence) -> Tensor:
    """(B, 1, H, W) int64 classes, the first among equals."""
    return evidence.once(("predicted",), lambda: predicted_classes(evidence.logits, 1)[:, None])


def _borders(classes: Tensor) -> Tensor:
    """Whether each element of (..., H, W) classes has a neighbour of another class."""
    border = torch.zeros_like(classes, dtype=torch.bool)
    for axis in (-2, -1):
        size = classes.shape[axis]
        if size > 1:
            differ = classes.narrow(axis, 0, size - 1) != classes.narrow(axis, 1, size - 1)
            border.narrow(axis, 0, size - 1).logical_or_(differ)
            border.narrow(axis, 1, size - 1).logical_or_(differ)
    return border
