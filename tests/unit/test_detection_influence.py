"""A detector's influence, against backward passes through the whole of it and dense Hessians."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.models.detection.retinanet import RetinaNetClassificationHead
from torchvision.ops import sigmoid_focal_loss

from segal.candidates.regions import Boxes
from segal.errors import SegalError
from segal.functional.forward_mode import jvp
from segal.jobs.strategies import check_network
from segal.models.build import build_network, make_spec
from segal.signals import Directional, RegionGradient, TopK
from segal.signals.base import Visit
from segal.signals.branch_gradient import BranchGradient
from segal.signals.directional import UNSCORED
from segal.signals.directions import Influence, Inverse, ReferenceGradient
from segal.signals.influence import EstimatedLoss
from segal.strategies._influence import pick_by_change
from segal.strategies.badge import Badge
from segal.strategies.base import PassContext
from segal.tasks.detection.model import RAW, DetectionModel
from segal.tasks.detection.signals import measured
from segal.tasks.detection.signals.branches import Stage
from segal.tasks.detection.signals.curvature import curvature
from segal.tasks.detection.signals.dense_layers import focal_slope
from segal.tasks.detection.signals.influence import (
    PSEUDO_SCORE,
    BoxDirectional,
    inside,
    measured_estimated_loss,
    vector_of,
)
from segal.tasks.detection.signals.last_layers import last_layers
from segal.tasks.detection.targets import Targets
from tests import tiny_classifier
from tests.tiny_detectors import CLASSES, SIZES, SMALL, build, enliven, images

NAMES = ("fcos", "retinanet", "retinanet with background", "fasterrcnn")
WHOLE = {size: Boxes(((0, 0, size[1], size[0]),)) for size in SIZES}
TARGETS = [
    {"boxes": [[5.0, 6.0, 60.0, 50.0], [30.0, 2.0, 70.0, 40.0]], "labels": [2, 0]},
    {"boxes": [[10.0, 60.0, 80.0, 120.0]], "labels": [1]},
    {"boxes": [], "labels": []},
]
TARGETS = [
    {
        "boxes": torch.tensor(one["boxes"], dtype=torch.float64).reshape(-1, 4),
        "labels": torch.tensor(one["labels"], dtype=torch.int64),
    }
    for one in TARGETS
]


def make(name):
    if name == "retinanet with background":
        options = {**SMALL, "topk_candidates": 50, "background": True}
        spec = make_spec(
            "torchvision:retinanet", "resnet18", CLASSES, options=options, task="detection"
        )
        torch.manual_seed(0)
        model = DetectionModel(build_network(spec), spec)
        enliven(model)
        return model.eval()
    model = build(name)
    if name == "fasterrcnn":
        network = model.network
        for layer in (network.rpn.head.cls_logits, network.rpn.head.bbox_pred):
            nn.init.normal_(layer.weight, std=0.05)
        # As many proposals in training as else, and all of them count, so that nothing is random.
        network.rpn._pre_nms_top_n["training"] = network.rpn._pre_nms_top_n["testing"]
        network.rpn._post_nms_top_n["training"] = network.rpn._post_nms_top_n["testing"]
        network.rpn.fg_bg_sampler = BalancedPositiveNegativeSampler(10**6, 0.5)
        network.roi_heads.fg_bg_sampler = BalancedPositiveNegativeSampler(10**6, 0.5)
        network.roi_heads.add_gt_proposals = lambda proposals, _: proposals
    return model


@pytest.fixture(scope="module")
def models():
    return {name: make(name) for name in NAMES}


@pytest.fixture(scope="module")
def doubles(models):
    names = ("fcos", "retinanet", "fasterrcnn")
    return {name: copy.deepcopy(models[name]).double() for name in names}


@pytest.fixture(params=NAMES)
def model(request, models):
    return models[request.param]


SEEN = {}  # evidence of the images of a bench


class Bench:
    """The network, and images of unequal sizes with their boxes."""

    def __init__(self, model, targets=TARGETS[::2], batch=1, seed=0):
        self.model, self.seed, self.unit, self.batch = model, seed, "boxes", batch
        self.targets, self.notes, self.memo = targets, [], {}
        like = model.like
        self.pictures = [images(1, SIZES[k % 2], seed=k)[0].to(like) for k in range(len(targets))]

    def visit(self, of, catch=(), only=None):
        assert RAW in catch
        for start in range(0, len(self.pictures), self.batch):
            part = slice(start, start + self.batch)
            key = (id(self.model), start, len(self.pictures[part]))
            if key not in SEEN:
                with torch.no_grad():
                    SEEN[key] = self.model(self.pictures[part], (RAW,))
            targets = Targets(tuple(self.targets[part]), ())
            mask = [torch.ones(one.shape[1:], dtype=torch.bool) for one in self.pictures[part]]
            yield Visit(SEEN[key], mask, targets)

    def once(self, key, compute):
        if key not in self.memo:
            self.memo[key] = compute()
        return self.memo[key]

    def note(self, text):
        self.notes.append(text)


def parameters(model):
    return [p for branch in last_layers(model).branches for p in branch.layer.parameters()]


def loss_of(model, image, target):
    target = {"boxes": target["boxes"].to(image), "labels": target["labels"]}
    return torch.stack(list(model.losses([image], [target]).values())).sum()


def backward(model, image, target):
    """One backward pass through the whole detector, by the library's own losses."""
    model.network.zero_grad()
    loss_of(model, image, target).backward()
    found = torch.cat([p.grad.double().flatten() for p in parameters(model)])
    model.network.zero_grad()
    return found


