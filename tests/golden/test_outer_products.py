"""Distances between outer products that are never built, against the products themselves."""

import numpy as np
import pytest
import torch

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable, StoredRows, TableWriter
from segal.functional.distances import OuterProducts, rows_of
from segal.functional.k_center import k_center_greedy, k_center_order
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.functional.points import Outers
from segal.scanning.workbench import forward
from segal.signals import MeanFeature, OutputGradient, RegionGradient, TopK
from segal.strategies.badge import Badge
from segal.strategies.base import PassContext
from segal.tasks.classification.model import ClassificationModel
from tests.tiny_classifier import TinyClassifier, make_bench, make_model, make_spec

N, CLASSES, WIDTH = 700, 5, 9


def factors(seed, n=N):
    """Residuals and features as a classifier has them, features off the origin; some are equal."""
    g = torch.Generator().manual_seed(seed)
    p = (3 * torch.randn(n, CLASSES, generator=g, dtype=torch.float64)).softmax(1)
    left = p.scatter_add(1, p.argmax(1, keepdim=True), torch.full_like(p[:, :1], -1.0))
    right = torch.randn(n, WIDTH, generator=g, dtype=torch.float64).abs() + 0.5
    left[n // 2 : n // 2 + 9], right[n // 2 : n // 2 + 9] = left[:9].clone(), right[:9].clone()
    return left, right


def built(left, right):
    return (left[:, :, None] * right[:, None]).flatten(1)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("known", [0, 20])
@pytest.mark.parametrize("count", [1, 60, 300])
def test_the_picks_of_the_explicit_form(known, count):
    left, right = factors(0)
    given = factors(1, known) if known else None
    explicit = built(left, right), built(*given) if known else None
    ours = OuterProducts(left, right), OuterProducts(*given) if known else None
    for seed in range(3):
        expected = k_means_plusplus(explicit[0], count, seeded(seed), explicit[1])
        assert torch.equal(k_means_plusplus(ours[0], count, seeded(seed), ours[1]), expected)
    expected = k_center_order(explicit[0], count, explicit[1])
    got = k_center_order(ours[0], count, ours[1])
    assert torch.equal(got.picks, expected.picks)
    torch.testing.assert_close(got.distance, expected.distance, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(got.radius, expected.radius, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_factors_on_disk(tmp_path, dtype):
    paths = [tmp_path / "left.npy", tmp_path / "right.npy"]
    for path, factor in zip(paths, factors(0), strict=True):
        np.save(path, factor.numpy().astype(dtype))
    mapped = [np.load(path, mmap_mode="r") for path in paths]
    explicit = built(*(torch.from_numpy(m.astype(np.float64)) for m in mapped))
    ours = OuterProducts(*(StoredRows(m, None) for m in mapped))
    assert torch.equal(
        k_means_plusplus(ours, 80, seeded(0)), k_means_plusplus(explicit, 80, seeded(0))
    )
    assert torch.equal(k_center_greedy(ours, 80)[0], k_center_greedy(explicit, 80)[0])


def test_factors_of_any_size_are_exact():
    """Where float32 would lose one factor's products to underflow, or the other's to infinity."""
    left, right = factors(0)
    ours, explicit = OuterProducts(left * 1e-24, right * 1e24), built(left, right)
    assert torch.equal(k_center_greedy(ours, 200)[0], k_center_greedy(explicit, 200)[0])
    rows = rows_of(ours)
    rows.squares()
    assert not rows.in_range


@pytest.mark.parametrize("apart", [1e-3, 1e-7])
def test_distances_of_close_products_keep_their_digits(apart):
    (left, right), g = factors(2, 40), seeded(3)
    points = Outers(left, right)
    other = Outers(
        *(x * (1 + apart * torch.randn(x.shape, generator=g).double()) for x in (left, right))
    )
    exact = [
        np.einsum("nc,nd->ncd", *(x.numpy().astype(np.longdouble) for x in (p.left, p.right)))
        for p in (points, other)
    ]
    expected = ((exact[0] - exact[1]) ** 2).sum((1, 2)).astype(np.float64)
    got = points.distances(other).diagonal().square()
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    both = Outers(torch.cat([left, other.left]), torch.cat([right, other.right]))
    i = torch.arange(40)
    np.testing.assert_allclose(both.apart(i, i + 40), expected, rtol=1e-6)
    least = points.distances(other).square().amin(1)
    torch.testing.assert_close(points.nearest(other), least, rtol=1e-12, atol=0)


def test_wrong_factors_are_named():
    left, right = factors(0, 20)
    with pytest.raises(ValueError, match="20 and 19"):
        k_center_greedy(OuterProducts(left, right[:-1]), 2)
    with pytest.raises(ValueError, match=r"x\.right: expected a floating-point"):
        k_center_greedy(OuterProducts(left, right.long()), 2)
    with pytest.raises(ValueError, match="expected outer products"):
        k_center_greedy(OuterProducts(left, right), 2, built(left, right))
    with pytest.raises(ValueError, match="expected a matrix"):
        k_center_greedy(left, 2, OuterProducts(left, right))
    with pytest.raises(ValueError, match=r"centers\.right"):
        k_center_greedy(OuterProducts(left, right), 2, OuterProducts(left, left))
    right[3, 0] = torch.nan
    with pytest.raises(ValueError, match="row 3"):
        k_means_plusplus(OuterProducts(left, right), 2, seeded(0))


def networks():
    binary = ClassificationModel(TinyClassifier(1), make_spec(class_names=("no", "yes")))
    return {
        "classes": make_model(),
        "one output": binary.double().eval(),
        "several labels": make_model("multilabel"),
    }


@pytest.mark.parametrize("region", [RegionSize(), RegionSize(1, 1)], ids=str)
@pytest.mark.parametrize("rule", [OutputGradient().labels, TopK(1)], ids=lambda r: r.name)
@pytest.mark.parametrize("name", list(networks()))
def test_the_factors_of_the_last_layers_gradient(name, rule, region):
    model = networks()[name]
    images = torch.rand(3, 12, 12, 3, generator=seeded(1), dtype=torch.float64)
    bench = make_bench(model)
    signals = RegionGradient("last", rule), OutputGradient(rule), MeanFeature()
    for signal in signals:
        signal.check(model)
    meters = [signal.prepare(bench) for signal in signals]
    catch = list(dict.fromkeys(name for meter in meters for name in meter.catch))
    evidence = forward(bench.task, model, images, bench.settings, catch, list("abc"))
    units = region.grid(*evidence.logits.shape[2:])
    whole, left, right = (meter.measure(evidence, units) for meter in meters)
    assert left.dtype == torch.float64
    assert left.shape == (3, len(units), model.head.out_channels)
    torch.testing.assert_close(
        torch.einsum("bnc,bnd->bncd", left, right).flatten(2), whole, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize("selector", ["k_means_plusplus", "k_center"])
@pytest.mark.parametrize("init", ["max_norm", "labelled"])
def test_badge_takes_the_factors_where_features_are_shared(tmp_path, selector, init):
    strategy = Badge(selector=selector, init=init)
    shared = PassContext(shared_features=True)
    [[whole]], [[left, right]] = strategy.passes(PassContext()), strategy.passes(shared)
    tables = {}
    for name, seed, count in (("pool", 0, N), ("labelled", 1, 30)):
        found = factors(seed, count)
        box = np.tile(np.array([[0, 0, 1, 1]], np.int32), (count, 1))
        columns = {
            "whole": {whole.column: built(*found).numpy()},
            "factors": {s.column: f.numpy() for s, f in zip((left, right), found, strict=True)},
        }
        for kind, measured in columns.items():
            with TableWriter(tmp_path / kind / name, ("a.png",), count) as writer:
                writer.append([0], box, {column: rows[None] for column, rows in measured.items()})
            tables[kind, name] = CandidateTable.open(tmp_path / kind / name)
    picks = [
        strategy.select(tables[kind, "pool"], tables[kind, "labelled"], 80, seeded(4))
        for kind in ("whole", "factors")
    ]
    # The two tables were rounded to float32 apart, which no pick of these hangs on.
    assert picks[0].rows.tolist() == picks[1].rows.tolist()
    np.testing.assert_allclose(picks[0].scores, picks[1].scores, rtol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 20.0])
def test_float16_on_disk_gives_the_picks_of_its_float64_values(tmp_path, offset):
    x = (torch.randn(900, 12, generator=seeded(5)) * 3 + offset).half()
    np.save(tmp_path / "x.npy", x.numpy())
    mapped = StoredRows(np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(0, 900, 2))
    scale = np.random.default_rng(0).random(450).astype(np.float32)
    for rows, double in (
        (mapped, x[::2].double()),
        (mapped.scaled(scale), (x[::2].float() * torch.from_numpy(scale)[:, None]).double()),
    ):
        assert torch.equal(k_center_greedy(rows, 200)[0], k_center_greedy(double, 200)[0])
        assert torch.equal(
            k_means_plusplus(rows, 50, seeded(1)), k_means_plusplus(double, 50, seeded(1))
        )
