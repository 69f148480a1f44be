"""BADGE's gradient of an image, or a tile of it, by the last layers of several branches."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.models.wrapped import Model
from segal.signals.base import Workbench
from segal.signals.branch_gradient import BranchGradient
from segal.tasks.detection.detectors.base import RAW
from segal.tasks.detection.evidence import Detections, RawOutputs
from segal.tasks.detection.signals.branches import LastLayers
from segal.tasks.detection.signals.class_layer import class_layers
from segal.tasks.detection.signals.elements import Measured, holding, of_detections
from segal.tasks.detection.signals.gradients import ClassMeter
from segal.tasks.detection.signals.influence import inside
from segal.tasks.detection.signals.last_layers import last_layers

_OF_BOXES = ("bbox_regression", "bbox_ctrness")
_OF_PROPOSALS = ("objectness", "rpn_regression")


@dataclass(frozen=True)
class GradientOfBranches(Measured):
    """`BranchGradient` of detections: BADGE (CLS+REG) and (CLS+REG+RPN) of UWE's appendix A.3.

    What is of the classes is as `ClassGradient` has it. The branch of the boxes has no likeliest
    answer to be taken for the true one, and the gradient by its own answers would be zero; UWE does
    not say what it took. Here the detector's own loss of boxes, and of the proposals, is
    differentiated as in training on the image with its detections as the boxes, those without area
    left out: every anchor, cell or proposal that stands for one is drawn to it. FCOS's centerness
    is of the boxes. A tile has those whose centre it holds, divided by what it alone has, and the
    gradient 0 where it holds no box. Biases are left out, too.
    """

    signal: BranchGradient

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network has no such branches.

        Args:
            model: The network.
        """
        class_layers(model)
        there = [branch.name for branch in last_layers(model).branches]
        if "rpn" in self.signal.branches and not set(_OF_PROPOSALS) <= set(there):
            raise SegalError(
                f"strategy.branches: {self.signal.branches}, of a detector without proposals",
                expected="cls or cls+reg; only Faster R-CNN has the branch rpn",
                got=model.spec.architecture,
                remedy="take strategy.branches=cls+reg",
            )

    def prepare(self, bench: Workbench) -> "_Meter":
        """Finds the layers.

        Raises:
            SegalError: As `check`.
        """
        self.check(bench.model)
        wanted = _OF_BOXES + (_OF_PROPOSALS if "rpn" in self.signal.branches else ())
        layers = last_layers(bench.model)
        weights = {
            f"{one.name}.weight": one.layer.weight.detach()
            for one in layers.branches
            if one.name in wanted
        }
        return _Meter(ClassMeter(tuple(class_layers(bench.model))), layers, weights)


@dataclass(frozen=True, eq=False)
class _Meter:
    of_classes: ClassMeter
    layers: LastLayers
    weights: Mapping[str, Tensor]
    catch: ClassVar[tuple[str, ...]] = (RAW,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, weights) float32."""
        batch = of_detections(evidence)
        images = zip(batch.detections, batch.raw, strict=True)
        further = torch.stack([self._of_image(*image, units) for image in images])
        return torch.cat([self.of_classes.measure(evidence, units), further], 2)

    def _of_image(self, found: Detections, raw: RawOutputs, units: Units) -> Tensor:
        """(units, weights) by all but the class layers."""
        places = torch.from_numpy(units.boxes()).to(found.boxes.device)
        width = sum(weight.numel() for weight in self.weights.values())
        gradients = torch.zeros(len(places), width, device=places.device)
        x0, y0, x1, y1 = found.boxes.unbind(1)
        found = found.keep((x0 < x1) & (y0 < y1))
        assert raw.sizes is not None
        size, resized = raw.sizes
        holders = np.flatnonzero(holding(found.boxes, units).any(1))
        scale = (size[1] / resized[1], size[0] / resized[0])
        parts: list[dict[str, Tensor]] = [{} for _ in holders]
        for stage in self.layers.compared(raw, {"boxes": found.boxes, "labels": found.classes}):
            slopes = self.layers.by_layer(stage)
            asked = {k: v for k, v in slopes.items() if f"{k}.weight" in self.weights}
            held = inside(stage.anchors, scale, size, places)[holders]
            for part, own in zip(parts, held, strict=True):
                of_unit = replace(
                    stage, positive=stage.positive & own, negative=stage.negative & own
                )
                part.update(self.layers.by_parameters(raw, asked, of_unit.weights()))
        for unit, part in zip(holders.tolist(), parts, strict=True):
            gradients[unit] = torch.cat([part[name].flatten() for name in self.weights])
        return gradients
