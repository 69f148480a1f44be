"""The loss-prediction module: its loss, its means, and how it is trained with a network."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn

from segal.candidates.evidence import Upsampling
from segal.candidates.regions import Boxes
from segal.errors import SegalError
from segal.models.build import build_model, make_spec
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, save_checkpoint, weights_of
from segal.models.loss_prediction import LossPrediction, mean_over_pixels, ranking_loss
from segal.models.spec import ModelSpec
from segal.models.wrapped import FEATURE_MAPS
from segal.tasks.losses import Loss
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation
from segal.training.loop import TrainSettings, train
from tests.unit.test_train import BOXES, CLASSES, Dataset, Killed, kill_at

OWN = "tests.tiny_network:build"


class Encoder(nn.Module):
    """Returns the image and its maps, as encoders of smp do, one of them without channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.second = nn.Conv2d(6, 10, 3, stride=2, padding=1)

    def forward(self, images):
        first = self.first(images).relu()
        return [images, images.new_zeros(len(images), 0, 1, 1), first, self.second(first).relu()]


class Network(nn.Module):
    """An encoder and a head, with BatchNorm and dropout between."""

    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.norm = nn.BatchNorm2d(10)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Conv2d(10, len(CLASSES), 1)

    def forward(self, images):
        low = self.head(self.dropout(self.norm(self.encoder(images)[-1])))
        return F.interpolate(low, images.shape[-2:], mode="bilinear", align_corners=True)


def make_model(seed=0, predicts=False):
    torch.manual_seed(seed)
    spec = ModelSpec("own", "", CLASSES, (0.5,) * 3, (0.25,) * 3, stride=4)
    model = SegmentationModel(Network(), spec)
    if predicts:
        model.add_loss_prediction(seed)
    return model


def settings(**changes):
    return TrainSettings(
        **{
            "iterations": 12, "batch_size": 4, "crop": 16, "lr": 0.05, "workers": 0,
            "learning_loss": True, **changes,
        }
    )  # fmt: skip


