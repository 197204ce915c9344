"""Multinomial logistic regression with an L2 penalty: a preconditioned L-BFGS in numpy.

What it does: minimises ``sum_i w_i nll_i / sum_i w_i + penalty / 2 * ||weight||^2``, intercepts unpenalised. The
logits are linear along a search direction, so a whole line search needs one product with the features, and an iteration
costs two.

What it costs: 2 N D K multiply-adds per iteration; 10 to 30 iterations from a good start with a good preconditioner (an
inverse of the regularised covariance: the fixed-Hessian bound of Boehning, Ann. Inst. Statist. Math. 44 (1992), section
2).

When not to use it: without that inverse, or for features that do not fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headstart.evaluation.probabilities import log_softmax

MEMORY = 8  # pairs that L-BFGS stores


@dataclass(frozen=True, eq=False)
class LogisticFit:
    weight_DK: np.ndarray
    offset_K: np.ndarray
    objective: float
    iterations: int


def tempered_log_loss(
    logits_NK: np.ndarray,
    labels_N: np.ndarray,
    weights_N: np.ndarray | None = None,
    *,
    start: float | None = None,
    smoothing: float = 0.0,
) -> tuple[float, float]:
    """Return the lowest mean log-loss of ``softmax(factor * logits)``, and its factor (1 / temperature).

    The method is safeguarded Newton on a convex function of one number. With `smoothing` the factor (not the loss) is
    optimal for labels that are wrong that often, like Platt's smoothed targets (1999, section 2.2); without it, a
    perfect separation has no finite optimum, and the search stops where the logits spread over 1e4. Equal logits have
    none either: the factor is 1 and the loss that of guessing. (`evaluation.calibration.fit_temperature`, which
    calibrates classifiers, smooths differently, in float64; this function compares heads, hundreds of times per
    search.)

    Three of four labels fit equal logits: the lowest loss is the entropy of (3/4, 1/4), at ``2 * factor = ln 3``.

    >>> loss, factor = tempered_log_loss(np.tile([2.0, 0.0], (4, 1)), np.array([0, 0, 0, 1]))
    >>> round(loss, 4), round(factor, 4)
    (0.5623, 0.5493)
    """
    logits = np.asarray(logits_NK, np.float32)
    size = float(np.abs(logits).max())
    logits = logits - logits.mean(1, keepdims=True)  # a large common offset would hide small differences
    spread = float(np.abs(logits).max())
    if spread <= 1e-6 * size:  # equal up to rounding
        return float(np.log(logits.shape[1])), 1.0
    share_N = (np.ones(len(labels_N)) if weights_N is None else weights_N).astype(np.float64)
    share_N /= share_N.sum()
    own_N = logits[np.arange(len(logits)), labels_N]
    target_N = (1 - smoothing) * own_N  # plus smoothing times their mean, which is 0
    low, high = 0.0, 1e4 / spread
    factor = (
        start if start is not None and low < start < high else 3 / spread
    )  # a factor from other logits may be far too large
    for _ in range(40):
        p = np.exp(log_softmax(np.float32(factor) * logits)) * logits
        mean_N = p.sum(1)
        first = float(share_N @ (mean_N - target_N))
        second = float(share_N @ ((p * logits).sum(1) - mean_N**2))
        low, high = (factor, high) if first < 0 else (low, factor)
        newton = factor - first / max(second, 1e-300)
        newton = newton if low < newton < high else min(2 * factor, (low + high) / 2)
        done, factor = abs(newton - factor) < 1e-3 * factor, newton
        if done or high - low < 1e-6 * high:
            break
    log_p = log_softmax(np.float32(factor) * logits)
    return -float(share_N @ log_p[np.arange(len(logits)), labels_N]), factor


def fit_logistic(
    values_ND: np.ndarray,
    labels_N: np.ndarray,
    weights_N: np.ndarray,
    penalty: float,
    start: tuple[np.ndarray, np.ndarray],
    precondition: Callable[[np.ndarray], np.ndarray],
    *,
    tolerance: float = 1e-3,
    max_iterations: int = 300,
) -> LogisticFit:
    """Minimise from `start` = (weight_DK, offset_K) on float32 `values_ND`, which should be centred.

    `precondition` maps a (D, K) gradient to roughly the Newton step. Stops when the decrease predicted by the quadratic
    model is below ``tolerance**2`` of the objective; in measurements the objective was then within 1e-5 (tolerance
    1e-3) or 3e-4 (1e-2) of the minimum. Method: Liu & Nocedal, Math. Programming 45 (1989); the two-loop recursion is
    algorithm 7.4 of Nocedal & Wright.
    """
    task = _LogisticLoss(values_ND, labels_N, (weights_N / weights_N.sum()).astype(np.float32), penalty)
    theta = np.vstack([start[0], start[1]]).astype(np.float64)
    logits = task.logits(theta)
    value, grad, spread = task.evaluate(logits, theta)
    pairs: list[tuple[np.ndarray, np.ndarray, float]] = []
    iteration = 0
    while iteration < max_iterations:
        direction = -_two_loop(grad, pairs, _scaled(precondition, spread))
        if float((direction * grad).sum()) > -(tolerance**2) * value:
            break
        iteration += 1
        move_NK = task.logits(direction)
        step = _line_search(task, logits, move_NK, theta, direction)
        moved, moved_NK = theta + step * direction, logits + np.float32(step) * move_NK
        reached, after, spread = task.evaluate(moved_NK, moved)
        if not reached < value:  # up to rounding, this is the minimum
            break
        theta, logits, value, before, grad = moved, moved_NK, reached, grad, after
        curvature = float((step * direction * (grad - before)).sum())
        if curvature > 0:
            pairs = [*pairs[-(MEMORY - 1) :], (step * direction, grad - before, curvature)]
    return LogisticFit(theta[:-1], theta[-1], value, iteration)


def _scaled(precondition: Callable[[np.ndarray], np.ndarray], spread: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return the initial inverse Hessian for weights and intercepts together."""
    return lambda grad: np.vstack([precondition(grad[:-1]), grad[-1:] / spread])


