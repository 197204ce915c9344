"""The only way from the bytes of an image to its pixels: upright, RGB, 8 bits, complete, or an error with a reason.

Training, serving and export all decode here, because two decoders differ by more accuracy than int8 costs. An ordinary
500 x 375 JPEG takes about 0.9 ms at 180 px: JPEGs are decoded at the smallest of their built-in scales (1, 1/2, 1/4,
1/8) that is at least the requested size (libjpeg's scaled inverse DCT, which Pillow calls draft). Other formats have no
such scales and are decoded in full size, 4 bytes per pixel; a HEIC of 12 million pixels takes about 0.5 s. A JPEG of more
than `limits.MAX_PIXELS` is always decoded at the largest scale that stays below. Decoding releases the interpreter
lock, so threads scale.

Do not use it on untrusted files before `validate.validate_images` has decoded them: there, a crash costs a child
process.

Pillow warns about oddities that need no action (broken EXIF, odd TIFF tags). The first call adds one filter to Python's
`warnings` that suppresses warnings issued inside ``PIL``; that is the only global setting it changes.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, BinaryIO

from PIL import Image, ImageChops, ImageMath

from headstart.errors import UnreadableImage
from headstart.images.formats import heif_library
from headstart.images.headers import jpeg_structure, probe
from headstart.images.limits import MAX_FRAMES, MAX_PIXELS, ImageHeader, within
from headstart.images.value_ranges import (
    FULL,
    Span,
    ValueRanges,
    checked_extrema,
    chosen_ranges,
    scaled,
    sixteen_bits,
    used_span,
)

PIXELS_VERSION = 3
"""Part of the key of cached features: increment it when an image is decoded to other pixels."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WITH_ALPHA = {"1": "LA", "L": "LA", "P": "PA", "RGB": "RGBA"}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_NO_PILLOW_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\."), 0)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')
_SAVED_WITHOUT_END_BYTES = 32 << 20  # larger JPEGs that end early are not retried


@dataclass(frozen=True)
class DecodedImage:
    """A decoded image and its properties in the file: `mode` before conversion, `orientation` (EXIF, 1 to 8).

    `mode` is Pillow's, or RGB;16 and RGBA;16 for colours of 16 bits; LA, PA or RGBA also if a colour is transparent.
    `low` and `high` are the values that it uses, if it has more than 8 bits per channel and was scaled by its own range.
    """

    image: Image.Image
    header: ImageHeader
    mode: str
    orientation: int
    low: float = 0.0
    high: float = 0.0

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height in pixels at full scale, after turning."""
        size = (self.header.width, self.header.height)
        return size[::-1] if self.orientation >= 5 else size


def decode(
    data: bytes | BinaryIO, at_least: tuple[int, int] | None = None, ranges: ValueRanges | None = ValueRanges()
) -> Image.Image:
    """Decode an image (its bytes, or a file opened for reading) to an upright RGB image.

    `at_least` is a (width, height) in pixels of the upright image: a JPEG is decoded at the smallest of its scales
    that is not below it in either dimension. Other kinds of pixels:

    - transparency is composited on white; palette, grey, CMYK, YCbCr and bilevel are converted;
    - animations and files with several pages give their first frame, HEIC files the primary image;
    - a TIFF that stores white as zero is inverted, whatever its depth (floating point: 1 minus the value);
    - more than 8 bits per channel are scaled to 8 by `ranges`, rounded; values outside of them are clipped. With None,
      each image is scaled by the values that it uses itself, which is for looking at it only.

    Where `ranges` has none for a kind of pixels:

    - 16 bits per channel are scaled from 0..65535;
    - 32-bit integers count as 16-bit if all are in 0..65535, otherwise their own range is stretched to 0..255;
    - floating point within 0..1 is scaled by 255, within 0..255 left as is, otherwise its own range is stretched.

    >>> image = io.BytesIO()
    >>> Image.new("L", (300, 200), 77).save(image, "JPEG")
    >>> small = decode(image.getvalue(), at_least=(60, 60))
    >>> small.mode, small.size, small.getpixel((0, 0))
    ('RGB', (150, 100), (77, 77, 77))

    Raises `UnreadableImage` with a `reason` from `limits.REASONS`, and no other exception, whatever the bytes.
    """
    return read(data, at_least, ranges).image


def read(
    data: bytes | BinaryIO, at_least: tuple[int, int] | None = None, ranges: ValueRanges | None = ValueRanges()
) -> DecodedImage:
    """Like `decode`, with the image's properties in the file. Raises `UnreadableImage`."""
    if warnings.filters[:1] != [_NO_PILLOW_WARNINGS]:
        warnings.filterwarnings("ignore", module=_NO_PILLOW_WARNINGS[3].pattern)
    file = io.BytesIO(data) if isinstance(data, bytes) else data
    header = ImageHeader("image", 0, 0)
    try:
        header = probe(file)
        try:
            return _decoded(file, header, at_least, ranges)
        except OSError as error:
            if header.format != "JPEG" or "truncated" not in str(error) or not (whole := _with_end(file)):
                raise
            return _decoded(io.BytesIO(whole), header, at_least, ranges)
    except UnreadableImage as refusal:
        refusal.kind = refusal.kind or header.format.removeprefix("image")
        raise
    except Exception as error:
        # The one place that catches everything: on hostile bytes, decoders of nine formats raise a dozen unrelated
        # kinds of exception, and every image that cannot be decoded must be reported.
        raise _refusal(header, error) from error


