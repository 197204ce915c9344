"""Accuracy against coverage, and the area under the risk-coverage curve."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import BadLabels, DataError
from headstart.evaluation import selective
from headstart.evaluation.selective import aurc, coverage_curve


def sure(*confidences: float) -> np.ndarray:
    """Two-class probabilities: the first class with that confidence."""
    return np.array([[c, 1 - c] for c in confidences])


def test_examples_in_the_docs() -> None:
    assert doctest.testmod(selective).failed == 0


def test_by_hand() -> None:
    probabilities = sure(0.6, 0.9, 0.7, 0.8)
    labels = np.array([1, 0, 0, 1])  # by confidence: right, wrong, right, wrong
    covered, accuracy = coverage_curve(probabilities, labels)
    np.testing.assert_allclose(covered, [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(accuracy, [1, 1 / 2, 2 / 3, 1 / 2])
    found = aurc(probabilities, labels)
    assert found.value == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert (found.n, found.method) == (4, "BCa bootstrap, 1000 resamples")
    assert 0 <= found.low < found.value < found.high <= 1


def test_equally_sure_images_are_answered_together() -> None:
    probabilities = sure(0.8, 0.8, 0.8, 0.8)
    labels = np.array([0, 1, 0, 0])
    covered, accuracy = coverage_curve(probabilities, labels)
    assert (covered.tolist(), accuracy.tolist()) == ([1.0], [0.75])
    assert aurc(probabilities, labels).value == 0.25
    shuffled = np.array([1, 0, 3, 2])
    assert aurc(probabilities[shuffled], labels[shuffled]).value == 0.25


def test_nothing_wrong_and_everything_wrong() -> None:
    probabilities = sure(*np.linspace(0.6, 0.99, 50))
    good = aurc(probabilities, np.zeros(50, int))
    assert (good.value, good.low) == (0.0, 0.0)
    assert good.high == pytest.approx(3.8415 / 53.8415, abs=1e-4)  # Wilson's bound for 0 of 50
    bad = aurc(probabilities, np.ones(50, int))
    assert (bad.value, bad.high) == (1.0, 1.0)


def test_unlabelled_images_are_left_out() -> None:
    probabilities, labels = sure(0.9, 0.8, 0.7), np.array([0, -1, 1])
    covered, accuracy = coverage_curve(probabilities, labels)
    assert (covered.tolist(), accuracy.tolist()) == ([0.5, 1.0], [1.0, 0.5])
    none = np.full(3, -1)
    assert [len(part) for part in coverage_curve(probabilities, none)] == [0, 0]
    with pytest.raises(BadLabels, match=r"^labels: none of 3 images has one, so there is no risk to measure\.$"):
        aurc(probabilities, none)
    with pytest.raises(DataError, match=r"^scores: row 0 holds"):
        coverage_curve(sure(math.nan), np.array([0]))


cases = st.lists(st.tuples(st.integers(5, 10), st.booleans()), min_size=1, max_size=30)


@given(cases)
@settings(deadline=None)
def test_against_thresholds_one_by_one(given_cases: list[tuple[int, bool]]) -> None:
    """Brute force: every threshold by itself, and AURC as the mean over images."""
    confidences = [c / 10 for c, _ in given_cases]
    right = np.array([r for _, r in given_cases])
    labels = np.where(right, 0, 1)
    covered, accuracy = coverage_curve(sure(*confidences), labels)
    expected, risks = [], {}
    for threshold in sorted(set(confidences), reverse=True):
        answered = np.array([c >= threshold for c in confidences])
        expected.append((answered.mean(), right[answered].mean()))
        risks[threshold] = 1 - right[answered].mean()
    np.testing.assert_allclose(np.transpose([covered, accuracy]), expected)
    assert np.all(np.diff(covered) > 0)
    assert aurc(sure(*confidences), labels, resamples=20).value == pytest.approx(
        np.mean([risks[c] for c in confidences])
    )


@given(cases)
@settings(deadline=None, max_examples=30)
def test_resamples_are_repeated_images_and_the_influence_is_the_derivative(
    given_cases: list[tuple[int, bool]],
) -> None:
    confidences = np.array([c / 10 for c, _ in given_cases])
    labels = np.array([0 if r else 1 for _, r in given_cases])
    wrong, last = selective._by_confidence(sure(*confidences), labels)
    order = np.argsort(-confidences, kind="stable")
    rng = np.random.default_rng(len(given_cases))
    counts = np.bincount(rng.integers(0, len(order), len(order)), minlength=len(order))
    drawn = np.repeat(order, counts)
    found = selective._areas(wrong, last, counts[:, None].astype(np.uint8))[0]
    assert found == pytest.approx(aurc(sure(*confidences[drawn]), labels[drawn], resamples=20).value)
    area, influence = selective._area_and_influence(wrong, last)
    one = np.ones((len(order), 1))
    for i in range(len(order)):
        step = one.copy()
        step[i] += 1e-6
        slope = (selective._areas(wrong, last, step)[0] - selective._areas(wrong, last, one)[0]) / 1e-6
        assert slope * len(order) == pytest.approx(influence[i], abs=1e-4)
    assert influence.mean() == pytest.approx(0, abs=1e-9)
    assert area == pytest.approx(selective._areas(wrong, last, one)[0])


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Confidence c is right with probability c; the true area is that of a large sample."""
    rng = np.random.default_rng(0)

    def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = rng.uniform(0.5, 1, n)
        return np.column_stack([confidence, 1 - confidence]), (rng.random(n) > confidence).astype(int)

    truth = aurc(*sample(200_000), resamples=2).value
    held = [e.low <= truth <= e.high for e in (aurc(*sample(200), resamples=200) for _ in range(100))]
    assert 0.87 <= np.mean(held) <= 1.0
