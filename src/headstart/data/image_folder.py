"""Folders of images: class folders, split folders with class folders, and loose files.

A walk costs one `stat` per file (about 20,000 files per second on a warm disk). Links are followed, but not in circles;
hidden files and system files are skipped, and any other file that is not named like an image is listed in
`Dataset.rejected`. Not for tables or labels in file names: see `data.infer_labels`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from headstart.data.dataset import (
    ARCHIVES,
    IMAGES,
    OTHERS,
    SKIPPED,
    TABLES,
    Dataset,
    FoundImages,
    dataset_of,
    is_unlabelled_name,
    split_name,
)
from headstart.errors import BadLabels, NoImages, near_names
from headstart.io.progress import log
from headstart.io.text_table import few

TABLE_HINT = "Give a table of paths and labels instead (CSV with the columns path,label)."


def open_folder(root: Path) -> Dataset:
    """The images of a folder, labelled by its folders. Raises `NoImages`, `BadLabels` (mixed layouts)."""
    found = FoundImages()
    top = unwrap(root, root, found)
    folders = folders_in(top)
    split_folders = [folder for folder in folders if split_name(folder.name)]
    if not split_folders:
        _add_classes(root, top, "", found)
    else:
        unlabelled = [folder for folder in folders if is_unlabelled_name(folder.name)]
        _refuse_mixed(
            top,
            split_folders,
            [folder for folder in folders if folder not in split_folders and folder not in unlabelled],
        )
        _add_loose(root, top, found, only_images=True)
        for folder in unlabelled:
            _add_all(root, folder, "", "", found)
        for folder in split_folders:
            _add_classes(root, unwrap(root, folder, found), split_name(folder.name), found)
    if not found.images:
        raise no_images(root, found.rejected)
    return dataset_of(root, found)


def files_below(root: Path, found: FoundImages | None = None) -> Iterator[str]:
    """Relative paths of all files below a folder, one by one; unreadable entries are rejected in `found`."""
    found = FoundImages() if found is None else found
    for entry in _walk(root, (), root, found):
        yield _relative(root, entry)


def every_image(root: Path) -> FoundImages:
    """All files below a folder that are named like images, without labels; the others are in `rejected`."""
    found = FoundImages()
    for path in files_below(root, found):
        take(path, found)
    return found


def take(path: str, found: FoundImages) -> None:
    """Add a file as an image without a label, or reject it, by its name."""
    if path.lower().endswith(IMAGES):
        found.images.append((path, "", ""))
    else:
        found.rejected.append((path, "not_an_image_name"))


def _add_classes(root: Path, folder: Path, split: str, found: FoundImages) -> None:
    """Add each folder in `folder` as a class; loose images beside them have no label."""
    folders = folders_in(folder)
    for below in folders:
        found.classes.add(below.name)
        _add_all(root, below, below.name, split, found)
    _add_loose(root, folder, found, only_images=bool(folders))


def _add_all(root: Path, folder: Path, name: str, split: str, found: FoundImages) -> None:
    """Add every file below a folder, except those whose extension is that of another kind of file."""
    for entry in _walk(folder, (), root, found):
        path = _relative(root, entry)
        if Path(entry).suffix.lower() in OTHERS:
            found.rejected.append((path, "not_an_image_name"))
        else:
            found.images.append((path, name, split))


def _add_loose(root: Path, folder: Path, found: FoundImages, *, only_images: bool) -> None:
    """Add the files directly in `folder`, unlabelled. Beside other folders, only those named like images."""
    for entry in _entries(folder, root, found):
        suffix, path = Path(entry.name).suffix.lower(), _relative(root, entry.path)
        if _is_dir(entry):
            continue
        if not _is_file(entry):
            found.rejected.append((path, "not_a_file"))
        elif suffix in OTHERS or suffix in ARCHIVES or (only_images and suffix not in IMAGES):
            found.rejected.append((path, "not_an_image_name"))
        else:
            found.images.append((path, "", ""))


def _walk(folder: Path | str, above: tuple[tuple[int, int], ...], root: Path, found: FoundImages) -> Iterator[str]:
    """Files below a folder. Links are followed, but not into a folder that contains them."""
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


def _entries(folder: Path | str, root: Path, found: FoundImages) -> list[os.DirEntry[str]]:
    """The entries of a folder, by name, without system files; an unreadable folder is rejected."""
    try:
        with os.scandir(folder) as entries:
            kept = [e for e in entries if not e.name.startswith(".") and e.name.casefold() not in SKIPPED]
    except PermissionError:
        found.rejected.append((_relative(root, str(folder)), "no_permission"))
        return []
    return sorted(kept, key=lambda entry: entry.name)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    return os.path.isdir(entry.path)  # like entry.is_dir(), but False for a link to itself


def _is_file(entry: os.DirEntry[str]) -> bool:
    return os.path.isfile(entry.path)


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name."""
    nowhere = FoundImages()
    return [Path(entry.path) for entry in _entries(folder, folder, nowhere) if _is_dir(entry)]


