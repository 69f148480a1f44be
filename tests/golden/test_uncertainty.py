"""Uncertainties against their definitions on probabilities, in float64."""

import numpy as np
import pytest
import torch

from segal.functional import uncertainty

DEFINITIONS = {
    "entropy": lambda p: -(p * np.log(p)).sum(1),
    "least_confidence": lambda p: 1 - p.max(1),
    "margin": lambda p: 1 - (np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2]),
    "bvsb": lambda p: np.sort(p, 1)[:, -2] / np.sort(p, 1)[:, -1],
}


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("shape", [(3, 5), (2, 2, 7), (2, 11, 9, 300), (1, 19, 200, 400)])
def test_equals_its_definition(name, shape):
    logits = torch.randn(shape, dtype=torch.float64) * 3
    p = torch.softmax(logits, 1).numpy()
    expected = torch.from_numpy(DEFINITIONS[name](p))
    function = getattr(uncertainty, name)
    torch.testing.assert_close(function(logits), expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(function(logits.float()), expected.float(), rtol=1e-4, atol=1e-6)
    assert function(logits.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("name", DEFINITIONS)
def test_is_finite_and_extreme_where_a_probability_is_zero(name):
    function = getattr(uncertainty, name)
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf], [0.0, -1e30, -300.0]])
    assert torch.equal(function(certain), torch.zeros(2))
    torn = torch.tensor([[2.0, 2.0, -torch.inf]])
    highest = {"entropy": np.log(2), "least_confidence": 0.5, "margin": 1.0, "bvsb": 1.0}[name]
    assert float(function(torn)) == pytest.approx(highest)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_is_unchanged_by_a_constant_added_to_the_logits(name):
    function = getattr(uncertainty, name)
    logits = torch.randn(2, 6, 40, dtype=torch.float64)
    torch.testing.assert_close(function(logits), function(logits + 500.0), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nan_stays_nan_and_one_class_is_refused(name):
    function = getattr(uncertainty, name)
    assert function(torch.full((1, 3, 4), torch.nan)).isnan().all()
    with pytest.raises(ValueError, match="C >= 2"):
        function(torch.zeros(1, 1, 4))
