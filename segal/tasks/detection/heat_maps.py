"""What MIAL's paper shows of a detector: heat maps of its anchors (figure 6)."""

import torch
from torch import Tensor

from segal.functional.mial import anchor_heat, discrepancy, weighted_discrepancy
from segal.models.mial import MialSettings
from segal.models.wrapped import Model
from segal.tasks.detection.detectors.base import RAW
from segal.tasks.detection.detectors.two_heads import HeadOutputs
from segal.tasks.detection.mial import MultipleInstance, two_heads


@torch.no_grad()
def heat_maps(
    model: Model, image: Tensor, settings: MialSettings | None = None
) -> dict[str, Tensor]:
    """Where an image's anchors have a large discrepancy or MIL score.

    Args:
        model: A detector with two class heads.
        image: (3, H, W), normalised.
        settings: How it was trained; the paper's by default. They say which MIL score it is, and
            what it is that re-weights the discrepancy.

    Returns:
        (H, W) float32 each, by name: the discrepancy (eq. 3), the re-weighted one (eq. 7; a mean
        over classes too) and the MIL score (eq. 5; the largest of the classes); see `anchor_heat`.

    Raises:
        NoHeadError: If the network has no two class heads.
    """
    found = two_heads(model).detect(image, (RAW,))
    assert found.raw is not None
    outputs = HeadOutputs.of_image(found.raw)
    scheme = MultipleInstance(settings or MialSettings(), 1)
    probabilities = outputs.probabilities
    values = {
        "discrepancy": discrepancy(*probabilities),
        "re-weighted discrepancy": weighted_discrepancy(*probabilities, scheme.weights(outputs)),
        "MIL score": scheme.scores(outputs).amax(-1),
    }
    shapes = [(x.shape[-2], x.shape[-1]) for x in found.raw.towers["class"]]
    anchors = [n // (h * w) for n, (h, w) in zip(outputs.levels, shapes, strict=True)]
    size = (image.shape[-2], image.shape[-1])
    return {
        name: anchor_heat(one, shapes, anchors, found.covers, size) for name, one in values.items()
    }
