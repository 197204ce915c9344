"""Folders that appear complete or not at all: filled under a temporary name, manifest written last, renamed once.

`manifest.json` lists every file of a run folder with its SHA-256; readers check each file before they parse it. Files
that are not listed are not read: systems, editors and people may put some there. A folder without such a manifest was not
written by headstart and is never replaced. Files are written by `files`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from headstart.errors import DamagedRun, WriteError
from headstart.io.files import (
    MOVE_CACHE,
    as_write_error,
    cache_dir,
    check_writable,
    is_not_allowed,
    json_bytes,
    name_aside,
    sha256_bytes,
    sha256_file,
    sweep,
    sync_folder,
    write_bytes,
    write_synced,
)
from headstart.io.progress import log

MANIFEST = "manifest.json"
RESTORE = "Restore the folder from a copy, or train again."
UNCLEAR = f"its {MANIFEST} is damaged, or was not written by headstart"
MAKE_ROOM = (
    "Rename the folder, or remove it if you need nothing in it, and run the same command again; "
    "or choose another --out."
)
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir"})
"""Names of files and folders of Windows, macOS and network storage, besides hidden ones."""
LITTER = SYSTEM_FILES | {".ds_store", ".localized", ".directory"}
"""Names of files and folders that systems create, unasked, in a folder that somebody looks at."""
SYSTEM_FOLDERS = frozenset(
    (
        *("$recycle.bin", "recycler", "system volume information", "lost+found", "found.000"),
        *("#recycle", "@recycle", "#snapshot", "@tmp"),
        *("__pycache__", "ipynb_checkpoints", "node_modules", "site-packages", "venv", "virtualenv"),
    )
)
"""Folders that systems and programs create: left out where images are looked for, and reported."""
TEXTS = (".csv", ".html", ".json", ".md", ".svg")
"""Extensions of the texts in a run folder."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@contextmanager
def folder_aside(final: Path, *, fresh: bool = False) -> Iterator[Path]:
    """Fill a folder under a temporary name; at the end, write its manifest and rename it to `final`, all at once.

    With `fresh` it gets no manifest, and the name must be free: `WriteError`, also if something has it by the end. The
    disk is then synced once: 0.1 s for 7,000 files of 20 kB, where syncing each takes 3 ms per file.

    An existing headstart folder of that name is kept as ``NAME.previous`` (only one is kept). What headstart did not
    write is replaced under neither name, nor removed with an older ``NAME.previous``: `WriteError`. On any exception the
    temporary folder is removed and an existing folder stays. (If the process is killed between two renames, it is in
    ``NAME.previous``.)
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
                os.rename(aside, place)  # fails if a file, a link or a non-empty folder is there now
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
    """Rename a filled folder to its final name; the old folder becomes NAME.previous, and is restored on failure."""
    if not final.exists() or not _occupied(final):
        if final.exists():
            _clear_litter(final)
        if os.name == "nt" and final.exists():
            final.rmdir()  # elsewhere a rename replaces an empty folder
        os.replace(aside, final)
        return
    previous = _previous(final)
    _check_previous(final)
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


def files_and_bytes(folder: Path, *, without: Callable[[str], bool] = lambda name: False) -> tuple[int, int]:
    """Return the number of files below a folder, `without` files and folders of some names, and their bytes; links are not
    followed."""
    sizes = []
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not without(name)]
        sizes += [os.lstat(os.path.join(above, name)).st_size for name in names if not without(name)]
    return len(sizes), sum(sizes)


def require_whole(folder: Path, files: int, size: int) -> None:
    """Raise `WriteError` if a folder under construction has lost some of the files and bytes that were written there."""
    with as_write_error(folder):
        found = files_and_bytes(folder)
    if found[0] < files or found[1] < size:
        raise WriteError(
            f"{folder}: {files:,} files ({size:,} bytes) were written, but {found[0]:,} ({found[1]:,} bytes) are there: "
            "another program has removed or changed some.",
            hint="Run the same command again.",
        )


def remove_folder(path: Path) -> None:
    """Remove a folder, renaming it first so that nobody sees half of it. Raises `WriteError`."""
    aside = name_aside(path)
    with as_write_error(path), suppress(FileNotFoundError):  # another process may have removed it
        os.rename(path, aside)
        shutil.rmtree(aside)


def make_folder(path: Path) -> None:
    """Create a folder and its parents; it may exist. Raises `WriteError`."""
    with as_write_error(path):
        path.mkdir(parents=True, exist_ok=True)


def is_system_file(name: str) -> bool:
    """Return whether systems leave files of that name behind in folders that they show.

    >>> is_system_file(".DS_Store"), is_system_file("Thumbs.db"), is_system_file("report.html")
    (True, True, False)
    """
    return name.startswith(".") or name.casefold() in SYSTEM_FILES


def is_litter(name: str) -> bool:
    """Return whether systems create files or folders of that name, unasked, in a folder that somebody looks at.

    >>> is_litter(".DS_Store"), is_litter("._1.jpg"), is_litter(".git")
    (True, True, False)
    """
    return name.casefold() in LITTER or name.startswith("._")


def check_free(final: Path) -> None:
    """Raise `WriteError` if that name exists, even as a broken link, or if this user may not write there."""
    if os.path.lexists(final):
        raise WriteError(f"{final}: already exists; a new folder would be written there.", hint="Choose another name.")
    check_writable(final, Path(os.path.abspath(final)).parent)


def check_replaceable(final: Path) -> None:
    """Raise `WriteError` if no run folder can have that name.

    That is: it is a file or a link, a folder that contains something other than a headstart run, a mount point (which
    cannot be renamed), or in a location where this user may not write; or it is a run, and ``NAME.previous``, where that
    is kept, is something other than a run, or contains files that were added to it.
    """
    place = Path(os.path.abspath(final))
    if os.path.islink(place) or (os.path.exists(place) and not os.path.isdir(place)):
        raise WriteError(f"{final}: is in the way: a folder would be written there.", hint="Choose another --out.")
    check_writable(final, place.parent)
    if not os.path.isdir(place):
        return
    with as_write_error(final):
        occupied = _occupied(place)
    if os.path.ismount(place):
        raise WriteError(
            f"{final}: is a mount point, which cannot be replaced.",
            hint=f"Choose a folder in it, such as --out {final / 'run'}.",
        )
    if not occupied:
        return
    if not _is_ours(place):
        if os.path.lexists(place / MANIFEST):  # nothing else says which files in it are whose
            raise WriteError(f"{final}: {UNCLEAR}; it is not replaced.", hint=MAKE_ROOM)
        raise WriteError(
            f"{final}: contains files that headstart did not write; it is not replaced.",
            hint="Choose another --out, or an empty folder.",
        )
    with as_write_error(final):
        _check_previous(place)


def _previous(place: Path) -> Path:
    return place.with_name(f"{place.name}.previous")


def _check_previous(place: Path) -> None:
    """Raise `WriteError` if something that headstart did not write is where the folder at `place` would be kept."""
    previous = _previous(place)
    if not os.path.lexists(previous):
        return
    is_folder = os.path.isdir(previous) and not os.path.islink(previous)
    if not is_folder or (_occupied(previous) and not _is_ours(previous)):
        why = UNCLEAR if os.path.lexists(previous / MANIFEST) else "was not written by headstart"
        raise WriteError(
            f"{previous}: {why}; the earlier {place.name} would be kept there, replacing it.",
            hint="Rename it, or choose another --out.",
        )
    if added := _added(previous):
        raise WriteError(
            f"{previous}: contains {added}, which headstart did not write; it would be removed with the rest.",
            hint="Move it elsewhere, rename the folder, or choose another --out.",
        )


def _added(folder: Path) -> str | None:
    """Return the path of a file in a headstart folder that is not in its manifest; None if there is none."""
    if not os.path.isdir(folder) or not _occupied(folder):
        return None
    listed = {MANIFEST, *read_manifest(folder, RESTORE)}
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return next(
        (p.as_posix() for p in paths if p.as_posix() not in listed and not any(map(is_system_file, p.parts))), None
    )


def _occupied(folder: Path) -> bool:
    """Return whether a folder contains anything besides what systems put there by themselves."""
    return not all(map(is_litter, os.listdir(folder)))


def _clear_litter(folder: Path) -> None:
    """Remove what is in a folder that is not occupied."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _is_ours(folder: Path) -> bool:
    """Return whether a folder has a manifest as headstart writes it."""
    try:
        read_manifest(folder, RESTORE)
    except DamagedRun:
        return False
    return True


