"""Suspected label errors of a dataset, ranked by out-of-fold probabilities from a linear head on frozen features.

No network is trained. `out_of_fold` fits discriminant analysis five times, each time without a fifth of the images, and
scores that fifth; copies and groups stay in one fold, so that no image's label is confirmed by its own copy. For 6,000
x 1,280 features of 6 classes that takes 1.7 s of one core, embedding aside (`benchmarks/labels.py`).

A second pass without the suspects of the first did not help: with 5 % of the labels of 6,000 scenes replaced, 0.870 to
0.877 of the first 5 % of the list were replaced labels, with it and without. Strongly shrunk discriminant analysis
hardly follows so few. Not for data in which a third of the labels are wrong; nor a final verdict, see
`evaluation.confident_learning`. Where the features cannot tell the classes apart, the head says as much against right
labels as against wrong ones: then no label is judged, nor is one of two classes called the other if these two look alike
(`suspected_labels`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.data.dataset import Dataset
from headstart.data.folds import FOLDS, assign_folds
from headstart.data.open_dataset import require_trainable
from headstart.evaluation.confident_learning import LabelIssues, label_issues
from headstart.evaluation.image_groups import groups_of, standard_error
from headstart.evaluation.probabilities import softmax
from headstart.io.progress import log
from headstart.model.backbones.registry import Backbone, find_backbone, to_choose_from
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.heads.linear import LinearHead, prepare
from headstart.model.heads.logistic import tempered_log_loss
from headstart.model.heads.spectrum import solve_lda
from headstart.model.inference.engines import choose_runtime
from headstart.model.inference.features import FeatureExtractor, embed_images, fitted_spec
from headstart.pipeline.choose_backbones import choose_backbones, fitting_size, unit_variance
from headstart.pipeline.scan import ScannedDataset

SHRINKAGES = (0.3, 0.6, 0.9)
"""Shrinkages of discriminant analysis; the one with the lowest out-of-fold log-loss is used. Strong, so that it does
not follow wrong labels: with 0.1, 0.69 to 0.77 of the first 5 % on 700 cats and dogs were planted errors, with 0.9,
0.89 to 0.94."""
LEAST_ERRORS = 2.0
"""Standard errors by which the out-of-fold Brier score must lie below that of the class frequencies, among all classes and
between two of them. Of 800 sets of 12 to
400 images without any signal, 7 pass. With the log-loss as many do, but of 60 sets of 24 images in two clear classes, one
image mislabelled, 23 do not: a single wrong label can cost as much as all others gain."""
CANNOT_TELL = (
    "No label can be judged: the features of these images do not tell the classes apart, or there are no two classes with "
    "several groups of images."
)
SECONDS = 600.0
"""Time limit for choosing among the available backbones."""


@dataclass(frozen=True)
class LabelError:
    """One suspected label: the likely class, and `label_quality` (0 to 1), the probability of the label."""

    path: str
    label: str
    suggested: str
    label_quality: float


def backbones_for_labels(name: str, weights: WeightsSource) -> tuple[Backbone, ...]:
    """Return the named backbone, the one in the weights file, or all with local weights. Raises `BackboneError`.

    Call this before long work: it may have to download.
    """
    if name == "auto":
        return tuple(to_choose_from(weights))
    return (find_backbone(name, weights),)


@dataclass(frozen=True)
class LabelledFeatures:
    """A backbone's features of the labelled images: `rows_N` int64 in the dataset, `values_ND` float32."""

    rows_N: np.ndarray
    values_ND: np.ndarray


def see(scanned: ScannedDataset, backbones: Sequence[Backbone], *, seed: int = 0) -> LabelledFeatures:
    """Compute features of the labelled images with the best of several backbones; those that changed are left out.

    Raises `BadLabels` (fewer than two classes), `BackboneError`, `WriteError` (the cache).
    """
    require_trainable(scanned.dataset)
    dataset, runtime = scanned.dataset, choose_runtime()
    known = np.flatnonzero(dataset.labels >= 0)
    images, labels_N = scanned.images.take(known), dataset.labels[known]
    sides = images.sizes_N2.min(axis=1)
    extractors = [
        FeatureExtractor(b, fitted_spec(b, fitting_size(b.preprocess.image_size, sides), "auto", scanned.images.ranges))
        for b in backbones
    ]
    if len(extractors) > 1:
        choice = choose_backbones(
            extractors,
            images,
            labels_N,
            len(dataset.classes),
            runtime,
            seconds=SECONDS,
            groups_N=dataset.groups[known],
            seed=seed,
        )
        extractors = [choice.extractors[0]]
    log.info("Computing features with %s (%s)", extractors[0], runtime)
    (values_ND,), failed = embed_images(images, extractors, runtime)
    kept = np.array([row for row in range(len(known)) if row not in failed], np.int64)
    return LabelledFeatures(known[kept], values_ND[kept])


def label_errors(dataset: Dataset, seen: LabelledFeatures, *, seed: int = 0) -> list[LabelError] | None:
    """Return suspected labels, the worst first; None if none can be judged. Groups of the dataset stay in one fold."""
    known = seen.rows_N
    labels_N, groups_N = dataset.labels[known], dataset.groups[known]
    found = suspected_labels([seen.values_ND], labels_N, groups_N, len(dataset.classes), seed)
    if found is None:
        return None
    return [
        LabelError(dataset.paths[i], dataset.label_name(i), dataset.classes[suggested], round(quality, 6))
        for i, suggested, quality in zip(
            known[found.order].tolist(), found.suggested.tolist(), found.label_quality.tolist(), strict=True
        )
    ]


