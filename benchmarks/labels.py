"""How many wrong labels are found: `python benchmarks/labels.py DATA... --weights-dir DIR`.

A share of the labels of the training set (of all images, if the data has no split) is replaced by other classes, drawn
uniformly; then the labels are ranked as in `headstart check --labels`, from features that are embedded once (or come from the
cache). For each seed:

    first      of the first SHARE of the ranking (or of the whole list, if that is shorter), the fraction that was replaced
    listed     how many labels are listed as suspected; precision and recall of that list
    suggested  of the replaced labels listed, the fraction for which the true class is suggested
    seconds    for the folds and the ranking, on the clock and of CPU time, without embedding

Without replaced labels (the line `as it is`), the list has what is odd in the data itself. Figures: docs/labels.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from headstart.evaluation.confident_learning import label_issues
from headstart.model.backbones.registry import Backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import choose_runtime
from headstart.model.inference.features import FeatureExtractor, embed_images, fitted_spec
from headstart.pipeline.choose_backbones import fitting_size
from headstart.pipeline.label_errors import backbones_for_labels, out_of_fold
from headstart.pipeline.scan import ScannedDataset, scan


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--backbones", default="auto", help="names joined by commas; auto: all that are there")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    names = args.backbones.split(",")
    backbones = [
        b for name in names for b in backbones_for_labels(name, WeightsSource(folder=args.weights_dir, offline=True))
    ]
    for data in args.data:
        looked = scan(data)
        for backbone in backbones:
            measure(looked, backbone, args.share, range(args.seeds))


def measure(looked: ScannedDataset, backbone: Backbone, share: float, seeds: range) -> None:
    """Print a line for the data as it is, and one for each seed."""
    train = looked.dataset.split == "train"
    known = np.flatnonzero((train if train.any() else True) & (looked.dataset.labels >= 0))
    sides = looked.images.sizes_N2.min(axis=1)
    view = FeatureExtractor(
        backbone, fitted_spec(backbone, fitting_size(backbone.preprocess.image_size, sides), "auto")
    )
    (values_ND,), _ = embed_images(looked.images.take(known), [view], choose_runtime())
    true_N, groups_N = looked.dataset.labels[known], looked.dataset.groups[known]
    print(f"{looked.dataset.root}: {len(known):,} images, {values_ND.shape[1]:,} features of {view}")
    line("as it is", values_ND, true_N, true_N, groups_N, share, seed=0)
    for seed in seeds:
        labels_N = replaced(true_N, share, seed)
        line(f"seed {seed}", values_ND, labels_N, true_N, groups_N, share, seed)


def replaced(labels_N: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the labels with a share of them replaced, each by one of the other classes."""
    rng, classes = np.random.default_rng(seed), int(labels_N.max()) + 1
    chosen = rng.choice(len(labels_N), round(share * len(labels_N)), replace=False)
    wrong_N = labels_N.copy()
    wrong_N[chosen] = (labels_N[chosen] + rng.integers(1, classes, len(chosen))) % classes
    return wrong_N


def line(
    name: str,
    values_ND: np.ndarray,
    labels_N: np.ndarray,
    true_N: np.ndarray,
    groups_N: np.ndarray,
    share: float,
    seed: int,
) -> None:
    """Rank the labels, and print a line with the result."""
    started, computed = time.perf_counter(), time.process_time()
    p_NK = out_of_fold([values_ND], labels_N, groups_N, int(true_N.max()) + 1, seed)
    found = label_issues(p_NK, labels_N)
    spent = f"{time.perf_counter() - started:.1f} s ({time.process_time() - computed:.1f} s of processor time)"
    planted_N = labels_N != true_N
    hits = planted_N[found.order]
    if not planted_N.any():
        print(f"  {name}: {len(found)} listed, {spent}")
        return
    first = hits[: round(share * len(labels_N))]
    right = (found.suggested == true_N[found.order])[hits].mean()
    print(
        f"  {name}: first {first.mean():.3f} of {len(first)}; listed {len(found)}, precision {hits.mean():.3f}, "
        f"recall {hits.sum() / planted_N.sum():.3f}; suggested right {right:.3f}; {spent}",
        flush=True,
    )


if __name__ == "__main__":
    main()
