"""Times of whole commands, as a user waits for them: `python benchmarks/processes.py DATA --weights-dir DIR`.

    help      `headstart --help`
    predict   `headstart predict RUN one.jpg` in a new process, and the same with timm alone (same weights, same image,
              printing the same class), in turn
    train     `headstart train --approach linear` with an empty cache, and again with the cache that it left

Prints the medians of the rounds, and of the ratios within a round, since the speed of machines changes. Figures are in LOG.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from headstart.data.open_dataset import open_dataset

WITH_TIMM_ALONE = """
import sys, timm, torch
from PIL import Image
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
with torch.inference_mode():
    chances = model(transform(Image.open(sys.argv[2]).convert("RGB"))[None]).softmax(-1)[0]
print(model.pretrained_cfg["label_names"][int(chances.argmax())], f"{float(chances.max()):.1%}")
"""


def main() -> None:
    """Parse the command line and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--backbone", default="mobilenetv2_100.tf_in1k", help="of the run that predict uses")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.data, options.weights_dir, options.backbone, options.rounds, Path(folder))


def measure(data: Path, weights_dir: Path, backbone: str, rounds: int, folder: Path) -> None:
    """Run and print everything, with caches in `folder`."""
    os.environ["HEADSTART_CACHE"] = str(folder / "cache")
    dataset = open_dataset(data)
    image, run = dataset.file(0), folder / "one"
    headstart = [sys.executable, "-m", "headstart"]
    train = [*headstart, "train", "--approach", "linear", str(data), "--weights-dir", str(weights_dir), "--out"]
    print(f"help     {statistics.median(timed([*headstart, '--help']) for _ in range(rounds)):.2f} s")

    cold = timed([*train, str(folder / "all")])
    warm = [timed([*train, str(folder / "all")]) for _ in range(min(rounds, 3))]
    print(f"train    empty cache {cold:.1f} s, warm cache {statistics.median(warm):.1f} s:", end=" ")
    print(f"{statistics.median(warm) / cold:.2f} of the first")

    timed([*train, str(run), "--backbone", backbone])
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(timed([*headstart, "predict", str(run), str(image)]))
        theirs.append(timed([sys.executable, "-c", WITH_TIMM_ALONE, str(run), str(image)]))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(f"predict  headstart {statistics.median(ours):.2f} s, timm alone {statistics.median(theirs):.2f} s:", end=" ")
    print(f"ratio {ratio:.2f}")


def timed(command: list[str]) -> float:
    """Return the seconds of a whole process; raises `CalledProcessError` if it fails."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
