"""FCOS of torchvision: classes by sigmoids at every cell of a pyramid, ranked with the centerness.

Thresholds: score .2, the 1000 best of a level, NMS .6, 100 boxes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from segal.errors import SegalError
from segal.tasks.detection.detectors.base import Target
from segal.tasks.detection.detectors.dense import DenseDetector
from segal.tasks.detection.detectors.torchvision import Chosen


class FCOS(DenseDetector):
    """See the module, and `DenseDetector`."""

    def answer(
        self, inputs: ImageList, maps: dict[str, Tensor], features: bool, raw: bool
    ) -> tuple[Chosen, dict[str, Any] | None, Tensor | None]:
        """See `TorchvisionDetector.answer`."""
        self._check(list(maps.values()))
        return super().answer(inputs, maps, features, raw)

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """See `Detector.losses`."""
        hook = self.network.head.register_forward_pre_hook(lambda _, given: self._check(given[0]))
        try:
            return super().losses(images, targets)
        finally:
            hook.remove()

    def rank(self, logits: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """See `DenseDetector.rank`: roots of a class's probability times the centerness."""
        return torch.sqrt(logits.sigmoid() * outputs["bbox_ctrness"].sigmoid())

    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """See `DenseDetector.decode`."""
        boxes: Tensor = self.network.box_coder.decode(regression, anchors)
        return boxes

    def _check(self, maps: Sequence[Tensor]) -> None:
        """Raises a SegalError where the head would normalise single numbers, which it cannot."""
        smallest = min(x.shape[2] * x.shape[3] for x in maps)
        for layer in self.network.head.modules():
            groups = isinstance(layer, nn.GroupNorm) and layer.num_groups
            if groups and layer.num_channels * smallest == groups:
                raise SegalError(
                    f"model.options.width: {layer.num_channels}, of images this small",
                    expected=f"at least {2 * groups}, or images that the detector resizes to more "
                    "than 128 pixels of a side",
                    got="a map of one cell, where each of the groups of channels that FCOS "
                    "normalises is a single number",
                    remedy=f"give model.options.width={2 * groups}, or a larger "
                    "model.options.min_size and max_size",
                )
