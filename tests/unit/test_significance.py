"""Tests of a difference: what is refused, chunks, seeds, power, calibration under the null."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from segal.functional import significance
from segal.functional.curves import area
from segal.functional.metrics import mean_iou
from segal.functional.significance import (
    holm,
    label_permutation,
    paired_permutation,
    sign_flip,
)

Counts = NDArray[np.int64]


def simulated(
    rng: np.random.Generator, shape: tuple[int, int, int, int], worse: float = 0
) -> tuple[Counts, Counts]:
    """Two arms of one quality, or the second worse, on images of differing difficulty.

    An arm's skill at an image is common to its seeds and budgets, as it is of real networks.
    """
    seeds, budgets, images, classes = shape
    truth = rng.multinomial(200, np.full(classes, 1 / classes), images)
    hard = rng.uniform(0.1, 0.3, (images, classes))
    arms = []
    for extra in (0.0, worse):
        skill = rng.normal(0, 0.05, (images, classes))
        rate = np.clip(hard + skill + extra, 0, 1)
        wrong = rng.binomial(truth, rate, (seeds, budgets, images, classes))
        arm = np.zeros((seeds, budgets, images, classes, classes), np.int64)
        i = np.arange(classes)
        arm[..., i, i] = truth - wrong
        arm[..., i, (i + 1) % classes] = wrong
        arms.append(arm)
    return arms[0], arms[1]


def value(arm: Counts, costs: NDArray[np.float64]) -> float:
    """Mean over seeds of the area under the curve of mIoU, one matrix after the other."""
    areas = [area(costs, [mean_iou(budget.sum(0)) for budget in seed]) for seed in arm]
    return float(np.mean(areas))


def test_the_difference_is_that_of_the_areas() -> None:
    a, b = simulated(np.random.default_rng(0), (2, 3, 5, 4))
    costs = np.array([1.0, 1.5, 4.0])
    result = paired_permutation(a, b, costs=costs, generator=np.random.default_rng(0))
    assert result.difference == pytest.approx(value(a, costs) - value(b, costs), rel=1e-12)
    cycles = paired_permutation(a, b, generator=np.random.default_rng(0))
    expected = value(a, np.arange(3.0)) - value(b, np.arange(3.0))
    assert cycles.difference == pytest.approx(expected, rel=1e-12)


def test_random_swaps_are_counted_as_in_a_loop() -> None:
    """The same bits, matrices swapped and added one image after the other."""
    a, b = simulated(np.random.default_rng(1), (2, 2, 70, 3))
    costs = np.array([0.0, 2.0])
    observed = value(a, costs) - value(b, costs)
    words = np.random.default_rng(5).integers(0, 2**64, (60, 2), dtype=np.uint64)
    count = 0
    for first, second in words.tolist():
        bits = [(first >> i) & 1 for i in range(64)] + [(second >> i) & 1 for i in range(6)]
        swapped = np.array(bits, bool)[:, None, None]
        difference = value(np.where(swapped, b, a), costs) - value(np.where(swapped, a, b), costs)
        count += abs(difference) >= abs(observed) - 1e-12
    result = paired_permutation(
        a, b, costs=costs, permutations=60, generator=np.random.default_rng(5)
    )
    assert result.p == (1 + count) / 61
    assert 0 < count < 60
    assert result.permutations == 60
    assert result.smallest_p == 1 / 61


@pytest.mark.parametrize("chunk", [1, 700, 1 << 12])
def test_chunks_do_not_change_the_result(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    many = simulated(np.random.default_rng(2), (2, 2, 70, 3))
    few = tuple(arm[:, :, :6] for arm in many)
    expected = [
        paired_permutation(*arms, permutations=300, generator=np.random.default_rng(7))
        for arms in (many, few)
    ]
    monkeypatch.setattr(significance, "_CHUNK", chunk)
    for arms, outcome in zip((many, few), expected, strict=True):
        again = paired_permutation(*arms, permutations=300, generator=np.random.default_rng(7))
        assert again == outcome


def test_random_permutations_come_near_the_exact_p() -> None:
    a, b = simulated(np.random.default_rng(3), (2, 1, 12, 3), worse=0.01)
    exact = paired_permutation(a, b, permutations=2**12, generator=np.random.default_rng(0))
    drawn = paired_permutation(a, b, permutations=2**12 - 2, generator=np.random.default_rng(0))
    assert exact.permutations == 2**12 - 1 and drawn.permutations == 2**12 - 2
    error = (exact.p * (1 - exact.p) / 2**12) ** 0.5
    assert 0 < abs(drawn.p - exact.p) < 4 * error


def test_equal_arms_differ_by_nothing() -> None:
    a, _ = simulated(np.random.default_rng(4), (2, 2, 9, 3))
    result = paired_permutation(a, a, generator=np.random.default_rng(0))
    assert (result.difference, result.p, result.smallest_p) == (0, 1, 1)
    assert result.permutations == 0


def test_images_without_a_difference_are_set_aside() -> None:
    a, b = simulated(np.random.default_rng(5), (2, 2, 90, 3))
    b[:, :, 4:] = a[:, :, 4:]
    result = paired_permutation(a, b, generator=np.random.default_rng(0))
    assert result.permutations == 15
    assert result.smallest_p == 1 / 8


def test_absent_classes_are_left_out() -> None:
    a, b = simulated(np.random.default_rng(6), (1, 1, 8, 3))
    wider = [np.pad(arm, [(0, 0)] * 3 + [(0, 2), (0, 2)]) for arm in (a, b)]
    expected = paired_permutation(a, b, generator=np.random.default_rng(0))
    result = paired_permutation(*wider, generator=np.random.default_rng(0))
    assert result.p == expected.p
    assert result.difference == pytest.approx(expected.difference, rel=1e-12)


def test_a_real_difference_is_found() -> None:
    a, b = simulated(np.random.default_rng(8), (2, 2, 100, 5), worse=0.05)
    result = paired_permutation(a, b, permutations=999, generator=np.random.default_rng(0))
    assert result.difference > 0
    assert result.p == result.smallest_p == 0.001


def rejections(p: list[float], alpha: float = 0.05) -> float:
    """How likely so many rejections at alpha, or more, are if p is valid."""
    hits = sum(value <= alpha for value in p)
    return float(stats.binom.sf(hits - 1, len(p), alpha))


def test_paired_permutation_keeps_its_level() -> None:
    rng = np.random.default_rng(11)
    p = []
    for _ in range(600):
        a, b = simulated(rng, (2, 2, 30, 4))
        p.append(paired_permutation(a, b, permutations=199, generator=rng).p)
    assert rejections(p) > 0.01
    assert rejections(p, 0.2) > 0.01
    # Nor is it wasteful: p is uniform, but for steps of 1 / 200.
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.parametrize("seeds", [6, 11])
def test_sign_flip_keeps_its_level(seeds: int) -> None:
    """Symmetric differences with heavy tails, for which a t-test is not made."""
    rng = np.random.default_rng(12)
    p = [sign_flip(rng.standard_t(2, seeds)).p for _ in range(3000)]
    level = 2 / 2**6 if seeds == 6 else 0.05
    assert rejections(p, level) > 0.01
    assert abs(np.mean(np.array(p) <= level) - level) < 0.02


def test_images_do_not_speak_for_other_seeds() -> None:
    """Arms whose seeds vary, with one mean: the images see the networks differ, the seeds do not.

    The reason for giving both tests.
    """
    rng = np.random.default_rng(13)
    by_image, by_seed = [], []
    for _ in range(60):
        a, b = simulated(rng, (6, 1, 200, 3))
        for arm in (a, b):
            for seed in arm:
                # A network that is worse than the others moves pixels off every diagonal.
                share = rng.uniform(0, 0.1)
                for i in range(3):
                    moved = rng.binomial(seed[..., i, i], share)
                    seed[..., i, i] -= moved
                    seed[..., i, (i + 1) % 3] += moved
        by_image.append(paired_permutation(a, b, permutations=199, generator=rng).p)
        scores = [[mean_iou(seed[0].sum(0)) for seed in arm] for arm in (a, b)]
        by_seed.append(sign_flip(np.subtract(*scores)).p)
    assert rejections(by_seed) > 0.01
    assert rejections(by_image) < 1e-6


def test_sign_flip_by_count() -> None:
    """Sums of 1, 2 and 4 with signs are the odd numbers to 7; two of eight reach 5 but for 7."""
    assert sign_flip([1, 2, 4]).p == 0.25
    assert sign_flip([-1, 2, 4]).p == 0.5
    assert sign_flip([1, -2, 4]).p == 0.75
    assert sign_flip([-1, -2, 4]).p == 1.0
    assert sign_flip([-1, 2, 4]).difference == pytest.approx(5 / 3)


def test_the_number_of_seeds_bounds_p() -> None:
    for seeds, smallest in ((1, 1.0), (2, 0.5), (3, 0.25), (6, 0.03125), (40, 2.0**-39)):
        result = sign_flip(np.full(seeds, 0.01))
        assert result.p == result.smallest_p == smallest
    assert sign_flip([0.1, 0.2, 0.0]).smallest_p == 0.5
    assert sign_flip([0, 0]).p == 1


def guesses(
    rng: np.random.Generator, labels: Counts, trials: int, alike: float = 0
) -> NDArray[np.int64]:
    """An arm that is right at 80 % of ten classes; that share of predictions is every trial's."""

    def predict(trials: int) -> NDArray[np.int64]:
        shape = (trials, 1, labels.size)
        wrong = (labels + rng.integers(1, 10, shape)) % 10
        return np.where(rng.random(shape) < 0.8, labels, wrong)

    return np.where(rng.random((trials, 1, labels.size)) < alike, predict(1), predict(trials))


