"""`Finding`: one thing worth knowing about a dataset; and findings as rows of checks.csv, and back.

`data.checks` finds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

CHECKS_HEADER = ("check", "severity", "path", "message")
"""Columns of checks.csv; the rows are those of `checks_rows`."""


@dataclass(frozen=True)
class Finding:
    """One thing worth knowing about a dataset."""

    check: str
    """Short name, for scripts: 'truncated', 'near_duplicates' ..."""
    severity: str
    """'error' (images are lost, or results would mislead), 'warning' (look at it), 'info'."""
    paths: tuple[str, ...]
    """The images concerned; those of one group are adjacent. May be empty."""
    message: str
    """A sentence for the user, with counts."""
    details: tuple[str, ...] = ()
    """A sentence about each of the paths; empty if the message says all of each."""


def checks_rows(findings: Sequence[Finding]) -> list[tuple[str, str, str, str]]:
    """Rows of checks.csv (`CHECKS_HEADER`): one for each path of a finding, and one with an empty path where it has
    none, or where the paths have messages of their own.
    """
    rows = []
    for f in findings:
        whole = [("", f.message)] if f.details or not f.paths else []
        each = zip(f.paths, f.details or [f.message] * len(f.paths), strict=True)
        rows += [(f.check, f.severity, path, message) for path, message in (*whole, *each)]
    return rows


def read_checks(rows: Iterable[Sequence[str]]) -> tuple[Finding, ...]:
    """Invert `checks_rows`."""
    found: list[Finding] = []
    for check, severity, path, message in rows:
        last = found[-1] if found else None
        if last is None or (last.check, last.severity) != (check, severity) or not path:
            found.append(Finding(check, severity, (path,) if path else (), message))
        elif last.details or not last.paths:
            found[-1] = replace(last, paths=(*last.paths, path), details=(*last.details, message))
        elif last.message == message:
            found[-1] = replace(last, paths=(*last.paths, path))
        else:
            found.append(Finding(check, severity, (path,), message))
    return tuple(found)
