"""Leave whole groups out: what LDA and ridge predict for an image if fitted without its group, at every strength.

Images of one patient say more about each other than about other patients. With the rest of the group left in, the best
features are those that recognise the patient (LOG.md).

    groups = groups_of_several(groups_N)
    for logits_NK in lda_leave_groups_out(spectrum, strengths, groups): ...

What it costs: beyond leave-one-out on the same decomposition (`model.heads.spectrum`), for each strength and group a few
products with its m images, O(m (m + K) R), and a system of m equations. For 2,500 groups of two, 1,800 features, six classes
and seven strengths, 5 s instead of 2.

When not to use it: for a handful of large groups, a fit without each of them is as fast, and exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from headstart.data.folds import scored_rows
from headstart.model.heads.spectrum import Spectrum

Groups = Sequence[np.ndarray]
"""The rows of each group that has several, int64 (m,)."""


def groups_of_several(groups_N: np.ndarray) -> list[np.ndarray]:
    """Return the rows of each group with several rows.

    >>> [rows.tolist() for rows in groups_of_several(np.array([7, 8, 7, 9, 9]))]
    [[0, 2], [3, 4]]
    """
    order = np.argsort(groups_N, kind="stable")
    _, starts = np.unique(groups_N[order], return_index=True)
    return [rows for rows in np.split(order, starts[1:]) if len(rows) > 1]


def scorable(labels_N: np.ndarray, groups_N: np.ndarray | None = None) -> np.ndarray:
    """Select the rows that can be scored, bool (N,): those whose class has an image outside their group. All rows if
    there is none.

    >>> scorable(np.array([0, 0, 1, 1, 2])).tolist()
    [True, True, True, True, False]
    >>> scorable(np.array([0, 0, 1, 1, 1]), np.array([5, 6, 7, 7, 7])).tolist()
    [True, True, False, False, False]
    """
    found_N = scored_rows(labels_N, np.arange(len(labels_N)) if groups_N is None else groups_N)
    return found_N if found_N.any() else np.ones_like(found_N)


def lda_leave_groups_out(spectrum: Spectrum, strengths: np.ndarray, groups: Groups) -> Iterator[np.ndarray]:
    """Yield per strength each image's log-posterior (up to a constant per row) without its group, float64 (N, K).

    Exact, except that the target of the shrinkage keeps its scatter, so without a large group the shrinkage is a little
    stronger; images on their own are as in `Spectrum.lda_leave_one_out`. A class that is in one group only has no model
    without it, and gets the smallest of the image's other outputs.
    """
    for strength, logits_NK in zip(strengths, spectrum.lda_leave_one_out(strengths), strict=True):
        scale_R = 1 / spectrum.shrunk(strength)
        scaled_KR = spectrum.means_KR * scale_R
        squares_K = (scaled_KR * spectrum.means_KR).sum(1)
        for rows in groups:
            logits_NK[rows] = _lda_without(spectrum, strength, rows, scale_R, scaled_KR, squares_K)
        yield logits_NK


def _lda_without(
    spectrum: Spectrum,
    strength: float,
    rows: np.ndarray,
    scale_R: np.ndarray,
    scaled_KR: np.ndarray,
    squares_K: np.ndarray,
) -> np.ndarray:
    """Return the log-posteriors of a group, float64 (m, K), from LDA without it.

    Without the group, the mean of a class moves by -u / s, where u is the weighted sum of its residuals r that go, and s the
    mass that stays. The within-class scatter loses ``sum w r r' + u u' / s``, or B'B with a row for each image and class; so
    the inverse of ``A - c B'B`` comes from that of A (Woodbury).
    """
    base = spectrum.base
    labels, weights = base.labels_N[rows], base.weights_N[rows]
    residuals_mR = spectrum.residuals_NR[rows].astype(np.float64)
    classes, own = np.unique(labels, return_inverse=True)
    rest_K = base.mass_K - np.bincount(labels, weights, minlength=len(base.mass_K))
    absent = classes[base.count_K[classes] == np.bincount(own)]
    rest_K[absent] = 1.0
    sums_CR = np.zeros((len(classes), residuals_mR.shape[1]))
    np.add.at(sums_CR, own, weights[:, None] * residuals_mR)
    sums_CR[np.isin(classes, absent)] = 0.0
    root_C = np.sqrt(rest_K[classes])[:, None]
    taken_BR = np.concatenate([np.sqrt(weights)[:, None] * residuals_mR, sums_CR / root_C])

    values_mR = residuals_mR + spectrum.means_KR[labels]
    shifts_CR = sums_CR / root_C**2
    left_CR = spectrum.means_KR[classes] - shifts_CR
    squares_K = squares_K.copy()
    squares_K[classes] = (left_CR**2 * scale_R).sum(1)

    def products(some_XR: np.ndarray) -> np.ndarray:
        """Return x' A^-1 m of rows with the means that are left, (X, K)."""
        found_XK = some_XR @ scaled_KR.T
        found_XK[:, classes] -= (some_XR * scale_R) @ shifts_CR.T
        return found_XK

    distances_mK = (values_mR**2 @ scale_R)[:, None] - 2 * products(values_mR) + squares_K
    if strength < 1:
        scaled_BR = taken_BR * scale_R
        inner_BB = np.eye(len(taken_BR)) * base.mass / (1 - strength) - scaled_BR @ taken_BR.T
        of_values_Bm, of_means_BK = scaled_BR @ values_mR.T, products(taken_BR)
        solved_BX = np.linalg.solve(inner_BB, np.concatenate([of_values_Bm, of_means_BK], axis=1))
        solved_Bm, solved_BK = np.split(solved_BX, [len(rows)], axis=1)
        distances_mK += (of_values_Bm * solved_Bm).sum(0)[:, None] - 2 * of_values_Bm.T @ solved_BK
        distances_mK += (of_means_BK * solved_BK).sum(0)
    left = 1 - weights.sum() / base.mass  # the covariance is the scatter divided by the mass that is left
    logits_mK: np.ndarray = np.log(rest_K) - left * distances_mK / 2
    if 0 < len(absent) < len(rest_K):
        logits_mK[:, absent] = np.delete(logits_mK, absent, axis=1).min(1, keepdims=True)
    return logits_mK


