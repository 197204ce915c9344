"""The contact sheet of `headstart check`: what is taken for copies, pair by pair, for a person to agree or disagree.

`CopiesSheet` says what there is; `copies_page` makes one HTML document of it in the style of the other pages, which makes no
request. Some hundred pairs are shown, 1 s of a core and 2 to 4 MB; the table beside the page has all of them. Not for
judging images that are no copies: how alike any two are is not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.data.not_copies import CopyRow
from headstart.io.text_table import plain
from headstart.reports.sections import ThumbnailRef, copy_evidence, percent

MOST_PAIRS = 300
MOST_DOUBTED = 100
MOST_LARGE = 240
"""Up to so many images have larger thumbnails; with more of them, small ones keep the page to some megabytes."""


@dataclass(frozen=True, eq=False)
class CopiesSheet:
    """What the page shows. Paths are those of the data; `files` says where each image lies, `sets` which set it is in."""

    title: str
    pairs: Sequence[CopyRow]
    """All pairs that are taken for copies, the surest first."""
    doubted: Sequence[CopyRow]
    """Pairs that agree as well, and are treated as different images."""
    files: Mapping[str, Path]
    sets: Mapping[str, str]
    limit: float
    """The largest difference that is sure to be a copy in this data."""
    table: str
    """Name of the table beside the page; '' if there is none."""
    commands: Sequence[tuple[str, str]] = ()
    """(what it does, command)."""
    false_share: float | None = None


@dataclass(frozen=True)
class Half:
    """One image of a pair as the page shows it."""

    shot: ThumbnailRef
    path: str
    label: str
    set_name: str


@dataclass(frozen=True)
class Shown:
    """A pair as the page shows it."""

    both: tuple[Half, Half]
    evidence: str
    conflicting: bool


def copies_page(sheet: CopiesSheet) -> str:
    """The page."""
    from headstart.reports.run_page import page_css, page_part, render
    from headstart.reports.thumbnails import thumbnails

    pairs, doubted = shown_first(sheet.pairs, MOST_PAIRS), shown_first(sheet.doubted, MOST_DOUBTED)
    wanted = dict.fromkeys(path for row in (*pairs, *doubted) for path in (row.path, row.copy) if path in sheet.files)
    large = frozenset(wanted) if len(wanted) <= MOST_LARGE else frozenset[str]()
    small = thumbnails({path: sheet.files[path] for path in wanted}, large=large)
    number = {path: i for i, path in enumerate(small)}
    return render(
        "copies.html.j2",
        css=page_css() + page_part("copies.css"),
        script=page_part("page.js"),
        sheet=sheet,
        images=list(small.values()),
        parts=[
            ("copies", [_shown(row, sheet, number) for row in pairs], _left_out(pairs, sheet.pairs, sheet.table)),
            ("doubted", [_shown(row, sheet, number) for row in doubted], _left_out(doubted, sheet.doubted)),
        ],
        estimate=_estimate(sheet),
    )


def shown_first(rows: Sequence[CopyRow], most: int) -> list[CopyRow]:
    """At most so many of the pairs, in their order: those with different labels, then the first."""
    chosen = sorted(range(len(rows)), key=lambda i: (not rows[i].conflicting, i))[:most]
    return [rows[i] for i in sorted(chosen)]


def _shown(row: CopyRow, sheet: CopiesSheet, number: Mapping[str, int]) -> Shown:
    first, second = (
        Half(ThumbnailRef(number.get(path, -1), plain(path)), plain(path), label, sheet.sets.get(path, ""))
        for path, label in ((row.path, row.label), (row.copy, row.copy_label))
    )
    return Shown((first, second), copy_evidence(row, sheet.limit), row.conflicting)


def _left_out(shown: Sequence[CopyRow], rows: Sequence[CopyRow], table: str = "") -> str:
    """Which of the pairs are shown, in a sentence; '' if all are."""
    if len(shown) == len(rows):
        return ""
    conflicting = sum(row.conflicting for row in rows)
    which = "the first of those with different labels"
    if conflicting <= len(shown):
        which = "those with different labels, and the first of the others" if conflicting else "the first of them"
    where = f" The other {len(rows) - len(shown):,} are in {table} as well." if table else ""
    return f"{len(shown):,} of {len(rows):,} pairs are shown: {which}.{where}"


def _estimate(sheet: CopiesSheet) -> str:
    if sheet.false_share is None:
        return ""
    return f"An estimated {percent(sheet.false_share)} of these pairs are wrong, judging by their labels."
