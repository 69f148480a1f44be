"""Boxes as elements: signals of `segal.signals` measured on the boxes that a detector finds.

The boxes of an image are laid out as a map of 1 x N elements, unit after unit, so that each unit is
a slice of it. A box belongs to the unit that holds its centre; where units overlap it is laid out
for each of them, and a box whose centre no unit holds, or that has no area, is left out. A unit
without a box has the value 0 and the embedding 0.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.evidence import Evidence, Units, Upsampling
from segal.models.wrapped import Model
from segal.signals.base import AsksOfNetwork, Meter, Need, Signal, Workbench
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.objects import Objects


@dataclass(frozen=True)
class Slices:
    """Units that are neighbouring slices of a map of 1 x N elements.

    Attributes:
        lengths: How many elements each has, from the first element on; none is left between them.
    """

    lengths: tuple[int, ...]
    excluded: ClassVar[tuple[tuple[int, int, int, int], ...]] = ()

    def __len__(self) -> int:
        return len(self.lengths)

    def boxes(self) -> NDArray[np.int32]:
        """(n, 4): (start, 0, end, 1), of no width where a unit has no element."""
        ends = np.cumsum(self.lengths, dtype=np.int32)
        starts = ends - np.array(self.lengths, np.int32)
        return np.stack([starts, np.zeros_like(ends), ends, np.ones_like(ends)], 1)

    def pool(
        self, element_map: Tensor, upsampling: Upsampling | None = None
    ) -> tuple[Tensor, Tensor]:
        """Sums over each unit, and what their means are divided by; see `evidence.Units`.

        Args:
            element_map: (B, D, 1, N).
            upsampling: Of no use: a map of elements has one for each.

        Returns:
            Sums (B, n, D) and counts (n,), at least 1, both float64.
        """
        sums = [part.double().sum(-1) for part in self._parts(element_map)]
        counts = torch.tensor(self.lengths, dtype=torch.float64, device=element_map.device)
        return torch.stack(sums, 1), counts.clamp_(min=1)

    def pool_max(self, element_map: Tensor) -> Tensor:
        """Largest value in each unit of a (B, D, 1, N) map, 0 without an element: (B, n, D)."""
        largest = [
            part.amax(-1) if part.shape[-1] else part.new_zeros(part.shape[:-1])
            for part in self._parts(element_map)
        ]
        return torch.stack(largest, 1)

    def units(self) -> Tensor:
        """(N,) int64, the unit of every element."""
        return torch.arange(len(self)).repeat_interleave(torch.tensor(self.lengths))

    def _parts(self, element_map: Tensor) -> list[Tensor]:
        """(B, D, k) of each unit."""
        inside = element_map[:, :, 0, : sum(self.lengths)]
        return list(torch.split(inside, list(self.lengths), -1))


def lay_out(found: Detections, units: Units) -> tuple[Tensor, Slices]:
    """The boxes of an image, unit after unit.

    Args:
        found: N boxes.
        units: Of the image, in its pixels.

    Returns:
        (k,) int64 indices of the boxes, of each unit in their own order; and the units as slices.
    """
    held = holding(found.boxes, units)
    index = torch.from_numpy(held.nonzero()[1]).to(found.boxes.device)
    return index, Slices(tuple(held.sum(1).tolist()))


def holding(boxes: Tensor, units: Units) -> NDArray[np.bool_]:
    """(units, N) which of N boxes (N, 4) each unit holds the centres of.

    One without area, such as what lay beyond the image and was clipped to its edge, is no box: as
    in labels, nothing holds it.
    """
    corners = boxes.detach().double().cpu().numpy()
    count = len(corners)
    objects = Objects(corners, np.zeros(count, np.int64), np.zeros(count, np.bool_), ())
    there = (corners[:, :2] < corners[:, 2:]).all(1)
    held: NDArray[np.bool_] = objects.held(units.boxes()) & there
    return held


def elements(evidence: DetectionEvidence, image: int, units: Units) -> tuple[Evidence, Slices]:
    """An image's boxes as the evidence of a map of 1 x N elements.

    Args:
        evidence: Of a batch.
        image: Which of its images.
        units: Of the image, in its pixels.

    Returns:
        Evidence whose logits are (1, C, 1, N) and features, where they were caught, (1, D, 1, N);
        and the units as slices of it. Where no unit has a box there is one element, of equal
        probabilities and no features, that is of no unit.
    """
    found = evidence.detections[image]
    index, slices = lay_out(found, units)
    before = sum(len(one) for one in evidence.detections[:image])
    logits = evidence.logits[..., before + index]
    features = None if found.features is None else found.features[index].T[None, :, None]
    if not len(index):
        logits = logits.new_zeros((*logits.shape[:-1], 1))
        features = None if features is None else features.new_zeros((*features.shape[:-1], 1))
    one = Evidence(
        logits,
        features,
        Upsampling((1, logits.shape[-1]), align_corners=False),
        inputs=evidence.inputs[image, None] if isinstance(evidence.inputs, Tensor) else None,
        images=evidence.images[image : image + 1],
    )
    return one, slices


def of_detections(evidence: Evidence) -> DetectionEvidence:
    """Evidence as that of a detector, which the task's own pass gives."""
    if not isinstance(evidence, DetectionEvidence):
        raise TypeError(f"expected DetectionEvidence, got {type(evidence).__name__}")
    return evidence


@dataclass(frozen=True)
class Measured:
    """A way to measure a signal, under its column.

    Attributes:
        signal: As a strategy asks for it.
    """

    signal: Signal

    @property
    def column(self) -> str:
        """The signal's."""
        return self.signal.column

    @property
    def needs(self) -> frozenset[Need]:
        """The signal's."""
        return self.signal.needs

    @property
    def of_labelled(self) -> bool:
        """The signal's."""
        return self.signal.of_labelled


@dataclass(frozen=True)
class OfBoxes(Measured):
    """A signal, measured as it is on boxes as elements; see the module."""

    def check(self, model: Model) -> None:
        """As the signal does."""
        if isinstance(self.signal, AsksOfNetwork):
            self.signal.check(model)

    def prepare(self, bench: Workbench) -> Meter:
        """As the signal does."""
        return _BoxMeter(self.signal.prepare(bench))


@dataclass(frozen=True, eq=False)
class _BoxMeter:
    meter: Meter

    @property
    def catch(self) -> tuple[str, ...]:
        """The meter's."""
        return self.meter.catch

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """As the meter does, image by image."""
        found = of_detections(evidence)
        images = range(len(found.detections))
        return torch.cat([self.meter.measure(*elements(found, i, units)) for i in images])
