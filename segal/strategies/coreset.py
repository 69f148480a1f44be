"""CoreSet: candidates that cover the pool in feature space."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import MeanFeature, Signal
from segal.strategies._distance import Init, Selector, select_by_distance
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

_FEATURE = MeanFeature()


@dataclass(frozen=True, config=PARAMETERS)
class CoreSet:
    """k-center-greedy on mean features, started from what is labelled.

    Attributes:
        selector: `k_center` (default) or `k_means_plusplus`.
        init: `labelled` (default) or `max_norm`.
    """

    selector: Selector = "k_center"
    init: Init = "labelled"
    name: ClassVar[str] = "coreset"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Sener and Savarese (ICLR 2018)"

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the mean features."""
        yield [_FEATURE]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks that cover; scores are distances at pick."""
        return select_by_distance(
            table.stored(_FEATURE.column),
            labelled.stored(_FEATURE.column) if len(labelled) else None,
            count,
            generator,
            selector=self.selector,
            init=self.init,
        )
