"""Submissions: the sample filled by name, whatever its format, spelling and order; what does not fit is said."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import headstart
from headstart import cli
from headstart.errors import BadSubmission, DamagedRun, HeadstartError, MissingData, RecipeError, WriteError
from headstart.io.folders import write_manifest
from headstart.kaggle_api.match_columns import classes_of_columns
from headstart.kaggle_api.match_ids import match_ids
from headstart.kaggle_api.submission import (
    Submission,
    SubmissionFormat,
    SubmissionOptions,
    filling_of,
    shape_of,
    submission_rows,
    write_submission,
)
from headstart.model.inference.predictions import Predictions
from headstart.runs.run_folder import RunFolder


def shape(text: str) -> SubmissionFormat:
    """The shape of a sample with that text, without a file."""
    rows = [line.split(",") for line in text.split()]
    columns = list(zip(*rows[1:], strict=True))
    return SubmissionFormat("sample.csv", tuple(rows[0]), 0, columns[0], tuple(columns[1:]))


def predictions(classes: Sequence[str], rows: dict[str, Sequence[float]], **errors: str) -> Predictions:
    """Predictions with these probabilities by path."""
    return Predictions(
        tuple(rows), tuple(classes), np.log(np.array(list(rows.values()))).astype(np.float32), None, errors
    )


def filled(text: str, made: Predictions, prior: Sequence[float] | None = None, **options: object) -> Submission:
    k = len(made.classes)
    return submission_rows(shape(text), made, np.array(prior or [1 / k] * k), **options)  # type: ignore[arg-type]


PETS = predictions(
    ["cat", "dog"], {"test/1.jpg": [0.9, 0.1], "test/2.jpg": [0.25, 0.75], "test/10.jpg": [0.001, 0.999]}
)
LEAVES = predictions(["C", "CL", "D"], {"a.png": [0.5, 0.3, 0.2], "b.png": [0.1, 0.1, 0.8]})


# Ids


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("test/12.jpg", "test/12.jpg"),
        ("12.jpg", "data/test/12.jpg"),
        ("test/12.jpg", "data/test/12.jpg"),
        ("12", "data/test/12.jpg"),
        ("test/12", "data/test/12.jpg"),
        ("images/test/12.jpg", "test/12.jpg"),
        ("12.JPG", "test/12.jpg"),
        ("12.png", "test/12.jpg"),
        ("test\\12.jpg", "data/test/12.jpg"),
        ("./12.jpg", "test/12.jpg"),
        ("cafe\u0301", "test/caf\u00e9.jpg"),
        ("Img_12.v2", "test/img_12.v2.jpeg"),
        ("012", "test/12.jpg"),
        ("12", "test/0012.jpg"),
        ("12.jpg", "test/0012.jpg"),
    ],
)
def test_an_id_finds_its_image(name: str, path: str) -> None:
    others = ["test/1.jpg", "test/112.jpg", "test/120.jpg", "other/x12.jpg"]
    assert match_ids("s", [name], [*others, path]) == {name: path}


@pytest.mark.parametrize("name", ["12", "2.jpg", "test", "12.jpg.txt", "est/112.jpg", ".jpg", "1 12"])
def test_what_is_like_an_id_is_not_it(name: str) -> None:
    assert match_ids("s", [name], ["test/112.jpg", "test/x.jpg"]) == {}


def test_an_exact_name_is_never_lost_to_a_loose_one() -> None:
    paths = ["t/01.jpg", "t/1.jpg", "t/1.png", "t/A.jpg", "t/a.jpg"]
    assert match_ids("s", ["1.png", "01", "1", "a", "A"], paths) == {
        "1.png": "t/1.png",
        "01": "t/01.jpg",
        "1": "t/1.jpg",
        "a": "t/a.jpg",
        "A": "t/A.jpg",
    }


@pytest.mark.parametrize(
    ("ids", "paths", "message"),
    [
        (
            ["1"],
            ["train/1.jpg", "test/1.jpg"],
            "1 ids match several images each; the id '1': train/1.jpg, test/1.jpg.",
        ),
        (["7"], ["07.jpg", "007.jpg"], "1 ids match several images each; the id '7': 07.jpg, 007.jpg."),
        (["IMG"], ["img.png", "Img.jpg"], "1 ids match several images each; the id 'IMG': img.png, Img.jpg."),
        (["01", "001"], ["1.jpg"], "1 images match several ids each; the image '1.jpg': 01, 001."),
    ],
)
def test_an_ambiguity_is_an_error(ids: list[str], paths: list[str], message: str) -> None:
    with pytest.raises(BadSubmission) as caught:
        match_ids("sample.csv", ids, paths)
    assert caught.value.message == f"sample.csv: {message}"


@given(st.permutations(range(12)), st.permutations(range(12)), st.sampled_from(["{}", "{}.jpg", "test/{}", "{:03}"]))
def test_order_decides_nothing(of_images: list[int], of_rows: list[int], style: str) -> None:
    """Each id gets the number of its own image, in every order of images and of rows."""
    rows = {f"data/test/{n}.jpg": [1 - (n + 1) / 100, (n + 1) / 100] for n in of_images}
    ids = [style.format(n) for n in of_rows]
    made = filled("\n".join(["id,label", *(f"{i},0.5" for i in ids)]), predictions(["cat", "dog"], rows))
    assert [row[0] for row in made.rows] == ids
    assert [float(row[1]) for row in made.rows] == pytest.approx([(n + 1) / 100 for n in of_rows], abs=1e-6)
    assert made.warnings() == []


# What a column holds


@pytest.mark.parametrize(
    ("header_and_row", "classes", "options", "format", "what"),
    [
        ("id,label 1,0.5", ["cat", "dog"], {}, "probability", (1,)),
        ("id,label 1,0.5", ["cat", "dog"], {"pos_label": "cat"}, "probability", (0,)),
        ("id,cat 1,0", ["cat", "dog"], {}, "probability", (0,)),
        ("id,cat 1,0.5", ["cats", "dogs"], {}, "probability", (0,)),
        ("id,is_iceberg 1,0.5", ["iceberg", "ship"], {}, "probability", (0,)),
        ("id,has_cactus 1,0.5", ["0", "1"], {}, "probability", (1,)),
        ("id,label 1,0.0", ["0", "1"], {}, "probability", (1,)),
        ("id,label 1,0", ["cat", "dog"], {"submission_format": "probability"}, "probability", (1,)),
        ("id,dog_p 1,0.1", ["bird", "cat", "dog"], {}, "probability", (2,)),
        ("id,y 1,0.1", ["bird", "cat", "dog"], {"pos_label": "cat"}, "probability", (1,)),
        ("id,label 1,0", ["cat", "dog"], {}, "label", ("0", "1")),
        ("id,label 1,0", ["cat", "dog"], {"submission_format": "label", "pos_label": "cat"}, "label", ("1", "0")),
        ("id,diagnosis 1,0", ["0", "1", "2"], {}, "label", ("0", "1", "2")),
        ("id,diagnosis 1,3", ["003", "007", "010"], {}, "label", ("3", "7", "10")),
        ("id,diagnosis 1,003", ["003", "007"], {}, "label", ("003", "007")),
        ("file,species 1,Sugar-beet", ["Black grass", "Sugar beet"], {}, "label", ("Black grass", "Sugar-beet")),
        ("file,species 1,dog 2,new", ["cat", "dog"], {}, "label", ("cat", "dog")),
        ("id,cat,dog 1,0,0", ["cat", "dog"], {}, "columns", (0, 1)),
        ("id,dog,cat 1,0,0", ["cat", "dog"], {}, "columns", (1, 0)),
    ],
)
def test_format(
    header_and_row: str, classes: list[str], options: dict[str, str], format: str, what: tuple[object, ...]
) -> None:
    filling = filling_of(shape(header_and_row), classes, SubmissionOptions(**options))
    assert (filling.format, filling.names if format == "label" else filling.classes) == (format, what)


@pytest.mark.parametrize(
    ("columns", "classes", "places"),
    [
        (["cat", "Cat"], ["Cat", "cat"], (1, 0)),
        (["Sugar beet", "Black-grass"], ["black_grass", "sugar_beet"], (1, 0)),
        (["Status_D", "Status_CL", "Status_C"], ["C", "CL", "D"], (2, 1, 0)),
        (["c10", "c2", "c1"], ["1", "2", "10"], (2, 1, 0)),
        (["1", "0"], ["class0", "class1"], (1, 0)),
        (["02", "01"], ["1", "2"], (1, 0)),
        (["1.0", "0.0"], ["0", "1"], (1, 0)),
        (["dog_prob", "cat_prob"], ["cat", "dog"], (1, 0)),
        (["is_dog", "p(cat)"], ["cat", "dog"], (1, 0)),
        (["healthy", "multiple_diseases", "rust"], ["rust", "healthy", "multiple diseases"], (1, 2, 0)),
        (["\u732b", "\u72ac"], ["\u72ac", "\u732b"], (1, 0)),
    ],
)
def test_columns_are_matched_to_classes_by_name(
    columns: list[str], classes: list[str], places: tuple[int, ...]
) -> None:
    assert classes_of_columns("s", columns, classes) == places


@pytest.mark.parametrize(
    ("text", "classes", "options", "error"),
    [
        (
            "id,cat,dgo 1,0,0",
            ["cat", "dog"],
            {},
            "sample.csv: 1 of its 2 columns are not classes: 'dgo'; 1 of 2 classes have no column: 'dog'.\n"
            "  Did you mean 'dog'? ('dgo')",
        ),
        (
            "id,1.0,2.0 1,0,0",
            ["10", "20"],
            {},
            "sample.csv: 2 of its 2 columns are not classes: '1.0', '2.0'; 2 of 2 classes have no column: '10', '20'.\n"
            "  Did you mean '10'? ('1.0')",
        ),
        (
            "id,cat,dog 1,0,0",
            ["bird", "cat", "dog"],
            {},
            "sample.csv: 1 of 3 classes have no column: 'bird'.\n"
            "  Train with the same class names as the sample's columns.",
        ),
        (
            "id,label 1,0.5",
            ["bird", "cat", "dog"],
            {},
            "sample.csv: its only column 'label' does not name the class of its probabilities, one of 3 (bird, cat, "
            "dog).\n  Give --pos-label CLASS, or --submission-format label for the likeliest class.",
        ),
        (
            "id,label 1,3",
            ["bird", "cat", "dog"],
            {},
            "sample.csv: its column 'label' has integers, and nothing says which of the 3 classes each one is (bird, "
            "cat, dog).\n  Train with these numbers as labels, or give --pos-label CLASS for the probability of one "
            "class.",
        ),
        (
            "id,label 1,doog",
            ["cat", "dog"],
            {},
            "sample.csv: none of the 1 values of its column 'label' is a class: 'doog'; the classes are 'cat', 'dog'.\n"
            "  Did you mean 'dog'?",
        ),
        (
            "id,label 1,",
            ["cat", "dog"],
            {},
            "sample.csv: its column 'label' is empty, so its format is unknown.\n"
            "  Give --submission-format probability or label.",
        ),
        (
            "id,cat,dog 1,0,0",
            ["cat", "dog"],
            {"submission_format": "label"},
            "sample.csv: has 2 columns to fill; this does not fit the format label.\n  Leave out --submission-format.",
        ),
        (
            "id,label 1,0.5",
            ["cat", "dog"],
            {"submission_format": "columns"},
            "sample.csv: has 1 column to fill; this does not fit the format columns.\n"
            "  Use --submission-format probability or label.",
        ),
        (
            "id,label 1,cat",
            ["cat", "dog"],
            {"submission_format": "label", "pos_label": "dog"},
            "pos_label: sample.csv expects the classes themselves.\n  Leave out --pos-label.",
        ),
        (
            "id,label 1,0.5",
            ["cat", "dog"],
            {"pos_label": "dgo"},
            "pos_label: 'dgo' is not a class.\n  Did you mean 'dog'?",
        ),
        (
            "id,label 1,0.5",
            ["cat", "dog"],
            {"submission_format": "lable"},
            "submission_format: 'lable' is unknown; expected one of auto, probability, label, columns.",
        ),
    ],
)
def test_what_the_sample_does_not_say_is_an_error(
    text: str, classes: list[str], options: dict[str, str], error: str
) -> None:
    with pytest.raises(HeadstartError) as caught:
        filling_of(shape(text), classes, SubmissionOptions(**options))
    assert str(caught.value) == error


def test_the_sentence_says_which_class_is_one() -> None:
    said = {text: filling_of(shape(text), ["cat", "dog"]).sentence for text in ("id,label 1,0.5", "id,label 1,0")}
    assert list(said.values()) == [
        "label is the probability of 'dog', the second of the two classes (--pos-label cat selects the other)",
        "label is the likeliest class, 'dog' = 1 (--pos-label cat swaps them; use --submission-format probability if "
        "probabilities are scored)",
    ]


@pytest.mark.parametrize(
    ("text", "classes", "remark"),
    [
        ("id,label 1,0 2,0", ["0", "1"], " (use --submission-format probability if probabilities are scored)"),
        ("id,label 1,0 2,1", ["0", "1"], " (use --submission-format probability if probabilities are scored)"),
        (
            "id,label 1,0 2,0",
            ["1", "2"],
            " (use --submission-format probability if probabilities are scored); the classifier does not know '0'",
        ),
        ("id,label 1,0 2,0", ["1", "2", "3"], "; the classifier does not know '0'"),
        (
            "id,label 1,7 2,9 3,8",
            ["007", "008"],
            " (use --submission-format probability if probabilities are scored); the classifier does not know '9'",
        ),
        ("id,label 1,2 2,0", ["1", "2", "3"], "; the classifier does not know '0'"),
        ("id,label 1,2 2,1", ["1", "2", "3"], ""),
        ("id,label 1,cat", ["cat", "dog"], ""),
    ],
)
def test_a_sample_of_integers_may_want_probabilities_and_may_name_no_class(
    text: str, classes: list[str], remark: str
) -> None:
    filling = filling_of(shape(text), classes)
    assert filling.sentence == f"label is the likeliest class{remark}"
    assert filling.names == tuple(str(int(c)) if c.isdigit() else c for c in classes)


# Rows


def test_probability_of_one_class() -> None:
    made = filled("id,label 10,0.5 1,0.5 2,0.5", PETS)
    assert [row[0] for row in made.rows] == ["10", "1", "2"]
    assert [float(row[1]) for row in made.rows] == pytest.approx([0.999, 0.1, 0.75], abs=1e-6)
    assert (made.missing, made.unreadable, made.extra, made.clipped) == ((), (), (), 0)


def test_probabilities_are_kept_from_zero_and_one() -> None:
    made = filled("id,label 10,0.5 1,0.5 2,0.5", PETS, clip=0.02)
    assert [float(r[1]) for r in made.rows] == pytest.approx([0.98, 0.1, 0.75], abs=1e-6)
    assert made.clipped == 1
    one_of_three = filled("id,D a,0.5 b,0.5", LEAVES, clip=0.25)
    assert [float(r[1]) for r in one_of_three.rows] == pytest.approx([0.25, 0.75], abs=1e-6)


def test_the_label_format_writes_the_likeliest_class_and_clips_nothing() -> None:
    made = filled("id,label 10,cat 1,cat 2,cat", PETS, clip=0.02)
    assert made.rows == (("10", "dog"), ("1", "cat"), ("2", "dog"))
    assert (made.clip, made.clipped) == (0.0, 0)


@pytest.mark.parametrize("clip", [0.0, 0.001, 0.15, 0.3])
def test_with_a_column_for_each_class_rows_sum_to_one(clip: float) -> None:
    made = filled("id,Status_D,Status_C,Status_CL b,0,0,0 a,0,0,0", LEAVES, clip=clip)
    cells = np.array([[float(cell) for cell in row[1:]] for row in made.rows])
    assert cells.sum(axis=1) == pytest.approx([1, 1])
    assert cells.min() >= clip - 1e-9
    assert cells[0].argmax() == 0
    assert cells[1].argmax() == 1


def test_missing_unreadable_and_extra_are_told_and_get_the_prior() -> None:
    seen = predictions(["cat", "dog"], {"t/1.jpg": [0.9, 0.1], "t/9.jpg": [0.5, 0.5]}, **{"t/4.jpg": "truncated"})
    made = filled("id,label 3,0.5 1,0.5 4,0.5", seen, prior=[0.3, 0.7])
    assert [float(row[1]) for row in made.rows] == pytest.approx([0.7, 0.1, 0.7], abs=1e-6)
    assert made.warnings() == [
        "sample.csv: 1 ids have no image; they get the class frequencies of the training set: 3.",
        "sample.csv: 1 ids have an unreadable image; they get the class frequencies of the training set: 4.",
        "sample.csv: 1 images have no id, and are not in the submission: t/9.jpg.",
    ]
    assert made.to_json()["missing"] == ["3"]


def test_if_no_id_has_an_image_that_is_an_error() -> None:
    with pytest.raises(BadSubmission) as caught:
        filled("id,label a,0.5 b,0.5", PETS)
    assert str(caught.value) == (
        "sample.csv: none of its 2 ids (a, b) matches one of the 3 images (test/1.jpg, test/2.jpg, test/10.jpg).\n"
        "  Give the folder with the images that the sample lists."
    )


# The file


def test_a_sample_is_read_and_written_as_it_is(tmp_path: Path) -> None:
    sample, out = tmp_path / "sample.csv", tmp_path / "out.csv"
    sample.write_bytes(b'\xef\xbb\xbf"id";label\r\n"2";0.5\r\n"a;""1""";0.5\r\n\r\n10;0.5\r\n')
    read = shape_of(sample)
    assert (read.header, read.ids, read.delimiter, read.line_end) == (
        ("id", "label"),
        ("2", 'a;"1"', "10"),
        ";",
        "\r\n",
    )
    write_submission(
        out, submission_rows(read, PETS, np.array([0.5, 0.5]), SubmissionOptions(submission_format="label"))
    )
    assert out.read_bytes() == b'id;label\r\n2;dog\r\n"a;""1""";cat\r\n10;dog\r\n'


