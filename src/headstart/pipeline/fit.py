"""What `train` and `ImageClassifier.fit` have in common: from images in sets to a calibrated classifier, no files.

    choose backbones -> embed -> fit the last layer -> (train by gradient descent) -> take what validation
    prefers -> calibrate on val

Costs what embedding costs, and somewhat more if several backbones are to choose from; training by gradient descent comes
on top, where the recipe's approach asks for it, or (auto) where the budget has room for it. Not to be used to judge:
nothing here looks at the labels of the test set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headstart.data.open_dataset import Dataset
from headstart.errors import BadSplit, RecipeError
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.clipping import clip_bound
from headstart.evaluation.conformal import conformal_threshold
from headstart.images.sources import ImageSource
from headstart.images.validate import ImageInfo
from headstart.io.progress import log
from headstart.model.backbones.registry import Backbone, find_backbone, to_choose_from, without_weights
from headstart.model.inference.classifier import Classifier, EnsembleMember
from headstart.model.inference.engines import anticipate, choose_runtime
from headstart.model.inference.features import FeatureExtractor, embed_files, fitted_spec
from headstart.model.inference.predictions import softmax
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.choose_backbones import choose_backbones, fitting_size
from headstart.pipeline.fit_heads import FUSING_GAIN, FittedHead, fit_heads, refit_on
from headstart.training.history import HistoryRow
from headstart.training.recipe import Recipe, seconds

if TYPE_CHECKING:
    from headstart.training.finetune import FinetuneResult

SCRATCH = "headstart_cnn"
"""The network that is trained from scratch if none is named."""

LEAST_SECONDS = 20.0
"""With less of the budget left, approach auto does not begin to fine-tune."""

CLEARLY = 2.0
"""Standard errors by which validation has to prefer a fine-tuned classifier."""

MIXTURES = (0.25, 0.5, 0.75)
"""Weights of the fine-tuned classifier beside the frozen one."""


@dataclass(frozen=True, eq=False)
class ResolvedBackbones:
    """What to embed with, and how to run it: the backbones that the recipe names, or all at hand if there is a `choice`."""

    backbones: tuple[Backbone, ...]
    runtime: Runtime
    choice: bool = False


def resolve_backbones(
    recipe: Recipe,
    *,
    weights: Path | None = None,
    weights_dir: Path | None = None,
    offline: bool = False,
    chosen: Sequence[str] = (),
) -> ResolvedBackbones:
    """Find them, or download them, before any long work. Raises `BackboneError`, `RecipeError`.

    With `chosen` (`FitResult.chosen` of an earlier run) a recipe that leaves the choice open gets these again.
    """
    runtime = choose_runtime(recipe.device, recipe.precision)
    if recipe.approach not in ("auto", "linear"):
        _check_alone(recipe)
    is_open = recipe.backbone == "auto" and recipe.approach != "scratch" and weights is None
    if is_open and chosen:
        found: Sequence[Backbone] = [find_backbone(n, weights_dir=weights_dir, offline=offline) for n in chosen]
    else:
        found = _named_or_all(recipe, weights, weights_dir, offline)
    anticipate(found, runtime, training=_may_train(recipe))
    return ResolvedBackbones(tuple(found), runtime, choice=is_open and not chosen and len(found) > 1)


def _may_train(recipe: Recipe) -> bool:
    if recipe.approach == "auto":
        return "+" not in recipe.backbone and (recipe.epochs > 0 or seconds(recipe.budget) >= LEAST_SECONDS)
    return recipe.approach != "linear"


def _named_or_all(recipe: Recipe, weights: Path | None, weights_dir: Path | None, offline: bool) -> Sequence[Backbone]:
    if recipe.approach == "scratch":
        return [without_weights(SCRATCH if recipe.backbone == "auto" else recipe.backbone)]
    if recipe.backbone == "auto" and weights is None:
        return to_choose_from(weights_dir=weights_dir, offline=offline)
    names = [""] if recipe.backbone == "auto" else recipe.backbone.split("+")
    return [find_backbone(name, weights=weights, weights_dir=weights_dir, offline=offline) for name in names]


def _check_alone(recipe: Recipe) -> None:
    """What cannot be asked of gradient descent is said before any work."""
    from headstart.images.augment import parse_augment

    if "+" in recipe.backbone:
        raise RecipeError(
            f"backbone {recipe.backbone!r} names several, but {recipe.approach} trains one.",
            hint="Name one of them, or use --approach linear, which can fuse them.",
        )
    if recipe.augment != "auto":
        parse_augment(recipe.augment)


@dataclass(frozen=True, eq=False)
class FitResult:
    """`dataset` with the split that was used in the end; `classifier` is the calibrated result.

    `features` of all images, one float32 (N, D) for each member of the classifier. `val_logits_NK` are those of the val
    set by what was fitted on the train set only, divided by the temperature. `fitted` is the closed-form head on frozen
    features that takes part (None if there is none), `tuned` what gradient descent gave (None if it takes no part).
    `chosen` are the backbones that were gone on with, best first: a choice that the clock had a part in. `attempt` is what
    gradient descent gave if it was tried and takes no part, and `why` one sentence on what was compared and taken.
    """

    classifier: Classifier
    fitted: FittedHead | None
    tuned: FinetuneResult | None
    dataset: Dataset
    features: tuple[np.ndarray, ...]
    val_logits_NK: np.ndarray
    trials: tuple[HistoryRow, ...]
    recipe: Recipe
    chosen: tuple[str, ...]
    attempt: FinetuneResult | None = None
    why: str = ""

    @property
    def val_labels_N(self) -> np.ndarray:
        """int64, in the order of `val_logits_NK`."""
        return self.dataset.labels[self.dataset.split == "val"]


@dataclass(frozen=True, eq=False)
class ResumePoint:
    """Where a training under way keeps its snapshots, and what they must agree with."""

    path: Path
    key: Mapping[str, str]


class Clock:
    """Seconds spent on each step, by name, and in total."""

    def __init__(self) -> None:
        self._start = self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = round(now - self._last, 3)
        self.laps["total"] = round(now - self._start, 3)
        self._last = now


def fit_classifier(
    dataset: Dataset,
    sources: Sequence[ImageSource],
    infos: Sequence[ImageInfo],
    recipe: Recipe,
    *,
    resolved: ResolvedBackbones,
    clock: Clock,
    unfinished: ResumePoint | None = None,
) -> FitResult:
    """Learn from usable images in a training and a validation set, `sources` and `infos` in the order of `dataset`.

    Raises `BadSplit` (images that changed), `BackboneError` (weights that do not fit), `RecipeError` (a loss that does not
    fit the classes), `WriteError`, `TrainingFailed`, `UnfinishedTraining`.
    """
    if recipe.approach == "auto" and "+" in recipe.backbone:  # named to be fused
        recipe = replace(recipe, approach="linear")
    if recipe.loss == "binary" and len(dataset.classes) != 2:
        raise RecipeError(
            f"loss 'binary' is for two classes, and {dataset.root} has {len(dataset.classes)}.",
            hint="Use --loss cross_entropy.",
        )
    clock.lap("look")
    extractors, trials = _views(dataset, sources, infos, resolved, recipe, clock)
    clock.lap("choose")
    frozen = tuned = begun = None
    if recipe.approach in ("auto", "linear", "finetune"):
        features, failed = embed_files(sources, [f.sha256 for f in infos], extractors, resolved.runtime)
        if failed:
            raise _changed(dataset, failed)
        clock.lap("embed")
        fitted, tried = _fit(extractors, features, dataset, recipe)
        trials = (*trials, *tried)
        frozen = _frozen(fitted, [features[extractors.index(v)] for v in fitted.extractors], dataset)
        clock.lap("fit")
    if recipe.approach != "linear":
        start = None
        if frozen is not None and recipe.head_init == "linear":
            start = _layer_to_start_from(extractors[0], features[0], frozen, dataset, recipe)
            begun = features[0][dataset.split == "val"].astype(np.float64) @ start[0] + start[1]
        tuned = _tuned(extractors[0], start, sources, infos, dataset, recipe, resolved.runtime, clock, unfinished)
        if tuned is not None and tuned.trial is not None:
            trials = (*trials, tuned.trial)
        clock.lap("tune")
    chosen, why = _preferred(frozen, tuned, dataset, recipe, begun)
    classifier, val_logits_NK = _calibrated(chosen, dataset, resolved.runtime, recipe)
    used = tuned.tuned if tuned is not None and chosen.tuned is not None else None
    settled = recipe
    if used is not None:  # what was found on the way is written down, so that the same recipe does the same again
        of = used.recipe
        settled = replace(recipe, epochs=of.epochs, lr=of.lr, unfreeze=of.unfreeze)
    elif recipe.approach == "auto":
        settled = replace(recipe, approach="linear")
    names = tuple(extractor.backbone.name for extractor in extractors)
    return FitResult(
        classifier, chosen.fitted, used, dataset, chosen.features, val_logits_NK, trials, settled, names,
        attempt=tuned.tuned if tuned is not None and used is None else None, why=why,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A classifier that might be taken: its `members` as they would be saved, features of all images for each of them,
    and logits on val by what was fitted on train only, all before calibration."""

    members: tuple[EnsembleMember, ...]
    features: tuple[np.ndarray, ...]
    val_logits_NK: np.ndarray
    fitted: FittedHead | None = None
    tuned: FinetuneResult | None = None
    trial: HistoryRow | None = None

    def times(self, factor: float) -> _Candidate:
        """The same with logits multiplied by a factor."""
        members = tuple(
            EnsembleMember(
                p.extractor, (p.weight_DK * factor).astype(np.float32), (p.bias_K * factor).astype(np.float32)
            )
            for p in self.members
        )
        return replace(self, members=members, val_logits_NK=self.val_logits_NK * factor)

    def beside(self, other: _Candidate) -> _Candidate:
        """The sum of both."""
        return _Candidate(
            (*self.members, *other.members),
            (*self.features, *other.features),
            self.val_logits_NK + other.val_logits_NK,
            self.fitted or other.fitted,
            self.tuned or other.tuned,
        )


