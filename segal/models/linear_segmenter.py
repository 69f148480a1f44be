"""A linear layer on the maps that an encoder makes at several depths, for the pixels of images."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.errors import SegalError, raise_all
from segal.functional.enlarging import enlarge
from segal.models.noise import evaluating, hooked
from segal.models.probing import twin
from segal.models.spec import ModelSpec
from segal.registry import nearest

_FINEST = 4
"""Stride of the finest maps that are taken: finer ones have seen a few pixels only."""

_TOKENS = 4
"""Depths of a transformer whose patch tokens are taken."""


class Standardise(nn.Module):
    """Features less their mean, by their standard deviation: buffers, which a fit sets.

    Args:
        features: D.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """(B, D_i, h_i, w_i) from (B, D_i, h_i, w_i), of which the D_i sum to D; channels last."""
        channels = [one.shape[1] for one in maps]
        columns = zip(
            torch.split(self.mean, channels), torch.split(self.scale, channels), strict=True
        )
        return [
            (one.contiguous(memory_format=torch.channels_last) - mean[:, None, None]).mul_(
                scale[:, None, None]
            )
            for one, (mean, scale) in zip(maps, columns, strict=True)
        ]


class Depths(nn.Module):
    """The maps of an encoder, finer ones than the stride averaged down to it.

    Args:
        model: The encoder; its child `model`, so that files of its weights load.
        taken: Positions of the maps that are taken, among those that it returns; or names of its
            modules whose outputs are.
        last: Whether maps have their channels last.
        stride: Of the finest map that comes out.

    Raises:
        SegalError: If the encoder has no module of a name, or, when it runs, if one makes no map.
    """

    def __init__(
        self, model: nn.Module, taken: Sequence[int | str], last: bool, stride: int
    ) -> None:
        super().__init__()
        self.model, self.taken, self.last, self.stride = model, tuple(taken), last, stride
        names = dict(model.named_modules())
        raise_all(
            [_no_map(name, names) for name in taken if isinstance(name, str) and name not in names]
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, D_i, h_i, w_i), in the order in which they are taken."""
        found: dict[int | str, Tensor] = {}
        hooks = [
            self.model.get_submodule(name).register_forward_hook(
                lambda _m, _i, output, name=name: found.update({name: output})
            )
            for name in self.taken
            if isinstance(name, str)
        ]
        with hooked(hooks):
            returned = self.model(images)
        found |= dict(enumerate(returned))
        coarse = []
        for name in self.taken:
            if not isinstance(found.get(name), Tensor) or found[name].ndim != 4:
                raise _no_map(str(name), dict(self.model.named_modules()))
            one = found[name].permute(0, 3, 1, 2) if self.last else found[name]
            factor = self.stride * one.shape[-1] // images.shape[-1]
            coarse.append((F.avg_pool2d(one, factor) if factor > 1 else one).contiguous())
        return coarse


def _no_map(name: str, names: Collection[str]) -> SegalError:
    near = nearest(name, [one for one in names if one and one != name])
    return SegalError(
        f"model.options.maps: {name!r} gives no map",
        expected="names of modules of the encoder that make a map",
        got=repr(name) if name in names else f"{name!r}, which the encoder does not have",
        remedy=f"did you mean {near!r}?" if near else "leave maps out for those of each stage",
    )


def _is_watched(layer: nn.Module) -> bool:
    """Whether somebody wants to see what goes into it."""
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _of_parts(layer: nn.Conv2d, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """What a 1 x 1 convolution makes of maps that are brought to one size and concatenated.

    Both are linear, and so change places: C channels are interpolated, not D.
    """
    parts = torch.split(layer.weight, [one.shape[1] for one in maps], 1)
    low = (F.conv2d(one, part) for one, part in zip(maps, parts, strict=True))
    assert layer.bias is not None
    return sum((_spread(one, size) for one in low), layer.bias[:, None, None])


def _spread(one: Tensor, size: tuple[int, int]) -> Tensor:
    """A map (B, D, h, w) at a size that is not smaller."""
    if tuple(one.shape[-2:]) == size:
        return one
    return F.interpolate(one, size, mode="bilinear", align_corners=False)


class LinearSegmenter(nn.Module):
    """Logits of pixels, linear in the standardised maps of an encoder.

    Maps are standardised, brought to the size of the finest by bilinear interpolation and
    concatenated; a 1 x 1 convolution gives logits, which are spread over the image.

    Args:
        encoder: Returns maps.
        features: Their channels, together.
        num_classes: C.
    """

    def __init__(self, encoder: Depths, features: int, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.standardise = Standardise(features)
        self.head = nn.Conv2d(features, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) from (B, channels, H, W)."""
        # Interpolation keeps means, so that the smaller maps can be standardised before it; with
        # their channels last it takes a tenth of the time.
        maps = self.standardise(self.encoder(images))
        rows, columns = max(one.shape[-2:] for one in maps)
        size = rows, columns
        if _is_watched(self.head):
            logits = self.head(torch.cat([_spread(one, size) for one in maps], 1))
        else:
            logits = _of_parts(self.head, maps, size)
        height, width = images.shape[-2:]
        return enlarge(logits.contiguous(), (height, width))


def on_smp(
    encoder: nn.Module, spec: ModelSpec, stride: int, maps: Sequence[str]
) -> LinearSegmenter:
    """On an encoder of segmentation_models_pytorch, whose maps halve from one to the next.

    Args:
        encoder: It.
        spec: Of the network.
        stride: As of `Depths`.
        maps: Modules of the encoder whose outputs are taken; empty for the maps that it returns.
    """
    channels: Sequence[int] = encoder.out_channels  # type: ignore[assignment]
    usual = [i for i, depth in enumerate(channels) if 2**i >= _FINEST and depth]
    return _on(Depths(encoder, maps or usual, last=False, stride=stride), spec)


def on_timm(
    name: str, spec: ModelSpec, stride: int, maps: Sequence[str], options: Mapping[str, Any]
) -> LinearSegmenter:
    """On a network of timm: maps of its stages, or patch tokens at four depths of a transformer.

    Args:
        name: Of the network, with or without a tag.
        spec: As of `on_smp`.
        stride: As of `Depths`; of tokens it is that of the patches, if that is larger.
        maps: As of `on_smp`.
        options: What `timm.create_model` takes beside these.
    """
    usual = {"features_only": True, "pretrained": False, "in_chans": spec.channels, **options}
    with torch.device("meta"):
        found: Any = timm.create_model(name, **usual)
        strides = list(found.feature_info.reduction())
        if len(set(strides)) == 1:  # of a transformer, whose blocks all have one
            found = timm.create_model(name, pretrained=False, **options)
            blocks = len(found.blocks)
            usual["out_indices"] = [blocks * (i + 1) // _TOKENS - 1 for i in range(_TOKENS)]
    model: Any = timm.create_model(name, **usual)
    strides = list(model.feature_info.reduction())
    taken = [i for i, one in enumerate(strides) if one >= _FINEST]
    last = getattr(model, "output_fmt", None) == "NHWC"
    finest = max(stride, min(strides[i] for i in taken))
    return _on(Depths(model, maps or taken, last, finest), spec)


def _on(encoder: Depths, spec: ModelSpec) -> LinearSegmenter:
    """For as many features as maps of noise have."""
    side = 4 * spec.stride
    with torch.no_grad(), evaluating(encoder):
        maps = twin(encoder, "meta")(torch.zeros(1, spec.channels, side, side, device="meta"))
    return LinearSegmenter(encoder, sum(one.shape[1] for one in maps), spec.num_classes)
