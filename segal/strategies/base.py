"""What a strategy is: it names signals, and orders the candidate table."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from torch import Tensor

from segal.candidates.budget import Allowance, Prices
from segal.candidates.table import CandidateTable
from segal.errors import SegalError
from segal.functional.ranking import top_k
from segal.functional.shares import share
from segal.signals import Signal
from segal.system.ranks import all_ranks

Direction = Literal["higher", "lower"]
Presets = Mapping[str, Mapping[str, Any]]
"""Published settings by name, for `strategy.preset`; parameters that are given go before them."""
PARAMETERS = ConfigDict(extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Picks:
    """Candidates in pick order.

    Attributes:
        rows: (k,) int64 positions in the table that was selected from.
        scores: (k,) float64, the value that decided each pick.
        notes: What the user should be told about how it went.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64]
    notes: tuple[str, ...] = ()

    @classmethod
    def best(cls, scores: Tensor, count: int, direction: Direction) -> "Picks":
        """The candidates of the highest or lowest scores, lowest row first among equals.

        The ranks of a job find them together, each among its part of the scores.

        Args:
            scores: (n,) float64, one for each row.
            count: How many.
            direction: Which end.
        """
        ranks = all_ranks()
        own = scores[share(len(scores), ranks)]
        rows = top_k(own, count, direction, exchange=ranks)
        return cls(rows.numpy(), scores[rows].numpy())

    def __add__(self, more: "Picks") -> "Picks":
        """These, then what is new in others, whose notes are kept."""
        new = ~np.isin(more.rows, self.rows)
        return Picks(
            np.concatenate([self.rows, more.rows[new]]),
            np.concatenate([self.scores, more.scores[new]]),
            more.notes,
        )


@dataclass
class PassContext:
    """What a strategy knows when it asks for a pass over the pool.

    Attributes:
        tables: One candidate table for each pass that is done, in order.
        offered: (n,) rows of a table that are on offer, ascending: not those that are bought whole;
            None for all of them.
        shared_features: Whether all elements of an image have the same features, so that a
            candidate's gradient by the last layer is an outer product.
    """

    tables: list[CandidateTable] = field(default_factory=list)
    offered: NDArray[np.int64] | None = None
    shared_features: bool = False


