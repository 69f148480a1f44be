"""Small images with boxes, that tests share."""

import cv2
import numpy as np

from segal.tasks.detection.objects import Objects
from segal.tasks.detection.writing import LabelledImage, images_folder, write_labels

CLASSES = ("red", "white", "platelet")
COLOURS = ((200, 40, 40), (240, 240, 240), (90, 40, 160))
COUNTS = {"train": 12, "val": 4, "test": 4}
SIZE = (64, 96)
"""(height, width)."""


def draw(seed, size=SIZE):
    """An image with up to five coloured boxes, and its objects; every fifth image has none."""
    height, width = size
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
    count = 0 if seed % 5 == 4 else int(rng.integers(1, 6))
    corners = rng.integers([0, 0], [width - 24, height - 24], (count, 2))
    sides = rng.integers(8, 24, (count, 2))
    classes = rng.integers(0, len(CLASSES), count)
    for (x, y), (w, h), name in zip(corners, sides, classes, strict=True):
        image[y : y + h, x : x + w] = COLOURS[name]
    boxes = np.concatenate([corners, corners + sides], 1).astype(float)
    whole = ((0, 0, width, height),)
    return image, Objects(boxes, classes.astype(np.int64), np.zeros(count, bool), whole)


def make_set(root, layout, counts=COUNTS, size=SIZE):
    """Writes a data set."""
    seed = 0
    for split, count in counts.items():
        folder = images_folder(root, layout, split)
        folder.mkdir(parents=True, exist_ok=True)
        images = []
        for _ in range(count):
            image, objects = draw(seed, size)
            cv2.imwrite(str(folder / f"{seed:02d}.png"), image[..., ::-1])
            images.append(LabelledImage(f"{seed:02d}.png", *size, objects))
            seed += 1
        write_labels(root, layout, split, images, CLASSES)
    return root