def _fit(
    extractors: Sequence[FeatureExtractor], features: Sequence[np.ndarray], dataset: Dataset, recipe: Recipe
) -> tuple[FittedHead, list[HistoryRow]]:
    train, val = (dataset.split == side for side in ("train", "val"))
    fuse = "+" in recipe.backbone
    return fit_heads(extractors, features, dataset.labels, train, val, len(dataset.classes), recipe, fuse=fuse)


def _frozen(fitted: FittedHead, features: Sequence[np.ndarray], dataset: Dataset) -> _Candidate:
    """The closed-form head: logits on val by the fit on train; members by the same head on train and val together."""
    val, known = dataset.split == "val", np.isin(dataset.split, ("train", "val"))
    logits_NK = fitted.head.logits(fitted.join([x[val] for x in features]))
    final = refit_on(fitted, [x[known] for x in features], dataset.labels[known], len(dataset.classes))
    return _Candidate(final.members(1.0), tuple(features), logits_NK, fitted=fitted)


def _layer_to_start_from(
    extractor: FeatureExtractor, features_ND: np.ndarray, frozen: _Candidate, dataset: Dataset, recipe: Recipe
) -> tuple[np.ndarray, np.ndarray]:
    """The last layer on `extractor` alone, fitted on the train set only: weight_DK, bias_K, divided by its temperature.

    Cross-entropy takes logits for log-odds; those of some heads (nearest class means, say) are many times as large, and
    the first steps would only bring them down.
    """
    fitted = frozen.fitted
    if fitted is None or fitted.extractors != (extractor,):
        fitted, _ = _fit([extractor], [features_ND], dataset, recipe)
    val = dataset.split == "val"
    logits_NK = fitted.head.logits(fitted.join([features_ND[val]]))
    member = fitted.members(fit_temperature(logits_NK, dataset.labels[val]))[0]
    return member.weight_DK, member.bias_K