def weights(model):
    return {key: value.clone() for key, value in weights_of(model).items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def of_network(state):
    return {key: value for key, value in state.items() if "/" not in key}


# The ranking loss


def test_ranking_loss_by_hand():
    predicted = torch.tensor([1.0, 0.2, -0.5, 3.0, 2.0, 2.0, 9.0], requires_grad=True)
    losses = torch.tensor([2.0, 1.0, 0.5, 0.1, 0.3, 0.3, 7.0])
    # 1 - 0.8; 1 + 3.5; equal losses count as the second's being larger: 1 + 0. The last has no
    # partner.
    value = ranking_loss(predicted, losses, 1.0)
    assert value.item() == pytest.approx((0.2 + 4.5 + 1.0) / 3)
    value.backward()
    third = 1 / 3
    expected = [-third, third, -third, third, third, -third, 0]
    assert predicted.grad.tolist() == pytest.approx(expected)
    # Far enough apart, in the right order: nothing to learn.
    assert ranking_loss(torch.tensor([3.0, 1.5]), torch.tensor([1.0, 0.0]), 1.0) == 0
    assert ranking_loss(torch.tensor([3.0, 1.5]), torch.tensor([1.0, 0.0]), 2.0) == 0.5


def test_ranking_loss_is_torchs_margin_ranking_loss():
    generator = torch.Generator().manual_seed(0)
    p, losses = torch.randn(2, 40, generator=generator, dtype=torch.float64)
    sign = (losses[::2] - losses[1::2]).sign()
    expected = F.margin_ranking_loss(p[::2], p[1::2], sign, margin=0.7)
    torch.testing.assert_close(ranking_loss(p, losses, 0.7), expected)


@pytest.mark.parametrize("count", [0, 1])
def test_ranking_loss_of_no_pair(count):
    predicted = torch.ones(count, requires_grad=True)
    value = ranking_loss(predicted, torch.ones(count), 1.0)
    value.backward()
    assert value.item() == 0
    assert not predicted.grad.any()


# Means and predictions


@pytest.mark.parametrize("align_corners", [True, False])
def test_means_over_pixels_are_those_of_the_upsampled_map(align_corners):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 7, 9, generator=generator, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(3, 25, 34, generator=generator) < 0.3
    mask[2] = False
    upsampling = Upsampling((28, 36), align_corners)
    wide = F.interpolate(x, upsampling.size, mode="bilinear", align_corners=align_corners)
    kept = wide[..., :25, :34] * mask[:, None]
    expected = kept.sum((2, 3)) / mask.sum((1, 2)).clamp(min=1)[:, None]
    means = mean_over_pixels(x, mask, upsampling)
    torch.testing.assert_close(means, expected, rtol=1e-12, atol=1e-14)
    assert not means[2].any()
    (gradient,) = torch.autograd.grad(means.sin().sum(), x, retain_graph=True)
    (brute,) = torch.autograd.grad(expected.sin().sum(), x)
    torch.testing.assert_close(gradient, brute, rtol=1e-12, atol=1e-14)


def test_units_and_pixels_are_predicted_alike():
    torch.manual_seed(0)
    module = LossPrediction([4, 6]).double()
    maps = [torch.randn(2, 4, 12, 16).double(), torch.randn(2, 6, 6, 8).double()]
    upsampling = Upsampling((48, 64), True)
    boxes = ((0, 0, 64, 45), (3, 7, 20, 31))
    by_unit = module.of_units(maps, Boxes(boxes), upsampling)
    for unit, (x0, y0, x1, y1) in enumerate(boxes):
        mask = torch.zeros(2, 45, 64, dtype=torch.bool)
        mask[:, y0:y1, x0:x1] = True
        by_pixels = module.of_pixels(maps, mask, upsampling)
        torch.testing.assert_close(by_unit[:, unit], by_pixels, rtol=1e-12, atol=0)


def test_half_precision_is_not_taken_over():
    module, x = LossPrediction([4]), torch.randn(1, 4, 3, 3)
    mask = torch.ones(1, 6, 6, dtype=torch.bool)
    exact = module.of_pixels([x.bfloat16()], mask, Upsampling((6, 6), True))
    with torch.autocast("cpu", torch.bfloat16):
        again = module.of_pixels([x.bfloat16()], mask, Upsampling((6, 6), True))
    assert again.dtype == torch.float32
    assert torch.equal(again, exact)


def test_maps_of_the_encoder_and_the_heads_input():
    model = make_model().eval()
    images = torch.randn(2, 3, 22, 30)
    evidence = model(images, (FEATURE_MAPS,))
    padded = F.pad(images, (0, 2, 0, 2), mode="replicate")
    _, _, first, second = model.network.encoder(padded)
    for got, expected in zip(
        evidence.maps, (first, second, model.network.norm(second)), strict=True
    ):
        torch.testing.assert_close(got, expected)
    assert evidence.tail_input == {}
    assert model(images).maps == ()


def test_a_network_without_an_encoder_gives_the_heads_input():
    model = build_model(make_spec(OWN, class_names=CLASSES)).eval()
    evidence = model(torch.randn(1, 3, 32, 32), (FEATURE_MAPS,))
    assert [x.shape[1] for x in evidence.maps] == [8]
    assert torch.equal(evidence.maps[0], evidence.features)


def test_the_same_seed_makes_the_same_module_and_leaves_the_global_state():
    torch.manual_seed(3)
    expected = torch.rand(2)
    model = make_model()
    torch.manual_seed(3)
    first = {k: v.clone() for k, v in model.add_loss_prediction(5).state_dict().items()}
    assert torch.equal(torch.rand(2), expected)
    assert model.training
    assert_same(first, model.add_loss_prediction(5).state_dict())
    assert not torch.equal(first["output.weight"], model.add_loss_prediction(6).output.weight)


# The training loss


def batch(void=()):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(4, 3, 24, 20, generator=generator)
    labels = torch.randint(0, 3, (4, 24, 20), generator=generator)
    labels[torch.rand(4, 24, 20, generator=generator) < 0.4] = 255
    for crop in void:
        labels[crop] = 255
    return images, labels.to(torch.uint8)


@pytest.mark.parametrize("class_weights", [None, [1.0, 3.0, 0.5]])
def test_ranked_training_loss_the_long_way_round(class_weights):
    model = make_model(predicts=True).double().eval()
    images, labels = batch()
    images = images.double()
    chosen = settings(learning_loss={"weight": 0.3, "margin": 0.8}).learning_loss
    task = Segmentation()
    weighted = Loss(weights=None if class_weights is None else torch.tensor(class_weights))
    loss = task.ranked_training_loss(
        model, images, labels, chosen, stop_gradient=False, loss=weighted
    )

    evidence = model(images, (FEATURE_MAPS,))
    predicted, losses = [], []
    for i in range(4):
        valid = labels[i] != 255
        wide = [
            F.interpolate(x[i : i + 1], (24, 20), mode="bilinear", align_corners=True)[0]
            for x in evidence.maps
        ]
        means = [x[:, valid].mean(1) for x in wide]
        layers = model.loss_prediction.maps
        hidden = [F.relu(layer(mean)) for layer, mean in zip(layers, means, strict=True)]
        predicted.append(model.loss_prediction.output(torch.cat(hidden)))
        weight = None if class_weights is None else torch.tensor(class_weights)
        losses.append(
            F.cross_entropy(
                evidence.logits[i : i + 1].float(),
                labels[i : i + 1].long(),
                weight,
                ignore_index=255,
            )
        )
    pairs = [
        F.margin_ranking_loss(
            predicted[i], predicted[i + 1], (losses[i] - losses[i + 1]).sign()[None], margin=0.8
        )
        for i in (0, 2)
    ]
    expected = task.training_loss(model, images, labels, weighted) + 0.3 * sum(pairs) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_stopped_gradient_does_not_reach_the_network():
    task, (images, labels) = Segmentation(), batch()
    gradients = {}
    for name in ("alone", "stopped", "reaching"):
        model = make_model(predicts=True).eval()
        if name == "alone":
            loss = task.training_loss(model, images, labels)
        else:
            loss = task.ranked_training_loss(
                model, images, labels, settings().learning_loss, stop_gradient=name == "stopped"
            )
        loss.backward()
        gradients[name] = {k: p.grad for k, p in model.network.named_parameters()}
        module = [layer.weight.grad for layer in model.loss_prediction.maps]
        assert all(g is None if name == "alone" else g.any() for g in module)
    assert_same(gradients["alone"], gradients["stopped"])
    different = [
        not torch.equal(gradients["alone"][k], gradients["reaching"][k])
        for k in gradients["alone"]
        if k.startswith("encoder.")
    ]
    assert all(different)


def test_crops_without_labelled_pixels_are_left_out():
    model, task = make_model(predicts=True).eval(), Segmentation()
    images, labels = batch(void=[1])
    kept = [0, 2, 3]
    module = model.loss_prediction
    chosen = settings().learning_loss
    task.ranked_training_loss(model, images, labels, chosen, stop_gradient=False).backward()
    got = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    fewer = (images[kept], labels[kept])
    task.ranked_training_loss(model, *fewer, chosen, stop_gradient=False).backward()
    for first, second in zip(got, module.parameters(), strict=True):
        torch.testing.assert_close(first, second.grad)
    module.zero_grad()
    images, labels = batch(void=range(4))
    loss = task.ranked_training_loss(model, images, labels, chosen, stop_gradient=False)
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in module.parameters())


