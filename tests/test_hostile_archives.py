"""Archives that mean harm: each is refused by name, before anything is written, and nothing is left behind.

Each case also has a bound on memory (64 MB more than before) and on processor time (5 s).
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import sys
import tarfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from headstart.data.archives.members import ALWAYS_BYTES, MAX_ENTRIES, MAX_INNER
from headstart.data.archives.unpacking import unpack
from headstart.data.archives.zips import ZipNames, zip_entries
from headstart.errors import BadArchive, HeadstartError, WriteError
from headstart.io.files import write_pieces
from headstart.io.folders import folder_aside

SECONDS, MEMORY = 5.0, 64e6
SLOW = pytest.mark.slow
OK = b"\xff\xd8 an image"
BY_HAND = "Nothing was unpacked. If you trust it, unpack it with another program and give the resulting folder."
MADE = "This looks deliberate. If you trust the archive, unpack it with another program."
AGAIN = "Nothing was unpacked. Download or copy the archive again."
LARGE = "If you expect this, unpack it with another program on a larger disk and give the resulting folder."


# Making them


@dataclass
class Put:
    """An entry to be put into an archive."""

    name: str
    kind: str = "file"
    data: bytes = OK
    target: str = "/etc"


UNIX = {
    "file": stat.S_IFREG | 0o644,
    "folder": stat.S_IFDIR | 0o755,
    "symbolic link": stat.S_IFLNK | 0o777,
    "pipe": stat.S_IFIFO | 0o644,
    "character device": stat.S_IFCHR | 0o644,
    "block device": stat.S_IFBLK | 0o644,
    "socket": stat.S_IFSOCK | 0o644,
    "file that runs as another user": stat.S_IFREG | 0o4755,
}
TAR_TYPES = {
    "folder": tarfile.DIRTYPE,
    "symbolic link": tarfile.SYMTYPE,
    "hard link": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
}


def make_zip(puts: list[Put]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for put in puts:
            info = zipfile.ZipInfo("x")
            info.filename = put.name  # as it is: the constructor tidies it
            info.create_system, info.external_attr = 3, UNIX[put.kind] << 16
            data = put.target.encode() if put.kind == "symbolic link" else b"" if put.kind == "folder" else put.data
            archive.writestr(info, data)
    return file.getvalue()


def make_tar(puts: list[Put], form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for put in puts:
            info = tarfile.TarInfo(put.name)
            info.type = TAR_TYPES.get(put.kind, tarfile.REGTYPE)
            info.mode = stat.S_IMODE(UNIX.get(put.kind, 0o644))
            info.linkname = put.target if "link" in put.kind else ""
            info.size = len(put.data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(put.data))
    return file.getvalue()


def make_zst(puts: list[Put]) -> bytes:
    import pyarrow

    return bytes(pyarrow.compress(make_tar(puts, tarfile.GNU_FORMAT), codec="zstd", asbytes=True))


FORMATS: dict[str, Callable[[list[Put]], bytes]] = {
    "zip": make_zip,
    "tar": make_tar,
    "tar.gz": lambda puts: gzip.compress(make_tar(puts, tarfile.GNU_FORMAT)),
    "tar.zst": make_zst,
}


# Opening them


def tree(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder: contents of files, what links point to."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
    return found


def _memory(key: str) -> float:
    with open("/proc/self/status") as status:
        return next(float(line.split()[1]) * 1024 for line in status if line.startswith(key))


@contextmanager
def bounded() -> Iterator[None]:
    """Fails if the block takes too long, or more memory than allowed on top of what there is."""
    measured = sys.platform == "linux"
    if measured:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before, begin = _memory("VmRSS") if measured else 0.0, time.process_time()
    yield
    seconds, more = time.process_time() - begin, _memory("VmHWM") - before if measured else 0.0
    assert seconds < SECONDS, f"{seconds:.1f} s"
    assert more < MEMORY, f"{more / 1e6:.0f} MB more"


def refused(archive: Path, into: Path | None = None) -> HeadstartError:
    """The error of unpacking it into `target/into`, after which the whole place is as it was before."""
    place = archive.parent
    (place / "target").mkdir(exist_ok=True)
    before = tree(place) if archive.stat().st_size < 1e6 else {}
    with bounded(), pytest.raises(HeadstartError) as caught:
        unpack(archive, into or place / "target" / "into")
    names = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
    assert (tree(place) == before) if before else set(names) <= {archive.name, "target"}
    return caught.value


def refused_bytes(folder: Path, name: str, data: bytes) -> HeadstartError:
    (folder / name).write_bytes(data)
    return refused(folder / name)


# Names and kinds, in each format

LONG = "x" * 256
DEEP = "a/" * 32 + "1.jpg"
LONG_PATH = "/".join(["x" * 200] * 5) + "/1.jpg"
NFC, NFD = unicodedata.normalize("NFC", "café.jpg"), unicodedata.normalize("NFD", "café.jpg")
MANY = [Put(f"../{n}") for n in range(1000)]

ALTERED = "differs from another entry only by case or by the encoding of accents"
CASES: dict[str, tuple[list[Put], str]] = {
    "parent": ([Put("../evil.jpg")], "'../evil.jpg' leads out of the folder"),
    "parent within": ([Put("a/../../evil.jpg")], "'a/../../evil.jpg' leads out of the folder"),
    "parent at the end": ([Put("a/..")], "'a/..' leads out of the folder"),
    "absolute": ([Put("/evil.jpg")], "'/evil.jpg' is an absolute path"),
    "drive": ([Put("C:/evil.jpg")], "'C:/evil.jpg' names a drive"),
    "drive without slash": ([Put("c:evil.jpg")], "'c:evil.jpg' names a drive"),
    "network share": ([Put("//host/share/1.jpg")], "'//host/share/1.jpg' names a network share"),
    "network share, Windows": ([Put("\\\\host\\a\\1.jpg")], r"'\\\\host\\a\\1.jpg' names a network share"),
    "backslashes": ([Put("a\\..\\..\\evil.jpg")], r"'a\\..\\..\\evil.jpg' has a backslash in its name"),
    "control character": ([Put("a\x1b[31m.jpg")], r"'a\x1b[31m.jpg' has a control character in its name"),
    "line break": ([Put("a\nb.jpg")], r"'a\nb.jpg' has a control character in its name"),
    "symbolic link out": ([Put("a", "symbolic link"), Put("a/1.jpg")], "'a' is a symbolic link and 'a/1.jpg'"),
    "symbolic link in": ([Put("b.jpg"), Put("a", "symbolic link", target="b.jpg")], "'a' is a symbolic link"),
    "pipe": ([Put("a", "pipe")], "'a' is a pipe"),
    "character device": ([Put("a", "character device")], "'a' is a character device"),
    "block device": ([Put("a", "block device")], "'a' is a block device"),
    "set-user-id": ([Put("a", "file that runs as another user")], "'a' is a file that runs as another user"),
    "twice": ([Put("a.jpg"), Put("a.jpg", data=b"other")], "'a.jpg' appears twice"),
    "twice, written otherwise": ([Put("b/a.jpg"), Put("./b//a.jpg")], "'./b//a.jpg' appears twice"),
    "case": ([Put("a.jpg"), Put("A.jpg")], f"'A.jpg' {ALTERED}"),
    "case of a folder": ([Put("cat/1.jpg"), Put("Cat/2.jpg")], f"'Cat/2.jpg' {ALTERED}"),
    "accents": ([Put(NFC), Put(NFD)], f"{NFD!r} {ALTERED}"),
    "file, then folder": ([Put("a"), Put("a/1.jpg")], "'a/1.jpg' is both a file and a folder"),
    "folder, then file": ([Put("a/1.jpg"), Put("a")], "'a' is both a file and a folder"),
    "reserved": ([Put("CON")], "'CON' is a name that Windows reserves"),
    "reserved with suffix": ([Put("a/nul.tar.jpg")], "'a/nul.tar.jpg' is a name that Windows reserves"),
    "reserved folder": ([Put("Aux/1.jpg")], "'Aux/1.jpg' is a name that Windows reserves"),
    "reserved, superscript": ([Put("com¹.jpg")], "'com¹.jpg' is a name that Windows reserves"),
    "dot at the end": ([Put("a./1.jpg")], "'a./1.jpg' has a name that ends in a dot or a space"),
    "blank at the end": ([Put("a.jpg ")], "'a.jpg ' has a name that ends in a dot or a space"),
    "long name": (
        [Put(LONG)],
        f"'{'x' * 50}...{'x' * 20}' has a name of more than 255 bytes, or a path of more than 1,000",
    ),
    "long name in bytes": (
        [Put("é" * 128)],
        f"'{'é' * 50}...{'é' * 20}' has a name of more than 255 bytes, or a path of more than 1,000",
    ),
    "long path": (
        [Put(LONG_PATH)],
        f"'{'x' * 50}...{'x' * 14}/1.jpg' has a name of more than 255 bytes, or a path of more than 1,000",
    ),
    "deep": ([Put(DEEP)], f"{DEEP!r} is more than 32 folders deep"),
    "many": (MANY, ", ".join(f"'../{n}' leads out of the folder" for n in range(3)) + " and 997 more"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("case", CASES)
def test_bad_entries_are_refused_by_name(case: str, form: str, tmp_path: Path) -> None:
    puts, expected = CASES[case]
    error = refused_bytes(tmp_path, f"a.{form}", FORMATS[form]([Put("good/1.jpg"), *puts]))
    start = f"{tmp_path / f'a.{form}'}: has entries that cannot be unpacked safely: "
    assert isinstance(error, BadArchive)
    if case == "symbolic link out":  # what lies below it is another entry that is not taken
        assert error.message == f"{start}'a' is a symbolic link."
    else:
        assert error.message == f"{start}{expected}."
    assert error.hint == BY_HAND


TAR_ONLY: dict[str, tuple[Put, str]] = {
    "hard link out": (Put("a", "hard link", target="/etc/passwd"), "'a' is a hard link"),
    "hard link in": (Put("a", "hard link", target="good/1.jpg"), "'a' is a hard link"),
}


@pytest.mark.parametrize("case", TAR_ONLY)
@pytest.mark.parametrize("form", ["tar", "tar.gz"])
def test_hard_links(case: str, form: str, tmp_path: Path) -> None:
    put, expected = TAR_ONLY[case]
    error = refused_bytes(tmp_path, f"a.{form}", FORMATS[form]([Put("good/1.jpg"), put]))
    assert error.message == f"{tmp_path}/a.{form}: has entries that cannot be unpacked safely: {expected}."


# Tar's own tricks


def tar_header(name: bytes, type_: bytes = b"0", size: int | bytes = 0) -> bytes:
    head = bytearray(512)
    head[:100] = name[:100].ljust(100, b"\0")
    head[100:108], head[124:136] = b"0000644\0", size if isinstance(size, bytes) else b"%011o\0" % size
    head[156:157], head[257:265] = type_, b"ustar\x0000"
    head[148:156] = b"%06o\0 " % (sum(head) + 8 * 32)
    return bytes(head)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(values: dict[str, str], type_: bytes = b"x") -> bytes:
    data = b""
    for key, value in values.items():
        rest = f" {key}={value}\n".encode()
        length = next(n for n in range(len(rest), len(rest) + 9) if n == len(rest) + len(str(n)))
        data += str(length).encode() + rest
    return tar_header(b"pax", type_, len(data)) + padded(data)


def long_name(name: bytes) -> bytes:
    return tar_header(b"././@LongLink", b"L", len(name) + 1) + padded(name + b"\0")


FILE = tar_header(b"1.jpg", size=len(OK)) + padded(OK)
END = bytes(1024)
UNSAFE = "has entries that cannot be unpacked safely: "
TAR_TRICKS: dict[str, tuple[bytes, str, str]] = {
    "pax path": (pax({"path": "../evil.jpg"}) + FILE + END, UNSAFE + "'../evil.jpg' leads out of the folder.", BY_HAND),
    "pax path with a zero byte": (
        *(pax({"path": "a\0.jpg"}) + FILE + END, UNSAFE + r"'a\x00.jpg' has a zero byte in its name.", BY_HAND),
    ),
    "GNU long name": (
        long_name(b"../" * 60) + FILE + END,
        UNSAFE + f"'{('../' * 60)[:50]}...{('../' * 60)[-20:]}' leads out of the folder.",
        BY_HAND,
    ),
    "path for all": (
        *(pax({"path": "../evil"}, b"g") + FILE + END, "has one path or size for all entries (pax).", MADE),
    ),
    "size for all": (pax({"size": "1"}, b"g") + FILE + END, "has one path or size for all entries (pax).", MADE),
    "two long names": (
        long_name(b"a") + pax({"path": "b"}) + FILE + END,
        "names one entry twice (tar headers).",
        MADE,
    ),
    "headers without end": (pax({}, b"g") * 9 + FILE + END, "has more than 8 tar headers for one entry.", MADE),
    "huge header": (tar_header(b"x", b"x", 1 << 30), "has a tar header of 1,073,741,824 bytes.", MADE),
    "pax size, negative": (
        *(pax({"size": "-1"}) + FILE + END, "is damaged or truncated: a pax header has an invalid size.", AGAIN),
    ),
    "pax size, a huge one": (
        pax({"size": "9" * 19}) + FILE + END,
        f"would take more than {ALWAYS_BYTES:,} bytes unpacked; more is implausible for an archive of 3,072.",
        LARGE,
    ),
    "pax record, too long": (
        tar_header(b"x", b"x", 20) + padded(b"999999 path=../evil\n") + FILE + END,
        *("is damaged or truncated: a pax header is malformed.", AGAIN),
    ),
    "binary number, negative": (
        tar_header(b"a", size=b"\xff" * 12) + END,
        *("is damaged or truncated: a tar header has an invalid number.", AGAIN),
    ),
    "binary number, a huge one": (
        tar_header(b"a", size=b"\x80" + b"\xff" * 11) + END,
        f"would take more than {ALWAYS_BYTES:,} bytes unpacked; more is implausible for an archive of 1,536.",
        LARGE,
    ),
    "sparse, pax": (
        pax({"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9" * 15}) + FILE + END,
        *(UNSAFE + "'1.jpg' is a sparse file.", BY_HAND),
    ),
    "sparse, GNU": (tar_header(b"a", b"S") + END, UNSAFE + "'a' is a sparse file.", BY_HAND),
    "unknown type": (tar_header(b"a", b"V") + END, UNSAFE + "'a' is an entry of unknown type 'V'.", BY_HAND),
    "folder with bytes": (
        tar_header(b"a", b"5", 9) + END,
        UNSAFE + "'a' is a folder with contents of its own.",
        BY_HAND,
    ),
    "a second archive behind": (
        FILE + END + FILE + END,
        "has data after its end mark.",
        "If two archives were joined, unpack them one by one and give the resulting folder.",
    ),
    "no end mark": (FILE, "is damaged or truncated: it ends without an end mark.", AGAIN),
    "cut in an entry": (FILE[:-300], "is damaged or truncated: it ends in the middle of an entry.", AGAIN),
    "cut in a header": (FILE + FILE[:100], "is damaged or truncated: it ends without an end mark.", AGAIN),
    "long name without entry": (long_name(b"a") + END, "is damaged or truncated: a long name has no entry.", AGAIN),
    "bytes changed": (
        *(FILE + b"X" + FILE[1:] + END, "is damaged or truncated: the header of an entry has a wrong checksum.", AGAIN),
    ),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", TAR_TRICKS)
def test_tar_tricks(case: str, packed: bool, tmp_path: Path) -> None:
    data, message, hint = TAR_TRICKS[case]
    error = refused_bytes(tmp_path, "a.tar", gzip.compress(data) if packed else data)
    if packed and "a huge one" in case:  # the limit speaks of the size of the archive
        size = f"{(tmp_path / 'a.tar').stat().st_size:,}"
        message = message.replace("3,072", size).replace("1,536", size)
    assert (error.message, error.hint) == (f"{tmp_path / 'a.tar'}: {message}", hint)


# Zip's own tricks


@dataclass
class Raw:
    """An entry of a zip of which everything can be said wrongly."""

    name: bytes = b"a.jpg"
    data: bytes = OK
    method: int = 0
    flags: int = 0
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    offset: int | None = None
    local_name: bytes | None = None
    local_size: int | None = None
    local_method: int | None = None
    extra: bytes = b""
    attributes: int = 0
    system: int = 3


def raw_zip(raws: list[Raw], *, says: int | None = None, gap: bytes = b"", comment: bytes = b"") -> bytes:
    body, directory = bytearray(), bytearray()
    for raw in raws:
        size = len(raw.data) if raw.size is None else raw.size
        packed = len(raw.data) if raw.packed is None else raw.packed
        crc = zlib.crc32(raw.data) if raw.crc is None else raw.crc
        offset = len(body) if raw.offset is None else raw.offset
        name = raw.name if raw.local_name is None else raw.local_name
        lsize = size if raw.local_size is None else raw.local_size
        lmethod = raw.method if raw.local_method is None else raw.local_method
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, raw.flags, lmethod, 0, 0, crc, packed, lsize, len(name), 0)
        body += name + raw.data
        directory += struct.pack(
            *("<4s6H3L5H2L", b"PK\1\2", raw.system << 8 | 20, 20, raw.flags, raw.method, 0, 0, crc, packed, size),
            *(len(raw.name), len(raw.extra), 0, 0, 0, raw.attributes, offset),
        )
        directory += raw.name + raw.extra
    n = len(raws) if says is None else says
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, n, n, len(directory), len(body) + len(gap), len(comment))
    return bytes(body + gap + directory) + end + comment


def deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def zip64(*values: int) -> bytes:
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


BOMB = deflated(bytes(50_000_000))
INNER = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, zlib.crc32(OK), len(OK), len(OK), 1, 0) + b"b" + OK
U32 = 0xFFFFFFFF
TOGETHER = "Join the parts first: zip -s 0 LAST.zip --out whole.zip, where LAST.zip is the part that ends in .zip."
CUT = "is damaged or truncated: "
TWO_WAYS = "its directory and the header of 'a.jpg' differ, so it could be read in two ways."
ZIP_TRICKS: dict[str, tuple[bytes, str, str]] = {
    "zero byte": (raw_zip([Raw(b"a\0.jpg")]), UNSAFE + r"'a\x00.jpg' has a zero byte in its name.", BY_HAND),
    "no name": (raw_zip([Raw(b"")]), UNSAFE + "'' has no name.", BY_HAND),
    "encrypted": (raw_zip([Raw(flags=1)]), UNSAFE + "'a.jpg' is an encrypted file.", BY_HAND),
    "encrypted, AES": (raw_zip([Raw(flags=1, method=99)]), UNSAFE + "'a.jpg' is an encrypted file.", BY_HAND),
    "masked": (raw_zip([Raw(flags=1 << 13)]), UNSAFE + "'a.jpg' is an encrypted file.", BY_HAND),
    "socket": (
        raw_zip([Raw(attributes=(stat.S_IFSOCK | 0o644) << 16)]),
        *(UNSAFE + "'a.jpg' is a socket.", BY_HAND),
    ),
    "Windows link": (
        raw_zip([Raw(attributes=0x400, system=0)]),
        *(UNSAFE + "'a.jpg' is a symbolic link.", BY_HAND),
    ),
    "folder called like a file": (
        raw_zip([Raw(attributes=(stat.S_IFDIR | 0o755) << 16)]),
        *(UNSAFE + "'a.jpg' is a folder with the name of a file.", BY_HAND),
    ),
    "folder with bytes": (raw_zip([Raw(b"a/")]), UNSAFE + "'a/' is a folder with contents of its own.", BY_HAND),
    "Deflate64": (
        raw_zip([Raw(method=9)]),
        *(UNSAFE + "'a.jpg' is a file packed with Deflate64, which is not supported.", BY_HAND),
    ),
    "other name before the entry": (raw_zip([Raw(local_name=b"b.jpg")]), TWO_WAYS, MADE),
    "other size before the entry": (raw_zip([Raw(local_size=3)]), TWO_WAYS, MADE),
    "other method before the entry": (raw_zip([Raw(local_method=8)]), TWO_WAYS, MADE),
    "one header for two": (
        raw_zip([Raw(b"a", bytes(1000)), Raw(b"b", offset=0)]),
        *("its directory and the header of 'b' differ, so it could be read in two ways.", MADE),
    ),
    "overlapping": (
        raw_zip([Raw(b"a", INNER, method=8, size=9), Raw(b"b", offset=31)]),
        *("1 of its entries overlap others (a zip bomb).", MADE),
    ),
    "fewer bytes than said": (
        raw_zip([Raw(size=len(OK) + 5, packed=len(OK))]),
        *(f"{CUT}'a.jpg' does not have the size stated in its directory.", AGAIN),
    ),
    "more bytes than said": (
        raw_zip([Raw(data=BOMB, size=10, packed=len(BOMB), method=8)]),
        *(f"{CUT}'a.jpg' does not have the size stated in its directory.", AGAIN),
    ),
    "other bytes": (raw_zip([Raw(crc=1)]), f"{CUT}'a.jpg' does not have the checksum stated in its directory.", AGAIN),
    "more entries than said": (
        raw_zip([Raw(b"a"), Raw(b"b")], says=1),
        f"{CUT}its directory claims more than the file contains.",
        AGAIN,
    ),
    "fewer entries than said": (
        raw_zip([Raw(b"a", extra=bytes(100))], says=2),
        *(f"{CUT}its directory has 1 entries but states 2.", AGAIN),
    ),
    "zip64, size missing": (
        raw_zip([Raw(size=U32, packed=U32, extra=zip64(5))]),
        *(f"{CUT}a size in its directory is missing (zip64).", AGAIN),
    ),
    "zip64, huge size": (
        raw_zip([Raw(size=U32, packed=len(OK), extra=zip64(1 << 60), local_size=U32)]),
        *(TWO_WAYS, MADE),
    ),
    "zip64, huge offset": (
        raw_zip([Raw(offset=U32, extra=zip64((1 << 64) - 1))]),
        *(f"{CUT}its directory claims more than the file contains.", AGAIN),
    ),
    "zip64, no record": (
        raw_zip([Raw()])[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, U32, U32, 0),
        *(f"{CUT}its zip64 end record is missing.", AGAIN),
    ),
    "two end records": (
        raw_zip([Raw()], comment=struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)),
        *("has two end records, so it could be read in two ways.", MADE),
    ),
    "one part of several": (
        raw_zip([Raw()])[:-18] + struct.pack("<4H2LH", 1, 1, 1, 1, 51, 44, 0),
        *("is one part of several.", TOGETHER),
    ),
    "the first part of several": (b"PK\x07\x08" + raw_zip([Raw()])[:-22], "is one part of several.", TOGETHER),
    "directory elsewhere": (
        raw_zip([Raw()])[:-22] + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 51, 1 << 30, 0),
        *(f"{CUT}its directory is not where its end record says.", AGAIN),
    ),
    "cut": (raw_zip([Raw()])[:-5], f"{CUT}it has no end record.", AGAIN),
    "deflate cut": (
        raw_zip([Raw(data=deflated(OK)[:-4], size=len(OK), method=8)]),
        "",
        AGAIN,
    ),
    "deflate damaged": (raw_zip([Raw(data=b"\xff" * 20, size=len(OK), method=8)]), "", AGAIN),
}


@pytest.mark.parametrize("case", ZIP_TRICKS)
def test_zip_tricks(case: str, tmp_path: Path) -> None:
    data, message, hint = ZIP_TRICKS[case]
    error = refused_bytes(tmp_path, "a.zip", data)
    assert error.message.startswith(f"{tmp_path / 'a.zip'}: {message}"), error.message
    assert not message or error.message == f"{tmp_path / 'a.zip'}: {message}"
    assert error.hint == hint


# Bombs

TEN_GB = 10 << 30
LIES = "would take more than {:,} bytes unpacked; more is implausible for an archive of {:,}."


def ten_gigabytes(packer: Callable[[bytes], bytes]) -> bytes:
    """A tar with a file of ten gigabytes of zeros (the first quarter of one: nobody gets that far), packed."""
    return packer(tar_header(b"a.jpg", size=b"\x80" + TEN_GB.to_bytes(11, "big"))) + packer(bytes(1 << 28)) * 10


@pytest.mark.parametrize("form", ["gz", "bz2", "xz", "zst"])
def test_ten_gigabytes_in_one_megabyte_tar(form: str, tmp_path: Path) -> None:
    import pyarrow

    packers: dict[str, Callable[[bytes], bytes]] = {
        "gz": lambda data: gzip.compress(data, 1) if len(data) < 1 << 20 else gzip.compress(data[: 1 << 26], 1),
        "bz2": bz2.compress,
        "xz": lambda data: lzma.compress(data, preset=0),
        "zst": lambda data: bytes(pyarrow.compress(data, codec="zstd", asbytes=True)),
    }
    data = ten_gigabytes(lambda raw: packers[form](raw[: 1 << 26]))
    error = refused_bytes(tmp_path, f"a.tar.{form}", data)
    assert len(data) < 4 << 20
    limit = max(ALWAYS_BYTES, 100 * len(data))
    assert error.message == f"{tmp_path / f'a.tar.{form}'}: {LIES.format(limit, len(data))}"
    assert error.hint == LARGE


def test_ten_gigabytes_in_a_zip_that_says_so(tmp_path: Path) -> None:
    raws = [Raw(b"%d.bmp" % n, BOMB, method=8, size=50_000_000) for n in range(TEN_GB // 50_000_000)]
    data = raw_zip(raws)
    limit = max(ALWAYS_BYTES, 100 * len(data))
    error = refused_bytes(tmp_path, "a.zip", data)
    assert error.message == f"{tmp_path / 'a.zip'}: {LIES.format(limit, len(data))}"


def test_a_bomb_of_overlapping_entries(tmp_path: Path) -> None:
    """D. Fifield's: each local header quotes the next, so that all entries share one kernel."""
    body, headers, crc = BOMB, [], zlib.crc32(bytes(50_000_000))
    for n in reversed(range(200)):
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(body), 1000, 3, 0) + b"%03d" % n
        body = head + body
        headers.append(len(body))
    total = len(body)
    raws = [
        Raw(b"%03d" % n, method=8, crc=crc, size=1000, packed=size - 33, offset=total - size)
        for n, size in zip(reversed(range(200)), headers, strict=True)
    ]
    whole = raw_zip(raws)
    directory = whole[-22 - (46 + 3) * 200 : -22]
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 200, 200, len(directory), total, 0)
    error = refused_bytes(tmp_path, "a.zip", body + directory + end)
    assert error.message == f"{tmp_path / 'a.zip'}: 199 of its entries overlap others (a zip bomb)."


