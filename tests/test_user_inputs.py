"""Folders, tables, images and options as people have them, and the right answer to each.

A row is a kind of input. `given` makes it in an empty folder, `command` is run there, and its output has to contain the
sentences `says`, in that order, and none of `never`. `{run}` in a command is a run on cats and dogs. What a row cannot
show is a test of its own below the rows, in the same section. The letters are those of the kinds, for reference.
"""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import draw, scene
from headstart import cli
from headstart.errors import DataError, HeadstartError, MissingData, RecipeError

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


FOLDERS: list[Row] = []


# Tables


TABLES: list[Row] = []


# Images


IMAGES: list[Row] = []


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
        says=("12 of them are for images of classes that are left out.", "train  16  cats 8, dogs 8"),
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
            "split.csv: 1 image in it is found under another name, by the bytes: 'cats/renamed.jpg'.",
            "split.csv: 1 image in it is another file now, in the same set: 'cats/cat.2.jpg'.",
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
            "BadSplit: d: 2 classes have images, but none to train on: 'sea': 12, 'sky': 12.",
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
        says=("link: applies to sorted images only.", "Add --sort-into DIR."),
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
        "'dogs/between.jpg'. It is put into no set, because it would be a leak in any."
    ) in caplog.messages


def test_a_last_training_on_everything(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Without a test set, all that reports figures says that they are from the validation set."""
    cats_and_dogs(here / "d")
    text = said(f"train d --test-size 0 --out run {LINEAR.replace('--no-report', '')}", capsys, caplog)
    optimistic = (
        "No test set was kept. These figures are from the validation set, which also chose the head and the temperature"
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
            "the data was in the memory of a program, and its copy in the cache is gone.",
            "with --data (in Python, data=).",
        ),
        capsys.readouterr().err,
    )
    assert len(run.provenance.source(frame).open()) == 24


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
        (None, DataError, "Image 0 is None, which is not one."),
        ({"a": 1}, DataError, "Image 0 is of type dict, which is not one."),
        ([], MissingData, "No images were given."),
        ("https://a.org/1.jpg", DataError, "Image 0 is 'https://a.org/1.jpg', an address, which is not fetched."),
        ("", DataError, "Image 0 is '', which is not one."),
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
