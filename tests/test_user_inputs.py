"""Folders, tables, images and options as people have them, and the right answer to each.

A row is a kind of input. `given` makes it in an empty folder, `command` is run there, and its output has to contain the
sentences `says`, in that order, and none of `never`. `{run}` in a command is a run on cats and dogs. What a row cannot
show is a test of its own below the rows, in the same section. The letters are those of the kinds, for reference.
"""

from __future__ import annotations

import csv
import doctest
import importlib
import io
import json
import re
import shlex
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import draw, scene
from headstart import cli
from headstart.data.dataset import Dataset
from headstart.errors import BadLabels, DataError, HeadstartError, MissingData, RecipeError, UnreadableImage
from headstart.images import headers
from headstart.images.decode import decode
from headstart.images.formats import is_available
from headstart.images.image_refs import Images
from headstart.model.inference.predictor import Predictor
from headstart.runs.run_folder import load_classifier

LINEAR = "--approach linear --offline --no-report"
KINDS = ("cats", "dogs")


@dataclass(frozen=True, kw_only=True)
class Row:
    """An input, a command, and what is right."""

    kind: str
    given: Callable[[Path], object]
    command: str
    says: tuple[str, ...]
    never: tuple[str, ...] = ()
    code: int = 0


def cats_and_dogs(folder: Path, each: int = 12, first: int = 0, names: tuple[str, ...] = KINDS) -> Path:
    """Class folders of images, all different."""
    for kind, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(first, first + each):
            draw(kind, n).save(folder / name / f"{name[:-1] or name}.{n}.jpg", quality=90)
    return folder


TRAINED: dict[str, Path] = {}
"""The place of the run that rows may copy."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cats and dogs with the built-in backbone, and the images beside it (`d`). Never write into it."""
    folder = tmp_path_factory.mktemp("trained")
    cats_and_dogs(folder / "d")
    assert cli.run(shlex.split(f"train {folder / 'd'} --out {folder / 'run'} {LINEAR}")) == 0
    TRAINED["run"] = folder / "run"
    return folder / "run"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(command: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, code: int = 0) -> str:
    """All that a command says: its notes, its result, its error."""
    caplog.clear()
    capsys.readouterr()
    with caplog.at_level("INFO", logger="headstart"):
        found = cli.run(shlex.split(command))
    out, err = capsys.readouterr()
    text = "\n".join([*caplog.messages, out, err])
    assert "Traceback" not in text
    assert found == code, text
    return text


def in_order(sentences: tuple[str, ...], text: str) -> None:
    """Assert that the sentences occur in the text, one after the other."""
    at = 0
    for sentence in sentences:
        assert sentence in text[at:], text
        at = text.index(sentence, at) + len(sentence)


# Run folders


def own_run(folder: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(TRAINED["run"], folder / "r"))


def seen_by_systems(folder: Path) -> None:
    for name in (".DS_Store", "._report.html", "Thumbs.db", "desktop.ini", ".git/HEAD", "@eaDir/x", "report.html~"):
        (own_run(folder) if not (folder / "r").exists() else folder / "r").joinpath(name).parent.mkdir(exist_ok=True)
        (folder / "r" / name).write_text("x")
    cats_and_dogs(folder / "new", each=1, first=50)


def with_notes(folder: Path) -> None:
    with open(own_run(folder) / "README.md", "a") as card:
        card.write("A note.\n")
    cats_and_dogs(folder / "new", each=1, first=50)


def with_other_weights(folder: Path) -> None:
    (own_run(folder) / "model.safetensors").write_bytes(b"other")
    cats_and_dogs(folder / "new", each=1, first=50)


def with_a_row_deleted(folder: Path) -> None:
    table = own_run(folder) / "split.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]))
    cats_and_dogs(folder / "d", each=2)


def unzipped_twice(folder: Path) -> None:
    """A run in a folder of its name, as unpacking makes it, beside the archive."""
    own_run(folder).rename(folder / "inner")
    (folder / "r").mkdir()
    (folder / "inner").rename(folder / "r/run")
    (folder / "run.zip").write_bytes(b"PK")


RUN_FOLDERS = [
    Row(
        kind="F1: a run in a wrapper",
        given=unzipped_twice,
        command="predict r r",
        says=("MissingRun: r: is not a run folder (it has no headstart.json).\n  It holds r/run: give the run folder",),
        code=1,
    ),
    Row(
        kind="F1: an archive of a run",
        given=unzipped_twice,
        command="predict run.zip r",
        says=("MissingRun: run.zip: is a file; expected a run folder.", "unpack it, and give the folder."),
        code=1,
    ),
    Row(
        kind="F1: a file of a run",
        given=unzipped_twice,
        command="report r/run/model.safetensors",
        says=("model.safetensors: is a file of a run folder.\n  Give the folder: r/run",),
        code=1,
    ),
    Row(
        kind="F1: a run that Finder, Windows, git, a NAS and an editor have left files in",
        given=seen_by_systems,
        command="predict r new",
        says=("new/cats/cat.50.jpg", "new/dogs/dog.50.jpg"),
    ),
    Row(
        kind="P14: a run with a note in its model card",
        given=with_notes,
        command="predict r new",
        says=("new/cats/cat.50.jpg", "new/dogs/dog.50.jpg"),
    ),
    Row(
        kind="P14: an evaluation by a run whose split.csv was edited",
        given=with_a_row_deleted,
        command="evaluate r d",
        says=(
            "r/split.csv: has changed since it was written (SHA-256 differs). So it is not known which of these images the "
            "run was trained on",
            "All labelled images: 4 images",
        ),
    ),
    Row(
        kind="a run in another run",
        given=with_notes,
        command=f"train new --out r/again {LINEAR}",
        says=("WriteError: r/again: is in the run folder ", "which must not change.\n  Choose another --out."),
        code=1,
    ),
    Row(
        kind="a run whose weights have changed",
        given=with_other_weights,
        command="predict r new",
        says=(
            "DamagedRun: r/model.safetensors: has changed since it was written (SHA-256 differs).",
            "Restore the folder from a copy, or train again.",
        ),
        code=1,
    ),
]


