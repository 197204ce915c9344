"""What validation found out about files, by the SHA-256 of their bytes: lines in sorted shards, of which only the wanted
ones are read.

    SHA-256 CRC-32 ["PNG", 200, 100, ...]     a line; a damaged one counts as missing

A few files among many are found by binary search (0.4 ms for one among 200,000), many by reading each shard once. Small
shards are merged, so that each line is written again about as often as the cache doubles. About 500 bytes per file on
the disk; memory holds what is wanted. Several processes and users may share the folder. Not for values that change: all
lines of a file are alike.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import mmap
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from headstart.errors import WriteError
from headstart.io.files import file_aside, remove_files, sha256_bytes, write_bytes
from headstart.io.progress import log

MAX_SHARDS = 64
"""More shards than this are merged."""
_KEY, _TEXT = 64, 74  # ends of the SHA-256 and of the CRC-32 in a line
_LINE_BYTES = 500


def find_infos(folder: Path, wanted: Collection[str]) -> dict[str, list[Any]]:
    """Return the values of those of these SHA-256s that the folder has, and merge its shards if they are many."""
    keys = {sha256.encode("ascii") for sha256 in wanted}
    found: dict[str, list[Any]] = {}
    shards = sorted(folder.glob("*.facts")) if keys else []
    for shard in shards:
        try:
            with _opened(shard) as data:
                for line in _lines(data, keys):
                    if _is_whole(line):
                        found[line[:_KEY].decode("ascii")] = json.loads(line[_TEXT:])
        except OSError as error:  # merged by another process, or no permission: then the images are validated again
            log.info("%s: %s", shard, error.strerror)
    own = [shard for shard in shards if _is_own(shard)] if len(shards) > MAX_SHARDS else []
    if len(own) > MAX_SHARDS:
        _merge(folder, own)
    return found


def add_infos(folder: Path, values: Mapping[str, Sequence[Any]]) -> None:
    """Write the values of these SHA-256s as one more shard. A cache that cannot be written is logged."""
    data = b"".join(_line(sha256, values[sha256]) for sha256 in sorted(values))
    try:
        write_bytes(folder / f"{sha256_bytes(data)}.facts", data)
    except WriteError as error:  # a full or read-only cache costs the next run some time, and this one none
        log.warning("The validation results of the images are not cached: %s", error)


def _line(sha256: str, values: Sequence[Any]) -> bytes:
    key, text = sha256.encode("ascii"), json.dumps(values).encode("ascii")
    return b"%s %08x %s\n" % (key, zlib.crc32(key + text), text)


def _is_whole(line: bytes) -> bool:
    return line[_KEY:_TEXT] == b" %08x " % zlib.crc32(line[:_KEY] + line[_TEXT:].rstrip(b"\n"))


@contextmanager
def _opened(shard: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a shard, mapped. Raises `OSError`."""
    with open(shard, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _lines(data: mmap.mmap | bytes, keys: Collection[bytes]) -> Iterator[bytes]:
    """The lines of these keys."""
    steps = (len(data) // _LINE_BYTES).bit_length()
    if len(keys) * steps * _LINE_BYTES < len(data):
        yield from filter(None, (_search(data, key) for key in keys))
    else:
        yield from (line for line in _all_lines(data) if line[:_KEY] in keys)


def _all_lines(data: mmap.mmap | bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


def _search(data: mmap.mmap | bytes, key: bytes) -> bytes:
    """The line with this key, b'' if there is none."""
    low, high = 0, len(data)
    while low < high:
        middle = (low + high) // 2
        start = max(low, data.rfind(b"\n", low, middle) + 1)
        end = data.find(b"\n", middle) + 1 or len(data)
        if data[start : start + _KEY] == key:
            return data[start:end]
        low, high = (end, high) if data[start : start + _KEY] < key else (low, start)
    return b""


def _is_own(shard: Path) -> bool:
    """Whether this user wrote the shard. Others need not be removable: in a shared folder each user merges their own."""
    try:
        return not hasattr(os, "getuid") or shard.stat().st_uid == os.getuid()
    except OSError:
        return False


def _merge(folder: Path, shards: Sequence[Path]) -> None:
    """Merge the smallest shards, those larger than twice all smaller ones together left out."""
    with ExitStack() as stack:
        opened = {}
        for shard in shards:
            with contextlib.suppress(OSError):
                opened[shard] = stack.enter_context(_opened(shard))
        by_size = sorted(opened, key=lambda shard: (len(opened[shard]), shard.name))
        chosen, total = 0, 0
        for n, shard in enumerate(by_size, 1):
            chosen = n if len(opened[shard]) <= 2 * total else chosen
            total += len(opened[shard])
        merged = by_size[:chosen]
        if len(merged) < 2:
            return
        place = folder / f"{sha256_bytes(''.join(shard.name for shard in merged).encode())}.facts"
        last = b""
        try:
            with file_aside(place) as file:
                for line in heapq.merge(*(filter(_is_whole, _all_lines(opened[shard])) for shard in merged)):
                    if line[:_KEY] != last:
                        file.write(line)
                    last = line[:_KEY]
        except WriteError as error:
            log.warning("The validation results of the images cannot be merged: %s", error)
            return
    for shard in merged:
        with contextlib.suppress(WriteError):  # open in another process: merged again the next time
            remove_files(shard)
