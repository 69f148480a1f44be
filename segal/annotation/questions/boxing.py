"""Of images in which objects are found: boxes that were drawn become those of their region."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segal.annotation.answers import Answer, DrawnBox
from segal.annotation.handout import AnnotationTask
from segal.annotation.questions.base import IGNORE, Rules, Settled, class_index, place
from segal.candidates.evidence import Evidence
from segal.candidates.regions import Box
from segal.errors import SegalError
from segal.tasks.detection.evidence import DetectionEvidence
from segal.tasks.detection.matching import HIT, overlaps
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.predicting import SURE, found_in


class Boxing:
    """The objects of an image or a tile."""

    offers_void = False
    of_wholes = False
    unit = "boxes"
    suffix = ".json"

    def settle(
        self, answer: Answer, task: AnnotationTask, classes: Sequence[str], rules: Rules
    ) -> Settled:
        """As `Question.settle`: objects whose centre lies in the region, in the image's pixels."""
        left, top = task.frame[:2]
        height, width = task.size
        kept = [b for b in answer.boxes if b.is_drawn or rules.untouched != IGNORE]
        numbers = [class_index(b.name, classes, answer, task, None) for b in kept]
        edges = np.array([b.box for b in kept], np.float64).reshape(-1, 4)
        edges += np.array([left, top, left, top])
        edges = np.clip(edges, 0, [width, height, width, height])
        flat = ~((edges[:, 0] < edges[:, 2]) & (edges[:, 1] < edges[:, 3]))
        if flat.any():
            raise SegalError(
                f"{place(answer, task)}: {int(flat.sum())} boxes without area",
                expected="x0 < x1 and y0 < y1, within the image",
                got=str(kept[int(flat.argmax())].box),
                remedy="delete them in the tool",
            )
        everything = Objects(
            edges,
            np.array(numbers, np.int64),
            np.zeros(len(kept), np.bool_),
            ((0, 0, width, height),),
        )
        label = everything.keep([task.region])
        inside = everything.inside([task.region])
        drawn = np.array([b.is_drawn for b in kept], np.bool_)
        counts = {
            "outside": int((~inside & drawn).sum()),
            "untouched": int((inside & ~drawn).sum()),
        }
        return Settled(label, counts)

    def predicted(self, evidence: Evidence, task: AnnotationTask) -> Objects:
        """As `Question.predicted`: what the network is sure enough of to show it."""
        assert isinstance(evidence, DetectionEvidence)
        found = found_in(evidence.detections[0])
        sure = (found.scores >= SURE) & (found.boxes[:, :2] < found.boxes[:, 2:]).all(1)
        height, width = task.size
        everything = Objects(
            found.boxes[sure].astype(np.float64),
            found.classes[sure],
            np.zeros(int(sure.sum()), np.bool_),
            ((0, 0, width, height),),
        )
        return everything.keep([task.region])

    def answer(self, label: Objects, task: AnnotationTask, classes: Sequence[str]) -> Answer:
        """As `Question.answer`; of what a crop does not show, the part that it does."""
        left, top, right, bottom = task.frame
        edges = np.clip(label.boxes, [left, top, left, top], [right, bottom, right, bottom])
        edges -= np.array([left, top, left, top])
        boxes = [
            DrawnBox(classes[index], (x0, y0, x1, y1), is_drawn=False)
            for index, (x0, y0, x1, y1) in zip(label.classes.tolist(), edges.tolist(), strict=True)
        ]
        return Answer(task.key, "the network", boxes=boxes)

    def encode(self, label: Objects) -> bytes:
        """Edges and classes, as JSON; numbers to the last bit."""
        return json.dumps([[*b, c] for b, c in zip(label.boxes.tolist(), label.classes.tolist(),
                                                   strict=True)]).encode()  # fmt: skip

    def decode(self, data: bytes, region: Box) -> Objects:
        """As `Question.decode`."""
        rows = np.array(json.loads(data), np.float64).reshape(-1, 5)
        if not np.isfinite(rows).all():
            raise ValueError("no finite boxes")
        return Objects(
            rows[:, :4], rows[:, 4].astype(np.int64), np.zeros(len(rows), np.bool_), (region,)
        )

    def digest(self, label: Objects) -> str:
        """As `Question.digest`."""
        return label.digest()

    def pasted(self, label: Objects, part: Objects, region: Box) -> Objects:
        """As `Question.pasted`."""
        rest = label.drop([region])
        return Objects(
            np.concatenate([rest.boxes, part.boxes]),
            np.concatenate([rest.classes, part.classes]),
            np.concatenate([rest.crowd, part.crowd]),
            (*rest.known, region),
        )

    def blank(self, size: tuple[int, int]) -> Objects:
        """As `Question.blank`."""
        del size
        return Objects.none()

    def count(
        self, label: Objects, boxes: Sequence[Box], classes: int
    ) -> tuple[NDArray[np.int64], int, list[Box]]:
        """As `Question.count`: objects by class, and crowds."""
        found = label.keep(boxes)
        counts = np.bincount(found.classes[~found.crowd], minlength=classes).astype(np.int64)
        empty = [box for box in boxes if not label.keep([box]).known]
        return counts, int(found.crowd.sum()), empty

    def agreement(self, one: Objects, other: Objects, classes: int) -> NDArray[np.int64]:
        """As `Question.agreement`: boxes of a class are the same object from an IoU of 0.5 on."""
        counts = np.zeros((classes, 3), np.int64)
        for index in range(classes):
            a, b = one.boxes[one.classes == index], other.boxes[other.classes == index]
            same = _matched(overlaps(a, b))
            counts[index] = same, len(a) - same, len(b) - same
        return counts


def _matched(shares: NDArray[np.float64]) -> int:
    """How many pairs there are, the best first, each box in one."""
    left = np.where(shares >= HIT, shares, -1.0)
    count = 0
    while left.size and left.max() > 0:
        row, column = np.unravel_index(left.argmax(), left.shape)
        left[row], left[:, column] = -1.0, -1.0
        count += 1
    return count
