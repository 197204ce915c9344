"""`KernelLayer`: a last layer that also looks at how near an image is to many training images.

    logits = linear(x) + sum over centres c of exp(-|x @ directions - c|^2) * weights of c

A linear layer has one direction per class; this one can follow classes that fall into several clusters, or whose border
is curved. `model.heads.kernel_features` fits one. Costs about 0.3 ms per image on one core with 2,000 centres, and 1 to 3 MB
per 1,000 centres on disk. When not to use it: where a plain dense layer is expected, as in timm's own networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from headstart.model.heads.linear_layer import LinearLayer

BLOCK = 256  # images at a time: their distances to 2,000 centres take 4 MB
KERNEL_ARRAYS = ("directions", "centres", "kernel")
"""Names of the arrays that a `LinearLayer` does not have."""


@dataclass(frozen=True, eq=False)
class KernelLayer:
    """A `linear` layer, and the weights of C centres for K classes, `kernel_CK` float32 (C, K).

    `directions_DR` float32 (D, R) project D features on R directions, scaled so that the squared distance is the exponent;
    `centres_RC` float32 (R, C) are training images that were projected in this way.
    """

    linear: LinearLayer
    directions_DR: np.ndarray
    centres_RC: np.ndarray
    kernel_CK: np.ndarray

    def __call__(self, features_ND: np.ndarray) -> np.ndarray:
        """Return logits, float64 (N, K); like those of a `LinearLayer`, they do not depend on the other images."""
        logits_NK: np.ndarray = self.linear(features_ND)
        for start in range(0, len(features_ND), BLOCK):
            rows = slice(start, start + BLOCK)
            near_NC = self._nearness(self._projected(features_ND[rows]))
            logits_NK[rows] += np.einsum("nc,ck->nk", near_NC, self._wide[2])
        return logits_NK

    def __repr__(self) -> str:
        return f"KernelLayer({self.linear!r}, {len(self.kernel_CK):,} centres)"

    @property
    def n_features(self) -> int:
        """D."""
        return self.linear.n_features

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """All arrays of the layer, by name."""
        own = (self.directions_DR, self.centres_RC, self.kernel_CK)
        return {**self.linear.arrays, **dict(zip(KERNEL_ARRAYS, own, strict=True))}

    def times(self, factor: float) -> KernelLayer:
        """Return the layer whose logits are `factor` times as large."""
        return replace(self, linear=self.linear.times(factor), kernel_CK=(self.kernel_CK * factor).astype(np.float32))

    def scaled(self, scale_D: np.ndarray) -> KernelLayer:
        """Return the layer for features whose columns this one expects to be multiplied by `scale_D` (D,)."""
        linear = replace(self.linear, weight_DK=self.linear.weight_DK * scale_D[:, None])
        return replace(self, linear=linear, directions_DR=self.directions_DR * scale_D[:, None])

    def plus(self, other: LastLayer) -> KernelLayer:
        """Return the layer whose logits are the sum of both. Raises `TypeError` if the other has a kernel too."""
        if not isinstance(other, LinearLayer):
            raise TypeError(f"two kernels cannot be one: {other!r}")
        return replace(self, linear=self.linear.plus(other))

    def slopes(self, features_ND: np.ndarray, classes_N: np.ndarray) -> np.ndarray:
        """Return how the logit of each image's class, minus the mean over classes, rises with its features, float64 (N, D).

        This is the gradient at these features.
        """
        directions_DR, centres_RC, kernel_CK = self._wide
        projected_NR = self._projected(features_ND)
        pull_NC = self._nearness(projected_NR) * (kernel_CK - kernel_CK.mean(1, keepdims=True)).T[classes_N]
        slopes_NR = 2 * (pull_NC @ centres_RC.T - pull_NC.sum(1, keepdims=True) * projected_NR)
        return self.linear.slopes(features_ND, classes_N) + slopes_NR @ directions_DR.T

    @cached_property
    def _wide(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The arrays in float64: converting them for each image would take longer than using them."""
        return tuple(each.astype(np.float64) for each in (self.directions_DR, self.centres_RC, self.kernel_CK))  # type: ignore[return-value]

    def _projected(self, features_ND: np.ndarray) -> np.ndarray:
        projected_NR: np.ndarray = np.einsum("nd,dr->nr", features_ND.astype(np.float64), self._wide[0])
        return projected_NR

    def _nearness(self, projected_NR: np.ndarray) -> np.ndarray:
        """Return 1 for an image at a centre, and nearly 0 far from it, float64 (N, C)."""
        centres_RC = self._wide[1]
        squares_N1 = np.einsum("nr,nr->n", projected_NR, projected_NR)[:, None]
        distance_NC = squares_N1 - 2 * np.einsum("nr,rc->nc", projected_NR, centres_RC) + (centres_RC**2).sum(0)
        return np.exp(-np.maximum(distance_NC, 0))


LastLayer = LinearLayer | KernelLayer
"""What a member of a classifier ends in."""


def last_layer(arrays: Mapping[str, np.ndarray], n_classes: int) -> LastLayer:
    """Return the layer that has these `arrays`. Raises `ValueError` if they do not fit together or the classes."""
    linear = LinearLayer(arrays["weight"], arrays["bias"])
    if linear.weight_DK.shape[1:] != (n_classes,) or linear.bias_K.shape != (n_classes,):
        raise ValueError(f"the last layer does not fit {n_classes} classes")
    own = [arrays[name] for name in KERNEL_ARRAYS if name in arrays]
    if not own:
        return linear
    if len(own) != len(KERNEL_ARRAYS) or any(array.ndim != 2 for array in own):
        raise ValueError("the kernel of the last layer is incomplete")
    directions_DR, centres_RC, kernel_CK = own
    if [*directions_DR.shape, *kernel_CK.shape] != [linear.n_features, *centres_RC.shape, n_classes]:
        raise ValueError(
            f"the kernel of the last layer does not fit {linear.n_features} features and {n_classes} classes"
        )
    return KernelLayer(linear, directions_DR, centres_RC, kernel_CK)
