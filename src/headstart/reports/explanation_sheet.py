"""Explanation of one prediction on one sheet: heat map, probabilities, nearest training images.

Costs about 20 ms per sheet, and 60 ms to encode it as PNG; Pillow only. Not for an overview of many images: use
`images.contact_sheet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from headstart.images.contact_sheet import Font, caption

WIDTH = 960  # pixels of a sheet
_MARGIN, _GAP = 24, 16
_PAPER, _INK, _PALE, _LINE = (255, 255, 255), (28, 30, 33), (110, 116, 124), (218, 221, 225)
_BAR, _OTHER_BAR = (0, 114, 178), (168, 196, 216)  # Okabe and Ito's blue, and a pale one
_RIGHT, _WRONG = (0, 114, 178), (178, 76, 0)
_DARK_HEAT = [(0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99)]
_BRIGHT_HEAT = [(212, 72, 66), (245, 125, 21), (250, 193, 39), (252, 255, 164)]
_HEAT = np.array(_DARK_HEAT + _BRIGHT_HEAT)
"""Eight steps of matplotlib's inferno: its lightness rises evenly, so it is readable without colour vision."""
_STRENGTH = 0.7  # opacity of the heat map at its hottest point


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A training image that resembles the explained one; `image` is None if its file is not available."""

    label: str
    cosine: float
    image: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class ExplanationSheet:
    """Content of a sheet. `shares` are (class, probability), the highest first; `heat_HW`, 0 to 1, explains the first.

    `label` is empty if unknown. `seen` (left, top, right, bottom; fractions of the image) is the network's input.
    `note` is shown if there are no `neighbours`.
    """

    name: str
    image: Image.Image
    shares: Sequence[tuple[str, float]]
    heat_HW: np.ndarray | None = None
    label: str = ""
    seen: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    neighbours: Sequence[Neighbour] = field(default=())
    note: str = ""


def overlay(image: Image.Image, heat_HW: np.ndarray) -> Image.Image:
    """Blend an image with its heat map (float 0 to 1, of any size): the hotter, the less of the image remains."""
    heat = Image.fromarray(np.asarray(heat_HW, np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    colour_HW3, weight_HW1 = _heat_colours(np.asarray(heat))
    mixed = np.asarray(image.convert("RGB")) * (1 - weight_HW1) + colour_HW3 * weight_HW1
    return Image.fromarray(mixed.round().astype(np.uint8))


def heat_layer(heat_HW: np.ndarray) -> Image.Image:
    """Return the same as an RGBA image in the map's size, to be laid over the image elsewhere."""
    colour_HW3, weight_HW1 = _heat_colours(np.asarray(heat_HW, np.float32))
    return Image.fromarray(np.concatenate([colour_HW3, 255 * weight_HW1], axis=-1).round().astype(np.uint8))


