"""Folders whose labels stand elsewhere: in a table beside the images, or at the beginning of the file names.

A folder that has class folders has labels of its own, and is left alone. Else three things are tried, in this order:

    metadata.csv, .jsonl, .parquet     with a column file_name, at the top or in the split folders (Hugging Face)
    train.csv, labels.csv, ...         the one table at the top that names 95 % of the images in some folders
    train/cat.0.jpg, dog_12.jpg        2 to 200 words before a number, each with several images

Folders such as stage1 and stage2 may be classes or not: a table goes before them, but they go before file names. Alone, or
called like mere images (images1, images2), they are none.

Sample submissions and tables of the test set are never taken for labels, and where two tables fit none is taken. What is
recognised comes with a sentence that says so, and how to say otherwise. Costs a walk over the folder and the reading of
its tables (0.6 s for 37,500 files, 1.1 s with a table of 25,000 rows). Not for data whose layout you know: say it with
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
from headstart.data.image_folder import every_image, files_below, files_in, folders_in, take, unwrap
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
from headstart.errors import BadLabels, near_names
from headstart.io.progress import log
from headstart.io.text_table import few

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
_NOT_LABELS = re.compile(r"(?:sample|example|submi|test|val|pred|split|unlabell?ed)|.*submission")
"""Beginnings of the names of tables that are not read for labels."""
MOST_BYTES = 512 << 20
"""Tables that are larger are passed over: a million rows take 50 MB."""
_TRIED = 300  # rows that are looked up to find the column of paths


@dataclass(frozen=True)
class Layout:
    """What a folder was recognised as. The fields up to `path_column` are those of the `DataSource` that says the same."""

    place: Path
    """The folder."""
    label_from: str = ""
    """Pattern for the labels in file names, '' if they stand in tables."""
    label_column: str = ""
    """Column of the labels; '' also where each class has a column."""
    path_column: str = ""
    """Column that names the images."""
    tables: tuple[Path, ...] = ()
    """The tables that hold the labels."""
    sentence: str = ""
    """What was recognised, and how to say otherwise."""


def recognise(folder: Path) -> Layout | None:
    """How a folder without class folders gives its labels, None if it has such folders or nothing can be recognised."""
    opened = open_recognised(folder)
    return opened[0] if opened else None


def open_recognised(folder: Path, *, group_column: str = "") -> tuple[Layout, Dataset] | None:
    """As `recognise`, with the images. An image that nothing names is there without a label.

    The column `group_column` of a table is not taken for labels.
    """
    look = _FolderListing(folder, stop=True, group_column=group_column)
    if look.has_class_folders or not look.found.images:
        return None
    tables = _metadata(look, "", "") or _table_beside(look)
    if tables is not None:
        return _described(look, tables)
    pattern = name_pattern([path for path, _, _ in look.found.images])
    if not pattern:
        return None
    dataset = label_by_pattern(folder, look.found, pattern, quiet=True)
    folders = _side_by_side(look)
    if folders:
        log.info(
            "%s: the labels are taken from its folders (%s). --label-from %s takes them from the file names (%s).",
            *(folder, counted(list(folders), folders.values()), shlex.quote(pattern), _sum(dataset)),
        )
        return None
    sentence = (
        f"{folder}: the labels are taken from the beginning of the file names, such as {_example(dataset)!r} "
        f"({_sum(dataset)}). --label-from PATTERN says otherwise."
    )
    return Layout(folder, label_from=pattern, sentence=sentence), dataset


def open_with_columns(folder: Path, *, path_column: str, label_column: str, group_column: str = "") -> Dataset:
    """The images of a folder with labels from the table beside them that has these columns ('' for the usual names).

    Raises `NoImages`, and `BadLabels` if there is no such table, or several.
    """
    look = _FolderListing(folder, group_column=group_column)
    tables = _metadata(look, path_column, label_column) or _table_beside(look, path_column, label_column)
    if tables is None:
        raise _no_table(look, path_column, label_column)
    layout, dataset = _described(look, tables)
    log.info("%s", layout.sentence)
    return dataset


def groups_beside(folder: Path, paths: Sequence[str], *, path_column: str, group_column: str) -> list[str]:
    """The group of each image (N paths relative to `folder`), from the tables in it that have this column; '' for none.

    Equal values in several tables are one group. Raises `BadLabels` if no table has the column, or names an image.
    """
    look, names = _FolderListing(folder), Names(paths)
    having: list[str] = []
    groups: dict[str, str] = {}
    for path in dict.fromkeys([*look.metadata(), *look.at_top]):
        header, cells = _read(look.folder / path)
        if group_column in header:
            having.append(path)
            groups |= _groups_in(path, dict(zip(header, cells, strict=True)), names, path_column, group_column)
    if not having:
        raise _no_table(look, group_column, option="--group-from takes groups from the paths of the images")
    if not groups:
        raise BadLabels(
            f"{folder}: no row of {few([repr(path) for path in having], 3)}, which has the column {group_column!r}, "
            f"names one of the {len(paths):,} images.",
            hint=f"A row names an image by its path or file name, such as {paths[0]!r}; --path-column names that column.",
        )
    return [groups.get(path, "") for path in paths]


def _groups_in(
    table: str, columns: dict[str, list[str]], names: Names, path_column: str, group_column: str
) -> dict[str, str]:
    """{image: group} of the rows of a table that name one image."""
    base = table[: table.rfind("/") + 1]
    side = side_of_path(table) or side_of_path(f"{Path(table).stem.casefold()}/")
    others = {name: cells for name, cells in columns.items() if name != group_column}
    usual = FILE_NAME if FILE_NAME in others else ""
    naming = path_column or usual or (_naming_column([*others], [*others.values()], names, side) if others else "")
    found: dict[str, str] = {}
    for cell, group in zip(others.get(naming, []), columns[group_column], strict=False):
        named = pick(names.find(cell, base), side)
        if len(named) == 1:
            found[named[0]] = group.strip()
    return found


# What lies in a folder


def top_of(folder: Path) -> Path:
    """The folder in which class folders or tables lie: it, or what an archive wraps all in."""
    top = unwrap(folder, folder, FoundImages(), quiet=True)
    inner, files = folders_in(top), files_in(top)
    if len(inner) == 1 and not any(_is_table(f.name) or f.suffix.lower() in IMAGES for f in files):
        return inner[0] if any(_is_table(f.name) for f in files_in(inner[0])) else top
    return top


def _is_class_name(name: str) -> bool:
    return bool(name) and not (split_name(name) or is_plain_name(name) or is_unlabelled_name(name))


class _FolderListing:
    """The files of a folder: images, tables, and how the paths of the former begin."""

    def __init__(self, folder: Path, *, stop: bool = False, group_column: str = "") -> None:
        """With `stop` it ends at the first image in a class folder: then `has_class_folders`, and not all is known."""
        self.folder = folder
        self.group_column = group_column
        top = top_of(folder)
        self.top = "" if top == folder else f"{top.relative_to(folder).as_posix()}/"
        self.found = FoundImages()
        self.has_class_folders = stop and self._meets_class_folder()
        if not stop:
            self.found = every_image(folder)
        self.names = Names(path for path, _, _ in self.found.images)

    def _meets_class_folder(self) -> bool:
        """Take up files until an image lies in a folder that is called neither like a split nor like mere images."""
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
        """Paths of the files that are no images by their names."""
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
        """Images that tables without labels name: sample submissions, lists of the test set."""
        named: set[str] = set()
        for path in self.at_top:
            header, cells = _read(self.folder / path) if _NOT_LABELS.match(_base(path)) else ([], [])
            column = _naming_column(header, cells, self.names, "test") if header else ""
            if column:
                found = [pick(self.names.find(cell), "test") for cell in cells[header.index(column)]]
                named |= {one[0] for one in found if len(one) == 1}
        return frozenset(named)

    def metadata(self) -> list[str]:
        """Hugging Face's tables, at the top or one folder below."""
        paths = [path for path in self.others if path.startswith(self.top) and _base(path) in METADATA]
        return [path for path in paths if path[len(self.top) :].count("/") <= 1]


