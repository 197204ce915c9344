"""Temperature scaling of logits, and reliability diagrams that show whether confidence can be trusted.

A head trained to separate the classes is right more (or less) often than its probabilities say. Dividing all logits by
one number, fitted on images the head was not trained on, changes no prediction and corrects most of that (Guo et al.
2017, "On Calibration of Modern Neural Networks", section 4.2). It costs milliseconds. One number cannot correct one
over-confident class among well-calibrated ones, nor anything on other kinds of images than those it was fitted on. Fit
it on validation images or on leave-one-out logits, never on those of the training or the test set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headstart.errors import BadLabels, DataError
from headstart.evaluation.image_groups import counted_groups
from headstart.evaluation.intervals import Estimate, Resampling, wilson
from headstart.evaluation.probabilities import softmax

PSEUDO_ERRORS = 0.25  # see `fit_temperature`; chosen by test log-loss on real features, figures in LOG.md
SPAN = 100.0  # the temperature stays within this factor of the spread of the logits


def check_scores(scores_NK: np.ndarray, labels_N: np.ndarray, classes: int | None = None) -> None:
    """Raise `DataError` unless scores (N, K >= 2) are finite and labels (N,) are whole numbers from -1 to K - 1."""
    if scores_NK.ndim != 2 or scores_NK.shape[1] < 2 or labels_N.shape != scores_NK.shape[:1]:
        raise DataError(
            f"scores and labels: shapes {scores_NK.shape} and {labels_N.shape} do not fit.",
            hint="Expected (images, two or more classes) and (images,).",
        )
    if classes is not None and classes != scores_NK.shape[1]:
        raise DataError(f"scores: {scores_NK.shape[1]} columns for {classes} classes; expected one column per class.")
    if not np.isfinite(scores_NK).all():
        row = int(np.flatnonzero(~np.isfinite(scores_NK).all(axis=1))[0])
        raise DataError(f"scores: row {row} holds {scores_NK[row].tolist()}; expected finite numbers.")
    if len(labels_N) and (
        labels_N.dtype.kind not in "iu" or labels_N.min() < -1 or labels_N.max() >= scores_NK.shape[1]
    ):
        raise BadLabels(f"labels: expected whole numbers from 0 to {scores_NK.shape[1] - 1}, or -1 where unknown.")


def fit_temperature(logits_NK: np.ndarray, labels_N: np.ndarray, *, pseudo_errors: float = PSEUDO_ERRORS) -> float:
    """Return the temperature T > 0 at which softmax(logits / T) has the lowest log-loss, slightly smoothed.

    The log-loss is convex in 1/T; its slope is bisected. Without smoothing, a head that gets all (or nearly all) of a
    small validation set right ends up near-certain, at T near 0, as if no errors among 50 images meant none anywhere.
    So a fraction ``pseudo_errors / (N + pseudo_errors)`` of every label moves to the strongest wrong class: Platt's
    smoothed targets (Platt 1999, section 2.2), with a quarter of an error for the whole set in place of his one per
    class, which is far too cautious for today's heads. The effect fades as 1/N.

    Labels of -1 are left out. T stays within a factor of 100 of the spread (standard deviation within rows) of the
    logits: the upper end is for logits unrelated to the labels. If all logits are equal, T is 1. Raises `DataError` as
    `check_scores` does, `BadLabels` if no image has a label.
    """
    logits_NK, labels_N = np.asarray(logits_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(logits_NK, labels_N)
    logits_NK, labels_N = logits_NK[labels_N >= 0], labels_N[labels_N >= 0]
    n = len(labels_N)
    if n == 0:
        raise BadLabels("labels: no image has one, so no temperature can be fitted.")
    logits_NK = logits_NK - logits_NK.mean(axis=1, keepdims=True)
    spread = float(logits_NK.std())
    if spread == 0:
        return 1.0
    logits_NK /= spread  # makes the search independent of the scale
    right_N = logits_NK[np.arange(n), labels_N]
    wrong_NK = logits_NK.copy()
    wrong_NK[np.arange(n), labels_N] = -np.inf
    moved = pseudo_errors / (n + pseudo_errors)
    target = float(((1 - moved) * right_N + moved * wrong_NK.max(axis=1)).mean())

    low, high = -math.log(SPAN), math.log(SPAN)  # of log(1/T)
    for _ in range(50):
        middle = (low + high) / 2
        expected = float((softmax(logits_NK * math.exp(middle)) * logits_NK).sum(axis=1).mean())
        low, high = (middle, high) if expected < target else (low, middle)
    return spread * math.exp(-(low + high) / 2)


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often the top class is right, by confidence: one entry per equal-width bin.

    `edges` (bins + 1); `count` images per bin; their mean `confidence` and `accuracy`, NaN in an empty bin.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def bin_of(confidence_N: np.ndarray, bins: int) -> np.ndarray:
    """Return the number of each confidence's equal-width bin: (0, 1/bins] is 0, and so on (Guo et al. 2017, (2))."""
    edges = np.linspace(0, 1, bins + 1)
    return np.clip(np.searchsorted(edges, confidence_N, side="left") - 1, 0, bins - 1)


