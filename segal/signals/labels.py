"""Label rules: which labels an unlabelled element is given when its gradient is taken.

A rule gives every element a weight w_k for each class k, a function of its probabilities p. Its
gradient is then that of sum_k w_k l_k, l_k the cross-entropy with class k; by the logits it is
sum_k w_k (p - e_k) = (sum_k w_k) p - w, the residual. The weights are constants: no gradient goes
through them.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from segal.candidates.evidence import Evidence


class LabelRule(Protocol):
    """A rule; hashable by its parameters."""

    @property
    def name(self) -> str:
        """Tells it apart from every other; good as a part of a file's name."""
        ...

    def weights(self, probabilities: Tensor) -> Tensor:
        """(B, C, ...) weights of the classes from (B, C, ...) probabilities."""
        ...


@dataclass(frozen=True)
class Pseudo:
    """The likeliest class, lowest index first among equals."""

    name: ClassVar[str] = "pseudo"

    def weights(self, probabilities: Tensor) -> Tensor:
        """One-hot."""
        return _one_hot_of_largest(probabilities)


@dataclass(frozen=True)
class TopK:
    """The K likeliest classes, each weighted by its probability (ISAL, eq. 3).

    Among classes of equal probability the lowest index is likelier, as in `Pseudo`.

    Attributes:
        count: K, below the number of classes: with all of them the gradient is identically zero,
            since sum_k p_k (p - e_k) = 0.
    """

    count: Annotated[int, Field(ge=1)]

    @property
    def name(self) -> str:
        """As `top3`."""
        return f"top{self.count}"

    def weights(self, probabilities: Tensor) -> Tensor:
        """The probability on the K likeliest classes, 0 elsewhere."""
        weights, left = torch.zeros_like(probabilities), probabilities.clone()
        for _ in range(self.count):  # torch.topk may take any of those that are equal
            largest = left.max(1, keepdim=True)
            weights.scatter_(1, largest.indices, largest.values)
            left.scatter_(1, largest.indices, -1.0)
        return weights


@dataclass(frozen=True)
class Truncated:
    """Classes likelier than a threshold, each weighted by its probability (RALIF, eq. 9).

    Attributes:
        threshold: Classes of p above it are kept, in [0, 1).
        empty: Where none is kept, `single` gives the likeliest class the weight 1; `paper` leaves
            no class at all.
        divide: By what the weights of an element are divided: `none` (the paper), `count` (the
            number of classes kept, as the authors' code does) or `mass` (what they sum to).
    """

    threshold: float
    empty: Literal["paper", "single"] = "single"
    divide: Literal["none", "count", "mass"] = "none"

    @property
    def name(self) -> str:
        """As `truncated-0.4-single-none`."""
        return f"truncated-{self.threshold!r}-{self.empty}-{self.divide}"

    def weights(self, probabilities: Tensor) -> Tensor:
        """The probability where it is above the threshold, 0 elsewhere, divided."""
        kept = probabilities > self.threshold
        weights = probabilities * kept
        if self.divide == "count":
            weights /= kept.sum(1, keepdim=True).clamp_(min=1)
        elif self.divide == "mass":
            mass = weights.sum(1, keepdim=True)
            weights /= torch.where(mass > 0, mass, 1)
        if self.empty == "single":  # no weight is there yet where none is kept
            largest = probabilities.max(1, keepdim=True)
            none = (largest.values <= self.threshold).to(weights)
            weights.scatter_add_(1, largest.indices, none)
        return weights


def _one_hot_of_largest(probabilities: Tensor) -> Tensor:
    return torch.zeros_like(probabilities).scatter_(1, _largest(probabilities), 1.0)


def _largest(probabilities: Tensor) -> Tensor:
    return probabilities.max(1, keepdim=True).indices  # six times faster than argmax


def softmax(evidence: Evidence) -> Tensor:
    """(B, C, H, W) probabilities of a batch, float32 at least, computed once."""

    def compute() -> Tensor:
        logits = evidence.logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)

    return evidence.once(("softmax",), compute)


def residual_and_mass(probabilities: Tensor, rule: LabelRule) -> tuple[Tensor, Tensor]:
    """A rule's residual, and what its weights sum to.

    Args:
        probabilities: (B, C, ...).
        rule: The rule.

    Returns:
        (B, C, ...) gradient by the logits of every element's own loss, and (B, 1, ...) sums of the
        weights.
    """
    if isinstance(rule, Pseudo):  # the weights sum to one: no second map is needed
        minus_one = torch.full_like(probabilities[:, :1], -1.0)
        largest = _largest(probabilities)
        return probabilities.scatter_add(1, largest, minus_one), minus_one.neg_()
    weights = rule.weights(probabilities)
    mass = weights.sum(1, keepdim=True)
    return torch.addcmul(-weights, mass, probabilities), mass


def residual(evidence: Evidence, rule: LabelRule) -> Tensor:
    """(B, C, H, W) gradient by the logits of every element's own loss, computed once per rule."""
    return evidence.once(("residual", rule), lambda: residual_and_mass(softmax(evidence), rule)[0])
