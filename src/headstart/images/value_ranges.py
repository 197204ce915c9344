"""Images of more than 8 bits per channel: which values they use, and which of them become black and white.

Cameras and microscopes store 10, 12 or 14 bits in 16-bit files, thermal cameras use a narrow band of the 16 bits, and
measuring programs write floating point. Scaled by what the file could hold, such images lose nearly all their levels;
scaled one by one, they can no longer be compared. So one range is chosen for a whole set, and is saved with the
classifier (`Preprocess.ranges`), so that prediction scales as training did.

    12 bits in 16       uses 0 to 4,080          0 to 4,095 become 0 to 255
    all 16 bits         uses 300 to 65,535       0 to 65,535, as without a range
    thermal camera      uses 30,000 to 30,510    as used
    floating point      uses 0.01 to 0.98        0 to 1

>>> chosen_ranges([("I;16", 0, 4080), ("I;16", 16, 3900)])
ValueRanges(integers=(0.0, 4095.0), floats=None)

The range of an image leaves out 0.1 % of its pixels at either end (so a dead pixel or a burnt-in scale decides nothing);
that of a set leaves out 2 % of its images at either end. Measuring takes about 5 ms per million
pixels. Images of 8 bits are neither measured nor changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image, ImageMath

from headstart.errors import RecipeError, UnreadableImage

Span = tuple[float, float]
"""A lowest and a highest value."""

FULL: Span = (0.0, 65535.0)
INTEGERS: tuple[float, ...] = tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 16))
"""Highest values of the usual depths."""
FLOATS = (1.0, *INTEGERS)
USED = 0.5
"""Share of a depth's range from which a set counts as using that depth."""
OUTLIERS = 1000
"""One pixel in this many, at each end, does not count."""
ODD_ONES = 50
"""One image in this many, at each end, does not count."""


@dataclass(frozen=True)
class ValueRanges:
    """The values that become 0 and 255: of integers (16 and 32 bits), and of floating point.

    None is for a kind of pixels that a set does not have, and for 16 bits used in full: see `decode.decode`.
    """

    integers: Span | None = None
    floats: Span | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ValueRanges:
        """Invert `as_dict`. Raises `TypeError`, `ValueError`: not two numbers, the lower first."""
        spans = {name: (float(low), float(high)) for name, (low, high) in values.items()}
        if not all(-math.inf < low < high < math.inf for low, high in spans.values()):
            raise ValueError(f"{dict(values)} are not ranges")
        return cls(**spans)

    def as_dict(self) -> dict[str, list[float]]:
        """Return plain values, ready for JSON; empty if nothing is set."""
        return {name: list(span) for name, span in vars(self).items() if span is not None}

    def of(self, mode: str) -> Span | None:
        """Return the range for images of a mode (`ImageInfo.mode`)."""
        return self.floats if mode.startswith("F") else self.integers


def is_deep(mode: str) -> bool:
    """Whether images of a mode (`ImageInfo.mode`) have more than 8 bits per channel.

    >>> [is_deep(mode) for mode in ("I;16", "F", "RGB;16", "L")]
    [True, True, True, False]
    """
    return mode[:1] in ("I", "F") or mode.endswith(";16")


def chosen_ranges(images: Iterable[tuple[str, float, float]]) -> ValueRanges:
    """Choose the ranges for a set, from the mode, lowest and highest value of each image; 8-bit images do not count."""
    deep = [each for each in images if is_deep(each[0])]
    integers = _chosen([(low, high) for mode, low, high in deep if mode[0] != "F"], INTEGERS)
    floats = _chosen([(low, high) for mode, low, high in deep if mode[0] == "F"], FLOATS)
    return ValueRanges(None if integers == FULL else integers, floats)


def given_ranges(text: str) -> ValueRanges | None:
    """Return the ranges that a user gives as LOW,HIGH, for integers and floating point alike; None for auto.

    Raises `RecipeError`.

    >>> given_ranges("0,4095")
    ValueRanges(integers=(0.0, 4095.0), floats=(0.0, 4095.0))
    """
    if text == "auto":
        return None
    try:
        low, high = map(float, text.split(","))
        ranges = ValueRanges.from_dict({"integers": (low, high), "floats": (low, high)})
    except (ValueError, AttributeError):
        expected = "expected auto, or the values that become black and white, such as 0,4095."
        raise RecipeError(f"value_range {text!r} cannot be used: {expected}") from None
    return replace(ranges, integers=None) if ranges.integers == FULL else ranges


