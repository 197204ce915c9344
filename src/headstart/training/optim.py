"""The parts of a training step: loss, gradient over a batch, optimisers, learning rates, moving average of weights.

The optimisers are torch's own, fused where available: on a CPU, an AdamW step over MobileNetV2's 158 tensors took 15 ms
instead of 222 ms. Weight decay skips biases and the parameters of norms (all with fewer than two axes). Schedules
depend on the step number alone, so resuming needs no state for them.

If the whole backbone stays frozen, a closed-form last layer (`model.heads.linear`) is the better choice: it is exact,
and needs none of these.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from headstart.errors import TrainingFailed
from headstart.io.progress import log
from headstart.training.batches import Batch, Batches
from headstart.training.recipe import Recipe

ONECYCLE_START, ONECYCLE_END = 1 / 25, 1 / 25e4
"""First and last learning rate of a cycle, as fractions of the peak (those of torch's OneCycleLR)."""
MOMENTA = (0.85, 0.95)
"""Momentum at the peak learning rate of a cycle, and at its ends: one falls as the other rises (Smith 2018, 4.4)."""


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters with a learning rate of `lr_scale` x the schedule's, trained from epoch `unfreeze_at` (from 0) on."""

    name: str
    params: Sequence[nn.Parameter]
    lr_scale: float = 1.0
    unfreeze_at: int = 0


def make_optimizer(groups: Sequence[ParameterGroup], recipe: Recipe) -> torch.optim.Optimizer:
    """Make the recipe's optimiser; each group becomes one with weight decay and one without. Needs torch 2.4."""
    parted: list[dict[str, Any]] = []
    for group in groups:
        wide = [p for p in group.params if p.ndim > 1]
        flat = [p for p in group.params if p.ndim <= 1]
        for params, decay in ((wide, recipe.weight_decay), (flat, 0.0)):
            if params:
                parted.append({"params": params, "weight_decay": decay, "lr_scale": group.lr_scale})
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parted, fused=True)
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parted, fused=True)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parted, lr=1e-3, momentum=0.9, fused=True)
    return torch.optim.RMSprop(parted, foreach=True)


@dataclass(frozen=True)
class Schedule:
    """The learning-rate schedule over `total` steps: `kind` onecycle, cosine or constant, see `Recipe`.

    onecycle (Smith 2018, arXiv 1803.09820): a cosine from 1/25 of the peak up to the peak over the fraction `warmup`
    (default 0.3) of the steps, then a cosine down to almost zero, as in torch's `OneCycleLR`. cosine (Loshchilov and
    Hutter 2017, arXiv 1608.03983, without restarts) and constant rise linearly over the fraction `warmup`.
    """

    kind: str
    total: int
    warmup: float = 0.0

    def rate(self, step: float) -> float:
        """Return the learning rate at a step (from 0; between two steps if the schedule is run through faster) as a
        fraction of the peak.

        >>> [round(Schedule("cosine", 4).rate(step), 3) for step in range(4)]
        [1.0, 0.854, 0.5, 0.146]
        """
        if self.kind == "onecycle":
            return self._cycled(step, ONECYCLE_START, 1.0, ONECYCLE_END)
        rise = round(self.warmup * self.total)
        if step < rise:
            return (step + 1) / (rise + 1)
        return _cosine(1.0, 0.0, (step - rise) / (self.total - rise)) if self.kind == "cosine" else 1.0

    def momentum(self, step: float) -> float | None:
        """Return the momentum (beta1 of Adam) at a step; None leaves it unchanged."""
        low, high = MOMENTA
        return self._cycled(step, high, low, high) if self.kind == "onecycle" else None

    def _cycled(self, step: float, start: float, peak: float, end: float) -> float:
        if self.total == 1:
            return peak
        turn = (self.warmup or 0.3) * self.total - 1
        if step <= turn and turn > 0:
            return _cosine(start, peak, step / turn)
        return _cosine(peak, end, (step - turn) / (self.total - 1 - turn))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2 * (math.cos(math.pi * part) + 1)


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float | None = None) -> None:
    """Set each group's learning rate, and the momentum of Adam and SGD. RMSprop has none in a recipe."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        if momentum is not None and "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        elif momentum is not None and isinstance(optimizer, torch.optim.SGD):
            group["momentum"] = momentum


class Objective:
    """The objective of a step: the mean of the recipe's loss over a batch, see `Recipe.loss`.

    It is a sum over images and a weight to divide by, so that a batch can be split into pieces whose gradients add up
    to the whole batch's. With `class_weights` w (K,) the mean is weighted: sum w[y] loss / sum w[y], as in torch's
    `cross_entropy` for hard labels; blended targets count by their fraction of each class.

    softmax_twice applies softmax before a cross entropy that applies it again, as the published scratch-cnn did (its
    last layer returned probabilities, which its loss treated as logits): gradients are small, and the loss cannot fall
    below log(1 + (K-1)/e). binary is the cross entropy of the logits (0, z), the same as of sigmoid(z).
    """

    def __init__(self, recipe: Recipe, class_weights: np.ndarray | None = None, device: str = "cpu") -> None:
        self._twice = recipe.loss == "softmax_twice"
        self._smoothing = recipe.label_smoothing
        self._counted = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float64)
        self._weights = None if self._counted is None else self._counted.to(device)

    def total(self, logits_BK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Sum the loss over images, float32 (float64 for float64 logits). `targets` is int64 (B,) or float (B, K)."""
        logits_BK = logits_BK.float() if logits_BK.dtype in (torch.bfloat16, torch.float16) else logits_BK
        if self._twice:
            logits_BK = logits_BK.softmax(1)
        weights = None if self._weights is None else self._weights.to(logits_BK.dtype)
        targets = targets.to(logits_BK.dtype) if targets.ndim == 2 else targets
        return F.cross_entropy(logits_BK, targets, weights, reduction="sum", label_smoothing=self._smoothing)

    def weight(self, targets: torch.Tensor) -> float:
        """Return the divisor of the sum: the number of images, or the sum of their weights."""
        if self._counted is None:
            return float(len(targets))
        shares = targets.cpu().double() @ self._counted if targets.ndim == 2 else self._counted[targets.cpu()]
        return float(shares.sum())


