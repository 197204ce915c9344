"""The header of a TIFF: its size, its pages, and whether its pixels are there; a camera's raw file is one, too.

Reads the first directory in full and follows the chain of the others by their lengths; decodes nothing. Not for reading
tags: Pillow does that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO

from headstart.images.formats import CAMERA_RAW
from headstart.images.limits import (
    MAX_FRAMES,
    MAX_TIFF_STRIPS,
    MAX_TIFF_TAG_BYTES,
    MAX_TIFF_TAGS,
    ImageHeader,
    refuse,
    refuse_format,
    within,
)

_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF_BIG = (256, 257, 277, 278, 322, 323)  # width, height, samples, rows per strip, tile width, tile height


def tiff_header(file: BinaryIO, size: int) -> ImageHeader:
    """Read the header of a TIFF of `size` bytes. Raises `UnreadableImage`, or `struct.error` where it is cut off."""
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    file.seek(4)
    (at,) = struct.unpack(order + "I", file.read(4))
    width = height = frames = 0
    visited: set[int] = set()
    while at:
        if at in visited:
            refuse("ifd_loop", f"TIFF: directory {frames + 1} repeats an earlier one (byte {at:,})")
        visited.add(at)
        if frames == MAX_FRAMES:
            refuse("too_many_frames", f"TIFF: more than {MAX_FRAMES:,} pages")
        file.seek(at)
        counted = file.read(2)
        if len(counted) < 2 and frames:
            break  # junk after the last page, which is not needed
        (tags,) = struct.unpack(order + "H", counted)
        if tags > MAX_TIFF_TAGS:
            refuse("too_many_parts", f"TIFF: {tags:,} tags in one directory; the limit is {MAX_TIFF_TAGS:,}")
        if frames == 0:
            entries = file.read(12 * tags)
            if len(entries) < 12 * tags:
                refuse("truncated", f"TIFF: the file ends inside its directory ({size:,} bytes)")
            width, height = _first_directory(file, size, order, entries)
        else:
            file.seek(at + 2 + 12 * tags)
        following = file.read(4)
        frames += 1
        at = struct.unpack(order + "I", following)[0] if len(following) == 4 else 0
    if frames == 0:
        refuse("damaged", "TIFF: no directory")
    return ImageHeader("TIFF", width, height, frames)


def _first_directory(file: BinaryIO, size: int, order: str, entries: bytes) -> tuple[int, int]:
    """Return width and height in pixels, after checking that tags, tiles and strips are within limits and file."""
    after = file.tell()
    values: dict[int, int] = {}
    arrays: dict[int, tuple[int, int, int]] = {}
    tag_bytes = 0
    if _is_camera_raw(order, entries):
        refuse_format(CAMERA_RAW)
    for tag, kind, count, value in struct.iter_unpack(order + "HHI4s", entries):
        tag_bytes += count * _TIFF_TYPE_BYTES.get(kind, 0)
        if tag in _TIFF_BIG and count == 1 and kind in (1, 3, 4):
            values.setdefault(tag, struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], value)[0])
        elif tag in (273, 279, 324, 325):
            if count > MAX_TIFF_STRIPS:
                refuse("too_many_parts", f"TIFF: {count:,} strips; the limit is {MAX_TIFF_STRIPS:,}")
            arrays[tag] = (kind, count, struct.unpack(order + "I", value)[0])
    if tag_bytes > MAX_TIFF_TAG_BYTES:
        refuse("metadata_too_big", f"TIFF: {tag_bytes:,} bytes in its tags; the limit is {MAX_TIFF_TAG_BYTES:,}")
    width, height = values.get(256, 0), values.get(257, 0)
    within("TIFF", width, height)
    if 322 in values or 323 in values:
        within("TIFF tile", values.get(322, 0), values.get(323, 0))
    if values.get(277, 1) > 6:
        refuse("not_supported", f"TIFF: {values[277]:,} channels; the limit is 6")
    for first, second in ((273, 279), (324, 325)):
        if first in arrays and second in arrays:
            begins, lengths = (_tiff_array(file, order, *arrays[tag]) for tag in (first, second))
            needed = max((a + b for a, b in zip(begins, lengths, strict=False)), default=0)
            if needed > size:
                refuse(
                    "truncated", f"TIFF: its pixels should end at byte {needed:,}, but the file ends at byte {size:,}"
                )
    file.seek(after)
    return width, height


_RAW_COLOURS = (32803, 34892)  # a colour filter array; linear raw
_RAW_COMPRESSIONS = (32767, 32769, 34713, 34892, 65535)  # of Sony, Nikon, Adobe, Pentax


def _is_camera_raw(order: str, entries: bytes) -> bool:
    """Whether a first directory is that of a camera's raw file: its own image would be a thumbnail, or no image."""
    tags: dict[int, int] = {}
    for tag, kind, _, value in struct.iter_unpack(order + "HHI4s", entries):
        tags[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), value)[0]
    reduced = tags.get(254, 0) & 1 and 330 in tags
    return bool(
        50706 in tags
        or reduced
        or tags.get(262) in _RAW_COLOURS
        or (tags.get(259) in _RAW_COMPRESSIONS and 271 in tags)
    )


def _tiff_array(file: BinaryIO, order: str, kind: int, count: int, offset: int) -> Iterator[int]:
    letter = {3: "H", 4: "I"}.get(kind, "")
    if not letter:
        return iter(())
    length = struct.calcsize(order + letter) * count
    if length <= 4:  # the value itself is stored instead of the offset
        return iter(struct.unpack(f"{order}{count}{letter}", struct.pack(order + "I", offset)[:length]))
    file.seek(offset)
    return iter(struct.unpack(f"{order}{count}{letter}", file.read(length)))
