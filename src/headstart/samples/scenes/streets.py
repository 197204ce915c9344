"""The scene `street`: two rows of houses in perspective, and what is on the street between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.samples.scenes.facades import PAINTS, ROOFS, facade_look, far_blocks, paint_facade, person
from headstart.samples.scenes.painting import Canvas, Rng, mix, near_colour, pick, plane, ridge_line, smooth, under
from headstart.samples.scenes.plants import SNOW, one
from headstart.samples.scenes.sky import Day, paint_sky


@dataclass(frozen=True)
class Camera:
    """Looks along a street (z away from it, metres); the vanishing point is at `centre`."""

    centre: tuple[float, float]
    focal: float
    height: float

    def at(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in metres, y up from the ground, as points (..., 2) of the image."""
        out = np.array(points[..., :2], float)
        out[..., 1] = self.height - out[..., 1]
        return out * (self.focal / points[..., 2:]) + self.centre


def street(rng: Rng, size: int, day: Day) -> Canvas:
    """A street between two rows of houses, with what is on it."""
    lane = pick(rng, {"town": 0.55, "alley": 0.2, "avenue": 0.25})
    half = float({"town": rng.uniform(4, 6), "alley": rng.uniform(1.6, 2.6), "avenue": rng.uniform(7, 11)}[lane])
    walk = float(rng.uniform(0.6, 1.2) if lane == "alley" else rng.uniform(2, 4.5))
    centre = (float(rng.normal(0.5, 0.14)), float(rng.uniform(0.42, 0.62)))
    height = float(rng.uniform(1.4, 2.2) if rng.uniform() < 0.75 else rng.uniform(3, 7))
    camera = Camera(centre, float(rng.uniform(0.7, 1.15)), height)
    sheet = Canvas(size, paint_sky(rng, size, day, camera.centre[1]))
    _street_end(rng, sheet, day, camera, half)
    _road(rng, sheet, day, camera, half, walk, lane)
    tall = float(rng.uniform(6, 12) if lane == "alley" else rng.uniform(7, 22))
    gap = {"town": 0.08, "alley": 0.0, "avenue": 0.12}[lane]
    for side in (-1, 1):
        _row(rng, sheet, day, camera, side * (half + walk), tall, gap)
    _traffic(rng, sheet, day, camera, half, walk, lane)
    if rng.uniform() < 0.25:
        _wires(rng, sheet, camera, half + walk, tall)
    return sheet


def _street_end(rng: Rng, sheet: Canvas, day: Day, camera: Camera, half: float) -> None:
    """Far houses, trees or hills where the street leads to."""
    y = camera.centre[1]
    if rng.uniform() < 0.35:
        hills = y - 0.02 - ridge_line(rng, 60) * rng.uniform(0.04, 0.16)
        sheet.polygon(under(hills), day.far(day.lit((0.30, 0.38, 0.28), 0.5), 0.8))
    if rng.uniform() < 0.75:
        middle, high = camera.centre[0], rng.uniform(0.06, 0.2)
        far_blocks(rng, sheet, day, y + 0.005, distance=0.75, height=high, between=(middle - 0.3, middle + 0.25))
    for _ in range(int(rng.integers(0, 5))):
        one(rng, sheet, day, "tree", (camera.centre[0] + rng.normal(0, 0.12), y + 0.01), rng.uniform(0.05, 0.13), 0.7)


def _road(rng: Rng, sheet: Canvas, day: Day, camera: Camera, half: float, walk: float, lane: str) -> None:
    """Carriageway, pavements, kerbs, markings; wet, snowy or cobbled."""
    size, horizon = sheet.size, camera.centre[1]
    cobbled = lane == "alley" and rng.uniform() < 0.6
    tone = rng.uniform(0.24, 0.46)
    road = np.array([tone, tone, tone * rng.uniform(0.94, 1.08)])
    pave = near_colour(rng, (0.60, 0.57, 0.53), 0.12)
    if day.snow:
        road, pave = mix(road, SNOW, rng.uniform(0.2, 0.8)), np.array(SNOW) * 0.97
    grain = plane(rng, size, horizon, "cells" if cobbled else "fine", near=110 if cobbled else 150)
    ground = day.lit(pave, 0.7) * (1 + (0.16 if cobbled else 0.08) * grain[..., None])
    sheet.cover(ground.astype(np.float32), sheet.area(under(np.full(2, horizon))))
    near, far = 0.6, 400.0
    strip = camera.at(np.array([[-half, 0, far], [half, 0, far], [half, 0, near], [-half, 0, near]]))
    asphalt = day.lit(road, 0.7) * (1 + (0.2 if cobbled else 0.09) * grain[..., None])
    if not day.snow and day.sky in ("overcast", "night") and rng.uniform() < 0.5:
        asphalt = mix(asphalt, day.low, 0.35 * smooth(plane(rng, size, horizon, "soft"), -0.5, 1.0))
    sheet.cover(asphalt.astype(np.float32), sheet.area(strip))
    kerbs = [camera.at(np.array([[s * half, 0, far], [s * half, 0, near]])) for s in (-1, 1)]
    sheet.lines(np.array(kerbs), 0.008, day.lit(pave * 1.15, 0.6))
    if lane != "alley":
        _markings(rng, sheet, day, camera, half)


