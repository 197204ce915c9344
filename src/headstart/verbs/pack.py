"""`headstart pack DATA --out DIR`: many images in a few large files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.data.data_source import DataSource, as_source
from headstart.data.open_dataset import open_dataset
from headstart.data.packs.pack_writing import PackSummary, check_pack_place, write_pack
from headstart.errors import RecipeError
from headstart.io.addresses import named_place
from headstart.io.extras import require
from headstart.io.folders import check_outside_data
from headstart.io.given_options import as_path
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.stores.store import open_store
from headstart.io.text_table import plain


@dataclass(frozen=True, repr=False)
class PackResult(Result):
    """Result of `pack`: where the pack is, what is in it, and what was left out."""

    out: str
    packed: PackSummary
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """Return the document of `pack --json`."""
        return {"out": self.out, **asdict(self.packed), "left_out": self.left_out}

    def table(self) -> str:
        """Format as plain text for a terminal."""
        p = self.packed
        shards = f"{p.shards:,} shard{'s' * (p.shards != 1)}"
        lost = f"; {self.left_out:,} left out" if self.left_out else ""
        return f"{plain(self.out)}: {p.images:,} images, {p.bytes / 1e6:,.1f} MB, in {shards}{lost}"


def pack(data: Path | DataSource, *, out: Path, shard_size: int = 10_000) -> PackResult:
    """Pack images into tars of ten thousand, with an index: for buckets, and for folders with too many files.

    The same images give the same bytes. All commands read a pack as they read a folder. Example:

        headstart pack photos --out packed

    Args:
        data: Images with or without labels: a folder, a table, an archive of these, shards, or the URL of a bucket.
        out: Folder to write, or the URL of a bucket (s3://, gs://, az://): index.parquet, shard-000000.tar,
            manifest.json.
        shard_size: Images per tar; a tar is closed earlier if it would exceed 1 GB.

    Raises:
        DataError: `data` has no images, or one that cannot be read as a file.
        StoreError: a bucket is missing or refuses.
        WriteError: `out` has a pack or other files, is inside the data, or cannot be written.
    """
    require("A pack", "pyarrow")
    if shard_size < 1:
        raise RecipeError(f"shard_size is {shard_size}, expected 1 or more.")
    given, place = as_source(data), as_path(out, "out")
    check_outside_data(place, given.place, name="packed")
    store = open_store(place)
    check_pack_place(store, given.where)
    dataset = open_dataset(given)
    for name, reason in list(dataset.lost.items())[:3]:
        log.warning("%s: left out: %s.", plain(name), reason)
    return PackResult(named_place(place), write_pack(dataset, store, shard_size), len(dataset.lost))
