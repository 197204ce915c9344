"""The limits for image files, and how a file beyond them is refused.

    within("PNG", 4000, 3000)             an `ImageHeader`, or `UnreadableImage`
    refuse("truncated", "PNG: ...")       `UnreadableImage`, whose `reason` is a key of `REASONS`

The limits are far above what cameras and web sites produce, and low enough to bound the decoder's time and memory.
Costs nothing. Not for reading files: see `images.headers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from headstart.errors import UnreadableImage
from headstart.images.formats import OtherFormat, remedy

MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 128_000_000  # width x height; medium-format cameras reach 102 million
MAX_JPEG_PIXELS = 1_000_000_000  # of a JPEG, which is then decoded at a fraction of its size; stitched panoramas
MAX_COEFFICIENTS = 4 * MAX_PIXELS  # of a larger progressive JPEG, 2 bytes each; CMYK of `MAX_PIXELS` has as many
MAX_SIDE_PIXELS = 65_535  # what a JPEG can state
MAX_FRAMES = 1_000  # of an animation, or pages of a TIFF
MAX_SCANS = 200  # of a progressive JPEG; encoders write about 10, and each scan costs a pass over all pixels
MAX_METADATA_BYTES = 8 << 20  # texts, profiles, thumbnails and private blocks together
MAX_INFLATED_BYTES = 1 << 20  # of one compressed PNG text or profile (Pillow's own limit)
MAX_TIFF_TAG_BYTES = 64 << 20  # Photoshop keeps its layers in a tag
MAX_TIFF_TAGS = 4_096  # in one directory
MAX_TIFF_STRIPS = 600_000
MAX_CHUNKS = 100_000  # of a PNG or WEBP; PNG encoders that write small chunks use 8 KB per chunk
MAX_GIF_BLOCKS = 500_000  # of at most 255 bytes, so up to 128 MB
MAX_JUNK_BYTES = 1 << 16  # between the segments of a JPEG header

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
"""The formats that are always decoded; MPO files count as JPEG (their first image), PGM as PPM, APNG as PNG. HEIC and
AVIF are too where their library is installed (`formats.is_available`)."""

REASONS: dict[str, str] = {
    "empty": "the file has no bytes",
    "not_an_image": "the content is not an image",
    "not_supported": "an image format that is not supported",
    "truncated": "the file ends before its pixels do",
    "damaged": "the structure or the pixels cannot be decoded",
    "file_too_big": f"more than {MAX_FILE_BYTES >> 20} MB",
    "too_many_pixels": f"more than {MAX_PIXELS:,} pixels (JPEG: {MAX_JPEG_PIXELS:,}), or {MAX_SIDE_PIXELS:,} on a side",
    "too_many_frames": f"more than {MAX_FRAMES:,} frames",
    "too_many_scans": f"more than {MAX_SCANS} scans in one JPEG",
    "too_many_parts": "more blocks than a real image has",
    "metadata_too_big": f"more than {MAX_METADATA_BYTES >> 20} MB of texts, profiles or private blocks",
    "ifd_loop": "the directories of the TIFF form a loop",
    "decoder_crashed": "the decoder's process crashed on it twice",
    "too_slow": "decoding took too long and was stopped",
    "too_much_memory": "decoding needed more memory than available",
    "unreadable": "the file could not be read from the disk",
    "not_a_file": "there is no such file, or it is a folder or a device",
    "no_permission": "no permission to read the file",
    "changed": "the file changed while it was being read",
}
"""Every reason for leaving an image out: code -> meaning."""


def reason_of(error: OSError) -> str:
    """Return the code in `REASONS` for a file that the operating system cannot open."""
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return "not_a_file"
    return "no_permission" if isinstance(error, PermissionError) else "unreadable"


@dataclass(frozen=True)
class ImageHeader:
    """The contents of a header: `format` is one of `FORMATS`; sizes in pixels as stored, before any EXIF rotation."""

    format: str
    width: int
    height: int
    frames: int = 1


def within(name: str, width: int, height: int, *, most: int = MAX_PIXELS) -> ImageHeader:
    """Return the header of a still image after checking that its size is possible and within the limits.

    `most` is the limit of its pixels. Raises `UnreadableImage`.
    """
    if width <= 0 or height <= 0:
        refuse("damaged", f"{name}: states a size of {width:,} x {height:,} pixels")
    if width * height > most or max(width, height) > MAX_SIDE_PIXELS:
        refuse(
            "too_many_pixels",
            f"{name}: {width:,} x {height:,} pixels; the limit is {most:,}, and {MAX_SIDE_PIXELS:,} per side. To use it: "
            "magick IMAGE -resize 4000x4000 IMAGE.jpg",
        )
    return ImageHeader(name, width, height)


def refuse(reason: str, message: str) -> NoReturn:
    """Raise `UnreadableImage`; `message` has no full stop."""
    raise UnreadableImage(message + ".", reason=reason)


def refuse_format(other: OtherFormat) -> NoReturn:
    """Refuse a file of a format that is not decoded, and say what to do. Raises `UnreadableImage`."""
    name = other.name[0].upper() + other.name[1:]
    if other.reason == "not_supported":
        text = f"{name} is not decoded here. {remedy(other.name)}"
    else:
        text = f"{name}, not an image" + (f": {other.remedy}." if other.remedy else ".")
    raise UnreadableImage(text, reason=other.reason, kind=other.name)
