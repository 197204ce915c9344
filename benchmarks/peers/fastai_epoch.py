"""One peer of benchmarks/peers.py: fastai's `vision_learner` on a timm backbone, one epoch with the backbone frozen.

It is what `learn.fine_tune` does first: `fit_one_cycle(1, slice(2e-3), pct_start=0.99)`, with fastai's own head, batches
of 64, a fifth of the training images for validation, `Resize` to a square, no augmentation, and the default workers (one
per core, at most 16). fastai's other defaults are kept too, even where they cost time: the norm layers of the frozen
backbone are trained.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Resize,
    accuracy,
    get_image_files,
    set_seed,
    vision_learner,
)

INPUT = ("input_size", "mean", "std", "interpolation", "crop_pct")
LEARNING_RATE, VAL_PART = 2e-3, 0.2


def learner(dls: ImageDataLoaders, weights: Path) -> Learner:
    """A frozen learner with these weights, normalised as they expect; the JSON file beside them says what to build."""
    about = json.loads(weights.with_suffix(".json").read_text())
    overlay = {key: about["pretrained_cfg"][key] for key in INPUT} | {"file": str(weights), "num_classes": 0}
    return vision_learner(
        dls, about["architecture"], metrics=accuracy, pretrained_cfg_overlay=overlay, **about["model_args"]
    )


def loaders(data: Path, size: int, seed: int) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(data / "train", valid_pct=VAL_PART, seed=seed, item_tfms=Resize(size))


def train(data: Path, weights: Path, size: int, epochs: int, seed: int) -> dict[str, float]:
    """Return the accuracy on the test folder, and the seconds of each part."""
    begun = time.perf_counter()
    set_seed(seed)
    dls = loaders(data, size, seed)
    learn = learner(dls, weights)
    with learn.no_bar():
        learn.fit_one_cycle(epochs, slice(LEARNING_RATE), pct_start=0.99)
        trained = time.perf_counter()
        test = dls.test_dl(get_image_files(data / "test"), with_labels=True)
        right = float(learn.validate(dl=test)[1])
    done = time.perf_counter()
    return {"accuracy": right, "images": len(test.dataset), "train_s": trained - begun, "test_s": done - trained}


def features(pixels_HWC: np.ndarray, weights: Path, data: Path) -> list[float]:
    """Pooled features (D) of one image in -1..1, by the learner's body."""
    learn = learner(loaders(data, len(pixels_HWC), 0), weights)
    body = learn.model[0].cpu().eval()
    with torch.no_grad():
        return body(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]).mean((0, 2, 3)).double().tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and test/")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=Path, help="instead: features of one image, float32 (S, S, 3) in a .npy file")
    args = parser.parse_args()
    if args.check:
        print(json.dumps(features(np.load(args.check), args.weights, args.data)))
    else:
        print(json.dumps(train(args.data, args.weights, args.image_size, args.epochs, args.seed)))


if __name__ == "__main__":
    main()
