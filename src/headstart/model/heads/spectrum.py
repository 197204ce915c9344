"""One eigendecomposition of the features that gives ridge and LDA at every regularisation strength.

What it does: centres (and standardises) the features, subtracts the class means, and decomposes the residual, the
within-class scatter ``W = sum_i w_i r_i r_i'``. Ridge regression on one-hot targets and linear discriminant analysis
with a shrunk covariance both need only ``(W + c I)^-1`` for many c, and the total scatter that ridge inverts differs
from W by K-1 directions (Woodbury); so one `eigh` gives both whole paths, and for both the exact outputs for each image
of a model fitted without it.

What it costs: one Gram matrix, one eigh of min(N, D) squared, one rotation of the features; each strength then costs
O(N D K). Measured on 2 cores at 4,800 x 1,280 with 6 classes: see `benchmarks/head.py`. Memory: two float32 copies of
the features.

When not to use it: for one known strength, `solve_lda` and `solve_ridge` need no decomposition. Above a D of about
5,000 the eigh takes a minute; reduce the features first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

BLOCK = 1024  # rows per product: float32 inside a block, float64 across blocks
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Features in solver coordinates: centred, divided by their root mean square, at most min(N, D) columns.

    All sums are weighted by `weights_N`, and every class has at least one row. Rotation and one common scale do not
    change an L2 penalty, so nothing is lost here. (We tried dividing each feature by its own deviation: on one real
    dataset of 6 classes log-loss rose by 1-6 %; on a small one of 2 classes the effect was mixed.)
    """

    values_NR: np.ndarray  # float32
    labels_N: np.ndarray
    weights_N: np.ndarray  # float64, mean 1
    mean_D: np.ndarray  # float64
    scale: float  # 1 / root mean square of the centred features
    span_DR: np.ndarray | None  # orthonormal columns; None: the D features themselves
    mass_K: np.ndarray  # sum of weights of each class
    means_KR: np.ndarray  # float64 class means in these coordinates
    within_RR: np.ndarray  # float64 within-class scatter
    within_level: float  # its mean eigenvalue over all D directions; strengths are relative to it
    total_level: float  # the same for the total scatter

    @property
    def mass(self) -> float:
        return float(self.mass_K.sum())

    @property
    def count_K(self) -> np.ndarray:
        """The number of rows of each class."""
        return np.bincount(self.labels_N, minlength=len(self.mass_K))

    def project(self, features_ND: np.ndarray) -> np.ndarray:
        """Project new rows into these coordinates, float32 (N, R)."""
        values = _blocks(features_ND, self.mean_D, self.scale)
        return values if self.span_DR is None else values @ self.span_DR.astype(np.float32)

    def unfold(self, weight_RK: np.ndarray, offset_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn coefficients for these coordinates into float64 ``(weight_DK, bias_K)`` for raw features."""
        weight_DK = self.scale * (weight_RK if self.span_DR is None else self.span_DR @ weight_RK)
        return weight_DK, offset_K - self.mean_D @ weight_DK

    def fold(self, weight_DK: np.ndarray, bias_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Invert `unfold` for the component of `weight_DK` in the span of these features."""
        weight_DK = np.asarray(weight_DK, np.float64)
        inside = weight_DK if self.span_DR is None else self.span_DR.T @ weight_DK
        return inside / self.scale, bias_K + self.mean_D @ weight_DK


def coordinates(features_ND: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray, n_classes: int) -> Coordinates:
    """Centre, scale, and (when N < D) rotate the features into their span; each class 0..n_classes-1 needs a row."""
    count, dim = features_ND.shape
    parts = range(0, count, BLOCK)
    weighted_D = sum(weights_N[i : i + BLOCK] @ features_ND[i : i + BLOCK].astype(np.float64) for i in parts)
    mean_D = weighted_D / weights_N.sum()
    values = _blocks(features_ND, mean_D, 1.0)
    square = sum(float(np.einsum("nd,nd->", v := values[i : i + BLOCK].astype(np.float64), v)) for i in parts)
    scale = 1 / np.sqrt(max(square / max(values.size, 1), 1e-30))
    values *= np.float32(scale)
    span_DR = _span(values) if count < dim else None
    if span_DR is not None:
        values = (values @ span_DR).astype(np.float32)
    onehot_NK = np.eye(n_classes)[labels_N] * weights_N[:, None]
    mass_K = onehot_NK.sum(0)
    means_KR = (onehot_NK.T.astype(np.float32) @ values).astype(np.float64) / mass_K[:, None]
    within_RR = _scatter(values, labels_N, weights_N, means_KR)
    within, between = float(np.trace(within_RR)), float((mass_K[:, None] * means_KR**2).sum())
    return Coordinates(
        values_NR=values,
        labels_N=labels_N,
        weights_N=weights_N,
        mean_D=mean_D,
        scale=float(scale),
        span_DR=span_DR,
        mass_K=mass_K,
        means_KR=means_KR,
        within_RR=within_RR,
        within_level=max(within, 1e-9 * between, TINY) / dim,
        total_level=max(within + between, TINY) / dim,
    )


def _span(values_ND: np.ndarray) -> np.ndarray:
    """Return orthonormal columns float64 (D, R) that span the rows, from the eigenvectors of their Gram matrix.

    Directions with at most 1e-5 of the widest one's spread are left out: float32 features have no information there. A
    QR of the D x N matrix took 5 times as long (0.24 s at 400 x 1,280).
    """
    rows = values_ND.astype(np.float64)
    squares_N, vectors_NN = np.linalg.eigh(rows @ rows.T)
    kept = squares_N > 1e-10 * max(squares_N[-1], TINY)
    if not kept.any():
        return np.eye(values_ND.shape[1], 1)
    span_DR: np.ndarray = rows.T @ (vectors_NN[:, kept] / np.sqrt(squares_N[kept]))
    return span_DR


def _blocks(features_ND: np.ndarray, mean_D: np.ndarray, scale: float) -> np.ndarray:
    """Return ``(features - mean) * scale`` in float32, subtracted in float64 (a mean may far exceed the spread)."""
    out = np.empty(features_ND.shape, np.float32)
    for i in range(0, len(out), BLOCK):
        out[i : i + BLOCK] = (features_ND[i : i + BLOCK] - mean_D) * scale
    return out


def _scatter(values_NR: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray, means_KR: np.ndarray) -> np.ndarray:
    """Compute the weighted within-class scatter (R, R) in float64 from float32 products of `BLOCK` rows."""
    scatter = np.zeros((values_NR.shape[1],) * 2)
    means32 = means_KR.astype(np.float32)
    root_N = np.sqrt(weights_N).astype(np.float32)
    for start in range(0, len(values_NR), BLOCK):
        rows = slice(start, start + BLOCK)
        residual = (values_NR[rows] - means32[labels_N[rows]]) * root_N[rows, None]
        scatter += residual.T @ residual
    return scatter


@dataclass(frozen=True, eq=False)
class Spectrum:
    """`Coordinates` rotated into the eigenbasis of the within-class scatter."""

    base: Coordinates
    axes_RR: np.ndarray  # float64 eigenvectors in columns
    eigenvalues_R: np.ndarray  # float64, >= 0
    residuals_NR: np.ndarray  # float32, rows minus their class mean, rotated
    means_KR: np.ndarray  # float64 class means, rotated

    def values(self) -> np.ndarray:
        """The centred features in the eigenbasis, float32 (N, R)."""
        return self.residuals_NR + self.means_KR.astype(np.float32)[self.base.labels_N]

    def project(self, features_ND: np.ndarray) -> np.ndarray:
        return self.base.project(features_ND) @ self.axes_RR.astype(np.float32)

    def unfold(self, weight_RK: np.ndarray, offset_K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn coefficients in the eigenbasis into float64 ``(weight_DK, bias_K)`` for raw features."""
        return self.base.unfold(self.axes_RR @ weight_RK, offset_K)

    def variances(self) -> np.ndarray:
        """Variance of each eigenbasis column, including between classes; float64 (R,)."""
        return (self.eigenvalues_R + self.base.mass_K @ self.means_KR**2) / self.base.mass

    def lda(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Compute LDA's discriminants ``(weight_RK, offset_K)`` in the eigenbasis."""
        return lda_coefficients(self.base, self.means_KR, self.means_KR.T / self.shrunk(strength)[:, None])

    def ridge(self, strength: float) -> tuple[np.ndarray, np.ndarray]:
        """Compute ridge on one-hot targets, ``(weight_RK, offset_K)`` in the eigenbasis."""
        solved_RK = self.means_KR.T / (self.eigenvalues_R + strength * self.base.total_level)[:, None]
        return ridge_coefficients(self.base, self.means_KR, solved_RK)

    def shrunk(self, strength: float) -> np.ndarray:
        """Return LDA's variance of each eigenbasis column, float64 (R,)."""
        return ((1 - strength) * self.eigenvalues_R + strength * self.base.within_level) / self.base.mass

    def lda_leave_one_out(self, strengths: np.ndarray) -> Iterator[np.ndarray]:
        """Yield per strength each image's log-posterior (up to a constant per row) without it, float64 (N, K).

        Removing image i (weight w, class y of mass s) moves its class mean by -w/(s-w) r, its prior to s-w, and takes
        ``w s/(s-w) r r'`` out of the scatter; Sherman-Morrison gives the inverse. The normaliser and the level of the
        shrinkage target keep their values for all images. A class with one image has no model without it: for that
        class, the image gets the smallest of its other outputs, so that all values are finite; leave such rows out of
        averages (`leave_groups_out.scorable`).
        """
        base, alone = self.base, _alone(self.base)
        diagonals = np.stack([1 / self.shrunk(s) for s in strengths])
        for s, d_R, quad_N in zip(strengths, diagonals, self._quadratic(diagonals), strict=True):
            logits_NK, gram_KK = self._cross(d_R)
            for start in range(0, len(logits_NK), BLOCK):  # in blocks, and in place: a dozen arrays (N, K) are many GB
                block = slice(start, start + BLOCK)
                logits_NK[block] = self._lda_without_itself(
                    s, block, logits_NK[block], gram_KK, quad_N=quad_N[block], alone_N=alone[block]
                )
            yield _floor_alone(logits_NK, base.labels_N, alone)

    def _lda_without_itself(
        self,
        strength: float,
        block: slice,
        cross_NK: np.ndarray,
        gram_KK: np.ndarray,
        *,
        quad_N: np.ndarray,
        alone_N: np.ndarray,
    ) -> np.ndarray:
        """Return the log-posteriors of a block of images, each without itself; arrays (N, ...) are of these images."""
        base, y = self.base, self.base.labels_N[block]
        rows, weight_N, mass_N = np.arange(len(y)), base.weights_N[block], base.mass_K[y]
        rest_N = np.where(alone_N, 1.0, mass_N - weight_N)
        prior_NK = np.tile(np.log(base.mass_K), (len(y), 1))
        prior_NK[rows, y] = np.log(rest_N)
        c_N = (1 - strength) / base.mass * weight_N * mass_N / rest_N  # A' = A - c r r'
        left_N = np.maximum(1 - c_N * quad_N, 1e-9)
        diag_K = np.diag(gram_KK)
        reach_NK = quad_N[:, None] + cross_NK[rows, y][:, None] - cross_NK  # r' P (x - m_k)
        apart_NK = diag_K[y][:, None] - 2 * gram_KK[y] + diag_K  # (m_y - m_k)' P (m_y - m_k)
        distance_NK = 2 * reach_NK - quad_N[:, None] + apart_NK + c_N[:, None] * reach_NK**2 / left_N[:, None]
        distance_NK[rows, y] = (mass_N / rest_N) ** 2 * quad_N / left_N
        return prior_NK - distance_NK / 2

    def ridge_leave_one_out(self, strengths: np.ndarray) -> Iterator[np.ndarray]:
        """Yield per strength the outputs for image i of ridge fitted without image i, float64 (N, K).

        The residual is divided by one minus the leverage, intercept included: Hastie, Tibshirani, Friedman, Elements of
        Statistical Learning (2nd ed.), eq. 7.64, and Rifkin & Lippert, Notes on Regularized Least Squares (2007),
        section 4. big_vision's few-shot evaluator (evaluators/fewshot_lsr.py) uses the same one-eigh path, without
        leave-one-out.
        """
        base, y = self.base, self.base.labels_N
        onehot_NK = np.eye(len(base.mass_K))[y]
        diagonals = np.stack([1 / (self.eigenvalues_R + s * base.total_level) for s in strengths])
        root_K = np.sqrt(base.mass_K)
        for d_R, quad_N in zip(diagonals, self._quadratic(diagonals), strict=True):
            cross_NK, gram_KK = self._cross(d_R)
            inner_KK = (
                np.eye(len(root_K)) + root_K[:, None] * gram_KK * root_K
            )  # Woodbury: total = within + means' mass means
            scores_NK = (cross_NK + gram_KK[y]) * root_K  # z' P M' S^1/2
            solved_NK = np.linalg.solve(inner_KK, scores_NK.T).T
            spread_N = quad_N + 2 * cross_NK[np.arange(len(y)), y] + np.diag(gram_KK)[y]  # z' P z
            leverage_N = base.weights_N * (1 / base.mass + spread_N - (scores_NK * solved_NK).sum(1))
            fit_NK = solved_NK * root_K + base.mass_K / base.mass
            yield onehot_NK - (onehot_NK - fit_NK) / np.maximum(1 - leverage_N, 1e-9)[:, None]

    def _quadratic(self, diagonals_SR: np.ndarray) -> np.ndarray:
        """Compute r' diag(d) r for every residual, float64 (S, N)."""
        weights = diagonals_SR.T.astype(np.float32)
        out = np.empty((len(diagonals_SR), len(self.residuals_NR)))
        for start in range(0, out.shape[1], BLOCK):
            out[:, start : start + BLOCK] = (self.residuals_NR[start : start + BLOCK] ** 2 @ weights).T
        return out

    def _cross(self, d_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute r' diag(d) m_k for every residual (N, K), and the same between class means (K, K); float64."""
        scaled_RK = d_R[:, None] * self.means_KR.T
        return (self.residuals_NR @ scaled_RK.astype(np.float32)).astype(np.float64), self.means_KR @ scaled_RK


def decompose(base: Coordinates) -> Spectrum:
    """Compute the eigenbasis of the within-class scatter, in float64: float32 eigh was no faster when measured."""
    values, axes_RR = np.linalg.eigh(base.within_RR)
    means_KR = base.means_KR @ axes_RR
    residuals = base.values_NR - base.means_KR.astype(np.float32)[base.labels_N]
    return Spectrum(
        base=base,
        axes_RR=axes_RR,
        eigenvalues_R=np.maximum(values, 0),
        residuals_NR=residuals @ axes_RR.astype(np.float32),
        means_KR=means_KR,
    )


def solve_lda(base: Coordinates, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve LDA with covariance ``((1 - s) W + s level I) / mass`` for one strength, without a decomposition."""
    shrunk_RR = (
        (1 - strength) * base.within_RR + strength * base.within_level * np.eye(len(base.within_RR))
    ) / base.mass
    return lda_coefficients(base, base.means_KR, np.linalg.solve(shrunk_RR, base.means_KR.T))


def solve_ridge(base: Coordinates, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve ridge with penalty ``strength * mean eigenvalue of the total scatter``, without a decomposition."""
    shifted_RR = base.within_RR + strength * base.total_level * np.eye(len(base.within_RR))
    return ridge_coefficients(base, base.means_KR, np.linalg.solve(shifted_RR, base.means_KR.T))


def lda_coefficients(base: Coordinates, means_KR: np.ndarray, solved_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and offsets from ``solved_RK = A^-1 M'``: x' A^-1 m - m' A^-1 m / 2 + log prior."""
    return solved_RK, np.log(base.mass_K / base.mass) - np.einsum("kr,rk->k", means_KR, solved_RK) / 2


def ridge_coefficients(base: Coordinates, means_KR: np.ndarray, solved_RK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ridge's weights and offsets from ``solved_RK = (W + c I)^-1 M'`` (Woodbury over means)."""
    root_K = np.sqrt(base.mass_K)
    inner_KK = np.eye(len(root_K)) + root_K[:, None] * (means_KR @ solved_RK) * root_K
    return np.linalg.solve(inner_KK, (solved_RK * root_K).T).T * root_K, base.mass_K / base.mass


def _alone(base: Coordinates) -> np.ndarray:
    return (base.count_K == 1)[base.labels_N]


def _floor_alone(logits_NK: np.ndarray, labels_N: np.ndarray, alone_N: np.ndarray) -> np.ndarray:
    for i in np.flatnonzero(alone_N):
        logits_NK[i, labels_N[i]] = np.delete(logits_NK[i], labels_N[i]).min()
    return logits_NK
