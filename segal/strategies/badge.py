"""BADGE: candidates whose gradients are large and unlike one another."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.functional.distances import Embedding, OuterProducts
from segal.signals import MeanFeature, OutputGradient, RegionGradient, Signal
from segal.signals.branch_gradient import Branches, BranchGradient
from segal.strategies._distance import Init, Selector, select_by_distance
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class Badge:
    """k-means++ seeding on gradients of the last layer, with the likeliest class as the label.

    A candidate's embedding is the gradient of its mean loss by the weights of the last layer, bias
    left out (Ash et al., eq. 1 for one element). For an image that is classified whole it is an
    outer product, of which the two factors are stored and distances taken; the mean over a
    region's pixels is not, and is taken in closed form. Embeddings stay on disk while they are
    selected from.

    Attributes:
        selector: `k_means_plusplus` (default; Algorithm 1): the largest norm first, then draws in
            proportion to the squared distance to the nearest pick. Or `k_center`, the farthest
            each time.
        init: `max_norm` (default; the paper's picks do not look at what is labelled), or
            `labelled`: what is labelled gives the first centres.
        branches: Of a detector, whose last layers the gradient is by: `cls` (default; UWE, A.3,
            found it the best), `cls+reg`, or of Faster R-CNN `cls+reg+rpn`. Other networks have
            the first alone.
    """

    selector: Selector = "k_means_plusplus"
    init: Init = "max_norm"
    branches: Branches = "cls"
    name: ClassVar[str] = "badge"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Ash et al., BADGE (ICLR 2020), Algorithm 1; regions as in UWE"

    @property
    def _gradient(self) -> RegionGradient | BranchGradient:
        if self.branches != "cls":
            return BranchGradient(self.branches)
        return RegionGradient(of_labelled=self.init == "labelled")

    @property
    def _factors(self) -> tuple[OutputGradient, MeanFeature]:
        return OutputGradient(of_labelled=self.init == "labelled"), MeanFeature()

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the gradients, or their factors where they are outer products."""
        factors = context.shared_features and self.branches == "cls"
        yield [*self._factors] if factors else [self._gradient]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks by distance between gradients; scores are distances at pick."""
        known = self.init == "labelled" and len(labelled) > 0
        return select_by_distance(
            self._gradients(table),
            self._gradients(labelled) if known else None,
            count,
            generator,
            selector=self.selector,
            init=self.init,
        )

    def _gradients(self, table: CandidateTable) -> Embedding:
        """As the pass measured them."""
        left, right = self._factors
        if left.column in table.embeddings:
            return OuterProducts(table.stored(left.column), table.stored(right.column))
        return table.stored(self._gradient.column)