def check_keeps(path: Path, files: Iterable[Path], *, option: str = "--out") -> None:
    """Raise `WriteError` if writing `path` would replace one of the input files, under whatever name."""
    if not os.path.isfile(path):
        return
    for file in files:
        if os.path.exists(file) and os.path.samefile(path, file):
            raise WriteError(f"{path}: is an input file, and would be replaced.", hint=f"Choose another {option}.")


def check_outside_data(path: Path, data: Path, *, name: str = "", option: str = "--out") -> None:
    """Raise `WriteError` if `path` is the folder `data` or inside it; `name` is suggested instead. Ignores a file."""
    if not os.path.isdir(data):
        return
    places = (Path(os.path.abspath(path)), Path(os.path.realpath(path)))
    for folder in (folder for place in places for folder in (place, *place.parents)):
        if os.path.exists(folder) and os.path.samefile(folder, data):
            raise WriteError(
                f"{path}: is inside the data ({data}), where it would be read as data the next time.",
                hint=f"Choose {option} outside of it, such as {data.resolve().parent / (name or path.name)}.",
            )


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that exists until the block ends. Raises `WriteError` if it cannot be created."""
    with as_write_error(Path(os.environ.get("TMPDIR") or "/tmp")):
        folder = Path(tempfile.mkdtemp(prefix="headstart-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_needed(part: str, name: str, data: bytes | memoryview) -> Path:
    """Write a file that is needed later into a new folder of its own in that part of the cache; return its path.

    If this user may not write to the cache, the folder is among the temporary files, and a warning names it. The caller
    removes it with `delete_needed`. Raises `WriteError`.
    """
    path = cache_dir() / part / uuid.uuid4().hex / name
    try:
        _write_alone(path, data)
    except WriteError as error:
        if not is_not_allowed(error):
            raise WriteError(error.message, hint=f"{error.hint}\n{MOVE_CACHE}") from error
        with as_write_error(Path(tempfile.gettempdir())):
            path = Path(tempfile.mkdtemp(prefix="headstart-")) / name
        _write_alone(path, data)
        log.warning("%s It is written to %s instead. %s", error.message, path, MOVE_CACHE)
    return path


def _write_alone(path: Path, data: bytes | memoryview) -> None:
    """Write a file that is alone in its folder, which is removed if that fails."""
    try:
        write_bytes(path, data)
    except BaseException:
        delete_needed(path)
        raise


def delete_needed(path: Path) -> None:
    """Delete a file of `write_needed`, and its folder, if they exist."""
    with suppress(OSError):  # it costs space, and nothing else
        path.unlink(missing_ok=True)
        path.parent.rmdir()


def write_manifest(folder: Path) -> None:
    """Write `manifest.json`: the SHA-256 of every other file in the folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / MANIFEST)
    with as_write_error(folder):
        listed = {p.relative_to(folder).as_posix(): sha256_file(p) for p in files}
    write_bytes(folder / MANIFEST, json_bytes({"sha256": listed}))


