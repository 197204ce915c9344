"""Choice of backbones: successive halving on growing subsets, scored by exact leave-one-out log-loss.

All candidates embed a small stratified subset (those with the same input geometry share its decoding); the better half
proceeds to more images, until three are left. The best of them is kept, with the one that adds most to it when both are
fused: two good backbones with the same errors are worth little more than one. Discriminant analysis on their features
is scored by its exact leave-one-out log-loss, which needs no held-out images and is less noisy than accuracy on a few.
Scores that try to predict transfer without fitting (LogME and its kin) are not used: k-NN beat 23 of them in 42,000
runs (arXiv 2503.18528).

Cost: over all candidates, each stage embeds the same number of new images; together they embed `SHARE` of images x
candidates, less on large sets (`MOST`), and more only below about 500 images (`LEAST`). Features are cached, so
survivors do not pay twice. `benchmarks/choose.py` measures loss and cost.

When not to use it: if candidates are so close that the choice makes no difference on these images, any will do;
differences may then show only with more images (learning curves cross).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.images.image_refs import Images
from headstart.io.progress import log
from headstart.io.text_table import few
from headstart.model.heads.linear import leave_one_out, tempered_log_loss
from headstart.model.inference.engines import ENGINES, open_network
from headstart.model.inference.features import FeatureExtractor, embed_images
from headstart.model.inference.runtime import Runtime
from headstart.training.history import HistoryRow

SHARE = 0.22
"""Fraction of images x candidates that a search embeds. The aim was a quarter of the compute; survivors may cost more
than the others."""

LEAST, LEAST_PER_CLASS = 100, 8
MOST, MOST_PER_CLASS = 2000, 25
"""Bounds on the average number of images that a candidate embeds, for small and for large sets."""

PART_OF_TIME = 0.25
"""Fraction of the remaining seconds after which a search stops adding images."""

SURVIVORS = 2
LAST = 3
SHRINKAGES = (0.1, 0.3, 0.6)


@dataclass(frozen=True)
class Choice:
    """The selected candidates, best first, and all trials of the search."""

    extractors: tuple[FeatureExtractor, ...]
    trials: tuple[HistoryRow, ...]


def choose_backbones(
    extractors: Sequence[FeatureExtractor],
    images: Images,
    labels_N: np.ndarray,
    n_classes: int,
    runtime: Runtime,
    *,
    seconds: float,
    total: int,
    seed: int = 0,
) -> Choice:
    """Rank candidate extractors on subsets of the labelled images (never the test ones); keep at most two.

    `labels_N` int64 (N,), all known. `seconds` is what remains of the budget; `total` images must be embedded in the
    end. Keeps only one extractor if two would not fit into the time. Raises `BackboneError`, `WriteError`.
    """
    started = time.monotonic()
    order = stratified_order(labels_N, seed)
    left, trials, n, pace = list(extractors), [], 0, 0.0
    spend = _images_each(len(order), n_classes) * len(extractors) / _stages(len(extractors))
    last = len(left) < 2
    while not last:
        new, begun = min(math.ceil(spend / len(left)), len(order) - n), time.monotonic()
        n += new
        subset = beginning(order, labels_N, n)
        features, errors = embed_images(images.take(subset), left, runtime)
        pace = (time.monotonic() - begun) / new / len(left)  # from the last stage: the first one compiles networks
        good = np.array([j for j in range(len(subset)) if j not in errors])
        late = time.monotonic() - started > PART_OF_TIME * seconds
        last = len(left) <= LAST or n == len(order) or late
        ranked, rows = _rank(left, [x[good] for x in features], labels_N[subset][good], n_classes, pairs=last)
        trials += rows
        left = ranked[: SURVIVORS if last else _half(len(left))]
    remaining = seconds - (time.monotonic() - started)
    if len(left) > 1 and pace * total * len(left) > remaining:
        log.info("The budget does not allow a second backbone; using %s.", left[0].backbone.name)
        left = left[:1]
    return Choice(tuple(left), tuple(trials))


def compiled_within(
    seconds: float,
    extractors: Sequence[FeatureExtractor],
    runtime: Runtime,
    clock: Callable[[], float] = time.monotonic,
) -> list[FeatureExtractor]:
    """Return the extractors whose networks are compiled by then, at least one; those never opened here compile first.

    A network is compiled once per machine, which takes seconds, or many on a busy one. Small ones trained on plain
    ImageNet-1k come first. Raises `BackboneError`.
    """
    if runtime.device != "cpu":
        return list(extractors)
    begun, engine = clock(), ENGINES[runtime.engine]
    ready = [extractor for extractor in extractors if engine.opens_without_torch(extractor.backbone)]
    for extractor in sorted((e for e in extractors if e not in ready), key=_precedence):
        if ready and clock() - begun > seconds:
            break
        open_network(extractor.backbone, extractor.spec, runtime)
        ready.append(extractor)
    if len(ready) < len(extractors):
        names = [extractor.backbone.name for extractor in extractors if extractor not in ready]
        log.info("The budget leaves no time to compile %s for this machine; not tried.", few(names, 5))
    return [extractor for extractor in extractors if extractor in ready]


def _precedence(extractor: FeatureExtractor) -> tuple[bool, int]:
    weights = extractor.backbone.weights
    return not extractor.backbone.name.endswith("in1k"), weights.stat().st_size if weights else 0


def _images_each(images: int, n_classes: int) -> int:
    """Return the average number of images that a candidate embeds in the whole search.

    >>> [_images_each(n, 10) for n in (60, 300, 5_000, 100_000)]
    [60, 100, 1100, 2000]
    """
    most = min(math.ceil(SHARE * images), max(MOST, MOST_PER_CLASS * n_classes))
    return min(images, max(most, LEAST, LEAST_PER_CLASS * n_classes))


def _half(candidates: int) -> int:
    return max(LAST, math.ceil(candidates / 2))


def _stages(candidates: int) -> int:
    """Return the number of rankings: the last one is among at most `LAST` candidates.

    >>> [_stages(n) for n in (2, 3, 5, 8, 16)]
    [1, 1, 2, 3, 4]
    """
    return 1 if candidates <= LAST else 1 + _stages(_half(candidates))


def _rank(
    extractors: Sequence[FeatureExtractor],
    features: Sequence[np.ndarray],
    labels_N: np.ndarray,
    n_classes: int,
    *,
    pairs: bool,
) -> tuple[list[FeatureExtractor], list[HistoryRow]]:
    """Rank extractors by score, best first; with `pairs`, the second is the one of the next two that adds most to the
    best when fused."""
    unit = [unit_variance(x) for x in features]
    rows: list[HistoryRow] = []

    def score(members: tuple[int, ...]) -> float:
        begun = time.monotonic()
        joined_ND = np.concatenate([unit[i] for i in members], axis=1)
        log_loss, accuracy = leave_one_out_score(joined_ND, labels_N, n_classes)
        name = " + ".join(extractors[i].backbone.name for i in members)
        spent = round(time.monotonic() - begun, 3)
        rows.append(
            HistoryRow(
                stage="choose",
                backbone=name,
                approach="linear",
                head="lda",
                n_images=len(labels_N),
                loo_log_loss=log_loss,
                loo_accuracy=accuracy,
                seconds=spent,
            )
        )
        return log_loss

    order = sorted(range(len(extractors)), key=lambda i: score((i,)))
    if pairs and len(extractors) > 2:
        order[1:LAST] = sorted(order[1:LAST], key=lambda i: score((order[0], i)))
    shown = sorted(rows, key=lambda row: row.loo_log_loss)
    listed = ", ".join(f"{row.backbone} {row.loo_log_loss:.3f}" for row in shown)
    log.info("Leave-one-out log-loss on %s images: %s", f"{len(labels_N):,}", listed)
    return [extractors[i] for i in order], rows


def unit_variance(values_ND: np.ndarray) -> np.ndarray:
    """Scale features to a mean variance of 1, so that none dominates when they are joined."""
    return values_ND / max(float(np.sqrt(values_ND.var(axis=0).mean())), 1e-12)


def leave_one_out_score(values_ND: np.ndarray, labels_N: np.ndarray, n_classes: int) -> tuple[float, float]:
    """Return leave-one-out (log_loss, accuracy) of shrunk discriminant analysis, at the best shrinkage."""
    _, logits_SNK = leave_one_out("lda", values_ND, labels_N, n_classes, strengths=SHRINKAGES)
    smoothing = 1 / (len(labels_N) + 2)  # as if one more image had failed
    losses = [tempered_log_loss(x, labels_N, smoothing=smoothing)[0] for x in logits_SNK]
    best = int(np.argmin(losses))
    return max(losses[best], 0.0), float((logits_SNK[best].argmax(1) == labels_N).mean())


def stratified_order(labels_N: np.ndarray, seed: int) -> np.ndarray:
    """Return a seeded order of all indices in which every prefix has the classes in proportion.

    >>> stratified_order(np.array([0, 0, 0, 0, 1, 1]), seed=0)[:3].tolist()
    [1, 5, 2]
    """
    rng = np.random.default_rng(seed)
    place_N = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        members = np.flatnonzero(labels_N == label)
        place_N[members] = (rng.permutation(len(members)) + 0.5) / len(members)
    return np.argsort(place_N, kind="stable")


def beginning(order: np.ndarray, labels_N: np.ndarray, n: int) -> np.ndarray:
    """Return the first `n` of an order of all indices, plus the first two of each class, so that none is missing.

    >>> beginning(np.array([3, 0, 4, 1, 2]), np.array([0, 1, 1, 0, 0]), 2).tolist()
    [3, 0, 1, 2]
    """
    keep = np.arange(len(order)) < n
    for label in np.unique(labels_N):
        keep[np.flatnonzero(labels_N[order] == label)[:2]] = True
    return order[keep]


def fitting_size(native: int, shorter_sides: np.ndarray) -> int:
    """Return the input side in pixels: the backbone's own, or a smaller multiple of 32 if the images are small.

    Images are enlarged by a median factor of at most about 1.5: more costs time and adds no information (intel-scenes,
    100 px: 128 -> 160 px gained 0.8 points with one backbone; see LOG.md).

    >>> fitting_size(224, np.array([375, 400])), fitting_size(224, np.array([100, 100]))
    (224, 160)
    """
    wanted = 32 * math.ceil(1.5 * float(np.median(shorter_sides)) / 32)
    return min(native, max(wanted, 64))
