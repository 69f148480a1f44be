"""MIAL's training of a detector with two class heads, and what it counts and draws of one.

After Yuan et al., "Multiple Instance Active Learning for Object Detection" (CVPR 2021), sections
3.2 and 3.3; equations are in `segal.functional.mial`, stages in `segal.models.mial`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from segal.functional.mial import (
    bag_score,
    level_mil_score,
    mil_loss,
    mil_score,
    pseudo_labels,
    weighted_discrepancy,
)
from segal.models.mial import Stage
from segal.models.wrapped import Model
from segal.signals.mial import without_two_heads
from segal.tasks.detection.detectors.base import Target
from segal.tasks.detection.detectors.two_heads import HeadOutputs, TwoHeadDetector
from segal.tasks.detection.model import DetectionModel
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.targets import Targets
from segal.tasks.mial import Stages
from segal.tasks.schemes import Batch


class MultipleInstance(Stages):
    """The stages of MIAL for a detector with two class heads and a MIL head."""

    def check(self, model: Model) -> None:
        """Raises a NoHeadError if the network has no two class heads."""
        two_heads(model)

    def no_label(self, height: int, width: int) -> Objects:
        """See `SemiSupervised.no_label`: no object, and all of the image is left to be seen."""
        # The transform paints over what is not known.
        return Objects.none(((0, 0, width, height),))

    def loss(self, model: Model, step: int, batches: Sequence[Batch]) -> Tensor:
        """See `Scheme.loss`: that of the labelled set, or of equation 8 or 9."""
        labelled, *unlabelled = batches
        detector = two_heads(model)
        total = self.labelled_loss(detector, labelled)
        for batch in unlabelled:
            assert isinstance(batch.images, Tensor)
            images = batch.labels.cut(batch.images)
            outputs, _ = detector.outputs(images, None)
            total = total + self.unlabelled_loss(outputs, self.stage(step))
        return total

    def labelled_loss(self, detector: TwoHeadDetector, batch: Batch) -> Tensor:
        """The detector's loss and, unless it is left out, the MIL loss (eqs. 1 and 6).

        Args:
            detector: It.
            batch: A labelled one.

        Returns:
            A float32 scalar, a mean over images as the library's own losses are.
        """
        assert isinstance(batch.labels, Targets)
        assert isinstance(batch.images, Tensor)
        targets = batch.labels.objects
        outputs, losses = detector.outputs(batch.labels.cut(batch.images), targets)
        # The code takes the mean over both heads of all losses, the regressor's among them.
        share = 0.5 if self.settings.preset == "code" else 1.0
        factors = {name: share if "classification" in name else 1.0 for name in losses}
        total = torch.stack([factors[name] * loss.float() for name, loss in losses.items()]).sum()
        if self.settings.iur_set == "none":
            return total
        present = shown(targets, outputs.mil.shape[-1]).to(outputs.mil)
        return total + self.mil_losses(outputs, present).mean()

    def unlabelled_loss(self, outputs: HeadOutputs, stage: Stage) -> Tensor:
        """What equations 8 and 9 have of the unlabelled set.

        Args:
            outputs: Of a batch, (B, N, C) each.
            stage: `maximise` or `minimise`.

        Returns:
            A float32 scalar.
        """
        settings = self.settings
        first, second = outputs.probabilities
        each = weighted_discrepancy(first, second, self.weights(outputs)).sum(-1)
        discrepancy = each.sum() if settings.preset == "code" else each.mean()
        if stage.kind == "maximise":
            return -settings.discrepancy * discrepancy
        total = settings.discrepancy * discrepancy
        if settings.iur_set != "all":
            return total
        labels = pseudo_labels(first.detach(), second.detach())
        losses = self.mil_losses(outputs, labels)
        if settings.preset == "code":
            losses = torch.where(labels.any(-1), losses, 0.0)
        return total + losses.mean()

    def scores(self, outputs: HeadOutputs) -> Tensor:
        """(B, N, C) MIL scores (eq. 5)."""
        mean = (outputs.first + outputs.second) / 2
        if self.settings.preset == "paper":
            return mil_score(outputs.mil, mean)
        chances = mean.exp() if outputs.softmax else mean.sigmoid()
        return level_mil_score(outputs.mil, chances, outputs.levels)

    def mil_losses(self, outputs: HeadOutputs, present: Tensor) -> Tensor:
        """(B,) MIL losses (eq. 6) of images that show the classes `present` (B, C)."""
        scores = self.scores(outputs)
        if self.settings.preset == "paper":
            return mil_loss(bag_score(scores), present)
        return mil_loss(bag_score(scores, outputs.levels), present, reduction="mean", margin=1e-5)

    def weights(self, outputs: HeadOutputs) -> Tensor:
        """(B, N, C), what the discrepancy is weighted by, without a graph (eq. 7)."""
        with torch.no_grad():
            if self.settings.weight == "mil":
                return self.scores(outputs)
            first = outputs.probabilities[0]
            first = torch.ones_like(first) if self.settings.weight == "one" else first
            return first / first.sum(-2, keepdim=True)


def has_two_heads(model: Model) -> bool:
    """Whether it is a network with two class heads."""
    return isinstance(model, DetectionModel) and isinstance(model.detector, TwoHeadDetector)


def two_heads(model: Model) -> TwoHeadDetector:
    """How a network with two class heads is run.

    Raises:
        NoHeadError: If it is another network.
    """
    detector = model.detector if isinstance(model, DetectionModel) else None
    if not isinstance(detector, TwoHeadDetector):
        raise without_two_heads(model)
    return detector


def shown(targets: Sequence[Target], classes: int) -> Tensor:
    """(B, C) float32 on the CPU: 1 for classes that an image's objects have, else 0."""
    present = torch.zeros(len(targets), classes)
    for row, one in zip(present, targets, strict=True):
        row[one["labels"].cpu()] = 1
    return present
