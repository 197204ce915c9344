"""Folders that are there as a whole or not at all: filled aside, given their manifest last, renamed once.

`manifest.json` names every file of a run folder with its SHA-256, and a reader checks it before anything else looks at
one. A folder without a manifest is somebody else's, and is never replaced. Files are written by `files`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from headstart.errors import DamagedRun, WriteError
from headstart.io.files import (
    as_write_error,
    check_writable,
    json_bytes,
    name_aside,
    sha256_bytes,
    sha256_file,
    sweep,
    sync_folder,
    write_bytes,
    write_synced,
)

MANIFEST = "manifest.json"


@contextmanager
def folder_aside(final: Path, *, fresh: bool = False) -> Iterator[Path]:
    """Fill a folder aside; at the end it gets its manifest and takes the name `final`, all at once.

    With `fresh` it gets none, and nothing may have that name: `WriteError`, also if something has it by the end. The disk
    is synced once then: 0.1 s for 7,000 files of 20 kB, where syncing each took 3 ms per file.

    A headstart folder that already has that name is kept as ``NAME.previous`` (one is kept). A folder without a
    manifest, that is, somebody else's, is never replaced: `WriteError`. On any exception the aside folder is removed and
    what was there before stays. (Killed just between two renames, what was there is found as ``NAME.previous``.)
    """
    (check_free if fresh else check_replaceable)(final)
    place = Path(os.path.abspath(final))  # '.' has no name of its own
    aside = name_aside(place)
    try:
        with as_write_error(final):
            place.parent.mkdir(parents=True, exist_ok=True)
            aside.mkdir()
        yield aside
        if not fresh:
            write_manifest(aside)
        with as_write_error(final):
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
    with as_write_error(final):
        sync_folder(place.parent)
    sweep(place.parent)


def _take_place(aside: Path, final: Path) -> None:
    """Rename a filled folder to its final name; what was there becomes NAME.previous, and comes back if that fails."""
    if not final.exists() or not any(final.iterdir()):
        if os.name == "nt" and final.exists():
            final.rmdir()  # elsewhere a rename replaces an empty folder
        os.replace(aside, final)
        return
    previous = final.with_name(final.name + ".previous")
    older = name_aside(previous)
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


def remove_folder(path: Path) -> None:
    """Remove a folder, which is renamed first: nobody meets half of it. Raises `WriteError`."""
    aside = name_aside(path)
    with as_write_error(path), suppress(FileNotFoundError):  # another process may have removed it
        os.rename(path, aside)
        shutil.rmtree(aside)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it; it may exist. Raises `WriteError`."""
    with as_write_error(path):
        path.mkdir(parents=True, exist_ok=True)


def check_free(final: Path) -> None:
    """Raise `WriteError` if something has that name already, be it a broken link, or if this user may not write there."""
    if os.path.lexists(final):
        raise WriteError(
            f"{final}: exists already, and a new folder is to be written there.", hint="Choose another name."
        )
    check_writable(final, Path(os.path.abspath(final)).parent)


def check_replaceable(final: Path) -> None:
    """Raise `WriteError` if no run folder can take that name.

    That is: a file or a link, a folder that holds something other than a headstart run, one that another file system is
    mounted at (it cannot be renamed), or a place where this user may not write.
    """
    place = Path(os.path.abspath(final))
    if os.path.islink(place) or (os.path.exists(place) and not os.path.isdir(place)):
        raise WriteError(f"{final}: is in the way: a folder is to be written there.", hint="Choose another --out.")
    check_writable(final, place.parent)
    if not os.path.isdir(place):
        return
    with as_write_error(final):
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


def check_keeps(path: Path, files: Iterable[Path], *, option: str = "--out") -> None:
    """Raise `WriteError` if writing `path` would replace one of the files that are read, by whatever name it goes."""
    if not os.path.isfile(path):
        return
    for file in files:
        if os.path.exists(file) and os.path.samefile(path, file):
            raise WriteError(f"{path}: is read here, and would be replaced.", hint=f"Choose another {option}.")


def check_outside_data(path: Path, data: Path, *, name: str = "", option: str = "--out") -> None:
    """Raise `WriteError` if `path` is the folder `data` or lies in it; `name` is one to propose. A file is no folder."""
    if not os.path.isdir(data):
        return
    places = (Path(os.path.abspath(path)), Path(os.path.realpath(path)))
    for folder in (folder for place in places for folder in (place, *place.parents)):
        if os.path.exists(folder) and os.path.samefile(folder, data):
            raise WriteError(
                f"{path}: lies inside the data ({data}), where it would be taken for data the next time.",
                hint=f"Choose {option} outside of it, such as {data.resolve().parent / (name or path.name)}.",
            )


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for the time of the block. Raises `WriteError` if there is no place for one."""
    with as_write_error(Path(os.environ.get("TMPDIR") or "/tmp")):
        folder = Path(tempfile.mkdtemp(prefix="headstart-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_manifest(folder: Path) -> None:
    """Write `manifest.json`: the SHA-256 of every other file in the folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    with as_write_error(folder):
        listed = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    write_bytes(folder / MANIFEST, json_bytes({"sha256": listed}))


def add_to_folder(folder: Path, contents: Mapping[str, bytes], *, checked: Mapping[str, str]) -> None:
    """Write files by relative path into a folder that has a manifest, and the manifest that names them; it comes last.

    `checked` is what `check_manifest` returned: other files stay listed with the hashes that were found then, so that one
    which changes meanwhile is still refused. All is written beside the folder first, so that a reader meets it half
    renewed for the time of some renames only. Should the machine die in these, the new files are refused until they are
    written again (`check_manifest` with `besides`). Raises `WriteError`.
    """
    listed = {**checked, **{name: sha256_bytes(data) for name, data in contents.items()}}
    everything = {**contents, MANIFEST: json_bytes({"sha256": dict(sorted(listed.items()))})}
    place = Path(os.path.abspath(folder))
    asides = {name: name_aside(place.with_name(name.rpartition("/")[2])) for name in everything}
    try:
        for name, data in everything.items():
            with as_write_error(folder / name):
                write_synced(asides[name], data)
        for name, aside in asides.items():
            with as_write_error(folder / name):
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside, place / name)
    finally:
        for aside in asides.values():
            with suppress(OSError):  # the error is being reported; what is left is removed another time
                aside.unlink(missing_ok=True)
    for parent in {(place / name).parent for name in everything}:
        with as_write_error(folder):
            sync_folder(parent)
    sweep(place.parent)


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
        if not isinstance(listed, dict) or data != json_bytes({"sha256": listed}):
            raise ValueError
    except FileNotFoundError:
        raise DamagedRun(f"{folder}: has no {MANIFEST}, so its files cannot be checked.", hint=hint) from None
    except OSError as error:
        raise DamagedRun(f"{path}: cannot be read: {error.strerror}.", hint=hint) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedRun(f"{path}: is not a manifest that headstart wrote.", hint=hint) from None
    return listed


def _sync_all(folder: Path) -> None:
    """Have all that was written below a folder on the disk."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in folder.rglob("*"):  # Windows syncs what is open for writing only
        if path.is_file():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