def many_entries(n: int, says: int | None) -> bytes:
    """A zip of n empty files; `says` is the number in its end record, None for the true one."""
    local = struct.Struct("<4s5H3L2H7s").pack
    central = struct.Struct("<4s6H3L5H2L7s").pack
    names = [b"%07d" % i for i in range(n)]
    body = b"".join(local(b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, name) for name in names)
    directory = b"".join(
        central(b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 37 * i, name) for i, name in enumerate(names)
    )
    end = len(body) + len(directory)
    if says is not None and says < 65535:
        return body + directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, says, says, len(directory), len(body), 0)
    said = says or n
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, said, said, len(directory), len(body))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    old = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, len(directory), len(body), 0)
    return body + directory + record + locator + old


@pytest.mark.parametrize(
    ("says", "expected"),
    [(None, "many"), (3, "many"), pytest.param(65_534, "many", marks=SLOW), pytest.param(200_000, "lie", marks=SLOW)],
)
def test_a_million_entries_in_a_zip(says: int | None, expected: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(many_entries(1_000_000, says))
    error = refused(tmp_path / "a.zip")
    assert (
        error.message
        == {
            "many": f"{tmp_path / 'a.zip'}: contains more than {MAX_ENTRIES:,} files and folders.",
            "lie": f"{tmp_path / 'a.zip'}: {CUT}its directory claims more than the file contains.",
        }[expected]
    )


def test_more_entries_than_the_count_can_say(tmp_path: Path) -> None:
    """As macOS writes a zip: the count modulo 65,536, and nothing else."""
    (tmp_path / "a.zip").write_bytes(many_entries(65_536 + 3, 3))
    with open(tmp_path / "a.zip", "rb") as file:
        assert sum(1 for _ in zip_entries("a.zip", file, ZipNames())) == 65_539


@pytest.mark.slow
def test_a_million_entries_in_a_tar(tmp_path: Path) -> None:
    template = tar_header(b"0000000")
    base = sum(template) - sum(template[148:156]) + 256 - sum(b"0000000")
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        for n in range(0, 1_000_000, 10_000):
            names = [b"%07d" % i for i in range(n, n + 10_000)]
            sums = [b"%06o\0 " % (base + sum(name)) for name in names]
            file.write(b"".join(a + template[7:148] + b + template[156:] for a, b in zip(names, sums, strict=True)))
    error = refused(tmp_path / "a.tar.gz")
    assert error.message == f"{tmp_path / 'a.tar.gz'}: contains more than {MAX_ENTRIES:,} files and folders."


def test_many_entries_with_long_names_take_little_memory(tmp_path: Path) -> None:
    headers = b"".join(tar_header(f"{i:06}/{'x' * 90}".encode()) for i in range(50_000))
    error = refused_bytes(tmp_path, "a.tar", headers + tar_header(b"../evil") + END)
    assert error.message.endswith("has entries that cannot be unpacked safely: '../evil' leads out of the folder.")


def test_folders_that_are_only_named_count(tmp_path: Path) -> None:
    names = ("/".join(f"{i}" if n == 0 else "d" for n in range(31)) + "/f" for i in range(11_000))
    data = b"".join(tar_header(name.encode()) for name in names)
    error = refused_bytes(tmp_path, "a.tar.gz", gzip.compress(data + END, 1))
    assert error.message == f"{tmp_path / 'a.tar.gz'}: contains more than {MAX_ENTRIES:,} files and folders."


@pytest.mark.parametrize("form", ["xz", "zst"])
def test_a_window_of_gigabytes(form: str, tmp_path: Path) -> None:
    tar = make_tar([Put("a.jpg")])
    if form == "xz":
        packed = bytearray(lzma.compress(tar, format=lzma.FORMAT_XZ, preset=0))
        packed[packed.index(b"\x21\x01") + 2] = 36  # LZMA2's one byte of properties: a dictionary of one gigabyte
        length = (packed[12] + 1) * 4  # of the block's header, which ends with a checksum
        packed[8 + length : 12 + length] = zlib.crc32(packed[12 : 8 + length]).to_bytes(4, "little")
        data = bytes(packed)
    else:
        block = (len(tar) << 3 | 1).to_bytes(3, "little") + tar  # a raw one, the last
        data = b"\x28\xb5\x2f\xfd" + bytes([0, 21 << 3]) + block  # a window of 2 GiB
    error = refused_bytes(tmp_path, f"a.tar.{form}", data)
    assert error.message == f"{tmp_path / f'a.tar.{form}'}: needs more than 64 MiB of memory to unpack."


# Archives in archives


def test_a_zip_of_zips_is_within_the_limits_of_the_outer_one(tmp_path: Path) -> None:
    """As 42.zip: each level tells the truth, and all together are too much."""
    level = raw_zip([Raw(b"0.bmp", BOMB, method=8, size=50_000_000, crc=zlib.crc32(bytes(50_000_000)))])
    middle = make_zip([Put(f"{n}.zip", data=level) for n in range(10)])
    packed = raw_zip(
        [Raw(b"%d.zip" % n, deflated(middle), method=8, size=len(middle), crc=zlib.crc32(middle)) for n in range(3)]
    )
    error = refused_bytes(tmp_path, "a.zip", packed)
    assert "bytes unpacked; more is implausible for an archive of" in error.message
    assert error.message.startswith(f"{tmp_path / 'a.zip'}: '")


@pytest.mark.parametrize("inner", ["..zip", "...zip", "a .zip", "aux .zip"])
def test_the_name_of_an_inner_archive_does_not_lead_out(inner: str, tmp_path: Path) -> None:
    data = make_zip([Put(f"d/{inner}", data=make_zip([Put("evil.jpg")])), Put("d/1.jpg")])
    (tmp_path / "a.zip").write_bytes(data)
    if inner.startswith("aux"):
        assert "is a name that Windows reserves" in refused(tmp_path / "a.zip").message
        return
    unpack(tmp_path / "a.zip", tmp_path / "into")
    assert set(tree(tmp_path / "into")) == {"d", f"d/{inner}", "d/1.jpg"}
    assert set(tree(tmp_path)) == {"a.zip", "into", *(f"into/{name}" for name in tree(tmp_path / "into"))}


def test_a_bad_inner_archive_refuses_all(tmp_path: Path) -> None:
    data = make_zip([Put("1.jpg"), Put("d/train.zip", data=make_zip([Put("../evil.jpg")]))])
    error = refused_bytes(tmp_path, "a.zip", data)
    assert error.message == (
        f"{tmp_path / 'a.zip'}: 'd/train.zip': has entries that cannot be unpacked safely: '../evil.jpg' leads out of "
        f"the folder."
    )


def test_an_archive_that_holds_itself_ends(tmp_path: Path) -> None:
    data = make_zip([Put("1.jpg")])
    for _ in range(6):
        data = make_zip([Put("in.zip", data=data), Put("1.jpg")])
    (tmp_path / "a.zip").write_bytes(data)
    done = unpack(tmp_path / "a.zip", tmp_path / "into")
    assert set(tree(tmp_path / "into")) == {"1.jpg", "in", "in/1.jpg", "in/in", "in/in/1.jpg", "in/in/in.zip"}
    assert done.files == 4


# What lies there before


def test_a_link_at_the_target_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip([Put("1.jpg")]))
    (tmp_path / "elsewhere").mkdir()
    for target in ("elsewhere", "nowhere"):
        (tmp_path / "target").mkdir(exist_ok=True)
        (tmp_path / "target" / "into").symlink_to(tmp_path / target)
        error = refused(tmp_path / "a.zip")
        assert isinstance(error, WriteError)
        assert error.message == f"{tmp_path}/target/into: already exists; a new folder would be written there."
        (tmp_path / "target" / "into").unlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_links_in_the_folder_above_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(make_zip([Put("cat/1.jpg"), Put("dog/1.jpg")]))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "target").mkdir()
    for name in ("cat", ".into", "into.part", ".into.part"):
        (tmp_path / "target" / name).symlink_to(tmp_path / "elsewhere")
    unpack(tmp_path / "a.zip", tmp_path / "target" / "into")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert tree(tmp_path / "target" / "into")["cat/1.jpg"] == OK