def pseudo(model, image):
    with torch.no_grad():
        (found,) = model([image]).detections
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    kept = (found.scores > PSEUDO_SCORE) & (sides > 0).all(1)  # others cannot be trained on
    assert kept.any()
    return {"boxes": found.boxes[kept], "labels": found.classes[kept]}


def flat(vector):
    return torch.cat([part.double().flatten() for part in vector.values()])


def measure(model, signal, bench, image, units=None):
    meter = BoxDirectional(signal).prepare(bench)
    with torch.no_grad():
        evidence = model([image], meter.catch)
    return meter.measure(evidence, units or WHOLE[tuple(image.shape[1:])])


# The gradient


def test_the_derivative_is_that_of_a_backward_pass_for_each_image(model):
    bench = Bench(model)
    directions = (ReferenceGradient(), Influence(inverse=Inverse(pixels=100, damping=1.0)))
    image = images(1, SIZES[1], seed=12)[0]
    gradient = backward(model, image, pseudo(model, image))
    for direction in directions:
        expected = float(gradient @ flat(vector_of(direction, bench)))
        (found,) = measure(model, Directional(direction), bench, image).flatten().tolist()
        assert found == pytest.approx(expected, rel=1e-5)


def test_the_gradient_of_a_set_is_the_mean_of_backward_passes(model):
    bench = Bench(model, batch=2)
    passes = zip(bench.pictures, bench.targets, strict=True)
    expected = torch.stack([backward(model, *one) for one in passes]).mean(0)
    found = vector_of(ReferenceGradient(), bench)
    assert list(found) == list(last_layers(model).parameters)
    torch.testing.assert_close(flat(found), expected, rtol=1e-4, atol=1e-5 * float(expected.norm()))


def test_the_slope_of_the_focal_loss_is_torchvisions():
    logits = torch.linspace(-60, 60, 2001, dtype=torch.float64, requires_grad=True)
    absent = torch.zeros_like(logits)  # whose p torchvision rounds to 1 - (1 - p)
    (expected,) = torch.autograd.grad(sigmoid_focal_loss(logits, absent).sum(), logits)
    torch.testing.assert_close(focal_slope(logits.detach()), expected, rtol=1e-9, atol=1e-15)


class TwiceTheLoss(RetinaNetClassificationHead):
    def compute_loss(self, *arguments):
        return 2 * super().compute_loss(*arguments)


def test_another_loss_of_the_classes_is_differentiated_as_it_is(models, monkeypatch):
    model = models["retinanet"]
    monkeypatch.setattr(model.network.head.classification_head, "__class__", TwiceTheLoss)
    image, target = images(1, SIZES[0], seed=3)[0], TARGETS[0]
    expected = backward(model, image, target)
    with torch.no_grad():
        (raw,) = model([image], (RAW,)).raw
    found = flat(last_layers(model).gradient(raw, target))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.norm()))


