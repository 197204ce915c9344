"""One peer of benchmarks/peers.py: a plain loop with timm and torch, put together as in timm's documentation.

The backbone is frozen; a linear layer is trained with Adam 1e-3 for a few epochs on all training images, in batches of
32; timm's own evaluation transform, a DataLoader with one worker process per core. The frozen network runs in each epoch.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

INPUT = ("input_size", "mean", "std", "interpolation", "crop_pct")
BATCH_SIZE, LEARNING_RATE = 32, 1e-3


def network(weights: Path, n_classes: int) -> nn.Module:
    """timm's model with a new classifier, frozen; the JSON file beside the weights says what to build."""
    about = json.loads(weights.with_suffix(".json").read_text())
    overlay = {key: about["pretrained_cfg"][key] for key in INPUT} | {"file": str(weights), "num_classes": 0}
    options = {"num_classes": n_classes, "pretrained_cfg_overlay": overlay, **about["model_args"]}
    model = timm.create_model(about["architecture"], pretrained=True, **options)
    return model.requires_grad_(False).eval()


def loader(folder: Path, model: nn.Module, size: int, *, shuffle: bool) -> DataLoader:
    """Batches of images (B, 3, size, size), preprocessed as the weights expect, and labels (B,)."""
    transform = create_transform(**resolve_data_config({"input_size": (3, size, size)}, model=model))
    workers = os.cpu_count() or 1
    return DataLoader(ImageFolder(folder, transform), BATCH_SIZE, shuffle, num_workers=workers, persistent_workers=True)


def pooled(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of images (B, 3, H, W), without gradients."""
    with torch.no_grad():
        return model.forward_head(model.forward_features(inputs), pre_logits=True)


def train(data: Path, weights: Path, size: int, epochs: int, seed: int) -> dict[str, float]:
    """Return the accuracy on the test folder, and the seconds of each part."""
    begun = time.perf_counter()
    torch.manual_seed(seed)
    n_classes = sum(p.is_dir() for p in (data / "train").iterdir())
    model = network(weights, n_classes)
    last = model.get_classifier().requires_grad_(True)
    optimizer = torch.optim.Adam(last.parameters(), LEARNING_RATE)
    batches = loader(data / "train", model, size, shuffle=True)
    for _ in range(epochs):
        for inputs, labels in batches:
            loss = nn.functional.cross_entropy(last(pooled(model, inputs)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    trained = time.perf_counter()
    right = total = 0
    with torch.inference_mode():
        for inputs, labels in loader(data / "test", model, size, shuffle=False):
            right += int((last(pooled(model, inputs)).argmax(1) == labels).sum())
            total += len(labels)
    done = time.perf_counter()
    return {"accuracy": right / total, "images": total, "train_s": trained - begun, "test_s": done - trained}


def features(pixels_HWC: np.ndarray, weights: Path) -> list[float]:
    """Pooled features (D) of one image in -1..1."""
    model = network(weights, 2)
    return pooled(model, torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])[0].double().tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and test/")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=Path, help="instead: features of one image, float32 (S, S, 3) in a .npy file")
    args = parser.parse_args()
    if args.check:
        print(json.dumps(features(np.load(args.check), args.weights)))
    else:
        print(json.dumps(train(args.data, args.weights, args.image_size, args.epochs, args.seed)))


if __name__ == "__main__":
    main()
