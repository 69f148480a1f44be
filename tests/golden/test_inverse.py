"""Curvature against torch.func.hessian, and inverses against dense linear algebra, in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.functional.inverse import (
    cholesky,
    conjugate_gradients,
    gauss_newton_product,
    hessian_product,
    lissa,
    softmax_hessian,
    softmax_hessian_product,
    softmax_hessian_trace,
)

CLASSES, WIDTH, COUNT = 4, 5, 60  # the width counts the 1 that stands for the bias


@pytest.fixture(scope="module")
def head():
    """Features with their 1, labels, a weight with its bias, and the true Hessian."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(COUNT, WIDTH, generator=generator, dtype=torch.float64)
    features[:, -1] = 1.0
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    weight = torch.randn(CLASSES, WIDTH, generator=generator, dtype=torch.float64)

    def loss(flat):
        return F.cross_entropy(features @ flat.view(CLASSES, WIDTH).T, labels)

    hessian = torch.func.hessian(loss)(weight.flatten())
    gradient = torch.func.grad(loss)(weight.flatten())
    return features, (features @ weight.T).softmax(1), hessian, gradient


def spectrum(seed, eigenvalues):
    """A symmetric matrix with those eigenvalues."""
    n = len(eigenvalues)
    noise = np.random.default_rng(seed).standard_normal((n, n))
    basis = torch.from_numpy(np.linalg.qr(noise)[0])
    return basis @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def test_products_and_matrix_are_the_hessian_of_the_head(head):
    features, p, hessian, _ = head
    direction = torch.randn(CLASSES, WIDTH, dtype=torch.float64)
    product = softmax_hessian_product(direction, p, features)
    torch.testing.assert_close(product.flatten(), hessian @ direction.flatten(), rtol=1e-12, atol=0)
    torch.testing.assert_close(softmax_hessian(p, features), hessian, rtol=1e-12, atol=1e-16)


def test_null_space_has_a_dimension_for_every_feature_and_holds_no_gradient(head):
    features, p, hessian, gradient = head
    values, vectors = torch.linalg.eigh(softmax_hessian(p, features))
    null = values.abs() < 1e-12 * values.max()
    assert int(null.sum()) >= WIDTH
    shift = torch.outer(torch.ones(CLASSES, dtype=torch.float64), features[0])
    assert softmax_hessian_product(shift, p, features).abs().max() < 1e-15
    assert (vectors[:, null].T @ gradient).abs().max() < 1e-14
    assert gradient.view(CLASSES, WIDTH).sum(0).abs().max() < 1e-15
    assert hessian.shape == (CLASSES * WIDTH,) * 2


def test_trace_with_and_without_the_bias(head):
    features, p, hessian, _ = head
    assert float(softmax_hessian_trace(p, features)) == pytest.approx(float(hessian.trace()), 1e-12)
    weights = torch.arange(CLASSES * WIDTH).view(CLASSES, WIDTH)[:, :-1].flatten()
    without = hessian.diagonal()[weights].sum()
    assert float(softmax_hessian_trace(p, features[:, :-1])) == pytest.approx(float(without), 1e-12)


