"""Six classes of rendered scenes: buildings, forest, glacier, mountain, sea, street.

    image = render("sea", np.random.default_rng(3), 150)        # uint8 (150, 150, 3)

Every image has its own season, weather, light, viewpoint, colour cast, lens and noise; the classes share snow, water,
trees, rock and houses. The same state of `rng`, kind and size give the same image (on one kind of processor; another
one may round differently). They are drawings: for trying things out, for tests, and for practice. They do not show
how well something works on photographs.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from headstart.samples.scenes.buildings import buildings
from headstart.samples.scenes.forests import forest
from headstart.samples.scenes.mountains import glacier, mountain
from headstart.samples.scenes.painting import Canvas, Rng, near_colour, pick, slab
from headstart.samples.scenes.plants import clumps, leaf_colour, one
from headstart.samples.scenes.seas import sea
from headstart.samples.scenes.sky import Day, day, precipitate
from headstart.samples.scenes.streets import street

KINDS = {
    "buildings": buildings,
    "forest": forest,
    "glacier": glacier,
    "mountain": mountain,
    "sea": sea,
    "street": street,
}
"""Name of a class -> the function that paints it."""
SMALLEST, LARGEST = 32, 320
GREY = (0.3, 0.59, 0.11)


def render(kind: str, rng: Rng, size: int = 150) -> np.ndarray:
    """uint8 (size, size, 3): one image of that kind, a different one at each call.

    Raises `ValueError` for an unknown kind, or a size outside of 32 to 320 pixels.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}")
    if not SMALLEST <= size <= LARGEST:
        raise ValueError(f"size is {size}; expected {SMALLEST} to {LARGEST} pixels")
    today = day(rng, night=2.0 if kind in ("buildings", "street") else 0.4)
    sheet = KINDS[kind](rng, size, today)
    precipitate(rng, sheet, today)
    if rng.uniform() < 0.12:
        _in_the_way(rng, sheet, today)
    return _developed(rng, _framed(rng, sheet))


def _in_the_way(rng: Rng, sheet: Canvas, day: Day) -> None:
    """Add something near the lens: twigs, a post, a rail, a blurred edge."""
    what = rng.integers(4)
    if what == 0:
        foot = (pick(rng, [-0.05, 1.05]), rng.uniform(0.3, 1.1))
        one(rng, sheet, day, "bare", foot, rng.uniform(0.8, 1.3))
    elif what == 1:
        at = (pick(rng, [0.0, 1.0]), float(rng.uniform(0.0, 1.0)))
        clumps(rng, sheet, day, at, (rng.uniform(0.15, 0.3), rng.uniform(0.15, 0.3)), leaf_colour(rng, day), n=60)
    elif what == 2:
        x, width = rng.uniform(0.1, 0.9), rng.uniform(0.02, 0.07)
        sheet.lines(
            np.array([[[x, -0.05], [x + rng.normal(0, 0.05), 1.05]]]), width, rng.uniform(0.05, 0.5) * np.ones(3)
        )
    else:
        y = rng.uniform(0.75, 0.95)
        rails = np.array([[[-0.05, y + d], [1.05, y + d + rng.normal(0, 0.02)]] for d in (0, 0.1)])
        posts = np.array(
            [[[x, y - 0.02], [x, 1.05]] for x in np.arange(rng.uniform(0, 0.2), 1, rng.uniform(0.12, 0.3))]
        )
        sheet.lines(np.concatenate([rails, posts]), rng.uniform(0.01, 0.025), near_colour(rng, (0.35, 0.28, 0.22), 0.3))


def _framed(rng: Rng, sheet: Canvas) -> np.ndarray:
    """float32 (S, S, 3): the sheet as the camera frames it: closer, a little tilted, mirrored, or as it is."""
    size = sheet.size
    image = sheet.image
    if rng.uniform() < 0.5:
        angle, zoom = rng.normal(0, 0.04), rng.uniform(1.0, 1.3)
        cos, sin = np.cos(angle), np.sin(angle)
        zoom = max(zoom, abs(cos) + abs(sin))
        a, b = 2 * cos / zoom, 2 * sin / zoom
        room = size * (1 - (abs(cos) + abs(sin)) / zoom)
        cx, cy = size + rng.uniform(-room, room, 2)
        turned = (a, b, cx - (a + b) * size / 2, -b, a, cy - (a - b) * size / 2)
        image = image.transform((size, size), Image.Transform.AFFINE, turned, Image.Resampling.BILINEAR)
    else:
        image = image.reduce(2)
    pixels = np.asarray(image, np.float32) / np.float32(255)
    return pixels[:, ::-1] if rng.uniform() < 0.5 else pixels


def _developed(rng: Rng, pixels: np.ndarray) -> np.ndarray:
    """uint8 (S, S, 3): exposure, contrast, saturation, cast, falling off of light, sharpness, noise."""
    size = len(pixels)
    saturation = 0.0 if rng.uniform() < 0.05 else rng.uniform(0.6, 1.3)
    warm, green = rng.normal(0, 0.05), rng.normal(0, 0.015)
    if rng.uniform() < 0.06:
        warm = pick(rng, [-0.14, 0.16])
    cast = np.array([1 + warm, 1 + green, 1 - warm])
    middle = float(pixels.mean())
    goal = np.clip(middle + rng.normal(0, 0.07), 0.2, 0.75)
    contrast = rng.uniform(0.75, 1.25)
    colours = saturation * np.eye(3) + (1 - saturation) * np.array(GREY)[:, None]
    turned = (colours * contrast * cast).astype(np.float32)
    pixels = pixels @ turned + ((goal - contrast * middle) * cast).astype(np.float32)
    shine: np.ndarray = 1 + np.float32(rng.uniform(0, 0.04)) * slab(rng, size, "fine")
    if rng.uniform() < 0.4:
        at = np.linspace(-1, 1, size, dtype=np.float32) ** 2
        shine = shine * (1 - np.float32(rng.uniform(0.05, 0.3)) * (at[:, None] + at) / 2)
    pixels *= shine[..., None]
    image = _soft(rng, Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8)))
    grain = np.float32(rng.exponential(2.5) + 0.5)
    noisy = np.asarray(image, np.float32) + np.float32(0.5)
    for channel in range(3):
        noisy[..., channel] += grain * slab(rng, size, "white")
    return np.clip(noisy, 0, 255).astype(np.uint8)


def _soft(rng: Rng, image: Image.Image) -> Image.Image:
    """Out of focus, shaken, or enlarged from fewer pixels; most images are none of these."""
    kind, size = rng.uniform(), image.width
    if kind < 0.12:
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3) * size / 150))
    if kind < 0.17:
        reach = round(rng.uniform(1, 4) * size / 150)
        return Image.blend(image, image.transform(image.size, Image.Transform.AFFINE, (1, 0, reach, 0, 1, 0)), 0.5)
    if kind < 0.27:
        small = round(size * rng.uniform(0.5, 0.85))
        return image.resize((small, small), Image.Resampling.BILINEAR).resize(image.size, Image.Resampling.BICUBIC)
    return image
