"""Data below the URL of a bucket: the same as from a folder, downloaded once, and named by its URL everywhere."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headstart
from conftest import draw
from headstart import cli
from headstart.data.data_source import DataSource
from headstart.data.open_dataset import open_dataset
from headstart.errors import ChangedInStore, HeadstartError, MissingData, StoreError, StoreUnreachable, WriteError
from headstart.io.stores import retries
from headstart.io.stores.store import open_store
from s3_servers import CANARY, FaultProxy, fault_proxy, make_bucket, moto

URL = "s3://photos/stripes/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stripes") / "stripes"
    for kind, name in enumerate(("across", "along")):
        (root / name).mkdir(parents=True)
        for seed in range(20):
            draw(kind, seed).save(root / name / f"{seed:02} é.png")
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[FaultProxy]:
    pytest.importorskip("obstore", reason="needs obstore")
    with moto() as address, fault_proxy(address) as proxy:
        make_bucket(address, "photos")
        with pytest.MonkeyPatch.context() as patch:
            _point_at(proxy, patch)
            store = open_store(URL)
            for file in sorted(folder.rglob("*.png")):
                store.write(file.relative_to(folder).as_posix(), file)
            open_store("s3://photos").write("stripes.zip", _zip_of(folder))
        yield proxy


@pytest.fixture(autouse=True)
def settings(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    _point_at(server, monkeypatch)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.002)
    server.refused = server.cut = server.wrong = server.latency = 0.0
    server.answer = None
    server.requests.clear()


def _point_at(proxy: FaultProxy, patch: pytest.MonkeyPatch) -> None:
    for name, value in {**CANARY, "AWS_ENDPOINT_URL": proxy.address}.items():
        patch.setenv(name, value)


def _zip_of(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder.parent / "stripes"), "zip", folder))


def read(server: FaultProxy) -> int:
    """The images that were asked for since the last call."""
    n = sum(line.startswith("GET") and ".png" in line for line in server.requests)
    server.requests.clear()
    return n


def test_a_bucket_is_the_dataset_that_its_files_are_in_a_folder(server: FaultProxy, folder: Path) -> None:
    there, here = open_dataset(URL), open_dataset(folder)
    assert there.paths == here.paths
    assert there.classes == here.classes
    assert np.array_equal(there.labels, here.labels)
    assert [file.read_bytes() for file in there.files] == [file.read_bytes() for file in here.files]
    assert read(server) == 40
    assert open_dataset(Path(URL)).paths == here.paths
    assert read(server) == 0


def test_only_what_changed_is_downloaded_again(
    server: FaultProxy, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = open_store("s3://photos/changing")
    files = sorted(folder.rglob("*.png"))
    for file in files:
        store.write(file.relative_to(folder).as_posix(), file)
    first = open_dataset("s3://photos/changing")
    assert "s3://photos/changing/: downloading 40 of 40 files (0." in caplog.text
    read(server)
    store.write("along/new.png", files[0])
    store.write(files[0].relative_to(folder).as_posix(), files[1])
    store.delete(files[2].relative_to(folder).as_posix())
    server.requests.clear()
    second = open_dataset("s3://photos/changing")
    assert read(server) == 2
    assert len(first) == len(second) == 40
    assert second.file(0).read_bytes() == files[1].read_bytes()
    assert first.file(0).read_bytes() == files[0].read_bytes()  # the older listing is as it was


def test_a_download_that_is_interrupted_goes_on(server: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.data.from_store.THREADS", 1)
    real, asked = open_store(URL).read, []

    def breaks(*args: object, **kwargs: object) -> bytes:
        asked.append(args)
        if len(asked) == 31:
            raise KeyboardInterrupt
        return real(*args[1:], **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("headstart.io.stores.cloud_store.CloudStore.read", breaks)
        open_dataset(URL)
    read(server)
    assert len(open_dataset(URL)) == 40
    assert read(server) in (10, 9)


def test_faults_of_the_server_change_nothing(server: FaultProxy, folder: Path) -> None:
    server.refused, server.cut, server.wrong, server.stalls = 0.20, 0.10, 0.05, [1.0]
    there, here = open_dataset(URL), open_dataset(folder)
    assert [file.read_bytes() for file in there.files] == [file.read_bytes() for file in here.files]


def test_a_run_that_was_trained_from_a_bucket_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Credentials are in no file and no message; `reproduce`, `evaluate` and `predict` read the bucket too."""
    caplog.set_level(logging.DEBUG, logger="headstart")
    monkeypatch.chdir(tmp_path)
    recipe = headstart.Recipe(backbone="mobilenetv2_050.headstart", approach="linear")
    headstart.train(URL, out=Path("there"), recipe=recipe)
    assert json.loads((tmp_path / "there" / "headstart.json").read_text())["provenance"]["data"]["path"] == URL
    assert URL in (tmp_path / "there" / "report.html").read_text()
    assert headstart.reproduce("there").same
    assert headstart.evaluate("there", URL).metrics["accuracy"].value > 0.5
    predicted = headstart.predict("there", URL, f"{URL}across/00 é.png").predictions
    assert predicted.paths[0].startswith(f"{URL}across/")
    assert len(predicted) == 41
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    cached = [f.read_bytes() for f in Path(os.environ["HEADSTART_CACHE"]).rglob("*") if f.is_file()]
    assert not any(b"CANARY" in data for data in (*written, *cached, caplog.text.encode()))


