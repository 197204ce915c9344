"""A small paint box for rendered scenes: noise, a sheet to paint on, perspective, ridges, trees.

A sheet is painted at twice its final side and halved at the end, which smooths edges. Points are given in units of the
side (x to the right, y down, 0 to 1), so that a scene is the same at any size. Numpy and Pillow only: a polygon costs
about 1.5 microseconds, a noise field of 150 x 150 about 0.3 ms, a textured region 0.4 ms (one core).

Not a drawing library: no curves but ellipses, no text, no transparency of polygons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

Colour = Sequence[float] | np.ndarray
"""Red, green, blue, each 0 to 1 (as stored, that is, with sRGB's gamma)."""
Rng = np.random.Generator

TILE = 512
NOISES = {"hills": 3.4, "soft": 2.6, "rough": 1.9, "fine": 1.1, "white": 0.0}
"""Name of a noise and the exponent of its power spectrum: 2.6 is a cloud, 1.9 rock, 1.1 gravel, 0 a sensor's noise."""


# Noise


@cache
def tile(kind: str) -> Image.Image:
    """A 1,024 x 1,024 field, mean 0 and deviation 1, of a 512 x 512 one that repeats. The same in every process.

    Besides `NOISES`: 'ridge' (sharp crests, Musgrave's ridged multifractal on three octaves) and 'cells' (cracked
    ice: distance to the nearest of 240 points).
    """
    rng = np.random.default_rng([20, sum(kind.encode())])
    if kind == "cells":
        field = _cells(rng)
    elif kind == "ridge":
        octaves = [_spectral(rng, 3.4) for _ in range(3)]
        field = sum(
            (1 - np.abs(np.tile(o[:: 1 << i, :: 1 << i], (1 << i, 1 << i)))) / 2**i for i, o in enumerate(octaves)
        )
    else:
        field = _spectral(rng, NOISES[kind])
    field = np.asarray(field, np.float32)
    field = (field - field.mean()) / field.std()
    return Image.fromarray(np.tile(field, (2, 2)))


@cache
def tile_array(kind: str) -> np.ndarray:
    """float32 (512, 512): the part of `tile` that repeats."""
    return np.ascontiguousarray(np.asarray(tile(kind))[:TILE, :TILE])


def _spectral(rng: Rng, exponent: float) -> np.ndarray:
    """Gaussian noise whose power falls with frequency to the power of `exponent`, deviation 1."""
    along = np.fft.fftfreq(TILE)
    frequency = np.hypot(along[:, None], along[None, : TILE // 2 + 1])
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(rng.standard_normal((TILE, TILE))) * frequency ** (-exponent / 2)
    field = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return field / field.std()


def _cells(rng: Rng) -> np.ndarray:
    at = np.arange(TILE, dtype=np.float32)
    nearest = np.full((TILE, TILE), np.inf, np.float32)
    second = nearest.copy()
    for x, y in rng.uniform(0, TILE, (240, 2)).astype(np.float32):
        dx, dy = (np.abs((at - centre + TILE / 2) % TILE - TILE / 2) for centre in (x, y))
        distance = dy[:, None] ** 2 + dx**2
        second = np.minimum(second, np.maximum(nearest, distance))
        nearest = np.minimum(nearest, distance)
    return np.minimum(np.sqrt(second) - np.sqrt(nearest), 12)


def noise(
    rng: Rng, size: int, kind: str = "soft", *, span: float = 150, stretch: float = 1.0, angle: float = 0.0
) -> np.ndarray:
    """float32 (size, size): a random cut of a tile, `span` tile pixels wide and `stretch` times fewer of them across.

    `angle` (radians) turns the direction in which it is stretched; 0 is along x. `span` is at most 330.
    """
    step = span / size
    along, across = step / max(stretch, 1), step
    if stretch < 1:
        along, across = step, step * stretch
    cos, sin = np.cos(angle), np.sin(angle)
    a, b, d, e = along * cos, along * sin, -across * sin, across * cos
    cx, cy = rng.uniform(TILE / 2, TILE * 1.5, 2)
    half = size / 2
    corner = (a, b, cx - (a + b) * half, d, e, cy - (d + e) * half)
    cut = tile(kind).transform((size, size), Image.Transform.AFFINE, corner, Image.Resampling.BILINEAR)
    return np.asarray(cut)


def slab(rng: Rng, size: int, kind: str) -> np.ndarray:
    """float32 (size, size): a random part of a tile, unscaled: the cheapest noise."""
    x, y = rng.integers(0, TILE, 2)
    return np.asarray(tile(kind).crop((x, y, x + size, y + size)))


def sampled(rng: Rng, kind: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The noise at any places, in tile pixels from a random start; nearest pixel, repeating."""
    x, y = rng.integers(0, TILE, 2)
    return tile_array(kind)[(v + y).astype(np.int32) & (TILE - 1), (u + x).astype(np.int32) & (TILE - 1)]


def plane(
    rng: Rng, size: int, horizon: float, kind: str = "rough", *, near: float = 150, ratio: float = 1.0
) -> np.ndarray:
    """float32 (size, size): noise on level ground seen in perspective, 0 above the `horizon`; flatter far away.

    The lowest row is `near` tile pixels wide. `ratio` > 1 makes ripples: longer across than in depth.
    """
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    x = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    depth = (1 - horizon) / np.maximum(y - horizon, 0.5 / size)
    field = sampled(rng, kind, x * depth * (near / ratio), np.broadcast_to(depth, (size, size)) * (near * 1.2))
    return field * np.where(y > horizon, np.minimum(1, 2.2 / np.sqrt(depth)), 0).astype(np.float32)


def ridge_line(rng: Rng, n: int, *, roughness: float = 0.55, ends: tuple[float, float] | None = None) -> np.ndarray:
    """float64 (n,): a mountain's outline, 0 to 1, by midpoint displacement (Fournier, Fussell & Carpenter 1982)."""
    line = np.array(ends if ends is not None else rng.uniform(0, 1, 2))
    spread = 0.5
    while len(line) < n:
        middle = (line[1:] + line[:-1]) / 2 + rng.normal(0, spread / 2, len(line) - 1)
        line = np.insert(line, np.arange(1, len(line)), middle)
        spread *= roughness
    line = np.interp(np.linspace(0, len(line) - 1, n), np.arange(len(line)), line)
    return (line - line.min()) / max(float(np.ptp(line)), 1e-6)


# Colours


def mix(first: Colour | np.ndarray, second: Colour | np.ndarray, part: float | np.ndarray) -> np.ndarray:
    """`first` where `part` is 0, `second` where it is 1; `part` may be a field (S, S), then so is the result."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    if isinstance(part, np.ndarray) and part.ndim:
        return a + (b - a) * part.astype(np.float32, copy=False)[..., None]
    return a + (b - a) * np.float32(part)


def blended(parts: Sequence[tuple[np.ndarray | float, Colour]]) -> np.ndarray:
    """float32 (S, S, 3): the sum of colours, each times its field of weights (S, S)."""
    fields = np.broadcast_arrays(*(weight for weight, _ in parts))
    weights = np.empty((*fields[0].shape, len(parts)), np.float32)
    for k, field in enumerate(fields):
        weights[..., k] = field
    return weights @ np.array([colour for _, colour in parts], np.float32)


def smooth(field: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, a smooth step in between."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def near_colour(rng: Rng, colour: Colour, spread: float = 0.05) -> np.ndarray:
    """A random colour close to the given one."""
    changed = np.asarray(colour) * rng.uniform(1 - spread, 1 + spread) + rng.normal(0, spread / 6, 3)
    return np.minimum(np.maximum(changed, 0), 1)


T = TypeVar("T")


def pick(rng: Rng, options: Sequence[T] | Mapping[T, float]) -> T:
    """A random choice, with a mapping's values as weights, else uniform (ten times as fast as `Generator.choice`)."""
    if not isinstance(options, Mapping):
        return options[int(rng.integers(len(options)))]
    rest = rng.uniform() * sum(options.values())
    for option, chance in options.items():
        rest -= chance
        if rest < 0:
            return option
    return option


def rgb8(colour: Colour) -> tuple[int, int, int]:
    """A colour in Pillow's form."""
    r, g, b = colour
    return (_byte(r), _byte(g), _byte(b))


def _byte(value: float) -> int:
    return min(255, max(0, int(value * 255 + 0.5)))


# The sheet


class Canvas:
    """A square image being painted; later strokes cover earlier ones."""

    def __init__(self, size: int, ground: np.ndarray | None = None) -> None:
        self.size = size
        self.side = 2 * size
        self.image = Image.new("RGB", (self.side, self.side))
        self._pen = ImageDraw.Draw(self.image)
        if ground is not None:
            self.cover(ground)

    def pixels(self) -> np.ndarray:
        """float32 (size, size, 3), 0 to 1: what is painted so far."""
        return np.asarray(self.image.reduce(2), np.float32) / np.float32(255)

    def polygon(self, points: np.ndarray, colour: Colour) -> None:
        """Fill a polygon, points (P, 2)."""
        self._pen.polygon((np.asarray(points) * self.side).ravel().tolist(), fill=rgb8(colour))

    def polygons(self, points: np.ndarray, colours: np.ndarray | Colour) -> None:
        """Fill polygons (N, P, 2) with a colour each (N, 3), or one for all."""
        flat = [corners.ravel().tolist() for corners in np.asarray(points) * self.side]
        for corners, fill in zip(flat, self._fills(colours, len(flat)), strict=True):
            self._pen.polygon(corners, fill=fill)

    def ellipses(self, centres: np.ndarray, radii: np.ndarray, colours: np.ndarray | Colour) -> None:
        """Fill ellipses at (N, 2) with half axes (N, 2)."""
        c, r = np.asarray(centres, float), np.abs(np.asarray(radii, float))
        boxes = (np.concatenate([c - r, c + r], axis=1) * self.side).tolist()
        for box, fill in zip(boxes, self._fills(colours, len(boxes)), strict=True):
            self._pen.ellipse(box, fill=fill)

    def lines(self, segments: np.ndarray, widths: np.ndarray | float, colours: np.ndarray | Colour) -> None:
        """Straight strokes (N, 2, 2), `widths` in units of the side."""
        flat = (np.asarray(segments) * self.side).reshape(len(segments), 4).tolist()
        if isinstance(widths, np.ndarray):
            thick = np.maximum(1, widths * self.side + 0.5).astype(int).tolist()
        else:
            thick = [max(1, int(widths * self.side + 0.5))] * len(flat)
        for ends, width, fill in zip(flat, thick, self._fills(colours, len(flat)), strict=True):
            self._pen.line(ends, fill=fill, width=width)

    def curve(self, points: np.ndarray, width: float, colour: Colour) -> None:
        """A stroke through points (P, 2)."""
        thick = max(1, round(width * self.side))
        self._pen.line((np.asarray(points) * self.side).ravel().tolist(), fill=rgb8(colour), width=thick, joint="curve")

    def area(self, *polygons: np.ndarray) -> Image.Image:
        """What the polygons cover, as a mask for `cover`."""
        mask = Image.new("L", (self.side, self.side))
        pen = ImageDraw.Draw(mask)
        for points in polygons:
            pen.polygon((np.asarray(points) * self.side).ravel().tolist(), fill=255)
        return mask

    def field(self, values: np.ndarray) -> Image.Image:
        """Values (size, size), 0 to 1, as a mask for `cover`."""
        mask = Image.fromarray((np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8))
        return mask.resize((self.side, self.side), Image.Resampling.BILINEAR)

    def cover(self, rgb: np.ndarray, mask: Image.Image | None = None) -> None:
        """Paint pixels (size, size, 3), or one colour, where the mask is."""
        if rgb.ndim == 1:
            self.image.paste(rgb8(rgb), (0, 0, self.side, self.side), mask)
            return
        layer = Image.fromarray((np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8))
        layer = layer.resize((self.side, self.side), Image.Resampling.NEAREST)
        self.image.paste(layer, (0, 0), mask)

    @staticmethod
    def _fills(colours: np.ndarray | Colour, n: int) -> list[tuple[int, ...]]:
        given = np.asarray(colours)
        if given.ndim == 1:
            return [rgb8(given)] * n
        bytes_N3 = np.clip(given * 255 + 0.5, 0, 255).astype(int)
        return [tuple(c) for c in bytes_N3.tolist()]


def under(line: np.ndarray, bottom: float = 1.02) -> np.ndarray:
    """The polygon (n + 2, 2) below a line of heights y (n,) that runs from the left edge to the right one."""
    x = np.linspace(-0.01, 1.01, len(line))
    return np.concatenate([np.stack([x, line], axis=1), [[1.01, bottom], [-0.01, bottom]]])


# Perspective


def homography(corners: np.ndarray) -> np.ndarray:
    """(3, 3): takes the unit square to four corners (4, 2), in the order (0, 0), (1, 0), (1, 1), (0, 1)."""
    rows, right = [], []
    for (u, v), (x, y) in zip(((0, 0), (1, 0), (1, 1), (0, 1)), np.asarray(corners).tolist(), strict=True):
        rows += [[u, v, 1, 0, 0, 0, -u * x, -v * x], [0, 0, 0, u, v, 1, -u * y, -v * y]]
        right += [x, y]
    return np.append(np.linalg.solve(np.array(rows), np.array(right)), 1).reshape(3, 3)


def projected(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) through a homography."""
    out = points @ matrix[:, :2].T + matrix[:, 2]
    return out[..., :2] / out[..., 2:]


def boxes(
    left: np.ndarray | float, top: np.ndarray | float, right: np.ndarray | float, bottom: np.ndarray | float
) -> np.ndarray:
    """Corners (N, 4, 2) of upright rectangles, clockwise from the top left."""
    out = np.empty((max(map(np.size, (left, top, right, bottom))), 4, 2))
    out[:, 0::3, 0], out[:, 1:3, 0] = np.reshape(left, (-1, 1)), np.reshape(right, (-1, 1))
    out[:, :2, 1], out[:, 2:, 1] = np.reshape(top, (-1, 1)), np.reshape(bottom, (-1, 1))
    return out
