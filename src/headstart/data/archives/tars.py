"""The entries of a tar, read front to back: plain, or compressed with gzip, bzip2, xz or zstandard.

Reads the formats in use: ustar, pax (POSIX.1-2001: long names, large sizes) and GNU (long names, large sizes). Sparse
files and multi-volume archives are reported and not read. Python's `tarfile` reads more formats, but accepts headers
that contradict each other, and stops silently if an archive was truncated between two entries.

Costs 11 microseconds per entry, vetting included, plus decompressing everything once: a tar has no directory.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from headstart.data.archives.members import DELIBERATE, Entry, Member
from headstart.data.archives.streams import FAULTS, PIECE, damaged, decompressed, unreadable
from headstart.errors import BadArchive

BLOCK = 512
_MAX_EXTENSION = 1 << 20
"""Bytes of a long name, or of an entry's pax header."""
_MAX_TAIL = 1 << 20
"""Bytes of padding at the end; tar writes 10,240 at most."""
_MAX_IN_A_ROW = 8
"""Consecutive headers that only describe the next header."""
_ZEROS = bytes(BLOCK)
_KINDS = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"5": "folder",
    b"6": "pipe",
    b"S": "sparse file",
}
_EXTENSIONS = b"xgLKX"
_RECORD = re.compile(rb"([1-9][0-9]{0,7}) ([^=\n]+)=")
_DANGEROUS = ("path", "size", "linkpath", "GNU.sparse")


def is_tar(head: bytes) -> bool:
    """Return whether the first 512 bytes are the header of a tar."""
    return len(head) >= BLOCK and head[:BLOCK] != _ZEROS and _checksum_holds(head[:BLOCK])


