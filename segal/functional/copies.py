"""Rows of an embedding that are equal to a lower one, of whichever process."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from segal.functional.distances import DIGEST, Rows
from segal.functional.exchange import Exchange
from segal.functional.shares import joined

_NEAR = 2.0**-36
"""Squared norms of equal rows differ by rounding, and so by less than this share."""


class Copies(NamedTuple):
    """Rows that are equal to a lower one, by their positions in the whole.

    Attributes:
        rows: (c,) int64, rising.
        originals: (c,) int64, the lowest row that each is equal to.
    """

    rows: Tensor
    originals: Tensor

    def lowest(self, row: int) -> int:
        """The lowest row that is equal to one."""
        at = (self.rows == row).nonzero()
        return int(self.originals[at[0, 0]]) if len(at) else row


def copies_among(rows: Rows, squares: Tensor) -> Copies:
    """Finds the rows that are equal to a lower one, of whichever process.

    Args:
        rows: The rows.
        squares: (count,) squared norms of this process's, rounded as they may be.
    """
    (every,) = joined(rows.exchange, squares)
    lowest_norm, highest_norm = _range_of_rank(every, rows.exchange)
    reached = highest_norm * (1 + 2 * _NEAR)
    some = ((every >= lowest_norm) & (every <= reached)).nonzero()[:, 0]
    order = some[every[some].argsort(stable=True)]
    ordered = every[order]
    near = ordered[1:] - ordered[:-1] <= ordered[1:] * _NEAR
    (found,) = joined(rows.exchange, torch.cat([order[1:][near], order[:-1][near]]))
    beside = torch.zeros(len(every), dtype=torch.bool, device=every.device)
    beside[found] = True
    ids = beside.nonzero()[:, 0]
    own = ids[rows.owned(ids)] - rows.first
    parts = [rows.digests(part) for part in torch.split(own, rows.chunk)]
    own_digests = torch.cat([torch.empty(0, DIGEST, dtype=torch.uint8), *parts])
    (digests,) = joined(rows.exchange, own_digests)
    keys = digests.numpy().view(np.int64)
    by_key = np.lexsort((keys[:, 1], keys[:, 0]))  # stable: equal rows rise
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = (keys[by_key[1:]] != keys[by_key[:-1]]).any(1)
    lowest = np.empty_like(by_key)
    lowest[by_key] = by_key[begins][begins.cumsum() - 1]
    copies = torch.from_numpy(np.flatnonzero(lowest != np.arange(len(keys))))
    originals = torch.from_numpy(lowest)[copies]
    return Copies(ids[copies.to(ids.device)], ids[originals.to(ids.device)])


def _range_of_rank(values: Tensor, exchange: Exchange) -> tuple[float, float]:
    """Between what this process looks for equals: each takes about as many of the values."""
    sample = values[:: max(1, len(values) // 4096)].sort().values
    inner = [len(sample) * rank // exchange.count for rank in range(1, exchange.count)]
    ends = [-torch.inf, *(float(sample[i]) for i in inner), torch.inf]
    return ends[exchange.rank], ends[exchange.rank + 1]
