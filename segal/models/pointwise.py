"""The last layer of a network that classifies whole images, presented as a 1 x 1 convolution.

An image is then one element: its logits (B, C, 1, 1) are a convolution of its features
(B, D, 1, 1), and whatever is known of such a convolution holds.
"""

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers.linear import Linear
from torch import Tensor, nn

from segal.models.noise import Head, NoHeadError, evaluating, hooked, on_noise
from segal.models.spec import ModelSpec

_LINEAR = (nn.Linear, Linear)
"""Types that do nothing but multiply and add; others may do more."""

_CONV = "conv"
_NAMES = ("weight", "bias")


class PointwiseHead(nn.Module):
    """A linear layer as a 1 x 1 convolution, which is its child `conv`.

    In a state_dict it has the linear layer's own names and shapes, so that files of a library load
    into its network, and segal's into the library's.

    Args:
        linear: What it takes the place of; its values are taken, not copied.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        bias = linear.bias is not None
        # On `meta`, so that nothing random is drawn for values that are the linear layer's.
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=bias, device="meta")
        weight, trained = linear.weight, linear.weight.requires_grad
        conv.weight = nn.Parameter(weight.detach()[:, :, None, None], requires_grad=trained)
        conv.bias = linear.bias
        self.conv = conv
        self.train(linear.training)
        self.register_state_dict_post_hook(_as_linear)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_as_convolution)  # type: ignore[no-untyped-call]

    @property
    def weight(self) -> Tensor:
        """(C, D)."""
        return self.conv.weight.flatten(1)

    @property
    def bias(self) -> Tensor | None:
        """(C,), or None."""
        return self.conv.bias

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) logits from (B, D) features."""
        logits: Tensor = self.conv(features[:, :, None, None])
        return logits.flatten(1)


def _as_linear(_: nn.Module, state: dict[str, Any], prefix: str, __: Mapping[str, Any]) -> None:
    for name in _NAMES:
        value = state.pop(f"{prefix}{_CONV}.{name}", None)
        if value is not None:
            state[prefix + name] = value.flatten(1) if name == "weight" else value


def _as_convolution(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    for name in _NAMES:
        value = state.pop(prefix + name, None)
        if value is not None:
            as_conv = value[:, :, None, None] if name == "weight" and value.ndim == 2 else value
            state[f"{prefix}{_CONV}.{name}"] = as_conv


def present_head(network: nn.Module, spec: ModelSpec) -> Head:
    """Finds the last layer, and puts a `PointwiseHead` in its place if it is a linear layer.

    It is a linear layer, or a 1 x 1 convolution of a map of one cell, whose outputs are the logits
    as the network returns them. It is found by running the network once on noise.

    Args:
        network: Of whole images; changed in place, and nothing that it computes is.
        spec: How it is fed.

    Raises:
        NoHeadError: If there is none.
        SegalError: If the network fails, or returns no logits.
    """
    ran: list[tuple[str, Tensor]] = []
    generator = torch.Generator().manual_seed(1)

    def scramble(name: str, output: Tensor) -> Tensor:
        # Noise in its place: a network that was not trained may give nearly the same from two.
        ran.append((name, torch.randn(output.shape, generator=generator).to(output)))
        return ran[-1][1]

    modules = dict(network.named_modules())
    with (
        torch.no_grad(),
        evaluating(network),
        hooked(
            module.register_forward_hook(lambda _m, _i, output, name=name: scramble(name, output))
            for name, module in modules.items()
            if _outputs(module) in {1, spec.num_classes}
        ),
    ):
        logits, _ = on_noise(network, spec)
    outputs = logits.shape[1]
    same = [name for name, low in ran if _is(low, logits)]
    name = same[-1] if same else None
    if name is not None and [other for other, _ in ran].count(name) == 1:
        head = _presented(network, name)
        if head is not None:
            return Head(
                head,
                align_corners=True,
                binary=outputs < spec.num_classes,
                each=spec.answers.each,
            )
    got = ", ".join(f"{name} ({type(modules[name]).__name__})" for name, _ in ran)
    raise NoHeadError(
        f"{spec.architecture}: no last layer was found",
        expected=f"a linear layer with {outputs} outputs that are the logits, and nothing after it",
        got=f"layers with that many outputs: {got or 'none'}",
        remedy="wrap the network so that its last layer is of that form",
    )


def linear_name(head: str) -> str:
    """The name of the layer that files know, of the convolution's that `present_head` gives."""
    return head.removesuffix(f".{_CONV}")


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return module.out_channels
    return None


def _is(low: Tensor, logits: Tensor) -> bool:
    return low.numel() == logits.numel() and torch.allclose(
        low.flatten(), logits.flatten(), rtol=1e-3, atol=1e-3
    )


def _presented(network: nn.Module, name: str) -> str | None:
    """The name of the convolution that a layer is, or becomes; None if it may not become one."""
    layer = network.get_submodule(name)
    if isinstance(layer, nn.Conv2d):
        return name
    assert isinstance(layer, nn.Linear)
    others = (m for m in network.modules() if m is not layer)
    elsewhere = {id(p) for m in others for p in m.parameters(recurse=False)}
    tied = any(id(p) in elsewhere for p in layer.parameters())
    hooks = layer._forward_hooks or layer._forward_pre_hooks
    if type(layer) not in _LINEAR or tied or hooks or not name:
        return None
    head = PointwiseHead(layer)
    for parent in list(network.modules()):
        for child, module in list(parent._modules.items()):
            if module is layer:
                parent.add_module(child, head)
    return f"{name}.{_CONV}"
