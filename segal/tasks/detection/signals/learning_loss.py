"""The loss that the network's loss-prediction module predicts of an image, or a tile of it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.models.loss_prediction import LossPrediction
from segal.models.wrapped import FEATURE_MAPS
from segal.signals import PredictedLoss, ReadsLossPrediction
from segal.signals.base import Meter, Workbench
from segal.tasks.detection.signals.elements import Measured


@dataclass(frozen=True)
class LossOfMaps(Measured, ReadsLossPrediction):
    """`PredictedLoss` from the pyramid's maps, averaged over the pixels whether boxes are there.

    Images go through the module one by one: what is predicted of one does not depend on the others.
    """

    signal: PredictedLoss

    def prepare(self, bench: Workbench) -> Meter:
        """The network's module at work.

        Raises:
            SegalError: If the network has none.
        """
        return _LossMeter(self.module(bench.model))


@dataclass(frozen=True, eq=False)
class _LossMeter:
    module: LossPrediction
    catch: ClassVar[tuple[str, ...]] = (FEATURE_MAPS,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64; only their order means something."""
        images = zip(*(torch.split(x, 1) for x in evidence.maps), strict=True)
        predicted = [self.module.of_units(maps, units, evidence.upsampling) for maps in images]
        return torch.cat(predicted)
