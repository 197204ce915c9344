"""The only way from the bytes of an image to its pixels: upright, RGB, 8 bits, complete, or an error with a reason.

Training, serving and export all decode here, because two decoders differ by more accuracy than int8 costs. An ordinary
500 x 375 JPEG takes about 0.9 ms at 180 px: JPEGs are decoded at the smallest of their built-in scales (1, 1/2, 1/4,
1/8) that is at least the requested size (libjpeg's scaled inverse DCT, which Pillow calls draft). Other formats have no
such scales and are decoded in full size, 4 bytes per pixel. Decoding releases the interpreter lock, so threads scale.
Do not use it on untrusted files before `validate.validate_images` has decoded them: there, a crash costs a child
process.

Pillow warns about oddities that need no action (broken EXIF, odd TIFF tags). The first call adds one filter to Python's
`warnings` that suppresses warnings issued inside ``PIL``; that is the only global setting it changes.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image

from headstart.errors import UnreadableImage
from headstart.images.headers import MAX_PIXELS, ImageHeader, jpeg_structure, probe

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NO_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_SAVED_WITHOUT_END_BYTES = 32 << 20  # larger JPEGs that end early are not retried


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image and its properties in the file: `mode` before conversion, `orientation` (EXIF, 1 to 8)."""

    image: Image.Image
    header: ImageHeader
    mode: str
    orientation: int

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels at full scale, after turning."""
        size = (self.header.width, self.header.height)
        return size[::-1] if self.orientation >= 5 else size


def decode(data: bytes | BinaryIO, at_least: tuple[int, int] | None = None) -> Image.Image:
    """Decode an image (its bytes, or a file opened for reading) to an upright RGB image.

    `at_least` is a (width, height) in pixels of the upright image: a JPEG is decoded at the smallest of its scales
    that is not below it in either dimension. Other kinds of pixels:

    - transparency is composed on white; palette, grey, CMYK, YCbCr and bilevel are converted;
    - 16 bits per channel are scaled to 8 (65535 -> 255), not clipped;
    - 32-bit integers count as 16-bit if all are in 0..65535, otherwise their own range is stretched to 0..255;
    - floating point within 0..1 is scaled by 255, within 0..255 left as is, otherwise its own range is stretched;
    - animations and files with several pages give their first frame.

    >>> image = io.BytesIO()
    >>> Image.new("L", (300, 200), 77).save(image, "JPEG")
    >>> small = decode(image.getvalue(), at_least=(60, 60))
    >>> small.mode, small.size, small.getpixel((0, 0))
    ('RGB', (150, 100), (77, 77, 77))

    Raises `UnreadableImage` with a `reason` from `headers.REASONS`, and no other exception, whatever the bytes.
    """
    return read(data, at_least).image


def read(data: bytes | BinaryIO, at_least: tuple[int, int] | None = None) -> DecodedImage:
    """As `decode`, with the image's properties in the file. Raises `UnreadableImage`."""
    if warnings.filters[:1] != [_NO_PILLOW_WARNINGS]:
        warnings.filterwarnings("ignore", module=_NO_PILLOW_WARNINGS[3].pattern)
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    header = ImageHeader("image", 0, 0)
    try:
        header = probe(file)
        try:
            return _decoded(file, header, at_least)
        except OSError as error:
            if header.format != "JPEG" or "truncated" not in str(error) or not (whole := _with_end(file)):
                raise
            return _decoded(io.BytesIO(whole), header, at_least)
    except UnreadableImage:
        raise
    except Exception as error:
        # The one place that catches everything: on hostile bytes, decoders of seven formats raise a dozen unrelated
        # kinds of exception, and every image that cannot be decoded must be reported.
        raise _refusal(header, error) from error


def upright(image: Image.Image) -> Image.Image:
    """Convert an image in memory, or opened by Pillow, to what `decode` returns: upright, RGB, 8 bits.

    It is rotated by the EXIF orientation that it still carries (``ImageOps.exif_transpose`` rotates it and removes
    that). Raises `UnreadableImage`, also for an image file that turns out to be damaged when loaded.
    """
    try:
        image.load()
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow rotates TIFF on loading
        rgb = _to_rgb(image)
    except UnreadableImage:
        raise
    except Exception as error:  # as in `read`
        raise _refusal(ImageHeader(image.format or "image", image.width, image.height), error) from error
    return rgb if orientation == 1 else rgb.transpose(_TURNS[orientation])


def _decoded(file: BinaryIO, header: ImageHeader, at_least: tuple[int, int] | None) -> DecodedImage:
    _import_plugin(header.format)
    image: Image.Image = Image.open(file, formats=(header.format,))
    stated = (header.width, header.height)
    if image.size != stated and not (header.format == "TIFF" and image.size == stated[::-1]):
        raise UnreadableImage(
            f"{header.format}: states two sizes, {stated[0]:,} x {stated[1]:,} and {image.width:,} x {image.height:,}.",
            reason="damaged",
        )
    mode = image.mode
    if header.format == "JPEG":
        orientation = _orientation(image)
        if at_least is not None:
            image.draft(None, at_least[::-1] if orientation >= 5 else at_least)
        image.load()
    elif header.format == "TIFF":
        tag = image.getexif().get(0x112, 1)
        orientation = tag if tag in _TURNS else 1
        image.load()  # rotates the image itself
    else:
        image.load()
        orientation = _orientation(image)
    rgb = _to_rgb(image)
    if orientation != 1 and header.format != "TIFF":
        rgb = rgb.transpose(_TURNS[orientation])
    return DecodedImage(rgb, header, mode, orientation)


