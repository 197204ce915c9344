"""The examples run as they are: the notebook in a kernel, the script in a process, against the local Kaggle server."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from conftest import PATIENCE, REPOSITORY
from kaggle_server import REDUX, KaggleServer, kaggle_server, log_loss

EXAMPLES = REPOSITORY / "examples"
NOTEBOOK = EXAMPLES / "kaggle_cats_dogs.ipynb"
BACKBONE = "test_resnet.a"
GIVEN = {"BACKBONE": BACKBONE, "BUDGET": "1s", "SUBMIT": True, "HEADSTART": "headstart"}
"""What a user would change in the notebook's first cell; `headstart` is installed already, so pip asks no index."""


@pytest.fixture
def server() -> Iterator[KaggleServer]:
    if find_spec("kaggle") is None:  # not imported: that logs in
        pytest.skip("needs the package kaggle, which is not installed")
    with kaggle_server() as running:
        yield running


@pytest.fixture
def environment(server: KaggleServer, tiny_weights: Path, tmp_path: Path) -> dict[str, str]:
    home = {"HOME": str(tmp_path / "home"), "IPYTHONDIR": str(tmp_path / "home" / "ipython")}
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("KAGGLE")},
        **server.environment,
        **home,
        "HEADSTART_WEIGHTS": str(tiny_weights),
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
    }


def check_submission(file: Path, server: KaggleServer) -> None:
    """Every id once, in the sample's order, and better than a coin; against the answers that only the server has."""
    rows = list(csv.DictReader(file.open(encoding="utf-8", newline="")))
    answers = server.competitions[REDUX].answers
    assert [row["id"] for row in rows] == list(answers)
    assert log_loss(answers, {row["id"]: float(row["label"]) for row in rows}) < 0.5


@pytest.mark.slow
def test_the_notebook_from_the_first_cell_to_the_score(
    server: KaggleServer, environment: dict[str, str], tmp_path: Path
) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, which is not installed")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient, which is not installed")
    pytest.importorskip("ipykernel", reason="needs ipykernel, which is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (parameters,) = [cell for cell in code if "parameters" in cell.metadata.get("tags", ())]
    for name, value in GIVEN.items():
        parameters.source, found = re.subn(rf"(?m)^{name} = [^#\n]*", f"{name} = {value!r}", parameters.source)
        assert found == 1, name
    (tmp_path / "home").mkdir()
    client = nbclient.NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=environment)
    said = [shown(cell) for cell in code]
    assert f"{REDUX}: " in said[3] and "52 images: cat 20, dog 20, unlabelled 12" in said[3]
    assert "accuracy" in said[5]
    assert said[7].startswith("id,label\n1,")
    assert said[8].startswith("submission.csv: Successfully submitted") and "Score: " in said[8]
    (page,) = [output for output in code[6].outputs if output.output_type == "execute_result"]
    assert 'srcdoc="&lt;!DOCTYPE html&gt;' in page.data["text/html"]
    check_submission(tmp_path / "submission.csv", server)
    assert server.submissions[0]["data"] == (tmp_path / "submission.csv").read_bytes()
    assert server.submissions[0]["description"] == f"headstart, {BACKBONE}"


def shown(cell: Any) -> str:
    """What a cell printed."""
    return "".join(output.get("text", "") for output in cell.outputs if output.get("name") == "stdout")


def test_the_notebook_is_kept_clean() -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat, which is not installed")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)
            assert len(cell.source.splitlines()) <= 12
    assert notebook.metadata.kernelspec.name == "python3"
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", "\n".join([readme, *(cell.source for cell in notebook.cells)])):
        assert (EXAMPLES / target).exists(), target


@pytest.mark.slow
def test_the_script(server: KaggleServer, environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "kaggle_cats_dogs.py"), BACKBONE]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert "Mean size of the training images: 96 x 72 pixels" in done.stdout
    assert (tmp_path / "cats-dogs-run" / "report.html").is_file()
    check_submission(tmp_path / "submission.csv", server)
