"""Gradients of regions in closed form against autograd through the real network, in float64."""

import copy
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segal.candidates.regions import Boxes, RegionSize
from segal.models.build import build_model, make_spec
from segal.models.spec import ModelSpec
from segal.scanning.workbench import Bench, ScanSettings
from segal.signals import (
    Directional,
    GradientNorm,
    KeptMass,
    Need,
    Pseudo,
    RegionGradient,
    TopK,
    Truncated,
)
from segal.tasks.segmentation.model import SegmentationModel

RULES = (Pseudo(), TopK(2), Truncated(0.21), Truncated(0.3, "paper", "mass"))
HEIGHT, WIDTH = 38, 53
# One on its own, the whole image, a corner, a pixel, and the first again.
BOXES = Boxes(((3, 5, 40, 33), (0, 0, 53, 38), (48, 30, 53, 38), (20, 20, 21, 21), (3, 5, 40, 33)))


@dataclass(frozen=True)
class Fixed:
    """A direction of random numbers."""

    layers: str
    seed: int = 0
    needs: frozenset[Need] = frozenset()

    @property
    def name(self):
        return f"fixed-{self.layers}-{self.seed}"

    def vector(self, bench):
        generator = torch.Generator().manual_seed(self.seed)
        parameters = bench.model.tail(self.layers).parameters
        return {
            n: torch.randn(p.shape, generator=generator, dtype=torch.float64)
            for n, p in parameters.items()
        }


class Kernels(nn.Module):
    """A head with a kernel, stride, padding and dilation of its own."""

    def __init__(self, **head):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, 5, **head)
        self.align_corners = head["kernel_size"] == 3

    def forward(self, images):
        low = self.head(self.body(images).relu())
        return F.interpolate(
            low, images.shape[-2:], mode="bilinear", align_corners=self.align_corners
        )


def wrapped(network):
    names = tuple("abcde")
    return SegmentationModel(
        network.eval(), ModelSpec("made", "", names, (0.5,) * 3, (0.2,) * 3, stride=16)
    ).double()


@pytest.fixture(scope="module")
def deep(model):
    """DeepLabV3+ in float64, with statistics and parameters of BatchNorm that are not trivial."""
    wide = copy.deepcopy(model).double()
    generator = torch.Generator().manual_seed(3)
    norm = wide.network.get_submodule("decoder.block2.1")
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.add_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64))
        wide.head.bias += torch.randn(5, generator=generator, dtype=torch.float64)
        wide.head.weight *= 4
    return wide


def images(count=2, height=HEIGHT, width=WIDTH):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, height, width, generator=generator, dtype=torch.float64)


def prepared(model, *signals):
    bench = Bench(model, None, ScanSettings(torch.device("cpu")))
    return [signal.prepare(bench) for signal in signals], bench


def measured(model, signals, units, x=None):
    """What each signal measures of a batch, as the scan does it."""
    meters, _ = prepared(model, *signals)
    with torch.no_grad():
        evidence = model(images() if x is None else x, {n for m in meters for n in m.catch})
        return [meter.measure(evidence, units) for meter in meters]


def loss_map(logits, rule):
    """(B, H, W) losses with constant label weights; the entropy for None."""
    log = logits.log_softmax(1)
    if rule is None:
        return -(log.exp() * log).sum(1)
    return -(rule.weights(logits.softmax(1).detach()) * log).sum(1)


def by_autograd(model, layers, rule, units, x=None):
    """(B, units, parameters): a backward pass for every region of every image."""
    parameters = list(model.tail(layers).parameters.values())
    for parameter in parameters:
        parameter.requires_grad_(True)
    rows = []
    for image in images() if x is None else x:
        losses = loss_map(model(image[None]).logits, rule)[0]
        for x0, y0, x1, y1 in units.boxes().tolist():
            gradients = torch.autograd.grad(
                losses[y0:y1, x0:x1].mean(), parameters, retain_graph=True
            )
            rows.append(torch.cat([g.flatten() for g in gradients]))
    return torch.stack(rows).unflatten(0, (-1, len(units)))


def assert_close(ours, reference, relative=1e-10):
    scale = reference.abs().amax()
    assert scale > 0
    assert ((ours - reference).abs().amax() / scale) < relative


SIZES = ("16", "8x24", "image", "30")
UNITS = [*(RegionSize.parse(size).grid(HEIGHT, WIDTH) for size in SIZES), BOXES]


