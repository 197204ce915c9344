"""Rows of a table mean the right images: not those of another column, of another set, or of another extension."""

from __future__ import annotations

import doctest
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

import headstart
from headstart import DataSource
from headstart.data import image_names
from headstart.data.dataset import Dataset
from headstart.errors import BadLabels

N = 40
SHUFFLED = random.Random(0).sample(range(N), N)


def kind(n: int) -> str:
    return "cat" if n % 2 else "dog"


def fill(root: Path, images: Iterable[str], **tables: str) -> Path:
    """Files that nothing here looks into, and tables: `train__labels_csv` is train/labels.csv."""
    for name in images:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    for name, text in tables.items():
        stem, _, suffix = name.rpartition("_")
        path = root / f"{stem.replace('__', '/')}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def numbered(folder: str, numbers: Iterable[int] = range(N), suffix: str = ".jpg") -> list[str]:
    return [f"{folder}{n}{suffix}" for n in numbers]


def table(header: str, line: str, numbers: Iterable[int] = range(N)) -> str:
    """A row for each number `n`, which is in row `i`: a template such as '{i},{n}.jpg,{kind}'."""
    rows = (line.format(i=i, n=n, kind=kind(n), bit=n % 2) for i, n in enumerate(numbers))
    return "\n".join([header, *rows]) + "\n"


def labels_of(data: Dataset) -> dict[str, str]:
    return {path: data.label_name(i) for i, path in enumerate(data.paths)}


def labelled(data: Dataset) -> dict[str, str]:
    return {path: label for path, label in labels_of(data).items() if label}


def split_of(data: Dataset) -> dict[str, str]:
    return {path: str(data.split[i]) for i, path in enumerate(data.paths) if data.split[i]}


def groups_of(data: Dataset) -> set[tuple[str, ...]]:
    members: defaultdict[int, list[str]] = defaultdict(list)
    for i, path in enumerate(data.paths):
        members[int(data.groups[i])].append(path)
    return {tuple(paths) for paths in members.values()}


IN_IMAGES = {f"images/{n}.jpg": kind(n) for n in range(N)}
TRAIN = {f"train/{n}.jpg": kind(n) for n in range(N)}
VAL = {f"val/{n}.jpg": kind(n) for n in range(100, 110)}
WITHOUT_7 = [n for n in range(N) if n != 7]


# The column of the images


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (",filename,label", "{i},{n}.jpg,{kind}"),
        (",id,label", "{i},{n},{kind}"),
        (",shot,label", "{i},{n}.jpg,{kind}"),
        ("Unnamed: 0,shot,label", "{i},{n},{kind}"),
        ("id,filename,label", "{i},{n}.jpg,{kind}"),
        ("id,shot,label", "{i},{n}.jpg,{kind}"),
        (",filename,label", "{i},C:\\me\\images\\{n}.jpg,{kind}"),
        (",filename,label", "{i},{n}.JPG,{kind}"),
    ],
)
def test_numbers_of_rows_are_not_names_of_images(header: str, line: str, tmp_path: Path) -> None:
    folder = fill(tmp_path, IN_IMAGES, labels_csv=table(header, line, SHUFFLED))
    assert labels_of(headstart.open_dataset(folder)) == IN_IMAGES


def test_an_index_that_was_shuffled_is_not_the_column_of_the_images(tmp_path: Path) -> None:
    rows = "".join(f"{SHUFFLED[n]},{n}.jpg,{kind(n)}\n" for n in range(N))
    folder = fill(tmp_path, IN_IMAGES, labels_csv=f",shot,label\n{rows}")
    assert labels_of(headstart.open_dataset(folder)) == IN_IMAGES


