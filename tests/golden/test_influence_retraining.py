"""tools/influence_retraining.py: fits, influence and effects against what they are meant to be."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.functional.inverse import softmax_hessian
from segal.functional.softmax_regression import fit_softmax

ROOT = Path(__file__).resolve().parents[2]
CLASSES, WIDTH, L2 = 4, 6, 1e-3


@pytest.fixture(scope="module")
def tool():
    where = importlib.util.spec_from_file_location(
        "influence_retraining", ROOT / "tools" / "influence_retraining.py"
    )
    module = importlib.util.module_from_spec(where)
    sys.modules[where.name] = module
    where.loader.exec_module(module)
    yield module
    del sys.modules[where.name]


def pixels(count, seed):
    """Features that go together, and classes that they say something of."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, count)
    x = rng.normal(size=(count, WIDTH)) + rng.normal(size=(CLASSES, WIDTH))[y]
    x = x @ (np.eye(WIDTH) + 0.5)
    return torch.from_numpy(x / x.std()), torch.from_numpy(y)


@pytest.fixture(params=range(3))
def case(tool, request):
    """A labelled sample and its optimum, and regions that are added with two kinds of labels."""
    seed = request.param
    x, y = pixels(300, seed)
    base = tool.Problem.plain(tool.with_one(x), y, L2)
    found = fit_softmax(x, y, CLASSES, l2=L2, gradient_norm=1e-3)
    start = torch.cat([found.weight, found.bias[:, None]], 1)
    factor = torch.linalg.cholesky(base.hessian(start, torch.float32))
    theta = tool.fit_all(base, start, factor, 1e-11).theta[0]
    own_x, true = pixels(24, 100 + seed)
    own_x = tool.with_one(own_x).view(3, 8, -1)
    predicted = (own_x @ theta.T).argmax(2)
    weight = torch.rand(6, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    problem = replace(
        base,
        own_x=own_x,
        region=torch.arange(3).repeat(2),
        own_y=torch.cat([predicted, true.view(3, 8)]),
        own_w=weight,
    )
    return base, problem, theta, factor


def test_losses_and_gradients_are_those_of_autograd(tool, case):
    _, problem, theta, _ = case
    theta = theta.expand(6, -1, -1).clone() + 0.1
    loss, gradient = problem.value(theta)
    theta.requires_grad_()
    for j, region in enumerate(problem.region.tolist()):
        own = F.cross_entropy(
            problem.own_x[region] @ theta[j].T, problem.own_y[j], reduction="none"
        )
        shared = F.cross_entropy(problem.x @ theta[j].T, problem.y, reduction="sum")
        mass = len(problem.x) + problem.own_w[j].sum()
        whole = (shared + own @ problem.own_w[j]) / mass + L2 / 2 * theta[j, :, :-1].square().sum()
        (expected,) = torch.autograd.grad(whole, theta)
        assert float(loss[j]) == pytest.approx(float(whole.detach()), rel=1e-12)
        assert torch.allclose(gradient[j], expected[j], atol=1e-12)


def test_the_hessian(tool, case):
    base, _, theta, _ = case
    expected = softmax_hessian((base.x @ theta.T).softmax(1), base.x)
    weights = torch.ones(CLASSES, WIDTH + 1, dtype=torch.float64)
    weights[:, -1] = 0
    bias = (1 - weights).flatten()
    expected = expected + L2 * torch.diag(weights.flatten()) + bias[:, None] * bias
    assert torch.allclose(base.hessian(theta, torch.float64), expected, atol=1e-12)
    vector = torch.randn_like(theta)
    product = base.hessian_product(theta, vector)
    assert torch.allclose(product.flatten(), expected @ vector.flatten(), atol=1e-12)


def test_added_pixels_are_fitted_to_the_optimum_of_a_training_on_all(tool, case):
    _, problem, theta, factor = case
    fits = tool.fit_all(problem, theta, factor, 1e-10)
    assert float(fits.norms.max()) <= 1e-10
    for j, region in enumerate(problem.region.tolist()):
        found = fit_softmax(
            torch.cat([problem.x, problem.own_x[region]])[:, :-1],
            torch.cat([problem.y, problem.own_y[j]]),
            CLASSES,
            l2=L2,
            weights=torch.cat([torch.ones(len(problem.x)).double(), problem.own_w[j]]),
            gradient_norm=1e-8,
        )
        expected = torch.cat([found.weight, found.bias[:, None]], 1)
        assert torch.allclose(fits.theta[j], expected, atol=1e-5)


def test_influence_is_the_effect_of_little_weight(tool, case):
    base, problem, theta, factor = case
    little = replace(problem, own_w=1e-3 * problem.own_w)
    x, y = pixels(200, 50)
    gradient = tool.set_gradient(x, y, theta)
    direction = tool.inverse_times(base, theta, factor, gradient)
    predicted = tool.predicted_effects(little, theta, direction)
    fits = tool.fit_all(little, theta, factor, 1e-12)
    effect = tool.changes_of_loss(x, y, theta, fits.theta)
    # Within 1 %; of an effect that nearly cancels to nothing, of the largest.
    assert torch.allclose(predicted, effect, rtol=1e-2, atol=1e-3 * float(effect.abs().max()))
    assert float((predicted / effect - 1).abs().median()) < 1e-3


def test_a_change_of_loss_is_the_difference_of_losses(tool, case):
    _, _, theta, _ = case
    x, y = pixels(200, 51)
    others = theta + 1e-2 * torch.randn(5, *theta.shape, dtype=torch.float64)
    found = tool.changes_of_loss(x.float(), y, theta, others)
    logits = tool.with_one(x) @ others.transpose(1, 2)
    before = F.cross_entropy(tool.with_one(x) @ theta.T, y)
    expected = torch.stack([F.cross_entropy(one, y) - before for one in logits])
    assert torch.allclose(found, expected, rtol=1e-4)


def test_a_systematic_sample_takes_every_candidate_as_often(tool):
    counts = np.zeros(14, int)
    for start in (np.arange(140) + 0.5) / 140:
        taken = tool.evenly(np.arange(14), 4, start)
        assert len(set(taken)) == 4
        counts[taken] += 1
    assert (counts == 40).all()


def test_pixels_of_a_grid_do_not_depend_on_how_boxes_are_cut(tool):
    whole = set(zip(*(axis.tolist() for axis in tool.grid_pixels((0, 0, 30, 20), 4)), strict=True))
    parts = [
        tuple(axis.tolist() for axis in tool.grid_pixels(box, 4))
        for box in ((0, 0, 13, 20), (13, 0, 30, 9), (13, 9, 30, 20))
    ]
    found = [pair for y, x in parts for pair in zip(y, x, strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == whole
