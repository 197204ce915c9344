"""A pack as a store of its images: listed by the index, read from the shards in pieces of 8 MB.

    images = opened_images(open_store("s3://photos/packed"))      the pack, or the store itself if there is none
    for file in images.list():
        data = images.read(file.key)

So any code that reads images from a store can also read a pack, with one request for some eighty images instead of one for
each. That removes the price of requests, most of the cost of small images. Costs memory for the index (500 bytes per image)
and 128 MB for pieces. Not for random reads from a bucket, each of which would fetch 8 MB: read in the order of the listing.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from headstart.data.packs.pack_index import INDEX, PackedRow, is_pack_manifest, read_index
from headstart.errors import ChangedInStore, MissingInStore, StoreError
from headstart.io.files import sha256_bytes
from headstart.io.folders import MANIFEST
from headstart.io.stores.local_store import LocalStore
from headstart.io.stores.store import Store
from headstart.io.stores.stored_file import StoredFile

PIECE = 8 << 20
MOST_PIECES = 16


def opened_images(store: Store) -> Store:
    """Return the pack in a store, or the store unchanged if there is no finished one. Raises `StoreError`, `BadArchive`."""
    if not holds_pack(store):
        return store
    return PackStore(store, read_index(f"{store.url.rstrip('/')}/{INDEX}", store.read(INDEX)))


def holds_pack(store: Store) -> bool:
    """Return whether there is a finished pack in a store, whatever else is there. Raises `StoreError`."""
    try:
        store.read(INDEX, length=1)
        return is_pack_manifest(store.read(MANIFEST))
    except MissingInStore:
        return False


class PackStore:
    """The images of a pack. Nothing can be written."""

    def __init__(self, store: Store, rows: list[PackedRow]) -> None:
        self.url = store.url
        self._store = store
        self._rows = rows
        self._paths = [row.path for row in rows]
        self._pieces = _Pieces(store)

    def __repr__(self) -> str:
        return f"<PackStore: {self.url}, {len(self._rows):,} images>"

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """See `Store.list`: an image's `etag` is its SHA-256."""
        for row in self._rows[bisect_right(self._paths, after) if after else 0 :]:
            yield StoredFile(row.path, row.bytes, row.sha256)

    def read(self, key: str, *, etag: str = "", start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`: the whole image is read, and checked by its hash."""
        at = bisect_left(self._paths, key)
        if at == len(self._paths) or self._paths[at] != key:
            raise MissingInStore(f"{self.url}: the pack has no {key!r}.")
        row = self._rows[at]
        data = self._pieces.read(row.shard, row.offset, row.bytes)
        if (etag and etag != row.sha256) or sha256_bytes(data) != row.sha256:
            raise ChangedInStore(f"{self.url}: {key!r} has changed since it was packed.", hint="Copy the pack again.")
        return data[start : None if length is None else start + length]

    def create(self, key: str, data: bytes) -> bool:
        """Raise `StoreError`."""
        raise self._fixed()

    def write(self, key: str, data: bytes | Path) -> None:
        """Raise `StoreError`."""
        raise self._fixed()

    def delete(self, key: str) -> None:
        """Raise `StoreError`."""
        raise self._fixed()

    def keeps_conditions(self) -> bool:
        """Return True: nothing is written."""
        return True

    def _fixed(self) -> StoreError:
        return StoreError(f"{self.url}: is a pack, which cannot be changed.", hint="Choose another place to write to.")


class _Pieces:
    """Cache of the pieces of shards read last, shared by threads; reads from a folder bypass it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._busy: dict[tuple[str, int], threading.Lock] = {}
        self._lock = threading.Lock()

    def read(self, shard: str, start: int, length: int) -> bytes:
        if isinstance(self._store, LocalStore) or length > PIECE:
            return self._store.read(shard, start=start, length=length)
        end = start + length
        return b"".join(
            self._piece(shard, n)[max(start - n * PIECE, 0) : end - n * PIECE]
            for n in range(start // PIECE, -(-end // PIECE))
        )

    def _piece(self, shard: str, number: int) -> bytes:
        key = (shard, number)
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:  # one thread reads it, the others wait for it
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
                    return self._kept[key]
            data = self._store.read(shard, start=number * PIECE, length=PIECE)
            with self._lock:
                self._kept[key] = data
                while len(self._kept) > MOST_PIECES:
                    self._busy.pop(self._kept.popitem(last=False)[0], None)
        return data
