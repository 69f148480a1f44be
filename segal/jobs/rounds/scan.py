"""The pass over the pool in a round: what is scanned, and what signals may measure on before it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from segal.candidates.regions import Box, RegionSize
from segal.config import RunConfig
from segal.data.exclusion import Excluded, uncovered
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.jobs.inputs import by_index, scan_settings
from segal.jobs.keeping import Keeping
from segal.jobs.reference import run_sets
from segal.models.wrapped import Model
from segal.runs.acquisition import SCAN, cut_to_grid, derive_seed
from segal.runs.oracle import Oracle
from segal.scanning.scan import Scan
from segal.signals import Signal
from segal.system.console import bar
from segal.system.ranks import ALONE, Ranks
from segal.tasks import find_task


@dataclass(frozen=True)
class RoundScan:
    """A round's pass, ready to run.

    Attributes:
        config: Of the run.
        device: Where the network runs.
        pool: The pool.
        oracle: Reveals the labels of what is bought.
        validation: The reference set, if there is one.
        seed_set: Boxes by image that were bought before the first round.
        bought: Boxes by image that are bought by now.
        excluded: What is never annotated.
        keeping: Where outputs of the network's frozen part are kept.
        ranks: The processes that share the pass.
    """

    config: RunConfig
    device: torch.device
    pool: ImagePool
    oracle: Oracle
    validation: LabelledDataset | None
    seed_set: Mapping[str, Sequence[Box]]
    bought: Mapping[str, Sequence[Box]]
    excluded: Excluded
    keeping: Keeping
    ranks: Ranks = ALONE

    def run(
        self,
        number: int,
        signals: Sequence[Signal],
        model: Model | None,
        tables: Path,
        configuration: str,
    ) -> list[str]:
        """Scans the pool.

        Args:
            number: The round.
            signals: What to measure.
            model: The network that the round trained.
            tables: Folder of the tables.
            configuration: As of `Scan`.

        Returns:
            What the user should be told of how it went, beside what is noted in the folder.
        """
        config, region = self.config, RegionSize.parse(self.config.region)
        excluded = by_index(self.pool, self.excluded)
        labelled = {
            i: uncovered(cut_to_grid(b, self.pool.size(i), region), excluded.get(i, ()))
            for i, b in self.oracle.by_index(self.bought).items()
        }
        sets = run_sets(
            *(self.oracle, self.pool, self.validation),
            *(self.seed_set, self.bought, self.excluded),
        )
        scan = Scan(
            pool=self.keeping.pool(model, self.pool),
            task=find_task(config.task),
            regions=[region],
            settings=scan_settings(config, self.device),
            signals=signals,
            model=model if signals else None,
            labelled=labelled,
            excluded=excluded,
            sets=self.keeping.sets(model, sets),
            seed=derive_seed(config.seed, number, SCAN),
            configuration=configuration,
        )
        with bar(f"Round {number}: scanning the pool") as advance:
            scan.run(tables, advance, self.ranks)
        return scan.waited.notes()