def _tuned(
    extractor: FeatureExtractor,
    start: tuple[np.ndarray, np.ndarray] | None,
    sources: Sequence[ImageSource],
    infos: Sequence[ImageInfo],
    dataset: Dataset,
    recipe: Recipe,
    runtime: Runtime,
    clock: Clock,
    unfinished: ResumePoint | None,
) -> _Candidate | None:
    """Gradient descent from `extractor`; None if the approach is auto and there is no time for it."""
    left = 0.85 * (seconds(recipe.budget) - clock.elapsed)
    auto = recipe.approach == "auto"
    if auto and left < LEAST_SECONDS and not recipe.epochs:
        log.info("No fine-tuning: %.0f s of the budget are left (--budget 10m allows it).", max(left, 0.0))
        return None
    from headstart.training.finetune import NoTime, TrainingData, finetune

    train, val = (dataset.split == side for side in ("train", "val"))
    sha256s = [f.sha256 for f in infos]
    task = TrainingData(sources, sha256s, dataset.labels, train, val, len(dataset.classes))
    begun = time.monotonic()
    try:
        tuned = finetune(
            extractor, task, replace(recipe, approach="finetune" if auto else recipe.approach), runtime, start=start,
            seconds=left, unfinished=unfinished.path if unfinished else None, key=unfinished.key if unfinished else None,
        )  # fmt: skip
    except NoTime as error:
        if not auto:
            raise
        log.info("No fine-tuning: %s", error.message)
        return None
    features, failed = embed_files(sources, sha256s, [tuned.extractor], runtime)
    if failed:
        raise _changed(dataset, failed)
    member = EnsembleMember(tuned.extractor, tuned.weight_DK, tuned.bias_K)
    val_logits_NK = features[0][val].astype(np.float64) @ member.weight_DK + member.bias_K
    losses_N = _losses(val_logits_NK / fit_temperature(val_logits_NK, dataset.labels[val]), dataset.labels[val])
    accuracy = float((val_logits_NK.argmax(1) == dataset.labels[val]).mean())
    trial = HistoryRow(
        "tune", extractor.backbone.name, recipe.approach, tuned.wise, int(train.sum()), math.nan, math.nan,
        float(losses_N.mean()), accuracy, round(time.monotonic() - begun, 3),
    )  # fmt: skip
    return _Candidate((member,), tuple(features), val_logits_NK, tuned=tuned, trial=trial)


