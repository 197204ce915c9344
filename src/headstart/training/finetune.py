"""Gradient descent on a backbone, or on what stands on it: fine-tuning, new top layers, from scratch.

    build -> cut into trunk and tail -> keep the trunk's activations -> fit the tail -> WiSE-FT -> weights in a file

What comes out is an ordinary `FeatureExtractor` with a last layer, so that embedding, calibration and prediction go on
as for a frozen backbone. The approaches differ in where they cut:

    scratch    before the first stage, random weights
    finetune   where `recipe.unfreeze` says; auto cuts so that the last part of the computation is trained (LP-FT, Kumar et
               al. 2022, arXiv 2202.10054: it starts from the best closed-form last layer), on a GPU before the first stage
    frozen     after the last stage: only dense layers are trained

With a trunk, each image passes it once for each of `recipe.views` augmented views, in OpenVINO on a CPU; a step then costs
only the tail. Measured figures are in `benchmarks/finetune.py` and LOG.md. When not to use it: if the closed-form last
layer (`pipeline.fit_heads`) is as good on validation; `train` asks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import nn

from headstart.errors import RecipeError
from headstart.images.augment import PLAIN, Augment, parse_augment
from headstart.images.sources import ImageSource
from headstart.io.files import cache_dir, safetensors_bytes, sha256_bytes, write_cache
from headstart.io.progress import log
from headstart.model.backbones.build import build
from headstart.model.backbones.cut_network import auto_cut, cut, freeze_norms, join, stage_parameters, survey
from headstart.model.backbones.networks import with_top
from headstart.model.backbones.registry import tuned
from headstart.model.inference.engines import open_module
from headstart.model.inference.engines.torch_module import from_pixels
from headstart.model.inference.features import FeatureExtractor
from headstart.model.inference.runtime import Runtime
from headstart.training.activations import keep_activations, views_that_fit
from headstart.training.batches import Batches, TensorBatches
from headstart.training.bf16_conv import lighten
from headstart.training.checkpoint import Checkpoint
from headstart.training.image_batches import ImageBatches
from headstart.training.loop import EpochRow, StepRow, TrainingResult, evaluate, find_rate, fit
from headstart.training.optim import ParameterGroup, Passes, make_optimizer
from headstart.training.recipe import Recipe

FINETUNE_LR = 1e-4
"""Highest rate of AdamW when fine-tuning starts from a fitted last layer, where a range test finds nothing to gain."""

FINETUNE_EPOCHS = 8
"""Most epochs that `epochs` 0 takes in fine-tuning; 30 from scratch."""

FINETUNE_AUGMENT = "flip,crop=0.35"
"""What `augment` auto is for fine-tuning, and for scratch; for frozen backbones nothing."""

WISE = (0.0, 0.25, 0.5, 0.75, 1.0)

SHARES = (0.5, 0.3)
"""Parts of the computation that `unfreeze` auto trains on a processor: the first one if there is time for it. On scenes it
ends at a lower validation loss (0.170 against 0.180), at two thirds of the images per second."""

STEPS = 0.6
"""Part of the time that may go into steps, by a measurement of some; the rest is for activations and validation."""


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Images to learn from. `labels_N` int64 (N,), `train` and `val` bool (N,), for all N sources."""

    sources: Sequence[ImageSource]
    sha256s: Sequence[str]
    labels_N: np.ndarray
    train: np.ndarray
    val: np.ndarray
    n_classes: int

    def side(self, mask: np.ndarray) -> tuple[list[ImageSource], list[str], np.ndarray]:
        """Sources, hashes and labels of the images in a mask."""
        picked = np.flatnonzero(mask).tolist()
        return [self.sources[i] for i in picked], [self.sha256s[i] for i in picked], self.labels_N[picked]


@dataclass(frozen=True, eq=False)
class FinetuneResult:
    """What training gave: an extractor with weights of its own, and the last layer on it, `weight_DK` and `bias_K` (float32).

    `recipe` has the `epochs`, `max_lr` and `unfreeze` that were used, so that it does the same again. `wise` is the
    coefficient of WiSE-FT, NaN where there was none. `seen_NSS3` uint8: some images as training saw them.
    """

    extractor: FeatureExtractor
    weight_DK: np.ndarray
    bias_K: np.ndarray
    fit: TrainingResult
    recipe: Recipe
    trained: tuple[str, ...]
    wise: float
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


class NoTime(RecipeError):
    """The budget does not allow a single epoch."""


