"""Aligned columns of plain text for a terminal; wide characters count as what they take up there.

>>> print("\\n".join(columns([["cat", "0.98"], ["猫", "1"]], "<>")))
cat  0.98
猫      1

Costs microseconds a cell. Not for millions of rows: all are held and measured.
"""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], sides: str = "") -> list[str]:
    """One line per row, two blanks between columns. `sides`: ``<`` or ``>`` per column; by default only the first is left."""
    if not rows:
        return []
    sides = sides or "<" + ">" * (len(rows[0]) - 1)
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(_padded, row, widths, sides)).rstrip() for row in rows]


def cells(text: str) -> int:
    """How many character cells of a terminal the text takes up: two for East Asian characters and emoji.

    >>> cells("cat"), cells("猫"), cells("é")
    (3, 2, 1)
    """
    from rich.cells import cell_len

    return cell_len(text)


def plain(text: str) -> str:
    """A file name as it can be shown: what would break the line, or is not Unicode, is escaped.

    >>> plain("two\\nlines"), plain("caf\\udce9")
    ('two\\\\nlines', 'caf\\\\udce9')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def few(texts: Sequence[str], most: int = 10, *, separator: str = ", ") -> str:
    """The first of them, and how many more there are.

    >>> few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def _padded(text: str, width: int, side: str) -> str:
    blanks = " " * (width - cells(text))
    return text + blanks if side == "<" else blanks + text
