"""`--shards`: parts that depend on the plan alone, resumed by listing, whatever dies on the way."""

from __future__ import annotations

import ast
import errno
import json
import logging
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import headstart
from conftest import PATIENCE, REPOSITORY, draw, write_photos
from headstart import cli
from headstart.errors import (
    HeadstartError,
    MissingData,
    MissingExtra,
    MissingInStore,
    NoImages,
    OtherPlan,
    RecipeError,
    ShardError,
    ShardFailed,
    StoreUnreachable,
    WriteError,
)
from headstart.exporters.open_classifier import open_classifier
from headstart.images.formats import heif_versions
from headstart.io.files import read_csv, sha256_file
from headstart.io.stores.local_store import LocalStore
from headstart.io.stores.store import StoredFile, open_store
from headstart.model.inference.engines.torch_engine import has_cuda_driver
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.scan import scan
from headstart.scale import ShardWorker, make_predict_fn
from headstart.scale.local_engine import run_local
from headstart.scale.shard_columns import PredictionColumns, open_columns, predict_model
from headstart.scale.shard_jobs import predict_in_shards
from headstart.scale.shard_names import ShardNames
from headstart.scale.shard_options import ShardOptions
from headstart.scale.shard_plan import ShardJob, ShardPlan, read_plan
from headstart.scale.shard_source import ShardSource, open_shard_source
from headstart.training.recipe import Recipe

pq = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")

