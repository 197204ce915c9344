"""Linear heads against brute force and scikit-learn."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.data.folds import assign_folds
from headstart.errors import BadLabels, DataError, RecipeError
from headstart.model.heads.cross_validation import cross_validate
from headstart.model.heads.leave_groups_out import scorable, usable_groups
from headstart.model.heads.linear import KINDS, LinearHead, fit_head, leave_one_out, refit
from headstart.model.heads.logistic import tempered_log_loss
from headstart.model.heads.search import search_head

CLOSED = ("ridge", "lda")
SHAPES = [(60, 8, 3), (24, 40, 3), (50, 6, 2)]  # N > D, N < D, two classes


def make(n: int, d: int, k: int, seed: int = 0, spread: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian mixture with correlated features and unequal classes, each with at least two rows; float32 (n, d)."""
    rng = np.random.default_rng(seed)
    share = np.linspace(2, 1, k)
    labels = np.concatenate([np.repeat(np.arange(k), 2), rng.choice(k, n - 2 * k, p=share / share.sum())])
    mixing = rng.normal(size=(d, d)) / np.sqrt(d)
    values = rng.normal(size=(k, d))[labels] * spread / np.sqrt(d) * 2 + rng.normal(size=(n, d)) @ mixing
    return (values + 3).astype(np.float32), labels


def sample_weights(labels: np.ndarray, class_weight: str | None) -> np.ndarray:
    counts = np.bincount(labels)
    return np.ones(len(labels)) if class_weight is None else len(labels) / len(counts) / counts[labels]


def plain_ridge(x: np.ndarray, y: np.ndarray, w: np.ndarray, k: int, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    x, mean, onehot = x.astype(np.float64), np.average(x, axis=0, weights=w), np.eye(k)[y]
    centred, base = x - mean, np.average(onehot, axis=0, weights=w)
    gram = centred.T @ (w[:, None] * centred) + penalty * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, centred.T @ (w[:, None] * (onehot - base)))
    return weight, base - mean @ weight


