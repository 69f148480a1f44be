"""Learning curves: scores against what their labels cost.

A curve is `costs`, (budgets,) and strictly rising, with `scores`, (budgets,), higher is better.
Between budgets a curve is a straight line; outside them it is not defined. Costs are in any unit
(regions, pixels, clicks, cycles), the same for all curves that are compared.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """Scores over seeds, each field (budgets,) float64; `sd` is NaN with one seed."""

    mean: Floats
    low: Floats
    high: Floats
    sd: Floats


def area(costs: ArrayLike, scores: ArrayLike) -> float:
    """Area under a learning curve by the trapezoidal rule, in units of cost times score.

    It is not divided by the range of costs; a curve of one point has area 0.

    Args:
        costs: (budgets,) strictly rising.
        scores: (budgets,).

    Raises:
        ValueError: If the costs do not rise, the shapes differ or a value is not finite.
    """
    costs, scores = _curve(costs, scores)
    return float(trapezoid_weights(costs) @ scores)


def trapezoid_weights(costs: ArrayLike) -> Floats:
    """Weights of the scores of a curve in its `area`.

    Args:
        costs: (budgets,) strictly rising.

    Returns:
        (budgets,) float64 that sum to the range of costs.

    Raises:
        ValueError: If there are no costs, they do not rise or one is not finite.
    """
    costs = np.asarray(costs, np.float64)
    if costs.ndim != 1 or not costs.size or not np.isfinite(costs).all():
        raise ValueError(f"costs: expected a vector of finite numbers, got {costs.tolist()}")
    steps = np.diff(costs)
    if (steps <= 0).any():
        raise ValueError(f"costs: expected to rise strictly, got {costs.tolist()}")
    weights: Floats = (np.append(steps, 0) + np.append(0, steps)) / 2
    return weights


def area_ratio(
    costs: ArrayLike, scores: ArrayLike, baseline_costs: ArrayLike, baseline_scores: ArrayLike
) -> float:
    """Area under a curve over the area under a baseline's, 1 where they are alike.

    With random selection as the baseline and the cycle index as the cost this is the AUCA ratio of
    RALIF (section 5). Where the two cost axes differ, as when purchases do not fill a budget to
    the pixel, the areas are those over the common range of costs, both curves cut to it by linear
    interpolation.

    Args:
        costs: (budgets,) strictly rising.
        scores: (budgets,).
        baseline_costs: (baseline budgets,) strictly rising.
        baseline_scores: (baseline budgets,).

    Raises:
        ValueError: If the ranges of costs share no more than a point, the baseline's area is not
            positive, or as in `area`.
    """
    costs, scores = _curve(costs, scores)
    baseline_costs, baseline_scores = _curve(baseline_costs, baseline_scores)
    first, last = max(costs[0], baseline_costs[0]), min(costs[-1], baseline_costs[-1])
    if first >= last:
        raise ValueError(
            f"costs: expected ranges that overlap, got {costs[0]} to {costs[-1]} "
            f"and {baseline_costs[0]} to {baseline_costs[-1]}"
        )
    below = area(*_cut(baseline_costs, baseline_scores, first, last))
    if below <= 0:
        raise ValueError(f"baseline scores: expected a positive area, got {below}")
    return area(*_cut(costs, scores, first, last)) / below


def cost_at(costs: ArrayLike, scores: ArrayLike, target: float) -> float | None:
    """Cost at which a curve first reaches a score.

    Args:
        costs: (budgets,) strictly rising.
        scores: (budgets,), which may fall in between.
        target: The score to reach.

    Returns:
        The cost, between two budgets by linear interpolation; the first cost if the first score
        is enough already; None if no score is.

    Raises:
        ValueError: If the target is NaN, or as in `area`.
    """
    costs, scores = _curve(costs, scores)
    if np.isnan(target):
        raise ValueError("target: expected a score, got NaN")
    reached = scores >= target
    if not reached.any():
        return None
    i = int(reached.argmax())
    if i == 0:
        return float(costs[0])
    share = (target - scores[i - 1]) / (scores[i] - scores[i - 1])
    return float(costs[i - 1] + share * (costs[i] - costs[i - 1]))


def annotation_saving(
    costs: ArrayLike,
    scores: ArrayLike,
    baseline_costs: ArrayLike,
    baseline_scores: ArrayLike,
    target: float | None = None,
) -> float | None:
    """Share of a baseline's cost that is saved when both curves have reached a target.

    `(c_baseline - c) / c_baseline`, each cost that of its own curve's first crossing, as behind the
    savings that ISAL gives for CIFAR10 (table 4). A baseline that was at its final score before,
    and fell, is charged up to there only. Costs count from the first label: an axis that leaves
    out the seed set gives another number.

    Args:
        costs: (budgets,) strictly rising, not negative.
        scores: (budgets,).
        baseline_costs: (baseline budgets,) strictly rising, not negative.
        baseline_scores: (baseline budgets,).
        target: The score to reach; by default the baseline's final score.

    Returns:
        At most 1, negative where the baseline is cheaper; None if either curve never reaches the
        target, or is there at its first point already: where it crossed is not known then.

    Raises:
        ValueError: If a cost is negative, or as in `cost_at`.
    """
    costs, scores = _curve(costs, scores)
    baseline_costs, baseline_scores = _curve(baseline_costs, baseline_scores)
    if min(costs[0], baseline_costs[0]) < 0:
        raise ValueError(f"costs: expected none below 0, got {min(costs[0], baseline_costs[0])}")
    goal = float(baseline_scores[-1]) if target is None else target
    cost, baseline = cost_at(costs, scores, goal), cost_at(baseline_costs, baseline_scores, goal)
    if max(scores[0], baseline_scores[0]) >= goal or cost is None or baseline is None:
        return None
    return (baseline - cost) / baseline


def band(scores: ArrayLike) -> Band:
    """Mean, range and standard deviation of curves over seeds.

    Args:
        scores: (seeds, budgets).

    Returns:
        Vectors over the budgets; the standard deviation is the sample's (n - 1).

    Raises:
        ValueError: If there are no scores or one is not finite.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        raise ValueError(f"scores: expected (seeds, budgets) of finite, got shape {scores.shape}")
    sd = scores.std(0, ddof=1) if len(scores) > 1 else np.full(scores.shape[1], np.nan)
    return Band(scores.mean(0), scores.min(0), scores.max(0), sd)


