"""Every verb that splits keeps mirrored and cut copies in one set, and no label of a test image chooses anything."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import headstart
from conftest import as_jpeg, scene, write_photos
from headstart import Recipe
from headstart.data.curation import Curation
from headstart.errors import DataError
from headstart.images.image_refs import Images
from headstart.io.files import read_csv
from headstart.pipeline.choose_backbones import choose_backbones
from headstart.samples.scenes import render

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
RECIPE = Recipe(backbone="test_resnet.a", head="lda", approach="linear")


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 scenes in three classes, and of each a mirrored copy with three pixels cut off each edge."""
    folder = tmp_path_factory.mktemp("copies") / "mirrored"
    rng = np.random.default_rng(0)
    for kind in ("buildings", "forest", "street"):
        (folder / kind).mkdir(parents=True)
        for n in range(20):
            image = Image.fromarray(render(kind, rng, 120))
            image.save(folder / kind / f"{n:03}.jpg", quality=90)
            copy = ImageOps.mirror(image).crop((3, 3, 117, 117)).resize((120, 120), Image.Resampling.BICUBIC)
            copy.save(folder / kind / f"{n:03}m.jpg", quality=90)
    return folder


def sets(file: Path) -> dict[str, str]:
    """{path: set} of a split.csv."""
    return {row["path"]: row["split"] for row in read_csv(file)}


def torn(split: dict[str, str]) -> list[str]:
    """Images whose copy is in another set."""
    return [path for path, name in split.items() if "m.jpg" not in path and split[path.replace(".", "m.")] != name]


def counts(split: dict[str, str]) -> Counter[tuple[str, str]]:
    """Images by (class, set)."""
    return Counter((path.partition("/")[0], name) for path, name in split.items())


def check_whole(file: Path) -> None:
    """No copy is in another set than its image, and each class has its share of each set, to one image."""
    split = sets(file)
    assert torn(split) == []
    assert len(counts(split)) == 9
    for (label, name), n in counts(split).items():
        assert abs(n - 40 * SHARES[name]) <= 1, (label, name, n)


# Each verb


@pytest.mark.parametrize("seed", range(3))
def test_split(mirrored: Path, tmp_path: Path, seed: int) -> None:
    headstart.split(mirrored, out=tmp_path / "split.csv", seed=seed)
    check_whole(tmp_path / "split.csv")


def test_train(mirrored: Path, tmp_path: Path, tiny_weights: Path) -> None:
    headstart.train(mirrored, out=tmp_path / "run", recipe=RECIPE, weights=tiny_weights, report=False)
    check_whole(tmp_path / "run" / "split.csv")


@pytest.mark.slow
def test_compare(mirrored: Path, tmp_path: Path, tiny_weights: Path) -> None:
    headstart.compare(mirrored, out=tmp_path / "out", recipes="linear", backbones="test_resnet.a", weights=tiny_weights)
    check_whole(tmp_path / "out" / "split.csv")


def test_all_verbs_make_the_same_split(mirrored: Path, tmp_path: Path, tiny_weights: Path) -> None:
    made = headstart.split(mirrored, out=tmp_path / "split.csv")
    headstart.train(mirrored, out=tmp_path / "run", recipe=RECIPE, weights=tiny_weights, report=False)
    assert sets(tmp_path / "run" / "split.csv") == sets(tmp_path / "split.csv")
    assert read_csv(tmp_path / "run" / "split.csv") == read_csv(tmp_path / "split.csv")
    assert made.images["val"] == {"buildings": 8, "forest": 8, "street": 8}


def test_fit(mirrored: Path, tiny_weights: Path) -> None:
    """`ImageClassifier.fit` has a training and a validation set, of the images in the order in which they are given."""
    files = sorted(mirrored.rglob("*.jpg"))
    model = headstart.ImageClassifier(backbone="test_resnet.a", weights_dir=tiny_weights, approach="linear", head="lda")
    model.fit(files, [file.parent.name for file in files])
    names = [file.relative_to(mirrored).as_posix() for file in files]
    split = dict(zip(names, map(str, model.split_), strict=True))
    assert torn(split) == []
    assert set(split.values()) == {"train", "val"}


# What the data brings, and what people say


