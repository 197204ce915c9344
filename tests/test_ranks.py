"""Training in several processes, started by torchrun as users do, over gloo: the same to the bit as in one.

Most of these start torch in each process, which takes half a minute on a busy machine: they are slow tests.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ranks_program
from conftest import PATIENCE, REPOSITORY
from headstart.errors import RecipeError, TrainingFailed, UnfinishedTraining
from headstart.training import ranks
from headstart.training.batches import Batch, TensorBatches
from headstart.training.checkpoint import Checkpoint
from headstart.training.passes import GhostNorms, Passes, StepPlan
from headstart.training.recipe import Recipe
from headstart.training.shared_task import TaskReader, sharing

PROGRAM = REPOSITORY / "tests" / "ranks_program.py"
QUICK = {"approach": "finetune", "batch_size": 9, "epochs": 2, "lr": 0.003, "seed": 4}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def settings(folder: Path, name: str, *, recipe: dict[str, Any] | None = None, **others: Any) -> Path:
    """The file of a training for `ranks_program`."""
    file = folder / f"{name}.json"
    options = {"train": 77, "val": 50, "snapshot": str(folder / f"{name}.unfinished"), **others}
    file.write_text(json.dumps({**options, "recipe": {**QUICK, **(recipe or {})}}))
    return file


def alone(file: Path) -> dict[str, Any]:
    """Train in this process."""
    return ranks_program.trained(json.loads(file.read_text()))


def command(count: int, *words: str | Path, restarts: int = 0) -> list[str]:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return [sys.executable, *launch, "--max-restarts", str(restarts), *map(str, words)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY / "src"), "OMP_NUM_THREADS": "1"}


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=PATIENCE)


def together(file: Path, count: int, restarts: int = 0) -> dict[str, Any]:
    """Train in several processes."""
    done = run(command(count, PROGRAM, file, restarts=restarts))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(file.with_suffix(".out").read_text())
    return found


def same(found: dict[str, Any], expected: dict[str, Any]) -> bool:
    return found == json.loads(json.dumps(expected))


def still_running(mark: Path) -> list[int]:
    """Processes that have a path in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:  # it just ended
            continue
        if str(mark).encode() in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


# The same in any number of processes


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Weights, moments, moving average and losses, with everything on that could depend on who computes what."""
    recipe = {"grad_accum_steps": 4, "mixup": 0.3, "model_ema_decay": 0.9, "lr": 0.0, "label_smoothing": 0.1}
    options = {"recipe": recipe, "weighted": True, "norms": True}
    expected = alone(settings(tmp_path, "one", **options))
    assert same(together(settings(tmp_path, "two", **options), 2), expected)


@pytest.mark.slow
def test_any_number_of_processes_trains_as_one_does(tmp_path: Path) -> None:
    """1,001 images in batches of 32, of which the last one has 9; 1,079 are validated, each once; 42 steps."""
    recipe = {
        "batch_size": 32,
        "grad_accum_steps": 12,
        "epochs": 14,
        "mixup": 0.3,
        "model_ema_decay": 0.9,
        "clip_grad": 1,
    }
    options = {"recipe": recipe, "train": 1_001, "val": 1_079, "weighted": True, "norms": True}
    expected = alone(settings(tmp_path, "one", **options))
    assert len(expected["rows"]) == 14
    for count in (2, 3, 4):
        assert same(together(settings(tmp_path, f"of{count}", **options), count), expected), count


@pytest.mark.slow
def test_a_snapshot_is_gone_on_with_by_another_number_of_processes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": {"grad_accum_steps": 4, "epochs": 4}, "norms": True}
    expected = alone(settings(tmp_path, "one", **options))
    kill = {"rank": 1, "kind": "kill", "pass": 11}
    killed = run(command(2, PROGRAM, settings(tmp_path, "two", trouble=kill, **options)))
    assert killed.returncode != 0 and killed.stderr.count("RankLost") == 1
    snapshot = (tmp_path / "two.unfinished").read_bytes()
    for count in (1, 4):
        file = settings(tmp_path, f"then{count}", **options)
        (tmp_path / f"then{count}.unfinished").write_bytes(snapshot)
        assert same(alone(file) if count == 1 else together(file, count), expected), count


# Trouble


@pytest.mark.slow
def test_killed_processes_are_started_again_and_go_on(tmp_path: Path) -> None:
    """`--max-restarts`: weights as if nothing had happened. Without it: an error, and no process is left."""
    options: dict[str, Any] = {"recipe": {"grad_accum_steps": 2, "epochs": 4}, "norms": True}
    expected = alone(settings(tmp_path, "one", **options))
    draw = random.Random(1)
    for number in range(3):
        kill = {"rank": number % 2, "kind": "kill", "pass": draw.randint(1, 20)}
        file = settings(tmp_path, f"killed{number}", trouble=kill, **options)
        assert same(together(file, 2, restarts=3), expected), kill
    file = settings(tmp_path, "left", trouble={"rank": 1, "kind": "kill", "pass": 5}, **options)
    done = run(command(2, PROGRAM, file))
    assert done.returncode != 0 and still_running(file) == []


def said(done: subprocess.CompletedProcess[str], message: str) -> int:
    """How often the processes say something; torchrun's own report of failures does not count."""
    return done.stderr.count(message)


