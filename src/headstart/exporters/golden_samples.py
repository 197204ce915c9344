"""Golden samples: images, and the result that an export must have after each step, to the byte where that is possible.

    samples/NAME.jpg                the file
    samples/NAME.decoded.png        its upright RGB pixels, in full size
    samples/NAME.pixels.png         what the network sees (one file per input)
    samples/expected.json           SHA-256 of these pixels, logits, probabilities, the prediction set, and tolerances

So anyone who runs the export elsewhere can see which step goes wrong. `verify_export` is the program that checks this; it
comes with the export as verify.py. A dozen samples take 0.5 s and 2 MB.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.evaluation.conformal import prediction_sets
from headstart.exporters import verify_causes, verify_export, verify_files, verify_steps
from headstart.exporters.pixel_contract import PixelContract
from headstart.exporters.portable_images import portable_pixels
from headstart.images.image_refs import read_image
from headstart.io.files import json_bytes, png_bytes, sha256_bytes

TOLERANCES = {
    "decoded": {"max": 2, "mean": 0.1},
    "resized": {"max": 2, "mean": 0.02},
    "logits": {"max": 1e-3},
    "probabilities": {"max": 1e-4},
}
"""How much may differ: pixels in levels of 255 (JPEG decoders round differently; filter weights differ in precision)."""

VERIFY_PARTS = (verify_files, verify_steps, verify_causes, verify_export)
_FUTURE = "from __future__ import annotations\n"
_OWN_IMPORT = re.compile(r"^from headstart\.\S+ import (?:\([^)]*\)|[^\n]*)\n", re.MULTILINE)

_NONE = np.zeros((2, 0, 0))
RunNetwork = Callable[[Mapping[str, np.ndarray]], tuple[np.ndarray, np.ndarray]]
"""From uint8 pixels (N, S, S, 3) by input name to logits and probabilities, (N, K) each."""


def sample_files(
    images: Mapping[str, bytes],
    contracts: Mapping[str, PixelContract],
    run: RunNetwork,
    *,
    classes: Sequence[str],
    conformal_threshold: float,
) -> dict[str, bytes]:
    """Return the folder of samples as {relative path: bytes}, from image files by name (`golden_images`).

    Raises `UnreadableImage`.
    """
    files: dict[str, bytes] = {}
    stages, pixels = [], []
    for name, data in images.items():
        image = read_image(data, ranges=next(iter(contracts.values())).ranges)
        pixels.append({key: portable_pixels(image, contract) for key, contract in contracts.items()})
        saved = _png_files(name.rpartition(".")[0], image, pixels[-1])
        files |= {name: data, **{file: png_bytes(Image.fromarray(array)) for file, array in saved.items()}}
        decoded, *resized = ({"file": file, "sha256": sha256_bytes(array.tobytes())} for file, array in saved.items())
        stages.append({"decoded": decoded, "resized": dict(zip(contracts, resized, strict=True))})
    logits, probabilities = (
        run({key: np.stack([each[key] for each in pixels]) for key in contracts}) if pixels else _NONE
    )
    answers = [_answer(*each, classes, conformal_threshold) for each in zip(logits, probabilities, strict=True)]
    samples = [
        {"file": name, "sha256": sha256_bytes(images[name]), **steps, **answer}
        for name, steps, answer in zip(images, stages, answers, strict=True)
    ]
    expected = {
        "format": 1,
        "classes": list(classes),
        "conformal_threshold": conformal_threshold,
        "tolerances": TOLERANCES,
        "samples": samples,
    }
    return {f"samples/{name}": data for name, data in {**files, "expected.json": json_bytes(expected)}.items()}


def _png_files(stem: str, image: Image.Image, pixels: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the pixels after each step, by file name: first the decoded ones, then one file per input of the network."""
    return {f"{stem}.decoded.png": np.asarray(image), **{f"{stem}.{key}.png": array for key, array in pixels.items()}}


def _answer(
    logits_K: np.ndarray, probabilities_K: np.ndarray, classes: Sequence[str], threshold: float
) -> dict[str, Any]:
    chosen_K = prediction_sets(probabilities_K[None], threshold)[0]
    return {
        "logits": [float(x) for x in logits_K],
        "probabilities": [float(x) for x in probabilities_K],
        "class": classes[int(np.argmax(probabilities_K))],
        "set": [name for name, chosen in zip(classes, chosen_K, strict=True) if chosen],
    }


def verify_script() -> bytes:
    """Return verify.py, the program that checks an export: its modules, one after another."""
    parts = [Path(str(module.__file__)).read_text(encoding="utf-8") for module in VERIFY_PARTS]
    about = parts[-1].split('"""')[1]
    bodies = [_OWN_IMPORT.sub("", part.replace(_FUTURE, "")) for part in parts]
    bodies[-1] = bodies[-1].replace(f'"""{about}"""', "")
    return f'"""{about}"""\n\n{_FUTURE}\n'.encode() + "\n\n".join(body.strip("\n") for body in bodies).encode() + b"\n"
