"""An arm of a comparison, and what must be alike in all arms: the protocol and the cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

from segal.candidates.budget import Budget
from segal.candidates.regions import RegionSize
from segal.config import RunConfig
from segal.data.exclusion import Excluded
from segal.data.labelled import LabelledDataset
from segal.errors import SegalError, raise_all
from segal.jobs.copies import first_of_each
from segal.jobs.exclusions import excluded_of
from segal.jobs.inputs import image_areas, image_sizes
from segal.jobs.network import check_layers, draw_scenes, initial_model, open_split, resolved
from segal.jobs.own_code import identity_of
from segal.jobs.rounds.seeding import with_features
from segal.jobs.strategies import check_network
from segal.models.wrapped import Model
from segal.reporting.protocol import OF_THE_FULL_ARM, compared
from segal.runs.acquisition import Offer
from segal.runs.oracle import Oracle
from segal.runs.run_folder import fingerprint
from segal.strategies.base import ChecksImages, Strategy, check_images
from segal.system.console import bar
from segal.tasks import find_task
from segal.training.balance import check_class_weights

_TOLERANCE = Fraction(1, 100)
_MAY_DIFFER = {"strategy", "region", "budgets", "seed_strategy"}
_OF_ONE_RUN = {"seed", "measure_picks"}  # the latter says what is written of picks, not which


@dataclass(frozen=True)
class Arm:
    """An arm that is ready to run.

    Attributes:
        name: Its name.
        full: Whether it is the fully supervised one.
        seeds: It runs once with each.
        config: Of its run; `out` is the folder of its runs, `seed` the first seed.
        strategy: What `config.strategy` names.
    """

    name: str
    full: bool
    seeds: tuple[int, ...]
    config: RunConfig
    strategy: Strategy

    @cached_property
    def identity(self) -> dict[str, object]:
        """What its results depend on, beside the seed."""
        named = identity_of(self.config)
        return {key: value for key, value in named.items() if key not in _OF_ONE_RUN}


def steps_by_round(config: RunConfig) -> list[int]:
    """Optimizer steps by round, if every budget is spent."""
    steps = config.train.iterations
    if config.steps == "fixed":
        return [steps] * (len(config.budgets) + 1)
    shares = _cumulative(config, _Pool(config))
    return [round(steps * share / shares[0]) for share in shares]


def check_protocol(arms: Sequence[Arm]) -> list[SegalError]:
    """Every setting that differs from the first arm's and may not."""
    selecting = [arm for arm in arms if not arm.full]
    if not selecting:
        return []
    try:
        protocols = {arm.name: _protocol(arm) for arm in arms}
    except SegalError as error:  # such as weights that are not there
        return [error]
    first = selecting[0].name
    errors = [
        SegalError(
            f"arms.{arm.name}: annotate: an arm that waits for people",
            expected="arms whose labels are all there: a comparison goes through them by itself",
            got="annotate: true",
            remedy="leave it out; or run the arms one by one with segal run",
        )
        for arm in arms
        if arm.config.annotate
    ]
    for arm in arms:
        exempt = OF_THE_FULL_ARM if arm.full else frozenset()
        mine, theirs = protocols[arm.name], protocols[first]
        differing = sorted(
            key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)
        )
        errors += [
            SegalError(
                f"arms.{arm.name}.set.{key}: not the protocol of the other arms",
                expected=f"{theirs.get(key)}, as in arm {first!r}",
                got=str(mine.get(key)),
                remedy="arms may differ in strategy, seed_strategy, region and budgets; what is "
                "trained otherwise is another comparison",
            )
            for key in differing
            if key not in exempt
        ]
        if not arm.full and len(arm.config.budgets) != len(selecting[0].config.budgets):
            errors.append(
                SegalError(
                    f"arms.{arm.name}.set.budgets: not as many rounds as the other arms",
                    expected=f"{len(selecting[0].config.budgets)} budgets, as in arm {first!r}",
                    got=f"{len(arm.config.budgets)}",
                    remedy="give every arm as many budgets",
                )
            )
    return errors


def _protocol(arm: Arm) -> dict[str, str]:
    """By dotted key, what must be the same in all arms, in canonical JSON."""
    named: dict[str, Any] = {k: v for k, v in arm.identity.items() if k not in _MAY_DIFFER}
    named["data"] = {**named["data"], "root": str(arm.config.data.root)}
    return compared(named)


