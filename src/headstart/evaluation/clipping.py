"""How near to 0 and 1 a submitted probability may come, where a scorer counts log-loss.

One sure mistake costs as much as all else: an image with probability 1e-9 for its class adds 20.7 nats. Calibration
keeps the *average* confidence right; it cannot know how often the surest answers are wrong (a wrong label among the
test images, an image of something else), for a small validation set shows none of those. `clip_bound` sets a floor
below all probabilities from what validation shows, and never a lower one than the number of its images bears out.
It costs 0.1 s for 10,000 images of two classes, 2 s of a hundred. Use it for what is handed in to be scored, after
calibration; it changes no predicted class, and has no place in accuracies, prediction sets or decisions by cost.
"""

from __future__ import annotations

import math

import numpy as np

from headstart.errors import BadLabels, RecipeError
from headstart.evaluation.calibration import check_scores

PSEUDO_ERRORS = 0.1  # see `clip_bound`; chosen by log-loss on real and simulated test sets, figures in LOG.md
STEPS = 40  # bounds that are tried


def clip_bound(probabilities_NK: np.ndarray, labels_N: np.ndarray, *, pseudo_errors: float = PSEUDO_ERRORS) -> float:
    """The bound b at which probabilities (N, K), kept at or above b, have the least log-loss, slightly smoothed.

    Without smoothing a validation set that has no sure mistake asks for b = 0. So the loss of `pseudo_errors` a of an
    image is added whose class got the least that there can be, -a log b (as counts get pseudo-counts). n images that
    are all sure and all right then give b = a / ((K - 1)(n + a)), and no set gives less: the probability of a mistake,
    a / (n + a), shared by the wrong classes. Sure mistakes that were seen raise it.

    A tenth of an error: with a quarter (as `fit_temperature` has it) or a half (Krichevsky and Trofimov 1981), what
    clipping costs where there is no sure mistake outweighs what it saves where there are. Labels of -1 are left out.
    It tries 40 bounds up to 1/(2K). Raises `DataError` as `check_scores` does, `BadLabels` when no image has a label.

    >>> sure = np.tile([1.0, 0.0], (100, 1))
    >>> round(clip_bound(sure, np.zeros(100, np.int64)), 6)
    0.000999
    """
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    probabilities_NK, labels_N = probabilities_NK[labels_N >= 0], labels_N[labels_N >= 0]
    n, classes = probabilities_NK.shape
    if n == 0:
        raise BadLabels("labels: no image has one, so there is nothing to choose a bound on.")
    most = 1 / (2 * classes)
    bounds = np.geomspace(min(pseudo_errors / ((classes - 1) * (n + pseudo_errors)), most), most, STEPS)
    rows = np.arange(n)

    def loss(b: float) -> float:
        return -float(np.log(clipped(probabilities_NK, b)[rows, labels_N]).sum()) - pseudo_errors * math.log(b)

    return float(bounds[int(np.argmin([loss(float(b)) for b in bounds]))])


def clipped(probabilities_NK: np.ndarray, bound: float) -> np.ndarray:
    """Probabilities (N, K) with none below `bound`, rows still summing to 1, float64.

    What lies below is raised to the bound, and the rest of the row scaled down to make room; what falls below by that
    is raised too. With two classes this is clipping to [bound, 1 - bound]. Raises `RecipeError` for a bound outside
    of 0 to 1/K.

    >>> clipped(np.array([[0.96, 0.04, 0.0]]), 0.01).round(4)
    array([[0.9504, 0.0396, 0.01  ]])
    """
    probabilities_NK = np.asarray(probabilities_NK, dtype=np.float64)
    classes = probabilities_NK.shape[1]
    if not 0 <= bound <= 1 / classes:
        raise RecipeError(
            f"clip: {bound:g} is no bound for the probabilities of {classes} classes; "
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
