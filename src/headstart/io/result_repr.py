"""How results appear in a Python session: one line at a prompt, a small table in a notebook.

A class defines `summary` and `facts`; `Result`, the base class of verb results, derives both from `table` and
`to_json`. Dataclasses need ``repr=False``, or a repr is generated. All text is made printable, truncated and, for HTML,
escaped: file names are untrusted. Costs as much as `to_json`. Not for reading values back: use `to_json`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from headstart.io.text_table import few, plain

MOST_CHARACTERS = 160
"""In a repr, and in a cell of the table."""
MOST_FACTS = 30
MOST_VALUES = 6
"""Longer lists and dicts show only their length."""


class OneLineRepr(ABC):
    """One line as its repr, and a table of two columns in a notebook."""

    @abstractmethod
    def summary(self) -> str:
        """Return the most important result, on one line."""

    @abstractmethod
    def facts(self) -> Sequence[tuple[str, str]]:
        """Return the rows of the table: a name and a text each."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {_cut(self.summary())}>"

    def _repr_html_(self) -> str:
        facts = self.facts()
        rows = [f"<tr><th>{escape(_cut(name))}</th><td>{escape(_cut(text))}</td></tr>" for name, text in facts]
        more = [f"<tr><th></th><td>and {len(rows) - MOST_FACTS:,} more</td></tr>"] if len(rows) > MOST_FACTS else []
        caption = f"<caption>{escape(type(self).__name__)}: {escape(_cut(self.summary()))}</caption>"
        return f"<table>{caption}<tbody>{''.join([*rows[:MOST_FACTS], *more])}</tbody></table>"


class Result(OneLineRepr):
    """The result of a verb."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return the document that `--json` prints."""

    @abstractmethod
    def table(self) -> str:
        """Return plain text for a terminal."""

    def check(self) -> None:
        """Raise a `HeadstartError` if the command has failed although it has a result, which has been printed."""

    def summary(self) -> str:
        """Return the first line of the table."""
        return self.table().partition("\n")[0]

    def facts(self) -> Sequence[tuple[str, str]]:
        """Return the short values of `to_json`, and the lengths of longer lists and dicts."""
        return list(short_facts(self.to_json()))


def short_facts(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (key, short text) for every non-empty value.

    >>> list(short_facts({"out": "run", "classes": {"cat": 1200, "dog": 3}, "rows": [{}, {}], "note": ""}))
    [('out', 'run'), ('classes', 'cat 1,200, dog 3'), ('rows', '2 entries')]
    """
    for key, value in document.items():
        if value is not None and value not in ("", [], {}, ()):
            yield key.replace("_", " "), _short(value)


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping) and len(value) <= MOST_VALUES and all(map(_is_single, value.values())):
        return few([f"{key} {_short(single)}" for key, single in value.items()])
    if isinstance(value, list | tuple) and len(value) <= MOST_VALUES and all(map(_is_single, value)):
        return few([_short(single) for single in value])
    return str(value) if isinstance(value, str) else f"{len(value):,} entr{'y' if len(value) == 1 else 'ies'}"


def _is_single(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cut(text: str) -> str:
    line = plain(" ".join(text.split()))
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 1] + "…"