def test_check_split_and_embed_read_a_bucket(tmp_path: Path) -> None:
    assert headstart.check(URL, out=tmp_path / "checks.csv").images == 40
    assert headstart.split(URL, out=tmp_path / "split.csv").images["train"]
    assert len(headstart.embed(URL, backbone="mobilenetv2_050.headstart").features.paths) == 40


def test_an_archive_and_options_are_read_from_a_bucket(folder: Path) -> None:
    assert open_dataset("s3://photos/stripes.zip").paths == open_dataset(folder).paths
    grouped = open_dataset(DataSource(Path(URL), group_from="/(\\d+)"))
    assert len(set(grouped.groups.tolist())) == 20


def test_what_is_wrong_with_a_place_is_named_by_its_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingData, match=r"^s3://photos/nothing/: there are no files below this URL\."):
        open_dataset("s3://photos/nothing")
    with pytest.raises(StoreError, match=r"^s3://missing: there is no such bucket\."):
        open_dataset("s3://missing/x")
    store = open_store("s3://photos/odd")
    store.write("A.jpg", b"1")
    store.write("a.jpg", b"1")
    with pytest.raises(StoreError, match=r"keys that cannot be the names of files: 'a.jpg' differs from another"):
        open_dataset("s3://photos/odd")
    open_store("s3://photos/texts").write("notes.txt", b"1")
    with pytest.raises(HeadstartError) as caught:
        open_dataset("s3://photos/texts")
    assert caught.value.message.startswith("s3://photos/texts")
    open_store("s3://photos").write("labels.csv", b"path,label\n")
    with pytest.raises(MissingData, match=r"Give the folder that has both, s3://photos/"):
        open_dataset("s3://photos/labels.csv")
    with pytest.raises(WriteError, match=r"^s3://photos/run: is a URL; expected a path on this machine"):
        headstart.train(URL, out="s3://photos/run")
    monkeypatch.setattr("headstart.data.from_store.SPARE", 1 << 60)
    with pytest.raises(WriteError, match="MB are free"):
        open_dataset(URL)


def test_a_file_that_changes_while_it_is_downloaded_is_named(
    server: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.data import from_store

    listed = from_store._listed

    def stale(url: str) -> object:
        store, files, single = listed(url)
        return store, [replace(files[0], etag='"other"'), *files[1:]], single

    monkeypatch.setattr(from_store, "_listed", stale)
    with pytest.raises(ChangedInStore, match="has changed since it was listed"):
        open_dataset(URL)


@pytest.mark.parametrize("words", [["check", URL], ["split", URL, "--out", "s.csv"], ["predict", "run", URL]])
def test_offline_refuses_a_bucket(
    words: list[str],
    server: FaultProxy,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if words[0] != "predict":
        for offline in ("--offline", "--offline=true"):
            assert cli.run([*words, offline]) == 1
            assert "is a URL, and --offline forbids network access" in capsys.readouterr().err
    assert "HEADSTART_OFFLINE" not in os.environ
    with pytest.raises(StoreUnreachable):
        headstart.train(URL, out="run", weights=headstart.WeightsSource(offline=True))
    monkeypatch.setenv("HEADSTART_OFFLINE", "1")
    with pytest.raises(StoreUnreachable):
        open_dataset(URL)
    assert server.requests == []
