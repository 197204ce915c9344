"""Bad input, through the command line: one clear error (the whole text is compared), and nothing half-written."""

from __future__ import annotations

import hashlib
import os
import pickle
import shlex
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import draw, write_photos
from headstart import cli
from headstart.io.files import read_csv

RUN = "train photos --out run"


@pytest.fixture
def here(
    tmp_path: Path, tiny_weights: Path, warm_cache: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """An empty folder to be in, with `photos` (2 x 6 images) and weights, and compiled graphs in the cache."""
    write_photos(tmp_path / "photos", classes=2, each=6)
    shutil.copytree(warm_cache, own_cache, dirs_exist_ok=True)
    shutil.copytree(tiny_weights, tmp_path / "weights")
    monkeypatch.setenv("HEADSTART_WEIGHTS", str(tiny_weights))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder; folders and links by name."""
    found = {}
    for path in folder.rglob("*"):
        plain = path.is_file() and not path.is_symlink()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest() if plain else ""
    return found


def refused(words: str, capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """The error text of a command that must fail, print nothing on stdout, and change nothing in this folder."""
    before = contents(Path())
    assert cli.run(shlex.split(words)) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert contents(Path()) == before
    return err


# The images and their labels

DATA = {
    "no folder": (
        "",
        "train photso --out run",
        "MissingData: photso: there is no such folder or table.\n  Did you mean 'photos'?\n",
    ),
    "an empty folder": (
        "mkdir empty",
        "train empty --out run",
        "NoImages: empty: holds no images.\n  Expected images in class folders, such as empty/cat/1.jpg.\n",
    ),
    "a class without a usable image": (
        "write photos/class2/1.jpg no image",
        RUN,
        "BadLabels: photos: 1 of 3 classes has no images: 'class2'. Counts: 'class0': 6, 'class1': 6, 'class2': 0.\n"
        "  Add images to it, or remove it. `headstart check` lists what was left out, and why.\n",
    ),
    "one class only": (
        "rm photos/class1",
        RUN,
        "BadLabels: photos: has one class only ('class0': 6); a classifier needs at least two.\n"
        "  Put the images of another class beside it, for example into photos/other.\n",
    ),
    "no labels": (
        "",
        "train photos/class0 --out run",
        "BadLabels: photos/class0: none of its 6 images has a label.\n"
        "  Put the images of each class into a folder of its own, such as photos/class0/cat/000.jpg.\n"
        "  Give a table of paths and labels instead (CSV with the columns path,label).\n",
    ),
    "fewer images than twice the classes": (
        "keep 1",
        RUN,
        "BadLabels: photos: has 2 labelled images for 2 classes ('class0': 1, 'class1': 1); at least 4 are needed.\n"
        "  Add images: about 20 per class give a first useful classifier. Few per class may mean that the labels are "
        "not "
        "the classes you want.\n",
    ),
    "too few for three sets": (
        "keep 2",
        RUN,
        "BadSplit: photos: no images are left for the validation set: 4 images are too few for three sets.\n"
        "  Add images, or give a split of your own with --split.\n",
    ),
    "labels that match no file": (
        "write labels.csv path,label\na/1.jpg,cat\na/2.jpg,dog\n",
        "train labels.csv --out run",
        "BadLabels: labels.csv: none of its 2 rows names an existing image; the first is 'a/1.jpg', looked for at "
        "a/1.jpg.\n  Paths are relative to the folder of the table: move the table, or change its paths.\n",
    ),
    "unclear columns": (
        "write labels.csv a,b,c\n1,2,3\n",
        "train labels.csv --out run",
        "BadLabels: labels.csv: no column looks like the path column; its columns are 'a', 'b', 'c'.\n"
        "  Say which one holds it with --path-column (in Python, DataSource(..., path_column=...)), or rename it.\n",
    ),
    "an empty table": (
        "write labels.csv ",
        "train labels.csv --out run",
        "BadLabels: labels.csv: has no rows.\n  Expected a header such as path,label and one row per image.\n",
    ),
    "an image for a folder": (
        "",
        "train photos/class0/000.jpg --out run",
        "MissingData: photos/class0/000.jpg: is a single image; expected a folder of images, or a table of them.\n"
        "  Give the folder that it is in, photos/class0. `headstart predict RUN photos/class0/000.jpg` classifies it.\n",
    ),
    "nothing readable": (
        "spoil photos",
        RUN,
        "NoImages: photos: none of 12 files can be used: class0/000.jpg: the file is empty (0 bytes).\n"
        "  `headstart check photos` says what is wrong with each.\n",
    ),
    "a split of other data": (
        "write split.csv path,split\nelse/1.jpg,train\n",
        f"{RUN} --split split.csv",
        "BadSplit: split.csv: 1 row with a path that is not in the data: else/1.jpg.\n"
        "  Expected paths relative to photos. Was the split made for other data?\n",
    ),
    "no split": (
        "",
        f"{RUN} --split splt.csv",
        "BadSplit: splt.csv: there is no such file.\n  `headstart split DATA --out split.csv` writes one.\n",
    ),
}


def prepare(here: Path, step: str) -> None:
    """Bring the folder into the state that a case wants."""
    verb, _, rest = step.partition(" ")
    if verb == "mkdir":
        (here / rest).mkdir()
    elif verb == "rm":
        shutil.rmtree(here / rest)
    elif verb == "keep":
        for path in sorted(here.glob("photos/*/*.jpg")):
            if int(path.stem) >= int(rest):
                path.unlink()
    elif verb == "spoil":
        for path in here.glob(f"{rest}/*/*.jpg"):
            path.write_bytes(b"")
    elif verb == "write":
        name, _, text = rest.partition(" ")
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)


@pytest.mark.parametrize(("step", "words", "message"), DATA.values(), ids=DATA)
def test_data(here: Path, capsys: pytest.CaptureFixture[str], step: str, words: str, message: str) -> None:
    prepare(here, step)
    err = refused(words, capsys)
    notes, _, error = (
        err.rpartition("\n" + message.partition(":")[0]) if not err.startswith(message[:8]) else ("", "", err)
    )
    assert (error if not notes else message.partition(":")[0] + error) == message


# Backbones and weights

WEIGHTS = {
    "an unknown name": (
        "--backbone resnet-34",
        "UnknownBackbone: 'resnet-34' is not a known backbone.\n"
        "  Did you mean 'resnet34'? `headstart backbones` lists those with weights here.\n",
    ),
    "no such file": (
        "--weights nope.safetensors",
        "MissingWeights: nope.safetensors: no such weights file.\n  Check the path given with --weights.\n",
    ),
    "no such folder": (
        "--weights-dir nope",
        "MissingWeights: nope: no such folder, given by --weights-dir.\n"
        "  It should hold NAME.safetensors and NAME.json for each backbone.\n",
    ),
    "offline": (
        "--weights-dir photos --backbone resnet34 --offline",
        "MissingWeights: resnet34.a1_in1k: its weights are not on this machine, and offline mode downloads nothing.\n"
        "  Give the weights with --weights FILE.safetensors or --weights-dir DIR, or run once without --offline. "
        "`headstart backbones` lists those with weights here.\n",
    ),
    "an empty file": (
        "--weights empty.safetensors",
        "BadWeights: empty.safetensors: is empty (0 bytes).\n  Copy or download the file again.\n",
    ),
    "a cut file": (
        "--weights cut.safetensors",
        "BadWeights: cut.safetensors: truncated safetensors: the header alone has 7,688 bytes, the file 5,000.\n"
        "  Copy or download the file again.\n",
    ),
    "a pickle": (
        "--weights pickle.safetensors",
        "BadWeights: pickle.safetensors: is a pickle (protocol 4), not safetensors.\n"
        "  Only safetensors are loaded. If you trust the file, convert it with safetensors.torch.save_file(state_dict, "
        "FILE) and use the result.\n",
    ),
    "no word about the architecture": (
        "--weights bare.safetensors",
        "MissingWeights: bare.safetensors: has no bare.json next to it, so its architecture is unknown.\n"
        "  Name the network with --backbone NAME, or write that JSON.\n",
    ),
    "another backbone than the file's": (
        "--weights weights/test_resnet.a.safetensors --backbone test_efficientnet",
        "BadWeights: weights/test_resnet.a.json: architecture is 'test_resnet', but the requested backbone is "
        "'test_efficientnet'.\n  Use --backbone test_resnet, or another --weights file.\n",
    ),
}


@pytest.mark.parametrize(("options", "message"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: str, message: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(here / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(here / "hub"))
    whole = (here / "weights" / "test_resnet.a.safetensors").read_bytes()
    (here / "empty.safetensors").write_bytes(b"")
    (here / "cut.safetensors").write_bytes(whole[:5000])
    (here / "bare.safetensors").write_bytes(whole)
    (here / "pickle.safetensors").write_bytes(pickle.dumps({"fc.weight": [1.0]}, protocol=4))
    assert refused(f"{RUN} {options}", capsys) == message


def test_weights_of_another_architecture(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy("weights/test_resnet.a.safetensors", "wrong.safetensors")
    shutil.copy("weights/test_efficientnet.b.json", "wrong.json")
    assert refused(f"{RUN} --weights wrong.safetensors", capsys).splitlines()[-2:] == [
        "BadWeights: wrong.safetensors: these are not the weights of test_efficientnet: 69 missing (conv_stem.weight, "
        "blocks.0.0.conv.weight, blocks.0.0.bn1.weight and 66 more); 85 unexpected (conv1.0.weight, conv1.1.bias, "
        "conv1.1.running_mean and 82 more); 4 of another shape (bn1.weight: (32,), expected (24,), bn1.bias: (32,), "
        "expected (24,), bn1.running_mean: (32,), expected (24,) and 1 more).",
        "  Name the backbone that the file was saved from (--backbone NAME), or use another file.",
    ]


# Options

OPTIONS = {
    "--approach finetun": "approach 'finetun' is not known: expected auto, linear, head_sgd, finetune, scratch.\n"
    "  Did you mean 'finetune'?\n",
    "--head rigde": "head 'rigde' is not known: expected auto, ridge, lda, logistic, blend, ncm.\n"
    "  Did you mean 'ridge'?\n",
    "--resize zoom": "resize 'zoom' is not known: expected auto, crop, pad, squash.\n",
    "--class-weight balance": "class_weight 'balance' is not known: expected none, balanced.\n"
    "  Did you mean 'balanced'?\n",
    "--device gpu": "device 'gpu' is not known: expected auto, cpu, cuda.\n  Did you mean 'cpu'?\n",
    "--precision int8": "precision 'int8' is not known: expected auto, bf16, f32.\n",
    "--image-size 5": "image_size 5 cannot be used: expected 8 to 4096 pixels, 0 or -1.\n",
    "--val-size 0": "val_size 0.0 cannot be used: expected a fraction between 0 and 1, such as 0.2.\n"
    "  The validation set chooses the head and fits the temperature; linear heads are then fitted on it as well.\n",
    "--conformal-alpha 1": "conformal_alpha 1.0 cannot be used: expected a fraction between 0 and 1, such as 0.2.\n",
    "--budget 20": "budget '20' is not a time: expected a number and s, m or h.\n  For example 2m or 2h.\n",
    "--budget soon": "budget 'soon' is not a time: expected a number and s, m or h.\n  For example 2m or 2h.\n",
    "--budget 0m": "budget '0m' is not a time: expected a number and s, m or h.\n  For example 2m or 2h.\n",
}


@pytest.mark.parametrize("options", OPTIONS)
def test_options(here: Path, capsys: pytest.CaptureFixture[str], options: str) -> None:
    assert refused(f"{RUN} {options}", capsys) == f"RecipeError: {OPTIONS[options]}"


def test_options_that_cannot_be_parsed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(f"{RUN} --budget", capsys, code=2) == (
        "headstart train: --budget needs a value.\n  `headstart train --help` lists its options.\n"
    )
    assert refused(f"{RUN} --conformal-alpha much", capsys, code=2) == (
        'headstart train: Invalid value for --conformal-alpha: unable to convert "much" into float.\n'
        "  `headstart train --help` lists its options.\n"
    )


# Places to write to


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "train photos --out a-file",
            "WriteError: a-file: is in the way: a folder would be written there.\n  Choose another --out.\n",
        ),
        (
            "sample scenes a-file",
            "WriteError: a-file: is in the way: a folder would be written there.\n  Choose a new folder.\n",
        ),
        (
            "train photos --out mine",
            "WriteError: mine: contains files that headstart did not write; it is not replaced.\n"
            "  Choose another --out, or an empty folder.\n",
        ),
        (
            "train photos --out photos/run",
            "WriteError: photos/run: is inside the data (photos), where it would be read as data the next time.\n"
            "  Choose --out outside of it, such as {here}/run.\n",
        ),
        (
            "train photos --out a-file/run",
            "WriteError: a-file/run: could not be written: Not a directory ({here}/a-file).\n"
            "  A file is where a folder is needed: choose another path.\n",
        ),
        (
            "split photos --out a-file/split.csv",
            "WriteError: a-file/split.csv: could not be written: Not a directory ({here}/a-file).\n"
            "  A file is where a folder is needed: choose another path.\n",
        ),
        (
            "check photos --out mine",
            "WriteError: mine: is a folder; expected the name of a file to write.\n"
            "  Give a file name, such as out.csv.\n",
        ),
    ],
)
def test_out_in_the_way(here: Path, capsys: pytest.CaptureFixture[str], words: str, message: str) -> None:
    (here / "a-file").write_text("mine")
    (here / "mine").mkdir()
    (here / "mine" / "notes.txt").write_text("mine")
    assert refused(words, capsys) == message.replace("{here}", str(here))


# Run folders


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A run on `photos`."""
    assert cli.run(shlex.split(f"{RUN} --backbone test_resnet.a")) == 0
    capsys.readouterr()
    return here / "run"


def test_no_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ("evaluate rum photos", "predict rum photos", "reproduce rum"):
        assert refused(words, capsys) == (
            "MissingRun: rum: there is no such run folder.\n  `headstart train DATA --out RUN` writes one.\n"
        )
    assert refused("predict photos photos", capsys) == (
        "MissingRun: photos: is not a run folder (it has no headstart.json).\n  `headstart train` writes one.\n"
    )


def test_what_a_run_cannot_judge_or_predict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(Path("others"), classes=3, each=2)
    assert refused("evaluate run others", capsys) == (
        "BadLabels: others: class 'class2' is unknown to the classifier (class0, class1).\n"
        "  Did you mean 'class1' or 'class0'?\n"
        "  To leave their images out: --classes class0,class1.\n"
    )
    os.rename("others/class2", "others/zebra")
    assert refused("evaluate run others", capsys) == (
        "BadLabels: others: class 'zebra' is unknown to the classifier (class0, class1).\n"
        "  To leave their images out: --classes class0,class1.\n"
    )
    assert refused("evaluate run others/zebra", capsys) == (
        "BadLabels: others/zebra: has no readable labelled images.\n  For details: `headstart check others/zebra`.\n"
    )
    assert refused("predict run photos/clas0", capsys) == (
        "MissingData: photos/clas0: there is no such image or folder.\n  Did you mean 'class0' or 'class1'?\n"
    )
    assert refused("predict run", capsys) == ("MissingData: No images were given.\n  headstart predict run image.jpg\n")
    assert refused("reproduce run --data photso", capsys) == (
        "MissingData: photso: there is no such folder or table.\n  Did you mean 'photos'?\n"
    )


# Every kind of bad file at once


def bad_photos(folder: Path) -> dict[str, set[str]]:
    """Split folders with one file of every kind; {check: names of the files it must name}."""
    for side, first in (("train", 0), ("test", 40)):
        write_photos(folder / side, classes=2, each=10, first=first)
    a, b = folder / "train" / "class0", folder / "train" / "class1"
    whole = (a / "000.jpg").read_bytes()
    (a / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (a / "empty.jpg").write_bytes(b"")
    (a / "text.jpg").write_bytes(b"these are not the pixels that you are looking for")
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 65_000, 65_000, 8, 2, 0, 0, 0)
    bomb = struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (a / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bomb + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    draw(0, 100).save(a / "really-png.jpg", format="PNG")
    draw(0, 101).save(a / "moving.gif", save_all=True, append_images=[draw(0, 102)])
    draw(0, 103).convert("CMYK").save(a / "print.jpg")
    Image.fromarray(np.asarray(draw(0, 104).convert("L"), np.uint16) * 257).save(a / "deep.png")
    draw(0, 105).quantize(64).save(a / "palette.png")
    draw(0, 106).convert("RGBA").save(a / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    draw(0, 107).save(a / "turned.jpg", exif=exif)
    draw(0, 108, (20, 24)).save(a / "tiny.png")
    draw(0, 109, (400, 60)).save(a / "long.jpg")
    shutil.copy(a / "001.jpg", a / "copy.jpg")
    blocks = Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 9, 3), np.uint8)).resize((180, 160))
    blocks.save(a / "blocks.jpg", quality=95)
    blocks.save(a / "saved-again.jpg", quality=70)
    shutil.copy(b / "003.jpg", a / "other-label.jpg")
    shutil.copy(b / "004.jpg", folder / "test" / "class1" / "leak.jpg")
    (b / "README.txt").write_text("not an image, and not called like one")
    (b / "gone.jpg").symlink_to("nowhere.jpg")
    return {
        "truncated": {"cut.jpg"},
        "empty": {"empty.jpg"},
        "not_an_image": {"text.jpg"},
        "too_many_pixels": {"bomb.png"},
        "wrong_extension": {"really-png.jpg"},
        "animated": {"moving.gif"},
        "cmyk": {"print.jpg"},
        "alpha": {"alpha.png"},
        "sixteen_bit": {"deep.png"},
        "palette": {"palette.png"},
        "exif_rotated": {"turned.jpg"},
        "tiny": {"tiny.png"},
        "extreme_aspect": {"long.jpg"},
        "exact_duplicates": {"copy.jpg"},
        "near_duplicates": {"saved-again.jpg"},
        "label_conflict": {"other-label.jpg"},
        "split_leak": {"leak.jpg"},
        "not_an_image_name": {"README.txt"},
        "not_a_file": {"gone.jpg"},
    }


