"""`Approach`: a way from images to a classifier, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.fit_task import FitTask
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe, options_in

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult


TRAINS = options_in("Augmentation", "Gradient", "Fine-tuning") - {"tta"} | {"hidden_layer_sizes", "dropout"}
"""Options that only gradient descent uses."""
FINETUNES = options_in("Fine-tuning") - {"n_views"}
"""Options that only fine-tuning uses."""


@dataclass(frozen=True, eq=False)
class ApproachResult:
    """The `candidate` to calibrate, a history row per trial, and the recipe with options found during training.

    `two_inputs` is the number of backbones, of the best ones, that see each image in two ways. `attempt` is the result of
    gradient descent that was tried but not selected; `why`, one sentence on what was compared.
    """

    candidate: Candidate
    history: tuple[HistoryRow, ...]
    recipe: Recipe
    two_inputs: int = 0
    attempt: FinetuneResult | None = None
    why: str = ""


class Approach(Protocol):
    """A way from images to a classifier."""

    @property
    def pretrained(self) -> bool:
        """Whether it starts from pretrained weights."""

    @property
    def cost(self) -> int:
        """Its approximate time relative to a linear layer: orders trials and divides a budget among them."""

    def check(self, recipe: Recipe) -> None:
        """Raise `RecipeError` for unsupported options, before any work."""

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return whether gradient descent may be used, which needs torch."""

    def ignores(self, recipe: Recipe) -> frozenset[str]:
        """Return the names of the options that have no effect."""

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """Fit on the training set, choose on the validation set; the labels of the test set are not used.

        `extractors` are the backbones to use, best first. Raises `BadSplit` (images that changed), `BackboneError`,
        `WriteError`, `TrainingFailed`, `UnfinishedTraining`.
        """
