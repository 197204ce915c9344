"""A folder as a store. Symbolic links are followed; unfinished files of `io.files` are not listed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from headstart.errors import ChangedInStore, MissingInStore, StoreError
from headstart.io.files import copy_file, create_file, is_unfinished, remove_files, write_bytes
from headstart.io.stores.stored_file import StoredFile


class LocalStore:
    """The files in a folder and its subfolders. The folder need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)

    def __repr__(self) -> str:
        return f"<LocalStore: {self.url}>"

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """See `Store.list`: only one folder at a time is held in memory."""
        if os.path.lexists(self.folder):
            yield from self._below("", os.fsencode(after), frozenset())

    def read(self, key: str, *, etag: str = "", start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                if etag and etag != _etag(os.fstat(file.fileno())):
                    raise ChangedInStore(f"{path}: has changed since it was listed.", hint="Run the command again.")
                file.seek(start)
                return file.read(-1 if length is None else length)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingInStore(f"{path}: is missing.", hint="It may have been removed since it was listed.") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read: {error.strerror}.", hint="Check its permissions.") from error

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`: written to a temporary file, synced, and given its name only if that is free."""
        return create_file(self._path(key), data)

    def write(self, key: str, data: bytes | Path) -> None:
        """See `Store.write`."""
        if isinstance(data, Path):
            copy_file(data, self._path(key))
        else:
            write_bytes(self._path(key), data)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        remove_files(self._path(key))

    def keeps_conditions(self) -> bool:
        """Return True: two files cannot have one name."""
        return True

    def _path(self, key: str) -> Path:
        parts = PurePosixPath(key).parts
        if not parts or key.startswith("/") or ".." in parts:
            raise StoreError(f"{key!r}: is not a key of {self.url}; expected names with '/' between them.")
        return self.folder.joinpath(*parts)

    def _below(self, prefix: str, after: bytes, above: frozenset[tuple[int, int]]) -> Iterator[StoredFile]:
        folder = self.folder / prefix
        try:
            status = os.stat(folder)
            entries = sorted((_order(entry), entry) for entry in os.scandir(folder))
        except NotADirectoryError:
            raise StoreError(f"{folder}: is a file; expected a folder.") from None
        except OSError as error:
            raise StoreError(f"{folder}: cannot be read: {error.strerror}.", hint="Check its permissions.") from error
        here = (status.st_dev, status.st_ino)
        if here in above:
            return  # a link to a folder that contains it
        for order, entry in entries:
            key = prefix + entry.name
            if order.endswith(b"/"):
                if os.fsencode(prefix) + order > after or after.startswith(os.fsencode(prefix) + order):
                    yield from self._below(key + "/", after, above | {here})
            elif os.fsencode(key) > after and entry.is_file() and not is_unfinished(entry.name):
                found = entry.stat()
                yield StoredFile(key, found.st_size, _etag(found))


def _order(entry: os.DirEntry[str]) -> bytes:
    return os.fsencode(entry.name) + (b"/" if entry.is_dir() else b"")


def _etag(status: os.stat_result) -> str:
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"
