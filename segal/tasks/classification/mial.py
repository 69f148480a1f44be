"""Instance uncertainty learning (IUL) of MIAL for networks that classify whole images.

After Yuan et al., "Multiple Instance Active Learning for Object Detection" (CVPR 2021), section 3.2
and table 2, which says no more of it than that images are classified. f1 is the network's own last
layer and f2 a second one, which the training adds; an image is its only instance. Pictures are
classified by f1 alone: f2 is there to disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from segal.candidates.evidence import Evidence, Units
from segal.errors import SegalError
from segal.functional.labels import VOID, class_indices
from segal.functional.mial import discrepancy, image_discrepancy
from segal.models.mial import MialSettings, Stage
from segal.models.wrapped import FEATURES, Model
from segal.signals.base import Meter, Need, Workbench
from segal.signals.mial import Discrepancy
from segal.tasks.losses import Loss
from segal.tasks.mial import Stages
from segal.tasks.schemes import Batch


class InstanceUncertainty(Stages):
    """The stages of MIAL without a MIL head: equations 1, 2 and 4, of one instance an image.

    Args:
        settings: How it is done.
        iterations: Steps in all.
        of_labels: The loss of either head on labelled elements.
    """

    second_head: ClassVar[bool] = True

    def __init__(self, settings: MialSettings, iterations: int, of_labels: Loss) -> None:
        super().__init__(settings, iterations)
        self._of_labels = of_labels

    def check(self, model: Model) -> None:
        """Raises a SegalError if there is no last layer, or nothing before it that is trained."""
        head = {id(parameter) for parameter in model.head.parameters()}
        before = (p for p in model.network.parameters() if id(p) not in head)
        if not any(parameter.requires_grad for parameter in before):
            raise SegalError(
                f"{model.spec.architecture}: nothing before the last layer is trained",
                expected="a network whose features are trained, to make two heads agree",
                got="a last layer alone",
                remedy="leave train.mial out, or train a network on pictures",
            )

    def no_label(self, height: int, width: int) -> Any:
        """See `SemiSupervised.no_label`: no element has a class."""
        return np.full((height, width), VOID)

    def loss(self, model: Model, step: int, batches: Sequence[Batch]) -> Tensor:
        """See `Scheme.loss`: that of the labelled set, or of equation 2 or 4."""
        labelled, *unlabelled = batches
        assert isinstance(labelled.images, Tensor)
        total = self.labelled_loss(*two_logits(model, labelled.images), labelled.labels)
        for batch in unlabelled:
            assert isinstance(batch.images, Tensor)
            heads = two_logits(model, batch.images)
            total = total + self.unlabelled_loss(*heads, self.stage(step))
        return total

    def labelled_loss(self, first: Tensor, second: Tensor, labels: Tensor) -> Tensor:
        """That of both heads (eq. 1, without boxes); a float32 scalar.

        Args:
            first: (B, K, H, W) logits of f1.
            second: Likewise of f2.
            labels: (B, H, W), as `Task.training_loss` takes them.
        """
        target = class_indices(labels)
        both = self._of_labels(first, target) + self._of_labels(second, target)
        return both * (0.5 if self.settings.preset == "code" else 1.0)

    def unlabelled_loss(self, first: Tensor, second: Tensor, stage: Stage) -> Tensor:
        """The discrepancy, to be maximised or minimised (eqs. 2 and 4); a float32 scalar.

        Args:
            first: (B, K, H, W) logits of f1.
            second: Likewise of f2.
            stage: `maximise` or `minimise`.
        """
        each = discrepancies(first, second).mean(1)
        total = each.sum() if self.settings.preset == "code" else each.mean()
        return self.settings.discrepancy * (-total if stage.kind == "maximise" else total)


def two_logits(model: Model, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, H, W) float32 logits of f1 and of f2, of normalised images (B, 3, h, w)."""
    evidence = model(images, (FEATURES,))
    return evidence.logits.float(), second_logits(model, evidence).float()


def second_logits(model: Model, evidence: Evidence) -> Tensor:
    """What `Evidence.logits` would be with the second head in the place of the last layer.

    Args:
        model: With a second head.
        evidence: Of a pass that caught `FEATURES`.
    """
    assert model.second_head is not None
    # Where an image has several labels, all of them have its features.
    features = evidence.caught[:, :, :1, :1].to(model.second_head.weight.dtype)
    logits: Tensor = model.after_head()(model.second_head(features))
    return logits


def discrepancies(first: Tensor, second: Tensor, *, squared: bool = False) -> Tensor:
    """How far two heads disagree about each element of an image (eq. 3).

    Of images with one class the mean is over their K classes. Of several labels each is an element
    with the classes no and yes, of which both differ by as much: the mean over elements is that of
    equation 3 over the labels.

    Args:
        first: (B, K, H, W) logits of f1.
        second: Likewise of f2.
        squared: As `segal.functional.mial.discrepancy` takes it.

    Returns:
        (B, H W), in [0, 1].
    """
    rows = (logits.flatten(2).softmax(1).transpose(1, 2) for logits in (first, second))
    return discrepancy(*rows, squared=squared)


@dataclass(frozen=True)
class OfImages:
    """`Discrepancy` of a network that classifies images: an image's instances are its elements."""

    signal: Discrepancy
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """The signal's."""
        return self.signal.column

    def check(self, model: Model) -> None:
        """Raises a NoHeadError if the network has no last layer, beside which a second could be.

        Whether it has one shows after its training.
        """
        model.check_features()

    def was_added(self, model: Model) -> bool:
        """Whether the network has a second head."""
        return model.second_head is not None

    def prepare(self, bench: Workbench) -> Meter:
        """The meter.

        Raises:
            SegalError: If the network has no second head.
        """
        if not self.was_added(bench.model):
            raise SegalError(
                "the network has one head, and nothing to disagree with it",
                expected="a network that was trained with a second head",
                got="a checkpoint without one",
                remedy="train with train.mial=true, and give that checkpoint",
            )
        return _Meter(bench.model, self.signal)


@dataclass(frozen=True)
class _Meter:
    model: Model
    signal: Discrepancy
    catch: ClassVar[tuple[str, ...]] = (FEATURES,)

    def measure(self, evidence: Evidence, units: Units) -> Tensor:
        """(B, 1) float64: images are candidates as wholes."""
        first, second = evidence.logits, second_logits(self.model, evidence)
        each = discrepancies(first.double(), second.double(), squared=self.signal.squared)
        value = image_discrepancy(each, self.signal.reduction, self.signal.k)
        return value[:, None].expand(-1, len(units))
