"""The one write path: every file that headstart leaves behind is written here.

A file is written aside, synced, and renamed over its final name; a folder is filled aside, gets its manifest
(`manifest.json`, SHA-256 of each file) last, and is renamed as a whole. So a reader sees the old state or the new
one, never half of one, whatever moment the process or the machine dies at. The price is an fsync a file (about a
millisecond on a laptop's disk), which nobody notices next to the work that led to the file.

What a killed process was writing is left aside as ``.NAME.HEX.part``. Whoever writes into that folder more than an hour
later removes it.

Nothing else in the package opens a file for writing (`tests/test_layout.py` checks that).
"""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib
import io
import json
import mmap
import os
import re
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from headstart.errors import DamagedRun, WriteError
from headstart.progress import log

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MANIFEST = "manifest.json"
LEFTOVER_SECONDS = 3600.0  # what lies aside for longer than this belongs to a process that is gone
_ASIDE = re.compile(r"\..*\.[0-9a-f]{32}\.part", re.DOTALL)


def cache_dir() -> Path:
    """The user's cache folder for headstart: ``HEADSTART_CACHE``, or the platform's own place for caches."""
    given = os.environ.get("HEADSTART_CACHE")
    if given:
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("headstart", appauthor=False)


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """Hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in small pieces (memory does not grow with the file)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file aside, sync it, rename it into place. Raises `WriteError`; then nothing is left behind."""
    write_together({path: data})


def write_cache(path: Path, data: bytes | memoryview) -> None:
    """Write a file that only saves work the next time.

    A cache that this user may not write to costs that work and a warning, once a process. A full or failing disk raises
    `WriteError`: whoever has one wants to know.
    """
    advice = "HEADSTART_CACHE=DIR puts the cache elsewhere."
    try:
        write_bytes(path, data)
    except WriteError as error:
        cause = error.__cause__
        if not (isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS)):
            raise WriteError(error.message, hint=f"{error.hint}\n{advice}") from error
        if not _not_kept:
            log.warning("Nothing is kept for the next time: %s %s", error.message, advice)
        _not_kept.add(path.parent)


_not_kept: set[Path] = set()
"""Folders of the cache that could not be written to; a warning was given for the first."""


