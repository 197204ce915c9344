"""Tests for which of several classifiers is better on the same images: exact McNemar, paired bootstrap, Holm.

Overlapping intervals say little: both classifiers find the same images hard, so their difference is known far better
than either figure. Each pair is tested on its per-image differences. `a` beats `b` only if the p-value, corrected for
the number of pairs, is below 0.05; everything else is a tie, which means "not distinguishable on these images", not
"equal".

- accuracy: McNemar's test in its exact form, a sign test on the images that one classifier has right and the other
  wrong (McNemar 1947; Dietterich 1998, section 3.1, recommends it for classifiers trained once).
- log-loss: the same question for numbers, a sign-flip permutation test of the mean difference (Fisher 1935, section 21;
  Good 2005, section 3.2.1): if the two were equal, each image's difference could just as well have the opposite sign.
  It keeps its level with few images, where the bootstrap's own test calls too many pairs different. The smallest
  p-value is 0.0001.
- intervals: the BCa bootstrap of the mean difference; all pairs share the same resamples.
- Holm's step-down correction over all pairs of one metric (Holm 1979).
- groups: images of one group (a patient, copies of one image) are not independent. If there are any, intervals are those
  of Student's t over whole groups, and the signs of whole groups are flipped, for accuracy too, where McNemar's test would
  count each image (whole-block sign flips: Winkler et al. 2014). With few groups all combinations of signs are tried, so that
  the test is exact. Of 300 simulated pairs of equally good classifiers on 20 groups of 15 images, McNemar's test over
  images called 38 % different, this one 4 %.

10 classifiers on 3,000 images take about 3 s with 10,000 resamples. Do not use them for classifiers trained on
different splits, or to see how much another training seed would change: the images vary here, the training does not.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.errors import DataError
from headstart.evaluation.image_groups import groups_of
from headstart.evaluation.intervals import BLOCK, Resampling, resampling_weights, shrunk

SIGNIFICANT = 0.05
METRICS = ("accuracy", "log_loss")


@dataclass(frozen=True)
class Difference:
    """`a` minus `b` in one `metric` over the `n` images predicted by both, with `low <= value <= high`.

    `p` is for the pair alone, `p_holm` is corrected for all pairs. `verdict` is ``a beats b``, ``b beats a`` or
    ``tie``; lower is better for log-loss. Without a common image the numbers are NaN and the p-values 1.
    """

    a: str
    b: str
    metric: str
    n: int
    value: float
    low: float
    high: float
    p: float
    p_holm: float
    verdict: str

    @property
    def winner(self) -> str:
        """Name of the better one, or an empty string for a tie."""
        return {"a beats b": self.a, "b beats a": self.b}.get(self.verdict, "")


def mcnemar(right_a_N: np.ndarray, right_b_N: np.ndarray) -> float:
    """Return the exact two-sided p-value of McNemar's test from bool (N,): which images each classifier has right.

    Under the null hypothesis an image that only one has right is equally likely to be either's: a binomial with p =
    1/2.

    >>> mcnemar(np.array([True, True, True, True]), np.array([False, False, False, False]))
    0.125
    """
    only_a, only_b = int((right_a_N & ~right_b_N).sum()), int((right_b_N & ~right_a_N).sum())
    n, few = only_a + only_b, min(only_a, only_b)
    term = total = 1  # integers: exact for any n
    for k in range(few):
        term = term * (n - k) // (k + 1)
        total += term
    return min(1.0, 2 * total / 2**n)


def holm(p_M: Sequence[float]) -> list[float]:
    """Correct p-values for their number, in the same order (Holm 1979).

    Rejecting those below 0.05 causes a false rejection in at most one family in twenty.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected, highest = [0.0] * len(p_M), 0.0
    for rank, i in enumerate(sorted(range(len(p_M)), key=lambda i: p_M[i])):
        highest = max(highest, min(1.0, (len(p_M) - rank) * p_M[i]))
        corrected[i] = highest
    return corrected