# Training


class NotingTask(Segmentation):
    """Notes when the gradient was stopped; says what a validation finds."""

    def __init__(self, scores=()):
        super().__init__()
        self.stopped, self.scores, self.seen = [], list(scores), []

    def ranked_training_loss(self, *arguments, stop_gradient, loss):
        self.stopped.append(stop_gradient)
        return super().ranked_training_loss(*arguments, stop_gradient=stop_gradient, loss=loss)

    def evaluate(self, model, dataset, **_):
        self.seen.append(weights(model))
        return SimpleNamespace(score=self.scores[len(self.seen) - 1])


@pytest.mark.parametrize(("fraction", "steps"), [(0.6, 6), (0.0, 0), (1.0, 10), (0.55, 6)])
def test_the_gradient_is_stopped_after_its_share_of_the_steps(fraction, steps):
    task = NotingTask()
    chosen = settings(iterations=10, learning_loss={"stop_gradient_after": fraction})
    train(make_model(), Dataset(), chosen, seed=0, task=task)
    assert task.stopped == [False] * steps + [True] * (10 - steps)


@pytest.mark.parametrize(
    "changes", [{}, {"grad_clip": 0.05}, {"optimizer": "adamw", "lr": 0.003}, {"precision": "bf16"}]
)
def test_a_network_that_it_never_reaches_is_trained_as_without(changes):
    alone, beside = make_model(), make_model()
    train(alone, Dataset(), settings(learning_loss=False, **changes), seed=0, labelled=BOXES)
    chosen = settings(learning_loss={"stop_gradient_after": 0}, **changes)
    train(beside, Dataset(), chosen, seed=0, labelled=BOXES)
    assert alone.loss_prediction is None
    assert_same(of_network(weights(beside)), weights(alone))
    fresh = make_model()
    train(fresh, Dataset(), settings(**changes), seed=0, labelled=BOXES)
    assert not torch.equal(fresh.head.weight, alone.head.weight)


