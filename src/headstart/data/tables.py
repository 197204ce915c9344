"""Tables of labels: a CSV, TSV, parquet or JSON Lines file with a path and a label column, read as text.

Labels stay as they are in the file (`007` is the class ``007``). The columns are guessed by their usual names, never by
their values: two candidates are an error that names the parameter to set. There are two exceptions: classes with one
column of zeros and ones each are recognised by these; and of several columns for the split or the groups one is used,
which is logged. `unused_columns` lists the rest.

Text is UTF-8, or UTF-16 with a byte order mark. File names that are neither keep their bytes; labels and headers that
are not UTF-8 are read as Windows-1252, as saved by Excel, which is logged. Costs about 2 s and 0.5 GB per million rows.
Only for tables of labels.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.data.dataset import TABLES, split_name
from headstart.errors import BadLabels, near_names
from headstart.io.progress import log

READABLE = (*TABLES, ".jsonl")
"""Extensions that can be read as a table; JSON Lines only where explicitly given."""
PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "images", "image_path", "image_name", "img", "img_path", "picture", "photo"),
)
ID_COLUMNS = ("id", "image_id", "img_id", "uuid")
CODE_COLUMNS = ("id_code",)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "fold")
"""Of several, those that hold names of splits come first, then this order decides."""
GROUP_COLUMNS = ("group", "group_id", "groups")
"""Of several, the first in this list is used."""


@dataclass(frozen=True)
class LabelRow:
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
    classes: tuple[str, ...] = ()
    """Columns of zeros and ones, one per class, if these hold the labels."""


def rows_of(
    table: Path,
    header: Sequence[str],
    cells: Sequence[list[str]],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    unlabelled: bool = False,
) -> list[LabelRow]:
    """The rows read by `read_cells`, in file order. Raises `BadLabels`, see `choose_columns` for the parameters."""
    columns = choose_columns(
        table,
        header,
        cells,
        path_column=path_column,
        label_column=label_column,
        group_column=group_column,
        unlabelled=unlabelled,
    )
    return rows_by(table, header, cells, columns)


def choose_columns(
    table: Path,
    header: Sequence[str],
    cells: Sequence[list[str]],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    unlabelled: bool = False,
) -> Columns:
    """Like `guess_columns`, but classes may also have one column of zeros and ones each."""
    hot = [] if label_column or unlabelled else one_hot(header, cells, aside=group_column or "")
    free = {name: column for name, column in zip(header, cells, strict=True) if name not in hot}
    columns = guess_columns(
        table,
        list(free),
        path_column=path_column,
        label_column=label_column,
        group_column=group_column,
        unlabelled=unlabelled,
        cells=free,
    )
    return columns if columns.label else replace(columns, classes=tuple(hot))


def rows_by(table: Path, header: Sequence[str], cells: Sequence[list[str]], columns: Columns) -> list[LabelRow]:
    """The rows read by `read_cells`, with these columns. Raises `BadLabels` for labels in an unknown encoding."""
    by_name = dict(zip(header, cells, strict=True))
    hot = columns.classes
    if columns.label and _any_bytes(by_name[columns.label]):
        by_name = dict(zip(*_as_windows(table, header, cells), strict=True))
    empty = [""] * len(cells[0])
    labels = by_name[columns.label] if columns.label else _hot_labels(hot, [by_name[name] for name in hot]) or empty
    found = [by_name[name] if name else empty for name in (columns.path, columns.split, columns.group)]
    return [
        LabelRow(path, label.strip(), split, group.strip())
        for path, split, group, label in zip(*found, labels, strict=True)
    ]


def unused_columns(header: Sequence[str], columns: Columns) -> list[str]:
    """The unused columns, except those that `guess_columns` has reported.

    >>> unused_columns(["path", "label", "age"], Columns("path", "label", "", ""))
    ['age']
    """
    noted = [*_called(header, SPLIT_COLUMNS)]
    noted += _called(header, GROUP_COLUMNS) if _called([columns.group], GROUP_COLUMNS) else []
    used = {columns.path, columns.label, columns.split, columns.group, *columns.classes, *noted}
    return [name for name in header if name not in used]


def one_hot(header: Sequence[str], cells: Sequence[list[str]], *, aside: str = "") -> list[str]:
    """The columns that are one class each: only zeros and ones, with a single one in every row. Else none.

    The column `aside` is never one of them.

    >>> one_hot(["id", "rust", "scab"], [["a", "b"], ["0", "1"], ["1", "0"]])
    ['rust', 'scab']
    """
    known = (*PATH_COLUMNS, *ID_COLUMNS, *CODE_COLUMNS, *SPLIT_COLUMNS, *GROUP_COLUMNS)
    if any(name.strip().casefold() in LABEL_COLUMNS for name in header):
        return []
    values = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
    hot = [
        (name, column)
        for name, column in zip(header, cells, strict=True)
        if name != aside and name.strip().casefold() not in known and all(cell in values for cell in column)
    ]
    if len(hot) < 2 or len(hot) == len(header):
        return []
    once = all(sum(values[cell] for cell in row) == 1 for row in zip(*(column for _, column in hot), strict=True))
    return [name for name, _ in hot] if once else []


def _hot_labels(names: Sequence[str], columns: Sequence[list[str]]) -> list[str]:
    return [names[row.index(1.0)] for row in zip(*([float(cell) for cell in c] for c in columns), strict=True)]


def guess_columns(
    table: Path,
    header: Sequence[str],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    unlabelled: bool = False,
    cells: Mapping[str, Sequence[str]] | None = None,
) -> Columns:
    """Choose the columns by name, ignoring case.

    A table with two columns needs only one known name. With `unlabelled`, no label column is looked for. Of several
    columns for the split or the groups one is used (see `SPLIT_COLUMNS`), which depends on their `cells`. Raises
    `BadLabels` if none or several could be meant.

    >>> guess_columns(Path("dogs.csv"), ["id", "breed"])
    Columns(path='id', label='breed', split='', group='', classes=())
    """
    named = {"path_column": path_column, "label_column": label_column, "group_column": group_column}
    for parameter, given in named.items():
        if given is not None and given not in header:
            near = near_names(given, list(header))
            raise BadLabels(
                f"{table}: has no column {given!r} ({parameter}); its columns are {_listed(header)}.",
                hint=near or f"Give {parameter} one of these.",
            )
    if group_column:
        _refuse_group(table, group_column, path_column, label_column, [] if unlabelled else header)
    free = [name for name in header if name not in named.values()]
    splits, groups = _called(free, SPLIT_COLUMNS), _called(free, GROUP_COLUMNS)
    split = _split_column(table, splits, cells)
    group = group_column or _first_of(table, groups, GROUP_COLUMNS, "groups are")
    free = [name for name in free if name not in (*splits, *groups)]
    path = path_column or next(
        (
            name
            for known in (PATH_COLUMNS, ID_COLUMNS, CODE_COLUMNS)
            if (name := _one(table, free, known, "path_column"))
        ),
        "",
    )
    free = [name for name in free if name != path]
    if unlabelled:
        path = path or (free[0] if len(free) == 1 else "")
        free = []
    label = label_column or _one(table, free, LABEL_COLUMNS, "label_column")
    if path and not label and len(free) == 1:
        label = free[0]
    elif label and not path and len(free) == 2:
        path = next(name for name in free if name != label)
    if not path or (not label and free):
        missing = "label" if path else "path"
        raise BadLabels(
            f"{table}: no column looks like the {missing} column; its columns are {_listed(header)}.",
            hint=f"Say which one holds it with --{missing}-column (in Python, DataSource(..., {missing}_column=...)), or "
            "rename it.",
        )
    return Columns(path, label, split, group)


def _refuse_group(table: Path, group: str, path: str | None, label: str | None, header: Sequence[str]) -> None:
    """Raise `BadLabels` if the column of groups is that of the paths or of the labels."""
    labels = [label] if label else _called(header, LABEL_COLUMNS)
    if group == path or labels == [group]:
        raise BadLabels(
            f"{table}: the column {group!r} is given as group_column, but it holds the "
            f"{'paths' if group == path else 'labels'}.",
            hint="Name the column that says which images belong together, such as one of patients or cameras.",
        )


def _called(header: Sequence[str], names: Sequence[str]) -> list[str]:
    return [name for name in header if name.strip().casefold() in names]


def _one(table: Path, header: Sequence[str], names: Sequence[str], parameter: str) -> str:
    found = _called(header, names)
    if len(found) > 1:
        raise BadLabels(
            f"{table}: {_listed(found)} could each be meant (its columns are {_listed(header)}).",
            hint=f"Rename the others; in Python, {parameter}={found[0]!r} also works.",
        )
    return found[0] if found else ""


def _split_column(table: Path, found: Sequence[str], cells: Mapping[str, Sequence[str]] | None) -> str:
    """Of columns with such a name, the one with the split; if none holds names of splits, any of them."""
    if cells is None:
        return _first_of(table, found, SPLIT_COLUMNS, "split is")
    naming = [name for name in found if any(map(split_name, set(cells[name])))]
    if not naming:
        return next(iter(found), "")
    return _first_of(table, naming, SPLIT_COLUMNS, "split is", [name for name in found if name not in naming])


def _first_of(table: Path, found: Sequence[str], names: Sequence[str], what: str, others: Sequence[str] = ()) -> str:
    """Of columns with such a name, the one that comes first in `names`, '' for none; the choice is logged.

    Raises `BadLabels` if two have that name, ignoring case.
    """
    rank = {name: names.index(name.strip().casefold()) for name in found}
    ranked = sorted(found, key=rank.__getitem__)
    if len(ranked) > 1 and rank[ranked[0]] == rank[ranked[1]]:
        raise BadLabels(
            f"{table}: {_listed(ranked[:2])} could each be meant: the {what} looked for in one column.",
            hint="Rename or remove the other one.",
        )
    left = [*ranked[1:], *others]
    if left:
        log.info("%s: the %s taken from the column %r; not used: %s.", table, what, ranked[0], _listed(left))
    return ranked[0] if ranked else ""


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def read_cells(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a table, as text; there is at least one row. Raises `BadLabels`.

    Cells that are not UTF-8 keep their bytes (``surrogateescape``), which a typed reader would refuse. `rows_of` reads
    the table as Windows-1252 if a label is such a cell; here this is done if the header is not UTF-8.
    """
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(table)
    try:
        header, columns = _read_lines(table) if suffix == ".jsonl" else _read_text(table)
    except csv.Error as error:
        raise BadLabels(f"{table}: cannot be read as a table: {error}.", hint="Save it as CSV in UTF-8.") from None
    return _as_windows(table, header, columns) if _any_bytes(header) else (header, columns)


