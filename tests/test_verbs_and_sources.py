"""Where labels stand is told once, on the command line or in Python, and a run remembers it."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

import headstart
from headstart import DataSource, Recipe, cli
from headstart.model.backbones.weights_source import WeightsSource

PATTERN = r"_(\w+?)-"


@pytest.fixture
def zipped(tmp_path: Path, photos: Path, own_cache: Path, warm_cache: Path) -> Path:
    """A zip without folders: 42 images called p_class0-003.jpg."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    archive = tmp_path / "photos.zip"
    with zipfile.ZipFile(archive, "w") as out:
        for file in sorted(photos.rglob("*.jpg")):
            out.write(file, f"p_{file.parent.name}-{file.name}")
    return archive


def test_a_run_remembers_where_its_labels_stood(zipped: Path, tmp_path: Path, tiny_weights: Path) -> None:
    run, source = tmp_path / "run", DataSource(zipped, label_from=PATTERN)
    recipe = Recipe(approach="linear", backbone="test_resnet.a", head="lda")
    made = headstart.train(source, out=run, recipe=recipe, weights=tiny_weights)
    assert made.classifier.classes == ("class0", "class1", "class2")
    kept = json.loads((run / "headstart.json").read_text())["provenance"]["data"]
    assert (kept["path"], kept["label_from"]) == (str(zipped), PATTERN)
    assert "label_column" not in kept
    moved = zipped.rename(tmp_path / "moved.zip")
    again = headstart.reproduce(run, data=moved, weights=tiny_weights)
    assert (again.same, again.causes) == (True, [])
    assert headstart.evaluate(run, DataSource(moved, label_from=PATTERN), report=False).metrics.n == 42
    page = Path(headstart.report(run, data=moved, heat=False).out).read_text(encoding="utf-8")
    assert "so none are shown" not in page


def test_options_of_the_command_line(zipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["check", str(zipped), "--label-from", PATTERN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == {"class0": 14, "class1": 14, "class2": 14}
    assert cli.run(["check", str(zipped), "--label-from", "_(", "--json"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("BadLabels: ")


def test_a_comparison_passes_it_on(zipped: Path, tmp_path: Path, tiny_weights: Path) -> None:
    found = headstart.compare(
        DataSource(zipped, label_from=PATTERN),
        out=tmp_path / "compared",
        recipes="linear",
        backbones="test_resnet.a",
        weights=WeightsSource(folder=tiny_weights, offline=True),
    )
    assert [row.error for row in found.rows] == [""]
    assert found.taken == found.rows[0].name


def test_words_are_what_one_types() -> None:
    source = DataSource(Path("a b.zip"), label_from="^(cat|dog)")
    assert source.words() == ["a b.zip", "--label-from=^(cat|dog)"]
    assert DataSource(Path("photos")).words() == ["photos"]