@pytest.mark.slow
def test_what_fails_in_one_process_is_said_once_and_ends_all(tmp_path: Path) -> None:
    steps = {"grad_accum_steps": 2}
    refused = settings(tmp_path, "refused", recipe=steps, refuses=1)
    failed = settings(tmp_path, "failed", recipe=steps, trouble={"rank": 1, "kind": "no memory"})
    for file, message in (
        (refused, "TrainingFailed: This process has no heart for it.\n  Planted."),
        (failed, "TrainingFailed: Out of memory: not even one image fits at a time."),
    ):
        done = run(command(2, PROGRAM, file))
        assert done.returncode == 1 and said(done, message) == 1, done.stderr
        assert still_running(file) == []


@pytest.mark.slow
def test_memory_that_runs_out_in_one_process_makes_pieces_smaller_in_all(tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": {"grad_accum_steps": 2}, "norms": True, "train": 72}
    file = settings(tmp_path, "two", trouble={"rank": 1, "kind": "memory"}, **options)
    found = together(file, 2)
    assert found["values"]["at_once"] == 3
    first = settings(tmp_path, "one", trouble={"rank": 0, "kind": "memory"}, **options)
    done = run([sys.executable, str(PROGRAM), str(first)])
    assert done.returncode == 0, done.stderr
    assert json.loads(first.with_suffix(".out").read_text()) == found


@pytest.mark.slow
def test_a_bad_batch_is_named_as_in_one_process(tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": {"grad_accum_steps": 2}, "not_finite": 50}
    with pytest.raises(TrainingFailed) as failure:
        alone(settings(tmp_path, "one", **options))
    done = run(command(2, PROGRAM, settings(tmp_path, "two", **options)))
    assert failure.value.images and said(done, f"TrainingFailed: {failure.value}") == 1, done.stderr


@pytest.mark.slow
def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    waiting = tmp_path / "waiting"
    trouble = {"rank": 0, "kind": "wait", "pass": 4, "file": str(waiting)}
    file = settings(tmp_path, "stopped", recipe={"grad_accum_steps": 2}, trouble=trouble)
    words = command(2, PROGRAM, file)
    with subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        while not waiting.exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0 and errors.count("Stopped.") == 1, errors
    assert still_running(file) == []


# The command


def trained_files(folder: Path) -> dict[str, str]:
    names = ("model.safetensors", "predictions.csv", "steps.csv", "split.csv")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.mark.slow
def test_the_command_gives_the_same_run(tmp_path: Path) -> None:
    """Rank 0 embeds, and computes activations; the others open them. From scratch, each reads its own images."""
    scenes = tmp_path / "scenes"
    headstart = ["-m", "headstart"]
    options = ["--n", "60", "--size", "64", "--no-flaws"]
    assert run([sys.executable, *headstart, "sample", "scenes", str(scenes), *options]).returncode == 0
    common = ["--epochs", "2", "--batch-size", "6", "--lr", "0.001", "--offline", "--no-report"]
    for approach in ("finetune", "scratch"):
        words = [*headstart, "train", str(scenes), "--approach", approach, *common, "--grad-accum-steps", "2", "--out"]
        one = run([sys.executable, *words, str(tmp_path / f"{approach}1")])
        two = run(command(2, *words, tmp_path / f"{approach}2"))
        assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
        assert two.stdout.count("Test: ") == 1
        assert trained_files(tmp_path / f"{approach}1") == trained_files(tmp_path / f"{approach}2")
        assert sorted(p.name for p in (tmp_path / f"{approach}1").iterdir()) == sorted(
            p.name for p in (tmp_path / f"{approach}2").iterdir()
        )
    assert list(Path(os.environ["HEADSTART_CACHE"], "scratch").iterdir()) == []
    uneven = [*headstart, "train", str(scenes), "--approach", "scratch", *common, "--out", str(tmp_path / "uneven")]
    done = run(command(2, *uneven))
    assert done.returncode != 0 and done.stderr.count("grad_accum_steps 1 cannot be divided among 2 processes") == 1
    assert not (tmp_path / "uneven").exists()


# Without other processes


def test_a_task_is_read_back_and_nothing_else_is(tmp_path: Path) -> None:
    """Whoever reaches the port of a training cannot make it call anything."""
    from headstart.images.image_refs import Images
    from headstart.model.inference.runtime import Runtime

    images = Images.recorded([tmp_path / "a.jpg"], ["00"])
    task = (
        images.infos,
        images.refs,
        np.arange(3),
        np.float32([[1, 2]]),
        Runtime("torch", "cpu", "f32", 4),
        {"a": 1.5},
    )
    for protocol in range(pickle.DEFAULT_PROTOCOL, pickle.HIGHEST_PROTOCOL + 1):
        again = TaskReader(io.BytesIO(pickle.dumps(task, protocol=protocol))).load()
        assert again[:2] == task[:2] and again[4:] == task[4:]
        np.testing.assert_array_equal(again[2], task[2])
    for bad in (os.system, print, getattr, subprocess.Popen, sharing, np.save, np.load, Path.home, exec):
        with pytest.raises(pickle.UnpicklingError, match="is not part of a training task"):
            TaskReader(io.BytesIO(pickle.dumps(bad))).load()


class Alone(ranks.Team):
    """A team as far as `check_shared` looks at it."""

    def __init__(self, size: int) -> None:
        self.rank, self.size = 1, size


@pytest.mark.parametrize(("size", "steps", "more"), [(2, 1, 2), (2, 3, 4), (4, 6, 8), (3, 1, 3)])
def test_a_step_that_cannot_be_shared_is_refused(
    size: int, steps: int, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranks.check_shared(steps)
    monkeypatch.setattr(ranks, "_joined", [Alone(size)])
    ranks.check_shared(size * steps)
    with pytest.raises(RecipeError, match=f"{steps} cannot be divided among {size} processes") as refused:
        ranks.check_shared(steps)
    assert f"Add --grad-accum-steps {more}. " in refused.value.hint


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("start", [0, 4, 6])
def test_shares_make_up_an_epoch(count: int, start: int) -> None:
    source = TensorBatches(np.zeros((1, 50, 1), np.float32), np.arange(50), 7, seed=1)
    whole = {number: list(batch.indices) for number, batch in enumerate(source.epoch(2, start), start)}
    shared = {}
    for rank in range(count):
        numbers = [number for number in whole if number % count == rank]
        batches = list(source.epoch(2, start, only=(rank, count)))
        shared |= {number: list(batch.indices) for number, batch in zip(numbers, batches, strict=True)}
    assert shared == whole


def test_statistics_of_several_batches_do_not_depend_on_pieces_or_order_of_work() -> None:
    """Each batch moves the running statistics once; a single image does not."""
    torch.manual_seed(0)
    batches = [torch.randn(n, 4) for n in (8, 5, 1)]
    norm = nn.BatchNorm1d(4).train()
    plain = nn.BatchNorm1d(4).train()
    found = []
    for batch in reversed(batches):
        ghosts = GhostNorms(norm)
        if len(batch) > 1:
            with ghosts.piece():
                norm(batch)
        found.append(ghosts.statistics())
    assert norm.num_batches_tracked == 0 and norm.running_mean.abs().max() == 0 and norm.momentum == 0.1
    ghosts = GhostNorms(norm)
    for statistics in reversed(found):
        ghosts.update(statistics)
    for batch in batches[:2]:
        plain(batch)
    torch.testing.assert_close(norm.running_mean, plain.running_mean)
    torch.testing.assert_close(norm.running_var, plain.running_var)
    assert norm.num_batches_tracked == 2


def test_the_gradient_of_a_step_is_that_of_its_batches_together() -> None:
    """With a parameter that no batch uses, which keeps no gradient."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"used": nn.Linear(3, 2), "unused": nn.Linear(3, 2)})
    module.forward = lambda x: module["used"](x)  # type: ignore[method-assign]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    inputs, targets = torch.randn(10, 3), torch.randint(0, 2, (10,))
    parts = [Batch(inputs[a:b], targets[a:b], np.arange(a, b)) for a, b in ((0, 4), (4, 8), (8, 10))]
    plan = StepPlan(0, 0, 3, (0, 0), (0, 0), 0)
    moved = Passes(module, Recipe(grad_accum_steps=3, precision="f32"), "cpu", None).gradient(parts, plan, optimizer)
    expected = nn.functional.cross_entropy(module["used"](inputs), targets)
    (gradient,) = torch.autograd.grad(expected, module["used"].weight)
    torch.testing.assert_close(module["used"].weight.grad, gradient)
    assert module["unused"].weight.grad is None
    assert moved.loss == pytest.approx(expected.item()) and moved.images == 10


def test_another_number_of_threads_is_refused_with_what_to_set(tmp_path: Path) -> None:
    from headstart.training.checkpoint import Snapshot

    Checkpoint(tmp_path / "run.unfinished", {"threads": "1"}).keep(Snapshot({}, {}))
    with pytest.raises(UnfinishedTraining, match="threads: was 1, is 2") as refused:
        Checkpoint(tmp_path / "run.unfinished", {"threads": "2"}).load()
    assert "set OMP_NUM_THREADS=1" in refused.value.hint