def add_to_folder(folder: Path, contents: Mapping[str, bytes], *, listed: Mapping[str, str]) -> None:
    """Write files by relative path into a folder that has a manifest, and update the manifest last.

    Other files stay `listed` with the hashes of the manifest as it was, so that one that has changed is still refused.
    All files are written beside the folder first, so a reader can see it half updated only during the renames. If the
    machine dies during them, the new files are refused until they are written again. Raises `WriteError`.
    """
    listed = {**listed, **{name: sha256_bytes(data) for name, data in contents.items()}}
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
            with suppress(OSError):  # the error is being reported; leftovers are removed later
                aside.unlink(missing_ok=True)
    for parent in {(place / name).parent for name in everything}:
        with as_write_error(folder):
            sync_folder(parent)
    sweep(place.parent)


def check_manifest(folder: Path) -> dict[str, str]:
    """Return {relative path: SHA-256} of the files that a folder's manifest lists, if all of them are as written.

    Other files may lie beside them. Raises `DamagedRun`.
    """
    listed = read_manifest(folder, RESTORE)
    for name in listed:
        check_listed(folder, name, listed)
    return listed


def check_listed(folder: Path, name: str, listed: Mapping[str, str]) -> Path:
    """Return the path of a file in a folder if it is as written: in the manifest `listed`, and unchanged.

    Only the line ends of a text may differ: git changes them on Windows. Raises `DamagedRun`.
    """
    file = folder / name
    if name not in listed:
        raise DamagedRun(f"{folder}: {name!r} is not in its manifest.", hint=RESTORE)
    try:
        if not os.path.lexists(file):
            raise DamagedRun(f"{file}: is missing.", hint=RESTORE)
        if not file.is_file():
            raise DamagedRun(f"{file}: is neither a file nor a link to one.", hint=RESTORE)
        if listed[name] not in (sha256_file(file), _sha256_with_plain_line_ends(file)):
            is_pointer = file.stat().st_size < 1_000 and file.read_bytes().startswith(LFS_POINTER)
            raise DamagedRun(
                f"{file}: has changed since it was written (SHA-256 differs).",
                hint="It is a pointer of Git LFS: `git lfs pull` fetches the file itself." if is_pointer else RESTORE,
            )
    except OSError as error:
        raise DamagedRun(f"{error.filename or folder}: cannot be read: {error.strerror}.", hint=RESTORE) from error
    return file


def _sha256_with_plain_line_ends(file: Path) -> str:
    return sha256_bytes(_plain_line_ends(file.read_bytes())) if file.suffix in TEXTS else ""


def _plain_line_ends(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


def read_manifest(folder: Path, hint: str) -> dict[str, str]:
    """Return {relative path: SHA-256} from a manifest exactly as `write_manifest` writes it: of files in its folder.

    Raises `DamagedRun` for any other.
    """
    path = folder / MANIFEST
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise ValueError
        data = path.read_bytes()
        listed: dict[str, str] = json.loads(data)["sha256"]
        if not isinstance(listed, dict) or _plain_line_ends(data) != json_bytes({"sha256": listed}):
            raise ValueError
        if any(name.startswith("/") or ".." in name.split("/") for name in listed):
            raise ValueError
    except FileNotFoundError:
        raise DamagedRun(f"{folder}: has no {MANIFEST}, so its files cannot be verified.", hint=hint) from None
    except OSError as error:
        raise DamagedRun(f"{path}: cannot be read: {error.strerror}.", hint=hint) from error
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedRun(f"{path}: is not a manifest that headstart wrote.", hint=hint) from None
    return listed


def _sync_all(folder: Path) -> None:
    """Flush all files below a folder to the disk."""
    if hasattr(os, "sync"):
        os.sync()
        return
    for path in folder.rglob("*"):  # Windows syncs only files open for writing
        if path.is_file():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())
