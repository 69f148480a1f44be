"""Training the last part of a network: what lies before stays as it is, to the byte."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segal.errors import SegalError
from segal.functional.labels import keep_regions
from segal.jobs.rounds.run import run_rounds
from segal.jobs.strategies import configure_run
from segal.models.build import build_model, make_spec
from segal.models.spec import ModelSpec
from segal.scenes.synthetic import make_scenes
from segal.tasks.classification.model import ClassificationModel
from segal.tasks.segmentation.model import SegmentationModel
from segal.training.loop import TrainSettings, train
from segal.training.sampling import LabelledRegions
from tests.quick_run import quick_run
from tests.tiny_detectors import build
from tests.unit.test_train import BOXES, CLASSES, Dataset, make_model, weights


class Divided(nn.Module):
    """An encoder of two maps, a decoder that joins them, and a head; all with modes and states."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict(
            {
                "fine": nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU()),
                "coarse": nn.Sequential(
                    nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3)
                ),
            }
        )
        self.encoder.forward = self._maps
        self.join = nn.Conv2d(14, 8, 1)
        self.between = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Conv2d(8, len(CLASSES), 1)

    def _maps(self, images):
        fine = self.encoder["fine"](images)
        return [images, fine, self.encoder["coarse"](fine)]

    def forward(self, images):
        _, fine, coarse = self.encoder(images)
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)
        joined = self.join(torch.cat([fine, coarse], 1)).relu()
        low = self.head(self.dropout(self.between(joined)))
        return F.interpolate(low, images.shape[-2:], mode="bilinear", align_corners=True)


def divided(seed=0):
    torch.manual_seed(seed)
    spec = ModelSpec("own", "", CLASSES, (0.5,) * 3, (0.25,) * 3, stride=4)
    return SegmentationModel(Divided(), spec)


def plain(**changes):
    """Settings of samples that are whole images as they are."""
    usual = {"iterations": 4, "batch_size": 2, "lr": 0.05, "workers": 0, "optimizer": "sgd"}
    whole = {"augment": "none", "crop": "image", "validate_every": 0}
    return TrainSettings(**{**usual, **whole, **changes})


TRAINED = {
    "last": ("head",),
    "last_two": ("between", "dropout", "head"),
    "between": ("between", "dropout", "head"),
    "join": ("join", "between", "dropout", "head"),
    "decoder": ("join", "between", "dropout", "head"),
}


@pytest.mark.parametrize("layers", TRAINED)
def test_what_lies_before_keeps_its_bytes(layers):
    model, dataset = divided(), Dataset()
    before = weights(model)
    train(model, dataset, plain(layers=layers), seed=3, labelled=BOXES)
    changed = {key for key, value in weights(model).items() if not torch.equal(value, before[key])}
    kept = before.keys() - changed
    assert all(key.startswith(TRAINED[layers]) for key in changed)
    assert not [key for key in kept if key.startswith(TRAINED[layers])]
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("layers", TRAINED)
def test_is_a_plain_loop_without_gradients_of_what_lies_before(layers):
    """The oracle knows names of modules only: a loop in PyTorch with `requires_grad` False."""
    settings, dataset, seed = plain(layers=layers), Dataset(), 5
    model = divided()
    train(model, dataset, settings, seed=seed, labelled=BOXES)

    network = divided().network
    after = [getattr(network, name) for name in TRAINED[layers]]
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for module in after:
        for parameter in module.parameters():
            parameter.requires_grad_(True)
    moving = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(moving, 1.0, settings.momentum, weight_decay=settings.weight_decay)
    for step in range(settings.iterations):
        network.eval()
        for module in after:
            module.train()
        images, labels = _batch(dataset, settings, seed, step)
        torch.manual_seed(_step_seed(seed, step))
        optimizer.param_groups[0]["lr"] = settings.learning_rate(step)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels, ignore_index=255).backward()
        optimizer.step()
    for key, value in network.state_dict().items():
        assert torch.allclose(value, model.network.state_dict()[key], atol=1e-6), key


def _step_seed(seed, step):
    return int(np.random.SeedSequence([seed, 2, step]).generate_state(1, np.uint64)[0])


