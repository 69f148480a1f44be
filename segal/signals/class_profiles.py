"""The signal of CDAL: what a candidate's predictions look like, class by class."""

from dataclasses import dataclass

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.functional.divergence import class_profile
from segal.functional.labels import predicted_classes
from segal.signals.base import PlainSignal, Pooled
from segal.signals.labels import softmax
from segal.signals.values import Value

_ENTROPY = Value("entropy")


@dataclass(frozen=True)
class ClassProfiles(PlainSignal, Pooled):
    """Per predicted class the entropy-weighted mean of the softmax vectors over its pixels.

    An embedding of C x C columns, row by row; the row of a class that is predicted nowhere in the
    candidate is zeros. Where a class's entropies are all 0, its mean is the plain one.
    """

    @property
    def column(self) -> str:
        """Column name."""
        return "class_profiles"

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, units, C * C) float64."""
        entropy = _ENTROPY.element_map(evidence)
        maps = zip(softmax(evidence), entropy, predicted_classes(evidence.logits, 1), strict=True)
        boxes, shown = units.boxes().tolist(), torch.ones_like(entropy[0], dtype=torch.bool)
        for x0, y0, x1, y1 in units.excluded:
            shown[y0:y1, x0:x1] = False
        return torch.stack([_of_image(*image, shown, boxes) for image in maps])


def _of_image(
    probabilities: Tensor, entropy: Tensor, predicted: Tensor, shown: Tensor, boxes: list[list[int]]
) -> Tensor:
    """(units, C * C), from the maps (C, H, W), (H, W), (H, W) and (H, W) of an image."""
    profiles = []
    for x0, y0, x1, y1 in boxes:
        inside = (..., slice(y0, y1), slice(x0, x1))
        own = shown[inside].flatten()
        profile = class_profile(
            probabilities[inside].flatten(1)[:, own],
            entropy[inside].flatten()[own],
            predicted[inside].flatten()[own],
        )
        profiles.append(profile.flatten())
    return torch.stack(profiles)
