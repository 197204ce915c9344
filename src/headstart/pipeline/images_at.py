"""Images that a user gives to be predicted: files, all images in folders and archives, those that a table names, and
images in memory.

Nothing is decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from headstart.data.archives.unpacking import is_archive, unpacked
from headstart.data.dataset import ARCHIVES, IMAGES, OTHERS, Dataset, FoundImages, dataset_of
from headstart.data.folder_walk import FolderWalk, files_below, files_in, folders_in
from headstart.data.foreign_formats import refuse_foreign
from headstart.data.from_store import local_copy
from headstart.data.image_folder import no_images
from headstart.data.left_out import note_left_out
from headstart.data.match_files import open_unlabelled
from headstart.data.packs.pack_dataset import is_pack, open_pack
from headstart.data.shards.writing import shards_at
from headstart.data.table_files import LISTS, READABLE, is_list
from headstart.data.wrappers import unwrap
from headstart.errors import MissingData, NoImages
from headstart.images.image_refs import ImageRef
from headstart.io.addresses import is_address, refuse_address, store_url
from headstart.io.missing_paths import hint_for_missing


@dataclass(frozen=True, eq=False)
class ImagesGiven:
    """Images with their names: a path as given, folder/relative path, or the number of an image in memory."""

    refs: list[ImageRef] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    lost: dict[str, str] = field(default_factory=dict)
    """{name: reason} of files that cannot be read."""

    @property
    def files(self) -> list[Path]:
        """The images that are files."""
        return [ref for ref in self.refs if isinstance(ref, Path)]


def require_readable(read: int, lost: int) -> None:
    """Raise `NoImages` if there are images, and none of them could be read."""
    if lost and not read:
        what = "The only image could not" if lost == 1 else f"None of the {lost:,} images could"
        raise NoImages(f"{what} be read.", hint="The reasons are in the result.")


def images_at(given: Sequence[ImageRef]) -> ImagesGiven:
    """Find the images; `given` is as from `each_image`. Raises `MissingData`, `NoImages`, `BadArchive`."""
    found = ImagesGiven()
    for number, ref in enumerate(given):
        if not isinstance(ref, Path):
            found.refs.append(ref)
            found.names.append(str(number))
            continue
        url = store_url(ref)
        if url is not None:
            _add_store(found, url)
            continue
        refuse_address(ref)
        if ref.is_file():
            refuse_foreign(ref)
        if ref.is_dir() or is_archive(ref) or _is_table(ref):
            inside, above = _images_of(ref)
            found.refs.extend(inside.files)
            found.names.extend((above / p).as_posix() for p in inside.paths)
            found.lost.update(
                {p if is_address(p) else (above / p).as_posix(): reason for p, reason in inside.lost.items()}
            )
        elif ref.exists():
            found.refs.append(ref)
            found.names.append(ref.as_posix())
        else:
            raise MissingData(f"{ref}: there is no such image or folder.", hint=_missing_hint(ref))
    return found


def _add_store(found: ImagesGiven, url: str) -> None:
    """Add the images below a URL, from their copies in the cache, or the one image that it names."""
    copy = local_copy(url)
    if copy.is_file() and not is_archive(copy):
        found.refs.append(copy)
        found.names.append(url.rstrip("/"))
        return
    inside, _ = _images_of(copy)
    found.refs.extend(inside.files)
    found.names.extend(url + path for path in inside.paths)
    found.lost.update({url + path: reason for path, reason in inside.lost.items()})


def _missing_hint(given: Path) -> str:
    """What to do about a path that does not exist; on Windows, the shell does not expand patterns."""
    if set("*?") & set(given.name) and given.parent.is_dir():
        return f"Patterns such as *.jpg are not expanded. Give the folder: {given.parent}"
    return hint_for_missing(given)


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
    folder = given if given.is_dir() else unpacked(given)
    return (open_pack(folder) if is_pack(folder) else _images_in(folder)), given


def _images_in(folder: Path) -> Dataset:
    """Find every image below a folder, ignoring labels from folders and tables.

    Includes files with unknown suffixes, unless other folders are beside them. Raises `NoImages`.
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
