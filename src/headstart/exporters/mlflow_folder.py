"""A run as an MLflow model: a folder that `mlflow.pyfunc.load_model` loads without a pickle, and `mlflow models serve` serves.

    write_mlflow_folder(RunFolder("run"), folder)

    MLmodel                      what it is, its inputs and outputs
    code/headstart_mlflow.py     loads and predicts (`exporters.mlflow_loader`)
    artifacts/run                only the classifier: no file name of an image, no path of the data
    requirements.txt, python_env.yaml, conda.yaml    what to install

Its answers are those of `predict`, since headstart makes them, with the same decoding and networks. MLflow is not needed to
write the folder. The format is the one that MLflow documents for a loader module with data; all versions since 1.0 read it.

Costs a copy of the weights. When not to use it: where headstart cannot be installed; `onnx` needs only a runtime.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path

import headstart
from headstart.exporters import mlflow_loader
from headstart.io.files import write_bytes, write_text
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.predictions import class_column
from headstart.model.inference.topologies import fitting_topology
from headstart.runs.run_folder import RunFolder, copy_classifier

MLMODEL = "MLmodel"
LOADER = "headstart_mlflow"
CODE, DATA = "code", "artifacts/run"


def write_mlflow_folder(run: RunFolder, folder: Path) -> None:
    """Write the model into a new folder. Raises `RunError`, `WriteError`."""
    copy_classifier(run, folder / DATA)
    write_bytes(folder / CODE / f"{LOADER}.py", Path(mlflow_loader.__file__).read_bytes())
    for name, text in _texts(run.classifier).items():
        write_text(folder / name, text)


def _texts(classifier: Classifier) -> Mapping[str, str]:
    """Return the text files by name. They are JSON, which is also YAML, so any class name is safe."""
    needed = ["mlflow", "pandas", _requirement(classifier)]
    python = platform.python_version()
    pip = {"dependencies": [f"python={python}", "pip", {"pip": needed}], "name": "mlflow-env"}
    return {
        MLMODEL: _json(_described(classifier, python)),
        "requirements.txt": "".join(f"{line}\n" for line in needed),
        "python_env.yaml": _json({"python": python, "dependencies": ["-r requirements.txt"]}),
        "conda.yaml": _json({"channels": ["conda-forge"], **pip}),
    }


def _described(classifier: Classifier, python: str) -> dict[str, object]:
    flavor = {
        "loader_module": LOADER,
        "code": CODE,
        "data": DATA,
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "python_version": python,
    }
    outputs = [
        {"name": "predicted", "type": "string", "required": False},
        *({"name": class_column(name), "type": "double", "required": True} for name in classifier.classes),
        {"name": "error", "type": "string", "required": True},
    ]
    inputs = [{"name": mlflow_loader.IMAGE, "type": "binary", "required": True}]
    return {
        "flavors": {"python_function": flavor},
        "signature": {"inputs": json.dumps(inputs), "outputs": json.dumps(outputs), "params": None},
        "metadata": {"headstart": {"version": headstart.__version__, "model": classifier.id}},
    }


def _requirement(classifier: Classifier) -> str:
    """Return headstart at this version, with PyTorch only if one of the networks has to be traced."""
    known = all(fitting_topology(m.extractor.backbone, m.extractor.spec) for m in classifier.members)
    return f"headstart{'' if known else '[train]'}=={headstart.__version__}"


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
