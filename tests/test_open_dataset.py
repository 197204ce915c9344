"""Folders and tables become data sets; what cannot be used is named."""

from __future__ import annotations

import doctest
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headstart.data.class_names as name_module
import headstart.data.dataset as dataset_module
import headstart.data.left_out as left_out_module
import headstart.data.tables as table_module
import headstart.data.versions as version_module
from conftest import draw
from headstart.data.dataset import Dataset, fingerprint, hash_rows, split_name
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.errors import BadArchive, BadLabels, BadSplit, HeadstartError, MissingData, NoImages

HOSTILE = [
    "-rf.jpg",
    " leading and trailing .jpg ",
    "new\nline.jpg",
    'quo"te, comma.jpg',
    "it's.jpg",
    "ünïcödé 猫 🐈.jpg",
    "e\u0301.jpg",
    "$(echo).jpg",
    "a;b|c&d.jpg",
    "back\\slash.jpg",
    os.fsdecode(b"broken-\xff\xfe.jpg"),
]


def fill(root: Path, *names: str) -> Path:
    """Make files: nothing here looks into them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def table(path: Path, text: str) -> Path:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def labels_of(data: Dataset) -> dict[str, str]:
    return {path: data.label_name(i) for i, path in enumerate(data.paths)}


def error_of(call: object, kind: type[HeadstartError]) -> str:
    with pytest.raises(kind) as caught:
        call()  # type: ignore[operator]
    return str(caught.value)


def test_examples() -> None:
    for module in (name_module, dataset_module, left_out_module, table_module, version_module):
        assert doctest.testmod(module).failed == 0


# Folders


def test_class_folders(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "dogs/2.jpg", "cats/deep/er/3.jpg", "cats/1.jpg", "cats/10.jpg"))
    assert data.root == tmp_path
    assert data.paths == ("cats/1.jpg", "cats/10.jpg", "cats/deep/er/3.jpg", "dogs/2.jpg")
    assert data.classes == ("cats", "dogs")
    assert (data.labels.tolist(), data.labels.dtype) == ([0, 0, 0, 1], np.int64)
    assert (data.split.tolist(), data.split.dtype) == ([""] * 4, np.dtype("<U5"))
    assert (data.groups.tolist(), data.groups.dtype) == ([0, 1, 2, 3], np.int64)
    assert data.file(3) == tmp_path / "dogs" / "2.jpg"
    assert len(data) == 4


def test_take_by_mask_and_by_indices(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "a/1.jpg", "b/2.jpg", "b/3.jpg"))
    by_mask, by_index = data.take(np.array([False, True, True])), data.take(np.array([2, 0]))
    assert (by_mask.paths, by_mask.labels.tolist()) == (("b/2.jpg", "b/3.jpg"), [1, 1])
    assert (by_index.paths, by_index.labels.tolist(), by_index.groups.tolist()) == (
        ("b/3.jpg", "a/1.jpg"),
        [1, 0],
        [2, 0],
    )
    assert by_mask.classes == ("a", "b")
    assert len(data.take(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize("val", ["val", "Valid", "VALIDATION"])
@pytest.mark.parametrize("train", ["train", "Training"])
def test_split_folders_are_never_classes(tmp_path: Path, train: str, val: str) -> None:
    fill(tmp_path, f"{train}/cats/1.jpg", f"{val}/cats/2.jpg", "test/dogs/3.jpg", f"{train}/dogs/x/4.jpg")
    data = open_dataset(tmp_path)
    assert data.classes == ("cats", "dogs")
    sides = dict(zip(data.paths, data.split.tolist(), strict=True))
    assert sides == {
        f"{train}/cats/1.jpg": "train",
        f"{val}/cats/2.jpg": "val",
        "test/dogs/3.jpg": "test",
        f"{train}/dogs/x/4.jpg": "train",
    }


def test_a_test_folder_with_loose_images_has_no_labels(tmp_path: Path) -> None:
    data = open_dataset(
        fill(tmp_path, "train/cats/1.jpg", "train/dogs/1.jpg", "test/1.jpg", "test/2.png", "sample.png")
    )
    assert data.classes == ("cats", "dogs")
    assert dict(zip(data.paths, data.labels.tolist(), strict=True)) == {
        "sample.png": -1,
        "test/1.jpg": -1,
        "test/2.png": -1,
        "train/cats/1.jpg": 0,
        "train/dogs/1.jpg": 1,
    }
    assert data.split.tolist() == ["", "", "", "train", "train"]


def test_published_layouts_of_wrapped_split_folders(tmp_path: Path) -> None:
    intel = fill(
        tmp_path / "intel", *(f"seg_{s}/seg_{s}/{c}/1.jpg" for s in ("train", "test") for c in ("sea", "street"))
    )
    data = open_dataset(fill(intel, "seg_pred/seg_pred/9.jpg"))
    assert data.classes == ("sea", "street")
    assert data.split.tolist() == ["", "test", "test", "train", "train"]
    assert data.labels.tolist() == [-1, 0, 1, 0, 1]
    pets = fill(
        tmp_path / "pets", *(f"pets/{s}_set/{s}_set/{c}/1.jpg" for s in ("training", "test") for c in ("cats", "dogs"))
    )
    data = open_dataset(pets)
    assert data.classes == ("cats", "dogs")
    assert data.paths[0] == "pets/test_set/test_set/cats/1.jpg"
    assert data.split.tolist() == ["test", "test", "train", "train"]


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "b.jpg", "a.png", "no_extension", "notes.txt"))
    assert (data.paths, data.labels.tolist(), data.classes) == (("a.png", "b.jpg", "no_extension"), [-1, -1, -1], ())
    assert data.rejected == (("notes.txt", "not_an_image_name"),)


def test_what_is_not_an_image_by_name_is_named(tmp_path: Path) -> None:
    others = ["cats/notes.TXT", "cats/x/data.json", "README.md", "LICENSE", "labels.csv", "dogs.zip"]
    fill(tmp_path, "cats/1.jpg", "cats/odd.xyz", *others)
    draw(0, 0).save(fill(tmp_path, "dogs/2") / "dogs" / "2", "PNG")
    data = open_dataset(tmp_path)
    assert data.paths == ("cats/1.jpg", "cats/odd.xyz", "dogs/2")
    assert data.rejected == tuple((path, "not_an_image_name") for path in sorted(others))


def test_files_of_the_system_are_passed_over(tmp_path: Path) -> None:
    hidden = (".DS_Store", "cats/.hidden.jpg", "cats/Thumbs.db", "cats/desktop.ini", "__MACOSX/cats/1.jpg")
    data = open_dataset(fill(tmp_path, "cats/1.jpg", "dogs/1.jpg", ".git/1.jpg", "cats/.cache/1.jpg", *hidden))
    assert (data.paths, data.classes, data.rejected) == (("cats/1.jpg", "dogs/1.jpg"), ("cats", "dogs"), ())


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", "9.jpg")
    data_folder = fill(tmp_path / "data", "cats/1.jpg", "dogs/deep/2.jpg")
    (data_folder / "cats" / "link.jpg").symlink_to(data_folder / "dogs" / "deep" / "2.jpg")
    (data_folder / "cats" / "more").symlink_to(tmp_path / "elsewhere")
    (data_folder / "dogs" / "deep" / "up").symlink_to(data_folder / "dogs")
    (data_folder / "dogs" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (data_folder / "dogs" / "self.jpg").symlink_to(data_folder / "dogs" / "self.jpg")
    data = open_dataset(data_folder)
    assert data.paths == ("cats/1.jpg", "cats/link.jpg", "cats/more/9.jpg", "dogs/deep/2.jpg")
    lost = (("dogs/gone.jpg", "not_a_file"), ("dogs/self.jpg", "not_a_file"))
    assert data.rejected == (("dogs/deep/up", "link_up"), *lost)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_named_and_never_opened(tmp_path: Path) -> None:
    fill(tmp_path, "cats/1.jpg", "dogs/1.jpg")
    os.mkfifo(tmp_path / "cats" / "pipe.jpg")
    assert open_dataset(tmp_path).rejected == (("cats/pipe.jpg", "not_a_file"),)


def test_hostile_names_survive_in_folders_and_tables(tmp_path: Path) -> None:
    try:
        fill(tmp_path, *(f"-c\n'l\" ä/{name}" for name in HOSTILE), "b/1.jpg")
    except (OSError, UnicodeError):
        pytest.skip("this file system does not take such names")
    data = open_dataset(tmp_path)
    assert set(data.paths) == {f"-c\n'l\" ä/{name}" for name in HOSTILE} | {"b/1.jpg"}
    assert all(data.file(i).is_file() for i in range(len(data)))
    rows = "".join('"{}","{}"\n'.format(p.replace('"', '""'), n.replace('"', '""')) for p, n in labels_of(data).items())
    again = open_dataset(table(tmp_path / "all.csv", "path,label\n" + rows))
    assert labels_of(again) == labels_of(data)
    assert fingerprint(again, ["0"] * len(again)) == fingerprint(data, ["0"] * len(data))


def test_mixed_layouts_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train/cats/1.jpg", "cats/1.jpg", "dogs/1.jpg")
    assert error_of(lambda: open_dataset(tmp_path), BadLabels) == (
        f"{tmp_path}: holds split folders ('train') and others beside them ('cats', 'dogs'), so it is unclear which "
        "are classes.\n  Keep either class folders, or split folders that hold class folders. If a class here is "
        "named like a split: give a table of paths and labels instead (CSV with the columns path,label)."
    )


def test_missing_folder_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert error_of(lambda: open_dataset(tmp_path / "fotos"), MissingData) == (
        f"{tmp_path / 'fotos'}: there is no such folder or table.\n  Did you mean 'photos'?"
    )
    assert error_of(lambda: open_dataset(tmp_path / "zzz"), MissingData) == (
        f"{tmp_path / 'zzz'}: there is no such folder or table.\n  Check the spelling; it was looked for in {tmp_path}."
    )
    assert error_of(lambda: open_dataset(tmp_path / "x" / "y"), MissingData) == (
        f"{tmp_path / 'x' / 'y'}: there is no such folder or table.\n"
        f"  Check the spelling: {tmp_path} exists, {tmp_path / 'x'} does not."
    )


def test_archives_and_other_files_say_what_to_do(tmp_path: Path) -> None:
    fill(tmp_path, "cats.tar.gz", "one.jpg")
    text = error_of(lambda: open_dataset(str(tmp_path / "cats.tar.gz")), BadArchive)
    assert text.startswith(f"{tmp_path / 'cats.tar.gz'}: is not a known archive format; expected a zip or a tar.\n")
    assert error_of(lambda: open_dataset(tmp_path / "one.jpg"), MissingData) == (
        f"{tmp_path / 'one.jpg'}: is a single image; expected a folder of images, or a table of them.\n"
        f"  Give the folder that it is in, {tmp_path}. `headstart predict RUN {tmp_path / 'one.jpg'}` classifies it."
    )


def test_no_images(tmp_path: Path) -> None:
    assert error_of(lambda: open_dataset(tmp_path), NoImages) == (
        f"{tmp_path}: holds no images.\n  Expected images in class folders, such as {tmp_path / 'cat' / '1.jpg'}."
    )
    fill(tmp_path, "labels.csv", "a.txt")
    assert error_of(lambda: open_dataset(tmp_path), NoImages) == (
        f"{tmp_path}: holds no images (2 other files: a.txt, labels.csv).\n"
        f"  Give the table itself: {tmp_path / 'labels.csv'}"
    )


# Fit for training


def test_require_trainable(tmp_path: Path) -> None:
    good = open_dataset(fill(tmp_path / "good", "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"))
    require_trainable(good)
    flat = open_dataset(fill(tmp_path / "flat", "1.jpg", "2.jpg"))
    assert error_of(lambda: require_trainable(flat), BadLabels) == (
        f"{flat.root}: none of its 2 images has a label.\n"
        f"  Put the images of each class into a folder of its own, such as {flat.root / 'cat' / '1.jpg'}.\n"
        "  Give a table of paths and labels instead (CSV with the columns path,label)."
    )
    one = open_dataset(fill(tmp_path / "one", "cats/1.jpg", "cats/2.jpg"))
    assert error_of(lambda: require_trainable(one), BadLabels) == (
        f"{one.root}: has one class only ('cats': 2); a classifier needs at least two.\n"
        f"  Put the images of another class beside it, for example into {one.root / 'other'}."
    )
    fill(tmp_path / "empty", "cats/1.jpg", "dogs/1.jpg")
    (tmp_path / "empty" / "birds").mkdir()
    empty = open_dataset(tmp_path / "empty")
    assert (empty.classes, empty.rejected) == (("cats", "dogs"), (("birds", "no_images"),))
    (tmp_path / "empty" / "dogs" / "1.jpg").unlink()
    assert error_of(lambda: require_trainable(open_dataset(tmp_path / "empty")), BadLabels) == (
        f"{empty.root}: has one class only ('cats': 1); a classifier needs at least two.\n"
        "  'birds', 'dogs' hold no images. Put the images of another class beside it, for example into "
        f"{empty.root / 'other'}."
    )
    damaged = open_dataset(fill(tmp_path / "damaged", "birds/1.jpg", "cats/1.jpg", "dogs/1.jpg"))
    usable = damaged.take(np.array([1, 2]))
    assert error_of(lambda: require_trainable(usable), BadLabels) == (
        f"{damaged.root}: 1 of 3 classes has no images: 'birds'. Counts: 'birds': 0, 'cats': 1, 'dogs': 1.\n"
        "  Add images to it, or remove it. `headstart check` lists what was left out, and why."
    )
    few = open_dataset(fill(tmp_path / "few", "a/1.jpg", "a/2.jpg", "b/1.jpg"))
    assert error_of(lambda: require_trainable(few), BadLabels) == (
        f"{few.root}: has 3 labelled images for 2 classes ('a': 2, 'b': 1); at least 4 are needed.\n"
        "  Add images: about 20 per class give a first useful classifier. Few per class may mean that the labels are "
        "not "
        "the classes you want."
    )


def test_the_table_beside_unlabelled_images_is_pointed_out(tmp_path: Path) -> None:
    flat = open_dataset(fill(tmp_path, "1.jpg", "labels.csv"))
    assert error_of(lambda: require_trainable(flat), BadLabels).endswith(
        f"\n  There is a table: give {tmp_path / 'labels.csv'} if it holds the labels."
    )


# Tables


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("path,label", {}),
        ("Filename,Class", {}),
        ("id,breed", {}),
        ("image,anything", {}),
        ("x,y", {}),
        ("file;target", {}),
    ],
)
def test_columns_are_guessed(tmp_path: Path, header: str, expected: dict[str, str]) -> None:
    fill(tmp_path, "1.jpg", "2.jpg")
    comma = ";" if ";" in header else ","
    data = open_dataset(table(tmp_path / "t.csv", f"{header}\n1.jpg{comma}007\n2.jpg{comma}42\n"))
    assert labels_of(data) == {"1.jpg": "007", "2.jpg": "42"}
    assert data.classes == ("007", "42")


def test_tsv_with_a_byte_order_mark_and_blank_lines(tmp_path: Path) -> None:
    fill(tmp_path, "a, b.jpg", "2.jpg")
    data = open_dataset(table(tmp_path / "t.tsv", "\ufeffpath\tlabel\r\na, b.jpg\tx\r\n\r\n2.jpg\t y \r\n"))
    assert labels_of(data) == {"2.jpg": "y", "a, b.jpg": "x"}


def test_parquet_labels_are_text(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    fill(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    columns = {"image": ["1.jpg", "2.jpg", "3.jpg"], "label": [1.0, None, 2.0], "split": ["train", "test", None]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    data = open_dataset(tmp_path / "t.parquet")
    assert labels_of(data) == {"1.jpg": "1", "2.jpg": "", "3.jpg": "2"}
    assert data.split.tolist() == ["train", "", ""]


def test_damaged_parquet(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no such thing")
    assert error_of(lambda: open_dataset(tmp_path / "t.parquet"), BadLabels).startswith(
        f"{tmp_path / 't.parquet'}: cannot be read as a parquet file: "
    )


def test_split_and_group_columns(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{i}.jpg" for i in range(1, 6)))
    rows = "4.jpg,a,Train,p1\n1.jpg,a,train,p1\n2.jpg,b,valid,p2\n3.jpg,b,TEST,\n5.jpg,,test,\n"
    data = open_dataset(table(tmp_path / "t.csv", "path,label,split,group\n" + rows))
    assert data.split.tolist() == ["train", "val", "test", "train", ""]
    assert data.groups.tolist() == [0, 1, 2, 0, 4]
    assert data.labels.tolist() == [0, 1, 1, 0, -1]


def test_unknown_split_names(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "2.jpg")
    name = table(tmp_path / "t.csv", "path,label,split\n1.jpg,a,train\n2.jpg,b,tset\n")
    assert error_of(lambda: open_dataset(name), BadSplit) == (
        f"{name}: 'tset' in its split column; expected 'train', 'val', 'test', or nothing.\n"
        "  Correct these rows, or remove the column: then headstart makes the split."
    )
    folds = open_dataset(table(tmp_path / "f.csv", "path,label,fold\n1.jpg,a,0\n2.jpg,b,1\n"))
    assert folds.split.tolist() == ["", ""]


# Tables with several columns for one thing


def four(tmp_path: Path, text: str) -> Path:
    return table(fill(tmp_path, *(f"{n}.jpg" for n in range(1, 5))) / "t.csv", text)


def test_a_split_beside_folds_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "1.jpg,a,train,0\n2.jpg,b,train,1\n3.jpg,a,test,0\n4.jpg,b,test,1\n"
    name = four(tmp_path, "path,label,split,fold\n" + rows)
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(name)
    assert data.split.tolist() == ["train", "train", "test", "test"]
    assert caplog.messages == [f"{name}: the split is taken from the column 'split'; not used: 'fold'."]


def test_names_of_splits_go_before_the_name_of_the_column(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "1.jpg,pug,0,train\n2.jpg,pug,1,train\n3.jpg,lab,0,val\n4.jpg,lab,1,\n"
    name = four(tmp_path, "path,breed,split,Set\n" + rows)
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(name)
    assert (data.classes, data.split.tolist()) == (("lab", "pug"), ["train", "train", "val", ""])
    assert caplog.messages == [f"{name}: the split is taken from the column 'Set'; not used: 'split'."]


def test_two_columns_of_split_names_are_taken_in_order(tmp_path: Path) -> None:
    rows = "1.jpg,a,test,train\n2.jpg,b,test,train\n3.jpg,a,train,test\n4.jpg,b,train,val\n"
    assert open_dataset(four(tmp_path, "path,label,subset,split\n" + rows)).split.tolist() == [
        *("train", "train", "test", "val")
    ]


def test_two_columns_without_names_of_splits_are_both_left(tmp_path: Path) -> None:
    rows = "1.jpg,a,x,0\n2.jpg,b,y,1\n3.jpg,a,x,0\n4.jpg,b,y,1\n"
    assert open_dataset(four(tmp_path, "path,label,set,fold\n" + rows)).split.tolist() == [""] * 4


def test_groups_of_two_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "1.jpg,a,9,p\n2.jpg,b,8,p\n3.jpg,a,7,q\n4.jpg,b,6,q\n"
    name = four(tmp_path, "path,label,group_id,group\n" + rows)
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(name)
    assert data.groups.tolist() == [0, 0, 2, 2]
    assert caplog.messages == [f"{name}: the groups are taken from the column 'group'; not used: 'group_id'."]


def test_two_columns_of_one_name_but_for_case(tmp_path: Path) -> None:
    name = four(tmp_path, "path,label,Split,split\n1.jpg,a,train,test\n2.jpg,b,test,train\n")
    assert error_of(lambda: open_dataset(name), BadLabels) == (
        f"{name}: 'Split', 'split' could each be meant: the split is looked for in one column.\n"
        "  Rename or remove the other one."
    )
    name = four(tmp_path, "path,label,Group,group\n1.jpg,a,1,2\n2.jpg,b,1,3\n")
    assert error_of(lambda: open_dataset(name), BadLabels).startswith(f"{name}: 'Group', 'group' could each be meant")


def test_the_column_of_labels_is_not_that_of_the_groups_too(tmp_path: Path) -> None:
    name = four(tmp_path, "path,label,group\n1.jpg,a,x\n2.jpg,b,x\n3.jpg,a,y\n4.jpg,b,y\n")
    data = open_dataset(name, label_column="group")
    assert (data.classes, data.groups.tolist()) == (("x", "y"), [0, 1, 2, 3])


# Tables that are not UTF-8

ACCENTS = "path;label\r\n1.jpg;chéri\r\n2.jpg;naïf\r\n3.jpg;chéri\r\n4.jpg;naïf\r\n"


def test_labels_as_excel_saves_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    name = four(tmp_path, "")
    name.write_bytes(ACCENTS.encode("cp1252"))
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(name)
    assert labels_of(data) == {"1.jpg": "chéri", "2.jpg": "naïf", "3.jpg": "chéri", "4.jpg": "naïf"}
    assert caplog.messages == [
        f"{name}: is not UTF-8; it is read as Windows-1252, which gives 'chéri', 'naïf'. Save it as UTF-8 if that is "
        f"wrong."
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_unicode_by_its_mark(tmp_path: Path, suffix: str, encoding: str, caplog: pytest.LogCaptureFixture) -> None:
    text = ACCENTS if suffix == "csv" else ACCENTS.replace(";", "\t")
    if suffix == "jsonl":
        text = "".join(
            f'{{"file_name": "{n}.jpg", "label": "{"naïf" if n % 2 == 0 else "chéri"}"}}\n' for n in range(1, 5)
        )
    name = four(tmp_path, "").with_suffix(f".{suffix}")
    name.write_bytes(("\ufeff" * (encoding == "utf-16-be") + text).encode(encoding))
    with caplog.at_level("INFO", "headstart"):
        assert labels_of(open_dataset(name)) == {"1.jpg": "chéri", "2.jpg": "naïf", "3.jpg": "chéri", "4.jpg": "naïf"}
    assert caplog.messages == []


def test_unicode_text_of_a_spreadsheet(tmp_path: Path) -> None:
    """Excel's "Unicode text": UTF-16 with tabs, here under the name of a CSV."""
    name = four(tmp_path, "")
    name.write_bytes(ACCENTS.replace(";", "\t").encode("utf-16"))
    assert open_dataset(name).classes == ("chéri", "naïf")
    name.write_bytes("path,label\n1.jpg,a\n".encode("utf-16")[:-1])
    assert error_of(lambda: open_dataset(name), BadLabels) == (
        f"{name}: cannot be read as a table: its UTF-16 is damaged at byte 38.\n  Save it as CSV in UTF-8."
    )