@pytest.mark.parametrize(
    ("header", "line"),
    [("label,image", "{bit},{n}.jpg"), ("what,shot", "{bit},{n}"), ("label,image", "{bit},{n}.JPEG")],
)
@pytest.mark.parametrize("missing", [0, 30])
def test_labels_0_and_1_are_not_names_of_images(header: str, line: str, missing: int, tmp_path: Path) -> None:
    rows = table(header, line, [*range(N), *range(100, 100 + missing)])
    data = headstart.open_dataset(fill(tmp_path, IN_IMAGES, labels_csv=rows))
    assert labels_of(data) == {path: str(int(label == "cat")) for path, label in IN_IMAGES.items()}


def test_a_table_of_row_numbers_names_no_images(tmp_path: Path) -> None:
    folder = fill(tmp_path, IN_IMAGES, labels_csv=table(",photo,label", "{i},photo{n}.jpg,{kind}", SHUFFLED))
    assert labelled(headstart.open_dataset(folder)) == {}


def test_groups_are_found_by_the_column_of_the_images(tmp_path: Path) -> None:
    images = [f"{kind(n)}/{n}.jpg" for n in range(N)]
    rows = "".join(f"{i},{n}.jpg,p{n // 4}\n" for i, n in enumerate(SHUFFLED))
    folder = fill(tmp_path, images, patients_csv=f",image,patient\n{rows}")
    data = headstart.open_dataset(DataSource(folder, group_column="patient"))
    patients = [sorted(f"{kind(n)}/{n}.jpg" for n in range(first, first + 4)) for first in range(0, N, 4)]
    assert groups_of(data) == {tuple(paths) for paths in patients}


# The set that a table is about


@pytest.mark.parametrize("name", ["metadata_csv", "labels_csv"])
def test_the_row_of_a_deleted_image_does_not_label_that_of_another_set(name: str, tmp_path: Path) -> None:
    column = "file_name,label"
    images = [*numbered("train/", WITHOUT_7), *numbered("test/")]
    other = column + "\n" + "".join(f"{n}.jpg,{kind(n + 1)}\n" for n in range(N))
    tables = {f"train__{name}": table(column, "{n}.jpg,{kind}"), f"test__{name}": other}
    data = headstart.open_dataset(fill(tmp_path, images, **tables))
    expected = {f"train/{n}.jpg": kind(n) for n in WITHOUT_7} | {f"test/{n}.jpg": kind(n + 1) for n in range(N)}
    assert labels_of(data) == expected
    assert split_of(data) == {path: path.partition("/")[0] for path in expected}
    assert data.lost == {"train/7.jpg": "not_a_file"}


def test_a_missing_image_in_the_folder_of_a_set_does_not_reject_one_above(tmp_path: Path) -> None:
    images = [*numbered("train/", WITHOUT_7), *numbered("test/"), "7.jpg"]
    rows = table("file_name,label", "{n}.jpg,{kind}")
    data = headstart.open_dataset(fill(tmp_path, images, train__metadata_csv=rows, test__metadata_csv=rows))
    assert (labels_of(data)["7.jpg"], data.lost) == ("", {"train/7.jpg": "not_a_file"})


@pytest.mark.parametrize("name", ["train_csv", "trainLabels_csv", "labels_csv"])
@pytest.mark.parametrize("directly", [False, True])
@pytest.mark.parametrize("others", [range(N), (7, *range(100, 130))])
def test_a_test_image_is_not_labelled_for_a_missing_training_image(
    name: str, directly: bool, others: Iterable[int], tmp_path: Path
) -> None:
    folder = fill(
        tmp_path,
        [*numbered("train/", WITHOUT_7), *numbered("test/", others)],
        **{name: table("id,label", "{n},{kind}")},
    )
    data = headstart.open_dataset(folder / name.replace("_", ".") if directly else folder)
    assert labelled(data) == {f"train/{n}.jpg": kind(n) for n in WITHOUT_7}
    assert (split_of(data), data.lost) == ({}, {"7": "not_a_file"})


