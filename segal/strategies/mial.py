"""Multiple instance active learning (MIAL): images about whose instances two heads disagree."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.functional.mial import Reduction
from segal.signals import Signal
from segal.signals.mial import Discrepancy
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets


@dataclass(frozen=True, config=PARAMETERS)
class MultipleInstance:
    """Picks the largest discrepancy of two class heads; higher is picked (MIAL, section 3.4).

    The discrepancy of an instance, an anchor of a detector or an image that is classified, is the
    mean over classes of |p1 - p2| (eq. 3), unweighted: re-weighting has had its part in the
    training. A candidate has the mean over its k instances of the largest; instances belong to the
    tile that holds their centre, and a tile without any has 0. Heads that are trained as usual
    learn the same thing: a run asks for `train.mial`, which trains them in turns to disagree about
    what is not labelled. An image that is classified is one instance, or one for each of several
    labels. The paper trains classifiers so and picks at random (table 2); for that take the
    strategy `random`.

    | parameter | here | paper | public code |
    |---|---|---|---|
    | reduction | top_k | top_k | top_k |
    | k | 10,000 | 10,000 (of about 100,000) | 10,000 |
    | squared | false | false | true |

    `strategy.preset` takes a column of the table; a parameter that is given goes before it.

    Attributes:
        reduction: `top_k`; `max`, as of k = 1; or `mean`, over all instances. (For picks at random
            of networks trained so, as in the paper's table 1, take the strategy `random`.)
        k: Of `top_k`.
        squared: Take the mean over classes of (p1 - p2)^2.
    """

    reduction: Reduction = "top_k"
    k: Annotated[int, Field(ge=1, le=10**9)] = 10_000
    squared: bool = False
    name: ClassVar[str] = "mial"
    presets: ClassVar[Presets] = {"paper": {"squared": False}, "code": {"squared": True}}
    direction: ClassVar[Direction | None] = "higher"
    source: ClassVar[str] = "MIAL (CVPR 2021), section 3.4"
    uses_reference_labels: ClassVar[bool] = False

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for the discrepancy."""
        yield [self._signal]

    @property
    def _signal(self) -> Discrepancy:
        return Discrepancy(self.reduction, self.k, self.squared)

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` largest discrepancies, which are the scores; lowest id first among equals."""
        scores = torch.from_numpy(table.values[self._signal.column])
        return Picks.best(scores, count, "higher")