def test_a_run_is_repeated_with_the_weights_in_it(
    here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """P13: its weights came from a folder that is not given any more."""
    cats_and_dogs(here / "d")
    said(f"train d --out r {LINEAR} --backbone test_resnet.a --weights-dir {tiny_weights}", capsys, caplog)
    text = said("reproduce r --offline", capsys, caplog)
    in_order(("test_resnet.a: the weights in the run folder are used.", "Identical: all "), text)
    (here / "d").rename(here / "moved")
    text = said("reproduce r --offline", capsys, caplog, code=1)
    assert text.endswith(
        f"MissingData: {here / 'd'}: does not exist any more; the run's images were there.\n"
        "  Give the new location of the images with --data.\n"
    )


def test_a_run_that_was_fine_tuned_names_the_weights_that_it_needs(
    here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cats_and_dogs(here / "d")
    options = "--offline --no-report --approach finetune --epochs 1"
    said(f"train d --out r {options} --backbone test_resnet.a --weights-dir {tiny_weights}", capsys, caplog)
    text = said("reproduce r --offline", capsys, caplog, code=1)
    assert "r started from these weights, which are neither in it nor on this machine: give their folder with" in text


# Folders


def beside(folder: Path, *names: str) -> Path:
    """Empty files, and empty folders where the name ends in /."""
    for name in names:
        place = folder / name
        (place if name.endswith("/") else place.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            place.write_text("x")
    return folder


def images(folder: Path, kind: int, *, each: int = 6, first: int = 100) -> Path:
    """Images of one kind directly in a folder."""
    return cats_and_dogs(folder.parent, each, first=first + 1_000 * kind, names=(folder.name,)) / folder.name


def wrapped(here: Path) -> None:
    cats_and_dogs(here / "w/PetImages")
    beside(here / "w", "readme.txt", "LICENSE", "paper.pdf", "labels.csv", ".git/config", "__MACOSX/._1.jpg", "empty/")


def wrapped_twice(here: Path) -> None:
    cats_and_dogs(here / "w/archive/dataset/PetImages")
    beside(here / "w", "archive/readme.md", "archive/dataset/eda.ipynb", "archive/__pycache__/a.pyc", "archive/empty/")


def versions(here: Path) -> None:
    cats_and_dogs(here / "w/PetImages")
    cats_and_dogs(here / "w/PetImages_small", first=50)


def masks(here: Path) -> None:
    cats_and_dogs(here / "w/images")
    cats_and_dogs(here / "w/masks", first=50)


def masks_in_classes(here: Path) -> None:
    for n, name in enumerate(("COVID", "Normal")):
        images(here / "w" / name / "images", n)
        images(here / "w" / name / "masks", n, first=500)
    for path in list((here / "w/Normal/images").iterdir()):
        shutil.copy(path, path.with_name(f"{path.stem}_mask{path.suffix}"))


def boxes(here: Path) -> None:
    for name in ("train", "val"):
        for n, path in enumerate(list(images(here / "w/images" / name, 0).iterdir())):
            path.rename(path.with_name(f"IMG_{n}.jpg"))
            beside(here, f"w/labels/{name}/IMG_{n}.txt", "w/data.yaml")
            (here / f"w/labels/{name}/IMG_{n}.txt").write_text("0 0.5 0.5 0.2 0.2\n")


def taxonomy(here: Path) -> None:
    cats_and_dogs(here / "w/animals")
    cats_and_dogs(here / "w/plants", first=50, names=("rose", "tulip"))


def unlabelled(here: Path) -> None:
    cats_and_dogs(here / "w", names=("OK", "NG"))
    for n, name in enumerate(("unlabeled", "no_label", "unknown")):
        images(here / "w" / name, n)


def links(here: Path) -> None:
    cats_and_dogs(here / "w")
    images(here / "elsewhere", 2)
    for link, target in {
        "cats/all": "..",
        "cats/above": "../..",
        "cats/sibling": "../dogs",
        "dogs/back": "../cats",
        "kittens": "cats",
        "cats/more": str(here / "elsewhere"),
    }.items():
        (here / "w" / link).symlink_to(target)


def no_images(here: Path) -> None:
    cats_and_dogs(here / "w")
    beside(here / "w", "birds/", "docs/LICENSE", "__pycache__/a.pyc", "node_modules/x/icon.png", "cats/.cache/1.jpg")


def without_suffixes(here: Path) -> None:
    for path in list(cats_and_dogs(here / "w").glob("*/*")):
        path.rename(path.with_suffix(""))


def alike(here: Path) -> None:
    for n, name in enumerate(("Cat", "cat", "cat ", "caf\xe9", "cafe\u0301")):
        images(here / "w" / name, n % 2, each=10, first=100 * n)


def spelled(here: Path) -> None:
    cats_and_dogs(here / "w/Train", names=("cafe\u0301", "Dogs"))
    cats_and_dogs(here / "w/TEST", first=50, names=("caf\xe9", "dogs"))


def untrained(here: Path) -> None:
    cats_and_dogs(here / "w/train")
    cats_and_dogs(here / "w/test", first=50)
    beside(here, "w/readme.txt")
    for name in "xyz":
        images(here / "w/test" / name, 2, each=2)


def to_predict(here: Path) -> None:
    cats_and_dogs(here / "w/train/train")
    images(here / "w/test/unknown", 2)
    beside(here / "w", "readme.md", "docs/a.txt", "models/")


def loose_sets(here: Path) -> None:
    cats_and_dogs(here / "w/train_images")
    cats_and_dogs(here / "w/test_images", first=50)


def sets_inside(here: Path) -> None:
    for n, name in enumerate(KINDS):
        for k, split in enumerate(("train", "val", "test")):
            images(here / "w" / name / split, n, each=8, first=100 * k)


def predicted_beside(here: Path) -> None:
    cats_and_dogs(here / "w")
    images(here / "w/test", 2)
    for path in list((here / "w/cats").iterdir()):
        beside(here, "w/cats/masks/")
        shutil.copy(path, here / "w/cats/masks" / path.name)


def two_roots(here: Path) -> None:
    for place in ("w", "w/chest_xray"):
        cats_and_dogs(here / place / "train", 2)
        cats_and_dogs(here / place / "test", 2)


def rows_left_out(here: Path) -> None:
    paths = sorted(path.relative_to(here).as_posix() for path in cats_and_dogs(here / "w").glob("*/*"))
    rows = [f"{path},{path.split('/')[1]}" for path in paths]
    (here / "labels.csv").write_text("\n".join(["path,label", *rows, "gone.jpg,cats", f"{paths[0]},dogs"]))


def with_a_new_class(here: Path) -> None:
    paths = [path.relative_to(here / "w").as_posix() for path in cats_and_dogs(here / "w").glob("*/*")]
    rows = [f"{path},{('train', 'val', 'test')[n % 3]}" for n, path in enumerate(sorted(paths))]
    (here / "given.csv").write_text("\n".join(["path,split", *rows]))
    images(here / "w/sea", 2)
    images(here / "w/wood", 2, first=500)


def other_data(here: Path) -> None:
    cats_and_dogs(here / "w", 3)
    images(here / "w/unlabeled", 2, each=2)
    beside(here / "w", "readme.txt", "birds/note.txt")


INNERMOST = "--label-from '([^/]+)/[^/]+$'"
FOLDERS = [
    Row(
        kind="F6: class folders in a wrapper, beside files and empty folders",
        given=wrapped,
        command="check w",
        says=(
            "Looking for the classes in w/PetImages.",
            "w: left out: 1 folder without images (empty); 4 files not named like an image (LICENSE, labels.csv, paper.pdf "
            "and 1 more).",
            "2 classes: cats 12, dogs 12",
        ),
    ),
    Row(
        kind="F6: wrappers in wrappers",
        given=wrapped_twice,
        command="check w",
        says=(
            "Looking for the classes in w/archive/dataset/PetImages.",
            "w: left out: 1 folder without images (archive/empty); 1 folder made by the system or a program "
            "(archive/__pycache__); 2 files not named like an image (archive/dataset/eda.ipynb, archive/readme.md).",
            "2 classes: cats 12, dogs 12",
        ),
    ),
    Row(
        kind="F6: an environment of Python beside the wrapper",
        given=lambda here: (cats_and_dogs(here / "w/My Data (1)/d"), images(here / "w/venv/lib", 2, each=1)),
        command="check w",
        says=("Looking for the classes in w/My Data (1)/d.", "or a program (venv)", "2 classes: cats 12, dogs 12"),
    ),
    Row(
        kind="F6: an image beside the wrapper",
        given=lambda here: (wrapped(here), draw(2, 0).save(here / "w/cover.jpg")),
        command="split w --out s.csv",
        says=(
            "w: has one class only ('PetImages': 24); a classifier needs at least two.\n"
            "  PetImages holds the folders 'cats', 'dogs': if they are the classes, give w/PetImages.",
        ),
        code=1,
    ),
    Row(
        kind="F6: two versions of a dataset",
        given=versions,
        command="check w",
        says=(
            "w: its folders 'PetImages', 'PetImages_small' hold the same folders, such as 'cats', 'dogs', so they look like "
            "versions of one dataset, not like classes.\n"
            f"  Give one of them, such as w/PetImages. To use all of them, add {INNERMOST}, which makes the innermost "
            "folders the classes. If 'PetImages', 'PetImages_small' are the classes: --label-from '([^/]+)/'.",
        ),
        code=1,
    ),
    Row(
        kind="F6: two versions of a dataset, both used",
        given=versions,
        command=f"check w {INNERMOST}",
        says=("48 files, 48 usable, 2 classes: cats 24, dogs 24",),
    ),
    Row(
        kind="F6: masks beside images",
        given=masks,
        command="check w",
        says=(
            "Looking for the classes in w/images.",
            "w: left out: 1 folder named like masks or annotations of images (masks).",
            "2 classes: cats 12, dogs 12",
        ),
    ),
    Row(
        kind="F6: masks in class folders",
        given=masks_in_classes,
        command="check w",
        says=(
            "w: left out: 2 folders named like masks or annotations of images (COVID/masks, Normal/masks); "
            "6 files named like the mask of an image (",
            "2 classes: COVID 6, Normal 6",
        ),
    ),
    Row(
        kind="F6: boxes of object detection",
        given=boxes,
        command="split w --out s.csv",
        says=(
            "w: none of its 12 images has a label.\n  w/labels/train/IMG_0.txt holds boxes (YOLO), so this looks like "
            "data for object detection; headstart classifies whole images. Crop the boxes into one folder "
            "per class, or sort the images into class folders.",
        ),
        code=1,
    ),
    Row(
        kind="F6: folders in the class folders",
        given=taxonomy,
        command="check w",
        says=(
            "w: the classes are the folders 'animals', 'plants'; the folders in them ('cats', 'dogs', 'rose', 'tulip') are "
            f"not told apart. To make the innermost folders the classes, add {INNERMOST}.",
            "2 classes: animals 24, plants 24",
        ),
    ),
    Row(
        kind="F6: the innermost folders as classes",
        given=taxonomy,
        command=f"check w {INNERMOST}",
        says=("4 classes: cats 12, dogs 12, rose 12, tulip 12",),
    ),
    Row(
        kind="P9: folders that say that there is no label",
        given=unlabelled,
        command="check w",
        says=(
            "w: 12 of 42 images have no label: those in 'no_label', 'unlabeled'. Rename a folder if it is a class.",
            "w: 'unknown' is read as a class. Rename the folder to 'unlabelled' if its images have no label.",
            "42 files, 42 usable, 3 classes: NG 12, OK 12, unknown 6",
        ),
    ),
    Row(
        kind="P9: other words for it, with a mark that sorts the folder first",
        given=lambda here: (
            cats_and_dogs(here / "w"),
            cats_and_dogs(here / "w", 3, 40, ("_unlabeled", "_unclassified")),
        ),
        command="check w",
        says=(
            "w: 3 of 30 images have no label: those in '_unlabeled'. Rename a folder if it is a class.",
            "w: '_unclassified' is read as a class. Rename the folder to 'unlabelled' if its images have no label.",
        ),
    ),
    Row(
        kind="F7: links that lead up, or to another class",
        given=links,
        command="check w",
        says=(
            "w: left out: 2 links to a folder above (cats/above, cats/all); 3 links to a folder that is part of the data "
            "anyway (cats/sibling, dogs/back, kittens).",
            "30 files, 30 usable, 2 classes: cats 18, dogs 12",
        ),
        never=("label_conflict",),
    ),
    Row(
        kind="P1: folders without images",
        given=no_images,
        command="check w",
        says=(
            "w: left out: 2 folders without images (birds, docs); 2 folders made by the system or a program (__pycache__, "
            "node_modules); 1 file not named like an image (docs/LICENSE).",
            "24 files, 24 usable, 2 classes: cats 12, dogs 12",
            "warning  no_images               2 folders are without images; left out.",
        ),
    ),
    Row(
        kind="P1: images without extensions",
        given=without_suffixes,
        command="check w",
        says=("24 files, 24 usable, 2 classes: cats 12, dogs 12",),
        never=("left out",),
    ),
    Row(
        kind="P3: names that look alike",
        given=alike,
        command="check w",
        says=(
            "50 files, 50 usable, 3 classes: Cat 10, caf\xe9 20, cat 20",
            "similar_names           Read as one class, because they differ only in case between the sets, in blanks at the "
            "ends, or in their Unicode form: 'cafe\\u0301' and 'caf\\xe9'; 'cat' and 'cat '.",
            "similar_names           Different classes whose names differ only in case, blanks, or the form of their "
            "letters: 'Cat' and 'cat'. If they are one class, give them one name.",
        ),
    ),
    Row(
        kind="P3: one class in two spellings in two sets",
        given=spelled,
        command="split w --out s.csv",
        says=("'Dogs' and 'dogs'; 'cafe\\u0301' and 'caf\\xe9'.", "test   24  Dogs 12, caf\xe9 12"),
    ),
    Row(
        kind="P2: all classes without training images",
        given=untrained,
        command="split w --out s.csv",
        says=(
            "w: 3 classes have no images to train on: 'x' (2 images for validation or test), 'y' (2 images for validation or "
            "test), 'z' (2 images for validation or test).\n"
            "  Move some of them into the training set, or remove the classes.",
        ),
        code=1,
    ),
    Row(
        kind="P2: all classes that a classifier does not know",
        given=untrained,
        command="evaluate {run} w",
        says=(
            "w: left out: 1 file not named like an image (readme.txt).",
            "w: 3 classes are unknown to the classifier (cats, dogs): 'x': 2, 'y': 2, 'z': 2.",
        ),
        code=1,
    ),
    Row(
        kind="F2: classes that a given split does not have",
        given=with_a_new_class,
        command=f"train w --out r --split given.csv {LINEAR}",
        says=(
            "w: 2 classes have no images to train on: 'sea' (6 images in no set of the given split), 'wood' (6 images in no "
            "set of the given split).\n  `headstart split DATA --keep SPLIT.csv --out NEW.csv` gives new images a set; "
            "--classes names those to use.",
        ),
        code=1,
    ),
    Row(
        kind="split folders beside images to predict and documents",
        given=to_predict,
        command="split w --out s.csv",
        says=(
            "Looking for the classes in w/train/train.",
            "w: 6 of 30 images have no label: those in 'test/unknown'.",
            "w: left out: 2 folders without images (docs, models); 2 files not named like an image (docs/a.txt, readme.md).",
            "train  16  cats 8, dogs 8",
        ),
    ),
    Row(
        kind="images to predict beside class folders; masks beside images",
        given=predicted_beside,
        command="check w",
        says=(
            "w: 6 of 30 images have no label: those in 'test'. Rename a folder if it is a class.",
            "w: left out: 1 folder named like masks or annotations of images (cats/masks).",
            "2 classes: cats 12, dogs 12",
        ),
    ),
    Row(
        kind="split folders in other words",
        given=loose_sets,
        command="split w --out s.csv",
        says=("test   24  cats 12, dogs 12",),
    ),
    Row(
        kind="split folders in the class folders",
        given=sets_inside,
        command="split w --out s.csv",
        says=(
            "w: the split is taken from the folders in the class folders, such as cats/test/tes.200.jpg.",
            "train  16  cats 8, dogs 8",
        ),
    ),
    Row(
        kind="split folders beside a second copy of them",
        given=two_roots,
        command="check w",
        says=(
            "w: holds split folders ('test', 'train') and others beside them ('chest_xray'), so it is unclear which are "
            "classes.\n  'chest_xray' holds split folders itself: give w/chest_xray, or move it elsewhere.",
        ),
        code=1,
    ),
    Row(
        kind="P10: rows that are left out",
        given=rows_left_out,
        command="split labels.csv --out s.csv",
        says=("left out: 1 file listed but missing (gone.jpg); 1 file listed with two labels (w/cats/cat.0.jpg).",),
    ),
    Row(
        kind="P10: files that are left out",
        given=other_data,
        command="predict {run} w",
        says=("w: left out: ", "2 files not named like an image (birds/note.txt, readme.txt)."),
    ),
]


# Tables


def table_of(
    name: str, line: str = "{path},{kind}", head: str = "path,label", more: str = ""
) -> Callable[[Path], object]:
    """Cats and dogs in `d`, with a table of them: for each a `line` with its path, kind and number, and 0 or 1 for
    cat and for dog; `more` is below."""

    def given(folder: Path) -> None:
        cats_and_dogs(folder / "d")
        paths = sorted(path.relative_to(folder / "d").as_posix() for path in (folder / "d").rglob("*.jpg"))
        rows = [
            line.format(path=path, kind=path[:3], n=n, cat=int(path[0] == "c"), dog=int(path[0] == "d"))
            for n, path in enumerate(paths)
        ]
        (folder / "d" / name).write_text("\n".join([*filter(None, [head]), *rows, more]), encoding="utf-8")

    return given


def classes_in_set_folders(folder: Path) -> None:
    """A folder as some services export it: in each set folder images, and a table with a column per class."""
    for name, first in (("train", 0), ("valid", 12), ("test", 24)):
        images = [(kind, n) for kind in (0, 1) for n in range(first, first + 6)]
        (folder / "d" / name).mkdir(parents=True)
        for kind, n in images:
            draw(kind, n).save(folder / "d" / name / f"{kind}_{n}.jpg", quality=90)
        rows = [f"{kind}_{n}.jpg, {1 - kind}, {kind}" for kind, n in images]
        (folder / "d" / name / "_classes.csv").write_text("\n".join(["filename, cat, dog", *rows]))


def edited_table(name: str, text: str) -> Callable[[Path], object]:
    """Cats and dogs in `d`, and a table that a person edited."""

    def given(folder: Path) -> None:
        cats_and_dogs(folder / "d")
        (folder / name).write_text(text)

    return given


SPLIT_TABLE = "split d/t.csv --out s.csv"
DOWNLOAD_FIRST = (
    ": is an address, not a path.\n  Addresses are not fetched. Download the data first, and give its path."
)
TABLES: list[Row] = [
    Row(
        kind="F5 headers and cells with blanks",
        given=table_of("t.csv", "{path}, {cat}, {dog}", "filename, cat, dog"),
        command=SPLIT_TABLE,
        says=("train  16  cat 8, dog 8",),
    ),
    Row(
        kind="F5 a table of classes in each set folder",
        given=classes_in_set_folders,
        command="split d --out s.csv",
        says=(
            "d: the labels are taken from the columns of the classes of 'test/_classes.csv', 'train/_classes.csv', "
            "'valid/_classes.csv'",
            "train  12  cat 6, dog 6",
            "val    12  cat 6, dog 6",
            "test   12  cat 6, dog 6",
        ),
    ),
    Row(
        kind="a title above the header, as reports have it",
        given=table_of("t.csv", head='"Export, November"\npath,label'),
        command=SPLIT_TABLE,
        says=(
            "25 of 25 rows do not have 1 cells",
            "If its first line ('Export, November') is a title, delete it: the header comes first.",
        ),
        code=1,
    ),
    Row(
        kind="UTF-16 without a byte order mark",
        given=lambda here: (
            cats_and_dogs(here / "d"),
            (here / "d/t.csv").write_bytes("path,label\ncats/cat.0.jpg,cat\n".encode("utf-16-le")),
        ),
        command=SPLIT_TABLE,
        says=("many of its bytes are zero, as in UTF-16 without a byte order mark.\n  Save it as CSV in UTF-8.",),
        code=1,
    ),
    Row(
        kind="P4 several labels in a cell",
        given=table_of("t.csv", '{path},"{kind},indoor"', more="cats/cat.1.jpg,cat"),
        command=SPLIT_TABLE,
        says=(
            "BadLabels: d/t.csv: 24 of 25 cells in the column 'label' hold several labels for one image, such as "
            "'cat,indoor' for 'cats/cat.0.jpg'. headstart gives each image one class.\n"
            "  Keep one label in each row, or leave these rows out. If each combination is a class of its own, join its "
            "parts with another character, such as cat-indoor.",
        ),
        code=1,
    ),
    Row(
        kind="P4 several ones in a row",
        given=table_of("t.csv", "{path},{cat},1", "path,cat,indoor"),
        command=SPLIT_TABLE,
        says=(
            "BadLabels: d/t.csv: 12 of 24 rows have a 1 in several of the columns 'cat', 'indoor', such as "
            "'cats/cat.0.jpg' in 'cat', 'indoor': several labels per image. headstart gives each image one class.\n"
            "  Leave these rows out, or train on one of the columns: --label-column cat has the classes 0 and 1.",
        ),
        code=1,
    ),
    Row(
        kind="P6 addresses in a table",
        given=table_of("t.csv", "https://host.org/x{n}.jpg,{kind}"),
        command=SPLIT_TABLE,
        says=(
            "BadLabels: d/t.csv: 24 of 24 rows name an address, such as 'https://host.org/x0.jpg'.\n"
            "  Addresses are not fetched. Download the data first, and give its path.",
        ),
        code=1,
    ),
    *(
        Row(
            kind=f"P6 {address}",
            given=cats_and_dogs,
            command=f"{command} {address}",
            says=(address + DOWNLOAD_FIRST,),
            code=1,
        )
        for command, address in (
            ("check", "https://host.org/photos.zip"),
            ("predict {run}", "hdfs://bucket/1.jpg"),
            ("explain {run}", "hf://bucket/1.jpg"),
            ("predict {run}", "data:image/png;base64,AAAA"),
            ("split cats --out s.csv --corrections", "https://host.org/c.csv"),
        )
    ),
    Row(
        kind="P6 a bucket by the name of its scheme elsewhere",
        given=cats_and_dogs,
        command="check s3a://bucket/photos",
        says=("s3a://bucket/photos: is an address, not a path.\n  Write it as 's3://bucket/photos'.",),
        code=1,
    ),
    Row(
        kind="P7 a list of paths and labels",
        given=table_of("list.txt", "{path} {kind}", head=""),
        command="split d/list.txt --out s.csv",
        says=(
            "d/list.txt: its first line ('cats/cat.0.jpg', 'cat') names an image, so there is no header; the columns are "
            "read as 'path', 'label'.",
            "train  16  cat 8, dog 8",
        ),
    ),
    *(
        Row(
            kind=f"P8 P10 {command}",
            given=table_of("t.csv", "{path},{kind}s,7", "path,label,age", "gone.jpg,cats,7\ncats/cat.1.jpg,dogs,7"),
            command=command,
            says=(
                "The column 'age' of t.csv is not used.",
                "d: left out: 1 file listed but missing (gone.jpg); 1 file listed with two labels (cats/cat.1.jpg).",
            ),
        )
        for command in (
            SPLIT_TABLE,
            "check d/t.csv",
            "embed d/t.csv --offline --image-size 32",
            "evaluate {run} d/t.csv",
        )
    ),
    Row(
        kind="P15 a table of images to predict",
        given=table_of("paths.csv", "{path}", "path", more="gone.jpg"),
        command="predict {run} d/paths.csv --out p.csv",
        says=(
            "d/paths.csv: the images are those in the column 'path'.",
            "not read  not_a_file  d/gone.jpg",
            "24 predictions written to p.csv",
        ),
    ),
    Row(
        kind="P15 a table that names no images",
        given=table_of("t.csv", "{n},{kind}", "size,label"),
        command="predict {run} d/t.csv",
        says=("BadLabels: d/t.csv: no column looks like the path column; its columns are 'size', 'label'.",),
        code=1,
    ),
    *(
        Row(
            kind=f"P21 {name}",
            given=edited_table(name, text),
            command=f"split d --out s.csv --{name[:-4]} {name}",
            says=(says,),
        )
        for name, text, says in (
            ("corrections.csv", "path;new_label;drop\ncats\\cat.3.jpg;dogs;\n", "corrections.csv: 1 label changed"),
            (
                "not-copies.csv",
                "path,copy,not_copies\ncats\\cat.3.jpg,cats\\cat.4.jpg,x\n",
                "Pairs marked as not copies",
            ),
        )
    ),
    *(
        Row(
            kind=f"not a table: {name}",
            given=table_of(name, "x", head),
            command=f"{command} d/{name}",
            says=says,
            code=1,
        )
        for name, head, command, says in (
            ("l.xlsx", "PK", "check", ("d/l.xlsx: is a spreadsheet; headstart does not read it.\n  Save it as CSV",)),
            ("l.ods", "PK", "predict {run}", ("d/l.ods: is a spreadsheet; headstart does not read it.\n  Save it",)),
            (
                "data.yaml",
                "names: x",
                "check",
                ("d/data.yaml: is a YAML file, such as YOLO's", "each whole image one class"),
            ),
            ("l.txt", "Some notes", "check", ("d/l.txt: is not a list of images: its first line is 'Some notes'.",)),
            ("l.json", "[1", "check", ("d/l.json: is not JSON: Expecting ',' delimiter",)),
        )
    ),
]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A table beside images, and what is read: the images of each class and of each set, and all that is said."""

    kind: str
    line: Callable[[str, int], str]
    """A row, from the image's path and number."""
    head: str = "path,label"
    table: str = "t.csv"
    images: tuple[str, ...] = (*(f"cats/c{n}.jpg" for n in range(8)), *(f"dogs/d{n}.jpg" for n in range(8)))
    foot: str = ""
    read: str = "cat 8, dog 8"
    says: tuple[str, ...] = ()


def kind_of(path: str) -> str:
    return "cat" if path.rpartition("/")[2].startswith("c") else "dog"


def numbered_images(width: int = 0, folder: str = "") -> tuple[str, ...]:
    return tuple(f"{folder}{n:0{width}}.jpg" for n in range(100, 116))


def labels_in_turn(*names: str) -> Callable[[str, int], str]:
    """Rows with these labels in turn."""
    return lambda path, n: f'{path},"{names[n % len(names)]}"'


READINGS = [
    # Columns of zeros and ones
    Reading(
        kind="floats, empty cells, an id and a split",
        head="id,path,cat,dog,split",
        line=lambda p, n: f"{n},{p},{'1.0' * (n < 8)},{'1.0' * (n > 7)},{'train' if n % 2 else 'valid'}",
        read="cat 8, dog 8; train 8, val 8",
        says=("The column 'id' of t.csv is not used.",),
    ),
    Reading(kind="truth values", head="path,cat,dog", line=lambda p, n: f"{p},{n < 8},{str(n > 7).upper()}"),
    Reading(kind="decimal commas", head="path;cat;dog", line=lambda p, n: f"{p};{n // 8 ^ 1},0;{n // 8},0"),
    Reading(
        kind="rows with no 1",
        head="path,cat,dog",
        line=lambda p, n: f"{p},{int(n < 8)},{int(7 < n < 12)}",
        read="'' 4, cat 8, dog 4",
        says=(
            "t.csv: 4 of 16 rows have no 1 in the columns of the classes, such as 'dogs/d4.jpg'; they have no label.",
        ),
    ),
    # Several labels, or names with commas
    *(
        Reading(
            kind=f"several: {names}", line=labels_in_turn(*names), read=f"BadLabels: {n} of {of} cells in the column"
        )
        for n, of, names in (
            (4, 16, ("cat", "dog", "cat,dog", "dog")),
            (16, 16, ("cat|in", "dog|in", "cat|out", "dog|out")),
            (8, 16, ("cat", "cat;in", "dog", "dog;in")),
            (8, 16, ("['cat']", "['cat', 'in']", "['dog']", "['dog', 'in']")),
            (11, 16, ("a,b", "b,a", "c")),
        )
    ),
    Reading(
        kind="one image of many has several labels",
        images=numbered_images(),
        line=lambda p, n: f"{p},{kind_of('cd'[n % 2])}\n" * 4 + f'{p},"cat,dog"' * (n == 3),
        read="cat 8, dog 7",
    ),
    Reading(
        kind="names with commas",
        line=labels_in_turn("tench, Tinca tinca", "goldfish, Carassius auratus"),
        read="goldfish, Carassius auratus 8, tench, Tinca tinca 8",
        says=(
            "t.csv: 'goldfish, Carassius auratus', 'tench, Tinca tinca' in the column 'label' are each taken as the whole "
            "name of a class. If these are several labels per image: headstart gives each image one class.",
        ),
    ),
    Reading(
        kind="names with commas that share a part",
        line=labels_in_turn("crane, bird", "crane, machine"),
        read="crane, bird 8, crane, machine 8",
        says=(
            "t.csv: 'crane, bird', 'crane, machine' in the column 'label' are each taken as the whole name of a class. If "
            "these are several labels per image: headstart gives each image one class.",
        ),
    ),
    Reading(
        kind="names with blanks that share their parts",
        line=labels_in_turn("scab", "rust", "scab rust", "rust scab"),
        read="rust 4, rust scab 4, scab 4, scab rust 4",
        says=(
            "t.csv: labels such as 'rust scab' in the column 'label' may be several labels of one image; each is taken as a "
            "class of its own.",
        ),
    ),
    Reading(
        kind="a list with one label",
        line=labels_in_turn("['cat']", "['dog']"),
        says=("t.csv: the labels in the column 'label' are lists; \"['cat']\" is read as 'cat'.",),
    ),
    # Sets
    Reading(
        kind="is_valid",
        head="fname,label,is_valid",
        line=lambda p, n: f"{p},{kind_of(p)},{n % 4 == 0}",
        read="cat 8, dog 8; train 12, val 4",
        says=("t.csv: the split is taken from the column 'is_valid'.",),
    ),
    Reading(
        kind="is_train and a label column of any name",
        head="path,breed,is_train",
        line=lambda p, n: f"{p},{kind_of(p)},{int(n % 4 > 0)}",
        read="cat 8, dog 8; test 4, train 12",
        says=("t.csv: the split is taken from the column 'is_train'.",),
    ),
    Reading(
        kind="two columns claim a set, one of them twice",
        head="path,label,is_valid,is_val,is_test",
        line=lambda p, n: f"{p},{kind_of(p)},{int(n == 1)},{int(n in (1, 2))},{int(n in (2, 3))}",
        read="cat 7, dog 8; test 1, train 13, val 1",
        says=("t.csv: the split is taken from the columns 'is_valid', 'is_val', 'is_test'.",),
    ),
    Reading(
        kind="other names of sets",
        head="path,label,Data Set",
        line=lambda p, n: f"{p},{kind_of(p)},{('TRAIN', 'dev', 'holdout', 'Training')[n % 4]}",
        read="cat 8, dog 8; test 4, train 8, val 4",
    ),
    Reading(
        kind="FER2013's usage",
        head="path,label,Usage",
        line=lambda p, n: f"{p},{kind_of(p)},{('Training', 'PublicTest', 'PrivateTest', 'Training')[n % 4]}",
        read="cat 8, dog 8; test 4, train 8, val 4",
    ),
    Reading(
        kind="zeros and ones for a split",
        head="path,label,split",
        line=lambda p, n: f"{p},{kind_of(p)},{n % 2}",
        says=(
            "The split column of t.csv holds no names of sets ('0', '1'): not used. Expected 'train', 'val', 'test'.",
        ),
    ),
    # Headers
    *(
        Reading(
            kind=f"no header: {table}, {line('p.jpg', 1)!r}",
            table=table,
            head=head,
            line=line,
            read=read,
            says=(
                f"{table}: its first line ({first}) names an image, so there is no header; the columns are read as {as_}.",
            ),
        )
        for table, head, line, read, first, as_ in (
            ("l.txt", "", lambda p, n: f"{p}\t{n % 2}", "0 8, 1 8", "'cats/c0.jpg', '0'", "'path', 'label'"),
            ("l.txt", "# id", lambda p, n: f"{n % 2} {p}", "0 8, 1 8", "'cats/c0.jpg', '0'", "'path', 'label'"),
            (
                "l.txt",
                "",
                lambda p, n: f"{p} a {kind_of(p)}",
                "a cat 8, a dog 8",
                "'cats/c0.jpg', 'a cat'",
                "'path', 'label'",
            ),
            ("t.csv", "", lambda p, n: f"{kind_of(p)},{p}", "cat 8, dog 8", "'cat', 'cats/c0.jpg'", "'label', 'path'"),
            ("t.csv", "", lambda p, n: f"{p[:-4]},{kind_of(p)}", "cat 8, dog 8", "'cats/c0', 'cat'", "'path', 'label'"),
            (
                "t.csv",
                "0,1",
                lambda p, n: f"{p},{kind_of(p)}",
                "cat 8, dog 8",
                "'cats/c0.jpg', 'cat'",
                "'path', 'label'",
            ),
            (
                *("t.csv", "", lambda p, n: f"{p},{kind_of(p)},train", "cat 8, dog 8; train 16"),
                *("'cats/c0.jpg', 'cat', 'train'", "'path', 'label', 'split'"),
            ),
        )
    ),
    Reading(
        kind="a list of names that begin with a number",
        table="l.txt",
        head="",
        images=tuple(f"{n} (2).jpg" for n in range(16)),
        line=lambda p, n: f"{p} {kind_of('cd'[n % 2])}",
        says=(
            "l.txt: its first line ('0 (2).jpg', 'cat') names an image, so there is no header; the columns are read as "
            "'path', 'label'.",
        ),
    ),
    *(
        Reading(
            kind=f"a list of names with separators, the first {first!r}",
            table="l.txt",
            head="",
            images=(first, *(f"{n};a, b.jpg" for n in range(15))),
            line=lambda p, n: f"{p} {kind_of('cd'[n % 2])}",
            says=(
                f"l.txt: its first line ({first!r}, 'cat') names an image, so there is no header; the columns are read as "
                "'path', 'label'.",
            ),
        )
        for first in ("first.jpg", "fir,st.jpg")
    ),
    Reading(
        kind="a list of one line",
        table="l.txt",
        head="",
        images=("my cats/c1.jpg",),
        line=lambda p, n: f"{p} a cat",
        read="a cat 1",
        says=(
            "l.txt: its first line ('my cats/c1.jpg', 'a cat') names an image, so there is no header; the columns are read "
            "as 'path', 'label'.",
        ),
    ),
    Reading(
        kind="pandas' index",
        head=",image,breed",
        line=lambda p, n: f"{n},{p},{kind_of(p)}",
        says=("The column 'column 1' of t.csv is not used.",),
    ),
    Reading(kind="Excel's separator", head="sep=;\npath;label", line=lambda p, n: f"{p};{kind_of(p)}"),
    Reading(kind="empty columns", head="path,label,,", line=lambda p, n: f"{p},{kind_of(p)},,,,"),
    Reading(kind="blanks before quotes", head='"path", "label"', line=lambda p, n: f'"{p}", "{kind_of(p)}"'),
    Reading(kind="an id that is the class", head="Image,Id", line=lambda p, n: f"{p},{kind_of(p)}"),
    Reading(
        kind="two columns of marks",
        head="path,bad,checked",
        line=lambda p, n: f"{p},{'x' * (n == 1)},{'x' * (n == 2)}",
        read="BadLabels: no column looks like the label column",
    ),
    Reading(
        kind="two columns that may be labels, beside those of zeros and ones",
        head="file,breed,blurred,indoor,age",
        line=lambda p, n: f"{p},{kind_of(p)},{n % 2},{n % 4 // 2},{n}",
        read="BadLabels: no column looks like the label column; its columns are 'file', 'breed', 'blurred', 'indoor', 'age'.",
    ),
    Reading(
        kind="numbers and names of the same classes",
        head="path,label,class",
        line=lambda p, n: f"{p},{n // 8},{kind_of(p)}",
        says=("The column 'label' of t.csv is not used.",),
    ),
    Reading(kind="camel case", head="imagePath,className", line=lambda p, n: f"{p},{kind_of(p)}"),
    Reading(kind="a column of images of any name", head="shot,kind", line=lambda p, n: f"{p},{kind_of(p)}"),
    Reading(
        kind="two columns of paths",
        head="filename,path,label",
        line=lambda p, n: f"{p[5:]},{p},{kind_of(p)}",
        says=(
            "t.csv: the paths are taken from the column 'path', which names existing files.",
            "The column 'filename' of t.csv is not used.",
        ),
    ),
    Reading(
        kind="pixels",
        head="emotion,pixels,Usage",
        line=lambda p, n: f"{n % 7},70 80 82,Training",
        read="BadLabels: holds the pixels of images ('pixels'), not their paths.",
    ),
    # JSON
    Reading(
        kind="an array of objects",
        table="t.json",
        head="[",
        line=lambda p, n: "," * (n > 0) + f'{{"file": "{p}", "label": "{kind_of(p)}"}}',
        foot="]",
    ),
    Reading(
        kind="an object of labels",
        table="t.json",
        head="{",
        line=lambda p, n: "," * (n > 0) + f'"{p}": "{kind_of(p)}"',
        foot="}",
    ),
    Reading(
        kind="lines of objects",
        table="t.json",
        head="",
        line=lambda p, n: f'{{"file": "{p}", "label": "{kind_of(p)}"}}',
    ),
    Reading(
        kind="COCO",
        table="t.json",
        head='{"images": [], "annotations": [1]',
        line=lambda p, n: "",
        foot="}",
        read="BadLabels: is a COCO file, with objects or captions in images.",
    ),
    # Numbers
    Reading(
        kind="whole numbers as floats",
        images=numbered_images(),
        line=lambda p, n: f"{p[:3]}.0,{n % 2}.0" if n else f"{p[:3]}.0,",
        read="'' 1, 0 7, 1 8",
        says=(
            "t.csv: the labels in the column 'label' are whole numbers; '1.0' is read as '1'.",
            "t.csv: 16 paths are spelled differently from the files, such as '100.0' for '100.jpg'.",
        ),
    ),
    Reading(kind="numbers with fractions", line=labels_in_turn("1.0", "1.5"), read="1.0 8, 1.5 8"),
    Reading(
        kind="thousands",
        head="path;label",
        line=lambda p, n: f"{p};{('1', '1,000', '10,000', '1.000')[n % 4]}",
        read="1 4, 1,000 4, 1.000 4, 10,000 4",
    ),
    Reading(
        kind="thousands as groups",
        head="path;label;group",
        line=lambda p, n: f"{p};{('1,0', '2,00')[n % 2]};{('100', '100,000')[n % 2]}",
        read="1 8, 2 8",
        says=("t.csv: the labels in the column 'label' are whole numbers; '1,0' is read as '1'.",),
    ),
    Reading(
        kind="thousands that are not the numbers of images",
        images=("1.jpg", *numbered_images()),
        head="path;label",
        line=lambda p, n: f"{p if n else '1,000'};{kind_of('cd'[n % 2])}",
        read="cat 8, dog 8",
    ),
    Reading(kind="zeros at the beginning of labels", line=labels_in_turn("007", "042"), read="007 8, 042 8"),
    Reading(
        kind="zeros lost at the beginning of ids",
        images=numbered_images(5),
        head="id,label",
        line=lambda p, n: f"{int(p[:-4])},{kind_of('cd'[n % 2])}",
        says=("t.csv: 16 paths are spelled differently from the files, such as '100' for '00100.jpg'.",),
    ),
    Reading(
        kind="powers of ten",
        images=numbered_images(),
        line=lambda p, n: f"{p if n else '1E+02'},{kind_of('cd'[n % 2])}",
        read="cat 7, dog 8",
        says=("t.csv: a spreadsheet has turned a name into the number '1E+02': format the column as text.",),
    ),
    # Paths
    *(
        Reading(
            kind=f"another place: {before}",
            line=lambda p, n, before=before: f"{before}{p},{kind_of(p)}".replace("/", "\\" if ":\\" in before else "/"),
            says=(
                "t.csv: its paths come from another folder or machine, so their first folders are replaced: "
                f"{before + 'cats@c0.jpg'!r} is read as 'cats/c0.jpg'.".replace(
                    "@", "\\\\" if ":\\" in before else "/"
                ),
            ),
        )
        for before in (
            "C:\\Users\\me\\data\\",
            "/content/drive/MyDrive/data/",
            "/kaggle/input/x/",
            "data/",
            "https://a.b/",
        )
    ),
    Reading(
        kind="another place, and the images of a class are gone",
        images=tuple(f"dogs/{n}.jpg" for n in range(8)),
        line=lambda p, n: f"/data/{p},dog\n/data/cats/{n}.jpg,cat",
        read="dog 8",
        says=(
            "t.csv: its paths come from another folder or machine, so their first folders are replaced: "
            "'/data/dogs/0.jpg' is read as 'dogs/0.jpg'.",
        ),
    ),
    Reading(
        kind="a place that is nowhere", line=lambda p, n: f"/data/x{n},cat", read="BadLabels: none of its 16 rows names"
    ),
    *(
        Reading(
            kind=f"spelled {how('cats/c0.jpg')}",
            line=lambda p, n, how=how: f"{how(p)},{kind_of(p)}",
            says=(
                f"t.csv: 16 paths are spelled differently from the files, such as {how('cats/c0.jpg')!r} for "
                "'cats/c0.jpg'.",
            ),
        )
        for how in (
            lambda p: p.replace("jpg", "JPG"),
            lambda p: p.replace("jpg", "jpeg"),
            lambda p: p.replace("jpg", "png"),
            lambda p: p.capitalize(),
            lambda p: p.replace("ats", "%61ts").replace("ogs", "%6fgs"),
        )
    ),
    Reading(
        kind="blanks, quotes, ./ and backslashes",
        line=lambda p, n: (f" ./{p} ", f"'{p}'", p.replace("/", "\\"))[n % 3] + f",{kind_of(p)}",
    ),
    Reading(
        kind="some addresses",
        line=lambda p, n: f"{p if n else 's3://bucket/1.jpg'},{kind_of(p)}",
        read="cat 7, dog 8",
    ),
    # No label
    Reading(
        kind="words for a missing cell",
        line=labels_in_turn("cat", "dog", "nan", "None"),
        read="'' 4, None 4, cat 4, dog 4",
        says=(
            "t.csv: 'nan' in the column 'label' means no label (4 rows).",
            "t.csv: 'None' (4 rows) in the column 'label' is taken as a class. If it means no label, empty these cells.",
        ),
    ),
]


def classes_and_sets(dataset: Dataset) -> str:
    """The images of each class, and of each set if there are sets."""
    classes = Counter(dataset.label_name(i) for i in range(len(dataset)))
    sets = Counter(filter(None, dataset.split.tolist()))
    listed = [", ".join(f"{name or repr('')} {n}" for name, n in sorted(counts.items())) for counts in (classes, sets)]
    return "; ".join(filter(None, listed))


def with_tables(folder: Path, images: Iterable[str], tables: dict[str, str]) -> Path:
    """Files that nothing looks into, and tables."""
    for name in images:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name, text in tables.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("given", READINGS, ids=[given.kind for given in READINGS])
def test_a_table_is_read(given: Reading, here: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = (given.line(path, n) for n, path in enumerate(given.images))
    with_tables(here, given.images, {given.table: "\n".join([*filter(None, [given.head]), *rows, given.foot])})
    source = headstart.DataSource(Path(given.table))
    with caplog.at_level("INFO", logger="headstart"):
        if given.read.startswith("BadLabels: "):
            with pytest.raises(BadLabels, match=re.escape(given.read.removeprefix("BadLabels: "))):
                headstart.open_dataset(source)
        else:
            assert classes_and_sets(headstart.open_dataset(source)) == given.read
            assert caplog.messages == list(given.says)


def row_per_image(images: Iterable[str]) -> str:
    """A table with the file names of these images."""
    return "\n".join(["image,label", *(f"{path.rpartition('/')[2]},{kind_of(path)}" for path in images)])


FLAT_IMAGES = tuple(f"images/{kind}{n}.jpg" for kind in "cd" for n in range(8))
QUARTERS = [[path for n, path in enumerate(FLAT_IMAGES) if n % 4 == k] for k in range(4)]
FOUND_BY = "the images found by 'image' ('cat': 8, 'dog': 8)"


@pytest.mark.parametrize(
    ("tables", "read", "says"),
    [
        (
            {"train.csv": [0, 1], "valid.csv": [2], "test.csv": [3]},
            "cat 8, dog 8; test 4, train 8, val 4",
            f"'label' of 'train.csv', 'test.csv', 'valid.csv', {FOUND_BY}",
        ),
        (
            {"labels/labels_dev.csv": [0], "labels/labels_train.csv": [1, 2, 3]},
            "cat 8, dog 8; train 12, val 4",
            f"'label' of 'labels/labels_dev.csv', 'labels/labels_train.csv', {FOUND_BY}",
        ),
        (
            {"part1.csv": [0, 1], "part2.csv": [2, 3]},
            "cat 8, dog 8",
            f"'label' of 'part1.csv', 'part2.csv', {FOUND_BY}",
        ),
        ({"labels/labels.csv": [0, 1, 2, 3]}, "cat 8, dog 8", f"'label' of 'labels/labels.csv', {FOUND_BY}"),
        ({"labels.csv": [0, 1, 2, 3], "old.csv": [0]}, "cat 8, dog 8", f"'label' of 'labels.csv', {FOUND_BY}"),
        ({"a.csv": [0, 1, 2, 3], "b.csv": [0, 1, 2, 3]}, "'' 16", "'a.csv', 'b.csv' could each hold the labels"),
    ],
)
def test_tables_beside_images(
    tables: dict[str, list[int]], read: str, says: str, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = {name: row_per_image(path for k in quarters for path in QUARTERS[k]) for name, quarters in tables.items()}
    with_tables(here / "d", FLAT_IMAGES, named)
    with caplog.at_level("INFO", logger="headstart"):
        assert classes_and_sets(headstart.open_dataset(headstart.DataSource(Path("d")))) == read
    assert says in caplog.text


def test_a_table_in_each_set_folder(here: Path) -> None:
    images = [f"{name}/{path[7:]}" for name in ("train", "test") for path in FLAT_IMAGES]
    tables = {f"{name}/labels.csv": row_per_image(FLAT_IMAGES) for name in ("train", "test")}
    with_tables(here / "d", images, tables)
    assert (
        classes_and_sets(headstart.open_dataset(headstart.DataSource(Path("d")))) == "cat 16, dog 16; test 16, train 16"
    )


def test_files_beside_images_that_may_hold_labels(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_tables(here / "d", FLAT_IMAGES, {"labels.xlsx": "PK", "images/_annotations.coco.json": "{}"})
    with caplog.at_level("INFO", logger="headstart"):
        headstart.open_dataset(headstart.DataSource(Path("d")))
    assert caplog.messages == [
        "d/images/_annotations.coco.json: is a COCO file, with boxes around objects in images; headstart does not read it. "
        "headstart gives each whole image one class: give a folder of images per class, or a table with the columns "
        "path,label.",
        'd/labels.xlsx: is a spreadsheet; headstart does not read it. Save it as CSV in that program (File > Save As > "CSV '
        'UTF-8"), and give the CSV.',
    ]


def test_examples_in_the_modules_about_tables() -> None:
    names = ("edited", "foreign_formats", "label_cells", "one_hot", "path_cells", "set_columns", "tables")
    modules = [importlib.import_module(f"headstart.data.{name}") for name in names]
    assert [doctest.testmod(module).failed for module in modules] == [0] * len(names)


def test_lists_of_each_set(here: Path) -> None:
    lists = {
        f"{name}.txt": "\n".join(f"{p[7:]} {kind_of(p)}" for p in FLAT_IMAGES[k::2])
        for k, name in enumerate(("train", "val"))
    }
    with_tables(here / "d", FLAT_IMAGES, lists | {"README.txt": "Images such as 1.jpg."})
    assert classes_and_sets(headstart.open_dataset(headstart.DataSource(Path("d")))) == "cat 8, dog 8; train 8, val 8"


# Images


def greys_in_16_bits(folder: Path, scale: int, offset: int = 0, each: int = 12) -> Path:
    """Class folders of grey images whose values are stored as 16 bits."""
    for kind, name in enumerate(KINDS):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(each):
            pixels = np.asarray(draw(kind, n).convert("L")).astype(np.uint16) * scale + offset
            Image.fromarray(pixels.astype(np.uint16)).save(folder / name / f"{name[:-1]}.{n}.png")
    return folder


OTHER_FILES = {
    "scan.jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "photo.jxl": b"\xff\x0a",
    "IMG_1.CR2": b"II*\0\x10\0\0\0CR\2\0",
    "IMG_2.RAF": b"FUJIFILMCCD-RAW 0201",
    "slice.dcm": bytes(128) + b"DICM",
    "logo.svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
}
"""Files that count as images wherever they lie, with their first bytes."""


def other_files(folder: Path, names: tuple[str, ...] = tuple(OTHER_FILES)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(OTHER_FILES[name].ljust(400, b"\0"))


def beside_folders(here: Path) -> None:
    """Images in a folder, and files of other formats beside the folder."""
    cats_and_dogs(here / "h" / "2024", each=1)
    other_files(here / "h")


def by_name(here: Path) -> None:
    """A flat folder, some of whose images are in another format."""
    for kind, name in enumerate(("cat", "dog")):
        (here / "flat").mkdir(exist_ok=True)
        for n in range(12):
            draw(kind, n).save(here / "flat" / f"{name}_{n}.jpg")
        for n in range(12, 15):
            (here / "flat" / f"{name}_{n}.JP2").write_bytes(OTHER_FILES["scan.jp2"].ljust(400, b"\0"))


def many_kinds(here: Path) -> None:
    """Class folders with files of many other formats, and some that are no images."""
    folder = cats_and_dogs(here / "d") / "cats"
    other_files(folder)
    (folder / "x.pdf").write_bytes(b"%PDF-1.7\n" + bytes(400))
    (folder / "IMG_3.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(400))
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    (folder / "lfs.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def one_of_another_depth(here: Path) -> None:
    greys_in_16_bits(here / "d", 257)
    greys_in_16_bits(here / "e", 4, each=1)
    shutil.copy(here / "e" / "cats" / "cat.0.png", here / "d" / "cats" / "dark.png")


def large_jpegs(here: Path) -> None:
    """A JPEG of 144 million pixels, and a PNG as large."""
    folder = cats_and_dogs(here / "d") / "cats"
    Image.new("L", (12_000, 12_000), 90).save(folder / "large.jpg", quality=30)
    Image.new("1", (12_000, 12_000)).save(folder / "large.png")


IMAGES: list[Row] = [
    Row(
        kind="F4: other formats beside folders",
        given=beside_folders,
        command="predict {run} h",
        says=(
            "6 of 8 files cannot be used, and are left out: camera raw 2, DICOM 1, JPEG 2000 1, JPEG XL 1, SVG 1. "
            "To use camera raw: export it as JPEG or TIFF",
            "h/2024/cats/cat.0.jpg",
            "h/2024/dogs/dog.0.jpg",
            "not read  not_supported  h/IMG_1.CR2",
            "not read  not_supported  h/IMG_2.RAF",
            "not read  not_supported  h/logo.svg",
            "not read  not_supported  h/photo.jxl",
            "not read  not_supported  h/scan.jp2",
            "not read  not_supported  h/slice.dcm",
        ),
    ),
    Row(
        kind="F4: other formats in a flat folder",
        given=by_name,
        command="check flat",
        says=(
            "30 files, 24 usable, 2 classes: cat 12, dog 12",
            "error    not_supported",
            "6 files of 30 cannot be used (not supported) and are left out: JPEG 2000 6. To use JPEG 2000: magick IMAGE.jp2 "
            "IMAGE.png.",
        ),
    ),
    Row(
        kind="F9: many formats are counted by kind",
        given=many_kinds,
        command="check d",
        says=(
            "2 files of 34 cannot be used (not an image) and are left out: Git LFS pointer 1, web page 1.",
            "Git LFS pointer: git lfs pull",
            "Web page: a download that failed; download it again.",
            "8 files of 34 cannot be used (not supported) and are left out: camera raw 2, DICOM 1, JPEG 2000 1, JPEG XL 1, "
            "PDF 1, SVG 1, video 1.",
            "To use camera raw:",
        ),
    ),
    Row(
        kind="F3: 12 bits in 16",
        given=lambda here: greys_in_16_bits(here / "d", 16),
        command="check d",
        says=(
            "warning  sixteen_bit",
            "24 images have 16 bits or more per channel, with values from ",
            "; scaled from 0 to 4,095, in training and in prediction.",
        ),
        never=("near_duplicates", "uneven_depth"),
    ),
    Row(
        kind="F3: a narrow band of 16 bits",
        given=lambda here: greys_in_16_bits(here / "d", 2, 30_000),
        command="check d",
        says=("with values from 30,0", " to 30,", "; scaled from 30,0", " to 30,"),
    ),
    Row(
        kind="F3: all of 16 bits",
        given=lambda here: greys_in_16_bits(here / "d", 257),
        command="check d",
        says=("info     sixteen_bit             24 images have 16 bits or more per channel; scaled to 8 bits.",),
        never=("in training and in prediction", "warning"),
    ),
    Row(
        kind="F3: one image of another depth",
        given=one_of_another_depth,
        command="check d",
        says=(
            "warning  uneven_depth",
            "1 image of more than 8 bits uses hardly any of the range 0 to 65,535 of the others, or exceeds it, for "
            "example cats/dark.png: ",
            "Save all with the same scale.",
        ),
    ),
    Row(
        kind="P25: a JPEG of 144 million pixels",
        given=large_jpegs,
        command="check d",
        says=(
            "26 files, 25 usable",
            "error    too_many_pixels         1 file of 26 cannot be used (too many pixels) and is left out: PNG: 12,000 x "
            "12,000 pixels; the limit is 128,000,000, and 65,535 per side. To use it: magick IMAGE -resize 4000x4000 "
            "IMAGE.jpg.",
            "largest 12,000",
        ),
    ),
]


def test_each_file_has_a_reason_of_its_own(here: Path) -> None:
    many_kinds(here)
    draw(0, 20).save(here / "d" / "dogs" / "a.jpg", "PNG")
    draw(0, 21).save(here / "d" / "dogs" / "b.jpg", "WEBP")
    assert cli.run(shlex.split("check d --out checks.csv")) == 0
    with open(here / "checks.csv", encoding="utf-8", newline="") as file:
        said_of = {row["path"]: row["message"] for row in csv.DictReader(file) if row["path"]}
    assert said_of["cats/x.pdf"] == "PDF is not decoded here. To use PDF: pdftoppm -png -r 150 FILE.pdf PAGE."
    assert said_of["cats/scan.jp2"] == "JPEG 2000 is not decoded here. To use JPEG 2000: magick IMAGE.jp2 IMAGE.png."
    assert said_of["cats/IMG_3.MOV"].startswith("Video is not decoded here. To use video: ffmpeg ")
    assert said_of["cats/slice.dcm"].startswith(
        "DICOM is not decoded here. To use DICOM: export it as PNG of 8 or 16 bits"
    )
    assert said_of["cats/IMG_1.CR2"].startswith("Camera raw is not decoded here.")
    assert said_of["cats/page.jpg"] == "Web page, not an image: a download that failed; download it again."
    assert said_of["cats/lfs.jpg"] == "Git LFS pointer, not an image: git lfs pull (the file only names the image)."
    assert said_of["dogs/a.jpg"] == "Has the extension of another format, but is a PNG; read anyway."
    assert said_of["dogs/b.jpg"] == "Has the extension of another format, but is a WEBP; read anyway."


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A run on images of 12 bits, and its answers for one of them: as a file, in memory, and alone."""
    folder = tmp_path_factory.mktemp("deep")
    file = greys_in_16_bits(folder / "d", 16) / "cats" / "cat.0.png"
    assert cli.run(shlex.split(f"train {folder / 'd'} --out {folder / 'run'} {LINEAR}")) == 0
    predictor = Predictor(load_classifier(folder / "run"))
    both = predictor.predict([file, Image.open(file)]).probabilities
    return folder / "run", np.stack([*both, predictor.predict_one(file)])


def test_a_run_keeps_the_range_of_its_images(deep: tuple[Path, np.ndarray]) -> None:
    """Trained on 12 bits, it reads 12 bits as they were in training, from files and from memory."""
    run, answers = deep
    spec = json.loads((run / "headstart.json").read_text(encoding="utf-8"))["members"][0]["preprocess"]
    assert spec["ranges"] == {"integers": [0, 4_095]}
    assert (answers == answers[0]).all() and answers[0, 0] > 0.5
    with open(run / "checks.csv", encoding="utf-8", newline="") as file:
        assert "scaled from 0 to 4,095" in next(
            row["message"] for row in csv.DictReader(file) if "16 bits" in row["message"]
        )


@pytest.mark.skipif(not is_available("HEIC"), reason="needs the library for HEIC: pip install '.[formats]'")
def test_heic_is_read_wherever_it_lies(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Beside JPEGs, under another name, and cut off."""
    photo = (Path(__file__).parent / "data" / "heic" / "turned.heic").read_bytes()
    folder = cats_and_dogs(here / "d", each=2) / "cats"
    (folder / "IMG_1.HEIC").write_bytes(photo)
    (folder / "from-a-phone.jpg").write_bytes(photo)
    (folder / "IMG_2.HEIC").write_bytes(photo[:-90])
    text = said("check d", capsys, caplog)
    in_order(("7 files, 6 usable, 2 classes: cats 4, dogs 2",), text)
    assert text.count("cannot be used") == 1
    in_order(("error    truncated", "HEIC: its pixels should end at byte", "cats/IMG_2.HEIC"), text)
    in_order(("for example cats/from-a-phone.jpg is a HEIC; read anyway.",), text)


@pytest.mark.parametrize("missing", ["HEIC", "AVIF"])
def test_a_missing_library_is_named_with_its_command(missing: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = {"HEIC": b"ftypheic", "AVIF": b"ftypavif"}[missing]
    monkeypatch.setattr(headers, "is_available", lambda name: name != missing)
    with pytest.raises(UnreadableImage) as caught:
        decode(b"\0\0\0\x14" + start + bytes(300))
    assert (caught.value.reason, caught.value.kind) == ("not_supported", missing)
    assert str(caught.value) == f"{missing} is not decoded here. To use {missing}: pip install 'headstart[formats]'."


# Say over the data


THREE = ("cats", "dogs", "sea")


def three(folder: Path) -> None:
    cats_and_dogs(folder / "d", names=THREE)


def with_commas(folder: Path) -> None:
    cats_and_dogs(folder / "d", names=("cats", "wolf, grey", "sea"))


def decomposed(folder: Path) -> None:
    cats_and_dogs(folder / "d", names=("cats", unicodedata.normalize("NFD", "cafés")))


def corrected(dropped: str) -> Callable[[Path], None]:
    """Three classes, and corrections that leave out all images of one."""

    def given(folder: Path) -> None:
        three(folder)
        rows = [f"{dropped}/{p.name},x" for p in (folder / "d" / dropped).iterdir()]
        (folder / "fixes.csv").write_text("\n".join(["path,drop", *rows]))

    return given


def grown(folder: Path) -> None:
    cats_and_dogs(folder / "d", each=18)


def shrunk(folder: Path) -> None:
    """The images of the run without three, one of which has another name now, and one other bytes."""
    cats_and_dogs(folder / "d")
    (folder / "d/cats/cat.0.jpg").rename(folder / "d/cats/renamed.jpg")
    (folder / "d/cats/cat.1.jpg").unlink()
    draw(0, 99).save(folder / "d/cats/cat.2.jpg")


SAY: list[Row] = [
    Row(
        kind="some classes only",
        given=three,
        command="check d --classes cats,dogs",
        says=(
            "d: 12 images of 1 class are left out, because --classes names others: 'sea': 12.",
            "24 files, 24 usable, 2 classes: cats 12, dogs 12",
        ),
    ),
    Row(
        kind="a class that no image has",
        given=three,
        command="check d --classes cats,dgos",
        says=(
            "BadLabels: d: no image has the class 'dgos' (--classes); its classes are 'cats': 12, 'dogs': 12, 'sea': 12.",
            "Did you mean 'dogs'?",
        ),
        code=1,
    ),
    Row(
        kind="classes that no image has",
        given=three,
        command="check d --classes x,y,cats",
        says=("d: no image has the classes 'x', 'y' (--classes); its classes are",),
        code=1,
    ),
    Row(
        kind="a class in capitals",
        given=three,
        command="split d --classes CATS,dogs --out s.csv",
        says=("no image has the class 'CATS'", "Did you mean 'cats'?"),
        code=1,
    ),
    Row(
        kind="a class with a comma in its name",
        given=with_commas,
        command="""split d --classes 'sea, "wolf, grey"' --out s.csv""",
        says=("12 images of 1 class are left out, because --classes names others: 'cats': 12.", "sea 8, wolf, grey 8"),
    ),
    Row(
        kind="a class with a comma, without quotes",
        given=with_commas,
        command="split d --classes 'sea,wolf, grey' --out s.csv",
        says=("no image has the classes 'wolf', 'grey'", """--classes 'cats,"wolf, grey"'"""),
        code=1,
    ),
    Row(
        kind="a class in another Unicode form",
        given=decomposed,
        command=f"check d --classes {unicodedata.normalize('NFC', 'cafés')}",
        says=("12 files, 12 usable, 1 classes",),
    ),
    Row(
        kind="one class only",
        given=three,
        command="split d --classes cats --out s.csv",
        says=("d: has one class only ('cats': 12)", "Keep another class as well; left out: 'dogs', 'sea'."),
        code=1,
    ),
    Row(
        kind="no name among the classes",
        given=three,
        command="check d --classes ,",
        says=("BadLabels: classes: names no class.", "Separate names by commas, such as --classes cats,dogs."),
        code=1,
    ),
    Row(
        kind="corrections for images of other classes",
        given=corrected("sea"),
        command="split d --classes cats,dogs --corrections fixes.csv --out s.csv",
        says=(
            "0 labels changed, 0 images left out.",
            "12 rows are for images of classes that are left out.",
            "train  16  cats 8, dogs 8",
        ),
    ),
    Row(
        kind="an evaluation on more classes than the run has",
        given=three,
        command="evaluate {run} d",
        says=(
            "BadLabels: d: class 'sea' is unknown to the classifier (cats, dogs).",
            "To leave their images out: --classes cats,dogs.",
        ),
        code=1,
    ),
    Row(
        kind="an evaluation on several other classes",
        given=lambda folder: cats_and_dogs(folder / "d", names=("cats", "birds", "sea")),
        command="evaluate {run} d",
        says=(
            "d: 2 classes are unknown to the classifier (cats, dogs): 'birds': 12, 'sea': 12.",
            "To leave their images out: --classes cats.",
        ),
        code=1,
    ),
    Row(
        kind="an evaluation on some classes of the data",
        given=three,
        command="evaluate {run} d --classes cats,dogs",
        says=("All labelled images: 24 images, 2 classes",),
    ),
    Row(
        kind="corrections that empty a class",
        given=corrected("sea"),
        command="split d --corrections fixes.csv --out s.csv",
        says=(
            "Corrections in fixes.csv: 0 labels changed, 12 images left out.",
            "The corrections leave no image of 'sea'; the class is not used.",
            "train  16  cats 8, dogs 8",
        ),
        never=("sea 0",),
    ),
    Row(
        kind="a split that grows",
        given=grown,
        command="split d --keep {run}/split.csv --out new.csv",
        says=("train  20  cats 10, dogs 10", "24 images kept their set, 12 new (train 4, val 4, test 4), 0 gone"),
    ),
    Row(
        kind="a split that grows, new images for training",
        given=grown,
        command="split d --keep {run}/split.csv --val-size 0 --test-size 0 --out new.csv",
        says=("24 images kept their set, 12 new (train 12), 0 gone",),
    ),
    Row(
        kind="a split of images that are gone, renamed, or other ones",
        given=shrunk,
        command="split d --keep {run}/split.csv --out new.csv",
        says=(
            "split.csv: 1 image in it is not in the data, or cannot be read: 'cats/cat.1.jpg'.",
            "split.csv: 1 image in it is found under another name, with the same bytes: 'cats/renamed.jpg'.",
            "split.csv: 1 image in it is no longer the same file, but in the same set: 'cats/cat.2.jpg'.",
            "23 images kept their set, 0 new, 1 gone",
        ),
    ),
    Row(
        kind="a split of other data to keep",
        given=lambda folder: cats_and_dogs(folder / "e", first=50),
        command="split e --keep {run}/split.csv --out new.csv",
        says=(
            "BadSplit: ",
            "24 rows with a path that is not in the data: cats/cat.0.jpg; ",
            "Was the split made for other data?",
        ),
        code=1,
    ),
    Row(
        kind="a split to keep that would be replaced",
        given=lambda folder: (grown(folder), (folder / "s.csv").write_text("path,split\ncats/cat.0.jpg,train\n")),
        command="split d --keep s.csv --out s.csv",
        says=("WriteError: s.csv: is an input file, and would be replaced.",),
        code=1,
    ),
    Row(
        kind="images that a given split does not list",
        given=grown,
        command=f"train d --split {{run}}/split.csv --out r2 {LINEAR}",
        says=(
            "split.csv does not list 12 labelled images: 'cats/cat.12.jpg', 'cats/cat.13.jpg', 'cats/cat.14.jpg' and 9 more. "
            "`headstart split DATA --keep ",
            "gives new images a set, and the others keep theirs.",
            "12 labelled images have no set in the given split; they are not used.",
        ),
    ),
    Row(
        kind="classes that a given split does not list",
        given=lambda folder: cats_and_dogs(folder / "d", names=(*THREE, "sky")),
        command=f"train d --split {{run}}/split.csv --out r2 {LINEAR}",
        says=(
            "BadSplit: d: 2 classes have no images to train on: 'sea' (12 images in no set of the given split), 'sky' (12 "
            "images in no set of the given split).",
            "--classes names those to use",
        ),
        code=1,
    ),
    Row(
        kind="a given split of more classes",
        given=three,
        command="split d --classes cats,sea --keep {run}/split.csv --out new.csv",
        says=("12 images kept their set, 12 new (train 8, val 2, test 2), 0 gone"),
        never=("not in the data",),
    ),
    Row(
        kind="no validation set",
        given=cats_and_dogs,
        command=f"train . --val-size 0 --out r2 {LINEAR}",
        says=("val_size 0.0 cannot be used", "The validation set chooses the head and fits the temperature"),
        code=1,
    ),
    Row(
        kind="images into class folders",
        given=lambda folder: cats_and_dogs(folder / "new", each=2, first=40),
        command="predict {run} new --sort-into sorted",
        says=("4 images copied into sorted: cats 2, dogs 2",),
    ),
    Row(
        kind="links in class folders",
        given=lambda folder: cats_and_dogs(folder / "new", each=2, first=40),
        command="predict {run} new --sort-into sorted --link",
        says=("4 images linked into sorted: cats 2, dogs 2",),
    ),
    Row(
        kind="class folders among the images",
        given=lambda folder: cats_and_dogs(folder / "new", each=2),
        command="predict {run} new --sort-into new/sorted",
        says=("WriteError: new/sorted: is inside the data", "Choose --sort-into outside of it"),
        code=1,
    ),
    Row(
        kind="class folders in a run",
        given=lambda folder: (cats_and_dogs(folder / "new", each=2), own_run(folder)),
        command="predict {run} new --sort-into r/sorted",
        says=("which must not change.\n  Choose another --sort-into.",),
        code=1,
    ),
    Row(
        kind="class folders that exist",
        given=lambda folder: (cats_and_dogs(folder / "new", each=2), (folder / "sorted").mkdir()),
        command="predict {run} new --sort-into sorted",
        says=("WriteError: sorted: already exists",),
        code=1,
    ),
    Row(
        kind="links without a folder",
        given=lambda folder: cats_and_dogs(folder / "new", each=2),
        command="predict {run} new --link",
        says=("link: has no effect without --sort-into.", "Add --sort-into DIR."),
        code=1,
    ),
    Row(
        kind="a pattern that the shell did not expand",
        given=lambda folder: cats_and_dogs(folder / "new", each=2),
        command="predict {run} new/cats/*.jpg",
        says=(
            "there is no such image or folder.\n  Patterns such as *.jpg are not expanded. Give the folder: new/cats",
        ),
        code=1,
    ),
    Row(
        kind="predictions inside the class folders",
        given=lambda folder: cats_and_dogs(folder / "new", each=2),
        command="predict {run} new --sort-into sorted --out sorted/p.csv",
        says=("WriteError: sorted/p.csv: is in sorted, which is written as a whole.",),
        code=1,
    ),
    Row(
        kind="predictions beside the images",
        given=lambda folder: cats_and_dogs(folder / "new", each=2),
        command="predict {run} new/cats --out new/cats/p.csv",
        says=("2 predictions written to new/cats/p.csv",),
    ),
]


def sets_in(table: Path) -> dict[str, str]:
    """{path: set} of a split.csv."""
    rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
    return {row[0]: row[2] for row in rows}


def test_new_images_join_their_copies(here: Path, trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A copy, or a near-copy, of a test image goes to the test set; a copy of images in two sets goes to none."""
    cats_and_dogs(here / "d")
    before = sets_in(trained / "split.csv")
    tested = next(path for path, name in before.items() if name == "test")
    shutil.copy(here / "d" / tested, here / "d/cats/copy.jpg")
    for n in range(4):
        scene(n).save(here / f"d/cats/scene.{n}.jpg", quality=90)
    Image.open(here / "d/cats/scene.0.jpg").save(here / "d/cats/again.jpg", quality=60)
    for name in ("one", "two", "between"):
        draw(1, 50).save(here / f"d/dogs/{name}.jpg")
    rows = ("cats/scene.0.jpg,cats,test,90,", "dogs/one.jpg,dogs,train,91,", "dogs/two.jpg,dogs,test,92,")
    (here / "old.csv").write_text("\n".join([(trained / "split.csv").read_text().strip(), *rows]))
    made = headstart.split("d", keep="old.csv", out="new.csv")
    after = sets_in(here / "new.csv")
    assert {path: after[path] for path in before} == before
    assert (after["cats/copy.jpg"], after["cats/again.jpg"], after["dogs/between.jpg"]) == ("test", "test", "")
    assert (made.kept, sum(made.new.values()), made.new[""], made.gone) == (27, 6, 1, 0)
    assert (
        "1 image that old.csv does not list has copies, or members of its group, in different sets of it: "
        "'dogs/between.jpg'. It is put into no set, because it would be a leak in any set."
    ) in caplog.messages


def test_a_last_training_on_everything(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a test set, all that reports figures says that they are from the validation set."""
    cats_and_dogs(here / "d")
    text = said(f"train d --test-size 0 --out run {LINEAR.replace('--no-report', '')}", capsys, caplog)
    optimistic = (
        "No test set was kept. These metrics are from the validation set, which also chose the head and the temperature"
    )
    in_order(
        ("No test set is kept (--test-size 0): all images are used for training and validation.", optimistic), text
    )
    assert "Validation: 4 images" in text and "Test: " not in text
    assert json.loads((here / "run/metrics.json").read_text())["test"] is None
    card = (here / "run/README.md").read_text()
    assert optimistic in card and "| metric | validation |" in card
    page = (here / "run/report.html").read_text()
    assert optimistic in page and "4 validation images" in page
    assert not re.search(r"test (set|images)", page.replace("No test set was kept", ""))
    assert set(sets_in(here / "run/split.csv").values()) == {"train", "val"}
    assert (here / "run/predictions.csv").read_text().count("\n") == 5
    text = said("evaluate run d", capsys, caplog)
    assert "24 of these 24 images are in the run's training or validation set" in text
    assert "The run has no test set of its own." in text
    assert "Identical: all 4 predictions are the same." in said("reproduce run --offline", capsys, caplog)
    assert "written to run/report.html" in said("report run --no-heat", capsys, caplog)
    assert (here / "run/report.html").read_text().count(optimistic) == page.count(optimistic)


def test_a_test_set_that_comes_with_the_data_is_kept(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cats_and_dogs(here / "d/train")
    cats_and_dogs(here / "d/test", each=4, first=30)
    text = said(f"train d --test-size 0 --out run {LINEAR}", capsys, caplog)
    in_order(("A test set comes with the data or the split. It is kept", "Test: 8 images"), text)


def test_sorted_images_keep_their_bytes_and_never_collide(here: Path, trained: Path) -> None:
    cats_and_dogs(here / "new/one", each=2, first=40)
    cats_and_dogs(here / "new/two", each=2, first=50)
    for n in (0, 1):
        (here / f"new/two/cats/cat.{50 + n}.jpg").rename(here / f"new/two/cats/CAT.{40 + n}.jpg")
    long = "Ж" * 125 + ".jpg"  # 254 bytes; a number makes them 256
    for folder, name in (("one", "dog.41.jpg"), ("two", "dog.51.jpg")):
        (here / f"new/{folder}/dogs/{name}").rename(here / f"new/{folder}/dogs/{long}")
    (here / "new/one/cats/damaged.jpg").write_bytes(b"not an image")
    done = headstart.predict(trained, "new", "new/one/cats/cat.40.jpg", sort_into="sorted")
    assert done.sorted is not None and len(done.sorted.places) == 8
    for name, place in done.sorted.places.items():
        assert (here / "sorted" / place).read_bytes() == (here / name).read_bytes()
    assert len({place.casefold() for place in done.sorted.places.values()}) == 8
    assert sum(path.is_file() for path in (here / "sorted").rglob("*")) == 8
    assert list(done.predictions.errors) == ["new/one/cats/damaged.jpg"]
    assert done.table().splitlines()[-1] == "8 images copied into sorted: cats 4, dogs 4; 1 could not be read"
    headstart.predict(trained, "new/one", sort_into="links", link=True)
    assert (here / "links/cats/cat.40.jpg").resolve() == here / "new/one/cats/cat.40.jpg"


# From Python


def paths_and_labels() -> tuple[list[Path], list[str]]:
    paths = sorted(Path("d").rglob("*.jpg"))
    return paths, [path.parent.name for path in paths]


def as_frame() -> object:
    pandas = pytest.importorskip("pandas")
    paths, labels = paths_and_labels()
    return pandas.DataFrame({"path": list(map(str, paths)), "label": labels})


def as_indexed_frame() -> object:
    return as_frame().set_index("path")  # type: ignore[attr-defined]


def as_arrow() -> object:
    import pyarrow

    paths, labels = paths_and_labels()
    return pyarrow.table({"file_name": list(map(str, paths)), "class": labels})


def as_columns() -> object:
    paths, labels = paths_and_labels()
    return {"image": paths, "label": labels}


def as_absolute_paths() -> object:
    paths, labels = paths_and_labels()
    return [path.absolute() for path in paths], labels


def as_images() -> object:
    paths, labels = paths_and_labels()
    kinds: list[Callable[[Path], object]] = [Image.open, Path.read_bytes, lambda p: np.asarray(Image.open(p)), str]
    return [kinds[n % 4](path) for n, path in enumerate(paths)], np.array(labels)


def as_stack() -> object:
    paths, labels = paths_and_labels()
    return np.stack([np.asarray(Image.open(path)) for path in paths]), labels


def as_pairs() -> object:
    return list(zip(*paths_and_labels(), strict=True))


def as_rows() -> object:
    return [{"file": str(path), "label": label} for path, label in zip(*paths_and_labels(), strict=True)]


def as_classes() -> object:
    return {name: sorted(Path("d", name).iterdir()) for name in KINDS}


IN_MEMORY = (
    *(as_frame, as_indexed_frame, as_arrow, as_columns, as_rows, as_pairs, as_classes),
    *(paths_and_labels, as_absolute_paths, as_images, as_stack),
)


@pytest.mark.parametrize("given", IN_MEMORY)
def test_data_in_memory(given: Callable[[], object], here: Path) -> None:
    cats_and_dogs(here / "d", each=3)
    found = headstart.check(given())  # type: ignore[arg-type]
    assert (found.usable, found.classes) == (6, {"cats": 3, "dogs": 3})
    assert not [f for f in found.findings if f.severity == "error" or f.check == "wrong_extension"]


def test_each_of_two_columns_of_images_in_memory_keeps_its_pixels(here: Path) -> None:
    photos = [draw(n % 2, n) for n in range(6)]
    masks = [Image.new("L", (24, 24), n) for n in range(6)]
    data = {"image": photos, "mask": masks, "label": list("ababab")}
    opened = headstart.open_dataset(data)  # type: ignore[arg-type]
    assert [np.asarray(Image.open(opened.file(n))).tolist() for n in range(6)] == [
        np.asarray(photo).tolist() for photo in photos
    ]
    masked = headstart.open_dataset(headstart.DataSource(data, path_column="mask"))  # type: ignore[arg-type]
    assert [np.asarray(Image.open(masked.file(n)))[0, 0, 0] for n in range(6)] == list(range(6))


@pytest.mark.parametrize("factor", [16, 1 / 255], ids=["12 bits", "floating point"])
def test_deep_images_in_memory_are_scaled_by_what_they_use(factor: float, here: Path) -> None:
    """As files of the same pixels are: `test_a_run_keeps_the_range_of_its_images`."""
    greys = [np.asarray(draw(n % 2, n).convert("L")).astype(int) for n in range(6)]
    kind = np.uint16 if factor > 1 else np.float32
    images = [Image.fromarray((grey * factor).astype(kind)) for grey in greys]
    opened = headstart.open_dataset((images, list("ababab")))  # type: ignore[arg-type]
    given = Images.inspect([opened.file(n) for n in range(6)])
    assert {info.mode for info in given.infos} == {"I;16" if factor > 1 else "F"}
    assert given.ranges.as_dict() == ({"integers": [0, 4_095]} if factor > 1 else {"floats": [0, 1]})
    for n, grey in enumerate(greys):
        assert np.abs(np.asarray(given.read(n, ranges=given.ranges)).astype(int)[..., 0] - grey).max() <= 1


def test_no_classes_named_are_all_classes(here: Path) -> None:
    cats_and_dogs(here / "d", each=3)
    source = headstart.DataSource(Path("d"), classes=None)  # type: ignore[arg-type]
    assert headstart.open_dataset(source).classes == ("cats", "dogs")


def test_classes_in_an_empty_list_are_none(here: Path) -> None:
    cats_and_dogs(here / "d", each=3)
    with pytest.raises(BadLabels, match=r"^classes: names no class\."):
        headstart.open_dataset(headstart.DataSource(Path("d")), classes=[])


def test_images_of_each_class_some_of_them_missing(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    cats_and_dogs(here / "d", each=4)
    paths = {name: [f"d/{name}/{name[:-1]}.{n}.jpg" for n in range(4)] for name in KINDS}
    data = {**paths, "dogs": ["d/dogs/typo.jpg", *paths["dogs"]], "birds": []}
    opened = headstart.open_dataset(headstart.DataSource(data))  # type: ignore[arg-type]
    assert classes_and_sets(opened) == "cats 4, dogs 4"
    assert opened.rejected == (("d/dogs/typo.jpg", "not_a_file"),)
    assert "data in memory: the class 'birds' has no images; it is left out." in caplog.messages


def test_text_as_bytes_is_text(here: Path) -> None:
    """As HDF5 and numpy keep it; images are bytes as well."""
    cats_and_dogs(here / "d", each=3)
    paths = sorted(map(str, Path("d").rglob("*.jpg")))
    labels = np.array([Path(path).parent.name.encode() for path in paths])
    for images in (paths, np.array([path.encode() for path in paths]), [Path(path).read_bytes() for path in paths]):
        for data in ((images, labels), {"path": images, "label": labels}, list(zip(images, labels, strict=True))):
            assert headstart.check(data).classes == {"cats": 3, "dogs": 3}  # type: ignore[arg-type]


def test_labels_as_arrays_of_rows(here: Path) -> None:
    """A column, as scikit-learn's loaders make it, and a column of zeros and ones per class, as Keras has labels."""
    numbers = np.arange(6) % 2
    images = np.stack([np.asarray(draw(k, n)) for n, k in enumerate(numbers)])
    for labels in (numbers[:, None], np.eye(2)[numbers], np.eye(2, dtype=int)[numbers]):
        assert headstart.check((images, labels)).classes == {"0": 3, "1": 3}  # type: ignore[arg-type]
    with pytest.raises(BadLabels, match=r"the labels have 2 columns, but some rows are not one-hot\."):
        headstart.check((images, np.full((6, 2), 0.5)))  # type: ignore[arg-type]


def test_a_frame_is_trained_on_and_reproduced(here: Path, capsys: pytest.CaptureFixture[str], own_cache: Path) -> None:
    cats_and_dogs(here / "d")
    frame = as_frame()
    recipe = headstart.Recipe(approach="linear")
    weights = headstart.WeightsSource(offline=True)
    source = headstart.DataSource(frame, group_from=r"(\d+)\.jpg")  # type: ignore[arg-type]
    run = headstart.train(source, out="run", recipe=recipe, weights=weights, report=False)
    assert run.provenance.data.source.title == "DataFrame in memory"
    predicted = headstart.load_classifier("run")  # type: ignore[arg-type]
    assert "\n" not in repr(predicted) and "\n" not in repr(run)
    text = (here / "run/split.csv").read_text()
    assert "\nd/cats/cat.0.jpg,cats," in text
    assert headstart.reproduce("run", weights=weights).same  # type: ignore[arg-type]
    shutil.rmtree(own_cache / "memory")
    assert cli.run(["reproduce", "run", "--offline"]) == 1
    in_order(
        (
            "this was data in memory, and its copy in the cache has been deleted.",
            "with --data (in Python, data=).",
        ),
        capsys.readouterr().err,
    )
    assert len(headstart.open_dataset(run.provenance.source(frame))) == 24


IMAGE = np.zeros((8, 8, 3), np.uint8)

REFUSED: list[tuple[Callable[[], object], type[HeadstartError], str]] = [
    (lambda: headstart.check(None), DataError, "data is None, which cannot be opened."),  # type: ignore[arg-type]
    (lambda: headstart.check(3), DataError, "data is 3, which cannot be opened."),  # type: ignore[arg-type]
    (lambda: headstart.check(""), DataError, "data is '', which is not a path."),  # type: ignore[arg-type]
    (lambda: headstart.check([]), DataError, "images in memory: is empty."),  # type: ignore[arg-type]
    (lambda: headstart.check(IMAGE), DataError, "data is of type ndarray, which cannot be opened."),  # type: ignore[arg-type]
    (
        lambda: headstart.check([IMAGE / 255]),  # type: ignore[arg-type]
        DataError,
        "images in memory, row 0: an array of float64, expected uint8 from 0 to 255. Convert pixels from 0 to 1 with",
    ),
    (
        lambda: headstart.check((["a.jpg", "b.jpg"], ["a"])),  # type: ignore[arg-type]
        DataError,
        "images and labels in memory: its columns differ in length: 'path' 2, 'label' 1.",
    ),
    (
        lambda: headstart.check({"id": ["x", "y"], "label": ["a", "b"]}),  # type: ignore[arg-type]
        DataError,
        "data in memory: none of its 2 rows names an existing image; the first is 'x', looked for at ",
    ),
    (
        lambda: headstart.check({"path": ["https://a.org/1.jpg"], "label": ["a"]}),  # type: ignore[arg-type]
        DataError,
        "data in memory: 'https://a.org/1.jpg' is an address, which is not fetched.",
    ),
    (
        lambda: headstart.check({"file": ["x"], "breed": ["a"], "age": [1]}),  # type: ignore[arg-type]
        DataError,
        "data in memory: no column looks like the label column; its columns are 'file', 'breed', 'age'.",
    ),
    (lambda: headstart.DataSource(Path("d"), classes=[]), BadLabels, "classes: names no class."),  # type: ignore[arg-type]
    (lambda: headstart.train("d", out=None), RecipeError, "out: None is not a path."),  # type: ignore[arg-type]
    (lambda: headstart.train("d", out="r", recipe="linear"), RecipeError, "recipe: 'linear' is not a Recipe."),  # type: ignore[arg-type]
    (lambda: headstart.split("d", out="s.csv", curation="c"), RecipeError, "curation: 'c' is not a Curation."),  # type: ignore[arg-type]
    (lambda: headstart.train("d", out="r", weights=3), RecipeError, "weights: 3 is not a path."),  # type: ignore[arg-type]
    (lambda: headstart.compare("d", out="c", recipes=3), RecipeError, "recipes: 3 is not a list of names."),  # type: ignore[arg-type]
    (lambda: headstart.load_classifier(None), RecipeError, "run: None is not a path."),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_cannot_be_opened(
    call: Callable[[], object], error: type[HeadstartError], message: str, here: Path
) -> None:
    with pytest.raises(error) as raised:
        call()
    assert raised.value.message.startswith(message)
    assert raised.value.hint


def test_images_to_predict(here: Path, trained: Path) -> None:
    cats_and_dogs(here / "d", each=2, first=40)
    path = Path("d/cats/cat.40.jpg")
    pixels = np.asarray(Image.open(path))
    one = [headstart.predict(trained, x).predictions for x in (path, str(path), path.read_bytes(), pixels)]
    assert [p.paths for p in one] == [(str(path),), (str(path),), ("0",), ("0",)]
    assert all(p.predicted.tolist() == [0] for p in one)
    several = [path, Image.open(path), io.BytesIO(path.read_bytes()), pixels]
    predicted = headstart.predict(trained, several, "d/dogs").predictions
    assert predicted.paths == ("d/cats/cat.40.jpg", "1", "2", "3", "d/dogs/dog.40.jpg", "d/dogs/dog.41.jpg")
    assert predicted.predicted.tolist() == [0, 0, 0, 0, 1, 1]
    assert headstart.predict(trained, np.stack([pixels, pixels])).predictions.paths == ("0", "1")
    assert headstart.predict(trained, (p for p in sorted(Path("d/dogs").iterdir()))).predictions.predicted.tolist() == [
        1,
        1,
    ]
    predictor = headstart.Predictor(headstart.load_classifier(trained))
    assert predictor.predict(str(path)).paths == (str(path),)
    assert predictor.predict([str(path), pixels]).predicted.tolist() == [0, 0]
    assert predictor.predict_one(str(path)).argmax() == 0  # type: ignore[arg-type]
    explained = headstart.explain(trained, [Image.open(path), path], out=Path("explained"))
    assert [image.path for image in explained.images] == ["0", str(path)]


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (None, DataError, "Image 0 is None, which cannot be used as one."),
        ({"a": 1}, DataError, "Image 0 is of type dict, which cannot be used as one."),
        ([], MissingData, "No images were given."),
        ("https://a.org/1.jpg", DataError, "Image 0 is the address 'https://a.org/1.jpg', which is not fetched."),
        ("", DataError, "Image 0 is '', which cannot be used as one."),
        (IMAGE / 255, DataError, "Image 0 is an array of float64, expected uint8 from 0 to 255. Convert pixels"),
        ([IMAGE, IMAGE[0, 0]], DataError, "Image 1 is an array of shape (3,), expected"),
    ],
)
def test_what_cannot_be_predicted(image: object, error: type[HeadstartError], message: str, trained: Path) -> None:
    with pytest.raises(error) as raised:
        headstart.predict(trained, image)  # type: ignore[arg-type]
    assert raised.value.message.startswith(message)
    assert raised.value.hint


def test_results_are_one_line(here: Path, trained: Path) -> None:
    cats_and_dogs(here / "d", each=2, first=40)
    for result in (headstart.load_classifier(trained), headstart.evaluate(trained, "d"), headstart.check("d")):  # type: ignore[arg-type]
        assert "\n" not in repr(result) and len(repr(result)) < 200


# Time and options


def cats_in(folder: Path) -> None:
    cats_and_dogs(folder / "d")


OPTIONS = [
    Row(
        kind="B5: a fraction where a whole number is expected",
        given=cats_in,
        command="split d --out split.csv --seed 1.9",
        says=("headstart split: Invalid value for --seed: '1.9' is not a whole number.",),
        code=2,
    ),
    *(
        Row(
            kind=f"an empty value, as a shell variable that is not set gives it: {command}",
            given=cats_in,
            command=command,
            says=(
                f"headstart {command.partition(' ')[0]}: {what} is empty.\n  In a script: is a variable not set?",
                "--help` lists its options.",
            ),
            code=2,
        )
        for command, what in (
            ("check ''", "An argument"),
            ("split d --classes '' --out s.csv", "--classes"),
            ("train d --out=", "--out"),
        )
    ),
    Row(
        kind="B5: options without effect for the approach",
        given=cats_in,
        command=f"train d --out r {LINEAR} --lr 0.01 --epochs 3",
        says=("The approach linear does not use epochs (3), lr (0.01).",),
    ),
]


def test_of_several_weights_of_an_architecture_those_of_imagenet_are_used(
    here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """P20: a recipe names an architecture, and a folder has it trained on several sets."""
    for tag in ("in1k", "inat_bird", "qat_in1k"):
        for suffix in (".json", ".safetensors"):
            (here / "weights").mkdir(exist_ok=True)
            shutil.copy(tiny_weights / f"test_resnet.a{suffix}", here / "weights" / f"test_resnet.{tag}{suffix}")
    cats_and_dogs(here / "d")
    text = said(f"train d --out r {LINEAR} --backbone test_resnet --weights-dir weights", capsys, caplog)
    assert (
        "test_resnet: of test_resnet.in1k, test_resnet.inat_bird, test_resnet.qat_in1k, the ImageNet weights "
        "test_resnet.in1k are used." in text
    )


# The rows


ROWS = [*RUN_FOLDERS, *FOLDERS, *TABLES, *IMAGES, *SAY, *OPTIONS]


@pytest.mark.parametrize("row", ROWS, ids=[row.kind for row in ROWS])
def test_the_right_answer(
    row: Row, here: Path, trained: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    row.given(here)
    text = said(row.command.replace("{run}", str(trained)), capsys, caplog, row.code)
    in_order(row.says, text)
    for sentence in row.never:
        assert sentence not in text
