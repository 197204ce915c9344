"""Choose which features of which backbones to combine, and with which weights, by leave-one-out log-loss.

    probe each backbone's features -> add the member that helps most, while it may help -> weigh the members

Discriminant analysis on all images of train and validation is scored by exact leave-one-out (`model.heads.linear`), so
every image counts, and not only a small validation set. Where images belong to groups, an image's whole group is left out
with it: with another image of the patient left in, the best backbone is the one that recognises the patient. The logits of an
ensemble are a weighted sum of its members' (a product of experts: Hinton 2002), so it stays one linear layer per backbone.
Weights minimise the log-loss of these logits and are shrunk towards equal ones.

Costs one decomposition per backbone and pooling: about a second for 2,000 columns. When not to use it: to fit the final
layers, which `pipeline.fit_heads` does; and for features of more than `MOST_COLUMNS`, of which only the last are used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.evaluation.image_groups import ImageGroups, groups_of, standard_error
from headstart.evaluation.probabilities import cross_entropies, log_softmax, softmax
from headstart.io.progress import log
from headstart.model.heads.leave_groups_out import scorable, usable_groups
from headstart.model.heads.linear import each_leave_one_out, tempered_log_loss
from headstart.model.inference.features import FeatureExtractor, Pooling
from headstart.pipeline.fit_heads import block_scale
from headstart.training.history import HistoryRow

CLEAR_GAIN = 0.02
"""Fraction of the log-loss by which it must fall: at prediction, a further member costs as much as the first, and features of
all stages cost a little."""

LEAST_GROUPS = 5
"""Groups of images without which no gain is clear."""

ERRORS_WITH_TWO_INPUTS = 2.0
"""Standard errors by which a member must fall short to be left out, if some are the second input of a backbone: those help
more often than another backbone."""

MOST_MEMBERS = 4
MOST_COLUMNS = 6000
"""Features of all stages are used up to this number: the decomposition of more takes minutes."""

STRENGTHS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8)

PRIOR_IMAGES = 10.0
"""Strength of the prior on the weights, as a number of images in favour of the expected ones."""

MOST_STEPS = 50
"""Limit on the steps of Newton's method, which takes five to ten."""


@dataclass(frozen=True, eq=False)
class Probe:
    """One backbone's features, and what a head on them predicts for images that it has not seen.

    `logits_SK` float32, at their best temperature, are those of the images at `scored_S` (int64, of those probed): not of the
    images whose class is in one group only. `log_loss` is their mean.
    """

    extractor: FeatureExtractor
    features_ND: np.ndarray
    block_sizes: tuple[int, ...]
    logits_SK: np.ndarray
    scored_S: np.ndarray
    log_loss: float
    accuracy: float
    seconds: float

    @classmethod
    def unscored(cls, extractor: FeatureExtractor, features_ND: np.ndarray, block_sizes: Sequence[int]) -> Probe:
        """Return the only candidate, which needs no score."""
        nothing, none = np.zeros((0, 0), np.float32), np.zeros(0, np.int64)
        return cls(extractor, features_ND, tuple(block_sizes), nothing, none, np.nan, np.nan, 0.0)

    def row(self) -> HistoryRow:
        """Return its row of the history."""
        return HistoryRow(
            stage="choose",
            backbone=self.extractor.backbone.name,
            approach="linear",
            pooling=self.extractor.pooling,
            input=str(self.extractor.spec),
            head="lda",
            n_images=len(self.logits_SK),
            loo_log_loss=self.log_loss,
            loo_accuracy=self.accuracy,
            seconds=self.seconds,
        )


