"""`Candidate`: a classifier that may become the result, before calibration; and the weighted sum of two.

An approach returns one. `auto` has two, linear layers on frozen backbones and a fine-tuned network, and weighs them by
their log-loss on the validation set, shrunk towards the frozen backbones alone. Costs milliseconds. Not for evaluation: the
labels of the test set are not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.probabilities import cross_entropies
from headstart.io.progress import log
from headstart.model.inference.classifier import EnsembleMember
from headstart.pipeline.combine import CLEAR_GAIN, fit_weights
from headstart.pipeline.fit_heads import FittedHead

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult


@dataclass(frozen=True, eq=False)
class Candidate:
    """`members` as they would be saved, the `features` float32 (N, D) of all images for each member, and logits on the
    validation set from layers fitted on the training set only; all before calibration.

    `heads` are the closed-form heads, in the order of their members; `finetuned` is the result of gradient descent, None if
    not part of the candidate.
    """

    members: tuple[EnsembleMember, ...]
    features: tuple[np.ndarray, ...]
    val_logits_NK: np.ndarray
    heads: tuple[FittedHead, ...] = ()
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
            heads=(*self.heads, *other.heads),
            finetuned=self.finetuned or other.finetuned,
        )

    def tempered(self, labels_N: np.ndarray) -> Candidate:
        """Return the same candidate at its best temperature, given the labels of the validation set."""
        return self.times(1 / fit_temperature(self.val_logits_NK, labels_N))


def weighed(frozen: Candidate, finetuned: Candidate, labels_N: np.ndarray) -> tuple[Candidate, str]:
    """Return the weighted sum of both, or the frozen one alone, and one sentence that gives the reason.

    The weights minimise the log-loss on the validation set, shrunk towards the frozen candidate alone, because the epoch and
    the coefficient of WiSE-FT were chosen on the same images. A sum must lower the log-loss by `CLEAR_GAIN`: the network
    costs as much at prediction as any other member.
    """
    frozen, finetuned = frozen.tempered(labels_N), finetuned.tempered(labels_N)
    logits = [frozen.val_logits_NK, finetuned.val_logits_NK]
    weights = fit_weights(logits, labels_N, towards=(1.0, 0.0))
    both = frozen.times(weights[0]).plus(finetuned.times(weights[1])).tempered(labels_N)
    named = {"frozen": frozen, "fine-tuned": finetuned, "weighted sum": both}
    losses = {name: float(cross_entropies(c.val_logits_NK, labels_N).mean()) for name, c in named.items()}
    share = weights[1] / max(sum(weights), 1e-9)
    pays = losses["weighted sum"] < (1 - CLEAR_GAIN) * losses["frozen"]
    listed = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    verdict = f"the fine-tuned network has {share:.0%} of the weight" if pays else "fine-tuning does not clearly pay"
    why = f"Validation log-loss: {listed}; {verdict}."
    log.info("%s", why)
    return (both if pays else frozen), why
