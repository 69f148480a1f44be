"""Detection's way to count what is labelled already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.signals.base import Workbench
from segal.signals.labelled_objects import LabelledObjects
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.signals.elements import Measured


@dataclass(frozen=True)
class CountsOfObjects(Measured):
    """See `LabelledObjects`."""

    signal: LabelledObjects

    def prepare(self, bench: Workbench) -> "_Meter":
        """Reads the labels of what is bought.

        Raises:
            SegalError: If nothing is labelled, its labels are unknown, or one cannot be read.
        """
        known: dict[str, Objects] = bench.once(("labelled objects",), lambda: _known(bench))
        return _Meter(known, bench.model.spec.num_classes, bench.model.device)


def _known(bench: Workbench) -> dict[str, Objects]:
    images = bench.images("labelled")
    if images.dataset is None:
        raise SegalError(
            "the labelled images: their labels are unknown",
            expected="the data set that they are of, for the classes of what is labelled",
            got="regions alone",
            remedy="give training.root=FOLDER training.split=train",
        )
    return {images.pool.paths[i]: images.label(i) for i in images.indices()}


@dataclass(frozen=True, eq=False)
class _Meter:
    known: Mapping[str, Objects]
    classes: int
    device: torch.device
    catch: ClassVar[tuple[str, ...]] = ()

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C) float64."""
        counts = np.zeros((len(evidence.images), len(units), self.classes))
        for row, path in enumerate(evidence.images):
            if path in self.known:
                objects = self.known[path]
                held = objects.held(units.boxes()) & ~objects.crowd
                counts[row] = held @ np.eye(self.classes)[objects.classes]
        return torch.from_numpy(counts).to(self.device)
