"""The last layers of a network as a function of their input and their parameters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.candidates.evidence import Upsampling
from segal.errors import SegalError
from segal.functional.directional import general_tangent, last_tangent, last_two_tangent


@dataclass(frozen=True)
class Affine:
    """What is known of a tail of one or two convolutions: `z = W f + b`, f the features.

    With two, `f = max(a, 0)` or `f = a`, and `a = scale * (P u + c) + shift`, u the tail's input.
    Weights are read when they are asked for: they may be trained, moved or cast in between.

    Attributes:
        head: The last convolution, of any kernel size where it stands alone, else of 1 x 1; zeros
            are padded.
        head_prefix: Of its parameters' names in `Tail.parameters`: `head_prefix + "weight"`.
        pointwise: The 1 x 1 convolution before it; None where the head stands alone.
        pointwise_prefix: Of its parameters' names.
        norm: The BatchNorm in between; None without one. It is that of `eval()`.
        rectified: Whether there is a ReLU in between.
    """

    head: nn.Conv2d
    head_prefix: str
    pointwise: nn.Conv2d | None = None
    pointwise_prefix: str = ""
    norm: nn.BatchNorm2d | None = None
    rectified: bool = False

    @property
    def linear(self) -> bool:
        """Whether it is one linear layer that looks at one cell at a time."""
        return self.pointwise is None and _pointwise(self.head)

    @property
    def scale(self) -> Tensor | None:
        """(D,) gamma / sqrt(variance + epsilon) of the BatchNorm; None without one."""
        if self.norm is None or self.norm.running_var is None:
            return None
        scale = (self.norm.running_var + self.norm.eps).rsqrt()
        return scale if self.norm.weight is None else self.norm.weight.detach() * scale

    @property
    def shift(self) -> Tensor | None:
        """(D,) beta - mean * scale of the BatchNorm; None without one."""
        scale = self.scale
        if scale is None or self.norm is None or self.norm.running_mean is None:
            return None
        shift = -self.norm.running_mean * scale
        return shift if self.norm.bias is None else shift + self.norm.bias.detach()


@dataclass(frozen=True)
class Tail:
    """The last layers of a network as a function of their input and their parameters.

    Attributes:
        name: `last` (the head alone), `last_two` (the convolution before it, too), `all`, or the
            name of the module that it starts at.
        module: From the tail's input to the logits at the head's resolution.
        parameters: The parameters that scores are differentiated by, by their name in `module`.
        align_corners: How the head's logits are upsampled.
        source: The module of the network whose input is the tail's.
        affine: The closed form, where there is one; None where derivatives take the general route.
        replays: Whether the tail's input is the network's own, so that it runs all of it again.
    """

    name: str
    module: nn.Module
    parameters: Mapping[str, Tensor] = field(repr=False)
    align_corners: bool
    source: nn.Module = field(repr=False)
    affine: Affine | None = field(default=None, repr=False)
    replays: bool = False

    @property
    def linear(self) -> bool:
        """Whether it is one linear layer that looks at one cell at a time."""
        return self.affine is not None and self.affine.linear

    def low(self, tail_input: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, C, h, w) at the head's resolution, with `parameters` in place of its own."""
        low: Tensor = torch.func.functional_call(self.module, dict(parameters), (tail_input,))
        return low

    def __call__(
        self,
        tail_input: Tensor,
        parameters: Mapping[str, Tensor],
        size: tuple[int, int],
        upsampling: Upsampling,
    ) -> Tensor:
        """Logits (B, C, H, W) from the tail's input, with `parameters` in place of its own.

        Args:
            tail_input: As `Evidence.tail_input[name]`.
            parameters: Tensors of the shapes of `self.parameters`.
            size: (H, W) of the image.
            upsampling: As `Evidence.upsampling`.
        """
        return self.upsample(self.low(tail_input, parameters), size, upsampling)

    @staticmethod
    def upsample(low: Tensor, size: tuple[int, int], upsampling: Upsampling) -> Tensor:
        """Spreads a map over the image's pixels.

        Args:
            low: (B, K, h, w), at the head's resolution.
            size: (H, W) of the image.
            upsampling: As `Evidence.upsampling`.

        Returns:
            (B, K, H, W).
        """
        return upsample(low, upsampling)[..., : size[0], : size[1]]

    def tangent(
        self,
        tail_input: Tensor,
        direction: Mapping[str, Tensor],
        features: Tensor | None = None,
    ) -> Tensor:
        """Derivative of the logits along a direction, in `eval()` mode and without gradients.

        By hand where there is a closed form, else by forward mode; both are exact. What is
        given in another dtype (half precision, a direction in float64) is cast to the parameters'.

        Args:
            tail_input: As `Evidence.tail_input[name]`, (B, E, h, w).
            direction: A tensor for each of `self.parameters`, of its shape.
            features: As `Evidence.features`, (B, D, h, w): with them the closed form of two
                convolutions need not compute them again.

        Returns:
            (B, C, h, w) at the head's resolution, in the parameters' dtype.

        Raises:
            SegalError: If the direction does not fit the parameters.
        """
        self._check(direction)
        with torch.no_grad():
            along = {k: direction[k].to(value) for k, value in self.parameters.items()}
            inputs = tail_input.to(next(iter(self.parameters.values())))
            if self.affine is None:
                return general_tangent(lambda p: self.low(inputs, p), self.parameters, along)
            return self._by_hand(self.affine, inputs, along, features)

    def _by_hand(
        self,
        affine: Affine,
        inputs: Tensor,
        along: Mapping[str, Tensor],
        features: Tensor | None,
    ) -> Tensor:
        head, prefix = affine.head, affine.head_prefix
        weight, bias = along[f"{prefix}weight"], along.get(f"{prefix}bias")
        if affine.pointwise is None:
            return last_tangent(
                inputs,
                weight,
                bias,
                stride=head.stride,
                padding=head.padding,
                dilation=head.dilation,
                groups=head.groups,
            )
        if features is None:
            features = inputs
            for layer in list(self.module.children())[:-1]:
                features = layer(features)
        return last_two_tangent(
            inputs,
            features.to(inputs),
            head=head.weight,
            scale=affine.scale,
            rectified=affine.rectified,
            weight=along[f"{affine.pointwise_prefix}weight"],
            bias=along.get(f"{affine.pointwise_prefix}bias"),
            head_weight=weight,
            head_bias=bias,
        )

    def _check(self, direction: Mapping[str, Tensor]) -> None:
        wanted = {name: tuple(value.shape) for name, value in self.parameters.items()}
        given = {name: tuple(value.shape) for name, value in direction.items()}
        if given != wanted:
            raise SegalError(
                f"tail {self.name!r}: a direction of other parameters",
                expected=", ".join(f"{name} {shape}" for name, shape in wanted.items())[:300],
                got=", ".join(f"{name} {shape}" for name, shape in given.items())[:300] or "none",
                remedy="compute it for the same layers of the same network",
            )


