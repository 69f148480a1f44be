"""How detection measures what strategies ask for; a signal that is not listed is measured as is."""

from collections.abc import Callable

from segal.signals import MeanFeature, Signal, Value
from segal.signals.class_profiles import ClassProfiles
from segal.signals.mial import Discrepancy
from segal.tasks.detection.signals.elements import OfBoxes
from segal.tasks.detection.signals.mial import OfAnchors

__all__ = ["MEASURED", "measured"]

MEASURED: dict[type, Callable[..., Signal]] = {
    Value: OfBoxes,
    MeanFeature: OfBoxes,
    ClassProfiles: OfBoxes,
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