def test_headers_as_excel_saves_them(tmp_path: Path) -> None:
    name = four(tmp_path, "")
    name.write_bytes("path,catégorie,âge\n1.jpg,a,7\n2.jpg,b,8\n".encode("cp1252"))
    assert labels_of(open_dataset(name, label_column="catégorie")) == {"1.jpg": "a", "2.jpg": "b"}
    name.write_bytes("id,chéri,naïf\n1,0,1\n2,1,0\n".encode("cp1252"))
    assert labels_of(open_dataset(name)) == {"1.jpg": "naïf", "2.jpg": "chéri"}


def test_paths_in_the_encoding_of_the_labels(tmp_path: Path) -> None:
    name = table(fill(tmp_path, "chéri/1.jpg", "2.jpg") / "t.csv", "")
    name.write_bytes("path,label\nchéri/1.jpg,chéri\n2.jpg,a\n".encode("cp1252"))
    assert labels_of(open_dataset(name)) == {"chéri/1.jpg": "chéri", "2.jpg": "a"}


@pytest.mark.parametrize("folder", ["", "images"])
def test_paths_in_windows_1252_beside_labels_in_ascii(tmp_path: Path, folder: str) -> None:
    fill(tmp_path / folder, *(f"{'café' if n < 3 else 'tea'}{n}.jpg" for n in range(9)))
    rows = "".join(f"{'café' if n < 3 else 'tea'}{n}.jpg,{'ab'[n % 2]}\n" for n in range(9))
    (tmp_path / "labels.csv").write_bytes(f"path,label\n{rows}".encode("cp1252"))
    data = open_dataset(tmp_path if folder else tmp_path / "labels.csv")
    assert (data.classes, sorted(data.labels.tolist()), len(data)) == (("a", "b"), [0] * 5 + [1] * 4, 9)


