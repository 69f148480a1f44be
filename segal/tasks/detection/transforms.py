"""Training samples of an image and its objects.

Geometry is ours, and flips with it, since boxes keep their fractions of pixels; colours are
albumentations'.
"""

import threading
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.transforms import albumentations, draw_window, flip_and_colours, seed_steps
from segal.tasks.detection.objects import Objects

_GREY = 114  # of 255, where nothing is known: near the mean of photographs
_LEAST = 1.0  # pixels of a sample that both sides of a box have at least


class BoxTransform:
    """A whole region or a crop around it, a flip, and a change of colours.

    What is not known of an image - beyond its border, or in tiles that are not labelled - is grey,
    so that objects whose boxes nobody drew are not taken for background. An object is of a sample
    if its centre is shown; its box is cut off at the sample's edges.

    Args:
        crop: (height, width) of samples, which are drawn around regions after a change of scale;
            None for the regions themselves.
        scale: Smallest and largest factor that an image is resized by, where samples are crops.
        flip: Probability of a horizontal flip.
        colour_jitter: As `segal.data.transforms.TrainingTransform` takes it.
    """

    def __init__(
        self,
        crop: tuple[int, int] | None = None,
        scale: tuple[float, float] = (1.0, 1.0),
        flip: float = 0.5,
        colour_jitter: float = 0.0,
    ) -> None:
        self.crop, self.scale = crop, scale
        self._flip, self._jitter = flip, colour_jitter
        # A Compose holds its random state: one for each thread.
        self._local = threading.local()

    def __call__(
        self, image: NDArray[Any], label: Objects, region: Box, generator: np.random.Generator
    ) -> tuple[NDArray[Any], Objects]:
        """Transforms one pair.

        Args:
            image: (H, W, channels) uint8, or float32 in [0, 1].
            label: What is known of the image.
            region: What is labelled, and the sample shows, or a crop around it.
            generator: Decides everything.

        Returns:
            The image, of its own dtype, and its objects in its pixels; `known` is all of it.
        """
        window, size = region, (region[3] - region[1], region[2] - region[0])
        if self.crop is not None:
            size = self.crop
            factor = generator.uniform(*self.scale)
            window = draw_window(image.shape[:2], size, factor, region, generator)
        image, label = _shown(image, label, window)
        if image.shape[:2] != size:
            shrinks = image.shape[0] > size[0]
            factors = size[1] / image.shape[1], size[0] / image.shape[0]
            way = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            bands = [
                cv2.resize(image[..., c], size[::-1], interpolation=way)
                for c in range(image.shape[2])
            ]
            image = np.stack(bands, axis=2)
            label = _moved(label, label.boxes * np.tile(factors, 2), size)
        if generator.random() < self._flip:
            image = image[:, ::-1]
            boxes = label.boxes.copy()
            boxes[:, [0, 2]] = size[1] - label.boxes[:, [2, 0]]
            label = _moved(label, boxes, size)
        return np.ascontiguousarray(self._coloured(image, generator)), label

    def _coloured(self, image: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        if not self._jitter:
            return image
        coloured = image.shape[2] in {1, 3}
        name = "coloured" if coloured else "banded"
        if not hasattr(self._local, name):
            steps = flip_and_colours(0.0, self._jitter, coloured=coloured)[1:]
            setattr(self._local, name, albumentations().Compose(steps))
        compose = getattr(self._local, name)
        seed_steps(compose, generator)
        changed: NDArray[Any] = compose(image=np.ascontiguousarray(image))["image"]
        return changed


def _shown(image: NDArray[Any], label: Objects, window: Box) -> tuple[NDArray[Any], Objects]:
    """What is known of a window of an image; the rest is grey."""
    x0, y0, x1, y1 = window
    grey = _GREY if image.dtype == np.uint8 else np.float32(_GREY / 255)
    shown = np.full((y1 - y0, x1 - x0, image.shape[2]), grey, image.dtype)
    label = label.keep([window])
    for left, top, right, bottom in label.known:
        shown[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return shown, _moved(label, label.boxes - [x0, y0, x0, y0], shown.shape[:2])


def _moved(label: Objects, boxes: NDArray[np.float64], size: tuple[int, ...]) -> Objects:
    """The objects with other boxes, cut off at a sample's edges; those without area go."""
    height, width = size
    boxes = np.clip(boxes, 0.0, [width, height, width, height])
    kept = (boxes[:, 2:] - boxes[:, :2] >= _LEAST).all(1)
    known = ((0, 0, width, height),)
    return Objects(boxes[kept], label.classes[kept], label.crowd[kept], known)
