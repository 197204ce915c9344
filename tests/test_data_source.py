"""Whatever images and labels come in, they come out as the same data set; what cannot be taken up says why."""

from __future__ import annotations

import doctest
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import headstart
import headstart.data.data_source as sources_module
import headstart.data.dataset as images_module
import headstart.data.match_files as naming_module
import headstart.data.shards.samples as samples_module
import headstart.data.shards.webdataset as webdataset_module
import headstart.data.shards.writing as shards_module
from conftest import draw
from headstart.data.data_source import DataSource, as_source
from headstart.data.dataset import Dataset, fingerprint
from headstart.data.open_dataset import open_dataset
from headstart.errors import BadArchive, BadLabels, HeadstartError, MissingData, WriteError
from headstart.io.files import cache_dir


def image(n: int) -> bytes:
    """The bytes of a small JPEG, each another."""
    file = io.BytesIO()
    draw(n % 2, n, (24, 20)).save(file, "JPEG")
    return file.getvalue()


IMAGES = [image(n) for n in range(6)]
LABELS = ["cat", "dog", "cat", "dog", "cat", "dog"]
SIDES = ["train", "train", "train", "train", "test", "test"]
EXPECTED = {sha256(data).hexdigest(): label for data, label in zip(IMAGES, LABELS, strict=True)}
SPLIT = {sha256(data).hexdigest(): side for data, side in zip(IMAGES, SIDES, strict=True)}


def found(data: Dataset) -> dict[str, str]:
    """{hash of a file: its label}."""
    return {sha256(data.file(i).read_bytes()).hexdigest(): data.label_name(i) for i in range(len(data))}


def split_of(data: Dataset) -> dict[str, str]:
    return {sha256(data.file(i).read_bytes()).hexdigest(): str(data.split[i]) for i in range(len(data))}


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def loose(suffix: str = ".jpg") -> dict[str, bytes | str]:
    return {f"{n}{suffix}": data for n, data in enumerate(IMAGES)}


def rows(header: str, line: Callable[[int], str]) -> str:
    return "\n".join([header, *(line(n) for n in range(6))]) + "\n"


def in_classes() -> dict[str, bytes | str]:
    return {f"{LABELS[n]}/{n}.jpg": data for n, data in enumerate(IMAGES)}


def in_sides() -> dict[str, bytes | str]:
    return {f"{SIDES[n]}/{LABELS[n]}/{n}.jpg": data for n, data in enumerate(IMAGES)}


def tar_bytes(files: dict[str, bytes | str], mode: str = "w") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zip_bytes(files: dict[str, bytes | str]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def parquet(path: Path, columns: dict[str, Any], schema: Any = None) -> Path:
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns, schema=schema), path, row_group_size=2)
    return path


def hf(path: Path, which: list[int], **more: Any) -> Path:
    """As Hugging Face writes an image data set: a struct of bytes and path, and numbers whose names are metadata."""
    import pyarrow as pa

    feature = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={b"huggingface": json.dumps({"info": {"features": feature}}).encode()},
    )
    images = [{"bytes": IMAGES[n], "path": f"{LABELS[n]}.{n}.jpg"} for n in which]
    labels = [["cat", "dog"].index(LABELS[n]) for n in which]
    return parquet(path, {"image": images, "label": labels, **more}, schema)


def samples(which: list[int], field: str, value: Callable[[int], str]) -> dict[str, bytes | str]:
    files: dict[str, bytes | str] = {}
    for n in which:
        files |= {f"{n:04}.{field}": value(n), f"{n:04}.jpg": IMAGES[n]}
    return files


def of_split_shards(p: Path) -> Path:
    hf(p / "data" / "train-00000-of-00002.parquet", [0, 1])
    hf(p / "data" / "train-00001-of-00002.parquet", [2, 3])
    hf(p / "data" / "test-00000-of-00001.parquet", [4, 5])
    return write(p, {"README.md": "# photos"})