def _base(path: str) -> str:
    return path.rpartition("/")[2].casefold()


def _is_table(path: str) -> bool:
    return path.lower().endswith((*TABLES, ".jsonl"))


def _side_by_side(look: _FolderListing) -> dict[str, int]:
    """{folder: images} of two folders or more that hold all images and can be classes; {} if there are none such.

    They lie at the top, or in split folders, where a test set may be without them.
    """
    inner = [path.removeprefix(look.top).split("/")[:-1] for path in look.names.paths]
    if any(parts and split_name(parts[0]) for parts in inner):
        inner = [parts for parts in inner if not (parts and is_unlabelled_name(parts[0]))]
        if not all(parts and split_name(parts[0]) for parts in inner):
            return {}
        inner = [_below_side(parts) for parts in inner if _below_side(parts) or split_name(parts[0]) != "test"]
    counts = Counter(parts[0] if parts else "" for parts in inner)
    if len(counts) < 2 or "" in counts or any(side_of_path(f"{name}/") for name in counts):
        return {}
    return dict(sorted(counts.items())) if not all(map(says_nothing, counts)) else {}


def _below_side(parts: list[str]) -> list[str]:
    """The folders of a path without that of its split, which may stand twice (train/train)."""
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
    besides: tuple[str, str] = ("", "")
    """What they hold besides, for `Dataset.unused` and `Dataset.proposal`."""


