"""RetinaNet of torchvision: classes by sigmoids at every anchor of a pyramid.

Thresholds: score .05, the 1000 best of a level, NMS .5, 300 boxes.
"""

from collections.abc import Mapping

from torch import Tensor

from segal.tasks.detection.detectors.dense import DenseDetector


class RetinaNet(DenseDetector):
    """See the module, and `DenseDetector`."""

    def rank(self, logits: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """See `DenseDetector.rank`: the classes' probabilities."""
        return logits.sigmoid()

    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """See `DenseDetector.decode`."""
        boxes: Tensor = self.network.box_coder.decode_single(regression, anchors)
        return boxes
