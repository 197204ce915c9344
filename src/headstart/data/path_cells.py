"""Paths as tables spell them: with backslashes or percent signs, as a spreadsheet saved them, or from another machine.

    cats\\1.jpg, ./cats/1.jpg, " cats/1.jpg"    cats/1.jpg
    cats/my%20cat.jpg                           cats/my cat.jpg
    Cats/1.JPG, cats/1.jpeg                     cats/1.jpg     another case, JPEG's other suffix
    123, 123.0, 123.jpg                         00123.jpg      a number, for a spreadsheet
    C:\\Users\\me\\data\\cats\\1.jpg            cats/1.jpg     a folder that was moved (`relocation`)
    https://host/cats/1.jpg                     an address: never fetched

Only texts are compared here; `data.match_files` knows which files exist. Costs microseconds per path, and
`relocation` some milliseconds per 1,000 images. Not for ids of submissions: see `kaggle_api.match_ids`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from headstart.data.dataset import IMAGES

_DRIVE = re.compile(r"[a-z]:/|/", re.IGNORECASE)
DECIMALS = r"[.,](?:0{1,2}|0{4,})"
"""Pattern of the decimals of a whole number, with a point or a comma. Three zeros may be thousands."""
_NUMBER = re.compile(rf"0*(\d+)(?:{DECIMALS})?")
_SCIENTIFIC = re.compile(r"\d(?:[.,]\d+)?E\+?\d+(?:\.\w+)?", re.IGNORECASE)
_TRIED = 300  # paths tried to find where a folder was moved


def plain_path(cell: str) -> str:
    """A path without blanks and quotes around it, with ``/``, and without ``./`` before it.

    >>> plain_path(" 'cats\\\\1.jpg' "), plain_path("./1.jpg"), plain_path("file:///tmp/my%20cat.jpg")
    ('cats/1.jpg', '1.jpg', '/tmp/my cat.jpg')
    """
    text = cell.strip().strip("\"'").strip().replace("\\", "/")
    if text.lower().startswith("file:/"):
        text = "/" + unquote(text[5:]).lstrip("/")
    while text.startswith("./"):
        text = text[2:].lstrip("/")
    return text


def is_elsewhere(cell: str) -> bool:
    """Whether a path begins at the root of a file system or at a drive.

    >>> [is_elsewhere(cell) for cell in ("C:\\\\me\\\\1.jpg", "/content/1.jpg", "cats/1.jpg")]
    [True, True, False]
    """
    return bool(_DRIVE.match(plain_path(cell)))


def bare(path: str) -> str:
    """A path without the suffix of an image format.

    >>> bare("a.b/1.JPG"), bare("a.b/1"), bare("v1.0")
    ('a.b/1', 'a.b/1', 'v1.0')
    """
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in IMAGES else path


def loose(name: str) -> str:
    """A name as it compares if case, Unicode form, percent signs and JPEG's two suffixes do not count.

    >>> loose("My%20Cat.JPEG"), loose("my cat.jpg")
    ('my cat.jpg', 'my cat.jpg')
    """
    text = unicodedata.normalize("NFC", unquote(name, errors="surrogateescape")).casefold()
    return text.removesuffix(".jpeg") + ".jpg" if text.endswith(".jpeg") else text


def number(name: str) -> str:
    """The whole number that a file name is, without leading zeros; '' if it is not one.

    >>> number("00123.jpg"), number("123.0"), number("123"), number("1,000"), number("a1.jpg")
    ('123', '123', '123', '', '')
    """
    match = _NUMBER.fullmatch(bare(name))
    return match[1] if match else ""


def is_scientific(cell: str) -> bool:
    """Whether a spreadsheet has written a long number as a power of ten, which loses its last digits.

    >>> is_scientific("1.23E+11"), is_scientific("1E05.jpg"), is_scientific("e5.jpg")
    (True, True, False)
    """
    return bool(_SCIENTIFIC.fullmatch(plain_path(cell)))


def is_respelled(cell: str, path: str) -> bool:
    """Whether a cell is neither a path's end nor its end without the suffix, so that the match is worth a note.

    >>> is_respelled("1.JPG", "cats/1.jpg"), is_respelled("cats\\\\1", "cats/1.jpg")
    (True, False)
    """
    text = plain_path(cell)
    return not any(f"/{end}".endswith(f"/{text}") for end in (path, bare(path), path.rpartition(".")[0]))


# Folders that were moved


@dataclass(frozen=True)
class Relocation:
    """Paths that begin with the folder `before` in a table lie in the folder `now`."""

    before: str
    now: str

    def applied_to(self, cell: str) -> str:
        """The path today; the cell itself if it does not begin with the folder."""
        text = plain_path(cell)
        if not text.startswith(_slashed(self.before)):
            return cell
        return _slashed(self.now) + text[len(_slashed(self.before)) :].lstrip("/")


def relocation(cells: Sequence[str], paths: Collection[str]) -> Relocation | None:
    """How the paths in a table become those of images, by exchanging the folders that they begin with.

    One exchange has to work for at least half of the cells, and no other one as well; else None.

    >>> relocation(["C:\\\\me\\\\data\\\\cats\\\\1.jpg", "C:\\\\me\\\\data\\\\dogs\\\\1.jpg"], ["cats/1.jpg", "dogs/1.jpg"])
    Relocation(before='C:/me/data', now='')
    """
    by_name: defaultdict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_name[path.rpartition("/")[2]].append(path)
    sample = cells[:: max(len(cells) // _TRIED, 1)]
    counts = Counter(pair for cell in sample for pair in set(_exchanges(plain_path(cell), by_name)))
    ranked = sorted(counts.items(), key=lambda item: (-item[1], *map(_depth, item[0])))
    if not ranked or 2 * ranked[0][1] < len(sample):
        return None
    best, *others = [pair for pair, n in ranked if n == ranked[0][1]]
    if any(tuple(map(_depth, other)) == tuple(map(_depth, best)) for other in others):
        return None
    return Relocation(*best)


def _exchanges(text: str, by_name: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """What a path and each image of the same name begin with, before the longest end that they share."""
    own = text.split("/")
    for path in by_name.get(own[-1], []):
        other = path.split("/")
        shared = 1
        while shared < min(len(own), len(other)) and own[-shared - 1] == other[-shared - 1]:
            shared += 1
        yield "/".join(own[:-shared]), "/".join(other[:-shared])


def _depth(folder: str) -> int:
    return folder.count("/") + bool(folder)


def _slashed(folder: str) -> str:
    return f"{folder}/" if folder else ""
