"""What a training draws: labelled regions in proportion to their pixels, and crops around them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segal.candidates.kept import Kept
from segal.candidates.regions import Box
from segal.data.kept import KeptPool
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.data.transforms import TrainingTransform
from segal.errors import SegalError
from segal.functional.coverage import remaining_pixels
from segal.functional.labels import keep_regions
from segal.tasks.options import Transform

_ORDER, _SAMPLE, _OTHER_ORDER, _OTHER_SAMPLE = 0, 1, 4, 5  # streams of random numbers


@dataclass(frozen=True)
class LabelledRegions:
    """The labelled regions of a data set, by image, then as given.

    Attributes:
        images: (n,) index of each region's image.
        boxes: (n, 4) boxes (x0, y0, x1, y1).
        pixels: (n,) pixels of each that no earlier one of its image has.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.int64]
    pixels: NDArray[np.int64]

    @classmethod
    def of(
        cls, dataset: LabelledDataset, labelled: Mapping[int, Sequence[Box]] | None
    ) -> "LabelledRegions":
        """Checks and lists the regions.

        Args:
            dataset: The images.
            labelled: Boxes by image index; None for every image as a whole.

        Raises:
            SegalError: If there are none, or one is empty or not inside its image.
        """
        count = len(dataset.pool)
        if labelled is None:
            sizes = [dataset.pool.size(index) for index in range(count)]
            labelled = {index: [(0, 0, w, h)] for index, (h, w) in enumerate(sizes)}
        pairs = [(index, box) for index in sorted(labelled) for box in labelled[index]]
        if not pairs:
            raise SegalError(
                "nothing is labelled, so there is nothing to train on",
                expected="at least one labelled region",
                got="none",
                remedy="have some regions labelled first",
            )
        for index, (x0, y0, x1, y1) in pairs:
            height, width = dataset.pool.size(index) if 0 <= index < count else (0, 0)
            if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
                raise SegalError(
                    f"image {index}: a labelled region is not inside of it",
                    expected=f"0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}",
                    got=str((x0, y0, x1, y1)),
                    remedy="check that the labelled regions belong to these images",
                )
        return cls(
            np.array([index for index, _ in pairs], np.int64),
            np.array([box for _, box in pairs], np.int64),
            np.concatenate([_own_pixels(labelled[i]) for i in sorted(labelled) if labelled[i]]),
        )

    def of_image(self, image: int) -> list[Box]:
        """Boxes of one image."""
        start, stop = np.searchsorted(self.images, [image, image + 1])
        return [(x0, y0, x1, y1) for x0, y0, x1, y1 in self.boxes[start:stop].tolist()]

    def order(self, generator: np.random.Generator) -> NDArray[np.int64]:
        """Draws n of the n regions, each as often as its share of the labelled pixels.

        The draws are equally spaced along the regions' pixels, so a region's number of draws is
        its share of n rounded down or up; regions of equal size are drawn once each. What two
        regions share is the earlier one's.
        """
        count = len(self.images)
        shuffled = generator.permutation(count)
        ends = np.cumsum(self.pixels[shuffled])
        points = (np.arange(count) + generator.random()) / count * ends[-1]
        drawn = np.searchsorted(ends, points, side="right").clip(max=count - 1)
        return generator.permutation(shuffled[drawn])


def _own_pixels(boxes: Sequence[Box]) -> NDArray[np.int64]:
    """(n,) pixels of each box of an image outside of those before it."""
    areas = remaining_pixels(boxes, np.zeros((0, 4), np.int64))
    x0, y0, x1, y1 = np.array(boxes).T
    around = [[x0.min(), y0.min(), x1.max(), y1.max()]]
    union = int(remaining_pixels(around, [])[0] - remaining_pixels(around, boxes)[0])
    if union == areas.sum():  # the usual case: none overlaps another
        return areas
    return np.array(
        [int(remaining_pixels(boxes[i : i + 1], boxes[:i])[0]) for i in range(len(boxes))]
    )


