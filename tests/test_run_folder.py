"""A run folder as files: a frozen example that every version has to read, and what is said of folders of other formats.

`python tests/test_run_folder.py` writes the example again; that is for a new `FORMAT` only, under its own name.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import SmallRun, write_photos
from headstart.data.curation import Curation
from headstart.data.data_source import DataSource
from headstart.errors import BadWeights, DamagedRun, DataError, HeadstartError, MissingRun, UnsupportedRun
from headstart.io.files import csv_bytes, json_bytes, png_bytes, read_csv, read_json
from headstart.io.folders import MANIFEST, folder_aside, write_manifest
from headstart.model.inference.predictions import Predictions, read_predictions, write_predictions
from headstart.runs.provenance import CopiesRecord, CorrectionsRecord
from headstart.runs.run_folder import (
    CLASSIFIER,
    CORRECTIONS,
    FORMAT,
    METRICS,
    MODEL_CARD,
    PREDICTIONS,
    SPLIT,
    RunFolder,
    RunRecord,
    TrainingLog,
    copy_classifier,
    load_classifier,
    write_metrics,
    write_model_card,
    write_run,
)

FROZEN = Path(__file__).parent / "data" / f"run-format-{FORMAT}"
PHOTOS = Path("/photos")
"""Where the example's images were."""


def record_of(run: RunFolder) -> RunRecord:
    return RunRecord(
        classifier=run.classifier,
        provenance=run.provenance,
        split=run.split,
        predictions=run.predictions,
        history=run.history,
        findings=run.findings,
        copies=run.copies,
        corrections=run.corrections,
        not_copies=run.not_copies,
        training=run.training,
    )


def write_again(run: RunFolder, folder: Path, record: RunRecord) -> None:
    with folder_aside(folder) as aside:
        write_run(aside, record)
        write_metrics(aside, run.metrics)
        write_model_card(aside, run.file(MODEL_CARD).read_text(encoding="utf-8"))


