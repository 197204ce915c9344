"""The portable pixel contract: from the full-size pixels of an upright image to the square that a network sees.

`predict` decodes a JPEG at a fraction of its size and reduces in two steps, which only Pillow can do. An export cannot
rely on that, so it follows this contract instead, which is given in numbers (`as_dict`) and sentences (`sentences`), and
computed here with numpy. The result equals Pillow's ``Image.resize(size, filter, box=box)`` of the whole image byte for
byte (except for tall images since Pillow 13, which resizes them by height first and so rounds differently;
`portable_images` avoids that). `pixel_graph` computes the same inside an ONNX graph.

    contract = PixelContract.of(spec)
    contract.apply(pixels_HWC)                  uint8 (image_size, image_size, 3)

The filters: an output pixel is a weighted mean of input pixels. Weights come from a filter that is widened by the reduction
factor (so that no detail is skipped when shrinking), are normalised to add up to 1, and rounded to multiples of 2**-22. The
width is resized first, then the height. Each time, results are rounded to whole numbers (halves up) and clipped to 0 to 255.

This is the reference, not a fast implementation: 500 x 375 pixels take about 15 ms, ten times as long as Pillow.

>>> contract = PixelContract(image_size=8, resize="squash", interpolation="bilinear")
>>> contract.apply(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).shape
(8, 8, 3)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headstart.errors import RecipeError
from headstart.images.preprocess import Preprocess
from headstart.images.value_ranges import ValueRanges

PRECISION_BITS = 22
WHITE = (255, 255, 255)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(x))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic with a = -0.5."""
    x = np.abs(x)
    near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


def _lanczos(x: np.ndarray) -> np.ndarray:
    inside = (x >= -3.0) & (x < 3.0)
    return np.where(inside, np.sinc(x) * np.sinc(x / 3.0), 0.0)


@dataclass(frozen=True)
class ResizeFilter:
    """A filter: the `weight` of an input pixel by its distance in output pixels; 0 from the distance `support` on.

    `formula` is the same as text.
    """

    support: float
    weight: Callable[[np.ndarray], np.ndarray]
    formula: str


FILTERS = {
    "bilinear": ResizeFilter(1.0, _triangle, "1 - |x| for |x| < 1"),
    "bicubic": ResizeFilter(
        2.0, _cubic, "1.5|x|^3 - 2.5x^2 + 1 for |x| < 1, -0.5|x|^3 + 2.5x^2 - 4|x| + 2 for 1 <= |x| < 2"
    ),
    "lanczos": ResizeFilter(3.0, _lanczos, "sinc(x) * sinc(x / 3) for |x| < 3, sinc(x) = sin(pi x) / (pi x)"),
}
"""The filters by name; `nearest` has none, since it picks pixels."""


@dataclass(frozen=True)
class Stretch:
    """One axis of a resize: `length` input pixels, of which `begin` to `end` (float32) become `count` output pixels.

    `before` and `after` are the numbers of output pixels on either side that get the colour of the margin.
    """

    length: int
    begin: float
    end: float
    count: int
    before: int = 0
    after: int = 0

    @property
    def scale(self) -> float:
        """Input pixels per output pixel."""
        return float(np.float32(self.end) - np.float32(self.begin)) / self.count

    @property
    def keeps_all(self) -> bool:
        """Whether nothing changes along this axis."""
        return (self.begin, self.end, self.count) == (0.0, float(self.length), self.length)


