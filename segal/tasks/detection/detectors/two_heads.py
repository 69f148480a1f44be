"""RetinaNet and SSD with two class heads and a MIL head (see `segal.models.two_heads`).

Boxes, their classes and features are those of f1. Raw outputs have `second_logits` and `mil_logits`
beside the library's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from segal.models.two_heads import MIL, SECOND
from segal.tasks.detection.detectors.base import Target
from segal.tasks.detection.detectors.retinanet import RetinaNet
from segal.tasks.detection.detectors.ssd import SSD
from segal.tasks.detection.detectors.torchvision import TorchvisionDetector
from segal.tasks.detection.evidence import RawOutputs


@dataclass(frozen=True, eq=False)
class HeadOutputs:
    """What the three heads say of the N anchors of each image; all float32, with their graph.

    Attributes:
        first: (..., N, C) logits of f1; of a softmax the logarithms of its probabilities, without
            the background's.
        second: Likewise of f2.
        mil: (..., N, C) outputs of the MIL head.
        softmax: Whether probabilities are of a softmax.
        levels: How many of the N are of each level, in order.
    """

    first: Tensor
    second: Tensor
    mil: Tensor
    softmax: bool
    levels: tuple[int, ...]

    @classmethod
    def of(
        cls,
        logits: Tensor,
        further: Mapping[str, Tensor],
        softmax: bool,
        levels: Sequence[int],
    ) -> "HeadOutputs":
        """From what the network gives.

        Args:
            logits: (..., N, C) of f1; of a softmax (..., N, C + 1), the first the background's.
            further: `second_logits`, likewise, and `mil_logits`.
            softmax: As the attribute.
            levels: Likewise.
        """
        first, second = logits.float(), further[SECOND].float()
        if softmax:
            # Which are the same whatever is added to all logits of an anchor.
            first, second = (x.log_softmax(-1)[..., 1:] for x in (first, second))
        return cls(first, second, further[MIL].float(), softmax, tuple(levels))

    @classmethod
    def of_image(cls, raw: RawOutputs) -> "HeadOutputs":
        """From the raw outputs of an image, (N, C)."""
        return cls.of(raw.logits, raw.outputs, raw.softmax, raw.levels)

    @property
    def probabilities(self) -> tuple[Tensor, Tensor]:
        """(..., N, C) of f1 and of f2."""
        first, second = self.first, self.second
        return (first.exp(), second.exp()) if self.softmax else (first.sigmoid(), second.sigmoid())


class TwoHeadDetector(TorchvisionDetector):
    """What both families do beside finding boxes."""

    def outputs(
        self, images: Sequence[Tensor], targets: Sequence[Target] | None
    ) -> tuple[HeadOutputs, dict[str, Tensor]]:
        """One pass over a batch, in the mode that the layers are in.

        Args:
            images: (3, H, W) each, normalised, of any sizes.
            targets: As `losses` takes them; None for images that are not labelled.

        Returns:
            Of B images what the heads say, (B, N, C), and the losses; none without targets.
        """
        network: Any = self.network
        caught: list[tuple[list[Tensor], dict[str, Tensor]]] = []
        hook = network.head.register_forward_hook(
            lambda _, inputs, output: caught.append((inputs[0], output))
        )
        losses: dict[str, Tensor] = {}
        try:
            if targets is None:
                inputs, _ = network.transform(list(images))
                network.head(list(network.backbone(inputs.tensors).values()))
            else:
                losses = self.losses(images, targets)
        finally:
            hook.remove()
        maps, output = caught[0]
        anchors = network.anchor_generator.num_anchors_per_location()
        levels = [x.shape[2] * x.shape[3] * n for x, n in zip(maps, anchors, strict=True)]
        return HeadOutputs.of(output["cls_logits"], output, self.softmax, levels), losses


class MialRetinaNet(TwoHeadDetector, RetinaNet):
    """See the module."""


class MialSSD(TwoHeadDetector, SSD):
    """See the module."""
