"""The training loop: batches of tensors in, a trained module out. The entry point is `fit`.

It knows nothing of images, backbones or files: `module` maps a batch's inputs to logits (B, K). Compared with a plain
torch loop it costs 0.2 to 0.3 ms more per step on a CPU (a seed per batch, the history, the checks), and another 0.3 ms
with a moving average. That matters only for networks whose own step is shorter; for a last layer alone use
`model.heads.linear`.

Equal inputs give equal weights, to the bit on a CPU with a fixed number of threads, even if training was killed and
resumed any number of times: batches depend on (seed, epoch), and dropout and the like on a seed set for each batch, so
the only state is what `training.checkpoint` saves.

On CUDA: channels_last, pinned memory, non-blocking copies, bf16 (written but not yet run on a GPU).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.errors import TrainingFailed
from headstart.io.progress import bar, log
from headstart.training.batches import EVERY_BATCH, Batch, Batches
from headstart.training.checkpoint import Checkpoint, Snapshot
from headstart.training.hooks import EpochRow, Hooks, State, StepRow
from headstart.training.optim import (
    MovingAverage,
    ParameterGroup,
    RateTest,
    Schedule,
    make_optimizer,
    prepare_epoch,
    set_rates,
    smoothed,
    steepest,
)
from headstart.training.pacing import Deadline, Pacing
from headstart.training.passes import Passes, Score, StepPlan, StepResult
from headstart.training.ranks import Team
from headstart.training.recipe import Recipe
from headstart.training.shared_passes import LeadingPasses

NAMED_IMAGES = 32
"""Largest number of images of a bad batch that a message lists."""


@dataclass(frozen=True)
class TrainingResult:
    """The result of `fit`. `stopped` is the reason for stopping early, empty if all epochs ran; `bad_images` are those
    of a batch whose loss was not finite. `replanned` are the changes to the number of steps, see `training.pacing`."""

    epochs: tuple[EpochRow, ...]
    steps: tuple[StepRow, ...]
    best_epoch: int
    stopped: str
    bad_images: tuple[int, ...] = ()
    replanned: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class TrainingTask:
    """What to train, and on what: the parameters in `groups` of `module`, which maps batches' inputs to logits (B, K).
    `val` None: no validation. `class_weights` float32 (K,) weight the loss. `team`: the processes that share the work
    (the others `follower.follow` an equal task); None: only this process. `names` of the training images are for messages."""

    module: nn.Module
    groups: Sequence[ParameterGroup]
    train: Batches
    val: Batches | None
    n_classes: int
    device: str = "cpu"
    class_weights: np.ndarray | None = None
    team: Team | None = None
    names: Sequence[str] = ()

    def passes(self, recipe: Recipe) -> Passes:
        """Return the passes through the module: all in this process, or shared."""
        if self.team is None:
            return Passes(self.module, recipe, self.device, self.class_weights)
        return LeadingPasses(self.module, recipe, self.device, self.class_weights, self.team)


def fit(
    task: TrainingTask,
    recipe: Recipe,
    *,
    epochs: int,
    lr: float,
    checkpoint: Checkpoint | None = None,
    hooks: Sequence[Hooks] = (),
    deadline: Deadline | None = None,
    replanned: Sequence[tuple[int, int]] = (),
) -> TrainingResult:
    """Train the parameters in the task's groups and no others; its module ends with the best epoch's weights.

    `epochs` and the peak learning rate `lr` take precedence over the recipe's. With a `deadline` there are fewer steps
    if they do not fit; `replanned` repeats such changes of an earlier training (`TrainingResult.replanned`).

    `recipe.monitor` selects the best epoch, the first one of equals; with `recipe.model_ema_decay` the moving average
    is validated and kept. Without `val` the last epoch counts as best. A group that is still frozen keeps its BatchNorm
    statistics too.

    A batch that does not fit in memory is split into pieces whose gradients add up to the whole batch's (BatchNorm sees
    pieces); later batches are split in the same way. With a `checkpoint`, an interrupted training is resumed; remove it
    (`Checkpoint.discard`) once the result is saved.

    Raises `TrainingFailed` if the loss is not finite before the end of the first epoch (later, that stops training, see
    `TrainingResult.stopped`), or if not even one image fits in memory; `UnfinishedTraining`, see `Checkpoint.load`.
    """
    training = _Training(task=task, recipe=recipe, epochs=epochs, lr=lr, hooks=hooks)
    training.pacing.follow(deadline, replanned)
    if checkpoint is not None:
        found = {
            "number of epochs": str(epochs),
            "highest learning rate": repr(lr),
            "batches per epoch": str(len(task.train)),
        }
        training.resume(replace(checkpoint, key={**checkpoint.key, **found}))
    with _flags_kept(task.module):
        return training.run()


def evaluate(module: nn.Module, batches: Batches, recipe: Recipe, *, device: str = "cpu") -> Score:
    """Return mean loss (without smoothing and class weights, see `EpochRow`) and accuracy of a module over batches."""
    return Passes(module.to(device), recipe, device, None).score(batches)


def validate(task: TrainingTask, recipe: Recipe) -> Score:
    """Return the same for a task's module over its validation set, without class weights."""
    if task.val is None:
        raise ValueError("no validation images")
    task.module.to(task.device)
    return replace(task, class_weights=None).passes(recipe).score(task.val)


