"""A run folder, or a file of the cache, that is not as it was written: refused by name, or made anew; never trusted."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart
from headstart import Recipe
from headstart.cli import run as run_command
from headstart.errors import DamagedRun, HeadstartError, MissingRun, RunError
from headstart.io.files import read_json
from headstart.io.folders import MANIFEST, write_manifest
from headstart.model.inference.engines.openvino_engine import read_graph
from headstart.model.inference.features import FeatureStore
from headstart.runs.run_folder import RunFolder, load_classifier
from headstart.runs.saved_classifier import backbone_content

FUSED = Recipe(backbone="test_resnet.a+test_efficientnet.b")


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, warm_cache: Path, photos: Path, tiny_weights: Path
) -> tuple[Path, Path]:
    """A run that fuses two backbones, and the cache that was used. Shared: copy before writing."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(warm_cache, folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        headstart.train(photos, out=folder / "run", weights=tiny_weights, recipe=FUSED)
    return folder / "run", folder / "cache"


@pytest.fixture
def run(made: tuple[Path, Path], tmp_path: Path, own_cache: Path) -> Path:
    """A copy of the run to do harm to, and a copy of its cache as this test's own."""
    shutil.copytree(made[1], own_cache, dirs_exist_ok=True)
    return Path(shutil.copytree(made[0], tmp_path / "run"))


def files_of(run: Path) -> list[str]:
    return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())


def flip(path: Path, rng: np.random.Generator) -> bytes:
    """Change one byte of a file at a random place, to any other value; returns what the file was."""
    before = path.read_bytes()
    after = bytearray(before)
    after[int(rng.integers(len(after)))] ^= int(rng.integers(1, 256))
    path.write_bytes(after)
    return before


# -------------------------------------------------------------------------------------------------- a damaged folder
READ_TO_PREDICT = ("headstart.json", "config.json", "model.safetensors")


def read_to_predict(run: Path) -> list[str]:
    return [name for name in files_of(run) if name.rpartition("/")[2] in READ_TO_PREDICT]


def test_one_flipped_byte_is_refused_by_name(run: Path) -> None:
    rng = np.random.default_rng(20260201)
    for name in rng.choice(read_to_predict(run), 60):
        before = flip(run / name, rng)
        with pytest.raises(DamagedRun) as caught:
            load_classifier(run)
        assert caught.value.message == f"{run / name}: has changed since it was written (SHA-256 differs)."
        (run / name).write_bytes(before)
    load_classifier(run)


PARTS: dict[str, Callable[[RunFolder], object]] = {
    "split.csv": lambda run: run.split,
    "predictions.csv": lambda run: run.predictions,
    "metrics.json": lambda run: run.metrics,
    "history.csv": lambda run: run.history,
    "checks.csv": lambda run: run.findings,
    "epochs.csv": lambda run: run.epochs,
    "steps.csv": lambda run: run.steps,
    "training_images.png": lambda run: run.training_images_png,
}


def test_what_a_prediction_does_not_read_may_change_and_is_refused_where_it_is_read(run: Path) -> None:
    """A note in the model card, a table saved by a spreadsheet: predictions go on."""
    rng = np.random.default_rng(20260203)
    for name in sorted(set(files_of(run)) - set(read_to_predict(run))):
        flip(run / name, rng)
        load_classifier(run)
        if name in PARTS:
            with pytest.raises(DamagedRun) as caught:
                PARTS[name](RunFolder(run))
            assert caught.value.message == f"{run / name}: has changed since it was written (SHA-256 differs)."


@pytest.mark.slow
def test_a_changed_byte_of_the_manifest_is_refused_or_harmless(run: Path) -> None:
    """Harmless: where it lists what a prediction does not read."""
    rng = np.random.default_rng(20260202)
    before, data = load_classifier(run), (run / MANIFEST).read_bytes()
    refused = 0
    for place in range(len(data)):
        for value in rng.choice(np.delete(np.arange(256), data[place]), 3, replace=False):
            (run / MANIFEST).write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            try:
                assert load_classifier(run).id == before.id
            except RunError:
                refused += 1
    assert refused > len(data) / 2


