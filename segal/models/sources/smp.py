"""Networks of segmentation_models_pytorch: an architecture, an encoder, and options."""

import inspect
import warnings

import segmentation_models_pytorch as smp
import timm
from torch import nn

from segal.errors import SegalError, raise_all
from segal.models.normalisation import published
from segal.models.sources.base import (
    USUAL_MULTIPLE,
    Named,
    Options,
    Sides,
    check_answers,
    check_options,
    without_one_output,
)
from segal.models.sources.timm import is_of_timm
from segal.models.spec import DEFAULT_TASK, ModelSpec
from segal.registry import nearest

_OURS = {
    "encoder_name": "give --encoder",
    "encoder_weights": "give a file with --encoder-weights: nothing is downloaded",
    "classes": "give --num-classes, or a data set; 1 alone may be given, for one output of two "
    "classes",
    "in_channels": "give as many numbers with --mean and --std as the images have channels",
    "activation": "leave it out: scores are taken from logits",
    "aux_params": "leave it out: a head for auxiliary classification does not score images",
}
_OF_TIMM = {"img_size", "dynamic_img_size", "strict_img_size", "window_size", "patch_size"}
"""What an encoder of timm takes beside; not all of them take all."""

ANY_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)
"""How encoders of timm that are bound to a size are told to take any, the best way first."""


class _Smp:
    """A class name of segmentation_models_pytorch."""

    trusted = True

    def usual_encoder(self, architecture: str, task: str = DEFAULT_TASK) -> str:
        """A ResNet-18."""
        return "resnet18"

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Checks names and options."""
        check_answers(architecture, task, "pixels")
        encoder = present_name(encoder)
        mistakes: list[SegalError] = []
        classes = {cls.__name__: cls for cls in smp.MODEL_ARCHITECTURES_MAPPING.values()}
        if architecture not in classes:
            near = nearest(architecture, sorted(classes))
            mistakes.append(
                SegalError(
                    f"unknown architecture {architecture!r}",
                    expected=f"one of {', '.join(sorted(classes))}, torchvision:NAME, hf:FOLDER, "
                    "or package.module:name",
                    got=repr(architecture),
                    remedy=f"did you mean {near!r}?" if near else "choose one of these",
                )
            )
        raise_all([*mistakes, *unknown_encoder(encoder)])
        takes = set(inspect.signature(classes[architecture]).parameters) - {"kwargs"}
        if encoder.startswith("tu-"):
            takes |= _OF_TIMM
        refused = without_one_output(_OURS, "classes", options)
        check_options(options, takes - set(refused), refused, f"{architecture} with {encoder}")
        constants = published(encoder)
        return Named(architecture, encoder, constants, _usual(architecture), dict(options))

    def build(self, spec: ModelSpec) -> nn.Module:
        """Builds it; an encoder that is bound to a size is told to take any, where it can."""
        if not is_fixed(spec.encoder):
            return _create(spec, spec.options)
        for further in ANY_SIZE:
            try:
                return _create(spec, {**further, **spec.options})
            except TypeError:  # it does not know that argument
                if not further:
                    raise
        raise AssertionError("the last way is without an argument")

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """The usual where it fits the encoder's stride; encoders of timm are tried."""
        own, usual = int(getattr(network.encoder, "output_stride", 1)), _usual(spec.architecture)
        fitting = [usual] if usual % own == 0 else []
        if not spec.encoder.startswith("tu-"):
            return Sides(fitting or [own])
        fixed = None
        if is_fixed(spec.encoder):
            config = timm.get_pretrained_cfg(spec.encoder.removeprefix("tu-"))
            size = spec.options.get("img_size") or (config.input_size[-1] if config else 224)
            fixed = max(size) if isinstance(size, list | tuple) else int(size)
        further = [own * factor for factor in (1, 2, 4, 7, 8)]
        return Sides([*fitting, *further, *([fixed] if fixed else [])], fixed)


def _usual(architecture: str) -> int:
    return 16 if architecture in {"DeepLabV3Plus", "DeepLabV3"} else USUAL_MULTIPLE


def _create(spec: ModelSpec, options: Options) -> nn.Module:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        network: nn.Module = smp.create_model(
            spec.architecture,
            encoder_name=spec.encoder,
            encoder_weights=None,
            in_channels=spec.channels,
            **{"classes": spec.num_classes, **options},
        )
    return network


def present_name(encoder: str) -> str:
    """The name of an encoder that smp has handed to timm, such as tu-resnest14d of timm-resnest14d.

    See `smp.encoders.get_encoder`, which builds those for the old names.
    """
    if not smp.encoders.is_equivalent_to_timm_universal(encoder):
        return encoder
    return encoder.replace("timm-", "tu-").replace("tu-mobilenetv3", "tu-tf_mobilenetv3")


def unknown_encoder(encoder: str) -> list[SegalError]:
    """What is wrong with an encoder's name; nothing where there is one of that name."""
    encoders = smp.encoders.get_encoder_names()
    if encoder in encoders or _is_of_timm(encoder):
        return []
    near = nearest(encoder, encoders)
    return [
        SegalError(
            f"unknown encoder {encoder!r}",
            expected="an encoder of segmentation_models_pytorch, or tu-NAME for one of timm",
            got=repr(encoder),
            remedy=f"did you mean {near!r}?" if near else "resnet18 is the default",
        )
    ]


def _is_of_timm(encoder: str) -> bool:
    return encoder.startswith("tu-") and is_of_timm(encoder.removeprefix("tu-"))


def is_fixed(encoder: str) -> bool:
    """Whether timm says that an encoder is bound to the size that it was trained at."""
    if not encoder.startswith("tu-"):
        return False
    config = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
    return config is None or bool(config.fixed_input_size)


SOURCE = _Smp()
