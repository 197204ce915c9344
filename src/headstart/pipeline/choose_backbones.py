"""Choice of backbones: successive halving on growing subsets, scored by exact leave-one-out log-loss.

All candidates embed a small stratified subset (those with the same input geometry share its decoding); the better half
proceeds to more images, until four are left. Of these, `pipeline.combine` keeps the best, and each that may add something:
two good backbones with the same errors are worth little more than one. As soon as time allows, the remaining candidates embed
all images, and are compared without the noise of a subset. Discriminant analysis on their features is scored by its
exact leave-one-out log-loss, which needs no held-out images and is less noisy than accuracy on a few.
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
from dataclasses import dataclass, replace

import numpy as np

from headstart.data.folds import stratified_order
from headstart.errors import BackboneError, HeadstartError, MissingExtra
from headstart.images.image_refs import Images
from headstart.io.extras import install_command, is_installed
from headstart.io.progress import log
from headstart.io.text_table import few
from headstart.model.inference.engines import open_network, opens_without_torch
from headstart.model.inference.features import Embedder, FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.combine import Probe, choose_members, probe_poolings
from headstart.training.history import HistoryRow

SHARE = 0.22
"""Fraction of images x candidates that a search embeds. The aim was a quarter of the compute; survivors may cost more
than the others."""

LEAST, LEAST_PER_CLASS = 100, 8
MOST, MOST_PER_CLASS = 2000, 25
"""Bounds on the average number of images that a candidate embeds, for small and for large sets."""

PART_OF_TIME = 0.25
"""Fraction of the remaining seconds after which a search stops adding images."""

PART_FOR_ALL = 0.1
"""Fraction of the remaining seconds that the remaining candidates may take to embed all images."""

LAST = 4
TIMED = 32
"""Number of images that are timed, if the cache has the features of most others."""
NONE = Images((), ())


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
    others: Images = NONE,
    groups_N: np.ndarray | None = None,
    seed: int = 0,
    pooling: str = "last",
    part_for_all: float = PART_FOR_ALL,
    clock: Callable[[], float] = time.monotonic,
) -> Choice:
    """Rank candidate extractors on subsets of the labelled images (never the test ones); keep at most four, best first.

    `labels_N` int64 (N,), all known; `groups_N` int64 (N,) are equal for images that are not independent. `seconds` is what
    remains of the budget; `others` are images that must be embedded too. Keeps fewer extractors if they would
    not fit into the time, in which features that are in the cache cost nothing. `pooling` is that of the `Recipe`. The
    remaining candidates embed all images as soon as that takes at most the fraction `part_for_all` of the time.
    Candidates whose networks cannot be used here are left out, which is logged. Raises `BackboneError` or `MissingExtra` if
    there is no other; `WriteError`.
    """
    started = clock()
    order = stratified_order(labels_N, seed)
    left = [replace(each, pooling="last" if pooling == "last" else "stages") for each in extractors]
    embedder = Embedder(left, runtime)
    if len(left) > 1:
        embedder = _opened(embedder, images, others)
        left = list(embedder.extractors)
    trials: list[HistoryRow] = []
    n, pace, ranked = 0, 0.0, [replace(each, pooling="last") for each in left]
    spend = _images_each(len(order), n_classes) * len(left) / _stages(len(left))
    last = len(left) < 2
    while not last:
        rest, begun = len(order) - n, clock()
        cost = pace * sum(map(len, embedder.missing(images.take(order[n:]))))
        whole = n > 0 and cost < part_for_all * (seconds - (begun - started))
        n += rest if whole else min(math.ceil(spend / len(left)), rest)
        subset = beginning(order, labels_N, n)
        features, errors = embedder(images.take(subset))
        pace = _pace(embedder, clock() - begun, (images.take(order[n:]), others), clock) or pace
        good = np.array([j for j in range(len(subset)) if j not in errors])
        late = clock() - started > PART_OF_TIME * seconds
        last = len(left) <= LAST or n == len(order) or late
        sizes = [embedder.block_sizes(i) for i in range(len(left))]
        known_N, in_groups_N = labels_N[subset][good], None if groups_N is None else groups_N[subset][good]
        good_ND = [x[good] for x in features]
        probes, rows = _rank(left, good_ND, sizes, known_N, n_classes, pooling=pooling, groups_N=in_groups_N)
        trials += rows
        kept = choose_members(probes, known_N, in_groups_N) if last else probes[: _half(len(left))]
        ranked = [replace(p.extractor, pooling="last") for p in kept]
        left = [next(each for each in left if each.backbone is r.backbone) for r in ranked]
        embedder = Embedder(left, runtime)
    missing = [len(one) + len(other) for one, other in zip(*map(embedder.missing, (images, others)), strict=True)]
    cost_M, remaining = pace * np.cumsum(missing), seconds - (clock() - started)
    fitting = max(1, int((cost_M <= remaining).sum()))
    if fitting < len(ranked):
        log.info("The budget allows %d of %d backbones: %s.", fitting, len(ranked), few(_names(ranked[:fitting]), 5))
    return Choice(tuple(ranked[:fitting]), tuple(trials))


def _opened(embedder: Embedder, *needed: Images) -> Embedder:
    """Open all networks that are needed for these images; return an embedder without those that cannot be used here.

    Raises the first `BackboneError` or `MissingExtra` if none can be.
    """
    usable: list[FeatureExtractor] = []
    errors: list[HeadstartError] = []
    for member, extractor in enumerate(embedder.extractors):
        try:
            for images in needed:
                embedder.open(member, images)
            usable.append(extractor)
        except (BackboneError, MissingExtra) as error:
            log.info("Not tried: %s", error.message)
            errors.append(error)
    if not usable:
        raise errors[0]
    return Embedder(usable, embedder.runtime) if errors else embedder


def _pace(embedder: Embedder, seconds: float, left: Sequence[Images], clock: Callable[[], float]) -> float:
    """Return the seconds per image and network. If the cache had most features, so that `seconds` say little, some of the
    images that are left are timed; 0.0 if the cache has all of theirs."""
    if embedder.computed >= TIMED * len(embedder.extractors):
        return seconds / embedder.computed
    for images in left:
        rows = sorted(set().union(*embedder.missing(images)))[:TIMED]
        if rows:
            for member in range(len(embedder.extractors)):
                embedder.open(member, images)
            before, begun = embedder.computed, clock()
            embedder(images.take(rows))
            return (clock() - begun) / (embedder.computed - before)
    return 0.0


def _names(extractors: Sequence[FeatureExtractor]) -> list[str]:
    return [each.backbone.name for each in extractors]


def compiled_within(
    seconds: float,
    extractors: Sequence[FeatureExtractor],
    runtime: Runtime,
    clock: Callable[[], float] = time.monotonic,
) -> list[FeatureExtractor]:
    """Compile networks never opened on this machine, for up to `seconds`; return the extractors that are ready, at least one.

    A network is compiled once per machine, which takes seconds, or many seconds on a busy machine. Small ones trained on plain
    ImageNet-1k come first. Networks that cannot be used are left out, which is logged. Raises the first `BackboneError` if
    there is no other; `MissingExtra` if all of them need torch, and it is not installed.
    """
    if runtime.device != "cpu":
        return list(extractors)
    begun, errors = clock(), {}
    ready = [each for each in extractors if opens_without_torch(each.backbone, each.spec, runtime)]
    waiting = sorted((e for e in extractors if e not in ready), key=_precedence)
    can_build = not waiting or is_installed("timm", "torch")
    for extractor in waiting:
        if ready and (clock() - begun > seconds or not can_build):
            break
        try:
            open_network(extractor.backbone, extractor.spec, runtime)
            ready.append(extractor)
        except BackboneError as error:
            log.info("Not tried: %s", error.message)
            errors[extractor] = error
    if not ready:
        raise next(iter(errors.values()))
    left_out = [extractor for extractor in extractors if extractor not in ready and extractor not in errors]
    if left_out:
        names = few(_names(left_out), 5)
        if can_build:
            log.info("The budget leaves no time to compile %s for this machine; not tried.", names)
        else:
            log.info("Not tried, because timm and torch are not installed (%s): %s.", install_command("timm"), names)
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
    [1, 1, 2, 2, 3]
    """
    return 1 if candidates <= LAST else 1 + _stages(_half(candidates))


