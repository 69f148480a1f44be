"""What the network found in the images of a handout, as writers of data sets take it."""

from collections.abc import Sequence

import numpy as np

from segal.annotation.answers import DrawnBox
from segal.annotation.formats.base import Drafts
from segal.annotation.formats.shared.files import Drafted, Part
from segal.tasks.detection.objects import Objects
from segal.tasks.detection.writing import LabelledImage


def labelled_images(
    part: Part, classes: Sequence[str], drafts: Drafts | None
) -> tuple[list[LabelledImage], Drafted]:
    """Each image that is shown, with the boxes of all its tasks; and what is drafted of each."""
    numbers = {name: i for i, name in enumerate(classes)}
    drafted, images = Drafted(), []
    for file, tasks in part.by_file.items():
        found: list[DrawnBox] = []
        for task in tasks:
            answer = drafts(task) if drafts is not None else None
            boxes = [] if answer is None else list(answer.boxes)
            drafted.add(task, boxes)
            found += boxes
        objects = Objects(
            np.array([one.box for one in found], np.float64).reshape(-1, 4),
            np.array([numbers[one.name] for one in found], np.int64),
            np.zeros(len(found), np.bool_),
            (),
        )
        images.append(LabelledImage(file, *tasks[0].frame_size, objects))
    return images, drafted
