"""The ledger that several ranks work at: rank 0 writes, all see the same, differences are named."""

import threading
from pathlib import Path

import pytest

from segal.data.images import ImageInfo
from segal.data.pool import ImagePool
from segal.errors import SegalError
from segal.runs.following import SharedLedger, open_shared
from segal.runs.ledger import Ledger, Purchase
from tests.threaded_ranks import on_ranks

_CONFIGURATION = {"region": "8", "strategy": {"name": "uwe", "tau": 1.0}, "seed": 0}
_POOL = ImagePool(Path("images"), ("a.png", "b.png"), (ImageInfo(16, 24, "d"),) * 2, ((1, 2),) * 2)


def _open(folder, ranks, **changes):
    return open_shared(folder, "run", _CONFIGURATION | changes, ranks=ranks)


def test_all_ranks_see_what_rank_0_has_bought_and_it_alone_writes(tmp_path):
    wrote = []

    def work(ranks):
        with _open(tmp_path / "run", ranks) as ledger:
            ledger.alone(lambda: wrote.append(ranks.rank) or ledger.record_images(_POOL))
            before = ledger.finished("seed", 0, "f")
            own = [Purchase(1, "random", "a.png", (0, 0, 8, 8 + 8 * ranks.rank), 0.0)]
            bought = ledger.finish("seed", 0, "f", purchases=own)
            return before, bought, ledger.finished("seed", 0, "f"), ledger.purchases()

    found = on_ranks(3, work)
    assert found[0] == found[1] == found[2]
    before, bought, after, purchases = found[0]
    assert (before, after, wrote) == (False, True, [0])
    assert [p.box for p in bought] == [(0, 0, 8, 8)]
    assert bought == purchases
    with Ledger.read(tmp_path / "run") as ledger:
        assert ledger.purchases() == bought


def test_no_rank_reads_while_rank_0_works_alone(tmp_path):
    began, looked = threading.Event(), []

    def work(ranks):
        with _open(tmp_path / "run", ranks) as ledger:
            if not ranks.is_first:
                looked.append(began.is_set())  # the last thing before rank 0 may begin
            ledger.alone(began.set)
            return began.is_set()

    assert on_ranks(2, work) == [True, True]
    assert looked == [False]


def test_damage_that_rank_0_finds_is_done_again_by_all(tmp_path):
    file = tmp_path / "run" / "table"

    def work(ranks):
        with _open(tmp_path / "run", ranks) as ledger:
            if ranks.is_first:
                file.write_text("as it was")
            ledger.finish("scan", 0, "f", [file])
            ledger.alone(lambda: file.write_text("another") and None)
            return ledger.finished("scan", 0, "f")

    with pytest.warns(UserWarning, match="not as it was written"):
        assert on_ranks(2, work) == [False, False]


def test_a_rank_that_would_write_is_stopped(tmp_path):
    def work(ranks):
        with _open(tmp_path / "run", ranks) as ledger:
            if not ranks.is_first:
                with pytest.raises(AssertionError):
                    ledger.record_images(_POOL)
            ranks.wait()

    assert on_ranks(2, work) == [None, None]


def test_other_settings_of_a_rank_are_named_before_anything_is_made(tmp_path):
    def work(ranks):
        tau = 1.0 if ranks.rank < 2 else 2.0
        _open(tmp_path / "run", ranks, strategy={"name": "uwe", "tau": tau})

    errors = on_ranks(3, work)
    assert [str(error) for error in errors] == [str(errors[0])] * 3
    assert "strategy.tau: 1.0 on rank 0, 2.0 on rank 2" in str(errors[0])
    assert "rank 1" not in str(errors[0])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["inputs", "seen"])
def test_other_files_of_a_rank_are_named(tmp_path, kind):
    def work(ranks):
        files = {f"{n}.png": "digest" for n in range(3)}
        if ranks.rank == 1:
            files["1.png"] = "another"
        given = {kind: {"images of train": files, "labels of train": {"a": "b"}}}
        open_shared(tmp_path / "run", "run", _CONFIGURATION, ranks=ranks, **given)

    errors = on_ranks(2, work)
    assert str(errors[0]) == str(errors[1])
    assert "images of train, on rank 1: 1 changed (1.png)" in str(errors[0])
    assert "labels" not in str(errors[0])


def test_files_that_one_rank_alone_has_are_named(tmp_path):
    def work(ranks):
        inputs = {"labels of test": {"a.png": "digest"}} if ranks.rank else {}
        open_shared(tmp_path / "run", "run", _CONFIGURATION, ranks=ranks, inputs=inputs)

    for error in on_ranks(2, work):
        assert "labels of test, on rank 1: 1 added (a.png)" in str(error)


def test_a_stage_of_other_inputs_is_refused_on_every_rank(tmp_path):
    def work(ranks):
        with _open(tmp_path / "run", ranks) as ledger:
            ledger.finished("train", 1, f"chain {ranks.rank}")

    for error in on_ranks(2, work):
        assert isinstance(error, SegalError)
        assert "what train of round 1 is done with" in str(error)


def test_a_folder_that_a_rank_does_not_see_is_told_of(tmp_path):
    def work(ranks):
        _open(tmp_path / f"run{ranks.rank}", ranks)

    _, error = on_ranks(2, work)
    assert "rank 1 does not see what rank 0 has made" in str(error)


def test_one_rank_is_a_ledger_like_any_other(tmp_path):
    (opened,) = on_ranks(1, lambda ranks: type(_open(tmp_path / "run", ranks)))
    assert opened is SharedLedger
