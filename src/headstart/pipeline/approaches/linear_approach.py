"""`linear`: the best closed-form last layer on frozen backbones, one or several. Costs embedding and a few seconds."""

from __future__ import annotations

from headstart.evaluation.calibration import fit_temperature
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.approaches.approach import TRAINS, ApproachResult
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.fit_heads import fit_heads, refit_on
from headstart.pipeline.fit_task import FitTask
from headstart.training.recipe import Recipe


class Linear:
    """A linear probe. Once chosen, the head is refitted on the training and validation set together."""

    pretrained = True
    cost = 1

    def check(self, recipe: Recipe) -> None:
        """Accept everything."""

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return False: it uses solvers only."""
        return False

    def ignores(self, recipe: Recipe) -> frozenset[str]:
        """Return the options of gradient descent."""
        return TRAINS

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """See `Approach.fit`."""
        dataset, sets = task.dataset, task.dataset.sets
        features = task.embed(extractors)
        task.clock.lap("embed")
        head, history = fit_heads(extractors, features, dataset, task.recipe, fuse="+" in task.recipe.backbone)
        used = tuple(features[extractors.index(extractor)] for extractor in head.extractors)
        val_logits_NK = head.head.logits(head.join([x[sets.val] for x in used]))
        both = sets.train_val
        final = refit_on(head, [x[both] for x in used], dataset.labels[both], len(dataset.classes))
        task.clock.lap("fit")
        return ApproachResult(
            Candidate(final.members(1.0), used, val_logits_NK, head=head), tuple(history), task.recipe
        )


def starting_layer(task: FitTask, linear: Candidate) -> LinearLayer:
    """Return the last layer that fine-tuning starts from: on the first backbone alone, fitted on the training set only,
    divided by its temperature.

    Cross-entropy treats logits as log-odds; those of some heads (such as nearest class means) are many times as large,
    and the first steps would only reduce them.
    """
    head, features_ND = linear.head, linear.features[0]
    if head is None or len(head.extractors) > 1:
        head, _ = fit_heads([linear.members[0].extractor], [features_ND], task.dataset, task.recipe)
    logits_NK = head.head.logits(head.join([features_ND[task.dataset.sets.val]]))
    return head.members(fit_temperature(logits_NK, task.val_labels_N))[0].layer


APPROACH = Linear()
