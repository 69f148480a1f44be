"""The candidates whose gradients point the same way as a reference set's."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Pseudo, Signal
from segal.signals.directional import Directional
from segal.signals.directions import ReferenceGradient
from segal.strategies._influence import Layers, Reference, pick_by_change
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class GradientSimilarity:
    """ISAL with the identity in place of the Hessian: -<grad l(R), grad l(z, y)>, lowest first.

    Of every candidate it is the same number as `error_change_first_order`, which picks the other
    end: here a candidate is wanted whose own prediction is predicted to help.

    Attributes:
        reference: R: `val` (default), `initial` (what was labelled first) or `labelled`.
        layers: Parameters that it is differentiated by: `last` (default), `last_two`, `all`, or the
            name of a module of the network.
        reduction: `mean` (default) per pixel of a candidate, or `sum` over them, bought ones too.
    """

    reference: Reference = "val"
    layers: Layers = "last"
    reduction: Literal["mean", "sum"] = "mean"
    name: ClassVar[str] = "grad_similarity"
    direction: ClassVar[Direction | None] = "lower"
    source: ClassVar[str] = "ISAL (ICCV 2021), ablation without the Hessian"

    @property
    def uses_reference_labels(self) -> bool:
        """Whether labels beyond those that were bought are used."""
        return self.reference == "val"

    @property
    def _signal(self) -> Directional:
        return Directional(ReferenceGradient(self.reference, self.layers), Pseudo(), self.reduction)

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
        """The `count` candidates of the lowest value, which are the scores."""
        return pick_by_change(table, self._signal, count, "lower")
