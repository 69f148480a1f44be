"""Pairwise penalty matrices: which arm beats which, over budgets and settings.

A cell (i, j) is the share of budgets at which arm i beats arm j (Ash et al., 2020; Ji et al., 2023;
UWE, section 5). The budgets that all arms share, the seed set, are left out of the count: nothing
can be won there.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]
Pairs = dict[tuple[int, int], Floats]


def penalties_by_mean(scores: ArrayLike, *, shared: int = 1) -> Floats:
    """Penalty matrix in which the higher mean over seeds beats the lower, by however little.

    Means that differ by less than rounding (1e-12 of the largest score) are equal: none is beaten.

    Args:
        scores: (arms, seeds, budgets), higher is better.
        shared: How many budgets, the first, all arms share.

    Returns:
        (arms, arms) float64 in [0, 1], zero on the diagonal; (i, j) and (j, i) add to at most 1.

    Raises:
        ValueError: If the shape is another, no budget is left, or a score is not finite.
    """
    own = _own_budgets(scores, shared)
    means = own.mean(1)
    lead = means[:, None] - means[None]
    return _share_of_budgets(lead > 1e-12 * np.abs(own).max())


def penalties_by_t_test(scores: ArrayLike, *, alpha: float = 0.05, shared: int = 1) -> Floats:
    """Penalty matrix in which an arm beats another by a two-sided paired t-test over seeds.

    Seed s of one arm is paired with seed s of the other. Differences that are the same at every
    seed are taken as certain unless they are zero.

    Args:
        scores: (arms, seeds, budgets), higher is better; at least two seeds.
        alpha: Level of each test, between 0 and 1; it is not corrected for their number.
        shared: How many budgets, the first, all arms share.

    Returns:
        (arms, arms) float64 in [0, 1], zero on the diagonal; (i, j) and (j, i) add to at most 1.

    Raises:
        ValueError: If there is one seed only or `alpha` is out of range, or as in
            `penalties_by_mean`.
    """
    own = _own_budgets(scores, shared)
    seeds = own.shape[1]
    if seeds < 2:
        raise ValueError(f"scores: expected at least 2 seeds for a t-test, got {seeds}")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected between 0 and 1, got {alpha}")
    differences = own[:, None] - own[None]
    lead = differences.mean(2)
    error = differences.std(2, ddof=1) / np.sqrt(seeds)
    threshold = float(stats.t.ppf(1 - alpha / 2, seeds - 1))
    rounding = 1e-12 * np.abs(own).max()
    return _share_of_budgets(lead > np.maximum(threshold * error, rounding))


def pairs_of(arms: Sequence[Mapping[int, ArrayLike]], *, shared: int = 1) -> Pairs | None:
    """What every two arms can be compared by: the seeds and the budgets that both have.

    Args:
        arms: At least two; by seed, (budgets,) scores. Budgets may differ in number.
        shared: How many budgets, the first, all arms share.

    Returns:
        By places (i, j) of two arms, i below j, their scores, (2, seeds, budgets); None if some two
        arms share no seed, or no budget of their own.
    """
    pairs: Pairs = {}
    for (i, one), (j, other) in combinations(enumerate(arms), 2):
        seeds = sorted(one.keys() & other.keys())
        curves = [[np.asarray(arm[seed], np.float64) for seed in seeds] for arm in (one, other)]
        budgets = min((len(curve) for side in curves for curve in side), default=0)
        if budgets <= shared:
            return None
        pairs[i, j] = np.array([[curve[:budgets] for curve in side] for side in curves])
    return pairs or None


def penalties_of_pairs(pairs: Pairs, penalties: Callable[[Floats], Floats]) -> Floats:
    """Penalty matrix whose cells (i, j) and (j, i) come of the scores of these two arms alone.

    Args:
        pairs: As `pairs_of` gives them.
        penalties: Such as `penalties_by_mean`.

    Returns:
        (arms, arms) float64 in [0, 1], zero on the diagonal.
    """
    count = 1 + max(j for _, j in pairs)
    matrix = np.zeros((count, count))
    for (i, j), scores in pairs.items():
        cells = penalties(scores)
        matrix[i, j], matrix[j, i] = cells[0, 1], cells[1, 0]
    return matrix


def column_means(matrix: ArrayLike) -> Floats:
    """Mean of each column, Φ_j in UWE: how much arm j is beaten, lowest is best.

    The zero on the diagonal is counted, since UWE speaks of the column-wise average; values lie in
    [0, (arms - 1) / arms]. Leaving it out would multiply all of them by arms / (arms - 1) and
    change no order.

    Args:
        matrix: (arms, arms) penalties.

    Returns:
        (arms,) float64.

    Raises:
        ValueError: If the matrix is not square.
    """
    means: Floats = _square(matrix).mean(0)
    return means


def combine(matrices: Sequence[ArrayLike]) -> Floats:
    """Element-wise mean of the matrices of several settings, each of the same weight.

    Args:
        matrices: At least one, each (arms, arms), with the arms in the same order.

    Returns:
        (arms, arms) float64.

    Raises:
        ValueError: If there are none, one is not square or their sizes differ.
    """
    squares = [_square(matrix) for matrix in matrices]
    sizes = {len(square) for square in squares}
    if len(sizes) != 1:
        raise ValueError(f"matrices: expected one number of arms, got {sorted(sizes)}")
    mean: Floats = np.mean(squares, axis=0)
    return mean


def _own_budgets(scores: ArrayLike, shared: int) -> Floats:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 3 or not scores.size:
        raise ValueError(f"scores: expected (arms, seeds, budgets), got shape {scores.shape}")
    if not 0 <= shared < scores.shape[2]:
        raise ValueError(f"shared: expected 0 to {scores.shape[2] - 1} budgets, got {shared}")
    own: Floats = scores[:, :, shared:]
    if not np.isfinite(own).all():
        raise ValueError("scores: expected finite numbers")
    return own


def _share_of_budgets(beats: NDArray[np.bool_]) -> Floats:
    share: Floats = beats.mean(2)
    return share


def _square(matrix: ArrayLike) -> Floats:
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"matrix: expected (arms, arms), got shape {matrix.shape}")
    return matrix
