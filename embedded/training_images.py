"""What the backbone is trained on: crops of 25 photographs, and images that are drawn.

The photographs come with scikit-image, scikit-learn, matplotlib and SciPy 1.9; README.md says what the terms of each are.
Asano and Saeed (2023, "Extrapolating from a single image to a thousand classes using distillation") found that crops of
very few images, heavily varied, carry a teacher's function surprisingly far.
Drawn are scenes (headstart's sample set), dead leaves (Lee, Mumford and Huang 2001: occluding shapes of power-law sizes)
and fractals (iterated function systems, as in Kataoka et al. 2020). Nothing else: no data set that headstart is judged on.

A crop costs 1.2 ms of a core; drawing a pool of 4,000 images at the start about two minutes.
"""

from __future__ import annotations

import bz2
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from headstart.errors import MissingData
from headstart.samples.scenes import KINDS, render

PHOTOGRAPHS = {
    "astronaut.png": 3.0,
    "brick.png": 1.0,
    "camera.png": 2.0,
    "cell.png": 0.3,
    "chelsea.png": 4.0,
    "clock_motion.png": 0.5,
    "coffee.png": 2.0,
    "coins.png": 1.0,
    "color.png": 0.3,
    "grass.png": 1.0,
    "gravel.png": 1.0,
    "hubble_deep_field.jpg": 1.0,
    "ihc.png": 0.5,
    "logo.png": 0.5,
    "moon.png": 0.5,
    "motorcycle_left.png": 2.0,
    "motorcycle_right.png": 1.0,
    "page.png": 0.3,
    "retina.jpg": 0.5,
    "rocket.jpg": 2.0,
    "text.png": 0.2,
    "china.jpg": 5.0,
    "flower.jpg": 4.0,
    "grace_hopper.jpg": 2.0,
    "face.dat": 5.0,
}
"""File name -> how often it is taken, by how much there is to see in it."""
DRAWN_SHARE = 0.35
"""Part of the crops that are of drawn images."""
MIXED_SHARE = 0.3
"""Part of the images of a batch that are blended with another: the teacher says what that is, too."""


def photographs(folder: Path) -> dict[str, Image.Image]:
    """The images of `PHOTOGRAPHS` in a folder, RGB. Raises `MissingData` if any is not there."""
    missing = [name for name in PHOTOGRAPHS if not (folder / name).is_file()]
    if missing:
        raise MissingData(
            f"{folder}: {len(missing)} of {len(PHOTOGRAPHS)} photographs are not there: {', '.join(missing[:4])}"
            + (", ..." if len(missing) > 4 else "."),
            hint=f"Collect them: python embedded/photographs.py {folder}",
        )
    return {name: _opened(folder / name) for name in PHOTOGRAPHS}


def _opened(path: Path) -> Image.Image:
    if path.suffix == ".dat":  # SciPy's raccoon: bz2, 768 x 1024 RGB
        pixels = np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8).reshape(768, 1024, 3)
        return Image.fromarray(pixels)
    return Image.open(path).convert("RGB")


class Crops:
    """An endless supply of batches, decided by the seed.

    `photographs` are by their names in `PHOTOGRAPHS`, `size` is the side in pixels. Either of photographs and `drawn` may be
    empty; then all crops are of the others.
    """

    def __init__(
        self, photographs: Mapping[str, Image.Image], drawn: list[Image.Image], *, seed: int, size: int
    ) -> None:
        if not photographs and not drawn:
            raise ValueError("photographs and drawn are both empty; expected images to cut crops from")
        self.photographs = list(photographs.values())
        weights = np.array([PHOTOGRAPHS[name] for name in photographs])
        self.weights, self.drawn, self.size = weights / weights.sum(), drawn, size
        self.rng = np.random.default_rng(seed)

    def batch(self, n: int) -> np.ndarray:
        """uint8 (n, size, size, 3)."""
        images = np.stack([self._one() for _ in range(n)])
        mixed = int(n * MIXED_SHARE)
        others = self.rng.permutation(n)[:mixed]
        share = self.rng.uniform(0.2, 0.8, (mixed, 1, 1, 1)).astype(np.float32)
        blended = share * images[:mixed] + (1 - share) * images[others]
        return np.concatenate([blended.astype(np.uint8), images[mixed:]])

    def _one(self) -> np.ndarray:
        rng = self.rng
        if self.drawn and (rng.random() < DRAWN_SHARE or not self.photographs):
            image, least = self.drawn[rng.integers(len(self.drawn))], 0.15
        else:
            image, least = self.photographs[rng.choice(len(self.photographs), p=self.weights)], 0.02
        crop = image.resize((self.size, self.size), Image.Resampling.BILINEAR, self._box(image.size, least), 2.0)
        turn = rng.random()
        if turn < 0.15:
            crop = crop.rotate(rng.uniform(-30, 30), Image.Resampling.BILINEAR)
        elif turn < 0.25:
            crop = crop.transpose(Image.Transpose(int(rng.integers(2, 5))))
        pixels = np.asarray(crop, np.float32)
        return np.clip(self._coloured(pixels[:, ::-1] if rng.random() < 0.5 else pixels), 0, 255).astype(np.uint8)

    def _box(self, size: tuple[int, int], least: float) -> tuple[float, float, float, float]:
        """A random crop: area uniform in its logarithm from `least` of the image's to all of it, shape from 2:3 to 3:2."""
        rng, (width, height) = self.rng, size
        area, shape = np.exp(rng.uniform(np.log(least), 0)) * width * height, np.exp(rng.uniform(-0.4, 0.4))
        wide, high = min(width, max(32, (area * shape) ** 0.5)), min(height, max(32, (area / shape) ** 0.5))
        left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
        return left, top, left + wide, top + high

    def _coloured(self, pixels: np.ndarray) -> np.ndarray:
        rng = self.rng
        if rng.random() < 0.15:
            pixels = pixels[:, :, rng.permutation(3)]
        if rng.random() < 0.7:
            grey, mean = pixels.mean(2, keepdims=True), pixels.mean()
            pixels = grey + (pixels - grey) * rng.uniform(0.2, 1.7)
            pixels = (pixels - mean) * rng.uniform(0.5, 1.4) + mean + rng.uniform(-40, 40)
            pixels = pixels * np.exp(rng.normal(0, 0.12, 3)).astype(np.float32)
        if rng.random() < 0.15:
            pixels = pixels + rng.normal(0, rng.uniform(2, 15), pixels.shape).astype(np.float32)
        return pixels


