"""Is the difference between two arms more than chance?

`paired_permutation` asks it of the test images, `sign_flip` of the training seeds. They answer
different questions. The images speak for these trained networks: with many images a difference that
other seeds would turn round can be significant (two arms of one quality, six seeds whose mIoU has a
standard deviation of 0.01, 233 images: half of the simulations reject at 5 %). The seeds speak for
the methods, but few of them cannot make p small; hence `smallest_p` beside every p. Give both.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segal.functional.curves import trapezoid_weights
from segal.functional.metrics import mean_iou_of_overlaps, overlaps

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

Score = Callable[[Floats], Floats]
"""From statistics that were added over images, (..., K), to the metric, (...)."""

# Numbers held at once by an array of `paired_permutation`: 8 MB of float64.
_CHUNK = 1 << 20
# Statistics closer than this, relative to their range, are ties: they differ by rounding only.
_TIE = 1e-12
_MOST_SEEDS = 40


@dataclass(frozen=True)
class PermutationTest:
    """Outcome of a two-sided test.

    Attributes:
        difference: The observed statistic, positive where the first arm is better.
        p: Share of the assignments, the observed one among them, with a statistic at least as far
            from zero; in (0, 1] (`label_permutation` differs).
        smallest_p: What `p` could have been at the least, whatever the difference.
        permutations: Assignments that were compared with the observed one.
    """

    difference: float
    p: float
    smallest_p: float
    permutations: int


def paired_permutation(
    a: ArrayLike,
    b: ArrayLike,
    *,
    costs: ArrayLike | None = None,
    permutations: int = 10_000,
    generator: np.random.Generator,
) -> PermutationTest:
    """Permutation test of two arms whose unit is the test image.

    Under the null hypothesis it does not matter which arm a prediction came from. Each permutation
    swaps the arms' predictions of a random half of the images, those of all seeds and budgets of an
    image together. The statistic is the first arm's value minus the second's; a value is the mean
    over seeds of the mIoU or, with several budgets, of the area under the curve of mIoU. An mIoU is
    that of the matrices added over images, absent classes left out.

    p = (1 + count) / (1 + permutations) (Phipson and Smyth, 2010). Images on which the arms never
    differ cannot take part and are set aside. If the others have no more than `permutations`
    assignments, each of these is taken once and p is exact.

    Time is that of one matrix product, permutations x images x (2 classes, budgets, seeds); memory
    is the input's and some 60 MB.

    Args:
        a: (seeds, budgets, images, C, C) integer confusion matrices, rows are the truth.
        b: The same of the other arm: same seeds, budgets and images.
        costs: (budgets,) strictly rising, the cost axis of both arms; the cycle index by default.
            A single budget needs none.
        permutations: How many, at least 1.
        generator: Draws the images to swap.

    Returns:
        The difference is in mIoU, or in mIoU times cost with several budgets.

    Raises:
        ValueError: If shapes differ or are not as above, a count is negative, the truth behind an
            image is not the same throughout, nothing was counted, or the costs do not rise.
    """
    first, second = _confusions(a, "a"), _confusions(b, "b")
    if first.shape != second.shape:
        raise ValueError(f"shapes differ: {first.shape} and {second.shape}")
    _check_one_truth(first, second)
    return statistics_permutation(
        overlaps(first),
        overlaps(second),
        mean_iou_of_overlaps,
        costs=costs,
        permutations=permutations,
        generator=generator,
    )


def statistics_permutation(
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    score: Score,
    *,
    costs: ArrayLike | None = None,
    permutations: int = 10_000,
    generator: np.random.Generator,
) -> PermutationTest:
    """`paired_permutation` of any metric that is had from statistics that add over images.

    Swapping the predictions of an image swaps the statistics of it.

    Args:
        a: (seeds, budgets, images, K) int64, what each image adds; sums below 2^53.
        b: The same of the other arm: same seeds, budgets and images.
        score: Takes float64 sums over images, (..., K), to the metric, (...).
        costs: As in `paired_permutation`.
        permutations: How many, at least 1.
        generator: Draws the images to swap.

    Returns:
        The difference is in the metric, or in the metric times cost with several budgets.

    Raises:
        ValueError: If shapes differ or are not as above, nothing was counted, or the costs do not
            rise.
    """
    if a.ndim != 4 or a.shape != b.shape or not a.size:
        raise ValueError(f"expected two arrays of four dimensions, got {a.shape} and {b.shape}")
    weights = _budget_weights(costs, a.shape[1])
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")

    sums = _Sums(a, b, weights, score)
    units = sums.units
    exhaustive = units < 63 and 2**units - 1 <= permutations
    assigned = 2**units - 1 if exhaustive else permutations
    rows = max(1, _CHUNK // max(units, sums.width))
    swaps = (
        _all_swaps(units, rows) if exhaustive else _random_swaps(units, assigned, rows, generator)
    )
    observed = float(sums.difference(np.zeros((1, units)))[0])
    if not np.isfinite(observed):
        raise ValueError("nothing was counted: a metric is not a number")
    threshold = abs(observed) - _TIE * float(np.abs(weights).sum())
    count = sum(int((np.abs(sums.difference(chunk)) >= threshold).sum()) for chunk in swaps)
    # Swapping all images turns the sign only: an exact test always counts it besides the observed.
    smallest = min(1.0, (2 if exhaustive else 1) / (1 + assigned))
    return PermutationTest(observed, (1 + count) / (1 + assigned), smallest, assigned)


def sign_flip(differences: ArrayLike) -> PermutationTest:
    """Exact sign-flip test of paired differences over seeds.

    Under the null hypothesis each seed's difference is as likely to have the other sign. All 2^n
    assignments of signs are counted, by halves: each sum over the first half of the seeds looks up
    how many sums over the second half take it far enough. n is the number of seeds whose difference
    is not zero; p is at least 2^(1 - n): 1 with one seed, 0.5 with two, 0.25 with three.

    Args:
        differences: (seeds,) of the first arm minus the second at the same seed; 1 to 40.

    Returns:
        The difference is the mean over all seeds.

    Raises:
        ValueError: If the shape or the number of seeds is another, or a value is not finite.
    """
    values = np.asarray(differences, np.float64)
    if values.ndim != 1 or not 1 <= values.size <= _MOST_SEEDS:
        raise ValueError(
            f"differences: expected a vector of 1 to {_MOST_SEEDS}, got shape {values.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"differences: expected finite numbers, got {values.tolist()}")
    moving = values[values != 0]
    n = moving.size
    threshold = abs(moving.sum()) - _TIE * np.abs(moving).sum()
    if threshold <= 0:
        count = 2**n
    else:
        left, right = _signed_sums(moving[: n // 2]), np.sort(_signed_sums(moving[n // 2 :]))
        count = 2 * int((right.size - np.searchsorted(right, threshold - left)).sum())
    return PermutationTest(float(values.mean()), count / 2**n, min(1.0, 2.0 ** (1 - n)), 2**n - 1)


def holm(pvalues: ArrayLike) -> Floats:
    """Adjusts p-values for their number by Holm's step-down method (1979).

    An adjusted value at or below a level is significant at that level over the whole family, in
    whatever way the tests depend on one another.

    Args:
        pvalues: (tests,) in [0, 1].

    Returns:
        (tests,) float64, in the order given.

    Raises:
        ValueError: If the values are not a vector in [0, 1].
    """
    values = np.asarray(pvalues, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"pvalues: expected a vector within 0 to 1, got {values.tolist()}")
    order = np.argsort(values, kind="stable")
    steps = values[order] * np.arange(values.size, 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def label_permutation(
    a: ArrayLike,
    b: ArrayLike,
    labels: ArrayLike,
    *,
    costs: ArrayLike | None = None,
    permutations: int = 10_000,
    generator: np.random.Generator,
) -> PermutationTest:
    """RALIF's test (appendix A.7), for comparison with published values; do not rely on it.

    It permutes the true labels of the test set and recomputes the difference of accuracy or, with
    several budgets, of the area under the accuracy curve. The largest p over trials is reported.

    It is anti-conservative: permuted labels make both arms guess, and two guesses differ by less
    than two equally good classifiers do. With 10 classes one trial rejects equal arms in about a
    third of simulations at a level of 5 %. The largest p over trials makes up for that only as far
    as the trials of an arm err on different elements: of three trials about 5 % reject if their
    errors are independent, 17 % if nine predictions of ten are common to the trials, a third if
    all are. As published, p is the plain proportion of permutations and can be 0. RALIF divides
    areas by random selection's under the same labels, which is not done here.
    `paired_permutation` is the test to use.

    Memory is trials x elements on which the arms differ x classes, in float64.

    Args:
        a: (trials, budgets, elements) integer classes predicted by one arm.
        b: The same of the other arm.
        labels: (elements,) integer true classes of the test set.
        costs: (budgets,) strictly rising; the cycle index by default. A single budget needs none.
        permutations: How many, at least 1.
        generator: Permutes the labels.

    Returns:
        The difference is the mean over trials; `p` is the largest over trials and `smallest_p` 0.

    Raises:
        ValueError: If shapes differ or are not as above, a class is negative, or the costs do not
            rise.
    """
    first, second, truth = _classes(a, "a", 3), _classes(b, "b", 3), _classes(labels, "labels", 1)
    if first.shape != second.shape or first.shape[2] != truth.size:
        raise ValueError(f"shapes differ: {first.shape}, {second.shape} and labels {truth.shape}")
    if permutations < 1:
        raise ValueError(f"permutations: expected at least 1, got {permutations}")
    weights = _budget_weights(costs, first.shape[1])

    differing = np.flatnonzero((first != second).any((0, 1)))
    gains, codes = _gains(first[..., differing], second[..., differing], truth, weights)
    cells = np.arange(differing.size) * gains.shape[2]
    flat = gains.reshape(len(gains), -1)
    observed = flat[:, cells + codes[differing]].sum(1) / truth.size
    threshold = np.abs(observed) - _TIE * weights.sum()
    count = np.zeros(len(gains), np.int64)
    for _ in range(permutations):
        permuted = flat[:, cells + generator.permutation(codes)[differing]].sum(1) / truth.size
        count += np.abs(permuted) >= threshold
    largest = float(count.max()) / permutations
    return PermutationTest(float(observed.mean()), largest, 0.0, permutations)


class _Sums:
    """Both arms' statistics, a row an image, (seeds, budgets, K)."""

    def __init__(self, a: Counts, b: Counts, weights: Floats, score: Score) -> None:
        images_a, images_b = (np.moveaxis(x, 2, 0).reshape(x.shape[2], -1) for x in (a, b))
        change = images_b - images_a
        change = change[change.any(1)]
        self.units, self.width = change.shape
        self._change = change.astype(np.float64)
        self._first = images_a.sum(0).astype(np.float64)
        self._both = self._first + images_b.sum(0)
        self._shape = (a.shape[0], a.shape[1], a.shape[3])
        self._weights, self._score = weights, score

    def difference(self, swaps: Floats) -> Floats:
        """Statistic of each row of `swaps`, (permutations, units) of zeros and ones.

        Sums are of integers below 2^53: exact, in whatever order they are added.
        """
        first = self._first + swaps @ self._change
        return self._value(first) - self._value(self._both - first)

    def _value(self, sums: Floats) -> Floats:
        scores = self._score(sums.reshape(-1, *self._shape))
        value: Floats = (scores * self._weights).sum(2).mean(1)
        return value


