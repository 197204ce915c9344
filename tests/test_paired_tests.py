"""Paired tests and the Pareto front: against scipy, brute force, hand-computed cases, and what they promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import DataError
from headstart.evaluation.paired_tests import differences, holm, mcnemar, sign_flip
from headstart.evaluation.pareto import on_front


@st.composite
def judged(draw: st.DrawFn, classifiers: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """right (N, T) and loss (N, T) of correlated classifiers."""
    n = draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    hard = rng.random((n, 1))
    right = rng.random((n, classifiers)) * 0.6 + hard * 0.4 < draw(st.sampled_from([0.3, 0.6, 1.1]))
    return right, np.where(right, 0.1, 1.5) + rng.exponential(0.3, (n, classifiers))


def two(right_NT: np.ndarray, loss_NT: np.ndarray, **options: int) -> list:
    return differences(["a", "b"], right_NT, loss_NT, **{"resamples": 400, **options})


# McNemar


@settings(deadline=None)  # the first call imports scipy
@given(st.integers(0, 80), st.integers(0, 80), st.integers(0, 5))
def test_mcnemar_is_scipys_binomial_test_on_the_discordant_images(only_a: int, only_b: int, both: int) -> None:
    from scipy.stats import binomtest

    a = np.repeat([True, False, True], [only_a, only_b, both])
    b = np.repeat([False, True, True], [only_a, only_b, both])
    expected = binomtest(only_a, only_a + only_b, 0.5).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(a, b) == mcnemar(b, a)


def test_mcnemar_by_hand_and_for_thousands() -> None:
    a, b = np.repeat([True, False], [5, 1]), np.repeat([False, True], [5, 1])
    assert mcnemar(a, b) == 2 * (1 + 6) / 64
    a, b = np.repeat([True, False], [10_000, 10_300]), np.repeat([False, True], [10_000, 10_300])
    normal = math.erfc((300 - 1) / math.sqrt(20_300) / math.sqrt(2))
    assert mcnemar(a, b) == pytest.approx(normal, rel=1e-3)


# Holm


def test_holm_by_hand() -> None:
    # Sorted .005, .01, .03, .04: times 4, 3, 2, 1 gives .02, .03, .06, .04, and none may be below the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7]) == [0.7]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_the_step_down_procedure_rejects(p: list[float]) -> None:
    rejected = set()
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):  # as Holm 1979 words it
        if not p[i] * (len(p) - step) < 0.05:
            break
        rejected.add(i)
    corrected = holm(p)
    assert {i for i, c in enumerate(corrected) if c < 0.05} == rejected
    assert all(single <= c <= min(1.0, single * len(p)) for single, c in zip(p, corrected, strict=True))


# Differences


@settings(max_examples=40, deadline=None)
@given(judged())
def test_values_are_plain_differences_of_means_inside_their_bounds(case: tuple[np.ndarray, np.ndarray]) -> None:
    right, loss = case
    found = differences(["x", "y", "z"], right, loss, resamples=200)
    assert [(d.metric, d.a, d.b) for d in found] == [
        (metric, *pair) for metric in ("accuracy", "log_loss") for pair in itertools.combinations("xyz", 2)
    ]
    for d, (figures, (i, j)) in zip(found, itertools.product((right, loss), [(0, 1), (0, 2), (1, 2)]), strict=True):
        assert d.value == pytest.approx(figures[:, i].mean() - figures[:, j].mean(), abs=1e-12)
        assert d.low <= d.value <= d.high
        assert 0 < d.p <= d.p_holm <= 1
        assert d.n == len(right)
        assert (d.verdict == "tie") == (d.p_holm >= 0.05) == (d.winner == "")


@settings(max_examples=40, deadline=None)
@given(judged(2))
def test_the_other_way_round_is_the_mirror_image(case: tuple[np.ndarray, np.ndarray]) -> None:
    right, loss = case
    mirrored = {"a beats b": "b beats a", "b beats a": "a beats b", "tie": "tie"}
    for d, e in zip(two(right, loss), two(right[:, ::-1], loss[:, ::-1]), strict=True):
        assert (d.value, d.low, d.high) == pytest.approx((-e.value, -e.high, -e.low), abs=1e-9)
        assert (d.p, mirrored[d.verdict]) == (e.p, e.verdict)


def test_identical_predictions_are_a_tie_with_p_1() -> None:
    right = np.arange(300) % 10 > 0
    accuracy, log_loss = two(np.stack([right, right], 1), np.ones((300, 2)))
    assert (accuracy.value, accuracy.p, accuracy.p_holm, accuracy.verdict) == (0, 1, 1, "tie")
    assert (accuracy.low, accuracy.high) == pytest.approx((-0.01264, 0.01264), abs=1e-5)  # 3.84 of 303.84 others
    assert (log_loss.value, log_loss.low, log_loss.high, log_loss.p, log_loss.verdict) == (0, 0, 0, 1, "tie")


def test_a_clear_difference_is_told_and_a_smaller_log_loss_is_the_better_one() -> None:
    rng = np.random.default_rng(0)
    right = np.stack([np.ones(200, bool), rng.random(200) < 0.8], 1)
    loss = np.where(right, 0.1, 2.0) + rng.normal(0, 0.01, (200, 2))
    accuracy, log_loss = two(right, loss)
    assert (accuracy.verdict, accuracy.winner) == (log_loss.verdict, log_loss.winner) == ("a beats b", "a")
    assert accuracy.low > 0 > log_loss.high
    assert log_loss.p == 1 / 401  # no flip is as far away


def test_the_correction_counts_all_pairs_of_a_metric() -> None:
    right = np.ones((12, 4), bool)
    right[:6, 0] = False  # one pair has p = 2 / 2^6 = 0.031; three have it, three have none
    found = [d for d in differences(list("abcd"), right, np.ones((12, 4)), resamples=100) if d.metric == "accuracy"]
    assert [d.p for d in found] == [1 / 32] * 3 + [1.0] * 3
    assert [d.p_holm for d in found] == [6 / 32] * 3 + [1.0] * 3
    assert {d.verdict for d in found} == {"tie"}
    assert two(right[:, :2], np.ones((12, 2)))[0].verdict == "b beats a"


def test_intervals_are_scipys_paired_bootstrap() -> None:
    from scipy.stats import bootstrap

    rng = np.random.default_rng(5)
    loss = rng.exponential(1.0, (80, 2))
    found = two(np.ones((80, 2), bool), loss, resamples=20_000)[1]

    def difference(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.mean(axis=axis) - b.mean(axis=axis)

    expected = bootstrap(loss.T, difference, paired=True, vectorized=True, n_resamples=20_000, method="BCa", rng=rng)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


@pytest.mark.parametrize("n", [6, 60])
def test_sign_flips_are_scipys_permutation_test(n: int) -> None:
    from scipy.stats import permutation_test

    rng = np.random.default_rng(n)
    case = rng.normal(0.3, 1.0, (n, 2))
    for column, p in enumerate(sign_flip(case, 20_000)):
        expected = permutation_test(
            (case[:, column],), np.mean, permutation_type="samples", n_resamples=20_000, vectorized=True, rng=rng
        )
        assert p == pytest.approx(expected.pvalue, abs=0.015)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(0, 9))
def test_mcnemar_is_the_sign_flip_test_of_right_and_wrong(only_a: int, only_b: int) -> None:
    case = np.repeat([1.0, -1.0, 0.0], [only_a, only_b, 3])[:, None]
    assert sign_flip(case, 4000)[0] == pytest.approx(mcnemar(case[:, 0] > 0, case[:, 0] < 0), abs=0.04)


def test_intervals_and_p_values_keep_what_they_promise() -> None:
    """300 pairs of equally good classifiers, 100 images each: about 5 % intervals miss, and 5 % are called different."""
    rng = np.random.default_rng(1)
    missed, told = np.zeros(2), np.zeros(2)
    for seed in range(300):
        hard = rng.normal(size=(100, 1))
        skill = hard + rng.normal(size=(100, 2))
        found = two(skill > -1, np.log1p(np.exp(-skill)), seed=seed, resamples=300)
        missed += [not d.low <= 0 <= d.high for d in found]
        told += [d.verdict != "tie" for d in found]
    assert (missed / 300 < 0.11).all(), missed  # a plain t interval: 0.06; 800 such pairs: 0.04 and 0.07
    assert told[0] / 300 <= 0.05  # exact tests are conservative
    assert told[1] / 300 < 0.075


def test_images_that_one_has_no_prediction_of_are_left_out_of_its_pairs_only() -> None:
    rng = np.random.default_rng(2)
    right, loss = rng.random((50, 3)) < 0.7, rng.exponential(1.0, (50, 3))
    loss[:10, 2] = np.nan
    found = {(d.a, d.b, d.metric): d for d in differences(list("abc"), right, loss, resamples=500)}
    assert (found["a", "b", "accuracy"].n, found["a", "c", "accuracy"].n) == (50, 40)
    assert found["a", "c", "log_loss"].value == pytest.approx((loss[10:, 0] - loss[10:, 2]).mean())
    assert found["a", "c", "accuracy"].p == mcnemar(right[10:, 0], right[10:, 2])
    loss[:, 2] = np.nan
    nothing = differences(list("abc"), right, loss, resamples=50)[1]
    assert (nothing.n, nothing.p, nothing.p_holm, nothing.verdict) == (0, 1.0, 1.0, "tie")
    assert math.isnan(nothing.value)


def test_same_arguments_same_numbers_and_few_names() -> None:
    rng = np.random.default_rng(3)
    right, loss = rng.random((40, 2)) < 0.7, rng.exponential(1.0, (40, 2))
    assert two(right, loss, seed=7) == two(right, loss, seed=7)
    assert two(right, loss, seed=7) != two(right, loss, seed=8)
    assert differences(["a"], right[:, :1], loss[:, :1]) == differences([], right[:, :0], loss[:, :0]) == []
    with pytest.raises(
        DataError, match=r"^paired test: arrays of shapes \(40, 1\) and \(40, 2\), expected \(images, 2\)"
    ):
        two(right[:, :1], loss)


# Pareto front


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=15), st.tuples(*[st.booleans()] * 3))
def test_the_front_is_what_brute_force_finds(rows: list[tuple[int, int, int]], larger: tuple[bool, ...]) -> None:
    def at_least(a: tuple, b: tuple) -> bool:
        return all(x >= y if up else x <= y for x, y, up in zip(a, b, larger, strict=True))

    expected = [not any(at_least(other, row) and not at_least(row, other) for other in rows) for row in rows]
    assert on_front(np.array(rows), larger).tolist() == expected
    assert any(expected)


def test_rows_without_a_figure_are_not_on_the_front() -> None:
    values = np.array([[0.9, 2.0], [0.99, np.nan], [0.8, 1.0], [0.8, 1.5]])
    assert on_front(values, [True, False]).tolist() == [True, False, True, False]
