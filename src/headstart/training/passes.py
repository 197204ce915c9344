"""Forward and backward passes: the gradient of a step, and scores.

A step is one batch, or several whose gradients are added up in order. A batch that does not fit in memory is computed in
pieces. `training.shared_passes` does the same in several processes.

Costs one network's passes and 0.2 ms. When not to use it: for predictions, which need no gradients
(`model.inference.predictor`).
"""

from __future__ import annotations

import hashlib
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.errors import TrainingFailed
from headstart.io.progress import log
from headstart.training.batches import Batch, Batches
from headstart.training.optim import Objective, ParameterGroup, make_optimizer, norms
from headstart.training.recipe import Recipe


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


@dataclass(frozen=True)
class StepPlan:
    """What a step depends on: its `count` batches, starting at number `first` of an epoch; `seeds` for dropout and the like;
    `mixing`, the epoch and first number that determine mixup; `unfrozen`, the epoch whose parameter groups are trained."""

    epoch: int
    first: int
    count: int
    seeds: tuple[int, ...]
    mixing: tuple[int, int]
    unfrozen: int

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> StepPlan:
        """Invert `dataclasses.asdict`, also after JSON, which turns tuples into lists."""
        first, second = values["mixing"]
        return cls(**{**values, "seeds": tuple(values["seeds"]), "mixing": (first, second)})


@dataclass(frozen=True, eq=False)
class BatchResult:
    """What a batch adds to a step besides its gradient: `sums` of loss and correct predictions, float64 (2,), and the
    statistics of `GhostNorms`, float32, empty if there are none."""

    sums: torch.Tensor
    statistics: torch.Tensor


class GhostNorms:
    """BatchNorm's running statistics in a step of several batches, each of which is normalised separately.

    Every batch starts from the statistics before the step; afterwards they are updated once per batch, in order, by the
    mean over the batch's pieces. So it does not matter in which process, or in how many pieces, a batch is computed.
    """

    def __init__(self, module: nn.Module) -> None:
        self._norms = [norm for norm in norms(module) if norm.training and norm.running_mean is not None]
        self._found: list[torch.Tensor] = []
        self.numel = sum(norm.running_mean.numel() + norm.running_var.numel() for norm in self._norms)

    @contextmanager
    def piece(self) -> Iterator[None]:
        """Record the statistics of what passes through the network inside the block, then restore those from before."""
        kept = [(n, n.running_mean, n.running_var, n.num_batches_tracked, n.momentum) for n in self._norms]
        for norm, mean, var, number, _ in kept:  # new tensors: the backward pass needs the values of this moment
            norm.running_mean, norm.running_var, norm.num_batches_tracked = mean.clone(), var.clone(), number.clone()
            norm.momentum = 1.0
        try:
            yield
            if kept and self._norms[0].training:  # not so for a single image
                self._found.append(torch.cat([b.float() for n in self._norms for b in (n.running_mean, n.running_var)]))
        finally:
            for norm, mean, var, number, momentum in kept:
                norm.running_mean, norm.running_var, norm.num_batches_tracked = mean, var, number
                norm.momentum = momentum

    def statistics(self) -> torch.Tensor:
        """Return the statistics of the batch that ends here, means and variances of all layers; empty if there are none."""
        found, self._found = self._found, []
        return torch.stack(found).mean(0) if found else torch.empty(0)

    def update(self, statistics: torch.Tensor) -> None:
        """Update the running statistics with those of one batch."""
        if not statistics.numel():
            return
        sizes = [b.numel() for n in self._norms for b in (n.running_mean, n.running_var)]
        parts = iter(statistics.split(sizes))
        for norm in self._norms:
            norm.num_batches_tracked += 1
            share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
            norm.running_mean.lerp_(next(parts).to(norm.running_mean), share)
            norm.running_var.lerp_(next(parts).to(norm.running_var), share)


@contextmanager
def statistics_kept_on_failure(module: nn.Module) -> Iterator[None]:
    """Restore BatchNorm's running statistics if the block raises: part of a network may have updated them."""
    kept = [
        (statistic, statistic.clone())
        for norm in norms(module)
        if norm.training
        for statistic in (norm.running_mean, norm.running_var, norm.num_batches_tracked)
        if statistic is not None
    ]
    try:
        yield
    except BaseException:
        for statistic, before in kept:
            statistic.copy_(before)
        raise


