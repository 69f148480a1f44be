"""What the strategies that pick by one uncertainty share."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.evidence import Reduction
from segal.candidates.table import CandidateTable
from segal.signals import Signal, Value
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class UncertaintyStrategy:
    """Picks the candidates with the largest uncertainty, lowest id first among equals.

    The strategy bears the name of its uncertainty.

    Attributes:
        reduction: How a candidate's pixels become one number: `mean` (default), `sum` or `max`.
    """

    reduction: Reduction = "mean"
    name: ClassVar[str]
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str]

    @property
    def _signal(self) -> Signal:
        return Value(self.name, self.reduction)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the uncertainty."""
        yield [self._signal]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` most uncertain candidates; scores are their uncertainties."""
        scores = torch.from_numpy(table.values[self._signal.column])
        return Picks.best(scores, count, "higher")
