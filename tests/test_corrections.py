"""Corrections in a table beside the data: applied, kept with the run, and refused as a whole where rows do not fit."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import headstart
from conftest import write_photos
from headstart import Recipe, cli
from headstart.data.corrections import CORRECTIONS_HEADER, Correction, Corrections, read_corrections, write_suspects
from headstart.data.curation import Curation
from headstart.data.dataset import Dataset
from headstart.data.open_dataset import open_dataset, require_trainable
from headstart.errors import BadLabels, BadSplit, DataError, MissingData, WriteError
from headstart.io.files import read_csv, write_csv
from headstart.runs.provenance import CorrectionsRecord

RECIPE = Recipe(backbone="test_resnet.a", head="lda", approach="linear")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Empty files in two class folders: corrections know names only."""
    for name in ("cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/1.jpg", "dog/2.jpg"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).touch()
    return tmp_path / "pets"


def table(folder: Path, *lines: str, header: str = "path,label,suggested,label_quality,new_label,drop") -> Path:
    path = folder / "corrections.csv"
    path.write_text("\n".join([header, *lines, ""]))
    return path


def labels(dataset: Dataset) -> dict[str, str]:
    return {path: dataset.label_name(i) for i, path in enumerate(dataset.paths)}


def refused(corrections: Path, data: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_corrections(corrections).applied_to(open_dataset(data))
    return str(caught.value)


# What they do


def test_labels_change_and_images_go(tmp_path: Path, pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    confirmed = "dog/2.jpg,dog,cat,0.96,dog,"
    lines = ["cat/1.jpg,cat,dog,0.99,dog,", "cat/2.jpg,cat,dog,0.98,,x", "cat/3.jpg,cat,dog,0.97,,", confirmed]
    corrections = read_corrections(table(tmp_path, *lines))
    with caplog.at_level(logging.INFO, logger="headstart"):
        fixed = corrections.applied_to(open_dataset(pets))
    assert labels(fixed) == {"cat/1.jpg": "dog", "cat/3.jpg": "cat", "dog/1.jpg": "dog", "dog/2.jpg": "dog"}
    assert fixed.classes == ("cat", "dog")
    changes = corrections.changing(open_dataset(pets))
    assert (bool(corrections), changes.relabelled, changes.dropped) == (True, 1, 1)
    source = tmp_path / "corrections.csv"
    assert caplog.messages == [f"Corrections in {source}: 1 label changed, 1 image left out."]


def test_a_table_in_which_nothing_was_done_changes_nothing(tmp_path: Path, pets: Path) -> None:
    write_suspects(tmp_path / "corrections.csv", [("cat/1.jpg", "cat", "dog", 0.987654321)])
    assert (tmp_path / "corrections.csv").read_text() == (
        "path,label,suggested,label_quality,new_label,drop\ncat/1.jpg,cat,dog,0.98765,,\n"
    )
    for corrections in (
        read_corrections(tmp_path / "corrections.csv"),
        read_corrections(None),
        read_corrections(table(tmp_path)),
    ):
        assert not corrections
        assert labels(corrections.applied_to(open_dataset(pets))) == labels(open_dataset(pets))


def test_an_image_without_a_label_gets_one(tmp_path: Path, pets: Path) -> None:
    (pets / "new.jpg").touch()
    fixed = read_corrections(table(tmp_path, "new.jpg,,,,dog,")).applied_to(open_dataset(pets))
    assert labels(fixed)["new.jpg"] == "dog"


def test_columns_in_another_order_and_only_those_that_are_needed(tmp_path: Path, pets: Path) -> None:
    for header, line in (("new_label,path", "dog,cat/1.jpg"), ("Path, New_Label ", "cat/1.jpg, dog ")):
        fixed = read_corrections(table(tmp_path, line, header=header)).applied_to(open_dataset(pets))
        assert labels(fixed)["cat/1.jpg"] == "dog"
    fixed = read_corrections(table(tmp_path, "X,cat/1.jpg", "no,cat/2.jpg", header="drop,path")).applied_to(
        open_dataset(pets)
    )
    assert "cat/1.jpg" not in fixed.paths
    assert "cat/2.jpg" in fixed.paths


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_save(tmp_path: Path, pets: Path, delimiter: str, encoding: str) -> None:
    text = "\r\n".join(["path,new_label,drop", "cat/1.jpg,dog,", "cat/2.jpg,,X", ",,", ""]).replace(",", delimiter)
    (tmp_path / "corrections.csv").write_bytes(text.encode(encoding))
    fixed = read_corrections(tmp_path / "corrections.csv").applied_to(open_dataset(pets))
    assert labels(fixed) == {"cat/1.jpg": "dog", "cat/3.jpg": "cat", "dog/1.jpg": "dog", "dog/2.jpg": "dog"}


def test_excel_leaves_out_the_empty_cells_at_the_end_of_rows(tmp_path: Path, pets: Path) -> None:
    corrections = table(tmp_path, "cat/1.jpg,cat,dog,0.99,dog,", "cat/2.jpg,cat,dog,0.98", "cat/3.jpg,cat,dog,0.97,dog")
    fixed = read_corrections(corrections).applied_to(open_dataset(pets))
    assert [labels(fixed)[f"cat/{n}.jpg"] for n in (1, 2, 3)] == ["dog", "cat", "dog"]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, st.booleans()), min_size=1, max_size=6))
