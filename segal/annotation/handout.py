"""What is handed out to annotators: tasks, each a region of an image, and what is known of them."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, Literal

from segal.candidates.regions import Box

CONTEXT: Final = "context"
CROP: Final = "crop"
Mode = Literal["context", "crop"]
MANIFEST_FILE = "segal-handout.json"
NAME_HANDOUT = f"--handout HANDOUT/{MANIFEST_FILE}"


def task_key(run: str, image: str, box: Box) -> str:
    """The id of a task: the same in every handout of a run.

    Args:
        run: The run's id.
        image: Path relative to the folder of images.
        box: The region.

    Returns:
        16 hexadecimal digits.

    Examples:
        >>> task_key("r", "a.png", (0, 0, 8, 8)) == task_key("r", "a.png", (0, 0, 8, 8))
        True
    """
    text = json.dumps([run, image, list(map(int, box))])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class AnnotationTask:
    """A region to be labelled by one annotator.

    Coordinates are pixels of the original image after EXIF orientation, x right, y down; boxes are
    half-open.

    Attributes:
        key: See `task_key`; the only thing by which an answer is known.
        rank: Position in the pick order, from 1: the priority.
        image: Path relative to the folder of images, with forward slashes.
        digest: sha256 of the image's file.
        size: (height, width) of the image.
        region: What is to be labelled.
        frame: What the annotator sees, and what the tool's coordinates and sizes are of: the whole
            image, or a crop of it, which holds the region.
        file: What the tool shows: the image's path, or that of the crop's file in the handout.
        annotator: Who it is for; empty where that is not said.
    """

    key: str
    rank: int
    image: str
    digest: str
    size: tuple[int, int]
    region: Box
    frame: Box
    file: str
    annotator: str = ""

    @property
    def frame_size(self) -> tuple[int, int]:
        """(height, width) of what the annotator sees."""
        x0, y0, x1, y1 = self.frame
        return y1 - y0, x1 - x0

    @property
    def region_in_frame(self) -> Box:
        """The region in pixels of what the annotator sees."""
        left, top, _, _ = self.frame
        x0, y0, x1, y1 = self.region
        return x0 - left, y0 - top, x1 - left, y1 - top


@dataclass(frozen=True)
class Handout:
    """Tasks that are handed out together.

    Attributes:
        run: Id of the run whose picks they are.
        kind: The name of the format, such as `label-studio`.
        mode: `context` or `crop`.
        question: What is asked: the name of segal's task, such as `segmentation`.
        classes: Names of the labels that can be given: in the order of the network's classes, and
            `void` behind them where that can be answered.
        void: Whether the last of them is that, and no class.
        model: Digest of the network that pre-annotated; None where none did.
        tasks: By rank, and of one rank by annotator. With an overlap a region is there once for
            each of its annotators, under one key. Where several handouts are read as one, it is
            there for each frame and file that it was handed out in, too, the latest first.
        files: sha256 of each file that was written, by its path in the handout; empty where that
            is not known.
    """

    run: str
    kind: str
    mode: Mode
    question: str
    classes: tuple[str, ...]
    model: str | None
    tasks: tuple[AnnotationTask, ...]
    void: bool = False
    files: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def by_key(self) -> Mapping[str, Sequence[AnnotationTask]]:
        """Tasks of each region."""
        found: dict[str, list[AnnotationTask]] = {}
        for task in self.tasks:
            found.setdefault(task.key, []).append(task)
        return found


def fitting(tasks: Sequence[AnnotationTask], size: object) -> list[AnnotationTask]:
    """Of tasks that were handed out in several frames, those in the frame that an answer fits.

    Frames of a region are nested, so that no two of one file are of the same size.

    Args:
        tasks: Of one file or of one region, the latest first.
        size: (height, width) of what came back, as it is stated there.

    Returns:
        Tasks of one frame; of the latest, where none has that size.
    """
    fits = [task for task in tasks if task.frame_size == size]
    return [task for task in tasks if task.frame == (fits or tasks)[0].frame]


def as_one(handouts: Sequence[Handout]) -> Handout:
    """Several handouts, so that answers to any of them can be read.

    Args:
        handouts: Of one run, format and list of classes, the latest first; at least one.

    Returns:
        The latest, with the tasks of all, in all frames and files that they were handed out in.
    """
    tasks: dict[tuple[str, str, Box, str], AnnotationTask] = {}
    for task in (task for one in handouts for task in one.tasks):
        tasks.setdefault((task.key, task.annotator, task.frame, task.file), task)
    model = next((one.model for one in handouts if one.model is not None), None)
    return replace(handouts[0], tasks=tuple(tasks.values()), model=model)
