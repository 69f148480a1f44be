"""Draws the cars, trucks, buses and trams of a made-up street."""

import cv2
import numpy as np

from segal.scenes.street import BLACK, WHITE, Canvas, Colour, Draw, Thing, from_hsv

CAR, TRUCK, BUS, TRAIN = 26, 27, 28, 31  # label ids of Cityscapes

_LABEL_OF = {"car": CAR, "truck": TRUCK, "bus": BUS, "train": TRAIN}


def _shadow_below(canvas: Canvas, thing: Thing, z: float) -> None:
    x0, x1 = thing.x - thing.width * 0.58, thing.x + thing.width * 0.58
    ends = [z - 0.2, z - 0.2, z + thing.length, z + thing.length]
    canvas.darken(canvas.project([x0, x1, x1, x0], 0, ends), 0.55)


def _car(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    """A body with a cabin on it: the side that is turned to us, then the end."""
    _shadow_below(canvas, thing, z)
    length, high = thing.length, thing.height
    belt = high * generator.uniform(0.55, 0.66)
    x0, x1 = thing.x - thing.width / 2, thing.x + thing.width / 2
    side = x0 if thing.x > canvas.camera.x else x1
    cabin = np.array([0.04, 0.14, 0.62, 0.80]) * length  # foot, roof, roof, foot
    if thing.speed < 0 or generator.random() < 0.25:  # we see its front
        cabin = length - cabin[::-1]
    glass = BLACK * generator.uniform(1.2, 3.0) + 8
    profile_y = [belt, high, high, belt]
    _wheels(canvas, thing, z, side)
    body = [(0, 0.22), (0, belt), (length, belt * 0.92), (length, 0.22)]
    zs, ys = np.array(body).T
    canvas.polygon(canvas.project(side, ys, z + zs), thing.colour * 0.82, CAR, z)
    top = canvas.project(
        [x0, x1, x1, x0], [belt, belt, belt * 0.92, belt * 0.92], [z, z, z + length, z + length]
    )
    canvas.polygon(top, thing.colour * 1.1, CAR, z)
    inner, other = side * 0.93 + thing.x * 0.07, x0 + x1 - side
    outline = canvas.project(
        [[inner], [other * 0.93 + thing.x * 0.07]], profile_y, z + cabin
    ).reshape(-1, 2)
    hull = cv2.convexHull(outline.astype(np.float32))[:, 0].astype(np.float64)
    canvas.polygon(hull, thing.colour * 0.7, CAR, z)
    canvas.polygon(canvas.project(inner, profile_y, z + cabin), thing.colour * 0.8, CAR, z)
    inset = [belt * 1.03, high * 0.95, high * 0.95, belt * 1.03]
    pane = z + cabin + np.array([0.15, 0.06, -0.06, -0.15]) * length * 0.5
    canvas.polygon(canvas.project(inner, inset, pane), glass, None, z)
    roof_x = [x0 * 0.9 + thing.x * 0.1, x1 * 0.9 + thing.x * 0.1]
    roof = canvas.project([*roof_x, *roof_x[::-1]], high, z + cabin[[1, 1, 2, 2]])
    canvas.polygon(roof, thing.colour * 1.12, CAR, z)
    _car_end(canvas, thing, z, (belt, float(cabin[0]), float(cabin[1])), glass)


def _wheels(canvas: Canvas, thing: Thing, z: float, side: float) -> None:
    r = 0.33 if thing.height < 2.2 else 0.5
    angle = np.linspace(0, 2 * np.pi, 10, endpoint=False)
    label = _LABEL_OF[thing.kind]
    for share in (0.18, 0.8):
        ring = canvas.project(
            side, r + r * np.sin(angle), z + thing.length * share + r * np.cos(angle)
        )
        canvas.polygon(ring, BLACK, label, z)
    for x in (thing.x - thing.width * 0.42, thing.x + thing.width * 0.3):
        tyre = canvas.across((x, x + thing.width * 0.12), 0, r, z)
        canvas.polygon(tyre, BLACK, label, z)


def _car_end(
    canvas: Canvas, thing: Thing, z: float, shape: tuple[float, float, float], glass: Colour
) -> None:
    belt, cabin_foot, cabin_roof = shape
    w, high = thing.width / 2, thing.height
    x = thing.x
    canvas.polygon(canvas.across((x - w, x + w), 0.24, belt, z), thing.colour, CAR, z)
    corners = [x - w * 0.95, x + w * 0.95, x + w * 0.78, x - w * 0.78]
    zs = np.array([cabin_foot, cabin_foot, cabin_roof, cabin_roof]) + z
    canvas.polygon(
        canvas.project(corners, [belt, belt, high, high], zs), thing.colour * 0.95, CAR, z
    )
    inner = [x - w * 0.82, x + w * 0.82, x + w * 0.68, x - w * 0.68]
    heights = [belt * 1.04, belt * 1.04, high * 0.95, high * 0.95]
    canvas.polygon(canvas.project(inner, heights, zs), glass, None, z)
    canvas.polygon(canvas.across((x - w, x + w), 0.24, belt * 0.42, z), thing.colour * 0.5, None, z)
    lamp = np.array([235.0, 235, 215]) if thing.speed < 0 else np.array([170.0, 25, 25])
    for edge in (-1, 1):
        spot = (x + edge * w * 0.7, x + edge * w * 0.95)
        canvas.polygon(canvas.across(spot, belt * 0.66, belt * 0.88, z), lamp, None, z)
    plate = canvas.across((x - 0.26, x + 0.26), belt * 0.48, belt * 0.6, z)
    canvas.polygon(plate, WHITE, None, z)


def _box(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    """A bus, a truck or a tram."""
    _shadow_below(canvas, thing, z)
    label, high = _LABEL_OF[thing.kind], thing.height
    w, x, ends = thing.width / 2, thing.x, (z, z + thing.length)
    side = x - w if x > canvas.camera.x else x + w
    foot = 0.25 if thing.kind == "train" else 0.45
    if thing.kind != "train":
        _wheels(canvas, thing, z, side)
    stripe = from_hsv(*generator.uniform((0, 0.2, 0.3), (360, 0.7, 0.9)))
    canvas.polygon(canvas.along(side, foot, high, ends), thing.colour * 0.8, label, z)
    canvas.polygon(canvas.across((x - w, x + w), foot, high, z), thing.colour, label, z)
    glass = BLACK * generator.uniform(1.3, 2.6)
    if thing.kind == "truck":
        canvas.polygon(canvas.across((x - w, x + w), foot, foot + 0.5, z), BLACK * 2, None, z)
        seam = canvas.across((x - 0.04, x + 0.04), foot + 0.5, high, z)
        canvas.polygon(seam, thing.colour * 0.6, None, z)
        canvas.polygon(canvas.along(side, foot, foot + 0.4, ends), BLACK * 1.5, None, z)
    else:
        canvas.polygon(canvas.along(side, high * 0.48, high * 0.8, ends), glass, None, z)
        canvas.polygon(canvas.along(side, high * 0.32, high * 0.4, ends), stripe, None, z)
        pane = canvas.across((x - w * 0.86, x + w * 0.86), high * 0.45, high * 0.82, z)
        canvas.polygon(pane, glass, None, z)
        band = canvas.across((x - w * 0.6, x + w * 0.6), high * 0.86, high * 0.95, z)
        canvas.polygon(band, np.array([200.0, 160, 60]), None, z)
    lamp = np.array([235.0, 235, 215]) if thing.speed < 0 else np.array([170.0, 25, 25])
    for edge in (-1, 1):
        spot = (x + edge * w * 0.72, x + edge * w * 0.94)
        canvas.polygon(canvas.across(spot, foot + 0.15, foot + 0.4, z), lamp, None, z)


VEHICLES: dict[str, Draw] = {"car": _car, "truck": _box, "bus": _box, "train": _box}