@pytest.mark.parametrize("name", ["train_csv", "labels_csv", "train_val_csv"])
def test_a_table_may_be_about_several_sets(name: str, tmp_path: Path) -> None:
    rows = table("id,label", "{n},{kind}", [*range(N), *range(100, 110)])
    data = headstart.open_dataset(fill(tmp_path, [*TRAIN, *VAL], **{name: rows}))
    assert labels_of(data) == TRAIN | VAL
    assert split_of(data) == dict.fromkeys(TRAIN, "train") | dict.fromkeys(VAL, "val")


def test_a_table_may_label_some_of_the_test_images(tmp_path: Path) -> None:
    images = [*TRAIN, *numbered("test/", range(100, 150))]
    rows = table("id,label", "{n},{kind}", [*range(N), *range(100, 110)])
    expected = TRAIN | {f"test/{n}.jpg": kind(n) for n in range(100, 110)}
    assert labelled(headstart.open_dataset(fill(tmp_path, images, labels_csv=rows) / "labels.csv")) == expected


@pytest.mark.parametrize(("name", "deleted"), [("labels.csv", 5), ("train.csv", 5), ("train.csv", 35)])
def test_several_missing_training_images_label_no_test_images(name: str, deleted: int, tmp_path: Path) -> None:
    folder = fill(tmp_path, [*numbered("train/", range(deleted, N)), *numbered("test/", range(100))])
    (folder / name).write_text(table("id,label", "{n},{kind}"))
    data = headstart.open_dataset(folder / name)
    assert labelled(data) == {f"train/{n}.jpg": kind(n) for n in range(deleted, N)}


def test_a_path_with_its_set_is_taken_at_its_word(tmp_path: Path) -> None:
    rows = table("path,label", "train/{n}.jpg,{kind}") + "val/100.jpg,dog\n"
    folder = fill(tmp_path, [*TRAIN, *VAL], train_csv=rows)
    assert labelled(headstart.open_dataset(folder / "train.csv")) == TRAIN | {"val/100.jpg": "dog"}


def test_a_table_of_the_validation_set_may_name_training_images(tmp_path: Path) -> None:
    images = [*numbered("train_images/"), *numbered("test_images/")]
    folder = fill(tmp_path, images, val_csv=table("id,label", "{n},{kind}", range(10)))
    data = headstart.open_dataset(folder / "val.csv")
    assert labels_of(data) == {f"train_images/{n}.jpg": kind(n) for n in range(10)}


def test_a_table_is_recognised_although_one_of_its_images_is_in_another_folder(tmp_path: Path) -> None:
    images = [*numbered("a/", WITHOUT_7), "b/7.jpg", *numbered("b/", range(100, 140))]
    folder = fill(tmp_path, [f"images/{path}" for path in images], labels_csv=table("id,label", "{n},{kind}"))
    source = DataSource(folder, label_column="label")
    expected = {f"images/a/{n}.jpg": kind(n) for n in WITHOUT_7} | {"images/b/7.jpg": kind(7)}
    assert labelled(headstart.open_dataset(source)) == expected


def test_two_tables_that_label_an_image_differently(tmp_path: Path) -> None:
    rows = table("file_name,label", "train/{n}.jpg,{kind}")
    inner = table("file_name,label", "{n}.jpg,{kind}").replace("\n7.jpg,cat\n", "\n7.jpg,dog\n")
    data = headstart.open_dataset(fill(tmp_path, TRAIN, metadata_csv=rows, train__metadata_csv=inner))
    assert labels_of(data) == {path: label for path, label in TRAIN.items() if path != "train/7.jpg"}
    assert data.lost == {"train/7.jpg": "two_labels"}


# The set that columns and folders say