def upright(image: Image.Image, ranges: ValueRanges | None = ValueRanges()) -> DecodedImage:
    """Convert an image in memory, or opened by Pillow, to what `read` returns: upright, RGB, 8 bits.

    It is rotated by the EXIF orientation that it still carries (``ImageOps.exif_transpose`` rotates it and removes
    that). Raises `UnreadableImage`, also for an image file that turns out to be damaged when loaded.
    """
    header = ImageHeader(image.format or "image", image.width, image.height)
    try:
        image.load()
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow rotates TIFF on loading
        rgb, span = _to_rgb(image, ranges)
    except UnreadableImage:
        raise
    except Exception as error:  # as in `read`
        raise _refusal(header, error) from error
    rgb = rgb if orientation == 1 else rgb.transpose(_TURNS[orientation])
    return DecodedImage(rgb, header, image.mode, orientation, *span)


def unscaled(image: Image.Image) -> Image.Image | None:
    """The pixels of an image of more than 8 bits per channel as they are, upright, in mode I;16, I or F; `info` keeps
    the value that is transparent, if any.

    None if it has 8 bits. (Pillow has no modes for colours of 16 bits: it keeps their upper 8.) Raises as `upright`.
    """
    header = ImageHeader(image.format or "image", image.width, image.height)
    try:
        image.load()
        if image.mode[:1] not in ("I", "F"):
            return None
        plane = _plane(image)
        checked_extrema(plane)
        plane = plane.convert("I;16") if image.mode.startswith("I;16") else plane.copy()
        orientation = 1 if image.format == "TIFF" else _orientation(image)
        plane = plane if orientation == 1 else plane.transpose(_TURNS[orientation])
    except UnreadableImage:
        raise
    except Exception as error:  # as in `read`
        raise _refusal(header, error) from error
    plane.info = {key: image.info[key] for key in ("transparency",) if key in image.info}
    return plane


def _decoded(
    file: BinaryIO, header: ImageHeader, at_least: tuple[int, int] | None, ranges: ValueRanges | None
) -> DecodedImage:
    image = _opened(file, header)
    mode, low_bytes = image.mode, None
    if header.format == "JPEG":
        orientation = _orientation(image)
        size = at_least[::-1] if at_least is not None and orientation >= 5 else at_least
        if (size := _within_memory(header, size)) is not None:
            image.draft(None, size)
        image.load()
    elif header.format == "TIFF":
        tag = image.getexif().get(0x112, 1)
        orientation = tag if tag in _TURNS else 1
        low_bytes = _low_bytes(image, file, header)
        image.load()  # rotates the image itself
    elif header.format == "HEIC":
        image.load()
        orientation = 1  # the library has rotated it already, whatever its EXIF says
    elif header.format == "AVIF":
        image.load()
        found = exif_orientation(image.info.get("exif", b""))  # Pillow puts in what the container says
        orientation = found if found in _TURNS else 1
    else:
        low_bytes = _low_bytes(image, file, header) if header.format == "PNG" else None
        image.load()
        orientation = _orientation(image)
    if "transparency" in image.info:
        mode = _WITH_ALPHA.get(mode, mode)
    rgb, span = _to_rgb(image, ranges, low_bytes)
    if orientation != 1 and header.format != "TIFF":
        rgb = rgb.transpose(_TURNS[orientation])
    if header.format in ("HEIC", "AVIF"):
        header = replace(header, width=image.width, height=image.height, frames=getattr(image, "n_frames", 1))
    return DecodedImage(rgb, header, mode if low_bytes is None else f"{mode};16", orientation, *span)


