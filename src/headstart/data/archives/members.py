"""What the entries of an archive may be called, may be, and may take up; nothing is opened here.

Archives come from strangers. An entry that would land outside the folder, replace another on some file system, or is
anything but a plain file or folder refuses the whole archive, before its first byte is written. The same rules hold on
every system, so that an archive that opens on Linux also opens on a Mac and on Windows. Links are refused wherever they
point: telling good ones from bad has failed in well-kept libraries (CVE-2025-4517: Python's own filter).

Costs 7 microseconds and 90 bytes of memory an entry, however long its name. Not for what is inside the files: images
have `images.headers` and `images.validate`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from headstart.errors import BadArchive

MAX_ENTRIES = 250_000
"""Files and folders, those that are only named in paths included. More belong unpacked by hand: it takes a while."""
MAX_INNER = 30_000
"""Archives in one archive."""
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst")
"""What archives inside an archive are called; others, such as .docx and .npz, are files like any."""
MAX_RATIO = 100
"""Unpacked bytes for each byte of the archive. Images take 1, tables of text 20 at most."""
ALWAYS_BYTES = 256 << 20
"""So many bytes are unpacked whatever the ratio: small archives of drawings may shrink to nothing."""
DISK_SHARE = 0.9
"""The part of the free disk that may be filled."""
MAX_NAME, MAX_PATH, MAX_DEPTH = 255, 1000, 32
"""Bytes of one name, bytes of a path, folders in a path."""

_SHOWN = 3
_ODD = re.compile(r"(?P<zero>\x00)|(?P<control>[\x01-\x1f\x7f])|(?P<backslash>\\)")
_ENDING = re.compile(r"[. ](?![^/])")
_RESERVED = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9\u00b9\u00b2\u00b3]) *(?![^.])", re.IGNORECASE
)
_WINDOWS_ONLY = re.compile(r'[<>:"|?*]')
_REASONS = {
    "empty": "has no name",
    "zero": "has a zero byte in its name",
    "control": "has a control character in its name",
    "backslash": "has a backslash in its name",
    "up": "leads out of the folder",
    "absolute": "is an absolute path",
    "drive": "names a drive",
    "share": "names a network share",
    "reserved": "is a name that Windows reserves",
    "ending": "has a name that ends in a dot or a blank",
    "windows": "has a name that Windows does not allow",
    "long": f"has a name of more than {MAX_NAME} bytes, or a path of more than {MAX_PATH:,}",
    "deep": f"lies more than {MAX_DEPTH} folders deep",
    "twice": "is there twice",
    "case": "differs from another one only by case or by how accents are written",
    "both": "is a file and a folder at once",
    "full_folder": "is a folder that has bytes",
}
_JUNK = frozenset({".ds_store", "thumbs.db", "desktop.ini", "__macosx", "@eadir", ".spotlight-v100", ".trashes"})


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive, as its listing has it."""

    name: str
    """Its path; bytes that are not text are surrogate-escaped."""
    kind: str
    """'file', 'folder', or what else it is in words, such as 'symbolic link'."""
    size: int
    """Unpacked bytes, as the listing says."""
    packed: int
    """Bytes that it takes up in the archive."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry while an archive is being read."""

    member: Member
    pieces: Callable[[], Iterator[bytes]]
    """Gives its bytes piece by piece, as long as the next entry has not been asked for. Raises `BadArchive`."""


@dataclass(frozen=True)
class Limits:
    """What may still be unpacked."""

    entries: int
    bytes: int
    because: str
    """Where `bytes` comes from, in words."""

    def less(self, contents: Contents) -> Limits:
        """What is left after an archive with these contents."""
        return Limits(self.entries - contents.entries, self.bytes - contents.bytes, self.because)


@dataclass(frozen=True)
class Contents:
    """What an archive holds, by its listing."""

    files: int
    bytes: int
    entries: int
    """Files and folders, those that are only named in paths included."""
    top: str
    """The name that all paths begin with, '' if there is no such one."""