def of_tars(p: Path, name: str = "shard-{:06}.tar") -> Path:
    shards = {name.format(k): tar_bytes(samples([2 * k, 2 * k + 1], "cls", LABELS.__getitem__)) for k in range(3)}
    return write(p, dict(shards))


def metadata(n: int) -> str:
    return json.dumps({"file_name": f"{n}.jpg", "label": LABELS[n], "width": 24})


ADAPTERS: dict[str, Callable[[Path], Path | DataSource]] = {
    "class folders": lambda p: write(p, in_classes()),
    "split folders": lambda p: write(p, in_sides()),
    "CSV": lambda p: write(p, loose() | {"t.csv": rows("path,label", lambda n: f"{n}.jpg,{LABELS[n]}")}) / "t.csv",
    "TSV": lambda p: write(p, loose() | {"t.tsv": rows("file\tclass", lambda n: f"{n}.jpg\t{LABELS[n]}")}) / "t.tsv",
    "parquet of paths": lambda p: parquet(
        write(p, loose()) / "t.parquet", {"path": [f"{n}.jpg" for n in range(6)], "label": LABELS}
    ),
    "columns by name": lambda p: DataSource(
        write(p, loose() | {"t.csv": rows("a,b,c", lambda n: f"z,{LABELS[n]},{n}.jpg")}) / "t.csv",
        label_column="b",
        path_column="c",
    ),
    "a column per class": lambda p: (
        write(p, loose() | {"t.csv": rows("id,cat,dog", lambda n: f"{n},{1 - n % 2},{n % 2}")}) / "t.csv"
    ),
    "JSON Lines": lambda p: write(p, loose() | {"t.jsonl": "\n".join(map(metadata, range(6)))}) / "t.jsonl",
    "file names": lambda p: DataSource(
        write(p, {f"{LABELS[n]}{n}x.jpg": data for n, data in enumerate(IMAGES)}), label_from="^(cat|dog)"
    ),
    "file names, by the group label": lambda p: DataSource(
        write(p, {f"a/{n}_my {LABELS[n]}!.jpg": data for n, data in enumerate(IMAGES)}),
        label_from="(my) (?P<label>[a-z]+)",
    ),
    "file names in a table": lambda p: DataSource(
        write(
            p,
            {f"{LABELS[n]}{n}x.jpg": data for n, data in enumerate(IMAGES)}
            | {"t.csv": rows("path,breed,age", lambda n: f"{LABELS[n]}{n}x.jpg,odd,{n}")},
        )
        / "t.csv",
        label_from="^(cat|dog)",
    ),
    "zip of class folders": lambda p: write(p, {"a.zip": zip_bytes(in_classes())}) / "a.zip",
    "tar.gz of split folders": lambda p: write(p, {"a.tar.gz": tar_bytes(in_sides(), "w:gz")}) / "a.tar.gz",
    "tar of a wrapped table": lambda p: (
        write(
            p,
            {
                "a.tar": tar_bytes(
                    {f"photos/{name}": data for name, data in loose().items()}
                    | {"photos/labels.csv": rows("id,label", lambda n: f"{n},{LABELS[n]}")}
                )
            },
        )
        / "a.tar"
    ),
    "zip and file names": lambda p: DataSource(
        write(p, {"a.zip": zip_bytes({f"x/{LABELS[n]}-{n}.jpg": data for n, data in enumerate(IMAGES)})}) / "a.zip",
        label_from="^[a-z]+",
    ),
    "Hugging Face metadata.csv": lambda p: write(
        p, loose() | {"metadata.csv": rows("file_name,label,width", lambda n: f"{n}.jpg,{LABELS[n]},24")}
    ),
    "Hugging Face metadata.jsonl in split folders": lambda p: write(
        p,
        {f"{SIDES[n]}/{n}.jpg": data for n, data in enumerate(IMAGES)}
        | {"train/metadata.jsonl": "\n".join(metadata(n) for n in range(4)) + "\n\n"}
        | {"test/metadata.jsonl": "\n".join(metadata(n) for n in (4, 5))},
    ),
    "Hugging Face metadata.parquet": lambda p: (
        parquet(
            write(p, {f"images/{name}": data for name, data in loose().items()}) / "metadata.parquet",
            {"file_name": [f"images/{n}.jpg" for n in range(6)], "label": LABELS},
        ).parent
    ),
    "parquet with images": lambda p: hf(p / "t.parquet", list(range(6))),
    "parquet with plain bytes": lambda p: parquet(p / "t.parquet", {"jpg": IMAGES, "label": LABELS, "n": [1] * 6}),
    "parquet with images and file names": lambda p: DataSource(
        hf(p / "t.parquet", list(range(6))), label_from=r"^(\w+)\."
    ),
    "folder of parquet shards": of_split_shards,
    "parquet shards by braces": lambda p: DataSource(
        hf(p / "t-2.parquet", [4, 5]).parent / hf(p / "t-1.parquet", [0, 1, 2, 3]).name.replace("1", "{1..2}")
    ),
    "parquet with a split column": lambda p: parquet(
        p / "t.parquet", {"image": IMAGES, "label": LABELS, "split": SIDES}
    ),
    "WebDataset": lambda p: write(p, {"s.tar": tar_bytes(samples([*range(6)], "cls", LABELS.__getitem__))}) / "s.tar",
    "WebDataset with .txt": lambda p: (
        write(p, {"s.tar": tar_bytes(samples([*range(6)], "txt", lambda n: f"{LABELS[n]}\n"))}) / "s.tar"
    ),
    "WebDataset with .json, packed": lambda p: (
        write(p, {"s.tar.gz": tar_bytes(samples([*range(6)], "json", metadata), "w:gz")}) / "s.tar.gz"
    ),
    "WebDataset by a key": lambda p: DataSource(
        write(p, {"s.tar": tar_bytes(samples([*range(6)], "json", lambda n: json.dumps({"k": LABELS[n]})))}) / "s.tar",
        label_column="k",
    ),
    "WebDataset shards by braces": lambda p: of_tars(p) / "shard-{000000..000002}.tar",
    "folder of WebDataset shards": of_tars,
    "zip of WebDataset shards": lambda p: (
        write(p, {"a.zip": zip_bytes({f.name: f.read_bytes() for f in of_tars(p / "s").iterdir()})}) / "a.zip"
    ),
    "split folders of WebDataset shards": lambda p: write(
        p,
        {
            f"{side}/0.tar": tar_bytes(samples(which, "cls", LABELS.__getitem__))
            for side, which in (("train", [0, 1, 2, 3]), ("test", [4, 5]))
        },
    ),
}
"""Each holds the six images with their labels."""
WITH_SPLIT = {
    *("split folders", "tar.gz of split folders", "Hugging Face metadata.jsonl in split folders"),
    *("folder of parquet shards", "parquet with a split column", "split folders of WebDataset shards"),
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_source_gives_the_same_images_with_the_same_labels(kind: str, tmp_path: Path) -> None:
    data = open_dataset(ADAPTERS[kind](tmp_path / "data"))
    assert found(data) == EXPECTED
    assert data.classes == ("cat", "dog")
    assert data.lost == {}
    assert split_of(data) == (SPLIT if kind in WITH_SPLIT else dict.fromkeys(EXPECTED, ""))


@pytest.mark.parametrize("kind", ["zip of class folders", "parquet with images", "WebDataset"])
def test_what_was_written_out_once_is_taken_again(kind: str, tmp_path: Path) -> None:
    given = ADAPTERS[kind](tmp_path / "data")
    first, again = open_dataset(given), open_dataset(given)
    assert (first.root, first.paths) == (again.root, again.paths)
    assert first.root.is_relative_to(cache_dir() / "unpacked")
    first.file(0).unlink()
    assert found(open_dataset(given)) == EXPECTED


def test_examples() -> None:
    modules = (naming_module, images_module, samples_module, shards_module, sources_module, webdataset_module)
    assert [doctest.testmod(module).failed for module in modules] == [0] * 6


# Source


def test_a_source_is_described_and_comes_back(tmp_path: Path) -> None:
    source = DataSource(tmp_path, label_from="^(a|b)", path_column="x")
    assert source.as_dict() == {
        "place": str(tmp_path),
        "label_from": "^(a|b)",
        "label_column": "",
        "path_column": "x",
        "group_column": "",
        "group_from": "",
        "classes": "",
    }
    assert DataSource.from_dict(json.loads(json.dumps(source.as_dict()))) == source
    assert DataSource.from_dict({"place": "photos"}) == as_source("photos") == as_source(Path("photos"))
    assert as_source(source) is source


def test_a_source_takes_its_place_as_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, {"f/cat1x.jpg": IMAGES[0], "f/dog1x.jpg": IMAGES[1]})
    write(tmp_path, {"train.zip": zip_bytes({"cat1x.jpg": IMAGES[0], "dog1x.jpg": IMAGES[1]})})
    monkeypatch.chdir(tmp_path)
    for place in ("f", "train.zip"):
        source = DataSource(place, label_from="^(cat|dog)")  # type: ignore[arg-type]
        assert source == DataSource(Path(place), label_from="^(cat|dog)")
        assert headstart.check(source).classes == {"cat": 1, "dog": 1}
    write(tmp_path / "photos", in_classes())
    assert headstart.check(headstart.DataSource("photos")).classes == {"cat": 3, "dog": 3}  # type: ignore[arg-type]


