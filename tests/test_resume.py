"""A training that was interrupted anywhere, and gone on with, ends with the same weights to the bit."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

from conftest import PATIENCE
from headstart.errors import TrainingFailed, UnfinishedTraining
from headstart.training.batches import TensorBatches
from headstart.training.checkpoint import Checkpoint, Snapshot
from headstart.training.hooks import Hooks, State
from headstart.training.loop import TrainingResult, TrainingTask, fit
from headstart.training.optim import ParameterGroup
from headstart.training.recipe import OPTIMIZERS, Recipe

KEY = {"max_lr": "0.02", "images": "1234abcd"}
EPOCHS, STEPS = 3, 9


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Interrupted(Exception):
    pass


class InterruptAt(Hooks):
    """Raise at the n-th call of `place`."""

    def __init__(self, place: str, n: int) -> None:
        self.left = n
        setattr(self, place, self._count)

    def _count(self, state: State) -> None:
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(8, 3),
    )


def data(seed: int, n: int = 50) -> TensorBatches:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    inputs = rng.normal(size=(2, n, 3, 7, 7)) + labels[:, None, None, None] * np.array([1, -1, 0.5])[:, None, None]
    return TensorBatches(inputs.astype(np.float32), labels, batch_size=8, seed=seed)


RECIPE = Recipe(
    model_ema_decay=0.9, label_smoothing=0.1, clip_grad=1.0, grad_accum_steps=3, optimizer="adamw", patience=5, seed=4
)


def train(
    path: Path | None, recipe: Recipe = RECIPE, hooks: Sequence[Hooks] = (), every: float = 0.0, **options: Any
) -> tuple[str, TrainingResult]:
    """SHA-256 of the final weights, and the histories. Seven batches per epoch make three steps: 3, 3 and 1."""
    module = network()
    groups = [
        ParameterGroup("early", list(module[:2].parameters()), 0.3, 1),
        ParameterGroup("late", list(module[2:].parameters())),
    ]
    checkpoint = Checkpoint(path, options.pop("key", KEY), every) if path else None
    options = {"epochs": EPOCHS, "lr": 0.02, "checkpoint": checkpoint, "hooks": hooks, **options}
    result = fit(TrainingTask(module, groups, data(0), data(1, 20), 3), recipe, **options)
    return digest(module), result


def digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        found.update(name.encode() + value.numpy().tobytes())
    return found.hexdigest()


def numbers(result: TrainingResult) -> dict[str, Any]:
    """All that must be equal: everything but the seconds."""
    rows = [(r.epoch, r.train_loss, r.train_accuracy, r.val_loss, r.val_accuracy, r.lr) for r in result.epochs]
    return {"rows": rows, "steps": result.steps, "best": result.best_epoch, "stopped": result.stopped}


@pytest.fixture(scope="module")
def undisturbed() -> tuple[str, TrainingResult]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = train(None)
    torch.set_num_threads(threads)
    return found


def interrupted(path: Path, hook: Hooks, **options: Any) -> None:
    with pytest.raises(Interrupted):
        train(path, hooks=[hook], **options)


@pytest.mark.parametrize("place", ["before_step", "after_step"])
@pytest.mark.parametrize("n", range(1, STEPS + 1))
def test_interrupted_at_each_step(place: str, n: int, tmp_path: Path, undisturbed: tuple[str, TrainingResult]) -> None:
    path = tmp_path / "t.safetensors"
    interrupted(path, InterruptAt(place, n))
    weights, result = train(path)
    assert (weights, numbers(result)) == (undisturbed[0], numbers(undisturbed[1]))


@pytest.mark.parametrize(
    ("place", "n"), [("before_epoch", 2), ("after_epoch", 1), ("after_epoch", 3), ("after_fit", 1)]
)
def test_interrupted_at_each_epoch(place: str, n: int, tmp_path: Path, undisturbed: tuple[str, TrainingResult]) -> None:
    path = tmp_path / "t.safetensors"
    interrupted(path, InterruptAt(place, n), every=3600)
    weights, result = train(path, every=3600)
    assert (weights, numbers(result)) == (undisturbed[0], numbers(undisturbed[1]))


def test_interrupted_again_and_again(tmp_path: Path, undisturbed: tuple[str, TrainingResult]) -> None:
    path = tmp_path / "t.safetensors"
    for _ in range(STEPS - 1):
        interrupted(path, InterruptAt("before_step", 2))  # each gets one step further
    interrupted(path, InterruptAt("after_fit", 1))
    weights, result = train(path)
    assert (weights, numbers(result)) == (undisturbed[0], numbers(undisturbed[1]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_and_schedule_resumes(optimizer: str, tmp_path: Path) -> None:
    for schedule, ema in (("cosine", 0.0), ("onecycle", 0.99)):
        path = tmp_path / f"{schedule}.safetensors"
        recipe = Recipe(optimizer=optimizer, lr_scheduler=schedule, model_ema_decay=ema, warmup_ratio=0.2)
        expected, _ = train(None, recipe)
        for n in (2, 7, 8):
            interrupted(path, InterruptAt("after_step", n), recipe=recipe)
        assert train(path, recipe)[0] == expected


def test_a_finished_training_is_not_run_again(tmp_path: Path, undisturbed: tuple[str, TrainingResult]) -> None:
    path = tmp_path / "t.safetensors"
    first = train(path)
    again = train(path, hooks=[InterruptAt("before_step", 1)])
    assert first == again and first[0] == undisturbed[0]
    Checkpoint(path, KEY).discard()
    assert not path.exists()
    interrupted(path, InterruptAt("before_step", 1))


def test_early_stopping_is_remembered(tmp_path: Path) -> None:
    recipe = Recipe(patience=2, optimizer="sgd", lr_scheduler="constant", monitor="val_accuracy")
    options = {"recipe": recipe, "epochs": 30, "lr": 0.3}
    expected, result = train(None, **options)
    assert "no better val_accuracy in 2 epochs" in result.stopped
    path = tmp_path / "t.safetensors"
    interrupted(path, InterruptAt("before_epoch", len(result.epochs)), **options)
    weights, again = train(path, **options)
    assert weights == expected and numbers(again) == numbers(result)
    assert train(path, hooks=[InterruptAt("before_epoch", 1)], **options)[0] == expected


def test_going_on_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.safetensors"
    interrupted(path, InterruptAt("before_step", 6))
    with caplog.at_level(logging.INFO, logger="headstart"):
        train(path)
    assert f"Resuming the unfinished training in {path}: epoch 2, batch 7 of 7." in caplog.messages
    assert [m.split(":")[0] for m in caplog.messages][1:] == ["Epoch 2 of 3", "Epoch 3 of 3"]


# -------------------------------------------------------------------------------------------------- another key, damage
def test_another_key_is_refused_with_what_changed(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    interrupted(path, InterruptAt("after_step", 5))
    before = path.read_bytes()
    with pytest.raises(UnfinishedTraining) as caught:
        train(path, key={"max_lr": "0.1", "images": "1234abcd", "augment": "flip"}, epochs=4)
    assert str(caught.value) == (
        f"{path}: an unfinished training run is in the way, and this one differs from it:\n"
        "    augment: was not there, is flip\n"
        "    max_lr: was 0.02, is 0.1\n"
        "    number of epochs: was 3, is 4\n"
        "  Repeat the earlier command to resume it, or add --restart to discard it."
    )
    assert path.read_bytes() == before
    assert Checkpoint(path, KEY).recorded() == {
        **KEY,
        "number of epochs": "3",
        "highest learning rate": "0.02",
        "batches per epoch": "7",
    }


def flipped(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_snapshot_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, undisturbed: tuple[str, TrainingResult]
) -> None:
    path = tmp_path / "t.safetensors"
    interrupted(path, InterruptAt("after_step", 5))
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [0, 7, 8, 20, good.index(b'"sha256"') + 14, good.index(b"best_epoch"), len(good) - 1]
    for place in (*places, *rng.integers(0, len(good), 60)):
        path.write_bytes(good)
        flipped(path, int(place))
        caplog.clear()
        assert Checkpoint(path, KEY).load() is None
        assert "cannot resume the unfinished training (" in caplog.text and "starting over" in caplog.text
    for bad in (b"", b"x", good[: len(good) // 2], good[:-1], good + b"x"):
        path.write_bytes(bad)
        assert Checkpoint(path, KEY).load() is None
        assert Checkpoint(path, KEY).recorded() == {}
    weights, _ = train(path)
    assert weights == undisturbed[0]


def test_other_files_are_not_taken_for_a_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.safetensors"
    assert Checkpoint(path, KEY).load() is None and Checkpoint(path, KEY).recorded() == {} and not caplog.text
    save_file({"a": np.zeros(3)}, path)
    assert Checkpoint(path, KEY).load() is None
    assert "it was not written by this version of headstart" in caplog.text
    path.unlink()
    path.mkdir()
    assert Checkpoint(path, KEY).load() is None


def test_a_snapshot_of_another_network_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, undisturbed: tuple[str, TrainingResult]
) -> None:
    path = tmp_path / "t.safetensors"
    plan = {"number of epochs": "3", "highest learning rate": "0.02", "batches per epoch": "7"}
    Checkpoint(path, {**KEY, **plan}).keep(Snapshot({"module.0.weight": np.zeros((2, 2), np.float32)}, {"epoch": 1}))
    assert train(path)[0] == undisturbed[0]
    assert f"{path}: the unfinished training belongs to another network; starting over." in caplog.text


def test_a_snapshot_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = (np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16)
    tensors = {f"t.{kind.__name__}": rng.normal(size=(3, 2)).astype(kind) for kind in kinds}
    tensors |= {"none": np.zeros((0, 4), np.float32), "scalar": np.array(7.0)}
    values = {"loss": 0.1 + 0.2, "infinite": float("inf"), "text": "ü → \n", "rows": [{"a": 1}]}
    path = tmp_path / "deep" / "t.safetensors"
    Checkpoint(path, KEY).keep(Snapshot(tensors, values))
    found = Checkpoint(path, dict(reversed(KEY.items()))).load()
    assert found is not None and found.values == values
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in found.tensors.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in tensors.items()
    }
    assert sorted(load_file(path)) == sorted(tensors), "an ordinary safetensors file"


def test_choices_are_kept_for_the_training_that_made_them(tmp_path: Path) -> None:
    """Not for another one. A change of them is found, as of everything else in the file."""
    path, choices = tmp_path / "t", {"backbones": ["net.b", "net.a"], "trials": [{"loss": math.nan, "n": 3}]}
    assert Checkpoint(path, KEY).recorded_choices() == {}
    Checkpoint(path, {**KEY, "threads": "1"}, choices=choices).keep(Snapshot({}, {}))
    found = Checkpoint(path, KEY).recorded_choices()
    assert json.dumps(found) == json.dumps(choices)
    assert Checkpoint(path, {**KEY, "split": "another"}).recorded_choices() == {}
    path.write_bytes(path.read_bytes().replace(b"net.b", b"net.c"))
    assert Checkpoint(path, {**KEY, "threads": "1"}).load() is None
    path.write_bytes(b"damaged")
    assert Checkpoint(path, KEY).recorded_choices() == {}


class Clock:
    """Shows `now`, and goes on by `step` each time that somebody looks."""

    def __init__(self) -> None:
        self.now, self.step = 100.0, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_saving_takes_a_small_part_of_the_time(tmp_path: Path) -> None:
    clock = Clock()
    checkpoint = Checkpoint(tmp_path / "t", KEY, every_seconds=30, clock=clock)
    assert not checkpoint.due() and checkpoint.due(epoch_ended=True)
    clock.now += 30
    assert checkpoint.due()
    clock.step = 2.0
    checkpoint.keep(Snapshot({}, {}))  # which took two seconds
    clock.step = 0.0
    clock.now += 39
    assert not checkpoint.due() and not checkpoint.due(epoch_ended=True)
    clock.now += 1
    assert checkpoint.due() and checkpoint.due(epoch_ended=True)


# --------------------------------------------------------------------------------------------------------------- trouble
def test_a_training_that_failed_leaves_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    recipe = Recipe(optimizer="sgd", lr_scheduler="constant", weight_decay=0.01)
    with pytest.raises(TrainingFailed):
        train(path, recipe, lr=1e30)
    assert not path.exists()


def test_pieces_after_running_out_of_memory_are_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Narrow(nn.Sequential):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if len(inputs) > 4:
                raise MemoryError
            return super().forward(inputs)

    def run(path: Path | None, hooks: Sequence[Hooks] = ()) -> str:
        module = Narrow(*network())
        checkpoint = Checkpoint(path, KEY, 0) if path else None
        groups = [ParameterGroup("all", list(module.parameters()))]
        task = TrainingTask(module, groups, data(0), data(1), 3)
        fit(task, Recipe(), epochs=2, lr=0.02, checkpoint=checkpoint, hooks=hooks)
        return digest(module)

    expected = run(None)
    with pytest.raises(Interrupted):
        run(tmp_path / "t", [InterruptAt("after_step", 4)])
    caplog.clear()
    assert run(tmp_path / "t") == expected
    assert "Out of memory" not in caplog.text


# --------------------------------------------------------------------------------------------------------------- kill -9
LONG = 80

CHILD = """
import os, signal, sys, time
sys.path[:0] = [{tests!r}]
import torch
torch.set_num_threads(1)
import test_resume
from pathlib import Path
path, calls = Path(sys.argv[1]), int(sys.argv[2])

