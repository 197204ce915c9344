"""Conformal thresholds by hand, and the promise itself: how often the right class is in the set of a new image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import BadLabels, DataError, RecipeError
from headstart.evaluation.conformal import conformal_threshold, forced_sets, prediction_sets
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
    np.testing.assert_array_equal(forced_sets(p, 0.015), [False, True, True])
    assert prediction_sets(np.zeros((0, 2)), 0.001).shape == (0, 2)
    assert forced_sets(np.zeros((0, 2)), 0.001).shape == (0,)


@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_a_set_is_forced_if_its_only_class_does_not_reach_the_threshold(seed: int, threshold: float) -> None:
    p, _ = drawn(np.random.default_rng(seed), 20, 3)
    reached = (1 - p <= threshold).any(axis=1)
    np.testing.assert_array_equal(forced_sets(p, threshold), ~reached)
    assert (prediction_sets(p, threshold).sum(axis=1)[~reached] == 1).all()


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


def test_threshold_of_groups_by_hand() -> None:
    """Three groups of 1, 2 and 3 images weigh 1/4 each, so at alpha 0.4 the images up to the threshold have 3/5 of that."""
    right = np.array([0.95, 0.9, 0.8, 0.7, 0.6, 0.5])
    p, labels, groups = np.stack([right, 1 - right], axis=1), np.zeros(6, int), np.array([7, 5, 5, 9, 9, 9])
    # Weights of 4ths, cumulated: 1, 1.5, 2, 2.33, 2.67, 3; wanted: 4 times 1 - alpha.
    expected = {0.8: 0.05, 0.7: 0.1, 0.5: 0.2, 0.45: 0.3, 0.4: 0.4, 0.3: 0.5, 0.25: 0.5, 0.24: 1.0}
    found = {alpha: conformal_threshold(p, labels, alpha, groups=groups) for alpha in expected}
    assert found == pytest.approx(expected)
    alone = conformal_threshold(p, labels, 0.4, groups=np.arange(6))
    assert alone == conformal_threshold(p, labels, 0.4) == pytest.approx(0.4)
    unlabelled = np.concatenate([p, p[:1]]), np.append(labels, -1)
    assert conformal_threshold(*unlabelled, alpha=0.4, groups=np.append(groups, 7)) == found[0.4]


def patients(rng: np.random.Generator, count: int, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities and labels of images of `count` patients, of whom some are hard, and the patient of each image."""
    groups = np.repeat(np.arange(count), each)
    labels = rng.integers(0, 4, count * each)
    logits = rng.normal(size=(count * each, 4))
    logits[np.arange(len(labels)), labels] += 2 + 1.5 * rng.normal(size=count)[groups]
    return softmax(logits), labels, groups


@pytest.mark.parametrize(("count", "each"), [(5, 20), (10, 20), (20, 15)])
def test_coverage_of_new_patients_is_as_promised(count: int, each: int) -> None:
    """It is not if each image counts as independent."""
    rng = np.random.default_rng(0)
    held, by_image = [], []
    for _ in range(600):
        p, labels, groups = patients(rng, count, each)
        new, true, _ = patients(rng, 40, 5)
        for kept, of in ((held, groups), (by_image, None)):
            sets = prediction_sets(new, conformal_threshold(p, labels, alpha=0.1, groups=of))
            kept.append(sets[np.arange(len(true)), true].mean())
    margin = 3 * np.std(held) / np.sqrt(len(held))
    assert np.mean(held) >= 0.9 - margin
    assert np.mean(by_image) < 0.9 - margin - (0.01 if count < 20 else 0)
    assert (np.mean(held) == 1) == (count < 9)


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
    with pytest.raises(DataError) as groups:
        conformal_threshold(p, labels, groups=np.array([0, 1]))
    assert str(groups.value) == "groups: shape (2,), expected one number for each of 3 images."
    with pytest.raises(BadLabels) as none:
        conformal_threshold(p, np.array([-1, -1, -1]))
    assert str(none.value) == "labels: no image has one, so no conformal threshold can be fitted."
