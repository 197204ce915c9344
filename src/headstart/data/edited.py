"""Tables that headstart writes, a person edits in a spreadsheet, and headstart reads back: corrections, pairs of
copies.

All of them may come back with other delimiters, another encoding (`data.table_files.csv_lines`), columns in another
order, or backslashes in the paths (`path_in_data`). Rows that do not fit are named and counted, and the table is
refused as a whole.

Costs milliseconds per 10,000 rows. Not for tables of labels: `data.tables` reads those.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterable
from itertools import zip_longest
from pathlib import Path

from headstart.data.foreign_formats import refuse_foreign
from headstart.data.path_cells import plain_path
from headstart.data.table_files import csv_lines
from headstart.errors import DataError, MissingData
from headstart.io.addresses import refuse_address
from headstart.io.missing_paths import hint_for_missing
from headstart.io.text_table import few

YES = ("x", "yes", "y", "true", "1")
"""Cells that count as an x."""


def edited_rows(
    place: Path,
    *,
    what: str,
    fits: Callable[[set[str]], bool],
    expected: str,
    hint: str,
    error: type[DataError],
) -> list[dict[str, str]]:
    """The rows of an edited table by column name, in lower case.

    `fits` tells whether a table with these columns is a `what`; `expected` names the columns, `hint` says how to get one.
    Cells missing at the end of a row are empty: spreadsheets may omit them when they save a table as CSV. Raises
    `MissingData`, and `error` if it is not such a table.
    """
    lines = _lines(place, what, error)
    header = [name.strip().casefold() for name in lines[0]] if lines else []
    if not fits(set(header)):
        found = ", ".join(repr(name) for name in lines[0]) if lines else "nothing"
        raise error(f"{place}: is not a {what}: expected the columns {expected}, found {found}.", hint=hint)
    long = next((line for line in lines if len(line) > len(header)), None)
    if long is not None:
        raise error(
            f"{place}: the row {few([repr(cell) for cell in long], 3)} has {len(long)} cells where the header has "
            f"{len(header)}.",
            hint="Put names that contain a comma in double quotes.",
        )
    return [dict(zip_longest(header, line, fillvalue="")) for line in lines[1:]]


def path_in_data(path: str, known: Collection[str]) -> str:
    """A path as the data spells it, if that is certain: with ``/`` for ``\\``, without ``./``, blanks and quotes.

    >>> path_in_data(" ./cats/1.jpg", {"cats/1.jpg"}), path_in_data(" ./cats/1.jpg", {"dogs/1.jpg"})
    ('cats/1.jpg', ' ./cats/1.jpg')
    """
    return path if path in known or plain_path(path) not in known else plain_path(path)


def check_ticks(place: Path, rows: Iterable[dict[str, str]], column: str, error: type[DataError]) -> None:
    """Raise `error` if a cell of this column is neither x nor empty."""
    wrong = [f"{row['path']!r}: {row[column]!r}" for row in rows if ticked(row.get(column, "")) is None]
    if wrong:
        raise error(
            f"{place}: {counted(f'a {column} that is neither x nor empty', wrong)}.", hint="Write x, or nothing."
        )


def ticked(text: str) -> bool | None:
    """Whether a cell has an x; None if that is unclear."""
    word = text.strip().casefold()
    return True if word in YES else False if word in ("", "no", "n", "false", "0") else None


def counted(problem: str, bad: Iterable[str], what: str = "row") -> str:
    """The number of rows with a problem, and the first of them.

    >>> counted("a path that is not in the data", ["'a.jpg'", "'b.jpg'"])
    "2 rows with a path that is not in the data: 'a.jpg', 'b.jpg'"
    """
    listed = list(bad)
    return f"{len(listed):,} {what}{'s' * (len(listed) != 1)} with {problem}: {few(listed, 3)}"


def _lines(place: Path, what: str, wrong: type[DataError]) -> list[list[str]]:
    """Header and rows as a spreadsheet may have saved them, without empty rows."""
    refuse_address(place)
    refuse_foreign(place)
    try:
        return [line for line in csv_lines(place) if any(line)]
    except FileNotFoundError:
        raise MissingData(f"{place}: there is no such {what}.", hint=hint_for_missing(place)) from None
    except (OSError, csv.Error) as error:
        problem = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise wrong(f"{place}: cannot be read as a {what}: {problem}.") from None
