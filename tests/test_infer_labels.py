"""Folders whose labels stand in a table or in the file names are recognised; those that have their own are left alone."""

from __future__ import annotations

import doctest
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headstart.data.infer_labels as layout_module
from headstart.data.data_source import DataSource
from headstart.data.dataset import Dataset
from headstart.data.image_names import Names
from headstart.data.infer_labels import Layout, recognise
from headstart.data.match_files import name_pattern
from headstart.data.open_dataset import open_dataset
from headstart.errors import BadLabels, HeadstartError


def fill(root: Path, *names: str, **tables: str) -> Path:
    """Make files that nothing here looks into, and tables: `train_csv` is train.csv."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    for name, text in tables.items():
        stem, _, suffix = name.rpartition("_")
        (root / f"{stem}.{suffix}").write_text(text)
    return root


def labels_of(data: Dataset) -> dict[str, str]:
    return {path: data.label_name(i) for i, path in enumerate(data.paths)}


def source_of(layout: Layout) -> DataSource:
    return DataSource(layout.place, layout.label_from, layout.label_column, layout.path_column)


def known(folder: Path) -> Layout:
    """What the folder is recognised as; saying it in words gives the same images."""
    layout = recognise(folder)
    assert layout is not None
    plain, said = open_dataset(folder), open_dataset(source_of(layout))
    assert (labels_of(plain), plain.split.tolist(), plain.rejected) == (
        labels_of(said),
        said.split.tolist(),
        said.rejected,
    )
    return layout


def error_of(call: object, kind: type[HeadstartError]) -> str:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    return str(caught.value)


REDUX = [f"train/{kind}.{n}.jpg" for kind in ("cat", "dog") for n in range(3)] + ["test/1.jpg", "test/2.jpg"]
SAMPLE = "id,label\n1,0.5\n2,0.5\n"


# File names


def test_the_redux_layout(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path, *REDUX, sample_submission_csv=SAMPLE)
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(folder)
    assert caplog.messages == [
        f"{folder}: the labels are taken from the beginning of the file names, such as 'train/cat.0.jpg' "
        "('cat': 3, 'dog': 3; 2 of 8 images have none). Override with --label-from PATTERN."
    ]
    assert labels_of(data) == {
        "test/1.jpg": "",
        "test/2.jpg": "",
        **{f"train/{kind}.{n}.jpg": kind for kind in ("cat", "dog") for n in range(3)},
    }
    assert set(data.split.tolist()) == {""}
    assert data.rejected == (("sample_submission.csv", "not_an_image_name"),)
    assert known(folder).label_from == r"^(cat|dog)[ ._-]*\(?\d"


@pytest.mark.parametrize(
    "names",
    [
        ["cat.0.jpg", "cat.10.jpg", "dog.0.jpg", "dog.1.jpg"],
        ["cat_1.JPG", "cat_2.JPG", "dog_1.JPG", "dog_22.JPG"],
        ["cat (1).jpg", "cat (2).jpg", "dog (1).jpg", "dog (2).jpg"],
        ["cat1.png", "cat2.png", "dog1.png", "dog02.png"],
        ["cat-01.jpg", "cat-02.jpg", "dog-1.jpg", "dog-3.jpg"],
        ["images/cat.0.jpg", "images/cat.1.jpg", "images/dog.0.jpg", "images/dog.1.jpg"],
        ["train1/cat.0.jpg", "train1/cat.1.jpg", "train1/dog.0.jpg", "train1/dog.1.jpg", "test1/1.jpg"],
        ["dvc/train/cat.0.jpg", "dvc/train/cat.1.jpg", "dvc/train/dog.0.jpg", "dvc/train/dog.1.jpg", "dvc/test/1.jpg"],
        [
            "train/train/cat.0.jpg",
            "train/train/cat.1.jpg",
            "train/train/dog.0.jpg",
            "train/train/dog.1.jpg",
            "test/test/5.jpg",
        ],
        ["great_cat_1.jpg", "great_cat_2.jpg", "dog_1.jpg", "dog_2.jpg"],
        ["cat_9.jpg", "cat_1.jpg", "cat_big_9.jpg", "cat_big_1.jpg"],
    ],
)
def test_words_before_a_number(tmp_path: Path, names: list[str]) -> None:
    labels = labels_of(open_dataset(fill(tmp_path, *names)))
    known(tmp_path)
    for path, label in labels.items():
        stem = path.rpartition("/")[2]
        assert (label == "") == stem[0].isdigit()
        assert stem.startswith(label)
        assert label in ("", "cat", "dog", "great_cat", "cat_big")


@pytest.mark.parametrize(
    "names",
    [
        ["IMG_1.jpg", "IMG_2.jpg", "DSC_1.jpg", "DSC_2.jpg"],  # cameras
        ["cat_1.jpg", "cat_2.jpg", "cat_3.jpg"],  # one word only
        ["cat_1.jpg", "cat_2.jpg", "dog_1.jpg", "horse_1.jpg"],  # not several of each
        ["cat_1.jpg", "cat_2.jpg", "Cat_3.jpg", "Cat_4.jpg"],  # differ by case only
        ["a1.jpg", "a2.jpg", "b1.jpg", "b2.jpg"],  # parts of a hash, perhaps
        ["1.jpg", "2.jpg", "3.jpg"],
        ["cat_1.jpg", "cat_2.jpg", "dog_1.jpg", "dog_2.jpg", "holiday.jpg"],  # less than 95 %
        ["test/cat_1.jpg", "test/cat_2.jpg", "train/1.jpg", "train/2.jpg"],
        [f"word{chr(97 + n // 26)}{chr(97 + n % 26)}_{k}.jpg" for n in range(201) for k in (1, 2)],  # too many words
    ],
)
def test_names_that_are_no_labels(tmp_path: Path, names: list[str]) -> None:
    assert recognise(fill(tmp_path, *names)) is None
    data = open_dataset(tmp_path)
    assert set(data.labels.tolist()) == {-1}
    assert len(data) == len(names)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=12).filter(lambda s: "/" not in s and "\0" not in s), max_size=30))
def test_the_pattern_labels_what_it_was_made_of(stems: list[str]) -> None:
    import re

    paths = sorted({f"{stem}.jpg" for stem in stems})
    pattern = name_pattern(paths)
    if pattern:
        labels = [found[1] for path in paths if (found := re.search(pattern, path))]
        assert 2 <= len(set(labels)) <= 200
        assert len(labels) >= 0.95 * len(paths)


def test_labels_on_both_sides_decide_the_split(tmp_path: Path) -> None:
    sides = ("train", "validation", "test")
    data = open_dataset(fill(tmp_path, *(f"{s}/{k}.{n}.jpg" for s in sides for k in ("cat", "dog") for n in (1, 2))))
    assert data.split.tolist() == ["test"] * 4 + ["train"] * 4 + ["val"] * 4


def said_of(folder: Path, caplog: pytest.LogCaptureFixture) -> tuple[Dataset, list[str]]:
    with caplog.at_level("INFO", "headstart"):
        return open_dataset(folder), caplog.messages


@pytest.mark.parametrize("names", ["stage1 stage2", "set1 set2", "data1 data2", "stg_1 stg_2", "images stage"])
def test_folders_side_by_side_go_before_file_names(
    tmp_path: Path, names: str, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = names.split()
    files = [
        f"{one}/left_1.jpg",
        f"{one}/right_2.jpg",
        f"{two}/left_3.jpg",
        f"{two}/img/right_4.jpg",
        f"{two}/left_5.jpg",
    ]
    data, said = said_of(fill(tmp_path, *files), caplog)
    assert labels_of(data) == {path: path.partition("/")[0] for path in files}
    assert said == [
        f"{tmp_path}: the labels are taken from its folders ('{one}': 2, '{two}': 3). "
        "--label-from '^(left|right)[ ._-]*\\(?\\d' would take them from the file names ('left': 3, 'right': 2)."
    ]
    assert recognise(tmp_path) is None
    assert open_dataset(tmp_path, label_from="^(left|right)").classes == ("left", "right")


def test_folders_side_by_side_in_split_folders(tmp_path: Path) -> None:
    files = [
        f"{s}/stage{k}/{w}_{n}.jpg" for s in ("train", "val") for k in (1, 2) for w in ("left", "right") for n in (1, 2)
    ]
    data = open_dataset(fill(tmp_path, *files, "test/1.jpg", "unlabelled/2.jpg"))
    assert data.classes == ("stage1", "stage2")
    assert set(labels_of(data).values()) == {"", "stage1", "stage2"}
    assert sorted(set(data.split.tolist())) == ["", "train", "val"]


@pytest.mark.parametrize(
    "folders",
    [
        ["stage1"],  # no other beside it
        ["images1", "images2"],  # these names say nothing
        ["img_1", "photos"],
        ["stage1", "stage2", ""],  # they do not hold all images
        ["train_stg1", "test_stg1"],  # splits
        ["stage1", "stage2", "test"],  # classes beside a split: not for us to sort out
    ],
)
def test_file_names_go_before_folders_that_are_no_classes(
    tmp_path: Path, folders: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    files = [f"{folder}/{word}_{n}.jpg".lstrip("/") for folder in folders for word in ("left", "right") for n in (1, 2)]
    data, said = said_of(fill(tmp_path, *files), caplog)
    assert data.classes == ("left", "right")
    assert len(said) == 1
    assert said[0].startswith(f"{tmp_path}: the labels are taken from the beginning of the file names, such as ")


def test_a_table_goes_before_folders_side_by_side(tmp_path: Path) -> None:
    files = [f"set{k}/left_{k}{n}.jpg" for k in (1, 2) for n in range(4)]
    rows = "".join(f"{path},{'ab'[n % 2]}\n" for n, path in enumerate(files))
    assert open_dataset(fill(tmp_path, *files, labels_csv="path,label\n" + rows)).classes == ("a", "b")


# Tables


def test_a_table_beside_that_is_not_utf8(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = fill(tmp_path, *(f"jpg/{n}.jpg" for n in range(4)))
    rows = "id,label\n" + "".join(f"{n},{('chéri', 'naïf')[n % 2]}\n" for n in range(4))
    (folder / "labels.csv").write_bytes(rows.encode("cp1252"))
    data, said = said_of(folder, caplog)
    assert data.classes == ("chéri", "naïf")
    assert said[0].startswith(f"{folder / 'labels.csv'}: is not UTF-8; it is read as Windows-1252, which gives 'chéri'")
    (folder / "labels.csv").write_bytes(rows.encode("cp1252") + "3,naïf\n".encode())
    caplog.clear()
    data, said = said_of(folder, caplog)
    assert data.classes == ()
    assert said == [
        f"Not used as a table of labels: {folder / 'labels.csv'}: is neither UTF-8 nor Windows-1252 "
        "throughout ('ch\\udce9ri').\n  Save it as UTF-8."
    ]


def test_a_split_beside_folds_in_the_table(tmp_path: Path) -> None:
    rows = "".join(f"{n},{'ab'[n % 2]},{('train', 'val')[n // 2]},{n},g,{n}\n" for n in range(4))
    header = "id,label,split,fold,group,group_id\n"
    data = open_dataset(fill(tmp_path, *(f"jpg/{n}.jpg" for n in range(4)), labels_csv=header + rows))
    assert (data.split.tolist(), data.groups.tolist()) == (["train", "train", "val", "val"], [0] * 4)


def test_a_competition_with_a_table_of_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = [f"{n}a1b" for n in range(6)]
    folder = fill(
        tmp_path,
        *(f"train_images/{i}.png" for i in ids),
        *("test_images/7f.png", "test_images/8f.png", "train_records/0.tfrec"),
        train_csv="id_code,diagnosis\n" + "".join(f"{i},{n % 2}\n" for n, i in enumerate(ids)) + "gone,1\n",
        test_csv="id_code\n7f\n8f\n",
        sample_submission_csv="id_code,diagnosis\n7f,0\n8f,0\n",
    )
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(folder)
    assert caplog.messages == [
        f"{folder}: the labels are taken from the column 'diagnosis' of 'train.csv', the images found by 'id_code' "
        "('0': 3, '1': 3; 2 of 8 images have none). Override with --label-column, --path-column or --label-from.",
    ]
    expected = {f"train_images/{i}.png": str(n % 2) for n, i in enumerate(ids)}
    assert labels_of(data) == {"test_images/7f.png": "", "test_images/8f.png": "", **expected}
    assert set(data.split.tolist()) == {""}
    assert data.lost == {"gone": "not_a_file"}
    layout = known(folder)
    assert (layout.label_column, layout.path_column, layout.tables) == ("diagnosis", "id_code", (folder / "train.csv",))
    assert labels_of(open_dataset(folder / "train.csv")) == expected


def test_train_and_test_images_of_one_folder(tmp_path: Path) -> None:
    folder = fill(
        tmp_path,
        *(f"images/{side}_{n}.jpg" for side in ("Train", "Test") for n in range(4)),
        train_csv="image_id,healthy,rust\n" + "".join(f"Train_{n},{n % 2},{1 - n % 2}\n" for n in range(4)),
        sample_submission_csv="image_id,healthy,rust\n" + "".join(f"Test_{n},0.5,0.5\n" for n in range(4)),
    )
    labels = {f"images/Train_{n}.jpg": ("rust", "healthy")[n % 2] for n in range(4)}
    assert labels_of(open_dataset(folder)) == {**{f"images/Test_{n}.jpg": "" for n in range(4)}, **labels}
    assert (known(folder).label_column, known(folder).path_column) == ("", "image_id")


def test_numbers_that_stand_for_images_of_both_sides(tmp_path: Path) -> None:
    folder = fill(
        tmp_path,
        *(f"{side}/{n}.jpg" for side in ("train", "test") for n in range(1, 5)),
        trainLabels_csv="id,label\n" + "".join(f"{n},{'frog' if n % 2 else 'ship'}\n" for n in range(1, 5)),
        sampleSubmission_csv="id,label\n" + "".join(f"{n},cat\n" for n in range(1, 5)),
    )
    labels = labels_of(open_dataset(folder))
    assert labels == {f"train/{n}.jpg": "frog" if n % 2 else "ship" for n in range(1, 5)} | dict.fromkeys(
        (f"test/{n}.jpg" for n in range(1, 5)), ""
    )


def test_split_and_group_columns_of_the_table(tmp_path: Path) -> None:
    rows = "".join(f"{n},{'ab'[n % 2]},{('train', 'val')[n // 2]},g\n" for n in range(4))
    data = open_dataset(fill(tmp_path, *(f"jpg/{n}.jpg" for n in range(4)), labels_csv="id,label,split,group\n" + rows))
    assert (data.split.tolist(), data.groups.tolist()) == (["train", "train", "val", "val"], [0] * 4)


@pytest.mark.parametrize(
    "tables",
    [
        {"sample_submission_csv": "id,label\n1,a\n2,a\n3,b\n4,b\n"},
        {"submission_csv": "id,label\n1,a\n2,a\n3,b\n4,b\n"},
        {"test_csv": "id,label\n1,a\n2,a\n3,b\n4,b\n"},
        {"my_predictions_csv": "id,label\n1,a\n2,a\n"},  # half of them
        {"labels_csv": "id,label\n1,a\n2,b\n3,c\n4,d\n"},  # captions, not classes
        {"labels_csv": "id,label\n1,a\n2,a\n3,a\n4,a\n"},
        {"labels_csv": "id,mood,weather\n1,a,x\n2,a,x\n3,b,y\n4,b,y\n"},  # either
        {"a_csv": "id,label\n1,a\n2,a\n3,b\n4,b\n", "b_csv": "id,label\n1,a\n2,b\n3,b\n4,b\n"},  # two
        {"labels_csv": "nothing of\nthe sort,\n"},
        {"labels_csv": ""},
    ],
)
def test_tables_that_are_not_taken_for_labels(tmp_path: Path, tables: dict[str, str]) -> None:
    folder = fill(tmp_path, *(f"{n}.jpg" for n in range(1, 5)), **tables)
    assert recognise(folder) is None
    assert set(open_dataset(folder).labels.tolist()) == {-1}


def test_a_table_about_the_test_side_only(tmp_path: Path) -> None:
    folder = fill(tmp_path, *(f"{s}/{n}{s}.jpg" for s in ("train", "test") for n in range(4)))
    fill(tmp_path, solution_csv="id,label\n" + "".join(f"{n}test,{'ab'[n % 2]}\n" for n in range(4)))
    assert recognise(folder) is None


@pytest.mark.parametrize("name", ["labels", "metadata"])
def test_the_folder_of_a_table_says_its_set(tmp_path: Path, name: str) -> None:
    fill(tmp_path, *(f"images/{n}.jpg" for n in range(20)))
    for folder, numbers in (("train", range(14)), ("test", range(14, 20))):
        (tmp_path / folder).mkdir()
        rows = "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in numbers)
        (tmp_path / folder / f"{name}.csv").write_text(f"file_name,label\n{rows}")
    data = open_dataset(tmp_path)
    assert {path for path, split in zip(data.paths, data.split, strict=True) if split == "test"} == {
        f"images/{n}.jpg" for n in range(14, 20)
    }
    assert sorted(data.split.tolist()) == ["test"] * 6 + ["train"] * 14
    known(tmp_path)


@pytest.mark.parametrize("train_table", ["train", "labels"])
@pytest.mark.parametrize(
    ("head", "numbers", "label", "sets", "note"),
    [
        ("image,label", range(14, 20), "ab", [14, 6], ""),
        ("file,label", [*range(14, 40), 13], "ab", [13, 26], ""),  # 13 is left out
        ("file,label", range(12, 20), "ab", [0, 0], "2 of its 8 images are also in 'train.csv'"),
        ("file,label", range(14, 20), "abc", [0, 0], "its label 'c' is not in 'train.csv'"),
        ("file,label", range(14, 20), "a", [0, 0], "all its labels are 'a'"),
        ("file", range(14, 20), "", [0, 0], ""),
    ],
)
def test_a_table_of_the_test_set_beside_that_of_the_training_set(
    *,
    tmp_path: Path,
    head: str,
    numbers: Sequence[int],
    label: str,
    sets: list[int],
    note: str,
    train_table: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    train = "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in range(14))
    test = "".join(f"{n}.jpg,{label[n % len(label)]}\n" if label else f"{n}.jpg\n" for n in numbers)
    images = [f"{n}.jpg" for n in {*range(14), *numbers}]
    tables = {f"{train_table}_csv": f"file,label\n{train}", "test_csv": f"{head}\n{test}"}
    data = open_dataset(fill(tmp_path, *images, **tables))
    assert [data.split.tolist().count(name) for name in ("train", "test")] == sets
    assert [message for message in caplog.messages if "not used" in message] == (
        [f"{tmp_path}: 'test.csv' is not used: {note}.".replace("train.csv", f"{train_table}.csv")] if note else []
    )
    assert dict(data.rejected).get("13.jpg") == ("two_splits" if sets == [13, 26] else None)


def test_two_tables_that_fit_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "id,label\n1,a\n2,a\n3,b\n4,b\n"
    folder = fill(tmp_path, *(f"{n}.jpg" for n in range(1, 5)), one_csv=rows, two_csv=rows)
    with caplog.at_level("INFO", "headstart"):
        open_dataset(folder)
    assert caplog.messages == [
        f"{folder}: 'one.csv', 'two.csv' could each hold the labels, so none is used. Give the one that does."
    ]


def test_metadata_wins_over_other_tables_and_names(tmp_path: Path) -> None:
    folder = fill(
        tmp_path,
        *("cat_1.jpg", "cat_2.jpg", "dog_1.jpg", "dog_2.jpg"),
        metadata_csv="file_name,label\ncat_1.jpg,x\ncat_2.jpg,y\ndog_1.jpg,x\ngone.jpg,y\n",
        labels_csv="id,label\ncat_1,b\ncat_2,b\ndog_1,c\ndog_2,c\n",
    )
    assert labels_of(open_dataset(folder)) == {"cat_1.jpg": "x", "cat_2.jpg": "y", "dog_1.jpg": "x", "dog_2.jpg": ""}
    assert known(folder).tables == (folder / "metadata.csv",)


# Saying it in words


def test_columns_of_a_table_in_the_folder(tmp_path: Path) -> None:
    folder = fill(tmp_path, "a/1.jpg", "b/2.jpg")
    assert error_of(lambda: open_dataset(folder, label_column="kind"), BadLabels) == (
        f"{folder}: holds no table, but the column 'kind' was requested.\n"
        "  Give the table itself, or put it beside the images. --label-from takes labels from file names."
    )
    fill(folder, labels_csv="name,kind,more\n1,x,q\n2,y,r\n")
    assert labels_of(open_dataset(folder)) == {"a/1.jpg": "a", "b/2.jpg": "b"}
    assert labels_of(open_dataset(folder, label_column="kind")) == {"a/1.jpg": "x", "b/2.jpg": "y"}
    assert labels_of(open_dataset(folder, label_column="more", path_column="name")) == {"a/1.jpg": "q", "b/2.jpg": "r"}
    assert error_of(lambda: open_dataset(folder, label_column="knd"), BadLabels) == (
        f"{folder}: no table in it has the column 'knd'; there are 'labels.csv' ('name', 'kind', 'more').\n"
        "  Did you mean 'kind'?"
    )
    fill(folder, other_csv="name,kind\n1,x\n2,y\n")
    assert error_of(lambda: open_dataset(folder, label_column="kind"), BadLabels) == (
        f"{folder}: no single table in it has the columns 'kind' and names the images; there are 'labels.csv' "
        "('name', 'kind', 'more'), 'other.csv' ('name', 'kind').\n"
        "  Give the table itself instead of the folder. It has to name 95 % of the images in its folders."
    )


def test_a_name_that_fits_several_images(tmp_path: Path) -> None:
    folder = fill(tmp_path, "x/1.jpg", "y/1.jpg", "x/2.jpg", t_csv="id,label\n1,a\n2,b\n")
    assert error_of(lambda: open_dataset(folder / "t.csv"), BadLabels) == (
        f"{folder / 't.csv'}: '1' is ambiguous: 'x/1.jpg', 'y/1.jpg'.\n"
        "  Write the paths of the images into the table, relative to its folder."
    )


# Folders that have labels of their own


@pytest.mark.parametrize(
    "names",
    [
        ["cats/cat_1.jpg", "cats/cat_2.jpg", "dogs/dog_1.jpg", "dogs/dog_2.jpg"],
        ["train/a/cat_1.jpg", "train/a/cat_2.jpg", "train/b/dog_1.jpg", "train/b/dog_2.jpg", "test/1.jpg"],
        ["0/cat_1.jpg", "0/cat_2.jpg", "1/dog_1.jpg", "1/dog_2.jpg"],
        ["photos/cats/cat_1.jpg", "photos/cats/cat_2.jpg", "photos/dogs/dog_1.jpg", "photos/dogs/dog_2.jpg"],
        ["dogs/husky_1.jpg", "dogs/husky_2.jpg", "dogs/pug_1.jpg", "dogs/pug_2.jpg"],
    ],
)
def test_class_folders_are_left_alone(tmp_path: Path, names: list[str]) -> None:
    rows = "".join(f"{name},{'xy'[k % 2]}\n" for k, name in enumerate(names))
    folder = fill(tmp_path, *names, labels_csv="path,label\n" + rows, metadata_csv="file_name,label\n" + rows)
    assert recognise(folder) is None
    data = open_dataset(folder)
    assert not {"cat", "dog", "x", "y", "husky", "pug"} & set(data.classes)


def test_names() -> None:
    assert doctest.testmod(layout_module).failed == 0
    names = Names(["a/1.jpg", "a/2.b.jpg", "b/3", "ünï.png"])
    given = ["1", "a/1", "./a/1.jpg", "a\\1.jpg", "x/1", "2.b", "2.b.jpg", "2", "3", "ünï", "", "/", " 1 "]
    assert [names.find(cell) for cell in given] == [
        *([["a/1.jpg"]] * 4),
        *([], ["a/2.b.jpg"], ["a/2.b.jpg"], [], ["b/3"], ["ünï.png"], [], [], ["a/1.jpg"]),
    ]
