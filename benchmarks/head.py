"""Time the search for a linear head and its refit, against scikit-learn's LogisticRegressionCV on the same features.

    python benchmarks/head.py [DATA --weights-dir DIR] [--features FILE.npz] [--images 6000] [--classes 6] [--no-sklearn]

DATA is a folder of labelled images: its training set (or all of it) is embedded in the same process without a cache, and the
seconds of the head are also given as a fraction of that. Without DATA, FILE.npz with `features` (N, D) and `labels` (N,)
integers is used, or else low-rank Gaussian mixtures. A stratified fifth is the validation part. `search` is `search_head` on
the rest; `refit` fits the chosen head on everything. scikit-learn gets 4 values of C and 3 folds. Each log-loss on the
validation part is at its best temperature.

Measured on 2 idle cores, intel-scenes, MobileNetV2 at 160 px: search 1.49 s and refit 0.77 s, embedding 9.78 s,
scikit-learn 19.3 s, log-loss 0.269 against 0.293. (Its C is chosen at temperature 1; the best of its four values does
about as well as our logistic head; the rest is due to the blend.) On busy cores, all of these took two to three times as long.
With 200 classes, the logistic path is the slow part: 23 s of 28 s at 4,879 x 1,280.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from headstart.data.open_dataset import open_dataset
from headstart.images.image_refs import Images
from headstart.io.files import sha256_file
from headstart.model.backbones.registry import find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.heads.linear import refit
from headstart.model.heads.logistic import tempered_log_loss
from headstart.model.heads.search import search_head
from headstart.model.inference.engines import choose_runtime, open_network
from headstart.model.inference.features import FeatureExtractor, embed_images


def mixture(images: int, dim: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Float32 features with a decaying spectrum, non-negative as pooled ReLU outputs are, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    rank = min(dim, 400)
    axes = rng.normal(size=(rank, dim)) / np.sqrt(dim)
    decay = (1 + np.arange(rank)) ** -0.6
    latent = (
        rng.normal(size=(images, rank)) + 0.35 * rng.normal(size=(classes, rank))[labels] * (rng.random(rank) < 0.2)
    ) * decay
    noise = 0.02 * rng.normal(size=(images, dim))
    return np.maximum(4 * latent @ axes + noise + 0.1, 0).astype(np.float32), labels


def held_out(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """A fifth of each class, bool (N,)."""
    rng, val = np.random.default_rng(seed), np.zeros(len(labels), bool)
    for k in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == k))
        val[rows[: len(rows) // 5]] = True
    return val


def embedded(data: Path, weights_dir: Path, backbone: str, image_size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Features and labels of the train set, and the seconds that embedding took (network already compiled, no cache)."""
    dataset = open_dataset(data)
    if (dataset.split == "train").any():
        dataset = dataset.take(dataset.split == "train")
    files = [dataset.file(i) for i in range(len(dataset))]
    found = find_backbone(backbone, WeightsSource(folder=weights_dir))
    view, plan = FeatureExtractor(found, replace(found.preprocess, image_size=image_size)), choose_runtime("cpu")
    open_network(view.backbone, view.spec, plan)
    sha256s = [sha256_file(f) for f in files]
    started = time.perf_counter()
    (values_ND,), _ = embed_images(Images.recorded(files, sha256s), [view], plan, keep=False)
    return values_ND, dataset.labels, time.perf_counter() - started


def line(name: str, seconds: float, logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    loss = tempered_log_loss(logits, labels)[0]
    print(f"{name:34s} {seconds:8.2f} s   val accuracy {(logits.argmax(1) == labels).mean():.4f}   log-loss {loss:.4f}")
    return seconds, loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--weights-dir", type=Path)
    parser.add_argument("--backbone", default="mobilenetv2_100.tf_in1k")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--features", help="FILE.npz with `features` and `labels`")
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--no-sklearn", action="store_true")
    args = parser.parse_args()
    embedding = 0.0
    if args.data:
        x, y, embedding = embedded(args.data, args.weights_dir, args.backbone, args.image_size)
    elif args.features:
        with np.load(args.features, allow_pickle=False) as file:
            x, y = file["features"].astype(np.float32), np.unique(file["labels"], return_inverse=True)[1]
    else:
        x, y = mixture(args.images, args.dim, args.classes)
    val, classes = held_out(y), int(y.max()) + 1
    print(f"{len(x)} x {x.shape[1]} features, {classes} classes, {val.sum()} of them for validation")

    started = time.perf_counter()
    head, rows = search_head(x[~val], y[~val], x[val], y[val], classes)
    found = time.perf_counter()
    refit(head, x, y, classes)
    done = time.perf_counter()
    ours = line(f"search: {head.kind} ({len(rows)} tried)", found - started, head.logits(x[val]), y[val])
    print(f"{'refit on all':34s} {done - found:8.2f} s")
    if embedding:
        part = (done - started) / embedding
        print(f"{'embedding the same images':34s} {embedding:8.2f} s: search and refit together cost {part:.1%} of it")
    for kind in dict.fromkeys(row.kind for row in rows):
        mine = [row for row in rows if row.kind == kind]
        best = min(mine, key=lambda row: row.val_log_loss)
        spent = sum(row.seconds for row in mine)
        print(f"    {kind:10s} {spent:6.2f} s  best log-loss {best.val_log_loss:.4f} at {best.strength:.3g}")
    if args.no_sklearn:
        return
    from sklearn.linear_model import LogisticRegressionCV

    centred = x - x[~val].mean(0)
    unit = centred / np.sqrt((centred[~val] ** 2).mean())
    strengths = 1 / ((~val).sum() * np.array([1, 0.316, 0.1, 0.0316]))
    started = time.perf_counter()
    model = LogisticRegressionCV(
        Cs=strengths, cv=3, scoring="neg_log_loss", l1_ratios=(0.0,), use_legacy_attributes=False, max_iter=200
    )
    model.fit(unit[~val], y[~val])
    logits = model.decision_function(unit[val])
    logits = np.stack([-logits / 2, logits / 2], 1) if logits.ndim == 1 else logits
    theirs = line("scikit-learn LogisticRegressionCV", time.perf_counter() - started, logits, y[val])
    print(f"seconds ratio {theirs[0] / ours[0]:.1f}, log-loss difference (ours - theirs) {ours[1] - theirs[1]:+.4f}")


if __name__ == "__main__":
    main()
