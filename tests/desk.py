"""A format whose annotators sit in the test: what they draw is a list of answers in memory."""

import json

import cv2
import numpy as np

from segal.annotation.answers import Answer, Layer
from segal.annotation.handout import CONTEXT, CROP
from segal.errors import SegalError
from tests.conftest import write_image


class Desk:
    """Tasks go out as a list of keys; answers come back from `drawn`, by the name of a file.

    Attributes:
        drawn: What files hold.
        drafts: What the network said of each task that was handed out.
    """

    name = "desk"
    questions = ("segmentation", "classification", "detection")
    modes = (CONTEXT, CROP)
    is_lossless = True

    def __init__(self):
        self.drawn, self.drafts = {}, {}

    def check(self, handout):
        if "" in handout.classes:
            raise SegalError("a class without a name")

    def write(self, folder, handout, drafts, options):
        file = folder / "tasks.json"
        file.write_text(json.dumps([[t.key, t.annotator, t.file] for t in handout.tasks]))
        if drafts is not None:
            self.drafts = {task.key: drafts(task) for task in handout.tasks}
        return [file]

    def read(self, path, handout):
        yield from self.drawn[path.name]


def painted(task, labels, classes, **more):
    """An answer that is right: every class of the whole frame, from the label file of the image."""
    label = cv2.imread(str(labels / task.image), cv2.IMREAD_UNCHANGED)
    x0, y0, x1, y1 = task.frame
    part = label[y0:y1, x0:x1]
    layers = [Layer(classes[index], part == index) for index in np.unique(part) if index < 255]
    return Answer(task.key, f"export.json, task {task.rank}", layers=layers, **more)


def draw_scenes(root, classes):
    """Six images to label, their labels beside as `truth`, and two that are labelled, in a folder.

    They are of a size that no region divides.
    """
    (root / "classes.txt").write_text("\n".join(classes) + "\n")
    for split, count in (("train", 6), ("val", 2)):
        for i in range(count):
            write_image(root / "images" / split / f"im{i}.png", 60, 70, seed=10 * count + i)
            small = np.random.default_rng(i).integers(0, 3, (4, 5), dtype=np.uint8)
            kind = "labels" if split == "val" else "truth"
            path = root / kind / split / f"im{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(small, (70, 60), interpolation=cv2.INTER_NEAREST))
    return root
