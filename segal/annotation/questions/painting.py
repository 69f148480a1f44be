"""Of segmented images: layers of pixels become the label of their region."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segal.annotation.answers import Answer, Layer
from segal.annotation.handout import AnnotationTask
from segal.annotation.questions.base import (
    ERROR,
    IGNORE,
    Rules,
    Settled,
    class_index,
    count_elements,
    place,
)
from segal.candidates.evidence import Evidence
from segal.candidates.regions import Box
from segal.errors import SegalError
from segal.functional.labels import IGNORE_INDEX, predicted_classes, region_digest

_OPEN, _VOID, _CONFLICT = -1, -2, -3
_LOWEST = np.iinfo(np.int32).min


class Painting:
    """The class of every pixel of a region."""

    offers_void = True
    of_wholes = False
    unit = "pixels"
    suffix = ".png"

    def settle(
        self, answer: Answer, task: AnnotationTask, classes: Sequence[str], rules: Rules
    ) -> Settled:
        """As `Question.settle`: the label is (h, w) uint8, of the region's size."""
        x0, y0, x1, y1 = task.region
        label = np.full((y1 - y0, x1 - x0), _OPEN, np.int32)
        canvas = _Canvas(
            label, np.full(label.shape, _LOWEST, np.int32), np.zeros(label.shape, bool)
        )
        outside = overlaps = 0
        # Of one order, what the network drew lies below what people did.
        for layer in sorted(answer.layers, key=lambda x: (x.order, x.is_drawn)):
            if not layer.is_drawn and rules.untouched == IGNORE:
                continue
            index = class_index(layer.name, classes, answer, task, _VOID)
            inside, overlapped = canvas.paint(layer, index, task.region_in_frame)
            outside += int(np.count_nonzero(layer.mask)) - inside if layer.is_drawn else 0
            overlaps += overlapped
        counts = {
            "outside": outside,
            "unpainted": int((label == _OPEN).sum()),
            "conflicts": int((label == _CONFLICT).sum()),
            "overlaps": overlaps,
            "untouched": int((~canvas.drawn & (label != _OPEN)).sum()),
        }
        _refuse(counts, answer, task, classes, rules)
        if rules.unpainted not in (ERROR, IGNORE):
            label[label == _OPEN] = classes.index(rules.unpainted)
        label[label < 0] = IGNORE_INDEX
        return Settled(label.astype(np.uint8), counts)

    def predicted(self, evidence: Evidence, task: AnnotationTask) -> NDArray[np.uint8]:
        """As `Question.predicted`: the likeliest class of every pixel."""
        x0, y0, x1, y1 = task.region
        label: NDArray[np.uint8] = (
            predicted_classes(evidence.logits[0, :, y0:y1, x0:x1], 0).to(torch.uint8).cpu().numpy()
        )
        return label

    def answer(
        self, label: NDArray[np.uint8], task: AnnotationTask, classes: Sequence[str]
    ) -> Answer:
        """As `Question.answer`: a layer for each class, no larger than it needs to be."""
        left, top = task.region_in_frame[:2]
        layers = []
        for index in np.unique(label[label != IGNORE_INDEX]).tolist():
            mask = label == index
            rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
            y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            corner = int(left + x0), int(top + y0)
            layers.append(Layer(classes[index], mask[y0:y1, x0:x1], corner, is_drawn=False))
        return Answer(task.key, "the network", layers=layers)

    def encode(self, label: NDArray[np.uint8]) -> bytes:
        """A PNG of one channel."""
        return cv2.imencode(".png", label)[1].tobytes()

    def decode(self, data: bytes, region: Box) -> NDArray[np.uint8]:
        """As `Question.decode`."""
        label = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        x0, y0, x1, y1 = region
        if label is None or label.shape != (y1 - y0, x1 - x0) or label.dtype != np.uint8:
            raise ValueError("no label of the region's size")
        return np.asarray(label, np.uint8)

    def digest(self, label: NDArray[np.uint8]) -> str:
        """As `Question.digest`."""
        height, width = label.shape
        return region_digest(label, (0, 0, width, height))

    def pasted(
        self, label: NDArray[np.uint8], part: NDArray[np.uint8], region: Box
    ) -> NDArray[np.uint8]:
        """As `Question.pasted`."""
        x0, y0, x1, y1 = region
        whole = label.copy()
        whole[y0:y1, x0:x1] = part
        return whole

    def blank(self, size: tuple[int, int]) -> NDArray[np.uint8]:
        """As `Question.blank`."""
        return np.full(size, IGNORE_INDEX, np.uint8)

    def count(
        self, label: NDArray[np.uint8], boxes: Sequence[Box], classes: int
    ) -> tuple[NDArray[np.int64], int, list[Box]]:
        """As `Question.count`."""
        return count_elements(label, boxes, classes)

    def agreement(
        self, one: NDArray[np.uint8], other: NDArray[np.uint8], classes: int
    ) -> NDArray[np.int64]:
        """As `Question.agreement`, of pixels that both gave a class."""
        both = (one != IGNORE_INDEX) & (other != IGNORE_INDEX)
        a, b = one[both].astype(np.int64), other[both].astype(np.int64)
        same = np.bincount(a[a == b], minlength=classes)
        mine, theirs = (np.bincount(x[a != b], minlength=classes) for x in (a, b))
        return np.stack([same, mine, theirs], 1)


