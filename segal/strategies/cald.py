"""CALD: candidates of which a detector says least consistent things, and that balance classes."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.functional.divergence import jensen_shannon
from segal.functional.ranking import rank
from segal.signals import Signal
from segal.signals.labelled_objects import LabelledObjects
from segal.signals.view_consistency import ViewClasses, ViewConsistency
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

_CLASSES, _OBJECTS = ViewClasses(), LabelledObjects()
_NOTHING_LABELLED = (
    "Nothing is labelled yet: classes are balanced against an equal number of objects of each."
)


@dataclass(frozen=True, config=PARAMETERS)
class ConsistencyBased:
    """Least consistent between views, of these the classes that labels lack (CALD); lowest first.

    Stage 1 ranks candidates by the consistency of their boxes and class distributions between the
    image and views of it, the lowest first; see `segal.signals.view_consistency`. Stage 2 takes the
    first `delta` times as many as are picked, rounded down, and picks those whose classes differ
    most from what is labelled: by the Jensen-Shannon divergence of softmax(labelled objects of each
    class, as a mean over labelled candidates) from softmax(highest score of each class, as a mean
    over the image and its views).

    It needs a detector and the labels of what is labelled. The text leaves open what the authors'
    code settles, and this follows: the mean of objects, not their sum, is what the softmax takes;
    divergences are in nats; picks do not change the labelled distribution that later picks are
    compared with. A candidate without a box comes last, where the code picks it first.

    Since stage 2 plans for the whole count, fewer picks need not be the first of more.

    Attributes:
        base: The base point of the consistency, from 0 to 2 (the paper's beta).
        delta: How many times the picks stage 1 leaves to stage 2, from 1: `1` leaves stage 2
            nothing but the order.
    """

    base: Annotated[float, Field(ge=0.0, le=2.0)] = 1.3
    delta: Annotated[float, Field(ge=1.0, le=1000.0)] = 1.2
    name: ClassVar[str] = "cald"
    direction: ClassVar[Direction | None] = "lower"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Yu et al., Consistency-based Active Learning (CVPR Workshops 2022)"

    @property
    def _signal(self) -> ViewConsistency:
        return ViewConsistency(self.base)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, with its further ones over views."""
        yield [self._signal, _CLASSES, _OBJECTS]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks by divergence among the least consistent; scores are consistencies."""
        scores = torch.from_numpy(table.values[self._signal.column])
        # As written, 1.2, and not the float next to it.
        kept = math.floor(Fraction(str(self.delta)) * count)
        best = rank(scores, "lower")[:kept]
        classes = torch.from_numpy(table.embedding(_CLASSES.column)[best.numpy()]).double()
        notes: tuple[str, ...] = ()
        if len(labelled):
            objects = torch.from_numpy(labelled.embedding(_OBJECTS.column)).double().mean(0)
        else:
            objects, notes = torch.zeros_like(classes[0]), (_NOTHING_LABELLED,)
        divergence = jensen_shannon(classes.softmax(-1), objects.softmax(-1))
        rows = best[rank(divergence, "higher")[:count]]
        return Picks(rows.numpy(), scores[rows].numpy(), notes)
