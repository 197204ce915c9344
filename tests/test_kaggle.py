"""From a slug to a checked folder, and with --train to a submission: the real client against a Kaggle on this machine."""

from __future__ import annotations

import csv
import io
import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import headstart
from headstart import cli
from headstart.errors import (
    BadArchive,
    BadLabels,
    MissingData,
    MissingExtra,
    MissingRun,
    NoCredentials,
    NotAllowed,
    RemoteError,
    UnknownSlug,
    Unreachable,
    WriteError,
)
from headstart.io.files import read_csv
from headstart.kaggle_api.client import Slug, parse_slug
from headstart.kaggle_api.submission import SubmissionOptions
from headstart.model.backbones.weights_source import WeightsSource
from headstart.training.recipe import Recipe
from kaggle_server import (
    DATASET,
    KEY,
    REDUX,
    TOKEN,
    USER,
    Competition,
    KaggleServer,
    cats_dogs_competition,
    drawn_competition,
    drawn_dataset,
    kaggle_server,
    log_loss,
    zipped,
)

PAGE = f"https://www.kaggle.com/competitions/{REDUX}"
PLACES = (
    "\n  Create a token at https://www.kaggle.com/settings/api and put it into KAGGLE_API_TOKEN or "
    "~/.kaggle/access_token, or put a kaggle.json from there into ~/.kaggle (or KAGGLE_CONFIG_DIR)."
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[KaggleServer]:
    """A running server with a competition and a dataset; the client is pointed to it, and the current folder is empty."""
    with kaggle_server(drawn_competition(), drawn_dataset()) as running:
        for name, value in {**running.environment, "KAGGLE_CONFIG_DIR": str(tmp_path / "no-config")}.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "work").mkdir()
        monkeypatch.chdir(tmp_path / "work")
        yield running


