"""What a folder holds: its files and folders, without those that are not data.

Names that begin with a dot, and those that systems leave everywhere (`io.folders`), are ignored without a note. Left out
and recorded in `FoundImages.rejected` are:

    folders of systems and programs           `SYSTEM_FOLDERS`, such as __pycache__
    links that would read a folder twice      to a folder above, or to a folder that is part of the data anyway
    masks and annotations                     masks/ beside images/, 1_mask.png beside 1.png
    broken links, pipes, devices              never opened

Other links are followed. Costs one listing per folder (about 80,000 files per second on a warm disk). Not for the
meaning of folders: see `data.image_folder`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from headstart.data.dataset import (
    ARCHIVES,
    IMAGES,
    OTHERS,
    TABLES,
    FoundImages,
    is_beside_name,
    says_nothing,
    split_name,
)
from headstart.errors import DataError, UnreadableImage
from headstart.images.headers import probe
from headstart.io.folders import SYSTEM_FOLDERS, is_system_file

_MASK = re.compile(r"(.+?)[ _-]+(?:mask|seg|segmentation|ground[ _-]?truth)(?:[ _-]?\d+)?", re.IGNORECASE)
_UNCLEAR = re.compile(r"(?:labels?|box(?:es)?)[ _-]?\d*")


class FolderWalk:
    """The files and folders below `root`; what is left out is recorded in `found.rejected`."""

    def __init__(self, root: Path, found: FoundImages | None = None) -> None:
        self.root = root
        self.found = FoundImages() if found is None else found
        self._real_root = os.path.realpath(root)
        self._known: dict[tuple[str, str], bool] = {}

    def entries(self, folder: Path | str) -> list[os.DirEntry[str]]:
        """The entries of a folder that may be data, by name. A folder that cannot be read has none."""
        try:
            with os.scandir(folder) as listed:
                entries = [e for e in listed if not is_system_file(e.name)]
        except OSError as error:
            self._leave_out_unread(folder, error)
            return []
        entries.sort(key=lambda entry: entry.name)
        reasons = self._reasons(entries)
        for entry, reason in zip(entries, reasons, strict=True):
            if reason:
                self.leave_out(entry.path, reason)
        return [entry for entry, reason in zip(entries, reasons, strict=True) if not reason]

    def folders(self, folder: Path | str) -> list[Path]:
        """The folders directly in a folder, by name."""
        return [Path(entry.path) for entry in self.entries(folder) if is_dir(entry)]

    def files(self, folder: Path | str) -> list[Path]:
        """The files directly in a folder, by name."""
        return [Path(entry.path) for entry in self.entries(folder) if is_file(entry)]

    def below(self, folder: Path | str, above: tuple[tuple[int, int], ...] = ()) -> Iterator[str]:
        """The paths of all files below a folder; `above` are the (device, inode) of the folders on the way to it."""
        try:
            status = os.stat(folder)
        except OSError as error:
            self._leave_out_unread(folder, error)
            return
        here = (status.st_dev, status.st_ino)
        if here in above:  # through several links
            self.leave_out(folder, "link_up")
            return
        for entry in self.entries(folder):
            if is_dir(entry):
                yield from self.below(entry.path, (*above, here))
            elif is_file(entry):
                yield entry.path
            else:
                self.leave_out(entry.path, "not_a_file")

    def _leave_out_unread(self, folder: Path | str, error: OSError) -> None:
        """Leave out a folder without permission, or that was removed meanwhile. Raises `DataError` for anything else, such as
        a network disk that fails: to go on would lose whole classes."""
        if not isinstance(error, (PermissionError, FileNotFoundError)):
            raise DataError(
                f"{folder}: cannot be read: {error.strerror}.", hint="Check the disk, then run the same command again."
            ) from error
        self.leave_out(folder, "no_permission")

    def holds_images(self, folder: Path) -> bool:
        """Whether there are images below a folder, by their names or first bytes, even if damaged or unreadable."""
        return self._cached("images", folder, lambda: self._finds_image(folder))

    def holding_images(self, folder: Path) -> list[Path]:
        """The folders directly in a folder that hold images."""
        return [below for below in self.folders(folder) if self.holds_images(below)]

    def relative(self, path: Path | str) -> str:
        """A path relative to the root, with ``/``."""
        text, above = str(path), os.path.join(self.root, "")
        if text.startswith(above):  # always so in a walk; the general case is ten times slower
            return text[len(above) :].replace(os.sep, "/")
        return Path(text).relative_to(self.root).as_posix()

    def leave_out(self, path: Path | str, reason: str) -> None:
        """Record a path in `found.rejected`."""
        self.found.rejected.append((self.relative(path), reason))

    def quiet(self) -> FolderWalk:
        """The same walk, without recording what is left out."""
        walk = FolderWalk(self.root)
        walk._known = self._known
        return walk

    def _cached(self, what: str, folder: Path, find: Callable[[], bool]) -> bool:
        key = (what, str(folder))
        if key not in self._known:
            self._known[key] = find()
        return self._known[key]

    def _finds_image(self, folder: Path) -> bool:
        quiet = self.quiet()
        unclear = []
        for path in quiet.below(folder):
            if named_like_image(path):
                return True
            if not named_like_other(path):
                unclear.append(path)
        lost = [path for path, reason in quiet.found.rejected if reason in ("not_a_file", "no_permission")]
        if any(named_like_image(path) or os.path.isdir(self.root / path) for path in lost):
            return True
        return any(map(_begins_like_image, unclear))

    def _reasons(self, entries: Sequence[os.DirEntry[str]]) -> list[str]:
        """Why each entry is left out, '' if it is not."""
        folders = [entry for entry in entries if is_dir(entry)]
        stems = {_stem(entry.name) for entry in entries if named_like_image(entry.name)}
        reasons = {entry.path: self._folder_reason(entry) for entry in folders}
        beside = [Path(e.path) for e in folders if is_beside_name(e.name) and not reasons[e.path]]
        kept = [Path(e.path) for e in folders if Path(e.path) not in beside and not reasons[e.path]]
        reasons |= {str(folder): "masks" for folder in beside if self._accompanies(folder, kept, stems)}
        return [reasons[e.path] if e.path in reasons else _file_reason(e.name, stems) for e in entries]

    def _folder_reason(self, entry: os.DirEntry[str]) -> str:
        """Why a folder is left out, whatever is beside it, '' if it is not."""
        if entry.name.casefold() in SYSTEM_FOLDERS:
            return "system_folder"
        return self._link_reason(entry.path) if entry.is_symlink() else ""

    def _link_reason(self, link: str) -> str:
        """Why a link to a folder is not followed, '' if it is."""
        target, here = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
        if _within(here, target) or _within(self._real_root, target):
            return "link_up"
        inner = target[len(self._real_root) :].split(os.sep)
        hidden = any(map(is_system_file, inner))
        return "link_inside" if _within(target, self._real_root) and not hidden else ""

    def _accompanies(self, folder: Path, others: Sequence[Path], stems: set[str]) -> bool:
        """Whether a folder named like masks or annotations is that, and not a class; beside it are folders and images.

        Beside `images` or `train`, masks are masks, but a folder of tables is looked at. `labels` and `boxes` may be
        classes, unless they hold no images, or no class is beside them and they have a name in common with the images.
        """
        mere = [other for other in others if says_nothing(other.name) or split_name(other.name)]
        if not mere:
            return bool(stems) and not stems.isdisjoint(self._names_below(folder))
        if not _UNCLEAR.fullmatch(folder.name.casefold()) or not self.holds_images(folder):
            return not any(file.name.lower().endswith(TABLES) for file in self.quiet().files(folder))
        if any(self.holds_images(other) for other in others if other not in mere):
            return False
        return self._cached("beside", folder, lambda: self._shares_names(folder, mere))

    def _shares_names(self, folder: Path, images: Sequence[Path]) -> bool:
        theirs = {name for place in images for name in self._names_below(place)}
        return not theirs.isdisjoint(islice(self._names_below(folder), 1_000))

    def _names_below(self, folder: Path) -> Iterator[str]:
        """The names of folders below a folder, and those of files without their extensions."""
        for path in self.quiet().below(folder):
            *folders, name = Path(path).relative_to(folder).parts
            yield from (*folders, _unmasked(_stem(name)))


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name."""
    return FolderWalk(folder).folders(folder)


