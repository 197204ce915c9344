"""Split conformal prediction: sets of classes that contain the right one with a guaranteed frequency.

On held-out images, `conformal_threshold` finds how improbable the right class may be; `prediction_sets` then contain
every class at least that probable, and always the likeliest one. For new images *of the same kind* the set contains
the right class at least 1 - alpha of the time, whatever the model and however badly it is calibrated (Vovk et al.
2005; Angelopoulos and Bates 2021, section 1). It costs one sort. The guarantee is an average over images and over
draws of the held-out ones: it holds neither per class nor per image, and not for images of another kind. Images used
to choose the head, its options or its temperature look easier than new ones, so a threshold from them is slightly too
optimistic.
"""

from __future__ import annotations

import math

import numpy as np

from headstart.errors import BadLabels, RecipeError
from headstart.evaluation.calibration import check_scores


def conformal_threshold(probabilities_NK: np.ndarray, labels_N: np.ndarray, alpha: float = 0.1) -> float:
    """Return the threshold for `prediction_sets` at which sets miss the right class at most `alpha` of the time.

    It is the ceil((n + 1)(1 - alpha))-th smallest score of the n labelled images: the (n+1)/n correction makes the
    guarantee hold for any n. Fewer than 1/alpha - 1 images cannot support it (n < 9 for 0.1): then the threshold is 1,
    and every set contains all classes.

    The score is 1 - p(right class), "LAC", which gives the smallest sets on average (Sadinle, Lei and Wasserman 2019,
    section 2).

    Raises `RecipeError` for an alpha outside (0, 1), `DataError` as `check_scores` does, `BadLabels` if no image has a
    label.
    """
    if not 0 < alpha < 1:
        raise RecipeError(f"alpha: {alpha} is not a valid miss rate; expected a number between 0 and 1, such as 0.1.")
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    labelled = np.flatnonzero(labels_N >= 0)
    n = len(labelled)
    if n == 0:
        raise BadLabels("labels: no image has one, so no conformal threshold can be fitted.")
    scores_N = 1 - probabilities_NK[labelled, labels_N[labelled]]
    # (n + 1)(1 - alpha) that should be an integer, such as 20 * 0.9, must not be rounded up for its last binary digit.
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return 1.0 if rank > n else float(np.partition(scores_N, rank - 1)[rank - 1])


def prediction_sets(probabilities_NK: np.ndarray, threshold: float) -> np.ndarray:
    """Return which classes are in each image's set, bool (N, K): those at the threshold, and always the likeliest.

    A classifier that is right more often than 1 - alpha could keep that promise with empty sets, and would: at a
    threshold of 0.01, an image with a probability of 0.98 had none. An empty set is useless, so the likeliest class is
    always in it, and sets miss less often than `alpha` (Sadinle, Lei and Wasserman 2019, section 2, on null regions).

    >>> prediction_sets(np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]), threshold=0.5)
    array([[ True, False, False],
           [ True, False, False]])
    """
    probabilities_NK = np.asarray(probabilities_NK, dtype=np.float64)
    sets_NK: np.ndarray = 1 - probabilities_NK <= threshold
    sets_NK[np.arange(len(sets_NK)), probabilities_NK.argmax(axis=1)] = True
    return sets_NK
