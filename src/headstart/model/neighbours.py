"""Nearest neighbours by cosine: a yardstick for features that has nothing to fit.

What it does: k-NN votes, and the accuracy each picture's own neighbours give it. It needs no training, so it ranks
backbones on small subsets: k-NN beat 23 transferability scores in 42,000 runs (arXiv 2503.18528).

What it costs: N M D multiply-adds in blocks of rows (6,000 x 6,000 x 1,280 in 2.0-2.7 s on 2 busy cores); memory
one block.

When not to use it: to serve; a linear head is more accurate and needs no training pictures.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 1024


def knn_logits(
    features_ND: np.ndarray, labels_N: np.ndarray, n_classes: int, query_MD: np.ndarray, *, k: int = 10
) -> np.ndarray:
    """Float32 (M, K): log of the smoothed share of each class among the `k` nearest of `features_ND`.

    The share is ``(votes + 1 / K) / (k + 1)``; `k` is cut to N. Features are centred by the mean of `features_ND`,
    then normalised.

    >>> points = np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]])
    >>> knn_logits(points, np.array([0, 0, 1, 1]), 2, np.array([[2.0, 0.05]]), k=2).argmax(1)
    array([0])
    """
    k = min(k, len(features_ND))
    mean_D = features_ND.mean(0, dtype=np.float64)
    votes_MK = _votes(_unit(query_MD, mean_D), _unit(features_ND, mean_D), labels_N, n_classes, k, leave_out=False)
    return np.log((votes_MK + 1 / n_classes) / (k + 1)).astype(np.float32)


def knn_accuracy(features_ND: np.ndarray, labels_N: np.ndarray, *, k: int = 10) -> float:
    """Share of pictures whose `k` nearest others vote for their class (ties: the lower class); `k` is cut to N - 1.

    >>> knn_accuracy(np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.1]]), np.array([0, 0, 1, 1]), k=1)
    1.0
    """
    unit = _unit(features_ND, features_ND.mean(0, dtype=np.float64))
    k = min(k, len(unit) - 1)
    votes_NK = _votes(unit, unit, labels_N, int(labels_N.max()) + 1, k, leave_out=True)
    return float((votes_NK.argmax(1) == labels_N).mean())


def _unit(features_ND: np.ndarray, mean_D: np.ndarray) -> np.ndarray:
    centred = (features_ND - mean_D).astype(np.float32)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-30)


def _votes(
    query_MD: np.ndarray, known_ND: np.ndarray, labels_N: np.ndarray, n_classes: int, k: int, *, leave_out: bool
) -> np.ndarray:
    votes_MK = np.zeros((len(query_MD), n_classes))
    for start, similarity_BN in _similarities(query_MD, known_ND):
        rows = np.arange(len(similarity_BN))
        if leave_out:
            similarity_BN[rows, start + rows] = -np.inf
        nearest_BN = np.argpartition(-similarity_BN, k - 1, axis=1)[:, :k]
        np.add.at(votes_MK, (np.repeat(start + rows, k), labels_N[nearest_BN].ravel()), 1)
    return votes_MK


def _similarities(query_MD: np.ndarray, known_ND: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(query_MD), BLOCK):
        yield start, query_MD[start : start + BLOCK] @ known_ND.T