def ridge_leave_groups_out(spectrum: Spectrum, strengths: np.ndarray, groups: Groups) -> Iterator[np.ndarray]:
    """Yield per strength the outputs for each image of ridge fitted without its group, float64 (N, K).

    The residuals of a group are those of the whole fit, solved with one minus its block of the hat matrix; exact, but for the
    absolute penalty, which keeps its value. Images on their own are as in `Spectrum.ridge_leave_one_out`.
    """
    base, means_KR = spectrum.base, spectrum.means_KR
    root_K = np.sqrt(base.mass_K)
    for strength, out_NK in zip(strengths, spectrum.ridge_leave_one_out(strengths), strict=True):
        scale_R = 1 / (spectrum.eigenvalues_R + strength * base.total_level)
        rooted_KR = root_K[:, None] * means_KR
        inner_KK = np.eye(len(root_K)) + (rooted_KR * scale_R) @ rooted_KR.T
        weight_RK, offset_K = spectrum.ridge(strength)
        for rows in groups:
            labels = base.labels_N[rows]
            values_mR = spectrum.residuals_NR[rows] + means_KR[labels]
            scaled_mR = values_mR * scale_R
            scores_mK = scaled_mR @ rooted_KR.T
            spread_mm = scaled_mR @ values_mR.T - scores_mK @ np.linalg.solve(inner_KK, scores_mK.T)
            hat_mm = (1 / base.mass + spread_mm) * base.weights_N[rows]
            targets_mK = np.eye(len(root_K))[labels]
            residuals_mK = targets_mK - (values_mR @ weight_RK + offset_K)
            out_NK[rows] = targets_mK - np.linalg.solve(np.eye(len(rows)) - hat_mm, residuals_mK)
        yield out_NK
