"""What the strategies share that pick by passes with dropout."""

from typing import Annotated, cast

from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.signals import Signal
from segal.signals.dropout import DropoutName, DropoutValue
from segal.strategies._uncertainty import UncertaintyStrategy
from segal.strategies.base import PARAMETERS


@dataclass(frozen=True, config=PARAMETERS)
class DropoutStrategy(UncertaintyStrategy):
    """Picks the candidates of the largest value over passes with dropout, lowest id among equals.

    Each image goes through the network `samples` times in the one pass over the pool.

    Attributes:
        reduction: How a candidate's pixels become one number: `mean` (default), `sum` or `max`.
        samples: T, the number of passes with dropout (10 by default), from 2 to 1000.
    """

    samples: Annotated[int, Field(ge=2, le=1000)] = 10

    @property
    def _signal(self) -> Signal:
        return DropoutValue(cast(DropoutName, self.name), self.samples, self.reduction)