def test_a_link_planted_while_it_is_unpacked_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.zip").write_bytes(make_zip([Put(f"{n}.jpg") for n in range(20)]))
    with pytest.raises(WriteError), folder_aside(tmp_path / "into", fresh=True) as aside:
        write_pieces(aside / "1.jpg", [OK])
        (tmp_path / "into").symlink_to(tmp_path / "elsewhere")
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "elsewhere", "into"]


def test_a_link_where_a_file_is_to_be_written_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    with pytest.raises(WriteError):
        write_pieces(tmp_path / "a", [OK])
    assert not (tmp_path / "b").exists()


# Damage


@pytest.mark.parametrize("form", [*FORMATS, "tar.bz2", "tar.xz"])
def test_cut_anywhere_is_refused(form: str, tmp_path: Path) -> None:
    puts = [Put(f"cat/{n}.jpg", data=os.urandom(700)) for n in range(3)]
    packers = {"tar.bz2": lambda p: bz2.compress(make_tar(p)), "tar.xz": lambda p: lzma.compress(make_tar(p))}
    data = (FORMATS | packers)[form](puts)
    archive = tmp_path / f"a.{form}"
    for cut in [*range(1, 60), *range(60, len(data), 97)]:
        if form == "tar" and len(data) - cut >= len(data.rstrip(b"\0")) // 512 * 512 + 1024:
            continue  # only padding behind the end mark is gone
        archive.write_bytes(data[:-cut])
        with pytest.raises(BadArchive):
            unpack(archive, tmp_path / "into")
        assert os.listdir(tmp_path) == [archive.name]


