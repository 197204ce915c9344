"""Match the rows of a table to images, and read labels from file names.

A row names an image by its path, with or without its extension; if there is no such image, by its file name alone, in
any folder of the set that the table is about (`data.image_names`), as tables of competitions do (`0a1b` is
`train_images/0a1b.png`). Where nothing is called exactly so, other spellings count, which is noted; last come paths of
another machine, if exchanging the folders that they begin with makes them those of images. A name that fits several
images is an error, not a guess. Rows that are left out are noted. Costs about 2 s per 100,000 rows. Only for tables of
images.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from headstart.data.dataset import (
    IMAGES,
    Dataset,
    FoundImages,
    both_groups,
    dataset_of,
    decided,
    in_several_groups,
    is_unlabelled_name,
    set_of_path,
)
from headstart.data.image_folder import every_image, no_images
from headstart.data.image_names import Names, images_named
from headstart.data.path_cells import (
    is_elsewhere,
    is_respelled,
    is_scientific,
    plain_path,
    relocation,
)
from headstart.data.set_columns import set_name
from headstart.data.table_files import read_cells
from headstart.data.tables import LabelRow, choose_columns, rows_by
from headstart.errors import BadLabels, BadSplit
from headstart.io.addresses import DOWNLOAD_FIRST, is_address
from headstart.io.progress import log
from headstart.io.text_table import few

_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".heic", ".avif", ".jp2", ".dcm")
"""What an id may lack. A camera's raw file beside a JPEG of the same name is not meant."""


# Tables


def open_table(table: Path, rows: list[LabelRow]) -> Dataset:
    """The images named by the rows of a table. Raises `BadLabels`, `BadSplit`.

    Paths are relative to the folder of the table. Only if none of them exists, the names are looked for in the folders
    below it. If no row has a split, it follows from the names of the folders (see `decided`).
    """
    root, rows = table.parent, with_sets(table, rows)
    kept, rejected = merged(table, rows, _Listed(table).find)
    if not kept:
        kept, rejected = _found_below(table, rows)
    classes = {row.label for row in rows if row.label}
    usable = [kept[path] for path in sorted(kept) if path not in rejected]
    if not usable:
        raise no_images(root, sorted(rejected.items()))
    note_numbers(table.name, rejected)
    images = [(row.path, row.label, row.split) for row in usable]
    if not any(row.split for row in usable):
        images = _by_own_folders(images)
    found = FoundImages(images, classes, sorted(rejected.items()))
    return dataset_of(root, found, [row.group for row in usable])


