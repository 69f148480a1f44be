"""What a region costs an annotator who outlines it: polygon vertices, crossings, class clicks."""

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

_Ints = NDArray[np.int64]


def polygon_clicks(
    label: NDArray[np.uint8],
    boxes: ArrayLike,
    bought: ArrayLike = (),
    *,
    epsilon: float = 1.0,
    ignore_index: int = 255,
) -> _Ints:
    """Clicks that outlining each box of an image takes, counted from its true labels.

    The cost measure of region-level annotation of Mackowiak et al. (CEREALS, 2018) and Colling et
    al. (MetaBox+, 2021), without the latter's clicks for the box itself. The polygons are those of
    the whole image: each 8-connected component of one class has its outer outline and those of its
    holes, through the centres of its own border pixels, simplified by Douglas and Peucker; of what
    is hardly wider than `epsilon`, one or two vertices remain. A border between two components is
    so drawn twice, once for either. A box's clicks are

    - the polygon vertices on its pixels,
    - the crossings of polygon edges with its boundary, which lies between pixels: an edge that
      only touches a corner crosses nothing, and the image's frame is never crossed, and
    - one click per component with pixels in it, for the class;

    or 1 if one component fills it, as there is nothing to outline. Void is not outlined, nor named:
    a box of nothing else takes no click, but a component is outlined against void as against any
    other. The whole image takes all vertices and a click per component.

    Args:
        label: (H, W) class of every pixel.
        boxes: (n, 4) integers, half-open (x0, y0, x1, y1) in pixels, within the image; each is
            counted for itself.
        bought: (m, 4) integers, likewise: pixels that are paid for. Of a box that they overlap,
            the rest is counted as above, as a region whose boundary may have any shape; where
            nothing is left, there are no clicks.
        epsilon: How far a polygon may be from its outline, in pixels, 0 or more. 1 is about the
            least that makes one edge of a straight line's staircase.
        ignore_index: The value of void.

    Returns:
        (n,) clicks.

    Raises:
        ValueError: If the label map is not (H, W) uint8, an array of boxes is not (n, 4) integers,
            a box is empty or leaves the image, or epsilon is negative or not finite.
    """
    if label.ndim != 2 or label.dtype != np.uint8 or not label.size:
        raise ValueError(f"label: expected (H, W) uint8, got {label.shape} {label.dtype}")
    if not (np.isfinite(epsilon) and epsilon >= 0):
        raise ValueError(f"epsilon: expected 0 or more, got {epsilon}")
    boxes, bought = _checked(boxes, "boxes", label), _checked(bought, "bought", label)
    if not len(boxes):
        return np.zeros(0, np.int64)
    outlines = _Outlines(label, epsilon, ignore_index)
    return np.array([_clicks(*outlines.parts(box, bought)) for box in boxes], np.int64)


def _clicks(vertices: int, crossings: int, components: int, is_filled: bool) -> int:
    if is_filled or not components:  # though a neighbour's simplified outline may lead through
        return components
    return vertices + crossings + components