def test_a_folder_and_its_archive_have_one_fingerprint(tmp_path: Path) -> None:
    folder, archive = write(tmp_path / "f", in_sides()), write(tmp_path, {"a.zip": zip_bytes(in_sides())}) / "a.zip"
    one, other = open_dataset(folder), open_dataset(archive)
    assert one.paths == other.paths
    hashes = [sha256(one.file(i).read_bytes()).hexdigest() for i in range(6)]
    assert fingerprint(one, hashes) == fingerprint(other, hashes)


def test_what_open_dataset_is_told_wins(tmp_path: Path) -> None:
    folder = write(tmp_path, {"cat_a.jpg": b"x", "dog_b.jpg": b"x"})
    assert open_dataset(folder).classes == ()
    assert open_dataset(folder, label_from="^[a-z]+").classes == ("cat", "dog")
    assert open_dataset(DataSource(folder, label_from="^[a-z]+"), label_from="[ab]").classes == ("a", "b")


def test_names_of_shards_do_no_harm(tmp_path: Path) -> None:
    import pyarrow as pa

    names = ["../../etc/1.jpg", "CON", "C:\\x\\2.jpg", "\x00\n.png", "ü" * 300, None]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.string())])
    images = [{"bytes": data, "path": name} for data, name in zip(IMAGES, names, strict=True)]
    data = open_dataset(parquet(tmp_path / "we ird.parquet", {"image": images, "label": LABELS}, schema))
    assert found(data) == EXPECTED
    assert all(re.fullmatch(r"we_ird/00000\d(-\w{1,60})?\.jpg", path) for path in data.paths)
    keys: dict[str, bytes | str] = {}
    for key in ("../up", "/abs", "NUL", "a b"):
        keys |= {f"{key}.jpg": IMAGES[0], f"{key}.cls": "x"}
    data = open_dataset(write(tmp_path, {"s.tar": tar_bytes(keys)}) / "s.tar")
    assert data.paths == ("s/000000-up.jpg", "s/000001-abs.jpg", "s/000002-NUL.jpg", "s/000003-a_b.jpg")


