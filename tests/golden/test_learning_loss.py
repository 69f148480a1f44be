"""Predicted losses through the scan, and whether a trained module predicts losses at all."""

import copy
import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn

from segal.candidates.regions import Boxes, RegionSize
from segal.candidates.table import CandidateTable
from segal.data.pool import open_pool
from segal.errors import SegalError
from segal.models.spec import ModelSpec
from segal.models.wrapped import FEATURE_MAPS
from segal.scanning.scan import LABELLED_FOLDER, Scan, ScanSettings
from segal.signals import PredictedLoss
from segal.strategies.learning_loss import LearningLoss
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation
from segal.training.loop import TrainSettings, train
from tests.batched import Batched

REGIONS = ("image", "32", "16x24")


def scan(pool, model, folder, **changes):
    settings = {"device": torch.device("cpu"), **changes}
    Scan(
        pool=pool,
        task=Segmentation(),
        regions=[RegionSize.parse(region) for region in REGIONS],
        settings=ScanSettings(**settings),
        signals=[PredictedLoss()],
        model=model,
        labelled={0: [(3, 5, 40, 33)]},
    ).run(folder)
    return {name: CandidateTable.open(folder / name) for name in (*REGIONS, LABELLED_FOLDER)}


@pytest.fixture(scope="module")
def predicting(model):
    """The shared network with a module; its weights are random."""
    network = copy.deepcopy(model)
    network.add_loss_prediction(0)
    return network


def dense(model, image):
    """The feature maps of an image at pixel resolution, in float64, all the long way round."""
    wide = copy.deepcopy(model).double()
    height, width = image.shape[:2]
    padded = F.pad(
        (torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255.0).double(),
        (0, -width % 16, 0, -height % 16),
        mode="replicate",
    )
    mean = torch.tensor(model.spec.mean, dtype=torch.float64)[:, None, None]
    std = torch.tensor(model.spec.std, dtype=torch.float64)[:, None, None]
    with torch.no_grad():
        features = wide.network.encoder((padded - mean) / std)
        maps = [*features[1:], wide.network.decoder(features)]
        size = padded.shape[-2:]
        maps = [F.interpolate(x, size, mode="bilinear", align_corners=True) for x in maps]
    return wide.loss_prediction, [x[0, :, :height, :width] for x in maps]


def test_equals_brute_force_over_dense_float64_maps(image_folder, predicting, tmp_path):
    pool = open_pool(image_folder).subset([0, 2, 5])
    tables = scan(pool, predicting, tmp_path / "candidates", batch_size=2)
    known = [dense(predicting, pool.read(i)) for i in range(len(pool))]
    for table in tables.values():
        expected = []
        for (x0, y0, x1, y1), image in zip(table.box, table.image, strict=True):
            module, maps = known[image]
            hidden = [
                (layer.weight @ x[:, y0:y1, x0:x1].mean((1, 2)) + layer.bias).clamp(min=0)
                for layer, x in zip(module.maps, maps, strict=True)
            ]
            output = module.output
            expected.append((output.weight[0] @ torch.cat(hidden) + output.bias[0]).item())
        np.testing.assert_allclose(table.values["predicted_loss"], expected, rtol=1e-4)
        assert len(table) == 1 or np.ptp(expected) > 0.01


def test_batches_do_not_change_it(image_folder, predicting, tmp_path):
    pool = open_pool(image_folder)
    first = scan(pool, predicting, tmp_path / "a")
    second = scan(pool, predicting, tmp_path / "b", batch_size=3, workers=2)
    for name in REGIONS:
        values = [tables[name].values["predicted_loss"] for tables in (first, second)]
        np.testing.assert_allclose(*values, rtol=0, atol=1e-5 * np.abs(values).max())


def test_a_network_without_a_module_is_refused_before_the_pass(
    image_folder, model, tmp_path, monkeypatch
):
    pool = open_pool(image_folder)
    monkeypatch.setattr(type(pool), "read", lambda *_: pytest.fail("an image was read"))
    with pytest.raises(SegalError, match="predicts no losses") as caught:
        scan(pool, model, tmp_path / "candidates")
    assert "train.learning_loss=true" in caught.value.remedy
    assert list(tmp_path.glob("candidates*")) == []


# Whether it learns