def test_labels_beside_paths_that_are_bytes(tmp_path: Path) -> None:
    latin = os.fsdecode("é.jpg".encode("cp1252"))
    try:
        fill(tmp_path, latin, "2.jpg")
    except (OSError, UnicodeError):
        pytest.skip("this file system does not take such names")
    name = table(tmp_path / "t.csv", f"path,label\n{latin},chéri\n2.jpg,a\n")
    assert labels_of(open_dataset(name)) == {latin: "chéri", "2.jpg": "a"}  # the table is UTF-8, but for a file's name
    name.write_bytes("path,label\né.jpg,chéri\n2.jpg,a\n".encode("cp1252"))
    assert error_of(lambda: open_dataset(name), BadLabels) == (
        f"{name}: is neither UTF-8 nor Windows-1252 throughout ('ch\\udce9ri').\n"
        "  Save it as UTF-8. The names of files that it lists have to be UTF-8 as well."
    )


@pytest.mark.parametrize(
    "text",
    [
        b"path,label\n1.jpg," + "chéri\n2.jpg,".encode("cp1252") + "naïf\n".encode(),  # some of it is UTF-8
        b"path,label\n1.jpg,ch\xe9ri\n2.jpg,\x81\n",  # a byte that means nothing in Windows-1252
    ],
)
def test_labels_in_no_encoding_are_refused(tmp_path: Path, text: bytes) -> None:
    name = four(tmp_path, "")
    name.write_bytes(text)
    message = error_of(lambda: open_dataset(name), BadLabels)
    assert message.startswith(f"{name}: is neither UTF-8 nor Windows-1252 throughout ('")
    assert message.endswith("').\n  Save it as UTF-8.")


