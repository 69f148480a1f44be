"""Multinomial logistic regression, to the optimum."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize
from torch import Tensor

_MEMORY = 40
"""Pairs of steps that L-BFGS keeps."""

_LEG = 40
"""Steps after which the Hessian is looked at again at the latest."""

_BLOCK = 2048
"""Rows that are looked at together: what is made of them stays near the processor, and float32's
sums over them keep their digits."""

_ROUGH = 1e-4
"""The gradient's norm down to which float32 has digits enough."""

_FIRST = 0.03
"""The gradient's norm at which the Hessian is looked at again for the first time: at the start,
where all classes are as likely, it is not yet the optimum's."""


@dataclass(frozen=True)
class Regression:
    """A fitted linear classifier: logits `weight @ x + bias`.

    Attributes:
        weight: (C, D) float64.
        bias: (C,) float64; it sums to 0.
        loss: What was minimised, at the end.
        gradient_norm: L2 norm of its gradient by weight and bias, at the end.
        steps: Steps of L-BFGS.
    """

    weight: Tensor
    bias: Tensor
    loss: float
    gradient_norm: float
    steps: int


def fit_softmax(
    x: Tensor,
    y: Tensor,
    num_classes: int,
    *,
    l2: float,
    weights: Tensor | None = None,
    gradient_norm: float = 1e-5,
    steps: int = 5000,
    progress: Callable[[int, float], None] | None = None,
) -> Regression:
    """Minimises `sum_i w_i CE_i / sum_i w_i + l2 / 2 |weight|^2` by L-BFGS.

    The loss is strictly convex in the weight, so that its optimum is one; the bias, which is not
    penalised, is the one that sums to 0. Steps are taken in coordinates in which the Hessian was
    about the unit matrix some steps ago: features, or classes, that go together, and rare classes,
    would else take hundreds of steps more. The start is 0: the same numbers give the same
    classifier. Steps down to a gradient of 1e-4 are taken in float32, the others in float64, in
    which the end is looked at in any case.

    Args:
        x: (n, D) features, best of mean 0 and variance 1.
        y: (n,) int64 classes.
        num_classes: C.
        l2: Above 0.
        weights: (n,) not negative, of which some are above 0; None for equal ones.
        gradient_norm: The fit ends where the gradient's L2 norm is no more than this.
        steps: Of L-BFGS at most.
        progress: Called after each step with its number and the loss.

    Returns:
        The classifier; its `gradient_norm` is larger than asked for where the steps did not do.

    Example:
        >>> x = torch.tensor([[-1.0], [1.0]])
        >>> fit = fit_softmax(x, torch.tensor([0, 1]), 2, l2=0.1)
        >>> bool(fit.weight[1, 0] > 0 > fit.weight[0, 0])
        True
    """
    exact = _Problem.of(x, y, l2, weights)
    weight = exact.x.new_zeros(num_classes, x.shape[1])
    bias = exact.x.new_zeros(num_classes)
    done, rough = 0, max(0.9 * gradient_norm, _ROUGH)
    rounded = exact.rounded()
    stages = (rounded, max(_FIRST, rough)), (rounded, rough), (exact, gradient_norm)
    for problem, enough in stages:
        loss, *gradient = problem.value(weight, bias)
        norm = _norm(*gradient)
        while done < steps and norm > enough:
            leg = _Leg(problem, weight, bias, done, enough, progress)
            before = done
            weight, bias, loss, norm, done = leg.run(min(_LEG, steps - done))
            if done == before:  # no step is left that makes the loss smaller
                break
    return Regression(weight, bias - bias.mean(), float(loss), norm, done)


def _norm(by_weight: Tensor, by_bias: Tensor) -> float:
    return float(torch.cat([by_weight.flatten(), by_bias]).norm())


