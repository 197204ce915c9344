"""The training loop against a plain one in torch, its parts against hand-computed values, and what it does in trouble."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from headstart.errors import TrainingFailed
from headstart.training.batches import Batch, TensorBatches
from headstart.training.hooks import Hooks, State
from headstart.training.loop import TrainingTask, evaluate, find_rate, fit
from headstart.training.mixing import mix
from headstart.training.optim import (
    MovingAverage,
    Objective,
    ParameterGroup,
    Schedule,
    make_optimizer,
    set_rates,
    smoothed,
    steepest,
)
from headstart.training.recipe import LOSSES, OPTIMIZERS, SCHEDULES, Recipe

N, D, K = 90, 6, 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def points(seed: int = 0, n: int = N, dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray]:
    """Three overlapping clouds: inputs (1, n, D), labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, n)
    inputs = rng.normal(size=(n, D)) + 1.5 * np.eye(K, D)[labels]
    return inputs[None].astype(dtype), labels


def batches(seed: int = 0, size: int = 16, n: int = N, **options: Any) -> TensorBatches:
    return TensorBatches(*points(seed, n), batch_size=size, seed=seed, **options)


def network(dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(7)
    layers = [nn.Linear(D, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, K)]
    return nn.Sequential(*layers).double()


def groups(module: nn.Module) -> list[ParameterGroup]:
    return [ParameterGroup("all", list(module.parameters()))]


def trained(recipe: Recipe, module: nn.Module | None = None, **options: Any) -> Any:
    module = module if module is not None else network()
    options = {"epochs": 2, "lr": 0.01, **options}
    task = {"groups": groups(module), "train": batches(), "val": batches(1), "n_classes": K}
    task |= {name: options.pop(name) for name in [*task, "class_weights", "names"] if name in options}
    return fit(TrainingTask(module, **task), recipe, **options)


def weights(module: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().double().reshape(-1) for value in module.state_dict().values()])


