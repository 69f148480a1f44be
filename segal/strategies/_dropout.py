"""What the strategies share that pick by passes with dropout."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates import CandidateTable
from segal.evidence import Reduction
from segal.functional.ranking import top_k
from segal.signals import Signal
from segal.signals.dropout import DropoutName, DropoutValue
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class DropoutStrategy:
    """Picks the candidates of the largest value over passes with dropout, lowest id among equals.

    Attributes:
        samples: T, the number of passes with dropout (10 by default), from 2 to 1000.
        reduction: How a candidate's pixels become one number: `mean` (default), `sum` or `max`.
    """

    samples: Annotated[int, Field(ge=2, le=1000)] = 10
    reduction: Reduction = "mean"
    value_name: ClassVar[DropoutName]
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str]

    @property
    def _signal(self) -> DropoutValue:
        return DropoutValue(self.value_name, self.samples, self.reduction)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass over the pool, in which each image goes through the network `samples` times."""
        yield [self._signal]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` candidates of the largest value, which is their score."""
        scores = torch.from_numpy(table.values[self._signal.column])
        rows = top_k(scores, count, "higher")
        return Picks(rows.numpy(), scores[rows].numpy())
