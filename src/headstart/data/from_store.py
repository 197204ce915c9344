"""Data in a bucket: every file below a URL, downloaded once into the user's cache.

    local_copy("s3://photos/2026/")          a folder with the same files in it
    local_copy("s3://photos/cats.zip/")      one file: an archive, or a shard

Training and `check` read each image several times, so images are downloaded first, and then read from disk. A file is
stored under its URL, ETag and size, so the next run downloads only what is new or has changed, and interrupted work is
continued. The folder consists of hard links to these files: exactly those of one listing. It does not change while another
process uses an older listing.

Costs a request per file (64 at a time), the disk space, and a listing of the bucket each time (a request per 1,000
files). When not to use it: for more images than fit on the disk, or if each image is read only once: `predict --shards` and
`embed --shards` read a store in place. Files that are no longer needed stay in the cache, under `stores`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from shutil import disk_usage

from headstart.data.archives.members import Limits, Member, Vetting, parts_of
from headstart.data.dataset import ARCHIVES, IMAGES, TABLES, hash_rows
from headstart.errors import MissingData, StoreError, WriteError
from headstart.io.files import cache_dir, file_aside, hard_link, read_json, write_json
from headstart.io.folders import (
    files_and_bytes,
    folder_aside,
    is_system_file,
    make_folder,
    remove_folder,
    require_whole,
)
from headstart.io.progress import bar, log
from headstart.io.stores.store import Store, open_store
from headstart.io.stores.stored_file import StoredFile
from headstart.io.text_table import few, plain

THREADS = 64
PIECE = 8 << 20
"""Bytes per request; each thread holds one such piece in memory."""
SPARE = 100 << 20
"""Bytes to leave free on the disk."""
_RECORD = "downloaded.json"


def local_copy(url: str) -> Path:
    """Return the folder in the cache with the files below a URL, or the one file that it names.

    Raises `MissingData` if there is nothing, `StoreError`, `MissingExtra`, and `WriteError` if the disk is too small.
    """
    store, files, single = _listed(url)
    _check_names(store.url, files)
    objects = {file.key: _object(store.url, file) for file in files}
    missing = [file for file in files if not _has(objects[file.key], file.bytes)]
    _say(store.url, files, missing)
    _check_space(store.url, sum(file.bytes for file in missing))
    _download(store, missing, objects)
    folder = _linked(store.url, files, objects)
    return folder / files[0].key if single else folder


def _listed(url: str) -> tuple[Store, list[StoredFile], bool]:
    """Return a store and its files below a URL, and whether the URL names a single file (then the store is its folder)."""
    store = open_store(url)
    above, _, name = url.rstrip("/").rpartition("/")
    if not above.endswith("/") and name.lower().endswith((*ARCHIVES, *TABLES, *IMAGES)):
        around = open_store(above)
        found = _named(around, name)
        if found is not None:
            _check_single(url, name)
            return around, [found], True
    with bar("Listing", None) as advance:
        files = list(_counted(_wanted(store.list()), advance))
    if not files:
        raise MissingData(f"{url}: there are no files below this URL.", hint="Check the bucket and the prefix.")
    return store, files, False


def _named(store: Store, name: str) -> StoredFile | None:
    first = next((file for file in store.list(name[:-1]) if file.key >= name), None)
    return first if first is not None and first.key == name else None


def _check_single(url: str, name: str) -> None:
    if name.lower().endswith(TABLES) and not name.lower().endswith(".parquet"):
        folder = url.rstrip("/").rpartition("/")[0]
        raise MissingData(
            f"{url.rstrip('/')}: is a table; the images that it names are outside this URL.",
            hint=f"Give the folder that has both, {folder}/, and name the table's columns if they are not found.",
        )


def _wanted(files: Iterable[StoredFile]) -> Iterator[StoredFile]:
    """Leave out files that operating systems add: hidden files, Thumbs.db."""
    return (file for file in files if not any(map(is_system_file, file.key.split("/"))))


def _counted(files: Iterable[StoredFile], advance: Callable[[int], None]) -> Iterator[StoredFile]:
    for file in files:
        yield file
        advance(1)


def _check_names(url: str, files: Sequence[StoredFile]) -> None:
    """Raise `StoreError` for keys that cannot be file names on every system, and for files without an ETag."""
    vetting = Vetting(url, Limits(1 << 62, 1 << 62, ""))
    problems = []
    for file in files:
        problem = vetting.problem(Member(file.key, "file", file.bytes, file.bytes), parts_of(file.key))
        problems += [f"{plain(file.key)!r} {problem}"] if problem else []
    if problems:
        raise StoreError(
            f"{url}: has keys that cannot be the names of files: {few(problems, 3)}.",
            hint="Rename them, or give a prefix without them. Nothing was downloaded.",
        )
    if not all(file.etag for file in files):
        raise StoreError(
            f"{url}: lists files without an ETag, so changes could not be detected.", hint="Download the data first."
        )


def _object(url: str, file: StoredFile) -> Path:
    name = hash_rows([(url + file.key, file.etag, str(file.bytes))])
    return cache_dir() / "stores" / "objects" / name[:3] / name[3:35]


def _has(path: Path, size: int) -> bool:
    try:
        return os.lstat(path).st_size == size
    except OSError:
        return False


def _say(url: str, files: Sequence[StoredFile], missing: Sequence[StoredFile]) -> None:
    total, needed = (sum(file.bytes for file in each) / 1e6 for each in (files, missing))
    if not missing:
        log.info("%s: %s files, %.1f MB, all in the cache.", url, f"{len(files):,}", total)
        return
    part = f"{len(missing):,} of {len(files):,} files ({needed:,.1f} of {total:,.1f} MB)"
    log.info("%s: downloading %s to %s.", url, part, cache_dir() / "stores")


def _check_space(url: str, needed: int) -> None:
    home = cache_dir() / "stores"
    make_folder(home)
    free = disk_usage(home).free
    if needed + SPARE > free:
        raise WriteError(
            f"{home}: {url} needs {needed / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free.",
            hint="HEADSTART_CACHE=DIR moves the cache to another disk; `predict --shards` reads a store in place.",
        )


def _download(store: Store, missing: Sequence[StoredFile], objects: dict[str, Path]) -> None:
    stopped = threading.Event()
    with bar("Downloading", len(missing)) as advance, ThreadPoolExecutor(THREADS) as pool:

        def fetch(file: StoredFile) -> None:
            _fetch(store, file, objects[file.key], stopped)
            advance(1)

        waiting = [pool.submit(fetch, file) for file in missing]
        try:
            for one in waiting:
                one.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(store: Store, file: StoredFile, place: Path, stopped: threading.Event) -> None:
    """Download a file; give up between two pieces once `stopped` is set, which is when nobody waits for it."""
    with file_aside(place) as aside:
        for start in range(0, file.bytes, PIECE):
            if stopped.is_set():
                raise CancelledError
            length = min(PIECE, file.bytes - start)
            whole = length == file.bytes
            data = store.read(file.key, etag=file.etag, start=start, length=None if whole else length)
            if len(data) != length:
                raise StoreError(
                    f"{store.url}{file.key}: has {len(data):,} bytes where {length:,} were listed.",
                    hint="Run the command again: what was downloaded is kept.",
                )
            aside.write(data)


def _linked(url: str, files: Sequence[StoredFile], objects: dict[str, Path]) -> Path:
    """Return the folder of links to the files of one listing; make it if it is missing or incomplete."""
    listing = hash_rows([(url,), *((file.key, file.etag, str(file.bytes)) for file in files)])
    home = cache_dir() / "stores" / f"listing-{listing[:32]}"
    expected = [len(files), sum(file.bytes for file in files)]
    if _is_whole(home, expected):
        return home / "files"
    try:
        if os.path.lexists(home):
            remove_folder(home)
        with folder_aside(home, fresh=True) as aside:
            for file in files:
                hard_link(objects[file.key], aside / "files" / file.key)
            require_whole(aside / "files", *expected)
            write_json(aside / _RECORD, {"url": url, "files": expected[0], "bytes": expected[1]})
    except WriteError:
        if not _is_whole(home, expected):  # if it is, another process was faster
            raise
    return home / "files"


def _is_whole(home: Path, expected: list[int]) -> bool:
    try:
        recorded = read_json(home / _RECORD)
        found = list(files_and_bytes(home / "files"))
        return found == expected == [recorded["files"], recorded["bytes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:  # missing, damaged, or being removed: not whole
        log.debug("%s: %s", home, error)
        return False
