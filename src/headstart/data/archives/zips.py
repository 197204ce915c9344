"""The entries of a zip, by its directory, checked against the local header of each entry.

Reads stored and deflated entries and zip64 (APPNOTE.TXT 6.3.10, PKWARE). Python's `zipfile` first loads the whole
directory into memory (half a gigabyte for a million entries), whatever the end record says, and never checks whether
entries overlap (a kilobyte can claim petabytes: D. Fifield, A better zip bomb, WOOT 2019). Here the directory is read
in pieces, to its end and with every local header, before the caller writes anything.

Costs 10 microseconds per entry, vetting included. Not for multi-part or encrypted archives.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

import numpy as np

from headstart.data.archives.members import DELIBERATE, Entry, Member, shown
from headstart.data.archives.streams import FAULTS, PIECE, damaged, unreadable
from headstart.errors import BadArchive

_SPLIT = b"PK\x07\x08"
STARTS = (b"PK\x03\x04", b"PK\x05\x06", _SPLIT, b"PK00PK")
"""First bytes of a zip; the second is an empty archive, the last two are multi-part ones or once were."""

_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_U16, _U32 = 0xFFFF, 0xFFFFFFFF
_ENCRYPTED, _SIZES_FOLLOW, _STRONG, _UTF8, _MASKED = 1, 8, 64, 1 << 11, 1 << 13
_STORED, _DEFLATED = 0, 8
_METHODS = {1: "shrink", 6: "implode", 9: "Deflate64", 12: "bzip2", 14: "LZMA", 93: "zstandard", 95: "xz", 98: "PPMd"}
_LINK_ATTRIBUTE = 0x400  # Windows' FILE_ATTRIBUTE_REPARSE_POINT
_UNIX_KINDS = {
    0: "file",
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFIFO: "pipe",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFSOCK: "socket",
}


def count_of(archive: str, file: BinaryIO) -> int:
    """Return the number of entries according to the end record. Raises `BadArchive`."""
    return _find_directory(archive, file).entries


@dataclass
class ZipNames:
    """How the names in one zip are encoded. Archivers that write neither UTF-8 nor a Unicode field (APPNOTE.TXT 4.6.9)
    use the code page of the machine, without saying which; some of its names may be valid UTF-8 by chance. So one name
    that is not makes all of them names in the code page of DOS, except those that are marked as UTF-8."""

    example: str = ""
    """A name that is not UTF-8, as it is read; '' if none has been seen."""

    def decoded(self, raw: bytes, flags: int, extra: bytes) -> str:
        """Return the name of an entry."""
        unicode = _unicode_name(raw, extra)
        if unicode:
            return unicode
        try:
            utf8 = raw.decode("utf-8")
        except UnicodeDecodeError:
            self.example = self.example or raw.decode("cp437")
            return raw.decode("cp437")
        return utf8 if flags & _UTF8 or not self.example else raw.decode("cp437")


def zip_entries(archive: str, file: BinaryIO, names: ZipNames) -> Iterator[Entry]:
    """Yield the entries in the directory's order. If one sets `names.example`, earlier ones may have had other names.

    Raises `BadArchive`; for overlapping entries, at the end.
    """
    directory = _find_directory(archive, file)
    begins, ends = array("Q"), array("Q")
    n = 0
    try:
        for n, record in enumerate(_records(archive, file, directory, names), 1):
            if n > directory.most or record.offset + record.packed > directory.begin:
                raise damaged(archive, "its directory claims more than the file contains")
            begin = _check_local(archive, file, record)
            begins.append(record.offset)
            ends.append(begin + record.packed)
            yield Entry(record.member(), partial(_pieces, archive, file, record, begin))
    except FAULTS as error:
        raise unreadable(archive, error) from error
    if n != directory.entries and (directory.zip64 or n % (_U16 + 1) != directory.entries):
        raise damaged(archive, f"its directory has {n:,} entries but states {directory.entries:,}")
    _check_overlaps(archive, np.array(begins), np.array(ends), directory.begin)


@dataclass(frozen=True, slots=True)
class _Directory:
    begin: int
    size: int
    entries: int
    """Their number; without zip64, macOS states it modulo 65,536."""
    zip64: bool

    @property
    def most(self) -> int:
        """How many entries there may be."""
        fitting = self.size // _CENTRAL.size
        return self.entries if self.zip64 or fitting <= self.entries + _U16 else fitting


@dataclass(frozen=True, slots=True)
class _Record:
    """One entry of the directory."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    offset: int
    attributes: int
    system: int

    def member(self) -> Member:
        return Member(self.name, self._kind(), self.size, self.packed)

    def _kind(self) -> str:
        mode = self.attributes >> 16 if self.system in (3, 19) else 0  # Unix, and a Mac's
        kind = _UNIX_KINDS.get(stat.S_IFMT(mode), "file of unknown kind")
        if kind == "file" and self.attributes & _LINK_ATTRIBUTE and self.system in (0, 10, 11, 14):
            kind = "symbolic link"
        if self.flags & (_ENCRYPTED | _STRONG | _MASKED) or self.method == 99:
            return f"encrypted {kind}"
        if kind == "file" and self.raw_name.endswith(b"/"):
            kind = "folder"
        elif kind == "folder" and not self.raw_name.endswith(b"/"):
            kind = "folder with the name of a file"
        elif kind == "file" and mode & (stat.S_ISUID | stat.S_ISGID):
            kind = "file that runs as another user"
        if kind == "file" and self.method not in (_STORED, _DEFLATED):
            return f"file packed with {_METHODS.get(self.method, f'method {self.method}')}, which is not supported"
        return kind


