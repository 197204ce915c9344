"""Exports answer as their runs do, say what they are, and are refused where anything differs; nothing is half written."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart
from conftest import PATIENCE, draw, write_photos
from headstart import Recipe, cli
from headstart.errors import (
    DamagedExport,
    ExportError,
    MissingExtra,
    ParityFailed,
    RecipeError,
    RunError,
    UnsupportedExport,
)
from headstart.evaluation.intervals import wilson
from headstart.exporters import export_run
from headstart.exporters.export_folder import ExportFolder
from headstart.exporters.export_readme import export_readme
from headstart.exporters.network_runners import OnnxRunner, OpenVinoRunner, TorchRunner
from headstart.exporters.onnx_network import converted, finished, network_inputs
from headstart.exporters.onnxruntime_web import SCRIPT, WASM
from headstart.exporters.parity import (
    FinishedParity,
    Measured,
    PathParity,
    carried_over,
    compared,
    judge,
    measure_finished,
)
from headstart.exporters.parity_images import ParityImages, parity_images
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.pixel_graph import with_pixels
from headstart.images.image_refs import Images
from headstart.images.value_ranges import ValueRanges
from headstart.io.folders import write_manifest
from headstart.reports.parity_page import ParityPageData, parity_page
from headstart.runs.run_folder import RunFolder
from headstart.verbs.export import Exported
from tiny_export import SPEC, Tiny, write_predicting_export

onnx = pytest.importorskip("onnx", reason="needs the extra export")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
pytest.importorskip("onnxscript", reason="needs the extra export")

CLASSES = ('a "quoted", name', "two\nlines", "</script> 🐈 \u05d0\u05d1")
FILES = (
    *("README.md", "export.json", "image.onnx", "labels.txt", "manifest.json", "model.onnx", "parity.html"),
    *("parity.json", "preprocess.json", "samples", "verify.py"),
)


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for this module, with a cache for its fixtures, which are older than any test's own."""
    folder = tmp_path_factory.mktemp("exports")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEADSTART_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def images(own_folder: Path) -> Path:
    """Split folders of three classes with names that break what does not quote: 24 images to train, 9 and 12 others."""
    folder = own_folder / "photos"
    for side, each, first in (("train", 8, 0), ("val", 3, 8), ("test", 4, 11)):
        made = write_photos(folder / side, each=each, first=first)
        for kind, name in enumerate(CLASSES):
            place = made / name.replace("/", "\u2215")
            os.rename(made / f"class{kind}", place)
    return folder


@pytest.fixture(scope="module")
def run(own_folder: Path, images: Path, tiny_weights: Path) -> Path:
    """Two members with different input sizes."""
    weights = shutil.copytree(tiny_weights, own_folder / "weights")
    spec = next(weights.glob("test_efficientnet*.json"))
    described = json.loads(spec.read_text())
    described["pretrained_cfg"]["input_size"] = [3, 96, 96]
    spec.write_text(json.dumps(described))
    recipe = Recipe(approach="linear", backbone="test_resnet.a+test_efficientnet.b", precision="f32", resize="squash")
    headstart.train(images, out=own_folder / "run", recipe=recipe, weights=weights, report=False)
    return own_folder / "run"


@pytest.fixture(scope="module")
def network(run: Path) -> Any:
    """The run's network as torch's converter makes it."""
    return converted(RunFolder(run).classifier)


