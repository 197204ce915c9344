"""Choose how images become the input of frozen backbones: cropped, padded or squashed, how large, and whether also mirrored.

    the backbone's own input -> another resize -> a larger image -> the mean over the image and its mirror image

Backbones come with the centre crop and the size of their training, which suit photographs of one centred subject. A crop
cuts off what lies at the edge, and a larger image than in training is often better with the same weights (Touvron et al.
2019, arXiv 1906.06423). Each option is tried with the best backbone on a subset of the images, and kept if it clearly lowers
the leave-one-out log-loss. It is then used for all members of an ensemble, because it says something about the images.

Costs a pass over at most `SUBSET` images for each option; then all members embed all images again. An option that would
take more than its fraction of the time is not tried. When not to use it: for networks that are trained, whose input is
part of how they were published. With fewer than `LEAST` images, differences are noise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headstart.data.folds import stratified_order
from headstart.errors import BackboneError, MissingExtra
from headstart.evaluation.image_groups import groups_of
from headstart.evaluation.probabilities import cross_entropies
from headstart.images.image_refs import Images
from headstart.images.preprocess import RESIZES
from headstart.io.progress import log
from headstart.model.inference.engines import open_network
from headstart.model.inference.features import Embedder, FeatureExtractor
from headstart.pipeline.choose_backbones import beginning
from headstart.pipeline.combine import Probe, is_clear_gain, probe_poolings
from headstart.pipeline.fit_task import FitTask
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe

INPUT = ("resize", "image_scale", "tta")
"""The options of the recipe that are chosen here."""

LEAST, SUBSET = 200, 1500
"""The fewest training and validation images for which a choice is made, and the most on which it is made."""

LARGER = 1.3
"""The factor on the image size to try; an image then takes about 1.7 times as long."""

PART_FOR_TRIALS, PART_FOR_ALL = 0.2, 0.4
"""Fractions of the remaining seconds: for the trials, and for embedding all images again with all members."""

TIMED = 32
"""Number of images whose embedding is timed, to see what fits into the time."""


@dataclass(frozen=True)
class InputChange:
    """A value for one open option of the recipe: `resize`, `image_scale` or `tta`."""

    option: str
    value: str | float

    @property
    def cost(self) -> float:
        """The time per image, as a multiple of that without the change."""
        if self.option == "image_scale":
            return float(self.value) ** 2
        return 2.0 if self.value == "flip" else 1.0

    def apply(self, extractor: FeatureExtractor) -> FeatureExtractor:
        """Return the extractor with the change."""
        if self.option == "image_scale":
            size = scaled_size(extractor.spec.image_size, float(self.value))
            return replace(extractor, spec=replace(extractor.spec, image_size=size))
        changed: dict[str, Any] = {self.option: self.value}
        return replace(extractor, spec=replace(extractor.spec, **changed))


def scaled_size(image_size: int, scale: float) -> int:
    """Return the scaled side in pixels, rounded to a multiple of 32 unless the scale is 1.

    >>> scaled_size(224, 1.3), scaled_size(260, 1.0)
    (288, 260)
    """
    return image_size if scale == 1 else max(32, 32 * round(image_size * scale / 32))


def choose_input(
    task: FitTask, extractors: Sequence[FeatureExtractor]
) -> tuple[Recipe, tuple[FeatureExtractor, ...], list[HistoryRow]]:
    """Return the recipe with the chosen values of its open options, the extractors with that input, and a row per
    option tried.

    `extractors` are the members of the classifier, best first. Raises as `FitTask.embed`.
    """
    if task.input_settled:
        return task.recipe, tuple(extractors), []
    search = _InputSearch(task, tuple(extractors))
    if not search.changes or len(task.dataset.sets.train_val) < LEAST:
        return task.recipe, tuple(extractors), []
    rows = list(search.run())
    return _settled(task.recipe, search), search.extractors, rows


def _settled(recipe: Recipe, search: _InputSearch) -> Recipe:
    """Return the recipe with the options that were used, so that repeating it does not choose again."""
    used = {each.spec.resize for each in search.extractors}
    resize = used.pop() if len(used) == 1 else recipe.resize
    kept = {change.option: change.value for change in search.kept}
    values = {"image_scale": recipe.image_scale or 1.0, "tta": recipe.tta if recipe.tta != "auto" else "none"}
    return replace(recipe, **{"resize": resize, **values, **kept})  # type: ignore[arg-type]


class _InputSearch:
    """The members as changed so far, and the changes that were kept."""

    def __init__(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> None:
        self.task, self.extractors = task, extractors
        self.kept: list[InputChange] = []
        rows, labels_N = task.dataset.sets.train_val, task.dataset.labels
        subset = beginning(stratified_order(labels_N[rows], task.recipe.seed), labels_N[rows], SUBSET)
        self._rows = rows[subset]
        self._images = task.images.take(self._rows)
        self.changes = _open_changes(task.recipe, extractors[0], self._images)
        self._pace = 0.0
        """Seconds per image with all members; `_first` is the share of the first member."""
        self._first = 0.0

    def run(self) -> Iterator[HistoryRow]:
        """Try all open options, one after another, and yield a row per trial."""
        self._measure()
        end = self.task.clock.now() + PART_FOR_TRIALS * self.task.seconds_left
        own: Probe | None = None
        for group in self.changes:
            fitting = [change for change in group if self._fits(change, end)]
            if not fitting:
                continue
            if own is None:
                own = self._probe(self.extractors[0])
                yield _row(own)
            tried = [(change, found) for change in fitting if (found := self._tried(change)) is not None]
            yield from (_row(found) for _, found in tried)
            change, best = min(tried, key=lambda pair: pair[1].log_loss, default=(group[0], own))
            if self._is_clearly_better(best, own) and self._suits_all(change):
                own = best
                self._keep(change)

    def _is_clearly_better(self, new: Probe, old: Probe) -> bool:
        rows, dataset = self._rows[old.scored_S], self.task.dataset
        gain_S = np.subtract(*(cross_entropies(each.logits_SK, dataset.labels[rows]) for each in (old, new)))
        return is_clear_gain(gain_S, old.log_loss, groups_of(dataset.groups[rows]))

    def _keep(self, change: InputChange) -> None:
        self.extractors = tuple(change.apply(each) for each in self.extractors)
        self.kept.append(change)
        log.info("Chosen for all backbones: %s %s.", change.option, change.value)
        self._pace, self._first = self._pace * change.cost, self._first * change.cost

    def _suits_all(self, change: InputChange) -> bool:
        """Return whether all other members can be opened with the change: some networks accept only one size, and without
        torch some cannot be compiled for another."""
        try:
            for changed in map(change.apply, self.extractors[1:]):
                open_network(changed.backbone, changed.spec, self.task.runtime)
        except (BackboneError, MissingExtra) as error:
            log.info("Not used: %s", error.message)
            return False
        return True

    def _measure(self) -> None:
        few = self._images.take(range(min(TIMED, len(self._rows))))
        for i, extractor in enumerate(self.extractors):
            embedder = Embedder([extractor], self.task.runtime, keep=False)
            embedder(few.take([0]))  # opens the network
            begun = time.monotonic()
            embedder(few)
            self._pace += (time.monotonic() - begun) / len(few)
            self._first = self._first if i else self._pace

    def _fits(self, change: InputChange, trials_end: float) -> bool:
        trial = len(self._rows) * self._first * change.cost
        everything = len(self.task.images) * self._pace * change.cost
        in_time = self.task.clock.now() + trial <= trials_end
        return in_time and everything <= PART_FOR_ALL * (self.task.seconds_left - trial)

    def _tried(self, change: InputChange) -> Probe | None:
        try:
            return self._probe(change.apply(self.extractors[0]))
        except (BackboneError, MissingExtra) as error:  # as in `_suits_all`
            log.info("Not tried: %s", error.message)
            return None

    def _probe(self, extractor: FeatureExtractor) -> Probe:
        recipe, dataset = self.task.recipe, self.task.dataset
        labels_N, groups_N = dataset.labels[self._rows], dataset.groups[self._rows]
        wide = replace(extractor, pooling="last" if recipe.pooling == "last" else "stages")
        (features_ND,), (sizes,) = self.task.embed_rows([wide], self._rows)
        known = (features_ND, sizes, labels_N, len(dataset.classes))
        found = probe_poolings(wide, *known, pooling=recipe.pooling, groups_N=groups_N)[0]
        log.info("Input of %s: leave-one-out log-loss %.3f.", _described(extractor), found.log_loss)
        return found


def _open_changes(recipe: Recipe, extractor: FeatureExtractor, images: Images) -> list[list[InputChange]]:
    """Return the changes to try for each option that the recipe leaves open, cheap ones first."""
    spec, groups = extractor.spec, []
    if recipe.resize == "auto":
        square = bool((images.sizes_N2[:, 0] == images.sizes_N2[:, 1]).all())  # then pad and squash are the same
        names = [name for name in RESIZES if name != spec.resize and not (square and name == "pad")]
        groups.append([InputChange("resize", name) for name in names])
    if not recipe.image_scale and not recipe.image_size:
        groups.append([InputChange("image_scale", LARGER)])
    if recipe.tta == "auto":
        groups.append([InputChange("tta", "flip")])
    return groups


def _row(found: Probe) -> HistoryRow:
    return replace(found.row(stage="input"), input=_described(found.extractor))


def _described(extractor: FeatureExtractor) -> str:
    """Return the input in a few words.

    >>> from headstart.model.backbones.registry import without_weights
    >>> from headstart.images.preprocess import Preprocess
    >>> _described(FeatureExtractor(without_weights("resnet18"), Preprocess(image_size=288, resize="squash", tta="flip")))
    '288 px, squash, flip'
    """
    spec = extractor.spec
    return f"{spec.image_size} px, {spec.resize}" + (", flip" if spec.tta == "flip" else "")
