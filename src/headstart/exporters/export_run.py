"""The whole export: from a run folder to a folder that works without headstart, or to no folder at all.

    converted -> measure -> refit -> finished -> measure_finished -> judge -> check -> write

Each stage is a function in a neighbouring module. Nothing is written before everything has been compared with the
run (`parity`), and then all files appear at once, the manifest last. Takes about 18 s for a MobileNetV2 on two cores without
the comparison, most of it to import torch and to convert; with it, 60 ms more per image.

Costs memory: three copies of the network, and the pixels of 64 images.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.errors import NoImages, RecipeError, near_names
from headstart.evaluation.probabilities import softmax
from headstart.exporters.export_folder import (
    EXPORT,
    EXPORT_README,
    FORMAT,
    IMAGE_BIN,
    IMAGE_ONNX,
    IMAGE_XML,
    INT8_BIN,
    INT8_XML,
    LABELS,
    NETWORK_BIN,
    NETWORK_ONNX,
    NETWORK_XML,
    PARITY,
    PARITY_PAGE,
    PRECISION,
    PREPROCESS,
    VERIFY,
    check_export_place,
    labels_text,
)
from headstart.exporters.export_readme import export_readme
from headstart.exporters.golden_images import own_images, rendered_images
from headstart.exporters.golden_samples import sample_files, verify_script
from headstart.exporters.int8 import CALIBRATION_IMAGES, Int8Trial, try_int8
from headstart.exporters.network_runners import ExportRunner, OnnxRunner, OpenVinoRunner, TorchRunner
from headstart.exporters.onnx_network import (
    OPSET,
    class_metadata,
    converted,
    finished,
    network_inputs,
)
from headstart.exporters.onnxruntime_web import OnnxRuntimeWeb, onnxruntime_web
from headstart.exporters.openvino_network import openvino_files
from headstart.exporters.parity import (
    ExportCalibration,
    Parity,
    carried_over,
    judge,
    measure,
    measure_finished,
    refit,
)
from headstart.exporters.parity_images import ParityImages, parity_images
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.pixel_graph import with_pixels
from headstart.exporters.run_formats import RUN_FORMATS
from headstart.exporters.web_folder import WebOptions, check_for_web, web_files
from headstart.images.preprocess import Preprocess
from headstart.io.extras import require
from headstart.io.files import json_bytes, sha256_bytes, write_bytes
from headstart.io.folders import check_outside_data, folder_aside
from headstart.io.progress import log
from headstart.model.inference.classifier import Classifier
from headstart.reports.parity_page import ParityPageData, parity_page
from headstart.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from onnx import ModelProto

FORMATS = ("onnx", "openvino")
WEB = "web"
KNOWN = (*FORMATS, WEB, *RUN_FORMATS)
PACKAGES = ("onnx", "onnxruntime", "onnxscript", "timm", "torch")
WHOLE_IMAGE = (
    "Image classifier. image: an upright RGB image of any size, uint8 0 to 255, (height, width, 3), decoded in full size. "
    "Resizing and scaling happen inside. logits: after temperature. probabilities: their softmax, calibrated."
)


@dataclass(frozen=True)
class ExportRequest:
    """What to export: `run` to the folder `out` in the `formats`, compared with the run on up to `check` images of each set.

    `samples` golden images are written, the user's own only if `own_samples`. `data` is where the run's images are now, if
    they have moved. With `int8`, an int8 network is tried too; `web` has the options of the format web. Raises `RecipeError`
    for an unknown format, or a number out of range.
    """

    run: Path
    out: Path
    formats: tuple[str, ...] = FORMATS
    check: int = 1_000
    samples: int = 12
    own_samples: bool = False
    data: Path | None = None
    int8: bool = False
    web: WebOptions = WebOptions()

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in KNOWN:
                expected = f"{', '.join(KNOWN[:-1])} or {KNOWN[-1]}"
                raise RecipeError(f"to {name!r} is not known: expected {expected}.", hint=near_names(name, list(KNOWN)))
            if name in RUN_FORMATS and len(self.formats) > 1:
                raise RecipeError(
                    f"--to {name} cannot be combined with other formats.", hint=f"Export it alone: --to {name}."
                )
        if not self.formats:
            raise RecipeError("to: names no format.", hint=f"Such as --to {','.join(FORMATS)}.")
        if self.int8 and not (self.check and "openvino" in self.formats):
            raise RecipeError(
                "--int8 needs the format openvino and --check above 0: int8 is compared with the float network."
            )
        if WEB not in self.formats and (self.web.ort is not None or self.web.one_file):
            raise RecipeError("--ort and --one-file need --to web.")
        if self.formats[0] in RUN_FORMATS:
            for name in ("check", "samples", "own_samples", "data"):
                if getattr(self, name) != getattr(ExportRequest, name):
                    option = "samples-from" if name == "own_samples" else name
                    raise RecipeError(
                        f"--{option} has no effect with --to {self.formats[0]}: the network is the run's own, so nothing is "
                        "compared and there are no samples.",
                        hint="Leave it out.",
                    )
        for name, value, most in (("check", self.check, 1_000_000), ("samples", self.samples, 100)):
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                raise RecipeError(f"{name} {value!r} cannot be used: expected a whole number from 0 to {most:,}.")


@dataclass(frozen=True, eq=False)
class ExportedRun:
    """What was written: the content of export.json, the figures (None if not compared), and the size in bytes."""

    facts: Mapping[str, Any]
    parity: Parity | None
    bytes: int


def export_run(asked: ExportRequest) -> ExportedRun:
    """Export a run. Raises `RunError`, `MissingExtra`, `ExportError`, `DataError`, `WriteError`."""
    check_export_place(asked.out)
    keep = RUN_FORMATS.get(asked.formats[0])
    if keep is None:
        require("An export", *PACKAGES, *(["nncf"] if asked.int8 else []))
    run = RunFolder(asked.run)
    run.check()
    check_outside_data(asked.out, run.provenance.source(asked.data).place, name="export")
    if keep is not None:
        return _kept(asked, run, keep)
    classifier = run.classifier
    contracts = {name: PixelContract.of(spec) for name, spec in network_inputs(classifier).items()}
    web = _for_web(asked, contracts)
    samples = _sample_images(asked, run)
    for_int8 = _int8_images(asked, run) if asked.int8 else None
    log.info("Converting %s", classifier.summary())
    network, reference = converted(classifier), TorchRunner(classifier, network_inputs(classifier))
    calibration, parity = carried_over(classifier.calibration), None
    if asked.check:
        calibration, parity = _verified(asked, run, network, reference)
    facts = _facts(asked, run, calibration, parity)
    if web is not None:
        facts["web"] = {"one_file": asked.web.one_file, "onnxruntime-web": web.version}
    model = finished(network, calibration.temperature, _metadata(facts, classifier.classes))
    files = _network_files(asked.formats, model) | _image_files(asked.formats, model, network_inputs(classifier))
    if for_int8:
        trial = _int8(run, files, calibration, *for_int8)
        facts |= {"int8": trial.to_json()}
        files |= {} if trial.refusals else dict(zip((INT8_XML, INT8_BIN), trial.files, strict=True))
    files |= _described(facts, classifier, parity)
    files |= _samples(samples, classifier, reference, calibration) | {VERIFY: verify_script()}
    if web is not None:
        files |= web_files(facts, contracts, calibration, files, web, one_file=asked.web.one_file)
    with folder_aside(asked.out) as folder:
        for name, data in files.items():
            write_bytes(folder / name, data)
    return ExportedRun(facts, parity, sum(map(len, files.values())))


def _for_web(asked: ExportRequest, contracts: Mapping[str, PixelContract]) -> OnnxRuntimeWeb | None:
    """Return the runtime for browsers if the format web is wanted. Called first, since it may have to be downloaded."""
    if WEB not in asked.formats:
        return None
    check_for_web(contracts, asked.samples)
    return onnxruntime_web(asked.web.ort, offline=asked.web.offline)


def _kept(asked: ExportRequest, run: RunFolder, keep: Callable[[RunFolder, Path], None]) -> ExportedRun:
    """Write a format that keeps the run's own network."""
    with folder_aside(asked.out) as folder:
        keep(run, folder)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    facts = {"formats": list(asked.formats), "run": run.classifier.id, "classes": list(run.classifier.classes)}
    return ExportedRun(facts, None, size)


