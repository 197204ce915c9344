"""Aligned columns of plain text for a terminal; wide characters count with their display width.

>>> print("\\n".join(columns([["cat", "0.98"], ["猫", "1"]], "<>")))
cat  0.98
猫      1

Costs microseconds per cell. Not for millions of rows: all are held in memory and measured.
"""

from __future__ import annotations

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]], sides: str = "") -> list[str]:
    """Return one line per row, columns two spaces apart; `sides`: ``<`` or ``>`` per column, default ``<>>...``."""
    if not rows:
        return []
    sides = sides or "<" + ">" * (len(rows[0]) - 1)
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(_padded, row, widths, sides)).rstrip() for row in rows]


def cells(text: str) -> int:
    """Return the number of terminal cells that a text occupies: two for East Asian characters and emoji.

    >>> cells("cat"), cells("猫"), cells("é")
    (3, 2, 1)
    """
    from rich.cells import cell_len

    return cell_len(text)


def plain(text: str) -> str:
    """Return a printable file name: characters that would break the line, or are not Unicode, are escaped.

    >>> plain("two\\nlines"), plain("caf\\udce9")
    ('two\\\\nlines', 'caf\\\\udce9')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def few(texts: Sequence[str], most: int = 10, *, separator: str = ", ") -> str:
    """Join the first `most` texts, and count the others.

    >>> few(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(texts) - most:,} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def number_of(n: int, what: str) -> str:
    """The number of some things, with their name in the plural unless it is one.

    >>> number_of(1, "image"), number_of(2_000, "class")
    ('1 image', '2,000 classes')
    """
    return f"{n:,} {what}{'' if n == 1 else 'es' if what.endswith('s') else 's'}"


def _padded(text: str, width: int, side: str) -> str:
    blanks = " " * (width - cells(text))
    return text + blanks if side == "<" else blanks + text
