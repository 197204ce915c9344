"""Kernel ridge regression on frozen features, for borders between classes that no linear layer can follow.

    kernel = kernel_features(features_ND)              # from training images; needs no labels
    head = search_head(kernel(train_ND), ..., kinds=("ridge",))
    layer = kernel.layer(head)

`KernelFeatures` turn an image's features into its nearness to C training images (a radial basis function, RBF), rotated
and scaled such that ridge regression on them is kernel ridge regression restricted to these centres ("subset of
regressors": Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, section 8.3.1). So the linear heads
of `model.heads.linear` fit it, with their exact leave-one-out. Distances are measured along the principal components of
the features.

What it costs: with 2,000 centres, 1 s for the map, and as much as a linear head on 2,000 columns (LOG.md); 8 KB of memory per
image. When not to use it: with fewer than about 1,000 images, where it gains little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.model.heads.kernel_layer import KernelLayer
from headstart.model.heads.linear import LinearHead
from headstart.model.heads.linear_layer import LinearLayer

CENTRES = 2_000
DIRECTIONS = 256
WIDTH = 1.0
"""The exponent at the median distance between two images. At 0.5, weights are four times as large and nearly cancel each
other: the same log-loss, but float32 is then no longer exact enough for an export."""

BLOCK = 1024  # images at a time: their distances to 2,000 centres take 16 MB
RIDGE = 1e-4
"""Added to the diagonal of the kernel matrix, so that equal images can be centres."""

SPARE = 16
ROUNDS = 3
"""More directions than are wanted, and rounds of subspace iteration. With these, the 256 directions keep 99.9 % of the
variance that the exact ones keep, and the last of them 90 % of its own (trash, intel-scenes)."""


@dataclass(frozen=True, eq=False)
class KernelFeatures:
    """`directions_DR` and `centres_RC` as in `KernelLayer`; `rotation_CC` float32 makes the kernel matrix of the centres the
    identity."""

    directions_DR: np.ndarray
    centres_RC: np.ndarray
    rotation_CC: np.ndarray

    def __call__(self, features_ND: np.ndarray) -> np.ndarray:
        """Return the kernel features of images, float32 (N, C)."""
        values_NC = np.empty((len(features_ND), len(self.rotation_CC)), np.float32)
        for start in range(0, len(features_ND), BLOCK):
            rows = slice(start, start + BLOCK)
            nearness_NC = _nearness(features_ND[rows] @ self.directions_DR, self.centres_RC)
            values_NC[rows] = nearness_NC.astype(np.float32) @ self.rotation_CC
        return values_NC

    def layer(self, head: LinearHead) -> KernelLayer:
        """Return the last layer for a head on these features."""
        kernel_CK = self.rotation_CC.astype(np.float64) @ head.weight_DK
        nothing_DK = np.zeros((len(self.directions_DR), len(head.bias_K)), np.float32)
        return KernelLayer(
            linear=LinearLayer(nothing_DK, head.bias_K),
            directions_DR=self.directions_DR,
            centres_RC=self.centres_RC,
            kernel_CK=kernel_CK.astype(np.float32),
        )


def kernel_features(features_ND: np.ndarray, *, seed: int = 0) -> KernelFeatures:
    """Return the kernel features with up to `CENTRES` of these images as centres, drawn with `seed`."""
    draw = np.random.default_rng(seed)
    directions_DR = principal_components(features_ND, DIRECTIONS, seed=seed)
    rows = np.sort(draw.permutation(len(features_ND))[:CENTRES])
    centres_CR = features_ND[rows] @ directions_DR
    apart = _squared_distances(centres_CR, centres_CR.T)[np.triu_indices(len(rows), 1)]
    scale = np.float32(np.sqrt(WIDTH / max(float(np.median(apart)), 1e-30)))
    centres_RC = np.ascontiguousarray((centres_CR * scale).T)
    kernel_CC = _nearness(centres_RC.T, centres_RC) + RIDGE * np.eye(len(rows))
    rotation_CC = np.linalg.inv(np.linalg.cholesky(kernel_CC)).T
    return KernelFeatures(directions_DR * scale, centres_RC, rotation_CC.astype(np.float32))


def principal_components(features_ND: np.ndarray, count: int, *, seed: int = 0) -> np.ndarray:
    """Return the main axes of the features, orthonormal columns float32 (D, R) with R at most `count`, widest first.

    By subspace iteration from a random start (Halko, Martinsson and Tropp 2011, algorithm 4.4): all axes of 2,000 columns
    would take ten times as long.
    """
    centred_ND = features_ND - features_ND.mean(0)
    count = min(count, *features_ND.shape)
    start = np.random.default_rng(seed).normal(size=(features_ND.shape[1], min(count + SPARE, features_ND.shape[1])))
    basis_DB = start.astype(np.float32)
    for _ in range(ROUNDS + 1):
        basis_DB = np.linalg.qr(centred_ND.T @ (centred_ND @ basis_DB))[0]
    within_NB = (centred_ND @ basis_DB).astype(np.float64)
    _, axes_BB = np.linalg.eigh(within_NB.T @ within_NB)
    found_DR: np.ndarray = (basis_DB @ axes_BB[:, ::-1][:, :count]).astype(np.float32)
    return found_DR


def _nearness(projected_NR: np.ndarray, centres_RC: np.ndarray) -> np.ndarray:
    return np.exp(-_squared_distances(projected_NR, centres_RC))


def _squared_distances(one_NR: np.ndarray, other_RC: np.ndarray) -> np.ndarray:
    """Return float64 (N, C)."""
    one_NR, other_RC = one_NR.astype(np.float64), other_RC.astype(np.float64)
    return np.maximum((one_NR**2).sum(1)[:, None] - 2 * one_NR @ other_RC + (other_RC**2).sum(0), 0)