def test_bytes_that_are_paths_are_no_images(tmp_path: Path) -> None:
    names = [f"BMW{n}.jpg".encode() for n in range(6)]
    folder = write(tmp_path, {name.decode(): data for name, data in zip(names, IMAGES, strict=True)})
    assert found(open_dataset(parquet(folder / "t.parquet", {"path": names, "label": LABELS}))) == EXPECTED


def test_withheld_labels_of_hugging_face_are_unknown(tmp_path: Path) -> None:
    hf(tmp_path / "test-0.parquet", [0, 1], label=[-1, -1])
    hf(tmp_path / "train-0.parquet", [2, 3, 4, 5])
    data = open_dataset(tmp_path)
    assert sorted(map(data.label_name, range(6))) == ["", "", "cat", "cat", "dog", "dog"]
    assert set(data.split.tolist()) == {""}


def test_images_without_bytes_are_named(tmp_path: Path) -> None:
    from headstart.images.validate import validate_images

    data = open_dataset(
        parquet(tmp_path / "t.parquet", {"image": [*IMAGES[:2], b"", None], "label": ["a", "b", "a", "b"]})
    )
    assert data.rejected == (("t/000003.bin", "not_a_file"),)
    assert data.paths == ("t/000000.jpg", "t/000001.jpg", "t/000002.bin")
    assert [fact.reason for fact in validate_images([data.file(i) for i in range(3)])] == ["", "", "empty"]
    lone = write(tmp_path / "w", {"s.tar": tar_bytes({"1.jpg": IMAGES[0], "1.cls": "a", "2.cls": "b"})}) / "s.tar"
    assert open_dataset(lone).rejected == (("s/000001-2.jpg", "not_a_file"),)