@pytest.mark.parametrize(
    "changes", [{}, {"optimizer": "adamw", "lr": 0.003, "grad_clip": 0.5}, {"precision": "fp16"}]
)
def test_killed_training_resumes_to_the_same_weights(tmp_path, changes):
    chosen = settings(checkpoint_every=3, validate_every=4, **changes)
    validation = Dataset(seed=9, count=2)
    whole = make_model()
    expected = train(whole, Dataset(), chosen, seed=1, labelled=BOXES, validation=validation)

    path = tmp_path / "state.safetensors"
    arguments = {"seed": 1, "labelled": BOXES, "validation": validation, "checkpoint": path}
    for last in (2, 5, 8, 11):  # nothing saved yet, then before and after the gradient is stopped
        with pytest.raises(Killed):
            train(make_model(), Dataset(), chosen, **arguments, progress=kill_at(last))
    model = make_model()
    result = train(model, Dataset(), chosen, **arguments)
    assert_same(weights(model), weights(whole))
    assert (result.best_step, result.loss) == (expected.best_step, expected.loss)
    initial = make_model(predicts=True).loss_prediction.output.weight
    assert not torch.equal(model.loss_prediction.output.weight, initial)


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("settings", {"settings": settings(checkpoint_every=3, learning_loss={"weight": 2})}),
        ("loss prediction", {"model": make_model(predicts=True)}),
    ],
)
def test_checkpoint_of_another_training_is_refused(tmp_path, what, change):
    arguments = {
        "model": make_model(), "dataset": Dataset(), "settings": settings(checkpoint_every=3),
        "seed": 1, "checkpoint": tmp_path / "state.safetensors",
    }  # fmt: skip
    with pytest.raises(Killed):
        train(**arguments, progress=kill_at(4))
    arguments["model"] = make_model()
    with pytest.raises(SegalError, match=f"got: another {what}\n"):
        train(**{**arguments, **change})


def test_the_module_of_the_best_step_is_kept():
    task, model = NotingTask([0.2, 0.5, 0.4]), make_model()
    chosen = settings(validate_every=4)
    result = train(model, Dataset(), chosen, seed=0, validation=Dataset(), task=task)
    assert result.best_step == 8
    assert_same(weights(model), task.seen[1])


