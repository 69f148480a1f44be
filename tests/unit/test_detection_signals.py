"""Detection's signals: boxes are elements, and tiles hold the boxes whose centre they hold."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from segal.candidates.regions import Boxes, RegionSize
from segal.candidates.table import CandidateTable
from segal.errors import SegalError
from segal.functional import uncertainty
from segal.functional.divergence import class_profile
from segal.models.build import make_spec
from segal.models.dropout import insert_dropout
from segal.models.wrapped import FEATURE_MAPS, FEATURES, NoHeadError
from segal.signals import MeanFeature, PredictedLoss, RegionGradient, Value
from segal.signals.class_profiles import ClassProfiles
from segal.signals.class_wise import ClassWiseEmbedding
from segal.signals.dropout import DropoutValue, drawn
from segal.signals.expected_objects import ExpectedObjects
from segal.strategies.uwe import UncertaintyWeightedEmbeddings
from segal.tasks.detection.detectors.functions import CallableDetector
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.model import RAW, DetectionModel
from segal.tasks.detection.signals import MEASURED, measured
from segal.tasks.detection.signals.elements import OfBoxes, Slices
from segal.tasks.detection.signals.elements import holding as holding_of
from tests.tiny_detectors import CLASSES, SIZES, build, images

HEIGHT, WIDTH = 40, 60
WHOLE = RegionSize.parse("image").grid(HEIGHT, WIDTH)
TILES = RegionSize.parse("20").grid(HEIGHT, WIDTH)


def detections(count, classes=3, depth=4, seed=0):
    """Boxes anywhere in an image."""
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.rand(2, count, 2, generator=generator) * torch.tensor([WIDTH, HEIGHT])
    boxes = torch.cat([torch.minimum(one, other), torch.maximum(one, other) + 0.1], 1)
    probabilities = torch.rand(count, classes, generator=generator) * 0.9
    return Detections(
        boxes,
        probabilities,
        probabilities.argmax(1),
        probabilities.amax(1),
        torch.randn(count, depth, generator=generator),
        torch.arange(count),
    )


def evidence_of(*found, classes=3):
    return DetectionEvidence(found, classes=classes)


def bench_of(model=None, seed=0):
    return SimpleNamespace(
        model=model, seed=seed, precision="fp32", once=lambda _, compute: compute()
    )


@torch.no_grad()
def measure(signal, evidence, units, model=None, seed=0):
    return measured(signal).prepare(bench_of(model, seed)).measure(evidence, units)


def holding(found, tile):
    """Numbers of the boxes that have an area, and whose centre lies in a tile, by a loop."""
    x0, y0, x1, y1 = tile
    corners = enumerate(found.boxes.double().tolist())
    centres = [(i, (a + c) / 2, (b + d) / 2) for i, (a, b, c, d) in corners if a < c and b < d]
    return [i for i, x, y in centres if x0 <= x < x1 and y0 <= y < y1]


def entropy_of(probabilities):
    p = probabilities.double() / probabilities.double().sum()
    return float(-(p * p.log()).sum())


@pytest.mark.parametrize("edge", ["near", "inside", "far", "beyond"])
def test_nothing_holds_a_box_without_area_wherever_it_lies(edge):
    """Its image of 64 pixels, and a tile of it; FCOS has such boxes, clipped to the far edges."""
    side = {"near": 0.0, "inside": 40.0, "far": 64.0, "beyond": 64.00001}[edge]
    boxes = torch.tensor(
        [[side, 3, side, 9], [3, side, 9, side], [side, side, side, side], [60, 60, 64, 64]]
    )
    for size in ("image", "32"):
        held = holding_of(boxes, RegionSize.parse(size).grid(64, 64))
        assert held.sum(0).tolist() == [0, 0, 0, 1]
        assert held[-1, 3]


REDUCED = {"mean": lambda x: sum(x) / len(x), "sum": sum, "max": max}


@pytest.mark.parametrize("reduction", list(REDUCED))
def test_values_of_tiles_are_of_the_boxes_whose_centre_they_hold(reduction):
    found = [detections(30, seed=1), detections(0), detections(3, seed=2)]
    values = measure(Value("entropy", reduction), evidence_of(*found), TILES)
    assert values.shape == (3, 6) and values.dtype == torch.float64
    for one, row in zip(found, values, strict=True):
        for tile, value in zip(TILES.boxes().tolist(), row.tolist(), strict=True):
            own = [entropy_of(one.probabilities[i]) for i in holding(one, tile)]
            assert value == pytest.approx(REDUCED[reduction](own) if own else 0.0, abs=1e-5)
    assert (values[1] == 0).all() and (values[2] == 0).any()


@pytest.mark.parametrize("name", ["entropy", "least_confidence", "margin", "bvsb"])
def test_every_uncertainty_is_that_of_the_distribution_without_background(name):
    found = detections(9, seed=3)
    expected = getattr(uncertainty, name)(found.probabilities.double().log())
    value = measure(Value(name), evidence_of(found), WHOLE)
    assert value.item() == pytest.approx(float(expected.mean()), abs=1e-6)


def test_one_class_has_two_columns():
    found = detections(1, classes=1, seed=4)
    p = float(found.probabilities)
    value = measure(Value("bvsb"), evidence_of(found, classes=1), WHOLE)
    assert value.item() == pytest.approx(min(p, 1 - p) / max(p, 1 - p), rel=1e-5)


def spread(logits):
    """A user's own, which never sees a map without elements."""
    assert logits.shape[-1] > 0
    return logits.amax(1) - logits.amin(1)


