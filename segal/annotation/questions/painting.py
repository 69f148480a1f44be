"""Of segmented images: layers of pixels become the label of their region."""

from collections.abc import Sequence
from typing import Any

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
from segal.functional.segments import masks_of_values

_OPEN, _VOID, _CONFLICT = -1, -2, -3


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
        # Of one order, what the network drew lies below what people did.
        layers = [
            layer
            for layer in sorted(answer.layers, key=lambda x: (x.order, x.is_drawn))
            if layer.is_drawn or rules.untouched != IGNORE
        ]
        indices = [class_index(x.name, classes, answer, task, _VOID) for x in layers]
        canvas = _Canvas(layers, indices, task.region_in_frame)
        outside = overlaps = 0
        for number, layer in enumerate(layers, 1):
            inside, overlapped = canvas.paint(number)
            outside += int(np.count_nonzero(layer.mask)) - inside if layer.is_drawn else 0
            overlaps += overlapped
        counts = {
            "outside": outside,
            "unpainted": int(np.count_nonzero(canvas.top == 0)),
            "conflicts": int(np.count_nonzero(canvas.looked_up(canvas.label == _CONFLICT))),
            "overlaps": overlaps,
            "untouched": int(np.count_nonzero(canvas.looked_up(canvas.is_network))),
        }
        _refuse(counts, answer, task, classes, rules)
        if rules.unpainted not in (ERROR, IGNORE):
            canvas.label[0] = classes.index(rules.unpainted)
        final = np.where(canvas.label < 0, IGNORE_INDEX, canvas.label)
        return Settled(canvas.looked_up(final), counts)

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
        layers = [
            Layer(classes[index], mask, (left + x, top + y), is_drawn=False)
            for index, mask, (x, y) in masks_of_values(np.ascontiguousarray(label))
            if index != IGNORE_INDEX
        ]
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
    """A region while it is painted, layer by layer, each over those before.

    Args:
        layers: In ascending order.
        indices: Of each its class.
        region: In the frame.

    Attributes:
        top: (h, w) of whole numbers, what lies on top: 0 for nothing, the number of a layer, from
            1, or as much more as there are layers, where that one is in conflict with another of
            its order.
        label: Of each such number, the class, or one of the numbers above.
        is_network: Likewise, whether nobody but the network painted it.
    """

    def __init__(self, layers: Sequence[Layer], indices: Sequence[int], region: Box) -> None:
        self._layers, self._region = layers, region
        x0, y0, x1, y1 = region
        orders = [layer.order for layer in layers]
        drawn = [layer.is_drawn for layer in layers]
        self.label = np.array([_OPEN, *indices, *([_CONFLICT] * len(layers))], np.int32)
        self._order = np.array([0, *orders, *orders], np.int64)
        self._drawn = np.array([False, *drawn, *drawn])
        self.is_network = ~self._drawn
        self.is_network[0] = False
        kind = np.uint8 if len(self.label) <= 256 else np.int32
        self.top: NDArray[np.uint8 | np.int32] = np.zeros((y1 - y0, x1 - x0), kind)
        self._by_people = np.zeros(self.top.shape, np.bool_)

    def looked_up(self, table: NDArray[Any]) -> NDArray[np.uint8]:
        """What a table says of what lies on top."""
        return _looked_up(table, self.top)

    def paint(self, number: int) -> tuple[int, int]:
        """Puts a layer on top.

        Returns:
            How many of its pixels lie in the region, and how many of these people had given another
            label of lower order.
        """
        layer, region = self._layers[number - 1], self._region
        (left, top), (height, width) = layer.corner, layer.mask.shape
        x0, y0 = max(region[0], left), max(region[1], top)
        x1, y1 = min(region[2], left + width), min(region[3], top + height)
        if x0 >= x1 or y0 >= y1:
            return 0, 0
        mask = layer.mask[y0 - top : y1 - top, x0 - left : x1 - left]
        window = np.s_[y0 - region[1] : y1 - region[1], x0 - region[0] : x1 - region[0]]
        below, by_people = self.top[window], self._by_people[window]
        clash, overlapped = None, 0
        if layer.is_drawn:
            if (by_people & mask).any():
                other = self._drawn & (self.label != self.label[number])
                met = _looked_up(other * np.where(self._order == layer.order, 2, 1), below) * mask
                overlapped, clash = int(np.count_nonzero(met == 1)), met == 2
            by_people |= mask
        _put(below, number, mask)
        if clash is not None:
            _put(below, number + len(self._layers), clash)
        return int(np.count_nonzero(mask)), overlapped


def _put(window: NDArray[np.uint8 | np.int32], value: int, mask: NDArray[np.bool_]) -> None:
    """`window[mask] = value`, in a third of the time."""
    cv2.copyTo(np.full(mask.shape, value, window.dtype), mask.view(np.uint8), window)


def _looked_up(table: NDArray[Any], numbers: NDArray[np.uint8 | np.int32]) -> NDArray[np.uint8]:
    """`table[numbers]`; of uint8 in a tenth of the time."""
    if numbers.dtype != np.uint8:
        return table.astype(np.uint8).take(numbers)
    whole = np.zeros(256, np.uint8)
    whole[: len(table)] = table
    return np.asarray(cv2.LUT(numbers, whole), np.uint8)


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
