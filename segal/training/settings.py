"""How a network is trained: what can be set, and what of it decides the result."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.models.loss_prediction import LearningLoss
from segal.models.mial import Mial
from segal.system.machine import Precision
from segal.system.sections import Aside, Result, Section, result_unless, split_commas
from segal.tasks.losses import CROSS_ENTROPY, ClassWeights, LossName

ALL_LAYERS = "all"
"""Of `train.layers`: nothing is frozen."""

PIXELS, GRADIENT_NORM = 20_000, 1e-5


def _crop_text(value: object) -> str:
    try:
        return str(RegionSize.parse(str(value)))
    except SegalError as error:
        raise ValueError(f"expected {error.expected}") from error


class TrainSettings(Section):
    """How to train. The defaults are UWE's (section 4.2), but for fewer iterations.

    | setting | here | UWE |
    |---|---|---|
    | iterations | 5,000 | 80,000 |
    | batch size | 8 | 8 |
    | lr, to min_lr, power | 1e-2, 1e-4, 0.9 | 1e-2, 1e-4, 0.9 |
    | momentum, weight decay | 0.9, 5e-4 | not stated (MMSegmentation: 0.9, 5e-4) |

    Attributes:
        layers: What is trained: `all`; `decoder`, all but the encoder; `last`, the last layer;
            `last_two`, from the convolution before it on; or all from the module of this name on.
            What lies before is frozen: parameters, statistics of BatchNorm, and no dropout.
        iterations: Optimizer steps.
        batch_size: Crops in a step; at least 2 unless BatchNorm is frozen and `learning_loss` off.
        accumulate: Pieces that a batch is worked on in, one after another or by several ranks: the
            gradient is that of the whole batch. BatchNorm, dropout, and losses that are no mean
            over elements, such as `dice`, see a piece by itself. None: as many as ranks.
        optimizer: `sgd` with momentum, or `adamw`. Or `lbfgs`, where `layers` leaves nothing to
            train but a last layer that is linear: it is brought to the optimum of the mean
            cross-entropy over a sample of `pixels`, plus half of `weight_decay` times the squared
            weights (biases left out; features standardised), by `iterations` steps at most, and
            `gradient_norm` says when it is there. Samples are images as they are, without dropout.
        pixels: Of `lbfgs`: labelled pixels (images, where these have a class as wholes) that are
            drawn at random; all of them where there are no more.
        gradient_norm: Of `lbfgs`: the L2 norm of the gradient at which the optimum is reached.
        lr: Learning rate of the first step; about 1e-3 for `adamw`.
        min_lr: Of the last step; None for a hundredth of `lr`.
        power: Of the poly schedule `(lr - min_lr) * (1 - step / iterations) ** power + min_lr`.
        momentum: Of `sgd`.
        weight_decay: On all parameters.
        loss: What is minimised: `cross_entropy`, `focal`, `dice`, `lovasz`, or the sum of two of
            them such as `cross_entropy+dice`, as docs/losses.md defines them. None: cross-entropy,
            or the losses that a detector brings.
        class_weights: `none`; a factor for each class, in the order of the classes; or `balanced`:
            n / (k n_c) for class c, with n_c of n labelled elements and k classes that have any.
        grad_clip: Largest norm of the network's gradient (and of the loss-prediction module's own);
            None leaves it as it is.
        augment: `usual`, or `none` for samples that are the images. Where images have a class as
            wholes: `crop` out of the image with a border of 4 pixels (usual where all have one
            size), `resized_crop` of a part of any size (usual otherwise).
        crop: Side in pixels of the original image, `HEIGHTxWIDTH`, or `image` for an image's own
            size; a side that is longer than all images is cut down to the longest.
        scale: Smallest and largest factor that an image is resized by; of `resized_crop` the share
            of the image that a crop shows, .08 to 1 where more is given.
        flip: Probability of a horizontal flip.
        colour_jitter: Strength, from 0 (none) to 1.
        batchnorm: `train`, or `frozen`: running statistics and affine parameters stay as they are.
        precision: Of the network's products; parameters are always float32.
        validate_every: Steps between validations; None for a tenth of the training, 0 for none, so
            that the last weights are kept.
        patience: Stop after so many validations in a row without a better score; None for never.
        checkpoint_every: Steps between mid-training checkpoints.
        workers: Threads that read and transform; they do not change the result.
        learning_loss: Trains a loss-prediction module with the network, which the strategy
            `learning_loss` needs: `true`, or a section of `LearningLossSettings`.
        mial: Trains a detector with two class heads, or a network that classifies images and is
            given a second head, in the stages of MIAL, which the strategy `mial` needs: `true`, or
            a section of `MialSettings`.
    """

    layers: Annotated[str, Field(min_length=1, max_length=200), result_unless(ALL_LAYERS)] = (
        ALL_LAYERS
    )
    iterations: Result[int] = Field(default=5000, ge=1)
    batch_size: Result[int] = Field(default=8, ge=1)
    accumulate: Annotated[Annotated[int, Field(ge=1)] | None, result_unless(None, 1)] = None
    optimizer: Result[Literal["sgd", "adamw", "lbfgs"]] = "sgd"
    pixels: Annotated[Annotated[int, Field(ge=1, le=10**7)], result_unless(PIXELS)] = PIXELS
    gradient_norm: Annotated[Annotated[float, Field(gt=0)], result_unless(GRADIENT_NORM)] = (
        GRADIENT_NORM
    )
    lr: Result[float] = Field(default=1e-2, gt=0, le=1e4)
    min_lr: Result[float | None] = Field(default=None, ge=0)
    power: Result[float] = Field(default=0.9, gt=0)
    momentum: Result[float] = Field(default=0.9, ge=0, lt=1)
    weight_decay: Result[float] = Field(default=5e-4, ge=0)
    loss: Annotated[LossName, result_unless(None, CROSS_ENTROPY)] = None
    class_weights: Annotated[ClassWeights, result_unless("none")] = "none"
    grad_clip: Result[float | None] = Field(default=None, gt=0)
    augment: Annotated[Literal["usual", "crop", "resized_crop", "none"], result_unless("usual")] = (
        "usual"
    )
    crop: Result[Annotated[str, BeforeValidator(_crop_text)]] = "512"
    scale: Result[Annotated[tuple[float, float], BeforeValidator(split_commas)]] = (0.5, 2.0)
    flip: Result[float] = Field(default=0.5, ge=0, le=1)
    colour_jitter: Result[float] = Field(default=0.2, ge=0, le=1)
    batchnorm: Result[Literal["train", "frozen"]] = "train"
    precision: Result[Precision] = "fp32"
    validate_every: Result[int | None] = Field(default=None, ge=0)
    patience: Result[int | None] = Field(default=None, ge=1)
    checkpoint_every: Aside[int] = Field(default=500, ge=1)
    workers: Aside[int] = Field(default=2, ge=0)
    learning_loss: Annotated[LearningLoss, result_unless(None)] = None
    mial: Annotated[Mial, result_unless(None)] = None

    @model_validator(mode="after")
    def _consistent(self) -> "TrainSettings":
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(f"min_lr: expected at most lr ({self.lr}), got {self.min_lr}")
        if not 0.1 <= self.scale[0] <= self.scale[1] <= 10:
            raise ValueError(f"scale: expected 0.1 <= smallest <= largest <= 10, got {self.scale}")
        if self.batch_size < 2 and self.batchnorm == "train":
            raise ValueError("batch_size: expected at least 2, unless batchnorm is frozen")
        pieces, least = self.accumulate or 1, self.least_piece()
        if pieces > 1 and self.batch_size < least * pieces:
            raise ValueError(
                f"accumulate: expected at most {self.batch_size // least}, got {pieces}: "
                f"a batch of {self.batch_size} has to leave {least} for a piece"
                + (", unless batchnorm is frozen and learning_loss off" if least > 1 else "")
            )
        if self.batch_size < 2 and self.learning_loss is not None:
            raise ValueError("batch_size: expected at least 2 for learning_loss, which ranks pairs")
        if self.loss == "lovasz" and self.class_weights != "none":
            raise ValueError(
                "class_weights: expected none with loss lovasz, a mean over classes without factors"
                "|leave them out, or add a loss that takes them, such as cross_entropy+lovasz"
            )
        if self.optimizer == "lbfgs":
            self._check_convex()
        if self.mial is not None and self.learning_loss is not None:
            raise ValueError("mial: expected no learning_loss beside it|leave one of them out")
        if self.mial is not None and self.layers != ALL_LAYERS:
            raise ValueError(f"layers: expected {ALL_LAYERS} beside mial: stages say what moves")
        least = 0 if self.mial is None else sum(self.mial.lengths)
        if self.iterations < least:
            raise ValueError(
                f"iterations: expected at least {least} for the stages of mial, got "
                f"{self.iterations}"
            )
        return self

    def least_piece(self) -> int:
        """Samples that a piece of a batch needs: BatchNorm and ranked pairs take two."""
        return 2 if self.batchnorm == "train" or self.learning_loss is not None else 1

    def _check_convex(self) -> None:
        """Raises a ValueError for what the optimum of a convex loss has no use for."""
        wanted = {
            "layers": self.layers == ALL_LAYERS and "last or decoder",
            "weight_decay": self.weight_decay == 0 and "more than 0",
            "augment": self.augment != "none" and "none",
            "crop": self.crop != "image" and "image",
            "accumulate": (self.accumulate or 1) > 1 and "1",
            "loss": self.loss not in {None, CROSS_ENTROPY} and CROSS_ENTROPY,
            "learning_loss": self.learning_loss is not None and "false",
            "mial": self.mial is not None and "false",
        }
        told = [f"{key}: expected {value}" for key, value in wanted.items() if value]
        if told:
            raise ValueError(
                f"optimizer: lbfgs, which goes with other settings; {'; '.join(told)}"
                "|give these, or another optimizer"
            )

    def learning_rate(self, step: int) -> float:
        """Of a step, counted from 0."""
        lowest = self.lr / 100 if self.min_lr is None else self.min_lr
        remaining: float = (1 - step / self.iterations) ** self.power
        return (self.lr - lowest) * remaining + lowest
