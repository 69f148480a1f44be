"""How the steps of a training go: what they draw, which parameters they move, and by which loss."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from segal.candidates.kept import Images
from segal.models.loss_prediction import LearningLossSettings
from segal.models.mial import MialSettings
from segal.models.wrapped import Model


class SchemeSettings(Protocol):
    """What a training says of its scheme."""

    @property
    def iterations(self) -> int:
        """Steps in all."""
        ...

    @property
    def loss(self) -> str | None:
        """What is minimised, as `segal.tasks.losses.LossName` has it."""
        ...

    @property
    def class_weights(self) -> str | tuple[float, ...]:
        """As `segal.tasks.losses.ClassWeights` has it."""
        ...

    @property
    def learning_loss(self) -> LearningLossSettings | None:
        """Of a loss-prediction module, if one is trained."""
        ...

    @property
    def mial(self) -> MialSettings | None:
        """Of the training of two class heads, if they are trained so."""
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of a step.

    Attributes:
        images: (B, 3, H, W), normalised, or what a frozen part left of images.
        labels: As `Task.stack` makes them.
        unlabelled: Whether nothing is known of the images. An image whose label shows nothing is a
            labelled one all the same.
    """

    images: Images
    labels: Any
    unlabelled: bool = False


class Scheme(ABC):
    """How the steps of a training go; pure: all depends on the number of a step, from 0.

    Attributes:
        second_head: Whether the network is given a second last layer, see `Model.second_head`.
    """

    second_head: ClassVar[bool] = False

    def check(self, model: Model) -> None:  # noqa: B027
        """Raises a SegalError if a network cannot be trained so."""

    def unlabelled_before(self, step: int) -> int:
        """How many steps before this one draw a batch of unlabelled images, beside the labelled.

        Step `t` draws one if this is more of `t + 1` than of `t`.
        """
        return 0

    def moving(self, step: int, model: Model) -> Collection[str] | None:
        """Names of the parameters that a step moves; None for all that can be trained."""
        return None

    def validates(self, step: int) -> bool:
        """Whether weights may be kept that this step left behind."""
        return True

    def mass(self, batches: Sequence[Batch]) -> float:
        """What the loss of a part of a step's samples counts in the mean over all; not negative.

        Args:
            batches: As `loss` takes them, on any device.
        """
        return float(len(batches[0].images))

    @abstractmethod
    def loss(self, model: Model, step: int, batches: Sequence[Batch]) -> Tensor:
        """The loss of a step: a float32 scalar, with its graph.

        Args:
            model: The network.
            step: Its number.
            batches: A labelled one, and an unlabelled one where the step draws it.
        """


class SemiSupervised(Scheme):
    """A scheme some of whose steps draw unlabelled images, too."""

    @abstractmethod
    def unlabelled_images(
        self, labelled: Sequence[int], others: Sequence[int], generator: np.random.Generator
    ) -> list[int]:
        """The images that unlabelled batches are drawn from.

        Args:
            labelled: Images that something is labelled of.
            others: All others.
            generator: For a choice.
        """

    @abstractmethod
    def no_label(self, height: int, width: int) -> Any:
        """The label that an unlabelled image goes through the task's transform with, all of it.

        Args:
            height: Of the image, in elements.
            width: Likewise.
        """


@dataclass(frozen=True)
class Usual(Scheme):
    """Every step moves all parameters by the loss of a labelled batch.

    Attributes:
        of_batch: The task's loss of a network, images and labels.
        mass_of: What labels count in it; None for the number of images.
    """

    of_batch: Callable[[Model, Images, Any], Tensor]
    mass_of: Callable[[Any], float] | None = None

    def mass(self, batches: Sequence[Batch]) -> float:
        """See `Scheme.mass`."""
        return super().mass(batches) if self.mass_of is None else self.mass_of(batches[0].labels)

    def loss(self, model: Model, step: int, batches: Sequence[Batch]) -> Tensor:
        """See `Scheme.loss`."""
        return self.of_batch(model, batches[0].images, batches[0].labels)


@dataclass(frozen=True)
class Ranked(Scheme):
    """Likewise, with a loss-prediction module, whose gradient stops at the network at some step.

    Attributes:
        of_batch: As `Task.ranked_training_loss`.
        ranking: How the module is trained.
        iterations: Steps in all.
    """

    of_batch: Callable[..., Tensor]
    ranking: LearningLossSettings
    iterations: int

    def loss(self, model: Model, step: int, batches: Sequence[Batch]) -> Tensor:
        """See `Scheme.loss`."""
        stopped = step >= self.ranking.stop_gradient_after * self.iterations
        images, labels = batches[0].images, batches[0].labels
        return self.of_batch(model, images, labels, self.ranking, stop_gradient=stopped)
