"""Read tables as text: CSV, TSV, JSON Lines, JSON, parquet, and lists of paths without a header.

    path,label            a header, then a row per image; commas, semicolons, tabs or bars
    cats/1.jpg cat        a list, with or without labels: its first line names an image, so it is a row (noted)
    {"file_name": ...}    JSON Lines: an object per line; or one array of them, or one object {path: label}

Cells stay as they are in the file. Text is UTF-8, or UTF-16 with a byte order mark; cells that are neither keep their
bytes until `as_windows` reads them as Windows-1252, as saved by Excel, which is logged. Costs about 2 s and 0.5 GB per
million rows. Not for the meaning of columns: see `data.tables`.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from headstart.data.dataset import IMAGES, TABLES, split_name
from headstart.data.foreign_formats import ONE_CLASS
from headstart.data.path_cells import plain_path
from headstart.errors import BadLabels
from headstart.io.addresses import is_address
from headstart.io.extras import require
from headstart.io.progress import log
from headstart.io.text_table import few

LISTS = (".txt", ".lst")
"""Extensions of lists: a path on each line, with or without a label."""
READABLE = (*TABLES, ".json", *LISTS)
"""Extensions that can be read as a table."""
FORMATS = "CSV, TSV, JSON Lines, JSON, parquet, or a list with a path and a label on each line"

_SUFFIX = rf"(?:{'|'.join(re.escape(suffix) for suffix in IMAGES)})"
_PATH_FIRST = re.compile(rf"(?P<path>.+?{_SUFFIX})(?:\s+(?P<rest>\S.*))?", re.IGNORECASE)
_PATH_LAST = re.compile(rf"(?P<rest>\S+)\s+(?P<path>\S.*{_SUFFIX})", re.IGNORECASE)
_SEPARATOR = re.compile(r"sep=(?P<mark>[,;\t|])", re.IGNORECASE)
_PEEKED = 1 << 12  # bytes read to recognise a list
_QUOTES = (
    'Close it. A cell that contains a double quote is written in double quotes, with that quote twice: """5 inch".'
)


class OpenQuote(csv.Error):
    """A double quote that is not closed in its cell, so that the rows below it would be read as part of that cell."""


