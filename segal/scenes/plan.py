"""Draws up the cities and streets of the made-up scenes."""

from collections.abc import Iterator

import numpy as np

from segal.scenes.street import Colour, Street, Style, Thing, from_hsv, pick, smooth_noise

LENGTH = 190.0  # metres of street that are planned


def plan_style(generator: np.random.Generator) -> Style:
    """A city's look. Colours of different classes overlap, within a city and between cities."""
    uniform = generator.uniform
    road = _grey(generator, uniform(68, 128))
    overcast = generator.random() < 0.5
    if overcast:
        top, low = _grey(generator, uniform(150, 205)), _grey(generator, uniform(195, 240))
    else:
        top = from_hsv(uniform(205, 220), uniform(0.25, 0.6), uniform(0.6, 0.95))
        low = from_hsv(uniform(20, 215), uniform(0.05, 0.22), uniform(0.85, 0.98))
    warm = uniform(-0.07, 0.07)
    return Style(
        road=road,
        sidewalk=np.clip(road + uniform(-18, 48), 40, 190) + uniform(-9, 9, 3),
        facades=tuple(_facade(generator) for _ in range(5)),
        leaves=from_hsv(uniform(48, 128), uniform(0.22, 0.58), uniform(0.26, 0.52)),
        grass=from_hsv(uniform(52, 115), uniform(0.2, 0.5), uniform(0.3, 0.56)),
        markings=pick(generator, [(225.0, 225.0, 220.0), (205.0, 200.0, 190.0), (214.0, 180, 80)])
        * np.ones(3),
        sky_top=top,
        sky_low=low,
        metal=_grey(generator, uniform(60, 150)),
        gain=uniform(0.85, 1.2) * np.array([1 + warm, 1.0, 1 - warm]),
        contrast=uniform(0.85, 1.15),
        haze=uniform(110, 420),
        noise=uniform(2.0, 6.0),
        blur=uniform(0.3, 0.75),
        shadow=0.08 if overcast else uniform(0.2, 0.42),
        traffic=uniform(0.5, 1.0),
        crowd=uniform(0.35, 1.0),
        trees=uniform(0.2, 1.0),
    )


def _grey(generator: np.random.Generator, value: float) -> Colour:
    return np.clip(value + generator.uniform(-8, 8, 3), 0, 255)


def _facade(generator: np.random.Generator) -> Colour:
    uniform = generator.uniform
    kind = generator.integers(4)
    if kind == 0:  # brick
        return from_hsv(uniform(5, 25), uniform(0.3, 0.6), uniform(0.35, 0.65))
    if kind == 1:  # plaster
        return from_hsv(uniform(25, 55), uniform(0.1, 0.4), uniform(0.65, 0.9))
    if kind == 2:  # painted
        return from_hsv(uniform(0, 360), uniform(0.08, 0.3), uniform(0.45, 0.8))
    return _grey(generator, uniform(75, 205))  # concrete


def _paint(generator: np.random.Generator) -> Colour:
    """Colour of a vehicle: mostly grey, black or white, as on real roads."""
    if generator.random() < 0.68:
        return _grey(generator, pick(generator, [28, 45, 85, 120, 160, 205, 228]))
    return from_hsv(*generator.uniform((0, 0.4, 0.25), (360, 0.85, 0.75)))


def plan_street(style: Style, generator: np.random.Generator) -> Street:
    """What one sequence of frames shows."""
    uniform = generator.uniform
    lanes_per_side = int(generator.choice([1, 1, 2]))
    parking = 2.2 * (generator.random() < 0.75)
    road = 3.4 * lanes_per_side + parking
    walk = road + uniform(1.8, 4.5)
    first = uniform(18, 75)
    crossings = tuple((z, z + uniform(7, 12)) for z in (first, first + uniform(50, 80)))
    has_rails = bool(generator.random() < 0.2)
    side = int(pick(generator, [-1, 0, 1]))
    plan = _Plan(style, road, walk, parking, crossings, side, generator)
    things = [*plan.edges(), *plan.walks(), *plan.vehicles(has_rails), *plan.junctions()]
    return Street(
        style=style,
        road=road,
        walk=walk,
        bend=uniform(-0.0016, 0.0016),
        crossings=crossings,
        lanes=(0.0, *((-3.4, 3.4) if lanes_per_side == 2 else ())),
        zebras=tuple(start - 4.5 for start, _ in crossings if generator.random() < 0.7),
        has_rails=has_rails,
        grass=side,
        things=tuple(things),
        ground_noise=1 + 0.075 * smooth_noise((4 * int(LENGTH), 240), (2, 9, 40), generator),
    )


