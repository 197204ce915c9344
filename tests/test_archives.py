"""Archives that mean well: what is in them comes out, to the byte, whoever packed them and however."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.data.archives import unpacking
from headstart.data.archives.members import ALWAYS_BYTES, MAX_ENTRIES, Limits, Member, check_members, limits_for
from headstart.data.archives.unpacking import UnpackResult, is_archive, unpack, unpacked
from headstart.data.open_dataset import open_dataset
from headstart.errors import BadArchive, MissingData, WriteError
from headstart.io.files import cache_dir, sha256_file, write_pieces

Tree = dict[str, bytes]


# Packing


def pack_zip(tree: Tree, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, so that zip writes sizes behind the entries."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.data += bytes(data)  # type: ignore[call-overload]
        return len(data)  # type: ignore[arg-type]


def pack_zip_stream(tree: Tree) -> bytes:
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return pipe.data


def pack_zip64(tree: Tree) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in tree.items():
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(data)
        archive.comment = b"with a comment"
    return file.getvalue()


def pack_tar(tree: Tree, form: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, data in tree.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5  # a fraction makes a pax header
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def halves(packer: Callable[[bytes], bytes], data: bytes) -> bytes:
    """Packed as two streams, one after the other: pigz, pbzip2 and zstd -T0 write such."""
    return packer(data[: len(data) // 2]) + packer(data[len(data) // 2 :])


def zst(data: bytes) -> bytes:
    return bytes(pyarrow.compress(data, codec="zstd", asbytes=True))


PACKERS: dict[str, Callable[[Tree], bytes]] = {
    "zip": pack_zip,
    "zip, stored": lambda tree: pack_zip(tree, zipfile.ZIP_STORED),
    "zip, sizes behind": pack_zip_stream,
    "zip64": pack_zip64,
    "tar, pax": pack_tar,
    "tar, GNU": lambda tree: pack_tar(tree, tarfile.GNU_FORMAT),
    "tar.gz": lambda tree: gzip.compress(pack_tar(tree)),
    "tar.gz, two streams": lambda tree: halves(gzip.compress, pack_tar(tree)),
    "tar.bz2": lambda tree: bz2.compress(pack_tar(tree)),
    "tar.bz2, two streams": lambda tree: halves(bz2.compress, pack_tar(tree)),
    "tar.xz": lambda tree: lzma.compress(pack_tar(tree)),
    "tar.xz, two streams": lambda tree: halves(lzma.compress, pack_tar(tree)) + bytes(8),
    "tar.zst": lambda tree: zst(pack_tar(tree)),
    "tar.zst, two frames": lambda tree: b"\x50\x2a\x4d\x18\x04\0\0\0note" + halves(zst, pack_tar(tree)),
}


def files_in(folder: Path) -> Tree:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def archive(folder: Path, tree: Tree, name: str = "a.zip", packer: Callable[[Tree], bytes] = pack_zip) -> Path:
    (folder / name).write_bytes(packer(tree))
    return folder / name


# What comes out

CLASSES = {
    "train/cat/1.jpg": b"a cat",
    "train/dog/1.jpg": b"a dog",
    "test/cat/1.jpg": b"",
    "labels.csv": b"path,label\n",
}


@pytest.mark.parametrize("form", PACKERS)
def test_every_format(form: str, tmp_path: Path) -> None:
    tree = {**CLASSES, "train/cat/" + "long " * 40 + ".jpg": os.urandom(700_000), "train/köter/猫.jpg": b"x" * 513}
    given_ = archive(tmp_path, tree, "a", PACKERS[form])
    done = unpack(given_, tmp_path / "new" / "into")
    assert files_in(tmp_path / "new" / "into") == tree
    assert done == UnpackResult(tmp_path / "new" / "into", len(tree), sum(map(len, tree.values())), ())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "new"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["into"]


NAMES = st.from_regex(r"\A[a-z0-9äö猫 _()+-]{0,60}[a-z0-9_]{1,60}\Z")
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=4).map(lambda parts: "/".join(part + "_" for part in parts) + ".jpg"),
    st.binary(max_size=1200),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=TREES, form=st.sampled_from(sorted(PACKERS)))
def test_what_was_packed_comes_out(tree: Tree, form: str, tmp_path: Path) -> None:
    """Against Python's own packers, for any names and bytes."""
    into = tmp_path / "into"
    unpack(archive(tmp_path, tree, "a", PACKERS[form]), into)
    assert files_in(into) == tree
    shutil.rmtree(into)