@pytest.fixture(scope="module")
def made(own_folder: Path, run: Path, network: Any) -> Any:
    """The run, exported. The conversion is done once for all tests, the rest as for a user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_run, "converted", lambda classifier: network)
        return headstart.export(run, out=own_folder / "export")


@pytest.fixture
def exported(made: Any, run: Path, monkeypatch: pytest.MonkeyPatch, network: Any) -> Path:
    """The folder of the export: never write into it. Further exports of the test need no conversion."""
    monkeypatch.setattr(export_run, "converted", lambda classifier: network)
    monkeypatch.setenv("HEADSTART_CACHE", str(Path(made.out).parent / "cache"))
    return Path(made.out)


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return shutil.copytree(exported, tmp_path / "copy")


def test_an_export_has_its_files(exported: Path) -> None:
    assert sorted(p.name for p in exported.iterdir()) == sorted([*FILES, "openvino"])
    assert sorted(p.name for p in (exported / "openvino").iterdir()) == [
        f"{name}.{end}" for name in ("image", "model") for end in ("bin", "xml")
    ]
    ExportFolder(exported).check()


def test_nothing_in_it_names_the_machine_the_user_or_an_image(exported: Path, images: Path) -> None:
    told = [str(exported.parent).encode(), str(Path.home()).encode() + b"/", b"site-packages"]
    told += [b"mean", b"test_resnet.a.safetensors"]
    for file in (p for p in exported.rglob("*") if p.is_file() and p.suffix not in (".jpg", ".png", ".bin", ".py")):
        text = file.read_bytes()
        assert [word for word in told[:3] if word in text] == [], file
    metadata = {p.key: p.value for p in onnx.load(exported / "model.onnx").metadata_props}
    assert not any("mean" in key or "std" in key for key in metadata)


def test_class_names_survive_everywhere(exported: Path) -> None:
    names = list(RunFolder(exported.parent / "run").classifier.classes)
    assert [json.loads(line) for line in (exported / "labels.txt").read_text().splitlines()] == names
    metadata = {p.key: p.value for p in onnx.load(exported / "model.onnx").metadata_props}
    assert json.loads(metadata["headstart"])["classes"] == names
    assert list(ast.literal_eval(metadata["names"]).values()) == names
    import openvino

    kept = openvino.Core().read_model(exported / "openvino" / "model.xml").get_rt_info(["framework", "headstart"])
    assert json.loads(kept.astype(str))["classes"] == names
    assert "<script> " not in (exported / "parity.html").read_text().replace("<script>(", "")


def test_the_figures_are_within_their_limits(made: Any) -> None:
    assert len(made.parity.runtimes) == 4 and len(made.parity.whole_images) == 2
    assert all(each.logit < 1e-4 and each.swapped == 0 for each in made.parity.runtimes)
    assert all(each.largest <= 2 and each.swapped == 0 for each in made.parity.whole_images)
    assert made.parity.about == "The run's own: all 9 validation images and all 12 test images."
    assert made.parity.path.images == 21 and made.parity.path.judged_on == "test"
    assert "against torch, equal pixels" in made.table() and json.dumps(made.to_json(), allow_nan=False)


def test_without_test_images_only_differences_are_given(run: Path, exported: Path) -> None:
    """The last layer was fitted on the validation images: an accuracy on them is that of training."""
    images = parity_images(RunFolder(run), None, 9, ("val",))
    classifier = RunFolder(run).classifier
    logits_NK = np.eye(3, dtype=np.float32)[images.labels_N] * 9
    measured = Measured(images, "torch", logits_NK, {"onnxruntime": logits_NK}, logits_NK)
    parity = judge(measured, carried_over(classifier.calibration), FinishedParity([], []), classifier, 0)
    facts = json.loads((exported / "export.json").read_text())
    said = Exported("out", facts, parity, 1).table().splitlines()
    assert said[5] == (
        "Accuracy of the export minus the run's: +0.0000 [-0.2991, +0.2991] on 9 validation images, which training used: they "
        "cannot say how good either is"
    )
    assert "Coverage" not in " ".join(said) and "by the run" not in " ".join(said)
    kept = parity.to_json()["path"]
    assert (kept["judged_on"], kept["metrics"], kept["coverage"], kept["run_coverage"]) == ("val", {}, None, None)
    page = parity_page(ParityPageData("a run", facts, parity.to_json()))
    assert "9 validation images, which training used" in page and "Accuracy of the run" not in page


@pytest.mark.parametrize(
    ("flips", "images", "chance"), [(1, 5, 0.025), (1, 6, None), (1, 35, None), (2, 35, 0.013), (10, 1_000, None)]
)
def test_a_few_flips_refuse_an_export_only_if_they_are_significant(
    flips: int, images: int, chance: float | None
) -> None:
    few = wilson(flips, images)
    said = (
        f"`predict` and the export disagree on {flips} of {images:,} images where `predict` had a clear favourite: "
        f"significantly more than the limit of 0.5% (p = {chance})"
    )
    assert PathParity(images, few, few, own=True).failures == ([] if chance is None else [said])
    assert PathParity(images, few, few, own=False).failures == []


def test_whole_images_are_compared_one_at_a_time(tmp_path: Path) -> None:
    """Eight images of 3 MB: two or three copies of one are in memory at once, whatever their number."""
    size = (1_000, 1_000)
    paths = [tmp_path / f"{n}.jpg" for n in range(8)]
    for n, path in enumerate(paths):
        draw(n % 3, n).resize(size).save(path)
    images = Images.inspect(paths)
    known = ParityImages(images, np.full(8, -1), np.full(8, "val", "<U5"), np.arange(8), "")
    contracts = {"pixels": PixelContract.of(SPEC)}
    network = OnnxRunner(Tiny(inputs={"pixels": SPEC.image_size}).model().SerializeToString())
    whole = OnnxRunner(with_pixels(contracts, Tiny(inputs={"pixels": SPEC.image_size}).model()).SerializeToString())
    tracemalloc.start()
    try:
        done = measure_finished(known, {"pixels": SPEC}, network, 1.0, [network], [whole])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [each.failures for each in (*done.batches, *done.whole_images)] == [[], []]
    assert done.whole_images[0].images == 8 and peak < 4 * 3 * size[0] * size[1]


@pytest.mark.parametrize("count", [1, 3, 8])
def test_all_runtimes_give_the_same_for_any_batch(exported: Path, run: Path, count: int) -> None:
    export, classifier = ExportFolder(exported), RunFolder(run).classifier
    inputs = network_inputs(classifier)
    assert list(inputs) == ["pixels_1", "pixels_2"] == list(export.inputs)
    rng = np.random.default_rng(count)
    pixels = {k: rng.integers(0, 256, (count, s.image_size, s.image_size, 3), np.uint8) for k, s in inputs.items()}
    expected_NK = TorchRunner(classifier, inputs)(pixels)[0] / export.exported_calibration.temperature
    for runner in (OnnxRunner(export.onnx_model()), OpenVinoRunner(*export.openvino_model())):
        logits_NK, probabilities_NK = runner(pixels)
        assert compared(runner.name, expected_NK, logits_NK, probabilities_NK).failures == []


def test_an_export_predicts_and_evaluates_like_its_run(exported: Path, run: Path, images: Path, tmp_path: Path) -> None:
    by_run, by_export = headstart.evaluate(run, images), headstart.evaluate(exported, images, out=tmp_path / "out")
    np.testing.assert_allclose(by_export.predictions.probabilities, by_run.predictions.probabilities, atol=0.02)
    assert by_export.metrics["accuracy"].value == by_run.metrics["accuracy"].value
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest.json", "metrics.json", "predictions.csv"]
    shown = headstart.predict(exported, np.asarray(draw(1, 99)), b"not an image")
    assert list(shown.predictions.errors) == ["1"] and len(shown.to_json()["predictions"][0]["set"]) >= 0


def test_an_image_has_the_same_answer_in_any_company(exported: Path) -> None:
    several = [np.asarray(draw(k % 3, 60 + k)) for k in range(11)]
    together = headstart.predict(exported, several).predictions.logits
    alone = [headstart.predict(exported, one).predictions.logits[0] for one in several[::5]]
    np.testing.assert_array_equal(together[::5], alone)


def test_predicting_and_verifying_import_no_torch(exported: Path, images: Path) -> None:
    code = (
        "import sys, headstart; headstart.predict(sys.argv[1], sys.argv[2]); print(headstart.verify(sys.argv[1]).table());"
        "print([m for m in ('torch', 'timm', 'torchvision', 'onnx', 'onnxscript') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, str(exported), str(images / "test")]
    said = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout.splitlines()
    assert said[-2:] == ["Everything agrees.", "[]"] and sum("12 of 12" in line for line in said) == 4


def readme_answers(folder: Path, text: str) -> list[str]:
    """What each piece of Python code in a README says about `photo.jpg` when it is run in a folder."""
    codes = re.findall(r"```python\n(.*?)```", text, re.S)
    done = [
        subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
        for code in codes
    ]
    return [each.stdout for each in done]


def answer_of(export: Path, image: Path, places: int) -> str:
    """Class and probability by `predict`, the latter to some places."""
    found = headstart.predict(export, image).predictions
    return f"{found.classes[found.predicted[0]]} {found.probabilities[0].max():.{places}f}"


def rounded(said: str, places: int) -> str:
    name, _, chance = said.strip().rpartition(" ")
    return f"{name} {float(chance):.{places}f}"


@pytest.mark.parametrize("kind", ["photo", "transparent", "sideways"])
def test_the_lines_for_python_in_the_readme_give_what_predict_gives(kind: str, copy: Path) -> None:
    """A transparent image has its drawing in the alpha channel alone; one on its side says so in its EXIF."""
    photo, pixels = copy / "photo.jpg", draw(1, 99)
    if kind == "transparent":
        drawing = Image.new("RGBA", pixels.size)
        drawing.putalpha(pixels.convert("L"))
        drawing.save(photo, "PNG")
    elif kind == "sideways":
        exif = Image.Exif()
        exif[0x112] = 6
        pixels.resize((pixels.width, pixels.height // 2)).save(photo, exif=exif)
    else:
        pixels.save(photo)
    said = readme_answers(copy, (copy / "README.md").read_text())
    assert [rounded(each, 3) for each in said] == [answer_of(copy, photo, 3)] * 2


def test_the_lines_for_python_scale_deep_images_as_training_did(tmp_path: Path) -> None:
    """A thermal camera uses a narrow band of 16 bits: without its range, all its images are alike."""
    ranges = ValueRanges(integers=(800.0, 3800.0))
    place = write_predicting_export(tmp_path / "export", {"pixels": replace(SPEC, ranges=ranges)})
    grey = np.linspace(800, 3800, 96 * 96).reshape(96, 96).astype(np.uint16)
    Image.fromarray(grey).save(place / "photo.jpg", "PNG")
    facts = json.loads((place / "export.json").read_text()) | {"formats": ["onnx"], "inputs": {}, "parity": None}
    (place / "labels.txt").write_text("".join(f"{json.dumps(name)}\n" for name in facts["classes"]))
    text = export_readme(facts | {"backbones": []}, ExportFolder(place).inputs)
    (said,) = readme_answers(place, text)
    assert rounded(said, 3) == answer_of(place, place / "photo.jpg", 3)
    assert "sharp does not scale images of more than 8 bits" in text


def test_the_same_run_gives_the_same_bytes(exported: Path, run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        headstart.export(run, out=tmp_path / name, check=0, samples=1)
    assert (tmp_path / "one" / "manifest.json").read_bytes() == (tmp_path / "two" / "manifest.json").read_bytes()


def test_one_format_alone_and_no_comparison(exported: Path, run: Path, network: Any, tmp_path: Path) -> None:
    place = tmp_path / "one"
    made = headstart.export(run, out=place, to="onnx", check=0, samples=1)
    assert made.parity is None and made.table().startswith("Not compared with the run (--check 0).")
    assert not (place / "openvino").exists() and json.loads((place / "parity.json").read_text()) is None
    assert "--check 0" in (place / "README.md").read_text() and "Not compared" in (place / "parity.html").read_text()
    assert headstart.verify(place).table().startswith("This export was written without comparing")
    shown = headstart.predict(place, np.asarray(draw(1, 99))).predictions
    assert shown.classes == ExportFolder(exported).classes
    wrong = finished(changed(network, "layers.0.weight", 1.05), 1.0)
    (place / "model.onnx").write_bytes(wrong.SerializeToString())
    rewritten(place)
    with pytest.raises(ParityFailed) as caught:
        headstart.verify(place)
    assert re.search(r"model\.onnx, onnxruntime [\d.]+: logits: logits differ by up to", caught.value.message)


def test_without_the_images_rendered_scenes_stand_in(exported: Path, run: Path, images: Path, tmp_path: Path) -> None:
    moved = images.with_name("elsewhere")
    os.rename(images, moved)
    try:
        made = headstart.export(run, out=tmp_path / "rendered", to="onnx", check=4, samples=1)
        assert "so 4 rendered scenes stand in" in made.parity.about and not made.parity.path.own
        assert made.export["calibration"]["float32"]["temperature"] == 1.0
        with pytest.raises(
            headstart.HeadstartError,
            match="own needs the run's validation or test images, and none were found",
        ):
            headstart.export(run, out=tmp_path / "own", check=0, samples=2, samples_from="own")
        found = headstart.export(run, out=tmp_path / "found", to="onnx", data=moved, samples=2, samples_from="own")
        assert found.parity.path.images == 21
    finally:
        os.rename(moved, images)


# What is refused


def changed(network: Any, name: str, factor: float) -> Any:
    """The network with one weight changed: what a wrong converter makes."""
    wrong = onnx.ModelProto()
    wrong.CopyFrom(network)
    tensor = next(each for each in wrong.graph.initializer if each.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(factor * onnx.numpy_helper.to_array(tensor), name))
    return wrong


@pytest.mark.parametrize(("tensor", "factor"), [("layers.0.weight", 1.01), ("members.0.shift", 0.9)])
def test_a_wrong_conversion_is_never_written(
    exported: Path, run: Path, network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], tensor: str, factor: float,
) -> None:  # fmt: skip
    monkeypatch.setattr(export_run, "converted", lambda classifier: changed(network, tensor, factor))
    assert cli.run(["export", str(run), "--out", str(tmp_path / "wrong"), "--to", "onnx", "--check", "4"]) == 1
    said = capsys.readouterr().err
    assert re.search(
        r"onnxruntime [\d.]+: logits differ from torch by up to 0\.\d+ \(at most 0\.001 is allowed\)", said
    )
    assert "Nothing was written." in said and list(tmp_path.iterdir()) == []


def test_a_fixed_batch_is_found(exported: Path, run: Path, network: Any, tmp_path: Path, monkeypatch: Any) -> None:
    fixed = onnx.ModelProto()
    fixed.CopyFrom(network)
    for each in fixed.graph.input:
        each.type.tensor_type.shape.dim[0].ClearField("dim_param")
        each.type.tensor_type.shape.dim[0].dim_value = 8
    monkeypatch.setattr(export_run, "converted", lambda classifier: fixed)
    with pytest.raises(headstart.HeadstartError):
        headstart.export(run, out=tmp_path / "fixed", to="onnx", check=5)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_is_taken_is_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "note.txt").write_text("mine")
    for place in (tmp_path / "taken", run, run / "inside"):
        with pytest.raises(headstart.HeadstartError):
            headstart.export(run, out=place)
    assert (tmp_path / "taken" / "note.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onx"}, "to 'onx' is not known: expected onnx, openvino, web, hub or mlflow.\n  Did you mean 'onnx'?"),
        ({"to": ""}, "to: names no format."),
        ({"check": -1}, "check -1 cannot be used: expected a whole number from 0 to 1,000,000."),
        ({"samples": 101}, "samples 101 cannot be used: expected a whole number from 0 to 100."),
        *(
            (
                {"to": to, **given},
                f"--{name} has no effect with --to {to}: the network is the run's own, so nothing is compared and there are "
                "no samples.\n  Leave it out.",
            )
            for to, name, given in (
                ("hub", "check", {"check": 0}),
                ("mlflow", "samples", {"samples": 3}),
                ("hub", "samples-from", {"samples_from": "own"}),
                ("mlflow", "data", {"data": Path("photos")}),
            )
        ),
    ],
)
def test_invalid_options(run: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(headstart.HeadstartError) as caught:
        headstart.export(run, out=tmp_path / "out", **options)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("formats", "said"),
    [
        (("onnx",), "before model.onnx: as preprocess.json says; image.onnx has it in the graph"),
        (("openvino",), "before openvino/model.xml: as preprocess.json says; openvino/image.xml has it in the graph"),
        (
            ("onnx", "openvino"),
            "before model.onnx and openvino/model.xml: as preprocess.json says; image.onnx and openvino/image.xml have it "
            "in the graph",
        ),
        (("web",), "before model.onnx: as preprocess.json says"),
    ],
)
def test_only_files_that_are_written_are_named(formats: tuple[str, ...], said: str) -> None:
    assert export_run.where_preprocessed(formats) == said


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_before_any_work(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra) as caught:
        headstart.export(run, out=tmp_path / "out")
    assert package in caught.value.message and "pip install 'headstart[export]'" in caught.value.hint


def test_a_damaged_run_is_not_exported(run: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(run, tmp_path / "run")
    (damaged / "predictions.csv").write_text("edited")
    with pytest.raises(RunError, match="has changed since it was written"):
        headstart.export(damaged, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files")
def test_a_disk_that_is_full_half_way_leaves_nothing(exported: Path, run: Path, tmp_path: Path) -> None:
    import resource

    largest = (exported / "model.onnx").stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, before[1]))
    try:
        with pytest.raises(headstart.HeadstartError, match="could not be written"):
            headstart.export(run, out=tmp_path / "full", check=0, samples=1, to="onnx")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.onnx", "openvino/model.bin", "export.json", "preprocess.json"])
def test_a_changed_file_is_refused_by_whatever_reads_it(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(DamagedExport, match="SHA-256 differs"):
        headstart.verify(copy)
    if name != "model.onnx":  # OpenVINO's is preferred
        with pytest.raises(DamagedExport, match="SHA-256 differs"):
            headstart.predict(copy, np.asarray(draw(1, 99)))


def test_files_missing_or_too_many_are_refused(copy: Path) -> None:
    (copy / "note.txt").write_text("mine")
    with pytest.raises(DamagedExport, match=r"note\.txt: is not in the manifest"):
        headstart.verify(copy)
    (copy / "note.txt").unlink()
    (copy / "openvino" / "model.xml").unlink()
    with pytest.raises(DamagedExport, match=r"model\.xml: is missing"):
        headstart.predict(copy, np.asarray(draw(1, 99)))


def rewritten(folder: Path, **changes: Any) -> None:
    """Edit export.json, and make the manifest anew."""
    facts = {**json.loads((folder / "export.json").read_text()), **changes}
    (folder / "export.json").write_text(json.dumps(facts))
    (folder / "manifest.json").unlink()
    write_manifest(folder)


def test_a_newer_format_is_named(copy: Path) -> None:
    rewritten(copy, format=2)
    for reads in (headstart.verify, lambda folder: headstart.predict(folder, np.asarray(draw(1, 99)))):
        with pytest.raises(UnsupportedExport) as caught:
            reads(copy)
        assert str(caught.value) == (
            f"{copy}: was written by a newer headstart (format 2, expected 1).\n"
            "  Update headstart: `pip install --upgrade headstart`."
        )


@pytest.mark.parametrize("changes", [{"classes": "cat"}, {"calibration": {}}, {"format": "1"}])
def test_an_edited_export_is_refused(copy: Path, changes: dict[str, Any]) -> None:
    rewritten(copy, **changes)
    with pytest.raises(DamagedExport, match="is not a valid file of format 1"):
        headstart.predict(copy, np.asarray(draw(1, 99)))


def test_a_model_with_external_data_is_refused(copy: Path) -> None:
    model = onnx.load(copy / "model.onnx")
    onnx.save(model, copy / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    shutil.rmtree(copy / "openvino")
    rewritten(copy)
    for reads in (headstart.verify, lambda folder: headstart.predict(folder, np.asarray(draw(1, 99)))):
        with pytest.raises(DamagedExport, match="has its weights in another file"):
            reads(copy)


def test_a_missing_runtime_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(copy / "openvino")
    rewritten(copy)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra, match="onnxruntime"):
        headstart.predict(copy, np.asarray(draw(1, 99)))
    with pytest.raises(ExportError, match="onnxruntime is not installed"):
        headstart.verify(copy)


def test_an_export_is_not_a_run(exported: Path) -> None:
    with pytest.raises(RunError, match="is an export of a run, not the run folder"):
        headstart.report(exported)
    with pytest.raises(ExportError, match="is not an export"):
        headstart.verify(exported.parent)


# The architectures


@pytest.mark.slow
@pytest.mark.parametrize("case", ["flip", "tuned", "scratch", "vit"])
def test_every_kind_of_network_is_exported(case: str, tmp_path: Path, photos: Path, tiny_weights: Path) -> None:
    weights: Any = tiny_weights
    recipes = {
        "flip": Recipe(approach="linear", backbone="test_resnet.a", pooling="stages", tta="flip"),
        "tuned": Recipe(approach="finetune", backbone="test_resnet.a", epochs=1, lr=1e-3),
        "scratch": Recipe(approach="scratch", image_size=48, epochs=1, lr=1e-3),
        "vit": Recipe(approach="linear", backbone="test_vit.r", pooling="stages"),
    }
    if case == "vit":
        weights = vit_weights(tmp_path / "weights")
    headstart.train(photos, out=tmp_path / "run", recipe=recipes[case], weights=weights, report=False)
    made = headstart.export(tmp_path / "run", out=tmp_path / "out")
    assert all(each.logit < 1e-4 and each.swapped == 0 for each in made.parity.runtimes)
    assert headstart.verify(tmp_path / "out").report.ok


def vit_weights(folder: Path) -> Path:
    """A folder with a tiny vision transformer of random weights, `test_vit.r`."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(5)
    folder.mkdir()
    model = timm.create_model("test_vit", num_classes=0)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "test_vit.r.safetensors")
    config = {"input_size": [3, 160, 160], "mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bicubic"}
    (folder / "test_vit.r.json").write_text(json.dumps({"architecture": "test_vit", "pretrained_cfg": config}))
    return folder