class _Outlines:
    """The polygons of an image's components, as the pixels that they pass.

    Attributes:
        components: (H, W) number of each pixel's component from 1; 0 is void.
        vertices: (v,) flat indices of the vertices' pixels, rising; a pixel may be there twice.
        steps: (2, s) flat indices of the two pixels of each step of an edge to the next pixel,
            the lower first and rising.
    """

    def __init__(self, label: NDArray[np.uint8], epsilon: float, ignore_index: int) -> None:
        self.components = np.zeros(label.shape, np.int32)
        self._wanted = np.zeros(label.shape, np.bool_)
        polygons: list[NDArray[np.int32]] = []
        count = 0
        for value in np.flatnonzero(np.bincount(label.ravel(), minlength=256)):
            if value == ignore_index:
                continue
            mask = (label == value).view(np.uint8)
            x, y, w, h = cv2.boundingRect(mask)
            mask = mask[y : y + h, x : x + w]
            found, numbers = cv2.connectedComponents(mask, connectivity=8)
            np.add(numbers, count, out=self.components[y : y + h, x : x + w], where=mask > 0)
            count += found - 1
            contours, _ = cv2.findContours(
                mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y)
            )
            polygons += (cv2.approxPolyDP(c, epsilon, closed=True)[:, 0] for c in contours)
        starts = np.concatenate([np.zeros((0, 2), np.int32), *polygons]).astype(np.int64)
        ends = np.roll(starts, -1, 0)
        last = np.cumsum([len(polygon) for polygon in polygons], dtype=np.int64) - 1
        ends[last] = starts[np.append(0, last[:-1] + 1)[: len(last)]]  # each polygon is closed
        self._width = label.shape[1]
        self.vertices = np.sort(starts @ (1, self._width))
        steps = np.sort(_steps(starts, ends) @ (1, self._width), axis=0)
        self.steps = steps[:, np.argsort(steps[0])]

    def parts(self, box: _Ints, bought: _Ints) -> tuple[int, int, int, bool]:
        """Of a box's pixels that are not bought.

        Returns:
            Vertices, crossings, components, and whether one component fills them.
        """
        x0, y0, x1, y1 = box.tolist()
        inside = self._wanted[y0:y1, x0:x1]
        inside[:] = True
        near = (bought[:, :2] < (x1, y1)).all(1) & (bought[:, 2:] > (x0, y0)).all(1)
        for left, top, right, bottom in bought[near]:
            self._wanted[top:bottom, left:right] = False
        rows = max(y0 - 1, 0) * self._width, y1 * self._width
        first, last = np.searchsorted(self.vertices, rows)
        vertices = int(np.count_nonzero(self._wanted.take(self.vertices[first:last])))
        first, last = np.searchsorted(self.steps[0], rows)
        one, other = self._wanted.take(self.steps[:, first:last])
        crossings = int(np.count_nonzero(one != other))
        found = np.unique(self.components[y0:y1, x0:x1][inside])
        components = int(np.count_nonzero(found))
        inside[:] = False
        return vertices, crossings, components, components == len(found) == 1


def _steps(starts: _Ints, ends: _Ints) -> _Ints:
    """Where straight edges between pixels' centres pass from one pixel to the next; exact.

    Args:
        starts: (n, 2) x and y.
        ends: (n, 2) likewise.

    Returns:
        (2, s, 2) pixels before and after each step. An edge through a point where four pixels
        meet steps to the one across.
    """
    before, after = [], []
    length, sign = np.abs(ends - starts), np.sign(ends - starts)
    for along, across in ((0, 1), (1, 0)):
        count = length[:, along]
        edge = np.repeat(np.arange(len(count)), count)
        number = np.arange(len(edge)) - (count.cumsum() - count)[edge]
        # The edge leaves its pixel `number` half a pixel further on; there, it is this far across.
        twice = 2 * count[edge]
        offset, rest = np.divmod(
            length[edge, across] * (2 * number + 1) + count[edge], np.maximum(twice, 1)
        )
        diagonal = rest == 0
        from_pixel, to_pixel = starts[edge], starts[edge]
        from_pixel[:, along] += sign[edge, along] * number
        to_pixel[:, along] += sign[edge, along] * (number + 1)
        from_pixel[:, across] += sign[edge, across] * (offset - diagonal)
        to_pixel[:, across] += sign[edge, across] * offset
        kept = ~diagonal if along else slice(None)  # a step across is found along both axes
        before.append(from_pixel[kept])
        after.append(to_pixel[kept])
    return np.stack([np.concatenate(before), np.concatenate(after)])


def _checked(boxes: ArrayLike, name: str, label: NDArray[np.uint8]) -> _Ints:
    array = np.asarray(boxes)
    if array.size == 0:
        return np.zeros((0, 4), np.int64)
    if array.ndim != 2 or array.shape[1] != 4 or array.dtype.kind not in "iu":
        raise ValueError(f"{name}: expected (n, 4) integers, got {array.shape} {array.dtype}")
    array = array.astype(np.int64)
    height, width = label.shape
    within = (array[:, :2] >= 0).all() and (array[:, 2:] <= (width, height)).all()
    if not within or (array[:, 2:] <= array[:, :2]).any():
        raise ValueError(f"{name}: expected x0 < x1 and y0 < y1 within {width} x {height} pixels")
    return array