def _heat_colours(heat_HW: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return colours (H, W, 3) from 0 to 255, and how much they cover, (H, W, 1) from 0 to 1."""
    hot_HW = heat_HW.clip(0, 1)
    steps = np.linspace(0, 1, len(_HEAT))
    colour_HW3 = np.stack([np.interp(hot_HW, steps, _HEAT[:, c]) for c in range(3)], axis=-1)
    return colour_HW3, _STRENGTH * hot_HW[..., None]


def draw_explanation(sheet: ExplanationSheet) -> Image.Image:
    """Draw the sheet as an RGB image, 960 px wide, with only characters that the font has."""
    parts = [_heading(sheet), _images(sheet), _below(sheet)]
    height = sum(part.height for part in parts) + 2 * _MARGIN + _GAP * (len(parts) - 1)
    paper, top = Image.new("RGB", (WIDTH, height), _PAPER), _MARGIN
    for part in parts:
        paper.paste(part, (_MARGIN, top))
        top += part.height + _GAP
    return paper


def fitted(image: Image.Image, width: int, height: int) -> Image.Image:
    """Resize the image to fit within `width` x `height` pixels, enlarging it if it is smaller."""
    scale = min(width / image.width, height / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)


def _strip(height: int, width: int = WIDTH - 2 * _MARGIN) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (width, height), _PAPER)
    return image, ImageDraw.Draw(image)


def _text(pen: ImageDraw.ImageDraw, place: tuple[int, int], text: str, size: int, width: int, ink: tuple = _INK) -> int:
    """Write one line, shortened to `width` pixels; return its width in pixels."""
    font = _font(size)
    line = caption(text, font, width)
    pen.text(place, line, ink, font)
    return round(font.getlength(line))


def _heading(sheet: ExplanationSheet) -> Image.Image:
    """Draw prediction, label, and the image's name."""
    strip, pen = _strip(56)
    predicted, share = sheet.shares[0]
    taken = _text(pen, (0, 0), f"{predicted}  {share:.1%}", 24, strip.width * 2 // 3)
    if sheet.label:
        right = sheet.label == predicted
        said = f"labelled {sheet.label}" + ("" if right else ": the prediction is wrong")
        _text(pen, (taken + 20, 7), said, 16, strip.width - taken - 20, _RIGHT if right else _WRONG)
    _text(pen, (0, 36), sheet.name, 14, strip.width, _PALE)
    return strip


def _images(sheet: ExplanationSheet) -> Image.Image:
    """Draw the image, and beside it the heat map with a frame around the network's input."""
    side = (WIDTH - 2 * _MARGIN - _GAP) // 2
    image = fitted(sheet.image, side, side)
    strip, pen = _strip(image.height + 22)
    strip.paste(image, (0, 0))
    if sheet.heat_HW is None:
        return strip
    left = side + _GAP
    strip.paste(overlay(image, sheet.heat_HW), (left, 0))
    framed = max(sheet.seen[0], sheet.seen[1], 1 - sheet.seen[2], 1 - sheet.seen[3]) > 0.01
    if framed:
        x0, y0, x1, y1 = (round(p * (n - 1)) for p, n in zip(sheet.seen, image.size * 2, strict=True))
        pen.rectangle((left + x0, y0, left + x1, y1), outline=_PAPER)
    said = f"evidence for {sheet.shares[0][0]}" + ("; the frame is the network's input" if framed else "")
    _text(pen, (left, image.height + 6), said, 13, side, _PALE)
    return strip


def _below(sheet: ExplanationSheet) -> Image.Image:
    """Draw probabilities on the left, nearest training images on the right."""
    half = (WIDTH - 2 * _MARGIN - _GAP) // 2
    left, right = _bars(sheet.shares, half), _neighbours(sheet, half)
    strip, _ = _strip(max(left.height, right.height))
    strip.paste(left, (0, 0))
    strip.paste(right, (half + _GAP, 0))
    return strip


def _bars(shares: Sequence[tuple[str, float]], width: int) -> Image.Image:
    strip, pen = _strip(24 + 26 * len(shares), width)
    _text(pen, (0, 0), "Probability", 13, width, _PALE)
    name, figure = width * 2 // 5, 64
    full = width - name - figure
    for row, (label, share) in enumerate(shares):
        top = 24 + 26 * row
        _text(pen, (0, top + 2), label, 14, name - 10)
        pen.line((name, top, name, top + 20), _LINE)
        pen.rectangle((name, top + 3, name + round(full * share), top + 16), _BAR if row == 0 else _OTHER_BAR)
        pen.text((width, top + 2), f"{share:.1%}", _INK, _font(14), anchor="ra")
    return strip


def _neighbours(sheet: ExplanationSheet, width: int) -> Image.Image:
    n = len(sheet.neighbours)
    if n == 0:
        strip, pen = _strip(44, width)
        _text(pen, (0, 0), "Nearest training images", 13, width, _PALE)
        _text(pen, (0, 24), sheet.note or "none", 13, width, _PALE)
        return strip
    across = min((width - _GAP * (min(n, 5) - 1)) // min(n, 5), 144)
    rows = -(-n // 5)
    each = across + 42
    strip, pen = _strip(24 + rows * each, width)
    _text(pen, (0, 0), "Nearest training images, with cosine similarity", 13, width, _PALE)
    for i, neighbour in enumerate(sheet.neighbours):
        left, top = i % 5 * (across + _GAP), 24 + i // 5 * each
        pen.rectangle((left, top, left + across - 1, top + across - 1), outline=_LINE)
        if neighbour.image is None:
            _text(pen, (left + 6, top + 6), "not available", 12, across - 8, _PALE)
        else:
            small = fitted(neighbour.image, across, across)
            strip.paste(small, (left + (across - small.width) // 2, top + (across - small.height) // 2))
        wrong = neighbour.label != sheet.shares[0][0]
        _text(pen, (left, top + across + 4), neighbour.label, 13, across, _WRONG if wrong else _INK)
        _text(pen, (left, top + across + 21), f"{neighbour.cosine:.3f}", 12, across, _PALE)
    return strip