@dataclass(frozen=True)
class PixelContract:
    """How pixels are made: the side of the square, what is cropped or padded, the filter, and how values are scaled.

    `margin` is the colour (R, G, B) with which `pad` makes an image square; `ranges` are the values that become 0 and
    255 in images of more than 8 bits per channel. Other fields as in `Preprocess`. Raises `RecipeError`.
    """

    image_size: int = 224
    resize: str = "crop"
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    margin: tuple[int, int, int] = (0, 0, 0)
    ranges: ValueRanges = ValueRanges()

    def __post_init__(self) -> None:
        self._spec()

    @classmethod
    def of(cls, spec: Preprocess) -> PixelContract:
        """Return the contract of an input spec. Specs with equal `geometry()` have equal contracts."""
        crops, pads = spec.resize == "crop", spec.resize == "pad"
        return cls(
            image_size=spec.image_size,
            resize=spec.resize,
            crop_pct=spec.crop_pct if crops else 1.0,
            interpolation=spec.interpolation,
            margin=(_level(spec.mean[0]), _level(spec.mean[1]), _level(spec.mean[2])) if pads else (0, 0, 0),
            ranges=spec.ranges,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PixelContract:
        """Invert `as_dict`. Raises `RecipeError` if any number differs from those of this version."""
        try:
            contract = cls(
                image_size=values["image_size"],
                resize=values["resize"],
                crop_pct=values["crop_pct"],
                interpolation=values["interpolation"],
                margin=tuple(values["margin"]),
                ranges=ValueRanges.from_dict(values["ranges"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecipeError(f"{dict(values)} is not a pixel contract: {error!r}.") from error
        expected = contract.as_dict()
        for name in {*values, *expected}:
            if values.get(name) != expected.get(name):
                raise RecipeError(
                    f"Pixel contract: {name} is {values.get(name)!r}, expected {expected.get(name)!r}.",
                    hint="Export the run again with this version of headstart.",
                )
        return contract

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers of the contract, ready for JSON."""
        made = FILTERS.get(self.interpolation)
        return {
            "image_size": self.image_size,
            "resize": self.resize,
            "crop_pct": self.crop_pct,
            "shorter_side": math.floor(self.image_size / self.crop_pct) if self.resize == "crop" else None,
            "interpolation": self.interpolation,
            "filter": made.formula if made else None,
            "filter_support": made.support if made else None,
            "antialias": made is not None,
            "weight_bits": PRECISION_BITS if made else None,
            "passes": ["horizontal", "vertical"] if made else [],
            "rounded_after": ["horizontal", "vertical"] if made else [],
            "margin": list(self.margin),
            "background": list(WHITE),
            "ranges": self.ranges.as_dict(),
            "colour_profile": "ignored",
            "orientation": "EXIF tag 0x0112 applied",
            "layout": "NHWC",
            "channels": "RGB",
            "dtype": "uint8",
        }

    def sentences(self) -> list[str]:
        """Return one plain sentence per step, in order."""
        deep = [f"{kind} {low:g} to {high:g}" for kind, (low, high) in self.ranges.as_dict().items()]
        scaled = f" ({', '.join(deep)})" if deep else ""
        return [
            "Decode the whole image at full size; for JPEG with the accurate integer inverse DCT and smooth"
            " (triangle) chroma upsampling, as libjpeg-turbo does by default.",
            f"Scale more than 8 bits per channel to 0 to 255{scaled}.",
            "Ignore colour profiles. Convert grey, palette and CMYK images to RGB; put transparent ones on white"
            " (alpha is not premultiplied).",
            "Turn the image upright by its EXIF orientation.",
            self._which_part(),
            *self._how_resized(),
            "Give these uint8 values to the network as N x height x width x RGB; it normalises them itself.",
        ]

    def _spec(self) -> Preprocess:
        """Return the same as an input spec. Raises `RecipeError` for an invalid value."""
        return Preprocess(self.image_size, self.resize, self.crop_pct, self.interpolation)

    def _which_part(self) -> str:
        side = self.image_size
        if self.resize == "squash":
            return f"Resize the whole image to {side} x {side} pixels, whatever its shape."
        if self.resize == "pad":
            colour = ", ".join(map(str, self.margin))
            return (
                f"Resize the whole image so that its longer side is {side} pixels (the other one is rounded, halves to"
                f" even), and put it in the middle of {side} x {side} pixels of colour ({colour})."
            )
        shorter = math.floor(side / self.crop_pct)
        return (
            f"Take the central part that would be {side} x {side} pixels if the shorter side were {shorter} pixels and"
            f" the longer one in proportion, rounded down: from s / n to (s + {side}) / n of each side, where n is its"
            f" length so resized, and s = (n - {side}) / 2, halves to even. Resize that part to {side} x {side} pixels."
        )

    def _how_resized(self) -> list[str]:
        made = FILTERS.get(self.interpolation)
        if made is None:
            return ["Each output pixel is the input pixel that its centre lies in."]
        return [
            f"Resize with the {self.interpolation} filter, {made.formula}, widened by the reduction when shrinking (this"
            " is antialiasing). Weights beyond the image's edge are left out; the others are divided by their sum and"
            f" rounded to multiples of 2^-{PRECISION_BITS}.",
            "Resize horizontally, then vertically; after each, round to whole numbers (halves up) and clip to 0 to 255.",
        ]

    def stretches(self, width: int, height: int) -> tuple[Stretch, Stretch]:
        """Return what happens to an image of that size in pixels along each axis: horizontal, vertical."""
        side = self.image_size
        if self.resize != "pad":
            left, top, right, bottom = self._spec().source_box(width, height)
            return Stretch(width, left, right, side), Stretch(height, top, bottom, side)
        scale = side / max(width, height)
        across, down = (self._padded(length, max(1, round(length * scale))) for length in (width, height))
        return across, down

    def _padded(self, length: int, count: int) -> Stretch:
        before = (self.image_size - count) // 2
        return Stretch(length, 0.0, float(length), count, before, self.image_size - count - before)

    def apply(self, image_HWC: np.ndarray) -> np.ndarray:
        """Return uint8 (image_size, image_size, 3) of an upright RGB image, uint8 (H, W, 3) of any size."""
        across, down = self.stretches(image_HWC.shape[1], image_HWC.shape[0])
        if self.interpolation == "nearest":
            resized = image_HWC[nearest_rows(down)][:, nearest_rows(across)]
        else:
            made = FILTERS[self.interpolation]
            turned = np.swapaxes(resized_rows(np.swapaxes(image_HWC, 0, 1), across, made), 0, 1)
            resized = resized_rows(turned, down, made)
        square = np.empty((self.image_size, self.image_size, 3), np.uint8)
        square[:] = self.margin
        square[down.before : down.before + down.count, across.before : across.before + across.count] = resized
        return square


def resized_rows(image_HWC: np.ndarray, axis: Stretch, made: ResizeFilter) -> np.ndarray:
    """Return uint8 (axis.count, W, C): the image resized along its first axis."""
    if axis.keeps_all:
        return image_HWC
    first_S, weights_SK = filter_weights(axis, made)
    total = np.full((axis.count, *image_HWC.shape[1:]), 1 << (PRECISION_BITS - 1), np.int32)
    for tap in range(weights_SK.shape[1]):
        rows = np.minimum(first_S + tap, axis.length - 1)
        total += image_HWC[rows].astype(np.int32) * weights_SK[:, tap, None, None]
    return np.clip(total >> PRECISION_BITS, 0, 255).astype(np.uint8)


def filter_weights(axis: Stretch, made: ResizeFilter) -> tuple[np.ndarray, np.ndarray]:
    """Return the first input pixel of each output pixel, int64 (S,), and its weights * 2**22, int32 (S, K).

    Weights of pixels beyond the edge are 0.
    """
    widened = max(axis.scale, 1.0)
    reach = made.support * widened
    centre_S = float(np.float32(axis.begin)) + (np.arange(axis.count) + 0.5) * axis.scale
    first_S = np.maximum(0, np.trunc(centre_S - reach + 0.5)).astype(np.int64)
    last_S = np.minimum(axis.length, np.trunc(centre_S + reach + 0.5)).astype(np.int64)
    at_SK = first_S[:, None] + np.arange(math.ceil(reach) * 2 + 1)
    weight_SK = made.weight((at_SK - centre_S[:, None] + 0.5) * (1.0 / widened))
    weight_SK = np.where(at_SK < last_S[:, None], weight_SK, 0.0)
    weight_SK = weight_SK / weight_SK.sum(axis=1, keepdims=True) * (1 << PRECISION_BITS)
    return first_S, np.trunc(weight_SK + np.copysign(0.5, weight_SK)).astype(np.int32)


def nearest_rows(axis: Stretch) -> np.ndarray:
    """Return the input pixel that each output pixel copies, int64 (S,). Positions are summed one by one, as in Pillow."""
    if axis.keeps_all:
        return np.arange(axis.length)
    steps_S = np.full(axis.count, axis.scale)
    steps_S[0] = float(np.float32(axis.begin)) + axis.scale * 0.5
    return np.minimum(np.add.accumulate(steps_S).astype(np.int64), axis.length - 1)


def _level(mean: float) -> int:
    return round(255 * mean)