def _metadata(look: _FolderListing, path_column: str, label_column: str) -> _Tables | None:
    """The tables of a Hugging Face image folder, None if there are none with labels for images."""
    read: list[Path] = []
    kept: dict[str, LabelRow] = {}
    rejected: dict[str, str] = {}
    columns: list[str] = []
    besides = ("", "")
    for path in look.metadata() if path_column in ("", FILE_NAME) else []:
        table, base = look.folder / path, path[: path.rfind("/") + 1]
        header, cells = _read(table)
        label = _label_column(look, header, cells, FILE_NAME, label_column) if FILE_NAME in header else None
        if label is None or (label and label not in header):
            continue
        chosen = _columns(look, table, header, cells, FILE_NAME, label)
        rows = rows_by(table, header, cells, chosen)
        besides = about_columns(table.name, header, cells, chosen, [row.label for row in rows])
        find = partial(one_image, table, names=look.names, base=base, side=side_of_path(path))
        own, bad = merged(table, rows, find)
        kept |= own
        rejected |= {name if name in look.names.paths else f"{base}{name}": reason for name, reason in bad.items()}
        read, columns = [*read, table], [*columns, label]
    if not any(row.label for row in kept.values()):
        return None
    return _Tables(tuple(read), FILE_NAME, columns[0], kept, rejected, besides)


def _read(table: Path) -> tuple[list[str], list[list[str]]]:
    """Header and columns; nothing of what is no table."""
    try:
        return read_cells(table)
    except BadLabels as error:
        log.info("Not taken for a table of labels: %s", error)
        return [], []


def _columns(
    look: _FolderListing, table: Path, header: Sequence[str], cells: Sequence[list[str]], path: str, label: str
) -> Columns:
    """Which column holds what, with the groups where they are asked for."""
    group = look.group_column if look.group_column in header else None
    return choose_columns(table, header, cells, path_column=path, label_column=label or None, group_column=group)


def _rows(
    look: _FolderListing, table: Path, header: Sequence[str], cells: Sequence[list[str]], path: str, label: str
) -> tuple[list[LabelRow], tuple[str, str]]:
    """The rows, and what the table holds besides; nothing of a table that cannot be taken up."""
    try:
        columns = _columns(look, table, header, cells, path, label)
        rows = rows_by(table, header, cells, columns)
    except BadLabels as error:
        log.info("Not taken for a table of labels: %s", error)
        return [], ("", "")
    return rows, about_columns(table.name, header, cells, columns, [row.label for row in rows])


def _table_beside(look: _FolderListing, path_column: str = "", label_column: str = "") -> _Tables | None:
    """The one table that names the images, None if there is none, or more than one."""
    fitting = [fit for path in look.tables() if (fit := _fit(look, path, path_column, label_column)) is not None]
    if len(fitting) > 1:
        names = few([repr(fit.paths[0].name) for fit in fitting], 3)
        log.info("%s: %s could each hold the labels: none is taken. Give the one that does.", look.folder, names)
    return fitting[0] if len(fitting) == 1 else None


def _fit(look: _FolderListing, path: str, path_column: str, label_column: str) -> _Tables | None:
    """What a table says of the images, None if it is not about them, or about the test set only."""
    table = look.folder / path
    header, cells = _read(table)
    if not header:
        return None
    if (path_column and path_column not in header) or (label_column and label_column not in header):
        return None
    side = side_of_path(f"{table.stem.casefold()}/")
    column = path_column or _naming_column(header, cells, look.names, side)
    label = _label_column(look, header, cells, column, label_column) if column else None
    if label is None:
        return None
    rows, besides = _rows(look, table, header, cells, column, label)
    named = [pick(look.names.find(row.path), side) for row in rows]
    hits = {found[0] for found in named if len(found) == 1}
    if not _covers(hits, look) or (not label_column and not _are_classes(rows)):
        return None
    kept, rejected = merged(table, rows, partial(one_image, table, names=look.names, base=look.top))
    return _Tables((table,), column, label, kept, rejected, besides)


