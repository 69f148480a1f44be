"""Statistics of comparisons: savings of the ISAL paper's tables, hand-worked cases, SciPy."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from segal.functional.curves import annotation_saving, area_ratio, cost_at
from segal.functional.metrics import mean_iou
from segal.functional.penalty import (
    column_means,
    combine,
    penalties_by_mean,
    penalties_by_t_test,
)
from segal.functional.significance import holm, paired_permutation, sign_flip


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


# ISAL, tables 4 to 6: accuracy in % after each step, rounded to four digits.
CIFAR10 = {
    "isal": numbers("45.518 54.866 67.724 76.696 81.238 83.612 85.958 88.056 89.264 89.958"),
    "coreset": numbers("45.518 58.296 67.656 75.998 79.934 81.536 85.364 87.2 88.614 89.052"),
    "random": numbers("45.518 58.402 67.442 72.304 77.862 81.936 83.058 84.752 86.46 87.29"),
}
CIFAR100 = {
    "isal": numbers("36.978 42.696 45.822 50.788 53.408 56.458 58.268 59.872 61.746 63.378"),
    "coreset": numbers("36.978 43.066 46.788 50.534 53.18 56.024 58.108 59.326 61.244 62.704"),
    "random": numbers("36.978 41.706 46.6 49.174 52.118 53.436 56.118 58.478 60.214 61.23"),
}
SVHN = {
    "isal": numbers(
        "37.8258 47.6383 54.2371 57.311 61.492 65.1321 66.8132 69.4484 71.3115 72.8634"
    ),
    "coreset": numbers(
        "37.8258 48.0109 53.7323 57.4332 60.2167 62.845 65.0115 66.7671 68.2798 70.8244"
    ),
    "random": numbers(
        "37.8258 48.0109 52.5676 57.2465 60.0776 62.9717 65.1667 65.5247 69.234 70.4018"
    ),
}
# ISAL, table 7: both curves rise and then fall.
CIFAR10_LARGE = {
    "isal": numbers("77.49 89.334 92.192 93.554 94.28 94.16 93.892 93.802 93.69 93.546"),
    "coreset": numbers("77.49 88.258 92.002 93.464 94.206 94.154 94.17 94.026 93.662 93.248"),
}
# ISAL, tables 8 and 10: boxes, and mAP or AP.
VOC = {
    "isal": (
        numbers("1338 2777.67 3606.67 4446 5616 7190.33 8703.67 10160 11503 12967.67"),
        numbers("0.023667 0.127667 0.246333 0.323667 0.42 0.471667 0.515 0.552333 0.576667 0.596"),
    ),
    "coreset": (
        numbers("1338 2624.67 4149.33 5736.67 7292.67 8812 10286.33 11635 12888.33 14194.33"),
        numbers("0.023667 0.13 0.257333 0.384667 0.459 0.510333 0.552 0.576667 0.596667 0.604"),
    ),
}
COCO_LARGE = {
    "isal": (
        numbers("86838 118762 169688 232923 286589 351747 449780 579039 719234 860001"),
        numbers("0.212 0.25 0.275 0.291 0.305 0.322 0.331 0.347 0.354 0.363"),
    ),
    "coreset": (
        numbers("86838 201072 307552 413095 510927 601362 680853 748513 806205 860001"),
        numbers("0.212 0.273 0.305 0.321 0.334 0.344 0.351 0.355 0.36 0.364"),
    ),
}


@pytest.mark.parametrize(("baseline", "percent"), [("coreset", 11.75), ("random", 23.65)])
def test_isal_table_4_at_the_baselines_final_accuracy(baseline: str, percent: float) -> None:
    images = np.arange(1, 11) * 1000
    saving = annotation_saving(images, CIFAR10["isal"], images, CIFAR10[baseline])
    assert saving is not None
    assert 100 * saving == pytest.approx(percent, abs=0.006)


@pytest.mark.parametrize(
    ("curves", "images", "baseline", "saved"),
    [
        (CIFAR100, np.arange(5, 15) * 1000, "coreset", 400),
        (CIFAR100, np.arange(5, 15) * 1000, "random", 1300),
        (SVHN, np.arange(1, 11) * 0.02 * 73257, "coreset", 1800),
        (SVHN, np.arange(1, 11) * 0.02 * 73257, "random", 2100),
    ],
)
def test_isal_tables_5_and_6_agree_with_the_text(
    curves: dict[str, list[float]], images: NDArray[np.float64], baseline: str, saved: float
) -> None:
    """Section 4.1 says "roughly" so many images, now rounded, now cut: 413, 1275, 1848, 2180."""
    saving = annotation_saving(images, curves["isal"], images, curves[baseline])
    assert saving is not None
    assert saving * images[-1] == pytest.approx(saved, abs=100)


def test_isal_table_8_at_42_percent() -> None:
    ours, baseline = VOC["isal"], VOC["coreset"]
    saving = annotation_saving(*ours, *baseline, target=0.42)
    cost, baseline_cost = cost_at(*ours, 0.42), cost_at(*baseline, 0.42)
    assert saving is not None and cost is not None and baseline_cost is not None
    assert cost == pytest.approx(5616)
    assert baseline_cost - cost == pytest.approx(860, abs=0.5)
    assert 100 * saving == pytest.approx(13.3, abs=0.05)


def test_isal_table_10_at_34_percent() -> None:
    saving = annotation_saving(*COCO_LARGE["isal"], *COCO_LARGE["coreset"], target=0.34)
    assert saving is not None
    assert 100 * saving == pytest.approx(7.56, abs=0.01)


def test_isal_table_7_a_baseline_that_fell_is_charged_up_to_its_first_crossing() -> None:
    """Coreset has its final accuracy between steps 3 and 4; charged all 10, it would lose 62 %."""
    steps = np.arange(1, 11)
    target = CIFAR10_LARGE["coreset"][-1]
    ours = 3 + (target - 92.192) / (93.554 - 92.192)
    theirs = 3 + (target - 92.002) / (93.464 - 92.002)
    saving = annotation_saving(steps, CIFAR10_LARGE["isal"], steps, CIFAR10_LARGE["coreset"])
    assert saving == pytest.approx((theirs - ours) / theirs, rel=1e-9)
    assert saving == pytest.approx(0.01997, abs=1e-5)


def test_area_ratio_by_hand() -> None:
    """(0.2 + 0.5) / 2 + (0.5 + 0.6) / 2 = 0.9 over (0.2 + 0.4) / 2 + (0.4 + 0.5) / 2 = 0.75."""
    assert area_ratio([0, 1, 2], [0.2, 0.5, 0.6], [0, 1, 2], [0.2, 0.4, 0.5]) == pytest.approx(1.2)


# Three arms, two seeds, a shared first budget and four of their own.
SCORES = [
    [[0.3, 0.50, 0.60, 0.65, 0.70], [0.3, 0.52, 0.62, 0.65, 0.70]],
    [[0.3, 0.45, 0.61, 0.65, 0.69], [0.3, 0.47, 0.65, 0.65, 0.69]],
    [[0.3, 0.48, 0.58, 0.60, 0.71], [0.3, 0.48, 0.58, 0.60, 0.73]],
]


def test_penalties_by_mean_by_hand() -> None:
    """Means: 51 61 65 70, 46 63 65 69, 48 58 60 72; the tie at the third budget is nobody's."""
    matrix = penalties_by_mean(SCORES)
    np.testing.assert_allclose(matrix, [[0, 0.5, 0.75], [0.25, 0, 0.5], [0.25, 0.5, 0]])
    np.testing.assert_allclose(column_means(matrix), [0.5 / 3, 1 / 3, 1.25 / 3])
    np.testing.assert_allclose(penalties_by_mean(SCORES, shared=0), matrix * 4 / 5)
    np.testing.assert_allclose(combine([matrix, np.zeros((3, 3))]), matrix / 2)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