def find_rate(
    task: TrainingTask, recipe: Recipe, *, low: float = 1e-6, high: float = 1.0, steps: int = 100
) -> RateTest:
    """Run a range test: `steps` steps at learning rates rising geometrically from `low` to `high`; restore the module.

    (Smith 2017, arXiv 1506.01186, section 3.3.) It ends early once the smoothed loss is four times its lowest. The
    suggestion is the learning rate at which the loss falls fastest, see `optim.steepest`; if it never falls (because
    the last layer is already fitted, say), it is the `usual_rate`, with a warning. Costs as much as `steps` steps of
    training.
    """
    module, before = task.module, _copied(task.module)
    training = _Training(task=replace(task, val=None), recipe=recipe, epochs=1, lr=high, hooks=())
    rates = [low * (high / low) ** (i / max(steps - 1, 1)) for i in range(steps)]
    with _flags_kept(module):
        losses = training.range_test(rates)
    module.load_state_dict(before)
    rates = rates[: len(losses)]
    suggestion = steepest(rates, losses)
    if suggestion is None:
        suggestion = usual_rate(recipe)
        log.warning("No learning rate lowered the loss in %d steps; using %g.", len(rates), suggestion)
    return RateTest(tuple(rates), tuple(losses), tuple(smoothed(losses)), suggestion)


def usual_rate(recipe: Recipe) -> float:
    """Return the learning rate to use if none is known: 1e-3, for SGD 1e-2."""
    return 1e-2 if recipe.optimizer == "sgd" else 1e-3


