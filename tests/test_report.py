"""The page of a run: what stands on it, that names from the data stay text, and that the run folder stays whole."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import headstart
from conftest import draw, write_photos
from headstart import Recipe
from headstart.data.findings import Finding
from headstart.errors import BackboneError, DamagedRun, WriteError
from headstart.evaluation.metrics import compute_metrics
from headstart.io.folders import add_to_folder, check_manifest, write_manifest
from headstart.model.inference.predictions import Predictions
from headstart.pipeline.run_report import run_report, write_report
from headstart.reports.report_data import ReportData, SimilarImage, Suspect, mistakes
from headstart.reports.run_page import drawn_figures, report_page
from headstart.reports.sections import METRICS, confusions, json_for_script, verdict
from headstart.runs.run_folder import REPORT_FILES, RunFolder, load_classifier
from headstart.training.history import HistoryRow
from headstart.verbs.report import report

HOSTILE = (
    '<script>alert("1")</script>',
    "\"quoted\" 'twice'",
    "a\u202eb <!-- ",
    "حيوان",
    "🐈 & </title>",
    "{{ 7 * 7 }}",
    "x\ny",
    "</script><img src=x onerror=alert(1)>",
)


class Reader(HTMLParser):
    """The elements of a page, the text of each script, and the visible text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.elements if found == tag]


def made(
    classes: tuple[str, ...] = ("cat", "dog", "owl"),
    n: int = 60,
    wrong: int = 6,
    names: str = "test/{}.jpg",
    **more: object,
) -> ReportData:
    """A report of made-up predictions, without files; the first `wrong` images are taken for the class after theirs."""
    labels_N = np.arange(n) % len(classes)
    rng = np.random.default_rng(0)
    logits_NK = rng.normal(0, 0.3, (n, len(classes)))
    taken_N = np.where(np.arange(n) < wrong, (labels_N + 1) % len(classes), labels_N)
    logits_NK[np.arange(n), taken_N] += 4
    predictions = Predictions(tuple(names.format(i) for i in range(n)), classes, logits_NK.astype(np.float32), labels_N)
    return ReportData("pets", predictions, compute_metrics(logits_NK, labels_N, classes, resamples=50), **more)  # type: ignore[arg-type]


def _plain(markup: str) -> str:
    return html.unescape(re.sub("<[^>]*>", "", markup))


# Text and structure


def test_a_page_has_all_sections_in_order_and_makes_no_request() -> None:
    page = report_page(made())
    reader = Reader(page)
    assert [a["id"] for a in reader.all("section")] == [
        *("verdict", "metrics", "compared", "classes", "confusion", "confidence", "training", "mistakes", "labels"),
        *("copies", "checks", "cost", "reproduce"),
    ]
    anchors = {a["href"] for a in reader.all("a")}
    assert anchors == {"#" + str(a["id"]) for a in reader.all("section")}
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?!data:|#)[a-z]+:""", page)
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert "url(" not in page.replace("url(#", "") and "@import" not in page


def test_the_policy_allows_the_one_script_and_no_request() -> None:
    reader = Reader(report_page(made()))
    policy = next(a["content"] for a in reader.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(reader.scripts[1].encode()).digest()).decode()
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{digest}'"
    )


def test_metrics_stand_with_their_intervals() -> None:
    found = made()
    text = Reader(report_page(found)).text
    accuracy = found.metrics["accuracy"]
    assert f"{accuracy.value:.3f} {accuracy.low:.3f}\u2013{accuracy.high:.3f}" in text
    assert all(METRICS[key] in text for key in ("accuracy", "log_loss", "ece"))


def test_the_verdict_is_three_sentences() -> None:
    found = made(n=60, wrong=6)
    assert [_plain(s) for s in verdict(found)] == [
        "It gets 90.0\u202f% of 60 test images right (95\u202f% interval 79.9\u202f% to 95.3\u202f%); "
        "always answering cat would get 33.3\u202f%.",
        "Its most frequent mistake is to predict dog for cat (2 of 20 times); the weakest class is cat (F1 0.900).",
        "With this many test images, differences of less than 7.7 points are within the noise.",
    ]
    leak = Finding("split_leak", "error", ("a", "b"), "2 images are the same.")
    assert _plain(verdict(replace(found, findings=(leak,)))[2]) == (
        "Do not trust this result yet: copies of an image are in different sets of the split, see data checks."
    )
    suspects = (Suspect("a", "cat", "dog", 0.01), Suspect("b", "cat", "dog", 0.5))
    assert _plain(verdict(replace(found, suspects=suspects))[2]) == "1 label looks wrong; review the list first."


