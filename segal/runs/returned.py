"""A data set whose labels annotators gave back to runs: region by region, over its label files."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segal.annotation.questions import QUESTIONS
from segal.candidates.regions import Box
from segal.data.find import shortened
from segal.data.labelled import LabelCounts, LabelledDataset, PartlyLabelled
from segal.data.pool import Progress
from segal.errors import SegalError, raise_all
from segal.runs.returns import Return, read_return
from segal.runs.run_folder import fingerprint


@dataclass(frozen=True)
class Answered:
    """The answer that is the label of a region.

    Attributes:
        folder: Of the run that it was given back to.
        returned: What is booked of it.
    """

    folder: Path
    returned: Return


@dataclass(frozen=True, eq=False)
class Unlabelled(PartlyLabelled):
    """A data set whose labels are not looked at.

    Attributes:
        dataset: It.
        question: The name of the task.
    """

    question: str

    def has_label(self, index: int) -> bool:
        """False."""
        del index
        return False

    def read_label(self, index: int) -> Any:
        """The label of an image of which nothing is known."""
        return QUESTIONS[self.question].blank(self.pool.size(index))

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """As `LabelledDataset.check`: nothing is known."""
        del progress
        chosen = range(len(self)) if indices is None else indices
        empty = {i: [(0, 0, *self.pool.size(i)[::-1])] for i in chosen}
        pixels, values = np.zeros(len(self.classes.names), np.int64), np.zeros(256, np.int64)
        return LabelCounts(pixels, 0, values, empty if within is None else within)

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """Of the classes alone."""
        del indices
        return fingerprint(list(self.classes.names))

    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """None."""
        del indices
        return {}

    def subset(self, indices: Iterable[int]) -> "Unlabelled":
        """As `LabelledDataset.subset`."""
        return Unlabelled(self.dataset.subset(indices), self.question)


@dataclass(frozen=True, eq=False)
class ReturnedDataset(PartlyLabelled):
    """A data set in which answers take the place of what label files say of their regions.

    Attributes:
        dataset: It; labels of images that have answers may be missing.
        question: The name of the task.
        answers: By image index.
    """

    dataset: LabelledDataset
    question: str
    answers: Mapping[int, Sequence[Answered]]

    def read_label(self, index: int) -> Any:
        """As `LabelledDataset.read_label`; an image without a label file is void but for answers.

        Raises:
            SegalError: If an answer is missing or damaged, or a label that is there.
        """
        answers, question = self.answers.get(index, ()), QUESTIONS[self.question]
        if not answers or self.dataset.has_label(index):
            label = self.dataset.read_label(index)
        else:
            label = question.blank(self.pool.size(index))
        for one in answers:
            part = read_return(one.folder, one.returned, self.question)
            label = question.pasted(label, part, one.returned.box)
        return label

    def read_window(self, index: int, box: Box) -> Any:
        """As `LabelledDataset.read_window`: of answers those alone that meet it are read."""
        x0, y0, x1, y1 = box
        question = QUESTIONS[self.question]
        if index not in self.answers or self.dataset.has_label(index):
            label = self.dataset.read_window(index, box)
        else:
            label = question.blank((y1 - y0, x1 - x0))
        for one in self.answers.get(index, ()):
            a, b, c, d = one.returned.box
            left, top, right, bottom = max(a, x0), max(b, y0), min(c, x1), min(d, y1)
            if left < right and top < bottom:
                part = read_return(one.folder, one.returned, self.question)
                shown = part[top - b : bottom - b, left - a : right - a]
                place = left - x0, top - y0, right - x0, bottom - y0
                label = question.pasted(label, shown, place)
        return label

    def check(
        self,
        indices: Iterable[int] | None = None,
        progress: Progress | None = None,
        within: Mapping[int, Sequence[Box]] | None = None,
    ) -> LabelCounts:
        """As `LabelledDataset.check`; a region with an answer is not empty, whatever it says."""
        chosen = range(len(self)) if indices is None else indices
        boxes = {i: [(0, 0, *self.pool.size(i)[::-1])] for i in chosen}
        boxes = boxes if within is None else {i: list(within[i]) for i in sorted(within)}
        plain = [i for i in boxes if i not in self.answers]
        counts = self.dataset.check(
            plain, progress, None if within is None else {i: within[i] for i in plain}
        )
        pixels, void, empty = counts.pixels.copy(), counts.void, dict(counts.empty)
        errors, question = [], QUESTIONS[self.question]
        for i in sorted(boxes.keys() & self.answers.keys()):
            try:
                label = self.read_label(i)
            except SegalError as error:
                errors.append(error)
                continue
            found, nothing, none = question.count(label, boxes[i], len(pixels))
            answered = {one.returned.box for one in self.answers[i]}
            pixels += found
            void += nothing
            if none := [box for box in none if box not in answered]:
                empty[i] = none
        raise_all(shortened(errors))
        return replace(counts, pixels=pixels, void=void, empty=empty)

    def digest(self, indices: Iterable[int] | None = None) -> str:
        """As `LabelledDataset.digest`."""
        chosen = list(range(len(self)) if indices is None else indices)
        plain = self.dataset.digest([i for i in chosen if i not in self.answers])
        return fingerprint(
            [plain, list(self.digests(i for i in chosen if i in self.answers).items())]
        )

    def digests(self, indices: Iterable[int] | None = None) -> dict[str, str]:
        """As `LabelledDataset.digests`: of label files, and of the answers over them."""
        found = {}
        for i in range(len(self)) if indices is None else indices:
            under = self.dataset.digests([i]) if self.dataset.has_label(i) else {}
            path = self.pool.paths[i]
            answers = [[list(a.returned.box), a.returned.label] for a in self.answers.get(i, ())]
            found[path] = (
                fingerprint([under.get(path), answers]) if answers else under.get(path, "")
            )
        return found

    def has_label(self, index: int) -> bool:
        """Whether an image has a label, or an answer."""
        return index in self.answers or self.dataset.has_label(index)

    def subset(self, indices: Iterable[int]) -> "ReturnedDataset":
        """As `LabelledDataset.subset`."""
        chosen = list(indices)
        answers = {new: self.answers[old] for new, old in enumerate(chosen) if old in self.answers}
        return ReturnedDataset(self.dataset.subset(chosen), self.question, answers)


def with_answers(
    dataset: LabelledDataset, question: str, answers: Iterable[tuple[str, Answered]]
) -> ReturnedDataset:
    """A data set with answers over it.

    Args:
        dataset: It.
        question: The name of the task.
        answers: By the path that their image has now.
    """
    positions = {path: i for i, path in enumerate(dataset.pool.paths)}
    found: dict[int, dict[Box, Answered]] = {}
    for path, one in answers:
        found.setdefault(positions[path], {})[one.returned.box] = one
    listed = {i: tuple(by_box.values()) for i, by_box in sorted(found.items())}
    return ReturnedDataset(dataset, question, listed)


def check_answer_classes(folder: Path, chosen: Sequence[str], names: Sequence[str]) -> None:
    """Raises a SegalError if annotators chose from other classes than a data set's.

    Args:
        folder: Of the run that they gave their answers back to.
        chosen: Names that they chose from.
        names: The data set's.
    """
    if tuple(chosen) != tuple(names):
        raise SegalError(
            f"{folder}: annotators chose from other classes",
            expected=f"those of the data set: {', '.join(names)}",
            got=", ".join(chosen),
            remedy="train on the data set that the picks were handed out for, or give its classes "
            "the same names in the same order",
        )
