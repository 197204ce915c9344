"""`Candidate`: a classifier that may become the result, before calibration; and the weighted sum of two.

An approach returns one. `auto` has two, linear layers on frozen backbones and a fine-tuned network, and weighs them by
their log-loss on the validation set, shrunk towards the frozen backbones alone. Costs milliseconds. Not for evaluation: the
labels of the test set are not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.data.folds import FOLDS, assign_folds
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.image_groups import ImageGroups, counted_groups, groups_of
from headstart.evaluation.probabilities import cross_entropies
from headstart.io.progress import log
from headstart.model.inference.classifier import EnsembleMember
from headstart.pipeline.combine import LEAST_GROUPS, fit_weights, is_clear_gain
from headstart.pipeline.fit_heads import FittedHead

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
    sentence that gives the reason.

    The weights minimise the log-loss on the validation set, shrunk towards the frozen candidate alone, because the epoch and
    the coefficient of WiSE-FT were chosen on the same images. Whether the sum pays is judged out of fold: each image by
    weights and temperatures from the other folds. It must be a clear gain (`combine.is_clear_gain`): the network costs as
    much at prediction as any other member. `groups_N` int64 are equal for images that are not independent: those are in one
    fold, and with fewer groups than folds nothing can be judged.
    """
    logits, grouped = (frozen.val_logits_NK, finetuned.val_logits_NK), groups_of(groups_N, len(labels_N))
    if grouped is not None and grouped.count < LEAST_GROUPS:
        why = f"The validation set has {counted_groups(grouped.count)} of images, too few to tell whether fine-tuning pays."
        log.info("%s", why)
        return frozen.tempered(labels_N), why
    losses = _out_of_fold(*logits, labels_N, grouped)
    one, other, share = _factors(*logits, labels_N)
    alone_N, _, both_N = losses.values()
    pays = is_clear_gain(alone_N - both_N, float(alone_N.mean()), grouped)
    listed = ", ".join(f"{name} {loss_N.mean():.4f}" for name, loss_N in losses.items())
    verdict = f"the fine-tuned network has {share:.0%} of the weight" if pays else "fine-tuning does not clearly pay"
    why = f"Validation log-loss: {listed} (out of fold); {verdict}."
    log.info("%s", why)
    if not pays:
        return frozen.tempered(labels_N), why
    if share > 1 - LEAST_WEIGHT:
        return finetuned.tempered(labels_N), why
    return frozen.times(one).plus(finetuned.times(other)), why


def _factors(frozen_NK: np.ndarray, finetuned_NK: np.ndarray, labels_N: np.ndarray) -> tuple[float, float, float]:
    """Return the factors on both logits whose sum is best, and the fine-tuned network's share of the weight."""
    scales = [1 / fit_temperature(logits_NK, labels_N) for logits_NK in (frozen_NK, finetuned_NK)]
    scaled = [frozen_NK * scales[0], finetuned_NK * scales[1]]
    weights = fit_weights(scaled, labels_N, towards=(1.0, 0.0))
    scale = 1 / fit_temperature(scaled[0] * weights[0] + scaled[1] * weights[1], labels_N)
    one, other = (own * weight * scale for own, weight in zip(scales, weights, strict=True))
    return one, other, weights[1] / max(sum(weights), 1e-9)


def _out_of_fold(
    frozen_NK: np.ndarray, finetuned_NK: np.ndarray, labels_N: np.ndarray, grouped: ImageGroups | None
) -> dict[str, np.ndarray]:
    """Return each image's log-loss (N,) with either candidate and with their sum, scaled and weighed on the other folds."""
    scaled = {name: np.zeros(frozen_NK.shape) for name in ("frozen", "fine-tuned", "weighted sum")}
    folds_N = assign_folds(labels_N, np.arange(len(labels_N)) if grouped is None else grouped.number_N, seed=0)
    for fold in range(FOLDS):
        held_N, rest_N = folds_N == fold, folds_N != fold
        if not held_N.any() or not rest_N.any():
            continue
        rest, held = (frozen_NK[rest_N], finetuned_NK[rest_N]), (frozen_NK[held_N], finetuned_NK[held_N])
        known_N = labels_N[rest_N]
        one, other, _ = _factors(*rest, known_N)
        scaled["frozen"][held_N] = held[0] / fit_temperature(rest[0], known_N)
        scaled["fine-tuned"][held_N] = held[1] / fit_temperature(rest[1], known_N)
        scaled["weighted sum"][held_N] = held[0] * one + held[1] * other
    return {name: cross_entropies(logits_NK, labels_N) for name, logits_NK in scaled.items()}
