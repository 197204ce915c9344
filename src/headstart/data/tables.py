"""The columns of a table of labels: which holds the paths, the labels, the set of a split, and the groups.

Labels stay as they are in the file (`007` is the class ``007``), except for what programs make of them
(`data.label_cells`). The columns are guessed by their usual names; by their values only if the names say nothing and
one column alone holds names of images. Two candidates are an error that names the option to give. Classes with one
column of zeros and ones each are recognised by these (`data.one_hot`). Of several columns for the split or the groups,
one is used, which is logged. `unused_columns` lists the rest.

Costs about 1 s per million rows. Only for tables of labels; `data.table_files` reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headstart.data.dataset import IMAGES
from headstart.data.label_cells import SEVERAL, group_names, labels_of, no_label
from headstart.data.one_hot import bits, hot_columns, hot_labels, one_each
from headstart.data.path_cells import plain_path
from headstart.data.set_columns import FLAGS, TWO_SETS, flagged_sets, set_name
from headstart.data.table_files import any_bytes, as_windows, is_windows
from headstart.errors import BadLabels, near_names
from headstart.io.progress import log
from headstart.io.text_table import few

PATH_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "images", "image_path", "image_name", "img", "img_path", "picture", "photo"),
)
OTHER_PATH_COLUMNS = (
    *("paths", "files", "filenames", "file_names", "filepaths", "file_paths", "image_paths", "image_names"),
    *("image_file", "image_filename", "image_file_name", "imagepath", "imagename", "imgpath", "img_name", "imgs"),
)
"""Used if none of the first has such a name."""
ID_COLUMNS = ("id", "image_id", "img_id", "uuid")
CODE_COLUMNS = ("id_code",)
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target", "y")
SPLIT_COLUMNS = ("split", "set", "subset", "fold", "data_set", "usage")
"""Of several, those that hold names of splits come first, then this order decides."""
GROUP_COLUMNS = ("group", "group_id", "groups")
"""Of several, the first in this list is used."""
_NAMES = (*PATH_COLUMNS, *OTHER_PATH_COLUMNS, *ID_COLUMNS, *CODE_COLUMNS)
_INDEX_COLUMNS = re.compile(r"unnamed: \d+(?:\.\d+)?|index|column \d+|level_0", re.IGNORECASE)
_PIXELS = re.compile(r"pixels?|(?:pixel|px)[ _]?\d+|\d+x\d+", re.IGNORECASE)


@dataclass(frozen=True)
class LabelRow:
    """One row of a table of labels; an empty `label`, `split` or `group` means unknown."""

    path: str
    label: str
    split: str
    group: str
    problem: str = ""
    """Why the row is left out, a reason as in `Dataset.rejected`; '' if it is not."""


@dataclass(frozen=True)
class Columns:
    """Which column holds what; an empty name means that there is none."""

    path: str
    label: str
    split: str
    group: str
    classes: tuple[str, ...] = ()
    """Columns of zeros and ones, one per class, if these hold the labels."""
    flags: tuple[str, ...] = ()
    """Columns of truth values that hold the split, such as is_valid, if no column names the sets."""


def rows_of(
    table: Path,
    header: Sequence[str],
    cells: Sequence[list[str]],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    unlabelled: bool = False,
) -> list[LabelRow]:
    """The rows read by `read_cells`, in file order. Raises `BadLabels`, see `choose_columns` for the parameters."""
    columns = choose_columns(
        table,
        header,
        cells,
        path_column=path_column,
        label_column=label_column,
        group_column=group_column,
        unlabelled=unlabelled,
    )
    return rows_by(table, header, cells, columns)


def choose_columns(
    table: Path,
    header: Sequence[str],
    cells: Sequence[list[str]],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    unlabelled: bool = False,
) -> Columns:
    """Like `guess_columns`, but classes may also have one column of zeros and ones each."""
    _refuse_pixels(table, header)
    by_name = dict(zip(header, cells, strict=True))
    hot = [] if label_column or unlabelled else one_hot(header, cells, aside=group_column or "")
    free = {name: column for name, column in by_name.items() if name not in hot}
    columns = guess_columns(
        table,
        list(free),
        path_column=path_column,
        label_column=label_column,
        group_column=group_column,
        unlabelled=unlabelled or one_each([by_name[name] for name in hot]),
        cells=free,
        everything=header,
    )
    if hot and _called([columns.label], _NAMES):
        columns = replace(columns, label="")
    named = bool(columns.split) and any(map(set_name, set(by_name[columns.split])))
    flags = () if named else _flags(table, by_name, columns)
    split = "" if flags else columns.split
    return replace(columns, split=split, classes=() if columns.label else tuple(hot), flags=flags)


def rows_by(table: Path, header: Sequence[str], cells: Sequence[list[str]], columns: Columns) -> list[LabelRow]:
    """The rows read by `read_cells`, with these columns. Raises `BadLabels` for labels in an unknown encoding, and for
    several labels per image."""
    by_name = dict(zip(header, cells, strict=True))
    if (columns.label and any_bytes(by_name[columns.label])) or _names_in_windows(table, header, cells, columns.path):
        by_name = dict(zip(*as_windows(table, header, cells), strict=True))
    empty = [""] * len(cells[0])
    paths, splits, groups = (by_name[name] if name else empty for name in (columns.path, columns.split, columns.group))
    if columns.flags:
        splits = flagged_sets({plain_name(name): by_name[name] for name in columns.flags})
    labels = empty
    if columns.label:
        labels = labels_of(table, columns.label, by_name[columns.label], paths)
    elif columns.classes:
        labels = hot_labels(table, {name: by_name[name] for name in columns.classes}, paths)
    groups, splits = group_names(table, columns.group, groups), _without_missing(splits)
    problems = {SEVERAL: "two_labels", TWO_SETS: "two_splits"}
    return [
        LabelRow(path, "", "", group, problem)
        if (problem := problems.get(label) or problems.get(split, ""))
        else LabelRow(path, label, split, group)
        for path, label, split, group in zip(paths, labels, splits, groups, strict=True)
    ]


def _names_in_windows(table: Path, header: Sequence[str], cells: Sequence[list[str]], column: str) -> bool:
    """Whether paths that are not UTF-8 name files if they are read as Windows-1252."""
    paths = cells[header.index(column)]
    foreign = [path for path in paths if any_bytes([path])] if any_bytes(paths) else []
    if not foreign or not is_windows(table, header, cells):
        return False
    read = (path.encode("utf-8", "surrogateescape").decode("cp1252") for path in foreign)
    return any(_names_file(table.parent, [path]) for path in read)


def _without_missing(cells: Sequence[str]) -> list[str]:
    """Cells without blanks around them; empty where a program wrote that there is none."""
    known = {cell: "" if no_label(cell) else cell.strip() for cell in set(cells)}
    return [known[cell] for cell in cells]


def unused_columns(header: Sequence[str], columns: Columns) -> list[str]:
    """The unused columns, except those that `guess_columns` has reported.

    >>> unused_columns(["path", "label", "age"], Columns("path", "label", "", ""))
    ['age']
    """
    noted = [*_called(header, SPLIT_COLUMNS)]
    noted += _called(header, GROUP_COLUMNS) if _called([columns.group], GROUP_COLUMNS) else []
    used = {columns.path, columns.label, columns.split, columns.group, *columns.classes, *columns.flags, *noted}
    return [name for name in header if name not in used]


def one_hot(header: Sequence[str], cells: Sequence[list[str]], *, aside: str = "") -> list[str]:
    """The columns that are one class each (see `hot_columns`); none if a column is called like labels.

    The column `aside` is never one of them, nor are columns called like ids, sets or groups.

    >>> one_hot(["id", "rust", "scab"], [["a", "b"], ["0", "1"], ["1", "0"]])
    ['rust', 'scab']
    """
    known = (*_NAMES, *SPLIT_COLUMNS, *GROUP_COLUMNS, *FLAGS)
    if _called(header, LABEL_COLUMNS):
        return []
    columns = dict(zip(header, cells, strict=True))
    free = {name: c for name, c in columns.items() if name != aside and plain_name(name) not in known}
    free = {name: c for name, c in free.items() if not _INDEX_COLUMNS.fullmatch(name)}
    hot = hot_columns(free)
    return hot if len(hot) < len(header) else []


def label_columns(columns: Mapping[str, Sequence[str]], *, used: Sequence[str], ids: bool = True) -> list[str]:
    """The columns that may hold labels: those called like labels, else all but those of sets, groups and row numbers.

    Those called like ids or paths come last, without `ids` not at all.

    >>> label_columns({"id": ["1"], "breed": ["pug"], "split": ["train"]}, used=["id"])
    ['breed']
    """
    aside = (*SPLIT_COLUMNS, *GROUP_COLUMNS, *FLAGS)
    free = [name for name, cells in columns.items() if name not in used and not is_index(name, cells)]
    free = [name for name in free if plain_name(name) not in aside]
    others = [name for name in free if not _called([name], _NAMES)]
    return _called_labels(free, columns) or others or (free if ids else [])


def guess_columns(
    table: Path,
    header: Sequence[str],
    *,
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    unlabelled: bool = False,
    cells: Mapping[str, Sequence[str]] | None = None,
    everything: Sequence[str] = (),
) -> Columns:
    """Choose the columns by name, ignoring case, and blanks or dashes for ``_``.

    A table with two columns needs only one known name. With `unlabelled`, no label column is looked for. Of several
    columns for the split or the groups one is used (see `SPLIT_COLUMNS`), which depends on their `cells`. Raises
    `BadLabels` if none or several could be meant, which lists the columns in `everything`, else those of `header`.

    >>> guess_columns(Path("dogs.csv"), ["id", "breed"])
    Columns(path='id', label='breed', split='', group='', classes=(), flags=())
    """
    named = {"path_column": path_column, "label_column": label_column, "group_column": group_column}
    for parameter, given in named.items():
        if given is not None and given not in header:
            near = near_names(given, list(header))
            raise BadLabels(
                f"{table}: has no column {given!r} ({parameter}); its columns are {_listed(header)}.",
                hint=near or f"Give {parameter} one of these.",
            )
    if group_column:
        _refuse_group(table, group_column, path_column, label_column, [] if unlabelled else header)
    cells = cells or {}
    free = [name for name in header if name not in named.values() and not is_index(name, cells.get(name, ()))]
    splits, groups = _called(free, SPLIT_COLUMNS), _called(free, GROUP_COLUMNS)
    split = _split_column(table, splits, cells)
    group = group_column or usual_group(table, free)
    free = [name for name in free if name not in (*splits, *groups) and plain_name(name) not in FLAGS]
    path = path_column or _path_column(table, free, cells)
    free = [name for name in free if name != path]
    if unlabelled:
        path = path or (free[0] if len(free) == 1 else "")
        free = []
    label = label_column or _one(table, _called_labels(free, cells), "label", free)
    free = ([name for name in free if not _called([name], _NAMES)] or free) if path else free
    if path and not label and len(free) == 1:
        label = free[0]
    elif label and not path and len(free) == 2:
        path = next(name for name in free if name != label)
    if not path or (not label and free):
        raise _no_column(table, "label" if path else "path", everything or header)
    return Columns(path, label, split, group)


def _no_column(table: Path, missing: str, header: Sequence[str]) -> BadLabels:
    row = any(re.search(r"[0-9/.]", name) for name in header)
    return BadLabels(
        f"{table}: no column looks like the {missing} column; its columns are {_listed(header)}.",
        hint=f"Say which one holds it with --{missing}-column (in Python, DataSource(..., {missing}_column=...)), or "
        "rename it." + " If these are its first row, write path,label above it." * row,
    )


def _path_column(table: Path, free: Sequence[str], cells: Mapping[str, Sequence[str]]) -> str:
    """The column with a usual name for paths; else the only one whose cells look like names of images; else ''."""
    for known in (PATH_COLUMNS, OTHER_PATH_COLUMNS, ID_COLUMNS, CODE_COLUMNS):
        found = _called(free, known)
        there = [name for name in found if _names_file(table.parent, cells.get(name, ()))]
        if len(found) > 1 and len(there) == 1:
            log.info("%s: the paths are taken from the column %r, which names existing files.", table, there[0])
            return there[0]
        if found:
            return _one(table, found, "path", free)
    images = [name for name in free if are_images(cells.get(name, ()))]
    return images[0] if len(images) == 1 else ""


def _called_labels(free: Sequence[str], cells: Mapping[str, Sequence[str]]) -> list[str]:
    """The columns with a usual name for labels; of several that say the same, the one with names instead of numbers.

    >>> _called_labels(["label", "class"], {"label": ["0", "1", "0"], "class": ["cat", "dog", "cat"]})
    ['class']
    """
    found = _called(free, LABEL_COLUMNS)
    columns = [cells.get(name, ()) for name in found]
    pairs = set(zip(*columns, strict=True)) if len(found) > 1 and all(columns) else set()
    if not pairs or any(len(pairs) != len(set(column)) for column in columns):
        return found
    named = [name for name, column in zip(found, columns, strict=True) if not all(map(_is_number, set(column)))]
    return (named or found)[:1]


def _is_number(cell: str) -> bool:
    return cell.strip().replace(".", "", 1).isdigit() or not cell.strip()


def _names_file(folder: Path, cells: Sequence[str]) -> bool:
    first = next((text for cell in cells if (text := plain_path(cell))), "")
    try:
        return bool(first) and (folder / first).is_file()
    except (OSError, ValueError):
        return False


def are_images(cells: Sequence[str]) -> bool:
    """Whether cells (a hundred of them) end like the names of images."""
    some = [text for cell in cells[:100] if (text := plain_path(cell).lower())]
    return bool(some) and all(text.endswith(IMAGES) for text in some)


def is_index(name: str, cells: Sequence[str]) -> bool:
    """Whether a column without a name of its own counts the rows, as pandas writes it."""
    if not _INDEX_COLUMNS.fullmatch(name) or not cells or not cells[0].strip().isdigit():
        return False
    first = int(cells[0])
    return all(cell.strip() == str(first + n) for n, cell in enumerate(cells))


def path_rank(name: str, cells: Sequence[str]) -> int:
    """How much a column looks like that of the paths, 0 for the most: by a usual name, file names, a name for ids.

    >>> [path_rank(name, cells) for name, cells in (("Image", ["1"]), ("shot", ["1.jpg"]), ("id", ["1"]), ("age", ["1"]))]
    [0, 2, 3, 4]
    >>> path_rank("column 1", ["7", "3"])
    5
    """
    if are_images(cells) and not _called([name], (*PATH_COLUMNS, *OTHER_PATH_COLUMNS)):
        return 2
    known = (PATH_COLUMNS, OTHER_PATH_COLUMNS, (), (*ID_COLUMNS, *CODE_COLUMNS))
    return next(
        (i for i, names in enumerate(known) if _called([name], names)), 4 + bool(_INDEX_COLUMNS.fullmatch(name))
    )


def _refuse_pixels(table: Path, header: Sequence[str]) -> None:
    """Raise `BadLabels` for a table that holds pixels."""
    pixels = [name for name in header if _PIXELS.fullmatch(name.strip())]
    if len(pixels) > 50 or (len(pixels) == 1 and pixels[0].strip().casefold() == "pixels"):
        raise BadLabels(
            f"{table}: holds the pixels of images ({few([repr(name) for name in pixels], 3)}), not their paths.",
            hint="Save each row as a PNG file (reshape its numbers with numpy, then PIL.Image.fromarray), in one folder "
            "per class, and give the folder above them.",
        )


def _flags(table: Path, by_name: Mapping[str, Sequence[str]], columns: Columns) -> tuple[str, ...]:
    """Columns such as is_valid that hold the split, which is logged."""
    used = (columns.path, columns.label, columns.group)
    flags = [
        name for name in by_name if plain_name(name) in FLAGS and name not in used and bits(by_name[name]) is not None
    ]
    if flags:
        others = _called(by_name, SPLIT_COLUMNS)
        log.info(
            "%s: the split is taken from the column%s %s%s.",
            *(table, "s" * (len(flags) > 1), _listed(flags), f"; not used: {_listed(others)}" if others else ""),
        )
    return tuple(flags)


def _refuse_group(table: Path, group: str, path: str | None, label: str | None, header: Sequence[str]) -> None:
    """Raise `BadLabels` if the column of groups is that of the paths or of the labels."""
    labels = [label] if label else _called(header, LABEL_COLUMNS)
    if group == path or labels == [group]:
        raise BadLabels(
            f"{table}: the column {group!r} is given as group_column, but it holds the "
            f"{'paths' if group == path else 'labels'}.",
            hint="Name the column that says which images belong together, such as one of patients or cameras.",
        )


def plain_name(name: str) -> str:
    """A name in lower case, with ``_`` between its words.

    >>> plain_name("Image Path"), plain_name("fileName"), plain_name("LABEL")
    ('image_path', 'file_name', 'label')
    """
    return re.sub(r"[ -]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip())).casefold()


def _called(header: Iterable[str], names: Iterable[str]) -> list[str]:
    known = frozenset(names)
    return [name for name in header if plain_name(name) in known]


def _one(table: Path, found: Sequence[str], what: str, header: Sequence[str]) -> str:
    """The only one of these columns, '' for none. Raises `BadLabels` for several."""
    if len(found) > 1:
        raise BadLabels(
            f"{table}: {_listed(found)} could each be meant (its columns are {_listed(header)}).",
            hint=f"Say which with --{what}-column {found[0]} (in Python, {what}_column={found[0]!r}), or rename the "
            "others.",
        )
    return found[0] if found else ""


def _split_column(table: Path, found: Sequence[str], cells: Mapping[str, Sequence[str]]) -> str:
    """Of columns with such a name, the one with the split; if none holds names of splits, any of them."""
    if not cells:
        return _first_of(table, found, SPLIT_COLUMNS, "split is")
    naming = [name for name in found if any(map(set_name, set(cells[name])))]
    if not naming:
        return next(iter(found), "")
    return _first_of(table, naming, SPLIT_COLUMNS, "split is", [name for name in found if name not in naming])


def _first_of(table: Path, found: Sequence[str], names: Sequence[str], what: str, others: Sequence[str] = ()) -> str:
    """Of columns with such a name, the one that comes first in `names`, '' for none; the choice is logged.

    Raises `BadLabels` if two have that name, ignoring case.
    """
    rank = {name: names.index(plain_name(name)) for name in found}
    ranked = sorted(found, key=rank.__getitem__)
    if len(ranked) > 1 and rank[ranked[0]] == rank[ranked[1]]:
        raise BadLabels(
            f"{table}: {_listed(ranked[:2])} could each be meant: the {what} looked for in one column.",
            hint="Rename or remove the other one.",
        )
    left = [*ranked[1:], *others]
    if left:
        log.info("%s: the %s taken from the column %r; not used: %s.", table, what, ranked[0], _listed(left))
    return ranked[0] if ranked else ""


def usual_group(table: Path, header: Sequence[str]) -> str:
    """The column of groups where none is named, see `GROUP_COLUMNS`; '' for none. Raises `BadLabels` as `guess_columns`."""
    return _first_of(table, _called(header, GROUP_COLUMNS), GROUP_COLUMNS, "groups are")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
