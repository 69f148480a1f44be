"""The data of a run of rounds, and what can be known of its budgets before it starts."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segal.candidates.budget import Budget
from segal.candidates.regions import Box, RegionSize
from segal.config import RunConfig
from segal.data.exclusion import Excluded, RestOfDataset
from segal.data.images import ImageInfo
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.errors import SegalError, raise_all
from segal.jobs.copies import copies_notes, first_of_each
from segal.jobs.exclusions import without_excluded
from segal.jobs.inputs import image_areas, image_digests, image_sizes, named_inputs
from segal.jobs.labels import check_labels, class_notes, refuse_unlabelled
from segal.jobs.network import open_split
from segal.jobs.prices import drawn_prices
from segal.runs.acquisition import Offer
from segal.runs.ledger import Ledger
from segal.runs.oracle import Oracle
from segal.runs.pool_log import PoolLog
from segal.runs.returned import Answered, Unlabelled, check_answer_classes, with_answers
from segal.runs.returns import classes_of, labels_of, returns_of
from segal.runs.run_folder import LEDGER_FILE, fingerprint
from segal.system.console import bar, tell
from segal.tasks import find_task


@dataclass(frozen=True)
class RunData:
    """The data sets of a run.

    Attributes:
        pool_set: The pool, with the labels that the oracle knows.
        held_out: Splits to evaluate on: `validation`, `test`.
        notes: What the user should be told of them.
        excluded: What is never annotated of the pool, and what was withdrawn of its images.
        never_annotated: The first of these alone.
        answered: Where people label: the boxes that they gave back, by image; None in a simulation.
    """

    pool_set: LabelledDataset
    held_out: Mapping[str, LabelledDataset]
    notes: Sequence[str] = ()
    excluded: Excluded = field(default_factory=dict)
    never_annotated: Excluded = field(default_factory=dict)
    answered: Mapping[str, Sequence[Box]] | None = None

    @classmethod
    def open(cls, config: RunConfig) -> "RunData":
        """Opens the splits and checks all labels.

        Raises:
            SegalError: If a split, an image or a label is missing or damaged, or no pixel of a
                split to evaluate on is labelled.
        """
        data = config.data
        pool_set, held_out, log = open_splits(config)
        pool_set, answered = log.dataset(pool_set), None
        if config.annotate:
            pool_set, answered = given_back(config, pool_set)
        pool_set, *rest = without_excluded(
            config.exclude, [pool_set, *held_out.values()], config.task, all_there=not log.changes
        )
        held_out = dict(zip(held_out, rest, strict=True))
        notes = copies_notes(pool_set.pool, unique=config.unique)
        if config.unique:
            pool_set = pool_set.subset(first_of_each(pool_set.pool))
        never_annotated = _excluded(pool_set)
        if log.withdrawn.boxes:
            inner = pool_set.dataset if isinstance(pool_set, RestOfDataset) else pool_set
            without = log.withdrawn.together(inner.pool, never_annotated)
            pool_set = RestOfDataset.of(inner, without)
        mistakes = []
        for split, dataset, use in (
            (data.train, None if config.annotate else pool_set, "trained on"),
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
        tell(*class_notes(pool_set, *held_out.values()))
        return cls(pool_set, held_out, notes, _excluded(pool_set), never_annotated, answered)

    def inputs(self) -> dict[str, dict[str, str]]:
        """Digests of what is held out, by kind and name."""
        return named_inputs(self.held_out)

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
        """Pixels of every image of the pool, but for those that are excluded."""
        return image_areas(self.pool_set.pool, self.excluded)


def _excluded(dataset: LabelledDataset) -> Excluded:
    boxes = dataset.excluded if isinstance(dataset, RestOfDataset) else {}
    return {dataset.pool.paths[i]: tuple(found) for i, found in boxes.items()}


def given_back(
    config: RunConfig, pool_set: LabelledDataset
) -> tuple[LabelledDataset, dict[str, list[Box]]]:
    """A pool with the labels that people gave back to the run, and where they did.

    Raises:
        SegalError: If they chose from other classes than the data set's.
    """
    found: list[Answered] = []
    if (config.out / LEDGER_FILE).is_file():
        with Ledger.read(config.out) as ledger:
            returns = labels_of(returns_of(ledger)).values()
            found = [Answered(config.out, one) for one in returns]
            if found:
                check_answer_classes(config.out, classes_of(ledger), pool_set.classes.names)
    plain = Unlabelled(pool_set, config.task)
    boxes: dict[str, list[Box]] = {}
    for one in found:
        boxes.setdefault(one.returned.image, []).append(one.returned.box)
    answers = ((one.returned.image, one) for one in found)
    return with_answers(plain, config.task, answers), boxes


def open_splits(
    config: RunConfig,
) -> tuple[LabelledDataset, dict[str, LabelledDataset], PoolLog]:
    """The splits of a run as they are on disk; no image of one may be in another.

    Returns:
        The one to buy from; those to evaluate on, `validation` and `test`; and how the pool has
        changed since the run began.

    Raises:
        SegalError: If a split or an image is missing or damaged, or an image is in two of them.
    """
    task, data = config.task, config.data
    known, log = so_far(config.out)
    with bar("Checking images") as advance:
        pool_set = open_split(
            *(task, data, data.train, config.machine, advance),
            known=known,
            missing_labels=config.annotate,
        )
        held_out = {
            name: open_split(task, data, split, config.machine, advance)
            for name, split in (("validation", data.validation), ("test", data.test))
            if split
        }
    find_task(task).check_splits({data.train: pool_set, **held_out})
    return pool_set, held_out, log


def so_far(out: Path) -> tuple[dict[str, tuple[int, int, ImageInfo]], PoolLog]:
    """What an earlier start inspected, by file, and how its pool has changed since.

    Nothing where there is none, or a ledger half made.
    """
    with suppress(SegalError), Ledger.read(out) as ledger:  # opening it to write says what is wrong
        log = ledger.pool_log
        known = {log.files.get(name, name): one for name, one in ledger.known_images().items()}
        return known, log
    return {}, PoolLog()


def check_budgets(config: RunConfig, data: RunData) -> None:
    """Raises all budgets, before work starts, that may not buy whichever region comes first."""
    pool, areas = data.pool_set.pool, data.areas()
    sizes, oracle = image_sizes(pool), Oracle(data.pool_set, find_task(config.task))
    keys = [("seed_set", config.seed_set, config.seed_region)]
    keys += [(f"budgets.{i}", budget, config.region) for i, budget in enumerate(config.budgets)]
    errors = []
    for key, budget, region in keys:
        size = RegionSize.parse(region)
        allowance = Budget.parse(budget).allowance(areas, pool.unit, config.budget_fit)
        offer = Offer.of(sizes, size, data.excluded)
        prices = drawn_prices(oracle, sizes, size, {}, offer, allowance)
        skips = allowance.fit == "skip"
        least = prices.min(keepdims=True) if skips else prices.max(keepdims=True)
        if allowance.fits(least) == 0:
            errors.append(
                SegalError(
                    f"{key}: {budget} does not buy a single region"
                    + ", or not every one" * (not skips),
                    expected=f"at least {least[0]} {allowance.elements}, "
                    f"the {'cheapest' if skips else 'dearest'} region's price",
                    got=str(allowance),
                    remedy=f"give a larger {key}, or smaller regions",
                )
            )
    raise_all(errors)
