"""Search for the best head on frozen features: all kinds and strengths, by leave-one-out and validation log-loss.

For few images, `headstart.model.heads.cross_validation` is more reliable.

What it does: `search_head` reads ridge and LDA paths off one eigendecomposition (strength by exact leave-one-out
log-loss on the training set), fits logistic regression along a warm-started path (strength by validation log-loss),
blends it with LDA, and selects the kind with the lowest validation log-loss. `linear.refit` then fits the same head on
more data.

What it costs: see `benchmarks/head.py`; about a second for 4,800 x 1,280 features with 6 classes on 2 cores, mostly for
the decomposition and the logistic path.

When not to use it: for a known kind and strength, `linear.fit_head` is cheaper. With hundreds of classes, pass `kinds`
without logistic and blend, whose path takes tens of seconds (23 s at 4,879 x 1,280 with 200 classes).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headstart.errors import RecipeError
from headstart.model.heads.leave_groups_out import usable_groups
from headstart.model.heads.linear import (
    KINDS,
    LOGISTIC_STRENGTHS,
    USUAL_LOGISTIC,
    Coefficients,
    LinearHead,
    Problem,
    best_loo,
    check_kinds,
    class_weights,
    loo_scores,
    nearest_means,
    prepare,
)
from headstart.model.heads.logistic import fit_logistic, tempered_log_loss
from headstart.model.heads.spectrum import Spectrum, decompose

NAN = float("nan")


@dataclass(frozen=True)
class SearchRow:
    """One candidate head. Log-losses are at the best temperature; nan if undefined.

    `seconds` is the added time; the decomposition shared by ridge, LDA and logistic counts in the first row.
    """

    kind: str
    strength: float
    loo_accuracy: float
    loo_log_loss: float
    val_accuracy: float
    val_log_loss: float
    seconds: float


def search_head(
    train_ND: np.ndarray,
    train_labels_N: np.ndarray,
    val_MD: np.ndarray,
    val_labels_M: np.ndarray,
    n_classes: int,
    *,
    kinds: Sequence[str] = KINDS,
    class_weight: str | None = None,
    groups_N: np.ndarray | None = None,
) -> tuple[LinearHead, list[SearchRow]]:
    """Return the head with the lowest validation log-loss, fitted on the training set only, and a row per candidate.

    `groups_N` are equal for training images that are not independent, which leave-one-out then leaves out together.
    Without validation images (M = 0) the choice is between ridge and LDA, by leave-one-out log-loss.
    Raises like `fit_head`; RecipeError for M = 0 with neither ridge nor LDA among `kinds`.
    """
    check_kinds(kinds)
    if not len(val_labels_M) and not {"ridge", "lda"} & set(kinds):
        raise RecipeError(
            f"kinds: {', '.join(kinds)} cannot be chosen without validation images.",
            hint="Add 'ridge' or 'lda', which choose by leave-one-out, or give validation images.",
        )
    started = time.perf_counter()
    problem = prepare(train_ND, train_labels_N, n_classes, class_weight)
    spectrum, labels_M = decompose(problem.base), np.asarray(val_labels_M)
    val_MR = spectrum.project(np.asarray(val_MD)) if len(labels_M) else np.empty((0, 0), np.float32)
    search = _Search(
        problem=problem,
        spectrum=spectrum,
        groups_N=usable_groups(np.asarray(train_labels_N), groups_N),
        values_NR=spectrum.values(),
        val_MR=val_MR,
        val_labels_M=labels_M,
        val_weights_M=class_weights(labels_M, class_weight),
        rows=[],
        found=[],
    )
    search.run(kinds)
    rows, best = search.rows, min(search.found, key=lambda found: found[0])[1]
    return best, [
        replace(rows[0], seconds=time.perf_counter() - started - sum(row.seconds for row in rows[1:])),
        *rows[1:],
    ]


@dataclass(frozen=True, eq=False)
class _Search:
    """One run of `search_head`."""

    problem: Problem
    spectrum: Spectrum
    groups_N: np.ndarray | None
    values_NR: np.ndarray  # training features in the eigenbasis
    val_MR: np.ndarray  # validation features in the eigenbasis
    val_labels_M: np.ndarray
    val_weights_M: np.ndarray
    rows: list[SearchRow]
    found: list[tuple[float, LinearHead]]  # (selection criterion, head), one per kind

    def score(self, kind: str, coefficients: Coefficients) -> tuple[float, float]:
        """Return validation (accuracy, log-loss) of coefficients in the eigenbasis."""
        if not len(self.val_labels_M):
            return NAN, NAN
        logits = self.problem.logits(kind, coefficients, self.val_MR)
        right = logits.argmax(1) == self.val_labels_M
        smoothing = 1 / (len(right) + 2)  # as if one more image had failed: keeps the factor finite if separable
        loss = tempered_log_loss(logits, self.val_labels_M, self.val_weights_M, smoothing=smoothing)[0]
        return float(np.average(right, weights=self.val_weights_M)), loss

    def keep(self, kind: str, coefficients: Coefficients, strength: float, value: float, parts: tuple = ()) -> None:
        self.found.append((value, self.problem.head(kind, self.spectrum.unfold(*coefficients), strength, parts)))

    def closed_form(self, kind: str) -> tuple[float, float]:
        """Add the rows of the ridge or LDA path; return (strength, factor) of the lowest leave-one-out log-loss."""
        model = self.spectrum.ridge if kind == "ridge" else self.spectrum.lda
        best, clock = (float("inf"), 0.0, 1.0, NAN), time.perf_counter()
        for strength, accuracy, loss, factor in loo_scores(self.spectrum, kind, self.groups_N):
            score = self.score(kind, model(strength))
            now = time.perf_counter()
            self.rows.append(
                SearchRow(
                    kind=kind,
                    strength=strength,
                    loo_accuracy=accuracy,
                    loo_log_loss=loss,
                    val_accuracy=score[0],
                    val_log_loss=score[1],
                    seconds=now - clock,
                )
            )
            best, clock = min(best, (loss, strength, factor, score[1])), now
        loss, strength, factor, val_loss = best
        self.keep(kind, model(strength), strength, val_loss if len(self.val_labels_M) else loss)
        return strength, factor

    def nearest_mean(self) -> None:
        started, coefficients = time.perf_counter(), nearest_means(self.spectrum.base, self.spectrum.means_KR)
        score = self.score("ncm", coefficients)
        self.rows.append(
            SearchRow(
                kind="ncm",
                strength=NAN,
                loo_accuracy=NAN,
                loo_log_loss=NAN,
                val_accuracy=score[0],
                val_log_loss=score[1],
                seconds=time.perf_counter() - started,
            )
        )
        self.keep("ncm", coefficients, NAN, score[1])

    def walk(self, shrinkage: float, factor: float, kinds: Sequence[str]) -> None:
        """Fit logistic outward from the usual strength, each from the last, until neither logistic nor blend gains."""
        lda = self.spectrum.lda(shrinkage)
        path = _Path(
            self, (lda[0] * factor, lda[1] * factor), [kind for kind in ("logistic", "blend") if kind in kinds]
        )
        middle = LOGISTIC_STRENGTHS.index(USUAL_LOGISTIC)
        first = start = path.lda
        for strengths in (LOGISTIC_STRENGTHS[middle:], LOGISTIC_STRENGTHS[middle - 1 :: -1]):
            for strength in strengths:
                start, gained = path.step(strength, start)
                first = start if first is path.lda else first
                if not gained:
                    break
            start = first
        for kind, (loss, strength, coefficients) in path.best.items():
            parts = (("logistic", strength, 0.5), ("lda", shrinkage, 0.5 * factor)) if kind == "blend" else ()
            self.keep(kind, coefficients, strength, loss, parts)

    def run(self, kinds: Sequence[str]) -> None:
        if "ridge" in kinds:
            self.closed_form("ridge")
        if "lda" in kinds:
            chosen = self.closed_form("lda")
        if len(self.val_labels_M) and {"logistic", "blend"} & set(kinds):
            self.walk(*(chosen if "lda" in kinds else best_loo(self.spectrum, "lda", self.groups_N)), kinds)
        if len(self.val_labels_M) and "ncm" in kinds:
            self.nearest_mean()


@dataclass(frozen=True, eq=False)
class _Path:
    """The logistic path, and the best of each kind so far as (log-loss, strength, coefficients)."""

    search: _Search
    lda: Coefficients
    kinds: list[str]
    best: dict[str, tuple[float, float, Coefficients]] = field(default_factory=dict)

    def step(self, strength: float, start: Coefficients) -> tuple[Coefficients, bool]:
        """Fit at one strength; return the coefficients and whether any kind gained on validation."""
        clock, penalty, base = time.perf_counter(), self.search.problem.penalty(strength), self.search.spectrum.base
        inverse_R1 = 1 / (0.1 * self.search.spectrum.variances() + penalty)[:, None]
        args = (self.search.values_NR, base.labels_N, base.weights_N, penalty, start)
        fit = fit_logistic(*args, lambda g: inverse_R1 * g, tolerance=1e-2)
        ours, gained = (fit.weight_DK, fit.offset_K), False
        for kind in self.kinds:
            mixed = ours if kind == "logistic" else ((ours[0] + self.lda[0]) / 2, (ours[1] + self.lda[1]) / 2)
            score = self.search.score(kind, mixed)
            now = time.perf_counter()
            self.search.rows.append(
                SearchRow(
                    kind=kind,
                    strength=strength,
                    loo_accuracy=NAN,
                    loo_log_loss=NAN,
                    val_accuracy=score[0],
                    val_log_loss=score[1],
                    seconds=now - clock,
                )
            )
            clock = now
            if kind not in self.best or score[1] < self.best[kind][0]:
                self.best[kind], gained = (score[1], strength, mixed), True
        return ours, gained
