"""What was tried in a training, a row each: `history.csv` of a run folder.

Not for what happens within a training by gradient descent: those rows are `EpochRow` and `StepRow` in `training.hooks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HistoryRow:
    """One thing that was tried, a row of `history.csv`. Losses are in nats, lower is better; NaN where not measured.

    `stage` is 'choose' (backbones), 'head' (closed-form last layers) or 'finetune' (gradient descent, by whichever
    `approach`). `head` and `strength` are of closed-form layers, `wise_ft` is the coefficient of WiSE-FT.
    """

    stage: str
    backbone: str
    approach: str
    head: str = ""
    strength: float = math.nan
    wise_ft: float = math.nan
    n_images: int
    loo_log_loss: float = math.nan
    loo_accuracy: float = math.nan
    val_log_loss: float = math.nan
    val_accuracy: float = math.nan
    seconds: float
