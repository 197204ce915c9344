"""int8: made by NNCF on training images, measured against float, refused where it is slower or worse; no telemetry."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import headstart
from conftest import PATIENCE
from headstart.errors import MissingExtra, RecipeError
from headstart.evaluation.intervals import Estimate, wilson
from headstart.exporters.export_calibration import ExportCalibration
from headstart.exporters.export_run import ExportRequest
from headstart.exporters.int8 import Int8Trial, divided
from headstart.exporters.openvino_network import compiled_fast, read_ir, saved
from headstart.io.extras import is_installed
from headstart.model.backbones.builtin import NAME
from headstart.model.inference.openvino_import import import_openvino
from headstart.training.recipe import Recipe

TRIAL = Int8Trial(
    files=(b"", b""),
    preset="mixed",
    calibration_images=300,
    calibration=ExportCalibration(conformal_threshold=0.4, images=500),
    speedup=1.31,
    images_per_second=900.0,
    float_precision="f32",
    n=1_000,
    loss=0.002,
    loss_bound=0.007,
    flips=wilson(9, 1_000),
    ece=Estimate(0.011, 0.0, 0.02, 1_000, "test"),
    float_ece=Estimate(0.010, 0.0, 0.02, 1_000, "test"),
    coverage=wilson(905, 1_000),
)


def test_what_is_faster_and_as_good_is_written() -> None:
    assert TRIAL.refusals == []
    assert TRIAL.sentence() == (
        "int8 is 1.31x as fast as f32 here; on 1,000 test images accuracy changes by -0.20 points (95 % bound "
        "-0.70), its ECE is 0.011 (float 0.010), and sets contain the right class for 90.5%: written."
    )
    assert json.dumps(TRIAL.to_json())


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"speedup": 1.2}, "a speed-up of at least 1.25x is required"),
        ({"speedup": float("nan")}, "a speed-up of at least 1.25x is required"),
        ({"loss": 0.006}, "at most 0.5 points of accuracy may be lost (95 % bound 1)"),
        ({"loss_bound": 0.011}, "at most 0.5 points of accuracy may be lost (95 % bound 1)"),
        ({"ece": Estimate(0.03, 0.0, 0.1, 1_000, "test")}, "the ECE may be at most 0.02"),
        ({"coverage": wilson(800, 1_000)}, "sets must contain the right class for 90%"),
    ],
)
def test_what_is_not_is_refused_with_the_figures(change: dict[str, object], refusal: str) -> None:
    trial = dataclasses.replace(TRIAL, **change)
    assert trial.refusals == [refusal]
    assert trial.sentence().endswith(f": not written: {refusal}.")


def test_the_temperature_of_int8_goes_into_its_graph() -> None:
    """Logits are divided and keep their name; the probabilities are the softmax of those."""
    ov = import_openvino()
    ops = ov.opset13
    pixels = ops.parameter([-1, 4], np.float32, name="pixels")
    logits = ops.matmul(pixels, ops.constant(np.eye(4, 3, dtype=np.float32)), False, False)
    logits.output(0).get_tensor().set_names({"logits"})
    softmax = ops.softmax(logits, 1)
    softmax.output(0).get_tensor().set_names({"probabilities"})
    graph = ov.Model([ops.result(logits), ops.result(softmax)], [pixels], "small")
    files = saved(divided(graph, 2.0))
    given = np.arange(8, dtype=np.float32).reshape(2, 4)
    found = compiled_fast(read_ir(*files), "f32")(given)
    np.testing.assert_allclose(found["logits"], given[:, :3] / 2)
    chances = np.exp(given[:, :3] / 2)
    np.testing.assert_allclose(found["probabilities"], chances / chances.sum(1, keepdims=True), rtol=1e-5)


def test_int8_needs_something_to_be_measured_against(tmp_path: Path) -> None:
    for given in ({"formats": ("onnx",)}, {"check": 0}):
        with pytest.raises(RecipeError, match=r"^--int8 needs the format openvino and --check above 0"):
            ExportRequest(tmp_path, tmp_path / "out", int8=True, **given)


@pytest.mark.skipif(is_installed("nncf"), reason="nncf is installed")
def test_the_extra_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingExtra) as caught:
        headstart.export(tmp_path / "run", out=tmp_path / "out", int8=True)
    assert str(caught.value) == "An export needs nncf, which is not installed here.\n  pip install 'headstart[int8]'"


EXPORTING = """
import json, sys
reported = []

def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo") or (event == "subprocess.Popen" and "telemetry" in str(args)):
        reported.append(f"{event} {args}")

sys.addaudithook(hook)
import headstart
made = headstart.export(sys.argv[1], out=sys.argv[2], to="openvino", int8=True, samples=1)
print(json.dumps([made.export["int8"], reported, [name for name in sys.modules if name.startswith("openvino_telemetry")]]))
"""


@pytest.mark.slow
def test_int8_of_a_run_is_tried_and_nothing_is_reported(photos: Path, tmp_path: Path) -> None:
    """In a process of its own: under pytest, NNCF's telemetry is off in any case."""
    pytest.importorskip("nncf", reason="needs nncf, which is not installed")
    headstart.train(photos, out=tmp_path / "run", recipe=Recipe(approach="linear", backbone=NAME), report=False)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", EXPORTING, str(tmp_path / "run"), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    found, reported, telemetry = json.loads(done.stdout)
    assert (reported, telemetry) == ([], [])
    assert found["refused"], "eight test images cannot show that accuracy is kept"
    assert "not written" in found["sentence"]
    assert found["calibration_images"] > 0
    assert not (tmp_path / "out/openvino/int8").exists()


@pytest.mark.slow
def test_the_written_network_has_the_temperature_and_any_batch(photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf", reason="needs nncf, which is not installed")
    from headstart.exporters import int8
    from headstart.exporters.export_folder import ExportFolder
    from headstart.exporters.onnx_network import network_inputs
    from headstart.exporters.parity_images import parity_images
    from headstart.runs.run_folder import RunFolder

    headstart.train(photos, out=tmp_path / "run", recipe=Recipe(approach="linear", backbone=NAME), report=False)
    headstart.export(tmp_path / "run", out=tmp_path / "out", to="openvino", samples=1)
    run, export = RunFolder(tmp_path / "run"), ExportFolder(tmp_path / "out")
    classifier, inputs = run.classifier, network_inputs(run.classifier)
    images, training = parity_images(run, None, 100), parity_images(run, None, 100, ("train",))
    rows = {row.sha256: row.split for row in run.split}
    assert {rows[sha256] for sha256 in training.images.sha256s} == {"train"}
    own = export.exported_calibration
    trial = int8.try_int8(export.openvino_model(), inputs, classifier.classes, images, training, own, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *[next(iter(inputs.values())).image_size] * 2, 3), np.uint8)
    found = compiled_fast(read_ir(*trial.files), "f32")({"pixels": pixels})
    chances = np.exp(found["logits"]) / np.exp(found["logits"]).sum(1, keepdims=True)
    np.testing.assert_allclose(found["probabilities"], chances, atol=1e-5)
