"""The names, kinds and sizes that entries of an archive may have; nothing is opened here.

Archives are untrusted. If an entry would be written outside the folder, would replace another on some file system, or
is not a plain file or folder, the whole archive is refused before its first byte is written. The same rules apply on
every system, so an archive that opens on Linux also opens on a Mac and on Windows. Links are refused wherever they
point: telling safe from unsafe ones has failed in well-maintained libraries (CVE-2025-4517: Python's own filter).

Costs 7 microseconds and 90 bytes of memory per entry, however long its name. Not for the contents of the files: see
`images.headers` and `images.validate` for images.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from headstart.errors import BadArchive

MAX_ENTRIES = 250_000
"""Files and folders, including those that appear only in paths. Larger archives should be unpacked by hand."""
MAX_INNER = 30_000
"""Archives inside one archive."""
SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst")
"""Suffixes of archives inside an archive; others, such as .docx and .npz, are ordinary files."""
MAX_RATIO = 100
"""Unpacked bytes per byte of the archive. Images reach 1, tables of text 20 at most."""
ALWAYS_BYTES = 256 << 20
"""Bytes that are unpacked whatever the ratio: small archives of drawings may compress to almost nothing."""
DISK_SHARE = 0.9
"""Fraction of the free disk space that may be filled."""
MAX_NAME, MAX_PATH, MAX_DEPTH = 255, 1000, 32
"""Bytes of one name, bytes of a path, folders in a path."""

DELIBERATE = "This looks deliberate. If you trust the archive, unpack it with another program."
"""The hint about an archive that no archiver would write."""
_UNPACK_ELSEWHERE = "If you expect this, unpack it with another program and give the resulting folder."

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
    "ending": "has a name that ends in a dot or a space",
    "windows": "has a name that Windows does not allow",
    "long": f"has a name of more than {MAX_NAME} bytes, or a path of more than {MAX_PATH:,}",
    "deep": f"is more than {MAX_DEPTH} folders deep",
    "twice": "appears twice",
    "case": "differs from another entry only by case or by the encoding of accents",
    "both": "is both a file and a folder",
    "full_folder": "is a folder with contents of its own",
}
_JUNK = frozenset({".ds_store", "thumbs.db", "desktop.ini", "__macosx", "@eadir", ".spotlight-v100", ".trashes"})


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of an archive, according to its listing."""

    name: str
    """Its path; bytes that are not text are surrogate-escaped."""
    kind: str
    """'file', 'folder', or another kind in words, such as 'symbolic link'."""
    size: int
    """Unpacked bytes, according to the listing."""
    packed: int
    """Bytes that it occupies in the archive."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry while an archive is being read."""

    member: Member
    pieces: Callable[[], Iterator[bytes]]
    """Yields its bytes piece by piece, until the next entry is requested. Raises `BadArchive`."""


@dataclass(frozen=True)
class Limits:
    """How much may still be unpacked."""

    entries: int
    bytes: int
    because: str
    """The reason for `bytes`, in words."""

    def less(self, contents: Contents) -> Limits:
        """Return the limits that remain after an archive with these contents."""
        return Limits(self.entries - contents.entries, self.bytes - contents.bytes, self.because)


@dataclass(frozen=True)
class Contents:
    """The contents of an archive, according to its listing."""

    files: int
    bytes: int
    entries: int
    """Files and folders, including those that appear only in paths."""
    top: str
    """The first name of all paths, '' if they differ."""


def limits_for(packed: int, free: int) -> Limits:
    """Return the limits for an archive of `packed` bytes on a disk with `free` bytes left."""
    by_ratio, by_disk = max(ALWAYS_BYTES, MAX_RATIO * packed), int(DISK_SHARE * free)
    if by_disk < by_ratio:
        return Limits(MAX_ENTRIES, by_disk, f"the disk has {free:,} left")
    return Limits(MAX_ENTRIES, by_ratio, f"more is implausible for an archive of {packed:,}")


