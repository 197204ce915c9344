"""`headstart evaluate RUN DATA`: how good a trained classifier is on other labelled images."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.data_source import DataSource, as_source
from headstart.data.open_dataset import Dataset, open_dataset
from headstart.errors import BadLabels, near_names
from headstart.evaluation.metrics import Metrics, compute_metrics
from headstart.io.files import read_csv, sha256_file, write_json
from headstart.io.folders import check_outside_data, check_outside_run, check_replaceable, folder_aside
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import few, plain
from headstart.model.inference.classifier import load_classifier
from headstart.model.inference.predictions import Predictions, write_predictions
from headstart.model.inference.predictor import Predictor
from headstart.verbs.report import evaluation_report, write_report


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """What `evaluate` found on the `side` of the data that was judged ('test', or 'all').

    `known` of the images, byte for byte, were used to train the classifier or to choose it: the figures are too good then.
    """

    metrics: Metrics
    predictions: Predictions
    side: str
    known: int = 0

    def summary(self) -> str:
        """The accuracy, and on what."""
        return f"{'test set' if self.side == 'test' else 'all images'}: {self.metrics.summary()}"

    def facts(self) -> list[tuple[str, str]]:
        """The metrics."""
        return self.metrics.facts()

    def to_json(self) -> dict[str, Any]:
        """The document of `evaluate --json`."""
        return {**self.metrics.to_json(), "side": self.side, "known": self.known, "model": self.predictions.model,
                "errors": dict(self.predictions.errors)}  # fmt: skip

    def table(self) -> str:
        """Plain text for a terminal."""
        errors = [f"not read  {reason}  {plain(path)}" for path, reason in self.predictions.errors.items()]
        judged = "Test set of the split: " if self.side == "test" else "All labelled images: "
        return "\n".join([*errors[:20], judged + self.metrics.table()])


def evaluate(run: Path, data: Path | DataSource, *, out: Path | None = None, report: bool = True) -> Evaluation:
    """Judge a trained classifier on labelled images: the test set if the data has split folders, else all. Example:

        headstart evaluate run photos-of-2026

    Args:
        run: Run folder that `headstart train` wrote.
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: Folder to write, with metrics.json, predictions.csv and report.html. An earlier one is kept as OUT.previous.
        report: With `out`, write report.html and the figures in plots.

    Raises:
        RunError: no run folder, or a damaged one.
        DataError: no labelled images, or classes that the classifier does not know.
        WriteError: `out` cannot be written, is a run folder, lies in the data, or holds other files.
    """
    source = as_source(data)
    if out is not None:
        check_outside_run(Path(out))
        check_outside_data(Path(out), source.place, name="evaluation")
        check_replaceable(Path(out))
    classifier = load_classifier(Path(run))
    dataset = open_dataset(source)
    side = "test" if (dataset.split == "test").any() else "all"
    chosen = (dataset.split == "test") if side == "test" else dataset.labels >= 0
    dataset = with_classes(dataset.take(chosen), classifier.classes)
    files = [dataset.file(i) for i in range(len(dataset))]
    predictions = Predictor(classifier).predict(files, dataset.paths, dataset.labels)
    predictions = replace(predictions, errors={**dataset.lost, **predictions.errors})
    if predictions.labels is None or not len(predictions):
        raise BadLabels(
            f"{source.place}: has no labelled image that can be read.",
            hint=f"`headstart check {shlex.join(source.words())}` says more.",
        )
    seed = classifier.provenance.get("seed", 0)  # that of the run, so that the same images get the same intervals
    known = _known(Path(run), files)
    if known:
        log.warning(
            "%s of these %s images are in the run's train or val set: figures on them are too good. Its test set, which "
            "was not used for either, is in %s.", f"{known:,}", f"{len(files):,}", Path(run) / "metrics.json",
        )  # fmt: skip
    metrics = compute_metrics(predictions.logits, predictions.labels, classifier.classes, seed=seed)
    if out is not None:
        with folder_aside(Path(out)) as folder:
            write_predictions(folder / "predictions.csv", predictions)
            write_json(folder / "metrics.json", {side: metrics.to_json()})
            if report:
                at = dict(zip(dataset.paths, files, strict=True))
                write_report(
                    folder,
                    lambda: evaluation_report(Path(run), source, classifier, predictions, metrics, side, at),
                )
    return Evaluation(metrics, predictions, side, known)


def _known(run: Path, files: Sequence[Path]) -> int:
    """How many of the files are, byte for byte, images of the run's train or val set."""
    used = {row["sha256"] for row in read_csv(run / "split.csv") if row["split"] in ("train", "val")}
    return sum(file.is_file() and sha256_file(file) in used for file in files)


def with_classes(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """The data set with labels counted by the classifier's classes. Raises `BadLabels` for a class it does not know."""
    unknown = [c for k, c in enumerate(dataset.classes) if c not in classes and (dataset.labels == k).any()]
    if unknown:
        raise BadLabels(
            f"{dataset.root}: class {unknown[0]!r} is not one that the classifier knows ({few(classes)}).",
            hint=near_names(unknown[0], list(classes)) or "Leave its images out, or train on them as well.",
        )
    number = np.array([classes.index(c) if c in classes else -1 for c in dataset.classes] + [-1], np.int64)
    return replace(dataset, labels=number[dataset.labels], classes=classes)
