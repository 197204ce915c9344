"""The index of a pack: a parquet file with one row per image, sorted by path.

    path      the image's name, with / between its parts
    label     its class, '' if unknown;  group, split: '' if none
    sha256    SHA-256 of its bytes
    shard     the file that holds it;  offset, bytes: where in that file

Other tools can read it as a table; the shards are plain tars of files with these paths. Costs 100 bytes per image on disk,
and about 500 in memory. Not for data that changes: pack it again.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any

from headstart.errors import BadArchive, DataError
from headstart.io.extras import require
from headstart.io.files import parquet_bytes

INDEX = "index.parquet"
SHARD = "shard-{:06}.tar"
IS_SHARD = re.compile(r"shard-\d{6,}\.tar")
FORMAT = "1"
_KEY = b"headstart_pack"


@dataclass(frozen=True, slots=True)
class PackedRow:
    """One image of a pack."""

    path: str
    label: str
    group: str
    split: str
    sha256: str
    shard: str
    offset: int
    bytes: int


COLUMNS = tuple(field.name for field in fields(PackedRow))
_values, _texts, _numbers = (attrgetter(*names) for names in (COLUMNS, COLUMNS[:6], COLUMNS[6:]))


def index_bytes(rows: Sequence[PackedRow]) -> bytes:
    """Return the index as parquet; equal rows give equal bytes with the same version of pyarrow."""
    require("A pack", "pyarrow")
    import pyarrow

    kinds = {"offset": pyarrow.int64(), "bytes": pyarrow.int64()}
    schema = pyarrow.schema(
        [(name, kinds.get(name, pyarrow.string())) for name in COLUMNS], metadata={_KEY: FORMAT.encode()}
    )
    columns = zip(*map(_values, rows), strict=True)
    table = pyarrow.table(
        [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema
    )
    return parquet_bytes(table, repeated=("label", "group", "split", "shard"))


def read_index(where: str, data: bytes) -> list[PackedRow]:
    """Return the checked rows of an index; `where` is its name in messages. Raises `BadArchive`, `MissingExtra`."""
    require(where, "pyarrow")
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(data))
        found = (table.schema.metadata or {}).get(_KEY, b"").decode("ascii", "replace")
        if found != FORMAT:
            raise BadArchive(f"{where}: is the index of a pack of format {found!r}; expected {FORMAT!r}.", hint=_AGAIN)
        rows = [PackedRow(*values) for values in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)]
    except (pyarrow.ArrowException, KeyError, OSError) as error:
        problem = str(error).partition("\n")[0]
        raise BadArchive(f"{where}: cannot be read as the index of a pack: {problem}", hint=_AGAIN) from None
    _check_rows(where, rows)
    return rows


def is_pack_manifest(data: bytes) -> bool:
    """Return whether these are the bytes of a pack's manifest: it lists the index.

    >>> is_pack_manifest(b'{"sha256": {"index.parquet": "5f0c"}}'), is_pack_manifest(b'{"name": "My app"}')
    (True, False)
    """
    try:
        return INDEX in json.loads(data)["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def check_names(paths: Iterable[str]) -> None:
    """Raise `DataError` for a path that a pack cannot hold: not Unicode, or outside of the folder of the data."""
    for path in paths:
        if not _is_unicode(path):
            raise DataError(f"{path!r}: its name is not Unicode, so it cannot be packed.", hint="Rename the file.")
        if not _is_inside(path):
            raise DataError(
                f"{path!r}: is outside the folder of the data, so it has no name in a pack.",
                hint="Move the table to a folder that contains all images, and give the paths from there.",
            )


def _is_inside(path: str) -> bool:
    return not {"", ".", ".."} & set(path.split("/")) and "\0" not in path


def _is_unicode(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


_AGAIN = "Copy it again, or pack the images again."


def _check_rows(where: str, rows: list[PackedRow]) -> None:
    before = ""
    for row in rows:
        if not _is_valid(row) or (before and row.path <= before):
            raise BadArchive(f"{where}: has an invalid row, for {row.path!r}.", hint=_AGAIN)
        before = row.path


def _is_valid(row: Any) -> bool:
    texts, numbers = _texts(row), _numbers(row)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(n, int) for n in numbers):
        return False
    return min(numbers) >= 0 and bool(IS_SHARD.fullmatch(row.shard)) and _is_inside(row.path)
