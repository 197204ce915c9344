"""The names of a plan's images, written to disk in pieces while the first shards are already worked on.

    names = ShardNames(plan, out)
    for shard in names.shards(source):     continues the listing, and writes `_names/names-000012.json.gz` before it yields 12
        names.files(shard)                 key, size and ETag of each image

A piece is written only once: two processes that list at the same time agree, since the slower one reads the piece that is
there and continues after its last name. After an interruption, existing pieces are kept and only the rest is listed. So the
images of a shard never change, however late it is worked on, and images added later are not among them.

One piece at a time is in memory. But some stores list in an order of their own, where what is left is not what comes after
a name: then all names are read and listed again, 0.1 GB per million. Costs about 4 s and 15 MB of files per million names in
a folder; a bucket is listed 1,000 names at a time, some 10,000 names/s.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import islice, pairwise

from headstart.errors import MissingInStore, ShardError, StoreUnreachable
from headstart.io.stores.store import Store, StoredFile
from headstart.scale.shard_plan import RESTORE, ShardPlan
from headstart.scale.shard_source import ShardSource

Piece = tuple[list[StoredFile], bool]
"""The images of a shard, and whether there are more after them."""


class ShardNames:
    """The list of a plan's images, kept in `out`; `images` counts those in the shards yielded so far."""

    def __init__(self, plan: ShardPlan, out: Store) -> None:
        self._size, self._out = plan.shard_size, out
        self.images = 0
        self._in_order = True

    def shards(self, source: ShardSource) -> Iterator[int]:
        """Yield the numbers of all shards, each once its names are in `out`. Raises `StoreError`, `ShardError`."""
        shard, more, last = 0, True, ""
        listing: Iterator[StoredFile] | None = None
        ahead: list[StoredFile] = []
        while more:
            piece = self._read(shard) if listing is None else None
            if piece is None:
                if listing is None:
                    listing, ahead = self._rest(source, shard, last), []
                listed = [*ahead, *islice(listing, self._size - len(ahead))]
                if not listed and next(source.list(), None) is None:
                    raise StoreUnreachable(
                        f"{source.identity}: no longer contains any image; is it still there?",
                        hint="Parts made so far are kept: run the command again when the images are back.",
                    )
                ahead = list(islice(listing, 1))
                piece = listed, bool(ahead)
                if not self._out.create(_name(shard), _packed(piece)):
                    piece, listing = self._piece(shard), None
            files, more = piece
            if not files:
                return
            self.images += len(files)
            self._in_order &= all(one < other for one, other in pairwise([last, *(file.key for file in files)]))
            yield shard
            shard, last = shard + 1, files[-1].key

    def _rest(self, source: ShardSource, shard: int, last: str) -> Iterator[StoredFile]:
        """Yield the images that are not in the first pieces, of which there are `shard`; `last` is their last name."""
        if self._in_order:
            return source.list(last)
        known = {file.key for before in range(shard) for file in self.files(before)}
        return (file for file in source.list() if file.key not in known)

    def files(self, shard: int) -> list[StoredFile]:
        """Return the images of a shard. Raises `ShardError` if its names are missing or damaged."""
        return self._piece(shard)[0]

    def is_only(self, shard: int) -> bool:
        """Return whether all images of the plan are in this shard. Raises `ShardError`."""
        return shard == 0 and not self._piece(shard)[1]

    def _piece(self, shard: int) -> Piece:
        piece = self._read(shard)
        if piece is None:
            raise ShardError(f"{self._out.url}: {_name(shard)} is missing.", hint=RESTORE)
        return piece

    def _read(self, shard: int) -> Piece | None:
        try:
            document = json.loads(gzip.decompress(self._out.read(_name(shard))))
            return [StoredFile(*file) for file in document["files"]], document["more"]
        except MissingInStore:
            return None
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError):
            raise ShardError(f"{self._out.url}: its {_name(shard)} is damaged.", hint=RESTORE) from None


def _name(shard: int) -> str:
    return f"_names/names-{shard:06d}.json.gz"


def _packed(piece: Piece) -> bytes:
    files, more = piece
    document = {"files": [[file.key, file.bytes, file.etag] for file in files], "more": more}
    return gzip.compress(json.dumps(document).encode("ascii"), 6, mtime=0)
