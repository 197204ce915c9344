"""Conformal thresholds by hand, and the promise itself: how often the right class is in the set of a new image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import BadLabels, RecipeError
from headstart.evaluation.conformal import conformal_threshold, prediction_sets
from headstart.evaluation.probabilities import softmax


def drawn(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of a model that is far too sure of itself, and labels."""
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1
    return softmax(4 * logits), labels


def test_threshold_by_hand() -> None:
    right = np.array([0.99, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.3])
    p = np.stack([right, 1 - right], axis=1)
    labels = np.zeros(9, int)
    assert conformal_threshold(p, labels, alpha=0.1) == pytest.approx(0.7)  # the 9th of 9: ceil(10 * 0.9)
    assert conformal_threshold(p, labels, alpha=0.3) == pytest.approx(0.4)  # the 7th
    assert conformal_threshold(p[:8], labels[:8], alpha=0.1) == 1.0  # the 9th of 8: none, so everything
    assert prediction_sets(p, 1.0).all()
    np.testing.assert_array_equal(prediction_sets(np.array([[0.7, 0.2, 0.1]]), 0.8), [[True, True, False]])


def test_a_set_is_never_empty() -> None:
    """A classifier that is nearly always right has a threshold near 0, which an ordinary image does not reach."""
    p = np.array([[0.99, 0.01], [0.02, 0.98], [0.5, 0.5]])
    np.testing.assert_array_equal(prediction_sets(p, 0.001), [[True, False], [False, True], [True, False]])
    assert prediction_sets(np.zeros((0, 2)), 0.001).shape == (0, 2)


@pytest.mark.parametrize(("n", "alpha"), [(19, 0.1), (50, 0.2), (99, 0.05)])
def test_coverage_is_as_promised(n: int, alpha: float) -> None:
    """Over 600 draws of the held-out images; for scores without ties it is at most alpha + 1/(n+1) from below."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(600):
        threshold = conformal_threshold(*drawn(rng, n, 4), alpha=alpha)
        p, labels = drawn(rng, 200, 4)
        held.append(prediction_sets(p, threshold)[np.arange(200), labels].mean())
    margin = 3 * np.std(held) / np.sqrt(len(held))
    assert np.mean(held) >= 1 - alpha - margin
    assert np.mean(held) <= 1 - alpha + 1 / (n + 1) + margin


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(2, 5), st.floats(0.01, 0.9), st.integers(0, 2**32))
def test_holds_at_least_the_share_of_the_images_it_was_fitted_on(n: int, k: int, alpha: float, seed: int) -> None:
    p, labels = drawn(np.random.default_rng(seed), n, k)
    threshold = conformal_threshold(p, labels, alpha=alpha)
    assert 0 <= threshold <= 1
    sets = prediction_sets(p, threshold)
    assert sets.shape == (n, k)
    assert sets.dtype == bool
    assert sets[np.arange(n), labels].mean() >= 1 - alpha - 1e-9
    assert (sets <= prediction_sets(p, min(1.0, threshold + 0.1))).all()
    if n < 1 / alpha - 1 - 1e-6:
        assert prediction_sets(p, threshold).all()
    padded = np.concatenate([p, p[:1]]), np.concatenate([labels, [-1]])
    assert conformal_threshold(*padded, alpha=alpha) == threshold


def test_errors() -> None:
    p, labels = np.full((3, 2), 0.5), np.array([0, 1, 0])
    with pytest.raises(RecipeError) as alpha:
        conformal_threshold(p, labels, alpha=90)
    assert str(alpha.value) == ("alpha: 90 is not a valid miss rate; expected a number between 0 and 1, such as 0.1.")
    with pytest.raises(BadLabels) as none:
        conformal_threshold(p, np.array([-1, -1, -1]))
    assert str(none.value) == "labels: no image has one, so no conformal threshold can be fitted."
