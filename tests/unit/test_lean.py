"""Passes over large images: the same numbers as the network's own way, and less held."""

import numpy as np
import pytest
import torch
from torch import nn

from segal.candidates.regions import RegionSize
from segal.models import noise
from segal.models.build import build_model, make_spec
from segal.models.dropout import dropout_passes
from segal.models.spec import ModelSpec
from segal.models.wrapped import FEATURES
from segal.signals import MeanFeature, Value
from segal.tasks.segmentation import lean
from segal.tasks.segmentation import model as segmentation
from segal.tasks.segmentation.model import SegmentationModel

CLASSES = tuple(f"class {i}" for i in range(5))


def network_of(architecture, encoder="resnet18"):
    torch.manual_seed(0)
    model = build_model(make_spec(architecture, encoder, CLASSES))
    for module in model.modules():  # so that layers are told apart
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
    return model.eval()


def spec_of(classes, stride=1):
    return ModelSpec("own", "", classes, (0.5,) * 3, (0.5,) * 3, stride)


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(segmentation, "LARGE", 1)
    monkeypatch.setattr(noise, "_SIDES", (64,))  # a run that fails is tried at every side
    monkeypatch.setattr(lean, "_BAND_BYTES", 40_000)  # a few rows
    monkeypatch.setattr(lean, "_SPREAD_BYTES", 40_000)


def both(model, images, catch, monkeypatch):
    with torch.no_grad():
        found = model(images, catch)
        with monkeypatch.context() as plain:
            plain.setattr(segmentation, "LARGE", 1 << 40)
            expected = model(images, catch)
    return found, expected


@pytest.mark.parametrize(
    ("architecture", "encoder", "radius"),
    [
        ("DeepLabV3Plus", "resnet18", 1),
        pytest.param("Unet", "mobilenet_v2", 3, marks=pytest.mark.slow),
        pytest.param("FPN", "resnet18", 0, marks=pytest.mark.slow),
        ("Linknet", "resnet18", None),
    ],
)
def test_same_as_the_networks_own_way(architecture, encoder, radius, small_is_large, monkeypatch):
    model = network_of(architecture, encoder)
    images = torch.randn(2, 3, 70, 107, generator=torch.Generator().manual_seed(1))
    found, expected = both(model, images, (FEATURES,), monkeypatch)
    assert model._lean is not None
    if radius is not None:
        assert model._lean[0].radius == radius
    for value in (Value("entropy"), Value("margin")):
        torch.testing.assert_close(
            value.element_map(found), value.element_map(expected), rtol=1e-5, atol=1e-6
        )
    torch.testing.assert_close(found.caught, expected.caught, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    grid = RegionSize.parse("32").grid(70, 107)
    torch.testing.assert_close(
        MeanFeature().measure(found, grid), MeanFeature().measure(expected, grid), rtol=1e-5, atol=0
    )


def test_deeplab_takes_the_lean_way_whole(small_is_large):
    model = network_of("DeepLabV3Plus")
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    found = model._lean[0]
    assert [type(layer) for layer in found.layers] == [
        *(nn.Conv2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d)
    ]
    assert found.join is not None  # the concatenation is never made
    assert {0, 1} <= found.spare  # nor are the image and the largest map kept


def test_scores_never_hold_logits_at_full_resolution(small_is_large, monkeypatch):
    model = network_of("DeepLabV3Plus")
    monkeypatch.setattr(lean.SpreadLogits, "whole", lambda _: pytest.fail("made whole"))
    with torch.no_grad():
        evidence = model(torch.randn(1, 3, 64, 96), (FEATURES,))
    grid = RegionSize.parse("32").grid(64, 96)
    assert torch.isfinite(Value("entropy").measure(evidence, grid)).all()
    assert torch.isfinite(MeanFeature().measure(evidence, grid)).all()


@pytest.mark.parametrize("corners", [True, False])
@pytest.mark.parametrize(
    ("cells", "pixels"), [((5, 7), (20, 28)), ((9, 9), (9, 9)), ((1, 3), (16, 5))]
)
def test_bands_are_rows_of_the_whole(corners, cells, pixels, monkeypatch):
    low = torch.randn(2, 3, *cells, generator=torch.Generator().manual_seed(2))
    size = (pixels[0] - 1, pixels[1] - 2)
    logits = lean.SpreadLogits(low, segmentation.Upsampling(pixels, corners), size)
    monkeypatch.setattr(lean, "_SPREAD_BYTES", 4 * 2 * 3 * size[1] * 3)  # three rows
    bands = list(logits.bands())
    assert len(bands) == -(-size[0] // 3)
    torch.testing.assert_close(torch.cat(bands, 2), logits.whole(), rtol=1e-6, atol=1e-6)


def test_one_output_for_two_classes(small_is_large, monkeypatch):
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1)),
    )
    model = SegmentationModel(network, spec_of(("no", "yes"))).eval()
    images = torch.randn(1, 3, 40, 50)
    found, expected = both(model, images, (FEATURES,), monkeypatch)
    assert model._lean[0] is not None
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.caught, expected.caught)
    kept = images.clone()
    with torch.no_grad():
        model(images, (FEATURES,))
    assert torch.equal(images, kept)  # what others hold is not written over