def tar_entries(archive: str, file: BinaryIO, codec: str) -> Iterator[Entry]:
    """Yield the entries in order; each can be read until the next is requested. Raises `BadArchive`."""
    source = _TarStream(archive, file, codec)
    while True:
        header = _next_header(source)
        if header is None:
            source.expect_end()
            return
        begin = source.position
        size = header.size if header.has_bytes else 0
        yield Entry(header.member(), partial(source.pieces, size))
        source.go_to(begin + -(-size // BLOCK) * BLOCK)


@dataclass(frozen=True, slots=True)
class _TarHeader:
    name: str
    type: bytes
    mode: int
    size: int
    sparse: bool = False

    @property
    def has_bytes(self) -> bool:
        return self.type not in b"123456"

    def member(self) -> Member:
        kind = _KINDS.get(self.type, f"entry of unknown type {self.type.decode('latin-1')!r}")
        if self.sparse:
            kind = "sparse file"
        elif kind == "file" and self.name.endswith("/"):
            kind = "folder"
        elif kind == "file" and self.mode & 0o6000:
            kind = "file that runs as another user"
        return Member(self.name, kind, self.size, self.size)


def _next_header(source: _TarStream) -> _TarHeader | None:
    """Return the next entry's header, amended by its extensions; None at the end mark."""
    extensions: dict[str, str] = {}
    for _ in range(_MAX_IN_A_ROW):
        block = source.block()
        if block == _ZEROS:
            if extensions:
                raise damaged(source.archive, "a long name has no entry")
            return None
        header = _parse(source.archive, block)
        if header.type not in _EXTENSIONS:
            return _amended(source.archive, header, extensions) if extensions else header
        new = _extension(source, header)
        if extensions.keys() & new.keys():
            raise BadArchive(f"{source.archive}: names one entry twice (tar headers).", hint=DELIBERATE)
        extensions |= new
    raise BadArchive(f"{source.archive}: has more than {_MAX_IN_A_ROW} tar headers for one entry.", hint=DELIBERATE)


def _parse(archive: str, block: bytes) -> _TarHeader:
    if not _checksum_holds(block):
        raise damaged(archive, "the header of an entry has a wrong checksum")
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return _TarHeader(name, block[156:157], _number(archive, block[100:108]), _number(archive, block[124:136]))


def _checksum_holds(block: bytes) -> bool:
    stored = block[148:156].strip(b" \0")
    if not stored.isdigit():
        return False
    expected, field = int(stored, 8) if stored.strip(b"01234567") == b"" else -1, block[148:156]
    total = sum(block) - sum(field) + 8 * 32
    if total == expected:
        return True
    above = sum(byte > 127 for byte in block) - sum(byte > 127 for byte in field)
    return expected == total - 256 * above  # old tars summed signed bytes


def _number(archive: str, field: bytes) -> int:
    """Parse an octal number, or a binary one, as GNU tar writes large numbers."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    text = field.strip(b" \0")
    if text.strip(b"01234567"):
        raise damaged(archive, "a tar header has an invalid number")
    return int(text or b"0", 8)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _extension(source: _TarStream, header: _TarHeader) -> dict[str, str]:
    """Return a header's values for the next entry: 'path', 'size', 'sparse'; 'link' and 'pax' mark its presence."""
    if header.size > _MAX_EXTENSION:
        raise BadArchive(f"{source.archive}: has a tar header of {header.size:,} bytes.", hint=DELIBERATE)
    begin = source.position
    data = b"".join(source.pieces(header.size))
    source.go_to(begin + -(-header.size // BLOCK) * BLOCK)
    if header.type == b"L":
        return {"path": _text(data)}
    if header.type == b"K":
        return {"link": ""}
    records = _records(source.archive, data)
    if header.type == b"g":
        if any(key.startswith(_DANGEROUS) for key in records):
            raise BadArchive(f"{source.archive}: has one path or size for all entries (pax).", hint=DELIBERATE)
        return {}
    values: dict[str, str] = {key: records[key] for key in ("path", "size") if key in records}
    sparse = {"sparse": ""} if any(key.startswith("GNU.sparse") for key in records) else {}
    return {"pax": "", **values, **sparse}


def _records(archive: str, data: bytes) -> dict[str, str]:
    """Parse the records of a pax header: ``LENGTH KEY=VALUE\\n``."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or end <= match.end() or data[end - 1 : end] != b"\n":
            raise damaged(archive, "a pax header is malformed")
        records[match[2].decode("utf-8", "replace")] = data[match.end() : end - 1].decode("utf-8", "surrogateescape")
        at = end
    return records


def _amended(archive: str, header: _TarHeader, extensions: dict[str, str]) -> _TarHeader:
    size = extensions.get("size", "")
    if size and not (size.isascii() and size.isdigit() and len(size) < 20):
        raise damaged(archive, "a pax header has an invalid size")
    return _TarHeader(
        name=extensions.get("path", header.name),
        type=header.type,
        mode=header.mode,
        size=int(size or header.size),
        sparse="sparse" in extensions,
    )


class _TarStream:
    """The bytes of a tar, with the current position. Every failure is a `BadArchive`."""

    def __init__(self, archive: str, file: BinaryIO, codec: str) -> None:
        self.archive = archive
        self.position = 0
        self._end = -1 if codec else file.seek(0, io.SEEK_END)
        file.seek(0)
        self._file = decompressed(archive, file, codec)

    def read(self, size: int) -> bytes:
        """Read `size` bytes, fewer only at the end."""
        try:
            data = self._file.read(size)
        except FAULTS as error:
            raise unreadable(self.archive, error) from error
        self.position += len(data)
        return data

    def block(self) -> bytes:
        data = self.read(BLOCK)
        if len(data) < BLOCK:
            raise damaged(self.archive, "it ends without an end mark")
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes, piece by piece."""
        while size:
            data = self.read(min(size, PIECE))
            if not data:
                raise damaged(self.archive, "it ends in the middle of an entry")
            size -= len(data)
            yield data

    def go_to(self, position: int) -> None:
        """Skip forward to a position."""
        if self._end < 0:
            for _ in self.pieces(position - self.position):
                pass
        elif position > self._end:
            raise damaged(self.archive, "it ends in the middle of an entry")
        else:
            self._file.seek(position)
            self.position = position

    def expect_end(self) -> None:
        """Raise `BadArchive` if more than padding follows. Reads to the end, where compressed files have a checksum."""
        end = self.position + _MAX_TAIL
        while self.position <= end:
            data = self.read(PIECE)
            if data.strip(b"\0"):
                raise BadArchive(
                    f"{self.archive}: has data after its end mark.",
                    hint="If two archives were joined, unpack them one by one and give the resulting folder.",
                )
            if not data:
                return
        raise BadArchive(f"{self.archive}: has more than {_MAX_TAIL:,} bytes of padding at its end.", hint=DELIBERATE)
