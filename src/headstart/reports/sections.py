"""Content of each section of `report.html`, computed before the template lays it out.

Sentences are built here and not in the template, where their rules could not be tested. Every name that comes from the
data passes through `name`, which escapes it and isolates right-to-left text. Costs milliseconds besides the thumbnails
and figures. Not for pages other than the report of one run.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from headstart.data.not_copies import CopyRow
from headstart.evaluation.intervals import Estimate
from headstart.io.text_table import plain
from headstart.reports.model_card import ON_VALIDATION, about_known
from headstart.reports.report_data import ReportData, features_of_trial, kind_of_trial
from headstart.reports.thumbnails import heat_thumbnail, shrunk_uri, thumbnails
from headstart.reports.training_verdict import verdict as training_verdict
from headstart.training.history import HistoryRow

MOST_CELLS = 30  # classes; with more, the matrix is a figure and the confusions are a list
MOST_MISTAKES = 60
MOST_SUSPECTS = 60
MOST_GROUPS = 40
MOST_TRIALS = 8
MOST_CONFUSIONS = 40
DOUBTFUL = 0.05
"""At or below this label quality, the verdict counts a label as wrong."""
SURE = 0.9
"""At or above this probability, a prediction counts as sure."""

METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "top_3_accuracy": "Top-3 accuracy",
    "precision_macro": "Precision, mean of classes",
    "recall_macro": "Recall, mean of classes",
    "f1_macro": "F1, mean of classes",
    "f1_weighted": "F1, weighted by frequency",
    "cohen_kappa": "Cohen's kappa",
    "matthews_corrcoef": "Matthews correlation",
    "roc_auc": "Area under ROC curve",
    "log_loss": "Log-loss, nats",
    "brier_score": "Brier score",
    "ece": "Expected calibration error",
}


@dataclass(frozen=True)
class ThumbnailRef:
    """An image as the page refers to it: the number of its thumbnail (-1 for none) and its alternative text."""

    number: int
    alt: str


def percent(share: float, digits: int = 1) -> str:
    """Format a fraction as a percentage.

    >>> percent(0.9871)
    '98.7\\u202f%'
    """
    return f"{100 * share:.{digits}f}\u202f%"


def coded(text: str) -> Markup:
    """Return the HTML of a text that has commands in backticks.

    >>> coded("`check a<b` says more")
    Markup('<code>check a&lt;b</code> says more')
    """
    parts = text.split("`")
    if len(parts) % 2 == 0:  # an unpaired backtick
        return escape(text)
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts))


def name(text: str) -> Markup:
    """Prepare a class or file name for a sentence: escaped, and isolated from the direction of the surrounding text.

    >>> print(name('<b>"cat"</b>'))
    <bdi>&lt;b&gt;&#34;cat&#34;&lt;/b&gt;</bdi>
    """
    return Markup("<bdi>{}</bdi>").format(plain(text) or "(no name)")


def estimate(figure: Estimate) -> Markup:
    """Format an estimate with its interval; a dash if it is undefined."""
    if figure.undefined:
        return Markup('<span class="muted" title="{}">&ndash;</span>').format(figure.method)
    bounds = f"{figure.low:.3f}\u2013{figure.high:.3f}"
    return Markup('{} <span class="interval">{}</span>').format(f"{figure.value:.3f}", bounds)


def context(report: ReportData, figures: Mapping[str, str]) -> dict[str, Any]:
    """Return the template's variables by name."""
    images = _PageImages(report)
    return {
        "report": report,
        "metrics": report.metrics,
        "verdict": verdict(report),
        "training_verdict": training_verdict(report.epochs, report.stopped) if report.epochs else "",
        "headline": headline(report),
        "judged_on": judged_on(report),
        "judged_set": {"test": "test", "val": "validation", "all": "all images"}[report.split],
        "figures": {key: Markup(svg) for key, svg in figures.items()},
        "widths": {key: _natural_width(svg) for key, svg in figures.items() if _natural_width(svg)},
        "metric_rows": metric_rows(report),
        "trial_rows": trial_rows(report.trials, report.taken),
        "trials": len(report.trials),
        "class_rows": class_rows(report),
        "confusion_rows": confusion_rows(report),
        "confusions": confusions(report),
        "confidence": confidence(report),
        "mistakes": images.mistakes(),
        "suspects": images.suspects(),
        "groups": images.groups(),
        "findings": finding_rows(report),
        "seen": shrunk_uri(report.seen, 1200) if report.seen else "",
        "total_seconds": report.seconds.get("total"),
        "second_rows": [(key, f"{value:.1f}") for key, value in report.seconds.items() if key != "total"],
        "data": images.json(),
        "images_shown": len(images.uris),
        "most": {"suspects": MOST_SUSPECTS, "groups": MOST_GROUPS, "mistakes": MOST_MISTAKES},
    }


