"""Tails: what is found on small networks, and what is not."""

import pytest
import torch
from torch import nn

from segal.errors import SegalError
from segal.models.build import make_spec
from segal.tasks.segmentation.model import SegmentationModel

CLASSES = ("road", "car", "sky")


class Network(nn.Module):
    """A body, and between it and the head what a test is about."""

    def __init__(self, between, width=6, head=None):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.between = between
        self.head = head or nn.Conv2d(width, len(CLASSES), 1)
        self.up = nn.UpsamplingBilinear2d(scale_factor=4)
        self.runs = 0

    def forward(self, images):
        self.runs += 1
        return self.up(self.head(self.between(self.body(images))))


class Function(nn.Module):
    """A function of a module's output and its input, as residual blocks are."""

    def __init__(self, inner, function):
        super().__init__()
        self.inner = inner
        self.function = function

    def forward(self, x):
        return self.function(self.inner(x), x)


def wrapped(network):
    torch.manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d) and layer.affine:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    return SegmentationModel(network, make_spec("tests:network", class_names=CLASSES)).eval()


def check(model, layers):
    """The tail gives the logits; its tangent is the limit of a difference."""
    tail = model.tail(layers)
    images = torch.randn(2, 3, 37, 50, generator=torch.Generator().manual_seed(1)).double()
    model.double()
    with torch.no_grad():
        evidence = model(images, (layers,))
        given = evidence.tail_input[layers]
        before = given.clone()

        def logits(parameters):
            return tail(given, parameters, (37, 50), evidence.upsampling)

        torch.testing.assert_close(logits(tail.parameters), evidence.logits)
        direction = {name: torch.randn_like(value) for name, value in tail.parameters.items()}
        step = 1e-6
        ahead, behind = (
            logits({k: v + sign * step * direction[k] for k, v in tail.parameters.items()})
            for sign in (1, -1)
        )
        low = tail.tangent(given, direction)
        tangent = tail.upsample(low, (37, 50), evidence.upsampling)
        # A ReLU may turn within a step at a pixel or two.
        far = ((ahead - behind) / (2 * step) - tangent).abs() > 1e-6 * (1 + tangent.abs())
        assert far.double().mean() < 0.01
        assert torch.equal(given, before), "the tail's input is left as it was"
    return tail


def names(tail):
    return sorted(tail.parameters)


CHAINS = {
    "nothing": [],
    "norm": [nn.BatchNorm2d(6)],
    "norm without affine": [nn.BatchNorm2d(6, affine=False)],
    "relu": [nn.ReLU()],
    "relu in place": [nn.BatchNorm2d(6), nn.ReLU(inplace=True)],
    "dropout": [nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Dropout2d(0.5, inplace=True)],
    "identities": [nn.Identity(), nn.BatchNorm2d(6), nn.ReLU(), nn.Identity(), nn.Dropout(0.3)],
}


@pytest.mark.parametrize("between", CHAINS.values(), ids=CHAINS)
def test_closed_form(between):
    model = wrapped(Network(nn.Sequential(nn.Conv2d(6, 6, 1), *between)))
    tail = check(model, "last_two")
    affine, number = tail.affine, int(names(tail)[-1].split(".")[0])
    assert names(tail) == ["0.bias", "0.weight", f"{number}.bias", f"{number}.weight"]
    assert affine.pointwise is model.network.between[0]
    assert affine.head is model.head
    assert (affine.pointwise_prefix, affine.head_prefix) == ("0.", f"{number}.")
    assert affine.rectified == any(isinstance(layer, nn.ReLU) for layer in between)
    x = torch.randn(1, 6, 3, 4).double()
    for norm in (layer for layer in between if isinstance(layer, nn.BatchNorm2d)):
        scale, shift = (part[:, None, None] for part in (affine.scale, affine.shift))
        torch.testing.assert_close(norm(x), x * scale + shift)
        break
    else:
        assert affine.scale is affine.shift is None