@pytest.mark.parametrize("labels", [(3, 40), (30, 4), (0, 9), (0, 60), (50, 50)])
def test_what_training_draws_at_random_counts_by_its_probability(labels):
    positives, negatives = labels
    kinds = torch.tensor([1.0] * positives + [0.0] * negatives + [-1.0] * 5)
    sampler = BalancedPositiveNegativeSampler(32, 0.25)
    torch.manual_seed(0)
    total = torch.zeros(len(kinds), dtype=torch.float64)
    draws = 500
    for _ in range(draws):
        (positive,), (negative,) = sampler([kinds])
        drawn = (positive | negative).double()
        total += drawn / drawn.sum()
    none = torch.zeros(len(kinds), 4)
    stage = Stage({}, lambda at: at, kinds == 1, kinds == 0, none, (32, 0.25))
    weights = stage.weights()
    error = (weights * weights.amax() / draws).sqrt() * 5
    assert ((total / draws - weights).abs() <= error + 1e-12).all()
    assert float(weights.sum()) == pytest.approx(1.0)


def test_an_image_is_scored_as_alone(model):
    bench = Bench(model)
    meter = BoxDirectional(Directional(ReferenceGradient())).prepare(bench)
    size = SIZES[0]
    batch = images(2, size, seed=20)
    with torch.no_grad():
        together = meter.measure(model(batch, meter.catch), WHOLE[size])
        alone = [meter.measure(model(one[None], meter.catch), WHOLE[size]) for one in batch]
    assert together.shape == (2, 1)
    assert torch.equal(together, torch.cat(alone))