def test_training_that_broke_off_is_in_the_verdict_and_beside_the_curves() -> None:
    rows = tuple({"epoch": n, "train_loss": 2.0 - n, "val_loss": 1.0 - n / 2} for n in range(2))
    found = made(epochs=rows, stopped="the validation loss is nan after epoch 3.")
    said = "Broke off: the validation loss is nan after epoch 3; the weights are those of epoch 2, and a lower --lr may help."
    assert _plain(verdict(found)[2]) == said
    assert Reader(report_page(found)).text.count(said) == 2
    assert "Broke off" not in _plain(verdict(replace(found, trained=False))[2])


def test_the_most_confident_mistakes_come_first() -> None:
    found = made(wrong=7)
    rows = mistakes(found.predictions)
    sure = found.predictions.probabilities.max(axis=1)[rows]
    assert sorted(rows) == list(range(7)) and (np.diff(sure) <= 0).all()
    cards = [a for a in Reader(report_page(found)).all("li") if a.get("class") == "mistake"]
    assert [float(str(a["data-sure"])) for a in cards] == pytest.approx(list(sure))


def test_the_cells_of_the_matrix_are_its_counts() -> None:
    found = made()
    cells = [a for a in Reader(report_page(found)).all("button") if a.get("class") == "cell"]
    counts = {(int(str(a["data-true"])), int(str(a["data-predicted"]))): str(a["aria-label"]) for a in cells}
    expected = {
        (i, j): int(found.metrics.confusion[i, j]) for i, j in zip(*found.metrics.confusion.nonzero(), strict=True)
    }
    assert {key: int(label.split()[0]) for key, label in counts.items()} == expected
    assert counts[0, 1] == "2 of cat predicted dog"


# Names that mean harm


def test_names_are_text_wherever_they_stand() -> None:
    found = made(classes=HOSTILE, n=80, wrong=16, names="test/{}" + HOSTILE[7] + ".jpg")
    path = found.predictions.paths[0]
    found = replace(
        found,
        title=HOSTILE[0],
        facts=(("made by", HOSTILE[1]), ("images", HOSTILE[7])),
        trials=(
            HistoryRow(
                stage="head",
                backbone=HOSTILE[7],
                approach="linear",
                head=HOSTILE[0],
                strength=1.0,
                n_images=5,
                loo_log_loss=0.1,
                loo_accuracy=0.9,
                val_log_loss=0.1,
                val_accuracy=0.9,
                seconds=1.0,
            ),
        ),
        findings=(Finding("x", "error", HOSTILE, f"{HOSTILE[0]} is bad."),),
        near={0: (SimilarImage(HOSTILE[7], HOSTILE[0], 0.5),)},
        suspects=(Suspect(path, HOSTILE[0], HOSTILE[7], 0.1, "train"),),
        groups=((HOSTILE[0], HOSTILE[7]),),
        labels={HOSTILE[0]: HOSTILE[7]},
        balance={c: {"train": 3} for c in HOSTILE},
        commands=(("Again:", HOSTILE[7]),),
        missing={"cost": HOSTILE[0]},
    )
    page = report_page(found)
    reader = Reader(page)
    assert len(reader.scripts) == 2 and "alert" not in reader.scripts[1]
    assert not [a for a in reader.all("img") if a.get("onerror") or a.get("src") == "x"]
    assert "49" not in re.sub(r"[\d.,]{3,}", "", reader.text.split("reproduce")[0][:400])
    assert "\u202e" not in page and "حيوان" in reader.text
    assert HOSTILE[0] in reader.text and HOSTILE[7] in reader.text
    data = json.loads(reader.scripts[0])
    assert data["classes"][7] == HOSTILE[7] and data["classes"][6] == "x\\ny"


def test_json_in_a_script_cannot_end_it() -> None:
    text = str(json_for_script({"a": "</script><!--&"}))
    assert json.loads(text) == {"a": "</script><!--&"} and not set("<>&") & set(text)


def test_names_that_are_not_unicode_can_be_written() -> None:
    report_page(made(classes=("a\udce9", "b"), names="t\udcff{}.jpg")).encode("utf-8")


# Runs of all kinds


@pytest.mark.parametrize("wrong", [0, 1])
def test_a_run_with_hardly_a_mistake(wrong: int) -> None:
    found = made(wrong=wrong)
    text = Reader(report_page(found)).text
    assert ("No mistakes." in text) == (wrong == 0)
    assert len(confusions(found)) == wrong
    if not wrong:
        assert verdict(found)[1] == (
            "It made no mistakes; with this many test images, an error rate of up to 6.0\u202f% is still possible."
        )


def test_two_hundred_classes_have_a_list_instead_of_cells() -> None:
    found = made(classes=tuple(f"class {k}" for k in range(200)), n=600, wrong=30)
    page = report_page(found)
    buttons = [a for a in Reader(page).all("button") if "cell" in str(a.get("class"))]
    assert len(buttons) == 30 and "200 classes are too many for a clickable table" in page
    assert len(page) < 1_500_000


