"""Uncertainties against their definitions on probabilities, in float64."""

from decimal import Decimal, localcontext

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


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("gap", [1.0, 10.0, 15.0, 18.0, 20.0, 40.0, 80.0])
def test_sure_elements_keep_their_digits(name, gap):
    """One class is ahead of the others by a gap, in single precision against 80 digits."""
    generator = torch.Generator().manual_seed(int(gap))
    z = 3 * torch.rand(1, 6, 50, generator=generator)
    z[:, 2] = z.amax(1) + gap
    with localcontext(prec=80):
        wanted = [_by_decimals(name, [Decimal(x) for x in one]) for one in z[0].T.tolist()]
    found = getattr(uncertainty, name)(z)[0].double()
    torch.testing.assert_close(
        found, torch.tensor([float(x) for x in wanted], dtype=torch.float64), rtol=1e-5, atol=0
    )


def _by_decimals(name, logits):
    exponentials = [x.exp() for x in logits]
    p = sorted((x / sum(exponentials) for x in exponentials), reverse=True)
    return {
        "entropy": lambda: -sum(x * x.ln() for x in p),
        "least_confidence": lambda: 1 - p[0],
        "margin": lambda: 1 - (p[0] - p[1]),
        "bvsb": lambda: p[1] / p[0],
    }[name]()
