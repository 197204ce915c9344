"""Hooks to observe or stop training: methods that do nothing unless overridden.

>>> class Stopwatch(Hooks):
...     def after_epoch(self, state):
...         if state.rows[-1].seconds > 60:
...             state.stop("epochs take more than a minute")

Pass such objects to `training.loop.fit(..., hooks=[Stopwatch()])`; they are called in that order. Changes that a hook
makes to the module or the recipe are not recorded: a hook for training that must resume to the bit should only observe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headstart.training.recipe import Recipe


@dataclass(frozen=True)
class EpochRow:
    """One epoch (from 0). Training figures are running means over the epoch, in training mode, of the minimised loss;
    `val_loss` is the same loss without smoothing and class weights, that is, the log-loss unless the recipe's loss is
    softmax_twice. `lr` is that of the last step. NaN without validation."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class StepRow:
    """One step (from 0): the learning rate of groups with `lr_scale` 1, and the loss before the step."""

    step: int
    epoch: int
    lr: float
    loss: float


@dataclass(eq=False)
class State:
    """The state that hooks receive. Epochs, batches and steps count from 0; after a step, `step` is the number done."""

    module: Any
    recipe: Recipe
    epochs: int
    total_steps: int
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch done so far."""
    step: int = 0
    lr: float = 0.0
    """Learning rate of the current step, for a group whose `lr_scale` is 1."""
    loss: float = float("nan")
    """Loss of the last step."""
    rows: list[EpochRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    best_epoch: int = -1
    stopped: str = ""

    def stop(self, reason: str) -> None:
        """Stop training after this epoch."""
        self.stopped = self.stopped or reason


class Hooks:
    """Override the methods you need; each receives the `State`."""

    def before_fit(self, state: State) -> None:
        """Called once, after resuming an interrupted training (`state.step` is then above 0)."""

    def before_epoch(self, state: State) -> None:
        """Called with the module in training mode; called again for an epoch resumed in the middle."""

    def before_step(self, state: State) -> None:
        """Called once learning rates are set, before the batches are used."""

    def after_step(self, state: State) -> None:
        """Called once weights, `state.loss` and `state.steps` are updated, before the checkpoint is written."""

    def after_epoch(self, state: State) -> None:
        """Called once the epoch is validated and `state.rows` updated, before the checkpoint is written."""

    def after_fit(self, state: State) -> None:
        """Called once, when the module holds the best weights."""
