"""Ranks of a job in one process: threads that wait for each other at every gather."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass
class Rank:
    """One of several threads (an `Exchange`).

    Attributes:
        gathers: How many there were.
    """

    rank: int
    count: int
    barrier: Barrier
    told: dict[int, Tensor]
    gathers: int = field(default=0)

    def gather(self, own: Tensor) -> Tensor:
        self.gathers += 1
        self.told[self.rank] = own.clone()
        self.barrier.wait()
        every = [self.told[rank] for rank in range(self.count)]
        assert len({(x.shape, x.dtype, x.device.type) for x in every}) == 1, every
        found = torch.stack(every)
        self.barrier.wait()
        return found


def on_ranks(count: int, work: Callable[[Rank], T]) -> list[T]:
    """What each of so many ranks returns; where one raises, the others stop waiting for it."""
    barrier, told = Barrier(count), dict[int, Tensor]()

    def run(rank: int) -> T:
        try:
            return work(Rank(rank, count, barrier, told))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(run, rank) for rank in range(count)]]
