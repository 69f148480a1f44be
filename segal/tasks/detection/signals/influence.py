"""What adding an image's own detections to the training set would do: influence of a detector.

The loss of a candidate is the detector's own (see `last_layers`), with its detections above
`PSEUDO_SCORE` as the boxes (ISAL, Algorithm 1, lines 5-7), differentiated by the last layers. Its
derivative along a vector needs no pass back: see there.

A tile of an image has the loss of those anchors, cells or proposals whose centres it holds, what
they stand for being decided in the whole image, divided by what the tile alone has. A candidate
that holds no such box has nothing to be trained on: it is `UNSCORED` and ranks last (the authors'
code fills up with such images).

RALIF is not measured: its labels are one class of a candidate, or several weighted by probabilities
that sum to one, which a set of boxes over a background does not have; with the likeliest class it
would be ISAL with the pool as the reference set. Its own paper says that it is made for
classification.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NoReturn, cast

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.data.image_sets import SetName
from segal.errors import SegalError, raise_all
from segal.models.wrapped import Model
from segal.signals.base import NOT_FINITE, Direction, Need, Parameters, Workbench
from segal.signals.directional import UNSCORED, Directional
from segal.signals.directions import Influence, ReferenceGradient
from segal.signals.influence import EstimatedLoss
from segal.signals.labels import Pseudo
from segal.tasks.detection.detectors.base import RAW
from segal.tasks.detection.evidence import DetectionEvidence, Detections, RawOutputs
from segal.tasks.detection.signals.branches import LastLayers, Stage
from segal.tasks.detection.signals.curvature import curvature, labelled
from segal.tasks.detection.signals.elements import holding
from segal.tasks.detection.signals.last_layers import last_layers

PSEUDO_SCORE = 0.1
"""Detections of a higher score are taken for the boxes of an image."""


def pseudo_boxes(found: Detections) -> Detections:
    """Detections that are taken for the boxes of an image.

    Those without area, such as of FCOS and of what is clipped to the image, are no boxes: a
    detector cannot be trained on them.
    """
    x0, y0, x1, y1 = found.boxes.unbind(1)
    return found.keep((found.scores > PSEUDO_SCORE) & (x0 < x1) & (y0 < y1))


@dataclass(frozen=True)
class BoxDirectional:
    """`Directional` of a detector: inner product of a candidate's gradient with a vector.

    Attributes:
        signal: What is measured.
    """

    signal: Directional
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """That of the signal."""
        return self.signal.column

    @property
    def needs(self) -> frozenset[Need]:
        """What the direction is computed from, with labels: the loss is not known without.

        Labels of the pool are never asked for: a direction of the pool is refused.
        """
        return frozenset(
            need if need.of == "pool" else need._replace(labels=True) for need in self.signal.needs
        )

    def check(self, model: Model) -> None:
        """Raises a SegalError if the detector or what is asked of it will not do."""
        mistakes = list(_mistakes(self.signal))
        try:
            last_layers(model)
        except SegalError as error:
            mistakes.append(error)
        raise_all(mistakes)

    def prepare(self, bench: Workbench) -> "BoxDirectionalMeter":
        """Computes the direction, unless another signal of the pass has done so.

        Raises:
            SegalError: As `check`, or if the direction cannot be computed.
        """
        self.check(bench.model)
        layers = last_layers(bench.model)
        vector = vector_of(self.signal.direction, bench)
        along = {name: vector[name].to(p) for name, p in layers.parameters.items()}
        return BoxDirectionalMeter(layers, along)


@dataclass(frozen=True, eq=False)
class BoxDirectionalMeter:
    """Measures directional derivatives.

    Attributes:
        layers: What is differentiated by.
        vector: Of the parameters' names, shapes and dtypes.
    """

    layers: LastLayers
    vector: Parameters
    catch: ClassVar[tuple[str, ...]] = (RAW,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64; `UNSCORED` where a unit holds no box."""
        boxes = cast(DetectionEvidence, evidence)
        pairs = zip(boxes.detections, boxes.raw, strict=True)
        return torch.stack([self._of_image(found, raw, units) for found, raw in pairs])

    def _of_image(self, found: Detections, raw: RawOutputs, units: Units) -> Tensor:
        found = pseudo_boxes(found)
        assert raw.sizes is not None
        size, resized = raw.sizes
        places = torch.from_numpy(units.boxes()).to(found.boxes.device)
        total = torch.zeros(len(places), dtype=torch.float64, device=places.device)
        holds = torch.from_numpy(holding(found.boxes, units).any(1)).to(places.device)
        if not holds.any():
            return total.fill_(UNSCORED)
        scale = (size[1] / resized[1], size[0] / resized[0])
        for stage in self.layers.compared(raw, {"boxes": found.boxes, "labels": found.classes}):
            member = inside(stage.anchors, scale, size, places)
            total += _of_units(stage, self.layers.along(raw, stage, self.vector), member)
        return total.masked_fill_(~holds, UNSCORED)


def _of_units(stage: Stage, slopes: Tensor, member: Tensor) -> Tensor:
    """(units,) float64, of each unit's loss."""
    positive, negative = (member & kind for kind in (stage.positive, stage.negative))
    of_positive, of_negative = stage.shares(positive.sum(1).double(), negative.sum(1).double())
    sums = [(slopes * kind).sum(1) for kind in (positive, negative)]
    return of_positive * sums[0] + of_negative * sums[1]


