"""DropQuery: candidates whose predictions do not survive dropout, one of each cluster."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.functional.ranking import rank
from segal.signals import Signal
from segal.signals.feature_dropout import FeatureDropout
from segal.strategies._features import FEATURE, in_turn, k_means
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class DropQuery:
    """Of those that dropout flips, the nearest to each centroid of k-means (DropQuery).

    A candidate is kept if more than half of its predictions change under dropout of the features
    before the last layer (Gupte et al., section 4); those that are kept are put into as many
    clusters as there are picks, and the one nearest to each centroid is picked. What is different
    here: a region's predictions are those of all its pixels and passes; whole channels are dropped,
    the same at all pixels of an image, as a vector's are; where fewer are kept than are picked, the
    candidates that change most are. The authors' public code takes 3 passes, scikit-activeml 5.

    As it plans for the whole count, fewer picks need not be the first of more.

    Attributes:
        rate: Share of the features that is dropped, 0.75 as published.
        samples: Passes, 3 as published.
    """

    rate: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.75
    samples: Annotated[int, Field(ge=1, le=1000)] = 3
    name: ClassVar[str] = "drop_query"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Gupte, Aklilu, Nirschl and Yeung-Levy (TMLR 2024)"

    @property
    def _signal(self) -> FeatureDropout:
        return FeatureDropout(self.rate, self.samples)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the predictions under dropout and the mean features."""
        yield [self._signal, FEATURE]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks one of each cluster; scores are the shares of predictions that change."""
        changed = table.values[self._signal.column]
        kept = np.flatnonzero(changed > 0.5)
        notes: tuple[str, ...] = ()
        if len(kept) < count:
            notes = (
                f"{len(kept)} candidates change more than half of their predictions under dropout: "
                f"the {count} that change most are picked.",
            )
            kept = rank(torch.from_numpy(changed), "higher")[:count].numpy()
        else:
            view = table.view(kept, table.pixels[kept])
            features = view.embedding(FEATURE.column)
            labels, centroids = k_means(features, count, generator)
            kept = kept[in_turn(features, labels, centroids)[:count]]
        return Picks(kept, changed[kept], notes)
