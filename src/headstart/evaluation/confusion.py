"""Figures computed from a confusion matrix, with intervals: macro and weighted averages, kappa, Matthews, F1.

Resampling images is one multinomial draw over the cells of the matrix, so a resample costs one draw per non-empty cell,
whatever the number of images. Resampling groups of images costs a pass over the images. Accuracy, recall and precision
of a class are plain proportions and get Wilson's interval instead (`headstart.evaluation.metrics`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from headstart.evaluation.intervals import Estimate, Resampling, quantile_of_normal, undefined

COUNTED = (  # in the order of the columns of `figures`
    *("balanced_accuracy", "precision_macro", "precision_weighted", "recall_macro"),
    *("f1_macro", "f1_weighted", "cohen_kappa", "matthews_corrcoef"),
)
FROM_MINUS_ONE = ("cohen_kappa", "matthews_corrcoef")
"""Figures from -1 to 1; all others are from 0 to 1."""
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


def confusion_of(cells_N: np.ndarray, k: int) -> np.ndarray:
    """Return the confusion matrix, int64 (K, K), of images in `cells_N`: K times the true class plus the predicted one."""
    return np.bincount(cells_N, minlength=k * k).reshape(k, k)


def count_figures(cells_N: np.ndarray, k: int, draw: Resampling) -> tuple[dict[str, Estimate], list[Estimate]]:
    """Estimate the figures `COUNTED`, by name, and the F1 of each class, of images in the cells of `confusion_of`."""
    confusion_KK, n = confusion_of(cells_N, k), len(cells_N)
    right, true, predicted = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    value_Q = figures(right[None], true[None], predicted[None])[0]
    drawn_BQ = _resampled(cells_N, confusion_KK, draw)
    skew_Q = _skewness(confusion_KK, value_Q) if draw.groups is None else np.zeros(len(value_Q))
    each = n / draw.independent(np.arange(n))  # images of a group
    low_Q, high_Q = _with_more_images(confusion_KK, quantile_of_normal(draw.level) ** 2 * each)
    cases_Q = [n] * len(COUNTED) + (true + predicted - right).tolist()
    groups_Q = [draw.independent(np.arange(n))] * len(COUNTED)
    groups_Q += [draw.independent(np.flatnonzero((cells_N // k == c) | (cells_N % k == c))) for c in range(k)]
    estimates = []
    for q, value in enumerate(value_Q.tolist()):
        if math.isnan(value):
            why = "there is only one class" if q < len(COUNTED) else "the class is neither labelled nor predicted"
            estimates.append(undefined(why))
        else:
            ends = float(low_Q[q]), float(high_Q[q])
            least = -1.0 if q < len(COUNTED) and COUNTED[q] in FROM_MINUS_ONE else 0.0
            found = draw.estimate(
                value,
                drawn_BQ[:, q],
                float(skew_Q[q]),
                int(cases_Q[q]),
                ends,
                span=(least, 1.0),
                groups=groups_Q[q],
            )
            estimates.append(found)
    return dict(zip(COUNTED, estimates, strict=False)), estimates[len(COUNTED) :]


def _resampled(cells_N: np.ndarray, confusion_KK: np.ndarray, draw: Resampling) -> np.ndarray:
    """Compute `figures` of each resample, (B, 8 + K)."""
    k = len(confusion_KK)
    rows, columns = np.nonzero(confusion_KK)  # sorted by row
    by_column = np.argsort(columns, kind="stable")

    def totals(cells_bM: np.ndarray, class_M: np.ndarray) -> np.ndarray:
        total_bK = np.zeros((len(cells_bM), k))
        present, starts = np.unique(class_M, return_index=True)
        total_bK[:, present] = np.add.reduceat(cells_bM, starts, axis=1)
        return total_bK

    blocks = []
    for cells_bM in _drawn_cells(cells_N, confusion_KK, draw):
        right_bK = np.zeros((len(cells_bM), k))
        right_bK[:, rows[rows == columns]] = cells_bM[:, rows == columns]
        true_bK, predicted_bK = totals(cells_bM, rows), totals(cells_bM[:, by_column], columns[by_column])
        blocks.append(figures(right_bK, true_bK, predicted_bK))
    return np.concatenate(blocks)


def _drawn_cells(cells_N: np.ndarray, confusion_KK: np.ndarray, draw: Resampling) -> Iterator[np.ndarray]:
    """Yield how many images of each resample are in each non-empty cell, int64 (b, M)."""
    k, n = len(confusion_KK), len(cells_N)
    filled = np.flatnonzero(confusion_KK)
    if draw.groups is None:
        step = max(1, ENTRIES // max(k, len(filled)))
        for start in range(0, draw.resamples, step):
            yield draw.rng.multinomial(n, confusion_KK.flat[filled] / n, size=min(step, draw.resamples - start))
        return
    order = np.argsort(cells_N, kind="stable")
    starts = np.searchsorted(cells_N[order], filled)
    for weights_Nb in draw.weights(n):
        yield np.add.reduceat(weights_Nb[order], starts, axis=0, dtype=np.int64).T


def _skewness(confusion_KK: np.ndarray, value_Q: np.ndarray) -> np.ndarray:
    """Return the skewness of the jackknife, (8 + K,), which leaves out each image once."""
    n = int(confusion_KK.sum())
    if n < 2:
        return np.zeros(len(value_Q))
    right, true, predicted = np.diag(confusion_KK), confusion_KK.sum(axis=1), confusion_KK.sum(axis=0)
    moments_3Q = np.zeros((3, len(value_Q)))
    for times_M, right_MK, true_MK, predicted_MK in _left_out(confusion_KK):
        change_MQ = np.nan_to_num(value_Q - figures(right - right_MK, true - true_MK, predicted - predicted_MK))
        moments_3Q += [times_M @ change_MQ**power / n for power in (1, 2, 3)]
    mean, square, cube = moments_3Q
    variance = np.maximum(square - mean**2, 0)
    third = cube - 3 * mean * square + 2 * mean**3
    return np.divide(third, variance**1.5 * math.sqrt(n), out=np.zeros(len(mean)), where=variance > 1e-30)


def _left_out(confusion_KK: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield what the jackknife leaves out: how often, and the diagonal, row sums and column sums of it, each (M, K).

    Images in a cell are alike, so one stands for all of them.
    """
    k = len(confusion_KK)
    step = max(1, ENTRIES // k)
    times_M, cells_M = confusion_KK[confusion_KK > 0], np.flatnonzero(confusion_KK)
    for start in range(0, len(times_M), step):
        r, c = np.divmod(cells_M[start : start + step], k)
        place, sizes = np.arange(len(r)), len(r) * k
        places = (place[r == c] * k + r[r == c], place * k + r, place * k + c)
        yield times_M[start : start + step], *(np.bincount(each, minlength=sizes).reshape(-1, k) for each in places)


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
