"""MIAL's instance uncertainty learning of networks that classify images, against loops."""

import hashlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.jobs.strategies import check_network
from segal.models.checkpoint import CheckpointOptions, load_checkpoint, save_checkpoint
from segal.models.mial import MialSettings, Stage
from segal.models.wrapped import FEATURES
from segal.signals.mial import Discrepancy
from segal.strategies.entropy import Entropy
from segal.strategies.mial import MultipleInstance
from segal.tasks import find_task
from segal.tasks.classification.mial import (
    InstanceUncertainty,
    discrepancies,
    second_logits,
    two_logits,
)
from segal.tasks.losses import Loss
from segal.training.loop import TrainSettings, train
from tests.batched import Batched
from tests.tiny_classifier import CLASSES, make_bench, make_model, make_spec

SIDE, LABELLED = 12, (0, 2, 5)
MAXIMISE, MINIMISE = Stage("maximise", 0, 1), Stage("minimise", 0, 1)
PARTS = {"f1": "network.classifier.", "f2": "second_head.", "g": "network.stage"}
MOVING = {
    ("paper", "label"): {"g", "f1", "f2"}, ("code", "label"): {"g", "f1", "f2"},
    ("paper", "maximise"): {"f1", "f2"}, ("code", "maximise"): {"f1", "f2"},
    ("paper", "minimise"): {"g"}, ("code", "minimise"): {"g"},
}  # fmt: skip


class Dataset(Batched):
    """Pictures of noise in memory; it notes what is read."""

    def __init__(self, count=9, readable=LABELLED, multilabel=False):
        rng = np.random.default_rng(1)
        self.images = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        self.elements = (len(CLASSES), 1) if multilabel else (1, 1)
        self.labels = rng.integers(0, 2, (count, *self.elements))
        self.readable, self.seen = readable, set()
        self.classes = SimpleNamespace(names=CLASSES)
        self.unit, self.root, self.pool = "images", "memory", self
        self.paths = [f"{i}.png" for i in range(count)]
        self.infos = [SimpleNamespace(digest=hashlib.sha256(i).hexdigest()) for i in self.images]

    def __len__(self):
        return len(self.images)

    def size(self, index):
        return self.elements

    def shape(self, index):
        return SIDE, SIDE

    def read(self, index):
        self.seen.add(index)
        return self.images[index]

    def read_label(self, index):
        assert index in self.readable, "a label that is not bought was read"
        return self.labels[index]

    def digest(self, indices=None):
        return str(indices)


def model_of(task="classification", head=True):
    model = make_model(task).float()
    if head:
        model.add_second_head(seed=3)
    return model


def run(preset="paper", model=None, dataset=None, task="classification", **options):
    model = model or model_of(task, head=False)
    dataset = dataset or Dataset(multilabel=task == "multilabel")
    usual = {
        "iterations": 13, "batch_size": 2, "lr": 0.01, "workers": 0, "crop": "image",
        "validate_every": 0, "colour_jitter": 0, "mial": {"preset": preset},
    }  # fmt: skip
    settings = TrainSettings(**{**usual, **options.pop("changes", {})})
    height, width = dataset.elements
    labelled = {index: [(0, 0, width, height)] for index in LABELLED}
    train(model, dataset, settings, seed=5, labelled=labelled, **options)
    return model


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def differing(before, after):
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


@pytest.fixture(params=["classification", "multilabel"])
def model(request):
    return model_of(request.param)


@pytest.fixture
def pictures():
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


# The two heads


def test_the_second_head_takes_the_place_of_the_first(model, pictures):
    """The oracle: the network itself with the second head's values in its last layer."""
    with torch.no_grad():
        first, second = two_logits(model, pictures)
        assert torch.equal(first, model(pictures).logits)
        model.head.weight.copy_(model.second_head.weight)
        model.head.bias.copy_(model.second_head.bias)
        assert torch.allclose(model(pictures).logits, second, atol=1e-6)
    assert first.shape == second.shape
    assert (first - second).abs().max() > 0.01


def test_its_seed_decides_the_second_head():
    kinds = [model_of(head=False).add_second_head(seed).weight for seed in (0, 0, 1)]
    assert torch.equal(kinds[0], kinds[1])
    assert not torch.equal(kinds[0], kinds[2])


