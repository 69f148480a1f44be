"""The mean feature of an image, or a tile of it, that CoreSet goes by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units, Upsampling
from segal.models.wrapped import FEATURE_MAPS, Model
from segal.signals import MeanFeature
from segal.signals.base import Meter, Workbench
from segal.tasks.detection.detectors.base import RAW
from segal.tasks.detection.detectors.dense import DenseDetector
from segal.tasks.detection.detectors.ssd import SSD
from segal.tasks.detection.model import DetectionModel
from segal.tasks.detection.signals.elements import Measured, OfBoxes, of_detections


@dataclass(frozen=True)
class TowerFeature(Measured):
    """`MeanFeature` of detections.

    Of a dense detector (RetinaNet, FCOS, SSD) the mean over the pixels, after bilinear upsampling,
    of what the class branch's last layer takes and of what the box branch's takes, one after the
    other. Levels of the pyramid are averaged where all have one width (512 numbers of RetinaNet
    and FCOS), and follow each other where they have not (SSD); what both branches take is there
    once. Of any other detector, which looks at chosen boxes alone, the mean of the boxes' features:
    of Faster R-CNN what its RoI head says of each, of DETR kinds the states of their queries.
    """

    signal: MeanFeature

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network gives no features."""
        model.check_features()

    def prepare(self, bench: Workbench) -> Meter:
        """Looks at the family of the detector."""
        model = bench.model
        if isinstance(model, DetectionModel) and isinstance(model.detector, DenseDetector | SSD):
            return _TowerMeter()
        return OfBoxes(self.signal).prepare(bench)


@dataclass(frozen=True)
class _TowerMeter:
    catch: ClassVar[tuple[str, ...]] = (RAW, FEATURE_MAPS)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, D) float64."""
        measured = []
        for raw in of_detections(evidence).raw:
            branches = [raw.towers["class"], raw.towers["box"]]
            if all(map(_same, *branches)):
                del branches[1]
            parts = [_pooled(levels, units, evidence.upsampling) for levels in branches]
            measured.append(torch.cat(parts, 1))
        return torch.stack(measured)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two maps are one and the same, not only of the same values."""
    return one.data_ptr() == other.data_ptr()


def _pooled(levels: Sequence[Tensor], units: Units, upsampling: Upsampling) -> Tensor:
    """(units, D) of maps (D, h, w)."""
    means = []
    for level in levels:
        sums, counts = units.pool(level[None], upsampling)
        means.append(sums[0] / counts[:, None])
    alike = len({mean.shape[1] for mean in means}) == 1
    return torch.stack(means).mean(0) if alike else torch.cat(means, 1)
