"""`finetune`: trains the last stages of a pretrained network, starting from the best closed-form last layer (LP-FT).

Kumar et al. 2022, arXiv 2202.10054: a random last layer distorts pretrained features, a fitted one does not. Costs the
linear layer first, then minutes. `training.finetune` says what is trained.
"""

from __future__ import annotations

from headstart.io.progress import log
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.approaches.approach import ApproachResult
from headstart.pipeline.approaches.gradient import check_single_backbone, fit_network
from headstart.pipeline.approaches.linear_approach import starting_layer
from headstart.pipeline.fit_task import FitTask
from headstart.training.modes import TrainingMode
from headstart.training.recipe import Recipe

MODE = TrainingMode("finetune", freezes="stages", augment="flip,crop=0.35", lr=1e-4, most_epochs=8, interpolates=True)
"""The learning rate is fixed because a range test from a fitted last layer finds no improvement."""


class Finetune:
    """The last stages by gradient descent; the first ones stay frozen, as `Recipe.unfreeze` says."""

    pretrained = True
    cost = 4

    def check(self, recipe: Recipe) -> None:
        """Refuse several backbones."""
        check_single_backbone(recipe)

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return True."""
        return True

    def ignores(self, recipe: Recipe) -> frozenset[str]:
        """Return what only a frozen backbone has, and views if no stage is frozen."""
        return frozenset({"pooling", "n_views"} if recipe.unfreeze == "all" else {"pooling"})

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """See `Approach.fit`."""
        task, start = starting_point(task, extractors[0])
        return fit_network(task, extractors[0], MODE, start)


def starting_point(task: FitTask, extractor: FeatureExtractor) -> tuple[FitTask, LinearLayer | None]:
    """Return the last layer to start from, None for a random one, and the task with a recipe that says so.

    A layer fitted on the features of the backbone does not fit behind hidden layers, which are random anyway.
    """
    if task.recipe.hidden_sizes and task.recipe.head_init == "linear":
        log.info("The last layers start from random weights (head_init random), because there are hidden layers.")
        task = task.with_recipe(head_init="random")
    if task.recipe.head_init == "random":
        return task, None
    (features_ND,) = task.embed((extractor,))
    return task, starting_layer(task, features_ND, extractor)


APPROACH = Finetune()