def check_members(archive: str, members: Iterable[Member], limits: Limits | None = None) -> Contents:
    """Check a listing and summarise it. Raises `BadArchive`, which names the first few unsafe entries.

    `archive` is its name in messages. Too many entries or bytes stop the check at once, so an endless listing does no
    harm.
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
            f"{archive}: has entries that cannot be unpacked safely: {', '.join(problems)}{more}.",
            hint="Nothing was unpacked. If you trust it, unpack it with another program and give the resulting folder.",
        )
    return vetting.contents()


class Vetting:
    """Checks the entries of one archive, one after another."""

    def __init__(self, archive: str, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._names = _NameIndex()
        self._entries = self._files = self._bytes = self._inner = 0
        self._tops: set[str] = set()

    def problem(self, member: Member, parts: list[str]) -> str:
        """Return why an entry is refused, '' if it is not; `parts` is `parts_of` its name.

        Raises `BadArchive` beyond the limits.
        """
        self._entries += 1
        self._bytes += member.size
        check_totals(self._archive, max(self._entries, len(self._names)), self._bytes, self._limits)
        problem = name_problem(member.name, parts) or _kind_problem(member) or self._names.problem(parts, member.kind)
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
                f"{self._archive}: contains more than {MAX_INNER:,} archives.",
                hint=_UNPACK_ELSEWHERE,
            )

    def contents(self) -> Contents:
        """Return the totals of the entries."""
        top = next(iter(self._tops)) if len(self._tops) == 1 else ""
        return Contents(self._files, self._bytes, max(self._entries, len(self._names)), top)


def check_totals(archive: str, entries: int, total: int, limits: Limits) -> None:
    """Raise `BadArchive` if the number of entries or bytes exceeds `limits`."""
    if entries > limits.entries:
        raise BadArchive(
            f"{archive}: contains more than {MAX_ENTRIES:,} files and folders.",
            hint=_UNPACK_ELSEWHERE,
        )
    if total > limits.bytes:
        raise BadArchive(
            f"{archive}: would take more than {limits.bytes:,} bytes unpacked; {limits.because}.",
            hint="If you expect this, unpack it with another program on a larger disk and give the resulting folder.",
        )


def parts_of(name: str) -> list[str]:
    """Return the names in a path, without those that mean the folder itself.

    >>> parts_of("./train//cat/1.jpg")
    ['train', 'cat', '1.jpg']
    """
    return [part for part in name.split("/") if part and part != "."]


def name_problem(name: str, parts: list[str]) -> str:
    """Return why an entry cannot have that name, '' if it can; `parts` is `parts_of(name)`.

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
    """Return whether it is a file that macOS, Windows or a storage box adds to folders on its own.

    >>> is_junk(["__MACOSX", "cat", "._1.jpg"]), is_junk(["cat", "1.jpg"])
    (True, False)
    """
    return parts[-1].startswith("._") or any(part.casefold() in _JUNK for part in parts)


def shown(name: str) -> str:
    """Return a printable name from an archive: quoted, escaped, and shortened.

    >>> shown("two\\nlines")
    "'two\\\\nlines'"
    """
    return repr(name if len(name) <= 80 else f"{name[:50]}...{name[-20:]}")


def fold(name: str) -> str:
    """Return a name as compared by file systems that ignore case and the encoding of accents.

    >>> fold("Cafe\\u0301") == fold("CAF\\u00c9")
    True
    """
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


@dataclass
class _NameIndex:
    """The names so far, as hashes: memory must not grow with their lengths.

    {hash of the folded path: hash of the original path}. Two names with the same 64-bit hash would count as equal;
    Python salts the hashes in each process.
    """

    files: dict[int, int] = field(default_factory=dict)
    folders: dict[int, int] = field(default_factory=dict)
    last: str = ""
    """The folder of the last file: most entries follow another from the same folder."""

    def __len__(self) -> int:
        return len(self.files) + len(self.folders)

    def problem(self, parts: list[str], kind: str) -> str:
        """Return why an entry conflicts with earlier ones; if it does not, add it and return ''."""
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