def _opened(file: BinaryIO, header: ImageHeader) -> Image.Image:
    """Open the file with the decoder of its format only. Raises `UnreadableImage` if that sees another size."""
    stated = (header.width, header.height)
    if header.format == "HEIC":
        return _opened_heic(file)
    if stated[0] * stated[1] > MAX_PIXELS:  # a JPEG, see `probe`; Image.open would refuse it
        from PIL.JpegImagePlugin import JpegImageFile

        file.seek(0)
        image: Image.Image = JpegImageFile(file)
    else:
        _import_plugin(header.format)
        image = Image.open(file, formats=(header.format,))
    turned = header.format in ("TIFF", "AVIF")
    if image.size != stated and not (turned and image.size == stated[::-1]):
        raise UnreadableImage(
            f"{header.format}: states two sizes, {stated[0]:,} x {stated[1]:,} and {image.width:,} x {image.height:,}.",
            reason="damaged",
        )
    if header.format == "TIFF":
        _read_planes_in_16_bits(image)
    return image


def _read_planes_in_16_bits(image: Any) -> None:
    """Correct how an uncompressed TIFF of 16 bits with one plane per colour is read: Pillow would read 8 bits."""
    deep = image.tag_v2.get(284) == 2 and set(image.tag_v2.get(258, (8,))) == {16}
    if deep and all(t.codec_name == "raw" and t.args[0] in ("R", "G", "B", "A") for t in image.tile):
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [t._replace(args=(f"{t.args[0]};16{order}", *t.args[1:])) for t in image.tile]


def _opened_heic(file: BinaryIO) -> Image.Image:
    """Open the main image of a HEIC file. Its size may differ from the stated one: it is turned and cropped."""
    library: Any = heif_library()
    file.seek(0)
    image: Image.Image = library.HeifImageFile(file)
    within("HEIC", image.width, image.height)
    if getattr(image, "n_frames", 1) > MAX_FRAMES:
        raise UnreadableImage(f"HEIC: more than {MAX_FRAMES:,} images.", reason="too_many_frames")
    return image