def limits_for(packed: int, free: int) -> Limits:
    """What may be unpacked from an archive of `packed` bytes on a disk with `free` bytes left."""
    by_ratio, by_disk = max(ALWAYS_BYTES, MAX_RATIO * packed), int(DISK_SHARE * free)
    if by_disk < by_ratio:
        return Limits(MAX_ENTRIES, by_disk, f"the disk has {free:,} left")
    return Limits(MAX_ENTRIES, by_ratio, f"for an archive of {packed:,} no more are taken to be meant")


def check_members(archive: str, members: Iterable[Member], limits: Limits | None = None) -> Contents:
    """Look through a listing, and sum it up. Raises `BadArchive`, which names the first few entries that are not taken.

    `archive` is what it is called in messages. Too many entries or bytes end it at once, so that a listing that never
    ends does no harm.
    """
    vetting = Vetting(archive, limits or limits_for(0, 1 << 62))
    problems, bad = [], 0
    for member in members:
        problem = vetting.problem(member, parts_of(member.name))
        if problem:
            bad += 1
            problems += [f"{shown(member.name)} {problem}"] if bad <= _SHOWN else []
    if bad:
        more = f" and {bad - _SHOWN:,} more" if bad > _SHOWN else ""
        raise BadArchive(
            f"{archive}: holds what cannot be unpacked safely: {', '.join(problems)}{more}.",
            hint="Nothing was unpacked. If you trust it, unpack it by other means and give the folder that this makes.",
        )
    return vetting.contents()


