"""Detection's signals: boxes are elements, and tiles hold the boxes whose centre they hold."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from segal.candidates.regions import Boxes, RegionSize
from segal.functional import uncertainty
from segal.functional.divergence import class_profile
from segal.signals import MeanFeature, Value
from segal.signals.class_profiles import ClassProfiles
from segal.tasks.detection.evidence import DetectionEvidence, Detections
from segal.tasks.detection.signals import measured
from segal.tasks.detection.signals.elements import OfBoxes, Slices

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


def measure(signal, evidence, units, model=None, seed=0):
    return measured(signal).prepare(bench_of(model, seed)).measure(evidence, units)


def holding(found, tile):
    """Numbers of the boxes whose centre lies in a tile, by a loop."""
    x0, y0, x1, y1 = tile
    centres = [((a + c) / 2, (b + d) / 2) for a, b, c, d in found.boxes.double().tolist()]
    return [i for i, (x, y) in enumerate(centres) if x0 <= x < x1 and y0 <= y < y1]


def entropy_of(probabilities):
    p = probabilities.double() / probabilities.double().sum()
    return float(-(p * p.log()).sum())


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
