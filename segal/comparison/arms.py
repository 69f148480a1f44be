"""Arms as curves: what finished runs reached, and at what cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError
from segal.functional.curves import area
from segal.runs.history import Axis, History
from segal.training.evaluation import Evaluation

Floats = NDArray[np.float64]
AXES: Mapping[Axis, str] = {
    "share": "pixels (%)",
    "regions": "regions",
    "pixels": "pixels",
    "images": "images",
    "clicks": "clicks",
}
"""What a cost is counted in, and how it is called; a share is given in per cent here."""


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
        """(rounds,) mIoU in [0, 1]."""
        scores = np.array(self.history.scores)
        if np.isnan(scores).any():
            raise SegalError(
                f"{self.history.folder}: no mIoU in round {int(np.isnan(scores).argmax())}",
                expected="labelled pixels in the split that results are reported on",
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
    def confusions(self) -> NDArray[np.int32]:
        """(rounds, images, C, C) pixel counts."""
        return np.stack([evaluation.confusions for evaluation in self.evaluations])


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
    """(curves, rounds) mIoU."""
    return np.stack([curve.scores[:rounds] for curve in curves])


def mean_costs(curves: Sequence[Curve], axis: Axis, rounds: int) -> Floats:
    """(rounds,) mean over curves."""
    mean: Floats = np.stack([curve.costs(axis)[:rounds] for curve in curves]).mean(0)
    return mean


def rises(costs: Floats) -> bool:
    """Whether an area can be taken over these costs: at least two, strictly rising."""
    return len(costs) > 1 and bool((np.diff(costs) > 0).all())


def mean_height(costs: Floats, values: Floats) -> float | None:
    """Area under a curve over its range of costs: the mean mIoU along it; None without a range."""
    return area(costs, values) / float(costs[-1] - costs[0]) if rises(costs) else None