class _NotFinite(Exception):
    """The loss of a batch, or the validation loss, is not finite."""

    def __init__(self, message: str, images: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.images = tuple(images)


@dataclass
class _Sums:
    """Running sums of an epoch: loss x weight, weight, correct predictions, images, seconds."""

    loss: float = 0.0
    weight: float = 0.0
    right: float = 0.0
    images: int = 0
    seconds: float = 0.0


class _Training:
    """The state of one training run, with its steps, its epochs and its end."""

    def __init__(self, task: TrainingTask, recipe: Recipe, epochs: int, lr: float, hooks: Sequence[Hooks]) -> None:
        module, groups, train = task.module, task.groups, task.train
        module.to(task.device, memory_format=torch.channels_last if task.device != "cpu" else torch.preserve_format)
        per_epoch = math.ceil(len(train) / recipe.grad_accum_steps)
        total = epochs * per_epoch
        self.module, self.groups, self.train, self.val, self.recipe = module, groups, train, task.val, recipe
        self.lr, self.n_classes, self.hooks, self.names = lr, task.n_classes, hooks, task.names
        self.state = State(module, recipe, epochs, total)
        self.optimizer = make_optimizer(groups, recipe)
        self.schedule = Schedule(recipe.lr_scheduler, total, recipe.warmup_ratio)
        self.pacing = Pacing(total, per_epoch)
        self.passes = task.passes(recipe)
        self.average = MovingAverage(module, recipe.model_ema_decay) if recipe.model_ema_decay else None
        self.best: dict[str, torch.Tensor] = {}
        self.best_value = math.inf
        self.sums = _Sums()
        self.bad_images: tuple[int, ...] = ()
        self.checkpoint: Checkpoint | None = None
        self.told = -1
        """The last epoch in which a change of the number of steps was logged."""

    # --------------------------------------------------------------------------------------------- steps and epochs
    def run(self) -> TrainingResult:
        """Run the remaining epochs."""
        state = self.state
        self._call("before_fit")
        try:
            while state.epoch < state.epochs and not state.stopped:
                self._epoch()
        except _NotFinite as error:
            self._end_at(error)
        self.module.load_state_dict(self.best)
        self._save()
        self._call("after_fit")
        return TrainingResult(
            epochs=tuple(state.rows),
            steps=tuple(state.steps),
            best_epoch=state.best_epoch,
            stopped=state.stopped,
            bad_images=self.bad_images,
            replanned=tuple(self.pacing.changes),
        )

    def _end_at(self, error: _NotFinite) -> None:
        if not self.best:
            if self.checkpoint is not None:
                self.checkpoint.discard()  # resuming would fail in the same way
            failed = TrainingFailed(
                f"Training failed in its first epoch: {error.message}",
                images=error.images,
                hint=f"Lower --lr (it was {self.lr:g}), or clip the gradient, for example --clip-grad 1.",
            )
            raise failed from error
        self.state.stopped, self.bad_images = error.message, error.images
        best = self.state.best_epoch + 1
        log.warning("Training stopped: %s Keeping the weights of epoch %d, the best so far.", error.message, best)

    def _epoch(self) -> None:
        state, recipe = self.state, self.recipe
        prepare_epoch(self.module, self.groups, state.epoch)
        self._call("before_epoch")
        begun = self.pacing.clock() - self.sums.seconds
        batches = self.train.epoch(state.epoch, start=state.batch, only=self.passes.share)
        here = len(self.passes.numbers(recipe.grad_accum_steps))
        with bar(self._headline(), total=len(self.train)) as advance:
            advance(state.batch)
            while self._goes_on() and (gathered := list(itertools.islice(batches, here))):
                before = state.batch
                self._step(gathered)
                self._replan(self.pacing.clock() - begun - self.sums.seconds)
                self.sums.seconds = self.pacing.clock() - begun
                advance(state.batch - before)
                self._save_if_due()
        self._finish_epoch(begun)

    def _goes_on(self) -> bool:
        """Return whether another step follows in this epoch; it may be cut short."""
        return self.state.step < self.state.total_steps

    def _replan(self, seconds: float) -> None:
        """Fit the number of steps to the time that is left; the last step took `seconds`."""
        state, before = self.state, self.state.total_steps
        changed = self.pacing.stepped(state.step, seconds)
        state.total_steps, state.epochs = self.pacing.total(state.step), self.pacing.epochs(state.step)
        if changed and self.told < state.epoch:
            self.told = state.epoch
            old, new = (f"{total / self.pacing.per_epoch:.1f} epochs" for total in (before, state.total_steps))
            if state.total_steps < before:
                log.info("Training is slower than planned: %s instead of %s, to stay within the budget.", new, old)
            else:
                log.info("Training is faster again: %s instead of %s fit into the budget.", new, old)

    def _headline(self) -> str:
        last = self.state.rows[-1] if self.state.rows else None
        scores = f", validation so far: loss {last.val_loss:.3f}, accuracy {last.val_accuracy:.3f}" if last else ""
        return f"Epoch {self.state.epoch + 1} of {self.state.epochs}{scores if self.val else ''}"

    def _step(self, gathered: list[Batch]) -> None:
        state = self.state
        position = self.pacing.position(state.step)
        state.lr = self.lr * self.schedule.rate(position)
        set_rates(self.optimizer, state.lr, self.schedule.momentum(position))
        self._call("before_step")
        place = (state.epoch, state.batch)
        count = self._batches_in(state.batch, gathered)
        moved = self.move(gathered, StepPlan(*place, count, seeds=place, mixing=place, unfrozen=state.epoch))
        state.loss = moved.loss
        state.steps.append(StepRow(state.step, state.epoch, state.lr, moved.loss))
        state.step += 1
        state.batch += count
        self.sums.loss += moved.loss * moved.weight
        self.sums.weight += moved.weight
        self.sums.right += moved.right
        self.sums.images += moved.images
        if self.average is not None:
            self.average.update(self.module, state.step)
        self._call("after_step")

    def _batches_in(self, first: int, gathered: Sequence[Batch]) -> int:
        """Return how many batches a step has from number `first` on, of which those `gathered` are computed here."""
        shared = self.passes.share != EVERY_BATCH
        return min(self.recipe.grad_accum_steps, len(self.train) - first) if shared else len(gathered)

    def move(self, gathered: list[Batch], at: StepPlan) -> StepResult:
        """Take one optimiser step down the mean gradient of these batches. Raises `_NotFinite` before any change."""
        recipe = self.recipe
        if recipe.mixup or recipe.cutmix:
            numbers = (at.mixing[1] + number for number in self.passes.numbers(at.count))
            gathered = [self._mixed(*pair) for pair in zip(gathered, numbers, strict=True)]
        moved = self.passes.gradient(gathered, at, self.optimizer)
        if not math.isfinite(moved.loss):
            raise self._bad_batch("loss", moved.loss, gathered, at)
        if recipe.clip_grad:
            parameters = [p for group in self.groups for p in group.params]
            norm = float(nn.utils.clip_grad_norm_(parameters, recipe.clip_grad))
            if not math.isfinite(norm):
                raise self._bad_batch("gradient norm", norm, gathered, at)
        self.optimizer.step()
        return moved

    def _mixed(self, batch: Batch, number: int) -> Batch:
        from headstart.training.mixing import mix

        recipe = self.recipe
        mixed: Batch = mix(batch, self.n_classes, recipe.mixup, recipe.cutmix, recipe.seed, self.state.epoch, number)
        return mixed

    def _bad_batch(self, what: str, value: float, gathered: Sequence[Batch], at: StepPlan) -> _NotFinite:
        if self.passes.share != EVERY_BATCH:  # include those of the other ranks
            gathered = list(itertools.islice(self.train.epoch(at.epoch, at.first), at.count))
        images = [int(i) for batch in gathered for i in batch.indices]
        listed = [self.names[i] if self.names else f"{i}" for i in images[:NAMED_IMAGES]]
        named = ", ".join([*listed, "..."] if len(images) > NAMED_IMAGES else listed)
        kind = "training images" if self.names else "training images number"
        where = f"epoch {self.state.epoch + 1}, step {self.state.step + 1} ({kind} {named})"
        return _NotFinite(f"the {what} is {value} in {where}.", images)

    def _finish_epoch(self, begun: float) -> None:
        state, sums = self.state, self.sums
        with self._averaged():
            trained = self.pacing.clock()
            score = self.passes.score(self.val) if self.val is not None else Score(math.nan, math.nan)
            self.pacing.validated(self.pacing.clock() - trained)
            if self.val is not None and not math.isfinite(score.loss):
                raise _NotFinite(f"the validation loss is {score.loss} after epoch {state.epoch + 1}.")
            value = -score.accuracy if self.recipe.monitor == "val_accuracy" else score.loss
            if value < self.best_value or self.val is None:
                self.best, self.best_value, state.best_epoch = _copied(self.module), value, state.epoch
        row = EpochRow(
            epoch=state.epoch,
            train_loss=sums.loss / max(sums.weight, 1e-12),
            train_accuracy=sums.right / max(sums.images, 1),
            val_loss=score.loss,
            val_accuracy=score.accuracy,
            lr=state.lr,
            seconds=self.pacing.clock() - begun,
        )
        state.rows.append(row)
        log.info("%s", _summary(row, state.epochs))
        if self.recipe.patience and state.epoch - state.best_epoch >= self.recipe.patience:
            state.stop(f"no better {self.recipe.monitor} in {self.recipe.patience} epochs")
        self._call("after_epoch")
        state.epoch, state.batch, self.sums = state.epoch + 1, 0, _Sums()
        self._save_if_due(epoch_ended=True)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Replace the module's weights temporarily with the moving average, if there is one."""
        if self.average is None:
            yield
            return
        own = _copied(self.module)
        self.module.load_state_dict(self.average.values)
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def _call(self, place: str) -> None:
        for hook in self.hooks:
            getattr(hook, place)(self.state)

    def range_test(self, rates: Sequence[float]) -> list[float]:
        """Return the losses of one step per learning rate, up to four times the lowest (smoothed) or not finite."""
        prepare_epoch(self.module, self.groups, self._all_unfrozen())
        steps, losses = self._endless_steps(), list[float]()
        with bar("Finding a learning rate", total=len(rates)) as advance:
            for i, rate in enumerate(rates):
                self.state.step, self.state.batch = i, i * self.recipe.grad_accum_steps
                set_rates(self.optimizer, rate)
                gathered, epoch, first = next(steps)
                mixing, count = (self.state.epoch, self.state.batch), self._batches_in(first, gathered)
                at = StepPlan(epoch, first, count, seeds=(i,), mixing=mixing, unfrozen=self._all_unfrozen())
                try:
                    losses.append(self.move(gathered, at).loss)
                except _NotFinite:
                    break
                if i > 5 and smoothed(losses)[-1] > 4 * min(smoothed(losses)):
                    break
                advance(1)
        return losses

    def _endless_steps(self) -> Iterator[tuple[list[Batch], int, int]]:
        """Yield the batches of step after step, epoch after epoch, with the epoch and the number of the first one."""
        here = len(self.passes.numbers(self.recipe.grad_accum_steps))
        for epoch in itertools.count():
            batches, first = self.train.epoch(epoch, only=self.passes.share), 0
            while gathered := list(itertools.islice(batches, here)):
                yield gathered, epoch, first
                first += self._batches_in(first, gathered)

    def _all_unfrozen(self) -> int:
        return max(group.unfreeze_at for group in self.groups)

    # ----------------------------------------------------------------------------------------------------- snapshots
    def _save_if_due(self, epoch_ended: bool = False) -> None:
        if self.checkpoint is not None and self.checkpoint.due(epoch_ended):
            self._save()

    def _save(self) -> None:
        if self.checkpoint is not None:
            self.checkpoint.keep(self._snapshot())

    def _snapshot(self) -> Snapshot:
        state = self.state
        tensors = {f"module.{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in self.average.values.items()}
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": v for name, v in entries.items() if torch.is_tensor(v)}
        arrays = {name: value.detach().cpu().contiguous().numpy() for name, value in tensors.items()}
        arrays["steps"] = np.array([astuple(row) for row in state.steps], np.float64).reshape(-1, 4)
        values = {
            "epoch": state.epoch,
            "batch": state.batch,
            "step": state.step,
            "lr": state.lr,
            "best_epoch": state.best_epoch,
            "stopped": state.stopped,
            "rows": [asdict(row) for row in state.rows],
            "best_value": self.best_value,
            "bad_images": self.bad_images,
            "sums": asdict(self.sums),
            "at_once": self.passes.at_once,
            "replanned": self.pacing.changes,
        }
        return Snapshot(arrays, values)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Resume from the snapshot, if there is one; save further ones there."""
        self.checkpoint = checkpoint
        snapshot = checkpoint.load()
        if snapshot is None:
            return
        if not self._fits(snapshot):
            log.warning("%s: the unfinished training belongs to another network; starting over.", checkpoint.path)
            return
        self._restore_tensors(snapshot)
        values, state = snapshot.values, self.state
        for name in ("epoch", "batch", "step", "lr", "best_epoch", "stopped"):
            setattr(state, name, values[name])
        state.rows = [EpochRow(**row) for row in values["rows"]]
        state.steps = [StepRow(int(s), int(e), float(lr), float(loss)) for s, e, lr, loss in snapshot.tensors["steps"]]
        self.best_value, self.bad_images = values["best_value"], tuple(values["bad_images"])
        self.sums, self.passes.at_once = _Sums(**values["sums"]), values["at_once"]
        self.pacing.follow(self.pacing.deadline, values["replanned"])
        state.total_steps, state.epochs = self.pacing.total(state.step), self.pacing.epochs(state.step)
        if state.epoch < state.epochs and not state.stopped:
            where = f"epoch {state.epoch + 1}, batch {state.batch + 1} of {len(self.train)}"
            log.info("Resuming the unfinished training in %s: %s.", checkpoint.path, where)

    def _fits(self, snapshot: Snapshot) -> bool:
        shapes = {f"module.{name}": tuple(value.shape) for name, value in self.module.state_dict().items()}
        return shapes == {n: a.shape for n, a in snapshot.tensors.items() if n.startswith("module.")}

    def _restore_tensors(self, snapshot: Snapshot) -> None:
        parts: dict[str, dict[str, torch.Tensor]] = {"module": {}, "best": {}, "average": {}, "optimizer": {}}
        for name, array in snapshot.tensors.items():
            part, _, rest = name.partition(".")
            if part in parts:
                parts[part][rest] = torch.tensor(array)
        self.module.load_state_dict(parts["module"])
        device = next(iter(self.module.state_dict().values())).device
        self.best = {name: value.to(device) for name, value in parts["best"].items()}
        if self.average is not None:
            for name, value in self.average.values.items():
                value.copy_(parts["average"][name])
        entries: dict[int, dict[str, Any]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for name, value in parts["optimizer"].items():
            number, _, rest = name.partition(".")
            parameter = parameters[int(number)]
            if value.shape == parameter.shape:  # same memory layout: fused kernels read the bytes
                value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
            entries.setdefault(int(number), {})[rest] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})


def _copied(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@contextmanager
def _flags_kept(module: nn.Module) -> Iterator[None]:
    """Restore which parameters take gradients afterwards, and drop the gradients."""
    flags = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for parameter, wanted in flags:
            parameter.requires_grad_(wanted)
            parameter.grad = None
        for part, training in modes:
            part.training = training


def _summary(row: EpochRow, epochs: int) -> str:
    val = "" if math.isnan(row.val_loss) else f", validation loss {row.val_loss:.4f}, accuracy {row.val_accuracy:.4f}"
    return f"Epoch {row.epoch + 1} of {epochs}: loss {row.train_loss:.4f}{val}, {row.seconds:.1f} s."
