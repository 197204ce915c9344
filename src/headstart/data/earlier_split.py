"""Read an earlier split.csv, and match its rows to the images that are there now.

A row belongs to the image with its path and bytes; else to one with its bytes, so that an image of an old test set does
not become a training image by being renamed; else to the image with its path. If the rows have no hashes, paths decide.

Costs milliseconds per 10,000 rows. Not for tables of labels: `data.match_files` matches those.
"""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from headstart.data.class_names import class_name
from headstart.data.corrections import Corrections, given_and_left_out
from headstart.data.dataset import SPLITS, Dataset, split_name
from headstart.data.foreign_formats import refuse_foreign
from headstart.data.path_cells import plain_path
from headstart.data.table_files import csv_lines, filled_rows
from headstart.errors import BadSplit
from headstart.io.addresses import refuse_address
from headstart.io.progress import log
from headstart.io.text_table import few, number_of

Cells = Mapping[str, str]
"""A row of split.csv by column."""


@dataclass(frozen=True)
class MatchedRows:
    """`found`: (index of the image, row), in the order of the rows; the other fields say what happened to the rest."""

    found: list[tuple[int, Cells]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    """Paths of rows whose image is not there."""
    moved: list[str] = field(default_factory=list)
    """Paths of images that a row has under another path."""
    changed: list[str] = field(default_factory=list)
    """Paths of images whose bytes are not those of their row."""


def match_rows(rows: Sequence[Cells], dataset: Dataset, sha256s: Sequence[str] = ()) -> MatchedRows:
    """Match rows to the N images of a dataset, which have these hashes, if known.

    Rows of images that are in `dataset.left_out` are ignored. If several rows could be about one moved image, the one
    for the test set comes first, then that for the validation set: what was held out stays held out.
    """
    index = {path: i for i, path in enumerate(dataset.paths)}
    rows = [row if row["path"] in index else {**row, "path": plain_path(row["path"])} for row in rows]
    by_hash: dict[str, list[int]] = {}
    for i, sha256 in enumerate(sha256s):
        by_hash.setdefault(sha256, []).append(i)
    wanted = [(n, row) for n, row in enumerate(rows) if row["path"] in index or row["path"] not in dataset.left_out]
    matched = {n: [index[row["path"]]] for n, row in wanted if _is_same(row, index, sha256s)}
    taken = {i for images in matched.values() for i in images}
    result = MatchedRows()
    for n, row in sorted(wanted, key=lambda item: _rank(item[1])):
        if n not in matched:
            images = [i for i in by_hash.get(row.get("sha256", ""), []) if i not in taken]
            result.moved.extend(dataset.paths[i] for i in images)
            matched |= {n: images} if images else {}
            taken |= set(images)
    for n, row in wanted:
        i = index.get(row["path"], -1)
        if n not in matched and i >= 0 and i not in taken:
            matched[n] = [i]
            result.changed.append(row["path"])
    result.gone.extend(row["path"] for n, row in wanted if n not in matched)
    result.found.extend((i, row) for n, row in wanted for i in matched.get(n, []))
    return result


def _is_same(row: Cells, index: Mapping[str, int], sha256s: Sequence[str]) -> bool:
    """Whether a row has the path of an image, and its hash if both have one."""
    if row["path"] not in index:
        return False
    own, known = row.get("sha256", ""), sha256s[index[row["path"]]] if sha256s else ""
    return not own or not known or own == known


def _rank(row: Cells) -> int:
    """0 for the test set, 1 for validation, 2 for training, 3 for none."""
    name = split_name(row["split"])
    return len(SPLITS) - 1 - SPLITS.index(name) if name else len(SPLITS)


@dataclass(frozen=True, eq=False)
class EarlierSplit:
    """The rows of a split.csv that are about images of a dataset."""

    path: Path
    dataset: Dataset
    matched: MatchedRows

    @classmethod
    def read(
        cls, path: Path, dataset: Dataset, sha256s: Sequence[str] = (), corrections: Corrections | None = None
    ) -> EarlierSplit:
        """Read the table, and log what has changed since.

        With `corrections`, which are already applied to the dataset, rows from before them are corrected as well.
        Raises `BadSplit` if it is not such a table, for unknown split names, and if none of its images is there.
        """
        rows = _read_rows(path) if not corrections else _corrected(path, _read_rows(path), dataset, corrections)
        earlier = cls(path, dataset, match_rows(rows, dataset, sha256s))
        earlier._check()
        earlier._note_changes()
        return earlier

    def _check(self) -> None:
        if not self.matched.found:
            hint = f"Expected paths relative to {self.dataset.root}. Was the split made for other data?"
            _refuse(self.path, "a path that is not in the data", self.matched.gone, hint)
        unknown = [f"{row['path']}: {row['split']!r}" for _, row in self.matched.found if not _known(row["split"])]
        _refuse(self.path, "an unknown split name", unknown, "Expected 'train', 'val', 'test', or nothing.")

    def _note_changes(self) -> None:
        for level, paths, what in (
            (log.warning, self.matched.gone, "not in the data, or cannot be read"),
            (log.info, self.matched.moved, "found under another name, with the same bytes"),
            (log.warning, self.matched.changed, "no longer the same file, but in the same set"),
        ):
            if paths:
                n, listed = len(paths), few(list(map(repr, paths)), 3)
                level(
                    "%s: %s in it %s %s: %s.", self.path, number_of(n, "image"), "is" if n == 1 else "are", what, listed
                )

    def sets(self) -> np.ndarray:
        """'<U5' (N,): the set of each image, '' for none. Raises `BadSplit` if one has two."""
        split = np.full(len(self.dataset), "", dtype="<U5")
        twice = []
        for i, row in self.matched.found:
            name = split_name(row["split"])
            if split[i] and split[i] != name:
                twice.append(row["path"])
            split[i] = name
        _refuse(self.path, "a second set for an image", twice, "Keep one row per image.")
        return split

    def groups(self) -> np.ndarray:
        """int64 (N,): groups by the table's names; images without one are on their own. Without such a column, those of
        the data."""
        if not self.matched.found or "group" not in self.matched.found[0][1]:
            return self.dataset.groups
        groups = np.arange(len(self.dataset), dtype=np.int64)
        first: dict[str, int] = {}
        for i, row in self.matched.found:
            if row["group"]:
                groups[i] = first.setdefault(row["group"], i)
        return groups

    def joins_copies(self) -> bool:
        """Whether its groups are those of a split that headstart wrote, where near-copies are joined as far as its sets
        allow: such a table has hashes as well."""
        return bool(self.matched.found) and {"group", "sha256"} <= set(self.matched.found[0][1])

    def other_labels(self) -> list[str]:
        """Images whose label is not that of their row, with both labels."""
        labels = [(row, row.get("label"), self.dataset.label_name(i)) for i, row in self.matched.found]
        return [
            f"{row['path']}: {then!r}, in the data {now!r}"
            for row, then, now in labels
            if then is not None and class_name(then) != now
        ]

    def new_images(self) -> np.ndarray:
        """bool (N,): labelled images without a row, or with one that has neither set nor label."""
        known = [i for i, row in self.matched.found if row["split"].strip() or row.get("label", "").strip()]
        labelled: np.ndarray = self.dataset.labels >= 0
        return labelled & ~np.isin(np.arange(len(self.dataset)), known)

    def applied(self) -> Dataset:
        """The dataset with these sets and groups. Raises `BadSplit` for labels that disagree, and for one path in two sets."""
        self._refuse_other_labels()
        split = self.sets()
        new = np.flatnonzero(self.new_images()).tolist()
        if new and (split == "train").any():
            listed = few([repr(self.dataset.paths[i]) for i in new], 3)
            log.info(
                "%s does not list %s: %s. `headstart split DATA --keep %s --out NEW.csv` gives new images a set, and the "
                "others keep theirs.",
                *(self.path, number_of(len(new), "labelled image"), listed, shlex.quote(str(self.path))),
            )
        return replace(self.dataset, split=split, groups=self.groups())

    def _refuse_other_labels(self) -> None:
        """Raise `BadSplit` if an image has another label in the data."""
        hint = "`headstart split DATA --keep` makes a new split with its sets. Or give the data that this one was made for."
        _refuse(self.path, "a label that differs from the data", self.other_labels(), hint)


def read_split(
    path: Path, dataset: Dataset, corrections: Corrections | None = None, sha256s: Sequence[str] = ()
) -> Dataset:
    """The dataset with the split (and the groups, if there is such a column) of a split.csv.

    Images that it does not list get '' and a group of their own, which is logged. With `corrections`, which are already
    applied to the dataset, the split may be older than they are: images that they leave out are in no set, images that
    they relabel stay in their set. With the hashes of the images, those that were renamed are found as well. Raises
    `BadSplit` if it is not such a table, or does not fit: unknown split names, no path that is in the data, labels that
    disagree, one path in two sets.
    """
    return EarlierSplit.read(path, dataset, sha256s, corrections).applied()


def _read_rows(path: Path) -> list[dict[str, str]]:
    hint = "`headstart split DATA --out split.csv` writes one."
    refuse_address(path)
    refuse_foreign(path)
    try:
        lines = [line for line in csv_lines(path) if any(line)]
    except FileNotFoundError:
        raise BadSplit(f"{path}: there is no such file.", hint=hint) from None
    except IsADirectoryError:
        raise BadSplit(f"{path}: is a folder.", hint=f"Give the table in it: {path / 'split.csv'}") from None
    except (OSError, csv.Error) as error:
        raise BadSplit(f"{path}: cannot be read as a split: {error}.", hint=hint) from None
    if len(lines) < 2:
        raise BadSplit(f"{path}: has no rows; expected the columns path and split, and a row per image.", hint=hint)
    header = [name.strip().casefold() for name in lines[0]]
    if not {"path", "split"} <= set(header):
        raise BadSplit(
            f"{path}: is not a split: expected the columns path and split, found {', '.join(lines[0])}.",
            hint=hint,
        )
    lines = filled_rows(path, lines)
    uneven = [n for n, line in enumerate(lines[1:], 2) if len(line) != len(header)]
    if uneven:
        raise BadSplit(
            f"{path}: row {uneven[0]} has {len(lines[uneven[0] - 1])} cells where the header has {len(header)}.",
            hint="Put names that contain a comma in double quotes.",
        )
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def _corrected(
    path: Path, rows: list[dict[str, str]], dataset: Dataset, corrections: Corrections
) -> list[dict[str, str]]:
    """The rows of a split made before the corrections, with their labels and without the images they leave out."""
    dropped, left_out = {row.path for row in corrections.rows if row.drop}, set(dataset.left_out.values())
    given = {row.path: row for row in corrections.rows if row.new_label}
    kept = [row for row in rows if row["path"] not in dropped]
    changed = 0
    for n, row in enumerate(kept):
        correction, label = given.get(row["path"]), row.get("label")
        if (
            correction is not None
            and label != correction.new_label
            and label in ([correction.label] if correction.label else ["", *dataset.classes, *left_out])
        ):
            kept[n] = {**row, "label": correction.new_label}
            changed += 1
    if changed or len(kept) < len(rows):
        words = given_and_left_out(changed, len(rows) - len(kept))
        log.info("%s was made before the corrections, which are applied to it: %s.", path, words)
    return kept


def _known(text: str) -> bool:
    return not text.strip() or split_name(text) in SPLITS


def _refuse(path: Path, problem: str, bad: Sequence[str], hint: str) -> None:
    if bad:
        raise BadSplit(
            f"{path}: {len(bad):,} {'row' if len(bad) == 1 else 'rows'} with {problem}: {few(bad, 3, separator='; ')}.",
            hint=hint,
        )