def two_layers():
    generator = torch.Generator().manual_seed(1)

    def make(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, labels = make(12, 3), torch.randint(CLASSES, (12,), generator=generator)
    parameters = {"first": make(4, 3), "second": make(CLASSES, 4), "bias": make(CLASSES)}
    direction = {name: make(*tensor.shape) for name, tensor in parameters.items()}

    def logits(theta):
        return torch.tanh(x @ theta["first"].T) @ theta["second"].T + theta["bias"]

    def loss(theta):
        return F.cross_entropy(logits(theta), labels, reduction="sum")

    return logits, loss, parameters, direction


def flatten(parameters):
    return torch.cat([parameters[name].flatten() for name in ("first", "second", "bias")])


def unflatten(flat, like):
    names = ("first", "second", "bias")
    parts = flat.split([like[name].numel() for name in names])
    return {n: part.view_as(like[n]) for n, part in zip(names, parts, strict=True)}


def test_gauss_newton_product_of_two_layers():
    logits, _, parameters, direction = two_layers()
    jacobian = torch.func.jacrev(lambda flat: logits(unflatten(flat, parameters)))(
        flatten(parameters)
    )
    p = logits(parameters).softmax(1)
    expected = torch.zeros(jacobian.shape[-1], dtype=torch.float64)
    for q in range(len(p)):
        s = torch.diag(p[q]) - torch.outer(p[q], p[q])
        expected += jacobian[q].T @ s @ jacobian[q] @ flatten(direction)
    product = gauss_newton_product(logits, parameters, direction)
    torch.testing.assert_close(flatten(product), expected, rtol=1e-11, atol=1e-13)


def test_hessian_product_of_two_layers():
    _, loss, parameters, direction = two_layers()
    hessian = torch.func.hessian(lambda flat: loss(unflatten(flat, parameters)))(
        flatten(parameters)
    )
    product = hessian_product(loss, parameters, direction)
    torch.testing.assert_close(
        flatten(product), hessian @ flatten(direction), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("damping", [1e-3, 1.0])
def test_cholesky_and_conjugate_gradients_equal_a_dense_solve(head, damping):
    features, p, hessian, gradient = head
    identity = torch.eye(len(hessian), dtype=torch.float64)
    expected = torch.linalg.solve(hessian + damping * identity, gradient)

    def product(v):
        direction = v.view(CLASSES, WIDTH)
        return softmax_hessian_product(direction, p, features).flatten()

    torch.testing.assert_close(
        cholesky(softmax_hessian(p, features), gradient, damping), expected, rtol=1e-10, atol=0
    )
    found = conjugate_gradients(product, gradient, damping, tolerance=1e-13)
    assert found.converged
    torch.testing.assert_close(found.x, expected, rtol=1e-9, atol=0)
    cut = conjugate_gradients(product, gradient, damping, tolerance=1e-13, max_iterations=2)
    assert not cut.converged
    assert cut.iterations == 2
    damped = hessian @ cut.x + damping * cut.x
    relative = float((gradient - damped).norm() / gradient.norm())
    assert cut.residual == pytest.approx(relative, rel=1e-9)


def test_a_singular_matrix_without_damping_is_refused_by_cholesky(head):
    features, p, _, gradient = head
    with pytest.raises(ValueError, match="singular at damping 0"):
        cholesky(softmax_hessian(p, features), gradient, 0.0)


def test_conjugate_gradients_without_damping_find_the_least_norm_in_the_range(head):
    _, _, hessian, gradient = head
    found = conjugate_gradients(lambda v: hessian @ v, gradient, 0.0, tolerance=1e-13)
    expected = torch.linalg.pinv(hessian, hermitian=True) @ gradient
    assert found.converged
    torch.testing.assert_close(found.x, expected, rtol=1e-8, atol=1e-12)


def test_conjugate_gradients_do_not_pass_over_what_they_cannot_solve():
    b = torch.ones(3, dtype=torch.float64)
    with pytest.raises(ValueError, match="not positive definite"):
        conjugate_gradients(lambda v: -v, b, 0.5)
    with pytest.raises(ValueError, match="not positive definite"):
        conjugate_gradients(lambda v: 0.0 * v, b, 0.0)
    singular = torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64))
    try:
        assert not conjugate_gradients(lambda v: singular @ v, b, 0.0).converged
    except ValueError as error:
        assert "not positive definite" in str(error)
    with pytest.raises(ValueError, match="NaN"):
        conjugate_gradients(lambda v: v * torch.nan, b, 1.0)
    nothing = conjugate_gradients(lambda v: v, torch.zeros(3), 1.0)
    assert nothing.converged
    assert not nothing.x.any()


@pytest.mark.parametrize("damping", [0.0, 0.05])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_lissa_with_the_whole_matrix_tends_to_its_fixed_point(damping, scale):
    hessian = spectrum(0, [0.3, 0.5, 0.9, 1.0, 1.6])
    b = torch.arange(1.0, 6.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    damped = hessian + damping * scale * torch.eye(5, dtype=torch.float64)
    expected = scale * torch.linalg.solve(damped, b)

    def run(**options):
        return lissa(
            lambda h, _: hessian @ h,
            b,
            generator,
            samples=600,
            damping=damping,
            scale=scale,
            **options,
        )

    torch.testing.assert_close(run(), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run(corrected=True), expected / scale, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(run(repeats=3), expected, rtol=1e-12, atol=1e-12)


def test_lissa_with_one_element_a_step_is_right_in_the_mean(head):
    features, p, hessian, gradient = head
    generator = torch.Generator().manual_seed(3)

    def product(h, draws):
        one = torch.randint(COUNT, (1,), generator=draws)
        direction = h.view(CLASSES, WIDTH)
        return softmax_hessian_product(direction, p[one], features[one]).flatten()

    options = {"samples": 100, "damping": 0.1, "scale": 50.0, "corrected": True}
    found = lissa(product, gradient, generator, repeats=400, **options)
    exact = cholesky(hessian, gradient, 5.0)
    assert float((found - exact).norm() / exact.norm()) < 0.01
    twice = [
        lissa(product, gradient, torch.Generator().manual_seed(4), repeats=2, **options)
        for _ in range(2)
    ]
    assert torch.equal(*twice)


@pytest.mark.parametrize("scale", [0.05, 0.7])
def test_lissa_says_when_it_diverges(scale):
    hessian = spectrum(1, [0.1, 0.5, 2.0])
    b = torch.ones(3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(ValueError, match=f"diverges at scale {scale:g}"):
        lissa(lambda h, _: hessian @ h, b, generator, samples=500, scale=scale)
