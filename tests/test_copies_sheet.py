"""What is taken for copies is shown to people, in a page and a table; pairs that they refuse are copies no more."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

import headstart
from conftest import draw, write_photos
from headstart import Recipe, cli
from headstart.data.copies import Copies
from headstart.data.curation import Curation
from headstart.data.duplicates import merge_groups
from headstart.data.findings import Finding
from headstart.data.not_copies import (
    COPIES_HEADER,
    CopyRow,
    NotCopies,
    copy_row,
    copy_rows,
    doubted_rows,
    read_not_copies,
    write_copies,
)
from headstart.data.open_dataset import open_dataset
from headstart.errors import BadCopies, DataError, MissingData, WriteError
from headstart.io.files import read_csv
from headstart.reports.copies_page import MOST_PAIRS, CopiesSheet, copies_page, shown_first
from headstart.reports.run_page import report_page
from headstart.reports.sections import copy_evidence, group_evidence
from headstart.samples.scenes import render
from test_report import HOSTILE, Reader, made

RECIPE = Recipe(backbone="test_resnet.a", head="lda", approach="linear")
NEAR = CopyRow("cat/1.jpg", "dog/2.jpg", "cat", "dog", "near", "0.00312")
SAME = CopyRow("cat/1.jpg", "cat/3.jpg", "cat", "cat", "same_file", "0.00000")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Empty files in two class folders: the table knows names only."""
    for name in ("cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/1.jpg", "dog/2.jpg"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pets" / name).touch()
    return tmp_path / "pets"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 scenes in three classes. forest/000 has a mirrored copy, street/000 the same file again, and forest/001 a mirrored
    copy among the streets."""
    folder, rng = tmp_path_factory.mktemp("copies") / "scenes", np.random.default_rng(0)
    for kind in ("buildings", "forest", "street"):
        (folder / kind).mkdir(parents=True)
        for n in range(12):
            Image.fromarray(render(kind, rng, 120)).save(folder / kind / f"{n:03}.jpg", quality=90)
    for name, copy in (("forest/000.jpg", "forest/mirrored.jpg"), ("forest/001.jpg", "street/mirrored.jpg")):
        ImageOps.mirror(Image.open(folder / name)).save(folder / copy, quality=90)
    shutil.copy(folder / "street" / "000.jpg", folder / "street" / "again.jpg")
    return folder


def table(folder: Path, *lines: str, header: str = ",".join(COPIES_HEADER)) -> Path:
    path = folder / "not-copies.csv"
    path.write_text("\n".join([header, *lines, ""]))
    return path


def refused(path: Path, data: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_not_copies(path).checked(open_dataset(data))
    return str(caught.value)


def sheet(pairs: list[CopyRow], doubted: tuple[CopyRow, ...] = (), **more: object) -> CopiesSheet:
    values = {"files": {}, "sets": {}, "limit": 0.014, "table": "checks-copies.csv", **more}
    return CopiesSheet("pets", pairs, doubted, **values)  # type: ignore[arg-type]


# The table


def test_rows_say_what_speaks_for_a_pair(pets: Path) -> None:
    data = open_dataset(pets)
    pairs_M2 = np.array([[0, 1], [0, 2], [1, 4]])
    copies = Copies(
        pairs_M2,
        np.array([0, 0, 0.0031249]),
        np.array([True, True, False]),
        merge_groups(5, pairs_M2),
        doubted_K2=np.array([[2, 3]]),
    )
    assert copy_rows(copies, data, ["s", "s", "t", "u", "v"]) == [
        CopyRow("cat/1.jpg", "cat/2.jpg", "cat", "cat", "same_file", "0.00000"),
        CopyRow("cat/1.jpg", "cat/3.jpg", "cat", "cat", "same_pixels", "0.00000"),
        CopyRow("cat/2.jpg", "dog/2.jpg", "cat", "dog", "near", "0.00312"),
    ]
    assert list(doubted_rows(copies, data)) == [CopyRow("cat/3.jpg", "dog/1.jpg", "cat", "dog", "near", "")]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(NAMES, NAMES, NAMES, st.booleans()), min_size=1, max_size=6))
def test_names_of_any_kind_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, str, bool]]
) -> None:
    place = tmp_path_factory.mktemp("copies") / "copies.csv"
    pairs = [CopyRow(path, copy, label, label, "near", "0.00312", no) for path, copy, label, no in rows]
    write_copies(place, pairs)
    assert read_not_copies(place) == NotCopies(place, tuple(pair for pair in pairs if pair.refused))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_what_spreadsheets_save(tmp_path: Path, delimiter: str, encoding: str) -> None:
    text = "\r\n".join(["Copy,path,not_copies ", "b.jpg,a.jpg,X", "c.jpg,a.jpg,", "d.jpg,a.jpg", ",,", ""]).replace(
        ",", delimiter
    )
    (tmp_path / "table.csv").write_bytes(text.encode(encoding))
    assert read_not_copies(tmp_path / "table.csv").rows == (CopyRow("a.jpg", "b.jpg", refused=True),)


def test_a_table_in_which_nothing_was_done_does_nothing(tmp_path: Path, pets: Path) -> None:
    write_copies(tmp_path / "copies.csv", [SAME, NEAR])
    assert (tmp_path / "copies.csv").read_text() == (
        "path,copy,label,copy_label,evidence,difference,not_copies\n"
        "cat/1.jpg,cat/3.jpg,cat,cat,same_file,0.00000,\n"
        "cat/1.jpg,dog/2.jpg,cat,dog,near,0.00312,\n"
    )
    copies = Copies(np.array([[0, 1]]), np.array([0.01]), np.array([False]), np.array([0, 0, 2]))
    for nothing in (read_not_copies(tmp_path / "copies.csv"), read_not_copies(None)):
        assert not nothing
        assert nothing.checked(open_dataset(pets)).applied_to(copies, ("a", "b", "c"), ("s", "t", "u")) is copies


def test_refused_pairs_are_copies_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """Neither are the pairs of files that are identical to one of the two."""
    pairs_M2 = np.array([[0, 1], [0, 2], [1, 2], [3, 4]])
    copies = Copies(pairs_M2, np.array([0, 0.01, 0.01, 0.01]), np.arange(4) < 1, merge_groups(6, pairs_M2))
    paths, sha256s = ("a", "a2", "b", "c", "d", "e"), ("s", "s", "t", "u", "v", "w")
    table = NotCopies(Path("t.csv"), (CopyRow("b", "a", refused=True), CopyRow("a", "gone", refused=True)))
    with caplog.at_level(logging.INFO, logger="headstart"):
        left = table.applied_to(copies, paths, sha256s)
    assert left.pairs_M2.tolist() == [[0, 1], [3, 4]]
    assert left.groups_N.tolist() == [0, 0, 2, 3, 3, 5]
    assert caplog.messages == ["Pairs marked as not copies in t.csv: 1."]


def test_pairs_that_others_hold_together_are_named(caplog: pytest.LogCaptureFixture) -> None:
    pairs_M2 = np.array([[0, 1], [0, 2], [1, 2]])
    copies = Copies(pairs_M2, np.full(3, 0.01), np.zeros(3, bool), np.zeros(3, np.int64))
    NotCopies(Path("t.csv"), (CopyRow("a", "b", refused=True),)).applied_to(copies, "abc", "stu")
    assert caplog.messages[-1:] == ["t.csv: other copies still keep some of these pairs together: a and b."]


def test_what_does_not_fit_is_refused(tmp_path: Path, pets: Path) -> None:
    place = table(tmp_path, "cat/11.jpg,dog/1.jpg,,,,,x", "cat/1.jpg,moved.jpg,,,,,x", "old.jpg,older.jpg,,,,,")
    assert refused(place, pets) == (
        f"{place}: 2 rows with a path that is not in the data: 'cat/11.jpg', 'moved.jpg'.\n  Did you mean 'cat/1.jpg'?"
    )
    assert refused(table(tmp_path, "cat/1.jpg,cat/1.jpg,,,,,x"), pets) == (
        f"{place}: 1 row with the same path twice: 'cat/1.jpg'.\n  A pair needs two different images."
    )
    pair = NotCopies(place, (CopyRow("a", "b", refused=True),))
    with pytest.raises(BadCopies) as caught:
        pair.check_files(("a", "b"), ("s", "s"))
    assert str(caught.value) == (
        f"{place}: 1 pair with an x in not_copies, but with the same bytes in both files: 'a' and 'b'.\n"
        "  The same file is always kept together; --corrections can leave one of the two out."
    )


def test_files_that_are_no_table_of_copies(tmp_path: Path) -> None:
    place = tmp_path / "not-copies.csv"

    def said(text: str) -> str:
        place.write_text(text)
        with pytest.raises(BadCopies) as caught:
            read_not_copies(place)
        return str(caught.value).removeprefix(str(place))

    expected = ": is not a table of copies: expected the columns path, copy and not_copies, found "
    hint = "\n  `headstart check DATA --out checks.csv` writes one, checks-copies.csv."
    assert said("") == f"{expected}nothing.{hint}"
    assert said("path,label\n1.jpg,cat\n") == f"{expected}'path', 'label'.{hint}"
    assert said("path,copy,not_copies\n1.jpg,2.jpg,perhaps\n") == (
        ": 1 row with a not_copies that is neither x nor empty: '1.jpg': 'perhaps'.\n  Write x, or nothing."
    )
    place.unlink()
    with pytest.raises(MissingData) as caught:
        read_not_copies(place)
    assert caught.value.message == f"{place}: there is no such table of copies."


# The page


@pytest.mark.parametrize(
    ("row", "limit", "words"),
    [
        (SAME, 0.014, "same file"),
        (replace(SAME, evidence="same_pixels"), 0.014, "same pixels"),
        (NEAR, 0.014, "differs by 0.3\u202f% (limit in this data: 1.4\u202f%)"),
        (NEAR, 0.002, "differs by 0.3\u202f%, but the fine details agree (limit without them: 0.2\u202f%)"),
        (NEAR, 0.0, "differs by 0.3\u202f%"),
        (replace(NEAR, difference="0.00004"), 0.0, "differs by less than 0.1\u202f%"),
        (replace(NEAR, difference=""), 0.014, "as similar as copies are"),
    ],
)
def test_evidence_in_words(row: CopyRow, limit: float, words: str) -> None:
    assert copy_evidence(row, limit) == words


def test_the_page_has_each_pair_and_makes_no_request(tmp_path: Path) -> None:
    draw(0, 1).save(tmp_path / "1.jpg")
    files = dict.fromkeys(("cat/1.jpg", "cat/3.jpg"), tmp_path / "1.jpg")
    page = copies_page(
        sheet([SAME, NEAR], (replace(NEAR, copy="dog/9.jpg", difference=""),), files=files, sets={"dog/2.jpg": "test"})
    )
    reader = Reader(page)
    text = " ".join(reader.text.split())
    assert "2 pairs of copies · 1 doubted" in text
    assert "cat cat/1.jpg cat cat/3.jpg same file" in text
    assert "cat cat/1.jpg no image dog test dog/2.jpg different labels differs by" in text
    assert text.index("same file") < text.index("differs by") < text.index("treated as different images")
    assert text.index("treated as different images") < text.index("dog/9.jpg different labels as similar as copies are")
    assert page.count('class="mark"') == 2
    assert [image["alt"] for image in reader.all("img")] == ["cat/1.jpg", "cat/3.jpg", "cat/1.jpg", "cat/1.jpg"]
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in reader.all("img"))
    policy = next(a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; ")
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[a-z]+:""", page)
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert "An estimated" not in text
    assert "Judging by the labels, an estimated 0.4\u202f% of these pairs are wrong." in copies_page(
        sheet([NEAR], false_share=0.004)
    )


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    rows = [CopyRow(name, f"b/{name}", name, "cat", "near", "0.01") for name in HOSTILE]
    reader = Reader(copies_page(replace(sheet(rows, tuple(rows)), title=HOSTILE[0], table=HOSTILE[3])))
    assert len(reader.all("script")) == 1
    assert not reader.all("img")
    for name in HOSTILE:
        assert name.replace("\u202e", "\\u202e").replace("\n", "\\n") in reader.text


