"""Corrections of labels in a table beside the data: other labels, and images to leave out. The images stay untouched.

    path,label,suggested,label_quality,new_label,drop
    cat/7.jpg,cat,dog,0.00130,dog,
    cat/9.jpg,cat,dog,0.01886,,x
    cat/3.jpg,cat,dog,0.09468,,

`headstart check DATA --write-corrections corrections.csv` writes one with a row for each suspected label and nothing to be
done; a person fills in `new_label`, or puts an x into `drop`, and gives it back with `--corrections corrections.csv`. A row
with neither does nothing. Only `path` and one of `new_label` and `drop` must be there. Spreadsheets may have saved it with
semicolons.

Costs milliseconds per 10,000 rows. Not for labelling a data set from nothing: a table of paths and labels is data of its
own, and a class that the data does not have is refused here as a slip of the pen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data.edited import check_ticks, counted, edited_rows, ticked
from headstart.data.open_dataset import Dataset
from headstart.errors import BadLabels, near_names
from headstart.io.files import write_csv
from headstart.io.progress import log
from headstart.io.text_table import few

CORRECTIONS_HEADER = ("path", "label", "suggested", "label_quality", "new_label", "drop")
"""Columns of corrections.csv."""


@dataclass(frozen=True)
class Correction:
    """One row. An empty `new_label` leaves the label as it is; `label` is the one that the image had, '' if not said."""

    path: str
    label: str
    suggested: str
    label_quality: str
    new_label: str
    drop: bool

    @property
    def idle(self) -> bool:
        """Whether it leaves everything as it is."""
        return not self.new_label and not self.drop


@dataclass(frozen=True)
class Corrections:
    """The rows of a table of corrections. Without any (as `read_corrections(None)` gives it) it is false and changes
    nothing."""

    source: Path
    rows: tuple[Correction, ...] = ()

    def __bool__(self) -> bool:
        return any(not row.idle for row in self.rows)

    @property
    def relabelled(self) -> int:
        """How many rows give another label."""
        return sum(bool(row.new_label) for row in self.rows)

    @property
    def dropped(self) -> int:
        """How many rows leave an image out."""
        return sum(row.drop for row in self.rows)

    def among(self, paths: Iterable[str]) -> Corrections:
        """Only the rows that are about one of these paths."""
        known = set(paths)
        return replace(self, rows=tuple(row for row in self.rows if row.path in known))

    def applied_to(self, dataset: Dataset) -> Dataset:
        """The data set with these labels, and without the images that are to be left out.

        Raises `BadLabels`, naming every row that does not fit at once: paths that are not in the data, or twice in the
        table; classes that the data does not have; labels that were not those of the data; rows that ask for both.
        """
        if not self.rows:
            return dataset
        place = {path: i for i, path in enumerate(dataset.paths)}
        problems = list(self._problems(dataset, place))
        if problems:
            hints = dict.fromkeys(hint for _, hint in problems if hint)
            raise BadLabels(f"{self.source}: {'; '.join(text for text, _ in problems)}.", hint="\n".join(hints))
        log.info("Corrections in %s: %s.", self.source, given_and_left_out(self.relabelled, self.dropped))
        labels, keep = dataset.labels.copy(), np.ones(len(dataset), bool)
        for row in self.rows:
            keep[place[row.path]] = not row.drop
            if row.new_label:
                labels[place[row.path]] = dataset.classes.index(row.new_label)
        return replace(dataset, labels=labels).take(keep)

    def write(self, path: Path) -> None:
        """Write the rows that change something, as they can be given back. Raises `WriteError`."""
        write_csv(path, CORRECTIONS_HEADER, [_cells(row) for row in self.rows if not row.idle])

    def _problems(self, dataset: Dataset, place: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """(what is wrong, what to do next) for each kind of row that does not fit."""
        strangers = [row.path for row in self.rows if row.path not in place]
        if strangers:
            near = near_names(strangers[0], list(place), n=1) if len(place) <= 10_000 else ""
            hint = near or f"Expected paths relative to {dataset.root}."
            yield counted("a path that is not in the data", map(repr, strangers)), hint
        twice = [repr(path) for path, n in Counter(row.path for row in self.rows).items() if n > 1]
        if twice:
            yield counted("more than one row", twice, "path"), "Keep one row for each image."
        unknown = {row.new_label: row for row in self.rows if row.new_label and row.new_label not in dataset.classes}
        if unknown:
            listed = [f"{name!r} for {row.path!r}" for name, row in unknown.items()]
            yield counted("a new_label that is no class of the data", listed), _near_class(unknown, dataset)
        here = {row.path: dataset.label_name(place[row.path]) for row in self.rows if row.path in place}
        stale = [row for row in self.rows if row.path in here and row.label not in ("", here[row.path])]
        stale = [row for row in stale if not row.idle and row.new_label != here[row.path]]
        if stale:
            listed = [f"{row.path!r}: {row.label!r}, in the data {here[row.path]!r}" for row in stale]
            yield counted("a label that is not the one in the data", listed), "Was the table made for other data?"
        both = [repr(row.path) for row in self.rows if row.drop and row.new_label]
        if both:
            yield counted("both a new_label and an x in drop", both), "Empty one of the two."


def read_corrections(path: Path | None) -> Corrections:
    """The rows of a table of corrections; none for None. Raises `MissingData`, `BadLabels` (no such table)."""
    if path is None:
        return Corrections(Path())
    place = Path(path)
    cells = edited_rows(
        place,
        what="table of corrections",
        fits=lambda header: "path" in header and bool({"new_label", "drop"} & header),
        expected="path and new_label or drop",
        hint="`headstart check DATA --labels --write-corrections corrections.csv` writes one.",
        error=BadLabels,
    )
    check_ticks(place, cells, "drop", BadLabels)
    return Corrections(place, tuple(_correction(row) for row in cells))


def write_suspects(path: Path, rows: Iterable[tuple[str, str, str, float]]) -> None:
    """Write a table for a person to edit, from (path, label, suggested, label_quality). Raises `WriteError`."""
    write_csv(path, CORRECTIONS_HEADER, [(p, label, suggested, f"{q:.5f}", "", "") for p, label, suggested, q in rows])


def _correction(row: Mapping[str, str]) -> Correction:
    drop = bool(ticked(row.get("drop", "")))
    new_label = row.get("new_label", "").strip()
    return Correction(
        row["path"], row.get("label", ""), row.get("suggested", ""), row.get("label_quality", ""), new_label, drop
    )


def _cells(row: Correction) -> tuple[str, ...]:
    return (row.path, row.label, row.suggested, row.label_quality, row.new_label, "x" * row.drop)


def _near_class(unknown: Mapping[str, Correction], dataset: Dataset) -> str:
    first = next(iter(unknown))
    alike = [name for name in dataset.classes if name.casefold() == first.casefold()]
    near = f"Did you mean {alike[0]!r}?" if alike else near_names(first, list(dataset.classes))
    return near or f"Expected one of {few([repr(name) for name in dataset.classes], 10)}."


def given_and_left_out(labels: int, images: int) -> str:
    """What corrections come to, in words.

    >>> given_and_left_out(1, 2)
    '1 label given, 2 images left out'
    """
    return f"{labels:,} label{'s' * (labels != 1)} given, {images:,} image{'s' * (images != 1)} left out"
