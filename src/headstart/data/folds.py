"""Folds for cross-validation: every class in each of them as evenly as possible, and groups never split.

`assign_folds` costs milliseconds for thousands of images. When not to use it: to set images aside for good, which
`headstart.data.splits` does.
"""

from __future__ import annotations

import numpy as np

FOLDS = 5


def assign_folds(labels_N: np.ndarray, groups_N: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of each labelled image, int64 (N,), -1 for others; stratified by class where groups allow.

    Groups are assigned in a seeded order, each to the fold with the fewest images of its (first) class so far.
    """
    folds_N = np.full(len(labels_N), -1, np.int64)
    known = np.flatnonzero(labels_N >= 0)
    by_group: dict[int, list[int]] = {}
    for i in known[stratified_order(labels_N[known], seed)].tolist():
        by_group.setdefault(int(groups_N[i]), []).append(i)
    of_class: dict[int, list[int]] = {}
    total = [0] * FOLDS
    for members in sorted(by_group.values(), key=len, reverse=True):
        counts = of_class.setdefault(int(labels_N[members[0]]), [0] * FOLDS)
        fold = min((count, all_of_it, f) for f, (count, all_of_it) in enumerate(zip(counts, total, strict=True)))[2]
        folds_N[members] = fold
        counts[fold] += len(members)
        total[fold] += len(members)
    return folds_N


def stratified_order(labels_N: np.ndarray, seed: int) -> np.ndarray:
    """Return a seeded order of all indices in which every prefix has the classes in proportion.

    >>> stratified_order(np.array([0, 0, 0, 0, 1, 1]), seed=0)[:3].tolist()
    [1, 5, 2]
    """
    rng = np.random.default_rng(seed)
    place_N = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        place_N[members] = (rng.permutation(len(members)) + 0.5) / len(members)
    return np.argsort(place_N, kind="stable")


def scored_rows(labels_N: np.ndarray, folds_N: np.ndarray) -> np.ndarray:
    """Return which images can be scored by a model of the other folds, bool (N,): those folds contain the image's class,
    and one more.

    >>> scored_rows(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1])).tolist()
    [True, True, True, True, False]
    """
    _, class_N, images_K = np.unique(labels_N, return_inverse=True, return_counts=True)
    _, fold_N, images_F = np.unique(folds_N, return_inverse=True, return_counts=True)
    _, pair_N, images_P = np.unique(np.stack([fold_N, class_N]), axis=1, return_inverse=True, return_counts=True)
    of_class_N = images_K[class_N] - images_P[pair_N.ravel()]
    scored_N: np.ndarray = (of_class_N > 0) & (of_class_N < len(labels_N) - images_F[fold_N])
    return scored_N