@dataclass(frozen=True)
class _Problem:
    """What is minimised.

    Attributes:
        x: (n, D) float64, or float32.
        y: (n,) int64.
        l2: Of the weight.
        share: (n,) of the same dtype, of the loss; they sum to 1.
    """

    x: Tensor
    y: Tensor
    l2: float
    share: Tensor

    @classmethod
    def of(cls, x: Tensor, y: Tensor, l2: float, weights: Tensor | None) -> "_Problem":
        """In float64."""
        x = x.double()
        share = (x.new_ones(len(x)) if weights is None else weights).to(x)
        return cls(x, y, l2, share / share.sum())

    def rounded(self) -> "_Problem":
        """In float32."""
        return replace(self, x=self.x.float(), share=self.share.float())

    def value(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The loss, and its gradients by weight and bias; they, and these, are float64."""
        columns, column = weight.T.to(self.x).contiguous(), bias.to(self.x)[:, None]
        loss = self.l2 / 2 * weight.square().sum()
        by_weight, by_bias = self.l2 * weight, torch.zeros_like(bias)
        blocks = (torch.split(one, _BLOCK) for one in (self.x, self.y, self.share))
        for x, y, share in zip(*blocks, strict=True):
            log_p = (x @ columns).T.add(column).log_softmax(0)  # (C, block)
            loss -= (share * log_p.gather(0, y[None])[0]).sum(dtype=loss.dtype)
            residual = log_p.exp_()
            residual.scatter_add_(0, y[None], -torch.ones_like(share)[None])
            residual *= share
            by_weight += residual @ x
            by_bias += residual.sum(1)
        return loss, by_weight, by_bias

    def coordinates(self, weight: Tensor, bias: Tensor) -> "_Coordinates":
        """Those of the Hessian, for which a product stands: of a sum over classes, and features."""
        logits = torch.addmm(bias.to(self.x)[:, None], weight.to(self.x), self.x.T)
        p = logits.softmax(0)
        shared = (self.share * p).double()
        between = torch.diag(shared.sum(1)) - shared @ p.double().T
        of_row = (self.share * p * (1 - p)).sum(0)
        scaled = (self.x * (of_row / of_row.sum()).sqrt()[:, None]).float()  # digits enough
        values, directions = torch.linalg.eigh((scaled.T @ scaled).double())
        of_class, mixtures = torch.linalg.eigh(between)
        of_class = of_class.clamp(min=0)[:, None]
        lengths = (of_class * values.clamp(min=0) + self.l2).rsqrt()
        return _Coordinates(mixtures, directions, lengths, (of_class + self.l2).rsqrt())


@dataclass(frozen=True)
class _Coordinates:
    """Those in which `S x A + l2` is the unit matrix, S of classes and A of features.

    Attributes:
        mixtures: (C, C) directions of S.
        directions: (D, D) directions of A.
        lengths: (C, D) along both.
        of_bias: (C, 1) along those of S.
    """

    mixtures: Tensor
    directions: Tensor
    lengths: Tensor
    of_bias: Tensor

    def step(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """Of weight and bias, (C, D) and (C,), from (C (D + 1),) in the coordinates."""
        moved = flat.view(len(self.lengths), -1)
        weight = self.mixtures @ (moved[:, :-1] * self.lengths) @ self.directions.T
        return weight, (self.mixtures @ (moved[:, -1:] * self.of_bias))[:, 0]

    def gradient(self, by_weight: Tensor, by_bias: Tensor) -> Tensor:
        """By the coordinates, (C (D + 1),)."""
        along = (self.mixtures.T @ by_weight @ self.directions) * self.lengths
        of_bias = (self.mixtures.T @ by_bias[:, None]) * self.of_bias
        return torch.cat([along, of_bias], 1).flatten()


class _Leg:
    """Some steps of L-BFGS in the coordinates of where they begin."""

    def __init__(
        self,
        problem: _Problem,
        weight: Tensor,
        bias: Tensor,
        done: int,
        gradient_norm: float,
        progress: Callable[[int, float], None] | None,
    ) -> None:
        self.problem, self.start = problem, (weight, bias)
        self.coordinates = problem.coordinates(weight, bias)
        self.done, self.enough, self.progress = done, gradient_norm, progress
        self.norm = float("inf")

    def run(self, steps: int) -> tuple[Tensor, Tensor, Tensor, float, int]:
        """Where it ends: weight, bias, the loss, the gradient's norm, and all steps so far."""
        weight, bias = self.start
        origin = np.zeros(weight.numel() + bias.numel())
        found = minimize(
            self._value,
            origin,
            jac=True,
            method="L-BFGS-B",
            callback=self._after,
            options={
                "maxiter": steps,
                "maxfun": 20 * steps,
                "maxcor": _MEMORY,
                "ftol": 0,
                "gtol": 0,
            },
        )
        weight, bias = self._at(found.x)
        loss, *gradient = self.problem.value(weight, bias)
        return weight, bias, loss, _norm(*gradient), self.done

    def _at(self, flat: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        weight, bias = self.start
        by_weight, by_bias = self.coordinates.step(torch.from_numpy(flat).to(weight.device))
        return weight + by_weight, bias + by_bias

    def _value(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        loss, *gradient = self.problem.value(*self._at(flat))
        self.norm = _norm(*gradient)
        return float(loss), self.coordinates.gradient(*gradient).cpu().numpy()

    def _after(self, intermediate_result: OptimizeResult) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, float(intermediate_result.fun))
        if self.norm <= self.enough:
            raise StopIteration
