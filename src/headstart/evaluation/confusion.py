"""Figures computed from a confusion matrix, with intervals: macro and weighted averages, kappa, Matthews, F1.

Resampling images is one multinomial draw over the cells of the matrix, so a resample costs one draw per non-empty cell,
whatever the number of images. Accuracy, recall and precision of a class are plain proportions and get Wilson's interval
instead (`headstart.evaluation.metrics`).
"""

from __future__ import annotations

import math

import numpy as np

from headstart.evaluation.intervals import Estimate, Resampling, quantile_of_normal, undefined

COUNTED = (  # in the order of the columns of `figures`
    *("balanced_accuracy", "precision_macro", "precision_weighted", "recall_macro"),
    *("f1_macro", "f1_weighted", "cohen_kappa", "matthews_corrcoef"),
)
ENTRIES = 2_000_000  # per block of intermediate arrays: 16 MB as float64


def figures(right_BK: np.ndarray, true_BK: np.ndarray, predicted_BK: np.ndarray) -> np.ndarray:
    """Compute the figures `COUNTED` and then the F1 of each class, (B, 8 + K), for B confusion matrices at once.

    A matrix is given by its diagonal, row sums and column sums: the figures need nothing more. Kappa is NaN if there is
    only one class, F1 for a class that occurs neither in the labels nor in the predictions.
    """

    def ratio(above: np.ndarray, below: np.ndarray, otherwise: float) -> np.ndarray:
        return np.divide(above, below, out=np.full(np.shape(above), otherwise), where=below > 1e-12)

    n_B1 = true_BK.sum(axis=1, keepdims=True)
    share_BK, predicted_share_BK, present_BK = true_BK / n_B1, predicted_BK / n_B1, (true_BK + predicted_BK) > 0
    precision, recall = ratio(right_BK, predicted_BK, 0.0), ratio(right_BK, true_BK, 0.0)
    f1 = ratio(2 * right_BK, true_BK + predicted_BK, 0.0)
    hit_B, chance_B = (right_BK / n_B1).sum(axis=1), (share_BK * predicted_share_BK).sum(axis=1)
    spread_B = (1 - (share_BK**2).sum(axis=1)) * (1 - (predicted_share_BK**2).sum(axis=1))
    columns = [
        recall.sum(axis=1) / (true_BK > 0).sum(axis=1),
        precision.sum(axis=1) / present_BK.sum(axis=1),
        (precision * share_BK).sum(axis=1),
        recall.sum(axis=1) / present_BK.sum(axis=1),
        f1.sum(axis=1) / present_BK.sum(axis=1),
        (f1 * share_BK).sum(axis=1),
        ratio(hit_B - chance_B, 1 - chance_B, math.nan),
        np.where(spread_B > 1e-12, np.clip((hit_B - chance_B) / np.sqrt(np.maximum(spread_B, 1e-12)), -1, 1), 0.0),
    ]
    return np.column_stack([*columns, np.where(present_BK, f1, math.nan)])


def count_figures(confusion_KK: np.ndarray, draw: Resampling) -> tuple[dict[str, Estimate], list[Estimate]]:
    """Estimate the figures `COUNTED`, by name, and the F1 of each class."""
    n = int(confusion_KK.sum())
    right, true, predicted = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    value_Q = figures(right[None], true[None], predicted[None])[0]
    drawn_BQ = _resampled(confusion_KK, draw)
    skew_Q = _skewness(confusion_KK, value_Q)
    low_Q, high_Q = _with_more_images(confusion_KK, quantile_of_normal(draw.level) ** 2)
    cases_Q = [n] * len(COUNTED) + (true + predicted - right).tolist()
    estimates = []
    for q, value in enumerate(value_Q.tolist()):
        if math.isnan(value):
            why = "there is only one class" if q < len(COUNTED) else "the class is neither labelled nor predicted"
            estimates.append(undefined(why))
        else:
            ends = float(low_Q[q]), float(high_Q[q])
            estimates.append(draw.estimate(value, drawn_BQ[:, q], float(skew_Q[q]), int(cases_Q[q]), ends))
    return dict(zip(COUNTED, estimates, strict=False)), estimates[len(COUNTED) :]