def test_of_many_pairs_the_first_are_shown_and_those_with_two_labels() -> None:
    rows = [replace(SAME, copy=f"cat/{n}.jpg") for n in range(MOST_PAIRS + 50)]
    rows[-1] = NEAR
    assert shown_first(rows, 3) == [rows[0], rows[1], NEAR]
    text = " ".join(Reader(copies_page(sheet(rows))).text.split())
    assert text.count("same file") == MOST_PAIRS - 1  # one pair is another
    assert (
        "300 of 350 pairs are shown: those with different labels, and the first of the others. "
        "checks-copies.csv lists all of them."
    ) in text
    assert "300 of 350 pairs are shown: the first of them." in copies_page(sheet([SAME] * 350))
    assert "100 of 350 pairs are shown: the first of those with different labels.</p>" in copies_page(
        sheet([], tuple([NEAR] * 350))
    )


# What `check` writes


def found(made: headstart.verbs.check.CheckResult) -> dict[str, Finding]:
    return {finding.check: finding for finding in made.findings}


def test_check_writes_a_page_and_a_table(scenes: Path, tmp_path: Path) -> None:
    checked = headstart.check(scenes, out=tmp_path / "checks.csv")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checks-copies.csv", "checks-copies.html", "checks.csv"]
    rows = read_csv(tmp_path / "checks-copies.csv")
    assert [(r["path"], r["copy"], r["evidence"]) for r in rows][:1] == [
        ("street/000.jpg", "street/again.jpg", "same_file")
    ]
    assert {(r["path"], r["copy"], r["evidence"]) for r in rows[1:]} == {
        ("forest/000.jpg", "forest/mirrored.jpg", "near"),
        ("forest/001.jpg", "street/mirrored.jpg", "near"),
    }
    assert [(r["label"], r["copy_label"]) for r in rows if r["copy"] == "street/mirrored.jpg"] == [("forest", "street")]
    assert checked.copies_page == str(tmp_path / "checks-copies.html")
    assert checked.table().splitlines()[-1] == f"Copies side by side: {tmp_path / 'checks-copies.html'}"
    reader = Reader((tmp_path / "checks-copies.html").read_text())
    assert len(reader.all("img")) == 6
    assert "headstart train" in reader.text
    by_name = found(checked)
    assert "label_conflict" not in by_name
    assert by_name["possible_label_conflict"].paths == ("forest/001.jpg", "street/mirrored.jpg")
    assert ["forest/000.jpg", "forest/mirrored.jpg"] in checked.groups


