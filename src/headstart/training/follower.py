"""What ranks other than 0 do in a training: they `follow` the orders of `shared_passes.LeadingPasses`.

Orders are the names of methods of `_Follower`. Weights come with each order, so a rank never has to catch up.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from headstart.errors import HeadstartError, RankLost, TrainingFailed
from headstart.training.batches import Batch
from headstart.training.loop import TrainingTask
from headstart.training.mixing import mix
from headstart.training.optim import prepare_epoch
from headstart.training.passes import StepPlan
from headstart.training.ranks import Team
from headstart.training.recipe import Recipe
from headstart.training.shared_passes import SharedPasses


def follow(team: Team, task: TrainingTask) -> None:
    """On ranks other than 0: carry out rank 0's orders until it is done with this task. Raises `RankLost`."""
    follower = _Follower(team, task)
    while True:
        order, details = team.hear()
        if order == "end":
            return
        try:
            getattr(follower, order)(**details)
        except RankLost:
            raise
        except HeadstartError:  # rank 0 has been told, and raises it
            continue


class _Follower:
    """A rank other than 0; its methods are the orders."""

    def __init__(self, team: Team, task: TrainingTask) -> None:
        self.team, self.task = team, task
        task.module.to(
            task.device, memory_format=torch.channels_last if task.device != "cpu" else torch.preserve_format
        )
        self._recipe = Recipe()
        self._passes: SharedPasses | None = None
        self._unfrozen = -1
        self._at: StepPlan | None = None
        self._held: list[Batch] = []
        self._coming: Iterator[Batch] = iter(())
        self._next = (-1, -1)
        """Epoch and number of the next batch that `_coming` will yield."""

    def passes(self, recipe: dict[str, Any], class_weights: list[float] | None) -> None:
        """Create new passes; batches start from the beginning."""
        weights = None if class_weights is None else np.array(class_weights, np.float32)
        self._recipe = Recipe.from_dict(recipe)
        self._passes = SharedPasses(self.task.module, self._recipe, self.task.device, weights, self.team)
        self._at, self._next = None, (-1, -1)

    def gradient(self, at: dict[str, Any], at_once: int) -> None:
        """Compute this rank's batches of a step."""
        passes, plan = self._ready(at_once), StepPlan.of(at)
        if self._unfrozen != plan.unfrozen:
            prepare_epoch(self.task.module, self.task.groups, plan.unfrozen)
            self._unfrozen = plan.unfrozen
        self.team.same_state(self.task.module)
        for parameter in self.task.module.parameters():
            parameter.grad = None
        try:
            if self._at != plan:  # otherwise the same batches again, in smaller pieces
                self._held, self._at = self._read(passes, plan), plan
        except HeadstartError as error:
            passes.failure, self._held = error, []
        passes.take_part(self._held, plan)

    def score(self, at_once: int) -> None:
        """Score this rank's share of the validation set."""
        passes = self._ready(at_once)
        self.team.same_state(self.task.module)
        if self.task.val is not None:
            passes.score_part(self.task.val)

    def _ready(self, at_once: int) -> SharedPasses:
        if self._passes is None:
            raise TrainingFailed("Rank 0 sent its requests out of order.")
        self._passes.at_once = at_once
        return self._passes

    def _read(self, passes: SharedPasses, plan: StepPlan) -> list[Batch]:
        if self._next != (plan.epoch, plan.first):
            self._coming = self.task.train.epoch(plan.epoch, plan.first, only=passes.share)
        numbers, recipe = passes.numbers(plan.count), self._recipe
        batches = list(itertools.islice(self._coming, len(numbers)))
        self._next = (plan.epoch, plan.first + plan.count)
        return [
            mix(
                batch, self.task.n_classes, recipe.mixup, recipe.cutmix, recipe.seed, plan.mixing[0], plan.mixing[1] + n
            )
            for n, batch in zip(numbers, batches, strict=True)
        ]
