"""`auto`: `linear`, then `finetune` if the budget allows, and the weighted sum of both if it is better on validation."""

from __future__ import annotations

from dataclasses import replace

from headstart.errors import (
    BackboneError,
    BudgetTooSmall,
    NoImages,
    RecipeError,
    TrainingFailed,
    UnreadableImage,
)
from headstart.images.augment import parse_augment
from headstart.io.progress import log
from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.approaches.approach import TRAINS, ApproachResult
from headstart.pipeline.approaches.finetune_approach import MODE, starting_point
from headstart.pipeline.approaches.gradient import fit_network, training_deadline
from headstart.pipeline.approaches.linear_approach import APPROACH as LINEAR
from headstart.pipeline.candidates import weighed
from headstart.pipeline.fit_task import FitTask
from headstart.training.recipe import Recipe, seconds

LEAST_SECONDS = 20.0
"""With less of the budget left, fine-tuning does not start."""


class Auto:
    """The cheap approach first; the costly one if it may pay off."""

    pretrained = True
    cost = 4

    def check(self, recipe: Recipe) -> None:
        """Refuse an unknown augmentation if it may fine-tune. Backbones named for fusing are not fine-tuned."""
        if self.trains_networks(recipe) and recipe.augment != "auto":
            parse_augment(recipe.augment)

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return True if one backbone is requested and time allows."""
        return "+" not in recipe.backbone and (recipe.epochs > 0 or seconds(recipe.budget) >= LEAST_SECONDS)

    def ignores(self, recipe: Recipe) -> frozenset[str]:
        """Return nothing if it may fine-tune."""
        return frozenset() if self.trains_networks(recipe) else TRAINS

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """See `Approach.fit`. If fine-tuning fails, the linear classifier is the result."""
        linear = LINEAR.fit(task.with_recipe(approach="linear"), extractors)
        if "+" in task.recipe.backbone or not _has_time(task):
            return linear
        task = task.noting(two_inputs=linear.two_inputs)
        tuning, start = starting_point(task.with_recipe(approach="finetune"), extractors[0])
        try:
            trained = fit_network(tuning, extractors[0], MODE, start)
        except BudgetTooSmall as error:
            log.info("No fine-tuning: %s", error.message)
            return linear
        except (BackboneError, NoImages, RecipeError, TrainingFailed, UnreadableImage) as error:
            why = f"No fine-tuning: {error.message}"
            log.warning("%s", why)
            return replace(linear, why=why)
        chosen, why = weighed(linear.candidate, trained.candidate, task.val_labels_N, task.val_groups_N)
        history = (*linear.history, *trained.history)
        if chosen.finetuned is None:
            if trained.candidate.finetuned is not None:
                trained.candidate.finetuned.discard()
            return replace(linear, history=history, attempt=trained.candidate.finetuned, why=why)
        recipe = replace(trained.recipe, approach="auto")
        return ApproachResult(chosen, history, recipe, two_inputs=linear.two_inputs, why=why)


def _has_time(task: FitTask) -> bool:
    left = training_deadline(task).left()
    if task.recipe.epochs or left >= LEAST_SECONDS:
        return True
    log.info(
        "No fine-tuning: only %.0f s of the budget are left. A larger --budget allows it (now: %s).",
        max(left, 0.0),
        task.recipe.budget,
    )
    return False


APPROACH = Auto()