@pytest.mark.parametrize("flag", ["is_valid", "is_test"])
def test_flags_say_the_set_beside_a_column_of_folds(
    flag: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fill(tmp_path, IN_IMAGES, t_csv=table(f"path,label,fold,{flag}", "images/{n}.jpg,{kind},{i},{bit}"))
    with caplog.at_level("INFO", "headstart"):
        data = headstart.open_dataset(folder / "t.csv")
    other = {"is_valid": "val", "is_test": "test"}[flag]
    assert split_of(data) == {path: other if label == "cat" else "train" for path, label in IN_IMAGES.items()}
    assert caplog.messages == [f"{folder / 't.csv'}: the split is taken from the column {flag!r}; not used: 'fold'."]


def test_a_column_of_sets_goes_before_flags(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = table("path,label,split,is_valid", "images/{n}.jpg,{kind},train,{bit}")
    with caplog.at_level("INFO", "headstart"):
        data = headstart.open_dataset(fill(tmp_path, IN_IMAGES, t_csv=rows) / "t.csv")
    assert split_of(data) == dict.fromkeys(IN_IMAGES, "train")
    assert caplog.messages == ["The column 'is_valid' of t.csv is not used."]


@pytest.mark.parametrize("place", ["", "labels.csv"])
@pytest.mark.parametrize("absolute", [False, True])
def test_a_table_has_the_split_of_the_folders_that_it_names(place: str, absolute: bool, tmp_path: Path) -> None:
    folder = tmp_path / "test" / "data"
    before = f"{folder}/" if absolute else ""
    rows = [f"{before}{path},{label}" for path, label in (TRAIN | VAL).items()]
    data = headstart.open_dataset(fill(folder, [*TRAIN, *VAL], labels_csv="\n".join(["path,label", *rows])) / place)
    sets = {path.removeprefix(f"{folder}/"): split for path, split in split_of(data).items()}
    assert sets == dict.fromkeys(TRAIN, "train") | dict.fromkeys(VAL, "val")


@pytest.mark.parametrize("place", ["", "labels.csv"])
def test_folders_of_one_set_are_no_split(place: str, tmp_path: Path) -> None:
    rows = table("path,label", "train/{n}.jpg,{kind}")
    assert split_of(headstart.open_dataset(fill(tmp_path, TRAIN, labels_csv=rows) / place)) == {}


# Groups


def test_one_patient_is_one_group_in_all_tables(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train = "image,label,patient\n" + "".join(
        f"{n}.jpg,{kind(n)},{'' if n == 0 else f'{n // 4}.0'}\n" for n in range(20)
    )
    val = "image,label,patient\n" + "".join(f"{n}.jpg,{kind(n)},{n // 4 - 4}\n" for n in range(20, N))
    folder = fill(tmp_path, IN_IMAGES, train_csv=train, val_csv=val)
    with caplog.at_level("INFO", "headstart"):
        data = headstart.open_dataset(DataSource(folder, group_column="patient"))
    note = f"{folder / 'train.csv'}: the groups in the column 'patient' are whole numbers; '0.0' is read as '0'."
    assert [message for message in caplog.messages if "whole numbers" in message] == [note]
    patients: defaultdict[str, list[str]] = defaultdict(list)
    for n in range(N):
        patient = "alone" if n == 0 else str(n // 4 if n < 20 else n // 4 - 4)
        patients[patient].append(f"images/{n}.jpg")
    assert groups_of(data) == {tuple(sorted(paths)) for paths in patients.values()}


@pytest.mark.parametrize("cell", ["{n}.0", "{n},0", " {n} "])
def test_groups_that_a_program_wrote_as_floats_are_whole_numbers(cell: str, tmp_path: Path) -> None:
    rows = "path,label,group\n" + "".join(
        f'images/{n}.jpg,{kind(n)},"{(cell if n % 2 else "{n}").format(n=n // 4)}"\n' for n in range(N)
    )
    data = headstart.open_dataset(fill(tmp_path, IN_IMAGES, t_csv=rows) / "t.csv")
    assert sorted(map(len, groups_of(data))) == [4] * 10


def test_groups_with_fractions_stay_as_they_are(tmp_path: Path) -> None:
    rows = "path,label,group\n" + "".join(f"images/{n}.jpg,{kind(n)},{('1.0', '1', '1.5')[n % 3]}\n" for n in range(N))
    data = headstart.open_dataset(fill(tmp_path, IN_IMAGES, t_csv=rows) / "t.csv")
    assert sorted(map(len, groups_of(data))) == [13, 13, 14]


def test_both_unicode_forms_of_a_name_are_one_group(tmp_path: Path) -> None:
    images = [f"{kind(n)}/{name}_{n}.jpg" for n in range(4) for name in ("Ren\xe9", "Rene\u0301", "Anna")]
    data = headstart.open_dataset(DataSource(fill(tmp_path, images), group_from=r"([^/]+)_\d"))
    assert sorted(map(len, groups_of(data))) == [4, 8]


# Extensions


@pytest.mark.parametrize("stale", ["1.png,dog,test", "01.jpg,dog,test", "1.JPG,cat,test"])
@pytest.mark.parametrize("place", ["", "labels.csv"])
def test_the_row_of_a_missing_image_is_not_about_another_one(stale: str, place: str, tmp_path: Path) -> None:
    rows = "".join(f"{n}.jpg,{'cat' if n % 2 else 'dog'},train\n" for n in range(1, 9))
    fill(tmp_path, [f"{n}.jpg" for n in range(1, 9)], labels_csv=f"path,label,split\n{rows}{stale}\n")
    data = headstart.open_dataset(DataSource(tmp_path / place))
    assert (labels_of(data)["1.jpg"], split_of(data)["1.jpg"], len(data)) == ("cat", "train", 8)
    assert (stale.partition(",")[0], "not_a_file") in data.rejected


def test_an_image_in_two_groups_joins_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A row per visit: whoever is in two of them is in one group with both."""
    fill(
        tmp_path,
        [f"{n}.jpg" for n in range(1, 5)],
        labels_csv="path,label,group\n1.jpg,a,p1\n1.jpg,a,p2\n2.jpg,b,p2\n3.jpg,a,p3\n4.jpg,b,p1\n",
    )
    for source in (DataSource(tmp_path / "labels.csv"), DataSource(tmp_path, group_column="group")):
        with caplog.at_level("INFO", "headstart"):
            assert groups_of(headstart.open_dataset(source)) == {("1.jpg", "2.jpg", "4.jpg"), ("3.jpg",)}
        assert (
            f"{source.place}: 1 image is in several groups, such as '1.jpg'; groups that share an image are taken as one."
            in caplog.messages
        )


def test_an_id_with_two_extensions_is_ambiguous(tmp_path: Path) -> None:
    folder = fill(tmp_path, [*IN_IMAGES, "images/1.png"], t_csv=table("id,label", "images/{n},{kind}"))
    with pytest.raises(BadLabels) as caught:
        headstart.open_dataset(folder / "t.csv")
    assert str(caught.value) == (
        f"{folder / 't.csv'}: 'images/1' is ambiguous: 'images/1.jpg', 'images/1.png'.\n"
        "  Write the paths of the images into the table, relative to its folder."
    )


@pytest.mark.parametrize("beside", ["images/1.dng", "images/1.txt", "images/01.jpg", "images/1.x.jpg"])
@pytest.mark.parametrize("before", ["", "../d/", "{folder}/"])
def test_other_files_do_not_make_an_id_ambiguous(beside: str, before: str, tmp_path: Path) -> None:
    before = before.format(folder=tmp_path / "d")
    rows = [f"{before}images/{n},{kind(n)}" for n in range(N)]
    folder = fill(tmp_path / "d", [*IN_IMAGES, beside], t_csv="\n".join(["id,label", *rows]))
    assert labels_of(headstart.open_dataset(folder / "t.csv")) == {f"{before}{p}": v for p, v in IN_IMAGES.items()}


def test_examples() -> None:
    assert doctest.testmod(image_names).failed == 0
