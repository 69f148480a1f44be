"""What the strategies that score by a directional derivative share."""

from dataclasses import replace
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals.directional import UNSCORED, Directional
from segal.signals.directions import Inverse
from segal.strategies.base import PARAMETERS, Picks

Reference = Literal["val", "initial", "labelled"]
Layers = Annotated[str, Field(min_length=1, max_length=80, pattern=r"^[A-Za-z0-9_.]+$")]
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, config=PARAMETERS)
class InverseParameters:
    """How the Hessian of the mean loss on what is labelled is inverted.

    Attributes:
        inverse: `cg` (default), `cholesky` (last layer only) or `lissa`.
        damping: Added to the eigenvalues of the Hessian; for `lissa`, d, at most 1, which comes to
            d times the scale.
        tolerance: Of `cg`, relative to the right-hand side.
        max_iterations: Of `cg`.
        samples: Of `lissa`: steps k of a chain.
        repeats: Of `lissa`: chains p that are averaged.
        batch: Of `lissa`: pixels that a step draws.
        scale: Of `lissa`: s.
        hessian_pixels: The Hessian is taken on that many labelled pixels, drawn at random; null for
            all of them.
    """

    inverse: Literal["cg", "cholesky", "lissa"] = "cg"
    damping: Annotated[float, Field(ge=0.0)] = 0.01
    tolerance: Annotated[float, Field(gt=0.0, lt=1.0)] = 1e-5
    max_iterations: Count = 200
    samples: Count = 250
    repeats: Count = 4
    batch: Count = 1
    scale: Annotated[float, Field(gt=0.0)] = 1e4
    hessian_pixels: Count | None = 10_000

    @model_validator(mode="after")
    def _recursion_can_converge(self) -> Self:
        if self.inverse == "lissa" and self.damping > 1.0:
            raise ValueError(
                "damping from 0 to 1 with inverse lissa, where it is a share of the scale|"
                "give a smaller strategy.damping; damping * scale is added to the eigenvalues"
            )
        return self

    def _inverse(self, corrected: bool) -> Inverse:
        return Inverse(
            method=self.inverse,
            damping=self.damping,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            samples=self.samples,
            repeats=self.repeats,
            batch=self.batch,
            scale=self.scale,
            corrected=corrected,
            pixels=self.hessian_pixels,
        )


def predicted_change(table: CandidateTable, signal: Directional) -> torch.Tensor:
    """(n,) float64, minus the directional derivative: how the loss is predicted to change."""
    return torch.from_numpy(np.negative(table.values[signal.column]))


def pick_by_change(
    table: CandidateTable, signal: Directional, count: int, direction: Literal["higher", "lower"]
) -> Picks:
    """The candidates of the largest or smallest predicted change; scores are these.

    Those that are `UNSCORED` come last, a rounding error beyond the last of the others.
    """
    scores = predicted_change(table, signal)
    unscored = scores == -UNSCORED
    count_unscored = int(unscored.sum())
    notes: tuple[str, ...] = ()
    if count_unscored:
        worst = {"lower": (torch.amax, torch.inf), "higher": (torch.amin, -torch.inf)}
        last, beyond = worst[direction]
        scored = scores[~unscored]
        least = last(scored) if len(scored) else scores.new_zeros(())
        scores[unscored] = torch.nextafter(least, scores.new_tensor(beyond))
        notes = (
            f"{count_unscored} of {len(scores)} candidates show nothing that the network is sure "
            "enough of to take a loss on: they rank last.",
        )
    return replace(Picks.best(scores, count, direction), notes=notes)
