"""Contrasts of two arms: is the difference of their areas under the curve more than chance?

Arms are matched in pixels, so areas are taken along the share of the pool's pixels, whatever axis
is drawn, and divided by its range: a difference is in the metric that runs are judged by, the mean
along the curve. Of two arms only the seeds that both have take part, and the rounds that all of
these runs have.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segal.comparison.arms import (
    Arm,
    Curve,
    Floats,
    common_seeds,
    length,
    mean_costs,
    rises,
    scores,
)
from segal.errors import SegalError
from segal.functional.curves import trapezoid_weights
from segal.functional.significance import (
    PermutationTest,
    label_permutation,
    sign_flip,
    statistics_permutation,
)


@dataclass(frozen=True)
class Contrast:
    """An arm against another.

    Attributes:
        name: `arm - other`.
        seeds: Those that both have.
        budgets: How many are compared, the seed set not counted.
        cost_gap: By how much the two labelled pixels differ at the most, at one of the budgets, as
            a share of the smaller.
        is_cut: Whether some of the runs have more budgets, which are left out.
        images: Number of test images.
        by_images: Test over test images, seeds combined.
        by_seeds: Test over seeds.
        by_labels: RALIF's; None unless asked for.
    """

    name: str
    seeds: tuple[int, ...]
    budgets: int
    cost_gap: float
    is_cut: bool
    images: int
    by_images: PermutationTest
    by_seeds: PermutationTest
    by_labels: PermutationTest | None


def contrast(one: Arm, other: Arm, permutations: int, *, with_labels: bool) -> Contrast | None:
    """Compares two arms; None where they share no seed, or there is no curve to compare.

    The draws depend on the two names alone.

    Raises:
        SegalError: If they were evaluated on different images or classes.
    """
    seeds = common_seeds(one, other)
    if not seeds:
        return None
    pair = _Pair(one.at(seeds), other.at(seeds))
    if not rises(pair.costs):
        return None
    name = f"{one.name} - {other.name}"
    key = zlib.crc32(name.encode())
    return Contrast(
        name=name,
        seeds=tuple(seeds),
        budgets=pair.rounds - 1,
        cost_gap=pair.cost_gap,
        is_cut=any(len(curve) > pair.rounds for curve in (*pair.ones, *pair.others)),
        images=len(pair.ones[0].evaluations[0].images),
        by_images=pair.by_images(permutations, np.random.default_rng([key, 0])),
        by_seeds=sign_flip(pair.differences),
        by_labels=pair.by_labels(permutations, np.random.default_rng([key, 1]))
        if with_labels
        else None,
    )


def image_test(one: Curve, other: Curve, permutations: int) -> PermutationTest | None:
    """Compares two runs over the test images; None where there is no curve to compare."""
    pair = _Pair([one], [other])
    if not rises(pair.costs):
        return None
    key = zlib.crc32(f"{one.arm} {one.seed} - {other.arm} {other.seed}".encode())
    return pair.by_images(permutations, np.random.default_rng([key, 2]))


class _Pair:
    """Runs of two arms, seed by seed."""

    def __init__(self, ones: Sequence[Curve], others: Sequence[Curve]) -> None:
        self.ones, self.others = ones, others
        self.rounds = length([*ones, *others])
        self.costs = mean_costs([*ones, *others], "share", self.rounds) / 100

    @property
    def cost_gap(self) -> float:
        """See `Contrast`."""
        sides = [mean_costs(curves, "share", self.rounds) for curves in (self.ones, self.others)]
        return float((np.maximum(*sides) / np.minimum(*sides) - 1).max())

    @property
    def differences(self) -> Floats:
        """(seeds,) of the mean score along the curve."""
        weights = trapezoid_weights(self.costs) / np.ptp(self.costs)
        lead = scores(self.ones, self.rounds) - scores(self.others, self.rounds)
        differences: Floats = lead @ weights
        return differences

    def by_images(self, permutations: int, generator: np.random.Generator) -> PermutationTest:
        self._check_images()
        first, second = (
            np.stack([curve.statistics[: self.rounds] for curve in curves])
            for curves in (self.ones, self.others)
        )
        return statistics_permutation(
            first,
            second,
            self.ones[0].metric.score,
            costs=self.costs / np.ptp(self.costs),
            permutations=permutations,
            generator=generator,
        )

    def by_labels(self, permutations: int, generator: np.random.Generator) -> PermutationTest:
        """On what evaluations hold of each image; what is not labelled is left out."""
        self._check_images()
        labels, _ = self.ones[0].evaluations[0].answers
        first, second = (
            np.stack(
                [[one.answers[1] for one in curve.evaluations[: self.rounds]] for curve in curves]
            )
            for curves in (self.ones, self.others)
        )
        return label_permutation(
            first,
            second,
            labels,
            costs=self.costs / np.ptp(self.costs),
            permutations=permutations,
            generator=generator,
        )

    def _check_images(self) -> None:
        first = self.ones[0].evaluations[0]
        for curve in (*self.ones, *self.others):
            for evaluation in curve.evaluations:
                same = (evaluation.images, evaluation.class_names)
                if same != (first.images, first.class_names):
                    raise SegalError(
                        f"{curve.history.folder}: evaluated on other images or classes",
                        expected=f"those of {self.ones[0].history.folder}",
                        got=f"{len(evaluation.images)} images, "
                        f"{len(evaluation.class_names)} classes",
                        remedy="compare runs on the same data set, and leave it as it is meanwhile",
                    )
                differs = _rows_that_differ(evaluation.truth, first.truth)
                if differs.any():
                    raise SegalError(
                        f"{curve.history.folder}: evaluated on other labels",
                        expected=f"those of {self.ones[0].history.folder}",
                        got=f"others of {int(differs.sum())} images, such as "
                        f"{first.images[int(differs.argmax())]}",
                        remedy="compare runs on the same data set, and leave it as it is meanwhile",
                    )


def _rows_that_differ(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.bool_]:
    """(N,) of two arrays (N, ...)."""
    differs: NDArray[np.bool_] = (one != other).reshape(len(one), -1).any(1)
    return differs