def test_the_command_line_names_the_file_and_exits_with_1(
    run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "member2-test_efficientnet.b" / "model.safetensors", np.random.default_rng(1))
    for words in (["predict", str(run), str(photos)], ["evaluate", str(run), str(photos)], ["reproduce", str(run)]):
        assert run_command(words) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err == (
            f"DamagedRun: {run}/member2-test_efficientnet.b/model.safetensors: has changed since it was written "
            f"(SHA-256 differs).\n  Restore the folder from a copy, or train again.\n"
        )


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    """The same bytes, elsewhere."""
    elsewhere = path.parents[2] / f"{path.parents[1].name}-{path.name}"
    shutil.move(path, elsewhere)
    path.symlink_to(elsewhere)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe_instead(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def grow(path: Path) -> None:
    with open(path, "ab") as file:
        file.write(b"\n")


HARMS: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    **{harm.__name__: harm for harm in (truncate, empty, folder_instead, pipe_instead, grow)},
}


@pytest.mark.parametrize("harm", HARMS)
def test_each_file_that_is_read_is_missed_and_checked(run: Path, tmp_path: Path, harm: str) -> None:
    for name in read_to_predict(run):
        copy = Path(shutil.copytree(run, tmp_path / f"{harm}-{name.replace('/', '-')}" / "run"))
        HARMS[harm](copy / name)
        with pytest.raises(RunError) as caught:
            load_classifier(copy)
        assert name in caught.value.message


def test_a_linked_file_counts_if_its_bytes_do(run: Path) -> None:
    """As caches and data versioning tools store files: in a place of their own, with a link to them."""
    before = load_classifier(run)
    link(run / "member1-test_resnet.a" / "model.safetensors")
    assert load_classifier(run).id == before.id


ADDED = (
    "pytorch_model.bin",
    "member1-test_resnet.a/x",
    "a b\n.txt",
    ".DS_Store",
    "._report.html",
    "Thumbs.db",
    ".git/HEAD",
)


def test_added_files_are_not_read(run: Path) -> None:
    before = load_classifier(run)
    for name in (*ADDED, "notes.txt", "split.csv~", "@eaDir/report.html", "corrections.csv"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("x")
    opened = RunFolder(run)
    assert opened.classifier.id == before.id
    assert not opened.corrections


def test_line_ends_that_git_has_changed_do_no_harm(run: Path) -> None:
    """As after a checkout on Windows; only texts are changed."""
    for name in files_of(run):
        if name.endswith((".json", ".csv", ".md", ".html")):
            (run / name).write_bytes((run / name).read_bytes().replace(b"\n", b"\r\n"))
    opened = RunFolder(run)
    opened.check()
    assert len(opened.split) == 42
    assert opened.predictions.classes == opened.classifier.classes


def test_a_pointer_of_git_lfs_is_called_so(run: Path) -> None:
    file = run / "member1-test_resnet.a" / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DamagedRun) as caught:
        load_classifier(run)
    assert str(caught.value) == (
        f"{file}: has changed since it was written (SHA-256 differs).\n"
        "  It is a pointer of Git LFS: `git lfs pull` fetches the file itself."
    )


def test_a_linked_folder_is_refused(run: Path, tmp_path: Path) -> None:
    part = run / "member1-test_resnet.a"
    shutil.move(part, tmp_path / "elsewhere")
    part.symlink_to(tmp_path / "elsewhere")
    for fixed_up in (False, True):
        if fixed_up:
            write_manifest(run)
        with pytest.raises(DamagedRun, match=r"member1-test_resnet\.a"):
            load_classifier(run)


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "entry gone": lambda m: {"sha256": {k: v for k, v in m["sha256"].items() if not k.endswith("/config.json")}},
    "other hash": lambda m: {"sha256": {**m["sha256"], "headstart.json": "0" * 64}},
    "hash a number": lambda m: {"sha256": {**m["sha256"], "headstart.json": 0}},
    "key more": lambda m: {**m, "x": 1},
    "empty": lambda m: {},
    "a list": lambda m: [m],
    "a text": lambda m: "sha256",
    "null inside": lambda m: {"sha256": None},
    "a list inside": lambda m: {"sha256": list(m["sha256"])},
}