@pytest.mark.skipif(os.name == "nt", reason="makes a symbolic link")
def test_every_kind_of_bad_file(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = bad_photos(here / "bad")
    before = contents(here / "bad")
    assert cli.run(shlex.split("train bad --out run --backbone test_resnet.a")) == 0
    assert cli.run(shlex.split("predict run bad --out predictions.csv")) == 0
    assert contents(here / "bad") == before

    named: dict[str, set[str]] = {}
    for row in read_csv(here / "run" / "checks.csv"):
        named.setdefault(row["check"], set()).add(Path(row["path"]).name)
    for check, names in expected.items():
        assert names <= named.get(check, set()), check

    lost = {f"train/class0/{name}" for name in ("cut.jpg", "empty.jpg", "text.jpg", "bomb.png")}
    lost.add("train/class1/gone.jpg")
    images = {name for name in before if "." in name and not name.endswith("README.txt")}
    used = {row["path"]: row["split"] for row in read_csv(here / "run" / "split.csv")}
    assert set(used) == images - lost
    assert {"train", "val", "test"} == set(used.values())
    rows = read_csv(here / "run" / "predictions.csv")
    assert {row["path"] for row in rows if not row["error"]} == {path for path, side in used.items() if side == "test"}
    assert {row["path"]: row["error"] for row in rows if row["error"]} == {
        "train/class0/bomb.png": "too_many_pixels",
        "train/class0/cut.jpg": "truncated",
        "train/class0/empty.jpg": "empty",
        "train/class0/text.jpg": "not_an_image",
        "train/class1/gone.jpg": "not_a_file",
    }
    rows = read_csv(here / "predictions.csv")
    assert {row["path"] for row in rows if row["predicted"]} == {f"bad/{path}" for path in used}
    assert {row["path"] for row in rows if row["error"]} == {f"bad/{path}" for path in lost}
