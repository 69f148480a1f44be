import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segal.candidates.regions import RegionSize
from segal.errors import SegalError
from segal.models.spec import ModelSpec
from segal.tasks.losses import Loss
from segal.tasks.segmentation.evaluation import SegmentationMetrics
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation
from tests.batched import Batched

CLASSES = ("road", "car", "sky", "train")


class Network(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Conv2d(6, classes, 1)

    def forward(self, images):
        low = self.head(self.norm(self.body(images)).relu())
        return F.interpolate(low, images.shape[-2:], mode="bilinear", align_corners=True)


def make_model(classes=CLASSES):
    torch.manual_seed(0)
    spec = ModelSpec("own", "", classes, (0.5,) * 3, (0.25,) * 3, stride=2)
    return SegmentationModel(Network(len(classes)), spec)


class Pool(Batched):
    root = "memory"

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def size(self, index):
        return self.images[index].shape[:2]

    shape = size

    def read(self, index):
        return self.images[index]


class Dataset:
    """Images of two sizes with labels, some of them void; no pixel is of the last class."""

    def __init__(self, count=7, names=CLASSES):
        generator = np.random.default_rng(0)
        sizes = [(20, 31) if i % 3 else (33, 16) for i in range(count)]
        self.images = [generator.integers(0, 256, (*s, 3), dtype=np.uint8) for s in sizes]
        self.labels = [generator.integers(0, 3, s, dtype=np.uint8) for s in sizes]
        for label in self.labels:
            label[generator.random(label.shape) < 0.2] = 255
        self.pool = Pool(self.images)
        self.classes = SimpleNamespace(names=names)

    def read_label(self, index):
        return self.labels[index]


def inputs(model, batch=2):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, 18, 22, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 4, (batch, 18, 22), dtype=torch.uint8, generator=generator)
    labels[0, :9] = 255
    return model.normalise(images), labels


def test_loss_is_the_mean_over_labelled_pixels_of_the_batch():
    model = make_model().eval()
    images, labels = inputs(model)
    log_p = model(images).logits.double().log_softmax(1)
    losses = [
        -log_p[b, int(labels[b, y, x]), y, x].item()
        for b in range(2)
        for y in range(18)
        for x in range(22)
        if labels[b, y, x] != 255
    ]
    loss = Segmentation().training_loss(model, images, labels)
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_class_weights_as_in_torch():
    model = make_model().eval()
    images, labels = inputs(model)
    weights = [0.5, 2.0, 0.0, 1.0]
    expected = F.cross_entropy(
        model(images).logits, labels.long(), torch.tensor(weights), ignore_index=255
    )
    weighted = Loss(weights=torch.tensor(weights))
    loss = Segmentation().training_loss(model, images, labels, weighted)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 0.0, 1.0]])
def test_no_labelled_pixel_gives_zero_and_no_nan(weights):
    model = make_model().train()
    images, labels = inputs(model)
    labels[:] = 255 if weights is None else 2
    weighted = Loss(weights=None if weights is None else torch.tensor(weights))
    loss = Segmentation().training_loss(model, images, labels, weighted)
    loss.backward()
    assert loss.item() == 0
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_void_pixels_do_not_change_the_gradient():
    model = make_model().eval()
    images, labels = inputs(model, batch=1)
    Segmentation().training_loss(model, images, labels).backward()
    alone = model.head.weight.grad.clone()
    model.zero_grad()
    void = torch.full_like(labels, 255)
    both = torch.cat([images, images + 1]), torch.cat([labels, void])
    Segmentation().training_loss(model, *both).backward()
    torch.testing.assert_close(model.head.weight.grad, alone)


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (2, 1), (3, 3), (50, 2)])
def test_evaluate_equals_one_image_at_a_time(batch_size, workers):
    model, dataset = make_model().train(), Dataset()
    expected = np.zeros((4, 4), np.int64)
    model.eval()
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        with torch.no_grad():
            logits = model(model.normalise(torch.from_numpy(image)[None])).logits
        predicted = logits[0].argmax(0).numpy()
        for truth in range(4):
            counts = np.bincount(predicted[label == truth], minlength=4)
            expected[truth] += counts
    model.train()
    seen = []
    before = {k: v.clone() for k, v in model.state_dict().items()}
    metrics = Segmentation().evaluate(
        model,
        dataset,
        batch_size=batch_size,
        workers=workers,
        progress=lambda done, total: seen.append((done, total)),
    )
    np.testing.assert_array_equal(metrics.confusion, expected)
    assert seen[-1] == (7, 7)
    assert model.training, "the mode is put back"
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), "evaluation must not touch BatchNorm"


def test_metrics_of_a_matrix():
    confusion = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 4, 0], [0, 0, 0, 0]])
    metrics = SegmentationMetrics.of(confusion, CLASSES)
    assert metrics.iou["road"] == pytest.approx(6 / 9)
    assert math.isnan(metrics.iou["train"])
    assert metrics.absent == 1
    assert metrics.miou == pytest.approx((6 / 9 + 3 / 6 + 1) / 3)
    assert metrics.accuracy == pytest.approx(13 / 16)
    stored = json.loads(json.dumps(metrics.as_dict(), allow_nan=False))
    assert stored["iou"]["train"] is None
    assert stored["confusion"] == confusion.tolist()


def test_half_precision_is_close():
    model, dataset = make_model(), Dataset()
    exact = Segmentation().evaluate(model, dataset)
    half = Segmentation().evaluate(model, dataset, precision="bf16")
    assert half.confusion.sum() == exact.confusion.sum()
    assert np.abs(half.confusion - exact.confusion).sum() < 0.1 * exact.confusion.sum()


def test_another_number_of_classes_is_refused():
    with pytest.raises(SegalError, match="labels of other classes"):
        Segmentation().evaluate(make_model(CLASSES[:3]), Dataset())


def test_units_and_evidence():
    model = make_model().eval()
    images, _ = inputs(model)
    units = Segmentation().units(18, 22, RegionSize.parse("8x10"))
    assert len(units) == 9
    assert units.boxes()[-1].tolist() == [20, 16, 22, 18]
    evidence = Segmentation().evidence(model, images, ("last",))
    assert evidence.logits.shape == (2, 4, 18, 22)
    torch.testing.assert_close(evidence.tail_input["last"], evidence.features)
