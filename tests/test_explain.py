"""`headstart explain`: sheets, probabilities and nearest training images; what is odd, missing or in the way."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import draw, write_photos
from headstart.errors import HeadstartError, MissingData, NoImages, RecipeError, WriteError
from headstart.io.files import read_csv
from headstart.model.inference.features import Embedder
from headstart.pipeline.similar_images import SimilarImages
from headstart.reports.explanation_sheet import WIDTH, ExplanationSheet, Neighbour, draw_explanation, overlay
from headstart.runs.run_folder import RunFolder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, warm_cache: Path) -> Path:
    """A cache that all tests of this module share: what one embeds is there for the next."""
    return Path(shutil.copytree(warm_cache, tmp_path_factory.mktemp("explain") / "cache"))


@pytest.fixture(autouse=True)
def shared_cache(own_cache: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path, cache: Path) -> Path:
    """A run on `photos`, of two fused backbones."""
    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        recipe = headstart.Recipe(backbone="test_resnet.a+test_efficientnet.b", approach="linear")
        headstart.train(photos, out=out, weights=tiny_weights, recipe=recipe)
    return out


def test_a_sheet_for_each_image_and_the_numbers_of_predict(run: Path, photos: Path, tmp_path: Path) -> None:
    asked = [photos / "class0" / "000.jpg", photos / "class2" / "003.jpg"]
    made = headstart.explain(run, *asked, out=tmp_path / "sheets", top=2)
    assert (made.errors, made.notes) == ({}, ())
    predicted = headstart.predict(run, *asked).predictions
    for i, image in enumerate(made.images):
        assert image.path == predicted.paths[i] == asked[i].as_posix()
        assert image.label == asked[i].parent.name
        assert image.predicted == predicted.classes[predicted.predicted[i]]
        assert list(image.probabilities.values()) == predicted.probabilities[i].tolist()
        with Image.open(image.sheet) as sheet:
            assert (sheet.format, sheet.mode, sheet.width) == ("PNG", "RGB", WIDTH)
    assert [Path(p.sheet).name for p in made.images] == ["001-000.png", "002-003.png"]
    lines = made.table().splitlines()
    assert lines[0] == asked[0].as_posix()
    assert lines[1].endswith("; labelled class0")
    assert lines[-1] == f"2 sheets written to {tmp_path / 'sheets'}"
    assert len(lines) == 2 * 4 + 1


def test_features_from_the_cache_alone_are_those_of_the_images(run: Path, cache: Path) -> None:
    """Without the cache of one of two backbones, there are none."""
    opened, cached = SimilarImages.open(RunFolder(run)), SimilarImages.cached(RunFolder(run))
    assert cached is not None and cached.images == opened.images
    assert cached.searched == opened.searched == len(opened.images.files) > 0
    assert (
        all(np.array_equal(*pair) for pair in zip(cached.units, opened.units, strict=True)) and len(cached.units) == 2
    )
    needed = 0
    for folder in list((cache / "features").iterdir()):
        folder.rename(cache / "elsewhere")
        needed += SimilarImages.cached(RunFolder(run)) is None
        (cache / "elsewhere").rename(folder)
    assert needed == 2


def test_features_from_the_cache_are_assembled_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there are any is known before the dataset is opened, and without copying them."""
    assembled, cached = [], Embedder.cached

    def counted(embedder: Embedder, sha256s: Sequence[str]) -> tuple[list[np.ndarray], list[int]]:
        assembled.append(len(sha256s))
        return cached(embedder, sha256s)

    monkeypatch.setattr(Embedder, "cached", counted)
    similar = SimilarImages.cached(RunFolder(run))
    assert similar is not None and assembled == [similar.searched]


def test_the_nearest_are_those_by_cosine_and_never_the_image_itself(run: Path, photos: Path, tmp_path: Path) -> None:
    (image,) = headstart.explain(run, photos / "class1" / "005.jpg", out=tmp_path / "sheets", top=4).images
    training = {row["path"] for row in read_csv(run / "split.csv") if row["split"] in ("train", "val")}
    classifier = headstart.load_classifier(run)
    cosines = []
    for part in classifier.members:
        backbone = part.extractor.backbone
        spec = part.extractor.spec
        size, resize = spec.image_size, spec.resize
        made = headstart.embed(photos, weights=backbone.weights, backbone=backbone.name, image_size=size, resize=resize)
        found = made.features
        units = found.values / np.linalg.norm(found.values, axis=1, keepdims=True)
        cosines.append(units @ units[found.paths.index("class1/005.jpg")])
    mean = dict(zip(found.paths, np.mean(cosines, axis=0), strict=True))
    expected = sorted((p for p in training if p != "class1/005.jpg"), key=lambda p: -mean[p])[:4]
    assert [n.path for n in image.nearest] == expected
    assert [n.cosine for n in image.nearest] == pytest.approx([mean[p] for p in expected], abs=1e-5)
    assert [n.label for n in image.nearest] == [p.split("/")[0] for p in expected]