def test_the_id_column_keeps_its_place(tmp_path: Path) -> None:
    sample, out = tmp_path / "sample.csv", tmp_path / "out.csv"
    sample.write_text("label,image_id\n0,2.jpg\n0,1.jpg\n")
    write_submission(out, submission_rows(shape_of(sample), PETS, np.array([0.5, 0.5])))
    assert out.read_text() == "label,image_id\n1,2.jpg\n0,1.jpg\n"


def test_names_that_are_not_unicode_keep_their_bytes(tmp_path: Path) -> None:
    sample, out = tmp_path / "sample.csv", tmp_path / "out.csv"
    sample.write_bytes(b"id,label\ncaf\xe9,0\n")
    made = predictions(["cat", "dog"], {"t/caf\udce9.jpg": [0.2, 0.8]})
    write_submission(out, submission_rows(shape_of(sample), made, np.array([0.5, 0.5])))
    assert out.read_bytes() == b"id,label\ncaf\xe9,1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows."),
        ("id,label\n", "has no rows."),
        ("id\n1\n", "has only the column 'id', and none to fill."),
        ("id,label\n1,0,0\n", "1 of 1 rows do not have 2 cells like the header; the first is row 2, with 3."),
        ("id,a,a\n1,0,0\n", "has the column 'a' more than once."),
        ("id,label\n1,0\n1,0\n", "has the id '1' more than once in its id column 'id'."),
        ("id,label\n,0\n", "has an empty id in its id column 'id'."),
        (
            "id,label\n1," + "x" * 140_000 + "\n",
            "is not a valid CSV table: field larger than field limit (131072).",
        ),
    ],
)
def test_a_sample_that_is_none_is_refused(tmp_path: Path, text: str, message: str) -> None:
    sample = tmp_path / "sample.csv"
    sample.write_text(text)
    with pytest.raises(BadSubmission) as caught:
        shape_of(sample)
    assert caught.value.message == f"{sample}: {message}"


