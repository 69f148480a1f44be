"""Selection from rows that are divided over ranks gives the picks of one process, index by index.

What one process picks is held against the textbook loops elsewhere.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from segal.candidates.table import StoredRows
from segal.functional import k_center
from segal.functional.distances import OuterProducts, part_of, rows_of
from segal.functional.herding import herding_order
from segal.functional.k_center import k_center_order
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.functional.ranking import rank, top_k
from tests.ranks import on_ranks

N = 90
DIVISIONS = [[1, 89], [27, 0, 63], [0, 3, 60, 27], [45, 45]]


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def continuous(seed=0, d=6):
    return torch.randn(N, d, generator=seeded(seed), dtype=torch.float64)


def with_copies():
    """Of each row up to ten copies, anywhere; two rows differ in the sign of zero alone."""
    distinct = torch.randn(30, 5, generator=seeded(1))
    x = distinct[torch.randint(30, (N,), generator=seeded(2))] + 3
    x[5], x[70] = torch.tensor([0.0, 1, 2, 3, 4]), torch.tensor([-0.0, 1, 2, 3, 4])
    return x


DATA = {
    "continuous": continuous(),
    "offset, float32": (continuous() + 40).float(),
    "weighted": continuous() * torch.randn(N, 1, generator=seeded(3), dtype=torch.float64).exp(),
    "ties": torch.randint(-2, 3, (N, 3), generator=seeded(4)).double(),
    "copies": with_copies(),
    "equal": torch.ones(N, 3),
    "sorted by norm": continuous()[continuous().norm(dim=1).argsort(descending=True)],
    "float16": continuous().numpy().astype(np.float16),
    "products": OuterProducts(with_copies()[:, :3].double(), continuous(5, 4)),
}
cases = pytest.mark.parametrize(
    ("name", "division", "known"),
    [
        *zip(DATA, itertools.cycle(DIVISIONS), itertools.cycle([0, 5, 0])),
        ("weighted", DIVISIONS[0], 0),
        ("weighted", DIVISIONS[1], 5),
        ("copies", DIVISIONS[2], 5),
        ("copies", DIVISIONS[3], 0),
    ],
    ids=str,
)


def parts(division):
    ends = np.cumsum(division).tolist()
    return [slice(end - length, end) for end, length in zip(ends, division, strict=True)]


def over(division, x, select):
    """What each rank picks of its part."""
    where = parts(division)
    return on_ranks(len(division), lambda rank: select(part_of(x, where[rank.rank]), rank))


@cases
def test_k_center(name, division, known):
    x = DATA[name]
    centers = part_of(x, slice(3, 3 + known)) if known else None
    expected = k_center_order(x, 60, centers, 12)
    for found in over(
        division, x, lambda own, rank: k_center_order(own, 60, centers, 12, exchange=rank)
    ):
        assert found.picks.tolist() == expected.picks.tolist()
        for one, other in zip(found[1:], expected[1:], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@cases
def test_k_means_plusplus(name, division, known):
    x = DATA[name]
    centers = part_of(x, slice(3, 3 + known)) if known else None

    def draw(own, **more):
        generator = seeded(7)
        return k_means_plusplus(own, 70, generator, centers, **more).tolist(), generator.get_state()

    picks, state = draw(x)
    for found, left in over(division, x, lambda own, rank: draw(own, exchange=rank)):
        assert found == picks
        assert left.equal(state)


@cases
def test_herding(name, division, known):
    x = DATA[name]
    weights = torch.rand(N, generator=seeded(8), dtype=torch.float64) if name != "ties" else None
    where = parts(division)
    kernel = "ball" if known else "gaussian"
    more = {"kernel": kernel, "radius": 1.5, "centers": part_of(x, slice(known))}
    expected = herding_order(x, 30, weights=weights, **more)

    def select(own, rank):
        given = None if weights is None else weights[where[rank.rank]]
        return herding_order(own, 30, weights=given, exchange=rank, **more)

    for found in over(division, x, select):
        assert found.picks.tolist() == expected.picks.tolist()
        torch.testing.assert_close(found.gain, expected.gain, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(found.coverage, expected.coverage, rtol=1e-12, atol=0)


@pytest.mark.parametrize("division", DIVISIONS, ids=str)
@pytest.mark.parametrize("direction", ["higher", "lower"])
def test_top_k(division, direction):
    scores = torch.randint(0, 9, (N,), generator=seeded(0)).double() / 7
    expected = rank(scores, direction).tolist()
    for k in (0, 1, 20, N):
        for found in over(
            division,
            scores[:, None],
            lambda own, rank, k=k: top_k(own[:, 0], k, direction, exchange=rank),
        ):
            assert found.tolist() == expected[:k]


def test_whatever_the_block_and_the_ranks():
    x = torch.randn(1500, 12, generator=seeded(0)).numpy().astype(np.float16)
    expected = k_center_order(x, 100).picks.tolist()
    for count, block in [(2, 5), (3, None), (4, 700)]:
        where = parts([1500 // count] * (count - 1) + [1500 - 1500 // count * (count - 1)])
        gathers = set()

        def select(rank, where=where, block=block, gathers=gathers):
            found = k_center_order(x[where[rank.rank]], 100, None, block, exchange=rank)
            gathers.add(rank.gathers)
            return found.picks.tolist()

        assert on_ranks(count, select) == [expected] * count
        assert len(gathers) == 1 and (block == 5 or gathers.pop() < 30)


def test_of_equal_rows_the_lowest_of_all_ranks_goes_first():
    x = DATA["copies"]
    picks = over([40, 50], x, lambda own, rank: k_center_order(own, N, exchange=rank).picks)[0]
    lowest = {}
    for row, values in enumerate((x + 0.0).tolist()):
        lowest.setdefault(tuple(values), row)
    assert set(picks[: len(lowest)].tolist()) == set(lowest.values())
    assert picks[len(lowest) :].tolist() == sorted(set(range(N)) - set(lowest.values()))


def test_draws_are_in_proportion_to_squared_distances():
    """Over two ranks, a row between them; the second pick is by the distances to the first."""
    x = torch.tensor([[0.0], [1.0], [1.5], [4.0], [4.1]], dtype=torch.float64)
    squared = (x[:, 0] - 4.1) ** 2
    counts = torch.zeros(5)
    for seed in range(60):
        select = lambda own, rank, seed=seed: k_means_plusplus(  # noqa: E731
            own, 2, seeded(seed), exchange=rank
        )
        counts[over([2, 3], x, select)[1][1]] += 1
    expected = squared / squared.sum()
    error = (counts / 60 - expected).abs()
    assert bool((error <= 4.5 * (expected * (1 - expected) / 60).sqrt() + 1e-12).all())


@pytest.mark.parametrize(
    "select",
    [
        lambda x, rank: k_center_order(x, 5, exchange=rank),
        lambda x, rank: k_means_plusplus(x, 5, seeded(0), exchange=rank),
        lambda x, rank: herding_order(x, 5, exchange=rank),
    ],
    ids=["k_center", "k_means_plusplus", "herding"],
)
def test_what_one_rank_cannot_take_all_refuse(select):
    bad = continuous()
    bad[80, 2] = torch.nan

    def refused(own, rank):
        with pytest.raises(ValueError, match="row 80"):
            select(own, rank)
        return True

    assert over([40, 50], bad, refused) == [True, True]

    def narrower(rank):
        with pytest.raises(ValueError, match=r"columns on every process, got \[6, 5\]"):
            select(continuous()[:, : 6 - rank.rank], rank)
        return True

    assert on_ranks(2, narrower) == [True, True]


def test_ranks_that_part_ways_are_stopped():
    def block(own, rank):
        rows = rows_of(own, rank)
        cover = k_center._Cover(rows, rows.centres(continuous()[:2], more=3), 3)
        with pytest.raises(ValueError, match="the same picks on all"):
            cover.block(8, [rank.rank])
        return True

    assert over([40, 50], continuous(), block) == [True, True]


def test_a_rank_reads_its_own_rows_alone(tmp_path):
    """What it has of the column lies in a file; what it has not is no row there."""
    x = DATA["weighted"].numpy()
    where = parts([20, 70])

    def select(rank):
        own = where[rank.rank]
        np.save(tmp_path / f"{rank.rank}.npy", x[own])
        stored = StoredRows(np.load(tmp_path / f"{rank.rank}.npy", mmap_mode="r"), None)
        return (
            k_center_order(stored, 30, exchange=rank).picks.tolist(),
            k_means_plusplus(stored, 30, seeded(0), exchange=rank).tolist(),
            herding_order(stored, 30, exchange=rank).picks.tolist(),
        )

    expected = (
        k_center_order(x, 30).picks.tolist(),
        k_means_plusplus(x, 30, seeded(0)).tolist(),
        herding_order(x, 30).picks.tolist(),
    )
    assert on_ranks(2, select) == [expected] * 2


SCRIPT = """
import sys, torch
from segal.functional.k_center import k_center_order
from segal.functional.shares import share
from segal.system.ranks import all_ranks
torch.set_num_threads(1)
x = torch.randn(300, 7, generator=torch.Generator().manual_seed(0))
ranks = all_ranks()
found = k_center_order(x[share(300, ranks)], 40, exchange=ranks)
assert found.picks.tolist() == k_center_order(x, 40).picks.tolist()
assert ranks.count == 2
"""


@pytest.mark.slow
def test_processes_that_torchrun_starts(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).resolve().parents[2])
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
