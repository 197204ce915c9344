"""Packs: the same bytes from the same images, read in place by every command, and damage that is named."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headstart
from conftest import draw
from headstart.data.data_source import DataSource
from headstart.data.open_dataset import open_dataset
from headstart.errors import BadArchive, BadLabels, DataError, RecipeError, WriteError
from headstart.images.file_part import FilePart
from headstart.images.image_refs import Images
from headstart.io.files import read_json, sha256_file
from headstart.verbs.pack import pack

pytest.importorskip("pyarrow", reason="needs pyarrow")
LONG = "a-very-long-name-" * 6 + "é"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("given") / "stripes"
    for kind, name in enumerate(("across", "along")):
        for side in ("train", "test"):
            (root / side / name).mkdir(parents=True)
            for seed in range(12):
                seed += 100 * (side == "test")
                draw(kind, seed).save(root / side / name / f"{seed:02}.png")
    draw(0, 50).save(root / "train" / "across" / f"{LONG}.png")
    (root / "train" / "across" / "broken.jpg").write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("packs") / "packed"
    assert pack(folder, out=out, shard_size=20).packed.images == 50
    return out


def test_a_pack_is_tars_an_index_and_a_manifest(packed: Path, folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    shards = ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert sorted(os.listdir(packed)) == ["index.parquet", "manifest.json", *shards]
    listed = read_json(packed / "manifest.json")["sha256"]
    assert listed == {name: sha256_file(packed / name) for name in ("index.parquet", *shards)}
    rows = pyarrow.parquet.read_table(packed / "index.parquet").to_pylist()
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    for row in rows:
        with open(packed / row["shard"], "rb") as file:
            file.seek(row["offset"])
            assert file.read(row["bytes"]) == (folder / row["path"]).read_bytes()
    for shard in shards:
        with tarfile.open(packed / shard) as tar:
            tar.extractall(tmp_path / "unpacked", filter="data")
    unpacked = {file.relative_to(tmp_path / "unpacked").as_posix() for file in (tmp_path / "unpacked").rglob("*.*")}
    assert unpacked == {row["path"] for row in rows}


def test_the_same_images_give_the_same_bytes_from_a_copy_and_from_an_archive(
    packed: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    archive = Path(shutil.make_archive(str(tmp_path / "stripes"), "zip", folder))
    for n, source in enumerate((tmp_path / "copy", archive, packed)):
        pack(source, out=tmp_path / f"again-{n}", shard_size=20)
        assert (tmp_path / f"again-{n}" / "manifest.json").read_bytes() == (packed / "manifest.json").read_bytes()


def test_a_dataset_from_a_pack_is_that_of_its_folder(packed: Path, folder: Path) -> None:
    there, here = open_dataset(packed), open_dataset(folder)
    assert (there.paths, there.classes) == (here.paths, here.classes)
    assert np.array_equal(there.labels, here.labels)
    assert np.array_equal(there.split, here.split)
    assert all(isinstance(file, FilePart) for file in there.files)
    seen, known = Images.inspect(there.files), Images.inspect(here.files)
    assert seen.sha256s == known.sha256s
    assert [info.reason for info in seen.infos] == [info.reason for info in known.infos]
    assert len(set(open_dataset(DataSource(packed, group_from=r"(\d+)\.png")).groups)) < 40
    assert open_dataset(DataSource(packed, label_from="(train|test)/")).classes == ("test", "train")
    assert open_dataset(DataSource(packed, classes="along")).classes == ("along",)


def test_groups_stay_together_through_a_pack(folder: Path, tmp_path: Path) -> None:
    source = DataSource(folder / "train", group_from=r"(\d)\.png")
    pack(source, out=tmp_path / "packed")
    there, here = open_dataset(tmp_path / "packed"), open_dataset(source)
    assert np.array_equal(there.groups, here.groups)


def test_every_command_reads_a_pack_without_unpacking_it(packed: Path, folder: Path, tmp_path: Path) -> None:
    recipe = headstart.Recipe(backbone="mobilenetv2_050.headstart", approach="linear")
    headstart.train(packed, out=tmp_path / "run", recipe=recipe)
    assert headstart.reproduce(tmp_path / "run", data=folder).same
    assert "data:image/jpeg" in (tmp_path / "run" / "report.html").read_text()
    from_pack = headstart.predict(tmp_path / "run", packed, sort_into=tmp_path / "sorted").predictions
    from_folder = headstart.predict(tmp_path / "run", folder).predictions
    assert np.array_equal(from_pack.logits, from_folder.logits)
    assert [p.removeprefix(str(packed)) for p in from_pack.paths] == [
        p.removeprefix(str(folder)) for p in from_folder.paths
    ]
    assert sum(file.is_file() for file in (tmp_path / "sorted").rglob("*")) == 49
    assert headstart.evaluate(tmp_path / "run", packed).known == 0
    assert headstart.check(packed, out=tmp_path / "checks.csv").images == 50
    unpacked = Path(os.environ["HEADSTART_CACHE"]) / "unpacked"
    assert not unpacked.exists()


def test_damage_to_a_pack_is_named(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "packed"
    shutil.copytree(packed, copy)
    shard = copy / "shard-000001.tar"
    data = bytearray(shard.read_bytes())
    part = next(file for file in open_dataset(copy).files if isinstance(file, FilePart) and file.file == shard)
    data[part.start + 20] ^= 1
    shard.write_bytes(data)
    reasons = {info.reason for info in Images.inspect(open_dataset(copy).files).infos}
    assert "changed" in reasons
    shard.write_bytes(data[:-4_000])
    with pytest.raises(BadArchive, match=r"shard-000001.tar: is too short"):
        open_dataset(copy)
    shard.unlink()
    with pytest.raises(BadArchive, match=r"shard-000001.tar: is missing"):
        open_dataset(copy)
    (copy / "index.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(BadArchive, match="cannot be read as the index of a pack"):
        open_dataset(copy)


@pytest.mark.parametrize("change", [{"path": "../x"}, {"shard": "../other.tar"}, {"offset": -1}, {"path": "zzz"}])
def test_an_index_that_leads_elsewhere_is_refused(change: dict[str, object], packed: Path) -> None:
    from headstart.data.packs.pack_index import index_bytes, read_index

    rows = read_index("index", (packed / "index.parquet").read_bytes())
    with pytest.raises(BadArchive, match="has an invalid row"):
        read_index("index", index_bytes([replace(rows[0], **change), *rows[1:]]))


def test_images_are_read_in_few_pieces_even_across_their_ends(
    packed: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.data.packs import pack_store
    from headstart.io.stores.store import open_store

    asked: list[int] = []

    class Elsewhere:
        url = "s3://photos/packed/"

        def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
            asked.append(start)
            return open_store(packed).read(key, start=start, length=length)

    monkeypatch.setattr(pack_store, "PIECE", 50_000)  # an image has 16 kB
    images = pack_store.opened_images(Elsewhere())
    asked.clear()
    for file in images.list():
        assert images.read(file.key, etag=file.etag) == (folder / file.key).read_bytes()
        assert images.read(file.key, start=3, length=4) == (folder / file.key).read_bytes()[3:7]
    assert len(asked) <= sum(path.stat().st_size // 50_000 + 1 for path in packed.glob("*.tar"))
    assert next(file.key for file in images.list("train")).startswith("train/")


def test_a_pack_is_never_written_over_other_files(packed: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="has a pack already"):
        pack(folder, out=packed)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(WriteError, match=r"has other files, such as 'notes.txt'"):
        pack(folder, out=tmp_path / "full")
    with pytest.raises(WriteError, match="is inside the data"):
        pack(folder, out=folder / "packed")
    with pytest.raises(RecipeError, match="shard_size is 0"):
        pack(folder, out=tmp_path / "new", shard_size=0)
    with pytest.raises(BadLabels, match="is a pack, so label_column has no effect"):
        open_dataset(DataSource(packed, label_column="label"))


def test_a_pack_is_told_by_its_manifest_in_every_command(packed: Path, tmp_path: Path) -> None:
    from headstart.pipeline.images_at import images_at
    from headstart.scale.shard_source import open_shard_source

    shutil.copytree(packed, tmp_path / "packed")
    (tmp_path / "packed" / "README.txt").write_text("mine")
    assert len(open_dataset(tmp_path / "packed")) == 50
    assert sum(1 for _ in open_shard_source(tmp_path / "packed").list()) == 50
    site = tmp_path / "site"
    site.mkdir()
    draw(0, 1).save(site / "1.png")
    (site / "manifest.json").write_text('{"name": "My app"}')
    shutil.copyfile(packed / "index.parquet", site / "index.parquet")
    assert [file.key for file in open_shard_source(site).list()] == ["1.png"]
    assert images_at([site]).names == [f"{site}/1.png"]


def test_a_table_whose_images_are_elsewhere_is_refused_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    images = sorted(folder.rglob("0*.png"))[:2]
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "t.csv"
    for one, other in ([os.path.relpath(image, table.parent) for image in images], images):
        table.write_text(f"path,label\n{one},a\n{other},b\n")
        with pytest.raises(DataError, match="is outside the folder of the data, so it has no name in a pack") as caught:
            pack(table, out=tmp_path / "packed")
        assert caught.value.hint.startswith("Move the table to a folder that contains all images")
        assert not list((tmp_path / "packed").glob("*"))


def test_a_name_that_is_not_unicode_is_refused(tmp_path: Path) -> None:
    (tmp_path / "odd" / "a").mkdir(parents=True)
    draw(0, 1).save(tmp_path / "odd" / "a" / "1.png")
    os.rename(tmp_path / "odd" / "a" / "1.png", os.fsencode(tmp_path / "odd" / "a") + b"/\xff.png")
    with pytest.raises(DataError, match="is not Unicode, so it cannot be packed"):
        pack(tmp_path / "odd", out=tmp_path / "packed")


def test_a_pack_that_was_interrupted_is_no_pack_and_is_written_again(
    packed: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(rows: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("headstart.data.packs.pack_writing.index_bytes", full)
        pack(folder, out=tmp_path / "packed", shard_size=10)
    assert (tmp_path / "packed" / "shard-000004.tar").exists()
    (tmp_path / "packed" / ".DS_Store").write_bytes(b"")
    pack(folder, out=tmp_path / "packed", shard_size=20)
    assert (tmp_path / "packed" / "manifest.json").read_bytes() == (packed / "manifest.json").read_bytes()
    assert sorted(os.listdir(tmp_path / "packed")) == sorted([".DS_Store", *os.listdir(packed)])


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    pytest.importorskip("obstore", reason="needs obstore")
    from s3_servers import CANARY, make_bucket, moto

    with moto() as address:
        make_bucket(address, "photos")
        for name, value in {**CANARY, "AWS_ENDPOINT_URL": address}.items():
            monkeypatch.setenv(name, value)
        yield


def test_a_pack_in_a_bucket_is_the_same_and_is_read_from_there(bucket: None, packed: Path, folder: Path) -> None:
    url = "s3://photos/packed"
    command = [sys.executable, "-m", "headstart", "pack", str(folder), "--out", url, "--shard-size", "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "s3://photos/packed/: 50 images, 0.8 MB, in 3 shards\n"), done.stderr
    assert [file.read() for file in open_dataset(url).files] == [file.read() for file in open_dataset(packed).files]
    with pytest.raises(WriteError, match=r"^s3://photos/packed/new/: is inside the data \(s3://photos/packed/\)"):
        pack(Path(url), out=Path(url) / "new")
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "WriteError: s3://photos/packed/: has a pack already" in again.stderr
    assert "CANARY" not in again.stderr + done.stderr
