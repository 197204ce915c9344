"""The table of copies, in which a person can mark pairs that are not copies.

    path,copy,label,copy_label,evidence,difference,not_copies
    cat/7.jpg,cat/9.jpg,cat,cat,same_file,0.00000,
    cat/3.jpg,cat/8.jpg,cat,cat,near,0.00312,
    cat/3.jpg,dog/5.jpg,cat,dog,near,0.01304,x

`headstart check DATA --out checks.csv` writes one as `checks-copies.csv`, a run has one as `copies.csv`. A person puts
an x into `not_copies` and passes the table to `--not-copies`: that pair is then treated as two images. Rows without an
x have no effect. Only `path`, `copy` and `not_copies` are required. Semicolons, as some spreadsheets save them, are
accepted.

Costs milliseconds per 10,000 rows. Not for files with the same bytes, which are always copies; and not for declaring
two images copies: name a group for that (`--group-column`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from headstart.data.copies import Copies
from headstart.data.dataset import Dataset, hash_rows
from headstart.data.edited import check_ticks, counted, edited_rows, path_in_data, ticked
from headstart.errors import BadCopies, near_names
from headstart.io.files import write_csv
from headstart.io.progress import log
from headstart.io.text_table import few

COPIES_HEADER = ("path", "copy", "label", "copy_label", "evidence", "difference", "not_copies")
"""Columns of checks-copies.csv and copies.csv."""


@dataclass(frozen=True)
class CopyRow:
    """A pair of copies, as a row of the table.

    `evidence` is 'same_file', 'same_pixels' or 'near'. `difference`: the fraction of the variance that differs, 0 to 1,
    as text; '' if unknown. `refused`: whether a person says that they are not copies.
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
    """The pairs of a table with an x. False, and without effect, if there are none, as from `read_not_copies(None)`."""

    source: Path = Path()
    rows: tuple[CopyRow, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.rows)

    @property
    def hash(self) -> str:
        """SHA-256 over the pairs, independent of their order."""
        return hash_rows(sorted(sorted((row.path, row.copy)) for row in self.rows))

    def among(self, paths: Iterable[str]) -> NotCopies:
        """Only the pairs with both images among these paths."""
        wanted = set(paths)
        return replace(self, rows=tuple(row for row in self.rows if row.path in wanted and row.copy in wanted))

    def checked(self, dataset: Dataset) -> NotCopies:
        """The same with the paths as the data spells them. Raises `BadCopies`, naming every row that does not fit."""
        in_data = {*dataset.paths, *dataset.left_out}
        rows = [(row, path_in_data(row.path, in_data), path_in_data(row.copy, in_data)) for row in self.rows]
        missing = [path for _, *pair in rows for path in pair if path not in in_data]
        alone = [repr(path) for _, path, copy in rows if path == copy]
        if missing:
            near = near_names(missing[0], list(in_data), n=1) if len(in_data) <= 10_000 else ""
            raise BadCopies(
                f"{self.source}: {counted('a path that is not in the data', map(repr, missing))}.",
                hint=near or f"Expected paths relative to {dataset.root}.",
            )
        if alone:
            raise BadCopies(
                f"{self.source}: {counted('the same path twice', alone)}.", hint="A pair needs two different images."
            )
        return replace(self, rows=tuple(replace(row, path=path, copy=copy) for row, path, copy in rows))

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
        """The copies among N images without these pairs, and without those of files identical to either image."""
        rows = self.among(paths).rows
        if not rows:
            return copies
        index = {path: i for i, path in enumerate(paths)}
        same: dict[str, list[int]] = {}
        for i, sha256 in enumerate(sha256s):
            same.setdefault(sha256, []).append(i)
        pairs = [(index[row.path], index[row.copy]) for row in rows]
        left = copies.without([both for i, j in pairs for both in product(same[sha256s[i]], same[sha256s[j]])])
        log.info("Pairs marked as not copies in %s: %s.", self.source, f"{len(rows):,}")
        still = [f"{paths[i]} and {paths[j]}" for i, j in pairs if left.groups_N[i] == left.groups_N[j]]
        if still:
            log.warning("%s: other copies still keep some of these pairs together: %s.", self.source, few(still, 3))
        return left

    def write(self, path: Path) -> None:
        """Write the pairs, ready to be read again. Raises `WriteError`."""
        write_copies(path, self.rows)


def read_not_copies(path: Path | None) -> NotCopies:
    """The pairs with an x in a table of copies; none for None. Raises `MissingData`, `BadCopies` (not such a table)."""
    if path is None:
        return NotCopies()
    table = Path(path)
    rows = edited_rows(
        table,
        what="table of copies",
        fits=lambda header: {"path", "copy", "not_copies"} <= header,
        expected="path, copy and not_copies",
        hint="`headstart check DATA --out checks.csv` writes one, checks-copies.csv.",
        error=BadCopies,
    )
    check_ticks(table, rows, "not_copies", BadCopies)
    return NotCopies(table, tuple(row for row in map(copy_row, rows) if row.refused))


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
    """The pairs that agree as copies do but are treated as different images."""
    return (_row(dataset, i, j, "near", "") for i, j in copies.doubted_K2.tolist())


def write_copies(path: Path, rows: Iterable[CopyRow]) -> None:
    """Write a table for a person to edit. Raises `WriteError`."""
    cells = [(r.path, r.copy, r.label, r.copy_label, r.evidence, r.difference, "x" * r.refused) for r in rows]
    write_csv(path, COPIES_HEADER, cells)


def _row(dataset: Dataset, i: int, j: int, evidence: str, difference: str) -> CopyRow:
    return CopyRow(
        path=dataset.paths[i],
        copy=dataset.paths[j],
        label=dataset.label_name(i),
        copy_label=dataset.label_name(j),
        evidence=evidence,
        difference=difference,
    )


def _evidence(same_file: bool, certain: bool) -> str:
    return "same_file" if same_file else "same_pixels" if certain else "near"