class Strategy(Protocol):
    """An acquisition strategy; its fields are its parameters, checked when it is made.

    Attributes:
        name: What `--strategy` calls it.
        direction: Which end of the score is picked; None where the order is not by a score.
        source: Where it was published.
    """

    name: ClassVar[str]
    direction: ClassVar[Direction | None]
    source: ClassVar[str]

    @property
    def uses_reference_labels(self) -> bool:
        """Whether it needs labels of a reference set, beyond those that are bought."""
        ...

    def passes(self, context: PassContext) -> Iterator[list[Signal]]:
        """Signals wanted, one list for each pass over the pool; none for no pass at all."""
        ...

    def select(
        self,
        table: CandidateTable,
        labelled: CandidateTable,
        count: int,
        generator: torch.Generator,
    ) -> Picks:
        """Picks `count` candidates.

        Args:
            table: The candidates on offer.
            labelled: What is labelled already, measured with the same signals; may be empty.
            count: How many to pick, from 1 to the number of candidates.
            generator: The only source of randomness.

        Returns:
            Distinct candidates in pick order; the first m of them are the picks for a count of m,
            unless the strategy says that it plans for the whole count.
        """
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A strategy that picks otherwise from round to round."""

    def at_round(self, number: int, rounds: int) -> Any:
        """The strategy of a round; its signals are the same in all of them.

        Args:
            number: Of the round, from 0.
            rounds: How many rounds select.
        """
        ...


@runtime_checkable
class ChecksImages(Protocol):
    """A strategy that not every pool will do for, and that can tell before work starts."""

    def check_images(self, paths: Sequence[str]) -> None:
        """Raises a SegalError if it cannot pick from images.

        Args:
            paths: Of the pool's images.
        """
        ...


def at_round(strategy: Strategy, number: int, rounds: int) -> Strategy:
    """A strategy as it picks in one of several rounds; see `Scheduled`."""
    if isinstance(strategy, Scheduled):
        scheduled: Strategy = strategy.at_round(number, rounds)
        return scheduled
    return strategy


def check_images(strategy: Strategy, paths: Sequence[str]) -> None:
    """Raises a SegalError if a strategy cannot pick from a pool; see `ChecksImages`.

    Args:
        strategy: The strategy.
        paths: Of the pool's images.
    """
    if isinstance(strategy, ChecksImages):
        strategy.check_images(paths)


def choose(
    strategy: Strategy,
    table: CandidateTable,
    labelled: CandidateTable,
    allowance: Allowance,
    generator: torch.Generator,
    prices: Prices | None = None,
    planned: int | None = None,
) -> Picks:
    """Lets a strategy pick, and keeps of its picks what the budget buys.

    Where prices differ and picks that do not fit are skipped, and more than a twentieth of the
    budget is left of it, the strategy is asked for twice as many, as long as something would fit.

    Args:
        strategy: The strategy.
        table: The candidates on offer.
        labelled: What is labelled already.
        allowance: What may be spent.
        generator: The only source of randomness.
        prices: (n,) what each candidate costs in what the allowance counts; its pixels by default.
        planned: How many picks to ask for at first, where prices must not be known before a pick is
            made; where all of these are bought and money is left, it is asked for twice as many,
            and new ones come behind them. By default as many as could fit at the prices.

    Raises:
        SegalError: If the budget does not buy the first pick.
        ValueError: If the budget buys no candidate, or the strategy broke its contract.
    """
    prices = table.pixels if prices is None else prices
    count = allowance.most(prices) if planned is None else planned
    if count == 0:
        raise ValueError("expected a budget that buys a candidate, got one that buys none")
    for picks in orders(strategy, table, labelled, count, generator):
        taken = allowance.takes(prices[picks.rows])
        if not _wants_more(allowance, prices, picks.rows, taken, planned):
            break
    if len(taken) == 0:
        price = math.ceil(prices[picks.rows[0]])
        raise SegalError(
            "budget: it does not buy the first pick",
            expected=f"at least {price} {allowance.elements}, its price",
            got=str(allowance),
            remedy="give a larger --budget, or a smaller --region",
        )
    return Picks(picks.rows[taken], picks.scores[taken], picks.notes)


def orders(
    strategy: Strategy,
    table: CandidateTable,
    labelled: CandidateTable,
    count: int,
    generator: torch.Generator,
) -> Iterator[Picks]:
    """A strategy's pick order, as far as it is asked for.

    Args:
        strategy: The strategy.
        table: The candidates on offer.
        labelled: What is labelled already.
        count: How many to pick at first.
        generator: The only source of randomness.

    Yields:
        That many picks; then twice as many, and so on to all candidates, each time with what was
        there before in front, and what is new behind it.

    Raises:
        ValueError: If the strategy broke its contract.
    """
    state = generator.get_state()
    picks = _pick(strategy, table, labelled, count, generator)
    yield picks
    while count < len(table):
        count = min(2 * count, len(table))
        generator.set_state(state)
        picks += _pick(strategy, table, labelled, count, generator)
        yield picks


def _wants_more(
    allowance: Allowance,
    prices: Prices,
    rows: NDArray[np.int64],
    taken: NDArray[np.int64],
    planned: int | None,
) -> bool:
    """Whether a budget would buy more of picks that were not asked for yet."""
    if planned is not None:
        return len(taken) == len(rows)
    if allowance.fit == "prefix" or allowance.counts == "regions":
        return False
    left = allowance.limit - prices[rows[taken]].sum()
    others = np.ones(len(prices), np.bool_)
    others[rows] = False
    return bool(left > allowance.limit / 20 and (prices[others] <= left).any())


def _pick(
    strategy: Strategy,
    table: CandidateTable,
    labelled: CandidateTable,
    count: int,
    generator: torch.Generator,
) -> Picks:
    """Lets a strategy pick, and holds it to its contract."""
    picks = strategy.select(table, labelled, count, generator)
    if len(picks.rows) != count or len(np.unique(picks.rows)) != count:
        raise ValueError(f"expected {count} distinct picks, got {len(np.unique(picks.rows))}")
    if not np.isfinite(picks.scores).all():
        raise ValueError("expected finite scores, got NaN or infinity")
    return picks
