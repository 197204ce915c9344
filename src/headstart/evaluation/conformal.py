"""Split conformal prediction: sets of classes that contain the right one with a guaranteed frequency.

On held-out images, `conformal_threshold` finds how improbable the right class may be; `prediction_sets` then contain
every class at least that probable, and always the likeliest one. For a new image *of the same kind* the set misses the
right class with a probability of at most alpha, whatever the model and however badly it is calibrated (Vovk et al. 2005;
Angelopoulos and Bates 2021, section 1). It costs one sort. The guarantee is an average over images and over draws of the
held-out ones: it holds neither per class nor per image, nor for each single threshold, and not for images of another
kind. Images used to choose the head, its options or its temperature look easier than new ones, so a threshold from them is
slightly too optimistic.

Images of one group (a patient, copies of one image) are not independent, so counting each would promise too much: with 5
patients of 20 images, some patients harder than others, sets at alpha 0.1 held the right class of a new patient's image in
87.5 % of cases, with 10 in 88.7 % (2,000 simulated validation sets). Given the groups, each has the same weight whatever its
size (Lee, Barber and Willett 2023, arXiv 2306.06342), and the guarantee is about an image of a new group: 100 % and 97.3 %. It
takes 9 groups for an alpha of 0.1, whatever the number of images.
"""

from __future__ import annotations

import numpy as np

from headstart.errors import BadLabels, RecipeError
from headstart.evaluation.calibration import check_scores
from headstart.evaluation.image_groups import groups_of


def conformal_threshold(
    probabilities_NK: np.ndarray, labels_N: np.ndarray, alpha: float = 0.1, *, groups: np.ndarray | None = None
) -> float:
    """Return the threshold for `prediction_sets` at which a set misses the right class with a probability of `alpha`.

    `groups` int64 (N,) are equal for images that are not independent, None if all are. The threshold is the smallest
    score at which the labelled images up to it have a weight of 1 - alpha, where each of G groups weighs 1 / (G + 1),
    divided among its images; the missing 1 / (G + 1), for the new image, makes the guarantee hold for any G. Without groups,
    it is the ceil((n + 1)(1 - alpha))-th smallest score of n. Fewer than 1/alpha - 1 groups cannot support it (9 for 0.1):
    then the threshold is 1, and every set contains all classes.

    The score is 1 - p(right class), "LAC", which gives the smallest sets on average (Sadinle, Lei and Wasserman 2019,
    section 2).

    Raises `RecipeError` for an alpha outside (0, 1), `DataError` as `check_scores` does or for groups that do not fit,
    `BadLabels` if no image has a label.
    """
    if not 0 < alpha < 1:
        raise RecipeError(f"alpha: {alpha} is not a valid miss rate; expected a number between 0 and 1, such as 0.1.")
    probabilities_NK, labels_N = np.asarray(probabilities_NK, dtype=np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    groups_of(groups, len(labels_N))
    labelled = np.flatnonzero(labels_N >= 0)
    if len(labelled) == 0:
        raise BadLabels("labels: no image has one, so no conformal threshold can be fitted.")
    scores_N = 1 - probabilities_NK[labelled, labels_N[labelled]]
    grouped = None if groups is None else groups_of(np.asarray(groups)[labelled])
    order = np.argsort(scores_N, kind="stable")
    weight_N, count = np.ones(len(order)), len(order)
    if grouped is not None:
        weight_N, count = 1 / np.bincount(grouped.number_N)[grouped.number_N[order]], grouped.count
    # (n + 1)(1 - alpha) that should be an integer, such as 20 * 0.9, must not be exceeded by its last binary digit.
    reached = int(np.searchsorted(np.cumsum(weight_N), (count + 1) * (1 - alpha) - 1e-9))
    return 1.0 if reached == len(order) else float(scores_N[order[reached]])


def prediction_sets(probabilities_NK: np.ndarray, threshold: float) -> np.ndarray:
    """Return which classes are in each image's set, bool (N, K): those at the threshold, and always the likeliest.

    A classifier that is right more often than 1 - alpha could keep that promise with empty sets, and would: at a
    threshold of 0.01, an image with a probability of 0.98 had none. An empty set is useless, so the likeliest class is
    always in it, and sets miss less often than `alpha` (Sadinle, Lei and Wasserman 2019, section 2, on null regions).

    >>> prediction_sets(np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]), threshold=0.5)
    array([[ True, False, False],
           [ True, False, False]])
    >>> forced_sets(np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]), threshold=0.5)
    array([False,  True])
    """
    probabilities_NK = np.asarray(probabilities_NK, dtype=np.float64)
    sets_NK: np.ndarray = 1 - probabilities_NK <= threshold
    sets_NK[np.arange(len(sets_NK)), probabilities_NK.argmax(axis=1)] = True
    return sets_NK


def forced_sets(probabilities_NK: np.ndarray, threshold: float) -> np.ndarray:
    """Return whose set has its class only because it is the likeliest, bool (N,): no class reaches the threshold."""
    probabilities_NK = np.asarray(probabilities_NK, dtype=np.float64)
    forced_N: np.ndarray = 1 - probabilities_NK.max(axis=1) > threshold
    return forced_N
