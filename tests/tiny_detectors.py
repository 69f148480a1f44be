"""Tiny detectors that tests share."""

import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator

from segal.models.build import build_network, make_spec
from segal.models.two_heads import TwoHeadSSD
from segal.tasks.detection.model import DetectionModel

CLASSES = ("red", "white", "platelet")
SIZES = ((70, 110), (130, 90))
SMALL = {"min_size": 64, "max_size": 112}

FEW = {"rpn_post_nms_top_n_test": 40, "rpn_post_nms_top_n_train": 20, "box_score_thresh": 0.1}

FAMILIES = {
    "fasterrcnn": ("resnet18", {**SMALL, **FEW}),
    "retinanet": ("mobilenet_v2", {**SMALL, "topk_candidates": 50, "detections_per_img": 40}),
    "fcos": ("resnet18", {**SMALL, "topk_candidates": 50}),
    "ssd": ("", {}),
    "ssdlite320_mobilenet_v3_large": ("", {"topk_candidates": 50}),
}


def spec_of(name, classes=CLASSES):
    encoder, options = FAMILIES[name]
    if name == "ssd":  # 300 pixels and VGG-16 are slow: a network of the user's own
        return make_spec("tests.tiny_detectors:small_ssd", "", classes, task="detection")
    return make_spec(f"torchvision:{name}", encoder, classes, options=options, task="detection")


def build(name, classes=CLASSES, seed=0):
    """A detector that tells classes and places apart, which an untrained one does not."""
    torch.manual_seed(seed)
    spec = spec_of(name, classes)
    model = DetectionModel(build_network(spec), spec)
    enliven(model)
    return model.eval()


@torch.no_grad()
def enliven(model):
    """BatchNorm has seen images, and class towers and layers neither vanish nor agree."""
    network = model.network.train()
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.momentum = 1.0
    head = getattr(network, "head", None)
    for layer in getattr(getattr(head, "classification_head", None), "conv", nn.Module()).modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    inputs, _ = network.transform(list(images(3, seed=7)))
    maps = network.backbone(inputs.tensors)
    if head is not None:
        head(list(maps.values()))
    for layer in model.last_layers():
        fan_in = layer.weight[0].numel()
        nn.init.normal_(layer.weight, std=6 / fan_in**0.5)
        nn.init.zeros_(layer.bias)
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    network.eval()


class TwoMaps(nn.Module):
    """A backbone of two maps of unequal width."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=8, padding=1)
        self.second = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.out_channels = [8, 12]

    def forward(self, x):
        first = self.first(x).relu()
        return {"0": first, "1": self.second(first).relu()}


def small_ssd(num_classes):
    return detection.ssd.SSD(
        TwoMaps(), DefaultBoxGenerator([[2], [2, 3]]), (64, 96), num_classes + 1
    )


def images(count=1, size=SIZES[0], seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=generator)


class NormedMaps(TwoMaps):
    """With a BatchNorm, which counts what it sees in training."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        first = self.norm(self.first(x)).relu()
        return {"0": first, "1": self.second(first).relu()}


def small_mial_ssd(num_classes):
    return TwoHeadSSD(NormedMaps(), DefaultBoxGenerator([[2], [2, 3]]), (64, 96), num_classes + 1)


def two_heads(kind, classes=CLASSES, seed=0):
    """A detector with two class heads: `own` and `shared` towers of a RetinaNet, or an `ssd`."""
    torch.manual_seed(seed)
    options = {**FAMILIES["retinanet"][1], "towers": kind}
    if kind == "ssd":
        spec = make_spec("tests.tiny_detectors:small_mial_ssd", "", classes, task="detection")
    else:
        spec = make_spec(
            "torchvision:mial_retinanet", "mobilenet_v2", classes, options=options, task="detection"
        )
    model = DetectionModel(build_network(spec), spec)
    enliven(model)
    for head in (model.network.head.second_head, model.network.head.mil_head):
        for name, parameter in head.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=1.4 / parameter[0].numel() ** 0.5)
            else:
                nn.init.zeros_(parameter)
    return model.eval()
