"""MaxHerding: candidates that every other one has a similar one of among the picks."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.functional.herding import herding_order
from segal.functional.shares import share
from segal.signals import Signal
from segal.strategies._features import FEATURE, Normalize, features_of
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks
from segal.system.ranks import all_ranks


@dataclass(frozen=True, config=PARAMETERS)
class MaxHerding:
    """Greedy on the mean over the pool of the largest Gaussian kernel with a pick (MaxHerding).

    The kernel of mean features of unit length is exp(-|x - s|^2 / sigma^2), and what is labelled
    counts as picked (Bae et al., eqs. 3 to 5; sigma as in the authors' public code). Here the mean
    is over all candidates and every one can be picked, where that code takes 35,000 at random. It
    needs features alone.

    Attributes:
        sigma: The kernel's bandwidth, 1 as published for features of unit length.
        normalize: `l2` (default) brings features to unit length, as published; `none` does not.
    """

    sigma: Annotated[float, Field(gt=0.0, le=1e6)] = 1.0
    normalize: Normalize = "l2"
    name: ClassVar[str] = "max_herding"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Bae, Wang and Sutherland, Generalized Coverage (ECCV 2024)"

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the mean features."""
        yield [FEATURE]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks that cover; scores are by how much each raised the coverage."""
        ranks = all_ranks()
        order = herding_order(
            features_of(table.part(share(len(table), ranks)), self.normalize),
            count,
            radius=self.sigma,
            centers=features_of(labelled, self.normalize) if len(labelled) else None,
            exchange=ranks,
        )
        return Picks(order.picks.numpy(), order.gain.numpy())
