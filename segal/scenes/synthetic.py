"""Made-up street scenes in the official Cityscapes layout, for demos, tests and benchmarks.

A city fixes colours, light and density; a sequence is a street that the camera drives down, so that
its frames share most of what they show; a frame is one picture. Colours of classes overlap (grey
cars before grey houses on grey roads) and change with the city, so that a network has to learn
shapes and context. Some classes are rare (truck, bus, train, motorcycle), and some pixels are void
(the car's own hood, the picture's border, rubbish bins), as in the real data set. What looks like
this is no substitute for real pictures; no result on it says anything of real streets.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from segal.errors import SegalError
from segal.scenes.plan import plan_street, plan_style
from segal.scenes.street import (
    FAR,
    NEAR,
    Camera,
    Canvas,
    Points,
    Thing,
    ellipse,
    smooth_noise,
)
from segal.scenes.things import draw, farthest

CITIES = 6  # of a split
FRAMES = 5  # of a sequence
STEP = 2.6  # metres that the camera moves from one frame to the next
MIN_SIDE = 32

_EGO, _BORDER, _ROI = 1, 2, 3
_ROAD, _SIDEWALK, _BUILDING, _VEGETATION, _TERRAIN, _SKY = 7, 8, 11, 21, 22, 23
# How strongly a surface is textured: grain from pixel to pixel, and patches.
_GRAIN = np.full(256, 0.025, np.float32)
_GRAIN[[_VEGETATION, _TERRAIN, _SKY, _ROAD, _BUILDING]] = (0.12, 0.09, 0.005, 0.03, 0.035)
_PATCHES = np.full(256, 0.025, np.float32)
_PATCHES[[_VEGETATION, _TERRAIN, _SKY, _EGO]] = (0.10, 0.08, 0.02, 0.02)


def make_scenes(
    root: Path,
    *,
    splits: Mapping[str, int],
    size: tuple[int, int],
    seed: int,
    odd_sizes: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes street scenes and their labels; `open_dataset(root, split)` reads them.

    A frame depends on the seed, its split and its number only: more frames keep the earlier ones.
    Each file appears as a whole, the image after its label.

    Args:
        root: Folder that `leftImg8bit` and `gtFine` are written below.
        splits: Number of frames of each split.
        size: (height, width) in pixels, such as (192, 384); at least 32 each.
        seed: Decides everything.
        odd_sizes: Every fourth sequence or so is a few pixels off that size.
        progress: Called with (frames done, all frames) after each.

    Raises:
        SegalError: If a number makes no sense, or a file cannot be written.
    """
    _check(splits, size, seed)
    total, done = sum(splits.values()), 0
    for split, count in splits.items():
        for sequence, first in enumerate(range(0, count, FRAMES)):
            city = _city(split, sequence)
            scene = _Scene(seed, split, sequence, size, odd_sizes)
            for frame in range(min(FRAMES, count - first)):
                image, label = scene.frame(frame)
                stem = f"{split}/{city}/{city}_{sequence:06d}_{frame:06d}"
                _write(root / "gtFine" / f"{stem}_gtFine_labelIds.png", label)
                _write(root / "leftImg8bit" / f"{stem}_leftImg8bit.png", image[..., ::-1])
                done += 1
                if progress is not None:
                    progress(done, total)


