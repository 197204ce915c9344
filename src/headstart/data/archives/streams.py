"""Decompression in pieces, with bounded memory.

A few kilobytes can make a decompressor allocate gigabytes of memory: xz and zstandard state their window size in the
header. Here it is limited before the first byte is unpacked: 64 MiB, which covers ``xz -9`` and ``zstd -21``. Runs at
the libraries' own speed. Not for random access: the output can only be read forward.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from typing import Any, BinaryIO, cast

from headstart.errors import BadArchive
from headstart.io.extras import require

PIECE = 1 << 18
"""Bytes read or unpacked at a time."""
MAX_WINDOW = 64 << 20
"""Maximum window of a stream in bytes."""
FAULTS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)
"""Exceptions raised on reading a damaged stream, according to the libraries' documentation."""
_XZ_MEMORY = MAX_WINDOW + (8 << 20)
_ZSTD, _SKIPPABLE = 0xFD2FB528, 0x184D2A50


def unreadable(archive: str, error: Exception) -> BadArchive:
    """Return the error to raise when reading an archive raised one of `FAULTS`."""
    if isinstance(error, OSError) and error.errno:
        return BadArchive(
            f"{archive}: could not be read: {error.strerror}.", hint="Check the disk and its permissions."
        )
    if "emory usage limit" in str(error):
        return too_wide(archive)
    return damaged(archive, str(error).rstrip(".") or type(error).__name__)


def damaged(archive: str, what: str) -> BadArchive:
    """Return the error for an archive that contradicts its own headers."""
    return BadArchive(
        f"{archive}: is damaged or truncated: {what}.", hint="Nothing was unpacked. Download or copy the archive again."
    )


def too_wide(archive: str) -> BadArchive:
    """Return the error for a stream that needs too much memory."""
    return BadArchive(
        f"{archive}: needs more than {MAX_WINDOW >> 20} MiB of memory to unpack.",
        hint="If you expect this, unpack it with another program and give the resulting folder.",
    )


def decompressed(archive: str, file: BinaryIO, codec: str) -> BinaryIO:
    """Return a reader of a file: `codec` is '' (plain), 'gzip', 'bzip2', 'xz' or 'zstd'. Reading raises `FAULTS`."""
    if codec == "gzip":
        return cast(BinaryIO, io.BufferedReader(gzip.GzipFile(fileobj=file, mode="rb"), PIECE))
    if codec in ("bzip2", "xz"):
        return cast(BinaryIO, io.BufferedReader(_Stream(file, codec), PIECE))
    if codec == "zstd":
        require(archive, "pyarrow")
        import pyarrow

        _check_windows(archive, file)
        stream: Any = pyarrow.CompressedInputStream(pyarrow.PythonFile(_KeptOpen(file), mode="r"), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream, PIECE))
    return file


class _KeptOpen(io.RawIOBase):
    """A file that stays open when its reader closes it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill all or some of the buffer; return 0 at the end."""
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Stream(io.RawIOBase):
    """bzip2 or xz, also several streams in a row; the standard library's own class has no memory limit for xz."""

    def __init__(self, file: BinaryIO, codec: str) -> None:
        self._file = file
        self._codec = codec
        self._left = b""
        self._unpack = self._new()

    def _new(self) -> Any:
        if self._codec == "bzip2":
            return bz2.BZ2Decompressor()
        return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill all or some of the buffer; return 0 at the end."""
        view = memoryview(buffer).cast("B")
        while True:
            if self._unpack.eof:
                self._left = (self._unpack.unused_data or self._file.read(PIECE)).lstrip(b"\0")  # xz pads with zeros
                if not self._left:
                    return 0
                self._unpack = self._new()
            elif self._unpack.needs_input and not self._left:
                self._left = self._file.read(PIECE)
                if not self._left:
                    raise EOFError("it ends too early")
            data = self._unpack.decompress(self._left, len(view))
            self._left = b""
            if data:
                view[: len(data)] = data
                return len(data)


def _check_windows(archive: str, file: BinaryIO) -> None:
    """Raise `BadArchive` if a zstandard window is too large. Skips over blocks without unpacking (RFC 8878, 3.1)."""
    end = file.seek(0, io.SEEK_END)
    at = 0
    while at < end:
        file.seek(at)
        head = file.read(18)
        magic = int.from_bytes(head[:4], "little")
        if magic & 0xFFFFFFF0 == _SKIPPABLE and len(head) >= 8:
            at += 8 + int.from_bytes(head[4:8], "little")
        elif magic == _ZSTD and len(head) >= 6:
            window, size, checksum = _frame(head)
            if window > MAX_WINDOW:
                raise too_wide(archive)
            at = _after_blocks(file, at + size) + 4 * checksum
        else:
            raise damaged(archive, "a zstandard frame was expected")
    if at > end:
        raise damaged(archive, "it ends too early")
    file.seek(0)


def _frame(head: bytes) -> tuple[int, int, bool]:
    """Return window and header length in bytes, and whether a checksum ends the frame (RFC 8878, 3.1.1.1)."""
    flags = head[4]
    single = bool(flags & 0x20)
    id_bytes = (0, 1, 2, 4)[flags & 3]
    size_bytes = (1 if single else 0, 2, 4, 8)[flags >> 6]
    start = 5 + (not single) + id_bytes
    content = int.from_bytes(head[start : start + size_bytes], "little") + (256 if size_bytes == 2 else 0)
    base = 1 << (10 + (head[5] >> 3))
    window = content if single else base + base // 8 * (head[5] & 7)
    return window, start + size_bytes, bool(flags & 4)


def _after_blocks(file: BinaryIO, at: int) -> int:
    """Return where the blocks of a frame end (RFC 8878, 3.1.1.2); beyond the end of the file if it is truncated."""
    while True:
        file.seek(at)
        head = file.read(3)
        if len(head) < 3:
            return at + 3
        value = int.from_bytes(head, "little")
        at += 3 + (1 if value >> 1 & 3 == 1 else value >> 3)
        if value & 1:
            return at
