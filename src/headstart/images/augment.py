"""Augmentation: each epoch sees a different version of each training image.

    parse_augment("flip,rotation=15,shift=0.1") -> Augment      the possible changes, as data
    rng_for(seed, epoch, sha256)                                the random numbers for this image in this epoch
    augmented(image, spec, augment, rng) -> uint8 (S, S, 3)

The result depends only on (seed, epoch, hash of the image): not on the order, the batch, or the number of threads.
Steps run in this order, and each draws random numbers only if it is enabled:

    1. region: a random crop, or the region `Preprocess` shows         crop=0.35
    2. rotation, shift, shear, zoom, mirror image: one affine map      rotation=40 shift=0.2 shear=0.2 zoom=0.2 flip
       of that region, filled beyond the image's edge                  fill=nearest, reflect or constant
    3. brightness, contrast, colour                                    brightness=0.2 contrast=0.2 color=0.2
    4. one policy of random operations                                 trivial, rand, rand=2/9 or augmix
    5. a rectangle of noise                                            erasing=0.25

Steps 1 and 2 and the resize are one resampling. With no step enabled the result equals `Preprocess.apply` to the bit,
and with flip alone it is the exact mirror image half of the time. The affine map samples bilinearly from an image of up
to twice the scale of the result (JPEGs are decoded at such a scale); larger images are reduced to it first. Sampling
from an image already resized to the square, as Keras does, keeps 72 % of the mean gradient of a sharp reference; this
keeps 90 %.

A view of 160 px takes 0.7 to 1.2 ms on one core, and 3.5 ms with AugMix; decoding (0.6 to 1.3 ms) is shared by all
views of an image (`read_views`). When not to use it: for validation, test and prediction.

Shift, rotation, shear and zoom are those of Keras's ImageDataGenerator, so recipes written for it can be reproduced:
the amounts are limits of uniform draws, shear is an angle in degrees (so `shear_range=0.2` is a fifth of a degree,
almost nothing), and zoom is drawn separately for each axis.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageEnhance

from headstart.errors import RecipeError, near_names
from headstart.images.augment_policies import OPERATIONS, augmix, rand, trivial
from headstart.images.image_refs import Images
from headstart.images.preprocess import INTERPOLATIONS, Preprocess

FILLS = ("nearest", "reflect", "constant")
POLICIES = ("trivial", "rand", "augmix")
PLAIN = -1
"""Number of the unaugmented view, for `read_views`."""

_AMOUNTS: Mapping[str, tuple[float, str]] = MappingProxyType(
    {
        "shift": (1, "a fraction of the side from 0 to 1, such as shift=0.2"),
        "rotation": (180, "degrees from 0 to 180, such as rotation=15"),
        "shear": (89, "degrees from 0 to 89, such as shear=10"),
        "zoom": (0.99, "a fraction from 0 to 0.99, such as zoom=0.2"),
        "crop": (1, "the smallest fraction of the area, 0.01 to 1, such as crop=0.35"),
        "erasing": (1, "a probability from 0 to 1, such as erasing=0.25"),
        "brightness": (1, "a fraction from 0 to 1, such as brightness=0.2"),
        "contrast": (1, "a fraction from 0 to 1, such as contrast=0.2"),
        "color": (1, "a fraction from 0 to 1, such as color=0.2"),
    }
)
_WORDS = ("flip", "fill", *_AMOUNTS, *POLICIES, "none")
_RATIO = (3 / 4, 4 / 3)  # of a random crop, width to height
_ERASED = (0.02, 0.4)  # fraction of the area
_SHARP = 2.0  # image pixels per pixel of the result, up to which the affine map samples the image directly


@dataclass(frozen=True)
class Augment:
    """The possible changes to a training image; none by default. `parse_augment` reads it, `str` writes it.

    `shift` is a fraction of the side, both ways on both axes; `rotation` and `shear` are degrees, both ways; `zoom` is
    z for factors 1 - z to 1 + z; `crop` is the smallest area of a random crop as a fraction of the image's, 0 for none;
    `brightness`, `contrast` and `color` are b for factors 1 - b to 1 + b; `erasing` is a probability. `policy` is "" or
    one of `POLICIES`; `rand_operations` and `rand_magnitude` (0 to 30) are RandAugment's N and M. Raises `RecipeError`,
    which lists all invalid values.
    """

    flip: bool = False
    shift: float = 0.0
    rotation: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    fill: str = "nearest"
    crop: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    color: float = 0.0
    policy: str = ""
    rand_operations: int = 2
    rand_magnitude: int = 9
    erasing: float = 0.0

    def __post_init__(self) -> None:
        problems = [p for name in _AMOUNTS if (p := _out_of_range(name, getattr(self, name)))]
        if self.fill not in FILLS:
            problems.append(f"fill={self.fill}: expected one of {', '.join(FILLS)}")
        if self.policy not in ("", *POLICIES):
            problems.append(f"policy {self.policy!r}: expected one of {', '.join(POLICIES)}")
        if not (1 <= self.rand_operations <= 14 and 0 <= self.rand_magnitude <= 30):
            problems.append(
                f"rand={self.rand_operations}/{self.rand_magnitude}: expected operations (1 to 14) and a magnitude "
                "(0 to 30), such as rand=2/9"
            )
        if problems:
            raise RecipeError(f"augment cannot be used: {'; '.join(problems)}.")

    def __bool__(self) -> bool:
        """Whether any change is enabled."""
        return bool(self.flip or self.policy or any(getattr(self, name) for name in _AMOUNTS))

    def __str__(self) -> str:
        """The text that `parse_augment` reads, in the order of the fields."""
        words = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "policy" and value:
                words.append(f"rand={self.rand_operations}/{self.rand_magnitude}" if value == "rand" else value)
            elif field.name != "policy" and not field.name.startswith("rand_") and value != field.default:
                words.append("flip" if value is True else f"{field.name}={str(value).removesuffix('.0')}")
        return ",".join(words) or "none"

    @property
    def moves(self) -> bool:
        """Whether an affine map other than the mirror image is enabled."""
        return bool(self.shift or self.rotation or self.shear or self.zoom)


def parse_augment(text: str) -> Augment:
    """Parse a comma-separated list such as ``flip,shift=0.2,rotation=40``; ``none`` or an empty text means no changes.

    >>> parse_augment("flip, rotation=15")
    Augment(flip=True, shift=0.0, rotation=15.0, shear=0.0, zoom=0.0, fill='nearest', crop=0.0, brightness=0.0, \
contrast=0.0, color=0.0, policy='', rand_operations=2, rand_magnitude=9, erasing=0.0)
    >>> str(parse_augment("rand"))
    'rand=2/9'

    Raises `RecipeError`, which lists all problems at once, with the nearest known words.
    """
    values: dict[str, bool | float | int | str] = {}
    problems: list[str] = []
    hints: list[str] = []
    names: set[str] = set()
    for word in filter(None, (w.strip() for w in text.split(","))):
        name, equals, value = (part.strip() for part in word.partition("="))
        if name not in _WORDS:
            problems.append(f"{name!r} is unknown")
            hints.append(near_names(name, list(_WORDS)))
            continue
        if name in names:
            problems.append(f"{name} appears twice")
        names.add(name)
        problem = _parse_word(values, name, value if equals else None)
        problems += [problem] if problem else []
    if "none" in names and len(names) > 1:
        problems.append("none cannot be combined with others")
    if len(chosen := [p for p in POLICIES if p in names]) > 1:
        problems.append(f"{' and '.join(chosen)} exclude each other")
    if problems:
        hint = "\n".join([*filter(None, dict.fromkeys(hints)), f"Expected {', '.join(_WORDS)}."])
        raise RecipeError(f"augment {text!r} cannot be used: {'; '.join(problems)}.", hint=hint)
    return Augment(**values)  # type: ignore[arg-type]


def augmented(image: Image.Image, spec: Preprocess, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Return one augmented version of an upright RGB image of any size: uint8 (image_size, image_size, 3).

    >>> plain = augmented(Image.new("RGB", (40, 30), (9, 8, 7)), Preprocess(16), Augment(), np.random.default_rng(0))
    >>> plain.shape, plain[0, 0].tolist()
    ((16, 16, 3), [9, 8, 7])
    """
    if not augment:
        return spec.apply(image)
    square = _warped(image, spec, augment, rng)
    for enhance, amount in (
        (ImageEnhance.Brightness, augment.brightness),
        (ImageEnhance.Contrast, augment.contrast),
        (ImageEnhance.Color, augment.color),
    ):
        if amount:
            square = enhance(square).enhance(rng.uniform(1 - amount, 1 + amount))
    blank = _blank(spec)
    if augment.policy == "trivial":
        square = trivial(square, rng, blank)
    elif augment.policy == "rand":
        square = rand(square, augment.rand_operations, augment.rand_magnitude, rng, blank)
    elif augment.policy == "augmix":
        square = augmix(square, rng, blank)
    pixels_SS3 = np.asarray(square)
    return _erased(pixels_SS3, augment.erasing, rng) if augment.erasing else pixels_SS3