class GradientSum:
    """The gradient of a step: the sum over its batches, in order, and whatever else the batches yield."""

    def __init__(self, module: nn.Module, ghosts: GhostNorms | None) -> None:
        self._params = [p for p in module.parameters() if p.requires_grad]
        self._sizes = [p.numel() for p in self._params]
        self._total: list[torch.Tensor | None] = [None] * len(self._params)
        self._sums: torch.Tensor | None = None
        self._ghosts, self._statistics = ghosts, list[torch.Tensor]()

    def note(self, result: BatchResult) -> None:
        """Add the loss of one more batch, and record its statistics."""
        self._sums = result.sums if self._sums is None else self._sums + result.sums
        self._statistics.append(result.statistics)

    def take(self) -> None:
        """Add the gradient in the parameters, and clear it there."""
        found = [p.grad for p in self._params]
        self._add(found)
        self._total = [new if old is None else old for old, new in zip(self._total, found, strict=True)]
        for parameter in self._params:
            parameter.grad = None

    def take_flat(self, flat: torch.Tensor) -> None:
        """Add a gradient made by `flat` on another rank."""
        parts = [part.view(p.shape) for p, part in zip(self._params, flat.split(self._sizes), strict=True)]
        if all(total is None for total in self._total):  # no batch here: `flat` is reused
            parts = [torch.empty_like(p).copy_(part) for p, part in zip(self._params, parts, strict=True)]
            self._total = [*parts]
        else:
            self._add(parts)

    def flat(self) -> torch.Tensor:
        """Return the gradient in the parameters as one tensor, with zeros where there is none; clear it there."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._params]
        for parameter in self._params:
            parameter.grad = None
        return torch.cat([part.reshape(-1) for part in parts])

    def close(self) -> tuple[float, float]:
        """Leave the sum in the parameters, update the statistics; return loss and correct predictions."""
        for parameter, total in zip(self._params, self._total, strict=True):
            parameter.grad = total
        for statistics in self._statistics if self._ghosts else ():
            self._ghosts.update(statistics)  # type: ignore[union-attr]
        loss, right = (0.0, 0.0) if self._sums is None else self._sums.tolist()  # only here does the CPU wait
        return loss, right

    def _add(self, more: Sequence[torch.Tensor | None]) -> None:
        both = [(old, new) for old, new in zip(self._total, more, strict=True) if old is not None and new is not None]
        if both:
            torch._foreach_add_(*map(list, zip(*both, strict=True)))


class Passes:
    """Forward and backward passes on a device, at a precision, with `at_once` images at a time (0: a whole batch)."""

    share = (0, 1)
    """Which of the batches are computed here; see `Batches.epoch`."""

    def __init__(self, module: nn.Module, recipe: Recipe, device: str, class_weights: np.ndarray | None) -> None:
        self.module, self.device, self.seed = module, device, recipe.seed
        self.at_once = 0
        self._several = recipe.grad_accum_steps > 1
        bf16 = recipe.precision == "bf16" or (recipe.precision == "auto" and device != "cpu")
        self._autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)
        self._objective = Objective(recipe, class_weights, device)
        self._plain = Objective(replace(recipe, label_smoothing=0.0), None, device)

    def numbers(self, count: int) -> range:
        """Return which of the `count` batches of a step are computed here."""
        return range(self.share[0], count, self.share[1])

    def gradient(self, batches: Sequence[Batch], at: StepPlan, optimizer: torch.optim.Optimizer) -> StepResult:
        """Accumulate the gradient of the mean loss over all these batches in the parameters."""
        while True:
            optimizer.zero_grad(set_to_none=True)
            try:
                return self._gradient(batches, at)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            self.halve(max(len(batch) for batch in batches))  # outside `except`, which keeps the computed tensors alive

    def _gradient(self, batches: Sequence[Batch], at: StepPlan) -> StepResult:
        weight = sum(self.weight(batch) for batch in batches)
        ghosts = self.ghosts()
        total = GradientSum(self.module, ghosts)
        for number, batch in enumerate(batches):
            total.note(self.of_batch(batch, weight, at.seeds, number, ghosts))
            total.take()
        loss, right = total.close()
        return StepResult(loss, weight, right, sum(len(batch) for batch in batches))

    def weight(self, batch: Batch) -> float:
        """Return the weight of a batch in the mean loss of its step."""
        return self._objective.weight(batch.targets)

    def ghosts(self) -> GhostNorms | None:
        """Return what keeps BatchNorm's statistics apart in a step of several batches or pieces; None for a single one."""
        return GhostNorms(self.module) if self._several or self.at_once else None

    def of_batch(
        self, batch: Batch, weight: float, seeds: tuple[int, ...], number: int, ghosts: GhostNorms | None
    ) -> BatchResult:
        """Compute the gradient of batch `number` of a step whose weight is `weight`; leave it in the parameters."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        with nullcontext() if ghosts else statistics_kept_on_failure(self.module):
            for part, (inputs, targets) in enumerate(self._pieces(batch)):
                _draw_anew(self.device, self.seed, *seeds, number, part)
                with self._single(len(inputs)), ghosts.piece() if ghosts else nullcontext():
                    logits_BK = self._logits(inputs)
                loss = self._objective.total(logits_BK, targets) / weight
                loss.backward()
                sums += torch.stack([loss.detach().double(), _right(logits_BK, targets)])
        return BatchResult(sums, ghosts.statistics() if ghosts else torch.empty(0))

    def score(self, batches: Batches) -> Score:
        """Return mean loss and accuracy in evaluation mode; restore the module's mode."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        images = 0
        with self.evaluating():
            for batch in batches.epoch(0):
                sums += self.score_batch(batch)
                images += len(batch)
        loss, right = (sums / max(images, 1)).tolist()
        return Score(loss, right)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Keep the module in evaluation mode, without gradients, inside the block."""
        training = [m for m in self.module.modules() if m.training]
        self.module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True

    def score_batch(self, batch: Batch) -> torch.Tensor:
        """Return the sums of loss and correct predictions over a batch, float64 (2,)."""
        while True:
            try:
                sums = torch.zeros(2, dtype=torch.float64, device=self.device)
                for inputs, targets in self._pieces(batch):
                    logits_BK = self._logits(inputs)
                    loss = self._plain.total(logits_BK.double(), targets)
                    sums += torch.stack([loss, _right(logits_BK, targets)])
                return sums
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
            self.halve(len(batch))

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

    def halve(self, largest: int) -> None:
        """Compute fewer images at a time from now on, `largest` being the largest batch. Raises `TrainingFailed`."""
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
            "Out of memory with %d images at a time: continuing with %d; their gradients add up to the same step.",
            size,
            self.at_once,
        )


def _right(logits_BK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Count the images whose highest logit is at their (heaviest) class, float64."""
    classes = targets if targets.ndim == 1 else targets.argmax(1)
    return (logits_BK.detach().argmax(1) == classes).sum().double()