def reliability(probabilities_NK: np.ndarray, labels_N: np.ndarray, bins: int = 15) -> Reliability:
    """Compute a reliability diagram from probabilities (N, K) and labels (N,); labels of -1 are left out."""
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    probabilities_NK, labels_N = probabilities_NK[labels_N >= 0], labels_N[labels_N >= 0]
    confidence_N, right_N = probabilities_NK.max(axis=1), probabilities_NK.argmax(axis=1) == labels_N
    place_N = bin_of(confidence_N, bins)
    count = np.bincount(place_N, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(place_N, weights=x, minlength=bins) / count for x in (confidence_N, right_N)]
    return Reliability(np.linspace(0, 1, bins + 1), count, means[0], means[1])


def calibration_error(
    table: Reliability, draw: Resampling, accuracy: Estimate | None = None, noise_BM: np.ndarray | None = None
) -> Estimate:
    """Compute the expected calibration error of a non-empty table, with an interval for its noiseless value.

    Noise raises this error (the mean of |gap + noise| is above |gap|) and resampling would raise it again, so bootstrap
    intervals are too high: 63 to 85 % of the 95 % intervals contained the true value. Here noise is simulated (images
    fall into bins, and are right or wrong, by chance) and added to s times the observed gaps. The bounds are the
    smallest and the largest s at which the observed error is not yet unusual: a test inverted along that line. The
    error is never below |mean confidence - accuracy|, so the upper bound allows for the accuracy's own interval.

    Images of groups do not fall by chance one by one: their `accuracy` and noise (`group_noise`) are given.
    """
    n = int(table.count.sum())
    sure, rate = np.nan_to_num(table.confidence), np.nan_to_num(table.accuracy)
    gap = table.count * (sure - rate) / n
    value = min(1.0, float(np.abs(gap).sum()))
    noise = _simulated_noise(table, draw) if noise_BM is None else noise_BM

    def errors(s: float) -> np.ndarray:
        return np.abs(s * gap + noise).sum(axis=1)

    tail, slack = (1 - draw.level) / 2, 1e-12
    low, high = 0.0, 1.0
    if np.mean(errors(0.0) >= value - slack) <= tail:
        low = _boundary(lambda s: bool(np.mean(errors(s) >= value - slack) <= tail), 0.0, 1.0)
    if value > 0 and np.mean(errors(1.0) <= value + slack) > tail:
        high = _boundary(lambda s: bool(np.mean(errors(s) <= value + slack) > tail), 1.0, 1 / value)
    accuracy = accuracy or wilson(round(float(table.count @ rate)), n, draw.level)
    mean_sure = float(table.count @ sure / n)
    most = max(value, high * value, abs(mean_sure - accuracy.low), abs(mean_sure - accuracy.high))
    sets = "simulated sets" if draw.groups is None else f"resamples of {counted_groups(draw.groups.count)}"
    method = f"test inversion, {draw.resamples} {sets}"
    return Estimate(value=value, low=min(value, low * value), high=min(1.0, most), n=n, method=method)


def _simulated_noise(table: Reliability, draw: Resampling) -> np.ndarray:
    """Return the differences of the gaps from those of the table in simulated sets, (B, bins), as fractions of the images."""
    n, sure, rate = int(table.count.sum()), np.nan_to_num(table.confidence), np.nan_to_num(table.accuracy)
    rate = (table.count * rate + sure) / (table.count + 1)  # a prior of one image, for small bins
    fallen = draw.rng.multinomial(n, table.count / n, size=draw.resamples)
    noise_BM: np.ndarray = (fallen * sure - draw.rng.binomial(fallen, np.clip(rate, 0, 1))) / n - table.count * (
        sure - rate
    ) / n
    return noise_BM


def group_noise(probabilities_NK: np.ndarray, labels_N: np.ndarray, draw: Resampling, bins: int = 15) -> np.ndarray:
    """Return the differences of the gaps from the observed ones in resamples of whole groups, (B, bins)."""
    confidence_N = probabilities_NK.max(axis=1)
    gap_N = confidence_N - (probabilities_NK.argmax(axis=1) == labels_N)
    gap_NM = np.where(bin_of(confidence_N, bins)[:, None] == np.arange(bins), gap_N[:, None], 0.0)
    found = []
    for weights_Nb in draw.weights(len(labels_N)):
        total_b = weights_Nb.sum(axis=0, dtype=np.float64)
        found.append(weights_Nb.T.astype(np.float32) @ gap_NM.astype(np.float32) / total_b[:, None])
    return np.concatenate(found) - gap_NM.mean(axis=0)


def _boundary(holds: Callable[[float], bool], start: float, end: float) -> float:
    """Find where `holds`, true at `start`, stops being true on the way to `end`, by 30 halvings."""
    for _ in range(30):
        middle = (start + end) / 2
        start, end = (middle, end) if holds(middle) else (start, middle)
    return start
