"""ClaSP PE: every class takes its turn, uncertain candidates of it drawn with fading noise."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from segal.candidates.table import CandidateTable
from segal.functional.ranking import rank
from segal.signals import Signal, Value
from segal.signals.by_class import WeightedByClass
from segal.strategies._turns import of_share, take_turns
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

_ENTROPY, _BY_CLASS = Value("entropy"), WeightedByClass("entropy")
_TINY = 1e-300

Beta = Annotated[float, Field(gt=0.0, le=1e9)]


@dataclass(frozen=True, config=PARAMETERS)
class ClassStratifiedPower:
    """Class by class the largest p_c H with noise, and the largest H with noise (ClaSP PE).

    A share of the picks is spread evenly over the classes: each takes in turn what has the largest
    log of its class-weighted entropy, the mean of p_c(x) H(x), plus Gumbel noise of scale 1 / beta.
    The other picks are by the entropy alone, noised likewise. Beta grows geometrically from round
    to round, from `beta` in the first to `last_beta` in the last (Lueth et al., TMLR 2026; a single
    selection takes `beta`). What is different here: H is of one network, where theirs is of an
    ensemble; turns are interleaved, so that fewer picks are the first of more; the classes' turns
    are shuffled once a round.

    Attributes:
        share: Of the picks that classes take in turn, two thirds as published.
        beta: Inverse scale of the noise in the first round, or in a single selection.
        last_beta: In the last round.
        background: A class that takes no turn, as published for the background; None (default):
            all take theirs.
    """

    share: Annotated[float, Field(ge=0.0, le=1.0)] = 2 / 3
    beta: Beta = 1.0
    last_beta: Beta = 100.0
    background: Annotated[int, Field(ge=0)] | None = None
    name: ClassVar[str] = "clasp"
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Lueth et al., ClaSP PE (TMLR 2026, arXiv 2601.13677)"

    def at_round(self, number: int, rounds: int) -> Self:
        """As it picks in one of several rounds.

        Args:
            number: Of the round, from 0.
            rounds: How many rounds select.
        """
        done = number / (rounds - 1) if rounds > 1 else 0.0
        return replace(self, beta=self.beta * (self.last_beta / self.beta) ** done)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the entropy and its parts by class."""
        yield [_ENTROPY, _BY_CLASS]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks in turn; scores are the noised logarithms that decided each pick."""
        by_class = torch.from_numpy(table.embedding(_BY_CLASS.column)).double().T
        noised = torch.cat([by_class, torch.from_numpy(table.values[_ENTROPY.column])[None]])
        noised = noised.clamp(min=_TINY).log() + self._noise(noised.shape, generator)
        orders = [rank(scores, "higher").numpy() for scores in noised]
        overall = len(orders) - 1
        classes = torch.randperm(overall, generator=generator).tolist()
        turns = [c for c in classes if c != self.background]
        taken = 0
        lists = []
        for stratified in of_share(self.share if turns else 0.0, count):
            lists.append(turns[taken % len(turns)] if stratified else overall)
            taken += stratified
        rows = take_turns(orders, lists)
        scores = noised[torch.tensor(lists), torch.from_numpy(rows)].numpy()
        return Picks(rows, scores, (f"Noise was drawn at beta {self.beta:.3g}.",))

    def _noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Gumbel noise of scale 1 / beta."""
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        return -(-uniform.clamp(_TINY, 1 - 2.0**-53).log()).log() / self.beta