def _draw_anew(device: str, *numbers: int) -> None:
    """Seed torch from these numbers. (`torch.manual_seed` checks for every kind of device: 0.2 ms.)"""
    seed = int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "little")
    torch.default_generator.manual_seed(seed)
    if device != "cpu":
        torch.cuda.manual_seed_all(seed)


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out: CUDA's or Python's own error, or torch's on a CPU, recognised by its text."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return any(
        text in str(error) for text in ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )


def seconds_per_batch(
    module: nn.Module,
    groups: Sequence[ParameterGroup],
    train: Batches,
    recipe: Recipe,
    device: str,
    *,
    within: float = math.inf,
    most: int = 6,
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Measure a few batches and steps, of which the first is a warm-up; restore the module.

    After `within` seconds no other batch starts but the second one.
    """
    before = {name: value.detach().clone() for name, value in module.state_dict().items()}
    passes = Passes(module.to(device), recipe, device, None)
    optimizer = make_optimizer(groups, recipe)
    module.train()
    moments = [clock()]
    for number, batch in enumerate(itertools.islice(train.epoch(0), most)):
        passes.gradient([batch], StepPlan(0, number, 1, (0, number), (0, number), 0), optimizer)
        optimizer.step()
        moments.append(clock())
        if number and moments[-1] - moments[0] > within:
            break
    durations = np.diff(moments)
    module.load_state_dict(before)
    return float(np.median(durations[1:] if len(durations) > 1 else durations))
