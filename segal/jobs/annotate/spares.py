"""What takes the place of picks that are skipped: the next of the strategy's own order."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.budget import Allowance, Budget, Prices
from segal.candidates.regions import Box, RegionSize
from segal.config import AT_RANDOM, RunConfig, SelectConfig, read_config
from segal.data.exclusion import Excluded, excluded_pixels, together
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.annotate.source import RunSource
from segal.jobs.exclusions import excluded_of
from segal.jobs.passes import Scanned, run_passes
from segal.jobs.picks import boxes_of
from segal.jobs.prices import expected_prices
from segal.jobs.rounds.results import Bought
from segal.jobs.strategies import configure_run, configure_selection, seed_strategy
from segal.runs.acquisition import (
    SEED_SET,
    Offer,
    derive_generator,
    next_that_fit,
)
from segal.runs.acquisition import SELECT as OF_SELECTION
from segal.runs.history import CONFIG_FILE, SEED_FOLDER, round_folder
from segal.runs.ledger import BUYING, Ledger, Purchase
from segal.runs.reviews import skips_of, withheld
from segal.runs.stages import Phase
from segal.strategies.base import PassContext, Strategy, at_round, orders
from segal.tasks import find_task

_SEED = "seed"


def last_purchase(ledger: Ledger) -> Phase:
    """The stage that bought last.

    Raises:
        SegalError: If nothing is bought yet.
    """
    bought = [p for p in ledger.phases() if p.name in BUYING[ledger.command]]
    bought = [p for p in bought if ledger.purchases(p.name, p.round)]
    if not bought:
        raise SegalError(
            f"{ledger.folder}: nothing is bought yet",
            expected="a run that has selected something",
            got="none",
            remedy=f"let segal {ledger.command} go on",
        )
    return bought[-1]


def image_boxes(ledger: Ledger) -> dict[str, tuple[int, int]]:
    """(height, width) of what can be bought of each image, in candidate order."""
    rows = ledger.rows("SELECT path, height, width FROM images")
    return {path: (h, w) for path, h, w in sorted(rows, key=lambda row: str(row[0]).encode())}


def excluded_of_run(source: RunSource, pool: ImagePool) -> Excluded:
    """What is never annotated of a run's images."""
    return excluded_of(source.config.exclude, pool, source.config.task, all_there=False)


@dataclass(frozen=True)
class Reserve:
    """The order that picks came of, and what of it can still be bought; made by `of`.

    Attributes:
        regions: Image and box of every candidate on offer when the picks were made.
        prices: (n,) what each costs in what the allowance counts.
        pixels: (n,) the same in pixels.
        allowance: What could be spent.
        order: Rows and scores, in pick order, as far as they are asked for.
        strategy: What picks are booked under.
    """

    regions: Sequence[tuple[str, Box]]
    prices: Prices
    pixels: NDArray[np.int64]
    allowance: Allowance
    order: Iterable[tuple[int, float]]
    strategy: str

    @classmethod
    def of(cls, ledger: Ledger, source: RunSource, phase: Phase, pool: ImagePool) -> "Reserve":
        """That of a stage which bought.

        Args:
            ledger: Of the run.
            source: The run.
            phase: The stage; the last that bought.
            pool: The run's images.

        Raises:
            SegalError: If the candidates' tables are gone, or the pool is another since.
        """
        if ledger.pool_log.last_step:
            raise SegalError(
                f"{source.folder}: images came or went since its pool was looked at",
                expected="the pool that the picks were chosen from: the next of its order takes "
                "the place of a pick that is skipped",
                got=f"a pool that segal pool has changed ({len(ledger.pool_log.changes)} changes)",
                remedy="keep or reorder the picks; take out what must go with segal pool withdraw",
            )
        excluded = excluded_of_run(source, pool)
        raw = read_config(source.folder / CONFIG_FILE, [], {})
        if isinstance(source.config, SelectConfig):
            config, strategy = configure_selection(raw)
            return _selected(ledger, source.folder, config, strategy, excluded)
        run, strategy = configure_run(raw)
        if phase.name == _SEED and run.seed_strategy == AT_RANDOM:
            return _drawn(ledger, run, excluded)
        if phase.name == _SEED:
            return _seeded(ledger, source.folder, run, excluded)
        return _bought(ledger, source.folder, run, strategy, phase.round, excluded)

    def next(
        self, kept: Sequence[Purchase], gone: Collection[tuple[str, Box]], count: int
    ) -> list[Purchase]:
        """The next picks that fit beside those that are kept.

        Args:
            kept: What stays bought of the stage.
            gone: Image and box of what must not come back: it is, or was, skipped.
            count: The most.

        Returns:
            Them, in the strategy's order; `rank` counts on from those that are kept.
        """
        rows = {region: row for row, region in enumerate(self.regions)}
        taken = {rows[p.image, p.box] for p in kept}
        taken |= {rows[region] for region in gone if region in rows}
        counts_regions = self.allowance.counts == "regions"
        prices = np.ones_like(self.prices) if counts_regions else self.prices
        spent = float(sum(prices[rows[p.image, p.box]] for p in kept))
        left = self.allowance.limit - spent
        found = next_that_fit(self.order, prices, taken, left, count)
        return [
            Purchase(rank, self.strategy, *self.regions[row], score, int(self.pixels[row]))
            for rank, (row, score) in enumerate(found, len(kept) + 1)
        ]


