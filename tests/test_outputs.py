"""What a command reads it never writes over, and nothing is put where it would be taken for data the next time."""

from __future__ import annotations

import os
import shlex
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import headstart
from conftest import draw, write_photos
from headstart import Recipe, cli
from headstart.data.data_source import DataSource
from headstart.errors import NoImages, WriteError
from headstart.io.files import read_csv, write_csv
from headstart.io.folders import write_manifest
from headstart.runs.outside_runs import check_run_place


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory, warm_cache: Path) -> Path:
    """A cache that all tests of this module share: what one embeds is there for the next."""
    return Path(shutil.copytree(warm_cache, tmp_path_factory.mktemp("outputs") / "cache"))


@pytest.fixture(autouse=True)
def place(own_cache: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path) -> Path:
    """The current folder: `cd` with images of cats and dogs, `t.csv` and `cd.zip` of the same, `one.jpg`."""
    monkeypatch.setenv("HEADSTART_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    for name, kind in (("cats", 0), ("dogs", 1)):
        shutil.copytree(photos / f"class{kind}", tmp_path / "cd" / name)
    images = [path.relative_to(tmp_path).as_posix() for path in sorted((tmp_path / "cd").glob("*/*.jpg"))]
    write_csv(tmp_path / "t.csv", ("path", "label"), [(path, path.split("/")[1]) for path in images])
    with zipfile.ZipFile(tmp_path / "cd.zip", "w") as packed:
        for path in images:
            packed.write(path)
    draw(0, 900).save(tmp_path / "one.jpg")
    return tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, photos: Path, tiny_weights: Path, cache: Path) -> Path:
    """A run of cats and dogs on `data`, which lies beside it."""
    folder = tmp_path_factory.mktemp("trained")
    for name, kind in (("cats", 0), ("dogs", 1)):
        shutil.copytree(photos / f"class{kind}", folder / "data" / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(cache))
        recipe = Recipe(backbone="test_resnet.a", approach="linear")
        headstart.train(folder / "data", out=folder / "run", weights=tiny_weights, recipe=recipe)
    return folder / "run"


@pytest.fixture
def run(trained: Path, place: Path) -> Path:
    """That run, as `run` in the current folder."""
    return Path(shutil.copytree(trained, place / "run")).relative_to(place)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def untouched(place: Path) -> Iterator[None]:
    """Nothing in the current folder changes in the test, to the byte."""
    before = contents(place)
    yield
    assert contents(place) == before


