"""Train the embedded backbone: `python embedded/distil.py --photographs DIR --weights DIR --work DIR [--images 1152000]`.

A student of half a MobileNetV2's width learns to compute what two teachers make of the same images (Hinton et al. 2015;
with views that both see alike, Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent"): the
last feature map of MobileNetV2, place by place and pooled, and through one linear layer the pooled features of
MobileNetV1. Each channel is measured in its own standard deviations. It starts from the teacher's own weights, see reduce.py.

On a processor, one process cuts images and asks the teachers, this one trains; with more cores, --makers adds more of the
former. On a GPU the teachers stand beside the student and makers only cut; give as many as there are cores. A batch is used
twice, some time apart, since making one costs as much as a step. Stop it at any time: the same command goes on from
the last snapshot (every 500 steps; the images that follow are then others). The rate is constant and falls to nothing over
the last fifth. Writes WORK/backbone.safetensors, the running mean of the weights, with every snapshot.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import torch
from reduce import reduced
from safetensors.torch import load_file, save
from student import FEATURES, Student, exported
from torch import nn
from training_images import Crops, drawn, photographs

from headstart.errors import HeadstartError, MissingExtra, MissingWeights, TrainingFailed
from headstart.io.files import write_bytes
from headstart.model.backbones.build import build
from headstart.model.backbones.registry import find_backbone
from headstart.model.backbones.weights_source import WeightsSource

TEACHERS = ("mobilenetv2_100.tf_in1k", "mobilenetv1_100.tf_qat_in1k")
BATCH, SIZE = 128, 128
RATE, WARM_STEPS = 1.5e-3, 300
BIAS_RATE = 0.3  # of the rate, for biases and the linear layer
MEAN_DECAY = 0.999
LAST_PART = 0.2  # of all steps, over which the rate falls
MAP, POOLED, OTHER = 0.5, 1.0, 0.7  # weights of the three losses
EVERY = 500


@dataclass(frozen=True)
class Taught:
    """A batch: uint8 images (B, S, S, 3), the first teacher's map (B, h, w, 1280) and the other's features (B, 1024)."""

    images: torch.Tensor
    map: torch.Tensor
    other: torch.Tensor

    @property
    def pooled(self) -> torch.Tensor:
        return self.map.mean((1, 2))


class Teacher(nn.Module):
    """uint8 images -> the last feature map (N, h, w, C), or pooled features (N, C)."""

    def __init__(self, name: str, folder: Path, *, pooled: bool) -> None:
        super().__init__()
        self.network = build(find_backbone(name, WeightsSource(folder=folder, offline=True))).eval()
        self.pooled = pooled

    def forward(self, images_NSS3: torch.Tensor) -> torch.Tensor:
        found = self.network.forward_features(images_NSS3.permute(0, 3, 1, 2).float() / 127.5 - 1)
        return self.network.forward_head(found) if self.pooled else found.permute(0, 2, 3, 1)


def both_teachers(folder: Path) -> list[Teacher]:
    """The one whose maps are learnt, and the one whose pooled features are. Raises `BackboneError`."""
    return [Teacher(name, folder, pooled=n > 0) for n, name in enumerate(TEACHERS)]


# Making batches, in processes of their own


def on_processor(teacher: Teacher, batch: int) -> Callable[[np.ndarray], np.ndarray]:
    """The teacher as an OpenVINO graph on one core: five times as fast there."""
    import openvino

    core = openvino.Core()
    core.set_property("CPU", {"INFERENCE_NUM_THREADS": 1})
    graph = openvino.convert_model(teacher, example_input=torch.zeros(batch, SIZE, SIZE, 3, dtype=torch.uint8))
    graph.reshape([batch, SIZE, SIZE, 3])
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    return lambda images: np.concatenate([compiled(p)[0] for p in np.split(images, len(images) // batch)])


def make(queue: Any, given: argparse.Namespace, seed: int, ask: bool) -> None:
    """A maker's whole life: cut, ask the teachers unless they are on the GPU, hand over."""
    torch.set_num_threads(1)
    crops = Crops(photographs(given.photographs), drawn(given.drawn, seed), seed=seed, size=SIZE)
    teachers = [on_processor(teacher, 32) for teacher in both_teachers(given.weights)] if ask else []
    while True:
        images = crops.batch(BATCH)
        queue.put((images, *(teacher(images).astype(np.float16) for teacher in teachers)))


