"""The sample set: what is planted is there as flaws.csv says, `check` finds it, and nothing is written over."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import headstart
from headstart.data.open_dataset import open_dataset
from headstart.errors import RecipeError, WriteError
from headstart.io.files import read_csv
from headstart.model.backbones.weights_source import WeightsSource
from headstart.samples.flaws import SampleSet, sample_set


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """180 images of 96 pixels with flaws."""
    folder = tmp_path_factory.mktemp("sample") / "scenes"
    made = headstart.sample("scenes", folder, n=180, seed=3, size=96)
    assert sum(sum(counts.values()) for counts in made.images.values()) == 180
    return folder


def rows(folder: Path, *flaws: str) -> list[dict[str, str]]:
    return [row for row in read_csv(folder / "flaws.csv") if row["flaw"] in flaws]


def test_the_layout_is_one_that_headstart_reads(sampled: Path) -> None:
    data = open_dataset(sampled)
    assert data.classes == ("buildings", "forest", "glacier", "mountain", "sea", "street")
    assert Counter(data.split.tolist()) == {"train": 144, "test": 36}
    assert {path for path, _ in data.rejected} == {"README.txt", "flaws.csv", "manifest.json"}
    assert "drawings made by a program, not photographs" in (sampled / "README.txt").read_text()


def test_each_flaw_is_what_the_table_says(sampled: Path) -> None:
    listed = read_csv(sampled / "flaws.csv")
    assert Counter(row["flaw"] for row in listed) == {
        "corrupt": 3,
        "near_duplicate": 7,
        "wrong_label": 7,
        "exif_rotation": 4,
        "leak": 1,
    }
    touched = [row["path"] for row in listed] + [row["of"] for row in listed if row["of"]]
    assert len(set(touched)) == len(touched)  # no image has two
    assert [row["path"] for row in listed if row["flaw"] != "leak" and not row["path"].startswith("train/")] == []
    for row in rows(sampled, "leak"):
        assert row["path"].startswith("test/")
        assert (sampled / row["path"]).read_bytes() == (sampled / row["of"]).read_bytes()
    for row in rows(sampled, "wrong_label"):
        assert row["detail"] != Path(row["path"]).parent.name
    for row in rows(sampled, "exif_rotation"):
        with Image.open(sampled / row["path"]) as image:
            assert image.getexif()[0x0112] == int(row["detail"])


def test_turned_images_are_upright_once_turned_back() -> None:
    """The same set without flaws has the same images, upright."""
    flawed, plain = sample_set(60, seed=1, size=64, flaws=True), sample_set(60, seed=1, size=64, flaws=False)
    turned = [flaw.path for flaw in flawed.flaws if flaw.flaw == "exif_rotation"]
    assert turned
    for path in turned:
        upright = np.asarray(ImageOps.exif_transpose(opened(flawed, path)), float)
        assert np.abs(upright - np.asarray(opened(plain, path), float)).mean() < 6  # JPEG's own loss
    touched = {flaw.path for flaw in flawed.flaws}
    assert {path: data for path, data in flawed.files.items() if path not in touched} == {
        path: data for path, data in plain.files.items() if path not in touched
    }


def opened(made: SampleSet, path: str) -> Image.Image:
    return Image.open(io.BytesIO(made.files[path]))


def test_equal_seeds_give_equal_bytes() -> None:
    first, again, other = (sample_set(60, seed=seed, size=32, flaws=True) for seed in (1, 1, 2))
    assert first == again
    assert set(first.files) == set(other.files)
    assert first.files != other.files
    assert len({data for data in first.files.values() if data}) >= 60 - 4  # a leak, texts, an empty file


def test_check_finds_every_corrupt_file_and_the_copies(sampled: Path) -> None:
    found = headstart.check(sampled)
    unusable = {p for f in found.findings if f.check in ("truncated", "empty", "not_an_image") for p in f.paths}
    assert unusable == {row["path"] for row in rows(sampled, "corrupt")}
    groups = {path: n for n, group in enumerate(found.groups) for path in group}
    copies = rows(sampled, "near_duplicate", "leak")
    missed = [row for row in copies if groups.get(row["path"], -1) != groups.get(row["of"], -2)]
    assert len(missed) <= 1  # of 8; the slow test below has enough of them for a rate
    assert len(found.groups) == len(copies) - len(missed)  # and nothing else is taken for a copy
    leaks = [set(f.paths) for f in found.findings if f.check == "split_leak"]
    assert leaks == [{rows(sampled, "leak")[0]["path"], rows(sampled, "leak")[0]["of"]}]
    turned = {p for f in found.findings if f.check == "exif_rotated" for p in f.paths}
    assert turned == {row["path"] for row in rows(sampled, "exif_rotation")}


@pytest.mark.slow
def test_check_finds_nearly_all_copies_and_wrong_labels(tmp_path: Path, shared: Path) -> None:
    headstart.sample("scenes", tmp_path / "scenes", n=600, seed=0)
    found = headstart.check(
        tmp_path / "scenes", labels=True, weights=WeightsSource(folder=shared / "weights", offline=True)
    )
    groups = {path: n for n, group in enumerate(found.groups) for path in group}
    copies = rows(tmp_path / "scenes", "near_duplicate")
    same = [groups.get(row["path"], -1) == groups.get(row["of"], -2) for row in copies]
    assert sum(same) >= 0.95 * len(same)
    wrong = {row["path"]: row["detail"] for row in rows(tmp_path / "scenes", "wrong_label")}
    suspected = {error.path for error in found.label_errors}
    assert len(suspected & set(wrong)) >= 0.7 * len(wrong)


def test_without_flaws_there_is_no_table(tmp_path: Path) -> None:
    made = headstart.sample("scenes", tmp_path / "scenes", n=61, size=32, flaws=False)
    assert made.flaws == {}
    assert sorted(p.name for p in (tmp_path / "scenes").iterdir()) == ["README.txt", "manifest.json", "test", "train"]
    assert made.table().splitlines()[-2:] == [
        "No planted flaws.",
        f"Rendered images, written to {tmp_path}/scenes. Next: headstart check {tmp_path}/scenes --labels",
    ]
    assert json.loads(json.dumps(made.to_json()))["images"]["test"]["sea"] == 2


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("a")
    with pytest.raises(WriteError) as caught:
        headstart.sample("scenes", tmp_path / "mine", n=60, size=32)
    assert str(caught.value) == f"{tmp_path / 'mine'}: is not empty.\n  Choose a new folder."
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["a.txt"]
    headstart.sample("scenes", tmp_path / "empty", n=60, size=32)
    with pytest.raises(WriteError, match="is not empty"):  # its own work neither
        headstart.sample("scenes", tmp_path / "empty", n=60, size=32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"what": "scene"}, "'scene' is not a sample set; expected 'scenes'.\n  Did you mean 'scenes'?"),
        ({"what": "birds"}, "'birds' is not a sample set; expected 'scenes'."),
        ({"n": 59}, "n is 59; expected 60 or more.\n  600 take about 10 s."),
        ({"size": 31}, "size is 31; expected 32 to 320 pixels.\n  150 is usual."),
        ({"seed": -1}, "seed is -1; expected 0 or more."),
    ],
)
def test_options_that_cannot_work(options: dict[str, object], message: str, tmp_path: Path) -> None:
    given = {"what": "scenes", **options}
    with pytest.raises(RecipeError) as caught:
        headstart.sample(given.pop("what"), tmp_path / "scenes", **given)
    assert str(caught.value) == message
    assert not (tmp_path / "scenes").exists()


def test_small_sets_find_an_original_for_each_copy() -> None:
    """With this seed all other images of a copy's class had a flaw."""
    flaws = sample_set(60, seed=527, size=32, flaws=True).flaws
    assert Counter(flaw.flaw for flaw in flaws)["near_duplicate"] == 3
    assert all(flaw.path.split("/")[1] == flaw.of.split("/")[1] for flaw in flaws if flaw.of)
