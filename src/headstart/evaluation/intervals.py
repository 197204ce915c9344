"""Estimates with intervals: Wilson's for proportions, the bootstrap for everything else.

headstart reports no metric as a bare number: on 300 test images, 97.3 % and 98.3 % are the same result, and only the
intervals show it. Wilson's interval costs nothing. The bootstrap resamples the *images* (with replacement, all with
equal probability), so an interval tells how far the figure would move on another test set of this size from the same
source. It says nothing about other sources, other training sets or other seeds, and it is too narrow if images depend on
each other (near-duplicates, one patient) without being in one group.

Images of one group are not independent. If there are such groups, proportions get Wilson's interval for the number of
independent images that would vary as much (`grouped_wilson`). All else gets the interval of Student's t (`t_bounds`), with a
standard error from resampling whole groups (Davison and Hinkley 1997, section 3.8): quantiles of a few resampled groups are
too near each other. In simulated test sets of 8 or 20 groups of 15 images, with an accuracy that varies from group to group,
95 % intervals held the true value in 90 to 100 % of cases (by such quantiles, in 75 to 98 %); Wilson's interval over images
held the true accuracy in 66 %. Where all images of a group are of one class, two fall short (86 %): the mean area under the
ROC curve if it is near 1, and macro F1 over 8 groups, where a class may be missing (LOG.md).

Bounds are two-sided and never exclude the value they belong to.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from headstart.evaluation.image_groups import ImageGroups, counted_groups
from headstart.io.result_repr import OneLineRepr, short_facts

BLOCK = 4_000_000  # bytes per block of resampling weights
MOST_EXPONENT = 700.0  # exp of more is infinite
ALIKE = "Wilson-like bound, resamples alike"
_NORMAL = NormalDist()


@dataclass(frozen=True, repr=False)
class Estimate(OneLineRepr):
    """One figure: `value` with bounds `low <= value <= high`, from `n` cases, by a named method.

    An undefined figure (the AUC of a class without images) has three NaNs and a method that starts with ``undefined:``
    and gives the reason; in JSON it has three nulls.

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
        """Whether the figure is undefined; `method` gives the reason."""
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
        """Return a dict for `json.dump(..., allow_nan=False)`."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {k: None if math.isnan(x) else x for k, x in numbers.items()} | {"n": self.n, "method": self.method}

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Estimate:
        """Invert `to_json`."""
        value, low, high = (math.nan if read[k] is None else float(read[k]) for k in ("value", "low", "high"))
        return cls(value=value, low=low, high=high, n=int(read["n"]), method=str(read["method"]))


def undefined(why: str, n: int = 0) -> Estimate:
    """Return the estimate of an undefined figure."""
    return Estimate(value=math.nan, low=math.nan, high=math.nan, n=n, method=f"undefined: {why}")


def quantile_of_normal(level: float) -> float:
    """Return the two-sided quantile z of the standard normal distribution: 1.96 for a level of 0.95."""
    return _NORMAL.inv_cdf(0.5 + level / 2)


def wilson(hits: int, n: int, level: float = 0.95) -> Estimate:
    """Return the proportion `hits` / `n` with its score interval (Wilson 1927; Brown, Cai and DasGupta 2001, 3.1.1).

    It stays within [0, 1] and has a width at 0 and at 1, where the textbook normal interval has none.

    >>> print(wilson(300, 300))
    1.000 [0.987, 1.000]
    """
    if n == 0:
        return undefined("no cases")
    p = hits / n
    low, high = _score_bounds(hits, n, p, level)
    return Estimate(value=p, low=low, high=high, n=int(n), method="Wilson")


def _score_bounds(hits: float, n: float, p: float, level: float) -> tuple[float, float]:
    z2 = quantile_of_normal(level) ** 2
    centre = (hits + z2 / 2) / (n + z2)
    half = math.sqrt(z2) / (n + z2) * math.sqrt(n * p * (1 - p) + z2 / 4)
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def quantile_of_t(level: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's t distribution: 2.09 for a level of 0.95 and 19 degrees of freedom.

    By halving over its closed form (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4); that of the normal distribution from
    1,000 degrees on, where they differ by less than 0.2 %.
    """
    if freedom >= 1000:
        return quantile_of_normal(level)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within_t(middle, freedom) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within_t(angle: float, freedom: int) -> float:
    """Return the probability of |t| <= tan(angle) * sqrt(freedom)."""
    odd, cosine = freedom % 2, math.cos(angle)
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return 2 / math.pi * (angle + (math.sin(angle) * total if freedom > 1 else 0.0))
    return math.sin(angle) * total


