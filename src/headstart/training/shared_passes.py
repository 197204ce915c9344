"""Forward and backward passes that several processes share: their results are those of one process.

A step consists of `grad_accum_steps` batches, whatever the number of processes W. Rank r computes its batches
r, r + W, ...: each loss is divided by the weight of the whole step, seeds depend on the number of a batch, and rank 0 adds
gradients in the order of batches. So on CPUs, with the same number of threads in each process, weights, moments and losses
are the same to the bit for any W. (NCCL adds gradients in another order; they then agree to about 1e-6.) Validation is
shared in the same way, without padding: each image is scored once, and sums are taken in the order of batches.

Rank 0 trains (`LeadingPasses`, in `training.loop`): it alone has the optimiser, the moving average, snapshots and the clock.
The others follow (`training.follower`): they get the weights with each order, and keep only their batches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch

from headstart import errors
from headstart.errors import HeadstartError, NoImages, TrainingFailed
from headstart.training.batches import Batch, Batches
from headstart.training.passes import (
    BatchResult,
    GhostNorms,
    GradientSum,
    Passes,
    Score,
    StepPlan,
    StepResult,
    out_of_memory,
)
from headstart.training.ranks import Team
from headstart.training.recipe import Recipe

DONE, NO_MEMORY, FAILED = 0.0, 1.0, 2.0
"""Outcome of a rank's part of the work."""


class SharedPasses(Passes):
    """The passes of one rank, and the exchange that combines the results of all ranks."""

    def __init__(
        self, module: torch.nn.Module, recipe: Recipe, device: str, class_weights: np.ndarray | None, team: Team
    ) -> None:
        super().__init__(module, recipe, device, class_weights)
        self.team, self.share = team, (team.rank, team.size)
        self.failure: HeadstartError | None = None

    def take_part(self, batches: Sequence[Batch], at: StepPlan) -> StepResult | None:
        """Compute this rank's `batches` of a step; on rank 0, leave the gradient of the whole step in the parameters.

        Returns None if any rank ran out of memory. Raises what another rank reports.
        """
        weight, images = self._counted(batches, at.count)
        ghosts = self.ghosts()
        total = GradientSum(self.module, ghosts)
        waiting = iter(batches)
        for first in range(0, at.count, self.team.size):
            givers = range(1, min(self.team.size, at.count - first))
            batch = next(waiting) if self.team.rank in range(givers.stop) else None
            if not self._round(total, ghosts, batch, weight, at, first + self.team.rank, givers):
                return None
        loss, right = total.close()
        return StepResult(loss, weight, right, images)

    def _counted(self, batches: Sequence[Batch], count: int) -> tuple[float, int]:
        """Return the weight and the number of images of the whole step, which has `count` batches."""
        counts_B3 = np.zeros((count, 3))
        if self.failure is not None:
            counts_B3[:, 2] = 1
        for number, batch in zip(self.numbers(count), batches, strict=self.failure is None):
            counts_B3[number, :2] = self.weight(batch), len(batch)
        counts_B3 = self.team.total(counts_B3)
        self._raise_failures(bool(counts_B3[:, 2].any()))
        images = int(counts_B3[:, 1].sum())
        if not images:
            raise NoImages(
                f"none of the {count} batches of a step could be read.",
                hint="Is the image folder still there? `headstart check` lists the unreadable images.",
            )
        return sum(counts_B3[:, 0].tolist()), images

    def _round(
        self,
        total: GradientSum,
        ghosts: GhostNorms | None,
        batch: Batch | None,
        weight: float,
        at: StepPlan,
        number: int,
        givers: range,
    ) -> bool:
        """Compute one batch on each rank, and add their gradients in order. Return whether memory sufficed."""
        rows_WX = np.zeros((self.team.size, 5 + (ghosts.numel if ghosts else 0)))
        row = rows_WX[self.team.rank]
        try:
            if batch:
                result = self.of_batch(batch, weight, at.seeds, number, ghosts)
                found = result.statistics.cpu()
                row[1], row[2:4], row[4] = 1, result.sums.cpu(), len(found)
                row[5 : 5 + len(found)] = found
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            row[0] = NO_MEMORY
        rows_WX = self.team.total(rows_WX)
        if rows_WX[:, 0].any():
            return False
        for row in rows_WX[rows_WX[:, 1] == 1]:
            statistics = torch.from_numpy(row[5 : 5 + int(row[4])]).float()
            total.note(BatchResult(torch.from_numpy(row[2:4]), statistics))
        self._add_up(total, givers)
        return True

    def _add_up(self, total: GradientSum, givers: range) -> None:
        if self.team.rank == 0:
            total.take()
        self.team.collect(total.flat(), givers, total.take_flat)

    def score_part(self, batches: Batches) -> Score:
        """Score this rank's share of the batches; return the score of all."""
        many, rank = len(batches), self.team.rank
        table = np.zeros((many + self.team.size, 3))
        try:
            with self.evaluating():
                shares = batches.epoch(0, only=self.share)
                for number, batch in zip(range(rank, many, self.team.size), shares, strict=True):
                    table[number] = (*self.score_batch(batch).tolist(), len(batch))
        except HeadstartError as error:
            self.failure = error
        table[many + rank] = (FAILED if self.failure else DONE, self.at_once, 0)
        table = self.team.total(table)
        self._raise_failures(bool(table[many:, 0].any()))
        self.at_once = int(min((n for n in table[many:, 1] if n), default=0))
        sums = np.zeros(2)
        for row in table[:many, :2]:  # in the order in which one process would add them
            sums += row
        loss, right = (sums / max(int(table[:many, 2].sum()), 1)).tolist()
        return Score(loss, right)

    def _raise_failures(self, failed: bool) -> None:
        """If any rank `failed`, raise its error on rank 0; the others wait for the decision of rank 0."""
        if not failed:
            return
        own, self.failure = self.failure, None
        raise_reported(self.team, own)


class LeadingPasses(SharedPasses):
    """The passes of rank 0: each one first tells the others to take part."""

    def __init__(
        self, module: torch.nn.Module, recipe: Recipe, device: str, class_weights: np.ndarray | None, team: Team
    ) -> None:
        super().__init__(module, recipe, device, class_weights, team)
        weights = None if class_weights is None else np.asarray(class_weights).tolist()
        team.tell("passes", recipe=recipe.as_dict(), class_weights=weights)

    def gradient(self, batches: Sequence[Batch], at: StepPlan, optimizer: torch.optim.Optimizer) -> StepResult:
        """Accumulate the gradient of the mean loss over all batches of the step in the parameters."""
        while True:
            optimizer.zero_grad(set_to_none=True)
            self.team.tell("gradient", at=asdict(at), at_once=self.at_once)
            self.team.same_state(self.module)
            result = self.take_part(batches, at)
            if result is not None:
                return result
            self.halve(max(len(batch) for batch in batches))

    def score(self, batches: Batches) -> Score:
        """Return mean loss and accuracy over the validation set."""
        self.team.tell("score", at_once=self.at_once)
        self.team.same_state(self.module)
        return self.score_part(batches)


def raise_reported(team: Team, own: HeadstartError | None) -> None:
    """Called on all ranks, each with its own error if it has one: raise the first rank's error on all of them."""
    reports = team.reports(json.dumps([type(own).__name__, own.message, own.hint]) if own else "")
    for report in filter(None, reports):
        name, message, hint = json.loads(report)
        kind = getattr(errors, name)
        raise TrainingFailed(message, hint=hint) if kind is errors.UnreadableImage else kind(message, hint=hint)