def _natural_width(svg: str) -> int:
    """Return the width in pixels at which a figure's text has its intended size; 0 if the SVG has no viewBox."""
    found = re.search(r'viewBox="0 0 ([0-9.]+) ', svg)
    return round(float(found[1]) * 4 / 3) if found else 0


# Sentences


JUDGED = {"test": "test ", "val": "validation ", "all": ""}
"""Which images were evaluated, by `ReportData.split`, as a word before `images`."""


def verdict(report: ReportData) -> list[Markup]:
    """Return three sentences: how good the classifier is, where it fails, what to do next.

    Without a test set, the first says so; in an evaluation on images of the training, it says that.
    """
    too_good = ON_VALIDATION if report.split == "val" else about_known(report.known or 0, report.metrics.n)
    optimistic = [Markup("{}").format(too_good)] if too_good else []
    return [*optimistic, _how_good(report), _where_it_fails(report), _what_next(report)]


def judged_on(report: ReportData) -> str:
    """Return the number of images that the metrics are about, and what they are.

    A run without a test set has no second column of figures, so the validation set is named here only. An evaluation may
    be repeated, so only a run's own report says that the test images were used once.
    """
    n, known = f"{report.metrics.n:,}", about_known(report.known or 0, report.metrics.n)
    images = {"test": f"{n} test images", "val": f"{n} validation images", "all": f"{n} labelled images"}[report.split]
    if report.split == "test" and report.known is None:
        images += ", used once"
    if report.val:
        images += f"; {report.val.n:,} validation images, used for model selection"
    more = (ON_VALIDATION if report.split == "val" else known, report.metrics.about_groups)
    return " ".join([f"{images}.", *filter(None, more)])


def _how_good(report: ReportData) -> Markup:
    metrics = report.metrics
    accuracy, support = metrics["accuracy"], metrics.support
    common = int(support.argmax())
    images = f"{metrics.n:,} {JUDGED[report.split]}image{'s' * (metrics.n != 1)}"
    return Markup("It gets {} of {} right (95\u202f% interval {} to {}); always answering {} would get {}.").format(
        percent(accuracy.value),
        images,
        percent(accuracy.low),
        percent(accuracy.high),
        name(metrics.classes[common]),
        percent(support[common] / metrics.n),
    )


def _where_it_fails(report: ReportData) -> Markup:
    metrics = report.metrics
    pairs = confusions(report)
    if not pairs:
        most = 1 - metrics["accuracy"].low
        return Markup(
            "It made no mistakes; with this many {}images, an error rate of up to {} is still possible."
        ).format(JUDGED[report.split], percent(most))
    worst = pairs[0]
    rated = {c: metrics.per_class[c]["f1"] for c in metrics.classes}
    weakest = min((c for c in rated if not rated[c].undefined), key=lambda c: rated[c].value, default=None)
    often = "once" if worst["count"] == 1 else f"{worst['count']:,} of {worst['support']:,} times"
    first = Markup("Its most frequent mistake is to predict {} for {} ({})").format(
        name(worst["predicted"]), name(worst["true"]), often
    )
    if weakest is None or len(metrics.classes) == 2:
        return first + "."
    return first + Markup("; the weakest class is {} (F1 {}).").format(name(weakest), f"{rated[weakest].value:.3f}")


def _what_next(report: ReportData) -> Markup:
    """Return the most important advice, in this order: leaks and conflicts, wrong labels, training, noise."""
    errors = {f.check: f for f in report.findings or () if f.severity == "error"}
    if "split_leak" in errors:
        return Markup(
            "Do not trust this result yet: copies of an image are in different sets of the split, see {}."
        ).format(Markup('<a href="#checks">data checks</a>'))
    n = sum(s.label_quality <= DOUBTFUL for s in report.suspects or ())
    if n:
        what = "1 label looks wrong" if n == 1 else f"{n:,} labels look wrong"
        return Markup('{}; review <a href="#labels">the list</a> first.').format(what)
    if errors:
        return Markup('The <a href="#checks">data checks</a> found errors; resolve those first.')
    said = training_verdict(report.epochs, report.stopped) if report.epochs and report.trained else ""
    if said and "healthy" not in said.lower():
        return Markup("{}").format(said)
    accuracy = report.metrics["accuracy"]
    if accuracy.high - accuracy.low > 0.02:
        points = 50 * (accuracy.high - accuracy.low)
        return Markup("With this many {}images, differences of less than {} points are within the noise.").format(
            JUDGED[report.split], f"{points:.1f}"
        )
    return Markup("Nothing in the data or the training needs attention.")


