"""Which family a network is of."""

from typing import Any

from torch import nn
from torchvision.models import detection

from segal.models.sources.huggingface_detection import DetrNetwork
from segal.models.two_heads import TwoHeadRetinaNet, TwoHeadSSD
from segal.tasks.detection.detectors.base import Detector
from segal.tasks.detection.detectors.detr import Detr
from segal.tasks.detection.detectors.faster_rcnn import FasterRCNN
from segal.tasks.detection.detectors.fcos import FCOS
from segal.tasks.detection.detectors.functions import FunctionDetector
from segal.tasks.detection.detectors.retinanet import RetinaNet
from segal.tasks.detection.detectors.ssd import SSD
from segal.tasks.detection.detectors.two_heads import MialRetinaNet, MialSSD

_FAMILIES: dict[type[Any], type[Detector]] = {
    TwoHeadRetinaNet: MialRetinaNet,  # before what it is a kind of
    TwoHeadSSD: MialSSD,
    detection.FasterRCNN: FasterRCNN,
    detection.RetinaNet: RetinaNet,
    detection.FCOS: FCOS,
    detection.ssd.SSD: SSD,
    DetrNetwork: Detr,
}
"""Every other network answers as a function does."""


def detector_of(network: nn.Module, classes: int) -> Detector:
    """How a network is run and looked into.

    Args:
        network: It.
        classes: C.
    """
    for kind, family in _FAMILIES.items():
        if isinstance(network, kind):
            return family(network, classes)
    return FunctionDetector(network, classes)
