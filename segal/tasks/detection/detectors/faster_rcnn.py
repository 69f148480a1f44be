"""Faster R-CNN of torchvision.

f is the RoI head's output (1024 numbers), what its class and box layers take; a box comes from a
proposal of the RPN. Background is class 0 of a softmax. Boxes are kept above `box_score_thresh`
(.05), after NMS of each class (`box_nms_thresh` .5), the best `box_detections_per_img` (100).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from segal.tasks.detection.detectors.base import inputs_of
from segal.tasks.detection.detectors.torchvision import Chosen, TorchvisionDetector

_SMALLEST = 1e-2  # pixels of a box's sides, as torchvision's RoIHeads has it


class FasterRCNN(TorchvisionDetector):
    """See the module."""

    softmax = True

    def answer(
        self, inputs: ImageList, maps: dict[str, Tensor], features: bool, raw: bool
    ) -> tuple[Chosen, dict[str, Any] | None, Tensor | None]:
        """See `TorchvisionDetector.answer`."""
        rpn, heads = self.network.rpn, self.network.roi_heads
        said: list[Any] = []
        hook = rpn.head.register_forward_hook(lambda _m, _i, output: said.append(output))
        try:
            with inputs_of({"rpn": rpn.head.cls_logits}) as towers:
                proposals, _ = rpn(inputs, maps)
        finally:
            hook.remove()
        hidden = heads.box_head(heads.box_roi_pool(maps, proposals, inputs.image_sizes))
        logits, regression = heads.box_predictor(hidden)
        resized = inputs.image_sizes[0]
        chosen = _choose(heads, logits, regression, proposals, resized)
        parts = None
        if raw:
            objectness, deltas = concat_box_prediction_layers(*said[0])
            parts = {
                "logits": logits,
                "levels": (len(logits),),
                "outputs": {
                    "bbox_regression": regression,
                    "features": hidden,
                    "objectness": objectness,
                    "rpn_regression": deltas,
                    "rpn_anchors": rpn.anchor_generator(inputs, list(maps.values()))[0],
                },
                "anchors": proposals[0],
                "towers": {"rpn": tuple(tower[0] for tower in towers["rpn"])},
                "decode": lambda: _likeliest(logits, heads.box_coder.decode(regression, proposals)),
            }
        return chosen, parts, hidden[chosen[3]] if features else None

    def class_layers(self) -> list[nn.Module]:
        """See `Detector.class_layers`."""
        return [self.network.roi_heads.box_predictor.cls_score]


def _choose(
    heads: Any,
    logits: Tensor,
    regression: Tensor,
    proposals: list[Tensor],
    resized: tuple[int, int],
) -> Chosen:
    """As `RoIHeads.postprocess_detections` of one image."""
    boxes = clip_boxes_to_image(heads.box_coder.decode(regression, proposals), resized)
    every = logits.softmax(-1)[:, 1:]
    classes = every.shape[1]
    boxes, scores = boxes[:, 1:].reshape(-1, 4), every.reshape(-1)
    index = torch.where(scores > heads.score_thresh)[0]
    index = index[remove_small_boxes(boxes[index], min_size=_SMALLEST)]
    boxes, scores, labels = boxes[index], scores[index], index % classes
    kept = batched_nms(boxes, scores, labels + 1, heads.nms_thresh)[: heads.detections_per_img]
    source = torch.div(index[kept], classes, rounding_mode="floor")
    return boxes[kept], scores[kept], labels[kept], source, logits[source]


def _likeliest(logits: Tensor, boxes: Tensor) -> Tensor:
    """(A, 4) of boxes (A, C + 1, 4), that of the likeliest class but the background."""
    best = logits[:, 1:].argmax(1) + 1
    return boxes[torch.arange(len(boxes), device=boxes.device), best]
