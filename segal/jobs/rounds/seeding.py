"""The seed set of a run, as a strategy chooses it by features before anything is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from segal.candidates.budget import Allowance, Prices
from segal.candidates.selection import write_selection
from segal.config import AT_RANDOM, RunConfig
from segal.data.exclusion import Excluded
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.jobs.cold_start import by_encoder
from segal.jobs.keeping import Keeping
from segal.jobs.network import initial_model
from segal.jobs.passes import run_passes
from segal.jobs.picks import selected_from
from segal.jobs.rounds.run_data import RunData
from segal.jobs.rounds.scan import RoundScan
from segal.jobs.strategies import check_network, seed_strategy
from segal.runs.acquisition import SEED_SET, Offer, acquire, derive_generator
from segal.runs.history import SEED_FOLDER, SELECTION_FILE, round_folder
from segal.runs.ledger import SEED_SELECT, Purchase
from segal.runs.oracle import Oracle
from segal.runs.run_folder import fingerprint
from segal.scanning.scan import drop_blocks
from segal.signals import OfFeatures, Signal
from segal.strategies.base import PassContext, Strategy, check_images
from segal.system.files import write_json
from segal.system.ranks import all_ranks
from segal.tasks import Outline, find_task

NOTES_FILE = "notes.json"

Made = tuple[Sequence[Path], Sequence[Purchase]]


class Phase(Protocol):
    """Does a phase of a run, unless it is done; see `segal.jobs.rounds.loop.Rounds.phase`."""

    def __call__(
        self,
        name: str,
        number: int,
        settings: object,
        work: Callable[[Path], Made],
        *,
        shared: bool = False,
    ) -> None:
        """Does it."""
        ...


@dataclass(frozen=True)
class Seeding:
    """A seed set that is to be chosen.

    Attributes:
        config: Of a run whose initial network gives the features; its regions are the seed set's.
        strategy: What chooses.
        device: Where the network runs.
        outline: Of the data set.
        pool: The pool.
        oracle: Knows the labels, none of which is looked at.
        excluded: What is never annotated.
    """

    config: RunConfig
    strategy: Strategy
    device: torch.device
    outline: Outline
    pool: ImagePool
    oracle: Oracle
    excluded: Excluded

    @property
    def folder(self) -> Path:
        """What the choice is made from and written to."""
        return round_folder(self.config.out, 0) / SEED_FOLDER

    def check(self) -> list[str]:
        """Builds the network, to see that it has what the strategy asks for.

        Returns:
            What the user should be told of its weights.

        Raises:
            SegalError: If it has not, or the strategy cannot pick from the pool.
        """
        check_images(self.strategy, self.pool.paths)
        if not _asks(self.strategy):
            return []
        model = initial_model(self.config, self.outline).eval()
        check_network(self.strategy, model)
        return model.notes

    def choose(
        self,
        phase: Phase,
        network: object,
        offer: Offer,
        allowance: Allowance,
        prices: Prices,
        bought: Sequence[Purchase],
    ) -> None:
        """Measures the candidates, and lets the strategy pick, in phases of their own.

        Args:
            phase: Does a phase.
            network: What identifies the network that training starts from.
            offer: What is on offer.
            allowance: What may be spent.
            prices: What is paid for each candidate on offer.
            bought: The seed set, where it was bought before.
        """
        shared = find_task(self.config.task).shared_features
        context = PassContext(offered=offer.rows, shared_features=shared)
        measure = partial(self._scan, phase, network)
        scanned = run_passes(self.strategy, context, self.folder, self.config.seed_region, measure)

        def work(_: Path) -> Made:
            generator = derive_generator(self.config.seed, 0, SEED_SET)
            # What is bought stays bought, also where files are made again on another machine.
            selected, notes = (
                (selected_from(bought), ())
                if bought
                else acquire(
                    self.strategy,
                    scanned.table,
                    scanned.labelled,
                    offer,
                    allowance,
                    generator,
                    prices,
                )
            )
            written = [self.folder / SELECTION_FILE, self.folder / NOTES_FILE]
            if all_ranks().is_first:
                write_selection(written[0], selected)
                write_json(written[1], [*scanned.notes, *notes])
            return written, []

        settings: Mapping[str, object] = {
            "strategy": self.config.seed_strategy,
            "seed": self.config.seed,
            "allowance": [allowance.limit, allowance.counts, allowance.fit],
        }
        phase(SEED_SELECT, 0, settings, work, shared=True)

    def _scan(
        self, phase: Phase, network: object, index: int, signals: Sequence[Signal], tables: Path
    ) -> None:
        """One pass over the pool."""
        config = self.config
        if not all(isinstance(signal, OfFeatures) for signal in signals):
            raise SegalError(
                f"seed_strategy: {config.seed_strategy['name']} asks for more than features in a "
                "later pass",
                expected="a strategy that needs features alone",
                got=", ".join(signal.column for signal in signals),
                remedy="choose another",
            )

        def work(_: Path) -> Made:
            model, keeping = None, Keeping(None, "")
            if signals:
                model = initial_model(config, self.outline).eval().to(self.device)
                keeping = Keeping.of(config)
            scan = RoundScan(
                config=config,
                device=self.device,
                pool=self.pool,
                oracle=self.oracle,
                validation=None,
                seed_set={},
                bought={},
                excluded=self.excluded,
                keeping=keeping,
                ranks=all_ranks(),
            )
            scan.run(0, signals, model, tables, fingerprint(settings))
            return [tables], []

        settings = [
            *(config.seed_region, [signal.column for signal in signals], network),
            *(config.precision, config.embedding_dtype),
        ]
        phase(f"seed-scan-{index}", 0, settings, work, shared=True)
        if all_ranks().is_first:
            drop_blocks(tables)


def with_features(config: RunConfig) -> RunConfig:
    """A resolved configuration, whose initial network has features if its seed set goes by them.

    Raises:
        SegalError: As `by_encoder`.
    """
    return by_encoder(config) if _asks(seed_strategy(config)) else config


def seeding_of(config: RunConfig, device: torch.device, data: RunData) -> Seeding | None:
    """How the seed set of a run is chosen; None for at random.

    Args:
        config: Of the run, resolved.
        device: Where the network runs.
        data: The data sets.

    Raises:
        SegalError: If there is no network whose features would do.
    """
    if config.seed_strategy == AT_RANDOM:
        return None
    task = find_task(config.task)
    return Seeding(
        with_features(config).model_copy(update={"region": config.seed_region}),
        *(seed_strategy(config), device, task.outline_of(data.pool_set), data.pool_set.pool),
        Oracle(data.pool_set, task, data.answered),
        data.excluded,
    )


def _asks(strategy: Strategy) -> bool:
    """Whether a strategy asks for a pass."""
    return bool(next(iter(strategy.passes(PassContext())), []))