def _markings(rng: Rng, sheet: Canvas, day: Day, camera: Camera, half: float) -> None:
    white = day.lit((0.86, 0.85, 0.8) if rng.uniform() < 0.8 else (0.85, 0.7, 0.2), 0.8) * rng.uniform(0.7, 1)
    lines = [0.0] if half < 7 else [-half / 2, 0.0, half / 2]
    dash = rng.uniform(2, 4)
    for x in lines:
        strips = np.stack([_flat(x - 0.09, a, x + 0.09, a + dash) for a in np.arange(1.2, 60, dash * 2).tolist()])
        if rng.uniform() < 0.8:
            sheet.polygons(camera.at(strips), white)
    if rng.uniform() < 0.3:
        z = rng.uniform(3, 9)
        bars = np.stack([_flat(x, z, x + 0.5, z + 2.6) for x in np.arange(-half + 0.3, half - 0.3, 1.0).tolist()])
        sheet.polygons(camera.at(bars), white)


def _flat(x0: float, z0: float, x1: float, z1: float) -> np.ndarray:
    return np.array([[x0, 0, z0], [x1, 0, z0], [x1, 0, z1], [x0, 0, z1]])


def _row(rng: Rng, sheet: Canvas, day: Day, camera: Camera, x: float, tall: float, gap: float) -> None:
    """The houses of one side, the farthest first: the wall along the street and the one that faces us."""
    start, plots = rng.uniform(0.8, 3.5), []
    while start < 55:
        length = rng.uniform(6, 18)
        plots.append((start, start + length, tall * rng.uniform(0.55, 1.35)))
        start += length + (rng.uniform(2, 8) if rng.uniform() < gap * 2 else 0)
    facing = 0.9 if np.sign(-x) * day.side > 0 else 0.25
    outward = float(np.sign(x))
    for near, far, high in reversed(plots):
        look, back = facade_look(rng), x + outward * rng.uniform(8, 14)
        distance = min(1.0, near / 70)
        front = camera.at(np.array([[x, high, near], [back, high, near], [back, 0, near], [x, 0, near]]))
        along = camera.at(np.array([[x, high, far], [x, high, near], [x, 0, near], [x, 0, far]]))
        if outward < 0:
            front, along = front[[1, 0, 3, 2]], along[[1, 0, 3, 2]]
        sheet.polygon(front, day.far(day.lit(look.wall, 0.45), distance))
        paint_facade(rng, sheet, day, look, along, (far - near, high), facing, distance)
        if rng.uniform() < 0.35:
            rise = rng.uniform(1.5, 3.5)
            roof = camera.at(
                np.array(
                    [
                        [x, high, far],
                        [x + outward * 3, high + rise, far],
                        [x + outward * 3, high + rise, near],
                        [x, high, near],
                    ]
                )
            )
            sheet.polygon(roof, day.far(day.lit(SNOW if day.snow else pick(rng, ROOFS), 0.6), distance))


def _traffic(rng: Rng, sheet: Canvas, day: Day, camera: Camera, half: float, walk: float, lane: str) -> None:
    """Cars, people, trees and lamps, the farthest first."""
    things: list[tuple[float, str, float]] = []
    z = rng.uniform(5, 12)
    lined, parked = rng.uniform() < 0.45 and lane != "alley", rng.uniform() < 0.6 and lane != "alley"
    side_of_trees = pick(rng, [-1, 1, 2])
    while z < 70:
        for side in (-1, 1):
            edge = side * (half + 0.5)
            if lined and side_of_trees in (2, side):
                things.append((z, "tree", edge + side * 0.6))
            if rng.uniform() < 0.35:
                things.append((z + 2, "lamp", edge))
            if parked and rng.uniform() < 0.75:
                things.append((z + 1, "car", side * (half - 1.1)))
        z += rng.uniform(5.5, 9)
    if lane != "alley":
        things += [
            (rng.uniform(7, 45), "car", rng.uniform(-half + 2.5, half - 2.5)) for _ in range(int(rng.integers(0, 5)))
        ]
    reach = half + walk * 0.8
    crowd = pick(rng, {0: 0.3, 2: 0.35, 5: 0.25, 14: 0.1})
    things += [
        (rng.uniform(5, 40), "person", pick(rng, [-1, 1]) * rng.uniform(half * (lane != "alley"), reach))
        for _ in range(crowd)
    ]
    for z, what, x in sorted(things, reverse=True):
        foot = camera.at(np.array([x, 0, z]))
        if -0.2 < foot[0] < 1.2:
            _thing(rng, sheet, day, camera, what, x, z, foot)


