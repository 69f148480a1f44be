"""Influence selection (ISAL): candidates that are predicted to lower the reference loss most."""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Pseudo, Signal, TopK
from segal.signals.directional import Directional
from segal.signals.directions import Influence
from segal.signals.influence import TopKDirectional
from segal.strategies._influence import (
    Count,
    InverseParameters,
    Layers,
    Reference,
    pick_by_change,
)
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets


@dataclass(frozen=True, config=PARAMETERS)
class InfluenceSelection(InverseParameters):
    """Influence I(z) = -s^T G_z with s = H^-1 grad l(R), most negative first (ISAL, eqs. 2-4).

    G_z is the gradient of a candidate with its prediction as the label, H the Hessian of the mean
    loss on what is labelled, R the reference set. By default H is inverted exactly but for its
    damping; the published settings are:

    | parameter | here | paper (Algorithm 3) | code                 |
    |-----------|------|---------------------|----------------------|
    | inverse   | cg   | lissa               | lissa                |
    | damping   | 0.01 | 0                   | 0.01                 |
    | scale     |      | 1                   | 10000                |
    | samples   |      | (not given)         | 250                  |
    | repeats   |      | (not given)         | 4                    |
    | batch     |      | 1                   | 1                    |
    | corrected |      | false               | false                |
    | reference | val  | the test set        | the test set         |

    The code's damping of the Hessian is d s = 100, so that s is nearly parallel to the gradient of
    R: see `grad_similarity`. With scale 1 the recursion diverges where a drawn pixel's Hessian has
    an eigenvalue above 2, which is an error that says so. A test set is no reference: what results
    are reported on must not choose what is labelled. An element of the paper's is an image; here it
    is a pixel, and of a detector an image again, with its detections as the labels: H is then taken
    on terms of the loss, of which `hessian_pixels` are drawn, `cholesky` is refused, and `layers`
    are the last ones of every branch.

    `strategy.preset` takes a column of the table; a parameter that is given goes before it.

    Attributes:
        reference: R: `val` (default), `initial` (what was labelled first; the paper's v2) or
            `labelled` (all of it; v3).
        top_k: K, how many of a pixel's likeliest classes are taken as labels, below the number of
            classes: with all of them the influence is identically zero. (So the row K = 10 of the
            paper's table 1, on ten classes, ranks by rounding noise.)
        weighted: With K = 1, weigh the gradient by the probability, as eq. 3 does and Algorithm 1
            does not; K > 1 always is.
        layers: Parameters that it is differentiated by: `last` (default), `last_two`, `all`, or the
            name of a module of the network. Layers that see far, as `all` do, run on the whole
            images of H in every step of its inversion.
        reduction: `mean` (default) per pixel of a candidate, or `sum` over them, bought ones too.
        corrected: Divide what `lissa` finds by its scale; the order of candidates is the same.
        inverse: `cg` (default), `cholesky` (last layer only) or `lissa`.
        damping: Added to the eigenvalues of H; for `lissa`, d, at most 1, which comes to d times
            the scale.
        tolerance: Of `cg`, relative to the right-hand side.
        max_iterations: Of `cg`.
        samples: Of `lissa`: steps k of a chain.
        repeats: Of `lissa`: chains p that are averaged.
        batch: Of `lissa`: pixels that a step draws.
        scale: Of `lissa`: s.
        hessian_pixels: H is taken on that many labelled pixels, drawn at random; null for all.
    """

    reference: Reference = "val"
    top_k: Count = 1
    weighted: bool = False
    layers: Layers = "last"
    reduction: Literal["mean", "sum"] = "mean"
    corrected: bool = False
    name: ClassVar[str] = "isal"
    presets: ClassVar[Presets] = {
        "paper": {"inverse": "lissa", "damping": 0.0, "scale": 1.0},
        "code": {
            "inverse": "lissa", "damping": 0.01, "scale": 1e4, "samples": 250, "repeats": 4,
        },
    }  # fmt: skip
    direction: ClassVar[Direction | None] = "lower"
    source: ClassVar[str] = "ISAL (ICCV 2021), eqs. 2-4 and Algorithms 1-3"

    @property
    def uses_reference_labels(self) -> bool:
        """Whether labels beyond those that were bought are used."""
        return self.reference == "val"

    @property
    def _signal(self) -> Directional:
        influence = Influence(self.reference, self.layers, self._inverse(self.corrected))
        if self.top_k == 1 and not self.weighted:
            return Directional(influence, Pseudo(), self.reduction)
        return TopKDirectional(influence, TopK(self.top_k), self.reduction)

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
        """The `count` candidates of the most negative influence, which are the scores."""
        return pick_by_change(table, self._signal, count, "lower")
