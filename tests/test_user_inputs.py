"""Folders, tables, images and options as people have them, and the right answer to each.

A row is a kind of input. `given` makes it in an empty folder, `command` is run there, and its output has to contain the
sentences `says`, in that order, and none of `never`. `{run}` in a command is a run on cats and dogs. What a row cannot
show is a test of its own below the rows, in the same section. The letters are those of the kinds, for reference.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import draw
from headstart import cli

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


TRAINED: dict[str, Path] = {}
"""The place of the run that rows may copy."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cats and dogs with the built-in backbone, and the images beside it (`d`). Never write into it."""
    folder = tmp_path_factory.mktemp("trained")
    cats_and_dogs(folder / "d")
    assert cli.run(shlex.split(f"train {folder / 'd'} --out {folder / 'run'} {LINEAR}")) == 0
    TRAINED["run"] = folder / "run"
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


def own_run(folder: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(TRAINED["run"], folder / "r"))


def seen_by_systems(folder: Path) -> None:
    for name in (".DS_Store", "._report.html", "Thumbs.db", "desktop.ini", ".git/HEAD", "@eaDir/x", "report.html~"):
        (own_run(folder) if not (folder / "r").exists() else folder / "r").joinpath(name).parent.mkdir(exist_ok=True)
        (folder / "r" / name).write_text("x")
    cats_and_dogs(folder / "new", each=1, first=50)


def with_notes(folder: Path) -> None:
    with open(own_run(folder) / "README.md", "a") as card:
        card.write("A note.\n")
    cats_and_dogs(folder / "new", each=1, first=50)


def with_other_weights(folder: Path) -> None:
    (own_run(folder) / "model.safetensors").write_bytes(b"other")
    cats_and_dogs(folder / "new", each=1, first=50)


RUN_FOLDERS = [
    Row(
        kind="F1: a run that Finder, Windows, git, a NAS and an editor have left files in",
        given=seen_by_systems,
        command="predict r new",
        says=("new/cats/cat.50.jpg", "new/dogs/dog.50.jpg"),
    ),
    Row(
        kind="P14: a run with a note in its model card",
        given=with_notes,
        command="predict r new",
        says=("new/cats/cat.50.jpg", "new/dogs/dog.50.jpg"),
    ),
    Row(
        kind="a run whose weights have changed",
        given=with_other_weights,
        command="predict r new",
        says=(
            "DamagedRun: r/model.safetensors: has changed since it was written (SHA-256 differs).",
            "Restore the folder from a copy, or train again.",
        ),
        code=1,
    ),
    Row(
        kind="P13: a run to repeat, whose images are elsewhere now",
        given=lambda folder: shutil.copytree(TRAINED["run"], folder / "r"),
        command="reproduce r --data elsewhere",
        says=(
            "MissingData: elsewhere: there is no such folder or table.",
            "Give the new place of the images with --data.",
        ),
        code=1,
    ),
]


def test_a_run_is_repeated_with_the_weights_in_it(
    here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """P13: its weights came from a folder that is not given any more."""
    cats_and_dogs(here / "d")
    said(f"train d --out r {LINEAR} --backbone test_resnet.a --weights-dir {tiny_weights}", capsys, caplog)
    text = said("reproduce r --offline", capsys, caplog)
    in_order(("test_resnet.a: the weights in the run folder are used.", "Identical: all "), text)


def test_a_run_that_was_fine_tuned_names_the_weights_that_it_needs(
    here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    cats_and_dogs(here / "d")
    options = "--offline --no-report --approach finetune --epochs 1"
    said(f"train d --out r {options} --backbone test_resnet.a --weights-dir {tiny_weights}", capsys, caplog)
    text = said("reproduce r --offline", capsys, caplog, code=1)
    assert "r started from these weights, which are neither in it nor on this machine: give their folder with" in text


# Folders


FOLDERS: list[Row] = []


# Tables


TABLES: list[Row] = []


# Images


IMAGES: list[Row] = []


# Say over the data


SAY: list[Row] = []


# From Python


# Time and options


def cats_in(folder: Path) -> None:
    cats_and_dogs(folder / "d")


OPTIONS = [
    Row(
        kind="B5: a fraction where a whole number is expected",
        given=cats_in,
        command="split d --out split.csv --seed 1.9",
        says=("headstart split: Invalid value for --seed: '1.9' is not a whole number.",),
        code=2,
    ),
    Row(
        kind="B5: options without effect for the approach",
        given=cats_in,
        command=f"train d --out r {LINEAR} --lr 0.01 --epochs 3",
        says=("The approach linear does not use epochs (3), lr (0.01).",),
    ),
]


def test_of_several_weights_of_an_architecture_those_of_imagenet_are_used(
    here: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """P20: a recipe names an architecture, and a folder has it trained on several sets."""
    for tag in ("in1k", "inat_bird", "qat_in1k"):
        for suffix in (".json", ".safetensors"):
            (here / "weights").mkdir(exist_ok=True)
            shutil.copy(tiny_weights / f"test_resnet.a{suffix}", here / "weights" / f"test_resnet.{tag}{suffix}")
    cats_and_dogs(here / "d")
    text = said(f"train d --out r {LINEAR} --backbone test_resnet --weights-dir weights", capsys, caplog)
    assert (
        "test_resnet: of test_resnet.in1k, test_resnet.inat_bird, test_resnet.qat_in1k, the ImageNet weights "
        "test_resnet.in1k are used." in text
    )


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
