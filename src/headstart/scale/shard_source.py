"""Where the images of a plan come from: a folder, a bucket, a pack, a table of their paths, or an archive.

    source = open_shard_source("photos")
    for file in source.list():           in a fixed order; lazily for a folder or a bucket
        data = source.read(file)

In a folder or a bucket, a file counts as an image if its name has the suffix of an image, or no known suffix. (`predict`
without shards looks further: it leaves out masks, and files beside the folder that holds all images.) A subfolder that may
not be read counts as one image that cannot be read, so that the result says that something is missing. A table is read as a
whole, 0.5 GB per million rows; an archive is first unpacked into the cache. For more images than that, use a folder or a
bucket.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath

from headstart.data.archives.unpacking import is_archive, unpacked
from headstart.data.dataset import ARCHIVES
from headstart.data.folder_walk import named_like_image, named_like_other
from headstart.data.foreign_formats import refuse_foreign
from headstart.data.match_files import open_unlabelled
from headstart.data.packs.pack_store import opened_images
from headstart.data.shards.writing import shards_at
from headstart.data.table_files import LISTS, READABLE, is_list
from headstart.errors import (
    DeniedInStore,
    MissingData,
    NoImages,
    StoreError,
    StoreRefused,
    StoreUnreachable,
    UnreadableImage,
)
from headstart.images.limits import reason_of
from headstart.io.addresses import store_url
from headstart.io.files import sha256_file
from headstart.io.folders import SYSTEM_FOLDERS, is_system_file
from headstart.io.missing_paths import hint_for_missing
from headstart.io.stores.local_store import CLOSED, LocalStore, etag_of, file_status
from headstart.io.stores.store import Store, StoredFile, open_store

MISSING = "missing"
"""The ETag of an image that was missing when the table that names it was opened."""


@dataclass(frozen=True, eq=False)
class ShardSource:
    """Images by name. `identity` is `ShardPlan.source`, `contents` is as there; `names` are those of a table, in order,
    and `missing` those of them that are no files."""

    identity: str
    place: str
    store: Store
    contents: str = ""
    names: tuple[str, ...] | None = None
    missing: frozenset[str] = frozenset()
    table: bool = False
    left_out: dict[str, int] = field(default_factory=dict)
    """{suffix: number} of files skipped so far because of their names."""
    _begun: builtins.list[Iterator[StoredFile]] = field(default_factory=list)

    def is_empty(self) -> bool:
        """Return whether there are no images; the next `list` continues this listing. Raises `StoreError`."""
        listing = self.list()
        first = next(listing, None)
        if first is not None:
            self._begun.append(chain([first], listing))
        return first is None

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """Yield the images after a name, in a fixed order. Raises `StoreError`."""
        if not after and self._begun:
            yield from self._begun.pop()
            return
        if self.names is not None:
            yield from (self._named(name) for name in self.names if name > after)
            return
        for file in self.store.list(after):
            if _is_hidden(file.key):
                continue
            if not named_like_other(file.key):
                yield file
            else:
                suffix = PurePosixPath(file.key).suffix.lower()
                self.left_out[suffix] = self.left_out.get(suffix, 0) + 1

    def _named(self, name: str) -> StoredFile:
        if name in self.missing:
            return StoredFile(name, 0, MISSING)
        found = file_status(_outside(self.store, name))
        return StoredFile(name, found.st_size, etag_of(found)) if found else StoredFile(name, 0, "")

    def read(self, file: StoredFile) -> bytes:
        """Return the bytes of an image.

        Raises `UnreadableImage` if only this image cannot be read, `StoreError` if no image can be read.
        """
        return read_stored(self.store, file, outside=self.table)


def read_stored(store: Store, file: StoredFile, *, outside: bool = False) -> bytes:
    """Return the bytes of an image in a store; with `outside`, its key is a path that may lead out of it. See `read`."""
    if file.etag == CLOSED:
        raise UnreadableImage(f"{file.key}: is a folder that may not be read.", reason="no_permission")
    try:
        if outside:
            path = _outside(store, file.key)
            return open_store(path.parent).read(path.name, etag=file.etag)
        return store.read(file.key, etag=file.etag)
    except DeniedInStore as error:
        raise UnreadableImage(error.message, reason="no_permission") from error
    except (StoreRefused, StoreUnreachable):
        raise
    except StoreError as error:
        raise UnreadableImage(error.message, reason=_reason(error)) from error


def _outside(store: Store, key: str) -> Path:
    """Return the path that a table names, which may lead out of its folder."""
    return Path(os.path.abspath(os.path.join(store.url, key)))


def _reason(error: StoreError) -> str:
    known = {"MissingInStore": "not_a_file", "ChangedInStore": "changed"}.get(type(error).__name__)
    return known or (reason_of(error.__cause__) if isinstance(error.__cause__, OSError) else "unreadable")


def open_shard_source(place: Path | str, *, offline: bool = False) -> ShardSource:
    """Open the images at a path or a URL; all names in a table are read.

    Raises `MissingData`, `DataError`, `StoreError`.
    """
    if store_url(place) is not None:
        store = opened_images(open_store(place, offline=offline))
        return ShardSource(store.url, store.url, store)
    path = Path(os.path.abspath(place))
    if not path.exists():
        raise MissingData(f"{place}: there is no such folder or table.", hint=hint_for_missing(Path(place)))
    if path.is_dir():
        return ShardSource(str(path), str(path), opened_images(LocalStore(path, names_closed=True)))
    refuse_foreign(path)
    if is_archive(path):
        folder = unpacked(path)
        return ShardSource(str(path), str(folder), open_store(folder), folder.parent.name)
    if path.suffix.lower() == ".parquet" and shards_at(path):
        raise MissingData(
            f"{place}: holds the images themselves, not their paths; --shards does not read such files.",
            hint="Save the images as files, or pack them: `headstart pack DATA --out DIR`.",
        )
    if path.suffix.lower() in READABLE and (path.suffix.lower() not in LISTS or is_list(path)):
        return _table(path)
    raise MissingData(
        f"{place}: is a single file; expected a folder, a table of paths, an archive or a URL such as s3://bucket/.",
        hint=f"Give the folder that it is in: {path.parent}",
    )


def _table(table: Path) -> ShardSource:
    dataset = open_unlabelled(table)
    return ShardSource(
        str(table),
        str(dataset.root),
        open_store(dataset.root),
        sha256_file(table),
        names=tuple(sorted({*dataset.paths, *dataset.lost})),
        missing=frozenset(dataset.lost),
        table=True,
    )


def no_images(source: ShardSource) -> NoImages:
    """Return the error for a source that `is_empty`; its hint says how to give what has been found instead."""
    found = left_out_words(source)
    hint = "Check the path or URL."
    if {*ARCHIVES, ".parquet"} & set(source.left_out):
        hint = "Images inside such files are not looked for: give one archive, or unpack them."
    elif "://" in source.place and (named_like_image(source.place[:-1]) or named_like_other(source.place[:-1])):
        hint = "With --shards, a URL names a folder of images: give the one that this file is in, or a local copy of the file."
    return NoImages(f"{source.identity}: contains no images{f', only {found}' * bool(found)}.", hint=hint)


def left_out_words(source: ShardSource) -> str:
    """Return how many files were skipped so far because of their names."""
    counted = sorted(source.left_out.items())
    return ", ".join(f"{n:,} file{'s' * (n != 1)} named *{suffix}" for suffix, n in counted)


def _is_hidden(key: str) -> bool:
    """Whether a file is one that systems and programs leave behind, or is in such a folder.

    >>> _is_hidden("a/1.jpg"), _is_hidden("a/.cache/1.jpg"), _is_hidden("a/Thumbs.db")
    (False, True, True)
    """
    *folders, name = key.split("/")
    return is_system_file(name) or any(is_system_file(part) or part.casefold() in SYSTEM_FOLDERS for part in folders)
