"""`LinearLayer`: the last layer of a classifier, however it was fitted.

    logits_NK = layer(features_ND)

Closed-form fits return one, each ensemble member has one (or a `KernelLayer`, which adds to it), and fine-tuning starts
from one and returns one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """`weight_DK` float32 (D, K) and `bias_K` float32 (K,), for D features and K classes."""

    weight_DK: np.ndarray
    bias_K: np.ndarray

    def __call__(self, features_ND: np.ndarray) -> np.ndarray:
        """Return logits, float64 (N, K).

        Summed image by image in a fixed order (einsum, not a matrix product whose blocking depends on N), so that an
        image's logits do not depend on the other images.

        >>> LinearLayer(np.eye(2, dtype=np.float32), np.array([0, 1], np.float32))(np.array([[2, 3]], np.float32))
        array([[2., 4.]])
        """
        logits_NK: np.ndarray = (
            np.einsum("nd,dk->nk", features_ND.astype(np.float64), self.weight_DK.astype(np.float64)) + self.bias_K
        )
        return logits_NK

    def __repr__(self) -> str:
        return f"LinearLayer({len(self.weight_DK)} features, {len(self.bias_K)} classes)"

    @property
    def n_features(self) -> int:
        """D."""
        return len(self.weight_DK)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays of the layer, by name."""
        return {"weight": self.weight_DK, "bias": self.bias_K}

    def times(self, factor: float) -> LinearLayer:
        """Return the layer whose logits are `factor` times as large."""
        return LinearLayer((self.weight_DK * factor).astype(np.float32), (self.bias_K * factor).astype(np.float32))

    def plus(self, other: LinearLayer) -> LinearLayer:
        """Return the layer whose logits are the sum of both."""
        return LinearLayer(self.weight_DK + other.weight_DK, self.bias_K + other.bias_K)

    def slopes(self, features_ND: np.ndarray, classes_N: np.ndarray) -> np.ndarray:
        """Return how the logit of each image's class, minus the mean over classes, rises with its features, float64 (N, D)."""
        slopes_KD = (self.weight_DK - self.weight_DK.mean(1, keepdims=True)).T.astype(np.float64)
        slopes_ND: np.ndarray = slopes_KD[classes_N]
        return slopes_ND
