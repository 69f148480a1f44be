"""The DETR kinds of transformers: RT-DETR and its second version, D-FINE, RF-DETR.

f is the decoder's query state that the last class layer takes; a box comes from a query, and there
is no NMS. Classes are asked by sigmoids. As their own processors do, the best (query, class) pairs
are taken, as many as there are queries, of which those above `score_thresh` (.05) are left: a query
may be there for several classes. Boxes are clipped to the image, which their processors leave out.
"""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert, clip_boxes_to_image

from segal.models.wrapped import FEATURES
from segal.tasks.detection.detectors.base import (
    RAW,
    Detector,
    Found,
    Target,
    inputs_of,
    maps_in,
)
from segal.tasks.detection.evidence import Detections, RawOutputs


class Detr(Detector):
    """See the module."""

    def detect(self, image: Tensor, catch: Collection[str]) -> Found:
        """See `Detector.detect`."""
        maps: list[Tensor] = []
        hook = self.backbone().register_forward_hook(lambda _m, _i, out: maps.extend(maps_in(out)))
        try:
            with inputs_of({"class": self.class_layers()[0]}) as towers:
                output = self.network(image[None])
        finally:
            hook.remove()
        logits, relative = output.logits[0].float(), output.pred_boxes[0].float()
        height, width = image.shape[-2:]
        scale = relative.new_tensor([width, height, width, height])
        boxes = clip_boxes_to_image(
            box_convert(relative, "cxcywh", "xyxy") * scale, (height, width)
        )
        every = logits.sigmoid()
        scores, index = every.flatten().topk(len(every))
        index = index[scores > self.network.score_thresh]
        source = torch.div(index, every.shape[1], rounding_mode="floor")
        queries = towers["class"][-1]
        found = Detections(
            boxes=boxes[source],
            probabilities=every[source],
            classes=index % every.shape[1],
            scores=scores[: len(index)],
            features=queries.flatten(0, -2)[source].float() if FEATURES in catch else None,
            source=source,
        )
        raw = None
        if RAW in catch:
            raw = RawOutputs(
                logits=logits,
                softmax=False,
                levels=(len(logits),),
                outputs={"pred_boxes": relative, "features": queries.flatten(0, -2)},
                anchors=None,
                towers={},
                decode=lambda: boxes,
            )
        return Found(found, raw, tuple(maps), (height, width))

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> dict[str, Tensor]:
        """See `Detector.losses`: one, `loss`, in which the library has weighted its own."""
        labels = []
        for image, one in zip(images, targets, strict=True):
            height, width = image.shape[-2:]
            boxes = box_convert(one["boxes"].to(image), "xyxy", "cxcywh")
            boxes = boxes / boxes.new_tensor([width, height, width, height])
            labels.append({"class_labels": one["labels"].to(image.device), "boxes": boxes})
        return {"loss": self.network(images, labels).loss}

    def backbone(self) -> nn.Module:
        """See `Detector.backbone`."""
        module: nn.Module = self.network.model.model.backbone
        return module

    def class_layers(self) -> list[nn.Module]:
        """See `Detector.class_layers`."""
        layer: nn.Module = self.network.class_layer
        return [layer]