def _selected(
    ledger: Ledger,
    folder: Path,
    config: SelectConfig,
    strategy: Strategy,
    excluded: Excluded,
) -> Reserve:
    """As `segal select` chose."""
    sizes, region = image_boxes(ledger), RegionSize.parse(config.region)
    before = boxes_of(ledger.purchases("labelled", 0))
    offer = Offer.of(sizes, region, together(before, excluded))
    allowance = _affords(config, sizes, excluded, config.budget)
    scanned = _scanned(config, strategy, folder, offer)
    prices = expected_prices(scanned.table, offer, allowance)
    planned = allowance.about(float(prices.mean()), len(offer))
    asked = planned if allowance.counts == "boxes" else allowance.most(prices)
    generator, name = derive_generator(config.seed, 0, OF_SELECTION), str(config.strategy["name"])
    return _ordered(scanned, offer, allowance, prices, strategy, asked, generator, name)


def _bought(
    ledger: Ledger,
    folder: Path,
    config: RunConfig,
    strategy: Strategy,
    number: int,
    excluded: Excluded,
) -> Reserve:
    """As a round of `segal run` chose."""
    sizes, region = image_boxes(ledger), RegionSize.parse(config.region)
    bought = Bought()
    log = ledger.pool_log
    bought.add(ledger.purchases(_SEED, 0), _affords(config, sizes, excluded, config.seed_set), log)
    for earlier in range(number):
        allowance = bought.grant(_affords(config, sizes, excluded, config.budgets[earlier]))
        bought.add(ledger.purchases("buy", earlier), allowance, log)
    skipped = [s for s in skips_of(ledger) if (s.phase, s.round) != ("buy", number)]
    taken = together(together(bought.boxes, excluded), withheld(skipped, sizes, region))
    offer = Offer.of(sizes, region, taken)
    allowance = bought.grant(_affords(config, sizes, excluded, config.budgets[number]))
    picking = at_round(strategy, number, len(config.budgets))
    scanned = _scanned(config, strategy, round_folder(folder, number), offer)
    asked = allowance.most(offer.prices)
    generator = derive_generator(config.seed, number, OF_SELECTION)
    name = str(config.strategy["name"])
    return _ordered(scanned, offer, allowance, offer.prices, picking, asked, generator, name)


def _seeded(ledger: Ledger, folder: Path, config: RunConfig, excluded: Excluded) -> Reserve:
    """As a strategy chose the seed set of `segal run`."""
    sizes, region = image_boxes(ledger), RegionSize.parse(config.seed_region)
    offer, strategy = Offer.of(sizes, region, excluded), seed_strategy(config)
    allowance = _affords(config, sizes, excluded, config.seed_set)
    tables = round_folder(folder, 0) / SEED_FOLDER
    scanned = _scanned(
        config.model_copy(update={"region": config.seed_region}), strategy, tables, offer
    )
    generator = derive_generator(config.seed, 0, SEED_SET)
    asked = allowance.most(offer.prices)
    return _ordered(scanned, offer, allowance, offer.prices, strategy, asked, generator, _SEED)


def _drawn(ledger: Ledger, config: RunConfig, excluded: Excluded) -> Reserve:
    """As the seed set of `segal run` was drawn."""
    sizes, region = image_boxes(ledger), RegionSize.parse(config.seed_region)
    offer = Offer.of(sizes, region, excluded)
    order = torch.randperm(len(offer), generator=derive_generator(config.seed, 0, SEED_SET))
    boxes = [
        (path, (int(x0), int(y0), int(x1), int(y1)))
        for path, size in sizes.items()
        for x0, y0, x1, y1 in region.grid(*size).boxes()
    ]
    return Reserve(
        regions=[boxes[row] for row in offer.rows],
        prices=offer.prices,
        pixels=offer.prices,
        allowance=_affords(config, sizes, excluded, config.seed_set),
        order=((row, 0.0) for row in order.tolist()),
        strategy=_SEED,
    )


def _affords(
    config: SelectConfig | RunConfig,
    sizes: Mapping[str, tuple[int, int]],
    excluded: Excluded,
    budget: str,
) -> Allowance:
    areas = [h * w - excluded_pixels(excluded.get(path, ())) for path, (h, w) in sizes.items()]
    unit = find_task(config.task).metric.elements
    return Budget.parse(budget).allowance(np.array(areas, np.int64), unit, config.budget_fit)


def _scanned(
    config: SelectConfig | RunConfig, strategy: Strategy, folder: Path, offer: Offer
) -> Scanned:
    """The tables of the passes that were done."""
    shared = find_task(config.task).shared_features
    context = PassContext(offered=offer.rows, shared_features=shared)
    return run_passes(strategy, context, folder, config.region, lambda *_: None)


def _ordered(
    scanned: Scanned,
    offer: Offer,
    allowance: Allowance,
    prices: Prices,
    strategy: Strategy,
    asked: int,
    generator: torch.Generator,
    booked: str,
) -> Reserve:
    """What a strategy picked, and would have picked next."""
    offered = scanned.table.view(offer.rows, offer.prices)

    def order() -> Iterator[tuple[int, float]]:
        done = 0
        for picks in orders(strategy, offered, scanned.labelled, asked, generator):
            new = zip(picks.rows[done:].tolist(), picks.scores[done:].tolist(), strict=True)
            yield from new
            done = len(picks.rows)

    boxes = map(tuple, offered.box.tolist())
    return Reserve(
        regions=[
            (offered.images[image], (box[0], box[1], box[2], box[3]))
            for image, box in zip(offered.image.tolist(), boxes, strict=True)
        ],
        prices=prices,
        pixels=offer.prices,
        allowance=allowance,
        order=order(),
        strategy=booked,
    )
