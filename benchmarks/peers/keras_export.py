"""Keras' own export against Keras: `python benchmarks/peers/keras_export.py DATA --weights FILE.safetensors`.

The network of `keras_r2.py` is trained for some epochs on DATA/train and exported with `model.export(format="onnx")`. The
test images then go through Keras as it was trained (`tf.image.resize`: bilinear without antialiasing), and through the
exported file in onnxruntime, fed as programs do:

    same pixels      the arrays that Keras saw
    load_img         `keras.utils.load_img(file, target_size=...)`, as in Keras' documentation: the nearest pixel
    Pillow bilinear  `Image.resize` with its antialiasing, as in most Python services
    0 to 1           the same pixels scaled to 0..1 instead of -1..1

A row says how many images get a class other than Keras', the mean difference in the probability of Keras' class, and the
accuracy of both. Needs keras, tensorflow, tf2onnx, onnxruntime and safetensors.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np
import onnxruntime
from keras_r2 import batches, frozen_base, labelled, with_head
from PIL import Image

Prepare = Callable[[str], np.ndarray]


def main() -> None:
    """Parse the command line and print a row per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and test/, of two classes")
    parser.add_argument("--weights", type=Path, required=True, help="timm's mobilenetv2_100")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--images", type=int, default=300)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)
    model = with_head(frozen_base(args.image_size, args.weights))
    model.fit(batches(labelled(args.data / "train"), args.image_size, shuffle=True), epochs=args.epochs, verbose=0)
    compare(model, thinned(labelled(args.data / "test"), args.images), args.image_size)


def thinned(items: Sequence[tuple[str, float]], count: int) -> list[tuple[str, float]]:
    """Return up to `count` of the items, of both classes."""
    order = np.random.default_rng(0).permutation(len(items))[:count]
    return [items[i] for i in sorted(order)]


def compare(model: keras.Model, items: list[tuple[str, float]], side: int) -> None:
    """Print a row for each way to feed the exported file."""
    labels_N = np.array([label for _, label in items])
    expected_N = sigmoid(model.predict(batches(items, side, shuffle=False), verbose=0)[:, 0])
    seen = np.concatenate([pixels for pixels, _ in batches(items, side, shuffle=False)])
    by_file = dict(zip((file for file, _ in items), seen, strict=True))
    ways: dict[str, Prepare] = {
        "same pixels": lambda file: by_file[file],
        "load_img": lambda file: scaled(keras.utils.load_img(file, target_size=(side, side))),
        "Pillow bilinear": lambda file: scaled(
            Image.open(file).convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        ),
        "0 to 1": lambda file: (by_file[file] + 1) / 2,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "keras.onnx")
        model.export(path, format="onnx", verbose=False)
        session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    for way, prepare in ways.items():
        answers = [session.run(None, {name: prepare(file)[None].astype(np.float32)})[0][0, 0] for file, _ in items]
        show(f"Keras, {way}", expected_N, sigmoid(np.array(answers)), labels_N)


def scaled(image: Image.Image) -> np.ndarray:
    """Return an image as MobileNetV2 takes it in Keras, -1..1."""
    return np.asarray(keras.applications.mobilenet_v2.preprocess_input(np.asarray(image, np.float32)))


def sigmoid(logits_N: np.ndarray) -> np.ndarray:
    """Return the probability of the second class."""
    return 1 / (1 + np.exp(-logits_N.astype(np.float64)))


def show(name: str, expected_N: np.ndarray, found_N: np.ndarray, labels_N: np.ndarray) -> None:
    """Print a row, as `benchmarks/exports.py` does."""
    best_N = expected_N > 0.5
    flips, away = ((found_N > 0.5) != best_N).mean(), np.abs(found_N - expected_N).mean()
    right = [((each > 0.5) == (labels_N > 0.5)).mean() for each in (expected_N, found_N)]
    print(f"{name:24s} {flips:7.2%}  {away:.4f}  {right[0]:.3f} -> {right[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
