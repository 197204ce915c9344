"""The scene `forest`: inside a wood, a path through it, its edge, a wooded slope, crowns from above."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.samples.scenes.land import lake, massif, meadow, range_line, wood_edge
from headstart.samples.scenes.painting import (
    Canvas,
    Rng,
    mix,
    near_colour,
    noise,
    pick,
    plane,
    ridge_line,
    slab,
    smooth,
    under,
)
from headstart.samples.scenes.plants import SNOW, bark_colour, blades, clumps, crowns, leaf_colour, one, plant
from headstart.samples.scenes.sky import Day, paint_sky


def forest(rng: Rng, size: int, day: Day) -> Canvas:
    """Inside a wood, at its edge, on a path through it, or over its crowns."""
    views = {"inside": 0.36, "path": 0.2, "edge": 0.18, "crowns": 0.12, "slope": 0.14}
    view = pick(rng, views)
    if view == "crowns":
        return _crowns(rng, size, day)
    if view == "edge":
        return _wood_from_outside(rng, size, day)
    if view == "slope":
        return _wooded_slope(rng, size, day)
    return _inside(rng, size, day, path=view == "path")


def _inside(rng: Rng, size: int, day: Day, *, path: bool) -> Canvas:
    """Trunks behind trunks, paler with distance, foliage above, litter below."""
    horizon = float(rng.uniform(0.45, 0.78))
    leaf, bark = leaf_colour(rng, day), bark_colour(rng)
    bare = day.season == "winter" or rng.uniform() < 0.12
    glow = paint_sky(rng, size, day, 1.0)
    foliage = noise(rng, size, "rough", span=rng.uniform(60, 160))
    depth = mix(glow, day.lit(leaf, 0.8), np.clip(0.55 + 0.35 * foliage, 0.1, 0.95) * (0.35 if bare else 0.85))
    sheet = Canvas(size, depth)
    _litter(rng, sheet, day, horizon, path=path)
    if path:
        _path(rng, sheet, day, horizon)
    firs = rng.uniform() < 0.3
    wood = _Wood(horizon=horizon, bark=bark, bare=bool(bare), firs=bool(firs), path=path)
    layers = int(rng.integers(3, 6))
    for i in range(layers):
        near = (i + 1) / layers
        distance = (1 - near) * 0.9
        _trunks(rng, sheet, day, wood, near, distance)
        if not bare and rng.uniform() < 0.75:
            _leaves(rng, sheet, day, near, distance, leaf, horizon)
    if not bare:
        for _ in range(int(rng.integers(0, 4))):
            half = (rng.uniform(0.08, 0.22), rng.uniform(0.05, 0.12))
            clumps(rng, sheet, day, (rng.uniform(0, 1), rng.uniform(0.85, 1.02)), half, leaf_colour(rng, day), n=50)
    if rng.uniform() < 0.3 and day.sky in ("clear", "fair", "sunset", "fog"):
        _beams(rng, sheet, day)
    return sheet


def _litter(rng: Rng, sheet: Canvas, day: Day, horizon: float, *, path: bool) -> None:
    size = sheet.size
    colours = {
        "spring": (0.34, 0.40, 0.16),
        "summer": (0.28, 0.34, 0.14),
        "autumn": (0.56, 0.34, 0.14),
        "winter": (0.36, 0.28, 0.2),
    }
    ground = np.asarray(SNOW) if day.snow else near_colour(rng, colours[day.season], 0.2)
    grain = plane(rng, size, horizon - 0.02, "fine", near=190)
    dapple = smooth(plane(rng, size, horizon - 0.02, "soft", near=140, ratio=2), -0.2, 0.9)
    pixels = day.lit(
        ground * (1 + (0.06 if day.snow else 0.24) * grain[..., None]), np.clip(0.15 + 0.75 * dapple, 0, 1)
    )
    line = horizon + 0.03 * (ridge_line(rng, 40) - 0.5)
    sheet.cover(pixels, sheet.area(under(line)))


def _path(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
    t = np.linspace(0, 1, 14)
    bend, goal = rng.normal(0, 0.25), rng.uniform(0.35, 0.65)
    middle = goal + (rng.uniform(0.3, 0.7) - goal) * t**1.5 + bend * t * (1 - t)
    half = 0.012 + rng.uniform(0.14, 0.34) * t**1.7
    y = horizon + 0.01 + (1.03 - horizon) * t
    outline = np.concatenate([np.stack([middle - half, y], axis=1), np.stack([middle + half, y], axis=1)[::-1]])
    earth = np.asarray(SNOW) * 0.9 if day.snow else near_colour(rng, (0.56, 0.46, 0.34), 0.2)
    grain = plane(rng, sheet.size, horizon, "fine")
    pixels = day.lit(earth * (1 + 0.12 * grain[..., None]), 0.6)
    sheet.cover(pixels, sheet.area(outline))


@dataclass(frozen=True, eq=False)
class _Wood:
    """What all layers of a wood have in common; `path`: one leads through it."""

    horizon: float
    bark: np.ndarray
    bare: bool
    firs: bool
    path: bool


def _trunks(rng: Rng, sheet: Canvas, day: Day, wood: _Wood, near: float, distance: float) -> None:
    """One layer: many thin ones far away, a few thick ones near."""
    horizon, bark, bare, firs = wood.horizon, wood.bark, wood.bare, wood.firs
    n = min(24, max(1, int(rng.uniform(5, 11) / near**1.3)))
    foot = horizon + (1.0 - horizon) * near**2.2 * rng.uniform(0.5, 0.95)
    thick = 0.008 + 0.075 * near**2 * rng.uniform(0.6, 1.5)
    x = rng.uniform(-0.05, 1.05, n)
    if wood.path:
        x = x[np.abs(x - 0.5) > 0.1 + 0.2 * near]
    feet = np.stack([x, foot + rng.normal(0, 0.012, len(x))], axis=1)
    if (firs and near < 0.75) or (bare and near < 0.9 and rng.uniform() < 0.5):
        heights = rng.uniform(0.6, 1.1, len(x)) * (0.35 + near)
        plant(rng, sheet, day, "fir" if firs else "bare", feet, heights, distance)
        return
    dark, bright = day.far(day.lit(bark, 0.2), distance), day.far(day.lit(bark, 0.9), distance)
    if thick < 0.025:
        widths = thick * rng.uniform(0.6, 1.3, len(feet))
        tops = feet * [1, 0] + np.stack([rng.normal(0, 0.05, len(feet)), np.full(len(feet), -0.1)], axis=1)
        strokes = np.stack([feet, tops], axis=1)
        sheet.lines(strokes, widths, dark)
        sheet.lines(
            strokes + np.stack([widths * 0.25 * day.side, widths * 0], axis=1)[:, None],
            widths / 2,
            mix(dark, bright, 0.8),
        )
        return
    for x, y in feet.tolist():
        _trunk(rng, sheet, day, (x, y), thick * rng.uniform(0.6, 1.3), rng.normal(0, 0.05), (dark, bright))


def _trunk(
    rng: Rng,
    sheet: Canvas,
    day: Day,
    foot: tuple[float, float],
    width: float,
    lean: float,
    colours: tuple[np.ndarray, np.ndarray],
) -> None:
    """One trunk: its dark and its lit half, streaks of bark, a few stubs of branches."""
    (x, y), (dark, bright) = foot, colours
    up = np.linspace(0, 1, 6)
    axis = x + lean * up + rng.normal(0, width * 0.12, 6)
    half = width / 2 * (1 + 0.7 * (1 - up) ** 6 - 0.35 * up)
    level = y + width * 0.2 - (y + 0.1) * up
    left, right = np.stack([axis - half, level], axis=1), np.stack([axis + half, level], axis=1)
    middle = np.stack([axis + half * 0.25 * -day.side, level], axis=1)
    sheet.polygon(np.concatenate([left, right[::-1]]), dark)
    edge = left if day.side < 0 else right
    sheet.polygon(np.concatenate([edge, middle[::-1]]), mix(dark, bright, 0.8))
    if width > 0.03:
        n = int(width * 500)
        at = rng.uniform(0, 1, n)
        where = np.interp(at, up, axis) + rng.uniform(-0.9, 0.9, n) * np.interp(at, up, half)
        streaks = np.stack(
            [np.stack([where, y - y * at], axis=1), np.stack([where, y - y * at - rng.uniform(0.02, 0.1, n)], axis=1)],
            axis=1,
        )
        sheet.lines(streaks, 0.004, mix(dark * 0.7, bright, rng.uniform(0, 0.8, n)))
    for _ in range(int(rng.integers(0, 4))):
        s, side = rng.uniform(0.4, 0.95), pick(rng, [-1, 1])
        start = np.array([np.interp(s, up, axis), y - (y + 0.1) * s])
        reach = np.array([side * rng.uniform(0.04, 0.16), -rng.uniform(0, 0.1)])
        sheet.lines(np.array([[start, start + reach]]), max(0.004, width * 0.2), dark)


def _leaves(rng: Rng, sheet: Canvas, day: Day, near: float, distance: float, leaf: np.ndarray, horizon: float) -> None:
    """Twigs full of leaves hanging in from above."""
    n = int(rng.uniform(60, 260))
    at = np.stack([rng.uniform(-0.02, 1.02, n), rng.beta(1.0, 2.4, n) * horizon * rng.uniform(0.7, 1.1)], axis=1)
    centres = rng.uniform(0, 1, (6, 2)) * [1, horizon * 0.7]
    pull = rng.uniform(0.2, 0.85, (n, 1))
    at = at * (1 - pull * 0.6) + centres[rng.integers(0, 6, n)] * pull * 0.6
    size = (0.008 + 0.022 * near) * rng.uniform(0.5, 1.4, (n, 2))
    shades = day.lit(leaf, rng.uniform(-0.2, 1.1, n)) * rng.uniform(0.75, 1.2, (n, 1))
    sheet.ellipses(at, size, day.far(shades, distance))


def _beams(rng: Rng, sheet: Canvas, day: Day) -> None:
    """Shafts of light through the crowns."""
    size = sheet.size
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    angle = np.arctan2(y + 0.3, x - day.sun[0])
    rays = np.interp(angle, np.linspace(0, np.pi, 60), np.clip(rng.normal(0, 1, 60), 0, 1))
    sheet.cover(mix(sheet.pixels(), mix(day.light, (1, 1, 1), 0.5), (0.3 * rays * (1 - 0.6 * y)).astype(np.float32)))


def _wood_from_outside(rng: Rng, size: int, day: Day) -> Canvas:
    """Trees across a meadow or a pond, filling most of the image."""
    horizon = float(rng.uniform(0.55, 0.85))
    sheet = Canvas(size, paint_sky(rng, size, day, horizon))
    if rng.uniform() < 0.3:
        massif(
            rng, sheet, day, range_line(rng, size, 0.15, 0.35), snow=rng.uniform(-0.1, 0.2), distance=0.75, woods=0.25
        )
    firs = pick(rng, [0.0, 0.3, 1.0])
    for i, distance in enumerate((0.75, 0.5, 0.25)):
        line = horizon - 0.05 + 0.03 * i + 0.02 * ridge_line(rng, 30)
        wood_edge(rng, sheet, day, line, rng.uniform(0.28, 0.55), distance=distance, dense=1.4, firs=firs)
    meadow(rng, sheet, day, horizon + 0.015 * ridge_line(rng, 30))
    if rng.uniform() < 0.25:
        lake(rng, sheet, day, horizon + 0.05)
    elif rng.uniform() < 0.5 and not day.snow:
        blades(rng, sheet, day, 0.9, leaf_colour(rng, day))
    for _ in range(pick(rng, [0, 1, 1, 2])):
        foot = (rng.uniform(0, 1), rng.uniform(horizon + 0.05, 1.0))
        one(rng, sheet, day, "fir" if firs > 0.5 else "tree", foot, rng.uniform(0.55, 0.95))
    return sheet


def _wooded_slope(rng: Rng, size: int, day: Day) -> Canvas:
    """A hillside full of trees, the lower ones in front."""
    top = float(rng.uniform(-0.1, 0.3))
    sheet = Canvas(size, paint_sky(rng, size, day, 0.5))
    firs = pick(rng, [0.0, 0.6, 1.0])
    tilt = rng.uniform(-0.3, 0.3)
    rows = 6
    for i in range(rows):
        share = (i + 1) / rows
        line = (
            top + (1.1 - top) * share + tilt * (np.linspace(0, 1, 40) - 0.5) * (1 - share) + 0.05 * ridge_line(rng, 40)
        )
        sheet.polygon(
            under(line - 0.06),
            day.far(day.lit((0.12, 0.17, 0.09) if not day.snow else (0.6, 0.62, 0.66), 0.2), 0.7 * (1 - share)),
        )
        wood_edge(rng, sheet, day, line, 0.17 + 0.2 * share, distance=0.7 * (1 - share), dense=1.3, firs=firs)
    return sheet


def _crowns(rng: Rng, size: int, day: Day) -> Canvas:
    """A wood from above: crowns packed side by side, perhaps a road or a river through them."""
    colours = np.array([leaf_colour(rng, day) for _ in range(4)])
    floor = day.lit(colours[0] * 0.55, 0.25) * (1 + 0.2 * slab(rng, size, "rough")[..., None])
    sheet = Canvas(size, floor)
    scale, tilt = rng.uniform(0.045, 0.085), rng.uniform(0, 0.6)
    y = np.cumsum(np.full(60, scale) * (1 - tilt * np.linspace(1, 0, 60))) * 0.8 - 0.05
    radii = scale * (1 - tilt * np.clip(1 - y, 0, 1)) * 0.9
    rows = [
        (np.arange(-0.05, 1.08, r * 1.2) + rng.normal(0, r * 0.3), level, r)
        for level, r in zip(y, radii, strict=True)
        if level < 1.08
    ]
    places = np.concatenate(
        [np.stack([x, level + rng.normal(0, r * 0.25, len(x)), np.full(len(x), r)], axis=1) for x, level, r in rows]
    )
    m = len(places)
    tints = colours[rng.integers(0, 4, m)] * rng.uniform(0.75, 1.2, (m, 1))
    halves = places[:, 2:] * rng.uniform(0.8, 1.2, (m, 2))
    crowns(
        rng,
        sheet,
        day,
        places[:, :2],
        halves,
        tints,
        np.clip(1 - places[:, 1], 0, 1) * 0.4,
        int(np.clip(3500 / m, 7, 26)),
    )
    if rng.uniform() < 0.35:
        t = np.linspace(-0.05, 1.05, 30)
        bend = (
            rng.uniform(0.2, 0.8)
            + 0.18 * np.sin(t * rng.uniform(2, 7) + rng.uniform(0, 6))
            + (t - 0.5) * rng.normal(0, 0.5)
        )
        way = (0.5, 0.48, 0.44) if rng.uniform() < 0.5 else (0.2, 0.34, 0.38)
        sheet.curve(np.stack([bend, t], axis=1), rng.uniform(0.03, 0.09), day.lit(way, 0.7))
    return sheet