def _import_plugin(name: str) -> None:
    """Import one format: Pillow would import all its forty to find one that is not among its five common ones."""
    if name == "TIFF":
        from PIL import TiffImagePlugin as plugin
    elif name == "WEBP":
        from PIL import WebPImagePlugin as plugin  # type: ignore[no-redef]
    else:
        return
    del plugin


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8, or XMP's if EXIF has none; 1 if neither is valid."""
    exif = image.info.get("exif")
    value = exif_orientation(exif) if isinstance(exif, bytes) else None
    if value is None and isinstance(text := image.info.get("Raw profile type exif"), str):
        lines = "".join(text.split("\n")[3:])
        value = exif_orientation(bytes.fromhex(lines)) if re.fullmatch(r"(?:[0-9a-fA-F]{2})*", lines) else None
    if value is None and (xmp := image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")):
        match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
        value = int(match[1]) if match else None
    return value if value in _TURNS else 1


def exif_orientation(exif: bytes) -> int | None:
    """Return tag 0x0112 of the first directory of an EXIF block, or None; never raises, whatever the bytes.

    Pillow's own reader takes ten times as long, and raises on truncated blocks even if the pixels are intact.

    >>> exif_orientation(b"Exif\\0\\0MM\\0*\\0\\0\\0\\x08\\0\\x01\\x01\\x12\\0\\x03\\0\\0\\0\\x01\\0\\x06\\0\\0")
    6
    """
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None or len(exif) < 8:
        return None
    (at,) = struct.unpack_from(order + "I", exif, 4)
    if at + 2 > len(exif):
        return None
    (tags,) = struct.unpack_from(order + "H", exif, at)
    for entry in range(at + 2, min(at + 2 + 12 * tags, len(exif) - 11), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", exif, entry)
        if tag == 0x112:
            letter = {1: "B", 3: "H", 4: "I"}.get(kind)
            return struct.unpack_from(order + letter, exif, entry + 8)[0] if letter and count == 1 else None
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _scaled(image.convert("I"), 255 / 65535, 0.0)
    if image.mode in ("I", "F"):
        return _stretched(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _stretched(image: Image.Image) -> Image.Image:
    """Convert 32-bit integers or floating point to 8 bits; see `decode` for the rule."""
    extrema = image.getextrema()
    low, high = float(extrema[0]), float(extrema[1])  # type: ignore[arg-type]
    if not math.isfinite(low) or not math.isfinite(high):
        raise UnreadableImage("its pixels are not all finite numbers.", reason="damaged")
    if image.mode == "I" and low >= 0 and high <= 65535:
        return _scaled(image, 255 / 65535, 0.0)
    if image.mode == "F" and low >= 0 and high <= 255:
        return _scaled(image, 255.0 if high <= 1 else 1.0, 0.0)
    scale = 255 / (high - low) if high > low else 0.0
    return _scaled(image, scale, -low * scale)


def _scaled(image: Image.Image, scale: float, offset: float) -> Image.Image:
    """Return value * scale + offset, rounded, as grey RGB; the image has mode I or F."""
    grey = image.convert("F").point(lambda value: value * scale + (offset + 0.5))
    return grey.convert("L").convert("RGB")


def _with_end(file: BinaryIO) -> bytes | None:
    """Return a JPEG's bytes with the missing end marker added if all its pixels are there; otherwise None.

    Pixels are complete if bytes appended to them have no effect: three different fillers before the end marker must
    give the same image. Only for JPEGs with one scan, where an early end cannot hide a missing later scan.
    """
    size = file.seek(0, io.SEEK_END)
    if size > _SAVED_WITHOUT_END_BYTES or not jpeg_structure(file, size).one_scan:
        return None
    file.seek(0)
    data = file.read().removesuffix(b"\xff")
    if data.endswith(b"\xff\xd9"):
        return None
    fillers = (b"", b"\x5a\xa5" * 64, b"\xa6\x31" * 64)
    pixels = {Image.open(io.BytesIO(data + filler + b"\xff\xd9"), formats=("JPEG",)).tobytes() for filler in fillers}
    return data + b"\xff\xd9" if len(pixels) == 1 else None


def _refusal(header: ImageHeader, error: Exception) -> UnreadableImage:
    """Return the error to raise for what a decoder raised."""
    text = str(error)
    if isinstance(error, MemoryError):
        reason, why = "too_much_memory", "decoding it needs more memory than available"
    elif isinstance(error, Image.DecompressionBombError):
        reason, why = "too_many_pixels", f"more than {MAX_PIXELS:,} pixels once unpacked"
    elif "ecompressed data too large" in text or "text chunks" in text:
        reason, why = "text_chunk", "a text or profile in it is too large"
    elif isinstance(error, OSError) and error.errno is not None:
        reason, why = "unreadable", f"could not be read: {error.strerror}"
    elif isinstance(error, EOFError) or "runcated" in text or "not enough image data" in text:
        reason, why = "truncated", "the file ends before its pixels do"
    elif isinstance(error, Image.UnidentifiedImageError):
        reason, why = "damaged", "the decoder cannot read its header"
    else:
        reason, why = "damaged", f"the decoder failed: {text or type(error).__name__}"
    return UnreadableImage(f"{header.format}: {why}.", reason=reason)
