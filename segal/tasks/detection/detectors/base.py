"""What every family of detectors does, and what the families share."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from segal.errors import SegalError
from segal.tasks.detection.evidence import Detections, RawOutputs

Key = TypeVar("Key", bound=Hashable)

RAW = "raw_outputs"
"""What a pass catches beside boxes: what the detector says before NMS (see `RawOutputs`)."""

Target = Mapping[str, Tensor]
"""Objects of an image: `boxes` (n, 4) x0, y0, x1, y1 in its pixels, `labels` (n,) int64 from 0."""


@dataclass(frozen=True, eq=False)
class Found:
    """What a pass over one image gives.

    Attributes:
        detections: The boxes.
        raw: What they are chosen from, where it was asked for.
        maps: (1, D, h, w) of each level of the pyramid.
        covers: (height, width) of what the maps cover, in pixels of the image: the detector may pad
            its input right and below.
    """

    detections: Detections
    raw: RawOutputs | None = None
    maps: tuple[Tensor, ...] = ()
    covers: tuple[int, int] = (1, 1)


class Detector(ABC):
    """How the networks of one family are run and looked into.

    It holds nothing but the network, and is made anew wherever one is needed.

    Args:
        network: It.
        classes: C, without a background.
    """

    def __init__(self, network: Any, classes: int) -> None:
        self.network, self.classes = network, classes

    @abstractmethod
    def detect(self, image: Tensor, catch: Collection[str]) -> Found:
        """Finds the boxes of one image, whatever the mode that the network is in.

        Args:
            image: (3, H, W), normalised.
            catch: `FEATURES` for the boxes' features, `RAW` for the raw outputs.
        """

    @abstractmethod
    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The library's own losses of a batch, whose sum is trained on.

        Modules run in the mode that they are in: dropout drops and BatchNorm counts in training
        mode alone.

        Args:
            images: (3, H, W) each, normalised, of any sizes.
            targets: Of each image.

        Returns:
            Scalars, with their graph.
        """

    def encoder(self) -> nn.Module:
        """The backbone, with the names that its own library has for it.

        Raises:
            SegalError: If weights of a backbone alone do not fit.
        """
        raise SegalError(
            f"{type(self.network).__name__}: has no backbone to load weights into",
            expected="a detector of torchvision",
            got=type(self.network).__name__,
            remedy="leave --encoder-weights out, and give a checkpoint of the whole detector",
        )

    def backbone(self) -> nn.Module | None:
        """The module whose outputs are the pyramid's maps; None where there is none."""
        return None

    def class_layers(self) -> list[nn.Module]:
        """The last layers of the class branch, one or one a level; none of a function."""
        return []


@contextmanager
def inputs_of(layers: Mapping[Key, nn.Module]) -> Iterator[dict[Key, list[Tensor]]]:
    """Collects the first input of every call of some modules, by the names given."""
    caught: dict[Key, list[Tensor]] = {name: [] for name in layers}

    def catch(name: Key) -> Any:
        return lambda _, inputs: caught[name].append(inputs[0])

    hooks = [layer.register_forward_pre_hook(catch(name)) for name, layer in layers.items()]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


def maps_in(output: object) -> list[Tensor]:
    """Maps (B, D, h, w) in what a backbone returns: a tensor, or any nest of them."""
    if isinstance(output, Tensor):
        return [output] if output.ndim == 4 else []
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return [x for part in output for x in maps_in(part)]
    return []
