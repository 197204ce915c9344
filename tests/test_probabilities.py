"""Softmax, its logarithm and log-losses: against scipy and scikit-learn."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from scipy import special
from sklearn.metrics import log_loss

from headstart.evaluation import probabilities
from headstart.evaluation.probabilities import cross_entropies, log_losses, log_softmax, softmax


def test_examples_in_the_docs() -> None:
    assert doctest.testmod(probabilities).failed == 0


def test_against_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 4)) * 5, np.arange(50) % 4
    np.testing.assert_allclose(softmax(logits), special.softmax(logits, axis=1), rtol=1e-13)
    np.testing.assert_allclose(log_softmax(logits), special.log_softmax(logits, axis=1), rtol=1e-12)
    assert log_softmax(logits.astype(np.float32)).dtype == np.float32
    expected = log_loss(labels, softmax(logits))
    assert log_losses(softmax(logits), labels).mean() == pytest.approx(expected, rel=1e-12)
    assert cross_entropies(logits, labels).mean() == pytest.approx(expected, rel=1e-12)