def finetune(
    extractor: FeatureExtractor,
    task: TrainingData,
    recipe: Recipe,
    runtime: Runtime,
    *,
    start: tuple[np.ndarray, np.ndarray] | None = None,
    seconds: float,
    unfinished: Path | None = None,
    key: Mapping[str, str] | None = None,
) -> FinetuneResult:
    """Train by `recipe` (its approach is finetune, frozen or scratch) within about `seconds`.

    Args:
        extractor: The backbone and input to start from; one with random weights for scratch.
        start: Last layer (weight_DK, bias_K) to begin with, fitted on the frozen features; None for a random one.
        unfinished: Where snapshots of the training under way are kept; an interrupted training goes on from there.
        key: What a snapshot must agree with besides what this function knows: recipe, images, weights.

    Raises `NoTime` if `epochs` is 0 and `seconds` do not suffice for one epoch; `TrainingFailed`, `UnfinishedTraining`,
    `BackboneError`, `WriteError`, `UnreadableImage` for an image that changed.
    """
    begun = time.monotonic()
    torch.manual_seed(recipe.seed)
    augment = parse_augment(_augment(recipe))
    module = _network(extractor, recipe, task.n_classes, start)
    recorded = Checkpoint(unfinished, {}).recorded() if unfinished is not None else {}
    n_frozen = _cut_place(module, extractor, recipe, runtime, task, recorded, seconds)
    trunk, tail = cut(module, n_frozen, extractor.spec.image_size)
    if n_frozen and recipe.approach == "finetune":
        freeze_norms(tail)
    train, val, network = _batches(extractor, task, recipe, runtime, augment, trunk, tail, n_frozen, module)
    precision = _precision(recipe, runtime, n_frozen)
    if precision == "bf16" and runtime.device == "cpu":
        lighten(tail)
    if recipe.loss == "binary":
        _one_unit(tail, module.pretrained_cfg["classifier"])
    groups = _groups(tail, recipe)
    checkpoint = None
    if unfinished is not None:
        known = {"threads": str(torch.get_num_threads()), "frozen stages": str(n_frozen)}
        checkpoint = Checkpoint(unfinished, {**(key or {}), **known})
        recipe = _as_begun(recipe, recorded)
    left = seconds - (time.monotonic() - begun)
    recipe = _settled(recipe, network, groups, train, val, task, runtime, precision, left)
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    device = "cuda" if runtime.device == "cuda" else "cpu"
    weights = _class_weights(task, recipe)
    fitted = fit(
        network, groups, train, val, replace(recipe, precision=precision), epochs=recipe.epochs, max_lr=recipe.lr,
        n_classes=task.n_classes, device=device, checkpoint=checkpoint, class_weights=weights,
    )  # fmt: skip
    wise = math.nan
    if recipe.approach == "finetune" and start is not None:
        wise = _interpolate(network, before, val, replace(recipe, precision=precision), device)
    extractor, weight_DK, bias_K = _saved(module, tail, extractor, recipe)
    seen, labels = _seen(task, extractor, augment, recipe)
    trained = tuple(name for name, _ in stage_parameters(tail))
    if recipe.unfreeze == "auto" and recipe.approach == "finetune":
        recipe = replace(
            recipe, unfreeze=str(len(survey(module, extractor.spec.image_size)) - n_frozen) if n_frozen else "all"
        )
    rows = sum(row.seconds for row in fitted.epochs)
    speed = len(fitted.steps) * recipe.batch_size / max(rows, 1e-9)
    return FinetuneResult(extractor, weight_DK, bias_K, fitted, recipe, trained, wise, speed, seen, labels)


def _augment(recipe: Recipe) -> str:
    if recipe.augment != "auto":
        return recipe.augment
    return "none" if recipe.approach == "head_sgd" else FINETUNE_AUGMENT


def _network(
    extractor: FeatureExtractor, recipe: Recipe, n_classes: int, start: tuple[np.ndarray, np.ndarray] | None
) -> nn.Module:
    """The whole network with its last layer, random or `start`; dense layers before it as the recipe says."""
    size = extractor.spec.image_size
    if recipe.hidden_sizes:
        body = build(extractor.backbone, 0, image_size=size)
        module: nn.Module = with_top(body, recipe.hidden_sizes, n_classes, drop_rate=recipe.dropout)
    else:
        module = build(extractor.backbone, n_classes, image_size=size)
        if recipe.dropout:
            module.drop_rate = recipe.dropout
        if extractor.backbone.weights is not None:
            _begin_small(module.get_classifier())
    if start is not None:
        last = module.get_classifier()
        with torch.no_grad():
            last.weight.copy_(torch.from_numpy(start[0].T.copy()).reshape(last.weight.shape))
            last.bias.copy_(torch.from_numpy(start[1].copy()))
    return module


