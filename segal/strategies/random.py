"""Random candidates: the rival that every strategy must beat."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable, box_pixels
from segal.signals import Signal
from segal.signals.by_class import PredictedShares
from segal.strategies._turns import of_share, take_turns
from segal.strategies.base import PARAMETERS, Direction, PassContext, Picks, Presets

_NO_FOREGROUND = "The network predicts no foreground: all picks were drawn from anywhere."


@dataclass(frozen=True, config=PARAMETERS)
class Random:
    """Picks at random, without replacement; needs no network.

    Stratified, the strata take turns in a random order, so that the picks spread over them as
    evenly as they can: a better rival than plain chance where neighbours are alike.

    With `foreground`, which needs a network that classifies pixels, a share of the picks is drawn
    on what it predicts as foreground, and on its borders, by turns (nnActive's foreground-aware
    random): a foreground class, all alike likely, and then a pixel of it, or a pixel of it with a
    neighbour of another class; what holds the pixel is picked. The authors draw an image, then a
    class that it shows, by its true labels; here the pool is one image, of predicted labels.

    Attributes:
        stratify: `none` (default), `image` (a stratum for each image) or `folder` (one for each
            folder of images, such as a city or a sequence).
        draw: Which of the draws of a seed: an arm with 1 beside an arm with 0 shows what chance
            alone does at the same seeds.
        foreground: Share of the picks that is drawn on foreground; a third as published.
        background: The class that is none; None (default) is the one that is predicted on most
            pixels on offer.
    """

    stratify: Literal["none", "image", "folder"] = "none"
    draw: Annotated[int, Field(ge=0, le=1000)] = 0
    foreground: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    background: Annotated[int, Field(ge=0)] | None = None
    presets: ClassVar[Presets] = {"nnactive": {"foreground": 1 / 3}}
    name: ClassVar[str] = "random"
    direction: ClassVar[Direction | None] = None
    uses_reference_labels: ClassVar[bool] = False
    source: ClassVar[str] = "chance; foreground: Lueth et al., nnActive (2025), Random 33% FG"

    @model_validator(mode="after")
    def _one_scheme(self) -> "Random":
        if self.foreground > 0 and self.stratify != "none":
            raise ValueError(
                "stratify none with foreground|give strategy.stratify=none, or leave "
                "strategy.foreground out"
            )
        return self

    @property
    def _shares(self) -> tuple[PredictedShares, PredictedShares]:
        """Of foreground, and of its borders."""
        inside = PredictedShares(background=self.background)
        return inside, PredictedShares(borders=True, background=self.background)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """No pass; one for the predicted classes, with `foreground`."""
        return iter([[*self._shares]] if self.foreground > 0 else [])

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
        notes: tuple[str, ...] = ()
        if self.foreground > 0:
            order, notes = self._with_foreground(table, order, count, generator)
        elif self.stratify != "none":
            order = order[self._turns(table, order)]
        scores = 1.0 - np.arange(count) / len(table)
        return Picks(order[:count].astype(np.int64), scores, notes)

    def _with_foreground(
        self,
        table: CandidateTable,
        order: NDArray[np.int64],
        count: int,
        generator: torch.Generator,
    ) -> tuple[NDArray[np.int64], tuple[str, ...]]:
        """`count` rows: some in the order given, in between some of the foreground."""
        area = box_pixels(table.box)[:, None]
        pixels = [table.embedding(one.column) * area for one in self._shares]
        total = pixels[0].sum(0)
        background = int(total.argmax()) if self.background is None else self.background
        classes = [c for c in np.flatnonzero(total > 0).tolist() if c != background]
        if not classes:
            return order, (_NO_FOREGROUND,)
        orders = [order]
        for on_class in pixels:
            orders += [_drawn_by(on_class[:, c], order, generator) for c in classes]
        # As many as there can be, so that fewer picks are the first of more.
        chosen = torch.randint(len(classes), (len(table),), generator=generator).tolist()
        turns: list[int] = []
        drawn = 0
        for on_foreground in of_share(self.foreground, count):
            on_border = drawn % 2
            turns.append(1 + on_border * len(classes) + chosen[drawn] if on_foreground else 0)
            drawn += on_foreground
        return take_turns(orders, turns), ()

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


def _drawn_by(
    weights: NDArray[np.floating], order: NDArray[np.int64], generator: torch.Generator
) -> NDArray[np.int64]:
    """Positions drawn one after another in proportion to weights, then those without any, in order.

    The least of exponential variables of these rates comes first with such a probability.
    """
    waits = torch.empty(len(weights), dtype=torch.float64).exponential_(generator=generator)
    with np.errstate(divide="ignore"):
        times = np.where(weights > 0, waits.numpy() / weights, np.inf)
    drawn = order[np.argsort(times[order], kind="stable")]
    return drawn.astype(np.int64)