def inside(
    anchors: Tensor, scale: tuple[float, float], size: tuple[int, int], places: Tensor
) -> Tensor:
    """Which rectangles hold the centres of anchors; of one outside the image, the nearest.

    Args:
        anchors: (N, 4), or proposals, or cells.
        scale: Factors (x, y) that make their coordinates pixels of the image.
        size: (height, width) of the image.
        places: (U, 4) half-open, in pixels of the image.

    Returns:
        (U, N) bool.
    """
    x = ((anchors[:, 0] + anchors[:, 2]) * (scale[0] / 2)).floor().clamp(0, size[1] - 1)
    y = ((anchors[:, 1] + anchors[:, 3]) * (scale[1] / 2)).floor().clamp(0, size[0] - 1)
    x0, y0, x1, y1 = (edge[:, None] for edge in places.to(anchors).unbind(1))
    return (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)


def vector_of(direction: Direction, bench: Workbench) -> Parameters:
    """A direction in the space of the last layers' parameters; computed once for a pass.

    Args:
        direction: A `ReferenceGradient`, or an `Influence`: H^-1 times it.
        bench: The workbench.

    Returns:
        Float64 tensors by the names of the parameters.

    Raises:
        SegalError: If the direction cannot be computed, or is of another kind.
    """
    if isinstance(direction, ReferenceGradient):
        return set_gradient(bench, direction.of)
    if not isinstance(direction, Influence):
        raise SegalError(
            f"{direction.name}: not measured of a detector",
            expected="the gradient of a set of images, or its influence",
            got=type(direction).__name__,
            remedy="use isal, grad_similarity or error_change_first_order",
        )
    return bench.once(("of boxes", direction), lambda: _influence(direction, bench))


def _influence(direction: Influence, bench: Workbench) -> Parameters:
    gradient = set_gradient(bench, direction.of)
    if direction.inverse.method == "identity":
        return gradient
    hessian = curvature(bench, direction.hessian, direction.inverse.pixels)
    solution = direction.inverse.solve(hessian, hessian.flatten(gradient), bench)
    return hessian.unflatten(solution)


def set_gradient(bench: Workbench, of: SetName) -> Parameters:
    """The gradient of the mean over a set's images of each one's loss, float64.

    Raises:
        SegalError: If the set has no image, or the gradient is not finite.
    """
    return bench.once(("gradient of boxes", of), lambda: _set_gradient(bench, of))


def _set_gradient(bench: Workbench, of: SetName) -> Parameters:
    layers, images = last_layers(bench.model), 0
    total = {name: torch.zeros_like(p).double() for name, p in layers.parameters.items()}
    for image in labelled(bench, of):
        for name, part in layers.gradient(*image).items():
            total[name] += part.double()
        images += 1
        if not all(part.isfinite().all() for part in total.values()):
            raise SegalError(
                f"the {of} set: the gradient of its loss is not finite",
                expected="finite outputs and towers from the network",
                got=f"NaN or infinity at image {images} of the set",
                remedy=NOT_FINITE,
            )
    return {name: part / images for name, part in total.items()}


def _mistakes(signal: Directional) -> Sequence[SegalError]:
    direction: Any = signal.direction
    inverse = getattr(direction, "inverse", None)
    found = []
    if direction.layers != "last":
        found.append(
            SegalError(
                f"strategy.layers: {direction.layers}, of a detector",
                expected="last: the last layers of its branches (classes, boxes and centerness; of "
                "Faster R-CNN those of the RPN and of the RoI head)",
                got=direction.layers,
                remedy="take strategy.layers=last",
            )
        )
    if signal.labels != Pseudo():
        found.append(
            SegalError(
                "strategy.top_k, strategy.weighted: not of a detector",
                expected="top_k 1 and weighted false: an image's boxes are its label (ISAL, "
                "Algorithm 1)",
                got=signal.labels.name,
                remedy="leave both out",
            )
        )
    if signal.reduction != "mean":
        found.append(
            SegalError(
                f"strategy.reduction: {signal.reduction}, of a detector",
                expected="mean: a detector's loss is divided by what an image shows",
                got=signal.reduction,
                remedy="leave it out",
            )
        )
    if getattr(inverse, "method", None) == "cholesky":
        found.append(
            SegalError(
                "strategy.inverse: cholesky, of a detector",
                expected="cg or lissa: the last layers have too many parameters for a matrix",
                got="cholesky",
                remedy="take strategy.inverse=cg",
            )
        )
    return found


@dataclass(frozen=True)
class RefusedLoss(EstimatedLoss):
    """RALIF's `EstimatedLoss`, which a detector does not have: see the module."""

    def check(self, model: Model) -> None:
        """Raises a SegalError that says so."""
        _refuse_ralif()

    def prepare(self, bench: Workbench) -> NoReturn:
        """Raises a SegalError that says so."""
        _refuse_ralif()


def _refuse_ralif() -> NoReturn:
    raise SegalError(
        "ralif: made for one class of an element, not for the boxes of an image",
        expected="a task whose elements have one class each (RALIF's own paper leaves detection "
        "out)",
        got="a detector",
        remedy="take isal, which is the influence of an image's boxes",
    )


def measured_estimated_loss(signal: EstimatedLoss) -> RefusedLoss:
    """How detection refuses an `EstimatedLoss`."""
    return RefusedLoss(**{field.name: getattr(signal, field.name) for field in fields(signal)})
