"""Tuning tau: what uncertainty-weighted embeddings pick from a stored scan, for many taus.

No network runs: a scan holds each candidate's mean uncertainty and mean feature, and the embedding
for any tau follows from them.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from segal import __version__
from segal.candidates.budget import Budget
from segal.candidates.regions import RegionSize
from segal.candidates.sweep import LARGEST_TAU, Pool, RegionTuning, tune_region
from segal.config import validate
from segal.config.values import BudgetText, RegionText
from segal.errors import SegalError, raise_all
from segal.functional.batch import RIDGE
from segal.jobs.tuning.scan import StoredScan, allowance_of
from segal.pictures.tuning import draw_tuning
from segal.system.console import bar
from segal.system.files import write_bytes, write_json
from segal.system.sections import Section, split_commas

TAUS = (
    *(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
    *(0.7, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0),
)
CSV_FILE, JSON_FILE, CHART_FILE = "tune.csv", "tune.json", "tune.png"
Tau = Annotated[float, Field(ge=0.0, le=LARGEST_TAU)]


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
class Tuning:
    """A configuration that was checked against its scan: nothing of the user's is wrong."""

    config: TuneConfig
    scan: StoredScan
    pools: tuple[Pool, ...]


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
) -> Pool | None:
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
    allowance, prices = allowance_of(budget, table, offer, scan.unit, scan.fit)
    return Pool(
        region=region,
        source=scan.source(region),
        candidates=len(table),
        rows=offer.rows,
        offered=table.view(offer.rows, offer.prices),
        allowance=allowance,
        prices=prices,
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

            results.append(tune_region(pool, tuning.scan.labelled, config.uncertainty, taus, step))
    write_bytes(config.out / CSV_FILE, _as_csv(results))
    write_json(config.out / JSON_FILE, _as_json(tuning, results))
    write_bytes(config.out / CHART_FILE, draw_tuning(results, config.uncertainty))
    return results


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
