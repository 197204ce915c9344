"""Match the rows of a table to images, and read labels from file names.

A row names an image by its path, with or without its extension; if there is no such image, by its file name alone, in
any folder, as tables of competitions do (`0a1b` is `train_images/0a1b.png`). A name that fits several images is an
error, not a guess. Costs about 2 s per 100,000 rows. Only for tables of images.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from headstart.data.dataset import (
    Dataset,
    FoundImages,
    dataset_of,
    decided,
    is_unlabelled_name,
    side_of_path,
    split_name,
)
from headstart.data.image_folder import every_image, no_images
from headstart.data.tables import LabelRow
from headstart.errors import BadLabels, BadSplit
from headstart.io.progress import log
from headstart.io.text_table import few

_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".JPG", ".webp", ".JPEG", ".PNG", ".tif", ".tiff", ".bmp", ".gif"),
    *(".heic", ".HEIC", ".avif", ".jp2", ".dcm"),
)


class Names:
    """The images of a folder by every name that a table may use for them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.paths = frozenset(paths)
        self._by_name: defaultdict[str, list[str]] = defaultdict(list)
        self._by_stem: defaultdict[str, list[str]] = defaultdict(list)
        for path in sorted(self.paths):
            name = path.rpartition("/")[2]
            self._by_name[name].append(path)
            self._by_stem[name.rpartition(".")[0] or name].append(path)

    def find(self, cell: str, base: str = "") -> list[str]:
        """The images that a cell can mean, by the first rule with a match; `base` is the folder of its table.

        >>> names = Names(["train_images/0a1b.png", "test/1.jpg", "train/1.jpg"])
        >>> names.find("0a1b"), names.find("1.jpg"), names.find("train/1"), names.find("2")
        (['train_images/0a1b.png'], ['test/1.jpg', 'train/1.jpg'], ['train/1.jpg'], [])
        """
        text = cell.strip().replace("\\", "/").removeprefix("./")
        for exact in (base + cell, base + text, text):
            if exact in self.paths:
                return [exact]
        above, _, name = text.rpartition("/")
        for index in (self._by_name, self._by_stem):
            here = index.get(name, []) if name else []
            found = [path for path in here if not above or f"/{path}".rpartition("/")[0].endswith(f"/{above}")]
            if found:
                return found
        return []


def pick(candidates: Sequence[str], split: str) -> list[str]:
    """Of several images that a name fits, those in the split of its table; if it has none, all but test images."""
    if len(candidates) < 2:
        return list(candidates)
    own = [path for path in candidates if side_of_path(path) == split] if split else []
    return own or [path for path in candidates if side_of_path(path) != "test"] or list(candidates)


# Tables


def open_table(table: Path, rows: list[LabelRow]) -> Dataset:
    """The images named by the rows of a table. Raises `BadLabels`, `BadSplit`.

    Paths are relative to the folder of the table. Only if none of them exists, the names are looked for in the folders
    below it.
    """
    root = table.parent
    kept, rejected = merged(table, rows, lambda row: _existing(root, row.path))
    if not kept:
        names = Names(path for path, _, _ in every_image(root).images)
        kept, rejected = merged(table, rows, lambda row: one_image(table, row, names))
        if kept:
            log.info("The images of %s were found by name in the folders beside it.", table)
    if not kept:
        raise BadLabels(
            f"{table}: none of its {len(rows):,} rows names an existing image; "
            f"the first is {rows[0].path!r}, looked for at {root / rows[0].path}.",
            hint="Paths are relative to the folder of the table: move the table, or change its paths.",
        )
    classes = {row.label for row in rows if row.label}
    usable = [kept[path] for path in sorted(kept) if path not in rejected]
    if not usable:
        raise no_images(root, sorted(rejected.items()))
    found = FoundImages([(row.path, row.label, row.split) for row in usable], classes, sorted(rejected.items()))
    return dataset_of(root, found, [row.group for row in usable])