class _Pool:
    """What shares are of: the pool's images, looked at only where a budget needs them."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config

    @cached_property
    def _dataset(self) -> LabelledDataset:
        data, machine = self._config.data, self._config.machine
        draw_scenes(data)
        with bar("Checking images") as advance:
            dataset = open_split(self._config.task, data, data.train, machine, advance)
        return dataset.subset(first_of_each(dataset.pool)) if self._config.unique else dataset

    @cached_property
    def _excluded(self) -> Excluded:
        config = self._config
        return excluded_of(config.exclude, self._dataset.pool, config.task, all_there=False)

    @cached_property
    def _boxes(self) -> int:
        """All that annotators would draw."""
        oracle = Oracle(self._dataset, find_task(self._config.task))
        sizes = image_sizes(self._dataset.pool).items()
        return sum(oracle.clicks(path, [(0, 0, w, h)], ())[0] for path, (h, w) in sizes)

    def share(self, text: str, region: str) -> Fraction:
        """A budget as a share of the pool's pixels; regions and boxes count as its mean ones."""
        budget = Budget.parse(text)
        if budget.unit == "share":
            return budget.amount / 100
        if budget.unit == "images":
            return budget.amount / len(self._dataset)
        if budget.unit == "boxes":
            return min(Fraction(1), budget.amount / max(1, self._boxes))
        sizes = image_sizes(self._dataset.pool)
        return budget.amount / len(Offer.of(sizes, RegionSize.parse(region), self._excluded))

    @property
    def paths(self) -> Sequence[str]:
        """Of the images."""
        return self._dataset.pool.paths

    @property
    def unit(self) -> str:
        """What shares are counted in."""
        return find_task(self._config.task).metric.elements

    def pixels(self, share: Fraction) -> int:
        return round(share * int(image_areas(self._dataset.pool, self._excluded).sum()))


def _cumulative(config: RunConfig, pool: _Pool) -> list[Fraction]:
    """Shares of the pool that are labelled by round, if every budget is spent."""
    total = pool.share(config.seed_set, config.seed_region)
    shares = [total]
    for budget in config.budgets:
        total += pool.share(budget, config.region)
        shares.append(total)
    return shares


def check_costs(arms: Sequence[Arm]) -> list[SegalError]:
    """Arms buy as much as the first one, at every budget, to 1 %."""
    selecting = [arm for arm in arms if not arm.full]
    plain = {(arm.config.budgets, _region_of_budgets(arm.config)) for arm in selecting}
    if len(plain) <= 1:
        return []
    first = selecting[0]
    differ = len({arm.config.budgets for arm in selecting}) > 1
    if differ and any(_counts_boxes(arm.config) for arm in selecting):
        return [
            SegalError(
                f"arms.{arm.name}: not the budgets of the other arms",
                expected=f"{', '.join(first.config.budgets)}, as in arm {first.name!r}: what boxes "
                "come to depends on what is picked",
                got=", ".join(arm.config.budgets),
                remedy="give all arms the same budgets, or none in boxes",
            )
            for arm in selecting[1:]
            if arm.config.budgets != first.config.budgets
        ]
    pool = _Pool(first.config)
    try:
        bought = {arm.name: _cumulative(arm.config, pool) for arm in selecting}
    except SegalError as error:  # such as a folder that is not there
        return [error]
    errors = []
    for arm in selecting[1:]:
        seed_set = bought[first.name][0]
        pairs = zip(bought[arm.name][1:], bought[first.name][1:], strict=True)
        for number, (mine, theirs) in enumerate(pairs, 1):
            if abs(mine - theirs) > _TOLERANCE * (theirs - seed_set):
                errors.append(
                    SegalError(
                        f"arms.{arm.name}: not the cost of the other arms, after budget {number}",
                        expected=f"{_amount(pool, theirs - seed_set)} to 1 %, as in arm "
                        f"{first.name!r} ({', '.join(first.config.budgets[:number])})",
                        got=f"{_amount(pool, mine - seed_set)} "
                        f"({', '.join(arm.config.budgets[:number])})",
                        remedy=f"give budgets that come to the same number of {pool.unit}",
                    )
                )
                break
    return errors


def check_networks(arms: Sequence[Arm]) -> None:
    """Builds the arms' networks, to see that each has what its strategy asks for.

    Raises:
        SegalError: With all that is missing, and where.
    """
    models, errors = dict[str, Model](), list[SegalError]()
    for arm in arms:
        data = arm.config.data
        network = fingerprint(
            [arm.config.model.model_dump(mode="json"), str(arm.config.checkpoint)]
        )
        if network not in models:
            outline = find_task(arm.config.task).outline(data, data.train)
            models[network] = initial_model(arm.config, outline).eval()
        try:
            check_class_weights(arm.config.train, models[network].spec.class_names)
            check_network(arm.strategy, models[network])
            check_layers(models[network], arm.config.train)
            with_features(resolved(arm.config, models[network].spec))
        except SegalError as error:
            errors.append(error.renamed(f"arms.{arm.name}: {error.problem}"))
    raise_all(errors)


def check_pools(arms: Sequence[Arm]) -> None:
    """Looks at the pool's images for arms whose strategy not every pool will do for.

    Raises:
        SegalError: With all that is missing, and where.
    """
    errors, pool = list[SegalError](), None
    for arm in arms:
        if isinstance(arm.strategy, ChecksImages):
            pool = pool or _Pool(arm.config)
            try:
                check_images(arm.strategy, pool.paths)
            except SegalError as error:
                errors.append(error.renamed(f"arms.{arm.name}: {error.problem}"))
    raise_all(errors)


def _region_of_budgets(config: RunConfig) -> str | None:
    """The region size that the budgets are counted in; None where they are not."""
    counted = any(Budget.parse(budget).unit == "regions" for budget in config.budgets)
    return config.region if counted else None


def _counts_boxes(config: RunConfig) -> bool:
    """Whether a budget is counted in boxes."""
    return any(Budget.parse(budget).unit == "boxes" for budget in config.budgets)


def _amount(pool: _Pool, share: Fraction) -> str:
    return f"{pool.pixels(share):,} {pool.unit}, {float(100 * share):.4g} % of the pool"
