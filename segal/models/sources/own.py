"""Networks of the user's own, by import path."""

from torch import nn

from segal.models.normalisation import IMAGENET
from segal.models.sources.base import USUAL_MULTIPLE, Named, Options, Sides
from segal.models.spec import DEFAULT_TASK, ModelSpec
from segal.registry import import_object


class _Own:
    """`package.module:name` of a function that takes `num_classes` and returns a network."""

    trusted = False

    def usual_encoder(self, architecture: str, task: str = DEFAULT_TASK) -> str:
        """None: the name says all of the network."""
        return ""

    def resolve(self, architecture: str, encoder: str, options: Options, task: str) -> Named:
        """Takes any name: only building it imports it."""
        return Named(architecture, "", IMAGENET, options=dict(options))

    def build(self, spec: ModelSpec) -> nn.Module:
        """Calls the function."""
        network = import_object(spec.architecture)(num_classes=spec.num_classes, **spec.options)  # type: ignore[operator]
        if not isinstance(network, nn.Module):
            raise TypeError(f"it returned {type(network).__name__}, not a torch.nn.Module")
        return network

    def sides(self, network: nn.Module, spec: ModelSpec) -> Sides:
        """What the network itself says as `size_divisibility`, or the usual; of images, any."""
        if spec.answers.of == "images":
            return Sides([1])
        said = getattr(network, "size_divisibility", None)
        return Sides([said if isinstance(said, int) and said > 0 else USUAL_MULTIPLE])


SOURCE = _Own()