def _thing(
    rng: Rng,
    sheet: Canvas,
    day: Day,
    camera: Camera,
    what: str,
    x: float,
    z: float,
    foot: np.ndarray,
) -> None:
    unit, distance = camera.focal / z, min(1.0, z / 70)
    place = (float(foot[0]), float(foot[1]))
    if what == "car":
        _car(rng, sheet, day, camera, x, z, distance)
    elif what == "tree":
        one(rng, sheet, day, "tree", place, rng.uniform(5, 9) * unit, distance)
    elif what == "person":
        person(rng, sheet, day, place, rng.uniform(1.5, 1.85) * unit, distance)
    else:
        top = camera.at(np.array([[x, 0, z], [x, 5.5, z], [x - np.sign(x) * 1.2, 5.8, z]]))
        sheet.curve(top, 0.12 * unit, day.far(day.lit((0.2, 0.2, 0.22), 0.4), distance))
        glow = (1.0, 0.88, 0.6) if day.sky in ("night", "sunset") else (0.8, 0.8, 0.78)
        sheet.ellipses(top[2:], np.array([[0.35, 0.15]]) * unit * (1.6 if day.sky == "night" else 1), glow)


def _car(rng: Rng, sheet: Canvas, day: Day, camera: Camera, x: float, z: float, distance: float) -> None:
    """A car from behind or in front: shadow, flank, body, window, lights, wheels."""
    paint = near_colour(rng, pick(rng, PAINTS))
    wide, high, long = rng.uniform(1.65, 1.9), rng.uniform(1.35, 1.9), rng.uniform(3.8, 4.8)
    left, right = x - wide / 2, x + wide / 2
    shade = camera.at(_flat(left - 0.15, z - 0.1, right + 0.15, z + long))
    sheet.polygon(shade, day.far(day.lit((0.14, 0.14, 0.14), 0), distance))
    inner = left if x > 0 else right
    belt = high * 0.58
    flank = camera.at(np.array([[inner, 0.3, z], [inner, belt, z], [inner, belt, z + long], [inner, 0.3, z + long]]))
    glass = camera.at(
        np.array(
            [
                [inner, belt, z + 0.2],
                [inner, high, z + 0.7],
                [inner, high, z + long * 0.6],
                [inner, belt, z + long * 0.8],
            ]
        )
    )
    sheet.polygon(flank, day.far(day.lit(paint, 0.4), distance))
    sheet.polygon(glass, day.far(day.lit((0.15, 0.18, 0.22), 0.6), distance))
    c = x
    outline = np.array(
        [[left, 0.3], [left, belt], [left + 0.16, high], [right - 0.16, high], [right, belt], [right, 0.3]]
    )
    window = np.array(
        [[left + 0.16, belt + 0.04], [left + 0.26, high - 0.1], [right - 0.26, high - 0.1], [right - 0.16, belt + 0.04]]
    )
    for shape, colour in ((outline, day.lit(paint, 0.7)), (window, day.lit((0.14, 0.17, 0.2), 0.7))):
        sheet.polygon(camera.at(np.column_stack([shape, np.full(len(shape), z)])), day.far(colour, distance))
    rear = rng.uniform() < 0.55
    lamp = (0.85, 0.1, 0.08) if rear else (1.0, 0.97, 0.85)
    tyres = np.array([[left + 0.16, 0.2, z], [right - 0.16, 0.2, z]])
    lamps = np.array([[left + 0.2, belt * 0.82, z], [right - 0.2, belt * 0.82, z]])
    unit = camera.focal / z
    sheet.ellipses(camera.at(tyres), np.array([[0.12, 0.22]] * 2) * unit, (0.06, 0.06, 0.06))
    sheet.ellipses(
        camera.at(lamps), np.array([[0.14, 0.09]] * 2) * unit, lamp if day.sky == "night" else np.array(lamp) * 0.85
    )
    plate = camera.at(np.array([[c - 0.25, 0.62, z], [c + 0.25, 0.62, z], [c + 0.25, 0.5, z], [c - 0.25, 0.5, z]]))
    sheet.polygon(plate, day.far(day.lit((0.85, 0.84, 0.76), 0.6), distance))


def _wires(rng: Rng, sheet: Canvas, camera: Camera, x: float, tall: float) -> None:
    for z in rng.uniform(4, 20, int(rng.integers(1, 4))):
        ends = camera.at(np.array([[-x, tall * 0.7, z], [x, tall * 0.65, z]]))
        t = np.linspace(0, 1, 9)[:, None]
        sheet.curve(ends[0] * (1 - t) + ends[1] * t + np.array([0, 0.16]) * t * (1 - t), 0.003, (0.1, 0.1, 0.12))
