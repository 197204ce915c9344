"""`Candidate`: a classifier that may become the result, before calibration; and the choice between two.

An approach returns one. `auto` has two, a linear layer on frozen backbones and a fine-tuned network, and selects the
fine-tuned one (or a weighted sum of both) only if validation shows a clear gain. Costs only a few losses on the
validation set. Not for evaluation: the labels of the test set are not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.probabilities import cross_entropies
from headstart.io.progress import log
from headstart.model.inference.classifier import EnsembleMember
from headstart.pipeline.combine import CLEAR_GAIN
from headstart.pipeline.fit_heads import FittedHead

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult

CLEARLY = 2.0
"""Number of standard errors by which a fine-tuned classifier must be better on validation."""

MIXTURES = (0.25, 0.5, 0.75)
"""Weights of the fine-tuned classifier in a blend with the frozen one."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """`members` as they would be saved, `features` float32 (N, D) of all images for each, and logits on the validation
    set from layers fitted on the training set only, all before calibration.

    `head` is the closed-form head, `finetuned` the result of gradient descent; None if not part of it.
    """

    members: tuple[EnsembleMember, ...]
    features: tuple[np.ndarray, ...]
    val_logits_NK: np.ndarray
    head: FittedHead | None = None
    finetuned: FinetuneResult | None = None

    def times(self, factor: float) -> Candidate:
        """Return the same candidate with its logits multiplied by a factor."""
        members = tuple(EnsembleMember(m.extractor, m.layer.times(factor)) for m in self.members)
        return replace(self, members=members, val_logits_NK=self.val_logits_NK * factor)

    def plus(self, other: Candidate) -> Candidate:
        """Return the ensemble of both, whose logits are the sum."""
        return Candidate(
            members=(*self.members, *other.members),
            features=(*self.features, *other.features),
            val_logits_NK=self.val_logits_NK + other.val_logits_NK,
            head=self.head or other.head,
            finetuned=self.finetuned or other.finetuned,
        )

    def tempered(self, labels_N: np.ndarray) -> Candidate:
        """Return the same candidate at its best temperature, given the labels of the validation set."""
        return self.times(1 / fit_temperature(self.val_logits_NK, labels_N))


def preferred(
    frozen: Candidate, finetuned: Candidate, labels_N: np.ndarray, initial_NK: np.ndarray | None = None
) -> tuple[Candidate, str]:
    """Return the candidate to use, and one sentence that gives the reason.

    That is the one on frozen backbones, unless the fine-tuned one or a weighted sum of both is clearly better on
    validation; then the one of these with the lowest log-loss.

    Clearly: lower by `CLEAR_GAIN`, and by `CLEARLY` standard errors of the paired difference. Less is not enough,
    because the epoch and the coefficient of WiSE-FT were chosen on the same images (cats-dogs, 140 of them: a gain of
    0.024 within its noise became a loss of 0.021 on the test set). The gain must also be clear over the layer that
    fine-tuning started from, `initial_NK` (logits on val): using one backbone instead of two is not a gain of
    fine-tuning.
    """
    frozen, finetuned = frozen.tempered(labels_N), finetuned.tempered(labels_N)
    others = {"fine-tuned": finetuned}
    others |= {f"{w:.0%} blend": frozen.times(1 - w).plus(finetuned.times(w)).tempered(labels_N) for w in MIXTURES}
    losses = {name: cross_entropies(c.val_logits_NK, labels_N) for name, c in {"frozen": frozen, **others}.items()}
    best = min(others, key=lambda name: float(losses[name].mean()))
    gain, pays = _gain(losses["frozen"], losses[best])
    if initial_NK is not None:
        initial_N = cross_entropies(initial_NK / fit_temperature(initial_NK, labels_N), labels_N)
        own_gain, helped = _gain(initial_N, losses["fine-tuned"])
        gain, pays = f"{gain}; of fine-tuning over its starting point {own_gain}", pays and helped
    listed = ", ".join(f"{name} {loss_N.mean():.4f}" for name, loss_N in losses.items())
    verdict = f"{best} selected" if pays else "fine-tuning does not clearly pay"
    why = f"Validation log-loss: {listed}. Gain {gain}: {verdict}."
    log.info("%s", why)
    return (others[best] if pays else frozen), why


def _gain(before_N: np.ndarray, after_N: np.ndarray) -> tuple[str, bool]:
    """Return the reduction in log-loss on the same images as text, and whether it is clear."""
    gain_N = before_N - after_N
    noise = float(gain_N.std()) / math.sqrt(len(gain_N))
    clear = bool(gain_N.mean() > max(CLEAR_GAIN * before_N.mean(), CLEARLY * noise))
    return f"{gain_N.mean():.4f} (standard error {noise:.4f})", clear