@pytest.mark.parametrize("change", MANIFESTS)
def test_an_edited_manifest_is_refused(run: Path, change: str) -> None:
    changed = MANIFESTS[change](read_json(run / MANIFEST))
    (run / MANIFEST).write_text(json.dumps(changed, indent=2) + "\n")
    with pytest.raises(DamagedRun):
        load_classifier(run)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"sha256": {}, "sha256": {}}'])
def test_a_manifest_that_is_none_is_refused(run: Path, text: bytes) -> None:
    (run / MANIFEST).write_bytes(text)
    with pytest.raises(DamagedRun) as caught:
        load_classifier(run)
    assert caught.value.message == f"{run / MANIFEST}: is not a manifest that headstart wrote."


def test_a_folder_that_is_no_run_is_called_so(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(MissingRun):
            load_classifier(folder)


# ------------------------------------------------------------------- edited, and the manifest made to match afterwards
def paths_in(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a JSON document stand, all but the recipe and the like, which loading does not use."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            if path or key in (
                "format",
                "id",
                "classes",
                "calibration",
                "runtime",
                "members",
                "pretrained_cfg",
            ):
                yield (*path, key)
                yield from paths_in(value[key], (*path, key))


ODD_VALUES = (-1, 10**30, "../..", [], {}, [[]], 1e308, True)


@pytest.mark.parametrize("name", ["headstart.json", "member1-test_resnet.a/config.json"])
@pytest.mark.parametrize("values", [(None, "x"), pytest.param(ODD_VALUES, marks=pytest.mark.slow)], ids=["few", "all"])
def test_any_value_of_another_kind_is_refused_or_harmless(run: Path, name: str, values: tuple[Any, ...]) -> None:
    """Whatever stands in the JSON, loading gives a classifier or an error of ours."""
    original = read_json(run / name)
    refused = 0
    for path in list(paths_in(original)):
        for value in values:
            changed = json.loads(json.dumps(original))
            inner = changed
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            (run / name).write_text(json.dumps(changed))
            write_manifest(run)
            try:
                load_classifier(run)
            except RunError as error:  # an `UnsupportedRun` for another format
                assert str(run) in error.message
                refused += 1
    assert refused > 3


@pytest.mark.parametrize(
    "folder", ["..", "../other", "/etc", "member1-test_resnet.a/../../other", ".", "nowhere", "", "\0"]
)
def test_a_part_that_leads_elsewhere_is_refused(run: Path, folder: str) -> None:
    shutil.copytree(run / "member1-test_resnet.a", run.parent / "other")
    known = read_json(run / "headstart.json")
    known["members"][0]["folder"] = folder
    (run / "headstart.json").write_text(json.dumps(known))
    write_manifest(run)
    with pytest.raises(DamagedRun) as caught:
        load_classifier(run)
    assert caught.value.message.startswith(str(run))


def test_tensors_that_only_claim_to_be_known_weights_do_not_enter_their_cache(
    run: Path, photos: Path, own_cache: Path
) -> None:
    """A run from elsewhere names the weights that it was made from. That is its word; its tensors count for themselves."""
    said = headstart.predict(run, photos / "class0").predictions
    file = run / "member1-test_resnet.a" / "model.safetensors"
    genuine = backbone_content(file)
    data = bytearray(file.read_bytes())
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    values = np.frombuffer(bytes(data[begin : begin + 4000]), np.float32) * np.float32(1.5)
    data[begin : begin + 4000] = values.tobytes()
    file.write_bytes(data)
    write_manifest(run)
    kept = {p: p.read_bytes() for part in ("graphs", "features") for p in (own_cache / part).rglob("*") if p.is_file()}
    assert backbone_content(file) != genuine
    other = headstart.predict(run, photos / "class0").predictions
    assert not np.array_equal(said.logits, other.logits)
    assert {p: p.read_bytes() for p in kept} == kept
    assert len(list((own_cache / "graphs").iterdir())) == 3  # one more, under its own name


def test_on_a_machine_that_never_saw_the_weights_a_run_predicts_the_same(
    run: Path, photos: Path, own_cache: Path
) -> None:
    said = headstart.predict(run, photos / "class0")
    shutil.rmtree(own_cache)
    again = headstart.predict(run, photos / "class0")
    assert np.array_equal(said.predictions.logits, again.predictions.logits)
    assert said.predictions.model == again.predictions.model


# ------------------------------------------------------------------------------------------------------------ pickles
class Canary:
    """Unpickling it makes a folder named `hatched` in the current one."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("hatched",))


def disguises(genuine: bytes) -> dict[str, bytes]:
    plain = pickle.dumps({"state_dict": Canary()}, protocol=2)
    zipped, tarred, numpy_file = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", plain)
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        info = tarfile.TarInfo("pickle")
        info.size = len(plain)
        tar.addfile(info, io.BytesIO(plain))
    np.save(numpy_file, np.array([Canary()], object), allow_pickle=True)
    length = struct.pack("<Q", len(plain))
    return {
        **{f"protocol {p}": pickle.dumps([Canary()], protocol=p) for p in range(6)},
        "zip": zipped.getvalue(),
        "gzip": gzip.compress(plain),
        "tar": tarred.getvalue(),
        "numpy": numpy_file.getvalue(),
        "length first": length + plain,
        "behind the tensors": genuine + plain,
        "zip behind the tensors": genuine + zipped.getvalue(),
        "as its header": length[:8] + b"{" + plain,
    }


WATCHED = """
import sys, json
from pathlib import Path
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event.startswith("pickle.") else None)
from headstart import HeadstartError, predict
from headstart.cli import run
answers = {}
for folder in sys.argv[2:]:
    before = len(seen)
    try:
        predict(Path(folder), Path(sys.argv[1]))
        answers[folder] = "predicted"
    except HeadstartError as error:
        answers[folder] = f"{type(error).__name__}: {error}"
    assert len(seen) == before, (folder, seen)
