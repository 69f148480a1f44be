"""The most uncertain candidates by the mean of passes with dropout."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from segal.strategies._dropout import DropoutStrategy
from segal.strategies.base import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class MCDropout(DropoutStrategy):
    """Picks by H(mean_t p_t), the entropy of the mean of T passes with dropout; higher is picked.

    Only dropout modules are switched on; a network without any needs `model.insert_dropout`.
    """

    name: ClassVar[str] = "mc_dropout"
    source: ClassVar[str] = "Gal and Ghahramani (ICML 2016); Gal, Islam and Ghahramani (ICML 2017)"