def rng_for(seed: int, epoch: int, key: str) -> np.random.Generator:
    """Return the random generator for one image in one epoch; `key` is the SHA-256 of its bytes, or any other name.

    Images with the same bytes are augmented in the same way. Costs 0.015 ms.
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{key}".encode(errors="surrogateescape"), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def decode_size(spec: Preprocess, augment: Augment) -> tuple[int, int]:
    """Return the width and height (pixels) that decoding must keep; more for random crops, which are enlarged."""
    if not augment.crop:
        return spec.at_least()
    side = math.ceil(spec.image_size / math.sqrt(augment.crop))
    return (side, side)


def read_views(
    images: Images, row: int, spec: Preprocess, augment: Augment, *, seed: int, numbers: Sequence[int]
) -> np.ndarray:
    """Return several views of image `row`, decoded once: uint8 (V, image_size, image_size, 3).

    View n is what training sees in epoch n; `PLAIN` (-1) is the unaugmented image. Raises `UnreadableImage`.
    """
    image, sha256 = images.read(row, decode_size(spec, augment), ranges=spec.ranges), images.sha256s[row]
    views = [
        spec.apply(image) if number == PLAIN else augmented(image, spec, augment, rng_for(seed, number, sha256))
        for number in numbers
    ]
    return np.stack(views)


# Steps 1 and 2: where each pixel of the square comes from


def _warped(image: Image.Image, spec: Preprocess, augment: Augment, rng: np.random.Generator) -> Image.Image:
    """Return the square of `image_size` after steps 1 and 2, in one resampling."""
    box = random_crop(*image.size, augment.crop, rng) if augment.crop else None
    moved_23 = random_affine(spec.image_size, augment, rng) if augment.moves else None
    mirrored = augment.flip and rng.random() < 0.5
    if moved_23 is not None:
        fill = augment.fill
        if box is None:
            box = _spec_box(image, spec)
            fill = "constant" if spec.resize == "pad" else fill  # beyond the edge of a padded image is padding
        if mirrored:
            moved_23 = _after_mirror(moved_23, spec.image_size)
        return sampled(image, box, moved_23, spec.image_size, fill, _blank(spec))
    if box is not None:
        side, how = spec.image_size, INTERPOLATIONS[spec.interpolation]
        square = image.resize((side, side), how, box=box, reducing_gap=3.0)
    else:
        square = Image.fromarray(spec.apply(image))
    return square.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else square


def random_crop(
    width: int, height: int, smallest: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a box (left, top, right, bottom; pixels) with `smallest` to 1 of the area and an aspect from 3:4 to 4:3.

    Szegedy et al. 2015, Going deeper with convolutions (arXiv 1409.4842), section 6. If none of ten tries fits, as
    happens with long images, it is the largest centred box of such an aspect.
    """
    for _ in range(10):
        area = width * height * rng.uniform(smallest, 1)
        ratio = math.exp(rng.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
            return (left, top, min(left + w, width), min(top + h, height))
    w, h = min(width, height * _RATIO[1]), min(height, width / _RATIO[0])
    return ((width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2)


def random_affine(side: int, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Draw a matrix, float64 (2, 3), from (x, y, 1) in the result to the source (x, y); pixels, corners 0 and `side`.

    The product rotation x shift x shear x zoom about the centre, with Keras's matrices and limits
    (``ImageDataGenerator.get_random_transform`` and ``apply_affine_transform``). Zoom factors above 1 show more.
    """
    angle = math.radians(rng.uniform(-1, 1) * augment.rotation)
    down, right = rng.uniform(-1, 1, 2) * augment.shift * side
    slant = math.radians(rng.uniform(-1, 1) * augment.shear)
    zoom_down, zoom_right = 1 + rng.uniform(-1, 1, 2) * augment.zoom
    return affine(side, angle, (down, right), slant, (zoom_down, zoom_right))


def affine(side: int, angle: float, shift: tuple[float, float], slant: float, zoom: tuple[float, float]) -> np.ndarray:
    """Return the matrix of `random_affine` for angle and slant in radians and shift in pixels; pairs are (down, right).

    >>> affine(100, 0.0, (0.0, 10.0), 0.0, (1.0, 1.0)).tolist()
    [[1.0, 0.0, 10.0], [0.0, 1.0, 0.0]]
    """
    cos, sin = math.cos(angle), math.sin(angle)
    rotate = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])  # on (row, column, 1), as in Keras
    move = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]])
    shear = np.array([[1, -math.sin(slant), 0], [0, math.cos(slant), 0], [0, 0, 1]])
    scale = np.diag([zoom[0], zoom[1], 1.0])
    middle = np.array([[1, 0, side / 2], [0, 1, side / 2], [0, 0, 1]])
    back = np.array([[1, 0, -side / 2], [0, 1, -side / 2], [0, 0, 1]])
    rows_33 = middle @ rotate @ move @ shear @ scale @ back
    return rows_33[np.ix_([1, 0], [1, 0, 2])]  # swap rows and columns: (x, y)


def sampled(
    image: Image.Image,
    box: tuple[float, float, float, float],
    matrix_23: np.ndarray,
    side: int,
    fill: str,
    blank: tuple[int, int, int],
) -> Image.Image:
    """Sample a square of `side` pixels bilinearly from the region `box` of an image, through `matrix_23`.

    `matrix_23` maps the square onto itself, as returned by `affine`. Beyond the image's edge is its nearest pixel, its
    mirror image (reflect), or `blank` (constant). A side of `box` longer than twice `side` is reduced first.
    """
    part = np.array([[(box[2] - box[0]) / side, 0.0], [0.0, (box[3] - box[1]) / side]])
    to_image = part @ matrix_23
    to_image[:, 2] += box[:2]
    size = [
        max(1, round(n * min(1.0, _SHARP / part[axis, axis]))) for axis, n in enumerate(image.size)
    ]  # of the image that is sampled
    to_reduced = to_image * (np.array(size) / image.size)[:, None]
    corners = to_reduced @ np.array([[0, side, 0, side], [0, 0, side, side], [1, 1, 1, 1]])
    low = np.floor(corners.min(axis=1)).astype(int) - 1
    high = np.ceil(corners.max(axis=1)).astype(int) + 1
    if fill == "reflect":
        first, last = np.zeros(2, int), np.array(size)
    else:
        first = np.clip(low, 0, np.array(size) - 1)
        last = np.clip(high, first + 1, size)
    canvas = _cut(image, size, first, last)
    before, after = np.maximum(first - low, 0), np.maximum(high - last, 0)
    if before.any() or after.any():
        canvas = _filled(canvas, before, after, fill, blank)
    to_reduced[:, 2] -= first - before
    data = tuple(to_reduced.ravel().tolist())
    return canvas.transform((side, side), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)


def _cut(image: Image.Image, size: Sequence[int], first: np.ndarray, last: np.ndarray) -> Image.Image:
    """Return pixels `first` to `last` (x, y) of the image resized to `size`."""
    if tuple(size) == image.size:
        return image.crop((*first.tolist(), *last.tolist()))
    scale = np.array(image.size) / size
    box = (*(first * scale).tolist(), *np.minimum(last * scale, image.size).tolist())
    width, height = (last - first).tolist()
    return image.resize((width, height), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)


def _filled(
    image: Image.Image, before: np.ndarray, after: np.ndarray, fill: str, blank: tuple[int, int, int]
) -> Image.Image:
    """Add margins (x, y; pixels) before and after an image, filled as in `sampled`."""
    (left, top), (right, bottom) = before.tolist(), after.tolist()
    if fill == "reflect":
        margins = ((top, bottom), (left, right), (0, 0))
        return Image.fromarray(np.pad(np.asarray(image), margins, mode="symmetric"))
    width, height = image.size
    canvas = Image.new("RGB", (left + width + right, top + height + bottom), blank)
    canvas.paste(image, (left, top))
    if fill == "constant":
        return canvas
    end, low = left + width, top + height  # the edge columns are stretched over the sides, then whole edge rows
    for size, edge, at in (
        ((left, height), (left, top, left + 1, low), (0, top)),
        ((right, height), (end - 1, top, end, low), (end, top)),
        ((canvas.width, top), (0, top, canvas.width, top + 1), (0, 0)),
        ((canvas.width, bottom), (0, low - 1, canvas.width, low), (0, low)),
    ):
        if min(size) > 0:
            canvas.paste(canvas.resize(size, Image.Resampling.NEAREST, box=edge), at)
    return canvas


def _spec_box(image: Image.Image, spec: Preprocess) -> tuple[float, float, float, float]:
    """Return the region that `spec` shows; for pad, a square larger than the image."""
    width, height = image.size
    if spec.resize != "pad":
        return spec.source_box(width, height)
    half = max(width, height) / 2
    return (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)


def _after_mirror(matrix_23: np.ndarray, side: int) -> np.ndarray:
    """Return the matrix that mirrors the result of `matrix_23`."""
    return matrix_23 @ np.array([[-1.0, 0, side], [0, 1, 0], [0, 0, 1]])


def _blank(spec: Preprocess) -> tuple[int, int, int]:
    """Return the mean colour, which the network sees as zero."""
    red, green, blue = (round(255 * m) for m in spec.mean)
    return (red, green, blue)


# Step 5


def _erased(pixels_SS3: np.ndarray, probability: float, rng: np.random.Generator) -> np.ndarray:
    """With `probability`, return a copy with noise in a rectangle of 2 to 40 % of the area, aspect 0.3 to 1 / 0.3.

    Zhong et al. 2020, Random Erasing (arXiv 1708.04896), algorithm 1 with the published settings.
    """
    if rng.random() >= probability:
        return pixels_SS3
    height, width = pixels_SS3.shape[:2]
    while True:  # more than half of the tries fit
        area, ratio = height * width * rng.uniform(*_ERASED), rng.uniform(0.3, 1 / 0.3)
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            break
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    erased_SS3 = pixels_SS3.copy()
    erased_SS3[top : top + h, left : left + w] = rng.integers(0, 256, (h, w, 3), np.uint8)
    return erased_SS3


# Parsing options


def _parse_word(values: dict[str, bool | float | int | str], name: str, value: str | None) -> str:
    """Store one word of the list in `values`; return what is wrong with it, or an empty string."""
    if name in ("flip", "none", "trivial", "augmix"):
        if value is not None:
            return f"{name}={value}: {name} takes no value"
        if name != "none":
            values["flip" if name == "flip" else "policy"] = True if name == "flip" else name
        return ""
    if name == "fill":
        values["fill"] = value or ""
        return "" if value in FILLS else f"fill={value or ''}: expected one of {', '.join(FILLS)}"
    if name == "rand":
        values["policy"] = "rand"
        return _parse_rand(values, value)
    try:
        values[name] = float(value or "")
    except ValueError:
        return f"{name}={value}: expected {_AMOUNTS[name][1]}" if value else f"{name} needs {_AMOUNTS[name][1]}"
    return _out_of_range(name, float(value or ""))


def _parse_rand(values: dict[str, bool | float | int | str], value: str | None) -> str:
    if value is None:
        return ""
    n, _, magnitude = value.partition("/")
    if n.isdecimal() and magnitude.isdecimal() and 1 <= int(n) <= len(OPERATIONS) and int(magnitude) <= 30:
        values["rand_operations"], values["rand_magnitude"] = int(n), int(magnitude)
        return ""
    return f"rand={value}: expected operations (1 to 14) and a magnitude (0 to 30), such as rand=2/9"


def _out_of_range(name: str, value: float) -> str:
    high, expected = _AMOUNTS[name]
    low = 0.01 if name == "crop" else 0.0
    return "" if value == 0 or low <= value <= high else f"{name}={value:g}: expected {expected}"
