"""A format whose annotators sit in the test: what they draw is a list of answers in memory."""

import json

import cv2
import numpy as np

from segal.annotation.answers import Answer, Layer
from segal.annotation.handout import CONTEXT, CROP
from segal.errors import SegalError


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