def noise(groups: Iterable[ArrayLike]) -> float:
    """Standard deviation between seeds, pooled over places and groups of curves.

    Args:
        groups: (seeds, places) each, such as an arm's scores; NaN where nothing is known.

    Returns:
        The root of the squared deviations from the means over seeds, divided by their degrees of
        freedom; 0 where no place has two seeds.

    Examples:
        >>> noise([[[1.0, 5.0], [3.0, 7.0]], [[9.0, 9.0]]])
        1.4142135623730951
    """
    squares, freedom = 0.0, 0
    for values in map(np.asarray, groups):
        known = ~np.isnan(values)
        counts = known.sum(0)
        means = np.where(known, values, 0.0).sum(0) / np.maximum(counts, 1)
        squares += float((np.where(known, values - means, 0.0) ** 2).sum())
        freedom += int(np.maximum(counts - 1, 0).sum())
    return math.sqrt(squares / freedom) if freedom else 0.0


def _curve(costs: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    costs, scores = np.asarray(costs, np.float64), np.asarray(scores, np.float64)
    trapezoid_weights(costs)
    if scores.shape != costs.shape:
        raise ValueError(f"scores: expected {len(costs)}, one a cost, got shape {scores.shape}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores: expected finite numbers, got {scores.tolist()}")
    return costs, scores


def _cut(costs: Floats, scores: Floats, first: float, last: float) -> tuple[Floats, Floats]:
    inside = costs[(costs > first) & (costs < last)]
    kept = np.concatenate([[first], inside, [last]])
    return kept, np.interp(kept, costs, scores)
