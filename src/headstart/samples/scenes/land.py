"""What scenes of nature share: mountains in relief, lakes that mirror, meadows, edges of woods, stones.

They are shared on purpose: colours alone must not tell the classes apart. A mountain costs about 2 ms at 150 pixels.
"""

from __future__ import annotations

import numpy as np

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
    slab,
    smooth,
    under,
)
from headstart.samples.scenes.plants import SNOW, leaf_colour, plant
from headstart.samples.scenes.sky import Day

ROCKS = ((0.40, 0.37, 0.35), (0.34, 0.30, 0.27), (0.48, 0.42, 0.36), (0.30, 0.32, 0.35), (0.46, 0.34, 0.28))


def slope(
    rng: Rng, size: int, line: np.ndarray, *, coarse: float = 1.0, steep: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relief below a ridge: (height below it, light on it, roughness), each float32 (size, size); light has mean 0.

    Noise is read along the ridge, so that gullies and ribs run down from its peaks. Broad flanks are lit or in the
    shade as a whole (after the slope of the ridge itself), ribs within them less so.
    """
    y, x = axes(size)
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
    return below, light, fine


def axes(size: int) -> tuple[np.ndarray, np.ndarray]:
    """float32: y (size, 1) and x (size,) of the pixels' centres, in units of the side."""
    x = (np.arange(size, dtype=np.float32) + 0.5) / size
    return x[:, None], x


def massif(
    rng: Rng,
    sheet: Canvas,
    day: Day,
    line: np.ndarray,
    *,
    snow: float,
    distance: float,
    woods: float = 2.0,
    bottom: float = 1.02,
) -> None:
    """A mountain below its ridge line (size,): rock, snow above `snow` (in units below the peak), woods below `woods`."""
    size = sheet.size
    below, light, rough = slope(rng, size, line, coarse=rng.uniform(0.5, 1.1), steep=rng.uniform(1.0, 2.5))
    height = axes(size)[0] - np.float32(line.min())
    amount = 0.5 - day.side * 0.36 * light + rng.normal(0, 0.08)
    rock = near_colour(rng, pick(rng, ROCKS), 0.12)
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


def lake(rng: Rng, sheet: Canvas, day: Day, level: float, *, ripple: float | None = None) -> None:
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


def meadow(rng: Rng, sheet: Canvas, day: Day, line: np.ndarray) -> None:
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
    rng: Rng,
    sheet: Canvas,
    day: Day,
    line: np.ndarray,
    height: float,
    *,
    distance: float = 0.3,
    dense: float = 1.0,
    firs: float | None = None,
) -> None:
    """A row of trees whose feet stand on a line."""
    share = pick(rng, [0.0, 0.5, 1.0]) if firs is None else firs
    x = np.cumsum(height * rng.uniform(0.2, 0.5, int(np.clip(3.4 * dense / height, 3, 40))) / dense) - 0.1
    x = x[x < 1.08]
    feet = np.stack([x, np.interp(x, np.linspace(0, 1, len(line)), line) + rng.uniform(0, 0.015, len(x))], axis=1)
    heights = height * rng.uniform(0.6, 1.25, len(x))
    needles = rng.uniform(0, 1, len(x)) < share
    plant(rng, sheet, day, "tree", feet[~needles], heights[~needles], distance)
    plant(rng, sheet, day, "fir", feet[needles], heights[needles], distance)


def boulder(rng: Rng, sheet: Canvas, at: tuple[float, float], radius: float, colour: np.ndarray) -> None:
    """A stone, or a floe: a rough polygon with a darker lower half."""
    angle = (np.arange(9) + rng.uniform(0, 0.9, 9)) * (2 * np.pi / 9)
    ring = np.stack([np.cos(angle), np.sin(angle) * 0.6], axis=1) * radius * rng.uniform(0.75, 1.1, (9, 1))
    sheet.polygon(np.array(at) + ring, colour)
    sheet.polygon(np.array(at) + np.concatenate([ring[ring[:, 1] > 0], [[0, radius * 0.1]]]), colour * 0.65)
