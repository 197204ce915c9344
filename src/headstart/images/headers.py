"""Image headers, read before any decoder runs: format, size, frames, traps.

Costs about 20 microseconds for an ordinary JPEG. It uses only the standard library, decodes no pixels, and needs well
under a megabyte of memory whatever the file contains: blocks are skipped by their stated length, never read whole,
except compressed PNG texts (8 MB at most), which are inflated up to `MAX_INFLATED_BYTES` because the decoder would
inflate them.

An image passes if its format is one of `FORMATS` (decided by its first bytes, never by the file's name) and it stays
within the limits below. They are far above what cameras and web sites produce, and low enough to bound the decoder's
time and memory: files beyond them are refused with a reason, in less than 0.2 s.

Do not use it to check whether the pixels are complete: an image can pass here and still be damaged inside.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, NoReturn

from headstart.errors import UnreadableImage
from headstart.images.formats import CAMERA_RAW, OtherFormat, is_available, other_format, remedy
from headstart.images.heif_header import heif_header, heif_kind

MAX_FILE_BYTES = 512 << 20
MAX_PIXELS = 128_000_000  # width x height; medium-format cameras reach 102 million
MAX_JPEG_PIXELS = 1_000_000_000  # of a JPEG, which is then decoded at a fraction of its size; stitched panoramas
MAX_COEFFICIENTS = (
    4 * MAX_PIXELS
)  # of a progressive JPEG beyond `MAX_PIXELS`, 2 bytes each; a CMYK one below has as many
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
    "text_chunk": f"more than {MAX_METADATA_BYTES >> 20} MB of texts, profiles or private blocks",
    "ifd_loop": "the directories of the TIFF point at each other in a circle",
    "decoder_crashed": "the decoder's process crashed on it twice",
    "too_slow": "decoding took too long and was stopped",
    "too_much_memory": "decoding needed more memory than available",
    "unreadable": "the file could not be read from the disk",
    "not_a_file": "there is no such file, or it is a folder or a device",
    "no_permission": "no permission to read the file",
    "changed": "the file changed while it was being read",
}
"""Every reason for leaving an image out: code -> meaning."""

WINDOW = 1 << 18
"""Bytes read at a time where a whole stream must be scanned."""
START_BYTES = 160
"""Bytes that tell the format of a file: DICOM has its mark at byte 128."""


@dataclass(frozen=True)
class ImageHeader:
    """The contents of a header: `format` is one of `FORMATS`; sizes in pixels as stored, before any EXIF rotation."""

    format: str
    width: int
    height: int
    frames: int = 1


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
        _refuse("empty", "the file is empty (0 bytes)")
    if size > MAX_FILE_BYTES:
        _refuse("file_too_big", f"{size:,} bytes; the limit is {MAX_FILE_BYTES:,}")
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
        return _refuse("truncated", f"the file ends inside its header ({size:,} bytes)")


def _heif(name: str, file: BinaryIO, size: int) -> ImageHeader:
    if not is_available(name):
        raise UnreadableImage(f"{name} is not decoded here. {remedy(name)}", reason="not_supported")
    header = heif_header(file, size)
    return within(header.kind, header.width, header.height)


def _refuse_other(start: bytes) -> NoReturn:
    """Refuse a file that begins with these bytes, by the name of its format if that is known."""
    other = other_format(start)
    if other is None:
        _refuse("not_an_image", f"its first bytes, {start[:8]!r}, are not those of {', '.join(FORMATS)}")
    refuse_format(other)


def refuse_format(other: OtherFormat) -> NoReturn:
    """Refuse a file of a format that is not decoded, and say what to do. Raises `UnreadableImage`."""
    name = other.name[0].upper() + other.name[1:]
    if other.reason == "not_supported":
        text = f"{name} is not decoded here. {remedy(other.name)}"
    else:
        text = f"{name}, not an image" + (f": {other.remedy}." if other.remedy else ".")
    raise UnreadableImage(text, reason=other.reason, kind=other.name)


def jpeg_structure(file: BinaryIO, size: int) -> JpegStructure:
    """Walk the segments of a JPEG of `size` bytes up to its first scan. Raises `UnreadableImage`."""
    at, junk, metadata, frame, sampling = 2, 0, 0, (0, 0, 0, 0, False), b""
    while True:
        file.seek(at)
        piece = file.read(22)
        if len(piece) < 4:
            _refuse("truncated", f"JPEG: the file ends before the pixel data ({size:,} bytes)")
        if piece[0] != 0xFF or piece[1] in (0x00, 0xFF):
            file.seek(at)
            stretch = file.read(4096)
            skip = marker_at if (marker_at := stretch.find(b"\xff", 1)) > 0 else len(stretch)
            at, junk = at + skip, junk + skip
            if junk > MAX_JUNK_BYTES:
                _refuse("damaged", f"JPEG: {junk:,} bytes of junk between its segments")
            continue
        marker, length = piece[1], (piece[2] << 8) + piece[3]
        if 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker < 0xC0 or marker == 0xD9 or length < 2:
            _refuse("damaged", f"JPEG: marker FF{marker:02X} (length {length}) where a segment was expected")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, components = struct.unpack_from(">BHHB", piece, 4)
            frame = (width, height, components, bits, marker <= 0xC1)
            sampling = piece[11 : 10 + 3 * components : 3]
        elif marker == 0xDA:
            break
        at, metadata = at + 2 + length, metadata + length
        if metadata > MAX_METADATA_BYTES:
            _refuse("text_chunk", f"JPEG: more than {MAX_METADATA_BYTES:,} bytes of metadata before the pixels")
    width, height, components, bits, sequential = frame
    if not width or not height:
        _refuse("damaged", f"JPEG: states a size of {width} x {height} pixels")
    if bits != 8 or components not in (1, 3, 4):
        _refuse("not_supported", f"JPEG: {bits} bits and {components} channels; expected 8 bits and 1, 3 or 4 channels")
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
        _refuse(
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
            _refuse("too_many_scans", f"JPEG: more than {MAX_SCANS} scans; encoders write about 10")
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
        _refuse("damaged", f"PNG: its first chunk is {kind!r} with {length:,} bytes, not IHDR with 13")
    within("PNG", width, height)
    at, frames, metadata, pixels = 33, 0, 0, False
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            _refuse("truncated", f"PNG: the file ends without an IEND chunk ({size:,} bytes)")
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if not kind.isalpha():
            _refuse("damaged", f"PNG: {kind!r} where a chunk name was expected, at byte {at + 4:,}")
        if kind == b"IEND":
            break
        if kind not in (b"IDAT", b"fdAT"):
            metadata += length
            if metadata > MAX_METADATA_BYTES:
                _refuse("text_chunk", f"PNG: {metadata:,} bytes besides the pixels, up to its chunk {kind.decode()}")
        at += 12 + length
        if at > size:
            _refuse("truncated", f"PNG: its chunk {kind.decode()} ends at byte {at:,} of {size:,}")
        if kind in (b"zTXt", b"iTXt", b"iCCP"):
            _refuse_bomb(kind, file.read(length))
        pixels |= kind == b"IDAT"
        frames += kind == b"fcTL"
        if frames > MAX_FRAMES:
            _refuse("too_many_frames", f"PNG: more than {MAX_FRAMES:,} frames")
    else:
        _refuse("too_many_parts", f"PNG: more than {MAX_CHUNKS:,} chunks")
    if not pixels:
        _refuse("damaged", "PNG: no pixel data (no IDAT chunk)")
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
        _refuse("text_chunk", f"PNG: its chunk {kind.decode()} inflates to more than {MAX_INFLATED_BYTES:,} bytes")


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
                _refuse("too_many_frames", f"GIF: more than {MAX_FRAMES:,} frames")
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
            _refuse("truncated", f"GIF: the file ends inside its first frame ({size:,} bytes)")
    if frames == 0:
        _refuse("damaged", "GIF: no frame")
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
                _refuse("too_many_parts", f"GIF: more than {MAX_GIF_BLOCKS:,} blocks")
            if not self.take(1):
                return False
            self.at -= 1


def _webp(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(4)
    end = 8 + struct.unpack("<I", file.read(4))[0]
    if end > size:
        _refuse("truncated", f"WEBP: states {end:,} bytes but has {size:,}")
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
            _refuse("truncated", f"WEBP: its chunk {kind!r} ends at byte {at + 8 + length:,} of {end:,}")
        frames += kind == b"ANMF"
        if frames > MAX_FRAMES:
            _refuse("too_many_frames", f"WEBP: more than {MAX_FRAMES:,} frames")
        if kind not in (b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF"):
            metadata += length
            if metadata > MAX_METADATA_BYTES:
                _refuse("text_chunk", f"WEBP: {metadata:,} bytes besides the pixels, up to its chunk {kind!r}")
        at += 8 + length + (length & 1)
    else:
        _refuse("too_many_parts", f"WEBP: more than {MAX_CHUNKS:,} chunks")
    if not width:
        _refuse("truncated", f"WEBP: the file ends before the pixel data ({size:,} bytes)")
    return ImageHeader("WEBP", width, height, max(1, frames))


def _webp_size(kind: bytes, head: bytes) -> tuple[int, int]:
    if kind == b"VP8X":
        return int.from_bytes(head[12:15], "little") + 1, int.from_bytes(head[15:18], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[9:13], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF
    return _refuse("damaged", f"WEBP: unexpected first chunk {kind!r}")


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
        _refuse("damaged", f"BMP: a header of {header:,} bytes; expected 12, 40, 52, 56, 64, 108 or 124")
    within("BMP", width, height)
    if compression == 0 and bits in (1, 2, 4, 8, 16, 24, 32):
        needed = data_at + (width * bits + 31) // 32 * 4 * height
        if needed > size + 3:  # some writers omit the padding of the last row
            _refuse("truncated", f"BMP: its pixels need {needed:,} bytes but the file has {size:,}")
    return ImageHeader("BMP", width, height)


_PPM_GAP = rb"(?:\s|#[^\r\n]*[\r\n])+"
_PPM = re.compile(_PPM_GAP.join((rb"P[56]", rb"(\d{1,9})", rb"(\d{1,9})", rb"(\d{1,5})\s")))


def _ppm(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(0)
    match = _PPM.match(file.read(4096))
    if not match:
        _refuse("damaged", "PPM: width, height and maximum value are not in its first 4,096 bytes")
    width, height, highest = (int(x) for x in match.groups())
    within("PPM", width, height)
    file.seek(0)
    channels = 3 if file.read(2) == b"P6" else 1
    needed = match.end() + width * height * channels * (1 if highest < 256 else 2)
    if needed > size:
        _refuse("truncated", f"PPM: its pixels need {needed:,} bytes but the file has {size:,}")
    return ImageHeader("PPM", width, height)


_TIFF_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TIFF_BIG = (256, 257, 277, 278, 322, 323)  # width, height, samples, rows per strip, tile width, tile height


def _tiff(file: BinaryIO, size: int) -> ImageHeader:
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    file.seek(4)
    (at,) = struct.unpack(order + "I", file.read(4))
    width = height = frames = 0
    visited: set[int] = set()
    while at:
        if at in visited:
            _refuse("ifd_loop", f"TIFF: directory {frames + 1} repeats an earlier one (byte {at:,})")
        visited.add(at)
        if frames == MAX_FRAMES:
            _refuse("too_many_frames", f"TIFF: more than {MAX_FRAMES:,} pages")
        file.seek(at)
        counted = file.read(2)
        if len(counted) < 2 and frames:
            break  # junk after the last page, which is not needed
        (tags,) = struct.unpack(order + "H", counted)
        if tags > MAX_TIFF_TAGS:
            _refuse("too_many_parts", f"TIFF: {tags:,} tags in one directory; the limit is {MAX_TIFF_TAGS:,}")
        if frames == 0:
            entries = file.read(12 * tags)
            if len(entries) < 12 * tags:
                _refuse("truncated", f"TIFF: the file ends inside its directory ({size:,} bytes)")
            width, height = _first_directory(file, size, order, entries)
        else:
            file.seek(at + 2 + 12 * tags)
        following = file.read(4)
        frames += 1
        at = struct.unpack(order + "I", following)[0] if len(following) == 4 else 0
    if frames == 0:
        _refuse("damaged", "TIFF: no directory")
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
                _refuse("too_many_parts", f"TIFF: {count:,} strips; the limit is {MAX_TIFF_STRIPS:,}")
            arrays[tag] = (kind, count, struct.unpack(order + "I", value)[0])
    if tag_bytes > MAX_TIFF_TAG_BYTES:
        _refuse("text_chunk", f"TIFF: {tag_bytes:,} bytes in its tags; the limit is {MAX_TIFF_TAG_BYTES:,}")
    width, height = values.get(256, 0), values.get(257, 0)
    within("TIFF", width, height)
    if 322 in values or 323 in values:
        within("TIFF tile", values.get(322, 0), values.get(323, 0))
    if values.get(277, 1) > 6:
        _refuse("not_supported", f"TIFF: {values[277]:,} channels; the limit is 6")
    for first, second in ((273, 279), (324, 325)):
        if first in arrays and second in arrays:
            begins, lengths = (_tiff_array(file, order, *arrays[tag]) for tag in (first, second))
            needed = max((a + b for a, b in zip(begins, lengths, strict=False)), default=0)
            if needed > size:
                _refuse("truncated", f"TIFF: its pixels end at byte {needed:,} but the file at {size:,}")
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


def within(name: str, width: int, height: int, *, most: int = MAX_PIXELS) -> ImageHeader:
    """Return the header of a still image after checking that its size is possible and within the limits.

    `most` is the limit of its pixels. Raises `UnreadableImage`.
    """
    if width <= 0 or height <= 0:
        _refuse("damaged", f"{name}: states a size of {width:,} x {height:,} pixels")
    if width * height > most or max(width, height) > MAX_SIDE_PIXELS:
        _refuse(
            "too_many_pixels",
            f"{name}: {width:,} x {height:,} pixels; the limit is {most:,}, and {MAX_SIDE_PIXELS:,} per side. To use it: "
            "magick IMAGE -resize 4000x4000 IMAGE.jpg",
        )
    return ImageHeader(name, width, height)


def _refuse(reason: str, message: str) -> NoReturn:
    raise UnreadableImage(message + ".", reason=reason)


_PARSERS: tuple[tuple[str, re.Pattern[bytes], Callable[[BinaryIO, int], ImageHeader]], ...] = (
    ("JPEG", re.compile(rb"\xff\xd8\xff"), _jpeg),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), _png),
    ("GIF", re.compile(rb"GIF8[79]a"), _gif),
    ("WEBP", re.compile(rb"RIFF....WEBP", re.DOTALL), _webp),
    ("BMP", re.compile(rb"BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00\x00\x00", re.DOTALL), _bmp),
    ("TIFF", re.compile(rb"II\*\x00(?!\x10\x00\x00\x00CR)|MM\x00\*"), _tiff),
    ("PPM", re.compile(rb"P[56][\s#]"), _ppm),
)