# ------------------------------------------------------------------------------------------------ against a plain loop
def plain_loop(optimizer: str, schedule: str, epochs: int, lr: float, decay: float) -> tuple[list[float], nn.Module]:
    """The same training, written with nothing but torch."""
    module = network()
    parted = [
        {"params": [p for p in module.parameters() if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in module.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    made = {
        "adam": lambda: torch.optim.Adam(parted, lr=lr, foreach=False),
        "adamw": lambda: torch.optim.AdamW(parted, lr=lr, foreach=False),
        "sgd": lambda: torch.optim.SGD(parted, lr=lr, momentum=0.9, foreach=False),
        "rmsprop": lambda: torch.optim.RMSprop(parted, lr=lr, foreach=False),
    }[optimizer]()
    data = batches()
    total = epochs * len(data)
    planned = {
        "constant": lambda: torch.optim.lr_scheduler.LambdaLR(made, lambda step: 1.0),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(made, total),
        "onecycle": lambda: torch.optim.lr_scheduler.OneCycleLR(
            made, max_lr=lr, total_steps=total, cycle_momentum=optimizer != "rmsprop"
        ),
    }[schedule]()
    losses = []
    for epoch in range(epochs):
        for batch in data.epoch(epoch):
            made.zero_grad()
            loss = F.cross_entropy(module(batch.inputs), batch.targets)
            loss.backward()
            made.step()
            planned.step()
            losses.append(loss.item())
    return losses, module


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_losses_are_those_of_a_plain_loop_step_by_step(optimizer: str, schedule: str) -> None:
    expected, plain = plain_loop(optimizer, schedule, epochs=3, lr=0.02, decay=0.1)
    module = network()
    recipe = Recipe(optimizer=optimizer, lr_scheduler=schedule, weight_decay=0.1)
    result = trained(recipe, module, epochs=3, lr=0.02, val=None)
    np.testing.assert_allclose([row.loss for row in result.steps], expected, rtol=1e-9)
    assert [(row.step, row.epoch) for row in result.steps] == [(i, i // 6) for i in range(18)]
    torch.testing.assert_close(weights(module), weights(plain), rtol=1e-9, atol=1e-12)
    assert result.best_epoch == 2 and result.stopped == ""


def test_rows_of_an_epoch() -> None:
    module = network(dropout=0.3)
    result = trained(Recipe(lr=0.01), module, epochs=4)
    for row in result.epochs:
        steps = [step for step in result.steps if step.epoch == row.epoch]
        sizes = [16, 16, 16, 16, 16, 10]
        assert row.train_loss == pytest.approx(np.average([s.loss for s in steps], weights=sizes))
        assert row.lr == steps[-1].lr
        assert 0 < row.train_accuracy < 1 and row.seconds > 0
    best = result.epochs[result.best_epoch]
    inputs, labels = points(1)
    with torch.no_grad():
        logits = module.eval()(torch.from_numpy(inputs[0]))
    assert best.val_loss == min(row.val_loss for row in result.epochs)
    assert best.val_loss == pytest.approx(float(F.cross_entropy(logits, torch.from_numpy(labels))))
    assert best.val_accuracy == pytest.approx(float((logits.argmax(1).numpy() == labels).mean()))
    score = evaluate(module, batches(1), Recipe())
    assert (score.loss, score.accuracy) == (best.val_loss, best.val_accuracy)


def test_equal_trainings_give_equal_weights_and_another_seed_others() -> None:
    found = []
    for seed in (1, 1, 2):
        module = network(dropout=0.5)
        trained(Recipe(seed=seed), module)
        found.append(weights(module))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_mixed_batches_are_those_of_a_plain_loop(accumulate: int) -> None:
    recipe = Recipe(
        mixup=0.4, lr_scheduler="constant", optimizer="sgd", grad_accum_steps=accumulate, seed=3, weight_decay=0.01
    )
    module, plain = network(), network()
    result = trained(recipe, module, val=None)
    optimizer = torch.optim.SGD([{"params": [p]} for p in plain.parameters()], lr=0.01, momentum=0.9)
    for group in optimizer.param_groups:
        group["weight_decay"] = 0.01 if group["params"][0].ndim > 1 else 0.0
    losses = []
    for epoch in range(2):
        mixed = [mix(b, K, 0.4, 0.0, 3, epoch, number) for number, b in enumerate(batches().epoch(epoch))]
        for first in range(0, 6, accumulate):
            inputs = torch.cat([b.inputs for b in mixed[first : first + accumulate]])
            targets = torch.cat([b.targets for b in mixed[first : first + accumulate]])
            loss = F.cross_entropy(plain(inputs), targets.double())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    np.testing.assert_allclose([row.loss for row in result.steps], losses, rtol=1e-6)


# ---------------------------------------------------------------------------------------------------------- schedules
@pytest.mark.parametrize(("total", "warmup"), [(2, 0.0), (3, 0.0), (10, 0.0), (97, 0.0), (40, 0.1), (40, 0.9)])
def test_onecycle_is_that_of_torch(total: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0, momentum=0.9)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.5, total_steps=total, pct_start=warmup or 0.3)
    schedule = Schedule("onecycle", total, warmup)
    for step in range(total):
        group = optimizer.param_groups[0]
        assert 0.5 * schedule.rate(step) == pytest.approx(group["lr"], rel=1e-12)
        assert schedule.momentum(step) == pytest.approx(group["momentum"], rel=1e-12)
        optimizer.step()
        if step < total - 1:
            cycle.step()


def test_a_single_step_has_the_highest_rate() -> None:
    assert [Schedule(kind, 1).rate(0) for kind in SCHEDULES] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["constant", "cosine"])
def test_warm_up_rises_evenly(kind: str) -> None:
    rates = [Schedule(kind, 20, 0.2).rate(step) for step in range(20)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[19] == pytest.approx(1.0 if kind == "constant" else (1 + math.cos(math.pi * 15 / 16)) / 2)
    assert Schedule(kind, 20, 0.2).momentum(3) is None


def test_groups_have_their_own_rates_and_biases_no_decay() -> None:
    module = network(norm=True)
    halves = [
        ParameterGroup("early", list(module[:3].parameters()), 0.1),
        ParameterGroup("late", list(module[3:].parameters())),
    ]
    optimizer = make_optimizer(halves, Recipe(weight_decay=0.3))
    set_rates(optimizer, 0.5, 0.88)
    found = [([p.ndim for p in g["params"]], g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups]
    assert found == [
        ([2], 0.05, 0.3, (0.88, 0.999)),
        ([1, 1, 1], 0.05, 0.0, (0.88, 0.999)),
        ([2], 0.5, 0.3, (0.88, 0.999)),
        ([1], 0.5, 0.0, (0.88, 0.999)),
    ]


@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", 0.01), ("adam", 0.0), ("sgd", 0.0), ("rmsprop", 0.0)])
def test_weight_decay_is_the_optimisers_own_unless_it_is_set(optimizer: str, decay: float) -> None:
    """The weights of a network that has nothing to learn stay as they are, but for AdamW's decay of 1 % of the rate."""
    module = network()
    before = [p.detach().clone() for p in module.parameters()]
    for p in module.parameters():
        p.grad = torch.full_like(p, 0.0)
    for recipe in (Recipe(optimizer=optimizer), Recipe(optimizer=optimizer, weight_decay=0.0)):
        steps = make_optimizer(groups(module), recipe)
        set_rates(steps, 0.1)
        steps.step()
    for p, old in zip(module.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.1 * decay) if p.ndim > 1 else old)


def test_groups_are_unfrozen_in_their_epoch_with_their_norms() -> None:
    module = network(norm=True)
    seen = []

    class Watch(Hooks):
        def after_epoch(self, state: State) -> None:
            seen.append([weights(module[:3]), weights(module[3:])])

    start = [weights(module[:3]), weights(module[3:])]
    parts = [
        ParameterGroup("early", list(module[:3].parameters()), 0.5, unfreeze_at=1),
        ParameterGroup("late", list(module[3:].parameters())),
    ]
    module[0].weight.requires_grad_(False)
    trained(Recipe(), module, groups=parts, hooks=[Watch()])
    assert torch.equal(seen[0][0], start[0]) and not torch.equal(seen[0][1], start[1])
    assert not torch.equal(seen[1][0], start[0])
    assert not module[0].weight.requires_grad and module[4].weight.requires_grad, "as they were"


def test_parameters_in_no_group_stay() -> None:
    module = network(norm=True)
    before = weights(module[:3])
    trained(Recipe(), module, groups=[ParameterGroup("last", list(module[3:].parameters()))])
    assert torch.equal(weights(module[:3]), before)


# --------------------------------------------------------------------------------------------------------------- losses
LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]], dtype=torch.float64)
TARGETS = torch.tensor([0, 2])
P = [[math.exp(x) / sum(map(math.exp, row)) for x in row] for row in LOGITS.tolist()]


def mean_loss(objective: Objective, logits: torch.Tensor, targets: torch.Tensor) -> float:
    return float(objective.total(logits, targets)) / objective.weight(targets)


def test_label_smoothing_by_hand() -> None:
    smoothing = 0.3  # 0.8 on the class, 0.1 on each other
    expected = -sum((0.8 if k == y else 0.1) * math.log(P[i][k]) for i, y in enumerate([0, 2]) for k in range(3)) / 2
    assert mean_loss(Objective(Recipe(label_smoothing=smoothing)), LOGITS, TARGETS) == pytest.approx(expected)
    soft = F.one_hot(TARGETS, 3).float()
    assert mean_loss(Objective(Recipe(label_smoothing=smoothing)), LOGITS, soft) == pytest.approx(expected)


def test_class_weights_by_hand() -> None:
    w = np.array([1.0, 5.0, 3.0])
    expected = -(math.log(P[0][0]) + 3 * math.log(P[1][2])) / 4
    assert mean_loss(Objective(Recipe(), w), LOGITS, TARGETS) == pytest.approx(expected)
    assert mean_loss(Objective(Recipe(), w), LOGITS, F.one_hot(TARGETS, 3).float()) == pytest.approx(expected)
    both = F.cross_entropy(LOGITS, TARGETS, torch.from_numpy(w), label_smoothing=0.2)
    assert mean_loss(Objective(Recipe(label_smoothing=0.2), w), LOGITS, TARGETS) == pytest.approx(float(both))


def test_binary_and_softmax_twice_by_hand() -> None:
    z = torch.tensor([[1.3], [-0.4]], dtype=torch.float64)
    two = torch.cat([torch.zeros_like(z), z], dim=1)
    expected = F.binary_cross_entropy_with_logits(z[:, 0], torch.tensor([1.0, 0.0], dtype=torch.float64))
    assert mean_loss(Objective(Recipe(loss="binary")), two, torch.tensor([1, 0])) == pytest.approx(float(expected))
    again = [[math.exp(p) / sum(map(math.exp, row)) for p in row] for row in P]
    expected_twice = -(math.log(again[0][0]) + math.log(again[1][2])) / 2
    assert mean_loss(Objective(Recipe(loss="softmax_twice")), LOGITS, TARGETS) == pytest.approx(expected_twice)
    sure = torch.tensor([[1000.0, 0.0, 0.0]])
    lowest = math.log(1 + 2 / math.e)
    assert mean_loss(Objective(Recipe(loss="softmax_twice")), sure, torch.tensor([0])) == pytest.approx(lowest)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("weighed", [False, True])
def test_two_batches_of_16_are_one_of_32(loss: str, weighed: bool) -> None:
    options = {"class_weights": np.array([1.0, 2.0, 0.5]) if weighed else None, "val": None, "lr": 0.05}
    one, two = network(), network()
    recipe = Recipe(loss=loss, label_smoothing=0.1, clip_grad=0.5)
    a = trained(recipe, one, train=batches(size=32), **options)
    b = trained(replace(recipe, grad_accum_steps=2), two, train=batches(size=16), **options)
    assert len(a.steps) == len(b.steps) == 6
    np.testing.assert_allclose([r.loss for r in a.steps], [r.loss for r in b.steps], rtol=1e-9)
    torch.testing.assert_close(weights(one), weights(two), rtol=1e-9, atol=1e-12)
    assert [r.train_loss for r in a.epochs] == pytest.approx([r.train_loss for r in b.epochs])


def test_the_gradient_is_clipped_to_its_norm() -> None:
    module, norms = network(), []

    class Watch(Hooks):
        def after_step(self, state: State) -> None:
            norms.append(float(sum(p.grad.square().sum() for p in module.parameters()).sqrt()))

    trained(Recipe(clip_grad=0.01), module, hooks=[Watch()])
    assert norms == pytest.approx([0.01] * 12, rel=1e-4)


# ------------------------------------------------------------------------------------------------- stopping and the best
class Shifting(nn.Module):
    """One weight w; logits (0, w x, 0). Its loss on the points of `one_way` falls with w."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, 1, dtype=torch.float64))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(inputs), inputs * self.w, torch.zeros_like(inputs)], dim=1)


def one_way(sign: float) -> TensorBatches:
    return TensorBatches(np.full((1, 8, 1), sign), np.ones(8, np.int64), batch_size=8)


@pytest.mark.parametrize("monitor", ["val_log_loss", "val_accuracy"])
def test_early_stopping_keeps_the_best(monitor: str) -> None:
    module = Shifting()
    recipe = Recipe(patience=3, monitor=monitor, lr_scheduler="constant", optimizer="sgd")
    result = trained(recipe, module, train=one_way(1.0), val=one_way(-1.0), epochs=20, lr=0.1)
    assert len(result.epochs) == 4 and result.best_epoch == 0
    assert result.stopped == f"no better {monitor} in 3 epochs"
    losses = [row.val_loss for row in result.epochs]
    assert losses == sorted(losses), "validation goes the other way"
    assert evaluate(module, one_way(-1.0), recipe).loss == losses[0]


def test_without_patience_all_epochs_run() -> None:
    result = trained(Recipe(lr_scheduler="constant"), Shifting(), train=one_way(1.0), val=one_way(-1.0), epochs=6)
    assert len(result.epochs) == 6 and result.best_epoch == 0 and result.stopped == ""


def test_the_moving_average_by_hand() -> None:
    module = Shifting()
    average = MovingAverage(module, decay=0.25)
    values = []
    for t, w in enumerate([1.0, 2.0, 4.0, 8.0], start=1):
        module.w.data.fill_(w)
        average.update(module, t)
        values.append(float(average.values["w"]))
    # d = 2/11, 3/12, then 4/13 > 0.25
    first = 9 / 11
    second = first / 4 + 1.5
    third = second / 4 + 3
    assert values == pytest.approx([first, second, third, third / 4 + 6])


def test_the_moving_average_is_validated_and_kept() -> None:
    seen: list[float] = []
    module = Shifting()

    class Watch(Hooks):
        def after_step(self, state: State) -> None:
            seen.append(module.w.item())

    recipe = Recipe(model_ema_decay=0.5, optimizer="sgd", lr_scheduler="constant")
    result = trained(recipe, module, train=one_way(1.0), val=one_way(1.0), epochs=5, lr=0.5, hooks=[Watch()])
    average, averages = 0.0, []
    for t, w in enumerate(seen, start=1):
        d = min(0.5, (1 + t) / (10 + t))
        average = d * average + (1 - d) * w
        averages.append(average)
    assert seen == sorted(seen) and result.best_epoch == 4
    assert module.w.item() == pytest.approx(averages[-1])
    assert [row.val_loss for row in result.epochs] == pytest.approx([math.log(2 + math.exp(a)) - a for a in averages])


# --------------------------------------------------------------------------------------------------------------- trouble
class Poisoned(nn.Module):
    """NaN logits for inputs above 100."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.where((inputs > 100).any(1, keepdim=True), torch.nan, self.inner(inputs))


def poisoned(image: int) -> TensorBatches:
    inputs, labels = points()
    inputs[0, image, 0] = 1000
    return TensorBatches(inputs, labels, batch_size=4)


@pytest.mark.parametrize("named", [False, True])
def test_a_loss_that_is_not_finite_stops_before_the_weights_move(named: bool) -> None:
    module, names = Poisoned(), [f"a/{i}.jpg" for i in range(N)] if named else []
    where = next(i for i, batch in enumerate(poisoned(11).epoch(0)) if 11 in batch.indices)
    images = next(iter(poisoned(11).epoch(0, start=where))).indices.tolist()
    with pytest.raises(TrainingFailed) as caught:
        trained(Recipe(), module, train=poisoned(11), epochs=3, names=names)
    listed = ", ".join(f"a/{i}.jpg" for i in images) if named else "number " + ", ".join(map(str, images))
    assert str(caught.value) == (
        "Training failed in its first epoch: the loss is nan in epoch 1, "
        f"step {where + 1} (training images {listed}).\n"
        "  Lower --lr (it was 0.01), or clip the gradient, for example --clip-grad 1."
    )
    assert caught.value.images == tuple(images)
    assert torch.isfinite(weights(module)).all()


def test_later_on_the_best_epoch_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    inputs, labels = points()
    both = np.concatenate([inputs, inputs])
    both[0, 11, 0] = 1000  # a view of image 11 that the second epoch shows
    train = TensorBatches(both, labels, batch_size=45)
    module, kept = Poisoned(), []

    class Watch(Hooks):
        def after_epoch(self, state: State) -> None:
            kept.append(weights(module))

    with caplog.at_level(logging.WARNING, logger="headstart"):
        result = trained(Recipe(), module, train=train, epochs=4, hooks=[Watch()])
    assert len(kept) == len(result.epochs) == 1 and result.best_epoch == 0
    assert torch.equal(weights(module), kept[0])
    assert result.stopped.startswith("the loss is nan in epoch 2, step ")
    assert ", ...)." in result.stopped and 11 in result.bad_images and len(result.bad_images) == 45
    assert "Keeping the weights of epoch 1, the best so far." in caplog.text


def test_validation_that_is_not_finite() -> None:
    with pytest.raises(TrainingFailed, match="the validation loss is nan after epoch 1"):
        trained(Recipe(), Poisoned(), val=poisoned(3))


def test_a_gradient_that_is_not_finite() -> None:
    class Steep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, 1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs[:, :K].float() + self.w.sqrt()

    with pytest.raises(TrainingFailed, match=r"the gradient norm is (inf|nan) in epoch 1, step 1"):
        trained(Recipe(clip_grad=1.0), Steep())


class Narrow(nn.Module):
    """Cannot take more than `most` images at once, as a machine with little memory."""

    def __init__(self, most: int, error: type[BaseException]) -> None:
        super().__init__()
        self.inner, self.most, self.error = network(), most, error
        self.sizes: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) > self.most:
            if self.error is MemoryError:
                raise MemoryError
            raise self.error(
                "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: 9 bytes"
            )
        self.sizes.append(len(inputs))
        return self.inner(inputs)


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, torch.cuda.OutOfMemoryError])
@pytest.mark.parametrize("weighed", [False, True])
def test_out_of_memory_halves_until_it_fits(
    error: type[BaseException], weighed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    wide, narrow = network(), Narrow(5, error)
    options = {"class_weights": np.array([1.0, 3.0, 0.2])} if weighed else {}
    recipe = Recipe(label_smoothing=0.1)
    with caplog.at_level(logging.WARNING, logger="headstart"):
        a, b = trained(recipe, wide, **options), trained(recipe, narrow, **options)
    np.testing.assert_allclose([row.loss for row in a.steps], [row.loss for row in b.steps], rtol=1e-9)
    assert [row.train_loss for row in a.epochs] == pytest.approx([row.train_loss for row in b.epochs])
    assert [row.val_loss for row in a.epochs] == pytest.approx([row.val_loss for row in b.epochs])
    torch.testing.assert_close(weights(wide), weights(narrow.inner), rtol=1e-9, atol=1e-12)
    assert set(narrow.sizes) == {4, 3}, "16 in four; the last 10 of an epoch in 4, 3 and 3"
    assert [record.getMessage() for record in caplog.records] == [
        "Out of memory with 16 images at a time: continuing with 8; their gradients add up to the same step.",
        "Out of memory with 8 images at a time: continuing with 4; their gradients add up to the same step.",
    ]


def test_running_statistics_are_updated_once_per_batch_if_memory_runs_out() -> None:
    """A forward pass that fails has been through some of the norms; pieces go through all of them several times."""
    norm, batch_by_batch = nn.BatchNorm1d(D).double(), nn.BatchNorm1d(D).double()
    trained(Recipe(), nn.Sequential(norm, Narrow(5, MemoryError)), train=batches(n=64), epochs=1)
    assert norm.num_batches_tracked == 4
    for batch in batches(n=64).epoch(0):
        batch_by_batch(batch.inputs)
    torch.testing.assert_close(norm.running_mean, batch_by_batch.running_mean)


def test_out_of_memory_at_one_image() -> None:
    with pytest.raises(TrainingFailed) as caught:
        trained(Recipe(), Narrow(0, RuntimeError))
    assert str(caught.value) == (
        "Out of memory: not even one image fits at a time.\n"
        "  Choose a smaller --image-size or --backbone, or fine-tune fewer stages, for example --unfreeze 2."
    )


def test_other_errors_come_through() -> None:
    class Broken(Shifting):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        trained(Recipe(), Broken())


def test_a_batch_of_one_image_leaves_batch_norm_alone() -> None:
    module = network(norm=True)
    result = trained(Recipe(), module, train=batches(n=33, size=16))
    assert len(result.steps) == 6 and all(math.isfinite(row.loss) for row in result.steps)
    assert module[1].num_batches_tracked == 4 if result.best_epoch == 1 else 2
    assert all(part.training for part in module.modules()), "as it was"


# ----------------------------------------------------------------------------------------------------------------- hooks
def test_hooks_are_called_in_order() -> None:
    calls: list[str] = []

    class Tell(Hooks):
        def __init__(self, name: str) -> None:
            self.name = name

        def __getattribute__(self, place: str) -> Any:
            if not place.startswith(("before_", "after_")):
                return super().__getattribute__(place)
            return lambda state: calls.append(f"{self.name} {place} {state.epoch}.{state.batch} {state.step}")

    trained(Recipe(), train=batches(size=45), hooks=[Tell("a")], epochs=2)
    assert calls == [
        "a before_fit 0.0 0",
        *(
            "a before_epoch 0.0 0",
            "a before_step 0.0 0",
            "a after_step 0.1 1",
            "a before_step 0.1 1",
            "a after_step 0.2 2",
        ),
        "a after_epoch 0.2 2",
        *(
            "a before_epoch 1.0 2",
            "a before_step 1.0 2",
            "a after_step 1.1 3",
            "a before_step 1.1 3",
            "a after_step 1.2 4",
        ),
        "a after_epoch 1.2 4",
        "a after_fit 2.0 4",
    ]
    calls.clear()
    trained(Recipe(), train=batches(size=90), hooks=[Tell("a"), Tell("b")], epochs=1)
    assert [call.split()[0] for call in calls] == ["a", "b"] * 6


def test_a_hook_can_end_the_training() -> None:
    class Enough(Hooks):
        def after_step(self, state: State) -> None:
            if state.step == 8:
                state.stop("the time is used up")

    result = trained(Recipe(), epochs=9, hooks=[Enough()])
    assert (len(result.epochs), len(result.steps), result.stopped) == (2, 12, "the time is used up")


# ------------------------------------------------------------------------------------------------------------- precision
def test_bf16_is_used_where_it_is_asked_for() -> None:
    seen = []

    class Watched(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            out = super().forward(inputs)
            seen.append(out.dtype)
            return out

    inputs, labels = points(dtype=np.float32)
    data = TensorBatches(inputs, labels, batch_size=45)
    for precision, dtype in (("auto", torch.float32), ("f32", torch.float32), ("bf16", torch.bfloat16)):
        seen.clear()
        module = Watched(D, K)
        result = trained(Recipe(precision=precision), module, train=data, val=data, epochs=3, lr=0.3)
        assert set(seen) == {dtype}
        assert module.weight.dtype == torch.float32
        assert result.epochs[-1].val_loss < result.epochs[0].val_loss


def test_half_precision_activations_are_widened() -> None:
    inputs, labels = points(dtype=np.float16)
    result = trained(Recipe(), network().float(), train=TensorBatches(inputs, labels, 45), val=None)
    wide = TensorBatches(inputs.astype(np.float32), labels, 45)
    again = trained(Recipe(), network().float(), train=wide, val=None)
    assert [row.loss for row in result.steps] == [row.loss for row in again.steps]


# ------------------------------------------------------------------------------------------------------------ rate finder
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_rate_finder_leaves_no_trace_and_suggests_a_rate_that_learns(optimizer: str) -> None:
    module = network(norm=True, dropout=0.2)
    before = weights(module)
    recipe = Recipe(optimizer=optimizer, lr_scheduler="constant", weight_decay=0.0)
    found = find_rate(TrainingTask(module, groups(module), batches(), None, K), recipe)
    assert torch.equal(weights(module), before)
    assert all(p.grad is None and p.requires_grad for p in module.parameters())
    assert len(found.rates) == len(found.losses) == len(found.smooth) > 20
    ratios = [b / a for a, b in pairwise(found.rates)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios)) and found.rates[0] == pytest.approx(1e-6)
    assert found == find_rate(TrainingTask(module, groups(module), batches(), None, K), recipe)

    def after(rate: float) -> float:
        return trained(recipe, network(norm=True), epochs=3, lr=rate).epochs[-1].val_loss

    assert after(found.suggestion) < min(after(found.suggestion / 300), after(1e-5)) - 0.05


def test_the_suggestion_is_where_the_loss_falls_fastest() -> None:
    decades = np.linspace(-6, 0, 100)
    rates = 10**decades
    falls = 1 - 0.6 / (1 + np.exp(-4 * (decades + 2.5))) + 10 * np.maximum(0, decades + 1)
    noise = 0.02 * np.random.default_rng(0).normal(size=100)
    assert steepest(rates, falls) == pytest.approx(10**-2.5, rel=0.2)
    assert steepest(rates, falls + noise) == pytest.approx(10**-2.5, rel=1)
    assert steepest(rates, 1 + noise + 0.1 * np.maximum(0, decades + 3)) is None
    assert steepest(rates[:16], falls[:16]) is None
    assert smoothed([3.0, 1.0], beta=0.5) == pytest.approx([3.0, (3 + 2 * 1) / 3])


def test_a_finder_without_a_falling_loss_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="headstart"):
        module = Poisoned()
        found = find_rate(TrainingTask(module, groups(module), poisoned(0), None, K), Recipe())
    assert found.suggestion == 1e-3
    assert "No learning rate lowered the loss in " in caplog.text


