"""Detection's way to measure the consistency of an image with views of it (CALD)."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.functional.divergence import jensen_shannon
from segal.functional.overlaps import best_overlaps, distance_to_base
from segal.functional.prototypes import class_maxima
from segal.models.wrapped import Model
from segal.signals.base import Workbench
from segal.signals.view_consistency import ViewClasses, ViewConsistency
from segal.system.machine import Precision
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.signals.elements import Measured, lay_out, of_detections
from segal.tasks.detection.signals.views import (
    VIEWS,
    Size,
    ViewName,
    carried,
    inputs_of,
    inverse,
    look,
    seeded,
    view_matrix,
    view_of,
    view_size,
)

_TINY = 1e-30


@dataclass(frozen=True)
class ConsistencyOfBoxes(Measured):
    """See `ViewConsistency`."""

    signal: ViewConsistency

    def prepare(self, bench: Workbench) -> "_ConsistencyMeter":
        """Takes what views are made with."""
        return _ConsistencyMeter(_Views.of(bench), self.signal.base)


@dataclass(frozen=True)
class ClassesInViews(Measured):
    """See `ViewClasses`."""

    signal: ViewClasses

    def prepare(self, bench: Workbench) -> "_ClassMeter":
        """Takes what views are made with."""
        return _ClassMeter(_Views.of(bench))


@dataclass(frozen=True)
class _Views:
    """What is found in views of a batch's images: once for all signals that look at it."""

    model: Model
    seed: int
    precision: Precision

    @classmethod
    def of(cls, bench: Workbench) -> "_Views":
        return cls(bench.model, bench.seed, bench.precision)

    def found(self, evidence: DetectionEvidence) -> list[list[Detections]]:
        """Of each image, of each view; in the view's own coordinates."""
        rows = evidence.once(("views", self.seed), lambda: self._rows(evidence))
        return [
            [
                _unpacked(rows[(rows[:, 0] == image) & (rows[:, 1] == view)])
                for view in range(len(VIEWS))
            ]
            for image in range(len(evidence.detections))
        ]

    def _rows(self, evidence: DetectionEvidence) -> Tensor:
        """(M, 8 + C) float64: image, view, box, class, score and probabilities of each box."""
        black = -self.model.get_buffer("mean") / self.model.get_buffer("std")
        images = zip(evidence.images, inputs_of(evidence), evidence.detections, strict=True)
        rows = []
        for number, (path, image, one) in enumerate(images):
            for view, name in enumerate(VIEWS):
                generator = seeded(self.seed, path, name)
                picture = view_of(name, image, one.boxes, black, generator)
                rows.append(_packed(number, view, look(self.model, picture, self.precision)))
        return torch.cat(rows)


def _packed(image: int, view: int, found: Detections) -> Tensor:
    place = found.boxes.new_tensor([[image, view]], dtype=torch.float64).expand(len(found), 2)
    columns = (found.boxes, found.classes[:, None], found.scores[:, None], found.probabilities)
    return torch.cat([place, *(column.double() for column in columns)], 1)


def _unpacked(rows: Tensor) -> Detections:
    own = torch.arange(len(rows), device=rows.device)
    return Detections(rows[:, 2:6], rows[:, 8:], rows[:, 6].long(), rows[:, 7], None, own)


@dataclass(frozen=True, eq=False)
class _ConsistencyMeter:
    views: _Views
    base: float
    catch: ClassVar[tuple[str, ...]] = ()

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        found = of_detections(evidence)
        height, width = inputs_of(found).shape[2:]
        images = zip(found.detections, self.views.found(found), strict=True)
        return torch.stack([self._of_units(*one, (height, width), units) for one in images])

    def _of_units(
        self, found: Detections, in_views: list[Detections], size: Size, units: Units
    ) -> Tensor:
        """(units,)."""
        views = zip(VIEWS, in_views, strict=True)
        distances = torch.stack([self._distances(found, size, *view) for view in views])
        index, slices = lay_out(found, units)
        nothing = distances.new_tensor(max(self.base, 2 - self.base))
        return torch.stack(
            [
                distances[:, inside].amin(1).mean() if len(inside) else nothing
                for inside in torch.split(index, list(slices.lengths))
            ]
        )

    def _distances(self, found: Detections, size: Size, name: ViewName, seen: Detections) -> Tensor:
        """(N,) of the boxes of an image in one view."""
        if not len(seen):
            return found.boxes.new_zeros(len(found), dtype=torch.float64)
        boxes = carried(found.boxes, view_matrix(name, size), view_size(name, size))
        overlap, index = best_overlaps(boxes, seen.boxes)
        other = seen.probabilities[index]
        divergence = jensen_shannon(_distribution(found.probabilities), _distribution(other))
        certainty = found.probabilities.amax(1), other.amax(1)
        return distance_to_base(overlap, *certainty, divergence, self.base)


def _distribution(probabilities: Tensor) -> Tensor:
    """(N, C) over classes, or (N, 2) over object and not where there is one class."""
    if probabilities.shape[1] == 1:
        probabilities = torch.cat([probabilities, 1 - probabilities], 1)
    return probabilities.double().clamp_min(_TINY)


@dataclass(frozen=True, eq=False)
class _ClassMeter:
    views: _Views
    catch: ClassVar[tuple[str, ...]] = ()

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C) float64."""
        found = of_detections(evidence)
        height, width = inputs_of(found).shape[2:]
        back = [inverse(view_matrix(name, (height, width))) for name in VIEWS]
        rows = []
        for one, in_views in zip(found.detections, self.views.found(found), strict=True):
            looks = [class_scores(one, units)]
            for seen, matrix in zip(in_views, back, strict=True):
                looks.append(class_scores(seen, units, carried(seen.boxes, matrix)))
            rows.append(torch.stack(looks).mean(0))
        return torch.stack(rows)


def class_scores(found: Detections, units: Units, boxes: Tensor | None = None) -> Tensor:
    """The highest score of the boxes of each class in each unit.

    Args:
        found: N boxes.
        units: Of the image, in its pixels.
        boxes: (N, 4) where the boxes are in the image, if not where they were found.

    Returns:
        (units, C) float64; 0 for a class without a box.
    """
    at = found if boxes is None else replace(found, boxes=boxes)
    index, slices = lay_out(at, units)
    count = found.probabilities.shape[1]
    return torch.stack(
        [
            class_maxima(found.scores[inside], found.classes[inside], count)
            for inside in torch.split(index, list(slices.lengths))
        ]
    )