def _naming_column(header: Sequence[str], cells: Sequence[list[str]], names: Names, side: str) -> str:
    """The column whose cells name images most often, judged by some rows; '' if none does."""
    step = max(len(cells[0]) // _TRIED, 1)
    hits = [sum(len(pick(names.find(cell), side)) == 1 for cell in column[::step]) for column in cells]
    return header[hits.index(max(hits))] if any(hits) else ""


def _label_column(
    look: _FolderListing, header: Sequence[str], cells: Sequence[list[str]], path_column: str, label_column: str
) -> str | None:
    """The column of labels, '' if each class has one, None if none can be told from the others by its name."""
    if label_column or one_hot(header, cells, aside=look.group_column):
        return label_column
    aside = (*SPLIT_COLUMNS, *GROUP_COLUMNS)
    free = [name for name in header if name not in (path_column, look.group_column)]
    free = [name for name in free if name.strip().casefold() not in aside]
    known = [name for name in free if name.strip().casefold() in LABEL_COLUMNS]
    if len(known) != 1 and len(free) != 1:
        return None
    return (known or free)[0]


def _covers(hits: set[str], look: _FolderListing) -> bool:
    """Whether they are nearly all images of the folders that they lie in, less those that are to be predicted.

    The images of the test set alone do not count.
    """
    folders = {path.rpartition("/")[0] for path in hits}
    there = {path for path in look.names.paths if path.rpartition("/")[0] in folders}
    if all(side_of_path(path) == "test" for path in hits):
        return False
    return len(hits) >= SHARE * len(there) or len(hits) >= SHARE * len(there - (look.to_predict - hits))


def _are_classes(rows: Sequence[LabelRow]) -> bool:
    """Whether the labels come again and again, as names of classes do and captions or measurements do not."""
    counts = Counter(row.label for row in rows if row.label)
    return len(counts) > 1 and counts.total() >= 2 * len(counts)


# Words


def _described(look: _FolderListing, tables: _Tables) -> tuple[Layout, Dataset]:
    dataset = label_folder(look.folder, look.found, tables.kept, tables.rejected)
    dataset = replace(dataset, unused=tables.besides[0], proposal=tables.besides[1])
    names = few([repr(table.relative_to(look.folder).as_posix()) for table in tables.paths], 3)
    column = f"the column {tables.label_column!r}" if tables.label_column else "the columns of the classes"
    without = sum(reason == "not_a_file" for reason in tables.rejected.values())
    missing = f" Rows that name no image that is there: {without:,}." if without else ""
    sentence = (
        f"{look.folder}: the labels are taken from {column} of {names}, the images found by {tables.path_column!r} "
        f"({_sum(dataset)}).{missing} --label-column, --path-column or --label-from say otherwise."
    )
    return Layout(look.folder, "", tables.label_column, tables.path_column, tables.paths, sentence), dataset


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
    look: _FolderListing, *columns: str, option: str = "--label-from takes labels from file names"
) -> BadLabels:
    wanted = " and ".join(repr(name) for name in columns if name)
    there = look.metadata() or look.tables()
    headers = {path: _read(look.folder / path)[0] for path in there}
    known = sorted({name for header in headers.values() for name in header})
    missing = next((name for name in reversed(columns) if name and name not in known), "")
    listed = few([f"{path!r} ({', '.join(map(repr, header))})" for path, header in headers.items()], 3)
    if not there:
        return BadLabels(
            f"{look.folder}: holds no table, but the column {wanted} was asked for.",
            hint=f"Give the table itself, or put it beside the images. {option}.",
        )
    if missing:
        return BadLabels(
            f"{look.folder}: no table in it has the column {missing!r}; there are {listed}.",
            hint=near_names(missing, known) or "Give one of these columns.",
        )
    return BadLabels(
        f"{look.folder}: no single table in it has the columns {wanted} and names the images; there are {listed}.",
        hint="Give the table itself instead of the folder. It has to name 95 % of the images in its folders.",
    )
