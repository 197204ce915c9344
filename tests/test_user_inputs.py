"""Folders, tables, images and options as people have them, and the right answer to each.

A row is a kind of input. `given` makes it in an empty folder, `command` is run there, and its output has to contain the
sentences `says`, in that order, and none of `never`. `{run}` in a command is a run on cats and dogs. What a row cannot
show is a test of its own below the rows, in the same section. The letters are those of the kinds, for reference.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart import cli

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cats and dogs with the built-in backbone, and the images beside it (`d`). Never write into it."""
    folder = tmp_path_factory.mktemp("trained")
    cats_and_dogs(folder / "d")
    assert cli.run(shlex.split(f"train {folder / 'd'} --out {folder / 'run'} {LINEAR}")) == 0
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


RUN_FOLDERS: list[Row] = []


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
            "w: left out: 1 folder without images (archive/empty); 1 folder of the system or of a program "
            "(archive/__pycache__); 2 files not named like an image (archive/dataset/eda.ipynb, archive/readme.md).",
            "2 classes: cats 12, dogs 12",
        ),
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
            "w: left out: 1 folder named like masks or annotations of the images beside (masks).",
            "2 classes: cats 12, dogs 12",
        ),
    ),
    Row(
        kind="F6: masks in class folders",
        given=masks_in_classes,
        command="check w",
        says=(
            "w: left out: 2 folders named like masks or annotations of the images beside (COVID/masks, Normal/masks); "
            "6 files named like the mask of an image beside (",
            "2 classes: COVID 6, Normal 6",
        ),
    ),
    Row(
        kind="F6: boxes of object detection",
        given=boxes,
        command="split w --out s.csv",
        says=(
            "w: none of its 12 images has a label.\n  w/labels/train/IMG_0.txt holds boxes (YOLO), so this looks like "
            "data for object detection; headstart classifies whole images. Cut the boxes out into one folder "
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
            "w: left out: 2 folders without images (birds, docs); 2 folders of the system or of a program (__pycache__, "
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
            "w: classes 'x', 'y', 'z' are unknown to the classifier (cats, dogs).",
        ),
        code=1,
    ),
    Row(
        kind="F2: classes that a given split does not have",
        given=with_a_new_class,
        command=f"train w --out r --split given.csv {LINEAR}",
        says=(
            "w: 2 classes have no images to train on: 'sea' (6 images in no set of the given split), 'wood' (6 images in no "
            "set of the given split).\n  Give them a set in the split, or remove the classes.",
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
            "w: left out: 1 folder named like masks or annotations of the images beside (cats/masks).",
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


TABLES: list[Row] = []


# Images


IMAGES: list[Row] = []


# Say over the data


SAY: list[Row] = []


# From Python


# Time and options


OPTIONS: list[Row] = []


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
