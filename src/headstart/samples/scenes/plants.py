"""Trees and bushes of rendered scenes: crowns of leaf clumps, firs, bare fractal trees, palms, grass.

Trees are drawn many at a time: N of a kind in one call, those with the higher foot first. 0.1 to 0.3 ms per tree.
"""

from __future__ import annotations

import numpy as np

from headstart.samples.scenes.painting import Canvas, Colour, Rng, mix, near_colour, pick
from headstart.samples.scenes.sky import Day

LEAVES = {
    "spring": ((0.42, 0.58, 0.20), (0.55, 0.66, 0.30), (0.30, 0.48, 0.16), (0.86, 0.70, 0.74)),
    "summer": ((0.20, 0.38, 0.12), (0.30, 0.47, 0.16), (0.16, 0.30, 0.12), (0.38, 0.46, 0.20)),
    "autumn": ((0.72, 0.42, 0.12), (0.62, 0.24, 0.10), (0.80, 0.62, 0.18), (0.40, 0.38, 0.14)),
    "winter": ((0.30, 0.32, 0.18), (0.36, 0.30, 0.22), (0.22, 0.30, 0.18), (0.42, 0.40, 0.32)),
}
BARK = ((0.28, 0.21, 0.15), (0.36, 0.30, 0.24), (0.22, 0.19, 0.17), (0.45, 0.40, 0.34))
SNOW = (0.93, 0.95, 0.98)


def leaf_colour(rng: Rng, day: Day) -> np.ndarray:
    """The colour of one tree in this season."""
    return near_colour(rng, pick(rng, LEAVES[day.season]), 0.1)


def bark_colour(rng: Rng) -> np.ndarray:
    """The colour of one trunk."""
    return near_colour(rng, BARK[int(rng.integers(4))], 0.1)


def plant(
    rng: Rng, sheet: Canvas, day: Day, kind: str, feet: np.ndarray, heights: np.ndarray, distance: float = 0.0
) -> None:
    """Trees of a kind ('tree', 'fir', 'bare') on feet (N, 2), of heights (N,); `distance` 0 to 1 is for the haze."""
    if not len(feet):
        return
    order = np.argsort(feet[:, 1])
    feet, heights = feet[order], heights[order]
    bare = day.season == "winter" or (day.season == "autumn" and rng.uniform() < 0.15)
    if kind == "fir":
        firs(rng, sheet, day, feet, heights, distance)
    elif kind == "bare" or bare:
        bare_trees(rng, sheet, day, feet, heights, distance)
    else:
        trees(rng, sheet, day, feet, heights, distance)


def one(
    rng: Rng, sheet: Canvas, day: Day, kind: str, foot: tuple[float, float], height: float, distance: float = 0.0
) -> None:
    """Like `plant`, for a single tree or a 'palm'."""
    if kind == "palm":
        palm(rng, sheet, day, foot, height, distance)
    else:
        plant(rng, sheet, day, kind, np.array([foot]), np.array([height]), distance)


def trees(rng: Rng, sheet: Canvas, day: Day, feet: np.ndarray, heights: np.ndarray, distance: float) -> None:
    """Broad-leaved trees."""
    n = len(feet)
    bark = day.far(day.lit(bark_colour(rng), 0.3), distance)
    crown = heights * rng.uniform(0.55, 0.8, n)
    middles = feet - np.stack([rng.normal(0, 0.02, n) * heights, heights - crown / 2], axis=1)
    halves = np.stack([crown * rng.uniform(0.35, 0.62, n), crown / 2], axis=1)
    forks = feet + (middles - feet) * 0.5
    left, right = (middles + halves * [s * 0.6, 0] for s in (-1, 1))
    limbs = [np.stack(ends, axis=1) for ends in ((feet, middles), (forks, left), (forks, right))]
    thick = heights * rng.uniform(0.05, 0.09, n)
    sheet.lines(np.concatenate(limbs), np.concatenate([thick, thick / 2, thick / 2]), bark)
    colours = np.array([leaf_colour(rng, day) for _ in range(min(n, 6))])[rng.integers(0, min(n, 6), n)]
    detail = int(np.clip(30 + 260 * heights.max(), 40, 170) if n < 12 else np.clip(500 / n, 14, 45))
    crowns(rng, sheet, day, middles, halves, colours, distance, detail)