@pytest.mark.parametrize("units", UNITS, ids=[*SIZES, "boxes"])
@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_equals_one_backward_pass_per_region(deep, layers, units):
    rules = RULES if layers == "last" else RULES[:1]
    signals = [RegionGradient(layers, rule, bias=True) for rule in rules]
    for ours, rule in zip(measured(deep, signals, units), rules, strict=True):
        assert ours.dtype == torch.float64
        assert_close(ours, by_autograd(deep, layers, rule, units))


def of_smp(architecture, encoder, **options):
    torch.manual_seed(0)
    return build_model(make_spec(architecture, encoder, tuple("abcdef"), options=options)).eval()


@pytest.mark.parametrize("layers", ["last", "last_two"])
@pytest.mark.parametrize("architecture", ["UPerNet", "DPT"])
def test_convolutions_with_kernels_before_the_last(architecture, layers):
    vit = ("tu-vit_tiny_patch16_224", {"dynamic_img_size": True})
    encoder, options = vit if architecture == "DPT" else ("resnet18", {})
    model = of_smp(architecture, encoder, **options).double()
    x, units = images(1), RegionSize.parse("30").grid(HEIGHT, WIDTH)
    (ours,) = measured(model, [RegionGradient(layers, bias=True)], units, x)
    assert_close(ours, by_autograd(model, layers, Pseudo(), units, x))


@pytest.mark.parametrize("layers", ["last", "last_two"])
@pytest.mark.parametrize("architecture", ["Unet", "Linknet"])
def test_float32_is_as_exact_as_the_labels_are_sure(architecture, layers):
    """Of an encoder that was seen 1e-3 off at odd sizes, beside another reference.

    At a tie of two classes rounding decides on the label, and so it may between two ways to run a
    network. A label that turns at one of n pixels moves the mean gradient of a region by 1/n of
    that pixel's own: by 1e-3 of 900 pixels. Where all labels are the same, gradients are 1e-6 from
    those of float64.
    """
    network = of_smp(architecture, "tu-mobilenetv3_small_050")
    exact = copy.deepcopy(network).double()
    x, units = images(1), RegionSize.parse("30").grid(HEIGHT, WIDTH)
    (ours,) = measured(network, [RegionGradient(layers, bias=True)], units, x.float())
    with torch.no_grad():
        labels = [network(x.float()).logits.argmax(1), exact(x).logits.argmax(1)]
    assert torch.equal(*labels)
    assert_close(ours.double(), by_autograd(exact, layers, Pseudo(), units, x), 3e-6)


