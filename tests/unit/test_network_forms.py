"""Networks as people have them: what they return, what they take, what they have not."""

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.jobs.strategies import check_network
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import save_checkpoint
from segal.models.dropout import check_dropout, dropout_passes, insert_dropout
from segal.models.outputs import logits_of
from segal.models.wrapped import FEATURES, NoHeadError
from segal.signals import Directional, GradientNorm, RegionGradient, Value
from segal.signals.directions import ReferenceGradient
from segal.signals.dropout import drawn
from segal.strategies import STRATEGIES
from segal.tasks.segmentation.model import SegmentationModel
from tests.float64_network import make_bench, make_pool, make_sets
from tests.form_networks import FORMS, Headless, Network, Odd, OfTransformers

CLASSES = ("road", "car", "sky", "tree", "person")


def wrapped(network, classes=CLASSES, **options):
    spec = make_spec("own:network", class_names=classes, **options)
    return SegmentationModel(network, spec).eval()


def noise(height=45, width=51, channels=3):
    generator = torch.Generator().manual_seed(height)
    return torch.randn(2, channels, height, width, generator=generator)


def with_weights_of(network, other):
    network.load_state_dict(other.state_dict())
    return network


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_evidence(form):
    torch.manual_seed(0)
    reference = wrapped(Network(5))
    model = wrapped(with_weights_of(Network(5, form), reference.network))
    model.check()
    with torch.no_grad():
        ours = model(noise(), (FEATURES, "last_two"))
        theirs = reference(noise(), (FEATURES, "last_two"))
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.features, theirs.features)
    assert torch.equal(ours.tail_input["last_two"], theirs.tail_input["last_two"])


@pytest.mark.parametrize("times", [1, 0.5, 2, 8])
def test_logits_of_any_stride_are_spread_over_the_padded_image(times):
    torch.manual_seed(0)
    model = wrapped(Network(5, upsampled=times))
    images = noise()
    padded = F.pad(images, (0, 13, 0, 19), mode="replicate")
    with torch.no_grad():
        own = model.network(padded)
        expected = F.interpolate(own, (64, 64), mode="bilinear", align_corners=False)
        evidence = model(images)
        assert evidence.logits.shape == (2, 5, 45, 51)
        torch.testing.assert_close(evidence.logits, expected[..., :45, :51])
        assert evidence.features is None, "nobody asked"
        if times == 1:
            evidence = model(images, ("last",))
            tail = model.tail("last")
            given = evidence.tail_input["last"]
            again = tail(given, tail.parameters, (45, 51), evidence.upsampling)
            torch.testing.assert_close(evidence.logits, again)
        else:  # two upsamplings in a row are not one
            assert not model.has_head


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda x: {"masks": x, "aux": x}, "dict with the keys 'masks', 'aux'"),
        (lambda x: (x[0], "text"), "tuple of a tensor of torch.float32 and shape"),
        (lambda x: None, "NoneType"),
        (lambda x: x.argmax(1), "a tensor of torch.int64 and shape"),
        (lambda x: x[:, :3], "3 outputs for 5 classes"),
        (lambda x: x.softmax(1), "its outputs are probabilities"),
        (lambda x: {"out": x.softmax(1)}, "its outputs are probabilities"),
    ],
)
def test_what_is_no_logits_is_said(output, message):
    network = Network(5)
    network.form = lambda x, _: output(x)
    with pytest.raises(SegalError) as caught:
        wrapped(network).check()
    assert message in str(caught.value)
    if "probabilities" not in message:
        with pytest.raises(SegalError), torch.no_grad():
            wrapped(network)(noise())


def test_logarithms_of_probabilities_are_logits():
    network = Network(5)
    network.form = lambda x, _: x.log_softmax(1)
    wrapped(network).check()


@pytest.mark.parametrize("last", [torch.sigmoid, lambda x: F.interpolate(x.sigmoid(), (224, 224))])
def test_a_sigmoid_of_one_output_is_said(last):
    network = Network(1)
    network.form = lambda x, _: last(x)
    with pytest.raises(SegalError, match="from a sigmoid"):
        wrapped(network, CLASSES[:2]).check()