def test_tar_of_a_folder_itself(tmp_path: Path) -> None:
    """As `tar -cf a.tar .` and a cluster's folders (set-group-id) make it."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT) as out:
        for name in (".", "./cat", "./cat/empty"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o2775
            out.addfile(info)
        info = tarfile.TarInfo("./cat/" + "x" * 90 + "/1.jpg")  # ustar's prefix
        info.size = 3
        out.addfile(info, io.BytesIO(b"abc"))
    unpack(tmp_path / "a.tar", tmp_path / "into")
    assert files_in(tmp_path / "into") == {"cat/" + "x" * 90 + "/1.jpg": b"abc"}
    assert (tmp_path / "into" / "cat" / "empty").is_dir()


def test_padding_behind_a_tar(tmp_path: Path) -> None:
    data = pack_tar({"1.jpg": b"1"})
    for name, padding in (("a.tar", 900_000), ("b.tar", 2_000_000)):
        (tmp_path / name).write_bytes(data + bytes(padding))
    unpack(tmp_path / "a.tar", tmp_path / "into")
    with pytest.raises(BadArchive) as caught:
        unpack(tmp_path / "b.tar", tmp_path / "b")
    assert str(caught.value) == (
        f"{tmp_path / 'b.tar'}: has more than 1,048,576 bytes of padding at its end.\n"
        "  This looks deliberate. If you trust the archive, unpack it with another program."
    )


@pytest.mark.parametrize("raw", [b"caf\x82.jpg", "café.jpg".encode()])
def test_names_of_a_zip_that_does_not_say_how_they_are_written(raw: bytes, tmp_path: Path) -> None:
    """The code page of DOS, or UTF-8 without saying so, as Macs write it."""
    data = pack_zip({"x" * len(raw): b"1"}).replace(b"x" * len(raw), raw)
    (tmp_path / "a.zip").write_bytes(data)
    unpack(tmp_path / "a.zip", tmp_path / "into")
    assert files_in(tmp_path / "into") == {"café.jpg": b"1"}


def renamed(tree: dict[bytes, bytes], *, extra: bool = False) -> bytes:
    """A zip with these bytes as names, which does not say how they are encoded; or does so in a Unicode field (GBK)."""
    file = io.BytesIO()
    stand_ins = {raw: f"{n}" + "x" * (len(raw) - 1) for n, raw in enumerate(tree)}
    with zipfile.ZipFile(file, "w") as packed:
        for raw, data in tree.items():
            info = zipfile.ZipInfo(stand_ins[raw])
            name = raw.decode("gbk").encode() if extra else b""
            info.extra = struct.pack("<2HBL", 0x7075, 5 + len(name), 1, zlib.crc32(raw)) + name if extra else b""
            packed.writestr(info, data)
    text = file.getvalue()
    for raw, stand_in in stand_ins.items():
        text = text.replace(stand_in.encode(), raw)
    return text


def test_names_of_a_zip_are_all_read_in_one_encoding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tree = {name.encode("gbk"): b"x" for name in ("猫/1.jpg", "猫/照片.jpg", "狗/1.jpg")}
    (tmp_path / "a.zip").write_bytes(renamed(tree))
    unpack(tmp_path / "a.zip", tmp_path / "into")
    assert set(files_in(tmp_path / "into")) == {"├¿/1.jpg", "├¿/╒╒╞¼.jpg", "╣╖/1.jpg"}
    assert caplog.messages == [
        f"{tmp_path / 'a.zip'}: does not say how its names are encoded, and they are not UTF-8: they are read as code page "
        "437, such as '├¿/╒╒╞¼.jpg'. If that is wrong, unpack it with a program that can be told the encoding, and give the "
        "resulting folder."
    ]
    (tmp_path / "b.zip").write_bytes(renamed(tree, extra=True))
    unpack(tmp_path / "b.zip", tmp_path / "of b")
    assert set(files_in(tmp_path / "of b")) == {"猫/1.jpg", "猫/照片.jpg", "狗/1.jpg"}
    assert len(caplog.messages) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="a name that is not Unicode exists on Linux only")
def test_names_of_a_tar_that_are_not_unicode_keep_their_bytes(tmp_path: Path) -> None:
    data = pack_tar({"xxx.jpg": b"1"}, tarfile.GNU_FORMAT)
    header = bytearray(data[:512].replace(b"xxx", b"a\xe9b"))
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    (tmp_path / "a.tar").write_bytes(bytes(header) + data[512:])
    unpack(tmp_path / "a.tar", tmp_path / "into")
    assert os.listdir(os.fsencode(tmp_path / "into")) == [b"a\xe9b.jpg"]


def test_what_systems_add_is_left_out(tmp_path: Path) -> None:
    junk = ["__MACOSX/cat/._1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "cat/._1.jpg", "desktop.ini"]
    done = unpack(archive(tmp_path, {"cat/1.jpg": b"1", **dict.fromkeys(junk, b"x")}), tmp_path / "into")
    assert files_in(tmp_path / "into") == {"cat/1.jpg": b"1"}
    assert (done.files, done.bytes, done.left_out) == (1, 1, tuple(junk))


def test_an_unpacked_archive_opens_as_a_dataset(tmp_path: Path, photos: Path) -> None:
    shutil.make_archive(str(tmp_path / "photos"), "gztar", photos)
    dataset = open_dataset(unpacked(tmp_path / "photos.tar.gz"))
    assert len(dataset) == 42
    assert dataset.classes == ("class0", "class1", "class2")


# Archives in archives


def test_kaggle_style(tmp_path: Path) -> None:
    inner = {
        "train.zip": pack_zip(
            {"train/cat.0.jpg": b"cat", "train/dog.0.jpg": b"dog"}
        ),  # becomes train/, not train/train/
        "test.zip": pack_zip({"1.jpg": b"1", "2.jpg": b"2"}),
        "labels.csv.zip": pack_zip({"labels.csv": b"id,label\n"}),
        "sample_submission.csv": b"id,label\n",
    }
    done = unpack(archive(tmp_path, inner), tmp_path / "into")
    assert files_in(tmp_path / "into") == {
        "train/cat.0.jpg": b"cat",
        "train/dog.0.jpg": b"dog",
        "test/1.jpg": b"1",
        "test/2.jpg": b"2",
        "labels.csv": b"id,label\n",
        "sample_submission.csv": b"id,label\n",
    }
    assert (done.files, done.bytes) == (6, 26)


def test_tars_of_classes_in_a_tar(tmp_path: Path) -> None:
    """As ImageNet comes."""
    inner = {f"train/n0{k}.tar": pack_tar({f"n0{k}_{i}.JPEG": b"x" for i in range(2)}) for k in range(3)}
    unpack(archive(tmp_path, inner, "train.tar", pack_tar), tmp_path / "into")
    assert sorted(files_in(tmp_path / "into")) == [f"train/n0{k}/n0{k}_{i}.JPEG" for k in range(3) for i in range(2)]


KEPT = {
    "a.docx": pack_zip({"a": b"1"}),
    "b.npz": pack_zip({"a": b"1"}),
    "c.csv.gz": gzip.compress(b"1"),
    "notes.tgz": gzip.compress(b"1"),
    "d.7z": b"7z\xbc\xaf\x27\x1c rest",
    "e.zip": b"not one at all",
    "shard-000001.tar": pack_tar({"1.jpg": b"1", "1.cls": b"0"}),
    "empty.zip": pack_zip({}),
}


def test_what_else_looks_like_an_archive_stays_as_it_is(tmp_path: Path) -> None:
    unpack(archive(tmp_path, KEPT), tmp_path / "into")
    assert files_in(tmp_path / "into") == KEPT


def test_levels(tmp_path: Path) -> None:
    one = pack_zip({"1.jpg": b"1"})
    two = pack_zip({"b.zip": one})
    place = archive(tmp_path, {"a.zip": two})
    for levels, expected in ((0, {"a.zip": two}), (1, {"a/b.zip": one}), (2, {"a/b/1.jpg": b"1"})):
        unpack(place, tmp_path / str(levels), nested=levels)
        assert files_in(tmp_path / str(levels)) == expected


def test_an_inner_archive_beside_its_contents_stays_packed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As in a zip of a Kaggle folder in which train.zip was unpacked and kept: else "train" would be a class."""
    inner = {
        **{f"train/{name}/{n}.jpg": b"1" for n, name in enumerate(("cat", "dog"))},
        "train.zip": pack_zip({"train/cat/0.jpg": b"1"}),
        "test.zip": pack_zip({"cat/5.jpg": b"1", "dog/6.jpg": b"1"}),
    }
    place = archive(tmp_path, inner)
    folder = unpacked(place)
    assert set(files_in(folder)) == {
        "train/cat/0.jpg",
        "train/dog/1.jpg",
        "train.zip",
        "test/cat/5.jpg",
        "test/dog/6.jpg",
    }
    assert f"{place}: 'train.zip' stays packed: 'train', beside it, may be its contents." in caplog.messages
    data = open_dataset(folder)
    assert (data.classes, data.split.tolist()) == (("cat", "dog"), ["test", "test", "train", "train"])


