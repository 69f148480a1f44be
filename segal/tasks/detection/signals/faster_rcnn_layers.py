"""Last layers of Faster R-CNN: see `last_layers`."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segal.tasks.detection.detectors.base import Target
from segal.tasks.detection.evidence import RawOutputs
from segal.tasks.detection.signals.branches import Branch, LastLayers, Outputs, Stage, in_single

_BETA = 1 / 9  # of smooth L1, as torchvision's RPN and RoI head have it


class FasterRCNNLayers(LastLayers):
    """The RPN's two convolutions of 1 x 1, and the RoI head's two linear layers."""

    @property
    def branches(self) -> tuple[Branch, ...]:
        """See `LastLayers`."""
        rpn, boxes = self.network.rpn.head, self.network.roi_heads.box_predictor
        return (
            Branch("objectness", rpn.cls_logits, "rpn", 1, "diagonal"),
            Branch("rpn_regression", rpn.bbox_pred, "rpn", 4, "diagonal"),
            Branch("logits", boxes.cls_score, "features", boxes.cls_score.out_features, "softmax"),
            Branch(
                "bbox_regression",
                boxes.bbox_pred,
                "features",
                boxes.bbox_pred.out_features,
                "diagonal",
            ),
        )

    def stages(self, raw: RawOutputs, target: Target) -> list[Stage]:
        """See `LastLayers`."""
        return [self._rpn(raw, target), self._roi(raw, target)]

    def _rpn(self, raw: RawOutputs, target: Target) -> Stage:
        rpn, anchors = self.network.rpn, raw.outputs["rpn_anchors"]
        (labels,), (boxes,) = rpn.assign_targets_to_anchors([anchors], [dict(target)])
        positive, negative = labels >= 1, labels == 0
        wanted = rpn.box_coder.encode([boxes[positive]], [anchors[positive]])[0]
        counted = positive | negative

        def loss(at: Outputs, _: slice | Tensor) -> Tensor:
            deltas = at["rpn_regression"][positive]
            said = at["objectness"][counted, 0]
            return F.smooth_l1_loss(deltas, wanted, beta=_BETA, reduction="sum") + (
                F.binary_cross_entropy_with_logits(said, labels[counted].to(said), reduction="sum")
            )

        names = ("objectness", "rpn_regression")
        outputs = {name: in_single(raw.outputs[name]) for name in names}
        return Stage(outputs, loss, positive, negative, anchors, _drawn(rpn.fg_bg_sampler))

    def _roi(self, raw: RawOutputs, target: Target) -> Stage:
        heads, proposals = self.network.roi_heads, raw.anchors
        assert proposals is not None
        boxes = target["boxes"].to(proposals)
        (matched,), (labels,) = heads.assign_targets_to_proposals(
            [proposals], [boxes], [target["labels"]]
        )
        positive, negative = labels >= 1, labels == 0
        wanted = heads.box_coder.encode([boxes[matched[positive]]], [proposals[positive]])[0]
        counted = positive | negative

        def loss(at: Outputs, _: slice | Tensor) -> Tensor:
            deltas = at["bbox_regression"].reshape(len(proposals), -1, 4)
            deltas = deltas[positive, labels[positive]]
            return F.smooth_l1_loss(deltas, wanted, beta=_BETA, reduction="sum") + (
                F.cross_entropy(at["logits"][counted], labels[counted], reduction="sum")
            )

        outputs = {
            "logits": in_single(raw.logits),
            "bbox_regression": in_single(raw.outputs["bbox_regression"]),
        }
        return Stage(outputs, loss, positive, negative, proposals, _drawn(heads.fg_bg_sampler))


def _drawn(sampler: Any) -> tuple[int, float]:
    return int(sampler.batch_size_per_image), float(sampler.positive_fraction)
