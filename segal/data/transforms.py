"""Training transforms of an image and its labels; the one place that uses albumentations.

Geometry is ours, since a crop is drawn around a labelled region: a window of the original image is
cut out and resized once. Flip and colours are albumentations'. Every random number comes from the
generator that is passed, so that a sample is the same whichever thread makes it.
"""

import os
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segal.candidates.regions import Box

Image = NDArray[Any]  # (H, W, channels) uint8, or float32 in [0, 1]
Label = NDArray[Any]  # (H, W) uint8
Size = tuple[int, int]


class TrainingTransform:
    """Random scale, crop around a region, flip and colour jitter.

    Args:
        crop: (height, width) of what comes out; None for the image's own size.
        scale: Smallest and largest factor that the image is resized by, drawn uniformly.
        flip: Probability of a horizontal flip.
        colour_jitter: Brightness, contrast and saturation change by up to this share, hue by up to
            a tenth of it; 0 leaves the colours as they are. Images of two channels, or of more than
            three, have no saturation and no hue: their brightness and contrast change, in all
            channels alike.
        ignore_index: Label of the pixels that lie outside the image.
    """

    def __init__(
        self,
        crop: Size | None = None,
        scale: tuple[float, float] = (0.5, 2.0),
        flip: float = 0.5,
        colour_jitter: float = 0.2,
        ignore_index: int = 255,
    ) -> None:
        self.crop, self.scale, self.ignore_index = crop, scale, ignore_index
        self._flip, self._jitter = flip, colour_jitter
        # A Compose holds its random state: one for each thread.
        self._local = threading.local()

    def __call__(
        self, image: Image, label: Label, region: Box, generator: np.random.Generator
    ) -> tuple[Image, Label]:
        """Transforms one pair.

        Args:
            image: (H, W, channels) uint8, or float32 in [0, 1].
            label: (H, W) uint8.
            region: Box (x0, y0, x1, y1) in pixels of the image that the crop is drawn around: it
                holds the region, or as much of it as fits, and is else placed uniformly.
            generator: Decides everything.

        Returns:
            The image, of its own dtype, and the label, both of the crop's size. Beyond the image's
            border the image is reflected and the label is `ignore_index`.
        """
        height, width = label.shape
        window = self.window((height, width), region, generator)
        return self.finish(image, label, window, self.crop or (height, width), generator)

    def window(self, size: Size, region: Box, generator: np.random.Generator) -> Box:
        """The part of an image that a crop shows; `finish` makes the crop of it.

        Args:
            size: (height, width) of the image.
            region: As `__call__` takes it.
            generator: What comes of it decides how the crop is scaled and where it lies.

        Returns:
            As `draw_window`.
        """
        factor = generator.uniform(*self.scale)
        return draw_window(size, self.crop or size, factor, region, generator)

    def finish(
        self,
        image: Image,
        label: Label,
        window: Box,
        size: Size,
        generator: np.random.Generator,
    ) -> tuple[Image, Label]:
        """The crop of a window.

        Args:
            image: What is there of the image, the window's part of it at least.
            label: Of the same pixels.
            window: In pixels of what is there; it may reach beyond, where the image ends.
            size: (height, width) of the crop.
            generator: The same, after `window`.
        """
        image, label = _cut(image, label, window, self.ignore_index)
        if label.shape != size:
            shrinks = label.shape[0] > size[0]
            smooth = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            image = by_fours(image, lambda x: cv2.resize(x, size[::-1], interpolation=smooth))
            # INTER_NEAREST takes a pixel's top left neighbour, half a pixel off the image.
            label = cv2.resize(label, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        compose = self._compose(coloured=image.shape[2] in {1, 3})
        seed_steps(compose, generator)
        out = compose(image=image, mask=label)
        return np.ascontiguousarray(out["image"]), np.ascontiguousarray(out["mask"])

    def _compose(self, coloured: bool) -> Any:
        name = "coloured" if coloured else "banded"
        if not hasattr(self._local, name):
            steps = flip_and_colours(self._flip, self._jitter, coloured=coloured)
            setattr(self._local, name, albumentations().Compose(steps))
        return getattr(self._local, name)


def flip_and_colours(flip: float, colour_jitter: float, *, coloured: bool) -> list[Any]:
    """Albumentations' horizontal flip and change of colours, as `TrainingTransform` has them.

    Args:
        flip: Probability of a flip.
        colour_jitter: As `TrainingTransform` takes it.
        coloured: Whether images have one channel or three.
    """
    library = albumentations()
    hue, p = colour_jitter / 10, float(colour_jitter > 0)
    ratio = (max(0.0, 1 - colour_jitter), 1 + colour_jitter)
    if coloured:
        colours = library.ColorJitter(
            brightness=ratio, contrast=ratio, saturation=ratio, hue=(-hue, hue), p=p
        )
    else:
        share = min(1.0, colour_jitter)
        colours = library.RandomBrightnessContrast(share, share, p=p)
    return [library.HorizontalFlip(p=flip), colours]


def seed_steps(compose: Any, generator: np.random.Generator) -> None:
    """Seeds each step of a composition by itself.

    albumentations (2.0.8) gives all steps the seed of the whole, so that they draw the same
    numbers: a flipped image would always be a darker one.
    """
    for step in compose.transforms:
        step.set_random_seed(int(generator.integers(2**32)))


@lru_cache(maxsize=1)
def albumentations() -> Any:
    """The library, loaded when it is first asked for."""
    # Imported on first use, since it takes seconds; it would else ask the network for updates.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as library  # noqa: PLC0415

    return library


def draw_window(
    image_size: Sequence[int],
    crop: Size,
    factor: float,
    region: Box,
    generator: np.random.Generator,
) -> Box:
    """Draws the part of an image that a crop shows.

    Args:
        image_size: (height, width) of the image.
        crop: (height, width) of the crop.
        factor: The image is resized by it, so that the window has 1 / factor the crop's size.
        region: The window holds it, or lies inside it where it is larger than the window.
        generator: Places the window uniformly among the places that do so and that show as much of
            the image as they can.

    Returns:
        Box (x0, y0, x1, y1) in pixels of the image; it may reach beyond the image.
    """
    height, width = (max(1, round(side / factor)) for side in crop)
    x0 = _origin(region[0], region[2], width, image_size[1], generator)
    y0 = _origin(region[1], region[3], height, image_size[0], generator)
    return x0, y0, x0 + width, y0 + height


def _origin(start: int, stop: int, window: int, length: int, generator: np.random.Generator) -> int:
    low, high = sorted((start, stop - window))
    low, high = max(low, min(0, length - window)), min(high, max(0, length - window))
    return int(generator.integers(low, high, endpoint=True))


def _cut(image: Image, label: Label, window: Box, ignore_index: int) -> tuple[Image, Label]:
    height, width = label.shape
    x0, y0, x1, y1 = window
    inside = np.s_[max(y0, 0) : min(y1, height), max(x0, 0) : min(x1, width)]
    image, label = image[inside], label[inside]
    border = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
    if not any(border):
        return image, label
    return (
        by_fours(image, lambda x: cv2.copyMakeBorder(x, *border, borderType=cv2.BORDER_REFLECT)),
        cv2.copyMakeBorder(label, *border, borderType=cv2.BORDER_CONSTANT, value=ignore_index),
    )


def by_fours(image: Image, change: Callable[[Image], Image]) -> Image:
    """Changes an image as OpenCV does, which takes four channels at most and drops a single one."""
    parts = [change(image[..., i : i + 4]) for i in range(0, image.shape[2], 4)]
    parts = [part[..., None] if part.ndim == 2 else part for part in parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def stack_images(images: Sequence[Image]) -> Tensor:
    """Images of one size: (B, H, W, channels), uint8 if all are, else float32 in [0, 1]."""
    if all(image.dtype == np.uint8 for image in images):
        return torch.from_numpy(np.stack(images))
    floating = [
        image.astype(np.float32) / 255 if image.dtype == np.uint8 else image for image in images
    ]
    return torch.from_numpy(np.stack(floating).astype(np.float32, copy=False))


def stack_padded(
    pairs: Sequence[tuple[Image, Label]], ignore_index: int = 255
) -> tuple[Tensor, Tensor]:
    """A batch of pairs that may differ in size, padded right and bottom to the largest.

    Args:
        pairs: Images (H, W, channels) and labels (H, W).
        ignore_index: Label of the padding; images are padded by replication.

    Returns:
        Images as `stack_images`, and labels (B, H, W) uint8.
    """
    height = max(label.shape[0] for _, label in pairs)
    width = max(label.shape[1] for _, label in pairs)
    padded = [_padded(*pair, (height, width), ignore_index) for pair in pairs]
    images, labels = zip(*padded, strict=True)
    return stack_images(images), torch.from_numpy(np.stack(labels))


def _padded(image: Image, label: Label, size: Size, ignore_index: int) -> tuple[Image, Label]:
    below, right = size[0] - label.shape[0], size[1] - label.shape[1]
    if not (below or right):
        return image, label
    return (
        np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge"),
        np.pad(label, ((0, below), (0, right)), constant_values=ignore_index),
    )