def test_a_damaged_inner_archive_is_named(tmp_path: Path) -> None:
    for inner, data, problem in (
        ("photos.zip", pack_zip({"1.jpg": b"1"})[:-30], "it has no end record"),
        (
            "photos.tgz",
            gzip.compress(bytes(1000))[:20],
            "Compressed file ended before the end-of-stream marker was reached",
        ),
    ):
        place = archive(tmp_path, {"cat/1.jpg": b"1", inner: data})
        with pytest.raises(BadArchive) as caught:
            unpack(place, tmp_path / "into")
        assert str(caught.value) == (
            f"{place}: {inner!r}: is damaged or truncated: {problem}.\n"
            "  Nothing was unpacked. Download or copy the archive again.\n"
            "  If the archive inside it cannot be replaced, unpack the outer one with another program and give the folder."
        )


# What is said

ZIP = pack_zip({"1.jpg": b"1"})
LOGIN = "If the site needs a login, the download may be its login page: download the file in a browser."
AGAIN = "If it should be an archive, download or copy it again."
REFUSED: dict[str, tuple[bytes, str, str]] = {
    "a.7z": (
        b"7z\xbc\xaf\x27\x1c\0\4",
        "is a 7z archive, which headstart does not read.",
        "Unpack it (7z x a.7z) and give the resulting folder, or a zip of it.",
    ),
    "a.rar": (
        b"Rar!\x1a\x07\x01\0",
        "is a rar archive, which headstart does not read.",
        "Unpack it (unrar x a.rar) and give the resulting folder, or a zip of it.",
    ),
    "labels.csv.gz": (
        gzip.compress(b"path,label\n"),
        "is a single file compressed with gzip, not an archive.",
        "Decompress it first (gunzip -k labels.csv.gz) and give the result.",
    ),
    "labels.csv.zst": (
        zst(b"path,label\n"),
        "is a single file compressed with zstd, not an archive.",
        "Decompress it first (unzstd labels.csv.zst) and give the result.",
    ),
    "login.zip": (b"\n<!DOCTYPE html><html>", "is a web page; expected a zip or a tar.", LOGIN),
    "nothing.zip": (b"", "is empty; expected a zip or a tar.", AGAIN),
    "cat.zip": (b"\xff\xd8\xff", "is not a known archive format; expected a zip or a tar.", AGAIN),
    "empty.zip": (pack_zip({}), "contains no files.", "Check that the right folder was packed."),
    "empty.tar.gz": (gzip.compress(pack_tar({})), "contains no files.", "Check that the right folder was packed."),
    "junk.zip": (pack_zip({".DS_Store": b"1"}), "contains no files.", "Check that the right folder was packed."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_unpacked(name: str, tmp_path: Path) -> None:
    data, message, hint = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadArchive) as caught:
        unpack(tmp_path / name, tmp_path / "into")
    assert (caught.value.message, caught.value.hint) == (f"{tmp_path / name}: {message}", hint)
    assert os.listdir(tmp_path) == [name]


def test_no_such_file(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(ZIP)
    with pytest.raises(MissingData) as caught:
        unpacked(tmp_path / "photo.zip")
    assert str(caught.value) == f"{tmp_path / 'photo.zip'}: there is no such file.\n  Did you mean 'photos.zip'?"
    with pytest.raises(MissingData) as caught:
        unpack(tmp_path, tmp_path / "into")
    assert caught.value.message == f"{tmp_path}: is a folder or a device; expected an archive."


@pytest.mark.parametrize("what", ["a folder", "a file"])
def test_the_place_must_be_free(what: str, tmp_path: Path) -> None:
    place = archive(tmp_path, {"1.jpg": b"1"})
    (tmp_path / "into").mkdir() if what == "a folder" else (tmp_path / "into").write_bytes(b"")
    with pytest.raises(WriteError) as caught:
        unpack(place, tmp_path / "into")
    assert str(caught.value) == (
        f"{tmp_path / 'into'}: already exists; a new folder would be written there.\n  Choose another name."
    )


def test_is_archive_goes_by_the_first_bytes(tmp_path: Path) -> None:
    yes = [pack({"1.jpg": b"1"}) for pack in PACKERS.values()] + [data for data, *_ in list(REFUSED.values())[:4]]
    no = [b"", b"path,label\n", b"PAR1", b"\x89PNG\r\n", b"PK", bytes(1024), b"x" * 2000]
    for expected, contents in ((True, yes), (False, no)):
        for data in contents:
            (tmp_path / "labels.csv").write_bytes(data)
            assert is_archive(tmp_path / "labels.csv") is expected, data[:20]
    assert not is_archive(tmp_path)
    assert not is_archive(tmp_path / "missing.zip")
    os.mkfifo(tmp_path / "pipe.zip")
    assert not is_archive(tmp_path / "pipe.zip")


# Limits


def test_limits() -> None:
    assert limits_for(1000, 1 << 50).bytes == ALWAYS_BYTES
    assert limits_for(1 << 30, 1 << 50).bytes == 100 << 30
    assert limits_for(1 << 30, 1000) == Limits(MAX_ENTRIES, 900, "the disk has 1,000 left")


def test_what_does_not_fit_on_the_disk_is_refused() -> None:
    members = [Member("a.jpg", "file", 600, 600), Member("b.jpg", "file", 600, 600)]
    with pytest.raises(BadArchive) as caught:
        check_members("a.zip", members, limits_for(1 << 30, 1000))
    assert caught.value.message == "a.zip: would take more than 900 bytes unpacked; the disk has 1,000 left."
    assert check_members("a.zip", members, limits_for(1 << 30, 2000)).bytes == 1200


RUN = "import sys; from pathlib import Path; from headstart.data.archives.unpacking import unpack, unpacked; "


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    archive(tmp_path, {"1.jpg": b"1", "2.jpg": bytes(100_000)})
    code = RUN + (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); unpack(Path('a.zip'), Path('into'))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "headstart.errors.WriteError: into/2.jpg: could not be written: File too large." in done.stderr
    assert os.listdir(tmp_path) == ["a.zip"]


# The cache


def contents_of_cache() -> list[str]:
    return sorted(path.name for path in (cache_dir() / "unpacked").iterdir() if path.name != "known")


def test_the_cache_is_found_again(tmp_path: Path) -> None:
    place = archive(tmp_path, {"cat/1.jpg": b"1"})
    first = unpacked(place)
    assert files_in(first) == {"cat/1.jpg": b"1"}
    stamp = (first / "cat" / "1.jpg").stat().st_ino
    shutil.copy(place, tmp_path / "copy.zip")
    assert unpacked(tmp_path / "copy.zip") == unpacked(place) == first
    assert (first / "cat" / "1.jpg").stat().st_ino == stamp
    assert len(contents_of_cache()) == 1


def test_an_archive_that_changed_is_unpacked_anew(tmp_path: Path) -> None:
    first = unpacked(archive(tmp_path, {"1.jpg": b"1"}))
    second = unpacked(archive(tmp_path, {"1.jpg": b"2"}))
    assert (files_in(first), files_in(second)) == ({"1.jpg": b"1"}, {"1.jpg": b"2"})


def test_the_hash_is_remembered_by_size_and_time(tmp_path: Path) -> None:
    place = archive(tmp_path, {"1.jpg": b"1"})
    known = cache_dir() / "unpacked" / "known"
    unpacked(place)
    assert not known.exists()  # it changed a moment ago: its time may not tell another change
    os.utime(place, (time.time() - 60,) * 2)
    unpacked(place)
    [note] = known.iterdir()
    other = archive(tmp_path, {"1.jpg": b"2"}, "b.zip")
    facts = json.loads(note.read_text())
    facts["sha256"] = sha256_file(other)
    note.write_text(json.dumps(facts))
    assert files_in(unpacked(other)) == files_in(unpacked(place)) == {"1.jpg": b"2"}  # it was believed
    for damage in ("{", "[]", '{"facts": 1}'):
        note.write_text(damage)
        assert files_in(unpacked(place)) == {"1.jpg": b"1"}


@pytest.mark.parametrize("damage", ["a file gone", "a file cut", "a file more", "note gone", "note broken"])
def test_a_cache_that_is_not_whole_is_made_again(damage: str, tmp_path: Path) -> None:
    place = archive(tmp_path, {"1.jpg": b"1", "2.jpg": b"22"})
    folder = unpacked(place)
    if damage == "a file gone":
        (folder / "1.jpg").unlink()
    elif damage == "a file cut":
        (folder / "2.jpg").write_bytes(b"2")
    elif damage == "a file more":
        (folder / "3.jpg").write_bytes(b"")
    elif damage == "note gone":
        (folder.parent / "unpacked.json").unlink()
    else:
        (folder.parent / "unpacked.json").write_text("{")
    assert files_in(unpacked(place)) == {"1.jpg": b"1", "2.jpg": b"22"}
    assert len(contents_of_cache()) == 1


def test_what_a_system_adds_to_the_cache_does_not_count(tmp_path: Path) -> None:
    folder = unpacked(archive(tmp_path, {"cat/1.jpg": b"1"}))
    for name in (".DS_Store", "cat/Thumbs.db", "cat/._1.jpg"):
        (folder / name).write_bytes(b"added")
    assert (unpacked(tmp_path / "a.zip") / "cat/Thumbs.db").read_bytes() == b"added"


def test_a_refused_archive_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(BadArchive):
        unpacked(archive(tmp_path, {"../1.jpg": b"1"}))
    assert contents_of_cache() == []


def test_several_may_ask_at_once(tmp_path: Path) -> None:
    tree = {f"{n}.jpg": bytes(n) for n in range(200)}
    place = archive(tmp_path, tree)
    command = [sys.executable, "-c", RUN + "print(unpacked(Path(sys.argv[1])))", str(place)]
    with ThreadPoolExecutor(3) as threads:
        outputs = list(threads.map(lambda _: subprocess.run(command, capture_output=True, text=True), range(3)))
    assert [done.stderr for done in outputs] == ["", "", ""]
    [folder] = {done.stdout.strip() for done in outputs}
    assert files_in(Path(folder)) == tree
    assert len(contents_of_cache()) == 1


def test_what_a_killed_process_left_is_never_taken(tmp_path: Path) -> None:
    tree = {f"{n:05}.jpg": bytes(10) for n in range(6_000)}
    place = archive(tmp_path, tree, packer=lambda tree: pack_zip(tree, zipfile.ZIP_STORED))
    process = subprocess.Popen([sys.executable, "-c", RUN + "unpacked(Path(sys.argv[1]))", str(place)])
    home = cache_dir() / "unpacked"
    while not list(home.glob(".*/.files*/000*.jpg")):
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [name for name in contents_of_cache() if not name.endswith(".part")] == []
    assert sum(1 for _ in unpacked(place).iterdir()) == 6_000


@pytest.mark.parametrize("cached", [False, True])
def test_files_that_vanish_while_it_is_unpacked_are_an_error(
    cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a program that cleans up takes the unfinished folder for a forgotten one."""
    place = archive(tmp_path, {"cat/1.jpg": b"1", "cat/2.jpg": b"22", "dog/3.jpg": b"333"})
    into = cache_dir() / "unpacked" / f"2-{sha256_file(place)[:32]}" / "files" if cached else tmp_path / "into"

    def write_and_remove(path: Path, pieces: Iterable[bytes]) -> int:
        if path.name == "3.jpg":
            shutil.rmtree(path.parents[1])
        return write_pieces(path, pieces)

    monkeypatch.setattr(unpacking, "write_pieces", write_and_remove)
    with pytest.raises(WriteError) as caught:
        unpacked(place) if cached else unpack(place, into)
    assert caught.value.message == (
        f"{into}: 3 files (6 bytes) were written, but 1 (3 bytes) are there: another program has removed or changed some."
    )
    assert caught.value.hint.startswith("Run the same command again.")
    assert not into.exists()


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    tree = {f"{n:05}.jpg": bytes(10) for n in range(6_000)}
    place = archive(tmp_path, tree, packer=lambda tree: pack_zip(tree, zipfile.ZIP_STORED))
    command = [sys.executable, "-c", RUN + "unpack(Path(sys.argv[1]), Path('into'))", str(place)]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".into*/000*.jpg")):
        assert process.poll() is None, "it ended before it was stopped"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate()[1]
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_cache_that_may_not_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_bytes(b"")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    place = archive(tmp_path, {"1.jpg": b"1"})
    with pytest.raises(WriteError) as caught:
        unpacked(place)
    assert caught.value.hint.endswith("\nHEADSTART_CACHE=DIR moves the cache elsewhere.")


# Real ones


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cats-dogs", "intel-scenes"])
def test_real_archives(name: str, shared: Path, tmp_path: Path) -> None:
    place = shared / "data" / f"{name}.zip"
    unpack(place, tmp_path / "into")
    with zipfile.ZipFile(place) as given_:
        expected = {info.filename: given_.read(info) for info in given_.infolist() if not info.is_dir()}
    assert files_in(tmp_path / "into") == expected
