"""Images for paths on a command line: files, and all images in folders and archives. Nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headstart.data.archives.unpacking import is_archive, unpacked
from headstart.data.dataset import ARCHIVES, IMAGES, OTHERS, Dataset, FoundImages, dataset_of
from headstart.data.folder_walk import FolderWalk, files_below, files_in, folders_in
from headstart.data.image_folder import nearest, no_images
from headstart.data.left_out import note_left_out
from headstart.data.wrappers import unwrap
from headstart.errors import MissingData

MOST_SHOWN = 20


def images_at(paths: Sequence[Path | str]) -> tuple[list[Path], list[str], dict[str, str]]:
    """Return files, their names (a path as given, or folder/relative path), and {name: reason} of missing files."""
    files: list[Path] = []
    names: list[str] = []
    lost: dict[str, str] = {}
    for given in map(Path, paths):
        if given.is_dir() or is_archive(given):
            found = _images_in(given if given.is_dir() else unpacked(given))
            files += [found.file(i) for i in range(len(found))]
            names += [(given / p).as_posix() for p in found.paths]
            lost |= {(given / p).as_posix(): reason for p, reason in found.lost.items()}
        elif given.exists():
            files.append(given)
            names.append(given.as_posix())
        else:
            raise MissingData(f"{given}: there is no such image or folder.", hint=nearest(given))
    return files, names, lost


def _images_in(folder: Path) -> Dataset:
    """Find every image below a folder, ignoring labels from folders and tables.

    Includes files with unknown suffixes, but not directly beside other folders. Raises `NoImages`.
    """
    found = FoundImages()
    top = unwrap(FolderWalk(folder), folder, quiet=True)
    around = [top, *(place for place in top.parents if place.is_relative_to(folder))]
    beside = {file.relative_to(folder).as_posix() for p in around if folders_in(p) for file in files_in(p)}
    for path in files_below(folder, found):
        suffix = Path(path).suffix.lower()
        if suffix in IMAGES or not (suffix in OTHERS or suffix in ARCHIVES or path in beside):
            found.images.append((path, "", ""))
        else:
            found.rejected.append((path, "not_an_image_name"))
    if not found.images:
        raise no_images(folder, found.rejected)
    note_left_out(folder, found.rejected)
    return dataset_of(folder, found)