def test_a_sample_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "sample_submission.csv").write_text("id,label\n1,0\n")
    with pytest.raises(MissingData, match="there is no such file"):
        shape_of(tmp_path / "sample_submision.csv")
    with pytest.raises(MissingData, match="is a folder, not a file"):
        shape_of(tmp_path)


# From a run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path, warm_cache: Path) -> Path:
    """A run on `photos`."""
    out = tmp_path_factory.mktemp("submission") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(shutil.copytree(warm_cache, out.parent / "cache")))
        headstart.train(
            photos,
            out=out,
            weights=tiny_weights,
            recipe=headstart.read_recipe("default", approach="linear"),
            report=False,
        )
    return out


@pytest.fixture
def place(tmp_path: Path, photos: Path, own_cache: Path, warm_cache: Path) -> Path:
    """A folder with test images in `test`, one of them damaged, and a sample submission."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    (tmp_path / "test").mkdir()
    for n, image in enumerate(sorted(photos.rglob("00*.jpg"))[::3]):
        shutil.copy(image, tmp_path / "test" / f"{n}.jpg")
    (tmp_path / "test" / "5.jpg").write_bytes((tmp_path / "test" / "5.jpg").read_bytes()[:900])
    rows = [f"{n},0.33,0.33,0.34" for n in (3, 0, 77, 5, 1, 4)]
    (tmp_path / "sample.csv").write_text("\n".join(["id,p_class2,p_class0,p_class1", *rows]) + "\n")
    return tmp_path


def test_predict_fills_a_sample(run: Path, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = RunFolder(run).classifier.calibration.clip
    assert 0 < clip <= 1 / 6
    assert f"probabilities at or above {clip:.2g}" in (run / "README.md").read_text()
    made = headstart.predict(
        run, place / "test", out=place / "out.csv", submission=SubmissionOptions(sample_submission=place / "sample.csv")
    )
    rows = list(csv.reader(io.StringIO((place / "out.csv").read_text())))
    assert rows[0] == ["id", "p_class2", "p_class0", "p_class1"]
    assert [row[0] for row in rows[1:]] == ["3", "0", "77", "5", "1", "4"]
    by_path = dict(zip(made.predictions.paths, made.predictions.probabilities, strict=True))
    for name, *cells in rows[1:]:
        assert sum(map(float, cells)) == pytest.approx(1)
        assert min(map(float, cells)) >= clip * (1 - 1e-6)
        if name not in ("77", "5"):
            expected = by_path[(place / "test" / f"{name}.jpg").as_posix()][[2, 0, 1]]
            assert [float(cell) for cell in cells] == pytest.approx(expected, abs=3 * clip)
    assert rows[3][1:] == rows[4][1:]  # no image, and an unreadable one: the classes' frequencies
    assert "1 ids have no image" in caplog.text
    assert "1 ids have an unreadable image" in caplog.text
    assert "images have no id" in caplog.text
    document = made.to_json()["submission"]
    assert (document["rows"], document["format"], document["missing"], document["unreadable"]) == (
        6,
        "columns",
        ["77"],
        ["5"],
    )
    assert made.table().endswith(
        f"6 rows written to {place / 'out.csv'}: each of the 3 columns is the probability of one class (p_class2 = "
        f"class2, p_class0 = class0, p_class1 = class1)"
    )


def test_shuffled_images_and_a_shuffled_sample_give_the_same_submission(run: Path, place: Path) -> None:
    header, *lines = (place / "sample.csv").read_text().splitlines()
    images = sorted((place / "test").iterdir())
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        (place / "sample.csv").write_text("\n".join([header, *rng.permutation(lines)]) + "\n")
        given = [images[i] for i in rng.permutation(len(images))]
        headstart.predict(
            run, *given, out=place / "out.csv", submission=SubmissionOptions(sample_submission=place / "sample.csv")
        )
        found.append(sorted((place / "out.csv").read_text().splitlines()[1:]))
    assert found[0] == found[1] == found[2]


def test_a_table_beside_the_images_does_not_matter(run: Path, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = headstart.predict(run, place / "test").predictions
    names = sorted(Path(path).name for path in before.paths)
    rows = [f"{name},class{n % 2}" for n, name in enumerate([*names, "gone.jpg"])]
    (place / "test" / "labels.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    caplog.clear()
    after = headstart.predict(run, place / "test").predictions
    assert (after.paths, after.errors) == (before.paths, before.errors)
    assert "labels" not in caplog.text


def test_images_may_be_in_an_archive(run: Path, place: Path) -> None:
    archive = Path(shutil.make_archive(str(place / "test"), "zip", place / "test"))
    submissions = []
    for images in (place / "test", archive):
        headstart.predict(
            run, images, out=place / "out.csv", submission=SubmissionOptions(sample_submission=place / "sample.csv")
        )
        submissions.append((place / "out.csv").read_bytes())
    assert submissions[0] == submissions[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"clip": "0.5"},
            RecipeError,
            "clip: '0.5' is not a valid lower bound; expected auto, none, or a number from 0",
        ),
        ({"clip": "much"}, RecipeError, "clip: 'much' is not a valid lower bound"),
        ({"out": None}, RecipeError, "sample_submission: no output file for the filled"),
        ({"sample_submission": None, "clip": "none"}, RecipeError, "clip: applies to submissions only"),
        (
            {"sample_submission": None, "submission_format": "label"},
            RecipeError,
            "submission_format: applies to submissions only",
        ),
    ],
)
def test_options_that_cannot_work(
    run: Path, place: Path, options: dict[str, str | None], error: type[HeadstartError], message: str
) -> None:
    given = {"out": place / "out.csv", "sample_submission": place / "sample.csv", **options}
    out = given.pop("out")
    with pytest.raises(error, match=message):
        headstart.predict(run, place / "test", out=out, submission=SubmissionOptions(**given))  # type: ignore[arg-type]
    assert not (place / "out.csv").exists()


def test_the_sample_itself_is_not_overwritten(run: Path, place: Path) -> None:
    sample = place / "sample.csv"
    with pytest.raises(WriteError, match="is the sample submission itself"):
        headstart.predict(run, place / "test", out=sample, submission=SubmissionOptions(sample_submission=sample))


def test_a_misspelt_sample_is_named_although_there_is_an_output_already(run: Path, place: Path) -> None:
    (place / "out.csv").write_text("id,label\n")
    options = SubmissionOptions(sample_submission=place / "smaple.csv")
    with pytest.raises(MissingData, match=r"smaple\.csv: there is no such file\.\n  Did you mean 'sample\.csv'\?"):
        headstart.predict(run, place / "test", out=place / "out.csv", submission=options)


def test_on_the_command_line(run: Path, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = f"predict {run} {place / 'test'} --out {place / 'out.csv'} --sample-submission {place / 'sample.csv'}"
    assert cli.run(shlex.split(f"{words} --clip none --json")) == 0
    assert json.loads(capsys.readouterr().out)["submission"]["clip"] == 0


def test_a_run_without_a_bound_is_read_and_submits_as_it_is(
    run: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is 0 there."""
    old = Path(shutil.copytree(run, place / "old"))
    known = json.loads((old / "headstart.json").read_text())
    known["calibration"]["clip"] = 0.0
    (old / "headstart.json").write_text(json.dumps(known))
    write_manifest(old)
    assert headstart.load_classifier(old).calibration.clip == 0
    made = headstart.predict(
        old, place / "test", out=place / "out.csv", submission=SubmissionOptions(sample_submission=place / "sample.csv")
    )
    assert made.submission is not None
    assert made.submission.clipped == 0
    assert "has no clipping bound" in caplog.text


@pytest.mark.parametrize("value", [-0.1, 0.4, 1e30, True, "x", [], None])
def test_a_bound_that_cannot_be_is_a_damaged_run(run: Path, tmp_path: Path, value: object) -> None:
    old = shutil.copytree(run, tmp_path / "old")
    known = json.loads((old / "headstart.json").read_text())
    (old / "headstart.json").write_text(json.dumps({**known, "calibration": {**known["calibration"], "clip": value}}))
    write_manifest(old)
    with pytest.raises(DamagedRun):
        headstart.load_classifier(old)
