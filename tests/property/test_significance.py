"""What must hold of the tests of a difference on any data: ties, zeros, few units, extremes."""

from itertools import combinations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segal.functional.metrics import mean_iou
from segal.functional.significance import holm, paired_permutation, sign_flip

Counts = NDArray[np.int64]
PVALUES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.05, 1.0]), max_size=7)
DIFFERENCES = st.lists(
    st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9
)


@st.composite
def two_arms(draw: st.DrawFn) -> tuple[Counts, Counts]:
    """Predictions of a few pixels: ties, absent classes, images both arms predict alike."""
    seeds, images = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    classes, pixels = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**31)))
    truth = generator.integers(0, classes, (images, pixels))
    arms = np.zeros((2, seeds, 1, images, classes, classes), np.int64)
    for arm, seed, image in product(range(2), range(seeds), range(images)):
        guess = generator.integers(0, classes, pixels)
        np.add.at(arms[arm, seed, 0, image], (truth[image], guess), 1)
    return arms[0], arms[1]


def exact_p(a: Counts, b: Counts) -> float:
    """Every swap of images, one after the other."""

    def difference(x: Counts, y: Counts) -> float:
        first, second = ([mean_iou(seed[0].sum(0)) for seed in arm] for arm in (x, y))
        return float(np.mean(first) - np.mean(second))

    observed = abs(difference(a, b))
    count = 0
    for swap in product([False, True], repeat=a.shape[2]):
        mask = np.array(swap)[:, None, None]
        count += abs(difference(np.where(mask, b, a), np.where(mask, a, b))) >= observed - 1e-12
    return float(count / 2 ** a.shape[2])


@settings(max_examples=100, deadline=None)
@given(two_arms())
def test_paired_permutation_is_exact_on_few_images(arms: tuple[Counts, Counts]) -> None:
    a, b = arms
    result = paired_permutation(a, b, generator=np.random.default_rng(0))
    assert abs(result.p - exact_p(a, b)) < 1e-12
    assert result.smallest_p <= result.p <= 1
    turned = paired_permutation(b, a, generator=np.random.default_rng(0))
    assert turned.p == result.p
    assert turned.difference == -result.difference


@settings(max_examples=100, deadline=None)
@given(DIFFERENCES)
def test_sign_flip_is_exact(differences: list[float]) -> None:
    values = np.array(differences)
    signs = np.array(list(product([-1, 1], repeat=len(values))))
    sums = np.abs((signs * values).sum(1))
    expected = (sums >= abs(values.sum()) - 1e-12 * np.abs(values).sum()).mean()
    result = sign_flip(values)
    assert result.p == expected
    assert result.smallest_p <= result.p <= 1
    assert sign_flip(-values).p == result.p
    assert sign_flip(values[::-1]).p == result.p


@settings(max_examples=100, deadline=None)
@given(PVALUES)
def test_holm_is_closed_testing_by_bonferroni(pvalues: list[float]) -> None:
    """A test's adjusted p is the largest Bonferroni p of a subset that it belongs to."""
    expected = []
    for i in range(len(pvalues)):
        subsets = (s for n in range(1, 8) for s in combinations(range(len(pvalues)), n) if i in s)
        expected.append(max(min(1, len(s) * min(pvalues[j] for j in s)) for s in subsets))
    np.testing.assert_allclose(holm(pvalues), expected, rtol=1e-12)
