"""A run done again: the same to the digit, or a report of what changed and what came of it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import headstart
from conftest import draw, scene
from headstart import Recipe
from headstart.errors import MissingData
from headstart.model.backbones.weights_source import WeightsSource

RECIPE = Recipe(approach="linear", backbone="test_resnet.a", head="lda")


@pytest.fixture
def trained(
    tmp_path: Path, photos: Path, tiny_weights: Path, own_cache: Path, warm_cache: Path
) -> tuple[Path, Path, Path]:
    """(run, data, weights): copies that a test may change."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    data, weights = shutil.copytree(photos, tmp_path / "data"), shutil.copytree(tiny_weights, tmp_path / "weights")
    headstart.train(data, out=tmp_path / "run", recipe=RECIPE, weights=weights)
    return tmp_path / "run", data, weights


def test_nothing_changed(trained: tuple[Path, Path, Path]) -> None:
    run, _, weights = trained
    again = headstart.reproduce(run, weights=weights)
    assert (again.same, again.causes) == (True, [])
    assert again.table().startswith("Identical: ")


def test_an_image_was_changed_another_is_gone_and_one_is_new(trained: tuple[Path, Path, Path]) -> None:
    run, data, weights = trained
    draw(2, 777).save(data / "class0" / "003.jpg")
    (data / "class1" / "005.jpg").unlink()
    draw(1, 778).save(data / "class1" / "new.jpg")
    again = headstart.reproduce(run, weights=weights)
    assert again.causes[:3] == [
        "1 image gone: 'class1/005.jpg'",
        "1 image new: 'class1/new.jpg'",
        "1 image changed (other bytes): 'class0/003.jpg'",
    ]
    assert not again.same
    assert "differ" in " ".join(again.effects)


def test_a_class_without_its_training_images_ends_with_what_changed(trained: tuple[Path, Path, Path]) -> None:
    run, data, weights = trained
    paths = sorted(f"class0/{file.name}" for file in (data / "class0").iterdir())
    (data / "class0").rename(data / "zero")
    with pytest.raises(MissingData) as caught:
        headstart.reproduce(run, weights=weights)
    n, more = len(paths), len(paths) - 5
    listed = ", ".join(map(repr, paths[:5]))
    assert str(caught.value) == (
        f"{data}: has none of the training images of class0 that {run} was trained on: {n} images gone: {listed} and {more} "
        f"more; {n} images new: {listed.replace('class0', 'zero')} and {more} more.\n"
        "  Was a class folder renamed or moved? Give the images as they were with --data."
    )


def test_other_weights_of_the_same_name(trained: tuple[Path, Path, Path]) -> None:
    run, _, weights = trained
    file = weights / "test_resnet.a.safetensors"
    tensors = {k: v + np.float32(0.05) if v.dtype == np.float32 else v for k, v in load_file(file).items()}
    save_file(tensors, file)
    again = headstart.reproduce(run, weights=weights)
    assert [c for c in again.causes if c.startswith("weights of test_resnet.a: SHA-256 ")] == again.causes
    assert not again.same
    assert "NOT identical." in again.table()


def test_a_run_on_the_embedded_backbone_is_repeated_with_it(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """It was chosen because there was nothing else. By now there is, which would be chosen before it."""
    (tmp_path / "none").mkdir()
    recipe = headstart.Recipe(approach="linear")
    headstart.train(
        photos, out=tmp_path / "run", recipe=recipe, weights=WeightsSource(folder=tmp_path / "none", offline=True)
    )
    again = headstart.reproduce(tmp_path / "run", weights=WeightsSource(folder=tiny_weights, offline=True))
    assert again.causes == []
    assert again.same


@pytest.mark.slow
def test_the_choice_of_backbones_is_repeated_not_made_again(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    """The clock has a part in it, and so has what else is at hand."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for end in ("safetensors", "json"):
        shutil.copy(tiny_weights / f"test_resnet.a.{end}", weights)
    recipe = headstart.Recipe(approach="linear")
    run = headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=weights)
    assert run.provenance.chosen == ("test_resnet.a",)
    both = headstart.train(photos, out=tmp_path / "both", recipe=recipe, weights=tiny_weights)
    assert both.provenance.chosen[0] == "test_efficientnet.b"
    for folder in ("run", "both"):
        again = headstart.reproduce(tmp_path / folder, weights=tiny_weights)
        assert (again.same, again.causes) == (True, [])


def test_a_class_that_is_one_burst_is_divided_as_before(
    photos: Path, tiny_weights: Path, own_cache: Path, warm_cache: Path, tmp_path: Path
) -> None:
    """Its near-copies are in all sets, and a group within validation and test: so they are when the split is given."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    data = shutil.copytree(photos, tmp_path / "data", ignore=shutil.ignore_patterns("class0"))
    (data / "burst").mkdir()
    for n in range(12):
        scene(5).save(data / "burst" / f"{n}.jpg", quality=60 + 3 * n)
    recipe = replace(RECIPE, head="auto")
    headstart.train(data, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    split = (tmp_path / "run" / "split.csv").read_text()
    assert len({row.split(",")[3] for row in split.splitlines()[1:]}) == 40 - 2
    headstart.train(
        data, out=tmp_path / "again", recipe=recipe, weights=tiny_weights, split=tmp_path / "run" / "split.csv"
    )
    for name in ("split.csv", "predictions.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "run" / name).read_bytes(), name


def test_from_another_folder_than_the_one_it_was_made_in(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    headstart.train(Path(photos.name), out=tmp_path / "run", recipe=RECIPE, weights=tiny_weights)
    (tmp_path / photos.name).mkdir()
    draw(0, 1).save(tmp_path / photos.name / "other.jpg")
    monkeypatch.chdir(tmp_path)  # where a folder of that name is as well
    assert headstart.reproduce(Path("run"), weights=tiny_weights).same


def test_where_its_images_are_not(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    run, _, weights = trained
    for kind in ("a", "b"):
        (tmp_path / "others" / kind).mkdir(parents=True)
        draw(0, 1).save(tmp_path / "others" / kind / "1.jpg")
    with pytest.raises(MissingData) as caught:
        headstart.reproduce(run, data=tmp_path / "others", weights=weights)
    assert str(caught.value) == (
        f"{tmp_path / 'others'}: has none of the 42 images of {run}.\n  Give the new location of the images with --data."
    )
