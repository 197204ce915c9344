"""Without torch: a machine that predicts, evaluates and checks has `pip install headstart` only, without its extras."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import headstart
from conftest import PATIENCE, REPOSITORY, write_photos
from headstart.errors import MissingExtra
from headstart.io.extras import EXTRAS, PROJECTS, install_command, is_installed, require
from headstart.model.backbones.builtin import NAME
from headstart.training.recipe import Recipe

HIDING = f"""
import contextlib, io, json, logging, sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(EXTRAS["train"]) | {"pyarrow", "scipy", "pandas"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from headstart import cli

out = []
logging.basicConfig(format="%(message)s", stream=(logged := io.StringIO()), level=logging.INFO)
for words in json.loads(sys.argv[1]):
    said, complained = io.StringIO(), io.StringIO()
    logged.truncate(0)
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        code = cli.run(words)
    out.append((code, said.getvalue(), complained.getvalue(), logged.getvalue()))
import headstart
try:
    headstart.ImageClassifier
except headstart.HeadstartError as error:
    out.append(str(error))
print(json.dumps(out))
"""
TRAIN = "\n  pip install 'headstart[train]'"
PARQUET = "\n  pip install 'headstart[parquet]'"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A run from an installation with torch."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        recipe = Recipe(approach="linear", backbone=NAME)
        headstart.train(photos, out=folder / "run", recipe=recipe, report=False)
    return folder / "run"


@pytest.fixture(scope="module")
def without_topology(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """The same run, as if of a network of which the package has no graph."""
    run = shutil.copytree(trained, tmp_path_factory.mktemp("other") / "run")
    described = (run / "headstart.json").read_bytes().replace(b'"mobilenetv2_050"', b'"mobilenetv2_035"')
    manifest = (run / "manifest.json").read_text()
    before, after = (hashlib.sha256(data).hexdigest() for data in ((run / "headstart.json").read_bytes(), described))
    (run / "headstart.json").write_bytes(described)
    (run / "manifest.json").write_text(manifest.replace(before, after))
    return run


@pytest.fixture(scope="module")
def answers(
    tmp_path_factory: pytest.TempPathFactory, photos: Path, without_topology: Path
) -> dict[str, tuple[int, str, str, str]]:
    """What command lines answer in one process that has none of the packages, by command line."""
    place = tmp_path_factory.mktemp("light")
    parquet = place / "table.parquet"
    parquet.write_bytes(b"PAR1")
    image = photos / "class0" / "000.jpg"
    lines = [
        line.format(photos=photos, run=place / "run", image=image, place=place, other=without_topology)
        for line in LINES
    ]
    environment = {**os.environ, "HEADSTART_CACHE": str(place / "cache"), "PYTHONPATH": os.pathsep.join(sys.path)}
    words = json.dumps([line.split() for line in lines])
    done = subprocess.run(
        [sys.executable, "-c", HIDING, words], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return dict(zip([*LINES, "ImageClassifier"], json.loads(done.stdout), strict=True))


WORK = (
    f"train {{photos}} --out {{run}} --approach linear --backbone {NAME}",
    "predict {run} {image} --json",
    "evaluate {run} {photos} --out {place}/evaluated",
    "check {photos} --out {place}/checks.csv",
    "explain {run} {image} --out {place}/explained",
    "backbones",
    "export {run} --to hub --out {place}/repository",
    "export {run} --to mlflow --out {place}/model",
)
NEED = {
    "train {photos} --out {place}/other": "Approach auto needs timm and torch, which are not installed here." + TRAIN,
    "report {run}": "report.html needs matplotlib, which is not installed here." + TRAIN,
    "compare {photos} --out {place}/compared": "A comparison needs matplotlib, timm and torch, which are not installed "
    "here." + TRAIN,
    "demo --out {place}/demo": "The demo needs matplotlib, timm and torch, which are not installed here." + TRAIN,
    "export {run} --out {place}/exported": "An export needs timm and torch, which are not installed here." + TRAIN,
    "backbones resnet": "The list of all backbones needs timm, which is not installed here." + TRAIN,
    "embed {photos} --out {place}/e.safetensors --backbone resnet50": "resnet50 needs timm and torch, which are not "
    "installed here." + TRAIN,
    "check {place}/table.parquet": "{place}/table.parquet needs pyarrow, which is not installed here." + PARQUET,
    "predict {run} {photos} --shards {place}/parts": "--shards needs pyarrow, which is not installed here." + PARQUET,
    "pack {photos} --out {place}/packed": "A pack needs pyarrow, which is not installed here." + PARQUET,
    "predict {other} {image}": f"{NAME} needs timm and torch, which are not installed here." + TRAIN,
}
LINES = (*WORK, *NEED)


@pytest.mark.parametrize("line", WORK)
def test_what_works_without_torch(answers: dict[str, tuple[int, str, str, str]], line: str) -> None:
    code, _, complained, _ = answers[line]
    assert (code, complained) == (0, "")


@pytest.mark.parametrize("line", NEED)
def test_what_is_missing_is_named_with_its_command(answers: dict[str, tuple[int, str, str, str]], line: str) -> None:
    code, said, complained, _ = answers[line]
    wanted = NEED[line].partition("{place}/")[2] or NEED[line]
    assert (code, said) == (1, "")
    assert complained.startswith("MissingExtra: ")
    assert wanted in complained


def test_predictions_are_those_of_an_installation_with_torch(
    answers: dict[str, tuple[int, str, str, str]], photos: Path, trained: Path
) -> None:
    here = headstart.predict(trained, photos / "class0" / "000.jpg").to_json()
    assert json.loads(answers[WORK[1]][1])["predictions"] == here["predictions"]


def test_a_run_without_a_page_says_how_to_add_it(answers: dict[str, tuple[int, str, str, str]]) -> None:
    _, _, _, logged = answers[WORK[0]]
    assert (
        "report.html needs matplotlib, which is not installed here.\n  pip install 'headstart[train]'\n"
        "  Then `headstart report` adds it to a run."
    ) in logged


def test_heat_maps_are_left_out_saying_so(answers: dict[str, tuple[int, str, str, str]]) -> None:
    assert "A heat map needs timm, torch and captum, which are not installed here." in answers[WORK[4]][1]


def test_a_run_that_needs_torch_names_the_way_without_it(answers: dict[str, tuple[int, str, str, str]]) -> None:
    assert "Or export the run where they are installed" in answers["predict {other} {image}"][2]


def test_the_estimator_names_scikit_learn(answers: dict[str, str]) -> None:
    assert answers["ImageClassifier"] == ("ImageClassifier needs scikit-learn, which is not installed here." + TRAIN)


def test_the_extras_are_those_of_the_package() -> None:
    """Each module that the code asks for is installed by the extra that its message names."""
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extra, modules in EXTRAS.items():
        packages = {re.match(r"[\w-]+", text)[0] for text in declared["optional-dependencies"].get(extra, ())}
        if packages:
            assert packages - {"headstart"} == {PROJECTS.get(name, name) for name in modules}
    core = {re.match(r"[\w-]+", text)[0] for text in declared["dependencies"]}
    assert not core & {PROJECTS.get(name, name) for modules in EXTRAS.values() for name in modules}


def test_missing_packages_are_one_sentence() -> None:
    assert is_installed("json", "numpy")
    assert not is_installed("json", "no_such_package")
    with pytest.raises(MissingExtra, match=r"^Taking off needs no_such_package, which is not installed here\."):
        require("Taking off", "json", "no_such_package")
    require("Nothing", "json")
    assert install_command("torch", "timm") == "pip install 'headstart[train]'"


def test_networks_compiled_for_another_input_are_not_used(
    photos: Path, tiny_weights: Path, warm_cache: Path, own_cache: Path, tmp_path: Path
) -> None:
    """Both are compiled for 64 px, one also for 128."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    recipe = Recipe(approach="linear", backbone="test_resnet.a", image_size=128)
    headstart.train(photos, out=tmp_path / "before", recipe=recipe, weights=tiny_weights, report=False)
    many = write_photos(tmp_path / "many", classes=2, each=130)
    given = f"--approach linear --weights-dir {tiny_weights}"
    lines = [
        f"train {photos} --out {tmp_path / 'chosen'} {given} --image-size 128",
        f"train {many} --out {tmp_path / 'input'} {given} --backbone test_resnet.a",
    ]
    done = subprocess.run(
        [sys.executable, "-c", HIDING, json.dumps([line.split() for line in lines])],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=PATIENCE,
    )
    chosen, enlarged, _ = json.loads(done.stdout)
    assert (chosen[0], chosen[2], enlarged[0], enlarged[2]) == (0, "", 0, "")
    left_out = (
        "Not tried, because timm and torch are not installed (pip install 'headstart[train]'): test_efficientnet.b."
    )
    assert left_out in chosen[3].splitlines()
    not_used = "Not used at 96 px, crop: test_resnet.a needs timm and torch, which are not installed here."
    assert not_used in enlarged[3].splitlines()
