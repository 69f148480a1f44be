"""The loss that the network's own loss-prediction module predicts."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.models.loss_prediction import LossPrediction
from segal.models.wrapped import FEATURE_MAPS, Model
from segal.signals.base import Meter, Need, Pooled, Workbench


class ReadsLossPrediction:
    """A signal that reads the network's loss-prediction module, which training adds to it."""

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no maps that losses can be predicted from.

        Whether it has a module that does so shows after its training.
        """
        if not self.was_added(model):
            model.check_feature_maps()

    def was_added(self, model: Model) -> bool:
        """Whether the network has a module."""
        return model.loss_prediction is not None

    def module(self, model: Model) -> LossPrediction:
        """The network's module.

        Raises:
            SegalError: If the network has none.
        """
        if model.loss_prediction is None:
            raise SegalError(
                "the network predicts no losses",
                expected="a network that was trained with a loss-prediction module",
                got="a checkpoint without one",
                remedy="train with train.learning_loss=true, and give that checkpoint",
            )
        return model.loss_prediction


@dataclass(frozen=True)
class PredictedLoss(ReadsLossPrediction, Pooled):
    """The predicted loss of each candidate (Yoo and Kweon, CVPR 2019).

    Every feature map that the module takes is averaged over the candidate's pixels, exactly, after
    bilinear upsampling; see `segal.models.loss_prediction`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = True

    @property
    def column(self) -> str:
        """Column name."""
        return "predicted_loss"

    def prepare(self, bench: Workbench) -> Meter:
        """The network's module at work.

        Raises:
            SegalError: If the network has none.
        """
        return _LossMeter(self.module(bench.model))


@dataclass(frozen=True)
class _LossMeter:
    module: LossPrediction
    catch: ClassVar[tuple[str, ...]] = (FEATURE_MAPS,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64; only their order means something."""
        return self.module.of_units(evidence.maps, units, evidence.upsampling)
