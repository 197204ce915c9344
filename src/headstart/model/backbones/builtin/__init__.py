"""The backbone that comes with the package, for machines on which there are no other weights: the last resort.

Half of a MobileNetV2 in width, 1.5 MB, trained by this project on drawn images and crops of a few photographs
(embedded/README.md in the repository says how, on what, under which terms, and at what cost). It is quick and weak: a
classifier on it is better than one trained from scratch on a few thousand images, and worse than one on a whole
network with ImageNet weights. `measured` says how good it is; nothing prefers it to other weights.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

NAME, FEATURES = "mobilenetv2_050.headstart", 1280
WEIGHTS = Path(__file__).parent / f"{NAME}.safetensors"
SPEC = WEIGHTS.with_suffix(".json")
SHOWN = {"intel-scenes": "photographs of six scenes", "cats-dogs": "cats and dogs"}
"""What the images of the data sets are on which it was measured."""


@cache
def measured() -> dict[str, dict[str, Any]]:
    """{data set: test accuracy of a linear head on it with default settings: value, low, high, n, method}."""
    found: dict[str, dict[str, Any]] = json.loads(SPEC.read_text(encoding="utf-8"))["measured"]
    return found


def accuracies() -> str:
    """The same in words."""
    texts = [
        f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}] on {e['n']:,} {SHOWN.get(name, name)}"
        for name, e in measured().items()
    ]
    return " and ".join(texts)
