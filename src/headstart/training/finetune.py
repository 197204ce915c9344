"""Gradient training of a backbone or of layers on top of it: fine-tuning, new dense layers, training from scratch.

    build -> cut into trunk and tail -> cache the trunk's activations -> fit the tail -> WiSE-FT -> weights in a file

The result is an ordinary `FeatureExtractor` with a last layer, so embedding, calibration and prediction work as for a
frozen backbone. `training.modes` defines how the approaches differ, mainly in where they cut:

    nothing frozen    before the first stage
    stages frozen     where `recipe.unfreeze` says; auto trains the last part of the computation; on a GPU, all of it
    backbone frozen   after the last stage: only dense layers are trained

With a trunk, each image passes through it once for each of `recipe.n_views` augmented views, in OpenVINO on a CPU; a
step then costs only the tail. Measurements are in `benchmarks/finetune.py` and LOG.md. When not to use it: if the
closed-form last layer (`pipeline.fit_heads`) is as good on validation; `train` checks that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from headstart.errors import BudgetTooSmall
from headstart.images.augment import Augment, parse_augment
from headstart.io.files import safetensors_bytes
from headstart.io.folders import delete_needed, write_needed
from headstart.io.progress import log
from headstart.model.backbones.cut_network import join, stage_parameters
from headstart.model.backbones.registry import tuned
from headstart.model.heads.linear import balanced
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.training.activations import EMBEDDING_VIEWS, ViewBudget
from headstart.training.checkpoint import Checkpoint
from headstart.training.image_batches import ImageBatches
from headstart.training.loop import (
    EpochRow,
    StepRow,
    TrainingResult,
    TrainingTask,
    find_rate,
    fit,
    usual_rate,
    validate,
)
from headstart.training.modes import TrainingMode
from headstart.training.pacing import Deadline
from headstart.training.passes import seconds_per_batch
from headstart.training.prepare import (
    TIMING,
    CutNetwork,
    Plan,
    TrainingData,
    build_network,
    check_mixing,
    cut_network,
    make_task,
)
from headstart.training.recipe import Recipe
from headstart.training.recipe import seconds as parse_seconds
from headstart.training.resume import ResumePoint
from headstart.training.shared_task import SharedTask, sharing

__all__ = ["FinetuneResult", "TrainingData", "between", "finetune"]

WISE = (0.0, 0.25, 0.5, 0.75, 1.0)
TEST_STEPS, LEAST_TEST_STEPS = 100, 40
"""Steps of a range test, and the fewest from which a learning rate can be read off."""
SLACK = 1.2
"""The time that a range test leaves, in epochs: its steps may be slower than those that were measured."""


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """The trained extractor, with its own weights, and the last layer on it.

    The weights are in a file in the cache, and nowhere else: `discard` them once they are in a run folder or not wanted.
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

    def discard(self) -> None:
        """Delete the file with the weights. They cannot be used any more."""
        if self.extractor.backbone.weights is not None:
            delete_needed(self.extractor.backbone.weights)

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
    deadline: Deadline,
    resume: ResumePoint | None = None,
    replanned: Sequence[tuple[int, int]] = (),
) -> FinetuneResult:
    """Train according to `recipe`. Unless it sets the number of epochs, the time until the deadline determines it.

    Args:
        extractor: The backbone and input to start from; one with random weights to train from scratch.
        data: Images, labels, and the split into training and validation set.
        recipe: How to train.
        runtime: Where the frozen stages run; a GPU is also used for training.
        mode: What is trained, and defaults for options that the recipe leaves open.
        start: Initial last layer, fitted on the frozen features; None for a random one.
        deadline: When everything has to be over, including `Deadline.after` seconds of work that follow.
        resume: Where snapshots are kept; an interrupted training resumes from there.
        replanned: Changes of the number of steps to repeat, see `training.pacing`.

    Raises `BudgetTooSmall` if `recipe.epochs` is 0 and there is no time for one epoch; `RecipeError` for cutmix on
    activations that are no maps; `TrainingFailed`, `UnfinishedTraining`, `BackboneError`, `WriteError`, `UnreadableImage`
    for an image that changed.
    """
    torch.manual_seed(recipe.seed)
    augment = parse_augment(mode.augment if recipe.augment == "auto" else recipe.augment)
    module = build_network(extractor, recipe, data.n_classes, start)
    recorded = Checkpoint(resume.path, {}).recorded() if resume is not None else {}
    timed = recipe.epochs == 0
    recipe = _resumed(recipe, recorded)
    plan = Plan(extractor=extractor, data=data, recipe=recipe, runtime=runtime, mode=mode)
    deadline = replace(deadline, validations=_mixes(plan, start))
    network = cut_network(module, plan, recorded=recorded, seconds=deadline.left(), timed=timed)
    check_mixing(plan, network)
    views = _view_budget(deadline, plan, network) if timed and not recorded else ViewBudget()
    task, prepared, precision = make_task(plan, network, augment, views)
    job = SharedTask.of(plan, network, augment, prepared)
    with sharing(task.team, job, prepared.files):
        exact = replace(recipe, precision=precision)
        if timed:
            per_batch = network.seconds_per_batch or _seconds_per_batch(task, exact, deadline)
            per_image = (
                EMBEDDING_VIEWS * prepared.trunk_seconds if network.n_frozen else per_batch / (3 * recipe.batch_size)
            )
            deadline = _estimated(deadline, plan, per_batch, per_image)
            if not recipe.epochs:
                _epochs(deadline, plan)  # raises before a range test takes the time
        exact = replace(exact, lr=recipe.lr or _learning_rate(task, plan, exact, deadline if timed else None))
        exact = replace(exact, epochs=recipe.epochs or _epochs(deadline, plan))
        before = {name: value.detach().clone() for name, value in task.module.state_dict().items()}
        fitted = fit(
            replace(task, class_weights=_class_weights(data, recipe)),
            exact,
            epochs=exact.epochs,
            lr=exact.lr,
            checkpoint=_checkpoint(resume, extractor, network.n_frozen, prepared.n_views),
            deadline=deadline if timed else None,
            replanned=replanned,
        )
        recipe = replace(recipe, epochs=exact.epochs, lr=exact.lr, n_views=prepared.n_views or recipe.n_views)
        wise_ft = _interpolate(task, before, exact) if _is_mixed(plan, start) else math.nan
    if recipe.unfreeze == "auto" and mode.freezes_stages:
        stages = network.n_stages - network.n_frozen
        recipe = replace(recipe, unfreeze=str(stages) if network.n_frozen else "all")
    seen_NSS3, seen_labels = _first_images(data, extractor, augment, recipe)
    own, layer = _saved(network, extractor, recipe)
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