@pytest.mark.parametrize(
    "names",
    [
        ("a b.parquet", "a_b.parquet"),
        (f"{'long' * 16}-000.parquet", f"{'long' * 16}-001.parquet"),
        ("x/data.parquet", "x/Data.parquet"),
        ("x.tar", "x.parquet"),
    ],
    ids=["blanks", "long", "case", "suffix"],
)
def test_shards_whose_names_become_the_same_are_told_apart(names: tuple[str, str], tmp_path: Path) -> None:
    for which, name in zip(([0, 1, 2], [3, 4, 5]), names, strict=True):
        if name.endswith(".tar"):
            files: dict[str, bytes | str] = {}
            for n, key in zip(which, "éèê", strict=True):
                files |= {f"{key}.jpg": IMAGES[n], f"{key}.cls": LABELS[n]}
            write(tmp_path, {name: tar_bytes(files)})
        else:
            parquet(tmp_path / name, {"image": [IMAGES[n] for n in which], "label": [LABELS[n] for n in which]})
    assert found(open_dataset(tmp_path)) == EXPECTED


def test_two_processes_share_what_is_written_out(tmp_path: Path) -> None:
    place = of_split_shards(tmp_path / "data")
    code = f"from headstart.data.open_dataset import open_dataset as o; d = o({str(place)!r}); print(d.root, len(d))"
    environment = {**os.environ, "HEADSTART_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True) for _ in "ab"
    ]
    told = {process.communicate()[0] for process in started}
    assert len(told) == 1
    assert told.pop().strip().endswith(" 6")
    assert len(list((tmp_path / "cache" / "unpacked").iterdir())) == 1


# What cannot be taken up