def grouped_wilson(hits_G: np.ndarray, cases_G: np.ndarray, level: float = 0.95) -> Estimate:
    """Return a proportion with Wilson's interval for dependent cases, from the hits and the cases of each group.

    The number of cases is divided by the design effect: how many times as large the variance between groups makes that of
    the proportion (Rao and Scott 1992, section 2), at least 1; and by the square of the ratio of the quantiles of Student's
    t and the normal distribution (Korn and Graubard 1998). Few hits, or few misses, say little about the design
    effect; so, as if there had been one more, it is averaged with its largest value, that of groups whose cases are all
    alike. Without a miss, each group of equal size counts as one case.

    >>> print(grouped_wilson(np.full(20, 15), np.full(20, 15)))
    1.000 [0.820, 1.000]
    """
    hits_G, cases_G = hits_G[cases_G > 0].astype(np.float64), cases_G[cases_G > 0].astype(np.float64)
    hits, n, groups = float(hits_G.sum()), float(cases_G.sum()), len(cases_G)
    if not groups:
        return undefined("no cases")
    p, few, most = hits / n, min(hits, n - hits), float((cases_G**2).sum()) / n
    spread = float(((hits_G - p * cases_G) ** 2).sum()) * groups / max(groups - 1, 1)
    effect = max(1.0, (few * spread / (n * p * (1 - p)) + most) / (few + 1)) if few else most
    ratio = quantile_of_t(level, max(groups - 1, 1)) / quantile_of_normal(level)
    alike = n / effect / ratio**2
    low, high = _score_bounds(p * alike, alike, p, level)
    method = f"Wilson at the effective n of {counted_groups(groups)} (Rao-Scott)"
    return Estimate(value=p, low=low, high=high, n=int(n), method=method)


def proportion(hits_N: np.ndarray, among_N: np.ndarray, groups: ImageGroups | None, level: float = 0.95) -> Estimate:
    """Return the fraction of the cases `among_N` that are hits, both bool (N,), over groups if there are any."""
    hits_N = hits_N & among_N
    if groups is None:
        return wilson(int(hits_N.sum()), int(among_N.sum()), level)
    return grouped_wilson(groups.sums(hits_N), groups.sums(among_N), level)


def t_bounds(value: float, error: float, freedom: int, span: tuple[float, float], level: float) -> tuple[float, float]:
    """Return bounds from a standard error by Student's t, on the scale of log-odds between the ends of `span`, or of
    logarithms if its upper end is infinite. So they stay within the span, and are longer towards its middle.

    >>> print(*(f"{bound:.3f}" for bound in t_bounds(0.95, 0.02, 19, (0.0, 1.0), 0.95)))
    0.887 0.979
    """
    (least, most), t = span, quantile_of_t(level, freedom)
    below, above = value - least, most - value
    if math.isinf(most):
        factor = math.exp(min(t * error / below, MOST_EXPONENT))
        return least + below / factor, least + below * factor
    width = most - least
    factor = math.exp(min(t * error * width / (below * above), MOST_EXPONENT))
    low, high = (least + width * below * f / (below * f + above) for f in (1 / factor, factor))
    return low, high


def shrunk(value: float, n: float, level: float, worst: float, best: float) -> tuple[float, float]:
    """Return bounds for a mean over `n` cases if all cases (or all resamples) are alike, so resampling gives none.

    They assume z^2 (3.84 at 95 %) more cases, all as bad, or as good, as possible. For a proportion of 1 or 0 this is
    exactly Wilson's bound; it extends naturally to other means bounded by `worst` and `best`.
    """
    z2 = quantile_of_normal(level) ** 2
    bounds = [(n * value + z2 * end) / (n + z2) for end in (worst, best)]
    return min(value, *bounds), max(value, *bounds)


def skewness(influence_M: np.ndarray, weights_M: np.ndarray | None = None) -> float:
    """Return the sum of cubes over the sum of squares^(3/2) of centred influences: six times BCa's acceleration."""
    if weights_M is None:
        weights_M = np.ones(len(influence_M))
    centred = influence_M - np.average(influence_M, weights=weights_M)
    squares = float(weights_M @ centred**2)
    return float(weights_M @ centred**3) / squares**1.5 if squares > 0 else 0.0


def bca(value: float, resampled_B: np.ndarray, skew: float, level: float) -> tuple[float, float] | None:
    """Return bias-corrected and accelerated bootstrap bounds (Efron 1987; Efron and Tibshirani 1993, section 14.3).

    Resamples in which the figure is undefined (NaN) are left out. None if all others are alike: resampling then says
    nothing about the spread.
    """
    finite_B = resampled_B[np.isfinite(resampled_B)]
    if finite_B.size == 0 or np.ptp(finite_B) <= 1e-12 * max(1.0, abs(value)):
        return None
    same = np.isclose(finite_B, value, rtol=1e-10, atol=1e-13)
    below = np.count_nonzero((finite_B < value) & ~same) + np.count_nonzero(same) / 2
    z0 = _NORMAL.inv_cdf(min(max(below, 0.5), finite_B.size - 0.5) / finite_B.size)
    z = quantile_of_normal(level)
    # A denominator near zero means a tail longer than the resamples can show: the last of them is the bound.
    ends = [z0 + (z0 + q) / max(1 - skew / 6 * (z0 + q), 0.05) for q in (-z, z)]
    low, high = np.quantile(finite_B, [_NORMAL.cdf(e) for e in ends])
    return min(value, float(low)), max(value, float(high))


