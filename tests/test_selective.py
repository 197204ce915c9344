"""Accuracy against coverage."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import DataError
from headstart.evaluation import selective
from headstart.evaluation.selective import coverage_curve


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


def test_equally_sure_images_are_answered_together() -> None:
    probabilities = sure(0.8, 0.8, 0.8, 0.8)
    labels = np.array([0, 1, 0, 0])
    covered, accuracy = coverage_curve(probabilities, labels)
    assert (covered.tolist(), accuracy.tolist()) == ([1.0], [0.75])


def test_unlabelled_images_are_left_out() -> None:
    probabilities, labels = sure(0.9, 0.8, 0.7), np.array([0, -1, 1])
    covered, accuracy = coverage_curve(probabilities, labels)
    assert (covered.tolist(), accuracy.tolist()) == ([0.5, 1.0], [1.0, 0.5])
    none = np.full(3, -1)
    assert [len(part) for part in coverage_curve(probabilities, none)] == [0, 0]
    with pytest.raises(DataError, match=r"^scores: row 0 holds"):
        coverage_curve(sure(math.nan), np.array([0]))


cases = st.lists(st.tuples(st.integers(5, 10), st.booleans()), min_size=1, max_size=30)


@given(cases)
@settings(deadline=None)
def test_against_thresholds_one_by_one(given_cases: list[tuple[int, bool]]) -> None:
    """Brute force: every threshold by itself."""
    confidences = [c / 10 for c, _ in given_cases]
    right = np.array([r for _, r in given_cases])
    labels = np.where(right, 0, 1)
    covered, accuracy = coverage_curve(sure(*confidences), labels)
    expected = []
    for threshold in sorted(set(confidences), reverse=True):
        answered = np.array([c >= threshold for c in confidences])
        expected.append((answered.mean(), right[answered].mean()))
    np.testing.assert_allclose(np.transpose([covered, accuracy]), expected)
    assert np.all(np.diff(covered) > 0)
