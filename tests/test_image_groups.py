"""Images of one group are right or wrong together: intervals and tests over whole groups keep what they promise."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import DataError
from headstart.evaluation.image_groups import about_groups, groups_of
from headstart.evaluation.intervals import Resampling, grouped_wilson, quantile_of_t, t_bounds, wilson
from headstart.evaluation.metrics import Metrics, compute_metrics
from headstart.evaluation.paired_tests import Difference, differences, mcnemar, sign_flip

PATIENTS, EACH = 20, 15


def patients(rng: np.random.Generator, count: int = PATIENTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits, labels and groups of two classes: some patients are easy, and some are hard."""
    groups_N = np.repeat(np.arange(count), EACH)
    labels_N = rng.integers(0, 2, len(groups_N))
    logits_NK = np.zeros((len(groups_N), 2))
    skill_N = 1.4 + 1.2 * rng.normal(size=count)[groups_N] + rng.logistic(size=len(groups_N))
    logits_NK[np.arange(len(groups_N)), labels_N] = skill_N
    return logits_NK, labels_N, groups_N


TRUTH = compute_metrics(*patients(np.random.default_rng(10**6), 20_000)[:2], "ab", resamples=2)
"""The figures on 20,000 patients."""


# Intervals


def test_the_interval_of_the_accuracy_holds_it_for_patients_of_different_difficulty() -> None:
    truth, held, over_images = TRUTH["accuracy"].value, 0, 0
    for seed in range(1000):
        logits, labels, groups_N = patients(np.random.default_rng(seed))
        right_N = logits.argmax(axis=1) == labels
        groups = groups_of(groups_N)
        assert groups is not None
        found = Resampling(0.95, 1, np.random.default_rng(0), groups).proportion(right_N)
        alone = wilson(int(right_N.sum()), len(right_N))
        held += found.low <= truth <= found.high
        over_images += alone.low <= truth <= alone.high
    assert 930 <= held <= 975
    assert over_images < 700  # what it would be if each image were on its own


@pytest.mark.slow
def test_the_intervals_of_all_metrics_hold_them() -> None:
    held = dict.fromkeys(TRUTH.overall, 0)
    for seed in range(300):
        logits, labels, groups = patients(np.random.default_rng(seed))
        found = compute_metrics(logits, labels, "ab", groups=groups, seed=seed, resamples=300)
        for name in held:
            held[name] += found[name].low <= TRUTH[name].value <= found[name].high
    assert all(0.90 <= count / 300 <= 0.995 for count in held.values()), held


def test_the_intervals_of_some_metrics_hold_them() -> None:
    names = ("accuracy", "f1_macro", "roc_auc", "log_loss")
    held = dict.fromkeys(names, 0)
    for seed in range(40):
        logits, labels, groups = patients(np.random.default_rng(seed))
        found = compute_metrics(logits, labels, "ab", groups=groups, seed=seed, resamples=200)
        for name in names:
            held[name] += found[name].low <= TRUTH[name].value <= found[name].high
    assert all(count >= 35 for count in held.values()), held


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 5), st.integers(1, 60))
def test_groups_of_one_image_change_nothing(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, k)), rng.integers(0, k, n)
    alone, own = (
        compute_metrics(logits, labels, "abcde"[:k], resamples=40, groups=groups)
        for groups in (None, rng.permutation(n))
    )
    assert alone.to_json() == own.to_json()
    assert "groups" not in own.to_json() and own.about_groups == ""
    right, loss = rng.random((n, 3)) < 0.7, rng.exponential(1.0, (n, 3))
    assert differences("abc", right, loss, resamples=40) == differences(
        "abc", right, loss, resamples=40, groups=rng.permutation(n)
    )


def test_copies_of_every_image_add_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 80)
    logits = rng.normal(size=(80, 3)) + 1.5 * np.eye(3)[labels]
    alone = compute_metrics(logits, labels, "abc", resamples=4000)
    found = compute_metrics(
        np.repeat(logits, 4, axis=0), np.repeat(labels, 4), "abc", resamples=4000, groups=np.repeat(np.arange(80), 4)
    )
    assert (found.n, found.groups) == (320, 80)
    for name, one in alone.overall.items():
        four = found[name]
        assert four.value == pytest.approx(one.value, abs=1e-6), name
        if name != "ece":  # whose interval for single images simulates them one by one
            assert (four.low, four.high) == pytest.approx((one.low, one.high), abs=0.02), name
        assert four.n == 320


