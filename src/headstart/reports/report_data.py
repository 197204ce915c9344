"""Content of a report as plain values: collected by `pipeline/run_report.py`, laid out by `reports/sections.py`.

Costs nothing by itself. Not a file format: what a run keeps is in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from headstart.data.findings import Finding
from headstart.data.not_copies import CopyRow
from headstart.evaluation.metrics import Metrics
from headstart.images.file_part import ImageFile
from headstart.model.inference.predictions import Predictions
from headstart.training.history import HistoryRow

TrainingRow = Mapping[str, float]


@dataclass(frozen=True)
class SimilarImage:
    """A training image that resembles another: its path, its label, the cosine of their features."""

    path: str
    label: str
    cosine: float


@dataclass(frozen=True)
class Suspect:
    """A label that is probably wrong: `label_quality` from 0 to 1 (low is suspicious), and the class suggested."""

    path: str
    label: str
    suggested: str
    label_quality: float
    split: str = ""


@dataclass(frozen=True, eq=False)
class ReportData:
    """Content of a page.

    `predictions` are those of the labelled images that `metrics` describes; `near` and `heat` use their row numbers.
    `files` are the available images, by path. `missing` holds a sentence for each section that cannot be shown.
    """

    title: str
    predictions: Predictions
    metrics: Metrics
    split: str = "test"
    """'test'; 'val' if there is no test set; 'all' if all labelled images were evaluated."""
    known: int | None = None
    """Of an evaluation: how many of its images the run was trained on. None for the report of a run on its own images."""
    groups_N: np.ndarray | None = None
    """int64 (N,): the group of each of the `predictions`, equal for images that are not independent; None if all are."""
    facts: tuple[tuple[str, str], ...] = ()
    """What the classifier is, as pairs of a name and a text."""
    val: Metrics | None = None
    trials: tuple[HistoryRow, ...] = ()
    taken: frozenset[int] = frozenset()
    """Numbers of the `trials` that the classifier was made from."""
    epochs: tuple[TrainingRow, ...] = ()
    """Rows of epochs.csv."""
    steps: tuple[TrainingRow, ...] = ()
    """Rows of steps.csv."""
    best_epoch: int | None = None
    stopped: str = ""
    """Why training ended before its last epoch."""
    trained: bool = True
    """Whether the network from these epochs is in the classifier."""
    outcome: str = ""
    """The result of these epochs, in a sentence or two."""
    findings: tuple[Finding, ...] | None = None
    balance: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """class -> set -> images."""
    sizes_N2: np.ndarray | None = None
    """int (N, 2): width and height in pixels of the images."""
    near: Mapping[int, tuple[SimilarImage, ...]] = field(default_factory=dict)
    """By row of `predictions`: the nearest training images."""
    heat: Mapping[int, np.ndarray] = field(default_factory=dict)
    """By row of `predictions`: a heat map of the predicted class, 0 to 1."""
    suspects: tuple[Suspect, ...] | None = None
    groups: tuple[tuple[str, ...], ...] | None = None
    """Paths of images that are copies of each other or belong to one declared group."""
    pairs: tuple[CopyRow, ...] | None = None
    """Pairs of images that are treated as copies, with the evidence; None if the run does not record it."""
    copy_limit: float = 0.0
    """The largest difference that certainly means a copy in this data; 0 if unknown."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """path -> label, of the images in `groups`."""
    splits: Mapping[str, str] = field(default_factory=dict)
    """path -> set of the split."""
    seen: bytes = b""
    """A PNG of training images as the network received them."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    costs: tuple[tuple[str, str], ...] = ()
    """(name, value), besides the seconds."""
    commands: tuple[tuple[str, str], ...] = ()
    """(what it does, command)."""
    files: Mapping[str, ImageFile] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def mistakes(self) -> tuple[int, ...]:
        """Row numbers of wrong `predictions`, the most confident first."""
        return tuple(mistakes(self.predictions))


def kind_of_trial(trial: HistoryRow) -> tuple[str, str, str]:
    """Return (stage, backbone, head or approach): trials with the same key share one row of the page."""
    return trial.stage, features_of_trial(trial), trial.head or trial.approach


def features_of_trial(trial: HistoryRow) -> str:
    """Return the name of the backbone, its input, and whether features of all its stages were used."""
    parts = (trial.backbone, trial.input, "all stages" if trial.pooling == "stages" else "")
    return ", ".join(filter(None, parts))


def mistakes(predictions: Predictions) -> list[int]:
    """Return the row numbers of wrong predictions of labelled images, the most confident first."""
    labels_N = predictions.labels if predictions.labels is not None else np.full(len(predictions), -1)
    wrong = np.flatnonzero((labels_N >= 0) & (predictions.predicted != labels_N))
    sure = predictions.probabilities[wrong].max(axis=1) if len(wrong) else np.zeros(0)
    return [int(i) for i in wrong[np.lexsort((wrong, -sure))]]


def sides_of(classes: Sequence[str], labels_N: np.ndarray, split: np.ndarray) -> dict[str, dict[str, int]]:
    """Count the images of each class in each set: {class: {set: images}}."""
    present = [name for name in ("train", "val", "test") if (split == name).any()]
    return {c: {s: int(((labels_N == k) & (split == s)).sum()) for s in present} for k, c in enumerate(classes)}
