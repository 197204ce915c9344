"""`LinearLayer`: the last layer of a classifier, however it was fitted.

    logits_NK = layer(features_ND)

Closed-form fits return one, each ensemble member has one, and fine-tuning starts from one and returns one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """`weight_DK` float32 (D, K) and `bias_K` float32 (K,), for D features and K classes."""

    weight_DK: np.ndarray
    bias_K: np.ndarray

    def __call__(self, features_ND: np.ndarray) -> np.ndarray:
        """Return logits, float64 (N, K).

        >>> LinearLayer(np.eye(2, dtype=np.float32), np.array([0, 1], np.float32))(np.array([[2, 3]], np.float32))
        array([[2., 4.]])
        """
        logits_NK: np.ndarray = features_ND.astype(np.float64) @ self.weight_DK + self.bias_K
        return logits_NK

    def __repr__(self) -> str:
        return f"LinearLayer({len(self.weight_DK)} features, {len(self.bias_K)} classes)"

    def times(self, factor: float) -> LinearLayer:
        """Return the layer whose logits are `factor` times as large."""
        return LinearLayer((self.weight_DK * factor).astype(np.float32), (self.bias_K * factor).astype(np.float32))
