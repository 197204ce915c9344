"""Sets of classes that hold the right one with a promised frequency: split conformal prediction.

From held-out images, `conformal_threshold` finds how unlikely the right class may look; `prediction_sets` then
gives every class that looks no less likely. Over new images *of the same kind* the right class is in the set at
least 1 - alpha of the time, whatever the model and however badly it is calibrated (Vovk et al. 2005; Angelopoulos and
Bates 2021, section 1). It costs a sort. The promise is an average over images and over draws of the held-out ones:
not for each class, not for each image, and void for images of another kind. Images that the head, its options or
its temperature were chosen on look easier than new ones, so a threshold from them promises slightly too much.
"""

from __future__ import annotations

import math

import numpy as np

from headstart.errors import BadLabels, RecipeError
from headstart.evaluation.calibration import check_scores


def conformal_threshold(probabilities_NK: np.ndarray, labels_N: np.ndarray, alpha: float = 0.1) -> float:
    """The threshold for `prediction_sets`, such that sets miss the right class with a frequency of `alpha` at most.

    It is the ceil((n + 1)(1 - alpha))-th smallest score of the n labelled images: with exactly the (n+1)/n correction
    that makes the promise hold for any n. Fewer than 1/alpha - 1 images cannot support it (n < 9 for 0.1): then the
    threshold is 1, and every set holds all classes.

    The score is 1 - p(right class), "LAC": the smallest sets on average; a hard image's can be empty (Sadinle, Lei and
    Wasserman 2019, section 2).

    Raises `RecipeError` for an alpha outside (0, 1), `DataError` as `check_scores` does, `BadLabels` when no image has
    a label.
    """
    if not 0 < alpha < 1:
        raise RecipeError(f"alpha: {alpha} is not a frequency of misses; expected a number between 0 and 1, like 0.1.")
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    known = np.flatnonzero(labels_N >= 0)
    n = len(known)
    if n == 0:
        raise BadLabels("labels: no image has one, so there is nothing to fit a conformal threshold on.")
    scores_N = 1 - probabilities_NK[known, labels_N[known]]
    # (n + 1)(1 - alpha) that should be whole, such as 20 * 0.9, must not be rounded up for a last binary digit.
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    return 1.0 if rank > n else float(np.partition(scores_N, rank - 1)[rank - 1])


def prediction_sets(probabilities_NK: np.ndarray, threshold: float) -> np.ndarray:
    """Which classes are in the set of each image, bool (N, K).

    >>> prediction_sets(np.array([[0.7, 0.2, 0.1]]), threshold=0.85)
    array([[ True,  True, False]])
    """
    return 1 - np.asarray(probabilities_NK, dtype=np.float64) <= threshold
