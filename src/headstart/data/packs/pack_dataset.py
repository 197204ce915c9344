"""A pack as a dataset: its images stay where they are, in the shards.

    open_pack(Path("packed"))      every image is a range of bytes in a shard

Opening reads the index and checks the sizes of the shards: some ten seconds for a million images. Each image is checked by its
hash when it is read, so shards need not be hashed as a whole. All rows are in memory, as for every dataset; training reads
the images in its own order, as from a folder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headstart.data.dataset import Dataset, FoundImages, dataset_of
from headstart.data.match_files import labels_from_names
from headstart.data.packs.pack_index import INDEX, PackedRow, read_index
from headstart.data.packs.pack_store import holds_pack
from headstart.errors import BadArchive
from headstart.images.file_part import FilePart
from headstart.io.stores.store import open_store


def is_pack(place: Path) -> bool:
    """Return whether a folder holds a finished pack. Raises `StoreError`."""
    return place.is_dir() and holds_pack(open_store(place))


def open_pack(folder: Path, label_from: str = "") -> Dataset:
    """Return the images of a pack with their labels (or those in their paths), groups and split.

    Raises `BadArchive`, `BadLabels`, `MissingExtra`.
    """
    rows = read_index(str(folder / INDEX), (folder / INDEX).read_bytes())
    if label_from:
        labels = labels_from_names(folder, [row.path for row in rows], label_from)
        rows = [replace(row, label=label) for row, label in zip(rows, labels, strict=True)]
    _check_shards(folder, rows)
    found = FoundImages([(row.path, row.label, row.split) for row in rows], {row.label for row in rows} - {""})
    dataset = dataset_of(folder, found, [row.group for row in rows])
    parts = {row.path: FilePart(folder / row.shard, row.offset, row.bytes, row.sha256, row.path) for row in rows}
    return dataset.packed_in(parts)


def _check_shards(folder: Path, rows: list[PackedRow]) -> None:
    """Raise `BadArchive` for a shard that is missing or too short."""
    ends: dict[str, int] = {}
    for row in rows:
        ends[row.shard] = max(ends.get(row.shard, 0), row.offset + row.bytes)
    for name, end in sorted(ends.items()):
        place = folder / name
        if not place.is_file() or place.stat().st_size < end:
            what = "is too short" if place.is_file() else "is missing"
            raise BadArchive(
                f"{place}: {what}, although the pack's index lists images in it.", hint="Copy the pack again."
            )
