"""Tables that lie in a folder of images: which of them hold the labels, and what their rows name.

    metadata.csv, _classes.csv     by their names, at the top or in the split folders (Hugging Face, Roboflow)
    labels.csv, train.csv, ...     the only table at the top that names 95 % of the images in some folders; or several
                                   with the same columns about different images, such as a val.csv beside a train.csv
    labels/labels.csv              the same in a folder without images, or in the folders of sets (train/labels.csv)

Sample submissions and tables of the test set alone are never read for labels, and of two tables about the same images
neither is used. Costs reading the tables: about 2 s per 100,000 rows. Not for a table that is given itself:
`data.match_files` opens those.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from headstart.data.dataset import TABLES, FoundImages, both_groups, set_of_path
from headstart.data.foreign_formats import MAY_HOLD_LABELS, about
from headstart.data.image_names import Names, images_named, naming_column, set_of_table
from headstart.data.match_files import SHARE, add_row, merged, moved, one_image, with_sets
from headstart.data.one_hot import one_each
from headstart.data.path_cells import relocation
from headstart.data.proposals import about_columns
from headstart.data.table_files import LISTS, any_bytes, as_windows, is_list, is_windows, read_cells
from headstart.data.tables import Columns, LabelRow, choose_columns, label_columns, one_hot, rows_by
from headstart.errors import BadLabels
from headstart.io.progress import log
from headstart.io.text_table import few

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet", "_classes.csv")
FILE_NAMES = ("file_name", "filename")
"""Columns of paths in these tables."""
_SAMPLES = re.compile(r"(?:sample|example|submi|pred|split|unlabell?ed)|.*submission")
_NOT_LABELS = re.compile(rf"test|val|{_SAMPLES.pattern}")
"""Beginnings of the names of tables that are not read for labels."""
MOST_BYTES = 512 << 20
"""Larger tables are skipped, and JSON or lists above an eighth of it: a million rows take 50 MB."""
MOST_LISTS = 20
"""If there are more text files at the top, they are taken for captions of the images, and none is read."""


@dataclass(frozen=True)
class TableLabels:
    """Tables with the same columns, and what their rows name."""

    paths: tuple[Path, ...]
    path_column: str
    label_column: str
    kept: dict[str, LabelRow]
    rejected: dict[str, str]
    notes: tuple[str, str] = ("", "")
    """Sentences for `Dataset.unused` and `Dataset.proposal`."""


class TablesBeside:
    """The tables in a folder, whose files are `found` and whose contents begin with `top`.

    The column `group_column` of a table is never used for labels.
    """

    def __init__(self, folder: Path, top: str, found: FoundImages, *, group_column: str = "") -> None:
        self.folder = folder
        self.top = top
        self.group_column = group_column
        self.others = [path for path, reason in found.rejected if reason == "not_an_image_name"]
        self.names = Names(path for path, _, _ in found.images)

    @cached_property
    def at_top(self) -> list[str]:
        """Tables and lists beside the folders of images."""
        paths = [path for path in self.others if path.rpartition("/")[0] == self.top[:-1]]
        lists = [path for path in paths if path.lower().endswith(LISTS)]
        lists = [path for path in lists if is_list(self.folder / path)] if len(lists) <= MOST_LISTS else []
        paths = [path for path in paths if is_table_name(path) or path in lists]
        return [path for path in paths if (self.folder / path).stat().st_size <= _most_bytes(path)]

    @cached_property
    def in_folders(self) -> list[str]:
        """Tables one folder below the top, in folders without images (labels/labels.csv)."""
        folders = {path.rpartition("/")[0] for path in self.names.paths}
        paths = [path for path in self.others if path.startswith(self.top) and path[len(self.top) :].count("/") == 1]
        paths = [path for path in paths if path.lower().endswith(TABLES) and path.rpartition("/")[0] not in folders]
        small = [path for path in paths if (self.folder / path).stat().st_size <= _most_bytes(path)]
        return small if len(small) <= MOST_LISTS else []

    @cached_property
    def in_sets(self) -> list[str]:
        """Tables in the folders of sets (train/labels.csv), but not samples of submissions."""
        paths = [path for path in self.others if path.startswith(self.top) and path.lower().endswith(TABLES)]
        paths = [path for path in paths if path[len(self.top) :].count("/") == 1 and set_of_path(path)]
        small = [path for path in paths if (self.folder / path).stat().st_size <= _most_bytes(path)]
        return [path for path in small if not _SAMPLES.match(_base(path))] if len(small) <= MOST_LISTS else []

    def tables(self) -> list[str]:
        """Tables at the top that may hold labels."""
        return [path for path in self.at_top if may_hold_labels(path)]

    @cached_property
    def unread(self) -> list[str]:
        """Files at the top, or one folder below, that may hold labels but are not read."""
        paths = [path for path in self.others if path[len(self.top) :].count("/") <= 1]
        return [path for path in paths if path.lower().endswith(MAY_HOLD_LABELS)]

    @cached_property
    def to_predict(self) -> frozenset[str]:
        """Images named by tables without labels: sample submissions, lists of the test set."""
        named: set[str] = set()
        for path in (*self.at_top, *self.in_folders):
            header, cells = read_quietly(self.folder / path) if not may_hold_labels(path) else ([], [])
            column = naming_column(header, cells, self.names, path, split="test") if header else ""
            if column:
                found = images_named(self.names, path, cells[header.index(column)], split="test")
                named |= {one[0] for one in found.values() if len(one) == 1}
        return frozenset(named)

    def metadata(self) -> list[str]:
        """Tables with usual names of Hugging Face or Roboflow, at the top or one folder below."""
        paths = [path for path in self.others if path.startswith(self.top) and _base(path) in METADATA]
        return [path for path in paths if path[len(self.top) :].count("/") <= 1]


def _most_bytes(path: str) -> int:
    return MOST_BYTES if path.lower().endswith(TABLES) else MOST_BYTES >> 3


def _base(path: str) -> str:
    return path.rpartition("/")[2].casefold()


def may_hold_labels(path: str) -> bool:
    """Whether a table is called neither like a sample nor like one of the test or validation set."""
    return not _NOT_LABELS.match(_base(path))


def is_table_name(path: str) -> bool:
    """Whether a file is called like a table. Lists are told by their contents: see `is_list`."""
    return path.lower().endswith((*TABLES, ".json"))


def metadata_labels(beside: TablesBeside, path_column: str = "", label_column: str = "") -> TableLabels | None:
    """The tables of a Hugging Face or Roboflow image folder, None if none of them labels an image."""
    found: list[TableLabels] = []
    for path in beside.metadata():
        table, base = beside.folder / path, path[: path.rfind("/") + 1]
        header, cells = read_quietly(table)
        named = next((name for name in FILE_NAMES if name in header and path_column in ("", name)), "")
        header, cells = _in_windows(beside, table, header, cells)
        label = _label_column(beside, header, cells, named, label_column) if named else None
        if label is None or (label and label not in header):
            continue
        chosen = _columns(beside, table, header, cells, named, label)
        rows = with_sets(table, rows_by(table, header, cells, _without_groups(beside, chosen)))
        images = images_named(beside.names, path, (row.path for row in rows))
        kept, bad = merged(table, rows, partial(_image_of, table, images), base)
        found.append(
            TableLabels(
                paths=(table,),
                path_column=named,
                label_column=label,
                kept=kept,
                rejected=bad,
                notes=about_columns(table.name, header, cells, chosen, [row.label for row in rows]),
            )
        )
    tables = _as_sets(beside, found, "train" if _are_parts(found) else "") if found else None
    return tables if tables is not None and any(row.label for row in tables.kept.values()) else None


def _image_of(table: Path, found: Mapping[str, Sequence[str]], row: LabelRow) -> str | None:
    return one_image(table, row.path, found[row.path])


def _joined(found: Sequence[TableLabels]) -> TableLabels:
    """Several tables as one, with the rows of one image merged; the columns and notes are those of the first."""
    kept: dict[str, LabelRow] = {}
    rejected: dict[str, str] = {}
    for one in found:
        rejected |= one.rejected
        for row in one.kept.values():
            add_row(kept, rejected, row)
    return replace(found[0], paths=tuple(path for one in found for path in one.paths), kept=kept, rejected=rejected)


def read_quietly(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns; both empty if it is not a table."""
    try:
        return read_cells(table)
    except BadLabels as error:
        if table.suffix.lower() not in (*LISTS, ".json"):
            log.info("Not used as a table of labels: %s", error)
        return [], []


