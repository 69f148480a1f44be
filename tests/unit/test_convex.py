"""A linear layer at the optimum of its loss: what scikit-learn reaches, and where it stands."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from segal.errors import SegalError
from segal.functional.pooling import at_pixels
from segal.functional.softmax_regression import _Problem, fit_softmax
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import load_checkpoint, save_checkpoint
from segal.models.frozen import FrozenLayers
from segal.models.linear_segmenter import Depths, Standardise
from segal.training.loop import TrainSettings, train
from tests.unit.test_layers import BOXES, CLASSES, Dataset, divided, plain


def data(n=200, d=9, classes=3, seed=0):
    """Features that go together, as those of a network do."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.normal(size=(n, d)) + rng.normal(size=(classes, d))[y]
    x = x @ (rng.normal(size=(d, d)) + 3)
    return (x - x.mean(0)) / x.std(0), y


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("l2", [1e-3, 1.0])
def test_the_optimum_of_scikit_learn(l2, balanced):
    x, y = data()
    weights = 1 / np.bincount(y)[y] if balanced else np.ones(len(y))
    share = weights / weights.sum()
    oracle = LogisticRegression(C=1 / l2, tol=1e-10, max_iter=10_000, solver="newton-cg")
    oracle.fit(x, y, sample_weight=share)
    found = fit_softmax(
        torch.from_numpy(x),
        torch.from_numpy(y),
        3,
        l2=l2,
        weights=torch.from_numpy(weights) if balanced else None,
        gradient_norm=1e-8,
    )
    assert found.gradient_norm <= 1e-8
    assert np.allclose(found.weight, oracle.coef_, atol=1e-5)
    assert np.allclose(found.bias, oracle.intercept_ - oracle.intercept_.mean(), atol=1e-5)


def test_the_gradient_is_that_of_autograd():
    x, y = (torch.from_numpy(one) for one in data())
    found = fit_softmax(x, y, 3, l2=0.01, steps=3)
    weight, bias = found.weight.requires_grad_(), found.bias.requires_grad_()
    loss = F.cross_entropy(x @ weight.T + bias, y) + 0.005 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    norm = torch.cat([one.flatten() for one in gradients]).norm()
    assert found.steps == 3
    assert found.gradient_norm == pytest.approx(float(norm), rel=1e-9)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-12)


def test_steps_are_taken_where_the_hessian_is_the_unit_matrix():
    """As it is wherever all rows have the same probabilities."""
    x, y = (torch.from_numpy(one) for one in data())
    bias = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    coordinates = _Problem.of(x, y, 0.01, None).coordinates(torch.zeros(3, 9).double(), bias)

    def loss(flat):
        weight = coordinates.step(flat)[0]
        return F.cross_entropy(x @ weight.T + bias, y) + 0.005 * weight.square().sum()

    hessian = torch.autograd.functional.hessian(loss, torch.zeros(30).double())
    of_weight = torch.arange(30).view(3, 10)[:, :9].flatten()
    found = hessian[of_weight][:, of_weight]
    assert torch.allclose(found, torch.eye(27).double(), atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_pixels_of_a_spread_map(align_corners):
    values = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    spread = F.interpolate(
        values[None].double(), (9, 14), mode="bilinear", align_corners=align_corners
    )[0]
    y, x = torch.tensor([0, 8, 4, 3]), torch.tensor([13, 0, 6, 7])
    found = at_pixels(values, y, x, (9, 14), align_corners)
    assert torch.allclose(found, spread[:, y, x].T, atol=1e-12)


def convex(**changes):
    usual = {"optimizer": "lbfgs", "layers": "last", "weight_decay": 1e-2, "iterations": 500}
    return plain(**{**usual, "gradient_norm": 1e-7, **changes})


def gradient_of(model, dataset, class_weights):
    """Of the loss over all labelled pixels by the head's weight and bias, on logits as they are."""
    head = model.head
    total, count = 0.0, 0.0
    for index, boxes in BOXES.items():
        image = torch.from_numpy(dataset.images[index])[None]
        logits = model(model.normalise(image)).logits.double()
        for x0, y0, x1, y1 in boxes:
            label = torch.from_numpy(dataset.labels[index][y0:y1, x0:x1]).long()[None]
            part = logits[:, :, y0:y1, x0:x1]
            total = total + F.cross_entropy(part, label, class_weights, reduction="sum")
            count += float(class_weights[label].sum())
    return torch.autograd.grad(total / count, (head.weight, head.bias))


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.5, 2.0, 3.0)])
def test_a_networks_last_layer_is_at_the_optimum_of_its_pixels(weights):
    """With the penalty on standardised features, all labelled pixels drawn."""
    model, dataset = divided().eval(), Dataset()
    settings = convex(class_weights=weights)
    train(model, dataset, settings, seed=0, labelled=BOXES)
    by_weight, by_bias = gradient_of(model, dataset, torch.tensor(weights).double())
    rows = []
    for index, boxes in BOXES.items():
        image = model.normalise(torch.from_numpy(dataset.images[index])[None])
        with torch.no_grad():
            evidence = model(image, ("features",))
        spread = F.interpolate(
            evidence.features.double(), evidence.upsampling.size, mode="bilinear",
            align_corners=True,
        )  # fmt: skip
        rows += [spread[0, :, y0:y1, x0:x1].flatten(1).T for x0, y0, x1, y1 in boxes]
    features = torch.cat(rows)
    deviation = features.std(0, correction=0)
    # With W = V / s the penalty's gradient by W is l2 s^2 W; both cancel.
    pull = settings.weight_decay * model.head.weight[:, :, 0, 0].double() * deviation.square()
    middle = by_bias[:, None].double() * 0
    assert torch.allclose(by_weight[:, :, 0, 0].double() + pull, middle.expand_as(pull), atol=2e-5)
    assert by_bias.abs().max() < 1e-5


