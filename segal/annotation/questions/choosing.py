"""Of images that are classified: names that were chosen become the label of their image."""

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segal.annotation.answers import Answer
from segal.annotation.handout import AnnotationTask
from segal.annotation.questions.base import Rules, Settled, class_index, count_elements, place
from segal.candidates.evidence import Evidence
from segal.candidates.regions import Box
from segal.errors import SegalError
from segal.functional.labels import region_digest

_UNKNOWN = -1


class Choosing:
    """The class of an image.

    Args:
        several: Whether an image may have several classes, or none: then each is a question.
    """

    offers_void = False
    of_wholes = True
    unit = "images"
    suffix = ".json"

    def __init__(self, *, several: bool) -> None:
        self.several = several

    def settle(
        self, answer: Answer, task: AnnotationTask, classes: Sequence[str], rules: Rules
    ) -> Settled:
        """As `Question.settle`: (1, 1) int32, a class; of several, (C, 1) of 0 and 1."""
        del rules
        chosen = {class_index(name, classes, answer, task, None) for name in answer.choices}
        if self.several:
            label = np.zeros((len(classes), 1), np.int32)
            label[sorted(chosen)] = 1
            return Settled(label)
        if len(chosen) != 1:
            raise SegalError(
                f"{place(answer, task)}: {len(chosen)} classes are chosen",
                expected="one",
                got=", ".join(answer.choices) or "none",
                remedy="have it mended in the tool",
            )
        return Settled(np.full((1, 1), chosen.pop(), np.int32))

    def predicted(self, evidence: Evidence, task: AnnotationTask) -> NDArray[np.int32]:
        """As `Question.predicted`."""
        del task
        label: NDArray[np.int32] = evidence.logits[0].argmax(0).int().cpu().numpy()
        return label

    def answer(
        self, label: NDArray[np.int32], task: AnnotationTask, classes: Sequence[str]
    ) -> Answer:
        """As `Question.answer`."""
        found = np.flatnonzero(label.ravel() == 1) if self.several else label.ravel()
        chosen = [classes[index] for index in found.tolist() if index >= 0]
        return Answer(task.key, "the network", choices=chosen)

    def encode(self, label: NDArray[np.int32]) -> bytes:
        """A list of numbers, as JSON."""
        return json.dumps(label.ravel().tolist()).encode()

    def decode(self, data: bytes, region: Box) -> NDArray[np.int32]:
        """As `Question.decode`."""
        label = np.array(json.loads(data))
        x0, y0, x1, y1 = region
        if label.dtype.kind != "i" or label.shape != ((y1 - y0) * (x1 - x0),):
            raise ValueError("no label of the region's size")
        return label.astype(np.int32).reshape(y1 - y0, x1 - x0)

    def digest(self, label: NDArray[np.int32]) -> str:
        """As `Question.digest`."""
        height, width = label.shape
        return region_digest(label, (0, 0, width, height))

    def pasted(
        self, label: NDArray[np.int32], part: NDArray[np.int32], region: Box
    ) -> NDArray[np.int32]:
        """As `Question.pasted`."""
        x0, y0, x1, y1 = region
        whole = label.copy()
        whole[y0:y1, x0:x1] = part
        return whole

    def blank(self, size: tuple[int, int]) -> NDArray[np.int32]:
        """As `Question.blank`."""
        return np.full(size, _UNKNOWN, np.int32)

    def count(
        self, label: NDArray[np.int32], boxes: Sequence[Box], classes: int
    ) -> tuple[NDArray[np.int64], int, list[Box]]:
        """As `Question.count`."""
        if not self.several:
            return count_elements(label, boxes, classes)
        known = label.ravel() >= 0
        return (
            (label.ravel() == 1).astype(np.int64),
            int((~known).sum()),
            [b for b in boxes if not known[b[1] : b[3]].any()],
        )

    def agreement(
        self, one: NDArray[np.int32], other: NDArray[np.int32], classes: int
    ) -> NDArray[np.int64]:
        """As `Question.agreement`, of images."""
        if not self.several:
            one, other = (np.eye(classes, dtype=np.int32)[x.ravel()].T for x in (one, other))
        a, b = one.ravel() == 1, other.ravel() == 1
        return np.stack([a & b, a & ~b, b & ~a], 1).astype(np.int64)
