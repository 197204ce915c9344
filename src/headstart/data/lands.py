"""Rendered scenes of nature: `forest`, `glacier`, `mountain`, `sea`.

They share water, snow, rock, ridges and trees on purpose: colours alone must not tell them apart. 4 to 9 ms a picture
at 150 pixels.
"""

from __future__ import annotations

import numpy as np

from headstart.data.painting import (
    Rng,
    Sheet,
    mix,
    near_colour,
    noise,
    plane,
    ridge_line,
    sampled,
    slab,
    smooth,
    under,
)
from headstart.data.plants import SNOW, bark_colour, blades, clumps, crowns, leaf_colour, one, plant
from headstart.data.sky import Day, paint_sky

ROCKS = ((0.40, 0.37, 0.35), (0.34, 0.30, 0.27), (0.48, 0.42, 0.36), (0.30, 0.32, 0.35), (0.46, 0.34, 0.28))


# Shared


def slope(
    rng: Rng, size: int, line: np.ndarray, *, coarse: float = 1.0, steep: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Relief below a ridge: (height below it, light on it), each float32 (size, size); the light has mean 0.

    Noise is read along the ridge, so that gullies and ribs run down from its peaks. Broad flanks are lit or in the
    shade as a whole (after the slope of the ridge itself), ribs within them less so.
    """
    y, x = _axes(size)
    below = y - line.astype(np.float32)
    lean = rng.uniform(-0.9, 0.9)
    u = (x + below * lean) * (150 * coarse)
    v = below * (100 * coarse / steep)
    ribs, broad = sampled(rng, "ridge", u, v), sampled(rng, "hills", u * 0.8, v * 0.8)
    fine = sampled(rng, "rough", u * 1.5, v * 1.5)
    step, wide = max(1, size // 75), max(3, size // 16)
    light = 0.5 * (ribs - np.roll(ribs, step, axis=1)) + 0.35 * (fine - np.roll(fine, step, axis=1))
    light += 2.2 * (broad - np.roll(broad, wide, axis=1))
    flank = np.gradient(np.convolve(line, np.ones(wide) / wide, mode="same")) * size
    light -= np.clip(flank, -1, 1).astype(np.float32) * np.exp(-below * 4)
    return below, light


def _axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """float32: y (size, 1) and x (size,) of the pixels' centres, in units of the side."""
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    return x[:, None], x


def massif(
    rng: Rng, sheet: Sheet, day: Day, line: np.ndarray, *, snow: float, distance: float, woods: float = 2.0,
    bottom: float = 1.02,
) -> None:  # fmt: skip
    """A mountain below its ridge line (size,): rock, snow above `snow` (in units below the peak), woods below `woods`."""
    size = sheet.size
    below, light = slope(rng, size, line, coarse=rng.uniform(0.5, 1.1), steep=rng.uniform(1.0, 2.5))
    height = _axes(size)[0] - np.float32(line.min())
    amount = 0.5 - day.side * 0.36 * light + rng.normal(0, 0.08)
    rough = noise(rng, size, "rough", span=200)
    rock = near_colour(rng, ROCKS[int(rng.integers(len(ROCKS)))], 0.12)
    green = leaf_colour(rng, day) * 0.7
    lower = smooth(height + 0.05 * rough, woods, woods + 0.1)
    white = smooth(snow - height + 0.08 * rough + 0.05 * light, -0.03, 0.05)
    bare = (1 - lower) * (1 - white) * (1 + 0.13 * rough)
    wood = lower * (1 - white) * (1 + 0.22 * slab(rng, size, "fine"))
    haze = np.clip(distance - 0.3 * distance * below, 0, 1)
    pixels = day.seen([(bare, rock), (wood, green), (white, SNOW)], amount, haze)
    sheet.cover(pixels, sheet.area(under(line, bottom)))


def range_line(rng: Rng, size: int, top: float, height: float, *, roughness: float | None = None) -> np.ndarray:
    """A ridge (size,) between `top` and `top + height`."""
    rough = rng.uniform(0.42, 0.62) if roughness is None else roughness
    return top + (1 - ridge_line(rng, size, roughness=rough)) * height


def lake(rng: Rng, sheet: Sheet, day: Day, level: float, *, ripple: float | None = None) -> None:
    """Still or ruffled water below `level` that mirrors what is painted above it."""
    size = sheet.size
    pixels = sheet.pixels()
    line = max(2, int(level * size))
    rough = rng.uniform(0, 1) if ripple is None else ripple
    waves = plane(rng, size, level, "soft", near=100, ratio=0.35)
    drift = waves * (1 + 7 * rough) + 2 * line - np.arange(size, dtype=np.float32)[:, None]
    row = np.clip(np.abs(drift), 0, line - 1).astype(int)
    column = np.clip(np.arange(size) + waves * 2 * rough, 0, size - 1).astype(int)
    mirrored = pixels[row, column]
    tone = day.lit(near_colour(rng, (0.16, 0.34, 0.38), 0.25), 0.5)
    water = mix(mirrored * np.float32(0.85), tone, 0.25 + 0.5 * rough)
    water = water + (0.07 * rough) * waves[..., None]
    shore = level + 0.004 * np.sin(np.linspace(0, rng.uniform(5, 30), 40))
    sheet.cover(water, sheet.area(under(shore)))


def meadow(rng: Rng, sheet: Sheet, day: Day, line: np.ndarray) -> None:
    """Grass, heath or snow below a line, with the light and shade of a rolling ground."""
    size = sheet.size
    colour = near_colour(
        rng, {"spring": (0.40, 0.54, 0.20), "summer": (0.40, 0.48, 0.20)}.get(day.season, (0.54, 0.46, 0.26)), 0.15
    )
    ground = np.asarray(SNOW) if day.snow else colour
    top = float(line.min())
    grain = plane(rng, size, top - 0.03, "rough", near=170) * (0.05 if day.snow else 0.16)
    swell = noise(rng, size, "soft", span=120, stretch=3)
    pixels = day.lit(ground * (1 + grain[..., None]), np.clip(0.7 + 0.2 * swell, 0, 1))
    sheet.cover(pixels, sheet.area(under(line)))


def wood_edge(
    rng: Rng, sheet: Sheet, day: Day, line: np.ndarray, height: float, *, distance: float = 0.3, dense: float = 1.0,
    firs: float | None = None,
) -> None:  # fmt: skip
    """A row of trees whose feet stand on a line."""
    share = float(rng.choice([0.0, 0.5, 1.0])) if firs is None else firs
    x = np.cumsum(height * rng.uniform(0.2, 0.5, int(np.clip(3.4 * dense / height, 3, 40))) / dense) - 0.1
    x = x[x < 1.08]
    feet = np.stack([x, np.interp(x, np.linspace(0, 1, len(line)), line) + rng.uniform(0, 0.015, len(x))], axis=1)
    heights = height * rng.uniform(0.6, 1.25, len(x))
    needles = rng.uniform(0, 1, len(x)) < share
    plant(rng, sheet, day, "tree", feet[~needles], heights[~needles], distance)
    plant(rng, sheet, day, "fir", feet[needles], heights[needles], distance)


# Forest


def forest(rng: Rng, size: int, day: Day) -> Sheet:
    """Inside a wood, at its edge, on a path through it, or over its crowns."""
    views = {"inside": 0.36, "path": 0.2, "edge": 0.18, "crowns": 0.12, "slope": 0.14}
    view = str(rng.choice(list(views), p=list(views.values())))
    if view == "crowns":
        return _crowns(rng, size, day)
    if view == "edge":
        return _wood_from_outside(rng, size, day)
    if view == "slope":
        return _wooded_slope(rng, size, day)
    return _inside(rng, size, day, path=view == "path")


def _inside(rng: Rng, size: int, day: Day, *, path: bool) -> Sheet:
    """Trunks behind trunks, paler with distance, foliage above, litter below."""
    horizon = float(rng.uniform(0.45, 0.78))
    leaf, bark = leaf_colour(rng, day), bark_colour(rng)
    bare = day.season == "winter" or rng.uniform() < 0.12
    glow = paint_sky(rng, size, day, 1.0)
    foliage = noise(rng, size, "rough", span=rng.uniform(60, 160))
    depth = mix(glow, day.lit(leaf, 0.8), np.clip(0.55 + 0.35 * foliage, 0.1, 0.95) * (0.35 if bare else 0.85))
    sheet = Sheet(size, depth)
    _litter(rng, sheet, day, horizon, path=path)
    if path:
        _path(rng, sheet, day, horizon)
    firs = rng.uniform() < 0.3
    layers = int(rng.integers(3, 6))
    for i in range(layers):
        near = (i + 1) / layers
        distance = (1 - near) * 0.9
        _trunks(rng, sheet, day, horizon, near, distance, bark, bare=bare, firs=firs, path=path)
        if not bare and rng.uniform() < 0.75:
            _leaves(rng, sheet, day, near, distance, leaf, horizon)
    if not bare:
        for _ in range(int(rng.integers(0, 4))):
            half = (rng.uniform(0.08, 0.22), rng.uniform(0.05, 0.12))
            clumps(rng, sheet, day, (rng.uniform(0, 1), rng.uniform(0.85, 1.02)), half, leaf_colour(rng, day), n=50)
    if rng.uniform() < 0.3 and day.sky in ("clear", "fair", "sunset", "fog"):
        _beams(rng, sheet, day)
    return sheet


def _litter(rng: Rng, sheet: Sheet, day: Day, horizon: float, *, path: bool) -> None:
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


def _path(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
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


def _trunks(
    rng: Rng, sheet: Sheet, day: Day, horizon: float, near: float, distance: float, bark: np.ndarray, *,
    bare: bool, firs: bool, path: bool,
) -> None:  # fmt: skip
    """One layer: many thin ones far away, a few thick ones near."""
    n = min(24, max(1, int(rng.uniform(5, 11) / near**1.3)))
    foot = horizon + (1.0 - horizon) * near**2.2 * rng.uniform(0.5, 0.95)
    thick = 0.008 + 0.075 * near**2 * rng.uniform(0.6, 1.5)
    x = rng.uniform(-0.05, 1.05, n)
    if path:
        x = x[np.abs(x - 0.5) > 0.1 + 0.2 * near]
    feet = np.stack([x, foot + rng.normal(0, 0.012, len(x))], axis=1)
    if (firs and near < 0.75) or (bare and near < 0.9 and rng.uniform() < 0.5):
        heights = rng.uniform(0.6, 1.1, len(x)) * (0.35 + near)
        plant(rng, sheet, day, "fir" if firs else "bare", feet, heights, distance)
        return
    dark, bright = day.far(day.lit(bark, 0.2), distance), day.far(day.lit(bark, 0.9), distance)
    for x, y in feet.tolist():
        _trunk(rng, sheet, day, x, y, thick * rng.uniform(0.6, 1.3), rng.normal(0, 0.05), dark, bright)


def _trunk(
    rng: Rng,
    sheet: Sheet,
    day: Day,
    x: float,
    y: float,
    width: float,
    lean: float,
    dark: np.ndarray,
    bright: np.ndarray,
) -> None:
    """One trunk: its dark and its lit half, streaks of bark, a few stubs of branches."""
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
        s, side = rng.uniform(0.4, 0.95), rng.choice([-1, 1])
        start = np.array([np.interp(s, up, axis), y - (y + 0.1) * s])
        reach = np.array([side * rng.uniform(0.04, 0.16), -rng.uniform(0, 0.1)])
        sheet.lines(np.array([[start, start + reach]]), max(0.004, width * 0.2), dark)


def _leaves(rng: Rng, sheet: Sheet, day: Day, near: float, distance: float, leaf: np.ndarray, horizon: float) -> None:
    """Twigs full of leaves hanging in from above."""
    n = int(rng.uniform(60, 260))
    at = np.stack([rng.uniform(-0.02, 1.02, n), rng.beta(1.0, 2.4, n) * horizon * rng.uniform(0.7, 1.1)], axis=1)
    centres = rng.uniform(0, 1, (6, 2)) * [1, horizon * 0.7]
    pull = rng.uniform(0.2, 0.85, (n, 1))
    at = at * (1 - pull * 0.6) + centres[rng.integers(0, 6, n)] * pull * 0.6
    size = (0.008 + 0.022 * near) * rng.uniform(0.5, 1.4, (n, 2))
    shades = day.lit(leaf, rng.uniform(-0.2, 1.1, n)) * rng.uniform(0.75, 1.2, (n, 1))
    sheet.ellipses(at, size, day.far(shades, distance))


def _beams(rng: Rng, sheet: Sheet, day: Day) -> None:
    """Shafts of light through the crowns."""
    size = sheet.size
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    angle = np.arctan2(y + 0.3, x - day.sun[0])
    rays = np.interp(angle, np.linspace(0, np.pi, 60), np.clip(rng.normal(0, 1, 60), 0, 1))
    sheet.cover(mix(sheet.pixels(), mix(day.light, (1, 1, 1), 0.5), (0.3 * rays * (1 - 0.6 * y)).astype(np.float32)))


def _wood_from_outside(rng: Rng, size: int, day: Day) -> Sheet:
    """Trees across a meadow or a pond, filling most of the picture."""
    horizon = float(rng.uniform(0.55, 0.85))
    sheet = Sheet(size, paint_sky(rng, size, day, horizon))
    if rng.uniform() < 0.3:
        massif(
            rng, sheet, day, range_line(rng, size, 0.15, 0.35), snow=rng.uniform(-0.1, 0.2), distance=0.75, woods=0.25
        )
    firs = float(rng.choice([0.0, 0.3, 1.0]))
    for i, distance in enumerate((0.75, 0.5, 0.25)):
        line = horizon - 0.05 + 0.03 * i + 0.02 * ridge_line(rng, 30)
        wood_edge(rng, sheet, day, line, rng.uniform(0.28, 0.55), distance=distance, dense=1.4, firs=firs)
    meadow(rng, sheet, day, horizon + 0.015 * ridge_line(rng, 30))
    if rng.uniform() < 0.25:
        lake(rng, sheet, day, horizon + 0.05)
    elif rng.uniform() < 0.5 and not day.snow:
        blades(rng, sheet, day, 0.9, leaf_colour(rng, day))
    for _ in range(int(rng.choice([0, 1, 1, 2]))):
        foot = (rng.uniform(0, 1), rng.uniform(horizon + 0.05, 1.0))
        one(rng, sheet, day, "fir" if firs > 0.5 else "tree", foot, rng.uniform(0.55, 0.95))
    return sheet


def _wooded_slope(rng: Rng, size: int, day: Day) -> Sheet:
    """A hillside full of trees, the lower ones in front."""
    top = float(rng.uniform(-0.1, 0.3))
    sheet = Sheet(size, paint_sky(rng, size, day, 0.5))
    firs = float(rng.choice([0.0, 0.6, 1.0]))
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


def _crowns(rng: Rng, size: int, day: Day) -> Sheet:
    """A wood from above: crowns packed side by side, perhaps a road or a river through them."""
    colours = np.array([leaf_colour(rng, day) for _ in range(4)])
    floor = day.lit(colours[0] * 0.55, 0.25) * (1 + 0.2 * slab(rng, size, "rough")[..., None])
    sheet = Sheet(size, floor)
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


# Mountain


def mountain(rng: Rng, size: int, day: Day) -> Sheet:
    """A peak or ranges, with what lies before them: woods, a meadow, a lake, other ridges."""
    base = float(rng.uniform(0.6, 0.95))
    sheet = Sheet(size, paint_sky(rng, size, day, base))
    line = float(rng.choice([-1.0, rng.uniform(0.02, 0.5), 1.5], p=[0.3, 0.45, 0.25]))
    if day.snow:
        line = float(rng.choice([line, 1.5]))
    for i in range(int(rng.integers(1, 4))):
        high = range_line(rng, size, rng.uniform(0.18, 0.4), rng.uniform(0.12, 0.3))
        massif(rng, sheet, day, high, snow=line * 0.7, distance=0.85 - 0.15 * i)
    shape = rng.uniform()
    main = range_line(rng, size, rng.uniform(0.04, 0.3), rng.uniform(0.25, 0.6))
    if shape < 0.4:
        main = _peak(rng, size)
    massif(rng, sheet, day, main, snow=line, distance=rng.uniform(0.2, 0.5), woods=rng.uniform(0.3, 0.7))
    _foreground(rng, sheet, day, base)
    return sheet


def _peak(rng: Rng, size: int) -> np.ndarray:
    """One summit: two flanks that fall from it, roughened."""
    x = np.linspace(0, 1, size)
    at, top = rng.uniform(0.2, 0.8), rng.uniform(0.05, 0.3)
    left, right = rng.uniform(0.6, 1.6, 2)
    flanks = np.where(x < at, (at - x) * left, (x - at) * right) ** rng.uniform(0.75, 1.1)
    return top + flanks * 0.9 + (0.5 - ridge_line(rng, size, roughness=0.6)) * rng.uniform(0.06, 0.16)


def _foreground(rng: Rng, sheet: Sheet, day: Day, base: float) -> None:
    what = str(rng.choice(["meadow", "lake", "woods", "ridge", "none"], p=[0.24, 0.2, 0.22, 0.2, 0.14]))
    size = sheet.size
    if what == "ridge":
        for i in range(int(rng.integers(1, 4))):
            line = range_line(rng, size, base - 0.1 + 0.1 * i, rng.uniform(0.05, 0.25))
            massif(
                rng,
                sheet,
                day,
                line,
                snow=1.5 if day.snow else -1,
                distance=0.3 - 0.1 * i,
                woods=rng.uniform(-0.2, 0.3),
            )
    elif what != "none":
        line = base + rng.uniform(-0.03, 0.06) * (ridge_line(rng, 40) - 0.5)
        if what == "woods" or rng.uniform() < 0.5:
            wood_edge(rng, sheet, day, line + 0.01, rng.uniform(0.04, 0.14), distance=0.35)
        if what == "lake":
            lake(rng, sheet, day, min(base, 0.85))
        else:
            meadow(rng, sheet, day, line)
            if what == "woods":
                wood_edge(
                    rng, sheet, day, line + 0.12, rng.uniform(0.12, 0.4), distance=0.0, dense=rng.uniform(0.2, 1.0)
                )
    for _ in range(int(rng.choice([0, 0, 2, 5]))):
        radius = rng.uniform(0.02, 0.1)
        stone = day.lit(np.asarray(ROCKS[int(rng.integers(5))]), rng.uniform(0.3, 0.9))
        boulder(rng, sheet, (rng.uniform(0, 1), rng.uniform(base, 1.02)), radius, stone)


def boulder(rng: Rng, sheet: Sheet, at: tuple[float, float], radius: float, colour: np.ndarray) -> None:
    """A stone, or a floe: a rough polygon with a darker lower half."""
    angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
    ring = np.stack([np.cos(angle), np.sin(angle) * 0.6], axis=1) * radius * rng.uniform(0.75, 1.1, (9, 1))
    sheet.polygon(np.array(at) + ring, colour)
    sheet.polygon(np.array(at) + np.concatenate([ring[ring[:, 1] > 0], [[0, radius * 0.1]]]), colour * 0.65)


# Glacier


def glacier(rng: Rng, size: int, day: Day) -> Sheet:
    """An ice stream between mountains, a wall of ice, a field of crevasses, or ice floating before a front."""
    view = str(rng.choice(["tongue", "wall", "crevasses", "lagoon"], p=[0.34, 0.26, 0.22, 0.18]))
    horizon = float(rng.uniform(0.22, 0.5))
    sheet = Sheet(size, paint_sky(rng, size, day, horizon + 0.1))
    if view != "wall" or rng.uniform() < 0.6:
        high = float(rng.choice([0.05, 0.6, 1.5]))
        for i in range(int(rng.integers(1, 3))):
            line = range_line(rng, size, horizon - rng.uniform(0.15, 0.3) + 0.04 * i, rng.uniform(0.12, 0.28))
            massif(rng, sheet, day, line, snow=high, distance=0.7 - 0.25 * i)
    if view == "tongue":
        _tongue(rng, sheet, day, horizon)
    elif view == "crevasses":
        _ice_field(rng, sheet, day, horizon)
    else:
        level = float(rng.uniform(0.6, 0.85) if view == "wall" else rng.uniform(0.5, 0.68))
        top = level - float(rng.uniform(0.3, 0.5) if view == "wall" else rng.uniform(0.08, 0.24))
        _ice_wall(rng, sheet, day, top, level)
        if view == "lagoon" or rng.uniform() < 0.7:
            lake(rng, sheet, day, level)
            _floes(rng, sheet, day, level, many=view == "lagoon")
        else:
            _moraine(rng, sheet, day, level)
    return sheet


def ice(rng: Rng, day: Day, bright: np.ndarray, blue: np.ndarray, dirt: np.ndarray) -> np.ndarray:
    """Ice (S, S, 3) from fields (S, S): how lit, how deep and blue, how dirty."""
    pale, deep = near_colour(rng, (0.88, 0.93, 0.96), 0.03), near_colour(rng, (0.26, 0.56, 0.76), 0.1)
    soil, depth = np.clip(dirt, 0, 0.9), np.clip(blue, 0, 1)
    mud = near_colour(rng, (0.36, 0.34, 0.32), 0.1)
    return day.seen([((1 - depth) * (1 - soil), pale), (depth * (1 - soil), deep), (soil, mud)], bright)


def _cracks(rng: Rng, size: int, u: np.ndarray, v: np.ndarray, *, width: float = 0.16) -> np.ndarray:
    """Crevasses (size, size), 0 to 1: contour lines of a warped wave across the flow, broken by noise."""
    warp = sampled(rng, "soft", u * 0.5, v * 0.5)
    phase = v * 0.09 + 1.6 * warp
    near = np.abs(phase - np.floor(phase) - 0.5) * 2
    broken = sampled(rng, "soft", u * 0.8, v * 0.8) + rng.uniform(-0.3, 0.8)
    return smooth(near, 1 - 2.4 * width, 1.0) * smooth(broken, -0.4, 0.5)


def _tongue(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """A valley filled with ice that winds down towards us, with moraines along the flow."""
    size = sheet.size
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    t = np.clip((y - horizon) / (1 - horizon), 0, 1)
    bend, goal, spread = rng.normal(0, 0.3), rng.uniform(0.3, 0.7), rng.uniform(0.22, 0.7)
    middle = goal + bend * t * (1 - t) + (rng.uniform(0.35, 0.65) - goal) * t
    half = 0.05 + spread * t ** rng.uniform(0.7, 1.2)
    across = (x - middle) / half
    depth = 1 / (0.12 + t)
    u, v = across * 60, depth * rng.uniform(60, 110) + across**2 * 18
    grain = sampled(rng, "rough", u * 1.6 / np.sqrt(depth), v * 2)
    crack = _cracks(rng, size, u, v * rng.uniform(0.8, 2.0))
    stripes = smooth(sampled(rng, "soft", u * 1.2, v * 0.03), 0.7, 1.6) * rng.uniform(0, 1)
    edge = smooth(np.abs(across) + 0.07 * grain, 0.75, 1.0)
    bright = 0.72 + 0.14 * grain - 0.5 * crack
    pixels = ice(rng, day, bright, 0.12 + 0.85 * crack + 0.1 * grain, stripes + edge * 0.7)
    distance = (1 - t) * 0.6
    side = range_line(rng, size, horizon - 0.06, 0.12)
    massif(rng, sheet, day, side, snow=rng.choice([-1, 0.1, 0.4]), distance=0.3, woods=rng.choice([2.0, 0.3]))
    body = smooth(-np.abs(across) - 0.05 * grain, -1.0, -0.94) * (y > horizon)
    sheet.cover(day.far(pixels, distance), sheet.field(body))


def _ice_field(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """A wide surface of ice cut by crevasses, seen from low above."""
    size = sheet.size
    horizon = horizon * rng.uniform(0.3, 1.0)
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    depth = (1 - horizon) / np.maximum(y - horizon, 0.02) + rng.uniform(0, 0.7)
    turn = rng.uniform(-0.7, 0.7)
    wide = rng.uniform(50, 120)
    p, q = (x - 0.5) * depth * wide, depth * wide * rng.uniform(0.7, 1.2)
    u, v = p * np.cos(turn) - q * np.sin(turn), p * np.sin(turn) + q * np.cos(turn)
    fade = np.minimum(1, 3 / depth)
    crack = _cracks(rng, size, u, v * rng.uniform(1.2, 2.6), width=rng.uniform(0.14, 0.3)) * fade
    grain = sampled(rng, "rough", u * 1.5, v * 1.5) * fade
    relief = sampled(rng, "ridge", u, v) * fade
    bright = 0.66 + 0.13 * relief + 0.1 * grain - 0.65 * crack
    dirt = smooth(sampled(rng, "soft", u * 0.4, v * 0.4), 0.8, 2) * rng.uniform(0, 0.9)
    pixels = ice(rng, day, bright, 0.1 + 0.9 * crack + 0.12 * relief, dirt)
    distance = np.clip(np.broadcast_to(1 - fade, (size, size)), 0, 1) * 0.7
    line = horizon + 0.015 * ridge_line(rng, size)
    sheet.cover(day.far(pixels, distance), sheet.area(under(line)))


def _ice_wall(rng: Rng, sheet: Sheet, day: Day, top: float, level: float) -> None:
    """The front of a glacier: pillars and clefts, bluest where it is freshly broken; its back runs up behind it."""
    size = sheet.size
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    line = top + 0.5 * (level - top) * (1 - ridge_line(rng, size, roughness=0.8)) * rng.uniform(0.3, 0.7)
    back = range_line(rng, size, top - rng.uniform(0.02, 0.12), 0.08)
    grain = noise(rng, size, "ridge", span=200, stretch=1.6)
    sheet.cover(
        day.far(ice(rng, day, 0.75 + 0.16 * grain, 0.15 + 0.12 * grain, 0 * grain), 0.25), sheet.area(under(back))
    )
    x = np.broadcast_to(np.arange(size, dtype=np.float32) * (150 / size), (size, size))
    fall = y * 150
    clefts = sampled(rng, "ridge", x * 1.1 + 0.15 * fall, fall * 0.16)
    blocks = sampled(rng, "rough", x * 1.2, fall * 0.45)
    light = (clefts - np.roll(clefts, max(1, size // 75), axis=1)) * day.side * -0.9
    fresh = sampled(rng, "soft", x * 0.9, fall * 0.7)
    bands = smooth(sampled(rng, "soft", x * 0.05, fall * 2.2), 0.5, 1.8) * rng.uniform(0, 0.6)
    bright = 0.6 + 0.3 * light + 0.12 * blocks - 0.3 * smooth(-clefts, 0.6, 2.0)
    pixels = ice(rng, day, bright, 0.35 + 0.3 * fresh + 0.25 * smooth(-clefts, 0.2, 1.8), bands)
    sheet.cover(pixels, sheet.area(under(line, level + 0.01)))


def _floes(rng: Rng, sheet: Sheet, day: Day, level: float, *, many: bool) -> None:
    """Pieces of ice in the water, larger towards us, with a blue foot."""
    n = int(rng.integers(10, 60) if many else rng.integers(0, 20))
    y = level + (1.0 - level) * np.sort(rng.uniform(0.02, 1, n))
    for height in y.tolist():
        near = (height - level) / (1 - level)
        radius = (0.008 + 0.07 * near) * rng.uniform(0.4, 1.6)
        colour = day.lit(mix((0.9, 0.94, 0.97), (0.55, 0.76, 0.86), rng.uniform()), rng.uniform(0.5, 1.0))
        boulder(rng, sheet, (rng.uniform(-0.05, 1.05), height), radius, colour)
        if many and rng.uniform() < 0.12:
            x, high = rng.uniform(0, 1), radius * rng.uniform(1.2, 3)
            berg = np.array([[-1.6, 0.2], [-1.0, -0.5], [-0.3, -1.0], [0.2, -0.7], [0.9, -0.8], [1.5, 0.2]])
            sheet.polygon(np.array([x, height]) + berg * [high, high] * rng.uniform(0.7, 1.3, (6, 1)), colour)
            sheet.polygon(np.array([x, height]) + berg[[0, 1, 2]] * high, colour * 0.8)


def _moraine(rng: Rng, sheet: Sheet, day: Day, level: float) -> None:
    size = sheet.size
    rock = near_colour(rng, ROCKS[int(rng.integers(5))], 0.1)
    grain = plane(rng, size, level - 0.1, "fine", near=120)
    pixels = day.lit(rock * (1 + 0.28 * grain[..., None]), 0.6)
    sheet.cover(pixels, sheet.area(under(level + 0.03 * (ridge_line(rng, 50) - 0.5))))
    for _ in range(int(rng.integers(5, 25))):
        at = (rng.uniform(0, 1), rng.uniform(level + 0.02, 1.02))
        boulder(rng, sheet, at, rng.uniform(0.008, 0.05), day.lit(rock, rng.uniform(0.2, 1)))


# Sea


def sea(rng: Rng, size: int, day: Day) -> Sheet:
    """Open water with a horizon, a beach, cliffs, or breaking waves; with boats, islands, palms now and then."""
    view = str(rng.choice(["open", "beach", "cliffs", "surf", "above"], p=[0.27, 0.28, 0.17, 0.16, 0.12]))
    if view == "above":
        return _coast_from_above(rng, size, day)
    horizon = float(rng.uniform(0.2, 0.62) if view != "surf" else rng.uniform(0.08, 0.35))
    sheet = Sheet(size, paint_sky(rng, size, day, horizon))
    _far_shore(rng, sheet, day, horizon)
    waves = _open_water(rng, sheet, day, horizon, rough=rng.uniform(0.5, 1.0) if view == "surf" else rng.beta(1.3, 2))
    for _ in range(int(rng.choice([0, 0, 1, 2]))):
        _boat(rng, sheet, day, horizon)
    if view == "surf":
        _breakers(rng, sheet, day, horizon, waves)
    if view == "cliffs":
        _cliff(rng, sheet, day, horizon)
    if view == "beach":
        _beach(rng, sheet, day, horizon)
    elif rng.uniform() < 0.25:
        for _ in range(int(rng.integers(2, 9))):
            rock = day.lit(np.asarray(ROCKS[int(rng.integers(5))]) * 0.8, rng.uniform(0.2, 0.8))
            boulder(rng, sheet, (rng.uniform(0, 1), rng.uniform(0.82, 1.02)), rng.uniform(0.03, 0.14), rock)
    return sheet


def _far_shore(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """Hills, snow mountains, or a town on the other side."""
    what = str(rng.choice(["none", "hills", "peaks", "island"], p=[0.52, 0.2, 0.12, 0.16]))
    if what == "none":
        return
    high = rng.uniform(0.03, 0.1) if what != "peaks" else rng.uniform(0.1, 0.22)
    line = range_line(rng, sheet.size, horizon - high, high)
    if what == "island":
        x = np.linspace(0, 1, sheet.size)
        hump = np.exp(-(((x - rng.uniform(0, 1)) / rng.uniform(0.06, 0.2)) ** 2))
        line = horizon + 0.01 - high * hump * (0.7 + 0.5 * ridge_line(rng, sheet.size))
    snow = rng.uniform(0.05, 0.5) if what == "peaks" else -1.0
    massif(rng, sheet, day, line, snow=snow, distance=rng.uniform(0.5, 0.85), woods=rng.choice([2.0, 0.02]))


def _open_water(rng: Rng, sheet: Sheet, day: Day, horizon: float, rough: float) -> np.ndarray:
    """Waves in perspective: troughs dark, crests take the sky's colour, glitter below the sun. Returns the waves."""
    size = sheet.size
    near = rng.uniform(60, 180)
    swell = plane(rng, size, horizon, "soft", near=near, ratio=rng.uniform(1.5, 4))
    chop = plane(rng, size, horizon, "rough", near=near * 1.6, ratio=rng.uniform(1.5, 3))
    waves = 0.6 * swell + 0.6 * chop
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    t = np.clip((y - horizon) / (1 - horizon), 0, 1)
    tones = ((0.08, 0.24, 0.36), (0.10, 0.36, 0.40), (0.14, 0.22, 0.26), (0.20, 0.48, 0.52), (0.24, 0.30, 0.30))
    body = day.lit(near_colour(rng, tones[int(rng.integers(5))], 0.15), 0.65)
    sky = mix(day.low, day.zenith, 0.45)
    mirror = np.clip(0.75 - 0.6 * t**0.6 + (0.1 + 0.3 * rough) * waves, 0, 1)
    pixels = mix(body * (1 + (0.1 + 0.25 * rough) * waves[..., None]), sky, mirror)
    caps = smooth(waves, 2.6 - 1.5 * rough, 3.4 - 1.5 * rough) * min(1.0, rough * 1.4)
    pixels = mix(pixels, day.lit((0.93, 0.95, 0.96), 0.8), caps)
    if day.sky in ("clear", "fair", "sunset", "night") and rng.uniform() < 0.6:
        width = 0.04 + 0.25 * t * rng.uniform(0.5, 1.2)
        path = np.exp(-(((x - day.sun[0]) / width) ** 2)) * smooth(waves, 0.2, 1.6)
        pixels = mix(
            pixels, mix(day.low, (1, 0.96, 0.86), 0.7), np.clip(path, 0, 1) * (0.9 if day.sky != "night" else 0.4)
        )
    tilt = np.array([horizon, horizon])
    sheet.cover(pixels, sheet.area(under(tilt)))
    return waves


def _breakers(rng: Rng, sheet: Sheet, day: Day, horizon: float, waves: np.ndarray) -> None:
    """Waves that break: a dark face, a bright lip, foam that trails behind."""
    size = sheet.size
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    foam = noise(rng, size, "rough", span=190, stretch=1.8)
    pixels = sheet.pixels()
    white = day.lit((0.94, 0.96, 0.97), 0.85)
    face = day.lit(near_colour(rng, (0.14, 0.40, 0.42), 0.2), 0.5)
    for level in np.sort(horizon + (1 - horizon) * rng.uniform(0.12, 0.9, int(rng.integers(1, 5)))):
        near = (level - horizon) / (1 - horizon)
        crest = level + 0.06 * near * (ridge_line(rng, size, roughness=0.5) - 0.5)
        high = (0.03 + 0.16 * near) * rng.uniform(0.6, 1.3)
        d = (y - crest) / high
        curl = ridge_line(rng, size, roughness=0.6)
        pixels = mix(pixels, face, smooth(d, -0.05, 0.1) * smooth(-d, -1.2, -0.1) * 0.75)
        breaking = smooth(curl - rng.uniform(0.1, 0.6), 0, 0.15)
        spill = smooth(-d + 0.5 * foam - 0.1, -0.9, 0.0) * smooth(d + 0.18 + 0.05 * foam, 0, 0.1)
        pixels = mix(pixels, white, np.clip(spill * breaking, 0, 1))
    lace = smooth(np.abs(foam), 0.25, 0.0) * smooth(waves, -0.4, 0.8) * smooth(y, horizon + 0.15, 1.0)
    sheet.cover(mix(pixels, white, lace * rng.uniform(0.2, 0.7)))


def _boat(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """A sailing boat, a motor boat or a ship."""
    near = rng.beta(1, 3)
    x, y = rng.uniform(0.05, 0.95), horizon + 0.005 + (0.9 - horizon) * near * 0.6
    long = (0.03 + 0.26 * near) * rng.uniform(0.7, 1.6)
    paint = near_colour(
        rng, ((0.92, 0.92, 0.9), (0.2, 0.24, 0.34), (0.6, 0.16, 0.12), (0.3, 0.2, 0.14))[int(rng.integers(4))]
    )
    hull = np.array([[-0.5, -0.13], [0.56, -0.15], [0.4, 0.03], [-0.42, 0.03]])
    at, distance = np.array([x, y]), (1 - near) * 0.5
    sheet.polygon(at + hull * long, day.far(day.lit(paint, 0.5), distance))
    sheet.polygon(at + (hull * [1, -0.8] + [0, 0.03]) * long, day.far(day.lit(paint * 0.5, 0.1), distance))
    if rng.uniform() < 0.6:
        sail = day.far(day.lit((0.96, 0.95, 0.92), 0.9), distance)
        sheet.lines(np.array([[at + [0, -0.1 * long], at + [0, -1.35 * long]]]), 0.006, day.lit((0.3, 0.26, 0.22)))
        sheet.polygon(at + np.array([[0.02, -0.2], [0.02, -1.3], [0.46, -0.22]]) * long, sail)
        sheet.polygon(at + np.array([[-0.03, -0.2], [-0.03, -1.1], [-0.4, -0.2]]) * long, sail * 0.88)
    else:
        cabin = np.array([[-0.3, -0.13], [-0.26, -0.34], [0.12, -0.34], [0.2, -0.13]])
        sheet.polygon(at + cabin * long, day.far(day.lit((0.9, 0.9, 0.88), 0.8), distance))
        sheet.lines(
            np.array([[at + [-0.1 * long, -0.34 * long], at + [-0.1 * long, -0.6 * long]]]),
            0.005,
            day.lit((0.3, 0.3, 0.3)),
        )


def _cliff(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """Rock that falls into the sea from one side, with surf at its foot."""
    size = sheet.size
    x = np.linspace(0, 1, size)
    reach, top = rng.uniform(0.3, 0.7), rng.uniform(-0.1, horizon)
    from_left = rng.uniform() < 0.5
    s = x if from_left else 1 - x
    fall = smooth(s, reach * 0.55, reach)
    base = horizon + rng.uniform(0.06, 0.3) * (1 - s / reach)
    line = np.where(s < reach, top + (base - top) * fall + (0.5 - ridge_line(rng, size)) * 0.1 * (1 - fall), 2.0)
    inside = s < reach
    below, light = slope(rng, size, np.minimum(line, 1.5), coarse=1.2, steep=2.5)
    rock = near_colour(rng, ROCKS[int(rng.integers(5))] if rng.uniform() < 0.7 else (0.84, 0.82, 0.76), 0.1)
    layers = sampled(
        rng,
        "soft",
        np.broadcast_to(x * 8, (size, size)),
        np.broadcast_to(np.arange(size)[:, None] * (220 / size), (size, size)),
    )
    pixels = rock * (1 + 0.12 * layers[..., None])
    pixels = mix(pixels, leaf_colour(rng, day) * 0.8, smooth(0.07 - below, 0, 0.04) * (rng.uniform() < 0.7))
    pixels = day.lit(pixels, np.clip(0.5 - day.side * 0.4 * light, 0, 1))
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    swash = noise(rng, size, "rough", span=200)
    body = inside & (below > 0) & (y < base + 0.01 * swash)
    sheet.cover(day.far(pixels, 0.15), sheet.field(body.astype(np.float32)))
    foam = smooth(-np.abs(y - base) + 0.02 * swash, -0.02, 0.01) * inside
    sheet.cover(day.lit((0.93, 0.95, 0.96), 0.8), sheet.field(foam * 0.9))


def _beach(rng: Rng, sheet: Sheet, day: Day, horizon: float) -> None:
    """Sand or pebbles with a wet edge and a line of foam, running in from one side; palms, people, umbrellas."""
    size = sheet.size
    x = np.linspace(0, 1, size)
    start, slant = rng.uniform(max(0.55, horizon + 0.15), 0.9), rng.uniform(-0.6, 0.6)
    line = start + slant * (x - 0.5) + 0.06 * (ridge_line(rng, size, roughness=0.45) - 0.5)
    line = np.maximum(line, horizon + 0.01)
    sand = near_colour(
        rng,
        ((0.84, 0.76, 0.58), (0.76, 0.68, 0.54), (0.60, 0.56, 0.52), (0.90, 0.86, 0.78))[int(rng.integers(4))],
        0.08,
    )
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    below = (y - line.astype(np.float32)) / (1 - horizon)
    grain = plane(rng, size, horizon, str(rng.choice(["fine", "rough"])), near=170)
    ground = sand * (1 + 0.09 * grain[..., None])
    wet = smooth(-below, -0.1, 0.0)
    ground = mix(day.lit(ground, 0.85), mix(day.lit(sand * 0.55, 0.5), day.low, 0.3), wet * 0.85)
    sheet.cover(ground.astype(np.float32), sheet.area(under(line)))
    foam = smooth(-np.abs(below + 0.012 * grain), -0.035, -0.005)
    sheet.cover(day.lit((0.95, 0.96, 0.97), 0.85), sheet.field(foam * 0.95))
    _on_the_beach(rng, sheet, day, line)


def _on_the_beach(rng: Rng, sheet: Sheet, day: Day, line: np.ndarray) -> None:
    for _ in range(int(rng.choice([0, 0, 0, 1, 2]))):
        one(rng, sheet, day, "palm", (rng.uniform(0, 1), rng.uniform(0.9, 1.05)), rng.uniform(0.4, 0.9))
    for _ in range(int(rng.choice([0, 0, 2, 5]))):
        x = rng.uniform(0, 1)
        y = float(np.interp(x, np.linspace(0, 1, len(line)), line)) + rng.uniform(0.02, 0.15)
        colour = near_colour(
            rng, ((0.8, 0.2, 0.15), (0.2, 0.4, 0.7), (0.95, 0.85, 0.3), (0.9, 0.9, 0.9))[int(rng.integers(4))]
        )
        wide = rng.uniform(0.03, 0.06)
        sheet.lines(np.array([[[x, y], [x, y - wide * 1.5]]]), 0.005, day.lit((0.4, 0.36, 0.3)))
        top = np.array([[x - wide, y - wide * 1.3], [x, y - wide * 1.9], [x + wide, y - wide * 1.3]])
        sheet.polygon(top, day.lit(colour, 0.9))


def _coast_from_above(rng: Rng, size: int, day: Day) -> Sheet:
    """Water, foam, sand and green, from a cliff top or the air."""
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    turn = rng.uniform(0, 2 * np.pi)
    along = (x - 0.5) * np.cos(turn) + (x[:, None] - 0.5) * np.sin(turn)
    shape = along + 0.12 * noise(rng, size, "soft", span=110) + rng.uniform(-0.15, 0.25)
    fine = noise(rng, size, "rough", span=200)
    deep, shoal = near_colour(rng, (0.06, 0.26, 0.42), 0.15), near_colour(rng, (0.22, 0.62, 0.62), 0.15)
    ripple = noise(rng, size, "rough", span=220, stretch=2.5, angle=turn)
    pixels = mix(deep, shoal, smooth(shape, -0.35, -0.02)) * (1 + 0.09 * ripple[..., None])
    sand = near_colour(rng, (0.84, 0.76, 0.6), 0.1)
    pixels = mix(pixels, sand * (1 + 0.05 * fine[..., None]), smooth(shape, -0.01, 0.01))
    land = near_colour(rng, ROCKS[int(rng.integers(5))], 0.1) if rng.uniform() < 0.4 else leaf_colour(rng, day)
    wide = rng.uniform(0.03, 0.25)
    pixels = mix(pixels, land * (1 + 0.3 * fine[..., None]), smooth(shape + 0.02 * fine, wide, wide + 0.04))
    for offset in rng.uniform(-0.2, 0.0, int(rng.integers(1, 4))):
        foam = smooth(-np.abs(shape - offset + 0.015 * fine), -0.022, -0.004) * smooth(fine, -1.2, 0.6)
        pixels = mix(pixels, (0.95, 0.97, 0.97), foam * 0.9)
    sheet = Sheet(size, day.lit(pixels, 0.85))
    for _ in range(int(rng.choice([0, 0, 1, 3]))):
        spot = rng.integers(0, size, 2)
        if shape[spot[1], spot[0]] < -0.08:
            at = (spot + 0.5) / size
            sheet.ellipses(
                at[None], np.array([[0.012, 0.03]]) * rng.uniform(0.5, 1.2), day.lit((0.95, 0.95, 0.93), 0.9)
            )
    return sheet
