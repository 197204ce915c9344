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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
    folds = list(_fitted_folds(features_ND, labels_N, folds_N, n_classes, class_weight))
    weights_N = class_weights(labels_N[scored_N], class_weight)
    search = _CrossSearch(folds, labels_N, scored_N, weights_N, n_classes)
    for kind, strength in _closed_form(kinds):
        search.add(((kind, strength, 1.0),), search.gather(kind, [fold.closed_form(kind, strength) for fold in folds]))
    if {"logistic", "blend"} & set(kinds):
        search.walk(kinds)
    judged = {parts: score for parts, score in search.scores.items() if _kind(parts) in kinds}
    best = min(judged, key=lambda parts: judged[parts].log_loss)
    return CrossValidation(
        head=fit_parts(_kind(best), best, features_ND, labels_N, n_classes, class_weight=class_weight),
        logits_NK=search.logits[best],
        rows=tuple(
            CrossValidationRow(_kind(parts), parts[0][1], score.accuracy, score.log_loss)
            for parts, score in judged.items()
        ),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True, eq=False)
class _FittedFold:
    """The rows that are left out together and scored, in the eigenbasis of the images of the other folds."""

    held: np.ndarray
    held_HR: np.ndarray
    problem: Problem
    spectrum: Spectrum

    def closed_form(self, kind: str, strength: float) -> Coefficients:
        if kind == "ncm":
            return nearest_means(self.spectrum.base, self.spectrum.means_KR)
        return self.spectrum.ridge(strength) if kind == "ridge" else self.spectrum.lda(strength)

    def logistic(self, strength: float, start: Coefficients) -> Coefficients:
        base, penalty = self.spectrum.base, self.problem.penalty(strength)
        inverse_R1 = 1 / (0.1 * self.spectrum.variances() + penalty)[:, None]
        args = (self.spectrum.values(), base.labels_N, base.weights_N, penalty, start)
        fit = fit_logistic(*args, partial(np.multiply, inverse_R1), tolerance=1e-2)
        return fit.weight_DK, fit.offset_K

    def logits(self, kind: str, coefficients: Coefficients) -> np.ndarray:
        return self.problem.logits(kind, coefficients, self.held_HR)


def _fitted_folds(
    features_ND: np.ndarray, labels_N: np.ndarray, folds_N: np.ndarray, n_classes: int, class_weight: str | None
) -> Iterator[_FittedFold]:
    scored_N = scored_rows(labels_N, folds_N)
    for fold in np.unique(folds_N[scored_N]):
        held, rest = np.flatnonzero(scored_N & (folds_N == fold)), np.flatnonzero(folds_N != fold)
        problem = prepare(features_ND[rest], labels_N[rest], n_classes, class_weight)
        spectrum = decompose(problem.base)
        yield _FittedFold(held, spectrum.project(features_ND[held]), problem, spectrum)


@dataclass(frozen=True)
class _Judged:
    """`factor` is 1 / the best temperature."""

    accuracy: float
    log_loss: float
    factor: float


@dataclass(frozen=True, eq=False)
class _CrossSearch:
    """The candidates so far, by their parts: logits float32 (N, K), and how good they are."""

    folds: list[_FittedFold]
    labels_N: np.ndarray
    scored_N: np.ndarray
    weights_N: np.ndarray  # of the scored rows
    n_classes: int
    logits: dict[Parts, np.ndarray] = field(default_factory=dict)
    scores: dict[Parts, _Judged] = field(default_factory=dict)

    def gather(self, kind: str, coefficients: Sequence[Coefficients]) -> np.ndarray:
        """Return the logits of heads of one kind, one for each fold."""
        logits_NK = np.zeros((len(self.labels_N), self.n_classes), np.float32)
        for fold, each in zip(self.folds, coefficients, strict=True):
            logits_NK[fold.held] = fold.logits(kind, each)
        return logits_NK

    def add(self, parts: Parts, logits_NK: np.ndarray) -> bool:
        """Add a candidate; return whether it is the best of its kind so far."""
        some_NK, labels_N = logits_NK[self.scored_N], self.labels_N[self.scored_N]
        loss, factor = tempered_log_loss(some_NK, labels_N, self.weights_N, smoothing=1 / (len(labels_N) + 2))
        accuracy = float(np.average(some_NK.argmax(1) == labels_N, weights=self.weights_N))
        others = [score.log_loss for other, score in self.scores.items() if _kind(other) == _kind(parts)]
        self.logits[parts], self.scores[parts] = logits_NK, _Judged(accuracy, loss, factor)
        return loss < min(others, default=math.inf)

    def walk(self, kinds: Sequence[str]) -> None:
        """Add logistic regression from the strongest penalty on, each from the last, and its blend with the best LDA at its
        own temperature, until neither gains."""
        starts = [fold.spectrum.lda(USUAL_LDA) for fold in self.folds]
        lda = [parts for parts in self.scores if _kind(parts) == "lda"] if "blend" in kinds else []
        best_lda = min(lda, key=lambda parts: self.scores[parts].log_loss, default=None)
        for strength in sorted(LOGISTIC_STRENGTHS, reverse=True):
            starts = [fold.logistic(strength, start) for fold, start in zip(self.folds, starts, strict=True)]
            logits_NK = self.gather("logistic", starts)
            gained = self.add((("logistic", strength, 1.0),), logits_NK)
            if best_lda is not None:
                factor = self.scores[best_lda].factor
                parts = (("logistic", strength, 0.5), ("lda", best_lda[0][1], 0.5 * factor))
                gained |= self.add(parts, (logits_NK + factor * self.logits[best_lda]) / 2)
            if not gained:
                break


def _kind(parts: Parts) -> str:
    return "blend" if len(parts) > 1 else parts[0][0]


def _closed_form(kinds: Sequence[str]) -> Iterator[tuple[str, float]]:
    """Yield kind and strength of the heads that are solved directly; LDA for its blend as well."""
    if "ridge" in kinds:
        yield from (("ridge", strength) for strength in RIDGE_STRENGTHS)
    if {"lda", "blend"} & set(kinds):
        yield from (("lda", strength) for strength in LDA_STRENGTHS)
    if "ncm" in kinds:
        yield "ncm", math.nan