# The directory


def _find_directory(archive: str, file: BinaryIO) -> _Directory:
    try:
        length = file.seek(0, io.SEEK_END)
        tail_at = max(0, length - _END.size - _U16)
        file.seek(tail_at)
        tail = file.read(_END.size + _U16)
        file.seek(0)
        if file.read(4) == _SPLIT and tail.rfind(_END_MARK) < 0:
            raise _in_parts(archive)
        at = _find_end(archive, tail)
        _, disk, first, here, entries, size, begin, _ = _END.unpack_from(tail, at)
        end = tail_at + at
        zip64 = _U16 in (disk, first, here, entries) or _U32 in (size, begin)
        if zip64:
            old = (disk, first, here, entries, size, begin)
            end, (disk, first, here, entries, size, begin) = _end64(archive, file, end, old)
    except FAULTS as error:
        raise unreadable(archive, error) from error
    if disk or first or here != entries:
        raise _in_parts(archive)
    if begin + size > end or size < _CENTRAL.size * entries:
        raise damaged(archive, "its directory is not where its end record says")
    return _Directory(begin, size, entries, zip64)


def _in_parts(archive: str) -> BadArchive:
    return BadArchive(
        f"{archive}: is one part of several.",
        hint="Join the parts first: zip -s 0 LAST.zip --out whole.zip, where LAST.zip is the part that ends in .zip.",
    )


def _find_end(archive: str, tail: bytes) -> int:
    """Return where the end record is: the one whose comment reaches to the end of the file."""
    positions, at = [], tail.rfind(_END_MARK)
    while at >= 0:
        if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail):
            positions.append(at)
        at = tail.rfind(_END_MARK, 0, at)
    if len(positions) > 1:
        raise BadArchive(f"{archive}: has two end records, so it could be read in two ways.", hint=DELIBERATE)
    if not positions:
        raise damaged(archive, "it has no end record")
    return positions[0]


_END_MARK = b"PK\x05\x06"