def test_images_of_one_class_only() -> None:
    classes = ("cat", "dog")
    logits_NK = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    predictions = Predictions(("a", "b", "c"), classes, logits_NK.astype(np.float32), np.zeros(3, np.int64))
    text = Reader(
        report_page(ReportData("one", predictions, compute_metrics(logits_NK, np.zeros(3, int), classes)))
    ).text
    assert "to predict dog for cat (once)." in text and "\u2013" in text


def test_what_is_missing_is_said_in_a_sentence() -> None:
    gone = {
        "images": "The images are not at /gone any more.",
        "labels": "No features.",
        "training": "Fitted directly.",
    }
    text = Reader(report_page(made(missing=gone))).text
    assert all(sentence in text for sentence in gone.values())


# Real runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> tuple[Path, Path]:
    """(data, run) of a linear training on images of which some labels are wrong and two are copies."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
    place = tmp_path_factory.mktemp("report")
    data = place / "photos"
    write_photos(data / "train")
    write_photos(data / "test", each=6, first=50)
    shutil.copy(data / "train" / "class0" / "000.jpg", data / "train" / "class0" / "copy.jpg")
    for n in range(4):
        draw(1, 100 + n).save(data / "test" / "class0" / f"wrong{n}.jpg")
    recipe = Recipe(backbone="test_resnet.a", approach="linear")
    headstart.train(data, out=place / "run", recipe=recipe, weights=tiny_weights)
    monkeypatch.undo()
    return data, place / "run"


def test_train_writes_the_page_and_its_figures(trained: tuple[Path, Path]) -> None:
    _, run = trained
    assert {p.name for p in (run / "plots").iterdir()} == {
        f"{name}.{kind}"
        for name in ("balance", "classes", "confusion", "coverage", "reliability", "sizes")
        for kind in ("png", "svg")
    }
    check_manifest(run)
    page = (run / "report.html").read_text(encoding="utf-8")
    data = json.loads(Reader(page).scripts[0])
    rows = (run / "predictions.csv").read_text().splitlines()[1:]
    assert len(data["rows"]) == len(rows) == 22 and all(row[4] >= 0 for row in data["rows"])
    assert "copy.jpg" in page and "Nothing was trained by gradient descent" in page
    assert '"report"' in (run / "metrics.json").read_text()


def test_fine_tuning_that_is_not_taken_is_shown_all_the_same(
    photos: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headstart.pipeline import combine

    monkeypatch.setattr(combine, "CLEAR_GAIN", 1.0)
    recipe = Recipe(backbone="test_resnet.a", epochs=2, budget="2m")
    run = headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights)
    known = run.provenance
    assert known.tuned is None and known.attempt is not None and known.attempt.epochs == 2
    assert known.why.endswith("fine-tuning does not clearly pay.")
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    headstart.report(tmp_path / "run")
    for text in (page, (tmp_path / "run" / "report.html").read_text(encoding="utf-8")):
        assert "Fine-tuning was tried, but is not part of this classifier. Validation log-loss: frozen " in text
        assert "Nothing was trained by gradient descent" not in text
    assert (tmp_path / "run" / "plots" / "curves.svg").is_file() and (tmp_path / "run" / "epochs.csv").is_file()
    assert headstart.reproduce(tmp_path / "run", weights=tiny_weights).same


def test_no_report(tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    recipe = Recipe(backbone="test_resnet.a", approach="linear")
    headstart.train(photos, out=tmp_path / "run", recipe=recipe, weights=tiny_weights, report=False)
    assert not (tmp_path / "run" / "report.html").exists() and not (tmp_path / "run" / "plots").exists()


def test_report_writes_the_page_again(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    said = report(copy)
    assert said.out == str(copy / "report.html") and said.mistakes >= 2
    load_classifier(copy)  # the manifest holds
    page = (copy / "report.html").read_text(encoding="utf-8")
    before = (run / "report.html").read_text(encoding="utf-8")
    assert sum("heat" in str(a.get("class")) for a in Reader(page).all("img")) == said.mistakes
    for section in ("metrics", "compared", "classes", "labels", "copies", "checks"):
        assert _section(page, section) == _section(before, section)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def _section(page: str, name: str) -> str:
    """A section's text, without what differs from one writing to the next: ids of figures, numbers of thumbnails."""
    found = re.search(f'<section id="{name}".*?</section>', page, re.DOTALL)
    assert found
    return re.sub(r"<svg.*?</svg>|data-image=\"\d+\"", "", found[0], flags=re.DOTALL)


