"""Rendered scenes made by people: `buildings` (facades from several angles, towers, skylines, houses) and `street`.

A facade is a grid of windows on the unit square, put in place by a homography. 3 to 9 ms a picture at 150 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.data.painting import (
    Colour,
    Rng,
    Sheet,
    boxes,
    homography,
    mix,
    near_colour,
    plane,
    projected,
    ridge_line,
    smooth,
    under,
)
from headstart.data.plants import SNOW, clumps, one, plant
from headstart.data.sky import Day, paint_sky

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
    """Part of the bay and of the floor that is window."""
    shops: bool
    cornice: bool
    arched: bool


def facade_look(rng: Rng, kind: str = "") -> Facade:
    """A random one."""
    kind = kind or str(rng.choice(["punched", "ribbon", "curtain", "balcony"], p=[0.55, 0.15, 0.15, 0.15]))
    wall = near_colour(rng, WALLS[int(rng.integers(len(WALLS)))], 0.12)
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
    rng: Rng, sheet: Sheet, day: Day, look: Facade, corners: np.ndarray, metres: tuple[float, float], amount: float,
    distance: float = 0.0,
) -> None:  # fmt: skip
    """One wall, corners (4, 2) from the top left clockwise, so many metres wide and high, lit by `amount`."""
    wall = day.far(day.lit(look.wall, amount), distance)
    sheet.polygon(corners, wall)
    if np.ptp(corners[:, 0]) < 0.012:
        return
    across = int(np.clip(round(metres[0] / look.bay), 1, 24))
    floors = int(np.clip(round(metres[1] / look.floor), 1, 30))
    place = homography(corners)
    shops = look.shops and floors > 1
    left, top = np.meshgrid(np.arange(across), np.arange(floors - shops))
    left, top = left.ravel() + (1 - look.window[0]) / 2, top.ravel() + (1 - look.window[1]) * 0.45
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
    if np.ptp(corners[:, 0]) < 0.06:
        return
    _details(rng, sheet, day, look, place, (across, floors), amount, distance, panes)
    if shops:
        _shops(rng, sheet, day, look, place, across, floors, amount, distance)


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


def _details(
    rng: Rng, sheet: Sheet, day: Day, look: Facade, place: np.ndarray, grid: tuple[int, int], amount: float,
    distance: float, panes: np.ndarray,
) -> None:  # fmt: skip
    """Window bars, floor lines, balconies, a cornice."""
    across, floors = grid
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


def _shops(
    rng: Rng, sheet: Sheet, day: Day, look: Facade, place: np.ndarray, across: int, floors: int, amount: float,
    distance: float,
) -> None:  # fmt: skip
    """The ground floor: windows, signs, awnings."""
    top = 1 - 1 / floors
    n = max(1, across // 2)
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


# Buildings


def buildings(rng: Rng, size: int, day: Day) -> Sheet:
    """One or several buildings, the subject of the picture."""
    views = {"corner": 0.34, "front": 0.16, "towers": 0.2, "skyline": 0.12, "house": 0.18}
    view = str(rng.choice(list(views), p=list(views.values())))
    horizon = float(rng.uniform(0.62, 0.9))
    sheet = Sheet(size, paint_sky(rng, size, day, horizon))
    if view == "house":
        _house(rng, sheet, day, horizon)
    elif view == "front":
        _front(rng, sheet, day)
    elif view == "skyline":
        _skyline(rng, sheet, day, horizon)
    else:
        if rng.uniform() < 0.6:
            _blocks(rng, sheet, day, horizon, distance=0.7, height=0.35)
        _ground(rng, sheet, day, horizon)
        for _ in range(1 if view == "corner" else int(rng.integers(2, 5))):
            _corner(rng, sheet, day, horizon, tower=view == "towers")
        _before(rng, sheet, day, horizon)
    return sheet


def _corner(rng: Rng, sheet: Sheet, day: Day, horizon: float, *, tower: bool) -> None:
    """A block seen at its edge, in two-point perspective; the higher, the more its verticals lean together."""
    look = facade_look(rng, "" if not tower else str(rng.choice(["curtain", "ribbon", "punched", "balcony"])))
    edge = float(rng.uniform(0.05, 0.95) if tower else rng.uniform(0.25, 0.75))
    foot = horizon + float(rng.uniform(0.01, 0.1 if tower else 0.16))
    metres = float(rng.uniform(40, 110) if tower else rng.uniform(9, 32))
    unit = (rng.uniform(0.6, 1.1) if tower else rng.uniform(0.5, 1.0)) / metres
    top = foot - metres * unit
    lean = float(rng.uniform(0, 0.25)) * max(0.0, 0.5 - top)
    faces = []
    for direction in (-1, 1):
        width = float(rng.uniform(10, 26) if tower else rng.uniform(10, 34))
        reach = width * unit * rng.uniform(0.5, 0.95)
        shrink = 1 / (1 + reach * rng.uniform(0.4, 1.1))
        far = edge + direction * reach
        ends = np.array([horizon + (top - horizon) * shrink, horizon + (foot - horizon) * shrink])
        near = np.array([[edge, top], [edge, foot]])
        away = np.array([[far, ends[0]], [far, ends[1]]])
        for column in (near, away):
            column[0, 0] += (0.5 - column[0, 0]) * lean
        order = [away[0], near[0], near[1], away[1]] if direction < 0 else [near[0], away[0], away[1], near[1]]
        faces.append((np.array(order), (width, metres), 0.95 if direction * day.side > 0 else rng.uniform(0.05, 0.4)))
    for corners, size, amount in faces:
        paint_facade(rng, sheet, day, look, corners, size, amount, 0.1)
    if not tower and rng.uniform() < 0.4:
        _roof(rng, sheet, day, faces[0][0], faces[1][0], horizon)


def _roof(rng: Rng, sheet: Sheet, day: Day, left: np.ndarray, right: np.ndarray, horizon: float) -> None:
    colour = SNOW if day.snow else near_colour(rng, ROOFS[int(rng.integers(4))])
    rise = np.array([0, -rng.uniform(0.05, 0.14)])
    inner = left[1] * 0.5 + (left[0] + right[1]) * 0.25 + rise
    for a, b, amount in ((left[0], left[1], day.side < 0), (right[0], right[1], day.side > 0)):
        slope = np.array([a, b, b * 0.3 + inner * 0.7, a * 0.3 + inner * 0.7])
        sheet.polygon(slope, day.lit(colour, 0.8 if amount else 0.2))


def _front(rng: Rng, sheet: Sheet, day: Day) -> None:
    """A facade, or two or three side by side, that nearly fill the picture."""
    n = int(rng.integers(1, 4))
    edges = np.concatenate([[rng.uniform(-0.2, 0.06)], np.sort(rng.uniform(0.3, 0.7, n - 1)), [rng.uniform(0.94, 1.2)]])
    turn, foot = rng.normal(0, 0.13), rng.uniform(0.86, 1.1)
    horizon = rng.uniform(0.6, 0.95)
    _ground(rng, sheet, day, min(foot, 0.98) - 0.02)
    metres = rng.uniform(8, 22)
    for k in range(n):
        look, top = facade_look(rng), float(rng.uniform(-0.25, 0.3))
        x = edges[[k, k + 1, k + 1, k]]
        y = np.array([top, top, foot, foot])
        y = horizon + (y - horizon) * (1 + turn * (x - 0.5) * 2)
        wide = metres * (edges[k + 1] - edges[k])
        paint_facade(
            rng, sheet, day, look, np.stack([x, y], axis=1), (wide, metres * (foot - top)), rng.uniform(0.3, 1.0)
        )
    if rng.uniform() < 0.5:
        _before(rng, sheet, day, 0.92)


def _blocks(rng: Rng, sheet: Sheet, day: Day, horizon: float, *, distance: float, height: float) -> None:
    """A row of far blocks along the horizon."""
    x = -0.1
    while x < 1.05:
        wide, high = rng.uniform(0.05, 0.16), rng.uniform(0.3, 1.0) * height
        look = facade_look(rng)
        corners = boxes(x, horizon - high, x + wide, horizon + 0.02)[0]
        paint_facade(rng, sheet, day, look, corners, (wide * 150, high * 150), rng.uniform(0.3, 0.9), distance)
        x += wide * rng.uniform(0.7, 1.3)


def _skyline(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """Rows of towers, behind a park or water."""
    horizon = min(horizon, 0.8)
    for distance, height in ((0.9, 0.3), (0.6, 0.5), (0.35, rng.uniform(0.45, 0.7))):
        _blocks(rng, sheet, day, horizon, distance=distance, height=height)
    if rng.uniform() < 0.4:
        _water(rng, sheet, day, horizon)
    else:
        _ground(rng, sheet, day, horizon)
        x = np.arange(-0.05, 1.05, rng.uniform(0.06, 0.2))
        feet = np.stack([x + rng.normal(0, 0.02, len(x)), horizon + rng.uniform(0.01, 0.06, len(x))], axis=1)
        plant(rng, sheet, day, "tree", feet, rng.uniform(0.06, 0.16, len(x)))


def _water(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """Water that mirrors what stands above the horizon."""
    size = sheet.size
    pixels = sheet.pixels()
    line = int(horizon * size)
    ripples = plane(rng, size, horizon, "soft", near=90, ratio=0.3)
    y = np.clip(2 * line - np.arange(size)[:, None] + ripples * 4, 0, max(line - 1, 0)).astype(int)
    mirrored = pixels[y, np.arange(size)] * np.float32(0.75) + ripples[..., None] * np.float32(0.06)
    tone = day.lit((0.22, 0.32, 0.36), 0.5)
    sheet.cover(mix(mirrored, tone, 0.3), sheet.area(under(np.full(2, horizon))))


def _house(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """A detached house with a gable roof in a garden."""
    horizon = min(horizon, 0.76)
    for _ in range(int(rng.integers(0, 7))):
        kind = "fir" if rng.uniform() < 0.3 else "tree"
        one(rng, sheet, day, kind, (rng.uniform(0, 1), horizon + 0.03), rng.uniform(0.2, 0.5), 0.4)
    _ground(rng, sheet, day, horizon, lawn=rng.uniform() < 0.7)
    for _ in range(int(rng.integers(1, 3))):
        _one_house(rng, sheet, day, horizon)
    _before(rng, sheet, day, horizon)


def _one_house(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    look = facade_look(rng, "punched")
    foot = horizon + rng.uniform(0.03, 0.14)
    left, wide, high = rng.uniform(0.02, 0.35), rng.uniform(0.4, 0.62), rng.uniform(0.2, 0.4)
    gable, share, slant = rng.uniform(0.12, 0.26), rng.uniform(0.35, 0.6), rng.uniform(-0.03, 0.03)
    top, split, right = foot - high, left + wide * share, left + wide
    ridge = (left + split) / 2
    metres = rng.uniform(9, 15)
    lit = day.side < 0
    front = np.array([[left, top], [split, top], [split, foot], [left, foot + slant]])
    flank = np.array([[split, top], [right, top + 0.02], [right, foot - 0.02], [split, foot]])
    storeys = metres * high / wide * 1.2
    paint_facade(rng, sheet, day, look, front, (metres * share, storeys), 0.95 if lit else 0.35)
    paint_facade(rng, sheet, day, look, flank, (metres * (1 - share), storeys), 0.3 if lit else 0.9)
    wall = day.lit(look.wall, 0.95 if lit else 0.35)
    sheet.polygon(np.array([[left, top], [ridge, top - gable], [split, top]]), wall)
    if rng.uniform() < 0.6:
        pane = boxes(ridge - 0.025, top - gable * 0.55, ridge + 0.025, top - gable * 0.2)[0]
        sheet.polygon(pane, day.lit(look.glass, 0.4))
    roof = near_colour(rng, SNOW if day.snow else ROOFS[int(rng.integers(4))])
    over = 0.03
    slope = [
        [split + over, top + over],
        [ridge, top - gable - 0.01],
        [right - wide * 0.12, top - gable + 0.01],
        [right + over, top + over],
    ]
    sheet.polygon(np.array(slope), day.lit(roof, 0.4 if lit else 0.9))
    eaves = np.array(
        [
            [[left - over, top + over], [ridge, top - gable - 0.01]],
            [[ridge, top - gable - 0.01], [split + over, top + over]],
        ]
    )
    sheet.lines(eaves, 0.018, day.lit(roof, 0.7))
    if rng.uniform() < 0.5:
        x = ridge + wide * rng.uniform(0.15, 0.35)
        sheet.polygon(boxes(x, top - gable - 0.07, x + 0.045, top - gable * 0.6)[0], day.lit((0.5, 0.32, 0.26), 0.5))


def _ground(rng: Rng, sheet: Sheet, day: Day, horizon: float, *, lawn: bool | None = None) -> None:
    """Pavement, lawn or snow in front."""
    lawn = bool(rng.uniform() < 0.3) if lawn is None else lawn
    colour: Colour = (0.30, 0.44, 0.18) if lawn else mix((0.34, 0.34, 0.35), (0.62, 0.59, 0.54), rng.uniform())
    if day.season in ("autumn", "winter") and lawn:
        colour = (0.42, 0.40, 0.22)
    field = np.asarray(near_colour(rng, SNOW if day.snow else colour))
    grain = plane(rng, sheet.size, horizon, "fine" if not lawn else "rough")
    pixels = day.lit(field, 0.75) * (1 + 0.12 * grain[..., None])
    sheet.cover(pixels.astype(np.float32), sheet.area(under(np.full(2, horizon))))


def _before(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """What may stand in front: trees, bushes, cars, people, a lamp."""
    for _ in range(int(rng.choice([0, 0, 1, 1, 2, 4]))):
        kind = "palm" if rng.uniform() < 0.08 else "tree"
        one(rng, sheet, day, kind, (rng.uniform(-0.05, 1.05), horizon + rng.uniform(0.05, 0.2)), rng.uniform(0.2, 0.55))
    for _ in range(int(rng.choice([0, 0, 0, 2, 4]))):
        half = (rng.uniform(0.05, 0.12), rng.uniform(0.03, 0.06))
        colour = SNOW if day.snow else (0.22, 0.34, 0.14)
        clumps(rng, sheet, day, (rng.uniform(0, 1), horizon + rng.uniform(0.06, 0.16)), half, colour, n=30)
    for _ in range(int(rng.choice([0, 0, 0, 1, 2]))):
        wide = rng.uniform(0.14, 0.26)
        car_side(rng, sheet, day, (rng.uniform(0, 1), min(horizon + rng.uniform(0.08, 0.2), 1.0)), wide)
    for _ in range(int(rng.choice([0, 0, 0, 2, 5]))):
        person(rng, sheet, day, (rng.uniform(0, 1), horizon + rng.uniform(0.05, 0.16)), rng.uniform(0.06, 0.12))


def car_side(rng: Rng, sheet: Sheet, day: Day, foot: tuple[float, float], wide: float) -> None:
    """A car seen from its side; `foot` is the middle of its wheels' line."""
    x, y = foot
    paint = near_colour(rng, PAINTS[int(rng.integers(len(PAINTS)))])
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


