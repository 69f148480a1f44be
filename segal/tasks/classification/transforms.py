"""Training transforms of images that are classified; geometry and colours are albumentations'.

Every random number comes from the generator that is passed, so that a sample is the same whichever
thread makes it.
"""

import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.transforms import Image, Size, albumentations, flip_and_colours, seed_steps

Kind = Literal["crop", "resized_crop", "none"]
"""`crop` (as for CIFAR: He et al. 2016, section 4.2), `resized_crop` (as for ImageNet: Szegedy et
al. 2015, section 6), or nothing at all, as for features."""


class WholeImageTransform:
    """Random crop, flip and colour jitter of an image whose label does not change by them.

    Args:
        kind: How a crop is drawn: of its own size out of the image with a black border around it,
            or of any size, which is then resized.
        crop: (height, width) of what comes out; None for the image's own size.
        padding: Pixels of the black border, of `crop`.
        scale: Smallest and largest share of the image's area that a crop has, of `resized_crop`;
            its sides are as 3 to 4 at most.
        flip: Probability of a horizontal flip.
        colour_jitter: As in `segal.data.transforms.TrainingTransform`.
    """

    def __init__(
        self,
        kind: Kind = "crop",
        crop: Size | None = None,
        *,
        padding: int = 4,
        scale: tuple[float, float] = (0.08, 1.0),
        flip: float = 0.5,
        colour_jitter: float = 0.0,
    ) -> None:
        self.kind, self.crop = kind, crop
        self._padding, self._scale = padding, scale
        self._flip, self._jitter = flip, colour_jitter
        # A Compose holds its random state: one for each thread.
        self._local = threading.local()

    def __call__(
        self, image: Image, label: NDArray[Any], region: Box, generator: np.random.Generator
    ) -> tuple[Image, NDArray[Any]]:
        """Transforms one image.

        Args:
            image: (H, W, channels) uint8, or float32 in [0, 1]; of kind `none` anything.
            label: Of any shape; returned as it is.
            region: What is labelled of it; not looked at.
            generator: Decides everything.

        Returns:
            The image, of its own dtype and of the crop's size (of kind `none`: as it is), and the
            label.
        """
        if self.kind == "none":
            return np.ascontiguousarray(image), label
        size = self.crop or (image.shape[0], image.shape[1])
        compose = self._compose(size, coloured=image.shape[2] in {1, 3})
        seed_steps(compose, generator)
        return np.ascontiguousarray(compose(image=image)["image"]), label

    def _compose(self, size: Size, coloured: bool) -> Any:
        key = (size, coloured)
        if getattr(self._local, "key", None) != key:
            steps = [*self._geometry(size)]
            steps += flip_and_colours(self._flip, self._jitter, coloured=coloured)
            self._local.compose, self._local.key = albumentations().Compose(steps), key
        return self._local.compose

    def _geometry(self, size: Size) -> list[Any]:
        library = albumentations()
        if self.kind == "resized_crop":
            return [
                library.RandomResizedCrop(size, self._scale, area_for_downscale="image"),
            ]
        return [
            library.Pad(self._padding, fill=0),
            library.RandomCrop(*size, pad_if_needed=True, fill=0),
        ]
