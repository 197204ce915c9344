"""The only write path: every file that headstart leaves behind is written here.

A file is written to a temporary name, synced, and renamed to its final name; whole folders likewise, see `io.folders`.
So a reader sees the old state or the new one, never a mixture, whenever the process or the machine dies. The cost is an
fsync per file (about a millisecond on a laptop's disk), negligible next to the work behind the file.

A killed process leaves its unfinished file or folder as ``.NAME.HEX.part``. The next write into the folder above removes
it, once nothing in it has been written for an hour.

No other module in the package except `io.folders` opens a file for writing (`tests/test_layout.py` checks that).
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from headstart.errors import WriteError
from headstart.io.addresses import is_address, shown_address
from headstart.io.progress import log

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MOVE_CACHE = "HEADSTART_CACHE=DIR moves the cache elsewhere."
LEFTOVER_SECONDS = 3600.0  # older temporary files belong to a process that is gone
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What file systems without hard links answer."""
_ASIDE = re.compile(r"\..*\.[0-9a-f]{32}\.part", re.DOTALL)


def cache_dir() -> Path:
    """Return headstart's cache folder: ``HEADSTART_CACHE``, or the platform's cache location."""
    override = os.environ.get("HEADSTART_CACHE")
    if override:
        return Path(override)
    from platformdirs import user_cache_path

    return user_cache_path("headstart", appauthor=False)


def sha256_bytes(data: bytes | bytearray | memoryview) -> str:
    """Return the hexadecimal SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, read in small pieces (memory does not grow with the file)."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write a file to a temporary name, sync it, rename it into place. Raises `WriteError`, leaving nothing behind."""
    write_together({path: data})


def write_cache(path: Path, data: bytes | memoryview) -> None:
    """Write a file that only saves work the next time.

    If this user may not write to the cache, the work is repeated, with one warning per process. A full or failing disk
    raises `WriteError`: the user should know.
    """
    try:
        write_bytes(path, data)
    except WriteError as error:
        if not is_not_allowed(error):
            raise WriteError(error.message, hint=f"{error.hint}\n{MOVE_CACHE}") from error
        if not _not_kept:
            log.warning("Results are not cached: %s %s", error.message, MOVE_CACHE)
        _not_kept.add(path.parent)


def is_not_allowed(error: WriteError) -> bool:
    """Return whether this user may not write there at all."""
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS)


_not_kept: set[Path] = set()
"""Folders of the cache that could not be written to; only the first gives a warning."""


