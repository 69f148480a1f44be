"""Statistics of a batch, against numpy.linalg.slogdet, scipy's distances and plain loops."""

import math
import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import ortho_group

from segal.functional import batch
from segal.functional.batch import (
    batch_statistics,
    log_determinant,
    mean_pairwise_distance,
    overlap,
    redundancy,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# Distances


@pytest.mark.parametrize("count", [2, 3, 50, 130])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_mean_pairwise_distance_is_scipys(rng, monkeypatch, count, offset):
    monkeypatch.setattr(batch, "_BLOCK", 32)
    rows = rng.normal(size=(count, 7)) + offset
    assert mean_pairwise_distance(rows) == pytest.approx(pdist(rows).mean(), rel=1e-12)


def test_near_and_equal_rows_keep_their_digits(rng, monkeypatch):
    monkeypatch.setattr(batch, "_BLOCK", 32)
    rows = rng.normal(size=(40, 5))
    rows = np.concatenate([rows, rows + 1e-9, rows[:7]])
    near = rows[:1] + 1e-9 * rng.normal(size=(3, 5))
    assert mean_pairwise_distance(rows) == pytest.approx(pdist(rows).mean(), rel=1e-12)
    two = np.concatenate([near, near + 1.0])  # two tight clusters
    assert mean_pairwise_distance(two) == pytest.approx(pdist(two).mean(), rel=1e-12)
    assert mean_pairwise_distance(np.ones((40, 5))) == 0.0


def test_float32_and_float16_are_widened(rng):
    for dtype in (np.float32, np.float16):
        rows = rng.normal(size=(30, 4)).astype(dtype)
        expected = pdist(rows.astype(np.float64)).mean()
        assert mean_pairwise_distance(rows) == pytest.approx(expected, rel=1e-12)


def test_fewer_than_two_have_no_distance():
    assert mean_pairwise_distance(np.ones((1, 3))) == 0.0
    assert mean_pairwise_distance(np.ones((0, 3))) == 0.0


def test_memory_does_not_hold_all_distances(rng, monkeypatch):
    monkeypatch.setattr(batch, "_PAIRS", 4096)
    image, box = np.zeros(2000, np.int64), np.array([[i, 0, i + 1, 1] for i in range(2000)])
    tracemalloc.start()
    assert redundancy(image, box).touching == 1.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 2000  # all pairs would take at least a byte each


# Determinants


@pytest.mark.parametrize(("count", "width"), [(1, 4), (6, 20), (20, 20), (60, 20)])
def test_log_determinant_is_slogdet(rng, count, width):
    rows = rng.normal(size=(count, width)) * 3
    added = 1e-4 * np.square(rows).sum(1).mean()
    sign, expected = np.linalg.slogdet(rows @ rows.T + added * np.eye(count))
    assert sign == 1
    assert log_determinant(rows, 1e-4) == pytest.approx(expected, rel=1e-10)


def test_orthogonal_rows_by_hand():
    rows = 5 * ortho_group.rvs(4, random_state=0)
    assert log_determinant(rows, 1e-6) == pytest.approx(4 * math.log(25 * (1 + 1e-6)), rel=1e-12)


def test_a_duplicate_costs_log_of_the_ridge(rng):
    rows = np.eye(6)[[0, 1, 2, 3]]
    twice = np.eye(6)[[0, 1, 2, 2]]
    lost = log_determinant(rows, 1e-6) - log_determinant(twice, 1e-6)
    # Instead of two eigenvalues of 1 there are 2 and 0.
    assert lost == pytest.approx(-math.log(1e-6) - math.log(2), abs=1e-5)


def test_scale_adds_a_constant(rng):
    rows = rng.normal(size=(30, 8))
    assert log_determinant(rows * 100) == pytest.approx(
        log_determinant(rows) + 2 * 30 * math.log(100), rel=1e-10
    )


@pytest.mark.parametrize("rows", [np.ones((3000, 4)), np.ones((4, 3000)), np.eye(5)[[0] * 400]])
def test_the_least_ridge_is_enough_for_equal_rows(rows):
    squared = np.square(rows[0]).sum()
    count = len(rows)
    expected = math.log(count * squared) + (count - 1) * math.log(1e-10 * squared)
    assert log_determinant(rows, 1e-10) == pytest.approx(expected, rel=1e-6)


def test_edges_of_the_determinant():
    assert log_determinant(np.zeros((3, 4))) == -math.inf
    assert log_determinant(np.ones((0, 4))) == 0.0


# Redundancy and overlap


def touching_by_loop(images, boxes):
    """Boxes grown by half a pixel that overlap, pair by pair."""
    meets = set()
    for i, (a, p) in enumerate(zip(images, boxes, strict=True)):
        for j, (b, q) in enumerate(zip(images, boxes, strict=True)):
            wide = min(p[2], q[2]) + 0.5 > max(p[0], q[0]) - 0.5
            high = min(p[3], q[3]) + 0.5 > max(p[1], q[1]) - 0.5
            apart = max(p[0], q[0]) > min(p[2], q[2]) or max(p[1], q[1]) > min(p[3], q[3])
            if i != j and a == b and wide and high and not apart:
                meets.add(i)
    return len(meets) / len(images)


@pytest.mark.parametrize("pairs", [1, 7, 1 << 20])
def test_redundancy_is_the_loops(rng, monkeypatch, pairs):
    monkeypatch.setattr(batch, "_PAIRS", pairs)
    images = rng.integers(0, 5, 40)
    corners = rng.integers(0, 8, (40, 2)) * 16
    boxes = np.concatenate([corners, corners + 16], 1)
    found = redundancy(images, boxes)
    assert found.touching == touching_by_loop(images, boxes)
    assert 0 < found.touching < 1
    assert found.same_image == pytest.approx((40 - len(set(images.tolist()))) / 40)


def test_redundancy_by_hand():
    boxes = [[0, 0, 16, 16], [16, 16, 32, 32], [48, 0, 64, 16], [0, 0, 16, 16]]
    found = redundancy([3, 3, 3, 7], boxes)  # the second meets the first at a corner
    assert (found.same_image, found.touching) == (0.5, 0.5)
    assert redundancy([1], [[0, 0, 4, 4]]).touching == 0.0


def test_overlap():
    assert overlap([1, 2, 3, 4], [4, 3, 9]) == 0.5
    assert overlap([1, 2], [2, 1]) == 1.0
    assert overlap([1], [2]) == 0.0
    assert overlap([], []) == 1.0


# All together


def test_batch_statistics(rng):
    u, f, w = rng.random(12), rng.normal(size=(12, 5)), rng.random(12)
    found = batch_statistics(u, f.astype(np.float32), w, ridge=1e-3)
    f = f.astype(np.float32).astype(np.float64)
    assert found.count == 12
    assert found.uncertainty == pytest.approx(u.mean())
    assert found.magnitude == pytest.approx(np.mean([np.linalg.norm(r) for r in f * w[:, None]]))
    assert found.pairwise_distance == pytest.approx(pdist(f).mean())
    assert found.log_determinant == log_determinant(f, 1e-3)
    assert batch_statistics(u, f).magnitude == pytest.approx(np.linalg.norm(f, axis=1).mean())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: batch_statistics([1.0], np.ones((2, 3))), "uncertainty: expected 2"),
        (lambda: batch_statistics([], np.ones((0, 3))), "at least one pick"),
        (lambda: batch_statistics([np.nan], np.ones((1, 3))), "uncertainty: expected 1 finite"),
        (lambda: batch_statistics([1.0], np.ones((1, 3)), [1, 2]), "weights: expected 1"),
        (lambda: mean_pairwise_distance(np.ones(3)), "real matrix"),
        (lambda: mean_pairwise_distance([[np.inf, 1], [0, 0]]), "finite"),
        (lambda: log_determinant([["a"]]), "real matrix"),
        (lambda: log_determinant(np.ones((2, 2)), 0.0), "ridge: expected a number of at least"),
        (lambda: redundancy([], np.ones((0, 4))), "k of at least 1"),
        (lambda: redundancy([1, 2], [[0, 0, 1, 1]]), "shapes"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
