"""What choosing a backbone on small subsets loses, and what it costs: `python benchmarks/choose.py DATA... --weights-dir DIR`.

Candidates are all backbones of the folder and, with `--decoys`, up to three networks with random weights. Each data set is
first probed in full: every candidate embeds every image, is scored by leave-one-out on all images outside the test set, and
gets a last layer as `train` fits it, whose test accuracy is then known. `choose_backbones` is compared with that:

    regret, one      the highest test accuracy of a single candidate (which no search can know), minus that of the
                     search's first choice, in points
    regret, chosen   the same, minus that of all backbones that the search chose, as `train` combines them
    regret, search   test accuracy of the backbones that the same rule takes if every candidate embeds all images, minus
                     that of the backbones that the search chose

    compute        images embedded by the search x CPU seconds per image of each candidate, as a fraction of all candidates
                   on all images outside the test set
    images         the same, counting all candidates alike

Both are counted, not timed: the searches find their features in the cache of the full probe. CPU seconds are the minimum of
several rounds, decoding included. `--timed` runs a search (seed 0) and a full probe in separate caches, and prints the
seconds of both on the clock, scoring included.

Figures are in LOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from headstart.data.splits import make_split
from headstart.model.backbones.registry import at_hand
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import choose_runtime, open_network
from headstart.model.inference.features import Embedder, FeatureExtractor, embed_images, fitted_spec
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.approaches.linear_approach import APPROACH as LINEAR
from headstart.pipeline.choose_backbones import (
    Choice,
    choose_backbones,
    fitting_size,
)
from headstart.pipeline.combine import Probe as FeatureProbe
from headstart.pipeline.combine import choose_members, probe_poolings
from headstart.pipeline.fit_task import FitTask
from headstart.pipeline.scan import scan
from headstart.training.recipe import Recipe

DECOYS = ("mobilenetv2_100", "mobilenetv1_100", "resnet18")
TIMED_IMAGES, ROUNDS = 200, 3


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--decoys", type=int, default=3, choices=range(4), help="networks with random weights")
    parser.add_argument("--image-size", type=int, default=0, help="0: as `train` takes it")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="keep graphs and features here for the next time")
    parser.add_argument("--timed", action="store_true", help="also measure one search and one full probe")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADSTART_CACHE"] = str(options.cache or Path(folder) / "cache")
        weights = Path(folder) / "weights"
        weights.mkdir()
        for file in options.weights_dir.iterdir():
            shutil.copyfile(file, weights / file.name)
        for architecture in DECOYS[: options.decoys]:
            write_decoy(weights, architecture)
        for data in options.data:
            task = Task(data, weights, options.image_size)
            probe = Probe(task)
            probe.show()
            for seed in range(options.seeds):
                compare(task, probe, seed)
            if options.timed:
                timed(task, Path(folder) / "timed")


def write_decoy(folder: Path, architecture: str) -> None:
    """Write a backbone with random weights (always the same ones) that looks like the others."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    tensors = timm.create_model(architecture, num_classes=0).state_dict()
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / f"{architecture}.random.safetensors")
    half = [0.5, 0.5, 0.5]
    cfg = {"input_size": [3, 224, 224], "mean": half, "std": half, "interpolation": "bicubic", "crop_pct": 0.875}
    spec = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": cfg}
    (folder / f"{architecture}.random.json").write_text(json.dumps(spec))


class Task:
    """A data set with a split, and the candidates at the size that suits its images."""

    def __init__(self, data: Path, weights: Path, image_size: int) -> None:
        looked = scan(data)
        self.name = data.name
        self.runtime: Runtime = choose_runtime("cpu")
        self.dataset = make_split(looked.dataset, seed=0)
        self.images = looked.images
        self.labels, self.n_classes = self.dataset.labels, len(self.dataset.classes)
        self.train, self.val, self.test = (self.dataset.split == side for side in ("train", "val", "test"))
        self.known = self.train | self.val
        sides = looked.images.sizes_N2.min(axis=1)
        self.views = []
        for backbone in at_hand(WeightsSource(folder=weights)):
            size = image_size or fitting_size(backbone.preprocess.image_size, sides)
            self.views.append(FeatureExtractor(backbone, fitted_spec(backbone, size, "auto")))
            open_network(backbone, self.views[-1].spec, self.runtime)

    def embed(self, keep: np.ndarray, views: Sequence[FeatureExtractor], *, cached: bool = True) -> list[np.ndarray]:
        """Features float32 (N, D) for each view, of the images in `keep` (mask or indices)."""
        return embed_images(self.images.take(keep), views, self.runtime, keep=cached)[0]

    def search(self, seed: int) -> Choice:
        """Run `choose_backbones` on all images outside the test set."""
        return choose_backbones(
            self.views,
            self.images.take(self.known),
            self.labels[self.known],
            self.n_classes,
            self.runtime,
            seconds=1e9,
            seed=seed,
            pooling="auto",
        )


