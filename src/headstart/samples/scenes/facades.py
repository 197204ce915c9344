"""Walls with windows, what stands before them, and rows of far houses: for `buildings` and `street`.

A facade is a grid of windows on the unit square, put in place by a homography; 0.3 to 1 ms each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.samples.scenes.painting import Canvas, Rng, boxes, homography, mix, near_colour, pick, projected
from headstart.samples.scenes.sky import Day

WALLS = (
    *((0.78, 0.72, 0.60), (0.62, 0.34, 0.26), (0.70, 0.68, 0.66), (0.50, 0.36, 0.30), (0.86, 0.84, 0.80)),
    *((0.80, 0.62, 0.40), (0.44, 0.46, 0.50), (0.74, 0.56, 0.50), (0.58, 0.64, 0.60), (0.66, 0.72, 0.80)),
    *((0.88, 0.76, 0.44), (0.36, 0.30, 0.28)),
)
ROOFS = ((0.48, 0.22, 0.16), (0.32, 0.30, 0.30), (0.40, 0.28, 0.22), (0.28, 0.34, 0.38))
PAINTS = (
    *((0.70, 0.10, 0.10), (0.12, 0.20, 0.42), (0.88, 0.88, 0.88), (0.10, 0.10, 0.12), (0.55, 0.57, 0.60)),
    *((0.90, 0.72, 0.12), (0.16, 0.36, 0.28), (0.60, 0.36, 0.20)),
)


@dataclass(frozen=True)
class Facade:
    """How a building's walls look, the same on all of its sides."""

    wall: np.ndarray
    glass: np.ndarray
    frame: np.ndarray
    kind: str
    """punched, ribbon, curtain or balcony."""
    floor: float
    """Height of a floor in metres."""
    bay: float
    """Distance of window axes in metres."""
    window: tuple[float, float]
    """Fractions of the bay and of the floor that are window."""
    shops: bool
    cornice: bool
    arched: bool


def facade_look(rng: Rng, kind: str = "") -> Facade:
    """A random style."""
    kind = kind or pick(rng, {"punched": 0.55, "ribbon": 0.15, "curtain": 0.15, "balcony": 0.15})
    wall = near_colour(rng, pick(rng, WALLS), 0.12)
    glass = near_colour(rng, (0.20, 0.26, 0.32) if rng.uniform() < 0.7 else (0.30, 0.40, 0.48), 0.2)
    frame = mix(wall, (0.95, 0.94, 0.9), rng.uniform(0.2, 0.9)) if rng.uniform() < 0.75 else wall * 0.6
    size = (float(rng.uniform(0.3, 0.65)), float(rng.uniform(0.45, 0.72)))
    if kind == "curtain":
        size = (float(rng.uniform(0.86, 0.95)), float(rng.uniform(0.8, 0.95)))
    elif kind == "ribbon":
        size = (1.0, float(rng.uniform(0.35, 0.6)))
    floor, bay = float(rng.uniform(2.9, 4.2)), float(rng.uniform(2.2, 4.4))
    flags = rng.uniform(0, 1, 3)
    return Facade(
        wall, glass, frame, kind, floor, bay, size, bool(flags[0] < 0.6), bool(flags[1] < 0.6), bool(flags[2] < 0.15)
    )


def paint_facade(
    rng: Rng,
    sheet: Canvas,
    day: Day,
    look: Facade,
    corners: np.ndarray,
    metres: tuple[float, float],
    amount: float,
    distance: float = 0.0,
) -> None:
    """One wall, corners (4, 2) from the top left clockwise; `metres` is its width and height; lit by `amount`."""
    wall = day.far(day.lit(look.wall, amount), distance)
    sheet.polygon(corners, wall)
    wide, high = (corners.max(axis=0) - corners.min(axis=0)).tolist()
    if wide < 0.02:
        return
    across = int(max(1, min(round(metres[0] / look.bay), 24, 1 + 40 * wide)))  # no more windows than can be seen
    floors = int(max(1, min(round(metres[1] / look.floor), 30, 1 + 40 * high)))
    place = homography(corners)
    shops = look.shops and floors > 1
    columns, rows = np.meshgrid(np.arange(across), np.arange(floors - shops))
    left = columns.ravel() + (1 - look.window[0]) / 2
    top = rows.ravel() + (1 - look.window[1]) * 0.45
    right, bottom = left + look.window[0], top + look.window[1]
    scale = np.array([1 / across, 1 / floors])
    panes = boxes(left, top, right, bottom) * scale
    n = len(panes)
    if look.kind in ("punched", "balcony"):
        grown = boxes(left - 0.05, top - 0.05, right + 0.05, bottom + 0.07) * scale
        sheet.polygons(projected(place, grown), day.far(day.lit(look.frame, amount), distance))
    sheet.polygons(projected(place, panes), day.far(_glass(rng, day, look, n, amount), distance))
    if look.kind == "punched" and look.arched:
        heads = np.stack([(left + right) / 2, top], axis=1) * scale
        width = look.window[0] / 2 * scale[0]
        arc = np.array([[-1, 0.01], [-0.8, -0.5], [0, -0.8], [0.8, -0.5], [1, 0.01]]) * [width, width * 0.7]
        sheet.polygons(projected(place, heads[:, None] + arc), day.far(day.lit(look.glass, 0.3), distance))
    if wide < 0.07 or distance > 0.6:
        return
    shown = _Wall(look=look, place=place, across=across, floors=floors, amount=amount, distance=distance)
    _details(rng, sheet, day, shown, panes)
    if shops:
        _shops(rng, sheet, day, shown)


