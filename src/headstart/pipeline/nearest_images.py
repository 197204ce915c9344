"""The training images most similar to a given one, by the cosine of their features, averaged over the backbones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def mean_cosines(asked: Sequence[np.ndarray], among: Sequence[np.ndarray]) -> np.ndarray:
    """Return float32 (M, N) from the features of M and of N images, one float32 (M, D) and one (N, D) per backbone."""
    cosines_MN: np.ndarray = np.mean([_unit(a) @ _unit(b).T for a, b in zip(asked, among, strict=True)], axis=0)
    return cosines_MN


def nearest(cosines_N: np.ndarray, sha256s: Sequence[str], own: str, n: int) -> tuple[tuple[int, float], ...]:
    """Return rows and cosines of the `n` most similar images, best first, excluding files identical to the image
    (`own`)."""
    order = [int(i) for i in np.argsort(-cosines_N, kind="stable") if sha256s[i] != own and np.isfinite(cosines_N[i])]
    return tuple((i, float(cosines_N[i])) for i in order[:n])


def _unit(features_ND: np.ndarray) -> np.ndarray:
    return features_ND / np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)
