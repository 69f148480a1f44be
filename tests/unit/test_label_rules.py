"""Label rules: which classes an element is given, and with which weights."""

import pytest
import torch

from segal.signals import Pseudo, TopK, Truncated


def weights(rule, *probabilities):
    """Of one element."""
    p = torch.tensor(probabilities, dtype=torch.float64)
    return rule.weights(p[None, :, None, None]).flatten().tolist()


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0, 0.3, 0, 0, 0]), (2, [0, 0.3, 0.3, 0, 0]), (4, [0.1, 0.3, 0.3, 0.3, 0])],
)
def test_of_equal_classes_the_lowest_is_likelier(count, expected):
    assert weights(TopK(count), 0.1, 0.3, 0.3, 0.3, 0.0) == expected
    assert weights(TopK(count), *[0.2] * 5) == [0.2] * count + [0.0] * (5 - count)
    assert weights(Pseudo(), 0.1, 0.3, 0.3, 0.3, 0.0) == [0, 1, 0, 0, 0]


def test_the_likeliest_are_those_of_torch_where_none_are_equal():
    p = torch.randn(2, 7, 5, 6).softmax(1)
    kept = p.topk(3, 1)
    expected = torch.zeros_like(p).scatter_(1, kept.indices, kept.values)
    assert torch.equal(TopK(3).weights(p), expected)


@pytest.mark.parametrize("divide", ["none", "count", "mass"])
def test_without_a_class_above_the_threshold(divide):
    p = (0.4, 0.4, 0.2)
    assert weights(Truncated(0.4, "paper", divide), *p) == [0, 0, 0]
    assert weights(Truncated(0.4, "single", divide), *p) == [1, 0, 0]
    share = {"none": 0.4, "count": 0.2, "mass": 0.5}[divide]
    assert weights(Truncated(0.3, "single", divide), *p) == pytest.approx([share, share, 0])
