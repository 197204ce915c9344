"""Folders, tables, images and options as people have them, and the right answer to each.

A row is a kind of input. `given` makes it in an empty folder, `command` is run there, and its output has to contain the
sentences `says`, in that order, and none of `never`. `{run}` in a command is a run on cats and dogs. What a row cannot
show is a test of its own below the rows, in the same section. The letters are those of the kinds, for reference.
"""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart import cli
from headstart.errors import UnreadableImage
from headstart.images import headers
from headstart.images.decode import decode
from headstart.images.formats import is_available
from headstart.model.inference.predictor import Predictor
from headstart.runs.run_folder import load_classifier

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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on cats and dogs with the built-in backbone, and the images beside it (`d`). Never write into it."""
    folder = tmp_path_factory.mktemp("trained")
    cats_and_dogs(folder / "d")
    assert cli.run(shlex.split(f"train {folder / 'd'} --out {folder / 'run'} {LINEAR}")) == 0
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


RUN_FOLDERS: list[Row] = []


# Folders


FOLDERS: list[Row] = []


# Tables


TABLES: list[Row] = []


# Images


def greys_in_16_bits(folder: Path, scale: int, offset: int = 0, each: int = 12) -> Path:
    """Class folders of grey images whose values are stored as 16 bits."""
    for kind, name in enumerate(KINDS):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for n in range(each):
            pixels = np.asarray(draw(kind, n).convert("L")).astype(np.uint16) * scale + offset
            Image.fromarray(pixels.astype(np.uint16)).save(folder / name / f"{name[:-1]}.{n}.png")
    return folder


OTHER_FILES = {
    "scan.jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    "photo.jxl": b"\xff\x0a",
    "IMG_1.CR2": b"II*\0\x10\0\0\0CR\2\0",
    "IMG_2.RAF": b"FUJIFILMCCD-RAW 0201",
    "slice.dcm": bytes(128) + b"DICM",
    "logo.svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
}
"""Files that count as images wherever they lie, with their first bytes."""


def other_files(folder: Path, names: tuple[str, ...] = tuple(OTHER_FILES)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(OTHER_FILES[name].ljust(400, b"\0"))


def beside_folders(here: Path) -> None:
    """Images in a folder, and files of other formats beside the folder."""
    cats_and_dogs(here / "h" / "2024", each=1)
    other_files(here / "h")


def by_name(here: Path) -> None:
    """A flat folder, some of whose images are in another format."""
    for kind, name in enumerate(("cat", "dog")):
        (here / "flat").mkdir(exist_ok=True)
        for n in range(12):
            draw(kind, n).save(here / "flat" / f"{name}_{n}.jpg")
        for n in range(12, 15):
            (here / "flat" / f"{name}_{n}.JP2").write_bytes(OTHER_FILES["scan.jp2"].ljust(400, b"\0"))


def many_kinds(here: Path) -> None:
    """Class folders with files of many other formats, and some that are no images."""
    folder = cats_and_dogs(here / "d") / "cats"
    other_files(folder)
    (folder / "x.pdf").write_bytes(b"%PDF-1.7\n" + bytes(400))
    (folder / "IMG_3.MOV").write_bytes(b"\0\0\0\x14ftypqt  " + bytes(400))
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    (folder / "lfs.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def one_of_another_depth(here: Path) -> None:
    greys_in_16_bits(here / "d", 257)
    greys_in_16_bits(here / "e", 4, each=1)
    shutil.copy(here / "e" / "cats" / "cat.0.png", here / "d" / "cats" / "dark.png")


def large_jpegs(here: Path) -> None:
    """A JPEG of 144 million pixels, and a PNG as large."""
    folder = cats_and_dogs(here / "d") / "cats"
    Image.new("L", (12_000, 12_000), 90).save(folder / "large.jpg", quality=30)
    Image.new("1", (12_000, 12_000)).save(folder / "large.png")


IMAGES: list[Row] = [
    Row(
        kind="F4: other formats beside folders",
        given=beside_folders,
        command="predict {run} h",
        says=(
            "6 of 8 files cannot be used, and are left out: camera raw 2, DICOM 1, JPEG 2000 1, JPEG XL 1, SVG 1. "
            "To use camera raw: export it as JPEG or TIFF",
            "h/2024/cats/cat.0.jpg",
            "h/2024/dogs/dog.0.jpg",
            "not read  not_supported  h/IMG_1.CR2",
            "not read  not_supported  h/IMG_2.RAF",
            "not read  not_supported  h/logo.svg",
            "not read  not_supported  h/photo.jxl",
            "not read  not_supported  h/scan.jp2",
            "not read  not_supported  h/slice.dcm",
        ),
    ),
    Row(
        kind="F4: other formats in a flat folder",
        given=by_name,
        command="check flat",
        says=(
            "6 of 30 files cannot be used, and are left out: JPEG 2000 6. To use JPEG 2000: magick IMAGE.jp2 IMAGE.png.",
            "30 files, 24 usable, 2 classes: cat 12, dog 12",
            "error    not_supported",
            "6 files of 30 cannot be used (not supported) and are left out: JPEG 2000 6.",
        ),
    ),
    Row(
        kind="F9: many formats are counted by kind",
        given=many_kinds,
        command="check d",
        says=(
            "2 files of 34 cannot be used (not an image) and are left out: Git LFS pointer 1, web page 1.",
            "Git LFS pointer: git lfs pull",
            "Web page: a download that failed; download it again.",
            "8 files of 34 cannot be used (not supported) and are left out: camera raw 2, DICOM 1, JPEG 2000 1, JPEG XL 1, "
            "PDF 1, SVG 1, video 1.",
            "To use camera raw:",
        ),
    ),
    Row(
        kind="F3: 12 bits in 16",
        given=lambda here: greys_in_16_bits(here / "d", 16),
        command="check d",
        says=(
            "warning  sixteen_bit",
            "24 images have 16 bits or more per pixel, of which they use the values ",
            ": scaled by 0 to 4,095, a range that a run keeps for its predictions.",
        ),
        never=("near_duplicates", "uneven_depth"),
    ),
    Row(
        kind="F3: a narrow band of 16 bits",
        given=lambda here: greys_in_16_bits(here / "d", 2, 30_000),
        command="check d",
        says=("of which they use the values 30,0", " to 30,", ": scaled by 30,0", " to 30,"),
    ),
    Row(
        kind="F3: all of 16 bits",
        given=lambda here: greys_in_16_bits(here / "d", 257),
        command="check d",
        says=("info     sixteen_bit             24 images have 16 bits or more per pixel; scaled to 8.",),
        never=("a range that a run keeps", "warning"),
    ),
    Row(
        kind="F3: one image of another depth",
        given=one_of_another_depth,
        command="check d",
        says=(
            "warning  uneven_depth",
            "1 image of more than 8 bits uses hardly any of the range 0 to 65,535 of the others, or other values, for "
            "example cats/dark.png: ",
            "Save all with the same scale.",
        ),
    ),
    Row(
        kind="P25: a JPEG of 144 million pixels",
        given=large_jpegs,
        command="check d",
        says=(
            "26 files, 25 usable",
            "error    too_many_pixels         1 file of 26 cannot be used (too many pixels) and is left out: PNG: 12,000 x "
            "12,000 pixels; the limit is 128,000,000, and 65,535 per side. To use it: magick IMAGE -resize 4000x4000 "
            "IMAGE.jpg.",
            "largest 12,000",
        ),
    ),
]


def test_each_file_has_a_reason_of_its_own(here: Path) -> None:
    many_kinds(here)
    draw(0, 20).save(here / "d" / "dogs" / "a.jpg", "PNG")
    draw(0, 21).save(here / "d" / "dogs" / "b.jpg", "WEBP")
    assert cli.run(shlex.split("check d --out checks.csv")) == 0
    with open(here / "checks.csv", encoding="utf-8", newline="") as file:
        said_of = {row["path"]: row["message"] for row in csv.DictReader(file) if row["path"]}
    assert said_of["cats/x.pdf"] == "PDF is not decoded here. To use PDF: pdftoppm -png -r 150 FILE.pdf PAGE."
    assert said_of["cats/scan.jp2"] == "JPEG 2000 is not decoded here. To use JPEG 2000: magick IMAGE.jp2 IMAGE.png."
    assert said_of["cats/IMG_3.MOV"].startswith("Video is not decoded here. To use video: ffmpeg ")
    assert said_of["cats/slice.dcm"].startswith(
        "DICOM is not decoded here. To use DICOM: export it as PNG of 8 or 16 bits"
    )
    assert said_of["cats/IMG_1.CR2"].startswith("Camera raw is not decoded here.")
    assert said_of["cats/page.jpg"] == "Web page, not an image: a download that failed; download it again."
    assert said_of["cats/lfs.jpg"] == "Git LFS pointer, not an image: git lfs pull (the file only names the image)."
    assert said_of["dogs/a.jpg"] == "Has the extension of another format, but is a PNG; read anyway."
    assert said_of["dogs/b.jpg"] == "Has the extension of another format, but is a WEBP; read anyway."


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A run on images of 12 bits, and its answers for one of them: as a file, in memory, and alone."""
    folder = tmp_path_factory.mktemp("deep")
    file = greys_in_16_bits(folder / "d", 16) / "cats" / "cat.0.png"
    assert cli.run(shlex.split(f"train {folder / 'd'} --out {folder / 'run'} {LINEAR}")) == 0
    predictor = Predictor(load_classifier(folder / "run"))
    both = predictor.predict([file, Image.open(file)]).probabilities
    return folder / "run", np.stack([*both, predictor.predict_one(file)])


