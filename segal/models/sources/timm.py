"""Classification networks of timm, as `timm:vit_small_patch16_224`."""

import math

import timm
from torch import nn

from segal.errors import SegalError
from segal.models.normalisation import of_timm
from segal.models.sources.base import Named, Options, Sides, check_answers, check_options
from segal.models.spec import DEFAULT_TASK, Framing, ModelSpec
from segal.registry import nearest

_PREFIX = "timm:"
_REFUSED = {
    "pretrained": "give a file with --checkpoint or --encoder-weights: nothing is downloaded",
    "pretrained_cfg": "give --mean, --std and model.input_side",
    "checkpoint_path": "give a file with --checkpoint or --encoder-weights",
    "num_classes": "give --num-classes, or a data set",
    "in_chans": "give as many numbers with --mean and --std as the images have channels",
    "img_size": "give model.input_side",
}
_TAKES = {
    *("drop_rate", "drop_path_rate", "global_pool", "patch_size", "window_size"),
    *("dynamic_img_size", "strict_img_size", "output_stride"),
}
"""What networks of timm take beside; not all of them take all."""


class _Timm:
    """`timm:NAME`, or `timm:NAME.TAG` for the constants of certain published weights."""

    trusted = True

    def usual_encoder(self, architecture: str, task: str = DEFAULT_TASK) -> str:
        """None: the name says all of the network."""
        return ""

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Checks the name, and that it is for the task."""
        check_answers(architecture, task, "images")
        name = architecture.removeprefix(_PREFIX)
        if not is_of_timm(name):
            near = nearest(name, timm.list_models())
            raise SegalError(
                f"unknown architecture {architecture!r}",
                expected="timm:NAME, a network that timm.list_models() names",
                got=repr(architecture),
                remedy=f"did you mean {_PREFIX + near!r}?" if near else "look it up in timm",
            )
        check_options(options, _TAKES, _REFUSED, name)
        framing = _published_framing(name)
        return Named(architecture, "", of_timm(name), 1, dict(options), framing=framing)

    def build(self, spec: ModelSpec) -> nn.Module:
        """Builds it without weights; one that is bound to a size for the side that it is given."""
        name, options = spec.architecture.removeprefix(_PREFIX), dict(spec.options)
        config = timm.get_pretrained_cfg(name)
        if config is not None and config.fixed_input_size and spec.framing is not None:
            options["img_size"] = spec.framing.side
        network: nn.Module = timm.create_model(
            name.partition(".")[0],
            pretrained=False,
            num_classes=spec.num_classes,
            in_chans=spec.channels,
            **options,
        )
        return network

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """Images are not padded."""
        return Sides([1])


def is_of_timm(name: str) -> bool:
    """Whether a name, with or without a tag of weights, is one of timm's own."""
    # timm would take a hub's address for a name, and looks at a tag last.
    if not timm.is_model(name):
        return False
    return "." not in name or name in timm.list_pretrained(f"{name.partition('.')[0]}.*")


def _published_framing(name: str) -> Framing | None:
    """As `timm.data.create_transform` makes it of the weights' configuration."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.input_size:
        return None
    side = config.input_size[-1]
    return Framing(
        side,
        math.floor(side / (config.crop_pct or 0.875)),
        bicubic=config.interpolation == "bicubic",
        squash=config.crop_mode == "squash",
    )


SOURCE = _Timm()
