"""`headstart evaluate RUN DATA`: measure a trained classifier on other labelled images."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.chosen_classes import listed_classes
from headstart.data.data_source import DataSource, as_source
from headstart.data.dataset import Dataset, counted
from headstart.data.duplicates import exact_groups, group_pairs, joined
from headstart.data.open_dataset import open_dataset
from headstart.errors import BadLabels, DamagedRun, near_names
from headstart.evaluation.metrics import Metrics, compute_metrics
from headstart.exporters.open_classifier import open_classifier
from headstart.images.image_refs import Images
from headstart.io.folders import check_outside_data, folder_aside
from headstart.io.given_options import as_path
from headstart.io.progress import log
from headstart.io.result_repr import Result
from headstart.io.text_table import few, plain
from headstart.model.inference.predictions import Predictions
from headstart.pipeline.run_report import evaluation_report, write_report
from headstart.pipeline.scan import note_reading
from headstart.reports.model_card import about_known
from headstart.runs.outside_runs import check_earlier, check_outside_run
from headstart.runs.run_folder import CLASSIFIER, METRICS, RunFolder, write_evaluation


@dataclass(frozen=True, eq=False, repr=False)
class Evaluation(Result):
    """Result of `evaluate` on the evaluated `split` of the data ('test' or 'all').

    `known` counts evaluated images whose bytes were used to train or select the classifier: they make the metrics too
    optimistic.
    """

    metrics: Metrics
    predictions: Predictions
    split: str
    known: int = 0

    def summary(self) -> str:
        """Return the accuracy, and the set it was measured on."""
        return f"{'test set' if self.split == 'test' else 'all images'}: {self.metrics.summary()}"

    def facts(self) -> list[tuple[str, str]]:
        """Return the metrics."""
        return self.metrics.facts()

    def to_json(self) -> dict[str, Any]:
        """Return the document of `evaluate --json`."""
        return {
            **self.metrics.to_json(),
            "split": self.split,
            "known": self.known,
            "model": self.predictions.model,
            "errors": dict(self.predictions.errors),
        }

    def table(self) -> str:
        """Format as plain text for a terminal."""
        errors = [f"not read  {reason}  {plain(path)}" for path, reason in self.predictions.errors.items()]
        known = [about_known(self.known, self.metrics.n)] if self.known else []
        judged = "Test set of the split: " if self.split == "test" else "All labelled images: "
        return "\n".join([*errors[:20], *known, judged + self.metrics.table()])


def evaluate(run: Path, data: Path | DataSource, *, out: Path | None = None, report: bool = True) -> Evaluation:
    """Evaluate a trained classifier on labelled images: the test set if the data has split folders, else all. Example:

        headstart evaluate run photos-of-2026

    Files with identical bytes are one group in the intervals; other copies are not looked for.

    Args:
        run: Run folder written by `headstart train`, or an export of one.
        data: Images with labels: a folder of class folders or of split folders, a table, an archive of these, or shards.
        out: Folder to write: metrics.json, predictions.csv and report.html. An earlier one is kept as OUT.previous.
        report: With --out, write report.html, and its plots in the folder plots; not for an export.

    Raises:
        RunError, ExportError: the run folder or the export is missing or damaged.
        DataError: no labelled images, or classes that the classifier does not know.
        StoreError: a bucket is missing, or refuses.
        WriteError: `out` cannot be written, is a run folder, is inside the data, or holds other files.
    """
    source, out = as_source(data), None if out is None else as_path(out, "out")
    if out is not None:
        check_outside_run(out)
        check_outside_data(out, source.place, name="evaluation")
        check_earlier(out, "evaluation", lambda names: METRICS in names and CLASSIFIER not in names)
    opened = open_classifier(run)
    seed = opened.seed  # the run's seed, so that the same images get the same intervals
    dataset = open_dataset(source)
    note_reading(dataset)
    split = "test" if (dataset.split == "test").any() else "all"
    chosen = (dataset.split == "test") if split == "test" else dataset.labels >= 0
    _note_unlabelled(dataset)
    dataset = with_classes(dataset.take(chosen), opened.classes)
    images = Images.inspect(dataset.file(i) for i in range(len(dataset)))
    predictions = opened.predictor.predict(images, dataset.paths, dataset.labels)
    predictions = replace(predictions, errors={**dataset.lost, **predictions.errors})
    if predictions.labels is None or not len(predictions):
        raise BadLabels(
            f"{source.where}: has no readable labelled images.",
            hint=f"For details: `headstart check {shlex.join(source.words())}`.",
        )
    places = {path: i for i, path in enumerate(dataset.paths)}
    rows = np.array([places[path] for path in predictions.paths], np.int64)
    dataset = replace(dataset, groups=joined(dataset.groups, group_pairs(exact_groups(images.sha256s))))
    known = _trained_on(opened.run, [images.sha256s[i] for i in rows[predictions.labels >= 0]])
    groups_N = dataset.groups[rows]
    metrics = compute_metrics(predictions.logits, predictions.labels, opened.classes, groups=groups_N, seed=seed)
    if out is not None:
        with folder_aside(out) as folder:
            write_evaluation(folder, predictions, metrics, split, known)
            if report and opened.run is not None:
                write_report(
                    folder,
                    lambda: evaluation_report(
                        opened.opened_run, source, predictions, metrics, split, known, dataset, images
                    ),
                )
    return Evaluation(metrics, predictions, split, known)


def _trained_on(run: RunFolder | None, sha256s: Sequence[str]) -> int:
    """How many of these hashes are of images that the run was trained on, logged; 0 (and a note) if that is not known."""
    if run is None:
        log.info(
            "An export does not say which images it was trained on; with any of them, the metrics are too optimistic."
        )
        return 0
    try:
        trained_on = run.training_sha256s
    except DamagedRun as error:
        log.warning(
            "%s So it is not known which of these images the run was trained on; with any of them, the metrics are too "
            "optimistic.",
            error.message,
        )
        return 0
    known = sum(sha256 in trained_on for sha256 in sha256s)
    if known:
        own = f"For the run's own test set, see {run.file(METRICS)}."
        log.warning(
            "%s %s",
            about_known(known, len(sha256s)),
            own if run.metrics.test else "The run has no test set of its own.",
        )
    return known


def _note_unlabelled(dataset: Dataset) -> None:
    """Log how many images cannot be evaluated, because they have no label."""
    unlabelled = int((dataset.labels < 0).sum())
    if unlabelled:
        what = "1 image has no label, and is" if unlabelled == 1 else f"{unlabelled:,} images have no label, and are"
        log.info("%s: %s not evaluated.", dataset.root, what)


def with_classes(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Renumber the labels by the classifier's classes. Raises `BadLabels` for classes that it does not know."""
    counts = Counter(dataset.label_name(i) for i in np.flatnonzero(dataset.labels >= 0).tolist())
    unknown = [c for c in sorted(counts) if c not in classes]
    if unknown:
        which = f"class {unknown[0]!r} is" if len(unknown) == 1 else f"{len(unknown):,} classes are"
        listed = f": {counted(unknown, [counts[c] for c in unknown])}" if len(unknown) > 1 else ""
        raise BadLabels(
            f"{dataset.root}: {which} unknown to the classifier ({few(classes)}){listed}.",
            hint=_unknown_hint(unknown, [c for c in classes if c in counts], classes),
        )
    number = np.array([classes.index(c) if c in classes else -1 for c in dataset.classes] + [-1], np.int64)
    return replace(dataset, labels=number[dataset.labels], classes=classes)


def _unknown_hint(unknown: Sequence[str], known: Sequence[str], classes: Sequence[str]) -> str:
    """Return what to do about classes that the classifier does not know, if it knows others."""
    near = near_names(unknown[0], list(classes))
    option = f"--classes {shlex.quote(listed_classes(known))}"
    leave = f"To leave their images out: {option}." if known else "Train on them, or give images of its classes."
    return "\n".join(filter(None, [near, leave]))