def _begin_small(last: nn.Module) -> None:
    """A random last layer whose first logits are small (Glorot and Bengio 2010, as in Keras).

    timm's own for EfficientNets and MobileNets is uniform up to 1 / sqrt(classes), whatever the number of features: with two
    classes and 1,280 features the first loss was 7 to 12 instead of 0.7, and what came back tore the pretrained weights up.
    """
    for name, parameter in last.named_parameters():
        if name.endswith("weight"):
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)


def _one_unit(tail: nn.Module, classifier: str) -> None:
    """Make logits (0, z) of a last layer for two classes: the first unit is zero, and stays so."""
    for name, parameter in tail.named_parameters():
        if name.endswith((f"{classifier}.weight", f"{classifier}.bias")):
            with torch.no_grad():
                parameter[0] = 0
            parameter.register_hook(_without_first)


def _without_first(gradient: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(gradient[:1]), gradient[1:]])


def _cut_place(
    module: nn.Module,
    extractor: FeatureExtractor,
    recipe: Recipe,
    runtime: Runtime,
    task: TrainingData,
    recorded: Mapping[str, str],
    seconds: float,
) -> int:
    """How many stages stay frozen; for `unfreeze` auto as in the training that was interrupted, or as there is time for."""
    if recipe.approach == "scratch" or (recipe.unfreeze == "all" and recipe.approach != "head_sgd"):
        return 0
    size = extractor.spec.image_size
    count = len(survey(module, size))
    if recipe.approach == "head_sgd":
        return count
    if recipe.unfreeze.isdigit():
        return max(count - int(recipe.unfreeze), 0)
    if runtime.device == "cuda":
        return 0
    if recipe.unfreeze == "auto" and "frozen stages" in recorded:
        return int(recorded["frozen stages"])
    more, less = (auto_cut(module, size, share=share) for share in SHARES)
    if more == less or recipe.unfreeze != "auto":
        return less
    rounds = recipe.epochs or FINETUNE_EPOCHS
    steps = rounds * (recipe.steps_per_epoch or math.ceil(task.train.sum() / recipe.batch_size))
    return more if steps * _seconds_a_step(module, more, extractor, recipe, runtime) <= STEPS * seconds else less


def _seconds_a_step(
    module: nn.Module, n_frozen: int, extractor: FeatureExtractor, recipe: Recipe, runtime: Runtime
) -> float:
    """Measured on activations of zeros."""
    _, tail = cut(module, n_frozen, extractor.spec.image_size)
    freeze_norms(tail)
    precision = _precision(recipe, runtime, n_frozen)
    if precision == "bf16":
        lighten(tail)
    shape = survey(module, extractor.spec.image_size)[n_frozen - 1].shape
    images = 4 * recipe.batch_size
    zeros_VND = np.zeros((1, images, math.prod(shape)), np.float16)
    batches = TensorBatches(zeros_VND, np.zeros(images, np.int64), recipe.batch_size)
    probing = replace(recipe, precision=precision)
    return _seconds_a_batch(_FromKept(tail, shape), _groups(tail, recipe), batches, probing, "cpu")


def _batches(
    extractor: FeatureExtractor, task: TrainingData, recipe: Recipe, runtime: Runtime, augment: Augment,
    trunk: nn.Module, tail: nn.Module, n_frozen: int, module: nn.Module,
) -> tuple[Batches, Batches, nn.Module]:  # fmt: skip
    """Batches for training and for validation, and the module that takes them: pixels, or kept activations."""
    sources, sha256s, labels = task.side(task.train)
    held, held_sha256s, held_labels = task.side(task.val)
    steps = recipe.steps_per_epoch
    if n_frozen == 0:
        spec = extractor.spec
        train = ImageBatches(
            sources, sha256s, labels, spec, augment, recipe.batch_size, recipe.seed, steps_per_epoch=steps
        )
        val = ImageBatches(held, held_sha256s, held_labels, spec, batch_size=recipe.batch_size, shuffle=False)
        return train, val, from_pixels(tail, replace(spec, tta="none"))
    shape = survey(module, extractor.spec.image_size)[n_frozen - 1].shape
    spec = replace(extractor.spec, tta="none")
    sessions = open_module(_ChannelsLast(trunk), spec, runtime)
    numel = math.prod(shape)
    views = range(views_that_fit(recipe.n_views, len(sources), numel)) if augment else [PLAIN]
    named = f"Activations of {len(views)} extractor{'s' * (len(views) > 1)}"
    kept_VND = keep_activations(
        sources, sha256s, spec, augment, sessions, numel, seed=recipe.seed, views=views, title=named
    )
    held_VND = keep_activations(
        held, held_sha256s, spec, augment, sessions, numel, seed=recipe.seed, views=[PLAIN], title="Validation"
    )
    train_batches = TensorBatches(kept_VND, labels, recipe.batch_size, recipe.seed, steps_per_epoch=steps)
    val_batches = TensorBatches(held_VND, held_labels, 128, shuffle=False)
    return train_batches, val_batches, _FromKept(tail, shape)