class _Canvas:
    """A region's label while it is painted.

    Attributes:
        label: (h, w) int32, classes, or one of the numbers above.
        order: (h, w) int32, of the layer that lies on top.
        drawn: (h, w) bool, whether a person painted what lies on top.
    """

    def __init__(
        self, label: NDArray[np.int32], order: NDArray[np.int32], drawn: NDArray[np.bool_]
    ) -> None:
        self.label, self.order, self.drawn = label, order, drawn

    def paint(self, layer: Layer, index: int, region: Box) -> tuple[int, int]:
        """Puts a layer on top.

        Args:
            layer: It; none that was painted before is of higher order.
            index: Its class.
            region: In the frame.

        Returns:
            How many of its pixels lie in the region, and how many of these people had given another
            label of lower order.
        """
        (left, top), (height, width) = layer.corner, layer.mask.shape
        x0, y0 = max(region[0], left), max(region[1], top)
        x1, y1 = min(region[2], left + width), min(region[3], top + height)
        if x0 >= x1 or y0 >= y1:
            return 0, 0
        mask = layer.mask[y0 - top : y1 - top, x0 - left : x1 - left]
        window = np.s_[y0 - region[1] : y1 - region[1], x0 - region[0] : x1 - region[0]]
        label, order, drawn = self.label[window], self.order[window], self.drawn[window]
        below = mask & drawn & (label != index) & layer.is_drawn
        clash = below & (order == layer.order)
        overlapped = int((below & ~clash).sum())
        label[mask], order[mask], drawn[mask] = index, layer.order, layer.is_drawn
        label[clash] = _CONFLICT
        return int(np.count_nonzero(mask)), overlapped


def _refuse(
    counts: dict[str, int],
    answer: Answer,
    task: AnnotationTask,
    classes: Sequence[str],
    rules: Rules,
) -> None:
    x0, y0, x1, y1 = task.region
    pixels = (y1 - y0) * (x1 - x0)
    if counts["unpainted"] and rules.unpainted == ERROR:
        none = counts["unpainted"] == pixels
        raise SegalError(
            f"{place(answer, task)}: {counts['unpainted']} of {pixels} pixels are not painted",
            expected="a label for every pixel of the region",
            got="none at all" if none else f"labels for {pixels - counts['unpainted']}",
            remedy="have it finished; or say what these are, with --unpainted ignore or "
            f"--unpainted CLASS, such as {classes[0]}",
        )
    if counts["conflicts"] and rules.conflicts == ERROR:
        raise SegalError(
            f"{place(answer, task)}: {counts['conflicts']} pixels have two labels, and neither "
            "lies on top",
            expected="one label for every pixel",
            got="two of the same order",
            remedy="have it mended (in CVAT: remove underlying pixels, or set the z-order); or "
            "make them void with --conflicts ignore",
        )
