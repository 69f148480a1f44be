"""Strategies that cover the pool in feature space, against loops over all pairs."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segal.candidates.evidence import Evidence
from segal.candidates.regions import Boxes
from segal.candidates.table import CandidateTable, box_pixels
from segal.errors import SegalError
from segal.functional import nearest
from segal.functional.calibration import TemperatureSearch
from segal.functional.nearest import smallest_distance
from segal.functional.purity import pure_radius
from segal.models.spec import ModelSpec
from segal.signals.calibrated import Calibrated
from segal.signals.dropout import drawn
from segal.signals.feature_dropout import FeatureDropout
from segal.strategies._features import k_means
from segal.strategies.base import PassContext
from segal.strategies.drop_query import DropQuery
from segal.strategies.max_herding import MaxHerding
from segal.strategies.prob_cover import ProbCover
from segal.strategies.typiclust import TypiClust
from segal.strategies.uherding import UncertaintyHerding
from segal.tasks.segmentation.model import SegmentationModel
from tests.golden.test_herding import plain_loop


def table_of(count=120, seed=0, **values):
    """Clusters of features of other lengths, one candidate an image."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((6, 5))
    features = centres[rng.integers(0, 6, count)] + 0.25 * rng.standard_normal((count, 5))
    features *= rng.uniform(0.2, 5, (count, 1))
    box = np.tile(np.array([[0, 0, 8, 8]], np.int32), (count, 1))
    return CandidateTable(
        tuple(f"{i}.png" for i in range(count)), np.arange(count, dtype=np.int32), box,
        box_pixels(box), values, {"mean_feature": features.astype(np.float32)},
    )  # fmt: skip


def unit(table):
    """Of unit length, as a column that is scaled in float32 is."""
    features = table.embeddings["mean_feature"]
    norms = np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    return features * (1 / norms).astype(np.float32)


def pick(strategy, table, count, labelled=None, seed=0):
    if labelled is None:
        labelled = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return strategy.select(table, labelled, count, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("known", [0, 4])
def test_max_herding_is_the_plain_loop_on_directions(known):
    table, labelled = table_of(), table_of(known, 1) if known else None
    centers = unit(labelled) if known else None
    picks, gains, _ = plain_loop(unit(table), 30, "gaussian", 1.0, centers=centers)
    found = pick(MaxHerding(), table, 30, labelled)
    assert found.rows.tolist() == picks
    np.testing.assert_allclose(found.scores, gains, rtol=1e-9, atol=1e-13)
    raw = table.embeddings["mean_feature"]
    picks, _, _ = plain_loop(raw, 30, "gaussian", 2.0)
    assert pick(MaxHerding(sigma=2.0, normalize="none"), table, 30).rows.tolist() == picks


def test_uherding_weighs_by_uncertainty_and_takes_its_bandwidth_from_what_is_labelled():
    column = "margin-temperature-1.0"
    u = np.random.default_rng(4).random(120) ** 2
    table, labelled = table_of(**{column: u}), table_of(5, 1, **{column: np.zeros(5)})
    known = unit(labelled).astype(float)
    sigma = min(math.dist(known[i], known[j]) for i in range(5) for j in range(i))
    strategy = UncertaintyHerding(temperature=1.0)
    picks, gains, _ = plain_loop(unit(table), 25, "gaussian", sigma, u, unit(labelled))
    found = pick(strategy, table, 25, labelled)
    assert found.rows.tolist() == picks
    np.testing.assert_allclose(found.scores, gains, rtol=1e-8, atol=1e-12)
    assert found.notes == (f"The kernel's bandwidth is {sigma:.3g}.",)
    assert not strategy.uses_reference_labels and UncertaintyHerding().uses_reference_labels
    # Sure of everything: MaxHerding.
    sure = table_of(**{column: np.zeros(120)})
    fixed = UncertaintyHerding(temperature=1.0, sigma=1.0)
    found = pick(fixed, sure, 25)
    assert found.rows.tolist() == pick(MaxHerding(), sure, 25).rows.tolist()
    assert found.notes[0].startswith("The network is sure of everything")


def test_the_smallest_distance_is_that_of_points_that_differ():
    points = torch.tensor([[0.0, 0], [0, 0], [3, 4], [3, 4.5], [9, 9]])
    assert smallest_distance(points) == 0.5
    assert smallest_distance(points[:2]) == math.inf


def test_the_temperature_is_that_of_the_least_calibration_error():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4000, 3)) * 2
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    labels = np.array([rng.choice(3, p=row) for row in p])
    search = TemperatureSearch([0.25, 0.5, 1.0, 2.0, 4.0], bins=10)
    for part in range(0, 4000, 1000):  # sharper by 2 than what labels were drawn by
        logits = torch.from_numpy(2 * z[part : part + 1000])
        search.add(logits, torch.from_numpy(labels[part : part + 1000]))
    assert search.best() == 2.0
    for temperature, error in zip(search.temperatures, search.errors().tolist(), strict=True):
        q = np.exp(2 * z / temperature)
        q /= q.sum(1, keepdims=True)
        bins = [[] for _ in range(10)]
        for row, label in zip(q, labels, strict=True):
            place = min(max(math.ceil(row.max() * 10) - 1, 0), 9)
            bins[place].append((row.argmax() == label) - row.max())
        assert error == pytest.approx(sum(abs(sum(b)) for b in bins) / 4000, abs=1e-9)