def confidence(report: ReportData) -> str:
    """Say how often the classifier is sure, and how often it is then right."""
    chances_NK, labels_N = report.predictions.probabilities, report.predictions.labels
    if labels_N is None or not len(labels_N):
        return ""
    sure_N, right_N = chances_NK.max(axis=1) >= SURE, chances_NK.argmax(axis=1) == labels_N
    if not sure_N.any():
        return f"It assigns no image a probability of {percent(SURE, 0)} or more."
    right = f"and right in {percent(right_N[sure_N].mean())} of these"
    if sure_N.all():
        return f"It is at least {percent(SURE, 0)} sure of all images, {right}."
    return (
        f"It is at least {percent(SURE, 0)} sure of {percent(sure_N.mean())} of the images, {right}; it gets "
        f"{percent(right_N[~sure_N].mean())} of the others right."
    )


def copy_evidence(pair: CopyRow, limit: float = 0.0) -> str:
    """Say why two images are treated as copies; `limit` is the largest difference that is accepted without comparing
    fine details, 0 if unknown.

    >>> copy_evidence(CopyRow("a.jpg", "b.jpg", evidence="near", difference="0.00312"), 0.014)
    'differs by 0.3\\u202f% (limit in this data: 1.4\\u202f%)'
    """
    if pair.evidence != "near":
        return pair.evidence.replace("_", " ")
    if not pair.difference:
        return "as similar as copies are"
    difference = float(pair.difference)
    about = f" (limit in this data: {percent(limit)})" if limit else ""
    if limit and difference > limit:
        about = f", but the fine details agree (limit without them: {percent(limit)})"
    return f"differs by {percent(difference) if difference >= 0.0005 else f'less than {percent(0.001)}'}{about}"


def group_evidence(report: ReportData, groups: Sequence[Sequence[str]]) -> list[str]:
    """Say why the images of each group are treated as copies; '' where the run does not record it."""
    if report.pairs is None:
        return [""] * len(groups)
    number = {path: n for n, group in enumerate(groups) for path in group}
    found: list[list[CopyRow]] = [[] for _ in groups]
    for pair in report.pairs:
        if number.get(pair.path, -1) == number.get(pair.copy, -2):
            found[number[pair.path]].append(pair)
    return [_evidence_of(pairs, report.copy_limit) for pairs in found]


def _evidence_of(pairs: Sequence[CopyRow], limit: float) -> str:
    if not pairs:
        return "a declared group"
    if len(pairs) == 1:
        return copy_evidence(pairs[0], limit)
    counts = Counter(pair.evidence for pair in pairs)
    texts = [f"{counts[key]:,} with the {key.replace('_', ' ')}" for key in ("same_file", "same_pixels") if counts[key]]
    near = [float(pair.difference) for pair in pairs if pair.evidence == "near" and pair.difference]
    texts += [f"{len(near):,} near, {percent(min(near))} to {percent(max(near))} different"] if near else []
    return f"{len(pairs):,} pairs: {', '.join(texts)}"


def headline(report: ReportData) -> list[tuple[str, str, str]]:
    """Return (name, value, interval) of the figures at the top."""
    rows = []
    for key in ("accuracy", "balanced_accuracy", "roc_auc", "ece"):
        figure = report.metrics.overall.get(key)
        if figure is not None and not figure.undefined:
            asked = key in ("accuracy", "balanced_accuracy")
            value = percent(figure.value) if asked else f"{figure.value:.3f}"
            low, high = (percent(x) if asked else f"{x:.3f}" for x in (figure.low, figure.high))
            text = METRICS[key]
            shown = f"Validation {text[0].lower()}{text[1:]}" if report.split == "val" else text
            rows.append((shown, value, f"{low} to {high}"))
    return rows


# Tables


def metric_rows(report: ReportData) -> list[tuple[str, Estimate, Estimate | None]]:
    """Return (name, estimate on the evaluated images, estimate on validation) of each metric."""
    val = report.val.overall if report.val else {}
    return [(text, report.metrics[key], val.get(key)) for key, text in METRICS.items() if key in report.metrics.overall]


