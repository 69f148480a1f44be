"""SSD and SSDlite of torchvision: a softmax with a background at every default box.

f is the head's input at the box's cell, of maps of several widths, padded with zeros to the widest;
a box comes from a default box. Of each class the best `topk_candidates` (400; SSDlite 300) above
`score_thresh` (.01; .001) are kept, of them what NMS of each class (`nms_thresh` .45; .55) leaves,
the best `detections_per_img` (200; 300). The input is always resized to one square.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image

from segal.tasks.detection.detectors.base import inputs_of
from segal.tasks.detection.detectors.torchvision import Chosen, TorchvisionDetector, features_at


class SSD(TorchvisionDetector):
    """See the module."""

    softmax = True

    def answer(
        self, inputs: ImageList, maps: dict[str, Tensor], features: bool, raw: bool
    ) -> tuple[Chosen, dict[str, Any] | None, Tensor | None]:
        """See `TorchvisionDetector.answer`."""
        network, pyramid = self.network, list(maps.values())
        last = {"class": self.class_layers(), "box": _last_layers(network.head.regression_head)}
        named = {(b, i): layer for b, layers in last.items() for i, layer in enumerate(layers)}
        with inputs_of(named) as caught:
            outputs = {name: values[0] for name, values in network.head(pyramid).items()}
        anchors = network.anchor_generator(inputs, pyramid)[0]
        logits, regression = outputs.pop("cls_logits"), outputs["bbox_regression"]
        decoded = network.box_coder.decode_single(regression, anchors)
        boxes = clip_boxes_to_image(decoded, inputs.image_sizes[0])
        chosen = self._choose(logits, boxes)
        counts = network.anchor_generator.num_anchors_per_location()
        levels = tuple(x.shape[2] * x.shape[3] * n for x, n in zip(pyramid, counts, strict=True))
        parts = None
        if raw:
            parts = {
                "logits": logits,
                "levels": levels,
                "outputs": outputs,
                "anchors": anchors,
                "towers": {
                    branch: tuple(caught[branch, i][0][0] for i in range(len(layers)))
                    for branch, layers in last.items()
                },
                "decode": lambda: boxes,
            }
        return chosen, parts, features_at(pyramid, levels, chosen[3]) if features else None

    def _choose(self, logits: Tensor, boxes: Tensor) -> Chosen:
        """As the network's own `postprocess_detections` of one image."""
        network = self.network
        every = logits.softmax(-1)[:, 1:]
        parts: list[tuple[Tensor, ...]] = []
        for number, scores in enumerate(every.T):
            above = torch.where(scores > network.score_thresh)[0]
            best, order = scores[above].topk(min(network.topk_candidates, len(above)))
            parts.append((best, torch.full_like(order, number), above[order]))
        scores, labels, source = (torch.cat(part) for part in zip(*parts, strict=True))
        candidates = boxes[source]
        kept = batched_nms(candidates, scores, labels + 1, network.nms_thresh)
        kept = kept[: network.detections_per_img]
        source = source[kept]
        return candidates[kept], scores[kept], labels[kept], source, logits[source]

    def class_layers(self) -> list[nn.Module]:
        """See `Detector.class_layers`."""
        return _last_layers(self.network.head.classification_head)


def _last_layers(branch: Any) -> list[nn.Module]:
    """Of each level; SSDlite has a depthwise convolution before it."""
    return [layer if isinstance(layer, nn.Conv2d) else layer[-1] for layer in branch.module_list]