def _preferred(
    frozen: _Candidate | None,
    tuned: _Candidate | None,
    dataset: Dataset,
    recipe: Recipe,
    begun_NK: np.ndarray | None = None,
) -> tuple[_Candidate, str]:
    """The candidate to take, and a sentence on it where there was a choice.

    With approach auto: the frozen backbones, unless validation shows clearly that it pays to take the fine-tuned one or a
    weighted sum of both; then that of them with the lowest log-loss.

    Clearly: lower by `FUSING_GAIN`, and by `CLEARLY` standard errors of the paired difference. Less is not enough,
    because the epoch and the coefficient of WiSE-FT were chosen on the same images (cats-dogs, 140 of them: a gain of
    0.024 within its noise became a loss of 0.021 on the test set). It must also be clear against what fine-tuning began
    with, `begun_NK` (logits on val): one backbone in place of two is no gain of fine-tuning.
    """
    if tuned is None or frozen is None or recipe.approach != "auto":
        only = tuned or frozen
        if only is None:
            raise ValueError("nothing was trained")
        return only, ""
    labels_N = dataset.labels[dataset.split == "val"]
    frozen, tuned = (_tempered(c, labels_N) for c in (frozen, tuned))
    others = {"fine-tuned": tuned}
    others |= {f"{w:g} of it": _tempered(frozen.times(1 - w).beside(tuned.times(w)), labels_N) for w in MIXTURES}
    losses = {name: _losses(c.val_logits_NK, labels_N) for name, c in {"frozen": frozen, **others}.items()}
    best = min(others, key=lambda name: float(losses[name].mean()))
    told, pays = _gain(losses["frozen"], losses[best])
    if begun_NK is not None:
        begun_N = _losses(begun_NK / fit_temperature(begun_NK, labels_N), labels_N)
        told_too, helped = _gain(begun_N, losses["fine-tuned"])
        told, pays = f"{told}; over its beginning {told_too}", pays and helped
    listed = ", ".join(f"{name} {loss_N.mean():.4f}" for name, loss_N in losses.items())
    verdict = f"{best} is taken" if pays else "fine-tuning does not clearly pay"
    why = f"Validation log-loss: {listed}. Gain {told}: {verdict}."
    log.info("%s", why)
    return (others[best] if pays else frozen), why