def test_a_users_uncertainty_and_images_without_boxes():
    found = [detections(0), detections(4, seed=5)]
    signal = Value(f"{__name__}:spread")
    empty, value = measure(signal, evidence_of(*found), WHOLE)[:, 0].tolist()
    log = found[1].probabilities.double().log()
    assert empty == 0
    assert value == pytest.approx(float((log.amax(1) - log.amin(1)).mean()), rel=1e-5)


def test_mean_features_and_class_profiles_of_boxes():
    found = [detections(12, seed=6), detections(0)]
    evidence = evidence_of(*found)
    features = OfBoxes(MeanFeature()).prepare(bench_of()).measure(evidence, TILES)
    profiles = measure(ClassProfiles(), evidence, TILES)
    assert features.shape == (2, 6, 4) and profiles.shape == (2, 6, 9)
    assert (features[1] == 0).all() and (profiles[1] == 0).all()
    one = found[0]
    p = one.probabilities / one.probabilities.sum(1, keepdim=True)
    for number, tile in enumerate(TILES.boxes().tolist()):
        own = holding(one, tile)
        mean = one.features[own].double().mean(0) if own else torch.zeros(4).double()
        torch.testing.assert_close(features[0, number], mean)
        weights = torch.tensor([entropy_of(x) for x in p[own]])
        expected = class_profile(p[own].T, weights, p[own].argmax(1))
        torch.testing.assert_close(profiles[0, number], expected.flatten(), rtol=1e-4, atol=1e-6)


def test_expected_objects_are_the_scores_of_the_boxes_whose_centre_a_tile_holds():
    found = (detections(30), detections(0), detections(7, seed=1))
    sums = measure(ExpectedObjects(), evidence_of(*found), TILES)
    for one, row in zip(found, sums, strict=True):
        for tile, value in zip(TILES.boxes().tolist(), row.tolist(), strict=True):
            by_hand = sum(one.scores.double()[i].item() for i in holding(one, tile))
            assert value == pytest.approx(by_hand, abs=1e-12)
    whole = measure(ExpectedObjects(), evidence_of(*found), WHOLE)
    assert torch.allclose(whole[:, 0], sums.sum(1), rtol=0, atol=1e-9)


def test_units_that_overlap_share_boxes_and_a_centre_outside_counts_for_none():
    found = detections(8, seed=7)
    tiles = ((0, 0, WIDTH, HEIGHT), (0, 0, 30, 40), (0, 0, 1, 1))
    sums = measure(Value("entropy", "sum"), evidence_of(found), Boxes(tiles))[0].tolist()
    for tile, value in zip(tiles, sums, strict=True):
        own = [entropy_of(found.probabilities[i]) for i in holding(found, tile)]
        assert value == pytest.approx(sum(own), abs=1e-5)
    assert sums[0] > sums[1] > sums[2] == 0


