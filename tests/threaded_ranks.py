"""Ranks of a job that are threads of this process."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segal.errors import SegalError
from segal.system.ranks import Ranks


class _Meeting:
    """Where ranks wait for each other; one that has ended is not waited for in vain."""

    def __init__(self, count: int) -> None:
        self.slots: list[Tensor | None] = [None] * count
        self._count, self._arrived, self._lap, self._ended = count, 0, 0, 0
        self._changed = threading.Condition()

    def wait(self) -> None:
        with self._changed:
            lap, self._arrived = self._lap, self._arrived + 1
            if self._arrived == self._count:
                self._lap, self._arrived = lap + 1, 0
                self._changed.notify_all()
            there = self._changed.wait_for(lambda: self._lap > lap or self._ended, timeout=60)
            if self._lap == lap:
                raise SegalError("another rank of this job has ended" if there else "no rank came")

    def end(self) -> None:
        with self._changed:
            self._ended += 1
            self._changed.notify_all()


@dataclass(frozen=True)
class ThreadRanks(Ranks):
    """One of them; what they exchange goes through this process's memory."""

    shared: Any = None

    def gather(self, own: Tensor) -> Tensor:
        shared = self.shared
        shared.slots[self.rank] = own.clone()
        self.shared.wait()
        every = torch.stack(list(shared.slots))
        self.shared.wait()
        return every

    def _broadcast(self, tensor: Tensor) -> None:
        self.shared.slots[self.rank] = tensor.clone()
        self.shared.wait()
        tensor.copy_(self.shared.slots[0])
        self.shared.wait()


def on_ranks(count: int, work: Callable[[Ranks], Any]) -> Sequence[Any]:
    """What `work` returns on each of so many ranks, or the error that it raised there."""
    shared, found = _Meeting(count), [None] * count

    def run(rank: int) -> None:
        try:
            found[rank] = work(ThreadRanks(rank, count, count, rank, shared))
        except Exception as error:
            found[rank] = error
        finally:
            shared.end()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
