"""The candidates whose own predictions would hurt the reference set most, to first order."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Pseudo, Signal
from segal.signals.directional import Directional
from segal.signals.directions import ReferenceGradient
from segal.strategies._influence import Layers, pick_by_change
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class ErrorChangeFirstOrder:
    """First-order error change S_a(x) = -<grad l_v, grad l(x, y)>, y the prediction (IWPS, eq. 10).

    How fast the loss of the labelled reference set would rise if the network were trained on a
    candidate with its own prediction as the label: where it would, the prediction is likely wrong.
    It is what `error_change` (three real steps) tends to as its step size does to zero.

    Attributes:
        layers: Parameters that it is differentiated by: `last`, `last_two` (default, as the paper's
            segmentation experiments), `all`, or the name of a module of the network.
        reduction: `mean` (default) per pixel of a candidate, or `sum` over them, bought ones too.
    """

    layers: Layers = "last_two"
    reduction: Literal["mean", "sum"] = "mean"
    name: ClassVar[str] = "error_change_first_order"
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = True
    source: ClassVar[str] = "IWPS (WACV 2022), eq. 10"

    @property
    def _signal(self) -> Directional:
        return Directional(ReferenceGradient("val", self.layers), Pseudo(), self.reduction)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the directional derivative."""
        yield [self._signal]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` candidates of the highest S_a, which are the scores."""
        return pick_by_change(table, self._signal, count, "higher")
