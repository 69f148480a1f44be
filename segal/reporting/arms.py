"""Runs that differ only in seed, as one arm of a report, and its curve on a cost axis."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError
from segal.functional.curves import Band, band
from segal.reporting.protocol import is_full, settings_of_arm
from segal.runs.history import Axis, History, Round
from segal.runs.run_folder import canonical
from segal.tasks.evaluation import Metric

Floats = NDArray[np.float64]


def axis_title(axis: Axis, metric: Metric) -> str:
    """What a cost axis is called."""
    titles: Mapping[Axis, str] = {
        "share": f"labelled share of the pool's {metric.elements} (%)",
        "regions": f"{metric.regions} bought",
        "pixels": f"{metric.elements} labelled",
        "images": "labelled image equivalents",
        "clicks": metric.clicks,
    }
    return titles[axis]


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in seed.

    Attributes:
        name: What it is called in the report; no other arm has it.
        runs: By rising seed.
        full: Whether it is fully supervised.
    """

    name: str
    runs: tuple[History, ...]
    full: bool

    @property
    def metric(self) -> Metric:
        """What its runs are judged by."""
        return self.runs[0].metric

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of its runs."""
        return tuple(seed_of(run) for run in self.runs)

    @property
    def strategy(self) -> str:
        """Name of its strategy."""
        return str(self.runs[0].configuration["strategy"]["name"])

    @property
    def region(self) -> str:
        """Size of its regions."""
        return str(self.runs[0].configuration["region"])

    @property
    def rounds(self) -> int:
        """How many rounds all of its runs have; what some have beyond that is not compared."""
        return min(len(run.rounds) for run in self.runs)

    def scores(self) -> Floats:
        """(seeds, rounds) in per cent."""
        return np.array([run.scores[: self.rounds] for run in self.runs]) * 100

    def costs(self, axis: Axis) -> Floats:
        """(seeds, rounds) cost on an axis; shares are in per cent."""
        return np.array([[cost(r, axis) for r in run.rounds[: self.rounds]] for run in self.runs])

    def band(self) -> Band:
        """Over seeds, in per cent."""
        return band(self.scores())

    def at(self, seeds: Collection[int]) -> "Arm":
        """The arm with those of its runs that have one of these seeds."""
        runs = tuple(run for run in self.runs if seed_of(run) in seeds)
        return Arm(self.name, runs, self.full)

    def of_seed(self, seed: int) -> History | None:
        """Its run with a seed, if there is one."""
        return next((run for run in self.runs if seed_of(run) == seed), None)


def common_seeds(arms: Sequence[Arm]) -> list[int]:
    """Seeds that all of the arms have, rising."""
    return sorted(set.intersection(*(set(arm.seeds) for arm in arms))) if arms else []


def seed_of(run: History) -> int:
    """The seed of a run."""
    return int(run.configuration.get("seed", 0))


def cost(round: Round, axis: Axis) -> float:
    """What a round's labels cost, on an axis; NaN where clicks are not known."""
    value = round.spent(axis)
    return math.nan if value is None else float(value)


def gather(runs: Mapping[str, Sequence[History]] | Sequence[History]) -> list[Arm]:
    """Makes arms of runs: by falling last score, and the fully supervised ones at the end.

    Args:
        runs: Either by arm name, or runs whose arms are told by their settings.

    Raises:
        SegalError: If a run has no evaluated round or no score, or two runs of an arm share a seed.
    """
    if isinstance(runs, Mapping):
        named = {name: list(histories) for name, histories in runs.items()}
    else:
        named = _by_settings(runs)
    arms = []
    for name, histories in named.items():
        for history in histories:
            _check_scores(history)
        ordered = sorted(histories, key=seed_of)
        _check_seeds(name, ordered)
        arms.append(Arm(name, tuple(ordered), is_full(ordered[0])))
    return sorted(arms, key=lambda arm: (arm.full, -arm.scores()[:, -1].mean(), arm.name))


def check_axis(arms: Sequence[Arm], axis: Axis) -> None:
    """Raises a SegalError if a cost is not known on an axis."""
    for arm in arms:
        for run, costs in zip(arm.runs, arm.costs(axis), strict=True):
            if np.isnan(costs).any():
                raise SegalError(
                    f"axis {axis}: not known of {run.folder}",
                    expected="purchases that were booked in polygon clicks",
                    got="purchases without",
                    remedy="choose another --axis: share, regions, pixels or images",
                )


def _by_settings(runs: Sequence[History]) -> dict[str, list[History]]:
    groups: dict[str, list[History]] = {}
    for run in runs:
        groups.setdefault(canonical(settings_of_arm(run)), []).append(run)
    named: dict[str, list[History]] = {}
    for histories in groups.values():
        name = _describe(histories[0])
        number = 2
        while name in named:
            name = f"{_describe(histories[0])} ({number})"
            number += 1
        named[name] = histories
    return named


def _describe(run: History) -> str:
    """Such as `uwe tau=1 · 128 px`."""
    if is_full(run):
        return "full supervision"
    strategy, region = run.configuration["strategy"], str(run.configuration["region"])
    name = str(strategy["name"])
    if "tau" in strategy:
        name += f" tau={strategy['tau']:g}"
    name += f" · {'images' if region == 'image' else region + ' px'}"
    seeded = run.configuration.get("seed_strategy")
    return name if seeded in (None, {"name": "random"}) else f"{name} · from {seeded['name']}"


def _check_scores(run: History) -> None:
    if not run.rounds:
        raise SegalError(
            f"{run.folder}: no round has been evaluated yet",
            expected="a run with at least one evaluated round",
            got="a run without",
            remedy="go on with segal run, or leave this folder out",
        )
    if any(math.isnan(score) for score in run.scores):
        raise SegalError(
            f"{run.folder}: a round has no {run.metric.title}",
            expected=f"labelled {run.metric.elements} in the split that results are reported on",
            got="a split where all classes are absent",
            remedy="leave this folder out",
        )


def _check_seeds(name: str, runs: Sequence[History]) -> None:
    for one, other in pairwise(runs):
        if seed_of(one) == seed_of(other):
            raise SegalError(
                f"{name}: two runs with seed {seed_of(one)}",
                expected="runs of an arm that differ in seed",
                got=f"{one.folder} and {other.folder}",
                remedy="give one of the two",
            )
