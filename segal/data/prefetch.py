"""Reads ahead in threads, so that the network is what one waits for."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetch(
    read: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    depth: int | None = None,
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
    """
    if workers < 0 or (depth is not None and depth < 1):
        raise ValueError(f"workers must be >= 0 and depth >= 1, got {workers} and {depth}")
    if workers == 0:
        yield from map(read, items)
        return
    remaining = iter(items)
    executor = ThreadPoolExecutor(workers, thread_name_prefix="segal-prefetch")
    try:
        first = islice(remaining, depth or 2 * workers)
        pending: deque[Future[Result]] = deque(executor.submit(read, item) for item in first)
        while pending:
            result = pending.popleft().result()
            pending.extend(executor.submit(read, item) for item in islice(remaining, 1))
            yield result
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
