"""How images become the input of frozen backbones: chosen by what it does for these images, recorded and repeated."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import write_photos
from headstart.errors import RecipeError
from headstart.images.preprocess import Preprocess
from headstart.pipeline.choose_input import scaled_size
from headstart.runs.run_folder import RunFolder

PER_CLASS = 65


@pytest.fixture(scope="module")
def edges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide noise images whose class shows at the left edge only, where a centre crop does not look."""
    folder, rng = tmp_path_factory.mktemp("edges") / "edges", np.random.default_rng(0)
    for label, name in enumerate(("dark", "grey", "light", "white")):
        (folder / name).mkdir(parents=True)
        for i in range(PER_CLASS):
            pixels = rng.integers(0, 256, (48, 96, 3), dtype=np.uint8)
            pixels[:, :20] = 20 + 70 * label
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def trained(data: Path, run: Path, weights: Path, **options: Any) -> tuple[Mapping[str, Any], list[dict[str, str]]]:
    """The input spec of a linear run, and the rows of its history about the input."""
    recipe = headstart.Recipe(approach="linear", backbone="test_resnet.a", seed=3, **options)
    headstart.train(data, out=run, recipe=recipe, weights=weights, report=False)
    (member,) = headstart.load_classifier(run).members
    with open(run / "history.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["stage"] == "input"]
    return member.extractor.spec.as_dict(), rows


def test_what_shows_at_the_edges_is_not_cropped_away(
    edges: Path, tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="headstart"):
        spec, rows = trained(edges, tmp_path / "run", tiny_weights, tta="none", image_scale=1.0)
    assert spec["resize"] in ("pad", "squash")
    assert [row["input"] for row in rows] == ["64 px, crop", "64 px, pad", "64 px, squash"]
    losses = {row["input"]: float(row["loo_log_loss"]) for row in rows}
    assert losses[f"64 px, {spec['resize']}"] < 0.5 < losses["64 px, crop"]
    assert f"Chosen for all backbones: resize {spec['resize']}." in caplog.messages
    recipe = RunFolder(tmp_path / "run").provenance.recipe
    assert (recipe.resize, recipe.image_scale, recipe.tta) == (spec["resize"], 1.0, "none")
    assert headstart.reproduce(tmp_path / "run", weights=tiny_weights).same


def test_members_with_different_inputs_keep_them_when_the_run_is_reproduced(
    tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No value of resize in the recipe can say so: without one, the search would be repeated, and depends on time."""
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    described = json.loads((weights / "test_efficientnet.b.json").read_text())
    described["pretrained_cfg"]["crop_mode"] = "squash"
    (weights / "test_efficientnet.b.json").write_text(json.dumps(described))
    photos = write_photos(tmp_path / "photos", classes=2, each=130)
    backbones = "test_resnet.a+test_efficientnet.b"
    recipe = headstart.Recipe(approach="linear", backbone=backbones, image_scale=1.0, tta="none", pooling="last")
    caplog.set_level("INFO", logger="headstart")
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=weights, report=False)
    members = headstart.load_classifier(tmp_path / "run").members
    assert [member.extractor.spec.resize for member in members] == ["crop", "squash"]
    assert any(message.startswith("Input of") for message in caplog.messages)
    caplog.clear()
    assert headstart.reproduce(tmp_path / "run", weights=weights).same
    assert not any(message.startswith("Input of") for message in caplog.messages)


def test_what_the_recipe_says_is_used_and_not_tried(edges: Path, tiny_weights: Path, tmp_path: Path) -> None:
    options = {"resize": "crop", "image_scale": 1.5, "tta": "flip"}
    spec, rows = trained(edges, tmp_path / "run", tiny_weights, **options)
    assert (spec["resize"], spec["image_size"], spec["tta"]) == ("crop", 96, "flip")
    assert rows == []


def test_nothing_is_tried_that_the_budget_has_no_time_for(edges: Path, tiny_weights: Path, tmp_path: Path) -> None:
    spec, rows = trained(edges, tmp_path / "run", tiny_weights, budget="1s")
    assert (spec["resize"], spec["image_size"], spec["tta"]) == ("crop", 64, "none")
    assert rows == []


def test_a_few_images_are_no_evidence(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    assert trained(photos, tmp_path / "run", tiny_weights)[1] == []


def test_backbones_share_pixels_only_where_the_margins_have_one_colour() -> None:
    bright, dark = ({"resize": "pad", "mean": (level,) * 3} for level in (0.9, 0.1))
    assert Preprocess(**bright).geometry() != Preprocess(**dark).geometry()
    assert Preprocess(**bright | {"resize": "crop"}).geometry() == Preprocess(**dark | {"resize": "crop"}).geometry()


@pytest.mark.parametrize(("own", "scale", "side"), [(224, 1.3, 288), (260, 1.0, 260), (64, 0.1, 32), (160, 1.3, 192)])
def test_sizes_are_multiples_of_32(own: int, scale: float, side: int) -> None:
    assert scaled_size(own, scale) == side


def test_a_negative_scale_is_refused() -> None:
    with pytest.raises(RecipeError) as refused:
        headstart.Recipe(image_scale=-1)
    assert str(refused.value) == "image_scale -1 cannot be used: expected 0 to 4."
