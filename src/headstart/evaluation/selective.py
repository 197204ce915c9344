"""How much accuracy rises when the classifier may decline the images that it is least sure of (selective classification).

An image is answered if its confidence, the probability of its top class, reaches a threshold; `coverage` is the share
answered, `accuracy` the share right among those. The area under the risk-coverage curve (AURC) says in one number how
well confidence tells right from wrong: 0 is nothing wrong at all. It falls with fewer mistakes and with a better order
of them, so compare it between classifiers on the same images only.

One sort of the confidences: 1 ms for 1,000 images and 40 ms for AURC's interval, 20 ms and 4 s for 50,000. It says
nothing of images from another source, where the same threshold may answer another share with another accuracy.

- Geifman and El-Yaniv 2017, "Selective classification for deep neural networks", section 2: coverage and selective risk.
- Geifman, Uziel and El-Yaniv 2019, "Bias-reduced uncertainty estimation for deep neural classifiers": AURC.
"""

from __future__ import annotations

import numpy as np

from headstart.errors import BadLabels
from headstart.evaluation.calibration import check_scores
from headstart.evaluation.intervals import Estimate, Resampling, resampling_weights, shrunk, skewness


def coverage_curve(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (M,) ascending to 1, and the accuracy (M,) of what is answered there; float64.

    One point for each of the M distinct confidences: images that are equally sure are answered together, since no
    threshold parts them. Labels of -1 are left out; without any label both are empty.
    Raises `DataError` for what `check_scores` finds.

    >>> coverage_curve(np.array([[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]]), np.array([0, 0, 1, 0]))
    (array([0.25, 0.75, 1.  ]), array([1.        , 0.66666667, 0.75      ]))
    """
    wrong_N, last_M = _by_confidence(probabilities_NK, labels_N)
    answered_M = last_M + 1.0
    return answered_M / max(len(wrong_N), 1), 1 - np.cumsum(wrong_N)[last_M] / answered_M


def aurc(
    probabilities_NK: np.ndarray, labels_N: np.ndarray, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Estimate:
    """Area under the risk-coverage curve: the mean, over the images, of the risk at the threshold that just answers each.

    Risk is 1 - accuracy. Images that are equally sure share their threshold. With a BCa bootstrap interval.
    Raises `DataError` for what `check_scores` finds, `BadLabels` when no image has a label.
    """
    wrong_N, last_M = _by_confidence(probabilities_NK, labels_N)
    n = len(wrong_N)
    if n == 0:
        raise BadLabels(f"labels: none of {len(labels_N):,} images has one, so there is no risk to measure.")
    value, influence_N = _area_and_influence(wrong_N, last_M)
    draw = Resampling(level, resamples, np.random.default_rng(seed))
    areas = [_areas(wrong_N, last_M, weights_Nb) for weights_Nb in resampling_weights(n, resamples, draw.rng)]
    ends = shrunk(value, n, level, 1.0, 0.0)
    return draw.estimate(value, np.concatenate(areas), skewness(influence_N), n, (min(ends), max(ends)))


def _by_confidence(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float (N,), 1 where the answer is wrong, the surest image first; and the last place of each confidence (M,)."""
    probabilities_NK, labels_N = np.asarray(probabilities_NK, np.float64), np.asarray(labels_N)
    check_scores(probabilities_NK, labels_N)
    probabilities_NK, labels_N = probabilities_NK[labels_N >= 0], labels_N[labels_N >= 0]
    confidence_N = probabilities_NK.max(axis=1)
    order = np.argsort(-confidence_N, kind="stable")
    wrong_N = (probabilities_NK.argmax(axis=1) != labels_N)[order].astype(np.float64)
    changes = np.flatnonzero(np.diff(confidence_N[order]))
    return wrong_N, np.append(changes, len(order) - 1) if len(order) else changes


def _areas(wrong_N: np.ndarray, last_M: np.ndarray, weights_Nb: np.ndarray) -> np.ndarray:
    """AURC under each column of case counts, uint8 (N, b) -> float64 (b,)."""
    weights_Nb = weights_Nb.astype(np.float64)
    answered_Mb = np.cumsum(weights_Nb, axis=0)[last_M]
    errors_Mb = np.cumsum(weights_Nb * wrong_N[:, None], axis=0)[last_M]
    risk_Mb = np.divide(errors_Mb, answered_Mb, out=np.zeros_like(errors_Mb), where=answered_Mb > 0)
    block_Mb = np.diff(answered_Mb, axis=0, prepend=0.0)
    return np.asarray((block_Mb * risk_Mb).sum(axis=0) / answered_Mb[-1])


def _area_and_influence(wrong_N: np.ndarray, last_M: np.ndarray) -> tuple[float, np.ndarray]:
    """AURC, and the derivative of it by each image's weight times N (its first-order influence), by confidence (N,).

    An image counts for the risk at its own threshold, and moves that of every lower one towards its own error.
    """
    n = len(wrong_N)
    block_M = np.diff(last_M, prepend=-1)
    risk_M = np.cumsum(wrong_N)[last_M] / (last_M + 1.0)
    area = float(block_M @ risk_M / n)
    moved_M = np.cumsum((block_M / (last_M + 1.0))[::-1])[::-1]
    risen_M = np.cumsum((block_M * risk_M / (last_M + 1.0))[::-1])[::-1]
    place_N = np.repeat(np.arange(len(last_M)), block_M)
    return area, risk_M[place_N] - area + wrong_N * moved_M[place_N] - risen_M[place_N]