def test_without_copies_nothing_is_written_and_an_old_sheet_goes(scenes: Path, tmp_path: Path) -> None:
    data, tmp_path = tmp_path / "data", tmp_path / "out"
    shutil.copytree(scenes, data, ignore=shutil.ignore_patterns("mirrored.jpg", "again.jpg"))
    tmp_path.mkdir()
    write_copies(tmp_path / "checks-copies.csv", [NEAR])
    (tmp_path / "checks-copies.html").write_text(copies_page(sheet([NEAR])))
    assert headstart.check(data, out=tmp_path / "checks.csv").copies_page == ""
    assert [p.name for p in tmp_path.iterdir()] == ["checks.csv"]


def test_what_somebody_filled_in_is_not_replaced(photos: Path, tmp_path: Path) -> None:
    out, page, table = (tmp_path / name for name in ("checks.csv", "checks-copies.html", "checks-copies.csv"))

    def said(curation: Curation = Curation()) -> str:
        with pytest.raises(WriteError) as caught:
            headstart.check(photos, out=out, curation=curation)
        assert not out.exists()
        return str(caught.value)

    write_copies(table, [replace(NEAR, refused=True)])
    assert said() == (
        f"{table}: has been edited, and would be replaced.\n"
        f"  Apply them with --not-copies {table}, and choose another --out, such as checks-2.csv."
    )
    assert (
        said(Curation(not_copies=table))
        == f"{table}: is an input file, and would be replaced.\n  Choose another --out."
    )
    table.write_text("mine\n")
    assert said().startswith(
        f"{table}: exists and was not written by this command, so it is left alone.\n  Choose another --out.\n"
    )
    table.unlink()
    page.write_text("<p>mine</p>")
    assert said() == (
        f"{page}: exists and was not written by this command, so it is left alone.\n  Choose another --out."
    )


