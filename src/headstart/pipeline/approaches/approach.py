"""`Approach`: a way from images to a classifier, and what it gives."""

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
    """The `candidate` to calibrate, a history row for all that was tried, and the recipe with what was found on the way.

    `attempt` is what gradient descent gave if it was tried and takes no part; `why`, one sentence on what was compared.
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
        """Its time, roughly, relative to a linear layer's: orders trials and shares a budget among them."""

    def check(self, recipe: Recipe) -> None:
        """Raise `RecipeError` for what cannot be asked of it, before any work."""

    def trains_networks(self, recipe: Recipe) -> bool:
        """Whether gradient descent may come into it, which needs torch."""

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """Fit on the training set, choose on the validation set; the labels of the test set are not looked at.

        `extractors` are the backbones to use, best first. Raises `BadSplit` (images that changed), `BackboneError`,
        `WriteError`, `TrainingFailed`, `UnfinishedTraining`.
        """
