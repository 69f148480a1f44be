"""Directional maps against one backward pass per region through the real network, in float64."""

from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import segmentation as torchvision
from torchvision.models.segmentation.fcn import FCN, FCNHead

from segal.candidates.regions import RegionSize
from segal.functional.directional import directional_map, general_tangent
from segal.models.build import build_model, make_spec
from segal.signals.labels import Pseudo, TopK, residual
from segal.tasks.segmentation.model import SegmentationModel

CLASSES = ("road", "car", "sky", "tree", "person")
SMP = ["DeepLabV3Plus", "DeepLabV3", "Unet", "FPN", "PSPNet", "Linknet", "PAN"]
BOTH_BY_HAND = {"DeepLabV3Plus", "Linknet"}
NO_LAST_TWO = {"FPN", "PAN"}


def of_torchvision(name):
    """Its networks return a dictionary, and have a part that is not asked."""
    if name == "fcn":
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))

        class Backbone(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = backbone

            def forward(self, images):
                return {"out": self.body(images)}

        return FCN(Backbone(), FCNHead(8, len(CLASSES)))
    return torchvision.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=len(CLASSES), aux_loss=True
    )


@cache
def network(name, input_scale=1.0):
    """In float64, with BatchNorms whose every number matters."""
    if input_scale != 1:
        model = network(name)
        return SegmentationModel(model.network, replace(model.spec, input_scale=input_scale)).eval()
    torch.manual_seed(3)
    if name in SMP:
        model = build_model(make_spec(name, "resnet18", CLASSES))
    else:
        spec = make_spec(f"torchvision.like:{name}", class_names=CLASSES)
        model = SegmentationModel(of_torchvision(name), spec)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0, 0.2)
    return model.double().eval()


def noise(height, width, batch=1):
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def a_direction(tail):
    generator = torch.Generator().manual_seed(7)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in tail.parameters.items()
    }


def inner(gradients, direction):
    """Of what autograd gives and a direction; a parameter that is not used has no gradient."""
    pairs = zip(gradients, direction.values(), strict=True)
    return sum((g * v).sum() for g, v in pairs if g is not None)


def one_backward_per_region(model, layers, images, direction, regions, weights=None):
    """<gradient of the region's mean loss, v> for each region of each image: (B, units)."""
    tail = model.tail(layers)
    logits = model(images).logits
    if weights is None:
        losses = F.cross_entropy(logits, logits.argmax(1), reduction="none")
    else:
        losses = -(weights(logits.softmax(1)).detach() * logits.log_softmax(1)).sum(1)
    boxes = regions.grid(*images.shape[-2:]).boxes().tolist()
    parameters = list(tail.parameters.values())
    return torch.tensor(
        [
            [
                float(
                    inner(
                        torch.autograd.grad(
                            loss[y0:y1, x0:x1].mean(),
                            parameters,
                            retain_graph=True,
                            allow_unused=True,
                        ),
                        direction,
                    )
                )
                for x0, y0, x1, y1 in boxes
            ]
            for loss in losses
        ],
        dtype=torch.float64,
    )


def the_map(model, tail, images, direction, rule=None, with_features=True):
    """Every pixel's derivative, from one forward pass."""
    with torch.no_grad():
        evidence = model(images, (tail.name,))
        low = tail.tangent(
            evidence.tail_input[tail.name],
            direction,
            evidence.features if with_features else None,
        )
        tangent = tail.upsample(low, images.shape[-2:], evidence.upsampling)
        return directional_map(residual(evidence, rule or Pseudo()), tangent)


def check(model, layers, images, sizes, rule=None):
    tail = model.tail(layers)
    direction = a_direction(tail)
    elements = the_map(model, tail, images, direction, rule)
    for size in sizes:
        regions = RegionSize.parse(size)
        sums, counts = regions.grid(*images.shape[-2:]).pool(elements[:, None])
        weights = None if rule is None else rule.weights
        expected = one_backward_per_region(model, layers, images, direction, regions, weights)
        atol = 1e-12 * float(expected.abs().max())
        torch.testing.assert_close(sums[..., 0] / counts, expected, rtol=1e-10, atol=atol)
    return elements, direction


@pytest.mark.parametrize("layers", ["last", "last_two", "decoder.block2.0"])
@pytest.mark.parametrize(
    ("size", "regions"),
    [((64, 64), ["32", "image"]), ((65, 79), ["24x40"]), ((33, 50), ["17x23", "64"])],
)
def test_regions_of_every_size(layers, size, regions):
    """Sizes that do not divide the image, so that border regions are clipped; padded images."""
    check(network("DeepLabV3Plus"), layers, noise(*size, batch=2), regions)


