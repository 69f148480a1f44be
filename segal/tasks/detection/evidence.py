"""What a detector leaves behind for a batch: boxes with their whole distribution over classes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from segal.candidates.evidence import Evidence, Upsampling

_TINY = 1e-30  # below the probability that any class has


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes that a detector finds in an image: after NMS, score threshold and cap.

    All are in the detector's own order, the highest score first.

    Attributes:
        boxes: (N, 4) float32, x0, y0, x1, y1 in pixels of the image, x right, y down, continuous
            edges. The detector's own resize is undone and boxes are clipped to the image;
            torchvision clips first, so an edge may lie a rounding error outside.
        probabilities: (N, C) float32 of all C classes, background left out, also of those below the
            score threshold. Of a softmax the C + 1 numbers without the background's (they sum to at
            most 1); of sigmoids (RetinaNet, FCOS, DETR kinds) each class by itself, in [0, 1].
        classes: (N,) int64, the class that each box was found for.
        scores: (N,) float32, what the detector ranks by: that class's probability, for FCOS the
            root of its product with the centerness.
        features: (N, D) float32, the input of the class branch's last layer at the box; None where
            nobody asked, or a function gives none.
        source: (N,) int64, the proposal, anchor, cell or query that a box comes from: an index into
            the raw outputs. Of a function's boxes their own numbers.
    """

    boxes: Tensor
    probabilities: Tensor
    classes: Tensor
    scores: Tensor
    features: Tensor | None
    source: Tensor

    def __len__(self) -> int:
        """N."""
        return len(self.boxes)

    def keep(self, which: Tensor) -> "Detections":
        """Some of the boxes, by a mask or by indices (k,)."""
        return Detections(
            self.boxes[which],
            self.probabilities[which],
            self.classes[which],
            self.scores[which],
            None if self.features is None else self.features[which],
            self.source[which],
        )


@dataclass(frozen=True, eq=False)
class RawOutputs:
    """What a detector says of every proposal, anchor, cell or query of an image, before NMS.

    Attributes:
        logits: (A, C + 1) of a softmax, whose first is the background's; else (A, C) of sigmoids.
        softmax: Which of both.
        levels: How many of the A are of each level of the pyramid, in order; one number where there
            are no levels.
        outputs: The head's own outputs (A, ...), as its library names them: `bbox_regression`, and
            for FCOS `bbox_ctrness`; for RetinaNet and FCOS `cls_logits`, those of `logits` with a
            background's where the network has one; for Faster R-CNN those of its proposals
            (A, 4 (C + 1)), and of its anchors `objectness` (K, 1), `rpn_regression` and
            `rpn_anchors` (K, 4); where the class branch has no tower also `features` (A, D).
        anchors: (A, 4) what boxes are predicted from, in pixels of the detector's own resized
            input: proposals, anchors or cells; None for DETR kinds.
        towers: By branch (`class`, `box`) the maps (D, h, w) of each level that the branch's last
            layer takes; of Faster R-CNN `rpn`; none for DETR kinds.
        decode: Makes `boxes`.
        sizes: (height, width) of the image and of its resized copy that `anchors` lie in; None
            where there are no anchors.
    """

    logits: Tensor
    softmax: bool
    levels: tuple[int, ...]
    outputs: Mapping[str, Tensor]
    anchors: Tensor | None
    towers: Mapping[str, tuple[Tensor, ...]]
    decode: Callable[[], Tensor] = field(repr=False)
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) factors from pixels of `anchors` to pixels of the image."""
        if self.sizes is None:
            return 1.0, 1.0
        (height, width), (resized_height, resized_width) = self.sizes
        return width / resized_width, height / resized_height

    @cached_property
    def boxes(self) -> Tensor:
        """(A, 4) in pixels of the image, clipped to it; made when first asked for.

        Of Faster R-CNN, which has a box for each class, that of the likeliest class.
        """
        return self.decode()

    @cached_property
    def probabilities(self) -> Tensor:
        """(A, C) of all classes without the background, as those of `Detections`."""
        return class_probabilities(self.logits, self.softmax)


def class_probabilities(logits: Tensor, softmax: bool) -> Tensor:
    """(..., C) float32 from logits (..., C + 1) of a softmax or (..., C) of sigmoids."""
    logits = logits.float()
    return logits.softmax(-1)[..., 1:] if softmax else logits.sigmoid()


class DetectionEvidence(Evidence):
    """A batch's forward pass.

    Its logits (1, C, 1, N), of all boxes of the batch in order, are the logarithms of their
    probabilities: their softmax is a box's distribution over classes, without the background. Of
    one class there are two columns, object and not. Features are those of `detections`;
    `upsampling` is that of `maps`, the pyramid's maps (B, D, h, w).

    Args:
        detections: Of each image.
        raw: Likewise, or nothing.
        classes: Their number C.
        maps: As `Evidence` has them.
        upsampling: Of the maps; None where there are none.

    Attributes:
        detections: The boxes found in each image.
    """

    def __init__(
        self,
        detections: Sequence[Detections],
        raw: Sequence[RawOutputs] = (),
        *,
        classes: int,
        maps: tuple[Tensor, ...] = (),
        upsampling: Upsampling | None = None,
    ) -> None:
        like = detections[0].probabilities if detections else torch.empty(0, classes)
        found = torch.cat([like[:0], *(one.probabilities for one in detections)])
        if found.shape[1] == 1:
            found = torch.cat([found, 1 - found], 1)
        super().__init__(
            logits=found.clamp_min(_TINY).log().T[None, :, None],
            features=None,
            upsampling=upsampling or Upsampling((1, max(1, len(found))), align_corners=False),
            maps=maps,
        )
        self.detections = list(detections)
        self._raw, self._classes = list(raw), classes

    @property
    def raw(self) -> list[RawOutputs]:
        """What the detector says of each image before NMS, for signals that asked for it.

        Raises:
            ValueError: If nobody asked.
        """
        if len(self._raw) != len(self.detections):
            raise ValueError("evidence: expected raw outputs, which the meter's catch asks for")
        return self._raw

    def of(self, images: list[int]) -> "DetectionEvidence":
        """As `Evidence.of`."""
        if len(images) == len(self.images):
            return self
        part = DetectionEvidence(
            [self.detections[i] for i in images],
            [self._raw[i] for i in images] if self._raw else [],
            classes=self._classes,
            maps=tuple(one[images] for one in self.maps),
            upsampling=self.upsampling if self.maps else None,
        )
        part.inputs = None if self.inputs is None else self.inputs[images]
        part.images = tuple(self.images[i] for i in images)
        return part

    def finite(self) -> list[bool]:
        """Whether boxes, scores and probabilities of each image are all finite."""
        return [
            all(bool(x.isfinite().all()) for x in (one.boxes, one.scores, one.probabilities))
            for one in self.detections
        ]
