"""How detection measures what strategies ask for; a signal that is not listed is measured as is."""

from collections.abc import Callable
from typing import Any

from segal.signals import Directional, MeanFeature, PredictedLoss, RegionGradient, Signal, Value
from segal.signals.box_prototypes import BoxPrototypes, ClassScores, EntropyAfterNMS
from segal.signals.branch_gradient import BranchGradient
from segal.signals.by_class import MeanSoftmax, Tempered, ValueByClass, WeightedByClass
from segal.signals.class_profiles import ClassProfiles
from segal.signals.class_wise import ClassWiseEmbedding
from segal.signals.dropout import DropoutValue
from segal.signals.expected_objects import ExpectedObjects
from segal.signals.influence import EstimatedLoss, TopKDirectional
from segal.signals.labelled_objects import LabelledObjects
from segal.signals.localization_stability import LocalizationStability
from segal.signals.mial import Discrepancy
from segal.signals.view_consistency import ViewClasses, ViewConsistency
from segal.tasks.detection.signals.box_prototypes import ScoresOfClasses, WithoutRepetitions
from segal.tasks.detection.signals.branch_gradients import GradientOfBranches
from segal.tasks.detection.signals.class_wise import ClassWise
from segal.tasks.detection.signals.dropout import DropoutOfBoxes
from segal.tasks.detection.signals.elements import OfBoxes
from segal.tasks.detection.signals.expected_objects import SumOfScores
from segal.tasks.detection.signals.gradients import ClassGradient
from segal.tasks.detection.signals.influence import BoxDirectional, measured_estimated_loss
from segal.tasks.detection.signals.labelled_objects import CountsOfObjects
from segal.tasks.detection.signals.learning_loss import LossOfMaps
from segal.tasks.detection.signals.localization_stability import BoxesUnderNoise
from segal.tasks.detection.signals.mial import OfAnchors
from segal.tasks.detection.signals.towers import TowerFeature
from segal.tasks.detection.signals.view_consistency import ClassesInViews, ConsistencyOfBoxes

__all__ = ["MEASURED", "measured"]

MEASURED: dict[type[Any], Callable[[Any], Signal]] = {
    ClassProfiles: OfBoxes,
    LocalizationStability: BoxesUnderNoise,
    ViewConsistency: ConsistencyOfBoxes,
    ViewClasses: ClassesInViews,
    EntropyAfterNMS: WithoutRepetitions,
    BoxPrototypes: WithoutRepetitions,
    ClassScores: ScoresOfClasses,
    LabelledObjects: CountsOfObjects,
    ClassWiseEmbedding: ClassWise,
    DropoutValue: DropoutOfBoxes,
    ExpectedObjects: SumOfScores,
    MeanFeature: TowerFeature,
    PredictedLoss: LossOfMaps,
    RegionGradient: ClassGradient,
    BranchGradient: GradientOfBranches,
    Value: OfBoxes,
    MeanSoftmax: OfBoxes,
    ValueByClass: OfBoxes,
    WeightedByClass: OfBoxes,
    Tempered: OfBoxes,
    Directional: BoxDirectional,
    TopKDirectional: BoxDirectional,
    EstimatedLoss: measured_estimated_loss,
    Discrepancy: OfAnchors,
}
"""By the type of a signal what makes detection's way to measure it of the signal."""


def measured(signal: Signal) -> Signal:
    """Detection's way to measure a signal, of the same column.

    Args:
        signal: As a strategy asks for it.
    """
    way = MEASURED.get(type(signal))
    return signal if way is None else way(signal)