def create_file(path: Path, data: bytes | memoryview) -> bool:
    """Write a file whole unless something has its name; return whether it was written. Raises `WriteError`.

    Of any number of processes that try at once, one gets True. (Where the file system has no hard links, two may; the
    later one's file is then the one that stays.)
    """
    aside = name_aside(path)
    try:
        with as_write_error(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_synced(aside, data)
            created = _take_free_name(aside, path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # the error is being reported; leftovers are removed later
            aside.unlink(missing_ok=True)
    sweep(path.parent)
    return created


def _take_free_name(aside: Path, final: Path) -> bool:
    try:
        if os.name == "nt":
            os.rename(aside, final)  # never replaces there
        else:
            os.link(aside, final)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(final):
            return False
        os.rename(aside, final)
    return True


def write_together(contents: Mapping[Path, bytes | memoryview]) -> None:
    """Write files that belong together: all to temporary names first, then all renamed. Raises `WriteError`.

    A full disk shows before the renames, so the old files stay. If the disk fails between two renames, newly created
    files are removed again.
    """
    contents = {Path(os.path.realpath(path)) if path.is_symlink() else path: data for path, data in contents.items()}
    for path in contents:
        check_file_place(path)
    asides = {path: name_aside(path) for path in contents}
    renamed: list[Path] = []
    try:
        for path, data in contents.items():
            with as_write_error(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_synced(asides[path], data)
        for path, aside in asides.items():
            with as_write_error(path):
                new = not path.exists()
                os.replace(aside, path)
                renamed += [path] if new else []
    except BaseException:
        for left in (*asides.values(), *renamed):
            with suppress(OSError):  # the disk error is being reported; leftovers are removed later
                left.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in contents}:
        with as_write_error(folder):
            sync_folder(folder)
        sweep(folder)


@contextmanager
def file_aside(final: Path) -> Iterator[BinaryIO]:
    """Write a file piece by piece under a temporary name; at the end, sync and rename it. Raises `WriteError`.

    On any exception nothing is left behind, and an existing file stays.
    """
    final = Path(os.path.realpath(final)) if final.is_symlink() else final
    check_file_place(final)
    aside = name_aside(final)
    try:
        with as_write_error(final):
            final.parent.mkdir(parents=True, exist_ok=True)
            with open(aside, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, final)
            sync_folder(final.parent)
    finally:
        with suppress(OSError):  # the error is being reported; leftovers are removed later
            aside.unlink(missing_ok=True)
    sweep(final.parent)


@contextmanager
def partial_file(path: Path) -> Iterator[BinaryIO]:
    """Open an unfinished download for reading and writing, for one process at a time.

    Its contents stay when the block ends, however it ends. Raises `WriteError`, also if another process has it open.
    """
    with as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
        with open(descriptor, "r+b", buffering=0) as file:
            if not _locked(descriptor):
                raise WriteError(
                    f"{path}: another process is downloading the same file.",
                    hint="Wait until it is done, then run the same command again.",
                )
            yield file


def _locked(descriptor: int) -> bool:
    """Lock an open file until it is closed or the process ends; return False if another process holds the lock."""
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
    """Rename a complete, synced file to its final name. Raises `WriteError`."""
    with as_write_error(final):
        os.replace(path, final)
        sync_folder(final.parent)


def remove_files(*paths: Path) -> None:
    """Remove files; missing ones are ignored. Raises `WriteError`."""
    for path in paths:
        with as_write_error(path):
            path.unlink(missing_ok=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file in small pieces. Raises `WriteError`, which names `source` if it cannot be read."""
    with file_aside(path) as file, open(source, "rb") as given:
        shutil.copyfileobj(given, file, 1 << 20)


def hard_link(source: Path, path: Path) -> None:
    """Give a file a second name, in a folder under construction; a copy where that is impossible. Raises `WriteError`."""
    with as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, path)
        except OSError as error:
            if error.errno not in (*_NO_LINKS, errno.EXDEV, errno.EMLINK):
                raise
            shutil.copyfile(source, path)


def link_file(source: Path, path: Path) -> None:
    """Make a symbolic link, in a folder under construction. Raises `WriteError`."""
    with as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source, path)


def write_zip(path: Path, contents: Mapping[str, bytes | Path]) -> None:
    """Write a zip from {name in the archive: its bytes, or a file to copy in small pieces}. Raises `WriteError`.

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
    write_bytes(path, json_bytes(value))


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV that `read_csv` reads back exactly, see `csv_bytes`. Raises `WriteError`."""
    write_bytes(path, csv_bytes(header, rows))


def csv_bytes(
    header: Sequence[str], rows: Iterable[Sequence[object]], *, delimiter: str = ",", line_end: str = "\n"
) -> bytes:
    """Return a CSV: UTF-8, RFC 4180 quoting.

    File names that are not valid Unicode (they exist on Linux) keep their bytes through ``surrogateescape``.
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, delimiter=delimiter, lineterminator=line_end)
    quoted = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
    for row in (header, *rows):
        returns = any("\r" in cell for cell in row if isinstance(cell, str))  # Python < 3.13 does not quote these
        (quoted if returns else plain).writerow(row)
    return text.getvalue().encode("utf-8", "surrogateescape")


def read_csv(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV, as written by `write_csv`, as dicts."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def safetensors_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Return arrays as safetensors; equal arrays give equal bytes (the library's metadata order varies by run)."""
    from safetensors.numpy import save

    data: bytes = save(dict(arrays), metadata=dict(metadata or {}))
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True).encode()
    header += b" " * (-len(header) % 8)
    return b"".join([len(header).to_bytes(8, "little"), header, memoryview(data)[end:]])


def parquet_bytes(table: Any, *, repeated: Sequence[str] = ()) -> bytes:
    """Return a pyarrow table as a parquet file, in one row group; equal tables give equal bytes with the same pyarrow.

    `repeated` are columns with few different values.
    """
    import pyarrow.parquet

    file = io.BytesIO()
    dictionaries = [name for name in table.column_names if name in repeated]
    pyarrow.parquet.write_table(
        table, file, compression="zstd", use_dictionary=dictionaries, row_group_size=max(1, len(table))
    )
    return file.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def tiff_bytes(image: Image.Image) -> bytes:
    """Return an image as the bytes of a TIFF file, uncompressed."""
    file = io.BytesIO()
    image.save(file, "TIFF", compression="raw")
    return file.getvalue()


def jpeg_bytes(image: Image.Image, quality: int, exif: Image.Exif | None = None, **options: Any) -> bytes:
    """Return an image as the bytes of a JPEG file; `options` are further ones of Pillow."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, **options, **({"exif": exif} if exif is not None else {}))
    return file.getvalue()


def read_json(path: Path) -> Any:
    """Parse a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_pieces(path: Path, pieces: Iterable[bytes]) -> int:
    """Write a new file, piece by piece, into a folder under construction; return its size. Raises `WriteError`.

    The name must be free; not even a link may have it. An exception from `pieces` leaves an incomplete file behind.
    """
    with as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb", buffering=0) as file:
            return sum(_write_all(file.fileno(), memoryview(piece)) for piece in pieces)


def check_file_place(path: Path) -> None:
    """Raise `WriteError` if no file can have that name: a folder or a device has it, or this user may not write there.

    Cheap, so long-running work can check before it begins.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "a device or a pipe"
        raise WriteError(
            f"{path}: is {what}; expected the name of a file to write.", hint="Give a file name, such as out.csv."
        )
    check_writable(path, Path(os.path.abspath(path)).parent)


def check_writable(path: Path, parent: Path) -> None:
    """Raise `WriteError` if the nearest existing parent of `path` is not a folder, or not writable by this user."""
    if is_address(str(path)) and not os.path.lexists(parent):
        raise WriteError(
            f"{shown_address(path)}: is a URL; expected a path on this machine.",
            hint="Write it here and copy it there; --shards and `headstart pack` write to stores.",
        )
    while not os.path.lexists(parent):
        parent = parent.parent
    with as_write_error(path):
        if not os.path.isdir(parent):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(parent))
        if not os.access(parent, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(parent))


def scratch_array(shape: tuple[int, ...], dtype: type[np.generic], file: Path | None = None) -> np.ndarray:
    """Return an array for intermediate results in an unnamed cache file, which disappears with the last reference.

    With `file`, of a name made by `scratch_file`, other processes can open it until it is removed. Its space is
    allocated at once, so that a full disk is a `WriteError` here and not a crash later.
    """
    import numpy as np

    folder = cache_dir() / "scratch"
    size = max(int(np.prod(shape)) * np.dtype(dtype).itemsize, 1)
    with as_write_error(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) if file is None else open(file, "x+b") as opened:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, size)
            else:
                opened.truncate(size)
            memory = mmap.mmap(opened.fileno(), size)
    return np.frombuffer(memory, dtype, count=int(np.prod(shape))).reshape(shape)


def scratch_file() -> Path:
    """Return a new name in the cache for `scratch_array`. Remove the file once all processes have opened it; what a
    killed process leaves is removed by a later call, once an hour old."""
    folder = cache_dir() / "scratch"
    sweep(folder)
    return name_aside(folder / "activations")


@contextmanager
def as_write_error(path: Path) -> Iterator[None]:
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
            errno.ENOTDIR: "A file is where a folder is needed: choose another path.",
            errno.EEXIST: "A file is where a folder is needed: choose another path.",
        }
        named = str(error.filename or path)
        where = f" ({named})" if named != str(path) and not _ASIDE.fullmatch(Path(named).name) else ""
        reason = error.strerror or str(error)
        raise WriteError(
            f"{path}: could not be written: {reason}{where}.",
            hint=advice.get(error.errno or 0, "Check the disk, then run the same command again."),
        ) from error


def json_bytes(value: Any) -> bytes:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # a file name that is not valid Unicode: JSON's escapes can write it
        return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def name_aside(final: Path) -> Path:
    """Return a unique temporary name beside `final`; it keeps at most 160 bytes of the name."""
    return final.with_name(f".{final.name[:40]}.{uuid.uuid4().hex}.part")


def is_unfinished(name: str) -> bool:
    """Return whether `name_aside` gave that name: a file that is being written, or that a killed process left."""
    return bool(_ASIDE.fullmatch(name))


def sweep(folder: Path) -> None:
    """Remove temporary files of killed processes from a folder, once an hour old by the folder's own clock.

    A temporary folder is as old as the newest file or folder in it: its own time does not change while one of its
    subfolders is filled.
    """
    with suppress(OSError):  # gone meanwhile, or no permission: another process will remove it
        now = folder.stat().st_mtime
        for entry in list(os.scandir(folder)):
            if not _ASIDE.fullmatch(entry.name) or now - _last_written(entry.path) < LEFTOVER_SECONDS:
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def _last_written(path: str) -> float:
    """Return the newest time of modification of a file or a link, or of a folder and everything below it."""
    below = (os.path.join(above, name) for above, folders, names in os.walk(path) for name in (*folders, *names))
    return max(os.lstat(each).st_mtime for each in (path, *below))


def write_synced(path: Path, data: bytes | memoryview) -> None:
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


def sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows has no such call; its renames are journalled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
