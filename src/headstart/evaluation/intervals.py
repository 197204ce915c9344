"""A number with its interval, and the ways to get one: Wilson's for proportions, the bootstrap for everything else.

No metric leaves headstart as a bare number: on 300 test images, 97.3 % and 98.3 % are the same result, and a reader
sees that from the intervals only. Wilson's interval costs nothing. The bootstrap redraws the *images* (with
replacement, all images alike), so an interval says how far the figure would move on another test set of this size
from the same source. It says nothing of other sources, other training sets or other seeds, and it is too narrow when
the test set holds near-duplicates of one another.

Bounds are two-sided and never exclude the value they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from headstart.io.result_repr import OneLineRepr, short_facts

BLOCK = 4_000_000  # bytes of one block of resampling weights
ALIKE = "Wilson-like bound, resamples alike"
_NORMAL = NormalDist()


@dataclass(frozen=True, repr=False)
class Estimate(OneLineRepr):
    """One figure: `value` with the bounds `low <= value <= high`, from `n` cases, by a named method.

    A figure that does not exist (the AUC of a class that no image has) has three NaNs and a method that starts with
    ``undefined:`` and says why; in JSON it has three nulls.

    >>> print(Estimate(0.978, 0.955, 0.990, 300, "Wilson"))
    0.978 [0.955, 0.990]
    >>> f"{Estimate(0.978, 0.955, 0.990, 300, 'Wilson'):.1%}"
    '97.8% [95.5%, 99.0%]'
    """

    value: float
    low: float
    high: float
    n: int
    method: str

    def __post_init__(self) -> None:
        if not (self.low <= self.value <= self.high or self.undefined):
            raise ValueError(f"Estimate: expected low <= value <= high, not {self.low}, {self.value}, {self.high}.")

    @property
    def undefined(self) -> bool:
        """Whether there is no such figure; `method` says why."""
        return math.isnan(self.value)

    def __format__(self, spec: str) -> str:
        if self.undefined:
            return "undefined"
        value, low, high = (format(x, spec or ".3f") for x in (self.value, self.low, self.high))
        return f"{value} [{low}, {high}]"

    def __str__(self) -> str:
        return format(self, "")

    def summary(self) -> str:
        """The value with its interval, cases and method."""
        return f"{self}, n = {self.n:,}, {self.method}"

    def facts(self) -> list[tuple[str, str]]:
        """Its fields."""
        return list(short_facts(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """A dict for `json.dump(..., allow_nan=False)`."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {k: None if math.isnan(x) else x for k, x in numbers.items()} | {"n": self.n, "method": self.method}

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Estimate:
        """What `to_json` wrote."""
        value, low, high = (math.nan if read[k] is None else float(read[k]) for k in ("value", "low", "high"))
        return cls(value, low, high, int(read["n"]), str(read["method"]))


def undefined(why: str, n: int = 0) -> Estimate:
    """The estimate of a figure that does not exist."""
    return Estimate(math.nan, math.nan, math.nan, n, f"undefined: {why}")


def quantile_of_normal(level: float) -> float:
    """Two-sided quantile z of the standard normal distribution: 1.96 for a level of 0.95."""
    return _NORMAL.inv_cdf(0.5 + level / 2)


def wilson(hits: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion of `hits` in `n` with the score interval (Wilson 1927; Brown, Cai and DasGupta 2001, section 3.1.1).

    It stays inside [0, 1] and has a width at 0 and at 1, where the textbook's normal interval has none.

    >>> print(wilson(300, 300))
    1.000 [0.987, 1.000]
    """
    if n == 0:
        return undefined("no cases")
    z2 = quantile_of_normal(level) ** 2
    p = hits / n
    centre = (hits + z2 / 2) / (n + z2)
    half = math.sqrt(z2) / (n + z2) * math.sqrt(n * p * (1 - p) + z2 / 4)
    return Estimate(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)), int(n), "Wilson")


def shrunk(value: float, n: float, level: float, worst: float, best: float) -> tuple[float, float]:
    """Bounds for a mean over `n` cases when resampling cannot give any, because all cases (or all resamples) are alike.

    z^2 (3.84 at 95 %) cases more that all go as badly, or as well, as a case can. For a proportion of 1 or 0 this is
    exactly Wilson's bound; it is its natural extension to other means that are limited by `worst` and `best`.
    """
    z2 = quantile_of_normal(level) ** 2
    bounds = [(n * value + z2 * end) / (n + z2) for end in (worst, best)]
    return min(value, *bounds), max(value, *bounds)


def skewness(influence_M: np.ndarray, weights_M: np.ndarray | None = None) -> float:
    """Sum of cubes over the sum of squares to 3/2, of centred influence values: six times BCa's acceleration."""
    if weights_M is None:
        weights_M = np.ones(len(influence_M))
    centred = influence_M - np.average(influence_M, weights=weights_M)
    squares = float(weights_M @ centred**2)
    return float(weights_M @ centred**3) / squares**1.5 if squares > 0 else 0.0


def bca(value: float, resampled_B: np.ndarray, skew: float, level: float) -> tuple[float, float] | None:
    """Bias-corrected and accelerated bootstrap bounds (Efron 1987; Efron and Tibshirani 1993, section 14.3).

    Resamples in which the figure does not exist (NaN) are left out. None when the others are all alike: then resampling
    knows nothing about the spread.
    """
    found = resampled_B[np.isfinite(resampled_B)]
    if found.size == 0 or np.ptp(found) <= 1e-12 * max(1.0, abs(value)):
        return None
    same = np.isclose(found, value, rtol=1e-10, atol=1e-13)
    below = np.count_nonzero((found < value) & ~same) + np.count_nonzero(same) / 2
    z0 = _NORMAL.inv_cdf(min(max(below, 0.5), found.size - 0.5) / found.size)
    z = quantile_of_normal(level)
    # A denominator near zero means that the tail is longer than the resamples can show: the last of them is the bound.
    ends = [z0 + (z0 + q) / max(1 - skew / 6 * (z0 + q), 0.05) for q in (-z, z)]
    low, high = np.quantile(found, [_NORMAL.cdf(e) for e in ends])
    return min(value, float(low)), max(value, float(high))


@dataclass(frozen=True)
class Resampling:
    """How to resample: the level of the intervals, the number of resamples, the source of chance."""

    level: float
    resamples: int
    rng: np.random.Generator

    def estimate(self, value: float, drawn_B: np.ndarray, skew: float, n: int, ends: tuple[float, float]) -> Estimate:
        """BCa bounds, or the bounds `ends` where all resamples, or nearly all, are alike."""
        bounds = bca(value, drawn_B, skew, self.level)
        if bounds is None or bounds[0] == bounds[1]:
            return Estimate(value, min(value, ends[0]), max(value, ends[1]), n, ALIKE)
        return Estimate(value, *bounds, n, f"BCa bootstrap, {self.resamples} resamples")


def resampling_weights(n: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of `n` cases is drawn, uint8 (n, b) with columns that sum to n; the b add up to `resamples`.

    Blocks are small (`BLOCK`), so memory does not grow with the number of resamples. A case is drawn about once on
    average; that one is drawn more than 255 times has a probability below 1e-500.
    """
    step = max(1, BLOCK // n)
    for start in range(0, resamples, step):
        weights_bn = np.empty((min(step, resamples - start), n), np.uint8)
        for row in weights_bn:
            row[:] = np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n)
        yield np.ascontiguousarray(weights_bn.T)
