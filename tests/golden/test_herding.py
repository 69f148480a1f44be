"""Greedy coverage against the plain loop over all pairs, in float64."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from segal.functional import herding
from segal.functional.herding import herding_order


def kernels(x, y, kernel, radius):
    """(n, m) by the differences themselves."""
    distance = np.sqrt(((x[:, None].astype(float) - y[None].astype(float)) ** 2).sum(-1))
    return (
        np.exp(-((distance / radius) ** 2)) if kernel == "gaussian" else 1.0 * (distance <= radius)
    )


def plain_loop(x, k, kernel, radius, weights=None, centers=None):
    """Picks and gains: at each pick the gain of every row, anew."""
    weights = np.ones(len(x)) if weights is None else weights
    between = kernels(x, x, kernel, radius)
    covered = np.zeros(len(x))
    if centers is not None:
        covered = kernels(x, centers, kernel, radius).max(1)
    free, picks, gains = np.ones(len(x), bool), [], []
    for _ in range(k):
        gain = np.maximum(between - covered, 0) @ weights
        gain[~free] = -1
        row = int(np.flatnonzero(gain >= max(gain.max() * (1 - 1e-12), 0))[0])
        if gain.max() <= 1e-12 * weights.sum():  # nothing is left but rounding
            row = int(np.flatnonzero(free)[0])
        picks.append(row)
        gains.append(max(gain[row], 0) / len(x))
        free[row] = False
        covered = np.maximum(covered, between[:, row])
    return picks, gains, float(weights @ covered) / len(x)


CASES = [
    pytest.param(seed, width, radius, id=f"{seed}-{width}-{radius}")
    for seed, (width, radius) in enumerate([(16, 1.0), (16, 0.3), (3, 0.5), (2, 2.0), (8, 8.0)])
]


@pytest.mark.parametrize("kernel", ["gaussian", "ball"])
@pytest.mark.parametrize(("seed", "width", "radius"), CASES)
def test_picks_are_those_of_the_plain_loop(kernel, seed, width, radius):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((240, width)).astype(np.float32)
    if seed % 2:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    weights = rng.random(240) ** 3 if seed != 2 else None
    centers = rng.standard_normal((7, width)).astype(np.float32) if seed >= 2 else None
    picks, gains, coverage = plain_loop(x, 90, kernel, radius, weights, centers)
    order = herding_order(
        x, 90, kernel=kernel, radius=radius, centers=centers,
        weights=None if weights is None else torch.from_numpy(weights),
    )  # fmt: skip
    assert order.picks.tolist() == picks
    np.testing.assert_allclose(order.gain, gains, rtol=1e-9, atol=1e-13)
    assert order.coverage[-1].item() == pytest.approx(coverage, rel=1e-12)


@pytest.mark.parametrize("kernel", ["gaussian", "ball"])
def test_ties_go_to_the_lowest_row_and_copies_come_last(kernel):
    side = np.arange(6.0)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    x = np.concatenate([grid, grid[:10]])  # symmetric, and ten rows twice
    picks, gains, _ = plain_loop(x, len(x), kernel, 1.0)
    order = herding_order(x, len(x), kernel=kernel, radius=1.0)
    assert order.picks.tolist() == picks
    assert sorted(order.picks.tolist()) == list(range(len(x)))
    np.testing.assert_allclose(order.gain, gains, atol=1e-12)
    if kernel == "gaussian":
        assert order.picks[-10:].tolist() == list(range(36, 46))


def test_of_whole_numbers_nothing_is_taken_anew_for_a_tie(monkeypatch):
    looked = []
    evaluate = herding._Gains._evaluate
    monkeypatch.setattr(
        herding._Gains,
        "_evaluate",
        lambda self, taken: looked.append(len(taken.ids)) or evaluate(self, taken),
    )
    x = np.arange(200.0)[:, None]
    order = herding_order(x, 60, kernel="ball", radius=1.0)
    assert order.picks[:4].tolist() == [1, 4, 7, 10]
    assert sum(looked) == 200


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_rows_are_read_from_where_they_lie(tmp_path, monkeypatch, dtype):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((150, 5)) + 3).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    stored = np.load(tmp_path / "x.npy", mmap_mode="r")
    picks, _, _ = plain_loop(x, 40, "gaussian", 1.5)
    assert herding_order(stored, 40, radius=1.5).picks.tolist() == picks
    # Waves, and the room of the log, change the time taken alone.
    monkeypatch.setattr(herding, "_WAVE", 3)
    log = herding._Log
    monkeypatch.setattr(herding, "_Log", lambda room: log(room // 20))
    assert herding_order(stored, 40, radius=1.5).picks.tolist() == picks


def test_most_rows_are_left_alone(monkeypatch):
    """What is looked at stays far below the n^2 kernels of every pick of the loop."""
    pairs = []
    between = herding._Gains._between

    def counted(self, ones, others):
        pairs.append(len(ones.ids) * len(others.ids))
        return between(self, ones, others)

    monkeypatch.setattr(herding._Gains, "_between", counted)
    x = torch.nn.functional.normalize(torch.randn(1000, 8, generator=torch.manual_seed(0)), dim=1)
    herding_order(x, 100, radius=0.5)
    assert sum(pairs) < 10 * 1000**2
    assert max(pairs) <= 512 * 512


def test_coverage_falls_short_of_the_best_by_what_the_theorem_allows():
    """Greedy reaches at least 1 - 1/e of the best set (Nemhauser et al. 1978)."""
    x = np.random.default_rng(3).standard_normal((11, 2))
    between = kernels(x, x, "gaussian", 0.7)
    best = max(between[:, list(s)].max(1).mean() for s in combinations(range(11), 4))
    reached = herding_order(x, 4, radius=0.7).coverage[-1].item()
    assert (1 - 1 / math.e) * best <= reached <= best + 1e-12


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"k": 0}, "k out of range"),
        ({"k": 4}, "k out of range"),
        ({"radius": 0.0}, "radius out of range"),
        ({"radius": math.inf}, "radius out of range"),
        ({"weights": torch.ones(2)}, r"expected \(3,\), got \(2,\)"),
        ({"weights": torch.tensor([1.0, -1.0, 1.0])}, "at least 0"),
        ({"weights": torch.tensor([1.0, torch.nan, 1.0])}, "finite"),
        ({"centers": torch.ones(1, 3)}, "2 columns"),
        ({"x": torch.tensor([[1.0, torch.inf]] * 3)}, "finite"),
    ],
)
def test_what_is_refused(wrong, match):
    given = {"x": torch.rand(3, 2), "k": 2, **wrong}
    with pytest.raises(ValueError, match=match):
        herding_order(given.pop("x"), given.pop("k"), **given)


def test_without_any_weight_the_lowest_rows_follow():
    order = herding_order(torch.rand(6, 2), 3, weights=torch.zeros(6))
    assert order.picks.tolist() == [0, 1, 2] and order.coverage.tolist() == [0, 0, 0]
