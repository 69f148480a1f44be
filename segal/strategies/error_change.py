"""The candidates whose own predictions hurt the reference set most, by real training steps."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.signals import Signal
from segal.signals.error_change import NOT_MEASURED, HoldoutErrorChange, Prefilter, Reduce
from segal.signals.pixel_sample import SampleSize
from segal.strategies._influence import Count, Layers
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks


@dataclass(frozen=True, config=PARAMETERS)
class ErrorChange:
    """Error change S(x) = l_v(theta') - l_v(theta) (IWPS, eqs. 2-5 and section 4.2).

    theta' is the network after a few steps of plain gradient descent on a candidate with its own
    predictions as labels, l_v the loss on the labelled reference set. Where the loss rises, the
    predictions are likely wrong. The paper measures the whole reference set for every candidate;
    a sample of its pixels, and S for the most promising candidates alone, are options here.

    | parameter      | paper                                      | default  |
    |----------------|--------------------------------------------|----------|
    | layers         | last two convolutions (segmentation)       | last_two |
    | steps          | 3                                          | 3        |
    | lr             | 1e-4 (ResNet), 1e-3 (two-layer perceptron) | 1e-4     |
    | reduce         | positive (segmentation)                    | positive |
    | holdout_pixels | all                                        | 4000     |
    | prefilter      | none                                       | none     |

    Attributes:
        layers: Parameters that are updated: `last`, `last_two`, `all`, or the name of a module of
            the network from which on they are. Where they see far, as `all` do, every step runs
            them on a whole image, and every candidate on all images of the sample: seconds each.
        steps: Of gradient descent.
        lr: Size of a step.
        reduce: Over the reference set's pixels: `positive` is the mean over those whose loss rose
            (0 where none did), `all` the mean over all.
        holdout_pixels: Pixels of the reference set that are looked at, drawn at random; 0 or null
            for all of them.
        holdout_per_class: Pixels of each class instead, all of a class that has fewer. Classes then
            count alike, and l_v is another mean than the paper's for segmentation.
        prefilter: The share of the candidates on offer, those of the largest first order, that S is
            measured for, in a second pass; the others rank after them, by the first order, which is
            their score. Null for S of all of them in one pass. The first order is S_a (IWPS, eq.
            10) with `all`; with `positive`, which S_a says little of, it is S after one step on
            1,000 of the reference set's pixels in both passes, worth its cost where S looks at many
            more; seldom where layers see far, since it runs them on nearly as many images. On
            CamVid a tenth (`all`) and a fifth (`positive`) then hold all of S's top tenth.
    """

    layers: Layers = "last_two"
    steps: Annotated[int, Field(ge=1, le=1000)] = 3
    lr: Annotated[float, Field(gt=0.0)] = 1e-4
    reduce: Reduce = "positive"
    holdout_pixels: Annotated[int, Field(ge=0)] | None = 4000
    holdout_per_class: Count | None = None
    prefilter: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    name: ClassVar[str] = "error_change"
    direction: ClassVar[Direction | None] = "higher"
    uses_reference_labels: ClassVar[bool] = True
    source: ClassVar[str] = "IWPS (WACV 2022), eqs. 2-5"

    def _signal(self, threshold: float = 0.0) -> HoldoutErrorChange:
        pixels = None if self.holdout_per_class is not None else self.holdout_pixels or None
        return HoldoutErrorChange(
            layers=self.layers,
            steps=self.steps,
            lr=self.lr,
            reduce=self.reduce,
            holdout=SampleSize(pixels, self.holdout_per_class),
            prefilter=None if self.prefilter is None else Prefilter(self.prefilter, threshold),
        )

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """One pass for S; with a prefilter one for its first order, and one where that is large."""
        signal = self._signal()
        if self.prefilter is None:
            yield [signal]
            return
        yield [signal.guide]
        scores = _first_order(context.tables[0], signal)
        if context.offered is not None:
            scores = scores[context.offered]
        count = int(np.ceil(self.prefilter * len(scores)))
        threshold = float(np.partition(scores, len(scores) - count)[len(scores) - count])
        yield [signal.guide, self._signal(threshold)]

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The `count` candidates of the highest S; lowest id first among equals."""
        signal = self._signal()
        scores = table.values[signal.column]
        measured = scores > NOT_MEASURED
        if not measured.all():
            scores = np.where(measured, scores, _first_order(table, signal))
        rows = np.lexsort((np.arange(len(scores)), -scores, ~measured))[:count]
        rest = int((~measured[rows]).sum())
        notes = (
            f"{rest} of the {count} picks rank by the first order of S: "
            f"the prefilter measured {int(measured.sum())} of the {len(table)} candidates on offer."
        )
        return Picks(rows, scores[rows], (notes,) if rest else ())


def _first_order(table: CandidateTable, signal: HoldoutErrorChange) -> NDArray[np.float64]:
    """(n,) what guides the prefilter; higher is more promising."""
    values = torch.from_numpy(np.asarray(table.values[signal.guide.column]))
    return signal.guide_scores(values).numpy()
