"""Folders whose labels are elsewhere: in a table beside the images, or at the beginning of the file names.

A folder that has class folders has labels of its own, and is left alone. Otherwise three layouts are tried, in this
order:

    metadata.csv, .jsonl, .parquet     with a column file_name, at the top or in the split folders (Hugging Face)
    train.csv, labels.csv, ...         the only table at the top that names 95 % of the images in some folders
    train/cat.0.jpg, dog_12.jpg        2 to 200 words before a number, each with several images

Folders such as stage1 and stage2 may or may not be classes: they yield to a table, but take precedence over file names.
A single folder of this kind, or folders named like mere images (images1, images2), are not classes.

Sample submissions and tables of the test set are never read for labels, and if two tables fit, neither is used. A
sentence says what was recognised, and how to override it. Costs a walk over the folder and the reading of its tables
(0.6 s for 37,500 files, 1.1 s with a table of 25,000 rows). Not for data whose layout you know: describe it with
`DataSource`.
"""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from headstart.data.dataset import (
    IMAGES,
    TABLES,
    Dataset,
    FoundImages,
    counted,
    is_plain_name,
    is_unlabelled_name,
    says_nothing,
    side_of_path,
    split_name,
)
from headstart.data.detection import about_boxes
from headstart.data.folder_walk import FolderWalk, files_below, files_in, folders_in
from headstart.data.image_folder import every_image, take
from headstart.data.match_files import (
    SHARE,
    Names,
    label_by_pattern,
    label_folder,
    merged,
    name_pattern,
    one_image,
    pick,
)
from headstart.data.proposals import about_columns
from headstart.data.tables import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    SPLIT_COLUMNS,
    Columns,
    LabelRow,
    choose_columns,
    one_hot,
    read_cells,
    rows_by,
)
from headstart.data.wrappers import unwrap
from headstart.errors import BadLabels, near_names
from headstart.io.progress import log
from headstart.io.text_table import few

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
_NOT_LABELS = re.compile(r"(?:sample|example|submi|test|val|pred|split|unlabell?ed)|.*submission")
"""Beginnings of the names of tables that are not read for labels."""
MOST_BYTES = 512 << 20
"""Larger tables are skipped: a million rows take 50 MB."""
_TRIED = 300  # rows tried to find the column of paths


@dataclass(frozen=True)
class Layout:
    """The recognised layout of a folder. The fields up to `path_column` are those of an equivalent `DataSource`."""

    place: Path
    """The folder."""
    label_from: str = ""
    """Pattern for the labels in file names, '' if they are in tables."""
    label_column: str = ""
    """Column of the labels; also '' if each class has a column."""
    path_column: str = ""
    """Column that names the images."""
    tables: tuple[Path, ...] = ()
    """The tables that hold the labels."""
    sentence: str = ""
    """What was recognised, and how to override it."""


def recognise(folder: Path) -> Layout | None:
    """The layout of a folder without class folders, None if it has such folders or nothing is recognised."""
    opened = open_recognised(folder)
    return opened[0] if opened else None


def open_recognised(folder: Path, *, group_column: str = "") -> tuple[Layout, Dataset] | None:
    """Like `recognise`, with the images; those that nothing names have no label.

    The column `group_column` of a table is never used for labels.
    """
    listing = _FolderListing(folder, stop=True, group_column=group_column)
    if listing.has_class_folders or not listing.found.images:
        return None
    tables = _metadata(listing, "", "") or _table_beside(listing)
    if tables is not None:
        return _described(listing, tables)
    pattern = name_pattern([path for path, _, _ in listing.found.images])
    if not pattern:
        return None
    dataset = label_by_pattern(folder, listing.found, pattern, quiet=True)
    folders = _side_by_side(listing)
    if folders:
        log.info(
            "%s: the labels are taken from its folders (%s). --label-from %s would take them from the file names (%s).",
            *(folder, counted(list(folders), folders.values()), shlex.quote(pattern), _sum(dataset)),
        )
        return None
    sentence = (
        f"{folder}: the labels are taken from the beginning of the file names, such as {_example(dataset)!r} "
        f"({_sum(dataset)}). Override with --label-from PATTERN."
    )
    if boxes := about_boxes(dataset):
        log.warning("%s", boxes)
    return Layout(folder, label_from=pattern, sentence=sentence), dataset