def _checkpoint(
    resume: ResumePoint | None, extractor: FeatureExtractor, n_frozen: int, n_views: int
) -> Checkpoint | None:
    if resume is None:
        return None
    found = {
        "threads": str(torch.get_num_threads()),
        "weights to start from": extractor.backbone.sha256 or "random",
        "input": json.dumps(extractor.spec.as_dict(), sort_keys=True),
        "frozen stages": str(n_frozen),
        "views": str(n_views),
    }
    return Checkpoint(resume.path, {**resume.key, **found}, choices=resume.choices)


def _resumed(recipe: Recipe, recorded: Mapping[str, str]) -> Recipe:
    """Return the recipe with the epochs, learning rate and views of an interrupted training: it resumes with them."""
    if not recorded:
        return recipe
    epochs, rate = int(recorded["number of epochs"]), float(recorded["highest learning rate"])
    n_views = int(recorded.get("views", 0)) or recipe.n_views
    return replace(recipe, epochs=recipe.epochs or epochs, lr=recipe.lr or rate, n_views=n_views)


def _seconds_per_batch(task: TrainingTask, recipe: Recipe, deadline: Deadline) -> float:
    within, clock = TIMING * deadline.left(), deadline.clock
    return seconds_per_batch(task.module, task.groups, task.train, recipe, task.device, within=within, clock=clock)


