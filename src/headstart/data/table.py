"""Tables of labels: a CSV, TSV or parquet file with a path and a label column, read as text.

Labels stay what they are in the file (`007` is the class ``007``); file names that are not valid Unicode keep their
bytes. The columns are guessed by their usual names and never by their values: two candidates are an error that names
the parameter to set. Costs about 2 s and 0.5 GB a million rows; it is no tool for tables of anything but labels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import BadLabels, near_names
from headstart.progress import log

TABLES = (".csv", ".tsv", ".parquet")
"""Extensions that are read as a table."""

PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "images", "image_path", "image_name", "img", "img_path", "picture", "photo"),
)
ID_COLUMNS = ("id", "image_id", "img_id", "uuid")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "fold")
GROUP_COLUMNS = ("group", "group_id", "groups")


@dataclass(frozen=True)
class Row:
    """One row of a table of labels; an empty `label`, `split` or `group` means unknown."""

    path: str
    label: str
    split: str
    group: str


@dataclass(frozen=True)
class Columns:
    """Which column holds what; an empty name means that there is none."""

    path: str
    label: str
    split: str
    group: str


def read_rows(table: Path, *, path_column: str | None = None, label_column: str | None = None) -> list[Row]:
    """The rows of a table, in file order. Raises `BadLabels` for a file that is no table, or unclear columns."""
    header, cells = _read_parquet(table) if table.suffix.lower() == ".parquet" else _read_text(table)
    columns = guess_columns(table, header, path_column=path_column, label_column=label_column)
    empty = [""] * len(cells[0])
    found = [cells[header.index(name)] if name else empty for name in (columns.path, columns.label)]
    found += [cells[header.index(name)] if name else empty for name in (columns.split, columns.group)]
    return [Row(path, label.strip(), split, group) for path, label, split, group in zip(*found, strict=True)]


def guess_columns(
    table: Path, header: Sequence[str], *, path_column: str | None = None, label_column: str | None = None
) -> Columns:
    """Choose the columns by name, case aside.

    A table with two columns needs only one known name. Raises `BadLabels` where none or several could be meant.

    >>> guess_columns(Path("dogs.csv"), ["id", "breed"])
    Columns(path='id', label='breed', split='', group='')
    """
    for given, parameter in ((path_column, "path_column"), (label_column, "label_column")):
        if given is not None and given not in header:
            near = near_names(given, list(header))
            raise BadLabels(
                f"{table}: has no column {given!r} ({parameter}); its columns are {_listed(header)}.",
                hint=near or f"Give {parameter} one of these.",
            )
    split = _one(table, header, SPLIT_COLUMNS, "")
    group = _one(table, header, GROUP_COLUMNS, "")
    taken = {split, group, path_column, label_column}
    free = [name for name in header if name not in taken]
    path = path_column or _one(table, free, PATH_COLUMNS, "path_column") or _one(table, free, ID_COLUMNS, "path_column")
    free = [name for name in free if name != path]
    label = label_column or _one(table, free, LABEL_COLUMNS, "label_column")
    if path and not label and len(free) == 1:
        label = free[0]
    elif label and not path and len(free) == 2:
        path = next(name for name in free if name != label)
    if not path or (not label and free):
        missing = "label" if path else "path"
        raise BadLabels(
            f"{table}: no column looks like the {missing} column; its columns are {_listed(header)}.",
            hint=f"Rename the one that holds it to {missing}; in Python, {missing}_column={header[-1]!r} does as well.",
        )
    return Columns(path, label, split, group)


def _one(table: Path, header: Sequence[str], names: Sequence[str], parameter: str) -> str:
    found = [name for name in header if name.strip().casefold() in names]
    if len(found) > 1 and parameter:
        raise BadLabels(
            f"{table}: {_listed(found)} could each be meant (its columns are {_listed(header)}).",
            hint=f"Rename the others; in Python, {parameter}={found[0]!r} does as well.",
        )
    return found[0] if len(found) == 1 else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _read_text(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a CSV or TSV. Names keep their bytes, which a typed reader would refuse."""
    try:
        with open(table, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            first = file.readline()
            delimiter = "\t" if table.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
            file.seek(0)
            lines = [line for line in csv.reader(file, delimiter=delimiter) if line]
    except csv.Error as error:
        raise BadLabels(
            f"{table}: is not a table that can be read: {error}.", hint="Save it as CSV in UTF-8."
        ) from None
    if len(lines) < 2:
        raise BadLabels(f"{table}: has no rows.", hint="Expected a header such as path,label and one row a picture.")
    header = lines[0]
    _check_header(table, header)
    uneven = [n for n, line in enumerate(lines[1:], 2) if len(line) != len(header)]
    if uneven:
        raise BadLabels(
            f"{table}: {len(uneven):,} of {len(lines) - 1:,} rows have not {len(header)} cells as the header has; "
            f"the first is row {uneven[0]}, with {len(lines[uneven[0] - 1])}.",
            hint="A name with a comma in it must stand in double quotes.",
        )
    return header, [list(column) for column in zip(*lines[1:], strict=True)]


def _read_parquet(table: Path) -> tuple[list[str], list[list[str]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        data = pyarrow.parquet.read_table(table)
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise BadLabels(
            f"{table}: is not a parquet file that can be read: {problem}.", hint="Write it again."
        ) from None
    header = [str(name) for name in data.column_names]
    _check_header(table, header)
    if not data.num_rows:
        raise BadLabels(f"{table}: has no rows.", hint="Expected the columns path and label, and one row a picture.")
    return header, [_as_text(data.column(i).to_pylist()) for i in range(len(header))]


def _as_text(values: list[object]) -> list[str]:
    """Cells as text: missing is empty, bytes are a file name, whole numbers that pandas made floats lose the ``.0``."""
    floats = [v for v in values if isinstance(v, float) and v == v]
    whole = bool(floats) and all(v.is_integer() for v in floats)
    return [_cell(value, whole) for value in values]


def _cell(value: object, whole: bool) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(int(value)) if whole and isinstance(value, float) else str(value)


def _check_header(table: Path, header: Sequence[str]) -> None:
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise BadLabels(f"{table}: has the column {twice[0]!r} more than once.", hint="Rename one of them.")
    log.debug("%s: columns %s", table, _listed(header))