class Supply:
    """Batches from makers, on the device. Makers end with this process."""

    def __init__(self, given: argparse.Namespace, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self.device = device
        self.teachers = [teacher.to(device) for teacher in both_teachers(given.weights)] if on_gpu else []
        context = multiprocessing.get_context("spawn")
        self.queue = context.Queue(12)
        seed = int(time.time())
        self.makers = [
            context.Process(target=make, args=(self.queue, given, seed + n, not on_gpu), daemon=True)
            for n in range(given.makers)
        ]
        for maker in self.makers:
            maker.start()

    def next(self) -> Taught:
        """The next batch; waits for it. Raises `TrainingFailed` if there is no maker left to wait for."""
        while True:
            try:
                return taught(self.queue.get(timeout=5), self.teachers, self.device)
            except Empty:
                if not any(maker.is_alive() for maker in self.makers):
                    raise TrainingFailed("all makers have ended.", hint="What they said is above.") from None


@torch.no_grad()
def taught(made: tuple[np.ndarray, ...], teachers: list[Teacher], device: torch.device) -> Taught:
    """What a maker made (images alone, or with both teachers' float16 answers) on the device, in float32."""
    images, *answers = (torch.from_numpy(array).to(device) for array in made)
    first, other = answers or [teacher(images) for teacher in teachers]
    return Taught(images, first.float(), other.float())


# Learning


@dataclass(frozen=True)
class Scales:
    """Standard deviations of the teachers' channels (and the other's means): what a loss is measured in."""

    map: torch.Tensor
    pooled: torch.Tensor
    other: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def of(cls, batches: list[Taught]) -> Scales:
        maps, others = torch.cat([b.map.flatten(0, 2) for b in batches]), torch.cat([b.other for b in batches])
        pooled = torch.cat([b.pooled for b in batches])
        spread = [x.std(0).clamp_min(0.25 * float(x.std(0).mean())) for x in (maps, pooled, others)]
        return cls(spread[0], spread[1], spread[2], others.mean(0))


class Learner(nn.Module):
    """The student and the linear layer to the other teacher's features, which is not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.student = Student()
        self.other = nn.Linear(FEATURES, 1024)
        nn.init.zeros_(self.other.weight)
        nn.init.zeros_(self.other.bias)

    def losses(self, b: Taught, scales: Scales) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mean squared errors, in the channels' variances: of the map, of its mean, of the other's features."""
        found = self.student(b.images)
        pooled = found.mean((1, 2))
        return (
            ((found - b.map) / scales.map).square().mean(),
            ((pooled - b.pooled) / scales.pooled).square().mean(),
            (self.other(pooled) - (b.other - scales.mean) / scales.other).square().mean(),
        )


class Training:
    """A learner under way: its optimizer, the running mean of its weights, how many steps it has made."""

    def __init__(self, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device, self.steps = device, 0
        self.learner = Learner().to(device)
        student = self.learner.student
        others = [*student.biases.parameters(), *self.learner.other.parameters()]
        groups = [
            {"params": list(student.weights.parameters()), "times": 1.0},
            {"params": others, "times": BIAS_RATE},
        ]
        self.optimizer = torch.optim.Adam(groups, lr=RATE, betas=(0.9, 0.98))

    def begin(self, weights: dict[str, torch.Tensor], batches: list[Taught]) -> None:
        """Start from weights in timm's form; `batches` say what scale the teachers' channels have."""
        self.learner.student.load(weights)
        self.scales = Scales.of(batches)
        self.mean = {key: value.clone() for key, value in self.learner.state_dict().items()}

    def go_on(self, snapshot: Path) -> None:
        """Start where a snapshot was taken, on whatever device that was."""
        kept = torch.load(snapshot, weights_only=True, map_location=self.device)
        self.learner.load_state_dict(kept["learner"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.mean, self.steps, self.scales = kept["mean"], kept["steps"], Scales(**kept["scales"])

    def step(self, batch: Taught, pace: float) -> torch.Tensor:
        """Learn from one batch, at that part of the rate; its three losses."""
        for group in self.optimizer.param_groups:
            group["lr"] = RATE * group["times"] * pace
        losses = self.learner.losses(batch, self.scales)
        self.optimizer.zero_grad()
        (MAP * losses[0] + POOLED * losses[1] + OTHER * losses[2]).backward()
        nn.utils.clip_grad_norm_(self.learner.parameters(), 5.0)
        self.optimizer.step()
        self.steps += 1
        decay = min(MEAN_DECAY, self.steps / (self.steps + 20))
        for key, value in self.learner.state_dict().items():
            self.mean[key].lerp_(value, 1 - decay)
        return torch.stack([loss.detach() for loss in losses])

    def save(self, work: Path) -> None:
        """Write the snapshot, and the mean of the weights in timm's form."""
        state = {"learner": self.learner.state_dict(), "optimizer": self.optimizer.state_dict(), "mean": self.mean}
        aside, snapshot = work / "snapshot.new", work / "snapshot.pt"
        torch.save(state | {"steps": self.steps, "scales": vars(self.scales)}, aside)
        os.replace(aside, snapshot)
        student = {k.removeprefix("student."): v.cpu() for k, v in self.mean.items() if k.startswith("student.")}
        write_bytes(work / "backbone.safetensors", save(exported(student)))


def run(given: argparse.Namespace) -> None:
    """All of it. Raises `HeadstartError`."""
    device = device_of(given.device)
    check(given, device)
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    supply, training, snapshot = Supply(given, device), Training(device), given.work / "snapshot.pt"
    if snapshot.exists():
        training.go_on(snapshot)
        print(f"goes on after {training.steps * BATCH:,} images", flush=True)
    else:
        training.begin(beginning(given), [supply.next() for _ in range(8)])
    last, first, started = given.images // BATCH, training.steps, time.monotonic()
    seen, found, rng = deque[Taught](maxlen=48), deque[torch.Tensor](maxlen=100), np.random.default_rng(first)
    while training.steps < last:
        if training.steps % 2 and len(seen) > 8:
            batch = seen[rng.integers(len(seen))]
        else:
            batch = supply.next()
            seen.append(batch)
        found.append(training.step(batch, pace(training.steps, last, since=training.steps - first)))
        if training.steps % 100 == 0:
            a, b, c = torch.stack(list(found)).mean(0).tolist()
            rate = (training.steps - first) * BATCH / (time.monotonic() - started)
            done = training.steps * BATCH
            print(f"{done:,}: map {a:.4f}, pooled {b:.4f}, other {c:.4f}; {rate:.0f} images/s", flush=True)
        if training.steps % EVERY == 0 or training.steps == last:
            training.save(given.work)


def device_of(name: str) -> torch.device:
    """`auto` is the GPU where there is one. Raises `TrainingFailed` for a GPU that is not there."""
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingFailed("--device is cuda, but torch finds no such GPU here.", hint="Leave it out, or give cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def check(given: argparse.Namespace, device: torch.device) -> None:
    """Raise a `HeadstartError` for what is missing, before any process starts."""
    photographs(given.photographs)
    missing = [name for name in TEACHERS if not (given.weights / f"{name}.safetensors").is_file()]
    if missing:
        raise MissingWeights(
            f"{given.weights}: has no {' and no '.join(f'{name}.safetensors' for name in missing)}.",
            hint="Give with --weights the folder that has the teachers; README.md says where they are from.",
        )
    if device.type == "cpu" and importlib.util.find_spec("openvino") is None:
        raise MissingExtra("openvino is not installed; teachers on a processor need it.", hint="pip install openvino")


def beginning(given: argparse.Namespace) -> dict[str, torch.Tensor]:
    """The reduced teacher in timm's form; made once."""
    path = given.work / "beginning.safetensors"
    if not path.exists():
        teacher = Teacher(TEACHERS[0], given.weights, pooled=False).network
        crops = Crops(photographs(given.photographs), drawn(300, 1), seed=1, size=SIZE)
        write_bytes(path, save(reduced(teacher, torch.from_numpy(crops.batch(1024)))))
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def pace(steps: int, last: int, *, since: int) -> float:
    """The rate's share: up at the start and after each interruption, constant, down over the last part."""
    return min(1.0, (steps + 1) / WARM_STEPS, (since + 1) / 100, (last - steps) / (LAST_PART * last))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, required=True, help="folder of the images that README.md lists")
    parser.add_argument("--weights", type=Path, required=True, help=f"folder of {' and '.join(TEACHERS)}")
    parser.add_argument("--work", type=Path, required=True, help="folder for snapshots and the result")
    parser.add_argument("--images", type=int, default=1_152_000, help="how many to train on, repeats counted")
    parser.add_argument("--drawn", type=int, default=1500, help="how many drawn images to cut crops from")
    parser.add_argument("--makers", type=int, default=1, help="processes that cut images")
    parser.add_argument("--threads", type=int, default=1, help="of this process")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    try:
        run(parser.parse_args())
    except HeadstartError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
