"""The training images most similar to a given one, by the cosine of their features, averaged over the backbones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np


def mean_cosines(asked: Sequence[np.ndarray], units: Sequence[np.ndarray]) -> np.ndarray:
    """Return float32 (M, N) from the features of M images, one float32 (M, D) per backbone, and the `unit_rows` (N, D) of
    N images."""
    cosines_MN: np.ndarray = np.mean([unit_rows(a) @ b.T for a, b in zip(asked, units, strict=True)], axis=0)
    return cosines_MN


def unit_rows(features_ND: np.ndarray) -> np.ndarray:
    """Return each row divided by its length: a copy, to be made once for many queries."""
    return features_ND / np.maximum(np.linalg.norm(features_ND, axis=1, keepdims=True), 1e-12)


def nearest(cosines_N: np.ndarray, sha256s: Sequence[str], own: str, n: int) -> tuple[tuple[int, float], ...]:
    """Return rows and cosines of the `n` most similar images, best first, excluding files identical to the image
    (`own`)."""
    order = np.argsort(-cosines_N, kind="stable")
    others = (int(i) for i in order if sha256s[i] != own and np.isfinite(cosines_N[i]))
    return tuple((i, float(cosines_N[i])) for i in islice(others, n))
