"""The candidates that passes with dropout disagree on most."""

from typing import ClassVar

from pydantic.dataclasses import dataclass

from segal.strategies._dropout import DropoutStrategy
from segal.strategies.base import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class BALD(DropoutStrategy):
    """Picks by H(mean_t p_t) - mean_t H(p_t) over T passes with dropout; higher is picked.

    It is what passes disagree on, without what each is uncertain of by itself. Only dropout modules
    are switched on; a network without any needs `model.insert_dropout`.
    """

    name: ClassVar[str] = "bald"
    source: ClassVar[str] = "Houlsby et al. (2011); Gal, Islam and Ghahramani (ICML 2017)"
