"""Folders that merely wrap the data, as unpacked archives do: w/PetImages/cats beside w/readme.txt is PetImages/cats.

A wrapper holds one folder with images, and no images of its own. Readmes, tables, caches and empty folders beside that
folder do not matter; they are reported as left out. Costs a listing of each folder on the way. Not for folders that hold
two datasets: see `data.versions`.
"""

from __future__ import annotations

from pathlib import Path

from headstart.data.dataset import TABLES, is_unlabelled_name, split_name
from headstart.data.folder_walk import FolderWalk, is_dir, is_file, named_like_image
from headstart.io.progress import log


def unwrap(walk: FolderWalk, folder: Path, *, quiet: bool = False, past_tables: bool = True) -> Path:
    """Descend to the folder that holds the class folders or the split folders, as unpacked archives wrap them.

    A wrapper holds one folder with images and no image of its own. Other files beside it do not matter, except
    tables if `past_tables` is false.
    """
    silent = walk.quiet()
    best = here = folder
    visited: set[Path] = set()
    while here.resolve() not in visited:
        visited.add(here.resolve())
        inner = _wrapped(silent, here, past_tables=past_tables)
        if inner is None:
            break
        below = silent.holding_images(inner)
        if len(below) > 1 or inner.name == here.name or any(split_name(f.name) for f in below):
            best = inner
        here = inner
    if best != folder and not quiet:
        log.info("Looking for the classes in %s.", best)
        for around in (place for place in best.parents if place.is_relative_to(folder)):
            _leave_out_beside(walk, around, best)
    return best


def _wrapped(walk: FolderWalk, folder: Path, *, past_tables: bool) -> Path | None:
    """The only folder with images in a folder without images of its own, if that may be the wrapped one."""
    files = [file.name.lower() for file in walk.files(folder)]
    if any(named_like_image(name) or (not past_tables and name.endswith(TABLES)) for name in files):
        return None
    inner = walk.holding_images(folder)
    if len(inner) != 1 or is_unlabelled_name(inner[0].name):
        return None
    return inner[0] if split_name(inner[0].name) in ("", split_name(folder.name)) else None


def _leave_out_beside(walk: FolderWalk, folder: Path, inner: Path) -> None:
    """Report what is in a wrapper, except the folder that it wraps, as left out."""
    for entry in walk.entries(folder):
        path = Path(entry.path)
        if is_file(entry):
            walk.leave_out(path, "not_an_image_name")
        elif is_dir(entry) and not inner.is_relative_to(path):
            leave_out_all(walk, path)


def leave_out_all(walk: FolderWalk, folder: Path) -> None:
    """Report a folder without images, and its files, as left out."""
    walk.leave_out(folder, "no_images")
    for path in walk.below(folder):
        walk.leave_out(path, "not_an_image_name")