def _in_windows(
    beside: TablesBeside, table: Path, header: list[str], cells: list[list[str]]
) -> tuple[list[str], list[list[str]]]:
    """The table, read as Windows-1252 if some of its text is not UTF-8, and no image is called by those bytes."""
    foreign = {text for column in cells for text in column if not text.isascii() and any_bytes([text])}
    if not foreign or any(beside.names.find_exactly(text) for text in foreign) or not is_windows(table, header, cells):
        return header, cells
    return as_windows(table, header, cells)


def _columns(
    beside: TablesBeside, table: Path, header: Sequence[str], cells: Sequence[list[str]], path: str, label: str
) -> Columns:
    """Which column holds what, with the groups if requested."""
    group = beside.group_column if beside.group_column in header else None
    return choose_columns(table, header, cells, path_column=path, label_column=label or None, group_column=group)


def _without_groups(beside: TablesBeside, columns: Columns) -> Columns:
    """The columns to read; requested groups are read for all images at once, see `groups_in`."""
    return replace(columns, group="") if beside.group_column else columns


def _rows(
    beside: TablesBeside, table: Path, header: Sequence[str], cells: Sequence[list[str]], path: str, label: str
) -> tuple[list[LabelRow], tuple[str, str]]:
    """The rows, and notes about other columns; both empty for a table that cannot be used."""
    try:
        columns = _columns(beside, table, header, cells, path, label)
        rows = rows_by(table, header, cells, _without_groups(beside, columns))
    except BadLabels as error:
        log.info("Not used as a table of labels: %s", error)
        return [], ("", "")
    return rows, about_columns(table.name, header, cells, columns, [row.label for row in rows])