def _verified(
    asked: ExportRequest, run: RunFolder, network: ModelProto, reference: TorchRunner
) -> tuple[ExportCalibration, Parity]:
    """Return the calibration of the exported path, and the figures. Raises `ParityFailed`."""
    classifier, inputs = run.classifier, network_inputs(run.classifier)
    images = parity_images(run, asked.data, asked.check)
    log.info("%s", images.about)
    draft = _opened(_network_files(asked.formats, finished(network, 1.0)))
    measured = measure(classifier, images, inputs, reference, {runner.name: runner for runner in draft})
    calibration = refit(measured, classifier.calibration)
    model = finished(network, calibration.temperature)
    networks, whole = _opened(_network_files(asked.formats, model)), _opened(_image_files(asked.formats, model, inputs))
    done = measure_finished(images, inputs, reference, calibration.temperature, networks, whole)
    parity = judge(measured, calibration, done, classifier, run.provenance.seed)
    parity.check()
    return calibration, parity


def _int8_images(asked: ExportRequest, run: RunFolder) -> tuple[ParityImages, ParityImages]:
    """Return the images to judge int8 by, and those to calibrate it on. Raises `NoImages` without the run's own."""
    images = parity_images(run, asked.data, asked.check)
    training = parity_images(run, asked.data, CALIBRATION_IMAGES, ("train",))
    if not (training.own and {"val", "test"} <= set(images.sets_N)):
        raise NoImages(
            "--int8 needs images of the run's training, validation and test set, and some of these were not found.",
            hint="Give their place with --data, or leave out --int8.",
        )
    return images, training


