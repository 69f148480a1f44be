"""Pairwise penalty matrices: ties, certain differences, and what is refused."""

from typing import Any

import numpy as np
import pytest

from segal.functional.penalty import (
    column_means,
    combine,
    pairs_of,
    penalties_by_mean,
    penalties_by_t_test,
    penalties_of_pairs,
)


def test_cells_are_pairwise_shares() -> None:
    scores = np.random.default_rng(0).random((5, 3, 9))
    matrix = penalties_by_mean(scores)
    np.testing.assert_allclose(matrix + matrix.T, 1 - np.eye(5))
    certain = penalties_by_t_test(scores)
    assert (certain <= matrix).all()


def test_no_arm_beats_itself_or_its_equal() -> None:
    scores = np.random.default_rng(0).random((1, 3, 4)).repeat(2, axis=0)
    # Another order of the seeds changes the last digit of a mean, not the arm.
    scores[1] = scores[1, ::-1]
    assert not penalties_by_mean(scores).any()
    assert not penalties_by_t_test(scores[[0, 0]]).any()


def test_equal_leads_at_every_seed_are_certain() -> None:
    base = np.random.default_rng(0).random((1, 3, 4))
    matrix = penalties_by_t_test(np.concatenate([base + 0.01, base]), alpha=0.01)
    np.testing.assert_allclose(matrix, [[0, 1], [0, 0]])


def test_the_t_test_is_paired() -> None:
    """Seeds differ by far more than the arms do; unpaired, nothing would be seen."""
    seeds = np.array([0.1, 0.4, 0.7, 0.9])[:, None]
    lead = np.array([0.010, 0.011, 0.012, 0.010])[:, None]
    scores = np.stack([seeds + lead, seeds]).repeat(2, axis=2)
    np.testing.assert_allclose(penalties_by_t_test(scores), [[0, 1], [0, 0]])


def test_shared_budgets_do_not_matter() -> None:
    scores = np.random.default_rng(0).random((3, 4, 6))
    other = scores.copy()
    other[:, :, :2] = np.nan
    for penalties in (penalties_by_mean, penalties_by_t_test):
        np.testing.assert_array_equal(penalties(scores, shared=2), penalties(other, shared=2))


def test_the_best_arm_has_the_lowest_column_mean() -> None:
    scores = np.linspace(0.2, 0.6, 4)[[2, 0, 3, 1], None, None] + np.zeros((4, 2, 3))
    means = column_means(penalties_by_mean(scores))
    np.testing.assert_allclose(means, np.array([1, 3, 0, 2]) / 4)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (np.zeros((2, 3)), {}, "arms, seeds, budgets"),
        (np.zeros((0, 2, 3)), {}, "arms, seeds, budgets"),
        (np.zeros((2, 2, 3)), {"shared": 3}, "0 to 2 budgets"),
        (np.zeros((2, 2, 3)), {"shared": -1}, "0 to 2 budgets"),
        (np.full((2, 2, 3), np.nan), {}, "finite"),
    ],
)
def test_mistakes_are_refused(scores: Any, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        penalties_by_mean(scores, **options)
    with pytest.raises(ValueError, match=message):
        penalties_by_t_test(scores, shared=options.get("shared", 1))


def test_a_t_test_needs_two_seeds_and_a_level() -> None:
    with pytest.raises(ValueError, match="at least 2 seeds"):
        penalties_by_t_test(np.zeros((2, 1, 3)))
    for alpha in (0.0, 1.0, np.nan):
        with pytest.raises(ValueError, match="alpha"):
            penalties_by_t_test(np.zeros((2, 2, 3)), alpha=alpha)


def test_matrices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one number of arms"):
        combine([np.zeros((2, 2)), np.zeros((3, 3))])
    with pytest.raises(ValueError, match="one number of arms"):
        combine([])
    with pytest.raises(ValueError, match=r"\(arms, arms\)"):
        column_means(np.zeros((2, 3)))


def test_pairs_are_of_the_seeds_and_budgets_that_both_have():
    arms = [
        {0: [1, 2, 3], 1: [1, 2, 9]},
        {1: [1, 3, 4], 2: [1, 9, 9]},
        {0: [1, 5], 1: [1, 1]},
    ]
    pairs = pairs_of(arms)
    assert {places: values.tolist() for places, values in pairs.items()} == {
        (0, 1): [[[1, 2, 9]], [[1, 3, 4]]],
        (0, 2): [[[1, 2], [1, 2]], [[1, 5], [1, 1]]],
        (1, 2): [[[1, 3]], [[1, 1]]],
    }
    matrix = penalties_of_pairs(pairs, penalties_by_mean)
    assert matrix.tolist() == [[0, 0.5, 0], [0.5, 0, 1], [1, 0, 0]]


def test_pairs_are_those_of_the_whole_where_all_arms_have_all():
    scores = np.random.default_rng(0).normal(size=(4, 3, 5))
    arms = [dict(enumerate(arm)) for arm in scores]
    for penalties in (penalties_by_mean, penalties_by_t_test):
        found = penalties_of_pairs(pairs_of(arms), penalties)
        assert found.tolist() == penalties(scores).tolist()


@pytest.mark.parametrize(
    "arms", [[], [{0: [1, 2]}], [{0: [1, 2]}, {1: [1, 2]}], [{0: [1, 2]}, {0: [1]}]]
)
def test_arms_that_have_nothing_in_common(arms):
    assert pairs_of(arms) is None
