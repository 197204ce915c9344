"""Checks an export of headstart on this machine, step by step, and says which step differs and probably why.

    python verify.py [FOLDER]        exit status 0: everything agrees; 1: something does not, or is damaged

It needs numpy, Pillow, and onnxruntime or openvino; nothing else, and no internet. Every file is compared with
manifest.json before anything opens it. Then each image of samples/ goes through every step:

    decoded          file -> upright RGB pixels, by Pillow
    resized          pixels -> what the network sees, by Pillow, and inside the model image.*
    logits           what the network sees -> logits, in every runtime that is installed
    probabilities    and their softmax
    answers          the class, and the prediction set

Each step is given what the step before it should have made, so that an error shows up where it is made. To check a pipeline
of your own, in Python or called from Python, pass its steps to `verify`; those left out are not checked:

    report = verify(folder, decode=my_decode, resize=my_resize, run=my_run, labels=my_labels)
    print(report); report.ok

The samples are few and say nothing about accuracy: they find steps that differ, not small differences in some images.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.exporters.verify_causes import Pairs, as_one, likely_cause
from headstart.exporters.verify_files import (
    ExpectedSample,
    ExpectedSamples,
    RefusedExport,
    check_files,
    expected_samples,
)
from headstart.exporters.verify_steps import (
    DecodeStep,
    ModelOutputs,
    NetworkStep,
    ResizeStep,
    open_ir,
    open_onnx,
    pillow_decode,
    pillow_resize,
)

STAGES = ("decoded", "resized", "logits", "probabilities", "answers")
NETWORKS = ("model.onnx", "openvino/model.xml")
WHOLES = ("image.onnx", "openvino/image.xml")

# The report


@dataclass(frozen=True)
class StageDifference:
    """How far one step of one pipeline is from what is expected, over all samples.

    `most` and `mean` are over all numbers; `share` is the share of pixels more than one level off. `differing` counts the
    samples outside the tolerance. `cause` is a guess, '' if nothing differs.
    """

    pipeline: str
    stage: str
    most: float
    mean: float
    share: float
    differing: int
    samples: int
    cause: str = ""

    @property
    def ok(self) -> bool:
        return self.differing == 0

    def shown(self) -> str:
        """One cell of the table."""
        if self.stage == "answers":
            return f"{self.samples - self.differing} of {self.samples}"
        if self.most == 0:
            return "equal"
        return f"{self.most:.0f}, mean {self.mean:.2g}" if self.stage in ("decoded", "resized") else f"{self.most:.1e}"

    def sentence(self) -> str:
        """What differs and the probable cause."""
        far = f"differ by up to {self.most:.3g}, mean {self.mean:.2g}"
        if self.most == float("inf"):
            far = "have a different shape, or are not finite numbers"
        what = {"decoded": "pixels", "resized": "bytes", "answers": "classes or sets"}.get(self.stage, self.stage)
        said = f"{what} {far}" if self.stage != "answers" else f"{what} differ"
        where = f"in {self.differing} of {self.samples} samples"
        return f"{self.pipeline}: {self.stage}: {said}, {where}. {self.cause}"


@dataclass(frozen=True)
class VerifyReport:
    """What was compared. `ok` is whether a network ran and everything agrees; `first` is the first step that differs."""

    folder: str
    differences: tuple[StageDifference, ...]
    notes: tuple[str, ...] = ()
    complete: bool = True

    @property
    def ok(self) -> bool:
        return self.complete and all(each.ok for each in self.differences)

    @property
    def first(self) -> StageDifference | None:
        """The first difference, by the order of the steps."""
        wrong = [each for each in self.differences if not each.ok]
        return min(wrong, key=lambda each: STAGES.index(each.stage), default=None)

    def table(self) -> list[list[str]]:
        """One row per pipeline, one column per step; the first row is the heading."""
        rows = [["", *STAGES]]
        for pipeline in dict.fromkeys(each.pipeline for each in self.differences):
            cells = {d.stage: ("" if d.ok else "! ") + d.shown() for d in self.differences if d.pipeline == pipeline}
            rows.append([pipeline, *(cells.get(stage, "") for stage in STAGES)])
        return rows

    def lines(self) -> list[str]:
        """The notes and the table, as plain text."""
        rows = self.table()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            *self.notes,
            *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
        ]

    def __str__(self) -> str:
        wrong = self.first
        end = "Everything agrees." if self.ok else "Not everything could be checked."
        return "\n".join([*self.lines(), "", end if wrong is None else wrong.sentence()])


# Pipelines


@dataclass(frozen=True)
class _Pipeline:
    """Steps to check (None: not checked); or `whole`, from decoded pixels to all outputs by name.

    `labels` are the names of its classes in order. `network` is what `whole` must agree with, given the same pixels.
    """

    name: str
    decode: DecodeStep | None = None
    resize: ResizeStep | None = None
    run: NetworkStep | None = None
    whole: Callable[[np.ndarray], Mapping[str, np.ndarray]] | None = None
    network: NetworkStep | None = None
    labels: tuple[str, ...] = ()


def verify(
    folder: str | os.PathLike[str],
    *,
    decode: DecodeStep | None = None,
    resize: ResizeStep | None = None,
    run: NetworkStep | None = None,
    labels: Sequence[str] | None = None,
) -> VerifyReport:
    """Check an export on this machine, or the given steps of another pipeline against it. Raises `RefusedExport`.

    `labels` are the names of that pipeline's classes in the order of its outputs, by default those of the export.
    """
    place = Path(folder)
    golden = expected_samples(place, check_files(place))
    notes = _parity_note(place)
    given = decode or resize or run
    opened = _open_models(place, NETWORKS if given else NETWORKS + WHOLES)
    networks = _networks(opened, notes)
    if given:
        pipelines = [_Pipeline("yours", decode, resize, run)]
    else:
        pipelines = [
            _Pipeline(f"Pillow {Image.__version__}", *_by_pillow(golden)),
            *networks,
            *_wholes(opened, networks),
        ]
    names, reference = tuple(labels or golden.classes), networks[0].run if networks else None
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda one: _compared(replace(one, labels=names), golden, reference), pipelines))
    complete = bool(golden.samples) and bool(given or networks)
    return VerifyReport(str(folder), tuple(each for one in found for each in one), tuple(notes), complete)


def _parity_note(folder: Path) -> list[str]:
    try:
        exported = json.loads((folder / "export.json").read_bytes())
    except (ValueError, RecursionError) as error:
        raise RefusedExport(f"{folder / 'export.json'}: cannot be read: {error}.") from error
    compared = isinstance(exported, dict) and exported.get("parity") is not None
    return [] if compared else ["This export was written without comparing it with its run (--check 0)."]


def _open_models(folder: Path, names: Sequence[str]) -> dict[str, tuple[str, ModelOutputs] | None]:
    """Return the runtime's name and the opened model of each file that is there, None if its runtime is not installed.

    Opening takes most of the time of a check, so two threads do it; what takes OpenVINO longest comes first.
    """
    there = sorted((name for name in names if (folder / name).is_file()), key="openvino/image.xml".__ne__)

    def opened(name: str) -> tuple[str, ModelOutputs] | None:
        return _open_model(open_onnx if name.endswith(".onnx") else open_ir, folder / name)

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(there, pool.map(opened, there), strict=True))


def _networks(opened: Mapping[str, tuple[str, ModelOutputs] | None], notes: list[str]) -> list[_Pipeline]:
    """Return the network in every installed runtime; add a note for each that is not installed."""
    found = []
    for name in NETWORKS:
        if name in opened and (model := opened[name]) is None:
            package = "onnxruntime" if name.endswith(".onnx") else "openvino"
            notes.append(f"{name} was not checked: {package} is not installed (pip install {package}).")
        elif model := opened.get(name):
            found.append(_Pipeline(f"{name}, {model[0]}", run=_answers_of(model[1])))
    return found


def _wholes(opened: Mapping[str, tuple[str, ModelOutputs] | None], networks: Sequence[_Pipeline]) -> list[_Pipeline]:
    """Return the models that take images, in the same runtimes."""
    found = []
    for network in networks:
        name = network.name.partition(",")[0].replace("model.", "image.")
        if model := opened.get(name):
            found.append(_Pipeline(f"{name}, {model[0]}", whole=_whole_of(model[1]), network=network.run))
    return found


def _open_model(
    opener: Callable[[Path], tuple[str, ModelOutputs] | None], path: Path
) -> tuple[str, ModelOutputs] | None:
    """Return the runtime's name and the opened model, None if the runtime is not installed. Raises `RefusedExport`."""
    try:
        return opener(path)
    except Exception as error:  # the runtimes' errors have no base class in common
        first = str(error).strip().partition("\n")[0]
        raise RefusedExport(f"{path}: cannot be opened: {first}") from error


