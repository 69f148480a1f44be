"""Signals: what a strategy asks the scan to measure of every candidate.

A signal is hashable by its parameters; the scan measures each one once per image and region size.
"""

from segal.signals.base import (
    AsksOfNetwork,
    Direction,
    Meter,
    Need,
    OfFeatures,
    Parameters,
    Piecewise,
    Pooled,
    ReadsAdded,
    Signal,
    TakesCrossEntropy,
    Visit,
    Workbench,
    in_pieces,
)
from segal.signals.directional import Directional
from segal.signals.gradients import GradientNorm, KeptMass, OutputGradient, RegionGradient
from segal.signals.labels import LabelRule, Pseudo, TopK, Truncated
from segal.signals.learning_loss import PredictedLoss, ReadsLossPrediction
from segal.signals.mial import Discrepancy
from segal.signals.values import UNCERTAINTIES, MeanFeature, UncertaintyName, Value

__all__ = [
    "UNCERTAINTIES",
    "AsksOfNetwork",
    "Direction",
    "Directional",
    "Discrepancy",
    "GradientNorm",
    "KeptMass",
    "LabelRule",
    "MeanFeature",
    "Meter",
    "Need",
    "OfFeatures",
    "OutputGradient",
    "Parameters",
    "Piecewise",
    "Pooled",
    "PredictedLoss",
    "Pseudo",
    "ReadsAdded",
    "ReadsLossPrediction",
    "RegionGradient",
    "Signal",
    "TakesCrossEntropy",
    "TopK",
    "Truncated",
    "UncertaintyName",
    "Value",
    "Visit",
    "Workbench",
    "in_pieces",
]