@pytest.mark.parametrize("form", [*FORMATS])
def test_any_byte_changed_is_refused_or_harmless(form: str, tmp_path: Path) -> None:
    """Whatever a byte is changed to: our own error and nothing left, or a folder whose files lie in it."""
    puts = [Put("cat/1.jpg", data=b"12345"), Put("dog/2.jpg", data=b"abcde")]
    data = FORMATS[form](puts)
    archive, into = tmp_path / f"a.{form}", tmp_path / "into"
    step = max(1, len(data) // 60)
    for at in range(0, len(data), step):
        for change in (0x01, 0x80, 0xFF):
            archive.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
            try:
                unpack(archive, into)
            except HeadstartError:
                assert os.listdir(tmp_path) == [archive.name]
            else:
                assert sorted(os.listdir(tmp_path)) == sorted([archive.name, "into"])
                assert not any(path.is_symlink() for path in into.rglob("*"))
                shutil.rmtree(into)


def test_too_many_inner_archives(tmp_path: Path) -> None:
    inner = make_zip([Put("1.jpg")])
    with open(tmp_path / "a.tar", "wb") as out:
        for n in range(MAX_INNER + 1):
            out.write(tar_header(b"%07d.zip" % n, size=len(inner)) + padded(inner))
        out.write(END)
    error = refused(tmp_path / "a.tar")
    assert error.message == f"{tmp_path / 'a.tar'}: contains more than {MAX_INNER:,} archives."