class Samples:
    """An endless sequence of training samples; sample n depends on the seed and n alone.

    Args:
        dataset: Images and labels.
        regions: What of it is labelled.
        transform: Makes a sample of an image and its labels.
        seed: Not negative.
    """

    def __init__(
        self,
        dataset: LabelledDataset,
        regions: LabelledRegions,
        transform: Transform,
        seed: int,
    ) -> None:
        self.dataset, self.regions = dataset, regions
        self._transform, self._seed = transform, seed
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, lap: int) -> NDArray[np.int64]:
        return self.regions.order(np.random.default_rng([self._seed, _ORDER, lap]))

    def __call__(self, number: int) -> tuple[Any, Any]:
        """Sample `number`: image (H, W, channels) and label, see `Task.transform`."""
        lap, position = divmod(number, len(self.regions.images))
        region = int(self._order(lap)[position])
        image = int(self.regions.images[region])
        x0, y0, x1, y1 = self.regions.boxes[region].tolist()
        generator = np.random.default_rng([self._seed, _SAMPLE, number])
        if self.dataset.pool.is_large(image) and isinstance(self._transform, TrainingTransform):
            return self._window(self._transform, image, (x0, y0, x1, y1), generator)
        # Before anything else sees it, a label keeps nothing but what was bought.
        label = keep_regions(self.dataset.read_label(image), self.regions.of_image(image))
        return self._sample(image, label, (x0, y0, x1, y1), generator)

    def _window(
        self, transform: TrainingTransform, image: int, box: Box, generator: np.random.Generator
    ) -> tuple[Any, Any]:
        """The same sample of a large image, of which its window alone is read."""
        size = self.dataset.pool.size(image)
        window = transform.window(size, box, generator)
        x0, y0 = max(window[0], 0), max(window[1], 0)
        x1, y1 = min(window[2], size[1]), min(window[3], size[0])
        kept = []
        for a, b, c, d in self.regions.of_image(image):
            part = max(a, x0) - x0, max(b, y0) - y0, min(c, x1) - x0, min(d, y1) - y0
            if part[0] < part[2] and part[1] < part[3]:
                kept.append(part)
        label = keep_regions(self.dataset.read_window(image, (x0, y0, x1, y1)), kept)
        pixels = self.dataset.pool.window(image, (x0, y0, x1, y1))
        shifted = window[0] - x0, window[1] - y0, window[2] - x0, window[3] - y0
        return transform.finish(pixels, label, shifted, transform.crop or size, generator)

    def _sample(
        self, image: int, label: Any, box: Box, generator: np.random.Generator
    ) -> tuple[Any, Any]:
        return self._transform(self.dataset.pool.read(image), label, box, generator)


class KeptSamples(Samples):
    """The same samples, of whole images: what a frozen part left of them, mirrored or not.

    Args:
        dataset: As of `Samples`, on the pool `kept`.
        regions: Likewise.
        transform: Likewise; it does nothing to images but flip them, left to right.
        seed: Likewise.
        kept: The images.
        channels: That they have.
    """

    def __init__(
        self,
        dataset: LabelledDataset,
        regions: LabelledRegions,
        transform: Transform,
        seed: int,
        kept: KeptPool,
        channels: int,
    ) -> None:
        super().__init__(dataset, regions, transform, seed)
        self._kept, self._channels = kept, channels

    def _sample(
        self, image: int, label: Any, box: Box, generator: np.random.Generator
    ) -> tuple[Kept, Any]:
        # An image that shows its left side tells what is drawn, by the numbers that others draw.
        shown = np.zeros((*self._kept.shape(image), self._channels), np.uint8)
        shown[:, 0] = 1
        turned, label = self._transform(shown, label, box, generator)
        return self._kept.kept(image, flipped=not turned[0, 0, 0]), label


class UnlabelledSamples:
    """An endless sequence of samples of images whose labels are never read.

    Every image comes once before one comes again, as a whole before it is transformed; sample n
    depends on the seed and n alone.

    Args:
        pool: The images.
        images: Those that are drawn from; at least one.
        label: Makes what stands for the label of an image of (height, width).
        transform: Makes a sample of an image and its label.
        seed: Not negative.
    """

    def __init__(
        self,
        pool: ImagePool,
        images: Sequence[int],
        label: Callable[[int, int], Any],
        transform: Transform,
        seed: int,
    ) -> None:
        self._pool, self._images, self._label = pool, np.array(images, np.int64), label
        self._transform, self._seed = transform, seed
        self._order = lru_cache(maxsize=2)(self._draw_order)

    def _draw_order(self, lap: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self._seed, _OTHER_ORDER, lap])
        return generator.permutation(self._images)

    def __call__(self, number: int) -> tuple[NDArray[Any], Any]:
        """Sample `number`, as of `Samples`."""
        lap, position = divmod(number, len(self._images))
        image = int(self._order(lap)[position])
        height, width = self._pool.size(image)
        generator = np.random.default_rng([self._seed, _OTHER_SAMPLE, number])
        read = self._pool.read(image)
        label = self._label(height, width)
        return self._transform(read, label, (0, 0, width, height), generator)
