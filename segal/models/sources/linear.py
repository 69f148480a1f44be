"""A linear layer, as `linear`: on tables of features, or for pixels on the maps of an encoder."""

from collections.abc import Sequence
from typing import Any

import segmentation_models_pytorch as smp
from torch import Tensor, nn

from segal.errors import SegalError, raise_all
from segal.models.linear_segmenter import on_smp, on_timm
from segal.models.normalisation import published
from segal.models.sources.base import (
    USUAL_MULTIPLE,
    Named,
    Options,
    Sides,
    check_answers,
    check_options,
)
from segal.models.sources.smp import ANY_SIZE, is_fixed, present_name, unknown_encoder
from segal.models.sources.timm import is_of_timm
from segal.models.spec import DEFAULT_TASK, ModelSpec, answers_of

_STRIDE = 8
_STRIDES = (4, 8, 16, 32)
_FACTORS = (1, 2, 4, 7, 8)
"""Of an encoder's own stride, that are tried as multiples of the sides of its input."""


class LinearClassifier(nn.Module):
    """Logits of a table of features: an image is its D features, a map of one cell.

    Args:
        features: D.
        num_classes: C.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(features, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C) logits from (B, D, 1, 1)."""
        logits: Tensor = self.fc(features.flatten(1))
        return logits


class _Linear:
    """`linear`."""

    trusted = True

    def usual_encoder(self, architecture: str, task: str = DEFAULT_TASK) -> str:
        """A ResNet-18 for pixels; none on a table of features."""
        return "resnet18" if answers_of(task).of == "pixels" else ""

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Checks the encoder's name and the options; features in tables are taken as they are."""
        if answers_of(task).of != "pixels":
            check_answers(architecture, task, "images")
            check_options(options, (), {}, architecture)
            if encoder:
                raise SegalError(
                    f"model.encoder: {architecture} takes none on features in tables",
                    expected="no encoder: its features are what the tables hold",
                    got=repr(encoder)[:200],
                    remedy="leave --encoder out",
                )
            return Named(architecture, "", ((0.0,), (1.0,)), 1)
        encoder = present_name(encoder)
        if encoder not in smp.encoders.get_encoder_names() and is_of_timm(encoder):
            encoder = f"tu-{encoder}"
        raise_all(unknown_encoder(encoder))
        check_options(options, ("stride", "maps"), {}, f"{architecture} with {encoder}")
        raise_all(_unfit(options))
        return Named(architecture, encoder, published(encoder), USUAL_MULTIPLE, dict(options))

    def build(self, spec: ModelSpec) -> nn.Module:
        """For as many features as the specification has channels, or as the encoder's maps."""
        if spec.answers.of != "pixels":
            return LinearClassifier(spec.channels, spec.num_classes)
        stride = int(spec.options.get("stride", _STRIDE))
        maps: Sequence[str] = spec.options.get("maps", ())
        if not spec.encoder.startswith("tu-"):
            encoder = smp.encoders.get_encoder(spec.encoder, spec.channels, weights=None)
            return on_smp(encoder, spec, stride, maps)
        ways: Sequence[dict[str, Any]] = ANY_SIZE if is_fixed(spec.encoder) else ({},)
        for further in ways:
            try:
                return on_timm(spec.encoder.removeprefix("tu-"), spec, stride, maps, further)
            except TypeError:  # it does not know that argument
                if not further:
                    raise
        raise AssertionError("the last way is without an argument")

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """A map of features is one cell; of pixels it is tried what an encoder takes."""
        if spec.answers.of != "pixels":
            return Sides([1])
        if not spec.encoder.startswith("tu-"):
            return Sides([USUAL_MULTIPLE])
        model: Any = network.get_submodule("encoder.model")
        own = max(model.feature_info.reduction())
        return Sides([own * factor for factor in _FACTORS])


def _unfit(options: Options) -> list[SegalError]:
    """Options that no encoder takes."""
    stride, maps = options.get("stride", _STRIDE), options.get("maps", [])
    found = []
    if stride not in _STRIDES or isinstance(stride, bool):
        found.append(
            SegalError(
                "model.options.stride: not valid",
                expected=f"one of {', '.join(map(str, _STRIDES))}",
                got=repr(stride)[:100],
                remedy="give one of these",
            )
        )
    named = isinstance(maps, list | tuple) and all(isinstance(one, str) for one in maps)
    if not named or ("maps" in options and not maps):
        found.append(
            SegalError(
                "model.options.maps: not valid",
                expected="names of the encoder's modules, such as [features.3, features.17]",
                got=repr(maps)[:200],
                remedy="leave it out for the maps that the encoder returns",
            )
        )
    return found


SOURCE = _Linear()