COMMAND = [sys.executable, "-m", "headstart"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path, warm_cache: Path) -> Path:
    """A run on `photos`, and beside it `cache` with the compiled network."""
    place = tmp_path_factory.mktemp("shards")
    shutil.copytree(warm_cache, place / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(place / "cache"))
        headstart.train(photos, out=place / "run", weights=tiny_weights, recipe=Recipe(approach="linear"))
    return place / "run"


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That run, for a test that uses its cache."""
    monkeypatch.setenv("HEADSTART_CACHE", str(trained.parent / "cache"))
    return trained


@pytest.fixture(scope="module")
def serial(trained: Path, photos: Path) -> Path:
    """The parts of `photos` in shards of ten, made in one go."""
    out = trained.parent / "serial"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(trained.parent / "cache"))
        headstart.predict(trained, photos, shards=ShardOptions(out, shard_size=10))
    return out


def hashes(out: Path) -> dict[str, str]:
    """{name: SHA-256} of the parts."""
    return {path.name: sha256_file(path) for path in sorted(out.glob("part-*.parquet"))}


def rows_of(out: Path) -> list[dict[str, object]]:
    """All rows, in order, as any reader of a folder of parquet files finds them."""
    rows: list[dict[str, object]] = pq.read_table(out).to_pylist()
    return rows


def copied(serial: Path, to: Path) -> Path:
    return Path(shutil.copytree(serial, to))


def plan_in(out: Path) -> ShardPlan:
    """The plan of existing parts."""
    plan = read_plan(open_store(out))
    if plan is None:
        raise AssertionError(f"{out} has no plan")
    return plan


def job_of(run: Path, folder: Path, out: Path) -> ShardJob:
    """The job of existing parts."""
    return ShardJob(plan_in(out), files=str(folder), out=str(out), run=str(run))


# What is written


def test_parts_hold_the_predictions_of_predict_to_the_bit(run: Path, photos: Path, serial: Path) -> None:
    rows = rows_of(serial)
    result = headstart.predict(run, photos)
    expected = result.predictions
    assert [f"{photos}/{row['path']}" for row in rows] == list(expected.paths)
    assert [row["predicted"] for row in rows] == [expected.classes[k] for k in expected.predicted]
    for name, chances in zip(expected.classes, expected.probabilities.T, strict=True):
        assert [row[f"p({name})"] for row in rows] == chances.astype(np.float32).tolist()
    assert [row["set"] for row in rows] == [each["set"] for each in result.to_json()["predictions"]]
    assert [row["sha256"] for row in rows] == [sha256_file(photos / str(row["path"])) for row in rows]
    assert all(row["error"] is None for row in rows)


def test_the_last_file_has_the_totals_and_a_second_command_makes_nothing(
    run: Path, photos: Path, serial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in serial.iterdir()}
    done = json.loads((serial / "_done.json").read_text())
    assert (done["parts"], done["images"], done["errors"]) == (5, 42, {})
    assert cli.run(["predict", str(run), str(photos), "--shards", str(serial), "--shard-size", "10", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["parts"], document["made"], document["sha256"]) == (5, 0, done["sha256"])
    assert {path.name: path.stat().st_mtime_ns for path in serial.iterdir()} == before


def test_embed_writes_the_features_of_embed_to_the_bit(
    run: Path, photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    shards = ShardOptions(tmp_path / "parts", shard_size=30)
    result = headstart.embed(photos, backbone="test_resnet.a", weights=tiny_weights, shards=shards)
    table = pq.read_table(result.files)
    features = headstart.embed(photos, backbone="test_resnet.a", weights=tiny_weights).features
    assert table["path"].to_pylist() == list(features.paths)
    assert np.array_equal(np.stack(table["values"].to_numpy()), features.values)
    assert result.table().startswith(f"42 rows in 2 parts in {tmp_path / 'parts'}\n2 made now in ")


def test_images_of_more_than_8_bits_are_scaled_by_the_range_that_embed_is_given(
    tiny_weights: Path, tmp_path: Path
) -> None:
    """12 bits in 16: measured without shards, and by default scaled by all 16 bits with them."""
    folder = tmp_path / "deep"
    folder.mkdir()
    for n in range(4):
        grey = np.asarray(draw(1, n).convert("L")).astype(np.uint16) * 16
        Image.fromarray(grey).save(folder / f"{n}.png")
    how = {"backbone": "test_resnet.a", "weights": tiny_weights}

    def in_shards(name: str, value_range: str) -> list[object]:
        headstart.embed(folder, value_range=value_range, shards=tmp_path / name, **how)
        return [row["values"] for row in rows_of(tmp_path / name)]

    for value_range in ("0,4095", "100,2000.5", "0,65535"):
        given = headstart.embed(folder, value_range=value_range, **how).features.values
        assert in_shards(value_range, value_range) == given.tolist()
        plan = read_plan(open_store(tmp_path / value_range))
        low, high = map(float, value_range.split(","))
        held = {"integers": [low, high], "floats": [low, high]}
        assert plan is not None and plan.model["preprocess"]["ranges"] == (
            {"floats": [low, high]} if high == 65535 else held  # integers have it anyway
        )
    measured = headstart.embed(folder, **how).features.values
    assert measured.tolist() == headstart.embed(folder, value_range="0,4095", **how).features.values.tolist()
    assert in_shards("auto", "auto") == given.tolist() != measured.tolist()
    with pytest.raises(OtherPlan, match=r"its model\.preprocess\.ranges\.integers is "):
        headstart.embed(folder, value_range="0,1023", shards=tmp_path / "0,4095", **how)


@pytest.mark.parametrize("text", ["", "5", "9,3", "0,inf", "a,b", "0,1,2"])
def test_a_range_that_is_none_is_refused_before_anything_is_read(text: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        headstart.embed(tmp_path / "nothing", value_range=text)
    assert str(caught.value) == (
        f"value_range {text!r} cannot be used: expected auto, or the values that become black and white, such as 0,4095."
    )


def test_an_image_that_changes_before_it_is_embedded_has_no_features(
    run: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = tmp_path / "photos", tmp_path / "features.safetensors"
    (folder / "class0").mkdir(parents=True)
    for n in range(4):
        draw(0, 700 + n).save(folder / "class0" / f"{n:03}.jpg")

    def scan_and_change(*given: Any, **options: Any) -> Any:
        scanned = scan(*given, **options)
        shutil.copyfile(folder / "class0" / "000.jpg", folder / "class0" / "001.jpg")
        return scanned

    monkeypatch.setattr("headstart.verbs.embed.scan", scan_and_change)
    result = headstart.embed(folder, backbone="test_resnet.a", weights=tiny_weights, out=out)
    assert result.features.errors == {"class0/001.jpg": "changed"}
    assert result.table().startswith("3 images x ")
    kept = ["class0/000.jpg", "class0/002.jpg", "class0/003.jpg"]
    assert [row["path"] for row in read_csv(out.with_suffix(".csv"))] == list(result.features.paths) == kept
    assert np.array_equal(load_file(out)["values"], result.features.values)
    assert result.features.values.any(axis=1).all()


@pytest.mark.slow  # a network is compiled for each number of cores
def test_the_number_of_workers_does_not_change_a_byte(run: Path, photos: Path, serial: Path, tmp_path: Path) -> None:
    result = headstart.predict(run, photos, shards=ShardOptions(tmp_path / "parts", shard_size=10, workers=3))
    assert hashes(tmp_path / "parts") == hashes(serial)
    assert (result.made, result.new_images, result.errors) == (5, 42, {})


# Resuming


@pytest.mark.parametrize("finished", [False, True])
def test_what_is_missing_is_made_again_with_the_same_bytes(
    finished: bool, run: Path, photos: Path, serial: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = copied(serial, tmp_path / "parts")
    before = hashes(out)
    if not finished:
        (out / "_done.json").unlink()
    (out / min(before)).unlink()
    (out / "_names" / "names-000004.json.gz").unlink()
    with caplog.at_level(logging.WARNING, "headstart"):
        result = headstart.predict(run, photos, shards=ShardOptions(out, shard_size=10))
    assert caplog.messages == [f"{out}: 1 part is missing; made again."] * finished
    assert (result.made, result.images) == (1, 42)
    assert hashes(out) == before
    assert (out / "_done.json").read_bytes() == (serial / "_done.json").read_bytes()


@pytest.mark.parametrize("written", [True, False])
def test_what_is_known_of_existing_parts_comes_from_their_receipts(
    written: bool, run: Path, photos: Path, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, read, plain = copied(serial, tmp_path / "parts"), list[str](), LocalStore.read

    def counted(store: LocalStore, key: str, **options: Any) -> bytes:
        read.append(key)
        return plain(store, key, **options)

    (out / "_done.json").unlink()
    if not written:
        shutil.rmtree(out / "_receipts")
    monkeypatch.setattr(LocalStore, "read", counted)
    result = headstart.predict(run, photos, shards=ShardOptions(out, shard_size=10))
    assert (result.made, result.images) == (0, 42)
    assert (out / "_done.json").read_bytes() == (serial / "_done.json").read_bytes()
    assert {key for key in read if key.startswith("part-")} == (set() if written else set(hashes(out)))


@pytest.mark.parametrize("what", ["shard_size", "run", "images", "verb"])
def test_other_work_at_the_same_place_is_refused_by_name(
    what: str, run: Path, photos: Path, serial: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in serial.rglob("*")}
    shards = ShardOptions(serial, shard_size=11 if what == "shard_size" else 10)
    if what == "run":
        headstart.train(
            write_photos(tmp_path / "two", classes=2), out=tmp_path / "run", weights=tiny_weights,
            recipe=Recipe(approach="linear"),
        )  # fmt: skip
        run = tmp_path / "run"
    if what == "images":
        photos = write_photos(tmp_path / "others", each=2)
    with pytest.raises(OtherPlan) as caught:
        if what == "verb":
            headstart.embed(photos, backbone="test_resnet.a", weights=tiny_weights, shards=shards)
        else:
            headstart.predict(run, photos, shards=shards)
    named = {
        "shard_size": "its shard_size is 10, not 11",
        "run": "its model.classifier is ",
        "images": "its source is ",
    }
    assert named.get(what, "its verb is 'predict', not 'embed'") in str(caught.value)
    assert {path.name: path.stat().st_mtime_ns for path in serial.rglob("*")} == before


@pytest.mark.parametrize(
    ("group", "name"),
    [("model.runtime", "engine"), ("model.runtime", "device"), ("model.runtime", "precision"), ("software", "numpy")],
)
def test_what_changes_numbers_is_in_the_plan_and_another_is_refused_by_name(
    group: str, name: str, run: Path, photos: Path, serial: Path, tmp_path: Path
) -> None:
    out = copied(serial, tmp_path / "parts")
    plan = json.loads((out / "_plan.json").read_text())
    holder = plan["software"] if group == "software" else plan["model"]["runtime"]
    mine, holder[name] = holder[name], "another"
    (out / "_plan.json").write_text(json.dumps(plan))
    with pytest.raises(OtherPlan) as caught:
        headstart.predict(run, photos, shards=ShardOptions(out, shard_size=10))
    assert caught.value.message == (
        f"{out}: contains parts of another job: its {group}.{name} is 'another', not {mine!r}."
    )


def test_the_plan_names_the_software_that_was_used(serial: Path) -> None:
    software = plan_in(serial).software
    assert list(software) == ["headstart", "pillow", "numpy", "pyarrow", "openvino", "heif"]
    assert software["heif"] == (" ".join(heif_versions()) or "none")


def test_the_precision_in_a_plan_is_the_one_that_is_computed_in(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that has no bf16, or may not use it, computes a run in bf16 as it does one in f32."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    classifier = open_classifier(run).classifier
    models = [
        predict_model(replace(classifier, runtime=Runtime("openvino", "cpu", precision, 8)))
        for precision in ("bf16", "f32")
    ]
    assert models[0] == models[1]
    assert models[0]["runtime"] == {"engine": "openvino", "device": "cpu", "precision": "f32", "batch": 8}


@pytest.mark.parametrize(("group", "name"), [("model.runtime", "engine"), ("software", "openvino")])
def test_a_worker_whose_numbers_would_be_others_refuses(group: str, name: str, run: Path, serial: Path) -> None:
    plan = plan_in(serial)
    if group == "software":
        mine, planned = plan.software[name], "2025.1"
        other = replace(plan, software={**plan.software, name: planned})
    else:
        if has_cuda_driver():
            pytest.skip("needs a machine without a GPU, whose runtime is another")
        mine, planned = "openvino", "torch"
        runtime = {"engine": planned, "device": "cuda", "precision": "bf16", "batch": 64}
        other = replace(plan, model={**plan.model, "runtime": runtime})
    with pytest.raises(ShardError) as caught:
        open_columns(ShardJob(other, files="", out="/parts", run=str(run)))
    assert caught.value.message == (
        f"{platform.node()}: its {group}.{name} is {mine!r}, but the plan in /parts says {planned!r}."
    )


def test_a_worker_computes_in_the_precision_of_the_plan(run: Path, serial: Path) -> None:
    plan = plan_in(serial)
    runtime = {**plan.model["runtime"], "precision": "f32"}
    other = replace(plan, model={**plan.model, "runtime": runtime})
    columns = open_columns(ShardJob(other, files="", out="/parts", run=str(run)))
    assert columns.embedder.runtime == Runtime(**runtime)


def test_a_table_that_has_changed_is_other_work(run: Path, photos: Path, tmp_path: Path) -> None:
    names = [path.relative_to(photos).as_posix() for path in sorted(photos.rglob("*.jpg"))]
    table = tmp_path / "list.txt"
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    table.write_text("\n".join([*names[:5], "gone/1.jpg", "gone/2.jpg"]) + "\n")
    result = headstart.predict(run, table, shards=ShardOptions(tmp_path / "parts", shard_size=5))
    assert (result.images, result.errors) == (7, {"not_a_file": 2})  # and the second shard has nothing else
    os.utime(tmp_path / names[0])
    (tmp_path / "parts" / result.parts[0]).unlink()
    result = headstart.predict(run, table, shards=ShardOptions(tmp_path / "parts", shard_size=5))
    assert (result.made, result.errors) == (1, {"changed": 1, "not_a_file": 2})
    table.write_text("\n".join(names[:6]) + "\n")
    with pytest.raises(OtherPlan, match="its contents is"):
        headstart.predict(run, table, shards=tmp_path / "parts")


def test_an_archive_is_unpacked_once(run: Path, photos: Path, serial: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for path in sorted(photos.rglob("*.jpg")):
            archive.write(path, path.relative_to(photos).as_posix())
    headstart.predict(run, tmp_path / "photos.zip", shards=ShardOptions(tmp_path / "parts", shard_size=50))
    assert rows_of(tmp_path / "parts") == rows_of(serial)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("data", [b"", b"half a part"])
def test_a_damaged_part_or_plan_is_named(
    finished: bool, data: bytes, run: Path, photos: Path, serial: Path, tmp_path: Path
) -> None:
    out = copied(serial, tmp_path / "parts")
    if not finished:
        (out / "_done.json").unlink()
    first = min(hashes(out))
    (out / first).write_bytes(data)
    with pytest.raises(ShardError, match=f"{first}: is not a part that headstart wrote"):
        headstart.predict(run, photos, shards=ShardOptions(out, shard_size=10))
    (out / "_plan.json").write_text("{}")
    with pytest.raises(ShardError, match=r"its _plan.json is not a plan that headstart wrote"):
        headstart.predict(run, photos, shards=ShardOptions(out, shard_size=10))


# Names


def plan_of(size: int) -> ShardPlan:
    return ShardPlan("predict", "/photos", "", {}, size, {})


class EndlessStore:
    """A store of names alone, which counts how many were asked for."""

    url = "/photos"

    def __init__(self, images: int) -> None:
        self.images, self.given = images, 0

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """Names from the first after `after`."""
        for n in range(int(after[1:9]) + 1 if after else 0, self.images):
            self.given += 1
            yield StoredFile(f"i{n:08}.jpg", 1, "")


class StoreInItsOwnOrder(EndlessStore):
    """As S3's directory buckets and some servers: the names are listed from the last to the first, whatever `after` asks."""

    def list(self, after: str = "") -> Iterator[StoredFile]:
        """Names greater than `after`, backwards."""
        yield from reversed(list(super().list(after)))


