"""Metrics against scikit-learn, hand-computed values and brute force; intervals against what they promise."""

from __future__ import annotations

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.errors import BadLabels, DataError
from headstart.evaluation.confusion import COUNTED, figures
from headstart.evaluation.intervals import Estimate, bca, resampling_weights, skewness, undefined, wilson
from headstart.evaluation.metrics import Metrics, compute_metrics
from headstart.evaluation.probabilities import softmax
from headstart.evaluation.roc_auc import Ranking

NAMES = "abcdefgh"


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Logits (N, K), labels (N,), K: few or many images, tied scores, classes without images or predictions."""
    k, n = draw(st.integers(2, 6)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = rng.integers(0, draw(st.integers(1, k)), n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += draw(st.sampled_from([0.0, 1.0, 6.0]))
    if draw(st.booleans()):
        logits = np.round(logits)
    return logits, labels, k


def reference(logits: np.ndarray, labels: np.ndarray, k: int) -> dict[str, float]:
    """scikit-learn's figures."""
    from sklearn import metrics as sk

    p, guess = softmax(logits), logits.argmax(axis=1)
    every = list(range(k))
    found = {
        "accuracy": sk.accuracy_score(labels, guess),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, guess),
        "cohen_kappa": sk.cohen_kappa_score(labels, guess),
        "matthews_corrcoef": sk.matthews_corrcoef(labels, guess),
        "log_loss": sk.log_loss(labels, p, labels=every),
        "brier_score": sk.brier_score_loss(np.eye(k)[labels], p) if k > 2 else ((p[:, 1] - labels) ** 2).mean(),
    }
    for average in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            score = getattr(sk, f"{name}_score")
            found[f"{name}_{average}"] = score(labels, guess, average=average, zero_division=0)
    present = [c for c in every if 0 < (labels == c).sum() < len(labels)]
    areas = [sk.roc_auc_score(labels == c, p[:, c] if k > 2 else (p[:, 1] if c else -p[:, 1])) for c in present]
    if present:
        found["roc_auc"] = float(np.mean(areas))
        if k > 2:
            found["roc_auc_weighted"] = float(np.average(areas, weights=[(labels == c).sum() for c in present]))
    return found


