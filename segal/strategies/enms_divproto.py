"""ENMS and DivProto: uncertain images whose boxes repeat neither themselves nor other picks."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from segal.candidates.table import CandidateTable
from segal.functional.ranking import rank
from segal.signals import Signal
from segal.signals.box_prototypes import BoxPrototypes, ClassScores, EntropyAfterNMS
from segal.signals.labelled_objects import LabelledObjects
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

_SCORES, _OBJECTS = ClassScores(), LabelledObjects()
_CHUNK = 64  # candidates whose prototypes are read at a time
_NOTHING_LABELLED = (
    "Nothing is labelled yet: no class is known to be rare, and none has its share of the picks."
)

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Similarity = Annotated[float, Field(ge=-1.0, le=1.0)]


@dataclass(frozen=True, config=PARAMETERS)
class DiversePrototypes:
    """Largest entropy of boxes that repeat nothing, rare classes first (ENMS, DivProto).

    Candidates are looked at in the order of their entropy after ENMS, the highest first; see
    `segal.signals.box_prototypes`.

    1. One is picked if it is unlike all picks and shows a rare class. Unlike: some class of it has
       a prototype whose largest cosine similarity with the picks' prototypes of that class is below
       `intra` (a class that no pick has is similar to none). Rare are the `alpha` C classes of
       which fewest objects are labelled; one is shown with a score above `inter`. Each rare class
       has `beta` times the picks divided by the number of rare classes as its share: once as many
       picks show it, it counts no longer.
    2. The places left go to the others in that order, unlike all picks again.
    3. Where that is not enough, they go to what is left, in that order.

    It needs a detector that gives features, and the labels of what is labelled. The paper's text
    and Algorithm 1 leave open: `alpha` C is rounded down, to at least one class; stage 2 keeps the
    condition on similarity. A candidate without a box is like every other: it is left to stage 3.

    Since shares are of the whole count, fewer picks need not be the first of more.

    Attributes:
        enms: Boxes of one class and image are a repetition above this similarity of features.
        intra: Candidates are too much alike from this similarity on.
        inter: A class is shown above this score.
        alpha: How many of the classes are rare.
        beta: The share of the picks that rare classes have.
    """

    enms: Similarity = 0.5
    intra: Similarity = 0.7
    inter: Share = 0.3
    alpha: Share = 0.5
    beta: Share = 0.75
    name: ClassVar[str] = "enms_divproto"
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Wu, Chen and Huang (CVPR 2022), ENMS and Algorithm 1"

    @property
    def _entropy(self) -> EntropyAfterNMS:
        return EntropyAfterNMS(self.enms)

    @property
    def _prototypes(self) -> BoxPrototypes:
        return BoxPrototypes(self.enms)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the boxes."""
        yield [self._entropy, self._prototypes, _SCORES, _OBJECTS]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks in the order of the stages; scores are entropies."""
        scores = torch.from_numpy(table.values[self._entropy.column])
        order = rank(scores, "higher").numpy()
        shown = table.embedding(_SCORES.column) > self.inter
        prototypes = _Prototypes(table, self._prototypes.column, shown.shape[1])
        picked: list[int] = []
        if len(labelled):
            objects = labelled.embedding(_OBJECTS.column).sum(0)
            rare = np.argsort(objects, kind="stable")[: max(1, int(self.alpha * len(objects)))]
            picked = self._showing_rare(order, shown[:, rare], count, prototypes)
        picked += self._unlike(_without(order, picked), count - len(picked), prototypes)
        rows = np.concatenate([picked, _without(order, picked)])[:count].astype(np.int64)
        return Picks(rows, scores[rows].numpy(), () if len(labelled) else (_NOTHING_LABELLED,))

    def _showing_rare(
        self, order: NDArray[np.int64], shown: NDArray[np.bool_], count: int, seen: "_Prototypes"
    ) -> list[int]:
        """Stage 1, of candidates of which (n, rare) says which rare classes they show."""
        share = self.beta * count / shown.shape[1]
        had = np.zeros(shown.shape[1], np.int64)
        picked: list[int] = []
        for row, prototypes in seen.read(order[shown[order].any(1)]):
            wanted = had < share
            if len(picked) == count or not wanted.any():
                break
            if (shown[row] & wanted).any() and seen.similarity(prototypes) < self.intra:
                picked.append(row)
                seen.add(prototypes)
                had += shown[row]
        return picked

    def _unlike(self, order: NDArray[np.int64], count: int, seen: "_Prototypes") -> list[int]:
        """Stage 2."""
        picked: list[int] = []
        for row, prototypes in seen.read(order):
            if len(picked) == count:
                break
            if seen.similarity(prototypes) < self.intra:
                picked.append(row)
                seen.add(prototypes)
        return picked


class _Prototypes:
    """The prototypes of candidates, read as they are asked for, and those of the picks.

    Args:
        table: The candidates.
        column: Of the prototypes.
        classes: C.
    """

    def __init__(self, table: CandidateTable, column: str, classes: int) -> None:
        self._stored = table.stored(column)
        self._picked: list[Tensor] = [torch.empty(0) for _ in range(classes)]

    def read(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, Tensor]]:
        """Of some rows in order: which, and (C, D) of unit length, zeros for an absent class."""
        for start in range(0, len(rows), _CHUNK):
            part = rows[start : start + _CHUNK]
            values = torch.from_numpy(np.array(self._stored[part], np.float32))
            of_class = values.view(len(part), len(self._picked), -1)
            yield from zip(part.tolist(), F.normalize(of_class, dim=-1), strict=True)

    def similarity(self, prototypes: Tensor) -> float:
        """With the picks: the largest of a class, of the class in which it is least (section 3.4).

        Args:
            prototypes: (C, D), as they are read.
        """
        least = 1.0  # without a class there is nothing that the picks lack
        for c in prototypes.any(1).nonzero()[:, 0].tolist():
            if not len(self._picked[c]):
                return 0.0
            least = min(least, float((self._picked[c] @ prototypes[c]).max()))
        return least

    def add(self, prototypes: Tensor) -> None:
        """Takes those of a pick."""
        for c in prototypes.any(1).nonzero()[:, 0].tolist():
            own = prototypes[c : c + 1]
            self._picked[c] = (
                torch.cat([self._picked[c], own]) if len(self._picked[c]) else own.clone()
            )


def _without(order: NDArray[np.int64], picked: list[int]) -> NDArray[np.int64]:
    return order[~np.isin(order, picked)]