# ---------------------------------------------------------------------------------------------------------------- batches
def told(data: TensorBatches, epoch: int, start: int = 0) -> list[tuple[list[int], list[float], list[float]]]:
    return [(b.indices.tolist(), b.inputs[:, 0].tolist(), b.targets.tolist()) for b in data.epoch(epoch, start)]


def test_batches_are_the_same_wherever_one_starts(tmp_path: Any) -> None:
    inputs = np.arange(60, dtype=np.float32).reshape(3, 10, 2)
    labels = np.arange(10) % 2
    np.save(tmp_path / "a.npy", inputs)
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    kinds = [inputs, mapped, torch.from_numpy(inputs), np.asfortranarray(inputs)]
    for kind in kinds:
        data = TensorBatches(kind, labels, batch_size=4, seed=5)
        whole = told(data, 7)
        assert [len(indices) for indices, _, _ in whole] == [4, 4, 2] and len(data) == 3
        assert sorted(i for indices, _, _ in whole for i in indices) == list(range(10))
        assert all(told(data, 7, start) == whole[start:] for start in range(4))
        assert whole == told(TensorBatches(inputs, labels, batch_size=4, seed=5), 7)
        assert whole != told(data, 8)
        for indices, values, targets in whole:
            assert values == [inputs[(7 + i) % 3, i, 0] for i in indices]
            assert targets == [i % 2 for i in indices]


