"""Kernels beside linear last layers, where there are enough images and the validation set shows that they pay.

A linear layer cannot follow a class that falls into several clusters. With a thousand images or more, nearness to single
training images can (`model.heads.kernel_features`): on photographs of rubbish, 1,800 images, it reduces the log-loss by
a fifth; on landscapes by 1 % (LOG.md). Costs 1 to 30 s per member. When not to use it: where the last layer must be a plain
dense one (`--head blend` or another kind, `--pooling last`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from headstart.evaluation.calibration import fit_temperature
from headstart.model.heads.kernel_features import kernel_features
from headstart.model.heads.kernel_layer import KernelLayer
from headstart.model.heads.linear import refit
from headstart.model.heads.search import search_head
from headstart.model.inference.classifier import EnsembleMember
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.fit_heads import FEW_IMAGES, FittedHead, trial
from headstart.pipeline.fit_task import FitTask
from headstart.pipeline.weigh import KERNELS, weigh
from headstart.training.history import KERNEL, HistoryRow
from headstart.training.recipe import seconds

MOST_IMAGES = 30_000
"""For training and validation: kernel features of more take gigabytes."""

LEAST_SECONDS = 120.0
"""Budget below which the time is better spent otherwise."""


@dataclass(frozen=True, eq=False)
class _FittedKernel:
    """The `layer` refitted on training and validation set, for logits at their own temperature, and logits (N, K) on the
    validation set from a fit without it; `strength` of the regularisation, and `trials`."""

    layer: KernelLayer
    val_logits_NK: np.ndarray
    strength: float
    trials: list[HistoryRow]


def can_have_kernels(task: FitTask) -> bool:
    """Return whether kernels may help: an open choice of head, enough images and time."""
    return (
        task.recipe.head == "auto"
        and seconds(task.recipe.budget) >= LEAST_SECONDS
        and FEW_IMAGES <= len(task.dataset.sets.train_val) <= MOST_IMAGES
    )


def with_kernels(task: FitTask, linear: Candidate, weights: Sequence[float]) -> tuple[Candidate, list[HistoryRow]]:
    """Return the candidate with kernels added to its members if they clearly pay, else as it is; and a row per trial.

    `weights` are those of the members. A member on pooled features of the last maps stays linear, so that its network remains
    one of timm's.
    """
    fitted = {
        i: _fit_kernel(task, head, features_ND)
        for i, (head, features_ND) in enumerate(zip(linear.heads, linear.features, strict=True))
        if head.extractor.pooling == "stages"
    }
    if not fitted:
        return linear, []
    trials = [row for each in fitted.values() for row in each.trials]
    kernels_NK = np.sum([weights[i] * each.val_logits_NK for i, each in fitted.items()], axis=0)
    found = weigh(linear.val_logits_NK, kernels_NK, task.val_labels_N, KERNELS, task.val_groups_N)
    if not found.pays:
        return linear, trials
    one, other = found.factors
    summed = linear.times(one)
    members, heads = list(summed.members), list(summed.heads)
    for i, each in fitted.items():
        layer = each.layer.times(other * weights[i]).plus(members[i].layer)
        members[i] = EnsembleMember(members[i].extractor, layer)
        heads[i] = replace(heads[i], kernel=each.strength)
    val_logits_NK = summed.val_logits_NK + other * kernels_NK
    return replace(summed, members=tuple(members), heads=tuple(heads), val_logits_NK=val_logits_NK), trials


def _fit_kernel(task: FitTask, linear: FittedHead, features_ND: np.ndarray) -> _FittedKernel:
    begun = time.monotonic()
    dataset, weight = task.dataset, linear.head.class_weight
    sets, labels_N, n_classes = dataset.sets, dataset.labels, len(dataset.classes)
    features_ND = features_ND * linear.scale_D
    kernel = kernel_features(features_ND[sets.train], seed=task.recipe.seed)
    train_NC, val_NC = kernel(features_ND[sets.train]), kernel(features_ND[sets.val])
    known = train_NC, labels_N[sets.train], val_NC, labels_N[sets.val]
    head, rows = search_head(
        *known, n_classes, kinds=("ridge",), class_weight=weight, groups_N=dataset.groups[sets.train]
    )
    val_logits_NK = head.logits(val_NC)
    factor = 1 / fit_temperature(val_logits_NK, task.val_labels_N)
    final = refit(head, kernel(features_ND[sets.train_val]), labels_N[sets.train_val], n_classes)
    best = next(row for row in rows if row.strength == head.strength)
    best = replace(best, kind=KERNEL, seconds=round(time.monotonic() - begun, 3))
    return _FittedKernel(
        layer=kernel.layer(final).times(factor).scaled(linear.scale_D),
        val_logits_NK=val_logits_NK * factor,
        strength=head.strength,
        trials=[trial(linear.extractor, len(sets.train), best)],
    )
