"""`head_sgd`: dense last layers on one frozen backbone, by gradient descent, as in Keras tutorials.

Costs one pass of each augmented image through the backbone, and milliseconds per step. Not for a single last layer:
`linear` fits a better one in closed form.
"""

from __future__ import annotations

from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.approaches.approach import ApproachResult
from headstart.pipeline.approaches.gradient import check_single_backbone, fit_network
from headstart.pipeline.fit_task import FitTask
from headstart.training.modes import TrainingMode
from headstart.training.recipe import Recipe

MODE = TrainingMode("head_sgd", freezes="backbone", augment="none", lr=None, most_epochs=30)


class HeadSGD:
    """Last layers by gradient descent; the backbone stays frozen."""

    pretrained = True
    cost = 4

    def check(self, recipe: Recipe) -> None:
        """Refuse several backbones."""
        check_single_backbone(recipe)

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return True: the layers on the backbone are trained."""
        return True

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """See `Approach.fit`."""
        return fit_network(task, extractors[0], MODE)


APPROACH = HeadSGD()
