"""TypiClust: the most typical candidate of each cluster that has no label yet."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from segal.candidates.table import CandidateTable
from segal.signals import Signal
from segal.strategies._features import (
    FEATURE,
    Integers,
    Normalize,
    features_of,
    joined,
    k_means,
)
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets

_CHUNK = 1024
_LEAST = 1e-5
"""Added to distances, as in the authors' code, so that equal features are typical, not infinitely
so."""


@dataclass(frozen=True, config=PARAMETERS)
class TypiClust:
    """From each cluster without a label the candidate with the nearest neighbours (TypiClust).

    Features of unit length, of what is on offer and what is labelled, are put into as many clusters
    as there will be labels, at most `clusters`, by k-means. Clusters with the fewest labels take
    turns, the largest first among equals; of each the candidate of largest typicality is taken,
    1 / (mean distance to its `neighbours` nearest neighbours in the cluster that are not picked).
    Clusters of fewer than `smallest` come last (Hacohen et al., section 3 and appendix F).

    | parameter | paper (default) | code    |
    |-----------|-----------------|---------|
    | distance  | euclidean       | squared |
    | smallest  | 5               | 6       |

    Above 50 clusters the authors take minibatch k-means; here it is Lloyd's algorithm from
    k-means++ seeding at any number.

    At most half of a cluster counts as neighbours, as in the code. Small clusters, and more picks
    than a cluster has candidates, the texts leave out: small ones follow where the others are used
    up. It needs features alone. As it plans for the whole count, fewer picks need not be the first
    of more.

    Attributes:
        clusters: The most clusters, 500 as published.
        neighbours: K, 20 as published.
        smallest: Candidates, labelled ones included, that a cluster has to have.
        distance: What neighbours are near by.
        normalize: `l2` (default) brings features to unit length, as published; `none` does not.
    """

    clusters: Annotated[int, Field(ge=1, le=10_000)] = 500
    neighbours: Annotated[int, Field(ge=1, le=10_000)] = 20
    smallest: Annotated[int, Field(ge=1)] = 5
    distance: Literal["euclidean", "squared"] = "euclidean"
    normalize: Normalize = "l2"
    name: ClassVar[str] = "typiclust"
    presets: ClassVar[Presets] = {
        "paper": {"distance": "euclidean", "smallest": 5},
        "code": {"distance": "squared", "smallest": 6},
    }
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Hacohen, Dekel and Weinshall (ICML 2022), TPC with k-means"

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
        """Picks cluster by cluster; scores are typicalities."""
        known = features_of(labelled, self.normalize) if len(labelled) else None
        features = joined(features_of(table, self.normalize), known)
        clusters = min(len(labelled) + count, self.clusters, len(features))
        labels, _ = k_means(features.numpy(), clusters, generator)
        free = [np.flatnonzero(labels[: len(table)] == c) for c in range(clusters)]
        order = self._order(labels, len(table), clusters)
        picked: list[int] = []
        scores: list[float] = []
        for group in order:
            while len(picked) < count and any(len(free[c]) for c in group):
                for c in group:
                    if len(picked) < count and len(free[c]):
                        row, typicality = self._most_typical(features, free[c])
                        free[c] = free[c][free[c] != row]
                        picked.append(row)
                        scores.append(typicality)
        return Picks(np.array(picked, np.int64), np.array(scores, np.float64))

    def _order(self, labels: Integers, offered: int, clusters: int) -> tuple[list[int], list[int]]:
        """Clusters in the order of their turns: those that are large enough, and the others."""
        sizes = np.bincount(labels, minlength=clusters)
        known = np.bincount(labels[offered:], minlength=clusters)
        order = np.lexsort((-sizes, known))
        large = sizes[order] >= self.smallest
        return order[large].tolist(), order[~large].tolist()

    def _most_typical(self, features: Tensor, rows: Integers) -> tuple[int, float]:
        """The row of the largest typicality among some, the lowest among equals, and that."""
        if len(rows) == 1:
            return int(rows[0]), 1 / _LEAST
        members = features[torch.from_numpy(rows)].double()
        neighbours = min(self.neighbours, max(1, len(rows) // 2))
        best, at = -1.0, 0
        for start in range(0, len(rows), _CHUNK):
            part = members[start : start + _CHUNK]
            between = torch.cdist(part, members)
            own = torch.arange(len(part))
            between[own, start + own] = torch.inf
            if self.distance == "squared":
                between.square_()
            near = between.topk(neighbours, largest=False).values.mean(1)
            typicality = 1 / (near + _LEAST)
            if float(typicality.max()) > best:
                best, at = float(typicality.max()), start + int(typicality.argmax())
        return int(rows[at]), best
