"""A folder as a store. Symbolic links are followed; unfinished files of `io.files` are not listed.

A folder below it that this user may not read is left out with a warning; with `names_closed`, it is listed by its name too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from headstart.errors import ChangedInStore, MissingInStore, StoreError, StoreUnreachable
from headstart.io.files import copy_file, create_file, is_unfinished, remove_files, write_bytes
from headstart.io.folders import SYSTEM_FOLDERS, is_system_file
from headstart.io.progress import log
from headstart.io.stores.stored_file import StoredFile

_OF_THE_FILE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP, errno.EIO, errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO}
)
"""Errors that concern one file; others (a stale mount, too many open files) concern all of them."""


CLOSED = "closed"
"""The ETag of a folder that may not be read; its key ends with a slash."""


class LocalStore:
    """The files in a folder and its subfolders. The folder need not exist yet.

    With `names_closed`, folders that may not be read are listed among the files, with the ETag `CLOSED`.
    """

    def __init__(self, folder: Path, *, names_closed: bool = False) -> None:
        self.folder, self.names_closed = folder, names_closed
        self.url = str(folder)

    def __repr__(self) -> str:
        return f"<LocalStore: {self.url}>"

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """See `Store.list`: the names in one folder at a time are held in memory, some 100 bytes each."""
        if os.path.lexists(self.folder):
            yield from self._below("", os.fsencode(after), frozenset())

    def read(self, key: str, *, etag: str = "", start: int = 0, length: int | None = None) -> bytes:
        """See `Store.read`."""
        path = self._path(key)
        try:
            with open(path, "rb") as file:
                if etag and etag != etag_of(os.fstat(file.fileno())):
                    raise ChangedInStore(f"{path}: has changed since it was listed.", hint="Run the command again.")
                file.seek(start)
                return file.read(-1 if length is None else length)
        except (FileNotFoundError, NotADirectoryError):
            raise MissingInStore(f"{path}: is missing.", hint="It may have been removed since it was listed.") from None
        except OSError as error:
            if error.errno not in _OF_THE_FILE:
                hint = "Check the disk or the network share, then run the command again: finished work is kept."
                raise StoreUnreachable(f"{path}: cannot be read: {error.strerror}.", hint=hint) from error
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
            names = sorted(map(_order, os.scandir(folder)), reverse=True)
        except NotADirectoryError:
            raise StoreError(f"{folder}: is a file; expected a folder.") from None
        except OSError as error:
            if prefix and (is_system_file(folder.name) or folder.name.casefold() in SYSTEM_FOLDERS):
                return  # such as lost+found: nothing of the user's
            if prefix and isinstance(error, PermissionError) and _may_be_read(self.folder):
                log.warning("%s: left out: it cannot be read (%s).", folder, error.strerror)
                if self.names_closed and os.fsencode(prefix) > after:
                    yield StoredFile(prefix, 0, CLOSED)
                return
            raise StoreError(f"{folder}: cannot be read: {error.strerror}.", hint="Check its permissions.") from error
        here = (status.st_dev, status.st_ino)
        if here in above:
            return  # a link to a folder that contains it
        while names:
            key = prefix + os.fsdecode(names.pop())
            if key.endswith("/"):
                if os.fsencode(key) > after or after.startswith(os.fsencode(key)):
                    yield from self._below(key, after, above | {here})
            elif os.fsencode(key) > after and not is_unfinished(key.rpartition("/")[2]):
                found = file_status(self.folder / key)
                if found is not None:
                    yield StoredFile(key, found.st_size, etag_of(found))


def _may_be_read(folder: Path) -> bool:
    """Return whether a folder can be listed: not after the permission for a whole network share has expired."""
    try:
        os.scandir(folder).close()
        return True
    except OSError:
        return False


def _order(entry: os.DirEntry[str]) -> bytes:
    """Return a name by which files sort as their keys do: that of a folder ends with a slash."""
    try:
        is_folder = entry.is_dir()
    except OSError:  # a link that leads to itself
        is_folder = False
    return os.fsencode(entry.name) + (b"/" if is_folder else b"")


def file_status(path: Path) -> os.stat_result | None:
    """Return the status of a file; None for what is no file, or is gone since its folder was read."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def etag_of(status: os.stat_result) -> str:
    """Return what changes when the bytes of a file do: its size and the time of its last change."""
    return f"{status.st_size:x}-{status.st_mtime_ns:x}"
