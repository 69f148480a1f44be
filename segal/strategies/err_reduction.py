"""The candidates that would leave the network least uncertain of the pool."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Signal
from segal.signals.error_change import UpdatedEntropy
from segal.signals.pixel_sample import SampleSize
from segal.strategies._influence import Layers
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class ErrorReduction:
    """Expected-error reduction (Roy and McCallum, 2001), in the form that IWPS compares with.

    The network takes one step of plain gradient descent on a candidate with its own hard
    predictions as labels; picked is the candidate after whose step the mean entropy over a sample
    of the pool is lowest. Neither source gives the sample or the step for regions.

    Attributes:
        layers: Parameters that are updated: `last`, `last_two` (default), `all`, or the name of a
            module of the network from which on they are; see `error_change` for what that costs.
        lr: Size of the step.
        pool_pixels: Pixels of the pool that the entropy is taken over, drawn at random; 0 or null
            for all of them.
    """

    layers: Layers = "last_two"
    lr: Annotated[float, Field(gt=0.0)] = 1e-4
    pool_pixels: Annotated[int, Field(ge=0)] | None = 4000
    name: ClassVar[str] = "err_reduction"
    direction: ClassVar[Direction | None] = "lower"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Roy and McCallum (ICML 2001), as in IWPS, section 4.1"

    @property
    def _signal(self) -> UpdatedEntropy:
        sample = SampleSize(self.pool_pixels or None)
        return UpdatedEntropy(self.layers, lr=self.lr, sample=sample)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the entropy after a step; the pool is read once before, for the sample."""
        yield [self._signal]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` candidates of the lowest entropy, which are the scores."""
        scores = torch.from_numpy(table.values[self._signal.column])
        return Picks.best(scores, count, "lower")
