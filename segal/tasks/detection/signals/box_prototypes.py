"""Detection's way to measure boxes without repetitions, and their prototypes (ENMS, DivProto)."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.functional.prototypes import binary_entropy, class_prototypes, entropy_nms
from segal.models.wrapped import FEATURES, Model
from segal.signals.base import Workbench
from segal.signals.box_prototypes import BoxPrototypes, ClassScores, EntropyAfterNMS
from segal.tasks.detection.evidence import Detections
from segal.tasks.detection.signals.elements import Measured, lay_out, of_detections
from segal.tasks.detection.signals.view_consistency import class_scores


@dataclass(frozen=True)
class WithoutRepetitions(Measured):
    """See `EntropyAfterNMS` and `BoxPrototypes`."""

    signal: EntropyAfterNMS | BoxPrototypes

    def check(self, model: Model) -> None:
        """Raises a NoHeadError if the detector gives no features."""
        model.check_features()

    def prepare(self, bench: Workbench) -> "_Meter":
        """Checks the detector.

        Raises:
            NoHeadError: As `check`.
        """
        bench.once(("features are there",), lambda: self.check(bench.model))
        return _Meter(self.signal)


@dataclass(frozen=True, eq=False)
class _Meter:
    signal: EntropyAfterNMS | BoxPrototypes
    catch: ClassVar[tuple[str, ...]] = (FEATURES,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units) or (B, units, C * D) float64."""
        of_unit = _entropy if isinstance(self.signal, EntropyAfterNMS) else _prototypes
        rows = [
            torch.stack([of_unit(kept) for kept in _kept(one, units, self.signal.threshold)])
            for one in of_detections(evidence).detections
        ]
        return torch.stack(rows)


def _kept(found: Detections, units: Units, threshold: float) -> Iterator[Detections]:
    """Of each unit the boxes that repeat no other."""
    assert found.features is not None  # they were caught
    entropies = _entropies(found)
    index, slices = lay_out(found, units)
    for inside in torch.split(index, list(slices.lengths)):
        own = found.keep(inside)
        assert own.features is not None
        yield own.keep(entropy_nms(entropies[inside], own.classes, own.features, threshold))


def _entropies(found: Detections) -> Tensor:
    """(N,) of the classes that boxes were found for."""
    return binary_entropy(found.probabilities.gather(1, found.classes[:, None])[:, 0])


def _entropy(kept: Detections) -> Tensor:
    return _entropies(kept).sum()


def _prototypes(kept: Detections) -> Tensor:
    assert kept.features is not None
    count = kept.probabilities.shape[1]
    return class_prototypes(kept.features, _entropies(kept), kept.classes, count).flatten()


@dataclass(frozen=True)
class ScoresOfClasses(Measured):
    """See `ClassScores`."""

    signal: ClassScores
    catch: ClassVar[tuple[str, ...]] = ()

    def prepare(self, bench: Workbench) -> "ScoresOfClasses":
        """Itself."""
        return self

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C) float64."""
        return torch.stack([class_scores(x, units) for x in of_detections(evidence).detections])
