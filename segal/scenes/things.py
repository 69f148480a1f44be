"""Draws what stands and moves in a made-up street; label ids are those of Cityscapes."""

import numpy as np

from segal.scenes.street import (
    BLACK,
    FAR,
    NEAR,
    WHITE,
    Canvas,
    Colour,
    Draw,
    Points,
    Thing,
    ellipse,
    from_hsv,
    rectangle,
)
from segal.scenes.vehicles import VEHICLES

SKIN = (np.array([205.0, 160.0, 130.0]), np.array([120.0, 85.0, 65.0]))

STATIC = 4
BUILDING, WALL, FENCE = 11, 12, 13
POLE, LIGHT, SIGN, VEGETATION = 17, 19, 20, 21
PERSON, RIDER, MOTORCYCLE, BICYCLE = 24, 25, 32, 33


def draw(canvas: Canvas, thing: Thing, z: float) -> None:
    """Draws a thing of which the near end is z metres before the camera."""
    _DRAW[thing.kind](canvas, thing, z, np.random.default_rng(thing.seed))


def _building(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    side, x, end = np.sign(thing.x), thing.x, z + thing.length
    trim = thing.colour * generator.uniform(0.55, 1.25)
    if z > NEAR:
        front = (x, x + side * thing.width)
        canvas.polygon(canvas.across(front, 0, thing.height, z), thing.colour * 0.8, BUILDING, z)
        _windows_across(canvas, front, thing.height, z, generator)
    near = max(z, NEAR)
    canvas.polygon(
        canvas.along(x, 0, thing.height, (z, end)), thing.colour, BUILDING, (near + end) / 2
    )
    cornice = canvas.along(x, thing.height - 0.5, thing.height, (z, end))
    canvas.polygon(cornice, thing.colour * generator.uniform(0.6, 1.15), None, near)
    shop = generator.uniform(2.6, 3.6)
    if generator.random() < 0.7:
        canvas.polygon(canvas.along(x, 0, shop, (z, end)), trim, BUILDING, near)
    _windows_along(canvas, thing, z, shop, generator)


def _window_grid(
    extent: float, height: float, low: float, generator: np.random.Generator
) -> tuple[Points, Points, float, float]:
    pitch, floor = generator.uniform(2.2, 4.0), generator.uniform(2.7, 3.4)
    columns = np.arange(pitch / 2, extent - pitch / 4, pitch)
    rows = np.arange(low + 0.8, height - 1.6, floor)
    along, up = (a.ravel() for a in np.meshgrid(columns, rows))
    return along, up, pitch * generator.uniform(0.3, 0.65), floor * generator.uniform(0.4, 0.65)


def _windows_along(
    canvas: Canvas, thing: Thing, z: float, low: float, generator: np.random.Generator
) -> None:
    along, up, wide, high = _window_grid(thing.length, thing.height, low, generator)
    lit = generator.random(len(along)) < 0.3
    bright = generator.uniform(60, 190) * np.array([0.9, 1.0, 1.1])
    kept = (along + z > NEAR + 1) & (along + z < 70)
    for chosen, colour in ((kept & ~lit, BLACK * 1.8), (kept & lit, bright)):
        if chosen.any():
            start, foot = along[chosen] + z - wide / 2, up[chosen]
            corners = [(start, foot), (start + wide, foot)]
            corners += [(start + wide, foot + high), (start, foot + high)]
            quads = np.stack([canvas.project(thing.x, y, at) for at, y in corners], axis=1)
            canvas.polygons(quads, colour, None, float(start.mean()))


def _windows_across(
    canvas: Canvas,
    x: tuple[float, float],
    height: float,
    z: float,
    generator: np.random.Generator,
) -> None:
    if z > 60:
        return
    across, up, wide, high = _window_grid(abs(x[1] - x[0]), height, 2.5, generator)
    if len(across):
        left = min(x) + across - wide / 2
        corners = [(left, up), (left + wide, up), (left + wide, up + high), (left, up + high)]
        quads = np.stack([canvas.project(at, y, z) for at, y in corners], axis=1)
        canvas.polygons(quads, BLACK * 1.8, None, z)


def _wall(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    ends = (z, z + thing.length)
    canvas.polygon(canvas.along(thing.x, 0, thing.height, ends), thing.colour, WALL, max(z, 5))
    cap = canvas.along(thing.x, thing.height * 0.92, thing.height, ends)
    canvas.polygon(cap, thing.colour * generator.uniform(0.7, 1.2), None, max(z, 5))


def _fence(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    ends, height = (z, z + thing.length), thing.height
    canvas.mark(canvas.along(thing.x, 0, height, ends), FENCE)
    if generator.random() < 0.35:  # boards, else bars that one looks through
        canvas.polygon(canvas.along(thing.x, 0.05, height, ends), thing.colour, None, max(z, 5))
    bars = np.arange(max(z, NEAR + 1), min(z + thing.length, 60), generator.uniform(0.25, 0.5))
    if len(bars):
        upright = np.stack([canvas.project(thing.x, y, bars) for y in (0.0, height)], axis=1)
        canvas.lines(upright, thing.colour * 0.8, 0.05, float(bars.mean()))
    steps = np.linspace(max(z, NEAR + 1), max(z + thing.length, NEAR + 2), 5)
    rails = np.stack([canvas.project(thing.x, y, steps) for y in (0.15, height * 0.96)])
    canvas.lines(rails, thing.colour * 0.9, 0.07, float(steps.mean()))


def _tree(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    trunk = thing.width * 0.045 + 0.06
    bark = np.array([78.0, 66.0, 54.0]) * generator.uniform(0.6, 1.3)
    foot = thing.height * generator.uniform(0.25, 0.4)
    x = (thing.x - trunk, thing.x + trunk)
    canvas.polygon(canvas.across(x, 0, foot * 1.3, z), bark, VEGETATION, z)
    _leaves(canvas, thing, z, (foot + thing.height) / 2, (thing.height - foot) / 2, generator)


def _bush(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    _leaves(canvas, thing, z, thing.height * 0.42, thing.height * 0.55, generator)


def _leaves(
    canvas: Canvas,
    thing: Thing,
    z: float,
    middle: float,
    half: float,
    generator: np.random.Generator,
) -> None:
    """Overlapping clumps within an ellipse: dark ones below, lit ones above."""
    (u, v), scale = canvas.project(thing.x, middle, z), canvas.scale(z)
    rx, ry = thing.width / 2 * scale, half * scale
    count = int(np.clip(max(rx, ry) * 0.5, 6, 26))
    angle, radius = generator.uniform(0, 2 * np.pi, 26), np.sqrt(generator.uniform(0, 1, 26))
    size, shade = generator.uniform(0.22, 0.42, 26), generator.normal(0, 0.09, 26)
    up = radius * np.sin(angle)
    core = ellipse(u, v, rx * 0.72, ry * 0.72)
    canvas.polygon(core, thing.colour * 0.62, VEGETATION, z)
    for i in sorted(range(count), key=lambda i: up[i]):
        clump = ellipse(
            u + rx * 0.75 * radius[i] * np.cos(angle[i]),
            v - ry * 0.75 * up[i],
            rx * size[i],
            ry * size[i] * 0.9,
            9,
        )
        light = 0.8 + 0.3 * up[i] + shade[i]
        canvas.polygon(clump, thing.colour * light, VEGETATION, z)


def _pole(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    x = (thing.x - thing.width / 2, thing.x + thing.width / 2)
    canvas.polygon(canvas.across(x, 0, thing.height, z), thing.colour, POLE, z)
    shade = (thing.x + thing.width / 6, thing.x + thing.width / 2)
    canvas.polygon(canvas.across(shade, 0, thing.height, z), thing.colour * 0.7, None, z)
    if thing.height > 5 and generator.random() < 0.8:  # a street lamp
        reach = -np.sign(thing.x) * generator.uniform(0.8, 2.0)
        arm = sorted((thing.x, thing.x + reach))
        low = thing.height - 0.12
        canvas.polygon(canvas.across((arm[0], arm[1]), low, thing.height, z), thing.colour, POLE, z)


def _signpost(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    _pole(canvas, thing, z, generator)
    shape, face = generator.integers(4), thing.height - 0.35
    (u, v), r = canvas.project(thing.x, face, z), canvas.scale(z) * generator.uniform(0.32, 0.5)
    red, blue = np.array([185.0, 40, 40]), np.array([40.0, 75, 165])
    if shape == 0:  # a round one with a rim
        canvas.polygon(ellipse(u, v, r, r), red, SIGN, z)
        canvas.polygon(ellipse(u, v, r * 0.68, r * 0.68), WHITE, None, z)
    elif shape == 1:  # a warning
        triangle = np.array(
            [(u, v - r * 1.1), (u + r * 1.1, v + r * 0.8), (u - r * 1.1, v + r * 0.8)]
        )
        canvas.polygon(triangle, red, SIGN, z)
        middle = triangle.mean(0)
        canvas.polygon(middle + (triangle - middle) * 0.6, WHITE, None, z)
    elif shape == 2:
        canvas.polygon(rectangle(u - r, v - r, u + r, v + r), blue, SIGN, z)
        canvas.polygon(rectangle(u - r / 3, v - r * 0.6, u + r / 3, v + r * 0.7), WHITE, None, z)
    else:  # a direction sign
        colour = (WHITE, blue, np.array([215.0, 180, 50]))[int(generator.integers(3))]
        canvas.polygon(rectangle(u - 1.7 * r, v - r, u + 1.7 * r, v + r * 0.6), colour, SIGN, z)
        ink = BLACK if colour.mean() > 130 else WHITE
        for row in (-0.55, 0.05):
            line = rectangle(u - 1.3 * r, v + row * r, u + r, v + (row + 0.25) * r)
            canvas.polygon(line, ink, None, z)


def _signal(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    _pole(canvas, thing, z, generator)
    (u, v), s = canvas.project(thing.x, thing.height - 0.45, z), canvas.scale(z)
    canvas.polygon(
        rectangle(u - 0.19 * s, v - 0.55 * s, u + 0.19 * s, v + 0.55 * s), BLACK, LIGHT, z
    )
    lamps = np.array([[235.0, 60, 50], [240, 190, 60], [70, 220, 130]])
    on = int(generator.choice([0, 0, 1, 2, 2]))
    for i, lamp in enumerate(lamps):
        colour = lamp if i == on else lamp * 0.22
        canvas.polygon(ellipse(u, v + (i - 1) * 0.34 * s, 0.13 * s, 0.13 * s, 8), colour, None, z)


def _bin(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    x = (thing.x - thing.width / 2, thing.x + thing.width / 2)
    canvas.polygon(canvas.across(x, 0, thing.height, z), thing.colour, STATIC, z)
    lid = canvas.across(x, thing.height * 0.85, thing.height, z)
    canvas.polygon(lid, thing.colour * generator.uniform(0.5, 0.8), None, z)


def _figure(
    canvas: Canvas,
    at: Points,
    s: float,
    parts: list[tuple[list[tuple[float, float]], Colour]],
    label: int,
    z: float,
) -> None:
    """Polygons in units of s pixels, y up from the point `at`."""
    for corners, colour in parts:
        points = at + np.array(corners) * (s, -s)
        canvas.polygon(points, colour, label, z)


def _clothes(generator: np.random.Generator) -> tuple[Colour, Colour, Colour, Colour]:
    coat = from_hsv(*generator.uniform((0, 0.0, 0.12), (360, 0.6, 0.8)))
    legs = from_hsv(*generator.uniform((200, 0.0, 0.1), (240, 0.5, 0.45)))
    skin = SKIN[0] + (SKIN[1] - SKIN[0]) * generator.random()
    return coat, legs, skin, skin * generator.uniform(0.25, 0.9)


def _person(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    coat, legs, skin, hair = _clothes(generator)
    stride = generator.uniform(0.02, 0.17) * np.cos(2.1 * z + thing.seed % 7)
    broad, turn = generator.uniform(0.10, 0.155), generator.choice([-1, 1])
    arm = generator.uniform(0.0, 0.06)
    at, s = canvas.project(thing.x, 0, z), canvas.scale(z) * thing.height
    _figure(
        canvas,
        at,
        s,
        [
            ([(-0.07, 0.5), (0.02, 0.5), (stride + 0.03, 0), (stride - 0.04, 0)], legs * 0.8),
            ([(-0.02, 0.5), (0.07, 0.5), (0.04 - stride, 0), (-0.03 - stride, 0)], legs),
            (
                [
                    (-broad, 0.8),
                    (-0.05, 0.85),
                    (0.05, 0.85),
                    (broad, 0.8),
                    (0.09, 0.46),
                    (-0.09, 0.46),
                ],
                coat,
            ),
            (
                [
                    (broad * turn, 0.8),
                    (broad * turn * 0.6, 0.8),
                    (turn * (0.08 + arm), 0.5),
                    (turn * (0.13 + arm), 0.5),
                ],
                coat * 0.75,
            ),
        ],
        PERSON,
        z,
    )
    head = at + np.array([0.0, -0.915 * s])
    canvas.polygon(ellipse(head[0], head[1], 0.055 * s, 0.075 * s, 10), skin, PERSON, z)
    canvas.polygon(ellipse(head[0], head[1] - 0.03 * s, 0.055 * s, 0.05 * s, 8), hair, None, z)


def _two_wheels(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> float:
    """Draws a bicycle or motorcycle, seen obliquely; returns how much it is turned to us."""
    at, s = canvas.project(thing.x, 0, z), canvas.scale(z)
    is_motor = thing.kind.startswith("motor")
    turn = generator.uniform(0.55 if is_motor else 0.25, 1.0)
    label = MOTORCYCLE if is_motor else BICYCLE
    r = 0.33 if is_motor else 0.35
    wheels = [at + np.array([side * 0.53 * turn * s, -r * s]) for side in (-1, 1)]
    for wheel in wheels:
        rim = ellipse(wheel[0], wheel[1], r * turn * s, r * s, 16)
        canvas.mark(rim, label)
        width = 0.14 if is_motor else 0.05
        if is_motor:
            canvas.polygon(rim, BLACK * 1.6, label, z)
        canvas.lines(np.concatenate([rim, rim[:1]])[None], BLACK, width, z)
    frame = [(-0.53, r), (-0.15, 0.85), (0.4, 0.88), (0.53, r), (0.0, 0.3)]
    outline = at + np.array(frame) * (turn * s, -s)
    canvas.mark(outline, label)
    if is_motor:
        canvas.polygon(outline, thing.colour, label, z)
        seat = [(-0.65, 0.78), (-0.6, 0.9), (0.1, 0.86), (0.15, 0.72)]
        canvas.polygon(at + np.array(seat) * (turn * s, -s), BLACK, label, z)
    else:
        canvas.lines(np.concatenate([outline, outline[:2]])[None], thing.colour, 0.05, z)
    bar = at + np.array([(0.36, 0.85), (0.44, 1.05), (0.3, 1.05)]) * (turn * s, -s)
    canvas.lines(bar[None], BLACK, 0.05, z)
    return float(turn)


def _ridden(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    turn = _two_wheels(canvas, thing, z, generator)
    coat, legs, skin, hair = _clothes(generator)
    at, s = canvas.project(thing.x, 0, z), canvas.scale(z)
    t = max(turn, 0.45)
    foot = 0.18 + 0.12 * np.cos(3 * z)
    _figure(
        canvas,
        at,
        s,
        [
            ([(-0.3 * t, 0.98), (0.0, 1.0), (0.2 * t, foot), (0.04 * t, foot)], legs),
            ([(-0.36 * t, 0.95), (-0.05, 0.92), (0.14 * t, 1.42), (-0.12 * t - 0.1, 1.45)], coat),
            ([(0.05 * t, 1.4), (0.13 * t, 1.3), (0.42 * t, 1.0), (0.36 * t, 1.05)], coat * 0.75),
        ],
        RIDER,
        z,
    )
    head = at + np.array([0.08 * t * s, -1.58 * s])
    helmet = thing.colour if thing.kind.startswith("motor") else hair
    canvas.polygon(ellipse(head[0], head[1], 0.11 * s, 0.14 * s, 10), skin, RIDER, z)
    canvas.polygon(ellipse(head[0], head[1] - 0.05 * s, 0.12 * s, 0.1 * s, 8), helmet, RIDER, z)


def _parked(canvas: Canvas, thing: Thing, z: float, generator: np.random.Generator) -> None:
    _two_wheels(canvas, thing, z, generator)


def farthest(kind: str) -> float:
    """The distance in metres beyond which a kind of thing is not drawn."""
    return FAR if kind in ("building", "wall", "tree", "fence") else 90.0


_DRAW: dict[str, Draw] = {
    "building": _building,
    "wall": _wall,
    "fence": _fence,
    "tree": _tree,
    "bush": _bush,
    "pole": _pole,
    "signpost": _signpost,
    "signal": _signal,
    "bin": _bin,
    "person": _person,
    "bicycle": _parked,
    "motorcycle": _parked,
    "rider": _ridden,
    "motorcyclist": _ridden,
    **VEHICLES,
}
