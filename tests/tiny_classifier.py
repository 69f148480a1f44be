"""A network of whole images, small enough for tests, and elements of such images for a bench."""

import numpy as np
import torch
from torch import Tensor, nn

from segal.data.image_sets import ImageSet
from segal.models.spec import ModelSpec
from segal.scanning.workbench import Bench, ScanSettings
from segal.tasks.classification.model import ClassificationModel
from segal.tasks.segmentation.task import Segmentation
from tests.batched import Batched

CLASSES = ("cat", "dog", "hen", "cow")
SIDE = 12


class TinyClassifier(nn.Module):
    """Two stages of convolutions, the mean over the image, dropout and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.BatchNorm2d(5), nn.ReLU()
        )
        self.stage2 = nn.Sequential(nn.Conv2d(5, 7, 3, stride=2, padding=1), nn.ReLU())
        self.dropout = nn.Dropout(0.3)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(7, num_classes))

    def features(self, images: Tensor) -> Tensor:
        """(B, 7), the input of the last layer."""
        maps = self.stage2(self.stage1(images))
        features: Tensor = self.dropout(maps.mean((2, 3)))
        return features

    def forward(self, images: Tensor) -> Tensor:
        """(B, num_classes) logits."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def build(num_classes: int) -> TinyClassifier:
    """Called by segal with the number of classes."""
    return TinyClassifier(num_classes)


def make_spec(task="classification", architecture="tests.tiny_classifier:build", **given):
    values = {"class_names": CLASSES, "mean": (0.5,) * 3, "std": (0.2,) * 3, "stride": 1, **given}
    return ModelSpec(architecture, "", task=task, **values)


def make_model(task="classification", network=None):
    """In float64, with statistics of BatchNorm that are not trivial."""
    torch.manual_seed(0)
    network = TinyClassifier(len(CLASSES)) if network is None else network
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_()
    return ClassificationModel(network, make_spec(task)).double().eval()


class Elements(Batched):
    """A pool of images of noise, that are one element each, or one a class; and their labels."""

    def __init__(self, count, elements, classes):
        rng = np.random.default_rng(3)
        self.paths = [f"{i:02d}.png" for i in range(count)]
        self._images = rng.random((count, SIDE, SIDE, 3))
        self._labels = rng.integers(0, classes, (count, *elements)).astype(np.uint8)
        self._elements = elements

    def __len__(self):
        return len(self.paths)

    def size(self, index):
        return self._elements

    def shape(self, index):
        return SIDE, SIDE

    def read(self, index):
        return self._images[index]

    def read_label(self, index):
        return self._labels[index]


class Doubled(Segmentation):
    """Evidence in double precision: the images that a model is given are single."""

    def evidence(self, model, images, catch=()):
        return model(images.double(), catch)


def make_bench(model, count=7):
    elements, classes = ((4, 1), 2) if model.spec.task == "multilabel" else ((1, 1), 4)
    pool = Elements(count, elements, classes)
    sets = {name: ImageSet(pool, pool) for name in ("val", "labelled", "initial")}
    sets["pool"] = ImageSet(pool, None)
    return Bench(model, Doubled(), ScanSettings(torch.device("cpu"), batch_size=3), sets)