import pickle
try:
    pickle.loads(pickle.dumps(Path))
finally:
    assert "pickle.find_class" in seen  # the watch works
print(json.dumps(answers))
"""


def test_pickles_in_any_disguise_are_refused_and_never_opened(run: Path, photos: Path, tmp_path: Path) -> None:
    place = "member1-test_resnet.a/model.safetensors"
    expected = {}
    for number, (_, content) in enumerate(disguises((run / place).read_bytes()).items()):
        copy = Path(shutil.copytree(run, tmp_path / f"disguise{number}"))
        (copy / place).write_bytes(content)
        write_manifest(copy)
        expected[str(copy)] = f"DamagedRun: {copy / place}: "
    for number, name in enumerate(("pytorch_model.bin", "model.pt", "member1-test_resnet.a/model.pkl", "a.ckpt")):
        copy = Path(shutil.copytree(run, tmp_path / f"beside{number}"))
        (copy / name).write_bytes(pickle.dumps(Canary()))
        write_manifest(copy)
        expected[str(copy)] = "predicted"  # listed in the manifest, so it belongs there; nobody reads it
    image = photos / "class0" / "000.jpg"
    ended = subprocess.run(
        [sys.executable, "-c", WATCHED, str(image), *expected], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    answers = json.loads(ended.stdout.splitlines()[-1])
    for folder, answer in expected.items():
        assert answers[folder].startswith(answer), folder
    assert not list(tmp_path.rglob("hatched"))


# ---------------------------------------------------------------------------------------------------------- the cache
def cached_files(cache: Path, part: str) -> list[Path]:
    return sorted(p for p in (cache / part).rglob("*") if p.is_file())


def embed(photos: Path, tiny_weights: Path) -> np.ndarray:
    return headstart.embed(photos, backbone="test_resnet.a", weights=tiny_weights).features.values


@pytest.mark.parametrize("times", [12, pytest.param(150, marks=pytest.mark.slow)])
def test_a_damaged_shard_of_features_is_made_anew(
    run: Path, photos: Path, tiny_weights: Path, own_cache: Path, times: int
) -> None:
    expected = embed(photos, tiny_weights)
    rng = np.random.default_rng(20260203)
    for number in range(times):
        path = cached_files(own_cache, "features")[number % len(cached_files(own_cache, "features"))]
        before = flip(path, rng) if number % 3 else path.read_bytes()
        if number % 3 == 0:
            path.write_bytes(before[: int(rng.integers(len(before)))])
        assert np.array_equal(embed(photos, tiny_weights), expected), number
        path.write_bytes(before)


def test_the_cache_of_features_is_read_where_it_is_used(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image of a set of millions is embedded without reading the features of all."""
    store = FeatureStore("key")
    keys = [[bytes([shard, i]) * 16 for i in range(50)] for shard in range(3)]
    values = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32)
    for shard in keys:
        store.keep(shard, values, [40])
    hashed, sha256 = list[int](), hashlib.sha256

    class Counting:
        def __init__(self, data: bytes = b"") -> None:
            self.inner = sha256(data)

        def update(self, data: memoryview) -> None:
            hashed.append(data.nbytes)
            self.inner.update(data)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    monkeypatch.setattr(hashlib, "sha256", Counting)
    opened = FeatureStore("key")
    assert opened.find(b"\xff" * 32) is None and opened.block_sizes == (40,)
    assert hashed == []
    for row in (7, 8):
        assert np.array_equal(opened.find(keys[1][row]), values[row])
    assert hashed == [50 * 32, values.nbytes]