@pytest.mark.parametrize(("trials", "alike"), [(1, 0.0), (3, 1.0), (3, 0.9)])
def test_label_permutation_is_anti_conservative(trials: int, alike: float) -> None:
    """As its documentation says: arms of one accuracy are told apart far too often."""
    rng = np.random.default_rng(14)
    p = []
    for _ in range(300):
        labels = rng.integers(0, 10, 300)
        arms = [guesses(rng, labels, trials, alike) for _ in range(2)]
        p.append(label_permutation(*arms, labels, permutations=99, generator=rng).p)
    assert rejections(p) < 1e-3


def test_label_permutation_is_a_loop_over_accuracies() -> None:
    rng = np.random.default_rng(15)
    labels = rng.integers(0, 4, 50)
    a = np.where(rng.random((3, 2, 50)) < 0.4, labels, rng.integers(0, 5, (3, 2, 50)))
    b = rng.integers(0, 5, (3, 2, 50))
    costs = np.array([1.0, 3.0])

    def differences(truth: Counts) -> NDArray[np.float64]:
        rows = (a == truth).mean(2) - (b == truth).mean(2)
        return np.array([area(costs, row) for row in rows])

    observed = differences(labels)
    draws = np.random.default_rng(3)
    permuted = np.array([differences(draws.permutation(labels)) for _ in range(200)])
    expected = (np.abs(permuted) >= np.abs(observed) - 1e-12).mean(0).max()
    result = label_permutation(
        a, b, labels, costs=costs, permutations=200, generator=np.random.default_rng(3)
    )
    assert result.p == pytest.approx(expected, rel=1e-12)
    assert result.difference == pytest.approx(observed.mean(), rel=1e-9)
    assert result.smallest_p == 0 < result.p < 1