def test_slices():
    slices = Slices((2, 0, 1))
    assert slices.boxes().tolist() == [[0, 0, 2, 1], [2, 0, 2, 1], [2, 0, 3, 1]]
    x = torch.tensor([[-1.0, -2.0, -4.0], [3.0, 5.0, 7.0]])[None, :, None]
    sums, counts = slices.pool(x)
    assert sums[0].tolist() == [[-3, 8], [0, 0], [-4, 7]] and counts.tolist() == [2, 1, 1]
    assert slices.pool_max(x)[0].tolist() == [[-1, 5], [0, 0], [-4, 7]]
    assert np.array_equal(Slices(()).boxes(), np.zeros((0, 4)))


class Detectors(dict):
    """Built when first asked for."""

    def __missing__(self, name):
        self[name] = build(name)
        return self[name]


@pytest.fixture(scope="module")
def detectors():
    return Detectors()


@torch.no_grad()
def run(model, batch, catch=(RAW, FEATURES, FEATURE_MAPS)):
    evidence = model(batch, catch)
    evidence.inputs, evidence.images = batch, tuple(f"{i}.png" for i in range(len(batch)))
    return evidence


GRID = RegionSize.parse("32").grid(*SIZES[0])
FULL = RegionSize.parse("image").grid(*SIZES[0])


@pytest.mark.parametrize("uncertain", ["bvsb", "entropy"])
@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_class_wise_embeddings_against_loops(uncertain, reduce):
    found = [detections(25, seed=8), detections(0), detections(2, seed=9)]
    found[0].probabilities[3] = found[0].probabilities[2]  # equal: the first is taken
    found[0].classes[:] = torch.randint(3, (25,), generator=torch.Generator().manual_seed(0))
    found[0].classes[2:4] = 1
    found[2].classes[:] = 2  # the others are absent
    tau = 0.5
    signal = ClassWiseEmbedding(uncertain, tau, reduce)
    model = SimpleNamespace(spec=SimpleNamespace(num_classes=3))
    for units in (WHOLE, TILES):
        embedding = measure(signal, evidence_of(*found), units, model)
        assert embedding.shape == (3, len(units), 12) and embedding.dtype == torch.float32
        for one, rows in zip(found, embedding.unflatten(2, (3, 4)), strict=True):
            u = getattr(uncertainty, uncertain)(one.probabilities.double().log()).tolist()
            for tile, row in zip(units.boxes().tolist(), rows, strict=True):
                for number in range(3):
                    own = [i for i in holding(one, tile) if one.classes[i] == number]
                    parts = [u[i] ** tau * one.features[i].double() for i in own]
                    expected = torch.zeros(4).double()
                    if own and reduce == "max":
                        expected = parts[max(range(len(own)), key=lambda k: round(u[own[k]], 6))]
                    elif own:
                        expected = sum(parts) / len(parts)
                    torch.testing.assert_close(row[number].double(), expected, atol=1e-5, rtol=1e-5)
    assert (embedding[1] == 0).all() and (embedding[2, :, :8] == 0).all()


def test_class_wise_says_what_it_cannot():
    signal = ClassWiseEmbedding("bvsb", 1.0, "max")
    model = SimpleNamespace(spec=SimpleNamespace(architecture="unet", num_classes=3))
    for refused in (lambda: signal.check(model), lambda: signal.prepare(bench_of(model))):
        with pytest.raises(SegalError, match="finds no boxes"):
            refused()
    found = detections(5, seed=1)
    found.probabilities[2] = torch.nan  # is shown, also where other boxes are finite
    embedding = measure(signal, evidence_of(found), WHOLE, model)
    assert embedding.isnan().any()
    steep = ClassWiseEmbedding(f"{__name__}:spread", 100.0, "max")
    with pytest.raises(SegalError, match=r"strategy\.tau"):
        measure(steep, evidence_of(detections(200, seed=2)), WHOLE, model)