def _within_memory(header: ImageHeader, size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Return the size to ask of a JPEG's decoder: `size`, or less where the result would exceed `MAX_PIXELS`."""
    width, height = header.width, header.height
    if width * height <= MAX_PIXELS:
        return size
    scale = next((s for s in (2, 4) if -(-width // s) * -(-height // s) <= MAX_PIXELS), 8)
    most = (width // scale, height // scale)
    return most if size is None else (min(size[0], most[0]), min(size[1], most[1]))


def _import_plugin(name: str) -> None:
    """Import one format: Pillow would import all its forty to find one that is not among its five common ones."""
    if name == "TIFF":
        from PIL import TiffImagePlugin as plugin
    elif name == "WEBP":
        from PIL import WebPImagePlugin as plugin  # type: ignore[no-redef]
    elif name == "AVIF":
        from PIL import AvifImagePlugin as plugin  # type: ignore[no-redef]
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


def _to_rgb(
    image: Image.Image, ranges: ValueRanges | None, low_bytes: Callable[[], Image.Image] | None = None
) -> tuple[Image.Image, Span]:
    """Return the image as RGB, and the values that it uses; these are 0, 0 unless it is scaled by them (no `ranges`)."""
    span, colour, opaque = (0.0, 0.0), image.info.get("transparency"), None
    if image.mode[:1] in ("I", "F"):
        if isinstance(colour, int) and image.mode.startswith("I;16"):
            opaque = _opaque([_plane(image)], [colour])
        image, span = _grey(image, ranges)
    elif low_bytes is not None:
        if isinstance(colour, tuple):
            opaque = _opaque(map(sixteen_bits, image.split(), low_bytes().split()), colour)
            del image.info["transparency"]  # Pillow would compare the upper 8 bits
        image, span = _colours(image, ranges, low_bytes)
    if opaque is not None:
        image.putalpha(opaque)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba)
        return white, span
    return image if image.mode == "RGB" else image.convert("RGB"), span


def _opaque(planes: Iterable[Image.Image], transparent: Sequence[int]) -> Image.Image:
    """Return an L image: 0 where the planes (mode I) have the transparent colour of a PNG, 255 elsewhere."""
    differ = [
        ImageMath.lambda_eval(lambda args: (args["plane"] != args["value"]) * 255, plane=plane, value=value).convert(
            "L"
        )
        for plane, value in zip(planes, transparent, strict=True)
    ]
    return reduce(ImageChops.lighter, differ)


def _grey(image: Image.Image, ranges: ValueRanges | None) -> tuple[Image.Image, Span]:
    """Convert one channel of more than 8 bits; see `decode` for the rules."""
    plane = _plane(image)
    low, high = checked_extrema(plane)
    used = (0.0, 0.0)
    if ranges is None:
        used = used_span([plane])
        ranges = chosen_ranges([(image.mode, *used)])
    span = ranges.of(image.mode)
    if span is None and low >= 0:
        wholes = (FULL,) if plane.mode == "I" else ((0.0, 1.0), (0.0, 255.0))
        span = next((whole for whole in wholes if high <= whole[1]), None)
    return scaled(plane, span or (low, high)), used


def _plane(image: Image.Image) -> Image.Image:
    """One channel of more than 8 bits as mode I or F, black being the lowest value.

    A TIFF may store white as zero; Pillow inverts those of 8 bits only.
    """
    plane = image.convert("I") if image.mode.startswith("I;16") else image
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PHOTOMETRIC) != _WHITE_IS_ZERO:
        return plane
    white = 1.0 if plane.mode == "F" else FULL[1]
    return plane.point(lambda value: value * -1 + white)


def _colours(
    image: Image.Image, ranges: ValueRanges | None, low_bytes: Callable[[], Image.Image]
) -> tuple[Image.Image, Span]:
    """Convert colours of 16 bits, of which Pillow has read the upper 8: these are right where all 16 are used."""
    bands, used = image.split(), (0.0, 0.0)
    if ranges is not None:
        span = ranges.integers
    else:
        low, high = used_span([band.convert("I") for band in bands[:3]])
        used, span = (256 * low, 256 * high + 255), None
    if ranges is not None and span is None:
        return image, used
    if ranges is None and used[1] - used[0] >= FULL[1] / 2:
        return image, used
    planes = [sixteen_bits(*pair) for pair in zip(bands[:3], low_bytes().split(), strict=False)]
    if ranges is None:
        used = used_span(planes)
        span = chosen_ranges([(f"{image.mode};16", *used)]).integers
    channels = [scaled(plane, span or FULL) for plane in planes]
    return Image.merge(image.mode, [*channels, *bands[3:]]), used


_OTHER_BYTE = {"16B": "16L", "16L": "16B", "16N": "16B" if sys.byteorder == "little" else "16L"}


def _low_bytes(image: Image.Image, file: BinaryIO, header: ImageHeader) -> Callable[[], Image.Image] | None:
    """Return a function that reads the lower 8 of 16 bits per colour channel; None if there are no more than 8.

    Pillow keeps the upper byte of each value. Told that the bytes are in the other order, it keeps the lower one.
    """
    tiles = []
    for tile in getattr(image, "tile", []):
        rest = () if isinstance(tile.args, str) else tile.args[1:]
        kind, _, order = str(tile.args if isinstance(tile.args, str) else tile.args[0]).partition(";")
        if kind == "LA" and order == "16B":
            tiles.append(tile._replace(args="RGBA"))  # upper and lower byte of the grey, then of the alpha
            continue
        if kind not in ("RGB", "RGBA", "RGBX", "R", "G", "B", "A") or order not in _OTHER_BYTE:
            return None
        other = f"{kind};{_OTHER_BYTE[order]}"
        tiles.append(tile._replace(args=(other, *rest) if rest else other))
    if not tiles:
        return None

    def read_again() -> Image.Image:
        file.seek(0)
        again: Any = Image.open(file, formats=(header.format,))
        again.tile = tiles
        again.load()
        if image.mode == "RGBA" and tiles[0].args == "RGBA":
            return Image.merge("RGB", 3 * (again.getchannel("G"),))
        made: Image.Image = again
        return made

    return read_again


def _with_end(file: BinaryIO) -> bytes | None:
    """Return a JPEG's bytes with the missing end marker added if all its pixels are there; otherwise None.

    Pixels are complete if bytes appended to them have no effect: three different fillers before the end marker must
    give the same image. Only for JPEGs with one scan, where an early end cannot hide a missing later scan.
    """
    size = file.seek(0, io.SEEK_END)
    structure = jpeg_structure(file, size)
    large = size > _SAVED_WITHOUT_END_BYTES or structure.width * structure.height > MAX_PIXELS
    if large or not structure.one_scan:
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
        reason, why = "metadata_too_big", "a text or profile in it is too large"
    elif isinstance(error, OSError) and error.errno is not None:
        reason, why = "unreadable", f"could not be read: {error.strerror}"
    elif isinstance(error, EOFError) or "runcated" in text or "not enough image data" in text:
        reason, why = "truncated", "the file ends before its pixels do"
    elif isinstance(error, Image.UnidentifiedImageError) and header.format == "TIFF":
        reason = "damaged"
        why = "damaged, or not of a kind that can be read: grey or RGB of 8 or 16 bits, or grey of 32 bits"
    elif isinstance(error, Image.UnidentifiedImageError):
        reason, why = "damaged", "the decoder cannot read its header"
    else:
        reason, why = "damaged", f"the decoder failed: {text.rstrip('.') or type(error).__name__}"
    return UnreadableImage(f"{header.format}: {why}.", reason=reason, kind=header.format.removeprefix("image"))
