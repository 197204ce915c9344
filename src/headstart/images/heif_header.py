"""The header of HEIC and AVIF files: which of them it is, the size of the main image, and whether its bytes are there.

    heif_header(file, size) -> HeifHeader("HEIC", 4032, 3024)

Both are boxes within boxes (ISO/IEC 14496-12): ``ftyp`` names the brands, ``meta`` holds the number of the main item
(``pitm``), properties of items (``iprp``, with sizes in ``ispe``), and where the bytes of each item are (``iloc``). A
photo from a phone is a grid of tiles, each an item of its own, with one size for the whole. Only ``meta`` is read, 8 MB
at most, and nothing is decoded; it takes about 0.1 ms. Not for turning images: the decoders apply ``irot`` and
``imir``, so the size is the one before that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from headstart.images.limits import refuse

MAX_META_BYTES = 8 << 20
MAX_BOXES = 100_000
MAX_EXTENTS = 200_000
ZEROS = 64
"""This many zeros at the end of compressed pixels mean that the rest was never written."""
CODED = frozenset({b"hvc1", b"hev1", b"av01"})

AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"mif2", b"msf1"}
)


@dataclass(frozen=True)
class HeifHeader:
    """`kind` is HEIC or AVIF; the size of the main image in pixels, before it is turned."""

    kind: str
    width: int
    height: int


@dataclass(frozen=True)
class _HeifBox:
    """A box: its type, and its content from `begin` to `end`."""

    kind: bytes
    begin: int
    end: int


def heif_kind(start: bytes) -> str:
    """Return 'HEIC' or 'AVIF' for the first bytes of such a file, '' for another (such as a video).

    >>> heif_kind(b"\\0\\0\\0\\x14ftypmif1\\0\\0\\0\\0avif")
    'AVIF'
    """
    if start[4:8] != b"ftyp":
        return ""
    end = min(int.from_bytes(start[:4], "big"), len(start))
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, end - 3, 4))}
    if start[8:12] not in AVIF_BRANDS | HEIC_BRANDS:
        return ""
    return "AVIF" if brands & AVIF_BRANDS and not brands & (HEIC_BRANDS - {b"mif1", b"mif2", b"msf1"}) else "HEIC"


def heif_header(file: BinaryIO, size: int) -> HeifHeader:
    """Read the header of a file of `size` bytes. Raises `UnreadableImage`, also if bytes of its items are missing."""
    file.seek(0)
    kind = heif_kind(file.read(160))
    meta = _meta(file, size, kind)
    try:
        width, height = _main_size(meta, kind)
        pieces = list(_pieces(meta, kind))
        coded = _coded_items(meta, kind)
    except (struct.error, IndexError):
        refuse("damaged", f"{kind}: its boxes end in the middle of a value")
    needed = max((piece.end for piece in pieces), default=0)
    if needed > size:
        refuse("truncated", f"{kind}: its pixels should end at byte {needed:,}, but the file ends at byte {size:,}")
    for piece in pieces:
        if piece.item in coded and piece.length > ZEROS and _ends_in_zeros(file, piece):
            refuse("truncated", f"{kind}: its pixels end in zeros at byte {piece.end:,}, as in an unfinished download")
    return HeifHeader(kind, width, height)


def _ends_in_zeros(file: BinaryIO, piece: _ItemPiece) -> bool:
    file.seek(piece.end - ZEROS)
    return not any(file.read(ZEROS))


@dataclass(frozen=True)
class _ItemPiece:
    """Bytes of the file that belong to an item, up to `end`."""

    item: int
    length: int
    end: int


def _meta(file: BinaryIO, size: int, kind: str) -> bytes:
    """Return the content of the box ``meta`` at the top level, behind its version."""
    at = 0
    for _ in range(MAX_BOXES):
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            refuse("truncated", f"{kind}: the file ends before its description of the image ({size:,} bytes)")
        length, name, skip = int.from_bytes(head[:4], "big"), head[4:8], 8
        if length == 1:
            length, skip = int.from_bytes(head[8:16], "big"), 16
        length = length or size - at
        if length < skip:
            refuse("damaged", f"{kind}: a box {name!r} of {length:,} bytes, at byte {at:,}")
        if name == b"meta":
            if length > MAX_META_BYTES:
                refuse(
                    "metadata_too_big", f"{kind}: its description has {length:,} bytes; the limit is {MAX_META_BYTES:,}"
                )
            if at + length > size:
                refuse("truncated", f"{kind}: the file ends inside its description of the image ({size:,} bytes)")
            file.seek(at + skip + 4)
            return file.read(length - skip - 4)
        if name == b"moov":
            refuse("not_supported", f"{kind}: a video without a still image; take frames from it with ffmpeg")
        at += length
    return refuse("too_many_parts", f"{kind}: more than {MAX_BOXES:,} boxes")


def _boxes(data: bytes, begin: int, end: int, kind: str) -> Iterator[_HeifBox]:
    """Yield the boxes between two places."""
    for _ in range(MAX_BOXES):
        if end - begin < 8:
            return
        length, name, skip = int.from_bytes(data[begin : begin + 4], "big"), data[begin + 4 : begin + 8], 8
        if length == 1:
            length, skip = int.from_bytes(data[begin + 8 : begin + 16], "big"), 16
        length = length or end - begin
        if length < skip or begin + length > end:
            refuse("damaged", f"{kind}: a box {name!r} of {length:,} bytes, where {end - begin:,} are left")
        yield _HeifBox(name, begin + skip, begin + length)
        begin += length
    refuse("too_many_parts", f"{kind}: more than {MAX_BOXES:,} boxes")


def _main_size(meta: bytes, kind: str) -> tuple[int, int]:
    """Return width and height of the main item; if it has none, those of the largest item."""
    top = {box.kind: box for box in _boxes(meta, 0, len(meta), kind)}
    if b"pitm" not in top or b"iprp" not in top:
        refuse("damaged", f"{kind}: does not say which of its items is the image, or of what size")
    at = top[b"pitm"].begin
    main = int.from_bytes(meta[at + 4 : at + (6 if meta[at] == 0 else 8)], "big")
    parts = list(_boxes(meta, top[b"iprp"].begin, top[b"iprp"].end, kind))
    properties = [p for box in parts if box.kind == b"ipco" for p in _boxes(meta, box.begin, box.end, kind)]
    sizes = {n: struct.unpack_from(">II", meta, p.begin + 4) for n, p in enumerate(properties, 1) if p.kind == b"ispe"}
    if not sizes:
        refuse("damaged", f"{kind}: does not state the size of its image")
    own = [sizes[n] for box in parts if box.kind == b"ipma" for n in _properties_of(meta, box, main) if n in sizes]
    width, height = max(own or sizes.values(), key=lambda size: size[0] * size[1])
    return width, height


def _properties_of(meta: bytes, box: _HeifBox, item: int) -> list[int]:
    """Return the numbers of an item's properties, from the box ``ipma``."""
    version, wide = meta[box.begin], meta[box.begin + 3] & 1
    (entries,) = struct.unpack_from(">I", meta, box.begin + 4)
    at, name = box.begin + 8, ">H" if version == 0 else ">I"
    for _ in range(min(entries, MAX_EXTENTS)):
        (this,) = struct.unpack_from(name, meta, at)
        count = meta[at + struct.calcsize(name)]
        at += struct.calcsize(name) + 1
        if this == item:
            numbers = struct.unpack_from(f">{count}{'H' if wide else 'B'}", meta, at)
            return [n & (0x7FFF if wide else 0x7F) for n in numbers]
        at += count * (2 if wide else 1)
    return []