def drawn(n: int, seed: int, *, side: int = 192) -> list[Image.Image]:
    """`n` drawn images: two thirds scenes, the others dead leaves and fractals by turns."""
    rng = np.random.default_rng(seed)
    kinds: tuple[Callable[[np.random.Generator, int], Image.Image], ...] = (*[scene] * 4, dead_leaves, fractal)
    return [kinds[i % len(kinds)](rng, side) for i in range(n)]


def scene(rng: np.random.Generator, side: int) -> Image.Image:
    """One of the sample set's scenes, of any class."""
    names = tuple(KINDS)
    return Image.fromarray(render(names[rng.integers(len(names))], rng, side))


def dead_leaves(rng: np.random.Generator, side: int) -> Image.Image:
    """Shapes that hide one another, of sizes r with density r^-3, each with its own colours and grain."""
    scale, count = 2, int(rng.integers(4, 12))
    palette = np.clip(rng.uniform(20, 230, (count, 1)) + rng.normal(0, rng.uniform(5, 60), (count, 3)), 0, 255)
    image = Image.fromarray(_grain(rng, side * scale, palette[0]))
    for _ in range(int(rng.integers(60, 220))):
        r = side * scale * min(0.5, 0.03 * rng.random() ** -0.5)
        x, y = rng.uniform(0, side * scale, 2)
        mask = Image.new("L", (int(2 * r) + 2,) * 2)
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        if rng.random() < 0.5:
            squeeze = r * rng.uniform(0, 0.6)
            ImageDraw.Draw(mask).ellipse((0, squeeze, 2 * r, 2 * r - squeeze), fill=255)
        else:
            ImageDraw.Draw(mask).polygon([(r + r * np.cos(a), r + r * np.sin(a)) for a in angles], fill=255)
        mask = mask.rotate(rng.uniform(0, 360))
        colour = np.clip(palette[rng.integers(len(palette))] + rng.normal(0, 20, 3), 0, 255)
        image.paste(Image.fromarray(_grain(rng, mask.size[0], colour)), (int(x - r), int(y - r)), mask)
    return image.resize((side, side), Image.Resampling.LANCZOS)


def _grain(rng: np.random.Generator, side: int, colour: np.ndarray) -> np.ndarray:
    """A square of a colour with noise of one size, and a slope of light."""
    cells = max(2, int(side / np.exp(rng.uniform(0, 4))))
    coarse = Image.fromarray(rng.normal(0, 1, (cells, cells)).astype(np.float32))
    noise = coarse.resize((side, side), Image.Resampling.BICUBIC)
    slope = np.linspace(-1, 1, side) * rng.normal(0, 25)
    light = np.asarray(noise) * rng.uniform(0, 40) + (slope[:, None] if rng.random() < 0.5 else slope)
    return np.clip(np.asarray(colour)[None, None] + light[:, :, None], 0, 255).astype(np.uint8)


def fractal(rng: np.random.Generator, side: int) -> Image.Image:
    """The attractor of a few random affine maps, 400 points at a time, coloured by how often a place is met."""
    maps = rng.uniform(-1, 1, (int(rng.integers(2, 6)), 2, 3))
    maps[:, :, :2] *= 0.9 / np.maximum(1e-3, np.linalg.norm(maps[:, :, :2], 2, axis=(1, 2)))[:, None, None]
    maps[:, :, :2] *= rng.uniform(0.5, 1.0, (len(maps), 1, 1))
    points, seen = rng.uniform(-1, 1, (400, 2)), []
    for step in range(150):
        chosen = maps[rng.integers(len(maps), size=len(points))]
        points = np.einsum("nij,nj->ni", chosen[:, :, :2], points) + chosen[:, :, 2]
        seen += [points] if step >= 20 else []
    places = np.concatenate(seen)
    low, high = np.percentile(places, 1, axis=0), np.percentile(places, 99, axis=0)
    edges = [np.linspace(low[k], high[k] + 1e-6, side + 1) for k in range(2)]
    counts, _, _ = np.histogram2d(places[:, 0], places[:, 1], bins=edges)
    cover = np.minimum(1, 2 * np.log1p(counts) / np.log1p(counts.max()))[:, :, None]
    ground, ink = rng.uniform(0, 255, 3), rng.uniform(0, 255, (2, 3))
    shade = ink[0] + (ink[1] - ink[0]) * np.linspace(0, 1, side)[:, None, None]
    base = _grain(rng, side, ground)
    return Image.fromarray(np.clip(base * (1 - cover) + shade * cover, 0, 255).astype(np.uint8))
