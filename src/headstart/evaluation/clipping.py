"""How close to 0 and 1 a submitted probability may come if it is scored by log-loss.

One confident mistake can dominate the score: an image with probability 1e-9 for its class adds 20.7 nats. Calibration
corrects the *average* confidence; it cannot know how often the most confident predictions are wrong (a wrong label
among the test images, an image of something else), because a small validation set shows none of those. `clip_bound`
sets a lower bound for all probabilities from the validation set, and never a lower one than the number of its images
supports. It costs 0.1 s for 10,000 images of two classes, 2 s for a hundred classes. Use it for submissions, after
calibration; it changes no predicted class, and does not belong in accuracies, prediction sets or cost-based decisions.
"""

from __future__ import annotations

import math

import numpy as np

from headstart.errors import BadLabels, RecipeError
from headstart.evaluation.calibration import check_scores

PSEUDO_ERRORS = 0.1  # see `clip_bound`; chosen by log-loss on real and simulated test sets, figures in LOG.md
STEPS = 40  # bounds to try


def clip_bound(probabilities_NK: np.ndarray, labels_N: np.ndarray, *, pseudo_errors: float = PSEUDO_ERRORS) -> float:
    """Return the bound b for probabilities (N, K), clipped to b or more, with the lowest (smoothed) log-loss.

    Without smoothing, a validation set with no confident mistake gives b = 0. So we add the loss of a fraction a
    (`pseudo_errors`) of an image whose class has the lowest possible probability, -a log b (a pseudo-count). Then n
    images, all confident and all right, give b = a / ((K - 1)(n + a)): the probability of a mistake, a / (n + a),
    shared by the wrong classes. No set gives less; observed confident mistakes raise it.

    The default is a tenth of an error: with a quarter (as in `fit_temperature`) or a half (Krichevsky and Trofimov
    1981), clipping costs more on sets without confident mistakes than it saves on sets with some. Labels of -1 are left
    out. It tries 40 bounds up to 1/(2K). Raises `DataError` as `check_scores` does, `BadLabels` if no image has a
    label.

    >>> sure = np.tile([1.0, 0.0], (100, 1))
    >>> round(clip_bound(sure, np.zeros(100, np.int64)), 6)
    0.000999
    """
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    probabilities_NK, labels_N = probabilities_NK[labels_N >= 0], labels_N[labels_N >= 0]
    n, classes = probabilities_NK.shape
    if n == 0:
        raise BadLabels("labels: no image has one, so no bound can be chosen.")
    most = 1 / (2 * classes)
    bounds = np.geomspace(min(pseudo_errors / ((classes - 1) * (n + pseudo_errors)), most), most, STEPS)
    rows = np.arange(n)

    def loss(b: float) -> float:
        return -float(np.log(clipped(probabilities_NK, b)[rows, labels_N]).sum()) - pseudo_errors * math.log(b)

    return float(bounds[int(np.argmin([loss(float(b)) for b in bounds]))])


def clipped(probabilities_NK: np.ndarray, bound: float) -> np.ndarray:
    """Raise probabilities (N, K) to at least `bound`, with rows still summing to 1, float64.

    Lower values are raised to the bound, and the rest of the row is scaled down to make room; values that this pushes
    below the bound are raised too. With two classes this is clipping to [bound, 1 - bound]. Raises `RecipeError` for a
    bound outside 0 to 1/K.

    >>> clipped(np.array([[0.96, 0.04, 0.0]]), 0.01).round(4)
    array([[0.9504, 0.0396, 0.01  ]])
    """
    probabilities_NK = np.asarray(probabilities_NK, dtype=np.float64)
    classes = probabilities_NK.shape[1]
    if not 0 <= bound <= 1 / classes:
        raise RecipeError(
            f"clip: {bound:g} is not a valid bound for the probabilities of {classes} classes; "
            f"expected a number from 0 to {1 / classes:.4g}."
        )
    result_NK, low_NK = probabilities_NK, probabilities_NK < bound
    for _ in range(classes - 1):
        if not low_NK.any():
            break
        rest_N = np.where(low_NK, 0.0, probabilities_NK).sum(axis=1, keepdims=True)
        room_N = 1 - bound * low_NK.sum(axis=1, keepdims=True)
        result_NK = np.where(low_NK, bound, probabilities_NK * room_N / np.maximum(rest_N, np.finfo(float).tiny))
        more_NK = result_NK < bound
        if not (more_NK & ~low_NK).any():
            break
        low_NK = low_NK | more_NK
    return result_NK