def crowns(
    rng: Rng,
    sheet: Canvas,
    day: Day,
    centres: np.ndarray,
    halves: np.ndarray,
    colours: np.ndarray,
    distance: float | np.ndarray = 0.0,
    n: int = 60,
) -> None:
    """Leaf clumps, n in each of the ellipses (M, 2), brighter where they are turned to the light, the brightest last."""
    m = len(centres)
    angle, radius = rng.uniform(0, 2 * np.pi, (m, n)), np.sqrt(rng.uniform(0, 1.1, (m, n)))
    lobes = 1 + 0.18 * np.sin(angle * rng.integers(2, 6, (m, 1)) + rng.uniform(0, 6, (m, 1)))
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=2) * (radius * lobes)[..., None]
    facing = (unit[..., 0] * day.side * 0.6 - unit[..., 1] * 0.8 + 1) / 2 + rng.normal(0, 0.16, (m, n))
    order = np.argsort(facing, axis=1)
    facing = np.take_along_axis(facing, order, axis=1)
    unit = np.take_along_axis(unit, order[..., None], axis=1)
    grain = 1.5 / np.sqrt(n)
    size = rng.uniform(0.5, 1.2, (m, n, 2)) * grain * np.minimum(halves[:, 0], halves[:, 1])[:, None, None]
    shades = np.asarray(colours)[:, None] * mix(day.shadow, day.light, np.clip(facing * 1.2 - 0.15, -0.2, 1.1))
    shades = shades * rng.uniform(0.85, 1.15, (m, n, 1))
    if day.snow:
        shades = mix(shades, day.lit(SNOW, 0.8), np.clip(facing * 2 - 1.1, 0, 0.9))
    places = centres[:, None] + unit * halves[:, None]
    far = np.broadcast_to(np.asarray(distance, float).reshape(-1, 1), (m, n))
    shades = day.far(shades, far)
    sheet.ellipses(places.reshape(-1, 2), size.reshape(-1, 2), shades.reshape(-1, 3))


def clumps(
    rng: Rng,
    sheet: Canvas,
    day: Day,
    centre: tuple[float, float],
    half: tuple[float, float],
    colour: Colour,
    distance: float = 0.0,
    n: int = 70,
) -> None:
    """One crown or bush."""
    crowns(rng, sheet, day, np.array([centre]), np.array([half]), np.array([colour]), distance, n)


