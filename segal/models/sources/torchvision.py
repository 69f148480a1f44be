"""Networks of torchvision: `torchvision:deeplabv3_resnet50`, `torchvision:resnet18`."""

from collections.abc import Mapping
from types import ModuleType

from torch import nn
from torchvision import models
from torchvision.models import get_model_builder, get_model_weights, list_models
from torchvision.models import segmentation as of_pixels
from torchvision.transforms import InterpolationMode

from segal.errors import SegalError
from segal.models.normalisation import IMAGENET
from segal.models.sources import torchvision_detection
from segal.models.sources.base import (
    Named,
    Options,
    Sides,
    check_answers,
    check_options,
    without_one_output,
)
from segal.models.spec import DEFAULT_TASK, Answered, Framing, ModelSpec, answers_of
from segal.registry import nearest

_PREFIX = "torchvision:"
_MODULES: Mapping[Answered, ModuleType] = {"pixels": of_pixels, "images": models}
_REFUSED = {
    "weights": "give a file with --checkpoint: nothing is downloaded",
    "weights_backbone": "give a file with --checkpoint: nothing is downloaded",
    "num_classes": "give --num-classes, or a data set; 1 alone may be given, for one output of two "
    "classes",
    "progress": "nothing is downloaded",
    "aux_loss": "leave it out: a head for auxiliary classification does not score images",
    "aux": "leave it out: a head for auxiliary classification does not score images",
    "aux_logits": "leave it out: a head for auxiliary classification does not score images",
}

_MULTIPLES = {"fcn": 8, "deeplabv3": 16, "lraspp": 16}
"""The stride of the coarsest map that logits are made from."""

_OF_IMAGES = {"dropout", "stochastic_depth_prob", "width_mult"}
"""What networks of whole images take beside; not all of them take all."""

_INCEPTIONS = {"googlenet", "inception_v3"}
_STEM = "stem"


class _Torchvision:
    """`torchvision:NAME`."""

    trusted = True

    def usual_encoder(self, architecture: str, task: str = DEFAULT_TASK) -> str:
        """A ResNet-18 for detectors whose backbone is of choice."""
        return torchvision_detection.usual_backbone(architecture)

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Checks the name, and that it is for the task."""
        if answers_of(task).of == "objects":
            return torchvision_detection.resolve(architecture, encoder, options)
        name = architecture.removeprefix(_PREFIX)
        for of, module in _MODULES.items():
            if name in list_models(module=module):
                check_answers(architecture, task, of)
        asked = answers_of(task).of
        names = list_models(module=_MODULES[asked])
        if name not in names:
            near = nearest(name, names)
            raise SegalError(
                f"unknown architecture {architecture!r}",
                expected=f"one of {', '.join(_PREFIX + one for one in names)}",
                got=repr(architecture),
                remedy=f"did you mean {_PREFIX + near!r}?" if near else "choose one of these",
            )
        refused = without_one_output(_REFUSED, "num_classes", options)
        takes = set(_REFUSED) - set(refused)
        if asked == "pixels":
            check_options(options, takes, refused, name)
            return Named(architecture, "", IMAGENET, _multiple(architecture), dict(options))
        check_options(options, takes | _OF_IMAGES | _stems(name), refused, name)
        stem = options.get(_STEM)
        if stem not in (None, "imagenet", "cifar"):
            raise SegalError(
                "model.options.stem: no such first layers",
                expected="imagenet (7 x 7 of stride 2, max-pooling) or cifar (3 x 3 of stride 1, "
                "no pooling)",
                got=repr(stem),
                remedy="leave it out for ImageNet's",
            )
        framing = None if stem == "cifar" else _published_framing(name)
        return Named(architecture, "", IMAGENET, 1, dict(options), framing=framing)

    def build(self, spec: ModelSpec) -> nn.Module:
        """Builds it without weights."""
        if spec.answers.of == "objects":
            return torchvision_detection.build(spec)
        name = spec.architecture.removeprefix(_PREFIX)
        options = {"num_classes": spec.num_classes, **spec.options}
        if spec.answers.of == "pixels":
            options["weights_backbone"] = None
        elif name in _INCEPTIONS:  # as their published weights are run
            options |= {"aux_logits": False, "transform_input": True, "init_weights": True}
        elif name.startswith("vit_") and spec.framing is not None:
            options["image_size"] = spec.framing.side
        stem = options.pop(_STEM, None)
        network = get_model_builder(name)(weights=None, **options)
        assert isinstance(network, nn.Module)
        return _with_small_stem(network) if stem == "cifar" else network

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """They take any; padding to their own stride keeps their maps in step with the image."""
        return Sides([_multiple(spec.architecture) if spec.answers.of == "pixels" else 1])


def _multiple(architecture: str) -> int:
    return _MULTIPLES[architecture.removeprefix(_PREFIX).partition("_")[0]]


def _stems(name: str) -> set[str]:
    return {_STEM} if name.startswith(("resnet", "resnext", "wide_resnet")) else set()


def _published_framing(name: str) -> Framing:
    """That of the weights that torchvision takes by default."""
    transforms = get_model_weights(name)["DEFAULT"].transforms()
    bicubic = transforms.interpolation == InterpolationMode.BICUBIC
    return Framing(transforms.crop_size[0], transforms.resize_size[0], bicubic)


def _with_small_stem(network: nn.Module) -> nn.Module:
    """A ResNet for small images: its first convolution 3 x 3 of stride 1, without max-pooling.

    That of the CIFAR experiments of the active-learning literature: all else is as for ImageNet.
    """
    first = network.get_submodule("conv1")
    assert isinstance(first, nn.Conv2d)
    small = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(small.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's
    network.set_submodule("conv1", small)
    network.set_submodule("maxpool", nn.Identity())
    return network


SOURCE = _Torchvision()
