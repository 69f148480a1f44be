"""The sweep over tau against textbook loops, and the rule behind its suggestion by hand."""

import numpy as np
import pytest

from segal.candidates.budget import Allowance
from segal.candidates.regions import RegionSize
from segal.candidates.sweep import Batch, Pool, suggest, tune_region
from segal.candidates.table import CandidateTable, box_pixels

SIZE = RegionSize(16, 16)


def make_table(count, seed, per_image=12):
    rng = np.random.default_rng(seed)
    image = np.arange(count, dtype=np.int32) // per_image
    x = (np.arange(count) % per_image) * 16
    box = np.stack([x, 0 * x, x + 16, 0 * x + 16], 1).astype(np.int32)
    features = np.maximum(rng.normal(size=(count, 9)), 0).astype(np.float32)
    return CandidateTable(
        images=tuple(map(str, range(image[-1] + 1))),
        image=image,
        box=box,
        pixels=box_pixels(box),
        values={"u": rng.permutation(np.linspace(0, 1.5, count))},
        embeddings={"mean_feature": features},
    )


def make_pool(count, budget, seed=0):
    table = make_table(count, seed)
    rows = np.arange(count)
    return Pool(SIZE, SIZE, count, rows, table, Allowance(budget, "regions"), table.pixels)


def textbook(x, centres, count):
    """One pick at a time, every distance by its difference, in float64."""
    nearest = np.full(len(x), np.inf)
    for centre in centres:
        nearest = np.minimum(nearest, np.square(x - centre).sum(1))
    picks = []
    for _ in range(count):
        picks.append(int(np.argmax(nearest)) if np.isfinite(nearest).all() else norms(x))
        nearest = np.minimum(nearest, np.square(x - x[picks[-1]]).sum(1))
        nearest[picks] = -1
    return picks


def norms(x):
    return int(np.square(x).sum(1).argmax())


def embed(table, tau):
    weights = (table.values["u"] ** tau).astype(np.float32)[:, None]
    return (table.embeddings["mean_feature"] * weights).astype(np.float64)


@pytest.mark.parametrize("labelled", [0, 25])
def test_every_taus_picks_are_the_textbooks(labelled):
    pool, table = make_pool(300, 40), make_table(max(labelled, 1), 5)
    centres = table.view(np.arange(labelled), table.pixels[:labelled])
    taus = [0.0, 0.05, 0.1, 0.5, 1.0, 3.0]
    steps = []
    found = tune_region(pool, centres, "u", taus, steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]
    for tau, batch in zip(taus, found.batches, strict=True):
        expected = textbook(embed(pool.offered, tau), embed(centres, tau), 40)
        assert batch.rows.tolist() == expected, tau
    uncertain, coreset = found.references
    assert uncertain.rows.tolist() == np.argsort(-pool.offered.values["u"])[:40].tolist()
    assert coreset.rows.tolist() == found.batches[0].rows.tolist()


def test_numbers_are_those_of_the_picks():
    pool, table = make_pool(200, 30), make_table(12, 5)
    (batch,) = tune_region(pool, table, "u", [0.7], lambda _: None).batches
    u, f = pool.offered.values["u"][batch.rows], pool.offered.embeddings["mean_feature"][batch.rows]
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(f) for b in f[:i]]
    assert batch.uncertainty == pytest.approx(u.mean())
    assert batch.pairwise_distance == pytest.approx(np.mean(pairs), rel=1e-6)
    assert batch.magnitude == pytest.approx((u * np.linalg.norm(f, axis=1)).mean(), rel=1e-6)
    assert batch.pixels == 30 * 256
    entropy = set(np.argsort(-pool.offered.values["u"])[:30].tolist())
    assert batch.overlap_uncertainty == len(entropy & set(batch.rows.tolist())) / 30


def test_a_large_tau_tends_to_the_most_uncertain():
    pool, table = make_pool(300, 40), make_table(25, 5)
    table.values["u"][:] = 0.01  # what is labelled is certain
    found = tune_region(pool, table, "u", [0.0, 1.0, 10.0, 100.0], lambda _: None)
    shares = [b.overlap_uncertainty for b in found.batches]
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] >= 0.95


# The suggestion


def made_batch(tau, uncertainty, distance):
    rows = np.arange(3)
    return Batch("uwe", tau, rows, 9, uncertainty, 1.0, distance, 0.0, 0.5, 0.5, 0.0, 0.0)


REFERENCES = (made_batch(None, 2.0, 10.0), made_batch(None, 1.0, 30.0))


def test_the_nearest_to_both_is_suggested():
    batches = [made_batch(0.0, 1.0, 30.0), made_batch(0.5, 1.7, 26.0), made_batch(1.0, 1.9, 14.0)]
    found = suggest(RegionSize(128, 128), REFERENCES, batches)
    # In units from least to most: (0, 1), (0.7, 0.8), (0.9, 0.2).
    assert found.tau == 0.5
    assert found.paper == 0.1
    assert "70 % of the way in mean uncertainty and 80 % in mean pairwise" in found.reason
    assert "0.36" in found.reason


def test_a_suggestion_at_the_end_of_the_sweep_says_so():
    rising = [made_batch(0.5, 1.2, 20.0), made_batch(1.0, 1.9, 29.0)]
    assert "largest tau of the sweep" in suggest(SIZE, REFERENCES, rising).reason
    falling = [made_batch(0.5, 1.9, 29.0), made_batch(1.0, 1.2, 20.0)]
    assert "smallest tau of the sweep" in suggest(SIZE, REFERENCES, falling).reason
    inner = [made_batch(0.5, 1.2, 20.0), made_batch(1.0, 1.9, 29.0), made_batch(2.0, 2.0, 10.0)]
    bounds = [made_batch(0.0, 1.9, 29.0), made_batch(1.0, 1.2, 20.0)]
    top = [made_batch(1.0, 1.2, 20.0), made_batch(100.0, 1.9, 29.0)]
    for batches in (inner, bounds, top, rising[:1]):
        assert "of the sweep" not in suggest(SIZE, REFERENCES, batches).reason


def test_ties_go_to_the_smaller_tau_and_equal_axes_do_not_decide():
    twins = [made_batch(0.2, 1.7, 26.0), made_batch(0.4, 1.7, 26.0)]
    assert suggest(RegionSize(), REFERENCES, twins).tau == 0.2
    assert suggest(RegionSize(), REFERENCES, twins).paper == 1.0
    flat = (made_batch(None, 2.0, 10.0), made_batch(None, 1.0, 10.0))
    level = [made_batch(0.0, 1.0, 10.0), made_batch(1.0, 1.5, 10.0), made_batch(2.0, 1.9, 10.0)]
    assert suggest(RegionSize(256, 257), flat, level).tau == 2.0
    assert suggest(RegionSize(256, 257), flat, level).paper == 1.0