def table_labels(beside: TablesBeside, path_column: str = "", label_column: str = "") -> TableLabels | None:
    """The only table that names the images, or several about different ones; None if there is none, or too many fit."""
    for paths in (beside.at_top, beside.in_folders, beside.in_sets):
        inside = paths is beside.in_sets
        usual = [path for path in paths if inside or may_hold_labels(path)]
        read = [one for path in usual if (one := _fit(beside, path, path_column, label_column)) is not None]
        fitting = _fitting(read, beside, together=inside)
        if len(fitting) > 1 and not _are_parts(fitting):
            names = few([repr(fit.paths[0].name) for fit in fitting], 3)
            log.info(
                "%s: %s could each hold the labels, so none is used. Give the one that does.", beside.folder, names
            )
            return None
        if fitting:
            others = [path for path in paths if path not in usual and set_of_table(Path(path))]
            _note_unused(beside, [one for one in read if one not in fitting])
            return _as_sets(beside, [*fitting, *_tables_of_sets(beside, others, fitting)])
    _note_unread(beside)
    return None


def _fitting(read: Sequence[TableLabels], beside: TablesBeside, *, together: bool) -> list[TableLabels]:
    """The tables that each name nearly all images of some folders; else all, if they do so together."""
    each = [one for one in read if _covers(set(one.kept), beside)] if not together else []
    images = {path for one in read for path in one.kept}
    return each or (list(read) if read and _are_parts(read) and _covers(images, beside) else [])


def _note_unused(beside: TablesBeside, tables: Sequence[TableLabels]) -> None:
    if tables:
        names = few([repr(one.paths[0].name) for one in tables], 3)
        verbs = ("is", "it names") if len(tables) == 1 else ("are", "they name")
        log.info("%s: %s %s not used: %s only some of the images.", beside.folder, names, *verbs)


def _are_parts(tables: Sequence[TableLabels]) -> bool:
    """Whether tables have the same columns, and no two are about the same image."""
    images = [path for one in tables for path in one.kept]
    same = len({(one.path_column, one.label_column) for one in tables}) < 2
    return same and len(set(images)) == len(images)


def _tables_of_sets(beside: TablesBeside, paths: Sequence[str], fitting: Sequence[TableLabels]) -> list[TableLabels]:
    """Of these tables of the validation or the test set, those with the same classes, about other images;
    why another one with labels is not used is logged. Some images (5 %) may be in two tables: they are left out."""
    found: list[TableLabels] = []
    for path in paths:
        one = _fit(beside, path, "", fitting[0].label_column) or _fit(beside, path, "", "")
        if one is None or not any(row.label for row in one.kept.values()):
            continue
        problem = _unlike([*fitting, *found], one)
        if problem:
            log.warning("%s: %r is not used: %s.", beside.folder, path, problem)
        else:
            found.append(one)
    return found


def _unlike(tables: Sequence[TableLabels], one: TableLabels) -> str:
    """Why a table of another set does not belong to these tables, '' if it does."""
    names = few([repr(table.paths[0].name) for table in tables], 3)
    classes = {row.label for table in tables for row in table.kept.values()}
    labels = dict.fromkeys(row.label for row in one.kept.values() if row.label)
    other = next((label for label in labels if label not in classes), None)
    if other is not None:
        return f"its label {other!r} is not in {names}"
    if len(labels) < 2:
        return f"all its labels are {next(iter(labels))!r}"
    shared = sum(any(path in table.kept for table in tables) for path in one.kept)
    if shared > (1 - SHARE) * len(one.kept):
        return f"{shared:,} of its {len(one.kept):,} images are also in {names}"
    return ""


def _as_sets(beside: TablesBeside, tables: Sequence[TableLabels], default: str = "train") -> TableLabels:
    """Tables as one; if the names or folders of some with labels say train and another set, the rows are in those sets.
    One that says none is about the set `default`."""
    sets = [_set_said(beside, one.paths[0]) or default for one in tables]
    with_labels = {name for name, one in zip(sets, tables, strict=True) if any(row.label for row in one.kept.values())}
    if "train" in with_labels and len(with_labels - {""}) > 1:
        tables = [
            replace(one, kept={path: replace(row, split=row.split or split) for path, row in one.kept.items()})
            for one, split in zip(tables, sets, strict=True)
        ]
    return _joined(tables)


