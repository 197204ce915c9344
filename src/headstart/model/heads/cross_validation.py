"""Search for the best head on the features of few images: all kinds and strengths, by cross-validated log-loss.

What it does: `cross_validate` fits every kind at every strength once for each fold, on the images of the other folds,
and selects the head with the lowest log-loss over all images. With 64 images outside the test set, 64 predictions
decide, where a validation set gives 16; figures are in LOG.md.

What it costs: five fits of each candidate; with 1,800 features and six classes on two cores, 0.1 s for 100 images, 2 s for
1,000.

When not to use it: with thousands of images, one validation set decides as well (`headstart.model.heads.search`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from headstart.data.folds import scored_rows
from headstart.errors import BadLabels
from headstart.model.heads.linear import (
    KINDS,
    LDA_STRENGTHS,
    LOGISTIC_STRENGTHS,
    RIDGE_STRENGTHS,
    USUAL_LDA,
    Coefficients,
    LinearHead,
    Problem,
    check_kinds,
    class_weights,
    fit_parts,
    nearest_means,
    prepare,
)
from headstart.model.heads.logistic import fit_logistic, tempered_log_loss
from headstart.model.heads.spectrum import Spectrum, decompose

Parts = tuple[tuple[str, float, float], ...]
"""Kind, strength and factor of each head that is summed, as in `LinearHead.parts`."""


@dataclass(frozen=True)
class CrossValidationRow:
    """One candidate. The log-loss is at its best temperature; `strength` is nan for a kind that has none."""

    kind: str
    strength: float
    accuracy: float
    log_loss: float


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The best `head`, fitted on all images; a row per candidate; and the seconds that all of it took.

    `logits_NK` float32 are the best head's logits of each image from a fit without its fold, all 0 for an image whose
    class is in no other fold.
    """

    head: LinearHead
    logits_NK: np.ndarray
    rows: tuple[CrossValidationRow, ...]
    seconds: float


def cross_validate(
    features_ND: np.ndarray,
    labels_N: np.ndarray,
    folds_N: np.ndarray,
    n_classes: int,
    *,
    kinds: Sequence[str] = KINDS,
    class_weight: str | None = None,
) -> CrossValidation:
    """Return the head with the lowest cross-validated log-loss. `folds_N` int64 is the fold of each image.

    Images whose class is in no other fold are not scored. Raises like `fit_head`; BadLabels if no image can be scored.
    """
    check_kinds(kinds)
    started = time.perf_counter()
    features_ND, labels_N = np.asarray(features_ND), np.asarray(labels_N)
    scored_N = scored_rows(labels_N, folds_N)
    if not scored_N.any():
        raise BadLabels("labels: no class is in two folds, so no head can be judged.")
    weights_N = class_weights(labels_N[scored_N], class_weight)
    logits: dict[Parts, np.ndarray] = {}
    for fold in np.unique(folds_N[scored_N]):
        held, rest = np.flatnonzero(scored_N & (folds_N == fold)), np.flatnonzero(folds_N != fold)
        problem = prepare(features_ND[rest], labels_N[rest], n_classes, class_weight)
        spectrum = decompose(problem.base)
        held_HR = spectrum.project(features_ND[held])
        for kind, strength, coefficients in _fits(kinds, problem, spectrum):
            found_NK = logits.setdefault(((kind, strength, 1.0),), np.zeros((len(labels_N), n_classes), np.float32))
            found_NK[held] = problem.logits(kind, coefficients, held_HR)
    scores = {parts: _score(x, labels_N, scored_N, weights_N) for parts, x in logits.items()}
    if "blend" in kinds:
        blends = _blends(logits, scores)
        logits |= blends
        scores |= {parts: _score(x, labels_N, scored_N, weights_N) for parts, x in blends.items()}
    judged = {parts: score for parts, score in scores.items() if _kind(parts) in kinds}
    best = min(judged, key=lambda parts: judged[parts].log_loss)
    return CrossValidation(
        head=fit_parts(_kind(best), best, features_ND, labels_N, n_classes, class_weight=class_weight),
        logits_NK=logits[best],
        rows=tuple(
            CrossValidationRow(_kind(parts), parts[0][1], score.accuracy, score.log_loss)
            for parts, score in judged.items()
        ),
        seconds=time.perf_counter() - started,
    )


