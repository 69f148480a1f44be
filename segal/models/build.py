"""Builds networks by name, with encoder weights from a local file; nothing is ever downloaded."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from segal.errors import SegalError
from segal.models.dropout import insert_dropout
from segal.models.probing import check_sizes, find_multiple
from segal.models.sources import source_of
from segal.models.spec import DEFAULT_TASK, Channels, Framing, ModelSpec, answers_of
from segal.models.weight_files import read_tensors
from segal.models.wrapped import Model, wrapper_of

MIN_SCALE, MAX_SCALE = 0.05, 4.0  # at which a network may see its images
MAX_MULTIPLE = 4096
MAX_SIDE = 4096
MAX_FEATURES = 1 << 20


def make_spec(
    architecture: str = "DeepLabV3Plus",
    encoder: str | None = None,
    class_names: tuple[str, ...] = (),
    *,
    mean: Channels | None = None,
    std: Channels | None = None,
    input_scale: float = 1.0,
    insert_dropout: float = 0.0,
    options: Mapping[str, Any] | None = None,
    stride: int | None = None,
    task: str = DEFAULT_TASK,
    framing: Framing | None = None,
    input_side: int | None = None,
    input_channels: int | None = None,
) -> ModelSpec:
    """A specification whose gaps are filled from the names.

    Args:
        architecture: A class of segmentation_models_pytorch, `torchvision:NAME`, `hf:FOLDER`,
            `timm:NAME`, `linear`, or an import path.
        encoder: For segmentation_models_pytorch and, of pixels, `linear`; None for the usual one.
        class_names: Of the logits; empty for the network's own, where it has some.
        mean: None for what the published weights of the encoder, or the folder, expect.
        std: Likewise.
        input_scale: As in `ModelSpec`.
        insert_dropout: Likewise.
        options: Likewise.
        stride: As a checkpoint says, to be tried when the network is built; one that cannot be, and
            None, stand for what is known of the network by its name.
        task: As in `ModelSpec`.
        framing: Likewise; None for that of the published weights.
        input_side: Of the square that whole images are brought to, keeping the share of the image
            that is seen; 0 leaves them as they are, None is for `framing`.
        input_channels: Of a table of features, for `linear`: how many there are.

    Raises:
        SegalError: For fewer than two classes, an unknown architecture or encoder, options that
            the network does not take, or numbers that make no sense. What a checkpoint's metadata
            say comes through here too.
    """
    source, answers = source_of(architecture), answers_of(task)
    encoder = source.usual_encoder(architecture, task) if encoder is None else encoder
    named = source.resolve(architecture, encoder, options or {}, task)
    class_names = class_names or named.class_names
    least = 1 if answers.each or answers.of == "objects" else 2
    if len(class_names) < least:
        raise SegalError(
            "the network's classes are not known",
            expected="at least one class" if least == 1 else "at least two classes",
            got=str(len(class_names)),
            remedy="give --num-classes, or a checkpoint that segal wrote",
        )
    mean, std = mean or named.constants[0], std or named.constants[1]
    if stride is None or not 1 <= stride <= MAX_MULTIPLE:
        stride = named.multiple
    framing = _framing(framing or named.framing, input_side)
    for what, value, good, expected in (
        ("mean", mean, all(map(math.isfinite, mean)), "finite numbers"),
        ("std", std, all(0 < s < math.inf for s in std), "finite numbers above 0"),
        ("std", std, len(std) == len(mean), f"as many numbers as mean has: {len(mean)}"),
        ("input_scale", input_scale, MIN_SCALE <= input_scale <= MAX_SCALE, "0.05 to 4"),
        ("insert_dropout", insert_dropout, 0 <= insert_dropout < 1, "0 to less than 1"),
        (
            "input_scale",
            input_scale,
            answers.of == "pixels" or input_scale == 1,
            "1, of whole images",
        ),
        ("input_side", input_side, answers.of == "images" or framing is None, "none, of pixels"),
        ("input_side", framing, _can_be(framing), f"an image of 1 to {MAX_SIDE} pixels a side"),
        (
            "input_channels",
            input_channels,
            (architecture == "linear" and answers.of == "images") == (input_channels is not None),
            "the number of features for linear on a table of them, and for nothing else",
        ),
        (
            "input_channels",
            input_channels,
            input_channels is None or 1 <= input_channels <= MAX_FEATURES,
            f"1 to {MAX_FEATURES}",
        ),
    ):
        if not good:
            raise SegalError(
                f"{what}: cannot be used",
                expected=expected,
                got=str(value),
                remedy="give others, or a checkpoint that segal wrote",
            )
    return ModelSpec(
        architecture=named.architecture,
        encoder=named.encoder,
        class_names=class_names,
        mean=mean,
        std=std,
        stride=stride,
        input_scale=input_scale,
        insert_dropout=insert_dropout,
        options=named.options,
        task=task,
        framing=framing,
        input_channels=input_channels,
    )


def check_encoder(architecture: str, encoder: str | None, task: str = DEFAULT_TASK) -> None:
    """Refuses a user's encoder beside an architecture whose name says all of the network.

    Args:
        architecture: As `make_spec` takes it.
        encoder: A name; None and no text stand for none.
        task: What the network is asked.

    Raises:
        SegalError: If there is no encoder to choose.
    """
    if encoder and not source_of(architecture).usual_encoder(architecture, task):
        raise SegalError(
            f"model.encoder: {architecture} takes none",
            expected=f"no encoder: {architecture} names the whole network",
            got=repr(encoder)[:200],
            remedy="leave --encoder out, or name that network with --arch; weights of all but the "
            "last layer are given with --encoder-weights",
        )


def _framing(framing: Framing | None, side: int | None) -> Framing | None:
    if side is None:
        return framing
    if side == 0:
        return None
    return framing.at(side) if framing is not None else Framing(side, side)


def _can_be(framing: Framing | None) -> bool:
    return framing is None or 1 <= framing.side <= framing.resized <= MAX_SIDE


def build_model(
    spec: ModelSpec, encoder_weights: Path | None = None, state: str | None = None
) -> Model:
    """A network with random weights, or with its encoder's weights from a local file.

    Args:
        spec: What to build; its stride becomes what the network turns out to take.
        encoder_weights: A safetensors file or a `.pth` state_dict of the encoder alone, in the
            names of torchvision or timm; a classifier in it is left out. Of a network of whole
            images the encoder is all but its last layer.
        state: Which of several sets of weights in that file, as in `load_weights`.

    Raises:
        SegalError: If the network cannot be built, runs at no size, or the weights do not fit the
            encoder.
    """
    model = wrap(build_network(spec), spec)
    if encoder_weights is not None:
        stored = read_tensors(encoder_weights)
        model.notes = model.load_encoder(stored, encoder_weights, state)
    return model


def wrap(network: nn.Module, spec: ModelSpec) -> Model:
    """A network as a model, at the multiple of its sides that it takes, with dropout inserted."""
    sides = source_of(spec.architecture).sides(network, spec)
    stride = find_multiple(network, spec.channels, sides.multiples, sides.fixed, spec.title)
    return insert_dropout(wrapper_of(spec.task)(network, replace(spec, stride=stride)))


def canonical_name(architecture: str, task: str = DEFAULT_TASK) -> str:
    """The name that a specification keeps of an architecture: of `hf:FOLDER` its model type."""
    if architecture.startswith("hf:") and Path(architecture.removeprefix("hf:")).is_dir():
        return source_of(architecture).resolve(architecture, "", {}, task).architecture
    return architecture


def check_image_sizes(model: Model, sizes: Iterable[tuple[int, int]]) -> None:
    """Raises a SegalError if a network does not run at the (height, width) of images."""
    spec = model.spec
    padded = {spec.input_size(*size) for size in set(sizes)}
    check_sizes(model.network, spec.channels, spec.stride, padded, spec.title)


def build_network(spec: ModelSpec) -> nn.Module:
    """The bare network, with random weights.

    Raises:
        SegalError: If it cannot be built.
    """
    try:
        return source_of(spec.architecture).build(spec)
    except SegalError:
        raise
    except Exception as error:  # whatever the network's own code raises
        raise SegalError(
            f"{spec.title}: cannot be built",
            expected="a function that takes num_classes and returns a network"
            if not source_of(spec.architecture).trusted
            else "an architecture, an encoder and options that go together",
            got=f"{type(error).__name__}: {error}".split("\n")[0][:300],
            remedy="check --arch, --encoder and model.options",
        ) from error
