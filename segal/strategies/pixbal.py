"""PixBal: uncertain pixels of classes that are predicted seldom."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable, box_pixels
from segal.signals import Signal
from segal.signals.by_class import MeanSoftmax, ValueByClass
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets

Temperature = Annotated[float, Field(gt=0.0, le=1e6)]


@dataclass(frozen=True, config=PARAMETERS)
class PixelwiseBalance:
    """Picks by BvSB weighted by 1 / (nu p_c + 1)^2 of each pixel's class c; higher is picked.

    A candidate's score is the mean over its pixels of BvSB times the weight of the class that is
    predicted there, p_c the mean probability of that class over the pool (Hwang et al., NeurIPS
    2023, section 3.3; class balance after Cai et al., CVPR 2021). Since BvSB is pooled class by
    class, one pass gives both. What is different here: p is the mean over what is on offer and what
    is labelled, by pixels, where the authors take the mean over images. Their network is trained
    with logits that are divided by 0.1, and is asked so for p and for BvSB alike; here p is
    sharpened so and BvSB is the network's own, unless `bvsb_temperature` says otherwise.

    | parameter        | default | preset cityscapes | preset voc |
    |------------------|---------|-------------------|------------|
    | nu               | 6       | 6                 | 12         |
    | temperature      | 0.1     | 0.1               | 0.1        |
    | bvsb_temperature | 1       | 0.1               | 0.1        |

    Attributes:
        nu: How much frequent classes count less; 0 is `bvsb`.
        temperature: T of the probabilities softmax(z / T) that p is the mean of.
        bvsb_temperature: T of the logits z / T that BvSB is taken of.
    """

    nu: Annotated[float, Field(ge=0.0, le=1e6)] = 6.0
    temperature: Temperature = 0.1
    bvsb_temperature: Temperature = 1.0
    name: ClassVar[str] = "pixbal"
    presets: ClassVar[Presets] = {
        "cityscapes": {"nu": 6.0, "temperature": 0.1, "bvsb_temperature": 0.1},
        "voc": {"nu": 12.0, "temperature": 0.1, "bvsb_temperature": 0.1},
    }
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "Hwang et al., MulActSeg (NeurIPS 2023), PixBal"

    @property
    def _by_class(self) -> ValueByClass:
        return ValueByClass("bvsb", self.bvsb_temperature)

    @property
    def _softmax(self) -> MeanSoftmax:
        return MeanSoftmax(self.temperature)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass, for BvSB and the probabilities, class by class."""
        yield [self._by_class, self._softmax]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks the largest weighted BvSB; scores are these."""
        weights = (self.nu * self._frequency(table, labelled) + 1) ** -2
        scores = table.embedding(self._by_class.column).astype(np.float64) @ weights
        return Picks.best(torch.from_numpy(scores), count, "higher")

    def _frequency(self, table: CandidateTable, labelled: CandidateTable) -> NDArray[np.float64]:
        """(C,) the mean probability of each class."""
        total, pixels = np.zeros(1), 0
        for part in (table, labelled):
            if len(part):
                area = box_pixels(part.box)
                total = total + area @ part.embedding(self._softmax.column).astype(np.float64)
                pixels += int(area.sum())
        return total / pixels
