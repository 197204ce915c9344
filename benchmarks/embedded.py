"""What the embedded backbone is worth: `python benchmarks/embedded.py DATA [DATA ...] --weights-dir DIR [--scratch]`.

Test accuracy of `headstart train DATA --approach linear` (all else default), with

    embedded   the backbone that comes with the package
    random     the same network with random weights
    NAME       --backbone, a full-size network, from DIR (mobilenetv2_100.tf_in1k unless given)

and, with --scratch, of `headstart train DATA --recipe scratch-cnn-fixed` (minutes). Then images/s of the networks alone,
as the pipeline runs them, the embedded one and --backbone at the same sizes, in turn: medians of the rounds, and of the
ratios within a round. Each training is a separate process; all share a cache that is empty at first. Figures are in
LOG.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from embed import run_model

from headstart.images.validate import cores
from headstart.io.files import write_bytes, write_text
from headstart.model.backbones import builtin
from headstart.model.backbones.registry import Backbone, find_backbone, last_resort, without_weights
from headstart.model.backbones.weights_source import WeightsSource
from headstart.model.inference.engines import choose_runtime, open_network

SIZES = (160, 224)
RANDOM = "mobilenetv2_050.random"


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenetv2_100.tf_in1k")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scratch", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HEADSTART_CACHE"] = str(folder / "cache")
        random = with_random_weights(folder / "weights")
        for data in options.data:
            print(f"{data.resolve().name}")
            for backbone, weights in (
                (builtin.NAME, folder / "none"),
                (random, folder / "weights"),
                (options.backbone, options.weights_dir),
            ):
                weights.mkdir(exist_ok=True)
                given = ["--approach", "linear", "--backbone", backbone, "--weights-dir", str(weights)]
                print(f"  {backbone:<28}{trained(data, folder, given)}", flush=True)
            if options.scratch:
                print(
                    f"  {'scratch-cnn-fixed':<28}{trained(data, folder, ['--recipe', 'scratch-cnn-fixed'])}", flush=True
                )
        rates(find_backbone(options.backbone, WeightsSource(folder=options.weights_dir, offline=True)), options.rounds)


def with_random_weights(folder: Path) -> str:
    """Put the embedded network with random weights into a weights folder; return its name there."""
    import torch
    from safetensors.torch import save

    from headstart.model.backbones.build import build

    torch.manual_seed(0)
    network = build(without_weights("mobilenetv2_050", pad_type="same"))
    folder.mkdir()
    write_bytes(folder / f"{RANDOM}.safetensors", save({k: v.contiguous() for k, v in network.state_dict().items()}))
    write_text(folder / f"{RANDOM}.json", builtin.SPEC.read_text(encoding="utf-8"))
    return RANDOM


def trained(data: Path, folder: Path, given: list[str]) -> str:
    """Train in a separate process; return test accuracy, with its interval, and seconds."""
    command = [sys.executable, "-m", "headstart", "train", str(data), "--out", str(folder / "run"), "--no-report"]
    begun = time.perf_counter()
    ended = subprocess.run([*command, "--offline", *given], capture_output=True, text=True)
    seconds = time.perf_counter() - begun
    if ended.returncode:
        sys.exit(ended.stderr)
    found = json.loads((folder / "run" / "metrics.json").read_text())["test"]["overall"]["accuracy"]
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]   {seconds:.0f} s"


def rates(other: Backbone, rounds: int, images: int = 1600) -> None:
    """Print images/s of both networks at each size, and the ratio round by round."""
    runtime = choose_runtime("cpu")
    for size in SIZES:
        networks = [open_network(b, replace(b.preprocess, image_size=size), runtime) for b in (last_resort(), other)]
        measured: list[list[float]] = [[], []]
        for number in range(rounds + 1):
            for network, values in zip(networks, measured, strict=True):
                begun = time.perf_counter()
                run_model(network, images, runtime.batch)
                if number:  # the first round warms up
                    values.append(images / (time.perf_counter() - begun))
        ratios = [a / b for a, b in zip(*measured, strict=True)]
        own, others = (statistics.median(values) for values in measured)
        print(
            f"{size} px, {runtime}, {cores()} cores, {rounds} rounds: embedded {own:.0f}, {other.name} {others:.0f} images/s;",
            end=" ",
        )
        print(f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
