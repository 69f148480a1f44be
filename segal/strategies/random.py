"""Random candidates: the rival that every strategy must beat."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Signal
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class Random:
    """Picks at random, without replacement; needs no network.

    Stratified, the strata take turns in a random order, so that the picks spread over them as
    evenly as they can: a better rival than plain chance where neighbours are alike.

    Attributes:
        stratify: `none` (default), `image` (a stratum for each image) or `folder` (one for each
            folder of images, such as a city or a sequence).
        draw: Which of the draws of a seed: an arm with 1 beside an arm with 0 shows what chance
            alone does at the same seeds.
    """

    stratify: Literal["none", "image", "folder"] = "none"
    draw: Annotated[int, Field(ge=0, le=1000)] = 0
    name: ClassVar[str] = "random"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "chance"

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """No pass."""
        return iter(())

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Random candidates; scores are each pick's place in the drawn order, in (0, 1]."""
        for _ in range(self.draw):
            torch.randperm(len(table), generator=generator)
        order = torch.randperm(len(table), generator=generator).numpy()
        if self.stratify != "none":
            order = order[self._turns(table, order)]
        scores = 1.0 - np.arange(count) / len(table)
        return Picks(order[:count].astype(np.int64), scores)

    def _turns(self, table: CandidateTable, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in `order`: every stratum's first candidate, then every second, and so on."""
        taken: dict[object, int] = defaultdict(int)
        turn = np.zeros(len(order), np.int64)
        for position, row in enumerate(order):
            image = int(table.image[row])
            folder = table.images[image].rpartition("/")[0]
            stratum = image if self.stratify == "image" else folder
            turn[position] = taken[stratum]
            taken[stratum] += 1
        return np.argsort(turn, kind="stable")
