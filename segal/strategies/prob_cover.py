"""ProbCover: candidates whose balls cover most of the pool."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from segal.candidates.table import CandidateTable
from segal.functional.herding import herding_order
from segal.functional.k_center import k_center_order
from segal.functional.purity import pure_radius
from segal.signals import Signal
from segal.strategies._features import FEATURE, Normalize, features_of, joined, k_means
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

_SAMPLE = 4096
"""Balls that the purity is estimated on."""


@dataclass(frozen=True, config=PARAMETERS)
class ProbCover:
    """Greedy on how many candidates lie within delta of a pick (ProbCover, Algorithm 1).

    Features are of unit length, and what is labelled counts as picked. `delta` is the largest at
    which a share of at least `purity` of the balls hold one cluster alone, of k-means with as many
    clusters as there are classes (section 3.2). Here that largest radius is found exactly, as a
    quantile of the distances to the nearest candidate of another cluster, over at most 4,096
    candidates drawn at random and their distances to all; balls are closed. Once every candidate is
    covered the paper's greedy has nothing to choose by; the rest follow farthest first. It needs
    features alone.

    Attributes:
        delta: The balls' radius; None (default) chooses it by their purity.
        purity: The share of balls of one cluster, 0.95 as published.
        clusters: The number of classes, or what is thought to come near it.
        normalize: `l2` (default) brings features to unit length, as published; `none` does not.
    """

    delta: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    purity: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    clusters: Annotated[int, Field(ge=2, le=4096)] = 10
    normalize: Normalize = "l2"
    name: ClassVar[str] = "prob_cover"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Yehuda, Dekel, Hacohen and Weinshall (NeurIPS 2022), Algorithm 1"

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
        """Picks that cover.

        Scores are the share of the candidates that a pick covers first; once all are covered, how
        much nearer than delta a pick is to an earlier one, below 0.
        """
        offered = features_of(table, self.normalize)
        known = features_of(labelled, self.normalize) if len(labelled) else None
        delta = self.delta
        if delta is None:
            delta = self._pure(joined(offered, known), generator)
        notes: tuple[str, ...] = (f"Balls have a radius of {delta:.3g}.",)
        order = herding_order(offered, count, kernel="ball", radius=delta, centers=known)
        covering = int((order.gain > 0).sum())
        rows, scores = order.picks.numpy(), order.gain.numpy()
        if covering < count:
            notes += (
                f"{covering} picks cover all candidates: the other {count - covering} are the "
                "farthest from those before. A smaller strategy.delta makes smaller balls.",
            )
            rows = rows[:covering]
            left = np.setdiff1d(np.arange(len(table)), rows)
            points = joined(offered, known)  # what is labelled lies behind what is on offer
            centers = torch.cat([points[rows], points[len(table) :]])
            order_left = k_center_order(points[left], count - covering, centers)
            rows = np.concatenate([rows, left[order_left.picks.numpy()]])
            nearer = np.minimum(order_left.distance.numpy() - delta, 0.0)
            scores = np.concatenate([scores[:covering], nearer])
        return Picks(rows, scores, notes)

    def _pure(self, features: Tensor, generator: torch.Generator) -> float:
        clusters = min(self.clusters, len(features))
        labels, _ = k_means(features.numpy(), clusters, generator)
        sample = torch.randperm(len(features), generator=generator)[:_SAMPLE]
        return pure_radius(features, torch.from_numpy(labels), self.purity, sample)