def _chosen(spans: Sequence[Span], wholes: Sequence[float]) -> Span | None:
    """Return 0 and the highest value of the smallest depth that holds the spans; if hardly used, just what they use."""
    if not spans:
        return None
    odd = len(spans) // ODD_ONES
    low, high = sorted(low for low, _ in spans)[odd], sorted((high for _, high in spans), reverse=True)[odd]
    if high <= low:
        return None
    whole = next((whole for whole in wholes if high <= whole), None)
    if whole is not None and low >= 0 and high - low >= USED * whole:
        return 0.0, whole
    return float(low), float(high)


def from_own_range(used: tuple[str, float, float], ranges: ValueRanges) -> tuple[float, float] | None:
    """Return (gain, offset) from levels 0 to 255 of an image scaled by its own range to its levels under `ranges`.

    `used` are its mode, lowest and highest value; None if the levels are the same.
    """
    own = chosen_ranges([used]).of(used[0]) or FULL
    low, high = ranges.of(used[0]) or FULL
    if not is_deep(used[0]) or own == (low, high) or used[1] == used[2]:
        return None
    return (own[1] - own[0]) / (high - low), 255 * (own[0] - low) / (high - low)


def used_span(planes: Sequence[Image.Image]) -> Span:
    """Return the values between which all but 0.1 % of the pixels at either end lie; planes have mode I or F.

    Raises `UnreadableImage` for values that are not finite numbers.
    """
    spans = [_used(plane) for plane in planes]
    return min(low for low, _ in spans), max(high for _, high in spans)


def _used(plane: Image.Image) -> Span:
    low, high = checked_extrema(plane)
    allowed, below, above = plane.width * plane.height // OUTLIERS, 0, 0
    for _ in range(4):  # each pass narrows up to 128 times, so that a few extreme pixels do not cost precision
        if high <= low or max(-low, high) >= 2**30:
            break
        width = 2.0 ** math.ceil(math.log2((high - low) / 255))  # a power of two: Pillow's bins have no rounding errors
        width = max(1.0, width) if plane.mode == "I" else width
        ends = (low, low + 255 * width)  # the last bin begins at its end
        counts = plane.histogram(extrema=(int(ends[0]), int(ends[1])) if plane.mode == "I" else ends)
        first, fewer = _first_bin(counts, allowed - below)
        last, more = _first_bin(counts[::-1], allowed - above)
        begin, end = low + first * width, low + (256 - last) * width - (plane.mode == "I")
        if (begin, min(high, end)) == (low, high):
            break
        low, high, below, above = begin, min(high, end), below + fewer, above + more
    return low, high


def _first_bin(counts: Sequence[int], most: int) -> tuple[int, int]:
    """Return the first bin with which the counts exceed `most`, and how many are in front of it."""
    seen = 0
    for number, count in enumerate(counts):
        if seen + count > most:
            return number, seen
        seen += count
    return 0, 0


def checked_extrema(plane: Image.Image) -> Span:
    """Return the lowest and the highest value. Raises `UnreadableImage` for values that are not finite numbers."""
    low, high = (float(x) for x in plane.getextrema())  # type: ignore[arg-type]
    if plane.mode == "F" and (not abs(low) + abs(high) < float("inf") or _has_nan(plane)):
        raise UnreadableImage("its pixels are not all finite numbers.", reason="damaged")
    return low, high


def _has_nan(plane: Image.Image) -> bool:
    different: Image.Image = ImageMath.lambda_eval(lambda args: args["x"] != args["x"], x=plane)
    return different.getextrema() != (0, 0)


def sixteen_bits(high: Image.Image, low: Image.Image) -> Image.Image:
    """Return the values 256 * high + low of two L images, as mode I."""
    made: Image.Image = ImageMath.lambda_eval(lambda args: args["high"] * 256 + args["low"], high=high, low=low)
    return made


def scaled(plane: Image.Image, span: Span) -> Image.Image:
    """Return an I or F image as L: the span becomes 0 to 255, rounded; values outside of it are clipped."""
    low, high = span
    scale = 255 / (high - low) if high > low else 0.0
    return plane.convert("F").point(lambda value: value * scale + (0.5 - low * scale)).convert("L")
