"""Selective classification: how accuracy rises if the classifier may decline its least confident images.

An image is answered if its confidence, the probability of its top class, reaches a threshold; `coverage` is the
fraction answered, `accuracy` the fraction of those that is right (Geifman and El-Yaniv 2017, "Selective classification
for deep neural networks", section 2).

One sort of the confidences: 1 ms for 1,000 images, 20 ms for 50,000. It says nothing about images from another source,
where the same threshold may give another coverage and accuracy.
"""

from __future__ import annotations

import numpy as np

from headstart.evaluation.calibration import check_scores


def coverage_curve(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage (M,), ascending to 1, and the accuracy (M,) of the answered images; float64.

    One point per distinct confidence, M in all: images of equal confidence are answered together, because no threshold
    separates them. Labels of -1 are left out; without any label both are empty. Raises `DataError` as `check_scores`
    does.

    >>> coverage_curve(np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]]), np.array([0, 0, 1, 0]))
    (array([0.25, 0.75, 1.  ]), array([1.        , 0.66666667, 0.75      ]))
    """
    wrong_N, last_M = _by_confidence(probabilities_NK, labels_N)
    answered_M = last_M + 1.0
    return answered_M / max(len(wrong_N), 1), 1 - np.cumsum(wrong_N)[last_M] / answered_M


def _by_confidence(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return errors float (N,), 1 where wrong, most confident first; and the last index per confidence (M,)."""
    probabilities_NK, labels_N = np.asarray(probabilities_NK, np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    probabilities_NK, labels_N = probabilities_NK[labels_N >= 0], labels_N[labels_N >= 0]
    confidence_N = probabilities_NK.max(axis=1)
    order = np.argsort(-confidence_N, kind="stable")
    wrong_N = (probabilities_NK.argmax(axis=1) != labels_N)[order].astype(np.float64)
    changes = np.flatnonzero(np.diff(confidence_N[order]))
    return wrong_N, np.append(changes, len(order) - 1) if len(order) else changes
