"""Handouts for tests, and what annotators would paint in them."""

import numpy as np

from segal.annotation.answers import Answer, Layer
from segal.annotation.formats.base import WriteOptions
from segal.annotation.handout import AnnotationTask, Handout, task_key

CLASSES = tuple(f'class {i}, <&">{"é" * (i % 3)}' for i in range(19))
OPTIONS = WriteOptions(
    "/data/local-files/?d=sub/{file}", tuple((i, 2 * i, 255 - i) for i in range(19))
)


def handed_task(
    image="a b#%.png", size=(23, 37), region=(5, 3, 37, 20), frame=None, rank=1, who=""
):
    """A task; of a crop where a frame is given."""
    whole = (0, 0, size[1], size[0])
    file = image if frame is None else f"crops/{rank}.png"
    return AnnotationTask(
        task_key("run", image, region), rank, image, "d", size, region, frame or whole, file, who
    )


def in_frames():
    """One task, handed out as a whole image, and as crops with several pads."""
    frames = None, (2, 0, 37, 23), (0, 0, 37, 22)
    return [handout(handed_task(frame=frame), model="m") for frame in frames]


def handout(*tasks, question="segmentation", classes=CLASSES, model=None, kind="x"):
    mode = "context" if all(task.file == task.image for task in tasks) else "crop"
    return Handout("run", kind, mode, question, classes, model, tuple(tasks))


def scene(task, classes=CLASSES, seed=0, grain=3):
    """A label of a task's region that has every class, with holes and many components."""
    x0, y0, x1, y1 = task.region
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, len(classes), (-(-(y1 - y0) // grain), -(-(x1 - x0) // grain)))
    label = np.kron(coarse, np.ones((grain, grain), int))[: y1 - y0, : x1 - x0]
    flat = label.reshape(-1)
    flat[: len(classes)] = np.arange(len(classes))[: flat.size]
    return label


def painted(task, label, classes=CLASSES, is_drawn=False):
    """The label of a region as layers of the frame."""
    x, y, _, _ = task.region_in_frame
    layers = [
        Layer(name, label == index, (x, y), is_drawn=is_drawn)
        for index, name in enumerate(classes)
        if (label == index).any()
    ]
    return Answer(task.key, "test", layers=layers)


def label_of(answer, task, classes=CLASSES):
    """What layers come to in the region, by loops over pixels: -1 where nothing is painted."""
    x0, y0, x1, y1 = task.region_in_frame
    label = np.full((y1 - y0, x1 - x0), -1)
    for layer in sorted(answer.layers, key=lambda layer: layer.order):
        for row, column in np.argwhere(layer.mask):
            y, x = row + layer.corner[1] - y0, column + layer.corner[0] - x0
            assert 0 <= y < y1 - y0 and 0 <= x < x1 - x0
            label[y, x] = classes.index(layer.name)
    return label
