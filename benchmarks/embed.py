"""How fast images become features, and in how much memory: `python benchmarks/embed.py IMAGES --weights-dir DIR`.

Rates, measured in one process and in turn, so that changes of the machine's speed affect all alike (the medians of the
rounds are printed):

    decode     reading, hashing and decoding every image into the input square, nothing else
    model      the network on images already in memory, same threads and batches
    pipeline   both, as in `headstart.embed`
    bound      1 / (1 / decode + 1 / model): the rate of doing the two one after the other
    read       the part of `decode` before the resize: reading, hashing, decoding
    validate   `headstart.images.validate` on files that it has not seen before
    new files  1 / (1 / validate + 1 / pipeline): validated, then embedded for the first time, network already compiled
    once       the same without `read`: about the best possible rate if the two shared the decoding

and the resident memory of the pipeline at 1,000 and at 50,000 images (links to the same files; nothing is cached), each
in a separate process: the peak of anonymous memory minus the features themselves. Figures are in LOG.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from headstart.data.open_dataset import open_dataset
from headstart.images.image_refs import Images, read_image
from headstart.images.preprocess import Preprocess, read_pixels
from headstart.images.validate import cores, validate_images
from headstart.io.files import sha256_file
from headstart.model.backbones.registry import find_backbone
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import choose_runtime, open_network
from headstart.model.inference.features import WORKERS_PER_CORE, FeatureExtractor, embed_images
from headstart.model.inference.runtime import Network


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenetv2_100.tf_in1k")
    parser.add_argument("--image-size", type=int, default=160)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=3, help="how often each image is taken, so that starting up fades")
    parser.add_argument("--memory", type=int, nargs="*", default=[1_000, 50_000], metavar="N")
    parser.add_argument("--one-memory-run", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    dataset = open_dataset(options.images)
    files = [dataset.file(i) for i in range(len(dataset))]
    backbone = find_backbone(options.backbone, WeightsSource(folder=options.weights_dir))
    view = FeatureExtractor(backbone, replace(backbone.preprocess, image_size=options.image_size))
    if options.one_memory_run:
        print(extra_memory(files, view, options.precision, options.one_memory_run))
        return
    rates(files * options.times, view, options.precision, options.rounds)
    for n in options.memory:
        command = [sys.executable, *sys.argv, "--one-memory-run", str(n)]
        megabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        print(f"{n:>7,} images: {megabytes} MB of anonymous memory at the peak, beyond the features")


def rates(files: list[Path], view: FeatureExtractor, precision: str, rounds: int) -> None:
    """Print decode, model and pipeline rates (images per second) and the ratio of the pipeline to the serial bound."""
    runtime = choose_runtime("cpu", precision)
    network = open_network(view.backbone, view.spec, runtime)
    sha256s = [sha256_file(f) for f in files]
    images = Images.recorded(files, sha256s)
    steps: dict[str, Callable[[], None]] = {
        "read": lambda: read_all(files, sha256s, view.spec),
        "decode": lambda: decode_all(files, sha256s, view.spec, runtime.batch),
        "model": lambda: run_model(network, len(files), runtime.batch),
        "pipeline": lambda: embed_images(images, [view], runtime, keep=False) and None,
        "validate": lambda: validate_anew(files[: len(set(files))]),
    }
    for step in steps.values():
        step()
    measured: dict[str, list[float]] = {name: [] for name in steps}
    ratios = []
    for _ in range(rounds):
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            done = len(set(files)) if name == "validate" else len(files)
            measured[name].append(done / (time.perf_counter() - begun))
        _, decode, model, pipeline, _ = (measured[name][-1] for name in steps)
        ratios.append(pipeline / (1 / (1 / decode + 1 / model)))
    print(f"{view}, {runtime}, {len(files):,} images, {cores()} cores, {rounds} rounds")
    for name, values in measured.items():
        print(f"  {name:<9}{statistics.median(values):>7.0f} images/s   ({min(values):.0f} to {max(values):.0f})")
    read, decode, model, pipeline, validate = (statistics.median(measured[name]) for name in steps)
    new = 1 / validate + 1 / pipeline
    print(f"  {'bound':<9}{1 / (1 / decode + 1 / model):>7.0f} images/s")
    print(f"  {'new files':<9}{1 / new:>7.0f} images/s")
    print(f"  {'once':<9}{1 / (new - 1 / read):>7.0f} images/s   ({new / (new - 1 / read):.2f} of new files)")
    print(f"  pipeline / bound, round by round: median {statistics.median(ratios):.2f}", end="")
    print(f"   ({min(ratios):.2f} to {max(ratios):.2f})")


def validate_anew(files: list[Path]) -> None:
    """Validate every file with a cache that has none of them."""
    usual = os.environ.get("HEADSTART_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HEADSTART_CACHE"] = folder
        validate_images(files)
    os.environ.pop("HEADSTART_CACHE")
    if usual is not None:
        os.environ["HEADSTART_CACHE"] = usual


def read_all(files: list[Path], sha256s: list[str], spec: Preprocess) -> None:
    """Decode every image at the scale that its input needs, with as many threads as the pipeline has."""
    places = iter(range(len(files)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                i = next(places, None)
            if i is None:
                return
            read_image(files[i], sha256=sha256s[i], at_least=spec.at_least())

    in_threads(work)


def decode_all(files: list[Path], sha256s: list[str], spec: Preprocess, batch: int) -> None:
    """Decode every image with as many threads as the pipeline has."""
    import numpy as np

    places = iter(range(len(files)))
    lock = threading.Lock()

    def work() -> None:
        buffer = np.empty((batch, spec.image_size, spec.image_size, 3), np.uint8)
        while True:
            with lock:
                i = next(places, None)
            if i is None:
                return
            buffer[i % batch] = read_pixels(files[i], spec, sha256=sha256s[i])

    in_threads(work)


def run_model(network: Network, images: int, batch: int) -> None:
    """Run the network on as many images, with as many threads as the pipeline has."""
    places = iter(range(0, images, batch))
    lock = threading.Lock()

    def work() -> None:
        session = network.session()
        while True:
            with lock:
                if next(places, None) is None:
                    return
            session.run()

    in_threads(work)


def in_threads(work: Callable[[], None]) -> None:
    """Run `work` in as many threads as the pipeline has, and wait for them."""
    threads = [threading.Thread(target=work) for _ in range(WORKERS_PER_CORE * cores())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def extra_memory(files: list[Path], view: FeatureExtractor, precision: str, n: int) -> int:
    """Megabytes of anonymous memory at the peak of embedding `n` images, minus the features."""
    runtime = choose_runtime("cpu", precision)
    sha256 = {f: sha256_file(f) for f in files}
    many = [files[i % len(files)] for i in range(n)]
    open_network(view.backbone, view.spec, runtime)
    peak = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            status = Path(f"/proc/{os.getpid()}/status").read_text()
            peak[0] = max(peak[0], int(status.split("RssAnon:")[1].split()[0]) // 1024)

    watcher = threading.Thread(target=watch)
    watcher.start()
    (values_ND,), _ = embed_images(Images.recorded(many, [sha256[f] for f in many]), [view], runtime, keep=False)
    done.set()
    watcher.join()
    return peak[0] - values_ND.nbytes // 2**20


if __name__ == "__main__":
    main()