def read_cells(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a table, as text; there is at least one row. Raises `BadLabels`.

    Cells that are not UTF-8 keep their bytes (``surrogateescape``), which a typed reader would refuse. `tables.rows_of`
    reads the table as Windows-1252 if a label is such a cell; here this is done if the header is not UTF-8.
    """
    suffix = table.suffix.lower()
    if suffix == ".parquet":
        return _tidied(table, *_read_parquet(table))
    try:
        header, columns = _read_json(table) if suffix in (".json", ".jsonl") else _read_text(table)
    except csv.Error as error:
        hint = _QUOTES if isinstance(error, OpenQuote) else "Save it as CSV in UTF-8."
        raise BadLabels(f"{table}: cannot be read as a table: {error}.", hint=hint) from None
    except OSError as error:
        raise BadLabels(
            f"{table}: could not be read: {error.strerror}.", hint="Check the disk and its permissions."
        ) from None
    return _tidied(table, *(as_windows(table, header, columns) if any_bytes(header) else (header, columns)))


def is_list(file: Path) -> bool:
    """Whether the first line of a text file names an image; False for any other file."""
    if file.suffix.lower() not in LISTS:
        return False
    try:
        with open(file, "rb") as opened:
            text = opened.read(_PEEKED).decode("utf-8-sig", "replace")
    except OSError:
        return False
    first = next((line for line in text.splitlines() if line.strip() and not _is_remark(line)), "")
    return bool(_PATH_FIRST.match(first)) and len(first) < 500


def csv_lines(table: Path, *, tabs: bool = False) -> list[list[str]]:
    """Header and rows as a spreadsheet may have saved them: with commas, semicolons or tabs, in UTF-8 or UTF-16.

    Empty lines are left out. Raises `OSError`, and `csv.Error` if it is not such a table (`OpenQuote` if a quote is not
    closed).
    """
    return _csv_lines(text_of(table), tabs)


def _csv_lines(text: str, tabs: bool = False) -> list[list[str]]:
    file = io.StringIO(text, newline="")
    first = file.readline()
    named = _SEPARATOR.fullmatch(first.strip(' \r\n"'))
    if not named:
        file.seek(0)
    delimiter = "\t" if tabs else named["mark"] if named else max(",;\t|", key=first.count)
    spaced = f'{delimiter} "' in first
    return [line for line in _csv_rows(file, bool(named), delimiter, spaced) if line]


def _csv_rows(file: io.StringIO, skipped: int, delimiter: str, spaced: bool) -> Iterator[list[str]]:
    """The rows of a CSV, of which `skipped` lines are read. A quote may begin or end within a cell (`5" nail`,
    `"big" nail`), but not in a row of several lines: there it would hide the rows below it. Raises `OpenQuote`."""
    lines: list[str] = []  # of one row

    def kept() -> Iterator[str]:
        for line in file:
            lines.append(line)
            yield line

    reader = csv.reader(kept(), delimiter=delimiter, skipinitialspace=spaced)
    try:
        for row in reader:
            if len(lines) > 1:
                next(csv.reader(lines, delimiter=delimiter, skipinitialspace=spaced, strict=True))
            yield row
            lines.clear()
    except csv.Error:
        if len(lines) < 2:
            raise
        first = reader.line_num - len(lines) + 1 + skipped
        raise OpenQuote(f"line {first:,} has a double quote that is not closed: {lines[0].strip()[:60]!r}") from None


def text_of(table: Path) -> str:
    """The text of a file, decoded by its byte order mark. Bytes that are not UTF-8 are kept (``surrogateescape``).

    Raises `csv.Error` for damaged UTF-16, and for other files of which many bytes are zero.
    """
    data = table.read_bytes()
    if not data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        if data[:_PEEKED].count(0) > len(data[:_PEEKED]) // 4:
            raise csv.Error("many of its bytes are zero, as in UTF-16 without a byte order mark")
        return data.decode("utf-8-sig", "surrogateescape")
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise csv.Error(f"its UTF-16 is damaged at byte {error.start:,}") from None


def any_bytes(texts: Iterable[str]) -> bool:
    """Whether a text has bytes that are not UTF-8."""
    return any("\udc80" <= c <= "\udcff" for text in set(texts) if not text.isascii() for c in text)


def as_windows(table: Path, header: Sequence[str], columns: Sequence[list[str]]) -> tuple[list[str], list[list[str]]]:
    """Header and columns in Windows-1252 instead, which is logged. Raises `BadLabels` if that is not their encoding.

    It is not if some text is UTF-8 after all, if some bytes are undefined, or if files that it names exist only under
    their bytes.
    """
    foreign, read = _windows_texts(header, columns)
    if not is_windows(table, header, columns):
        files = any(os.path.isfile(table.parent / text) for text in foreign)
        raise BadLabels(
            f"{table}: is neither UTF-8 nor Windows-1252 throughout ({foreign[0]!r}).",
            hint="Save it as UTF-8." + " The names of files that it lists have to be UTF-8 as well." * files,
        )
    log.info(
        "%s: is not UTF-8; it is read as Windows-1252, which gives %s. Save it as UTF-8 if that is wrong.",
        *(table, ", ".join(repr(read[text]) for text in foreign[:3])),
    )
    return [read.get(text, text) for text in header], [[read.get(text, text) for text in c] for c in columns]


def is_windows(table: Path, header: Sequence[str], columns: Sequence[list[str]]) -> bool:
    """Whether all that is not ASCII can be Windows-1252, see `as_windows`."""
    foreign, read = _windows_texts(header, columns)
    files = [text for text in foreign if os.path.isfile(table.parent / text)]
    return bool(read) and len(foreign) == len(read) and all(os.path.isfile(table.parent / read[text]) for text in files)


def _windows_texts(header: Sequence[str], columns: Sequence[list[str]]) -> tuple[list[str], dict[str, str]]:
    """The texts that are not UTF-8, and {text: as Windows-1252} for all that are not ASCII; {} if some cannot be."""
    texts = sorted({text for column in (header, *columns) for text in column if not text.isascii()})
    foreign = [text for text in texts if any_bytes([text])]
    try:
        return foreign, {text: text.encode("utf-8", "surrogateescape").decode("cp1252") for text in texts}
    except UnicodeError:
        return foreign, {}


# Text


def _read_text(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of a CSV, a TSV or a list."""
    text = text_of(table)
    lines = _list_lines(table, text)
    if lines is None:
        lines = [line for line in _csv_lines(text, tabs=table.suffix.lower() == ".tsv") if any(line)]
    lines = _with_header(table, lines)
    if len(lines) < 2:
        raise BadLabels(f"{table}: has no rows.", hint="Expected a header such as path,label and one row per image.")
    header = lines[0]
    width = len(header)
    lines = [line if len(line) <= width else _without_empty_ends(line, width) for line in lines]
    lines = filled_rows(table, lines)
    uneven = [n for n, line in enumerate(lines[1:], 2) if len(line) != width]
    if uneven:
        raise BadLabels(
            f"{table}: {len(uneven):,} of {len(lines) - 1:,} rows do not have {len(header)} cells, as the header does; "
            f"the first is row {uneven[0]}, with {len(lines[uneven[0] - 1])}.",
            hint=_uneven_hint(lines, width),
        )
    return header, [list(column) for column in zip(*lines[1:], strict=True)]


def filled_rows(table: Path, lines: Sequence[list[str]]) -> list[list[str]]:
    """The rows, header first, with empty cells at the end of those that are shorter than the header, which is logged.

    Spreadsheets may omit such cells when they save a table as CSV.
    """
    width = len(lines[0])
    short = [n for n, line in enumerate(lines[1:], 2) if len(line) < width]
    if short:
        log.info(
            "%s: %s of %s rows have fewer cells than the header, the first of them row %s; the missing ones are empty.",
            *(table, f"{len(short):,}", f"{len(lines) - 1:,}", f"{short[0]:,}"),
        )
    return [[*line, *[""] * (width - len(line))] for line in lines] if short else list(lines)


def _uneven_hint(lines: Sequence[list[str]], width: int) -> str:
    """What to do about rows that are not as wide as the first line, which may be a title."""
    if len({len(line) for line in lines[1:]}) == 1 and len(lines[1]) > width:
        first = few([repr(cell) for cell in lines[0]], 3)
        return f"If its first line ({first}) is a title, delete it: the header comes first."
    return "Put names that contain a comma in double quotes."


def _without_empty_ends(line: list[str], wanted: int) -> list[str]:
    return line[:wanted] if not any(map(str.strip, line[wanted:])) else line


def _list_lines(table: Path, text: str) -> list[list[str]] | None:
    """Path and label of each line, if blanks separate them; None if something else does."""
    first = [line for line in text[:_PEEKED].splitlines() if line.strip() and not _is_remark(line)][:2]
    if not first or any(_is_separated(table, line) for line in first):
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip() and not _is_remark(line)]
    if table.suffix.lower() not in LISTS and not all(" " in line for line in lines):
        return None
    matches = [_PATH_FIRST.fullmatch(line) for line in lines]
    if not any(matches[:2]):
        _refuse_prose(table, lines)
        return [line.split() for line in lines]
    reverse = [_PATH_LAST.fullmatch(line) for line in lines]
    if _are_reverse(table.parent, matches[-1], reverse):
        matches = reverse
    cells = [_list_line(line, match) for line, match in zip(lines, matches, strict=True)]
    width = max(map(len, cells))
    return [[*line, *[""] * (width - len(line))] for line in cells]


