"""Let the best frozen backbones see each image in two ways: its centre, enlarged, and the whole image, squashed to a square.

    backbones, best first -> how many of them the time allows two inputs -> their two extractors each, then the others

Backbones come with the centre crop and the size of their training. A crop cuts off what lies at the edge; a squashed image
shows all of it, distorted; and a larger image than in training is often better with the same weights (Touvron et al. 2019,
arXiv 1906.06423). Which of them is best can hardly be told from a few hundred images, and a wrong choice costs more than a
right one gains. Heads on both make different mistakes, so their sum is better than either one on nearly all data, as that of
two backbones is: LOG.md, "Two inputs instead of a choice". `pipeline.combine` drops an input that does not help.

Costs a pass over all images for each input; at prediction, 1.7 and 1 times the time of the backbone's own input. When not to
use it: for networks that are trained, whose input is part of how they were published. With fewer than `LEAST` images, it has
not been measured.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from headstart.errors import BackboneError, MissingExtra
from headstart.images.preprocess import Preprocess
from headstart.io.progress import log
from headstart.model.inference.engines import open_network
from headstart.model.inference.features import Embedder, FeatureExtractor
from headstart.pipeline.combine import MOST_MEMBERS
from headstart.pipeline.fit_task import FitTask
from headstart.training.recipe import Recipe

LEAST = 100
"""The fewest training and validation images for which two inputs are used."""

MOST = MOST_MEMBERS // 2
"""The most backbones with two inputs: each input is a member of the ensemble."""

LARGER = 1.3
"""The factor on the image size for the crop; an image then takes about 1.7 times as long."""

PART_OF_TIME = 0.4
"""Fraction of the remaining seconds that embedding all images with both inputs may take."""

TIMED = 32
"""Number of images whose embedding is timed, to see what fits into the time."""


def scaled_size(image_size: int, scale: float) -> int:
    """Return the scaled side in pixels, rounded to a multiple of 32 unless the scale is 1.

    >>> scaled_size(224, 1.3), scaled_size(260, 1.0)
    (288, 260)
    """
    return image_size if scale == 1 else max(32, 32 * round(image_size * scale / 32))


def with_two_inputs(task: FitTask, extractors: Sequence[FeatureExtractor]) -> tuple[tuple[FeatureExtractor, ...], int]:
    """Return the extractors to embed all images with, best first, and for how many backbones two inputs were used.

    `extractors` are those of the backbones with their own input, best first. A run that repeats another takes over its number.
    Raises what `Embedder` raises.
    """
    end, cost = task.clock.now() + PART_OF_TIME * task.seconds_left, 0.0
    pairs: dict[FeatureExtractor, tuple[FeatureExtractor, ...]] = {}
    for own in _eligible(task, extractors):
        if task.earlier.two_inputs is None:
            cost += _seconds(task, own)
            if task.clock.now() + cost > end:
                break
        pairs[own] = _opened(own, task)
        log.info("%s sees each image as %s.", own.backbone.name, " and ".join(str(each.spec) for each in pairs[own]))
    return tuple(one for each in extractors for one in pairs.get(each, (each,))), len(pairs)


def _eligible(task: FitTask, extractors: Sequence[FeatureExtractor]) -> list[FeatureExtractor]:
    """Return the backbones that may have two inputs: none if the recipe says how an image becomes a square."""
    if task.earlier.two_inputs is not None:
        return list(extractors[: task.earlier.two_inputs])
    if task.recipe.resize != "auto" or len(task.dataset.sets.train_val) < LEAST:
        return []
    return list(extractors[:MOST])


def inputs(own: Preprocess, recipe: Recipe) -> tuple[Preprocess, Preprocess]:
    """Return both inputs of a backbone: its own, enlarged unless the recipe gives a size, and the other resize."""
    is_open = not recipe.image_scale and not recipe.image_size
    larger = replace(own, image_size=scaled_size(own.image_size, LARGER)) if is_open else own
    return larger, replace(own, resize="crop" if own.resize == "squash" else "squash")


def _seconds(task: FitTask, own: FeatureExtractor) -> float:
    """Return the seconds that embedding all images with both inputs of a backbone takes, from a few images with its own."""
    some = task.images.take(range(min(TIMED, len(task.images))))
    embedder = Embedder([own], task.runtime, keep=False)
    embedder(some.take([0]))  # opens the network
    begun = time.monotonic()
    embedder(some)
    pace = (time.monotonic() - begun) / len(some)
    areas = sum((each.image_size / own.spec.image_size) ** 2 for each in inputs(own.spec, task.recipe))
    return len(task.images) * pace * areas


def _opened(own: FeatureExtractor, task: FitTask) -> tuple[FeatureExtractor, ...]:
    """Return the backbone with either input, and with its own in place of one that its network does not accept.

    Some networks have one size only, and without torch some cannot be compiled for another.
    """
    found = []
    for spec in inputs(own.spec, task.recipe):
        try:
            open_network(own.backbone, spec, task.runtime)
            found.append(replace(own, spec=spec))
        except (BackboneError, MissingExtra) as error:
            log.info("Not used at %s: %s", spec, error.message)
            found.append(own)
    return tuple(dict.fromkeys(found))
