"""Common parts of gradient training approaches: train a network, embed with it, measure it on validation."""

from __future__ import annotations

from dataclasses import replace

from headstart.errors import RecipeError
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.probabilities import cross_entropies
from headstart.images.augment import parse_augment
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.classifier import EnsembleMember
from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.approaches.approach import FINETUNES, ApproachResult
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.fit_task import FitTask
from headstart.training.history import HistoryRow
from headstart.training.modes import TrainingMode
from headstart.training.pacing import Deadline
from headstart.training.recipe import Recipe, seconds

FINISH_SECONDS = 10.0
FINISH_SHARE = 0.05
"""Seconds, and a fraction of the budget, for what follows training and embedding: metrics, run folder, report."""


class SingleNetwork:
    """An approach that trains one network by gradient descent, from a random last layer."""

    cost = 4

    def __init__(self, mode: TrainingMode, *, pretrained: bool) -> None:
        self.mode, self.pretrained = mode, pretrained

    def check(self, recipe: Recipe) -> None:
        """Refuse several backbones, and cutmix on the features of a frozen one."""
        check_single_backbone(recipe)
        if recipe.cutmix and self.mode.freezes_backbone:
            raise RecipeError(
                f"cutmix cannot be used with {recipe.approach}, which trains on feature vectors: it needs images.",
                hint="Use mixup, or an approach that trains on images, such as finetune.",
            )

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return True."""
        return True

    def ignores(self, recipe: Recipe) -> frozenset[str]:
        """Return the options of fine-tuning, and of closed-form heads and their features."""
        views = {"n_views"} if self.mode.freezes == "nothing" else set()
        return FINETUNES | {"head", "pooling"} | views

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """See `Approach.fit`."""
        return fit_network(task, extractors[0], self.mode)


def check_single_backbone(recipe: Recipe) -> None:
    """Raise `RecipeError` for options that gradient descent does not support."""
    if "+" in recipe.backbone:
        raise RecipeError(
            f"backbone {recipe.backbone!r} names several, but {recipe.approach} trains one.",
            hint="Name one of them, or use --approach linear, which can fuse them.",
        )
    if recipe.augment != "auto":
        parse_augment(recipe.augment)


def training_deadline(task: FitTask) -> Deadline:
    """Return when everything has to be over; embedding with the trained network is added once its pace is known."""
    after = FINISH_SECONDS + FINISH_SHARE * seconds(task.recipe.budget)
    return Deadline(at=task.clock.now() + task.seconds_left, after=after, clock=task.clock.now)


def fit_network(
    task: FitTask, extractor: FeatureExtractor, mode: TrainingMode, start: LinearLayer | None = None
) -> ApproachResult:
    """Train within the budget starting from `extractor` and the last layer `start` (None: a random one).

    Raises `BudgetTooSmall` if there is no time for one epoch; otherwise as in `Approach.fit`.
    """
    from headstart.training.finetune import TrainingData, finetune

    sets, begun = task.dataset.sets, task.clock.now()
    data = TrainingData(
        images=task.images,
        labels_N=task.dataset.labels,
        train=sets.train,
        val=sets.val,
        n_classes=len(task.dataset.classes),
        names=task.dataset.paths,
    )
    result = finetune(
        extractor,
        data,
        task.recipe,
        task.runtime,
        mode=mode,
        start=start,
        deadline=training_deadline(task),
        resume=task.resume,
        replanned=task.earlier.replanned,
    )
    try:
        features = task.embed((result.extractor,))
    except BaseException:
        result.discard()
        raise
    val_logits_NK, labels_N = result.layer(features[0][sets.val]), task.val_labels_N
    losses_N = cross_entropies(val_logits_NK / fit_temperature(val_logits_NK, labels_N), labels_N)
    row = HistoryRow(
        stage="finetune",
        backbone=extractor.backbone.name,
        approach=mode.name,
        wise_ft=result.wise_ft,
        n_images=len(sets.train),
        val_log_loss=float(losses_N.mean()),
        val_accuracy=float((val_logits_NK.argmax(1) == labels_N).mean()),
        seconds=round(task.clock.now() - begun, 3),
    )
    member = EnsembleMember(result.extractor, result.layer)
    candidate = Candidate((member,), features, val_logits_NK, finetuned=result)
    found = result.recipe  # record options found during training, so that the recipe can be repeated
    recipe = replace(task.recipe, epochs=found.epochs, lr=found.lr, unfreeze=found.unfreeze, n_views=found.n_views)
    task.clock.lap("train")
    return ApproachResult(candidate, (row,), recipe)
