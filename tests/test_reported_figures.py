"""What stands beside the figures of a run, an evaluation and a comparison: groups of images, images of the training, the
heads that were taken."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import headstart
from conftest import draw
from headstart import DataSource, Recipe
from headstart.evaluation.image_groups import about_groups
from headstart.evaluation.metrics import compute_metrics
from headstart.exporters.parity_images import parity_images
from headstart.pipeline.comparison import paired
from headstart.pipeline.run_report import run_report
from headstart.reports.compare_page import ComparePageData, compare_page
from headstart.reports.model_card import made_by, model_card
from headstart.reports.report_data import kind_of_trial
from headstart.reports.sections import judged_on, trial_rows, verdict
from headstart.runs.provenance import HeadRecord, Provenance
from headstart.runs.run_folder import RunFolder
from headstart.training.history import HistoryRow
from test_compare import predictions
from test_compare_page import contender

BY_PATIENT = r"(patient\d+)"
RECIPE = Recipe(backbone="test_resnet.a+test_efficientnet.b", approach="linear", pooling="last")


def write_patients(folder: Path, patients: range, each: int = 4) -> None:
    for patient in patients:
        for k in range(2):
            (folder / f"class{k}").mkdir(parents=True, exist_ok=True)
            for n in range(each // 2):
                draw(k, 20 * patient + 2 * n + k).save(folder / f"class{k}" / f"patient{patient}_{n}.jpg")


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Iterator[tuple[Path, Path]]:
    """(data, run): two backbones on 12 patients for training and 5 for the test, four images of each."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path_factory.mktemp("cache")))
    place = tmp_path_factory.mktemp("patients")
    write_patients(place / "data" / "train", range(12))
    write_patients(place / "data" / "test", range(12, 17))
    source = DataSource(place / "data", group_from=BY_PATIENT)
    headstart.train(source, out=place / "run", recipe=RECIPE, weights=tiny_weights)
    yield place / "data", place / "run"
    monkeypatch.undo()


# Groups


def test_a_run_on_groups_says_so_beside_its_figures(patients: tuple[Path, Path]) -> None:
    _, run = patients
    written = json.loads((run / "metrics.json").read_text())
    assert written["test"]["groups"] == 5
    assert written["test"]["overall"]["accuracy"]["method"] == "Wilson at the effective n of 5 groups (Rao-Scott)"
    assert RunFolder(run).metrics.test.groups == 5
    sentence = "Images of one group are not independent, so intervals and tests are over whole groups: 5 groups."
    assert sentence == about_groups(5)
    assert sentence in (run / "README.md").read_text()
    assert sentence in (run / "report.html").read_text()
    assert judged_on(run_report(RunFolder(run), None, heat=False)).endswith(f"used for model selection. {sentence}")