def _by_own_folders(images: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Like `by_folders`, without the folders that all paths begin with: absolute paths may say anything there."""
    levels = zip(*(path.split("/")[:-1] for path, _, _ in images), strict=False)
    shared = len(list(takewhile(lambda folders: len(set(folders)) == 1, levels)))
    return decided([(path, name, set_of_path("/".join(path.split("/")[shared:]))) for path, name, _ in images])


def open_unlabelled(table: Path) -> Dataset:
    """The images whose paths are in a table, whatever else it holds. Raises `BadLabels`."""
    header, cells = read_cells(table)
    columns = choose_columns(table, header, cells, unlabelled=True)
    log.info("%s: the images are those in the column %r.", table, columns.path)
    return open_table(table, rows_by(table, header, cells, replace(columns, split="", group="", flags=())))


def _found_below(table: Path, rows: list[LabelRow]) -> tuple[dict[str, LabelRow], dict[str, str]]:
    """The rows whose images are somewhere below the folder of the table. Raises `BadLabels` if none is."""
    names = Names(path for path, _, _ in every_image(table.parent).images)
    found = images_named(names, table.name, (row.path for row in rows))
    kept, rejected = merged(table, rows, lambda row: one_image(table, row.path, found[row.path]))
    if kept:
        log.info("The images of %s were found by name in the folders beside it.", table)
        return kept, rejected
    rows = moved(table, rows, names)
    found = images_named(names, table.name, (row.path for row in rows))
    kept, rejected = merged(table, rows, lambda row: one_image(table, row.path, found[row.path]))
    if not kept:
        raise _nothing_found(table, rows)
    return kept, rejected


def moved(table: Path, rows: list[LabelRow], names: Names) -> list[LabelRow]:
    """The rows with the first folders of their paths replaced, if that makes them images; this is logged."""
    rule = relocation([row.path for row in rows], names.paths)
    if rule is None:
        return rows
    result = [replace(row, path=rule.applied_to(row.path)) for row in rows]
    i = next(i for i, row in enumerate(result) if row.path in names.paths)
    log.info(
        "%s: its paths come from another folder or machine, so their first folders are replaced: %r is read as %r.",
        *(table, rows[i].path, result[i].path),
    )
    return result


def _nothing_found(table: Path, rows: Sequence[LabelRow]) -> BadLabels:
    first = next((row.path for row in rows if row.path.strip()), "")
    if is_address(first):
        n = sum(is_address(row.path) for row in rows)
        return BadLabels(
            f"{table}: {n:,} of {len(rows):,} rows name an address, such as {first!r}.", hint=DOWNLOAD_FIRST
        )
    hint = "Paths are relative to the folder of the table: move the table, or change its paths."
    if is_elsewhere(first):
        hint = (
            f"These paths do not exist on this machine. Make them relative to the folder of the table, {table.parent}."
        )
    elif is_scientific(first):
        hint = f"A spreadsheet has turned a name into the number {first!r}: format the column as text, and fill it in again."
    return BadLabels(
        f"{table}: none of its {len(rows):,} rows names an existing image; "
        f"the first is {first!r}, looked for at {table.parent / plain_path(first)}.",
        hint=hint,
    )


def note_numbers(table: str, rejected: Mapping[str, str]) -> None:
    """Log names of images that a spreadsheet has turned into numbers."""
    names = (path.rpartition("/")[2] for path, reason in rejected.items() if reason == "not_a_file")
    number = next(filter(is_scientific, names), "")
    if number:
        log.warning("%s: a spreadsheet has turned a name into the number %r: format the column as text.", table, number)


def one_image(table: Path, cell: str, found: Sequence[str]) -> str | None:
    """The image that a cell means, None if there is none. Raises `BadLabels` if it could be several."""
    if len(found) > 1:
        raise BadLabels(
            f"{table}: {cell!r} is ambiguous: {few([repr(path) for path in found], 3)}.",
            hint="Write the paths of the images into the table, relative to its folder.",
        )
    return found[0] if found else None


def merged(
    table: Path, rows: Sequence[LabelRow], find: Callable[[LabelRow], str | None], base: str = ""
) -> tuple[dict[str, LabelRow], dict[str, str]]:
    """{path: row}, with the rows of one image merged, and {path or cell: reason} of those that cannot be used.

    The rows are those of `with_sets`. A row in another spelling (1.png for 1.jpg) counts only if none has the name of the
    image itself; else its own image is missing. Cells without an image are relative to `base`, the folder of the table.
    """
    kept: dict[str, LabelRow] = {}
    rejected: dict[str, str] = {}
    respelled: dict[str, str] = {}
    found = [find(row) for row in rows]
    others = [path is not None and is_respelled(row.path, path) for row, path in zip(rows, found, strict=True)]
    exact = {path for path, other in zip(found, others, strict=True) if not other}
    for n, (row, path, other) in enumerate(zip(rows, found, others, strict=True), 1):
        if path is None or (other and path in exact):
            inside = base if not is_elsewhere(row.path) and not is_address(row.path) else ""
            rejected[inside + (row.path or f"(row {n})")] = "address" if is_address(row.path) else "not_a_file"
            continue
        if other:
            respelled[row.path] = path
        add_row(kept, rejected, replace(row, path=path))
    if respelled:
        cell, path = next(iter(respelled.items()))
        log.info(
            "%s: %s spelled differently from the files, such as %r for %r.",
            *(table, "1 path is" if len(respelled) == 1 else f"{len(respelled):,} paths are", cell, path),
        )
    note_joined_groups(table, {path: row.group for path, row in kept.items()})
    return kept, rejected


def add_row(kept: dict[str, LabelRow], rejected: dict[str, str], row: LabelRow) -> None:
    """Add the row of an image to {path: row}; if an earlier one says something else, to {path: reason}."""
    earlier = kept.setdefault(row.path, row)
    if row.problem or (row.label and earlier.label and row.label != earlier.label):
        rejected[row.path] = row.problem or "two_labels"
    elif row.split and earlier.split and row.split != earlier.split:
        rejected[row.path] = "two_splits"
    else:
        joined = replace(earlier, label=earlier.label or row.label, split=earlier.split or row.split)
        kept[row.path] = replace(joined, group=both_groups(earlier.group, row.group))


def note_joined_groups(where: object, groups: Mapping[str, str]) -> None:
    """Log how many images {path: group} are in several groups."""
    several = [path for path, group in groups.items() if in_several_groups(group)]
    if several:
        log.info(
            "%s: %s in several groups, such as %r; groups that share an image are taken as one.",
            *(where, "1 image is" if len(several) == 1 else f"{len(several):,} images are", several[0]),
        )


def label_folder(root: Path, found: FoundImages, kept: dict[str, LabelRow], rejected: dict[str, str]) -> Dataset:
    """All images of a folder; those named by rows have their labels, the others none.

    The split is that of the rows, or follows from the names of the folders (see `decided`).
    """
    images = [(path, kept[path].label if path in kept else "") for path, _, _ in found.images]
    images = [(path, name) for path, name in images if path not in rejected]
    if any(row.split for row in kept.values()):
        with_split = [(path, name, kept[path].split if path in kept else "") for path, name in images]
    else:
        with_split = by_folders(images)
    everything = FoundImages(
        with_split, {row.label for row in kept.values() if row.label}, [*found.rejected, *rejected.items()]
    )
    return dataset_of(root, everything, [kept[path].group if path in kept else "" for path, _, _ in with_split])


def by_folders(images: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """(path, class, split) of images (path, class): the split that their folders say, if they do (see `decided`)."""
    return decided([(path, name, set_of_path(path)) for path, name in images])


class _Listed:
    """The files that the rows of a table name, relative to its folder."""

    def __init__(self, table: Path) -> None:
        self.table = table
        self.root = table.parent
        self._inside: dict[str, tuple[Names, Names]] = {}

    def find(self, row: LabelRow) -> str | None:
        """The clean path of a cell whose file exists: as given, with ``/`` for ``\\``, with its extension, or in
        another spelling. Raises `BadLabels` if several files have this name, each with another extension."""
        name, text = row.path, plain_path(row.path)
        for candidate in dict.fromkeys(filter(None, (name, text))):
            if _is_file(self.root / candidate):
                return Path(candidate).as_posix()
        found = one_image(self.table, row.path, self._with_suffix(text)) if text and not Path(text).suffix else None
        if found is not None:
            return Path(found).as_posix()
        return self._respelled(text) if text and not is_elsewhere(text) and not is_address(text) else None

    def _with_suffix(self, text: str) -> list[str]:
        """The images whose path is this one and an extension."""
        name = text.rpartition("/")[2]
        above = text[: len(text) - len(name)]
        found = self._names(above)[0].find_exactly(name) if name and not is_address(text) else []
        return [above + image for image in found if image.lower().endswith(_SUFFIXES)]

    def _respelled(self, text: str) -> str | None:
        """The only image whose name is another spelling of this one; its folders may be spelled differently, too."""
        above, _, name = text.rpartition("/")
        if ".." in text or len(name) > 255:
            return None
        folder = self._folder(above)
        found = self._names(folder)[0].find(name) if folder is not None else []
        return f"{folder}/{found[0]}".lstrip("/") if len(found) == 1 else None

    def _folder(self, text: str) -> str | None:
        """The folder of this name, or the only one whose name is another spelling of it."""
        if not text or os.path.isdir(self.root / text):
            return text
        above, _, name = text.rpartition("/")
        folder = self._folder(above)
        found = self._names(folder)[1].find(name) if folder is not None else []
        return f"{folder}/{found[0]}".lstrip("/") if len(found) == 1 else None

    def _names(self, folder: str) -> tuple[Names, Names]:
        """The images and the folders in a folder."""
        if folder not in self._inside:
            try:
                entries = list(os.scandir(self.root / folder))
            except (OSError, ValueError):  # a zero byte
                entries = []
            images = Names(entry.name for entry in entries if entry.name.lower().endswith(IMAGES) and entry.is_file())
            self._inside[folder] = images, Names(entry.name for entry in entries if entry.is_dir())
        return self._inside[folder]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (ValueError, OSError):  # a zero byte, a name that is too long: no such file can exist
        return False


def with_sets(table: Path, rows: Sequence[LabelRow]) -> list[LabelRow]:
    """The rows with 'train', 'val', 'test' or '' as their split.

    A column without any name of a set (folds 0..4, say) is not used, which is logged. Raises `BadSplit` for other names
    beside those.
    """
    names = {row.split: set_name(row.split) for row in rows}
    known = {text for text, name in names.items() if name}
    unknown = sorted(text for text in names if text.strip() and text not in known)
    if known and unknown:
        raise BadSplit(
            f"{table}: {few([repr(text) for text in unknown], 3)} in its split column; "
            "expected 'train', 'val', 'test', or nothing.",
            hint="Correct these rows, or remove the column: then headstart makes the split.",
        )
    if unknown:
        log.info(
            "The split column of %s holds no names of sets (%s): not used. Expected 'train', 'val', 'test'.",
            *(table, few([repr(text) for text in unknown], 3)),
        )
    return [replace(row, split=names[row.split]) if names[row.split] != row.split else row for row in rows]


# Labels in file names


def compiled(pattern: str, *, what: str = "label") -> re.Pattern[str]:
    """Compile a regular expression for the label (or the group) in a name. Raises `BadLabels` if it is invalid."""
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        where = f" at position {error.pos}" if isinstance(error, re.error) and error.pos is not None else ""
        problem = error.msg if isinstance(error, re.error) else str(error)
        example = {"label": "^(cat|dog)", "group": r"person(\d+)"}[what]
        raise BadLabels(
            f"{what}_from: {pattern!r} is not a regular expression: {problem}{where}.",
            hint=f"For example: '{example}'; the part in parentheses is the {what}. Write \\( for a literal parenthesis.",
        ) from None


def text_in(name: str, pattern: re.Pattern[str], *, what: str = "label") -> str:
    """The label (or the group) in a name: the regular expression's group of that name, or the first one, or the whole
    match. Returns '' without a match.

    >>> text_in("cat.0.jpg", re.compile("^(cat|dog)")), text_in("1.jpg", re.compile("^(cat|dog)"))
    ('cat', '')
    >>> text_in("2024_rose_3.jpg", re.compile("_(?P<label>[a-z]+)_")), text_in("dog7.jpg", re.compile("^[a-z]+"))
    ('rose', 'dog')
    """
    match = pattern.search(name)
    if match is None:
        return ""
    group: str | int = what if what in pattern.groupindex else min(pattern.groups, 1)
    return (match[group] or "").strip()


def labels_from_names(where: Path, names: Sequence[str], pattern: str, *, quiet: bool = False) -> list[str]:
    """The labels in file names, '' where there is none, which is logged. Raises `BadLabels` if none has one."""
    expression = compiled(pattern)
    about_paths = _about_paths(pattern)
    searched = list(names) if about_paths else [_base(name) for name in names]
    labels = [text_in(name, expression) for name in searched]
    without = [name for name, label in zip(searched, labels, strict=True) if not label]
    if len(without) == len(names):
        raise BadLabels(
            f"{where}: label_from {pattern!r} matches none of {len(names):,} "
            f"{'paths' if about_paths else 'file names'}, such as {few([repr(name) for name in without], 3)}.",
            hint="It is matched against the name of the file, such as '^(cat|dog)'; with a / in it, against the path, such as "
            "'([^/]+)/[^/]+$' for the innermost folder.",
        )
    if without and not quiet:
        log.info(
            "%s: %s of %s file names have no label by %r, such as %s.",
            *(where, f"{len(without):,}", f"{len(names):,}", pattern, ", ".join(map(repr, without[:3]))),
        )
    return labels


def _about_paths(pattern: str) -> bool:
    """Whether a pattern can only be meant for paths: no file name has a /.

    >>> _about_paths("([^/]+)/[^/]+$"), _about_paths("^([^/_]+)_")
    (True, False)
    """
    return "/" in re.sub(r"\[\^?\]?[^\]]*\]", "", pattern)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def open_by_pattern(root: Path, pattern: str) -> Dataset:
    """All images of a folder with the labels in their file names. Raises `NoImages`, `BadLabels`."""
    compiled(pattern)
    found = every_image(root)
    if not found.images:
        raise no_images(root, found.rejected)
    return label_by_pattern(root, found, pattern)


def label_by_pattern(root: Path, found: FoundImages, pattern: str, *, quiet: bool = False) -> Dataset:
    """These images with the labels in their file names; the split follows from the folders, see `decided`."""
    paths = [path for path, _, _ in found.images]
    labels = labels_from_names(root, paths, pattern, quiet=quiet)
    images = by_folders(list(zip(paths, labels, strict=True)))
    return dataset_of(root, FoundImages(images, set(labels) - {""}, found.rejected))


# Recognising labels at the beginning of file names

_NUMBERED = re.compile(r"(?P<label>(?=[^\W\d]{2}).*?[^\W\d])[ ._-]*\(?\d+\)?\.\w+")
_NO_LABELS = frozenset(
    (
        *("img", "image", "images", "dsc", "dscn", "dscf", "dsci", "pxl", "pic", "pict", "picture", "pictures"),
        *("photo", "photos", "screenshot", "scan", "scanned", "file", "frame", "untitled", "vid", "video", "mvimg"),
        *("gopr", "sam", "train", "training", "test", "testing", "val", "valid", "validation", "sample", "data"),
        *("id", "item"),
    )
)
"""What cameras, programs and authors of datasets write before a number."""
MOST_PREFIXES = 200
SHARE = 0.95
"""Fraction of the images that must fit for a layout to be recognised."""


def name_pattern(paths: Sequence[str]) -> str:
    """A pattern for labels before a number in the file names, or '' if the names do not look like that.

    There must be 2 to 200 such words, each of several images, in 95 % of the names; test folders need not have them.
    What cameras and programs write before a number is not a label.

    >>> name_pattern(["train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg", "train/dog.1.jpg", "test/1.jpg"])
    '^(cat|dog)[ ._-]*\\\\(?\\\\d'
    >>> name_pattern(["IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg", "DSC_2.jpg"])
    ''
    """
    training = [path for path in paths if set_of_path(path) != "test"] or list(paths)
    matches = [_NUMBERED.fullmatch(path.rpartition("/")[2]) for path in training]
    counts = Counter(found["label"] for found in matches if found)
    counts = Counter({word: n for word, n in counts.items() if n > 1})
    if not 2 <= len(counts) <= MOST_PREFIXES or counts.total() < SHARE * len(training):
        return ""
    words = {word.casefold() for word in counts}
    if len(words) < len(counts) or words & _NO_LABELS or any(is_unlabelled_name(word) for word in words):
        return ""
    return f"^({'|'.join(map(_escaped, sorted(counts)))})[ ._-]*\\(?\\d"


def _escaped(word: str) -> str:
    """Like re.escape, which also escapes characters that need no escaping."""
    return re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", word)
