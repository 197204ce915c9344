"""Weigh two classifiers' logits, and judge whether their weighted sum pays: `weigh`.

The weights minimise the log-loss on the validation set, shrunk towards a prior. Whether the sum pays is judged out of fold:
each image by weights and temperatures from the other folds. It must be a clear gain (`combine.is_clear_gain`), because what
is added makes the classifier larger. Costs milliseconds. When not to use it: for several members of an ensemble, which
`combine` weighs by leave-one-out on all images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headstart.data.folds import FOLDS, assign_folds
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.image_groups import ImageGroups, counted_groups, groups_of
from headstart.evaluation.probabilities import cross_entropies
from headstart.io.progress import log
from headstart.pipeline.combine import LEAST_GROUPS, fit_weights, is_clear_gain


@dataclass(frozen=True)
class Addition:
    """What may be added to a classifier, in words, and the proportion of weights that is expected (`towards`).

    `base` and `added` name both in a list of log-losses; the other texts complete sentences.
    """

    base: str
    added: str
    pays: str
    does_not_pay: str
    has_weight: str
    towards: tuple[float, float]


FINE_TUNING = Addition(
    base="frozen",
    added="fine-tuned",
    pays="fine-tuning pays",
    does_not_pay="fine-tuning does not clearly pay",
    has_weight="the fine-tuned network has",
    towards=(1.0, 0.0),  # its epoch and the coefficient of WiSE-FT were chosen on the same images
)
KERNELS = Addition(
    base="linear",
    added="kernels",
    pays="kernels pay",
    does_not_pay="kernels do not clearly pay",
    has_weight="kernels have",
    towards=(0.5, 0.5),
)


@dataclass(frozen=True)
class Weighing:
    """The best `factors` on both logits, the `share` of the weight that what is added has, whether it `pays`, and one
    sentence that says `why`."""

    factors: tuple[float, float]
    share: float
    pays: bool
    why: str


def weigh(
    base_NK: np.ndarray,
    added_NK: np.ndarray,
    labels_N: np.ndarray,
    addition: Addition,
    groups_N: np.ndarray | None = None,
) -> Weighing:
    """Weigh the logits (N, K) of a validation set. `groups_N` int64 are equal for images that are not independent: those are
    in one fold, and with fewer groups than folds nothing can be judged, so nothing is added."""
    grouped = groups_of(groups_N, len(labels_N))
    if grouped is not None and grouped.count < LEAST_GROUPS:
        count = counted_groups(grouped.count)
        why = f"The validation set has {count} of images, too few to tell whether {addition.pays}."
        return Weighing(factors=(1.0, 0.0), share=0.0, pays=False, why=_logged(why))
    base, added, summed = _out_of_fold(base_NK, added_NK, labels_N, addition, grouped)
    *factors, share = _factors(base_NK, added_NK, labels_N, addition)
    pays = is_clear_gain(base - summed, float(base.mean()), grouped)
    verdict = f"{addition.has_weight} {share:.0%} of the weight" if pays else addition.does_not_pay
    why = (
        f"Validation log-loss: {addition.base} {base.mean():.4f}, {addition.added} {added.mean():.4f}, weighted sum "
        f"{summed.mean():.4f} (out of fold); {verdict}."
    )
    return Weighing(factors=(factors[0], factors[1]), share=share, pays=pays, why=_logged(why))


def _logged(why: str) -> str:
    log.info("%s", why)
    return why


def _factors(
    base_NK: np.ndarray, added_NK: np.ndarray, labels_N: np.ndarray, addition: Addition
) -> tuple[float, float, float]:
    """Return the factors on both logits whose sum is best, and the share of the weight that what is added has."""
    scales = [1 / fit_temperature(logits_NK, labels_N) for logits_NK in (base_NK, added_NK)]
    scaled = [base_NK * scales[0], added_NK * scales[1]]
    weights = fit_weights(scaled, labels_N, towards=addition.towards)
    scale = 1 / fit_temperature(scaled[0] * weights[0] + scaled[1] * weights[1], labels_N)
    one, other = (own * weight * scale for own, weight in zip(scales, weights, strict=True))
    return one, other, weights[1] / max(sum(weights), 1e-9)


def _out_of_fold(
    base_NK: np.ndarray, added_NK: np.ndarray, labels_N: np.ndarray, addition: Addition, grouped: ImageGroups | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each image's log-loss (N,) with either alone and with their sum, scaled and weighed on the other folds."""
    base, added, summed = (np.zeros(base_NK.shape) for _ in range(3))
    folds_N = assign_folds(labels_N, np.arange(len(labels_N)) if grouped is None else grouped.number_N, seed=0)
    for fold in range(FOLDS):
        held_N, rest_N = folds_N == fold, folds_N != fold
        if not held_N.any() or not rest_N.any():
            continue
        known_N = labels_N[rest_N]
        one, other, _ = _factors(base_NK[rest_N], added_NK[rest_N], known_N, addition)
        base[held_N] = base_NK[held_N] / fit_temperature(base_NK[rest_N], known_N)
        added[held_N] = added_NK[held_N] / fit_temperature(added_NK[rest_N], known_N)
        summed[held_N] = base_NK[held_N] * one + added_NK[held_N] * other
    return cross_entropies(base, labels_N), cross_entropies(added, labels_N), cross_entropies(summed, labels_N)
