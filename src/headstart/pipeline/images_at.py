"""Images for paths on a command line: files, all images in folders and archives, those that a table names.

Nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headstart.data.archives.unpacking import is_archive, unpacked
from headstart.data.dataset import ARCHIVES, IMAGES, OTHERS, Dataset, FoundImages, dataset_of
from headstart.data.foreign_formats import refuse_foreign
from headstart.data.image_folder import files_below, files_in, folders_in, nearest, no_images, unwrap
from headstart.data.match_files import open_unlabelled
from headstart.data.path_cells import is_address, refuse_address
from headstart.data.shards.writing import shards_at
from headstart.data.table_files import LISTS, READABLE, is_list
from headstart.errors import MissingData

MOST_SHOWN = 20


def images_at(paths: Sequence[Path | str]) -> tuple[list[Path], list[str], dict[str, str]]:
    """Return files, their names (a path as given, or folder/relative path), and {name: reason} of missing files."""
    files: list[Path] = []
    names: list[str] = []
    lost: dict[str, str] = {}
    for given in map(Path, paths):
        refuse_address(given)
        if given.is_file():
            refuse_foreign(given)
        if given.is_dir() or is_archive(given) or _is_table(given):
            found, above = _images_of(given)
            files += [found.file(i) for i in range(len(found))]
            names += [(above / p).as_posix() for p in found.paths]
            lost |= {p if is_address(p) else (above / p).as_posix(): reason for p, reason in found.lost.items()}
        elif given.exists():
            files.append(given)
            names.append(given.as_posix())
        else:
            raise MissingData(f"{given}: there is no such image or folder.", hint=nearest(given))
    return files, names, lost


def _is_table(given: Path) -> bool:
    return (
        given.is_file() and given.suffix.lower() in READABLE and (given.suffix.lower() not in LISTS or is_list(given))
    )


def _images_of(given: Path) -> tuple[Dataset, Path]:
    """Return the images of a folder, an archive or a table, and what their names begin with."""
    if _is_table(given):
        if shards_at(given, ""):
            raise MissingData(
                f"{given}: holds the images themselves, not their paths.",
                hint="Save them as files to predict them. `headstart evaluate` reads such a table if it has labels.",
            )
        return open_unlabelled(given), given.parent
    return _images_in(given if given.is_dir() else unpacked(given)), given


def _images_in(folder: Path) -> Dataset:
    """Find every image below a folder, ignoring labels from folders and tables.

    Includes files with unknown suffixes, but not directly beside other folders. Raises `NoImages`.
    """
    found = FoundImages()
    top = unwrap(folder, folder, FoundImages(), quiet=True)
    beside = {file.relative_to(folder).as_posix() for file in files_in(top)} if folders_in(top) else set()
    for path in files_below(folder, found):
        suffix = Path(path).suffix.lower()
        if suffix in IMAGES or not (suffix in OTHERS or suffix in ARCHIVES or path in beside):
            found.images.append((path, "", ""))
        else:
            found.rejected.append((path, "not_an_image_name"))
    if not found.images:
        raise no_images(folder, found.rejected)
    return dataset_of(folder, found)
