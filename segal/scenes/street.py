"""A made-up street: what stands where in metres, and how a camera sees it.

Coordinates: x right of the middle of the road, y up from the ground, z along the road. A camera
sees (x, y, z) at column `u0 + f (x + bend z^2) / z` and row `v0 + f (h - y) / z`, all z being
relative to it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Points = NDArray[np.float64]  # (N, 2): column, row
Colour = NDArray[np.float64]  # (3,): RGB, 0 to 255

NEAR, FAR = 2.0, 160.0  # metres
BLACK = np.array([24.0, 24.0, 28.0])
WHITE = np.array([225.0, 225.0, 220.0])


@dataclass(frozen=True)
class Style:
    """How a city looks: colours, light, density of traffic and people."""

    road: Colour
    sidewalk: Colour
    facades: tuple[Colour, ...]
    leaves: Colour
    grass: Colour
    markings: Colour
    sky_top: Colour
    sky_low: Colour
    metal: Colour
    gain: Colour
    contrast: float
    haze: float  # metres until 63 % of the colour is lost
    noise: float
    blur: float
    shadow: float
    traffic: float
    crowd: float
    trees: float


@dataclass(frozen=True)
class Thing:
    """Something that stands on the ground or moves along the street.

    Attributes:
        kind: Which function draws it.
        x: Of its middle, metres.
        z: Of its near end, metres, at the sequence's first frame.
        length: Metres along z.
        width: Metres along x.
        height: Metres.
        colour: Its main colour.
        speed: Metres along z from one frame to the next.
        seed: Decides its details, which are the same in all frames.
    """

    kind: str
    x: float
    z: float
    length: float
    width: float
    height: float
    colour: Colour
    speed: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Street:
    """What one sequence of frames shows.

    Attributes:
        style: Of its city.
        road: Half the road's width, metres.
        walk: Distance from the middle of the road to where the sidewalks end.
        bend: Curvature of the road: half of 1 / radius, 1 / metres.
        crossings: (start, end) of the crossing streets along z.
        lanes: x of the dashed lines.
        zebras: z where zebra crossings begin.
        has_rails: Whether a tramway runs in the middle.
        grass: Side (-1, 1) with grass beyond the sidewalk, or 0.
        things: All that stands and moves.
        ground_noise: (Z, X) float32 around 1: stains of the ground, 4 to the metre.
    """

    style: Style
    road: float
    walk: float
    bend: float
    crossings: tuple[tuple[float, float], ...]
    lanes: tuple[float, ...]
    zebras: tuple[float, ...]
    has_rails: bool
    grass: int
    things: tuple[Thing, ...]
    ground_noise: NDArray[np.float32]


@dataclass(frozen=True)
class Camera:
    """Where a frame is taken from.

    Attributes:
        height: Metres above the ground.
        x: Metres right of the middle of the road.
        z: Metres along the road.
        focal: Focal length in pixels.
        u0: Column of the vanishing point of the direction of travel.
        v0: Row of the horizon.
    """

    height: float
    x: float
    z: float
    focal: float
    u0: float
    v0: float


class Canvas:
    """An image and its labels, drawn into together, from far to near.

    Args:
        size: (height, width) in pixels.
        camera: Sees it.
        street: Is seen.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, street: Street) -> None:
        self.image: NDArray[np.uint8] = np.zeros((*size, 3), np.uint8)
        self.label: NDArray[np.uint8] = np.zeros(size, np.uint8)
        self.camera, self.street = camera, street

    def project(self, x: ArrayLike, y: ArrayLike, z: ArrayLike) -> Points:
        """Where points are seen: (..., 2), column and row."""
        camera = self.camera
        z = np.maximum(z, NEAR)
        pixels = camera.focal / z
        u = camera.u0 + pixels * (np.subtract(x, camera.x) + self.street.bend * z * z)
        v = camera.v0 + pixels * np.subtract(camera.height, y)
        points = np.empty((*np.broadcast_shapes(u.shape, v.shape), 2))
        points[..., 0], points[..., 1] = u, v
        return points

    def scale(self, z: float) -> float:
        """Pixels per metre at a distance."""
        return self.camera.focal / max(z, NEAR)

    def tint(self, colour: Colour, z: float) -> tuple[float, ...]:
        """A colour as it is seen through the haze of a distance."""
        kept, far = math.exp(-z / self.street.style.haze), self.street.style.sky_low
        return tuple([c * kept + f * (1 - kept) for c, f in zip(colour, far, strict=True)])

    def along(self, x: float, low: float, high: float, z: tuple[float, float]) -> Points:
        """A strip that stands along the road, (N, 2), following its bend."""
        steps = np.linspace(max(z[0], NEAR), max(z[1], NEAR + 0.1), 5)
        top, foot = self.project(x, high, steps), self.project(x, low, steps)
        return np.concatenate([top, foot[::-1]])

    def across(self, x: tuple[float, float], low: float, high: float, z: float) -> Points:
        """A strip that stands across the road, (4, 2)."""
        return self.project([x[0], x[1], x[1], x[0]], [low, low, high, high], z)

    def polygon(self, points: Points, colour: Colour, label: int | None, z: float) -> None:
        """Fills one polygon, (N, 2)."""
        self.polygons(points[None], colour, label, z)

    def polygons(self, points: Points, colour: Colour, label: int | None, z: float) -> None:
        """Fills polygons that do not overlap, (M, N, 2); a label of None leaves the labels."""
        corners = _fixed(points)
        cv2.fillPoly(self.image, corners, self.tint(colour, z), shift=_SHIFT)
        if label is not None:
            cv2.fillPoly(self.label, corners, (label,), shift=_SHIFT)

    def lines(self, points: Points, colour: Colour, width: float, z: float) -> None:
        """Draws open lines (M, N, 2) into the image only; width in metres."""
        pixels = max(1, round(width * self.scale(z)))
        cv2.polylines(self.image, _fixed(points), False, self.tint(colour, z), pixels, shift=_SHIFT)

    def mark(self, points: Points, label: int) -> None:
        """Labels a polygon (N, 2), leaving the image."""
        cv2.fillPoly(self.label, _fixed(points[None]), (label,), shift=_SHIFT)

    def darken(self, points: Points, amount: float) -> None:
        """Lays a shadow of a polygon (N, 2) on the image."""
        height, width = self.label.shape
        low = np.floor(points.min(0)).astype(int).clip(0, (width, height))
        high = (np.ceil(points.max(0)).astype(int) + 1).clip(0, (width, height))
        if (high <= low).any():
            return
        part = self.image[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(part.shape[:2], np.uint8)
        cv2.fillPoly(mask, _fixed((points - low)[None]), (255,), shift=_SHIFT)
        cv2.copyTo(cv2.convertScaleAbs(part, alpha=1 - amount), mask, part)


Draw = Callable[[Canvas, Thing, float, np.random.Generator], None]

_SHIFT = 3  # fractional bits of the corners
_LIMIT = 2.0**15  # OpenCV's fixed-point corners overflow far beyond the picture


def _fixed(points: Points) -> list[NDArray[np.int32]]:
    clipped = np.minimum(np.maximum(points, -_LIMIT), _LIMIT)
    return list(np.rint(clipped * 2**_SHIFT).astype(np.int32))


def rectangle(x0: float, y0: float, x1: float, y1: float) -> Points:
    """Corners of a rectangle, (4, 2)."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)


def ellipse(x: float, y: float, rx: float, ry: float, corners: int = 14) -> Points:
    """Corners of an ellipse, (corners, 2)."""
    return _circle(corners) * (rx, ry) + (x, y)


@lru_cache
def _circle(corners: int) -> Points:
    angle = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def smooth_noise(
    shape: tuple[int, int], cells: Sequence[int], generator: np.random.Generator
) -> NDArray[np.float32]:
    """Noise of several grain sizes, (H, W) float32, of mean 0 and standard deviation about 1.

    Args:
        shape: (H, W).
        cells: Grain sizes in pixels, which count alike.
        generator: Draws it.
    """
    height, width = shape
    total = np.zeros(shape, np.float32)
    for cell in cells:
        grid = generator.standard_normal((height // cell + 2, width // cell + 2), np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return total / np.float32(0.75 * np.sqrt(len(cells)))


def pick(generator: np.random.Generator, choices: Sequence[Any]) -> Any:
    """One of several, each as likely."""
    return choices[int(generator.integers(len(choices)))]


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB 0 to 255 of hue in degrees, saturation and value in 0 to 1."""
    sector = np.array([5.0, 3.0, 1.0]) + hue / 60
    k = sector % 6
    return np.asarray(255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1)))
