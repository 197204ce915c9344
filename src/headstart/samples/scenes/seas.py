"""The scene `sea`: open water, beaches, cliffs, breakers, a coast from above."""

from __future__ import annotations

import numpy as np

from headstart.samples.scenes.land import ROCKS, boulder, massif, range_line, slope
from headstart.samples.scenes.painting import (
    Canvas,
    Rng,
    mix,
    near_colour,
    noise,
    pick,
    plane,
    ridge_line,
    sampled,
    smooth,
    under,
)
from headstart.samples.scenes.plants import leaf_colour, one
from headstart.samples.scenes.sky import Day, paint_sky


def sea(rng: Rng, size: int, day: Day) -> Canvas:
    """Open water with a horizon, a beach, cliffs, or breaking waves; with boats, islands, palms now and then."""
    view = pick(rng, {"open": 0.27, "beach": 0.28, "cliffs": 0.17, "surf": 0.16, "above": 0.12})
    if view == "above":
        return _coast_from_above(rng, size, day)
    horizon = float(rng.uniform(0.2, 0.62) if view != "surf" else rng.uniform(0.08, 0.35))
    sheet = Canvas(size, paint_sky(rng, size, day, horizon))
    _far_shore(rng, sheet, day, horizon)
    waves = _open_water(rng, sheet, day, horizon, rough=rng.uniform(0.5, 1.0) if view == "surf" else rng.beta(1.3, 2))
    for _ in range(pick(rng, [0, 0, 1, 2])):
        _boat(rng, sheet, day, horizon)
    if view == "surf":
        _breakers(rng, sheet, day, horizon, waves)
    if view == "cliffs":
        _cliff(rng, sheet, day, horizon)
    if view == "beach":
        _beach(rng, sheet, day, horizon)
    elif rng.uniform() < 0.25:
        for _ in range(int(rng.integers(2, 9))):
            rock = day.lit(np.asarray(pick(rng, ROCKS)) * 0.8, rng.uniform(0.2, 0.8))
            boulder(rng, sheet, (rng.uniform(0, 1), rng.uniform(0.82, 1.02)), rng.uniform(0.03, 0.14), rock)
    return sheet