def trial_rows(trials: Sequence[HistoryRow], taken: frozenset[int]) -> list[dict[str, Any]]:
    """Return one of each `kind_of_trial`, best first, stage by stage: the one that was taken, or else the best by
    cross-validation or leave-one-out, as in the search for a head, or by validation. `taken` are numbers of trials."""
    best = {kind_of_trial(trials[i]): trials[i] for i in sorted(taken)}
    chosen = set(best)
    for trial in trials:
        key = kind_of_trial(trial)
        if key in chosen:
            continue
        if key not in best or _choosing(trial) <= _choosing(best[key]) or trial.n_images > best[key].n_images:
            best[key] = trial
    stages = ("finetune", "head", "choose")
    ranked = sorted(best.values(), key=lambda t: (stages.index(t.stage) if t.stage in stages else 9, _loss(t)))
    shown = [t for t in ranked if t.stage != "choose"][:MOST_TRIALS]
    shown += [t for t in ranked if t.stage == "choose"][:MOST_TRIALS]
    return [
        {
            "stage": {"finetune": "fine-tuning", "head": "head", "choose": "choice of backbone"}.get(t.stage, t.stage),
            "backbone": features_of_trial(t),
            "head": t.head or t.approach,
            "images": t.n_images,
            "accuracy": _known(t.cv_accuracy, t.val_accuracy, t.loo_accuracy),
            "loss": _known(t.cv_log_loss, t.val_log_loss, t.loo_log_loss),
            "by": _measured_by(t),
            "seconds": sum(x.seconds for x in trials if kind_of_trial(x) == kind_of_trial(t)),
            "chosen": kind_of_trial(t) in chosen,
        }
        for t in shown
    ]


def _measured_by(trial: HistoryRow) -> str:
    if not math.isnan(trial.cv_log_loss):
        return "cross-validation"
    return "leave-one-out" if math.isnan(trial.val_log_loss) else "validation"


def _loss(trial: HistoryRow) -> float:
    found = _known(trial.cv_log_loss, trial.val_log_loss, trial.loo_log_loss)
    return math.inf if math.isnan(found) else found


def _choosing(trial: HistoryRow) -> float:
    return math.inf if math.isnan(trial.choosing_log_loss) else trial.choosing_log_loss


def _known(*values: float) -> float:
    """Return the first that is known, or nan."""
    return next((value for value in values if not math.isnan(value)), math.nan)


def class_rows(report: ReportData) -> list[dict[str, Any]]:
    """Return a row per class: images, precision, recall, F1, ROC area."""
    metrics = report.metrics
    return [
        {"name": c, "images": int(metrics.support[k]), "figures": [metrics.per_class[c][m] for m in _PER_CLASS]}
        for k, c in enumerate(metrics.classes)
    ]


_PER_CLASS = ("precision", "recall", "f1", "roc_auc")


def confusion_rows(report: ReportData) -> list[dict[str, Any]] | None:
    """Return the confusion matrix row by row; None if there are too many classes for a table."""
    metrics = report.metrics
    if len(metrics.classes) > MOST_CELLS:
        return None
    support = metrics.support
    return [
        {
            "name": c,
            "total": int(support[k]),
            "cells": [
                {"count": int(count), "share": count / max(int(support[k]), 1), "true": k, "predicted": j}
                for j, count in enumerate(metrics.confusion[k])
            ],
        }
        for k, c in enumerate(metrics.classes)
    ]


def confusions(report: ReportData) -> list[dict[str, Any]]:
    """Return pairs of true and wrongly predicted class, the most frequent first."""
    metrics = report.metrics
    off = metrics.confusion * (1 - np.eye(len(metrics.classes), dtype=np.int64))
    order = np.argsort(-off, axis=None, kind="stable")[:MOST_CONFUSIONS]
    rows = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, off.shape), strict=True) if off[i, j]]
    return [
        {
            "true": metrics.classes[i],
            "predicted": metrics.classes[j],
            "count": int(off[i, j]),
            "support": int(metrics.support[i]),
            "i": i,
            "j": j,
        }
        for i, j in rows
    ]


def finding_rows(report: ReportData) -> list[dict[str, Any]]:
    """Return the findings of the checks, with the first paths of each."""
    return [
        {
            "severity": f.severity,
            "check": f.check.replace("_", " "),
            "message": plain(f.message),
            "paths": [plain(p) for p in f.paths[:20]],
            "more": max(0, len(f.paths) - 20),
        }
        for f in report.findings or ()
    ]


# Images