def suspected_labels(
    features: Sequence[np.ndarray], labels_N: np.ndarray, groups_N: np.ndarray, n_classes: int, seed: int = 0
) -> LabelIssues | None:
    """Return the suspected labels, by `out_of_fold` (same arguments); None if the features cannot tell the classes apart,
    or no image could be judged by others.

    They can if the out-of-fold Brier score is below that of the class frequencies by `LEAST_ERRORS` standard errors. Labels
    are suspected only in favour of classes that can be told apart from their own in the same way.
    """
    labels_N, groups_N = np.asarray(labels_N), np.asarray(groups_N)
    chances_NK, judged_N = _judged_out_of_fold(features, labels_N, groups_N, n_classes, seed)
    known = (chances_NK[judged_N], labels_N[judged_N], groups_N[judged_N])
    if not judged_N.any() or not _are_told_apart(*known):
        return None
    found = label_issues(chances_NK, labels_N)
    pairs = list(zip(labels_N[found.order].tolist(), found.suggested.tolist(), strict=True))
    apart = {pair for pair in set(pairs) if _are_told_apart(*_of_two(*known, *pair))}
    kept_M = np.array([pair in apart for pair in pairs], bool)
    return replace(
        found,
        order=found.order[kept_M],
        suggested=found.suggested[kept_M],
        label_quality=found.label_quality[kept_M],
    )


def _are_told_apart(chances_NK: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray) -> bool:
    """Return whether probabilities say more about the labels than the frequencies of the classes do, beyond the noise."""
    if not len(labels_N):
        return False
    shares_K = np.bincount(labels_N, minlength=chances_NK.shape[1]) / len(labels_N)
    gain_N = _brier_scores(shares_K[None], labels_N) - _brier_scores(chances_NK, labels_N)
    return bool(gain_N.mean() > LEAST_ERRORS * standard_error(gain_N, groups_of(groups_N)))


def _of_two(
    chances_NK: np.ndarray, labels_N: np.ndarray, groups_N: np.ndarray, one: int, other: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the probabilities, labels (0, 1) and groups of the images of two classes, as if there were no others."""
    rows = np.isin(labels_N, (one, other))
    both_N2 = np.maximum(chances_NK[rows][:, [one, other]], 1e-300)
    return both_N2 / both_N2.sum(axis=1, keepdims=True), (labels_N[rows] == other).astype(np.int64), groups_N[rows]


def _brier_scores(chances_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return each image's squared distance to its label, float64 (N,); one row of probabilities is for all images."""
    own_N = np.broadcast_to(chances_NK, (len(labels_N), chances_NK.shape[1]))[np.arange(len(labels_N)), labels_N]
    scores_N: np.ndarray = (chances_NK**2).sum(axis=1) - 2 * own_N + 1
    return scores_N


def out_of_fold(
    features: Sequence[np.ndarray], labels_N: np.ndarray, groups_N: np.ndarray, n_classes: int, seed: int = 0
) -> np.ndarray:
    """Return probabilities, float64 (N, K), from heads fitted without the image and its group, calibrated as a whole.

    `features` holds one float32 (N, D) per extractor (joined at equal variance), `groups_N` int64 is equal for copies.
    Images without a label (-1) get equal probabilities. An image whose class is only in its own fold gets probability 1
    for it: there is no evidence against its label.
    """
    return _judged_out_of_fold(features, np.asarray(labels_N), groups_N, n_classes, seed)[0]


def _judged_out_of_fold(
    features: Sequence[np.ndarray], labels_N: np.ndarray, groups_N: np.ndarray, n_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities of `out_of_fold`, and which images a head that knows their class has judged, bool (N,)."""
    values_ND = np.concatenate([unit_variance(np.asarray(x, np.float32)) for x in features], axis=1)
    folds_N = assign_folds(labels_N, np.asarray(groups_N), seed)
    logits_SNK = np.zeros((len(SHRINKAGES), len(labels_N), n_classes), np.float32)
    judged_N = np.zeros(len(labels_N), bool)
    for fold in range(FOLDS):
        held, rest = np.flatnonzero(folds_N == fold), np.flatnonzero((folds_N != fold) & (folds_N >= 0))
        present = np.unique(labels_N[rest])
        if len(held) and len(present) > 1:
            for logits_NK, head in zip(logits_SNK, _heads(values_ND[rest], labels_N[rest], n_classes), strict=True):
                logits_NK[held] = head.logits(values_ND[held])
            judged_N[held] = np.isin(labels_N[held], present)
    probabilities_NK = np.full((len(labels_N), n_classes), 1 / n_classes)
    if judged_N.any():
        probabilities_NK[judged_N] = _calibrated(logits_SNK[:, judged_N], labels_N[judged_N])
    unjudged = np.flatnonzero(~judged_N & (labels_N >= 0))
    probabilities_NK[unjudged] = np.eye(n_classes)[labels_N[unjudged]]
    return probabilities_NK, judged_N


def _heads(values_ND: np.ndarray, labels_N: np.ndarray, n_classes: int) -> list[LinearHead]:
    """Fit one head per shrinkage of `SHRINKAGES`; they share the scatter of the features, the costly part."""
    problem = prepare(values_ND, labels_N, n_classes, None)
    return [problem.head("lda", problem.base.unfold(*solve_lda(problem.base, s)), s) for s in SHRINKAGES]


def _calibrated(logits_SNK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Return probabilities at the shrinkage and temperature with the lowest log-loss."""
    smoothing = 1 / (len(labels_N) + 2)  # as if one more image had failed
    fits = [tempered_log_loss(logits_NK, labels_N, smoothing=smoothing) for logits_NK in logits_SNK]
    best = min(range(len(fits)), key=lambda s: fits[s][0])
    return softmax(fits[best][1] * logits_SNK[best].astype(np.float64))
