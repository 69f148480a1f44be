"""Directional derivatives of the loss: how every pixel's loss moves along one direction.

For a direction v in the space of some parameters, `d(q) = d/de loss_q(theta + e v)` at e = 0 is a
map over pixels q, and its mean over a region is the inner product of v with the gradient of the
region's mean loss. One forward-mode pass therefore scores every region of every size and shape.
The tangent of the logits is propagated by hand where the last layers are known, else by
`torch.func.jvp`.
"""

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from segal.functional.forward_mode import jvp

_CPU_CELLS = 1024
"""Cells at a time: 256 channels of them in float32 (1 MiB) stay in the cache."""


def last_tangent(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: tuple[int, ...] = (1, 1),
    padding: str | tuple[int, ...] = (0, 0),
    dilation: tuple[int, ...] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Tangent of the logits along a direction in the last convolution's parameters.

    The logits are linear in these, so it is that convolution with the direction in place of them.

    Args:
        features: (B, D, h, w), the convolution's input.
        weight: (C, D / groups, a, b), the direction's part for the weight.
        bias: (C,), its part for the bias; None where there is none.
        stride: As `torch.nn.Conv2d`'s, and so are the rest.
        padding: Zeros are padded.
        dilation: Likewise.
        groups: Likewise.

    Returns:
        (B, C, h', w'), at the resolution of the convolution's output.
    """
    kernel = tuple(weight.shape[2:])
    if (*kernel, *stride, groups) != (1, 1, 1, 1, 1) or padding not in {(0, 0), "valid", "same"}:
        return F.conv2d(features, weight, bias, stride, padding, dilation, groups)
    # As bare products it is several times faster on one thread.
    f, matrix = features.flatten(2), weight.flatten(1)
    tangent = f.new_empty(len(f), len(matrix), f.shape[2])
    for image, part in _parts(f):
        tangent[image, :, part] = matrix @ f[image, :, part]
    if bias is not None:
        tangent += bias[:, None]
    return tangent.view(len(f), len(matrix), *features.shape[2:])


def last_two_tangent(
    inputs: Tensor,
    features: Tensor,
    *,
    head: Tensor,
    scale: Tensor | None,
    rectified: bool,
    weight: Tensor,
    bias: Tensor | None,
    head_weight: Tensor,
    head_bias: Tensor | None,
) -> Tensor:
    """Tangent of the logits along a direction in the last two convolutions, both of 1 x 1.

    `z = W f + b`, `f = max(a, 0)` (or `a`), `a = s * (P u + c) + t`, so that
    `da = s * (V u + v_c)`, `df = [a > 0] da`, `dz = V_W f + v_b + W df`.

    Args:
        inputs: u, (B, E, h, w), input of the first of the two.
        features: f, (B, D, h, w), input of the second.
        head: W, (C, D, 1, 1).
        scale: s, (D,), by which the normalisation in between multiplies; None without one.
        rectified: Whether there is a ReLU in between.
        weight: V, (D, E, 1, 1), the direction's part for P.
        bias: v_c, (D,), its part for c; None where there is none.
        head_weight: V_W, (C, D, 1, 1), its part for W.
        head_bias: v_b, (C,), its part for b; None where there is none.

    Returns:
        dz, (B, C, h, w).
    """
    if scale is not None:
        weight = weight * scale[:, None, None, None]
        bias = None if bias is None else bias * scale
    u, f = inputs.flatten(2), features.flatten(2)
    first, last, of_features = weight.flatten(1), head.flatten(1), head_weight.flatten(1)
    tangent = u.new_empty(len(u), len(last), u.shape[2])
    for image, part in _parts(u):
        moved = first @ u[image, :, part]
        if bias is not None:
            moved += bias[:, None]
        if rectified:
            moved = gated(moved, f[image, :, part])
        tangent[image, :, part] = (last @ moved).addmm_(of_features, f[image, :, part])
    if head_bias is not None:
        tangent += head_bias[:, None]
    return tangent.view(len(u), len(last), *inputs.shape[2:])


def gated(x: Tensor, features: Tensor) -> Tensor:
    """Multiplies with the derivative of a ReLU: x where its output is above zero, 0 elsewhere."""
    masked: Tensor = torch.ops.aten.threshold_backward(x, features, 0.0)  # one pass, no mask made
    return masked


def _parts(x: Tensor) -> Iterator[tuple[int, slice]]:
    """Images of (B, D, cells), some cells at a time: what is between two layers is never large."""
    step = x.shape[2] if x.is_cuda else _CPU_CELLS
    for image in range(len(x)):
        for start in range(0, x.shape[2], step):
            yield image, slice(start, start + step)


def general_tangent(
    function: Callable[[Mapping[str, Tensor]], Tensor],
    parameters: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
) -> Tensor:
    """Derivative of any function of parameters along a direction, in one forward-mode pass.

    Args:
        function: Of the parameters.
        parameters: Where the derivative is taken.
        direction: Tensors of the shapes and dtypes of `parameters`, by the same names.

    Returns:
        Of the shape of the function's value.

    Raises:
        ValueError: If the names differ.
    """
    if parameters.keys() != direction.keys():
        raise ValueError(
            f"the direction has parts for {sorted(direction)}, the parameters are "
            f"{sorted(parameters)}"
        )
    at = {name: value.detach() for name, value in parameters.items()}
    along = {name: direction[name] for name in at}
    tangent: Tensor = jvp(function, at, along)[1]
    return tangent


def directional_map(residual: Tensor, tangent: Tensor) -> Tensor:
    """The derivative of every element's loss along the direction of a tangent.

    Args:
        residual: (B, C, ...) gradient of each element's loss by its logits; for cross-entropy with
            class k that is `p - e_k`.
        tangent: (B, C, ...) tangent of the logits, at the same resolution.

    Returns:
        (B, ...).

    Raises:
        ValueError: If the shapes differ.
    """
    if residual.shape != tangent.shape:
        raise ValueError(f"shapes {tuple(residual.shape)} and {tuple(tangent.shape)} differ")
    return (residual * tangent).sum(1)
