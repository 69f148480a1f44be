"""An uncertainty of a network that is made as sure as it is right on a reference set."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.errors import SegalError
from segal.functional.calibration import TemperatureSearch
from segal.models.wrapped import Model
from segal.signals.base import Need, Piecewise, Workbench
from segal.signals.by_class import Tempered

TEMPERATURES = tuple(10 ** (i / 24 - 1) for i in range(49))
"""From 0.1 to 10, a factor of 1.1 apart."""

_SAMPLED = 4096
"""Labelled elements of each image that the temperature is found on, evenly spaced."""


@dataclass(frozen=True)
class Calibrated(Piecewise):
    """An uncertainty at the temperature of the least calibration error on the reference set.

    The error is taken as `TemperatureSearch` does, at most 4,096 elements of an image.

    Attributes:
        name: A registered uncertainty, or `package.module:function`.
    """

    name: str
    needs: ClassVar[frozenset[Need]] = frozenset({Need("val", labels=True)})
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """As `margin-calibrated`."""
        return f"{self.name}-calibrated"

    @property
    def in_pieces(self) -> bool:
        """As of `Value`."""
        return ":" not in self.name

    def check(self, model: Model) -> None:
        """Raises a SegalError if what is classified has no label of its own."""
        if model.spec.answers.of == "objects":
            raise SegalError(
                "strategy.temperature: boxes that are found have no labels to be calibrated by",
                expected="a network that classifies pixels or images, or a temperature",
                got=f"a network for {model.spec.task}",
                remedy="give strategy.temperature=1",
            )

    def prepare(self, bench: Workbench) -> Tempered:
        """Finds the temperature, by a pass over the reference set."""
        self.check(bench.model)
        found = bench.once(("temperature", "val"), lambda: _temperature(bench))
        bench.note(
            f"On the reference set the network is calibrated best at temperature {found:.3g}."
        )
        return Tempered(self.name, found)


def _temperature(bench: Workbench) -> float:
    search = TemperatureSearch(TEMPERATURES)
    for visit in bench.visit("val"):
        for logits, labels, mask in zip(
            visit.evidence.logits, visit.labels, visit.mask, strict=True
        ):
            search.add(*_sampled(logits, labels, mask))
    return search.best()


def _sampled(logits: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(n, C) logits and (n,) labels of an image, from (C, H, W) and (H, W)."""
    places = mask.flatten().nonzero()[:, 0]
    chosen = torch.arange(min(len(places), _SAMPLED), device=places.device)
    places = places[chosen * len(places) // max(1, len(chosen))]
    return logits.flatten(1)[:, places].T, labels.flatten()[places]