def bare_trees(rng: Rng, sheet: Canvas, day: Day, feet: np.ndarray, heights: np.ndarray, distance: float = 0.0) -> None:
    """Fractal trees: each branch forks in two, shorter and thinner, at random angles."""
    n = len(feet)
    depth = 6 if n < 4 else 5 if n < 10 else 4
    colour = day.far(day.lit(bark_colour(rng), 0.25), distance)
    start, angle = feet, -np.pi / 2 + rng.normal(0, 0.06, n)
    length, width = heights * 0.3, heights * rng.uniform(0.03, 0.06)
    spread = rng.uniform(0.3, 0.6)
    strokes, widths = [], []
    for _ in range(depth + 1):
        reach = length * rng.uniform(0.7, 1.25, len(start))
        ends = start + reach[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        strokes.append(np.stack([start, ends], axis=1))
        widths.append(width)
        start, length, width = (np.repeat(x, 2, axis=0) for x in (ends, length * 0.74, width * 0.64))
        angle = np.repeat(angle, 2) + np.tile([-1.0, 1.0], len(ends)) * spread + rng.normal(0, 0.2, len(start))
        angle -= 0.08 * (np.pi / 2 + angle)
    branches, thick = np.concatenate(strokes), np.concatenate(widths)
    sheet.lines(branches, thick, colour)
    if day.snow:
        laden = thick > 0.004
        white = day.far(day.lit(SNOW), distance)
        sheet.lines(
            branches[laden] - np.stack([thick[laden] * 0, thick[laden] / 2], axis=1)[:, None], thick[laden] / 3, white
        )


def firs(rng: Rng, sheet: Canvas, day: Day, feet: np.ndarray, heights: np.ndarray, distance: float = 0.0) -> None:
    """Conifers: tiers of branches, light on one side, snow on them in a snowy winter."""
    n = len(feet)
    tiers = int(np.clip(4 + heights.mean() * 22, 5, 14)) if n < 12 else 5
    level = (np.arange(tiers)[::-1]) / tiers
    half = heights * rng.uniform(0.15, 0.26, n)
    reach = half[:, None] * (level + 1 / tiers) * rng.uniform(0.75, 1.2, (n, tiers))
    drop = feet[:, 1:] - heights[:, None] * (0.94 * (1 - level) - 0.9 / tiers)
    drop = drop + rng.normal(0, 0.012, (n, tiers)) * heights[:, None]
    apex = np.maximum(drop - heights[:, None] * (1.5 / tiers + 0.06), feet[:, 1:] - heights[:, None])
    x = np.broadcast_to(feet[:, :1], (n, tiers))
    triangles = np.empty((n, tiers, 2, 3, 2))
    triangles[:, :, :, 0] = np.stack([x, apex], axis=2)[:, :, None]
    triangles[:, :, 0, 1] = np.stack([x - reach, drop], axis=2)
    triangles[:, :, 1, 1] = np.stack([x + reach, drop * 0.999], axis=2)
    triangles[:, :, :, 2] = np.stack([x, drop - heights[:, None] * 0.03], axis=2)[:, :, None]
    colours = np.array(near_colour(rng, (0.13, 0.25, 0.15), 0.15)) * rng.uniform(0.8, 1.25, (n, 1, 1, 1))
    amount = np.array([0.85, 0.15] if day.side < 0 else [0.15, 0.85]) + rng.normal(0, 0.12, (n, tiers, 2))
    shades = colours * mix(day.shadow, day.light, np.clip(amount, 0, 1))
    if day.snow:
        shades = mix(shades, day.lit(SNOW, 0.75), np.clip(rng.uniform(-0.2, 0.75, (n, tiers, 2)), 0, 1))
    stems = np.stack([feet, feet - np.stack([heights * 0, heights * 0.3], axis=1)], axis=1)
    sheet.lines(stems, heights * 0.04, day.far(day.lit(BARK[0], 0.2), distance))
    sheet.polygons(triangles.reshape(-1, 3, 2), day.far(shades, distance).reshape(-1, 3))


def palm(rng: Rng, sheet: Canvas, day: Day, foot: tuple[float, float], height: float, distance: float = 0.0) -> None:
    """A leaning palm."""
    x, y = foot
    t = np.linspace(0, 1, 8)
    lean = rng.normal(0, 0.25) * height
    trunk = np.stack([x + lean * t**2, y - height * t], axis=1)
    sheet.curve(trunk, height * 0.04, day.far(day.lit((0.42, 0.34, 0.26), 0.4), distance))
    colour = near_colour(rng, (0.24, 0.40, 0.16), 0.15)
    for angle in np.linspace(-0.3, np.pi + 0.3, 9) + rng.normal(0, 0.15, 9):
        reach = height * rng.uniform(0.32, 0.48)
        s = np.linspace(0, 1, 6)
        frond = trunk[-1] + np.stack(
            [np.cos(angle) * reach * s, (s**2 * 0.55 - np.sin(angle) * s * 0.8) * reach], axis=1
        )
        back = frond[::-1] + np.array([0, height * 0.06]) * (1 - s[::-1, None]) * (s[::-1, None] > 0)
        light = day.lit(colour, rng.uniform(0.1, 0.9))
        sheet.polygon(np.concatenate([frond, back]), day.far(light, distance))


def blades(rng: Rng, sheet: Canvas, day: Day, line: float, colour: Colour, n: int = 120, height: float = 0.06) -> None:
    """Grass or reeds at the lower edge, from the height `line` downwards."""
    feet = np.stack([rng.uniform(-0.05, 1.05, n), rng.uniform(line, 1.08, n)], axis=1)
    feet = feet[np.argsort(feet[:, 1])]
    tips = feet - np.stack([rng.normal(0, 0.25, n), rng.uniform(0.5, 1.3, n)], axis=1) * height
    shades = day.lit(colour, rng.uniform(0, 1, n)) * rng.uniform(0.8, 1.2, (n, 1))
    sheet.lines(np.stack([feet, tips], axis=1), 0.004, shades)
