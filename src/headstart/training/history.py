"""What was tried in a training, a row each: `history.csv` of a run folder.

Not for what happens within a training by gradient descent: those rows are `EpochRow` and `StepRow` in `training.hooks`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class HistoryRow:
    """One thing that was tried, a row of `history.csv`. Losses are in nats, lower is better; NaN where not measured."""

    stage: str
    backbone: str
    head: str
    strength: float
    images: int
    loo_log_loss: float
    loo_accuracy: float
    val_log_loss: float
    val_accuracy: float
    seconds: float