def test_an_evaluation_on_groups_says_so(patients: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = patients
    found = headstart.evaluate(run, DataSource(data, group_from=BY_PATIENT), out=tmp_path / "out")
    assert found.metrics.groups == found.to_json()["groups"] == 5
    assert about_groups(5) in found.table().splitlines()
    assert about_groups(5) in (tmp_path / "out" / "report.html").read_text()
    assert headstart.evaluate(run, data).metrics.groups == 0


def test_files_that_are_identical_are_one_group_of_an_evaluation(patients: tuple[Path, Path], tmp_path: Path) -> None:
    """Ten photographs, each present twelve times: as much evidence as ten."""
    _, run = patients
    for n in range(10):
        for copy in range(12):
            place = tmp_path / "data" / f"class{n % 2}" / f"{n}_{copy}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            draw(n % 2, 700 + n).save(place)
    metrics = headstart.evaluate(run, tmp_path / "data", out=tmp_path / "out").metrics
    assert (metrics.n, metrics.groups) == (120, 10)
    assert about_groups(10) in (tmp_path / "out" / "report.html").read_text()
    assert metrics["accuracy"].low < 0.723  # Wilson's bound for 10 of 10; for 120 of 120 it is 0.969


def test_pairs_on_groups_are_tested_on_groups_with_a_note() -> None:
    paths = [f"{patient}/{n}.jpg" for patient in range(10) for n in range(8)]
    good, bad = [True] * 80, [patient > 3 for patient in range(10) for _ in range(8)]
    made = {"good": predictions(paths, good), "bad": predictions(paths, bad)}
    found, notes = paired(made, seed=0, groups={path: int(path[0]) for path in paths})
    assert notes == [about_groups(10)]
    assert (found[0].p, found[0].verdict) == (2 / 2**4, "tie")  # four patients are in favour of the first, none against
    alone, notes = paired(made, seed=0, groups={path: n for n, path in enumerate(paths)})
    assert (alone, notes) == paired(made, seed=0)
    assert (alone[0].verdict, notes) == ("a beats b", [])
    page = ComparePageData("A", "Take a.", "a", [contender("a", good), contender("b", bad)], found, [], (), "compare")
    assert "McNemar" in compare_page(page) and "whole groups" not in compare_page(page)
    grouped = compare_page(replace(page, groups=10))
    assert about_groups(10) in grouped and "flips of the signs of whole groups of images" in grouped
    assert "McNemar" not in grouped


def test_an_export_is_compared_on_the_groups_of_the_run(patients: tuple[Path, Path]) -> None:
    found = parity_images(RunFolder(patients[1]), None, most=12, splits=("test",))
    there = {path.name.split("_")[0] for path in found.images.refs}
    assert len(found) == 12 and len(set(found.groups_N.tolist())) == len(there) <= 5
    again = found.take([1, 0])
    assert again.groups_N.tolist() == found.groups_N[[1, 0]].tolist()


def test_the_report_says_how_each_trial_was_scored(patients: tuple[Path, Path]) -> None:
    history = RunFolder(patients[1]).history
    assert {row.stage for row in history} == {"choose", "head"}
    for row in history:
        assert [math.isnan(row.loo_log_loss), math.isnan(row.cv_log_loss)] == [
            row.stage == "head",
            row.stage == "choose",
        ]
    by = {row["stage"]: row["by"] for row in trial_rows(history, frozenset())}
    assert by == {"head": "cross-validation", "choice of backbone": "leave-one-out"}


# Images of the training


def test_an_evaluation_on_images_of_the_training_says_so(patients: tuple[Path, Path], tmp_path: Path) -> None:
    data, run = patients
    found = headstart.evaluate(run, data / "train", out=tmp_path / "known")
    sentence = "48 of these 48 images are in the run's training or validation set, so the metrics are too optimistic."
    assert found.known == json.loads((tmp_path / "known" / "metrics.json").read_text())["known"] == 48
    assert found.table().splitlines()[0] == sentence
    page = (tmp_path / "known" / "report.html").read_text()
    assert f'<div class="lead"><p>{html.escape(sentence)}</p>'.replace("&#x27;", "&#39;") in page
    assert "used once" not in page


def test_only_a_runs_own_report_says_that_the_test_images_were_used_once(
    patients: tuple[Path, Path], tmp_path: Path
) -> None:
    data, run = patients
    assert "20 test images, used once" in (run / "report.html").read_text()
    assert headstart.evaluate(run, data, out=tmp_path / "out").known == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "20 test images." in page and "used once" not in page and "too optimistic" not in page
    own = run_report(RunFolder(run), None, heat=False)
    assert len(verdict(own)) == len(verdict(replace(own, known=0))) == 3
    assert len(verdict(replace(own, known=1))) == 4


# Heads


def test_the_trials_marked_are_those_of_the_heads_that_were_fitted(patients: tuple[Path, Path]) -> None:
    run = RunFolder(patients[1])
    heads, found = run.provenance.heads, run_report(run, None, heat=False)
    assert len(heads) == len(run.classifier.members) == 2
    assert run.provenance.head == heads[0]
    assert Provenance.from_json(run.provenance.to_json()).heads == heads
    taken = [found.trials[i] for i in sorted(found.taken)]
    assert [(t.stage, t.backbone) for t in taken] == [("head", "test_resnet.a"), ("head", "test_efficientnet.b")]
    assert [HeadRecord(t.head, None if math.isnan(t.strength) else t.strength) for t in taken] == list(heads)
    kinds = " and ".join(dict.fromkeys(head.kind for head in heads))
    assert f". Frozen backbones, 2 heads ({kinds}); model " in (patients[1] / "README.md").read_text()
    three = replace(run.provenance, heads=tuple(HeadRecord(kind, 0.1) for kind in ("lda", "ridge", "blend")))
    assert made_by(three) == "Frozen backbones, 3 heads (lda, ridge and blend)"
    assert made_by(replace(three, heads=three.heads[:1])) == "Frozen backbone, lda head"
    bold = [row for row in trial_rows(found.trials, found.taken) if row["chosen"]]
    assert {row["loss"] for row in bold} == {t.cv_log_loss for t in taken}


def head(kind: str, strength: float, loo: float, val: float) -> HistoryRow:
    return HistoryRow(
        stage="head",
        backbone="net",
        approach="linear",
        head=kind,
        strength=strength,
        n_images=100,
        loo_log_loss=loo,
        val_log_loss=val,
        seconds=1.0,
    )


def test_the_strength_shown_is_the_one_that_leave_one_out_chose() -> None:
    trials = [head("lda", 0.1, 0.30, 0.20), head("lda", 0.2, 0.29, 0.28), head("logistic", 1.0, math.nan, 0.25)]
    rows = trial_rows(trials, frozenset({2}))
    assert [(row["head"], row["loss"], row["chosen"]) for row in rows] == [
        ("logistic", 0.25, True),
        ("lda", 0.28, False),
    ]
    assert [row["loss"] for row in trial_rows(trials, frozenset({0})) if row["chosen"]] == [0.20]
    assert kind_of_trial(trials[0]) == kind_of_trial(trials[1])


def test_a_run_of_two_heads_that_recorded_the_first_only_marks_that_one(patients: tuple[Path, Path]) -> None:
    described = RunFolder(patients[1]).provenance.to_json()
    first = Provenance.from_json({key: value for key, value in described.items() if key != "heads"})
    assert first.heads == RunFolder(patients[1]).provenance.heads[:1]


def test_the_weakest_class_is_one_that_images_have(patients: tuple[Path, Path]) -> None:
    run = RunFolder(patients[1])
    labels = np.array([1, 1, 1, 2, 2])
    logits = np.eye(3)[[1, 1, 1, 2, 1]]
    metrics = compute_metrics(logits, labels, ("absent", "good", "bad"), resamples=20)
    assert metrics.weakest == "bad"
    card = model_card(run.classifier, run.provenance, None, metrics, [])
    assert "\nThe weakest class is 'bad': recall 0.500 [0.095, 0.905].\n" in card
