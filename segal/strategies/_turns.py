"""What the strategies share that draw their picks from several orders in turn."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray


def of_share(share: float, count: int) -> Iterator[bool]:
    """Which of some turns are of a share of them, as evenly spread as they can be.

    Of the first m turns floor(m * share) are. A billionth is added, so that three turns of a third
    are one whole.

    Args:
        share: From 0 to 1.
        count: How many turns.
    """
    before = 0
    for turn in range(1, count + 1):
        due = int(turn * share + 1e-9)
        yield due > before
        before = due


def take_turns(orders: Sequence[NDArray[np.int64]], turns: Sequence[int]) -> NDArray[np.int64]:
    """Takes from each order in its turn the first that is not taken yet.

    Args:
        orders: Positions, each order a permutation of the same ones.
        turns: Which order's turn it is; no more than there are positions.

    Returns:
        As many positions as turns, all different.
    """
    taken = np.zeros(len(orders[0]) if orders else 0, np.bool_)
    at = [0] * len(orders)
    rows = np.empty(len(turns), np.int64)
    for turn, which in enumerate(turns):
        order = orders[which]
        while taken[order[at[which]]]:
            at[which] += 1
        rows[turn] = order[at[which]]
        taken[rows[turn]] = True
    return rows
