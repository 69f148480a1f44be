"""What strategies take for granted of the loss that a network is trained by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segal.errors import SegalError
from segal.models.checkpoint import read_training
from segal.signals import Signal, TakesCrossEntropy
from segal.tasks.losses import CROSS_ENTROPY
from segal.training.settings import TrainSettings


@dataclass(frozen=True)
class TrainedBy:
    """What a network is trained by.

    Attributes:
        where: What says so, for messages.
        loss: Its name.
        weighted: Whether classes have weights.
    """

    where: str
    loss: str = CROSS_ENTROPY
    weighted: bool = False

    @classmethod
    def settings(cls, settings: TrainSettings) -> "TrainedBy":
        """As a training is configured."""
        loss = settings.loss or CROSS_ENTROPY
        return cls("train.loss and train.class_weights", loss, settings.class_weights != "none")

    @classmethod
    def checkpoint(cls, path: Path) -> "TrainedBy":
        """As a checkpoint says; one that says nothing was trained by plain cross-entropy."""
        settings = read_training(path).get("settings")
        if not isinstance(settings, Mapping):
            return cls(str(path))
        loss = str(settings.get("loss") or CROSS_ENTROPY)
        return cls(str(path), loss, settings.get("class_weights", "none") != "none")

    @property
    def title(self) -> str:
        """For people; a file may come from anyone."""
        plain = self.loss.replace("+", "_").isidentifier()
        loss = (self.loss if plain else repr(self.loss))[:100]
        return loss + " with class weights" * self.weighted


def loss_notes(signals: Sequence[Signal], trained: TrainedBy, asking: str) -> list[str]:
    """What to tell of signals of cross-entropy, where the network is trained by something else.

    Args:
        signals: What is to be measured.
        trained: What the network is trained by.
        asking: Who asks for them.

    Raises:
        SegalError: If they start from a minimum that such a training does not lead to.
    """
    taken = {one.cross_entropy for one in signals if isinstance(one, TakesCrossEntropy)}
    if not taken or (trained.loss == CROSS_ENTROPY and not trained.weighted):
        return []
    if "minimised" in taken and trained.loss != CROSS_ENTROPY:
        raise SegalError(
            f"{asking}: not of a network that is trained by {trained.title}",
            expected=f"training by {CROSS_ENTROPY}: what it inverts is the Hessian at the minimum "
            "of that loss, from which it tells where another training would end",
            got=f"{trained.title}, as {trained.where} says",
            remedy=f"train by {CROSS_ENTROPY}, or take grad_similarity or "
            "error_change_first_order, which start from no minimum",
        )
    if "minimised" in taken:
        what = "takes the network for one at the minimum of cross-entropy without class weights"
    else:
        what = "goes by gradients of cross-entropy without class weights"
    return [
        f"{asking} {what}; the network is trained by {trained.title}, so that its order is of "
        "another loss than labels will lower."
    ]
