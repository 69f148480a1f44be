"""A stored scan as `segal tune` reads it: its tables, and larger regions summed from smaller."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.candidates.budget import FORMS, Allowance, Budget, Fit, Prices
from segal.candidates.regions import Box, RegionSize
from segal.candidates.table import MEAN_FEATURE, CandidateTable, box_pixels
from segal.errors import SegalError
from segal.jobs.prices import EXPECTED, expected_prices
from segal.models.spec import DEFAULT_TASK
from segal.runs.acquisition import Offer
from segal.runs.ledger import Ledger
from segal.runs.run_folder import LEDGER_FILE, fingerprint
from segal.runs.stages import Phase
from segal.scanning.scan import LABELLED_FOLDER, NOTES_FILE
from segal.signals.class_wise import BY_CLASS
from segal.tasks import find_task

_TABLES = "candidates"
_CHUNK = 8192
"""Rows summed at a time, up to the end of an image."""


@dataclass(frozen=True)
class StoredScan:
    """The tables of one pass over a pool.

    Attributes:
        folder: Where they are.
        sizes: Region sizes that were scanned.
        fingerprint: Of the run's configuration, the pass and its inputs.
        labelled: What was bought before the pass, as it measured it.
        unit: What candidates are counted in, such as pixels.
        fit: What becomes of picks that a budget does not buy any more, in that run.
        summable: Whether means over small regions add up to those over larger ones, by pixels.
    """

    folder: Path
    sizes: tuple[RegionSize, ...]
    fingerprint: str
    labelled: CandidateTable
    unit: str
    fit: Fit
    summable: bool

    @classmethod
    def open(cls, path: Path) -> "StoredScan":
        """Opens the scan of a run.

        Args:
            path: A run folder of `segal select`, or a round of `segal run`: RUN/rounds/001.

        Raises:
            SegalError: If there is none, its tables are missing or damaged, or something of the
                images was excluded.
        """
        root = next((p for p in (path, path.parent.parent) if (p / LEDGER_FILE).is_file()), path)
        with Ledger.read(root) as ledger:
            tables = path / _TABLES
            phase = _phase_of(ledger, tables)
            if phase is None or not tables.is_dir():
                raise _no_scan(path, root)
            if "exclude" in ledger.configuration:
                raise SegalError(
                    f"{root}: a scan without what is never annotated, which is not known here",
                    expected="a scan of whole images",
                    got="one of a run with exclude",
                    remedy="tune on a scan that was made without it",
                )
            task = find_task(str(ledger.configuration.get("task", DEFAULT_TASK)))
            fit: Fit = "skip" if ledger.configuration.get("budget_fit") == "skip" else "prefix"
            identity = [ledger.configuration, phase.name, phase.round, phase.fingerprint]
        sizes = [
            RegionSize.parse(p.name)
            for p in tables.iterdir()
            if p.name not in {LABELLED_FOLDER, NOTES_FILE}
        ]
        return cls(
            folder=tables,
            sizes=tuple(sorted(sizes, key=_area)),
            fingerprint=fingerprint(identity),
            labelled=CandidateTable.open(tables / LABELLED_FOLDER),
            unit=task.metric.elements,
            fit=fit,
            summable=task.answers.of == "pixels",
        )

    def source(self, region: RegionSize) -> RegionSize:
        """The size to read for a region size: itself, or the largest scanned that divides it.

        Raises:
            SegalError: If there is none.
        """
        found = [
            size
            for size in self.sizes
            if size == region or (self.summable and _divides(size, region))
        ]
        if found:
            return region if region in found else found[-1]
        there = ", ".join(map(str, self.sizes))
        raise SegalError(
            f"region: {region} was not scanned"
            + ", and no scanned size divides it" * self.summable,
            expected=there + ", or whole multiples of one of them" * self.summable,
            got=str(region),
            remedy=f"give another --region, or scan with extra_regions={region}",
        )

    def table(self, region: RegionSize, uncertainty: str) -> CandidateTable:
        """The candidates of a region size, as they are stored or summed from smaller ones.

        Raises:
            SegalError: If no size fits, or the scan did not measure what is needed.
        """
        source = self.source(region)
        table = CandidateTable.open(self.folder / str(source))
        for one in [table, self.labelled] if len(self.labelled) else [table]:
            if uncertainty not in one.values or MEAN_FEATURE not in one.embeddings:
                raise self._without_columns(one, uncertainty)
        if source == region:
            return table
        counts = [EXPECTED.column] if EXPECTED.column in table.values else []
        return coarsen(table, region, [uncertainty], [MEAN_FEATURE], counts)

    def _without_columns(self, table: CandidateTable, uncertainty: str) -> SegalError:
        scan = f"scan with `segal select --strategy uwe strategy.uncertainty={uncertainty}"
        remedy = f"{scan}`"
        if any(name.startswith(BY_CLASS) for name in table.embeddings):
            remedy = (
                f"{scan} strategy.class_wise=none`; embeddings class by class are of one tau: "
                "compare several as arms of segal compare"
            )
        return SegalError(
            f"{self.folder}: the scan lacks what tau is tuned by",
            expected=f"the columns {uncertainty} and {MEAN_FEATURE}",
            got=", ".join([*table.values, *table.embeddings]) or "no column at all",
            remedy=remedy,
        )

    def offer(self, table: CandidateTable, region: RegionSize) -> Offer:
        """What was left to buy when the pass was made."""
        bought: dict[str, list[Box]] = {}
        for image, (x0, y0, x1, y1) in zip(
            self.labelled.image, self.labelled.box.tolist(), strict=True
        ):
            bought.setdefault(self.labelled.images[image], []).append((x0, y0, x1, y1))
        sizes = zip(table.images, _image_sizes(table).tolist(), strict=True)
        return Offer.of({path: (h, w) for path, (h, w) in sizes}, region, bought)


def allowance_of(
    budget: Budget, table: CandidateTable, offer: Offer, unit: str, fit: Fit
) -> tuple[Allowance, Prices]:
    """What a budget comes to for what is on offer, and what each of these costs.

    Raises:
        SegalError: If it buys nothing, or everything: then there is nothing to tune; or if it is in
            boxes and the scan has not counted them.
    """
    region = f"among {len(offer)} regions on offer"
    allowance = budget.allowance(_image_sizes(table).prod(1), unit, fit)
    if allowance.counts == "boxes" and EXPECTED.column not in table.values:
        raise SegalError(
            f"budget: {budget} is in boxes, which the scan did not count",
            expected=f"the column {EXPECTED.column}; or {FORMS}",
            got=", ".join(table.values) or "no column at all",
            remedy="give another --budget; or scan with one in boxes, where objects are found",
        )
    prices, unit = expected_prices(table, offer, allowance), allowance.elements
    if not len(offer) or allowance.most(prices) == 0:
        cheapest = math.ceil(prices.min()) if len(offer) else 0
        raise SegalError(
            f"budget: {budget} does not buy a single region {region}",
            expected=f"at least {cheapest} {unit}, the cheapest region's price",
            got=str(allowance),
            remedy="give a larger --budget, or a smaller --region",
        )
    if allowance.fits(prices) == len(offer):
        raise SegalError(
            f"budget: {budget} is not less than the pool, so that every tau buys all of it",
            expected=f"less than {len(offer)} regions of {math.floor(prices.sum())} {unit} in all",
            got=str(allowance),
            remedy="give a smaller --budget",
        )
    return allowance, prices


def coarsen(
    table: CandidateTable,
    region: RegionSize,
    values: Sequence[str],
    embeddings: Sequence[str],
    counts: Sequence[str] = (),
) -> CandidateTable:
    """Candidates of a larger size: means over their parts, weighted by pixels; counts are added.

    Exact for columns that are means over pixels, but for the rounding of stored embeddings.

    Args:
        table: All candidates of a size that divides the larger one.
        region: The larger size.
        values: Value columns to keep, of means.
        embeddings: Embedding columns to keep, of means.
        counts: Value columns to keep, of counts.
    """
    image, box, key = _coarse_grid(table, region)
    count = len(image)
    weights = table.pixels.astype(np.float64)
    totals = np.bincount(key, weights, count)
    summed = {
        name: np.bincount(key, weights * table.values[name], count) / totals for name in values
    }
    for name in counts:
        summed[name] = np.bincount(key, table.values[name], count).astype(np.float64)
    means = {
        name: np.zeros((count, table.embeddings[name].shape[1]), np.float32) for name in embeddings
    }
    ends = np.flatnonzero(np.diff(table.image, append=-1)) + 1  # an image's rows stay together
    start = 0
    for end in ends.tolist():
        if end - start < _CHUNK and end != len(table):
            continue
        part = slice(start, end)
        order = np.argsort(key[part], kind="stable")
        sorted_key = key[part][order]
        firsts = np.flatnonzero(np.diff(sorted_key, prepend=-1))
        for name, mean in means.items():
            stored = np.asarray(table.embeddings[name][part], np.float64)
            sums = np.add.reduceat((stored * weights[part, None])[order], firsts)
            rows = sorted_key[firsts]
            mean[rows] = sums / totals[rows, None]
        start = end
    return CandidateTable(table.images, image, box, box_pixels(box), summed, means)


def _coarse_grid(
    table: CandidateTable, region: RegionSize
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """Image and box of the larger candidates, in candidate order, and which one each row is in."""
    sizes = _image_sizes(table)
    height = np.full(len(sizes), region.height) if region.height else sizes[:, 0]
    width = np.full(len(sizes), region.width) if region.width else sizes[:, 1]
    rows, columns = -(-sizes[:, 0] // height), -(-sizes[:, 1] // width)
    first = np.cumsum(rows * columns) - rows * columns
    at = table.image
    down, across = table.box[:, 1] // height[at], table.box[:, 0] // width[at]
    key: NDArray[np.int64] = first[at] + down * columns[at] + across
    boxes = [
        RegionSize(int(height[i]), int(width[i])).grid(*map(int, sizes[i])).boxes()
        for i in range(len(sizes))
    ]
    image = np.repeat(np.arange(len(sizes), dtype=np.int32), rows * columns)
    return image, np.concatenate(boxes), key


def _image_sizes(table: CandidateTable) -> NDArray[np.int64]:
    """(images, 2) heights and widths; the regions of an image partition it."""
    sizes = np.zeros((len(table.images), 2), np.int64)
    np.maximum.at(sizes, table.image, table.box[:, [3, 2]])
    return sizes


def _area(size: RegionSize) -> tuple[int, int]:
    """For sorting from small to large, whole images last."""
    if size.height is None or size.width is None:
        return 1 << 62, 0
    return size.height * size.width, size.height


def _divides(small: RegionSize, large: RegionSize) -> bool:
    if small.height is None or small.width is None:
        return False
    if large.height is None or large.width is None:
        return True
    return large.height % small.height == 0 and large.width % small.width == 0


def _phase_of(ledger: Ledger, tables: Path) -> Phase | None:
    """The pass that wrote a folder of tables."""
    name = tables.resolve().relative_to(ledger.folder.resolve()).as_posix() + "/"
    for phase in ledger.phases():
        files = [path for path, _, _ in ledger.artefacts(phase.name, phase.round)]
        if any(path.startswith(name) for path in files):
            return phase
    return None


def _no_scan(path: Path, root: Path) -> SegalError:
    rounds = sorted(p.parent for p in root.glob(f"rounds/*/{_TABLES}") if p.is_dir())
    remedy = "scan with `segal select --strategy uwe`"
    if rounds:
        remedy = "give a round's folder: " + ", ".join(map(str, rounds[-3:]))
    return SegalError(
        f"{path}: no scan",
        expected="a run folder of `segal select`, or a round of `segal run` (RUN/rounds/001)",
        got=f"a run without {_TABLES}/",
        remedy=remedy,
    )
