"""Runs a network once on noise: whether it works at all, and which layer is its last."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segal.candidates.evidence import Upsampling
from segal.errors import SegalError
from segal.models.outputs import EachClass, TwoClasses, logits_of, refuse_probabilities
from segal.models.spec import ModelSpec
from segal.models.tails import upsample

_SIDES = (224, 256, 384, 512)  # pixels of the noise image; the first that the network takes
_OF_IMAGES = (32, 28, 64, 84, 96, 128, *_SIDES, 1)  # likewise, where whole images are classified


class NoHeadError(SegalError):
    """A network has no last layer that is found: signals of features and gradients need it."""


@dataclass(frozen=True)
class Head:
    """The last layer.

    Attributes:
        name: Of the module.
        align_corners: How its output is upsampled.
        binary: Whether its one output is the logit of the second of two classes.
        each: Whether every output is of a class by itself, yes or no.
    """

    name: str
    align_corners: bool
    binary: bool
    each: bool = False

    def after(self) -> list[nn.Module]:
        """What makes logits of all classes of its output; nothing where they are that already."""
        return [EachClass()] if self.each else [TwoClasses()] if self.binary else []


def floating(network: nn.Module, default: Tensor | None = None) -> Tensor:
    """A parameter or buffer of the dtype and device that a network works in.

    Args:
        network: It.
        default: What stands for it where a network has none; float32 on the CPU without one.
    """
    tensors = itertools.chain(network.parameters(), network.buffers())
    found = next((t for t in tensors if t.is_floating_point()), default)
    return torch.zeros(()) if found is None else found


def failed(architecture: str, shape: Iterable[int], error: Exception) -> SegalError:
    """What a network raised in a forward pass, as a mistake that a user can mend.

    Args:
        architecture: Of the network.
        shape: (B, channels, height, width) of its input.
        error: What it raised.
    """
    batch, channels, height, width = shape
    text = " ".join(str(error).split())
    return SegalError(
        f"{architecture}: the network failed on {batch} images of {height} x {width} pixels",
        expected=f"a network that takes {channels} channels of that size, and memory for it",
        got=f"{type(error).__name__}: {text}"[:300],
        remedy="try a smaller machine.batch_size or model.input_scale, or another architecture",
    )


def run_on_noise(network: nn.Module, spec: ModelSpec) -> Tensor:
    """Runs a network on one square image of noise, in `eval()` mode, without gradients.

    Of the sizes 224, 256, 384 and 512 pixels, brought to multiples of its stride, and its stride
    (to which a network may be bound), the first is taken that it does not fail on. Of whole images
    it is the side that it is given, or the first of some usual ones, small ones first.

    Returns:
        The logits, as `logits_of` gives them.

    Raises:
        SegalError: If it fails on all of them, or returns no logits for its classes.
    """
    with torch.no_grad():
        return on_noise(network, spec)[0]


def on_noise(network: nn.Module, spec: ModelSpec, sides: Sequence[int] = ()) -> tuple[Tensor, int]:
    """As `run_on_noise`, with or without gradients: the logits, and the side of the image.

    Args:
        network: It.
        spec: How it is fed.
        sides: The only ones to be tried, where any are given.
    """
    errors = list[SegalError]()
    for side in sides or _sides(spec):
        shape = (1, spec.channels, side, side)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with evaluating(network), _first_mismatch(network) as mismatch:
            try:
                output = network(noise.to(floating(network)))
            except SegalError:
                raise
            except Exception as error:  # whatever the network's own code raises
                if mismatch:
                    raise _other_channels(spec, mismatch[0]) from error
                errors.append(failed(spec.architecture, shape, error))
                continue
        return logits_of(output, spec.num_classes, spec.architecture, spec.logit_dims), side
    raise errors[0]


def _sides(spec: ModelSpec) -> list[int]:
    if spec.answers.of == "pixels":
        sides = [-(-side // spec.stride) * spec.stride for side in _SIDES]
        return list(dict.fromkeys([*sides, spec.stride]))
    if spec.input_channels is not None:  # features, not images
        return [1]
    return [spec.framing.side] if spec.framing is not None else list(_OF_IMAGES)


def check_network(network: nn.Module, spec: ModelSpec) -> None:
    """Runs a network once on noise, to see that it takes images and gives logits.

    Raises:
        SegalError: If it fails, takes another number of channels, returns no logits for its
            classes, or probabilities in their place.
    """
    with torch.enable_grad():
        logits, _ = on_noise(network, spec)
    refuse_probabilities(logits, spec.architecture, each=spec.answers.each)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """`eval()` for a while; afterwards each module is in its own mode again."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def _first_mismatch(network: nn.Module) -> Iterator[list[int]]:
    """Input channels of the first convolution of a pass, if it was given another number of them."""
    found, ran = list[int](), list[nn.Module]()

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        given = inputs[0].shape[-3] if inputs and isinstance(inputs[0], Tensor) else None
        if not ran and given is not None and given != module.in_channels:
            found.append(module.in_channels)
        ran.append(module)

    with hooked(
        module.register_forward_pre_hook(look)
        for module in network.modules()
        if isinstance(module, nn.Conv2d)
    ):
        yield found


