"""Preparation for the first training step: the network, cut where training begins, and its batches.

Costs building a network (about a second), and with frozen stages one pass per image and view (`training.activations`).
Used by `training.finetune`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.errors import RecipeError
from headstart.images.augment import PLAIN, Augment
from headstart.images.image_refs import Images
from headstart.images.validate import cores
from headstart.io.files import scratch_file
from headstart.io.progress import log
from headstart.model.backbones.build import build
from headstart.model.backbones.cut_network import auto_cut, cut, freeze_norms, stage_parameters, survey
from headstart.model.backbones.networks import with_top
from headstart.model.heads.linear_layer import LinearLayer
from headstart.model.inference.engines import open_module
from headstart.model.inference.engines.torch_module import from_pixels
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.training.activations import FrozenTrunk, ViewBudget, keep_activations, views_that_fit
from headstart.training.batches import Batches, TensorBatches
from headstart.training.bf16_conv import lighten
from headstart.training.image_batches import ImageBatches
from headstart.training.loop import TrainingTask
from headstart.training.modes import TrainingMode
from headstart.training.optim import ParameterGroup
from headstart.training.passes import seconds_per_batch
from headstart.training.ranks import current, processes_here
from headstart.training.recipe import Recipe

SHARES = (0.5, 0.3)
"""Fractions of the computation that `unfreeze` auto trains on a CPU: the first one if time allows. On scenes it reaches
a lower validation loss (0.170 against 0.180), at two thirds of the images per second."""

TIMING = 0.05
"""Largest fraction of the time spent on measuring steps, unless two take longer."""

STEPS = 0.6
"""Fraction of the time planned for steps, whose duration is measured; the rest is for activations and validation."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Images to train on: `labels_N` int64 (N,) of all N; `train` and `val` int64, the rows of each set. `names` of all
    images are for messages."""

    images: Images
    labels_N: np.ndarray
    train: np.ndarray
    val: np.ndarray
    n_classes: int
    names: Sequence[str] = ()

    def named(self, rows: np.ndarray) -> list[str]:
        """Return the names of these images; an empty list if they have none."""
        return [self.names[row] for row in rows] if self.names else []


@dataclass(frozen=True, eq=False)
class Plan:
    """What to train, on which data, how and where."""

    extractor: FeatureExtractor
    data: TrainingData
    recipe: Recipe
    runtime: Runtime
    mode: TrainingMode

    @property
    def processes(self) -> int:
        """The number of processes that share the steps."""
        team = current()
        return team.size if team else 1


@dataclass(frozen=True, eq=False)
class CutNetwork:
    """A network in two: the frozen `trunk` of `n_frozen` of its `n_stages` stages, and the `tail` that is trained.

    `shape` is that of the trunk's output for one image. Without frozen stages it is empty, and `n_stages` is 0.
    `seconds_per_batch` is the duration of training the tail on one batch, 0 if it was not measured.
    """

    module: nn.Module
    trunk: nn.Module
    tail: nn.Module
    n_frozen: int
    n_stages: int
    shape: tuple[int, ...]
    seconds_per_batch: float = 0.0

    @property
    def classifier(self) -> str:
        """Name of the last layer in the network."""
        return str(self.module.pretrained_cfg["classifier"])


def build_network(extractor: FeatureExtractor, recipe: Recipe, n_classes: int, start: LinearLayer | None) -> nn.Module:
    """Build the whole network with its last layer, random or `start`, and the recipe's dense layers before it."""
    size = extractor.spec.image_size
    if recipe.hidden_sizes:
        body = build(extractor.backbone, 0, image_size=size)
        module: nn.Module = with_top(body, recipe.hidden_sizes, n_classes, drop_rate=recipe.dropout)
    else:
        module = build(extractor.backbone, n_classes, image_size=size)
        if recipe.dropout:  # timm's networks read their `drop_rate` in some families only
            module.get_classifier().register_forward_pre_hook(partial(_drop_features, recipe.dropout))
        if extractor.backbone.weights is not None:
            _initialise_small(module.get_classifier())
    if start is not None:
        last = module.get_classifier()
        with torch.no_grad():
            last.weight.copy_(torch.from_numpy(start.weight_DK.T.copy()).reshape(last.weight.shape))
            last.bias.copy_(torch.from_numpy(start.bias_K.copy()))
    return module