def test_labels_of_equal_predictions_do_not_matter() -> None:
    labels = np.arange(6) % 3
    arm = labels[None, None]
    result = label_permutation(
        arm, arm, labels, permutations=10, generator=np.random.default_rng(0)
    )
    assert (result.difference, result.p) == (0, 1)


def arms(**changes: Any) -> dict[str, Any]:
    a, b = simulated(np.random.default_rng(0), (2, 2, 5, 3))
    return {"a": a, "b": b, "generator": np.random.default_rng(0)} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": np.zeros((2, 2, 5, 3), int)}, "a: expected"),
        ({"b": np.zeros((2, 2, 5, 3, 2), int)}, "b: expected"),
        ({"b": np.zeros((0, 2, 5, 3, 3), int)}, "b: expected"),
        ({"b": np.zeros((1, 2, 5, 3, 3), int)}, "shapes differ"),
        ({"a": arms()["a"] / 2}, "expected integers"),
        ({"a": arms()["a"] - 1}, "no negative"),
        ({"b": arms()["b"][:, :, ::-1]}, "same test images"),
        ({"a": arms()["a"] * 0, "b": arms()["b"] * 0}, "nothing was counted"),
        ({"permutations": 0}, "at least 1"),
        ({"costs": [1.0]}, "one a budget"),
        ({"costs": [2.0, 1.0]}, "rise strictly"),
    ],
)
def test_mistakes_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_permutation(**arms(**changes))


def test_mistakes_of_the_other_tests_are_refused() -> None:
    for differences in ([], [[1.0]], np.ones(41)):
        with pytest.raises(ValueError, match="1 to 40"):
            sign_flip(differences)
    with pytest.raises(ValueError, match="finite"):
        sign_flip([1, np.nan])
    for pvalues in ([0.1, np.nan], [1.1], [-0.1], 0.5):
        with pytest.raises(ValueError, match="within 0 to 1"):
            holm(pvalues)
    rng = np.random.default_rng(0)
    right = np.zeros((1, 1, 4), int)
    with pytest.raises(ValueError, match="shapes differ"):
        label_permutation(right, right, np.zeros(5, int), generator=rng)
    with pytest.raises(ValueError, match="3 dimensions"):
        label_permutation(right[0], right[0], np.zeros(4, int), generator=rng)
    with pytest.raises(ValueError, match="no negative"):
        label_permutation(right, right, np.full(4, -1), generator=rng)
    with pytest.raises(ValueError, match="at least 1"):
        label_permutation(right, right, np.zeros(4, int), permutations=0, generator=rng)


def test_holm_of_nothing_is_nothing() -> None:
    assert holm([]).shape == (0,)
