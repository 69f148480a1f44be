"""Segmentation networks of torchvision, as `torchvision:deeplabv3_resnet50`."""

from torch import nn
from torchvision.models import get_model_builder, list_models, segmentation

from segal.errors import SegalError
from segal.models.normalisation import IMAGENET
from segal.models.sources.base import Named, Options, Sides, check_options, without_one_output
from segal.models.spec import ModelSpec
from segal.registry import nearest

_PREFIX = "torchvision:"
_REFUSED = {
    "weights": "give a file with --checkpoint: nothing is downloaded",
    "weights_backbone": "give a file with --checkpoint: nothing is downloaded",
    "num_classes": "give --num-classes, or a data set; 1 alone may be given, for one output of two "
    "classes",
    "progress": "nothing is downloaded",
    "aux_loss": "leave it out: a head for auxiliary classification does not score images",
    "aux": "leave it out: a head for auxiliary classification does not score images",
}

_MULTIPLES = {"fcn": 8, "deeplabv3": 16, "lraspp": 16}
"""The stride of the coarsest map that logits are made from."""


class _Torchvision:
    """`torchvision:NAME`."""

    trusted = True

    def resolve(self, architecture: str, encoder: str, options: Options) -> Named:
        """Checks the name."""
        name, names = architecture.removeprefix(_PREFIX), list_models(module=segmentation)
        if name not in names:
            near = nearest(name, names)
            raise SegalError(
                f"unknown architecture {architecture!r}",
                expected=f"one of {', '.join(_PREFIX + one for one in names)}",
                got=repr(architecture),
                remedy=f"did you mean {_PREFIX + near!r}?" if near else "choose one of these",
            )
        refused = without_one_output(_REFUSED, "num_classes", options)
        check_options(options, set(_REFUSED) - set(refused), refused, name)
        return Named(architecture, "", IMAGENET, _multiple(architecture), dict(options))

    def build(self, spec: ModelSpec) -> nn.Module:
        """Builds it without weights."""
        builder = get_model_builder(spec.architecture.removeprefix(_PREFIX))
        outputs = {"num_classes": spec.num_classes, **spec.options}
        network = builder(weights=None, weights_backbone=None, **outputs)
        assert isinstance(network, nn.Module)
        return network

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """They take any; padding to their own stride keeps their maps in step with the image."""
        return Sides([_multiple(spec.architecture)])


def _multiple(architecture: str) -> int:
    return _MULTIPLES[architecture.removeprefix(_PREFIX).partition("_")[0]]


SOURCE = _Torchvision()
