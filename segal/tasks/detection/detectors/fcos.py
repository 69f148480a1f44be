"""FCOS of torchvision: classes by sigmoids at every cell of a pyramid, ranked with the centerness.

Thresholds: score .2, the 1000 best of a level, NMS .6, 100 boxes.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from segal.tasks.detection.detectors.dense import DenseDetector


class FCOS(DenseDetector):
    """See the module, and `DenseDetector`."""

    def rank(self, logits: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """See `DenseDetector.rank`: roots of a class's probability times the centerness."""
        return torch.sqrt(logits.sigmoid() * outputs["bbox_ctrness"].sigmoid())

    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """See `DenseDetector.decode`."""
        boxes: Tensor = self.network.box_coder.decode(regression, anchors)
        return boxes
