"""On ranks, strategies pick what they pick in one process."""

import threading

import numpy as np
import pytest

from segal.errors import SegalError
from segal.strategies import _distance, base, max_herding, uherding, uwe
from segal.system.ranks import Ranks
from tests.contract.test_strategies import made_table, make, pick
from tests.ranks import on_ranks

CASES = [
    ("entropy", {}),
    ("coreset", {}),
    ("coreset", {"selector": "k_means_plusplus", "init": "max_norm"}),
    ("uwe", {"normalize": "minmax"}),
    ("badge", {}),
    ("max_herding", {}),
    ("uherding", {}),
]


@pytest.fixture
def of_thread(monkeypatch):
    """Each thread's rank, for the strategies."""
    here = threading.local()
    for module in (_distance, base, max_herding, uherding, uwe):
        monkeypatch.setattr(module, "all_ranks", lambda: getattr(here, "rank", Ranks()))
    return here


@pytest.mark.parametrize(("name", "parameters"), CASES)
def test_picks_and_scores(of_thread, name, parameters):
    strategy = make(name, parameters)
    whole = made_table(strategy)
    on_offer = np.flatnonzero(np.arange(len(whole)) % 5)
    table = whole.view(on_offer, whole.pixels[on_offer])
    labelled = whole.view(np.arange(0, len(whole), 5), whole.pixels[::5])
    expected = pick(strategy, table, labelled, 30)

    def of_rank(rank):
        of_thread.rank = rank
        return pick(strategy, table, labelled, 30)

    for found in on_ranks(3, of_rank):
        assert found.rows.tolist() == expected.rows.tolist()
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-9)
        assert found.notes == expected.notes


def test_embeddings_that_overflow_on_one_rank_are_refused_by_all(of_thread):
    strategy = make("uwe", {"tau": 100.0})
    table = made_table(strategy)
    column = next(iter(table.values))
    table.values[column][:] = 0.5
    table.values[column][-1] = 1e30  # of the last rank

    def of_rank(rank):
        of_thread.rank = rank
        with pytest.raises(SegalError, match="out of range"):
            pick(strategy, table, table.view(np.arange(0), table.pixels[:0]), 3)
        return True

    assert on_ranks(3, of_rank) == [True] * 3
