"""`scratch`: a network from random weights. Costs minutes to hours; for comparison, or where nothing pretrained fits."""

from __future__ import annotations

from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.approaches.approach import ApproachResult
from headstart.pipeline.approaches.gradient import check_single_backbone, fit_network
from headstart.pipeline.fit_task import FitTask
from headstart.training.modes import TrainingMode
from headstart.training.recipe import Recipe

MODE = TrainingMode("scratch", freezes="nothing", augment="flip,crop=0.35", lr=None, most_epochs=30)


class Scratch:
    """All layers by gradient descent, from random weights."""

    pretrained = False
    cost = 4

    def check(self, recipe: Recipe) -> None:
        """Refuse several backbones."""
        check_single_backbone(recipe)

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return True: all layers are trained."""
        return True

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """See `Approach.fit`."""
        return fit_network(task, extractors[0], MODE)


APPROACH = Scratch()