def _set_said(beside: TablesBeside, table: Path) -> str:
    """The set in the name of a table, or in that of its folder; '' for none."""
    return set_of_table(table) or set_of_path(table.relative_to(beside.folder).as_posix().removeprefix(beside.top))


def _note_unread(beside: TablesBeside) -> None:
    for path in beside.unread[:3]:
        what, hint = about(Path(path))
        log.info("%s: is %s; headstart does not read it. %s", beside.folder / path, what, hint)


def _fit(beside: TablesBeside, path: str, path_column: str, label_column: str) -> TableLabels | None:
    """A table that labels images, None if it labels none, or if its labels are not classes."""
    table = beside.folder / path
    header, cells = read_quietly(table)
    if not header:
        return None
    header, cells = _in_windows(beside, table, header, cells)
    if (path_column and path_column not in header) or (label_column and label_column not in header):
        return None
    column = path_column or naming_column(header, cells, beside.names, path)
    label = _label_column(beside, header, cells, column, label_column) if column else None
    if label is None:
        return None
    rows, notes = _rows(beside, table, header, cells, column, label)
    named = images_named(beside.names, path, (row.path for row in rows))
    if not any(named.values()):
        rows = moved(table, rows, beside.names)
        named = images_named(beside.names, path, (row.path for row in rows))
    hits = {found[0] for found in named.values() if len(found) == 1}
    unclear = any(len(found) > 1 for found in named.values())
    if not hits or (unclear and not _covers(hits, beside)) or (not label_column and not _are_classes(rows)):
        return None
    base = path[: path.rfind("/") + 1]
    kept, rejected = merged(table, with_sets(table, rows), partial(_image_of, table, named), base)
    return TableLabels(
        paths=(table,),
        path_column=column,
        label_column=label,
        kept=kept,
        rejected=rejected,
        notes=notes,
    )


def _label_column(
    beside: TablesBeside, header: Sequence[str], cells: Sequence[list[str]], path_column: str, label_column: str
) -> str | None:
    """The column of labels, '' if each class has one, None if no single column is identified by its name."""
    if label_column:
        return label_column
    columns = dict(zip(header, cells, strict=True))
    hot = one_hot(header, cells, aside=beside.group_column)
    found = label_columns(columns, used=(path_column, beside.group_column, *hot), ids=not hot)
    if hot and (len(found) != 1 or one_each([columns[name] for name in hot])):
        return ""
    return found[0] if len(found) == 1 else None


def _covers(hits: set[str], beside: TablesBeside) -> bool:
    """Whether `hits` are nearly all images of their folders, apart from those to be predicted.

    Test images alone do not count.
    """
    if all(set_of_path(path) == "test" for path in hits):
        return False
    folders = _mainly_in(hits)
    hits = {path for path in hits if path.rpartition("/")[0] in folders}
    there = {path for path in beside.names.paths if path.rpartition("/")[0] in folders}
    return len(hits) >= SHARE * len(there) or len(hits) >= SHARE * len(there - (beside.to_predict - hits))


def _mainly_in(hits: set[str]) -> set[str]:
    """The folders that hold nearly all `hits`: an image of the same name elsewhere does not add its folder."""
    counts = Counter(path.rpartition("/")[0] for path in sorted(hits))
    folders: dict[str, int] = {}
    for folder, n in counts.most_common():
        if sum(folders.values()) >= SHARE * len(hits):
            break
        folders[folder] = n
    return set(folders)


def _are_classes(rows: Sequence[LabelRow]) -> bool:
    """Whether the labels repeat, as names of classes do and captions or measurements do not."""
    counts = Counter(row.label for row in rows if row.label)
    return len(counts) > 1 and counts.total() >= 2 * len(counts)


def groups_in(
    table: str, columns: dict[str, list[str]], names: Names, path_column: str, group_column: str
) -> dict[str, str]:
    """{image: group} of the rows of a table that name one image. The groups are those of `label_cells.group_names`, and of
    `both_groups` for an image in several."""
    others = {name: cells for name, cells in columns.items() if name != group_column}
    usual = next((name for name in FILE_NAMES if name in others), "")
    naming = path_column or usual or (naming_column([*others], [*others.values()], names, table) if others else "")
    cells = others.get(naming, [])
    named = images_named(names, table, cells)
    if not any(named.values()) and (rule := relocation(cells, names.paths)):
        cells = [rule.applied_to(cell) for cell in cells]
        named = images_named(names, table, cells)
    rows = zip(cells, columns[group_column], strict=False)
    groups: dict[str, str] = {}
    for cell, group in rows:
        if len(named[cell]) == 1:
            groups[named[cell][0]] = both_groups(groups.get(named[cell][0], ""), group)
    return groups
