"""The least probability to submit: chosen on validation, never 0, and rows that still sum to 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headstart.errors import BadLabels, DataError, RecipeError
from headstart.evaluation.clipping import PSEUDO_ERRORS, clip_bound, clipped


def loss(probabilities_NK: np.ndarray, labels_N: np.ndarray, bound: float) -> float:
    """Mean log-loss as a scorer counts it, which keeps 1e-15 from 0 itself."""
    right_N = clipped(probabilities_NK, bound)[np.arange(len(labels_N)), labels_N]
    return -float(np.log(np.maximum(right_N, 1e-15)).mean())


def drawn(seed: int, n: int, classes: int, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Exact posteriors of a Gaussian in each class, and labels of which a share `wrong` was drawn anew."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, classes, n)
    logits_NK = rng.normal(0, 1, (n, classes))
    logits_NK[np.arange(n), labels_N] += 3.5
    logits_NK *= 3.5
    probabilities_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    noisy_N = rng.random(n) < wrong
    labels_N[noisy_N] = rng.integers(0, classes, noisy_N.sum())
    return probabilities_NK / probabilities_NK.sum(axis=1, keepdims=True), labels_N


# Clipping


def test_two_classes_are_clipped_on_both_sides() -> None:
    rows = np.array([[1.0, 0.0], [0.3, 0.7], [0.005, 0.995]])
    assert clipped(rows, 0.01).tolist() == [[0.99, 0.01], [0.3, 0.7], [0.01, 0.99]]


def test_what_falls_below_the_bound_by_making_room_is_raised_too() -> None:
    # 0 is raised to 0.1; 0.9/1.0 of 0.101 is 0.0909, so that is raised as well, and 0.8 is left for the last
    assert clipped(np.array([[0.0, 0.101, 0.899]]), 0.1)[0] == pytest.approx([0.1, 0.1, 0.8])


@given(
    arrays(float, st.tuples(st.integers(1, 6), st.integers(2, 7)), elements=st.floats(0, 1)),
    st.floats(0, 1),
)
def test_rows_keep_their_sum_their_order_and_the_bound(raw_NK: np.ndarray, share: float) -> None:
    raw_NK = raw_NK + (raw_NK.sum(axis=1, keepdims=True) < 1e-3)
    rows_NK = raw_NK / raw_NK.sum(axis=1, keepdims=True)
    bound = share / rows_NK.shape[1]
    result_NK = clipped(rows_NK, bound)
    assert np.allclose(result_NK.sum(axis=1), 1)
    assert (result_NK >= bound * (1 - 1e-9)).all()
    for before_K, after_K in zip(rows_NK, result_NK, strict=True):
        assert (np.diff(after_K[np.argsort(before_K)]) >= -1e-12).all()


def test_without_a_bound_nothing_changes() -> None:
    rows_NK, _ = drawn(0, 50, 3, 0)
    assert clipped(rows_NK, 0.0).tolist() == rows_NK.tolist()


@pytest.mark.parametrize("bound", [-0.1, 0.51, math.nan])
def test_a_bound_that_no_row_can_keep_is_refused(bound: float) -> None:
    with pytest.raises(
        RecipeError, match=r"is not a valid bound for the probabilities of 2 classes; expected .* from 0 to 0\.5\."
    ):
        clipped(np.array([[0.5, 0.5]]), bound)


# The choice


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("n", [1, 20, 400])
def test_no_mistakes_at_all_give_the_share_of_a_tenth_of_one(n: int, classes: int) -> None:
    sure_NK = np.eye(classes)[np.arange(n) % classes]
    expected = min(PSEUDO_ERRORS / ((classes - 1) * (n + PSEUDO_ERRORS)), 1 / (2 * classes))
    assert clip_bound(sure_NK, np.arange(n) % classes) == pytest.approx(expected)


def test_two_sure_mistakes_among_a_hundred_are_taken_for_two_percent() -> None:
    sure_NK = np.tile([1.0, 0.0], (100, 1))
    labels_N = np.zeros(100, np.int64)
    labels_N[:2] = 1
    best = (2 + PSEUDO_ERRORS) / (100 + PSEUDO_ERRORS)  # where the loss has no slope
    assert clip_bound(sure_NK, labels_N) == pytest.approx(best, rel=0.1)  # to a step of the grid


def test_it_is_the_least_of_the_smoothed_loss_by_brute_force() -> None:
    rows_NK, labels_N = drawn(3, 200, 4, 0.02)
    found = clip_bound(rows_NK, labels_N)
    fine = np.linspace(1e-4, 1 / 8, 4000)
    losses = [200 * loss(rows_NK, labels_N, b) - PSEUDO_ERRORS * math.log(b) for b in fine]
    assert found == pytest.approx(fine[int(np.argmin(losses))], rel=0.15)


@pytest.mark.parametrize("classes", [2, 6])
@pytest.mark.parametrize(("wrong", "gain"), [(0.0, -0.0015), (0.01, 0.005)])
def test_wrong_labels_cost_less_and_clean_ones_hardly_more(classes: int, wrong: float, gain: float) -> None:
    """On test sets of 20,000, the mean over 12 validation sets of 140."""
    test_NK, truth_N = drawn(1000, 20_000, classes, wrong)
    bounds = [clip_bound(*drawn(seed, 140, classes, wrong)) for seed in range(12)]
    gained = loss(test_NK, truth_N, 0.0) - np.mean([loss(test_NK, truth_N, b) for b in bounds])
    assert gained > gain


def test_unlabelled_images_are_left_out() -> None:
    rows_NK, labels_N = drawn(5, 80, 2, 0.05)
    more_NK = np.vstack([rows_NK, [[0.0, 1.0]]])
    assert clip_bound(more_NK, np.append(labels_N, -1)) == clip_bound(rows_NK, labels_N)


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(BadLabels, match="no image has one, so no bound can be chosen"):
        clip_bound(np.array([[0.5, 0.5]]), np.array([-1]))
    with pytest.raises(DataError, match="do not fit"):
        clip_bound(np.array([[0.5, 0.5]]), np.array([0, 1]))
