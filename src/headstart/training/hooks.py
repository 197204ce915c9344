"""Places where a training can be watched or ended: named methods that do nothing unless overridden.

>>> class Stopwatch(Hooks):
...     def after_epoch(self, state):
...         if state.rows[-1].seconds > 60:
...             state.stop("epochs take more than a minute")

Give such objects to `training.loop.fit(..., hooks=[Stopwatch()])`; they are called in that order. What a hook changes in
the module or the recipe is not recorded: a training that must resume to the bit should only be watched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from headstart.training.recipe import Recipe


@dataclass(frozen=True)
class EpochRow:
    """One epoch (from 0). Training figures are running means over it, taken in training mode, of the loss that is
    minimised; `val_loss` is the same loss without smoothing and class weights, that is the log-loss unless the recipe's
    loss is softmax_twice. `lr` is the last step's. NaN where there is no validation."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


@dataclass(frozen=True)
class StepRow:
    """One step (from 0): the rate of groups with `lr_scale` 1, and the loss before the step."""

    step: int
    epoch: int
    lr: float
    loss: float


@dataclass(eq=False)
class State:
    """What hooks see. Epochs, batches and steps are counted from 0; after a step, `step` is the number of steps done."""

    module: Any
    recipe: Recipe
    epochs: int
    total_steps: int
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are done."""
    step: int = 0
    lr: float = 0.0
    """Rate of the step being taken, of a group whose `lr_scale` is 1."""
    loss: float = float("nan")
    """Of the last step."""
    rows: list[EpochRow] = field(default_factory=list)
    steps: list[StepRow] = field(default_factory=list)
    best_epoch: int = -1
    stopped: str = ""

    def stop(self, reason: str) -> None:
        """End the training after this epoch."""
        self.stopped = self.stopped or reason


class Hooks:
    """Override what you need; each is given the `State`."""

    def before_fit(self, state: State) -> None:
        """Once, after an interrupted training was taken up (then `state.step` is above 0)."""

    def before_epoch(self, state: State) -> None:
        """The module is in training mode; an epoch taken up in the middle is announced again."""

    def before_step(self, state: State) -> None:
        """Rates are set; the batches were not seen yet."""

    def after_step(self, state: State) -> None:
        """The weights have moved; `state.loss` and `state.steps` are up to date; the checkpoint was not written yet."""

    def after_epoch(self, state: State) -> None:
        """The epoch was validated; `state.rows` is up to date; the checkpoint was not written yet."""

    def after_fit(self, state: State) -> None:
        """The module holds the best weights."""