def _resampled(confusion_KK: np.ndarray, draw: Resampling) -> np.ndarray:
    """Compute `figures` of each resample, (B, 8 + K)."""
    k, n = len(confusion_KK), int(confusion_KK.sum())
    rows, columns = np.nonzero(confusion_KK)  # sorted by row
    by_column = np.argsort(columns, kind="stable")
    shares = confusion_KK[rows, columns] / n

    def totals(cells_bM: np.ndarray, class_M: np.ndarray) -> np.ndarray:
        total_bK = np.zeros((len(cells_bM), k))
        present, starts = np.unique(class_M, return_index=True)
        total_bK[:, present] = np.add.reduceat(cells_bM, starts, axis=1)
        return total_bK

    blocks, step = [], max(1, ENTRIES // max(k, len(rows)))
    for start in range(0, draw.resamples, step):
        cells_bM = draw.rng.multinomial(n, shares, size=min(step, draw.resamples - start))
        right_bK = np.zeros((len(cells_bM), k))
        right_bK[:, rows[rows == columns]] = cells_bM[:, rows == columns]
        true_bK, predicted_bK = totals(cells_bM, rows), totals(cells_bM[:, by_column], columns[by_column])
        blocks.append(figures(right_bK, true_bK, predicted_bK))
    return np.concatenate(blocks)


def _skewness(confusion_KK: np.ndarray, value_Q: np.ndarray) -> np.ndarray:
    """Return the skewness of the jackknife, (8 + K,). Images in a cell are alike, so each cell leaves one out once."""
    n, k = int(confusion_KK.sum()), len(confusion_KK)
    if n < 2:
        return np.zeros(len(value_Q))
    rows, columns = np.nonzero(confusion_KK)
    right, true, predicted = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    moments_3Q = np.zeros((3, len(value_Q)))
    step = max(1, ENTRIES // k)
    for start in range(0, len(rows), step):
        r, c = rows[start : start + step], columns[start : start + step]
        one = np.arange(len(r))
        right_MK, true_MK, predicted_MK = (np.tile(x, (len(r), 1)) for x in (right, true, predicted))
        right_MK[one, r] -= r == c
        true_MK[one, r] -= 1
        predicted_MK[one, c] -= 1
        change_MQ = np.nan_to_num(value_Q - figures(right_MK, true_MK, predicted_MK))
        moments_3Q += [confusion_KK[r, c] @ change_MQ**power / n for power in (1, 2, 3)]
    mean, square, cube = moments_3Q
    variance = np.maximum(square - mean**2, 0)
    third = cube - 3 * mean * square + 2 * mean**3
    return np.divide(third, variance**1.5 * math.sqrt(n), out=np.zeros(len(mean)), where=variance > 1e-30)


def _with_more_images(confusion_KK: np.ndarray, extra: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the minimum and maximum of each figure, (8 + K,), with `extra` more images in one class: right or wrong.

    Wrong ones are of one class and predicted as any other, or of any other class and predicted as this one. Classes
    that occur neither in labels nor in predictions are left out, unless there is only one.
    """
    k = len(confusion_KK)
    right, true, predicted = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    present = (true + predicted) > 0
    if present.sum() < 2:
        present = np.ones(k, dtype=bool)
    one = np.eye(k)[present] * extra
    others = (present - np.eye(k)[present]) * extra / (present.sum() - 1)
    none = np.zeros_like(one)
    found = [
        figures(right + a, true + b, predicted + c)
        for a, b, c in ((one, one, one), (none, one, others), (none, others, one))
    ]
    return np.nanmin(np.concatenate(found), axis=0, initial=math.inf), np.nanmax(
        np.concatenate(found), axis=0, initial=-math.inf
    )