def test_a_checkpoint_holds_the_second_head(model, pictures, tmp_path):
    save_checkpoint(model, tmp_path / "a.safetensors")
    again = load_checkpoint(
        tmp_path / "a.safetensors", CheckpointOptions(architecture=model.spec.architecture)
    )
    with torch.no_grad():
        pairs = zip(two_logits(model, pictures), two_logits(again, pictures), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


# Losses


def softmax(row):
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


@pytest.mark.parametrize("preset", ["paper", "code"])
def test_losses_by_loops(preset):
    first, second = torch.randn(2, 3, 4, 1, 1, generator=torch.Generator().manual_seed(2)).double()
    scheme = InstanceUncertainty(MialSettings(preset=preset, discrepancy=0.3), 13, Loss())
    each, labelled = [], 0.0
    labels = torch.tensor([1, -1, 3])[:, None, None]  # the second is not labelled
    for image in range(3):
        p1, p2 = (softmax(x[image, :, 0, 0].tolist()) for x in (first, second))
        each.append(sum(abs(a - b) for a, b in zip(p1, p2, strict=True)) / 4)
        if image != 1:
            label = labels[image].item()
            labelled -= (math.log(p1[label]) + math.log(p2[label])) / 2
    discrepancy = 0.3 * (sum(each) if preset == "code" else sum(each) / 3)
    assert scheme.unlabelled_loss(first, second, MAXIMISE).item() == pytest.approx(-discrepancy)
    assert scheme.unlabelled_loss(first, second, MINIMISE).item() == pytest.approx(discrepancy)
    labelled /= 2 if preset == "code" else 1
    assert scheme.labelled_loss(first, second, labels).item() == pytest.approx(labelled)


def test_of_several_labels_it_is_the_mean_of_their_sigmoids(pictures):
    model = model_of("multilabel")
    with torch.no_grad():
        first, second = two_logits(model, pictures)
        one = model.network(pictures)
        other = model.second_head(model(pictures, (FEATURES,)).features[:, :, :1]).flatten(1)
    expected = (one.sigmoid() - other.sigmoid()).abs().mean(1)  # equation 3
    assert torch.allclose(discrepancies(first, second).mean(1), expected, atol=1e-6)


def test_descent_on_a_stage_moves_the_heads_apart_or_together(pictures):
    model = model_of()
    scheme = InstanceUncertainty(MialSettings(), 13, Loss())

    def disagreement():
        return discrepancies(*two_logits(model, pictures)).mean().item()

    for stage, step, sign in ((MAXIMISE, 4, 1), (MINIMISE, 5, -1)):
        assert scheme.stage(step).kind == stage.kind
        before, names = disagreement(), scheme.moving(step, model)
        descent = torch.optim.SGD([p for n, p in model.named_parameters() if n in names], 0.05)
        for _ in range(5):
            descent.zero_grad()
            scheme.unlabelled_loss(*two_logits(model, pictures), stage).backward()
            descent.step()
        assert sign * (disagreement() - before) > 0


# The whole training


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("preset", ["paper", "code"])
def test_each_step_moves_what_its_stage_says_and_nothing_else(preset, task):
    model = model_of(task)
    scheme = InstanceUncertainty(MialSettings(preset=preset), 13, Loss())
    snapshots = [state(model)]
    run(preset, model, task=task, progress=lambda *_: snapshots.append(state(model)))
    for step in range(13):
        kind = scheme.stage(step).kind
        moved = differing(snapshots[step], snapshots[step + 1])
        allowed = MOVING[preset, kind]
        for part, prefix in PARTS.items():
            assert any(name.startswith(prefix) for name in moved) == (part in allowed), (step, part)
        # BatchNorm counts only where the features are trained.
        assert any("running_mean" in name for name in moved) == ("g" in allowed)


def test_labels_of_unlabelled_images_are_never_read():
    for changes, seen in (
        ({}, set(range(9))),
        ({"mial": {"iul": False}}, set(LABELLED)),
    ):
        dataset = Dataset()  # whose other labels raise
        assert run(dataset=dataset, changes=changes).second_head is not None
        assert dataset.seen == seen


@pytest.mark.parametrize("stop", [4, 9])
def test_a_killed_training_ends_with_the_same_bytes(stop, tmp_path):
    changes = {"checkpoint_every": 1, "workers": 2}
    whole = run()

    def kill(step, *_):
        if step == stop + 1:
            raise KeyboardInterrupt

    path = tmp_path / "unfinished.safetensors"
    with pytest.raises(KeyboardInterrupt):
        run(progress=kill, checkpoint=path, changes=changes)
    again = run(checkpoint=path, changes=changes)
    assert not differing(state(whole), state(again))


def test_another_training_leaves_the_second_head_out():
    assert run(model=model_of(), changes={"mial": None}).second_head is None


# Signal and strategy


@pytest.mark.parametrize("task", ["classification", "multilabel"])
@pytest.mark.parametrize("signal", [Discrepancy(), Discrepancy("max", squared=True)])
def test_the_signal_by_loops(task, signal, pictures):
    model = make_model(task)
    model.add_second_head(seed=3)
    meter = find_task(task).measured(signal).prepare(make_bench(model))
    with torch.no_grad():
        evidence = model(pictures.double(), meter.catch)
        second = second_logits(model, evidence)
        units = find_task(task).units(*evidence.size, RegionSize.parse("image"))
        values = meter.measure(evidence, units)
    assert values.shape == (3, 1) and values.dtype == torch.float64
    for image, value in enumerate(values[:, 0].tolist()):
        each = []
        for element in range(evidence.size[0]):
            pair = (x[image, :, element, 0].tolist() for x in (evidence.logits, second))
            p1, p2 = map(softmax, pair)
            differences = [
                abs(a - b) ** (2 if signal.squared else 1) for a, b in zip(p1, p2, strict=True)
            ]
            each.append(sum(differences) / len(differences))
        expected = max(each) if signal.reduction == "max" else sum(each) / len(each)
        assert value == pytest.approx(expected)
    with torch.no_grad():
        model.second_head.weight.copy_(model.head.weight)
        model.second_head.bias.copy_(model.head.bias)
        assert meter.measure(evidence, units).abs().max() < 1e-12  # equal heads


def test_an_image_scores_as_alone(model, pictures):
    meter = find_task(model.spec.task).measured(Discrepancy()).prepare(make_bench(model))
    units = find_task(model.spec.task).units(1, 1, RegionSize.parse("image"))
    with torch.no_grad():
        together = meter.measure(model(pictures, meter.catch), units)
        alone = [meter.measure(model(one[None], meter.catch), units) for one in pictures]
    assert torch.allclose(torch.cat(alone), together, rtol=1e-5)


# What is refused


class Headless(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, len(CLASSES))

    def forward(self, images):
        return self.layer(images.mean((2, 3))).tanh() * 3


class LastLayerAlone(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, len(CLASSES))

    def forward(self, images):
        return self.layer(images.mean((2, 3)))


def test_networks_that_will_not_do():
    scheme = InstanceUncertainty(MialSettings(), 13, Loss())
    with pytest.raises(SegalError, match="no last layer"):
        scheme.check(make_model(network=Headless()))
    with pytest.raises(SegalError, match="nothing before the last layer"):
        scheme.check(make_model(network=LastLayerAlone()))
    scheme.check(make_model())


def test_a_network_of_one_head_is_refused_and_not_recommended():
    model = make_model()
    with pytest.raises(SegalError, match=r"one head[\s\S]*train\.mial=true"):
        find_task("classification").measured(Discrepancy()).prepare(make_bench(model))
    check_network(MultipleInstance(), model)  # a training will give it one
    check_network(Entropy(), model)
    measured = find_task("classification").measured(Discrepancy())
    assert not measured.was_added(model)
    model.add_second_head(0)
    assert measured.was_added(model)


def test_pixels_are_not_trained_so():
    settings = TrainSettings(iterations=13, mial=True)
    with pytest.raises(SegalError, match=r"train\.mial: not for segmentation"):
        find_task("segmentation").training_scheme(settings)
    spec = make_spec()
    assert spec.task == "classification"
    for task in ("classification", "multilabel"):
        scheme = find_task(task).training_scheme(settings)
        assert isinstance(scheme, InstanceUncertainty)
