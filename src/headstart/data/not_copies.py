"""The table of what is taken for copies, and how a person says that a pair is none.

    path,copy,label,copy_label,evidence,difference,not_copies
    cat/7.jpg,cat/9.jpg,cat,cat,same_file,0.00000,
    cat/3.jpg,cat/8.jpg,cat,cat,near,0.00312,
    cat/3.jpg,dog/5.jpg,cat,dog,near,0.01304,x

`headstart check DATA --out checks.csv` writes one as `checks-copies.csv`, a run has one as `copies.csv`. A person puts an
x into `not_copies` and gives it back with `--not-copies`: that pair is then treated as two images. Rows without an x do
nothing. Only `path`, `copy` and `not_copies` must be there; spreadsheets may have saved it with semicolons.

Costs milliseconds per 10,000 rows. Not for files with the same bytes, which are copies whatever they show; and not for
saying that two images are copies: name a group for that (`--group-column`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from headstart.data.copies import Copies
from headstart.data.edited import check_ticks, counted, edited_rows, ticked
from headstart.data.open_dataset import Dataset, hash_rows
from headstart.errors import BadCopies, near_names
from headstart.io.files import write_csv
from headstart.io.progress import log
from headstart.io.text_table import few

COPIES_HEADER = ("path", "copy", "label", "copy_label", "evidence", "difference", "not_copies")
"""Columns of checks-copies.csv and copies.csv."""


@dataclass(frozen=True)
class CopyRow:
    """A pair of images that are taken for copies, as a row of the table.

    `evidence` is 'same_file', 'same_pixels' or 'near'. `difference`: the part of the variance that differs, 0 to 1, as
    text; '' if it is not known. `refused`: whether somebody says that they are no copies.
    """

    path: str
    copy: str
    label: str = ""
    copy_label: str = ""
    evidence: str = ""
    difference: str = ""
    refused: bool = False

    @property
    def conflicting(self) -> bool:
        """Whether the two have different labels."""
        return bool(self.label and self.copy_label) and self.label != self.copy_label


@dataclass(frozen=True)
class NotCopies:
    """The pairs of a table that have an x. Without any (as `read_not_copies(None)` gives it) it is false, and does nothing."""

    source: Path = Path()
    rows: tuple[CopyRow, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def hash(self) -> str:
        """SHA-256 over the pairs, whatever their order."""
        return hash_rows(sorted(sorted((row.path, row.copy)) for row in self.rows))

    def among(self, paths: Iterable[str]) -> NotCopies:
        """Only the pairs of which both are among these paths."""
        known = set(paths)
        return replace(self, rows=tuple(row for row in self.rows if row.path in known and row.copy in known))

    def checked(self, dataset: Dataset) -> NotCopies:
        """The same, if all of its paths are in the data. Raises `BadCopies`, naming every row that does not fit."""
        known = set(dataset.paths)
        strangers = [path for row in self.rows for path in (row.path, row.copy) if path not in known]
        alone = [repr(row.path) for row in self.rows if row.path == row.copy]
        if strangers:
            near = near_names(strangers[0], list(known), n=1) if len(known) <= 10_000 else ""
            raise BadCopies(
                f"{self.source}: {counted('a path that is not in the data', map(repr, strangers))}.",
                hint=near or f"Expected paths relative to {dataset.root}.",
            )
        if alone:
            raise BadCopies(f"{self.source}: {counted('the same path twice', alone)}.", hint="A pair is of two images.")
        return self

    def check_files(self, paths: Sequence[str], sha256s: Sequence[str]) -> None:
        """Raise `BadCopies` if a pair is the same file; N images."""
        by_path = dict(zip(paths, sha256s, strict=True))
        same = [row for row in self.among(paths).rows if by_path[row.path] == by_path[row.copy]]
        if same:
            listed = few([f"{row.path!r} and {row.copy!r}" for row in same], 3)
            pairs = f"{len(same):,} pair{'s' * (len(same) != 1)}"
            raise BadCopies(
                f"{self.source}: {pairs} with an x in not_copies, but with the same bytes in both files: {listed}.",
                hint="The same file is always kept together; --corrections can leave one of the two out.",
            )

    def applied_to(self, copies: Copies, paths: Sequence[str], sha256s: Sequence[str]) -> Copies:
        """The copies among N images without these pairs, nor those of files that are identical to one of the two."""
        rows = self.among(paths).rows
        if not rows:
            return copies
        place = {path: i for i, path in enumerate(paths)}
        same: dict[str, list[int]] = {}
        for i, sha256 in enumerate(sha256s):
            same.setdefault(sha256, []).append(i)
        pairs = [(place[row.path], place[row.copy]) for row in rows]
        left = copies.without([both for i, j in pairs for both in product(same[sha256s[i]], same[sha256s[j]])])
        log.info("Pairs that are no copies, in %s: %s.", self.source, f"{len(rows):,}")
        still = [f"{paths[i]} and {paths[j]}" for i, j in pairs if left.groups_N[i] == left.groups_N[j]]
        if still:
            log.warning(
                "%s: copies of other images that are the same hold some together: %s.", self.source, few(still, 3)
            )
        return left

    def write(self, path: Path) -> None:
        """Write the pairs as they can be given back. Raises `WriteError`."""
        write_copies(path, self.rows)


def read_not_copies(path: Path | None) -> NotCopies:
    """The pairs with an x of a table of copies; none for None. Raises `MissingData`, `BadCopies` (no such table)."""
    if path is None:
        return NotCopies()
    place = Path(path)
    rows = edited_rows(
        place,
        what="table of copies",
        fits=lambda header: {"path", "copy", "not_copies"} <= header,
        expected="path, copy and not_copies",
        hint="`headstart check DATA --out checks.csv` writes one, checks-copies.csv.",
        error=BadCopies,
    )
    check_ticks(place, rows, "not_copies", BadCopies)
    return NotCopies(place, tuple(row for row in map(copy_row, rows) if row.refused))


def copy_row(cells: dict[str, str]) -> CopyRow:
    """A row of the table, from its cells by column."""
    texts = {name: cells.get(name, "") for name in COPIES_HEADER[:-1]}
    return CopyRow(**texts, refused=bool(ticked(cells.get("not_copies", ""))))


def copy_rows(copies: Copies, dataset: Dataset, sha256s: Sequence[str]) -> list[CopyRow]:
    """The pairs of `copies` as rows of the table, the surest first; N images with these hashes."""
    pairs = zip(copies.pairs_M2.tolist(), copies.difference_M.tolist(), copies.certain_M.tolist(), strict=True)
    return [
        _row(dataset, i, j, _evidence(sha256s[i] == sha256s[j], certain), f"{difference:.5f}")
        for (i, j), difference, certain in pairs
    ]


def doubted_rows(copies: Copies, dataset: Dataset) -> Iterator[CopyRow]:
    """The pairs that agree as copies do and are treated as different images."""
    return (_row(dataset, i, j, "near", "") for i, j in copies.doubted_K2.tolist())


def write_copies(path: Path, rows: Iterable[CopyRow]) -> None:
    """Write a table for a person to edit. Raises `WriteError`."""
    cells = [(r.path, r.copy, r.label, r.copy_label, r.evidence, r.difference, "x" * r.refused) for r in rows]
    write_csv(path, COPIES_HEADER, cells)


def _row(dataset: Dataset, i: int, j: int, evidence: str, difference: str) -> CopyRow:
    label, copy_label = dataset.label_name(i), dataset.label_name(j)
    return CopyRow(dataset.paths[i], dataset.paths[j], label, copy_label, evidence, difference)


def _evidence(same_file: bool, certain: bool) -> str:
    return "same_file" if same_file else "same_pixels" if certain else "near"