def table_of(columns):
    count = len(next(iter(columns.values())))
    boxes = np.tile(np.array([[0, 0, 5, 5]], np.int32), (count, 1))
    names = tuple(f"{i}.png" for i in range(count))
    order = np.arange(count, dtype=np.int32)
    return CandidateTable(
        names, order, boxes, np.full(count, 25), embeddings=columns, rows=np.arange(count)
    )


def test_uwe_picks_by_class_wise_embeddings():
    strategy = UncertaintyWeightedEmbeddings(uncertainty="bvsb", tau=0.1, class_wise="max")
    (signals,) = strategy.passes(None)
    assert signals == [ClassWiseEmbedding("bvsb", 0.1, "max")]
    column = signals[0].column
    assert column == "class_wise-bvsb-0.1-max"
    rows = np.array([[0, 0], [1, 0], [9, 0], [0, 5]], np.float32)
    known = np.array([[9.5, 0]], np.float32)
    picks = strategy.select(
        table_of({column: rows}), table_of({column: known}), 2, torch.Generator()
    )
    assert picks.rows.tolist() == [3, 1]
    assert picks.scores.tolist() == pytest.approx([np.hypot(9.5, 5), 26**0.5])
    assert UncertaintyWeightedEmbeddings().class_wise == "none"
    with pytest.raises(ValueError, match=r"strategy\.normalize=none"):
        UncertaintyWeightedEmbeddings(class_wise="mean", normalize="minmax")


def spread_out(maps, covers):
    """Levels (D, h, w), after torch's own upsampling."""
    return [
        F.interpolate(x[None].double(), covers, mode="bilinear", align_corners=False)[0]
        for x in maps
    ]


def means_of(levels, tile):
    x0, y0, x1, y1 = tile
    return [x[:, y0:y1, x0:x1].mean((1, 2)) for x in levels]


@pytest.mark.parametrize("name", ["retinanet", "ssd", "ssdlite320_mobilenet_v3_large"])
def test_mean_feature_of_dense_detectors_is_of_their_towers(detectors, name):
    evidence = run(detectors[name], images(), (RAW, FEATURE_MAPS))
    measured_ = measure(MeanFeature(), evidence, GRID, detectors[name])[0]
    towers = evidence.raw[0].towers
    wide = [spread_out(towers[b], evidence.upsampling.size) for b in ("class", "box")]
    for tile, row in zip(GRID.boxes().tolist(), measured_, strict=True):
        branches = [means_of(levels, tile) for levels in wide]
        if name == "retinanet":
            expected = torch.cat([torch.stack(levels).mean(0) for levels in branches])
        elif name == "ssd":  # both take the pyramid's maps
            expected = torch.cat(branches[0])
        else:
            expected = torch.cat([x for levels in branches for x in levels])
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-5)


def test_mean_feature_of_other_detectors_is_of_their_boxes(detectors):
    model = detectors["fasterrcnn"]
    evidence = run(model, images(), (FEATURES,))
    meter = measured(MeanFeature()).prepare(bench_of(model))
    assert meter.catch == (FEATURES,)
    found = evidence.detections[0]
    assert len(found) > 3
    torch.testing.assert_close(meter.measure(evidence, FULL)[0, 0], found.features.double().mean(0))


def class_logits(layers, raw, weights):
    """(A, K) float64 as the detector itself makes them, of given weights."""
    if "class" not in raw.towers:
        return F.linear(raw.outputs["features"].double(), weights[0], layers[0].bias.double())
    levels = []
    for level, tower in enumerate(raw.towers["class"]):
        layer = layers[level % len(layers)]
        out = F.conv2d(
            tower[None].double(),
            weights[level % len(layers)],
            layer.bias.double(),
            padding=layer.padding,
        )
        width = out.shape[1] * out.shape[2] * out.shape[3] // raw.levels[level]
        cells = out.view(1, -1, width, *out.shape[2:]).permute(0, 3, 4, 1, 2)
        levels.append(cells.reshape(-1, width))
    return torch.cat(levels)[:, -raw.logits.shape[1] :]


