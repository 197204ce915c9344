"""Is a GPU used as it should be, and do several processes train as one does? `python benchmarks/gpu.py`

Takes less than ten minutes, and exits with 1 if a check fails:

    losses     20 steps of a ResNet-50 in f32: one process through NCCL, and two processes that share one GPU (gloo),
               against one process without sharing: within 1e-5
    overhead   a step of one process through NCCL: at most 3 % longer
    rate       images per second of `fit` on JPEG files: at least 90 % of a plain torch loop on one synthetic batch
    command    `headstart train --device cuda --approach finetune` on rendered scenes

`--device cpu` runs the same with a small network, to try this script, and to see what several processes gain on a CPU.
There, losses must be equal to the bit, and step times are only printed. The rate is not checked.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headstart.images.augment import parse_augment
from headstart.images.image_refs import Images
from headstart.model.backbones.build import build
from headstart.model.backbones.registry import without_weights
from headstart.model.inference.engines.torch_module import from_pixels
from headstart.training import ranks
from headstart.training.batches import Batches, TensorBatches
from headstart.training.hooks import Hooks, State
from headstart.training.image_batches import ImageBatches
from headstart.training.loop import TrainingTask, fit
from headstart.training.optim import ParameterGroup
from headstart.training.recipe import Recipe
from headstart.training.shared_task import TRUSTED, run_together, sharing

TRUSTED.append(__name__)
CLASSES = 6
NETWORKS = {"cuda": ("resnet50", 160, 64), "cpu": ("mobilenetv2_050", 96, 16)}
"""Architecture, side of the images in pixels, images per batch."""


@dataclass(frozen=True)
class MeasuredJob:
    """A training on synthetic images, built in the same way by all processes."""

    device: str
    steps: int
    nccl: bool

    def use_gpu(self, team: ranks.Team) -> None:
        """Take the GPU."""
        if self.device == "cuda":
            team.use_gpu(nccl=self.nccl)

    def open(self, team: ranks.Team | None) -> TrainingTask:
        """Build the task."""
        torch.backends.cudnn.deterministic = True
        _, side, size = NETWORKS[self.device]
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (1, 2 * size, side, side, 3), dtype=np.uint8)
        labels = rng.integers(0, CLASSES, 2 * size)
        source = TensorBatches(images, labels, size, steps_per_epoch=2 * self.steps)
        return made(self.device, source, team)


def made(device: str, source: Batches, team: ranks.Team | None = None) -> TrainingTask:
    """A task for a network with random weights."""
    name, side, _ = NETWORKS[device]
    torch.manual_seed(0)
    backbone = without_weights(name, image_size=side)
    module = from_pixels(build(backbone, CLASSES, image_size=side), backbone.preprocess)
    groups = [ParameterGroup("all", list(module.parameters()))]
    return TrainingTask(module, groups, source, None, CLASSES, device=device, team=team)


class StepTimes(Hooks):
    """Records when each step ended."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def after_step(self, state: State) -> None:
        """Record the time; `state.loss` has been read from the GPU, so the step is over."""
        self.moments.append(time.perf_counter())

    @property
    def median(self) -> float:
        """Seconds per step, without the first five."""
        return statistics.median(np.diff(self.moments[5:]).tolist())


def worker(device: str, steps: int, nccl: bool, out: Path) -> int:
    """Train on synthetic images in f32 with two batches per step; write losses and seconds per step."""
    team, times = ranks.current(), StepTimes()
    job = MeasuredJob(device, steps, nccl)
    recipe = Recipe(batch_size=NETWORKS[device][2], grad_accum_steps=2, precision="f32", approach="scratch")
    task = job.open(team)
    with sharing(team, job):
        result = fit(task, recipe, epochs=1, lr=1e-3, hooks=[times])
    out.write_text(json.dumps({"losses": [row.loss for row in result.steps], "seconds": times.median}))
    return 0