def _glass(rng: Rng, day: Day, look: Facade, n: int, amount: float) -> np.ndarray:
    """(n, 3): dark panes, some that reflect the sky, some with curtains, lit ones at night."""
    colour = day.lit(look.glass, 0.3 + 0.4 * amount) * rng.uniform(0.7, 1.25, (n, 1))
    reflect = (rng.uniform(0, 1, n) < (0.5 if look.kind == "curtain" else 0.2)) * rng.uniform(0.2, 0.6, n)
    colour = mix(colour, day.low, reflect)
    curtain = rng.uniform(0, 1, n) < 0.15
    colour = np.where(curtain[:, None], day.lit((0.8, 0.78, 0.7), amount * 0.6), colour)
    often = {"night": 0.5, "sunset": 0.15, "fog": 0.1}.get(day.sky, 0.01)
    lamps = np.array([1.0, 0.82, 0.48]) * rng.uniform(0.6, 1.0, (n, 1))
    return np.where((rng.uniform(0, 1, n) < often)[:, None], lamps, colour)


@dataclass(frozen=True, eq=False)
class _Wall:
    """A wall on the sheet: its facade, the homography that places it, windows across, floors, light and distance."""

    look: Facade
    place: np.ndarray
    across: int
    floors: int
    amount: float
    distance: float


def _details(rng: Rng, sheet: Canvas, day: Day, wall: _Wall, panes: np.ndarray) -> None:
    """Window bars, floor lines, balconies, a cornice."""
    look, place, across, floors = wall.look, wall.place, wall.across, wall.floors
    amount, distance = wall.amount, wall.distance
    pale = day.far(day.lit(look.frame, amount), distance)
    if look.kind in ("punched", "balcony") and len(panes) < 90:
        middle = (panes[:, 0] + panes[:, 1]) / 2, (panes[:, 3] + panes[:, 2]) / 2
        sheet.lines(projected(place, np.stack(middle, axis=1)), 0.004, pale)
    if look.kind == "ribbon" or rng.uniform() < 0.35:
        v = np.arange(1, floors) / floors
        ends = np.stack([np.stack([v * 0, v], axis=1), np.stack([v * 0 + 1, v], axis=1)], axis=1)
        if len(v):
            sheet.lines(projected(place, ends), 0.006, pale)
    if look.kind == "ribbon":
        u = np.arange(across + 1) / across
        ends = np.stack([np.stack([u, u * 0], axis=1), np.stack([u, u * 0 + 1], axis=1)], axis=1)
        sheet.lines(projected(place, ends), 0.004, day.far(day.lit(look.wall, amount * 0.7), distance))
    if look.kind == "balcony":
        left, row = np.meshgrid(np.arange(0, across, 1 + int(rng.integers(2))), np.arange(floors - 1))
        u, v = left.ravel() / across, (row.ravel() + 0.86) / floors
        rails = boxes(u + 0.06 / across, v - 0.22 / floors, u + 0.94 / across, v)
        sheet.polygons(
            projected(place, rails), day.far(day.lit(mix(look.wall, (1, 1, 1), 0.3), amount * 0.7), distance)
        )
        shade = boxes(u + 0.06 / across, v, u + 0.94 / across, v + 0.05 / floors)
        sheet.polygons(projected(place, shade), day.far(day.lit(look.wall, 0), distance))
    if look.cornice:
        sheet.polygon(projected(place, boxes(-0.015, -0.012, 1.015, 0.25 / floors)[0]), pale)
        sheet.polygon(projected(place, boxes(0, 0.25 / floors, 1, 0.36 / floors)[0]), pale * 0.6)


