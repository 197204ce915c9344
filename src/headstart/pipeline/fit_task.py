"""`FitTask`: the inputs of a training run, made once and passed to every stage of `pipeline.fit`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from headstart.data.dataset import Dataset
from headstart.errors import BadSplit
from headstart.images.image_refs import Images
from headstart.model.backbones.registry import Backbone
from headstart.model.inference.features import Embedder, FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe, seconds
from headstart.training.resume import ResumePoint


class Clock:
    """Seconds spent on each step, by name, and in total. `now` gives seconds from any fixed moment."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self.now = now
        self._start = self._last = now()
        self.laps: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        """Seconds since the clock was made."""
        return self.now() - self._start

    def lap(self, name: str) -> None:
        """Record the seconds since the last lap under a step's name."""
        now = self.now()
        self.laps[name] = round(now - self._last, 3)
        self.laps["total"] = round(now - self._start, 3)
        self._last = now


@dataclass(frozen=True, eq=False)
class EarlierChoices:
    """What repeating a run takes over from it: choices that depended on time or on the machine.

    `backbones` are the names of those it chose, best first; `weights` those stored in the run folder itself, by name.
    `replanned` are the changes to its number of steps, see `training.pacing`; `two_inputs` is the number of its backbones
    with two inputs, None if that is still open. From an interrupted run also come its `trials` so far.
    """

    backbones: Sequence[str] = ()
    weights: Mapping[str, Backbone] = field(default_factory=dict)
    replanned: Sequence[tuple[int, int]] = ()
    two_inputs: int | None = None
    trials: Sequence[HistoryRow] = ()


NO_CHOICES = EarlierChoices()
"""For a run that repeats no other."""


@dataclass(frozen=True, eq=False)
class FitTask:
    """`dataset` with its split, its `images` in the same order, the `recipe`, and the runtime for networks.

    `resume` is the place for snapshots of an interrupted training; None to keep none. `earlier` is what to repeat.
    """

    dataset: Dataset
    images: Images
    recipe: Recipe
    runtime: Runtime
    clock: Clock = field(default_factory=Clock)
    resume: ResumePoint | None = None
    earlier: EarlierChoices = NO_CHOICES

    @property
    def seconds_left(self) -> float:
        """The remaining seconds of the budget."""
        return seconds(self.recipe.budget) - self.clock.elapsed

    @property
    def val_labels_N(self) -> np.ndarray:
        """int64: the labels of the validation set."""
        labels_N: np.ndarray = self.dataset.labels[self.dataset.sets.val]
        return labels_N

    @property
    def train_labels_N(self) -> np.ndarray:
        """int64: the labels of the training set."""
        labels_N: np.ndarray = self.dataset.labels[self.dataset.sets.train]
        return labels_N

    @property
    def val_groups_N(self) -> np.ndarray:
        """int64: the groups of the validation set; images with equal numbers are not independent."""
        groups_N: np.ndarray = self.dataset.groups[self.dataset.sets.val]
        return groups_N

    def with_recipe(self, **options: object) -> FitTask:
        """Return the same task with some options of the recipe changed."""
        return replace(self, recipe=replace(self.recipe, **options))  # type: ignore[arg-type]

    def noting(self, **choices: Any) -> FitTask:
        """Return the same task, with choices that whoever resumes it takes over."""
        return self if self.resume is None else replace(self, resume=self.resume.noting(**choices))

    def embed(self, extractors: tuple[FeatureExtractor, ...]) -> tuple[np.ndarray, ...]:
        """Compute features of all images, one float32 (N, D) per extractor. Raises `BadSplit` for images that
        changed."""
        return self.embed_blocks(extractors)[0]

    def embed_blocks(
        self, extractors: tuple[FeatureExtractor, ...]
    ) -> tuple[tuple[np.ndarray, ...], tuple[tuple[int, ...], ...]]:
        """Compute features of all images; return the block sizes of each array's columns too."""
        return self.embed_rows(extractors, np.arange(len(self.images)))

    def embed_rows(
        self, extractors: Sequence[FeatureExtractor], rows: np.ndarray
    ) -> tuple[tuple[np.ndarray, ...], tuple[tuple[int, ...], ...]]:
        """Compute features and block sizes of some of the images; `rows` int64 are their indices."""
        embedder = Embedder(extractors, self.runtime)
        features, failed = embedder(self.images.take(rows))
        if failed:
            path = self.dataset.paths[int(rows[min(failed)])]
            raise BadSplit(
                f"{path}: could not be read again ({failed[min(failed)]}), and {len(failed) - 1:,} more.",
                hint="The images changed while they were being used. Run the same command again.",
            )
        return tuple(features), tuple(embedder.block_sizes(i) for i in range(len(extractors)))
