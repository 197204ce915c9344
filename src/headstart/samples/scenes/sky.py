"""The day of a rendered scene: season, weather, where the light comes from, the sky, haze, rain and snow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from headstart.samples.scenes.painting import Canvas, Colour, Rng, blended, mix, near_colour, noise, pick, smooth

SEASONS = ("spring", "summer", "autumn", "winter")
SKIES = {"clear": 0.3, "fair": 0.28, "overcast": 0.2, "sunset": 0.12, "fog": 0.06, "night": 0.04}
"""Kinds of weather, and how often each occurs."""


@dataclass(frozen=True)
class Day:
    """The conditions shared by everything in one image."""

    season: str
    sky: str
    sun: tuple[float, float]
    """Position of the sun, in units of the side; it may be outside the image."""
    light: np.ndarray
    """Factor on colours in the sun."""
    shadow: np.ndarray
    """Factor on colours in the shade."""
    zenith: np.ndarray
    low: np.ndarray
    """Colours of the sky, high and at the horizon."""
    haze: float
    """How much of `low` the farthest things take on, 0 to 1."""
    snow: bool
    """Whether snow lies on the ground."""

    @property
    def side(self) -> float:
        """-1 if the light comes from the left, 1 from the right."""
        return -1.0 if self.sun[0] < 0.5 else 1.0

    def lit(self, colour: Colour, amount: float | np.ndarray = 1.0) -> np.ndarray:
        """A surface of that colour, from 0 (in the shade) to 1 (facing the sun)."""
        if isinstance(amount, np.ndarray):
            return np.asarray(colour, np.float32) * mix(self.shadow, self.light, amount)
        return np.asarray(colour) * (self.shadow + (self.light - self.shadow) * amount)

    def seen(
        self,
        surfaces: Sequence[tuple[np.ndarray | float, Colour]],
        amount: np.ndarray | float,
        distance: np.ndarray | float = 0.0,
    ) -> np.ndarray:
        """float32 (S, S, 3): colours by their fields of weights, lit by `amount` (clipped to 0 to 1), in the haze."""
        veil = 1 - (1 - self.haze) ** np.asarray(distance, np.float32)
        amount = np.clip(amount, 0, 1)
        shadow, gain = self.shadow, self.light - self.shadow
        parts: list[tuple[np.ndarray | float, Colour]] = [(veil, self.low)]
        for weight, colour in surfaces:
            clear = weight * (1 - veil)
            parts += [(clear, np.asarray(colour) * shadow), (clear * amount, np.asarray(colour) * gain)]
        return blended(parts)

    def far(self, colour: np.ndarray, distance: float | np.ndarray) -> np.ndarray:
        """What is left of a colour at a distance, 0 to 1 (the horizon)."""
        if isinstance(distance, np.ndarray):
            return mix(colour, self.low, 1 - (1 - self.haze) ** distance)
        return colour + (self.low - colour) * (1 - (1 - self.haze) ** distance)


def day(rng: Rng, *, snowy: float = 0.5, night: float = 1.0) -> Day:
    """A random day; `snowy` is the part of winter days with snow on the ground, `night` changes how often it is dark."""
    chances = {name: part * (night if name == "night" else 1) for name, part in SKIES.items()}
    sky, season = pick(rng, chances), pick(rng, SEASONS)
    sun = (float(rng.uniform(-0.2, 1.2)), float(rng.uniform(0.02, 0.3)))
    grey = rng.uniform(0.62, 0.9)
    tint = rng.uniform(-0.06, 0.1)
    if sky in ("clear", "fair"):
        strong = rng.uniform(0.9, 1.12)
        light = np.array([1.04 + tint / 2, 1.0, 0.95 - tint]) * strong
        shadow = np.array([0.42, 0.48, 0.58]) * rng.uniform(0.75, 1.15)
        zenith = mix((0.16, 0.38, 0.72), (0.45, 0.66, 0.88), rng.uniform())
        low = mix((0.68, 0.80, 0.92), (0.90, 0.92, 0.90), rng.uniform())
    elif sky == "overcast":
        light, shadow = np.array([0.86, 0.88, 0.9]) * rng.uniform(0.75, 1.05), np.array([0.64, 0.67, 0.71]) * grey
        zenith, low = np.array([0.58, 0.62, 0.68]) * grey, np.array([0.86, 0.88, 0.9]) * min(grey + 0.08, 1)
    elif sky == "sunset":
        light = np.array([1.1, 0.72 + tint, 0.48]) * rng.uniform(0.7, 1.0)
        shadow = np.array([0.34, 0.30, 0.42]) * rng.uniform(0.6, 1.1)
        zenith = mix((0.20, 0.24, 0.48), (0.52, 0.42, 0.58), rng.uniform())
        low = mix((0.98, 0.62, 0.32), (0.96, 0.74, 0.66), rng.uniform())
        sun = (float(rng.uniform(0, 1)), float(rng.uniform(0.2, 0.5)))
    elif sky == "fog":
        light, shadow = np.full(3, 0.85) * grey, np.full(3, 0.7) * grey
        zenith = low = np.array([0.84, 0.86, 0.87]) * (grey + 0.08)
    else:
        light, shadow = np.array([0.36, 0.36, 0.46]), np.array([0.17, 0.18, 0.27])
        zenith, low = np.array([0.03, 0.05, 0.13]), np.array([0.16, 0.17, 0.26]) * rng.uniform(0.6, 1.4)
    haze = float(rng.uniform(0.7, 0.9) if sky == "fog" else rng.beta(1.6, 3.0))
    snow = season == "winter" and bool(rng.uniform() < snowy)
    return Day(season, sky, sun, light, shadow, near_colour(rng, zenith), near_colour(rng, low), haze, snow)


def paint_sky(rng: Rng, size: int, day: Day, horizon: float) -> np.ndarray:
    """float32 (size, size, 3): the sky down to the horizon, with clouds that grow smaller towards it."""
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    height = np.clip(y / max(horizon, 0.2), 0, 1) ** rng.uniform(0.7, 1.8)
    rgb = mix(day.zenith, day.low, np.broadcast_to(height, (size, size)))
    if day.sky == "night":
        stars = noise(rng, size, "fine", span=300) > 3.2
        rgb = mix(rgb, (0.8, 0.82, 0.9), stars * (rng.uniform() < 0.5) * 0.8)
    cover = {"clear": -0.4, "fair": 0.25, "overcast": 1.2, "sunset": 0.3, "fog": -1.0, "night": -0.3}[day.sky]
    cover += rng.normal(0, 0.35)
    cloud = noise(rng, size, "soft", span=rng.uniform(70, 200), stretch=rng.uniform(1.2, 3.5), angle=rng.normal(0, 0.1))
    density = smooth(cloud + cover, 0.35, rng.uniform(1.0, 2.2))
    if density.max() > 0.02:
        rgb = mix(rgb, _cloud_colour(rng, size, day, cloud), density * rng.uniform(0.6, 1.0))
    return _with_sun(rng, rgb, day) if day.sky in ("clear", "sunset", "fair") else rgb


def _cloud_colour(rng: Rng, size: int, day: Day, cloud: np.ndarray) -> np.ndarray:
    """Bright where thin or turned to the light, dark below."""
    shift = max(1, size // 50)
    relief = np.clip((cloud - np.roll(cloud, -shift, axis=0)) * 1.2 + 0.5, 0, 1)
    bright = {"night": (0.2, 0.2, 0.27), "sunset": (1.0, 0.78, 0.62)}.get(day.sky, (0.98, 0.98, 0.98))
    dark = mix(day.zenith, day.low, 0.45) * rng.uniform(0.8, 1.0)
    return mix(bright, dark, np.clip(relief * 0.6 + smooth(cloud, 0.5, 2.8) * 0.5, 0, 1))


def _with_sun(rng: Rng, rgb: np.ndarray, day: Day) -> np.ndarray:
    size = len(rgb)
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    distance = np.sqrt((at[:, None] - day.sun[1]) ** 2 + (at - day.sun[0]) ** 2)
    glow = np.exp(-distance / rng.uniform(0.08, 0.3)) * (0.9 if day.sky == "sunset" else 0.5)
    if day.sky == "sunset":
        glow = np.maximum(glow, smooth(-distance, -0.045, -0.03))
    return mix(rgb, (1.0, 0.93, 0.75), np.minimum(glow, 1))


def precipitate(rng: Rng, sheet: Canvas, day: Day) -> None:
    """Rain or falling snow over a finished image, now and then."""
    if day.sky not in ("overcast", "fog") or rng.uniform() > 0.3:
        return
    n = int(rng.integers(60, 260))
    at = rng.uniform(-0.05, 1.05, (n, 2))
    if day.season == "winter":
        radius = rng.uniform(0.002, 0.009, (n, 1)) * np.ones((1, 2))
        sheet.ellipses(at, radius, mix((0.8, 0.8, 0.83), (1, 1, 1), 0.5))
        return
    slant, length = rng.normal(0, 0.02), rng.uniform(0.03, 0.09)
    ends = at + np.array([slant, length]) * rng.uniform(0.6, 1.4, (n, 1))
    dry = sheet.image.copy()
    sheet.lines(np.stack([at, ends], axis=1), 0.003, mix(day.low, (1, 1, 1), 0.4))
    sheet.image.paste(Image.blend(dry, sheet.image, 0.5))
