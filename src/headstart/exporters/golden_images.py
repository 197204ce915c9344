"""The images of an export's samples: small files that cover everything decoders and resizers tend to get wrong.

    rendered_images(12)            rendered scenes, so that no image of the user is passed on unasked
    rendered_scene()               a single one, for a quick check
    own_images(refs)               the user's own, stripped of everything but pixels and orientation

Rendered ones are JPEGs (with and without chroma subsampling, progressive, grey, rotated by EXIF, with a wide-gamut colour
profile) and PNGs (with alpha, with a palette); tall, wide, of odd size, or smaller than a network's input. Takes about 0.5 s.
They say nothing about accuracy: no network was trained on them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from headstart.errors import UnreadableImage
from headstart.images.decode import read
from headstart.images.image_refs import ImageRef, as_ref, read_bytes, read_image
from headstart.images.value_ranges import FULL, ValueRanges
from headstart.io.files import jpeg_bytes, png_bytes
from headstart.samples.scenes import KINDS, LARGEST, render

SEED = 20_261_130
_ORIENTATION = 0x112


@dataclass(frozen=True)
class _GoldenCase:
    """One kind of file: its name, size in pixels, and how an image of that size (as stored) is encoded."""

    name: str
    width: int
    height: int
    encoded: Callable[[Image.Image], bytes]


def rendered_images(count: int = 12, ranges: ValueRanges = ValueRanges()) -> dict[str, bytes]:
    """Return rendered scenes as {file name: bytes}: one of each kind of file, then further ones.

    If `ranges` has a range of integers, one of them is a grey 16-bit PNG that uses it.
    """
    cases = list(_CASES)
    if ranges.integers is not None:
        low, high = ranges.integers
        cases.insert(1, _GoldenCase("deep.png", 260, 200, lambda image: _deep_png(image, low, high)))
    files = {}
    for i in range(count):
        case = cases[i % len(cases)]
        image = Image.fromarray(_scene(i, case.width, case.height))
        files[f"{i + 1:02}-{case.name}"] = case.encoded(image)
    return files


def rendered_scene() -> bytes:
    """Return one rendered scene as a JPEG. Takes 0.1 s at first, then 0.02 s; one of `rendered_images` takes 0.1 s more."""
    return _jpeg()(Image.fromarray(_scene(0, LARGEST, LARGEST)))


def own_images(refs: Iterable[ImageRef], ranges: ValueRanges = ValueRanges()) -> dict[str, bytes]:
    """Return images of the user as {file name: bytes}, numbered: no name, date, place or camera is left in them.

    JPEGs keep exactly their compressed pixels, and their orientation; other images become PNGs of the same pixels, scaled
    by `ranges` if they have more than 8 bits. Raises `UnreadableImage`.
    """
    return {
        f"own-{number:02}.{'jpg' if data[:2] == _JPEG else 'png'}": data
        for number, data in enumerate((_bare(as_ref(ref), ranges) for ref in refs), 1)
    }


def _bare(ref: ImageRef, ranges: ValueRanges) -> bytes:
    data = read_bytes(ref) if not isinstance(ref, Image.Image | np.ndarray) else b""
    if data[:2] == _JPEG and (bare := _bare_jpeg(data)):
        return bare
    return png_bytes(read_image(ref, ranges=ranges))


_JPEG = b"\xff\xd8"
_PRIVATE = re.compile(rb"\xff[\xe1-\xed\xef\xfe]")
"""JPEG markers of comments and application data."""


def _bare_jpeg(data: bytes) -> bytes:
    """Return a JPEG without comments and application data, except Adobe's, which says how the colours are encoded.

    Its EXIF has only the orientation. Returns b"" if the result does not decode to the same pixels.
    """
    before = read(data)
    exif = _exif(before.orientation) if before.orientation != 1 else b""
    kept, at = [_JPEG, exif], 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        marker, (size,) = data[at + 1], struct.unpack(">H", data[at + 2 : at + 4].rjust(2, b"\0"))
        private = (0xE1 <= marker <= 0xEF and marker != 0xEE) or marker == 0xFE
        kept += [] if private else [data[at : at + 2 + size]]
        at += 2 + size
    end = data.find(b"\xff\xd9", at) + 2  # the end of this image: others, with metadata of their own, may follow
    if _PRIVATE.search(data, at, end):
        return b""
    bare = b"".join([*kept, data[at:end]])
    try:
        after = read(bare)
    except UnreadableImage:
        return b""
    return bare if after.image.tobytes() == before.image.tobytes() else b""


def _exif(orientation: int) -> bytes:
    """Return an EXIF segment for a JPEG that has only the orientation."""
    tags = b"II*\0" + struct.pack("<IHHHIII", 8, 1, _ORIENTATION, 3, 1, orientation, 0)
    body = b"Exif\0\0" + tags
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def _scene(number: int, width: int, height: int) -> np.ndarray:
    """Return uint8 (height, width, 3): as many rendered scenes side by side as it takes, cut to size."""
    rng, kinds = np.random.default_rng([SEED, number]), list(KINDS)
    down, across = -(-height // LARGEST), -(-width // LARGEST)
    rows = [
        np.concatenate([render(kinds[(number + i + j) % len(kinds)], rng, LARGEST) for j in range(across)], axis=1)
        for i in range(down)
    ]
    sheet = np.concatenate(rows)
    top, left = (sheet.shape[0] - height) // 2, (sheet.shape[1] - width) // 2
    return sheet[top : top + height, left : left + width]


def _jpeg(**options: Any) -> Callable[[Image.Image], bytes]:
    return lambda image: jpeg_bytes(image, 88, **options)


def _turned_jpeg(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return jpeg_bytes(image.transpose(Image.Transpose.ROTATE_90), 88, exif)


def _profile_jpeg(image: Image.Image) -> bytes:
    return jpeg_bytes(image, 88, icc_profile=_wide_gamut_profile())


def _grey_jpeg(image: Image.Image) -> bytes:
    return jpeg_bytes(image.convert("L"), 88)


def _alpha_png(image: Image.Image) -> bytes:
    """A PNG that fades from opaque to fully transparent, with colours under the transparency."""
    alpha = np.linspace(0, 255, image.width).round().astype(np.uint8)
    image.putalpha(Image.fromarray(np.tile(alpha, (image.height, 1))))
    return png_bytes(image)


def _palette_png(image: Image.Image) -> bytes:
    return png_bytes(image.quantize(64))


def _deep_png(image: Image.Image, low: float, high: float) -> bytes:
    """A grey 16-bit PNG with values of the whole range, and a little beyond both ends."""
    grey = np.asarray(image.convert("L"), np.float64) / 255 * 1.04 - 0.02
    values = np.clip(low + (high - low) * grey, *FULL)
    return png_bytes(Image.fromarray(values.round().astype(np.uint16)))


_CASES = (
    _GoldenCase("photo.jpg", 500, 375, _jpeg()),
    _GoldenCase("alpha.png", 250, 190, _alpha_png),
    _GoldenCase("turned.jpg", 214, 320, _turned_jpeg),
    _GoldenCase("profile.jpg", 320, 230, _profile_jpeg),
    _GoldenCase("odd.jpg", 301, 257, _jpeg()),
    _GoldenCase("full-colour.jpg", 320, 240, _jpeg(subsampling=0)),
    _GoldenCase("grey.jpg", 280, 280, _grey_jpeg),
    _GoldenCase("progressive.jpg", 240, 320, _jpeg(progressive=True)),
    _GoldenCase("wide.jpg", 640, 170, _jpeg()),
    _GoldenCase("tall.png", 110, 400, png_bytes),
    _GoldenCase("small.jpg", 61, 47, _jpeg()),
    _GoldenCase("palette.png", 230, 180, _palette_png),
)
"""In order of importance: with few samples, the first ones are taken."""


def _wide_gamut_profile() -> bytes:
    """Return an ICC profile (version 2) with the primaries of Display P3 and a gamma of 2.2.

    Software that applies it changes the colours; the contract ignores it.
    """
    text = b"headstart wide gamut\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(12 + 67)
    colours = {
        b"wtpt": (0.9642, 1.0, 0.8249),
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2919, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    tags = {b"desc": described, b"cprt": b"text\0\0\0\0" + text}
    tags |= {name: b"XYZ \0\0\0\0" + _fixed(*values) for name, values in colours.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    table, body, start = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), bytes(4), 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s4s", 2026, 1, 1, 0, 0, 0, b"acsp", bytes(4)) + bytes(24) + _fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _fixed(*values: float) -> bytes:
    """Return numbers as ICC stores them: fixed-point, 16 bits before the point and 16 after it."""
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))