def error_of(call: Callable[[], object], kind: type[HeadstartError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def test_patterns_that_are_none_or_match_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path, {f"{n}.jpg": b"x" for n in range(5)})
    assert error_of(lambda: open_dataset(folder, label_from="^(cat"), BadLabels) == (
        "label_from: '^(cat' is not a regular expression: missing ), unterminated subpattern at position 1.\n"
        "  For example: '^(cat|dog)'; the part in parentheses is the label. Write \\( for a literal parenthesis."
    )
    assert error_of(lambda: open_dataset(folder, label_from="^(cat|dog)"), BadLabels) == (
        f"{folder}: label_from '^(cat|dog)' matches none of 5 file names, such as '0.jpg', '1.jpg', '2.jpg' and 2 more.\n"
        "  It is matched against the name of the file, such as '^(cat|dog)'; with a / in it, against the path, such as "
        "'([^/]+)/[^/]+$' for the innermost folder."
    )
    assert error_of(lambda: open_dataset(folder, label_from="x", label_column="y"), BadLabels) == (
        "label_from 'x' and label_column 'y' are both given; give only one.\n"
        "  Give label_from for labels in file names, label_column for those in a table."
    )


def test_file_names_that_do_not_match_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, {**{f"cat{n}.jpg": b"x" for n in range(3)}, **{f"{n}.jpg": b"x" for n in range(4)}})
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(folder, label_from="^cat")
    assert caplog.messages == [
        f"{folder}: 4 of 7 file names have no label by '^cat', such as '0.jpg', '1.jpg', '2.jpg'."
    ]
    assert sorted(data.labels.tolist()) == [-1] * 4 + [0] * 3


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    place = of_tars(tmp_path) / "shard-{000001..000004}.tar"
    assert error_of(lambda: open_dataset(place), MissingData) == (
        f"{place}: 2 of the 4 files that this expands to are missing: 'shard-000003.tar', 'shard-000004.tar'.\n"
        "  Correct the numbers, or give the folder that the shards are in."
    )
    many = tmp_path / "shard-{0..1000000}.tar"
    assert error_of(lambda: open_dataset(many), MissingData) == (
        f"{many}: expands to more than 100,000 files.\n  Give the folder they are in."
    )


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    shard = hf(tmp_path / "t.parquet", [0, 1])
    assert error_of(lambda: open_dataset(shard, label_column="lable"), BadLabels) == (
        f"{shard}: has no column 'lable' (label_column); its columns are 'label'.\n  Did you mean 'label'?"
    )
    two = parquet(tmp_path / "u.parquet", {"image": IMAGES, "fine": LABELS, "coarse": LABELS})
    assert error_of(lambda: open_dataset(two), BadLabels) == (
        f"{two}: the labels could be in 'fine', 'coarse'.\n  label_column names the label column."
    )
    assert found(open_dataset(two, label_column="fine")) == EXPECTED
    both = parquet(tmp_path / "v.parquet", {"left": IMAGES, "right": IMAGES[::-1], "label": LABELS})
    assert error_of(lambda: open_dataset(both), BadLabels) == (
        f"{both}: the images could be in 'left', 'right'.\n  path_column names the image column."
    )
    assert found(open_dataset(both, path_column="left")) == EXPECTED


def test_labels_that_are_no_text(tmp_path: Path) -> None:
    bad = {"1.jpg": IMAGES[0], "1.cls": b"\xff\xfe\x00"}
    shard = write(tmp_path, {"s.tar": tar_bytes(bad)}) / "s.tar"
    assert error_of(lambda: open_dataset(shard), BadLabels) == (
        f"{shard}, '1': the label is not text: b'\\xff\\xfe\\x00'.\n  Expected a number or a name in UTF-8."
    )
    long = write(tmp_path, {"l.tar": tar_bytes({"1.jpg": IMAGES[0], "1.txt": "a dog\nin the snow"})}) / "l.tar"
    assert error_of(lambda: open_dataset(long), BadLabels) == (
        f"{long}, '1': 'a dog\\nin the snow' is not a label; expected a single number or name.\n"
        "  label_column names the column of the label; label_from reads it from the file names."
    )
    table = parquet(tmp_path / "t.parquet", {"image": IMAGES[:2], "label": [b"cat", b"\xff"]})
    assert error_of(lambda: open_dataset(table), BadLabels) == (
        f"{table}, row 2: the label is not text: b'\\xff'.\n  Expected a number or a name in UTF-8."
    )
    assert list((cache_dir() / "unpacked").iterdir()) == []