def test_report_without_the_images_says_so(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = trained
    shutil.copytree(run, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "headstart.json").read_text())
    described["provenance"]["data"]["path"] = str(tmp_path / "gone")
    (tmp_path / "run" / "headstart.json").write_text(json.dumps(described, indent=2) + "\n")
    write_manifest(tmp_path / "run")
    said = report(tmp_path / "run", out=tmp_path / "page.html")
    sentence = f"The images are no longer at {tmp_path / 'gone'}, so none are shown: give their place with --data DATA."
    assert sentence in said.notes
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert sentence in html.unescape(page) and "copy.jpg" in page
    assert json.loads(Reader(page).scripts[0])["thumbnails"] == []
    again = report(tmp_path / "run", data=data, out=tmp_path / "page.html")
    assert sentence not in again.notes


def test_report_without_some_images_counts_them_and_says_so(trained: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = trained
    there = shutil.copytree(data, tmp_path / "photos")
    for name in ("copy.jpg", "000.jpg", "001.jpg"):
        (there / "train" / "class0" / name).unlink()
    whole, part = (run_report(RunFolder(run), place, heat=False) for place in (data, there))
    assert part.balance == whole.balance and part.balance["class0"]["train"] > 3
    assert (part.groups, part.labels, part.splits, part.costs) == (
        whole.groups,
        whole.labels,
        whole.splits,
        whole.costs,
    )
    sentence = "3 images of the run are missing or changed, and are not shown; counts and figures include them."
    assert part.missing["images"] == sentence and "images" not in whole.missing
    said = report(run, data=there, out=tmp_path / "page.html", heat=False)
    assert said.notes.count(sentence) == 1 and sentence in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_changed_file_is_still_refused(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "split.csv").write_text("changed")
    with pytest.raises(DamagedRun, match=r"split\.csv: has changed since it was written"):
        report(tmp_path / "run")


def test_a_damaged_page_is_written_again(trained: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = trained
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "report.html").write_text("half a page")
    (copy / "plots" / "classes.png").unlink()
    (copy / "README.md").write_text("my notes")
    (copy / "plots" / "stranger.png").write_bytes(b"")
    report(copy, heat=False)
    opened = RunFolder(copy)
    for name in ("report.html", "plots/classes.png"):
        opened.checked(name)
    assert opened.files["README.md"] == RunFolder(run).files["README.md"]
    assert not opened.has("plots/stranger.png")


def test_a_page_of_its_own_may_not_lie_in_a_run(trained: tuple[Path, Path]) -> None:
    _, run = trained
    with pytest.raises(WriteError, match="is in the run folder"):
        report(run, out=run / "other.html")


def test_evaluate_writes_a_page(trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, run = trained
    found = headstart.evaluate(run, data, out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert f"{found.metrics.n} test images right" in page
    assert found.known == 0 and "the metrics are too optimistic" not in caplog.text
    check_manifest(tmp_path / "out")
    again = headstart.evaluate(run, data / "train")
    assert again.known == again.metrics.n == 43
    assert (
        "43 of these 43 images are in the run's training or validation set, so the metrics are too optimistic."
        in caplog.text
    )
    headstart.evaluate(run, data, out=tmp_path / "bare", report=False)
    assert not (tmp_path / "bare" / "report.html").exists()


def test_a_page_that_cannot_be_made_does_not_cost_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> ReportData:
        raise ZeroDivisionError("no")

    write_report(tmp_path, broken)
    assert list(tmp_path.iterdir()) == []
    assert "report.html could not be made: ZeroDivisionError('no')" in caplog.text

    def unreadable() -> ReportData:
        raise BackboneError("net.a: its weights have changed.")

    write_report(tmp_path, unreadable)
    said = "report.html could not be made: net.a: its weights have changed. Try again with `headstart report`."
    assert said in caplog.messages

    def full() -> ReportData:
        raise WriteError("The disk is full.")

    with pytest.raises(WriteError):
        write_report(tmp_path, full)


def test_files_are_added_to_a_folder_with_its_manifest(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "a").write_text("a")
    write_manifest(folder)
    listed = check_manifest(folder)
    (folder / "a").write_text("changed meanwhile")
    add_to_folder(folder, {"plots/sizes.png": b"b", "report.html": b"c"}, listed=listed)
    with pytest.raises(DamagedRun, match="a: has changed since it was written"):
        check_manifest(folder)
    (folder / "a").write_text("a")
    assert set(check_manifest(folder)) == {"a", "plots/sizes.png", "report.html"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_the_figures_are_those_that_can_be_written() -> None:
    columns = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "seconds")
    rows = (dict.fromkeys(columns, 0.5),)
    steps = ({"step": 0.0, "epoch": 0.0, "lr": 0.1, "loss": 1.0},)
    everything = made(epochs=rows, steps=steps, balance={"cat": {"train": 1}}, sizes_N2=np.array([[3, 4]]))
    names = drawn_figures(everything).keys()
    assert {f"plots/{name}.{kind}" for name in names for kind in ("png", "svg")} | {"report.html"} == REPORT_FILES
