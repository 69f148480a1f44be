"""Last layers of RetinaNet and FCOS: see `last_layers`."""

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import fcos, retinanet
from torchvision.ops import box_iou

from segal.tasks.detection.detectors.base import Target
from segal.tasks.detection.evidence import RawOutputs
from segal.tasks.detection.signals.branches import Branch, LastLayers, Outputs, Stage, in_single

_AT_ONCE = 2**16
"""Overlaps found at a time, which stay in the processor's cache."""


class _Dense(LastLayers):
    """Of RetinaNet and FCOS."""

    names: tuple[str, ...]

    def stages(self, raw: RawOutputs, target: Target) -> list[Stage]:
        outputs = {name: in_single(raw.outputs[name]) for name in self.names}
        assert raw.anchors is not None
        anchors, targets = raw.anchors, [dict(target)]
        matched = self.matched(raw, target)
        positive = matched >= 0

        def loss(at: Outputs, here: slice | Tensor) -> Tensor:
            batch = {name: value[None] for name, value in at.items()}
            parts = self.network.head.compute_loss(targets, batch, [anchors[here]], [matched[here]])
            divisor = positive[here].sum().clamp_min(1)
            total: Tensor = torch.stack(list(parts.values())).sum() * divisor
            return total

        negative = matched == -1

        def of_negatives() -> dict[str, Tensor]:
            slopes = {name: torch.zeros_like(value) for name, value in outputs.items()}
            slopes["cls_logits"] = focal_slope(outputs["cls_logits"]).mul_(negative[:, None])
            return slopes

        own = all(type(part).compute_loss is kind.compute_loss for part, kind in self.focal)
        known = of_negatives if own else None
        return [Stage(outputs, loss, positive, negative, anchors, of_negatives=known)]

    @property
    @abstractmethod
    def focal(self) -> tuple[tuple[Any, type[Any]], ...]:
        """Parts of the head, and the kinds whose loss of the classes is the plain focal loss."""

    @abstractmethod
    def matched(self, raw: RawOutputs, target: Target) -> Tensor:
        """(A,) int64, the box that each anchor or cell stands for; -1 for none, -2 not to count."""


def focal_slope(logits: Tensor) -> Tensor:
    """The derivative of torchvision's focal loss (alpha 1/4, gamma 2) of classes that are absent.

    With p the sigmoid of x, the loss is 3/4 p^2 log(1 + e^x) (Lin et al., ICCV 2017, eq. 5).

    Args:
        logits: x, any shape.

    Returns:
        3/4 p^2 (2 (1 - p) log(1 + e^x) + p).
    """
    p = logits.sigmoid()
    slope = F.logsigmoid(-logits).mul_(-2).mul_(1 - p).add_(p)
    return slope.mul_(p).mul_(p).mul_(0.75)


class RetinaNetLayers(_Dense):
    """Class and box convolution."""

    names = ("cls_logits", "bbox_regression")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """See `LastLayers`."""
        heads = self.network.head
        classify, regress = heads.classification_head, heads.regression_head
        count = int(classify.num_classes)
        return (
            Branch("cls_logits", classify.cls_logits, "class", count, "diagonal"),
            Branch("bbox_regression", regress.bbox_reg, "box", 4, "blocks"),
        )

    @property
    def focal(self) -> tuple[tuple[Any, type[Any]], ...]:
        """See `_Dense.focal`."""
        head = self.network.head
        classify = (head.classification_head, retinanet.RetinaNetClassificationHead)
        return (head, retinanet.RetinaNetHead), classify

    def matched(self, raw: RawOutputs, target: Target) -> Tensor:
        """See `_Dense.matched`: as in the network's own `compute_loss`, to the bit."""
        anchors, boxes = raw.anchors, target["boxes"]
        assert anchors is not None
        if not len(boxes):
            return torch.full((len(anchors),), -1, device=anchors.device)
        some = torch.split(anchors, max(1, _AT_ONCE // len(boxes)))
        overlaps = torch.cat([box_iou(boxes, part) for part in some], 1)
        matched: Tensor = self.network.proposal_matcher(overlaps)
        return matched


class _Matching:
    """An FCOS whose head, asked for the loss, says which box each cell stands for."""

    def __init__(self, network: Any) -> None:
        self._network, self.head = network, self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    def compute_loss(self, _targets: Any, _outputs: Any, _anchors: Any, matched: Any) -> Any:
        return matched


class FCOSLayers(_Dense):
    """Class, box and centerness convolution."""

    names = ("cls_logits", "bbox_regression", "bbox_ctrness")

    @property
    def branches(self) -> tuple[Branch, ...]:
        """See `LastLayers`."""
        heads = self.network.head
        classify, regress = heads.classification_head, heads.regression_head
        count = int(classify.num_classes)
        return (
            Branch("cls_logits", classify.cls_logits, "class", count, "diagonal"),
            Branch("bbox_regression", regress.bbox_reg, "box", 4, "blocks", rectified=True),
            Branch("bbox_ctrness", regress.bbox_ctrness, "box", 1, "diagonal"),
        )

    @property
    def focal(self) -> tuple[tuple[Any, type[Any]], ...]:
        """See `_Dense.focal`."""
        return ((self.network.head, fcos.FCOSHead),)

    def matched(self, raw: RawOutputs, target: Target) -> Tensor:
        """See `_Dense.matched`: the network's own `compute_loss` decides."""
        compare, levels = type(self.network).compute_loss, list(raw.levels)
        matched: Tensor = compare(
            _Matching(self.network), [dict(target)], {}, [raw.anchors], levels
        )[0]
        return matched
