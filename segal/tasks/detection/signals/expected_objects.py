"""Detection's way to expect objects."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.signals.base import Workbench
from segal.signals.expected_objects import ExpectedObjects
from segal.tasks.detection.evidence import Detections
from segal.tasks.detection.signals.elements import Measured, lay_out, of_detections


@dataclass(frozen=True)
class SumOfScores(Measured):
    """See `ExpectedObjects`; a box belongs to the unit that holds its centre."""

    signal: ExpectedObjects
    catch: ClassVar[tuple[str, ...]] = ()

    def prepare(self, bench: Workbench) -> "SumOfScores":
        """Itself."""
        return self

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) float64."""
        return torch.stack([_sums(x, units) for x in of_detections(evidence).detections])


def _sums(found: Detections, units: Units) -> Tensor:
    index, slices = lay_out(found, units)
    scores = found.scores.double()[index]
    return torch.stack([part.sum() for part in torch.split(scores, list(slices.lengths))])