class _ChannelsLast(nn.Module):
    """A trunk whose maps come as (N, H, W, C), the order that training on a processor is fastest in."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.trunk(pixels_NCHW)
        return out.permute(0, 2, 3, 1) if out.ndim == 4 else out


class _FromKept(nn.Module):
    """A tail behind kept activations (B, numel): maps of `shape` (C, H, W), channels last; or tokens, or features."""

    def __init__(self, tail: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.tail = tail.to(memory_format=torch.channels_last)
        self.shape = shape

    def forward(self, kept_BD: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor
        if len(self.shape) == 3:
            channels, height, width = self.shape
            out = self.tail(kept_BD.float().reshape(-1, height, width, channels).permute(0, 3, 1, 2))
        else:
            out = self.tail(kept_BD.float().reshape(-1, *self.shape))
        return out


def _precision(recipe: Recipe, runtime: Runtime, n_frozen: int) -> str:
    """bf16 on GPUs, and from scratch and for tails on CPUs that have it (`lighter` makes it fast there); f32 for whole
    pretrained networks on CPUs."""
    if recipe.precision != "auto":
        return recipe.precision
    if runtime.device == "cuda" or recipe.approach == "scratch" or (n_frozen and recipe.approach == "finetune"):
        return runtime.precision
    return "f32"


def _groups(tail: nn.Module, recipe: Recipe) -> list[ParameterGroup]:
    """Parameters by stage. The last stage and the head learn at the full rate, each one before by `layer_decay` less."""
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


def _as_begun(recipe: Recipe, recorded: Mapping[str, str]) -> Recipe:
    """With the epochs and the learning rate that an interrupted training had found, so that it goes on with these."""
    if not recorded:
        return recipe
    epochs, rate = int(recorded["epochs"]), float(recorded["highest learning rate"])
    return replace(recipe, epochs=recipe.epochs or epochs, lr=recipe.lr or rate)


def _settled(
    recipe: Recipe,
    network: nn.Module,
    groups: list[ParameterGroup],
    train: Batches,
    val: Batches,
    task: TrainingData,
    runtime: Runtime,
    precision: str,
    seconds: float,
) -> Recipe:
    """The recipe with a learning rate and a number of epochs instead of zeros. Raises `NoTime`."""
    begun = time.monotonic()
    probing = replace(recipe, precision=precision)
    device = "cuda" if runtime.device == "cuda" else "cpu"
    rate = recipe.lr
    if not rate and recipe.approach == "finetune":
        rate = FINETUNE_LR * (10 if recipe.optimizer == "sgd" else 1)
    elif not rate:
        rate = find_rate(network, groups, train, probing, n_classes=task.n_classes, device=device).suggestion
        log.info("Learning rate found by a range test: %.2g.", rate)
    if recipe.epochs:
        return replace(recipe, lr=rate)
    once = _seconds_a_batch(network, groups, train, probing, device)
    images = int(task.val.sum()) / max(int(task.train.sum()), 1)
    epoch = once * len(train) * (1 + images / 3)
    left = seconds - (time.monotonic() - begun)
    epochs = min(int(left / epoch), FINETUNE_EPOCHS if recipe.approach == "finetune" else 30)
    if epochs < 1:
        raise NoTime(
            f"budget {recipe.budget} is too small for {recipe.approach}: {left:.0f} s are left, and one epoch over the "
            f"training images takes about {epoch:.0f} s.",
            hint=f"Give --budget {math.ceil((_spent(recipe, left) + 3 * epoch) / 60)}m, or --approach linear.",
        )
    return replace(recipe, lr=rate, epochs=epochs)


def _seconds_a_batch(
    network: nn.Module, groups: list[ParameterGroup], train: Batches, recipe: Recipe, device: str, most: int = 6
) -> float:
    """Measured on a few batches, the first of which only warms up; the network is as before afterwards."""
    before = {name: value.detach().clone() for name, value in network.state_dict().items()}
    passes = Passes(network.to(device), recipe, device, None)
    optimizer = make_optimizer(groups, recipe)
    network.train()
    taken = []
    for number, batch in enumerate(islice(train.epoch(0), most)):
        begun = time.monotonic()
        passes.gradient([batch], (0, number), optimizer)
        optimizer.step()
        taken.append(time.monotonic() - begun)
    network.load_state_dict(before)
    return float(np.median(taken[1:] or taken))


def _spent(recipe: Recipe, left: float) -> float:
    from headstart.training.recipe import seconds as parsed

    return parsed(recipe.budget) - left


def _class_weights(task: TrainingData, recipe: Recipe) -> np.ndarray | None:
    if recipe.class_weight == "none":
        return None
    counts_K = np.bincount(task.labels_N[task.train], minlength=task.n_classes)
    weights: np.ndarray = (counts_K.sum() / (task.n_classes * np.maximum(counts_K, 1))).astype(np.float32)
    return weights


def _interpolate(
    network: nn.Module, before: Mapping[str, torch.Tensor], val: Batches, recipe: Recipe, device: str
) -> float:
    """WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903, section 3): weights between those before and after training.

    The coefficient with the lowest validation log-loss, or the recipe's; `network` ends with these weights.
    """
    after = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def move_to(part: float) -> None:
        network.load_state_dict(between(before, after, part))

    if recipe.wise_ft != "auto":
        move_to(float(recipe.wise_ft))
        return float(recipe.wise_ft)
    losses = []
    for part in WISE:
        move_to(part)
        losses.append(evaluate(network, val, recipe, device=device).loss)
    best = WISE[int(np.argmin(losses))]
    move_to(best)
    listed = ", ".join(f"{part:g}: {loss:.4f}" for part, loss in zip(WISE, losses, strict=True))
    log.info("Validation log-loss between the frozen (0) and the tuned (1) weights: %s.", listed)
    return best


def between(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], part: float
) -> dict[str, torch.Tensor]:
    """State dict (1 - part) * before + part * after; whole numbers (counters) are those of `after`.

    >>> between({"w": torch.tensor([0.0])}, {"w": torch.tensor([2.0])}, 0.25)["w"].item()
    0.5
    """
    out = {}
    for name, value in after.items():
        old = before[name].to(value.device)
        if not value.dtype.is_floating_point or part in (0.0, 1.0):
            out[name] = old if part == 0.0 else value
        else:
            out[name] = torch.lerp(old, value, part)
    return out


def _saved(
    module: nn.Module, tail: nn.Module, extractor: FeatureExtractor, recipe: Recipe
) -> tuple[FeatureExtractor, np.ndarray, np.ndarray]:
    """The trained weights as a file of the cache, the backbone in it, and its last layer."""
    state = join(module, tail)
    name = module.pretrained_cfg["classifier"]
    last = state[f"{name}.weight"], state[f"{name}.bias"]
    arrays = {key: value.numpy() for key, value in state.items() if not key.startswith(f"{name}.")}
    data = safetensors_bytes(arrays, {"format": "pt"})
    path = cache_dir() / "tuned" / f"{sha256_bytes(data)}.safetensors"
    write_cache(path, data)
    size = extractor.spec.image_size
    backbone = tuned(extractor.backbone, path, image_size=size, hidden=recipe.hidden_sizes)
    weight_KD = last[0].reshape(last[0].shape[0], -1).float().numpy()
    bias_K = last[1].float().numpy()
    return FeatureExtractor(backbone, extractor.spec), np.ascontiguousarray(weight_KD.T), np.ascontiguousarray(bias_K)


def _seen(
    task: TrainingData, extractor: FeatureExtractor, augment: Augment, recipe: Recipe, most: int = 32
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Some training images as the first epoch showed them: uint8 (n, S, S, 3), and their labels."""
    picked = np.flatnonzero(task.train)
    rng = np.random.default_rng(recipe.seed)
    picked = rng.permutation(picked)[:most].tolist()
    batches = ImageBatches(
        [task.sources[i] for i in picked], [task.sha256s[i] for i in picked], task.labels_N[picked], extractor.spec, augment,
        batch_size=most, seed=recipe.seed, shuffle=False,
    )  # fmt: skip
    batch = next(iter(batches.epoch(0)))
    return batch.inputs.numpy(), tuple(int(label) for label in batch.targets)