def test_what_each_tail_differentiates_by():
    model = network("DeepLabV3Plus")
    names = {id(value): name for name, value in model.network.named_parameters()}

    def parameters(layers):
        return [names[id(value)] for value in model.tail(layers).parameters.values()]

    head = ["segmentation_head.0.weight", "segmentation_head.0.bias"]
    assert parameters("last") == head
    assert parameters("last_two") == ["decoder.block2.0.1.weight", *head]
    assert parameters("decoder.block2.0") == [
        "decoder.block2.0.0.weight",
        "decoder.block2.0.1.weight",
        "decoder.block2.1.weight",
        "decoder.block2.1.bias",
        *head,
    ]
    assert parameters("all") == list(names.values())


def test_every_parameter_of_the_network():
    check(network("DeepLabV3Plus"), "all", noise(49, 64), ["32"])


@pytest.mark.parametrize("architecture", [*SMP, "fcn", "deeplabv3"])
def test_every_architecture(architecture):
    model = network(architecture)
    images = noise(130, 140) if architecture == "PAN" else noise(50, 71)
    for layers in ("last",) if architecture in NO_LAST_TWO else ("last", "last_two"):
        tail = model.tail(layers)
        by_hand = layers == "last" or architecture in BOTH_BY_HAND
        assert (tail.affine is not None) == by_hand
        assert not tail.replays
        elements, direction = check(model, layers, images, ["64"])
        if by_hand:  # the general route gives the same map
            general = replace(tail, affine=None)
            other = the_map(model, general, images, direction)
            torch.testing.assert_close(elements, other, rtol=1e-10, atol=1e-12)
            other = the_map(model, tail, images, direction, with_features=False)
            torch.testing.assert_close(elements, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("architecture", "layers", "replays"),
    [
        ("FPN", "decoder.seg_blocks.2", True),
        ("Unet", "decoder.blocks.4", True),
        ("fcn", "classifier", False),
        ("deeplabv3", "classifier", False),
        ("PSPNet", "decoder.conv", False),
    ],
)
def test_a_tail_that_starts_where_the_user_says(architecture, layers, replays):
    """Also where what follows takes more than one tensor: then the network is run again."""
    model = network(architecture)
    assert model.tail(layers).replays == replays
    check(model, layers, noise(64, 70), ["48"])


@pytest.mark.parametrize("layers", ["last", "last_two", "all"])
def test_a_network_that_sees_images_at_another_scale(layers):
    model = network("DeepLabV3Plus", 0.5)
    check(model, layers, noise(81, 96), ["50"])


@pytest.mark.parametrize("layers", ["last", "last_two"])
def test_other_labels(layers):
    check(network("DeepLabV3Plus"), layers, noise(48, 64), ["32"], TopK(2))


def test_labelled_data_with_void():
    """A reference set's gradient: void pixels are no part of the loss."""
    model, images = network("DeepLabV3Plus"), noise(50, 70)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, len(CLASSES), (1, 50, 70), generator=generator)
    labels[:, 10:30, 5:44] = 255
    tail = model.tail("last_two")
    direction = a_direction(tail)
    loss = F.cross_entropy(model(images).logits, labels, ignore_index=255)
    gradients = torch.autograd.grad(loss, list(tail.parameters.values()))
    with torch.no_grad():
        evidence = model(images, ("last_two",))
        low = tail.tangent(evidence.tail_input["last_two"], direction)
        tangent = tail.upsample(low, (50, 70), evidence.upsampling)
        known = labels != 255
        one_hot = F.one_hot(labels * known, len(CLASSES)).permute(0, 3, 1, 2)
        elements = directional_map(evidence.logits.softmax(1) - one_hot, tangent)
    torch.testing.assert_close(
        elements[known].mean(), inner(gradients, direction), rtol=1e-10, atol=0
    )


def test_functions_refuse_what_does_not_fit():
    with pytest.raises(ValueError, match="differ"):
        directional_map(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
    one = torch.ones(2)
    with pytest.raises(ValueError, match="parts for"):
        general_tangent(lambda p: p["a"] * 2, {"a": one}, {"b": one})
    assert general_tangent(lambda p: p["a"] ** 2, {"a": one}, {"a": 3 * one}).tolist() == [6, 6]
