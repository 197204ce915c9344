"""A folder or a table of pictures becomes a `Dataset`: paths, labels, classes, and the split that came with it.

Nothing is opened here but folders and tables: whether a file is a picture is found out later, so that a bad one is
named by `headstart check` and not passed over in silence. Costs one `stat` a file (about 20,000 files a second on a
warm disk) and some 300 bytes a picture. Not for archives (unpack them first), nor for labels inside file names: make a
table of those.

Layouts:

    DATA/cat/1.jpg                          one folder a class, with any folders below it
    DATA/train/cat/1.jpg, DATA/test/...     split folders (train, val, valid, validation, test ...) of such
    DATA/1.jpg                              no labels
    DATA.csv, DATA.tsv, DATA.parquet        a path and a label column; may have a split and a group column
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from headstart.data.table import TABLES, Row, read_rows
from headstart.errors import BadLabels, BadSplit, MissingData, NoPictures, near_names
from headstart.progress import log

PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".dib"),
    *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
)
OTHERS = (
    *(".txt", ".md", ".csv", ".tsv", ".parquet", ".json", ".xml", ".yaml", ".yml"),
    *(".html", ".py", ".ipynb", ".log"),
)
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar", ".gz")
SKIPPED = frozenset({"thumbs.db", "desktop.ini", "__macosx", "@eadir"})
SPLITS = ("train", "val", "test")

_SPLIT_NAME = re.compile(r"(?:seg_)?(?:(train(?:ing)?)|(val(?:id(?:ation)?)?)|(test(?:ing)?))(?:_set)?")
_UNLABELLED_NAME = re.compile(r"(?:seg_)?(?:pred|predict|unlabell?ed)")
_TABLE_HINT = "Give a table of paths and labels instead (CSV with the columns path,label)."


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures with their labels. N pictures, K classes.

    Only labelled pictures have a split; a picture whose label is unknown has ``''``.
    """

    root: Path
    """Folder that `paths` are relative to."""
    paths: tuple[str, ...]
    """N file names with ``/`` between their parts, sorted; names that are not Unicode are surrogate-escaped."""
    labels: np.ndarray
    """int64 (N,): index into `classes`, -1 = unknown."""
    classes: tuple[str, ...]
    """K names, sorted as text. A class may be without pictures: see `require_trainable`."""
    split: np.ndarray
    """'<U5' (N,): 'train', 'val', 'test', or '' where it is not decided."""
    groups: np.ndarray
    """int64 (N,): pictures with one number stay on one side of a split."""
    rejected: tuple[tuple[str, str], ...] = ()
    """(path, reason) of files and rows that could not be taken up."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def lost(self) -> dict[str, str]:
        """{path: reason} of `rejected`, less the files that were never meant to be pictures."""
        return {path: reason for path, reason in self.rejected if reason != "not_a_picture_name"}

    def file(self, i: int) -> Path:
        """Where picture `i` is."""
        return self.root / self.paths[i]

    def take(self, keep: np.ndarray) -> Dataset:
        """The pictures chosen by a bool mask (N,) or by indices, in that order; classes and `rejected` stay."""
        chosen = np.arange(len(self))[np.asarray(keep)]
        return replace(
            self,
            paths=tuple(self.paths[i] for i in chosen),
            labels=self.labels[chosen],
            split=self.split[chosen],
            groups=self.groups[chosen],
        )

    def label_name(self, i: int) -> str:
        """The class name of picture `i`, '' where it is unknown."""
        return self.classes[self.labels[i]] if self.labels[i] >= 0 else ""


def open_dataset(data: Path | str, *, path_column: str | None = None, label_column: str | None = None) -> Dataset:
    """Take up a folder of pictures, or a table of labels (the columns matter for tables only).

    Pictures come sorted by path, whatever the order on disk. Raises `MissingData` (nothing there, or an archive),
    `NoPictures`, `BadLabels` (mixed layouts, unclear columns, rows without files), `BadSplit` (unknown split names).
    """
    place = Path(data)
    if place.is_dir():
        return _open_folder(place)
    if place.is_file() and place.suffix.lower() in TABLES:
        return _open_table(place, read_rows(place, path_column=path_column, label_column=label_column))
    if place.is_file():
        raise _not_a_dataset(place)
    raise MissingData(f"{place}: there is no such folder or table.", hint=nearest(place))


def require_trainable(dataset: Dataset) -> None:
    """Raise `BadLabels` unless there are two classes or more, none empty, with two pictures each on average."""
    where, total = dataset.root, int((dataset.labels >= 0).sum())
    counts = np.bincount(dataset.labels[dataset.labels >= 0], minlength=len(dataset.classes))
    listed = _counted(dataset.classes, counts)
    if not total:
        raise BadLabels(f"{where}: none of its {len(dataset):,} pictures has a label.", hint=_label_hint(dataset))
    if len(dataset.classes) == 1:
        raise BadLabels(
            f"{where}: has one class only ({listed}); a classifier needs at least two.",
            hint=f"Put the pictures of another class beside it, for example into {where / 'other'}.",
        )
    if not counts.all():
        empty = [repr(name) for name, count in zip(dataset.classes, counts, strict=True) if not count]
        raise BadLabels(
            f"{where}: {len(empty)} of {len(counts)} classes {'has' if len(empty) == 1 else 'have'} no pictures: "
            f"{_first(empty)}. Counts: {listed}.",
            hint="Add pictures to it, or remove it. `headstart check` lists what was left out, and why.",
        )
    if total < 2 * len(counts):
        raise BadLabels(
            f"{where}: has {total} labelled pictures for {len(counts)} classes ({listed}); "
            f"at least {2 * len(counts)} are needed.",
            hint="Add pictures: about 20 a class give a first useful classifier. Few a class may mean that the labels "
            "are not the classes you want.",
        )


def fingerprint(dataset: Dataset, sha256s: Sequence[str]) -> str:
    """SHA-256 (hexadecimal) over the sorted (path, SHA-256 of the file, label name): does not depend on row order."""
    rows = sorted((path, sha256s[i], dataset.label_name(i)) for i, path in enumerate(dataset.paths))
    return hash_rows(rows)


def hash_rows(rows: Iterable[Sequence[str]]) -> str:
    """SHA-256 (hexadecimal) of rows of text; no two different lists of rows run together to the same bytes."""
    state = hashlib.sha256()
    for row in rows:
        cells = [cell.encode("utf-8", "surrogatepass") for cell in row]
        state.update(b"".join(len(cell).to_bytes(8, "big") + cell for cell in cells))
    return state.hexdigest()


def split_name(text: str) -> str:
    """'train', 'val' or 'test' for the usual spellings, else ''.

    >>> split_name("Validation"), split_name("test_set"), split_name("cats")
    ('val', 'test', '')
    """
    found = _SPLIT_NAME.fullmatch(text.strip().casefold())
    return next((name for name, part in zip(SPLITS, found.groups(), strict=True) if part), "") if found else ""


# Folders


@dataclass(frozen=True)
class _Found:
    """What a walk over folders found: (path, class name or '', split or ''), class names, and what was left out."""

    pictures: list[tuple[str, str, str]]
    classes: set[str]
    rejected: list[tuple[str, str]]


def _open_folder(root: Path) -> Dataset:
    found = _Found([], set(), [])
    top = _unwrap(root, root, found)
    folders = _folders(top)
    sides = [folder for folder in folders if split_name(folder.name)]
    if not sides:
        _take_classes(root, top, "", found)
    else:
        unlabelled = [folder for folder in folders if _UNLABELLED_NAME.fullmatch(folder.name.casefold())]
        _refuse_mixed(top, sides, [folder for folder in folders if folder not in sides and folder not in unlabelled])
        _take_loose(root, top, found, only_pictures=True)
        for folder in unlabelled:
            _take_all(root, folder, "", "", found)
        for folder in sides:
            _take_classes(root, _unwrap(root, folder, found), split_name(folder.name), found)
    if not found.pictures:
        raise _no_pictures(root, found.rejected)
    return _from_found(root, found)


def _from_found(root: Path, found: _Found) -> Dataset:
    pictures = sorted(found.pictures)
    classes = tuple(sorted(found.classes))
    index = {name: k for k, name in enumerate(classes)}
    return Dataset(
        root=root,
        paths=tuple(path for path, _, _ in pictures),
        labels=np.array([index.get(name, -1) for _, name, _ in pictures], dtype=np.int64),
        classes=classes,
        split=np.array([split if name else "" for _, name, split in pictures], dtype="<U5"),
        groups=np.arange(len(pictures), dtype=np.int64),
        rejected=tuple(sorted(found.rejected)),
    )


def _take_classes(root: Path, folder: Path, split: str, found: _Found) -> None:
    """Each folder in `folder` is a class; loose pictures beside them have no label."""
    folders = _folders(folder)
    for below in folders:
        found.classes.add(below.name)
        _take_all(root, below, below.name, split, found)
    _take_loose(root, folder, found, only_pictures=bool(folders))


def _take_all(root: Path, folder: Path, name: str, split: str, found: _Found) -> None:
    """Every file below a folder, but those that plainly are something else by their extension."""
    for entry in _walk(folder, (), root, found):
        path = _relative(root, entry)
        if Path(entry).suffix.lower() in OTHERS:
            found.rejected.append((path, "not_a_picture_name"))
        else:
            found.pictures.append((path, name, split))


def _take_loose(root: Path, folder: Path, found: _Found, *, only_pictures: bool) -> None:
    """Files right in `folder`, unlabelled. Beside other folders only those that are called like pictures are taken."""
    for entry in _entries(folder, root, found):
        suffix, path = Path(entry.name).suffix.lower(), _relative(root, entry.path)
        if _is_dir(entry):
            continue
        if not _is_file(entry):
            found.rejected.append((path, "not_a_file"))
        elif suffix in OTHERS or suffix in ARCHIVES or (only_pictures and suffix not in PICTURES):
            found.rejected.append((path, "not_a_picture_name"))
        else:
            found.pictures.append((path, "", ""))


def _walk(folder: Path | str, above: tuple[tuple[int, int], ...], root: Path, found: _Found) -> Iterator[str]:
    """Files below a folder. Links are followed, but not into a folder that we are in already."""
    status = os.stat(folder)
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    for entry in _entries(folder, root, found):
        if _is_dir(entry):
            yield from _walk(entry.path, (*above, here), root, found)
        elif _is_file(entry):
            yield entry.path
        else:  # a broken link, a pipe, a device: never opened
            found.rejected.append((_relative(root, entry.path), "not_a_file"))


def _entries(folder: Path | str, root: Path, found: _Found) -> list[os.DirEntry[str]]:
    """What a folder holds, by name, less what the system put there; a locked folder is named and passed over."""
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if not e.name.startswith(".") and e.name.casefold() not in SKIPPED]
    except PermissionError:
        found.rejected.append((_relative(root, str(folder)), "no_permission"))
        return []
    return sorted(kept, key=lambda entry: entry.name)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path)  # as entry.is_dir(), but False for a link to itself


def _is_file(entry: os.DirEntry[str]) -> bool:
    return os.path.isfile(entry.path)


def _folders(folder: Path) -> list[Path]:
    nowhere = _Found([], set(), [])
    return [Path(entry.path) for entry in _entries(folder, folder, nowhere) if _is_dir(entry)]


def _unwrap(root: Path, folder: Path, found: _Found) -> Path:
    """Go down while a folder holds nothing but one folder of folders, as unpacked archives do."""
    here, seen = folder, set()
    while here.resolve() not in seen:
        seen.add(here.resolve())
        entries = _entries(here, root, found)
        inner = Path(entries[0].path) if len(entries) == 1 and _is_dir(entries[0]) else None
        if inner is None or split_name(inner.name) not in ("", split_name(here.name)):
            break
        below = _folders(inner)
        if not (len(below) > 1 or inner.name == here.name or any(split_name(f.name) for f in below)):
            break
        here = inner
    if here != folder:
        log.info("The classes are looked for in %s.", here)
    return here


def _relative(root: Path, path: str) -> str:
    return Path(path).relative_to(root).as_posix()


def _refuse_mixed(top: Path, sides: list[Path], others: list[Path]) -> None:
    if others:
        raise BadLabels(
            f"{top}: holds split folders ({_first([repr(f.name) for f in sides])}) and others beside them "
            f"({_first([repr(f.name) for f in others])}), so it is not clear which are classes.",
            hint="Keep either class folders, or split folders that hold class folders. If the name of a split is the "
            f"name of a class here: {_TABLE_HINT[0].lower()}{_TABLE_HINT[1:]}",
        )


# Tables


def _open_table(table: Path, rows: list[Row]) -> Dataset:
    root = table.parent
    kept: dict[str, Row] = {}
    rejected: dict[str, str] = {}
    splits = _splits_of(table, rows)
    for n, (row, split) in enumerate(zip(rows, splits, strict=True), 1):
        path = _existing(root, row.path)
        if path is None:
            rejected[row.path or f"(row {n})"] = "not_a_file"
            continue
        seen = kept.setdefault(path, replace(row, path=path, split=split))
        if row.label and seen.label and row.label != seen.label:
            rejected[path] = "two_labels"
        elif split and seen.split and split != seen.split:
            rejected[path] = "two_splits"
        else:
            merged = replace(seen, label=seen.label or row.label, split=seen.split or split)
            kept[path] = replace(merged, group=seen.group or row.group)
    if not kept:
        raise BadLabels(
            f"{table}: none of its {len(rows):,} rows names a picture that is there; "
            f"the first is {rows[0].path!r}, looked for at {root / rows[0].path}.",
            hint="Paths are relative to the folder of the table: move the table, or change its paths.",
        )
    classes = {row.label for row in rows if row.label}
    taken = [kept[path] for path in sorted(kept) if path not in rejected]
    if not taken:
        raise _no_pictures(root, sorted(rejected.items()))
    found = _Found([(row.path, row.label, row.split) for row in taken], classes, sorted(rejected.items()))
    return replace(_from_found(root, found), groups=_group_numbers([row.group for row in taken]))


def _existing(root: Path, name: str) -> str | None:
    """The tidy path of a table's cell whose file exists: as given, with ``/`` for ``\\``, or with its extension."""
    candidates = [name] if name else []
    if "\\" in name:
        candidates.append(name.replace("\\", "/"))
    if name and not Path(name).suffix:
        candidates += [name + suffix for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".webp")]
    for candidate in candidates:
        try:
            if (root / candidate).is_file():
                return Path(candidate).as_posix()
        except (ValueError, OSError):  # a zero byte, a name that is too long: no such file can be
            continue
    return None