@pytest.fixture
def logged_out(server: KaggleServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home folder without credentials, and no others."""
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def warm(own_cache: Path, warm_cache: Path) -> Path:
    """This test's own cache, with the tiny backbones' graphs in it."""
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    return own_cache


# Slugs


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("dogs-vs-cats", Slug("dogs-vs-cats")),
        (" dogs-vs-cats/ ", Slug("dogs-vs-cats")),
        ("https://www.kaggle.com/competitions/dogs-vs-cats", Slug("dogs-vs-cats")),
        ("https://www.kaggle.com/competitions/dogs-vs-cats/data?select=train.zip", Slug("dogs-vs-cats")),
        ("https://www.kaggle.com/c/dogs-vs-cats/overview/evaluation#x", Slug("dogs-vs-cats")),
        ("kaggle.com/c/dogs-vs-cats", Slug("dogs-vs-cats")),
        ("ada/cat-and-dog", Slug("cat-and-dog", "ada")),
        ("ada/cat-and-dog/versions/3", Slug("cat-and-dog", "ada", 3)),
        ("https://www.kaggle.com/datasets/ada/cat_and_dog", Slug("cat_and_dog", "ada")),
        ("https://www.kaggle.com/datasets/ada/cats/versions/12", Slug("cats", "ada", 12)),
        ("https://www.kaggle.com/datasets/ada/cats/data", Slug("cats", "ada")),
        ("https://www.kaggle.com/ada/cats", Slug("cats", "ada")),
    ],
)
def test_slugs(text: str, slug: Slug) -> None:
    assert parse_slug(text) == slug


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../etc",
        "a/b/c",
        "/etc/passwd",
        "a b",
        "-x",
        "https://example.org/c/cats",
        "ada/..",
        "a\nb",
        "https://kaggle.com/",
        "https://www.kaggle.com/code/ada/cats-with-a-cnn",
        "https://www.kaggle.com/datasets/ada",
        "https://www.kaggle.com/models/ada/net",
        "https://www.kaggle.com/organizations/ada/datasets",
        "https://www.kaggle.com/discussions/general/1",
        "code/cats-with-a-cnn",
    ],
)
def test_what_is_no_slug(text: str) -> None:
    with pytest.raises(UnknownSlug) as caught:
        parse_slug(text)
    assert str(caught.value) == (
        f"{text!r} is neither a competition nor a dataset on Kaggle.\n  Give dogs-vs-cats-redux-kernels-edition, "
        "tongpython/cat-and-dog, or the page's URL (https://www.kaggle.com/...)."
    )


# From a slug to a folder


def test_a_competition(server: KaggleServer, own_cache: Path) -> None:
    got = headstart.kaggle(REDUX)
    assert (got.out, got.files, got.images, got.classes) == (REDUX, 53, 52, {"cat": 20, "dog": 20})
    assert sorted(p.name for p in Path(REDUX).iterdir()) == [
        ".headstart-kaggle.json",
        "sample_submission.csv",
        "test",
        "train",
    ]
    with zipfile.ZipFile(io.BytesIO(server.competitions[REDUX].archive)) as archive:
        inner = zipfile.ZipFile(archive.open("train.zip"))
        assert (Path(REDUX) / "train" / "cat.0.jpg").read_bytes() == inner.read("train/cat.0.jpg")
    assert got.unlabelled == f"{REDUX}/test"
    assert got.sample_submission == f"{REDUX}/sample_submission.csv"
    assert got.recognised.startswith(f"{REDUX}: the labels are taken from the beginning of the file names, such as ")
    assert list((own_cache / "downloads").iterdir()) == []  # the archive is not kept twice
    assert got.next == (
        f"headstart train {REDUX} --out {REDUX}-run",
        f"headstart predict {REDUX}-run {REDUX}/test --sample-submission {REDUX}/sample_submission.csv --out "
        f"submission.csv",
    )
    assert got.table().splitlines()[:2] == [
        f"{REDUX}: 53 files, {got.bytes / 1e6:.1f} MB, in {REDUX}",
        "52 images: cat 20, dog 20, unlabelled 12",
    ]


def test_what_is_there_is_not_downloaded_again(server: KaggleServer) -> None:
    first = headstart.kaggle(REDUX)
    server.seen.clear()
    again = headstart.kaggle(PAGE, weights=WeightsSource(offline=True))
    assert (again.files, again.bytes, again.classes, again.next) == (
        first.files,
        first.bytes,
        first.classes,
        first.next,
    )
    assert server.seen == []


def test_a_dataset_of_class_folders_without_an_account(server: KaggleServer, logged_out: Path) -> None:
    got = headstart.kaggle(DATASET, out=Path("pets"))
    assert (got.classes, got.unlabelled, got.sample_submission) == ({"cats": 8, "dogs": 8}, "", "")
    assert got.recognised == "pets: the labels are the names of the class folders (cats, dogs)."
    assert got.next == ("headstart train pets --out pets-run",)
    assert all("Authorization" not in seen.headers for seen in server.seen)


def test_a_dataset_without_images_is_downloaded_all_the_same(
    server: KaggleServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.competitions["ada/houses"] = Competition("ada/houses", zipped({"houses.csv": b"price,rooms\n1,2\n"}))
    got = headstart.kaggle("ada/houses")
    assert (got.files, got.images, got.recognised, got.next) == (1, 0, "", ())
    assert "houses" in caplog.text
    with pytest.raises(headstart.HeadstartError):
        headstart.kaggle("ada/houses", train=True)


def test_a_damaged_archive_is_not_kept(server: KaggleServer, own_cache: Path) -> None:
    whole = server.competitions[REDUX]
    server.competitions[REDUX] = Competition(REDUX, whole.archive[: len(whole.archive) // 2])
    with pytest.raises(BadArchive):
        headstart.kaggle(REDUX)
    assert not Path(REDUX).exists()
    assert list((own_cache / "downloads").iterdir()) == []
    server.competitions[REDUX] = whole
    assert headstart.kaggle(REDUX).files == 53


def test_a_folder_in_the_way(server: KaggleServer) -> None:
    Path("data").mkdir()
    with pytest.raises(WriteError) as caught:
        headstart.kaggle(REDUX, out=Path("data"))
    assert str(caught.value) == (
        "data: already exists; a new folder would be written there.\n  Choose another name.\n"
        f"  If it already holds {REDUX}, train on it directly: headstart train data --out RUN"
    )
    assert server.seen == []
    headstart.kaggle(DATASET, out=Path("pets"))
    with pytest.raises(WriteError) as caught:
        headstart.kaggle(REDUX, out=Path("pets"))
    assert str(caught.value) == f"pets: holds {DATASET}, not {REDUX}.\n  Choose another --out."
    Path("pets/.headstart-kaggle.json").write_text("{}")
    with pytest.raises(WriteError) as caught:
        headstart.kaggle(DATASET, out=Path("pets"))
    assert str(caught.value) == (
        "pets/.headstart-kaggle.json: is not a valid record of what pets holds.\n  Remove pets, or choose another --out."
    )


def test_stdout_is_one_document(server: KaggleServer, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["kaggle", REDUX, "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["classes"] == {"cat": 20, "dog": 20}
    assert "outdated" not in out + err  # what the client prints goes nowhere


# Credentials


def write_key(folder: Path, key: str = KEY) -> None:
    folder.mkdir(parents=True)
    (folder / "kaggle.json").write_text(json.dumps({"username": USER, "key": key}))
    (folder / "kaggle.json").chmod(0o644)  # the client warns about that, on stdout


@pytest.mark.parametrize(
    "way",
    [
        *("name and key", "KAGGLE_CONFIG_DIR", "~/.kaggle", "~/.config/kaggle", "XDG_CONFIG_HOME"),
        *("token", "token file", "access_token", "access_token.txt"),
    ],
)
def test_every_place_for_credentials(
    way: str, server: KaggleServer, logged_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    if way == "name and key":
        monkeypatch.setenv("KAGGLE_USERNAME", USER)
        monkeypatch.setenv("KAGGLE_KEY", KEY)
    elif way == "KAGGLE_CONFIG_DIR":
        write_key(tmp_path / "config")
        monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "config"))
    elif way == "~/.kaggle":
        write_key(logged_out / ".kaggle")
    elif way == "~/.config/kaggle":
        write_key(logged_out / ".config" / "kaggle")
    elif way == "XDG_CONFIG_HOME":
        write_key(tmp_path / "xdg" / "kaggle")
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    elif way.startswith("token"):
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN if way == "token" else str(tmp_path / "token"))
    else:
        (logged_out / ".kaggle").mkdir()
        (logged_out / ".kaggle" / way).write_text(TOKEN)
    assert headstart.kaggle(REDUX).files == 53


def test_no_credentials(server: KaggleServer, logged_out: Path) -> None:
    with pytest.raises(NoCredentials) as caught:
        headstart.kaggle(REDUX)
    assert str(caught.value) == f"No Kaggle credentials were found.{PLACES}"
    assert server.seen == []
    assert not Path(REDUX).exists()


def test_a_kaggle_json_that_is_none(server: KaggleServer, logged_out: Path) -> None:
    write_key(logged_out / ".kaggle")
    (logged_out / ".kaggle" / "kaggle.json").write_text("{'username': ")
    with pytest.raises(NoCredentials) as caught:
        headstart.kaggle(REDUX)
    assert (
        str(caught.value)
        == f"{logged_out}/.kaggle/kaggle.json: is not a kaggle.json with a username and a key.{PLACES}"
    )


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"KAGGLE_USERNAME": USER, "KAGGLE_KEY": "x"}, "Kaggle does not accept the key of 'ada' (KAGGLE_KEY)."),
        ({"KAGGLE_API_TOKEN": "KGAT_x"}, "Kaggle does not accept the token in KAGGLE_API_TOKEN."),
    ],
)
def test_credentials_that_are_not_accepted(
    environment: dict[str, str],
    message: str,
    server: KaggleServer,
    logged_out: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoCredentials) as caught:
        headstart.kaggle(REDUX)
    assert str(caught.value) == f"{message}{PLACES}"


@pytest.mark.parametrize("refused", [{}, {"IntrospectToken": (401, "no")}])
def test_a_token_file_that_is_not_accepted(
    refused: dict[str, tuple[int, str]], server: KaggleServer, logged_out: Path
) -> None:
    server.faults.status = refused
    (logged_out / ".kaggle").mkdir()
    (logged_out / ".kaggle" / "access_token").write_text("KGAT_x")
    with pytest.raises(NoCredentials) as caught:
        headstart.kaggle(REDUX)
    assert str(caught.value) == f"Kaggle does not accept the token in access_token.{PLACES}"


# One sentence each


def test_rules_that_were_not_accepted(server: KaggleServer) -> None:
    server.rules_accepted = False
    with pytest.raises(NotAllowed) as caught:
        headstart.kaggle(REDUX)
    assert str(caught.value) == (
        f"Kaggle denies ada access to '{REDUX}': You must accept this competition's rules before you can continue.\n"
        f"  Accept the rules at {PAGE}/rules (and verify your account if asked), then run the command again."
    )


def test_a_wrong_slug(server: KaggleServer) -> None:
    with pytest.raises(UnknownSlug) as caught:
        headstart.kaggle("dogs-vs-cat")
    assert str(caught.value) == (
        "Kaggle has no competition 'dogs-vs-cat'.\n"
        "  Compare with the page's URL: https://www.kaggle.com/competitions/dogs-vs-cat"
    )
    with pytest.raises(NotAllowed) as denied:
        headstart.kaggle("ada/dogs")
    assert str(denied.value) == (
        "Kaggle denies ada access to 'ada/dogs': Permission 'datasets.get' was denied.\n"
        "  The dataset does not exist or is private: see https://www.kaggle.com/datasets/ada/dogs"
    )


def test_no_network(server: KaggleServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with pytest.raises(Unreachable) as caught:
        headstart.kaggle(REDUX)
    assert str(caught.value) == (
        "Kaggle cannot be reached: the proxy cannot be reached.\n  Check the network, then run the same command again."
    )


def test_offline(server: KaggleServer) -> None:
    with pytest.raises(Unreachable) as caught:
        headstart.kaggle(REDUX, weights=WeightsSource(offline=True))
    assert str(caught.value) == (f"{REDUX} needs a download, but --offline is set.\n  Download it by hand: {PAGE}")
    assert server.seen == []


@pytest.mark.parametrize("package", ["kaggle", "google_crc32c"])
def test_without_a_package_of_the_extra(
    package: str, server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hidden" / package).mkdir(parents=True)
    (tmp_path / "hidden" / package / "__init__.py").write_text(f"raise ModuleNotFoundError(name={package!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "hidden"))
    with pytest.raises(MissingExtra) as caught:
        headstart.kaggle(REDUX)
    assert str(caught.value) == (
        f"Kaggle needs the package '{package}', which is not installed.\n  pip install 'headstart[kaggle]'"
    )


def test_a_client_that_fails_in_its_own_way(
    server: KaggleServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken" / "kaggle").mkdir(parents=True)
    (tmp_path / "broken" / "kaggle" / "__init__.py").write_text("import os\nprint(os.environ)\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(RemoteError) as caught:
        headstart.kaggle(REDUX)
    assert str(caught.value) == "The process for Kaggle ended without a result.\n  Run the same command again."


# To a submission


def test_train_and_submit(
    server: KaggleServer, tiny_weights: Path, warm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """R1 as one command, then the upload; the score is what the answers say of the file."""
    words = ["kaggle", REDUX, "--train", "--submit-file", "submission.csv", "--out", "data", "--approach", "linear"]
    assert cli.run([*words, "--weights-dir", str(tiny_weights)]) == 0
    out, _ = capsys.readouterr()
    assert "Mean size of the training images: 96 x 72 pixels" in out
    assert f"headstart submit {REDUX} submission.csv" in out
    answers = server.competitions[REDUX].answers
    with open("submission.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["id", "label"]
    assert [row[0] for row in rows[1:]] == list(answers)
    submitted = {row[0]: float(row[1]) for row in rows[1:]}
    assert log_loss(answers, submitted) < 0.5  # drawn stripes are easy
    run = {
        Path(r["path"]).stem: float(r["p(dog)"]) for r in read_csv(Path("data-run/predictions.csv")) if not r["label"]
    }
    assert {i for i in answers if (run[i] > 0.5) != (submitted[i] > 0.5)} == set()
    assert cli.run(["submit", REDUX, "submission.csv", "--json"]) == 0
    said = json.loads(capsys.readouterr()[0])
    assert (said["status"], said["score"]) == ("complete", f"{log_loss(answers, submitted):.5f}")
    assert server.submissions[0]["data"] == Path("submission.csv").read_bytes()


@pytest.mark.slow
def test_the_next_commands_can_be_typed(server: KaggleServer, tiny_weights: Path, warm: Path) -> None:
    got = headstart.kaggle(REDUX, out=Path("my data"))
    for command in got.next:
        words = [*shlex.split(command)[1:], *(["--weights-dir", str(tiny_weights)] if " train " in command else [])]
        done = subprocess.run([sys.executable, "-m", "headstart", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(read_csv(Path("submission.csv"))) == 12
    again = headstart.kaggle(REDUX, out=Path("my data"), submit_file=Path("second.csv"))
    assert Path("second.csv").read_bytes() == Path("submission.csv").read_bytes()
    assert again.next == (f"headstart submit {REDUX} second.csv",)
    headstart.kaggle(
        REDUX, out=Path("my data"), submit_file=Path("cats.csv"), submission=SubmissionOptions(pos_label="cat")
    )
    dogs, cats = ([float(row["label"]) for row in read_csv(Path(name))] for name in ("submission.csv", "cats.csv"))
    assert [a + b for a, b in zip(dogs, cats, strict=True)] == pytest.approx([1.0] * 12)


def test_what_cannot_come_to_a_submission_is_said_first(server: KaggleServer) -> None:
    with pytest.raises(MissingRun) as caught:
        headstart.kaggle(REDUX, submit_file=Path("submission.csv"))
    assert str(caught.value) == (
        f"{REDUX}-run: no such run folder to predict with.\n"
        f"  Add --train, or name a run folder: --run RUN --submit-file FILE."
    )
    Path("folder").mkdir()
    with pytest.raises(WriteError, match=r"^folder: is a folder; expected the name of a file to write"):
        headstart.kaggle(REDUX, train=True, submit_file=Path("folder"))
    Path("photo").touch()
    with pytest.raises(WriteError, match=r"^photo: is in the way"):
        headstart.kaggle(REDUX, train=True, run=Path("photo"))
    assert server.seen == []
    Path("run").mkdir()
    with pytest.raises(MissingData) as missing:
        headstart.kaggle(DATASET, out=Path("pets"), run=Path("run"), submit_file=Path("submission.csv"))
    assert str(missing.value) == (
        "pets: has no unlabelled images, so there is nothing to write to submission.csv.\n"
        "  headstart predict run FOLDER --sample-submission SAMPLE.csv --out submission.csv"
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--clip 0.9", "clip: '0.9' is not a valid lower bound; expected auto, none, or a number from 0 to below 0.5."),
        ("--clip nan", "clip: 'nan' is not a valid lower bound; expected auto, none, or a number from 0 to below 0.5."),
        (
            "--submission-format lable",
            "submission_format: 'lable' is unknown; expected one of auto, probability, label, columns.",
        ),
    ],
)
def test_an_option_that_no_submission_can_have_is_refused_before_the_download(
    option: str, message: str, server: KaggleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["kaggle", REDUX, "--train", *option.split()]) == 1
    assert capsys.readouterr().err == f"RecipeError: {message}\n"
    assert server.seen == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ("--pos-label wolf", "RecipeError: pos_label: 'wolf' is not a class.\n  The classes are 'cat', 'dog'.\n"),
        (
            "--submission-format columns --submit-file s.csv",
            "BadSubmission: dogs-vs-cats-redux-kernels-edition/sample_submission.csv: has 1 column to fill; this does "
            "not fit the format columns.\n  Use --submission-format probability or label.\n",
        ),
    ],
)
def test_an_option_that_does_not_fit_the_classes_or_the_sample_is_refused_before_training(
    options: str, error: str, server: KaggleServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["kaggle", REDUX, "--train", *options.split()]) == 1
    assert capsys.readouterr().err == error
    assert sorted(path.name for path in Path.cwd().iterdir()) == [REDUX]


def test_a_submission_that_was_not_asked_for_costs_a_warning_and_not_the_run(
    server: KaggleServer, tiny_weights: Path, warm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["kaggle", REDUX, "--train", "--out", "data", "--approach", "linear", "--weights-dir", str(tiny_weights)]
    assert cli.run([*words, "--submission-format", "label", "--pos-label", "cat", "--clip", "1E-3"]) == 0
    assert caplog.messages[-1] == (
        "No submission was written: pos_label: data/sample_submission.csv expects the classes themselves.\n"
        "  Leave out --pos-label."
    )
    assert (Path("data-run") / "manifest.json").exists()


@pytest.mark.parametrize("out", [".", ".."])
def test_folders_can_be_named_with_dots(out: str, server: KaggleServer) -> None:
    Path("mine.txt").touch()
    with pytest.raises(WriteError) as caught:
        headstart.kaggle(REDUX, out=Path(out))
    assert str(caught.value).startswith(f"{out}: already exists; a new folder would be written there.\n")
    headstart.kaggle(REDUX, out=Path("data"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir("data")
        again = headstart.kaggle(REDUX, out=Path())
    assert again.next[0] == f"headstart train . --out {Path.cwd() / 'data-run'}"


def test_one_class_only(server: KaggleServer, tiny_weights: Path) -> None:
    one = {name: data for name, data in _files(drawn_dataset().archive).items() if name.startswith("cats/")}
    server.competitions[DATASET] = Competition(DATASET, zipped(one))
    with pytest.raises(BadLabels):
        headstart.kaggle(DATASET, train=True, weights=tiny_weights)


def _files(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


# Submitting


def submission(value: float = 0.5, ids: range = range(1, 13)) -> Path:
    Path("s.csv").write_text("id,label\n" + "".join(f"{i},{value}\n" for i in ids))
    return Path("s.csv")


def test_a_submission_and_its_score(server: KaggleServer) -> None:
    server.faults.pending = 1
    done = headstart.submit(REDUX, submission(), message="a coin")
    assert server.calls == ["StartSubmissionUpload", "CreateSubmission", "GetSubmission", "GetSubmission"]
    assert server.submissions[0]["description"] == "a coin"
    assert done.table() == (
        f"s.csv: Successfully submitted to {REDUX} (number 1000)\nScore: 0.69315\nSee {PAGE}/submissions"
    )
    uploads = [s for s in server.seen if s.method == "PUT"]
    assert len(uploads) == 1
    assert not uploads[0].says(KEY)


def test_a_submission_that_cannot_be_scored(server: KaggleServer) -> None:
    done = headstart.submit(REDUX, submission(ids=range(1, 12)))
    assert done.submitted.status == "error"
    assert "Kaggle could not score it: Evaluation Exception: the ids are not those of the solution" in done.table()


def test_a_submission_that_is_not_scored_in_time(server: KaggleServer) -> None:
    server.faults.pending = 99
    done = headstart.submit(REDUX, submission(), wait=0)
    assert done.submitted.status == "pending"
    assert "It is still being scored." in done.table()


def test_a_submission_too_many(server: KaggleServer) -> None:
    server.faults.status = {"StartSubmissionUpload": (400, "Submission limit of 5 a day reached")}
    with pytest.raises(NotAllowed) as caught:
        headstart.submit(REDUX, submission())
    assert str(caught.value) == (
        f"Kaggle refuses a submission to '{REDUX}' from ada: Submission limit of 5 a day reached.\n"
        f"  For rules to accept, limits and deadlines see {PAGE}"
    )


def test_a_submission_whose_score_cannot_be_asked(server: KaggleServer) -> None:
    server.faults.status = {"GetSubmission": (403, "no")}
    done = headstart.submit(REDUX, submission())
    assert "Its score is unknown." in done.table()
    assert len(server.submissions) == 1


def test_what_cannot_be_submitted(server: KaggleServer) -> None:
    Path("empty.csv").touch()
    for slug, file, kind, message in (
        (REDUX, "nothing.csv", MissingData, "nothing.csv: there is no such file."),
        (REDUX, "empty.csv", MissingData, "empty.csv: is empty."),
        (DATASET, str(submission()), UnknownSlug, f"{DATASET} is a dataset; only competitions accept submissions."),
        ("no-such", str(submission()), UnknownSlug, "Kaggle has no competition 'no-such'."),
    ):
        with pytest.raises(kind) as caught:
            headstart.submit(slug, Path(file))
        assert caught.value.message == message
    with pytest.raises(Unreachable) as offline:
        headstart.submit(REDUX, submission(), offline=True)
    assert offline.value.message == f"s.csv cannot be submitted to {REDUX} with --offline."
    server.faults.upload_refused = True
    with pytest.raises(Unreachable) as refused:
        headstart.submit(REDUX, submission())
    assert str(refused.value) == (
        f"{REDUX}: the submission could not be uploaded.\n  Nothing was submitted; run the same command again."
    )
    assert server.submissions == []


# Real images


@pytest.mark.slow
def test_cats_and_dogs_end_to_end(
    shared: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """dogs-vs-cats-redux made of the real images: log-loss against the withheld labels, and without clip and temperature."""
    monkeypatch.chdir(tmp_path)
    with kaggle_server(cats_dogs_competition(shared / "data" / "cats-dogs.zip")) as server:
        for name, value in {**server.environment, "KAGGLE_CONFIG_DIR": str(tmp_path / "no-config")}.items():
            monkeypatch.setenv(name, value)
        got = headstart.kaggle(
            REDUX,
            train=True,
            submit_file=Path("submission.csv"),
            weights=shared / "weights",
            recipe=Recipe(approach="linear"),
        )
        submit = headstart.submit(REDUX, Path("submission.csv"))
    answers = server.competitions[REDUX].answers
    with open("submission.csv", newline="") as file:
        submitted = {row["id"]: float(row["label"]) for row in csv.DictReader(file)}
    loss = log_loss(answers, submitted)
    run = Path(f"{REDUX}-run")
    figures = [loss, log_loss(answers, chances(run)), log_loss(answers, chances(run, calibrated=False))]
    with capsys.disabled():
        print("\nlog-loss {:.4f}; unclipped {:.4f}; unclipped and uncalibrated {:.4f}".format(*figures))
        print("mean size {:.1f} x {:.1f}".format(*got.mean_size))
    assert len(answers) == 300
    assert submit.submitted.score == f"{loss:.5f}"
    assert loss <= 0.08


def chances(run: Path, *, calibrated: bool = True) -> dict[str, float]:
    """{id: probability of a dog} of the unlabelled images, from a run; uncalibrated as before its temperature."""
    temperature = 1.0 if calibrated else json.loads((run / "headstart.json").read_text())["calibration"]["temperature"]
    found = {}
    for row in read_csv(run / "predictions.csv"):
        if not row["label"] and not row["error"]:
            logit = np.log(float(row["p(dog)"])) - np.log(float(row["p(cat)"]))
            found[Path(row["path"]).stem] = float(1 / (1 + np.exp(-logit * temperature)))
    return found
