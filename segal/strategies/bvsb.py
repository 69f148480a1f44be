"""The candidates with the closest best and second best classes."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from segal.strategies._uncertainty import UncertaintyStrategy
from segal.strategies.base import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class BestVersusSecondBest(UncertaintyStrategy):
    """Picks by the ratio p_2 / p_1 (UWE, eq. 8); higher is picked."""

    name: ClassVar[str] = "bvsb"
    source: ClassVar[str] = "Joshi et al. (CVPR 2009); as UWE (TMLR 2024), eq. 8, defines it"
