"""One peer of benchmarks/peers.py: Keras, as in the walk-through `mobilenetv2-dense32`.

MobileNetV2 without its top, frozen, 160 x 160; global average pool, Dense(32, relu), Dense(1); RMSprop 1e-4, batches of
32, best checkpoint by validation accuracy (a fifth of the training images), reloaded for the test folder. The input is a
`tf.data` pipeline as in TensorFlow's performance guide: parallel map, decoded images kept in memory, prefetch.
The frozen network itself runs in each epoch, as in the walk-through. Everything else is Keras' default.

Needs keras, tensorflow and safetensors; no torch. Keeps all decoded images in memory, 0.3 MB each at 160 px.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file

TIMM_EPS, KERAS_EPS = 1e-5, 1e-3
STAGES = (1, 2, 3, 4, 3, 3, 1)
BATCH_SIZE, LEARNING_RATE, VAL_PART = 32, 1e-4, 0.2


def timm_names() -> dict[str, tuple[str, str]]:
    """Name of each convolution in Keras' MobileNetV2 -> timm's names for it and for its batch norm."""
    names = {"Conv1": ("conv_stem", "bn1"), "Conv_1": ("conv_head", "bn2")}
    blocks = [f"blocks.{stage}.{i}" for stage, n in enumerate(STAGES) for i in range(n)]
    for number, block in enumerate(blocks):
        keras_block = f"block_{number}" if number else "expanded_conv"
        parts = ("expand", "depthwise", "project") if number else ("depthwise", "project")
        timm_parts = ("conv_pw", "conv_dw", "conv_pwl") if number else ("conv_dw", "conv_pw")
        for i, (part, timm_part) in enumerate(zip(parts, timm_parts, strict=True), 1):
            names[f"{keras_block}_{part}"] = (f"{block}.{timm_part}", f"{block}.bn{i}")
    return names


def load_timm_weights(model: keras.Model, file: Path) -> None:
    """Put timm's tensors into Keras's MobileNetV2.

    Kernels (O, I, H, W) become (H, W, I, O), depthwise ones (O, 1, H, W) become (H, W, O, 1). timm's batch norms add 1e-5
    to the variance and Keras's 1e-3: gamma is scaled so that both give the same output.
    """
    tensors = load_file(file)
    for name, (conv, norm) in timm_names().items():
        axes = (2, 3, 0, 1) if name.endswith("depthwise") else (2, 3, 1, 0)
        model.get_layer(name).set_weights([tensors.pop(f"{conv}.weight").astype(np.float32).transpose(axes)])
        gamma, beta, mean, var = (
            tensors.pop(f"{norm}.{part}").astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        layer = model.get_layer({"Conv1": "bn_Conv1", "Conv_1": "Conv_1_bn"}.get(name, f"{name}_BN"))
        assert layer.epsilon == KERAS_EPS, layer.epsilon
        layer.set_weights([gamma * np.sqrt((var + KERAS_EPS) / (var + TIMM_EPS)), beta, mean, var])
    left = [name for name in tensors if not name.endswith("num_batches_tracked")]
    assert not left, f"not used: {left}"


def frozen_base(size: int, weights: Path) -> keras.Model:
    """MobileNetV2 without its top, (B, size, size, 3) in -1..1 -> (B, size / 32, size / 32, 1280)."""
    base = keras.applications.MobileNetV2(input_shape=(size, size, 3), include_top=False, weights=None, alpha=1.0)
    load_timm_weights(base, weights)
    base.trainable = False
    return base


def with_head(base: keras.Model) -> keras.Model:
    """The recipe's network, compiled; its output is the logit of the second class."""
    inputs = keras.Input(base.input_shape[1:])
    pooled = keras.layers.GlobalAveragePooling2D()(base(inputs, training=False))
    outputs = keras.layers.Dense(1)(keras.layers.Dense(32, activation="relu")(pooled))
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.RMSprop(LEARNING_RATE),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.0)],
    )
    return model


def labelled(folder: Path) -> list[tuple[str, float]]:
    """(file, 0.0 or 1.0) for all images in a folder of two class folders."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir())
    if len(classes) != 2:
        raise SystemExit(f"{folder}: {len(classes)} classes; this recipe has one output unit, for two.")
    return [(str(file), float(k)) for k, name in enumerate(classes) for file in sorted(name.iterdir())]


def batches(items: list[tuple[str, float]], size: int, *, shuffle: bool) -> tf.data.Dataset:
    """Batches of float32 (B, size, size, 3) in -1..1 and labels (B, 1), decoded once."""

    def read(file: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        image = tf.io.decode_image(tf.io.read_file(file), channels=3, expand_animations=False)
        return keras.applications.mobilenet_v2.preprocess_input(tf.image.resize(image, (size, size))), label

    files, labels = [file for file, _ in items], np.array([[label] for _, label in items], np.float32)
    read_once = tf.data.Dataset.from_tensor_slices((files, labels)).map(read, tf.data.AUTOTUNE).cache()
    ordered = read_once.shuffle(len(items)) if shuffle else read_once
    return ordered.batch(BATCH_SIZE).prefetch(tf.data.AUTOTUNE)


def train(data: Path, weights: Path, size: int, epochs: int, seed: int) -> dict[str, float]:
    """Return the accuracy on the test folder, and the seconds of each part."""
    begun = time.perf_counter()
    keras.utils.set_random_seed(seed)
    items = labelled(data / "train")
    random.Random(seed).shuffle(items)
    n_val = round(VAL_PART * len(items))
    val, rest = batches(items[:n_val], size, shuffle=False), batches(items[n_val:], size, shuffle=True)
    model = with_head(frozen_base(size, weights))
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best_model.keras"
        keep = keras.callbacks.ModelCheckpoint(best, monitor="val_accuracy", save_best_only=True)
        model.fit(rest, validation_data=val, epochs=epochs, callbacks=[keep], verbose=2)
        model = keras.models.load_model(best)
    trained = time.perf_counter()
    test = labelled(data / "test")
    accuracy = model.evaluate(batches(test, size, shuffle=False), verbose=0, return_dict=True)["accuracy"]
    done = time.perf_counter()
    return {"accuracy": accuracy, "images": len(test), "train_s": trained - begun, "test_s": done - trained}


def features(pixels_HWC: np.ndarray, weights: Path) -> list[float]:
    """Pooled features (1280) of one image in -1..1."""
    base = frozen_base(len(pixels_HWC), weights)
    return np.asarray(base(pixels_HWC[None], training=False), np.float64).mean((0, 1, 2)).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and test/")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", type=Path, help="instead: features of one image, float32 (S, S, 3) in a .npy file")
    args = parser.parse_args()
    if args.check:
        print(json.dumps(features(np.load(args.check), args.weights)))
    else:
        print(json.dumps(train(args.data, args.weights, args.image_size, args.epochs, args.seed)))


if __name__ == "__main__":
    main()
