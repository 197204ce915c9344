"""How images become the input of frozen backbones: the best see each image in two ways, which is recorded and repeated."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

import headstart
from conftest import write_photos
from headstart.errors import RecipeError
from headstart.images.preprocess import Preprocess
from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline import fit
from headstart.pipeline.choose_backbones import Choice
from headstart.pipeline.two_inputs import scaled_size
from headstart.runs.provenance import Provenance
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
            pixels[:, :20] = np.clip(35 + 60 * label + rng.normal(0, 20), 0, 255)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def three_weights(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `tiny_weights` with a third backbone, `test_resnet.c`, that is nearly the first."""
    folder = shutil.copytree(tiny_weights, tmp_path_factory.mktemp("three") / "weights")
    tensors = load_file(folder / "test_resnet.a.safetensors")
    rng = np.random.default_rng(0)
    noisy = {k: np.asarray(v + 0.02 * rng.normal(size=v.shape), v.dtype) for k, v in tensors.items()}
    save_file(noisy, folder / "test_resnet.c.safetensors")
    shutil.copy(folder / "test_resnet.a.json", folder / "test_resnet.c.json")
    return folder


def trained(data: Path, run: Path, weights: Path, **options: Any) -> list[FeatureExtractor]:
    """The extractors of the members of a linear run."""
    values = {"approach": "linear", "backbone": "test_resnet.a", "seed": 3, **options}
    headstart.train(data, out=run, recipe=headstart.Recipe(**values), weights=weights, report=False)
    return [member.extractor for member in headstart.load_classifier(run).members]


def chosen_from(run: Path) -> list[dict[str, str]]:
    with open(run / "history.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if row["stage"] == "choose"]


def test_each_image_is_seen_enlarged_and_as_a_whole(
    tiny_weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    photos = write_photos(tmp_path / "photos", classes=2, each=80)
    caplog.set_level("INFO", logger="headstart")
    members = trained(photos, tmp_path / "run", tiny_weights, pooling="last")
    assert [str(each) for each in members] == ["test_resnet.a at 96 px", "test_resnet.a at 64 px, squash"]
    assert "test_resnet.a sees each image as 96 px, crop and 64 px, squash." in caplog.messages
    assert headstart.load_classifier(tmp_path / "run").backbones == "test_resnet.a at 96 px and at 64 px, squash"
    assert [row["input"] for row in chosen_from(tmp_path / "run")] == ["96 px, crop", "64 px, squash"]
    assert RunFolder(tmp_path / "run").provenance.two_inputs == 1
    assert headstart.reproduce(tmp_path / "run", weights=tiny_weights).same


def test_an_input_that_does_not_show_the_class_is_left_out(edges: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """All shows at the left edge, and the crop looks at the centre."""
    (member,) = trained(edges, tmp_path / "run", tiny_weights)
    assert str(member.spec) == "64 px, squash"
    losses = {row["input"]: float(row["loo_log_loss"]) for row in chosen_from(tmp_path / "run")}
    assert losses["64 px, squash"] < 0.7 < 1.2 < losses["96 px, crop"]
    assert headstart.reproduce(tmp_path / "run", weights=tiny_weights).same


def test_the_best_two_backbones_have_two_inputs_each_and_the_others_are_left_out(
    three_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keep_all(extractors: Sequence[FeatureExtractor], *_: Any, **options: Any) -> Choice:
        return Choice(tuple(extractors), ())

    photos = write_photos(tmp_path / "photos", classes=2, each=80)
    with monkeypatch.context() as patched:
        patched.setattr(fit, "choose_backbones", keep_all)
        trained(photos, tmp_path / "run", three_weights, backbone="auto", pooling="last")
    made = RunFolder(tmp_path / "run").provenance
    assert (len(made.chosen), made.two_inputs) == (3, 2)
    tried = {(row["backbone"], row["input"]) for row in chosen_from(tmp_path / "run")}
    assert tried == {(name, seen) for name in made.chosen[:2] for seen in ("96 px, crop", "64 px, squash")}
    assert headstart.reproduce(tmp_path / "run", weights=three_weights).same


def test_backbones_that_are_joined_by_plus_are_all_used(three_weights: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", classes=2, each=80)
    names = "test_resnet.a+test_efficientnet.b+test_resnet.c"
    members = trained(photos, tmp_path / "run", three_weights, backbone=names, pooling="last")
    assert [str(each) for each in members] == [
        "test_resnet.a at 96 px",
        "test_resnet.a at 64 px, squash",
        "test_efficientnet.b at 96 px",
        "test_efficientnet.b at 64 px, squash",
        "test_resnet.c at 64 px",
    ]


def test_a_backbone_that_squashes_images_has_a_crop_as_its_other_input(tiny_weights: Path, tmp_path: Path) -> None:
    weights = shutil.copytree(tiny_weights, tmp_path / "weights")
    described = json.loads((weights / "test_efficientnet.b.json").read_text())
    described["pretrained_cfg"]["crop_mode"] = "squash"
    (weights / "test_efficientnet.b.json").write_text(json.dumps(described))
    photos = write_photos(tmp_path / "photos", classes=2, each=80)
    members = trained(photos, tmp_path / "run", weights, backbone="test_efficientnet.b", pooling="last")
    assert {str(each.spec) for each in members} == {"96 px, squash", "64 px, crop"}
    assert headstart.reproduce(tmp_path / "run", weights=weights).same


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resize": "crop"}, ["64 px, crop"]),
        ({"resize": "crop", "image_scale": 1.5, "tta": "flip"}, ["96 px, crop, flip"]),
        ({"image_scale": 1.0}, ["64 px, crop", "64 px, squash"]),
        ({"image_size": 80}, ["80 px, crop", "80 px, squash"]),
        ({"budget": "1s"}, ["64 px, crop"]),
    ],
    ids=["resize", "all options", "scale", "size", "no time"],
)
def test_what_the_recipe_says_is_used(
    options: dict[str, Any], expected: list[str], tiny_weights: Path, tmp_path: Path
) -> None:
    photos = write_photos(tmp_path / "photos", classes=2, each=80)
    members = trained(photos, tmp_path / "run", tiny_weights, pooling="last", **options)
    assert [str(each.spec) for each in members] == expected
    assert RunFolder(tmp_path / "run").provenance.two_inputs == len(expected) - 1


def test_few_images_have_one_input(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    assert [str(each.spec) for each in trained(photos, tmp_path / "run", tiny_weights)] == ["64 px, crop"]


def test_a_run_of_an_earlier_version_says_that_the_mirror_image_was_left_open(
    photos: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    trained(photos, tmp_path / "run", tiny_weights)
    described = json.loads((tmp_path / "run" / "headstart.json").read_text())["provenance"]
    described["recipe"]["tta"] = "auto"
    read = Provenance.from_json(described)
    assert (read.recipe.tta, read.two_inputs) == ("none", 0)


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
