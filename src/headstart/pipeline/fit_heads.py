"""Last layers on frozen features: the search for the best head on one backbone, and its final fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.data.dataset import Dataset
from headstart.data.folds import FOLDS, assign_folds, scored_rows
from headstart.io.progress import log
from headstart.model.heads.cross_validation import CrossValidation, cross_validate
from headstart.model.heads.linear import KINDS, LinearHead, refit
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.heads.search import SearchRow, search_head
from headstart.model.inference.features import FeatureExtractor
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe

ITERATIVE_CELLS = 300_000
"""Images x classes (x folds) up to which `auto` tries logistic regression: 4,879 x 200 took 23 s on 2 cores."""

FEW_IMAGES = 1_000
"""Below this many images for training and validation, cross-validation chooses the head. In samples of 40 to 700 images of
four data sets, the mean test log-loss fell by 3 to 23 % (LOG.md). With more images it gains less, and takes longer."""

KEYS = 8
"""Features by which images are put in order: the chance that two different images agree in all of them is negligible."""


@dataclass(frozen=True, eq=False)
class FittedHead:
    """A head on the features of one extractor, whose columns are multiplied by `scale_D` (float32) first.

    `kernel` is the regularisation strength of the kernel that is added to it (`pipeline.kernels`), None if there is none.
    """

    extractor: FeatureExtractor
    scale_D: np.ndarray
    head: LinearHead
    kernel: float | None = None

    def logits(self, features_ND: np.ndarray) -> np.ndarray:
        """Return logits, float32 (N, K), of features as they are embedded."""
        return self.head.logits(features_ND * self.scale_D)

    @property
    def layer(self) -> LinearLayer:
        """The last layer for features as they are embedded."""
        return LinearLayer((self.head.weight_DK * self.scale_D[:, None]).astype(np.float32), self.head.bias_K)


@dataclass(frozen=True, eq=False)
class HeadSearch:
    """The best `head`, fitted on the training set only, and a row per candidate.

    `val_logits_NK` and `train_logits_NK` are logits on the validation and the training set, float32, each from a fit
    without the image; None for the training set if there was no cross-validation, and 0 for an image of it that
    cross-validation could not score (`scored_rows`), such as those of a class that is one group.
    """

    head: FittedHead
    val_logits_NK: np.ndarray
    train_logits_NK: np.ndarray | None
    trials: list[HistoryRow]


def fit_best_head(
    extractor: FeatureExtractor,
    features_ND: np.ndarray,
    block_sizes: Sequence[int],
    dataset: Dataset,
    recipe: Recipe,
) -> HeadSearch:
    """Return the head with the lowest log-loss on the validation set or, with few images, in cross-validation.

    `features_ND` float32 are those of all images, in blocks of `block_sizes` columns.
    """
    train, val, n_classes = dataset.sets.train, dataset.sets.val, len(dataset.classes)
    scale_D = block_scale(features_ND[train], block_sizes)
    scaled_ND = features_ND * scale_D
    weight = None if recipe.class_weight == "none" else recipe.class_weight
    labels_N = dataset.labels
    rows = dataset.sets.train_val
    few = len(rows) < FEW_IMAGES
    folds_N = folds_of(features_ND[rows], labels_N[rows], dataset.groups[rows], recipe.seed) if few else None
    kinds = _kinds(recipe, len(train) * n_classes * (1 if folds_N is None else FOLDS))
    if folds_N is not None:
        found = cross_validate(scaled_ND[rows], labels_N[rows], folds_N, n_classes, kinds=kinds, class_weight=weight)
        on_train = FittedHead(extractor, scale_D, refit(found.head, scaled_ND[train], labels_N[train], n_classes))
        scored_N = scored_rows(labels_N[rows], folds_N)[np.isin(rows, val), None]
        return HeadSearch(
            head=on_train,
            val_logits_NK=np.where(scored_N, found.logits_NK[np.isin(rows, val)], on_train.logits(features_ND[val])),
            train_logits_NK=found.logits_NK[np.isin(rows, train)],
            trials=_cross_validated(extractor, found),
        )
    known = scaled_ND[train], labels_N[train], scaled_ND[val], labels_N[val]
    head, tried = search_head(*known, n_classes, kinds=kinds, class_weight=weight, groups_N=dataset.groups[train])
    fitted = FittedHead(extractor, scale_D, head)
    trials = [trial(extractor, len(train), row) for row in tried]
    return HeadSearch(fitted, fitted.logits(features_ND[val]), None, trials)


def folds_of(features_ND: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray, seed: int) -> np.ndarray | None:
    """Return the fold of each image, int64 (N,), in whole groups; None if less than half could be scored because their class
    is in one fold only.

    Images are dealt in the order of their features, so the result does not depend on the order in which they are given.
    """
    order = np.lexsort(features_ND[:, :KEYS].T)
    folds_N = assign_folds(labels_N[order], groups_N[order], seed)[np.argsort(order)]
    return folds_N if scored_rows(labels_N, folds_N).mean() >= 0.5 else None


def refit_on(fitted: FittedHead, features_ND: np.ndarray, labels_N: np.ndarray, n_classes: int) -> FittedHead:
    """Refit the head with the same strength on more images (train and val together)."""
    return replace(fitted, head=refit(fitted.head, features_ND * fitted.scale_D, labels_N, n_classes))


def block_scale(features_ND: np.ndarray, block_sizes: Sequence[int]) -> np.ndarray:
    """Return a factor per column, float32 (D,), that gives all blocks the same total variance, on average 1 per column.

    Without it, the widest block dominates, and early stages with few channels hardly count (trash, 224 px, EfficientNet-
    Lite0: leave-one-out log-loss 0.365 for the last block, 0.310 for all unscaled, 0.296 for all scaled).
    """
    parts = np.split(features_ND, np.cumsum(block_sizes)[:-1], axis=1)
    each = sum(block_sizes) / len(block_sizes)
    factors = [np.sqrt(each / max(float(part.var(axis=0).sum()), 1e-24)) for part in parts]
    return np.repeat(np.asarray(factors, np.float32), block_sizes)


def _kinds(recipe: Recipe, cells: int) -> tuple[str, ...]:
    """Return the heads to try; with `auto`, iterative ones only if they take seconds (`cells`: images x classes x folds)."""
    if recipe.head != "auto":
        return (recipe.head,)
    if cells <= ITERATIVE_CELLS:
        return KINDS
    log.info("Many images and classes: ridge, LDA and nearest means only (--head logistic forces logistic regression).")
    return tuple(kind for kind in KINDS if kind not in ("logistic", "blend"))


def trial(extractor: FeatureExtractor, images: int, row: SearchRow) -> HistoryRow:
    """Return the history's row for a head that was fitted on so many images."""
    return HistoryRow(
        stage="head",
        backbone=extractor.backbone.name,
        approach="linear",
        pooling=extractor.pooling,
        input=str(extractor.spec),
        head=row.kind,
        strength=row.strength,
        n_images=images,
        loo_log_loss=row.loo_log_loss,
        loo_accuracy=row.loo_accuracy,
        val_log_loss=row.val_log_loss,
        val_accuracy=row.val_accuracy,
        seconds=row.seconds,
    )


def _cross_validated(extractor: FeatureExtractor, found: CrossValidation) -> list[HistoryRow]:
    return [
        HistoryRow(
            stage="head",
            backbone=extractor.backbone.name,
            approach="linear",
            pooling=extractor.pooling,
            input=str(extractor.spec),
            head=row.kind,
            strength=row.strength,
            n_images=len(found.logits_NK),
            cv_log_loss=row.log_loss,
            cv_accuracy=row.accuracy,
            seconds=found.seconds / len(found.rows),
        )
        for row in found.rows
    ]