def started(device: str, steps: int, processes: int, *, nccl: bool = False, threads: int = 1) -> dict[str, Any]:
    """Run `worker` in new processes; with `processes` 0, in one that does not share its training."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        words = [__file__, "--worker", str(out), "--device", device, "--steps", str(steps)] + ["--nccl"] * nccl
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if device == "cpu" else None
        subprocess.run([sys.executable, *(launch if processes else []), *words], env=environment, check=True)
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def apart(found: dict[str, Any], expected: dict[str, Any]) -> float:
    """The largest relative difference of losses."""
    a, b = np.array(found["losses"]), np.array(expected["losses"])
    return float(np.max(np.abs(a - b) / np.abs(b)))


def synthetic_rate(device: str, steps: int) -> float:
    """Images per second of a plain loop in bf16 on one batch that stays on the device."""
    _, side, size = NETWORKS[device]
    module = made(device, TensorBatches(np.zeros((1, 1, 1), np.uint8), np.zeros(1, np.int64), 1)).module
    module = module.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(module.parameters(), fused=True)
    pixels = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8, device=device)
    targets = torch.randint(0, CLASSES, (size,), device=device)
    moments = []
    for _ in range(steps):
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16):
            logits = module(pixels)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        loss.backward()
        optimizer.step()
        loss.item()
        moments.append(time.perf_counter())
    return size / statistics.median(np.diff(moments[5:]).tolist())


def file_rate(device: str, files: Sequence[Path], steps: int) -> float:
    """Images per second of `fit` in bf16 on files, decoded and augmented during training; over all steps, not their median."""
    _, _, size = NETWORKS[device]
    backbone = without_weights(NETWORKS[device][0], image_size=NETWORKS[device][1])
    images = Images.inspect(files)
    labels = np.arange(len(files)) % CLASSES
    spec, augment = backbone.preprocess, parse_augment("flip,crop=0.35")
    source = ImageBatches(images, labels, spec, augment, batch_size=size, steps_per_epoch=steps)
    times = StepTimes()
    fit(made(device, source), Recipe(batch_size=size, precision="bf16"), epochs=1, lr=1e-3, hooks=[times])
    return size * (len(times.moments) - 6) / (times.moments[-1] - times.moments[5])


def check(name: str, figure: str, passed: bool) -> bool:
    """Print one line."""
    print(f"{'ok    ' if passed else 'FAILED'}  {name:<60} {figure}", flush=True)
    return passed


def checks(device: str, steps: int) -> list[bool]:
    """Run all checks."""
    on_gpu, limit = device == "cuda", 1e-5 if device == "cuda" else 0.0
    plain = started(device, steps, 0)
    one = started(device, steps, 1, nccl=on_gpu)
    two = started(device, steps, 2)
    difference, longer = apart(two, plain), one["seconds"] / plain["seconds"] - 1
    print(f"        a step: {plain['seconds']:.4f} s; one of one: {one['seconds']:.4f} s; two: {two['seconds']:.4f} s")
    passed = [
        check("one process, shared with none: losses", f"{apart(one, plain):.1e}", apart(one, plain) <= limit),
        check("two processes, gloo: losses", f"{difference:.1e}", difference <= limit),
    ]
    if not on_gpu:
        threads = started(device, steps, 0, threads=2)["seconds"]
        print(f"        one process with two threads: {threads:.4f} s")
        return passed
    passed.append(check("one process through NCCL: a longer step by", f"{longer:.1%}", longer <= 0.03))
    with tempfile.TemporaryDirectory() as folder:
        return passed + on_images(device, Path(folder), steps)


def on_images(device: str, folder: Path, steps: int) -> list[bool]:
    """Run the checks that need files."""
    scenes, run = folder / "scenes", folder / "run"
    headstart = [sys.executable, "-m", "headstart"]
    subprocess.run([*headstart, "sample", "scenes", scenes, "--n", "1200", "--no-flaws"], check=True)
    files = sorted(scenes.rglob("*.jpg"))
    share = file_rate(device, files, 10 * steps) / synthetic_rate(device, 5 * steps)
    options = ["--approach", "finetune", "--epochs", "2", "--device", device, "--offline", "--no-report"]
    done = subprocess.run(
        [*headstart, "train", scenes, "--out", run, *options, "--json"], capture_output=True, text=True
    )
    accuracy = json.loads(done.stdout)["test"]["accuracy"] if done.returncode == 0 else done.stderr
    return [
        check("files, as a share of a synthetic loop's images per second", f"{share:.0%}", share >= 0.9),
        check("the command, on rendered scenes: accuracy", str(accuracy), done.returncode == 0),
    ]


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--nccl", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:

        def command() -> int:
            return worker(options.device, options.steps, options.nccl, options.worker)

        return run_together(command) if "RANK" in os.environ else command()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("torch finds no CUDA GPU here: nothing was checked. Try the script with --device cpu.")
        return 2
    return 0 if all(checks(options.device, options.steps)) else 1


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
