"""UWE's embedding of an image, or a tile of it: its boxes' embeddings, class by class."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.functional.class_wise import class_wise
from segal.models.wrapped import FEATURES, Model
from segal.signals import Value
from segal.signals.base import Workbench
from segal.signals.class_wise import ClassWiseEmbedding
from segal.tasks.detection.signals.elements import Measured, elements, lay_out, of_detections


@dataclass(frozen=True)
class ClassWise(Measured):
    """`ClassWiseEmbedding` of detections; a box is of the class that it was found for.

    u is the uncertainty of a box's distribution over the classes, without the background, and f the
    input of the class branch's last layer at the box (see `Detections.features`).
    """

    signal: ClassWiseEmbedding

    def check(self, model: Model) -> None:
        """Raises a SegalError if the network gives no features."""
        model.check_features()

    def prepare(self, bench: Workbench) -> "_Meter":
        """Ready as it is."""
        return _Meter(self.signal, bench.model.spec.num_classes)


@dataclass(frozen=True)
class _Meter:
    signal: ClassWiseEmbedding
    classes: int
    catch: ClassVar[tuple[str, ...]] = (FEATURES,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C * D) float32."""
        batch = of_detections(evidence)
        value = Value(self.signal.uncertainty)
        measured = []
        for image, found in enumerate(batch.detections):
            index, slices = lay_out(found, units)
            one, _ = elements(batch, image, units)
            u = value.element_map(one)[0, 0, : len(index)]
            assert found.features is not None
            groups = slices.units().to(index) * self.classes + found.classes[index]
            by_class = class_wise(
                self._weights(u, batch.images[image : image + 1]),
                u,
                found.features[index],
                groups,
                len(units) * self.classes,
                self.signal.reduce,
            )
            measured.append(by_class.reshape(len(units), -1))
        return torch.stack(measured)

    def _weights(self, u: Tensor, name: Sequence[str]) -> Tensor:
        """u^tau."""
        if bool((u < 0).any()):
            raise ValueError(f"{self.signal.uncertainty}: expected an uncertainty of at least 0")
        weights = u**self.signal.tau
        if bool((weights.isinf() & u.isfinite()).any()):
            raise SegalError(
                f"strategy.tau: {self.signal.tau:g} takes the embeddings out of range",
                expected="embeddings that float32 can hold",
                got=f"uncertainties up to {float(u.max()):g}, {' '.join(name)}",
                remedy="give a smaller --tau",
            )
        return weights
