"""Builds networks by name, with encoder weights from a local file; nothing is ever downloaded."""

import math
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from segal.errors import SegalError
from segal.models.dropout import add_dropout
from segal.models.segmentation import ModelSpec, SegmentationModel
from segal.registry import import_object, nearest

Channels = tuple[float, float, float]

_IMAGENET: tuple[Channels, Channels] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: tuple[Channels, Channels] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_DPN: tuple[Channels, Channels] = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
_UNIT: tuple[Channels, Channels] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

# Encoders whose published weights expect other constants than ImageNet's usual ones, by prefix.
_NORMALISATION = {
    "inceptionresnetv2": _HALF,
    "inceptionv4": _HALF,
    "xception": _HALF,
    "tu-tf_efficientnet_lite": _HALF,
    "tu-tf_mobilenetv3": _HALF,
    "tu-tf_efficientnetv2": _HALF,
    "tu-tf_inception": _HALF,
    "tu-xception": _HALF,
    "tu-vit_": _HALF,
    "tu-mobilevit": _UNIT,
    "dpn": _DPN,
    "tu-dpn": _DPN,
}
MIN_SCALE, MAX_SCALE = 0.05, 4.0  # at which a network may see its images
_CLASSIFIERS = ("fc.", "classifier.", "head.", "last_linear.", "conv_head.", "bn2.", "_fc.")


def normalisation(encoder: str) -> tuple[Channels, Channels]:
    """(mean, std) of an encoder's input channels (R, G, B), on the scale 0 to 1."""
    for prefix, constants in _NORMALISATION.items():
        if encoder.startswith(prefix):
            return constants
    return _IMAGENET


def make_spec(
    architecture: str = "DeepLabV3Plus",
    encoder: str = "resnet18",
    class_names: tuple[str, ...] = (),
    *,
    mean: Channels | None = None,
    std: Channels | None = None,
    input_scale: float = 1.0,
    insert_dropout: float = 0.0,
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
        ("mean", mean, all(map(math.isfinite, mean)), "three finite numbers"),
        ("std", std, all(0 < s < math.inf for s in std), "three finite numbers above 0"),
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
        _load_encoder(network, spec, read_state_dict(encoder_weights), encoder_weights)
    model = SegmentationModel(network, spec)
    if spec.insert_dropout > 0:
        add_dropout(model.head, spec.insert_dropout)
        model = SegmentationModel(network, spec)  # its tails are those of the changed head
    return model


def _make_network(spec: ModelSpec) -> nn.Module:
    own = ":" in spec.architecture
    try:
        if own:
            network = import_object(spec.architecture)(num_classes=spec.num_classes)  # type: ignore[operator]
        else:
            network = smp.create_model(
                spec.architecture,
                encoder_name=spec.encoder,
                encoder_weights=None,
                classes=spec.num_classes,
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


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a state_dict from `.safetensors`, or from `.pth` without unpickling any code.

    Raises:
        SegalError: If the file is missing, damaged, or holds something else.
    """
    if not path.is_file():
        raise SegalError(
            f"{path}: no such file",
            expected="a checkpoint",
            got="nothing at that path",
            remedy="check the path",
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # both readers raise many types for a damaged file
        raise SegalError(
            f"{path}: cannot be read as weights",
            expected="a .safetensors file, or a .pth file that holds tensors only",
            got=f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}",
            remedy="save the network's state_dict() with safetensors or torch.save",
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise SegalError(
            f"{path}: not a state_dict",
            expected="a dictionary of tensors",
            got=type(loaded).__name__,
            remedy="save the network's state_dict(), not the network",
        )
    return {key.removeprefix("module."): value for key, value in loaded.items()}


def load_weights(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Loads a state_dict that must fit exactly.

    Raises:
        SegalError: For missing or extra keys, other shapes, or weights that are not finite.
    """
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        raise SegalError(
            f"{source}: weights of another network",
            expected=f"{len(own)} tensors of this architecture, encoder and number of classes",
            got="; ".join(
                _some(label, names)
                for label, names in (("missing", missing), ("extra", extra), ("shape", shapes))
                if names
            ),
            remedy="check --arch, --encoder and --num-classes against how the file was made",
        )
    for key, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise SegalError(
                f"{source}: {key} holds values that are not finite",
                expected="finite weights",
                got=f"{int((~torch.isfinite(value)).sum())} NaN or infinite values",
                remedy="use a checkpoint from before the training diverged",
            )
    # Copied in place: the encoders of smp override load_state_dict to pass over some keys.
    with torch.no_grad():
        for key, value in state.items():
            own[key].copy_(value)


def _some(label: str, names: list[str]) -> str:
    return f"{len(names)} {label} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _load_encoder(
    network: nn.Module, spec: ModelSpec, state: dict[str, Tensor], source: Path
) -> None:
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise SegalError(
            f"{spec.architecture}: has no encoder to load weights into",
            expected="an architecture of segmentation_models_pytorch",
            got=spec.architecture,
            remedy="leave --encoder-weights out, and load the weights in your own function",
        )
    target = encoder.get_submodule("model") if spec.encoder.startswith("tu-") else encoder
    own = target.state_dict()
    kept = {
        key: value for key, value in state.items() if key in own or not key.startswith(_CLASSIFIERS)
    }
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):
            kept.setdefault(key, value)
    load_weights(target, kept, source)


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
