"""The candidates with the largest predicted loss."""

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, BeforeValidator
from pydantic.dataclasses import dataclass
from torch import Tensor

from segal.candidates.table import CandidateTable
from segal.functional.ranking import rank
from segal.signals import PredictedLoss, Signal
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks

_SIGNAL = PredictedLoss()


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _subset(text: str) -> str:
    match = re.fullmatch(r"(\d{1,12})|(\d{1,3}(?:\.\d{1,6})?)%", text)
    amount = float(match[1] or match[2]) if match else 0.0
    if amount <= 0 or (match and match[2] and amount > 100):
        raise ValueError(
            "expected a number of candidates such as 10000, or a share of them such as 10%"
        )
    return text


Subset = Annotated[str, BeforeValidator(_text), AfterValidator(_subset)]
"""A count such as `10000`, or a share such as `10%`, of the candidates on offer."""


@dataclass(frozen=True, config=PARAMETERS)
class LearningLoss:
    """Picks the largest loss that a module trained with the network predicts; higher is picked.

    The module comes of a training with `train.learning_loss=true`. It takes the mean of several
    feature maps over a candidate (Yoo and Kweon, section 3.2), and learns to order the losses of
    the crops of a batch (eqs. 2 and 3). The paper classifies images and estimates poses, with whole
    images as candidates; what is different here:

    | parameter | paper | here |
    |---|---|---|
    | a map's mean is over | the image | the candidate's pixels (training: a crop's labelled ones) |
    | feature maps | 4 (the residual stages) | all of the encoder's, and the last layer's input |
    | width of a map's layer | 128 | 128 |
    | subset | 10,000 images | none by default |

    Attributes:
        subset: Picks from a random subset of this size first, so that picks of one batch are less
            alike (section 4.1): a count, or a share of the candidates such as `10%`, rounded up.
            The rest follow, by their predicted loss too. None (default): no subset.
    """

    subset: Subset | None = None
    name: ClassVar[str] = "learning_loss"
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Yoo and Kweon, Learning Loss for Active Learning (CVPR 2019)"

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the predicted loss."""
        yield [_SIGNAL]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` largest predicted losses; scores are these, lowest id first among equals."""
        scores = torch.from_numpy(table.values[_SIGNAL.column])
        order = rank(scores, "higher")
        if self.subset is None:
            return _picks(order[:count], scores)
        size = self._size(len(table))
        drawn = torch.zeros(len(table), dtype=torch.bool)
        drawn[torch.randperm(len(table), generator=generator)[:size]] = True
        first = drawn[order]
        picks = _picks(torch.cat([order[first], order[~first]])[:count], scores)
        if count <= size:
            return picks
        note = f"The random subset holds {size} candidates: {count - size} picks are of the rest."
        return Picks(picks.rows, picks.scores, (note,))

    def _size(self, candidates: int) -> int:
        assert self.subset is not None
        if self.subset.endswith("%"):
            return math.ceil(Fraction(self.subset[:-1]) * candidates / 100)
        return min(int(self.subset), candidates)


def _picks(rows: Tensor, scores: Tensor) -> Picks:
    return Picks(rows.numpy(), scores[rows].numpy())
