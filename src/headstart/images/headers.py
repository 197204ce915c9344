"""Image headers, read before any decoder runs: format, size, frames, traps.

Costs about 20 microseconds for an ordinary JPEG. It uses only the standard library, decodes no pixels, and needs well
under a megabyte of memory whatever the file contains: blocks are skipped by their stated length, never read whole,
except compressed PNG texts (8 MB at most), which are inflated up to `MAX_INFLATED_BYTES` because the decoder would
inflate them.

An image passes if its format is one of `FORMATS`, or HEIC or AVIF where their library is installed (decided by its
first bytes, never by the file's name), and it stays within `images.limits`. Files beyond these are refused with a
reason, in less than 0.2 s. TIFF and HEIC have modules of their own.

Do not use it to check whether the pixels are complete: an image can pass here and still be damaged inside.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from headstart.errors import UnreadableImage
from headstart.images.formats import is_available, other_format, remedy
from headstart.images.heif_header import heif_header, heif_kind
from headstart.images.limits import (
    FORMATS,
    MAX_CHUNKS,
    MAX_COEFFICIENTS,
    MAX_FILE_BYTES,
    MAX_FRAMES,
    MAX_GIF_BLOCKS,
    MAX_INFLATED_BYTES,
    MAX_JPEG_PIXELS,
    MAX_JUNK_BYTES,
    MAX_METADATA_BYTES,
    MAX_PIXELS,
    MAX_SCANS,
    ImageHeader,
    refuse,
    refuse_format,
    within,
)
from headstart.images.tiff_header import tiff_header

WINDOW = 1 << 18
"""Bytes read at a time where a whole stream must be scanned."""
START_BYTES = 160
"""Bytes that tell the format of a file: DICOM has its mark at byte 128."""


@dataclass(frozen=True)
class JpegStructure:
    """A JPEG's header up to its pixel data at byte `data_at`; `one_scan`: a single scan contains all colours.

    `coefficients` is how many numbers a decoder holds at once if there are several scans.
    """

    width: int
    height: int
    one_scan: bool
    data_at: int
    coefficients: int


def probe(file: BinaryIO) -> ImageHeader:
    """Read the header and block structure of an image from its start; the file position afterwards is undefined.

    Raises `UnreadableImage`, whose `reason` is a key of `REASONS`, if it is not an image or exceeds a limit.
    """
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        refuse("empty", "the file is empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        refuse("file_too_big", f"{size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
    file.seek(0)
    start = file.read(START_BYTES)
    name = next((name for name, accepts, _ in _PARSERS if accepts.match(start)), "") or heif_kind(start)
    if not name:
        return _refuse_other(start)
    try:
        return _parsed(name, file, size)
    except UnreadableImage as refusal:
        refusal.kind = refusal.kind or name
        raise


def _parsed(name: str, file: BinaryIO, size: int) -> ImageHeader:
    parse = next((parse for known, _, parse in _PARSERS if known == name), None)
    if parse is None:
        return _heif(name, file, size)
    try:
        return parse(file, size)
    except struct.error:
        return refuse("truncated", f"the file ends inside its header ({size:,} bytes)")


def _heif(name: str, file: BinaryIO, size: int) -> ImageHeader:
    if not is_available(name):
        raise UnreadableImage(f"{name} is not decoded here. {remedy(name)}", reason="not_supported")
    header = heif_header(file, size)
    return within(header.kind, header.width, header.height)


def _refuse_other(start: bytes) -> NoReturn:
    """Refuse a file that begins with these bytes, by the name of its format if that is known."""
    other = other_format(start)
    if other is None:
        refuse("not_an_image", f"its first bytes, {start[:8]!r}, are not those of {', '.join(FORMATS)}")
    refuse_format(other)


def jpeg_structure(file: BinaryIO, size: int) -> JpegStructure:
    """Walk the segments of a JPEG of `size` bytes up to its first scan. Raises `UnreadableImage`."""
    at, junk, metadata, frame, sampling = 2, 0, 0, (0, 0, 0, 0, False), b""
    while True:
        file.seek(at)
        piece = file.read(22)
        if len(piece) < 4:
            refuse("truncated", f"JPEG: the file ends before the pixel data ({size:,} bytes)")
        if piece[0] != 0xFF or piece[1] in (0x00, 0xFF):
            file.seek(at)
            stretch = file.read(4096)
            skip = marker_at if (marker_at := stretch.find(b"\xff", 1)) > 0 else len(stretch)
            at, junk = at + skip, junk + skip
            if junk > MAX_JUNK_BYTES:
                refuse("damaged", f"JPEG: {junk:,} bytes of junk between its segments")
            continue
        marker, length = piece[1], (piece[2] << 8) + piece[3]
        if 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker < 0xC0 or marker == 0xD9 or length < 2:
            refuse("damaged", f"JPEG: marker FF{marker:02X} (length {length}) where a segment was expected")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", piece, 4)
            frame = (width, height, components, bits, marker <= 0xC1)
            sampling = piece[11 : 10 + 3 * components : 3]
        elif marker == 0xDA:
            break
        at, metadata = at + 2 + length, metadata + length
        if metadata > MAX_METADATA_BYTES:
            refuse("metadata_too_big", f"JPEG: more than {MAX_METADATA_BYTES:,} bytes of metadata before the pixels")
    width, height, components, bits, sequential = frame
    if not width or not height:
        refuse("damaged", f"JPEG: states a size of {width} x {height} pixels")
    if bits != 8 or components not in (1, 3, 4):
        refuse("not_supported", f"JPEG: {bits} bits and {components} channels; expected 8 bits and 1, 3 or 4 channels")
    one_scan = sequential and piece[4:5] == bytes([components])
    return JpegStructure(width, height, one_scan, at + 2 + length, _coefficients(width, height, sampling))


def _coefficients(width: int, height: int, sampling: bytes) -> int:
    """Return how many values the blocks of all channels hold, from the factors (4 bits each) of each channel."""
    factors = [(max(1, both >> 4), max(1, both & 15)) for both in sampling]
    across, down = max((x for x, _ in factors), default=1), max((y for _, y in factors), default=1)
    blocks = [-(-width * x // (8 * across)) * -(-height * y // (8 * down)) for x, y in factors]
    return 64 * sum(blocks)


def _jpeg(file: BinaryIO, size: int) -> ImageHeader:
    structure = jpeg_structure(file, size)
    header = within("JPEG", structure.width, structure.height, most=MAX_JPEG_PIXELS)
    large = header.width * header.height > MAX_PIXELS
    if large and not structure.one_scan and structure.coefficients > MAX_COEFFICIENTS:
        refuse(
            "too_many_pixels",
            f"JPEG: {header.width:,} x {header.height:,} pixels, progressive, so that decoding needs "
            f"{2 * structure.coefficients >> 20:,} MB; the limit is {2 * MAX_COEFFICIENTS >> 20:,} MB. To use it: "
            "jpegtran -copy all IMAGE.jpg > SEQUENTIAL.jpg",
        )
    if not structure.one_scan:
        # Counting FFDA anywhere is fast and can only overcount (in a thumbnail, in a video appended by a phone); only
        # beyond the limit is it worth following the markers to the true end of the image.
        file.seek(structure.data_at)
        scans = 1
        last = b""
        while scans <= MAX_SCANS and (piece := file.read(WINDOW)):
            scans += piece.count(b"\xff\xda") + (last == b"\xff" and piece[:1] == b"\xda")
            last = piece[-1:]
        if scans > MAX_SCANS and count_scans(file, structure.data_at) > MAX_SCANS:
            refuse("too_many_scans", f"JPEG: more than {MAX_SCANS} scans; encoders write about 10")
    return header


_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")


def count_scans(file: BinaryIO, at: int) -> int:
    """Count the scans of the image whose first scan begins at `at`, up to its end marker; stops beyond the limit."""
    scans = 1
    while scans <= MAX_SCANS:
        file.seek(at)
        piece = file.read(WINDOW)
        match = _JPEG_MARKER.search(piece)
        if match is None:
            if len(piece) < WINDOW:
                break
            at += len(piece) - 1
            continue
        marker, behind = piece[match.start() + 1], piece[match.end() : match.end() + 2]
        if marker == 0xD9:
            break
        if len(behind) < 2:
            if match.start() == 0:
                break
            at += match.start()
            continue
        scans += marker == 0xDA
        at += match.end() + max(2, int.from_bytes(behind, "big"))
    return scans


def _png(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(8)
    length, kind, width, height = struct.unpack(">I4sII", file.read(16))
    if kind != b"IHDR" or length != 13:
        refuse("damaged", f"PNG: its first chunk is {kind!r} with {length:,} bytes, not IHDR with 13")
    within("PNG", width, height)
    at, frames, metadata, pixels = 33, 0, 0, False
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            refuse("truncated", f"PNG: the file ends without an IEND chunk ({size:,} bytes)")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha():
            refuse("damaged", f"PNG: {kind!r} where a chunk name was expected, at byte {at + 4:,}")
        if kind == b"IEND":
            break
        if kind not in (b"IDAT", b"fdAT"):
            metadata += length
            if metadata > MAX_METADATA_BYTES:
                refuse(
                    "metadata_too_big", f"PNG: {metadata:,} bytes besides the pixels, up to its chunk {kind.decode()}"
                )
        at += 12 + length
        if at > size:
            refuse("truncated", f"PNG: its chunk {kind.decode()} ends at byte {at:,} of {size:,}")
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            _refuse_bomb(kind, file.read(length))
        pixels |= kind == b"IDAT"
        frames += kind == b"fcTL"
        if frames > MAX_FRAMES:
            refuse("too_many_frames", f"PNG: more than {MAX_FRAMES:,} frames")
    else:
        refuse("too_many_parts", f"PNG: more than {MAX_CHUNKS:,} chunks")
    if not pixels:
        refuse("damaged", "PNG: no pixel data (no IDAT chunk)")
    return ImageHeader("PNG", width, height, max(1, frames))


def _refuse_bomb(kind: bytes, chunk: bytes) -> None:
    """Refuse a compressed text or profile that inflates beyond `MAX_INFLATED_BYTES`; ignore other damage."""
    rest = chunk.partition(b"\0")[2]
    if kind == b"iTXt":
        if rest[:1] in (b"", b"\0"):
            return  # not compressed
        rest = b"\0" + [*rest[2:].split(b"\0", 2), b"", b""][2]
    inflate = zlib.decompressobj()
    try:
        inflate.decompress(rest[1:], MAX_INFLATED_BYTES)
    except zlib.error:
        return  # the decoder skips such a text
    if inflate.unconsumed_tail:
        refuse("metadata_too_big", f"PNG: its chunk {kind.decode()} inflates to more than {MAX_INFLATED_BYTES:,} bytes")


def _gif(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(6)
    width, height, flags = struct.unpack("<HHB", file.read(5))
    within("GIF", width, height)
    blocks = _GifBlocks(file, 13 + _palette_bytes(flags))
    frames = 0
    while (kind := blocks.byte()) is not None and kind != 0x3B:
        if kind == 0x21:
            blocks.byte()
        elif kind == 0x2C:
            frames += 1
            if frames > MAX_FRAMES:
                refuse("too_many_frames", f"GIF: more than {MAX_FRAMES:,} frames")
            descriptor = blocks.take(9)
            if len(descriptor) < 9 and frames > 1:
                break
            left, top, frame_width, frame_height, flags = struct.unpack("<HHHHB", descriptor)
            if frames == 1:  # a decoder enlarges the image to hold its first frame
                width, height = max(width, left + frame_width), max(height, top + frame_height)
                within("GIF", width, height)
            blocks.at += _palette_bytes(flags) + 1
        else:
            break  # junk from here on; complete frames before it are usable
        if not blocks.skip() and (frames == 0 or (frames == 1 and kind == 0x2C)):
            refuse("truncated", f"GIF: the file ends inside its first frame ({size:,} bytes)")
    if frames == 0:
        refuse("damaged", "GIF: no frame")
    return ImageHeader("GIF", width, height, frames)


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


class _GifBlocks:
    """A cursor over a GIF that reads windows of the file and skips chains of sub-blocks inside them."""

    def __init__(self, file: BinaryIO, at: int) -> None:
        self.file = file
        self.at = at
        self.window = b""
        self.begin = 0
        self.count = 0

    def take(self, n: int) -> bytes:
        offset = self.at - self.begin
        if not 0 <= offset <= len(self.window) - n:
            self.file.seek(self.at)
            self.window, self.begin, offset = self.file.read(WINDOW), self.at, 0
        self.at += n
        return self.window[offset : offset + n]

    def byte(self) -> int | None:
        return int.from_bytes(got) if (got := self.take(1)) else None

    def skip(self) -> bool:
        """Skip a chain of sub-blocks, each preceded by its length; return False if the file ends first."""
        while True:
            self.take(0)
            window, offset, count = self.window, self.at - self.begin, self.count
            end = len(window)
            while offset < end and (length := window[offset]):
                offset += length + 1
                count += 1
            self.at, self.count = self.begin + offset, count
            if offset < end:
                self.at += 1
                return True
            if count > MAX_GIF_BLOCKS:
                refuse("too_many_parts", f"GIF: more than {MAX_GIF_BLOCKS:,} blocks")
            if not self.take(1):
                return False
            self.at -= 1


def _webp(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(4)
    end = 8 + struct.unpack("<I", file.read(4))[0]
    if end > size:
        refuse("truncated", f"WEBP: states {end:,} bytes but has {size:,}")
    at, frames, metadata, width, height = 12, 0, 0, 0, 0
    for _ in range(MAX_CHUNKS):
        if at + 8 > end:
            break
        file.seek(at)
        head = file.read(18)
        kind, length = head[:4], int.from_bytes(head[4:8], "little")
        if not width:
            width, height = _webp_size(kind, head)
            within("WEBP", width, height)
        if at + 8 + length > end:
            refuse("truncated", f"WEBP: its chunk {kind!r} ends at byte {at + 8 + length:,} of {end:,}")
        frames += kind == b"ANMF"
        if frames > MAX_FRAMES:
            refuse("too_many_frames", f"WEBP: more than {MAX_FRAMES:,} frames")
        if kind not in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"):
            metadata += length
            if metadata > MAX_METADATA_BYTES:
                refuse("metadata_too_big", f"WEBP: {metadata:,} bytes besides the pixels, up to its chunk {kind!r}")
        at += 8 + length + (length & 1)
    else:
        refuse("too_many_parts", f"WEBP: more than {MAX_CHUNKS:,} chunks")
    if not width:
        refuse("truncated", f"WEBP: the file ends before the pixel data ({size:,} bytes)")
    return ImageHeader("WEBP", width, height, max(1, frames))


def _webp_size(kind: bytes, head: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        return int.from_bytes(head[12:15], "little") + 1, int.from_bytes(head[15:18], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF
    return refuse("damaged", f"WEBP: unexpected first chunk {kind!r}")


def _bmp(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(10)
    data_at, header = struct.unpack("<II", file.read(8))
    if header == 12:
        width, height, _, bits = struct.unpack("<HHHH", file.read(8))
        compression = 0
    elif header in (40, 52, 56, 64, 108, 124):
        width, height, _, bits, compression = struct.unpack("<iiHHI", file.read(16))
        height = abs(height)
    else:
        refuse("damaged", f"BMP: a header of {header:,} bytes; expected 12, 40, 52, 56, 64, 108 or 124")
    within("BMP", width, height)
    if compression == 0 and bits in (1, 2, 4, 8, 16, 24, 32):
        needed = data_at + (width * bits + 31) // 32 * 4 * height
        if needed > size + 3:  # some writers omit the padding of the last row
            refuse("truncated", f"BMP: its pixels need {needed:,} bytes but the file has {size:,}")
    return ImageHeader("BMP", width, height)


_PPM_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(_PPM_GAP.join((rb"P[56]", rb"(\d{1,9})", rb"(\d{1,9})", rb"(\d{1,5})\s")))


def _ppm(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(0)
    match = _PPM.match(file.read(4096))
    if not match:
        refuse("damaged", "PPM: width, height and maximum value are not in its first 4,096 bytes")
    width, height, highest = (int(x) for x in match.groups())
    within("PPM", width, height)
    file.seek(0)
    channels = 3 if file.read(2) == b"P6" else 1
    needed = match.end() + width * height * channels * (1 if highest < 256 else 2)
    if needed > size:
        refuse("truncated", f"PPM: its pixels need {needed:,} bytes but the file has {size:,}")
    return ImageHeader("PPM", width, height)


_PARSERS: tuple[tuple[str, re.Pattern[bytes], Callable[[BinaryIO, int], ImageHeader]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), _jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    ("GIF", re.compile(rb"GIF8[79]a"), _gif),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL), _bmp),
    ("TIFF", re.compile(rb"II\*\x00(?!\x10\x00\x00\x00CR)|MM\x00\*"), tiff_header),
    ("PPM", re.compile(rb"P[56][\s#]"), _ppm),
)
