"""First-order error change, ISAL and RALIF against autograd, dense algebra and true retraining."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from sklearn.cluster import MeanShift, estimate_bandwidth

from segal.candidates.regions import Boxes
from segal.errors import SegalError
from segal.functional.kmeans_plusplus import k_means_plusplus
from segal.signals import Pseudo, TopK
from segal.signals.directional import Directional
from segal.signals.directions import Influence, Inverse, ReferenceGradient
from segal.signals.influence import EstimatedLoss, TopKDirectional
from segal.strategies.error_change_first_order import ErrorChangeFirstOrder
from segal.strategies.grad_similarity import GradientSimilarity
from segal.strategies.isal import InfluenceSelection
from segal.strategies.ralif import ReliableInfluence
from tests.float64_network import (
    BOXES,
    CLASSES,
    dense,
    flatten,
    gauss_newton,
    make_bench,
    make_model,
    make_pool,
    make_sets,
    unflatten,
)

# Within the image, across cells, at its borders, of one pixel, and the whole of the smallest.
REGIONS = [(0, 0, 16, 16), (16, 0, 36, 16), (5, 3, 29, 22), (0, 16, 16, 24), (35, 23, 36, 24)]
WHOLE = (0, 0, 36, 24)
DAMPING = 0.02
EXACT = Inverse("cg", damping=DAMPING, tolerance=1e-13, max_iterations=1000, pixels=100_000)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_pool(tmp_path_factory.mktemp("images"))


@pytest.fixture
def bench(images):
    return make_bench(make_model(), make_sets(images))


def measure(bench, signal, regions=(*REGIONS, WHOLE)):
    """(images, regions) of a signal over every image."""
    meter = signal.prepare(bench)
    units = Boxes(tuple(regions))
    return torch.cat([meter.measure(v.evidence, units) for v in bench.visit("val", meter.catch)])


def region_functions(bench, layers, regions=(*REGIONS, WHOLE)):
    """For every image and region, from flat parameters to the (n, C) logits of its pixels."""
    tail = bench.model.tail(layers)

    def function(visit, box):
        x0, y0, x1, y1 = box

        def logits(flat):
            inputs, size = visit.evidence.tail_input[layers], visit.mask.shape[1:]
            parameters = unflatten(tail, flat)
            whole = tail(inputs, parameters, size, visit.evidence.upsampling)[0]
            return whole[:, y0:y1, x0:x1].flatten(1).T

        return logits

    visits = list(bench.visit("val", [layers]))
    return [[function(visit, box) for box in regions] for visit in visits]


def pixel_features(bench, of, box=None):
    """By image, the (n, D) upsampled features of a set's pixels, or of those of a region."""
    found = []
    for visit in bench.visit(of, ["features"]):
        height, width = visit.mask.shape[1:]
        spread = F.interpolate(
            visit.evidence.features,
            visit.evidence.upsampling.size,
            mode="bilinear",
            align_corners=visit.evidence.upsampling.align_corners,
        )[0, :, :height, :width].movedim(0, -1)
        x0, y0, x1, y1 = box or (0, 0, width, height)
        shown = visit.mask[0] if box is None else slice(None)
        found.append(spread[y0:y1, x0:x1][shown].reshape(-1, spread.shape[-1]))
    return found


def head_logits(bench, features):
    """From the head's flat parameters to the (n, C) logits of pixels."""

    def logits(flat):
        parameters = unflatten(bench.model.tail("last"), flat)
        return features @ parameters["weight"].flatten(1).T + parameters["bias"]

    return logits


def class_gradients(bench, features):
    """(n, C) probabilities, and the (n, C, P) gradients of every pixel's loss with every class."""
    at = flatten(bench.model.tail("last").parameters)

    def losses(flat, feature):
        return -head_logits(bench, feature[None])(flat).log_softmax(1)[0]

    gradients = torch.func.vmap(torch.func.jacrev(losses), (None, 0))(at, features)
    return head_logits(bench, features)(at).softmax(1), gradients


def pseudo_gradients(bench, layers, at, reduce="mean"):
    """(images, regions, P) gradients with the network's own labels."""

    def gradient(logits):
        labels = logits(at).argmax(1)
        return torch.func.grad(
            lambda flat: F.cross_entropy(logits(flat), labels, reduction=reduce)
        )(at)

    functions = region_functions(bench, layers)
    return torch.stack([torch.stack([gradient(f) for f in row]) for row in functions])


