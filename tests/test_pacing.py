"""A training keeps its time: fewer steps and views on a machine that slows down, and the same ones when it is repeated."""

from __future__ import annotations

import doctest
import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import headstart.training.pacing as pacing_module
from headstart import Recipe
from headstart.errors import BudgetTooSmall
from headstart.training.activations import ViewBudget
from headstart.training.checkpoint import Checkpoint
from headstart.training.hooks import Hooks, State
from headstart.training.loop import TrainingResult, TrainingTask, fit
from headstart.training.pacing import Deadline, Pacing
from headstart.training.passes import seconds_per_batch
from test_loop import K, batches, groups, network, weights

STEPS = len(batches())
RECIPE = Recipe(approach="finetune", lr_scheduler="cosine")


class Machine(Hooks):
    """A clock that moves on by a second per step, and by `slower` seconds after step `since`, up to step `until`."""

    def __init__(self, *, since: int = 10**9, until: int = 10**9, slower: float = 3.0) -> None:
        self.now, self.since, self.until, self.slower = 0.0, since, until, slower

    def after_step(self, state: State) -> None:
        self.now += self.slower if self.since < state.step <= self.until else 1.0

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(at=seconds, per_step=1.0, per_epoch=STEPS, clock=lambda: self.now)


def trained(machine: Machine | None = None, seconds: float = 0.0, epochs: int = 8, **options: object) -> TrainingResult:
    module = network()
    torch.manual_seed(0)
    task = TrainingTask(module, groups(module), batches(), batches(1), K)
    if machine is not None:
        options |= {"hooks": [machine], "deadline": machine.deadline(seconds)}
    result = fit(task, RECIPE, epochs=epochs, lr=0.01, **options)  # type: ignore[arg-type]
    return replace(result, stopped=f"{result.stopped}{weights(module).sum():.17g}")  # to compare the weights as well


def test_the_examples_in_the_docs() -> None:
    assert doctest.testmod(pacing_module).failed == 0


@pytest.mark.parametrize(("within", "measured"), [(math.inf, 6), (25.0, 3), (15.0, 2), (0.0, 2), (-1.0, 2)])
def test_few_steps_are_measured_if_they_are_long(within: float, measured: int) -> None:
    module, taken, moments = network(), list[int](), itertools.count(step=10)
    module.register_forward_hook(lambda *_: taken.append(1))
    before = weights(module)
    found = seconds_per_batch(
        module, groups(module), batches(), RECIPE, "cpu", within=within, clock=lambda: float(next(moments))
    )
    assert found == 10.0 and len(taken) == measured
    assert torch.equal(weights(module), before)


def test_a_machine_that_keeps_its_pace_changes_nothing() -> None:
    machine = Machine()
    timed, plain = trained(machine, seconds=8 * STEPS + 1), trained()
    assert timed.replanned == ()
    assert [row.loss for row in timed.steps] == [row.loss for row in plain.steps]
    assert timed.stopped == plain.stopped


