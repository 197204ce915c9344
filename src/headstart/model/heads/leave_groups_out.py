"""Leave whole groups out: what LDA and ridge predict for an image if fitted without its group, at every strength.

Images of one patient say more about each other than about other patients. With the rest of the group left in, the best
features are those that recognise the patient (LOG.md).

    groups = groups_of_several(groups_N)
    for logits_NK in lda_leave_groups_out(spectrum, strengths, groups): ...

What it costs: beyond leave-one-out on the same decomposition (`model.heads.spectrum`), for each strength and group a few
products with its m images, O(m (m + K) R), and a system of min(m, R) equations. For 2,500 groups of two, 1,800 features, six
classes and seven strengths, 5 s instead of 2.

When not to use it: where most images are of classes that are in one group only (`usable_groups`).
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


def usable_groups(labels_N: np.ndarray, groups_N: np.ndarray | None) -> np.ndarray | None:
    """Return the groups to leave out; None for none if less than half of the rows could then be scored, because their class
    is in one group only. Leaving out single rows then is better than deciding by a few, or by nothing.

    >>> usable_groups(np.array([0, 0, 1, 1]), np.array([7, 7, 8, 8])) is None
    True
    """
    return groups_N if groups_N is not None and scored_rows(labels_N, groups_N).mean() >= 0.5 else None


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

    Exact, except that the target of the shrinkage keeps its scatter, so without a group that has half of the mass, the
    shrinkage is twice as strong; images on their own are as in `Spectrum.lda_leave_one_out`. A class that is in one group only
    has no model without it, and gets the smallest of the image's other outputs.
    """
    for strength, logits_NK in zip(strengths, spectrum.lda_leave_one_out(strengths), strict=True):
        scale_R = 1 / spectrum.shrunk(strength)
        scaled_KR = spectrum.means_KR * scale_R
        for rows in groups:
            logits_NK[rows] = _lda_without(spectrum, strength, rows, scale_R, scaled_KR)
        yield logits_NK


def _lda_without(
    spectrum: Spectrum, strength: float, rows: np.ndarray, scale_R: np.ndarray, scaled_KR: np.ndarray
) -> np.ndarray:
    """Return the log-posteriors of a group, float64 (m, K), from LDA without it.

    Without the group, the mean of a class moves by -u / s, where u is the weighted sum of its residuals r that go, and s the
    mass that stays. The within-class scatter loses ``sum w r r' + u u' / s``, or B'B with a row for each image and class. So
    the inverse of ``A - c B'B`` comes from that of A (Woodbury), or for more rows than columns, is solved for directly.
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
    shifts_CR = sums_CR / rest_K[classes][:, None]
    taken_BR = np.concatenate([np.sqrt(weights)[:, None] * residuals_mR, sums_CR / np.sqrt(rest_K[classes])[:, None]])
    values_mR = residuals_mR + spectrum.means_KR[labels]
    if strength < 1 and len(taken_BR) > len(scale_R):
        scores_mK, squares_K = _scores_directly(spectrum, strength, taken_BR, values_mR, classes, shifts_CR)
    else:
        means_CR = spectrum.means_KR[classes] - shifts_CR
        squares_K = (scaled_KR * spectrum.means_KR).sum(1)
        squares_K[classes] = (means_CR**2 * scale_R).sum(1)

        def products(some_XR: np.ndarray) -> np.ndarray:
            """Return x' A^-1 m of rows with the means that are left, (X, K)."""
            found_XK = some_XR @ scaled_KR.T
            found_XK[:, classes] -= (some_XR * scale_R) @ shifts_CR.T
            return found_XK

        scores_mK = products(values_mR)
        if strength < 1:
            scaled_BR, of_means_BK = taken_BR * scale_R, products(taken_BR)
            inner_BB = np.eye(len(taken_BR)) * base.mass / (1 - strength) - scaled_BR @ taken_BR.T
            solved_BK = np.linalg.solve(inner_BB, of_means_BK)
            scores_mK += (values_mR @ scaled_BR.T) @ solved_BK
            squares_K = squares_K + (of_means_BK * solved_BK).sum(0)
    left = 1 - weights.sum() / base.mass  # the covariance is the scatter divided by the mass that is left
    logits_mK: np.ndarray = np.log(rest_K) + left * (scores_mK - squares_K / 2)
    if 0 < len(absent) < len(rest_K):
        logits_mK[:, absent] = np.delete(logits_mK, absent, axis=1).min(1, keepdims=True)
    return logits_mK


