"""Turn a training's result into the package's files: `python embedded/pack.py WORK FOLDER [--measured NAME=RUN ...]`.

Reads WORK/backbone.safetensors (float32) and how many images it has seen from WORK/snapshot.pt; writes
FOLDER/mobilenetv2_050.headstart.safetensors, weights and biases in float16, and the JSON beside it. Says by how much float16
moves the features of some drawn images, and writes nothing if that is more than 2 %. Takes some seconds.

--measured says how good it is: RUN is the folder that `headstart train NAME --approach linear` wrote with these weights, so
pack once without it, train, and pack again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from distil import BATCH, TEACHERS
from safetensors.torch import load_file, save
from student import ARCHITECTURE
from training_images import PHOTOGRAPHS, drawn

from headstart.errors import BadWeights, HeadstartError, MissingWeights, RecipeError
from headstart.io.files import json_bytes, read_json, write_together

NAME = f"{ARCHITECTURE}.headstart"
SIDE = 224
"""Side of the images it expects. It is trained at 128 px; see "The size it is used at" in README.md."""
MODEL_ARGS = {"pad_type": "same"}
ORIGIN = (
    f"trained by headstart (embedded/README.md in its repository): distilled from {' and '.join(TEACHERS)} on rendered"
    f" images and crops of {len(PHOTOGRAPHS)} photographs"
)
MOST_MOVED = 0.02


def pack(work: Path, folder: Path, measured: Mapping[str, Any]) -> float:
    """Write both files; by what part of their length float16 moved features. Raises `MissingWeights`, `BadWeights`."""
    for name in ("backbone.safetensors", "snapshot.pt"):
        if not (work / name).is_file():
            raise MissingWeights(f"{work}: has no {name}.", hint="Give the --work folder of embedded/distil.py.")
    tensors = load_file(work / "backbone.safetensors")
    steps = torch.load(work / "snapshot.pt", weights_only=True, mmap=True)["steps"]
    packed = halved(tensors)
    part = moved(tensors, packed)
    if not part <= MOST_MOVED:
        raise BadWeights(
            f"{work / 'backbone.safetensors'}: float16 moves its features by {part:.2%}, expected {MOST_MOVED:.0%} or less.",
            hint="Look for weights that float16 cannot hold: larger than 65,504, or not finite.",
        )
    config = config_of(steps * BATCH, measured)
    weights = folder / f"{NAME}.safetensors"
    write_together({weights: save(packed), weights.with_suffix(".json"): json_bytes(config)})
    for path in (weights, weights.with_suffix(".json")):
        path.chmod(0o644)  # whatever this user's umask is: it goes into a wheel
    return part


def halved(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights and biases in float16; the norms' statistics, which all are 0 or almost 1, as they are."""
    return {
        key: value.half() if key.endswith((".weight", ".bias")) else value.contiguous()
        for key, value in tensors.items()
    }


def moved(tensors: Mapping[str, torch.Tensor], packed: Mapping[str, torch.Tensor], images: int = 24) -> float:
    """The length of the difference between the features of drawn images, as a part of the features' own length."""
    pixels_NSS3 = np.stack([np.asarray(image) for image in drawn(images, 0, side=SIDE)])
    x = torch.from_numpy(pixels_NSS3).permute(0, 3, 1, 2).float() / 127.5 - 1
    found = [features(weights, x) for weights in (tensors, packed)]
    return float((found[1] - found[0]).norm() / found[0].norm())


@torch.no_grad()
def features(tensors: Mapping[str, torch.Tensor], x_N3SS: torch.Tensor) -> torch.Tensor:
    """What timm's network with those weights makes of images in -1 to 1: (N, 1280)."""
    network = timm.create_model(ARCHITECTURE, num_classes=0, **MODEL_ARGS).eval()
    network.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in tensors.items()}
    )
    found: torch.Tensor = network(x_N3SS)
    return found


def config_of(images: int, measured: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON, as of a weights folder; `trained` and `measured` are ours."""
    half = [0.5, 0.5, 0.5]
    cfg: dict[str, Any] = {"input_size": [3, SIDE, SIDE], "mean": half, "std": half, "interpolation": "bicubic"}
    cfg |= {"crop_pct": 0.875, "license": "apache-2.0", "origin": ORIGIN}
    return {
        "architecture": ARCHITECTURE,
        "model_args": MODEL_ARGS,
        "num_classes": 0,
        "pretrained_cfg": cfg,
        "trained": {"images": images, "teachers": list(TEACHERS)},
        "measured": dict(measured),
    }


def accuracies(given: Sequence[str]) -> dict[str, Any]:
    """{NAME: test accuracy, with its interval, of the run} from NAME=RUN. Raises `RecipeError`."""
    found = {}
    for text in given:
        name, _, run = text.partition("=")
        metrics = Path(run) / "metrics.json"
        if not name or not run or not metrics.is_file():
            raise RecipeError(
                f"--measured is {text!r}, expected NAME=RUN, a run folder.", hint="Such as cats-dogs=runs/cats-dogs."
            )
        found[name] = read_json(metrics)["test"]["overall"]["accuracy"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the --work folder of embedded/distil.py")
    parser.add_argument("folder", type=Path, help="src/headstart/model/backbones/builtin, or any weights folder")
    parser.add_argument("--measured", action="append", default=[], metavar="NAME=RUN", help="once for each data set")
    given = parser.parse_args()
    try:
        part = pack(given.work, given.folder, accuracies(given.measured))
    except HeadstartError as error:
        sys.exit(str(error))
    size = (given.folder / f"{NAME}.safetensors").stat().st_size
    print(f"{NAME}: {size:,} bytes; float16 moves the features of drawn images by {part:.3%} of their length")


if __name__ == "__main__":
    main()