class _Plan:
    def __init__(
        self,
        style: Style,
        road: float,
        walk: float,
        parking: float,
        crossings: tuple[tuple[float, float], ...],
        grass: int,
        generator: np.random.Generator,
    ) -> None:
        self.style, self.road, self.walk, self.parking = style, road, walk, parking
        self.crossings, self.grass, self.generator = crossings, grass, generator

    def _thing(
        self,
        kind: str,
        x: float,
        z: float,
        size: tuple[float, float, float],
        colour: Colour,
        speed: float = 0.0,
    ) -> Thing:
        length, width, height = size
        seed = int(self.generator.integers(2**31))
        return Thing(kind, x, z, length, width, height, colour, speed, seed)

    def _open(self, z: float, margin: float = 1.0) -> bool:
        """Whether no crossing street is at z."""
        return all(not start - margin < z < end + margin for start, end in self.crossings)

    def edges(self) -> Iterator[Thing]:
        """What bounds the street on either side: houses, walls, fences, hedges, gaps."""
        for side in (-1, 1):
            free = self.walk + (self.generator.uniform(3, 7) if side == self.grass else 0.3)
            z = self.generator.uniform(-12, 0)
            built = self.generator.uniform(0.35, 0.95)
            while z < LENGTH:
                length = self.generator.uniform(7, 22)
                ahead = [start for start, end in self.crossings if z < end]
                if ahead and z + length > ahead[0]:
                    if ahead[0] - z < 4:
                        z = next(end for start, end in self.crossings if start == ahead[0]) + 0.5
                        continue
                    length = ahead[0] - z
                yield from self._plot(side, free, z, length, built)
                z += length + (self.generator.random() < 0.2) * self.generator.uniform(1, 5)

    def _plot(
        self, side: int, free: float, z: float, length: float, built: float
    ) -> Iterator[Thing]:
        uniform = self.generator.uniform
        colour = pick(self.generator, self.style.facades) * uniform(0.85, 1.12)
        if self.generator.random() < built:
            x = side * (free + (self.generator.random() < 0.25) * uniform(0, 3))
            yield self._thing("building", x, z, (length, 14, uniform(6, 19)), colour)
            return
        kind = pick(self.generator, ["wall", "fence", "fence", "bush", "open"])
        if kind in ("wall", "fence"):
            tone = colour if kind == "wall" else self.style.metal * uniform(0.5, 1.4)
            yield self._thing(kind, side * free, z, (length, 0.2, uniform(1.1, 2.6)), tone)
        for at in np.arange(z + 1, z + length, 1.6 if kind == "bush" else 4.5):
            size = (1.0, uniform(2, 3.4), uniform(1.2, 2.4))
            if kind == "bush":
                yield self._thing("bush", side * (free + 0.6), at, size, self._green())
            elif self.generator.random() < 0.75:
                yield self._tree(side * (free + uniform(2, 9)), at)

    def _green(self) -> Colour:
        return self.style.leaves * self.generator.uniform(0.75, 1.3)

    def _tree(self, x: float, z: float) -> Thing:
        height = self.generator.uniform(4, 11)
        width = height * self.generator.uniform(0.45, 0.8)
        return self._thing("tree", x, z, (1, width, height), self._green())

    def walks(self) -> Iterator[Thing]:
        """What stands and walks on the sidewalks."""
        uniform, random = self.generator.uniform, self.generator.random
        for side in (-1, 1):
            kerb, middle = side * (self.road + 0.5), side * (self.road + self.walk) / 2
            has_trees, spacing = random() < self.style.trees, uniform(8, 16)
            for z in np.arange(uniform(3, 12), LENGTH, spacing):
                if has_trees and self._open(z) and random() < 0.85:
                    yield self._tree(kerb + side * 0.3, z)
            for z in np.arange(uniform(2, 20), LENGTH, uniform(16, 30)):
                height = uniform(5, 8.5)
                yield self._thing("pole", kerb, z, (1, uniform(0.12, 0.24), height), self._metal())
            for z in np.arange(uniform(6, 18), LENGTH, uniform(14, 30)):
                size = (1.0, uniform(0.07, 0.12), uniform(2.3, 3.4))
                yield self._thing("signpost", kerb, z, size, self._metal())
            for _ in range(self.generator.poisson(16 * self.style.crowd)):
                z = uniform(7, LENGTH * 0.6)
                for offset in range(1 + (random() < 0.4)):  # alone or in pairs
                    yield self._person(middle + uniform(-0.9, 0.9), z + 0.3 * offset)
            for _ in range(self.generator.poisson(2)):
                size = (0.6, uniform(0.5, 0.9), uniform(0.8, 1.3))
                colour = from_hsv(uniform(0, 360), uniform(0, 0.5), uniform(0.15, 0.6))
                yield self._thing("bin", middle + side * 0.6, uniform(6, 90), size, colour)
            for z in uniform(6, 80, self.generator.poisson(3)):
                for offset in range(int(self.generator.integers(1, 4))):
                    x = kerb + side * uniform(0.1, 0.8)
                    yield self._two_wheels("bicycle", x, z + 0.7 * offset)

    def _metal(self) -> Colour:
        return self.style.metal * self.generator.uniform(0.7, 1.3)

    def _person(self, x: float, z: float) -> Thing:
        speed = self.generator.choice([-0.9, -0.4, 0.0, 0.5])
        height = self.generator.uniform(1.45, 1.95)
        return self._thing("person", x, z, (0.5, 0.5, height), self.style.metal, speed)

    def _two_wheels(self, kind: str, x: float, z: float, speed: float = 0.0) -> Thing:
        return self._thing(kind, x, z, (1.6, 0.6, 1.7), _paint(self.generator), speed)

    def vehicles(self, has_rails: bool) -> Iterator[Thing]:
        """Parked and moving vehicles; trucks, buses, trams and motorcycles are rare."""
        uniform, random = self.generator.uniform, self.generator.random
        for side in (-1, 1):
            x = side * (self.road - 1.15)
            z = uniform(4, 12)
            while self.parking and z < LENGTH:
                if self._open(z, 5) and random() < self.style.traffic * 0.85:
                    yield self._car(x, z)
                elif random() < 0.06:
                    yield self._two_wheels("motorcycle", x, z)
                z += uniform(5.2, 7.0)
            lane = side * 1.7
            z = uniform(11, 45) if side > 0 else uniform(15, 50)
            while z < LENGTH:
                speed = 3.0 if side > 0 else -6.0
                if random() < self.style.traffic * 0.6:
                    yield self._moving(lane, z, speed * uniform(0.8, 1.1))
                z += uniform(14, 40)
            if random() < 0.7:
                for z in uniform(8, 60, 1 + self.generator.poisson(0.8)):
                    x = side * (self.road - self.parking - 0.5)
                    yield self._two_wheels("rider", x, z, 1.5 * side)
            if random() < 0.16:
                yield self._two_wheels("motorcyclist", lane, uniform(9, 40), 3.0 * side)
        if has_rails and random() < 0.65:
            size = (uniform(18, 28), 2.5, uniform(3.2, 3.6))
            yield self._thing("train", -1.5, uniform(18, 60), size, _paint(self.generator), -3.0)

    def _car(self, x: float, z: float, speed: float = 0.0) -> Thing:
        uniform = self.generator.uniform
        size = (uniform(3.6, 4.8), uniform(1.65, 1.9), uniform(1.4, 1.75))
        return self._thing("car", x + uniform(-0.15, 0.15), z, size, _paint(self.generator), speed)

    def _moving(self, x: float, z: float, speed: float) -> Thing:
        uniform, kind = self.generator.uniform, self.generator.random()
        if kind < 0.07:
            size = (uniform(9, 12), 2.5, uniform(2.9, 3.3))
            return self._thing("bus", x, z, size, _paint(self.generator), speed)
        if kind < 0.15:
            size = (uniform(5.5, 9), uniform(2.1, 2.5), uniform(2.5, 3.6))
            return self._thing("truck", x, z, size, _paint(self.generator), speed)
        return self._car(x, z, speed)

    def junctions(self) -> Iterator[Thing]:
        """Signals, people and cars that cross."""
        uniform = self.generator.uniform
        for start, _ in self.crossings:
            if self.generator.random() < 0.75:
                for side in (-1, 1):
                    size = (1.0, 0.14, uniform(2.9, 3.6))
                    yield self._thing(
                        "signal", side * (self.road + 0.4), start - 1, size, self._metal()
                    )
            for x in uniform(-self.road, self.road, self.generator.poisson(2 * self.style.crowd)):
                yield self._person(x, start - uniform(2, 4))
