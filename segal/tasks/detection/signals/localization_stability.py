"""Detection's way to measure how little boxes move under noise."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.functional.overlaps import best_overlaps, weighted_stability
from segal.models.wrapped import Model
from segal.signals.base import Workbench
from segal.signals.localization_stability import LocalizationStability
from segal.system.machine import Precision
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.signals.elements import Measured, lay_out, of_detections
from segal.tasks.detection.signals.views import inputs_of, look, seeded


@dataclass(frozen=True)
class BoxesUnderNoise(Measured):
    """See `LocalizationStability`."""

    signal: LocalizationStability

    def prepare(self, bench: Workbench) -> "_Meter":
        """Takes what noise is drawn from."""
        return _Meter(self.signal, bench.model, bench.seed, bench.precision)


@dataclass(frozen=True, eq=False)
class _Meter:
    signal: LocalizationStability
    model: Model
    seed: int
    precision: Precision
    catch: ClassVar[tuple[str, ...]] = ()

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        found = of_detections(evidence)
        all_overlaps = found.once(self.signal, lambda: self._overlaps(found))
        counts = [len(one) for one in found.detections]
        rows = [
            _of_units(one, overlaps, units)
            for one, overlaps in zip(
                found.detections, torch.split(all_overlaps, counts, 1), strict=True
            )
        ]
        return torch.stack(rows)

    def _overlaps(self, evidence: DetectionEvidence) -> Tensor:
        """(levels, N) of all boxes of a batch, with their counterparts."""
        images = zip(evidence.images, inputs_of(evidence), evidence.detections, strict=True)
        return torch.cat([self._of_image(*one) for one in images], 1)

    def _of_image(self, path: str, image: Tensor, found: Detections) -> Tensor:
        levels = self.signal.levels
        if not len(found):
            return image.new_zeros(levels, 0, dtype=torch.float64)
        unit = 1 / (255 * self.model.get_buffer("std"))  # a pixel value, once it is normalised
        overlaps = []
        for level in range(1, levels + 1):
            generator = seeded(self.seed, path, f"noise {level}")
            noise = generator.standard_normal(tuple(image.shape), np.float32)
            added = torch.from_numpy(noise).to(image.device) * (level * self.signal.step * unit)
            noisy = look(self.model, image + added, self.precision)
            overlaps.append(best_overlaps(found.boxes, noisy.boxes)[0])
        return torch.stack(overlaps)


def _of_units(found: Detections, overlaps: Tensor, units: Units) -> Tensor:
    """(units,)."""
    index, slices = lay_out(found, units)
    certainty = found.probabilities.amax(1)
    return torch.stack(
        [
            weighted_stability(overlaps[:, inside], certainty[inside])
            for inside in torch.split(index, list(slices.lengths))
        ]
    )
