import threading
import time
from collections.abc import Iterator

import pytest

from segal.data.prefetch import prefetch


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order(workers: int) -> None:
    def read(item: int) -> int:
        time.sleep(0.002 * (item % 3))
        return item * item

    assert list(prefetch(read, range(40), workers)) == [i * i for i in range(40)]
    assert list(prefetch(read, [], workers)) == []


def test_look_ahead_is_bounded_and_items_are_consumed_lazily() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    results = prefetch(lambda item: item, items(), workers=2, depth=3)
    assert taken == []
    for expected in range(10):
        assert next(results) == expected
        assert len(taken) == expected + 4
    results.close()
    assert len(taken) == 13


def test_reading_goes_on_while_a_result_is_used() -> None:
    third = threading.Event()

    def read(item: int) -> int:
        if item == 2:
            third.set()
        return item

    results = prefetch(read, range(5), workers=1, depth=2)
    assert next(results) == 0
    assert third.wait(5)
    results.close()


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_an_exception_surfaces_in_the_place_of_its_item(workers: int) -> None:
    def read(item: int) -> int:
        if item in (5, 6):
            raise KeyError(item)
        return item

    results = prefetch(read, range(50), workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="5"):
        next(results)
    with pytest.raises(StopIteration):
        next(results)


def test_closing_cancels_what_waits_and_joins_the_threads() -> None:
    begun: list[int] = []
    go = threading.Event()

    def read(item: int) -> int:
        begun.append(item)
        if item > 0:
            go.wait(5)
        return item

    before = threading.active_count()
    results = prefetch(read, range(100), workers=1, depth=10)
    assert next(results) == 0
    threading.Timer(0.05, go.set).start()
    results.close()
    assert [t for t in threading.enumerate() if t.name.startswith("segal-prefetch")] == []
    assert threading.active_count() <= before + 1  # the timer
    assert len(begun) <= 2


def test_wrong_numbers() -> None:
    for workers, depth in ((-1, None), (1, 0)):
        with pytest.raises(ValueError, match="workers"):
            next(prefetch(str, [1], workers, depth))