def test_a_file_under_two_labels_is_shown_with_the_label_of_each_copy(tiny_weights: Path, tmp_path: Path) -> None:
    """And with none of the two if it is itself the image to explain."""
    data = write_photos(tmp_path / "data", classes=2, each=10)
    shutil.copy(data / "class0" / "000.jpg", data / "class1" / "copy.jpg")
    recipe = headstart.Recipe(backbone="test_resnet.a", approach="linear", test_size=0)
    headstart.train(data, out=tmp_path / "run", weights=tiny_weights, recipe=recipe, report=False)
    other, own = headstart.explain(
        tmp_path / "run", data / "class0" / "001.jpg", data / "class1" / "copy.jpg", out=tmp_path / "sheets", top=30
    ).images
    labels = {near.path: near.label for near in other.nearest}
    assert (labels["class0/000.jpg"], labels["class1/copy.jpg"]) == ("class0", "class1")
    assert (other.label, own.label) == ("class0", "")


def test_bad_images_are_named_and_the_others_explained(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    draw(0, 99).save(folder / "good.png")
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "cut.jpg").write_bytes(
        (Path(write_photos(tmp_path / "p", 1, 1)) / "class0" / "000.jpg").read_bytes()[:900]
    )
    made = headstart.explain(run, folder, out=tmp_path / "sheets")
    assert [p.path for p in made.images] == [(folder / "good.png").as_posix()]
    assert made.images[0].label == ""
    assert {Path(p).name: reason for p, reason in made.errors.items()} == {
        "bad.jpg": "not_an_image",
        "cut.jpg": "truncated",
    }
    assert "not read  not_an_image  " in made.table()
    assert json.loads(json.dumps(made.to_json()))["errors"] == made.errors


def test_images_that_are_all_bad_leave_an_empty_folder(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    made = headstart.explain(run, tmp_path / "bad.jpg", out=tmp_path / "sheets")
    assert made.images == ()
    with pytest.raises(NoImages, match=r"^The only image could not be read\.\n  The reasons are in the result\.$"):
        made.check()  # as the command does, after its result
    assert [p.name for p in (tmp_path / "sheets").iterdir()] == ["manifest.json"]


def test_training_images_that_moved(photos: Path, tiny_weights: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "photos"))
    recipe = headstart.Recipe(backbone="test_resnet.a", approach="linear")
    headstart.train(data, out=tmp_path / "run", weights=tiny_weights, recipe=recipe)
    one = tmp_path / "one.jpg"
    draw(2, 50).save(one)
    data.rename(tmp_path / "elsewhere")
    (image,), notes = _made(tmp_path, one)
    assert image.nearest == ()
    assert notes == (
        f"The training images are no longer at {data}: give their place with --data DATA to see the nearest.",
    )
    (image,), notes = _made(tmp_path, one, data=tmp_path / "elsewhere")
    assert (len(image.nearest), notes) == (3, ())
    gone = [row["path"] for row in read_csv(tmp_path / "run" / "split.csv") if row["split"] == "train"][:2]
    for path in gone:
        (tmp_path / "elsewhere" / path).unlink()
    _, notes = _made(tmp_path, one, data=tmp_path / "elsewhere")
    total = sum(row["split"] in ("train", "val") for row in read_csv(tmp_path / "run" / "split.csv"))
    assert notes == (f"2 of {total} training images are no longer in {tmp_path / 'elsewhere'}.",)
    with pytest.raises(MissingData, match="there is no such folder or table"):
        _made(tmp_path, one, data=tmp_path / "nowhere")
    for image in (tmp_path / "elsewhere").rglob("*.*"):
        image.unlink()
    (tmp_path / "elsewhere").rename(data)
    (image,), notes = _made(tmp_path, one)
    assert (image.nearest, notes) == (
        (),
        (
            f"The training images cannot be opened: {data}: holds no images (3 folders without images: "
            "class0, class1, class2).",
        ),
    )


