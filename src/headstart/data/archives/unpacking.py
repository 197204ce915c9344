"""Unpack an archive into a folder: all of it or nothing, and nothing outside of the folder.

The whole listing is vetted before the first byte is written (`members` has the rules and limits). `zips` and `tars`
read the contents, and never write files themselves. All files are written into a temporary folder, under names that do
not exist there, which is renamed once. Archives inside the archive are unpacked too, within the same limits.

    zip, tar, tar.gz, tar.bz2, tar.xz, tar.zst          unpacked
    7z, rar, and a compressed file (labels.csv.gz)      refused, with a hint

Costs reading the archive, writing its contents, and 40 microseconds per file; a compressed tar is decompressed twice,
because only its end shows that all of it is safe. Not for reading images in place: they are decoded from files.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import BinaryIO

from headstart.data.archives.members import (
    SUFFIXES,
    Contents,
    Entry,
    Limits,
    Vetting,
    check_members,
    check_totals,
    is_junk,
    limits_for,
    name_problem,
    parts_of,
    shown,
)
from headstart.data.archives.streams import FAULTS, decompressed, unreadable
from headstart.data.archives.tars import BLOCK, is_tar, tar_entries
from headstart.data.archives.zips import STARTS, ZipNames, count_of, zip_entries
from headstart.errors import BadArchive, HeadstartError, MissingData, WriteError, near_names
from headstart.io.files import cache_dir, read_json, sha256_bytes, sha256_file, write_cache, write_json, write_pieces
from headstart.io.folders import (
    check_free,
    files_and_bytes,
    folder_aside,
    make_folder,
    remove_folder,
    require_whole,
)
from headstart.io.progress import bar, log

NESTED = 2
"""Levels of nested archives that are unpacked."""

_STARTS = (
    *((start, "zip") for start in STARTS),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    *((bytes([n]) + b"\x2a\x4d\x18", "zstd") for n in range(0x50, 0x60)),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!\x1a\x07", "rar"),
)
_CONVERT = {
    "7z": "Unpack it (7z x {name}) and give the resulting folder, or a zip of it.",
    "rar": "Unpack it (unrar x {name}) and give the resulting folder, or a zip of it.",
}
_ONE_FILE = {"gzip": "gunzip -k", "bzip2": "bunzip2 -k", "xz": "unxz -k", "zstd": "unzstd"}
_OUTER = "If the archive inside it cannot be replaced, unpack the outer one with another program and give the folder."
_SHARD = re.compile(r".*[-_.][0-9]{4,}\.tar", re.DOTALL)
_MOST_NAMED = 1000
_CACHE_FORMAT = 2  # increase it to discard all unpacked archives: when the output changes
_SETTLED_SECONDS = 2.0  # a more recently changed file may change again without its time changing


@dataclass(frozen=True)
class UnpackResult:
    """An unpacked archive."""

    folder: Path
    files: int
    bytes: int
    left_out: tuple[str, ...]
    """The first thousand skipped files that systems add to folders (__MACOSX, .DS_Store, Thumbs.db)."""


def is_archive(path: Path) -> bool:
    """Return whether a file is an archive or compressed, by its first bytes, not its name; False if there is no file.

    Raises `BadArchive` if it may not be read.
    """
    try:
        return bool(_format(path))
    except OSError as error:
        raise unreadable(str(path), error) from error


def unpack(archive: Path, into: Path, *, nested: int = NESTED) -> UnpackResult:
    """Unpack into a new folder. Nested archives, to `nested` levels, become folders named after them.

    A nested archive that contains just one folder (or file) of its own name, as Kaggle's do, becomes that folder. It stays
    packed, with a warning, if that folder is there already. Tars numbered like shards (train-000001.tar) stay packed, too.
    Raises `BadArchive` (nothing is left behind), `MissingData`, and `WriteError` if `into` exists, the disk is full or the
    location is not writable.
    """
    done = _unpack(archive, into, nested)
    log.info("%s: unpacked into %s (%s files, %.1f MB).", archive, into, f"{done.files:,}", done.bytes / 1e6)
    return done


def _unpack(archive: Path, into: Path, nested: int) -> UnpackResult:
    _check_there(archive)
    check_free(into)
    limits = limits_for(archive.stat().st_size, disk_usage(_existing(into)).free)
    with _opened(archive, str(archive)) as opened:
        contents = opened.vet(limits)
        if not contents.files:
            raise BadArchive(f"{archive}: contains no files.", hint="Check that the right folder was packed.")
        work = _Extraction(limits.less(contents))
        with folder_aside(into, fresh=True) as aside:
            inner = work.write(opened, contents, limits, aside)
            work.unpack_inner(inner, aside, str(archive), nested)
            require_whole(aside, work.files, work.bytes)
    return UnpackResult(into, work.files, work.bytes, tuple(work.left_out))


def unpacked(archive: Path) -> Path:
    """Return the folder with an archive's contents in the user's cache; unpack it if it is missing or incomplete.

    Its name is the archive's SHA-256, so a changed archive is unpacked again; the hash is cached by size and time.
    Two processes may request the same archive. Raises as `unpack`.
    """
    _check_there(archive)
    home = cache_dir() / "unpacked" / f"{_CACHE_FORMAT}-{_hash_of(archive)[:32]}"
    if not _is_whole(home):
        try:
            if os.path.lexists(home):
                log.info("%s: has changed since it was unpacked; unpacking again.", home)
                remove_folder(home)
            with folder_aside(home, fresh=True) as aside:
                done = _unpack(archive, aside / "files", NESTED)
                write_json(aside / "unpacked.json", {"archive": archive.name, "files": done.files, "bytes": done.bytes})
        except WriteError as error:
            if not _is_whole(home):  # if it is, another process was faster
                hint = f"{error.hint}\nHEADSTART_CACHE=DIR moves the cache elsewhere."
                raise WriteError(error.message, hint=hint) from error
    log.info("%s: reading the unpacked copy in %s.", archive, home / "files")
    return home / "files"


# The format


def _format(path: Path) -> str:
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        return _format_of(file.read(BLOCK))


def _format_of(head: bytes) -> str:
    return next((name for start, name in _STARTS if head.startswith(start)), "tar" if is_tar(head) else "")


def _check_there(archive: Path) -> None:
    if not archive.exists():
        beside = [entry.name for entry in os.scandir(archive.parent)] if archive.parent.is_dir() else []
        raise MissingData(f"{archive}: there is no such file.", hint=near_names(archive.name, beside))
    if not archive.is_file():
        raise MissingData(f"{archive}: is a folder or a device; expected an archive.", hint="Give a zip or a tar.")


@contextmanager
def _opened(archive: Path, called: str) -> Iterator[_Opened]:
    try:
        with open(archive, "rb") as file:
            yield _Opened(file, archive.name, called)
    except OSError as error:  # from reading: failed writes raise WriteError
        raise unreadable(called, error) from error


class _Opened:
    """An open archive; it can be read from the start any number of times."""

    def __init__(self, file: BinaryIO, name: str, called: str) -> None:
        self.called = called
        self._name = name
        self._file = file
        self._head = file.read(BLOCK)
        self._format = _format_of(self._head)
        self._names = ZipNames()

    def vet(self, limits: Limits) -> Contents:
        """Check the whole listing. Raises `BadArchive`."""
        if self._format == "zip":
            check_totals(self.called, count_of(self.called, self._file), 0, limits)
        contents = self._check(limits)
        if not self._names.example:
            return contents
        log.warning(
            "%s: does not say how its names are encoded, and they are not UTF-8: they are read as code page 437, such as %s. "
            "If that is wrong, unpack it with a program that can be told the encoding, and give the resulting folder.",
            *(self.called, shown(self._names.example)),
        )
        return self._check(limits)  # all names are read so now

    def _check(self, limits: Limits) -> Contents:
        with bar("Checking the archive", None) as advance:
            return check_members(self.called, (entry.member for entry in _counted(self.entries(), advance)), limits)

    def vet_inner(self, limits: Limits) -> Contents:
        """Check the listing of an archive that is inside another one. Raises `BadArchive`."""
        try:
            return self.vet(limits)
        except BadArchive as error:
            raise BadArchive(error.message, hint=f"{error.hint}\n{_OUTER}") from None

    def is_to_unpack(self) -> bool:
        """Return whether it is an archive of a known format, and not a single compressed file. Raises `BadArchive`."""
        return self._format in ("zip", "tar") or (self._format in _ONE_FILE and self._holds_tar(self._format))

    def entries(self) -> Iterator[Entry]:
        """Return the entries from the start. Raises `BadArchive`."""
        if self._format == "zip":
            return zip_entries(self.called, self._file, self._names)
        if self._format in _CONVERT:
            raise BadArchive(
                f"{self.called}: is a {self._format} archive, which headstart does not read.",
                hint=_CONVERT[self._format].format(name=self._name),
            )
        if not self._format:
            raise self._no_archive()
        codec = "" if self._format == "tar" else self._format
        if codec and not self._holds_tar(codec):
            raise BadArchive(
                f"{self.called}: is a single file compressed with {codec}, not an archive.",
                hint=f"Decompress it first ({_ONE_FILE[codec]} {self._name}) and give the result.",
            )
        return tar_entries(self.called, self._file, codec)

    def _holds_tar(self, codec: str) -> bool:
        try:
            self._file.seek(0)
            head = decompressed(self.called, self._file, codec).read(BLOCK)
        except FAULTS as error:
            raise unreadable(self.called, error) from error
        finally:
            self._file.seek(0)
        return is_tar(head) or head == bytes(BLOCK)

    def _no_archive(self) -> BadArchive:
        page = self._head.lstrip().lower().startswith((b"<!doctype html", b"<html"))
        what = "is a web page" if page else "is not a known archive format" if self._head else "is empty"
        return BadArchive(
            f"{self.called}: {what}; expected a zip or a tar.",
            hint="If the site needs a login, the download may be its login page: download the file in a browser."
            if page
            else "If it should be an archive, download or copy it again.",
        )


def _counted(entries: Iterator[Entry], advance: Callable[[int], None]) -> Iterator[Entry]:
    for entry in entries:
        yield entry
        advance(1)


def _existing(place: Path) -> Path:
    """Return the nearest existing folder above a path."""
    return next(folder for folder in Path(os.path.abspath(place)).parents if folder.is_dir())


# Writing


class _Extraction:
    """Counts of the files written, and the remaining limits."""

    def __init__(self, limits: Limits) -> None:
        self.files = 0
        self.bytes = 0
        self.left_out: list[str] = []
        self._limits = limits
        self._made: set[Path] = set()
        """Folders with the contents of nested archives."""

    def write(self, opened: _Opened, contents: Contents, limits: Limits, folder: Path) -> list[Path]:
        """Write the contents into a folder, vetting each entry again; return the nested archives."""
        inner: list[Path] = []
        vetting = Vetting(opened.called, limits)
        with bar("Unpacking", contents.files) as advance:
            for entry in opened.entries():
                parts = parts_of(entry.member.name)
                if vetting.problem(entry.member, parts):
                    raise BadArchive(f"{opened.called}: changed while being read.", hint="Run the same command again.")
                if not parts or is_junk(parts):
                    self.left_out += [entry.member.name] if len(self.left_out) < _MOST_NAMED else []
                elif entry.member.kind == "folder":
                    make_folder(folder.joinpath(*parts))
                else:
                    place = folder.joinpath(*parts)
                    self.bytes += write_pieces(place, entry.pieces())
                    self.files += 1
                    inner += [place] if _is_inner(place) else []
                    advance(1)
        return inner

    def unpack_inner(self, inner: list[Path], aside: Path, called: str, levels: int) -> None:
        """Unpack the nested archives, each where it is."""
        for place in sorted(inner) if levels else []:
            named = f"{called}: {shown(place.relative_to(aside).as_posix())}"
            stem = _stem(place.name)
            taken = os.path.lexists(place.parent / stem)
            if taken and place.parent / stem not in self._made:
                log.warning("%s stays packed: %s, beside it, may be its contents.", named, shown(stem))
                continue
            with _opened(place, named) as opened:
                contents = opened.vet_inner(self._limits)
                if not contents.files:
                    continue
                limits, self._limits = self._limits, self._limits.less(contents)
                folder = place.parent if contents.top == stem and not taken else _free(place.parent / stem)
                self._made |= {place.parent / stem, folder}
                further = self.write(opened, contents, limits, folder)
            self.files -= 1
            self.bytes -= place.stat().st_size
            place.unlink()
            self.unpack_inner(further, aside, called, levels - 1)


def _free(folder: Path) -> Path:
    """Return the folder, or the first of FOLDER-2, FOLDER-3 ... that is not there."""
    names = (folder.with_name(f"{folder.name}-{n}") for n in itertools.count(2))
    return next(name for name in itertools.chain([folder], names) if not os.path.lexists(name))


def _is_inner(file: Path) -> bool:
    """Return whether a file is an archive to unpack, with a name that a folder can have."""
    if not file.name.lower().endswith(SUFFIXES) or _SHARD.fullmatch(file.name):
        return False
    stem = _stem(file.name)
    if name_problem(stem, [stem]):
        return False
    with _opened(file, shown(file.name)) as opened:
        try:
            return opened.is_to_unpack()
        except HeadstartError:  # damaged, or a package is missing: unpacking it says so
            return True


def _stem(name: str) -> str:
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len)
    return name[: -len(suffix)]


# The cache


def _hash_of(archive: Path) -> str:
    """Return the SHA-256 of a file; cached until its size, time or inode changes."""
    place = os.path.realpath(archive)
    note = cache_dir() / "unpacked" / "known" / f"{sha256_bytes(os.fsencode(place))[:32]}.json"
    status = os.stat(place)
    facts = [status.st_size, status.st_mtime_ns, status.st_ino]
    try:
        cached = read_json(note)
        if cached["facts"] == facts:
            return str(cached["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # not there yet, or damaged: hash it again
        log.debug("%s: %s", note, error)
    try:
        sha256 = sha256_file(archive)
    except OSError as error:
        raise unreadable(str(archive), error) from error
    if time.time() - status.st_mtime > _SETTLED_SECONDS:
        write_cache(note, json.dumps({"facts": facts, "sha256": sha256}).encode())
    return sha256


def _is_whole(home: Path) -> bool:
    """Return whether a cached folder still has as many files and bytes as were unpacked there.

    What systems add to a folder that somebody looks at does not count.
    """
    try:
        recorded = read_json(home / "unpacked.json")
        return files_and_bytes(home / "files", without=lambda name: is_junk([name])) == (
            recorded["files"],
            recorded["bytes"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:  # missing, damaged, or being removed: not whole
        log.debug("%s: %s", home, error)
        return False
