"""An option of every strategy that orders by a score: picks that are spread over the pool."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import replace
from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from segal.candidates.table import CandidateTable
from segal.errors import SegalError
from segal.functional.spreading import spread_out
from segal.signals import Signal
from segal.strategies.base import (
    PARAMETERS,
    Direction,
    PassContext,
    Picks,
    Strategy,
    at_round,
)

_MORE = 4
"""How many times as many picks are asked for where too few of them are apart."""

_NUMBER = re.compile(r"[0-9]{1,18}(?![0-9A-Za-z])")
_SHOWN = 3


@dataclass(frozen=True, config=PARAMETERS)
class Spread:
    """How far the picks of a batch are kept apart.

    A strategy's order is gone through, and what is too near an earlier pick is left for later: it
    is picked where nothing else is left, and that is said.

    Attributes:
        per_image: The most picks of an image; None for any number.
        frames: The least distance between two images of a video of which something is picked, in
            frames; None for any. Images are of one video if their paths differ in the frame's
            number alone, the last number in the name that no letter or digit follows: 123 in
            `seq_000123.png` and `seq_000123_leftImg8bit.png`.
    """

    per_image: Annotated[int, Field(ge=1)] | None = None
    frames: Annotated[int, Field(ge=1)] | None = None

    def check_images(self, paths: Sequence[str]) -> None:
        """Raises a SegalError if frames count and names of images have no number.

        Args:
            paths: Of the pool's images.
        """
        if self.frames is None:
            return
        without = [path for path in paths if _frame_of(path) is None]
        if without:
            shown = ", ".join(without[:_SHOWN]) + (", ..." if len(without) > _SHOWN else "")
            raise SegalError(
                "strategy.spread.frames: images have no frame number in their names",
                expected="names such as seq_000123.png",
                got=f"{len(without)} of {len(paths)} without a number: {shown}",
                remedy="leave strategy.spread.frames out; strategy.spread.per_image=1 takes one "
                "pick of an image",
            )


@plain_dataclass(frozen=True)
class SpreadOut:
    """A strategy whose picks are kept apart.

    Attributes:
        strategy: It.
        spread: How far.
    """

    strategy: Strategy
    spread: Spread

    @property
    def name(self) -> str:
        """The strategy's."""
        return self.strategy.name

    @property
    def direction(self) -> Direction | None:
        """The strategy's."""
        return self.strategy.direction

    @property
    def source(self) -> str:
        """The strategy's."""
        return self.strategy.source

    @property
    def uses_reference_labels(self) -> bool:
        """As the strategy does."""
        return self.strategy.uses_reference_labels

    def at_round(self, number: int, rounds: int) -> "SpreadOut":
        """As it picks in one of several rounds; see `segal.strategies.base.at_round`."""
        return replace(self, strategy=at_round(self.strategy, number, rounds))

    def check_images(self, paths: Sequence[str]) -> None:
        """As `Spread.check_images`."""
        self.spread.check_images(paths)

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """The strategy's."""
        return self.strategy.passes(context)

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """The first `count` of the strategy's picks that are apart; scores are the strategy's."""
        state, asked = generator.get_state(), count
        while True:
            generator.set_state(state)
            picks = self.strategy.select(table, labelled, asked, generator)
            kept = self._kept(table, picks)
            if int(kept.sum()) >= count or asked == len(table):
                break
            asked = min(asked * _MORE, len(table))
        order = np.concatenate([np.flatnonzero(kept), np.flatnonzero(~kept)])[:count]
        near = count - int(kept.sum())
        notes = picks.notes
        if near > 0:
            notes += (
                f"{near} of {count} picks are nearer to others than strategy.spread allows, since "
                "nothing else was left.",
            )
        return Picks(picks.rows[order], picks.scores[order], notes)

    def _kept(self, table: CandidateTable, picks: Picks) -> Any:
        track: list[object] = []
        frame: list[int] = []
        if self.spread.frames is not None:
            self.spread.check_images(table.images)
            found = [cast(tuple[tuple[str, str], int], _frame_of(path)) for path in table.images]
            track, frame = [one for one, _ in found], [number for _, number in found]
        return spread_out(
            picks.rows,
            table.image,
            per_image=self.spread.per_image,
            frames=self.spread.frames,
            track=track,
            frame=frame,
        )


def _frame_of(path: str) -> tuple[tuple[str, str], int] | None:
    """What stands before and behind the frame's number in a path, and the number, if any."""
    start = path.rfind("/") + 1
    numbers = list(_NUMBER.finditer(path, start))
    if not numbers:
        return None
    last = numbers[-1]
    return (path[: last.start()], path[last.end() :]), int(last[0])


def spread(strategy: Strategy, apart: Spread) -> Strategy:
    """A strategy whose picks are kept apart."""
    return cast(Strategy, SpreadOut(strategy, apart))