class MemoryStore:
    """A store in memory, since syncing a thousand files to a disk takes long."""

    url = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def read(self, key: str) -> bytes:
        """The bytes of a file."""
        if key not in self.files:
            raise MissingInStore(key)
        return self.files[key]

    def create(self, key: str, data: bytes) -> bool:
        """Whether the name was free."""
        return self.files.setdefault(key, data) is data


def test_the_first_shard_is_known_before_the_second_is_listed(tmp_path: Path) -> None:
    store = EndlessStore(10_000_000)
    shards = ShardNames(plan_of(100), open_store(tmp_path)).shards(ShardSource("/photos", "/photos", store))
    assert next(shards) == 0
    assert store.given == 101


def test_there_may_be_more_shards_than_python_nests_calls() -> None:
    source = ShardSource("/photos", "/photos", EndlessStore(1_500))
    assert list(ShardNames(plan_of(1), MemoryStore()).shards(source)) == list(range(1_500))


def test_two_that_list_at_once_agree_on_the_names_of_each_shard(tmp_path: Path) -> None:
    out, source = open_store(tmp_path), ShardSource("/photos", "/photos", EndlessStore(25))
    one, two = ShardNames(plan_of(10), out), ShardNames(plan_of(10), out)
    ours = one.shards(source)
    assert next(ours) == 0
    assert list(two.shards(source)) == [0, 1, 2]
    assert list(ours) == [1, 2]
    assert [one.files(n)[0].key for n in range(3)] == [
        "i00000000.jpg",
        "i00000010.jpg",
        "i00000020.jpg",
    ]
    assert (len(one.files(2)), one.images, two.images) == (5, 25, 25)


def test_damaged_names_are_refused_wherever_the_damage_is(tmp_path: Path) -> None:
    names = ShardNames(plan_of(20), open_store(tmp_path))
    assert list(names.shards(ShardSource("/photos", "/photos", EndlessStore(20)))) == [0]
    file, files = tmp_path / "_names" / "names-000000.json.gz", names.files(0)
    data = file.read_bytes()
    said = set()
    for at in range(len(data)):
        file.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            assert names.files(0) == files  # such as the time in gzip's header
        except ShardError as error:
            said.add(str(error))
    assert said == {
        f"{tmp_path}: its _names/names-000000.json.gz is damaged.\n"
        "  Restore it from a copy, or: Choose another --shards."
    }


