"""What a training minimises: a loss of labelled elements, or the sum of two; see docs/losses.md.

Elements without a class have no part in any of them. With p the softmax, y an element's class and w
the class weights:

- cross_entropy: the sum of `w_y (-log p_y)` over elements, divided by that of w_y.
- focal: the same of `w_y (1 - p_y)^2 (-log p_y)` (Lin et al., ICCV 2017, gamma 2).
- dice: the mean over classes, weighted by w, of `1 - 2 sum p_c [y = c] / (sum p_c + sum [y = c])`,
  0 for a class that is not shown (Milletari et al., 3DV 2016).
- lovasz: the mean over classes that are shown of the Lovasz extension of 1 - IoU (Berman et al.,
  CVPR 2018); it takes no weights.

The sums run over all labelled elements of a batch, so that dice and lovasz depend on which samples
share one. These two are segmentation_models_pytorch's. Its `FocalLoss` is of a sigmoid for each
class, where all that segal measures is of the softmax: focal is written out here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss
from torch import Tensor

from segal.functional.labels import VOID, has_class
from segal.system.sections import split_commas

CROSS_ENTROPY = "cross_entropy"
OF_ELEMENTS = (CROSS_ENTROPY, "focal")
"""Losses that are a mean over elements, of any task that classifies these."""

OF_CLASSES = ("dice", "lovasz")
"""Losses of how far predicted and true elements of a class overlap."""

LOSSES = (*OF_ELEMENTS, *OF_CLASSES)
_GAMMA = 2
_LEAST, _MOST = 1e-6, 1e6  # of a class weight: within, products keep their digits in float32


def _loss_name(value: object) -> object:
    if value is None:
        return None
    terms = [part.strip() for part in str(value).split("+")]
    if not set(terms) <= set(LOSSES) or not len(terms) == len(set(terms)) <= 2:
        raise ValueError(
            f"{', '.join(LOSSES)}, or the sum of two of them, such as cross_entropy+dice"
        )
    return "+".join(sorted(terms, key=LOSSES.index))


LossName = Annotated[str | None, BeforeValidator(_loss_name)]
"""A setting: `dice`, or `cross_entropy+dice`; None for what the task usually minimises."""


def _class_weights(value: object) -> object:
    if value is None or value in ("none", "balanced"):
        return value or "none"
    try:
        weights = tuple(_weight(part) for part in split_commas(value))  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        weights = ()
    if not weights or not all(_LEAST <= weight <= _MOST for weight in weights):
        raise ValueError(
            f"none, balanced, or for each class a factor from {_LEAST:g} to {_MOST:g}"
            "|give for example 1,2.5,1; what is not to be learnt is labelled void"
        )
    return weights


def _weight(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{value!r} is no number")
    return float(value)


ClassWeights = Annotated[str | tuple[float, ...], BeforeValidator(_class_weights)]
"""A setting: `none`, `balanced`, or a factor for each class."""


@dataclass(frozen=True, eq=False)
class Loss:
    """A loss of labelled elements.

    Attributes:
        name: As `LossName` has it.
        weights: (K,) class weights; (K, H) where the H rows of an image are questions of their own,
            each with its weights. None for equal ones.
    """

    name: str = CROSS_ENTROPY
    weights: Tensor | None = None

    @property
    def terms(self) -> list[str]:
        """What is summed up."""
        return self.name.split("+")

    def __call__(self, logits: Tensor, target: Tensor) -> Tensor:
        """Of a batch.

        Args:
            logits: (B, K, H, W) float32.
            target: (B, H, W) int64 classes, `VOID` for elements without one.

        Returns:
            A scalar; 0, with a gradient of 0, where no element has a class.
        """
        if self.name == CROSS_ENTROPY and self.weights is None:
            total = F.cross_entropy(logits, target, ignore_index=VOID, reduction="sum")
            mass = has_class(target).sum()
            return total / torch.where(mass > 0, mass, 1)
        return _sum([self._batch(term, logits, target) for term in self.terms])

    def of_images(self, logits: Tensor, target: Tensor) -> Tensor:
        """(B,) of each image what a call is of all; 0 where no element of it has a class."""
        return _sum([self._images(term, logits, target) for term in self.terms])

    def mass(self, target: Tensor) -> float:
        """The sum of the weights of the labelled elements, which losses of elements divide by.

        Args:
            target: (B, H, W) int64, as a call takes it.
        """
        return float(self._factors(target).sum(dtype=torch.float64))

    def _batch(self, term: str, logits: Tensor, target: Tensor) -> Tensor:
        if term in OF_ELEMENTS:
            values, masses = self._elements(term, logits, target)
            mass = masses.sum()
            return values.sum() / torch.where(mass > 0, mass, 1)
        if not has_class(target).any():  # of which lovasz makes an empty tensor
            return logits.sum() * 0.0
        with torch.autocast(logits.device.type, enabled=False):
            found: Tensor = self._overlap(term)(logits, target)
        return found

    def _images(self, term: str, logits: Tensor, target: Tensor) -> Tensor:
        if term in OF_ELEMENTS:
            values, masses = self._elements(term, logits, target)
            mass = masses.flatten(1).sum(1)
            return values.flatten(1).sum(1) / torch.where(mass > 0, mass, 1)
        pairs = zip(logits[:, None], target[:, None], strict=True)
        return torch.stack([self._batch(term, *pair) for pair in pairs])

    def _elements(self, term: str, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W) losses of elements, times their weights, and these; 0 without a class."""
        values = F.cross_entropy(logits, target, ignore_index=VOID, reduction="none")
        if term == "focal":
            values = (1 - torch.exp(-values)) ** _GAMMA * values
        factors = self._factors(target)
        return (values, factors) if self.weights is None else (values * factors, factors)

    def _factors(self, target: Tensor) -> Tensor:
        """(B, H, W) weights of elements, 0 without a class; if alike, whether they have one."""
        valid: Tensor = has_class(target)
        if self.weights is None:
            return valid
        weights, known = self.weights.to(target.device), target.where(valid, 0)
        if weights.ndim == 1:
            factors = weights[known]
        else:
            rows = torch.arange(weights.shape[1], device=target.device)[:, None]
            factors = weights[known, rows]
        return factors * valid

    def _overlap(self, term: str) -> Callable[[Tensor, Tensor], Tensor]:
        if term == "dice":
            return _Dice(self.weights)
        return LovaszLoss("multiclass", ignore_index=VOID)  # type: ignore[no-any-return]


class _Dice(DiceLoss):  # type: ignore[misc]
    """Whose mean over classes is weighted, which the library's older versions cannot."""

    def __init__(self, weights: Tensor | None) -> None:
        super().__init__("multiclass", ignore_index=VOID)
        self.of_classes = weights

    def aggregate_loss(self, loss: Tensor) -> Tensor:
        """From (K,) losses of classes to one."""
        if self.of_classes is None:
            return loss.mean()
        weights = self.of_classes.to(loss)
        return (loss * weights).sum() / weights.sum()


def _sum(parts: Sequence[Tensor]) -> Tensor:
    first, *others = parts
    return first if not others else first + others[0]
