"""Corrections of labels in a table beside the data: other labels, and images to leave out. The images stay untouched.

    path,label,suggested,label_quality,new_label,drop
    cat/7.jpg,cat,dog,0.00130,dog,
    cat/9.jpg,cat,dog,0.01886,,x
    cat/3.jpg,cat,dog,0.09468,,

`headstart check DATA --write-corrections corrections.csv` writes one row per suspected label, without a change; a
person fills in `new_label`, or puts an x into `drop`, and passes the table to `--corrections corrections.csv`. A row
with neither has no effect. Only `path` and one of `new_label` and `drop` are required. Semicolons, as some spreadsheets
save them, are accepted.

Costs milliseconds per 10,000 rows. Not for labelling a dataset from scratch: a table of paths and labels is data in its
own right, and a class that is not in the data is refused here as a typo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data.chosen_classes import without_classes
from headstart.data.dataset import Dataset
from headstart.data.edited import check_ticks, counted, edited_rows, path_in_data, ticked
from headstart.errors import BadLabels, near_names
from headstart.io.files import write_csv
from headstart.io.progress import log
from headstart.io.text_table import few

CORRECTIONS_HEADER = ("path", "label", "suggested", "label_quality", "new_label", "drop")
"""Columns of corrections.csv."""


@dataclass(frozen=True)
class Correction:
    """One row. An empty `new_label` keeps the label; `label` is the label before the correction, '' if not given."""

    path: str
    label: str
    suggested: str
    label_quality: str
    new_label: str
    drop: bool

    @property
    def idle(self) -> bool:
        """Whether the row changes nothing."""
        return not self.new_label and not self.drop


@dataclass(frozen=True)
class Corrections:
    """The rows of a table of corrections. False if none of them changes anything, as from `read_corrections(None)`."""

    source: Path
    rows: tuple[Correction, ...] = ()

    def __bool__(self) -> bool:
        return any(not row.idle for row in self.rows)

    @property
    def relabelled(self) -> int:
        """Number of rows with a new label."""
        return sum(bool(row.new_label) for row in self.rows)

    @property
    def dropped(self) -> int:
        """Number of rows that leave an image out."""
        return sum(row.drop for row in self.rows)

    def among(self, paths: Iterable[str]) -> Corrections:
        """Only the rows for these paths."""
        wanted = set(paths)
        return replace(self, rows=tuple(row for row in self.rows if row.path in wanted))

    def changing(self, dataset: Dataset) -> Corrections:
        """Only the rows that give an image of the dataset another label, or leave it out."""
        names = {path: dataset.label_name(i) for i, path in enumerate(dataset.paths)}
        rows = (row for row in self.rows if row.path in names)
        return replace(self, rows=tuple(row for row in rows if row.drop or row.new_label not in ("", names[row.path])))

    def spelled_as(self, dataset: Dataset) -> Corrections:
        """The same rows with the paths as the data spells them, where a spreadsheet on Windows wrote backslashes."""
        known = {*dataset.paths, *dataset.left_out}
        return replace(self, rows=tuple(replace(row, path=path_in_data(row.path, known)) for row in self.rows))

    def applied_to(self, dataset: Dataset) -> Dataset:
        """The dataset with these labels, and without the images to leave out.

        Raises `BadLabels`, which names all rows that do not fit: paths that are not in the data, or twice in the table;
        classes that are not in the data; labels that differ from the data; rows with both a new label and an x. Also if no
        image would be left.
        """
        if not self.rows:
            return dataset
        index = {path: i for i, path in enumerate(dataset.paths)}
        fitted = self.spelled_as(dataset)
        problems = list(fitted._problems(dataset, index))
        if problems:
            hints = dict.fromkeys(hint for _, hint in problems if hint)
            raise BadLabels(f"{self.source}: {'; '.join(text for text, _ in problems)}.", hint="\n".join(hints))
        changes = fitted.changing(dataset)
        log.info("Corrections in %s: %s.", self.source, given_and_left_out(changes.relabelled, changes.dropped))
        others = [row for row in fitted.rows if row.path in dataset.left_out and not row.idle]
        if others:
            words = "1 row is for an image" if len(others) == 1 else f"{len(others):,} rows are for images"
            log.info("%s of classes that are left out.", words)
        labels, keep = dataset.labels.copy(), np.ones(len(dataset), bool)
        for row in changes.rows:
            keep[index[row.path]] = not row.drop
            if row.new_label:
                labels[index[row.path]] = dataset.classes.index(row.new_label)
        if not keep.any():
            raise BadLabels(f"{self.source}: leaves out all {len(dataset):,} images.", hint="Keep some of them.")
        return self._without_emptied(dataset, replace(dataset, labels=labels).take(keep))

    def _without_emptied(self, before: Dataset, after: Dataset) -> Dataset:
        """The corrected dataset without the classes of which no image is left, which is logged."""
        there, left = (set(dataset.labels.tolist()) - {-1} for dataset in (before, after))
        emptied = [before.classes[k] for k in sorted(there - left)]
        if not emptied:
            return after
        log.info(
            "The corrections leave no image of %s; %s.",
            few([repr(name) for name in emptied], 3),
            "the class is not used" if len(emptied) == 1 else "these classes are not used",
        )
        gone = {path: before.label_name(i) for i, path in enumerate(before.paths) if before.label_name(i) in emptied}
        return replace(without_classes(after, emptied), left_out={**before.left_out, **gone})

    def write(self, path: Path) -> None:
        """Write the rows that change something, ready to be read again. Raises `WriteError`."""
        write_csv(path, CORRECTIONS_HEADER, [_cells(row) for row in self.rows if not row.idle])

    def _problems(self, dataset: Dataset, index: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """(problem, hint) for each kind of row that does not fit."""
        missing = [row.path for row in self.rows if row.path not in index and row.path not in dataset.left_out]
        if missing:
            near = near_names(missing[0], list(index), n=1) if len(index) <= 10_000 else ""
            hint = near or f"Expected paths relative to {dataset.root}."
            yield counted("a path that is not in the data", map(repr, missing)), hint
        twice = [repr(path) for path, n in Counter(row.path for row in self.rows).items() if n > 1]
        if twice:
            yield counted("more than one row", twice, "path"), "Keep one row per image."
        unknown = {row.new_label: row for row in self.rows if row.new_label and row.new_label not in dataset.classes}
        if unknown:
            listed = [f"{name!r} for {row.path!r}" for name, row in unknown.items()]
            yield counted("a new_label that is not a class in the data", listed), _near_class(unknown, dataset)
        current = {row.path: dataset.label_name(index[row.path]) for row in self.rows if row.path in index}
        stale = [row for row in self.rows if row.path in current and row.label not in ("", current[row.path])]
        stale = [row for row in stale if not row.idle and row.new_label != current[row.path]]
        if stale:
            listed = [f"{row.path!r}: {row.label!r}, in the data {current[row.path]!r}" for row in stale]
            yield counted("a label that is not the one in the data", listed), "Was the table made for other data?"
        both = [repr(row.path) for row in self.rows if row.drop and row.new_label]
        if both:
            yield counted("both a new_label and an x in drop", both), "Empty one of the two."


def read_corrections(path: Path | None) -> Corrections:
    """The rows of a table of corrections; none for None. Raises `MissingData`, `BadLabels` (not such a table)."""
    if path is None:
        return Corrections(Path())
    table = Path(path)
    cells = edited_rows(
        table,
        what="table of corrections",
        fits=lambda header: "path" in header and bool({"new_label", "drop"} & header),
        expected="path and new_label or drop",
        hint="`headstart check DATA --labels --write-corrections corrections.csv` writes one.",
        error=BadLabels,
    )
    check_ticks(table, cells, "drop", BadLabels)
    return Corrections(table, tuple(_correction(row) for row in cells))


def write_suspects(path: Path, rows: Iterable[tuple[str, str, str, float]]) -> None:
    """Write a table for a person to edit, from (path, label, suggested, label_quality). Raises `WriteError`."""
    write_csv(path, CORRECTIONS_HEADER, [(p, label, suggested, f"{q:.5f}", "", "") for p, label, suggested, q in rows])


def _correction(row: Mapping[str, str]) -> Correction:
    drop = bool(ticked(row.get("drop", "")))
    new_label = row.get("new_label", "").strip()
    return Correction(
        path=row["path"],
        label=row.get("label", ""),
        suggested=row.get("suggested", ""),
        label_quality=row.get("label_quality", ""),
        new_label=new_label,
        drop=drop,
    )


def _cells(row: Correction) -> tuple[str, ...]:
    return (row.path, row.label, row.suggested, row.label_quality, row.new_label, "x" * row.drop)


def _near_class(unknown: Mapping[str, Correction], dataset: Dataset) -> str:
    first = next(iter(unknown))
    alike = [name for name in dataset.classes if name.casefold() == first.casefold()]
    near = f"Did you mean {alike[0]!r}?" if alike else near_names(first, list(dataset.classes))
    return near or f"Expected one of {few([repr(name) for name in dataset.classes], 10)}."


def given_and_left_out(labels: int, images: int) -> str:
    """A summary of corrections.

    >>> given_and_left_out(1, 2)
    '1 label changed, 2 images left out'
    """
    return f"{labels:,} label{'s' * (labels != 1)} changed, {images:,} image{'s' * (images != 1)} left out"