def test_training_images_that_changed_are_counted(
    run: Path, photos: Path, tmp_path: Path, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their features are no longer in the cache."""
    monkeypatch.setenv("HEADSTART_CACHE", str(shutil.copytree(warm_cache, tmp_path / "cache")))
    data = Path(shutil.copytree(photos, tmp_path / "photos"))
    training = [row["path"] for row in read_csv(run / "split.csv") if row["split"] in ("train", "val")]
    draw(2, 77).save(data / training[0])
    made = headstart.explain(run, photos / "class1" / "005.jpg", out=tmp_path / "sheets", data=data)
    assert made.notes == (f"1 of {len(training)} training images have changed, and are left out.",)
    assert training[0] not in {near.path for image in made.images for near in image.nearest}


def _made(folder: Path, one: Path, **more: Path) -> tuple:
    made = headstart.explain(folder / "run", one, out=folder / "sheets", **more)
    return made.images, made.notes


# What is in the way


def test_an_earlier_folder_is_kept_and_another_is_left_alone(run: Path, photos: Path, tmp_path: Path) -> None:
    one = photos / "class0" / "001.jpg"
    for _ in range(2):
        headstart.explain(run, one, out=tmp_path / "sheets")
    assert (tmp_path / "sheets.previous" / "001-001.png").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("x")
    with pytest.raises(WriteError, match="contains files that headstart did not write"):
        headstart.explain(run, one, out=tmp_path / "mine")
    with pytest.raises(WriteError, match="is in the run folder"):
        headstart.explain(run, one, out=run / "sheets")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "sheets", "sheets.previous"]


def test_errors_say_what_was_expected(run: Path, photos: Path, tmp_path: Path) -> None:
    said = {}
    one = [photos / "class0" / "000.jpg"]
    for name, paths, top in (("none", [], 3), ("top", one, 0), ("text", one, "3"), ("gone", ["gone.jpg"], 3)):
        with pytest.raises(HeadstartError) as caught:
            headstart.explain(run, *paths, out=tmp_path / "sheets", top=top)
        said[name] = (type(caught.value), caught.value.message)
    assert said == {
        "none": (MissingData, "No images were given."),
        "top": (RecipeError, "top is 0, expected 1 or more."),
        "text": (RecipeError, "top is '3', expected 1 or more."),
        "gone": (MissingData, "gone.jpg: there is no such image or folder."),
    }
    assert not (tmp_path / "sheets").exists()


def test_odd_names_of_files_and_classes(tiny_weights: Path, tmp_path: Path) -> None:
    names = ("<img src=x onerror=alert(1)>", "\u202eкот 'ä' \U0001f408")
    for kind, name in enumerate(names):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(8):
            draw(kind, n).save(tmp_path / "photos" / name / f"{n}.png")
    recipe = headstart.Recipe(backbone="test_resnet.a", approach="linear")
    headstart.train(tmp_path / "photos", out=tmp_path / "run", weights=tiny_weights, recipe=recipe)
    one = tmp_path / "a\n..\U0001f408 & <b>.png"
    draw(0, 77).save(one)
    made = headstart.explain(tmp_path / "run", one, one, out=tmp_path / "sheets")
    (image,) = made.images  # given twice, explained once
    assert (image.path, image.predicted in names) == (one.as_posix(), True)
    assert Path(image.sheet).name == "001-a_b.png"
    assert "\n..\U0001f408" not in made.table()


# The sheet


def test_overlay_leaves_cold_places_as_they_are() -> None:
    image = draw(0, 1, (40, 30))
    assert np.array_equal(overlay(image, np.zeros((4, 4))), image)
    heat = np.zeros((30, 40))
    heat[:15] = 1
    hot = np.asarray(overlay(image, heat)).astype(int)
    assert np.abs(hot - np.asarray(image))[20:].max() == 0
    assert np.abs(hot - np.asarray(image))[:10].mean() > 40


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (400, 300)])
@pytest.mark.parametrize("neighbours", [0, 1, 7])
def test_sheets_of_any_shape(size: tuple[int, int], neighbours: int) -> None:
    near = [Neighbour("label " * 9, 0.5, draw(0, 1, size) if i else None) for i in range(neighbours)]
    shares = [("a very long name of a class " * 4, 0.75), ("", 0.25)]
    sheet = draw_explanation(
        ExplanationSheet("name " * 60, draw(1, 1, size), shares, np.eye(5), "b", (0.1, 0.1, 0.9, 0.9), near)
    )
    assert sheet.width == WIDTH
    assert sheet.height < 1200