def upsample(low: Tensor, upsampling: Upsampling) -> Tensor:
    """Interpolates (B, K, h, w) to the padded image, (B, K, *upsampling.size)."""
    if tuple(low.shape[-2:]) == upsampling.size:
        return low
    return F.interpolate(
        low, upsampling.size, mode="bilinear", align_corners=upsampling.align_corners
    )


def affine_of(layers: list[nn.Module], parameters: Mapping[str, Tensor]) -> Affine | None:
    """The closed form of a chain of layers, if it has one.

    Subclasses of torch's layers have none: they may do more than these, such as to standardise
    their weights or to apply an activation.

    Args:
        layers: In the order that they run in; the last is the head.
        parameters: Of the tail, by name: the layer's number (nothing for a lone head) before the
            layer's own name for it. Only convolutions may have any.
    """
    first, head = layers[0], layers[-1]
    if not _plain(head) or not _plain(first):
        return None
    if len(layers) == 1:
        return Affine(head, "") if parameters.keys() == _names("", head) else None
    between, last = layers[1:-1], f"{len(layers) - 1}."
    of_convolutions = parameters.keys() == _names("0.", first) | _names(last, head)
    if not of_convolutions or not _pointwise(first) or not _pointwise(head):
        return None
    norm = None
    if between and type(between[0]) is nn.BatchNorm2d and between[0].running_var is not None:
        norm = between.pop(0)
    rectified = bool(between) and type(between[0]) is nn.ReLU
    if between[rectified:]:
        return None
    assert norm is None or isinstance(norm, nn.BatchNorm2d)
    return Affine(head, last, first, "0.", norm, rectified)


def _names(prefix: str, layer: nn.Conv2d) -> set[str]:
    return {f"{prefix}weight"} | ({f"{prefix}bias"} if layer.bias is not None else set())


def _plain(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    return type(layer) is nn.Conv2d and layer.padding_mode == "zeros"


def _pointwise(layer: nn.Conv2d) -> bool:
    return (
        layer.kernel_size == (1, 1)
        and layer.stride == (1, 1)
        and layer.padding in {(0, 0), "valid", "same"}
        and layer.groups == 1
    )
