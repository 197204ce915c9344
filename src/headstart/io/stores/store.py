"""A store: files by key, in a folder or in a bucket, listed lazily, read by range and created at most once.

    store = open_store("s3://photos/2026/")     a bucket: S3, Google Cloud Storage, Azure (extra `cloud`)
    store = open_store("photos")                a folder
    for file in store.list():                   in the order of their keys, page by page
        data = store.read(file.key, etag=file.etag)

Keys are relative to the place that was opened, with `/` between their parts. `create` writes a file only if there is none:
of any number of processes that try, exactly one gets True. Folders and all large providers keep that promise; a few servers
silently ignore it (see `keeps_conditions`).

Costs: a folder costs no more than its files. A bucket costs a request, some 50 ms, for each file that is read, so read
several at a time, from threads. A process that has used a bucket must not fork: start others with `spawn`. When not to use
it: for the files of a run or the cache, which are always local (`io.files`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from headstart.errors import StoreUnreachable
from headstart.io.addresses import store_url
from headstart.io.stores.store_urls import checked_url
from headstart.io.stores.stored_file import StoredFile

OFFLINE = "HEADSTART_OFFLINE"
"""The environment variable that forbids URLs."""


class Store(Protocol):
    """Files at a path or a URL. All methods raise `StoreError`; those that write also raise `WriteError`."""

    url: str
    """Where it is, for messages and plans: without credentials, and with a `/` at the end of a URL."""

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """Yield all files in the order of their keys' UTF-8 bytes, from the first key greater than `after`."""

    def read(self, key: str, *, etag: str = "", start: int = 0, length: int | None = None) -> bytes:
        """Return a file's bytes, or `length` of them from `start`: fewer only at the end of the file.

        Raises `MissingInStore`, and `ChangedInStore` if it no longer has this `etag`.
        """

    def create(self, key: str, data: bytes) -> bool:
        """Write a file unless there is one; return whether this call wrote it.

        After a broken connection, it may find the file that it wrote itself and return False: compare the bytes.
        """

    def write(self, key: str, data: bytes | Path) -> None:
        """Write a whole file, from bytes or from a local file; an existing one is replaced."""

    def delete(self, key: str) -> None:
        """Remove a file; a missing one is ignored."""

    def keeps_conditions(self) -> bool:
        """Return whether `create` never replaces a file here: this is tried out, and logged if not."""


def open_store(place: Path | str, *, offline: bool = False) -> Store:
    """Return the store at a path or a URL. No request is sent yet.

    Raises `StoreUnreachable` for a URL if `offline`, or with ``HEADSTART_OFFLINE`` in the environment (which
    `--offline` sets, for the processes that a command starts too); `StoreError` for a URL that cannot be one; and
    `MissingExtra`.
    """
    url = store_url(place)
    if url is None:
        from headstart.io.stores.local_store import LocalStore

        return LocalStore(Path(place))
    check_online(place, offline=offline)
    from headstart.io.stores.cloud_store import CloudStore

    return CloudStore(url)


def check_online(place: Path | str, *, offline: bool) -> None:
    """Raise `StoreUnreachable` for a URL if `offline`, or with ``HEADSTART_OFFLINE`` in the environment.

    Raises `StoreError` for a URL with credentials in it, which no message repeats.
    """
    url = store_url(place)
    if url is not None and (offline or os.environ.get(OFFLINE)):
        raise StoreUnreachable(
            f"{checked_url(url)}: is a URL, and --offline forbids network access.", hint="Give a local path."
        )