def _scores_directly(
    spectrum: Spectrum,
    strength: float,
    taken_BR: np.ndarray,
    values_mR: np.ndarray,
    classes: np.ndarray,
    shifts_CR: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return x' A^-1 m (m, K) and m' A^-1 m (K,) for the means and the A that are left."""
    means_KR = spectrum.means_KR.copy()
    means_KR[classes] -= shifts_CR
    left_RR = np.diag(spectrum.shrunk(strength)) - (1 - strength) / spectrum.base.mass * (taken_BR.T @ taken_BR)
    solved_RK = np.linalg.solve(left_RR, means_KR.T)
    return values_mR @ solved_RK, (means_KR * solved_RK.T).sum(1)


def ridge_leave_groups_out(spectrum: Spectrum, strengths: np.ndarray, groups: Groups) -> Iterator[np.ndarray]:
    """Yield per strength the outputs for each image of ridge fitted without its group, float64 (N, K).

    The residuals of a group are those of the whole fit, solved with one minus its block of the hat matrix; a group of more
    images than columns is left out of the sums. Exact, but for the absolute penalty, which keeps its value. Images on their
    own are as in `Spectrum.ridge_leave_one_out`.
    """
    base, means_KR = spectrum.base, spectrum.means_KR
    rooted_KR = np.sqrt(base.mass_K)[:, None] * means_KR
    for strength, out_NK in zip(strengths, spectrum.ridge_leave_one_out(strengths), strict=True):
        penalized_R = spectrum.eigenvalues_R + strength * base.total_level
        inner_KK = np.eye(len(rooted_KR)) + (rooted_KR / penalized_R) @ rooted_KR.T
        weight_RK, offset_K = spectrum.ridge(strength)
        for rows in groups:
            labels = base.labels_N[rows]
            values_mR = spectrum.residuals_NR[rows] + means_KR[labels]
            targets_mK = np.eye(len(rooted_KR))[labels]
            if len(rows) > len(penalized_R):
                out_NK[rows] = _ridge_without(spectrum, penalized_R, rows, values_mR, targets_mK)
                continue
            scaled_mR = values_mR / penalized_R
            scores_mK = scaled_mR @ rooted_KR.T
            spread_mm = scaled_mR @ values_mR.T - scores_mK @ np.linalg.solve(inner_KK, scores_mK.T)
            hat_mm = (1 / base.mass + spread_mm) * base.weights_N[rows]
            residuals_mK = targets_mK - (values_mR @ weight_RK + offset_K)
            out_NK[rows] = targets_mK - np.linalg.solve(np.eye(len(rows)) - hat_mm, residuals_mK)
        yield out_NK


def _ridge_without(
    spectrum: Spectrum, penalized_R: np.ndarray, rows: np.ndarray, values_mR: np.ndarray, targets_mK: np.ndarray
) -> np.ndarray:
    """Return the outputs for a group, float64 (m, K), of ridge on the sums of all other rows."""
    base, means_KR = spectrum.base, spectrum.means_KR
    weighted_mR = base.weights_N[rows][:, None] * values_mR
    mass = base.mass - base.weights_N[rows].sum()
    mean_R = -weighted_mR.sum(0) / mass  # that of all rows is 0
    share_K = (base.mass_K - base.weights_N[rows] @ targets_mK) / mass
    scatter_RR = (means_KR.T * base.mass_K) @ means_KR - weighted_mR.T @ values_mR - mass * np.outer(mean_R, mean_R)
    moment_RK = means_KR.T * base.mass_K - weighted_mR.T @ targets_mK - mass * np.outer(mean_R, share_K)
    weight_RK = np.linalg.solve(scatter_RR + np.diag(penalized_R), moment_RK)
    outputs_mK: np.ndarray = (values_mR - mean_R) @ weight_RK + share_K
    return outputs_mK
