"""From an upright RGB image to the square of pixels that a backbone sees: the only resize in the package.

    crop    the central `crop_pct` of the shorter side, resized: equal to timm's evaluation transform, to the pixel
    pad     the whole image, resized to fit, centred on the mean colour
    squash  the whole image, resized to a square whatever its aspect

Pixels are uint8 up to here; mean and std are folded into the compiled network, where they cost nothing. One call takes
about 1.2 ms for a 500 x 375 JPEG at 160 px on one core, decoding included.

>>> Preprocess(image_size=192, crop_pct=0.96).source_box(600, 400)
(108.0, 8.0, 492.0, 392.0)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image

from headstart.errors import RecipeError
from headstart.images.image_refs import ImageRef, read_image
from headstart.images.value_ranges import ValueRanges

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
RESIZES = ("crop", "pad", "squash")


@dataclass(frozen=True)
class Preprocess:
    """The input spec of a backbone; it is saved with the weights in the run folder and every export.

    `image_size` is the side of the square in pixels; `mean` and `std` are per channel (R, G, B) on a 0-1 scale.
    With `tta` flip, features are the mean over the image and its mirror image. `ranges` are the values that become 0
    and 255 in images of more than 8 bits per channel, as the training set uses them.
    Raises `RecipeError` for an invalid value.
    """

    image_size: int = 224
    resize: str = "crop"
    crop_pct: float = 0.875
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    tta: str = "none"
    ranges: ValueRanges = ValueRanges()

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(x) for x in self.mean))
        object.__setattr__(self, "std", tuple(float(x) for x in self.std))
        _expect(
            isinstance(self.image_size, int) and 8 <= self.image_size <= 4096,
            "image_size",
            self.image_size,
            "8 to 4096",
        )
        _expect(self.resize in RESIZES, "resize", self.resize, "one of " + ", ".join(RESIZES))
        _expect(self.tta in ("none", "flip"), "tta", self.tta, "none or flip")
        _expect(0 < self.crop_pct <= 1, "crop_pct", self.crop_pct, "above 0 and at most 1")
        _expect(
            self.interpolation in INTERPOLATIONS,
            "interpolation",
            self.interpolation,
            "one of " + ", ".join(INTERPOLATIONS),
        )
        _expect(len(self.mean) == 3 and len(self.std) == 3, "mean, std", (self.mean, self.std), "three numbers each")
        _expect(all(s > 0 for s in self.std), "std", self.std, "numbers above 0")

    def __str__(self) -> str:
        """The input in a few words.

        >>> str(Preprocess(image_size=288, resize="squash", tta="flip"))
        '288 px, squash, flip'
        """
        return f"{self.image_size} px, {self.resize}" + (", flip" if self.tta == "flip" else "")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocess:
        """Invert `as_dict`; unknown keys are an error, so that typing mistakes are not ignored."""
        known = {f.name for f in fields(cls)}
        for key in values:
            _expect(key in known, "preprocess key", key, "one of " + ", ".join(sorted(known)))
        return cls(**{**values, "ranges": ValueRanges.from_dict(values.get("ranges", {}))})

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON; without `ranges` if there are none."""
        values = asdict(self)
        if self.ranges == ValueRanges():
            del values["ranges"]
        else:
            values["ranges"] = self.ranges.as_dict()
        return values

    def network_dict(self) -> dict[str, Any]:
        """Return the values that a compiled network depends on; the others only determine its pixels."""
        return {name: getattr(self, name) for name in ("image_size", "mean", "std", "tta")}

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what turns pixels (N, 3, S, S) of 0 to 255 into a network's input: times the first, plus the second.

        Both are float32 (1, 3, 1, 1).
        """
        mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (self.mean, self.std))
        return np.float32(1) / (np.float32(255) * std), -mean / std

    def geometry(self) -> tuple[object, ...]:
        """Return the fields that determine the pixels: specs that agree here can share one decoded uint8 image."""
        cut = self.crop_pct if self.resize == "crop" else 1.0
        return (self.image_size, self.resize, cut, self.interpolation, self.ranges, self._margin())

    def _margin(self) -> tuple[int, ...]:
        """Return the colour around a padded image, R, G, B of 255; () if there is no margin."""
        return tuple(round(255 * m) for m in self.mean) if self.resize == "pad" else ()

    def at_least(self) -> tuple[int, int]:
        """Return the width and height (pixels) that decoding must keep, so that resizing never enlarges."""
        side = math.ceil(self.image_size / (self.crop_pct if self.resize == "crop" else 1.0))
        return (side, side)

    def source_box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Return the region (left, top, right, bottom; pixels, may be fractional) of an image that becomes the square.

        For crop, timm resizes the shorter side to floor(image_size / crop_pct) and then cuts out the centre, both
        rounded to whole pixels; this is that region of the image, so that one resize gives the same pixels. (The exact
        centre, unrounded, is off by up to half a pixel, or 2 to 8 of 255 levels on photographs; this, by 0.03.)
        """
        if self.resize != "crop":
            return (0.0, 0.0, float(width), float(height))
        shorter = math.floor(self.image_size / self.crop_pct)
        left, right = self._cut(width, int(shorter * width / min(width, height)))
        top, bottom = self._cut(height, int(shorter * height / min(width, height)))
        return (left, top, right, bottom)

    def _cut(self, length: int, resized: int) -> tuple[float, float]:
        """Return where the central `image_size` of `resized` pixels begins and ends in the original `length` pixels."""
        start = round((resized - self.image_size) / 2)
        return start * length / resized, min(float(length), (start + self.image_size) * length / resized)

    def apply(self, image: Image.Image) -> np.ndarray:
        """Return uint8 (image_size, image_size, 3) from an upright RGB image of any size."""
        how = INTERPOLATIONS[self.interpolation]
        side = self.image_size
        if self.resize != "pad":
            box = self.source_box(*image.size)
            return np.asarray(image.resize((side, side), how, box=box, reducing_gap=3.0))
        scale = side / max(image.size)
        width, height = (max(1, round(x * scale)) for x in image.size)
        square = Image.new("RGB", (side, side), self._margin())
        square.paste(image.resize((width, height), how, reducing_gap=3.0), ((side - width) // 2, (side - height) // 2))
        return np.asarray(square)


def read_pixels(ref: ImageRef, spec: Preprocess, *, sha256: str | None = None) -> np.ndarray:
    """Decode, turn upright, resize: uint8 (image_size, image_size, 3). Raises `UnreadableImage`.

    With `sha256`, it also raises if the image's bytes have changed since its inspection.
    """
    return spec.apply(read_image(ref, sha256=sha256, at_least=spec.at_least(), ranges=spec.ranges))


def _expect(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise RecipeError(f"{name} {value!r} cannot be used: expected {expected}.")