class Standardised(nn.Conv2d):
    """As of networks with group normalisation: the weights are not what is multiplied."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(x, weight, self.bias)


class NormAndActivation(nn.BatchNorm2d):
    """As of timm: a BatchNorm by its type."""

    def forward(self, x):
        return super().forward(x).relu()


class Shifted(nn.ReLU):
    def forward(self, x):
        return super().forward(x + 1)


GENERAL = {
    "standardised": nn.Sequential(Standardised(6, 6, 1), nn.ReLU()),
    "norm and activation": nn.Sequential(nn.Conv2d(6, 6, 1), NormAndActivation(6)),
    "no ReLU": nn.Sequential(nn.Conv2d(6, 6, 1), Shifted()),
    "relu6": nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU6()),
    "3x3": nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()),
    "groups": nn.Sequential(nn.Conv2d(6, 6, 1, groups=2), nn.ReLU()),
    "strides": nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(6, 6, 1, stride=2)),
    "sigmoid": nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Sigmoid()),
    "group norm": nn.Sequential(nn.Conv2d(6, 6, 1), nn.GroupNorm(2, 6), nn.ReLU(inplace=True)),
    "relu first": nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(), nn.BatchNorm2d(6)),
    "batch statistics": nn.Sequential(
        nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, track_running_stats=False)
    ),
    "transposed": nn.Sequential(nn.ConvTranspose2d(6, 6, 3, padding=1), nn.ReLU()),
}


@pytest.mark.parametrize("between", GENERAL.values(), ids=GENERAL)
def test_general_route(between):
    tail = check(wrapped(Network(between)), "last_two")
    assert tail.affine is None
    assert len(tail.parameters) == 4, "normalisation is not among the two convolutions"


@pytest.mark.parametrize(
    ("options", "by_hand"),
    [
        ({"kernel_size": 1, "bias": False}, True),
        ({"kernel_size": 3, "padding": 1}, True),
        ({"kernel_size": 3, "padding": "same", "dilation": 2, "groups": 3}, True),
        ({"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}, False),
    ],
)
def test_heads(options, by_hand):
    head = nn.Conv2d(6, len(CLASSES), **options)
    tail = check(wrapped(Network(nn.ReLU(inplace=True), head=head)), "last")
    assert (tail.affine is not None) == by_hand
    assert len(tail.parameters) == 1 + (head.bias is not None)


BROKEN = {
    "sum": lambda y, x: y + x,
    "sum in place": lambda y, x: y.add_(x),
    "concatenation": lambda y, x: torch.cat([y, x], 1),
    "function": lambda y, x: y.relu(),
}


@pytest.mark.parametrize("function", BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_chain_is_told(function):
    """In-place sums give the same tensor back, and must not pass for the convolution's output."""
    width = 12 if function is BROKEN["concatenation"] else 6
    after = nn.Sequential(Function(nn.Conv2d(6, 6, 1), function), nn.ReLU(inplace=True))
    model = wrapped(Network(after, width))
    with pytest.raises(SegalError) as caught:
        model.tail("last_two")
    text = str(caught.value)
    assert "no tail 'last_two'" in text
    assert "head (Conv2d) <- between.1 (ReLU) <- what no single module made" in text
    assert "such as between.0.inner" in text
    tail = check(model, "between.0.inner")
    assert tail.replays
    assert names(tail) == [
        "network.between.0.inner.bias",
        "network.between.0.inner.weight",
        "network.head.bias",
        "network.head.weight",
    ]
    # The block around the function is a chain of modules again.
    assert not check(model, "between.0").replays


def test_a_module_of_several_inputs_breaks_the_chain():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a + b

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.sum = nn.Conv2d(6, 6, 1), Sum()

        def forward(self, x):
            return self.sum(self.conv(x), x)

    model = wrapped(Network(Block()))
    with pytest.raises(SegalError, match=r"between.sum \(Sum\) <- what no single module"):
        model.tail("last_two")
    assert check(model, "between.conv").replays


def test_an_input_that_is_changed_later():
    """What a hook catches would not be what the module was given."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(6, 6, 1)

        def forward(self, x):
            out = self.conv(x)
            x.zero_()
            return out

    model = wrapped(Network(Block()))
    assert check(model, "last_two").replays
    assert check(model, "between").replays
    model = wrapped(Network(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU(inplace=True))))
    assert check(model, "between.1").replays


def test_a_module_that_runs_twice():
    conv = nn.Conv2d(6, 6, 1)
    model = wrapped(Network(nn.Sequential(conv, nn.ReLU(), conv)))
    tail = check(model, "between.0")
    assert tail.replays
    assert len(tail.parameters) == 4


def test_a_convolution_that_also_runs_before_the_tail():
    """Its parameters come into the logits twice: what runs it once would miss a part."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.other = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

        def forward(self, x):
            return self.conv(self.other(self.conv(x).sigmoid()) + x)

    model = wrapped(Network(Block()))
    tail = check(model, "last_two")
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(2)).double()
    direction = {name: torch.ones_like(value) for name, value in tail.parameters.items()}
    evidence = model(images, ("last_two",))
    low = tail.tangent(evidence.tail_input["last_two"], direction)
    tangent = tail.upsample(low, (32, 32), evidence.upsampling)
    gradients = torch.autograd.grad(evidence.logits.sum(), list(tail.parameters.values()))
    torch.testing.assert_close(tangent.sum(), sum(g.sum() for g in gradients))
    assert not model.tail("between.other").affine
    assert model.tail("between.other").replays