def csv_lines(table: Path, *, tabs: bool = False) -> list[list[str]]:
    """Header and rows as a spreadsheet may have saved them: with commas, semicolons or tabs, in UTF-8 or UTF-16.

    Empty lines are left out. Raises `OSError`, and `csv.Error` if it is not such a table.
    """
    text = io.StringIO(_text_of(table), newline="")
    first = text.readline()
    text.seek(0)
    return [line for line in csv.reader(text, delimiter="\t" if tabs else max(",;\t", key=first.count)) if line]


def _text_of(table: Path) -> str:
    """The text of a file, decoded by its byte order mark. Bytes that are not UTF-8 are kept (``surrogateescape``)."""
    data = table.read_bytes()
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-8-sig", "surrogateescape")
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise csv.Error(f"its UTF-16 is damaged at byte {error.start:,}") from None


def _any_bytes(texts: Iterable[str]) -> bool:
    """Whether a text has bytes that are not UTF-8."""
    return any("\udc80" <= c <= "\udcff" for text in set(texts) if not text.isascii() for c in text)


def _as_windows(table: Path, header: Sequence[str], columns: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Header and columns in Windows-1252 instead, which is logged. Raises `BadLabels` if that is not their encoding.

    It is not if some text is UTF-8 after all, if some bytes are undefined, or if files that it names exist only under
    their bytes.
    """
    texts = sorted({text for column in (header, *columns) for text in column if not text.isascii()})
    foreign = [text for text in texts if _any_bytes([text])]
    try:
        read = {text: text.encode("utf-8", "surrogateescape").decode("cp1252") for text in texts}
    except UnicodeError:
        read = {}
    files = [text for text in foreign if os.path.isfile(table.parent / text)]
    if not read or len(foreign) < len(texts) or any(not os.path.isfile(table.parent / read[text]) for text in files):
        raise BadLabels(
            f"{table}: is not UTF-8 ({foreign[0]!r}), nor Windows-1252 as a whole.",
            hint="Save it as UTF-8." + " The names of files that it lists have to be UTF-8 as well." * bool(files),
        )
    log.info(
        "%s: is not UTF-8; it is read as Windows-1252, which gives %s. Save it as UTF-8 if that is wrong.",
        *(table, _listed([read[text] for text in foreign[:3]])),
    )
    return [read.get(text, text) for text in header], [[read.get(text, text) for text in c] for c in columns]


def _read_text(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a CSV or TSV."""
    lines = csv_lines(table, tabs=table.suffix.lower() == ".tsv")
    if len(lines) < 2:
        raise BadLabels(f"{table}: has no rows.", hint="Expected a header such as path,label and one row per image.")
    header = lines[0]
    _check_header(table, header)
    uneven = [n for n, line in enumerate(lines[1:], 2) if len(line) != len(header)]
    if uneven:
        raise BadLabels(
            f"{table}: {len(uneven):,} of {len(lines) - 1:,} rows do not have {len(header)} cells, as the header does; "
            f"the first is row {uneven[0]}, with {len(lines[uneven[0] - 1])}.",
            hint="Put names that contain a comma in double quotes.",
        )
    return header, [list(column) for column in zip(*lines[1:], strict=True)]


def _read_lines(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of JSON Lines: an object per line; a key that a line lacks is an empty cell."""
    rows: list[dict[str, object]] = []
    for n, line in enumerate(io.StringIO(_text_of(table), newline=None), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BadLabels(
                f"{table}: line {n} is not a JSON object: {line.strip()[:60]!r}.",
                hint='Expected one such as {"file_name": "1.jpg", "label": "cat"} on each line.',
            )
        rows.append(row)
    if not rows:
        raise BadLabels(f"{table}: has no rows.", hint="Expected one JSON object per line, one line per image.")
    header = list(dict.fromkeys(key for row in rows for key in row))
    return header, [_as_text([row.get(name) for row in rows]) for name in header]


def _read_parquet(table: Path) -> tuple[list[str], list[list[str]]]:
    import pyarrow
    import pyarrow.parquet

    try:
        data = pyarrow.parquet.read_table(table)
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).splitlines()[0].rstrip(".")
        raise BadLabels(f"{table}: cannot be read as a parquet file: {problem}.", hint="Write it again.") from None
    header = [str(name) for name in data.column_names]
    _check_header(table, header)
    if not data.num_rows:
        raise BadLabels(f"{table}: has no rows.", hint="Expected the columns path and label, and one row per image.")
    return header, [_as_text(data.column(i).to_pylist()) for i in range(len(header))]


def _as_text(values: list[object]) -> list[str]:
    """Cells as text: missing is empty, bytes are a file name, whole floats lose the ``.0`` from pandas."""
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