def _is_separated(table: Path, line: str) -> bool:
    """Whether a line has a character that separates cells, other than in the name of a file at its beginning."""
    path = _PATH_FIRST.fullmatch(line.strip()) if table.suffix.lower() in LISTS else None
    rest = path["rest"] or "" if path and os.path.isfile(table.parent / path["path"]) else line
    return any(mark in rest for mark in ",;\t|")


def _are_reverse(folder: Path, usual: re.Match[str] | None, reverse: Sequence[re.Match[str] | None]) -> bool:
    """Whether the path follows the label: only then does the last line name a file, or each path follows a number."""
    last = reverse[-1]
    if last is None or (usual is not None and os.path.isfile(folder / usual["path"])):
        return False
    numbered = all(match is not None and match["rest"].isdigit() for match in reverse[1:])
    return numbered or os.path.isfile(folder / last["path"])


def _is_remark(line: str) -> bool:
    return line.startswith("#") and not _PATH_FIRST.match(line)


def _list_line(line: str, match: re.Match[str] | None) -> list[str]:
    """A path and the cells after it: a name in several words is one cell, several numbers are several."""
    if match is None:
        return line.split()
    rest = match["rest"] or ""
    numbers = rest.split()
    several = len(numbers) > 1 and all(word.lstrip("-").isdigit() for word in numbers)
    return [match["path"], *(numbers if several else [rest] if rest else [])]


