"""How gradient training went, in one plain sentence, from its epochs (rows of epochs.csv).

The first rule that holds decides; `best` is the epoch with the lowest validation loss:

- broke off: a loss was not finite, which ended training early (an epoch without it has no row);
- overfitting: at least two epochs follow the best one, their mean validation loss is more than 5 % above it, and the
  training loss kept falling;
- no progress: the first epoch is the best of three or more, or validation loss has fallen by less than 1 % since then,
  and the training loss has not fallen by 5 %;
- still learning: validation loss fell by more than 5 % in the last quarter of the epochs (at least one);
- healthy: otherwise. It has levelled off.

This reads two curves and is not a statistical test: the validation loss on few images fluctuates by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

RISEN, FALLEN = 1.05, 0.95


WITHOUT_GAIN = "no better "
"""How the reason starts with which `patience` stops training."""


def verdict(epochs: Sequence[Mapping[str, float]], stopped: str = "") -> str:
    """Return one sentence that starts with the verdict. `epochs` are rows of epochs.csv, values as numbers or text; `stopped`
    is the reason for which training ended before the last epoch."""
    trained, judged = _column(epochs, "train_loss"), _column(epochs, "val_loss")
    best, n = best_round(epochs), len(epochs)
    if n == 0:
        return "No epochs: nothing was trained by gradient descent."
    if best is None:
        return "Unknown: there is no validation loss."
    if stopped and not stopped.startswith(WITHOUT_GAIN):
        return (
            f"Broke off: {stopped.rstrip('.')}; the weights are those of epoch {best + 1}, and a lower --lr may help."
        )
    if n == 1:
        return f"Too few epochs to tell: after a single one, validation loss is {judged[0]:.3g}."
    least, where = judged[best], f"epoch {best + 1} of {n}"
    after = [x for x in judged[best + 1 :] if math.isfinite(x)]
    if len(after) >= 2 and sum(after) / len(after) > RISEN * least and trained[-1] < trained[best]:
        return (
            f"Overfitting: validation loss has risen from {least:.3g} in {where} to {after[-1]:.3g}, "
            f"while training loss fell from {trained[best]:.3g} to {trained[-1]:.3g}."
        )
    if n >= 3 and least > 0.99 * judged[0] and not min(trained[1:]) < FALLEN * trained[0]:
        return f"No progress: in {n} epochs, validation loss has not fallen below the {judged[0]:.3g} of the first."
    last = max(1, n // 4)
    before = min((x for x in judged[: n - last] if math.isfinite(x)), default=math.inf)
    if least < FALLEN * before:
        rounds = "the last epoch" if last == 1 else f"the last {last} epochs"
        fell = f"fell from {before:.3g} to {least:.3g}" if math.isfinite(before) else f"reached {least:.3g}"
        return f"Still learning: validation loss {fell} in {rounds}, so more epochs may help."
    return f"Healthy: validation loss has levelled off, at {least:.3g} in {where} (training loss there {trained[best]:.3g})."


def best_round(epochs: Sequence[Mapping[str, float]]) -> int | None:
    """Return the index of the epoch with the lowest validation loss, the first of equals; None if there is none."""
    judged = _column(epochs, "val_loss")
    known = [i for i, x in enumerate(judged) if math.isfinite(x)]
    return min(known, key=lambda i: judged[i]) if known else None


def _column(epochs: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """Return the values of a column, NaN where missing."""
    return [float(value) if (value := row.get(name, "")) not in ("", None) else math.nan for row in epochs]
