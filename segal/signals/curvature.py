"""The Hessian of a set's mean loss by the parameters of a tail, from a sample of its pixels.

What is meant by the Hessian is its Gauss-Newton part, J^T S J: for the last layer that is all of
it. It knows no labels, only which pixels the set has.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from segal.data.image_sets import SetName
from segal.functional.inverse import (
    gauss_newton_product,
    softmax_hessian,
    softmax_hessian_product,
)
from segal.models.wrapped import Tail
from segal.signals.base import Parameters, Workbench
from segal.signals.pixel_sample import SampleSize, keep_pixels
from segal.signals.pixels import PixelMap, Pixels, PixelWindows, constants

LARGEST_MATRIX = 8192
"""Parameters up to which the matrix itself is made: 512 MiB, and as much again to factor it."""


class Curvature(ABC):
    """The Hessian H of a set's mean loss, as a matrix on flat float64 vectors.

    Attributes:
        pixels: How many of the set's pixels H is the mean over.
    """

    pixels: int

    @abstractmethod
    def flatten(self, parameters: Parameters) -> Tensor:
        """The (P,) float64 vector of tensors of the shapes of the tail's parameters."""

    @abstractmethod
    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """The float64 tensors of a vector."""

    @abstractmethod
    def product(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        """Hv.

        Args:
            vector: (P,) float64.
            rows: (n,) int64 positions in the sample, repeats allowed, that the mean is taken over;
                None: the whole sample.

        Returns:
            (P,) float64.
        """

    def matrix(self) -> Tensor | None:
        """H itself, (P, P) float64; None where no closed form is known."""
        return None


def curvature(bench: Workbench, of: SetName, layers: str, pixels: int | None) -> Curvature:
    """The Hessian of the mean loss over a set, from a pass over it; made once for a pass.

    Args:
        bench: The workbench.
        of: The set.
        layers: Name of the tail.
        pixels: How many are drawn, uniformly over the set; None for all of them. The draw depends
            on the seed and the images alone, not on batches or workers.

    Raises:
        SegalError: If the set has no pixel, or memory is too small.
    """

    def compute() -> Curvature:
        if bench.images(of).dataset is None and of != "pool":
            bench.note(
                f"The labels of what is labelled are not given, so that {bench.unit} that are void "
                "there count in the Hessian as all others do: give training.root to leave them out."
            )
        tail = bench.model.tail(layers)
        parts = keep_pixels(bench, of, layers, SampleSize(pixels))
        windows = [part for part in parts if isinstance(part, PixelWindows)]
        if len(windows) == len(parts) and _is_linear_in_pixels(tail):
            return _HeadCurvature(tail, windows)
        return _TailCurvature(tail, parts)

    return bench.once(("curvature", of, layers, pixels), compute)


def _is_linear_in_pixels(tail: Tail) -> bool:
    """Whether the tail is a 1 x 1 convolution alone, so that z = W up(f) + b at every pixel."""
    affine = tail.affine
    if affine is None or affine.pointwise is not None:
        return False
    head = affine.head
    return head.kernel_size == (1, 1) and head.stride == (1, 1) and head.groups == 1


class _HeadCurvature(Curvature):
    """Of a 1 x 1 convolution, in closed form and float64; vectors are (C, D + 1) matrices."""

    def __init__(self, tail: Tail, parts: Sequence[PixelWindows]) -> None:
        self._shape = tail.parameters["weight"].shape
        self._bias = "bias" in tail.parameters
        features = torch.cat(
            [torch.einsum("ndst,nst->nd", p.inputs.double(), p.weights.double()) for p in parts]
        )
        ones = torch.ones_like(features[:, :1])
        self._features = torch.cat([features, ones], 1) if self._bias else features
        self._probabilities = torch.cat([p.before.double().softmax(1) for p in parts])
        self.pixels = len(features)

    def flatten(self, parameters: Parameters) -> Tensor:
        weight = parameters["weight"].double().flatten(1)
        if self._bias:
            weight = torch.cat([weight, parameters["bias"].double()[:, None]], 1)
        return weight.flatten()

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        matrix = vector.view(self._shape[0], -1)
        if not self._bias:
            return {"weight": matrix.view(self._shape)}
        return {"weight": matrix[:, :-1].reshape(self._shape), "bias": matrix[:, -1].clone()}

    def product(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        p, f = self._probabilities, self._features
        if rows is not None:
            p, f = p[rows], f[rows]
        return softmax_hessian_product(vector.view(self._shape[0], -1), p, f).flatten()

    def matrix(self) -> Tensor | None:
        return softmax_hessian(self._probabilities, self._features)


class _TailCurvature(Curvature):
    """Of any layers, by derivatives in the dtype of their parameters."""

    def __init__(self, tail: Tail, parts: Sequence[Pixels]) -> None:
        self._tail, self._parts = tail, parts
        self._parameters = constants(tail)
        self.pixels = sum(len(part.before) for part in parts)

    def flatten(self, parameters: Parameters) -> Tensor:
        return torch.cat([parameters[name].double().flatten() for name in self._parameters])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        tensors, start = {}, 0
        for name, parameter in self._parameters.items():
            tensors[name] = vector[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        return tensors

    def product(self, vector: Tensor, rows: Tensor | None = None) -> Tensor:
        along = {k: v.to(self._parameters[k]) for k, v in self.unflatten(vector).items()}
        total, start = torch.zeros_like(vector), 0
        for part in self._parts:
            stop = start + len(part.before)
            shown = part if rows is None else _some(part, rows, start, stop)
            start = stop
            if len(shown.before):
                total += self._sum(shown, along)
        return total / (self.pixels if rows is None else len(rows))

    def _sum(self, part: Pixels, along: Parameters) -> Tensor:
        def logits(parameters: Parameters) -> Tensor:
            return part.logits(self._tail, parameters)

        with torch.no_grad():  # parameters of the tail that are not its own may have a graph
            return self.flatten(gauss_newton_product(logits, self._parameters, along))


def _some(part: Pixels, rows: Tensor, start: int, stop: int) -> Pixels:
    """Those pixels of a part that are chosen; it is at `start` to `stop` of the sample."""
    here = rows[(rows >= start) & (rows < stop)] - start
    if isinstance(part, PixelMap):
        return replace(part, index=part.index[here], labels=None, before=part.before[here])
    assert isinstance(part, PixelWindows)
    return replace(
        part,
        inputs=part.inputs[here],
        weights=part.weights[here],
        labels=None,
        before=part.before[here],
    )