def person(rng: Rng, sheet: Sheet, day: Day, foot: tuple[float, float], height: float, distance: float = 0.0) -> None:
    """Somebody on foot."""
    x, y = foot
    coat, legs = near_colour(rng, PAINTS[int(rng.integers(len(PAINTS)))]), rng.uniform(0.08, 0.3, 3)
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


# Streets


@dataclass(frozen=True)
class Camera:
    """Looks along a street (z away from it, metres); the vanishing point is at `centre`."""

    centre: tuple[float, float]
    focal: float
    height: float

    def at(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 3) in metres, y up from the ground, as points (..., 2) of the picture."""
        out = np.array(points[..., :2], float)
        out[..., 1] = self.height - out[..., 1]
        return out * (self.focal / points[..., 2:]) + self.centre


def street(rng: Rng, size: int, day: Day) -> Sheet:
    """A street between two rows of houses, with what is on it."""
    lane = str(rng.choice(["town", "alley", "avenue"], p=[0.55, 0.2, 0.25]))
    half = float({"town": rng.uniform(4, 6), "alley": rng.uniform(1.6, 2.6), "avenue": rng.uniform(7, 11)}[lane])
    walk = float(rng.uniform(0.6, 1.2) if lane == "alley" else rng.uniform(2, 4.5))
    centre = (float(rng.normal(0.5, 0.14)), float(rng.uniform(0.42, 0.62)))
    height = float(rng.choice([rng.uniform(1.4, 2.2), rng.uniform(3, 7)], p=[0.75, 0.25]))
    camera = Camera(centre, float(rng.uniform(0.7, 1.15)), height)
    sheet = Sheet(size, paint_sky(rng, size, day, camera.centre[1]))
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


def _street_end(rng: Rng, sheet: Sheet, day: Day, camera: Camera, half: float) -> None:
    """Far houses, trees or hills where the street leads to."""
    y = camera.centre[1]
    if rng.uniform() < 0.35:
        hills = y - 0.02 - ridge_line(rng, 60) * rng.uniform(0.04, 0.16)
        sheet.polygon(under(hills), day.far(day.lit((0.30, 0.38, 0.28), 0.5), 0.8))
    if rng.uniform() < 0.75:
        _blocks(rng, sheet, day, y + 0.005, distance=0.75, height=rng.uniform(0.06, 0.2))
    for _ in range(int(rng.integers(0, 5))):
        one(rng, sheet, day, "tree", (camera.centre[0] + rng.normal(0, 0.12), y + 0.01), rng.uniform(0.05, 0.13), 0.7)


def _road(rng: Rng, sheet: Sheet, day: Day, camera: Camera, half: float, walk: float, lane: str) -> None:
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


def _markings(rng: Rng, sheet: Sheet, day: Day, camera: Camera, half: float) -> None:
    white = day.lit((0.86, 0.85, 0.8) if rng.uniform() < 0.8 else (0.85, 0.7, 0.2), 0.8) * rng.uniform(0.7, 1)
    lines = [0.0] if half < 7 else [-half / 2, 0.0, half / 2]
    dash = rng.uniform(2, 4)
    for x in lines:
        z = np.arange(1.2, 60, dash * 2)
        strips = np.stack([_flat(x - 0.09, a, x + 0.09, a + dash) for a in z])
        if rng.uniform() < 0.8:
            sheet.polygons(camera.at(strips), white)
    if rng.uniform() < 0.3:
        z = rng.uniform(3, 9)
        bars = np.stack([_flat(x, z, x + 0.5, z + 2.6) for x in np.arange(-half + 0.3, half - 0.3, 1.0)])
        sheet.polygons(camera.at(bars), white)


def _flat(x0: float, z0: float, x1: float, z1: float) -> np.ndarray:
    return np.array([[x0, 0, z0], [x1, 0, z0], [x1, 0, z1], [x0, 0, z1]])


def _row(rng: Rng, sheet: Sheet, day: Day, camera: Camera, x: float, tall: float, gap: float) -> None:
    """The houses of one side, the farthest first: the wall along the street and the one that faces us."""
    start, plots = rng.uniform(0.8, 3.5), []
    while start < 75:
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
            sheet.polygon(roof, day.far(day.lit(SNOW if day.snow else ROOFS[int(rng.integers(4))], 0.6), distance))


def _traffic(rng: Rng, sheet: Sheet, day: Day, camera: Camera, half: float, walk: float, lane: str) -> None:
    """Cars, people, trees and lamps, the farthest first."""
    things: list[tuple[float, str, float]] = []
    z = rng.uniform(5, 12)
    lined, parked = rng.uniform() < 0.45 and lane != "alley", rng.uniform() < 0.6 and lane != "alley"
    side_of_trees = rng.choice([-1, 1, 2])
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
    crowd = int(rng.choice([0, 2, 5, 14], p=[0.3, 0.35, 0.25, 0.1]))
    things += [
        (rng.uniform(5, 40), "person", rng.choice([-1, 1]) * rng.uniform(half * (lane != "alley"), reach))
        for _ in range(crowd)
    ]
    for z, what, x in sorted(things, reverse=True):
        foot = camera.at(np.array([x, 0, z]))
        if -0.2 < foot[0] < 1.2:
            _thing(rng, sheet, day, camera, what, x, z, foot)


def _thing(
    rng: Rng, sheet: Sheet, day: Day, camera: Camera, what: str, x: float, z: float, foot: np.ndarray
) -> None:  # fmt: skip
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


def _car(rng: Rng, sheet: Sheet, day: Day, camera: Camera, x: float, z: float, distance: float) -> None:
    """A car from behind or in front: shadow, flank, body, window, lights, wheels."""
    paint = near_colour(rng, PAINTS[int(rng.integers(len(PAINTS)))])
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


def _wires(rng: Rng, sheet: Sheet, camera: Camera, x: float, tall: float) -> None:
    for z in rng.uniform(4, 20, int(rng.integers(1, 4))):
        ends = camera.at(np.array([[-x, tall * 0.7, z], [x, tall * 0.65, z]]))
        t = np.linspace(0, 1, 9)[:, None]
        sheet.curve(ends[0] * (1 - t) + ends[1] * t + np.array([0, 0.16]) * t * (1 - t), 0.003, (0.1, 0.1, 0.12))