def test_groups_are_drawn_whole() -> None:
    groups_N = np.array([5, 9, 5, 7, 7, 7, 5])
    groups = groups_of(groups_N)
    assert groups is not None and groups.count == 3
    weights = np.concatenate(list(Resampling(0.95, 500, np.random.default_rng(0), groups).weights(7)), axis=1)
    assert weights.shape == (7, 500)
    for group in (5, 7, 9):
        assert (weights[groups_N == group] == weights[groups_N == group][0]).all()
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()


def test_wilson_over_groups_by_hand() -> None:
    """Four groups of two, hits 2, 2, 1, 0: p = 5/8, deviations 0.75, 0.75, -0.25, -1.25."""
    z2, t2 = 3.841458820694124, 3.182446305284263**2
    spread = (0.75**2 + 0.75**2 + 0.25**2 + 1.25**2) * 4 / 3
    effect = (3 * spread / (8 * 5 / 8 * 3 / 8) + 2) / 4  # three misses, and one more in a group of two that are alike
    n = 8 / effect * z2 / t2
    found = grouped_wilson(np.array([2, 2, 1, 0]), np.array([2, 2, 2, 2]))
    centre, p = (n * 5 / 8 + z2 / 2) / (n + z2), 5 / 8
    half = math.sqrt(z2) / (n + z2) * math.sqrt(n * p * (1 - p) + z2 / 4)
    assert (found.value, found.low, found.high) == pytest.approx((p, centre - half, centre + half), abs=1e-9)
    assert (found.n, found.method) == (8, "Wilson at the effective n of 4 groups (Rao-Scott)")


def test_intervals_of_t_by_hand() -> None:
    """0.9 with a standard error of 0.03, 11 groups: log-odds ln 9 +- 2.228 x 0.03 / 0.09."""
    half = 2.2281388519649385 * 0.03 / (0.9 * 0.1)
    ends = [1 / (1 + math.exp(-(math.log(9) + sign * half))) for sign in (-1, 1)]
    assert t_bounds(0.9, 0.03, 10, (0.0, 1.0), 0.95) == pytest.approx(ends, abs=1e-9)
    assert t_bounds(0.8, 0.06, 10, (-1.0, 1.0), 0.95) == pytest.approx([2 * end - 1 for end in ends], abs=1e-9)
    factor = math.exp(2.2281388519649385 * 0.03 / 0.9)  # without an upper end: logarithms
    assert t_bounds(0.9, 0.03, 10, (0.0, math.inf), 0.95) == pytest.approx([0.9 / factor, 0.9 * factor], abs=1e-9)
    assert t_bounds(0.5, 0.5, 1, (0.0, 1.0), 0.999) == pytest.approx([0.0, 1.0])


@pytest.mark.parametrize("figure", ["f1", "roc_auc", "recall"])
def test_intervals_of_one_class_hold_its_figures_if_each_of_a_few_patients_has_one_class(figure: str) -> None:
    held, sets = 0, 60
    truth = of_one_class(np.random.default_rng(10**6), 3000).per_class["a"][figure].value
    for seed in range(sets):
        found = of_one_class(np.random.default_rng(seed), 8).per_class["a"][figure]
        held += found.low <= truth <= found.high
    assert held >= 0.9 * sets


def of_one_class(rng: np.random.Generator, count: int) -> Metrics:
    """Metrics of patients of one class each, half of them of each class."""
    groups_N = np.repeat(np.arange(count), EACH)
    labels_N = groups_N % 2
    logits_NK = rng.normal(size=(len(groups_N), 2))
    logits_NK[np.arange(len(groups_N)), labels_N] += 2 + rng.normal(size=count)[groups_N]
    resamples = 200 if count < 1000 else 2
    return compute_metrics(logits_NK, labels_N, "ab", groups=groups_N, resamples=resamples)


def test_a_single_group_says_next_to_nothing() -> None:
    logits, labels = np.eye(2)[np.arange(30) % 2] * 3.0, np.arange(30) % 2
    found = compute_metrics(logits, labels, "ab", groups=np.zeros(30, int))
    accuracy = found["accuracy"]
    assert (accuracy.value, accuracy.high) == (1.0, 1.0) and accuracy.low < 0.1
    assert found["roc_auc"].method == "Wilson-like bound, resamples alike of 1 group"
    assert grouped_wilson(np.array([0]), np.array([0])).method == "undefined: no cases"


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
def test_quantiles_of_t_are_scipys(level: float) -> None:
    from scipy.stats import t

    for freedom in (1, 2, 3, 4, 5, 19, 20, 101, 998):
        assert quantile_of_t(level, freedom) == pytest.approx(t.ppf(0.5 + level / 2, freedom), rel=1e-6)
    assert quantile_of_t(level, 5000) == pytest.approx(t.ppf(0.5 + level / 2, 5000), rel=0.002)


