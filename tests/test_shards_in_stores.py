"""`--shards` from and to buckets: the same rows as from a folder, whatever the server does, and no credential anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart
from conftest import PATIENCE
from headstart.io.files import sha256_bytes
from headstart.io.stores.store import Store, open_store
from headstart.training.recipe import Recipe
from headstart.verbs.pack import pack
from s3_servers import CANARY, FaultProxy, fault_proxy, make_bucket, moto, rclone, seaweed

pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
pytest.importorskip("obstore", reason="needs obstore")
pytestmark = pytest.mark.slow  # each command is a process of its own
DATA = "s3://photos/data"
SIZE = ["--shard-size", "10", "--workers", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path, warm_cache: Path) -> Path:
    """A run on `photos`, and beside it `cache` with the compiled network."""
    place = tmp_path_factory.mktemp("in-stores")
    shutil.copytree(warm_cache, place / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(place / "cache"))
        headstart.train(photos, out=place / "run", weights=tiny_weights, recipe=Recipe(approach="linear"), report=False)
    return place / "run"


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultProxy]:
    with moto() as address, fault_proxy(address) as between:
        make_bucket(address, "photos")
        yield between


@pytest.fixture
def bucket(proxy: FaultProxy, trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> FaultProxy:
    proxy.refused = proxy.cut = proxy.wrong = proxy.latency = 0.0
    settle(proxy.address, trained, photos, monkeypatch)
    proxy.requests.clear()
    return proxy


def settle(address: str, trained: Path, photos: Path, patch: pytest.MonkeyPatch) -> None:
    """Point at a server, and put the images there."""
    for name, value in {**CANARY, "AWS_ENDPOINT_URL": address}.items():
        patch.setenv(name, value)
    patch.setenv("HEADSTART_CACHE", str(trained.parent / "cache"))
    store = open_store(DATA)
    for file in sorted(file for file in photos.rglob("*") if file.is_file()):
        key = file.relative_to(photos).as_posix()
        if store.create(key, file.read_bytes()):
            continue


def predict(trained: Path, source: str, out: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "headstart", "predict", str(trained), source, "--shards", out, *SIZE]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def finished(*drivers: subprocess.Popen[str]) -> None:
    for driver in drivers:
        out, err = driver.communicate(timeout=PATIENCE)
        assert driver.returncode == 0, err
        assert "CANARY" not in out + err


def hashes(out: Store) -> dict[str, str]:
    """{name: SHA-256} of the parts."""
    return {file.key: sha256_bytes(out.read(file.key)) for file in out.list() if file.key.startswith("part-")}


def predictions(out: Store) -> list[tuple[object, ...]]:
    import io

    import pyarrow.parquet

    rows: list[tuple[object, ...]] = []
    for file in out.list():
        if file.key.startswith("part-"):
            rows += [
                tuple(row.values()) for row in pyarrow.parquet.read_table(io.BytesIO(out.read(file.key))).to_pylist()
            ]
    return rows


def test_parts_from_a_bucket_have_the_rows_of_the_folder_and_hold_no_credential(
    bucket: FaultProxy, trained: Path, photos: Path, tmp_path: Path
) -> None:
    """S6: with 20 % of requests refused, 10 % cut and 5 % of a wrong length, the parts are those of a clean server."""
    finished(predict(trained, str(photos), str(tmp_path / "local")))
    finished(predict(trained, DATA, "s3://photos/clean"))
    clean = open_store("s3://photos/clean")
    assert predictions(clean) == predictions(open_store(tmp_path / "local"))
    bucket.refused, bucket.cut, bucket.wrong, bucket.stalls = 0.20, 0.10, 0.05, [2.0]
    finished(predict(trained, DATA, "s3://photos/faulty"))
    bucket.refused = bucket.cut = bucket.wrong = 0.0
    faulty = open_store("s3://photos/faulty")
    assert hashes(faulty) == hashes(clean)
    assert not any(b"CANARY" in faulty.read(file.key) for file in faulty.list())


def test_two_drivers_of_one_place_in_a_bucket_make_one_set_of_parts(bucket: FaultProxy, trained: Path) -> None:
    finished(predict(trained, DATA, "s3://photos/alone"))
    finished(predict(trained, DATA, "s3://photos/both"), predict(trained, DATA, "s3://photos/both"))
    both = open_store("s3://photos/both")
    assert hashes(both) == hashes(open_store("s3://photos/alone"))
    assert [file.key for file in both.list() if "done" in file.key] == ["_done.json"]


def test_a_pack_is_read_in_place_with_few_requests(
    bucket: FaultProxy, trained: Path, photos: Path, tmp_path: Path
) -> None:
    pack(photos, out=Path("s3://photos/packed"))
    bucket.requests.clear()
    finished(predict(trained, "s3://photos/packed", str(tmp_path / "packed")))
    images = sum(".tar" in line and line.startswith("GET") for line in bucket.requests)
    assert images <= 2
    finished(predict(trained, str(photos), str(tmp_path / "local")))
    assert predictions(open_store(tmp_path / "packed")) == predictions(open_store(tmp_path / "local"))


def test_what_a_bucket_refuses_ends_the_command_with_one_sentence(bucket: FaultProxy, trained: Path) -> None:
    for source, out, message in (
        ("s3://missing/x", "s3://photos/a", "StoreRefused: s3://missing: there is no such bucket."),
        (DATA, "s3://missing/x", "StoreRefused: s3://missing: there is no such bucket."),
        (DATA, f"{DATA}/parts", f"WriteError: {DATA}/parts/: is inside the data ({DATA}/), where it would be read"),
        (
            f"{DATA}/photos.zip",
            "s3://photos/a",
            f"NoImages: {DATA}/photos.zip/: contains no images.\n  With --shards, a",
        ),
    ):
        driver = predict(trained, source, out)
        assert message in driver.communicate(timeout=PATIENCE)[1]
        assert driver.returncode == 1


def test_a_bucket_that_goes_away_ends_the_command_and_the_next_one_goes_on(
    bucket: FaultProxy, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "parts"
    finished(predict(trained, DATA, str(out)))
    before = hashes(open_store(out))
    for name in before:
        (out / name).unlink()
    for answer, message in (
        ((404, "NoSuchBucket"), "s3://photos: there is no such bucket."),
        ((301, "PermanentRedirect"), "s3://photos: is in another region."),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "answer", answer)
            driver = predict(trained, DATA, str(out))
            said = driver.communicate(timeout=PATIENCE)[1]
        assert (driver.returncode, message in said) == (1, True), said
    assert hashes(open_store(out)) == {}
    finished(predict(trained, DATA, str(out)))
    assert hashes(open_store(out)) == before


def test_an_object_that_is_denied_or_archived_costs_one_row_and_a_shard_of_them_the_command(
    bucket: FaultProxy, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{n:03}.jpg" for n in range(10)]
    store = open_store("s3://photos/some")
    for name in names:
        store.write(name, open_store(DATA).read(f"class0/{name}"))
    monkeypatch.setattr(bucket, "answers", {"003.jpg": (403, "AccessDenied"), "007.jpg": (403, "InvalidObjectState")})
    finished(predict(trained, store.url, str(tmp_path / "parts")))
    done = json.loads(open_store(tmp_path / "parts").read("_done.json"))
    assert (done["images"], done["errors"]) == (10, {"no_permission": 1, "unreadable": 1})
    monkeypatch.setattr(bucket, "answers", dict.fromkeys(names, (403, "AccessDenied")))
    driver = predict(trained, store.url, str(tmp_path / "again"))
    said = driver.communicate(timeout=PATIENCE)[1]
    assert driver.returncode == 1
    assert said.endswith(
        "StoreUnreachable: s3://photos/some/: none of the images of shard 0 (10) can be read; is it still there?\n"
        "  s3://photos/some/000.jpg: no permission (AccessDenied). Parts made so far are kept: run the command again when "
        "the images are back. If they were removed on purpose, choose another --shards.\n"
    ), said


@pytest.mark.parametrize("serve", [seaweed, rclone])
def test_two_drivers_on_real_servers_with_and_without_conditions(
    serve: object, trained: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3: a server that ignores conditions replaces parts by equal ones."""
    (tmp_path / "server").mkdir()
    with serve(tmp_path / "server") as address:
        make_bucket(address, "photos")
        monkeypatch.setitem(CANARY, "AWS_SESSION_TOKEN", "")
        settle(address, trained, photos, monkeypatch)
        finished(predict(trained, DATA, str(tmp_path / "alone")))
        finished(predict(trained, DATA, "s3://photos/both"), predict(trained, DATA, "s3://photos/both"))
        both = open_store("s3://photos/both")
        assert hashes(both) == hashes(open_store(tmp_path / "alone"))
        assert json.loads(both.read("_done.json"))