def test_ambiguous_missing_and_wrong_columns(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg")
    name = table(tmp_path / "t.csv", "path,image,label,extra\n1.jpg,1.jpg,a,z\n")
    assert error_of(lambda: open_dataset(name), BadLabels) == (
        f"{name}: 'path', 'image' could each be meant (its columns are 'path', 'image', 'label', 'extra').\n"
        "  Say which with --path-column path (in Python, path_column='path'), or rename the others."
    )
    assert labels_of(open_dataset(name, path_column="image", label_column="extra")) == {"1.jpg": "z"}
    assert error_of(lambda: open_dataset(name, label_column="lable"), BadLabels) == (
        f"{name}: has no column 'lable' (label_column); its columns are 'path', 'image', 'label', 'extra'.\n"
        "  Did you mean 'label'?"
    )
    unclear = table(tmp_path / "u.csv", "path,mood,weather\n1.jpg,a,z\n")
    assert error_of(lambda: open_dataset(unclear), BadLabels) == (
        f"{unclear}: no column looks like the label column; its columns are 'path', 'mood', 'weather'.\n"
        "  Say which one holds it with --label-column (in Python, DataSource(..., label_column=...)), or rename it."
    )


def test_a_quote_that_is_not_closed_hides_no_rows(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{n}.jpg" for n in range(300)))
    note = {0: '"a note\nof two, lines"', 50: '"5 inch', 150: '5" nail', 200: '"big" nail'}
    rows = {n: f"{n}.jpg,{'ab'[n % 2]},{note.get(n, '')}\n" for n in range(300)}
    hint = (
        'Close it. A cell that contains a double quote is written in double quotes, with that quote twice: """5 inch".'
    )
    expected = f"line 53 has a double quote that is not closed: '50.jpg,a,\"5 inch'.\n  {hint}"
    for suffix, more in ((".csv", ""), (".tsv", ""), (".csv", "x" * 140_000)):
        text = "".join(["path,label,note\n", *rows.values(), more])
        file = table(tmp_path / f"t{suffix}", text.replace(",", "\t") if suffix == ".tsv" else text)
        wanted = expected.replace("50.jpg,a,", "50.jpg\\ta\\t") if suffix == ".tsv" else expected
        assert (
            error_of(lambda file=file: open_dataset(file), BadLabels) == f"{file}: cannot be read as a table: {wanted}"
        )
    text = "".join(["path,label,note\n", *(row for n, row in rows.items() if n != 50)])
    assert len(open_dataset(table(tmp_path / "t.csv", text))) == 299


def test_a_key_of_json_has_one_value(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "2.jpg")
    twice = '{"1.jpg": "cat", "2.jpg": "dog", "1.jpg": "%s"}'
    file = table(tmp_path / "t.json", twice % "dog")
    assert error_of(lambda: open_dataset(file), BadLabels) == (
        f"{file}: the key '1.jpg' occurs twice in one object, with 'cat' and 'dog'.\n  Remove one of them."
    )
    assert labels_of(open_dataset(table(file, twice % "cat"))) == {"1.jpg": "cat", "2.jpg": "dog"}
    lines = table(tmp_path / "t.jsonl", '{"path": "1.jpg", "label": "cat", "label": "dog"}\n')
    assert error_of(lambda: open_dataset(lines), BadLabels) == (
        f"{lines}: the key 'label' occurs twice in one object, with 'cat' and 'dog'.\n  Remove one of them."
    )


def test_cells_that_a_spreadsheet_omits_are_empty(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    with caplog.at_level("INFO", "headstart"):
        data = open_dataset(table(tmp_path / "t.csv", "path,label,split\n1.jpg,cat,train\n2.jpg,dog\n3.jpg\n"))
    assert labels_of(data) == {"1.jpg": "cat", "2.jpg": "dog", "3.jpg": ""}
    assert data.split.tolist() == ["train", "", ""]
    assert caplog.messages == [
        f"{tmp_path / 't.csv'}: 2 of 3 rows have fewer cells than the header, the first of them row 3; the missing ones are "
        "empty."
    ]


def test_what_may_not_be_read_is_named(tmp_path: Path) -> None:
    labels = table(fill(tmp_path, "t/1.jpg") / "t/labels.csv", "path,label\n1.jpg,cat\n")
    inner = fill(tmp_path, "c/a/1.jpg", "c/a/deep/2.jpg", "c/b/3.jpg") / "c/a"
    labels.chmod(0)
    inner.chmod(0o600)
    try:
        if os.access(labels, os.R_OK) or os.access(inner / "deep", os.R_OK):
            pytest.skip("needs files that may not be read, which this user or this system does not have")
        assert error_of(lambda: open_dataset(labels), BadLabels) == (
            f"{labels}: could not be read: Permission denied.\n  Check the disk and its permissions."
        )
        assert labels_of(open_dataset(labels.parent)) == {"1.jpg": ""}
        data = open_dataset(tmp_path / "c")
        assert labels_of(data) == {"a/1.jpg": "a", "b/3.jpg": "b"}
        assert data.rejected == (("a/deep", "no_permission"),)
    finally:
        labels.chmod(0o600)
        inner.chmod(0o700)


def test_tables_that_are_none(tmp_path: Path) -> None:
    empty = table(tmp_path / "e.csv", "path,label\n")
    assert error_of(lambda: open_dataset(empty), BadLabels) == (
        f"{empty}: has no rows.\n  Expected a header such as path,label and one row per image."
    )
    uneven = table(tmp_path / "u.csv", "path,label\n1.jpg,a\nb, c.jpg,a\n")
    assert error_of(lambda: open_dataset(uneven), BadLabels) == (
        f"{uneven}: 1 of 2 rows do not have 2 cells, as the header does; the first is row 3, with 3.\n"
        "  Put names that contain a comma in double quotes."
    )
    twice = table(tmp_path / "w.csv", "path,path\n1.jpg,a\n")
    assert error_of(lambda: open_dataset(twice), BadLabels) == (
        f"{twice}: has the column 'path' more than once.\n  Rename one of them."
    )


def test_rows_without_files_are_named(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "sub/2.png")
    rows = "1.jpg,a\ngone.jpg,b\nsub\\2.png,b\n,c\nsub,d\n" + "x" * 5000 + ",e\n"
    data = open_dataset(table(tmp_path / "t.csv", "path,label\n" + rows))
    assert labels_of(data) == {"1.jpg": "a", "sub/2.png": "b"}
    names = ["(row 4)", "gone.jpg", "sub", "x" * 5000]
    assert data.rejected == tuple((name, "not_a_file") for name in names)
    assert data.classes == ("a", "b", "c", "d", "e")  # so that an empty class is noticed


def test_names_without_their_extension_are_found(tmp_path: Path) -> None:
    fill(tmp_path, "images/abc.jpg", "images/def.png")
    data = open_dataset(table(tmp_path / "t.csv", "id,breed\nimages/abc,pug\nimages/def,poodle\n"))
    assert labels_of(data) == {"images/abc.jpg": "pug", "images/def.png": "poodle"}


def test_no_row_has_a_file(tmp_path: Path) -> None:
    name = table(tmp_path / "t.csv", "path,label\ngone/1.jpg,a\n2.jpg,b\n")
    assert error_of(lambda: open_dataset(name), BadLabels) == (
        f"{name}: none of its 2 rows names an existing image; the first is 'gone/1.jpg', "
        f"looked for at {tmp_path / 'gone' / '1.jpg'}.\n"
        "  Paths are relative to the folder of the table: move the table, or change its paths."
    )


def test_one_path_twice(tmp_path: Path) -> None:
    fill(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg")
    rows = "1.jpg,a,\n./1.jpg,a,\n2.jpg,a,\n2.jpg,b,\n2.jpg,a,\n3.jpg,,train\n3.jpg,b,\n4.jpg,b,train\n4.jpg,b,test\n"
    data = open_dataset(table(tmp_path / "t.csv", "path,label,split\n" + rows))
    assert labels_of(data) == {"1.jpg": "a", "3.jpg": "b"}
    assert data.split.tolist() == ["", "train"]
    assert data.rejected == (("2.jpg", "two_labels"), ("4.jpg", "two_splits"))


# Hashes


def test_fingerprint_depends_on_content_and_not_on_order(tmp_path: Path) -> None:
    data = open_dataset(fill(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg"))
    shas = ["s1", "s2", "s3"]
    order = np.array([2, 0, 1])
    assert fingerprint(data, shas) == fingerprint(data.take(order), [shas[i] for i in order])
    assert fingerprint(data, shas) != fingerprint(data, ["s1", "s2", "sX"])
    assert fingerprint(data, shas) != fingerprint(data.take(np.array([0, 1])), shas[:2])


@settings(max_examples=200)
@given(*[st.lists(st.lists(st.text(max_size=3), min_size=2, max_size=2), max_size=3)] * 2)
def test_different_rows_have_different_hashes(one: list[list[str]], other: list[list[str]]) -> None:
    assert (hash_rows(one) == hash_rows(other)) == (one == other)


def test_split_names() -> None:
    known = {
        n: split_name(n) for n in ("train", "TRAINING", " val", "valid", "validation", "test", "testing", "seg_test")
    }
    assert list(known.values()) == ["train", "train", "val", "val", "val", "test", "test", "test"]
    assert not any(split_name(n) for n in ("", "trains", "tests", "contest", "validity", "0"))