def open_with_columns(folder: Path, *, path_column: str, label_column: str, group_column: str = "") -> Dataset:
    """The images of a folder, labelled by the table beside them with these columns ('' for the usual names).

    Raises `NoImages`, and `BadLabels` if there is no such table, or several.
    """
    listing = _FolderListing(folder, group_column=group_column)
    tables = _metadata(listing, path_column, label_column) or _table_beside(listing, path_column, label_column)
    if tables is None:
        raise _no_table(listing, path_column, label_column)
    layout, dataset = _described(listing, tables)
    log.info("%s", layout.sentence)
    return dataset


def groups_beside(folder: Path, paths: Sequence[str], *, path_column: str, group_column: str) -> list[str]:
    """The group of each image (N paths relative to `folder`), from the tables in it with this column; '' for none.

    Equal values in several tables are one group. Raises `BadLabels` if no table has the column, or none of those names
    an image.
    """
    listing, names = _FolderListing(folder), Names(paths)
    with_column: list[str] = []
    groups: dict[str, str] = {}
    for path in dict.fromkeys([*listing.metadata(), *listing.at_top]):
        header, cells = _read(listing.folder / path)
        if group_column in header:
            with_column.append(path)
            groups |= _groups_in(path, dict(zip(header, cells, strict=True)), names, path_column, group_column)
    if not with_column:
        raise _no_table(listing, group_column, option="--group-from takes groups from the paths of the images")
    if not groups:
        raise BadLabels(
            f"{folder}: no row of {few([repr(path) for path in with_column], 3)}, which has the column {group_column!r}, "
            f"names one of the {len(paths):,} images.",
            hint=f"A row names an image by its path or file name, such as {paths[0]!r}; --path-column names that column.",
        )
    return [groups.get(path, "") for path in paths]


def _groups_in(
    table: str, columns: dict[str, list[str]], names: Names, path_column: str, group_column: str
) -> dict[str, str]:
    """{image: group} of the rows of a table that name one image."""
    base = table[: table.rfind("/") + 1]
    split = side_of_path(table) or side_of_path(f"{Path(table).stem.casefold()}/")
    others = {name: cells for name, cells in columns.items() if name != group_column}
    usual = FILE_NAME if FILE_NAME in others else ""
    naming = path_column or usual or (_naming_column([*others], [*others.values()], names, split) if others else "")
    found: dict[str, str] = {}
    for cell, group in zip(others.get(naming, []), columns[group_column], strict=False):
        named = pick(names.find(cell, base), split)
        if len(named) == 1:
            found[named[0]] = group.strip()
    return found


# Contents of a folder


def top_of(folder: Path) -> Path:
    """The folder with the class folders or tables: `folder`, or the one in which an archive wraps everything."""
    top = unwrap(FolderWalk(folder), folder, quiet=True, past_tables=False)
    inner, files = folders_in(top), files_in(top)
    if len(inner) == 1 and not any(_is_table(f.name) or f.suffix.lower() in IMAGES for f in files):
        return inner[0] if any(_is_table(f.name) for f in files_in(inner[0])) else top
    return top


def _is_class_name(name: str) -> bool:
    return bool(name) and not (split_name(name) or is_plain_name(name) or is_unlabelled_name(name))


