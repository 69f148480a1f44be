"""RALIF: candidates that lower the pool's own loss, thinned out for diversity."""

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.functional.ranking import rank
from segal.signals import Signal
from segal.signals.directions import Influence
from segal.signals.influence import EstimatedLoss
from segal.strategies._features import FEATURE, Floats, Integers, in_turn, k_means
from segal.strategies._influence import Count, InverseParameters, Layers
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets

_BANDWIDTH_SAMPLES = 1000  # candidates whose distances the bandwidth is estimated from
_CONSTANT = (
    "With classes=expectation the estimated loss is the same for every candidate, since "
    "sum_k p_k (p - e_k) = 0: candidates tie, and the first of the pool are taken. Take "
    "strategy.classes=single or truncated for an order that means something."
)


@dataclass(frozen=True, config=PARAMETERS)
class ReliableInfluence(InverseParameters):
    """Lowest estimated pool loss, then diversity among the best (RALIF, eqs. 7-10, Algorithm 1).

    The loss of a candidate with class k is `L - g_k^T h / m`: L the mean loss of the pool on the
    network's own labels, h the inverse Hessian times its gradient, m the number of labelled pixels,
    g_k the gradient summed over the candidate. Classes are weighed as `classes` says, pixel by
    pixel. The best `candidate_fraction` of the candidates, but at least as many as are picked, are
    the candidate set, of which `diversity` draws. A budget beyond that fraction takes all of them
    first and goes on in the order of the loss, which is the same set of picks.

    | parameter | paper (default)            | code             |
    |-----------|----------------------------|------------------|
    | reduce    | sum                        | mean             |
    | diversity | (k_means, by section 4.3)  | k_means_plusplus |

    Two defaults are not the paper's: `empty: single` and `diversity: k_means_plusplus`.
    In `truncated` the pool's loss times the kept probability swamps the gradient: the order is
    nearly that of least confidence, unless `baseline` is `drop` or `renorm`.

    `strategy.preset` takes a column of the table; a parameter that is given goes before it.

    Attributes:
        classes: `truncated` (default; eq. 9), `single` (eq. 7), or `expectation` (eq. 8), which is
            constant over the pool.
        tau: In `truncated`, a class likelier than this is kept; null for 4 / C, which needs more
            than 4 classes.
        baseline: `paper` (default) weighs L with the kept probability, `drop` leaves L out,
            `renorm` divides by the kept probability.
        empty: A pixel none of whose classes is kept: `single` (default) takes the likeliest,
            `paper` leaves it at 0, which ranks first.
        reduce: `sum` (default) or `mean` over a pixel's kept classes; `renorm` needs neither.
        layers: Parameters that it is differentiated by: `last` (default), `last_two`, `all`, or
            the name of a module of the network; see `isal` for what that costs.
        candidate_fraction: Of the candidates on offer, above 0.
        diversity: `k_means_plusplus` (default): draws by squared distance between mean features,
            from the lowest loss on. `k_means`: Lloyd's algorithm from such draws, nearest to the
            centroids first. `mean_shift`: clusters share the picks in proportion to their size,
            nearest to the centroid first. `none`: the order of the loss.
        clusters: Of `k_means`, which needs it: the number of candidates that the budget buys. With
            more picks than clusters a second round takes the next nearest of each.
        inverse: `cg` (default), `cholesky` (last layer only) or `lissa` (divided by its scale).
        damping: Added to the eigenvalues of H; for `lissa`, d, at most 1, which comes to d times
            the scale.
        tolerance: Of `cg`, relative to the right-hand side.
        max_iterations: Of `cg`.
        samples: Of `lissa`: steps k of a chain.
        repeats: Of `lissa`: chains p that are averaged.
        batch: Of `lissa`: pixels that a step draws.
        scale: Of `lissa`: s.
        hessian_pixels: H is taken on that many labelled pixels, drawn at random; null for all.
    """

    classes: Literal["single", "expectation", "truncated"] = "truncated"
    tau: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    baseline: Literal["paper", "drop", "renorm"] = "paper"
    empty: Literal["paper", "single"] = "single"
    reduce: Literal["sum", "mean"] = "sum"
    layers: Layers = "last"
    candidate_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    diversity: Literal["k_means_plusplus", "k_means", "mean_shift", "none"] = "k_means_plusplus"
    clusters: Count | None = None
    name: ClassVar[str] = "ralif"
    presets: ClassVar[Presets] = {
        "paper": {"reduce": "sum", "empty": "paper"},
        "code": {"reduce": "mean", "diversity": "k_means_plusplus"},
    }
    direction: ClassVar[Direction | None] = "lower"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "RALIF (TMLR 2023), eqs. 7-10 and Algorithm 1"

    @model_validator(mode="after")
    def _clusters_are_known(self) -> "ReliableInfluence":
        if (self.diversity == "k_means") != (self.clusters is not None):
            raise ValueError(
                "clusters with diversity k_means, and with no other|"
                "give strategy.clusters, the number of candidates that the budget buys, or leave "
                "both out"
            )
        return self

    @property
    def _signal(self) -> EstimatedLoss:
        influence = Influence("pool", self.layers, self._inverse(corrected=True))
        return EstimatedLoss(
            influence, self.classes, self.tau, self.empty, self.reduce, self.baseline
        )

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass for the estimated loss and the mean features; the signal takes one before."""
        yield [self._signal, FEATURE]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks from the best; scores are the estimated losses."""
        scores = table.values[self._signal.column]
        notes: tuple[str, ...] = ()
        if self.classes == "expectation":  # what is left of it is rounding
            scores, notes = np.full_like(scores, scores.mean()), (_CONSTANT,)
        order = rank(torch.from_numpy(scores), "lower").numpy()
        best = order[: max(1, math.ceil(self.candidate_fraction * len(order)))]
        drawn = self._diverse(best, table, min(count, len(best)), generator)
        rows: Integers = np.concatenate([drawn, order[len(best) :]])[:count]
        return Picks(rows, scores[rows], notes)

    def _diverse(
        self, best: Integers, table: CandidateTable, count: int, generator: torch.Generator
    ) -> Integers:
        """`count` rows of the candidate set, which is in the order of its scores."""
        if self.diversity == "none":
            return best[:count]
        ascending = np.sort(best)
        features = table.view(ascending, table.pixels[ascending]).embedding(FEATURE.column)
        features = features[np.searchsorted(ascending, best)]
        if self.diversity == "k_means_plusplus":
            x = torch.from_numpy(features)
            chosen: Integers = k_means_plusplus(x, count, generator, first=0).numpy()
        elif self.diversity == "k_means":
            clusters = min(self.clusters or 1, len(best))
            chosen = _by_k_means(features, clusters, generator)[:count]
        else:
            chosen = _by_mean_shift(features, generator)[:count]
        return best[chosen]


def _by_k_means(features: Floats, clusters: int, generator: torch.Generator) -> Integers:
    """All rows: the nearest to each centroid, then the second nearest, and so on."""
    return in_turn(features, *k_means(features, clusters, generator, first=0))


def _by_mean_shift(features: Floats, generator: torch.Generator) -> Integers:
    """All rows, those of clusters in turn in proportion to their size."""
    from sklearn.cluster import MeanShift, estimate_bandwidth  # noqa: PLC0415 (as above)

    state = int(torch.randint(2**31 - 1, (1,), generator=generator))
    bandwidth = estimate_bandwidth(features, n_samples=_BANDWIDTH_SAMPLES, random_state=state)
    if not bandwidth > 0:  # most candidates coincide
        return np.arange(len(features))
    found = MeanShift(bandwidth=bandwidth, bin_seeding=True).fit(features)
    # Sainte-Lague's divisors: whatever the number of picks, shares are in proportion.
    return in_turn(
        features, found.labels_, found.cluster_centers_, lambda rank, size: (2 * rank + 1) / size
    )
