"""A segmentation network with the three things that segal needs of it.

Those are its logits at full resolution, the input of its last layer, and its tail (the last layers)
as a function of their input and parameters (see `segal.models.tails`). The last layer is found by
running the network once: it is the last convolution with one output per class, followed by nothing
but bilinear upsampling.
"""

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.evidence import Evidence, Upsampling
from segal.models.loss_prediction import LossPrediction
from segal.models.spec import ModelSpec
from segal.models.tails import Tail, upsample
from segal.models.tracing import TailFinder, find_head, logits_of, probe_side

__all__ = ["FEATURE_MAPS", "SegmentationModel", "Tail"]

FEATURE_MAPS = "feature_maps"
"""What a pass catches beside the inputs of tails: see `SegmentationModel.forward`."""


class SegmentationModel(nn.Module):
    """A network, wrapped so that one call gives the evidence of a batch.

    Args:
        network: Maps (B, 3, h, w) to logits (B, C, h, w), or to a dictionary with them as `out`.
        spec: How it was built and how it is fed.

    Attributes:
        head: The last layer.
        align_corners: How the head's logits are upsampled.
        loss_prediction: The module that predicts losses; None for a network that has none.

    Raises:
        SegalError: If no last layer is found.
    """

    loss_prediction: LossPrediction | None

    def __init__(self, network: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.register_buffer("mean", torch.tensor(spec.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(spec.std)[:, None, None], persistent=False)
        self._head_name, self.align_corners = find_head(
            network, spec.stride, spec.num_classes, spec.architecture
        )
        self.loss_prediction = None
        self._tails: dict[str, Tail] = {}

    @property
    def head(self) -> nn.Conv2d:
        """The last layer."""
        head = self.network.get_submodule(self._head_name)
        assert isinstance(head, nn.Conv2d)
        return head

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.head.weight.device

    def tail(self, layers: str) -> Tail:
        """The last layers as a function; found when first asked for, by running the network once.

        Args:
            layers: `last`: the head. `last_two`: the parameters of the head and of the convolution
                before it, with nothing but normalisation, activation and dropout in between.
                `all`: every parameter of the network. Else the name of a module of the network,
                such as `decoder.block2.0`: every parameter from there on, in the order that
                modules run in.

        Raises:
            SegalError: If the network has no such tail.
        """
        if layers not in self._tails:
            finder = TailFinder(
                self.network,
                self._head_name,
                self.align_corners,
                self.spec.stride,
                self.spec.architecture,
            )
            self._tails[layers] = finder.find(layers)
        return self._tails[layers]

    def normalise(self, images: Tensor) -> Tensor:
        """Network input from images as read.

        Args:
            images: (B, H, W, 3) RGB, uint8, or floating in [0, 1].

        Returns:
            (B, 3, H, W) float32, normalised.
        """
        channels_first = images.permute(0, 3, 1, 2)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean, std = self.get_buffer("mean") * scale, self.get_buffer("std") * scale
        return (channels_first.float() - mean).div_(std).contiguous()

    def forward(self, images: Tensor, catch: Collection[str] = ()) -> Evidence:
        """Runs the network.

        Args:
            images: (B, 3, H, W), normalised; any H and W.
            catch: Names of tails whose input is wanted; `FEATURE_MAPS` for those. They are the
                maps that `network.encoder` returns, where it has one that returns some (all
                networks of segmentation_models_pytorch but DPT), and the head's input.

        Returns:
            The batch's evidence; logits are (B, C, H, W).
        """
        height, width = images.shape[-2:]
        padded, size = self._padded(images)
        caught: dict[str, Tensor] = {}
        # Before the hooks: to find a tail runs the network.
        tails = [self.tail(name) for name in catch if name != FEATURE_MAPS]
        hooks = [self.head.register_forward_hook(_catch_head(caught))]
        maps: list[Tensor] = []
        encoder = getattr(self.network, "encoder", None)
        if FEATURE_MAPS in catch and isinstance(encoder, nn.Module):
            hooks.append(encoder.register_forward_hook(_catch_maps(maps)))
        for tail in tails:
            hooks.append(tail.source.register_forward_pre_hook(_catch_input(caught, tail.name)))
        try:
            logits = logits_of(self.network(padded))
        finally:
            for hook in hooks:
                hook.remove()
        upsampling = Upsampling(size, self.align_corners)
        if tuple(logits.shape[-2:]) != size:
            logits = upsample(caught["head_output"], upsampling)
        return Evidence(
            logits=logits[..., :height, :width],
            features=caught["head_input"],
            upsampling=upsampling,
            tail_input={tail.name: caught[tail.name] for tail in tails},
            maps=(*maps, caught["head_input"]) if FEATURE_MAPS in catch else (),
        )

    def add_loss_prediction(self, seed: int) -> LossPrediction:
        """Gives the network a new module that predicts losses, and returns it.

        Args:
            seed: Of its weights, which torch's own initialisers draw.
        """
        was_training = self.training
        side = probe_side(self.spec.stride)
        image = torch.zeros(1, 3, side, side).to(self.head.weight)
        with torch.no_grad():
            maps = self.eval()(image, (FEATURE_MAPS,)).maps
        self.train(was_training)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = LossPrediction([x.shape[1] for x in maps])
        self.loss_prediction = module.to(self.head.weight)
        return self.loss_prediction

    def _padded(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The network's input, and the size of the padded image in the image's own pixels."""
        scale, inside = self.spec.input_scale, self.spec.input_size(*images.shape[-2:])
        # Half a pixel of rounding must not make the padded image smaller than the image.
        outside = [
            max(side, round(n / scale)) for side, n in zip(images.shape[-2:], inside, strict=True)
        ]
        height, width = images.shape[-2:]
        padded = images
        if outside != [height, width]:
            padded = F.pad(
                images, (0, outside[1] - width, 0, outside[0] - height), mode="replicate"
            )
        if outside != list(inside):
            padded = F.interpolate(
                padded, inside, mode="bilinear", align_corners=False, antialias=True
            )
        return padded, (outside[0], outside[1])


def _catch_head(
    caught: dict[str, Tensor],
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        caught["head_input"], caught["head_output"] = inputs[0], output

    return hook


def _catch_input(
    caught: dict[str, Tensor], name: str
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        caught[name] = inputs[0]

    return hook


def _catch_maps(
    caught: list[Tensor],
) -> Callable[[nn.Module, tuple[Tensor, ...], object], None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        outputs = output if isinstance(output, list | tuple) else [output]
        # Encoders of smp also return the image itself, and maps without channels to skip a depth.
        caught[:] = [
            x
            for x in outputs
            if isinstance(x, Tensor) and x.ndim == 4 and x.numel() and x is not inputs[0]
        ]

    return hook