class _FolderListing:
    """The images and tables of a folder, and `top`, the beginning of their paths."""

    def __init__(self, folder: Path, *, stop: bool = False, group_column: str = "") -> None:
        """With `stop`, end at the first image in a class folder: then `has_class_folders` is true."""
        self.folder = folder
        self.group_column = group_column
        top = top_of(folder)
        self.top = "" if top == folder else f"{top.relative_to(folder).as_posix()}/"
        self.found = FoundImages()
        self.has_class_folders = stop and self._finds_class_folder()
        if not stop:
            self.found = every_image(folder)
        self.names = Names(path for path, _, _ in self.found.images)

    def _finds_class_folder(self) -> bool:
        """List files until an image is in a folder named neither like a split nor like mere images."""
        plain: dict[str, bool] = {}
        for path in files_below(self.folder, self.found):
            take(path, self.found)
            above = path.rpartition("/")[0]
            if above not in plain:
                plain[above] = not any(map(_is_class_name, f"{above}/".removeprefix(self.top).split("/")))
            if not plain[above] and path.lower().endswith(IMAGES):
                return True
        return False

    @cached_property
    def others(self) -> list[str]:
        """Paths of the files that are not named like images."""
        return [path for path, reason in self.found.rejected if reason == "not_an_image_name"]

    @cached_property
    def at_top(self) -> list[str]:
        """Tables beside the folders of images."""
        paths = [path for path in self.others if path.rpartition("/")[0] == self.top[:-1] and _is_table(path)]
        return [path for path in paths if (self.folder / path).stat().st_size <= MOST_BYTES]

    def tables(self) -> list[str]:
        """Tables at the top that may hold labels."""
        return [path for path in self.at_top if not _NOT_LABELS.match(_base(path))]

    @cached_property
    def to_predict(self) -> frozenset[str]:
        """Images named by tables without labels: sample submissions, lists of the test set."""
        named: set[str] = set()
        for path in self.at_top:
            header, cells = _read(self.folder / path) if _NOT_LABELS.match(_base(path)) else ([], [])
            column = _naming_column(header, cells, self.names, "test") if header else ""
            if column:
                found = [pick(self.names.find(cell), "test") for cell in cells[header.index(column)]]
                named |= {one[0] for one in found if len(one) == 1}
        return frozenset(named)

    def metadata(self) -> list[str]:
        """Hugging Face metadata tables, at the top or one folder below."""
        paths = [path for path in self.others if path.startswith(self.top) and _base(path) in METADATA]
        return [path for path in paths if path[len(self.top) :].count("/") <= 1]


def _base(path: str) -> str:
    return path.rpartition("/")[2].casefold()


def _is_table(path: str) -> bool:
    return path.lower().endswith((*TABLES, ".jsonl"))


def _side_by_side(listing: _FolderListing) -> dict[str, int]:
    """{folder: images} of two or more folders that hold all images and can be classes; {} if there are none.

    They are at the top, or in split folders, of which the test set may lack them.
    """
    inner = [path.removeprefix(listing.top).split("/")[:-1] for path in listing.names.paths]
    if any(parts and split_name(parts[0]) for parts in inner):
        inner = [parts for parts in inner if not (parts and is_unlabelled_name(parts[0]))]
        if not all(parts and split_name(parts[0]) for parts in inner):
            return {}
        inner = [_below_split(parts) for parts in inner if _below_split(parts) or split_name(parts[0]) != "test"]
    counts = Counter(parts[0] if parts else "" for parts in inner)
    if len(counts) < 2 or "" in counts or any(side_of_path(f"{name}/") for name in counts):
        return {}
    return dict(sorted(counts.items())) if not all(map(says_nothing, counts)) else {}


def _below_split(parts: list[str]) -> list[str]:
    """The folders of a path below that of its split, which may occur twice (train/train)."""
    return parts[2:] if parts[1:2] == parts[:1] else parts[1:]


# Tables


@dataclass(frozen=True)
class _Tables:
    """Tables with the same columns, and what their rows name."""

    paths: tuple[Path, ...]
    path_column: str
    label_column: str
    kept: dict[str, LabelRow]
    rejected: dict[str, str]
    notes: tuple[str, str] = ("", "")
    """Sentences for `Dataset.unused` and `Dataset.proposal`."""