def test_names_of_any_kind_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, bool]]
) -> None:
    """Commas, quotes, line breaks, markup, other alphabets, marks that change the direction of text."""
    place = tmp_path_factory.mktemp("corrections") / "corrections.csv"
    corrections = Corrections(
        place, tuple(Correction(path, label, label, "0.5", "" if drop else "new", drop) for path, label, drop in rows)
    )
    corrections.write(place)
    assert read_corrections(place) == corrections


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    path = "cat/caf\udce9 <b>&\"'.jpg"
    write_suspects(tmp_path / "corrections.csv", [(path, "cat", "dog", 0.9)])
    assert read_corrections(tmp_path / "corrections.csv").rows == (
        Correction(path, "cat", "dog", "0.90000", "", False),
    )


# What is refused


def test_every_row_that_does_not_fit_is_named_at_once(tmp_path: Path, pets: Path) -> None:
    lines = [
        "cat/11.jpg,cat,dog,0.9,dog,",
        "moved.jpg,cat,dog,0.9,,",
        "cat/1.jpg,cat,dog,0.9,Dog,",
        "cat/1.jpg,cat,dog,0.9,,",
        "cat/2.jpg,bird,dog,0.9,dog,",
        "dog/1.jpg,dog,cat,0.9,cat,x",
    ]
    corrections = table(tmp_path, *lines)
    assert refused(corrections, pets) == (
        f"{corrections}: 2 rows with a path that is not in the data: 'cat/11.jpg', 'moved.jpg'; "
        "1 path with more than one row: 'cat/1.jpg'; "
        "1 row with a new_label that is not a class in the data: 'Dog' for 'cat/1.jpg'; "
        "1 row with a label that is not the one in the data: 'cat/2.jpg': 'bird', in the data 'cat'; "
        "1 row with both a new_label and an x in drop: 'dog/1.jpg'.\n"
        "  Did you mean 'cat/1.jpg'?\n"
        "  Keep one row per image.\n"
        "  Did you mean 'dog'?\n"
        "  Was the table made for other data?\n"
        "  Empty one of the two."
    )


def test_a_class_that_is_new(tmp_path: Path, pets: Path) -> None:
    corrections = table(tmp_path, "cat/1.jpg,cat,dog,0.9,horse,")
    assert refused(corrections, pets) == (
        f"{corrections}: 1 row with a new_label that is not a class in the data: 'horse' for 'cat/1.jpg'.\n"
        "  Expected one of 'cat', 'dog'."
    )


def test_many_rows_are_counted_and_the_first_are_named(tmp_path: Path, pets: Path) -> None:
    corrections = table(tmp_path, *(f"elsewhere/{n}.png,,,,dog," for n in range(5)))
    assert refused(corrections, pets) == (
        f"{corrections}: 5 rows with a path that is not in the data: 'elsewhere/0.png', 'elsewhere/1.png', 'elsewhere/2.png' "
        f"and 2 more.\n  Expected paths relative to {pets}."
    )