def test_the_features_of_a_damaged_shard_are_found_in_another(own_cache: Path) -> None:
    store = FeatureStore("key")
    values = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    keys = [bytes([i]) * 32 for i in range(3)]
    for shard in ([0, 1], [1, 2]):
        store.keep([keys[i] for i in shard], values[shard], [4])
    for path in cached_files(own_cache, "features"):
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        opened = FeatureStore("key")
        found = [opened.find(key) for key in keys]
        assert np.array_equal(found[1], values[1])
        assert [row is None for row in found] in ([True, False, False], [False, False, True])
        path.write_bytes(before)


def test_damaged_facts_are_looked_up_anew(run: Path, photos: Path, tiny_weights: Path, own_cache: Path) -> None:
    expected = headstart.check(photos)
    rng = np.random.default_rng(20260204)
    for _ in range(4):
        for path in cached_files(own_cache, "facts"):
            flip(path, rng)
        assert headstart.check(photos) == expected


def test_a_damaged_network_is_never_loaded(run: Path, own_cache: Path) -> None:
    rng = np.random.default_rng(20260205)
    for path in cached_files(own_cache, "graphs"):
        before = path.read_bytes()
        assert read_graph(path) is not None
        for number in range(20):
            after = bytearray(before)
            place = int(rng.integers(200 if number % 2 else len(after)))  # half of them in the header
            after[place] ^= int(rng.integers(1, 256))
            path.write_bytes(after if number % 5 else before[:place])
            assert read_graph(path) is None, place


@pytest.mark.parametrize("times", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_damaged_network_is_built_anew(run: Path, photos: Path, own_cache: Path, times: int) -> None:
    expected = headstart.predict(run, photos / "class0").predictions.logits
    graphs = {p: p.read_bytes() for p in cached_files(own_cache, "graphs")}
    rng = np.random.default_rng(20260206)
    for _ in range(times):
        for path in graphs:
            flip(path, rng)
        shutil.rmtree(own_cache / "features")
        assert np.array_equal(headstart.predict(run, photos / "class0").predictions.logits, expected)
        assert all(read_graph(p) is not None for p in graphs)


def test_an_origin_that_is_damaged_is_not_believed(run: Path, photos: Path, own_cache: Path) -> None:
    file = run / "member1-test_resnet.a" / "model.safetensors"
    notes = cached_files(own_cache, "origins")
    honest = backbone_content(file)
    for text in (b"", b"{", b"[]", b'{"weights": 1}', b'{"weights": "../../x"}', b"\xff"):
        for note in notes:
            note.write_bytes(text)
        assert backbone_content(file) != honest
        load_classifier(run)


def test_errors_of_a_run_are_ours(run: Path) -> None:
    assert issubclass(DamagedRun, HeadstartError)
    assert issubclass(MissingRun, HeadstartError)