class _PageImages:
    """The images of a page: which ones, their numbers, and where they appear."""

    def __init__(self, report: ReportData) -> None:
        self.report = report
        self.shown = report.mistakes[:MOST_MISTAKES]
        self.suspected = (report.suspects or ())[:MOST_SUSPECTS]
        self.grouped = (report.groups or ())[:MOST_GROUPS]
        wanted = [p for p in self._wanted() if p in report.files]
        large = frozenset(report.predictions.paths[i] for i in self.shown)
        self.uris = thumbnails({p: report.files[p] for p in wanted}, large=large)
        self._number = {path: i for i, path in enumerate(self.uris)}
        self._heat = {
            i: heat_thumbnail(report.files[report.predictions.paths[i]], report.heat[i])
            for i in self.shown
            if i in report.heat and report.predictions.paths[i] in report.files
        }

    def _wanted(self) -> Iterable[str]:
        """Return the paths of all images to show, the most important first, each once."""
        report, paths = self.report, self.report.predictions.paths
        near = [n.path for i in self.shown for n in report.near.get(i, ())]
        grouped = [path for group in self.grouped for path in group]
        wrong = [paths[i] for i in report.mistakes]
        return dict.fromkeys([*wrong, *near, *(s.path for s in self.suspected), *grouped, *self._the_rest()])

    def _the_rest(self) -> Iterable[str]:
        """Return the other images, the least confident first, alternating between classes."""
        predictions = self.report.predictions
        sure_N, label_N = predictions.probabilities.max(axis=1), predictions.predicted
        turn_N = np.zeros(len(predictions), np.int64)
        for k in np.unique(label_N):
            own = np.flatnonzero(label_N == k)
            turn_N[own[np.argsort(sure_N[own], kind="stable")]] = np.arange(len(own))
        return [predictions.paths[i] for i in np.lexsort((label_N, turn_N))]

    def shot(self, path: str, text: str = "") -> ThumbnailRef:
        """Return the page's reference to an image."""
        return ThumbnailRef(self._number.get(path, -1), f"{plain(path)}{', ' if text else ''}{text}")

    def mistakes(self) -> list[dict[str, Any]]:
        """Return the mistakes to show, the most confident first."""
        predictions, classes = self.report.predictions, self.report.metrics.classes
        labels_N, chances_NK = predictions.labels, predictions.probabilities
        rows = []
        for i in self.shown:
            true, guess = int(labels_N[i]) if labels_N is not None else -1, int(predictions.predicted[i])
            path = predictions.paths[i]
            near = [
                (self.shot(n.path, f"labelled {plain(n.label)}"), n, n.label == classes[true])
                for n in self.report.near.get(i, ())
            ]
            rows.append(
                {
                    "shot": self.shot(path, f"labelled {plain(classes[true])}, predicted {plain(classes[guess])}"),
                    "path": plain(path),
                    "true": true,
                    "predicted": guess,
                    "sure": float(chances_NK[i, guess]),
                    "own": float(chances_NK[i, true]),
                    "near": near,
                    "heat": self._heat.get(i, ""),
                }
            )
        return rows

    def suspects(self) -> list[dict[str, Any]]:
        """Return the suspected labels to show, the worst first."""
        return [
            {"shot": self.shot(s.path, f"labelled {plain(s.label)}"), "path": plain(s.path), "suspect": s}
            for s in self.suspected
        ]

    def groups(self) -> list[dict[str, Any]]:
        """Return the groups of copies to show, the most important first, each with its evidence."""
        return [
            {"images": [self._member(path) for path in group], "evidence": evidence}
            for group, evidence in zip(self.grouped, group_evidence(self.report, self.grouped), strict=True)
        ]

    def _member(self, path: str) -> dict[str, Any]:
        label, split = (known.get(path, "") for known in (self.report.labels, self.report.splits))
        return {"shot": self.shot(path), "path": plain(path), "label": label, "split": split}

    def json(self) -> Markup:
        """Return the data of the page's script: thumbnails, and one row per prediction. Safe inside a script
        element."""
        predictions = self.report.predictions
        labels_N, sure_N = predictions.labels, predictions.probabilities.max(axis=1) if len(predictions) else []
        rows = [
            [plain(path), int(label), int(guess), round(float(sure), 4), self._number.get(path, -1)]
            for path, label, guess, sure in zip(
                predictions.paths, labels_N if labels_N is not None else [], predictions.predicted, sure_N, strict=True
            )
        ]
        document = {
            "classes": [plain(c) for c in self.report.metrics.classes],
            "thumbnails": list(self.uris.values()),
            "rows": rows,
        }
        return json_for_script(document)


def json_for_script(value: Any) -> Markup:
    """Encode JSON that is safe in a script element, whatever text it contains: no ``<``, ``>``, ``&``.

    >>> print(json_for_script("</script>"))
    "\\u003c/script\\u003e"
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
