"""The sweep at one region size: what each tau picks, in numbers, and the tau to suggest."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.budget import Allowance, Prices
from segal.candidates.regions import RegionSize
from segal.candidates.table import MEAN_FEATURE, CandidateTable
from segal.errors import SegalError
from segal.functional.batch import batch_statistics, overlap, redundancy
from segal.functional.k_center import k_center_order
from segal.functional.ranking import top_k

_BLOCK = 128  # of k-center-greedy: a batch is small beside the pool; picks do not depend on it
LARGEST_TAU = 100.0
_SMALL_REGION = 256
"""UWE takes tau 0.1 at regions of this many pixels a side and below, and 1 above (section 5.2)."""


@dataclass(frozen=True)
class Pool:
    """What can be picked at one region size.

    Attributes:
        region: The size.
        source: The scanned size that it was read or summed from.
        candidates: How many there are.
        rows: (n,) those on offer, as rows of the size's table.
        offered: The candidates on offer, at their prices in pixels.
        allowance: What may be spent.
        prices: (n,) of those on offer, in what it counts.
    """

    region: RegionSize
    source: RegionSize
    candidates: int
    rows: NDArray[np.int64]
    offered: CandidateTable
    allowance: Allowance
    prices: Prices


@dataclass(frozen=True)
class Batch:
    """What one way of picking buys.

    Attributes:
        name: `uwe`, `coreset`, or the name of the uncertainty.
        tau: Of `uwe`; None for the two references.
        rows: (k,) picks in order, as rows of the region size's table.
        pixels: What they cost.
        uncertainty: Mean over the picks.
        magnitude: Mean norm of uncertainty times feature.
        pairwise_distance: Mean distance between the plain features of two picks.
        log_determinant: Of the plain features' Gram matrix with a ridge.
        overlap_uncertainty: Share of picks in common with those of largest uncertainty.
        overlap_coreset: Share of picks in common with CoreSet's.
        same_image: Share of picks from an image that gave an earlier one.
        touching: Share of picks that touch another pick.
    """

    name: str
    tau: float | None
    rows: NDArray[np.int64]
    pixels: int
    uncertainty: float
    magnitude: float
    pairwise_distance: float
    log_determinant: float
    overlap_uncertainty: float
    overlap_coreset: float
    same_image: float
    touching: float

    def numbers(self) -> dict[str, Any]:
        """All but the rows themselves, for files."""
        shown = {key: value for key, value in vars(self).items() if key != "rows"}
        return {"batch": shown.pop("name"), "tau": shown.pop("tau"), "picks": len(self.rows)} | {
            key: value if isinstance(value, int) else float(value) for key, value in shown.items()
        }


@dataclass(frozen=True)
class Suggestion:
    """A tau, and why.

    Attributes:
        tau: The tau.
        reason: In a sentence.
        paper: What UWE's authors take at this region size.
    """

    tau: float
    reason: str
    paper: float


@dataclass(frozen=True)
class RegionTuning:
    """The sweep at one region size.

    Attributes:
        region: The size.
        source: The scanned size that it was read or summed from.
        candidates: How many there are, and `offered` of them can be bought.
        offered: See `candidates`.
        references: The most uncertain candidates' batch, and CoreSet's.
        batches: One for each tau, rising.
        suggestion: The tau that the rule names.
    """

    region: str
    source: str
    candidates: int
    offered: int
    references: tuple[Batch, Batch]
    batches: tuple[Batch, ...]
    suggestion: Suggestion


def tune_region(
    pool: Pool,
    labelled: CandidateTable,
    uncertainty: str,
    taus: Sequence[float],
    step: Callable[[int], None],
) -> RegionTuning:
    """Sweeps tau at one region size.

    Args:
        pool: What can be picked.
        labelled: What is labelled, the first centres; may be empty.
        uncertainty: Value column to weight by.
        taus: Rising.
        step: Called with the number of taus that are done.

    Raises:
        SegalError: If a tau takes the embeddings out of range, or the budget does not buy a pick.
    """
    values = pool.offered.values[uncertainty]
    features = torch.from_numpy(pool.offered.embedding(MEAN_FEATURE))
    count = pool.allowance.most(pool.prices)
    centres = features[:0]
    centre_values = np.zeros(0)
    if len(labelled):
        centres = torch.from_numpy(labelled.embedding(MEAN_FEATURE))
        centre_values = labelled.values[uncertainty]
    describe = _Describer(pool, values, features.numpy())
    # CoreSet is tau 0.
    swept = sorted({0.0, *taus})
    weightings = _weightings(swept, values, centre_values, float(features.abs().max()))
    uncertain = top_k(torch.from_numpy(values), count, "higher").numpy()
    describe.add_reference("uncertainty", uncertain)
    batches = []
    for tau, (weights, centre_weights) in zip(swept, weightings, strict=True):
        embedding, given = features * weights[:, None], centres * centre_weights[:, None]
        picks = k_center_order(embedding, count, given, _BLOCK).picks.numpy()
        if tau == 0:
            describe.add_reference("coreset", picks)
        if tau in taus:
            batches.append(describe("uwe", tau, picks))
            step(len(batches))
    references = (
        describe(uncertainty, None, uncertain),
        describe("coreset", None, describe.references["coreset"]),
    )
    return RegionTuning(
        region=str(pool.region),
        source=str(pool.source),
        candidates=pool.candidates,
        offered=len(pool.rows),
        references=references,
        batches=tuple(batches),
        suggestion=suggest(pool.region, references, batches),
    )


def _weightings(
    taus: Sequence[float],
    values: NDArray[np.float64],
    centre_values: NDArray[np.float64],
    largest: float,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """u^tau of what is on offer and of what is labelled, in float32 as `uwe` takes it."""
    for tau in taus:
        with np.errstate(over="ignore"):
            both = [(u**tau).astype(np.float32) for u in (values, centre_values)]
        top = max(float(w.max(initial=0.0)) for w in both)
        if not top * largest < float(np.finfo(np.float32).max):
            raise SegalError(
                f"taus: {tau:g} takes the embeddings out of range",
                expected="embeddings that float32 can hold",
                got=f"uncertainties up to {max(values.max(), centre_values.max(initial=0)):g}",
                remedy="give smaller --taus",
            )
        yield torch.from_numpy(both[0]), torch.from_numpy(both[1])


class _Describer:
    """Makes batches of picks, compared with the reference picks that were added before."""

    def __init__(
        self, pool: Pool, values: NDArray[np.float64], features: NDArray[np.float32]
    ) -> None:
        self.pool, self.values, self.features = pool, values, features
        self.references: dict[str, NDArray[np.int64]] = {}

    def _paid(self, picks: NDArray[np.int64]) -> NDArray[np.int64]:
        return picks[self.pool.allowance.takes(self.pool.prices[picks])]

    def add_reference(self, name: str, picks: NDArray[np.int64]) -> None:
        self.references[name] = self._paid(picks)

    def __call__(self, name: str, tau: float | None, picks: NDArray[np.int64]) -> Batch:
        pool, picks = self.pool, self._paid(picks)
        if not len(picks):
            raise SegalError(
                f"budget: at region {pool.region} it does not buy the first pick",
                expected="at least the price of one region",
                got=str(pool.allowance),
                remedy="give a larger --budget",
            )
        values = self.values[picks]
        found = batch_statistics(values, self.features[picks], values)
        place = redundancy(pool.offered.image[picks], pool.offered.box[picks])
        return Batch(
            name=name,
            tau=tau,
            rows=pool.rows[picks],
            pixels=int(pool.offered.pixels[picks].sum()),
            uncertainty=found.uncertainty,
            magnitude=found.magnitude,
            pairwise_distance=found.pairwise_distance,
            log_determinant=found.log_determinant,
            overlap_uncertainty=overlap(picks, self.references["uncertainty"]),
            overlap_coreset=overlap(picks, self.references["coreset"]),
            same_image=place.same_image,
            touching=place.touching,
        )


def suggest(
    region: RegionSize, references: Sequence[Batch], batches: Sequence[Batch]
) -> Suggestion:
    """The tau whose batch is nearest to having both: most uncertainty and most diversity.

    Mean uncertainty and mean pairwise distance are brought to 0 to 1, from the least to the most
    among all batches and both references; the batch nearest to (1, 1) is taken, and of equals the
    one with the smaller tau. Where all batches are equal in one of the two, the other decides.
    The rule weighs both alike; which tau makes the network best it cannot know.

    Args:
        region: The region size, for what the paper takes there.
        references: The most uncertain candidates' batch, and CoreSet's.
        batches: One for each tau, rising; at least one.
    """
    every = [*references, *batches]
    uncertainty = _unit([b.uncertainty for b in every])[len(references) :]
    diversity = _unit([b.pairwise_distance for b in every])[len(references) :]
    far = np.hypot(1 - uncertainty, 1 - diversity)
    best = int(np.flatnonzero(far <= far.min() + 1e-9)[0])
    tau = batches[best].tau
    assert tau is not None
    edge = ""
    if best == len(batches) - 1 and best > 0 and tau < LARGEST_TAU:
        edge = ". It is the largest tau of the sweep: a larger one may be nearer still"
    elif best == 0 and len(batches) > 1 and tau > 0:
        edge = ". It is the smallest tau of the sweep: a smaller one may be nearer still"
    small = region.height is not None and max(region.height, region.width or 0) <= _SMALL_REGION
    return Suggestion(
        tau=tau,
        reason=(
            f"from the least to the most of all batches, its batch is {100 * uncertainty[best]:.0f}"
            f" % of the way in mean uncertainty and {100 * diversity[best]:.0f} % in mean pairwise "
            f"distance: the nearest to having both (distance {far[best]:.2f}){edge}"
        ),
        paper=0.1 if small else 1.0,
    )


def _unit(values: Sequence[float]) -> NDArray[np.float64]:
    """From the least (0) to the most (1); 1 where all are equal."""
    array = np.array(values)
    span = np.ptp(array)
    return (array - array.min()) / span if span > 0 else np.ones_like(array)
