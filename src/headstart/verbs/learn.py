"""What `train` and `ImageClassifier.fit` have in common: from labelled pictures to a calibrated classifier, no files.

    split -> choose backbones -> embed -> fit the last layer -> calibrate on val -> fit it again on train and val

Costs what embedding costs, and somewhat more if several backbones are to choose from. Not to be used to judge: nothing
here looks at the labels of the test side.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from headstart.data.dataset import Dataset
from headstart.data.duplicates import feature_pairs, group_pairs, merge_groups
from headstart.data.split import make_split, mend_split
from headstart.errors import BadSplit
from headstart.judge.calibration import fit_temperature
from headstart.judge.conformal import conformal_threshold
from headstart.model.backbones import Backbone, find_backbone
from headstart.model.classifier import Classifier
from headstart.model.engine import Plan, choose_plan
from headstart.model.features import View, embed_files
from headstart.model.predictions import softmax
from headstart.training.choose import Trial, choose_views, fitting_size
from headstart.training.fit import Fitted, fit_heads, refit_on
from headstart.training.recipe import Recipe, seconds
from headstart.verbs.embed import all_at_hand, fitted_spec
from headstart.vision.memory import Source
from headstart.vision.screen import Facts


@dataclass(frozen=True, eq=False)
class Tools:
    """What to embed with: the backbones that the recipe names, or all at hand to choose from, and how to run them."""

    backbones: tuple[Backbone, ...]
    plan: Plan


def find_tools(
    recipe: Recipe, *, weights: Path | None = None, weights_dir: Path | None = None, offline: bool = False
) -> Tools:
    """Find them, or download them, before any long work. Raises `BackboneError`, `RecipeError`."""
    plan = choose_plan(recipe.device, recipe.precision)
    if recipe.backbone == "auto" and weights is None:
        return Tools(tuple(all_at_hand(weights_dir)), plan)
    names = [""] if recipe.backbone == "auto" else recipe.backbone.split("+")
    found = [find_backbone(name, weights=weights, weights_dir=weights_dir, offline=offline) for name in names]
    return Tools(tuple(found), plan)


@dataclass(frozen=True, eq=False)
class Learned:
    """`dataset` with the split that was used in the end; `fitted` on its train side, `classifier` on train and val.

    `features` of all pictures, one float32 (N, D) for each part of the classifier. `val_logits_NK` are those of the val
    side by `fitted`, divided by the temperature: the only ones that the head was not fitted on.
    """

    classifier: Classifier
    fitted: Fitted
    dataset: Dataset
    features: tuple[np.ndarray, ...]
    val_logits_NK: np.ndarray
    trials: tuple[Trial, ...]

    @property
    def val_labels_N(self) -> np.ndarray:
        """int64, in the order of `val_logits_NK`."""
        return self.dataset.labels[self.dataset.split == "val"]


class Clock:
    """Seconds spent on each step, by name, and in total."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 3)
        self.laps["total"] = round(now - self._start, 3)
        self._last = now


def learn(
    given: Dataset,
    sources: Sequence[Source],
    facts: Sequence[Facts],
    recipe: Recipe,
    *,
    test: float,
    tools: Tools,
    clock: Clock,
) -> Learned:
    """Learn from usable pictures, `sources` in the order of `given`, with what was seen of them, `facts`.

    `test` is the share that is kept out where the data brings no test side; with 0 there is none. Raises `BadSplit`,
    `BackboneError` (weights that do not fit), `WriteError`.
    """
    sides = ("train", "val", "test") if test else ("train", "val")
    dataset = make_split(given, seed=recipe.seed, val=recipe.val, test=test)
    _require_sides(dataset, sides)
    clock.lap("look")
    plan = tools.plan
    views, trials = _views(dataset, sources, facts, tools, recipe, clock)
    clock.lap("choose")
    features, failed = embed_files(sources, [f.sha256 for f in facts], views, plan)
    if failed:
        raise _changed(dataset, failed)
    clock.lap("embed")
    groups = merge_groups(len(dataset), group_pairs(dataset.groups), feature_pairs(features[0]))
    dataset = mend_split(dataset, given, groups, seed=recipe.seed, val=recipe.val, test=test)
    _require_sides(dataset, sides)
    train, val = (dataset.split == side for side in ("train", "val"))
    fitted, tried = fit_heads(
        views, features, dataset.labels, train, val, len(dataset.classes), recipe, fuse="+" in recipe.backbone
    )
    chosen = tuple(features[views.index(v)] for v in fitted.views)
    classifier, val_logits_NK = _calibrated(fitted, chosen, dataset, plan, recipe)
    clock.lap("fit")
    return Learned(classifier, fitted, dataset, chosen, val_logits_NK, (*trials, *tried))


def _views(
    dataset: Dataset,
    sources: Sequence[Source],
    facts: Sequence[Facts],
    tools: Tools,
    recipe: Recipe,
    clock: Clock,
) -> tuple[list[View], tuple[Trial, ...]]:
    """The backbones to embed with: those named, or the better ones of all that are at hand, by small subsets."""
    sides = np.array([min(f.width, f.height) for f in facts])

    def view(backbone: Backbone) -> View:
        size = recipe.image_size or fitting_size(backbone.preprocess.image_size, sides)
        return View(backbone, fitted_spec(backbone, size, recipe.resize))

    candidates = [view(backbone) for backbone in tools.backbones]
    if recipe.backbone != "auto" or len(candidates) == 1:
        return candidates, ()
    known = np.flatnonzero(np.isin(dataset.split, ("train", "val"))).tolist()
    choice = choose_views(
        candidates,
        [sources[i] for i in known],
        [facts[i].sha256 for i in known],
        dataset.labels[known],
        len(dataset.classes),
        tools.plan,
        seconds=seconds(recipe.budget) - clock.elapsed,
        total=len(dataset),
        seed=recipe.seed,
    )
    return list(choice.views), choice.trials


def _calibrated(
    fitted: Fitted, features: Sequence[np.ndarray], dataset: Dataset, plan: Plan, recipe: Recipe
) -> tuple[Classifier, np.ndarray]:
    """Temperature and conformal threshold from validation, with the head of the train side; then the head of both sides."""
    val, known = dataset.split == "val", np.isin(dataset.split, ("train", "val"))
    labels_N = dataset.labels
    logits_NK = fitted.head.logits(fitted.join([x[val] for x in features]))
    temperature = fit_temperature(logits_NK, labels_N[val])
    logits_NK = logits_NK / temperature
    threshold = conformal_threshold(softmax(logits_NK), labels_N[val], recipe.alpha)
    final = refit_on(fitted, [x[known] for x in features], labels_N[known], len(dataset.classes))
    classifier = Classifier(final.parts(temperature), dataset.classes, plan, temperature, threshold, recipe.alpha)
    return classifier, logits_NK


def _require_sides(dataset: Dataset, sides: Sequence[str]) -> None:
    for side in sides:
        if not (dataset.split == side).any():
            count = {2: "two", 3: "three"}[len(sides)]
            raise BadSplit(
                f"{dataset.root}: no pictures are left for {side}: {len(dataset):,} are too few for {count} sides.",
                hint="Add pictures, or give a split of your own with --split.",
            )


def _changed(dataset: Dataset, failed: dict[int, str]) -> BadSplit:
    path = dataset.paths[min(failed)]
    return BadSplit(
        f"{path}: could not be read again ({failed[min(failed)]}), and {len(failed) - 1:,} more.",
        hint="The pictures changed while they were being used. Run the same command again.",
    )
