"""`linear`: the best closed-form last layers on frozen backbones, one or several, with kernels if these pay.

Costs embedding and a few seconds.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import numpy as np

from headstart.evaluation.calibration import fit_temperature
from headstart.io.progress import log
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.classifier import EnsembleMember
from headstart.model.inference.features import FeatureExtractor
from headstart.pipeline.approaches.approach import TRAINS, ApproachResult
from headstart.pipeline.candidates import Candidate
from headstart.pipeline.combine import (
    ERRORS_WITH_TWO_INPUTS,
    MOST_MEMBERS,
    Probe,
    choose_members,
    fit_weights,
    probe_poolings,
    report,
)
from headstart.pipeline.fit_heads import fit_best_head, refit_on
from headstart.pipeline.fit_task import FitTask
from headstart.pipeline.kernels import can_have_kernels, with_kernels
from headstart.pipeline.two_inputs import with_two_inputs
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe


class Linear:
    """Linear probes, and kernels beside them. Once chosen, they are refitted on the training and validation set together."""

    pretrained = True
    cost = 1

    def check(self, recipe: Recipe) -> None:
        """Accept everything."""

    def trains_networks(self, recipe: Recipe) -> bool:
        """Return False: it uses solvers only."""
        return False

    def ignores(self, recipe: Recipe) -> frozenset[str]:
        """Return the options of gradient descent."""
        return TRAINS

    def fit(self, task: FitTask, extractors: tuple[FeatureExtractor, ...]) -> ApproachResult:
        """See `Approach.fit`."""
        extractors, two_inputs = with_two_inputs(task, extractors)
        members, weights, history = _choose(task, extractors, two_inputs)
        found = [_fit_member(task, member, weight) for member, weight in zip(members, weights, strict=True)]
        candidate = reduce(Candidate.plus, (each for each, _ in found))
        rows = [row for _, each in found for row in each]
        if can_have_kernels(task):
            candidate, tried = with_kernels(task, candidate, weights)
            rows += tried
        task.clock.lap("fit")
        return ApproachResult(candidate, (*history, *rows), task.recipe, two_inputs)


def _choose(
    task: FitTask, extractors: tuple[FeatureExtractor, ...], two_inputs: int
) -> tuple[list[Probe], tuple[float, ...], list[HistoryRow]]:
    """Return the features to use and their weights, and a row per trial; all backbones if the recipe joins them by +.

    The first `two_inputs` backbones have two extractors each; if these are as many as there may be members, the others are
    left out.
    """
    joined = "+" in task.recipe.backbone
    if two_inputs and not joined:
        extractors = extractors[:MOST_MEMBERS]
    wide = tuple(replace(each, pooling="last" if task.recipe.pooling == "last" else "stages") for each in extractors)
    features, sizes = task.embed_blocks(wide)
    task.clock.lap("embed")
    rows = task.dataset.sets.train_val
    labels_N, groups_N, n_classes = task.dataset.labels[rows], task.dataset.groups[rows], len(task.dataset.classes)
    if len(wide) == 1 and len(sizes[0]) == 1:  # nothing to choose
        (only,) = wide
        return [Probe.unscored(replace(only, pooling="last"), features[0], sizes[0])], (1.0,), []
    probes = [
        probe_poolings(each, x, size, labels_N, n_classes, pooling=task.recipe.pooling, groups_N=groups_N, rows=rows)
        for each, x, size in zip(wide, features, sizes, strict=True)
    ]
    best = [found[0] for found in probes]
    errors = ERRORS_WITH_TWO_INPUTS if two_inputs else 1.0
    chosen = best if joined else choose_members(best, labels_N, groups_N, errors=errors)
    weights = fit_weights([p.logits_SK for p in chosen], labels_N[chosen[0].scored_S]) if len(chosen) > 1 else (1.0,)
    tried = [p for found in probes for p in found]
    report(chosen, weights)
    used = [(p, w) for p, w in zip(chosen, weights, strict=True) if w > 0]
    return [p for p, _ in used], tuple(w for _, w in used), [p.row() for p in tried]


def _fit_member(task: FitTask, member: Probe, weight: float) -> tuple[Candidate, list[HistoryRow]]:
    """Fit the best head on a member's features; return it with its logits at their own temperature times the weight."""
    dataset, features_ND = task.dataset, member.features_ND
    found = fit_best_head(member.extractor, features_ND, member.block_sizes, dataset, task.recipe)
    log.info("Head: %s on %s.", found.head.head.kind, member.extractor)
    both = dataset.sets.train_val
    final = refit_on(found.head, features_ND[both], dataset.labels[both], len(dataset.classes))
    candidate = Candidate(
        members=(EnsembleMember(member.extractor, final.layer),),
        features=(features_ND,),
        val_logits_NK=found.val_logits_NK,
        heads=(found.head,),
        train_logits_NK=found.train_logits_NK,
    )
    return candidate.tempered(task.val_labels_N, task.train_labels_N).times(weight), found.trials


def starting_layer(task: FitTask, features_ND: np.ndarray, extractor: FeatureExtractor) -> LinearLayer:
    """Return the last layer that fine-tuning starts from: on one backbone's own pooled features (N, D), fitted on the
    training set only, divided by its temperature.

    Cross-entropy treats logits as log-odds; those of some heads (such as nearest class means) are many times as large,
    and the first steps would only reduce them.
    """
    head = fit_best_head(extractor, features_ND, features_ND.shape[1:], task.dataset, task.recipe).head
    logits_NK = head.logits(features_ND[task.dataset.sets.val])
    return head.layer.times(1 / fit_temperature(logits_NK, task.val_labels_N))


APPROACH = Linear()
