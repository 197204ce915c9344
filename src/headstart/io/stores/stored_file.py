"""`StoredFile`: an entry in the listing of a store. Nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store: its key, its size in bytes, and an `etag` that changes when its bytes do."""

    key: str
    bytes: int
    etag: str