def test_a_key_that_comes_twice(tmp_path: Path) -> None:
    once = tar_bytes(samples([0, 1], "cls", LABELS.__getitem__))
    write(tmp_path, {"s-0.tar": once, "s-1.tar": once})
    assert error_of(lambda: open_dataset(tmp_path), BadArchive) == (
        f"{tmp_path / 's-1.tar'}: the key '0000' appears more than once in the shards.\n"
        "  The files of a sample must follow each other under a unique key. Write the shards again."
    )


def test_each_side_counts_its_samples_from_zero(tmp_path: Path) -> None:
    for n, name in enumerate(("train/0.tar", "validation/0.tar", "test-0.tar")):
        write(tmp_path, {name: tar_bytes({"0.jpg": IMAGES[n], "0.cls": "a", "1.jpg": IMAGES[n + 3], "1.cls": "b"})})
    data = open_dataset(tmp_path)
    assert (data.labels.tolist(), data.split.tolist()) == ([0, 1] * 3, ["test"] * 2 + ["train"] * 2 + ["val"] * 2)


def test_damaged_shards(tmp_path: Path) -> None:
    whole = tar_bytes(samples([0, 1], "cls", LABELS.__getitem__))
    cut = write(tmp_path, {"s.tar": whole[:1800]}) / "s.tar"
    assert error_of(lambda: open_dataset(cut), BadArchive).startswith(f"{cut}: is damaged or truncated: ")
    table = hf(tmp_path / "t.parquet", list(range(6)))
    data = bytearray(table.read_bytes())
    data[60:600] = bytes(540)
    table.write_bytes(data)
    assert error_of(lambda: open_dataset(table), BadLabels).startswith(f"{table}: cannot be read: ")
    linked = io.BytesIO()
    with tarfile.open(fileobj=linked, mode="w") as tar:
        for name, kind in (("1.jpg", tarfile.REGTYPE), ("1.cls", tarfile.REGTYPE), ("2.jpg", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    link = write(tmp_path, {"l.tar": linked.getvalue()}) / "l.tar"
    assert error_of(lambda: open_dataset(link), BadArchive) == (
        f"{link}: '2.jpg' is a symbolic link.\n  Write the shard again."
    )


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file"))
    shard = hf(tmp_path / "t.parquet", [0, 1])
    assert error_of(lambda: open_dataset(shard), WriteError).endswith(
        "\n  HEADSTART_CACHE=DIR moves the cache elsewhere."
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_memory_does_not_grow_with_the_shards(kind: str, tmp_path: Path) -> None:
    """300 MB in one file: the process that writes them out holds little more than for six images."""
    noise = [os.urandom(300_000) for _ in range(100)]
    big = [IMAGES[n % 6] + noise[n % 100] + n.to_bytes(4, "big") for n in range(1000)]
    code = (
        "import re, sys; from headstart.data.open_dataset import open_dataset; d = open_dataset(sys.argv[1]);"
        "print(len(d), re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    used = {}
    for count in (6, 1000):
        if kind == "parquet":
            import pyarrow
            import pyarrow.parquet

            place = tmp_path / f"{count}.parquet"
            columns = pyarrow.table({"image": big[:count], "label": [str(n % 2) for n in range(count)]})
            pyarrow.parquet.write_table(columns, place, row_group_size=20)
        else:
            place = tmp_path / f"{count}.tar"
            files = {
                f"{n}.{kind}": x for n, b in enumerate(big[:count]) for kind, x in (("jpg", b), ("cls", str(n % 2)))
            }
            place.write_bytes(tar_bytes(files))
        out = subprocess.run(
            [sys.executable, "-c", code, str(place)], check=True, capture_output=True, text=True
        ).stdout
        number, used[count] = map(int, out.split())
        assert number == count
    assert used[1000] - used[6] < 64 << 10, used
