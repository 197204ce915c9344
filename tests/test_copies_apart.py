"""Every verb that splits keeps mirrored and cut copies on one side, and no label of a test picture chooses anything."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import headstart
from conftest import write_photos
from headstart import Recipe
from headstart.data.scenes import render
from headstart.verbs import learn


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """42 scenes, and of each a mirrored copy with three pixels cut off each edge, so that their hashes differ."""
    folder = tmp_path_factory.mktemp("copies") / "mirrored"
    rng = np.random.default_rng(0)
    for kind in ("buildings", "forest", "street"):
        (folder / kind).mkdir(parents=True)
        for n in range(14):
            picture = Image.fromarray(render(kind, rng, 120))
            picture.save(folder / kind / f"{n:03}.jpg", quality=90)
            copy = ImageOps.mirror(picture).crop((3, 3, 117, 117)).resize((120, 120), Image.Resampling.BICUBIC)
            copy.save(folder / kind / f"{n:03}m.jpg", quality=90)
    return folder


def sides(file: Path) -> dict[str, str]:
    with file.open(newline="") as opened:
        return {row["path"]: row["split"] for row in csv.DictReader(opened)}


def torn(split: dict[str, str]) -> list[str]:
    return [path for path, side in split.items() if "m.jpg" not in path and split[path.replace(".", "m.")] != side]


@pytest.mark.parametrize("seed", range(3))
def test_split(mirrored: Path, tmp_path: Path, seed: int) -> None:
    headstart.split(mirrored, out=tmp_path / "split.csv", seed=seed)
    split = sides(tmp_path / "split.csv")
    assert torn(split) == []
    assert {side: list(split.values()).count(side) for side in ("test", "val", "train")} == pytest.approx(
        {"test": 84 * 0.2, "val": 84 * 0.2, "train": 84 * 0.6}, abs=8
    )


def test_compare(mirrored: Path, tmp_path: Path, tiny_weights: Path) -> None:
    headstart.compare(
        mirrored, out=tmp_path / "out", recipes="linear", backbones="test_resnet.a", weights_dir=tiny_weights
    )
    assert torn(sides(tmp_path / "out" / "split.csv")) == []


def test_compare_names_a_leak_that_the_data_brings(
    tmp_path: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = tmp_path / "data"
    write_photos(data / "train")
    write_photos(data / "test", each=3)
    headstart.compare(data, out=tmp_path / "out", recipes="linear", backbones="test_resnet.a", weights_dir=tiny_weights)
    assert "measured accuracy will be too high" in caplog.text


def test_no_picture_of_the_test_side_took_part_in_the_choice(
    mirrored: Path, tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()
    choose = learn.choose_views

    def watched(views: object, sources: list[Path], *args: object, **options: object) -> object:
        asked.update(Path(source).relative_to(mirrored).as_posix() for source in sources)
        return choose(views, sources, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(learn, "choose_views", watched)
    recipe = Recipe(approach="linear")
    headstart.train(mirrored, out=tmp_path / "run", recipe=recipe, weights_dir=tiny_weights, report=False)
    split = sides(tmp_path / "run" / "split.csv")
    assert asked
    assert not {path for path, side in split.items() if side == "test"} & asked
    assert torn(split) == []
