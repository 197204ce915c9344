"""Gradient training of a backbone or of layers on top of it: fine-tuning, new dense layers, training from scratch.

    build -> cut into trunk and tail -> cache the trunk's activations -> fit the tail -> WiSE-FT -> weights in a file

The result is an ordinary `FeatureExtractor` with a last layer, so embedding, calibration and prediction work as for a
frozen backbone. `training.modes` defines how the approaches differ, mainly in where they cut:

    nothing frozen    before the first stage
    stages frozen     where `recipe.unfreeze` says; auto trains the last fraction of the computation, on a GPU all of it
    backbone frozen   after the last stage: only dense layers are trained

With a trunk, each image passes through it once for each of `recipe.n_views` augmented views, in OpenVINO on a CPU; a
step then costs only the tail. Measurements are in `benchmarks/finetune.py` and LOG.md. When not to use it: if the
closed-form last layer (`pipeline.fit_heads`) is as good on validation; `train` checks that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from headstart.errors import BudgetTooSmall
from headstart.images.augment import Augment, parse_augment
from headstart.io.files import cache_dir, safetensors_bytes, sha256_bytes, write_cache
from headstart.io.progress import log
from headstart.model.backbones.cut_network import freeze_norms, join, stage_parameters
from headstart.model.backbones.registry import tuned
from headstart.model.heads.linear import balanced
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.training.batches import Batches
from headstart.training.bf16_conv import lighten
from headstart.training.checkpoint import Checkpoint
from headstart.training.image_batches import ImageBatches
from headstart.training.loop import EpochRow, StepRow, TrainingResult, TrainingTask, evaluate, find_rate, fit
from headstart.training.modes import TrainingMode
from headstart.training.optim import seconds_per_batch
from headstart.training.prepare import (
    CutNetwork,
    Plan,
    TrainingData,
    build_network,
    cut_network,
    make_batches,
    parameter_groups,
    train_one_unit,
    training_precision,
)
from headstart.training.recipe import Recipe
from headstart.training.recipe import seconds as parse_seconds
from headstart.training.resume import ResumePoint

__all__ = ["FinetuneResult", "TrainingData", "between", "finetune"]

WISE = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """The trained extractor, with its own weights, and the last layer on it.

    `recipe` has the `epochs`, `lr` and `unfreeze` that were used, so that it repeats this training. `wise_ft` is the
    coefficient of WiSE-FT, NaN without it. `seen_NSS3` uint8: some images as training saw them.
    """

    extractor: FeatureExtractor
    layer: LinearLayer
    fit: TrainingResult
    recipe: Recipe
    trained: tuple[str, ...]
    wise_ft: float
    images_per_second: float
    seen_NSS3: np.ndarray
    seen_labels: tuple[int, ...]

    @property
    def epochs(self) -> tuple[EpochRow, ...]:
        """One row per epoch."""
        return self.fit.epochs

    @property
    def steps(self) -> tuple[StepRow, ...]:
        """One row per step."""
        return self.fit.steps


def finetune(
    extractor: FeatureExtractor,
    data: TrainingData,
    recipe: Recipe,
    runtime: Runtime,
    *,
    mode: TrainingMode,
    start: LinearLayer | None = None,
    seconds: float,
    resume: ResumePoint | None = None,
) -> FinetuneResult:
    """Train by `recipe` within about `seconds`.

    Args:
        extractor: The backbone and input to start from; one with random weights to train from scratch.
        data: Images, labels, and the split into training and validation set.
        recipe: How to train.
        runtime: Where the frozen stages run; a GPU is also used for training.
        mode: What is trained, and defaults for options that the recipe leaves open.
        start: Initial last layer, fitted on the frozen features; None for a random one.
        seconds: Time that training may take.
        resume: Where snapshots are kept; an interrupted training resumes from there.

    Raises `BudgetTooSmall` if `recipe.epochs` is 0 and `seconds` is too short for one epoch; `TrainingFailed`,
    `UnfinishedTraining`, `BackboneError`, `WriteError`, `UnreadableImage` for an image that changed.
    """
    begun = time.monotonic()
    torch.manual_seed(recipe.seed)
    plan = Plan(extractor=extractor, data=data, recipe=recipe, runtime=runtime, mode=mode)
    augment = parse_augment(mode.augment if recipe.augment == "auto" else recipe.augment)
    module = build_network(extractor, recipe, data.n_classes, start)
    recorded = Checkpoint(resume.path, {}).recorded() if resume is not None else {}
    network = cut_network(module, plan, recorded=recorded, seconds=seconds)
    task, precision = _training_task(plan, network, augment)
    if resume is not None:
        recipe = _resumed(recipe, recorded)
    left = seconds - (time.monotonic() - begun)
    recipe = _settled(replace(plan, recipe=recipe), task, precision, left)
    exact = replace(recipe, precision=precision)
    before = {name: value.detach().clone() for name, value in task.module.state_dict().items()}
    checkpoint = _checkpoint(resume, network.n_frozen)
    task = replace(task, class_weights=_class_weights(data, recipe))
    fitted = fit(task, exact, epochs=recipe.epochs, lr=recipe.lr, checkpoint=checkpoint)
    wise_ft = math.nan
    if mode.interpolates and start is not None:
        wise_ft = _interpolate(task, before, exact)
    own, layer = _saved(network, extractor, recipe)
    seen_NSS3, seen_labels = _first_images(data, own, augment, recipe)
    if recipe.unfreeze == "auto" and mode.freezes_stages:
        stages = network.n_stages - network.n_frozen
        recipe = replace(recipe, unfreeze=str(stages) if network.n_frozen else "all")
    return FinetuneResult(
        extractor=own,
        layer=layer,
        fit=fitted,
        recipe=recipe,
        trained=tuple(name for name, _ in stage_parameters(network.tail)),
        wise_ft=wise_ft,
        images_per_second=_images_per_second(fitted, recipe),
        seen_NSS3=seen_NSS3,
        seen_labels=seen_labels,
    )


def _training_task(plan: Plan, network: CutNetwork, augment: Augment) -> tuple[TrainingTask, str]:
    """Return the task for the training loop and the precision to train at."""
    tail = network.tail
    if network.n_frozen and plan.mode.freezes_stages:
        freeze_norms(tail)
    train, val, module = make_batches(plan, network, augment)
    precision = training_precision(plan, network.n_frozen)
    if precision == "bf16" and plan.runtime.device == "cpu":
        lighten(tail)
    if plan.recipe.loss == "binary":
        train_one_unit(tail, network.classifier)
    task = TrainingTask(
        module=module,
        groups=parameter_groups(tail, plan.recipe),
        train=train,
        val=val,
        n_classes=plan.data.n_classes,
        device="cuda" if plan.runtime.device == "cuda" else "cpu",
    )
    return task, precision


def _checkpoint(resume: ResumePoint | None, n_frozen: int) -> Checkpoint | None:
    if resume is None:
        return None
    found = {"threads": str(torch.get_num_threads()), "frozen stages": str(n_frozen)}
    return Checkpoint(resume.path, {**resume.key, **found})


def _resumed(recipe: Recipe, recorded: Mapping[str, str]) -> Recipe:
    """Return the recipe with the epochs and learning rate of an interrupted training, so that it resumes with them."""
    if not recorded:
        return recipe
    epochs, rate = int(recorded["epochs"]), float(recorded["highest learning rate"])
    return replace(recipe, epochs=recipe.epochs or epochs, lr=recipe.lr or rate)


def _settled(plan: Plan, task: TrainingTask, precision: str, seconds: float) -> Recipe:
    """Return the recipe with a learning rate and a number of epochs in place of zeros. Raises `BudgetTooSmall`."""
    begun, recipe, mode = time.monotonic(), plan.recipe, plan.mode
    probing = replace(recipe, precision=precision)
    rate = recipe.lr
    if not rate and mode.lr is not None:
        rate = mode.lr * (10 if recipe.optimizer == "sgd" else 1)
    elif not rate:
        rate = find_rate(task, probing).suggestion
        log.info("Learning rate found by a range test: %.2g.", rate)
    if recipe.epochs:
        return replace(recipe, lr=rate)
    once = seconds_per_batch(task.module, task.groups, task.train, probing, task.device)
    held = len(plan.data.val) / max(len(plan.data.train), 1)
    epoch = once * len(task.train) * (1 + held / 3)
    left = seconds - (time.monotonic() - begun)
    epochs = min(int(left / epoch), mode.most_epochs)
    if epochs < 1:
        spent = parse_seconds(recipe.budget) - left
        raise BudgetTooSmall(
            f"budget {recipe.budget} is too small for {mode.name}: {left:.0f} s remain, and one epoch over the "
            f"training images takes about {epoch:.0f} s.",
            hint=f"Use --budget {math.ceil((spent + 3 * epoch) / 60)}m, or --approach linear.",
        )
    return replace(recipe, lr=rate, epochs=epochs)


def _class_weights(data: TrainingData, recipe: Recipe) -> np.ndarray | None:
    if recipe.class_weight == "none":
        return None
    return balanced(np.bincount(data.labels_N[data.train], minlength=data.n_classes)).astype(np.float32)


def _images_per_second(fitted: TrainingResult, recipe: Recipe) -> float:
    spent = sum(row.seconds for row in fitted.epochs)
    return len(fitted.steps) * recipe.batch_size / max(spent, 1e-9)


def _interpolate(task: TrainingTask, before: Mapping[str, torch.Tensor], recipe: Recipe) -> float:
    """Interpolate the weights before and after training (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903, section 3).

    Return the recipe's coefficient, or the one with the lowest validation log-loss; the module ends with these weights.
    """
    network, val = task.module, _required(task.val)
    after = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def move_to(fraction: float) -> None:
        network.load_state_dict(between(before, after, fraction))

    if recipe.wise_ft != "auto":
        move_to(float(recipe.wise_ft))
        return float(recipe.wise_ft)
    losses = []
    for fraction in WISE:
        move_to(fraction)
        losses.append(evaluate(network, val, recipe, device=task.device).loss)
    best = WISE[int(np.argmin(losses))]
    move_to(best)
    listed = ", ".join(f"{fraction:g}: {loss:.4f}" for fraction, loss in zip(WISE, losses, strict=True))
    log.info("Validation log-loss of mixes from frozen (0) to fine-tuned (1) weights: %s.", listed)
    return best


def between(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], fraction: float
) -> dict[str, torch.Tensor]:
    """Return the state dict (1 - fraction) * before + fraction * after; integers (counters) are those of `after`.

    >>> between({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}, 0.25)["w"].item()
    0.5
    """
    out = {}
    for name, value in after.items():
        old = before[name].to(value.device)
        if not value.dtype.is_floating_point or fraction in (0.0, 1.0):
            out[name] = old if fraction == 0.0 else value
        else:
            out[name] = torch.lerp(old, value, fraction)
    return out


def _required(val: Batches | None) -> Batches:
    if val is None:
        raise ValueError("no validation images")
    return val


def _saved(network: CutNetwork, extractor: FeatureExtractor, recipe: Recipe) -> tuple[FeatureExtractor, LinearLayer]:
    """Write the trained weights to a file in the cache; return the extractor on it and its last layer."""
    state, name = join(network.module, network.tail), network.classifier
    arrays = {key: value.numpy() for key, value in state.items() if not key.startswith(f"{name}.")}
    data = safetensors_bytes(arrays, {"format": "pt"})
    path = cache_dir() / "tuned" / f"{sha256_bytes(data)}.safetensors"
    write_cache(path, data)
    size = extractor.spec.image_size
    backbone = tuned(extractor.backbone, path, image_size=size, hidden=recipe.hidden_sizes)
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    weight_KD = weight.reshape(weight.shape[0], -1).float().numpy()
    layer = LinearLayer(np.ascontiguousarray(weight_KD.T), np.ascontiguousarray(bias.float().numpy()))
    return FeatureExtractor(backbone, extractor.spec), layer


def _first_images(
    data: TrainingData, extractor: FeatureExtractor, augment: Augment, recipe: Recipe, most: int = 32
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return some training images as the first epoch showed them, uint8 (n, S, S, 3), and their labels."""
    rows = np.random.default_rng(recipe.seed).permutation(data.train)[:most]
    images, labels_N = data.images.take(rows), data.labels_N[rows]
    batches = ImageBatches(images, labels_N, extractor.spec, augment, batch_size=most, seed=recipe.seed, shuffle=False)
    batch = next(iter(batches.epoch(0)))
    return batch.inputs.numpy(), tuple(int(label) for label in batch.targets)