def test_penalties_by_t_test_are_scipys(alpha: float) -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(0.6, 0.02, (4, 5, 7)) + np.array([0, 0.005, 0.02, 0.04])[:, None, None]
    expected = np.zeros((4, 4))
    for i in range(4):
        for j in range(4):
            for k in range(1, 7):
                test = stats.ttest_rel(scores[i, :, k], scores[j, :, k])
                expected[i, j] += (test.pvalue < alpha and test.statistic > 0) / 6
    assert 0 < expected.sum() < 6
    np.testing.assert_allclose(penalties_by_t_test(scores, alpha=alpha), expected, atol=1e-12)


def test_holm_by_hand() -> None:
    """Sorted .01 .02 .03 .04 times 4 3 2 1 is .04 .06 .06 .04; the last may not fall below .06."""
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.6]), [1, 1])


@pytest.mark.parametrize("seeds", [2, 3, 4, 9])
def test_sign_flip_is_scipys(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    differences = rng.normal(0.4, 1, seeds)
    expected = stats.permutation_test(
        (differences, np.zeros(seeds)),
        lambda x, y, axis: (x - y).mean(axis),
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=True,
    )
    result = sign_flip(differences)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert result.difference == pytest.approx(expected.statistic, rel=1e-12)
    assert result.smallest_p == 2.0 ** (1 - seeds)


def test_paired_permutation_is_scipys() -> None:
    """All 2^8 swaps of whole images, three seeds together, dataset-level mIoU."""
    rng = np.random.default_rng(0)
    seeds, images, classes = 3, 8, 4
    truth = rng.integers(0, classes, (images, 60))
    arms = np.zeros((2, seeds, 1, images, classes, classes), np.int64)
    for arm, error in enumerate((0.25, 0.32)):
        for s in range(seeds):
            wrong = rng.random(truth.shape) < error
            guess = np.where(wrong, rng.integers(0, classes, truth.shape), truth)
            for n in range(images):
                np.add.at(arms[arm, s, 0, n], (truth[n], guess[n]), 1)
    both = np.concatenate([arms[0, :, 0], arms[1, :, 0]], axis=1)

    def statistic(x: NDArray[np.int64], y: NDArray[np.int64]) -> float:
        value = [[mean_iou(seed[rows].sum(0)) for seed in both] for rows in (x, y)]
        return float(np.mean(value[0]) - np.mean(value[1]))

    expected = stats.permutation_test(
        (np.arange(images), np.arange(images) + images),
        statistic,
        permutation_type="samples",
        n_resamples=np.inf,
        vectorized=False,
    )
    result = paired_permutation(arms[0], arms[1], generator=np.random.default_rng(1))
    assert result.permutations == 2**images - 1
    assert result.smallest_p == 2 / 2**images
    assert result.difference == pytest.approx(expected.statistic, rel=1e-12)
    assert result.p == pytest.approx(expected.pvalue, rel=1e-12)
    assert result.smallest_p < result.p < 1