def write_together(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write files that belong together: all aside first, then all renamed. Raises `WriteError`.

    A full disk shows while they are aside, so the old ones stay. Should the disk fail between two renames, those that
    were new are removed again.
    """
    contents = {Path(os.path.realpath(path)) if path.is_symlink() else path: data for path, data in contents.items()}
    for path in contents:
        check_file_place(path)
    asides = {path: _aside(path) for path in contents}
    renamed: list[Path] = []
    try:
        for path, data in contents.items():
            with _as_write_error(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                _write_synced(asides[path], data)
        for path, aside in asides.items():
            with _as_write_error(path):
                new = not path.exists()
                os.replace(aside, path)
                renamed += [path] if new else []
    except BaseException:
        for left in (*asides.values(), *renamed):
            with suppress(OSError):  # the disk fails, which is being reported; a leftover is removed another time
                left.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in contents}:
        with _as_write_error(folder):
            _sync_folder(folder)
        _sweep(folder)


@contextmanager
def file_aside(final: Path) -> Iterator[BinaryIO]:
    """Write a file piece by piece: it lies aside, and at the end is synced and renamed. Raises `WriteError`.

    On any exception nothing is left behind, and what was there before stays.
    """
    final = Path(os.path.realpath(final)) if final.is_symlink() else final
    check_file_place(final)
    aside = _aside(final)
    try:
        with _as_write_error(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, final)
            _sync_folder(final.parent)
    finally:
        with suppress(OSError):  # the error is being reported; what is left is removed another time
            aside.unlink(missing_ok=True)
    _sweep(final.parent)


@contextmanager
def partial_file(path: Path) -> Iterator[BinaryIO]:
    """A download under way: what is there of it, open for reading and writing, for one process at a time.

    What is written stays when the block ends, however it ends. Raises `WriteError`, also if another process has it open.
    """
    with _as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        with open(descriptor, "r+b", buffering=0) as file:
            if not _locked(descriptor):
                raise WriteError(
                    f"{path}: another process is downloading the same just now.",
                    hint="Wait until it is done, then run the same command again.",
                )
            yield file


def _locked(descriptor: int) -> bool:
    """Lock an open file for this process; the lock ends with the file or the process. False if another one has it."""
    try:
        if os.name == "nt":
            msvcrt = importlib.import_module("msvcrt")
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl = importlib.import_module("fcntl")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def take_name(path: Path, final: Path) -> None:
    """Give a file that is complete and synced its final name. Raises `WriteError`."""
    with _as_write_error(final):
        os.replace(path, final)
        _sync_folder(final.parent)


def remove_files(*paths: Path) -> None:
    """Remove files, as far as they are there. Raises `WriteError`."""
    for path in paths:
        with _as_write_error(path):
            path.unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file in small pieces. Raises `WriteError`, which names `source` if that cannot be read."""
    with file_aside(path) as file, open(source, "rb") as given:
        shutil.copyfileobj(given, file, 1 << 20)


def write_zip(path: Path, contents: Mapping[str, bytes | Path]) -> None:
    """Write a zip: name in the archive -> its bytes, or the file to copy in small pieces. Raises `WriteError`.

    Bytes are compressed, files are not (weights and wheels do not shrink). Equal contents give equal bytes.
    """
    with file_aside(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_STORED if isinstance(content, Path) else zipfile.ZIP_DEFLATED
            if isinstance(content, bytes):
                archive.writestr(entry, content)
                continue
            entry.file_size = content.stat().st_size
            with open(content, "rb") as given, archive.open(entry, "w") as packed:
                shutil.copyfileobj(given, packed, 1 << 20)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text; file names in it that are not valid Unicode keep their bytes. Raises `WriteError`."""
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON. Raises `WriteError`."""
    write_bytes(path, _json_bytes(value))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV that `read_csv` gives back to the letter, see `csv_bytes`. Raises `WriteError`."""
    write_bytes(path, csv_bytes(header, rows))


def csv_bytes(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, delimiter: str = ",", line_end: str = "\n"
) -> bytes:
    """A CSV: UTF-8, RFC 4180 quoting.

    File names that are not valid Unicode (they exist on Linux) keep their bytes through ``surrogateescape``.
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    quoted = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    for row in (header, *rows):
        returns = any("\r" in cell for cell in row if isinstance(cell, str))  # Python < 3.13 does not quote for these
        (quoted if returns else plain).writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV as dicts, as written by `write_csv`."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as safetensors. Raises `WriteError`."""
    write_bytes(path, safetensors_bytes(arrays, metadata))


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Arrays as safetensors; equal ones give equal bytes (the library's own order of metadata changes from run to run)."""
    from safetensors.numpy import save

    data: bytes = save(dict(arrays), metadata=dict(metadata or {}))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(data)[end:]])


def png_bytes(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def jpeg_bytes(image: Image.Image, quality: int) -> bytes:
    """A picture as the bytes of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def read_json(path: Path) -> Any:
    """Parse a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def folder_aside(final: Path, *, fresh: bool = False) -> Iterator[Path]:
    """Fill a folder aside; at the end it gets its manifest and takes the name `final`, all at once.

    With `fresh` it gets none, and nothing may have that name: `WriteError`, also if something has it by the end. The disk
    is synced once then: 0.1 s for 7,000 files of 20 kB, where syncing each took 3 ms a file.

    A headstart folder that already has that name is kept as ``NAME.previous`` (one is kept). A folder without a
    manifest, that is, somebody else's, is never replaced: `WriteError`. On any exception the aside folder is removed and
    what was there before stays. (Killed just between two renames, what was there is found as ``NAME.previous``.)
    """
    (check_free if fresh else check_replaceable)(final)
    place = Path(os.path.abspath(final))  # '.' has no name of its own
    aside = _aside(place)
    try:
        with _as_write_error(final):
            place.parent.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
        yield aside
        if not fresh:
            write_manifest(aside)
        with _as_write_error(final):
            if fresh:
                _sync_all(aside)
                os.rename(aside, place)  # fails if a file, a link or a folder with something in it is there now
            else:
                _take_place(aside, place)
    except WriteError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise WriteError(error.message.replace(str(aside), str(final)), hint=error.hint) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    with _as_write_error(final):
        _sync_folder(place.parent)
    _sweep(place.parent)


def _take_place(aside: Path, final: Path) -> None:
    """Rename a filled folder to its final name; what was there becomes NAME.previous, and comes back if that fails."""
    if not final.exists() or not any(final.iterdir()):
        if os.name == "nt" and final.exists():
            final.rmdir()  # elsewhere a rename replaces an empty folder
        os.replace(aside, final)
        return
    previous = final.with_name(final.name + ".previous")
    older = _aside(previous)
    kept = previous.exists()
    if kept:
        os.replace(previous, older)
    try:
        os.replace(final, previous)
        try:
            os.replace(aside, final)
        except BaseException:
            os.rename(previous, final)
            raise
    except BaseException:
        if kept:
            os.rename(older, previous)
        raise
    shutil.rmtree(older, ignore_errors=True)


def write_pieces(path: Path, pieces: Iterable[bytes]) -> int:
    """Write a new file into a folder that is being filled aside, piece by piece; its size. Raises `WriteError`.

    Nothing may have its name, not even a link. What raises while giving pieces leaves a part of it behind.
    """
    with _as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb", buffering=0) as file:
            return sum(_write_all(file.fileno(), memoryview(piece)) for piece in pieces)


def remove_folder(path: Path) -> None:
    """Remove a folder, which is renamed first: nobody meets half of it. Raises `WriteError`."""
    aside = _aside(path)
    with _as_write_error(path), suppress(FileNotFoundError):  # another process may have removed it
        os.rename(path, aside)
        shutil.rmtree(aside)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; it may exist. Raises `WriteError`."""
    with _as_write_error(path):
        path.mkdir(parents=True, exist_ok=True)


def check_free(final: Path) -> None:
    """Raise `WriteError` if something has that name already, be it a broken link, or if this user may not write there."""
    if os.path.lexists(final):
        raise WriteError(
            f"{final}: exists already, and a new folder is to be written there.", hint="Choose another name."
        )
    _check_writable(final, Path(os.path.abspath(final)).parent)


def check_replaceable(final: Path) -> None:
    """Raise `WriteError` if no run folder can take that name.

    That is: a file or a link, a folder that holds something other than a headstart run, one that another file system is
    mounted at (it cannot be renamed), or a place where this user may not write.
    """
    place = Path(os.path.abspath(final))
    if os.path.islink(place) or (os.path.exists(place) and not os.path.isdir(place)):
        raise WriteError(f"{final}: is in the way: a folder is to be written there.", hint="Choose another --out.")
    _check_writable(final, place.parent)
    if not os.path.isdir(place):
        return
    with _as_write_error(final):
        occupied = any(place.iterdir())
    if os.path.ismount(place):
        raise WriteError(
            f"{final}: is where a disk is mounted, and the folder is to be renamed as a whole.",
            hint=f"Choose a folder in it, such as --out {final / 'run'}.",
        )
    if occupied and not (place / MANIFEST).exists():
        raise WriteError(
            f"{final}: holds files that headstart did not write, so it is left alone.",
            hint="Choose another --out, or an empty folder.",
        )


def check_file_place(path: Path) -> None:
    """Raise `WriteError` if no file can take that name: a folder or a device has it, or this user may not write there.

    Cheap, so that long work can ask before it begins.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise WriteError(
            f"{path}: is {what}, and a file is to be written there.", hint="Give the name of a file, such as out.csv."
        )
    _check_writable(path, Path(os.path.abspath(path)).parent)


def check_out_file(path: Path) -> None:
    """As `check_file_place`, for a file that a user names: it may not lie in a run folder, whose manifest is closed."""
    check_file_place(path)
    check_outside_run(path)


def check_outside_run(path: Path) -> None:
    """Raise `WriteError` if `path` is a run folder or lies in one: a file more, and its manifest no longer holds."""
    place = Path(os.path.abspath(path))
    for folder in (place, *place.parents):
        if os.path.isfile(folder / MANIFEST) and os.path.isfile(folder / "headstart.json"):
            raise WriteError(
                f"{path}: lies in the run folder {folder}, which is left as it is.", hint="Choose another --out."
            )


def _check_writable(path: Path, parent: Path) -> None:
    """Raise `WriteError` if the nearest folder that exists above `path` is no folder, or not this user's to write in."""
    while not os.path.lexists(parent):
        parent = parent.parent
    with _as_write_error(path):
        if not os.path.isdir(parent):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the time of the block. Raises `WriteError` if there is no place for one."""
    with _as_write_error(Path(os.environ.get("TMPDIR") or "/tmp")):
        folder = Path(tempfile.mkdtemp(prefix="headstart-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def scratch_array(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """An array for intermediate results, in a file of the cache that has no name: it is gone with the last reference.

    Its room is taken at once, so that a full disk is a `WriteError` here and not a crash later.
    """
    import numpy as np

    folder = cache_dir() / "scratch"
    size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
    with _as_write_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)
    return np.frombuffer(memory, dtype, count=int(np.prod(shape))).reshape(shape)


def write_manifest(folder: Path) -> None:
    """Write `manifest.json`: the SHA-256 of every other file in the folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    with _as_write_error(folder):
        listed = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    write_bytes(folder / MANIFEST, _json_bytes({"sha256": listed}))


def add_to_folder(folder: Path, contents: Mapping[str, bytes], *, checked: Mapping[str, str]) -> None:
    """Write files by relative path into a folder that has a manifest, and the manifest that names them; it comes last.

    `checked` is what `check_manifest` returned: other files stay listed with the hashes that were found then, so that one
    which changes meanwhile is still refused. All is written beside the folder first, so that a reader meets it half
    renewed for the time of some renames only. Should the machine die in these, the new files are refused until they are
    written again (`check_manifest` with `besides`). Raises `WriteError`.
    """
    listed = {**checked, **{name: sha256_bytes(data) for name, data in contents.items()}}
    everything = {**contents, MANIFEST: _json_bytes({"sha256": dict(sorted(listed.items()))})}
    place = Path(os.path.abspath(folder))
    asides = {name: _aside(place.with_name(name.rpartition("/")[2])) for name in everything}
    try:
        for name, data in everything.items():
            with _as_write_error(folder / name):
                _write_synced(asides[name], data)
        for name, aside in asides.items():
            with _as_write_error(folder / name):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside, place / name)
    finally:
        for aside in asides.values():
            with suppress(OSError):  # the error is being reported; what is left is removed another time
                aside.unlink(missing_ok=True)
    for parent in {(place / name).parent for name in everything}:
        with _as_write_error(folder):
            _sync_folder(parent)
    _sweep(place.parent)


def check_manifest(folder: Path, *, besides: Collection[str] = ()) -> dict[str, str]:
    """{relative path: SHA-256} of the files in a folder, which are exactly those of its manifest, to the byte, no links.

    Raises `DamagedRun` otherwise. Files in `besides` are about to be written again: they may differ or be missing, and are
    then not among those returned.
    """
    hint = "Restore the folder from a copy, or train again."
    listed = read_manifest(folder, hint)
    try:
        found = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
        present = {p.relative_to(folder).as_posix() for p in found} - {MANIFEST}
        for name in sorted((present ^ set(listed)) - set(besides)):
            problem = "is missing" if name in listed else "is not in the manifest"
            raise DamagedRun(f"{folder / name}: {problem}.", hint=hint)
        listed = {name: expected for name, expected in listed.items() if name in present}
        for name, expected in list(listed.items()):
            file = folder / name
            if name in besides and (file.is_symlink() or not file.is_file() or sha256_file(file) != expected):
                del listed[name]
                continue
            if file.is_symlink() or not file.is_file():
                raise DamagedRun(f"{file}: is a link or a device, not the file that was written.", hint=hint)
            if sha256_file(file) != expected:
                raise DamagedRun(f"{file}: its bytes are not those that were written (SHA-256 differs).", hint=hint)
    except OSError as error:
        raise DamagedRun(f"{error.filename or folder}: cannot be read: {error.strerror}.", hint=hint) from error
    return listed


def read_manifest(folder: Path, hint: str) -> dict[str, str]:
    """{relative path: SHA-256} of a manifest that is, to the byte, one that `write_manifest` writes, or `DamagedRun`."""
    path = folder / MANIFEST
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ValueError
        data = path.read_bytes()
        listed: dict[str, str] = json.loads(data)["sha256"]
        if not isinstance(listed, dict) or data != _json_bytes({"sha256": listed}):
            raise ValueError
    except FileNotFoundError:
        raise DamagedRun(f"{folder}: has no {MANIFEST}, so its files cannot be checked.", hint=hint) from None
    except OSError as error:
        raise DamagedRun(f"{path}: cannot be read: {error.strerror}.", hint=hint) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedRun(f"{path}: is not a manifest that headstart wrote.", hint=hint) from None
    return listed


@contextmanager
def _as_write_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "The disk is full: free some space, or choose another folder.",
            errno.EDQUOT: "The disk quota is used up: free some space, or choose another folder.",
            errno.EACCES: "You may not write there: choose another folder, or change its permissions.",
            errno.EPERM: "You may not write there: choose another folder, or change its permissions.",
            errno.EROFS: "That disk is read-only: choose another folder.",
            errno.EFBIG: "Files of that size are not allowed there (`ulimit -f`): choose another folder.",
            errno.ENOTDIR: "A file stands where a folder is needed: choose another place.",
            errno.EEXIST: "A file stands where a folder is needed: choose another place.",
        }
        named = str(error.filename or path)
        where = f" ({named})" if named != str(path) and not _ASIDE.fullmatch(Path(named).name) else ""
        reason = error.strerror or str(error)
        raise WriteError(
            f"{path}: could not be written: {reason}{where}.",
            hint=advice.get(error.errno or 0, "Check the disk, then run the same command again."),
        ) from error


def _json_bytes(value: Any) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # a file name that is not valid Unicode: JSON's escapes can write it
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _aside(final: Path) -> Path:
    """A name of its own beside `final`; the part of it that is kept has at most 160 bytes."""
    return final.with_name(f".{final.name[:40]}.{uuid.uuid4().hex}.part")


def _sweep(folder: Path) -> None:
    """Remove what killed processes have left aside in a folder, once it is an hour old by the folder's own clock."""
    with suppress(OSError):  # gone meanwhile, or not ours: somebody else's sweep will do
        now = folder.stat().st_mtime
        for entry in list(os.scandir(folder)):
            if not _ASIDE.fullmatch(entry.name) or now - entry.stat(follow_symlinks=False).st_mtime < LEFTOVER_SECONDS:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        _write_all(descriptor, memoryview(data))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: memoryview) -> int:
    data = data.cast("B")
    size = len(data)
    while data:
        data = data[os.write(descriptor, data[: 1 << 24]) :]
    return size


def _sync_all(folder: Path) -> None:
    """Have all that was written below a folder on the disk."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in folder.rglob("*"):  # Windows syncs what is open for writing only
        if path.is_file():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows has no such call; its rename is journalled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
