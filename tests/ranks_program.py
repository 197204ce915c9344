"""A training for `test_ranks.py`, to be started as one process or, by torchrun, as several: same arguments, same work.

python ranks_program.py SETTINGS.json       the result, and hashes of all that was trained, go to SETTINGS.out
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.errors import HeadstartError, TrainingFailed
from headstart.training import ranks
from headstart.training.batches import TensorBatches
from headstart.training.checkpoint import Checkpoint
from headstart.training.loop import TrainingTask, find_rate, fit, validate
from headstart.training.optim import ParameterGroup
from headstart.training.passes import Passes
from headstart.training.recipe import Recipe
from headstart.training.shared_task import TRUSTED, run_together, sharing

TRUSTED.append(__name__)

CLASSES, CHANNELS, SIDE = 4, 6, 5


def images(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations (2 views, n, C, H, W) with a weak trace of their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(CLASSES, n, p=[0.4, 0.3, 0.2, 0.1])
    inputs = rng.normal(size=(2, n, CHANNELS, SIDE, SIDE)) + 0.5 * labels[None, :, None, None, None]
    return inputs.astype(np.float16), labels


def network(norms: bool) -> nn.Module:
    torch.manual_seed(3)
    tail = [nn.BatchNorm2d(12)] if norms else []
    module = nn.Sequential(
        nn.Conv2d(CHANNELS, 12, 3), *tail, nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(12 * 9, CLASSES)
    )
    return module.to(memory_format=torch.channels_last)


def task(settings: dict[str, Any], recipe: Recipe, team: ranks.Team | None) -> TrainingTask:
    module = network(settings.get("norms", False))
    train, labels = images(settings["train"], 1)
    val, val_labels = images(settings["val"], 2)
    if "not_finite" in settings:
        train[:, settings["not_finite"]] = np.nan
    counts = np.bincount(labels, minlength=CLASSES)
    return TrainingTask(
        module=module,
        groups=[
            ParameterGroup("first", list(module[0].parameters()), 0.5),
            ParameterGroup("last", [*module[-1].parameters()]),
        ],
        train=TensorBatches(train, labels, recipe.batch_size, seed=5),
        val=TensorBatches(val[:1], val_labels, 16, shuffle=False),
        n_classes=CLASSES,
        class_weights=(len(labels) / counts / CLASSES).astype(np.float32) if settings.get("weighted") else None,
        team=team,
    )


@dataclass(frozen=True)
class PlantedJob:
    """The task, as other ranks make it."""

    settings: dict[str, Any]

    def use_gpu(self, team: ranks.Team) -> None:
        """There is none."""

    def open(self, team: ranks.Team) -> TrainingTask:
        torch.set_num_threads(1)
        if self.settings.get("refuses") == team.rank:
            raise TrainingFailed("This process has no heart for it.", hint="Planted.")
        plant(self.settings, team.rank)
        return task(self.settings, Recipe(**self.settings["recipe"]), team)


def plant(settings: dict[str, Any], rank: int) -> None:
    """Let one rank run out of memory, die, or be stopped in a pass through the network, in the first life only."""
    logits, passed, trouble = Passes._logits, [0], settings.get("trouble", {})

    def failing(self: Passes, inputs: torch.Tensor) -> torch.Tensor:
        passed[0] += 1
        if trouble["kind"] == "memory" and len(inputs) > 3 and self.module.training:
            raise torch.cuda.OutOfMemoryError("planted")
        if trouble["kind"] == "no memory":
            raise torch.cuda.OutOfMemoryError("planted")
        if trouble["kind"] == "kill" and passed[0] == trouble["pass"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble["kind"] == "wait" and passed[0] == trouble["pass"]:
            Path(trouble["file"]).touch()
            time.sleep(60)
        return logits(self, inputs)

    if trouble and trouble["rank"] == rank and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        Passes._logits = failing  # type: ignore[method-assign]


def hashed(arrays: Mapping[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return found.hexdigest()


def trained(settings: dict[str, Any]) -> dict[str, Any]:
    """Train; return what has to be the same for any number of processes."""
    torch.set_num_threads(1)
    recipe, team = Recipe(**settings["recipe"]), ranks.current()
    plant(settings, 0)
    work = task(settings, recipe, team)
    checkpoint = Checkpoint(Path(settings["snapshot"]), {}, every_seconds=0)
    with sharing(team, PlantedJob(settings)):
        result = fit(
            work,
            recipe,
            epochs=recipe.epochs,
            lr=recipe.lr or find_rate(work, recipe).suggestion,
            checkpoint=checkpoint,
        )
        score = validate(work, recipe)
    snapshot = replace(checkpoint, key=checkpoint.recorded()).load()
    assert snapshot is not None
    rows = [{k: v for k, v in asdict(row).items() if k != "seconds"} for row in result.epochs]
    key = {k: v for k, v in snapshot.values.items() if k not in ("rows", "sums")}
    return {"sha256": hashed(snapshot.tensors), "values": key, "rows": rows, "score": asdict(score)}


def main() -> int:
    """As the command line: errors are said, and their exit code is 1."""
    file = Path(sys.argv[1])
    try:
        file.with_suffix(".out").write_text(json.dumps(trained(json.loads(file.read_text()))))
    except HeadstartError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    code = run_together(main) if ranks.size() > 1 else main()
    sys.stderr.flush()
    os._exit(code)