class Vetting:
    """Looks at the entries of one archive, one after the other."""

    def __init__(self, archive: str, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._seen = _SeenNames()
        self._entries = self._files = self._bytes = self._inner = 0
        self._tops: set[str] = set()

    def problem(self, member: Member, parts: list[str]) -> str:
        """Why an entry is not taken, '' if it is; `parts` is `parts_of` its name. Raises `BadArchive` past the limits."""
        self._entries += 1
        self._bytes += member.size
        check_totals(self._archive, max(self._entries, len(self._seen)), self._bytes, self._limits)
        problem = name_problem(member.name, parts) or _kind_problem(member) or self._seen.problem(parts, member.kind)
        if not problem and parts and not is_junk(parts):
            self._files += member.kind == "file"
            if parts[-1].lower().endswith(SUFFIXES):
                self._count_inner()
            if len(self._tops) < 2:
                self._tops.add(parts[0])
        return problem

    def _count_inner(self) -> None:
        self._inner += 1
        if self._inner > MAX_INNER:
            raise BadArchive(
                f"{self._archive}: holds more than {MAX_INNER:,} archives.",
                hint="If that is meant, unpack it by other means and give the folder that this makes.",
            )

    def contents(self) -> Contents:
        """What the entries come to."""
        top = next(iter(self._tops)) if len(self._tops) == 1 else ""
        return Contents(self._files, self._bytes, max(self._entries, len(self._seen)), top)


def check_totals(archive: str, entries: int, total: int, limits: Limits) -> None:
    """Raise `BadArchive` if so many entries or bytes are more than `limits` allow."""
    if entries > limits.entries:
        raise BadArchive(
            f"{archive}: comes to more than {MAX_ENTRIES:,} files and folders.",
            hint="If that is meant, unpack it by other means and give the folder that this makes.",
        )
    if total > limits.bytes:
        raise BadArchive(
            f"{archive}: would take more than {limits.bytes:,} bytes unpacked; {limits.because}.",
            hint="If that is meant, unpack it by other means, on a disk with room, and give the folder that this makes.",
        )


def parts_of(name: str) -> list[str]:
    """The names in a path, less those that stand for the folder itself.

    >>> parts_of("./train//cat/1.jpg")
    ['train', 'cat', '1.jpg']
    """
    return [part for part in name.split("/") if part and part != "."]


def name_problem(name: str, parts: list[str]) -> str:
    """Why an entry cannot have that name, '' if it can; `parts` are those of `parts_of`.

    >>> name_problem("../1.jpg", ["..", "1.jpg"]), name_problem("cat/1.jpg", ["cat", "1.jpg"])
    ('leads out of the folder', '')
    """
    if not name:
        return _REASONS["empty"]
    if name[0] in "/\\":
        return _REASONS["share" if name[:2] in ("//", "\\\\") else "absolute"]
    if name[1:2] == ":" and name[0].isascii() and name[0].isalpha():
        return _REASONS["drive"]
    odd = _ODD.search(name)
    if odd:
        return _REASONS[odd.lastgroup or ""]
    if _ENDING.search(name) and any(part[-1] in ". " for part in parts):
        return _REASONS["up" if ".." in parts else "ending"]
    if any(part[0] in "acnplACNPL" and _RESERVED.match(part) for part in parts):
        return _REASONS["reserved"]
    if len(name) > MAX_NAME // 4 and _too_long(parts):
        return _REASONS["long"]
    if len(parts) > MAX_DEPTH:
        return _REASONS["deep"]
    return _REASONS["windows"] if os.name == "nt" and _WINDOWS_ONLY.search(name) else ""


def _too_long(parts: list[str]) -> bool:
    sizes = [len(part.encode("utf-8", "surrogatepass")) for part in parts]
    return max(sizes, default=0) > MAX_NAME or sum(sizes) + len(sizes) - 1 > MAX_PATH


def _kind_problem(member: Member) -> str:
    if member.kind == "file":
        return ""
    if member.kind == "folder":
        return _REASONS["full_folder"] if member.size else ""
    return f"is {'an' if member.kind[0] in 'aeiou' else 'a'} {member.kind}"


def is_junk(parts: list[str]) -> bool:
    """Whether it is what Macs, Windows and storage boxes add to folders of their own accord.

    >>> is_junk(["__MACOSX", "cat", "._1.jpg"]), is_junk(["cat", "1.jpg"])
    (True, False)
    """
    return parts[-1].startswith("._") or any(part.casefold() in _JUNK for part in parts)


def shown(name: str) -> str:
    """A name from an archive as it can be printed: quoted, escaped, and not too long.

    >>> shown("two\\nlines")
    "'two\\\\nlines'"
    """
    return repr(name if len(name) <= 80 else f"{name[:50]}...{name[-20:]}")


def fold(name: str) -> str:
    """A name as file systems compare it that know neither case nor how accents are written.

    >>> fold("Cafe\\u0301") == fold("CAF\\u00c9")
    True
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


@dataclass
class _SeenNames:
    """The names met so far, as hashes: memory must not grow with their lengths.

    {hash of the folded path: hash of the path as it is}. Two names with one 64-bit hash would be called the same; Python
    salts them in each process.
    """

    files: dict[int, int] = field(default_factory=dict)
    folders: dict[int, int] = field(default_factory=dict)
    last: str = ""
    """The folder of the last file: most entries follow one of the same folder."""

    def __len__(self) -> int:
        return len(self.files) + len(self.folders)

    def problem(self, parts: list[str], kind: str) -> str:
        """Why an entry cannot stand beside those before it, '' if it can; then it is one of them."""
        if not parts:
            return ""
        above = "/".join(parts[:-1])
        if above != self.last:
            for path in _prefixes(parts[:-1]):
                problem = self._folder(path)
                if problem:
                    return problem
            self.last = above
        path = f"{above}/{parts[-1]}" if above else parts[-1]
        return self._folder(path) if kind == "folder" else self._file(path)

    def _folder(self, path: str) -> str:
        exact, key = _hashes(path)
        if key in self.files:
            return _REASONS["both"]
        return "" if self.folders.setdefault(key, exact) == exact else _REASONS["case"]

    def _file(self, path: str) -> str:
        exact, key = _hashes(path)
        if key in self.folders:
            return _REASONS["both"]
        if key in self.files:
            return _REASONS["twice" if self.files[key] == exact else "case"]
        self.files[key] = exact
        return ""


def _hashes(path: str) -> tuple[int, int]:
    exact, folded = hash(path), fold(path)
    return exact, exact if folded == path else hash(folded)


def _prefixes(parts: list[str]) -> Iterator[str]:
    for n in range(1, len(parts) + 1):
        yield "/".join(parts[:n])