def test_a_network_of_other_channels_names_both_numbers():
    model = wrapped(Network(5, channels=4))
    with pytest.raises(SegalError, match="4 input channels, for images of 3"):
        model.check()
    four = wrapped(Network(5, channels=4), mean=(0.5,) * 4, std=(0.5,) * 4)
    four.check()
    with torch.no_grad():
        assert four(noise(channels=4), ("last",)).logits.shape == (2, 5, 45, 51)
    with pytest.raises(SegalError, match="images of 3 bands, for a network of 4"):
        four.normalise(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))


def test_what_a_network_raises_is_a_mistake_with_the_sizes():
    model = wrapped(Odd(5))
    model.check()  # it takes squares
    with pytest.raises(SegalError, match="2 images of 64 x 96 pixels") as caught, torch.no_grad():
        model(noise(64, 90))
    assert "AssertionError: Input height doesn't match model" in caught.value.got

    class Fails(nn.Module):
        def forward(self, images):
            raise IndexError("tuple index out of range")

    with pytest.raises(SegalError, match="1 images of 64 x 64") as caught:
        wrapped(Fails()).check()
    assert "IndexError" in caught.value.got


def test_a_network_without_parameters():
    class Colours(nn.Module):
        def forward(self, images):
            return torch.cat([images, images[:, :2]], 1)

    model = wrapped(Colours())
    model.check()
    assert model.device == torch.device("cpu")
    with torch.no_grad():
        assert model(noise()).logits.shape == (2, 5, 45, 51)


NEEDS_NO_HEAD = [
    "random",
    "entropy",
    "least_confidence",
    "margin",
    "bvsb",
    "vaal",
    "mc_dropout",
    "bald",
    "cdal",
    "pixbal",
    "clasp",
]
OF_BOXES = ["localization_stability", "cald", "enms_divproto"]


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_strategies_ask_for_no_more_than_they_need(strategy):
    torch.manual_seed(0)
    model = wrapped(Headless(5, dropout=0.3))
    kind = STRATEGIES.get(strategy)
    if strategy in NEEDS_NO_HEAD:
        check_network(kind(), model)
        return
    with pytest.raises(SegalError, match=f"^{strategy}: ") as caught:
        check_network(kind(), model)
    named = caught.value.remedy.split(" would work")[0].split(", ")
    assert sorted(named) == sorted(NEEDS_NO_HEAD)
    if strategy not in {*OF_BOXES, "mial"}:
        check_network(kind(), wrapped(Network(5)))


@pytest.mark.parametrize("strategy", OF_BOXES)
def test_boxes_are_of_detectors_alone(strategy):
    with pytest.raises(SegalError, match=f"^{strategy}: it measures boxes") as caught:
        check_network(STRATEGIES.get(strategy)(), wrapped(Network(5)))
    assert caught.value.got == "a network for segmentation"
    assert "--task detection" in caught.value.remedy and "uwe" in caught.value.remedy


def test_dropout_before_the_last_layer_needs_one():
    model = wrapped(Headless(5), insert_dropout=0.2)
    with pytest.raises(SegalError, match=r"model\.insert_dropout"):
        insert_dropout(model)


def test_dropout_is_found_without_a_head():
    check_dropout(wrapped(Headless(5, dropout=0.3)))
    network = Headless(5)
    network.unused = nn.Dropout(0.5)
    with pytest.raises(SegalError, match="none that is run, of unused"):
        check_dropout(wrapped(network))


def test_passes_with_dropout_keep_outputs_of_any_kind():
    torch.manual_seed(0)
    model = wrapped(OfTransformers(5))
    runs = []
    model.network.backbone.body.register_forward_hook(lambda *_: runs.append(1))
    image = noise()[:1]
    with dropout_passes(model) as forward:
        several = [forward(image, drawn(0, "a", number)) for number in range(3)]
    assert len(runs) == 1, "the encoder's output is kept"
    for number, logits in enumerate(several):
        with dropout_passes(model) as forward:
            assert torch.equal(logits, forward(image, drawn(0, "a", number)))
    assert not torch.equal(several[0], several[1])