left = calls
def counted(real):
    def call(*args, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)
    return call

if calls:
    for name in ("write", "fsync", "replace", "open"):
        setattr(os, name, counted(getattr(os, name)))
if sys.argv[4] == "slow":
    synced = os.fsync
    os.fsync = lambda descriptor: (time.sleep(0.02), synced(descriptor))
class Tell(test_resume.Hooks):
    begun = False
    def after_step(self, state):
        if not self.begun:
            print("begun", flush=True)
        self.begun = True
weights, result = test_resume.train(path, every=float(sys.argv[3]), epochs={epochs}, hooks=[Tell()])
import json
print(json.dumps([weights, test_resume.numbers(result)], default=lambda row: vars(row)), flush=True)
"""


def child(path: Path, calls: int = 0, every: float = 0.0, disk: str = "") -> subprocess.Popen[str]:
    text = CHILD.format(tests=str(Path(__file__).parent), epochs=LONG)
    words = [sys.executable, "-c", text, str(path), str(calls), str(every), disk]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)


def finish(path: Path) -> tuple[Any, float]:
    """What a process gives that is left alone, and the seconds from its first step on."""
    process = child(path)
    assert process.stdout is not None
    first = process.stdout.readline()
    begun = time.monotonic()
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    return json.loads(out or first), time.monotonic() - begun


def steps_done(path: Path) -> int:
    return len(load_file(path)["steps"]) if path.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_20_times_at_random(tmp_path: Path) -> None:
    expected, seconds = finish(tmp_path / "undisturbed")
    rng = np.random.default_rng(20260104)
    died, inside, further = 0, 0, 0
    for number in range(2):
        path = tmp_path / f"{number}.safetensors"
        for _ in range(10):
            before = steps_done(path)
            process = child(path, disk=str(rng.choice(["", "slow"])))
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(rng.uniform(0, 0.15 * seconds))
            with suppress(ProcessLookupError):  # it was faster
                os.killpg(process.pid, signal.SIGKILL)
            died += process.wait() == -signal.SIGKILL
            further += steps_done(path) > before
            inside += bool(list(tmp_path.glob(f".{path.name}.*.part")))
            for aside in tmp_path.glob("*.part"):
                aside.unlink()
        assert finish(path)[0] == expected
    assert died == 20 and further >= 10 and inside > 0, "some got further, and some died while they saved"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_call_that_writes(tmp_path: Path) -> None:
    expected, _ = finish(tmp_path / "undisturbed")
    path = tmp_path / "t.safetensors"
    for calls in (*range(1, 9), 12, 16):  # open, write, fsync, replace, open, fsync, and again from wherever it is
        process = child(path, calls)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == -signal.SIGKILL
        if calls > 6:
            assert Checkpoint(
                path, {**KEY, "number of epochs": str(LONG), "highest learning rate": "0.02", "batches per epoch": "7"}
            ).load()
    assert finish(path)[0] == expected
