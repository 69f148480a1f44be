"""Between the ledger and the strategy: what is on offer in a round, and what is picked."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from segal.candidates.budget import Allowance, Prices
from segal.candidates.regions import Box, RegionSize
from segal.candidates.selection import Selected
from segal.candidates.table import CandidateTable
from segal.functional.coverage import remaining_pixels
from segal.strategies.base import Strategy, choose

SELECT, SEED_SET, TRAIN, SCAN = 1, 2, 3, 4
"""Streams of random numbers in a round."""

_TOLD_UNSPENT = 0.01
"""Share of a budget from which on it is told what is left of it."""
_TOLD_TIES = 0.05
"""Share of the picks from which on equal scores are told."""


def derive_seed(seed: int, number: int, stream: int) -> int:
    """The seed of one use of randomness in a round: below 2^63, and unlike any other use's."""
    state = np.random.SeedSequence([seed, number, stream]).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def derive_generator(seed: int, number: int, stream: int) -> torch.Generator:
    """A generator with such a seed."""
    return torch.Generator().manual_seed(derive_seed(seed, number, stream))


Acquired = tuple[list[Selected], tuple[str, ...]]
"""Picks in order, and the strategy's notes."""


@dataclass(frozen=True)
class Offer:
    """The candidates of which something is left to buy, known before the pool is scanned.

    Attributes:
        rows: (n,) positions in the candidate table of one region size.
        prices: (n,) pixels that each costs: those that are not bought yet.
    """

    rows: NDArray[np.int64]
    prices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def of(
        cls,
        sizes: Mapping[str, tuple[int, int]],
        region: RegionSize,
        bought: Mapping[str, Sequence[Box]],
    ) -> "Offer":
        """What is left of a pool.

        Args:
            sizes: (height, width) by image, in candidate order.
            region: Size of the candidates.
            bought: Boxes by image.
        """
        grids = {size: region.grid(*size).boxes() for size in set(sizes.values())}
        whole = {size: remaining_pixels(boxes, []) for size, boxes in grids.items()}
        prices = np.concatenate(
            [
                remaining_pixels(grids[size], bought[path]) if bought.get(path) else whole[size]
                for path, size in sizes.items()
            ]
        )
        rows = np.flatnonzero(prices)
        return cls(rows, prices[rows])


def cut_to_grid(boxes: Sequence[Box], size: tuple[int, int], region: RegionSize) -> list[Box]:
    """The parts of boxes within each region of a grid, each once, by row and then by column.

    What was bought in larger regions, such as a seed set of whole images, is seen by a strategy
    region by region, as the candidates are.

    Args:
        boxes: Boxes of one image.
        size: (height, width) of the image.
        region: Size of the grid's regions.
    """
    parts: set[Box] = set()
    grid = region.grid(*size)
    for bx0, by0, bx1, by1 in boxes:
        for gy0, gy1 in grid.rows:
            y0, y1 = max(by0, gy0), min(by1, gy1)
            if y0 >= y1:
                continue
            for gx0, gx1 in grid.columns:
                x0, x1 = max(bx0, gx0), min(bx1, gx1)
                if x0 < x1:
                    parts.add((x0, y0, x1, y1))
    return sorted(parts, key=lambda b: (b[1], b[0], b))


def acquire(
    strategy: Strategy,
    table: CandidateTable,
    labelled: CandidateTable,
    offer: Offer,
    allowance: Allowance,
    generator: torch.Generator,
    prices: Prices | None = None,
    planned: int | None = None,
) -> Acquired:
    """Lets a strategy pick from what is on offer.

    Args:
        strategy: The strategy.
        table: All candidates of the region size.
        labelled: What is labelled already.
        offer: Which of them can be bought.
        allowance: What may be spent.
        generator: The only source of randomness.
        prices: (n,) what each on offer costs, as `choose` takes it.
        planned: How many picks to ask for at first, likewise.

    Returns:
        The picks in order, and the strategy's notes.

    Raises:
        SegalError: If the budget does not buy the first pick.
    """
    offered = table.view(offer.rows, offer.prices)
    prices = offer.prices if prices is None else prices
    picks = choose(strategy, offered, labelled, allowance, generator, prices, planned)
    selected = []
    for rank, (row, score) in enumerate(zip(picks.rows, picks.scores, strict=True), 1):
        x0, y0, x1, y1 = map(int, offered.box[row])
        selected.append(
            Selected(
                rank=rank,
                image=offered.images[offered.image[row]],
                box=(x0, y0, x1, y1),
                pixels=int(offered.pixels[row]),
                score=float(score),
            )
        )
    notes = _unspent_notes(allowance, prices, picks.rows)
    return selected, picks.notes + _tie_notes(picks.scores) + notes


def next_that_fit(
    order: Iterable[tuple[int, float]],
    prices: Prices,
    taken: Collection[int],
    left: float,
    count: int,
) -> list[tuple[int, float]]:
    """What an order has next that a rest of a budget buys.

    Args:
        order: Rows and scores, in pick order.
        prices: (n,) what each row costs.
        taken: Rows that are not looked at: they are bought, or must not be.
        left: What may be spent.
        count: The most rows.

    Returns:
        The first of the order that fit, one after the other, in its order.

    Examples:
        >>> order = [(3, 0.9), (0, 0.8), (2, 0.7), (1, 0.6)]
        >>> next_that_fit(order, np.array([5, 1, 1, 1]), {3}, 3, 2)
        [(2, 0.7), (1, 0.6)]
    """
    found: list[tuple[int, float]] = []
    fits = prices <= left
    fits[list(taken)] = False
    if count == 0 or not fits.any():
        return found
    for row, score in order:
        if not fits[row]:
            continue
        found.append((row, score))
        left -= float(prices[row])
        fits &= prices <= left
        fits[row] = False
        if len(found) == count or not fits.any():
            break
    return found


def _unspent_notes(
    allowance: Allowance, prices: Prices, rows: NDArray[np.int64]
) -> tuple[str, ...]:
    """Says it where much of a budget is left, though something is on offer."""
    left = allowance.limit - float(prices[rows].sum())
    if allowance.counts == "regions" or len(rows) == len(prices):
        return ()
    if left <= _TOLD_UNSPENT * allowance.limit:
        return ()
    others = np.delete(prices, rows)
    cheapest = float(others.min())
    why = (
        f"the cheapest that is left costs {math.ceil(cheapest):,}"
        if cheapest > left
        else "the next pick costs more"
        + "; budget_fit=skip goes on to those that it buys"
        * (allowance.fit == "prefix" and allowance.counts == "pixels")
    )
    return (f"{int(left):,} of {allowance.limit:,} {allowance.elements} are left unspent: {why}.",)


def _tie_notes(scores: NDArray[np.float64]) -> tuple[str, ...]:
    """Says it where many picks have the same score; ties go to the lower candidate."""
    values, counts = np.unique(scores, return_counts=True)
    tied, score = int(counts.max()), float(values[counts.argmax()])
    if tied == 1 or tied < _TOLD_TIES * len(scores):
        return ()
    of = f"All {tied} picks have" if tied == len(scores) else f"{tied} of {len(scores)} picks have"
    return (f"{of} the same score, {score:.4g}: their order is by file name and place alone.",)