def _refuse_prose(table: Path, lines: Sequence[str]) -> None:
    if table.suffix.lower() in LISTS and len({len(line.split()) for line in lines}) > 1:
        raise BadLabels(
            f"{table}: is not a list of images: its first line is {lines[0][:60]!r}.",
            hint="Expected lines such as cats/1.jpg cat, or a CSV with the columns path,label.",
        )


def _with_header(table: Path, lines: list[list[str]]) -> list[list[str]]:
    """The lines, with a header if the first of them is a row. That is logged."""
    if len(lines) > 1 and lines[0] == [str(i) for i in range(len(lines[0]))] and any(map(_names_image, lines[1])):
        lines = lines[1:]  # pandas numbers columns that have no names
    first = lines[0] if lines else []
    at = next((i for i, cell in enumerate(first) if _names_image(cell)), None)
    if at is None and first and _is_image(table.parent, first[0]):
        at = 0
    if at is None:
        return lines
    width = max(map(len, lines))
    others = [i for i in range(width) if i != at]
    header = [f"column {i + 1}" for i in range(width)]
    header[at] = "path"
    for i in others if len(others) > 1 else []:
        header[i] = "split" if all(split_name(line[i]) for line in lines if len(line) == width) else header[i]
    left = [i for i in others if header[i] != "split"]
    if len(left) == 1:
        header[left[0]] = "label"
    log.info(
        "%s: its first line (%s) names an image, so there is no header; the columns are read as %s.",
        *(table, ", ".join(map(repr, first[:3])), ", ".join(map(repr, header[:6]))),
    )
    return [header, *lines]


def _names_image(cell: str) -> bool:
    return plain_path(cell).lower().endswith(IMAGES) and len(plain_path(cell)) > len(".jpg")


def _is_image(folder: Path, cell: str) -> bool:
    """Whether a cell is the name of an image without its suffix, and not a usual name of a column."""
    stem = plain_path(cell)
    if not re.search(r"[0-9/]", stem) or len(stem) > 200 or is_address(stem):
        return False
    return any(os.path.isfile(folder / f"{stem}{suffix}") for suffix in (".jpg", ".jpeg", ".png"))