def files_in(folder: Path) -> list[Path]:
    """The files directly in a folder, by name."""
    return FolderWalk(folder).files(folder)


def files_below(root: Path, found: FoundImages | None = None) -> Iterator[str]:
    """Relative paths of all files below a folder, one by one; what is left out is recorded in `found`."""
    walk = FolderWalk(root, found)
    return map(walk.relative, walk.below(root))


def named_like_image(path: str) -> bool:
    """Whether a file has the extension of an image."""
    return path.lower().endswith(IMAGES)


def named_like_other(path: str) -> bool:
    """Whether a file has the extension of something else. Neither is true of unknown and missing extensions."""
    suffix = os.path.splitext(path)[1].lower()
    return suffix in OTHERS or suffix in ARCHIVES


def is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for a link to itself."""
    return entry.is_dir(follow_symlinks=False) or (not entry.is_file(follow_symlinks=False) and os.path.isdir(entry))


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a file or a link to one; False for a link to itself."""
    return entry.is_file(follow_symlinks=False) or os.path.isfile(entry)


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _file_reason(name: str, stems: set[str]) -> str:
    """Why a file is left out beside images with these stems, '' if it is not."""
    stem = _stem(name)
    return "mask" if stem in stems and _unmasked(stem) != stem and _unmasked(stem) in stems else ""


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _unmasked(stem: str) -> str:
    """The name of the image that a mask is of."""
    match = _MASK.fullmatch(stem)
    return match[1] if match else stem


def _begins_like_image(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            probe(file)
    except UnreadableImage as error:
        return error.reason not in ("not_an_image", "empty")
    except OSError:
        return False
    return True
