"""Work that is divided over processes: which rows are whose, and tables that are put together.

The rows of an embedding, or of scores, lie one process's after another's, in order of rank; a
process may have none. Positions are those in the whole.
"""

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from segal.functional.exchange import Exchange

__all__ = ["gathered", "joined", "padded", "share", "shares", "spread"]


def share(count: int, exchange: Exchange) -> slice:
    """The contiguous part of so many rows that is this process's, where they are divided evenly.

    Examples:
        >>> from segal.functional.exchange import ALONE
        >>> share(5, ALONE)
        slice(0, 5, None)
    """
    first, end = (count * rank // exchange.count for rank in (exchange.rank, exchange.rank + 1))
    return slice(first, end)


def shares(weights: Sequence[int], count: int) -> list[range]:
    """Shares work out: to each its run of neighbours, by weight; to some nothing, if there is less.

    A share is heavier than the mean by the heaviest piece at most.

    Args:
        weights: Of each piece, positive.
        count: How many share it.

    Examples:
        >>> shares([1, 1, 1, 1, 4, 4], 3)
        [range(0, 4), range(4, 5), range(5, 6)]
        >>> shares([1], 3)
        [range(0, 0), range(0, 1), range(1, 1)]
    """
    total = sum(weights)
    # A piece belongs where its middle lies; in whole numbers, so that all machines agree.
    owners = [
        (2 * end - weight) * count // (2 * total)
        for end, weight in zip(accumulate(weights), weights, strict=True)
    ]
    bounds = [sum(owner < i for owner in owners) for i in range(count + 1)]
    return [range(bounds[i], bounds[i + 1]) for i in range(count)]


def gathered(exchange: Exchange, *own: Tensor) -> tuple[Tensor, ...]:
    """Every process's tensors, on every process, by one gather.

    Args:
        exchange: The processes.
        own: This process's, on any device; each of the same shape and dtype on all of them.

    Returns:
        For each, (count, *shape), by rank, on the device of this process's.

    Examples:
        >>> from segal.functional.exchange import ALONE
        >>> gathered(ALONE, torch.tensor([1.5]), torch.tensor(2))
        (tensor([[1.5000]]), tensor([2]))
    """
    parts = [one.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for one in own]
    every = exchange.gather(torch.cat(parts))
    found, start = [], 0
    for one, part in zip(own, parts, strict=True):
        # A copy begins where its type may begin.
        data = every[:, start : start + len(part)].reshape(-1).clone()
        found.append(data.view(one.dtype).reshape(len(every), *one.shape).to(one.device))
        start += len(part)
    return tuple(found)


def joined(exchange: Exchange, *own: Tensor) -> tuple[Tensor, ...]:
    """Every process's rows, one process's after another's, on every process, by two gathers.

    Args:
        exchange: The processes.
        own: This process's rows, (m, *shape) each; m may differ between processes.

    Returns:
        For each, (sum of m, *shape).

    Examples:
        >>> from segal.functional.exchange import ALONE
        >>> joined(ALONE, torch.tensor([3, 4]))
        (tensor([3, 4]),)
    """
    lengths: list[int] = exchange.gather(torch.tensor([len(own[0])]))[:, 0].tolist()
    every = gathered(exchange, *(padded(one, max(lengths)) for one in own))
    return tuple(_cut(parts, lengths) for parts in every)


def padded(rows: Tensor, count: int) -> Tensor:
    """As many rows as asked for: these, then zeros.

    Examples:
        >>> padded(torch.tensor([5, 6]), 3)
        tensor([5, 6, 0])
    """
    found = rows.new_zeros(count, *rows.shape[1:])
    found[: len(rows)] = rows
    return found


def spread(rows: Tensor, where: Tensor) -> Tensor:
    """Rows in the places that are marked, zeros in the others.

    Examples:
        >>> spread(torch.tensor([5, 6]), torch.tensor([True, False, True]))
        tensor([5, 0, 6])
    """
    found = rows.new_zeros(len(where), *rows.shape[1:])
    found[where] = rows
    return found


def _cut(parts: Tensor, lengths: Sequence[int]) -> Tensor:
    return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
