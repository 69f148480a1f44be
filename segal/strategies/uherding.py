"""UHerding: candidates that cover what the network is unsure of."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable, StoredRows
from segal.functional.herding import herding_order
from segal.functional.nearest import smallest_distance
from segal.functional.shares import share
from segal.signals import Signal, UncertaintyName
from segal.signals.by_class import Tempered
from segal.signals.calibrated import Calibrated
from segal.strategies._features import FEATURE, Normalize, features_of, in_memory
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks
from segal.system.ranks import all_ranks

_SURE = "The network is sure of everything: all candidates count alike, as with max_herding."
_FIRST_SIGMA = 1.0


@dataclass(frozen=True, config=PARAMETERS)
class UncertaintyHerding:
    """Greedy on the mean over the pool of U(x) times the largest kernel with a pick (UHerding).

    MaxHerding with uncertainties for weights (Bae et al., Algorithm 1), whose two parameters adapt:
    at few labels all is alike uncertain and picks represent the pool, at many the kernel is narrow
    and they are the most uncertain. What differs from the paper:

    | parameter   | paper | here |
    |-------------|-------|------|
    | temperature | of least calibration error on a part of what is labelled, which a network \
trained on the rest is asked of | of least calibration error of the network itself on the \
reference set |
    | sigma       | smallest distance between labelled features | the same; 1 with fewer than two |
    | U           | margin of an image | mean margin of a candidate's elements |
    | candidates  | at most 35,000, at random (public code) | all |

    Attributes:
        uncertainty: A registered uncertainty (`margin` by default, as published), or
            `package.module:function`; at least 0.
        temperature: T of the logits z / T; None (default) calibrates it on the reference set.
        sigma: The kernel's bandwidth; None (default) is the smallest distance above 0 between the
            features of what is labelled.
        normalize: `l2` (default) brings features to unit length, as published; `none` does not.
    """

    uncertainty: UncertaintyName = "margin"
    temperature: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    sigma: Annotated[float, Field(gt=0.0, le=1e6)] | None = None
    normalize: Normalize = "l2"
    name: ClassVar[str] = "uherding"
    direction: ClassVar[Direction | None] = None
    source: ClassVar[str] = "Bae, Oliveira and Sutherland, Uncertainty Herding (ICLR 2025)"

    @property
    def uses_reference_labels(self) -> bool:
        """Where the temperature is calibrated."""
        return self.temperature is None

    @property
    def _signal(self) -> Signal:
        if self.temperature is None:
            return Calibrated(self.uncertainty)
        return Tempered(self.uncertainty, self.temperature)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the uncertainty and the mean features."""
        yield [self._signal, FEATURE]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks that cover; scores are by how much each raised the coverage."""
        weights = torch.from_numpy(table.values[self._signal.column])
        notes: tuple[str, ...] = ()
        if not bool((weights > 0).any()):
            weights, notes = torch.ones_like(weights), (_SURE,)
        known = features_of(labelled, self.normalize) if len(labelled) else None
        sigma = self._bandwidth(known)
        ranks = all_ranks()
        own = share(len(table), ranks)
        order = herding_order(
            features_of(table.part(own), self.normalize),
            count,
            radius=sigma,
            weights=weights[own],
            centers=known,
            exchange=ranks,
        )
        if self.sigma is None:
            notes += (f"The kernel's bandwidth is {sigma:.3g}.",)
        return Picks(order.picks.numpy(), order.gain.numpy(), notes)

    def _bandwidth(self, known: StoredRows | None) -> float:
        if self.sigma is not None:
            return self.sigma
        smallest = torch.inf
        if known is not None:
            smallest = smallest_distance(torch.from_numpy(in_memory(known)))
        return smallest if smallest < torch.inf else _FIRST_SIGMA