def _metadata(listing: _FolderListing, path_column: str, label_column: str) -> _Tables | None:
    """The tables of a Hugging Face image folder, None if none of them labels an image."""
    read: list[Path] = []
    kept: dict[str, LabelRow] = {}
    rejected: dict[str, str] = {}
    columns: list[str] = []
    notes = ("", "")
    for path in listing.metadata() if path_column in ("", FILE_NAME) else []:
        table, base = listing.folder / path, path[: path.rfind("/") + 1]
        header, cells = _read(table)
        label = _label_column(listing, header, cells, FILE_NAME, label_column) if FILE_NAME in header else None
        if label is None or (label and label not in header):
            continue
        chosen = _columns(listing, table, header, cells, FILE_NAME, label)
        rows = rows_by(table, header, cells, chosen)
        notes = about_columns(table.name, header, cells, chosen, [row.label for row in rows])
        find = partial(one_image, table, names=listing.names, base=base, split=side_of_path(path))
        own, bad = merged(table, rows, find)
        kept |= own
        rejected |= {name if name in listing.names.paths else f"{base}{name}": reason for name, reason in bad.items()}
        read, columns = [*read, table], [*columns, label]
    if not any(row.label for row in kept.values()):
        return None
    return _Tables(
        paths=tuple(read),
        path_column=FILE_NAME,
        label_column=columns[0],
        kept=kept,
        rejected=rejected,
        notes=notes,
    )


