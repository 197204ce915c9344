"""Folders of images: class folders, split folders with class folders, and loose files.

A walk (`data.folder_walk`) lists each folder once or twice; any file that is not named like an image, and any folder
without images, is listed in `Dataset.rejected`. Notes say what the layout was taken for where another reading would be
possible. Not for tables or labels in file names: see `data.infer_labels`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from headstart.data.class_names import class_name
from headstart.data.dataset import (
    TABLES,
    Dataset,
    FoundImages,
    dataset_of,
    is_doubtful_name,
    is_plain_name,
    is_unlabelled_name,
    says_nothing,
    set_of_path,
    split_name,
)
from headstart.data.folder_walk import FolderWalk, files_below, is_dir, is_file, named_like_image, named_like_other
from headstart.data.versions import INNERMOST, refuse_versions
from headstart.data.wrappers import leave_out_all, unwrap
from headstart.errors import BadLabels, NoImages
from headstart.io.progress import log
from headstart.io.text_table import few

TABLE_HINT = "Give a table of paths and labels instead (CSV with the columns path,label)."


def open_folder(root: Path) -> Dataset:
    """The images of a folder, labelled by its folders. Raises `NoImages`, `BadLabels` (mixed or unclear layouts)."""
    walk = FolderWalk(root)
    top = unwrap(walk, root)
    reader = _ClassFolders(walk)
    folders = reader.with_images(top)
    sets = _sets_of(folders)
    reader.unlabelled = _to_predict(walk, folders, sets)
    if len(sets) > len(reader.unlabelled):
        _read_sets(reader, top, folders, sets)
    else:
        refuse_versions(walk, folders)
        reader.add_classes(top, folders, "")
        reader.read_sets_inside()
    if not walk.found.images:
        raise no_images(root, walk.found.rejected)
    reader.say()
    return dataset_of(root, walk.found)


def every_image(root: Path) -> FoundImages:
    """All files below a folder that are named like images, without labels; the others are in `rejected`."""
    found = FoundImages()
    for path in files_below(root, found):
        take(path, found)
    return found


def take(path: str, found: FoundImages) -> None:
    """Add a file as an image without a label, or reject it, by its name."""
    if named_like_image(path):
        found.images.append((path, "", ""))
    else:
        found.rejected.append((path, "not_an_image_name"))


# Classes


class _ClassFolders:
    """Reads class folders into `walk.found`, and remembers what to say about them."""

    def __init__(self, walk: FolderWalk) -> None:
        self.walk, self.found = walk, walk.found
        self.unlabelled: Collection[Path] = frozenset()
        """Folders without a label, whatever their names."""
        self.deeper: dict[str, str] = {}
        """{path of an image: the folder in its class folder that it is in}."""

    def with_images(self, folder: Path) -> list[Path]:
        """The folders in a folder that hold images; the others are left out."""
        folders = self.walk.folders(folder)
        for below in folders:
            if not self.walk.holds_images(below):
                leave_out_all(self.walk, below)
        return [below for below in folders if self.walk.holds_images(below)]

    def add_classes(
        self, folder: Path, folders: Sequence[Path], split: str, trained: Collection[str] = frozenset()
    ) -> None:
        """Add each of the folders in `folder` as a class; loose images beside them have no label.

        `trained` are the classes in the training set.
        """
        lone = len(folders) == 1 and _is_no_class(folders[0].name, split, trained)
        for below in folders:
            name = "" if lone or below in self.unlabelled or is_unlabelled_name(below.name) else below.name
            self.found.classes.update({name} - {""})
            self.add_all(below, name, split)
        self.add_loose(folder, only_images=bool(self.walk.folders(folder)))

    def add_all(self, folder: Path, name: str, split: str) -> None:
        """Add every file below a folder, except those whose extension is that of another kind of file."""
        base = self.walk.relative(folder)
        for file in self.walk.below(folder):
            path = self.walk.relative(file)
            if named_like_other(path):
                self.found.rejected.append((path, "not_an_image_name"))
                continue
            self.found.images.append((path, name, split))
            inner = path[len(base) + 1 :]
            if name and "/" in inner:
                self.deeper[path] = inner.partition("/")[0]

    def add_loose(self, folder: Path, *, only_images: bool) -> None:
        """Add the files directly in `folder`, unlabelled. Beside other folders, only those named like images."""
        for entry in self.walk.entries(folder):
            if is_dir(entry):
                continue
            if not is_file(entry):
                self.walk.leave_out(entry.path, "not_a_file")
            elif named_like_other(entry.name) or (only_images and not named_like_image(entry.name)):
                self.walk.leave_out(entry.path, "not_an_image_name")
            else:
                self.found.images.append((self.walk.relative(entry.path), "", ""))

    def read_sets_inside(self) -> None:
        """If every class folder is divided into split folders, take the split from them (cats/train, cats/test)."""
        labelled = [(path, name) for path, name, _ in self.found.images if name]
        sets = {path: split_name(self.deeper.get(path, "")) for path, _ in labelled}
        if not labelled or not all(sets.values()) or not {"train"} < set(sets.values()):
            return
        self.found.images[:] = [(path, name, sets.get(path, "")) for path, name, _ in self.found.images]
        self.deeper.clear()
        example = min(sets)
        log.info("%s: the split is taken from the folders in the class folders, such as %s.", self.walk.root, example)

    def say(self) -> None:
        """Log what was not read as a class, and what could be one."""
        self._say_unlabelled()
        doubtful = sorted(name for name in self.found.classes if is_doubtful_name(name))
        if doubtful:
            log.info(
                "%s: %s %s. Rename the folder to 'unlabelled' if its images have no label.",
                *(self.walk.root, few([repr(name) for name in doubtful], 3)),
                "is read as a class" if len(doubtful) == 1 else "are read as classes",
            )
        self._say_deeper()

    def _say_unlabelled(self) -> None:
        """Log how many images have no label, and where they are, unless that is true of all."""
        paths = [path for path, name, _ in self.found.images if not name]
        if not paths or not self.found.classes:
            return
        places = sorted({path.rpartition("/")[0] for path in paths})
        named = any(is_unlabelled_name(part) for place in places for part in place.split("/")) or self.unlabelled
        log.info(
            "%s: %s of %s images %s no label: %s in %s.%s",
            *(self.walk.root, f"{len(paths):,}", f"{len(self.found.images):,}"),
            *(("has", "the one") if len(paths) == 1 else ("have", "those")),
            few([repr(place) if place else "the folder itself" for place in places], 3),
            " Rename a folder if it is a class." if named else "",
        )

    def _say_deeper(self) -> None:
        """Log that there are folders in the class folders, and how to make them the classes."""
        inner: defaultdict[str, set[str]] = defaultdict(set)
        for path, name, _ in self.found.images:
            if path in self.deeper and not says_nothing(self.deeper[path]):
                inner[name].add(self.deeper[path])
        if not inner or len(self.found.classes) < 2:
            return
        lone = next(iter(inner))
        if len(inner) == 1 and len(inner[lone]) > 1:
            listed = few([repr(name) for name in sorted(inner[lone])], 5)
            log.info(
                "%s: only the class %r holds folders (%s). If these are the classes, give %s.",
                *(self.walk.root, lone, listed, self._class_folder(lone)),
            )
            return
        classes, names = sorted(self.found.classes), sorted(set().union(*inner.values()))
        log.info(
            "%s: the classes are the folders %s; the folders in them (%s) are not told apart. To make the innermost "
            "folders the classes, add --label-from '%s'.",
            *(self.walk.root, few([repr(name) for name in classes], 5), few([repr(name) for name in names], 5)),
            INNERMOST,
        )

    def _class_folder(self, name: str) -> Path:
        """The folder of a class that holds folders."""
        path = next(path for path, label, _ in self.found.images if label == name and path in self.deeper)
        return self.walk.root / path[: path.index(f"/{self.deeper[path]}/")]


def _is_no_class(name: str, split: str, trained: Collection[str]) -> bool:
    """Whether a folder without others beside it is not a class: `images`, and in a test set also `data`, `unknown`."""
    if says_nothing(name):
        return True
    return split in ("val", "test") and name not in trained and (is_plain_name(name) or is_doubtful_name(name))


# Sets


def _sets_of(folders: Sequence[Path]) -> dict[Path, str]:
    """{folder: split} of the split folders. Loose spellings (test1, train_images, dev) count beside a training set."""
    strict = {folder: split_name(folder.name) for folder in folders}
    loose = {folder: name or _loose_split(folder.name) for folder, name in strict.items()}
    sets = loose if {"train"} < set(loose.values()) - {""} else strict
    return {folder: name for folder, name in sets.items() if name}


def _loose_split(name: str) -> str:
    if is_unlabelled_name(name):
        return ""
    return "val" if name.casefold() == "dev" else set_of_path(f"{name}/")


def _to_predict(walk: FolderWalk, folders: Sequence[Path], sets: dict[Path, str]) -> set[Path]:
    """The split folders, if they are `test` with mere images beside two class folders or more; else none."""
    classes = [f for f in folders if f not in sets and not is_unlabelled_name(f.name)]
    if "train" in sets.values() or len(classes) < 2 or any(walk.holding_images(folder) for folder in sets):
        return set()
    return set(sets)


def _read_sets(reader: _ClassFolders, top: Path, folders: Sequence[Path], sets: dict[Path, str]) -> None:
    """Add the class folders in split folders; images beside them, and in unlabelled folders, have no label."""
    unlabelled = [folder for folder in folders if is_unlabelled_name(folder.name)]
    _refuse_mixed(reader.walk, top, list(sets), [f for f in folders if f not in sets and f not in unlabelled])
    reader.add_loose(top, only_images=True)
    for folder in unlabelled:
        reader.add_all(folder, "", "")
    inner = _class_level(reader.walk, list(sets))
    below = {folder: reader.with_images(inner[folder]) for folder in sets}
    names = {split: {f.name for s in sets if sets[s] == split for f in below[s]} for split in sets.values()}
    for folder, split in sets.items():
        reader.add_classes(inner[folder], below[folder], split, trained=names.get("train", set()))
    reader.found.renamed.update(_as_in_training(names))


def _class_level(walk: FolderWalk, sets: Sequence[Path]) -> dict[Path, Path]:
    """{split folder: the folder with its class folders}. The only class in a set is not unwrapped if others have it."""
    listed = {folder: [below.name for below in walk.holding_images(folder)] for folder in sets}
    classes = {name for names in listed.values() if len(names) > 1 for name in names}
    lone = {folder for folder, names in listed.items() if len(names) == 1 and names[0] in classes}
    return {folder: folder if folder in lone else unwrap(walk, folder) for folder in sets}


def _as_in_training(names: dict[str, set[str]]) -> dict[str, str]:
    """{name in another set: name in the training set} of classes that are spelled in another case there."""
    training: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted({class_name(name) for name in names.get("train", ())}):
        training[name.casefold()].append(name)
    renamed = {}
    for name in set().union(*(found for split, found in names.items() if split != "train")):
        spelled = training[class_name(name).casefold()]
        if len(spelled) == 1 and spelled[0] != class_name(name) and spelled[0] not in _composed(names, name):
            renamed[name] = spelled[0]
    return renamed


def _composed(names: dict[str, set[str]], name: str) -> set[str]:
    """The classes of all sets but the training set that have this name."""
    return {class_name(n) for split, found in names.items() if split != "train" and name in found for n in found}


# Unclear layouts


def _refuse_mixed(walk: FolderWalk, top: Path, split_folders: Sequence[Path], others: Sequence[Path]) -> None:
    if not others:
        return
    whole = [folder for folder in others if any(split_name(f.name) for f in walk.quiet().holding_images(folder))]
    hint = (
        f"{whole[0].name!r} holds split folders itself: give {whole[0]}, or move it elsewhere."
        if whole
        else "Keep either class folders, or split folders that hold class folders. If a class here is "
        f"named like a split: {TABLE_HINT[0].lower()}{TABLE_HINT[1:]}"
    )
    raise BadLabels(
        f"{top}: holds split folders ({few([repr(f.name) for f in split_folders], 3)}) and others beside them "
        f"({few([repr(f.name) for f in others], 3)}), so it is unclear which are classes.",
        hint=hint,
    )


def no_images(root: Path, rejected: Iterable[tuple[str, str]]) -> NoImages:
    """The error for a folder or table without images, with what is there instead."""
    codes = dict(rejected)
    empty = [path for path, code in codes.items() if code == "no_images"]
    files = [path for path, code in codes.items() if code != "no_images"]
    listed = [f"{len(files):,} other files: {few(files, 3)}"] if files else []
    listed += (
        [f"{len(empty):,} {'folder' if len(empty) == 1 else 'folders'} without images: {few(empty, 3)}"]
        if empty
        else []
    )
    tables = [path for path in files if path.lower().endswith(TABLES)]
    hint = f"Give the table itself: {root / tables[0]}" if tables else "Expected images in class folders, such as "
    there = f" ({'; '.join(listed)})" if listed else ""
    return NoImages(f"{root}: holds no images{there}.", hint=hint if tables else f"{hint}{root / 'cat' / '1.jpg'}.")