def test_a_correction_that_was_made_in_the_data_meanwhile_is_no_error(tmp_path: Path, pets: Path) -> None:
    fixed = read_corrections(table(tmp_path, "dog/1.jpg,cat,dog,0.9,dog,")).applied_to(open_dataset(pets))
    assert labels(fixed)["dog/1.jpg"] == "dog"


def test_files_that_are_no_table_of_corrections(tmp_path: Path) -> None:
    def said(text: str) -> str:
        (tmp_path / "corrections.csv").write_text(text)
        with pytest.raises(BadLabels) as caught:
            read_corrections(tmp_path / "corrections.csv")
        return str(caught.value).removeprefix(str(tmp_path / "corrections.csv"))

    expected = ": is not a table of corrections: expected the columns path and new_label or drop, found "
    hint = "\n  `headstart check DATA --labels --write-corrections corrections.csv` writes one."
    assert said("") == f"{expected}nothing.{hint}"
    assert said("path,label\n1.jpg,cat\n") == f"{expected}'path', 'label'.{hint}"
    assert said("path,drop\n1.jpg,maybe\n2.jpg,x\n") == (
        ": 1 row with a drop that is neither x nor empty: '1.jpg': 'maybe'.\n  Write x, or nothing."
    )
    assert said("path,drop\na,b.jpg,x\n") == (
        ": the row 'a', 'b.jpg', 'x' has 3 cells where the header has 2.\n  Put names that contain a comma in double quotes."
    )
    (tmp_path / "corrections.csv").unlink()
    (tmp_path / "corrections-1.csv").touch()
    with pytest.raises(MissingData) as caught:
        read_corrections(tmp_path / "corrections.csv")
    assert str(caught.value) == (
        f"{tmp_path / 'corrections.csv'}: there is no such table of corrections.\n  Did you mean 'corrections-1.csv'?"
    )
    with pytest.raises(BadLabels, match=r"cannot be read as a table of corrections: Is a directory\.$"):
        read_corrections(tmp_path)


# In the verbs