def test_a_run_keeps_the_range_of_its_images(deep: tuple[Path, np.ndarray]) -> None:
    """Trained on 12 bits, it reads 12 bits as they were in training, from files and from memory."""
    run, answers = deep
    spec = json.loads((run / "headstart.json").read_text(encoding="utf-8"))["members"][0]["preprocess"]
    assert spec["ranges"] == {"integers": [0, 4_095]}
    assert (answers == answers[0]).all() and answers[0, 0] > 0.5
    with open(run / "checks.csv", encoding="utf-8", newline="") as file:
        assert "scaled by 0 to 4,095" in next(
            row["message"] for row in csv.DictReader(file) if "16 bits" in row["message"]
        )


@pytest.mark.skipif(not is_available("HEIC"), reason="needs the library for HEIC: pip install '.[formats]'")
def test_heic_is_read_wherever_it_lies(
    here: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Beside JPEGs, under another name, and cut off."""
    photo = (Path(__file__).parent / "data" / "heic" / "turned.heic").read_bytes()
    folder = cats_and_dogs(here / "d", each=2) / "cats"
    (folder / "IMG_1.HEIC").write_bytes(photo)
    (folder / "from-a-phone.jpg").write_bytes(photo)
    (folder / "IMG_2.HEIC").write_bytes(photo[:-90])
    text = said("check d", capsys, caplog)
    in_order(
        ("1 of 7 files cannot be used, and is left out: HEIC 1.", "7 files, 6 usable, 2 classes: cats 4, dogs 2"), text
    )
    in_order(("error    truncated", "HEIC: its pixels end at byte", "cats/IMG_2.HEIC"), text)
    in_order(("for example cats/from-a-phone.jpg is a HEIC; read anyway.",), text)


@pytest.mark.parametrize("missing", ["HEIC", "AVIF"])
def test_a_missing_library_is_named_with_its_command(missing: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = {"HEIC": b"ftypheic", "AVIF": b"ftypavif"}[missing]
    monkeypatch.setattr(headers, "is_available", lambda name: name != missing)
    with pytest.raises(UnreadableImage) as caught:
        decode(b"\0\0\0\x14" + start + bytes(300))
    assert (caught.value.reason, caught.value.kind) == ("not_supported", missing)
    assert str(caught.value) == f"{missing} is not decoded here. To use {missing}: pip install 'headstart[formats]'."


# Say over the data


SAY: list[Row] = []


# From Python


# Time and options


OPTIONS: list[Row] = []


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