def _coded_items(meta: bytes, kind: str) -> set[int]:
    """Return the numbers of the items that hold compressed pixels, from the box ``iinf``."""
    found: set[int] = set()
    for box in _boxes(meta, 0, len(meta), kind):
        if box.kind == b"iinf":
            begin = box.begin + (6 if meta[box.begin] == 0 else 8)
            for entry in _boxes(meta, begin, box.end, kind):
                wide = meta[entry.begin] >= 3
                values = _BoxValues(meta, entry.begin + 4)
                item, _, name = values.take(4 if wide else 2), values.take(2), values.take(4)
                if name.to_bytes(4, "big") in CODED:
                    found.add(item)
    return found


def _pieces(meta: bytes, kind: str) -> Iterator[_ItemPiece]:
    """Yield the pieces of all items that lie outside of the description, from the box ``iloc``."""
    box = next((box for box in _boxes(meta, 0, len(meta), kind) if box.kind == b"iloc"), None)
    if box is None:
        refuse("damaged", f"{kind}: does not say where its pixels are")
    version, sizes = meta[box.begin], struct.unpack_from(">H", meta, box.begin + 4)[0]
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    values = _BoxValues(meta, box.begin + 6)
    id_size, pieces = 2 if version < 2 else 4, 0
    for _ in range(values.take(id_size)):
        item = values.take(id_size)
        in_file = not version or values.take(2) & 15 == 0
        values.take(2)
        base = values.take(base_size)
        for _ in range(values.take(2)):
            values.take(index_size)
            offset, length = values.take(offset_size), values.take(length_size)
            pieces += 1
            if pieces > MAX_EXTENTS:
                refuse("too_many_parts", f"{kind}: its items are in more than {MAX_EXTENTS:,} pieces")
            if in_file:
                yield _ItemPiece(item, length, base + offset + length)


class _BoxValues:
    """A cursor over big-endian numbers. Raises `IndexError` behind the end."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at

    def take(self, size: int) -> int:
        """Return the next number of `size` bytes; 0 for no bytes."""
        piece = self.data[self.at : self.at + size]
        if len(piece) < size:
            raise IndexError("the box ends")
        self.at += size
        return int.from_bytes(piece, "big")