def _answers_of(outputs: ModelOutputs) -> NetworkStep:
    def run(pixels: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        found = outputs(pixels)
        return found["logits"], found["probabilities"]

    return run


def _whole_of(outputs: ModelOutputs) -> Callable[[np.ndarray], Mapping[str, np.ndarray]]:
    return lambda decoded: outputs({"image": decoded})


def _by_pillow(golden: ExpectedSamples) -> tuple[DecodeStep, ResizeStep]:
    ranges = next(iter(golden.contracts.values()))["ranges"]

    def resize(decoded: np.ndarray) -> dict[str, np.ndarray]:
        return {name: pillow_resize(decoded, contract) for name, contract in golden.contracts.items()}

    return lambda data: pillow_decode(data, ranges), resize


# Comparing


def _compared(pipeline: _Pipeline, golden: ExpectedSamples, reference: NetworkStep | None) -> list[StageDifference]:
    """Return one difference per step of the pipeline; the first one outside its tolerance gets a cause."""
    pairs = _pairs(pipeline, golden)
    differences: list[StageDifference] = []
    for stage, found in pairs.items():
        difference = _difference(pipeline.name, stage, found, golden.tolerances.get(stage, {"max": 0}))
        if not difference.ok and all(each.ok for each in differences):
            difference = replace(difference, cause=likely_cause(stage, found, golden, reference))
        differences.append(difference)
    return differences


def _pairs(pipeline: _Pipeline, golden: ExpectedSamples) -> dict[str, Pairs]:
    pairs: dict[str, Pairs] = {}

    def add(stage: str, found: Any, expected: np.ndarray) -> None:
        pairs.setdefault(stage, []).append((np.asarray(found), expected))

    for sample in golden.samples:
        logits = probabilities = None
        expected = sample.logits, sample.probabilities
        if pipeline.decode:
            add("decoded", pipeline.decode(sample.data), sample.decoded)
        if pipeline.resize:
            add("resized", as_one(pipeline.resize(sample.decoded)), as_one(sample.resized))
        if pipeline.run:
            logits, probabilities = pipeline.run({name: each[None] for name, each in sample.resized.items()})
        if pipeline.whole and pipeline.network:
            outputs = pipeline.whole(sample.decoded)
            logits, probabilities = outputs["logits"], outputs["probabilities"]
            given = {name: outputs[name] for name in sample.resized}
            add("resized", as_one({name: each[0] for name, each in given.items()}), as_one(sample.resized))
            expected = tuple(np.asarray(each, np.float64)[0] for each in pipeline.network(given))
        if logits is not None:
            add("logits", _row(logits), expected[0])
        if probabilities is not None:
            add("probabilities", _row(probabilities), expected[1])
            add("answers", *_answers(_row(probabilities), sample, pipeline.labels, golden))
    return pairs


def _row(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64).reshape(-1)


def _answers(
    probabilities: np.ndarray, sample: ExpectedSample, labels: Sequence[str], golden: ExpectedSamples
) -> tuple[np.ndarray, np.ndarray]:
    """Return (found, expected), equal if class and set are right; classes at the edge of a set may be in it or not.

    A set has the classes at the threshold, and always the likeliest.
    """
    if len(probabilities) != len(labels):
        return np.array([1.0]), np.array([0.0])
    slack = 2 * golden.tolerances["probabilities"]["max"]
    by_name = dict(zip(labels, probabilities, strict=True))
    likeliest = {name for name, p in by_name.items() if p >= max(probabilities) - slack}
    surely = {name for name, p in by_name.items() if 1 - p <= golden.threshold - slack}
    perhaps = {name for name, p in by_name.items() if 1 - p <= golden.threshold + slack} | likeliest
    right = sample.label in likeliest and surely | {sample.label} <= set(sample.labels) <= perhaps
    return np.array([0.0 if right else 1.0]), np.array([0.0])


def _difference(pipeline: str, stage: str, pairs: Pairs, tolerance: Mapping[str, float]) -> StageDifference:
    gaps = [_gap(found, expected) for found, expected in pairs]
    pixels = stage in ("decoded", "resized")
    shares = [float(np.mean(gap > 1)) if pixels else 0.0 for gap in gaps]
    wrong = [
        gap.max() > tolerance["max"] or gap.mean() > tolerance.get("mean", np.inf) or share > _SHARE
        for gap, share in zip(gaps, shares, strict=True)
    ]
    return StageDifference(
        pipeline,
        stage,
        float(max(gap.max() for gap in gaps)),
        float(np.mean([gap.mean() for gap in gaps])),
        float(np.mean(shares)),
        sum(wrong),
        len(gaps),
    )


_SHARE = 0.001
"""Share of the pixels that may be off by more than one level."""


def _gap(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Return the differences; infinite where the shape differs or a value is not a number."""
    if found.shape != expected.shape or not np.issubdtype(found.dtype, np.number):
        return np.array([np.inf])
    gap = np.abs(found.astype(np.float64) - expected)
    return np.where(np.isfinite(gap), gap, np.inf)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the export that contains this program, or the given one; return the exit status."""
    parser = argparse.ArgumentParser(description="Check an export of headstart on this machine, step by step.")
    parser.add_argument("folder", nargs="?", default=Path(__file__).parent, type=Path, help="default: where this lies")
    try:
        report = verify(parser.parse_args(arguments).folder)
    except RefusedExport as refusal:
        print(f"Refused: {refusal}", file=sys.stderr)
        return 1
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