def _int8(
    run: RunFolder,
    files: Mapping[str, bytes],
    calibration: ExportCalibration,
    images: ParityImages,
    training: ParityImages,
) -> Int8Trial:
    """Try int8; log and return what was measured."""
    classifier, seed = run.classifier, run.provenance.seed
    network, inputs = (files[NETWORK_XML], files[NETWORK_BIN]), network_inputs(classifier)
    trial = try_int8(network, inputs, classifier.classes, images, training, calibration, seed)
    log.info("%s", trial.sentence())
    return trial


def _opened(files: Mapping[str, bytes]) -> list[ExportRunner]:
    """Return a model in each format, opened in its runtime. Raises `ExportError`."""
    runners: list[ExportRunner] = [OnnxRunner(data) for name, data in files.items() if name.endswith(".onnx")]
    graphs = [data for name, data in files.items() if name.endswith((".xml", ".bin"))]
    return [*runners, *([OpenVinoRunner(*graphs)] if graphs else [])]


def _network_files(formats: Sequence[str], model: ModelProto) -> dict[str, bytes]:
    """Return the network in each format: {file: bytes}."""
    files: dict[str, bytes] = {}
    if {"onnx", WEB} & {*formats}:
        files[NETWORK_ONNX] = model.SerializeToString(deterministic=True)
    if "openvino" in formats:
        files[NETWORK_XML], files[NETWORK_BIN] = openvino_files(model)
    return files


def _image_files(formats: Sequence[str], model: ModelProto, inputs: Mapping[str, Preprocess]) -> dict[str, bytes]:
    """Return the network preceded by the whole preprocessing, in each format: {file: bytes}."""
    whole = with_pixels({name: PixelContract.of(spec) for name, spec in inputs.items()}, model)
    whole.doc_string = WHOLE_IMAGE
    files: dict[str, bytes] = {}
    if "onnx" in formats:
        files[IMAGE_ONNX] = whole.SerializeToString(deterministic=True)
    if "openvino" in formats:
        files[IMAGE_XML], files[IMAGE_BIN] = openvino_files(whole)
    return files


def _sample_images(asked: ExportRequest, run: RunFolder) -> dict[str, bytes]:
    """Return the images of the golden samples: rendered, or the run's own, those of the test set first. Raises `NoImages`."""
    if not (asked.own_samples and asked.samples):
        return rendered_images(asked.samples, run.classifier.ranges)
    found = parity_images(run, asked.data, asked.samples)
    if not found.own:
        raise NoImages(
            "--samples-from own needs the run's validation or test images, and none were found.",
            hint="Give their place with --data, or leave the option out.",
        )
    order = np.argsort(found.sets_N != "test", kind="stable")[: asked.samples]
    return own_images(found.images.take(order).refs, run.classifier.ranges)