def probe(
    extractor: FeatureExtractor,
    features_ND: np.ndarray,
    block_sizes: Sequence[int],
    labels_N: np.ndarray,
    n_classes: int,
    *,
    groups_N: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> Probe:
    """Probe features whose columns are those of the extractor's pooling; `rows` are the images to use, by default all.

    `labels_N` and `groups_N` int64 are the labels and groups of those images. The logits of one strength are in memory at a
    time, and the best so far.
    """
    begun = time.monotonic()
    some_ND = features_ND if rows is None else features_ND[rows]
    scaled_ND = some_ND * block_scale(some_ND, block_sizes)
    groups_N = usable_groups(labels_N, groups_N)
    scored_S = np.flatnonzero(scorable(labels_N, groups_N))
    known_S, smoothing = labels_N[scored_S], 1 / (len(scored_S) + 2)  # as if one more image had failed
    each = each_leave_one_out("lda", scaled_ND, labels_N, n_classes, strengths=STRENGTHS, groups_N=groups_N)
    some = (logits_NK[scored_S] for _, logits_NK in each)
    scored = ((*tempered_log_loss(logits_SK, known_S, smoothing=smoothing), logits_SK) for logits_SK in some)
    loss, factor, best_SK = min(scored, key=lambda one: one[0])
    return Probe(
        extractor=extractor,
        features_ND=features_ND,
        block_sizes=tuple(block_sizes),
        logits_SK=best_SK * np.float32(factor),
        scored_S=scored_S,
        log_loss=max(loss, 0.0),
        accuracy=float((best_SK.argmax(1) == known_S).mean()),
        seconds=round(time.monotonic() - begun, 3),
    )


def probe_poolings(
    extractor: FeatureExtractor,
    all_ND: np.ndarray,
    block_sizes: Sequence[int],
    labels_N: np.ndarray,
    n_classes: int,
    *,
    pooling: str,
    groups_N: np.ndarray | None = None,
    rows: np.ndarray | None = None,
) -> list[Probe]:
    """Probe the poolings that are allowed, the better one first.

    `all_ND` are the features of all stages, in blocks of `block_sizes` columns; `pooling` last, stages or auto.
    """

    def one(name: Pooling) -> Probe:
        sizes = block_sizes if name == "stages" else block_sizes[:1]
        named = replace(extractor, pooling=name)
        return probe(named, all_ND[:, : sum(sizes)], sizes, labels_N, n_classes, groups_N=groups_N, rows=rows)

    if pooling == "last" or len(block_sizes) == 1 or (pooling == "auto" and sum(block_sizes) > MOST_COLUMNS):
        return [one("last")]
    if pooling == "stages":
        return [one("stages")]
    last, stages = one("last"), one("stages")
    return [stages, last] if stages.log_loss < (1 - CLEAR_GAIN) * last.log_loss else [last, stages]


def is_clear_gain(gain_N: np.ndarray, loss: float, grouped: ImageGroups | None = None) -> bool:
    """Return whether a log-loss falls by `CLEAR_GAIN` of it, and by a standard error, given the fall for each image.

    Images of one group gain together, so the standard error is over groups; fewer than `LEAST_GROUPS` cannot show a gain.

    >>> is_clear_gain(np.array([0.1, 0.1, 0.1, 0.1]), 1.0), is_clear_gain(np.array([0.4, -0.2, 0.4, -0.2]), 1.0)
    (True, False)
    """
    if grouped is not None and grouped.count < LEAST_GROUPS:
        return False
    return bool(gain_N.mean() > max(CLEAR_GAIN * loss, standard_error(gain_N, grouped)))


def may_gain(gain_N: np.ndarray, loss: float, grouped: ImageGroups | None = None, *, errors: float = 1.0) -> bool:
    """Return whether a log-loss may fall by `CLEAR_GAIN` of it: the mean fall is at most `errors` standard errors below that.

    For what is likely to help before anything is measured, as a second member is. See `is_clear_gain` for what is not.

    >>> may_gain(np.array([0.4, -0.4, 0.4, -0.4]), 1.0), may_gain(np.array([0.01, 0.01, 0.01, 0.01]), 1.0)
    (True, False)
    """
    return bool(gain_N.mean() + errors * standard_error(gain_N, grouped) > CLEAR_GAIN * loss)


def choose_members(
    probes: Sequence[Probe], labels_N: np.ndarray, groups_N: np.ndarray | None = None, *, errors: float = 1.0
) -> list[Probe]:
    """Return the probes to combine, best first: up to `MOST_MEMBERS`, as long as the log-loss of the equally weighted sum
    may fall (`may_gain`, with `errors` standard errors).

    Another member nearly always helps, but a few hundred images cannot show it: asked for a clear gain, they ended with
    fewer members, and worse ones. `groups_N` int64 (N,) are equal for images that are not independent.
    """
    left = sorted(probes, key=lambda p: p.log_loss)
    chosen = [left.pop(0)]
    total_SK, scored_S = chosen[0].logits_SK, chosen[0].scored_S  # the same images for all probes
    labels_S, grouped = labels_N[scored_S], None if groups_N is None else groups_of(groups_N[scored_S])
    loss, loss_S = _losses(total_SK, labels_S)
    while left and len(chosen) < MOST_MEMBERS:
        sums = [_losses(total_SK + p.logits_SK, labels_S) for p in left]
        best = min(range(len(left)), key=lambda i: sums[i][0])
        if not may_gain(loss_S - sums[best][1], loss, grouped, errors=errors):
            break
        loss, loss_S = sums[best]
        total_SK = total_SK + left[best].logits_SK
        chosen.append(left.pop(best))
    return chosen


def fit_weights(
    logits: Sequence[np.ndarray], labels_N: np.ndarray, *, towards: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Return a weight >= 0 for each array of logits (N, K), such that their sum has the lowest log-loss.

    Shrunk towards weights in the proportion `towards` (default: equal ones), as if `PRIOR_IMAGES` images had asked for
    those. The problem is convex.

    >>> z = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]])
    >>> weights = fit_weights([z, z], np.array([0, 1, 0, 1]))
    >>> bool(np.isclose(weights[0], weights[1]))
    True
    """
    stacked_MNK = np.stack([np.asarray(z, np.float64) for z in logits])
    stacked_MNK -= stacked_MNK.mean(2, keepdims=True)
    own_MN = stacked_MNK[:, np.arange(len(labels_N)), labels_N]
    smoothing = 1 / (len(labels_N) + 2)
    prior_M = np.ones(len(logits)) if towards is None else np.asarray(towards, np.float64)
    factor = tempered_log_loss(np.tensordot(prior_M, stacked_MNK, 1), labels_N, smoothing=smoothing)[1]
    prior_M = prior_M * factor
    penalty = PRIOR_IMAGES / len(labels_N) / max(factor, 1e-9) ** 2

    def value(weights_M: np.ndarray) -> float:
        total_NK = np.tensordot(weights_M, stacked_MNK, 1)
        norm_N = total_NK[:, 0] - log_softmax(total_NK)[:, 0]
        target_N = (1 - smoothing) * (weights_M @ own_MN)
        return float((norm_N - target_N).mean() + penalty * ((weights_M - prior_M) ** 2).sum())

    def slopes(weights_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chances_NK = softmax(np.tensordot(weights_M, stacked_MNK, 1))
        expected_MN = np.einsum("mnk,nk->mn", stacked_MNK, chances_NK)
        slope_M = (expected_MN - (1 - smoothing) * own_MN).mean(1) + 2 * penalty * (weights_M - prior_M)
        second_MM = np.einsum("mnk,lnk,nk->ml", stacked_MNK, stacked_MNK, chances_NK) - expected_MN @ expected_MN.T
        return slope_M, second_MM / len(labels_N) + 2 * penalty * np.eye(len(weights_M))

    return tuple(map(float, _lowest(value, slopes, prior_M)))


def _lowest(
    value: Callable[[np.ndarray], float],
    slopes: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    start_M: np.ndarray,
) -> np.ndarray:
    """Return the weights >= 0 with the lowest value of a convex function: projected Newton (Bertsekas 1982).

    `slopes` gives its first and second derivatives. For few weights: each step solves a linear system of that size.
    """
    weights_M = start_M
    for _ in range(MOST_STEPS):
        slope_M, second_MM = slopes(weights_M)
        free = np.flatnonzero((weights_M > 0) | (slope_M < 0))
        step_M = np.zeros_like(weights_M)
        step_M[free] = np.linalg.solve(second_MM[np.ix_(free, free)], slope_M[free])
        now, length = value(weights_M), 1.0
        while value(np.maximum(weights_M - length * step_M, 0)) > now and length > 1e-6:
            length /= 2
        moved_M = np.maximum(weights_M - length * step_M, 0)
        done = np.abs(moved_M - weights_M).max() <= 1e-9 * weights_M.max()
        weights_M = moved_M
        if done:
            break
    return weights_M


def report(chosen: Sequence[Probe], weights: Sequence[float]) -> None:
    """Log the members with their weights, if there are several."""
    if len(chosen) > 1:
        parts = [f"{p.extractor} ({w / sum(weights):.0%})" for p, w in zip(chosen, weights, strict=True)]
        log.info("Combined: %s.", " + ".join(parts))


def _losses(logits_NK: np.ndarray, labels_N: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the log-loss at the best temperature, and that of each image, float64 (N,)."""
    loss, factor = tempered_log_loss(logits_NK, labels_N, smoothing=1 / (len(labels_N) + 2))
    return loss, cross_entropies(logits_NK * np.float32(factor), labels_N)
