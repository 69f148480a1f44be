"""Handouts of made-up images, whose labels are known, for tests of annotation formats."""

import json
import shutil

import numpy as np

from segal.annotation.answers import Answer, DrawnBox, Layer
from segal.annotation.formats import FORMATS
from segal.annotation.formats.base import WriteOptions
from segal.annotation.handout import AnnotationTask, Handout, task_key
from segal.data.cityscapes import CLASSES
from segal.errors import SegalError

NAMES = tuple(name for _, name, _ in CLASSES)
COLOURS = tuple(colour for _, _, colour in CLASSES)
OPTIONS = WriteOptions("images/{file}", COLOURS)
VOID = 255


def labels(seed=0, sizes=((37, 53), (29, 17)), classes=19):
    """Labels with holes, single pixels, several components and void, by the image's path."""
    rng = np.random.default_rng(seed)
    made = {}
    for number, (height, width) in enumerate(sizes):
        label = np.kron(rng.integers(0, classes, (height, width)), np.ones((3, 5), int))
        label = label[1 : height + 1, 2 : width + 2].astype(np.uint8)
        label[rng.random(label.shape) < 0.1] = VOID
        label[4:9, 4:9], label[6, 6] = 1, 2  # a hole
        made[f"town/{'ab'[number]}_leftImg8bit.jpg"] = label
    return made


def handout(
    made,
    kind,
    mode="context",
    question="segmentation",
    names=NAMES,
    model=None,
    annotators=("",),
    step=16,
    pad=3,
    void=False,
):
    """Every other region of a grid, those at the right and lower edges among them."""
    tasks = []
    for image, label in made.items():
        height, width = label.shape
        boxes = [
            (x, y, min(x + step, width), min(y + step, height))
            for y in range(0, height, step)
            for x in range(0, width, step)
        ][::-2]
        for box in boxes:
            x0, y0, x1, y1 = box
            frame = (0, 0, width, height)
            if mode == "crop":
                frame = (
                    max(x0 - pad, 0),
                    max(y0 - pad, 0),
                    min(x1 + pad, width),
                    min(y1 + 1, height),
                )
            for annotator in annotators:
                rank = len(tasks) + 1
                file = image if mode == "context" else f"crops/{rank:04d}.png"
                key = task_key("run", image, box)
                tasks.append(
                    AnnotationTask(
                        key, rank, image, "0" * 64, (height, width), box, frame, file, annotator
                    )
                )
    return Handout("run", kind, mode, question, names, model, tuple(tasks), void)


def drawn(made, names=NAMES):
    """What is true of a task, as an answer in its frame: the region's pixels alone."""

    def draft(task):
        x0, y0, x1, y1 = task.region
        a, b, _, _ = task.region_in_frame
        label = made[task.image][y0:y1, x0:x1]
        layers = [Layer(names[v], label == v, (a, b)) for v in np.unique(label) if v != VOID]
        return Answer(task.key, "network", layers=layers)

    return draft


def composed(answer, task, names=NAMES):
    """The region's label by an answer, pixel by pixel: (h, w) uint8; and pixels outside of it."""
    height, width = task.frame_size
    x0, y0, x1, y1 = task.region_in_frame
    whole = np.full((height, width), VOID, np.uint8)
    for layer in sorted(answer.layers, key=lambda layer: layer.order):
        for y, row in enumerate(layer.mask):
            for x, on in enumerate(row):
                if on:
                    whole[layer.corner[1] + y, layer.corner[0] + x] = names.index(layer.name)
    region = whole[y0:y1, x0:x1].copy()
    whole[y0:y1, x0:x1] = VOID
    return region, int((whole != VOID).sum())


def boxes(made, names):
    """Boxes of a task, as an answer."""

    def draft(task):
        rng = np.random.default_rng(task.rank)
        x0, y0, x1, y1 = task.region_in_frame
        found = []
        for number in range(task.rank % 3):
            near = np.array([x0, y0]) + rng.random(2) * np.array([x1 - x0, y1 - y0]) / 2
            far = near + rng.random(2) * np.array([x1 - x0, y1 - y0]) / 2
            found.append(DrawnBox(names[number % len(names)], tuple(np.r_[near, far].tolist())))
        return Answer(task.key, "network", boxes=found)

    return draft


WORK = {
    "cityscapes": "gtFine",
    "fiftyone": "labels",
    "folder": "labels",
    "voc": "SegmentationClass",
}
"""Where people's labels lie, of formats that keep drafts apart."""


def written(tmp_path, kind, drafts, handed):
    FORMATS[kind].check(handed)
    options = WriteOptions(OPTIONS.image_url, COLOURS[: len(handed.classes)])
    FORMATS[kind].write(tmp_path, handed, drafts, options)
    for drafts_folder in tmp_path.rglob("drafts"):
        shutil.copytree(drafts_folder, drafts_folder.parent / WORK[kind], dirs_exist_ok=True)
    return tmp_path


def read(path, handed):
    """Answers by key; an error fails the test."""
    answers = list(FORMATS[handed.kind].read(path, handed))
    errors = [str(one) for one in answers if isinstance(one, SegalError)]
    assert not errors, "\n".join(errors)
    assert len({one.key for one in answers}) == len(answers)
    return {one.key: one for one in answers}


def errors_of(path, handed):
    return [one for one in FORMATS[handed.kind].read(path, handed) if isinstance(one, SegalError)]


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