def make_frozen(folder: Path) -> None:
    """Train the example: a network of 6,000 numbers on 44 images, with one of everything that a run can hold."""
    import timm
    import torch
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        here = Path()
        torch.manual_seed(0)
        args = {"channels": [4, 4, 8, 8], "stem_width": 4}
        network = timm.create_model("test_resnet", num_classes=0, **args)
        (here / "weights").mkdir()
        save_file(network.state_dict(), here / "weights" / "test_resnet.example.safetensors")
        config = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "license": "apache-2.0"}
        described = {"architecture": "test_resnet", "num_classes": 0, "model_args": args, "pretrained_cfg": config}
        (here / "weights" / "test_resnet.example.json").write_text(json.dumps(described))
        write_photos(here / "photos")
        shutil.copy(here / "photos/class0/000.jpg", here / "photos/class0/copy.jpg")
        (here / "photos/class1/broken.jpg").write_bytes(b"\xff\xd8\xff")
        (here / "fix.csv").write_bytes(
            csv_bytes(("path", "new_label", "drop"), [("class0/003.jpg", "class1", ""), ("class1/004.jpg", "", "x")])
        )
        (here / "not.csv").write_bytes(
            csv_bytes(("path", "copy", "not_copies"), [("class0/001.jpg", "class0/002.jpg", "x")])
        )
        headstart.train(
            here / "photos",
            out=here / "run",
            recipe=headstart.Recipe(approach="finetune", epochs=2, batch_size=16, precision="f32", image_size=32),
            weights=here / "weights",
            curation=Curation(corrections=here / "fix.csv", not_copies=here / "not.csv"),
            report=False,
        )
        run = RunFolder(here / "run")
        data = replace(run.provenance.data, source=DataSource(PHOTOS))
        sheet = Image.open(io.BytesIO(run.training_images_png))
        sheet.thumbnail((64, 64))
        training = TrainingLog(run.epochs, run.steps, png_bytes(sheet))
        write_again(
            run, folder, replace(record_of(run), provenance=replace(run.provenance, data=data), training=training)
        )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the example to do harm to."""
    return Path(shutil.copytree(FROZEN, tmp_path / "run"))


def edited(run: Path, change: Callable[[dict[str, Any]], object], name: str = CLASSIFIER) -> Path:
    """A run whose JSON is changed, with a manifest that agrees."""
    known = read_json(run / name)
    change(known)
    (run / name).write_bytes(json_bytes(known))
    write_manifest(run)
    return run


# The frozen example


def test_the_frozen_example_is_read_in_every_field() -> None:
    run = RunFolder(FROZEN)
    classifier, made = run.classifier, run.provenance
    assert classifier.id == "a4079294b66b9f4a"
    assert classifier.classes == ("class0", "class1", "class2")
    (member,) = classifier.members
    assert str(member.extractor) == "test_resnet.example at 32 px, fine-tuned"
    assert member.layer.weight_DK.shape == (8, 3)
    assert member.extractor.backbone.model_args == (("channels", [4, 4, 8, 8]), ("stem_width", 4))
    assert 0.5 < classifier.calibration.temperature < 2 and 0 < classifier.calibration.clip < 1 / 6
    assert (classifier.calibration.conformal_alpha, classifier.runtime.precision) == (0.1, "f32")
    assert made.recipe.as_dict().items() >= {"approach": "finetune", "epochs": 2, "image_size": 32}.items()
    assert (made.approach, made.seed, made.chosen) == ("finetune", 0, ("test_resnet.example",))
    assert (made.head, made.attempt, made.why) == (None, None, "")
    assert made.tuned is not None and made.training is made.tuned
    assert (made.tuned.epochs, made.tuned.best_epoch, made.tuned.wise_ft) == (2, 1, 1.0)
    assert made.tuned.trained == ("layer1.0", "layer2.0", "layer3.0", "layer4.0", "head")
    assert made.data.source == DataSource(PHOTOS) and made.source() == made.data.source
    assert made.source(Path("here")) == DataSource(Path("here"))
    assert (made.data.images, len(made.data.fingerprint), len(made.split_hash)) == (42, 64, 64)
    assert made.corrections == CorrectionsRecord(relabelled=1, dropped=1)
    assert made.copies == CopiesRecord(limit=made.copies.limit, refused=1)
    assert made.versions["headstart"] == "0.1.0"


def test_the_tables_of_the_frozen_example() -> None:
    run = RunFolder(FROZEN)
    assert [sum(row.split == name for row in run.split) for name in ("train", "val", "test")] == [24, 9, 9]
    assert run.split[0].path == "class0/000.jpg" and run.split[0].label == "class0" and run.split[0].group == 0
    assert len(run.training_rows) == 33 and run.split[0].sha256 in {row.sha256 for row in run.split}
    assert run.training_sha256s == {row.sha256 for row in run.split if row.split in ("train", "val")}
    assert run.predictions.errors == {"class1/broken.jpg": "truncated"} and len(run.predictions) == 9
    assert {row.stage for row in run.history} == {"head", "finetune"}
    last = run.history[-1]
    assert (last.stage, last.approach, last.head, last.wise_ft, last.n_images) == ("finetune", "finetune", "", 1.0, 24)
    assert math.isnan(last.strength) and math.isnan(last.loo_log_loss)
    assert [row.epoch for row in run.epochs] == [0, 1] and [row.step for row in run.steps] == [0, 1, 2, 3]
    assert run.metrics.test.n == run.metrics.val.n == 9 and run.metrics.seconds["total"] > 0
    assert {finding.check for finding in run.findings} >= {"truncated", "exact_duplicates"}
    (pair,) = run.copies
    assert (pair.path, pair.copy, pair.evidence) == ("class0/000.jpg", "class0/copy.jpg", "same_file")
    assert [(row.path, row.new_label, row.drop) for row in run.corrections.rows] == [
        ("class0/003.jpg", "class1", False),
        ("class1/004.jpg", "", True),
    ]
    assert [(row.path, row.copy) for row in run.not_copies.rows] == [("class0/001.jpg", "class0/002.jpg")]
    assert run.training_images_png.startswith(b"\x89PNG")


def test_the_frozen_example_predicts_what_it_predicted(tmp_path: Path) -> None:
    """To 0.02: JPEGs made by another version of Pillow may differ in a few levels."""
    photos, said = write_photos(tmp_path / "photos"), RunFolder(FROZEN).predictions
    shutil.copy(photos / "class0/000.jpg", photos / "class0/copy.jpg")
    now = headstart.predict(FROZEN, *(photos / path for path in said.paths)).predictions
    assert now.probabilities == pytest.approx(said.probabilities, abs=0.02)


def test_a_run_that_is_replaced_after_it_was_opened_gives_no_answers(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its network would be the new one's with the old head, and be kept in the cache as the old one's."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    opened = load_classifier(copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1  # one bit of one weight
    weights.write_bytes(content)
    os.utime(weights, ns=(1, 1))
    with pytest.raises(BadWeights, match="has changed since it was selected"):
        headstart.Predictor(opened).predict([np.zeros((32, 32, 3), np.uint8)])


def test_written_again_it_is_the_same_to_the_byte(tmp_path: Path) -> None:
    """All but the last digits of probabilities, which are kept as float32 logits in memory."""
    write_again(RunFolder(FROZEN), tmp_path / "run", record_of(RunFolder(FROZEN)))
    for file in FROZEN.iterdir():
        again = tmp_path / "run" / file.name
        if file.name == CLASSIFIER:  # the engine may be another one here, and options have been added since
            new, old = read_json(again), read_json(file)
            new["provenance"]["recipe"] = {
                name: value
                for name, value in new["provenance"]["recipe"].items()
                if name in old["provenance"]["recipe"]
            }
            assert {**new, "runtime": 0} == {**old, "runtime": 0}
        elif file.name == PREDICTIONS:
            for new, old in zip(read_csv(again), read_csv(file), strict=True):
                assert {c: v for c, v in new.items() if "p(" not in c} == {
                    c: v for c, v in old.items() if "p(" not in c
                }
                both = [[float(v or -1) for c, v in row.items() if "p(" in c] for row in (new, old)]
                assert both[0] == pytest.approx(both[1], abs=1e-6)
        elif file.name != MANIFEST:
            assert again.read_bytes() == file.read_bytes(), file.name
    assert {p.name for p in FROZEN.iterdir()} == {p.name for p in (tmp_path / "run").iterdir()}


def test_the_frozen_example_is_small() -> None:
    assert sum(file.stat().st_size for file in FROZEN.iterdir()) < 100_000


# Other formats, and files that grew


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (
            1,
            "an earlier headstart (format 1, expected 2).\n  Train again: `headstart train DATA --out RUN`.",
        ),
        (
            3,
            "a newer headstart (format 3, expected 2).\n  Update headstart: `pip install --upgrade headstart`.",
        ),
    ],
)
def test_another_format_is_said_in_a_sentence(copy: Path, number: int, text: str) -> None:
    edited(copy, lambda known: known.update(format=number))
    for read in (load_classifier, RunFolder, headstart.report, headstart.reproduce):
        with pytest.raises(UnsupportedRun) as caught:
            read(copy)
        assert str(caught.value) == f"{copy}: was written by {text}"


def test_the_manifest_comes_before_the_format(copy: Path) -> None:
    known = read_json(copy / CLASSIFIER)
    (copy / CLASSIFIER).write_bytes(json_bytes({**known, "format": 1}))
    with pytest.raises(DamagedRun, match="has changed since it was written"):
        RunFolder(copy)


@pytest.mark.parametrize("value", [None, "2", 2.0, True, [2]])
def test_a_format_that_is_none_is_damage(copy: Path, value: object) -> None:
    edited(copy, lambda known: known.update(format=value))
    with pytest.raises(DamagedRun, match="is not a valid file of format"):
        RunFolder(copy)


def test_a_folder_without_a_classifier_is_no_run(copy: Path) -> None:
    (copy / CLASSIFIER).unlink()
    write_manifest(copy)
    with pytest.raises(MissingRun) as caught:
        RunFolder(copy)
    assert str(caught.value) == (
        f"{copy}: is not a run folder (it has no headstart.json).\n  `headstart train` writes one."
    )


def test_every_missing_key_is_damage(copy: Path) -> None:
    """A key of the classifier when that is read, one of the provenance when that is; `id` is worked out, not read. Without
    any provenance, it is a copy of the classifier."""
    original = read_json(copy / CLASSIFIER)
    for place in ((), ("calibration",), ("provenance",), ("provenance", "data"), ("provenance", "tuned")):
        inner = original
        for key in place:
            inner = inner[key]
        for key in set(inner) - {"id", "images_per_second", "provenance"}:
            changed = json.loads(json.dumps(original))
            at = changed
            for step in place:
                at = at[step]
            del at[key]
            (copy / CLASSIFIER).write_bytes(json_bytes(changed))
            write_manifest(copy)
            with pytest.raises(DamagedRun, match=rf"headstart\.json: is not a valid file of format .*{key}"):
                _ = RunFolder(copy).classifier, RunFolder(copy).provenance


def test_keys_and_columns_that_are_not_known_are_left_alone(copy: Path, tmp_path: Path) -> None:
    before = RunFolder(shutil.copytree(copy, tmp_path / "before"))

    def grow(known: dict[str, Any]) -> None:
        known["unknown_detector"] = known["calibration"]["later"] = known["provenance"]["later"] = {"a": 1}

    edited(copy, grow)
    edited(copy, lambda known: known.update(later=1), METRICS)
    for name in (PREDICTIONS, SPLIT, "history.csv", "epochs.csv", "steps.csv", "checks.csv", "copies.csv", CORRECTIONS):
        rows = read_csv(copy / name)
        first = [("later", *rows[0])]
        (copy / name).write_bytes(csv_bytes(first[0], [("x", *row.values()) for row in rows]))
    write_manifest(copy)
    after = RunFolder(copy)
    assert (after.classifier.id, after.provenance) == (before.classifier.id, before.provenance)
    assert (after.split, after.copies, after.findings) == (before.split, before.copies, before.findings)
    assert np.array_equal(after.predictions.logits, before.predictions.logits)
    assert after.predictions.classes == before.predictions.classes
    assert repr(after.history) == repr(before.history) and (after.epochs, after.steps) == (before.epochs, before.steps)
    assert after.corrections.rows == before.corrections.rows


@pytest.mark.parametrize("name", [SPLIT, PREDICTIONS, "history.csv", "epochs.csv", "checks.csv", METRICS])
def test_a_file_that_is_another_is_damage_when_it_is_asked_for(copy: Path, name: str) -> None:
    (copy / name).write_text("[1\n2")
    write_manifest(copy)
    run, asked = RunFolder(copy), {"checks.csv": "findings"}.get(name, name.partition(".")[0])
    assert run.classifier.classes == ("class0", "class1", "class2")
    with pytest.raises(DamagedRun, match=f"{name}"):
        getattr(run, asked)


def test_a_hash_that_is_none_is_damage(copy: Path) -> None:
    text = (copy / SPLIT).read_text()
    (copy / SPLIT).write_text(text.replace(RunFolder(copy).split[3].sha256, "../../etc/passwd"))
    write_manifest(copy)
    with pytest.raises(DamagedRun, match=r"split\.csv"):
        _ = RunFolder(copy).split


# predictions.csv


def test_class_columns_are_found_by_name(tmp_path: Path) -> None:
    """Whatever the classes are called, and wherever their columns stand."""
    names = ("label", "error", "p(x)", "set", "a,b")
    chances = np.array([[0.5, 0.2, 0.1, 0.15, 0.05], [0.1, 0.2, 0.3, 0.05, 0.35]])
    made = Predictions(
        ("1.jpg", "2.jpg"), names, np.log(chances).astype(np.float32), np.array([0, -1]), {"3.jpg": "empty"}
    )
    write_predictions(tmp_path / "p.csv", made)
    rows = read_csv(tmp_path / "p.csv")
    classes = ["p(label)", "p(error)", "p(p(x))", "p(set)", "p(a,b)"]
    assert list(rows[0]) == ["path", "label", "predicted", *classes, "error"]
    turned = [dict(reversed([*row.items(), ("set", "a b"), ("unknown", "0.2"), ("answer", "")])) for row in rows]
    (tmp_path / "q.csv").write_bytes(csv_bytes(list(turned[0]), [list(row.values()) for row in turned]))
    for name, order in (("p.csv", names), ("q.csv", names[::-1])):
        read = read_predictions(tmp_path / name)
        assert (read.paths, read.classes, read.errors) == (made.paths, order, made.errors)
        columns = [order.index(n) for n in names]
        assert read.probabilities[:, columns] == pytest.approx(made.probabilities, abs=1e-8)
        assert [n if n < 0 else order[n] for n in read.labels.tolist()] == ["label", -1]


@pytest.mark.parametrize("header", ["path,label,error", "path,p(a),error", "label,p(a),error", "path,label,p(a)"])
def test_a_table_without_these_columns_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "p.csv").write_text(f"{header}\n1,2,3\n")
    with pytest.raises(HeadstartError) as caught:
        read_predictions(tmp_path / "p.csv")
    assert str(caught.value) == (
        f"{tmp_path / 'p.csv'}: is not a table of predictions: its columns are {', '.join(header.split(','))}; expected "
        "path, label, error and p(CLASS) for each class."
    )


@pytest.mark.parametrize(
    ("cell", "shown"), [("", "''"), ("high", "'high'"), ("nan", "'nan'"), ("1.5", "'1.5'"), (None, "None")]
)
def test_a_probability_that_is_none_is_refused(tmp_path: Path, cell: str | None, shown: str) -> None:
    last = "" if cell is None else f",{cell}"
    (tmp_path / "p.csv").write_text(f"path,label,error,p(a),p(b)\n1.jpg,a,,0.5,0.5\n2.jpg,a,,0.5{last}\n")
    with pytest.raises(DataError) as caught:
        read_predictions(tmp_path / "p.csv")
    assert str(caught.value) == f"{tmp_path / 'p.csv'}: p(b) of 2.jpg is {shown}, expected a number from 0 to 1."


if __name__ == "__main__":
    make_frozen(Path(sys.argv[1]) if len(sys.argv) > 1 else FROZEN)


def test_a_copy_of_the_classifier_predicts_and_says_what_else_it_cannot(
    small_run: SmallRun, photos: Path, tmp_path: Path
) -> None:
    with folder_aside(tmp_path / "copy") as folder:
        copy_classifier(RunFolder(small_run.path), folder)
    image = photos / "class0" / "000.jpg"
    assert len(headstart.predict(tmp_path / "copy", image).predictions) == 1
    for verb in (lambda: headstart.evaluate(tmp_path / "copy", photos), lambda: headstart.reproduce(tmp_path / "copy")):
        with pytest.raises(UnsupportedRun) as caught:
            verb()
        assert str(caught.value) == (
            f"{tmp_path / 'copy'}: holds a classifier only, without the record of its training.\n"
            "  `headstart predict` can use it. Otherwise, give the run folder that it was exported from."
        )