@settings(max_examples=80, deadline=None)
@given(scored())
def test_figures_are_those_of_scikit_learn(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    logits, labels, k = case
    found = compute_metrics(logits, labels, NAMES[:k], resamples=20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = reference(logits, labels, k)
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-9, nan_ok=True), name
    if "roc_auc" not in expected:
        assert found["roc_auc"].method == "undefined: the images are all of one class"


@settings(max_examples=60, deadline=None)
@given(scored())
def test_each_class_is_that_of_scikit_learn(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    logits, labels, k = case
    found, guess = compute_metrics(logits, labels, NAMES[:k], resamples=20), logits.argmax(axis=1)
    assert found.confusion.dtype == np.int64
    np.testing.assert_array_equal(found.confusion, confusion_matrix(labels, guess, labels=range(k)))
    expected = precision_recall_fscore_support(labels, guess, labels=range(k), zero_division=np.nan)
    np.testing.assert_array_equal(found.support, expected[3])
    for name, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        np.testing.assert_allclose([found.per_class[c][name].value for c in NAMES[:k]], values, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(scored(), st.integers(0, 3))
def test_bounds_hold_the_value_and_survive_json(case: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    logits, labels, k = case
    found = compute_metrics(logits, labels, NAMES[:k], resamples=50, seed=seed)
    estimates = [*found.overall.values(), *(e for row in found.per_class.values() for e in row.values())]
    for estimate in estimates:
        assert estimate.undefined == estimate.method.startswith("undefined: ")
        assert estimate.undefined or -1 <= estimate.low <= estimate.value <= estimate.high < 37
        assert estimate.undefined or estimate.high > estimate.low, "a figure from a sample is never certain"
    written = json.dumps(found.to_json(), allow_nan=False)
    again = Metrics.from_json(json.loads(written))
    assert again.to_json() == found.to_json()
    np.testing.assert_array_equal(again.confusion, found.confusion)
    assert compute_metrics(logits, labels, NAMES[:k], resamples=50, seed=seed).to_json() == found.to_json()


def test_hand_computed() -> None:
    """Six images, three classes: a a a b b c guessed as a a b b b a."""
    p = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.3, 0.5, 0.2], [0.2, 0.7, 0.1], [0.1, 0.9, 0.0], [0.5, 0.1, 0.4]])
    found = compute_metrics(p, np.array([0, 0, 0, 1, 1, 2]), ["a", "b", "c"], probabilities=True)
    assert found.confusion.tolist() == [[2, 1, 0], [0, 2, 0], [1, 0, 0]]
    assert found["accuracy"].value == pytest.approx(4 / 6)
    assert found["top_2_accuracy"].value == pytest.approx(6 / 6)
    assert found["balanced_accuracy"].value == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert found["precision_macro"].value == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    assert found["f1_macro"].value == pytest.approx((2 / 3 + 4 / 5 + 0) / 3)
    # expected agreement: (3 * 3 + 2 * 3 + 1 * 0) / 36
    assert found["cohen_kappa"].value == pytest.approx((4 / 6 - 15 / 36) / (1 - 15 / 36))
    assert found["log_loss"].value == pytest.approx(-np.log([0.8, 0.6, 0.3, 0.7, 0.9, 0.4]).mean())
    assert found["brier_score"].value == pytest.approx((0.06 + 0.26 + 0.78 + 0.14 + 0.02 + 0.62) / 6)
    # class b: positives at 0.7, 0.9; all four others lie below. class c: its 0.4 is above all others.
    assert [found.per_class[c]["roc_auc"].value for c in "abc"] == pytest.approx([8 / 9, 1, 1])
    assert found["roc_auc_weighted"].value == pytest.approx((3 * 8 / 9 + 2 + 1) / 6)
    assert found.per_class["a"]["specificity"].value == pytest.approx(2 / 3)
    assert found.per_class["c"]["precision"].method == "undefined: the class is never predicted"
    # each image has a calibration bin of its own, except 0.5 and 0.5 (one wrong, one wrong)
    assert found["ece"].value == pytest.approx((0.2 + 0.4 + 0.5 + 0.3 + 0.1 + 0.5) / 6)


def test_count_figures_resample_as_scikit_learn_would() -> None:
    """A block of matrices gives what each gives alone, by scikit-learn on the images written out."""
    from sklearn import metrics as sk

    rng = np.random.default_rng(3)
    matrices = rng.integers(0, 4, (20, 3, 3))
    found = figures(matrices.diagonal(axis1=1, axis2=2), matrices.sum(2), matrices.sum(1))
    for row, matrix in zip(found, matrices, strict=True):
        true, guess = (np.repeat(x.ravel(), matrix.ravel()) for x in np.indices((3, 3)))
        expected = [
            sk.balanced_accuracy_score(true, guess),
            *(sk.precision_score(true, guess, average=a, zero_division=0) for a in ("macro", "weighted")),
            sk.recall_score(true, guess, average="macro", zero_division=0),
            *(sk.f1_score(true, guess, average=a, zero_division=0) for a in ("macro", "weighted")),
            sk.cohen_kappa_score(true, guess),
            sk.matthews_corrcoef(true, guess),
        ]
        np.testing.assert_allclose(row[: len(COUNTED)], expected, atol=1e-12)


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 50), st.integers(1, 40), st.integers(0, 2**32))
def test_auc_of_resamples_is_that_of_the_resampled_images(n: int, values: int, seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(seed)
    scores, positive = rng.integers(0, values, n) / 7, rng.integers(0, 2, n) > 0
    curve = Ranking.of(scores, positive)
    if curve is None:
        assert positive.all() or not positive.any()
        return
    assert curve.area() == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    weights = next(resampling_weights(n, 6, rng))
    assert (weights.sum(axis=0) == n).all()
    for area, count in zip(curve.areas(weights), weights.T, strict=True):
        drawn = np.repeat(np.arange(n), count)
        if len(set(positive[drawn])) == 1:
            assert math.isnan(area)
        else:
            assert area == pytest.approx(roc_auc_score(positive[drawn], scores[drawn]), abs=1e-12)


def test_auc_influence_is_the_slope_of_the_weighted_area() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 9, 30) / 3, rng.integers(0, 2, 30) > 0
    curve = Ranking.of(scores, positive)
    assert curve is not None
    for i, influence in enumerate(curve.influence()):
        weight = np.ones(30)
        weight[i] += 1e-6
        slope = (roc_auc_score(positive, scores, sample_weight=weight) - curve.area()) / 1e-6
        assert influence == pytest.approx(30 * slope, abs=1e-3)


