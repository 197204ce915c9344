"""The two files that `headstart check --out checks.csv` writes beside its table: a page of copies, and a table to edit.

    checks-copies.html    pairs that are treated as copies
    checks-copies.csv     all of these pairs, with a column `not_copies` for a person to fill in

They exist only if there are such pairs. A table that has been edited is never replaced.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from headstart.data.data_source import DataSource
from headstart.data.not_copies import copy_rows, doubted_rows, read_not_copies, write_copies
from headstart.errors import DataError, WriteError
from headstart.io.files import remove_files, write_text
from headstart.io.folders import check_keeps
from headstart.io.text_table import plain
from headstart.pipeline.scan import ScannedDataset
from headstart.reports.copies_page import CopiesSheet, copies_page
from headstart.runs.outside_runs import check_out_file

WRITTEN_BY = b'<meta name="generator" content="headstart">'


def sheet_places(out: Path) -> tuple[Path, Path]:
    """Return the paths of the page and the table, beside `out`."""
    return out.with_name(f"{out.stem}-copies.html"), out.with_name(f"{out.stem}-copies.csv")


def check_sheet_places(out: Path, data: Path, inputs: Sequence[Path]) -> None:
    """Raise `WriteError` if page or table cannot be written, or would replace an input or a foreign file."""
    page, table = sheet_places(out)
    for place in (page, table):
        check_out_file(place, data)
        check_keeps(place, inputs)
    if page.exists() and WRITTEN_BY not in page.read_bytes()[:2000]:
        raise WriteError(
            f"{page}: exists and was not written by this command, so it is left alone.",
            hint="Choose another --out.",
        )
    if table.exists():
        _check_unedited(table)


def write_sheet(out: Path, scanned: ScannedDataset, source: DataSource) -> str:
    """Write page and table if there are pairs, else remove those of an earlier check; return the page's path, or ''.

    Raises `WriteError`.
    """
    page, table = sheet_places(out)
    pairs = copy_rows(scanned.copies, scanned.dataset, scanned.images.sha256s)
    doubted = list(doubted_rows(scanned.copies, scanned.dataset))
    if pairs:
        write_copies(table, pairs)
    else:
        remove_files(table)
    if not pairs and not doubted:
        remove_files(page)
        return ""
    dataset = scanned.dataset
    sheet = CopiesSheet(
        title=plain(source.title),
        pairs=pairs,
        doubted=doubted,
        files=dict(zip(dataset.paths, dataset.files, strict=True)),
        sets=dict(zip(dataset.paths, map(str, dataset.split), strict=True)),
        limit=scanned.copies.limit,
        table=table.name if pairs else "",
        commands=_commands(source) if pairs else (),
        false_share=scanned.copies.false_share,
    )
    write_text(page, copies_page(sheet))
    return str(page)


def _commands(source: DataSource) -> tuple[tuple[str, str], ...]:
    words = shlex.join(source.words())
    return (
        ("Check again:", f"headstart check {words} --not-copies not-copies.csv"),
        ("Train:", f"headstart train {words} --not-copies not-copies.csv --out run"),
    )


def _check_unedited(table: Path) -> None:
    """Raise `WriteError` if the file is anything but an unedited table of pairs from `check`."""
    try:
        edited = bool(read_not_copies(table))
    except DataError as error:
        raise WriteError(
            f"{table}: exists and was not written by this command, so it is left alone.",
            hint=f"Choose another --out.\n{error.message}",
        ) from error
    if edited:
        raise WriteError(
            f"{table}: has been edited, and would be replaced.",
            hint=f"Apply them with --not-copies {table}, and choose another --out, such as checks-2.csv.",
        )
