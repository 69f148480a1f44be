"""The label of an image in which objects are found: boxes with classes."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from segal.candidates.regions import Box
from segal.functional.labels import (
    count_labelled,
    drop_regions,
    keep_regions,
    region_digest,
)


@dataclass(frozen=True, eq=False)
class Objects:
    """What is known of the objects of an image.

    Coordinates are pixels of the original image after EXIF orientation, x right, y down; edges are
    continuous: an image of width W reaches from 0 to W.

    Attributes:
        boxes: (n, 4) float64, x0, y0, x1, y1, with x0 < x1 and y0 < y1.
        classes: (n,) int64, 0 to C - 1.
        crowd: (n,) bool: COCO's regions that stand for many objects, and VOC's difficult ones.
            They are not trained on, and neither right nor wrong where they are found.
        known: Half-open rectangles whose objects are all listed: the whole of a labelled image,
            tiles of one that was bought in part, none of one without a label.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    known: tuple[Box, ...]

    def __post_init__(self) -> None:
        count = len(self.classes)
        shapes = (self.boxes.shape, self.classes.shape, self.crowd.shape)
        if shapes != ((count, 4), (count,), (count,)):
            raise ValueError(f"expected (n, 4), (n,) and (n,), got {shapes}")

    def __len__(self) -> int:
        return len(self.classes)

    @classmethod
    def none(cls, known: Sequence[Box] = ()) -> Self:
        """No object: of an image without a label, or one that is known to show none."""
        return cls(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_), tuple(known))

    def digest(self) -> str:
        """A fingerprint of them: a sha256 in hexadecimal digits."""
        known = [list(map(int, box)) for box in self.known]
        digest = hashlib.sha256(f"{known}\0{len(self)}\0".encode())
        for array, kind in ((self.boxes, "<f8"), (self.classes, "<i8"), (self.crowd, "?")):
            digest.update(array.astype(kind).tobytes())
        return digest.hexdigest()

    @property
    def centres(self) -> NDArray[np.float64]:
        """(n, 2), x and y: the middle of each box, always below its far edges."""
        near, far = self.boxes[:, :2], self.boxes[:, 2:]
        # The mean of two neighbouring floats may be the larger, which may be the image's edge.
        centres: NDArray[np.float64] = np.minimum(near + (far - near) / 2, np.nextafter(far, near))
        return centres

    def held(self, regions: Sequence[Box] | NDArray[np.int32]) -> NDArray[np.bool_]:
        """(r, n) whether each of r regions holds the centre of an object."""
        x, y = self.centres.T
        x0, y0, x1, y1 = np.array(regions, np.float64).reshape(-1, 4).T[..., None]
        held: NDArray[np.bool_] = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        return held

    def inside(self, regions: Sequence[Box]) -> NDArray[np.bool_]:
        """(n,) whether the centre of an object lies in a region.

        An object lies in exactly one tile of a partition of its image.
        """
        held: NDArray[np.bool_] = np.logical_or.reduce(self.held(regions))
        return held

    def keep(self, regions: Sequence[Box]) -> Self:
        """What is known of some regions: objects whose centre lies in one, as far as it is known.

        Args:
            regions: Half-open rectangles.

        Returns:
            Objects, in the order that they had; `known` are the intersections.
        """
        meets = [
            (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))
            for a in self.known
            for b in regions
        ]
        known = [box for box in dict.fromkeys(meets) if box[0] < box[2] and box[1] < box[3]]
        kept = self.inside(known)
        return type(self)(self.boxes[kept], self.classes[kept], self.crowd[kept], tuple(known))

    def drop(self, regions: Sequence[Box]) -> Self:
        """What is known outside of some regions.

        Args:
            regions: Half-open rectangles.

        Returns:
            Objects, in the order that they had; `known` are rectangles that cover what is left.
        """
        known = list(self.known)
        for region in regions:
            known = [part for box in known for part in _outside(box, region)]
        return self.keep(known)


def _outside(box: Box, region: Box) -> list[Box]:
    """The parts of a box outside of a region: above, below, left and right of it."""
    x0, y0, x1, y1 = box
    left, top = max(x0, region[0]), max(y0, region[1])
    right, bottom = min(x1, region[2]), min(y1, region[3])
    if left >= right or top >= bottom:
        return [box]
    parts = [
        (x0, y0, x1, top),
        (x0, bottom, x1, y1),
        (x0, top, left, bottom),
        (right, top, x1, bottom),
    ]
    return [part for part in parts if part[0] < part[2] and part[1] < part[3]]


@keep_regions.register
def _(label: Objects, regions: Sequence[Box]) -> Objects:
    return label.keep(regions)


@drop_regions.register
def _(label: Objects, regions: Sequence[Box]) -> Objects:
    return label.drop(regions)


@region_digest.register
def _(label: Objects, region: Box) -> str:
    """Of the objects whose centre lies there, as far as they are known."""
    return label.keep([region]).digest()


@count_labelled.register
def _(label: Objects) -> int:
    """Pixels whose objects are all listed."""
    apart: list[Box] = []
    for box in label.known:
        rest = [box]
        for other in apart:
            rest = [part for piece in rest for part in _outside(piece, other)]
        apart += rest
    return sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in apart)
