"""Curvature of the softmax cross-entropy, and what its damped inverse makes of a vector.

The Gauss-Newton matrix of cross-entropy is J^T S J, J the Jacobian of the logits by the parameters
and S = diag(p) - p p^T; it is the Fisher matrix too, and for a linear head the Hessian itself. The
softmax does not see a shift of all logits, so that for C classes and D features (with the bias) at
least D of its eigenvalues are zero: an inverse needs damping.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from segal.functional.forward_mode import jvp

Product = Callable[[Tensor], Tensor]
"""A symmetric matrix as a function: (n,) to (n,)."""

StochasticProduct = Callable[[Tensor, torch.Generator], Tensor]
"""An estimate of a matrix times a vector, right in the mean over what the generator draws."""

Parameters = Mapping[str, Tensor]


class Solution(NamedTuple):
    """What conjugate gradients came to.

    Attributes:
        x: (n,), of the dtype of the right-hand side.
        iterations: Steps taken.
        residual: |b - Ax| / |b|.
        converged: Whether that is within the tolerance.
    """

    x: Tensor
    iterations: int
    residual: float
    converged: bool


def softmax_hessian_product(direction: Tensor, probabilities: Tensor, features: Tensor) -> Tensor:
    """HV = (1/N) sum_q S_q (V f_q) f_q^T, H the Hessian of a linear head's mean cross-entropy.

    Args:
        direction: (C, D) V, in the shape of the head's weight; the bias is a further column.
        probabilities: (N, C) softmax of each element.
        features: (N, D) input of the head for each element; with a bias, 1 is appended.

    Returns:
        (C, D), of the dtype of the arguments.
    """
    change = features @ direction.T
    return _softmax_covariance(probabilities, change).T @ features / len(features)


def softmax_hessian(probabilities: Tensor, features: Tensor) -> Tensor:
    """The matrix of `softmax_hessian_product`, for small heads.

    Args:
        probabilities: (N, C).
        features: (N, D).

    Returns:
        (C * D, C * D) float64, symmetric; row c * D + d is of class c and feature d.
    """
    p, f = probabilities.double(), features.double()
    classes, width = p.shape[1], f.shape[1]
    matrix = torch.empty(classes, width, classes, width, dtype=torch.float64, device=f.device)
    for c in range(classes):
        for k in range(c, classes):
            weight = p[:, c] * (float(c == k) - p[:, k]) / len(f)
            block = (f * weight[:, None]).T @ f
            matrix[c, :, k], matrix[k, :, c] = block, block  # a block is symmetric itself
    return matrix.view(classes * width, classes * width)


def softmax_hessian_trace(probabilities: Tensor, features: Tensor) -> Tensor:
    """Trace of `softmax_hessian`: the mean of (1 - |p|^2) |f|^2.

    Args:
        probabilities: (N, C).
        features: (N, D); with a bias, 1 is appended.

    Returns:
        () float64.
    """
    p, f = probabilities.double(), features.double()
    return ((1.0 - p.square().sum(1)) * f.square().sum(1)).mean()


def gauss_newton_product(
    logits: Callable[[Parameters], Tensor], parameters: Parameters, direction: Parameters
) -> dict[str, Tensor]:
    """Gauss-Newton matrix of the summed cross-entropy, times a direction (jvp, S, vjp).

    Args:
        logits: From parameters to (N, C) logits.
        parameters: Where to take it.
        direction: Tensors of the same names and shapes.

    Returns:
        Tensors of the same names and shapes: the sum over the N elements of J^T S J v.
    """
    values, change = jvp(logits, dict(parameters), dict(direction))
    pull = torch.func.vjp(logits, dict(parameters))[1]
    (product,) = pull(_softmax_covariance(values.softmax(1), change))
    return dict(product)


def hessian_product(
    loss: Callable[[Parameters], Tensor], parameters: Parameters, direction: Parameters
) -> dict[str, Tensor]:
    """Hessian of any twice differentiable loss, times a direction (forward over reverse).

    Args:
        loss: From parameters to a scalar.
        parameters: Where to take it.
        direction: Tensors of the same names and shapes.

    Returns:
        Tensors of the same names and shapes.
    """
    gradient = torch.func.grad(loss)
    return dict(jvp(gradient, dict(parameters), dict(direction))[1])


def cholesky(matrix: Tensor, b: Tensor, damping: float) -> Tensor:
    """(H + damping I)^-1 b by a Cholesky decomposition in float64.

    Args:
        matrix: (n, n) H, symmetric and positive semi-definite.
        b: (n,).
        damping: At least 0.

    Returns:
        (n,) float64.

    Raises:
        ValueError: If H + damping I is singular to working precision.
    """
    damped = matrix.double() + damping * torch.eye(len(matrix), dtype=torch.float64).to(
        matrix.device
    )
    factor, failed = torch.linalg.cholesky_ex(damped)
    pivots = factor.diagonal().square()
    # Rounding alone can make a pivot of a singular matrix positive.
    floor = len(matrix) * torch.finfo(torch.float64).eps * damped.diagonal().amax()
    if int(failed) or bool(pivots.amin() <= floor):
        raise ValueError(f"H + damping I is singular at damping {damping:g}")
    return torch.cholesky_solve(b.double()[:, None], factor)[:, 0]


def conjugate_gradients(
    product: Product, b: Tensor, damping: float, tolerance: float = 1e-6, max_iterations: int = 200
) -> Solution:
    """(H + damping I)^-1 b by conjugate gradients.

    Without damping, a singular H is no obstacle where b lies in its range: the solution of least
    norm is found.

    Args:
        product: Hx from x; H symmetric and positive semi-definite.
        b: (n,), floating.
        damping: At least 0.
        tolerance: Of the residual |b - Ax|, relative to |b|.
        max_iterations: Steps after which it ends unconverged.

    Raises:
        ValueError: If H + damping I is singular in a direction that b has a part in, if H is not
            positive semi-definite, or if a product is NaN or infinite.
    """
    x, residual, direction = torch.zeros_like(b), b.clone(), b.clone()
    squared, goal = float(b @ b), (tolerance * float(b.norm())) ** 2
    eps, steepest, step = torch.finfo(b.dtype).eps, 0.0, 0
    while squared > goal and step < max_iterations:
        image = product(direction) + damping * direction
        curvature = float(direction @ image) / float(direction @ direction)
        if not math.isfinite(curvature):
            raise ValueError("H x is NaN or infinite")
        steepest = max(steepest, abs(curvature))
        if curvature <= eps * steepest:
            raise ValueError(
                f"H + damping I is not positive definite at damping {damping:g}: "
                f"curvature {curvature:g} beside one of {steepest:g}"
            )
        length = squared / (curvature * float(direction @ direction))
        x += length * direction
        residual -= length * image
        before, squared = squared, float(residual @ residual)
        direction = residual + (squared / before) * direction
        step += 1
    relative = math.sqrt(squared) / max(float(b.norm()), torch.finfo(b.dtype).tiny)
    return Solution(x, step, relative, squared <= goal)


def lissa(
    product: StochasticProduct,
    b: Tensor,
    generator: torch.Generator,
    *,
    samples: int,
    repeats: int = 1,
    damping: float = 0.0,
    scale: float = 1.0,
    corrected: bool = False,
) -> Tensor:
    """Stochastic estimate of an inverse times a vector (ISAL, Algorithm 3).

    The recursion is h <- b + (1 - damping) h - Hh / scale from h = b. With the whole of H in each
    step its fixed point is scale (H + damping scale I)^-1 b.

    Args:
        product: An estimate of Hh from h, with fresh draws of the generator each time.
        b: (n,), floating.
        generator: Decides the draws.
        samples: Steps of a chain.
        repeats: Chains; their ends are averaged.
        damping: d, in [0, 1]. The damping of H is d times the scale.
        scale: s, above 0; large enough that no eigenvalue of any drawn H / s reaches 2 - d.
        corrected: Divide the result by the scale, so that it estimates (H + d s I)^-1 b.

    Returns:
        (n,), of the dtype of b.

    Raises:
        ValueError: If a chain diverges.
    """
    total = torch.zeros_like(b)
    size = float(b.norm())
    for _ in range(repeats):
        h = b.clone()
        for step in range(1, samples + 1):
            h = b + (1.0 - damping) * h - product(h, generator) / scale
            # Steps that lengthen nothing keep |h| within (step + 1) |b|.
            if not float(h.norm()) <= (step + 1) * size * (1.0 + 1e-3):
                raise ValueError(f"LiSSA diverges at scale {scale:g}, step {step} of {samples}")
        total += h
    mean = total / repeats
    return mean / scale if corrected else mean


def _softmax_covariance(probabilities: Tensor, change: Tensor) -> Tensor:
    """S x for every row: p * x - p (p . x)."""
    weighted = probabilities * change
    return weighted - probabilities * weighted.sum(1, keepdim=True)