def test_all_views_come_in_as_many_epochs() -> None:
    data = TensorBatches(np.arange(40.0).reshape(4, 10, 1), np.zeros(10, np.int64), batch_size=3, shuffle=False)
    values = [v for epoch in range(4) for _, shown, _ in told(data, epoch) for v in shown]
    assert sorted(values) == list(range(40))
    assert [indices for indices, _, _ in told(data, 2)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_maps_come_as_networks_take_them() -> None:
    """(C, H, W) of the same numbers, which stay where they are in memory: channels last."""
    stored = np.arange(2 * 5 * 3 * 4 * 2, dtype=np.float16).reshape(2, 5, 3, 4, 2)
    data = TensorBatches(stored, np.zeros(5, np.int64), batch_size=2, maps=True)
    for batch in data.epoch(1):
        views = (1 + batch.indices) % 2
        assert np.array_equal(batch.inputs.numpy(), np.moveaxis(stored[views, batch.indices], 3, 1))
        assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("steps", [1, 3, 7])
def test_steps_per_epoch(steps: int) -> None:
    data = TensorBatches(np.zeros((1, 10, 1)), np.zeros(10, np.int64), batch_size=4, steps_per_epoch=steps)
    picked = [i for indices, _, _ in told(data, 0) for i in indices]
    assert len(data) == steps and len(picked) == 4 * steps
    counts = np.bincount(picked, minlength=10)
    assert counts.max() - counts.min() <= 1, "rounds are strung together"
    assert told(data, 0, start=1) == told(data, 0)[1:]


def test_batches_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"inputs \(1, 9, 2\) are not \(views, images, \.\.\.\) of 10 labels"):
        TensorBatches(np.zeros((1, 9, 2)), np.zeros(10, np.int64), batch_size=4)


def test_a_batch_knows_its_size() -> None:
    assert len(Batch(torch.zeros(3, 2), torch.zeros(3), np.arange(3))) == 3