def _far_shore(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
    """Hills, snow mountains, or a town on the other side."""
    what = pick(rng, {"none": 0.52, "hills": 0.2, "peaks": 0.12, "island": 0.16})
    if what == "none":
        return
    high = rng.uniform(0.03, 0.1) if what != "peaks" else rng.uniform(0.1, 0.22)
    line = range_line(rng, sheet.size, horizon - high, high)
    if what == "island":
        x = np.linspace(0, 1, sheet.size)
        hump = np.exp(-(((x - rng.uniform(0, 1)) / rng.uniform(0.06, 0.2)) ** 2))
        line = horizon + 0.01 - high * hump * (0.7 + 0.5 * ridge_line(rng, sheet.size))
    snow = rng.uniform(0.05, 0.5) if what == "peaks" else -1.0
    massif(rng, sheet, day, line, snow=snow, distance=rng.uniform(0.5, 0.85), woods=pick(rng, [2.0, 0.02]))


def _open_water(rng: Rng, sheet: Canvas, day: Day, horizon: float, rough: float) -> np.ndarray:
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


def _breakers(rng: Rng, sheet: Canvas, day: Day, horizon: float, waves: np.ndarray) -> None:
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
        curl = ridge_line(rng, size, roughness=0.5) + 0.18 * foam
        pixels = mix(pixels, face, smooth(d, -0.05, 0.1) * smooth(-d, -1.2, -0.1) * 0.75)
        breaking = smooth(curl - rng.uniform(0.1, 0.6), -0.1, 0.25)
        spill = smooth(-d + 0.5 * foam - 0.1, -0.9, 0.0) * smooth(d + 0.18 + 0.05 * foam, 0, 0.1)
        pixels = mix(pixels, white, np.clip(spill * breaking, 0, 1))
    lace = smooth(np.abs(foam), 0.25, 0.0) * smooth(waves, -0.4, 0.8) * smooth(y, horizon + 0.15, 1.0)
    sheet.cover(mix(pixels, white, lace * rng.uniform(0.2, 0.7)))


def _boat(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
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
        sheet.lines(at + np.array([[[0, -0.1], [0, -1.35]]]) * long, 0.006, day.lit((0.3, 0.26, 0.22)))
        sheet.polygon(at + np.array([[0.02, -0.2], [0.02, -1.3], [0.46, -0.22]]) * long, sail)
        sheet.polygon(at + np.array([[-0.03, -0.2], [-0.03, -1.1], [-0.4, -0.2]]) * long, sail * 0.88)
    else:
        cabin = np.array([[-0.3, -0.13], [-0.26, -0.34], [0.12, -0.34], [0.2, -0.13]])
        sheet.polygon(at + cabin * long, day.far(day.lit((0.9, 0.9, 0.88), 0.8), distance))
        sheet.lines(
            at + np.array([[[-0.1, -0.34], [-0.1, -0.6]]]) * long,
            0.005,
            day.lit((0.3, 0.3, 0.3)),
        )


def _cliff(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
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
    below, light, _ = slope(rng, size, np.minimum(line, 1.5), coarse=1.2, steep=2.5)
    rock = near_colour(rng, pick(rng, ROCKS) if rng.uniform() < 0.7 else (0.84, 0.82, 0.76), 0.1)
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


def _beach(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
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
    grain = plane(rng, size, horizon, pick(rng, ["fine", "rough"]), near=170)
    ground = sand * (1 + 0.09 * grain[..., None])
    wet = smooth(-below, -0.1, 0.0)
    ground = mix(day.lit(ground, 0.85), mix(day.lit(sand * 0.55, 0.5), day.low, 0.3), wet * 0.85)
    sheet.cover(ground.astype(np.float32), sheet.area(under(line)))
    foam = smooth(-np.abs(below + 0.012 * grain), -0.035, -0.005)
    sheet.cover(day.lit((0.95, 0.96, 0.97), 0.85), sheet.field(foam * 0.95))
    _on_the_beach(rng, sheet, day, line)


def _on_the_beach(rng: Rng, sheet: Canvas, day: Day, line: np.ndarray) -> None:
    for _ in range(pick(rng, [0, 0, 0, 1, 2])):
        one(rng, sheet, day, "palm", (rng.uniform(0, 1), rng.uniform(0.9, 1.05)), rng.uniform(0.4, 0.9))
    for _ in range(pick(rng, [0, 0, 2, 5])):
        x = rng.uniform(0, 1)
        y = float(np.interp(x, np.linspace(0, 1, len(line)), line)) + rng.uniform(0.02, 0.15)
        colour = near_colour(
            rng, ((0.8, 0.2, 0.15), (0.2, 0.4, 0.7), (0.95, 0.85, 0.3), (0.9, 0.9, 0.9))[int(rng.integers(4))]
        )
        wide = rng.uniform(0.03, 0.06)
        sheet.lines(np.array([[[x, y], [x, y - wide * 1.5]]]), 0.005, day.lit((0.4, 0.36, 0.3)))
        top = np.array([[x - wide, y - wide * 1.3], [x, y - wide * 1.9], [x + wide, y - wide * 1.3]])
        sheet.polygon(top, day.lit(colour, 0.9))


def _coast_from_above(rng: Rng, size: int, day: Day) -> Canvas:
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
    land = near_colour(rng, pick(rng, ROCKS), 0.1) if rng.uniform() < 0.4 else leaf_colour(rng, day)
    wide = rng.uniform(0.03, 0.25)
    pixels = mix(pixels, land * (1 + 0.3 * fine[..., None]), smooth(shape + 0.02 * fine, wide, wide + 0.04))
    for offset in rng.uniform(-0.2, 0.0, int(rng.integers(1, 4))):
        foam = smooth(-np.abs(shape - offset + 0.015 * fine), -0.022, -0.004) * smooth(fine, -1.2, 0.6)
        pixels = mix(pixels, (0.95, 0.97, 0.97), foam * 0.9)
    sheet = Canvas(size, day.lit(pixels, 0.85))
    for _ in range(pick(rng, [0, 0, 1, 3])):
        spot = rng.integers(0, size, 2)
        if shape[spot[1], spot[0]] < -0.08:
            at = (spot + 0.5) / size
            sheet.ellipses(
                at[None], np.array([[0.012, 0.03]]) * rng.uniform(0.5, 1.2), day.lit((0.95, 0.95, 0.93), 0.9)
            )
    return sheet
