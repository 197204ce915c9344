"""An image of what the network sees: a batch of augmented images side by side, each with its label below.

Mistakes in augmentation and labels show at a glance: sunsets upside down, digits mirrored, the subject cropped away.
Images narrower than 96 px are enlarged by an integer factor, so that pixels stay visible and captions readable. 64
images of 160 px take about 11 ms. Captions use Pillow's own font; characters it lacks (Chinese, for example) are shown
by their code, such as U+732B. Not for many hundreds of images: the result is one image.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_NARROWEST = 96  # pixels; narrower images are enlarged
_GAP = 6
_CAPTION = 16  # pixels below each image
_PAPER, _INK = (255, 255, 255), (40, 40, 40)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(images_NSS3: np.ndarray, labels: Sequence[str], columns: int = 8) -> Image.Image:
    """Lay out images, uint8 (N, S, S, 3), row by row in one RGB image, with `labels` (N) below, shortened to fit.

    >>> contact_sheet(np.zeros((3, 100, 100, 3), np.uint8), ["cat", "dog", "Katze"], columns=2).size
    (218, 250)

    Raises `ValueError` if there are no images, or the number of labels differs.
    """
    n = len(images_NSS3)
    if n == 0 or n != len(labels) or columns < 1:
        raise ValueError(f"{n} images, {len(labels)} labels, {columns} columns: expected one label per image")
    columns = min(columns, n)
    height, width = images_NSS3.shape[1:3]
    scale = max(1, math.ceil(_NARROWEST / width))
    across, down = scale * width + _GAP, scale * height + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * across + _GAP, math.ceil(n / columns) * down + _GAP), _PAPER)
    font, pen = ImageFont.load_default(), ImageDraw.Draw(sheet)
    for i, (pixels, label) in enumerate(zip(images_NSS3, labels, strict=True)):
        left, top = _GAP + i % columns * across, _GAP + i // columns * down
        image = Image.fromarray(np.ascontiguousarray(pixels))
        sheet.paste(image.resize((scale * width, scale * height), Image.Resampling.NEAREST), (left, top))
        text = caption(str(label), font, scale * width)
        pen.text((left, top + scale * height + 2), text, _INK, font)
    return sheet


def caption(label: str, font: Font, width: int) -> str:
    """Return a label on one line of at most `width` pixels, in characters that the font has."""
    text = " ".join("".join(_drawable(c, font) for c in label).split())
    if font.getlength(text) <= width:
        return text
    length = len(text)
    while length > 0 and font.getlength(text[:length].rstrip() + "...") > width:
        length -= 1
    return text[:length].rstrip() + "..." if length else ""


def _drawable(character: str, font: Font) -> str:
    """Return the character itself, or without its accent, or its code; a space for line breaks and the like."""
    if character.isspace() or unicodedata.category(character) in ("Cc", "Cf"):
        return " "
    plain = unicodedata.normalize("NFKD", character)
    for text in (character, "".join(c for c in plain if not unicodedata.combining(c))):
        if text and all(_has(font, c) for c in text):
            return text
    return f" U+{ord(character):04X} "


def _has(font: Font, character: str) -> bool:
    """Whether a font has a glyph for a character, rather than the box for missing ones."""
    if character.isascii():
        return True
    if not isinstance(font, ImageFont.FreeTypeFont) or unicodedata.category(character) in ("Cs", "Co", "Cn"):
        return False
    missing, drawn = font.getmask("\uffff"), font.getmask(character)
    return (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))