# First-order error change


@pytest.mark.parametrize("layers", ["last", "last_two", "all"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_error_change_is_minus_the_inner_product_of_the_gradients(bench, layers, reduction):
    logits, at, labels = dense(bench, "val", layers)
    reference = torch.func.grad(lambda flat: F.cross_entropy(logits(flat), labels))(at)
    expected = -pseudo_gradients(bench, layers, at, reduction) @ reference
    (signals,) = ErrorChangeFirstOrder(layers=layers, reduction=reduction).passes(None)
    torch.testing.assert_close(-measure(bench, signals[0]), expected, rtol=1e-9, atol=1e-14)


def test_error_change_is_minus_a_sum_of_kernels_over_the_reference_set(bench):
    """IWPS, eq. 14; its sums are means here, by the sizes of the set and of the region."""
    _, _, labels = dense(bench, "val", "last")
    _, every = class_gradients(bench, torch.cat(pixel_features(bench, "val")))
    reference = every[torch.arange(len(labels)), labels]
    signal = Directional(ReferenceGradient("val", "last"), Pseudo(), "sum")
    found = measure(bench, signal, REGIONS)
    for j, region in enumerate(REGIONS):
        for i, features in enumerate(pixel_features(bench, "val", region)):
            p, every = class_gradients(bench, features)
            kernels = every[torch.arange(len(p)), p.argmax(1)] @ reference.T
            assert float(found[i, j]) * len(labels) == pytest.approx(float(kernels.sum()), rel=1e-9)


def test_error_change_of_two_classes_is_the_binary_formula(images):
    """IWPS, eq. 16, for a sigmoid of the difference of two logits, whose gradient counts twice."""
    bench = make_bench(make_model(2), make_sets(images, 2))
    (found,) = measure(bench, ErrorChangeFirstOrder(layers="last")._signal, [(3, 2, 12, 9)])[:1]
    weight, bias = (p.detach() for p in bench.model.tail("last").parameters.values())
    direction, offset = (weight[1] - weight[0]).flatten(), bias[1] - bias[0]

    def gradients(phi, y):
        """(sigma(z) - y) phi, eq. 15."""
        sigma = (phi @ direction + offset).sigmoid()
        y = (sigma > 0.5).double() if y is None else y
        return (sigma - y)[:, None] * torch.cat([phi, torch.ones_like(phi[:, :1])], 1)

    _, _, labels = dense(bench, "val", "last")
    at_reference = gradients(torch.cat(pixel_features(bench, "val")), labels)
    at_pool = gradients(pixel_features(bench, "val", (3, 2, 12, 9))[0], None)
    expected = -2 * (at_pool @ at_reference.T).mean()
    assert -float(found[0]) == pytest.approx(float(expected), rel=1e-10)


# ISAL


def test_isal_is_minus_the_gradient_through_the_dense_inverse(bench):
    logits, at, _ = dense(bench, "labelled", "last")
    hessian = gauss_newton(logits, at) + DAMPING * torch.eye(len(at), dtype=torch.float64)
    reference = flatten(ReferenceGradient("val", "last").vector(bench))
    expected = -pseudo_gradients(bench, "last", at) @ torch.linalg.solve(hessian, reference)
    strategy = InfluenceSelection(
        damping=DAMPING, tolerance=1e-13, max_iterations=1000, hessian_pixels=None
    )
    ((signal,),) = strategy.passes(None)
    torch.testing.assert_close(-measure(bench, signal), expected, rtol=1e-7, atol=1e-12)
    exact = Directional(Influence("val", "last", EXACT))
    torch.testing.assert_close(-measure(bench, exact), expected, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_isal_with_k_classes_weighs_their_gradients(bench, k):
    """ISAL, eq. 3."""
    vector = flatten(Influence("val", "last", EXACT).vector(bench))
    signal = InfluenceSelection(top_k=k, weighted=True)._signal
    assert signal == TopKDirectional(signal.direction, TopK(k), "mean")
    found = measure(bench, TopKDirectional(Influence("val", "last", EXACT), TopK(k)), REGIONS)
    for j, region in enumerate(REGIONS):
        for i, features in enumerate(pixel_features(bench, "val", region)):
            p, every = class_gradients(bench, features)
            top = p.topk(k, 1)
            chosen = every.gather(1, top.indices[..., None].expand(-1, -1, len(vector)))
            expected = (chosen * top.values[..., None]).sum(1).mean(0) @ vector
            assert float(found[i, j]) == pytest.approx(float(expected), rel=1e-9, abs=1e-13)


def test_isal_with_every_class_is_zero_and_refused(bench):
    influence = Influence("val", "last", EXACT)
    one = measure(bench, Directional(influence, TopK(1)))
    zero = measure(bench, Directional(influence, TopK(len(CLASSES))))
    assert float(zero.abs().max()) < 1e-13 * float(one.abs().max())
    for k in (len(CLASSES), len(CLASSES) + 1):
        with pytest.raises(SegalError, match="identically zero"):
            InfluenceSelection(top_k=k)._signal.prepare(bench)


class FittedHead:
    """A head fitted to what is labelled by Newton's method, with an L2 penalty."""

    penalty = 0.01

    def __init__(self, bench):
        self.bench = bench
        _, self.start, self.labels = dense(bench, "labelled", "last")
        self.logits = head_logits(bench, torch.cat(pixel_features(bench, "labelled")))

    def fit(self, candidate=None, weight=0.0, start=None):
        """Minimises the mean loss, plus a candidate's mean loss times a weight."""
        flat = self.start if start is None else start

        def loss(theta):
            total = F.cross_entropy(self.logits(theta), self.labels)
            total = total + 0.5 * self.penalty * theta.square().sum()
            if candidate is not None:
                function, labels = candidate
                total = total + weight * F.cross_entropy(function(theta), labels)
            return total

        for _ in range(30):
            gradient = torch.func.grad(loss)(flat)
            if float(gradient.norm()) < 1e-13:
                break
            step = torch.linalg.solve(torch.func.hessian(loss)(flat), gradient)
            flat = flat - step
        assert float(torch.func.grad(loss)(flat).norm()) < 1e-12
        return flat

    def install(self, flat):
        """Puts it into the network."""
        parameters = unflatten(self.bench.model.tail("last"), flat)
        with torch.no_grad():
            for name, value in self.bench.model.tail("last").parameters.items():
                value.copy_(parameters[name])


def test_isal_is_what_retraining_with_a_region_does(bench):
    """The derivative of the reference loss by a region's weight, and the effect of adding it."""
    head = FittedHead(bench)
    optimum = head.fit()
    head.install(optimum)
    _, _, labels = dense(bench, "val", "last")
    reference = head_logits(bench, torch.cat(pixel_features(bench, "val")))

    def reference_loss(flat):
        return float(F.cross_entropy(reference(flat), labels))

    regions = [(x, y, x + 2, y + 1) for y in (0, 8, 16) for x in (0, 9, 18, 27)]
    inverse = Inverse("cg", damping=head.penalty, tolerance=1e-13, max_iterations=1000, pixels=None)
    scores = -measure(bench, Directional(Influence("val", "last", inverse)), regions).flatten()
    features = zip(*(pixel_features(bench, "val", region) for region in regions), strict=True)
    functions = [head_logits(bench, shown) for of_image in features for shown in of_image]
    candidates = [(f, f(optimum).argmax(1)) for f in functions]
    eps, before = 1e-4, reference_loss(optimum)
    for i in (0, 5, 13, 22, 35):
        up = reference_loss(head.fit(candidates[i], eps, optimum))
        down = reference_loss(head.fit(candidates[i], -eps, optimum))
        assert float(scores[i]) == pytest.approx((up - down) / (2 * eps), rel=0.01)
    # Adding a region's pixels to those that are labelled, whose loss is the mean as before.
    share = 2 / len(head.labels)
    changes = [reference_loss(head.fit(c, share, optimum)) - before for c in candidates]
    correlation = np.corrcoef(scores.numpy(), changes)[0, 1]
    assert correlation > 0.99


def test_with_the_identity_isal_is_error_change_and_picks_the_other_end(bench):
    identity = Directional(Influence("val", "last", Inverse("identity")))
    error_change = ErrorChangeFirstOrder(layers="last")
    similarity = GradientSimilarity(layers="last")
    both = measure(bench, identity), measure(bench, error_change._signal)
    torch.testing.assert_close(*both, rtol=1e-12, atol=0)
    assert similarity._signal == error_change._signal
    assert (similarity.direction, error_change.direction) == ("lower", "higher")
    table = FakeTable({similarity._signal.column: measure(bench, identity).flatten().numpy()})
    n = len(table.values[similarity._signal.column])
    ours, theirs = (s.select(table, None, n, None) for s in (similarity, error_change))
    assert ours.rows.tolist() == theirs.rows.tolist()[::-1]
    assert ours.scores.tolist() == theirs.scores.tolist()[::-1]
    assert ours.scores[0] == -table.values[similarity._signal.column].max()


@dataclasses.dataclass
class FakeTable:
    """Only what the strategies by one column read."""

    values: dict


# RALIF


@pytest.fixture
def by_hand(bench):
    """The pool's mean loss, the labelled pixels, h, and every region's classes and gradients."""
    logits, at, labels = dense(bench, "labelled", "last")
    pool_logits, _, pool_labels = dense(bench, "pool", "last")
    loss = F.cross_entropy(pool_logits(at), pool_labels)
    gradient = torch.func.grad(lambda flat: F.cross_entropy(pool_logits(flat), pool_labels))(at)
    hessian = gauss_newton(logits, at) + DAMPING * torch.eye(len(at), dtype=torch.float64)
    h = torch.linalg.solve(hessian, gradient)
    by_region = [
        [class_gradients(bench, features) for features in pixel_features(bench, "val", region)]
        for region in REGIONS
    ]

    def expected(weigh, baseline=True):
        """(images, regions) sum_k w_k L_k: the mean over pixels of L's part, gradients summed."""

        def value(p, every):
            weights = weigh(p)
            change = -(weights * (every @ h)).sum() / len(labels)
            return change + baseline * float(loss) * weights.sum(1).mean()

        return torch.stack([torch.stack([value(*i) for i in row]) for row in by_region]).T

    return expected, float(loss)


def estimated(bench, **options):
    signal = EstimatedLoss(Influence("pool", "last", EXACT), **options)
    return measure(bench, signal, REGIONS)


def one_hot(p):
    return F.one_hot(p.argmax(1), p.shape[1]).double()


def check(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)


def test_ralif_with_the_likeliest_class(bench, by_hand):
    """RALIF, eq. 7."""
    expected, _ = by_hand
    found = estimated(bench, classes="single")
    check(found, expected(one_hot))
    assert float(found.std()) > 1e-6
    check(estimated(bench, classes="single", baseline="drop"), expected(one_hot, False))


def test_ralif_with_every_class_is_constant(bench, by_hand):
    """RALIF, eq. 8."""
    expected, loss = by_hand
    found = estimated(bench, classes="expectation")
    check(found, expected(lambda p: p))
    assert float((found - loss).abs().max()) < 1e-13


def test_ralif_truncated_at_zero_is_the_expectation(bench):
    """RALIF, eq. 9 with tau = 0, in the paper's settings."""
    truncated = estimated(bench, classes="truncated", threshold=0.0, empty="paper")
    check(truncated, estimated(bench, classes="expectation"))


@pytest.mark.parametrize("threshold", [0.25, 0.3])
def test_ralif_truncated_in_all_its_forms(bench, by_hand, threshold):
    """RALIF, eqs. 9 and 10; at 0.3 some pixels keep no class."""
    expected, _ = by_hand

    def kept(p):
        return p * (p > threshold)

    def or_single(weights, p):
        return torch.where((p > threshold).any(1, keepdim=True), weights, one_hot(p))

    def count(p):
        return (p > threshold).sum(1, keepdim=True).clamp(min=1)

    def mass(p):
        return kept(p).sum(1, keepdim=True).clamp(min=1e-300)

    truncated = {"classes": "truncated", "threshold": threshold}
    check(estimated(bench, **truncated, empty="paper"), expected(kept))
    check(estimated(bench, **truncated), expected(lambda p: or_single(kept(p), p)))
    check(
        estimated(bench, **truncated, reduce="mean"),
        expected(lambda p: or_single(kept(p) / count(p), p)),
    )
    check(
        estimated(bench, **truncated, baseline="renorm"),
        expected(lambda p: or_single(kept(p) / mass(p), p)),
    )
    check(
        estimated(bench, **truncated, baseline="drop", empty="paper"),
        expected(kept, baseline=False),
    )


def test_ralif_without_a_threshold_takes_4_over_c_and_refuses_1(images, bench):
    check(
        estimated(bench, classes="truncated"), estimated(bench, classes="truncated", threshold=0.8)
    )
    few = make_bench(make_model(4), make_sets(images, 4))
    with pytest.raises(SegalError, match=r"(?s)4 / C.*strategy\.tau=0\.4"):
        ReliableInfluence()._signal.prepare(few)
    ReliableInfluence(tau=0.4)._signal.prepare(few)


def test_ralif_counts_the_pixels_that_are_labelled(bench):
    meter = ReliableInfluence()._signal.prepare(bench)
    labels = bench.images("labelled").dataset.maps
    inside = sum(
        int((labels[i][y0:y1, x0:x1] != 255).sum())
        for i, boxes in BOXES.items()
        for x0, y0, x1, y1 in boxes
    )
    assert meter.labelled == inside


# How picks are drawn


def ralif(**options):
    return TypeAdapter(ReliableInfluence).validate_python(options)


class Table:
    """Candidates with a score and a feature each."""

    def __init__(self, strategy, scores, features):
        self.values = {strategy._signal.column: np.array(scores, np.float64)}
        self.features, self.pixels = np.asarray(features, np.float32), np.ones(len(scores), int)

    def view(self, rows, pixels):
        assert (np.diff(rows) > 0).all()
        return type("View", (), {"embedding": lambda _, column: self.features[rows]})()


def draw(strategy, scores, features, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return strategy.select(Table(strategy, scores, features), None, count, generator)


def scattered(n=200):
    rng = np.random.default_rng(0)
    return rng.permutation(n).astype(float), rng.standard_normal((n, 3))


def test_the_candidate_set_is_the_best_fraction_and_starts_at_the_lowest():
    scores, features = scattered()
    best = np.argsort(scores)[:20]
    picks = draw(ralif(), scores, features, 8)
    assert picks.rows[0] == best[0]
    assert set(picks.rows) < set(best)
    assert picks.rows.tolist() != best[:8].tolist()
    assert picks.scores.tolist() == scores[picks.rows].tolist()
    assert draw(ralif(diversity="none"), scores, features, 8).rows.tolist() == best[:8].tolist()
    wider = draw(ralif(candidate_fraction=1.0), scores, features, 20)
    assert not set(wider.rows) <= set(best)


def test_a_budget_beyond_the_fraction_takes_the_best_whatever_the_diversity():
    scores, features = scattered()
    order = np.argsort(scores)
    for options in ({}, {"diversity": "k_means", "clusters": 5}, {"diversity": "mean_shift"}):
        rows = draw(ralif(**options), scores, features, 50).rows
        assert set(rows) == set(order[:50])
        assert rows[20:].tolist() == order[20:50].tolist()


def clusters_of(sizes, spread=0.01):
    rng = np.random.default_rng(1)
    centres = 10.0 * np.eye(len(sizes), 4)
    return np.concatenate(
        [c + spread * rng.standard_normal((s, 4)) for c, s in zip(centres, sizes, strict=True)]
    )


def test_k_means_takes_the_nearest_to_each_centroid():
    features = clusters_of([10, 6, 4])
    strategy = ralif(candidate_fraction=1.0, diversity="k_means", clusters=3)
    rows = draw(strategy, np.arange(20.0), features, 6).rows
    groups = [range(10), range(10, 16), range(16, 20)]
    for turn in (0, 1):
        for row in rows[3 * turn : 3 * turn + 3]:
            group = next(g for g in groups if row in g)
            centroid = features[list(group)].mean(0)
            distances = [np.linalg.norm(features[i] - centroid) for i in group]
            assert list(group)[int(np.argsort(distances)[turn])] == row
    assert len({next(i for i, g in enumerate(groups) if r in g) for r in rows[:3]}) == 3


def test_k_means_is_lloyds_algorithm_from_the_seeds():
    scores, features = scattered()
    strategy = ralif(candidate_fraction=1.0, diversity="k_means", clusters=6)
    rows = draw(strategy, scores, features, 18).rows
    best = np.argsort(scores)
    x = features.astype(np.float32)[best].astype(np.float64)
    rows32 = torch.from_numpy(features.astype(np.float32)[best])
    seeds = k_means_plusplus(rows32, 6, torch.Generator().manual_seed(0), first=0)
    centroids, before = x[seeds.numpy()], None
    while True:
        labels = ((x[:, None] - centroids) ** 2).sum(-1).argmin(1)
        if before is not None and (labels == before).all():
            break
        before, centroids = labels, np.stack([x[labels == k].mean(0) for k in range(6)])
    distance = np.linalg.norm(x - centroids[labels], axis=1)
    nearest = {k: sorted(np.flatnonzero(labels == k), key=lambda i: distance[i]) for k in range(6)}
    for turn in range(3):
        expected = {best[members[turn]] for members in nearest.values()}
        assert set(rows[6 * turn : 6 * turn + 6]) == expected


def test_centres_of_mean_shift_are_means_of_what_lies_around_them():
    _, features = scattered()
    strategy = ralif(candidate_fraction=1.0, diversity="mean_shift")
    rows = draw(strategy, np.arange(200.0), features, 200).rows
    assert sorted(rows) == list(range(200))
    x = features.astype(np.float32)
    state = int(torch.randint(2**31 - 1, (1,), generator=torch.Generator().manual_seed(0)))
    width = estimate_bandwidth(x, n_samples=1000, random_state=state)
    found = MeanShift(bandwidth=width, bin_seeding=True).fit(x)
    for centre in found.cluster_centers_:
        around = np.linalg.norm(x - centre, axis=1) < width
        np.testing.assert_allclose(x[around].mean(0), centre, atol=2e-3 * width)
    sizes = np.bincount(found.labels_)
    shares = [np.bincount(found.labels_[rows[:count]], minlength=len(sizes)) for count in (50, 100)]
    for count, share in zip((50, 100), shares, strict=True):
        assert np.abs(share - count * sizes / 200).max() <= 1


def test_mean_shift_shares_in_proportion_to_size():
    features = clusters_of([24, 12, 4])
    strategy = ralif(candidate_fraction=1.0, diversity="mean_shift")
    rows = draw(strategy, np.arange(40.0), features, 10).rows
    counts = np.histogram(rows, [0, 24, 36, 40])[0]
    assert counts.tolist() == [6, 3, 1]
    centroid = features[:24].mean(0)
    distance = np.linalg.norm(features[:24] - centroid, axis=1)
    assert rows[0] in np.argsort(distance)[:3]  # mean shift's centre is not quite the mean


def test_mean_shift_of_candidates_that_coincide_follows_the_score():
    strategy = ralif(candidate_fraction=1.0, diversity="mean_shift")
    rows = draw(strategy, np.arange(12.0)[::-1], np.ones((12, 3)), 5).rows
    assert rows.tolist() == [11, 10, 9, 8, 7]


def test_expectation_ties_and_says_so():
    strategy = ralif(classes="expectation", diversity="none")
    rounding = 0.5 + 1e-16 * np.random.default_rng(0).standard_normal(30)
    picks = draw(strategy, rounding, np.zeros((30, 2)), 4)
    assert picks.rows.tolist() == [0, 1, 2, 3]
    assert "the same for every candidate" in picks.notes[0]
    assert draw(ralif(), rounding, np.eye(30), 4).notes == ()


@pytest.mark.parametrize(
    "options", [{"diversity": "k_means"}, {"clusters": 3}, {"tau": 1.0}, {"candidate_fraction": 0}]
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="validation error"):
        ralif(**options)


@pytest.mark.parametrize("strategy", [InfluenceSelection, ReliableInfluence])
def test_a_recursion_that_cannot_converge_is_refused(strategy):
    """LiSSA's d is a share of the scale: no scale helps against one above 2."""
    make = TypeAdapter(strategy).validate_python
    assert make({"inverse": "lissa", "damping": 1.0}).damping == 1.0
    assert make({"damping": 5.0}).damping == 5.0
    with pytest.raises(ValueError, match="damping from 0 to 1"):
        make({"inverse": "lissa", "damping": 1.5})


def test_labels_of_a_reference_set_are_declared():
    assert ErrorChangeFirstOrder().uses_reference_labels
    assert not ReliableInfluence().uses_reference_labels
    for kind in (InfluenceSelection, GradientSimilarity):
        assert kind().uses_reference_labels
        assert not kind(reference="initial").uses_reference_labels
        assert not kind(reference="labelled").uses_reference_labels
        needs = next(iter(kind(reference="labelled").passes(None)))[0].needs
        assert {need.of for need in needs} == {"labelled"}