def test_weights_that_a_hook_makes_have_no_closed_form():
    conv = nn.utils.spectral_norm(nn.Conv2d(6, 6, 1))
    tail = check(wrapped(Network(nn.Sequential(conv, nn.ReLU()))), "last_two")
    assert tail.affine is None
    assert "0.weight_orig" in tail.parameters


def test_named_modules():
    between = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
    model = wrapped(Network(between))
    for layers, module, count in (("between", 0, 6), ("between.1", 1, 4), ("head", None, 2)):
        tail = check(model, layers)
        assert (tail.name, len(tail.parameters), tail.replays) == (layers, count, False)
        assert (tail.affine is not None) == (layers == "head")
        assert tail.source is (model.head if module is None else between[module]) or (
            tail.source is between
        )
    everything = check(model, "all")
    assert len(everything.parameters) == len(list(model.network.parameters()))
    assert everything.source is model.network


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("last_tow", "did you mean 'last_two'"),
        ("betwen", "did you mean 'between'"),
        ("", "no tail ''"),
        ("up", "is not run before the last layer"),
        ("between.spare", "is not run before the last layer"),
    ],
)
def test_names_that_lead_nowhere(layers, message):
    class Spare(nn.Identity):
        def __init__(self):
            super().__init__()
            self.spare = nn.Conv2d(1, 1, 1)

    with pytest.raises(SegalError, match=message):
        wrapped(Network(Spare())).tail(layers)


def test_found_when_asked_for_and_once():
    network = Network(nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.Dropout(0.5)))
    model = wrapped(network).train()
    network.between[1].eval()
    assert network.runs == 0, "nothing is asked before it is needed"
    model.tail("last"), model.tail("all")
    assert network.runs == 1, "to find the head"
    statistics = network.between[1].running_mean.clone()
    assert model.tail("last_two") is model.tail("last_two")
    assert network.runs == 2
    assert torch.equal(network.between[1].running_mean, statistics)
    modes = [layer.training for layer in network.between]
    assert (network.training, modes) == (True, [True, False, True]), "modes are left as they were"


class TwoHeads(nn.Module):
    """As torchvision's: a dictionary, and a head that is not asked."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.head, self.aux = (nn.Conv2d(6, len(CLASSES), 1) for _ in range(2))

    def forward(self, images):
        x = self.body(images)
        size = images.shape[-2:]
        low = {"out": self.head(x), "aux": self.aux(x)}
        return {k: nn.functional.interpolate(v, size, mode="bilinear") for k, v in low.items()}


def test_the_head_of_a_network_that_gives_nothing_yet():
    """Logits that are the same at every pixel do not tell how they were upsampled."""
    network = TwoHeads()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    model = wrapped(network)
    assert (model.head, model.align_corners) == (network.head, False)


def test_parameters_follow_the_network():
    model = wrapped(Network(nn.Sequential(nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6), nn.ReLU())))
    tail = model.tail("last_two")
    model.load_state_dict({k: v * 0 + 2 for k, v in model.state_dict().items()})
    model.double()
    assert all(
        (value == 2).all() and value.dtype == torch.float64 for value in tail.parameters.values()
    )
    assert tail.affine.scale.dtype == torch.float64


def test_dtypes_of_a_tangent():
    """A pass in half precision and a direction in float64: both become the parameters' dtype."""
    model = wrapped(Network(nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())))
    for layers in ("last", "last_two", "between", "all"):
        tail = model.tail(layers)
        direction = {k: torch.randn_like(v).double() for k, v in tail.parameters.items()}
        with torch.no_grad():
            evidence = model(torch.randn(1, 3, 32, 32), (layers,))
            given, features = evidence.tail_input[layers], evidence.features
        halves = given.bfloat16(), direction, features.bfloat16()
        low = tail.tangent(*halves)
        assert low.dtype == torch.float32
        assert not low.requires_grad
        floats = {k: v.float() for k, v in direction.items()}
        assert torch.equal(low, tail.tangent(halves[0].float(), floats, halves[2].float()))


def test_a_direction_of_other_layers():
    tail = wrapped(Network(nn.ReLU())).tail("last")
    with pytest.raises(SegalError, match="a direction of other parameters"):
        tail.tangent(torch.zeros(1, 6, 4, 4), {"weight": torch.zeros(3, 6, 1, 1)})
    with pytest.raises(SegalError, match=r"bias \(4,\)"):
        tail.tangent(
            torch.zeros(1, 6, 4, 4),
            {"weight": torch.zeros(3, 6, 1, 1), "bias": torch.zeros(4)},
        )
