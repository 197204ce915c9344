"""Write a pack: the images of a dataset in tars, the same number in each, and their index.

    shard-000000.tar    files in the order of their paths, uncompressed; any tar program unpacks them
    index.parquet       see `pack_index`
    manifest.json       the SHA-256 of all these files; written last, and without it the pack is unfinished

The same images give the same bytes, whatever the order on disk, the machine or the time. Images are copied, not decoded: a
damaged one stays damaged, and `check` finds it in the pack. After an interruption, the pack is written again from its first
shard.

Costs one read of every image, and their disk space once more; to a bucket, also the space of one shard in the cache. Images
from a bucket are first downloaded into the cache. Not for data that still changes: a pack cannot be modified.
"""

from __future__ import annotations

import tarfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from headstart.data.dataset import Dataset
from headstart.data.packs.pack_index import INDEX, IS_SHARD, SHARD, PackedRow, check_names, index_bytes
from headstart.errors import DataError, NoImages, UnreadableImage, WriteError
from headstart.images.image_refs import read_bytes
from headstart.io.files import cache_dir, file_aside, json_bytes, remove_files, sha256_bytes, sha256_file
from headstart.io.folders import MANIFEST, is_litter
from headstart.io.progress import bar
from headstart.io.stores.local_store import LocalStore
from headstart.io.stores.store import Store

MOST_BYTES = 1 << 30
"""Largest size of a shard in bytes, unless a single image is larger."""
_BLOCK = 512


@dataclass(frozen=True)
class PackSummary:
    """What was written."""

    images: int
    bytes: int
    shards: int
    manifest: str
    """SHA-256 of the manifest, which covers everything in the pack."""


def check_pack_place(store: Store, data: str) -> None:
    """Raise `WriteError` if the place holds anything but an unfinished pack, or is below the URL `data`."""
    if "://" in data and store.url.startswith(data):
        raise WriteError(
            f"{store.url}: is inside the data ({data}), where it would be read as data the next time.",
            hint="Choose an --out outside of it.",
        )
    keys = [file.key for file in store.list() if not is_litter(file.key.split("/")[0])]
    if MANIFEST in keys:
        raise WriteError(f"{store.url}: has a pack already; it is not replaced.", hint="Choose another --out.")
    begun = INDEX in keys  # the first file of a pack: shards without it are somebody else's
    for key in keys:
        if key != INDEX and not (begun and IS_SHARD.fullmatch(key)):
            raise WriteError(
                f"{store.url}: has other files, such as {key!r}.", hint="Choose another --out, or an empty one."
            )


def write_pack(dataset: Dataset, store: Store, shard_size: int) -> PackSummary:
    """Write a dataset's images into a store: an empty index, the shards, the index, the manifest.

    What is left of a pack that was interrupted is removed first. Raises `DataError`, `StoreError`, `WriteError`.
    """
    if not len(dataset):
        raise NoImages(f"{dataset.root}: has no images to pack.")
    order = sorted(range(len(dataset)), key=dataset.paths.__getitem__)
    check_names(dataset.paths)
    groups = _group_names(dataset)
    rows: list[PackedRow] = []
    hashes: dict[str, str] = {}
    for key in [file.key for file in store.list() if IS_SHARD.fullmatch(file.key)]:
        store.delete(key)  # of a pack that was interrupted
    store.write(INDEX, b"")
    with bar("Packing", len(dataset)) as advance:
        waiting = order
        while waiting:
            name = SHARD.format(len(hashes))
            with _shard_file(store, name, hashes) as file:
                packed = _fill(file, dataset, waiting[:shard_size], groups, name, advance)
            rows += packed
            waiting = waiting[len(packed) :]
    index = index_bytes(rows)
    store.write(INDEX, index)
    manifest = json_bytes({"sha256": dict(sorted({**hashes, INDEX: sha256_bytes(index)}.items()))})
    store.write(MANIFEST, manifest)
    return PackSummary(len(rows), sum(row.bytes for row in rows), len(hashes), sha256_bytes(manifest))


def _fill(
    file: BinaryIO,
    dataset: Dataset,
    chosen: list[int],
    groups: list[str],
    shard: str,
    advance: Callable[[int], None],
) -> list[PackedRow]:
    """Write a tar of these images, or of as many as fit into `MOST_BYTES`; return the rows of those written."""
    rows: list[PackedRow] = []
    at = 0
    for i in chosen:
        data = _bytes_of(dataset, i)
        header = _header(dataset.paths[i], len(data))
        if rows and at + len(header) + len(data) > MOST_BYTES:
            break
        file.write(header + data + bytes(-len(data) % _BLOCK))
        rows.append(
            PackedRow(
                path=dataset.paths[i],
                label=dataset.label_name(i),
                group=groups[i],
                split=str(dataset.split[i]),
                sha256=sha256_bytes(data),
                shard=shard,
                offset=at + len(header),
                bytes=len(data),
            )
        )
        at += len(header) + len(data) + -len(data) % _BLOCK
        advance(1)
    file.write(bytes(2 * _BLOCK))
    return rows


def _bytes_of(dataset: Dataset, i: int) -> bytes:
    try:
        return read_bytes(dataset.file(i))
    except UnreadableImage as error:
        raise DataError(error.message, hint="Remove it from the data, or make it readable, then pack again.") from None


def _header(path: str, size: int) -> bytes:
    """Return a tar header without anything specific to this machine: no time, no owner."""
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _group_names(dataset: Dataset) -> list[str]:
    """Return the name of each image's group: the path of the group's first image, or '' for a group of one."""
    numbers, first, counts = np.unique(dataset.groups, return_index=True, return_counts=True)
    names = {int(g): dataset.paths[i] if n > 1 else "" for g, i, n in zip(numbers, first, counts, strict=True)}
    return [names[int(group)] for group in dataset.groups]


@contextmanager
def _shard_file(store: Store, name: str, hashes: dict[str, str]) -> Iterator[BinaryIO]:
    """Yield a file to write a shard to; then put it into the store and record its hash. A bucket only ever has it whole."""
    local = isinstance(store, LocalStore)
    place = Path(store.url) / name if local else cache_dir() / "packs" / f"{uuid.uuid4().hex}-{name}"
    try:
        with file_aside(place) as file:
            yield file
        hashes[name] = sha256_file(place)
        if not local:
            store.write(name, place)
    finally:
        if not local:
            remove_files(place)