@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_gradient_norm_is_that_of_the_mean_entropy(deep, layers):
    units = UNITS[0]
    (ours,) = measured(deep, [GradientNorm(layers)], units)
    reference = by_autograd(deep, layers, None, units).norm(dim=-1)
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=0)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 40)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_images_of_a_pixel_and_maps_of_a_cell(size, kernel):
    torch.manual_seed(4)
    network = Kernels(kernel_size=kernel, padding=kernel // 2)
    network.body = nn.Conv2d(3, 6, 16, stride=16)
    model, units = wrapped(network), RegionSize.parse("3").grid(*size)
    x = images(2, *size)
    assert model(x, ["features"]).features.shape[-1] == -(-size[1] // 16)
    gradient, along = measured(
        model, [RegionGradient(bias=True), Directional(Fixed("last"))], units, x
    )
    reference = by_autograd(model, "last", Pseudo(), units, x)
    assert_close(gradient, reference)
    _, bench = prepared(model)
    vector = torch.cat([v.flatten() for v in Fixed("last").vector(bench).values()])
    assert_close(along, reference @ vector)


def test_layers_without_a_closed_form_take_a_backward_pass_per_region(deep):
    layers, x = "decoder.block2", images(2)
    signals = [RegionGradient(layers, TopK(2), bias=True), GradientNorm(layers)]
    for units in (RegionSize.parse("30").grid(HEIGHT, WIDTH), BOXES):
        gradient, norm = measured(deep, signals, units, x)
        assert_close(gradient, by_autograd(deep, layers, TopK(2), units, x))
        reference = by_autograd(deep, layers, None, units, x).norm(dim=-1)
        torch.testing.assert_close(norm, reference, rtol=1e-10, atol=0)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize(
    "head",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": (2, 3), "padding": "same", "bias": False},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (2, 1), "dilation": (2, 3)},
        {"kernel_size": 5, "stride": 3},
    ],
    ids=str,
)
def test_heads_of_any_kernel(head):
    torch.manual_seed(2)
    model = wrapped(Kernels(**head))
    units = RegionSize.parse("30").grid(HEIGHT, WIDTH)
    signals = [RegionGradient(bias=True), Directional(Fixed("last")), GradientNorm()]
    gradient, along, norm = measured(model, signals, units)
    reference = by_autograd(model, "last", Pseudo(), units)
    assert_close(gradient, reference)
    _, bench = prepared(model)
    vector = torch.cat([v.flatten() for v in Fixed("last").vector(bench).values()])
    assert_close(along, reference @ vector)
    entropy = by_autograd(model, "last", None, units)
    torch.testing.assert_close(norm, entropy.norm(dim=-1), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("layers", "rule"),
    [
        *((layers, rule) for layers in ("last", "last_two") for rule in RULES[:3]),
        ("decoder.block2", Pseudo()),
        ("all", Pseudo()),
    ],
    ids=str,
)
def test_directional_is_the_inner_product_with_each_regions_gradient(deep, layers, rule):
    signals = [Directional(Fixed(layers), rule), Directional(Fixed(layers), rule, "sum")]
    _, bench = prepared(deep)
    vector = torch.cat([v.flatten() for v in Fixed(layers).vector(bench).values()])
    x = images(1)
    for units in (UNITS[0], BOXES) if layers != "all" else (UNITS[3],):
        mean, total = measured(deep, signals, units, x)
        reference = by_autograd(deep, layers, rule, units, x) @ vector
        assert_close(mean, reference)
        boxes = torch.from_numpy(units.boxes()).double()
        pixels = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        assert_close(total, reference * pixels)


@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_the_table_route_equals_the_map_route(deep, layers):
    """One direction takes its tangent, several the tiles' gradients, `explain` the map."""
    directions = [Fixed(layers, seed) for seed in range(3)]
    rules = RULES[:2]
    signals = [Directional(d, rule) for rule in rules for d in directions]
    for units in (UNITS[1], UNITS[-1]):
        together = measured(deep, signals, units)
        for ours, signal in zip(together, signals, strict=True):
            (alone,) = measured(deep, [signal], units)
            assert_close(ours, alone, 1e-12)
            (meter,), _ = prepared(deep, signal)
            with torch.no_grad():
                evidence = deep(images(), meter.catch)
                pixels = meter.element_map(evidence)
                assert pixels.shape == (2, HEIGHT, WIDTH)
                sums, counts = units.pool(pixels[:, None])
            assert_close(alone, sums[..., 0] / counts)


def test_rows_of_the_heads_gradient_sum_to_zero_over_the_classes(deep):
    for ours in measured(deep, [RegionGradient("last", rule) for rule in RULES], UNITS[0]):
        by_class = ours.unflatten(-1, (5, -1))
        assert by_class.sum(2).abs().max() < 1e-12 * by_class.abs().max()


def test_without_biases_only_the_weights_are_left(deep):
    with_bias, without = measured(
        deep, [RegionGradient("last", bias=True), RegionGradient("last")], UNITS[0]
    )
    assert torch.equal(with_bias[..., : 5 * 256], without)
    assert with_bias.shape[-1] == 5 * 256 + 5


def test_kept_mass_is_the_mean_of_the_weights(deep):
    units = UNITS[0]
    with torch.no_grad():
        p = deep(images()).logits.softmax(1)
    for rule, ours in zip(RULES, measured(deep, [KeptMass(r) for r in RULES], units), strict=True):
        sums, counts = units.pool(rule.weights(p).sum(1, keepdim=True))
        torch.testing.assert_close(ours, sums[..., 0] / counts, rtol=1e-12, atol=0)


def test_every_number_is_the_same_alone_and_in_a_batch(deep):
    signals = [
        RegionGradient("last"),
        GradientNorm("last_two"),
        Directional(Fixed("last_two"), TopK(2)),
        *(Directional(Fixed("last", seed)) for seed in range(3)),
        KeptMass(Truncated(0.21)),
    ]
    x = images(3)
    together = measured(deep, signals, UNITS[0], x)
    for i in range(3):
        for whole, alone in zip(
            together, measured(deep, signals, UNITS[0], x[i : i + 1]), strict=True
        ):
            assert_close(whole[i : i + 1], alone, 1e-12)


def test_sizes_that_nest_share_their_tiles_and_differ_by_rounding_only(deep):
    x = images(1, 130, 200)
    sizes = [RegionSize.parse(size).grid(130, 200) for size in ("128", "64", "image")]
    signals = [RegionGradient("last"), Directional(Fixed("last_two"))]
    meters, _ = prepared(deep, *signals)
    with torch.no_grad():
        evidence = deep(x, ("last", "last_two"))
        for units in sizes:
            for meter, alone in zip(meters, measured(deep, signals, units, x), strict=True):
                assert_close(meter.measure(evidence, units), alone, 1e-12)