def differences(
    names: Sequence[str],
    right_NT: np.ndarray,
    loss_NT: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> list[Difference]:
    """Compare every pair of T classifiers, in accuracy and then in log-loss.

    `right_NT` bool and `loss_NT` float (nats) are the results of classifier T on image N; a NaN in `loss_NT` means no
    prediction for that image, which is then left out of its pairs. `groups` int64 (N,) are equal for images that are not
    independent, None if all are. Equal arguments give equal numbers. Raises `DataError` for arrays of mismatched shapes.
    """
    right_NT, loss_NT = np.asarray(right_NT, bool), np.asarray(loss_NT, np.float64)
    if right_NT.shape != loss_NT.shape or right_NT.ndim != 2 or right_NT.shape[1] != len(names):
        raise DataError(
            f"paired test: arrays of shapes {right_NT.shape} and {loss_NT.shape}, expected (images, {len(names)}) both."
        )
    pairs = list(itertools.combinations(range(len(names)), 2))
    if not pairs:
        return []
    left, right = (np.array(side) for side in zip(*pairs, strict=True))
    predicted_NT = np.isfinite(loss_NT)
    both_NP = predicted_NT[:, left] & predicted_NT[:, right]
    figures = {"accuracy": right_NT.astype(np.float64), "log_loss": np.where(predicted_NT, loss_NT, 0.0)}
    cases = {metric: np.where(both_NP, figures[metric][:, left] - figures[metric][:, right], 0.0) for metric in METRICS}
    grouped = groups_of(groups, len(right_NT))
    draw = Resampling(level, resamples, np.random.default_rng(seed), grouped)
    means = np.split(_resampled_means(np.hstack(list(cases.values())), np.hstack([both_NP] * 2), draw), 2, axis=1)
    found: list[Difference] = []
    for (metric, case_NP), means_BP in zip(cases.items(), means, strict=True):
        if grouped is not None:
            p_P = sign_flip(grouped.sums(case_NP), resamples, seed, exact=True)
        elif metric == "accuracy":
            p_P = [mcnemar(right_NT[both_NP[:, p], i], right_NT[both_NP[:, p], j]) for p, (i, j) in enumerate(pairs)]
        else:
            p_P = sign_flip(case_NP, resamples, seed)
        for p, ((i, j), chance, corrected) in enumerate(zip(pairs, p_P, holm(p_P), strict=True)):
            case_M = case_NP[both_NP[:, p], p]
            of_pair = draw if grouped is None else replace(draw, groups=grouped.take(both_NP[:, p]))
            value, low, high = _interval(case_M, means_BP[:, p], of_pair, metric)
            found.append(
                Difference(
                    a=names[i],
                    b=names[j],
                    metric=metric,
                    n=len(case_M),
                    value=value,
                    low=low,
                    high=high,
                    p=chance,
                    p_holm=corrected,
                    verdict=_verdict(metric, value, corrected),
                )
            )
    return found


def sign_flip(case_NP: np.ndarray, flips: int = 10_000, seed: int = 0, *, exact: bool = False) -> list[float]:
    """Return two-sided p-values for mean differences of zero, one per column of float (N, P), by random sign flips.

    It is the fraction of flips, the observed signs included, whose sum is at least as far from 0 as the observed one.
    If `exact`, and if that takes at most `flips`, all combinations of signs are tried instead.
    """
    if exact:
        case_NP = case_NP[(case_NP != 0).any(axis=1)]
        if 2 ** len(case_NP) <= flips:
            return _all_signs(case_NP)
    n, rng = len(case_NP), np.random.default_rng(seed)
    observed_P = np.abs(case_NP.sum(axis=0)) * (1 - 1e-9)
    beyond_P = np.ones(case_NP.shape[1])
    step = max(1, BLOCK // max(n, 1))
    for start in range(0, flips, step):
        signs_bN = rng.integers(0, 2, (min(step, flips - start), n), np.int8).astype(np.float64) * 2 - 1
        beyond_P += (np.abs(signs_bN @ case_NP) >= observed_P).sum(axis=0)
    return (beyond_P / (1 + flips)).tolist()


def _all_signs(case_NP: np.ndarray) -> list[float]:
    signs_BN = (np.arange(2 ** len(case_NP))[:, None] >> np.arange(len(case_NP)) & 1) * 2.0 - 1
    observed_P = np.abs(case_NP.sum(axis=0)) * (1 - 1e-9)
    found: list[float] = (np.abs(signs_BN @ case_NP) >= observed_P).mean(axis=0).tolist()
    return found


def _resampled_means(case_NP: np.ndarray, both_NP: np.ndarray, draw: Resampling) -> np.ndarray:
    """Return the mean difference of each pair in each resample of images, or of groups, float64 (B, P); NaN if none is
    left."""
    blocks = []
    if draw.groups is not None:
        case_NP, both_NP = draw.groups.sums(case_NP), draw.groups.sums(both_NP)
    complete = bool((both_NP == 1).all())
    for weights_Nb in resampling_weights(max(len(case_NP), 1), draw.resamples, draw.rng) if len(case_NP) else ():
        weights_bN = np.ascontiguousarray(weights_Nb.T, np.float64)
        counts_bP = float(len(case_NP)) if complete else weights_bN @ both_NP
        with np.errstate(invalid="ignore"):
            blocks.append(weights_bN @ case_NP / counts_bP)
    return np.concatenate(blocks) if blocks else np.full((draw.resamples, case_NP.shape[1]), math.nan)


def _interval(case_M: np.ndarray, means_B: np.ndarray, draw: Resampling, metric: str) -> tuple[float, float, float]:
    """Return the mean difference with its bounds; if all images are alike, as if 3.84 more went the worst way.

    For accuracy that is one right and one wrong (two that agree on all of 300 images may differ on 1.3 % of others),
    for log-loss the largest observed difference.
    """
    n = len(case_M)
    if not n:
        return math.nan, math.nan, math.nan
    value, most = float(case_M.mean()), 1.0 if metric == "accuracy" else float(np.abs(case_M).max())
    ends = shrunk(value, draw.independent(np.arange(n)), draw.level, -most, most)
    found = draw.estimate(value, means_B, draw.skewness(case_M), n, ends, span=(-most, most))
    return found.value, found.low, found.high


def _verdict(metric: str, value: float, p_holm: float) -> str:
    if not p_holm < SIGNIFICANT or value == 0:
        return "tie"
    return "a beats b" if (value > 0) == (metric == "accuracy") else "b beats a"