@dataclass(frozen=True)
class Resampling:
    """How to resample: level of the intervals, number of resamples, random generator; and the groups of the cases, None
    if each is on its own."""

    level: float
    resamples: int
    rng: np.random.Generator
    groups: ImageGroups | None = None

    def estimate(
        self,
        value: float,
        drawn_B: np.ndarray,
        skew: float,
        n: int,
        ends: tuple[float, float],
        *,
        span: tuple[float, float] = (0.0, 1.0),
        groups: int | None = None,
    ) -> Estimate:
        """Return BCa bounds, or the bounds `ends` if all resamples, or nearly all, are alike.

        With groups, the resamples only give a standard error, for `t_bounds`: `span` are the least and the largest value that
        the figure can have, and `groups` the number of groups that decide it (default: all).
        """
        if self.groups is not None:
            return self._over_groups(value, drawn_B, n, ends, span, groups or self.groups.count)
        bounds = bca(value, drawn_B, skew, self.level)
        if bounds is None or bounds[0] == bounds[1]:
            return Estimate(value=value, low=min(value, ends[0]), high=max(value, ends[1]), n=n, method=ALIKE)
        method = f"BCa bootstrap, {self.resamples} resamples"
        return Estimate(value=value, low=bounds[0], high=bounds[1], n=n, method=method)

    def _over_groups(
        self,
        value: float,
        drawn_B: np.ndarray,
        n: int,
        ends: tuple[float, float],
        span: tuple[float, float],
        groups: int,
    ) -> Estimate:
        """Return `t_bounds` with the standard error over resamples; `ends` if these are alike, or the value is extreme."""
        finite_B, (least, most) = drawn_B[np.isfinite(drawn_B)], span
        error = float(finite_B.std()) * math.sqrt(groups / max(groups - 1, 1)) if len(finite_B) else 0.0
        if error <= 1e-12 * max(1.0, abs(value)) or not least < value < most:
            low, high, method = *ends, ALIKE
        else:
            low, high = t_bounds(value, error, max(groups - 1, 1), span, self.level)
            method = f"Student's t, {self.resamples} resamples"
        method = f"{method} of {counted_groups(groups)}"
        return Estimate(value=value, low=min(value, low), high=max(value, high), n=n, method=method)

    def weights(self, n: int) -> Iterator[np.ndarray]:
        """Yield how often each of `n` cases is drawn, uint8 (n, b), as `resampling_weights` does; groups are drawn whole,
        so the sums of the columns vary then."""
        if self.groups is None:
            yield from resampling_weights(n, self.resamples, self.rng)
            return
        for weights_Gb in resampling_weights(self.groups.count, self.resamples, self.rng, step=max(1, BLOCK // n)):
            yield weights_Gb[self.groups.number_N]

    def proportion(self, hits_N: np.ndarray, among_N: np.ndarray | None = None) -> Estimate:
        """Return the fraction of cases (bool (N,)) that are hits, of those in `among_N`."""
        among_N = np.ones(len(hits_N), bool) if among_N is None else among_N
        return proportion(hits_N, among_N, self.groups, self.level)

    def independent(self, rows: np.ndarray) -> int:
        """Return the number of independent cases among these row numbers: themselves, or their groups."""
        return len(rows) if self.groups is None else len(np.unique(self.groups.number_N[rows]))

    def skewness(self, influence_N: np.ndarray) -> float:
        """Return `skewness` of the influences; 0 with groups, whose intervals do not use it."""
        return skewness(influence_N) if self.groups is None else 0.0


def resampling_weights(
    n: int, resamples: int, rng: np.random.Generator, *, step: int | None = None
) -> Iterator[np.ndarray]:
    """Yield how often each of `n` cases is drawn, uint8 (n, b), columns summing to n; the b add up to `resamples`.

    Blocks are small (`BLOCK`), so memory does not grow with the number of resamples. A case is drawn once on average;
    the probability of more than 255 times is below 1e-500. `step` is the most columns of a block.
    """
    step = step or max(1, BLOCK // n)
    for start in range(0, resamples, step):
        weights_bn = np.empty((min(step, resamples - start), n), np.uint8)
        for row in weights_bn:
            row[:] = np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n)
        yield np.ascontiguousarray(weights_bn.T)


def binomial_tail(hits: int, n: int, rate: float) -> float:
    """Return the probability of at least `hits` among `n` independent cases that each are one with probability `rate`.

    It is below 0.025 exactly if `rate` is below the 95 % interval of Clopper and Pearson (1934).

    >>> round(binomial_tail(1, 35, 0.005), 4), round(binomial_tail(3, 35, 0.005), 4)
    (0.1609, 0.0007)
    """
    return max(0.0, 1.0 - math.fsum(_binomial(k, n, rate) for k in range(hits)))


def _binomial(hits: int, n: int, rate: float) -> float:
    ways = math.lgamma(n + 1) - math.lgamma(hits + 1) - math.lgamma(n - hits + 1)
    return math.exp(ways + hits * math.log(rate) + (n - hits) * math.log1p(-rate))