def _random_swaps(
    units: int, permutations: int, rows: int, generator: np.random.Generator
) -> Iterator[Floats]:
    """Draws whole words of bits, so that the chunks do not change what is drawn."""
    words = -(-units // 64)
    for start in range(0, permutations, rows):
        size = (min(rows, permutations - start), words)
        drawn = generator.integers(0, 2**64, size, dtype=np.uint64)
        octets = drawn.astype("<u8").view(np.uint8)
        bits = np.unpackbits(octets, axis=1, count=units, bitorder="little")
        yield bits.astype(np.float64)


def _all_swaps(units: int, rows: int) -> Iterator[Floats]:
    """Every assignment but the observed one."""
    for start in range(1, 2**units, rows):
        numbers = np.arange(start, min(start + rows, 2**units))
        yield (numbers[:, None] >> np.arange(units) & 1).astype(np.float64)


def _gains(
    a: Counts, b: Counts, labels: Counts, weights: Floats
) -> tuple[Floats, NDArray[np.intp]]:
    """What an element adds to a trial's difference for each label it could have.

    Returns:
        (trials, elements of a and b, distinct labels), and for each label which of these it is.
    """
    classes, codes = np.unique(labels, return_inverse=True)
    gains = np.zeros((a.shape[0], a.shape[2], classes.size))
    for i, label in enumerate(classes):
        right = (a == label).astype(np.int8) - (b == label)
        gains[:, :, i] = np.einsum("tke,k->te", right, weights)
    return gains, codes


def _signed_sums(values: Floats) -> Floats:
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _budget_weights(costs: ArrayLike | None, budgets: int) -> Floats:
    axis = np.arange(budgets) if costs is None else np.asarray(costs)
    weights = trapezoid_weights(axis)
    if weights.size != budgets:
        raise ValueError(f"costs: expected {budgets}, one a budget, got {weights.size}")
    return weights if budgets > 1 else np.ones(1)


def _confusions(values: ArrayLike, name: str) -> Counts:
    counts = np.asarray(values)
    if counts.ndim != 5 or counts.shape[3] != counts.shape[4] or not counts.size:
        raise ValueError(
            f"{name}: expected (seeds, budgets, images, C, C), got shape {counts.shape}"
        )
    return _natural(counts, name)


def _classes(values: ArrayLike, name: str, dimensions: int) -> Counts:
    classes = np.asarray(values)
    if classes.ndim != dimensions or not classes.size:
        raise ValueError(f"{name}: expected {dimensions} dimensions, got shape {classes.shape}")
    return _natural(classes, name)


def _natural(values: NDArray[np.generic], name: str) -> Counts:
    if not np.issubdtype(values.dtype, np.integer):
        raise ValueError(f"{name}: expected integers, got {values.dtype}")
    if values.min() < 0:
        raise ValueError(f"{name}: expected no negative value, got {values.min()}")
    return values.astype(np.int64, copy=False)


def _check_one_truth(a: Counts, b: Counts) -> None:
    """An image has as many pixels of a class whatever predicts it."""
    truth = a[0, 0].sum(2)
    if not truth.any():
        raise ValueError("nothing was counted: every confusion matrix is zero")
    for counts in (a, b):
        differs = (counts.sum(4) != truth).any((0, 1, 3))
        if differs.any():
            raise ValueError(
                "expected predictions on the same test images, got other pixels of a class for "
                f"image {int(differs.argmax())} and {int(differs.sum()) - 1} more"
            )
