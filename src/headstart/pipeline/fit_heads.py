"""Last layers on frozen features: the search for the best head, on one backbone or several fused, and the final fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.data.open_dataset import Dataset
from headstart.io.progress import bar, log
from headstart.model.heads.linear import KINDS, LinearHead, refit
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.heads.search import SearchRow, search_head
from headstart.model.inference.classifier import EnsembleMember
from headstart.model.inference.features import FeatureExtractor
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe

FUSING_GAIN = 0.02
"""Fused backbones cost as much as all of them at prediction, so they must lower the log-loss by this fraction."""

ITERATIVE_CELLS = 300_000
"""Images x classes up to which `auto` tries logistic regression: 4,879 x 200 took 23 s on 2 cores."""


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A head on the features of one or several extractors, joined side by side, each at unit mean variance."""

    extractors: tuple[FeatureExtractor, ...]
    dims: tuple[int, ...]
    scales: tuple[float, ...]
    head: LinearHead
    log_loss: float

    def join(self, features: Sequence[np.ndarray]) -> np.ndarray:
        """Join one float32 (N, D) array per extractor into float32 (N, sum of D)."""
        return np.concatenate([x * np.float32(s) for x, s in zip(features, self.scales, strict=True)], axis=1)

    def members(self, temperature: float) -> tuple[EnsembleMember, ...]:
        """Split the head into one last layer per backbone, all divided by the temperature; the first has the bias."""
        cuts = np.split(self.head.weight_DK, np.cumsum(self.dims)[:-1])
        bias_K = self.head.bias_K / temperature
        return tuple(
            EnsembleMember(
                extractor,
                LinearLayer((cut * (scale / temperature)).astype(np.float32), (bias_K * (i == 0)).astype(np.float32)),
            )
            for i, (extractor, scale, cut) in enumerate(zip(self.extractors, self.scales, cuts, strict=True))
        )


def fit_heads(
    extractors: Sequence[FeatureExtractor],
    features: Sequence[np.ndarray],
    dataset: Dataset,
    recipe: Recipe,
    *,
    fuse: bool = False,
) -> tuple[FittedHead, list[HistoryRow]]:
    """Return the better of two heads: the best on the first extractor alone, and the best on all extractors fused.

    Within one extractor, heads compete by validation log-loss. Between the two, a small validation set is too noisy
    (with 140 images, two or three decide), so the log-loss covers train and val together: leave-one-out on the first,
    held out on the second. `features` holds one float32 (N, D) per extractor. `fuse` selects the fused one without
    comparing. Returns the winner, fitted on the training set only, and a row per trial.
    """
    sets: list[tuple[int, ...]] = [] if fuse else [(0,)]
    if len(extractors) > 1:
        sets.append(tuple(range(len(extractors))))
    best: FittedHead | None = None
    trials: list[HistoryRow] = []
    with bar("Fitting last layers", len(sets)) as advance:
        for members in sets:
            some, theirs = [extractors[i] for i in members], [features[i] for i in members]
            fitted, rows = _fit_one(some, theirs, dataset, recipe)
            trials += rows
            needed = 1 - FUSING_GAIN if len(members) > 1 else 1.0
            if best is None or fitted.log_loss < needed * best.log_loss:
                best = fitted
            advance(1)
    if best is None:
        raise ValueError("no extractors were given")
    names = " + ".join(v.backbone.name for v in best.extractors)
    log.info("Head: %s on %s (held-out log-loss %.4f)", best.head.kind, names, best.log_loss)
    return best, trials


def refit_on(fitted: FittedHead, features: Sequence[np.ndarray], labels_N: np.ndarray, n_classes: int) -> FittedHead:
    """Refit the head with the same strength on more images (train and val together)."""
    return replace(fitted, head=refit(fitted.head, fitted.join(features), labels_N, n_classes))


def _fit_one(
    extractors: Sequence[FeatureExtractor], features: Sequence[np.ndarray], dataset: Dataset, recipe: Recipe
) -> tuple[FittedHead, list[HistoryRow]]:
    train, val, n_classes = dataset.sets.train, dataset.sets.val, len(dataset.classes)
    scales = tuple(1 / max(float(np.sqrt(x[train].var(axis=0).mean())), 1e-12) for x in features)
    blank = FittedHead(
        extractors=tuple(extractors),
        dims=tuple(x.shape[1] for x in features),
        scales=scales,
        head=_no_head(),
        log_loss=np.inf,
    )
    joined_ND = blank.join(features)
    kinds = _kinds(recipe, len(train) * n_classes)
    weight = None if recipe.class_weight == "none" else recipe.class_weight
    labels_N = dataset.labels
    head, rows = search_head(
        joined_ND[train], labels_N[train], joined_ND[val], labels_N[val], n_classes, kinds=kinds, class_weight=weight
    )
    name = " + ".join(v.backbone.name for v in extractors)
    loss = _left_out_log_loss(rows, len(train), len(val))
    return replace(blank, head=head, log_loss=loss), [_trial(name, len(train), r) for r in rows]


def _kinds(recipe: Recipe, cells: int) -> tuple[str, ...]:
    """Return the heads to try; with `auto`, iterative ones only if they take seconds (`cells`: images x classes)."""
    if recipe.head != "auto":
        return (recipe.head,)
    if cells <= ITERATIVE_CELLS:
        return KINDS
    log.info("Many images and classes: closed-form heads only (--head logistic forces logistic regression).")
    return tuple(kind for kind in KINDS if kind not in ("logistic", "blend"))


def _left_out_log_loss(rows: Sequence[SearchRow], n_train: int, n_val: int) -> float:
    """Return the best mean log-loss over train (leave-one-out) and val; over val alone if no head has leave-one-out."""
    pooled = [(r.loo_log_loss * n_train + r.val_log_loss * n_val) / (n_train + n_val) for r in rows]
    exact = [x for x in pooled if math.isfinite(x)]
    return min(exact) if exact else min(r.val_log_loss for r in rows)


def _trial(name: str, images: int, row: SearchRow) -> HistoryRow:
    return HistoryRow(
        stage="head",
        backbone=name,
        approach="linear",
        head=row.kind,
        strength=row.strength,
        n_images=images,
        loo_log_loss=row.loo_log_loss,
        loo_accuracy=row.loo_accuracy,
        val_log_loss=row.val_log_loss,
        val_accuracy=row.val_accuracy,
        seconds=row.seconds,
    )


def _no_head() -> LinearHead:
    return LinearHead("none", np.zeros((0, 0), np.float32), np.zeros(0, np.float32), 0.0)