def test_images_are_the_same_wherever_they_come_from(exported: Path, tmp_path: Path) -> None:
    """A file, its bytes, and its pixels."""
    draw(2, 5).save(tmp_path / "one.png")
    given = [tmp_path / "one.png", (tmp_path / "one.png").read_bytes(), Image.open(tmp_path / "one.png")]
    logits_3K = headstart.predict(exported, given).predictions.logits
    np.testing.assert_array_equal(logits_3K[0], logits_3K[1])
    np.testing.assert_array_equal(logits_3K[0], logits_3K[2])


def test_a_page_is_an_export_that_predicts_and_verifies(
    exported: Path, run: Path, images: Path, tmp_path: Path, network: Any
) -> None:
    ort, site = tmp_path / "ort", tmp_path / "site"
    ort.mkdir()
    for name in (SCRIPT, WASM):
        (ort / name).write_bytes(b"/* ONNX Runtime Web v1.2.3 */")
    made = headstart.export(run, out=site, to="web", check=3, samples=2, ort=ort)
    assert made.export["formats"] == ["web"] and made.parity is not None and made.parity.runtimes
    assert made.export["web"] == {"one_file": False, "onnxruntime-web": "1.2.3"}
    own = {"_headers", "index.html", "page", *FILES} - {"image.onnx"}
    assert {path.name for path in site.iterdir()} == own
    ExportFolder(site).check()
    assert headstart.verify(site).report.ok
    files = sorted((images / "test").rglob("*.jpg"))[:4]
    answers = [headstart.predict(place, files).predictions.probabilities for place in (exported, site)]
    assert np.abs(answers[0] - answers[1]).max() < 1e-4
    readme, page = ((site / name).read_text(encoding="utf-8") for name in ("README.md", "index.html"))
    assert "## In a browser" in readme and "image.*" not in readme and "| `model.onnx` |" in readme
    assert "</script> " not in page and 'src="page/app.js"' in page


def test_options_of_the_page_without_it_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="--ort and --one-file need --to web"):
        headstart.export(run, out=tmp_path / "export", one_file=True)
    with pytest.raises(RecipeError, match="--to web needs --samples above 0"):
        headstart.export(run, out=tmp_path / "export", to="web", samples=0)