def test_the_number_of_groups_is_said_and_survives_json() -> None:
    logits, labels, groups = patients(np.random.default_rng(0))
    labels[:EACH] = -1  # a patient without labels is not counted
    found = compute_metrics(logits, labels, ("cat", "dog"), groups=groups, resamples=20)
    assert found.groups == PATIENTS - 1
    assert found.table().splitlines()[:2] == [
        "285 images, 2 classes, 95% intervals",
        "Images of one group are not independent, so intervals and tests are over whole groups: 19 groups.",
    ]
    assert found["log_loss"].method == "Student's t, 20 resamples of 19 groups"
    assert found["ece"].method == "test inversion, 20 resamples of 19 groups"
    again = Metrics.from_json(json.loads(json.dumps(found.to_json())))
    assert again.groups == 19 and again.to_json() == found.to_json()
    assert about_groups(0) == ""


def test_groups_that_do_not_fit() -> None:
    with pytest.raises(DataError) as caught:
        compute_metrics(np.eye(2), np.array([0, 1]), "ab", groups=np.array([0]))
    assert str(caught.value) == "groups: shape (1,), expected one number for each of 2 images."


# Paired tests


def equals(seed: int, count: int = PATIENTS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two equally good classifiers, each of which finds other patients hard."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), EACH)
    skill = 1 + (rng.normal(size=(count, 1)) + 1.5 * rng.normal(size=(count, 2)))[groups]
    skill += rng.logistic(size=skill.shape)
    return skill > 0, np.log1p(np.exp(-skill)), groups


@pytest.mark.parametrize(("count", "most_missed"), [(PATIENTS, 0.10), (7, 0.12)])
def test_equal_classifiers_are_seldom_called_different(count: int, most_missed: float) -> None:
    told, missed, by_mcnemar = np.zeros(2), np.zeros(2), 0
    for seed in range(200):
        right, loss, groups = equals(seed, count)
        found = differences("ab", right, loss, groups=groups, seed=seed, resamples=300)
        told += [d.verdict != "tie" for d in found]
        missed += [not d.low <= 0 <= d.high for d in found]
        by_mcnemar += mcnemar(right[:, 0], right[:, 1]) < 0.05
    assert (told / 200 <= 0.08).all(), told
    assert (missed / 200 <= most_missed).all(), missed
    assert by_mcnemar / 200 > 0.25  # what it would be if each image were on its own


def test_signs_of_whole_groups_are_flipped_in_all_ways_if_there_are_few() -> None:
    groups = np.repeat(np.arange(6), 10)
    right = np.stack([np.ones(60, bool), np.tile(np.arange(10) < 9, 6)], axis=1)  # a is better for each of six
    accuracy, _ = differences("ab", right, np.ones((60, 2)), groups=groups, resamples=100)
    assert (accuracy.p, accuracy.verdict) == (2 / 64, "a beats b")
    five = groups < 5
    accuracy, _ = differences("ab", right[five], np.ones((50, 2)), groups=groups[five], resamples=100)
    assert (accuracy.p, accuracy.verdict) == (2 / 32, "tie")


def test_flips_at_random_are_near_those_in_all_ways() -> None:
    sums = np.random.default_rng(1).normal(0.4, 1.0, (10, 3))
    every, some = sign_flip(sums, 2000, exact=True), sign_flip(sums, 20_000)
    assert every == pytest.approx(some, abs=0.015)
    assert all(p * 2**10 == round(p * 2**10) for p in every)
    assert sign_flip(np.zeros((3, 1)), exact=True) == [1.0]


def test_a_pair_is_compared_on_the_groups_that_both_predicted() -> None:
    right, loss, groups = equals(0)
    loss[groups == 3, 1] = np.nan
    rest = groups != 3
    found = differences("ab", right, loss, groups=groups, resamples=3000)
    again = differences("ab", right[rest], loss[rest], groups=groups[rest], resamples=3000)

    def numbers(d: Difference) -> tuple[float, ...]:
        return d.n, d.value, d.low, d.high, d.p

    for one, other in zip(found, again, strict=True):
        assert numbers(one) == pytest.approx(numbers(other), abs=0.03)
