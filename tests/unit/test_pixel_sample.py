"""Pixels that are kept with the cells that they depend on, and the functions that work on them."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segal.data.image_sets import ImageSet
from segal.functional import updates
from segal.functional.pooling import interpolation_matrix
from segal.functional.updates import (
    column_strips,
    interval_windows,
    linear_steps,
    loss_change,
    pixel_windows,
    receptive_radius,
    sgd_steps,
)
from segal.models.build import build_model, make_spec
from segal.signals.pixel_sample import SampleSize, draw_sites, planned_bytes
from segal.signals.pixels import tail_radius

LIKE = torch.zeros(0, dtype=torch.float64)


# Windows


@pytest.mark.parametrize(
    ("layers", "radius"),
    [
        ([nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)], 0),
        ([nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1)], 2),
        ([nn.Conv2d(3, 4, 3, padding=6, dilation=6)], 6),
        ([nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4)], None),
        ([nn.Conv2d(3, 4, 3, stride=2, padding=1)], None),
    ],
)
def test_radius(layers, radius):
    network = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        assert receptive_radius(network, 3, LIKE) == radius


def test_layers_that_need_whole_images_have_no_radius():
    model = build_model(make_spec("DeepLabV3Plus", "resnet18", ("a", "b"))).eval()
    assert tail_radius(model.tail("all"), 3) is None
    assert tail_radius(model.tail("decoder.block2"), 304) == 1


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(4, 2, 31)],  # wider than the map that is tried
        [nn.Conv2d(4, 2, 1), nn.AvgPool2d(16), nn.InstanceNorm2d(2)],  # of one cell
    ],
)
def test_layers_that_do_not_take_a_small_map_have_no_radius(layers):
    tail = build_model(make_spec("DeepLabV3Plus", "resnet18", ("a", "b"))).eval().tail("last")
    module = nn.Sequential(*layers).eval()
    tail = dataclasses.replace(tail, module=module, parameters=dict(module.named_parameters()))
    assert tail_radius(tail, 4) is None


@settings(max_examples=40, deadline=None)
@given(
    cells=st.integers(1, 12),
    pixels=st.integers(1, 40),
    radius=st.integers(0, 3),
    corners=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_pixel_window_holds_all_that_the_pixel_depends_on(cells, pixels, radius, corners, seed):
    matrix = interpolation_matrix(cells, pixels, corners)
    values = torch.rand(cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    every = torch.arange(pixels)
    windows, weights = pixel_windows(matrix, every, radius)
    torch.testing.assert_close((values[windows] * weights).sum(1), matrix @ values)
    for pixel, window, weight in zip(every, windows, weights, strict=True):
        assert window[0] >= 0
        assert window[-1] < cells
        assert torch.equal(window, window[0] + torch.arange(len(window)))
        # Where a window is cut, and does not end with the map, the radius is kept.
        used = window[weight != 0]
        assert window[0] == 0 or used.min() - window[0] >= radius
        assert window[-1] == cells - 1 or window[-1] - used.max() >= radius
        assert set(matrix[pixel].nonzero()[:, 0].tolist()) == set(used.tolist())


@settings(max_examples=40, deadline=None)
@given(
    cells=st.integers(1, 12),
    step=st.integers(1, 15),
    pixels=st.integers(1, 40),
    radius=st.integers(0, 3),
    corners=st.booleans(),
)
def test_interval_windows_are_of_one_size_and_hold_the_interval(
    cells, step, pixels, radius, corners
):
    matrix = interpolation_matrix(cells, pixels, corners)
    intervals = [(a, min(a + step, pixels)) for a in range(0, pixels, step)]
    first, weights = interval_windows(matrix, intervals, radius)
    values = torch.arange(cells, dtype=torch.float64).cos()
    size = weights.shape[2]
    for i, (start, stop) in enumerate(intervals):
        window = values[first[i] : first[i] + size]
        assert len(window) == size
        torch.testing.assert_close(
            weights[i, : stop - start] @ window, (matrix @ values)[start:stop]
        )
        assert not weights[i, stop - start :].any()
        used = matrix[start:stop].any(0).nonzero()[:, 0]
        assert first[i] == 0 or used.min() - first[i] >= radius
        end = first[i] + size - 1
        assert end == cells - 1 or end - used.max() >= radius


# Steps and changes


def test_steps_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (20,), generator=generator)
    network = nn.Linear(3, 4).double()
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    kept = {name: value.clone() for name, value in start.items()}

    def loss(p):
        return F.cross_entropy(x @ p["weight"].T + p["bias"], y)

    got = sgd_steps(loss, start, 5, 0.3)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.3)
    for _ in range(5):
        optimiser.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimiser.step()
    for name, expected in network.named_parameters():
        torch.testing.assert_close(got[name], expected.detach())
        assert torch.equal(start[name], kept[name])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("scale", [1.0, 500.0], ids=["near", "far"])
@pytest.mark.parametrize("strip", [1, 1 << 16], ids=["strips", "whole"])
def test_linear_steps_are_those_of_torch(bias, scale, strip, monkeypatch):
    """A real layer, a real upsampling and a real optimiser; outputs far apart overflow exp."""
    monkeypatch.setattr(updates, "_STRIP", strip)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (19, 31), generator=generator)
    layer = nn.Conv2d(5, 3, 1, bias=bias).double()
    with torch.no_grad():
        layer.weight.normal_(std=scale, generator=generator)
    weight = layer.weight.detach().flatten(1).clone()
    start = None if layer.bias is None else layer.bias.detach().clone()
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.3)
    for _ in range(3):
        optimiser.zero_grad()
        outputs = F.interpolate(layer(features[None]), labels.shape, mode="bilinear")
        F.cross_entropy(outputs, labels[None]).backward()
        optimiser.step()
    rows, columns = interpolation_matrix(4, 19, False), interpolation_matrix(6, 31, False)
    kept = weight.clone()
    strips = column_strips(columns, 3 * 19)
    got = linear_steps(features, labels, rows, strips, weight, start, 3, 0.3)
    assert torch.equal(weight, kept)
    moved = (layer.weight.detach().flatten(1) - kept).abs().max()
    assert float(moved) > 0.01
    torch.testing.assert_close(got[0], layer.weight.detach().flatten(1), rtol=1e-10, atol=1e-12)
    assert (got[1] is None) == (layer.bias is None)
    if layer.bias is not None:
        torch.testing.assert_close(got[1], layer.bias.detach(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e-2, 1.0, 30.0, 800.0])
def test_loss_change_is_the_difference_of_the_losses(scale):
    generator = torch.Generator().manual_seed(1)
    before = 5 * torch.randn(50, 4, generator=generator, dtype=torch.float64)
    change = scale * torch.randn(3, 50, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (50,), generator=generator)
    got = loss_change(before, before + change, labels)
    for row, moved in zip(got, before + change, strict=True):
        expected = F.cross_entropy(moved, labels, reduction="none")
        expected -= F.cross_entropy(before, labels, reduction="none")
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-13)


def test_loss_change_of_a_certain_pixel_is_not_lost_in_float32():
    before = torch.tensor([[30.0, 0.0, -1.0]])
    after = before + torch.tensor([[0.0, 0.25, 0.0]])
    label = torch.tensor([0])
    assert F.cross_entropy(after, label) == F.cross_entropy(before, label) == 0
    exact = loss_change(before.double(), after.double(), label)
    assert float(exact) > 0
    torch.testing.assert_close(loss_change(before, after, label).double(), exact, rtol=1e-5, atol=0)


# Sampling


@dataclasses.dataclass(frozen=True)
class FakePool:
    paths: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]

    def __len__(self):
        return len(self.paths)

    def size(self, index):
        return self.sizes[index]

    shape = size


@dataclasses.dataclass(frozen=True)
class FakeDataset:
    labels: tuple

    def read_label(self, index):
        return self.labels[index]


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    labels = [rng.choice([0, 1, 2, 255], (h, 30), p=[0.6, 0.3, 0.002, 0.098]) for h in (20, 25)]
    labels = tuple(label.astype(np.uint8) for label in labels)
    pool = FakePool(("a.png", "b.png"), tuple(label.shape for label in labels))
    return ImageSet(pool, FakeDataset(labels))


def drawn(images, size, seed=0):
    return draw_sites(images, size, torch.Generator().manual_seed(seed))


def test_a_sample_is_of_labelled_pixels_each_once_with_their_classes(images):
    for size in (SampleSize(100), SampleSize(None, 40), SampleSize(10**6)):
        for image, (position, label) in drawn(images, size).items():
            truth = images.label(images.pool.paths.index(image)).flatten()
            assert len(set(position.tolist())) == len(position)
            assert torch.equal(position, position.sort().values)
            assert np.array_equal(truth[position.numpy()], label.numpy())
            assert (label != 255).all()


def test_sample_sizes(images):
    truth = np.concatenate([images.label(i).flatten() for i in range(2)])
    assert sum(len(p) for p, _ in drawn(images, SampleSize(100)).values()) == 100
    everything = sum(len(p) for p, _ in drawn(images, SampleSize(10**6)).values())
    assert everything == (truth != 255).sum()
    classes = torch.cat([label for _, label in drawn(images, SampleSize(None, 40)).values()])
    expected = np.minimum(np.bincount(truth[truth != 255], minlength=3), 40)
    assert torch.bincount(classes, minlength=3).tolist() == expected.tolist()
    assert 0 < expected[2] < 40  # the rare class has fewer


def test_every_pixel_is_as_likely_as_any_other(images):
    counts = np.zeros(20 * 30 + 25 * 30)
    for seed in range(400):
        for image, (position, _) in drawn(images, SampleSize(120), seed).items():
            counts[position.numpy() + (600 if image == "b.png" else 0)] += 1
    truth = np.concatenate([images.label(i).flatten() for i in range(2)])
    labelled = counts[truth != 255]
    assert (counts[truth == 255] == 0).all()
    expected = 400 * 120 / len(labelled)
    chi_square = ((labelled - expected) ** 2 / expected).sum() / len(labelled)
    assert 0.8 < chi_square < 1.1  # a little below 1: without replacement


def test_a_sample_depends_on_the_seed_alone(images):
    first, again, other = (drawn(images, SampleSize(50), seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[k][0], again[k][0]) for k in first)
    assert any(not torch.equal(first[k][0], other[k][0]) for k in first if k in other)


def test_what_is_bought_is_left_out_of_the_pool(images):
    pool = ImageSet(images.pool, outside={0: [(0, 0, 30, 10)]})
    for image, (position, label) in drawn(pool, SampleSize(10**6)).items():
        assert len(position) == (300 if image == "a.png" else 750)
        assert position.min() == (300 if image == "a.png" else 0)
        assert not label.any()


def test_planned_bytes_grow_with_what_is_kept():
    shape = {"inputs": (304, 90, 120), "pixels": 360 * 480, "classes": 11}
    exact = planned_bytes(SampleSize(None), images=101, **shape)
    assert exact > 101 * (304 * 90 * 120 + 11 * 360 * 480) * 4
    sample = planned_bytes(SampleSize(2000), images=101, **shape)
    assert sample > 2000 * 304 * 4 * 4
    assert planned_bytes(SampleSize(4000), images=101, **shape) == 2 * sample
    every = planned_bytes(SampleSize(360 * 480), images=1, **shape)
    assert planned_bytes(SampleSize(10**9), images=1, **shape) == every
    assert planned_bytes(SampleSize(None, 10), images=1, **shape) < sample
