"""BADGE's gradient of an image, or a tile of it, by the class branch's last layers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.models.wrapped import Model
from segal.signals import Pseudo, RegionGradient
from segal.signals.base import Workbench
from segal.tasks.detection.detectors.base import RAW
from segal.tasks.detection.evidence import Detections, RawOutputs
from segal.tasks.detection.signals.class_layer import at_boxes, class_layers
from segal.tasks.detection.signals.elements import Measured, lay_out, of_detections


@dataclass(frozen=True)
class ClassGradient(Measured):
    """`RegionGradient` of detections: BADGE (CLS) of UWE's appendix A.3.

    The gradient of the mean loss of a unit's boxes by the weights of the class branch's last
    layers, bias left out; boxes stay where they are. A box's label is the class that it was found
    for. Its loss is the cross-entropy of a softmax over the classes and the background (Faster
    R-CNN, SSD), or the sum over the classes of those of the sigmoids, without focal weights
    (RetinaNet, FCOS, DETR kinds).

    The embedding has as many numbers as the weights: of Faster R-CNN (C + 1) * D, of RetinaNet
    9 * A * C * D with A anchors of a cell, of SSD those of all levels.
    """

    signal: RegionGradient

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network is not looked into, or another gradient is asked for.

        Args:
            model: The network.
        """
        asked = self.signal
        if asked.layers != "last" or asked.labels != Pseudo() or asked.bias:
            raise SegalError(
                f"{asked.column}: not of a detector",
                expected="the gradient by the class branch's last layer, without its bias, with "
                "the class found as the label",
                got=f"layers {asked.layers}, labels {asked.labels.name}",
                remedy="give strategy.layers=last, or use another strategy",
            )
        class_layers(model)

    def prepare(self, bench: Workbench) -> "ClassMeter":
        """Finds the layers.

        Raises:
            SegalError: As `check`.
        """
        self.check(bench.model)
        return ClassMeter(tuple(class_layers(bench.model)))


@dataclass(frozen=True, eq=False)
class ClassMeter:
    """Measures gradients by class layers.

    Attributes:
        layers: They.
    """

    layers: Sequence[nn.Conv2d | nn.Linear]
    catch: ClassVar[tuple[str, ...]] = (RAW,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, weights) float32."""
        batch = of_detections(evidence)
        images = zip(batch.detections, batch.raw, strict=True)
        return torch.stack([self._of_image(*image, units) for image in images])

    def _of_image(self, found: Detections, raw: RawOutputs, units: Units) -> Tensor:
        """(units, weights)."""
        index, slices = lay_out(found, units)
        source = found.source[index]
        residuals = _residuals(raw, source, found.classes[index])
        calls = at_boxes(self.layers, raw, source)
        starts: dict[nn.Module, int] = {}
        width = 0
        for one in calls:
            if one.layer not in starts:
                starts[one.layer] = width
                width += one.count * residuals.shape[1] * one.inputs.flatten(1).shape[1]
        gradients = torch.zeros(len(units), width, device=index.device)
        unit_of = slices.units().to(index.device)
        for one in calls:
            keys = unit_of[one.boxes] * one.count + one.anchors
            for key in sorted(set(keys.tolist())):
                own = torch.where(keys == key)[0]
                unit, anchor = divmod(key, one.count)
                sums = residuals[one.boxes[own]].T @ one.inputs[own].flatten(1).double()
                start = starts[one.layer] + anchor * sums.numel()
                mean = (sums / slices.lengths[unit]).flatten().float()
                gradients[unit, start : start + sums.numel()] += mean
        return gradients


def _residuals(raw: RawOutputs, source: Tensor, classes: Tensor) -> Tensor:
    """(n, K) float64 gradients of boxes' losses by their logits, K as of the raw outputs."""
    logits = raw.logits[source].double()
    probabilities = logits.softmax(1) if raw.softmax else logits.sigmoid()
    labels = classes + 1 if raw.softmax else classes
    return probabilities - F.one_hot(labels, logits.shape[1])
