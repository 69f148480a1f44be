"""BADGE: picks by gradients that stay on disk."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from segal.candidates.table import CandidateTable, TableWriter, box_pixels
from segal.functional.k_center import k_center_greedy
from segal.strategies.badge import Badge
from segal.strategies.base import PassContext

N, SIZE, PICKS = 60, 12, 20
[[SIGNAL]] = Badge().passes(PassContext())


def table_of(folder, seed, count=N, dtype="float32"):
    """A table as a scan writes it, and its gradients; norms differ widely."""
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((count, SIZE)) * rng.gamma(0.5, size=(count, 1))
    gradients = gradients.astype(dtype)
    box = np.array([(i, 0, i + 1, 1) for i in range(count)], np.int32)
    with TableWriter(folder, ("a.png",), count, dtype) as writer:
        writer.append([0], box, {SIGNAL.column: gradients.astype(np.float64)[None]})
    table = CandidateTable.open(folder)
    assert np.array_equal(table.pixels, box_pixels(box))
    return table, gradients.astype(np.float64)


def pick(strategy, table, labelled, seed=0):
    return strategy.select(table, labelled, PICKS, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_longest_gradient_comes_first_and_what_is_labelled_plays_no_part(tmp_path, dtype):
    table, gradients = table_of(tmp_path / "pool", 0, dtype=dtype)
    labelled, _ = table_of(tmp_path / "labelled", 1, 7)
    nothing = labelled.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    norms = np.linalg.norm(gradients, axis=1)
    first, again = (pick(Badge(), table, known) for known in (labelled, nothing))
    assert first.rows.tolist() == again.rows.tolist()
    assert first.notes == again.notes == ()
    assert first.rows[0] == norms.argmax()
    # Scores: the norm, and then each pick's distance to the nearest before it.
    between = cdist(gradients[first.rows], gradients[first.rows])
    expected = [norms.max(), *(between[i, :i].min() for i in range(1, PICKS))]
    np.testing.assert_allclose(first.scores, expected, rtol=1e-6)
    assert pick(Badge(), table, labelled, seed=1).rows[0] == norms.argmax()
    assert pick(Badge(), table, labelled, seed=1).rows.tolist() != first.rows.tolist()


def test_draws_are_in_proportion_to_the_squared_distance(tmp_path):
    table, gradients = table_of(tmp_path / "pool", 0, 8)
    strategy, draws = Badge(), 1000
    first = int(np.linalg.norm(gradients, axis=1).argmax())
    generator = torch.Generator().manual_seed(0)
    second = [int(strategy.select(table, table, 2, generator).rows[1]) for _ in range(draws)]
    squared = cdist(gradients, gradients[[first]])[:, 0] ** 2
    expected = draws * squared / squared.sum()
    counts = np.bincount(second, minlength=8)
    assert counts[first] == 0
    assert (np.abs(counts - expected) <= 5 * np.sqrt(expected + 1)).all()


def test_the_farthest_from_what_is_labelled(tmp_path):
    table, gradients = table_of(tmp_path / "pool", 0)
    labelled, known = table_of(tmp_path / "labelled", 1, 7)
    strategy = Badge(selector="k_center", init="labelled")
    pool, centres = torch.from_numpy(gradients), torch.from_numpy(known)
    ours = pick(strategy, table, labelled)
    assert ours.rows.tolist() == k_center_greedy(pool, PICKS, centres)[0].tolist()
    before = np.concatenate([known, gradients[ours.rows]])
    between = cdist(gradients[ours.rows], before)
    expected = [between[i, : len(known) + i].min() for i in range(PICKS)]
    np.testing.assert_allclose(ours.scores, expected, rtol=1e-6)


def test_rows_that_are_offered_alone(tmp_path):
    table, gradients = table_of(tmp_path / "pool", 0)
    rows = np.arange(1, N, 2)
    offered = table.view(rows, table.pixels[rows])
    whole, _ = table_of(tmp_path / "same", 0)
    ours = pick(Badge(), offered, whole).rows
    assert rows[ours[0]] == rows[np.linalg.norm(gradients[rows], axis=1).argmax()]
    assert len(set(ours.tolist())) == PICKS


def test_labelled_regions_are_measured_only_where_they_count():
    for init, expected in (("max_norm", False), ("labelled", True)):
        [[signal]] = Badge(init=init).passes(PassContext())
        assert signal.of_labelled is expected
        assert not signal.bias
        assert signal.layers == "last"