def _splits_of(table: Path, rows: list[Row]) -> list[str]:
    """The split of each row. A column without one known name (folds 0..4, say) is not about our split."""
    names = {row.split: split_name(row.split) for row in rows}
    known = {text for text, name in names.items() if name}
    unknown = sorted(text for text in names if text.strip() and text not in known)
    if known and unknown:
        raise BadSplit(
            f"{table}: {_first([repr(text) for text in unknown])} in its split column; "
            "expected 'train', 'val', 'test', or nothing.",
            hint="Correct these rows, or remove the column: then headstart makes the split.",
        )
    if unknown:
        log.info("The split column of %s holds no split names (%s ...): not used.", table, unknown[0])
    return [names[row.split] for row in rows]


def _group_numbers(names: Sequence[str]) -> np.ndarray:
    """Equal names get one number, the place of the first of them; an empty name is a group of its own."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(name, i) if name else i for i, name in enumerate(names)], dtype=np.int64)


# Messages


def _not_a_dataset(place: Path) -> MissingData:
    if place.name.lower().endswith(ARCHIVES):
        return MissingData(
            f"{place}: is an archive; a folder or a table was expected.",
            hint="Unpack it first, then give the folder that it makes.",
        )
    return MissingData(
        f"{place}: is a file; a folder of pictures or a table ({', '.join(TABLES)}) was expected.",
        hint=f"Give the folder that it is in: {place.parent}",
    )


def nearest(place: Path) -> str:
    """The near name beside the missing one; where the folder above is missing too, the last one that exists."""
    above = place.parent
    if above.is_dir():
        near = near_names(place.name, [entry.name for entry in _entries(above, above, _Found([], set(), []))])
        return near or f"Check the spelling; it was looked for in {above.absolute()}."
    there = next(folder for folder in above.absolute().parents if folder.is_dir())
    return f"Check the spelling: {there} exists, {above} does not."


def _no_pictures(root: Path, rejected: Sequence[tuple[str, str]]) -> NoPictures:
    others = f" ({len(rejected):,} other files: {_first([path for path, _ in rejected])})" if rejected else ""
    tables = [path for path, _ in rejected if path.lower().endswith(TABLES)]
    hint = f"Give the table itself: {root / tables[0]}" if tables else "Expected pictures in class folders, such as "
    return NoPictures(
        f"{root}: holds no pictures{others}.", hint=hint if tables else f"{hint}{root / 'cat' / '1.jpg'}."
    )


def _label_hint(dataset: Dataset) -> str:
    tables = [path for path, _ in dataset.rejected if path.lower().endswith(TABLES)]
    if tables:
        return f"There is a table: give {dataset.root / tables[0]} if it holds the labels."
    example = dataset.root / "cat" / Path(dataset.paths[0]).name
    return f"Put the pictures of each class into a folder of its own, such as {example}.\n{_TABLE_HINT}"


def _counted(names: Sequence[str], counts: Iterable[int]) -> str:
    return _first([f"{name!r}: {count:,}" for name, count in zip(names, counts, strict=True)], 10)


def _first(texts: Sequence[str], n: int = 3) -> str:
    more = f" and {len(texts) - n:,} more" if len(texts) > n else ""
    return ", ".join(texts[:n]) + more
