"""GradNorm: the candidates whose entropy would move the last layers the most."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import GradientNorm, Signal
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class GradNorm:
    """Picks the largest gradient of the entropy of the prediction; higher is picked.

    A candidate's score is the norm of the gradient of its mean entropy by the parameters of the
    last layers, in closed form.

    Attributes:
        layers: `last` (default) or `last_two`.
    """

    layers: Literal["last", "last_two"] = "last"
    name: ClassVar[str] = "gradnorm"
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = (
        "GradNorm: Wang et al., Boosting Active Learning via Improving Test Performance (AAAI 2022)"
    )

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the norms."""
        yield [GradientNorm(self.layers)]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` largest norms, lowest id first among equals; scores are the norms."""
        scores = torch.from_numpy(table.values[GradientNorm(self.layers).column])
        return Picks.best(scores, count, "higher")
