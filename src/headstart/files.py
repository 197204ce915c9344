"""The one write path: every file that headstart leaves behind is written here.

A file is written aside, synced, and renamed over its final name; a folder is filled aside, gets its manifest
(`manifest.json`, SHA-256 of each file) last, and is renamed as a whole. So a reader sees the old state or the new
one, never half of one, whatever moment the process or the machine dies at. The price is an fsync a file (about a
millisecond on a laptop's disk), which nobody notices next to the work that led to the file.

Nothing else in the package opens a file for writing (`tests/test_layout.py` checks that).
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import DamagedRun, WriteError

if TYPE_CHECKING:
    import numpy as np

MANIFEST = "manifest.json"


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
    aside = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex}.part")
    with _as_write_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
            try:
                _write_all(descriptor, memoryview(data))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(aside, path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text. Raises `WriteError`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON. Raises `WriteError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV that `read_csv` gives back to the letter: UTF-8, RFC 4180 quoting, ``\\n`` line ends.

    File names that are not valid Unicode (they exist on Linux) keep their bytes through ``surrogateescape``.
    Raises `WriteError`.
    """
    text = io.StringIO(newline="")
    plain = csv.writer(text, lineterminator="\n")
    quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in (header, *rows):
        returns = any("\r" in cell for cell in row if isinstance(cell, str))  # Python < 3.13 does not quote for these
        (quoted if returns else plain).writerow(row)
    write_bytes(path, text.getvalue().encode("utf-8", "surrogateescape"))


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV as dicts, as written by `write_csv`."""
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as safetensors. Raises `WriteError`."""
    from safetensors.numpy import save

    write_bytes(path, save(dict(arrays), metadata=dict(metadata or {})))


def read_json(path: Path) -> Any:
    """Parse a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


@contextmanager
def folder_aside(final: Path) -> Iterator[Path]:
    """Fill a folder aside; at the end it gets its manifest and takes the name `final`, all at once.

    A headstart folder that already has that name is kept as ``NAME.previous`` (one is kept). A folder without a
    manifest, that is, somebody else's, is never replaced: `WriteError`. On any exception the aside folder is removed.
    """
    aside = final.with_name(f".{final.name}.{uuid.uuid4().hex}.part")
    check_replaceable(final)
    with _as_write_error(final):
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            aside.mkdir()
            yield aside
            write_manifest(aside)
            previous = final.with_name(final.name + ".previous")
            if final.exists():
                if any(final.iterdir()):
                    shutil.rmtree(previous, ignore_errors=True)
                    os.replace(final, previous)
                else:
                    final.rmdir()
            os.replace(aside, final)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise
        _sync_folder(final.parent)


def check_replaceable(final: Path) -> None:
    """Raise `WriteError` if `final` is a file, or a folder that holds something other than a headstart run."""
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise WriteError(f"{final}: is in the way: a folder is to be written there.", hint="Choose another --out.")
    if final.is_dir() and any(final.iterdir()) and not (final / MANIFEST).exists():
        raise WriteError(
            f"{final}: holds files that headstart did not write, so it is left alone.",
            hint="Choose another --out, or an empty folder.",
        )


def write_manifest(folder: Path) -> None:
    """Write `manifest.json`: the SHA-256 of every other file in the folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    write_json(folder / MANIFEST, {"sha256": {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}})


def check_manifest(folder: Path) -> None:
    """Raise `DamagedRun` unless the folder holds exactly the files of its manifest, to the byte."""
    path = folder / MANIFEST
    hint = "Restore the folder from a copy, or train again."
    try:
        listed = read_json(path)["sha256"]
        if not isinstance(listed, dict):
            raise TypeError
    except FileNotFoundError:
        raise DamagedRun(f"{folder}: has no {MANIFEST}, so its files cannot be checked.", hint=hint) from None
    except (ValueError, KeyError, TypeError):
        raise DamagedRun(f"{path}: is not a manifest that headstart wrote.", hint=hint) from None
    present = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() or p.is_symlink()} - {
        MANIFEST
    }
    for name in sorted(present ^ set(listed)):
        problem = "is missing" if name in listed else "is not in the manifest"
        raise DamagedRun(f"{folder / name}: {problem}.", hint=hint)
    for name, expected in listed.items():
        if (folder / name).is_symlink() or sha256_file(folder / name) != expected:
            raise DamagedRun(
                f"{folder / name}: its bytes are not those that were written (SHA-256 differs).", hint=hint
            )


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
        }
        where = f" ({error.filename})" if error.filename and str(error.filename) != str(path) else ""
        reason = error.strerror or str(error)
        raise WriteError(
            f"{path}: could not be written: {reason}{where}.",
            hint=advice.get(
                error.errno or 0, "Nothing was changed there. Check the disk, then run the same command again."
            ),
        ) from error


def _write_all(descriptor: int, data: memoryview) -> None:
    data = data.cast("B")
    while data:
        data = data[os.write(descriptor, data[: 1 << 24]) :]


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows has no such call; its rename is journalled
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