def make_frame(
    split: str, number: int, *, size: tuple[int, int], seed: int, odd_sizes: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One frame of a split, without writing it.

    Args:
        split: Such as train.
        number: From 0.
        size: (height, width) in pixels.
        seed: Decides everything.
        odd_sizes: As in `make_scenes`.

    Returns:
        The image (H, W, 3) RGB uint8, and the label ids of Cityscapes (H, W) uint8.
    """
    _check({split: number}, size, seed)
    sequence, frame = divmod(number, FRAMES)
    return _Scene(seed, split, sequence, size, odd_sizes).frame(frame)


def _check(splits: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    if min(size) < MIN_SIDE or seed < 0 or min(splits.values(), default=-1) < 0:
        raise SegalError(
            "scenes cannot be made of these numbers",
            expected=f"a size of at least {MIN_SIDE} x {MIN_SIDE}, a seed and counts of at least 0",
            got=f"size {size[0]} x {size[1]}, seed {seed}, counts {dict(splits)}",
            remedy="choose other numbers",
        )


def _city(split: str, sequence: int) -> str:
    return f"{split}{'abcdefghijklmnopqrstuvwxyz'[sequence % CITIES]}"


def _generator(seed: int, *key: str | int) -> np.random.Generator:
    text = "/".join(map(str, key))
    words = np.frombuffer(hashlib.sha256(text.encode()).digest(), "<u4")
    return np.random.default_rng([seed, *words.tolist()])


class _Scene:
    """A sequence: draws any of its frames, in any order."""

    def __init__(
        self, seed: int, split: str, sequence: int, size: tuple[int, int], odd_sizes: bool
    ) -> None:
        city = _city(split, sequence)
        self._key = (seed, split, city, sequence)
        style = plan_style(_generator(seed, split, city))
        generator = _generator(*self._key, "street")
        self.street = plan_street(style, generator)
        off = odd_sizes and generator.random() < 0.25
        self.size = (size[0] - 3, size[1] + 5) if off else size
        height, width = self.size
        self._hood = (generator.uniform(0.02, 0.09), generator.uniform(0.3, 0.6))
        self._pitch = generator.uniform(0.38, 0.47)
        self._camera_height = generator.uniform(1.2, 1.6)
        self._texture = smooth_noise((height + 64, width + 64), (1, 2), generator)
        self._patches = smooth_noise((height + 64, width + 64), (5, 16), generator)
        self._clouds = smooth_noise((64, 128), (8, 24), generator)

    def frame(self, number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """The image (H, W, 3) RGB uint8 and its label ids (H, W) uint8."""
        generator = _generator(*self._key, number)
        height, width = self.size
        scale = 2  # drawn at twice the size, for smooth edges
        camera = Camera(
            height=self._camera_height,
            x=1.7 + generator.normal(0, 0.12),
            z=number * STEP,
            focal=scale * 1.05 * width,
            u0=scale * width * (0.5 + generator.normal(0, 0.008)),
            v0=scale * height * (self._pitch + generator.normal(0, 0.006)),
        )
        canvas = Canvas((scale * height, scale * width), camera, self.street)
        _draw_sky(canvas, self._clouds)
        _draw_ground(canvas)
        self._draw_things(canvas, number)
        half = cv2.resize(canvas.image, (width, height), interpolation=cv2.INTER_AREA)
        image = np.asarray(half, np.uint8)
        label = np.ascontiguousarray(canvas.label[::scale, ::scale])
        self._draw_hood(image, label)
        return self._develop(image, label, generator), label

    def _draw_things(self, canvas: Canvas, number: int) -> None:
        placed = []
        for thing in self.street.things:
            z = thing.z + thing.speed * number - canvas.camera.z
            is_edge = thing.kind in ("building", "wall", "fence")
            starts = NEAR - thing.length if is_edge else 4.2
            if abs(thing.x - canvas.camera.x) < 1.4:
                starts = 8.0  # the camera keeps its distance
            if starts < z < farthest(thing.kind) and (is_edge or _in_view(canvas, thing, z)):
                placed.append((z + (thing.length if is_edge else 0), z, thing))
        for _, z, thing in sorted(placed, key=lambda item: (-item[0], item[2].seed)):
            draw(canvas, thing, z)

    def _draw_hood(self, image: NDArray[np.uint8], label: NDArray[np.uint8]) -> None:
        height, width = self.size
        rise, breadth = self._hood
        outline = ellipse(width / 2, height * 1.03, width * breadth, height * (rise + 0.03), 40)
        corners = [np.rint(outline).astype(np.int32)]
        mask = np.zeros(self.size, np.uint8)
        cv2.fillPoly(mask, corners, (1,))
        label[mask > 0] = _EGO
        rows = np.linspace(0.55, 0.2, height, dtype=np.float32)[:, None, None]
        sky = self.street.style.sky_low.astype(np.float32) * rows
        image[mask > 0] = np.broadcast_to(sky, image.shape)[mask > 0].astype(np.uint8)
        edge = max(1, width // 256)
        label[:, :edge] = label[:, -edge:] = _ROI
        label[:edge] = _BORDER

    def _develop(
        self, image: NDArray[np.uint8], label: NDArray[np.uint8], generator: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Texture, blur, light and noise: what makes a photograph of a drawing."""
        style, (height, width) = self.street.style, self.size
        y, x = generator.integers(0, 64, 2)
        part = np.s_[y : y + height, x : x + width]
        texture = cv2.LUT(label, _GRAIN) * self._texture[part]
        texture += cv2.LUT(label, _PATCHES) * self._patches[part]
        texture += 1
        drawn = np.multiply(image, texture[..., None], dtype=np.float32)
        values = np.asarray(cv2.GaussianBlur(drawn, (0, 0), style.blur * max(1.0, width / 512)))
        light = style.gain * generator.normal(1, 0.03)
        values -= 118
        values *= (style.contrast * light).astype(np.float32)
        values += (118 * light).astype(np.float32)
        noise = generator.standard_normal((height, width, 3), np.float32)
        noise *= np.float32(style.noise)
        values += noise
        return np.asarray(np.clip(values, 0, 255, out=values).astype(np.uint8))


def _in_view(canvas: Canvas, thing: Thing, z: float) -> bool:
    """Whether a thing may be in the picture, and large enough to be worth drawing."""
    reach, pixels = thing.width / 2 + 2.2, canvas.scale(z)  # a lamp's arm is the widest
    columns = canvas.project([thing.x - reach, thing.x + reach], 0, [z, z])[:, 0]
    far_end = canvas.project(thing.x, 0, z + thing.length)[0]
    inside = columns[0] < canvas.label.shape[1] and columns[1] > 0
    return thing.height * pixels > 8 and (inside or 0 < far_end < canvas.label.shape[1])


def _draw_sky(canvas: Canvas, clouds: NDArray[np.float32]) -> None:
    height, width = canvas.label.shape
    style = canvas.street.style
    horizon = min(height, int(canvas.camera.v0) + 2)
    share = (np.arange(horizon) / horizon)[:, None]
    rows = style.sky_top + (style.sky_low - style.sky_top) * share
    cover = cv2.resize(clouds, (width, horizon), interpolation=cv2.INTER_LINEAR)
    sky = np.clip(cover, 0, 2)[..., None] * np.float32(16) + rows[:, None].astype(np.float32)
    canvas.image[:horizon] = np.minimum(sky, 255).astype(np.uint8)
    canvas.label[:horizon] = _SKY


def _strip(canvas: Canvas, x0: float, x1: float, near: float = NEAR, far: float = FAR) -> Points:
    """A strip of ground between two x, following the road's bend, (N, 2)."""
    steps = np.geomspace(max(near, NEAR), max(far, NEAR + 0.1), 12)
    left, right = canvas.project(x0, 0, steps), canvas.project(x1, 0, steps)
    return np.concatenate([left, right[::-1]])


def _draw_ground(canvas: Canvas) -> None:
    street, style, camera = canvas.street, canvas.street.style, canvas.camera
    horizon = int(camera.v0)
    canvas.image[horizon:] = np.clip(canvas.tint(style.sidewalk * 0.95, 60), 0, 255)
    canvas.label[horizon:] = _SIDEWALK
    for side in (-1, 1):
        if side == street.grass:
            beyond = _strip(canvas, side * street.walk, side * 60)
            canvas.polygon(beyond, style.grass, _TERRAIN, 12)
        walk = _strip(canvas, side * street.road, side * street.walk)
        canvas.polygon(walk, style.sidewalk, _SIDEWALK, 12)
    canvas.polygon(_strip(canvas, -street.road, street.road), style.road, _ROAD, 12)
    for start, end in street.crossings:
        near, far = start - camera.z, end - camera.z
        if far > NEAR:
            canvas.polygon(_strip(canvas, -60, 60, near, far), style.road, _ROAD, max(near, 10))
    _draw_markings(canvas)
    _stain(canvas, horizon)
    sunny = np.sign(style.gain[0] - style.gain[2] + 1e-9)
    reach = street.walk - street.road * 1.1
    canvas.darken(_strip(canvas, sunny * 40, sunny * reach), style.shadow)


def _draw_markings(canvas: Canvas) -> None:
    street, style, z = canvas.street, canvas.street.style, canvas.camera.z
    for side in (-1, 1):  # the kerb
        kerb = _strip(canvas, side * street.road, side * (street.road + 0.18))
        canvas.polygon(kerb, style.sidewalk * 1.12, None, 12)
    for x in street.lanes:
        starts = np.arange(-(z % 9), 90, 9)
        starts = starts[starts > NEAR - 2]
        corners = ((-0.07, 0), (0.07, 0), (0.07, 3.6), (-0.07, 3.6))
        dashes = [canvas.project(x + dx, 0, starts + dz) for dx, dz in corners]
        canvas.polygons(np.stack(dashes, axis=1), style.markings, None, 14)
    if street.has_rails:
        for a, b in pairwise((-2.3, -2.2, -0.8, -0.7)):
            if b - a < 1:
                canvas.polygon(_strip(canvas, a, b, far=80), style.metal * 0.8, None, 12)
    for start in street.zebras:
        near = start - z
        if near > NEAR:
            lefts = np.arange(-street.road + 0.4, street.road - 0.5, 1.1)
            corners = ((0, 0), (0.55, 0), (0.55, 3), (0, 3))
            bars = [canvas.project(lefts + dx, 0, near + dz) for dx, dz in corners]
            canvas.polygons(np.stack(bars, axis=1), style.markings, None, near)


def _stain(canvas: Canvas, horizon: int) -> None:
    """Multiplies the ground by noise that lies on it, in perspective."""
    camera, noise = canvas.camera, canvas.street.ground_noise
    height, width = canvas.label.shape
    rows = np.arange(horizon + 4, height, dtype=np.float32)[::2]
    columns = np.arange(0, width, 2, dtype=np.float32)
    z = np.float32(camera.focal * camera.height) / (rows - np.float32(camera.v0))
    x = (columns - np.float32(camera.u0)) * (z / np.float32(camera.focal))[:, None]
    x += np.float32(camera.x) - np.float32(canvas.street.bend) * (z * z)[:, None]
    where = np.broadcast_to(((z + np.float32(camera.z)) * 4)[:, None], x.shape)
    seen = cv2.remap(
        noise,
        x * 4 + noise.shape[1] / 2,
        np.ascontiguousarray(where),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    part = canvas.image[horizon + 4 :]
    factor = cv2.resize(seen, (width, len(part)), interpolation=cv2.INTER_LINEAR)
    cv2.multiply(part, cv2.merge([factor] * 3), part, dtype=cv2.CV_8U)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    encoded = cv2.imencode(".png", pixels)[1].tobytes()
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encoded)
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise SegalError(
            f"{path}: cannot be written",
            expected="a folder that can be written, with room on its disk",
            got=error.strerror,
            remedy="choose another folder, or make room",
        ) from error