def cross_validated_lda(
    features_ND: np.ndarray, labels_N: np.ndarray, folds_N: np.ndarray, n_classes: int, *, strengths: Sequence[float]
) -> np.ndarray:
    """Return logits of LDA at each strength, float32 (S, N, K), fitted without the image's fold; 0 where the image's class is
    in no other fold."""
    logits_SNK = np.zeros((len(strengths), len(labels_N), n_classes), np.float32)
    scored_N = scored_rows(labels_N, folds_N)
    for fold in np.unique(folds_N[scored_N]):
        held, rest = np.flatnonzero(scored_N & (folds_N == fold)), np.flatnonzero(folds_N != fold)
        problem = prepare(features_ND[rest], labels_N[rest], n_classes, None)
        spectrum = decompose(problem.base)
        held_HR = spectrum.project(features_ND[held])
        for logits_NK, strength in zip(logits_SNK, strengths, strict=True):
            logits_NK[held] = problem.logits("lda", spectrum.lda(strength), held_HR)
    return logits_SNK


@dataclass(frozen=True)
class _Judged:
    """`factor` is 1 / the best temperature."""

    accuracy: float
    log_loss: float
    factor: float


def _kind(parts: Parts) -> str:
    return "blend" if len(parts) > 1 else parts[0][0]


def _score(logits_NK: np.ndarray, labels_N: np.ndarray, scored_N: np.ndarray, weights_N: np.ndarray) -> _Judged:
    some_NK, labels_N = logits_NK[scored_N], labels_N[scored_N]
    loss, factor = tempered_log_loss(some_NK, labels_N, weights_N, smoothing=1 / (len(labels_N) + 2))
    return _Judged(float(np.average(some_NK.argmax(1) == labels_N, weights=weights_N)), loss, factor)


def _fits(kinds: Sequence[str], problem: Problem, spectrum: Spectrum) -> Iterator[tuple[str, float, Coefficients]]:
    """Yield (kind, strength, coefficients in the eigenbasis) of all heads that are not sums of others."""
    if "ridge" in kinds:
        yield from (("ridge", s, spectrum.ridge(s)) for s in RIDGE_STRENGTHS)
    if {"lda", "blend"} & set(kinds):
        yield from (("lda", s, spectrum.lda(s)) for s in LDA_STRENGTHS)
    if {"logistic", "blend"} & set(kinds):
        yield from _logistic_path(problem, spectrum)
    if "ncm" in kinds:
        yield "ncm", math.nan, nearest_means(spectrum.base, spectrum.means_KR)


def _logistic_path(problem: Problem, spectrum: Spectrum) -> Iterator[tuple[str, float, Coefficients]]:
    """Fit from the strongest penalty to the weakest, each from the last."""
    base, values_NR, start = spectrum.base, spectrum.values(), spectrum.lda(USUAL_LDA)
    for strength in sorted(LOGISTIC_STRENGTHS, reverse=True):
        penalty = problem.penalty(strength)
        inverse_R1 = 1 / (0.1 * spectrum.variances() + penalty)[:, None]
        args = (values_NR, base.labels_N, base.weights_N, penalty, start)
        fit = fit_logistic(*args, partial(np.multiply, inverse_R1), tolerance=1e-2)
        start = fit.weight_DK, fit.offset_K
        yield "logistic", strength, start


def _blends(logits: Mapping[Parts, np.ndarray], scores: Mapping[Parts, _Judged]) -> dict[Parts, np.ndarray]:
    """Return the mean of each logistic regression and the best LDA at its own temperature."""
    of_lda = min((parts for parts in logits if _kind(parts) == "lda"), key=lambda parts: scores[parts].log_loss)
    shrinkage, factor = of_lda[0][1], scores[of_lda].factor
    return {
        (("logistic", parts[0][1], 0.5), ("lda", shrinkage, 0.5 * factor)): (x + factor * logits[of_lda]) / 2
        for parts, x in logits.items()
        if _kind(parts) == "logistic"
    }