def linear(encoder="mobilenet_v2", seed=0, **options):
    torch.manual_seed(seed)
    spec = make_spec("linear", encoder, CLASSES, options=options)
    return build_model(spec).eval()


@pytest.fixture(scope="module")
def mobile():
    return linear(maps=["features.3", "features.6", "features.13"])


def test_the_maps_of_an_encoder_at_one_stride(mobile):
    network = mobile.network
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        maps = network.encoder(images)
        expected = []
        x = images
        for number, layer in enumerate(network.encoder.model.features):
            x = layer(x)
            if number in {3, 6, 13}:
                expected.append(x)
    assert [tuple(one.shape) for one in maps] == [(1, 24, 8, 12), (1, 32, 8, 12), (1, 96, 4, 6)]
    assert torch.equal(maps[0], F.avg_pool2d(expected[0], 2))
    assert torch.equal(maps[2], expected[2])
    assert mobile.head.in_channels == 24 + 32 + 96
    logits = mobile(images).logits
    assert logits.shape == (1, 3, 64, 96)


@pytest.mark.slow
def test_it_is_trained_standardised_and_the_same_twice(mobile, tmp_path):
    settings = convex(layers="decoder", pixels=150, weight_decay=1e-3)
    states = []
    for _ in range(2):
        model = linear(maps=["features.3", "features.6", "features.13"])
        before = FrozenLayers.of(model, "decoder").digest
        result = train(model, Dataset(), settings, seed=7, labelled=BOXES)
        assert FrozenLayers.of(model, "decoder").digest == before
        states.append({k: v.clone() for k, v in model.network.state_dict().items()})
        assert result.steps > 1
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    save_checkpoint(model, tmp_path / "model.safetensors")
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    standardise = next(m for m in loaded.network.modules() if isinstance(m, Standardise))
    assert torch.equal(standardise.mean, model.network.standardise.mean)
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, model(images).logits)


def test_tokens_of_a_transformer():
    model = linear("tu-vit_tiny_patch16_224")
    assert model.head.in_channels == 4 * 192
    with torch.no_grad():
        evidence = model(torch.randn(1, 3, 40, 70), ("features",))
    assert evidence.features.shape[1:] == (768, 3, 5)
    assert evidence.logits.shape == (1, 3, 40, 70)


def test_more_than_a_linear_layer_has_no_such_optimum():
    with pytest.raises(SegalError, match="for layers 'last_two'") as caught:
        train(divided(), Dataset(), convex(layers="last_two"), seed=0, labelled=BOXES)
    assert "further parameters" in caught.value.got


def test_an_optimum_that_is_not_reached():
    with pytest.raises(SegalError, match="was not reached in 2 steps"):
        train(divided(), Dataset(), convex(iterations=2), seed=0, labelled=BOXES)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"crop": "16"}, "crop: expected image"),
        ({"layers": "all"}, "layers: expected last or decoder"),
        ({"weight_decay": 0}, "weight_decay: expected more than 0"),
        ({"loss": "dice"}, "loss: expected cross_entropy"),
    ],
)
def test_settings_that_a_convex_loss_has_no_use_for(changes, said):
    with pytest.raises(ValueError, match=said):
        convex(**changes)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"stride": 7}, "stride"), ({"maps": []}, "maps"), ({"depth": 3}, "depth")],
)
def test_options_of_the_linear_segmenter(options, said):
    with pytest.raises(SegalError, match=f"model.options.{said}"):
        make_spec("linear", "resnet18", CLASSES, options=options)


@pytest.mark.parametrize(
    ("maps", "got", "remedy"),
    [
        (["layer1", "lay2"], "which the encoder does not have", "did you mean 'layer2'"),
        (["layer1.9"], "which the encoder does not have", "did you mean 'layer1"),
        (["unheard"], "which the encoder does not have", "leave maps out"),
        (["classify"], "'classify'", ""),
    ],
)
def test_modules_that_make_no_map(maps, got, remedy):
    encoder = torch.nn.Sequential()
    for name in ("layer1", "layer2"):
        encoder.add_module(name, torch.nn.Conv2d(3, 3, 1))
    encoder.add_module("classify", torch.nn.Flatten())
    with pytest.raises(SegalError) as caught:
        Depths(encoder, maps, last=False, stride=8)(torch.zeros(1, 3, 16, 16))
    assert caught.value.problem == f"model.options.maps: {maps[-1]!r} gives no map"
    assert got in str(caught.value.got) and remedy in caught.value.remedy


def test_tables_of_features_take_no_encoder():
    with pytest.raises(SegalError, match="takes none on features in tables"):
        make_spec("linear", "resnet18", CLASSES, task="classification", input_channels=5)
    assert make_spec("linear", None, CLASSES, task="classification", input_channels=5)


def test_defaults_leave_a_training_what_it_was():
    assert {"pixels", "gradient_norm", "layers"}.isdisjoint(TrainSettings().identity())
