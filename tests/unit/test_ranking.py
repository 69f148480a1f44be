"""Ranking by score: direction, stable ties, refused input."""

import pytest
import torch

from segal.functional.ranking import rank, top_k

SCORES = torch.tensor([0.5, 2.0, 0.5, -1.0, 2.0])


def test_both_directions_keep_the_order_of_equals() -> None:
    assert rank(SCORES, "higher").tolist() == [1, 4, 0, 2, 3]
    assert rank(SCORES, "lower").tolist() == [3, 0, 2, 1, 4]


def test_many_ties_stay_in_order() -> None:
    scores = torch.arange(10_000) % 3
    expected = sorted(range(10_000), key=lambda i: (-(i % 3), i))
    assert rank(scores, "higher").tolist() == expected


def test_infinities_and_signed_zeros_are_ranked() -> None:
    scores = torch.tensor([0.0, float("inf"), -0.0, float("-inf")])
    assert rank(scores, "higher").tolist() == [1, 0, 2, 3]


def test_top_k_is_the_head_of_the_ranking() -> None:
    assert top_k(SCORES, 3, "higher").tolist() == [1, 4, 0]
    assert top_k(SCORES, 0, "lower").tolist() == []


def test_nan_is_an_error_never_a_rank() -> None:
    with pytest.raises(ValueError, match="NaN, got 1, the first at position 1"):
        rank(torch.tensor([1.0, float("nan")]), "higher")


def test_wrong_input_is_named() -> None:
    with pytest.raises(ValueError, match="direction"):
        rank(SCORES, "highest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="vector"):
        rank(SCORES[None], "higher")
    with pytest.raises(ValueError, match="expected 0 to 5"):
        top_k(SCORES, 6, "higher")