DENSE_AND_NOT = ["fasterrcnn", "retinanet", "fcos", "ssd", "ssdlite320_mobilenet_v3_large"]


@pytest.mark.parametrize("name", DENSE_AND_NOT)
def test_badges_gradient_against_autograd(detectors, name):
    model = detectors[name]
    evidence = run(model, images(), (RAW,))
    found, raw = evidence.detections[0], evidence.raw[0]
    assert len(found) > 3
    layers = model.last_layers()
    weights = [layer.weight.detach().double().requires_grad_() for layer in layers]
    logits = class_logits(layers, raw, weights)
    torch.testing.assert_close(logits.float(), raw.logits, rtol=1e-3, atol=1e-3)
    units = RegionSize.parse("64").grid(*SIZES[0])
    gradients = measure(RegionGradient(), evidence, units, model)[0]
    empty = 0
    for tile, row in zip(units.boxes().tolist(), gradients, strict=True):
        own = holding(found, tile)
        if not own:
            empty += 1
            assert (row == 0).all()
            continue
        chosen, classes = logits[found.source[own]], found.classes[own]
        if raw.softmax:
            losses = F.cross_entropy(chosen, classes + 1, reduction="none")
        else:
            one_hot = F.one_hot(classes, chosen.shape[1]).double()
            losses = F.binary_cross_entropy_with_logits(chosen, one_hot, reduction="none").sum(1)
        by_weights = torch.autograd.grad(losses.mean(), weights, retain_graph=True)
        expected = torch.cat([g.flatten() for g in by_weights])
        scale = float(expected.abs().max())
        torch.testing.assert_close(row.double(), expected, rtol=1e-5, atol=1e-5 * scale)
    assert empty < len(units)


def with_dropout(name):
    model = build(name)
    model.spec = replace(model.spec, insert_dropout=0.4)
    return insert_dropout(model).eval()


@pytest.mark.parametrize("name", ["fasterrcnn", "retinanet", "ssd"])
def test_passes_with_dropout_against_loops(name):
    model = with_dropout(name)
    evidence = run(model, images(), (RAW,))
    found, raw = evidence.detections[0], evidence.raw[0]
    layers = model.last_layers()
    names = {module: name for name, module in model.network.named_modules()}
    samples = []
    for number in range(3):
        generators = drawn(5, "0.png", number)
        if name == "fasterrcnn":
            inputs = raw.outputs["features"][found.source]
            call = f"{names[layers[0]]}.dropout:0"
            mask = generators(call).random(tuple(inputs.shape), np.float32) < 0.6
            masked = inputs.double() * torch.from_numpy(mask) / 0.6
            logits = F.linear(masked, layers[0].weight.double(), layers[0].bias.double())
        else:
            towers = []
            for level, tower in enumerate(raw.towers["class"]):
                layer, call = layers[level % len(layers)], level if len(layers) == 1 else 0
                rng = generators(f"{names[layer]}.dropout:{call}")
                mask = torch.from_numpy(rng.random((1, len(tower)), np.float32) < 0.6)
                towers.append(tower.double() * mask[0, :, None, None] / 0.6)
            fake = SimpleNamespace(towers={"class": towers}, levels=raw.levels, logits=raw.logits)
            weights = [layer.weight.double() for layer in layers]
            logits = class_logits(layers, fake, weights)[found.source]
        p = logits.softmax(1)[:, 1:] if raw.softmax else logits.sigmoid()
        samples.append(p / p.sum(1, keepdim=True))
    mean = sum(samples) / 3
    entropy = -torch.xlogy(mean, mean).sum(1)
    each = sum(-torch.xlogy(p, p).sum(1) for p in samples) / 3
    own = holding(found, FULL.boxes()[0].tolist())  # those that have an area
    assert len(own) >= 0.8 * len(found)
    for signal, of_boxes in [("mc_dropout", entropy), ("bald", entropy - each)]:
        expected = of_boxes[own].detach()
        value = measure(DropoutValue(signal, 3), evidence, FULL, model, seed=5).item()
        assert value == pytest.approx(float(expected.mean()), rel=1e-3, abs=1e-5)
        highest = measure(DropoutValue(signal, 3, "max"), evidence, GRID, model, seed=5)
        assert highest.max().item() == pytest.approx(expected.max().item(), rel=1e-3, abs=1e-5)
    again = measure(DropoutValue("bald", 3), run(model, images(), (RAW,)), GRID, model, seed=6)
    other = measure(DropoutValue("bald", 3), run(model, images(), (RAW,)), GRID, model, seed=5)
    assert not torch.equal(again, other)
    assert model.network.training is False