def _gain(before_N: np.ndarray, after_N: np.ndarray) -> tuple[str, bool]:
    """By how much log-losses of the same images are lower, and whether that is clear."""
    gain_N = before_N - after_N
    noise = float(gain_N.std()) / math.sqrt(len(gain_N))
    clear = bool(gain_N.mean() > max(FUSING_GAIN * before_N.mean(), CLEARLY * noise))
    return f"{gain_N.mean():.4f} (standard error {noise:.4f})", clear


def _tempered(candidate: _Candidate, labels_N: np.ndarray) -> _Candidate:
    return candidate.times(1 / fit_temperature(candidate.val_logits_NK, labels_N))


def _losses(logits_NK: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """float64 (N,): each image's log-loss in nats."""
    shifted = logits_NK - logits_NK.max(axis=1, keepdims=True)
    losses: np.ndarray = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels_N)), labels_N]
    return losses


def _views(
    dataset: Dataset,
    sources: Sequence[ImageSource],
    infos: Sequence[ImageInfo],
    resolved: ResolvedBackbones,
    recipe: Recipe,
    clock: Clock,
) -> tuple[list[FeatureExtractor], tuple[HistoryRow, ...]]:
    """The backbones to embed with: those named, or the better ones of all that are at hand, by small subsets."""
    sides = np.array([min(f.width, f.height) for f in infos])
    mean_side = _mean_side(infos, dataset) if recipe.image_size == -1 else recipe.image_size

    def extractor(backbone: Backbone) -> FeatureExtractor:
        size = mean_side or fitting_size(backbone.preprocess.image_size, sides)
        if recipe.approach == "scratch":
            backbone = without_weights(backbone.name, image_size=size)
        spec = replace(fitted_spec(backbone, size, recipe.resize), tta=recipe.tta)
        if recipe.normalize == "unit":
            spec = replace(spec, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        return FeatureExtractor(backbone, spec)

    candidates = [extractor(backbone) for backbone in resolved.backbones]
    if not resolved.choice:
        return candidates, ()
    known = np.flatnonzero(np.isin(dataset.split, ("train", "val"))).tolist()
    choice = choose_backbones(
        candidates,
        [sources[i] for i in known],
        [infos[i].sha256 for i in known],
        dataset.labels[known],
        len(dataset.classes),
        resolved.runtime,
        seconds=seconds(recipe.budget) - clock.elapsed,
        total=len(dataset),
        seed=recipe.seed,
    )
    return list(choice.extractors), choice.trials


def _mean_side(infos: Sequence[ImageInfo], dataset: Dataset) -> int:
    """The mean height and width of the training images, in pixels, to the nearest multiple of 32."""
    train = np.flatnonzero(dataset.split == "train").tolist()
    mean = float(np.mean([(infos[i].width + infos[i].height) / 2 for i in train]))
    return int(np.clip(32 * round(mean / 32), 32, 640))


def _calibrated(
    chosen: _Candidate, dataset: Dataset, runtime: Runtime, recipe: Recipe
) -> tuple[Classifier, np.ndarray]:
    """Temperature, conformal threshold and clipping bound from validation."""
    labels_N = dataset.labels[dataset.split == "val"]
    temperature = fit_temperature(chosen.val_logits_NK, labels_N)
    final = chosen.times(1 / temperature)
    probabilities_NK = softmax(final.val_logits_NK)
    threshold = conformal_threshold(probabilities_NK, labels_N, recipe.conformal_alpha)
    clip = clip_bound(probabilities_NK, labels_N)
    classifier = Classifier(
        final.members, dataset.classes, runtime, temperature, threshold, recipe.conformal_alpha, clip
    )
    return classifier, final.val_logits_NK


def _changed(dataset: Dataset, failed: dict[int, str]) -> BadSplit:
    path = dataset.paths[min(failed)]
    return BadSplit(
        f"{path}: could not be read again ({failed[min(failed)]}), and {len(failed) - 1:,} more.",
        hint="The images changed while they were being used. Run the same command again.",
    )
