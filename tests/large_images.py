"""What tests of large images share: a network that looks near, images, and how they are called."""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segal.data.image_file import Large, Reading
from segal.models.spec import ModelSpec
from segal.tasks.segmentation.model import SegmentationModel

CLASSES = 4
REACH = 13
"""Pixels that the network looks far: a cell of 4 pixels and one on either side, spread by one."""


class Near(nn.Module):
    """Logits at a quarter of the input's size, spread over it."""

    def __init__(self, classes: int = CLASSES, dilation: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=4, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=dilation, dilation=dilation)
        self.head = nn.Conv2d(8, classes, 1)
        self.spread = nn.Upsample(scale_factor=4, mode="bilinear")

    def forward(self, images: Tensor) -> Tensor:
        """(B, classes, H, W)."""
        logits: Tensor = self.spread(self.head(self.second(self.first(images).relu()).relu()))
        return logits


def build(num_classes: int) -> Near:
    """Called by segal with the number of classes."""
    return Near(num_classes)


def near_model(dilation: int = 1) -> SegmentationModel:
    """The network with random weights, wrapped."""
    torch.manual_seed(0)
    network = Near(dilation=dilation)
    nn.init.normal_(network.head.weight, std=3.0)
    names = tuple("abcd"[:CLASSES])
    spec = ModelSpec("own", "", names, (0.5,) * 3, (0.3,) * 3, 4)
    return SegmentationModel(network.eval(), spec).eval()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """(height, width, channels)."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 255, (height, width, channels), np.uint8)


def write(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    """Writes a TIFF, of tiles of 64 where nothing else is said."""
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"photometric": "rgb" if pixels.ndim == 3 else "minisblack", **options}
    if "rowsperstrip" not in given:
        given.setdefault("tile", (64, 64))
    tifffile.imwrite(path, pixels, **given)
    return path


def as_large(tile: int = 128, overlap: int = 64, **more: Any) -> Reading:
    """How every image of more than 1,000 pixels is read as a large one."""
    return Reading(large=Large(0.001, tile, overlap, **more))
