"""What the detectors of torchvision share: resizing and back, modes, and losses."""

from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import resize_boxes
from torchvision.ops import clip_boxes_to_image

from segal.models.sources.torchvision_detection import encoder_of
from segal.models.wrapped import FEATURES
from segal.tasks.detection.detectors.base import RAW, Detector, Found, Target
from segal.tasks.detection.evidence import Detections, RawOutputs, class_probabilities

Size = tuple[int, int]


class TorchvisionDetector(Detector):
    """A detector of torchvision: its own transform, backbone, head and thresholds, step by step.

    The steps are its own modules and functions in the order of its own `forward`; what is written
    anew is the choice of boxes, which remembers where each comes from.
    """

    def detect(self, image: Tensor, catch: Collection[str]) -> Found:
        """See `Detector.detect`; boxes, scores and classes are torchvision's own to the bit."""
        network, size = self.network, (image.shape[-2], image.shape[-1])
        with answering(network, False):
            inputs, _ = network.transform([image])
            maps = network.backbone(inputs.tensors)
            if isinstance(maps, Tensor):
                maps = {"0": maps}
            resized = inputs.image_sizes[0]
            chosen, parts, features = self.answer(inputs, maps, FEATURES in catch, RAW in catch)
        boxes, scores, classes, source, logits = chosen
        found = Detections(
            boxes=resize_boxes(boxes, resized, size).float(),
            probabilities=class_probabilities(logits, self.softmax),
            classes=classes,
            scores=scores.float(),
            features=None if features is None else features.float(),
            source=source,
        )
        padded = inputs.tensors.shape[-2:]
        down, right = (round(p * s / r) for p, s, r in zip(padded, size, resized, strict=True))
        raw = None
        if parts is not None:
            decode = parts.pop("decode")
            raw = RawOutputs(
                softmax=self.softmax,
                decode=lambda: resize_boxes(
                    clip_boxes_to_image(decode(), resized), resized, size
                ).float(),
                scale=(size[1] / resized[1], size[0] / resized[0]),
                **parts,
            )
        return Found(found, raw, tuple(maps.values()), (max(down, size[0]), max(right, size[1])))

    softmax: bool
    """Whether a box's classes are asked together, with a background."""

    @abstractmethod
    def answer(
        self, inputs: ImageList, maps: dict[str, Tensor], features: bool, raw: bool
    ) -> tuple["Chosen", dict[str, Any] | None, Tensor | None]:
        """Runs the head, and chooses boxes as its own `postprocess_detections` does.

        Args:
            inputs: One image, resized and padded.
            maps: (1, D, h, w) of the backbone, by its names.
            features: Whether features are wanted.
            raw: Whether raw outputs are wanted.

        Returns:
            The boxes; what `RawOutputs` takes beside `softmax`; features (N, D).
        """

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """See `Detector.losses`."""
        prepared = [
            {"boxes": one["boxes"].to(image), "labels": one["labels"].to(image.device) + self.first}
            for image, one in zip(images, targets, strict=True)
        ]
        with answering(self.network, True):
            found: dict[str, Tensor] = self.network(list(images), prepared)
        return found

    @property
    def first(self) -> int:
        """Number of the first class in the network's own outputs: 1 after a background, else 0."""
        return 1

    def encoder(self) -> nn.Module:
        """See `Detector.encoder`."""
        return encoder_of(self.network)

    def backbone(self) -> nn.Module:
        """See `Detector.backbone`."""
        module: nn.Module = self.network.backbone
        return module


Chosen = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
"""Boxes (N, 4) of the resized image, scores, classes from 0, sources (N,), and logits (N, .)."""


@contextmanager
def answering(network: Any, training: bool) -> Iterator[None]:
    """Has a detector answer with losses, or with boxes, while its layers stay in their modes.

    Args:
        network: It.
        training: Whether with losses.
    """
    parts = [getattr(network, name, None) for name in ("rpn", "roi_heads")]
    parts += [network, *([] if training else [network.transform])]
    modes = [(part, part.training) for part in parts if part is not None]
    for part, _ in modes:
        part.training = training
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def features_at(towers: Sequence[Tensor], levels: Sequence[int], source: Tensor) -> Tensor:
    """The maps' cells that boxes come from.

    Args:
        towers: (1, D, h, w) of each level; of fewer channels than the widest, zeros follow.
        levels: How many sources each level has, cell by cell.
        source: (N,) sources, counted through all levels.

    Returns:
        (N, D).
    """
    widest = max(tower.shape[1] for tower in towers)
    found = towers[0].new_zeros(len(source), widest)
    start = 0
    for tower, count in zip(towers, levels, strict=True):
        here = torch.where((source >= start) & (source < start + count))[0]
        _, depth, height, width = tower.shape
        cells = torch.div(source[here] - start, count // (height * width), rounding_mode="floor")
        values = tower[0].flatten(1)[:, cells].T
        found = found.index_put((here,), nn.functional.pad(values, (0, widest - depth)))
        start += count
    return found
