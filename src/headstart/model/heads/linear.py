"""Fitting one linear head: ridge, LDA, nearest class mean, logistic regression, or a blend of the last with LDA.

What it does: fits the linear layer to put on a backbone. Ridge and LDA choose their strength by exact leave-one-out
log-loss, with one eigendecomposition for the whole path. Every head is one (D, K) matrix and a bias, whatever its kind,
so it fits a timm classifier layer. `headstart.model.heads.search` chooses among the kinds.

What it costs: `fit_head` on 6,000 x 1,280 features with 6 classes, 2 busy cores: ridge or LDA at a given strength
0.4-0.7 s, with the leave-one-out path from 1.8 s, logistic 2.6-3.0 s; an idle machine was 2 to 4 times as fast in
`benchmarks/head.py`. Memory: three float32 copies of the features.

When not to use it: if the features change (fine-tuning), or do not fit in memory.

Each log-loss here is at its own best temperature: heads are calibrated later, so the scale of logits does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.errors import BadLabels, DataError, RecipeError, near_names
from headstart.model.heads.leave_groups_out import (
    groups_of_several,
    lda_leave_groups_out,
    ridge_leave_groups_out,
    scorable,
)
from headstart.model.heads.logistic import fit_logistic, tempered_log_loss
from headstart.model.heads.spectrum import (
    Coordinates,
    Spectrum,
    coordinates,
    decompose,
    solve_lda,
    solve_ridge,
)

KINDS = ("ridge", "lda", "logistic", "blend", "ncm")
RIDGE_STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(-3, 2.6, 0.5))
LDA_STRENGTHS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0)
LOGISTIC_STRENGTHS = tuple(float(s) for s in 10.0 ** np.arange(-2, 1.1, 0.5))
USUAL_LOGISTIC, USUAL_LDA = 0.1, 0.3  # where the search starts
Coefficients = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """``logits = features @ weight_DK + bias_K``. `strength` is relative to the features' spread (see `fit_head`).

    A blend has `parts`: (kind, strength, factor) of each head that it sums; its `strength` is that of the logistic
    part.
    """

    kind: str
    weight_DK: np.ndarray  # float32
    bias_K: np.ndarray  # float32
    strength: float
    class_weight: str | None = None
    parts: tuple[tuple[str, float, float], ...] = ()

    def logits(self, features_ND: np.ndarray) -> np.ndarray:
        """Return logits, float32 (N, K), before any temperature."""
        if features_ND.ndim != 2 or features_ND.shape[1] != len(self.weight_DK):
            raise DataError(f"features: shape {features_ND.shape}, expected (N, {len(self.weight_DK)}) for this head.")
        return np.asarray(features_ND, np.float32) @ self.weight_DK + self.bias_K


def fit_head(
    kind: str,
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    n_classes: int,
    *,
    strength: float | None = None,
    class_weight: str | None = None,
) -> LinearHead:
    """Fit one head. `kind` and the meaning of `strength` (all unaffected by scaling features or repeating images):

    - ``ridge``: on one-hot targets, penalty = strength x mean eigenvalue of the total scatter, intercept free.
    - ``lda``: within-class covariance shrunk to ``(1 - s) S + s trace(S) / D I``, 0 < s <= 1, S with the 1/N
      normaliser (as scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s)`); priors are the classes'
      fractions. Friedman, Regularized Discriminant Analysis, JASA 84 (1989), eq. 18.
    - ``logistic``: mean log-loss + ``strength v / 2 ||weight||^2``, v the mean variance of a feature, intercept free;
      in scikit-learn's terms ``C = 1 / (N strength v)``.
    - ``ncm``: nearest class mean by Euclidean distance; no strength.
    - ``blend``: the mean of logistic (`strength`) and LDA logits, LDA at its own leave-one-out strength and
      temperature.

    `strength` None: by leave-one-out log-loss for ridge and LDA; 0.1 for logistic and blend, which `search_head` tunes.
    `class_weight` ``balanced`` gives every class the same total weight in sums, means, priors and scores. Raises
    BadLabels (fewer than 2 classes, labels out of range), DataError (shapes, non-finite), RecipeError (kind, strength).
    """
    check_kinds([kind])
    problem = prepare(features_ND, labels_N, n_classes, class_weight)
    if strength is not None:
        _check_strength(kind, strength)
    if kind == "blend":
        spectrum = decompose(problem.base)
        shrinkage, factor = best_loo(spectrum, "lda")
        parts = (("logistic", strength or USUAL_LOGISTIC, 0.5), ("lda", shrinkage, 0.5 * factor))
        return _fit_parts(problem, "blend", parts, None)
    if strength is None and kind in ("ridge", "lda"):
        strength = best_loo(decompose(problem.base), kind)[0]
    return _fit_parts(problem, kind, ((kind, USUAL_LOGISTIC if strength is None else strength, 1.0),), None)


def fit_parts(
    kind: str,
    parts: tuple[tuple[str, float, float], ...],
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    n_classes: int,
    *,
    class_weight: str | None = None,
) -> LinearHead:
    """Fit a head that is the sum of `parts`, as in `LinearHead.parts`. Raises like `fit_head`."""
    return _fit_parts(prepare(features_ND, labels_N, n_classes, class_weight), kind, parts, None)


def refit(head: LinearHead, features_ND: np.ndarray, labels_N: np.ndarray, n_classes: int) -> LinearHead:
    """Fit the same kind, strengths and class weights on other data, usually train + validation, without a search."""
    problem = prepare(features_ND, labels_N, n_classes, head.class_weight)
    parts = head.parts or ((head.kind, head.strength, 1.0),)
    return _fit_parts(problem, head.kind, parts, head if head.weight_DK.shape[1] == n_classes else None)


def leave_one_out(
    kind: str,
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    n_classes: int,
    *,
    strengths: Sequence[float] | None = None,
    class_weight: str | None = None,
    groups_N: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(strengths_S, logits_SNK)``, float32: logits of image i from a ``ridge`` or ``lda`` fitted without image i
    and, if `groups_N` is given, without its group.

    They are exact, for the cost of one decomposition, except that quantities which one image hardly changes keep their
    values for all images: the absolute penalty (ridge), the normaliser 1/N and the shrinkage target trace(S)/D (LDA),
    and the class weights (with groups, see `leave_groups_out`). There is no LDA without the only image of a class: its own
    class gets the smallest of its other logits. `each_leave_one_out` does not hold those of all strengths at once.
    """
    found = list(
        each_leave_one_out(
            kind, features_ND, labels_N, n_classes, strengths=strengths, class_weight=class_weight, groups_N=groups_N
        )
    )
    return np.array([strength for strength, _ in found]), np.stack([logits_NK for _, logits_NK in found])


def each_leave_one_out(
    kind: str,
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    n_classes: int,
    *,
    strengths: Sequence[float] | None = None,
    class_weight: str | None = None,
    groups_N: np.ndarray | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
    """Yield (strength, logits float32 (N, K)) for one strength after another, see `leave_one_out`.

    Together with scoring them by `tempered_log_loss`, that takes at most 39 bytes for each of N x K, whatever the number of
    strengths; 4 of them are the logits (10,000 x 500 and 5,000 x 1,000).
    """
    if kind not in ("ridge", "lda"):
        raise RecipeError(f"leave-one-out: kind {kind!r}, expected 'ridge' or 'lda'.")
    problem = prepare(features_ND, labels_N, n_classes, class_weight)
    chosen = tuple(strengths) if strengths is not None else _path(kind)
    for strength in chosen:
        _check_strength(kind, strength)
    for strength, logits_NK in zip(chosen, _loo(decompose(problem.base), kind, chosen, groups_N), strict=True):
        yield strength, problem.widen(logits_NK, problem.below(kind)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Problem:
    """Training features in solver coordinates. Classes without images are left out here and added back by `widen`."""

    base: Coordinates
    present: np.ndarray
    n_classes: int
    class_weight: str | None

    def widen(self, columns: np.ndarray, below: float = 0.0) -> np.ndarray:
        """Extend columns to all classes: an absent one gets the mean of the others minus `below`, so it never wins."""
        if len(self.present) == self.n_classes:
            return columns
        out = np.repeat(columns.mean(-1, keepdims=True) - below, self.n_classes, axis=-1)
        out[..., self.present] = columns
        return out

    def below(self, kind: str) -> float:
        """Return how far an absent class is below the mean logit: about the prior of half an image."""
        return 1.0 if kind == "ridge" else float(np.log(2 * len(self.base.labels_N)))

    def head(self, kind: str, coefficients: Coefficients, strength: float, parts: tuple = ()) -> LinearHead:
        """Make a head from `coefficients` of the present classes for raw features."""
        weight_DK, bias_K = self.widen(coefficients[0]), self.widen(coefficients[1], self.below(kind))
        return LinearHead(
            kind=kind,
            weight_DK=weight_DK.astype(np.float32),
            bias_K=bias_K.astype(np.float32),
            strength=strength,
            class_weight=self.class_weight,
            parts=parts,
        )

    def logits(self, kind: str, coefficients: Coefficients, projected_NR: np.ndarray) -> np.ndarray:
        """Return logits, float32 (N, K), of features in the coordinates of the coefficients."""
        weight_RK, offset_K = self.widen(coefficients[0]), self.widen(coefficients[1], self.below(kind))
        return (projected_NR @ weight_RK.astype(np.float32) + offset_K).astype(np.float32)

    def penalty(self, strength: float) -> float:
        """Return the penalty of the logistic objective in solver coordinates."""
        return strength * self.base.total_level / self.base.mass


def prepare(features_ND: np.ndarray, labels_N: np.ndarray, n_classes: int, class_weight: str | None) -> Problem:
    features_ND, labels_N = np.asarray(features_ND), np.asarray(labels_N)
    if features_ND.ndim != 2 or len(features_ND) != len(labels_N):
        raise DataError(f"features: shape {features_ND.shape} with {len(labels_N)} labels, expected one row per label.")
    if class_weight not in (None, "balanced"):
        raise RecipeError(f"class_weight: {class_weight!r}, expected None or 'balanced'.")
    present, compact_N = np.unique(labels_N, return_inverse=True)
    if len(present) < 2:
        raise BadLabels(f"labels: {len(present)} class among {len(labels_N)} images, expected at least 2.")
    if present[0] < 0 or present[-1] >= n_classes:
        wrong = present[0] if present[0] < 0 else present[-1]
        raise BadLabels(f"labels: {wrong} among them, expected 0 to {n_classes - 1} for {n_classes} classes.")
    base = coordinates(features_ND, compact_N, class_weights(compact_N, class_weight), len(present))
    if not np.isfinite(base.mean_D).all():
        row = int(np.flatnonzero(~np.isfinite(features_ND).all(1))[0])
        raise DataError(f"features: row {row} has a value that is not finite.", hint="Leave that image out.")
    return Problem(base, present, n_classes, class_weight)


def class_weights(labels_N: np.ndarray, class_weight: str | None) -> np.ndarray:
    """Return one weight per row, with mean 1."""
    if class_weight is None or not len(labels_N):
        return np.ones(len(labels_N))
    return balanced(np.bincount(labels_N))[labels_N]


def balanced(counts_K: np.ndarray) -> np.ndarray:
    """Return one weight per class, so that all classes with images weigh the same, and images 1 on average.

    >>> balanced(np.array([1, 3, 0]))
    array([2.        , 0.66666667, 2.        ])
    """
    weights_K: np.ndarray = counts_K.sum() / (np.count_nonzero(counts_K) * np.maximum(counts_K, 1))
    return weights_K


def _path(kind: str) -> tuple[float, ...]:
    return RIDGE_STRENGTHS if kind == "ridge" else LDA_STRENGTHS


def check_kinds(kinds: Sequence[str]) -> None:
    for kind in kinds:
        if kind not in KINDS:
            hint = near_names(kind, list(KINDS))
            raise RecipeError(f"kind: {kind!r} is not a kind of head, expected one of {', '.join(KINDS)}.", hint=hint)


def _check_strength(kind: str, strength: float) -> None:
    top = 1.0 if kind == "lda" else float("inf")
    if not 0 < strength <= top or strength == float("inf"):
        raise RecipeError(
            f"strength: {strength} for {kind}, expected above 0{' and at most 1' if kind == 'lda' else ''}."
        )


def _loo(
    spectrum: Spectrum, kind: str, strengths: Sequence[float], groups_N: np.ndarray | None
) -> Iterator[np.ndarray]:
    groups = [] if groups_N is None else groups_of_several(groups_N)
    method = ridge_leave_groups_out if kind == "ridge" else lda_leave_groups_out
    return method(spectrum, np.asarray(strengths), groups)


def loo_scores(
    spectrum: Spectrum, kind: str, groups_N: np.ndarray | None = None
) -> Iterator[tuple[float, float, float, float]]:
    """Yield (strength, accuracy, log-loss, factor) along the path, over the rows that leave-one-out can score."""
    base = spectrum.base
    keep = scorable(base.labels_N, groups_N)
    labels, weights = base.labels_N[keep], base.weights_N[keep]
    factor: float | None = None
    for strength, logits_NK in zip(_path(kind), _loo(spectrum, kind, _path(kind), groups_N), strict=True):
        logits = logits_NK[keep]
        loss, factor = tempered_log_loss(logits, labels, weights, start=factor, smoothing=1 / (len(labels) + 2))
        yield strength, float(np.average(logits.argmax(1) == labels, weights=weights)), loss, factor


def best_loo(spectrum: Spectrum, kind: str, groups_N: np.ndarray | None = None) -> tuple[float, float]:
    """Return (strength, factor) of the lowest leave-one-out log-loss."""
    best = min(loo_scores(spectrum, kind, groups_N), key=lambda score: score[2])
    return best[0], best[3]


def nearest_means(base: Coordinates, means_KR: np.ndarray) -> Coefficients:
    weight_RK = means_KR.T * (base.mass / base.within_level)
    return weight_RK, -np.einsum("kr,rk->k", means_KR, weight_RK) / 2


def _fit_parts(
    problem: Problem, kind: str, parts: tuple[tuple[str, float, float], ...], previous: LinearHead | None
) -> LinearHead:
    """Sum the parts' coefficients, each times its factor."""
    solved = [(factor, *_solve(problem, part, strength, previous)) for part, strength, factor in parts]
    weight_RK, offset_K = (sum(solved_part[0] * solved_part[i] for solved_part in solved) for i in (1, 2))
    raw = problem.base.unfold(np.asarray(weight_RK), np.asarray(offset_K))
    return problem.head(kind, raw, parts[0][1], parts if kind == "blend" else ())


def _solve(problem: Problem, kind: str, strength: float, previous: LinearHead | None) -> Coefficients:
    base = problem.base
    if kind == "ncm":
        return nearest_means(base, base.means_KR)
    if kind == "ridge":
        return solve_ridge(base, strength)
    if kind == "lda":
        return solve_lda(base, strength)
    if previous is not None and len(previous.weight_DK) == len(base.mean_D):
        start = base.fold(previous.weight_DK[:, problem.present], previous.bias_K[problem.present])
    else:
        weight_RK, offset_K = solve_lda(base, USUAL_LDA)
        start = weight_RK / 2, offset_K / 2
    penalty = problem.penalty(strength)
    inverse_RR = _curvature_inverse(base, penalty)
    fit = fit_logistic(
        base.values_NR,
        base.labels_N,
        base.weights_N,
        penalty,
        start,
        lambda g: inverse_RR @ g.astype(np.float32),
        tolerance=2e-3,
    )
    return fit.weight_DK, fit.offset_K


def _curvature_inverse(base: Coordinates, penalty: float) -> np.ndarray:
    """Approximate one class's inverse Hessian, with a mean p (1 - p) of 0.1 (0.02 to 0.2 cost the same)."""
    total_RR = base.within_RR + (base.means_KR.T * base.mass_K) @ base.means_KR
    curvature_RR = 0.1 / base.mass * total_RR + penalty * np.eye(len(total_RR))
    return np.linalg.inv(curvature_RR.astype(np.float32))