def refused(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a command line that is to fail says on stderr: the error, with nothing before it."""
    assert cli.run(shlex.split(words)) == 1
    said = capsys.readouterr()
    assert said.out == ""
    return said.err


# An input as the output


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("check t.csv --out t.csv", "t.csv"),
        ("check t.csv --out ./cd/../t.csv", "cd/../t.csv"),
        ("check t.csv --out link.csv", "link.csv"),
        ("check link.csv --out t.csv", "t.csv"),
        ("check cd.zip --out cd.zip", "cd.zip"),
        ("check t.csv --out cd/cats/003.jpg", "cd/cats/003.jpg"),
        ("check cd --corrections corrections.csv --out corrections.csv", "corrections.csv"),
        ("split t.csv --out t.csv", "t.csv"),
        ("split cd.zip --out cd.zip", "cd.zip"),
        ("split t.csv --out cd/cats/003.jpg", "cd/cats/003.jpg"),
        ("split cd --corrections corrections.csv --out corrections.csv", "corrections.csv"),
        ("embed t.csv --out t.safetensors", "t.csv"),
        ("embed cd.zip --out cd.zip", "cd.zip"),
        (
            "embed cd --weights w/test_resnet.a.safetensors --out w/test_resnet.a.safetensors",
            "w/test_resnet.a.safetensors",
        ),
        ("embed t.csv --weights w/test_resnet.a.safetensors --out cd/cats/003.jpg", "cd/cats/003.jpg"),
        ("predict run one.jpg --out one.jpg", "one.jpg"),
        ("predict run cd one.jpg --out one.jpg", "one.jpg"),
        ("predict run cd.zip --out cd.zip", "cd.zip"),
    ],
)
def test_what_is_read_is_not_written_over(
    words: str, file: str, place: Path, run: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_weights, place / "w")
    (place / "corrections.csv").write_text("path,drop\ncats/003.jpg,x\n")
    (place / "link.csv").symlink_to("t.csv")
    before = contents(place)
    assert refused(words, capsys).endswith(
        f"WriteError: {file}: is an input file, and would be replaced.\n  Choose another --out.\n"
    )
    assert contents(place) == before


@pytest.mark.usefixtures("untouched")
def test_the_table_of_the_data_is_not_replaced_by_suspected_labels(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused("check t.csv --write-corrections t.csv", capsys) == (
        "WriteError: t.csv: is an input file, and would be replaced.\n  Choose another --write-corrections.\n"
    )


def test_an_image_that_a_link_leads_to_is_kept(place: Path, run: Path) -> None:
    shutil.move(place / "cd" / "cats", place / "elsewhere")
    (place / "cd" / "cats").symlink_to(place / "elsewhere")
    before = contents(place)
    for made in (headstart.check, headstart.split):
        with pytest.raises(WriteError, match=r"elsewhere/003\.jpg: is an input file, and would be replaced\."):
            made(Path("cd"), out=Path("elsewhere/003.jpg"))
    with pytest.raises(WriteError, match=r"elsewhere/003\.jpg: is an input file, and would be replaced\."):
        headstart.predict(run, Path("cd"), out=Path("elsewhere/003.jpg"))
    assert contents(place) == before


# A place among the data


@pytest.mark.parametrize(
    ("words", "out", "data", "instead"),
    [
        ("check cd --out cd/cats/003.jpg", "cd/cats/003.jpg", "cd", "--out outside of it, such as {}/003.jpg"),
        ("check cd --out cd/checks.csv", "cd/checks.csv", "cd", "--out outside of it, such as {}/checks.csv"),
        (
            "check ./cd/ --out cd/new/checks.csv",
            "cd/new/checks.csv",
            "cd",
            "--out outside of it, such as {}/checks.csv",
        ),
        ("check cd --out link/checks.csv", "link/checks.csv", "cd", "--out outside of it, such as {}/checks.csv"),
        ("check link --out cd/checks.csv", "cd/checks.csv", "link", "--out outside of it, such as {}/checks.csv"),
        (
            "check cd --write-corrections cd/c.csv",
            "cd/c.csv",
            "cd",
            "--write-corrections outside of it, such as {}/c.csv",
        ),
        ("split cd --out cd/split.csv", "cd/split.csv", "cd", "--out outside of it, such as {}/split.csv"),
        ("embed cd --out cd/f.safetensors", "cd/f.safetensors", "cd", "--out outside of it, such as {}/f.safetensors"),
        ("evaluate run cd --out cd/eval", "cd/eval", "cd", "--out outside of it, such as {}/evaluation"),
        ("evaluate run cd --out cd", "cd", "cd", "--out outside of it, such as {}/evaluation"),
        ("explain run cd --out cd/sheets", "cd/sheets", "cd", "--out outside of it, such as {}/explained"),
        ("explain run one.jpg --data cd --out cd/x", "cd/x", "cd", "--out outside of it, such as {}/explained"),
    ],
)
def test_nothing_is_written_among_the_data(
    words: str, out: str, data: str, instead: str, place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "link").symlink_to("cd")
    before = contents(place)
    assert refused(words, capsys) == (
        f"WriteError: {out}: is inside the data ({data}), where it would be read as data the next time.\n"
        f"  Choose {instead.format(place)}.\n"
    )
    assert contents(place) == before


@pytest.mark.usefixtures("untouched")
def test_explain_keeps_out_of_the_images_of_the_training(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = trained.parent / "data"
    monkeypatch.chdir(data)
    before = contents(data)
    assert refused("explain ../run cats/001.jpg", capsys) == (
        f"WriteError: explained: is inside the data ({data}), where it would be read as data the next time.\n"
        f"  Choose --out outside of it, such as {data.parent / 'explained'}.\n"
    )
    assert contents(data) == before


def test_beside_the_data_everything_is_written_and_written_again(
    place: Path, run: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(place)
    given = f"--weights-dir {tiny_weights} --backbone test_resnet.a"
    for words in (
        "check cd --out checks.csv",
        "check t.csv --out cd/checks.csv",  # the table is the data, not the folder
        f"check cd --write-corrections corrections.csv {given}",
        "split cd --out split.csv",
        "split t.csv --out cd-of-t.csv",
        f"embed cd --out f.safetensors {given}",
        "evaluate run cd --out evaluated --no-report",
        "predict run cd one.jpg --out predictions.csv",
        "predict run cd --out cd/predictions.csv",
        "explain run one.jpg",
    ):
        for _ in range(2):
            assert cli.run(shlex.split(words)) == 0, capsys.readouterr().err
    after = contents(place)
    assert {name: after[name] for name in before} == before
    made = {name.split("/")[0] for name in set(after) - set(before)} - {"cd"}
    files = {"checks.csv", "corrections.csv", "split.csv", "cd-of-t.csv", "f.safetensors", "f.csv", "predictions.csv"}
    assert made == files | {"evaluated", "evaluated.previous", "explained", "explained.previous"}


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("evaluate run cd --out other --no-report", "evaluation"),
        ("explain run one.jpg --out other", "folder of explanations"),
        ("bundle --out other --offline", "bundle"),
        ("train cd --out other", "run"),
    ],
)
@pytest.mark.parametrize("files", [("export.json", "model.onnx"), ("weights.bin",)])
def test_a_folder_of_another_kind_is_not_replaced(
    words: str, kind: str, files: tuple[str, ...], place: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "other").mkdir()
    for name in files:
        (place / "other" / name).write_text("{}")
    write_manifest(place / "other")
    before = contents(place)
    assert refused(words, capsys).endswith(
        f"WriteError: other: is not an earlier {kind}; it is not replaced.\n  Choose another --out.\n"
    )
    assert contents(place) == before


def test_nothing_is_written_into_an_export(place: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its manifest lists every file, so one more would damage it."""
    export = place / "export"
    export.mkdir()
    (export / "export.json").write_text("{}")
    write_manifest(export)
    before = contents(place)
    for words in ("split cd --out export/split.csv", "evaluate run cd --out export/evaluated --no-report"):
        assert f"is in the export {export}, which must not change.\n  Choose another --out." in refused(words, capsys)
    assert contents(place) == before


@pytest.mark.parametrize("words", ["evaluate run cd --out run", "explain run one.jpg --out run", "bundle --out run"])
def test_a_run_is_not_replaced_by_something_else(
    words: str, place: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained, place / "run")
    shutil.copytree(trained, place / "run.previous")
    before = contents(place)
    assert refused(words, capsys).endswith(
        f"WriteError: run: is in the run folder {place / 'run'}, which must not change.\n  Choose another --out.\n"
    )
    assert contents(place) == before


def test_a_run_with_a_damaged_manifest_is_not_replaced_until_it_is_renamed(
    run: Path, place: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else says which files in it are headstart's; the message says how to train there all the same."""
    (run / "manifest.json").write_text("{")
    (run / "notes.txt").write_text("mine")
    before, words = contents(place), f"train cd --approach linear --no-report --out run --weights-dir {tiny_weights}"
    assert refused(words, capsys) == (
        "WriteError: run: its manifest.json is damaged, or was not written by headstart; it is not replaced.\n"
        "  Rename the folder, or remove it if you need nothing in it, and run the same command again; or choose another "
        "--out.\n"
    )
    assert contents(place) == before
    Path("run").rename("damaged")
    kept = contents(place / "damaged")
    assert cli.run(words.split()) == 0
    assert headstart.load_classifier(place / "run").classes and contents(place / "damaged") == kept


def test_a_previous_run_with_a_damaged_manifest_is_not_replaced_either(run: Path, place: Path) -> None:
    shutil.copytree(run, place / "run.previous", symlinks=True)
    (place / "run.previous" / "manifest.json").write_text("{")
    before = contents(place)
    with pytest.raises(WriteError) as caught:
        check_run_place(place / "run")
    assert contents(place) == before
    assert str(caught.value) == (
        f"{place}/run.previous: its manifest.json is damaged, or was not written by headstart; the earlier run would be kept "
        "there, replacing it.\n  Rename it, or choose another --out."
    )


# The table beside the features


@pytest.mark.parametrize(
    "text", ["path,label\na.jpg,cat\n", "path,label,split,group,sha256\n", "", "path;label;sha256\n"]
)
def test_embed_leaves_a_table_of_that_name_alone(
    text: str, place: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "photos.csv").write_text(text)
    before = contents(place)
    assert refused(f"embed cd --out photos.safetensors --weights-dir {tiny_weights}", capsys) == (
        "WriteError: photos.csv: exists and is not a table of features, so it is left alone.\n  Choose another --out.\n"
    )
    assert contents(place) == before


@pytest.mark.usefixtures("untouched")
def test_embed_does_not_replace_the_table_that_it_reads(tiny_weights: Path) -> None:
    with pytest.raises(WriteError, match=r"^t\.csv: is an input file, and would be replaced\."):
        headstart.embed(
            DataSource(Path("t.csv"), label_column="label"), out=Path("t.safetensors"), weights=tiny_weights
        )


# Corrections that somebody filled in


def suspects(tiny_weights: Path) -> str:
    return f"check wrong --write-corrections wf.csv --weights-dir {tiny_weights} --backbone test_resnet.a"


@pytest.mark.parametrize("cells", [{"new_label": "class0"}, {"drop": "x"}])
def test_corrections_that_were_filled_in_are_kept(
    cells: dict[str, str], place: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_photos(place / "wrong", each=20)
    draw(0, 500).save(data / "class1" / "odd.jpg")
    for _ in range(2):  # as long as nothing is filled in, it is written again
        assert cli.run(shlex.split(suspects(tiny_weights))) == 0
    rows = read_csv(place / "wf.csv")
    rows[0] |= cells
    write_csv(place / "wf.csv", list(rows[0]), [list(row.values()) for row in rows])
    before = contents(place)
    capsys.readouterr()
    assert refused(suspects(tiny_weights), capsys) == (
        "WriteError: wf.csv: has been edited, and would be replaced.\n"
        "  Apply them with --corrections wf.csv, or choose another --write-corrections.\n"
    )
    assert contents(place) == before
    assert cli.run(shlex.split(suspects(tiny_weights).replace("wf.csv", "wf-2.csv --corrections wf.csv"))) == 0


def test_a_file_that_holds_something_else_is_no_table_of_suspects(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "notes.csv").write_text("day,weather\n1,rain\n")
    before = contents(place)
    assert refused("check cd --write-corrections notes.csv", capsys) == (
        "WriteError: notes.csv: exists and was not written by this command, so it is left alone.\n"
        "  Choose another --write-corrections.\n"
        "  notes.csv: is not a table of corrections: expected the columns path and new_label or drop, found 'day', "
        "'weather'.\n"
    )
    assert contents(place) == before


# Folders of images that are no data set


def test_predict_and_explain_take_every_image_whatever_the_folders(place: Path, run: Path) -> None:
    for kind, folder in enumerate(("test", "beach", "misc")):
        (place / "hol" / folder).mkdir(parents=True)
        draw(0, 900 + kind).save(place / "hol" / folder / f"{kind}.jpg")
    shutil.copy(place / "one.jpg", place / "hol" / "misc" / "IMG_0001")  # images without a suffix are taken
    shutil.copy(place / "one.jpg", place / "hol" / "loose.jpg")
    (place / "hol" / "misc" / "bad.jpg").write_bytes(b"x")
    for name in ("misc/notes.txt", "misc/old.zip", "LICENSE", "labels.csv", ".hidden.jpg"):
        (place / "hol" / name).write_text("path,label\n")
    (place / "hol" / "gone.jpg").symlink_to("nowhere.jpg")
    expected = ("hol/beach/1.jpg", "hol/loose.jpg", "hol/misc/2.jpg", "hol/misc/IMG_0001", "hol/test/0.jpg")
    predicted = headstart.predict(run, Path("hol"), out=Path("p.csv")).predictions
    assert predicted.paths == expected
    assert predicted.errors == {"hol/gone.jpg": "not_a_file", "hol/misc/bad.jpg": "not_an_image"}
    explained = headstart.explain(run, Path("hol"), out=Path("sheets"))
    assert tuple(image.path for image in explained.images) == expected
    assert explained.errors == predicted.errors


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (("a", "b.JPG", "c.txt", "d.zip"), ("a", "b.JPG")),
        (
            ("train/x/1.jpg", "test/2.jpg", "test/3", "pred/4.jpg"),
            ("pred/4.jpg", "test/2.jpg", "test/3", "train/x/1.jpg"),
        ),
        (("cats/1.jpg", "cats/more/2", "3", "4.jpg"), ("4.jpg", "cats/1.jpg", "cats/more/2")),
        (("in/cats/1.jpg", "in/dogs/2.jpg", "in/Makefile"), ("in/cats/1.jpg", "in/dogs/2.jpg")),
    ],
)
def test_what_is_taken_for_an_image_by_its_name(
    files: tuple[str, ...], taken: tuple[str, ...], place: Path, run: Path
) -> None:
    for name in files:
        (place / "new" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "one.jpg", place / "new" / name)
    predicted = headstart.predict(run, Path("new")).predictions
    assert predicted.paths == tuple(f"new/{name}" for name in taken)
    assert predicted.errors == {}


def test_a_folder_without_images_is_said_to_be_one(place: Path, run: Path) -> None:
    os.makedirs(place / "none" / "below")
    (place / "none" / "below" / "notes.txt").write_text("x")
    with pytest.raises(NoImages, match=r"^none: holds no images \(1 other files: below/notes\.txt\)\."):
        headstart.predict(run, Path("none"))
