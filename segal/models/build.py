"""Builds networks by name, with encoder weights from a local file; nothing is ever downloaded."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import nn

from segal.errors import SegalError
from segal.models.dropout import insert_dropout
from segal.models.normalisation import normalisation
from segal.models.segmentation import SegmentationModel
from segal.models.spec import Channels, ModelSpec
from segal.models.weights import load_encoder, read_state_dict
from segal.registry import import_object, nearest

MIN_SCALE, MAX_SCALE = 0.05, 4.0  # at which a network may see its images


def make_spec(
    architecture: str = "DeepLabV3Plus",
    encoder: str = "resnet18",
    class_names: tuple[str, ...] = (),
    *,
    mean: Channels | None = None,
    std: Channels | None = None,
    input_scale: float = 1.0,
    insert_dropout: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> ModelSpec:
    """A specification whose gaps are filled from the encoder's name.

    Raises:
        SegalError: For fewer than two classes, an unknown architecture or encoder, or numbers that
            make no sense. What a checkpoint's metadata say comes through here too.
    """
    if len(class_names) < 2:
        raise SegalError(
            "the network's classes are not known",
            expected="at least two classes",
            got=str(len(class_names)),
            remedy="give --num-classes, or a checkpoint that segal wrote",
        )
    own = ":" in architecture
    if not own:
        _check_names(architecture, encoder)
    table_mean, table_std = normalisation(encoder)
    mean, std = mean or table_mean, std or table_std
    for what, value, good, expected in (
        ("mean", mean, all(map(math.isfinite, mean)), "finite numbers"),
        ("std", std, all(0 < s < math.inf for s in std), "finite numbers above 0"),
        ("std", std, len(std) == len(mean), f"as many numbers as mean has: {len(mean)}"),
        ("input_scale", input_scale, MIN_SCALE <= input_scale <= MAX_SCALE, "0.05 to 4"),
        ("insert_dropout", insert_dropout, 0 <= insert_dropout < 1, "0 to less than 1"),
    ):
        if not good:
            raise SegalError(
                f"{what}: cannot be used",
                expected=expected,
                got=str(value),
                remedy="give others, or a checkpoint that segal wrote",
            )
    return ModelSpec(
        architecture=architecture,
        encoder="" if own else encoder,
        class_names=class_names,
        mean=mean,
        std=std,
        stride=16 if architecture in {"DeepLabV3Plus", "DeepLabV3"} else 32,
        input_scale=input_scale,
        insert_dropout=insert_dropout,
        options=dict(options or {}),
    )


def build_model(spec: ModelSpec, encoder_weights: Path | None = None) -> SegmentationModel:
    """A network with random weights, or with its encoder's weights from a local file.

    Args:
        spec: What to build.
        encoder_weights: A safetensors file or a `.pth` state_dict of the encoder alone, in the
            names of torchvision or timm; a classifier in it is left out.

    Raises:
        SegalError: If the network cannot be built, or the weights do not fit the encoder.
    """
    network = _make_network(spec)
    if encoder_weights is not None:
        load_encoder(network, spec, read_state_dict(encoder_weights), encoder_weights)
    return insert_dropout(SegmentationModel(network, spec))


def _make_network(spec: ModelSpec) -> nn.Module:
    own = ":" in spec.architecture
    try:
        if own:
            network = import_object(spec.architecture)(num_classes=spec.num_classes, **spec.options)  # type: ignore[operator]
        else:
            network = smp.create_model(
                spec.architecture,
                encoder_name=spec.encoder,
                encoder_weights=None,
                in_channels=spec.channels,
                classes=spec.num_classes,
                **spec.options,
            )
        if not isinstance(network, nn.Module):
            raise TypeError(f"it returned {type(network).__name__}, not a torch.nn.Module")
    except SegalError:
        raise
    except Exception as error:  # whatever the network's own code raises
        raise SegalError(
            f"{spec.architecture}{f' with {spec.encoder}' if not own else ''}: cannot be built",
            expected="a function that takes num_classes and returns a network"
            if own
            else "an architecture and an encoder that go together",
            got=f"{type(error).__name__}: {error}".split("\n")[0][:300],
            remedy="check --arch and --encoder",
        ) from error
    return network


def _check_names(architecture: str, encoder: str) -> None:
    architectures = sorted(cls.__name__ for cls in smp.MODEL_ARCHITECTURES_MAPPING.values())
    if architecture not in architectures:
        near = nearest(architecture, architectures)
        raise SegalError(
            f"unknown architecture {architecture!r}",
            expected=f"one of {', '.join(architectures)}, or package.module:name",
            got=repr(architecture),
            remedy=f"did you mean {near!r}?" if near else "choose one of these",
        )
    encoders = smp.encoders.get_encoder_names()
    # timm would take a hub's address for a name.
    of_timm = encoder.startswith("tu-") and timm.is_model(encoder.removeprefix("tu-"))
    if encoder not in encoders and not of_timm:
        near = nearest(encoder, encoders)
        raise SegalError(
            f"unknown encoder {encoder!r}",
            expected="an encoder of segmentation_models_pytorch, or tu-NAME for one of timm",
            got=repr(encoder),
            remedy=f"did you mean {near!r}?" if near else "resnet18 is the default",
        )
