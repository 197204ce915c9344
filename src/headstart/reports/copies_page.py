"""The contact sheet of `headstart check`: pairs that are treated as copies, for a person to confirm or reject.

`CopiesSheet` holds the content; `copies_page` makes one HTML document of it that makes no requests, in the style of the
other pages. It shows a few hundred pairs, in 1 s of one core and 2 to 4 MB; the table beside the page lists all of
them. Not for comparing other images: their similarity is not computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headstart.data.not_copies import CopyRow
from headstart.images.file_part import ImageFile
from headstart.io.text_table import plain
from headstart.reports.sections import ThumbnailRef, copy_evidence, percent

MOST_PAIRS = 300
MOST_DOUBTED = 100
MOST_LARGE = 240
"""Up to this number of images, thumbnails are larger; beyond it, small ones keep the page to a few megabytes."""


@dataclass(frozen=True, eq=False)
class CopiesSheet:
    """Content of the page. Paths are those of the data; `files` maps each to its file, `sets` to its set."""

    title: str
    pairs: Sequence[CopyRow]
    """All pairs that are treated as copies, the most certain first."""
    doubted: Sequence[CopyRow]
    """Pairs that agree as closely, but are treated as different images."""
    files: Mapping[str, ImageFile]
    sets: Mapping[str, str]
    limit: float
    """The largest difference that certainly means a copy in this data."""
    table: str
    """Name of the table beside the page; '' for none."""
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
    """Return the page as HTML."""
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
    """Return at most `most` pairs, in their order: those with different labels, then the first of the others."""
    chosen = sorted(range(len(rows)), key=lambda i: (not rows[i].conflicting, i))[:most]
    return [rows[i] for i in sorted(chosen)]


def _shown(row: CopyRow, sheet: CopiesSheet, number: Mapping[str, int]) -> Shown:
    first, second = (
        Half(ThumbnailRef(number.get(path, -1), plain(path)), plain(path), label, sheet.sets.get(path, ""))
        for path, label in ((row.path, row.label), (row.copy, row.copy_label))
    )
    return Shown((first, second), copy_evidence(row, sheet.limit), row.conflicting)


def _left_out(shown: Sequence[CopyRow], rows: Sequence[CopyRow], table: str = "") -> str:
    """Say which of the pairs are shown; '' if all are."""
    if len(shown) == len(rows):
        return ""
    conflicting = sum(row.conflicting for row in rows)
    which = "the first of those with different labels"
    if conflicting <= len(shown):
        which = "those with different labels, and the first of the others" if conflicting else "the first of them"
    where = f" {table} lists all of them." if table else ""
    return f"{len(shown):,} of {len(rows):,} pairs are shown: {which}.{where}"


def _estimate(sheet: CopiesSheet) -> str:
    if sheet.false_share is None:
        return ""
    return f"Judging by the labels, an estimated {percent(sheet.false_share)} of these pairs are wrong."
