"""How a training by gradient descent went, in one plain sentence, from its epochs (rows of epochs.csv).

The rule, the first that holds; `best` is the epoch of least validation loss:

- overfitting: at least two epochs follow the best one, their mean validation loss is more than 5 % above it, and the
  training loss went on falling;
- no progress: the first epoch is the best of three or more, or validation loss has fallen by less than 1 % since it, and
  the training loss has not fallen by 5 %;
- still learning: validation loss fell by more than 5 % in the last quarter of the epochs (at least one);
- healthy: otherwise. It has levelled off.

It is a reading of two curves, with no test behind it: the validation loss of few images moves by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

RISEN, FALLEN = 1.05, 0.95


def verdict(epochs: Sequence[Mapping[str, float]]) -> str:
    """One sentence that starts with the verdict. `epochs` are rows of epochs.csv, values as numbers or as text."""
    trained, judged = _column(epochs, "train_loss"), _column(epochs, "val_loss")
    best, n = best_round(epochs), len(epochs)
    if n == 0:
        return "No epochs: nothing was trained by gradient descent."
    if best is None:
        return "Not known: there is no validation loss to go by."
    if n == 1:
        return f"Too few epochs to say: after the only one, validation loss is {judged[0]:.3g}."
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
        fell = f"fell from {before:.3g} to {least:.3g}" if math.isfinite(before) else f"came down to {least:.3g}"
        return f"Still learning: validation loss {fell} in {rounds}, so more epochs may help."
    return f"Healthy: validation loss has levelled off, at {least:.3g} in {where} (training loss there {trained[best]:.3g})."


def best_round(epochs: Sequence[Mapping[str, float]]) -> int | None:
    """Place of the epoch with the least validation loss, the first of equals; None where there is no such loss."""
    judged = _column(epochs, "val_loss")
    known = [i for i, x in enumerate(judged) if math.isfinite(x)]
    return min(known, key=lambda i: judged[i]) if known else None


def _column(epochs: Sequence[Mapping[str, float]], name: str) -> list[float]:
    """Values of a column, NaN where there is none."""
    return [float(value) if (value := row.get(name, "")) not in ("", None) else math.nan for row in epochs]
