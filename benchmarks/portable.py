"""What the portable pixels of an export cost: `python benchmarks/portable.py distance RUN DATA` and `speed EXPORT DATA`.

distance    The run's own networks, on the same engine, see each image twice: as `predict` reads it (a JPEG decoded at a
            fraction of its size, reduced in two steps) and as an export does (decoded in full size, one step). Only
            images with a shorter side of at least --larger-than times the input are used. Printed: how much the pixels
            differ, how many images change class, accuracy and log-loss on the images that the run was not trained on,
            with the paired 95% interval of the difference, the effect of refitting the temperature on the validation
            set, and the milliseconds to read one image on one core.
speed       Twelve images of one size (500 x 375, or --size), decoded in advance: resized by Pillow and run by model.onnx,
            against image.onnx, which resizes inside. Milliseconds per image on one core in onnxruntime, in turn, medians
            of the rounds. The second line includes decoding, which both need.

Figures: LOG.md.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.open_dataset import open_dataset
from headstart.evaluation.calibration import fit_temperature
from headstart.evaluation.paired_tests import differences
from headstart.evaluation.probabilities import softmax
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.portable_images import portable_pixels, read_portable
from headstart.images.image_refs import ImageRef
from headstart.images.preprocess import Preprocess, read_pixels
from headstart.images.validate import cores
from headstart.model.inference.classifier import Classifier
from headstart.model.inference.engines import open_network
from headstart.model.inference.runtime import Session
from headstart.runs.run_folder import RunFolder

ReadImage = Callable[[ImageRef, Preprocess], np.ndarray]
PATHS: dict[str, ReadImage] = {"predict": read_pixels, "portable": read_portable}


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("distance", "speed"))
    parser.add_argument("folder", type=Path, metavar="RUN|EXPORT")
    parser.add_argument("data", type=Path)
    parser.add_argument("--larger-than", type=float, default=2.0, metavar="TIMES")
    parser.add_argument("--size", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if options.what == "distance":
        distance(RunFolder(options.folder), options.data, options.larger_than)
    else:
        speed(options.folder, options.data, tuple(options.size), options.rounds)


# How much the two paths differ


def distance(run: RunFolder, data: Path, times: float) -> None:
    """Print how much the answers differ."""
    classifier = run.classifier
    dataset = open_dataset(data)
    sides = {row.path: row.split for row in run.split}
    least = times * max(member.extractor.spec.image_size for member in classifier.members)
    rows = [i for i in range(len(dataset)) if _is_large_jpeg(dataset.file(i), least)]
    files = [dataset.file(i) for i in rows]
    labels = np.array([classifier.classes.index(dataset.label_name(i)) for i in rows])
    split = np.array([sides.get(dataset.paths[i], "") for i in rows])
    print(f"{classifier.summary()}; {len(files):,} JPEGs with a shorter side of {least:.0f} or more: {_counts(split)}")
    _print_pixels(files[:: max(1, len(files) // 200)], classifier.members[0].extractor.spec)
    measured = {name: _measured(classifier, files, read) for name, read in PATHS.items()}
    _print_flips(measured, labels, split)
    _print_losses(measured, labels, split, run.provenance.seed)


def _is_large_jpeg(file: Path, least: float) -> bool:
    if file.suffix.lower() not in (".jpg", ".jpeg"):
        return False
    with Image.open(file) as image:
        return min(image.size) >= least


def _counts(split: np.ndarray) -> str:
    return ", ".join(f"{int((split == name).sum()):,} {name or 'new'}" for name in sorted(set(split)))


def _print_pixels(files: Sequence[Path], spec: Preprocess) -> None:
    gaps = [np.abs(read_pixels(f, spec).astype(int) - read_portable(f, spec)) for f in files]
    means, most = [gap.mean() for gap in gaps], max(int(gap.max()) for gap in gaps)
    print(f"pixels     mean difference {np.mean(means):.2f} of 255 levels, at most {most} ({len(files)} images)")
    for name, read in PATHS.items():
        start = time.process_time()
        for file in files:
            read(file, spec)
        print(f"reading    {name:<9} {1e3 * (time.process_time() - start) / len(files):.2f} ms of one core per image")


def _measured(classifier: Classifier, files: Sequence[Path], read: ReadImage) -> np.ndarray:
    """Return logits (N, K)."""
    features = []
    for member in classifier.members:
        extractor = member.extractor
        network = open_network(extractor.backbone, extractor.spec, classifier.runtime)
        columns = sum(network.block_sizes if extractor.pooling == "stages" else network.block_sizes[:1])
        features.append(_features(network.session(), files, extractor.spec, read)[:, :columns])
    return classifier.logits(features)


def _features(session: Session, files: Sequence[Path], spec: Preprocess, read: ReadImage) -> np.ndarray:
    batch, rows = len(session.pixels), []
    with ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(files), batch):
            block = list(pool.map(lambda file: read(file, spec), files[start : start + batch]))
            session.pixels[: len(block)] = block
            rows.append(session.run()[: len(block)].copy())
    return np.concatenate(rows)


def _print_flips(measured: Mapping[str, np.ndarray], labels: np.ndarray, split: np.ndarray) -> None:
    fast, portable = (logits_NK.argmax(axis=1) for logits_NK in measured.values())
    flips = fast != portable
    unseen = ~np.isin(split, ("train", "val"))
    only_fast, only_portable = (int((flips & unseen & (found == labels)).sum()) for found in (fast, portable))
    print(f"flips      {flips.sum()} of {len(flips):,} ({flips.mean():.2%})")
    print(
        f"           {flips[unseen].sum()} of {unseen.sum():,} not trained on: {only_fast} right by predict only,",
        end=" ",
    )
    print(f"{only_portable} by the portable path only")


def _print_losses(measured: Mapping[str, np.ndarray], labels: np.ndarray, split: np.ndarray, seed: int) -> None:
    unseen, val = np.flatnonzero(~np.isin(split, ("train", "val"))), split == "val"
    fast, portable = measured.values()
    best = {name: fit_temperature(logits_NK[val], labels[val]) for name, logits_NK in measured.items()}
    temperature = best["portable"] / best["predict"]  # a ratio, because the last layer has seen these images
    three = {"predict": fast, "portable": portable, "refitted": portable / temperature}
    right = np.stack([logits[unseen].argmax(axis=1) == labels[unseen] for logits in three.values()], axis=1)
    chances = [softmax(logits[unseen])[np.arange(len(unseen)), labels[unseen]] for logits in three.values()]
    losses = -np.log(np.maximum(np.stack(chances, axis=1), 1e-12))
    print("accuracy   " + ", ".join(f"{n} {x:.4f}" for n, x in zip(three, right.mean(axis=0), strict=True)))
    print("log-loss   " + ", ".join(f"{n} {x:.4f}" for n, x in zip(three, losses.mean(axis=0), strict=True)))
    print(f"refit      temperature {temperature:.3f} times what it was, by {val.sum()} validation images")
    for found in differences(list(three), right, losses, seed=seed):
        print(f"{found.metric:<10} {found.a} - {found.b}: {found.value:+.4f} [{found.low:+.4f}, {found.high:+.4f}]")


# What resizing inside the graph costs


def speed(export: Path, data: Path, size: tuple[int, int], rounds: int) -> None:
    """Print milliseconds per image of both ways."""
    import json

    import onnxruntime

    described = json.loads((export / "preprocess.json").read_text(encoding="utf-8"))["inputs"]
    contracts = {name: PixelContract.from_dict(each["contract"]) for name, each in described.items()}
    one_core = onnxruntime.SessionOptions()
    one_core.intra_op_num_threads = 1
    network, whole = (
        onnxruntime.InferenceSession(str(export / name), one_core, providers=["CPUExecutionProvider"])
        for name in ("model.onnx", "image.onnx")
    )
    files = _encoded(data, size)
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data in files]
    arrays = [np.asarray(image) for image in images]

    def by_pillow(i: int) -> None:
        network.run(["probabilities"], {name: portable_pixels(images[i], c)[None] for name, c in contracts.items()})

    steps = {
        "decode": lambda i: Image.open(io.BytesIO(files[i])).convert("RGB").load(),
        "Pillow + model.onnx": by_pillow,
        "image.onnx": lambda i: whole.run(["probabilities"], {"image": arrays[i]}),
        "model.onnx": lambda i: network.run(
            ["probabilities"],
            {name: np.zeros((1, c.image_size, c.image_size, 3), np.uint8) for name, c in contracts.items()},
        ),
    }
    took: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.process_time()
            for i in range(len(files)):
                step(i)
            if turn:
                took[name].append(1e3 * (time.process_time() - start) / len(files))
    middle = {name: statistics.median(each) for name, each in took.items()}
    print(f"{size[0]} x {size[1]}: " + ", ".join(f"{name} {ms:.2f} ms" for name, ms in middle.items()))
    apart = [a / b for a, b in zip(took["image.onnx"], took["Pillow + model.onnx"], strict=True)]
    both = (middle["decode"] + middle["image.onnx"]) / (middle["decode"] + middle["Pillow + model.onnx"])
    print(f"image.onnx takes {statistics.median(apart):.2f} times as long; with decoding {both:.2f} times")


def _encoded(data: Path, size: tuple[int, int]) -> list[bytes]:
    """Return twelve images as JPEGs of one size."""
    dataset, files = open_dataset(data), []
    for i in range(0, len(dataset), max(1, len(dataset) // 12))[:12]:
        file = io.BytesIO()
        Image.open(dataset.file(i)).convert("RGB").resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=92)
        files.append(file.getvalue())
    return files


if __name__ == "__main__":
    main()