@dataclass(frozen=True)
class Score:
    """Mean loss and accuracy over batches in evaluation mode."""

    loss: float
    accuracy: float


@dataclass(frozen=True)
class StepResult:
    """Result of a step: mean loss, its weight, correct predictions, images."""

    loss: float
    weight: float
    right: float
    images: int


class Passes:
    """Forward and backward passes on a device, at a precision, with `at_once` images at a time (0: a whole batch)."""

    def __init__(self, module: nn.Module, recipe: Recipe, device: str, class_weights: np.ndarray | None) -> None:
        self.module, self.device, self.seed = module, device, recipe.seed
        self.at_once = 0
        bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and device != "cpu")
        self._autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)
        self._objective = Objective(recipe, class_weights, device)
        self._plain = Objective(replace(recipe, label_smoothing=0.0), None, device)

    def gradient(self, batches: list[Batch], at: tuple[int, ...], optimizer: torch.optim.Optimizer) -> StepResult:
        """Accumulate the gradient of the mean loss over all these batches in the parameters."""
        while True:
            optimizer.zero_grad(set_to_none=True)
            try:
                return self._gradient(batches, at)
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
            largest = max(len(batch) for batch in batches)
            self._halve(largest)  # outside `except`, which keeps the computed tensors alive

    def _gradient(self, batches: list[Batch], at: tuple[int, ...]) -> StepResult:
        weight = sum(self._objective.weight(batch.targets) for batch in batches)
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        for number, batch in enumerate(batches):
            for part, (inputs, targets) in enumerate(self._pieces(batch)):
                _draw_anew(self.device, self.seed, *at, number, part)
                with self._single(len(inputs)):
                    logits_BK = self._logits(inputs)
                loss = self._objective.total(logits_BK, targets) / weight
                loss.backward()
                sums += torch.stack([loss.detach().double(), _right(logits_BK, targets)])
        loss_seen, right = sums.tolist()  # the only time that the CPU waits for the GPU
        return StepResult(loss_seen, weight, right, sum(len(batch) for batch in batches))

    def score(self, batches: Batches) -> Score:
        """Return mean loss and accuracy in evaluation mode; restore the module's mode."""
        training = [m for m in self.module.modules() if m.training]
        self.module.eval()
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        images = 0
        with torch.no_grad():
            for batch in batches.epoch(0):
                sums += self._score(batch)
                images += len(batch)
        for module in training:
            module.training = True
        loss, right = (sums / max(images, 1)).tolist()
        return Score(loss, right)

    def _score(self, batch: Batch) -> torch.Tensor:
        while True:
            try:
                sums = torch.zeros(2, dtype=torch.float64, device=self.device)
                for inputs, targets in self._pieces(batch):
                    logits_BK = self._logits(inputs)
                    loss = self._plain.total(logits_BK.double(), targets)
                    sums += torch.stack([loss, _right(logits_BK, targets)])
                return sums
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
            self._halve(len(batch))

    def _pieces(self, batch: Batch) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield inputs and targets on the device, in one piece or in several of nearly equal size."""
        parts = math.ceil(len(batch) / self.at_once) if self.at_once else 1
        inputs, targets = self._here(batch.inputs), self._here(batch.targets)
        yield from zip(torch.tensor_split(inputs, parts), torch.tensor_split(targets, parts), strict=True)

    def _here(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.device != "cpu" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory().to(self.device, non_blocking=True)
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        if self.device != "cpu" and tensor.ndim == 4 and tensor.is_floating_point():
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        return tensor

    def _logits(self, inputs: torch.Tensor) -> torch.Tensor:
        with self._autocast:
            logits_BK: torch.Tensor = self.module(inputs)
        return logits_BK

    @contextmanager
    def _single(self, size: int) -> Iterator[None]:
        """Let BatchNorm use its running statistics for a single image, which has no variance."""
        fixed = [norm for norm in norms(self.module) if norm.training] if size == 1 else []
        for norm in fixed:
            norm.eval()
        try:
            yield
        finally:
            for norm in fixed:
                norm.train()

    def _halve(self, largest: int) -> None:
        size = min(self.at_once or largest, largest)
        if size <= 1:
            raise TrainingFailed(
                "Out of memory: not even one image fits at a time.",
                hint="Choose a smaller --image-size or --backbone, or fine-tune fewer stages, for example --unfreeze 2.",
            )
        self.at_once = math.ceil(size / 2)
        if self.device != "cpu":
            torch.cuda.empty_cache()
        log.warning(
            "Out of memory with %d images at a time: continuing with %d, gradients summed to the same step.",
            size,
            self.at_once,
        )


def _right(logits_BK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Count the images whose highest logit is at their (heaviest) class, float64."""
    classes = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits_BK.detach().argmax(1) == classes).sum().double()


def norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return all BatchNorm layers, including timm's."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _draw_anew(device: str, *numbers: int) -> None:
    """Seed torch from these numbers. (`torch.manual_seed` checks for every kind of device: 0.2 ms.)"""
    seed = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "little")
    torch.default_generator.manual_seed(seed)
    if device != "cpu":
        torch.cuda.manual_seed_all(seed)


def _out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: CUDA's or Python's own error, or torch's on a CPU, recognised by its text."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return any(
        text in str(error) for text in ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


class MovingAverage:
    """An exponential moving average of a module's weights and running statistics (Polyak averaging).

    Each step moves it by 1 - d towards the current weights, d = min(decay, (1 + t) / (10 + t)) at step t (from 1), so
    the average of a short training is not stuck at the initial weights. Costs one copy of the weights, and 1.5 ms per
    step for MobileNetV2 on 2 cores.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, t: int) -> None:
        """Update the average with the weights after step `t` (from 1)."""
        keep = min(self.decay, (1 + t) / (10 + t))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                self.values[name].lerp_(value, 1 - keep)
            else:
                self.values[name].copy_(value)


@dataclass(frozen=True)
class RateTest:
    """Result of `training.loop.find_rate`: the loss at each learning rate, raw and smoothed, and a suggestion."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smooth: tuple[float, ...]
    suggestion: float


def smoothed(losses: Sequence[float], beta: float = 0.9) -> list[float]:
    """Return the exponential moving average, with Adam's bias correction.

    >>> smoothed([1.0, 0.0], beta=0.5)
    [1.0, 0.3333333333333333]
    """
    average, out = 0.0, []
    for i, loss in enumerate(losses, start=1):
        average = beta * average + (1 - beta) * loss
        out.append(average / (1 - beta**i))
    return out


def steepest(rates: Sequence[float], losses: Sequence[float], half: int = 8) -> float | None:
    """Return the learning rate where the loss falls fastest per decade, before its minimum; None if it never does.

    Smith 2017 (arXiv 1506.01186, section 3.3) reads this off the plot. Here a line is fitted to every 2 x `half` + 1
    consecutive losses over the logarithm of the learning rate (which does not lag as a moving average does), and the
    steepest one counts if its slope exceeds three standard errors.
    """
    decades, values = np.log10(rates), np.asarray(losses, float)
    if len(values) <= 2 * half:
        return None
    lowest = int(np.argmin(smoothed(losses)))
    slopes = {}
    for i in range(half, min(lowest, len(values) - half - 1) + 1):
        x = decades[i - half : i + half + 1] - decades[i]
        y = values[i - half : i + half + 1]
        slope = float(x @ y / (x @ x))
        spread = float(np.sum((y - y.mean() - slope * x) ** 2)) / (len(x) - 2)
        if slope < -3 * math.sqrt(spread / float(x @ x)):
            slopes[i] = slope
    return float(rates[min(slopes, key=slopes.__getitem__)]) if slopes else None


def seconds_per_batch(
    module: nn.Module, groups: Sequence[ParameterGroup], train: Batches, recipe: Recipe, device: str, most: int = 6
) -> float:
    """Measure a few batches and steps, of which the first is a warm-up; restore the module."""
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    passes = Passes(module.to(device), recipe, device, None)
    optimizer = make_optimizer(groups, recipe)
    module.train()
    moments = [time.monotonic()]
    for number, batch in enumerate(itertools.islice(train.epoch(0), most)):
        passes.gradient([batch], (0, number), optimizer)
        optimizer.step()
        moments.append(time.monotonic())
    durations = np.diff(moments)
    module.load_state_dict(before)
    return float(np.median(durations[1:] if len(durations) > 1 else durations))