@pytest.mark.parametrize("since", [0, 3, 2 * STEPS, 5 * STEPS + 1])
def test_a_machine_that_slows_down_gets_fewer_steps(since: int) -> None:
    machine = Machine(since=since)
    seconds = 8 * STEPS + 1
    result = trained(machine, seconds=seconds)
    assert len(result.steps) < 8 * STEPS
    assert 0.8 * seconds < machine.now <= seconds
    assert result.steps[-1].lr < 0.02 * max(row.lr for row in result.steps)  # it ends where the schedule ends
    assert len(result.epochs) == -(-len(result.steps) // STEPS)  # the last one may be cut short


def test_steps_come_back_when_the_machine_recovers() -> None:
    machine = Machine(since=STEPS, until=STEPS + 8)
    result = trained(machine, seconds=9 * STEPS + 20)
    totals = [total for _, total in result.replanned]
    assert min(totals) < totals[-1] == 8 * STEPS == len(result.steps)


def test_no_time_at_all_ends_with_the_epoch_at_hand() -> None:
    result = trained(Machine(since=2, slower=1_000.0), seconds=8 * STEPS + 1)
    assert 3 <= len(result.steps) <= 4
    assert len(result.epochs) == 1


def test_a_repeated_training_makes_the_same_changes_whatever_its_machine() -> None:
    first = trained(Machine(since=20), seconds=8 * STEPS + 1)
    again = trained(replanned=first.replanned)
    assert first.replanned
    assert [(row.step, row.lr, row.loss) for row in again.steps] == [(r.step, r.lr, r.loss) for r in first.steps]
    assert again.stopped == first.stopped
    assert again.replanned == first.replanned


class Interruption(Hooks):
    """Ctrl-C after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, state: State) -> None:
        if state.step == self.step:
            raise KeyboardInterrupt


def test_a_resumed_training_knows_of_its_changes(tmp_path: Path) -> None:
    whole = trained(Machine(since=20), seconds=8 * STEPS + 1)
    at = whole.replanned[0][0] + 3
    checkpoint = Checkpoint(tmp_path / "unfinished", {}, every_seconds=0)
    machine = Machine(since=20)
    with pytest.raises(KeyboardInterrupt):
        module = network()
        task = TrainingTask(module, groups(module), batches(), batches(1), K)
        hooks = [machine, Interruption(at)]
        deadline = machine.deadline(8 * STEPS + 1)
        fit(task, RECIPE, epochs=8, lr=0.01, checkpoint=checkpoint, hooks=hooks, deadline=deadline)
    resumed = trained(checkpoint=Checkpoint(tmp_path / "unfinished", {}))
    assert resumed.replanned == whole.replanned[:1]
    assert [row.loss for row in resumed.steps[:at]] == [row.loss for row in whole.steps[:at]]


def test_what_follows_training_takes_longer_too() -> None:
    """Embedding and the report have their time, three times as much on a machine that has become that much slower."""
    deadline = Deadline(at=100.0, after=10.0, per_step=1.0, clock=lambda: 0.0)
    assert (deadline.steps(1.0), deadline.steps(3.0)) == (90, 23)
    assert deadline.left() == 90.0


def test_the_places_in_the_schedule_are_those_of_the_steps_without_changes() -> None:
    pacing = Pacing(40, 10)
    assert [pacing.position(step) for step in range(40)] == list(range(40))
    pacing.follow(None, [(10, 20), (15, 40)])
    places = [pacing.position(step) for step in range(pacing.total(39))]
    assert (places[0], places[10], places[-1]) == (0, 10, 39)
    assert np.all(np.diff(places) > 0)


def computed(budget: ViewBudget, clock: list[float], seconds_per_view: float) -> None:
    """Views of 1,000 images, in batches of 50; the first batch takes five seconds longer."""
    budget.most = 4
    clock[0] += 5.0
    for done in range(50, 1_001, 50):
        views = budget.most
        clock[0] += 50 * views * seconds_per_view
        budget.computed(50, views, 1_000 - done)


@pytest.mark.parametrize(
    ("seconds", "per_view", "epoch", "most"),
    [
        (400.0, 0.05, 10.0, 4),  # four views take 200 s, and there is time for four epochs and more
        (190.0, 0.05, 10.0, 3),  # a view and an epoch take 60 s
        (100.0, 0.05, 10.0, 1),
        (math.inf, 0.05, 0.0, 4),
        (400.0, 0.001, 190.0, 2),  # views are cheap, but there is time for two epochs only
    ],
)
def test_there_are_no_more_views_than_epochs_that_fit(seconds: float, per_view: float, epoch: float, most: int) -> None:
    clock = [0.0]
    budget = ViewBudget(seconds, epoch, clock=lambda: clock[0])
    computed(budget, clock, per_view)
    assert budget.most == most
    assert budget.per_view == pytest.approx(per_view)


def test_activations_that_do_not_fit_at_all_are_given_up_early() -> None:
    clock = [0.0]
    budget = ViewBudget(100.0, 20.0, clock=lambda: clock[0])
    with pytest.raises(BudgetTooSmall) as caught:
        computed(budget, clock, 0.2)
    assert clock[0] == 125.0
    assert str(caught.value) == (
        "computing the activations of the frozen stages takes another 170 s, but only 0 s of the budget remain.\n"
        "  Use a larger --budget, or --approach linear."
    )
