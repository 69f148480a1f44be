"""Objects of a batch, as detectors are trained on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from segal.tasks.detection.detectors.base import Target
from segal.tasks.detection.objects import Objects


def target(objects: Objects) -> Target:
    """What a detector is trained on of an image: crowds and difficult objects are left out."""
    plain = ~objects.crowd
    return {
        "boxes": torch.from_numpy(objects.boxes[plain]).float(),
        "labels": torch.from_numpy(objects.classes[plain]),
    }


@dataclass(frozen=True, eq=False)
class Targets:
    """The objects of a batch, whose images were padded right and below to one size.

    Attributes:
        objects: Of each image; see `segal.tasks.detection.detectors.base.Target`.
        sizes: (height, width) of each image without its padding.
    """

    objects: tuple[Target, ...]
    sizes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, objects: Sequence[Objects], sizes: Sequence[tuple[int, int]]) -> Self:
        """From the labels of images and their sizes."""
        return cls(tuple(target(one) for one in objects), tuple(sizes))

    def to(self, device: torch.device | str) -> Self:
        """The same on a device."""
        moved = tuple({k: v.to(device) for k, v in one.items()} for one in self.objects)
        return type(self)(moved, self.sizes)

    def cut(self, images: Tensor) -> list[Tensor]:
        """The images (B, ..., H, W) without their padding."""
        return [
            image[..., :height, :width]
            for image, (height, width) in zip(images, self.sizes, strict=True)
        ]