def test_a_training_goes_on_with_a_networks_own_module_or_drops_it(tmp_path):
    model = make_model()
    train(model, Dataset(), settings(), seed=0)
    trained = weights(model)
    train(model, Dataset(), settings(iterations=1, lr=1e-9, min_lr=0, weight_decay=0), seed=1)
    for key, value in weights(model).items():
        if "/" in key:
            torch.testing.assert_close(value, trained[key], rtol=0, atol=1e-6)
    train(model, Dataset(), settings(iterations=1, learning_loss=False), seed=2)
    assert model.loss_prediction is None


def test_divergence_of_the_module_is_seen():
    chosen = settings(learning_loss={"weight": 1e30, "stop_gradient_after": 0}, iterations=60)
    with pytest.raises(SegalError, match="diverged at step"):
        train(make_model(), Dataset(), chosen, seed=0)


# Settings and files


def test_settings():
    assert TrainSettings().learning_loss is None
    assert settings(learning_loss="false").learning_loss is None
    on = settings(learning_loss="true").learning_loss
    assert (on.weight, on.margin, on.stop_gradient_after) == (1.0, 1.0, 0.6)
    some = settings(learning_loss={"weight": "0.5"})
    assert some.learning_loss.weight == 0.5
    for read in (some, settings(learning_loss=None)):
        assert TrainSettings.model_validate(read.model_dump(mode="json")) == read


def test_what_identifies_a_training_without_it_is_what_it_was():
    assert "learning_loss" not in TrainSettings().identity()
    identity = settings().identity()
    assert identity.pop("learning_loss") == {
        "weight": 1.0, "margin": 1.0, "stop_gradient_after": 0.6
    }  # fmt: skip
    assert identity == settings(learning_loss=False).identity()


@pytest.mark.parametrize(
    "wrong",
    [
        "perhaps", 3, {"weight": 0}, {"weight": -1}, {"margin": 0}, {"margin": float("nan")},
        {"stop_gradient_after": 1.1}, {"stop_gradient_after": -0.1}, {"wieght": 1},
    ],
)  # fmt: skip
def test_bad_settings(wrong):
    with pytest.raises(ValidationError):
        settings(learning_loss=wrong)


def test_a_batch_without_a_pair_is_refused():
    alone = {"batch_size": 1, "batchnorm": "frozen"}
    assert settings(learning_loss=False, **alone).batch_size == 1
    with pytest.raises(ValidationError, match="at least 2 for learning_loss"):
        settings(**alone)


def test_checkpoint_round_trip(tmp_path):
    own = CheckpointOptions(architecture=OWN)
    path = tmp_path / "model.safetensors"
    model = build_model(make_spec(OWN, class_names=CLASSES)).eval()
    save_checkpoint(model, path)
    assert load_checkpoint(path, own).loss_prediction is None

    model.add_loss_prediction(4)
    save_checkpoint(model, path)
    assert any(key.startswith("loss_prediction/") for key in load_file(path))
    loaded = load_checkpoint(path, own)
    assert_same(weights(loaded), weights(model))
    assert not loaded.loss_prediction.training
    images, boxes = torch.randn(1, 3, 32, 32), Boxes(((0, 0, 32, 32), (4, 0, 9, 30)))
    scores = []
    for network in (model, loaded):
        evidence = network(images, (FEATURE_MAPS,))
        scores.append(network.loss_prediction.of_units(evidence.maps, boxes, evidence.upsampling))
    assert torch.equal(*scores)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda state: state.pop("loss_prediction/output.bias"), "1 missing"),
        (lambda state: state.update({"loss_prediction/more": torch.ones(1)}), "1 extra"),
        (lambda state: state["loss_prediction/output.bias"].fill_(np.nan), "not finite"),
    ],
)
def test_damaged_modules_are_refused(tmp_path, damage, message):
    path = tmp_path / "model.safetensors"
    model = build_model(make_spec("DeepLabV3Plus", "mobilenet_v2", CLASSES))
    model.add_loss_prediction(0)
    save_checkpoint(model, path)
    state = load_file(path)
    damage(state)
    save_file(state, path)
    options = CheckpointOptions("DeepLabV3Plus", "mobilenet_v2", len(CLASSES))
    with pytest.raises(SegalError, match=message):
        load_checkpoint(path, options)