def test_two_tables_under_one_name(photos: Path, tmp_path: Path) -> None:
    for name in ("checks.csv", "checks-copies.csv"):
        with pytest.raises(WriteError) as caught:
            headstart.check(photos, out=tmp_path / "checks.csv", write_corrections=tmp_path / name)
        assert str(caught.value) == (
            f"{tmp_path / name}: is also written by --out.\n  Choose another name for --write-corrections."
        )
    assert not list(tmp_path.iterdir())


# Given back


def marked(checks: Path, copy: str, place: Path) -> Path:
    """The table beside checks.csv with an x for one pair, saved elsewhere."""
    rows = [CopyRow(**{k: row[k] for k in COPIES_HEADER[:-1]}) for row in read_csv(checks)]
    write_copies(place, [replace(row, refused=row.copy == copy) for row in rows])
    return place


def test_a_pair_that_is_refused_is_no_copy_in_any_verb(scenes: Path, tmp_path: Path, tiny_weights: Path) -> None:
    headstart.check(scenes, out=tmp_path / "checks.csv")
    no = marked(tmp_path / "checks-copies.csv", "street/mirrored.jpg", tmp_path / "no.csv")
    again = headstart.check(scenes, out=tmp_path / "again.csv", curation=Curation(not_copies=no))
    assert "possible_label_conflict" not in found(again)
    assert {row["copy"] for row in read_csv(tmp_path / "again-copies.csv")} == {
        "street/again.jpg",
        "forest/mirrored.jpg",
    }
    headstart.split(scenes, out=tmp_path / "split.csv", curation=Curation(not_copies=no))
    run = tmp_path / "run"
    headstart.train(scenes, out=run, recipe=RECIPE, weights=tiny_weights, curation=Curation(not_copies=no))
    assert [row["copy"] for row in read_csv(run / "not_copies.csv")] == ["street/mirrored.jpg"]
    assert {row["copy"] for row in read_csv(run / "copies.csv")} == {"street/again.jpg", "forest/mirrored.jpg"}
    known = json.loads((run / "headstart.json").read_text())["provenance"]["copies"]
    assert known["refused"] == 1
    assert "- marked as not copies (not_copies.csv): 1 pair of images\n" in (run / "README.md").read_text()
    page = (run / "report.html").read_text()
    assert '<p class="note">same file</p>' in page
    near = next(copy_row(row) for row in read_csv(run / "copies.csv") if row["evidence"] == "near")
    assert f'<p class="note">{copy_evidence(near, known["limit"])}</p>' in page
    headstart.report(run, out=tmp_path / "report.html", heat=False)
    assert '<p class="note">same file</p>' in (tmp_path / "report.html").read_text()
    made_again = headstart.reproduce(run, weights=tiny_weights)
    assert (made_again.same, made_again.causes) == (True, [])


