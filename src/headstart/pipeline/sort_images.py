"""`headstart predict --sort-into DIR`: put each image into a folder named after its predicted class.

    DIR/cats/a.jpg, DIR/cats/a-2.jpg, DIR/dogs/b.png

Images are copied or linked. The folder appears once all of them are in it, or not at all; an existing one is never touched.
Files with the same name get numbers, in the order in which the images were given. Costs reading and writing every file
once. Not for images in memory, which have no file to copy.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.errors import RecipeError, WriteError
from headstart.images.file_part import FilePart, ImageFile
from headstart.io.files import cache_dir, link_file, write_pieces
from headstart.io.folders import check_free, check_outside_data, folder_aside
from headstart.io.progress import bar, log
from headstart.model.inference.predictions import Predictions
from headstart.runs.outside_runs import check_outside_run

_NOT_IN_NAMES = re.compile(r'[\x00-\x1f/\\:*?"<>|]|^\.|[. ]$')
"""Characters that some file system refuses, or gives a special meaning."""
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)
_BYTES = 1 << 20
_NAME_BYTES = 255
"""Bytes of a name that all usual file systems accept."""


@dataclass(frozen=True)
class SortedImages:
    """Images in class folders: `folder`, whether they are `links`, and {name of an image: its path in the folder}."""

    folder: str
    links: bool
    places: Mapping[str, str]

    @property
    def classes(self) -> dict[str, int]:
        """The number of images in each class folder, by its name."""
        return dict(sorted(Counter(place.partition("/")[0] for place in self.places.values()).items()))


def check_sort_place(folder: Path, places: Sequence[Path], out: Path | None) -> None:
    """Raise `WriteError` if the folder exists, or is in a run folder or among the images at `places`."""
    check_free(folder)
    check_outside_run(folder, option="--sort-into")
    for place in places:
        check_outside_data(folder, place, name="sorted", option="--sort-into")
    if out is not None and out.absolute().is_relative_to(folder.absolute()):
        raise WriteError(
            f"{out}: is in {folder}, which is written as a whole.", hint="Choose an --out outside of that folder."
        )


def sort_images(folder: Path, predictions: Predictions, files: Mapping[str, object], *, links: bool) -> SortedImages:
    """Copy or link every predicted image into the folder. `files` has the file of each image, by name.

    Raises `RecipeError` for images that are not files, or that cannot be linked to, and `WriteError`.
    """
    of_name = dict(zip(predictions.paths, predictions.predicted.tolist(), strict=True))  # an image may be given twice
    sources = {name: _source(name, files[name], links) for name in of_name}
    folders = _unique([_safe(name) for name in predictions.classes])
    wanted = [f"{folders[k]}/{_safe(sources[name].name)}" for name, k in of_name.items()]
    places = dict(zip(of_name, _unique(wanted), strict=True))
    for name, into in zip(predictions.classes, folders, strict=True):
        if name != into:
            log.info("The images of class %r are in the folder %r.", name, into)
    with folder_aside(folder, fresh=True) as aside, bar("Linking" if links else "Copying", len(places)) as advance:
        for name, place in places.items():
            source = sources[name]
            if links and isinstance(source, Path):
                link_file(source.resolve(), aside / place)
            else:
                _copy(source, aside / place)
            advance(1)
    return SortedImages(str(folder), links, places)


def _source(name: str, file: object, links: bool) -> ImageFile:
    if isinstance(file, FilePart):
        if links:
            raise RecipeError(f"link: {name} is in a pack; there is no file to link to.", hint="Leave --link out.")
        return file
    if not isinstance(file, Path):
        raise RecipeError(
            f"sort_into: image {name} is in memory, so there is no file to copy.",
            hint="Save it first, and give its path.",
        )
    if links and file.absolute().is_relative_to(cache_dir().absolute()):
        raise RecipeError(
            f"link: {name} was unpacked or downloaded into the cache; links to it would not last.",
            hint="Leave --link out: then the images are copied.",
        )
    return file


def _copy(source: ImageFile, place: Path) -> None:
    if isinstance(source, FilePart):
        write_pieces(place, [source.read()])
        return
    try:
        with open(source, "rb") as file:
            write_pieces(place, iter(lambda: file.read(_BYTES), b""))
    except OSError as error:
        raise WriteError(
            f"{source}: could not be copied: {error.strerror}.", hint="Run the same command again."
        ) from error


def _safe(name: str) -> str:
    """A name that is one part of a path on any machine.

    >>> _safe("cats/indoor"), _safe(".."), _safe("con"), _safe("")
    ('cats_indoor', '_', '_con', '_')
    """
    text = _NOT_IN_NAMES.sub("_", name.strip().strip(".") or "_")
    return f"_{text}" if _RESERVED.fullmatch(text) else text


def _unique(places: Sequence[str]) -> list[str]:
    """The places, with a number before the extension where two would be the same on any file system. Names that are too
    long are cut before it.

    >>> _unique(["cats/a.jpg", "cats/A.JPG", "cats/a.jpg", "cats/a-2.jpg"])
    ['cats/a.jpg', 'cats/A-2.JPG', 'cats/a-3.jpg', 'cats/a-2-2.jpg']
    """
    taken: set[str] = set()
    next_number: Counter[str] = Counter()
    unique = []
    for place in places:
        above, _, name = place.rpartition("/")
        stem, suffix = (name, "") if not above else (Path(name).stem, Path(name).suffix)
        other, key = _fitting(above, stem, suffix), _key(place)
        while _key(other) in taken:
            next_number[key] += 1
            other = _fitting(above, stem, f"-{next_number[key] + 1}{suffix}")
        taken.add(_key(other))
        unique.append(other)
    return unique


def _fitting(above: str, stem: str, end: str) -> str:
    """The place of `stem` and `end` in the folder `above`, the stem cut to fit."""
    while stem and len(os.fsencode(stem + end)) > _NAME_BYTES:
        stem = stem[:-1]
    return f"{above}{'/' * bool(above)}{stem}{end}"


def _key(place: str) -> str:
    return unicodedata.normalize("NFC", place).casefold()
