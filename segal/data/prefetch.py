"""Reads ahead in threads, so that the network is what one waits for."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_MUCH, _LONG = 0.1, 1.0
"""Share of the time, and seconds, from which on it is worth a note that it was waited."""


@dataclass
class Waited:
    """How long results were waited for, added up over all that was read with it.

    Attributes:
        seconds: Until results were there.
        of: In all, until the last result was dealt with.
    """

    seconds: float = 0.0
    of: float = 0.0

    @property
    def share(self) -> float:
        """Of the time, from 0 to 1."""
        return self.seconds / self.of if self.of else 0.0

    def as_dict(self) -> dict[str, float]:
        """For JSON, rounded."""
        return {"seconds": round(self.seconds, 3), "share": round(self.share, 4)}

    def notes(self) -> list[str]:
        """What the user should be told, where it was much."""
        if self.share <= _MUCH or self.seconds < _LONG:
            return []
        return [
            f"The network waited for images in {100 * self.share:.0f} % of the pass "
            f"({self.seconds:.0f} of {self.of:.0f} s); --workers says how many threads read."
        ]

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Adds the time that it takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


def prefetch(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    depth: int | None = None,
    waited: Waited | None = None,
) -> Generator[Result, None, None]:
    """Yields `read(item)` for each item, in order, reading ahead.

    An exception of `read` surfaces in place of the result of the item that raised it. Closing the
    generator, or an exception, cancels what has not begun and waits for what has.

    Args:
        read: Called in threads, so it must be safe to; decoding releases the interpreter's lock.
        items: Consumed lazily, in the caller's thread.
        workers: Threads; 0 reads in the caller's thread, with no look-ahead.
        depth: Largest number of results that are being read or wait to be taken, beside the one
            that was yielded last; twice the workers by default.
        waited: Told how long the caller waited; without workers that is all of the reading.
    """
    if workers < 0 or (depth is not None and depth < 1):
        raise ValueError(f"workers must be >= 0 and depth >= 1, got {workers} and {depth}")
    waited = Waited() if waited is None else waited
    started = time.perf_counter()
    try:
        if workers == 0:
            for item in items:
                with waited.waiting():
                    result = read(item)
                yield result
        else:
            yield from _read_ahead(read, items, workers, depth or 2 * workers, waited)
    finally:
        waited.of += time.perf_counter() - started


def _read_ahead(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    depth: int,
    waited: Waited,
) -> Iterator[Result]:
    remaining = iter(items)
    executor = ThreadPoolExecutor(workers, thread_name_prefix="segal-prefetch")
    try:
        first = islice(remaining, depth)
        pending: deque[Future[Result]] = deque(executor.submit(read, item) for item in first)
        while pending:
            with waited.waiting():
                result = pending.popleft().result()
            pending.extend(executor.submit(read, item) for item in islice(remaining, 1))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
