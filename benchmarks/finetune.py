"""Partial fine-tuning from kept activations against the plain full loop: `python benchmarks/finetune.py DATA`.

Both start from the same closed-form last layer, on the same split, for the same number of rounds, and take turns:

    kept     the frozen stages run once for each augmented view, and the last three are trained on their output
    plain    every stage is trained on decoded images, in float32, as in a plain loop in torch (`unfreeze all`)

Rates are training images x rounds, divided by all seconds from the images to the tuned weights, including making
activations, compiling and validating. Accuracy is that on the test set, with its interval. `--images` takes a part of the
training set, because the plain loop is slow; on all of it, only `kept` gets better. Figures are in LOG.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.data.dataset import Dataset
from headstart.data.folds import stratified_order
from headstart.data.splits import make_split
from headstart.evaluation.metrics import compute_metrics
from headstart.images.image_refs import Images
from headstart.model.backbones.registry import find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import choose_runtime
from headstart.model.inference.features import FeatureExtractor, embed_images
from headstart.model.inference.runtime import Runtime
from headstart.pipeline.approaches.finetune_approach import MODE
from headstart.pipeline.fit_heads import fit_best_head
from headstart.pipeline.scan import scan
from headstart.training.finetune import FinetuneResult, TrainingData, finetune
from headstart.training.pacing import Deadline
from headstart.training.recipe import Recipe


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenetv1_100.tf_qat_in1k")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--unfreeze", default="3", help="what the kept way trains: a number of last stages (3), or auto"
    )
    parser.add_argument("--ways", nargs="*", default=["kept", "plain"])
    options = parser.parse_args()
    backbone = find_backbone(options.backbone, WeightsSource(folder=options.weights_dir))
    view = FeatureExtractor(backbone, replace(backbone.preprocess, image_size=options.image_size))
    runtime = choose_runtime("cpu")
    looked = scan(options.data)
    dataset = make_split(looked.dataset, seed=0, val_size=0.2, test_size=0.2)
    recipe = Recipe(approach="finetune", epochs=options.epochs, unfreeze=options.unfreeze)
    task = part_of(dataset, looked.images, options.images)
    (values_ND,), _ = embed_images(looked.images, [view], runtime)
    used = np.full(len(dataset), "", "<U5")
    used[task.train], used[task.val] = "train", "val"
    fitted = fit_best_head(view, values_ND, values_ND.shape[1:], replace(dataset, split=used), recipe).head
    layer, test = fitted.layer, dataset.sets.test
    before = compute_metrics(layer(values_ND[test]), dataset.labels[test], dataset.classes)
    print(f"{view}, {len(task.train):,} training images, {options.epochs} rounds; frozen: {before['accuracy']}")
    ways = {"kept": recipe, "plain": Recipe(**{**recipe.as_dict(), "unfreeze": "all", "precision": "f32"})}
    rates: dict[str, list[float]] = {name: [] for name in options.ways}
    for _ in range(options.rounds):
        for name in options.ways:
            begun = time.perf_counter()
            tuned = finetune(view, task, ways[name], runtime, mode=MODE, start=layer, deadline=Deadline(at=math.inf))
            seconds = time.perf_counter() - begun
            rates[name].append(len(task.train) * options.epochs / seconds)
            accuracy = tested(tuned, dataset, looked.images, runtime)
            print(
                f"  {name:<6}{rates[name][-1]:>7.1f} images/s ({seconds:.0f} s; steps alone "
                f"{tuned.images_per_second:.0f}/s), test accuracy {accuracy}",
                flush=True,
            )
    if {"kept", "plain"} <= set(rates):
        ratio = statistics.median(a / b for a, b in zip(rates["kept"], rates["plain"], strict=True))
        print(f"  kept / plain: {ratio:.1f}")


def part_of(dataset: Dataset, images: Images, most: int) -> TrainingData:
    """The split with a stratified part of its training set, and the same fraction of its validation set."""
    part = min(1.0, most / len(dataset.sets.train))
    train, val = (_beginning(dataset, rows, part) for rows in (dataset.sets.train, dataset.sets.val))
    return TrainingData(images, dataset.labels, train, val, len(dataset.classes))


def _beginning(dataset: Dataset, rows: np.ndarray, part: float) -> np.ndarray:
    return np.sort(rows[stratified_order(dataset.labels[rows], 0)[: round(part * len(rows))]])


def tested(tuned: FinetuneResult, dataset: Dataset, images: Images, runtime: Runtime) -> object:
    """Accuracy on the test set, by the same path as prediction."""
    test = dataset.sets.test
    (values_ND,), _ = embed_images(images.take(test), [tuned.extractor], runtime, keep=False)
    return compute_metrics(tuned.layer(values_ND), dataset.labels[test], dataset.classes)["accuracy"]


if __name__ == "__main__":
    main()
