"""`Candidate`: a classifier that may become the result, before calibration; and the weighted sum of two.

An approach returns one. Where something may be added (a fine-tuned network to frozen backbones, kernels to linear layers),
both are weighed by their log-loss on the validation set, and the sum is taken if it clearly pays. Costs milliseconds. Not for
evaluation: the labels of the test set are not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.evaluation.calibration import fit_temperature
from headstart.model.inference.classifier import EnsembleMember
from headstart.pipeline.fit_heads import FittedHead
from headstart.pipeline.weigh import FINE_TUNING, weigh

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult


LEAST_WEIGHT = 0.01
"""Share of the weight below which frozen backbones are left out: they would be computed for nothing."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """`members` as they would be saved, the `features` float32 (N, D) of all images for each member, and logits on the
    validation set from layers fitted without those images; all before calibration. `train_logits_NK` are the same for the
    training set, None if there was no cross-validation.

    `heads` are the closed-form heads, in the order of their members; `finetuned` is the result of gradient descent, None if
    not part of the candidate.
    """

    members: tuple[EnsembleMember, ...]
    features: tuple[np.ndarray, ...]
    val_logits_NK: np.ndarray
    heads: tuple[FittedHead, ...] = ()
    finetuned: FinetuneResult | None = None
    train_logits_NK: np.ndarray | None = None

    def times(self, factor: float) -> Candidate:
        """Return the same candidate with its logits multiplied by a factor."""
        members = tuple(EnsembleMember(m.extractor, m.layer.times(factor)) for m in self.members)
        train_NK = None if self.train_logits_NK is None else self.train_logits_NK * factor
        return replace(self, members=members, val_logits_NK=self.val_logits_NK * factor, train_logits_NK=train_NK)

    def plus(self, other: Candidate) -> Candidate:
        """Return the ensemble of both, whose logits are the sum."""
        one_NK, other_NK = self.train_logits_NK, other.train_logits_NK
        return Candidate(
            members=(*self.members, *other.members),
            features=(*self.features, *other.features),
            val_logits_NK=self.val_logits_NK + other.val_logits_NK,
            heads=(*self.heads, *other.heads),
            finetuned=self.finetuned or other.finetuned,
            train_logits_NK=None if one_NK is None or other_NK is None else one_NK + other_NK,
        )

    def temperature(self, val_labels_N: np.ndarray, train_labels_N: np.ndarray | None = None) -> float:
        """Return the best temperature on the validation set, and on the training set if its labels are given and its logits
        known."""
        if train_labels_N is None or self.train_logits_NK is None:
            return fit_temperature(self.val_logits_NK, val_labels_N)
        both_NK = np.concatenate([self.val_logits_NK, self.train_logits_NK])
        return fit_temperature(both_NK, np.concatenate([val_labels_N, train_labels_N]))

    def tempered(self, val_labels_N: np.ndarray, train_labels_N: np.ndarray | None = None) -> Candidate:
        """Return the same candidate at its best temperature, see `temperature`."""
        return self.times(1 / self.temperature(val_labels_N, train_labels_N))


def weighed(
    frozen: Candidate, finetuned: Candidate, labels_N: np.ndarray, groups_N: np.ndarray | None = None
) -> tuple[Candidate, str]:
    """Return the weighted sum of both, or one alone (the fine-tuned one if the other has next to no weight), and one
    sentence that gives the reason. It must clearly pay: the network costs as much at prediction as any other member.

    `groups_N` int64 are equal for images that are not independent, see `weigh`.
    """
    found = weigh(frozen.val_logits_NK, finetuned.val_logits_NK, labels_N, FINE_TUNING, groups_N)
    if not found.pays:
        return frozen.tempered(labels_N), found.why
    if found.share > 1 - LEAST_WEIGHT:
        return finetuned.tempered(labels_N), found.why
    one, other = found.factors
    return frozen.times(one).plus(finetuned.times(other)), found.why
