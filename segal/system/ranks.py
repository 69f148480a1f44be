"""Which of the processes that torchrun started this is, and what they tell each other.

All ranks run the same command on the same files. Rank 0 alone writes what belongs to the run: the
ledger, selections, pictures. A process that torchrun did not start is rank 0 of 1.
"""

import atexit
import ctypes
import gc
import hashlib
import json
import math
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn  # Imported after a group is there, it never lets go of that one.
from numpy.typing import NDArray
from torch import Tensor

from segal.errors import SegalError

__all__ = ["ALONE", "Ranks", "all_ranks"]

_PARENT_DEATH_SIGNAL = 1  # linux/prctl.h
_PATIENCE = timedelta(days=7)
"""How long ranks wait for one: its work is long, and torchrun stops all where one is gone."""


@dataclass(frozen=True)
class Ranks:
    """The ranks of a job (a `segal.functional.exchange.Exchange`).

    Attributes:
        rank: Which of them this is, from 0.
        count: How many there are.
        here: How many of them run on this machine.
        place: Which of those this is, from 0: its GPU, where there are any.
    """

    rank: int = 0
    count: int = 1
    here: int = 1
    place: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes what belongs to the run."""
        return self.rank == 0

    def gather(self, own: Tensor) -> Tensor:
        """Every rank's tensor, on every rank: (count, *shape), by rank.

        Args:
            own: This rank's, of the same shape and dtype on each; on the CPU.
        """
        if self.count == 1:
            return own[None]
        every = [torch.empty_like(own) for _ in range(self.count)]
        with self.together():
            dist.all_gather(every, own.contiguous())
        return torch.stack(every)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turns the loss of another rank into an error that says so.

        Raises:
            SegalError: If the connection to another rank breaks; other errors stay what they are.
        """
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, dist.DistError) and "gloo" not in str(error):
                raise
            raise SegalError(
                "another rank of this job has ended",
                expected=f"all {self.count} ranks at work",
                got=str(error).splitlines()[0][:200],
                remedy="see what that rank said; the same command goes on from what is done",
            ) from error

    def wait(self) -> None:
        """Returns once every rank has called this."""
        self.gather(torch.zeros(1))

    def told(self, value: Any) -> Any:
        """What rank 0 says, on every rank.

        Args:
            value: What JSON can hold; of other ranks than 0 it is not looked at.
        """
        if self.count == 1:
            return value
        text = _tensor(json.dumps(value).encode() if self.is_first else b"")
        size = torch.tensor([len(text)])
        self._broadcast(size)
        data = text if self.is_first else torch.zeros(int(size), dtype=torch.uint8)
        self._broadcast(data)
        return json.loads(data.numpy().tobytes())

    def _broadcast(self, tensor: Tensor) -> None:
        """Fills a tensor with rank 0's."""
        with self.together():
            dist.broadcast(tensor, 0)

    def texts(self, own: str) -> list[str]:
        """What every rank says, on every rank, by rank."""
        data = _tensor(own.encode(errors="surrogateescape"))
        sizes = self.gather(torch.tensor([len(data)]))[:, 0].tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(data)] = data
        every = self.gather(padded)
        return [
            row[:n].numpy().tobytes().decode(errors="surrogateescape")
            for row, n in zip(every, sizes, strict=True)
        ]

    def arrays(self, own: Mapping[str, NDArray[Any]]) -> list[dict[str, NDArray[Any]]]:
        """Every rank's arrays, on every rank, by rank.

        Args:
            own: This rank's, of the same names on each, and of numbers.
        """
        said = [[name, one.dtype.str, one.shape] for name, one in own.items()]
        headers = [json.loads(text) for text in self.texts(json.dumps(said))]
        data = b"".join(np.ascontiguousarray(one).tobytes() for one in own.values())
        sizes = self.gather(torch.tensor([len(data)]))[:, 0].tolist()
        padded = torch.zeros(max(sizes), dtype=torch.uint8)
        padded[: len(data)] = _tensor(data)
        found = []
        for row, header in zip(self.gather(padded).numpy(), headers, strict=True):
            arrays, start = {}, 0
            for name, kind, shape in header:
                stop = start + np.dtype(kind).itemsize * math.prod(shape)
                arrays[name] = np.frombuffer(row[start:stop].tobytes(), kind).reshape(shape)
                start = stop
            found.append(arrays)
        return found

    def fill(self, tensor: Tensor) -> None:
        """Makes a tensor what rank 0's is.

        Args:
            tensor: Of the same shape and dtype on each; on the CPU.
        """
        if self.count > 1:
            self._broadcast(tensor)

    def agree(self, what: str, value: str) -> None:
        """Refuses ranks that differ in what has to be the same on each.

        Args:
            what: What is compared, as users call it.
            value: This rank's.

        Raises:
            SegalError: On every rank, if one differs from rank 0.
        """
        digest = hashlib.sha256(value.encode()).digest()
        every = self.gather(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
        others = [rank for rank in range(self.count) if not every[rank].equal(every[0])]
        if others:
            raise SegalError(
                f"the ranks of this job differ: {what}",
                expected=f"the same on all {self.count} ranks",
                got=f"another one than rank 0's on rank {_listed(others)}",
                remedy="start every rank with the same command, and let all of them see the same "
                "files",
            )


ALONE = Ranks()
"""One process."""

_NAMES = "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK"
"""What torchrun sets, in the order of the fields of `Ranks`."""


@cache
def all_ranks() -> Ranks:
    """The ranks of this job; the first call waits until all of them have called it.

    Raises:
        SegalError: If the others cannot be reached.
    """
    said = os.environ.get("WORLD_SIZE", "1")
    if said == "1":
        return Ranks()
    _end_with_launcher()
    try:
        named = {name: int(os.environ[name]) for name in _NAMES}
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=_PATIENCE)
            atexit.register(_leave)
    except (RuntimeError, ValueError, KeyError) as error:
        got = f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)
        raise SegalError(
            "the ranks of this job do not find each other",
            expected="WORLD_SIZE processes that torchrun started",
            got=got.splitlines()[0],
            remedy="start them with torchrun; or unset WORLD_SIZE to run one process",
        ) from error
    return Ranks(*(named[name] for name in _NAMES))


def _tensor(data: bytes) -> Tensor:
    if not data:
        return torch.zeros(0, dtype=torch.uint8)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _leave() -> None:
    """Ends the group's threads while the interpreter is whole.

    A thread of gloo that lets go of a tensor later aborts the process (torch 2.14.1). Threads end
    with the group, and that with what holds it, such as a wrapped network.
    """
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


def _end_with_launcher() -> None:
    """Lets this rank end where its launcher is killed (Linux), so that the run's folder is free."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _listed(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))
