"""Tuning tau: what uncertainty-weighted embeddings pick from a stored scan, for many taus.

No network runs: a scan holds each candidate's mean uncertainty and mean feature, and the embedding
for any tau follows from them.
"""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from segal import __version__
from segal.budget import Allowance, Budget
from segal.candidates import CandidateTable
from segal.config import validate
from segal.config.sections import BudgetText, RegionText, Section
from segal.console import bar
from segal.errors import SegalError, raise_all
from segal.files import write_bytes, write_json
from segal.functional.batch import RIDGE, batch_statistics, overlap, redundancy
from segal.functional.k_center_sweep import k_center_sweep
from segal.functional.ranking import top_k
from segal.jobs.tune_chart import draw_tuning
from segal.jobs.tune_scan import FEATURE, StoredScan, allowance_of
from segal.regions import RegionSize
from segal.train import split_commas

TAUS = (
    *(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
    *(0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0),
)
CSV_FILE, JSON_FILE, CHART_FILE = "tune.csv", "tune.json", "tune.png"
_SMALL_REGION = 256
"""UWE takes tau 0.1 at regions of this many pixels a side and below, and 1 above (section 5.2)."""

Tau = Annotated[float, Field(ge=0.0, le=100.0)]


class TuneConfig(Section):
    """Configuration of `segal tune`.

    Attributes:
        scan: A run folder of `segal select`, or a round of `segal run`.
        regions: Region sizes; empty: those that were scanned.
        budget: What a batch may cost.
        taus: Powers of the uncertainty, 0 to 100.
        uncertainty: A value column of the scan, of a mean over pixels.
        out: Takes the table, the numbers and the picture.
    """

    scan: Path
    regions: Annotated[tuple[RegionText, ...], BeforeValidator(split_commas)] = ()
    budget: BudgetText
    taus: Annotated[tuple[Tau, ...], BeforeValidator(split_commas), Field(min_length=1)] = TAUS
    uncertainty: str = "entropy"
    out: Path


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


@dataclass(frozen=True)
class _Pool:
    """What can be picked at one region size; positions are those of the candidates on offer."""

    region: RegionSize
    source: RegionSize
    candidates: int
    rows: NDArray[np.int64]
    offered: CandidateTable
    allowance: Allowance


@dataclass(frozen=True)
class Tuning:
    """A configuration that was checked against its scan: nothing of the user's is wrong."""

    config: TuneConfig
    scan: StoredScan
    pools: tuple[_Pool, ...]


def configure_tuning(raw: Mapping[str, Any]) -> Tuning:
    """Validates a configuration and opens its scan.

    Args:
        raw: Values by name, as in `TuneConfig`.

    Raises:
        SegalError: With all mistakes at once: of the values, of the scan, and of what each region
            size can offer.
    """
    config, errors = validate(TuneConfig, raw)
    scan: StoredScan | None = None
    pools = []
    if isinstance(raw.get("scan"), str | Path):
        try:
            scan = StoredScan.open(Path(raw["scan"]))
        except SegalError as error:
            errors.append(error)
    if scan is not None:
        # What is right is checked on, whatever else is wrong.
        budget = _parsed(Budget.parse, raw.get("budget"))
        given = split_commas(raw.get("regions") or ())
        texts = given if isinstance(given, list | tuple) else ()
        sizes = [s for s in (_parsed(RegionSize.parse, t) for t in texts) if s is not None]
        uncertainty = str(raw.get("uncertainty") or "entropy")
        for region in dict.fromkeys(sizes if texts else scan.sizes):
            try:
                pools.append(_open_pool(scan, region, budget, uncertainty))
            except SegalError as error:
                errors.append(error)
    raise_all(list({str(error): error for error in errors}.values()))
    assert config is not None
    assert scan is not None
    return Tuning(config, scan, tuple(p for p in pools if p is not None))


def _parsed(parse: Callable[[str], Any], text: object) -> Any:
    with suppress(SegalError):
        return parse(str(text))
    return None


def _open_pool(
    scan: StoredScan, region: RegionSize, budget: Budget | None, uncertainty: str
) -> _Pool | None:
    """None without a budget, of which the configuration's own check tells."""
    table = scan.table(region, uncertainty)
    values = table.values[uncertainty]
    if values.min(initial=0.0) < 0:
        raise SegalError(
            f"uncertainty: {uncertainty} is below 0, so that it has no powers",
            expected="an uncertainty of at least 0",
            got=f"{values.min():g}",
            remedy="choose another --uncertainty",
        )
    offer = scan.offer(table, region)
    if budget is None:
        return None
    return _Pool(
        region=region,
        source=scan.source(region),
        candidates=len(table),
        rows=offer.rows,
        offered=table.view(offer.rows, offer.prices),
        allowance=allowance_of(budget, table, offer),
    )


def run_tuning(tuning: Tuning) -> list[RegionTuning]:
    """Sweeps tau at every region size, and writes `tune.csv`, `tune.json` and `tune.png`.

    Args:
        tuning: From `configure_tuning`.

    Returns:
        One result for each region size.

    Raises:
        SegalError: If a tau takes the embeddings out of range, or the folder cannot be written.
    """
    config = tuning.config
    taus = sorted(set(config.taus))
    results = []
    with bar("Sweeping tau") as advance:
        for number, pool in enumerate(tuning.pools):
            done = number * len(taus)

            def step(tau: int, base: int = done, region: str = str(pool.region)) -> None:
                advance(base + tau, len(taus) * len(tuning.pools), f"region {region}")

            results.append(_tune_region(pool, tuning.scan.labelled, config.uncertainty, taus, step))
    write_bytes(config.out / CSV_FILE, _as_csv(results))
    write_json(config.out / JSON_FILE, _as_json(tuning, results))
    write_bytes(config.out / CHART_FILE, draw_tuning(results, config.uncertainty))
    return results


def _tune_region(
    pool: _Pool,
    labelled: CandidateTable,
    uncertainty: str,
    taus: Sequence[float],
    step: Callable[[int], None],
) -> RegionTuning:
    values = pool.offered.values[uncertainty]
    features = torch.from_numpy(pool.offered.embedding(FEATURE))
    count = pool.allowance.most(pool.offered.pixels)
    centres = features[:0]
    centre_values = np.zeros(0)
    if len(labelled):
        centres = torch.from_numpy(labelled.embedding(FEATURE))
        centre_values = labelled.values[uncertainty]
    describe = _Describer(pool, values, features.numpy())
    # CoreSet is tau 0.
    swept = sorted({0.0, *taus})
    weightings = _weightings(swept, values, centre_values, float(features.abs().max()))
    uncertain = top_k(torch.from_numpy(values), count, "higher").numpy()
    describe.add_reference("uncertainty", uncertain)
    batches = []
    for tau, picks in zip(swept, k_center_sweep(features, weightings, count, centres), strict=True):
        if tau == 0:
            describe.add_reference("coreset", picks.numpy())
        if tau in taus:
            batches.append(describe("uwe", tau, picks.numpy()))
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
        self, pool: _Pool, values: NDArray[np.float64], features: NDArray[np.float32]
    ) -> None:
        self.pool, self.values, self.features = pool, values, features
        self.references: dict[str, NDArray[np.int64]] = {}

    def _paid(self, picks: NDArray[np.int64]) -> NDArray[np.int64]:
        return picks[: self.pool.allowance.fits(self.pool.offered.pixels[picks])]

    def add_reference(self, name: str, picks: NDArray[np.int64]) -> None:
        self.references[name] = self._paid(picks)

    def __call__(self, name: str, tau: float | None, picks: NDArray[np.int64]) -> Batch:
        pool, picks = self.pool, self._paid(picks)
        if not len(picks):
            raise SegalError(
                f"budget: at region {pool.region} it does not buy the first pick",
                expected="at least the price of one region",
                got=f"{pool.allowance.limit} pixels",
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
    small = region.height is not None and max(region.height, region.width or 0) <= _SMALL_REGION
    return Suggestion(
        tau=tau,
        reason=(
            f"from the least to the most of all batches, its batch is {100 * uncertainty[best]:.0f}"
            f" % of the way in mean uncertainty and {100 * diversity[best]:.0f} % in mean pairwise "
            f"distance: the nearest to having both (distance {far[best]:.2f})"
        ),
        paper=0.1 if small else 1.0,
    )


def _unit(values: Sequence[float]) -> NDArray[np.float64]:
    """From the least (0) to the most (1); 1 where all are equal."""
    array = np.array(values)
    span = np.ptp(array)
    return (array - array.min()) / span if span > 0 else np.ones_like(array)


def _as_csv(results: Sequence[RegionTuning]) -> bytes:
    text = io.StringIO()
    rows = [
        {"region": r.region} | b.numbers() | {"suggested": int(b.tau == r.suggestion.tau)}
        for r in results
        for b in (*r.references, *r.batches)
    ]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _as_json(tuning: Tuning, results: Sequence[RegionTuning]) -> dict[str, Any]:
    config = tuning.config
    return {
        "segal": __version__,
        "scan": {"folder": config.scan.name, "fingerprint": tuning.scan.fingerprint},
        "budget": config.budget,
        "uncertainty": config.uncertainty,
        "ridge": RIDGE,
        "labelled": len(tuning.scan.labelled),
        "regions": {
            r.region: {
                "source": r.source,
                "candidates": r.candidates,
                "offered": r.offered,
                "suggestion": vars(r.suggestion),
                "references": [b.numbers() for b in r.references],
                "taus": [b.numbers() for b in r.batches],
            }
            for r in results
        },
    }


def as_lines(results: Sequence[RegionTuning]) -> list[str]:
    """The sweep as a table for a terminal."""
    lines: list[str] = []
    for result in results:
        read = "" if result.source == result.region else f", summed from {result.source}"
        lines.append(f"region {result.region}: {result.offered} on offer{read}")
        lines.append(
            f"  {'tau':>13}{'picks':>7}{'uncertainty':>13}{'distance':>10}{'log det':>10}"
            f"{'as uncertain':>14}{'as coreset':>12}{'one image':>11}{'touching':>10}"
        )
        for b in (*result.batches, *result.references):
            name = b.name if b.tau is None else f"{b.tau:g}"
            mark = " *" if b.tau == result.suggestion.tau else ""
            lines.append(
                f"  {name:>13}{len(b.rows):>7}{b.uncertainty:>13.4f}{b.pairwise_distance:>10.3f}"
                f"{b.log_determinant:>10.1f}{b.overlap_uncertainty:>14.1%}"
                f"{b.overlap_coreset:>12.1%}{b.same_image:>11.1%}{b.touching:>10.1%}{mark}"
            )
        s = result.suggestion
        lines.append(f"  * tau {s.tau:g}: {s.reason}.")
        lines.append(f"    UWE's authors take {s.paper:g} at this size (section 5.2).")
        lines.append("")
    return lines[:-1]