def test_losses_are_predicted_from_the_encoder_alone():
    network = Headless(5)
    with pytest.raises(NoHeadError, match="no feature maps"):
        wrapped(network).add_loss_prediction(seed=0)
    network.encoder = network.body
    model = wrapped(network)
    network.forward = lambda images: F.interpolate(
        network.head(network.pointwise(network.encoder(images))).tanh(), images.shape[-2:]
    )
    module = model.add_loss_prediction(seed=0)
    assert [layer.in_features for layer in module.maps] == [7]
    with torch.no_grad():
        evidence = model(noise(), ("feature_maps",))
    assert [x.shape[1] for x in evidence.maps] == [7]


# One output


def two_outputs_of(network):
    """The same function, as a network with the logits (0, z)."""
    twin = Network(2)
    state = network.state_dict()
    for key in ("head.weight", "head.bias"):
        state[key] = torch.cat([torch.zeros_like(state[key]), state[key]])
    twin.load_state_dict(state)
    return twin


@pytest.fixture
def one_output():
    torch.manual_seed(3)
    network = Network(1)
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2.0)
    network.head.weight.data *= 5
    return wrapped(network.double(), CLASSES[:2])


def test_one_output_is_the_second_of_two_classes(one_output):
    one_output.check()
    images = noise().double()
    with torch.no_grad():
        evidence = one_output(images)
        z = one_output.network(F.pad(images, (0, 13, 0, 19), mode="replicate"))[..., :45, :51]
    torch.testing.assert_close(evidence.logits, torch.cat([torch.zeros_like(z), z], 1))
    torch.testing.assert_close(evidence.logits.softmax(1)[:, 1:], z.sigmoid())


