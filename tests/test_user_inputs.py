"""Folders, tables, images and options as people have them, and the right answer to each.

A row is a kind of input. `given` makes it in an empty folder, `command` is run there, and its output has to contain the
sentences `says`, in that order, and none of `never`. `{run}` in a command is a run on cats and dogs. What a row cannot
show is a test of its own below the rows, in the same section. The letters are those of the kinds, for reference.
"""

from __future__ import annotations

import doctest
import importlib
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

import headstart
from conftest import draw
from headstart import cli
from headstart.data.dataset import Dataset
from headstart.errors import BadLabels

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
    ": is an address, not a path.\n  Addresses are not fetched. Download first, and give the path of what you"
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
        kind="P4 several labels in a cell",
        given=table_of("t.csv", '{path},"{kind},indoor"', more="cats/cat.1.jpg,cat"),
        command=SPLIT_TABLE,
        says=(
            "BadLabels: d/t.csv: 24 of 25 labels in the column 'label' are several labels for one image, such as "
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
            "  Leave these rows out, or learn one of the columns: --label-column cat has the classes 0 and 1.",
        ),
        code=1,
    ),
    Row(
        kind="P6 addresses in a table",
        given=table_of("t.csv", "https://host.org/x{n}.jpg,{kind}"),
        command=SPLIT_TABLE,
        says=(
            "BadLabels: d/t.csv: 24 of 24 rows name an address, such as 'https://host.org/x0.jpg'.\n"
            "  Addresses are not fetched. Download first, and give the path of what you downloaded.",
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
            ("predict {run}", "s3://bucket/1.jpg"),
            ("explain {run}", "gs://bucket/1.jpg"),
            ("predict {run}", "data:image/png;base64,AAAA"),
            ("split cats --out s.csv --corrections", "https://host.org/c.csv"),
        )
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
            says=("left out", "gone.jpg", "t.csv: not used: the column 'age'."),
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
        says=("t.csv: not used: the column 'id'.",),
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
            kind=f"several: {names}", line=labels_in_turn(*names), read=f"BadLabels: {n} of {of} labels in the column"
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
        says=("t.csv: 1 image is listed with two labels; left out: '103.jpg'.",),
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
        says=("t.csv: not used: the column 'column 1'.",),
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
        kind="numbers and names of the same classes",
        head="path,label,class",
        line=lambda p, n: f"{p},{n // 8},{kind_of(p)}",
        says=("t.csv: not used: the column 'label'.",),
    ),
    Reading(kind="camel case", head="imagePath,className", line=lambda p, n: f"{p},{kind_of(p)}"),
    Reading(kind="a column of images of any name", head="shot,kind", line=lambda p, n: f"{p},{kind_of(p)}"),
    Reading(
        kind="two columns of paths",
        head="filename,path,label",
        line=lambda p, n: f"{p[5:]},{p},{kind_of(p)}",
        says=(
            "t.csv: the paths are taken from the column 'path', which names existing files.",
            "t.csv: not used: the column 'filename'.",
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
            "t.csv: 16 paths are spelled in another way, such as '100.0' for '100.jpg'.",
        ),
    ),
    Reading(kind="numbers with fractions", line=labels_in_turn("1.0", "1.5"), read="1.0 8, 1.5 8"),
    Reading(kind="zeros at the beginning of labels", line=labels_in_turn("007", "042"), read="007 8, 042 8"),
    Reading(
        kind="zeros lost at the beginning of ids",
        images=numbered_images(5),
        head="id,label",
        line=lambda p, n: f"{int(p[:-4])},{kind_of('cd'[n % 2])}",
        says=("t.csv: 16 paths are spelled in another way, such as '100' for '00100.jpg'.",),
    ),
    Reading(
        kind="powers of ten",
        images=numbered_images(),
        line=lambda p, n: f"{p if n else '1E+02'},{kind_of('cd'[n % 2])}",
        read="cat 7, dog 8",
        says=(
            "t.csv: 1 row names no existing image; left out: '1E+02'. A spreadsheet has made a number of '1E+02': format the "
            "column as text.",
        ),
    ),
    # Paths
    *(
        Reading(
            kind=f"another place: {before}",
            line=lambda p, n, before=before: f"{before}{p},{kind_of(p)}".replace("/", "\\" if ":\\" in before else "/"),
            says=(
                "t.csv: its paths are of another place, so they are read with other folders at the beginning: "
                f"{before + 'cats@c0.jpg'!r} as 'cats/c0.jpg'.".replace("@", "\\\\" if ":\\" in before else "/"),
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
            "t.csv: its paths are of another place, so they are read with other folders at the beginning: '/data/dogs/0.jpg' "
            "as 'dogs/0.jpg'.",
            "t.csv: 8 rows name no existing image; left out: 'cats/0.jpg', 'cats/1.jpg', 'cats/2.jpg' and 5 more.",
        ),
    ),
    Reading(
        kind="a place that is nowhere", line=lambda p, n: f"/data/x{n},cat", read="BadLabels: none of its 16 rows names"
    ),
    *(
        Reading(
            kind=f"spelled {how('cats/c0.jpg')}",
            line=lambda p, n, how=how: f"{how(p)},{kind_of(p)}",
            says=(f"t.csv: 16 paths are spelled in another way, such as {how('cats/c0.jpg')!r} for 'cats/c0.jpg'.",),
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
        says=("t.csv: 1 row names an address, which is not fetched; left out: 's3://bucket/1.jpg'.",),
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
                source.open()
        else:
            assert classes_and_sets(source.open()) == given.read
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
        ({"a.csv": [0, 1, 2, 3], "b.csv": [0, 1, 2, 3]}, "images 16", "'a.csv', 'b.csv' could each hold the labels"),
    ],
)
def test_tables_beside_images(
    tables: dict[str, list[int]], read: str, says: str, here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = {name: row_per_image(path for k in quarters for path in QUARTERS[k]) for name, quarters in tables.items()}
    with_tables(here / "d", FLAT_IMAGES, named)
    with caplog.at_level("INFO", logger="headstart"):
        assert classes_and_sets(headstart.DataSource(Path("d")).open()) == read
    assert says in caplog.text


def test_a_table_in_each_set_folder(here: Path) -> None:
    images = [f"{name}/{path[7:]}" for name in ("train", "test") for path in FLAT_IMAGES]
    tables = {f"{name}/labels.csv": row_per_image(FLAT_IMAGES) for name in ("train", "test")}
    with_tables(here / "d", images, tables)
    assert classes_and_sets(headstart.DataSource(Path("d")).open()) == "cat 16, dog 16; test 16, train 16"


def test_files_beside_images_that_may_hold_labels(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_tables(here / "d", FLAT_IMAGES, {"labels.xlsx": "PK", "images/_annotations.coco.json": "{}"})
    with caplog.at_level("INFO", logger="headstart"):
        headstart.DataSource(Path("d")).open()
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
    assert classes_and_sets(headstart.DataSource(Path("d")).open()) == "cat 8, dog 8; train 8, val 8"


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
