"""The parts of a training step: loss, optimisers, learning rates, moving average of weights.

`training.passes` computes gradients.

The optimisers are torch's own, fused where available: on a CPU, an AdamW step over MobileNetV2's 158 tensors took 15 ms
instead of 222 ms. Weight decay skips biases and the parameters of norms (all with fewer than two axes). Schedules
depend on the step number alone, so resuming needs no state for them.

If the whole backbone stays frozen, a closed-form last layer (`model.heads.linear`) is the better choice: it is exact,
and needs none of these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

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
        for params, decay in ((wide, recipe.decay), (flat, 0.0)):
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
    """Set each group's learning rate, and the momentum of Adam and SGD. A recipe cannot set RMSprop's."""
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


def norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """Return all BatchNorm layers, including timm's."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def prepare_epoch(module: nn.Module, groups: Sequence[ParameterGroup], epoch: int) -> None:
    """Enter training mode; only groups unfrozen by `epoch` take gradients, and the norms of others keep statistics."""
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    for group in groups:
        for parameter in group.params:
            parameter.requires_grad_(group.unfreeze_at <= epoch)
    module.train()
    for norm in norms(module):
        if norm.weight is not None and not norm.weight.requires_grad:
            norm.eval()


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
