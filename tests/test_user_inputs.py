"""Folders, tables, images and options as people have them, and the right answer to each.

A row is a kind of input. `given` makes it in an empty folder, `command` is run there, and its output has to contain the
sentences `says`, in that order, and none of `never`. `{run}` in a command is a run on cats and dogs. What a row cannot
show is a test of its own below the rows, in the same section. The letters are those of the kinds, for reference.
"""

from __future__ import annotations

import csv
import json
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
from headstart.errors import UnreadableImage
from headstart.images import headers
from headstart.images.decode import decode
from headstart.images.formats import is_available
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


RUN_FOLDERS = [
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
        kind="a run whose weights have changed",
        given=with_other_weights,
        command="predict r new",
        says=(
            "DamagedRun: r/model.safetensors: has changed since it was written (SHA-256 differs).",
            "Restore the folder from a copy, or train again.",
        ),
        code=1,
    ),
    Row(
        kind="P13: a run to repeat, whose images are elsewhere now",
        given=lambda folder: shutil.copytree(TRAINED["run"], folder / "r"),
        command="reproduce r --data elsewhere",
        says=(
            "MissingData: elsewhere: there is no such folder or table.",
            "Give the new place of the images with --data.",
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
            "w: none of its 12 images has a label.\n  w/labels/train/IMG_0.txt holds boxes (YOLO), so this looks like data for object detection; headstart classifies whole images. Cut "
            "the boxes out into one folder per class, or sort the images into class folders.",
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
            "6 of 30 files cannot be used, and are left out: JPEG 2000 6. To use JPEG 2000: magick IMAGE.jp2 IMAGE.png.",
            "30 files, 24 usable, 2 classes: cat 12, dog 12",
            "error    not_supported",
            "6 files of 30 cannot be used (not supported) and are left out: JPEG 2000 6.",
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
            "24 images have 16 bits or more per pixel, of which they use the values ",
            ": scaled by 0 to 4,095, a range that a run keeps for its predictions.",
        ),
        never=("near_duplicates", "uneven_depth"),
    ),
    Row(
        kind="F3: a narrow band of 16 bits",
        given=lambda here: greys_in_16_bits(here / "d", 2, 30_000),
        command="check d",
        says=("of which they use the values 30,0", " to 30,", ": scaled by 30,0", " to 30,"),
    ),
    Row(
        kind="F3: all of 16 bits",
        given=lambda here: greys_in_16_bits(here / "d", 257),
        command="check d",
        says=("info     sixteen_bit             24 images have 16 bits or more per pixel; scaled to 8.",),
        never=("a range that a run keeps", "warning"),
    ),
    Row(
        kind="F3: one image of another depth",
        given=one_of_another_depth,
        command="check d",
        says=(
            "warning  uneven_depth",
            "1 image of more than 8 bits uses hardly any of the range 0 to 65,535 of the others, or other values, for "
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
        assert "scaled by 0 to 4,095" in next(
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
    in_order(
        ("1 of 7 files cannot be used, and is left out: HEIC 1.", "7 files, 6 usable, 2 classes: cats 4, dogs 2"), text
    )
    in_order(("error    truncated", "HEIC: its pixels end at byte", "cats/IMG_2.HEIC"), text)
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


SAY: list[Row] = []


# From Python


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
