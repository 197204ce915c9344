"""Turns one shard into one part: the bytes of a parquet file, which depend on nothing but the plan and the images.

    maker = PartMaker(job)
    receipt = maker.make(12)             reads, computes, and creates the part unless it exists

A `Receipt` is what a driver needs to know about a part: less than a kilobyte, however many images it has. It is written
beside the part, into `_receipts`, so that a resumed command need not read parts (`read_receipt`). The numbers of one shard
are in memory. Not for untrusted images in a process that must not die: `shard_worker` starts another process for them.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from headstart.data.packs.pack_store import opened_images
from headstart.errors import MissingInStore, ShardError, StoreUnreachable, UnreadableImage
from headstart.io.files import json_bytes, parquet_bytes, sha256_bytes
from headstart.io.stores.local_store import CLOSED
from headstart.io.stores.store import Store, StoredFile, open_store
from headstart.scale.shard_columns import open_columns, table_of
from headstart.scale.shard_names import ShardNames
from headstart.scale.shard_pass import READERS, ShardPass, ShardRows, Watches
from headstart.scale.shard_plan import ANOTHER, ShardJob
from headstart.scale.shard_source import MISSING, read_stored

NOT_READ = frozenset({"not_a_file", "unreadable"})
"""Reasons that every image has when the place that it is in has gone."""
RETURN = (
    "Parts made so far are kept: run the command again when the images are back. If they were removed on purpose, choose "
    "another --shards."
)


@dataclass(frozen=True)
class Receipt:
    """A part: its shard, name, SHA-256, size, number of rows, and {reason: number} of those without a result."""

    shard: int
    name: str
    sha256: str
    bytes: int
    rows: int
    errors: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


class PartMaker:
    """Makes the parts of a job; its classifier or backbone is opened now. Raises `RunError`, `ShardError`, `StoreError`."""

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._out = open_store(job.out, offline=job.offline)
        self._names = ShardNames(job.plan, self._out)
        self._files = opened_images(open_store(job.files, offline=job.offline))
        self._columns = open_columns(job)
        remote = "://" in self._files.url
        self._not_read = NOT_READ | {"no_permission"} if remote else NOT_READ
        self._pass = ShardPass(self._columns, self._read, ahead=READERS if remote else 0)
        self._pass.open()

    def files(self, shard: int) -> list[StoredFile]:
        """Return the images of a shard. Raises `ShardError`."""
        return self._names.files(shard)

    def read(self, file: StoredFile) -> bytes:
        """Return the bytes of one image. Raises `UnreadableImage`, `StoreError`."""
        return self._pass.read(file)

    def decode(self, data: bytes) -> None:
        """Decode one image, and discard it. Raises `UnreadableImage`."""
        self._pass.decode(data)

    def make(self, shard: int, lost: Mapping[int, str], watch: Watches | None = None) -> Receipt:
        """Make a part unless it exists; images in `lost` ({number: reason}) are not decoded.

        Raises `StoreError`, also if the images are gone all at once, and `WriteError`.
        """
        name = self._job.plan.part_name(shard)
        with suppress(MissingInStore):
            return receipt_of(shard, name, self._out.read(name))
        data = self._bytes(shard, lost, watch)
        if not self._out.create(name, data):
            data = self._out.read(name)  # another driver was faster: its part counts
        receipt = receipt_of(shard, name, data)
        self._out.write(_receipt_key(name), json_bytes(receipt.to_json()))
        return receipt

    def _bytes(self, shard: int, lost: Mapping[int, str], watch: Watches | None) -> bytes:
        files = self.files(shard)
        rows = self._pass.run(files, lost, watch)
        self._check_source(shard, files, rows)
        note = {
            "plan": self._job.plan.id,
            "shard": shard,
            "errors": dict(sorted(Counter(rows.errors.values()).items())),
        }
        table = table_of(self._columns, [file.key for file in files], rows, {"headstart": json.dumps(note)})
        return parquet_bytes(table, repeated=("predicted", "error"))

    def _check_source(self, shard: int, files: list[StoredFile], rows: ShardRows) -> None:
        """Raise `StoreUnreachable` if the source has gone, such as an unmounted disk: its images are not to blame.

        That is so if none of several images could be read, or if those that could be read no longer can. Images that were
        missing when their table was opened prove nothing, nor do folders that could not be listed.
        """
        known = {i for i, file in enumerate(files) if file.etag in (MISSING, CLOSED)}
        unread = {i for i, reason in rows.errors.items() if reason in self._not_read and not rows.sha256s[i]}
        gone = unread - known
        seen = {"changed", "no_permission"} - self._not_read
        there = [i for i in range(len(files)) if rows.sha256s[i] or rows.errors.get(i) in seen]
        if not gone or (not there and len(files) == 1 and not self._names.is_only(shard)):
            return
        asked = there or sorted(gone)
        refusals = [self._refusal(files[asked[at]]) for at in sorted({0, len(asked) // 2, len(asked) - 1})]
        if there and "" in refusals:
            return
        said = f"none of the images of shard {shard} ({len(files):,}) can be read"
        if there:
            said = f"images of shard {shard} that could be read at first no longer can"
        raise StoreUnreachable(
            f"{self._job.plan.source}: {said}; is it still there?", hint=" ".join(filter(None, [*refusals[:1], RETURN]))
        )

    def _refusal(self, file: StoredFile) -> str:
        """Return the message if an image cannot be read, as when its place has gone; otherwise ''."""
        try:
            self._read(file)
        except UnreadableImage as error:
            return error.message if error.reason in self._not_read else ""
        return ""

    def _read(self, file: StoredFile) -> bytes:
        return read_stored(self._files, file, outside=self._job.table)


def receipt_of(shard: int, name: str, data: bytes) -> Receipt:
    """Return the receipt of a part from its bytes. Raises `ShardError` if they are not those of a part."""
    import pyarrow
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_metadata(io.BytesIO(data))
        note = json.loads(found.metadata[b"headstart"])
        return Receipt(shard, name, sha256_bytes(data), len(data), found.num_rows, note["errors"])
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError):
        raise ShardError(f"{name}: is not a part that headstart wrote.", hint=f"Remove it, or: {ANOTHER}") from None


def read_receipt(out: Store, shard: int, name: str, size: int) -> Receipt:
    """Return the receipt of a part in `out` that has `size` bytes: the written one, otherwise made from the part.

    Raises `ShardError` for a damaged part, `MissingInStore`.
    """
    with suppress(MissingInStore, ValueError, TypeError):  # the part was written by an earlier version, or is damaged
        written = Receipt(**json.loads(out.read(_receipt_key(name))))
        if (written.shard, written.name, written.bytes) == (shard, name, size):
            return written
    return receipt_of(shard, name, out.read(name))


def _receipt_key(name: str) -> str:
    return f"_receipts/{name}.json"
