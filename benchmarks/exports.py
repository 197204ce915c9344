"""The answers of an exported file against those of its own framework: `python benchmarks/exports.py RUN DATA`.

One network is exported twice: by `timm.utils.onnx.onnx_export`, and by `headstart export`. timm's file leaves preprocessing to
the user, so it is fed as programs on the web do. For each way: how many images get a class other than that of the framework
itself (timm with its own evaluation transform; `headstart predict`), the mean difference in the probability of that class,
and, if the images are in class folders, the accuracy of both.

    as timm          Pillow, filter, crop, mean and std as in timm's configuration
    256, crop, 224   shorter side to 256 by bilinear, central crop of the input's side, mean and std of ImageNet
    squashed         the whole image to the square, mean and std of ImageNet
    no antialias     squashed, by bilinear interpolation between the four nearest pixels (OpenCV's default)
    0 to 1           as timm, without mean and std

RUN is a run of one backbone with `--pooling last`; needs `pip install '.[export,train]'`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
from PIL import Image
from timm.utils.onnx import onnx_export

import headstart
from headstart.data.open_dataset import open_dataset
from headstart.evaluation.probabilities import softmax

IMAGENET = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def main() -> None:
    """Parse the command line and print a row per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=300)
    options = parser.parse_args()
    dataset = open_dataset(options.data)
    rows = np.random.default_rng(0).permutation(np.flatnonzero(dataset.labels >= 0))[: options.images]
    files, labels_N = [dataset.file(int(row)) for row in rows], dataset.labels[rows]
    print(f"{len(files):,} images of {options.data.name}; another class, difference in probability, accuracy")
    with tempfile.TemporaryDirectory() as folder:
        of_timm(options.run, files, labels_N, Path(folder))
        of_headstart(options.run, files, labels_N, Path(folder))


def of_timm(run: Path, files: Sequence[Path], labels_N: np.ndarray, folder: Path) -> None:
    """Compare timm's export, fed in each of the ways, with timm."""
    model = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    config = timm.data.resolve_data_config({}, model=model)
    transform = timm.data.create_transform(**config)
    onnx_export(model, str(folder / "timm.onnx"), batch_size=1, input_size=tuple(config["input_size"]))
    session = onnxruntime.InferenceSession(str(folder / "timm.onnx"))
    side = config["input_size"][-1]

    def answer(prepare: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
        batches = [np.ascontiguousarray(prepare(opened(file))[None], np.float32) for file in files]
        return softmax(np.concatenate([session.run(None, {session.get_inputs()[0].name: x})[0] for x in batches]))

    with torch.inference_mode():
        logits_NK = torch.cat([model(transform(opened(file))[None]) for file in files]).numpy()
    std_311, mean_311 = (np.array(config[name], np.float32).reshape(3, 1, 1) for name in ("std", "mean"))
    ways: dict[str, Callable[[Image.Image], np.ndarray]] = {
        "as timm": lambda image: transform(image).numpy(),
        "256, crop, 224": lambda image: scaled(cropped(image, side), *IMAGENET),
        "squashed": lambda image: scaled(np.asarray(image.resize((side, side))), *IMAGENET),
        "no antialias": lambda image: scaled(without_antialias(np.asarray(image), side), *IMAGENET),
        "0 to 1": lambda image: transform(image).numpy() * std_311 + mean_311,
    }
    for name, prepare in ways.items():
        show(f"timm, {name}", softmax(logits_NK), answer(prepare), labels_N)


def of_headstart(run: Path, files: Sequence[Path], labels_N: np.ndarray, folder: Path) -> None:
    """Compare our export, fed with decoded images, with `headstart predict`."""
    command = [sys.executable, "-m", "headstart", "export", str(run), "--to", "onnx", "--out", str(folder / "export")]
    subprocess.run(command, check=True, capture_output=True)
    expected_NK = headstart.predict(run, *files).predictions.probabilities
    session = onnxruntime.InferenceSession(str(folder / "export" / "image.onnx"))
    answers = [session.run(["probabilities"], {"image": np.asarray(opened(file))})[0] for file in files]
    show("headstart, image.onnx", expected_NK, np.concatenate(answers), labels_N)


def opened(file: Path) -> Image.Image:
    """Return an image in RGB."""
    return Image.open(file).convert("RGB")


def cropped(image: Image.Image, side: int) -> np.ndarray:
    """Return the centre of an image whose shorter side is 256 pixels."""
    scale = 256 / min(image.size)
    resized = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (resized.width - side) // 2, (resized.height - side) // 2
    return np.asarray(resized.crop((left, top, left + side, top + side)))


def without_antialias(image_HWC: np.ndarray, side: int) -> np.ndarray:
    """Return an image resized to a square from the four nearest pixels, as OpenCV does by default."""
    tensor = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(tensor, (side, side), mode="bilinear", align_corners=False)
    return resized[0].permute(1, 2, 0).round().numpy()


def scaled(image_HWC: np.ndarray, mean_3: np.ndarray, std_3: np.ndarray) -> np.ndarray:
    """Return a network's input (3, H, W)."""
    return ((image_HWC / np.float32(255) - mean_3) / std_3).transpose(2, 0, 1)


def show(name: str, expected_NK: np.ndarray, found_NK: np.ndarray, labels_N: np.ndarray) -> None:
    """Print a row."""
    best_N, rows = expected_NK.argmax(1), np.arange(len(labels_N))
    flips, away = (found_NK.argmax(1) != best_N).mean(), np.abs(found_NK - expected_NK)[rows, best_N].mean()
    right = [(each.argmax(1) == labels_N).mean() for each in (expected_NK, found_NK)]
    print(f"{name:24s} {flips:7.2%}  {away:.4f}  {right[0]:.3f} -> {right[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