@pytest.fixture
def warm(own_cache: Path, warm_cache: Path) -> None:
    """Compiled graphs, so that no process has to import torch."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)


@pytest.fixture
def corrections(tmp_path: Path, warm: None) -> Path:
    """Of `photos`: one label changed, one image left out, one label confirmed."""
    rows = [
        ("class0/000.jpg", "class0", "", "", "class1", ""),
        ("class1/003.jpg", "class1", "", "", "", "x"),
        ("class1/004.jpg", "class1", "", "", "class1", ""),
    ]
    write_csv(tmp_path / "corrections.csv", CORRECTIONS_HEADER, rows)
    return tmp_path / "corrections.csv"


def sides(split: Path) -> dict[str, tuple[str, str]]:
    """{path: (label, side)} of a split.csv."""
    return {row["path"]: (row["label"], row["split"]) for row in read_csv(split)}


def listing(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_with_corrections_keeps_them_and_is_reproduced(
    tmp_path: Path, photos: Path, tiny_weights: Path, corrections: Path
) -> None:
    before = listing(photos)
    run = headstart.train(
        photos, out=tmp_path / "run", weights=tiny_weights, recipe=RECIPE, curation=Curation(corrections=corrections)
    )
    assert listing(photos) == before
    rows = {row["path"]: row["label"] for row in read_csv(tmp_path / "run" / "split.csv")}
    assert rows["class0/000.jpg"] == "class1"
    assert "class1/003.jpg" not in rows
    assert (tmp_path / "run" / "corrections.csv").read_bytes() == corrections.read_bytes()
    known = json.loads((tmp_path / "run" / "headstart.json").read_text())
    assert known["provenance"]["corrections"] == {"relabelled": 1, "dropped": 1}
    assert known["provenance"]["data"]["images"] == 41
    card = (tmp_path / "run" / "README.md").read_text()
    assert "- corrected by hand (corrections.csv): 1 label changed, 1 image left out\n" in card
    again = headstart.reproduce(tmp_path / "run", weights=tiny_weights)
    assert (again.same, again.causes) == (True, [])
    assert run.provenance.corrections == CorrectionsRecord(relabelled=1, dropped=1)


def test_a_corrected_image_that_is_gone_is_a_cause_and_no_error(
    tmp_path: Path, tiny_weights: Path, corrections: Path
) -> None:
    data = write_photos(tmp_path / "data")
    headstart.train(
        data, out=tmp_path / "run", weights=tiny_weights, recipe=RECIPE, curation=Curation(corrections=corrections)
    )
    (data / "class0" / "000.jpg").unlink()
    again = headstart.reproduce(tmp_path / "run", weights=tiny_weights)
    assert again.causes[:1] == ["1 image gone: 'class0/000.jpg'"]


def test_a_run_without_corrections_says_so(tmp_path: Path, photos: Path, tiny_weights: Path, warm: None) -> None:
    headstart.train(photos, out=tmp_path / "run", weights=tiny_weights, recipe=RECIPE)
    assert json.loads((tmp_path / "run" / "headstart.json").read_text())["provenance"]["corrections"] is None
    assert not (tmp_path / "run" / "corrections.csv").exists()


def test_a_split_of_corrected_data(tmp_path: Path, photos: Path, tiny_weights: Path, corrections: Path) -> None:
    made = headstart.split(photos, out=tmp_path / "split.csv", curation=Curation(corrections=corrections))
    assert {k: sum(side[k] for side in made.images.values()) for k in ("class0", "class1", "class2")} == {
        "class0": 13,
        "class1": 14,
        "class2": 14,
    }
    headstart.train(
        photos,
        out=tmp_path / "run",
        weights=tiny_weights,
        recipe=RECIPE,
        split=tmp_path / "split.csv",
        curation=Curation(corrections=corrections),
    )
    assert sides(tmp_path / "run" / "split.csv") == sides(tmp_path / "split.csv")
    with pytest.raises(BadSplit) as caught:  # the split was made for the corrected labels
        headstart.train(
            photos, out=tmp_path / "other", weights=tiny_weights, recipe=RECIPE, split=tmp_path / "split.csv"
        )
    assert "class0/000.jpg: 'class1', in the data 'class0'" in str(caught.value)


def test_corrections_on_an_earlier_split(
    tmp_path: Path, photos: Path, tiny_weights: Path, corrections: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the corrections brought is measured on the split that there was before them."""
    split, run = tmp_path / "split.csv", tmp_path / "run"
    assert cli.run(["split", str(photos), "--out", str(split)]) == 0
    words = ["--split", str(split), "--corrections", str(corrections), "--weights-dir", str(tiny_weights)]
    options = ["--backbone", "test_resnet.a", "--head", "lda", "--approach", "linear", "--no-report"]
    with caplog.at_level(logging.INFO, logger="headstart"):
        assert cli.run(["train", str(photos), "--out", str(run), *words, *options]) == 0
    said = "was made before the corrections, which are applied to it: 1 label changed, 1 image left out."
    assert f"{split} {said}" in caplog.messages
    before, after = sides(split), sides(run / "split.csv")
    assert set(before) - set(after) == {"class1/003.jpg"}
    assert after["class0/000.jpg"] == ("class1", before["class0/000.jpg"][1])
    assert {path: after[path] for path in after if path != "class0/000.jpg"} == {
        path: before[path] for path in after if path != "class0/000.jpg"
    }
    again = headstart.reproduce(run, weights=tiny_weights)
    assert (again.same, again.causes) == (True, [])


def test_a_comparison_of_corrected_data(tmp_path: Path, photos: Path, tiny_weights: Path, corrections: Path) -> None:
    headstart.compare(
        photos,
        out=tmp_path / "c",
        recipes="linear",
        backbones="test_resnet.a",
        weights=tiny_weights,
        curation=Curation(corrections=corrections),
    )
    run = tmp_path / "c" / "runs" / "linear-test_resnet.a"
    assert (run / "corrections.csv").read_bytes() == corrections.read_bytes()
    assert sides(run / "split.csv") == sides(tmp_path / "c" / "split.csv")
    assert sides(run / "split.csv")["class0/000.jpg"][0] == "class1"


