"""The scenes `mountain` (peaks and ranges) and `glacier` (ice streams, walls of ice, crevasses, floating ice)."""

from __future__ import annotations

import numpy as np

from headstart.samples.scenes.land import ROCKS, boulder, lake, massif, meadow, range_line, wood_edge
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
from headstart.samples.scenes.sky import Day, paint_sky


def mountain(rng: Rng, size: int, day: Day) -> Canvas:
    """A peak or ranges, with what lies before them: woods, a meadow, a lake, other ridges."""
    base = float(rng.uniform(0.6, 0.95))
    sheet = Canvas(size, paint_sky(rng, size, day, base))
    line = pick(rng, {-1.0: 0.3, float(rng.uniform(0.02, 0.5)): 0.45, 1.5: 0.25})
    if day.snow:
        line = pick(rng, [line, 1.5])
    for i in range(int(rng.integers(1, 3))):
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


def _foreground(rng: Rng, sheet: Canvas, day: Day, base: float) -> None:
    what = pick(rng, {"meadow": 0.24, "lake": 0.2, "woods": 0.22, "ridge": 0.2, "none": 0.14})
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
    for _ in range(pick(rng, [0, 0, 2, 5])):
        radius = rng.uniform(0.02, 0.1)
        stone = day.lit(np.asarray(pick(rng, ROCKS)), rng.uniform(0.3, 0.9))
        boulder(rng, sheet, (rng.uniform(0, 1), rng.uniform(base, 1.02)), radius, stone)


# Glacier


def glacier(rng: Rng, size: int, day: Day) -> Canvas:
    """An ice stream between mountains, a wall of ice, a field of crevasses, or ice floating before a front."""
    view = pick(rng, {"tongue": 0.34, "wall": 0.26, "crevasses": 0.22, "lagoon": 0.18})
    horizon = float(rng.uniform(0.22, 0.5))
    sheet = Canvas(size, paint_sky(rng, size, day, horizon + 0.1))
    if view != "wall" or rng.uniform() < 0.6:
        high = pick(rng, [0.05, 0.6, 1.5])
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


def _cracks(rng: Rng, size: int, v: np.ndarray, *, width: float = 0.16, bend: float = 1.0) -> np.ndarray:
    """Crevasses (size, size), 0 to 1: contour lines of a bent wave in `v` (one every unit), broken by noise."""
    warp = noise(rng, size, "hills", span=110, stretch=2.0)
    phase = v + bend * warp + 0.06 * noise(rng, size, "rough", span=150)
    near = np.abs(phase - np.floor(phase) - 0.5) * 2
    broken = noise(rng, size, "soft", span=160, stretch=2.5) + rng.uniform(-0.2, 0.9)
    return smooth(near, 1 - 2.4 * width, 1.0) * smooth(broken, -0.4, 0.5)


def _tongue(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
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
    crack = _cracks(rng, size, v * rng.uniform(0.06, 0.14)) * np.minimum(1, 0.25 + t)
    stripes = smooth(sampled(rng, "soft", u * 1.2, v * 0.03), 0.7, 1.6) * rng.uniform(0, 1)
    edge = smooth(np.abs(across) + 0.07 * grain, 0.75, 1.0)
    bright = 0.72 + 0.14 * grain - 0.5 * crack
    pixels = ice(rng, day, bright, 0.12 + 0.85 * crack + 0.1 * grain, stripes + edge * 0.7)
    distance = (1 - t) * 0.6
    side = range_line(rng, size, horizon - 0.06, 0.12)
    massif(rng, sheet, day, side, snow=pick(rng, [-1, 0.1, 0.4]), distance=0.3, woods=pick(rng, [2.0, 0.3]))
    body = smooth(-np.abs(across) - 0.05 * grain, -1.0, -0.94) * (y > horizon)
    sheet.cover(day.far(pixels, distance), sheet.field(body))


def _ice_field(rng: Rng, sheet: Canvas, day: Day, horizon: float) -> None:
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
    crack = _cracks(rng, size, v * rng.uniform(0.05, 0.13), width=rng.uniform(0.1, 0.24)) * fade
    grain = sampled(rng, "rough", u * 1.5, v * 1.5) * fade
    relief = sampled(rng, "ridge", u, v) * fade
    bright = 0.66 + 0.13 * relief + 0.1 * grain - 0.65 * crack
    dirt = smooth(sampled(rng, "soft", u * 0.4, v * 0.4), 0.8, 2) * rng.uniform(0, 0.9)
    pixels = ice(rng, day, bright, 0.1 + 0.9 * crack + 0.12 * relief, dirt)
    distance = np.clip(np.broadcast_to(1 - fade, (size, size)), 0, 1) * 0.7
    line = horizon + 0.015 * ridge_line(rng, size)
    sheet.cover(day.far(pixels, distance), sheet.area(under(line)))


def _ice_wall(rng: Rng, sheet: Canvas, day: Day, top: float, level: float) -> None:
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


def _floes(rng: Rng, sheet: Canvas, day: Day, level: float, *, many: bool) -> None:
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


def _moraine(rng: Rng, sheet: Canvas, day: Day, level: float) -> None:
    size = sheet.size
    rock = near_colour(rng, pick(rng, ROCKS), 0.1)
    grain = plane(rng, size, level - 0.1, "fine", near=120)
    pixels = day.lit(rock * (1 + 0.28 * grain[..., None]), 0.6)
    sheet.cover(pixels, sheet.area(under(level + 0.03 * (ridge_line(rng, 50) - 0.5))))
    for _ in range(int(rng.integers(5, 25))):
        at = (rng.uniform(0, 1), rng.uniform(level + 0.02, 1.02))
        boulder(rng, sheet, at, rng.uniform(0.008, 0.05), day.lit(rock, rng.uniform(0.2, 1)))