def test_typiclust_takes_the_most_typical_of_the_clusters_with_the_fewest_labels():
    table, labelled = table_of(90), table_of(4, 1)
    strategy = TypiClust(neighbours=3, clusters=8)
    features = np.concatenate([unit(table), unit(labelled)])
    labels, _ = k_means(features, 8, torch.Generator().manual_seed(0))
    sizes = np.bincount(labels, minlength=8)
    known = np.bincount(labels[90:], minlength=8)
    order = sorted(range(8), key=lambda c: (known[c], -sizes[c]))
    order = [c for c in order if sizes[c] >= 5]
    taken = []
    for turn in range(12):
        cluster = order[turn % len(order)]
        members = [r for r in range(90) if labels[r] == cluster and r not in taken]
        typicality = {}
        for row in members:
            near = sorted(
                math.dist(features[row].astype(float), features[other].astype(float))
                for other in members
                if other != row
            )[: min(3, max(1, len(members) // 2))]
            typicality[row] = 1 / (sum(near) / len(near) + 1e-5)
        taken.append(max(members, key=lambda row: typicality[row]))
    found = pick(strategy, table, 12, labelled)
    assert found.rows.tolist() == taken


@pytest.mark.parametrize("smallest", [1, 5, 1000])
def test_typiclust_can_give_everything(smallest):
    table = table_of(40)
    strategy = TypiClust(smallest=smallest, clusters=7)
    found = pick(strategy, table, 40, table_of(3, 1))
    assert sorted(found.rows.tolist()) == list(range(40)) and np.isfinite(found.scores).all()


@pytest.mark.parametrize("purity", [0.5, 0.9, 1.0])
def test_balls_are_as_large_as_their_purity_allows(purity):
    points = torch.from_numpy(np.random.default_rng(2).standard_normal((60, 2)))
    labels = (points[:, 0] > 0).long()
    radius = pure_radius(points, labels, purity, torch.arange(60))

    def share(radius):
        pure = 0
        for point in points:
            inside = labels[(points - point).norm(dim=1) <= radius]
            pure += len(set(inside.tolist())) == 1
        return pure / 60

    assert share(radius) >= purity > share(radius * (1 + 1e-9))
    assert pure_radius(points, labels * 0, purity, torch.arange(60)) == pytest.approx(
        torch.cdist(points, points).max().item()
    )


@pytest.mark.parametrize("offset", [0.0, 1e3], ids=["near", "far from the origin"])
@pytest.mark.parametrize("runs", [(256, 8192), (3, 7)], ids=["whole", "pieces"])
def test_distances_to_the_nearest_are_those_of_loops(offset, runs, monkeypatch):
    """Also of points that are equal, or nearly, of which products know little."""
    monkeypatch.setattr(nearest, "_CENTRES", runs[0])
    monkeypatch.setattr(nearest, "_OTHERS", runs[1])
    points = torch.from_numpy(np.random.default_rng(3).standard_normal((40, 5))) + offset
    points[5], points[9] = points[4], points[8] + 1e-7
    labels = torch.arange(40) % 3
    pairs = [(i, j) for i in range(40) for j in range(40) if i != j]
    apart = {
        pair: float(np.linalg.norm((points[pair[0]] - points[pair[1]]).numpy())) for pair in pairs
    }
    assert smallest_distance(points) == pytest.approx(
        min(d for d in apart.values() if d), rel=1e-12
    )
    reach = sorted(
        min(apart[i, j] for j in range(40) if i != j and labels[i] != labels[j]) for i in range(40)
    )
    for purity in (0.5, 0.9):
        radius = pure_radius(points, labels, purity, torch.arange(40))
        assert radius == pytest.approx(reach[40 - math.ceil(purity * 40)], rel=1e-11)
        assert radius < reach[40 - math.ceil(purity * 40)]


def test_prob_cover_covers_most_first_then_goes_farthest():
    table, labelled = table_of(), table_of(2, 1)
    strategy = ProbCover(delta=0.5)
    picks, gains, _ = plain_loop(unit(table), 40, "ball", 0.5, centers=unit(labelled))
    covering = sum(gain > 0 for gain in gains)
    assert 5 < covering < 40
    found = pick(strategy, table, 40, labelled)
    assert found.rows[:covering].tolist() == picks[:covering]
    np.testing.assert_allclose(found.scores[:covering], gains[:covering], atol=1e-15)
    assert found.notes[1].startswith(f"{covering} picks cover all candidates: the other")
    points, known = unit(table).astype(float), unit(labelled).astype(float)
    taken = picks[:covering]
    for row, score in zip(found.rows[covering:], found.scores[covering:], strict=True):
        near = {
            r: min(np.linalg.norm(points[r] - c) for c in [*points[taken], *known])
            for r in range(len(points))
            if r not in taken
        }
        assert near[row] == pytest.approx(max(near.values()), abs=1e-7)
        assert score == pytest.approx(near[row] - 0.5, abs=1e-6) and score <= 0
        taken.append(row)


def test_drop_query_takes_one_of_each_cluster_of_those_that_change():
    column = "feature_dropout-0.75-3"
    changed = np.random.default_rng(5).random(120)
    table = table_of(**{column: changed})
    kept = np.flatnonzero(changed > 0.5)
    features = table.embeddings["mean_feature"][kept]
    labels, centroids = k_means(features, 9, torch.Generator().manual_seed(0))
    nearest = {
        kept[labels == c][np.linalg.norm(features[labels == c] - centroids[c], axis=1).argmin()]
        for c in range(9)
    }
    found = pick(DropQuery(), table, 9)
    assert set(found.rows.tolist()) == {int(row) for row in nearest}
    assert found.notes == () and (found.scores > 0.5).all()
    # More than change: those that change most.
    found = pick(DropQuery(), table, 100)
    assert found.rows.tolist() == sorted(range(120), key=lambda r: -changed[r])[:100]
    assert found.notes[0].startswith(f"{len(kept)} candidates change more than half")


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.head = torch.nn.Conv2d(6, 4, 1)

    def forward(self, images):
        low = self.head(self.body(images).relu())
        return torch.nn.functional.interpolate(low, images.shape[-2:], mode="bilinear")


class Bench:
    seed = 7

    def __init__(self, model):
        self.model = model


def test_feature_dropout_is_the_share_of_predictions_that_change():
    torch.manual_seed(0)
    names = tuple("abcd")
    spec = ModelSpec("mine:OneLayer", "", names, (0.0,) * 3, (1.0,) * 3, stride=2)
    model = SegmentationModel(OneLayer(), spec).eval()
    signal = FeatureDropout(0.5, 4)
    signal.check(model)
    meter = signal.prepare(Bench(model))
    images = torch.randn(2, 3, 8, 12)
    boxes = Boxes(((0, 0, 5, 8), (5, 0, 12, 8)))
    with torch.no_grad():
        found = model(images, catch=meter.catch)
        whole = Evidence(
            found.logits, found.features, found.upsampling, found.tail_input,
            images=("a.png", "b.png"),
        )  # fmt: skip
        measured = meter.measure(whole, boxes)
        expected = torch.zeros(2, 2, dtype=torch.float64)
        network = model.network
        for image, name in enumerate(whole.images):
            features = network.body(images[image : image + 1]).relu()
            plain = network(images[image : image + 1]).argmax(1)
            for number in range(4):
                kept = drawn(7, name, number)("features").random((6,), np.float32) >= 0.5
                scaled = features * torch.from_numpy(kept).view(1, -1, 1, 1) / 0.5
                low = network.head(scaled)
                logits = torch.nn.functional.interpolate(low, (8, 12), mode="bilinear")
                changed = (logits.argmax(1) != plain)[0].double()
                expected[image] += torch.stack([changed[:, :5].mean(), changed[:, 5:].mean()]) / 4
        alone = Evidence(
            found.logits[1:], None, found.upsampling,
            {name: value[1:] for name, value in found.tail_input.items()}, images=("b.png",),
        )  # fmt: skip
        torch.testing.assert_close(meter.measure(alone, boxes), measured[1:])
    assert measured.min() > 0 and measured.max() < 1
    torch.testing.assert_close(measured, expected)


def test_features_are_all_that_some_ask_for():
    for kind in (MaxHerding, TypiClust, ProbCover):
        ((signal,),) = kind().passes(PassContext())
        assert signal.column == "mean_feature" and not signal.needs


def test_zeros_have_no_direction():
    table = table_of(10)
    table.embeddings["mean_feature"][3] = 0
    assert len(set(pick(MaxHerding(), table, 10).rows.tolist())) == 10


@pytest.mark.parametrize("kind", [UncertaintyHerding, ProbCover, DropQuery, TypiClust, MaxHerding])
def test_parameters_out_of_range_are_refused(kind):
    wrong = {
        UncertaintyHerding: {"sigma": 0.0}, ProbCover: {"delta": -1.0}, DropQuery: {"rate": 1.0},
        TypiClust: {"clusters": 0}, MaxHerding: {"sigma": math.inf},
    }[kind]  # fmt: skip
    with pytest.raises(ValueError, match=next(iter(wrong))):
        kind(**wrong)


def test_boxes_are_not_calibrated_nor_dropped():
    detector = SimpleNamespace(
        spec=SimpleNamespace(answers=SimpleNamespace(of="objects"), task="detection")
    )
    for signal, remedy in (
        (Calibrated("margin"), "strategy.temperature=1"),
        (FeatureDropout(), "another strategy"),
    ):
        with pytest.raises(SegalError) as caught:
            signal.check(detector)
        assert remedy in caught.value.remedy
