"""Sets of images that are looked at beside the pool: reference, labelled, and the pool itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.data.labelled import LabelledDataset
from segal.data.pool import ImagePool
from segal.functional.labels import has_class, void_of

SetName = Literal["val", "initial", "labelled", "pool"]
"""`val` the reference set; `initial` and `labelled` what was bought first and what is bought by
now; `pool` what is not bought."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Some pixels of some images, with their labels where these are known.

    Attributes:
        pool: The images.
        dataset: The same images with labels; None where labels are unknown.
        inside: Boxes by image that make up the set; None: whole images.
        outside: Boxes by image that are left out.
        tried_for: Images of the set that this is a part of, for a trial; 0 for a set as such.
    """

    pool: ImagePool
    dataset: LabelledDataset | None = None
    inside: Mapping[int, Sequence[Box]] | None = None
    outside: Mapping[int, Sequence[Box]] = field(default_factory=dict)
    tried_for: int = 0

    def indices(self) -> list[int]:
        """Images of which a part may be in the set, in candidate order."""
        images = range(len(self.pool))
        return [i for i in images if self.inside is None or self.inside.get(i)]

    def first(self, count: int) -> "ImageSet":
        """The part of the set that is in the first images of which it has a pixel, for a trial."""
        boxes: dict[int, Sequence[Box]] = {}
        for i in self.indices():
            if len(boxes) == count:
                break
            if self._has_pixel(i):
                height, width = self.pool.size(i)
                boxes[i] = [(0, 0, width, height)] if self.inside is None else self.inside[i]
        return ImageSet(self.pool, self.dataset, boxes, self.outside, len(self.indices()))

    def _has_pixel(self, index: int) -> bool:
        if self.dataset is None:
            return bool(self.mask(index).any())
        return bool(has_class(self.label(index)).any())

    def mask(self, index: int) -> NDArray[np.bool_]:
        """(H, W), the pixels of an image that are in the set, void ones included."""
        mask = np.full(self.pool.size(index), self.inside is None)
        for x0, y0, x1, y1 in () if self.inside is None else self.inside.get(index, ()):
            mask[y0:y1, x0:x1] = True
        for x0, y0, x1, y1 in self.outside.get(index, ()):
            mask[y0:y1, x0:x1] = False
        return mask

    def label(self, index: int) -> NDArray[np.integer]:
        """(H, W) classes of an image, of no class where it is void or not in the set.

        Raises:
            SegalError: If it cannot be read.
            ValueError: If labels are unknown.
        """
        if self.dataset is None:
            raise ValueError("the labels of this set are unknown")
        label: NDArray[np.integer] = self.dataset.read_label(index)
        return np.where(self.mask(index), label, label.dtype.type(void_of(label)))
