"""What RetinaNet and FCOS share: a class tower over a pyramid, sigmoids, boxes chosen by level."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms, clip_boxes_to_image

from segal.tasks.detection.detectors.base import inputs_of
from segal.tasks.detection.detectors.torchvision import Chosen, TorchvisionDetector, features_at


class DenseDetector(TorchvisionDetector):
    """A detector whose every cell says how likely each class is.

    f is the class tower's output (256 numbers) at the box's cell; a box comes from an anchor or
    cell. Boxes of a level are kept above `score_thresh`, its best `topk_candidates`; of all levels
    those that NMS of each class (`nms_thresh`) leaves, the best `detections_per_img`.
    """

    softmax = False

    @property
    def first(self) -> int:
        """See `TorchvisionDetector.first`."""
        return int(self.network.head.classification_head.num_classes) - self.classes

    @abstractmethod
    def rank(self, logits: Tensor, outputs: Mapping[str, Tensor]) -> Tensor:
        """(n, C) scores of the n anchors of a level."""

    @abstractmethod
    def decode(self, regression: Tensor, anchors: Tensor) -> Tensor:
        """(n, 4) boxes."""

    def answer(
        self, inputs: ImageList, maps: dict[str, Tensor], features: bool, raw: bool
    ) -> tuple[Chosen, dict[str, Any] | None, Tensor | None]:
        """See `TorchvisionDetector.answer`."""
        network, pyramid = self.network, list(maps.values())
        layers = {"class": self.class_layers()[0], "box": network.head.regression_head.bbox_reg}
        with inputs_of(layers) as towers:
            outputs = {name: values[0] for name, values in network.head(pyramid).items()}
        anchors = network.anchor_generator(inputs, pyramid)[0]
        logits = outputs["cls_logits"][:, self.first :]
        cells = [x.shape[2] * x.shape[3] for x in pyramid]
        levels = tuple(count * (len(anchors) // sum(cells)) for count in cells)
        chosen = self._choose(logits, outputs, anchors, levels, inputs.image_sizes[0])
        parts = None
        if raw:
            parts = {
                "logits": logits,
                "levels": levels,
                "outputs": outputs,
                "anchors": anchors,
                "towers": {name: tuple(x[0] for x in inside) for name, inside in towers.items()},
                "decode": lambda: self.decode(outputs["bbox_regression"], anchors),
            }
        return chosen, parts, features_at(towers["class"], levels, chosen[3]) if features else None

    def _choose(
        self,
        logits: Tensor,
        outputs: Mapping[str, Tensor],
        anchors: Tensor,
        levels: tuple[int, ...],
        resized: tuple[int, int],
    ) -> Chosen:
        """As the network's own `postprocess_detections` of one image."""
        network, classes = self.network, logits.shape[1]
        parts: list[tuple[Tensor, ...]] = []
        start = 0
        for count in levels:
            here = slice(start, start + count)
            of_level = {name: values[here] for name, values in outputs.items()}
            scores = self.rank(logits[here], of_level).flatten()
            above = torch.where(scores > network.score_thresh)[0]
            best, order = scores[above].topk(min(network.topk_candidates, len(above)))
            index = above[order]
            cell = torch.div(index, classes, rounding_mode="floor")
            boxes = self.decode(of_level["bbox_regression"][cell], anchors[here][cell])
            boxes = clip_boxes_to_image(boxes, resized)
            parts.append((boxes, best, index % classes, cell + start))
            start += count
        boxes, scores, labels, source = (torch.cat(part) for part in zip(*parts, strict=True))
        kept = batched_nms(boxes, scores, labels + self.first, network.nms_thresh)
        kept = kept[: network.detections_per_img]
        source = source[kept]
        return boxes[kept], scores[kept], labels[kept], source, logits[source]

    def class_layers(self) -> list[nn.Module]:
        """See `Detector.class_layers`."""
        return [self.network.head.classification_head.cls_logits]