def plain_lda(
    x: np.ndarray, y: np.ndarray, w: np.ndarray, k: int, shrinkage: float, mass: float, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """LDA as documented, with the normaliser and the level of the target given."""
    x = x.astype(np.float64)
    means = np.stack([np.average(x[y == c], axis=0, weights=w[y == c]) for c in range(k)])
    residual = x - means[y]
    covariance = (1 - shrinkage) * residual.T @ (w[:, None] * residual) / mass + shrinkage * level * np.eye(x.shape[1])
    weight = np.linalg.solve(covariance, means.T)
    prior = np.array([w[y == c].sum() for c in range(k)])
    return weight, np.log(prior / prior.sum()) - np.einsum("kd,dk->k", means, weight) / 2


def same_up_to_row_constant(a: np.ndarray, b: np.ndarray, tolerance: float = 2e-3) -> None:
    """Log-posteriors are compared up to the constant a row may add."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    assert np.abs(a - b).max() <= tolerance * max(1.0, np.abs(b).max())


# leave-one-out against refits without each image


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_leave_one_out_is_a_refit_without_each_image(
    shape: tuple[int, int, int], class_weight: str | None
) -> None:
    x, y = make(*shape)
    n, _, k = shape
    w = sample_weights(y, class_weight)
    strengths, logits = leave_one_out("ridge", x, y, k, strengths=[0.03, 1.0], class_weight=class_weight)
    centred = x - np.average(x, axis=0, weights=w)
    level = (w[:, None] * centred.astype(np.float64) ** 2).sum() / x.shape[1]
    for strength, found in zip(strengths, logits, strict=True):
        for i in range(0, n, 5):
            rest = np.arange(n) != i
            weight, bias = plain_ridge(x[rest], y[rest], w[rest], k, strength * level)
            np.testing.assert_allclose(found[i], x[i] @ weight + bias, atol=2e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("shape", SHAPES)
def test_lda_leave_one_out_is_a_refit_without_each_image(shape: tuple[int, int, int], class_weight: str | None) -> None:
    x, y = make(*shape)
    n, d, k = shape
    w = sample_weights(y, class_weight)
    strengths, logits = leave_one_out("lda", x, y, k, strengths=[0.1, 0.6, 1.0], class_weight=class_weight)
    means = np.stack([x[y == c].astype(np.float64).mean(0) for c in range(k)])
    level = (w[:, None] * (x - means[y]) ** 2).sum() / w.sum() / d
    for strength, found in zip(strengths, logits, strict=True):
        expected = np.empty((n, k))
        for i in range(n):
            rest = np.arange(n) != i
            weight, bias = plain_lda(x[rest], y[rest], w[rest], k, float(strength), w.sum(), level)
            expected[i] = x[i] @ weight + bias
        same_up_to_row_constant(found, expected)


# leave-one-group-out against refits without each group


GROUPED = [(60, 8, 3), (40, 90, 3), (30, 5, 2)]


def grouped(n: int) -> np.ndarray:
    """Groups of 1 to 9 images, mixed: some have more images than there are features, some fewer."""
    return np.random.default_rng(n).permutation(np.repeat(np.arange(n), np.arange(n) % 9 + 1)[:n])


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("shape", GROUPED)
def test_ridge_leave_groups_out_is_a_refit_without_each_group(
    shape: tuple[int, int, int], class_weight: str | None
) -> None:
    x, y = make(*shape)
    w, groups = sample_weights(y, class_weight), grouped(len(y))
    centred = x - np.average(x, axis=0, weights=w)
    level = (w[:, None] * centred.astype(np.float64) ** 2).sum() / x.shape[1]
    options = {"strengths": [0.03, 1.0], "class_weight": class_weight, "groups_N": groups}
    for strength, found in zip(*leave_one_out("ridge", x, y, shape[2], **options), strict=True):
        for group in np.unique(groups):
            rest = groups != group
            weight, bias = plain_ridge(x[rest], y[rest], w[rest], shape[2], strength * level)
            np.testing.assert_allclose(found[~rest], x[~rest] @ weight + bias, atol=2e-3)


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("shape", GROUPED)
def test_lda_leave_groups_out_is_a_refit_without_each_group(
    shape: tuple[int, int, int], class_weight: str | None
) -> None:
    x, y = make(*shape)
    w, groups = sample_weights(y, class_weight), grouped(len(y))
    means = np.stack([x[y == c].astype(np.float64).mean(0) for c in range(shape[2])])
    level = (w[:, None] * (x - means[y]) ** 2).sum() / w.sum() / x.shape[1]
    options = {"strengths": [0.1, 0.6, 1.0], "class_weight": class_weight, "groups_N": groups}
    for strength, found in zip(*leave_one_out("lda", x, y, shape[2], **options), strict=True):
        for group in np.unique(groups):
            rest = groups != group
            # `plain_lda` divides all of the covariance by one mass; the target's level is that of the whole set
            mass = w[rest].sum() if (~rest).sum() > 1 else w.sum()
            at = level * w.sum() / mass
            weight, bias = plain_lda(x[rest], y[rest], w[rest], shape[2], float(strength), mass, at)
            same_up_to_row_constant(found[~rest], x[~rest] @ weight + bias)


def test_a_class_in_one_group_is_floored_without_it() -> None:
    x, y = make(40, 6, 3)
    groups = np.where(y == 1, 100, np.arange(40))
    assert scorable(y, groups).tolist() == (y != 1).tolist()
    _, (found,) = leave_one_out("lda", x, y, 3, strengths=[0.3], groups_N=groups)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[y == 1, 1], found[y == 1][:, [0, 2]].min(1))


def test_classes_of_one_group_are_scored_with_the_group_left_in() -> None:
    """Without it, nothing would be known of the class, and all strengths would be as good as guessing."""
    x, y = make(90, 6, 3, spread=4.0)
    assert usable_groups(y, y) is None and usable_groups(y, np.arange(90) // 2) is not None
    empty = np.empty((0, 6), np.float32), np.empty(0, np.int64)
    found, rows = search_head(x, y, *empty, 3, kinds=("ridge", "lda"), groups_N=y)
    alone, expected = search_head(x, y, *empty, 3, kinds=("ridge", "lda"))
    assert (found.kind, found.strength) == (alone.kind, alone.strength)
    assert [row.loo_log_loss for row in rows] == [row.loo_log_loss for row in expected]


def test_whole_groups_choose_the_strength() -> None:
    """Features that recognise the patient are worth nothing without the patient: the penalty is the strongest."""
    rng, patients = np.random.default_rng(0), np.repeat(np.arange(60), 8)
    y = (np.arange(60) % 3)[patients]
    x = (3 * rng.normal(size=(60, 40))[patients] + rng.normal(size=(480, 40))).astype(np.float32)
    empty = np.empty((0, 40), np.float32), np.empty(0, np.int64)
    losses = []
    for groups in (None, patients):
        _, rows = search_head(x, y, *empty, 3, kinds=("ridge",), groups_N=groups)
        losses.append(min(row.loo_log_loss for row in rows))
    assert losses[0] < 0.7 and losses[1] > 0.95 * np.log(3)


# against scikit-learn


@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("shape", SHAPES)
def test_ridge_is_scikit_learns(shape: tuple[int, int, int], class_weight: str | None) -> None:
    from sklearn.linear_model import Ridge

    x, y = make(*shape)
    w = sample_weights(y, class_weight)
    centred = x - np.average(x, axis=0, weights=w)
    penalty = 0.1 * (w[:, None] * centred**2).sum() / x.shape[1]
    theirs = Ridge(alpha=penalty).fit(x.astype(np.float64), np.eye(shape[2])[y], sample_weight=w)
    ours = fit_head("ridge", x, y, shape[2], strength=0.1, class_weight=class_weight)
    np.testing.assert_allclose(ours.logits(x), theirs.predict(x), atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_lda_is_scikit_learns(shape: tuple[int, int, int]) -> None:
    """Its `shrinkage` standardises each class first; a covariance estimator without that is our definition."""
    from sklearn.covariance import EmpiricalCovariance
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    class Shrunk(EmpiricalCovariance):
        def fit(self, values: np.ndarray, _: None = None) -> Shrunk:
            covariance = np.cov(values.T, bias=True)
            level = np.trace(covariance) / len(covariance)
            self.covariance_ = 0.7 * covariance + 0.3 * level * np.eye(len(covariance))
            return self

    x, y = make(*shape)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Shrunk()).fit(x.astype(np.float64), y)
    margins = theirs.decision_function(x)
    ours = fit_head("lda", x, y, shape[2], strength=0.3).logits(x)
    if shape[2] == 2:
        np.testing.assert_allclose(ours[:, 1] - ours[:, 0], margins, atol=1e-2, rtol=1e-3)
    else:
        same_up_to_row_constant(ours, margins)


@pytest.mark.parametrize("strength", [1.0, 0.1, 0.001])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("shape", [(300, 20, 4), (40, 90, 3), (200, 10, 2)])
def test_logistic_reaches_scikit_learns_objective(
    shape: tuple[int, int, int], class_weight: str | None, strength: float
) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y = make(*shape)
    n, _, k = shape
    w = sample_weights(y, class_weight)
    centred = x - np.average(x, axis=0, weights=w)
    penalty = strength * (w[:, None] * centred.astype(np.float64) ** 2).sum() / w.sum() / x.shape[1]

    def objective(weight: np.ndarray, bias: np.ndarray) -> float:
        logits = x.astype(np.float64) @ weight + bias
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        return -np.average(log_p[np.arange(n), y], weights=w) + penalty / 2 * (weight**2).sum()

    c = (
        1 / (n * penalty) * (2 if k == 2 else 1)
    )  # two classes: one weight vector, which the penalty here sees as two halves
    theirs = LogisticRegression(C=c, tol=1e-8, max_iter=5000).fit(x.astype(np.float64), y, sample_weight=w)
    coef, intercept = theirs.coef_.T, theirs.intercept_
    if k == 2:
        coef, intercept = np.hstack([-coef, coef]) / 2, np.array([-intercept[0], intercept[0]]) / 2
    ours = fit_head("logistic", x, y, k, strength=strength, class_weight=class_weight)
    assert objective(ours.weight_DK.astype(np.float64), ours.bias_K) <= objective(coef, intercept) * (1 + 1e-4)


def test_nearest_class_mean_by_hand() -> None:
    x = np.array([[0.0, 0], [2, 0], [9, 0], [11, 0]], np.float32)
    head = fit_head("ncm", x, np.array([0, 0, 1, 1]), 2)
    logits = head.logits(np.array([[5.4, 0], [5.6, 0], [5.5, 7]], np.float32))
    assert logits.argmax(1)[:2].tolist() == [0, 1]
    assert logits[2, 0] == pytest.approx(logits[2, 1], rel=1e-4)


def test_best_temperature_is_scipys() -> None:
    from scipy.optimize import minimize_scalar

    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    logits = 5 * (np.eye(4)[y] + rng.normal(size=(200, 4)))
    weights = rng.uniform(0.5, 2, 200)

    def loss(log_factor: float) -> float:
        scaled = logits * np.exp(log_factor)
        return -np.average(
            (scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True))[np.arange(200), y], weights=weights
        )

    best = minimize_scalar(loss, bounds=(-6, 6), method="bounded")
    found, factor = tempered_log_loss(logits, y, weights)
    assert found == pytest.approx(best.fun, rel=1e-5)
    assert np.log(factor) == pytest.approx(best.x, abs=1e-2)
    assert tempered_log_loss(1000 * logits, y, weights)[0] == pytest.approx(found, rel=1e-5)


# the search


def test_search_takes_the_lowest_validation_log_loss_and_refit_keeps_the_choice() -> None:
    x, y = make(240, 16, 4)
    head, rows = search_head(x[:180], y[:180], x[180:], y[180:], 4)
    assert {row.kind for row in rows} == set(KINDS)
    chosen = min(
        (row for row in rows if row.kind == head.kind and row.strength == head.strength), key=lambda r: r.val_log_loss
    )
    others = {k: min(r.val_log_loss for r in rows if r.kind == k) for k in ("logistic", "blend", "ncm")}
    assert chosen.val_log_loss <= min(others.values())
    for kind in CLOSED:
        path = [row for row in rows if row.kind == kind]
        assert np.isfinite([row.loo_log_loss for row in path]).all()
        by_loo = min(path, key=lambda row: row.loo_log_loss)
        assert fit_head(kind, x[:180], y[:180], 4).strength == by_loo.strength
        assert chosen.val_log_loss <= by_loo.val_log_loss
    again = refit(head, x, y, 4)
    assert (again.kind, again.strength, again.parts) == (head.kind, head.strength, head.parts)
    assert again.weight_DK.dtype == again.bias_K.dtype == np.float32
    assert again.weight_DK.shape == (16, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_of_the_search_is_what_fitting_that_kind_gives(kind: str) -> None:
    """The search reads coefficients off the eigenbasis; `refit` solves directly. Both are the same model."""
    for n, d in ((150, 12), (40, 70)):
        x, y = make(n, d, 3)
        head, _ = search_head(x, y, *make(60, d, 3, seed=5), 3, kinds=[kind])
        assert head.kind == kind
        same_up_to_row_constant(
            refit(head, x, y, 3).logits(x), head.logits(x), 0.05 if kind in ("logistic", "blend") else 2e-3
        )


def test_search_without_validation_images_chooses_by_leave_one_out() -> None:
    x, y = make(90, 8, 3)
    head, rows = search_head(x, y, x[:0], y[:0], 3)
    best = min(rows, key=lambda row: row.loo_log_loss)
    assert (head.kind, head.strength) == (best.kind, best.strength)
    with pytest.raises(RecipeError) as error:
        search_head(x, y, x[:0], y[:0], 3, kinds=["logistic"])
    assert str(error.value) == (
        "kinds: logistic cannot be chosen without validation images.\n"
        "  Add 'ridge' or 'lda', which choose by leave-one-out, or give validation images."
    )


def test_two_hundred_classes() -> None:
    rng = np.random.default_rng(0)
    means, y = rng.normal(size=(200, 64)), np.arange(1200) % 200
    x = (means[y] + rng.normal(size=(1200, 64))).astype(np.float32)
    head, _ = search_head(x[:800], y[:800], x[800:], y[800:], 200)
    assert (head.logits(x[800:]).argmax(1) == y[800:]).mean() > 0.9


# cross-validation, for few images


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_cross_validation_takes_the_lowest_log_loss_and_fits_it_on_all_images(class_weight: str | None) -> None:
    x, y = make(90, 40, 3)
    folds = assign_folds(y, np.arange(90), 0)
    found = cross_validate(x, y, folds, 3, class_weight=class_weight)
    assert {row.kind for row in found.rows} == set(KINDS)
    best = min(found.rows, key=lambda row: row.log_loss)
    assert (found.head.kind, found.head.class_weight) == (best.kind, class_weight)
    assert found.head.strength == best.strength or (found.head.kind == "ncm" and np.isnan(best.strength))
    again = refit(found.head, x, y, 3)
    same_up_to_row_constant(again.logits(x), found.head.logits(x), 0.05)
    weights = sample_weights(y, class_weight)
    loss, _ = tempered_log_loss(found.logits_NK, y, weights, smoothing=1 / 92)
    assert loss == pytest.approx(best.log_loss, rel=1e-6)
    assert np.average(found.logits_NK.argmax(1) == y, weights=weights) == pytest.approx(best.accuracy)


@pytest.mark.parametrize("kind", ["ridge", "lda", "logistic", "ncm"])
def test_cross_validated_logits_are_those_of_fits_without_the_fold(kind: str) -> None:
    x, y = make(60, 8, 3)
    folds = assign_folds(y, np.arange(60), 0)
    found = cross_validate(x, y, folds, 3, kinds=[kind])
    strength = None if kind == "ncm" else found.head.strength
    for fold in range(5):
        held = folds == fold
        alone = fit_head(kind, x[~held], y[~held], 3, strength=strength).logits(x[held])
        same_up_to_row_constant(found.logits_NK[held], alone, 0.05 if kind == "logistic" else 2e-3)


def test_a_blend_is_the_mean_of_logistic_regression_and_the_best_lda_at_its_temperature() -> None:
    x, y = make(120, 10, 3)
    folds = assign_folds(y, np.arange(120), 0)
    found = cross_validate(x, y, folds, 3, kinds=["blend"])
    assert {row.kind for row in found.rows} == {"blend"}
    (first, strength, half), (second, shrinkage, scaled) = found.head.parts
    assert (first, second, half, strength) == ("logistic", "lda", 0.5, found.head.strength)
    lda = cross_validate(x, y, folds, 3, kinds=["lda"])
    assert shrinkage == lda.head.strength
    assert 2 * scaled == pytest.approx(tempered_log_loss(lda.logits_NK, y, smoothing=1 / 122)[1], rel=1e-3)


def test_an_image_whose_class_is_in_no_other_fold_is_not_scored() -> None:
    x, y = make(60, 8, 3)
    x, y = np.vstack([x, x[:1] + 4]), np.append(y, 3)
    folds = assign_folds(y, np.arange(61), 0)
    found = cross_validate(x, y, folds, 5)
    assert (found.logits_NK[-1] == 0).all() and found.logits_NK[:-1].any(1).all()
    assert found.head.weight_DK.shape == (8, 5)
    assert all(np.isfinite(row.log_loss) for row in found.rows)
    with pytest.raises(BadLabels) as error:
        cross_validate(x, y, y, 5)
    assert str(error.value) == "labels: no class is in two folds, so no head can be judged."


@pytest.mark.filterwarnings("error")
def test_constant_features_are_cross_validated_without_a_warning() -> None:
    y = np.random.default_rng(0).integers(0, 3, 31)
    x = np.full((31, 1), 18.8, np.float32)
    for class_weight in (None, "balanced"):
        found = cross_validate(x, y, assign_folds(y, np.arange(31), 0), 3, class_weight=class_weight)
        assert np.isfinite(found.logits_NK).all() and np.isfinite(found.head.weight_DK).all()
        assert all(row.log_loss == pytest.approx(np.log(3), rel=0.1) for row in found.rows)


def test_few_images_choose_better_by_cross_validation_than_by_a_validation_set() -> None:
    """Thirty samples of 64 images, of which a fourth is the validation set; both are judged on 400 others."""
    losses = []
    for seed in range(30):
        x, y = make(464, 60, 3, seed=seed)
        held = np.arange(464) >= 64
        one, _ = search_head(x[:48], y[:48], x[48:64], y[48:64], 3)
        other = cross_validate(x[:64], y[:64], assign_folds(y[:64], np.arange(64), seed), 3).head
        heads = (refit(one, x[:64], y[:64], 3), other)
        losses.append([tempered_log_loss(head.logits(x[held]), y[held])[0] for head in heads])
    by_validation, by_cross_validation = np.mean(losses, axis=0)
    assert by_cross_validation < 0.97 * by_validation


# awkward data


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n, d", [(60, 10), (20, 40)])
def test_constant_features_duplicate_rows_and_a_lonely_class_give_finite_heads(kind: str, n: int, d: int) -> None:
    x, y = make(n, d, 3)
    x, y = np.vstack([x, x[:5], x[:1] + 4]), np.concatenate([y, y[:5], [3]])
    x[:, ::3] = 7.0
    for class_weight in (None, "balanced"):
        head, rows = search_head(x, y, x, y, 5, kinds=[kind], class_weight=class_weight)
        assert np.isfinite(head.weight_DK).all() and np.isfinite(head.bias_K).all()
        assert np.isfinite([row.val_log_loss for row in rows]).all()
        assert np.abs(head.weight_DK[::3]).max() < 1e-6 * np.abs(head.weight_DK).max()
        assert (head.logits(x).argmax(1) != 4).all()  # class 4 has no image
        if kind in CLOSED:
            _, logits = leave_one_out(kind, x, y, 5, class_weight=class_weight)
            assert np.isfinite(logits).all()
            assert np.isfinite([row.loo_log_loss for row in rows]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_all_images_alone_in_their_class(kind: str) -> None:
    x = make(12, 5, 3)[0]
    head = fit_head(kind, x, np.arange(12), 12)
    assert np.isfinite(head.logits(x)).all()


def test_balanced_weights_raise_the_recall_of_the_rare_class() -> None:
    rng = np.random.default_rng(0)
    y = (np.arange(600) % 20 == 0).astype(int)
    x = (rng.normal(size=(600, 6)) + 1.2 * y[:, None]).astype(np.float32)
    for kind in ("ridge", "lda", "logistic", "blend"):
        plain, even = (fit_head(kind, x, y, 2, strength=0.1, class_weight=c) for c in (None, "balanced"))
        recall = [(head.logits(x).argmax(1) == 1)[y == 1].mean() for head in (plain, even)]
        assert recall[1] > recall[0] + 0.2
        assert refit(even, x, y, 2).class_weight == "balanced"


@settings(max_examples=15, deadline=None)
@given(kind=st.sampled_from(KINDS), power=st.integers(-10, 10), seed=st.integers(0, 99), wide=st.booleans())
def test_order_names_and_scale_of_the_data_do_not_matter(kind: str, power: int, seed: int, wide: bool) -> None:
    x, y = make(40, 60 if wide else 7, 3, seed)
    rng = np.random.default_rng(seed)
    expected = fit_head(kind, x, y, 3, strength=0.3).logits(x)
    rows, names = rng.permutation(40), rng.permutation(3)
    close = 0.03 if kind in ("logistic", "blend") else 5e-3
    same_up_to_row_constant(fit_head(kind, x[rows], y[rows], 3, strength=0.3).logits(x), expected, close)
    same_up_to_row_constant(fit_head(kind, x, names[y], 3, strength=0.3).logits(x)[:, names], expected, close)
    scaled = x * np.float32(2.0**power)
    same_up_to_row_constant(fit_head(kind, scaled, y, 3, strength=0.3).logits(scaled), expected, close)


@pytest.mark.parametrize("kind", KINDS)
def test_twice_the_same_is_the_same(kind: str) -> None:
    x, y = make(50, 9, 3)
    first, second = (search_head(x, y, x[::2], y[::2], 3, kinds=[kind])[0] for _ in range(2))
    assert (first.weight_DK == second.weight_DK).all() and (first.bias_K == second.bias_K).all()


# users' mistakes


def test_mistakes_are_named() -> None:
    x, y = make(30, 4, 3)
    holed = x.copy()
    holed[4, 2] = np.nan
    cases: list[tuple[type[Exception], str, object]] = [
        (
            RecipeError,
            "kind: 'rige' is not a kind of head, expected one of ridge, lda, logistic, blend, ncm.\n  Did you mean 'ridge'?",
            lambda: fit_head("rige", x, y, 3),
        ),
        (
            RecipeError,
            "strength: 1.5 for lda, expected above 0 and at most 1.",
            lambda: fit_head("lda", x, y, 3, strength=1.5),
        ),
        (RecipeError, "strength: 0 for ridge, expected above 0.", lambda: fit_head("ridge", x, y, 3, strength=0)),
        (RecipeError, "leave-one-out: kind 'ncm', expected 'ridge' or 'lda'.", lambda: leave_one_out("ncm", x, y, 3)),
        (
            RecipeError,
            "class_weight: 'even', expected None or 'balanced'.",
            lambda: fit_head("lda", x, y, 3, class_weight="even"),
        ),
        (BadLabels, "labels: 1 class among 30 images, expected at least 2.", lambda: fit_head("lda", x, 0 * y, 3)),
        (BadLabels, "labels: 2 among them, expected 0 to 1 for 2 classes.", lambda: fit_head("lda", x, y, 2)),
        (
            DataError,
            "features: row 4 has a value that is not finite.\n  Leave that image out.",
            lambda: fit_head("lda", holed, y, 3),
        ),
        (
            DataError,
            "features: shape (30, 4) with 29 labels, expected one row per label.",
            lambda: fit_head("lda", x, y[:-1], 3),
        ),
        (
            DataError,
            "features: shape (30, 3), expected (N, 4) for this head.",
            lambda: fit_head("lda", x, y, 3, strength=0.5).logits(x[:, :3]),
        ),
    ]
    for kind, message, call in cases:
        with pytest.raises(kind) as error:
            call()  # type: ignore[operator]
        assert str(error.value) == message


def test_importing_heads_stays_light() -> None:
    code = """if True:
        import sys, headstart.model.heads.search
        print(sorted({'torch', 'scipy', 'sklearn', 'openvino'} & set(sys.modules)))
    """
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_head_is_plain_arrays() -> None:
    head = LinearHead("ridge", np.eye(2, dtype=np.float32), np.array([0, 1], np.float32), 1.0)
    assert head.logits(np.array([[3.0, 4.0]])).tolist() == [[3.0, 5.0]]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kinds", [("lda", "logistic", "blend"), ("logistic",)])
def test_two_images_one_of_each_class(kinds: tuple[str, ...]) -> None:
    """Nothing is left of a class that is left out, so all are alike to what was fitted without it; no factor is best then."""
    rng = np.random.default_rng(0)
    values_ND, labels_N = rng.normal(0, 1, (4, 40)).astype(np.float32), np.array([0, 1, 0, 1])
    head, rows = search_head(values_ND[:2], labels_N[:2], values_ND[2:], labels_N[2:], 2, kinds=kinds)
    assert np.isfinite(head.logits(values_ND)).all()
    assert all(np.isfinite(row.val_log_loss) for row in rows)


@pytest.mark.filterwarnings("error")
def test_nearly_equal_logits_of_any_size_are_guesses() -> None:
    labels_N = np.array([0, 1, 2])
    for logits_NK in (np.zeros((3, 3)), np.full((3, 3), 1e30), np.full((3, 3), 7.0) + np.eye(3) * 1e-9):
        loss, factor = tempered_log_loss(logits_NK, labels_N)
        assert (round(loss, 6), factor) == (round(float(np.log(3)), 6), 1.0)
    loss, factor = tempered_log_loss(1e4 + np.eye(3)[[0, 1, 1]], labels_N, start=1e34)
    assert 0 < loss < np.log(3) and 0.1 < factor < 100