class Encoder(nn.Module):
    """Two maps, as encoders of smp return them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 16, 3, stride=2, padding=1)

    def forward(self, images):
        first = self.first(images).relu()
        return [first, self.second(first).relu()]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder()
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, images):
        low = self.head(self.encoder(images)[-1])
        return F.interpolate(low, images.shape[-2:], mode="bilinear", align_corners=True)


class Noisy(Batched):
    """Dark and light patches under noise; wrong labels go by how red an image is."""

    classes = SimpleNamespace(names=("dark", "light"))

    def __init__(self, count, harder, seed):
        rng = np.random.default_rng(seed)
        self.images, self.labels = [], []
        for red in rng.uniform(0, 1, count):
            label = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8), int))
            image = np.repeat((80 + 100 * label)[..., None], 3, 2) + rng.normal(0, 20, (32, 32, 3))
            image[..., 0] = 255 * red
            wrong = rng.random((32, 32)) < 0.5 * (red if harder == "red" else 1 - red)
            self.images.append(image.clip(0, 255).astype(np.uint8))
            self.labels.append(np.where(wrong, 1 - label, label).astype(np.uint8))
        self.pool, self.root = self, "made"
        self.paths = [f"{i}.png" for i in range(count)]
        self.infos = [SimpleNamespace(digest=hashlib.sha256(i).hexdigest()) for i in self.images]

    def __len__(self):
        return len(self.images)

    def size(self, index):
        return self.images[index].shape[:2]

    shape = size

    def read(self, index):
        return self.images[index]

    def read_label(self, index):
        return self.labels[index]

    def digest(self, indices=None):
        return "labels"


@pytest.mark.parametrize("harder", ["red", "not red"])
def test_a_trained_module_ranks_by_loss(harder):
    torch.manual_seed(0)
    spec = ModelSpec("own", "", ("dark", "light"), (0.5,) * 3, (0.25,) * 3, stride=4)
    model = SegmentationModel(Network(), spec)
    settings = TrainSettings(
        iterations=120, batch_size=8, crop="16", scale=(1, 1), colour_jitter=0, lr=0.05,
        workers=0, learning_loss=True,
    )  # fmt: skip
    train(model, Noisy(40, harder, seed=0), settings, seed=0)

    held_out = Noisy(30, harder, seed=1)
    images = model.normalise(torch.from_numpy(np.stack(held_out.images)))
    labels = torch.from_numpy(np.stack(held_out.labels)).long()
    with torch.no_grad():
        evidence = model(images, (FEATURE_MAPS,))
        losses = F.cross_entropy(evidence.logits, labels, reduction="none")
    # Whole images, and quarters of them, which the module never saw.
    boxes = {1: [(0, 0, 32, 32)], 4: [(x, y, x + 16, y + 16) for y in (0, 16) for x in (0, 16)]}
    for count, chosen in boxes.items():
        with torch.no_grad():
            predicted = model.loss_prediction.of_units(
                evidence.maps, Boxes(tuple(chosen)), evidence.upsampling
            )
        true = torch.stack([losses[:, y0:y1, x0:x1].mean((1, 2)) for x0, y0, x1, y1 in chosen], 1)
        assert predicted.shape == (30, count)
        assert spearmanr(predicted.flatten(), true.flatten()).statistic > 0.8


# The strategy


def table_of(scores):
    count = len(scores)
    box = np.array([(i, 0, i + 1, 1) for i in range(count)], np.int32)
    return CandidateTable(
        ("a.png",), np.zeros(count, np.int32), box, np.ones(count, np.int64),
        {"predicted_loss": np.array(scores, float)},
    )  # fmt: skip


def pick(strategy, table, count, seed=0):
    nothing = table.view(np.zeros(0, np.int64), np.zeros(0, np.int64))
    return strategy.select(table, nothing, count, torch.Generator().manual_seed(seed))


def test_the_largest_predictions_are_picked_lowest_id_first_among_equals():
    picks = pick(LearningLoss(), table_of([0.1, 3.0, -2.0, 3.0, 0.5]), 4)
    assert picks.rows.tolist() == [1, 3, 4, 0]
    assert picks.scores.tolist() == [3.0, 3.0, 0.5, 0.1]
    assert picks.notes == ()


@pytest.mark.parametrize(("subset", "size"), [("30%", 30), ("7", 7), (25, 25), ("0.1%", 1)])
def test_a_random_subset_comes_first(subset, size):
    scores = np.random.default_rng(0).permutation(100).astype(float)
    table = table_of(scores)
    whole = pick(LearningLoss(subset=subset), table, 100)
    first, rest = whole.rows[:size], whole.rows[size:]
    expected = torch.randperm(100, generator=torch.Generator().manual_seed(0))[:size].tolist()
    assert set(first.tolist()) == set(expected)
    for part in (first, rest):
        assert (np.diff(scores[part]) < 0).all()
    assert f"{100 - size} picks are of the rest" in whole.notes[0]
    assert pick(LearningLoss(subset=subset), table, size).notes == ()
    other = pick(LearningLoss(subset=subset), table, 100, seed=1)
    assert other.rows.tolist() != whole.rows.tolist()


@pytest.mark.parametrize("subset", ["0", "0%", "101%", "-3", "ten", "", "1.5", True])
def test_bad_subsets(subset):
    with pytest.raises(ValueError, match="subset"):
        LearningLoss(subset=subset)
