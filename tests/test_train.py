"""The main job, start to end, on small images."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import headstart
from headstart import Recipe
from headstart.runs.run_folder import RunFolder
from headstart.training.recipe import HEADS


def test_a_folder_of_images_becomes_a_tested_classifier(tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    recipe = Recipe(epochs=1)  # of fine-tuning; all else is as it is by default
    run = headstart.train(photos, out=tmp_path / "run", weights=tiny_weights, recipe=recipe)
    assert run.test["accuracy"].value > 0.5
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "headstart.json",
        "metrics.json",
        "predictions.csv",
        "history.csv",
        "split.csv",
        "checks.csv",
        "README.md",
        "manifest.json",
    }  # fmt: skip
    again = headstart.train(photos, out=tmp_path / "again", weights=tiny_weights, recipe=recipe)
    assert run.classifier.id == again.classifier.id
    first, second = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("run", "again"))
    assert first["test"] == second["test"]


def test_recipe_options_reach_the_run(tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    recipe = Recipe(
        approach="linear",
        backbone="test_resnet.a",
        pooling="last",
        head="lda",
        image_size=32,
        resize="squash",
        precision="f32",
        seed=3,
    )
    run = headstart.train(photos, out=tmp_path / "run", weights=tiny_weights, recipe=recipe)
    (part,) = run.classifier.members
    assert str(part.extractor) == "test_resnet.a at 32 px, squash"
    staged = headstart.train(
        photos, out=tmp_path / "staged", weights=tiny_weights, recipe=replace(recipe, pooling="stages"), report=False
    )
    assert str(staged.classifier.members[0].extractor) == "test_resnet.a at 32 px, squash, all stages"
    assert part.extractor.spec.resize == "squash"
    assert run.classifier.runtime.precision == "f32"
    assert run.provenance.head is not None and run.provenance.head.kind == "lda"


def test_every_kind_of_head_makes_a_run(tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    for head in HEADS[1:]:
        recipe = Recipe(approach="linear", backbone="test_resnet.a", head=head)
        run = headstart.train(photos, out=tmp_path / head, weights=tiny_weights, recipe=recipe, report=False)
        recorded = RunFolder(tmp_path / head).provenance.head
        assert recorded is not None and recorded == run.provenance.head and recorded.kind == head
        assert (recorded.strength is None) == (head == "ncm")


def test_too_few_validation_images_for_prediction_sets_are_said(
    tmp_path: Path, photos: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = Recipe(approach="linear", backbone="test_resnet.a", head="lda", conformal_alpha=0.02)
    run = headstart.train(photos, out=tmp_path / "run", weights=tiny_weights, recipe=asked, report=False)
    assert run.classifier.calibration.conformal_threshold == 1.0
    assert (
        "The validation set has 9 images: too few for prediction sets at alpha 0.02, so each contains all classes "
        "(it takes 49 images)."
    ) in caplog.messages


def test_a_file_that_cannot_be_used_is_said_once(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By training while there is time to stop it, by check in its result."""
    data = shutil.copytree(photos, tmp_path / "photos")
    (data / "class1" / "cut.jpg").write_bytes((data / "class1" / "000.jpg").read_bytes()[:500])
    caplog.set_level("INFO", logger="headstart")
    recipe = Recipe(approach="linear", backbone="mobilenetv2_050.headstart", head="lda")
    run = headstart.train(data, out=tmp_path / "run", recipe=recipe, report=False)
    said = [line for line in [*caplog.messages, *run.table().splitlines()] if "cannot be used" in line]
    assert said == [
        "1 of 43 files cannot be used, and is left out: class1/cut.jpg: JPEG: the file ends before the pixel data (500 bytes)."
    ]
    caplog.clear()
    found = headstart.check(data)
    said = [line for line in [*caplog.messages, *found.table().splitlines()] if "cannot be used" in line]
    assert len(said) == 1 and said[0].startswith(
        "error    truncated               1 file of 43 cannot be used (truncated) and"
    )