def test_a_network_that_sees_far_runs_its_own_way(small_is_large):
    class Far(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Conv2d(3, 2, 21, padding=10)

        def forward(self, x):
            return self.last(x)

    model = SegmentationModel(Far(), spec_of(("no", "yes"))).eval()
    with torch.no_grad():
        evidence = model(torch.randn(1, 3, 40, 50), (FEATURES,))
    assert model._lean == (None,)
    assert evidence.logits.shape == (1, 2, 40, 50)


def test_gradients_take_the_networks_own_way(small_is_large):
    model = network_of("DeepLabV3Plus").train()
    model(torch.randn(2, 3, 64, 64)).logits.sum().backward()
    assert model._lean is None


def test_a_users_own_uncertainty_sees_all_logits(small_is_large, monkeypatch):
    model = network_of("DeepLabV3Plus")
    monkeypatch.setattr("segal.functional.uncertainty.whole", _spatial, raising=False)
    with torch.no_grad():
        evidence = model(torch.randn(1, 3, 64, 96))
    name = "segal.functional.uncertainty:whole"
    expected = _spatial(evidence.logits)
    torch.testing.assert_close(Value(name).element_map(evidence), expected)


def _spatial(logits):
    return logits.amax((1, 2, 3), keepdim=True)[:, 0].expand(-1, *logits.shape[2:])


class Small(nn.Module):
    """Two convolutions and a concatenation between them, for networks that do something odd."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.mixed = nn.Conv2d(19, 8, 1)
        self.last = nn.Conv2d(8, 5, 1)

    def join(self, *maps):
        return torch.cat(maps, 1)

    def forward(self, x):
        return self.last(self.mixed(self.join(torch.relu(self.first(x)), x)))


class Tiled(Small):
    def forward(self, x):
        return torch.cat([super(Tiled, self).forward(part) for part in x.split(256, 3)], 3)


class ByKeyword(Small):
    def join(self, *maps):
        return torch.cat(tensors=maps, dim=1)


class Remembers(Small):
    def __init__(self):
        super().__init__()
        self.remembered = {}

    def join(self, first, x):
        size = tuple(x.shape)
        if size not in self.remembered:
            generator = torch.Generator().manual_seed(0)
            self.remembered[size] = torch.randn(first.shape, generator=generator)
        return torch.cat([self.remembered[size], x], 1)


@pytest.mark.parametrize("kind", [Tiled, ByKeyword, Remembers])
def test_networks_that_do_something_odd(kind, small_is_large, monkeypatch):
    torch.manual_seed(0)
    model = SegmentationModel(kind(), spec_of(CLASSES)).eval()
    images = torch.randn(1, 3, 20, 400)
    for _ in range(2):  # what is held until the next pass is not written over
        found, expected = both(model, images, (FEATURES,), monkeypatch)
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.caught, expected.caught)
    assert (model._lean[0] is None) == (kind is Tiled)


@pytest.mark.parametrize(("kind", "written"), [(Small, True), (Remembers, False)])
def test_features_take_the_place_of_what_they_are_made_of(
    kind, written, small_is_large, monkeypatch
):
    free = []
    room = lean._room
    monkeypatch.setattr(lean, "_room", lambda *a: free.extend(a[2]) or room(*a))
    with torch.no_grad():
        images = torch.randn(1, 3, 20, 40)
        SegmentationModel(kind(), spec_of(CLASSES)).eval()(images, (FEATURES,))
    assert free[-2:] == [written, False]  # the images are not the network's to write over


def test_a_mask_of_dropout_is_of_a_whole_map(small_is_large, monkeypatch):
    torch.manual_seed(0)
    model = build_model(make_spec("DeepLabV3Plus", "resnet18", CLASSES, insert_dropout=0.5)).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        model(images)
    assert model._lean[0] is not None

    def passed():
        with dropout_passes(model) as run:
            return run(images, lambda name: np.random.default_rng(len(name)))

    found = passed()
    monkeypatch.setattr(segmentation, "LARGE", 1 << 40)
    torch.testing.assert_close(found, passed())
