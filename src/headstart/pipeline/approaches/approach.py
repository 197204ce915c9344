"""`Approach`: a way from images to a classifier, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.fit_task import FitTask
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult


@dataclass(frozen=True, eq=False)
class ApproachResult:
    """The `candidate` to calibrate, a history row per trial, and the recipe with options found during training.

    `attempt` is the result of gradient descent that was tried but not selected; `why`, one sentence on what was
    compared.
    """

    candidate: Candidate
    history: tuple[HistoryRow, ...]
    recipe: Recipe
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

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """Fit on the training set, choose on the validation set; the labels of the test set are not used.

        `extractors` are the backbones to use, best first. Raises `BadSplit` (images that changed), `BackboneError`,
        `WriteError`, `TrainingFailed`, `UnfinishedTraining`.
        """
