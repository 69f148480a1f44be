"""MIAL's equations against loops, its stages, its networks, its signal and its strategy."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from segal.candidates.regions import Boxes, RegionSize
from segal.candidates.table import CandidateTable
from segal.errors import SegalError
from segal.functional.mial import (
    anchor_heat,
    bag_score,
    discrepancy,
    image_discrepancy,
    level_mil_score,
    mil_loss,
    mil_score,
    pseudo_labels,
    weighted_discrepancy,
)
from segal.models.build import build_network, make_spec
from segal.models.checkpoint import load_checkpoint, save_checkpoint
from segal.models.mial import Mial, MialSettings, moving, schedule
from segal.signals.mial import Discrepancy
from segal.strategies.mial import MultipleInstance
from segal.tasks.detection.detectors.two_heads import HeadOutputs
from segal.tasks.detection.evaluation import Found
from segal.tasks.detection.heat_maps import heat_maps
from segal.tasks.detection.model import RAW, DetectionModel
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.predicting import missed
from segal.tasks.detection.signals import measured
from segal.tasks.detection.signals.mial import anchor_centres
from tests.tiny_detectors import CLASSES, build, images, two_heads

N, C, LEVELS = 7, 3, (4, 2, 1)
KINDS = ("own", "shared", "ssd")


@pytest.fixture
def heads():
    """Logits of f1, f2 and the MIL head, float64."""
    return torch.randn(3, N, C, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


@pytest.fixture(scope="module")
def models():
    return {kind: two_heads(kind) for kind in KINDS}


@pytest.fixture(scope="module", params=KINDS)
def model(request, models):
    return models[request.param]


def sigma(x):
    return 1 / (1 + math.exp(-x))


# Equations


def test_discrepancy_by_loops(heads):
    first, second, weights = heads.tolist()
    probabilities = heads[:2].sigmoid()
    plain, squared = discrepancy(*probabilities), discrepancy(*probabilities, squared=True)
    weighted = weighted_discrepancy(*probabilities, heads[2])
    for i in range(N):
        rows = zip(first[i], second[i], weights[i], strict=True)
        pairs = [(sigma(a), sigma(b), w) for a, b, w in rows]
        assert plain[i].item() == pytest.approx(sum(abs(a - b) for a, b, _ in pairs) / C)
        assert squared[i].item() == pytest.approx(sum((a - b) ** 2 for a, b, _ in pairs) / C)
        expected = sum(abs(w * (a - b)) for a, b, w in pairs) / C
        assert weighted[i].item() == pytest.approx(expected)


def test_equal_heads_give_zero(heads):
    same = heads[0].sigmoid()
    for squared in (False, True):
        assert (discrepancy(same, same.clone(), squared=squared) == 0).all()
    assert (weighted_discrepancy(same, same.clone(), heads[2]) == 0).all()


def test_weights_have_no_gradient(heads):
    heads.requires_grad_()
    weighted_discrepancy(heads[0], heads[1], heads[2]).sum().backward()
    assert heads.grad[0].abs().sum() > 0
    assert (heads.grad[2] == 0).all()


def test_mil_score_by_loops(heads):
    mean, mil = ((heads[0] + heads[1]) / 2).tolist(), heads[2].tolist()
    score = mil_score(heads[2], (heads[0] + heads[1]) / 2)
    for i in range(N):
        for c in range(C):
            of_classes = math.exp(mil[i][c]) / sum(math.exp(x) for x in mil[i])
            of_instances = math.exp(mean[i][c]) / sum(math.exp(row[c]) for row in mean)
            assert score[i, c].item() == pytest.approx(of_classes * of_instances)
    bags = bag_score(score)
    assert ((bags > 0) & (bags < 1)).all()
    assert bags.tolist() == pytest.approx(
        [sum(score[i, c].item() for i in range(N)) for c in range(C)]
    )


def test_mil_score_of_levels_by_loops(heads):
    chances, mil = heads[0].sigmoid(), heads[2].tolist()
    score = level_mil_score(heads[2], chances, LEVELS)
    largest = [max(row) for row in chances.tolist()]
    start = 0
    for count in LEVELS:
        here = range(start, start + count)
        for i in here:
            for c in range(C):
                of_classes = math.exp(mil[i][c]) / sum(math.exp(x) for x in mil[i])
                of_level = math.exp(largest[i]) / sum(math.exp(largest[j]) for j in here)
                assert score[i, c].item() == pytest.approx(of_classes * of_level)
        start += count
    sums = [part.sum(0) for part in score.split(list(LEVELS))]
    assert torch.equal(bag_score(score, LEVELS), torch.stack(sums).amax(0))


def test_bag_scores_of_a_level_sum_to_one_over_classes(heads):
    chances = heads[0].sigmoid()
    one = bag_score(level_mil_score(heads[2], chances, [N]), [N])
    assert one.sum().item() == pytest.approx(1)
    several = bag_score(level_mil_score(heads[2], chances, LEVELS), LEVELS)
    assert 1 < several.sum().item() <= len(LEVELS)
    paper = bag_score(mil_score(heads[2], heads[0] * 9))
    assert abs(paper.sum().item() - 1) > 1e-3  # which no rule binds


@pytest.mark.parametrize(("levels", "present"), [((4,), 1), ((4,), 2), ((4,), 3), ((2, 2), 3)])
def test_the_least_loss_of_the_code_has_a_floor_by_classes_and_levels(levels, present):
    """Found by descent on everything that the loss is made of; the paper's has none."""
    labels = torch.arange(C) < present
    mil = torch.randn(4, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mil, scores = mil.requires_grad_(), torch.zeros(4, C, dtype=torch.float64).requires_grad_()

    def least(bags):
        descent = torch.optim.Adam([mil, scores], 0.5)
        for _ in range(80):
            descent.zero_grad()
            loss = mil_loss(bags(), labels, margin=1e-12)
            loss.backward()
            descent.step()
        return loss.item()

    found = least(lambda: bag_score(level_mil_score(mil, scores.sigmoid(), levels), levels))
    floor = max(0.0, present * math.log(present / len(levels)))
    assert found >= floor - 1e-9
    if len(levels) == 1:  # n log n: 0, 1.39, 3.30
        assert found == pytest.approx(floor, abs=0.02)
        assert least(lambda: bag_score(mil_score(mil, scores))) < 0.05


def test_mil_loss_by_loops():
    bag, present = torch.tensor([[0.2, 0.7], [1.0, 0.0]]), torch.tensor([[1, 0], [0, 1]])
    terms = [[-math.log(0.2), -math.log(0.3)], [-math.log(1e-5)] * 2]
    losses = mil_loss(bag, present, margin=1e-5)
    assert losses.tolist() == pytest.approx([sum(row) for row in terms], rel=1e-2)
    mean = mil_loss(bag, present, reduction="mean", margin=1e-5)
    assert mean.tolist() == pytest.approx((losses / 2).tolist())
    assert mil_loss(bag, present).isfinite().all()


def test_pseudo_labels_must_exceed_a_half():
    first = torch.tensor([[0.5, 0.9, 0.1], [0.2, 0.1, 0.6]])
    second = torch.tensor([[0.5, 0.2, 0.1], [0.1, 0.1, 0.3]])
    assert pseudo_labels(first, second).tolist() == [False, True, False]
    assert pseudo_labels(first, second, 0.4).tolist() == [True, True, True]


def test_one_is_the_largest_and_all_the_mean():
    values = torch.rand(2, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    largest = values.sort(descending=True).values
    for k in range(1, 9):
        assert torch.allclose(image_discrepancy(values, k=k), largest[:, :k].mean(-1))
    assert torch.equal(image_discrepancy(values, k=1), values.amax(-1))
    assert torch.equal(image_discrepancy(values, "max"), values.amax(-1))
    for k in (9, 10_000):
        assert torch.allclose(image_discrepancy(values, k=k), values.mean(-1))
    assert torch.allclose(image_discrepancy(values, "mean", 2), values.mean(-1))
    assert image_discrepancy(values[0, :0]).item() == 0
    with pytest.raises(ValueError, match="at least 1"):
        image_discrepancy(values, k=0)


def test_heat_lies_where_the_anchors_do():
    values = torch.zeros(4 * 6 * 2 + 2 * 3)
    values[(2 * 6 + 5) * 2 + 1] = 1.0  # the second anchor of a cell
    values[48 + 3] = 0.5  # cell (1, 0) of the coarse level
    heat = anchor_heat(values, [(4, 6), (2, 3)], [2, 1], (32, 48), (30, 45))
    assert heat.shape == (30, 45)
    assert divmod(int(heat.argmax()), 45)[0] // 8 == 2
    assert int(heat.argmax()) % 45 // 8 == 5
    assert heat[24, 4].item() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="expected 54"):
        anchor_heat(values, [(4, 6)], [2], (32, 48), (30, 45))


# Stages


def test_stages_of_both_presets():
    paper = [one.kind for one in schedule(MialSettings(), 100)]
    assert paper == ["label", *(["maximise", "minimise"] * 2), "label"]
    code = schedule(MialSettings(preset="code"), 26)
    assert [one.kind for one in code] == ["label", *(["minimise", "maximise", "label"] * 2)]
    assert [one.stop - one.start for one in code] == [6, 2, 2, 6, 2, 2, 6]  # 26 epochs
    assert [one.kind for one in schedule(MialSettings(iul=False), 7)] == ["label"]


@pytest.mark.parametrize("preset", ["paper", "code"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_stages_share_out_all_steps_and_none_is_empty(preset, repeats):
    settings = MialSettings(preset=preset, repeats=repeats, ratio=(2, 1))
    for iterations in range(sum(settings.lengths), 60):
        stages = schedule(settings, iterations)
        assert stages[0].start == 0
        assert stages[-1].stop == iterations
        assert all(one.stop == two.start for one, two in pairwise(stages))
        for one, length in zip(stages, settings.lengths, strict=True):
            exact = iterations * length / sum(settings.lengths)
            assert one.stop - one.start >= 1
            assert abs(one.stop - one.start - exact) < 1


HEADS = {
    "f1": "network.head.classification_head.",
    "f2": "network.head.second_head.",
    "mil": "network.head.mil_head.",
    "fr": "network.head.regression_head.",
}
MOVING = {
    ("paper", "label"): {"g", "f1", "f2", "fr", "mil"},
    ("paper", "maximise"): {"f1", "f2", "fr", "mil"},
    ("paper", "minimise"): {"g", "mil"},
    ("code", "label"): {"g", "f1", "f2", "fr", "mil"},
    ("code", "maximise"): {"f1", "f2"},
    ("code", "minimise"): {"g", "fr", "mil"},
}


@pytest.mark.parametrize(("preset", "kind"), MOVING)
def test_which_parameters_move_in_which_stage(model, preset, kind):
    shared = getattr(model.network.head, "shared", False)
    expected = set()
    for name, _ in model.named_parameters():
        part = next((part for part, prefix in HEADS.items() if name.startswith(prefix)), "g")
        if shared and part == "f1" and ".conv." in name:
            part = "g"
        if part in MOVING[preset, kind]:
            expected.add(name)
    assert moving(kind, preset, model) == expected
    assert expected


def test_settings():
    one = TypeAdapter(Mial).validate_python
    assert one(True) == MialSettings()
    assert one("false") is None
    plain = one({"iur": False})
    assert (plain.weight, plain.iur_set) == ("one", "none")
    assert one(plain.model_dump()) == plain
    assert one({"preset": "code", "discrepancy": 1}).preset == "code"
    for wrong in (
        {"weight": "mil", "iur_set": "none"}, {"iur": False, "weight": "f1"}, {"ratio": [0, 1]},
        {"preset": "other"}, {"discrepancy": 0}, {"lambda": 1},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            one(wrong)


# Networks


def outputs_of(model, batch):
    with torch.no_grad():
        found = model(batch, (RAW,))
    return found, [HeadOutputs.of_image(raw) for raw in found.raw]


def test_raw_outputs_have_three_heads(model):
    found, (outputs,) = outputs_of(model, images())
    raw = found.raw[0]
    count = len(raw.anchors)
    assert outputs.first.shape == outputs.second.shape == outputs.mil.shape == (count, len(CLASSES))
    assert sum(raw.levels) == count
    first, second = outputs.probabilities
    assert torch.allclose(first, raw.probabilities, atol=1e-6)
    assert not torch.allclose(first, second)
    # Boxes are found by f1 alone.
    changed = copy.deepcopy(model)
    for part in ("second_head", "mil_head"):
        for parameter in changed.network.head.get_submodule(part).parameters():
            torch.nn.init.zeros_(parameter)
    assert torch.equal(
        outputs_of(changed, images())[0].detections[0].boxes, found.detections[0].boxes
    )


def test_boxes_are_those_of_the_plain_detector(models):
    """With f1's weights in torchvision's own network, to the bit."""
    model = models["own"]
    plain = build("retinanet")
    mine = model.network.state_dict()
    plain.network.load_state_dict({key: mine[key] for key in plain.network.state_dict()})
    with torch.no_grad():
        ours, theirs = (one(images()).detections[0] for one in (model, plain))
    assert len(ours) > 10
    assert torch.equal(ours.boxes, theirs.boxes)
    assert torch.equal(ours.scores, theirs.scores)
    targets = [{"boxes": torch.tensor([[5.0, 6.0, 60.0, 50.0]]), "labels": torch.tensor([2])}]
    losses, own = (one.losses(images(), targets) for one in (model, plain))
    assert torch.equal(losses["classification"], own["classification"])
    assert torch.equal(losses["bbox_regression"], own["bbox_regression"])
    swapped = copy.deepcopy(model)
    head = swapped.network.head
    head.classification_head, head.second_head = head.second_head, head.classification_head
    assert torch.equal(
        swapped.losses(images(), targets)["classification"], losses["second_classification"]
    )


def test_the_class_loss_of_the_second_head_of_an_ssd(models):
    model = models["ssd"]
    targets = [{"boxes": torch.tensor([[5.0, 6.0, 60.0, 50.0]]), "labels": torch.tensor([2])}]
    losses = model.losses(images(), targets)
    swapped = copy.deepcopy(model)
    head = swapped.network.head
    head.classification_head, head.second_head = head.second_head, head.classification_head
    other = swapped.losses(images(), targets)
    assert torch.equal(other["classification"], losses["second_classification"])
    assert torch.equal(other["bbox_regression"], losses["bbox_regression"])


def test_probabilities_of_a_softmax_leave_the_background_out():
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    further = {"second_logits": logits + 5, "mil_logits": torch.zeros(1, 2)}
    outputs = HeadOutputs.of(logits, further, softmax=True, levels=(1,))
    expected = logits.softmax(-1)[:, 1:]
    for found in outputs.probabilities:
        assert torch.allclose(found, expected)
    assert torch.allclose(outputs.first, outputs.second)


@pytest.mark.parametrize(
    "name", ["mial_retinanet", pytest.param("mial_ssd300_vgg16", marks=pytest.mark.slow)]
)
def test_they_are_built_by_name(name):
    spec = make_spec(
        f"torchvision:{name}", "resnet18" if "retina" in name else None, CLASSES, task="detection"
    )
    if name == "mial_ssd300_vgg16":
        assert spec.mean == pytest.approx((0.48235, 0.45882, 0.40784))
    network = build_network(spec)
    assert moving("label", "paper", DetectionModel(network, spec))


def test_a_checkpoint_is_the_same_network(models, tmp_path):
    spec = make_spec(
        "torchvision:mial_retinanet", "mobilenet_v2", CLASSES, task="detection",
        options={"min_size": 64, "max_size": 112, "towers": "shared"},
    )  # fmt: skip
    torch.manual_seed(3)
    model = DetectionModel(build_network(spec), spec).eval()
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors").eval()
    (_, (here,)), (_, (there,)) = (outputs_of(one, images()) for one in (model, loaded))
    for name in ("first", "second", "mil"):
        assert torch.equal(getattr(here, name), getattr(there, name))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mial_retinanet", {"towers": "two"}, "no such towers"),
        ("mial_retinanet", {"background": True}, "takes no such option"),
        ("retinanet", {"towers": "own"}, "takes no such option"),
    ],
)
def test_wrong_options_are_refused(name, options, message):
    with pytest.raises(SegalError, match=message):
        make_spec(f"torchvision:{name}", "resnet18", CLASSES, task="detection", options=options)


# Signal and strategy


class Bench:
    def __init__(self, model):
        self.model = model


@pytest.mark.parametrize(
    "signal",
    [Discrepancy(k=40), Discrepancy("max"), Discrepancy("mean", squared=True), Discrepancy()],
)
def test_the_signal_by_loops_over_tiles(model, signal):
    batch = images(2)
    found, outputs = outputs_of(model, batch)
    height, width = batch.shape[-2:]
    meter = measured(signal).prepare(Bench(model))
    assert meter.catch == (RAW,)
    for units in (
        RegionSize.parse("image").grid(height, width),
        RegionSize.parse("32x48").grid(height, width),
    ):
        values = meter.measure(found, units)
        assert values.dtype == torch.float64
        for row, raw, one in zip(values, found.raw, outputs, strict=True):
            first, second = (x.double().numpy() for x in one.probabilities)
            difference = (first - second) ** 2 if signal.squared else np.abs(first - second)
            each = difference.mean(1)
            centres = anchor_centres(raw).numpy()
            for value, (x0, y0, x1, y1) in zip(row.tolist(), units.boxes().tolist(), strict=True):
                inside = sorted(
                    (
                        e
                        for e, (x, y) in zip(each, centres, strict=True)
                        if x0 <= x < x1 and y0 <= y < y1
                    ),
                    reverse=True,
                )
                count = {"top_k": signal.k, "max": 1, "mean": len(inside)}[signal.reduction]
                expected = np.mean(inside[:count]) if inside else 0.0
                assert value == pytest.approx(expected, rel=1e-4)
    assert meter.measure(found, Boxes(((width + 99, 0, width + 100, 1),))).tolist() == [
        [0.0],
        [0.0],
    ]


def test_centres_are_in_pixels_of_the_image(models):
    """The first level's anchors of a RetinaNet lie every eighth pixel of the resized image."""
    found, _ = outputs_of(models["own"], images())
    raw = found.raw[0]
    x_scale, y_scale = raw.scale
    assert (x_scale, y_scale) == pytest.approx((110 / 101, 70 / 64), rel=0.02)
    per_cell = 9
    centres = anchor_centres(raw)[: raw.levels[0]][::per_cell]
    assert centres[1].tolist() == pytest.approx([8 * x_scale, 0], abs=1e-3)
    assert centres[:, 0].max() < 140
    assert centres[:, 1].max() < 110


def test_an_image_scores_as_alone(models):
    batch = [images(size=size, seed=3)[0] for size in ((70, 110), (130, 90))]
    meter = measured(Discrepancy(k=30)).prepare(Bench(models["shared"]))
    together = outputs_of(models["shared"], batch)[0]
    for image, raw in zip(batch, together.raw, strict=True):
        units = RegionSize.parse("image").grid(*image.shape[-2:])
        alone = meter.measure(outputs_of(models["shared"], image[None])[0], units)
        assert torch.equal(meter._of_image(raw, units), alone[0])


def test_other_networks_are_refused(models):
    signal = Discrepancy()
    plain = build("retinanet")
    with pytest.raises(SegalError, match=r"no two class heads[\s\S]*mial_retinanet"):
        measured(signal).check(plain)
    measured(signal).check(models["own"])
    with pytest.raises(SegalError, match="no two class heads"):
        signal.check(models["own"])  # of a task that has no way to measure it


def test_the_columns_tell_parameters_apart():
    kinds = [
        Discrepancy(), Discrepancy(k=5), Discrepancy("max"), Discrepancy("mean"),
        Discrepancy(squared=True), Discrepancy("mean", squared=True),
    ]  # fmt: skip
    assert len({one.column for one in kinds}) == len(kinds)


def test_the_strategy_picks_the_largest():
    strategy = TypeAdapter(MultipleInstance).validate_python({"k": 5})
    (signals,) = strategy.passes(None)
    assert signals == [Discrepancy(k=5)]
    boxes = np.array([[0, 0, 9, 9]] * 3, np.int32)
    values = {"discrepancy-top_5": np.array([0.1, 0.3, 0.3])}
    image = np.arange(3, dtype=np.int32)
    table = CandidateTable(("a", "b", "c"), image, boxes, np.full(3, 81), values)
    picks = strategy.select(table, table, 2, torch.Generator())
    assert picks.rows.tolist() == [1, 2]
    assert picks.scores.tolist() == [0.3, 0.3]
    assert MultipleInstance.presets["code"] == {"squared": True}
    for wrong in ({"k": 0}, {"reduction": "random"}):
        with pytest.raises(ValidationError):
            TypeAdapter(MultipleInstance).validate_python(wrong)


# Figures


def test_heat_maps_of_an_image(model):
    found, (outputs,) = outputs_of(model, images())
    size = (70, 110)
    maps = heat_maps(model, images()[0])
    assert list(maps) == ["discrepancy", "re-weighted discrepancy", "MIL score"]
    for heat in maps.values():
        assert heat.shape == size
        assert heat.isfinite().all()
        assert heat.max() > 0
    assert maps["discrepancy"].max() <= discrepancy(*outputs.probabilities).max() + 1e-6
    # The pixel of the largest discrepancy lies within a cell of that anchor's centre.
    row, column = divmod(int(maps["discrepancy"].argmax()), size[1])
    centre = anchor_centres(found.raw[0])[discrepancy(*outputs.probabilities).argmax()]
    assert abs(centre[0] - column) <= 64
    assert abs(centre[1] - row) <= 64


def test_objects_that_are_not_found():
    objects = Objects(
        np.array([[0.0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]]),
        np.array([0, 1, 0]), np.array([False, False, True]), ((0, 0, 99, 99),),
    )  # fmt: skip
    boxes = np.array([[0.0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]])
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    other = Found(boxes, np.array([0, 0, 0, 0]), scores)  # a twin, another class, a crowd
    right = Found(boxes, np.array([0, 0, 1, 0]), scores)
    unsure = Found(boxes, np.array([0, 0, 1, 0]), scores - 0.5)
    assert [missed(found, objects) for found in (right, other, unsure)] == [(0, 2), (1, 2), (2, 2)]