def test_the_same_file_stays_a_copy(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    headstart.check(scenes, out=tmp_path / "checks.csv")
    no = marked(tmp_path / "checks-copies.csv", "street/again.jpg", tmp_path / "no.csv")
    capsys.readouterr()
    assert cli.run(["split", str(scenes), "--out", str(tmp_path / "split.csv"), "--not-copies", str(no)]) == 1
    assert capsys.readouterr().err.endswith(
        f"BadCopies: {no}: 1 pair with an x in not_copies, but with the same bytes in both files: 'street/000.jpg' and "
        "'street/again.jpg'.\n  The same file is always kept together; --corrections can leave one of the two out.\n"
    )
    assert not (tmp_path / "split.csv").exists()


@pytest.mark.slow
def test_a_comparison_hands_them_on(tmp_path: Path, tiny_weights: Path) -> None:
    data = write_photos(tmp_path / "data")
    no = table(tmp_path, "class0/000.jpg,class0/001.jpg,,,,,x")
    headstart.compare(
        data,
        out=tmp_path / "c",
        recipes="linear",
        backbones="test_resnet.a",
        weights=tiny_weights,
        curation=Curation(not_copies=no),
    )
    kept = tmp_path / "c" / "runs" / "linear-test_resnet.a" / "not_copies.csv"
    assert [(row["path"], row["copy"]) for row in read_csv(kept)] == [("class0/000.jpg", "class0/001.jpg")]


def test_an_image_that_was_left_out_may_be_in_the_table(pets: Path, tmp_path: Path) -> None:
    """Corrections and refused pairs are given together; the pair is about an image that is not there any more."""
    refused = read_not_copies(table(tmp_path, "cat/1.jpg,cat/2.jpg,,,,,x")).checked(open_dataset(pets))
    refused.check_files(("cat/2.jpg",), ("s",))
    assert not refused.among(("cat/2.jpg",))


# The report


def test_groups_of_a_report_say_why() -> None:
    groups = (("a", "b"), ("c", "d", "e"), ("f", "g"))
    report = replace(
        made(),
        groups=groups,
        pairs=(
            CopyRow("a", "b", evidence="near", difference="0.00312"),
            CopyRow("c", "d", evidence="same_file"),
            CopyRow("c", "e", evidence="near", difference="0.002"),
            CopyRow("d", "e", evidence="near", difference="0.01"),
        ),
    )
    assert group_evidence(report, groups) == [
        "differs by 0.3\u202f%",
        "3 pairs: 1 with the same file, 2 near, 0.2\u202f% to 1.0\u202f% different",
        "a declared group",
    ]
    assert "3 pairs: 1 with the same file" in report_page(report)
    assert group_evidence(replace(report, pairs=None), groups) == ["", "", ""]
