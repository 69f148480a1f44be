"""Detectors with two class heads and a head of multiple instance learning, for MIAL.

After Yuan et al., "Multiple Instance Active Learning for Object Detection" (CVPR 2021), figures 3
and 4. f1 is the detector's own class head, under its own names, so that published weights fit; f2
and the MIL head are made as it is, each from random weights of its own. Boxes are found by f1
alone, as in the public code (the paper does not say by which): f2 is there to disagree.

In the head's output f1 is `cls_logits` and beside it are `second_logits`, of the same shape, and
`mil_logits` (B, A, C), which have no background.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision.models import detection as of_objects
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetHead
from torchvision.models.detection.ssd import SSDClassificationHead

Part = Literal["g", "f1", "f2", "fr", "mil"]
"""What a parameter is of: the feature extractor, a class head, the regressor, or the MIL head."""

SECOND, MIL = "second_logits", "mil_logits"
"""What the head's output has beside that of torchvision's."""

Outputs = dict[str, Tensor]

_HEADS: Mapping[str, Part] = {
    "classification_head": "f1",
    "second_head": "f2",
    "mil_head": "mil",
    "regression_head": "fr",
}


class TwoHeadRetinaNet(of_objects.RetinaNet):  # type: ignore[misc]
    """RetinaNet of torchvision with the further heads.

    Args:
        backbone: With `out_channels`.
        num_classes: C; without a background.
        towers: `own`: each class head and the MIL head has four convolutions of its own before its
            last layer, as in the public code. `shared`: they have f1's together, which count as the
            feature extractor: a training step takes little more than half of the time.
        **options: As RetinaNet takes them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        towers: Literal["own", "shared"] = "own",
        **options: Any,
    ) -> None:
        super().__init__(backbone, num_classes, **options)
        self.head: nn.Module = _RetinaNetHeads(self.head, shared=towers == "shared")


class TwoHeadSSD(of_objects.ssd.SSD):  # type: ignore[misc]
    """SSD of torchvision with the further heads, convolutions of the same maps.

    Args:
        backbone: As SSD takes it.
        anchor_generator: Likewise.
        size: Likewise.
        num_classes: C + 1, with the background.
        **options: As SSD takes them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        anchor_generator: nn.Module,
        size: tuple[int, int],
        num_classes: int,
        **options: Any,
    ) -> None:
        super().__init__(backbone, anchor_generator, size, num_classes, **options)
        self.head: nn.Module = _SSDHeads(self.head, num_classes)

    def compute_loss(
        self,
        targets: list[Outputs],
        head_outputs: Outputs,
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> Outputs:
        """SSD's losses, and the class loss of f2, which draws negatives of its own."""
        first: Outputs
        first, second = (
            of_objects.ssd.SSD.compute_loss(
                self, targets, {**head_outputs, "cls_logits": logits}, anchors, matched_idxs
            )
            for logits in (head_outputs["cls_logits"], head_outputs[SECOND])
        )
        return first | {f"second_{k}": v for k, v in second.items() if k != "bbox_regression"}


TwoHeads = TwoHeadRetinaNet | TwoHeadSSD


def part_of(network: TwoHeads, name: str) -> Part:
    """What a parameter is of.

    Args:
        network: It.
        name: As its `named_parameters` has it.
    """
    if getattr(network.head, "shared", False) and name.startswith("head.classification_head.conv."):
        return "g"
    for head, part in _HEADS.items():
        if name.startswith(f"head.{head}."):
            return part
    return "g"


class _RetinaNetHeads(nn.Module):
    def __init__(self, head: Any, shared: bool) -> None:
        super().__init__()
        first = head.classification_head
        self.classification_head, self.regression_head = first, head.regression_head
        self.second_head, self.mil_head = (
            RetinaNetClassificationHead(
                first.cls_logits.in_channels, first.num_anchors, first.num_classes
            )
            for _ in range(2)
        )
        self.shared = shared
        if shared:
            self.second_head.conv, self.mil_head.conv = nn.Identity(), nn.Identity()

    def forward(self, x: list[Tensor]) -> Outputs:
        """Of the pyramid's maps (B, D, h, w)."""
        first = self.classification_head
        inside = [first.conv(level) for level in x]
        further = inside if self.shared else x
        rows = [_rows(first.cls_logits(level), first.num_classes) for level in inside]
        return {
            "cls_logits": torch.cat(rows, 1),
            "bbox_regression": self.regression_head(x),
            SECOND: self.second_head(further),
            MIL: self.mil_head(further),
        }

    def compute_loss(
        self,
        targets: list[Outputs],
        head_outputs: Outputs,
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> Outputs:
        """Those of torchvision's head, and the class loss of f2."""
        second = {"cls_logits": head_outputs[SECOND]}
        losses: Outputs = RetinaNetHead.compute_loss(
            self, targets, head_outputs, anchors, matched_idxs
        )
        further = self.second_head.compute_loss(targets, second, matched_idxs)
        return losses | {f"second_{k}": further for k in losses if k != "bbox_regression"}


class _SSDHeads(nn.Module):
    def __init__(self, head: Any, num_classes: int) -> None:
        super().__init__()
        first = head.classification_head
        self.classification_head, self.regression_head = first, head.regression_head
        channels = [layer.in_channels for layer in first.module_list]
        anchors = [layer.out_channels // num_classes for layer in first.module_list]
        self.second_head = SSDClassificationHead(channels, anchors, num_classes)
        self.mil_head = SSDClassificationHead(channels, anchors, num_classes - 1)

    def forward(self, x: list[Tensor]) -> Outputs:
        """Of the maps (B, D, h, w)."""
        return {
            "cls_logits": self.classification_head(x),
            "bbox_regression": self.regression_head(x),
            SECOND: self.second_head(x),
            MIL: self.mil_head(x),
        }


def _rows(outputs: Tensor, columns: int) -> Tensor:
    """(B, A C, h, w) as torchvision orders anchors: (B, h w A, C)."""
    batch, _, height, width = outputs.shape
    parted = outputs.view(batch, -1, columns, height, width)
    return parted.permute(0, 3, 4, 1, 2).reshape(batch, -1, columns)
