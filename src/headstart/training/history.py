"""Rows of `history.csv` in a run folder: one per configuration tried.

Epochs and steps of gradient training are not in it: those rows are `EpochRow` and `StepRow` in `training.hooks`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

KERNEL = "kernel"


@dataclass(frozen=True, kw_only=True)
class HistoryRow:
    """One configuration tried, a row of `history.csv`. Losses are in nats, lower is better; NaN where not measured.

    `stage` is 'choose' (backbones and inputs), 'head' (closed-form last layers) or 'finetune' (gradient training, whatever the
    `approach`). `pooling` says which maps the features are means of, see `Recipe.pooling`; `input` how images become the
    input of a frozen backbone. `head` and `strength` belong to closed-form layers; the head `KERNEL` is added to another.
    `wise_ft` is the coefficient of WiSE-FT. Metrics that begin with `loo` are from leave-one-out, those that begin with `cv`
    from cross-validation; images of one group (one patient, copies) are left out together in both.
    """

    stage: str
    backbone: str
    approach: str
    pooling: str = field(default="last", metadata={"optional": True})
    input: str = field(default="", metadata={"optional": True})
    head: str = ""
    strength: float = math.nan
    wise_ft: float = math.nan
    n_images: int
    loo_log_loss: float = math.nan
    loo_accuracy: float = math.nan
    cv_log_loss: float = field(default=math.nan, metadata={"optional": True})
    cv_accuracy: float = field(default=math.nan, metadata={"optional": True})
    val_log_loss: float = math.nan
    val_accuracy: float = math.nan
    seconds: float

    @property
    def choosing_log_loss(self) -> float:
        """The log-loss that chooses among trials of one kind: by cross-validation, leave-one-out or validation; the first
        that is known, else nan."""
        found = (self.cv_log_loss, self.loo_log_loss, self.val_log_loss)
        return next((loss for loss in found if not math.isnan(loss)), math.nan)