@pytest.mark.parametrize("layers", ["last", "last_two", "all", "pointwise"])
def test_gradients_of_one_output_by_brute_force(one_output, layers, tmp_path):
    """Against autograd through the whole network, region by region."""
    bench = make_bench(one_output, make_sets(make_pool(tmp_path), 2))
    images = noise(40, 50).double()
    units = RegionSize.parse("16").grid(40, 50)
    signals = [GradientNorm(layers), RegionGradient(layers, bias=True)]
    signals.append(Directional(ReferenceGradient("val", layers)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        meters = [signal.prepare(bench) for signal in signals]
        catch = {name for meter in meters for name in meter.catch}
        with torch.no_grad():
            evidence = one_output(images, catch)
            norms, gradients, along = (meter.measure(evidence, units) for meter in meters)
    direction = ReferenceGradient("val", layers).vector(bench)
    tail = one_output.tail(layers)
    assert tail.affine is None
    parameters = list(tail.parameters.values())
    log_p = one_output(images).logits.log_softmax(1)
    loss = -log_p.max(1).values
    entropy = -(log_p.exp() * log_p).sum(1)
    vector = torch.cat([direction[name].flatten() for name in tail.parameters])
    for row, (x0, y0, x1, y1) in enumerate(units.boxes().tolist()):
        for image in range(2):
            part = loss[image, y0:y1, x0:x1].mean()
            grads = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
            filled = [
                torch.zeros_like(p) if g is None else g
                for g, p in zip(grads, parameters, strict=True)
            ]
            flat = torch.cat([g.flatten() for g in filled])
            torch.testing.assert_close(gradients[image, row], flat, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(along[image, row], flat @ vector, rtol=1e-5, atol=1e-9)
            part = entropy[image, y0:y1, x0:x1].mean()
            grads = torch.autograd.grad(part, parameters, retain_graph=True, allow_unused=True)
            norm = torch.cat([g.flatten() for g in grads if g is not None]).norm()
            torch.testing.assert_close(norms[image, row], norm, rtol=1e-5, atol=1e-9)


def test_scores_of_one_output_are_those_of_two(one_output):
    twin = wrapped(two_outputs_of(one_output.network).double(), CLASSES[:2])
    images = noise(40, 50).double()
    units = RegionSize.parse("16").grid(40, 50)
    with torch.no_grad():
        for name in ("entropy", "margin", "least_confidence", "bvsb"):
            ours, theirs = (Value(name).measure(m(images), units) for m in (one_output, twin))
            torch.testing.assert_close(ours, theirs)


def test_three_classes_and_one_output_do_not_go_together():
    with pytest.raises(SegalError, match="1 outputs for 5 classes"):
        wrapped(Network(1)).check()


# From the command line


@pytest.fixture
def network_file(tmp_path):
    def write(name, classes=CLASSES[:2], **options):
        torch.manual_seed(1)
        spec = make_spec(f"tests.form_networks:{name}", class_names=classes, **options)
        path = tmp_path / f"{name}.safetensors"
        save_checkpoint(build_model(spec), path)
        return f"checkpoint={path}", f"model.architecture={spec.architecture}"

    return write


@pytest.mark.parametrize("command", ["select", "plan"])
def test_refused_by_strategy_before_work_starts(
    segal, image_folder, network_file, tmp_path, command
):
    given = ("--images", image_folder, "--region", "32", "--budget", "5")
    out = ("--out", tmp_path / "out") if command == "select" else ()
    code, _, err = segal(command, *given, *out, *network_file("headless"), "--strategy", "uwe")
    assert code == 2
    assert "uwe: " in err
    assert "entropy" in err.split("remedy:")[1]
    assert not (tmp_path / "out").exists()
    code, _, err = segal(command, *given, *out, *network_file("headless"), "--strategy", "margin")
    assert code == 0, err


def test_explain_needs_the_last_layer(segal, image_folder, network_file, tmp_path):
    code, _, err = segal(
        "explain",
        "--images",
        image_folder,
        *network_file("headless"),
        "--out",
        tmp_path / "out",
        "--reference",
        f"{tmp_path}:val",
    )
    assert code == 2
    assert "explain: " in err


@pytest.mark.parametrize("strategy", ["uwe", "badge", "entropy"])
@pytest.mark.parametrize("network", ["low_resolution", "one_output"])
def test_selects_with_any_form(segal, image_folder, network_file, tmp_path, network, strategy):
    code, _, err = segal(
        "select",
        "--images",
        image_folder,
        "--region",
        "32",
        "--budget",
        "5",
        "--overlays",
        "1",
        "--out",
        tmp_path / "out",
        *network_file(network),
        "--strategy",
        strategy,
    )
    assert code == 0, err
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["counts"]["picks"] == 5


@pytest.mark.parametrize(
    ("network", "message"),
    [("four_channels", "4 input channels, for images of 3"), ("square_only", "AssertionError")],
)
def test_networks_that_do_not_fit_end_without_a_traceback(
    segal, image_folder, network_file, tmp_path, network, message
):
    code, _, err = segal(
        "select",
        "--images",
        image_folder,
        "--region",
        "32",
        "--budget",
        "5",
        "--out",
        tmp_path / "out",
        *network_file(network),
        "--strategy",
        "entropy",
    )
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_scores_of_a_headless_network():
    """The scores of a headless network are those of its logits."""
    torch.manual_seed(0)
    model = wrapped(Headless(5))
    units = RegionSize.parse("16").grid(45, 51)
    with torch.no_grad():
        evidence = model(noise())
        found = Value("entropy").measure(evidence, units)[0, 0]
    p = evidence.logits[0, :, :16, :16].double().softmax(0)
    expected = float(-(p * p.log()).sum(0).mean())
    np.testing.assert_allclose(float(found), expected, rtol=1e-5)


def test_a_map_of_one_channel_beside_two_classes_is_not_the_logits():
    edges, logits = torch.zeros(1, 1, 4, 4), torch.ones(1, 2, 4, 4)
    assert logits_of((edges, logits), 2, "own") is logits
    assert logits_of((edges, torch.ones(1, 8, 4, 4)), 2, "own") is edges
