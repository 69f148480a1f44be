"""The discrepancy of two class heads, by which MIAL selects."""

from dataclasses import dataclass
from typing import ClassVar, NoReturn

from segal.functional.mial import Reduction
from segal.models.wrapped import Model, NoHeadError
from segal.signals.base import Need, Workbench


@dataclass(frozen=True)
class Discrepancy:
    """How far two class heads disagree about a candidate's instances (MIAL, section 3.4).

    What the instances are is for a task to say that has networks with two class heads. The
    discrepancy of an instance is that of equation 3, without weights.

    Attributes:
        reduction: How those of a candidate become one, see `segal.functional.mial`.
        k: Of `top_k`.
        squared: Of an instance the mean of squares over classes, as in the public code.
    """

    reduction: Reduction = "top_k"
    k: int = 10_000
    squared: bool = False
    needs: ClassVar[frozenset[Need]] = frozenset()
    of_labelled: ClassVar[bool] = False

    @property
    def column(self) -> str:
        """Column name."""
        reduction = f"top_{self.k}" if self.reduction == "top_k" else self.reduction
        return f"discrepancy-{reduction}{'-squared' if self.squared else ''}"

    def check(self, model: Model) -> None:
        """Raises a NoHeadError: no network of a task that measures nothing else has two heads."""
        self._refuse(model)

    def prepare(self, bench: Workbench) -> NoReturn:
        """Raises a NoHeadError, as `check` does."""
        self._refuse(bench.model)

    def _refuse(self, model: Model) -> NoReturn:
        raise without_two_heads(model)


def without_two_heads(model: Model) -> NoHeadError:
    """What to say of a network that has no two class heads."""
    return NoHeadError(
        f"{model.spec.architecture}: no two class heads, whose discrepancy could be taken",
        expected="a detector with two class heads and a MIL head",
        got=model.spec.architecture,
        remedy="give --arch torchvision:mial_retinanet or torchvision:mial_ssd300_vgg16, and train "
        "it with train.mial=true",
    )
