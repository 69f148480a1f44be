"""Detectors of torchvision: by the name of a builder, or a head by its own name on any backbone."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models
from torchvision.models import detection as of_objects
from torchvision.models import get_model_builder, list_models
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from segal.errors import SegalError, raise_all
from segal.models.normalisation import IMAGENET, Constants
from segal.models.sources.base import Named, Options, check_options
from segal.models.spec import ModelSpec
from segal.models.two_heads import TwoHeadRetinaNet, TwoHeadSSD
from segal.registry import nearest

HEADS: dict[str, Callable[..., nn.Module]] = {
    "fasterrcnn": of_objects.FasterRCNN,
    "retinanet": of_objects.RetinaNet,
    "fcos": of_objects.FCOS,
    "mial_retinanet": TwoHeadRetinaNet,
}
"""What can be put on a backbone of the user's choice."""

_PREFIX = "torchvision:"
_USUAL_WIDTH = 256  # channels of the pyramid
_WIDEST = 4096
_LOWEST = {"fasterrcnn": 1}  # stage that the pyramid begins with, of stride 2 ** (stage + 1)
_NORM, _WIDTH, _BACKGROUND = "norm", "width", "background"
_SIZES, _RATIOS = "anchor_sizes", "aspect_ratios"
_GROUPS = 32  # of channels, that FCOS normalises in its head
_MIAL, _SSD, _TOWERS = "mial_", "ssd300_vgg16", "towers"
_OF_US = {
    *("backbone", "num_classes", "image_mean", "image_std", "kwargs", "size", "head"),
    *("anchor_generator", "rpn_anchor_generator", "rpn_head", "proposal_matcher"),
    *("box_roi_pool", "box_head", "box_predictor"),
}
_REFUSED = {
    "weights": "give a file with --checkpoint: nothing is downloaded",
    "weights_backbone": "give a file with --encoder-weights: nothing is downloaded",
    "trainable_backbone_layers": "leave it out: nothing is frozen when a network is built",
    "num_classes": "give --num-classes, or a data set",
    "progress": "nothing is downloaded",
    "image_mean": "give --mean",
    "image_std": "give --std",
}
# What their builders normalise by, where that is not ImageNet's usual.
_CONSTANTS: dict[str, Constants] = {
    _SSD: ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
    "ssdlite320_mobilenet_v3_large": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def names() -> list[str]:
    """All names, without the prefix: detectors whose answer is boxes alone."""
    built = [n for n in list_models(module=of_objects) if n.startswith((*HEADS, "ssd"))]
    return [*HEADS, *built, _MIAL + _SSD]


def usual_backbone(architecture: str) -> str:
    """The backbone where none is named; empty where the name says all of the network."""
    return "resnet18" if architecture.removeprefix(_PREFIX) in HEADS else ""


def resolve(architecture: str, encoder: str, options: Options) -> Named:
    """Checks names and options.

    Raises:
        SegalError: With all mistakes at once.
    """
    name = architecture.removeprefix(_PREFIX)
    known = names()
    mistakes: list[SegalError] = []
    if name not in known:
        near = nearest(name, known)
        raise SegalError(
            f"unknown detector {architecture!r}",
            expected=f"one of {', '.join(_PREFIX + one for one in known)}",
            got=repr(architecture),
            remedy=f"did you mean {_PREFIX + near!r}?" if near else "choose one of these",
        )
    of_choice = name in HEADS
    if of_choice and encoder not in _backbones():
        near = nearest(encoder, _backbones())
        mistakes.append(
            SegalError(
                f"unknown backbone {encoder!r}",
                expected=f"one of {', '.join(_backbones())}",
                got=repr(encoder),
                remedy=f"did you mean {near!r}?" if near else "resnet18 is the default",
            )
        )
    try:
        check_options(options, _takes(name), _REFUSED, name)
    except SegalError as error:
        mistakes.append(error)
    if options.get(_NORM) not in (None, "batch", "frozen"):
        mistakes.append(
            SegalError(
                "model.options.norm: no such normalisation",
                expected="batch (BatchNorm), or frozen (its statistics and factors stay as loaded)",
                got=repr(options[_NORM])[:100],
                remedy="leave it out for batch; frozen is usual with --encoder-weights",
            )
        )
    width = options.get(_WIDTH, _USUAL_WIDTH)
    step = _GROUPS if name == "fcos" else 1
    if not isinstance(width, int) or not 1 <= width <= _WIDEST or width % step:
        mistakes.append(
            SegalError(
                "model.options.width: not a width",
                expected=f"channels of the pyramid's maps, from {step} to {_WIDEST}"
                + (f" in steps of {step}: FCOS normalises that many groups" if step > 1 else ""),
                got=repr(width)[:100],
                remedy=f"leave it out for {_USUAL_WIDTH}; less is faster",
            )
        )
    if options.get(_TOWERS) not in (None, "own", "shared"):
        mistakes.append(
            SegalError(
                "model.options.towers: no such towers",
                expected="own (four convolutions of each head), or shared (f1's for all heads)",
                got=repr(options[_TOWERS])[:100],
                remedy="leave it out for own; with shared a training step takes half the time",
            )
        )
    raise_all(mistakes)
    constants = _CONSTANTS.get(name.removeprefix(_MIAL), IMAGENET)
    return Named(architecture, encoder if of_choice else "", constants, 1, dict(options))


def build(spec: ModelSpec) -> nn.Module:
    """The detector, with random weights, nothing frozen and its own normalisation switched off.

    Heads of a softmax have a class more, their first, for the background; heads whose classes are
    asked each by itself have one only with the option `background`, as networks that were trained
    by torchvision's examples do. Of the backbone of one's own choice the pyramid has the last map
    of each stride: from 4 for Faster R-CNN, from 8 for RetinaNet and FCOS, which add two coarser
    ones by convolutions.
    """
    name, options = spec.architecture.removeprefix(_PREFIX), dict(spec.options)
    plain = name.removeprefix(_MIAL)
    frozen = options.pop(_NORM, None) == "frozen"
    each = plain.startswith(("retinanet", "fcos"))
    classes = spec.num_classes + (not each or bool(options.pop(_BACKGROUND, False)))
    sizes, ratios = options.pop(_SIZES, None), options.pop(_RATIOS, None)
    if sizes is not None or ratios is not None:
        anchors = "rpn_anchor_generator" if name.startswith("fasterrcnn") else "anchor_generator"
        options[anchors] = _anchors(plain, sizes, ratios)
    network: Any
    if name in HEADS:
        backbone = _backbone(name, spec.encoder, options.pop(_WIDTH, _USUAL_WIDTH))
        network = HEADS[name](backbone, classes, **options)
    else:
        builder = get_model_builder(plain)
        network = builder(weights=None, weights_backbone=None, num_classes=classes, **options)
        if plain != name:
            parts = network.backbone, network.anchor_generator, network.transform.fixed_size
            network = TwoHeadSSD(*parts, classes, **options)
    network.transform.image_mean, network.transform.image_std = [0.0] * 3, [1.0] * 3
    if frozen:
        _freeze(network.get_submodule("backbone.body"))
    assert isinstance(network, nn.Module)
    return network


def encoder_of(network: nn.Module) -> nn.Module:
    """The backbone as a module that shares its tensors and has the names of its own library.

    Raises:
        SegalError: If its backbone is not one that published weights fit.
    """
    backbone = network.get_submodule("backbone")
    body = getattr(backbone, "body", None)
    if isinstance(body, nn.Module):
        return body
    if isinstance(backbone, of_objects.ssd.SSDFeatureExtractorVGG):
        first, second = backbone.get_submodule("features"), backbone.get_submodule("extra.0")
        return nn.Sequential(*first.children(), *list(second.children())[:-1])
    raise SegalError(
        f"{type(network).__name__}: weights of a backbone alone do not fit it",
        expected="a detector with a pyramid, or SSD300 with VGG-16",
        got="torchvision's SSDlite, whose MobileNetV3 has fewer channels in its last layers"
        if isinstance(backbone, of_objects.ssdlite.SSDLiteFeatureExtractorMobileNet)
        else f"a {type(backbone).__name__}",
        remedy="give weights of the whole detector with --checkpoint",
    )


def _backbones() -> list[str]:
    kinds = ("resnet*", "resnext*", "wide_resnet*", "mobilenet_v*")
    return list(list_models(module=models, include=kinds))


def _takes(name: str) -> set[str]:
    """Options of a detector: the plain ones of its class, and our own."""
    plain = name.removeprefix(_MIAL)
    family = next((HEADS[head] for head in HEADS if plain.startswith(head)), of_objects.ssd.SSD)
    takes = set(inspect.signature(family).parameters) - _OF_US
    if family is of_objects.ssd.SSD:
        return takes
    takes |= {_NORM, _SIZES, _RATIOS, "min_size"} | ({_WIDTH} if name in HEADS else set())
    if name.startswith(_MIAL):
        return takes | {_TOWERS}
    return takes if name.startswith("fasterrcnn") else takes | {_BACKGROUND}


def _anchors(name: str, sizes: Any, ratios: Any) -> AnchorGenerator:
    """Anchors as torchvision's own, with other sizes or aspect ratios."""
    if sizes is None:
        bases = (8, 16, 32, 64, 128) if name.startswith("fcos") else (32, 64, 128, 256, 512)
        octaves = 3 if name.startswith("retinanet") else 1
        sizes = [[int(base * 2 ** (i / 3)) for i in range(octaves)] for base in bases]
    if ratios is None:
        ratios = (1.0,) if name.startswith("fcos") else (0.5, 1.0, 2.0)
    return AnchorGenerator(
        tuple(tuple(level) if isinstance(level, list | tuple) else (level,) for level in sizes),
        (tuple(ratios),) * len(sizes),
    )


def _backbone(head: str, encoder: str, width: int) -> nn.Module:
    lowest = _LOWEST.get(head, 2)
    stages = list(range(lowest, 5))
    body: Any = get_model_builder(encoder)(weights=None)
    if encoder.startswith("mobilenet"):
        body = body.get_submodule("features")
        strided = [i for i, layer in enumerate(body) if getattr(layer, "_is_cn", False)]
        last = [i - 1 for i in strided[-3:]] + [len(body) - 1]  # of strides 4 to 32
        names = [str(last[stage - 1]) for stage in stages]
        channels = [body[int(name)].out_channels for name in names]
    else:
        names = [f"layer{stage}" for stage in stages]
        channels = [body.inplanes // 2 ** (4 - stage) for stage in stages]
    pyramid: nn.Module = BackboneWithFPN(
        body,
        {name: str(level) for level, name in enumerate(names)},
        channels,
        width,
        None if head == "fasterrcnn" else LastLevelP6P7(width, width),
    )
    return pyramid


def _freeze(body: nn.Module) -> None:
    """Puts torchvision's FrozenBatchNorm2d in the place of every BatchNorm2d."""
    for name, module in list(body.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            body.set_submodule(name, FrozenBatchNorm2d(module.num_features, eps=module.eps))
