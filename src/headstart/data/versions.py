"""Versions of one dataset beside each other: photos and photos_small, each with cats and dogs.

Read as class folders, the versions would be the classes, and the classifier would tell large images from small ones. So
they are refused if their names say that they are versions and they hold folders of the same names. Costs nothing for
other names. Not for copies of images: see `data.near_duplicates`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from headstart.data.dataset import split_name
from headstart.data.folder_walk import FolderWalk
from headstart.data.wrappers import unwrap
from headstart.errors import BadLabels
from headstart.io.text_table import few

INNERMOST = "([^/]+)/[^/]+$"
"""A pattern for the innermost folder of a path."""

_PROCESSED = (
    r"aug(?:mented|mentation)?|orig(?:inals?)?|raw|(?:pre)?processed|resized?|crop(?:ped)?|gr[ae]y(?:scale)?|"
    r"colou?r(?:ed)?|rgb|segmented|folds?[ _-]*\d+|images?|photos|data|datasets?"
)
"""Words that are versions by themselves."""
_SIZED = (
    r"small(?:er)?|large(?:r)?|big|mini|tiny|full|sample[ds]?|subset|clean(?:ed)?|copy|backup|old|new|v\d+|"
    r"\d+ ?(?:px|x ?\d+)"
)
"""Words that make a version of what they are added to; by themselves they may be classes."""


def refuse_versions(walk: FolderWalk, folders: Sequence[Path]) -> None:
    """Raise `BadLabels` if these folders, which hold images, are versions of one dataset."""
    names = [folder.name for folder in folders]
    if len(folders) < 2 or not versions_of_one(names):
        return
    inner = Counter(name for folder in folders for name in _classes_in(walk.quiet(), folder))
    shared = sorted(name for name, n in inner.items() if n > 1)
    if len(shared) < 2:
        return
    above = "".join(f"{part}/" for part in walk.relative(folders[0]).split("/")[:-1])
    listed, classes = few([repr(name) for name in names], 3), few([repr(name) for name in shared], 3)
    raise BadLabels(
        f"{folders[0].parent}: its folders {listed} hold the same folders, such as {classes}, so they look like versions "
        "of one dataset, not like classes.",
        hint=f"Give one of them, such as {folders[0]}. To use all of them, add --label-from '{INNERMOST}', which makes the "
        f"innermost folders the classes. If {listed} are the classes: --label-from '{above}([^/]+)/'.",
    )


def versions_of_one(names: Sequence[str]) -> bool:
    """Whether the names differ only in words such as small and gray, and hold other words as well.

    >>> versions_of_one(["PetImages", "PetImages_small"]), versions_of_one(["color", "gray"])
    (True, True)
    >>> versions_of_one(["old", "new"]), versions_of_one(["day1", "day2"])
    (False, False)
    """
    rest = {_without(f"{_PROCESSED}|{_SIZED}", name) for name in names}
    return len(rest) == 1 and (rest != {""} or not all(_without(_PROCESSED, name) for name in names))


def _without(words: str, name: str) -> str:
    left = re.sub(rf"(?<![a-z0-9])(?:{words})(?![a-z0-9])", " ", name.casefold())
    return " ".join(re.findall(r"[^\W_]+", left))


def _classes_in(walk: FolderWalk, folder: Path) -> set[str]:
    """The names of the folders in a dataset that may be classes."""
    inner = walk.holding_images(unwrap(walk, folder, quiet=True))
    sets = [below for below in inner if split_name(below.name)]
    return {f.name for s in sets for f in walk.holding_images(s)} if sets else {f.name for f in inner}
