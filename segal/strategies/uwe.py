"""Uncertainty-weighted embeddings (UWE): uncertain and diverse candidates at once."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable, StoredRows
from segal.errors import SegalError
from segal.signals import MeanFeature, Signal, UncertaintyName, Value
from segal.strategies._distance import Init, Selector, select_by_distance
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets

_FEATURE = MeanFeature()

_CHUNK = 1024
"""Rows checked at a time."""


@dataclass(frozen=True, config=PARAMETERS)
class UncertaintyWeightedEmbeddings:
    """k-center-greedy on u^tau * f, the mean uncertainty times the mean feature (UWE, eqs. 4-7).

    The published text and the authors' public code differ:

    | parameter | paper (default) | code     |
    |-----------|-----------------|----------|
    | init      | labelled        | max_norm |
    | normalize | none            | minmax   |

    `strategy.preset` takes a column of the table; a parameter that is given goes before it.

    Attributes:
        uncertainty: A registered uncertainty (`entropy` by default, as the paper's segmentation
            experiments use), or `package.module:function`.
        tau: Power of the uncertainty, from 0 to 100. The paper takes 1 at whole images and at
            regions of 512 pixels, and 0.1 at 256 and below (section 5.2); 0 is CoreSet.
        selector: `k_center` (default) or `k_means_plusplus`.
        init: `labelled` (default; Algorithm 1, line 6) or `max_norm`.
        normalize: `none`, or `minmax` to bring u to [0, 1] over the candidates on offer; where all
            are equal it is 1.
    """

    uncertainty: UncertaintyName = "entropy"
    tau: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    selector: Selector = "k_center"
    init: Init = "labelled"
    normalize: Literal["none", "minmax"] = "none"
    name: ClassVar[str] = "uwe"
    presets: ClassVar[Presets] = {
        "paper": {"init": "labelled", "normalize": "none"},
        "code": {"init": "max_norm", "normalize": "minmax"},
    }
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "UWE (TMLR 2024), eqs. 4-7 and Algorithm 1"

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the uncertainty and the mean features."""
        yield [Value(self.uncertainty), _FEATURE]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks by distance between embeddings; scores are distances at pick."""
        column = Value(self.uncertainty).column
        offered = table.values[column]
        low, span = (float(offered.min()), float(np.ptp(offered)))
        embedding = self._embed(offered, table.stored(_FEATURE.column), low, span)
        centres = None
        if len(labelled):
            centres = self._embed(
                labelled.values[column], labelled.stored(_FEATURE.column), low, span
            )
        return select_by_distance(
            embedding, centres, count, generator, selector=self.selector, init=self.init
        )

    def _embed(
        self,
        uncertainty: NDArray[np.float64],
        features: StoredRows,
        low: float,
        span: float,
    ) -> StoredRows:
        """u^tau * f, multiplied where it is read; 0^0 is 1."""
        u = uncertainty
        if self.normalize == "minmax":
            # What is labelled may lie outside the range of what is on offer.
            u = np.clip((u - low) / span, 0.0, 1.0) if span > 0 else np.ones_like(u)
        if (u < 0).any():
            raise ValueError(f"{self.uncertainty}: expected an uncertainty of at least 0")
        with np.errstate(over="ignore", invalid="ignore"):
            embedding = features.scaled((u**self.tau).astype(np.float32))
        parts = (embedding[i : i + _CHUNK] for i in range(0, len(embedding), _CHUNK))
        if not all(np.isfinite(part).all() for part in parts):
            raise SegalError(
                f"strategy.tau: {self.tau:g} takes the embeddings out of range",
                expected="embeddings that float32 can hold",
                got=f"uncertainties up to {u.max():g}",
                remedy="give a smaller --tau, or strategy.normalize=minmax",
            )
        return embedding