@pytest.mark.parametrize("images", [1, 9, 10, 11, 20, 35])
@pytest.mark.parametrize("kind", [EndlessStore, StoreInItsOwnOrder])
def test_every_name_is_in_one_shard_however_often_listing_is_interrupted(
    kind: type[EndlessStore], images: int, tmp_path: Path
) -> None:
    source = ShardSource("/photos", "/photos", kind(images))
    for stop in range(images):
        names = ShardNames(plan_of(10), open_store(tmp_path))
        for _, _ in zip(range(stop), names.shards(source), strict=False):
            pass
    names = ShardNames(plan_of(10), open_store(tmp_path))
    files = [file.key for shard in names.shards(source) for file in names.files(shard)]
    assert files == [file.key for file in kind(images).list()]


def test_images_are_told_by_their_names(tmp_path: Path) -> None:
    for name in ("a/1.JPG", "a/2f0c", "a/notes.txt", ".cache/3.jpg", "a/Thumbs.db", "b/__MACOSX/4.jpg", "b/5.heic"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    source = open_shard_source(tmp_path)
    assert [file.key for file in source.list()] == ["a/1.JPG", "a/2f0c", "b/5.heic"]
    assert source.left_out == {".txt": 1}


# What is refused


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{photos} {photos} --shards {out}", "RecipeError: --shards: takes one folder, table, archive or URL."),
        ("{photos} --shards {out} --out {out}.csv", "RecipeError: out: has no effect with --shards"),
        ("{photos} --shards {out} --clip 0.1", "RecipeError: clip: has no effect with --shards"),
        ("{photos} --workers 2", "RecipeError: engine, workers, shard_size: have no effect without --shards."),
        ("{photos} --shards {out} --engine spark", "RecipeError: engine: 'spark' is not known: expected local or ray."),
        (
            "{photos} --shards {out} --shard-size 0",
            "RecipeError: shard_size 0 cannot be used: expected a whole number, 1 or more.",
        ),
        ("{photos}/nowhere --shards {out}", "MissingData: "),
        ("{photos}/class0/000.jpg --shards {out}", "MissingData: "),
        ("{photos} --shards {photos}/parts", "WriteError: "),
        ("{photos} --shards {run}/parts", "WriteError: "),
        ("{photos} --shards {photos}/class0/000.jpg", "WriteError: "),
        ("{empty} --shards {out}", "NoImages: "),
        ("{photos} --shards {empty}", "WriteError: {empty}: contains files that headstart did not write there"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(
    words: str, message: str, run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    places = {"photos": photos, "run": run, "out": tmp_path / "out", "empty": tmp_path / "empty"}
    before = sorted(photos.rglob("*"))
    code = cli.run(["predict", str(run), *words.format(**places).split()])
    assert (code, capsys.readouterr().err.startswith(message.format(**places))) == (1, True)
    assert not (tmp_path / "out").exists()
    assert sorted(photos.rglob("*")) == before


def test_images_inside_other_files_are_not_looked_for(run: Path, photos: Path, tmp_path: Path) -> None:
    import pyarrow

    place = tmp_path / "packed" / "train.parquet"
    place.parent.mkdir()
    images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted((photos / "class0").iterdir())]
    pq.write_table(pyarrow.table({"image": images}), place)
    with pytest.raises(MissingData) as one:
        headstart.predict(run, place, shards=tmp_path / "parts")
    assert str(one.value) == (
        f"{place}: holds the images themselves, not their paths; --shards does not read such files.\n"
        "  Save the images as files, or pack them: `headstart pack DATA --out DIR`."
    )
    (place.parent / "notes.txt").write_text("mine")
    with pytest.raises(NoImages) as several:
        headstart.predict(run, place.parent, shards=tmp_path / "parts")
    assert str(several.value) == (
        f"{place.parent}: contains no images, only 1 file named *.parquet, 1 file named *.txt.\n"
        "  Images inside such files are not looked for: give one archive, or unpack them."
    )


def test_it_fails_in_the_end_if_no_image_at_all_can_be_used(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "bad" / name).write_bytes(b"no image")
    for now in (" 1 made now in ", "all parts already existed"):
        assert cli.run(["predict", str(run), str(tmp_path / "bad"), "--shards", str(tmp_path / "parts")]) == 1
        said = capsys.readouterr()
        assert f"2 rows in 1 part in {tmp_path / 'parts'}; 2 could not be used: not_an_image 2\n" in said.out
        assert now.strip() in said.out
        assert said.err.endswith("NoImages: None of the 2 images could be used.\n  The reasons are in the result.\n")


def test_embedding_in_shards_refuses_options_about_labels(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["embed", str(photos), "--shards", str(tmp_path / "out"), "--classes", "class0"]) == 1
    assert capsys.readouterr().err == (
        "RecipeError: classes: has no effect with --shards, which reads every image by its name.\n  Leave it out.\n"
    )


def test_python_says_the_same(run: Path, photos: Path, tmp_path: Path) -> None:
    for error, place in ((MissingData, photos / "nowhere"), (NoImages, tmp_path)):
        with pytest.raises(error):
            headstart.predict(run, place, shards=tmp_path.parent / "parts")
    with pytest.raises(RecipeError):
        headstart.predict(run, b"bytes", shards=tmp_path / "parts")
    with pytest.raises(WriteError):
        predict_in_shards(run, [photos], ShardOptions(photos / "parts"))
    assert issubclass(OtherPlan, HeadstartError)


# Images that do harm

HOOK = '''
"""Decoders that crash, spin or allocate at images that end in a word; they stand for faults of the real ones."""
import os, signal, time
import headstart.images.decode as decode
plain = decode._decoded

def _decoded(file, header, *more):
    end = bytes(file.getbuffer()[-5:])
    if end == b"CRASH":
        os.kill(os.getpid(), signal.SIGSEGV)
    if end == b"ALLOC":
        bytearray(1 << 45)
    until = time.monotonic() + (60 if end == b"SPINS" else 0)
    while time.monotonic() < until:
        pass
    return plain(file, header, *more)

decode._decoded = _decoded
'''


def hooked(tmp_path: Path, code: str) -> str:
    """A PYTHONPATH with which every process runs `code` first."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(code)
    return os.pathsep.join([str(tmp_path / "hook"), str(REPOSITORY / "src")])


def harmful(tmp_path: Path) -> dict[str, str]:
    """An environment in which some images do harm to any process that decodes them."""
    return {**os.environ, "PYTHONPATH": hooked(tmp_path, HOOK)}


def said(words: list[str], environment: dict[str, str]) -> tuple[int, dict[str, object], str]:
    """Exit code, JSON document and stderr of a command."""
    done = subprocess.run(
        [*COMMAND, *words, "--json"], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def poisoned(folder: Path, *words: str, each: int = 14) -> dict[str, str]:
    """Photos of which some do harm; {path: reason}."""
    write_photos(folder, each=each)
    reasons = {"CRASH": "decoder_crashed", "SPINS": "too_slow", "ALLOC": "too_much_memory"}
    expected = {}
    for n, word in enumerate(words):
        path = folder / "class1" / f"{2 * n:03}.jpg"
        path.write_bytes(path.read_bytes() + word.encode())
        expected[f"class1/{2 * n:03}.jpg"] = reasons[word]
    cut = folder / "class2" / "003.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    return expected | {"class2/003.jpg": "truncated"}


def check_poisoned(
    run: Path, folder: Path, expected: dict[str, str], out: Path, environment: dict[str, str], shard_size: int
) -> str:
    words = ["predict", str(run), str(folder), "--shards", str(out), "--shard-size", str(shard_size)]
    code, document, err = said(words, environment)
    assert code == 0, err
    rows = {str(row["path"]): row for row in rows_of(out)}
    assert {path: row["error"] for path, row in rows.items() if row["error"]} == expected
    assert document["images"] == len(rows) == sum(1 for _ in folder.rglob("*.jpg"))
    kept = [path for path in rows if path not in expected]
    predictions = headstart.predict(run, [folder / path for path in kept]).predictions
    for path, chances in zip(kept, predictions.probabilities, strict=True):
        assert [rows[path][f"p({c})"] for c in predictions.classes] == chances.astype(np.float32).tolist()
    return err


@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_an_image_that_crashes_its_decoder_costs_one_row(run: Path, tmp_path: Path) -> None:
    expected = poisoned(tmp_path / "photos", "CRASH", "ALLOC")
    err = check_poisoned(run, tmp_path / "photos", expected, tmp_path / "parts", harmful(tmp_path), 100)
    assert "A worker process died (signal 11); shard 0 is restarted." in err
    assert "Shard 0: class1/000.jpg is left out: decoder_crashed." in err


DIES_LATE = """
import os, signal, time
import headstart.images.decode as decode
plain = decode._decoded

def _decoded(file, header, *more):
    if file.getbuffer()[-5:] == b"CRASH":
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGSEGV)
    return plain(file, header, *more)

decode._decoded = _decoded
"""


@pytest.mark.slow  # three processes are started
@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_images_that_are_decoded_again_are_counted_once(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, advances = write_photos(tmp_path / "photos", each=14), list[int]()
    first = folder / "class0" / "000.jpg"
    first.write_bytes(first.read_bytes() + b"CRASH")
    headstart.predict(run, folder, shards=tmp_path / "parts")
    (part,) = (tmp_path / "parts").glob("part-*")
    part.unlink()
    monkeypatch.setenv("PYTHONPATH", hooked(tmp_path, DIES_LATE))
    with ShardWorker(job_of(run, folder, tmp_path / "parts"), advance=advances.append) as worker:
        receipt = worker(0)
    assert (sum(advances), receipt.rows, receipt.errors) == (42, 42, {"decoder_crashed": 1})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_each_kind_of_harm_is_named_among_two_thousand_images(run: Path, tmp_path: Path) -> None:
    expected = poisoned(tmp_path / "photos", "CRASH", "SPINS", "ALLOC", "CRASH", each=667)
    check_poisoned(run, tmp_path / "photos", expected, tmp_path / "parts", harmful(tmp_path), 250)


def test_an_image_that_changes_or_goes_after_it_was_listed_is_named(run: Path, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", classes=1, each=6)
    out = open_store(tmp_path / "parts")
    out.write(".DS_Store", b"")  # from a look at the empty folder
    shards = ShardOptions(tmp_path / "parts", shard_size=3)
    plan = headstart.predict(run, folder, shards=shards)
    for name in plan.parts:
        out.delete(name)
    shutil.copyfile(folder / "class0" / "000.jpg", folder / "class0" / "001.jpg")
    (folder / "class0" / "004.jpg").unlink()
    (folder / "class0" / "005.jpg").chmod(0)
    result = headstart.predict(run, folder, shards=shards)
    errors = {str(row["path"]): row["error"] for row in rows_of(tmp_path / "parts")}
    expected = {"class0/001.jpg": "changed", "class0/004.jpg": "not_a_file"}
    if not os.access(folder / "class0" / "005.jpg", os.R_OK):  # root may read everything
        expected["class0/005.jpg"] = "no_permission"
    assert {path: reason for path, reason in errors.items() if reason} == expected
    assert sum(result.errors.values()) == len(expected)
    assert json.loads(out.read("_done.json"))["errors"] == result.errors


@pytest.mark.parametrize(
    ("closed", "rows"), [("class0/inner", "19 rows in 4"), ("class1", "13 rows in 3"), ("class2", "13 rows in 3")]
)
def test_a_folder_that_may_not_be_read_is_counted_like_an_image_that_cannot(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str, rows: str
) -> None:
    """And still is when the work resumes, with the folder readable by then: the images of a plan never change."""
    folder, shards = write_photos(tmp_path / "photos", each=6), ShardOptions(tmp_path / "parts", shard_size=6)
    (folder / "class0" / "inner").mkdir()
    with monkeypatch.context() as patch:
        close(folder / closed, patch)
        result = headstart.predict(run, folder, shards=shards)
    (folder / closed).chmod(0o700)
    unusable = {row["path"]: row["error"] for row in rows_of(tmp_path / "parts") if row["error"]}
    assert unusable == {f"{closed}/": "no_permission"}
    assert result.errors == result.to_json()["errors"] == {"no_permission": 1}
    said = f"{rows} parts in {tmp_path / 'parts'}; 1 could not be used: no_permission 1"
    assert result.table().splitlines()[0] == said
    result.check()  # as with images that cannot be read, the command succeeds unless there is nothing else
    (tmp_path / "parts" / result.parts[-1]).unlink()
    again = headstart.predict(run, folder, shards=shards)
    assert (again.images, again.errors, again.sha256) == (result.images, result.errors, result.sha256)


def close(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Take away the permission to list a folder; also for root, who needs none."""
    folder.chmod(0)
    scandir = os.scandir

    def checked(place: Any = ".") -> Any:
        if os.fspath(place) == os.fspath(folder):
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(place))
        return scandir(place)

    if os.access(folder, os.R_OK):
        patch.setattr(os, "scandir", checked)