def test_check_of_corrected_data(photos: Path, corrections: Path) -> None:
    found = headstart.check(photos, curation=Curation(corrections=corrections))
    assert (found.images, found.classes) == (41, {"class0": 13, "class1": 14, "class2": 14})


def test_the_table_that_a_person_edited_is_not_replaced(photos: Path, corrections: Path) -> None:
    with pytest.raises(WriteError) as caught:
        headstart.check(photos, write_corrections=corrections, curation=Curation(corrections=corrections))
    assert str(caught.value) == (
        f"{corrections}: is also the table of corrections to apply, and would be replaced.\n"
        "  Choose another name for --write-corrections, such as corrections-2.csv."
    )


def test_on_the_command_line(
    tmp_path: Path, photos: Path, tiny_weights: Path, corrections: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        str(photos),
        "--out",
        str(tmp_path / "run"),
        "--weights-dir",
        str(tiny_weights),
        "--corrections",
        str(corrections),
    ]
    assert cli.run([*words, "--backbone", "test_resnet.a", "--approach", "linear"]) == 0
    corrections.write_text("path,new_label\nclass0/000.jpg,clas1\n")
    assert cli.run(["split", str(photos), "--out", str(tmp_path / "split.csv"), "--corrections", str(corrections)]) == 1
    assert capsys.readouterr().err.endswith(
        f"BadLabels: {corrections}: 1 row with a new_label that is not a class in the data: 'clas1' for 'class0/000.jpg'.\n"
        "  Did you mean 'class1' or 'class2' or 'class0'?\n"
    )
    assert not (tmp_path / "split.csv").exists()


@pytest.mark.slow
def test_a_correction_that_empties_a_class(
    tmp_path: Path, photos: Path, tiny_weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dropped = [(f"class2/{n:03}.jpg", "class2", "", "", "", "x") for n in range(14)]
    write_csv(tmp_path / "corrections.csv", CORRECTIONS_HEADER, dropped)
    curation = Curation(corrections=tmp_path / "corrections.csv")
    with caplog.at_level(logging.INFO, logger="headstart"):
        run = headstart.train(photos, out=tmp_path / "run", weights=tiny_weights, curation=curation)
    assert run.classifier.classes == ("class0", "class1")
    assert "The corrections leave no image of 'class2'; the class is not used." in caplog.messages


def test_corrections_that_leave_one_class(tmp_path: Path, pets: Path) -> None:
    dropped = [(path, "", "", "", "", "x") for path in open_dataset(pets).paths if path.startswith("dog")]
    write_csv(tmp_path / "corrections.csv", CORRECTIONS_HEADER, dropped)
    corrected = read_corrections(tmp_path / "corrections.csv").applied_to(open_dataset(pets))
    with pytest.raises(BadLabels, match=r"has one class only \('cat': \d+\)") as error:
        require_trainable(corrected)
    assert error.value.hint == "Keep another class as well; left out: 'dog'."


@pytest.mark.parametrize("verb", ["check", "train"])
def test_corrections_that_leave_no_image(
    verb: str, tmp_path: Path, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"{path.relative_to(pets).as_posix()},x" for path in pets.glob("*/*.jpg")]
    file = table(tmp_path, *rows, header="path,drop")
    words = [verb, str(pets), "--corrections", str(file), "--out", str(tmp_path / "out")]
    assert cli.run(words) == 1
    assert capsys.readouterr().err == f"BadLabels: {file}: leaves out all 5 images.\n  Keep some of them.\n"


def test_the_data_set_that_was_given_stays(tmp_path: Path, pets: Path) -> None:
    dataset = open_dataset(pets)
    before = dataset.labels.copy()
    read_corrections(table(tmp_path, "cat/1.jpg,cat,dog,0.9,dog,")).applied_to(dataset)
    assert np.array_equal(dataset.labels, before)