def one_image(table: Path, row: LabelRow, names: Names, base: str = "", split: str = "") -> str | None:
    """The image that a row names, None if there is none. Raises `BadLabels` if it could be several."""
    found = pick(names.find(row.path, base), split or side_of_path(f"{table.stem.casefold()}/"))
    if len(found) > 1:
        raise BadLabels(
            f"{table}: {row.path!r} is ambiguous: {few([repr(path) for path in found], 3)}.",
            hint="Write the paths of the images into the table, relative to its folder.",
        )
    return found[0] if found else None


def merged(
    table: Path, rows: Sequence[LabelRow], find: Callable[[LabelRow], str | None]
) -> tuple[dict[str, LabelRow], dict[str, str]]:
    """{path: row}, with the rows of one image merged, and {path or cell: reason} of those that cannot be used."""
    kept: dict[str, LabelRow] = {}
    rejected: dict[str, str] = {}
    for n, (row, split) in enumerate(zip(rows, _splits_of(table, rows), strict=True), 1):
        path = find(row)
        if path is None:
            rejected[row.path or f"(row {n})"] = "not_a_file"
            continue
        earlier = kept.setdefault(path, replace(row, path=path, split=split))
        if row.label and earlier.label and row.label != earlier.label:
            rejected[path] = "two_labels"
        elif split and earlier.split and split != earlier.split:
            rejected[path] = "two_splits"
        else:
            joined = replace(earlier, label=earlier.label or row.label, split=earlier.split or split)
            kept[path] = replace(joined, group=earlier.group or row.group)
    return kept, rejected


def label_folder(root: Path, found: FoundImages, kept: dict[str, LabelRow], rejected: dict[str, str]) -> Dataset:
    """All images of a folder; those named by rows have their labels, the others none.

    The split is that of the rows, or follows from the names of the folders (see `decided`).
    """
    images = [(path, kept[path].label if path in kept else "") for path, _, _ in found.images]
    images = [(path, name) for path, name in images if path not in rejected]
    if any(row.split for row in kept.values()):
        with_split = [(path, name, kept[path].split if path in kept else "") for path, name in images]
    else:
        with_split = decided([(path, name, side_of_path(path)) for path, name in images])
    everything = FoundImages(
        with_split, {row.label for row in kept.values() if row.label}, [*found.rejected, *rejected.items()]
    )
    return dataset_of(root, everything, [kept[path].group if path in kept else "" for path, _, _ in with_split])


def _existing(root: Path, name: str) -> str | None:
    """The clean path of a table's cell whose file exists: as given, with ``/`` for ``\\``, or with its extension."""
    candidates = [name] if name else []
    if "\\" in name:
        candidates.append(name.replace("\\", "/"))
    if name and not Path(name).suffix:
        candidates += [name + suffix for suffix in _SUFFIXES]
    for candidate in candidates:
        try:
            if (root / candidate).is_file():
                return Path(candidate).as_posix()
        except (ValueError, OSError):  # a zero byte, a name that is too long: no such file can exist
            continue
    return None


def _splits_of(table: Path, rows: Sequence[LabelRow]) -> list[str]:
    """The split of each row. A column without any split name (folds 0..4, say) is ignored."""
    names = {row.split: split_name(row.split) for row in rows}
    known = {text for text, name in names.items() if name}
    unknown = sorted(text for text in names if text.strip() and text not in known)
    if known and unknown:
        raise BadSplit(
            f"{table}: {few([repr(text) for text in unknown], 3)} in its split column; "
            "expected 'train', 'val', 'test', or nothing.",
            hint="Correct these rows, or remove the column: then headstart makes the split.",
        )
    if unknown:
        log.info("The split column of %s holds no split names (%s ...): not used.", table, unknown[0])
    return [names[row.split] for row in rows]


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
    match.

    '' without a match.

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
    images = decided([(path, label, side_of_path(path)) for path, label in zip(paths, labels, strict=True)])
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
    training = [path for path in paths if side_of_path(path) != "test"] or list(paths)
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
