"""All of training, without files: from images in sets to a calibrated classifier.

    resolve_backbones -> choose_extractors -> APPROACHES[...].fit -> calibrate -> FitResult

`train` and `ImageClassifier.fit` both use this. Each stage takes the `FitTask` and the previous stage's result, and
returns one type. Costs as much as embedding, and slightly more if there are several backbones to choose from; gradient
training adds to that if the recipe's approach includes it, or (auto) if the budget allows. Not for evaluation: nothing
here uses the labels of the test set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.data.dataset import Dataset
from headstart.errors import RecipeError
from headstart.evaluation.clipping import clip_bound
from headstart.evaluation.conformal import conformal_threshold
from headstart.evaluation.image_groups import counted_groups, groups_of
from headstart.evaluation.probabilities import softmax
from headstart.images.value_ranges import ValueRanges
from headstart.io.extras import require
from headstart.io.progress import log
from headstart.io.text_table import few, number_of
from headstart.model.backbones.pool_downloads import candidates
from headstart.model.backbones.registry import (
    Backbone,
    find_backbone,
    sha256_here,
    without_weights,
)
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.heads.leave_groups_out import usable_groups
from headstart.model.inference.classifier import Calibration, Classifier
from headstart.model.inference.engines import anticipate, choose_runtime
from headstart.model.inference.features import FeatureExtractor, fitted_spec
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.approaches import APPROACHES
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.choose_backbones import PART_OF_TIME, choose_backbones, compiled_within, fitting_size
from headstart.pipeline.fit_heads import FittedHead
from headstart.pipeline.fit_task import NO_CHOICES, EarlierChoices, FitTask
from headstart.pipeline.two_inputs import scaled_size
from headstart.training.history import HistoryRow
from headstart.training.ranks import check_shared
from headstart.training.recipe import Recipe, seconds

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult

LINEAR_HINT = "Or use --approach linear, which does without them."

SCRATCH = "headstart_cnn"
"""The network to train from scratch if none is named."""


@dataclass(frozen=True, eq=False)
class ResolvedBackbones:
    """The backbones and how to run them: those that the recipe names, or all available if there is a `choice`."""

    backbones: tuple[Backbone, ...]
    runtime: Runtime
    choice: bool = False


def resolve_backbones(
    recipe: Recipe,
    *,
    weights: WeightsSource = WeightsSource(),
    earlier: EarlierChoices = NO_CHOICES,
    images: int = 1_000,
) -> ResolvedBackbones:
    """Find or download the backbones for about `images` images, before any long work. Raises `BackboneError`, `RecipeError`,
    `MissingExtra`.

    A recipe that leaves the choice open gets the backbones of an `earlier` run again, if there is one.
    """
    runtime = choose_runtime(recipe.device, recipe.precision)
    approach = APPROACHES[recipe.approach]
    approach.check(recipe)
    if approach.trains_networks(recipe):
        require(f"Approach {recipe.approach}", "timm", "torch", hint=LINEAR_HINT)
        check_shared(recipe.grad_accum_steps)
    _name_ignored(recipe)
    is_open = recipe.backbone == "auto" and approach.pretrained and weights.file is None
    names = earlier.backbones if is_open else ()
    found = [_found_again(name, weights, earlier) for name in names] or _named_or_all(
        recipe, weights, earlier, images, runtime.device
    )
    anticipate(found, runtime, training=approach.trains_networks(recipe))
    return ResolvedBackbones(tuple(found), runtime, choice=is_open and not names and len(found) > 1)


def _name_ignored(recipe: Recipe) -> None:
    ignored = APPROACHES[recipe.approach].ignores(recipe)
    given = [
        f"{option.name} ({getattr(recipe, option.name)})"
        for option in fields(Recipe)
        if option.name in ignored and getattr(recipe, option.name) != option.default
    ]
    if given:
        log.warning("The approach %s does not use %s.", recipe.approach, few(given, 5))


def _named_or_all(
    recipe: Recipe, weights: WeightsSource, earlier: EarlierChoices, images: int, device: str
) -> Sequence[Backbone]:
    if not APPROACHES[recipe.approach].pretrained:
        return [without_weights(SCRATCH if recipe.backbone == "auto" else recipe.backbone)]
    if recipe.backbone == "auto":
        return candidates(weights, budget_seconds=seconds(recipe.budget), images=images, device=device)
    return [_found_again(name, weights, earlier) for name in recipe.backbone.split("+")]


def _found_again(name: str, weights: WeightsSource, earlier: EarlierChoices) -> Backbone:
    """Find a backbone; if its weights are not on this machine, take those of the earlier run."""
    if name in earlier.weights and weights.file is None and not sha256_here(name, weights):
        log.info("%s: the weights in the run folder are used.", name)
        return earlier.weights[name]
    return find_backbone(name, weights)


@dataclass(frozen=True, eq=False)
class FitResult:
    """`classifier` is the calibrated result; `dataset` has the split that was used.

    `features` of all images, one float32 (N, D) per member of the classifier. `val_logits_NK` are logits on the
    validation set from layers fitted without those images, divided by the temperature. `heads` are the closed-form
    heads, in the order of their members, and `finetuned` is the result of gradient descent, None if not part of the
    classifier. `history` has a row per trial. `recipe` includes options that were found during training, and `chosen`
    names the backbones used, best first, of which the first `two_inputs` see each image in two ways: both depend on
    time. `attempt` is the result of gradient descent that was tried but not selected, and `why` one sentence on what
    was compared.
    """

    classifier: Classifier
    dataset: Dataset
    features: tuple[np.ndarray, ...]
    val_logits_NK: np.ndarray
    history: tuple[HistoryRow, ...]
    recipe: Recipe
    chosen: tuple[str, ...]
    two_inputs: int = 0
    heads: tuple[FittedHead, ...] = ()
    finetuned: FinetuneResult | None = None
    attempt: FinetuneResult | None = None
    why: str = ""

    @property
    def val_labels_N(self) -> np.ndarray:
        """int64, in the order of `val_logits_NK`."""
        labels_N: np.ndarray = self.dataset.labels[self.dataset.sets.val]
        return labels_N


def fit_classifier(task: FitTask, resolved: ResolvedBackbones) -> FitResult:
    """Fit a classifier on the usable images of a training and a validation set.

    Raises `BadSplit` (images that changed), `BackboneError` (weights that do not fit), `RecipeError` (a loss that does
    not fit the classes), `WriteError`, `TrainingFailed`, `UnfinishedTraining`.
    """
    _check_loss(task.recipe, task.dataset)
    _note_classes_in_one_group(task.dataset)
    task.clock.lap("look")
    extractors, history = choose_extractors(task, resolved)
    task.clock.lap("choose")
    task = task.noting(
        backbones=[extractor.backbone.name for extractor in extractors], trials=[asdict(row) for row in history]
    )
    found = APPROACHES[task.recipe.approach].fit(task, extractors)
    classifier, val_logits_NK = calibrate(found.candidate, task)
    return FitResult(
        classifier=classifier,
        dataset=task.dataset,
        features=found.candidate.features,
        val_logits_NK=val_logits_NK,
        history=(*history, *found.history),
        recipe=found.recipe,
        chosen=tuple(extractor.backbone.name for extractor in extractors),
        two_inputs=found.two_inputs,
        heads=found.candidate.heads,
        finetuned=found.candidate.finetuned,
        attempt=found.attempt,
        why=found.why,
    )


def _note_classes_in_one_group(dataset: Dataset) -> None:
    """Warn that choices see other images of a group, if most classes are in one group only."""
    rows = dataset.sets.train_val
    groups_N = dataset.groups[rows]
    if groups_of(groups_N) is not None and usable_groups(dataset.labels[rows], groups_N) is None:
        log.warning(
            "Most images are of classes with one group only, so backbones and heads are chosen with other images of the group "
            "left in, by log-losses that are too low. More groups of each class would help."
        )


def _check_loss(recipe: Recipe, dataset: Dataset) -> None:
    if recipe.loss == "binary" and len(dataset.classes) != 2:
        raise RecipeError(
            f"loss 'binary' requires two classes, but {dataset.root} has {len(dataset.classes)}.",
            hint="Use --loss cross_entropy.",
        )


def choose_extractors(
    task: FitTask, resolved: ResolvedBackbones
) -> tuple[tuple[FeatureExtractor, ...], tuple[HistoryRow, ...]]:
    """Return the backbones to embed with, best first: those named, those of an interrupted run, or the best available ones
    on small subsets."""
    dataset, recipe = task.dataset, task.recipe
    mean_side = _mean_side(task) if recipe.image_size == -1 else recipe.image_size
    trained = task.images.take(dataset.sets.train)
    shorter_sides_N = trained.sizes_N2.min(axis=1)
    candidates = [
        _extractor(b, mean_side or fitting_size(b.preprocess.image_size, shorter_sides_N), recipe, trained.ranges)
        for b in resolved.backbones
    ]
    if not resolved.choice:
        return tuple(candidates), tuple(task.earlier.trials)
    if task.earlier.backbones:
        named = {candidate.backbone.name: candidate for candidate in candidates}
        return tuple(named[name] for name in task.earlier.backbones), tuple(task.earlier.trials)
    rows = dataset.sets.train_val
    choice = choose_backbones(
        compiled_within(PART_OF_TIME * task.seconds_left, candidates, task.runtime),
        task.images.take(rows),
        dataset.labels[rows],
        len(dataset.classes),
        task.runtime,
        seconds=task.seconds_left,
        others=task.images.take(np.setdiff1d(np.arange(len(dataset)), rows)),
        groups_N=dataset.groups[rows],
        seed=recipe.seed,
        pooling="last" if "pooling" in APPROACHES[recipe.approach].ignores(recipe) else recipe.pooling,
    )
    return choice.extractors, choice.trials


def _extractor(backbone: Backbone, image_size: int, recipe: Recipe, ranges: ValueRanges) -> FeatureExtractor:
    size = scaled_size(image_size, recipe.image_scale or 1.0)
    if not APPROACHES[recipe.approach].pretrained:
        backbone = without_weights(backbone.name, image_size=size)
    spec = replace(fitted_spec(backbone, size, recipe.resize, ranges), tta=recipe.tta)
    if recipe.normalize == "unit":
        spec = replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return FeatureExtractor(backbone, spec)


def _mean_side(task: FitTask) -> int:
    """Return the mean of height and width of the training images in pixels, rounded to a multiple of 32."""
    mean = float(np.mean(task.images.sizes_N2[task.dataset.sets.train].mean(axis=1)))
    return int(np.clip(32 * round(mean / 32), 32, 640))


def calibrate(candidate: Candidate, task: FitTask) -> tuple[Classifier, np.ndarray]:
    """Return the classifier with temperature (from the training set too if cross-validated logits are known), conformal
    threshold and clipping bound from validation, and its logits there."""
    labels_N, groups_N, alpha = task.val_labels_N, task.val_groups_N, task.recipe.conformal_alpha
    temperature = candidate.temperature(labels_N, task.train_labels_N)
    final = candidate.times(1 / temperature)
    probabilities_NK = softmax(final.val_logits_NK)
    calibration = Calibration(
        temperature=temperature,
        conformal_threshold=conformal_threshold(probabilities_NK, labels_N, alpha, groups=groups_N),
        conformal_alpha=alpha,
        clip=clip_bound(probabilities_NK, labels_N),
    )
    _note_too_few(groups_N, alpha)
    classifier = Classifier(
        members=final.members, classes=task.dataset.classes, runtime=task.runtime, calibration=calibration
    )
    return classifier, final.val_logits_NK


def _note_too_few(groups_N: np.ndarray, alpha: float) -> None:
    """Log that prediction sets contain all classes if there are too few images, or groups of them, for better ones."""
    grouped = groups_of(groups_N)
    least = math.ceil(1 / alpha - 1 - 1e-9)
    if (grouped.count if grouped else len(groups_N)) < least:
        log.warning(
            "The validation set has %s: too few for prediction sets at alpha %g, so each contains all classes (it takes %s "
            "%s).",
            f"{counted_groups(grouped.count)} of images" if grouped else number_of(len(groups_N), "image"),
            alpha,
            f"{least:,}",
            "groups" if grouped else "images",
        )