def test_resampling_weights_come_in_blocks_and_are_drawn_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headstart.evaluation.intervals.BLOCK", 50)
    blocks = list(resampling_weights(10, 2003, np.random.default_rng(0)))
    assert {b.shape for b in blocks} == {(10, 5), (10, 3)}
    weights = np.concatenate(blocks, axis=1)
    assert weights.shape == (10, 2003)
    assert weights.dtype == np.uint8
    np.testing.assert_allclose(weights.mean(axis=1), 1, atol=0.1)
    np.testing.assert_allclose(weights.var(axis=1), 0.9, atol=0.15)


def test_wilson_by_hand() -> None:
    """Brown, Cai and DasGupta's formula at 95 %, and its closed forms at the ends."""
    z2 = 3.841458820694124
    assert wilson(300, 300).low == pytest.approx(300 / (300 + z2))
    assert wilson(0, 10).high == pytest.approx(z2 / (10 + z2))
    assert (wilson(8, 10).low, wilson(8, 10).high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 0).method == "undefined: no cases"


def test_bca_agrees_with_scipy() -> None:
    from scipy.stats import bootstrap

    sample = np.random.default_rng(1).exponential(size=60)
    expected = bootstrap((sample,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(2))
    weights = next(resampling_weights(60, 20_000, np.random.default_rng(3)))
    found = bca(sample.mean(), sample @ weights / 60, skewness(sample), 0.95)
    assert found == pytest.approx(tuple(expected.confidence_interval), abs=0.01)


def test_perfect_predictions_are_not_certain() -> None:
    labels = np.arange(300) % 2
    found = compute_metrics(np.eye(2)[labels] * 1e6, labels, ["cat", "dog"])
    assert str(found["accuracy"]) == "1.000 [0.987, 1.000]"
    for name in ("balanced_accuracy", "f1_macro", "matthews_corrcoef", "roc_auc", "log_loss", "brier_score"):
        assert found[name].method == "Wilson-like bound, resamples alike", name
    assert str(found["balanced_accuracy"]) == "1.000 [0.988, 1.000]"
    assert str(found["roc_auc"]) == "1.000 [0.975, 1.000]"
    assert str(found["ece"]) == "0.000 [0.000, 0.013]"
    assert str(found["brier_score"]) == "0.000 [0.000, 0.013]"


def test_one_image() -> None:
    found = compute_metrics(np.array([[2.0, 0.0, 0.0]]), np.array([0]), ["a", "b", "c"])
    assert str(found["accuracy"]) == "1.000 [0.207, 1.000]"
    assert str(found["cohen_kappa"]) == "undefined"
    assert found["cohen_kappa"].to_json() == {
        "value": None,
        "low": None,
        "high": None,
        "n": 0,
        "method": "undefined: there is only one class",
    }
    assert found.per_class["b"]["recall"].method == "undefined: no image has the class"
    assert found.per_class["b"]["f1"].method == "undefined: the class is neither labelled nor predicted"


def test_unlabelled_images_are_left_out_and_counted() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    labels[::4] = -1
    found, kept = (
        compute_metrics(logits, labels, "abc"),
        compute_metrics(logits[labels >= 0], labels[labels >= 0], "abc"),
    )
    assert (found.n, found.unlabelled) == (30, 10)
    assert found.to_json() | {"unlabelled": 0} == kept.to_json()


def test_probabilities_and_logits_give_the_same() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    assert (
        compute_metrics(softmax(logits), labels, "abc", probabilities=True).to_json()
        == compute_metrics(logits, labels, "abc").to_json()
    )


def test_errors_say_what_was_expected() -> None:
    good, labels = np.zeros((2, 2)), np.array([0, 1])
    with pytest.raises(BadLabels) as none:
        compute_metrics(good, np.array([-1, -1]), "ab")
    assert str(none.value) == "labels: none of 2 images has one, so nothing can be evaluated."
    with pytest.raises(DataError) as columns:
        compute_metrics(good, labels, "abc")
    assert str(columns.value) == "scores: 2 columns for 3 classes; expected one column per class."
    with pytest.raises(DataError) as infinite:
        compute_metrics(np.array([[0.0, 1.0], [np.nan, 0.0]]), labels, "ab")
    assert str(infinite.value) == "scores: row 1 holds [nan, 0.0]; expected finite numbers."
    with pytest.raises(BadLabels) as label:
        compute_metrics(good, np.array([0, 2]), "ab")
    assert str(label.value) == "labels: expected whole numbers from 0 to 1, or -1 where unknown."
    with pytest.raises(DataError) as shape:
        compute_metrics(good, np.array([0]), "ab")
    assert str(shape.value) == (
        "scores and labels: shapes (2, 2) and (1,) do not fit.\n  Expected (images, two or more classes) and (images,)."
    )
    with pytest.raises(DataError) as logits:
        compute_metrics(good, labels, "ab", probabilities=True)
    assert str(logits.value) == (
        "probabilities: expected rows of numbers from 0 to 1 that sum to 1.\n  Are these logits?"
    )


def test_estimate_formats() -> None:
    estimate = Estimate(0.978, 0.955, 0.99, 300, "Wilson")
    assert str(estimate) == "0.978 [0.955, 0.990]"
    assert f"{estimate:.1%}" == "97.8% [95.5%, 99.0%]"
    assert Estimate.from_json(estimate.to_json()) == estimate
    assert Estimate.from_json(undefined("no cases").to_json()).undefined
    with pytest.raises(ValueError, match=r"expected low <= value <= high, not 0\.5, 0\.4, 0\.6"):
        Estimate(0.4, 0.5, 0.6, 1, "Wilson")


def test_table_is_aligned() -> None:
    labels = np.array([0, 1] * 50)
    lines = compute_metrics(np.eye(2)[labels], labels, ["cat", "a longer name"]).table().splitlines()
    assert lines[0] == "100 images, 2 classes, 95% intervals"
    assert lines[2] == "accuracy            1.000 [0.963, 1.000]"
    block = lines[-3:]
    assert block[0].split() == ["class", "images", "precision", "recall", "f1", "roc_auc"]
    assert block[2].startswith("a longer name      50  1.000 [0.929, 1.000]")
    assert len({len(line) for line in block}) == 1


def coverage(runs: int, n: int, resamples: int) -> dict[str, float]:
    """How often the intervals of test sets from one source hold the figures of a very large one."""
    rng = np.random.default_rng(0)

    def draw(size: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.choice(3, size, p=[0.5, 0.3, 0.2])
        logits = rng.normal(size=(size, 3))
        logits[np.arange(size), labels] += 2.5
        return 2 * logits, labels

    truth = compute_metrics(*draw(200_000), "abc", resamples=2)
    names = ("accuracy", "balanced_accuracy", "f1_macro", "cohen_kappa", "matthews_corrcoef", "roc_auc", "log_loss")
    held = dict.fromkeys((*names, "brier_score", "ece"), 0)
    for _ in range(runs):
        found = compute_metrics(*draw(n), "abc", resamples=resamples)
        for name in held:
            held[name] += found[name].low <= truth[name].value <= found[name].high
    return {name: count / runs for name, count in held.items()}


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    held = coverage(runs=150, n=200, resamples=300)
    assert min(held.values()) >= 0.88, held


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = coverage(runs=2000, n=200, resamples=1000)
    assert min(held.values()) >= 0.91, held


@pytest.mark.slow
def test_large_sets_stay_within_time_and_memory() -> None:
    import time

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 100, 50_000)
    logits = rng.normal(size=(50_000, 100))
    logits[np.arange(50_000), labels] += 3
    start = time.perf_counter()
    compute_metrics(logits, labels, [str(c) for c in range(100)])
    assert time.perf_counter() - start < 60  # about 9 s on one idle core
