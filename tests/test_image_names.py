"""Rows of a table mean the right images: not those of another column, of another set, or of another extension."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

import headstart
from headstart import DataSource
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
    assert caplog.messages == ["t.csv: not used: the column 'is_valid'."]


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
