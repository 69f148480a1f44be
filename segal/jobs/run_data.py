"""The data of a run of rounds, and what can be known of its budgets before it starts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segal.acquisition import Offer
from segal.budget import Budget
from segal.config import RunConfig
from segal.console import bar
from segal.data.datasets import LabelledDataset
from segal.errors import SegalError
from segal.jobs.inputs import image_digests, image_sizes
from segal.jobs.network import open_split
from segal.ledger import Ledger
from segal.regions import RegionSize
from segal.run_folder import LEDGER_FILE, fingerprint


@dataclass(frozen=True)
class RunData:
    """The data sets of a run.

    Attributes:
        pool_set: The pool, with the labels that the oracle knows.
        held_out: Splits to evaluate on: `validation`, `test`.
    """

    pool_set: LabelledDataset
    held_out: Mapping[str, LabelledDataset]

    @classmethod
    def open(cls, config: RunConfig) -> "RunData":
        """Opens the splits and checks all labels.

        Raises:
            SegalError: If a split, an image or a label is missing or damaged.
        """
        data, known = config.data, {}
        if (config.out / LEDGER_FILE).is_file():
            with Ledger.read(config.out) as ledger:
                known = ledger.known_images()
        with bar("Checking images") as advance:
            pool_set = open_split(data, data.train, config.machine, advance, known=known)
            held_out = {
                name: open_split(data, split, config.machine, advance)
                for name, split in (("validation", data.validation), ("test", data.test))
                if split
            }
        with bar("Checking labels") as advance:
            for dataset in (pool_set, *held_out.values()):
                dataset.check(progress=advance)
        return cls(pool_set, held_out)

    def fingerprint(self) -> str:
        """Of all that may be known before anything is bought: no label of the pool."""
        held_out = [
            [name, image_digests(used.pool), used.digest()] for name, used in self.held_out.items()
        ]
        return fingerprint([image_digests(self.pool_set.pool), held_out])

    def areas(self) -> NDArray[np.int64]:
        """Pixels of every image of the pool."""
        return np.array([h * w for h, w in image_sizes(self.pool_set.pool).values()], np.int64)


def check_budgets(config: RunConfig, data: RunData) -> None:
    """Raises a SegalError, before work starts, if a budget buys no region at all."""
    sizes, areas = image_sizes(data.pool_set.pool), data.areas()
    keys = [("seed_set", config.seed_set, config.seed_region)]
    keys += [(f"budgets.{i}", budget, config.region) for i, budget in enumerate(config.budgets)]
    for key, budget, region in keys:
        prices = Offer.of(sizes, RegionSize.parse(region), {}).prices
        allowance = Budget.parse(budget).allowance(areas)
        if allowance.most(prices) == 0:
            raise SegalError(
                f"{key}: {budget} does not buy a single region",
                expected=f"at least {prices.min()} pixels, the cheapest region's price",
                got=f"{allowance.limit} pixels",
                remedy="give a larger budget, or smaller regions",
            )