def _learning_rate(task: TrainingTask, plan: Plan, recipe: Recipe, deadline: Deadline | None) -> float:
    """Return the peak learning rate for a recipe that leaves it open. With a deadline, a range test takes at most a fifth
    of the steps that fit, and leaves time for an epoch; too short a test would say nothing."""
    if plan.mode.lr is not None:
        return plan.mode.lr * (10 if recipe.optimizer == "sgd" else 1)
    steps = TEST_STEPS
    if deadline is not None:
        fitting = deadline.steps(deadline.per_step)
        steps = min(steps, fitting // 5, fitting - math.ceil(SLACK * deadline.per_epoch))
    if steps < LEAST_TEST_STEPS:
        rate = usual_rate(recipe)
        log.info("Learning rate: %g, because the budget is too small to find one by a range test.", rate)
        return rate
    rate = find_rate(task, recipe, steps=steps).suggestion
    log.info("Learning rate found by a range test: %.2g.", rate)
    return rate


def _view_budget(deadline: Deadline, plan: Plan, network: CutNetwork) -> ViewBudget:
    """Return the time for activations and epochs. Raises `BudgetTooSmall` if not even one epoch fits."""
    if not network.n_frozen:
        return ViewBudget()
    deadline = _estimated(deadline, plan, network.seconds_per_batch, 0.0)
    _epochs(deadline, plan)
    least = deadline.per_step * (deadline.per_epoch + (deadline.validations + 2) * deadline.validation_steps)
    return ViewBudget(deadline.left(), least, after=len(plan.data.images))


def _estimated(deadline: Deadline, plan: Plan, per_batch: float, per_image: float) -> Deadline:
    """Return the deadline with the pace of training, and what follows it: embedding all images takes `per_image` seconds
    for each. That is about twice the time of the frozen stages, or a third of a training step."""
    data, recipe = plan.data, plan.recipe
    per_epoch = math.ceil(
        (recipe.steps_per_epoch or math.ceil(len(data.train) / recipe.batch_size)) / recipe.grad_accum_steps
    )
    return replace(
        deadline,
        after=deadline.after + len(data.images) * per_image,
        per_step=per_batch * recipe.grad_accum_steps / plan.processes,
        per_epoch=per_epoch,
        validation_steps=len(data.val) / max(len(data.train), 1) * per_epoch / 3,
    )


def _mixes(plan: Plan, start: LinearLayer | None) -> int:
    """Return how many mixes of weights are validated after training."""
    return len(WISE) if plan.recipe.wise_ft == "auto" and _is_mixed(plan, start) else 0


def _is_mixed(plan: Plan, start: LinearLayer | None) -> bool:
    """Return whether the result is a mix of weights: if the recipe says which, or if the network before training is worth
    it. With a random last layer it predicts nothing."""
    return plan.mode.interpolates and (start is not None or plan.recipe.wise_ft != "auto")


def _epochs(deadline: Deadline, plan: Plan) -> int:
    """Return the number of whole epochs that fit, as many as the mode allows. Raises `BudgetTooSmall`."""
    epochs = min(deadline.steps(deadline.per_step) // deadline.per_epoch, plan.mode.most_epochs)
    if epochs < 1:
        budget, left = plan.recipe.budget, deadline.left()
        epoch = deadline.per_step * (deadline.per_epoch + deadline.validation_steps)
        enough = parse_seconds(budget) - left + 3 * epoch
        raise BudgetTooSmall(
            f"budget {budget} is too small for {plan.mode.name}: {max(left, 0):.0f} s remain, and one epoch over the "
            f"training images takes about {epoch:.0f} s.",
            hint=f"Use --budget {math.ceil(enough / 60)}m, or --approach linear.",
        )
    return int(epochs)


def _class_weights(data: TrainingData, recipe: Recipe) -> np.ndarray | None:
    if recipe.class_weight == "none":
        return None
    return balanced(np.bincount(data.labels_N[data.train], minlength=data.n_classes)).astype(np.float32)


def _images_per_second(fitted: TrainingResult, recipe: Recipe) -> float:
    spent = sum(row.seconds for row in fitted.epochs)
    return len(fitted.steps) * recipe.batch_size * recipe.grad_accum_steps / max(spent, 1e-9)


def _interpolate(task: TrainingTask, before: Mapping[str, torch.Tensor], recipe: Recipe) -> float:
    """Interpolate the weights before and after training (WiSE-FT, Wortsman et al. 2022, arXiv 2109.01903, section 3).

    Return the recipe's coefficient, or the one with the lowest validation log-loss; the module ends with these weights.
    """
    network = task.module
    after = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def move_to(fraction: float) -> None:
        network.load_state_dict(between(before, after, fraction))

    if recipe.wise_ft != "auto":
        move_to(float(recipe.wise_ft))
        return float(recipe.wise_ft)
    losses = []
    for fraction in WISE:
        move_to(fraction)
        losses.append(validate(task, recipe).loss)
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


def _saved(network: CutNetwork, extractor: FeatureExtractor, recipe: Recipe) -> tuple[FeatureExtractor, LinearLayer]:
    """Write the trained weights to a file of their own; return the extractor on it and its last layer."""
    state, name = join(network.module, network.tail), network.classifier
    arrays = {key: value.numpy() for key, value in state.items() if not key.startswith(f"{name}.")}
    path = write_needed("tuned", "model.safetensors", safetensors_bytes(arrays, {"format": "pt"}))
    size = extractor.spec.image_size
    backbone = tuned(extractor.backbone, path, image_size=size, hidden=recipe.hidden_sizes)
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    weight_KD = weight.reshape(weight.shape[0], -1).float().numpy()
    layer = LinearLayer(np.ascontiguousarray(weight_KD.T), np.ascontiguousarray(bias.float().numpy()))
    return FeatureExtractor(backbone, extractor.spec), layer


def _first_images(
    data: TrainingData, extractor: FeatureExtractor, augment: Augment, recipe: Recipe, most: int = 32
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the first view of some training images (before mixup and cutmix), uint8 (n, S, S, 3), and their labels."""
    rows = np.random.default_rng(recipe.seed).permutation(data.train)[:most]
    images, labels_N = data.images.take(rows), data.labels_N[rows]
    batches = ImageBatches(
        images,
        labels_N,
        extractor.spec,
        augment,
        batch_size=most,
        seed=recipe.seed,
        shuffle=False,
        names=data.named(rows),
    )
    batch = next(iter(batches.epoch(0)))
    return batch.inputs.numpy(), tuple(int(label) for label in batch.targets)
