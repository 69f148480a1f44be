"""The candidates with the smallest margin between the two likeliest classes."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from segal.strategies._uncertainty import UncertaintyStrategy
from segal.strategies.base import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class Margin(UncertaintyStrategy):
    """Picks by 1 - (p_1 - p_2), so that higher is picked."""

    name: ClassVar[str] = "margin"
    source: ClassVar[str] = "Scheffer et al. (IDA 2001)"