def test_dropout_has_to_be_there(detectors):
    with pytest.raises(SegalError, match="no dropout before"):
        measured(DropoutValue("bald")).check(detectors["retinanet"])


@torch.no_grad()
def test_predicted_losses_are_of_the_pyramids_maps():
    model = build("ssd")
    with pytest.raises(SegalError, match="predicts no losses"):
        measured(PredictedLoss()).prepare(bench_of(model))
    module = model.add_loss_prediction(0)
    evidence = run(model, images(), (FEATURE_MAPS,))
    values = measure(PredictedLoss(), evidence, GRID, model)[0]
    maps = spread_out([x[0] for x in evidence.maps], evidence.upsampling.size)
    for tile, value in zip(GRID.boxes().tolist(), values, strict=True):
        expected = module(means_of(maps, tile)).item()
        assert float(value) == pytest.approx(expected, rel=1e-4, abs=1e-6)


SIGNALS = [
    Value("bvsb"),
    MeanFeature(),
    ClassProfiles(),
    ClassWiseEmbedding("bvsb", 1.0, "max"),
    ClassWiseEmbedding("entropy", 0.1, "mean"),
    RegionGradient(),
    DropoutValue("bald", 2),
    PredictedLoss(),
]


@pytest.mark.parametrize("name", ["fasterrcnn", "retinanet"])
@torch.no_grad()
def test_no_signal_depends_on_the_batch(name):
    model = with_dropout(name)
    model.add_loss_prediction(0)
    batch = torch.cat([images(2), 0 * images(1)])
    together = run(model, batch)
    alone = [run(model, image[None]) for image in batch]
    for evidence, path in zip(alone, together.images, strict=True):
        evidence.images = (path,)
    assert {type(signal) for signal in SIGNALS} <= set(MEASURED)
    for signal in SIGNALS:
        way = measured(signal)
        assert way.column == signal.column
        assert (way.needs, way.of_labelled) == (signal.needs, signal.of_labelled)
        way.check(model)
        meter = way.prepare(bench_of(model))
        for units in (FULL, RegionSize.parse("64").grid(*SIZES[0])):
            of_batch = meter.measure(together, units)
            assert of_batch.isfinite().all()
            of_each = torch.cat([meter.measure(evidence, units) for evidence in alone])
            assert torch.equal(of_batch, of_each), way


def test_functions_have_what_needs_no_look_inside():
    found = detections(6, seed=3)
    parts = {"boxes": found.boxes, "probabilities": found.probabilities}
    order = found.scores.argsort(descending=True)

    def detect(_):
        return [{name: values[order] for name, values in parts.items()}]

    spec = make_spec("tests.tiny_detectors:none", "", CLASSES, task="detection")
    model = DetectionModel(CallableDetector(detect), spec).eval()
    for signal in (MeanFeature(), ClassWiseEmbedding("bvsb", 1.0, "max"), RegionGradient()):
        with pytest.raises(NoHeadError):
            measured(signal).check(model)
    parts["features"] = found.features
    evidence = run(model, torch.zeros(1, 3, HEIGHT, WIDTH), (FEATURES,))
    for signal in (Value("bvsb"), MeanFeature(), ClassWiseEmbedding("bvsb", 1.0, "max")):
        measured(signal).check(model)
        assert measure(signal, evidence, WHOLE, model).abs().sum() > 0
    with pytest.raises(SegalError, match="not of a detector"):
        measured(RegionGradient(layers="last_two")).check(model)