def _read(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns; both empty if it is not a table."""
    try:
        return read_cells(table)
    except BadLabels as error:
        log.info("Not used as a table of labels: %s", error)
        return [], []


def _columns(
    listing: _FolderListing, table: Path, header: Sequence[str], cells: Sequence[list[str]], path: str, label: str
) -> Columns:
    """Which column holds what, with the groups if requested."""
    group = listing.group_column if listing.group_column in header else None
    return choose_columns(table, header, cells, path_column=path, label_column=label or None, group_column=group)


def _rows(
    listing: _FolderListing, table: Path, header: Sequence[str], cells: Sequence[list[str]], path: str, label: str
) -> tuple[list[LabelRow], tuple[str, str]]:
    """The rows, and notes about other columns; both empty for a table that cannot be used."""
    try:
        columns = _columns(listing, table, header, cells, path, label)
        rows = rows_by(table, header, cells, columns)
    except BadLabels as error:
        log.info("Not used as a table of labels: %s", error)
        return [], ("", "")
    return rows, about_columns(table.name, header, cells, columns, [row.label for row in rows])


def _table_beside(listing: _FolderListing, path_column: str = "", label_column: str = "") -> _Tables | None:
    """The only table that names the images, None if there is none, or more than one."""
    fitting = [fit for path in listing.tables() if (fit := _fit(listing, path, path_column, label_column)) is not None]
    if len(fitting) > 1:
        names = few([repr(fit.paths[0].name) for fit in fitting], 3)
        log.info("%s: %s could each hold the labels, so none is used. Give the one that does.", listing.folder, names)
    return fitting[0] if len(fitting) == 1 else None


def _fit(listing: _FolderListing, path: str, path_column: str, label_column: str) -> _Tables | None:
    """A table that labels the images, None if it is not about them, or only about the test set."""
    table = listing.folder / path
    header, cells = _read(table)
    if not header:
        return None
    if (path_column and path_column not in header) or (label_column and label_column not in header):
        return None
    split = side_of_path(f"{table.stem.casefold()}/")
    column = path_column or _naming_column(header, cells, listing.names, split)
    label = _label_column(listing, header, cells, column, label_column) if column else None
    if label is None:
        return None
    rows, notes = _rows(listing, table, header, cells, column, label)
    named = [pick(listing.names.find(row.path), split) for row in rows]
    hits = {found[0] for found in named if len(found) == 1}
    if not _covers(hits, listing) or (not label_column and not _are_classes(rows)):
        return None
    kept, rejected = merged(table, rows, partial(one_image, table, names=listing.names, base=listing.top))
    return _Tables(
        paths=(table,),
        path_column=column,
        label_column=label,
        kept=kept,
        rejected=rejected,
        notes=notes,
    )


def _naming_column(header: Sequence[str], cells: Sequence[list[str]], names: Names, split: str) -> str:
    """The column whose cells name images most often, in a sample of rows; '' if none does."""
    step = max(len(cells[0]) // _TRIED, 1)
    hits = [sum(len(pick(names.find(cell), split)) == 1 for cell in column[::step]) for column in cells]
    return header[hits.index(max(hits))] if any(hits) else ""


def _label_column(
    listing: _FolderListing, header: Sequence[str], cells: Sequence[list[str]], path_column: str, label_column: str
) -> str | None:
    """The column of labels, '' if each class has one, None if no single column is identified by its name."""
    if label_column or one_hot(header, cells, aside=listing.group_column):
        return label_column
    aside = (*SPLIT_COLUMNS, *GROUP_COLUMNS)
    free = [name for name in header if name not in (path_column, listing.group_column)]
    free = [name for name in free if name.strip().casefold() not in aside]
    known = [name for name in free if name.strip().casefold() in LABEL_COLUMNS]
    if len(known) != 1 and len(free) != 1:
        return None
    return (known or free)[0]


def _covers(hits: set[str], listing: _FolderListing) -> bool:
    """Whether `hits` are nearly all images of their folders, apart from those to be predicted.

    Test images alone do not count.
    """
    folders = {path.rpartition("/")[0] for path in hits}
    there = {path for path in listing.names.paths if path.rpartition("/")[0] in folders}
    if all(side_of_path(path) == "test" for path in hits):
        return False
    return len(hits) >= SHARE * len(there) or len(hits) >= SHARE * len(there - (listing.to_predict - hits))


def _are_classes(rows: Sequence[LabelRow]) -> bool:
    """Whether the labels repeat, as names of classes do and captions or measurements do not."""
    counts = Counter(row.label for row in rows if row.label)
    return len(counts) > 1 and counts.total() >= 2 * len(counts)


# Words


def _described(listing: _FolderListing, tables: _Tables) -> tuple[Layout, Dataset]:
    dataset = label_folder(listing.folder, listing.found, tables.kept, tables.rejected)
    dataset = replace(dataset, unused=tables.notes[0], proposal=tables.notes[1])
    names = few([repr(table.relative_to(listing.folder).as_posix()) for table in tables.paths], 3)
    column = f"the column {tables.label_column!r}" if tables.label_column else "the columns of the classes"
    without = sum(reason == "not_a_file" for reason in tables.rejected.values())
    missing = f" Rows that name no existing image: {without:,}." if without else ""
    sentence = (
        f"{listing.folder}: the labels are taken from {column} of {names}, the images found by {tables.path_column!r} "
        f"({_sum(dataset)}).{missing} Override with --label-column, --path-column or --label-from."
    )
    layout = Layout(
        listing.folder,
        label_column=tables.label_column,
        path_column=tables.path_column,
        tables=tables.paths,
        sentence=sentence,
    )
    return layout, dataset


def _sum(dataset: Dataset) -> str:
    """'cat': 2, 'dog': 3; 4 of 9 images have none."""
    labels = Counter(dataset.label_name(i) for i in range(len(dataset)))
    without = labels.pop("", 0)
    classes = [name for name in dataset.classes if name in labels]
    none = f"; {without:,} of {len(dataset):,} images have none" if without else ""
    return counted(classes, [labels[name] for name in classes]) + none


def _example(dataset: Dataset) -> str:
    return next(path for i, path in enumerate(dataset.paths) if dataset.labels[i] >= 0)


def _no_table(
    listing: _FolderListing, *columns: str, option: str = "--label-from takes labels from file names"
) -> BadLabels:
    wanted = " and ".join(repr(name) for name in columns if name)
    there = listing.metadata() or listing.tables()
    headers = {path: _read(listing.folder / path)[0] for path in there}
    known = sorted({name for header in headers.values() for name in header})
    missing = next((name for name in reversed(columns) if name and name not in known), "")
    listed = few([f"{path!r} ({', '.join(map(repr, header))})" for path, header in headers.items()], 3)
    if not there:
        return BadLabels(
            f"{listing.folder}: holds no table, but the column {wanted} was requested.",
            hint=f"Give the table itself, or put it beside the images. {option}.",
        )
    if missing:
        return BadLabels(
            f"{listing.folder}: no table in it has the column {missing!r}; there are {listed}.",
            hint=near_names(missing, known) or "Give one of these columns.",
        )
    return BadLabels(
        f"{listing.folder}: no single table in it has the columns {wanted} and names the images; there are {listed}.",
        hint="Give the table itself instead of the folder. It has to name 95 % of the images in its folders.",
    )
