"""`headstart check DATA`: what is wrong with a data set, before anything is trained on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.columns import few, plain
from headstart.data.checks import CHECKS_HEADER, Finding, checks_rows
from headstart.files import check_out_file, write_csv
from headstart.verbs.look import look


@dataclass(frozen=True)
class Checked:
    """What `check` found: `findings`, and `groups` of copies (lists of paths)."""

    pictures: int
    usable: int
    classes: dict[str, int]
    findings: list[Finding]
    groups: list[list[str]]

    def to_json(self) -> dict[str, Any]:
        """The document of `check --json`."""
        return {**asdict(self), "label_errors": []}

    def table(self) -> str:
        """Plain text for a terminal: one finding a line, with the first paths below it."""
        counts = few([f"{plain(name)} {n:,}" for name, n in self.classes.items()])
        lines = [f"{self.pictures:,} files, {self.usable:,} usable, {len(self.classes)} classes: {counts or 'none'}"]
        for f in self.findings:
            lines.append(f"{f.severity:<8} {f.check:<19} {plain(f.message)}")
            lines += [f"{'':29}{plain(p)}" for p in f.paths[:3]]
            if len(f.paths) > 3:
                lines.append(f"{'':29}and {len(f.paths) - 3:,} more")
        return "\n".join(lines)


def check(data: Path, *, out: Path | None = None) -> Checked:
    """Look at every picture and say what is wrong: damaged files, copies, leaks, odd formats, unbalanced classes.

    Nothing on disk is changed. Example:

        headstart check photos --out checks.csv

    Args:
        data: Folder of class folders, of split folders, or a table (CSV, TSV, parquet) with a path and a label column.
        out: CSV to write, one row for each finding and path.

    Raises:
        DataError: nothing there can be used.
        WriteError: `out` cannot be written.
    """
    if out is not None:
        check_out_file(Path(out))
    looked = look(data)
    found = looked.findings()
    if out is not None:
        write_csv(Path(out), CHECKS_HEADER, checks_rows(found))
    dataset = looked.dataset
    by_group: dict[int, list[str]] = {}
    for path, group in zip(dataset.paths, dataset.groups.tolist(), strict=True):
        by_group.setdefault(group, []).append(path)
    return Checked(
        pictures=len(looked.everything),
        usable=len(dataset),
        classes={name: int((dataset.labels == k).sum()) for k, name in enumerate(dataset.classes)},
        findings=found,
        groups=[paths for paths in by_group.values() if len(paths) > 1],
    )
