"""Areas, crossings, savings and bands of learning curves."""

from typing import Any

import numpy as np
import pytest

from segal.functional.curves import (
    annotation_saving,
    area,
    area_ratio,
    band,
    cost_at,
    noise,
    trapezoid_weights,
)

COSTS = [1.0, 2.0, 4.0, 5.0]
SCORES = [0.2, 0.5, 0.4, 0.8]


def test_area_is_numpys() -> None:
    rng = np.random.default_rng(0)
    costs, scores = np.cumsum(rng.random(20) + 0.01), rng.random(20)
    assert area(costs, scores) == pytest.approx(np.trapezoid(scores, costs), rel=1e-12)
    assert area([3], [0.5]) == 0


def test_weights_sum_to_the_range() -> None:
    np.testing.assert_allclose(trapezoid_weights(COSTS), [0.5, 1.5, 1.5, 0.5])


@pytest.mark.parametrize(
    ("target", "cost"),
    [(0.1, 1.0), (0.2, 1.0), (0.35, 1.5), (0.5, 2.0), (0.6, 4.5), (0.8, 5.0), (0.81, None)],
)
def test_cost_at_is_the_first_crossing(target: float, cost: float | None) -> None:
    assert cost_at(COSTS, SCORES, target) == (None if cost is None else pytest.approx(cost))


def test_cost_at_inverts_interpolation() -> None:
    rng = np.random.default_rng(1)
    costs, scores = np.cumsum(rng.random(9) + 0.01), np.cumsum(rng.random(9) + 0.01)
    for target in rng.uniform(scores[0], scores[-1], 50):
        cost = cost_at(costs, scores, target)
        assert cost is not None
        assert np.interp(cost, costs, scores) == pytest.approx(target, rel=1e-12)


def test_area_ratio_of_a_curve_with_itself_is_one() -> None:
    assert area_ratio(COSTS, SCORES, COSTS, SCORES) == 1


def test_area_ratio_over_the_common_range() -> None:
    """Both are cut to 1 .. 3; score = cost over score = 2 - cost / 2."""
    ratio = area_ratio([0, 3], [0, 3], [1, 2, 5], [1.5, 1, -0.5])
    assert ratio == pytest.approx(4 / 2)


def test_area_ratio_does_not_depend_on_the_unit_of_cost() -> None:
    other, scores = [1.1, 2.2, 3.9, 4.9], [0.2, 0.3, 0.5, 0.5]
    expected = area_ratio(COSTS, SCORES, other, scores)
    in_pixels = area_ratio(np.array(COSTS) * 1e6, SCORES, np.array(other) * 1e6, scores)
    assert in_pixels == pytest.approx(expected, rel=1e-12)


def test_saving_is_negative_where_the_baseline_is_cheaper() -> None:
    assert annotation_saving([1, 3], [0.1, 0.5], [1, 2], [0.1, 0.5]) == pytest.approx(-0.5)


def test_no_saving_where_a_curve_never_gets_there() -> None:
    assert annotation_saving([1, 2], [0.1, 0.4], [1, 2], [0.1, 0.5]) is None
    assert annotation_saving([1, 2], [0.1, 0.9], [1, 2], [0.1, 0.5], target=0.6) is None


@pytest.mark.parametrize(
    ("scores", "baseline"),
    [
        ([0.4, 0.88], [0.4, 0.39]),  # the target, .39, lies below the start of both
        ([0.4, 0.88], [0.4, 0.4]),  # and so does one that is the start
        ([0.5, 0.6], [0.3, 0.45]),  # of one of them
    ],
)
def test_no_saving_where_a_curve_is_at_the_target_from_its_start(
    scores: list[float], baseline: list[float]
) -> None:
    assert annotation_saving([1, 2], scores, [1, 2], baseline) is None
    assert annotation_saving([1, 2], baseline, [1, 2], scores, target=baseline[-1]) is None
    assert cost_at([1, 2], scores, baseline[-1]) == 1


def test_no_saving_of_nothing() -> None:
    assert annotation_saving([0, 1], [0.5, 0.6], [0, 1], [0.5, 0.5]) is None


def test_band() -> None:
    result = band([[0.1, 0.4], [0.3, 0.8]])
    np.testing.assert_allclose(result.mean, [0.2, 0.6])
    np.testing.assert_allclose(result.low, [0.1, 0.4])
    np.testing.assert_allclose(result.high, [0.3, 0.8])
    np.testing.assert_allclose(result.sd, [0.02**0.5, 0.08**0.5])
    assert np.isnan(band([[0.1, 0.4]]).sd).all()


@pytest.mark.parametrize(
    ("costs", "scores", "message"),
    [
        ([1, 1], [0, 0], "rise strictly"),
        ([2, 1], [0, 0], "rise strictly"),
        ([], [], "vector of finite"),
        ([[1, 2]], [0, 0], "vector of finite"),
        ([1, np.inf], [0, 0], "vector of finite"),
        ([1, 2], [0], "one a cost"),
        ([1, 2], [0, np.nan], "finite numbers"),
    ],
)
def test_what_is_no_curve_is_refused(costs: Any, scores: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        area(costs, scores)
    with pytest.raises(ValueError, match=message):
        cost_at(costs, scores, 0.5)


def test_other_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="ranges that overlap"):
        area_ratio([1, 2], [1, 1], [2, 3], [1, 1])
    with pytest.raises(ValueError, match="positive area"):
        area_ratio([1, 2], [1, 1], [1, 2], [0, 0])
    with pytest.raises(ValueError, match="NaN"):
        cost_at(COSTS, SCORES, np.nan)
    with pytest.raises(ValueError, match="below 0"):
        annotation_saving([-1, 2], [0, 1], [1, 2], [0, 1])
    with pytest.raises(ValueError, match=r"\(seeds, budgets\)"):
        band([0.1, 0.2])


def test_noise_is_pooled_over_places_and_arms() -> None:
    generator = np.random.default_rng(0)
    arms = [generator.normal(10 * i, 3.0, (4, 50)) for i in range(6)]
    arms[0][1, 7] = np.nan
    places = [column[~np.isnan(column)] for arm in arms for column in arm.T]
    squares = sum(((column - column.mean()) ** 2).sum() for column in places)
    expected = np.sqrt(squares / sum(len(column) - 1 for column in places))
    assert noise(arms) == pytest.approx(expected, rel=1e-12)
    assert noise(arms) == pytest.approx(3.0, rel=0.1)
    assert noise([]) == noise([np.ones((1, 9))]) == noise([np.full((3, 2), np.nan)]) == 0.0