def _end64(archive: str, file: BinaryIO, end: int, old: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Return zip64's end record and its position; it must agree with the values that the old record `old` states."""
    if end < _LOCATOR.size:
        raise damaged(archive, "its zip64 end record is missing")
    file.seek(end - _LOCATOR.size)
    mark, _, at, disks = _LOCATOR.unpack(file.read(_LOCATOR.size))
    if mark != b"PK\x06\x07" or disks > 1 or at + _END64.size > end - _LOCATOR.size:
        raise damaged(archive, "its zip64 end record is missing")
    file.seek(at)
    mark, _, _, _, *values = _END64.unpack(file.read(_END64.size))
    if mark != b"PK\x06\x06":
        raise damaged(archive, "its zip64 end record is missing")
    for stated, new, unset in zip(old, values, (_U16, _U16, _U16, _U16, _U32, _U32), strict=True):
        if stated not in (unset, new):
            raise damaged(archive, f"its two end records differ ({stated:,} and {new:,})")
    return at, tuple(values)


def _records(archive: str, file: BinaryIO, directory: _Directory, names: ZipNames) -> Iterator[_Record]:
    """Yield the entries of the directory, reading it in pieces."""
    buffer, at = b"", 0
    position, left = directory.begin, directory.size
    while left or at < len(buffer):
        if len(buffer) - at < _CENTRAL.size + 3 * _U16 and left:
            file.seek(position)
            more = file.read(min(left, PIECE))
            if not more:
                raise damaged(archive, "it ends in its directory")
            buffer, at, position, left = buffer[at:] + more, 0, position + len(more), left - len(more)
        if len(buffer) - at < _CENTRAL.size or not buffer.startswith(b"PK\x01\x02", at):
            raise damaged(archive, "its directory has an invalid entry")
        fields = _CENTRAL.unpack_from(buffer, at)
        name_at = at + _CENTRAL.size
        extra_at = name_at + fields[10]
        at = extra_at + fields[11] + fields[12]
        if at > len(buffer):
            raise damaged(archive, "it ends in its directory")
        yield _record(archive, fields, buffer[name_at:extra_at], buffer[extra_at : extra_at + fields[11]], names)


def _record(archive: str, fields: tuple[int, ...], name: bytes, extra: bytes, names: ZipNames) -> _Record:
    _, made_by, _, flags, method, _, _, crc, packed, size, _, _, _, disk, _, attributes, offset = fields
    if _U32 in (packed, size, offset):
        large = _zip64_values(extra)
        try:
            size, packed, offset = (next(large) if v == _U32 else v for v in (size, packed, offset))
        except (StopIteration, RuntimeError):
            raise damaged(archive, "a size in its directory is missing (zip64)") from None
    if disk not in (0, _U16):
        raise _in_parts(archive)
    return _Record(
        raw_name=name,
        name=names.decoded(name, flags, extra),
        flags=flags,
        method=method,
        crc=crc,
        packed=packed,
        size=size,
        offset=offset,
        attributes=attributes,
        system=made_by >> 8,
    )


def _zip64_values(extra: bytes) -> Iterator[int]:
    """Yield the 64-bit numbers in an extra field: those of size, packed size and offset that did not fit."""
    values = _extra_field(extra, 1)
    yield from struct.unpack_from(f"<{len(values) // 8}Q", values)


def _unicode_name(raw: bytes, extra: bytes) -> str:
    """Return the name in the Unicode field that some archivers add (7-Zip, Info-ZIP); '' if it is not of this name."""
    values = _extra_field(extra, 0x7075) if not raw.isascii() else b""
    if values[:1] != b"\1" or values[1:5] != zlib.crc32(raw).to_bytes(4, "little"):
        return ""
    try:
        return values[5:].decode("utf-8")
    except UnicodeDecodeError:
        return ""


def _extra_field(extra: bytes, wanted: int) -> bytes:
    """Return the contents of the first extra field with this tag, b'' if there is none."""
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        if tag == wanted:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return b""


# The local headers


def _check_local(archive: str, file: BinaryIO, record: _Record) -> int:
    """Return where the bytes of an entry begin. Raises `BadArchive` if its local header and the directory differ."""
    file.seek(record.offset)
    head = file.read(_LOCAL.size + len(record.raw_name))
    if len(head) < _LOCAL.size + len(record.raw_name) or not head.startswith(b"PK\x03\x04"):
        raise damaged(archive, "an entry is not where its directory says")
    _, _, flags, method, _, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL.unpack_from(head)
    begin = record.offset + _LOCAL.size + name_bytes + extra_bytes
    if _U32 in (packed, size):
        file.seek(record.offset + _LOCAL.size + name_bytes)
        large = _zip64_values(file.read(extra_bytes))
        size, packed = (next(large, value) if value == _U32 else value for value in (size, packed))
    unset = {0} if flags & _SIZES_FOLLOW else set()
    same = (
        head[_LOCAL.size :] == record.raw_name
        and name_bytes == len(record.raw_name)
        and method == record.method
        and (flags ^ record.flags) & (_ENCRYPTED | _STRONG | _MASKED) == 0
        and crc in unset | {record.crc}
        and packed in unset | {record.packed}
        and size in unset | {record.size}
    )
    if not same:
        raise BadArchive(
            f"{archive}: its directory and the header of {shown(record.name)} differ, so it could be read in two ways.",
            hint=DELIBERATE,
        )
    return begin


def _check_overlaps(archive: str, begins: np.ndarray, ends: np.ndarray, directory: int) -> None:
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], ends[order]
    if len(ends) and ends.max() > directory:
        raise damaged(archive, "an entry reaches into its directory")
    overlapping = int((ends[:-1] > begins[1:]).sum())
    if overlapping:
        raise BadArchive(f"{archive}: {overlapping:,} of its entries overlap others (a zip bomb).", hint=DELIBERATE)


# The contents


def _pieces(archive: str, file: BinaryIO, record: _Record, begin: int) -> Iterator[bytes]:
    """Yield the bytes of an entry. Raises `BadArchive` if they exceed the directory's size or fail its checksum."""
    crc, total = 0, 0
    try:
        for piece in _unpacked(file, record, begin):
            crc, total = zlib.crc32(piece, crc), total + len(piece)
            if total > record.size:
                break
            yield piece
    except FAULTS as error:
        raise unreadable(f"{archive}: {shown(record.name)}", error) from error
    if total != record.size or crc != record.crc:
        what = "size" if total != record.size else "checksum"
        raise damaged(archive, f"{shown(record.name)} does not have the {what} stated in its directory")


def _unpacked(file: BinaryIO, record: _Record, begin: int) -> Iterator[bytes]:
    if record.method == _STORED:
        yield from _stored(file, begin, record.packed)
        return
    unpack = zlib.decompressobj(-zlib.MAX_WBITS)
    for packed in _stored(file, begin, record.packed):
        while packed and not unpack.eof:
            yield unpack.decompress(packed, PIECE)
            packed = unpack.unconsumed_tail
    while not unpack.eof:
        piece = unpack.decompress(unpack.unconsumed_tail, PIECE)
        if not piece:
            raise EOFError("it ends in the middle of an entry")
        yield piece


def _stored(file: BinaryIO, begin: int, size: int) -> Iterator[bytes]:
    while size:
        file.seek(begin)
        data = file.read(min(size, PIECE))
        if not data:
            raise EOFError("it ends in the middle of an entry")
        begin, size = begin + len(data), size - len(data)
        yield data