def _drop_features(rate: float, last: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    return nn.functional.dropout(inputs[0], rate, last.training)


def _initialise_small(last: nn.Module) -> None:
    """Initialise a random last layer so that its first logits are small (Glorot and Bengio 2010, as in Keras).

    timm's initialisation for EfficientNets and MobileNets is uniform up to 1 / sqrt(classes), whatever the number of
    features: with two classes and 1,280 features the first loss was 7 to 12 instead of 0.7, and its gradients destroyed
    the pretrained weights.
    """
    for name, parameter in last.named_parameters():
        if name.endswith("weight"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)


def check_mixing(plan: Plan, network: CutNetwork) -> None:
    """Raise `RecipeError` for cutmix on activations that are no maps (C, S, S), before they are computed.

    Some networks (Swin) have maps of shape (S, S, C), of which it would cut out channels.
    """
    square = len(network.shape) == 3 and network.shape[1] == network.shape[2]
    if plan.recipe.cutmix and network.n_frozen and not square:
        raise RecipeError(
            f"cutmix cannot be used on the activations of {plan.extractor.backbone.name} (shape {network.shape}): it needs "
            "images or maps.",
            hint="Use --unfreeze all, which trains on images, or mixup.",
        )


def cut_network(
    module: nn.Module, plan: Plan, *, recorded: Mapping[str, str], seconds: float, timed: bool
) -> CutNetwork:
    """Cut the network where training begins: as in an interrupted training (`recorded`), or as `seconds` allow.

    With `timed`, training the tail is measured.
    """
    size = plan.extractor.spec.image_size
    n_frozen = _n_frozen(module, plan, recorded, seconds)
    measured = _seconds_per_step(module, n_frozen, plan, TIMING * seconds) if timed and n_frozen else 0.0
    trunk, tail = cut(module, n_frozen, size)
    stages = survey(module, size) if n_frozen else ()
    shape = tuple(stages[n_frozen - 1].shape) if n_frozen else ()
    return CutNetwork(
        module, trunk, tail, n_frozen=n_frozen, n_stages=len(stages), shape=shape, seconds_per_batch=measured
    )


def _n_frozen(module: nn.Module, plan: Plan, recorded: Mapping[str, str], seconds: float) -> int:
    """Return the number of frozen stages."""
    recipe, mode, size = plan.recipe, plan.mode, plan.extractor.spec.image_size
    if mode.freezes == "nothing" or (recipe.unfreeze == "all" and not mode.freezes_backbone):
        return 0
    count = len(survey(module, size))
    if mode.freezes_backbone:
        return count
    if recipe.unfreeze.isdigit():
        return max(count - int(recipe.unfreeze), 0)
    if plan.runtime.device == "cuda":
        return 0
    if recipe.unfreeze == "auto" and "frozen stages" in recorded:
        return int(recorded["frozen stages"])
    more, less = (auto_cut(module, size, share=share) for share in SHARES)
    if more == less or recipe.unfreeze != "auto":
        return less
    epochs = recipe.epochs or mode.most_epochs
    steps = epochs * (recipe.steps_per_epoch or math.ceil(len(plan.data.train) / recipe.batch_size))
    per_step = _seconds_per_step(module, more, plan, TIMING * seconds)
    return more if steps * per_step <= STEPS * seconds * plan.processes else less


def _seconds_per_step(module: nn.Module, n_frozen: int, plan: Plan, within: float) -> float:
    """Measure steps on activations of zeros."""
    recipe, size = plan.recipe, plan.extractor.spec.image_size
    _, tail = cut(module, n_frozen, size)
    freeze_norms(tail)
    precision = training_precision(plan, n_frozen)
    if precision == "bf16":
        lighten(tail)
    shape = survey(module, size)[n_frozen - 1].shape
    images = 4 * recipe.batch_size
    zeros_VND = np.zeros((1, images, math.prod(shape)), np.float16)
    batches = _kept_as_stored(zeros_VND, shape, np.zeros(images, np.int64), recipe.batch_size)
    probing = replace(recipe, precision=precision)
    return seconds_per_batch(_FromKept(tail), parameter_groups(tail, recipe), batches, probing, "cpu", within=within)


def training_precision(plan: Plan, n_frozen: int) -> str:
    """Choose bf16 on GPUs, and on CPUs that support it for tails and from scratch (`bf16_conv` makes it fast there);
    f32 for whole pretrained networks on CPUs."""
    recipe, mode = plan.recipe, plan.mode
    if recipe.precision != "auto":
        return recipe.precision
    fast_in_bf16 = mode.freezes == "nothing" or (n_frozen > 0 and mode.freezes_stages)
    return plan.runtime.precision if plan.runtime.device == "cuda" or fast_in_bf16 else "f32"


def parameter_groups(tail: nn.Module, recipe: Recipe) -> list[ParameterGroup]:
    """Group parameters by stage. The last stage and head learn at the full rate, each before `layer_decay` less."""
    stages = stage_parameters(tail)
    last = len(stages) - 1
    return [
        ParameterGroup(
            name,
            params,
            lr_scale=recipe.layer_decay ** max(last - 1 - i, 0),
            unfreeze_at=max(last - i, 0) if recipe.unfreeze == "gradual" else 0,
        )
        for i, (name, params) in enumerate(stages)
    ]


@dataclass(frozen=True)
class KeptFile:
    """A file of activations, float16 of `shape` (V, N, numel), that other processes can open; `views` are in use."""

    path: Path
    shape: tuple[int, ...]
    views: int

    def open(self) -> np.ndarray:
        """Map the file into memory. Raises `OSError`."""
        return np.memmap(self.path, np.float16, mode="r", shape=self.shape)[: self.views].view(np.ndarray)


@dataclass(frozen=True, eq=False)
class PreparedBatches:
    """Batches of pixels or cached activations, and the `module` that takes them.

    `n_views` is the number of views per image that are cached, and `trunk_seconds` the time per view; 0 for pixels.
    `files` are those of cached activations, of training and validation, if several processes train.
    """

    train: Batches
    val: Batches
    module: nn.Module
    n_views: int = 0
    trunk_seconds: float = 0.0
    files: tuple[KeptFile, ...] = ()


def make_task(
    plan: Plan, network: CutNetwork, augment: Augment, views: ViewBudget, files: tuple[KeptFile, ...] = ()
) -> tuple[TrainingTask, PreparedBatches, str]:
    """Return the task for the training loop, the batches in it, and the precision to train at.

    With `files`, activations are there already, computed by another process.
    """
    tail = network.tail
    if network.n_frozen and plan.mode.freezes_stages:
        freeze_norms(tail)
    prepared = make_batches(plan, network, augment, views, files)
    precision = training_precision(plan, network.n_frozen)
    if precision == "bf16" and plan.runtime.device == "cpu":
        lighten(tail)
    if plan.recipe.loss == "binary":
        train_one_unit(tail, network.classifier)
    task = TrainingTask(
        module=prepared.module,
        groups=parameter_groups(tail, plan.recipe),
        train=prepared.train,
        val=prepared.val,
        n_classes=plan.data.n_classes,
        device="cuda" if plan.runtime.device == "cuda" else "cpu",
        team=current(),
        names=plan.data.named(plan.data.train),
    )
    return task, prepared, precision


def make_batches(
    plan: Plan, network: CutNetwork, augment: Augment, budget: ViewBudget, files: tuple[KeptFile, ...] = ()
) -> PreparedBatches:
    """Make the batches of the training and the validation set, with as many views as fit into a budget."""
    if files:
        return _batches_of(plan, network, *(file.open() for file in files))
    if network.n_frozen:
        return _kept_batches(plan, network, augment, budget)
    return _pixel_batches(plan, network, augment)


def _pixel_batches(plan: Plan, network: CutNetwork, augment: Augment) -> PreparedBatches:
    data, recipe, spec = plan.data, plan.recipe, plan.extractor.spec
    workers = max(cores() // processes_here(), 1)
    train = ImageBatches(
        data.images.take(data.train),
        data.labels_N[data.train],
        spec,
        augment,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        steps_per_epoch=recipe.steps_per_epoch,
        workers=workers,
        names=data.named(data.train),
    )
    val = ImageBatches(
        data.images.take(data.val),
        data.labels_N[data.val],
        spec,
        batch_size=recipe.batch_size,
        shuffle=False,
        workers=workers,
        names=data.named(data.val),
        required=True,
    )
    return PreparedBatches(train, val, from_pixels(network.tail, replace(spec, tta="none")))


def _kept_batches(plan: Plan, network: CutNetwork, augment: Augment, budget: ViewBudget) -> PreparedBatches:
    data, recipe = plan.data, plan.recipe
    spec, numel = replace(plan.extractor.spec, tta="none"), math.prod(network.shape)
    trunk = FrozenTrunk(open_module(_ChannelsLast(network.trunk), spec, plan.runtime), spec, numel)
    views = range(views_that_fit(recipe.n_views, len(data.train), numel)) if augment else [PLAIN]
    title, seed = f"Activations of {len(views)} view{'s' * (len(views) > 1)}", recipe.seed
    named = [scratch_file(), scratch_file()] if plan.processes > 1 else [None, None]
    kept_VND = keep_activations(
        data.images.take(data.train),
        trunk,
        augment,
        seed=seed,
        views=views,
        title=title,
        budget=budget,
        file=named[0],
    )
    if len(kept_VND) < len(views):
        log.info("%d of %d views per image fit into the budget.", len(kept_VND), len(views))
    held_VND = keep_activations(
        data.images.take(data.val), trunk, augment, seed=seed, views=[PLAIN], title="Validation", file=named[1]
    )
    shapes = [(len(views), *kept_VND.shape[1:]), held_VND.shape]
    files = [
        KeptFile(path, shape, len(array))
        for path, shape, array in zip(named, shapes, (kept_VND, held_VND), strict=True)
        if path is not None
    ]
    prepared = _batches_of(plan, network, kept_VND, held_VND)
    return replace(prepared, n_views=len(kept_VND), trunk_seconds=budget.per_view, files=tuple(files))


def _batches_of(plan: Plan, network: CutNetwork, kept_VND: np.ndarray, held_VND: np.ndarray) -> PreparedBatches:
    """Return batches of activations of the training and the validation set."""
    data, recipe = plan.data, plan.recipe
    labels_N, steps = data.labels_N[data.train], recipe.steps_per_epoch
    train = _kept_as_stored(
        kept_VND, network.shape, labels_N, recipe.batch_size, seed=recipe.seed, steps_per_epoch=steps
    )
    val = _kept_as_stored(held_VND, network.shape, data.labels_N[data.val], 128, shuffle=False)
    return PreparedBatches(train, val, _FromKept(network.tail))


def _kept_as_stored(
    kept_VND: np.ndarray, shape: tuple[int, ...], labels_N: np.ndarray, batch_size: int, **options: Any
) -> TensorBatches:
    """Return batches of cached activations in their shape: maps (C, H, W), which are stored channels last, or tokens, or
    features."""
    maps = len(shape) == 3
    stored = (*shape[1:], shape[0]) if maps else shape
    return TensorBatches(kept_VND.reshape(*kept_VND.shape[:2], *stored), labels_N, batch_size, maps=maps, **options)


def train_one_unit(tail: nn.Module, classifier: str) -> None:
    """Make a last layer for two classes give logits (0, z), which mean the same as its (a, b) with z = b - a: the first
    unit is zero and stays zero."""
    for name, parameter in tail.named_parameters():
        if name.endswith((f"{classifier}.weight", f"{classifier}.bias")):
            with torch.no_grad():
                parameter[1] -= parameter[0]
                parameter[0] = 0
            parameter.register_hook(_without_first)


def _without_first(gradient: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(gradient[:1]), gradient[1:]])


class _ChannelsLast(nn.Module):
    """A trunk whose maps are (N, H, W, C), the fastest order for training on a CPU."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.trunk(pixels_NCHW)
        return out.permute(0, 2, 3, 1) if out.ndim == 4 else out


class _FromKept(nn.Module):
    """A tail on cached activations: maps (B, C, H, W), tokens or features, in float16."""

    def __init__(self, tail: nn.Module) -> None:
        super().__init__()
        self.tail = tail.to(memory_format=torch.channels_last)

    def forward(self, kept: torch.Tensor) -> torch.Tensor:
        numbers = kept.float()
        if numbers.ndim == 4:
            numbers = numbers.contiguous(memory_format=torch.channels_last)  # mixed batches may not be
        out: torch.Tensor = self.tail(numbers)
        return out
