"""What a report shows, as plain values: gathered by `verbs/report.py`, laid out by `reports/sections.py`.

Costs nothing by itself. Not a format of files: what a run keeps stands in its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from headstart.data.checks import Finding
from headstart.data.not_copies import CopyRow
from headstart.evaluation.metrics import Metrics
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
    side: str = ""


@dataclass(frozen=True, eq=False)
class ReportData:
    """What a page shows.

    `predictions` are those of the labelled images that `metrics` judged, in whose order `near` and `heat` count.
    `files` are the images that are at hand, by path. `missing` holds a sentence for each section that cannot be shown.
    """

    title: str
    predictions: Predictions
    metrics: Metrics
    side: str = "test"
    """'test', or 'all' where all labelled images were judged."""
    facts: tuple[tuple[str, str], ...] = ()
    """What the classifier is, in pairs of a name and a text."""
    val: Metrics | None = None
    trials: tuple[HistoryRow, ...] = ()
    taken: frozenset[tuple[str, str, str]] = frozenset()
    """`kind_of_trial` of those that the classifier was made from."""
    epochs: tuple[TrainingRow, ...] = ()
    """Rows of epochs.csv."""
    steps: tuple[TrainingRow, ...] = ()
    """Rows of steps.csv."""
    best_epoch: int | None = None
    trained: bool = True
    """Whether what these epochs gave is part of the classifier."""
    outcome: str = ""
    """What came of them, in a sentence or two."""
    findings: tuple[Finding, ...] | None = None
    balance: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """class -> side -> images."""
    sizes_N2: np.ndarray | None = None
    """int (N, 2): width and height in pixels of the images."""
    near: Mapping[int, tuple[SimilarImage, ...]] = field(default_factory=dict)
    """By row of `predictions`: the nearest training images."""
    heat: Mapping[int, np.ndarray] = field(default_factory=dict)
    """By row of `predictions`: a heat map of the predicted class, 0 to 1."""
    suspects: tuple[Suspect, ...] | None = None
    groups: tuple[tuple[str, ...], ...] | None = None
    """Paths of images that are copies of one another, or of one named group."""
    pairs: tuple[CopyRow, ...] | None = None
    """Pairs of images that are taken for copies, with what speaks for it; None if the run does not say."""
    copy_limit: float = 0.0
    """The largest difference that is sure to be a copy in this data; 0 if it is not known."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """path -> label, of the images in `groups`."""
    sides: Mapping[str, str] = field(default_factory=dict)
    """path -> set of the split."""
    seen: bytes = b""
    """A PNG of training images as the network saw them."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    costs: tuple[tuple[str, str], ...] = ()
    """(what, how much), besides the seconds."""
    commands: tuple[tuple[str, str], ...] = ()
    """(what it does, command)."""
    files: Mapping[str, Path] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def mistakes(self) -> tuple[int, ...]:
        """Rows of `predictions` that are wrong, the most confident first."""
        return tuple(mistakes(self.predictions))


def kind_of_trial(trial: HistoryRow) -> tuple[str, str, str]:
    """(stage, backbone, head or approach): trials that differ in nothing else are one row of the page."""
    return trial.stage, trial.backbone, trial.head or trial.approach


def mistakes(predictions: Predictions) -> list[int]:
    """Rows of labelled predictions that are wrong, the most confident first."""
    labels_N = predictions.labels if predictions.labels is not None else np.full(len(predictions), -1)
    wrong = np.flatnonzero((labels_N >= 0) & (predictions.predicted != labels_N))
    sure = predictions.probabilities[wrong].max(axis=1) if len(wrong) else np.zeros(0)
    return [int(i) for i in wrong[np.lexsort((wrong, -sure))]]


def sides_of(classes: Sequence[str], labels_N: np.ndarray, split: np.ndarray) -> dict[str, dict[str, int]]:
    """How many images of each class are on each side: {class: {side: images}}."""
    present = [side for side in ("train", "val", "test") if (split == side).any()]
    return {c: {s: int(((labels_N == k) & (split == s)).sum()) for s in present} for k, c in enumerate(classes)}
