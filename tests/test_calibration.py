"""Temperature, softmax and reliability by hand, against scipy's minimiser, and on data whose temperature is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import BadLabels, DataError
from headstart.evaluation.calibration import (
    calibration_error,
    fit_temperature,
    reliability,
    softmax,
)
from headstart.evaluation.intervals import Resampling


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).mean())


def drawn(rng: np.random.Generator, n: int, k: int, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose right temperature is known: the labels are drawn from softmax(logits / temperature)."""
    logits = rng.normal(size=(n, k)) * 2 * temperature
    chances = softmax(logits / temperature)
    labels = (chances.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits, np.minimum(labels, k - 1)


def test_softmax_by_hand() -> None:
    np.testing.assert_allclose(softmax(np.log([[1.0, 2.0, 5.0]])), [[1 / 8, 2 / 8, 5 / 8]])
    np.testing.assert_array_equal(softmax(np.array([[1e30, 0.0], [-1e30, -1e30]])), [[1, 0], [0.5, 0.5]])
    assert softmax(np.zeros((1, 2), np.float16)).dtype == np.float64


@pytest.mark.parametrize("temperature", [0.003, 0.2, 1.0, 7.0, 400.0])
@pytest.mark.parametrize("k", [2, 6])
def test_finds_a_known_temperature_at_any_scale(temperature: float, k: int) -> None:
    logits, labels = drawn(np.random.default_rng(0), 20_000, k, temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(20, 200), st.integers(0, 2**32))
def test_without_smoothing_it_is_the_minimum_of_the_log_loss(k: int, n: int, seed: int) -> None:
    from scipy.optimize import minimize_scalar

    logits, labels = drawn(np.random.default_rng(seed), n, k, 3.0)
    found = fit_temperature(logits, labels, pseudo_errors=0)
    spread = (logits - logits.mean(axis=1, keepdims=True)).std()
    bounds = np.log([spread / 100, spread * 100])
    best = minimize_scalar(lambda t: log_loss(logits / np.exp(t), labels), bounds=bounds, method="bounded")
    assert log_loss(logits / found, labels) <= best.fun + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 5), st.integers(2, 60), st.floats(1e-6, 1e6), st.integers(0, 2**32))
def test_follows_the_scale_and_ignores_shifts_and_unlabelled_rows(k: int, n: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = drawn(rng, n, k, 1.0)
    found = fit_temperature(logits, labels)
    assert 0 < found < math.inf
    assert fit_temperature(logits * scale, labels) == pytest.approx(found * scale, rel=1e-6)
    assert fit_temperature(logits + rng.normal(size=(n, 1)), labels) == pytest.approx(found, rel=1e-6)
    more = np.concatenate([logits, rng.normal(size=(3, k))])
    assert fit_temperature(more, np.concatenate([labels, [-1, -1, -1]])) == pytest.approx(found, rel=1e-6)


def test_no_error_among_few_images_is_not_certainty() -> None:
    """Two classes, margin 2 throughout, no errors among n: the probability of the class becomes n / (n + 1/4)."""
    for n in (10, 50, 1000):
        labels = np.arange(n) % 2
        logits = np.where(np.eye(2)[labels] > 0, 1.0, -1.0)
        probability = softmax(logits / fit_temperature(logits, labels))[0, labels[0]]
        assert probability == pytest.approx(n / (n + 0.25), abs=1e-6)


def test_logits_that_know_nothing() -> None:
    assert fit_temperature(np.ones((5, 3)), np.array([0, 1, 2, 0, 1])) == 1.0
    labels = np.arange(20) % 2
    against = -np.where(np.eye(2)[labels] > 0, 1.0, -1.0)  # always wrong: nothing beats equal probabilities
    assert fit_temperature(against, labels) == pytest.approx(100.0)


def test_errors() -> None:
    with pytest.raises(BadLabels) as none:
        fit_temperature(np.zeros((2, 2)), np.array([-1, -1]))
    assert str(none.value) == "labels: no image has one, so no temperature can be fitted."
    with pytest.raises(DataError) as infinite:
        fit_temperature(np.array([[math.inf, 0.0]]), np.array([0]))
    assert str(infinite.value) == "scores: row 0 holds [inf, 0.0]; expected finite numbers."


def test_reliability_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55], [1.0, 0.0], [0.5, 0.5]])
    table = reliability(p, np.array([0, 1, 1, 1, 0, -1]), bins=5)  # bins (0.4, 0.6] (0.6, 0.8] (0.8, 1]
    np.testing.assert_allclose(table.edges, [0, 0.2, 0.4, 0.6, 0.8, 1])
    np.testing.assert_array_equal(table.count, [0, 0, 1, 2, 2])
    np.testing.assert_allclose(table.confidence, [np.nan, np.nan, 0.55, 0.75, 0.95])
    np.testing.assert_allclose(table.accuracy, [np.nan, np.nan, 1, 0.5, 1])
    error = calibration_error(table, Resampling(0.95, 10, np.random.default_rng(0)))
    assert error.value == pytest.approx((1 * 0.45 + 2 * 0.25 + 2 * 0.05) / 5)


def _expected_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Guo et al. 2017, equation 3."""
    table = reliability(probabilities, labels)
    return float(np.nansum(table.count * np.abs(table.confidence - table.accuracy)) / table.count.sum())


def test_calibrated_probabilities_have_a_small_error() -> None:
    logits, labels = drawn(np.random.default_rng(0), 50_000, 4, 1.0)
    assert _expected_error(softmax(logits), labels) < 0.01
    assert _expected_error(softmax(logits * 3), labels) > 0.1


def test_interval_of_the_calibration_error() -> None:
    """For a calibrated and for an over-confident model, it holds the truth for nearly all of 300 test sets."""
    rng = np.random.default_rng(0)
    for sharpness in (1.0, 2.5):
        logits, labels = drawn(rng, 300_000, 3, 1.0)
        truth = _expected_error(softmax(sharpness * logits), labels)
        estimates = []
        for _ in range(300):
            logits, labels = drawn(rng, 150, 3, 1.0)
            table = reliability(softmax(sharpness * logits), labels)
            estimates.append(calibration_error(table, Resampling(0.95, 300, rng)))
        assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.93
        if sharpness == 1.0:
            assert np.mean([e.low for e in estimates]) < 0.01  # a calibrated model is hardly ever accused
        else:
            assert np.mean([e.low for e in estimates]) > truth / 2  # and one that is not, is found out


def test_no_error_is_not_perfect_calibration() -> None:
    labels = np.arange(300) % 2
    estimate = calibration_error(
        reliability(np.eye(2)[labels], labels), Resampling(0.95, 100, np.random.default_rng(0))
    )
    assert str(estimate) == "0.000 [0.000, 0.013]"  # as far as Wilson's interval of the accuracy reaches
    assert estimate.method == "test inversion, 100 simulated sets"