def test_a_name_that_is_not_unicode_is_written_with_its_bytes_escaped(run: Path, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", classes=1, each=2)
    try:
        os.rename(folder / "class0" / "001.jpg", os.fsencode(folder) + b"/class0/caf\xe9.jpg")
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    headstart.predict(run, folder, shards=tmp_path / "parts")
    assert [row["path"] for row in rows_of(tmp_path / "parts")] == ["class0/000.jpg", "class0/caf\\xe9.jpg"]


def test_a_class_that_is_not_unicode_is_written_with_its_bytes_escaped(run: Path) -> None:
    classifier = open_classifier(run).classifier
    renamed = replace(classifier, classes=("caf\udce9", "class1", "class2"))
    logits = np.array([[99, 0, 0], [0, 99, 0]], np.float32)
    columns = PredictionColumns(renamed).columns(logits, np.zeros(2, bool))
    assert list(columns) == ["predicted", "set", "p(caf\\xe9)", "p(class1)", "p(class2)"]
    assert columns["predicted"].to_pylist() == ["caf\\xe9", "class1"]
    assert columns["set"].to_pylist() == [["caf\\xe9"], ["class1"]]


SLOW_DISK = '''
"""A disk that takes long for one file."""
import time
from headstart.io.stores.local_store import LocalStore
plain = LocalStore.read

def _read(self, key, **options):
    time.sleep(4 if key == "class0/003.jpg" else 0)
    return plain(self, key, **options)

LocalStore.read = _read
'''


@pytest.mark.slow  # a file takes 4 s
def test_the_time_for_reading_an_image_does_not_make_it_too_slow(
    run: Path, photos: Path, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(serial, tmp_path / "parts")
    (out / min(hashes(out))).unlink()
    monkeypatch.setenv("PYTHONPATH", hooked(tmp_path, SLOW_DISK))
    with ShardWorker(job_of(run, photos, out), seconds_each=1.5) as worker:
        assert worker(0).errors == {}
    assert hashes(out) == hashes(serial)


DYING_NETWORK = '''
"""A network that ends every process that computes it."""
import headstart.model.inference.engines.openvino_engine as engine

engine.OpenVinoSession.run = lambda self: os._exit(3)
'''


@pytest.mark.slow  # six processes are started
@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_a_process_that_dies_without_an_image_to_blame_ends_the_work_although_another_image_was(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photos(tmp_path / "photos", classes=1, each=6)
    headstart.predict(run, folder, shards=tmp_path / "parts")
    (part,) = (tmp_path / "parts").glob("part-*")
    part.unlink()
    first = folder / "class0" / "000.jpg"
    first.write_bytes(first.read_bytes() + b"CRASH")
    (tmp_path / "parts" / "_names" / "names-000000.json.gz").unlink()
    job = job_of(run, folder, tmp_path / "parts")
    list(ShardNames(job.plan, open_store(job.out)).shards(open_shard_source(folder)))
    monkeypatch.setenv("PYTHONPATH", hooked(tmp_path, HOOK + DYING_NETWORK))
    monkeypatch.setattr("headstart.scale.shard_worker.MOST_DEATHS", 2)
    with ShardWorker(job) as worker, pytest.raises(ShardFailed) as caught:
        worker(0)
    assert caught.value.message == (
        "shard 0: its worker died 3 times (last: exit code 3), and no single image caused it."
    )


FAULT = '''
"""A fault in Python code."""
import headstart.model.inference.engines.openvino_engine as engine

engine.OpenVinoSession.run = lambda self: 1 / 0
'''


def test_an_exception_in_a_worker_is_told_at_once(
    run: Path, photos: Path, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(serial, tmp_path / "parts")
    (out / min(hashes(out))).unlink()
    monkeypatch.setenv("PYTHONPATH", hooked(tmp_path, FAULT))
    with ShardWorker(job_of(run, photos, out)) as worker, pytest.raises(ShardFailed) as caught:
        worker(0)
    assert caught.value.message == "a worker process stopped: ZeroDivisionError: division by zero"


def test_a_worker_imports_nothing_from_the_current_folder(
    run: Path, photos: Path, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "queue.py").write_text("import sys; sys.exit(5)")
    monkeypatch.chdir(tmp_path)
    with ShardWorker(job_of(run, photos, serial)) as worker:
        worker.open()


# Images that go away


@pytest.mark.slow  # three commands
def test_a_source_that_goes_away_ends_the_command_and_the_next_one_goes_on(run: Path, tmp_path: Path) -> None:
    folder = write_photos(tmp_path / "photos", classes=1, each=6)
    shards = ShardOptions(tmp_path / "parts", shard_size=6)
    headstart.predict(run, folder, shards=shards)
    before = hashes(tmp_path / "parts")
    for name in before:
        (tmp_path / "parts" / name).unlink()
    folder.rename(tmp_path / "unmounted")
    folder.mkdir()
    with pytest.raises(StoreUnreachable) as caught:
        headstart.predict(run, folder, shards=shards)
    assert caught.value.message == (f"{folder}: none of the images of shard 0 (6) can be read; is it still there?")
    assert caught.value.hint == (
        f"{folder}/class0/000.jpg: is missing. Parts made so far are kept: run the command again when the images are back. "
        "If they were removed on purpose, choose another --shards."
    )
    assert hashes(tmp_path / "parts") == {}
    folder.rmdir()
    (tmp_path / "unmounted").rename(folder)
    headstart.predict(run, folder, shards=shards)
    assert hashes(tmp_path / "parts") == before


UNMOUNTED = '''
"""A disk that is unmounted when the sixth image is read."""
import os
from headstart.io.stores.local_store import LocalStore
plain = LocalStore.read

def _read(self, key, **options):
    if key == "class0/005.jpg":
        os.rename(self.folder, f"{self.folder}-unmounted")
    return plain(self, key, **options)

LocalStore.read = _read
'''


def test_a_source_that_goes_away_within_a_shard_is_noticed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_photos(tmp_path / "photos", classes=1, each=8)
    headstart.predict(run, folder, shards=tmp_path / "parts")
    (part,) = (tmp_path / "parts").glob("part-*")
    part.unlink()
    monkeypatch.setenv("PYTHONPATH", hooked(tmp_path, UNMOUNTED))
    with ShardWorker(job_of(run, folder, tmp_path / "parts")) as worker, pytest.raises(StoreUnreachable) as caught:
        worker(0)
    assert caught.value.message == (
        f"{folder}: images of shard 0 that could be read at first no longer can; is it still there?"
    )
    assert not part.exists()


def test_a_listing_that_finds_nothing_any_more_is_not_the_end_of_the_names(tmp_path: Path) -> None:
    folder, out = write_photos(tmp_path / "photos", classes=1, each=6), open_store(tmp_path / "parts")
    assert next(ShardNames(plan_of(4), out).shards(open_shard_source(folder))) == 0
    folder.rename(tmp_path / "unmounted")
    folder.mkdir()
    with pytest.raises(StoreUnreachable) as caught:
        list(ShardNames(plan_of(4), out).shards(open_shard_source(folder)))
    assert caught.value.message == f"{folder}: no longer contains any image; is it still there?"
    folder.rmdir()
    (tmp_path / "unmounted").rename(folder)
    assert list(ShardNames(plan_of(4), out).shards(open_shard_source(folder))) == [0, 1]


# A stop


@pytest.mark.parametrize("listed", [True, False], ids=["listed later", "never listed"])
def test_after_a_stop_nothing_is_started(
    listed: bool, run: Path, photos: Path, serial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C comes while the engine waits for the name of a shard, which comes later or never."""
    out = copied(serial, tmp_path / "parts")
    part = out / min(hashes(out))
    part.unlink()
    arrived, never = threading.Event(), threading.Event()

    def unexpected(_: object) -> None:
        pytest.fail("work was done after the stop")

    def interrupt(*_: object) -> None:
        arrived.set()
        raise KeyboardInterrupt

    def shards() -> Iterator[int]:
        time.sleep(0.5)  # by then, the engine waits
        os.kill(os.getpid(), signal.SIGINT)
        arrived.wait(PATIENCE)
        time.sleep(0.5)
        if listed or never.wait(PATIENCE):
            yield 0

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_local(job_of(run, photos, out), shards(), workers=1, receive=unexpected, advance=unexpected)
    finally:
        signal.signal(signal.SIGINT, before)
    time.sleep(1 if listed else 0)
    assert (children_of(os.getpid()), part.exists()) == ([], False)
    never.set()


# Processes that are killed


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    psutil = pytest.importorskip("psutil", reason="needs psutil")
    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def kill(pid: int, how: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, how)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_kills_of_workers_and_drivers_change_no_byte(run: Path, tmp_path: Path) -> None:
    """Workers are killed at any moment, drivers by kill -9 and Ctrl-C; the parts are those of a serial run."""
    folder = write_photos(tmp_path / "photos", each=250)
    shards = ShardOptions(tmp_path / "serial", shard_size=50)
    headstart.predict(run, folder, shards=shards)
    rng, codes, killed = np.random.default_rng(7), [], 0
    words = [*COMMAND, "predict", str(run), str(folder), "--shards", str(tmp_path / "parts"), "--shard-size", "50"]
    for attempt in range(8):
        for part in sorted((tmp_path / "parts").glob("part-*"))[:4]:
            part.unlink()  # so that there is work, however fast the machine is
        (tmp_path / "parts" / "_done.json").unlink(missing_ok=True)
        in_this = 0  # a shard that ends seven processes stops the command
        driver = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        ends = time.monotonic() + np.exp(rng.uniform(np.log(0.5), np.log(8)))
        while driver.poll() is None and (attempt == 7 or time.monotonic() < ends or not in_this):
            for child in children_of(driver.pid) if in_this < 3 else []:
                kill(child, signal.SIGKILL)
                killed, in_this = killed + 1, in_this + 1
            time.sleep(np.exp(rng.uniform(np.log(0.1), np.log(3))) if in_this else 0.02)
        if driver.poll() is None:
            kill(driver.pid, (signal.SIGKILL, signal.SIGINT)[attempt % 2])
        codes.append(driver.wait(PATIENCE))
    assert codes[-1] == 0, codes
    assert killed > 3
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "serial")
    done = [(tmp_path / name / "_done.json").read_bytes() for name in ("parts", "serial")]
    assert done[0] == done[1]
    assert sorted(str(row["path"]) for row in rows_of(tmp_path / "parts")) == sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")
    )


@pytest.mark.slow
def test_two_drivers_at_once_make_one_set_of_parts(run: Path, photos: Path, serial: Path, tmp_path: Path) -> None:
    words = ["predict", str(run), str(photos), "--shards", str(tmp_path / "parts"), "--shard-size", "10"]
    drivers = [subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [driver.wait(PATIENCE) for driver in drivers] == [0, 0]
    assert hashes(tmp_path / "parts") == hashes(serial)
    assert (tmp_path / "parts" / "_done.json").read_bytes() == (serial / "_done.json").read_bytes()


# Ray


def test_ray_is_named_where_it_is_not_installed(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"--engine ray needs ray, .*\n  pip install 'headstart\[ray\]'"):
        headstart.predict(run, photos, shards=ShardOptions(tmp_path / "parts", engine="ray"))
    assert not (tmp_path / "parts").exists()


def ray_command(run: Path, folder: Path, out: Path, shard_size: int) -> list[str]:
    pytest.importorskip("ray.data", reason="needs ray[data]")
    return [
        *(*COMMAND, "predict", str(run), str(folder), "--shards", str(out)),
        *("--shard-size", str(shard_size), "--engine", "ray", "--json"),
    ]


@pytest.mark.slow
def test_ray_makes_the_parts_of_the_local_engine(run: Path, photos: Path, serial: Path, tmp_path: Path) -> None:
    """Another plan at the same place is refused as well, and a damaged run is said as the local engine says it."""
    words = ray_command(run, photos, tmp_path / "parts", 10)
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert (json.loads(done.stdout)["made"], done.stdout.count("\n")) == (5, 1)
    assert hashes(tmp_path / "parts") == hashes(serial)
    again = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert json.loads(again.stdout)["made"] == 0


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals as on Unix")
def test_ray_replaces_actors_that_are_killed(run: Path, tmp_path: Path) -> None:
    psutil = pytest.importorskip("psutil", reason="needs psutil")
    folder = write_photos(tmp_path / "photos", each=100)
    headstart.predict(run, folder, shards=ShardOptions(tmp_path / "serial", shard_size=10))
    driver = subprocess.Popen(ray_command(run, folder, tmp_path / "parts", 10), stdout=subprocess.DEVNULL)
    killed: set[int] = set()
    while driver.poll() is None:
        time.sleep(0.3)
        with suppress(psutil.Error):
            below = psutil.Process(driver.pid).children(recursive=True)
            actors = [each for each in below if each.name().startswith("ray::MapWorker") and each.children()]
            for actor in actors[: len(killed) < 3]:
                killed.add(actor.pid)
                actor.kill()
    assert (driver.returncode, len(killed) > 0) == (0, True)
    assert hashes(tmp_path / "parts") == hashes(tmp_path / "serial")


# Disks and interruptions


@pytest.mark.skipif(sys.platform == "win32", reason="limits as on Unix")
def test_a_full_disk_stops_the_command_and_the_next_one_goes_on(
    run: Path, photos: Path, serial: Path, tmp_path: Path
) -> None:
    words = [*COMMAND, "predict", str(run), str(photos), "--shards", str(tmp_path / "parts"), "--shard-size", "10"]
    limited = (
        f"import os, resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); os.execv({words[0]!r}, {words})"
    )
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stderr.startswith(f"WriteError: {tmp_path / 'parts'}"), done.stderr
    assert hashes(tmp_path / "parts") == {}
    assert not list((tmp_path / "parts").glob(".*"))
    headstart.predict(run, photos, shards=ShardOptions(tmp_path / "parts", shard_size=10))
    assert hashes(tmp_path / "parts") == hashes(serial)


# docs/scale.md: its examples are run as they stand there, and its table of costs is the one that is made today

PAGE = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def there(run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `run` and `photos`, as the examples have it."""
    if not (run.parent / "photos").exists():
        shutil.copytree(photos, run.parent / "photos")
    monkeypatch.chdir(run.parent)
    return run.parent


def example(word: str) -> str:
    """The one example with a word."""
    (found,) = [code for code in EXAMPLES if word in code]
    return found


def labels_of(place: Path, column: str = "label") -> dict[str, str]:
    """{file: label} from all parquet files of a folder."""
    import pyarrow.parquet

    rows = [row for file in sorted(place.glob("*.parquet")) for row in pyarrow.parquet.read_table(file).to_pylist()]
    return {"/".join(row["path"].split("/")[-2:]): row[column] for row in rows}


def run_example(word: str, place: Path, out: Path) -> None:
    """Run an example in a process, with names for what it leaves open."""
    names = {"RUN": str(place / "run"), "PHOTOS": str(place / "photos"), "OUT": str(out)}
    code = "\n".join([*(f"{name} = {value!r}" for name, value in names.items()), example(word)])
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr


def test_every_example_is_python() -> None:
    assert len(EXAMPLES) == 7
    for code in EXAMPLES:
        ast.parse(code)


def test_predicting_in_parts_and_reading_them_back(there: Path) -> None:
    pytest.importorskip("pandas", reason="needs pandas")
    names: dict[str, Any] = {"headstart": headstart}
    exec(example('shards="predicted"'), names)
    assert (names["result"].images, names["result"].errors) == (42, {})
    exec(example("pandas.read_parquet"), names)
    assert len(names["table"]) == 42
    exec(example("pyarrow.dataset"), names)


def test_a_function_of_bytes_answers_as_predict_does(there: Path) -> None:
    names: dict[str, Any] = {}
    exec(example('make_predict_fn("run")'), names)
    predictions = headstart.predict("run", "photos").predictions
    answers = names["answers"]
    assert [str(file) for file in names["files"]] == list(predictions.paths)
    assert answers["label"] == [predictions.classes[k] for k in predictions.predicted]
    assert np.array_equal(np.stack(answers["probabilities"]), predictions.probabilities.astype(np.float32))
    assert answers["error"] == [""] * 42 and all(answers["set"])
    bad = make_predict_fn("run")([b"not an image", b"", names["files"][0].read_bytes()])
    assert (bad["label"], bad["error"]) == (["", "", answers["label"][0]], ["not_an_image", "empty", ""])
    assert np.array_equal(bad["probabilities"][2], answers["probabilities"][0])
    assert make_predict_fn("run")([])["label"] == []


def test_the_function_pickles_as_the_path_of_the_run(there: Path) -> None:
    import pickle

    predict = make_predict_fn("run")
    data = (there / "photos" / "class0" / "000.jpg").read_bytes()
    answers = predict([data])
    copy = pickle.loads(pickle.dumps(predict))
    assert len(pickle.dumps(predict)) < 1_000
    assert copy([data])["label"] == answers["label"]
    assert copy.classes == ("class0", "class1", "class2")


@pytest.mark.slow
def test_the_example_for_ray(there: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray.data", reason="needs ray[data]")
    run_example("ray.data", there, tmp_path / "out")
    predictions = headstart.predict("run", "photos").predictions
    expected = [predictions.classes[k] for k in predictions.predicted]
    assert labels_of(tmp_path / "out") == {
        path.removeprefix("photos/"): label for path, label in zip(predictions.paths, expected, strict=True)
    }


@pytest.mark.slow
def test_the_example_for_spark(there: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyspark", reason="needs pyspark")
    if shutil.which("java") is None:
        pytest.skip("needs Java, which is not here")
    run_example("SparkSession", there, tmp_path / "out")
    predictions = headstart.predict("run", "photos").predictions
    expected = [predictions.classes[k] for k in predictions.predicted]
    assert labels_of(tmp_path / "out") == {
        path.removeprefix("photos/"): label for path, label in zip(predictions.paths, expected, strict=True)
    }


# Costs


@pytest.fixture(scope="module")
def cost() -> dict[str, Any]:
    return runpy.run_path(str(REPOSITORY / "benchmarks" / "cost.py"))


def test_the_table_of_costs_is_the_one_that_is_made_today(cost: dict[str, Any]) -> None:
    assert cost["with_table"](PAGE) == PAGE


@pytest.mark.parametrize(
    ("price", "rate", "gets", "puts", "compute", "total"),
    [
        (0.0893, 465, 0, 0, 0.0533, 0.0533),  # 1e6 / 465 s = 2,150.5 s = 0.59737 h, at $0.0893
        (0.0893, 465, 1, 0.001, 0.0533, 0.4583),  # and $0.40 of GETs, $0.005 of LISTs
        (0.0893, 465, 1e-4, 1e-4, 0.0533, 0.0539),  # and 100 GETs for $0.00004, 100 PUTs for $0.0005
        (8 * 0.8048, 6_250, 0, 0, 0.2862, 0.2862),  # 160 s = 0.04444 h, at $6.4384
        (3.6, 1_000, 2, 0, 1.0, 1.8),  # 1,000 s at $0.001; $0.80 of GETs
    ],
)
def test_costs_are_those_computed_by_hand(
    price: float, rate: float, gets: float, puts: float, compute: float, total: float, cost: dict[str, Any]
) -> None:
    case = cost["Case"]("", price, rate, gets, puts)
    assert (case.compute, case.total) == (pytest.approx(compute, abs=5e-5), pytest.approx(total, abs=5e-5))


def test_with_one_object_an_image_the_requests_cost_more_than_the_machine(cost: dict[str, Any]) -> None:
    alone = cost["CASES"][1]
    assert round(100 * alone.requests / alone.total) == 88
