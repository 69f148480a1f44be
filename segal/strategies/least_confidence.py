"""The candidates with the least confident predictions."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from segal.strategies._uncertainty import UncertaintyStrategy
from segal.strategies.base import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class LeastConfidence(UncertaintyStrategy):
    """Picks by one minus the largest probability, 1 - p_1; higher is picked."""

    name: ClassVar[str] = "least_confidence"
    source: ClassVar[str] = "Lewis and Gale (SIGIR 1994)"
