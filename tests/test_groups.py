"""Images of one patient, camera or burst stay in one set of a split: named by a column or a pattern, or proposed."""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import headstart
from conftest import draw
from headstart import DataSource, Recipe, cli
from headstart.data.dataset import Dataset
from headstart.data.open_dataset import open_dataset
from headstart.errors import BadLabels, BadSplit, HeadstartError
from headstart.model.backbones.weights_source import WeightsSource
from test_data_source import IMAGES, parquet, tar_bytes, write

PATIENTS = ["7", "8", "7", "8", "7", "9"]
LABELS = ["cat", "dog", "dog", "cat", "dog", "dog"]
TOGETHER = {(0, 2, 4), (1, 3), (5,)}
"""Which of the six images are of one patient; patient 7 is in both classes, and so is patient 8."""
BY_NAME = r"patient(\d+)"


def error_of(call: Callable[[], object], kind: type[HeadstartError]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def together(data: Dataset) -> set[tuple[int, ...]]:
    """Which of the six images share a group, by their number in `IMAGES`."""
    number = {bytes_: n for n, bytes_ in enumerate(IMAGES)}
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for i in range(len(data)):
        groups[int(data.groups[i])].append(number[data.file(i).read_bytes()])
    return {tuple(sorted(members)) for members in groups.values()}


def name(n: int) -> str:
    return f"patient{PATIENTS[n]}_{n}.jpg"


def classes() -> dict[str, bytes | str]:
    return {f"{LABELS[n]}/{name(n)}": data for n, data in enumerate(IMAGES)}


def patient_folders() -> dict[str, bytes | str]:
    return {f"{LABELS[n]}/patient{PATIENTS[n]}/{n}.jpg": data for n, data in enumerate(IMAGES)}


def plain() -> dict[str, bytes | str]:
    return {f"{n}.jpg": data for n, data in enumerate(IMAGES)}


def lines(header: str, line: Callable[[int], str], numbers: Iterable[int] = range(6)) -> str:
    return "\n".join([header, *map(line, numbers)]) + "\n"


def row(n: int) -> str:
    return f"{n}.jpg,{LABELS[n]},{PATIENTS[n]}"


def zipped(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for path, data in classes().items():
            archive.writestr(path, data)
    return folder / "a.zip"


def web(folder: Path, *, named: bool = False) -> Path:
    files: dict[str, bytes | str] = {}
    for n, data in enumerate(IMAGES):
        key = name(n).removesuffix(".jpg") if named else f"{n:04}"
        files |= {f"{key}.json": json.dumps({"label": LABELS[n], "patient": int(PATIENTS[n])}), f"{key}.jpg": data}
    return write(folder, {"s.tar": tar_bytes(files)}) / "s.tar"


def web_called_group(folder: Path, field: str) -> Path:
    """Shards with the label in .cls, and the group in a field or under a key of .json; the .json of one is damaged."""
    files: dict[str, bytes | str] = {}
    for n, data in enumerate(IMAGES):
        files |= {f"{n}.jpg": data, f"{n}.cls": LABELS[n]}
        files[f"{n}.json"] = json.dumps({"age": 7, field: PATIENTS[n]}) if n != 5 and field != ".group" else "{"
        files |= {f"{n}.group": PATIENTS[n]} if field == ".group" else {}
    return write(folder, {"s.tar": tar_bytes(files)}) / "s.tar"


def with_bytes(folder: Path) -> Path:
    return parquet(folder / "t.parquet", {"image": IMAGES, "label": LABELS, "patient": PATIENTS})


SOURCES: dict[str, Callable[[Path], DataSource]] = {
    "class folders": lambda p: DataSource(write(p, classes()), group_from=BY_NAME),
    "folders of patients": lambda p: DataSource(write(p, patient_folders()), group_from=r"/(?P<group>patient\d+)/"),
    "labels in names": lambda p: DataSource(
        write(p, {f"{LABELS[n]}.{name(n)}": data for n, data in enumerate(IMAGES)}),
        label_from="^[a-z]+",
        group_from=BY_NAME,
    ),
    "archive": lambda p: DataSource(zipped(p), group_from="patient."),
    "table and names": lambda p: DataSource(
        write(p, classes() | {"t.csv": lines("path,label", lambda n: f"{LABELS[n]}/{name(n)},{LABELS[n]}")}) / "t.csv",
        group_from=BY_NAME,
    ),
    "names win over a column called group": lambda p: DataSource(
        write(p, classes() | {"t.csv": lines("path,label,group", lambda n: f"{LABELS[n]}/{name(n)},{LABELS[n]},x")})
        / "t.csv",
        group_from=BY_NAME,
    ),
    "table and column": lambda p: DataSource(
        write(p, plain() | {"t.csv": lines("path,label,patient", row)}) / "t.csv", group_column="patient"
    ),
    "table with unusual names": lambda p: DataSource(
        write(p, plain() | {"t.csv": lines("id,breed,patient", row)}) / "t.csv", group_column="patient"
    ),
    "folder and the table beside": lambda p: DataSource(
        write(p, plain() | {"t.csv": lines("id,breed,patient", row)}), group_column="patient"
    ),
    "a table in a folder of its own": lambda p: DataSource(
        write(
            p,
            {f"images/{n}.jpg": data for n, data in enumerate(IMAGES)}
            | {"labels/labels.csv": lines("file,label,patient", row)},
        ),
        group_column="patient",
    ),
    "class folders and a table beside": lambda p: DataSource(
        write(p, classes() | {"t.csv": lines("name,patient", lambda n: f"{name(n)},{PATIENTS[n]}")}),
        group_column="patient",
    ),
    "two tables in split folders": lambda p: DataSource(
        write(
            p,
            {f"{'train' if n < 4 else 'test'}/{n}.jpg": data for n, data in enumerate(IMAGES)}
            | {"train/metadata.csv": lines("file_name,label,patient", row, range(4))}
            | {"test/metadata.csv": lines("file_name,label,patient", row, (4, 5))},
        ),
        group_column="patient",
    ),
    "a column per class, and one of zeros and ones": lambda p: DataSource(
        write(
            p,
            plain()
            | {
                "t.csv": lines(
                    "id,cat,dog,patient",
                    lambda n: f"{n},{int(LABELS[n] == 'cat')},{int(LABELS[n] == 'dog')},{PATIENTS[n]}",
                )
            },
        )
        / "t.csv",
        group_column="patient",
    ),
    "parquet with images": lambda p: DataSource(with_bytes(p), group_column="patient"),
    "parquet with images and a column called group": lambda p: DataSource(
        parquet(p / "t.parquet", {"image": IMAGES, "kind": LABELS, "Group ID": [int(each) for each in PATIENTS]})
    ),
    "WebDataset by a key called group": lambda p: DataSource(web_called_group(p, "groupId")),
    "WebDataset by a field called group": lambda p: DataSource(web_called_group(p, ".group")),
    "WebDataset by a key": lambda p: DataSource(web(p), group_column="patient"),
    "WebDataset by its names": lambda p: DataSource(web(p, named=True), group_from=BY_NAME),
}
"""Each holds the six images, and says which are of one patient."""


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_can_name_groups(kind: str, tmp_path: Path) -> None:
    data = open_dataset(SOURCES[kind](tmp_path / "data"))
    assert together(data) == TOGETHER
    assert data.classes == ("cat", "dog")


def test_without_the_option_there_are_no_groups(tmp_path: Path) -> None:
    for n, place in enumerate((write(tmp_path / "a", classes()), with_bytes(tmp_path / "b"), web(tmp_path / "c"))):
        assert together(open_dataset(place)) == {(n,) for n in range(6)}, n


def test_a_column_that_is_named_as_the_labels_holds_no_groups(tmp_path: Path) -> None:
    table = parquet(tmp_path / "t.parquet", {"image": IMAGES, "group": LABELS, "n": [1] * 6})
    keyed = {f"{n}.jpg": data for n, data in enumerate(IMAGES)}
    keyed |= {f"{n}.json": json.dumps({"group": LABELS[n]}) for n in range(6)}
    shard = write(tmp_path, {"s.tar": tar_bytes(dict(sorted(keyed.items())))}) / "s.tar"
    for place in (table, shard):
        data = open_dataset(place, label_column="group")
        assert data.classes == ("cat", "dog")
        assert together(data) == {(n,) for n in range(6)}


def test_what_open_dataset_is_told_wins(tmp_path: Path) -> None:
    folder = write(tmp_path, classes())
    assert together(open_dataset(folder, group_from=BY_NAME)) == TOGETHER
    assert together(open_dataset(DataSource(folder, group_from="^x"), group_from=BY_NAME)) == TOGETHER


# What is said of groups


def test_images_without_a_group_are_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write(tmp_path, classes() | {"cat/stray.jpg": b"x", "dog/loose.jpg": b"y"})
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(folder, group_from=BY_NAME)
    assert caplog.messages == [
        f"{folder}: 2 of 8 images have no group by 'patient(\\\\d+)', such as 'cat/stray.jpg'; "
        "each of them is a group of its own."
    ]
    assert len(set(data.groups.tolist())) == 5


def test_empty_cells_are_groups_of_their_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = ["7", "", "7", " ", "7", "9"]
    table = (
        write(tmp_path, plain() | {"t.csv": lines("path,label,p", lambda n: f"{n}.jpg,{LABELS[n]},{cells[n]}")})
        / "t.csv"
    )
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(table, group_column="p")
    assert caplog.messages == [f"{table}: the column 'p' is empty for 2 of 6 rows; each of them is a group of its own."]
    assert together(data) == {(0, 2, 4), (1,), (3,), (5,)}
    table.write_text(lines("path,label,p", lambda n: f"{n}.jpg,{LABELS[n]},"))
    assert error_of(lambda: open_dataset(table, group_column="p"), BadLabels) == (
        f"{table}: the column 'p' (group_column) is empty for all 6 rows.\n"
        "  Name a column that says which images belong together, or leave the option out."
    )


def test_patterns_that_are_none_or_match_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path, classes())
    assert error_of(lambda: open_dataset(folder, group_from="patient("), BadLabels) == (
        "group_from: 'patient(' is not a regular expression: missing ), unterminated subpattern at position 7.\n"
        "  For example: 'person(\\d+)'; the part in parentheses is the group. Write \\( for a literal parenthesis."
    )
    start = f"{folder}: group_from {{}} matches none of 6 paths, such as 'cat/patient7_0.jpg', 'cat/patient8_3.jpg', "
    start += "'dog/patient7_2.jpg' and 3 more.\n  "
    assert error_of(lambda: open_dataset(folder, group_from="Patient"), BadLabels) == (
        start.format("'Patient'") + "It would match without regard to case: --group-from '(?i)Patient'."
    )
    assert error_of(lambda: open_dataset(folder, group_from="^camera"), BadLabels) == (
        start.format("'^camera'")
        + "It is matched against the path relative to the data, folders included. For example: 'person(\\d+)'."
    )


def test_what_would_match_is_shown(tmp_path: Path) -> None:
    folder = write(tmp_path, {f"{'ab'[n % 2]}/subject_{n // 4}-{n}.jpg": b"x" for n in range(40)})
    assert error_of(lambda: open_dataset(folder, group_from="person"), BadLabels).endswith(
        "\n  --group-from 'subject_(\\d+)' would match."
    )


def test_both_options_are_refused() -> None:
    assert error_of(lambda: open_dataset("photos", group_from="x", group_column="y"), BadLabels) == (
        "group_from 'x' and group_column 'y' are both given; give only one.\n"
        "  Give group_from for groups in the paths of the images, group_column for those in a table."
    )


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    table = write(tmp_path, plain() | {"t.csv": lines("path,label,patient", row)}) / "t.csv"
    near = "\n  Did you mean 'patient'?"
    assert error_of(lambda: open_dataset(table, group_column="patients"), BadLabels) == (
        f"{table}: has no column 'patients' (group_column); its columns are 'path', 'label', 'patient'.{near}"
    )
    assert error_of(lambda: open_dataset(tmp_path, group_column="patients"), BadLabels) == (
        f"{tmp_path}: no table in it has the column 'patients'; there are 't.csv' ('path', 'label', 'patient').{near}"
    )
    shard = with_bytes(tmp_path / "b")
    assert error_of(lambda: open_dataset(shard, group_column="patients"), BadLabels) == (
        f"{shard}: has no column 'patients' (group_column); its columns are 'label', 'patient'.{near}"
    )
    tar = web(tmp_path / "c")
    assert error_of(lambda: open_dataset(tar, group_column="patients"), BadLabels) == (
        f"{tar}: none of 6 samples has a value for 'patients' (group_column).\n"
        "  group_column names a column; in WebDataset an ending, such as 'cls', or a key in the .json."
    )
    bare = write(tmp_path / "d", classes())
    assert error_of(lambda: open_dataset(bare, group_column="patient"), BadLabels) == (
        f"{bare}: holds no table, but the column 'patient' was requested.\n"
        "  Give the table itself, or put it beside the images. --group-from takes groups from the paths of the images."
    )
    others = write(tmp_path / "e", classes() | {"t.csv": "name,patient\nx.jpg,1\n"})
    assert error_of(lambda: open_dataset(others, group_column="patient"), BadLabels) == (
        f"{others}: no row of 't.csv', which has the column 'patient', names one of the 6 images.\n"
        "  A row names an image by its path or file name, such as 'cat/patient7_0.jpg'; --path-column names that column."
    )


@pytest.mark.parametrize("column", ["path", "label"])
def test_the_column_of_groups_is_another_one(tmp_path: Path, column: str) -> None:
    table = write(tmp_path, plain() | {"t.csv": lines("path,label,patient", row)}) / "t.csv"
    source = DataSource(table, path_column="path", group_column=column)
    assert error_of(lambda: open_dataset(source), BadLabels) == (
        f"{table}: the column {column!r} is given as group_column, but it holds the {column}s.\n"
        "  Name the column that says which images belong together, such as one of patients or cameras."
    )


# Splits


def patients(folder: Path, *, each: int = 3, groups: int = 8) -> Path:
    """Two class folders of drawn images, `each` of one patient; each class has patients of its own."""
    for kind in range(2):
        (folder / f"class{kind}").mkdir(parents=True)
        for n in range(each * groups):
            draw(kind, n).save(folder / f"class{kind}" / f"patient{kind}{n // each:02}_{n}.png")
    return folder


def sets_of(split: Path, pattern: str = BY_NAME) -> list[set[str]]:
    """The sets that the images of each group are in."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    with open(split, newline="") as file:
        for line in csv.DictReader(file):
            found[re.search(pattern, line["path"])[1]].add(line["split"])
    return list(found.values())


def test_a_split_keeps_groups_in_one_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = patients(tmp_path / "photos"), tmp_path / "split.csv"
    assert cli.run(["split", str(folder), "--out", str(out)]) == 0
    assert max(map(len, sets_of(out))) > 1
    assert cli.run(["split", str(folder), "--out", str(out), "--group-from", BY_NAME]) == 0
    assert [len(sets) for sets in sets_of(out)] == [1] * 16
    assert set().union(*sets_of(out)) == {"train", "val", "test"}


def test_one_group_cannot_be_split(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos", groups=4)
    source, out = DataSource(folder, group_from="patient"), tmp_path / "split.csv"
    sentence = f"{folder}: all 24 images are one group by --group-from patient, so no split can be made."
    assert error_of(lambda: headstart.split(source, out=out), BadSplit) == (
        f"{sentence}\n  Add images of other groups, leave the class out, or name smaller groups. "
        "A split of your own is used as it is."
    )
    assert [f.message for f in headstart.check(source).findings if f.check == "single_group"] == [sentence]


def test_a_class_of_one_group_is_named(tmp_path: Path) -> None:
    folder = patients(tmp_path / "photos", groups=4)
    source, out = DataSource(folder, group_from=r"patient(?:0(\d+)|1)"), tmp_path / "split.csv"
    headstart.split(source, out=out)  # no match of the brackets: a group of its own
    source = DataSource(folder, group_from=r"patient(?P<group>1|0\d+)")
    sentence = (
        f"{folder}: class 'class1' is a single group by --group-from 'patient(?P<group>1|0\\d+)', "
        "so it cannot be both trained on and tested."
    )
    for make in (
        lambda: headstart.split(source, out=out),
        lambda: headstart.train(source, out=tmp_path / "run"),
        lambda: headstart.compare(source, out=tmp_path / "compared", weights=WeightsSource(offline=True)),
    ):
        assert error_of(make, BadSplit).splitlines()[0] == sentence
    found = headstart.check(source).findings
    assert [(f.severity, f.message) for f in found if f.check == "single_group"] == [("warning", sentence)]


def test_a_given_split_may_have_such_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        patients(tmp_path / "photos" / part, groups=2)
    source = DataSource(tmp_path / "photos", group_from=r"patient(\d)")
    headstart.split(source, out=tmp_path / "split.csv", val_size=0)
    found = headstart.check(source).findings
    assert [f.check for f in found if f.check in ("single_group", "split_leak")] == ["split_leak"]


def test_choices_see_the_group_if_classes_have_only_one(
    tmp_path: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in ("train", "val", "test"):
        patients(tmp_path / "photos" / part, groups=2)
    source = DataSource(tmp_path / "photos", group_from=r"patient(\d)")
    recipe = Recipe(backbone="test_resnet.a", approach="linear")
    headstart.train(source, out=tmp_path / "run", recipe=recipe, weights=tiny_weights, report=False)
    warning = (
        "Most images are of classes with one group only, so backbones and heads are chosen with other images of the group "
        "left in, by log-losses that are too low. More groups of each class would help."
    )
    assert warning in caplog.messages


def test_a_run_remembers_its_groups(tmp_path: Path, tiny_weights: Path) -> None:
    folder, run = patients(tmp_path / "photos"), tmp_path / "run"
    recipe = Recipe(backbone="test_resnet.a", head="lda", approach="linear")
    made = headstart.train(
        DataSource(folder, group_from=BY_NAME), out=run, recipe=recipe, weights=tiny_weights, report=False
    )
    assert [len(sets) for sets in sets_of(run / "split.csv")] == [1] * 16
    kept = json.loads((run / "headstart.json").read_text())["provenance"]["data"]
    assert (kept["group_from"], "group_column" in kept) == (BY_NAME, False)
    assert not [f for f in made.findings if f.check == "split_leak"]
    again = headstart.reproduce(run, weights=tiny_weights)
    assert (again.same, again.causes) == (True, [])


def test_a_split_that_divides_groups_is_reported(tmp_path: Path, tiny_weights: Path) -> None:
    folder, split = patients(tmp_path / "photos"), tmp_path / "split.csv"
    headstart.split(folder, out=split)
    made = headstart.train(
        DataSource(folder, group_from=BY_NAME),
        out=tmp_path / "run",
        recipe=Recipe(backbone="test_resnet.a", head="lda", approach="linear"),
        split=split,
        weights=tiny_weights,
        report=False,
    )
    assert [f.check for f in made.findings if f.severity == "error"] == ["split_leak"]


# Proposals


def noted(folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level("INFO", "headstart"):
        headstart.check(folder)
    return [text for text in caplog.messages if "--group-" in text or "not used" in text]


def proposed(tmp_path: Path, names: Iterable[str], caplog: pytest.LogCaptureFixture) -> list[str]:
    return noted(write(tmp_path, dict.fromkeys(names, IMAGES[0])), caplog)


def test_a_pattern_is_proposed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = patients(tmp_path / "photos")
    assert noted(folder, caplog) == [
        "File names look like they name a patient ('patient000_0.png'): 16 groups in 48 images. "
        "Keep each in one set with --group-from 'patient(\\d+)'."
    ]
    assert noted(DataSource(folder, group_from=BY_NAME), caplog) == []
    with caplog.at_level("INFO", "headstart"):
        headstart.split(folder, out=tmp_path / "split.csv")
    assert sum("Keep each in one set" in text for text in caplog.messages) == 1


def test_where_the_split_is_given_it_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [f"{('train', 'test')[n % 2]}/{'ab'[n // 2 % 2]}/cam-{n // 5}/{n}.jpg" for n in range(60)]
    assert proposed(tmp_path, names, caplog) == [
        "Paths look like they name a cam ('test/a/cam-0/1.jpg'): 12 groups in 60 images. "
        "To learn which of them are in two sets, use --group-from 'cam-(\\d+)'."
    ]


FEW = range(120)
PROPOSED = {
    "X-rays": ([f"b/person{n // 2}_virus_{n}.jpeg" for n in FEW] + ["a/IM-1.jpeg", "a/IM-2.jpeg"], r"person(\d+)"),
    "folders of videos": ([f"{'ab'[n % 2]}/video_{n // 6:03}/frame_{n}.png" for n in FEW], r"video_(\d+)"),
    "two spellings": ([f"a/{('Case', 'case')[n % 2]}{n // 6}_{n}.png" for n in FEW] + ["b/1.png"], r"(?i)Case(\d+)"),
    "inside of a word": (
        [f"{'ab'[n % 2]}/webcam1_cam{n // 6}_{n}.png".replace("webcam1", "webcam") for n in FEW],
        r"cam(\d+)",
    ),
    "ids with a number": ([f"{'ab'[n % 2]}/c{n // 4}f_{n % 4:03}.png" for n in FEW], r"([^/]+)_\d+\.\w+$"),
}
NOT_PROPOSED = {
    "cats and dogs": [f"{('cat', 'dog')[n % 2]}/{('cat', 'dog')[n % 2]}.{n}.jpg" for n in FEW],
    "running numbers": [f"{'ab'[n % 2]}/IMG_{n:04}.jpg" for n in FEW],
    "a word with a running number": [f"{'ab'[n % 2]}/scan_{n:03}.jpg" for n in FEW],
    "a class called so": [
        f"{part}/{c}/{c}{n}.jpg" for part in ("train", "test") for c in ("car", "person") for n in FEW
    ],
    "classes and numbers": [f"{'ab'[n % 2]}/cardboard{n}.jpg" for n in FEW],
    "times": [f"{'ab'[n % 2]}/IMG_202001{n % 28 + 1:02}_{120000 + n * 37}.jpg" for n in FEW],
    "dates": [f"{'ab'[n % 2]}/2020-{n // 28 + 1:02}-{n % 28 + 1:02}.jpg" for n in FEW],
    "three cameras": [f"{'ab'[n % 2]}/cam{n % 3}_{n}.jpg" for n in FEW],
    "parts of a numbered image": [f"{'ab'[n % 2]}/img{n // 10}_scan{n % 10}.jpg" for n in FEW],
    "each class a patient": [f"class{n // 12}/patient{n // 12}_{n}.jpg" for n in FEW],
}


@pytest.mark.parametrize("kind", PROPOSED)
def test_what_is_proposed(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names, pattern = PROPOSED[kind]
    (sentence,) = proposed(tmp_path, names, caplog)
    assert sentence.endswith(f"Keep each in one set with --group-from '{pattern}'.")


@pytest.mark.parametrize("kind", NOT_PROPOSED)
def test_what_is_not_proposed(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert proposed(tmp_path, NOT_PROPOSED[kind], caplog) == []


@pytest.mark.parametrize("beside", [False, True])
def test_a_column_is_proposed(beside: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = lines("path,label,age,patient_id", lambda n: f"{n}.jpg,{'ab'[n % 2]},{n % 9},P{n // 3}", FEW)
    write(tmp_path, {f"{n}.jpg": IMAGES[0] for n in FEW} | {"t.csv": text})
    place = tmp_path if beside else tmp_path / "t.csv"
    unused = "The columns 'age', 'patient_id' of t.csv are not used."
    assert noted(place, caplog)[-2:] == [
        unused,
        "The column 'patient_id' looks like groups (40 values in 120 rows): "
        "keep each in one set with --group-column patient_id.",
    ]
    assert noted(DataSource(place, group_column="patient_id"), caplog)[-1] == "The column 'age' of t.csv is not used."
    assert noted(DataSource(place, group_from=r"(\d)\.jpg"), caplog)[-1] == unused


def test_columns_that_are_not_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cells = "{n}.jpg,{label},{age},{case},{sex}"
    text = lines(
        "path,label,Patient Age,case,patient_sex",
        lambda n: cells.format(n=n, label="ab"[n % 2], age=n % 40, case=n, sex="mf"[n % 2]),
        FEW,
    )
    write(tmp_path, {f"{n}.jpg": IMAGES[0] for n in FEW} | {"t.csv": text})
    assert noted(tmp_path / "t.csv", caplog) == [
        "The columns 'Patient Age', 'case', 'patient_sex' of t.csv are not used."
    ]


def test_where_all_columns_are_used_nothing_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, plain() | {"t.csv": lines("path,label,group", row)})
    assert noted(tmp_path / "t.csv", caplog) == []


def test_columns_of_shards_that_are_not_used_are_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = {
        "image": IMAGES,
        "label": LABELS,
        "group": PATIENTS,
        "groups": PATIENTS,
        "age": [1] * 6,
        "sex": ["m"] * 6,
    }
    table = parquet(tmp_path / "t.parquet", columns)
    unused = "The columns 'age', 'sex' of t.parquet are not used."
    assert noted(table, caplog) == [
        f"{table}: the groups are taken from the column 'group'; not used: 'groups'.",
        unused,
    ]
    assert noted(table, caplog) == [unused]  # from the cache
    assert noted(with_bytes(tmp_path / "b"), caplog)[-1] == "The column 'patient' of t.parquet is not used."
    shard = web_called_group(tmp_path / "w", "group_id")
    assert noted(shard, caplog)[-1] == "The column 'age' of s.tar is not used."


def test_other_verbs_propose_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = patients(tmp_path / "photos")
    with caplog.at_level("INFO", "headstart"):
        open_dataset(folder)
    assert caplog.messages == []