@pytest.mark.slow
def test_compare_names_a_leak_that_the_data_brings(
    tmp_path: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    write_photos(data / "train")
    write_photos(data / "test", each=3)
    headstart.compare(data, out=tmp_path / "out", recipes="linear", backbones="test_resnet.a", weights=tiny_weights)
    assert "measured accuracy will be too high" in caplog.text


@pytest.fixture
def refused(mirrored: Path, tmp_path: Path) -> Path:
    """A table of the copies of `mirrored` with an x for each: none of them is a copy."""
    headstart.check(mirrored, out=tmp_path / "checks.csv")
    table = tmp_path / "no.csv"
    lines = (tmp_path / "checks-copies.csv").read_text().splitlines()
    assert len(lines) >= 61 and lines[0].endswith(",not_copies")
    table.write_text("\n".join([lines[0], *(f"{line}x" for line in lines[1:])]))
    return table


def test_pairs_that_are_no_copies_are_dealt_like_other_images(
    mirrored: Path, refused: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    headstart.split(mirrored, out=tmp_path / "split.csv", curation=Curation(not_copies=refused))
    run = tmp_path / "run"
    headstart.train(
        mirrored, out=run, recipe=RECIPE, weights=tiny_weights, report=False, curation=Curation(not_copies=refused)
    )
    for file in (tmp_path / "split.csv", run / "split.csv"):
        split = sets(file)
        assert len(torn(split)) > 20
        assert all(abs(n - 40 * SHARES[name]) <= 1 for (_, name), n in counts(split).items())
        assert len({row["group"] for row in read_csv(file)}) == 120


def test_no_image_of_the_test_set_took_part_in_the_choice(
    mirrored: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()

    def watched(extractors: object, images: Images, *args: object, **options: object) -> object:
        asked.update(Path(str(ref)).relative_to(mirrored).as_posix() for ref in images.refs)
        return choose_backbones(extractors, images, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("headstart.pipeline.fit.choose_backbones", watched)
    recipe = Recipe(approach="linear")
    headstart.train(mirrored, out=tmp_path / "run", recipe=recipe, weights=tiny_weights, report=False)
    split = sets(tmp_path / "run" / "split.csv")
    assert asked
    assert not {path for path, name in split.items() if name == "test"} & asked


# Data that is hardly any


def written(folder: Path, images: list[Image.Image]) -> Path:
    """The images as a/0.jpg, b/1.jpg, a/2.jpg and so on, each of another quality."""
    for n, image in enumerate(images):
        (folder / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        image.save(folder / "ab"[n % 2] / f"{n}.jpg", quality=90 - n)
    return folder


def found(data: Path) -> dict[str, str]:
    """What `check` says of copies."""
    return {
        f.check: f.message for f in headstart.check(data).findings if f.check not in ("size_summary", "small_class")
    }


def refusal(data: Path) -> str:
    """What `split` says, before it writes anything, without the folder's name."""
    with pytest.raises(DataError) as caught:
        headstart.split(data, out=data.parent / "split.csv")
    assert not (data.parent / "split.csv").exists()
    return str(caught.value).removeprefix(f"{data}: ")


FEW = "Add images of other groups, or give a split of your own with --split."


def test_the_same_file_throughout(tmp_path: Path) -> None:
    data = written(tmp_path / "data", [scene(0)] * 10)
    same = (data / "a" / "0.jpg").read_bytes()
    for file in data.rglob("*.jpg"):
        file.write_bytes(same)
    assert found(data) == {
        "label_conflict": "10 images are the same image under different labels (for example a/0.jpg and b/1.jpg: 'a' and "
        "'b').",
        "exact_duplicates": "10 images are the same file, byte for byte (for example a/0.jpg and a/2.jpg); they are "
        "kept in one set.",
    }
    assert refusal(data) == (
        f"no images are left for the validation set: 10 images in 1 group are too few for three sets.\n  {FEW}"
    )


def test_one_image_saved_again_and_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Copies that are not certain never cost a class its share; it is said that the test may look too easy."""
    data = written(tmp_path / "data", [scene(0)] * 20)
    messages = found(data)
    assert list(messages) == ["near_duplicates", "possible_label_conflict"]
    assert messages["near_duplicates"] == (
        "20 images are nearly the same (for example a/0.jpg and a/10.jpg); a split keeps them in one set where it can."
    )
    made = headstart.split(data, out=tmp_path / "split.csv")
    assert made.images == {name: {"a": n, "b": n} for name, n in (("train", 6), ("val", 2), ("test", 2))}
    assert caplog.messages[0] == (
        "20 images of 'a' and 'b' are near-copies of one another, but are in different sets, so the test may be too "
        "easy. Kept together, they would leave a set without its share of a class. Groups that you name (--group-column, "
        "--group-from) are always kept together."
    )


@pytest.mark.parametrize("other", [0, 1])
def test_two_images(tmp_path: Path, other: int) -> None:
    data = written(tmp_path / "data", [scene(0), scene(other)])
    alike = {
        "near_duplicates": "2 images are nearly the same (a/0.jpg and b/1.jpg); a split keeps them in one set where it can.",
        "possible_label_conflict": "1 pair of images under different labels may be copies of one image (a/0.jpg and b/1.jpg: "
        "'a' and 'b'); look at it.",
    }
    assert found(data) == ({} if other else alike)
    assert refusal(data) == (
        "has 2 labelled images for 2 classes ('a': 1, 'b': 1); at least 4 are needed.\n  Add images: about 20 per class "
        "give a first useful classifier. Few per class may mean that the labels are not the classes you want."
    )


def test_one_image_of_each_class_twice(tmp_path: Path) -> None:
    data = written(tmp_path / "data", [scene(0), scene(1), as_jpeg(scene(0), 60), as_jpeg(scene(1), 60)])
    assert found(data) == {
        "near_duplicates": "4 images in 2 groups are nearly the same (for example a/0.jpg and a/2.jpg); a split "
        "keeps them in one set where it can."
    }
    refused = f"no images are left for the validation set: 4 images in 2 groups are too few for three sets.\n  {FEW}"
    assert refusal(data) == refused
    for label, n in (("a", 0), ("b", 1)):
        shutil.copy(data / label / f"{n}.jpg", data / label / f"{n + 2}.jpg")
    assert found(data) == {
        "exact_duplicates": "4 images in 2 groups are the same file, byte for byte (for example a/0.jpg and a/2.jpg); they "
        "are kept in one set."
    }
    assert refusal(data) == refused
