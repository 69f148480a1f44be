import threading
import time
from collections.abc import Iterator

import pytest

from segal.data import prefetch as prefetching
from segal.data.prefetch import Waited, prefetch


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


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


def test_without_workers_all_reading_is_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waited = Clock(), Waited()
    monkeypatch.setattr(prefetching, "time", clock)

    def read(item: int) -> int:
        clock.now += 2
        return item

    for _ in range(2):  # over both passes
        for _ in prefetch(read, range(3), 0, waited=waited):
            clock.now += 6
    assert (waited.seconds, waited.of, waited.share) == (12, 48, 0.25)
    assert waited.as_dict() == {"seconds": 12, "share": 0.25}
    assert waited.notes() == [
        "The network waited for images in 25 % of the pass (12 of 48 s); --workers says how many "
        "threads read."
    ]


def test_what_a_thread_reads_ahead_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, waited = Clock(), Waited()
    monkeypatch.setattr(prefetching, "time", clock)
    asked, there = threading.Event(), [threading.Event() for _ in range(3)]

    def read(item: int) -> int:
        if item == 0:
            assert asked.wait(5)
            clock.now += 3
        there[item].set()
        return item

    results = prefetch(read, range(3), workers=1, waited=waited)
    original = Waited.waiting

    def waiting(self: Waited) -> object:
        context = original(self)

        class Said:
            def __enter__(self) -> None:
                context.__enter__()
                asked.set()

            def __exit__(self, *error: object) -> None:
                context.__exit__(*error)

        return Said()

    monkeypatch.setattr(Waited, "waiting", waiting)
    for item in results:
        assert there[min(item + 1, 2)].wait(5)
        clock.now += 1
    assert (waited.seconds, waited.of) == (3, 6)
    assert waited.share == 0.5


def test_a_little_waiting_is_not_told() -> None:
    assert Waited().share == 0
    assert [Waited(*both).notes() for both in ((0.9, 1.0), (5.0, 50.0))] == [[], []]
    assert Waited(5.1, 50.0).notes()