def _other_channels(spec: ModelSpec, wanted: int) -> SegalError:
    return SegalError(
        f"{spec.architecture}: a network of {wanted} input channels, for images of {spec.channels}",
        expected=f"a network that takes {spec.channels} channels, as mean and std have numbers",
        got=f"a first convolution of {wanted}",
        remedy=f"build it for {spec.channels} channels, or give mean and std {wanted} numbers and "
        f"images of {wanted} bands",
    )


@contextmanager
def hooked(hooks: Iterable[Any]) -> Iterator[None]:
    """Places hooks for a while."""
    placed = list(hooks)
    try:
        yield
    finally:
        for hook in placed:
            hook.remove()


def find_head(network: nn.Module, spec: ModelSpec) -> Head:
    """Finds the last layer, and how its output is upsampled.

    It is a convolution with the logits' number of outputs, and nothing but bilinear upsampling
    (or nothing at all) comes after it.

    Raises:
        NoHeadError: If there is none.
        SegalError: As `run_on_noise` does.
    """
    ran: list[tuple[str, Tensor]] = []
    generator = torch.Generator().manual_seed(1)

    def scramble(name: str, output: Tensor) -> Tensor:
        # Noise in its place: a network that was not trained may give the same for every pixel.
        ran.append((name, torch.randn(output.shape, generator=generator).to(output)))
        return ran[-1][1]

    with (
        torch.no_grad(),
        hooked(
            module.register_forward_hook(lambda _m, _i, output, name=name: scramble(name, output))
            for name, module in network.named_modules()
            if isinstance(module, nn.Conv2d) and module.out_channels in {1, spec.num_classes}
        ),
    ):
        logits, side = on_noise(network, spec)
    outputs = logits.shape[1]
    ran = [(name, low) for name, low in ran if low.ndim == 4 and low.shape[1] == outputs]
    size = (logits.shape[-2], logits.shape[-1])
    for name, low in reversed(ran):
        own = tuple(low.shape[-2:]) != size  # the network upsamples its last layer's output
        if own and size != (side, side):
            continue  # two upsamplings in a row are not one
        # What the network itself does not upsample is spread by segal, as it shrinks images.
        for align_corners in (True, False) if own else (False,):
            upsampled = upsample(low, Upsampling(size, align_corners))
            if upsampled.shape == logits.shape and torch.allclose(
                upsampled, logits, rtol=1e-3, atol=1e-3
            ):
                return Head(name, align_corners, binary=outputs < spec.num_classes)
    raise NoHeadError(
        f"{spec.architecture}: no last layer was found",
        expected=f"a convolution with {outputs} outputs"
        + (" (one per class)" if outputs == spec.num_classes else "")
        + ", then nothing but bilinear upsampling to the input's size",
        got=f"convolutions with that many outputs: {', '.join(n for n, _ in ran) or 'none'}",
        remedy="wrap the network so that its last layer is of that form",
    )
