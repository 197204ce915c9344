"""The scene `buildings`: blocks seen at an edge, fronts, towers, skylines, houses with a garden."""

from __future__ import annotations

import numpy as np

from headstart.samples.scenes.facades import ROOFS, car_side, facade_look, far_blocks, paint_facade, person
from headstart.samples.scenes.painting import Canvas, Colour, Rng, boxes, mix, near_colour, pick, plane, under
from headstart.samples.scenes.plants import SNOW, clumps, one, plant
from headstart.samples.scenes.sky import Day, paint_sky


def buildings(rng: Rng, size: int, day: Day) -> Canvas:
    """One or several buildings, the subject of the image."""
    views = {"corner": 0.34, "front": 0.16, "towers": 0.2, "skyline": 0.12, "house": 0.18}
    view = pick(rng, views)
    horizon = float(rng.uniform(0.62, 0.9))
    sheet = Canvas(size, paint_sky(rng, size, day, horizon))
    if view == "house":
        _house(rng, sheet, day, horizon)
    elif view == "front":
        _front(rng, sheet, day)
    elif view == "skyline":
        _skyline(rng, sheet, day, horizon)
    else:
        if rng.uniform() < 0.6:
            far_blocks(rng, sheet, day, horizon, distance=0.7, height=0.35)
        _ground(rng, sheet, day, horizon)
        for _ in range(1 if view == "corner" else int(rng.integers(2, 5))):
            _corner(rng, sheet, day, horizon, tower=view == "towers")
        _before(rng, sheet, day, horizon)
    return sheet


def _corner(rng: Rng, sheet: Canvas, day: Day, horizon: float, *, tower: bool) -> None:
    """A block seen at its edge, in two-point perspective; the higher, the more its verticals lean together."""
    look = facade_look(rng, "" if not tower else pick(rng, ["curtain", "ribbon", "punched", "balcony"]))
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


def _roof(rng: Rng, sheet: Canvas, day: Day, left: np.ndarray, right: np.ndarray, horizon: float) -> None:
    colour = SNOW if day.snow else near_colour(rng, pick(rng, ROOFS))
    rise = np.array([0, -rng.uniform(0.05, 0.14)])
    inner = left[1] * 0.5 + (left[0] + right[1]) * 0.25 + rise
    for a, b, amount in ((left[0], left[1], day.side < 0), (right[0], right[1], day.side > 0)):
        slope = np.array([a, b, b * 0.3 + inner * 0.7, a * 0.3 + inner * 0.7])
        sheet.polygon(slope, day.lit(colour, 0.8 if amount else 0.2))


def _front(rng: Rng, sheet: Canvas, day: Day) -> None:
    """A facade, or two or three side by side, that nearly fill the image."""
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


def _skyline(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
    """Rows of towers, behind a park or water."""
    horizon = min(horizon, 0.8)
    for distance, height in ((0.9, 0.3), (0.6, 0.5), (0.35, rng.uniform(0.45, 0.7))):
        far_blocks(rng, sheet, day, horizon, distance=distance, height=height)
    if rng.uniform() < 0.4:
        _water(rng, sheet, day, horizon)
    else:
        _ground(rng, sheet, day, horizon)
        x = np.arange(-0.05, 1.05, rng.uniform(0.06, 0.2))
        feet = np.stack([x + rng.normal(0, 0.02, len(x)), horizon + rng.uniform(0.01, 0.06, len(x))], axis=1)
        plant(rng, sheet, day, "tree", feet, rng.uniform(0.06, 0.16, len(x)))


def _water(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
    """Water that mirrors what stands above the horizon."""
    size = sheet.size
    pixels = sheet.pixels()
    line = int(horizon * size)
    ripples = plane(rng, size, horizon, "soft", near=90, ratio=0.3)
    y = np.clip(2 * line - np.arange(size)[:, None] + ripples * 4, 0, max(line - 1, 0)).astype(int)
    mirrored = pixels[y, np.arange(size)] * np.float32(0.75) + ripples[..., None] * np.float32(0.06)
    tone = day.lit((0.22, 0.32, 0.36), 0.5)
    sheet.cover(mix(mirrored, tone, 0.3), sheet.area(under(np.full(2, horizon))))


def _house(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
    """A detached house with a gable roof in a garden."""
    horizon = min(horizon, 0.76)
    for _ in range(int(rng.integers(0, 7))):
        kind = "fir" if rng.uniform() < 0.3 else "tree"
        one(rng, sheet, day, kind, (rng.uniform(0, 1), horizon + 0.03), rng.uniform(0.2, 0.5), 0.4)
    _ground(rng, sheet, day, horizon, lawn=rng.uniform() < 0.7)
    for _ in range(int(rng.integers(1, 3))):
        _one_house(rng, sheet, day, horizon)
    _before(rng, sheet, day, horizon)


def _one_house(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
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
    roof = near_colour(rng, SNOW if day.snow else pick(rng, ROOFS))
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


def _ground(rng: Rng, sheet: Canvas, day: Day, horizon: float, *, lawn: bool | None = None) -> None:
    """Pavement, lawn or snow in front."""
    lawn = bool(rng.uniform() < 0.3) if lawn is None else lawn
    colour: Colour = (0.30, 0.44, 0.18) if lawn else mix((0.34, 0.34, 0.35), (0.62, 0.59, 0.54), rng.uniform())
    if day.season in ("autumn", "winter") and lawn:
        colour = (0.42, 0.40, 0.22)
    field = np.asarray(near_colour(rng, SNOW if day.snow else colour))
    grain = plane(rng, sheet.size, horizon, "fine" if not lawn else "rough")
    pixels = day.lit(field, 0.75) * (1 + 0.12 * grain[..., None])
    sheet.cover(pixels.astype(np.float32), sheet.area(under(np.full(2, horizon))))


def _before(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
    """What may stand in front: trees, bushes, cars, people, a lamp."""
    for _ in range(pick(rng, [0, 0, 1, 1, 2, 4])):
        kind = "palm" if rng.uniform() < 0.08 else "tree"
        one(rng, sheet, day, kind, (rng.uniform(-0.05, 1.05), horizon + rng.uniform(0.05, 0.2)), rng.uniform(0.2, 0.55))
    for _ in range(pick(rng, [0, 0, 0, 2, 4])):
        half = (rng.uniform(0.05, 0.12), rng.uniform(0.03, 0.06))
        colour = SNOW if day.snow else (0.22, 0.34, 0.14)
        clumps(rng, sheet, day, (rng.uniform(0, 1), horizon + rng.uniform(0.06, 0.16)), half, colour, n=30)
    for _ in range(pick(rng, [0, 0, 0, 1, 2])):
        wide = rng.uniform(0.14, 0.26)
        car_side(rng, sheet, day, (rng.uniform(0, 1), min(horizon + rng.uniform(0.08, 0.2), 1.0)), wide)
    for _ in range(pick(rng, [0, 0, 0, 2, 5])):
        person(rng, sheet, day, (rng.uniform(0, 1), horizon + rng.uniform(0.05, 0.16)), rng.uniform(0.06, 0.12))