@dataclass
class Probe:
    """All candidates on all images. Accuracies are computed when first needed, and then kept."""

    task: Task
    seconds: list[float] = field(init=False)  # per image, for each candidate
    losses: list[float] = field(init=False)  # leave-one-out log-loss of each candidate on train and val
    _accuracy: dict[tuple[int, ...], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        task = self.task
        self.seconds = seconds_each(task)
        self.probes = probe_all(task)
        self.losses = [each.log_loss for each in self.probes]

    @cached_property
    def together(self) -> tuple[int, ...]:
        """The candidates that are best together, by leave-one-out on all images."""
        known_N = self.task.labels[self.task.known]
        chosen = choose_members(self.probes, known_N)
        return tuple(self.probes.index(each) for each in chosen)

    def accuracy(self, members: tuple[int, ...]) -> float:
        """Test accuracy of what `train --approach linear` makes of these backbones, all of them used."""
        if members not in self._accuracy:
            t, views = self.task, tuple(self.task.views[i] for i in members)
            names = "+".join(view.backbone.name for view in views)
            own = {"resize": views[0].spec.resize, "image_scale": 1.0, "tta": "none"}
            recipe = Recipe(approach="linear", backbone=names, **own)
            found = LINEAR.fit(FitTask(t.dataset, t.images, recipe, t.runtime), views).candidate
            logits_NK = sum(m.layer(x[t.test]) for m, x in zip(found.members, found.features, strict=True))
            self._accuracy[members] = float((np.asarray(logits_NK).argmax(1) == t.labels[t.test]).mean())
        return self._accuracy[members]

    def show(self) -> None:
        """Print a line for each candidate, best first."""
        task = self.task
        print(f"\n{task.name}: {task.known.sum():,} images and {task.test.sum():,} for the test; {task.runtime}")
        for i in np.argsort(self.losses):
            print(
                f"  {task.views[i]!s:44s} {1000 * self.seconds[i]:5.2f} ms   "
                f"log-loss {self.losses[i]:.4f}   test {self.accuracy((int(i),)):.4f}"
            )
        names = " + ".join(task.views[i].backbone.name for i in self.together)
        print(f"  {names} together: test {self.accuracy(self.together):.4f}")


def seconds_each(task: Task) -> list[float]:
    """CPU seconds per image with each candidate, decoding included: the minimum of rounds in turn."""
    some = np.flatnonzero(task.known)[:TIMED_IMAGES]
    rounds: list[list[float]] = []
    for _ in range(ROUNDS):
        rounds.append([])
        for view in task.views:
            begun = time.process_time()
            task.embed(some, [view], cached=False)
            rounds[-1].append((time.process_time() - begun) / len(some))
    return [min(column) for column in zip(*rounds, strict=True)]


def compare(task: Task, probe: Probe, seed: int) -> None:
    """Search with that seed; print what it chose, what that loses, and what it cost."""
    choice = task.search(seed)
    members = tuple(task.views.index(view) for view in choice.extractors)
    images = [embedded(choice, view) for view in task.views]
    together = probe.together
    one, all_of_them = probe.accuracy(members[:1]), probe.accuracy(members)
    best = max(probe.accuracy((i,)) for i in range(len(task.views)))
    regrets = [100 * x for x in (best - one, best - all_of_them, probe.accuracy(together) - all_of_them)]
    compute = np.dot(images, probe.seconds) / (task.known.sum() * sum(probe.seconds))
    print(
        f"  seed {seed}: {' + '.join(v.backbone.name for v in choice.extractors)}\n"
        f"      test {one:.4f}, together {all_of_them:.4f}; regret in points: "
        f"one {regrets[0]:+.2f}, chosen {regrets[1]:+.2f}, search {regrets[2]:+.2f}; "
        f"compute {compute:.1%}, images {sum(images) / len(task.views) / task.known.sum():.1%}"
    )


def embedded(choice: Choice, view: FeatureExtractor) -> int:
    """How many images a search embedded with this candidate: subsets grow, so this is the one of its last stage."""
    return max(t.n_images for t in choice.trials if t.backbone == view.backbone.name)


def probe_all(task: Task) -> list[FeatureProbe]:
    """Probe every candidate on all images outside the test set, with the better of its poolings."""
    embedder = Embedder([replace(view, pooling="stages") for view in task.views], task.runtime)
    features, _ = embedder(task.images.take(task.known))
    labels_N = task.labels[task.known]
    return [
        probe_poolings(view, x, embedder.block_sizes(i), labels_N, task.n_classes, pooling="auto")[0]
        for i, (view, x) in enumerate(zip(task.views, features, strict=True))
    ]


def timed(task: Task, folder: Path) -> None:
    """Print the seconds of one search and of one full probe, with nothing cached except the compiled networks."""
    usual, seconds = os.environ["HEADSTART_CACHE"], []
    for name, step in (("search", lambda: task.search(0)), ("probe", lambda: probe_all(task))):
        os.environ["HEADSTART_CACHE"] = str(folder / task.name / name)
        shutil.copytree(Path(usual) / "graphs", folder / task.name / name / "graphs")
        begun = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - begun)
    os.environ["HEADSTART_CACHE"] = usual
    print(f"  timed: search {seconds[0]:.1f} s, full probe {seconds[1]:.1f} s: {seconds[0] / seconds[1]:.1%}")


if __name__ == "__main__":
    main()
