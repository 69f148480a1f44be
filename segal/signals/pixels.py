"""Pixels that the last layers can be run on again and again, and what running them takes.

What is kept is the tail's input at the cells that a pixel's logits depend on: a small window of
them for a pixel alone, or the whole map of an image.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from segal.candidates.evidence import Upsampling
from segal.functional.pooling import interpolation_matrix
from segal.functional.updates import receptive_radius
from segal.models.wrapped import Tail

WORKING_BYTES = 64 << 20
"""What a step of work may take beside what is kept: more is slower on a CPU, by its cache."""


class Pixels(Protocol):
    """Some pixels that the tail can be run on."""

    @property
    def inputs(self) -> Tensor:
        """(B, U, h, w), the tail's input that they depend on."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """(n,) int64 classes; None if unknown."""
        ...

    @property
    def before(self) -> Tensor:
        """(n, C) logits by the network as it is."""
        ...

    def logits(self, tail: Tail, parameters: Mapping[str, Tensor]) -> Tensor:
        """(n, C) logits of the pixels, with other parameters; for `torch.func.vmap`."""
        ...


@dataclass(frozen=True)
class PixelWindows:
    """Single pixels.

    Attributes:
        inputs: (n, U, s, t), the tail's input at the cells of each one's window; of a linear tail
            (n, U, 1, 1), its input spread over the image, which is as good and fewer.
        weights: (n, s, t) of the tail's outputs there in the pixel's logits.
        labels: As of `Pixels`.
        before: As of `Pixels`.
        local: Whether the tail looks at one cell at a time. All cells are then laid out as one
            map, which products of matrices are faster on.
    """

    inputs: Tensor
    weights: Tensor
    labels: Tensor | None
    before: Tensor
    local: bool = False

    def logits(self, tail: Tail, parameters: Mapping[str, Tensor]) -> Tensor:
        """(n, C)."""
        if tail.linear and self.inputs[0, 0].numel() == 1:
            inputs = _like(self.inputs.flatten(1), parameters)
            outputs = parameters["weight"].flatten(1) @ inputs.T
            return outputs.T + parameters["bias"] if "bias" in parameters else outputs.T
        inputs, weights = _like(self.inputs, parameters), _like(self.weights, parameters)
        if not self.local:
            return torch.einsum("ncst,nst->nc", tail.low(inputs, parameters), weights)
        cells = inputs.movedim(0, -1).flatten(1, 2)[None]
        outputs = tail.low(cells, parameters)[0]
        return torch.einsum("ckn,kn->nc", outputs, weights.movedim(0, -1).flatten(0, 1))


@dataclass(frozen=True)
class PixelMap:
    """Pixels of one image, with the whole of its map.

    Attributes:
        inputs: (1, U, h, w), the tail's input.
        size: (H, W) of the image.
        upsampling: How the tail's outputs are spread over it.
        index: (n,) int64 positions y * W + x.
        labels: As of `Pixels`.
        before: As of `Pixels`.
    """

    inputs: Tensor
    size: tuple[int, int]
    upsampling: Upsampling
    index: Tensor
    labels: Tensor | None
    before: Tensor

    def logits(self, tail: Tail, parameters: Mapping[str, Tensor]) -> Tensor:
        """(n, C)."""
        inputs = _like(self.inputs, parameters)
        logits = tail(inputs, parameters, self.size, self.upsampling)[0]
        return logits.flatten(1).index_select(1, self.index).T


def _like(inputs: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """What is kept in single precision, in the precision of the work."""
    return inputs.to(next(iter(parameters.values())).dtype)


def in_float64(tail: Tail) -> Tail:
    """A copy of a tail in double precision.

    A step changes the logits in their fourth digit, or below. In single precision the differences
    would have but a few digits left, and the sign of the smallest would be left to rounding.
    """
    module = copy.deepcopy(tail.module).double()
    parameters = {name: module.get_parameter(name).detach() for name in tail.parameters}
    return replace(tail, module=module, parameters=parameters)


def constants(tail: Tail) -> dict[str, Tensor]:
    """The tail's parameters as they are, without a graph."""
    return {name: value.detach() for name, value in tail.parameters.items()}


def tail_radius(tail: Tail, channels: int) -> int | None:
    """How far the tail looks, in cells; None where only whole images will do.

    See `receptive_radius`.
    """
    if tail.replays:
        return None
    parameters = constants(tail)
    like = next(iter(parameters.values()))
    try:
        with torch.no_grad():
            return receptive_radius(lambda cells: tail.low(cells, parameters), channels, like)
    except (RuntimeError, ValueError):  # layers that do not take so small a map
        return None


@lru_cache(maxsize=64)
def _interpolation(cells: int, pixels: int, align_corners: bool) -> Tensor:
    return interpolation_matrix(cells, pixels, align_corners)


def interpolations(
    cells: tuple[int, int], upsampling: Upsampling, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(pixels, cells) float64 matrices along y and x, for outputs at (h, w) cells."""
    height, width = cells
    corners = upsampling.align_corners
    rows = _interpolation(height, upsampling.size[0], corners)
    columns = _interpolation(width, upsampling.size[1], corners)
    return rows.to(device), columns.to(device)


def whole_run(tail: Tail, inputs: Tensor) -> tuple[tuple[int, int], int]:
    """Runs a tail on a whole map, to see what that takes.

    Args:
        tail: The tail.
        inputs: (U, h, w), its input.

    Returns:
        (h', w') of its output, and about the bytes that a gradient through it takes: what the
        layers make, twice.
    """
    made = [inputs.numel() * inputs.element_size()]

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            made.append(output.numel() * output.element_size())

    layers = [module for module in tail.module.modules() if not list(module.children())]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.no_grad():
            height, width = tail.low(inputs[None], constants(tail)).shape[-2:]
    finally:
        for hook in hooks:
            hook.remove()
    return (height, width), 2 * sum(made)


def work_bytes(parameters: Mapping[str, Tensor], channels: int, cells: int) -> int:
    """About what running a tail on some cells takes: its input, and four maps of each layer.

    Args:
        parameters: The tail's.
        channels: Of its input.
        cells: How many.
    """
    made = sum(value.shape[0] for value in parameters.values() if value.ndim > 1)
    return cells * (channels + 4 * made) * next(iter(parameters.values())).element_size()
