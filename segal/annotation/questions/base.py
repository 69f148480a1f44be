"""What settles an answer, whatever was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segal.annotation.answers import Answer
from segal.annotation.handout import AnnotationTask
from segal.candidates.evidence import Evidence
from segal.candidates.regions import Box
from segal.errors import SegalError
from segal.functional.labels import has_class
from segal.registry import nearest

VOID = "void"
"""The label of what no class stands for, beside the classes; of a class of that name it is it."""
ERROR, IGNORE, ACCEPT = "error", "ignore", "accept"


@dataclass(frozen=True)
class Rules:
    """What becomes of what annotators leave open.

    Attributes:
        unpainted: Of pixels of a region that nobody painted: `error`, `ignore` (void), or the name
            of the class that they are.
        conflicts: Of pixels that have two labels of which neither lies on top: `error` or `ignore`.
        untouched: Of what the network drew and nobody touched: `accept`, or `ignore`, which takes
            it for not painted.
    """

    unpainted: str = ERROR
    conflicts: Literal["error", "ignore"] = "error"
    untouched: Literal["accept", "ignore"] = "accept"


@dataclass(frozen=True, eq=False)
class Settled:
    """An answer as the label of its region.

    Attributes:
        label: Of the region, as a data set has it of an image of that size.
        counts: What was found, by name, of `COUNTED`.
    """

    label: Any
    counts: Mapping[str, int] = field(default_factory=dict)


COUNTED = {
    "outside": "drawn outside of the region, and cut off",
    "unpainted": "not painted",
    "conflicts": "with two labels, of which neither lies on top",
    "overlaps": "with two labels, of which the upper one is taken",
    "untouched": "of the network's own, which nobody touched",
}
"""What is counted of an answer, in elements, and how it is told."""


class Question(Protocol):
    """What is asked of annotators.

    Attributes:
        offers_void: Whether `VOID` can be answered.
        of_wholes: Whether the answer is of the image as a whole, whatever stands for it in files.
        unit: What is counted, such as pixels.
        suffix: Of files that `encode` fills.
    """

    offers_void: bool
    of_wholes: bool
    unit: str
    suffix: str

    def settle(
        self, answer: Answer, task: AnnotationTask, classes: Sequence[str], rules: Rules
    ) -> Settled:
        """Makes an answer the label of its region.

        Args:
            answer: It.
            task: What was asked.
            classes: Names, in order.
            rules: What becomes of what is left open.

        Raises:
            SegalError: For labels that are no classes, and for what the rules refuse.
        """
        ...

    def predicted(self, evidence: Evidence, task: AnnotationTask) -> Any:
        """What a network says of a region, as the label of it.

        Args:
            evidence: Of the image alone.
            task: What is asked.
        """
        ...

    def answer(self, label: Any, task: AnnotationTask, classes: Sequence[str]) -> Answer:
        """The label of a region as an answer that nobody has touched.

        Args:
            label: As `settle` makes it.
            task: What was asked.
            classes: Names, in order.
        """
        ...

    def encode(self, label: Any) -> bytes:
        """The label of a region as the content of a file."""
        ...

    def decode(self, data: bytes, region: Box) -> Any:
        """The label of a region.

        Raises:
            ValueError: If it is none.
        """
        ...

    def digest(self, label: Any) -> str:
        """As `segal.functional.labels.region_digest` has it of an image that says this there."""
        ...

    def pasted(self, label: Any, part: Any, region: Box) -> Any:
        """A copy of an image's label that says of a region what its own label says."""
        ...

    def blank(self, size: tuple[int, int]) -> Any:
        """The label of an image of which nothing is known."""
        ...

    def count(
        self, label: Any, boxes: Sequence[Box], classes: int
    ) -> tuple[NDArray[np.int64], int, list[Box]]:
        """What a label says within boxes, as `LabelledDataset.check` counts it.

        Returns:
            (classes,) by class, what has none, and those boxes of which nothing is known.
        """
        ...

    def agreement(self, one: Any, other: Any, classes: int) -> NDArray[np.int64]:
        """How far two labels of a region agree.

        Returns:
            (classes, 3): of each class, what both, only the one and only the other say.
        """
        ...


def class_index(
    name: str, classes: Sequence[str], answer: Answer, task: AnnotationTask, void: int | None
) -> int:
    """The class of a label's name; exact names only.

    Args:
        name: As the tool has it.
        classes: Names, in order.
        answer: Whose label it is.
        task: Of the answer.
        void: What `VOID` stands for where no class has that name; None if nothing.

    Raises:
        SegalError: If no class has it.
    """
    if name in classes:
        return classes.index(name)
    if name == VOID and void is not None:
        return void
    alike = nearest(name, list(classes))
    raise SegalError(
        f"{place(answer, task)}: the label {name!r} is none of the classes",
        expected=", ".join([*classes[:20], *(["..."] if len(classes) > 20 else [])]),
        got=repr(name),
        remedy=f"rename it: did you mean {alike!r}?" if alike else "rename it in the tool",
    )


def place(answer: Answer, task: AnnotationTask) -> str:
    """Where an answer is from, for messages: file, task, image and region."""
    x0, y0, x1, y1 = task.region
    region = f"x {x0}, y {y0}, width {x1 - x0}, height {y1 - y0}"
    return f"{answer.source}: task {task.key}, {task.image} at {region}"


def count_elements(
    label: NDArray[Any], boxes: Sequence[Box], classes: int
) -> tuple[NDArray[np.int64], int, list[Box]]:
    """As `Question.count`, of labels that are arrays of classes."""
    inside = np.zeros(label.shape, np.bool_)
    for x0, y0, x1, y1 in boxes:
        inside[y0:y1, x0:x1] = True
    known = has_class(label)
    counts = np.bincount(label[inside & known], minlength=classes)
    empty = [b for b in boxes if not known[b[1] : b[3], b[0] : b[2]].any()]
    return counts.astype(np.int64), int((inside & ~known).sum()), empty