@dataclass(frozen=True, eq=False)
class _LogisticLoss:
    """The objective; `theta` stacks weight_DK over offset_K."""

    values_ND: np.ndarray
    labels_N: np.ndarray
    share_N: np.ndarray
    penalty: float

    def logits(self, theta: np.ndarray) -> np.ndarray:
        return self.values_ND @ theta[:-1].astype(np.float32) + theta[-1].astype(np.float32)

    def evaluate(self, logits_NK: np.ndarray, theta: np.ndarray) -> tuple[float, np.ndarray, float]:
        """Return objective, gradient, and the mean of p (1 - p), roughly the curvature along an intercept."""
        rows = np.arange(len(self.labels_N))
        log_p = log_softmax(logits_NK)
        loss = -float(self.share_N.astype(np.float64) @ log_p[rows, self.labels_N].astype(np.float64))
        slope_NK = np.exp(log_p)
        spread = float((self.share_N @ (slope_NK * (1 - slope_NK))).mean())
        slope_NK[rows, self.labels_N] -= 1
        slope_NK *= self.share_N[:, None]
        main = (self.values_ND.T @ slope_NK).astype(np.float64) + self.penalty * theta[:-1]
        value = loss + self.penalty / 2 * float((theta[:-1] ** 2).sum())
        return value, np.vstack([main, slope_NK.sum(0, dtype=np.float64)]), max(spread, 1e-3)


def _two_loop(
    grad: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray, float]], first: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return the negated L-BFGS direction; `first` is the initial inverse Hessian, rescaled to the last pair."""
    q, kept = grad.copy(), []
    for s, g, curvature in reversed(pairs):
        kept.append(float((s * q).sum()) / curvature)
        q -= kept[-1] * g
    r = first(q)
    if pairs:
        s, g, curvature = pairs[-1]
        r *= curvature / max(float((g * first(g)).sum()), 1e-300)
    for (s, g, curvature), a in zip(pairs, reversed(kept), strict=True):
        r += s * (a - float((g * r).sum()) / curvature)
    return r


def _line_search(
    task: _LogisticLoss, logits_NK: np.ndarray, move_NK: np.ndarray, theta: np.ndarray, direction: np.ndarray
) -> float:
    """Approximate the minimum along the line by safeguarded Newton steps on the convex one-dimensional objective."""
    cross, square = float((theta[:-1] * direction[:-1]).sum()), float((direction[:-1] ** 2).sum())
    target = float(task.share_N @ move_NK[np.arange(len(move_NK)), task.labels_N])
    t, low, high = 1.0, 0.0, np.inf
    for _ in range(10):
        p = np.exp(log_softmax(logits_NK + np.float32(t) * move_NK))
        p *= move_NK
        mean_N = p.sum(1)
        first = float(task.share_N @ mean_N) - target + task.penalty * (cross + t * square)
        second = float(task.share_N @ ((p * move_NK).sum(1) - mean_N**2)) + task.penalty * square
        low, high = (t, high) if first < 0 else (low, t)
        newton = min(t - first / max(second, 1e-300), 10 * t)  # both are rounding errors if the features are constant
        if not low < newton < high:
            newton = 2 * t if high == np.inf else (low + high) / 2
        if abs(newton - t) < 0.1 * t:
            return newton
        t = newton
    return t
