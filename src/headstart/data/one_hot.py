"""Classes with a column of zeros and ones each: `image,healthy,rust` and `1.jpg,0,1`.

The cells may have blanks around them, be floats, truth values or an x, and be empty for 0. A row with no 1 has no
label, which is noted. A row with several 1s means several labels per image, so the table is refused: headstart
gives each image one class. Costs about 1 s per million cells. Not for probabilities, nor for a single column of
zeros and ones: that one has two classes, 0 and 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from headstart.errors import BadLabels
from headstart.io.progress import log
from headstart.io.text_table import few

_ONES = frozenset({"1", "1.0", "1,0", "true", "yes", "x"})
_ZEROS = frozenset({"", "0", "0.0", "0,0", "false", "no"})


def bits(cells: Sequence[str]) -> list[bool] | None:
    """The cells as truth values; None if one of them is neither 0 nor 1, or all are empty.

    >>> bits(["1", " 0", "", "TRUE"]), bits(["0.5", "0"]), bits(["", ""])
    ([True, False, False, True], None, None)
    """
    meaning = {cell: _bit(cell) for cell in set(cells)}
    if None in meaning.values() or not any(map(str.strip, meaning)):
        return None
    return [bool(meaning[cell]) for cell in cells]


def _bit(cell: str) -> bool | None:
    text = cell.strip().casefold()
    return True if text in _ONES else False if text in _ZEROS else None


def hot_columns(columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of the columns that are a class each: two or more of zeros and ones, with a 1 in at least half of the
    rows.

    >>> hot_columns({"id": ["a", "b"], "rust": ["0", "1"], "scab": ["1", "0"]})
    ['rust', 'scab']
    """
    read = {name: found for name, cells in columns.items() if (found := bits(cells)) is not None}
    if sum(map(any, read.values())) < 2:
        return []
    ones = [sum(row) for row in zip(*read.values(), strict=True)]
    return list(read) if max(ones) > 1 or 2 * sum(ones) >= len(ones) else []


def one_each(columns: Sequence[Sequence[str]]) -> bool:
    """Whether there are columns, and each row has exactly one 1 in them.

    >>> one_each([["0", "1"], ["1", "0"]]), one_each([["1", "1"], ["0", "1"]]), one_each([])
    (True, False, False)
    """
    read = [bits(cells) or [] for cells in columns]
    return bool(read) and all(sum(row) == 1 for row in zip(*read, strict=True))


def hot_labels(table: Path, columns: Mapping[str, Sequence[str]], paths: Sequence[str]) -> list[str]:
    """The class of each row, '' for a row with no 1, which is logged. Raises `BadLabels` for rows with several."""
    read = {name: bits(cells) or [False] * len(cells) for name, cells in columns.items()}
    rows = [[name for name, one in zip(read, row, strict=True) if one] for row in zip(*read.values(), strict=True)]
    several = [i for i, names in enumerate(rows) if len(names) > 1]
    if several:
        i = several[0]
        raise BadLabels(
            f"{table}: {len(several):,} of {len(rows):,} rows have a 1 in several of the columns "
            f"{few([repr(name) for name in read], 4)}, such as {paths[i]!r} in {few([repr(n) for n in rows[i]], 3)}: "
            "several labels per image. headstart gives each image one class.",
            hint=f"Leave these rows out, or train on one of the columns: --label-column {next(iter(read))} has the classes "
            "0 and 1.",
        )
    none = [path for path, names in zip(paths, rows, strict=True) if not names]
    if none:
        log.info(
            "%s: %s of %s rows have no 1 in the columns of the classes, such as %r; they have no label.",
            *(table, f"{len(none):,}", f"{len(rows):,}", none[0]),
        )
    return [names[0] if names else "" for names in rows]