def test_tiles_share_the_derivative_of_the_whole_image(models):
    for name, divisor in (("fcos", "positive"), ("fasterrcnn", "all")):
        model, bench, image = models[name], Bench(models[name]), images(1, SIZES[1], seed=12)[0]
        height, width = SIZES[1]
        halves = Boxes(((0, 0, width, height // 2), (0, height // 2, width, height)))
        meter = BoxDirectional(Directional(ReferenceGradient())).prepare(bench)
        with torch.no_grad():
            evidence = model([image], meter.catch)
        whole = meter.measure(evidence, WHOLE[SIZES[1]]).flatten()
        parts = meter.measure(evidence, halves).flatten()
        assert not (parts == UNSCORED).any()
        layers, target = last_layers(model), pseudo(model, image)
        (raw,) = evidence.raw
        stages = layers.compared(raw, target)
        scale = tuple(a / b for a, b in zip(*(reversed(s) for s in raw.sizes), strict=True))
        total, of_parts = 0.0, torch.zeros(2, dtype=torch.float64)
        for stage in stages:
            slopes = layers.along(raw, stage, meter.vector)
            used = stage.positive | stage.negative
            counted = stage.positive if divisor == "positive" else used
            centres = (stage.anchors[:, 1] + stage.anchors[:, 3]) / 2 * scale[1]
            upper = centres < height // 2
            for k, tile in enumerate((upper, ~upper)):
                here = float((slopes * used)[tile].sum())
                of_parts[k] += here / max(1, int(counted[tile].sum()))
            total += float((slopes * used).sum()) / max(1, int(counted.sum()))
        assert float(whole) == pytest.approx(total, rel=1e-9)
        torch.testing.assert_close(parts, of_parts, rtol=1e-9, atol=0)


def test_the_centre_of_a_box_is_in_one_tile():
    boxes = torch.tensor([[0.0, 0, 20, 20], [-30, 5, -10, 9], [8, 0, 12, 4], [90, 90, 99, 99]])
    tiles = torch.tensor([[0, 0, 10, 12], [10, 0, 20, 12]])
    found = inside(boxes, (1.0, 1.0), (12, 20), tiles)
    assert found.sum(0).tolist() == [1, 1, 1, 1]
    assert found[0].tolist() == [False, True, False, False]


# The Hessian


def exact_product(model, image, target, vector):
    """H v of one image by two backward passes through the whole of it."""
    own = parameters(model)
    gradient = torch.autograd.grad(loss_of(model, image, target), own, create_graph=True)
    slope = torch.cat([g.flatten() for g in gradient]) @ vector
    found = torch.autograd.grad(slope, own, materialize_grads=True)
    return torch.cat([g.flatten() for g in found])


def by_outputs(model, bench, vector):
    """J^T S J v of all images, J by autograd, S's blocks of every anchor by the dense Hessian."""
    layers, total = last_layers(model), torch.zeros_like(vector)
    for image, target in zip(bench.pictures, bench.targets, strict=True):
        with torch.no_grad():
            (raw,) = model([image], (RAW,)).raw
        (stage,) = layers.compared(raw, target)
        shapes = {n: p.shape for n, p in layers.parameters.items()}

        def outputs(theta, raw=raw, shapes=shapes):
            parts = theta.split([s.numel() for s in shapes.values()])
            named = {n: x.view(s) for (n, s), x in zip(shapes.items(), parts, strict=True)}
            return torch.cat([branch.outputs(raw, named) for branch in layers.branches], 1)

        at = flat(layers.parameters)
        value, change = jvp(outputs, at, vector)
        curved = torch.einsum("aij,aj->ai", upward_blocks(layers, stage, value), change)
        total += torch.func.vjp(outputs, at)[1](curved)[0]
    return total / len(bench.pictures)


def upward_blocks(layers, stage, value):
    """(A, K, K) second derivatives of the library's loss by outputs before a ReLU, upwards."""
    widths = [x.shape[1] for x in stage.outputs.values()]
    positives = max(1, int(stage.positive.sum()))
    z = value.detach().requires_grad_()
    named = dict(zip(stage.outputs, z.split(widths, 1), strict=True))
    for branch in layers.branches:
        if branch.rectified:
            named[branch.name] = named[branch.name].relu()
    (gradient,) = torch.autograd.grad(
        stage.loss(named, slice(None)) / positives, z, create_graph=True
    )
    rows = [
        torch.autograd.grad(gradient[:, k].sum(), z, retain_graph=True)[0]
        for k in range(z.shape[1])
    ]
    values, vectors = torch.linalg.eigh(torch.stack(rows, 1))
    return vectors @ torch.diag_embed(values.clamp_min(0)) @ vectors.mT


def test_the_hessian_of_fasterrcnn_is_the_exact_one(doubles):
    model, seed = doubles["fasterrcnn"], torch.Generator().manual_seed(3)
    bench = Bench(model, TARGETS[:2])
    hessian = curvature(bench, "labelled", None)
    vector = torch.randn(
        sum(p.numel() for p in parameters(model)), generator=seed, dtype=torch.float64
    )
    passes = list(zip(bench.pictures, bench.targets, strict=True))
    expected = sum(exact_product(model, *one, vector) for one in passes) / len(passes)
    found = hessian.product(vector)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * float(expected.norm()))
    every = torch.arange(hessian.pixels)
    torch.testing.assert_close(hessian.product(vector, every), found)
    mean = sum(hessian.product(vector, rows) * len(rows) for rows in every.chunk(3))
    torch.testing.assert_close(mean / hessian.pixels, found)

    influence = Influence(inverse=Inverse("cg", 0.01, 1e-6, pixels=None))
    solution = flat(vector_of(influence, bench))
    gradient = flat(vector_of(ReferenceGradient(), bench))
    product = sum(exact_product(model, *one, solution) for one in passes) / len(passes)
    assert float((product + 0.01 * solution - gradient).norm() / gradient.norm()) < 2e-6
    assert not bench.notes


@pytest.mark.parametrize("name", ["fcos", pytest.param("retinanet", marks=pytest.mark.slow)])
def test_the_hessian_of_a_dense_detector_is_the_part_that_curves_upwards(doubles, name):
    model, seed = doubles[name], torch.Generator().manual_seed(3)
    bench = Bench(model, TARGETS[:2])
    hessian = curvature(bench, "labelled", None)
    vector = torch.randn(
        sum(p.numel() for p in parameters(model)), generator=seed, dtype=torch.float64
    )
    expected = by_outputs(model, bench, vector)
    found = hessian.product(vector)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * float(expected.norm()))


def test_a_sample_of_terms_has_the_hessian_as_its_mean(models):
    model = models["fasterrcnn"]
    every = curvature(Bench(model, TARGETS[:1]), "labelled", None)
    vector = torch.randn(sum(p.numel() for p in parameters(model)), dtype=torch.float64)
    wanted = float(vector @ every.product(vector))
    found = []
    for seed in range(40):
        sample = curvature(Bench(model, TARGETS[:1], seed=seed), "labelled", 40)
        assert sample.pixels == 40
        found.append(float(vector @ sample.product(vector)))
    assert np.mean(found) == pytest.approx(wanted, abs=4 * np.std(found) / len(found) ** 0.5)
    assert np.std(found) < wanted


def test_the_sample_does_not_depend_on_the_batch(models):
    model = models["fcos"]
    vector = torch.randn(sum(p.numel() for p in parameters(model)), dtype=torch.float64)
    products = [
        curvature(Bench(model, batch=batch), "labelled", 64).product(vector) for batch in (1, 2)
    ]
    assert torch.equal(*products)


def test_lissa_of_all_terms_tends_to_conjugate_gradients(models):
    bench = Bench(models["fasterrcnn"])
    exact = flat(vector_of(Influence(inverse=Inverse("cg", 50.0, 1e-8, pixels=500)), bench))
    chain = Inverse(
        "lissa", 0.05, samples=100, repeats=2, batch=200, scale=1e3, corrected=True, pixels=500
    )
    found = flat(vector_of(Influence(inverse=chain), bench))
    gradient = flat(vector_of(ReferenceGradient(), bench))
    assert float((exact - found).norm() / exact.norm()) < 0.1
    assert float((gradient / 50 - exact).norm() / exact.norm()) > 0.2


# What is not there


def test_an_image_without_boxes_ranks_last_at_either_end(models):
    model = copy.deepcopy(models["fcos"])
    with torch.no_grad():
        model.network.head.classification_head.cls_logits.weight.zero_()
        model.network.head.classification_head.cls_logits.bias.fill_(-20.0)
    signal = Directional(ReferenceGradient())
    image = images(1, SIZES[0], seed=11)[0]
    assert measure(model, signal, Bench(model), image).tolist() == [[UNSCORED]]

    values = np.array([0.5, UNSCORED, -2.0, UNSCORED, 3.0])
    table = SimpleNamespace(values={signal.column: values})
    for direction, order in (("lower", [4, 0, 2, 1, 3]), ("higher", [2, 0, 4, 1, 3])):
        picks = pick_by_change(table, signal, 5, direction)
        assert picks.rows.tolist() == order
        assert np.isfinite(picks.scores).all()
        assert np.abs(picks.scores).max() < 4
        assert "2 of 5 candidates" in picks.notes[0]
    table.values[signal.column] = values[[0, 2]]
    assert pick_by_change(table, signal, 2, "lower").notes == ()


def test_a_tile_without_boxes_is_not_scored(models):
    model, image = models["fcos"], images(1, SIZES[0], seed=11)[0]
    centres = pseudo(model, image)["boxes"].unflatten(1, (2, 2)).mean(1)
    edge = int(centres[:, 0].min())
    height, width = SIZES[0]
    tiles = Boxes(((0, 0, edge, height), (edge, 0, width, height)))
    found = measure(model, Directional(ReferenceGradient()), Bench(model), image, tiles)[0]
    assert found[0] == UNSCORED
    assert abs(found[1]) < 1e6


@pytest.mark.parametrize(
    ("signal", "said"),
    [
        (Directional(ReferenceGradient(layers="last_two")), "strategy.layers=last"),
        (Directional(ReferenceGradient(), TopK(2)), "top_k"),
        (Directional(ReferenceGradient(), reduction="sum"), "reduction"),
        (Directional(Influence(inverse=Inverse("cholesky"))), "inverse=cg"),
    ],
)
def test_what_a_detector_has_not_is_refused(models, signal, said):
    with pytest.raises(SegalError) as refused:
        BoxDirectional(signal).check(models["fcos"])
    assert said in str(refused.value)


def test_detectors_of_other_kinds_are_refused():
    with pytest.raises(SegalError, match="RetinaNet or FCOS"):
        BoxDirectional(Directional(ReferenceGradient())).check(build("ssd"))


def test_ralif_is_refused(models):
    signal = EstimatedLoss(Influence("pool"))
    measured = measured_estimated_loss(signal)
    assert measured.column == signal.column
    for ask in (measured.check, lambda model: measured.prepare(Bench(model))):
        with pytest.raises(SegalError, match="not for the boxes of an image"):
            ask(models["fcos"])


def test_sets_need_labels_and_images(models):
    model = models["fcos"]
    needs = BoxDirectional(Directional(Influence())).needs
    assert {(need.of, need.labels) for need in needs} == {("val", True), ("labelled", True)}
    with pytest.raises(SegalError, match="not one image"):
        vector_of(ReferenceGradient(), Bench(model, []))
    bench = Bench(model)
    visits = [Visit(v.evidence, v.mask, None) for v in bench.visit("val", (RAW,))]
    bench.visit = lambda *_: iter(visits)
    with pytest.raises(SegalError, match="labels are unknown"):
        vector_of(ReferenceGradient(), bench)


@pytest.mark.parametrize("name", ["fcos", "retinanet", "fasterrcnn"])
def test_what_nobody_listed_has_no_part_in_a_gradient(models, name):
    """Of a tile without objects only its own anchors count; moving an object elsewhere, nothing."""
    layers = last_layers(models[name])
    with torch.no_grad():
        raw = models[name](images(1), (RAW,)).raw[0]
    height, width = raw.sizes[0]
    known = torch.zeros(height, width, dtype=torch.bool)
    known[:, : width // 3] = True
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    part, all_of_it = (flat(layers.gradient(raw, nothing, mask)) for mask in (known, None))
    assert not torch.allclose(part, all_of_it)
    assert part.abs().max() > 0
    for stage in layers.compared(raw, nothing, known):
        x = (stage.anchors[:, 0] + stage.anchors[:, 2]) / 2 * raw.scale[0]
        assert not (stage.positive | stage.negative)[x.clamp(0) >= width // 3].any()
    none = torch.zeros_like(known)
    assert flat(layers.gradient(raw, nothing, none)).abs().max() == 0


# BADGE's gradient by further branches


@pytest.mark.parametrize(
    ("name", "branches"),
    [
        ("fcos", "cls+reg"), ("retinanet", "cls+reg"), ("retinanet with background", "cls+reg"),
        ("fasterrcnn", "cls+reg"), ("fasterrcnn", "cls+reg+rpn"),
    ],
)  # fmt: skip
def test_badges_branches_against_backward_passes(models, name, branches):
    """By the library's own losses of an image whose boxes are its detections."""
    model, size = models[name], SIZES[1]
    image = images(1, size, seed=12)[0]
    bench, signal = Bench(model), BranchGradient(branches)
    meter = measured(signal).prepare(bench)
    with torch.no_grad():
        evidence = model([image], meter.catch)
        found = meter.measure(evidence, WHOLE[size])[0, 0]
        alone = measured(RegionGradient()).prepare(bench).measure(evidence, WHOLE[size])[0, 0]
    boxes = evidence.detections[0]
    assert torch.equal(found[: len(alone)], alone.float())
    kept = (boxes.boxes[:, :2] < boxes.boxes[:, 2:]).all(1)
    target = {"boxes": boxes.boxes[kept], "labels": boxes.classes[kept]}
    losses = {"objectness": "loss_objectness", "rpn_regression": "loss_rpn_box_reg"}
    if name == "fasterrcnn":
        losses["bbox_regression"] = "loss_box_reg"
    expected = []
    for branch in last_layers(model).branches:
        if branch.name in {"cls_logits", "logits"} or (
            branch.name in {"objectness", "rpn_regression"} and "rpn" not in branches
        ):
            continue
        own = model.losses([image], [target])
        loss = own[losses.get(branch.name, branch.name)]
        (grad,) = torch.autograd.grad(loss, [branch.layer.weight])
        expected.append(grad.flatten())
    expected = torch.cat(expected)
    assert expected.abs().max() > 0
    torch.testing.assert_close(
        found[len(alone) :], expected, rtol=1e-4, atol=1e-5 * float(expected.norm())
    )


def test_a_tile_without_a_box_has_no_gradient_by_branches(models):
    model, size = models["retinanet"], SIZES[1]
    meter = measured(BranchGradient("cls+reg")).prepare(Bench(model))
    with torch.no_grad():
        evidence = model([images(1, size, seed=12)[0]], meter.catch)
    (found,) = evidence.detections
    x0, y0, x1, y1 = found.boxes[0].tolist()
    centre = (int((x0 + x1) / 2), int((y0 + y1) / 2))
    near = (*centre, centre[0] + 1, centre[1] + 1)
    far = (size[1] + 5, 0, size[1] + 6, 1)
    whole, own, none = meter.measure(evidence, Boxes((WHOLE[size].boxes()[0], near, far)))[0]
    assert (none == 0).all()
    assert (own != 0).any() and not torch.equal(own, whole)


def test_branches_that_are_not_there_are_refused(models):
    with pytest.raises(SegalError, match=r"strategy\.branches: cls\+reg\+rpn"):
        measured(BranchGradient("cls+reg+rpn")).check(models["retinanet"])
    with pytest.raises(SegalError, match="no last layers"):
        measured(BranchGradient("cls+reg")).check(build("ssd"))
    assert Badge(branches="cls+reg").passes(PassContext()).__next__() == [BranchGradient("cls+reg")]
    classified = tiny_classifier.make_model()
    with pytest.raises(SegalError, match="it measures boxes"):
        check_network(Badge(branches="cls+reg"), classified)
    check_network(Badge(), classified)
