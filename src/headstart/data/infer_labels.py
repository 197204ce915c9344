"""Folders whose labels are elsewhere: in a table beside the images, or at the beginning of the file names.

A folder that has class folders has labels of its own, and is left alone. Otherwise three layouts are tried, in this
order (`data.tables_beside` has the first two):

    metadata.csv, _classes.csv         tables known by their names, at the top or in the split folders
    train.csv, labels.csv, ...         the only table that names 95 % of the images in some folders, or parts of one
    train/cat.0.jpg, dog_12.jpg        2 to 200 words before a number, each with several images

Folders such as stage1 and stage2 may or may not be classes: they yield to a table, but take precedence over file names.
A single folder of this kind, or folders named like mere images (images1, images2), are not classes.

A sentence says what was recognised, and how to override it. Costs a walk over the folder and the reading of its tables
(0.6 s for 37,500 files, 1.1 s with a table of 25,000 rows). Not for data whose layout you know: describe it with
`DataSource`.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from headstart.data.dataset import (
    IMAGES,
    Dataset,
    FoundImages,
    both_groups,
    counted,
    is_plain_name,
    is_unlabelled_name,
    says_nothing,
    set_of_path,
    split_name,
)
from headstart.data.detection import about_boxes
from headstart.data.folder_walk import FolderWalk, files_below, files_in, folders_in
from headstart.data.image_folder import every_image, take
from headstart.data.image_names import Names
from headstart.data.label_cells import group_names
from headstart.data.match_files import label_by_pattern, label_folder, name_pattern, note_joined_groups, note_numbers
from headstart.data.tables_beside import (
    TableLabels,
    TablesBeside,
    groups_in,
    is_table_name,
    metadata_labels,
    read_quietly,
    table_labels,
)
from headstart.data.wrappers import unwrap
from headstart.errors import BadLabels, near_names
from headstart.io.progress import log
from headstart.io.text_table import few


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
    tables = metadata_labels(listing.tables) or table_labels(listing.tables)
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
    tables = metadata_labels(listing.tables, path_column, label_column)
    tables = tables or table_labels(listing.tables, path_column, label_column)
    if tables is None:
        raise _no_table(listing.tables, path_column, label_column)
    layout, dataset = _described(listing, tables)
    log.info("%s", layout.sentence)
    return dataset


def groups_beside(folder: Path, paths: Sequence[str], *, path_column: str, group_column: str) -> list[str]:
    """The group of each image (N paths relative to `folder`), from the tables in it with this column; '' for none.

    Equal values in several tables are one group. Raises `BadLabels` if no table has the column, or none of those names
    an image.
    """
    tables, names = _FolderListing(folder).tables, Names(paths)
    with_column: list[str] = []
    groups: dict[str, str] = {}
    for path in dict.fromkeys([*tables.metadata(), *tables.at_top, *tables.in_folders, *tables.in_sets]):
        header, cells = read_quietly(folder / path)
        if group_column in header:
            with_column.append(path)
            columns = dict(zip(header, cells, strict=True))
            columns |= {group_column: group_names(folder / path, group_column, columns[group_column])}
            found = groups_in(path, columns, names, path_column, group_column)
            groups |= {image: both_groups(groups.get(image, ""), group) for image, group in found.items()}
    if not with_column:
        raise _no_table(tables, group_column, option="--group-from takes groups from the paths of the images")
    if not groups:
        raise BadLabels(
            f"{folder}: no row of {few([repr(path) for path in with_column], 3)}, which has the column {group_column!r}, "
            f"names one of the {len(paths):,} images.",
            hint=f"A row names an image by its path or file name, such as {paths[0]!r}; --path-column names that column.",
        )
    note_joined_groups(folder, groups)
    return [groups.get(path, "") for path in paths]


# Contents of a folder


def top_of(folder: Path) -> Path:
    """The folder with the class folders or tables: `folder`, or the one in which an archive wraps everything."""
    top = unwrap(FolderWalk(folder), folder, quiet=True, past_tables=False)
    inner, files = folders_in(top), files_in(top)
    if len(inner) == 1 and not any(is_table_name(f.name) or f.suffix.lower() in IMAGES for f in files):
        return inner[0] if any(is_table_name(f.name) for f in files_in(inner[0])) else top
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

    @cached_property
    def tables(self) -> TablesBeside:
        """The tables in the folder."""
        return TablesBeside(self.folder, self.top, self.found, group_column=self.group_column)

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


def _side_by_side(listing: _FolderListing) -> dict[str, int]:
    """{folder: images} of two or more folders that hold all images and can be classes; {} if there are none.

    They are at the top, or in split folders; the test set may lack them.
    """
    inner = [path.removeprefix(listing.top).split("/")[:-1] for path, _, _ in listing.found.images]
    if any(parts and split_name(parts[0]) for parts in inner):
        inner = [parts for parts in inner if not (parts and is_unlabelled_name(parts[0]))]
        if not all(parts and split_name(parts[0]) for parts in inner):
            return {}
        inner = [_below_split(parts) for parts in inner if _below_split(parts) or split_name(parts[0]) != "test"]
    counts = Counter(parts[0] if parts else "" for parts in inner)
    if len(counts) < 2 or "" in counts or any(set_of_path(f"{name}/") for name in counts):
        return {}
    return dict(sorted(counts.items())) if not all(map(says_nothing, counts)) else {}


def _below_split(parts: list[str]) -> list[str]:
    """The folders of a path below that of its split, which may occur twice (train/train)."""
    return parts[2:] if parts[1:2] == parts[:1] else parts[1:]


# Words


def _described(listing: _FolderListing, tables: TableLabels) -> tuple[Layout, Dataset]:
    dataset = label_folder(listing.folder, listing.found, tables.kept, tables.rejected)
    dataset = replace(dataset, unused=tables.notes[0], proposal=tables.notes[1])
    names = few([repr(table.relative_to(listing.folder).as_posix()) for table in tables.paths], 3)
    column = f"the column {tables.label_column!r}" if tables.label_column else "the columns of the classes"
    note_numbers(few([table.name for table in tables.paths], 3), tables.rejected)
    sentence = (
        f"{listing.folder}: the labels are taken from {column} of {names}, the images found by {tables.path_column!r} "
        f"({_sum(dataset)}). Override with --label-column, --path-column or --label-from."
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
    tables: TablesBeside, *columns: str, option: str = "--label-from takes labels from file names"
) -> BadLabels:
    wanted = " and ".join(repr(name) for name in columns if name)
    there = tables.metadata() or tables.tables() or [*tables.in_folders, *tables.in_sets]
    headers = {path: read_quietly(tables.folder / path)[0] for path in there}
    known = sorted({name for header in headers.values() for name in header})
    missing = next((name for name in reversed(columns) if name and name not in known), "")
    listed = few([f"{path!r} ({', '.join(map(repr, header))})" for path, header in headers.items()], 3)
    if not there:
        return BadLabels(
            f"{tables.folder}: holds no table, but the column {wanted} was requested.",
            hint=f"Give the table itself, or put it beside the images. {option}.",
        )
    if missing:
        return BadLabels(
            f"{tables.folder}: no table in it has the column {missing!r}; there are {listed}.",
            hint=near_names(missing, known) or "Give one of these columns.",
        )
    return BadLabels(
        f"{tables.folder}: no single table in it has the columns {wanted} and names the images; there are {listed}.",
        hint="Give the table itself instead of the folder. It has to name 95 % of the images in its folders.",
    )
