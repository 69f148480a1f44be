"""The candidates whose boxes move most under noise."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Signal
from segal.signals.localization_stability import LocalizationStability
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class LeastLocalizationStability:
    """Picks where boxes move most when noise is added to the image (LS); the lowest is picked.

    A box's stability is its mean intersection over union with its counterparts in noisy copies of
    the image, a candidate's the mean of its boxes', weighted by their highest class probability;
    see `segal.signals.localization_stability`. It needs a detector. A candidate without a box is
    stable, 1. The paper's LS+C, which adds the uncertainty of the classes, is not here.

    Attributes:
        levels: Noisy copies of an image: further passes over each.
        step: Standard deviation of the first level's noise, and how much each next one's is larger,
            in pixel values of 0 to 255. The paper's 6 levels of 8 go from 8 to 48.
    """

    levels: Annotated[int, Field(ge=1, le=100)] = 6
    step: Annotated[float, Field(gt=0.0, le=255.0)] = 8.0
    name: ClassVar[str] = "localization_stability"
    direction: ClassVar[Direction | None] = "lower"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = (
        "Kao et al., Localization-Aware Active Learning (ACCV 2018), section 3.2"
    )

    @property
    def _signal(self) -> LocalizationStability:
        return LocalizationStability(self.levels, self.step)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, with its further ones over noisy copies."""
        yield [self._signal]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` least stable; scores are stabilities, lowest id first among equals."""
        scores = torch.from_numpy(table.values[self._signal.column])
        return Picks.best(scores, count, "lower")