def _batch(dataset, settings, seed, step):
    """The samples of a step, by the order that `Samples` draws."""
    regions = LabelledRegions.of(dataset, BOXES)
    images, labels = [], []
    for number in range(step * settings.batch_size, (step + 1) * settings.batch_size):
        lap, position = divmod(number, len(regions.images))
        order = regions.order(np.random.default_rng([seed, 0, lap]))
        image = int(regions.images[order[position]])
        pixels = torch.from_numpy(dataset.images[image]).permute(2, 0, 1) / 255
        images.append((pixels - 0.5) / 0.25)
        labels.append(torch.from_numpy(keep_regions(dataset.labels[image], BOXES[image])))
    return torch.stack(images), torch.stack(labels).long()


def test_goes_on_after_an_interruption_with_the_same_weights(tmp_path):
    settings, file = plain(layers="last", iterations=6, checkpoint_every=3), tmp_path / "s.st"
    whole, cut = divided(), divided()
    train(whole, Dataset(), settings, seed=1, labelled=BOXES)

    def stop(step, *_):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cut, Dataset(), settings, seed=1, labelled=BOXES, checkpoint=file, progress=stop)
    again = divided()
    train(again, Dataset(), settings, seed=1, labelled=BOXES, checkpoint=file)
    assert all(torch.equal(value, weights(again)[key]) for key, value in weights(whole).items())


@pytest.mark.parametrize("architecture", ["Unet", "DeepLabV3Plus"])
def test_the_decoder_of_a_library_is_all_but_its_encoder(architecture):
    torch.manual_seed(0)
    model = build_model(make_spec(architecture, "mobilenet_v2", CLASSES))
    cut = model.cut("decoder")
    own = {id(p) for p in model.network.encoder.parameters()}
    assert {id(p) for p in cut.frozen_parameters()} == own
    assert not {id(p) for p in cut.trained_parameters()} & own
    assert set(model.network.encoder.modules()) <= set(cut.frozen_modules())


def test_all_is_as_if_nothing_was_said():
    assert plain().identity() == plain(layers="all").identity()
    assert plain(layers="last").identity() != plain().identity()


@pytest.mark.parametrize(
    ("layers", "words"),
    [("heed", "did you mean 'head'"), ("encoder.coarse.7", "did you mean 'encoder.coarse")],
)
def test_a_layer_that_does_not_exist(layers, words):
    with pytest.raises(SegalError, match=words):
        divided().cut(layers)


def test_a_network_without_an_encoder():
    with pytest.raises(SegalError, match="no encoder that is told from the rest"):
        make_model().cut("decoder")


def test_a_layer_is_looked_for_before_work_starts(tmp_path):
    scenes = tmp_path / "scenes"
    make_scenes(scenes, splits={"train": 3, "val": 2}, size=(32, 64), seed=0)
    raw = quick_run(scenes, {"layers": "7"}, budgets=["1"], out=str(tmp_path / "run"))
    with pytest.raises(SegalError, match="no part to train '7'") as refused:
        run_rounds(*configure_run(raw))
    assert "decoder, or the name of a module" in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_the_last_layer_of_a_network_of_whole_images():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    network.append(nn.Linear(4, 3))
    spec = ModelSpec("own", "", CLASSES, (0.5,) * 3, (0.5,) * 3, 1, task="classification")
    model = ClassificationModel(network, spec)
    dataset = Dataset()
    dataset.labels = [np.full((1, 1), i % 3) for i in range(len(dataset.labels))]
    dataset.pool.size = lambda index: (1, 1)
    before = weights(model)
    train(model, dataset, plain(layers="last"), seed=0)
    changed = [key for key, value in weights(model).items() if not torch.equal(value, before[key])]
    assert changed == ["4.weight", "4.bias"]


@pytest.mark.parametrize(("layers", "problem"), [("last", "of a detector"), ("head", "detector")])
def test_a_detector_has_no_last_layer(layers, problem):
    with pytest.raises(SegalError, match=problem):
        build("ssd").cut(layers)


def test_the_decoder_of_a_detector_is_all_but_its_backbone():
    model = build("ssd")
    backbone = {id(p) for p in model.network.backbone.parameters()}
    assert {id(p) for p in model.cut("decoder").frozen_parameters()} == backbone
