"""The data of a run of rounds, and what can be known of its budgets before it starts."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.acquisition import Offer
from segal.budget import Budget
from segal.config import RunConfig
from segal.console import bar
from segal.data.datasets import LabelledDataset
from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.inputs import image_digests, image_sizes
from segal.jobs.labels import check_labels, refuse_unlabelled
from segal.jobs.network import open_split
from segal.ledger import Ledger
from segal.regions import RegionSize
from segal.run_folder import fingerprint
from segal.unicode_forms import form_only, lookalikes


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
            SegalError: If a split, an image or a label is missing or damaged, or no pixel of a
                split to evaluate on is labelled.
        """
        data, known = config.data, _known_images(config.out)
        with bar("Checking images") as advance:
            pool_set = open_split(data, data.train, config.machine, advance, known=known)
            held_out = {
                name: open_split(data, split, config.machine, advance)
                for name, split in (("validation", data.validation), ("test", data.test))
                if split
            }
        mistakes = []
        for split, dataset, use in (
            (data.train, pool_set, "trained on"),
            (data.validation, held_out.get("validation"), "evaluated on"),
            (data.test, held_out.get("test"), "evaluated on"),
        ):
            if dataset is None:
                continue
            try:
                refuse_unlabelled(dataset, split, check_labels(dataset, split), use)
            except SegalError as error:
                mistakes.append(error)
        raise_all(mistakes)
        return cls(pool_set, held_out)

    def fingerprint(self) -> str:
        """Of all that may be known before anything is bought: no label of the pool."""
        held_out = [
            [name, image_digests(used.pool), used.digest()] for name, used in self.held_out.items()
        ]
        return fingerprint([image_digests(self.pool_set.pool), held_out])

    def pools(self) -> list[ImagePool]:
        """The images of all splits."""
        return [dataset.pool for dataset in (self.pool_set, *self.held_out.values())]

    def areas(self) -> NDArray[np.int64]:
        """Pixels of every image of the pool."""
        return np.array([h * w for h, w in image_sizes(self.pool_set.pool).values()], np.int64)


def _known_images(out: Path) -> dict[str, tuple[int, int, ImageInfo]]:
    """What an earlier start inspected; nothing where there is none, or a ledger half made."""
    with suppress(SegalError), Ledger.read(out) as ledger:  # opening it to write says what is wrong
        return ledger.known_images()
    return {}


def record_pool(ledger: Ledger, pool: ImagePool) -> None:
    """Records the images of the pool, which are the same for the whole run.

    Raises:
        SegalError: If they are not those that the run began with.
    """
    if ledger.phases():
        then = {path: info.digest for path, (*_, info) in ledger.known_images().items()}
        now = dict(image_digests(pool))
        differing = sorted(p for p in then.keys() | now.keys() if then.get(p) != now.get(p))
        if differing:
            alike = lookalikes(differing)
            raise SegalError(
                f"{pool.root}: not the images that the run began with",
                expected=f"the same {len(then)} images for the whole run",
                got=f"{len(now)} images; added, removed or changed: "
                + ", ".join(differing[:5])
                + (f" and {len(differing) - 5} more" if len(differing) > 5 else ""),
                remedy=form_only(*alike[0][:2])
                if alike
                else "put the images back as they were, or choose another folder with --out",
            )
    ledger.record_images(pool)


def check_budgets(config: RunConfig, data: RunData) -> None:
    """Raises all budgets, before work starts, that may not buy whichever region comes first."""
    sizes, areas = image_sizes(data.pool_set.pool), data.areas()
    keys = [("seed_set", config.seed_set, config.seed_region)]
    keys += [(f"budgets.{i}", budget, config.region) for i, budget in enumerate(config.budgets)]
    errors = []
    for key, budget, region in keys:
        prices = Offer.of(sizes, RegionSize.parse(region), {}).prices
        dearest = prices.max(keepdims=True)
        allowance = Budget.parse(budget).allowance(areas)
        if allowance.fits(dearest) == 0:
            errors.append(
                SegalError(
                    f"{key}: {budget} does not buy a single region, or not every one",
                    expected=f"at least {dearest[0]} pixels, the dearest region's price",
                    got=f"{allowance.limit} pixels",
                    remedy=f"give a larger {key}, or smaller regions",
                )
            )
    raise_all(errors)
