"""Arms as curves: what finished runs reached, and at what cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError
from segal.functional.curves import area
from segal.runs.history import AXES, Axis, History
from segal.tasks.evaluation import Evaluation, Metric

Floats = NDArray[np.float64]


def axis_titles(metric: Metric) -> dict[Axis, str]:
    """What a cost is counted in, and how it is called; a share is given in per cent here.

    Of axes that would be called the same only the first is there.
    """
    titles: dict[Axis, str] = {
        "share": f"{metric.elements} (%)",
        "regions": metric.regions,
        "pixels": metric.elements,
        "images": "images",
        "clicks": metric.clicks,
    }
    first = {title: axis for axis, title in reversed(titles.items())}
    return {axis: title for axis, title in titles.items() if first[title] == axis}


@dataclass(frozen=True)
class Curve:
    """A finished run as a learning curve.

    Attributes:
        arm: Its arm's name.
        seed: Its seed.
        history: The run.
    """

    arm: str
    seed: int
    history: History

    def __len__(self) -> int:
        return len(self.history.rounds)

    @cached_property
    def scores(self) -> Floats:
        """(rounds,) in [0, 1]."""
        scores = np.array(self.history.scores)
        if np.isnan(scores).any():
            metric, without = self.metric, int(np.isnan(scores).argmax())
            raise SegalError(
                f"{self.history.folder}: no {metric.title} in round {without}",
                expected=f"labelled {metric.elements} in the split that results are reported on",
                got="none",
                remedy="report on another split",
            )
        return scores

    def costs(self, axis: Axis) -> Floats:
        """(rounds,) on an axis.

        Raises:
            SegalError: For clicks that are not known.
        """
        spent = [one.spent(axis) for one in self.history.rounds]
        if None in spent:
            raise SegalError(
                f"{self.history.folder}: its clicks are not known",
                expected=f"an axis that every run has: {', '.join(a for a in AXES if a != axis)}",
                got=axis,
                remedy="give axis=share",
            )
        return np.array(spent, np.float64)

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """By round, image by image."""
        return [one.evaluation() for one in self.history.rounds]

    @cached_property
    def statistics(self) -> NDArray[np.int64]:
        """(rounds, images, K), what each image adds to the metric."""
        return np.stack([evaluation.statistics for evaluation in self.evaluations])

    @property
    def metric(self) -> Metric:
        """What it is judged by."""
        return self.history.metric


@dataclass(frozen=True)
class Arm:
    """An arm's finished runs.

    Attributes:
        name: Its name.
        full: Whether it is the fully supervised one.
        curves: By seed, ascending.
    """

    name: str
    full: bool
    curves: Mapping[int, Curve]

    @property
    def metric(self) -> Metric:
        """What its runs are judged by."""
        return next(iter(self.curves.values())).metric

    def at(self, seeds: Sequence[int]) -> list[Curve]:
        """The curves of some seeds."""
        return [self.curves[seed] for seed in seeds]


def gather(arms: Mapping[str, Mapping[int, History]], full: Sequence[str] = ()) -> list[Arm]:
    """Makes arms of run folders; arms of which no run is there are left out.

    Args:
        arms: By name and seed.
        full: Names of the fully supervised ones.
    """
    return [
        Arm(name, name in full, {s: Curve(name, s, runs[s]) for s in sorted(runs)})
        for name, runs in arms.items()
        if runs
    ]


def common_seeds(one: Arm, other: Arm) -> list[int]:
    """Seeds that both arms have, ascending."""
    return sorted(one.curves.keys() & other.curves.keys())


def length(curves: Sequence[Curve]) -> int:
    """Rounds that all of the curves have; runs may stop early at a target."""
    return min(len(curve) for curve in curves)


def scores(curves: Sequence[Curve], rounds: int) -> Floats:
    """(curves, rounds) in [0, 1]."""
    return np.stack([curve.scores[:rounds] for curve in curves])


def mean_costs(curves: Sequence[Curve], axis: Axis, rounds: int) -> Floats:
    """(rounds,) mean over curves."""
    mean: Floats = np.stack([curve.costs(axis)[:rounds] for curve in curves]).mean(0)
    return mean


def rises(costs: Floats) -> bool:
    """Whether an area can be taken over these costs: at least two, strictly rising."""
    return len(costs) > 1 and bool((np.diff(costs) > 0).all())


def mean_height(costs: Floats, values: Floats) -> float | None:
    """Area under a curve over its range of costs: the mean score along it; None without a range."""
    return area(costs, values) / float(costs[-1] - costs[0]) if rises(costs) else None
