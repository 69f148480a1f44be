"""Localization stability on boxes made by hand, and against loops on a real detector."""

import doctest
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segal.candidates.regions import RegionSize
from segal.candidates.table import CandidateTable, box_pixels
from segal.functional import overlaps
from segal.functional.overlaps import best_overlaps, weighted_stability
from segal.models.build import make_spec
from segal.signals.localization_stability import LocalizationStability
from segal.strategies.localization_stability import LeastLocalizationStability
from segal.tasks.detection.detectors.functions import CallableDetector
from segal.tasks.detection.model import DetectionModel
from segal.tasks.detection.signals import measured
from tests.tiny_detectors import build
from tests.tiny_detectors import images as noise_images

SPEC = make_spec("tests.tiny_detectors:none", "", ("a", "b"), task="detection")
HEIGHT, WIDTH = 40, 60
WHOLE = RegionSize.parse("image").grid(HEIGHT, WIDTH)
TILES = RegionSize.parse("20").grid(HEIGHT, WIDTH)


def iou(a, b):
    """By the definition, in Python's floats."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    shared = wide * high
    return shared / (areas - shared) if areas > shared else 0.0


def measure(signal, evidence, units, model, seed=0):
    bench = SimpleNamespace(
        model=model, seed=seed, precision="fp32", once=lambda _, compute: compute()
    )
    return measured(signal).prepare(bench).measure(evidence, units)


def evidence_of(model, images, paths=("a.png",)):
    with torch.no_grad():
        evidence = model(images, ("features",) if model.detector.class_layers() else ())
    evidence.inputs, evidence.images = images, tuple(paths)
    return evidence


def replies(*answers):
    """A detector that says one thing after another, and what it is given."""
    left, given = list(answers), []

    def detect(images):
        given.append(images[0].clone())
        boxes, probabilities = left.pop(0)
        return [
            {
                "boxes": torch.tensor(boxes).reshape(-1, 4),
                "probabilities": torch.tensor(probabilities).reshape(-1, 2),
            }
        ]

    return DetectionModel(CallableDetector(detect), SPEC).eval(), given


@pytest.mark.parametrize("module", [overlaps])
def test_examples(module):
    result = doctest.testmod(module)
    assert result.attempted > 0 and result.failed == 0


def test_best_overlaps_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    near, sides = rng.uniform(0, 20, (2, 30, 2)), rng.uniform(0, 9, (2, 30, 2))
    one, other = np.concatenate([near, near + sides], -1)
    other[3, 2:] = other[3, :2]  # without area
    found, index = best_overlaps(torch.from_numpy(one), torch.from_numpy(other))
    for row, (value, at) in enumerate(zip(found.tolist(), index.tolist(), strict=True)):
        values = [iou(one[row], x) for x in other]
        assert value == pytest.approx(max(values), abs=1e-12)
        assert values[at] == pytest.approx(max(values), abs=1e-12)
    twice = torch.tensor([[1.0, 1.0, 1.0, 1.0]] * 2)
    assert best_overlaps(twice, twice) == (pytest.approx([0.0, 0.0]), pytest.approx([0, 0]))
    assert best_overlaps(twice, twice[:0])[0].tolist() == [0, 0]


def test_the_weighted_mean_by_hand():
    value = weighted_stability(torch.tensor([[0.9, 0.0], [0.5, 0.2]]), torch.tensor([0.8, 0.2]))
    assert value.item() == pytest.approx((0.8 * 0.7 + 0.2 * 0.1) / 1.0, abs=1e-7)
    assert weighted_stability(torch.ones(3, 0), torch.ones(0)).item() == 1
    assert weighted_stability(torch.tensor([[0.2, 0.6]]), torch.zeros(2)).item() == pytest.approx(
        0.4
    )


FIRST = ([[0.0, 0.0, 10.0, 10.0], [40.0, 20.0, 50.0, 40.0]], [[0.1, 0.9], [0.3, 0.2]])
MOVED = ([[0.0, 0.0, 10.0, 5.0], [45.0, 20.0, 55.0, 40.0]], [[0.8, 0.1], [0.3, 0.3]])
NOTHING = ([], [])


def test_by_hand_whatever_the_class_and_with_nothing_found_at_a_level():
    model, given = replies(FIRST, MOVED, NOTHING)
    image = torch.zeros(1, 3, HEIGHT, WIDTH)
    evidence = evidence_of(model, image)
    signal = LocalizationStability(levels=2, step=16.0)
    value = measure(signal, evidence, WHOLE, model)
    # Overlaps of 1/2 and 1/3 at one level, none at the other; weights of .9 and .3.
    assert value.shape == (1, 1) and value.dtype == torch.float64
    assert value.item() == pytest.approx((0.9 * 0.5 / 2 + 0.3 / 3 / 2) / 1.2, abs=1e-6)
    assert len(given) == 3
    measure(signal, evidence, TILES, model)  # looks no more
    tiles = measure(signal, evidence, TILES, model)[0].tolist()
    # Tiles without a box are stable.
    assert tiles == pytest.approx([0.25, 1, 1, 1, 1, 1 / 6], abs=1e-6)


def test_noise_is_in_pixel_values_and_grows_by_level():
    model, given = replies(*[FIRST] * 7)
    image = torch.zeros(1, 3, HEIGHT, WIDTH)
    assert measure(LocalizationStability(), evidence_of(model, image), WHOLE, model).item() == 1
    std = torch.tensor(SPEC.std)
    for level, noisy in enumerate(given[1:], 1):
        pixels = noisy.std((1, 2)) * std * 255
        torch.testing.assert_close(pixels, torch.full((3,), 8.0 * level), rtol=0.06, atol=0)
    assert not torch.allclose(given[2], 2 * given[1], atol=0.05), "each level draws its own"


def test_noise_is_of_seed_and_path():
    def noise(seed, path):
        model, given = replies(FIRST, FIRST)
        evidence = evidence_of(model, torch.zeros(1, 3, HEIGHT, WIDTH), [path])
        measure(LocalizationStability(1), evidence, WHOLE, model, seed)
        return given[1]

    assert torch.equal(noise(0, "a.png"), noise(0, "a.png"))
    assert not torch.equal(noise(0, "a.png"), noise(1, "a.png"))
    assert not torch.equal(noise(0, "a.png"), noise(0, "b.png"))


def test_an_image_without_a_box_is_stable_and_takes_no_pass():
    model, given = replies(NOTHING)
    evidence = evidence_of(model, torch.zeros(1, 3, HEIGHT, WIDTH))
    assert measure(LocalizationStability(), evidence, WHOLE, model).item() == 1
    assert len(given) == 1


@torch.no_grad()
def test_against_loops_on_a_detector_and_whatever_the_batch():
    model = build("ssd")
    images = noise_images(2, (64, 80))
    units = RegionSize.parse("image").grid(64, 80)
    signal = LocalizationStability(levels=2)
    together = evidence_of(model, images, ("a.png", "b.png"))
    both = measure(signal, together, units, model)
    found = together.detections[1]
    assert len(found) > 1
    model_given = []
    forward = model.network.transform.forward
    model.network.transform.forward = lambda x, *a: model_given.append(x[0]) or forward(x, *a)
    alone = measure(signal, evidence_of(model, images[1:], ["b.png"]), units, model)
    model.network.transform.forward = forward
    assert torch.equal(both[1], alone[0])
    total = mass = 0.0
    levels = [model(noisy[None]).detections[0].boxes.tolist() for noisy in model_given[1:]]
    for box, p in zip(found.boxes.tolist(), found.probabilities.amax(1).tolist(), strict=True):
        values = [max(iou(box, other) for other in boxes) for boxes in levels]
        total += p * sum(values) / len(values)
        mass += p
    assert len(levels) == 2
    assert both[1].item() == pytest.approx(total / mass, abs=1e-6)
    assert 0 < both[1].item() < 1


def test_the_lowest_are_picked():
    strategy = LeastLocalizationStability(levels=3)
    (signals,) = strategy.passes(None)
    assert [signal.column for signal in signals] == ["localization_stability-3x8"]
    box = np.array([[0, 0, 4, 4]] * 4, np.int32)
    values = {"localization_stability-3x8": np.array([0.4, 0.2, 1.0, 0.2])}
    table = CandidateTable(
        tuple("abcd"), np.arange(4, dtype=np.int32), box, box_pixels(box), values
    )
    picks = strategy.select(table, table, 3, torch.Generator())
    assert picks.rows.tolist() == [1, 3, 0] and picks.scores.tolist() == [0.2, 0.2, 0.4]
