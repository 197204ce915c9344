"""Logits to probabilities and per-image losses: the package's only softmax and log-loss.

Each is one pass over (N, K) numbers. For torch tensors, use torch's own.
"""

from __future__ import annotations

import numpy as np

LEAST = float(np.finfo(np.float64).eps)  # scikit-learn's floor for the probabilities in a log-loss


def softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Return probabilities (N, K), float64, rows summing to 1; safe for logits of any size.

    >>> softmax(np.array([[1000.0, 1000.0]]))
    array([[0.5, 0.5]])
    """
    shifted_NK = np.asarray(logits_NK, dtype=np.float64)
    shifted_NK = np.exp(shifted_NK - shifted_NK.max(axis=1, keepdims=True))
    return shifted_NK / shifted_NK.sum(axis=1, keepdims=True)


def log_softmax(logits_NK: np.ndarray) -> np.ndarray:
    """Return the logarithms of the probabilities (N, K), in the precision of the logits.

    >>> log_softmax(np.array([[0.0, -1000.0]]))
    array([[    0., -1000.]])
    """
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    shifted_NK -= np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True))
    return shifted_NK


def log_losses(probabilities_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return each image's log-loss in nats, (N,); a probability below `LEAST` counts as `LEAST`.

    >>> log_losses(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([0, 1])).round(2)
    array([ 0.69, 36.04])
    """
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    losses_N: np.ndarray = -np.log(np.clip(own_N, LEAST, 1.0))
    return losses_N


def cross_entropies(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return each image's log-loss in nats, (N,), from its logits: exact, however small the probability.

    >>> cross_entropies(np.array([[0.0, 1000.0]]), np.array([0]))
    array([1000.])
    """
    losses_N: np.ndarray = -log_softmax(logits_NK)[np.arange(len(labels_N)), labels_N]
    return losses_N