def _samples(
    images: Mapping[str, bytes], classifier: Classifier, reference: TorchRunner, calibration: ExportCalibration
) -> dict[str, bytes]:
    """Return golden samples, {file: bytes}; the expected outputs of the network are those of torch."""
    contracts = {name: PixelContract.of(spec) for name, spec in network_inputs(classifier).items()}

    def answers(pixels: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        logits_NK = reference(pixels)[0] / calibration.temperature
        return logits_NK, softmax(logits_NK)

    threshold = calibration.conformal_threshold
    return sample_files(images, contracts, answers, classes=classifier.classes, conformal_threshold=threshold)


# Files that describe the models


def _facts(
    asked: ExportRequest, run: RunFolder, calibration: ExportCalibration, parity: Parity | None
) -> dict[str, Any]:
    """Return the content of export.json, which the models have as metadata too: no path, no date, no file name of an image."""
    classifier, inputs = run.classifier, network_inputs(run.classifier)
    sizes = {name: ["N", spec.image_size, spec.image_size, 3] for name, spec in inputs.items()}
    return {
        "format": FORMAT,
        "id": _export_id(classifier, inputs, calibration),
        "run": classifier.id,
        "classes": list(classifier.classes),
        "class_frequencies": [round(float(share), 6) for share in run.training_prior],
        "backbones": [str(member.extractor) for member in classifier.members],
        "licences": [member.extractor.backbone.licence for member in classifier.members],
        "inputs": {name: {"shape": shape, "dtype": "uint8", "range": [0, 255]} for name, shape in sizes.items()},
        "outputs": {
            "logits": {"shape": ["N", len(classifier.classes)], "dtype": "float32", "temperature": "in the graph"},
            "probabilities": {"shape": ["N", len(classifier.classes)], "dtype": "float32", "softmax": "in the graph"},
        },
        "normalisation": "in the graph",
        "preprocessing": where_preprocessed(asked.formats),
        "calibration": {PRECISION: asdict(calibration)},
        "formats": list(asked.formats),
        "opset": OPSET,
        "seed": run.provenance.seed,
        "parity": None if parity is None else parity.summary(),
        "versions": _versions(),
    }


def where_preprocessed(formats: Sequence[str]) -> str:
    """Return which of the models take pixels, and which whole images.

    >>> where_preprocessed(["openvino"])
    'before openvino/model.xml: as preprocess.json says; openvino/image.xml has it in the graph'
    """
    networks = [NETWORK_ONNX] * bool({"onnx", WEB} & {*formats}) + [NETWORK_XML] * ("openvino" in formats)
    whole = [IMAGE_ONNX] * ("onnx" in formats) + [IMAGE_XML] * ("openvino" in formats)
    in_graph = [f"{' and '.join(whole)} {'have' if len(whole) > 1 else 'has'} it in the graph"] if whole else []
    return "; ".join([f"before {' and '.join(networks)}: as {PREPROCESS} says", *in_graph])


def _export_id(classifier: Classifier, inputs: Mapping[str, Preprocess], calibration: ExportCalibration) -> str:
    contracts = {name: PixelContract.of(spec).as_dict() for name, spec in inputs.items()}
    numbers = [classifier.id, contracts, PRECISION, calibration.temperature]
    return sha256_bytes(json.dumps(numbers, sort_keys=True).encode())[:16]


def _versions() -> dict[str, str]:
    packages = ("headstart", "numpy", "onnx", "onnxruntime", "onnxscript", "openvino", "pillow", "timm", "torch")
    return {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in packages}}


def _described(facts: Mapping[str, Any], classifier: Classifier, parity: Parity | None) -> dict[str, bytes]:
    """Return the files that describe the models: {file: bytes}."""
    inputs = network_inputs(classifier)
    contracts = {name: PixelContract.of(spec) for name, spec in inputs.items()}
    described = {name: {"contract": c.as_dict(), "steps": c.sentences()} for name, c in contracts.items()}
    page = parity_page(ParityPageData(classifier.summary(), facts, None if parity is None else parity.to_json()))
    return {
        EXPORT: json_bytes(facts),
        PREPROCESS: json_bytes({"normalisation": "in the graph", "inputs": described}),
        LABELS: labels_text(classifier.classes).encode(),
        PARITY: json_bytes(None if parity is None else parity.to_json()),
        PARITY_PAGE: page.encode(),
        EXPORT_README: export_readme(facts, contracts).encode(),
    }


def _metadata(facts: Mapping[str, Any], classes: Sequence[str]) -> dict[str, str]:
    """Return the metadata of the models. Without mean and std, which a reader would apply a second time."""
    return {"headstart": json.dumps(facts), **class_metadata(classes)}