def _shops(rng: Rng, sheet: Canvas, day: Day, wall: _Wall) -> None:
    """The ground floor: windows, signs, awnings."""
    look, place, floors, amount, distance = wall.look, wall.place, wall.floors, wall.amount, wall.distance
    top = 1 - 1 / floors
    n = max(1, wall.across // 2)
    u = np.arange(n) / n
    front = boxes(u + 0.06 / n, top + 0.28 / floors, u + 0.94 / n, 0.995)
    lit = rng.uniform(0, 1, (n, 1)) < (0.85 if day.sky == "night" else 0.3)
    inside = np.where(lit, np.array([0.95, 0.84, 0.6]) * rng.uniform(0.5, 1, (n, 1)), day.lit(look.glass, 0.3))
    sheet.polygons(projected(place, front), day.far(inside, distance))
    signs = boxes(u + 0.04 / n, top + 0.06 / floors, u + 0.96 / n, top + 0.26 / floors)
    paints = np.array([PAINTS[i] for i in rng.integers(0, len(PAINTS), n)])
    sheet.polygons(projected(place, signs), day.far(day.lit(paints, max(amount, 0.4)), distance))
    if rng.uniform() < 0.4:
        awnings = boxes(u + 0.05 / n, top + 0.3 / floors, u + 0.95 / n, top + 0.48 / floors)
        sheet.polygons(projected(place, awnings), day.far(day.lit(paints[::-1], amount * 0.8 + 0.1), distance))


def far_blocks(
    rng: Rng,
    sheet: Canvas,
    day: Day,
    horizon: float,
    *,
    distance: float,
    height: float,
    between: tuple[float, float] = (-0.1, 1.05),
) -> None:
    """A row of far blocks along the horizon."""
    x = between[0]
    while x < between[1]:
        wide, high = rng.uniform(0.05, 0.16), rng.uniform(0.3, 1.0) * height
        look = facade_look(rng)
        corners = boxes(x, horizon - high, x + wide, horizon + 0.02)[0]
        paint_facade(rng, sheet, day, look, corners, (wide * 150, high * 150), rng.uniform(0.3, 0.9), distance)
        x += wide * rng.uniform(0.7, 1.3)


def car_side(rng: Rng, sheet: Canvas, day: Day, foot: tuple[float, float], wide: float) -> None:
    """A car seen from its side; `foot` is the middle of its wheels' line."""
    x, y = foot
    paint = near_colour(rng, pick(rng, PAINTS))
    high = wide * rng.uniform(0.28, 0.36)
    sheet.ellipses(np.array([[x, y]]), np.array([[wide * 0.52, high * 0.12]]), day.lit((0.12, 0.12, 0.12), 0))
    body = np.array([[-0.5, -0.18], [-0.5, -0.5], [-0.36, -0.56], [0.36, -0.56], [0.5, -0.46], [0.5, -0.18]])
    cabin = np.array([[-0.36, -0.55], [-0.24, -1.0], [0.14, -1.0], [0.32, -0.55]])
    panes = cabin * [0.84, 0.92] + [0, -0.02]
    for shape, colour in (
        (body, day.lit(paint, 0.6)),
        (cabin, day.lit(paint, 0.8)),
        (panes, day.lit((0.16, 0.2, 0.24))),
    ):
        sheet.polygon(np.array([x, y]) + shape * [wide, high], colour)
    hubs = np.array([[x - wide * 0.3, y - high * 0.14], [x + wide * 0.3, y - high * 0.14]])
    for radius, grey in ((0.2, 0.06), (0.1, 0.5)):
        sheet.ellipses(hubs, np.full((2, 2), high * radius), day.lit(np.full(3, grey), 0.5))


def person(rng: Rng, sheet: Canvas, day: Day, foot: tuple[float, float], height: float, distance: float = 0.0) -> None:
    """A pedestrian."""
    x, y = foot
    coat, legs = near_colour(rng, pick(rng, PAINTS)), rng.uniform(0.08, 0.3, 3)
    stride = rng.uniform(0.02, 0.1) * height
    strokes = np.array([[[x, y - height * 0.48], [x - stride, y]], [[x, y - height * 0.48], [x + stride, y]]])
    sheet.lines(strokes, height * 0.09, day.far(day.lit(legs, 0.5), distance))
    half = height * 0.11
    body = np.array(
        [
            [x - half, y - height * 0.82],
            [x + half, y - height * 0.82],
            [x + half * 1.1, y - height * 0.42],
            [x - half * 1.1, y - height * 0.42],
        ]
    )
    sheet.polygon(body, day.far(day.lit(coat, 0.6), distance))
    skin = mix((0.86, 0.68, 0.56), (0.36, 0.24, 0.18), rng.uniform())
    sheet.ellipses(
        np.array([[x, y - height * 0.9]]), np.full((1, 2), height * 0.07), day.far(day.lit(skin, 0.7), distance)
    )