def _tidied(table: Path, header: list[str], columns: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """The table without blanks around the names of columns; columns without a name get one, or go if they are empty."""
    names = [name.strip() for name in header]
    kept = [i for i, name in enumerate(names) if name or any(map(str.strip, columns[i]))]
    names = [names[i] or f"column {i + 1}" for i in kept]
    _check_header(table, names)
    return names, [columns[i] for i in kept]


def _check_header(table: Path, header: Sequence[str]) -> None:
    twice = sorted(name for name, n in Counter(header).items() if n > 1)
    if twice:
        hint = "Rename one of them."
        if twice[0].isdigit():
            hint = "If this is its first row, write a header such as path,label above it."
        raise BadLabels(f"{table}: has the column {twice[0]!r} more than once.", hint=hint)
    log.debug("%s: columns %s", table, ", ".join(map(repr, header)))


# JSON


def _read_json(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns of JSON Lines, or of one JSON document; a key that a row lacks is an empty cell."""
    text = text_of(table)
    start = text.lstrip()[:1]
    if table.suffix.lower() == ".json" or start == "[":
        try:
            return _columns_of(table, _rows_in(table, _parsed(table, text)))
        except (ValueError, RecursionError) as error:
            if "Extra data" not in str(error):  # else one document per line
                raise BadLabels(f"{table}: is not JSON: {error}.", hint="Write it again, or as a CSV.") from None
    return _columns_of(table, list(_objects(table, text)))


def _objects(table: Path, text: str) -> Iterator[dict[str, object]]:
    for n, line in enumerate(io.StringIO(text, newline=None), 1):
        if not line.strip():
            continue
        try:
            row = _parsed(table, line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise BadLabels(
                f"{table}: line {n} is not a JSON object: {line.strip()[:60]!r}.",
                hint='Expected one such as {"file_name": "1.jpg", "label": "cat"} on each line.',
            )
        yield row


def _parsed(table: Path, text: str) -> object:
    """A JSON document. Raises `ValueError`, and `BadLabels` for a key with two values, of which `json` keeps the last."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found and found[key] != value:
                raise BadLabels(
                    f"{table}: the key {key!r} occurs twice in one object, with {found[key]!r} and {value!r}.",
                    hint="Remove one of them.",
                )
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=unique)


def _rows_in(table: Path, document: object) -> list[dict[str, object]]:
    """The rows of a JSON document: an array of objects or of [path, label], or an object {path: label}."""
    if isinstance(document, dict) and {"images", "annotations"} <= set(document):
        raise BadLabels(
            f"{table}: is a COCO file, with objects or captions in images.", hint=f"For classes, {ONE_CLASS}"
        )
    if isinstance(document, dict):
        lists = [value for value in document.values() if isinstance(value, list) and value]
        if document and all(isinstance(value, str | int | float | None) for value in document.values()):
            return [{"path": path, "label": label} for path, label in document.items()]
        document = lists[0] if len(lists) == 1 else document
    if isinstance(document, list) and document and all(isinstance(row, dict) for row in document):
        return document
    if isinstance(document, list) and document and all(isinstance(row, list) and len(row) == 2 for row in document):
        return [{"path": path, "label": label} for path, label in document]
    keys = f" with the keys {few([repr(key) for key in document], 3)}" if isinstance(document, dict) else ""
    raise BadLabels(
        f"{table}: is a JSON {'object' if keys else 'document'}{keys}, not a list of images.",
        hint='Expected [{"file_name": "1.jpg", "label": "cat"}, ...] or {"1.jpg": "cat", ...}; or a CSV.',
    )


def _columns_of(table: Path, rows: Sequence[dict[str, object]]) -> tuple[list[str], list[list[str]]]:
    if not rows:
        raise BadLabels(f"{table}: has no rows.", hint="Expected one JSON object per line, one line per image.")
    header = list(dict.fromkeys(key for row in rows for key in row))
    return header, [_as_text([row.get(name) for row in rows]) for name in header]


# Typed cells


def _read_parquet(table: Path) -> tuple[list[str], list[list[str]]]:
    require(str(table), "pyarrow")
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
