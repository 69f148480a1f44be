"""Uncertainty-weighted embeddings (UWE): uncertain and diverse candidates at once."""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable, StoredRows
from segal.errors import SegalError
from segal.functional.shares import share
from segal.signals import MeanFeature, Signal, UncertaintyName, Value
from segal.signals.class_wise import ClassWiseEmbedding
from segal.strategies._distance import Init, Selector, select_by_distance
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets
from segal.system.ranks import all_ranks

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
        class_wise: Of detectors, whose boxes have an uncertainty and a feature each. `max` (their
            default; eq. 9) describes a candidate by the most uncertain box of each class, `mean`
            (appendix A.2) by the mean of u^tau * f over the class's boxes; both have C * D numbers,
            zeros for a class without a box, and go without `minmax`, as the bounds of all boxes'
            u are not known while they are measured. `none` multiplies the means of the candidate,
            as everywhere else.
    """

    uncertainty: UncertaintyName = "entropy"
    tau: Annotated[float, Field(ge=0.0, le=100.0)] = 1.0
    selector: Selector = "k_center"
    init: Init = "labelled"
    normalize: Literal["none", "minmax"] = "none"
    class_wise: Literal["none", "max", "mean"] = "none"
    name: ClassVar[str] = "uwe"
    presets: ClassVar[Presets] = {
        "paper": {"init": "labelled", "normalize": "none"},
        "code": {"init": "max_norm", "normalize": "minmax"},
    }
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "UWE (TMLR 2024), eqs. 4-7 and Algorithm 1"

    @model_validator(mode="after")
    def _bounds_are_known(self) -> "UncertaintyWeightedEmbeddings":
        if self.class_wise != "none" and self.normalize != "none":
            raise ValueError(
                "normalize none with class_wise: boxes are weighted before the bounds of all are "
                "known|give strategy.normalize=none, or strategy.class_wise=none"
            )
        return self

    @property
    def _class_wise(self) -> ClassWiseEmbedding | None:
        if self.class_wise == "none":
            return None
        return ClassWiseEmbedding(self.uncertainty, self.tau, self.class_wise)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the uncertainty and the mean features, or for both class by class."""
        by_class = self._class_wise
        yield [Value(self.uncertainty), _FEATURE] if by_class is None else [by_class]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks by distance between embeddings; scores are distances at pick."""
        by_class = self._class_wise
        if by_class is not None:
            embedding = table.stored(by_class.column)
            known = labelled.stored(by_class.column) if len(labelled) else None
            return self._pick(embedding, known, count, generator)
        column = Value(self.uncertainty).column
        offered = table.values[column]
        low, span = (float(offered.min()), float(np.ptp(offered)))
        embedding = self._embed(offered, table.stored(_FEATURE.column), low, span)
        centres = None
        if len(labelled):
            centres = self._embed(
                labelled.values[column], labelled.stored(_FEATURE.column), low, span
            )
        return self._pick(embedding, centres, count, generator)

    def _pick(
        self,
        embedding: StoredRows,
        centres: StoredRows | None,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
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
        ranks = all_ranks()
        own = embedding.part(share(len(embedding), ranks))
        parts = (own[i : i + _CHUNK] for i in range(0, len(own), _CHUNK))
        finite = torch.tensor(all(np.isfinite(part).all() for part in parts))
        if not bool(ranks.gather(finite).all()):
            raise SegalError(
                f"strategy.tau: {self.tau:g} takes the embeddings out of range",
                expected="embeddings that float32 can hold",
                got=f"uncertainties up to {u.max():g}",
                remedy="give a smaller --tau, or strategy.normalize=minmax",
            )
        return embedding