def files_in(folder: Path) -> list[Path]:
    """The files directly in a folder, by name."""
    return [Path(entry.path) for entry in _entries(folder, folder, FoundImages()) if _is_file(entry)]


def unwrap(root: Path, folder: Path, found: FoundImages, *, quiet: bool = False) -> Path:
    """Descend while a folder holds nothing but one folder of folders, as unpacked archives do."""
    here, visited = folder, set()
    while here.resolve() not in visited:
        visited.add(here.resolve())
        entries = _entries(here, root, found)
        inner = Path(entries[0].path) if len(entries) == 1 and _is_dir(entries[0]) else None
        if inner is None or split_name(inner.name) not in ("", split_name(here.name)):
            break
        below = folders_in(inner)
        if not (len(below) > 1 or inner.name == here.name or any(split_name(f.name) for f in below)):
            break
        here = inner
    if here != folder and not quiet:
        log.info("Looking for the classes in %s.", here)
    return here


def _relative(root: Path, path: str) -> str:
    above = os.path.join(root, "")
    if path.startswith(above):  # always so in a walk; the general case is ten times slower
        return path[len(above) :].replace(os.sep, "/")
    return Path(path).relative_to(root).as_posix()


def _refuse_mixed(top: Path, split_folders: list[Path], others: list[Path]) -> None:
    if others:
        raise BadLabels(
            f"{top}: holds split folders ({few([repr(f.name) for f in split_folders], 3)}) and others beside them "
            f"({few([repr(f.name) for f in others], 3)}), so it is unclear which are classes.",
            hint="Keep either class folders, or split folders that hold class folders. If the name of a split is the "
            f"name of a class here: {TABLE_HINT[0].lower()}{TABLE_HINT[1:]}",
        )


def nearest(place: Path) -> str:
    """A similar name beside the missing one; if the folder above is missing too, the last one that exists."""
    above = place.parent
    if above.is_dir():
        near = near_names(place.name, [entry.name for entry in _entries(above, above, FoundImages())])
        return near or f"Check the spelling; it was looked for in {above.absolute()}."
    there = next(folder for folder in above.absolute().parents if folder.is_dir())
    return f"Check the spelling: {there} exists, {above} does not."


def no_images(root: Path, rejected: Sequence[tuple[str, str]]) -> NoImages:
    """The error for a folder or table without images, with what is there instead."""
    others = f" ({len(rejected):,} other files: {few([path for path, _ in rejected], 3)})" if rejected else ""
    tables = [path for path, _ in rejected if path.lower().endswith(TABLES)]
    hint = f"Give the table itself: {root / tables[0]}" if tables else "Expected images in class folders, such as "
    return NoImages(f"{root}: holds no images{others}.", hint=hint if tables else f"{hint}{root / 'cat' / '1.jpg'}.")