def _rank(
    extractors: Sequence[FeatureExtractor],
    features: Sequence[np.ndarray],
    sizes: Sequence[tuple[int, ...]],
    labels_N: np.ndarray,
    n_classes: int,
    *,
    pooling: str,
    groups_N: np.ndarray | None,
) -> tuple[list[Probe], list[HistoryRow]]:
    """Return the better probe of each extractor, best first, and a row for each."""
    found = [
        probe_poolings(each, x, size, labels_N, n_classes, pooling=pooling, groups_N=groups_N)
        for each, x, size in zip(extractors, features, sizes, strict=True)
    ]
    tried = sorted((p for probes in found for p in probes), key=lambda p: p.log_loss)
    listed = ", ".join(f"{p.extractor} {p.log_loss:.3f}" for p in tried)
    log.info("Leave-one-out log-loss on %s images: %s", f"{len(labels_N):,}", listed)
    best = sorted((probes[0] for probes in found), key=lambda p: p.log_loss)
    return best, [p.row() for probes in found for p in probes]


def unit_variance(values_ND: np.ndarray) -> np.ndarray:
    """Scale features to a mean variance of 1, so that none dominates when they are joined."""
    return values_ND / max(float(np.sqrt(values_ND.var(axis=0).mean())), 1e-12)


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
