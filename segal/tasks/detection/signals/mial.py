"""The discrepancy of two class heads about the anchors of a candidate."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.functional.mial import discrepancy, image_discrepancy
from segal.models.wrapped import Model
from segal.signals.base import Meter, Workbench
from segal.signals.mial import Discrepancy
from segal.tasks.detection.detectors.base import RAW
from segal.tasks.detection.detectors.two_heads import HeadOutputs
from segal.tasks.detection.evidence import RawOutputs
from segal.tasks.detection.mial import two_heads
from segal.tasks.detection.signals.elements import Measured, of_detections


@dataclass(frozen=True)
class OfAnchors(Measured):
    """`Discrepancy` of a detector: its instances are the anchors whose centre a candidate holds.

    Anchors in what the detector pads its input by are of no candidate. One without an anchor has 0.
    """

    signal: Discrepancy

    def check(self, model: Model) -> None:
        """Raises a NoHeadError if the network has no two class heads."""
        two_heads(model)

    def prepare(self, bench: Workbench) -> Meter:
        """The meter.

        Raises:
            NoHeadError: If the network has no two class heads.
        """
        self.check(bench.model)
        return _AnchorMeter(self.signal)


@dataclass(frozen=True)
class _AnchorMeter:
    signal: Discrepancy
    catch: ClassVar[tuple[str, ...]] = (RAW,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        return torch.stack([self._of_image(raw, units) for raw in of_detections(evidence).raw])

    def _of_image(self, raw: RawOutputs, units: Units) -> Tensor:
        signal = self.signal
        values = discrepancy(*HeadOutputs.of_image(raw).probabilities, squared=signal.squared)
        x, y = anchor_centres(raw).T
        boxes = units.boxes().tolist()
        held = ((x0 <= x) & (x < x1) & (y0 <= y) & (y < y1) for x0, y0, x1, y1 in boxes)
        inside = [image_discrepancy(values[here], signal.reduction, signal.k) for here in held]
        return torch.stack(inside).double()


def anchor_centres(raw: RawOutputs) -> Tensor:
    """(A, 2) float32, x and y of each anchor's centre in pixels of the image."""
    assert raw.anchors is not None
    corners = raw.anchors.float()
    return (corners[:, :2] + corners[:, 2:]) / 2 * corners.new_tensor(raw.scale)
