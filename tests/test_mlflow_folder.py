"""A run as an MLflow model: it answers as `predict`, holds no pickle and no path, and the real MLflow loads it."""

from __future__ import annotations

import base64
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

import headstart
from conftest import PATIENCE
from headstart.errors import DamagedRun
from headstart.exporters.mlflow_folder import write_mlflow_folder
from headstart.io.files import json_bytes, sha256_file
from headstart.io.folders import folder_aside, write_manifest
from headstart.model.backbones import builtin
from headstart.model.backbones.weights_source import WeightsSource
from headstart.runs.run_folder import RunFolder
from headstart.training.recipe import Recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A folder with a `run` of two backbones, and with the `model` made from it."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "weights").mkdir()
    for tag in "ab":
        shutil.copy(builtin.WEIGHTS, folder / f"weights/mobilenetv2_050.{tag}.safetensors")
        shutil.copy(builtin.SPEC, folder / f"weights/mobilenetv2_050.{tag}.json")
    recipe = Recipe(approach="linear", backbone="mobilenetv2_050.a+mobilenetv2_050.b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        weights = WeightsSource(folder=folder / "weights")
        headstart.train(photos, out=folder / "run", recipe=recipe, weights=weights, report=False)
    with folder_aside(folder / "model") as model:
        write_mlflow_folder(RunFolder(folder / "run"), model)
    return folder


@pytest.fixture
def loaded(made: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The model as MLflow loads it: its code on the path, then the function of that name with the data's place."""
    flavor = json.loads((made / "model/MLmodel").read_text())["flavors"]["python_function"]
    monkeypatch.syspath_prepend(str(made / "model" / flavor["code"]))
    return importlib.import_module(flavor["loader_module"])._load_pyfunc(str(made / "model" / flavor["data"]))


@pytest.fixture(scope="module")
def answered(made: Path, photos: Path) -> headstart.Predictions:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(made / "cache"))
        return headstart.predict(made / "run", *(photos / f"class{n % 3}" / f"00{n}.jpg" for n in range(5))).predictions


def equals(found: pandas.DataFrame, answered: headstart.Predictions) -> None:
    columns = [f"p({name})" for name in answered.classes]
    assert list(found.columns) == ["predicted", *columns, "error"]
    assert list(found["predicted"]) == [answered.classes[k] for k in answered.predicted]
    np.testing.assert_array_equal(found[columns].to_numpy(), answered.probabilities)
    assert set(found["error"]) == {""}


@pytest.mark.parametrize("form", ["bytes", "base64", "lines", "address", "another column", "mapping", "list", "array"])
def test_it_answers_as_predict(loaded: Any, answered: headstart.Predictions, form: str) -> None:
    data = [Path(path).read_bytes() for path in answered.paths]
    texts = [base64.b64encode(each).decode() for each in data]
    given = {
        "bytes": pandas.DataFrame({"image": data, "note": "x"}),
        "base64": pandas.DataFrame({"image": texts}),
        "lines": pandas.DataFrame({"image": [base64.encodebytes(each).decode() for each in data]}),
        "address": pandas.DataFrame({"image": [f"data:image/jpeg;base64,{text}" for text in texts]}),
        "another column": pandas.DataFrame({"photo": data}),
        "mapping": {"image": data},
        "list": data,
        "array": np.array(data, dtype=object),
    }[form]
    equals(loaded.predict(given), answered)


def test_an_image_that_cannot_be_used_costs_one_row(loaded: Any, photos: Path) -> None:
    one = photos / "class0" / "000.jpg"
    found = loaded.predict(pandas.DataFrame({"image": [b"no image", one.read_bytes(), str(one), b""]}))
    assert list(found["predicted"].isna()) == [True, False, True, True], "a path is not an image"
    assert list(found["error"]) == ["not_an_image", "", "not_an_image", "empty"]
    assert found["p(class0)"].isna().sum() == 3
    assert len(loaded.predict(one.read_bytes())) == 1


def test_an_input_without_its_column_is_refused(loaded: Any) -> None:
    with pytest.raises(ValueError, match=r"has the columns \['a', 'b'\]; expected one called 'image'"):
        loaded.predict(pandas.DataFrame({"a": [b""], "b": [b""]}))


def test_it_holds_the_classifier_and_no_place(made: Path, photos: Path) -> None:
    model = made / "model"
    assert headstart.load_classifier(model / "artifacts/run").id == headstart.load_classifier(made / "run").id
    texts = [file for file in model.rglob("*") if file.suffix != ".safetensors" and file.is_file()]
    for private in (str(photos), str(made), photos.parent.name, "000.jpg", str(Path.home())):
        assert [file for file in texts if private in file.read_text()] == []
    assert not [file for file in model.rglob("*") if file.suffix in (".pkl", ".pickle", ".joblib", ".csv")]


def test_what_it_needs_and_takes(made: Path) -> None:
    described = json.loads((made / "model/MLmodel").read_text())
    assert json.loads(described["signature"]["inputs"]) == [{"name": "image", "type": "binary", "required": True}]
    outputs = [column["name"] for column in json.loads(described["signature"]["outputs"])]
    assert outputs == ["predicted", "p(class0)", "p(class1)", "p(class2)", "error"]
    version = headstart.__version__
    assert (made / "model/requirements.txt").read_text() == f"mlflow\npandas\nheadstart=={version}\n"


WITH_MLFLOW = """
import json, sys
from pathlib import Path
import mlflow.pyfunc, pandas

opened = []

def hook(event, args):
    if event == "pickle.find_class" or (event == "open" and str(args[0]).endswith((".pkl", ".pickle"))):
        opened.append(str(args))

sys.addaudithook(hook)
model = mlflow.pyfunc.load_model(sys.argv[1])
found = model.predict(pandas.DataFrame({"image": [Path(path).read_bytes() for path in sys.argv[2:]]}))
print(json.dumps([found.to_dict("list"), opened]))
"""


@pytest.mark.slow
def test_mlflow_loads_it_without_a_pickle(made: Path, answered: headstart.Predictions) -> None:
    pytest.importorskip("mlflow", reason="needs mlflow, which is not installed")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MLFLOW_TRACKING_URI": str(made / "tracking")}
    command = [sys.executable, "-c", WITH_MLFLOW, str(made / "model"), *answered.paths]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found, opened = json.loads(done.stdout.splitlines()[-1])
    equals(pandas.DataFrame(found), answered)
    assert opened == []


def test_a_member_outside_the_run_is_refused_before_anything_is_written(made: Path, tmp_path: Path) -> None:
    """A run from elsewhere may list any file: those of members would have been copied to the same place beside the export."""
    run, mine = shutil.copytree(made / "run", tmp_path / "run"), tmp_path / "mine"
    described = json.loads((run / "headstart.json").read_text())
    member = run / described["members"][0]["folder"]
    described["members"][0]["folder"] = "../mine"
    (run / "headstart.json").write_text(json.dumps(described))
    shutil.copytree(member, mine)
    (run / "manifest.json").unlink()
    write_manifest(run)
    manifest = json.loads((run / "manifest.json").read_text())
    for file in mine.iterdir():
        manifest["sha256"][f"../mine/{file.name}"] = sha256_file(file)
    manifest["sha256"] = dict(sorted(manifest["sha256"].items()))
    (run / "manifest.json").write_bytes(json_bytes(manifest))
    with pytest.raises(DamagedRun, match="is not a manifest that headstart wrote"):
        write_mlflow_folder(RunFolder(run), tmp_path / "out")
    assert {each.name for each in tmp_path.iterdir()} <= {"run", "mine", "out"}
    assert not list(tmp_path.glob("out/**/model.safetensors"))
