"""Images that a user gives to be predicted: files, all images in folders and archives, and images in memory.

Nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headstart.data.archives.unpacking import is_archive, unpacked
from headstart.data.dataset import ARCHIVES, IMAGES, OTHERS, Dataset, FoundImages, dataset_of
from headstart.data.folder_walk import FolderWalk, files_below, files_in, folders_in
from headstart.data.image_folder import nearest, no_images
from headstart.data.left_out import note_left_out
from headstart.data.wrappers import unwrap
from headstart.errors import MissingData
from headstart.images.image_refs import ImageRef

MOST_SHOWN = 20


@dataclass(frozen=True, eq=False)
class ImagesGiven:
    """Images with their names: a path as given, folder/relative path, or the number of an image in memory."""

    refs: list[ImageRef] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    """{name: reason} of files that cannot be read."""

    @property
    def files(self) -> list[Path]:
        """Those that are files."""
        return [ref for ref in self.refs if isinstance(ref, Path)]


def images_at(given: Sequence[ImageRef]) -> ImagesGiven:
    """Find the images; `given` is as from `each_image`. Raises `MissingData`, `NoImages`, `BadArchive`."""
    found = ImagesGiven()
    for number, ref in enumerate(given):
        if not isinstance(ref, Path):
            found.refs.append(ref)
            found.names.append(str(number))
            continue
        if ref.is_dir() or is_archive(ref):
            inside = _images_in(ref if ref.is_dir() else unpacked(ref))
            found.refs.extend(inside.files)
            found.names.extend((ref / p).as_posix() for p in inside.paths)
            found.lost.update({(ref / p).as_posix(): reason for p, reason in inside.lost.items()})
        elif ref.exists():
            found.refs.append(ref)
            found.names.append(ref.as_posix())
        else:
            raise MissingData(f"{ref}: there is no such image or folder.", hint=nearest(ref))
    return found


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
