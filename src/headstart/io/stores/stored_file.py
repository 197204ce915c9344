"""A file as a store lists it; nothing is opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a store: `etag` changes when its bytes do."""

    key: str
    bytes: int
    etag: str
