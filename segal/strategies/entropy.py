"""The most uncertain candidates by entropy."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from segal.strategies._uncertainty import UncertaintyStrategy
from segal.strategies.base import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class Entropy(UncertaintyStrategy):
    """Picks by the entropy of the softmax, -sum p log p in nats (UWE, eq. 5); higher is picked."""

    name: ClassVar[str] = "entropy"
    source: ClassVar[str] = "Shannon entropy; UWE (TMLR 2024), eq. 5"
