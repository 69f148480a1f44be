"""A small network in float64, images and labels for it, and its last layers written out."""

import dataclasses

import cv2
import numpy as np
import torch
from torch import nn

from segal.data.image_sets import ImageSet
from segal.data.pool import open_pool
from segal.models.build import make_spec
from segal.scanning.workbench import Bench, ScanSettings
from segal.tasks.segmentation.model import SegmentationModel
from segal.tasks.segmentation.task import Segmentation

CLASSES = ("road", "building", "sky", "car", "tree")
SIZES = [(30, 41), (30, 41), (24, 36)]
BOXES = {0: [(3, 2, 25, 20)], 2: [(0, 0, 36, 9), (30, 20, 36, 24)]}


class Network(nn.Module):
    """Cells of four pixels, a 1 x 1 convolution, BatchNorm, ReLU, a head, upsampling."""

    def __init__(self, num_classes):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, stride=4, padding=1)
        self.pointwise = nn.Conv2d(6, 7, 1, bias=False)
        self.norm = nn.BatchNorm2d(7)
        self.activation = nn.ReLU()
        self.head = nn.Conv2d(7, num_classes, 1)
        self.upsampling = nn.UpsamplingBilinear2d(scale_factor=4)
        self.norm.running_var.uniform_(0.5, 2.0)
        self.norm.running_mean.normal_()
        self.double()

    def forward(self, images):
        cells = self.norm(self.pointwise(self.stem(images.double())))
        return self.upsampling(self.head(self.activation(cells)))


class Labels:
    """Labels in memory, a tenth of them void."""

    def __init__(self, num_classes=5):
        generator = torch.Generator().manual_seed(7)
        self.maps = []
        for size in SIZES:
            label = torch.randint(num_classes, size, generator=generator)
            label[torch.rand(size, generator=generator) < 0.1] = 255
            self.maps.append(label.to(torch.uint8).numpy())

    def read_label(self, index):
        return self.maps[index]


def make_model(num_classes=5):
    torch.manual_seed(0)
    spec = make_spec("DeepLabV3Plus", "resnet18", CLASSES[:num_classes])
    return SegmentationModel(Network(num_classes), dataclasses.replace(spec, stride=4)).eval()


def make_pool(folder):
    rng = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        cv2.imwrite(str(folder / f"{i}.png"), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return open_pool(folder)


def make_sets(pool, num_classes=5):
    """Reference: everything; labelled: some boxes; pool: the rest."""
    labels = Labels(num_classes)
    return {
        "val": ImageSet(pool, labels),
        "labelled": ImageSet(pool, labels, inside=BOXES),
        "pool": ImageSet(pool, None, outside=BOXES),
    }


def make_bench(model, sets, seed=0, **settings):
    scan_settings = ScanSettings(torch.device("cpu"), **settings)
    return Bench(model, Segmentation(), scan_settings, sets, seed)


def dense(bench, of, layers):
    """A set's pixels as a function from flat parameters to (N, C) logits, these, and labels."""
    tail = bench.model.tail(layers)
    visits = list(bench.visit(of, [layers]))
    labels = [
        visit.evidence.logits.argmax(1)[visit.mask] if of == "pool" else visit.labels[visit.mask]
        for visit in visits
    ]

    def logits(flat):
        parameters = unflatten(tail, flat)
        maps = [
            tail(v.evidence.tail_input[layers], parameters, v.mask.shape[1:], v.evidence.upsampling)
            for v in visits
        ]
        by_pixel = [z.movedim(1, -1)[v.mask] for z, v in zip(maps, visits, strict=True)]
        return torch.cat(by_pixel)

    return logits, flatten(tail.parameters), torch.cat(labels)


def flatten(parameters):
    return torch.cat([part.detach().flatten() for part in parameters.values()])


def unflatten(tail, flat):
    parts = flat.split([p.numel() for p in tail.parameters.values()])
    named = zip(tail.parameters.items(), parts, strict=True)
    return {name: part.view(p.shape) for (name, p), part in named}


def gauss_newton(logits, at):
    """The Gauss-Newton matrix of the mean cross-entropy."""
    jacobian = torch.func.jacrev(logits)(at)
    p = logits(at).softmax(1)
    s = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    return torch.einsum("nci,nck,nkj->ij", jacobian, s, jacobian) / len(p)
